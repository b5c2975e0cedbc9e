"""Fits of several folds at several strengths of the penalty, the strongest first.

A fold is a vector of weights, so no row is copied. Its fit starts from those with stronger penalties, and sees none of
the rows that the fold leaves out: from the coefficients of all rows a fit would need fewer steps, but with a lenient
tolerance it would stop before it had forgotten the rows that it is scored on.

With L2 penalties and not too many features, all folds take their steps of L-BFGS together (`fit_together`): one pass
over the rows for all of them, and one estimate of the curvature, of the mean of the folds, for their preconditioners.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import cached_property
from typing import NamedTuple

import numpy as np

from xent._fit import preconditioners
from xent._fit.blas_threads import limit_to_one_thread
from xent._fit.dual_ascent import Stronger
from xent._fit.fold_sums import FoldSums
from xent._fit.lbfgs import choose_memory, lbfgs_steps
from xent._fit.objective import Objective
from xent._fit.penalties import make_penalty
from xent._fit.row_sums import RowSums
from xent._fit.solver import Operator, Result, Settings
from xent._fit.strategy import go_on, minimise, patience
from xent._fit.types import Matrix, Vector

MAX_TOGETHER = 1 << 9       # rows of coefficients of the folds that are fitted together
MAX_MEMORY_ELEMENTS = 1 << 24       # of the steps that L-BFGS remembers for all of them, three vectors each
SINGLE_TOL = 1e-5           # of a gradient in float32, relative to that at zeros
SINGLE_NOISE = 2 * float(np.finfo(np.float32).eps)
ALONE = ("lbfgs", "newton-cg", "newton-cholesky")       # solvers that fit one fold after the other; with L1 all do
MEMORY = 30                 # steps that L-BFGS remembers
RENEWALS = frozenset([0, 4, *(24 << k for k in range(40))])     # iterations that begin with another preconditioner


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
    l1_ratio : float
    fit_intercept : bool
    solver : str
    """

    make_sums: Callable[[Vector], RowSums]
    weight: Vector
    strengths: tuple[float, ...]
    l1_ratio: float
    fit_intercept: bool
    solver: str

    def objective(self, sums: RowSums, strength: float) -> Objective:
        return Objective(sums, make_penalty(strength / sums.weight, self.l1_ratio), self.fit_intercept)

    @property
    def order(self) -> list[int]:
        """The places of the strengths, the strongest first."""
        return sorted(range(len(self.strengths)), key=lambda i: -self.strengths[i])


Count = Callable[[], Vector]


class Path(NamedTuple):
    """The fits of one fold, in the order of the strengths."""

    coefficients: Matrix        # (n_strengths, n_coef_rows, n_features + 1)
    results: list[Result]


def fit_paths(problem: Problem, counts: Sequence[Count], settings: Settings) -> list[Path]:
    """Fit folds with every penalty.

    Parameters
    ----------
    problem : Problem
    counts : sequence of callable
        Of each fold, one that returns how often each row is in it.
    settings : Settings
    """
    probe = problem.make_sums(problem.weight)
    shape = probe.n_coef_rows, probe.n_features + 1
    is_wide = preconditioners.choose_kind(shape) == preconditioners.DIAGONAL
    if problem.solver in ALONE or problem.l1_ratio > 0 or is_wide:
        return [fit_alone(problem, count(), settings) for count in counts]
    remembered = 3 * shape[0] * shape[1] * choose_memory(shape[0] * shape[1], MEMORY)
    size = max(1, min(MAX_TOGETHER // shape[0], MAX_MEMORY_ELEMENTS // remembered))
    groups = (counts[start : start + size] for start in range(0, len(counts), size))
    return [path for group in groups for path in fit_together(problem, [count() for count in group], settings)]


def fit_all(problem: Problem, strength: float, start: Matrix, settings: Settings) -> Path:
    """Fit all rows with one penalty."""
    objective = problem.objective(problem.make_sums(problem.weight), strength)
    result = minimise(objective, objective.to_vector(start), settings, problem.solver)
    return Path(objective.to_matrix(result.x)[None], [result])


def fit_alone(problem: Problem, counts: Vector, settings: Settings) -> Path:
    """Fit one fold with every penalty."""
    sums = problem.make_sums(problem.weight * counts)
    track = _Track(problem, sums, settings.tol)
    for i in problem.order:
        objective, start = track.next(i)
        track.keep(i, minimise(objective, start, settings, problem.solver, track.stronger(i)))
    return track.path()


def fit_together(problem: Problem, counts: Sequence[Vector], settings: Settings) -> list[Path]:
    """The same for several folds, step by step for all of them."""
    sums = FoldSums(problem.make_sums, problem.weight * np.stack(counts))
    tracks = [_Track(problem, of_fold, settings.tol) for of_fold in sums.folds]
    shared = _SharedCurvature(problem, problem.make_sums(problem.weight * np.mean(counts, axis=0)))
    first = settings._replace(max_iter=patience(tracks[0].shape, settings.max_iter))
    for i in problem.order:
        objectives, starts = zip(*(track.next(i) for track in tracks), strict=True)
        shared.begin(problem.strengths[i])
        group = _Group(objectives, sums, shared)
        points = [objective.centred(start) for objective, start in zip(objectives, starts, strict=True)]
        far = any(track.is_far(i) for track in tracks)
        with limit_to_one_thread() if sums.is_small or sums.folds[0].rows.csr is not None else nullcontext():
            results = group.solve(points, first, sums.gains_from_single and far)
        for track, objective, result in zip(tracks, objectives, results, strict=True):
            track.keep(i, go_on(objective, result, settings))
    return [track.path() for track in tracks]


class _Group(NamedTuple):
    """The fits of several folds with one penalty."""

    objectives: Sequence[Objective]
    sums: FoldSums
    shared: _SharedCurvature

    def solve(self, points: Sequence[Vector], settings: Settings, single: bool) -> list[Result]:
        """By L-BFGS; if `single`, in float32 as far as its digits allow, and then from there."""
        done = [0] * len(points)
        if single:
            # Errors of the gradient are of the size of its terms, hence of the gradient at the start of a path.
            error = SINGLE_TOL * self.shared.scale
            rough = max(settings.tol - error, error)
            near = self._run(points, settings._replace(tol=rough, noise=SINGLE_NOISE), done, single=True)
            points, done = [result.x for result in near], [result.iterations for result in near]
        results = self._run(points, settings, done)
        return [result._replace(iterations=result.iterations + n) for result, n in zip(results, done, strict=True)]

    def _run(
        self, points: Sequence[Vector], settings: Settings, done: Sequence[int], single: bool = False
    ) -> list[Result]:
        """Run a solver for each fold side by side: what they ask for is computed in one pass."""
        steps = [
            lbfgs_steps(
                point, settings._replace(max_iter=max(0, settings.max_iter - n)), renewals=RENEWALS,
                preconditioner_at=self.shared.of_fold(), memory=choose_memory(point.size, MEMORY),
            )
            for point, n in zip(points, done, strict=True)
        ]  # fmt: skip
        results: dict[int, Result] = {}
        asked = {i: next(of_fold) for i, of_fold in enumerate(steps)}
        while asked:
            matrices = [self.objectives[i].to_matrix(point) for i, point in asked.items()]
            found = self.sums.loss_gradients(list(asked), matrices, single)
            for i, of_fold in zip(list(asked), found, strict=True):
                try:
                    asked[i] = steps[i].send(self.objectives[i].complete(asked[i], *of_fold))
                except StopIteration as stop:
                    results[i] = stop.value
                    del asked[i]
        return [results[i] for i in range(len(steps))]


class _Track:
    """The fits of one fold so far."""

    def __init__(self, problem: Problem, sums: RowSums, tol: float) -> None:
        self.problem = problem
        self.sums = sums
        self.tol = tol
        self.shape = sums.n_coef_rows, sums.n_features + 1
        self.coefficients: Matrix = np.zeros((len(problem.strengths), *self.shape))
        self.results: dict[int, Result] = {}
        self.done: list[int] = []       # places of the strengths

    def next(self, i: int) -> tuple[Objective, Vector]:
        """The objective with the strength at place i, and where its fit starts."""
        objective = self.problem.objective(self.sums, self.problem.strengths[i])
        start = self._start(i) if self.done else self.coefficients[i]
        return objective, objective.to_vector(start)

    def stronger(self, i: int) -> Stronger | None:
        """The last minimum that a fit has looked for, unless the coefficients there will do at place i as well."""
        moved = [j for j in self.done if self.results[j].iterations > 0]
        if not moved or not self.is_far(i):
            return None
        last = moved[-1]
        strength = self.problem.strengths[last] / self.sums.weight
        return Stronger(self.coefficients[last], strength, self.results[last].loss)

    def keep(self, i: int, result: Result) -> None:
        self.results[i] = result
        self.coefficients[i] = result.x.reshape(self.shape, order=self.sums.order)
        self.done.append(i)

    def path(self) -> Path:
        return Path(self.coefficients, [self.results[i] for i in range(len(self.results))])

    def _start(self, i: int) -> Matrix:
        """The last coefficients; where the new penalty matters, extrapolated along the logarithm of its strength.

        By the mean of the line through the last two and the parabola through the last three: half of the bend makes up
        for most of it, and for less of what the tolerance leaves open.
        """
        last: Matrix = self.coefficients[self.done[-1]]
        strengths = [self.problem.strengths[j] for j in (i, *self.done[:-4:-1])]    # the last three, latest first
        if len(strengths) < 3 or not self.is_far(i) or not 0 < strengths[0] < strengths[1] < strengths[2]:
            return last
        place, *places = (-math.log(strength) for strength in strengths)
        ahead = min(place - places[0], places[0] - places[1])
        before: Matrix = self.coefficients[self.done[-2]]
        slope = (last - before) / (places[0] - places[1])
        result: Matrix = last + ahead * slope
        if len(places) == 3 and places[2] < places[1]:
            bend = slope - (before - self.coefficients[self.done[-3]]) / (places[1] - places[2])
            result += 0.5 * ahead * (ahead + places[0] - places[1]) / (places[0] - places[2]) * bend
        return result

    def is_far(self, i: int) -> bool:
        """Whether the gradient at the last coefficients changes by more than the tolerance with the penalty."""
        if not self.done:
            return True
        change = abs(self.problem.strengths[self.done[-1]] - self.problem.strengths[i]) / self.sums.weight
        return change * float(np.abs(self.coefficients[self.done[-1], :, :-1]).max(initial=0.0)) > self.tol


class _SharedCurvature:
    """The curvature of the mean of the folds, for the preconditioners of all of them.

    An estimate is made when a fold first asks for another one; the others get the same. At the beginning of the fits
    with another penalty the last one serves.
    """

    def __init__(self, problem: Problem, sums: RowSums) -> None:
        self.problem = problem
        self.sums = sums
        self.curvature: preconditioners.Curvature | None = None
        self.made: list[Operator] = []      # preconditioners for the present penalty

    def begin(self, strength: float) -> None:
        """Begin the fits with another penalty."""
        self.objective = self.problem.objective(self.sums, strength)
        self.made = []

    @cached_property
    def scale(self) -> float:
        """The largest element of the gradient at zeros."""
        return float(np.abs(self.sums.loss_gradient(np.zeros(self.objective.shape))[1]).max()) / self.sums.weight

    def of_fold(self) -> Callable[[Vector], Operator]:
        """`preconditioner_at` of one fold."""
        asked = max(0, len(self.made) - 1)      # the newest

        def preconditioner_at(x: Vector) -> Operator:
            nonlocal asked
            if asked == len(self.made):
                self.made.append(self._make(x, asked > 0))
            asked += 1
            return self.made[asked - 1]

        return preconditioner_at

    def _make(self, x: Vector, fresh: bool) -> Operator:
        objective = self.objective
        if fresh or self.curvature is None:
            self.curvature = None       # frees the old one before the new one is made
            self.curvature = objective.curvature_at(x)
        return objective.preconditioner(self.curvature)
