"""The sums over rows that a fit needs. Only their implementations know where the rows are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, Protocol

from xent._fit.subsample import Subsample
from xent._fit.types import Matrix


class Sums(Protocol):
    """Sums over the rows (x_i, target t_i, sample weight s_i) of a data set or a partition.

    Coefficients are one matrix (W, b) of shape (n_coef_rows, n_features + 1), float64, with the intercepts b in the
    last column; so are gradients, Hessian products and diagonals. Two classes have one row of coefficients, for the
    logit of the second class (the first has logit 0); more classes have one row each. With T_i the sum of t_i (1 for a
    label), the five methods compute with

        F(W, b) = sum_i s_i cross_entropy(W x_i + b, t_i)       weight = sum_i s_i T_i

    Implemented by `RowSums` for rows in memory, `SequentialSums` for partitions that are read one after the other, and
    in `xent.dask.sums` for partitions of Dask.
    """

    n_coef_rows: int
    n_features: int
    weight: float
    order: Literal["C", "F"]    # memory order of matrices that are neither copied nor transposed
    needs_no_blas: bool         # whether sums use the kernels alone; preconditioners use BLAS in any case

    def loss_gradient(self, matrix: Matrix) -> tuple[float, Matrix]:
        """F and its gradient, the intercepts' included."""

    def hessian_product_at(self, matrix: Matrix) -> Callable[[Matrix], Matrix]:
        """V -> H V, with H the Hessian of F at the matrix."""

    def hessian(self, matrix: Matrix) -> Matrix:
        """The Hessian of F at the matrix, symmetric: by its elements row after row, each row's intercept last."""

    def subsample(self, matrix: Matrix) -> Subsample:
        """Some of the rows, for a preconditioner at the matrix."""

    def diagonal(self, matrix: Matrix) -> Matrix:
        """The diagonal of the Hessian of F / weight at the matrix."""
