"""The rows that a metric is computed from, and what they say of the Hessian.

A metric is roughly an inverse Hessian, and a row has a part in the Hessian only as far as its probabilities p are
undecided, by 1 - sum p^2: few rows have, once a fit is near its end. So rows are drawn from candidates with a chance in
proportion to that, and count for one divided by their chance: the sample's Hessian is right on average, and as good as
one of several times as many rows at even distances. The draw is systematic, without random numbers.

On average is not enough for a feature that few rows have, or a class among thousands: the sample holds none of its
rows, which makes its curvature 0, or one that counts for many. So the diagonal of the Hessian is taken from all rows,
and the sample says only how the features go together.

There is no array of all the probabilities: they are computed for a block of rows at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from xent._calls.softmax import softmax

Array = NDArray[Any]
Vector = NDArray[np.float64]
Matrix = NDArray[np.float64]

LEAST_ROWS = 1000
MOST_BYTES = 1 << 24
CANDIDATES = 4          # for each row of a sample
EVEN_SHARE = 0.1        # of the sample, that goes by mass: what is decided now may not stay so
COMMON_SHARE = 0.1      # of a class's Hessian, that is of all classes' mean: the sample may have few rows of the class
BLOCK_BYTES = 1 << 22
RARE = 1e-6             # of a column's curvature: if the sample has less of it, it says nothing of the column
MIN_BLOCK_ROWS = 256


class Sample(NamedTuple):
    rows: NDArray[np.intp]
    scale: Vector               # of each column, and 1 for the intercept's
    mass: Vector                # of each row, divided by that of all rows
    undecided: Vector           # 1 - sum p^2 of each row


def rows_wanted(size: int, itemsize: int) -> int:
    """How many rows make a metric of so many features, the intercept included."""
    return max(LEAST_ROWS, min(4 * size, MOST_BYTES // (size * itemsize)))


def stride_of(n: int, wanted: int) -> int:
    """Stride that keeps at least `wanted` of n rows."""
    return max(1, n // wanted)


def chances(undecided: Vector, mass: Vector, wanted: int) -> Vector:
    """For each row the chance to be drawn, at most 1; about as many as wanted in all."""
    if len(mass) <= wanted or not mass.sum() > 0:
        return np.ones(len(mass))
    chance: Vector = mass / mass.sum()
    total = undecided.sum()
    if 0 < total < np.inf:
        chance = EVEN_SHARE * chance + (1 - EVEN_SHARE) * undecided / total
    chance = np.minimum(1, wanted * chance)
    for _ in range(4):      # those that are certain leave more for the others
        chance = np.minimum(1, chance * (wanted / chance.sum()))
    return chance


def drawn(chance: Vector) -> NDArray[np.intp]:
    """The rows in which the sum of the chances so far passes an integer."""
    passed = np.floor(np.cumsum(chance) + 0.5)
    return np.flatnonzero(np.diff(passed, prepend=0.0) > 0)


def draw(X: Any, undecided: Vector, mass: Vector, wanted: int) -> Sample:
    """A sample of about so many of the rows of X, an array or a CSR matrix."""
    chance = chances(mass * undecided, mass, wanted)
    rows = drawn(chance)
    scale = np.zeros(X.shape[1] + 1)
    scale[-1] = 1
    for place in _places(len(rows), X.shape[1] * X.dtype.itemsize):
        np.maximum(scale[:-1], np.abs(_dense(X[rows[place]])).max(axis=0, initial=0.0), out=scale[:-1])
    scale[scale == 0] = 1
    weight = mass[rows] / chance[rows] / max(mass.sum(), np.finfo(np.float64).tiny)
    return Sample(rows, scale, weight, undecided[rows])


def scaled_rows(X: Any, sample: Sample, place: slice) -> NDArray[np.float32]:
    """Rows with columns divided by the scale, and one of ones. float32 whatever the type of the data: a metric shapes
    the steps of a fit, not its answer."""
    block = _dense(X[sample.rows[place]])
    scaled = np.ones((len(block), len(sample.scale)), np.float32)
    np.divide(block, sample.scale[:-1], out=scaled[:, :-1], casting="same_kind")
    return scaled


def _dense(rows: Any) -> Array:
    return rows if isinstance(rows, np.ndarray) else np.asarray(rows.toarray())


def _places(rows: int, row_bytes: int, least: int = 1) -> Iterator[slice]:
    """Blocks of at least so many rows."""
    size = max(least, BLOCK_BYTES // max(1, row_bytes))
    return (slice(start, min(start + size, rows)) for start in range(0, rows, size))


class Factors(NamedTuple):
    """Roughly an inverse Hessian: V diag(1 / curvatures of class k) V' for each class k."""

    features: Matrix        # V
    curvatures: Matrix      # along each column of V, of the shape of the coefficients


class Candidates:
    """Rows that a sample is drawn from.

    Parameters
    ----------
    X : ndarray or CSR matrix of shape (n, features)
    mass : ndarray of shape (n,)
        Of each row's loss.
    n_classes : int
    n_threads : int or None
    all_rows : bool
        Whether these are all the rows of the data.
    """

    def __init__(
        self, X: Any, mass: Vector, n_classes: int, n_threads: int | None = None, *, all_rows: bool = False
    ) -> None:
        self.X, self.mass, self.classes, self.n_threads = X, mass, n_classes, n_threads
        self.all_rows = all_rows

    def draw(self, matrix: Matrix) -> Sample:
        """A sample of those that are undecided at these coefficients."""
        undecided = np.empty(len(self.mass))
        for place, p in self._probabilities(matrix, None):
            undecided[place] = 1 - np.einsum("ij,ij->i", p, p)
        return draw(self.X, undecided, self.mass, rows_wanted(matrix.shape[1], np.dtype(np.float32).itemsize))

    def class_blocks(self, matrix: Matrix, diagonal: Matrix) -> Matrix:
        """The diagonal blocks of the Hessian with this diagonal, one for each class; one for all where all are zero."""
        sample = self.draw(matrix)
        blocks = len(matrix) if matrix.any() else 1
        hessian = np.zeros((blocks, matrix.shape[1], matrix.shape[1]))
        for place, spread in self._spreads(matrix, sample):
            add_blocks(hessian, scaled_rows(self.X, sample, place), spread[:, :blocks])
        diagonal = _trusted(diagonal[:blocks], np.einsum("kii->ki", hessian) * np.square(sample.scale))
        common = _correlations(self._mean(sample))
        for classes in _places(blocks, hessian[0].nbytes):
            correlations = _correlations(hessian[classes])
            correlations += self._common_share(sample) * (common - correlations)
            deviations = np.sqrt(diagonal[classes])
            correlations *= deviations[:, :, None]
            np.multiply(correlations, deviations[:, None, :], out=hessian[classes])
        return hessian

    def factors(self, matrix: Matrix, diagonal: Matrix, l2: float) -> Factors:
        """The inverse of the Hessian with this diagonal, to which the penalty comes."""
        sample = self.draw(matrix)
        penalty = l2 / np.square(sample.scale)      # of the scaled columns
        penalty[-1] = 0
        average = self._mean(sample).astype(np.float64)
        found = average.diagonal().copy()
        curvatures = _trusted(diagonal / np.square(sample.scale), found)
        expected = np.add.reduce(curvatures, axis=0) / len(curvatures)
        stretch = np.sqrt(np.divide(expected, found, out=np.zeros_like(found), where=found > RARE * expected))
        for factor in (stretch, stretch[:, None]):
            average *= factor
        np.fill_diagonal(average, expected + penalty)
        unit = 1 / np.sqrt(np.where(average.diagonal() > 0, average.diagonal(), 1))
        for factor in (unit, unit[:, None]):
            average *= factor
        if not np.isfinite(average).all():
            average = np.eye(len(average))
        average = average.astype(np.float32)
        eigenvalues, vectors = np.linalg.eigh(average)
        del average
        features = unit[:, None] * vectors
        del vectors
        seen, along = self._curvatures(matrix, sample, stretch, features)
        squares = np.square(features)
        of_penalty = penalty @ squares
        common = np.maximum(0, eigenvalues - of_penalty)
        share = 1 / np.where(expected > 0, expected, 1) / len(expected)
        for classes in _places(len(matrix), 8 * matrix.shape[1]):
            exact = curvatures[classes]
            relative = exact @ share
            missing = np.maximum(0, exact - seen[classes])      # of rows that are not in the sample
            np.matmul(missing, squares, out=exact)
            exact += along[classes]
            exact += self._common_share(sample) * (relative[:, None] * common - exact)
            exact += of_penalty
        features /= sample.scale[:, None]
        return Factors(features, curvatures)

    def _common_share(self, sample: Sample) -> float:
        return 0.0 if self.all_rows and len(sample.rows) == len(self.mass) else COMMON_SHARE

    def _curvatures(self, matrix: Matrix, sample: Sample, stretch: Vector, features: Matrix) -> tuple[Array, Array]:
        """The curvature of each class along each stretched column of the sample, and along each of the features."""
        along_columns, along_features = (np.zeros(matrix.shape, np.float32) for _ in range(2))
        stretch, features = stretch.astype(np.float32), features.astype(np.float32)
        for place, spread in self._spreads(matrix, sample):
            X = scaled_rows(self.X, sample, place) * stretch
            along_columns += spread.T @ np.square(X)
            X = X @ features
            along_features += spread.T @ np.square(X, out=X)
        return along_columns, along_features

    def _mean(self, sample: Sample) -> Array:
        """The mean over the classes of their blocks of the Hessian, in scaled columns: the mean of p (1 - p) is
        (1 - sum p^2) / n_classes."""
        size = len(sample.scale)
        weight = np.sqrt(sample.mass * sample.undecided / self.classes).astype(np.float32)
        mean = np.zeros((size, size), np.float32)
        for place in _places(len(weight), 4 * size):
            weighted = scaled_rows(self.X, sample, place)
            weighted *= weight[place, None]
            mean += weighted.T @ weighted
        return mean

    def _spreads(self, matrix: Matrix, sample: Sample) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        """mass p (1 - p) of blocks of the sample, a column for each row of coefficients."""
        for place, p in self._probabilities(matrix, sample.rows):
            p = p[:, -len(matrix) :]
            spread = np.subtract(1, p)
            spread *= p
            spread *= sample.mass[place, None].astype(p.dtype)
            yield place, spread.astype(np.float32, copy=False)

    def _probabilities(self, matrix: Matrix, rows: NDArray[np.intp] | None) -> Iterator[tuple[slice, Array]]:
        """Of blocks of all candidates, or of some of them."""
        dtype = self.X.dtype
        coef, intercept = (a.astype(dtype, copy=False) for a in (matrix[:, :-1], matrix[:, -1]))
        number = len(self.mass) if rows is None else len(rows)
        # Few rows make products slow; but no more than features, or a block were larger than the coefficients.
        least = min(MIN_BLOCK_ROWS, matrix.shape[1])
        for place in _places(number, max(self.classes, matrix.shape[1]) * dtype.itemsize, least):
            X = self.X[place if rows is None else rows[place]]
            p = np.zeros((X.shape[0], self.classes), dtype)
            p[:, -len(matrix) :] = X @ coef.T
            p[:, -len(matrix) :] += intercept
            softmax(p, out=p, n_threads=self.n_threads)
            yield place, p


def _trusted(exact: Matrix, sampled: Array) -> Matrix:
    """The exact diagonal, but where its squares have left the range of the type: the sample's columns are scaled."""
    return np.where(np.isfinite(exact) & (exact > 0), exact, sampled)


def add_blocks(hessian: Matrix, X: Array, spread: Array) -> None:
    """hessian[k] += sum_i spread_ik x_i x_i'."""
    size = X.shape[1]
    if len(hessian) <= size:
        for k, of_class in enumerate(np.sqrt(spread).T):
            weighted = X * of_class[:, None]
            hessian[k] += weighted.T @ weighted
        return
    for place in _places(len(X), 4 * size * size):      # one product for all classes
        squares = (X[place, :, None] * X[place, None, :]).reshape(-1, size * size)
        for classes in _places(len(hessian), 4 * size * size):
            hessian[classes] += (spread[place, classes].T @ squares).reshape(-1, size, size)


def _correlations(hessian: Array) -> Matrix:
    """Of one matrix or several, with 1 on the diagonal."""
    diagonal = np.einsum("...ii->...i", hessian).astype(np.float64)
    scale = 1 / np.sqrt(np.where(diagonal > 0, diagonal, 1))
    result: Matrix = hessian * scale[..., None]
    result *= scale[..., None, :]
    np.einsum("...ii->...i", result)[...] = 1
    return result
