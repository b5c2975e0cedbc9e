"""The curvature of the softmax cross-entropy, for probabilities p of one row of data.

With z the row's logits, the gradient of its loss is p - target and the Hessian is diag(p) - p p', whatever the target.
For logits z = W x + b the diagonal block of class k is p_k (1 - p_k) x x'. The kernels do the same for rows that they
multiply themselves (tasks HESSIAN_PRODUCT and DIAGONAL of `row_pass`).

Two classes have one row of coefficients, for the second class: p has two columns, and a matrix of logits has one.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from xent._fit.types import Array, Matrix

BLOCK_BYTES = 1 << 22


def softmax_variance(p: Array, out: Array | None = None) -> Array:
    """p (1 - p): the diagonal of the Hessian with respect to the logits."""
    out = np.subtract(1, p, out=out)
    out *= p
    return out


def apply_softmax_hessian(p: Array, directions: Array) -> None:
    """Replace each row v of directions by (diag(p) - p p') v.

    Parameters
    ----------
    p : ndarray of shape (n, n_classes)
    directions : ndarray of shape (n, n_classes), or (n, 1) for two classes
    """
    if directions.shape[1] == 1:
        directions *= p[:, :1] * p[:, 1:]
    else:
        directions -= np.einsum("ij,ij->i", p, directions)[:, None]
        directions *= p


def add_class_blocks(hessian: Matrix, X: Array, variance: Array) -> None:
    """hessian[k] += sum_i variance_ik x_i x_i', for hessian of shape (classes, features, features)."""
    size = X.shape[1]
    if len(hessian) <= size:
        for k, of_class in enumerate(np.sqrt(variance).T):
            weighted = X * of_class[:, None]
            hessian[k] += weighted.T @ weighted
        return
    for block in cut_blocks(len(X), 4 * size * size):       # many classes: one product for all of them
        squares = (X[block, :, None] * X[block, None, :]).reshape(-1, size * size)
        for classes in cut_blocks(len(hessian), 4 * size * size):
            hessian[classes] += (variance[block, classes].T @ squares).reshape(-1, size, size)


def cut_blocks(rows: int, row_bytes: int, at_least: int = 1) -> Iterator[slice]:
    """Cut 0 to `rows` into slices of a few megabytes, with at least `at_least` rows."""
    size = max(at_least, BLOCK_BYTES // max(1, row_bytes))
    return (slice(start, min(start + size, rows)) for start in range(0, rows, size))
