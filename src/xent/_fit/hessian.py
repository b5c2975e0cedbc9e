"""The whole Hessian of a linear classifier, for few coefficients: exact, and in float64 whatever the type of the rows.

With p the probabilities of a row x (its last element 1, for the intercept), w its weight, and for each pair of classes

    B_kl = sum_i w_i p_ik p_il x_i x_i'

the block of classes k and l is -B_kl, and that of class k and itself is the sum of B_kl over the other classes l,
since 1 - p_k is the sum of the other p_l. So all terms have one sign and nothing cancels: curvatures far below the
rounding error of p_k (1 - p_k), where classes are nearly separated, keep their digits. Two classes have one row of
coefficients, whose Hessian is B_01.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xent._calls.softmax import softmax
from xent._fit.row_pass import Rows
from xent._fit.types import Array, Matrix, Vector

BLOCK_ROWS = 512
MIN_BLOCK_ROWS = 128
BLOCK_BYTES = 1 << 22       # of the products of a block's elements
PAIRS_PER_COLUMN = 1 / 3    # from which the products of elements, made once for all pairs of classes, pay


def sum_hessian(rows: Rows, matrix: Matrix) -> Matrix:
    """The Hessian of the sum of losses by the elements of the matrix, row after row."""
    size = matrix.shape[1]
    n_pairs = rows.n_classes * (rows.n_classes - 1) // 2
    by_products = n_pairs >= PAIRS_PER_COLUMN * size
    triangle = size * (size + 1) // 2
    sums = np.zeros((n_pairs, triangle) if by_products else (n_pairs, size, size))
    block_rows = min(BLOCK_ROWS, max(MIN_BLOCK_ROWS, BLOCK_BYTES // (8 * triangle))) if by_products else BLOCK_ROWS
    for X, p, weight in _columns_of_blocks(rows, matrix, block_rows):
        pair_weights = _weigh_pairs(p, weight)
        if by_products:
            sums += pair_weights @ _multiply_columns(X).T
        else:
            for of_pair, root in zip(sums, np.sqrt(pair_weights, out=pair_weights), strict=True):
                weighted = X * root
                of_pair += weighted @ weighted.T
    return _join_pairs(sums, rows.n_classes, size)


def sum_hessian_among(
    rows: Rows, matrix: Matrix, places: tuple[NDArray[np.intp], ...], dtype: Any = np.float64
) -> Matrix:
    """The Hessian of the sum of losses by some elements of the matrix, at these rows and columns, sorted by row.

    For models of a step, not exact: 1 - p is a difference here, and products may have another type. Columns are scaled
    to a largest element of 1 before they are converted to it.
    """
    classes, columns = places
    starts = np.searchsorted(classes, np.arange(len(matrix) + 1))
    of_classes = [slice(*ends) for ends in pairwise(starts)]
    own = [np.zeros((of_class.stop - of_class.start,) * 2) for of_class in of_classes]
    result = np.zeros((len(classes), len(classes)))
    scale = np.append(np.abs(rows.X).max(axis=0, initial=0.0), 1.0)
    scale[scale == 0] = 1
    for X, p, weight in _columns_of_blocks(rows, matrix, max(BLOCK_ROWS, BLOCK_BYTES // (8 * max(1, len(classes))))):
        root = np.sqrt(weight).astype(dtype)
        X = np.divide(X, scale[:, None]).astype(dtype, copy=False)
        scaled = np.empty((len(classes), len(weight)), dtype)
        for of_class, p_k, own_k in zip(of_classes, p[-len(matrix) :].astype(dtype, copy=False), own, strict=True):
            some = X[columns[of_class]]
            np.multiply(some, root * p_k, out=scaled[of_class])
            some *= root * np.sqrt(p_k * (1 - p_k))
            own_k += some @ some.T
        if len(matrix) > 1:
            result -= scaled @ scaled.T
    for of_class, own_k in zip(of_classes, own, strict=True):
        result[of_class, of_class] = own_k
    result *= scale[columns]
    result *= scale[columns, None]
    return result


def _columns_of_blocks(rows: Rows, matrix: Matrix, block_rows: int) -> Iterator[tuple[Matrix, Matrix, Vector]]:
    """Blocks of rows as columns, with a last element of 1: X of shape (n_features + 1, n), p of shape (n_classes, n)
    and the weights."""
    for start in range(0, rows.X.shape[0], block_rows):
        block = slice(start, start + block_rows)
        some: Any = rows.X[block]
        dense: Array = some if isinstance(some, np.ndarray) else some.toarray()
        X = np.ones((matrix.shape[1], dense.shape[0]))
        X[:-1] = dense.T
        p = np.zeros((rows.n_classes, dense.shape[0]))
        np.matmul(matrix, X, out=p[-len(matrix) :])
        softmax(p, axis=0, out=p, n_threads=rows.n_threads)
        yield X, p, rows.row_weight[block]


def _weigh_pairs(p: Matrix, weight: Vector) -> Matrix:
    """w p_k p_l for all k < l: (0, 1), (0, 2), ..., (1, 2), ..."""
    return np.concatenate([p[k + 1 :] * (weight * p[k]) for k in range(len(p) - 1)])


def _multiply_columns(X: Matrix) -> Matrix:
    """x_i x_j for all i <= j, in the order of `np.triu_indices`."""
    return np.concatenate([X[i:] * X[i] for i in range(len(X))])


def _join_pairs(sums: Matrix, n_classes: int, size: int) -> Matrix:
    """The Hessian from B_kl of all pairs k < l: square, or their upper triangles."""
    n_coef_rows = 1 if n_classes == 2 else n_classes
    result = np.zeros((n_coef_rows, size, n_coef_rows, size))
    upper = np.triu_indices(size)
    pairs = ((k, m) for k in range(n_classes) for m in range(k + 1, n_classes))
    for (k, m), of_pair in zip(pairs, sums, strict=True):
        block = of_pair
        if of_pair.ndim == 1:
            block = np.empty((size, size))
            block[upper] = block.T[upper] = of_pair
        if n_coef_rows == 1:
            result[0, :, 0] = block
            continue
        result[k, :, m] = result[m, :, k] = -block
        result[k, :, k] += block
        result[m, :, m] += block
    return result.reshape(n_coef_rows * size, -1)
