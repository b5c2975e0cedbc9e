"""Fitting a stream batch by batch: earlier batches are approximated by a quadratic.

After the batches 1 ... t the coefficients w_t minimise

    sum over batch t of s_i loss(w x_i, y_i)  +  1/2 (w - w_{t-1})' A_{t-1} (w - w_{t-1}),

with A_0 the penalty's curvature and A_t = A_{t-1} + the curvature of batch t at w_t: the diagonal blocks of its
Hessian, one for each class, or for many features its diagonal only. The first batch is thus fitted as by `fit`,
and later ones move the coefficients less where there were many rows before. If the penalty changes, A changes with it,
and the minimum of the quadratic moves. This is the online Laplace approximation:
D. Spiegelhalter, S. Lauritzen, "Sequential updating of conditional probabilities on directed graphical structures",
Networks 20 (1990).

Penalties here are on the sum over the rows, not on their mean.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from xent._fit.curvature import add_class_blocks, softmax_variance
from xent._fit.inverses import invert
from xent._fit.logits import compute_probabilities
from xent._fit.objective import Objective
from xent._fit.penalties import NO_PENALTY, Penalty, expand_curvature
from xent._fit.row_pass import Rows, cut_rows
from xent._fit.row_sums import RowSums
from xent._fit.solver import Operator
from xent._fit.types import Array, Matrix, Vector

MAX_BLOCK_ELEMENTS = 1 << 20    # ten classes of 300 features; with more a batch would take seconds


class Quadratic(NamedTuple):
    """1/2 (w - centre)' A (w - centre)

    Attributes
    ----------
    centre : ndarray of shape (n_coef_rows, n_columns)
    curvature : ndarray of shape (n_coef_rows, n_columns, n_columns) or (n_coef_rows, n_columns)
        A: a block for each class, or its diagonal.
    """

    centre: Matrix
    curvature: Matrix

    def with_more_penalty(self, change: float) -> Quadratic:
        """The sum with change / 2 |w|^2, which moves the minimum; intercepts are not penalised."""
        last = self.centre.shape[1] - 1
        pull = change * self.centre
        pull[:, -1] = 0
        curvature = self.curvature.copy()
        if curvature.ndim == 2:
            curvature[:, :-1] += change
            inverses = 1 / np.where(curvature > 0, curvature, 1)
        else:
            curvature[:, range(last), range(last)] += change
            inverses = curvature.copy()
            invert(inverses)
        return Quadratic(self.centre - _multiply(inverses, pull), curvature)


class BatchObjective:
    """The function above for one batch, divided by the batch's weight.

    Parameters
    ----------
    sums : RowSums
        Over the batch.
    fit_intercept : bool
    past : Quadratic
    """

    def __init__(self, sums: RowSums, fit_intercept: bool, past: Quadratic) -> None:
        self.sums = sums
        self.fit_intercept = fit_intercept
        self.past = past
        self.mean_loss = Objective(sums, NO_PENALTY, fit_intercept)

    def to_matrix(self, vector: Vector) -> Matrix:
        return self.mean_loss.to_matrix(vector)

    def to_vector(self, matrix: Matrix) -> Vector:
        return self.mean_loss.to_vector(matrix)

    def __call__(self, coefficients: Vector) -> tuple[float, Vector]:
        """The value and the gradient."""
        loss, gradient = self.mean_loss(coefficients)
        offset = self.to_matrix(coefficients) - self.past.centre
        pull = _multiply(self.past.curvature, offset) / self.sums.weight
        return loss + 0.5 * float(np.vdot(offset, pull)), gradient + self.to_vector(pull)

    def preconditioner_at(self, coefficients: Vector) -> Operator:
        """The inverse of the Hessian's diagonal blocks, or of its diagonal.

        A row of an unexpected class has a gradient of nearly 1, but a curvature p (1 - p) near 0: a Newton step would
        have length 1 / p. (p - target)^2 has the same expectation, and is nearly 1 for such rows.
        """
        hessian = self._batch_curvature(coefficients, of_errors=True)
        hessian += self.past.curvature
        hessian /= self.sums.weight
        if hessian.ndim == 3:
            invert(hessian)
        else:
            np.divide(1, hessian, out=hessian, where=hessian > 0)
            hessian[~(hessian > 0)] = 1
        return lambda gradient: self.to_vector(_multiply(hessian, self.to_matrix(gradient)))

    def curvature_with_batch(self, coefficients: Vector) -> Matrix:
        """The curvature of the quadratic that includes the batch."""
        result = self._batch_curvature(coefficients)
        result += self.past.curvature
        return result

    def _batch_curvature(self, coefficients: Vector, of_errors: bool = False) -> Matrix:
        shape = self.past.curvature.shape
        return compute_curvature(self.sums.rows, self.to_matrix(coefficients), self.fit_intercept, shape, of_errors)


def remember_past(
    sums: RowSums, fit_intercept: bool, *, coefficients: Matrix | None, curvature: Matrix | None,
    penalty: Penalty, penalty_before: Penalty, weight_before: float,
) -> Quadratic:  # fmt: skip
    """The quadratic for a batch.

    Parameters
    ----------
    sums : RowSums
        Over the batch.
    fit_intercept : bool
    coefficients : ndarray of shape (n_coef_rows, n_columns), or None
        Those so far, if there are any.
    curvature : ndarray or None
        A after the batches so far. If None, it is the penalty's, and that of the rows that the coefficients were fitted
        to before the stream began, as if they had been like those of the batch.
    penalty, penalty_before : Penalty
        Of this batch, and of the coefficients so far.
    weight_before : float
        The weight of the rows before the stream began.
    """
    shape = (sums.n_coef_rows, sums.n_features + 1)
    centre = np.zeros(shape) if coefficients is None else coefficients
    if curvature is None:
        curvature = _start_curvature(shape, penalty_before)
        if weight_before > 0:
            of_batch = compute_curvature(sums.rows, centre, fit_intercept, curvature.shape)
            curvature += weight_before / sums.weight * of_batch
    past = Quadratic(centre, curvature)
    change = penalty.curvature - penalty_before.curvature
    return past if change == 0 else past.with_more_penalty(change)


def compute_curvature(
    rows: Rows, matrix: Matrix, fit_intercept: bool, shape: tuple[int, ...], of_errors: bool = False
) -> Matrix:
    """The curvature of the loss of rows at coefficients, in the shape of a quadratic's.

    `of_errors`: with the squared errors (p - target)^2 in place of p (1 - p) where they are larger.
    """
    result = np.zeros(shape)
    for block in cut_rows(rows.X, len(matrix)):
        X = rows.X[block]
        p = compute_probabilities(X, matrix[:, :-1], matrix[:, -1], log=False, n_threads=rows.n_threads)
        p = p[:, -len(matrix) :]
        variance = softmax_variance(p)
        if of_errors:
            np.maximum(variance, np.square(p - _target_block(rows, block, p.shape[1], p.dtype)), out=variance)
        if rows.sample_weight is not None:
            variance *= rows.sample_weight[block, None].astype(p.dtype)
        if result.ndim == 2:
            squares = X * X if isinstance(X, np.ndarray) else X.multiply(X)
            result[:, :-1] += (squares.T @ variance).T
            result[:, -1] += fit_intercept * variance.sum(axis=0)
        else:
            with_ones = np.full((len(variance), matrix.shape[1]), float(fit_intercept), X.dtype)
            with_ones[:, :-1] = X if isinstance(X, np.ndarray) else X.toarray()
            add_class_blocks(result, with_ones, variance)
    return result


def _target_block(rows: Rows, block: slice, n_coef_rows: int, dtype: Any) -> Array:
    target = rows.target[block]
    if target.ndim == 2:
        return target[:, -n_coef_rows:]
    one_hot = np.zeros((len(target), rows.n_classes), dtype)
    one_hot[np.arange(len(target)), target] = 1
    return one_hot[:, -n_coef_rows:]


def _start_curvature(shape: tuple[int, int], penalty: Penalty) -> Matrix:
    """The penalty's curvature, in blocks if they are small enough to keep, else its diagonal."""
    n_coef_rows, n_columns = shape
    diagonal = expand_curvature(penalty, n_columns)
    if n_coef_rows * n_columns**2 > MAX_BLOCK_ELEMENTS:
        return np.tile(diagonal, (n_coef_rows, 1))
    return np.tile(np.diag(diagonal), (n_coef_rows, 1, 1))


def _multiply(curvature: Matrix, matrix: Matrix) -> Matrix:
    """The product of blocks, or of a diagonal, with a matrix of coefficients."""
    if curvature.ndim == 2:
        return curvature * matrix
    result: Matrix = np.matmul(curvature, matrix[:, :, None])[:, :, 0]
    return result
