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
from typing import Any

import numpy as np

from xent._calls.losses import cross_entropy
from xent._calls.options import GivenOptions
from xent._calls.softmax import softmax
from xent._fit.row_pass import Rows
from xent._fit.types import Array, Matrix, Vector

MAX_BLOCK_ROWS = 1 << 12
MIN_BLOCK_ROWS = 128
BLOCK_BYTES = 1 << 21       # of what is made of a block
PAIRS_PER_COLUMN = 1 / 3    # from which the products of elements, made once for all pairs of classes, pay


def expand(rows: Rows, matrix: Matrix) -> tuple[float, Matrix, Matrix]:
    """The sum of the losses, its gradient, and its Hessian by the elements of the matrix, row after row."""
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
        self.by_products = number >= PAIRS_PER_COLUMN * size
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
        if self.n_classes == 2:
            pair: Matrix = self._unpack(self.sums)[0]
            return pair
        result = np.zeros((self.n_classes, self.size, self.n_classes, self.size))
        blocks = result.transpose(0, 2, 1, 3)
        for k, some in _cut_triangle(self.n_classes, 1):
            pairs = self._unpack(self.sums[some])
            np.negative(pairs, out=blocks[k, k + 1 :])
            np.negative(pairs, out=blocks[k + 1 :, k])
        for k in range(self.n_classes):
            blocks[k, k] = -np.add.reduce(blocks[k], axis=0)
        return result.reshape(self.n_classes * self.size, -1)

    def _unpack(self, sums: Matrix) -> Matrix:
        """B_kl of some pairs, as square matrices."""
        if not self.by_products:
            return sums
        result = np.empty((len(sums), self.size, self.size))
        for i, some in _cut_triangle(self.size, 0):
            result[:, i, i:] = result[:, i:, i] = sums[:, some]
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
