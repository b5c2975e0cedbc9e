"""Sums over rows in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from xent._fit.hessian import sum_hessian, sum_hessian_among
from xent._fit.logits import are_separated
from xent._fit.row_pass import DIAGONAL, HESSIAN_PRODUCT, LOSS, PROBABILITIES, Rows, cut_rows, pass_over, suits_kernels
from xent._fit.subsample import MIN_BLOCK_ROWS, Subsample, choose_candidates
from xent._fit.types import Array, Matrix, Vector

MAX_PROBABILITY_BYTES = 1 << 25     # of probabilities, stored from one Hessian product to the next
MAX_SQUARED_BYTES = 1 << 23         # of rows whose elements are squared


class RowSums:
    """The `Sums` over rows in memory.

    Parameters
    ----------
    X : ndarray of any strides or scipy.sparse CSR matrix or array, of shape (n, n_features), float32 or float64
    target : ndarray
        Class indices, int64 of shape (n,); or distributions over the classes (under the class weights already), floats
        of shape (n, n_classes).
    n_classes : int
    sample_weight : ndarray of shape (n,), float64
    n_threads : int or None
        Sums do not depend on it.
    """

    def __init__(
        self, X: Any, target: Array, n_classes: int, sample_weight: Vector, n_threads: int | None = None
    ) -> None:
        row_weight = sample_weight
        if target.ndim == 2:
            row_weight = sample_weight * target.sum(axis=1, dtype=np.float64)
        weight = None if (sample_weight == 1).all() else sample_weight
        by_kernels = suits_kernels(X, n_classes)
        self.rows = Rows(X, _contiguous_csr(X), target, weight, row_weight, n_classes, n_threads, by_kernels)
        self.n_coef_rows = self.rows.n_coef_rows
        self.n_features: int = X.shape[1]
        self.weight = float(row_weight.sum())
        # Each element of a sparse row meets a column of the coefficients.
        self.order: Literal["C", "F"] = "C" if self.rows.csr is None else "F"
        self.needs_no_blas = by_kernels
        self._mean_squares: Vector | None = None
        self._columns: tuple[Array, Array | None, Array | None] | None = None

    def loss_gradient(self, matrix: Matrix) -> tuple[float, Matrix]:
        return pass_over(self.rows, LOSS, matrix)

    def hessian_product_at(self, matrix: Matrix) -> Callable[[Matrix], Matrix]:
        """Stores the probabilities if they fit MAX_PROBABILITY_BYTES; else each product computes them again."""
        n, n_classes, dtype = self.rows.X.shape[0], self.rows.n_classes, self.rows.X.dtype
        size = max(self._min_piece(), MAX_PROBABILITY_BYTES // (n_classes * dtype.itemsize))
        if n <= size:
            probabilities = self.probabilities(matrix)
            return lambda direction: pass_over(self.rows, HESSIAN_PRODUCT, direction, probabilities)[1]

        def product(direction: Matrix) -> Matrix:
            result = np.zeros(matrix.shape, order=self.order)
            for piece in self._pieces(size):
                result += piece.hessian_product_at(matrix)(direction)
            return result

        return product

    def hessian(self, matrix: Matrix) -> Matrix:
        return sum_hessian(self.rows, matrix)

    def hessian_among(self, matrix: Matrix, places: tuple[NDArray[np.intp], ...], dtype: Any = np.float64) -> Matrix:
        """The Hessian of F by some elements of the matrix, sorted by row, for models; from products of this type."""
        return sum_hessian_among(self.rows, matrix, places, dtype)

    def select(self, features: NDArray[np.intp]) -> RowSums:
        """The same sums for some of the features, in this order; X is copied."""
        return self._of(self.rows.X[:, features])

    def without_features(self) -> RowSums:
        return self._of(np.empty((self.rows.X.shape[0], 0), self.rows.X.dtype))

    def _of(self, X: Any) -> RowSums:
        rows = self.rows
        weight = np.ones(len(rows.row_weight)) if rows.sample_weight is None else rows.sample_weight
        return RowSums(X, rows.target, rows.n_classes, weight, rows.n_threads)

    def columns(self) -> tuple[Array, Array | None, Array | None]:
        """X column by column: elements, rows and column starts in CSC; of an array its elements in float64, None, None.
        """
        if self._columns is None:
            X = self.rows.X
            if self.rows.csr is None:
                self._columns = X.astype(np.float64, order="F").ravel(order="F"), None, None
            else:
                csc = X.tocsc()
                csc.sum_duplicates()
                index = np.result_type(csc.indices, csc.indptr)
                self._columns = csc.data, csc.indices.astype(index, copy=False), csc.indptr.astype(index, copy=False)
        return self._columns

    def mean_squares(self) -> Vector:
        """The mean of x_ij^2 over the rows, by their weights."""
        if self._mean_squares is None:
            self._mean_squares = self._compute_mean_squares()
        return self._mean_squares

    def _compute_mean_squares(self) -> Vector:
        rows = self.rows
        if rows.csr is None:
            result: Vector = np.zeros(self.n_features)
            for block in cut_rows(rows.X, rows.n_coef_rows):
                result += rows.row_weight[block] @ np.square(rows.X[block], dtype=np.float64)
        else:
            values, columns, starts = rows.csr
            weight = np.repeat(rows.row_weight, np.diff(starts))
            result = np.bincount(columns, weight * np.square(values, dtype=np.float64), self.n_features).astype(float)
        return result / self.weight

    def subsample(self, matrix: Matrix) -> Subsample:
        rows = self.rows
        return choose_candidates(rows.X, rows.row_weight, rows.n_classes, rows.n_threads).draw(matrix)

    def diagonal(self, matrix: Matrix) -> Matrix:
        result = np.zeros(matrix.shape, order=self.order)
        X, csr, n_classes = self.rows.X, self.rows.csr, self.rows.n_classes
        row_elements = self.n_features if csr is None else len(csr[0]) // X.shape[0]
        most = MAX_SQUARED_BYTES // X.dtype.itemsize
        size = min(max(self._min_piece(), most // n_classes), max(1, most // max(1, row_elements)))
        for piece in self._pieces(size):
            probabilities = piece.probabilities(matrix)
            result += pass_over(piece.rows.squared(), DIAGONAL, matrix, probabilities)[1]
        return result / self.weight

    def are_separated(self, coef: Array, intercept: Array) -> bool:
        """Whether the coefficients give each row its label."""
        target, weight = self.rows.target, self.rows.row_weight
        return target.ndim == 1 and are_separated(self.rows.X, target, coef, intercept, weight)

    def probabilities(self, matrix: Matrix) -> Array:
        result = np.empty((self.rows.X.shape[0], self.rows.n_classes), self.rows.X.dtype)
        pass_over(self.rows, PROBABILITIES, matrix, result)
        return result

    def _min_piece(self) -> int:
        return min(MIN_BLOCK_ROWS, self.n_features + 1)

    def _pieces(self, size: int) -> Iterator[RowSums]:
        """Sums over `size` rows after the other."""
        rows = self.rows
        weight = np.ones(len(rows.row_weight)) if rows.sample_weight is None else rows.sample_weight
        for start in range(0, rows.X.shape[0], size):
            piece = slice(start, start + size)
            yield RowSums(rows.X[piece], rows.target[piece], rows.n_classes, weight[piece], rows.n_threads)


def _contiguous_csr(X: Any) -> tuple[Array, Array, Array] | None:
    """The elements, columns and row starts of a CSR matrix; None of an array.

    SciPy takes any strides, alignments and types of indices; the kernels want them contiguous, and the indices of one
    type.
    """
    if isinstance(X, np.ndarray):
        return None
    index = np.result_type(X.indices, X.indptr)
    return (
        np.require(X.data, X.dtype, ["C", "A"]),
        np.require(X.indices, index, ["C", "A"]),
        np.require(X.indptr, index, ["C", "A"]),
    )
