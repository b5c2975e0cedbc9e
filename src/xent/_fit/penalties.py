"""Penalties on the coefficients. Only this file knows which penalties there are.

A matrix of coefficients has the intercepts in its last column; a penalty leaves them alone.

A penalty with a kink, such as L1, would return its value here, and the gradient and curvature of its smooth part; it
would need one more method, a proximal step, and a solver that takes such steps.
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
    def is_least_centred(self) -> bool:
        return True

    def value(self, matrix: Matrix) -> float:
        return 0.5 * self.strength * float(np.einsum("ij,ij->", matrix[:, :-1], matrix[:, :-1]))

    def add_gradient(self, matrix: Matrix, gradient: Matrix) -> None:
        gradient[:, :-1] += self.strength * matrix[:, :-1]


NO_PENALTY = L2(0.0)


def expand_curvature(penalty: Penalty, n_columns: int) -> Vector:
    """The penalty's curvature for each column of a matrix of coefficients."""
    result = np.full(n_columns, penalty.curvature)
    result[-1] = 0
    return result
