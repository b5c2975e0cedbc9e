"""Fitting a stream batch by batch: the rows that are gone are kept as a quadratic.

After the batches 1 ... t the coefficients w_t minimise

    sum over batch t of s_i loss(w x_i, y_i)  +  1/2 (w - w_{t-1})' A_{t-1} (w - w_{t-1}),

with A_0 the penalty (identity / C) and A_t = A_{t-1} + the curvature of batch t at w_t: the diagonal blocks of its
Hessian, one for each class, or for many features its diagonal only. The first batch is thus fitted as `fit` does it,
and later ones move the coefficients less and less where much has been seen. A penalty that is changed on the way is
changed in A, and the minimum of the quadratic moves with it. This is the online Laplace approximation:
D. Spiegelhalter, S. Lauritzen, "Sequential updating of conditional probabilities on directed graphical structures",
Networks 20 (1990).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from xent._estimator.prediction import probabilities
from xent._fit.linear import Objective, RowSums, invert, row_blocks
from xent._fit.solvers import Metric, Vector
from xent._fit.subsample import add_blocks

Array = NDArray[Any]
Matrix = NDArray[np.float64]

MAX_BLOCK_ELEMENTS = 1 << 20    # ten classes of 300 features: beyond, a batch would take seconds


class Batch:
    """The function above for one batch, divided by the batch's weight.

    Parameters
    ----------
    X, target, n_classes, sample_weight, n_threads
        What `RowSums` takes.
    fit_intercept : bool
    centre : ndarray of shape (rows, features + 1), or None
        Where the quadratic has its minimum: the coefficients so far.
    curvature : ndarray of shape (rows, size, size) or (rows, size), or None
        A, the curvature of the quadratic. If None, it is the penalty's, and that of the rows that the coefficients were
        fitted to before the stream began, as if they had been like those of the batch.
    l2 : float
        Strength of the penalty on the sum over the rows.
    l2_before : float
        What it was for the coefficients so far.
    seen : float
        The weight of the rows before the stream began.
    """

    def __init__(
        self,
        X: Any,
        target: Array,
        n_classes: int,
        sample_weight: Vector,
        fit_intercept: bool,
        n_threads: int | None,
        *,
        centre: Matrix | None,
        curvature: Matrix | None,
        l2: float,
        l2_before: float,
        seen: float,
    ) -> None:
        self.X = X
        self.sample_weight = sample_weight
        self.fit_intercept = fit_intercept
        self.n_threads = n_threads
        self.sums = RowSums(X, target, n_classes, sample_weight, n_threads)
        self.mean = Objective.of(self.sums, 0.0, fit_intercept)
        self.centre = np.zeros(self.mean.shape) if centre is None else centre
        if curvature is None:
            self.past = _prior(self.mean.shape, l2_before)
            if seen > 0:
                self.past += seen / self.sums.weight * self._curvature(self.centre)
        else:
            self.past = curvature
        if l2 != l2_before:
            self._change_penalty(l2 - l2_before)

    def _change_penalty(self, change: float) -> None:
        """Add change / 2 |coefficients|^2 to the quadratic, whose minimum moves with it; intercepts have no penalty."""
        last = self.centre.shape[1] - 1
        pull = change * self.centre
        pull[:, -1] = 0
        past = self.past.copy()
        if past.ndim == 2:
            past[:, :-1] += change
            inverses = 1 / np.where(past > 0, past, 1)
        else:
            past[:, range(last), range(last)] += change
            inverses = past.copy()
            invert(inverses)
        self.past, self.centre = past, self.centre - _times(inverses, pull)

    def __call__(self, x: Vector) -> tuple[float, Vector]:
        loss, gradient = self.mean(x)
        offset = self.mean.matrix(x) - self.centre
        pull = _times(self.past, offset) / self.sums.weight
        return loss + 0.5 * float(np.vdot(offset, pull)), gradient + self.mean.vector(pull)

    def metric_at(self, x: Vector) -> Metric:
        """The inverse of the Hessian's diagonal blocks, or of its diagonal.

        A row of a class that was not expected has hardly any curvature, p (1 - p), and a gradient of nearly 1: a step
        of Newton's would go as far as 1 / p. (p - target)^2 is as large on average, and 1 where it matters.
        """
        hessian = self._curvature(self.mean.matrix(x), of_errors=True)
        hessian += self.past
        hessian /= self.sums.weight
        if hessian.ndim == 3:
            invert(hessian)
        else:
            np.divide(1, hessian, out=hessian, where=hessian > 0)
            hessian[~(hessian > 0)] = 1
        return lambda g: self.mean.vector(_times(hessian, self.mean.matrix(g)))

    def past_with_batch(self, x: Vector) -> Matrix:
        """The curvature of the quadratic that has the batch in it as well."""
        result = self._curvature(self.mean.matrix(x))
        result += self.past
        return result

    def _curvature(self, matrix: Matrix, of_errors: bool = False) -> Matrix:
        """That of the batch alone, of the shape of `past`; or the larger of it and the squared errors."""
        result = np.zeros(self.past.shape)
        for block in row_blocks(self.X, len(matrix)):
            X = self.X[block]
            p = probabilities(X, matrix[:, :-1], matrix[:, -1], log=False, n_threads=self.n_threads)[:, -len(matrix) :]
            spread = p * (1 - p)
            if of_errors:
                np.maximum(spread, np.square(p - self._target(block, p.shape[1], p.dtype)), out=spread)
            spread *= self.sample_weight[block, None].astype(p.dtype)
            if self.past.ndim == 2:
                squares = X * X if isinstance(X, np.ndarray) else X.multiply(X)
                result[:, :-1] += (squares.T @ spread).T
                result[:, -1] += self.fit_intercept * spread.sum(axis=0)
            else:
                rows = np.full((len(spread), matrix.shape[1]), float(self.fit_intercept), X.dtype)
                rows[:, :-1] = X if isinstance(X, np.ndarray) else X.toarray()
                add_blocks(result, rows, spread)
        return result

    def _target(self, block: slice, rows: int, dtype: Any) -> Array:
        target = self.sums.target[block]
        if target.ndim == 2:
            return target[:, -rows:]
        hot = np.zeros((len(target), self.sums.classes), dtype)
        hot[np.arange(len(target)), target] = 1
        return hot[:, -rows:]


def _prior(shape: tuple[int, int], l2: float) -> Matrix:
    """The penalty's curvature, in blocks if they are small enough to keep, else its diagonal."""
    rows, size = shape
    diagonal = np.full(size, l2)
    diagonal[-1] = 0
    if rows * size**2 > MAX_BLOCK_ELEMENTS:
        return np.tile(diagonal, (rows, 1))
    return np.tile(np.diag(diagonal), (rows, 1, 1))


def _times(blocks: Matrix, matrix: Matrix) -> Matrix:
    result: Matrix = blocks * matrix if blocks.ndim == 2 else np.matmul(blocks, matrix[:, :, None])[:, :, 0]
    return result
