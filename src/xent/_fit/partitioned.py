"""Rows that come in parts, wherever those are: blocks read one at a time, or partitions on the machines of a cluster.

A fit looks at every part once, for its `Summary`. All of them together make a `Plan`: the classes, their weights and
the number of features, which a part cannot know by itself. With the plan any part becomes a `RowSums`, and the sums
over all rows are the sums over the parts, added in order. Nothing here knows what is minimised, or where parts are.

Each summary and each error is of one place, such as "block 3", for the messages.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from xent._estimator.features import check_features, check_no_stored_index
from xent._estimator.labels import encode_target, find_partition_classes, kind_of
from xent._estimator.prediction import separates
from xent._estimator.weights import (
    apply_class_factors,
    check_total_weight,
    to_class_factors,
    to_row_weights,
    weigh_classes,
)
from xent._fit.linear import Matrix, RowSums, Sums
from xent._fit.solvers import Vector
from xent._fit.subsample import Candidates, rows_wanted, stride_of

Array = NDArray[Any]


class Rows(NamedTuple):
    """What a fit needs to know of the rows, in memory or not."""

    sums: Sums
    classes: Array
    weight: float       # the sum of the sample weights, under the class weights
    dtype: np.dtype[Any]
    names: Array | None     # of the features
    separated: Callable[[Array, Array], bool]       # whether coefficients and intercepts put each row in its class


class Part(NamedTuple):
    """Some rows, checked, with labels or distributions as they came."""

    place: str
    X: Any
    y: Any
    weight: Vector
    names: Array | None


class Named:
    """A matrix with names of its columns, as the checks ask for them, and where it is from."""

    def __init__(self, matrix: Array, columns: list[str], origin: str = "") -> None:
        self.matrix = matrix
        self.columns = columns
        self.origin = origin
        self.shape = matrix.shape
        self.dtypes = [matrix.dtype] * len(columns)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        return self.matrix if dtype is None else self.matrix.astype(dtype)


class Summary(NamedTuple):
    """What the plan needs to know of one part."""

    place: str
    rows: int
    features: int
    dtype: np.dtype[Any]
    names: Array | None
    soft: bool
    labels: Array       # the different ones, sorted; the columns' numbers for distributions
    counts: Vector      # the weight of each
    weight: float


@contextlib.contextmanager
def named(place: str) -> Iterator[None]:
    """Errors in what was given say where."""
    try:
        yield
    except (TypeError, ValueError, NotImplementedError, OverflowError) as error:
        if str(error).startswith(place):
            raise
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"{place}: {error}") from error


def part(place: str, X: Any, y: Any, sample_weight: Any = None) -> Part | None:
    """Some rows, checked; None if there are none."""
    with named(place):
        shape = np.shape(X) if not hasattr(X, "shape") else X.shape
        if len(shape) == 2 and shape[0] == 0:
            if y is not None and len(y):
                raise ValueError(f"y has {len(y)} rows; it must have none, as X")
            return None
        features = check_features("X", X)
        if not isinstance(X, Named):
            check_no_stored_index(features)
        rows = features.matrix.shape[0]
        return Part(place, features.matrix, y, to_row_weights(sample_weight, rows), features.names)


def summary(rows: Part, known: Array | None = None) -> Summary:
    """Of a part; with all classes, if they are known, or those that are found in it."""
    n, features = rows.X.shape
    with named(rows.place):
        if known is None:
            labels, target = find_partition_classes("y", rows.y, n, stacklevel=2)
        else:
            labels, target = known, encode_target("y", rows.y, n, known, stacklevel=2)
        counts = weigh_classes(target, rows.weight, len(labels))
    return Summary(
        rows.place, n, features, rows.X.dtype, rows.names, target.ndim == 2, labels, counts, float(rows.weight.sum())
    )


class Plan(NamedTuple):
    """What all parts have in common."""

    classes: Array
    factors: Vector | None      # the weight of each class
    weight: float
    mass: float                 # sum of weight times target mass
    features: int
    dtype: np.dtype[Any]
    names: Array | None
    rows: tuple[int, ...]       # of each part

    @property
    def shape(self) -> tuple[int, int]:
        """Of the coefficients."""
        return (1 if len(self.classes) == 2 else len(self.classes)), self.features + 1

    def sums(self, rows: Part, n_threads: int | None) -> RowSums:
        """The sums over a part."""
        n = rows.X.shape[0]
        with named(rows.place):
            target = encode_target("y", rows.y, n, self.classes, stacklevel=2)
        weight = rows.weight
        if self.factors is not None:
            target, weight = apply_class_factors(target, weight, self.factors)
        return RowSums(rows.X.astype(self.dtype, copy=False), target, len(self.classes), weight, n_threads)

    def samples(self) -> list[slice]:
        """Of each part the rows that are in a sample of all: the same ones however the rows are cut into parts."""
        stride = stride_of(sum(self.rows), rows_wanted(self.shape[1], self.dtype.itemsize))
        first = 0
        slices = []
        for rows in self.rows:
            slices.append(slice(-first % stride, rows, stride))
            first += rows
        return slices


def plan(summaries: Sequence[Summary | None], class_weight: Any) -> Plan:
    """The plan for parts, in order, None for those without rows.

    Parameters
    ----------
    summaries : sequence of Summary or None
    class_weight : dict, "balanced" or None
    """
    filled = [s for s in summaries if s is not None]
    if not filled:
        raise ValueError("there are no rows (0 sample(s)) in X; there must be at least one")
    first = filled[0]
    for s in filled[1:]:
        if s.features != first.features:
            raise ValueError(
                f"{s.place} has {s.features} features, but {first.place} has {first.features}; all must have as many"
            )
        if not _same_names(s.names, first.names):
            raise ValueError(f"{s.place} has other feature names than {first.place}; all must have the same")
        if s.soft != first.soft:
            here, there = (("distributions" if x.soft else "labels") for x in (s, first))
            raise ValueError(f"y is {here} in {s.place}, but {there} in {first.place}; it must be one or the other")
        if s.soft and len(s.labels) != len(first.labels):
            raise ValueError(
                f"y has {len(s.labels)} columns in {s.place}, but {len(first.labels)} in {first.place}; all must have "
                "one for each class"
            )
        if kind_of(s.labels) != kind_of(first.labels):
            raise TypeError(
                f"y has dtype {s.labels.dtype} in {s.place}, but {first.labels.dtype} in {first.place}; labels must be "
                "of one kind"
            )
    classes = _union([s.labels for s in filled])
    if len(classes) < 2:
        raise ValueError(f"y has one class only, {classes[0]!s}; it must have at least 2")
    counts = np.zeros(len(classes))
    for s in filled:
        counts[np.searchsorted(classes, s.labels)] += s.counts
    weight, mass = math.fsum(s.weight for s in filled), float(counts.sum())
    factors = None
    if class_weight is not None:
        factors = to_class_factors(class_weight, classes, counts)
        weight = mass = float(counts @ factors)
    check_total_weight(weight)
    return Plan(
        classes, factors, weight, mass, first.features, np.result_type(*(s.dtype for s in filled)), first.names,
        tuple(0 if s is None else s.rows for s in summaries),
    )    # fmt: skip


def _same_names(a: Array | None, b: Array | None) -> bool:
    return np.array_equal(a, b) if a is not None and b is not None else a is b


def _union(labels: list[Array]) -> Array:
    try:
        return np.unique(np.concatenate(labels))
    except TypeError as error:
        raise TypeError(f"y has labels that cannot be sorted: {error}") from None


# --- sums over parts -------------------------------------------------------------------------------------------------


def sample_of(sums: RowSums, rows: slice) -> tuple[Any, Vector]:
    """Some rows of a part, as `joined` takes them."""
    return sums.X[rows], sums.mass[rows]


def joined(samples: Iterable[tuple[Any, Vector]], classes: int) -> Candidates:
    """The rows of several parts together."""
    features, masses = zip(*samples, strict=True)
    if all(isinstance(X, np.ndarray) for X in features):
        X: Any = np.concatenate(features)
    else:
        from scipy import sparse

        X = sparse.vstack([sparse.csr_array(X) for X in features], format="csr")
    return Candidates(X, np.concatenate(masses), classes)


class PartSums:
    """The sums over all parts; what goes over all of them is left to those who know where they are.

    Parameters
    ----------
    plan : Plan
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.rows = plan.shape[0]
        self.features = plan.features
        self.weight = plan.mass
        self.needs_no_blas = False
        self.order: Literal["C", "F"] = "C"
        self._sample: Candidates | None = None

    def candidates(self) -> Candidates:
        """Of the size of a few thousand times the features: read once and kept."""
        if self._sample is None:
            self._sample = self._read_sample()
        return self._sample

    def diagonal(self, matrix: Matrix) -> Matrix:
        return self._diagonal(matrix) / self.weight

    def ascent(self, l2: float, fit_intercept: bool, most: int) -> None:
        """It would go from row to row."""

    def _read_sample(self) -> Candidates:
        raise NotImplementedError

    def _diagonal(self, matrix: Matrix) -> Matrix:
        """The diagonal of the Hessian of the sum."""
        raise NotImplementedError


def diagonal(sums: RowSums, matrix: Matrix) -> Matrix:
    return sums.diagonal(matrix) * sums.weight if sums.weight > 0 else np.zeros(matrix.shape)


class SequentialSums(PartSums):
    """The sums over parts that are taken one after the other.

    Parameters
    ----------
    plan : Plan
    parts : callable
        Iterates over (number of the part, its RowSums), in order; those without rows are left out.
    """

    def __init__(self, plan: Plan, parts: Callable[[], Iterator[tuple[int, RowSums]]]) -> None:
        super().__init__(plan)
        self._parts = parts

    def loss_gradient(self, matrix: Matrix) -> tuple[float, Matrix]:
        losses, total = [], np.zeros(matrix.shape)
        for _, sums in self._parts():
            loss, gradient = sums.loss_gradient(matrix)
            losses.append(loss)
            total += gradient
            del sums    # before the next one is read
        return math.fsum(losses), total

    def hessian_product_at(self, matrix: Matrix) -> Callable[[Matrix], Matrix]:
        """Probabilities are computed anew for each product: reading the rows takes longer, and they need memory."""

        def product(direction: Matrix) -> Matrix:
            total = np.zeros(matrix.shape)
            for _, sums in self._parts():
                total += sums.hessian_product_at(matrix)(direction)
                del sums
            return total

        return product

    def separated(self, coef: Array, intercept: Array) -> bool:
        return all(separated(sums, coef, intercept) for _, sums in self._parts())

    def _read_sample(self) -> Candidates:
        slices = self.plan.samples()
        # A copy, lest a few rows keep all of their part in memory.
        copies = ((X.copy(), mass.copy()) for X, mass in (sample_of(sums, slices[i]) for i, sums in self._parts()))
        return joined(copies, len(self.plan.classes))

    def _diagonal(self, matrix: Matrix) -> Matrix:
        total = np.zeros(matrix.shape)
        for _, sums in self._parts():
            total += diagonal(sums, matrix)
            del sums
        return total


def separated(sums: RowSums, coef: Array, intercept: Array) -> bool:
    return sums.target.ndim == 1 and separates(sums.X, sums.target, coef, intercept, sums.mass)
