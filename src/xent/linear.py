"""The objective of a linear classifier, over row blocks: logits of a block, loss and gradient in their place, product
of that gradient with the block. No array of all the logits ever exists.

    f(W, b) = sum_i s_i loss(W x_i + b, y_i) / sum_i s_i + l2/2 |W|^2

Coefficients are one matrix of shape (rows, features + 1), the intercept in the last column (0 if there is none), as a
flat float64 vector. Two classes need one row: the logit of the second class, that of the first being 0.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xent.losses import binary_cross_entropy_with_logits, cross_entropy
from xent.primitives import softmax
from xent.solvers import Metric, Vector

Array = NDArray[Any]

BLOCK_ELEMENTS = 1 << 18    # of X and the logits: a block of both stays near the processor
MAX_METRIC_ELEMENTS = 1 << 23
MIN_METRIC_ROWS = 2000


def row_blocks(X: Array, rows_of_coefficients: int) -> Iterator[slice]:
    rows = max(64, BLOCK_ELEMENTS // (X.shape[1] + rows_of_coefficients))
    return (slice(start, start + rows) for start in range(0, X.shape[0], rows))


def logits(X: Array, coef: Array, intercept: Array) -> Array:
    """X @ coef.T + intercept, in the type of X."""
    result: Array = X @ coef.T.astype(X.dtype, copy=False)
    result += intercept.astype(X.dtype, copy=False)
    return result


class Objective:
    """The function to minimise.

    Parameters
    ----------
    X : ndarray of shape (n, features), float32 or float64
    target : ndarray of shape (n,), int64
        Class indices.
    n_classes : int
    sample_weight : ndarray of shape (n,), float64
    l2 : float
        Strength of the penalty on the mean objective; 0 for none.
    fit_intercept : bool
    n_threads : int or None
    """

    def __init__(
        self,
        X: Array,
        target: NDArray[np.int64],
        n_classes: int,
        sample_weight: Vector,
        l2: float,
        fit_intercept: bool,
        n_threads: int | None,
    ) -> None:
        self.X = X
        self.target = target
        self.rows = 1 if n_classes == 2 else n_classes
        self.sample_weight = sample_weight
        self.total_weight = float(sample_weight.sum())
        self.l2 = l2
        self.fit_intercept = fit_intercept
        self.n_threads = n_threads
        self.shape: tuple[int, int] = (self.rows, X.shape[1] + 1)

    def __call__(self, coefficients: Vector) -> tuple[float, Vector]:
        matrix = coefficients.reshape(self.shape)
        coef = matrix[:, :-1].astype(self.X.dtype)
        intercept = matrix[:, -1]
        gradient = np.zeros(self.shape)
        total = 0.0
        for block in row_blocks(self.X, self.rows):
            X = self.X[block]
            slopes = logits(X, coef, intercept)
            total += self._loss(slopes, block)
            gradient[:, :-1] += slopes.T @ X
            if self.fit_intercept:
                gradient[:, -1] += slopes.sum(axis=0, dtype=np.float64)
        gradient /= self.total_weight
        gradient[:, :-1] += self.l2 * matrix[:, :-1]
        penalty = 0.5 * self.l2 * float(np.vdot(matrix[:, :-1], matrix[:, :-1]))
        return total / self.total_weight + penalty, gradient.ravel()

    def _loss(self, block_logits: Array, block: slice) -> float:
        """The loss of a block of rows; its gradient takes the place of the logits."""
        if self.rows == 1:
            loss, _ = binary_cross_entropy_with_logits(
                block_logits[:, 0],
                self.target[block],
                sample_weight=self.sample_weight[block],
                reduction="sum",
                grad_out=block_logits[:, 0],
                n_threads=self.n_threads,
            )
        else:
            loss, _ = cross_entropy(
                block_logits,
                self.target[block],
                sample_weight=self.sample_weight[block],
                reduction="sum",
                grad_out=block_logits,
                n_threads=self.n_threads,
            )
        return float(loss)

    def centred(self, coefficients: Vector) -> Vector:
        """Coefficients with mean 0 over the classes.

        The loss does not see a shift of all classes, and the penalty is least there. Gradients have mean 0 as well, so
        that a minimiser that starts with centred coefficients keeps them so.
        """
        if self.rows == 1:
            return coefficients
        matrix = coefficients.reshape(self.shape)
        result: Vector = (matrix - matrix.mean(axis=0)).ravel()
        return result

    def metric_at(self, coefficients: Vector) -> Metric:
        """The inverse of the diagonal blocks of the Hessian, one for each class, among centred coefficients.

        Block of class k: sum_i s_i p_ik (1 - p_ik) x_i x_i' / sum_i s_i + l2 I. A sample of the rows is enough: it
        shapes the steps, not the answer.
        """
        size = self.shape[1]
        matrix = coefficients.reshape(self.shape)
        stride = max(1, self.X.shape[0] // max(MIN_METRIC_ROWS, 4 * size))
        blocks = self.rows if matrix.any() else 1       # at zero all classes have the same
        hessian = np.zeros((blocks, size, size))
        total = 0.0
        sample, sample_weight = self.X[::stride], self.sample_weight[::stride]
        for block in row_blocks(sample, size + self.rows):
            weight = sample_weight[block]
            X = np.ones((len(weight), size), sample.dtype)
            X[:, :-1] = sample[block]
            total += float(weight.sum())
            scores = logits(X[:, :-1], matrix[:, :-1], matrix[:, -1])
            p = softmax(np.pad(scores, ((0, 0), (1, 0))))[:, 1:] if self.rows == 1 else softmax(scores)
            curvature = np.sqrt(p * (1 - p) * weight[:, None]).astype(X.dtype, copy=False)
            for k in range(blocks):
                weighted = X * curvature[:, k, None]
                hessian[k] += weighted.T @ weighted
        hessian /= max(total, np.finfo(np.float64).tiny)
        hessian[:, range(size - 1), range(size - 1)] += self.l2
        if not self.fit_intercept:
            hessian[:, -1, :-1] = hessian[:, :-1, -1] = 0
        inverse = np.array([_inverse(block) for block in hessian])
        return lambda g: self.centred(np.matmul(inverse, self.centred(g).reshape(*self.shape, 1)).ravel())

    def has_metric(self) -> bool:
        """Whether the inverses are small enough to keep and to compute."""
        return self.shape[0] * self.shape[1] ** 2 <= MAX_METRIC_ELEMENTS


def _inverse(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """The inverse of a positive semidefinite matrix, regularised as far as rounding asks for it.

    The identity if an element has overflowed: no regularisation would mend that.
    """
    if not np.isfinite(matrix).all():
        return np.eye(len(matrix))
    diagonal = matrix.diagonal()
    scale = 1 / np.sqrt(np.where(diagonal > 0, diagonal, 1))
    unit = matrix * scale * scale[:, None]
    ridge = 1e-9
    while True:
        try:
            factor = np.linalg.cholesky(unit + ridge * np.eye(len(unit)))
            break
        except np.linalg.LinAlgError:
            ridge *= 100
    half = np.linalg.inv(factor) * scale
    inverse: NDArray[np.float64] = half.T @ half
    return inverse
