"""Sums over the same rows under the weights of several folds, in one pass.

The coefficients of all folds are multiplied with a block of dense rows at once:

    logits of a block = X [W_1; W_2; ...]'      (rows, n_folds, n_coef_rows)

so that the rows are read once, and BLAS has matrices of enough columns. A row that a fold leaves out has weight 0
there. Sparse rows are multiplied for one fold after the other. Where half the digits will do, float64 rows are
converted to float32, a block at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from xent._calls.losses import cross_entropy
from xent._calls.options import GivenOptions
from xent._fit.row_pass import Rows
from xent._fit.row_sums import RowSums
from xent._fit.subsample import MIN_BLOCK_ROWS
from xent._fit.types import Array, Matrix, Vector

SMALL_WORK = 1 << 26            # multiplications
BLOCK_ELEMENTS = 1 << 20        # of X and the logits: fewer, and the calls for each block take longer than its rows


class FoldSums:
    """The losses and gradients of several folds.

    Parameters
    ----------
    make_sums : callable
        The sums over all rows, from a vector of their weights.
    weights : ndarray of shape (n_folds, n)
        The weights of the rows in each fold.

    Attributes
    ----------
    folds : list of RowSums
        The sums of each fold by itself.
    """

    def __init__(self, make_sums: Callable[[Vector], RowSums], weights: Matrix) -> None:
        self.folds = [make_sums(weight) for weight in weights]
        self._weights = np.ascontiguousarray(weights.T)

    @property
    def is_small(self) -> bool:
        """Whether a pass is too short for what it takes to start it in two types, or on threads of BLAS."""
        rows = self.folds[0].rows
        return bool(rows.X.shape[0] * rows.X.shape[1] * rows.n_coef_rows * len(self.folds) < SMALL_WORK)

    @property
    def gains_from_single(self) -> bool:
        """Whether the sums are computed sooner in float32, beyond what another pass in float64 costs at the end."""
        rows = self.folds[0].rows
        return bool(rows.csr is None and rows.X.dtype == np.float64 and not self.is_small)

    def loss_gradients(
        self, folds: Sequence[int], matrices: Sequence[Matrix], single: bool = False
    ) -> list[tuple[float, Matrix]]:
        """The loss and the gradient of some folds, each at its own coefficients; computed in float32 if `single`."""
        rows = self.folds[0].rows
        if rows.csr is not None or (len(folds) == 1 and not single):
            return [self.folds[i].loss_gradient(matrix) for i, matrix in zip(folds, matrices, strict=True)]
        weights = self._weights if len(folds) == len(self.folds) else self._weights[:, list(folds)]
        dtype = np.dtype(np.float32) if single else rows.X.dtype
        losses, gradients = _stacked_pass(rows, weights, np.stack(matrices), dtype, _weigh_afterwards)
        if not (np.isfinite(losses).all() and np.isfinite(gradients).all()):    # perhaps in rows of weight 0
            losses, gradients = _stacked_pass(rows, weights, np.stack(matrices), dtype, _weigh_within)
        return list(zip(losses.tolist(), gradients, strict=True))


def _stacked_pass(
    rows: Rows, weights: Matrix, matrices: Matrix, dtype: np.dtype[Any], replace_by_gradient: Callable[..., Vector]
) -> tuple[Vector, Matrix]:
    """The sums of all folds.

    Parameters
    ----------
    rows : Rows
        Dense.
    weights : ndarray of shape (n, n_folds)
    matrices : ndarray of shape (n_folds, n_coef_rows, n_features + 1)
    dtype : dtype
        Of the products.
    replace_by_gradient : callable
        `_weigh_afterwards` or `_weigh_within`.
    """
    (n_folds, k, n_columns), n_classes = matrices.shape, rows.n_classes
    coef = matrices[:, :, :-1].reshape(-1, n_columns - 1).astype(dtype, copy=False)
    intercept = matrices[:, :, -1].astype(dtype)
    losses = np.zeros(n_folds)
    gradients = np.zeros((n_folds * k, n_columns))
    product = np.empty(coef.shape, dtype)
    size = max(MIN_BLOCK_ROWS, BLOCK_ELEMENTS // (n_columns + n_folds * k))
    for start in range(0, len(rows.X), size):
        block = slice(start, start + size)
        X = rows.X[block].astype(dtype, copy=False)
        own = np.matmul(X, coef.T).reshape(len(X), n_folds, k)
        own += intercept
        logits = own if k == n_classes else np.stack([np.zeros_like(own[..., 0]), own[..., 0]], axis=-1)
        losses += replace_by_gradient(logits, rows.target[block], weights[block], rows.n_threads)
        own = logits[..., -k:].reshape(len(X), n_folds * k)
        gradients[:, :-1] += np.matmul(own.T, X, out=product)
        gradients[:, -1] += own.sum(axis=0, dtype=np.float64)
    return losses, gradients.reshape(matrices.shape)


def _weigh_afterwards(logits: Array, target: Array, weights: Matrix, n_threads: int | None) -> Vector:
    """Replace logits of shape (rows, n_folds, n_classes) by the gradients of the losses; return each fold's loss.

    The kernels are faster without weights.
    """
    loss = _replace_by_gradient(logits, target, GivenOptions(), n_threads)
    logits *= weights[:, :, None].astype(logits.dtype, copy=False)
    total: Vector = np.einsum("ij,ij->j", loss, weights)
    return total


def _weigh_within(logits: Array, target: Array, weights: Matrix, n_threads: int | None) -> Vector:
    """The same; a row of weight 0 counts nothing, whatever its loss."""
    loss = _replace_by_gradient(logits, target, GivenOptions(sample_weight=weights.ravel()), n_threads)
    total: Vector = loss.sum(axis=0, dtype=np.float64)
    return total


def _replace_by_gradient(logits: Array, target: Array, options: GivenOptions, n_threads: int | None) -> Array:
    """Replace logits by gradients; return the losses, of shape (rows, n_folds)."""
    n_folds, n_classes = logits.shape[1:]
    flat = logits.reshape(-1, n_classes)
    repeated = np.repeat(target, n_folds, axis=0)
    loss: Array = cross_entropy(flat, repeated, options, reduction="none", grad_out=flat, n_threads=n_threads)[0]
    return loss.reshape(-1, n_folds)
