"""One pass over rows in memory: sums, or stored probabilities. There is never an array of all the logits.

Sparse rows, and dense rows of few classes, are multiplied by the kernels, a tile of rows at a time in each thread.
Dense rows of many classes are multiplied by BLAS, a block of rows at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from xent._calls.dispatch import kernels
from xent._calls.losses import cross_entropy
from xent._calls.options import GivenOptions, Options
from xent._calls.softmax import softmax
from xent._calls.targets import Batch
from xent._calls.threads import THREAD_ELEMENTS, Blocks, get_num_threads
from xent._core import memory
from xent._fit.curvature import apply_softmax_hessian, softmax_variance
from xent._fit.subsample import MIN_BLOCK_ROWS
from xent._fit.types import Array, Matrix, Vector

BLOCK_ELEMENTS = 1 << 18        # of X and the logits, in a pass by BLAS: such a block stays in the cache
MAX_KERNEL_CLASSES = 32         # up to which dense rows are multiplied by the kernels
MAX_GRADIENTS = 16              # of the kernels: one for each block of work
MAX_GRADIENT_BYTES = 1 << 24    # of all of them, or
GRADIENT_ARRAYS = 5             # as much as this many arrays of the coefficients
MAX_TILE_ROWS = 48
TILE_BYTES = 3 << 15            # of the rows of a tile
STRIDED_TILE_BYTES = 5 << 16    # the same for adjacent rows, whose columns are far apart
TILE_LOGIT_BYTES = 1 << 20      # of the logits of a tile

# Tasks, by their numbers in the kernels (linear_sums).
LOSS = 0                # the sum of the losses, and its gradient
PROBABILITIES = 1       # store the probabilities, and sum nothing
HESSIAN_PRODUCT = 2     # the Hessian times the matrix, from stored probabilities
DIAGONAL = 3            # the diagonal of the Hessian, from stored probabilities and squared elements of X


class Rows(NamedTuple):
    """Rows in memory, n of them.

    Attributes
    ----------
    X : ndarray of any strides or CSR matrix, of shape (n, n_features), float32 or float64
    csr : tuple of ndarray or None
        The elements, columns and row starts of a CSR matrix, contiguous.
    target : ndarray of shape (n,), int64, or (n, n_classes), floats
    sample_weight : ndarray of shape (n,), float64, or None
    row_weight : ndarray of shape (n,), float64
        Sample weight times target mass.
    n_classes : int
    n_threads : int or None
    by_kernels : bool
        Whether the kernels multiply the rows, or BLAS.
    """

    X: Any
    csr: tuple[Array, Array, Array] | None
    target: Array
    sample_weight: Vector | None
    row_weight: Vector
    n_classes: int
    n_threads: int | None
    by_kernels: bool

    @property
    def n_coef_rows(self) -> int:
        return count_coef_rows(self.n_classes)

    def squared(self) -> Rows:
        """With the squares of the elements of X, in new arrays."""
        with np.errstate(over="ignore", under="ignore"):
            if self.csr is None:
                return self._replace(X=np.square(self.X))
            return self._replace(csr=(np.square(self.csr[0]), *self.csr[1:]))


class LinearOperands(NamedTuple):
    """Rows, coefficients and what goes with each row, as the kernels of `_core/linear.pxi` take them.

    Attributes
    ----------
    X : ndarray of shape (n, n_features), or tuple of ndarray
        Rows or columns are contiguous; or the `csr` of `Rows`.
    coef : ndarray in the type of X
        (n_coef_rows, n_features); for CSR (n_features, n_coef_rows padded with zeros to whole vectors).
    intercept : ndarray of shape (n_coef_rows,), float64
    row_weight : ndarray of shape (n,), float64
    probabilities : ndarray of shape (n, n_classes), in the type of X, or None
    """

    X: Array | tuple[Array, Array, Array]
    coef: Array
    intercept: Vector
    row_weight: Vector
    probabilities: Array | None


class LinearSums(NamedTuple):
    """What each block of work adds up, of dense or of sparse rows; no gradients for PROBABILITIES.

    Attributes
    ----------
    totals : ndarray of shape (blocks,), float64
        Losses.
    gradients : ndarray of shape (blocks, n_coef_rows, n_features + 1), float64, or None
        For CSR those of the intercepts alone, of shape (blocks, n_coef_rows).
    sparse_gradients : ndarray of shape (blocks, *coef.shape), in the type of X, or None
        For CSR those of the coefficients.
    """

    totals: Vector
    gradients: Vector | None
    sparse_gradients: Array | None


def count_coef_rows(n_classes: int) -> int:
    """Rows of coefficients: one for two classes, else one for each."""
    return 1 if n_classes == 2 else n_classes


def suits_kernels(X: Any, n_classes: int) -> bool:
    """Whether the kernels take rows: sparse, or of few classes with elements or rows side by side in memory."""
    return not isinstance(X, np.ndarray) or bool(
        count_coef_rows(n_classes) <= MAX_KERNEL_CLASSES
        and min(X.strides) > 0
        and X.itemsize in X.strides
        and X.flags.aligned
    )


def pass_over(rows: Rows, task: int, matrix: Matrix, probabilities: Array | None = None) -> tuple[float, Matrix]:
    """The sum of the losses (LOSS, else 0), and the matrix that the task sums up.

    Parameters
    ----------
    rows : Rows
    task : int
    matrix : ndarray of shape (n_coef_rows, n_features + 1)
        Coefficients; for HESSIAN_PRODUCT the direction, for DIAGONAL only its shape counts.
    probabilities : ndarray of shape (n, n_classes), in the type of X
        Written by PROBABILITIES, read by HESSIAN_PRODUCT and DIAGONAL.
    """
    return (_kernel_pass if rows.by_kernels else _blas_pass)(rows, task, matrix, probabilities)


# --- by BLAS ---------------------------------------------------------------------------------------------------------


def cut_rows(X: Any, n_coef_rows: int) -> Iterator[slice]:
    """Slices of the rows of X."""
    # Products of few rows are slow; but a block must not be larger than the coefficients.
    at_least = min(MIN_BLOCK_ROWS, X.shape[1] + 1)
    size = max(at_least, BLOCK_ELEMENTS // (X.shape[1] + n_coef_rows))
    return (slice(start, start + size) for start in range(0, X.shape[0], size))


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


def _blas_pass(rows: Rows, task: int, matrix: Matrix, probabilities: Array | None) -> tuple[float, Matrix]:
    dtype = rows.X.dtype
    coef, intercept = (a.astype(dtype, copy=False) for a in (matrix[:, :-1], matrix[:, -1]))
    result = np.zeros(matrix.shape)
    product = np.empty(coef.shape, dtype)       # reused, since allocating costs more than the product
    total = 0.0
    for block in cut_rows(rows.X, rows.n_coef_rows):
        X = rows.X[block]
        logits = np.zeros((X.shape[0], rows.n_classes), dtype)      # the first class of two keeps its 0
        own = logits[:, -rows.n_coef_rows :]
        if task != DIAGONAL:
            np.matmul(X, coef.T, out=own)
            own += intercept
        if task == PROBABILITIES:
            assert probabilities is not None
            softmax(logits, out=probabilities[block], n_threads=rows.n_threads)
            continue
        if task == LOSS:    # the gradient for the logits takes their place
            weight = None if rows.sample_weight is None else rows.sample_weight[block]
            total += cross_entropy(
                logits, rows.target[block], GivenOptions(sample_weight=weight), reduction="sum", grad_out=logits,
                n_threads=rows.n_threads,
            )[0]    # fmt: skip
        else:
            assert probabilities is not None
            p = probabilities[block]
            if task == HESSIAN_PRODUCT:
                apply_softmax_hessian(p, own)
            else:
                softmax_variance(p[:, -rows.n_coef_rows :], out=own)
            own *= rows.row_weight[block, None].astype(dtype)
        result[:, :-1] += np.matmul(own.T, X, out=product)
        result[:, -1] += own.sum(axis=0, dtype=np.float64)
    return total, result


# --- by the kernels --------------------------------------------------------------------------------------------------


def _kernel_pass(rows: Rows, task: int, matrix: Matrix, probabilities: Array | None) -> tuple[float, Matrix]:
    csr, dtype = rows.csr, rows.X.dtype
    coef = _kernel_coef(rows, matrix)
    tile = _tile_rows(rows)
    blocks = _cut(rows, coef, matrix, tile)
    totals = np.zeros(blocks.number)
    gradients = sparse_gradients = None
    if task != PROBABILITIES and csr is None:
        gradients = zeros_in_lines((blocks.number, *matrix.shape), matrix.dtype)
    elif task != PROBABILITIES:
        gradients = np.zeros((blocks.number, rows.n_coef_rows))
        sparse_gradients = zeros_in_lines((blocks.number, *coef.shape), dtype)
    logits = np.empty((tile, rows.n_classes), dtype)     # for its shape and type
    batch = Batch(logits, rows.target, sample_weight=rows.sample_weight)
    intercept = np.ascontiguousarray(matrix[:, -1])
    operands = LinearOperands(rows.X if csr is None else csr, coef, intercept, rows.row_weight, probabilities)
    sums = LinearSums(totals, gradients, sparse_gradients)
    blocks.run(kernels.linear_sums, batch, Options(), task, operands, sums)
    result = np.empty(matrix.shape, order="C" if csr is None else "F")
    if gradients is not None and sparse_gradients is None:
        gradients.sum(axis=0, out=result)
    elif gradients is not None and sparse_gradients is not None:
        coef_sums = sparse_gradients[:, :, : rows.n_coef_rows]
        np.add.reduce(coef_sums, axis=0, dtype=np.float64, out=result[:, :-1].T)
        gradients.sum(axis=0, out=result[:, -1])
    return kernels.total(totals.tolist()), result


def _kernel_coef(rows: Rows, matrix: Matrix) -> Array:
    """Coefficients in the type of X: row by row; for sparse rows, whose elements multiply all classes, column by
    column, padded to whole vectors."""
    dtype = rows.X.dtype
    if rows.csr is None:
        return np.ascontiguousarray(matrix[:, :-1], dtype)
    lanes = kernels.lanes_of(dtype.itemsize)
    width = -(-rows.n_coef_rows // lanes) * lanes
    padded = zeros_in_lines((matrix.shape[1] - 1, width), dtype)
    padded[:, : rows.n_coef_rows] = matrix[:, :-1].T
    return padded


def zeros_in_lines(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """Zeros in memory that is kept from pass to pass. They begin with a cache line if there are many, so that few of
    their short rows lie in more lines than they fill."""
    result = memory.empty_of(shape, dtype)
    result.fill(0)
    return result


def _tile_rows(rows: Rows) -> int:
    """How many rows the kernels take at a time."""
    X: Any = rows.X
    tile = MAX_TILE_ROWS
    if rows.csr is None:
        tile_bytes = TILE_BYTES if X.strides[1] == X.itemsize else STRIDED_TILE_BYTES
        tile = min(tile, max(12, tile_bytes // max(1, X.shape[1] * X.itemsize) // 12 * 12))
    itemsize: int = X.dtype.itemsize
    return max(1, min(tile, TILE_LOGIT_BYTES // (rows.n_classes * itemsize)))


def _cut(rows: Rows, coef: Array, matrix: Matrix, tile: int) -> Blocks:
    """Blocks of work: enough for all threads, but few enough that their gradients take little time and memory."""
    n = rows.X.shape[0]
    elements = n * rows.X.shape[1] if rows.csr is None else int(rows.csr[2][-1])
    gradient_bytes = coef.nbytes if rows.csr is not None else 8 * matrix.size + coef.nbytes
    work = elements * rows.n_coef_rows
    most = max(MAX_GRADIENT_BYTES, GRADIENT_ARRAYS * 8 * matrix.size) // gradient_bytes
    number = max(1, min(MAX_GRADIENTS, most, work // THREAD_ELEMENTS, work // (8 * coef.size)))
    tiles = -(-n // tile)
    size = -(-tiles // number) * tile
    wanted = get_num_threads() if rows.n_threads is None else rows.n_threads
    return Blocks(n, size, min(wanted, -(-n // size)))
