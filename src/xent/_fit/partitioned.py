"""Sums over rows in partitions, wherever those are: blocks read one at a time, or partitions on a cluster.

The sums over all rows are the sums over the partitions, each a `RowSums`, added in order.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal, NamedTuple

import numpy as np

from xent._fit.row_pass import count_coef_rows
from xent._fit.row_sums import RowSums
from xent._fit.subsample import Candidates, Subsample, choose_stride, count_wanted_rows
from xent._fit.types import Array, Matrix, Vector


class Layout(NamedTuple):
    """The properties that all partitions share."""

    n_classes: int
    n_features: int
    dtype: np.dtype[Any]            # of the features
    weight: float                   # see `Sums`
    partition_lengths: tuple[int, ...]

    def candidate_slices(self) -> list[slice]:
        """The candidate rows of each partition, which do not depend on how the rows are cut into partitions."""
        wanted = count_wanted_rows(self.n_features + 1, self.dtype.itemsize)
        stride = choose_stride(sum(self.partition_lengths), wanted)
        first = 0
        slices = []
        for length in self.partition_lengths:
            slices.append(slice(-first % stride, length, stride))
            first += length
        return slices


class PartitionedSums:
    """Base class of the `Sums` over partitions; subclasses implement the passes.

    Parameters
    ----------
    layout : Layout
    """

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.n_coef_rows = count_coef_rows(layout.n_classes)
        self.n_features = layout.n_features
        self.weight = layout.weight
        self.needs_no_blas = False
        self.order: Literal["C", "F"] = "C"
        self._candidates: Candidates | None = None

    def subsample(self, matrix: Matrix) -> Subsample:
        """Subsample candidates, which are read once and kept; their number is a few times that of the features."""
        if self._candidates is None:
            self._candidates = self._read_candidates()
        return self._candidates.draw(matrix)

    def diagonal(self, matrix: Matrix) -> Matrix:
        return self._sum_diagonals(matrix) / self.weight

    def _read_candidates(self) -> Candidates:
        raise NotImplementedError

    def _sum_diagonals(self, matrix: Matrix) -> Matrix:
        """The diagonal of the Hessian of the sum of losses."""
        raise NotImplementedError


class SequentialSums(PartitionedSums):
    """The `Sums` over partitions that are taken one after the other.

    Parameters
    ----------
    layout : Layout
    partitions : callable
        Iterates over (number of the partition, its RowSums), in order; those without rows are left out.
    """

    def __init__(self, layout: Layout, partitions: Callable[[], Iterator[tuple[int, RowSums]]]) -> None:
        super().__init__(layout)
        self._partitions = partitions

    def loss_gradient(self, matrix: Matrix) -> tuple[float, Matrix]:
        losses, total = [], np.zeros(matrix.shape)
        for _, sums in self._partitions():
            loss, gradient = sums.loss_gradient(matrix)
            losses.append(loss)
            total += gradient
            del sums    # before the next one is read
        return math.fsum(losses), total

    def hessian_product_at(self, matrix: Matrix) -> Callable[[Matrix], Matrix]:
        """Each product computes the probabilities again, to save memory; reading the rows takes longer anyway."""

        def product(direction: Matrix) -> Matrix:
            total = np.zeros(matrix.shape)
            for _, sums in self._partitions():
                total += sums.hessian_product_at(matrix)(direction)
                del sums
            return total

        return product

    def hessian(self, matrix: Matrix) -> Matrix:
        total = np.zeros((matrix.size, matrix.size))
        for _, sums in self._partitions():
            total += sums.hessian(matrix)
            del sums
        return total

    def are_separated(self, coef: Array, intercept: Array) -> bool:
        return all(sums.are_separated(coef, intercept) for _, sums in self._partitions())

    def _read_candidates(self) -> Candidates:
        slices = self.layout.candidate_slices()
        samples = (take_rows(sums, slices[i]) for i, sums in self._partitions())
        return concat_samples(samples, self.layout.n_classes)

    def _sum_diagonals(self, matrix: Matrix) -> Matrix:
        total = np.zeros(matrix.shape)
        for _, sums in self._partitions():
            total += sum_diagonal(sums, matrix)
            del sums
        return total


def sum_diagonal(sums: RowSums, matrix: Matrix) -> Matrix:
    """The diagonal of the Hessian of a partition's sum of losses."""
    return sums.diagonal(matrix) * sums.weight if sums.weight > 0 else np.zeros(matrix.shape)


def take_rows(sums: RowSums, rows: slice) -> tuple[Any, Vector]:
    """Some rows of a partition and their weights: copies, so that they do not keep all of it in memory."""
    return sums.rows.X[rows].copy(), sums.rows.row_weight[rows].copy()


def concat_samples(samples: Iterable[tuple[Any, Vector]], n_classes: int) -> Candidates:
    """The rows of several partitions together."""
    features, row_weights = zip(*samples, strict=True)
    if all(isinstance(X, np.ndarray) for X in features):
        X: Any = np.concatenate(features)
    else:
        from scipy import sparse

        X = sparse.vstack([sparse.csr_array(X) for X in features], format="csr")
    return Candidates(X, np.concatenate(row_weights), n_classes)
