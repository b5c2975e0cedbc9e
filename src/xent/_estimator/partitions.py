"""Rows in partitions: checks each partition, and combines their summaries.

A fit looks at every partition once, for its `Summary`. All summaries make a `Plan`: the classes, their weights and the
number of features, which a partition cannot know by itself. With the plan any partition becomes a `RowSums`; sums over
these are in `xent._fit.partitioned`. Nothing here knows where partitions are.

Each summary and each error is of one place, such as "block 3", for the messages.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from xent._estimator.features import Features, check_features, check_no_stored_index
from xent._estimator.labels import encode_target, find_partition_classes, kind_of
from xent._estimator.weights import (
    apply_class_factors,
    check_total_weight,
    to_class_factors,
    to_row_weights,
    weigh_classes,
)
from xent._fit.partitioned import Layout
from xent._fit.row_sums import RowSums
from xent._fit.sums import Sums

Array = NDArray[Any]
Vector = NDArray[np.float64]


NO_ROWS = "there are no rows (0 sample(s)) in X; there must be at least one"


class FitData(NamedTuple):
    """The data of a fit, in memory or not."""

    sums: Sums
    classes: Array
    weight: float           # the sum of the sample weights, under the class weights
    dtype: np.dtype[Any]
    names: Array | None     # of the features
    are_separated: Callable[[Array, Array], bool]       # whether coefficients and intercepts give each row its class


class Partition(NamedTuple):
    """Some rows, checked, with labels or distributions as they came."""

    place: str
    X: Any
    y: Any
    weight: Vector
    names: Array | None


class PartitionSource:
    """Rows that come in partitions, and can be read again; the base class of `xent.Blocks`."""

    def _read_partitions(self) -> Iterator[Partition | None]:
        """The partitions in order; None for those without rows."""
        raise NotImplementedError

    def _read_features(self) -> Iterator[tuple[str, Features]]:
        """The place and the features of each partition that has rows; labels are not looked at."""
        raise NotImplementedError


class NamedMatrix:
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
    """The summary of one partition, for the plan."""

    place: str
    rows: int
    features: int
    dtype: np.dtype[Any]
    names: Array | None
    soft: bool          # whether y is distributions
    labels: Array       # the different ones, sorted; the columns' numbers for distributions
    counts: Vector      # the weight of each
    weight: float


@contextlib.contextmanager
def prefix_errors(place: str) -> Iterator[None]:
    """Prefix errors about arguments with their place."""
    try:
        yield
    except (TypeError, ValueError, NotImplementedError, OverflowError) as error:
        if str(error).startswith(place):
            raise
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"{place}: {error}") from error


@contextlib.contextmanager
def prefix_read_errors(place: str) -> Iterator[None]:
    """Prefix errors of reading a file with their place. For a damaged file, zipfile, NumPy, the decompressors and
    pyarrow raise almost anything, and hardly ever say which file it is."""
    try:
        yield
    except OSError as error:
        if type(error) is not OSError or error.filename is not None or str(error).startswith(place):
            raise       # the system's errors name the file
        raise OSError(f"{place}: {error}") from error
    except Exception as error:
        if str(error).startswith(place):
            raise
        kind = next((k for k in (TypeError, MemoryError) if isinstance(error, k)), ValueError)
        raise kind(f"{place}: {str(error) or type(error).__name__}") from error


def has_no_rows(X: Any) -> bool:
    shape = np.shape(X) if not hasattr(X, "shape") else X.shape
    return len(shape) == 2 and shape[0] == 0


def check_partition(place: str, X: Any, y: Any, sample_weight: Any = None) -> Partition | None:
    """The rows of a partition; None if there are none."""
    with prefix_errors(place):
        if has_no_rows(X):
            if y is not None and len(y):
                raise ValueError(f"y has {len(y)} rows; it must have none, as X")
            return None
        features = check_features("X", X)
        if not isinstance(X, NamedMatrix):
            check_no_stored_index(features)
        rows = features.matrix.shape[0]
        return Partition(place, features.matrix, y, to_row_weights(sample_weight, rows), features.names)


def summarise(partition: Partition, known: Array | None = None) -> Summary:
    """The summary of a partition; with all classes if they are known, else with those that are found in it."""
    n, features = partition.X.shape
    with prefix_errors(partition.place):
        if known is None:
            labels, target = find_partition_classes("y", partition.y, n, stacklevel=2)
        else:
            labels, target = known, encode_target("y", partition.y, n, known, stacklevel=2)
        counts = weigh_classes(target, partition.weight, len(labels))
    return Summary(
        partition.place, n, features, partition.X.dtype, partition.names, target.ndim == 2, labels, counts,
        float(partition.weight.sum()),
    )  # fmt: skip


class Plan(NamedTuple):
    """The properties that all partitions share."""

    classes: Array
    class_factors: Vector | None    # the weight of each class
    weight: float                   # the sum of the sample weights, under the class weights
    row_weight: float               # the sum of weight times target mass
    features: int
    dtype: np.dtype[Any]
    names: Array | None
    partition_lengths: tuple[int, ...]

    @property
    def layout(self) -> Layout:
        return Layout(len(self.classes), self.features, self.dtype, self.row_weight, self.partition_lengths)

    def row_sums(self, partition: Partition, n_threads: int | None) -> RowSums:
        """The sums over a partition."""
        n = partition.X.shape[0]
        with prefix_errors(partition.place):
            target = encode_target("y", partition.y, n, self.classes, stacklevel=2)
        weight = partition.weight
        if self.class_factors is not None:
            target, weight = apply_class_factors(target, weight, self.class_factors)
        return RowSums(partition.X.astype(self.dtype, copy=False), target, len(self.classes), weight, n_threads)

    def fit_data(self, sums: Sums, are_separated: Callable[[Array, Array], bool]) -> FitData:
        return FitData(sums, self.classes, self.weight, self.dtype, self.names, are_separated)


def make_plan(summaries: Sequence[Summary | None], class_weight: Any) -> Plan:
    """The plan for partitions, in order, None for those without rows.

    Parameters
    ----------
    summaries : sequence of Summary or None
    class_weight : dict, "balanced" or None
    """
    filled = [s for s in summaries if s is not None]
    if not filled:
        raise ValueError(NO_ROWS)
    first = filled[0]
    for s in filled[1:]:
        _check_alike(s, first)
    classes = _unite([s.labels for s in filled])
    if len(classes) < 2:
        raise ValueError(f"y has one class only, {classes[0]!s}; it must have at least 2")
    counts = np.zeros(len(classes))
    for s in filled:
        counts[np.searchsorted(classes, s.labels)] += s.counts
    weight, row_weight = math.fsum(s.weight for s in filled), float(counts.sum())
    factors = None
    if class_weight is not None:
        factors = to_class_factors(class_weight, classes, counts)
        weight = row_weight = float(counts @ factors)
    check_total_weight(weight)
    return Plan(
        classes, factors, weight, row_weight, first.features, np.result_type(*(s.dtype for s in filled)), first.names,
        tuple(0 if s is None else s.rows for s in summaries),
    )  # fmt: skip


def _check_alike(s: Summary, first: Summary) -> None:
    """Raise unless a partition can belong to the same data as the first."""
    if s.features != first.features:
        raise ValueError(
            f"{s.place} has {s.features} features, but {first.place} has {first.features}; they must be the same"
        )
    if not _same_names(s.names, first.names):
        raise ValueError(f"{s.place} has other feature names than {first.place}; all must have the same")
    if s.soft != first.soft:
        here, there = (("distributions" if x.soft else "labels") for x in (s, first))
        raise ValueError(f"y is {here} in {s.place}, but {there} in {first.place}; it must be one or the other")
    if s.soft and len(s.labels) != len(first.labels):
        raise ValueError(
            f"y has {len(s.labels)} columns in {s.place}, but {len(first.labels)} in {first.place}; all must have one "
            "for each class"
        )
    found, expected = kind_of(s.labels), kind_of(first.labels)
    if found != expected:
        raise TypeError(
            f"y has {found} labels in {s.place}, but {expected} labels in {first.place}; they must be of one kind"
        )


def _same_names(a: Array | None, b: Array | None) -> bool:
    return np.array_equal(a, b) if a is not None and b is not None else a is b


def _unite(labels: list[Array]) -> Array:
    try:
        return np.unique(np.concatenate(labels))
    except TypeError as error:
        raise TypeError(f"y has labels that cannot be sorted: {error}") from None
