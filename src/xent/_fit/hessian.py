"""Loss, gradient and the whole Hessian of a linear classifier in one pass, for few coefficients.

All of it is computed in float64, whatever the type of the rows. With p the probabilities of a row x (its last element
1, for the intercept), w its weight, and for each pair of classes

    B_kl = sum_i w_i p_ik p_il x_i x_i'

the block of classes k and l of the Hessian is -B_kl, and that of class k and itself is the sum of B_kl over the other
classes l, since 1 - p_k is the sum of the other p_l. So all terms have one sign and nothing cancels: curvatures far
below the rounding error of p_k (1 - p_k), where classes are nearly separated, keep their digits. Two classes have one
row of coefficients, whose Hessian is B_01.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from xent._calls.dispatch import kernels
from xent._calls.options import Options
from xent._calls.targets import Batch
from xent._calls.threads import THREAD_ELEMENTS, Blocks, get_num_threads
from xent._fit.row_pass import Rows
from xent._fit.types import Array, Matrix, Vector

TILE_ROWS = 192             # that the kernel takes at a time: whole cache lines of each column
PAIRS_PER_COLUMN = 1 / 3    # from which the products of elements, made once for all pairs of classes, pay
MAX_SUMS = 16               # one for each block of work
MAX_SUM_BYTES = 1 << 24     # of all of them, or one


class ExpansionOperands(NamedTuple):
    """Rows and coefficients as the kernel of `_core/expansion.pxi` takes them.

    Attributes
    ----------
    X : ndarray of shape (n_features, n), of any strides, or tuple of ndarray
        Its columns; or the `csr` of `Rows`.
    coef : ndarray of shape (n_features + 1, n_coef_rows), float64
        The intercepts last.
    row_weight : ndarray of shape (n,), float64
    by_products : bool
        Whether the products x_i x_j of a row's elements are made once for all pairs of classes.
    """

    X: Array | tuple[Array, Array, Array]
    coef: Matrix
    row_weight: Vector
    by_products: bool


class ExpansionSums(NamedTuple):
    """What each block of work adds up, float64.

    Attributes
    ----------
    totals : ndarray of shape (blocks,)
        Losses.
    gradients : ndarray of shape (blocks, n_features + 1, n_coef_rows)
    pairs : ndarray of shape (blocks, pairs of elements, pairs of classes), or with the last two axes exchanged
        By products, or not: for elements i <= j and classes k < l, in order, B_kl[i, j].
    """

    totals: Vector
    gradients: Vector
    pairs: Vector


def expand(rows: Rows, matrix: Matrix) -> tuple[float, Matrix, Matrix]:
    """The sum of the losses, its gradient, and its Hessian by the elements of the matrix, row after row."""
    n_coef_rows, size = matrix.shape
    n_pairs, triangle = rows.n_classes * (rows.n_classes - 1) // 2, size * (size + 1) // 2
    tile_rows = min(TILE_ROWS, max(1, -(-rows.X.shape[0] // 8)) * 8)
    by_products = _pays_products(rows.n_classes, size)
    blocks = _cut_rows(rows, tile_rows, n_pairs * triangle)
    sums = ExpansionSums(
        np.zeros(blocks.number),
        np.zeros((blocks.number, size, n_coef_rows)),
        np.zeros((blocks.number, triangle, n_pairs) if by_products else (blocks.number, n_pairs, triangle)),
    )
    tile = np.empty((rows.n_classes, tile_rows)).T
    batch = Batch(tile, rows.target, sample_weight=rows.sample_weight)
    X = rows.X.T if rows.csr is None else rows.csr
    operands = ExpansionOperands(X, np.ascontiguousarray(matrix.T, np.float64), rows.row_weight, by_products)
    blocks.run(kernels.expand_rows, batch, Options(), operands, sums)
    gradient, pairs = np.ascontiguousarray(sums.gradients.sum(axis=0).T), sums.pairs.sum(axis=0)
    hessian = _join_pairs(pairs.T if by_products else pairs, rows.n_classes, size)
    return kernels.total(sums.totals.tolist()), gradient, hessian


def _cut_rows(rows: Rows, tile_rows: int, length: int) -> Blocks:
    """Blocks of work, each with sums of that length: enough for all threads, but of little memory."""
    n = rows.X.shape[0]
    number = max(1, min(MAX_SUMS, MAX_SUM_BYTES // (8 * length), n * length // THREAD_ELEMENTS, n // tile_rows))
    size = -(-max(1, n) // (number * tile_rows)) * tile_rows
    wanted = get_num_threads() if rows.n_threads is None else rows.n_threads
    return Blocks(n, size, min(wanted, number))


def _pays_products(n_classes: int, size: int) -> bool:
    """Whether to make the products of elements of a row once for all pairs of classes."""
    return n_classes * (n_classes - 1) // 2 >= PAIRS_PER_COLUMN * size


def _join_pairs(pairs: Matrix, n_classes: int, size: int) -> Matrix:
    """The Hessian, from the elements i <= j of B_kl of all pairs of classes."""
    if n_classes == 2:
        only: Matrix = _unpack(pairs, size)[0]
        return only
    result = np.zeros((n_classes, size, n_classes, size))
    blocks = result.transpose(0, 2, 1, 3)
    for k, some in _cut_triangle(n_classes, 1):
        squares = _unpack(pairs[some], size)
        np.negative(squares, out=blocks[k, k + 1 :])
        np.negative(squares, out=blocks[k + 1 :, k])
    for k in range(n_classes):
        blocks[k, k] = -np.add.reduce(blocks[k], axis=0)
    return result.reshape(n_classes * size, -1)


def _unpack(triangles: Matrix, size: int) -> Matrix:
    """Symmetric matrices, from their elements i <= j in order."""
    result = np.empty((len(triangles), size, size))
    for i, some in _cut_triangle(size, 0):
        result[:, i, i:] = result[:, i:, i] = triangles[:, some]
    return result


def _cut_triangle(n: int, offset: int) -> Iterator[tuple[int, slice]]:
    """i, and the places of the pairs (i, j) with j >= i + offset, among all pairs of n numbers in order."""
    start = 0
    for i in range(n - offset):
        yield i, slice(start, start := start + n - offset - i)
