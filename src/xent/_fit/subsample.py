"""The rows that a preconditioner is computed from.

A preconditioner approximates the inverse Hessian. A row contributes to the Hessian only as far as its probabilities p
are undecided, by 1 - sum p^2, and near the end of a fit few rows are. So rows are drawn from candidates with a chance
proportional to that, and weighted by 1 / chance (importance sampling): the subsample's Hessian is right on average, and
as good as that of several times as many evenly spaced rows. The draw is systematic, without random numbers.

An average is not enough for a rare feature or class: the subsample has either none of its rows, which makes its
curvature 0, or one that counts for many. So the Hessian's diagonal is computed from all rows (`Sums.diagonal`), and
the subsample only gives the correlations of the features.

Probabilities are computed for a block of rows at a time; there is never an array of all of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from xent._calls.softmax import softmax
from xent._fit.curvature import cut_blocks, softmax_variance
from xent._fit.types import Array, Matrix, Vector

MIN_ROWS = 1000         # of a subsample
MAX_BYTES = 1 << 24
CANDIDATES = 4          # per row of a subsample
EVEN_SHARE = 0.1        # share of the subsample drawn by weight alone, since a decided row may become undecided
MIN_BLOCK_ROWS = 256


class Candidates(NamedTuple):
    """Rows that a subsample is drawn from.

    Attributes
    ----------
    X : ndarray or CSR matrix of shape (n, n_features)
    row_weight : ndarray of shape (n,)
    n_classes : int
    n_threads : int or None
    are_all : bool
        Whether these are all the rows of the data.
    """

    X: Any
    row_weight: Vector
    n_classes: int
    n_threads: int | None = None
    are_all: bool = False

    def draw(self, matrix: Matrix) -> Subsample:
        """Rows that are undecided at these coefficients."""
        undecided = np.empty(len(self.row_weight))
        for block, p in _probability_blocks(self, matrix, None):
            undecided[block] = 1 - np.einsum("ij,ij->i", p, p)
        return draw_rows(self, undecided, count_wanted_rows(matrix.shape[1], np.dtype(np.float32).itemsize))


class Subsample(NamedTuple):
    """Some of the candidates.

    Columns are scaled to a largest element of 1 and converted to float32: a preconditioner affects the steps of a fit,
    not its result.

    Attributes
    ----------
    candidates : Candidates
    rows : ndarray of shape (n_rows,), int
        Their indices among the candidates.
    scale : ndarray of shape (n_features + 1,)
        The largest absolute element of each column, and 1 for the intercept's.
    row_weight : ndarray of shape (n_rows,)
        Weight / (chance to be drawn * total weight of the candidates).
    undecided : ndarray of shape (n_rows,)
        1 - sum p^2 of each row.
    """

    candidates: Candidates
    rows: NDArray[np.intp]
    scale: Vector
    row_weight: Vector
    undecided: Vector

    @property
    def is_exact(self) -> bool:
        """Whether it has all rows of the data."""
        return self.candidates.are_all and len(self.rows) == len(self.candidates.row_weight)

    def scaled_rows(self, block: slice) -> NDArray[np.float32]:
        """Scaled rows, with a last column of ones."""
        rows = _to_dense(self.candidates.X[self.rows[block]])
        scaled = np.ones((len(rows), len(self.scale)), np.float32)
        np.divide(rows, self.scale[:-1], out=scaled[:, :-1], casting="same_kind")
        return scaled

    def variance_blocks(self, matrix: Matrix) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        """Blocks of the subsample and their row_weight p (1 - p), one column per row of coefficients."""
        for block, p in _probability_blocks(self.candidates, matrix, self.rows):
            variance = softmax_variance(p[:, -len(matrix) :])
            variance *= self.row_weight[block, None].astype(p.dtype)
            yield block, variance.astype(np.float32, copy=False)


# --- drawing ---------------------------------------------------------------------------------------------------------


def choose_candidates(X: Any, row_weight: Vector, n_classes: int, n_threads: int | None) -> Candidates:
    """Evenly spaced rows, a few times as many as will be drawn."""
    wanted = count_wanted_rows(X.shape[1] + 1, np.dtype(np.float32).itemsize)
    stride = choose_stride(X.shape[0], CANDIDATES * wanted)
    if stride > 1:
        X, row_weight = X[::stride], row_weight[::stride]
    return Candidates(X, row_weight, n_classes, n_threads, are_all=stride == 1)


def count_wanted_rows(n_columns: int, itemsize: int) -> int:
    """The number of rows for a preconditioner with n_columns columns, the intercept included."""
    return max(MIN_ROWS, min(4 * n_columns, MAX_BYTES // (n_columns * itemsize)))


def choose_stride(n: int, wanted: int) -> int:
    """Stride that keeps at least `wanted` of n rows."""
    return max(1, n // wanted)


def draw_rows(candidates: Candidates, undecided: Vector, wanted: int) -> Subsample:
    """Draw a subsample of about `wanted` rows."""
    X, row_weight = candidates.X, candidates.row_weight
    chance = compute_chances(row_weight * undecided, row_weight, wanted)
    rows = select_rows(chance)
    scale = np.zeros(X.shape[1] + 1)
    scale[-1] = 1
    for block in cut_blocks(len(rows), X.shape[1] * X.dtype.itemsize):
        np.maximum(scale[:-1], np.abs(_to_dense(X[rows[block]])).max(axis=0, initial=0.0), out=scale[:-1])
    scale[scale == 0] = 1
    weight = row_weight[rows] / chance[rows] / max(row_weight.sum(), np.finfo(np.float64).tiny)
    return Subsample(candidates, rows, scale, weight, undecided[rows])


def compute_chances(undecided: Vector, row_weight: Vector, wanted: int) -> Vector:
    """The chance of each row to be drawn, at most 1; they add up to about `wanted`.

    Parameters
    ----------
    undecided : ndarray of shape (n,)
        Row weight times 1 - sum p^2.
    row_weight : ndarray of shape (n,)
    wanted : int
    """
    if len(row_weight) <= wanted or not row_weight.sum() > 0:
        return np.ones(len(row_weight))
    chance: Vector = row_weight / row_weight.sum()
    total = undecided.sum()
    if 0 < total < np.inf:
        chance = EVEN_SHARE * chance + (1 - EVEN_SHARE) * undecided / total
    chance = np.minimum(1, wanted * chance)
    for _ in range(4):      # chances are capped at 1, which leaves more for the others
        chance = np.minimum(1, chance * (wanted / chance.sum()))
    return chance


def select_rows(chance: Vector) -> NDArray[np.intp]:
    """The rows at which the cumulative chance passes a half-integer (systematic sampling)."""
    passed = np.floor(np.cumsum(chance) + 0.5)
    return np.flatnonzero(np.diff(passed, prepend=0.0) > 0)


def _to_dense(rows: Any) -> Array:
    return rows if isinstance(rows, np.ndarray) else np.asarray(rows.toarray())


def _probability_blocks(
    candidates: Candidates, matrix: Matrix, rows: NDArray[np.intp] | None
) -> Iterator[tuple[slice, Array]]:
    """Blocks of all candidates, or of some of them, and their probabilities."""
    n_classes, dtype = candidates.n_classes, candidates.X.dtype
    coef, intercept = (a.astype(dtype, copy=False) for a in (matrix[:, :-1], matrix[:, -1]))
    number = len(candidates.row_weight) if rows is None else len(rows)
    # Products of few rows are slow; but a block must not be larger than the coefficients.
    at_least = min(MIN_BLOCK_ROWS, matrix.shape[1])
    for block in cut_blocks(number, max(n_classes, matrix.shape[1]) * dtype.itemsize, at_least):
        X = candidates.X[block if rows is None else rows[block]]
        p = np.zeros((X.shape[0], n_classes), dtype)
        p[:, -len(matrix) :] = X @ coef.T
        p[:, -len(matrix) :] += intercept
        softmax(p, out=p, n_threads=candidates.n_threads)
        yield block, p
