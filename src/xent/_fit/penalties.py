"""Penalties on the coefficients. Only this file knows which penalties there are.

A matrix of coefficients has the intercepts in its last column; a penalty leaves them alone.

A penalty may have a kink where a coefficient is 0. Its gradient and curvature are those of its smooth part; solvers for
functions with kinks (see `xent._fit.kinks`) do the rest.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np

from xent._fit.types import Matrix, Vector


class Penalty(Protocol):
    """A function of the coefficients that is added to the mean loss."""

    @property
    def curvature(self) -> float:
        """The second derivative by each coefficient; there are no mixed ones."""

    @property
    def kink(self) -> float:
        """By how much the penalty exceeds its smooth part: kink |w| for each coefficient w."""

    @property
    def is_least_centred(self) -> bool:
        """Whether, among coefficients with the same probabilities, the penalty is least for those with mean 0 over the
        classes; its gradient has mean 0 there too."""

    def value(self, matrix: Matrix) -> float: ...

    def add_gradient(self, matrix: Matrix, gradient: Matrix) -> None:
        """gradient += the gradient of the penalty."""


class L2(NamedTuple):
    """strength / 2 |W|^2"""

    strength: float

    @property
    def curvature(self) -> float:
        return self.strength

    @property
    def kink(self) -> float:
        return 0.0

    @property
    def is_least_centred(self) -> bool:
        return True

    def value(self, matrix: Matrix) -> float:
        return 0.5 * self.strength * float(np.einsum("ij,ij->", matrix[:, :-1], matrix[:, :-1]))

    def add_gradient(self, matrix: Matrix, gradient: Matrix) -> None:
        gradient[:, :-1] += self.strength * matrix[:, :-1]


class ElasticNet(NamedTuple):
    """strength (l1_ratio |W|_1 + (1 - l1_ratio) / 2 |W|^2)"""

    strength: float
    l1_ratio: float

    @property
    def curvature(self) -> float:
        return self.strength * (1 - self.l1_ratio)

    @property
    def kink(self) -> float:
        return self.strength * self.l1_ratio

    @property
    def is_least_centred(self) -> bool:
        return False

    def value(self, matrix: Matrix) -> float:
        return L2(self.curvature).value(matrix) + self.kink * float(np.abs(matrix[:, :-1]).sum())

    def add_gradient(self, matrix: Matrix, gradient: Matrix) -> None:
        L2(self.curvature).add_gradient(matrix, gradient)


NO_PENALTY = L2(0.0)


def make_penalty(strength: float, l1_ratio: float) -> Penalty:
    """ElasticNet; L2 where it has no kink."""
    return ElasticNet(strength, l1_ratio) if strength > 0 and l1_ratio > 0 else L2(strength)


def least_shift(penalty: Penalty, coef: Matrix) -> Vector:
    """For each feature the number that, taken from the coefficients of all classes, makes the penalty least.

    That is the median of the coefficients and of where the slope of the quadratic part is that of the kinks of so many
    classes more on one side than on the other.
    """
    n_classes = len(coef)
    if not penalty.kink > 0:
        mean: Vector = np.add.reduce(coef, axis=0) / n_classes
        return mean
    result: Vector = np.zeros(coef.shape[1])
    dense = np.flatnonzero(np.count_nonzero(coef, axis=0) * (1 if penalty.curvature > 0 else 2) > n_classes)
    some = coef[:, dense]
    if penalty.curvature > 0:
        more = np.arange(-n_classes, n_classes + 1, 2) * (penalty.kink / (penalty.curvature * n_classes))
        some = np.vstack([some, np.add.reduce(some, axis=0) / n_classes + more[:, None]])
    ordered = np.sort(some, axis=0)
    low, high = ordered[(len(ordered) - 1) // 2], ordered[len(ordered) // 2]
    result[dense] = np.clip(0, low, high)
    return result


def expand_curvature(penalty: Penalty, n_columns: int) -> Vector:
    """The penalty's curvature for each column of a matrix of coefficients."""
    result = np.full(n_columns, penalty.curvature)
    result[-1] = 0
    return result
