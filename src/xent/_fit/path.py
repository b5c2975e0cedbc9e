"""Fits of several folds at several strengths of the penalty, the strongest first.

A fold is a vector of weights, so no row is copied. A fit starts where the fit of the same fold with the next stronger
penalty ended.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from xent._fit.objective import Objective
from xent._fit.penalties import L2, Penalty
from xent._fit.row_sums import RowSums
from xent._fit.solver import Result, Settings
from xent._fit.strategy import minimise
from xent._fit.types import Matrix, Vector


class Problem(NamedTuple):
    """What the fits of all folds share.

    Attributes
    ----------
    make_sums : callable
        The sums over all rows, from a vector of their weights.
    weight : ndarray of shape (n,)
        The weights of all rows.
    strengths : tuple of float
        1 / C: strengths of the penalties on the sum over the rows.
    fit_intercept : bool
    solver : str
    """

    make_sums: Callable[[Vector], RowSums]
    weight: Vector
    strengths: tuple[float, ...]
    fit_intercept: bool
    solver: str

    def objective(self, sums: RowSums, strength: float) -> Objective:
        return Objective(sums, make_penalty(strength / sums.weight), self.fit_intercept)


class Path(NamedTuple):
    """The fits of one fold, in the order of the strengths."""

    coefficients: Matrix        # (n_strengths, n_coef_rows, n_features + 1)
    results: list[Result]


def make_penalty(strength: float) -> Penalty:
    return L2(strength)


def fit_path(problem: Problem, counts: Vector, settings: Settings) -> Path:
    """Fit one fold, whose rows count that often, with every penalty."""
    sums = problem.make_sums(problem.weight * counts)
    coefficients: Matrix = np.zeros((len(problem.strengths), sums.n_coef_rows, sums.n_features + 1))
    results: dict[int, Result] = {}
    matrix: Matrix = np.zeros(coefficients.shape[1:])
    for i in sorted(range(len(problem.strengths)), key=lambda i: -problem.strengths[i]):
        objective = problem.objective(sums, problem.strengths[i])
        results[i] = minimise(objective, objective.to_vector(matrix), settings, problem.solver)
        matrix = coefficients[i] = objective.to_matrix(results[i].x)
    return Path(coefficients, [results[i] for i in range(len(results))])
