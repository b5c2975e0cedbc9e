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

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from xent._calls.dispatch import kernels
from xent._calls.losses import cross_entropy
from xent._calls.options import GivenOptions, Options
from xent._calls.softmax import softmax
from xent._calls.targets import Batch
from xent._calls.threads import THREAD_ELEMENTS, Blocks, get_num_threads
from xent._fit.row_pass import Rows
from xent._fit.types import Array, Matrix, Vector

MAX_BLOCK_ROWS = 1 << 12
MIN_BLOCK_ROWS = 128
BLOCK_BYTES = 1 << 21       # of what is made of a block
PAIRS_PER_COLUMN = 1 / 3    # from which the products of elements, made once for all pairs of classes, pay
MAX_SUMS = 16               # of the kernels: one for each block of work
MAX_SUM_BYTES = 1 << 24     # of all of them, or one
TILE_ROWS = 192             # that the kernels take at a time: whole cache lines of each column


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
    if suits_kernels(rows.n_classes, matrix.shape[1]):
        return _expand_by_kernels(rows, matrix)
    return _expand_by_blas(rows, matrix)


def suits_kernels(n_classes: int, size: int) -> bool:
    """Whether the kernels are faster than BLAS."""
    return True


# --- by the kernels --------------------------------------------------------------------------------------------------


def _expand_by_kernels(rows: Rows, matrix: Matrix) -> tuple[float, Matrix, Matrix]:
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
    pairs = sums.pairs.sum(axis=0)
    hessian = _join_pairs(_unpack(pairs.T if by_products else pairs, size), rows.n_classes)
    return kernels.total(sums.totals.tolist()), sums.gradients.sum(axis=0).T, hessian


def _cut_rows(rows: Rows, tile_rows: int, length: int) -> Blocks:
    """Blocks of work, each with sums of that length: enough for all threads, but of little memory."""
    n = rows.X.shape[0]
    number = max(1, min(MAX_SUMS, MAX_SUM_BYTES // (8 * length), n * length // THREAD_ELEMENTS, n // tile_rows))
    size = -(-max(1, n) // (number * tile_rows)) * tile_rows
    wanted = get_num_threads() if rows.n_threads is None else rows.n_threads
    return Blocks(n, size, min(wanted, number))


# --- by BLAS ---------------------------------------------------------------------------------------------------------


def _expand_by_blas(rows: Rows, matrix: Matrix) -> tuple[float, Matrix, Matrix]:
    n_coef_rows, size = matrix.shape
    pairs = _Pairs(rows.n_classes, size)
    losses, gradient = [], np.zeros(matrix.shape)
    for block, X in blocks_of_columns(rows, pairs.block_rows):
        logits = np.zeros((X.shape[1], rows.n_classes))
        np.matmul(X.T, matrix.T, out=logits[:, -n_coef_rows:])
        p = softmax(logits, n_threads=rows.n_threads)
        pairs.add(X, np.ascontiguousarray(p.T), rows.row_weight[block])
        weight = None if rows.sample_weight is None else rows.sample_weight[block]
        options = GivenOptions(sample_weight=weight)
        target = rows.target[block]
        losses.append(
            cross_entropy(logits, target, options, reduction="sum", grad_out=logits, n_threads=rows.n_threads)[0]
        )
        gradient += (X @ logits[:, -n_coef_rows:]).T
    return math.fsum(losses), gradient, pairs.join()


class _Pairs:
    """B_kl of all pairs of classes, added up over blocks of rows.

    With many classes, the products x_i x_j of a row's elements are made once, and one matrix product serves all pairs;
    with few, each pair has its own matrix product.
    """

    def __init__(self, n_classes: int, size: int) -> None:
        self.n_classes = n_classes
        self.size = size
        number = n_classes * (n_classes - 1) // 2
        self.by_products = _pays_products(n_classes, size)
        triangle = size * (size + 1) // 2
        row_bytes = 8 * (number + (triangle if self.by_products else 2 * size))
        self.block_rows = min(MAX_BLOCK_ROWS, max(MIN_BLOCK_ROWS, BLOCK_BYTES // row_bytes))
        self.products = np.empty((triangle if self.by_products else 0, self.block_rows))
        self.weights = np.empty((number, self.block_rows))
        self.sums = np.zeros((number, triangle) if self.by_products else (number, size, size))

    def add(self, X: Matrix, p: Matrix, weight: Vector) -> None:
        """Add rows, which are the columns of X and p."""
        n = len(weight)
        weights = self.weights[:, :n]
        for k, some in _cut_triangle(self.n_classes, 1):     # w p_k p_l for all k < l
            np.multiply(p[k + 1 :], weight * p[k], out=weights[some])
        if self.by_products:
            products = self.products[:, :n]
            for i, some in _cut_triangle(self.size, 0):
                np.multiply(X[i:], X[i], out=products[some])
            self.sums += weights @ products.T
            return
        for of_pair, root in zip(self.sums, np.sqrt(weights, out=weights), strict=True):
            weighted = X * root
            of_pair += weighted @ weighted.T

    def join(self) -> Matrix:
        """The Hessian."""
        return _join_pairs(_unpack(self.sums, self.size) if self.by_products else self.sums, self.n_classes)


# --- both ------------------------------------------------------------------------------------------------------------


def _pays_products(n_classes: int, size: int) -> bool:
    """Whether to make the products of elements of a row once for all pairs of classes."""
    return n_classes * (n_classes - 1) // 2 >= PAIRS_PER_COLUMN * size


def _join_pairs(pairs: Matrix, n_classes: int) -> Matrix:
    """The Hessian, from B_kl of all pairs of classes."""
    if n_classes == 2:
        only: Matrix = pairs[0]
        return only
    size = pairs.shape[-1]
    result = np.zeros((n_classes, size, n_classes, size))
    blocks = result.transpose(0, 2, 1, 3)
    for k, some in _cut_triangle(n_classes, 1):
        np.negative(pairs[some], out=blocks[k, k + 1 :])
        np.negative(pairs[some], out=blocks[k + 1 :, k])
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


def blocks_of_columns(rows: Rows, block_rows: int) -> Iterator[tuple[slice, Matrix]]:
    """Blocks of rows as columns, with a last element of 1: valid until the next one."""
    n, n_features = rows.X.shape
    buffer = np.ones((n_features + 1, block_rows))
    for start in range(0, n, block_rows):
        block = slice(start, min(start + block_rows, n))
        some: Any = rows.X[block]
        dense: Array = some if isinstance(some, np.ndarray) else some.toarray()
        X = buffer[:, : len(dense)]
        X[:-1] = dense.T
        yield block, X
