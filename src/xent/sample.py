"""The rows that a metric is computed from.

A metric is roughly an inverse Hessian, and a row has a part in the Hessian only as far as its probabilities p are
undecided, by 1 - sum p^2: few rows have, once a fit is near its end. So rows are drawn from candidates with a chance in
proportion to that, and count for one divided by their chance: the sample's Hessian is right on average, and as good as
one of several times as many rows at even distances. The draw is systematic, without random numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Vector = NDArray[np.float64]

LEAST_ROWS = 1000
MOST_BYTES = 1 << 24
CANDIDATES = 4          # for each row of a sample
EVEN_SHARE = 0.1        # of the sample, that goes by mass: what is decided now may not stay so
BLOCK_BYTES = 1 << 20


class Sample(NamedTuple):
    """Rows, float32 whatever the type of the data: a metric shapes the steps of a fit, not its answer."""

    X: NDArray[np.float32]      # columns divided by the scale, and one of ones
    scale: Vector               # of each column
    p: Array                    # probabilities
    mass: Vector                # of each row, divided by that of all rows


def rows_wanted(size: int, itemsize: int) -> int:
    """How many rows make a metric of so many features, the intercept included."""
    return max(LEAST_ROWS, min(4 * size, MOST_BYTES // (size * itemsize)))


def stride_of(n: int, wanted: int) -> int:
    """Every how many of n rows is taken for at least so many."""
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


def draw(X: Any, p: Array, mass: Vector, wanted: int) -> Sample:
    """A sample of about so many of the rows of X, an array or a CSR matrix, with probabilities p."""
    chance = chances(mass * (1 - np.einsum("ij,ij->i", p, p)), mass, wanted)
    rows = drawn(chance)
    columns = X.shape[1]
    scale = np.zeros(columns + 1)
    scale[-1] = 1
    for _, block in _dense_blocks(X, rows):
        np.maximum(scale[:-1], np.abs(block).max(axis=0, initial=0.0), out=scale[:-1])
    scale[scale == 0] = 1
    scaled = np.ones((len(rows), columns + 1), np.float32)
    for place, block in _dense_blocks(X, rows):
        np.divide(block, scale[:-1], out=scaled[place, :-1], casting="same_kind")
    return Sample(scaled, scale, p[rows], mass[rows] / chance[rows] / max(mass.sum(), np.finfo(np.float64).tiny))


def _dense_blocks(X: Any, rows: NDArray[np.intp]) -> Iterator[tuple[slice, Array]]:
    size = max(1, BLOCK_BYTES // max(1, X.shape[1] * X.dtype.itemsize))
    for start in range(0, len(rows), size):
        place = slice(start, start + size)
        block = X[rows[place]]
        yield place, block if isinstance(block, np.ndarray) else block.toarray()
