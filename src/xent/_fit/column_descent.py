"""The quadratic model of a Newton step for rows in memory, minimised column by column of X.

The Hessian is never computed: each row knows what the step does to its logits (see `_core/descent.pxi`). A sweep costs
about as much as there are elements in the columns of the coefficients that may move, however many features there are.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from xent._calls.dispatch import kernels
from xent._fit.quadratics import Effort
from xent._fit.row_sums import RowSums
from xent._fit.types import Array, Matrix, Vector

SWEEPS = 2          # over the coefficients of a class, before those of the next class


class ColumnOperands(NamedTuple):
    """What `descend_columns` takes. Coordinates are sorted by class; all arrays are contiguous, float64 or int64 unless
    stated.

    Attributes
    ----------
    X : tuple of ndarray
        Elements, rows and column starts of a CSC matrix; or the columns of an array one after the other, None, None.
    n_features : int
    weight : ndarray of shape (n,)
        Of the rows, divided by their sum.
    p, rest : ndarray of shape (n_coef_rows, n)
        Probabilities, and those of the other classes together.
    class_starts : ndarray of shape (n_coef_rows + 1,)
        The first coordinate of each class, and their number.
    column : ndarray of shape (coordinates,)
        Of X; n_features: the intercept's.
    x, gradient, kinks, ridges, curvature : ndarray of shape (coordinates,)
        Ridges: curvature that is not that of the rows.
    logit_changes : ndarray of shape (n_coef_rows, n)
    mean_changes : ndarray of shape (n,)
        Their means under p.
    scratch : ndarray of shape (3, n)
    """

    X: tuple[Array, Any, Any]
    n_features: int
    weight: Vector
    p: Matrix
    rest: Matrix
    class_starts: NDArray[np.int64]
    column: NDArray[np.int64]
    x: Vector
    gradient: Vector
    kinks: Vector
    ridges: Vector
    curvature: Vector
    logit_changes: Matrix
    mean_changes: Vector
    scratch: Matrix


class ColumnQuadratic:
    """See `xent._fit.quadratics`.

    Parameters
    ----------
    sums : RowSums
    matrix : ndarray of shape (n_coef_rows, n_features + 1)
        Coefficients.
    places : tuple of ndarray of int
        Row and column of the matrix for each element of x.
    ridges : ndarray
        The penalty's curvature for each element of x.
    """

    def __init__(self, sums: RowSums, matrix: Matrix, places: tuple[Array, ...], ridges: Vector) -> None:
        probabilities = sums.probabilities(matrix)
        self.X = sums.columns()
        self.weight = sums.rows.row_weight / sums.weight
        self.p = np.ascontiguousarray(probabilities[:, -len(matrix) :].T, np.float64)
        self.rest = 1 - self.p if len(matrix) > 1 else np.ascontiguousarray(probabilities[:, :1].T, np.float64)
        self.n_features = sums.n_features
        self.order = np.lexsort(places[::-1])
        rows, self.column = (place[self.order].astype(np.int64) for place in places)
        self.class_starts = np.searchsorted(rows, np.arange(len(matrix) + 1)).astype(np.int64)
        variance = np.einsum("i,ki,ki->k", self.weight, self.p, self.rest)
        self.usual = variance[rows] * np.append(sums.mean_squares(), 1.0)[self.column]
        self.ridges = ridges[self.order]

    def minimise(self, x: Vector, gradient: Vector, kinks: Vector, damping: float, effort: Effort) -> Vector:
        order, n = self.order, len(self.weight)
        operands = ColumnOperands(
            self.X, self.n_features, self.weight, self.p, self.rest, self.class_starts, self.column, x[order],
            gradient[order], kinks[order], self.ridges + damping * self.usual, np.full(len(x), -1.0),
            np.zeros(self.p.shape), np.zeros(n), np.empty((3, n)),
        )  # fmt: skip
        for _ in range(0, effort.sweeps, SWEEPS):
            if kernels.descend_columns(operands, SWEEPS) <= effort.enough:
                break
        result = np.empty(len(x))
        result[order] = operands.x
        return result
