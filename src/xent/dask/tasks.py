"""Tasks: the functions that Dask runs, each on one partition or on the results of others.

A task makes a partition from its blocks (one of X, one of y, one of the weights), checks it, and summarises it or makes
a `RowSums` from it, which stays where it was made; with ``persist=False`` it is made again for every evaluation.
Every evaluation is a `sum_over` partitions, whose results `add_sums` adds and `round_sums` rounds once.

A task is shown in Dask's dashboard under the name of its key: xent-partition, xent-summary and xent-rows once per fit;
xent-coefficients, xent-loss-gradient (or another sum) and xent-add in every round.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from dask.sizeof import sizeof
from numpy.typing import NDArray

from xent._calls.arrays import to_array
from xent._calls.dispatch import kernels
from xent._estimator.labels import encode_labels, to_distribution, to_target
from xent._estimator.partitions import NamedMatrix, Partition, Plan, Summary, check_partition, prefix_errors, summarise
from xent._estimator.weights import weigh_classes
from xent._fit.partitioned import take_rows
from xent._fit.row_sums import RowSums
from xent._fit.types import Matrix
from xent.evaluation import StreamingLoss

Array = NDArray[Any]
Vector = NDArray[np.float64]


# --- blocks ----------------------------------------------------------------------------------------------------------

COLUMNS = ("X", "y", "sample_weight")


class LengthsDiffer(ValueError):
    """The blocks of one partition have different numbers of rows."""


def count_rows(name: str, block: Any) -> int:
    shape = getattr(block, "shape", None)
    if shape is None and hasattr(block, "__len__"):
        return len(block)
    if not shape:
        raise TypeError(f"{name} is a {type(block).__name__}, which has no rows")
    return int(shape[0])


def slice_rows(block: Any, rows: slice) -> Any:
    return block.iloc[rows] if hasattr(block, "iloc") else block[rows]


def stack_rows(cuts: Sequence[slice], *blocks: Any) -> Any:
    """The rows cuts[i] of blocks[i], for all i, in one block."""
    pieces = [slice_rows(block, cut) for block, cut in zip(blocks, cuts, strict=True)]
    if len(pieces) == 1:
        return pieces[0]
    if all(hasattr(piece, "iloc") for piece in pieces):
        from dask.dataframe.dispatch import concat

        return concat(pieces)
    if any(hasattr(piece, "tocsr") for piece in pieces):
        from scipy import sparse

        return sparse.vstack(pieces, format="csr")
    return np.concatenate([to_array("a block", piece) for piece in pieces])


def check_lengths(place: str, names: Sequence[str], blocks: Sequence[Any]) -> None:
    with prefix_errors(place):
        lengths = [count_rows(name, block) for name, block in zip(names, blocks, strict=False)]
    for name, length in zip(names, lengths, strict=False):
        if length != lengths[0]:
            raise LengthsDiffer(f"{place}: {name} has {length} rows; it must have {lengths[0]}, as {names[0]}")


def check_indexes(place: str, names: Sequence[str], blocks: Sequence[Any]) -> None:
    """Raise if pandas indexes contradict the pairing of rows by position."""
    indexed = [(name, b.index) for name, b in zip(names, blocks, strict=False) if hasattr(b, "iloc")]
    for name, index in indexed[1:]:
        other, first = indexed[0]
        if len(index) != len(first) or index.equals(first):
            continue
        pairs = zip(index.tolist(), first.tolist(), strict=True)
        labels = ((i, repr(here), repr(there)) for i, (here, there) in enumerate(pairs))
        different = next((pair for pair in labels if pair[1] != pair[2]), None)
        if different is None:       # equal labels of different types
            continue
        row, here, there = different
        raise ValueError(
            f"{place}{': ' * bool(place)}the index of {name} is {here} in row {row}, but that of {other} is {there}; "
            "both must be equal, because rows are matched by position (to ignore the indexes, pass arrays of values)"
        )


# --- partitions ------------------------------------------------------------------------------------------------------


def make_partition(place: str, *blocks: Any) -> Partition | None:
    """The checked rows of a partition, from blocks of X, y and perhaps weights, or from one block that is a tuple of
    these; None if there are no rows."""
    if len(blocks) == 1:
        if not isinstance(blocks[0], tuple | list) or len(blocks[0]) not in (2, 3):
            kind = type(blocks[0]).__name__
            raise TypeError(f"{place} is a {kind}; without y it must be (X, y) or (X, y, sample_weight)")
        blocks = tuple(blocks[0])
    else:
        check_lengths(place, COLUMNS, blocks)
    check_indexes(place, COLUMNS, blocks)
    return check_partition(place, *blocks)


def summarise_partition(partition: Partition | None, known: Array | None) -> Summary | None:
    return None if partition is None else summarise(partition, known)


def read_summary(place: str, known: Array | None, *blocks: Any) -> Summary | None:
    return summarise_partition(make_partition(place, *blocks), known)


def read_partition(
    place: str, known: Array | None, *blocks: Any
) -> tuple[Partition | None, Summary | None]:
    partition = make_partition(place, *blocks)
    return partition, summarise_partition(partition, known)


def make_sums(partition: Partition, plan: Plan, n_threads: int | None) -> RowSums:
    return plan.row_sums(partition, n_threads)


def identity(x: Any) -> Any:
    return x


# --- sums over a partition -------------------------------------------------------------------------------------------


def loss_gradient(sums: RowSums, matrix: Matrix) -> Vector:
    """The gradient, row after row, and the loss in the last place."""
    loss, gradient = sums.loss_gradient(matrix)
    return np.append(gradient, loss)


def hessian_product(sums: RowSums, matrix: Matrix, direction: Matrix) -> Matrix:
    return sums.hessian_product_at(matrix)(direction)


def make_hessian_products(group: Sequence[RowSums], numbers: Sequence[int], matrix: Matrix) -> list[Any]:
    return [sums.hessian_product_at(matrix) for sums in group]


def apply_hessian_product(product: Callable[[Matrix], Matrix], direction: Matrix) -> Matrix:
    return product(direction)


def hessian_triangle(sums: RowSums, matrix: Matrix) -> Vector:
    """The upper triangle of the Hessian, row after row."""
    hessian = sums.hessian(matrix)
    triangle: Vector = hessian[np.triu_indices(len(hessian))]
    return triangle


def not_separated(sums: RowSums, coef: Array, intercept: Array) -> Vector:
    """1 if a row is not on the side of its class, else 0: the sum is 0 if all partitions are separated."""
    return np.array([0.0 if sums.are_separated(coef, intercept) else 1.0])


# --- exact sums over partitions --------------------------------------------------------------------------------------


def sum_over(
    group: Sequence[Any],
    numbers: Sequence[int],
    function: Callable[..., Array],
    arguments: Sequence[Array],
    start: float | None = None,
) -> tuple[Array, float]:
    """The exact sum of function(partition, *arguments) over the partitions of a group, and the seconds it took.

    The sum of n numbers has shape (n, 3): for each the total, its rounding errors, and the rounding errors of those.
    """
    start = time.perf_counter() if start is None else start
    sums = np.zeros((0, 3))
    for i, prepared in zip(numbers, group, strict=True):
        try:
            with np.errstate(all="ignore"):
                result = np.ascontiguousarray(function(prepared, *arguments), np.float64)
        except Exception as error:
            raise locate_error(i, error) from error
        if not sums.size:
            sums = np.zeros((result.size, 3))
        kernels.add_each_exactly(sums, result)
    return sums, time.perf_counter() - start


def add_sums(results: Sequence[tuple[Array, float]]) -> tuple[Array, float]:
    """Add what `sum_over` returned for several groups. Groups without rows have sums of length 0."""
    filled = [sums for sums, _ in results if sums.size] or [results[0][0]]
    total = filled[0].copy()
    for sums in filled[1:]:
        kernels.add_each_exactly(total, sums)
    return total, sum(seconds for _, seconds in results)


def round_sums(sums: Array) -> Vector:
    """The float64 nearest to each sum. Three numbers have enough digits that the order of the terms does not matter.
    If a total is infinite, its two corrections are NaN and ignored."""
    ordered = np.zeros_like(sums)
    kernels.add_each_exactly(ordered, np.ascontiguousarray(sums[:, ::-1]))      # the smallest first
    with np.errstate(invalid="ignore"):
        return np.where(np.isfinite(ordered[:, 1]), ordered[:, 0] + ordered[:, 1], sums[:, 0])


# --- partitions that are read again for every sum --------------------------------------------------------------------


class FirstPass(NamedTuple):
    """The rows and class weights of a partition in the first pass."""

    rows: int
    counts: Vector      # the weight of each class


@dataclass(frozen=True)     # a tuple would be searched by Dask for keys
class RereadTask:
    """The computation for each partition that is read again."""

    plan: Plan
    n_threads: int | None
    function: Callable[..., Any]
    arguments: Sequence[Any]


def reread_sums(i: int, seen: FirstPass, task: RereadTask, *blocks: Any) -> RowSums | None:
    """Make the sums over partition i again; None if it has no rows. Raise if its rows differ from the first pass."""
    place = f"partition {i}"
    partition = make_partition(place, *blocks)
    rows = 0 if partition is None else partition.X.shape[0]
    if rows != seen.rows:
        raise ValueError(f"{place} has {rows} rows, but had {seen.rows} in the first pass: {_AGAIN}")
    if partition is None:
        return None
    plan, features = task.plan, partition.X.shape[1]
    if features != plan.features:
        raise ValueError(f"{place} has {features} features, but had {plan.features} in the first pass: {_AGAIN}")
    sums = plan.row_sums(partition, task.n_threads)
    weight = np.ones(rows) if sums.rows.sample_weight is None else sums.rows.sample_weight
    counts = weigh_classes(sums.rows.target, weight, len(plan.classes))
    expected = seen.counts if plan.class_factors is None else seen.counts * plan.class_factors
    if not np.allclose(counts, expected, rtol=COUNT_ERROR, atol=COUNT_ERROR * expected.sum()):
        raise ValueError(f"{place} has other labels or weights than in the first pass: {_AGAIN}")
    return sums


COUNT_ERROR = 1e-9      # relative: the weights of the same rows may be added in another order
_AGAIN = "with persist=False a source must yield the same rows every time"


def reread_subsample(i: int, seen: FirstPass, task: RereadTask, *blocks: Any) -> tuple[Any, Vector] | None:
    """As `take_rows`; the arguments of the task are the slices of all partitions."""
    sums = reread_sums(i, seen, task, *blocks)
    return None if sums is None else take_rows(sums, task.arguments[i])


def reread_and_sum(i: int, seen: FirstPass, task: RereadTask, *blocks: Any) -> tuple[Array, float]:
    """As `sum_over` one partition."""
    start = time.perf_counter()
    sums = reread_sums(i, seen, task, *blocks)
    return sum_over([] if sums is None else [sums], [] if sums is None else [i], task.function, task.arguments, start)


# --- scores and evaluations ------------------------------------------------------------------------------------------


def count_right(model: Any, place: str, *blocks: Any) -> tuple[float, float]:
    """The weight of the rows whose label is predicted, and of all rows."""
    partition = make_partition(place, *blocks)
    if partition is None:
        return 0.0, 0.0
    with prefix_errors(place):
        target, rows = to_target("y", partition.y), partition.X.shape[0]
        if to_distribution("y", target, rows) is None:       # also where all weights are 0
            encode_labels("y", target, rows, model.classes_, stacklevel=2)
        weight = float(partition.weight.sum())
        if not weight > 0:
            return 0.0, 0.0
        X = partition.X if partition.names is None else NamedMatrix(partition.X, list(partition.names))
        return model.score(X, partition.y, partition.weight) * weight, weight


def evaluate_blocks(empty: StreamingLoss, names: Sequence[str], place: str, *blocks: Any) -> StreamingLoss:
    """A stream with the options of `empty` that has seen blocks of the arguments of `update` that have these names."""
    given = dict(zip(names, blocks, strict=True))
    if getattr(given["target"], "shape", ()) or getattr(given["logits"], "ndim", 2) > 1:
        check_lengths(place, names, blocks)
    check_indexes(place, names, blocks)
    with prefix_errors(place):
        return _new_stream(empty).update(**given)


def merge_streams(streams: Sequence[StreamingLoss]) -> StreamingLoss:
    total = _new_stream(streams[0])
    for stream in streams:
        total.merge(stream)
    return total


def _new_stream(like: StreamingLoss) -> StreamingLoss:
    return StreamingLoss(topk=like.topk, axis=like.axis, ignore_index=like.ignore_index, n_threads=1)


# --- sizes and errors ------------------------------------------------------------------------------------------------


def _size_of_sums(sums: RowSums) -> int:
    return sum(map(sizeof, (sums.rows.X, sums.rows.target, sums.rows.row_weight)))


def _size_of_partition(partition: Partition) -> int:
    return sum(map(sizeof, (partition.X, partition.y, partition.weight)))


sizeof.register(RowSums, _size_of_sums)
sizeof.register(Partition, _size_of_partition)


def names_partition(error: BaseException) -> bool:
    return isinstance(error, TypeError | ValueError | RuntimeError) and str(error).startswith("partition ")


def locate_error(i: int, error: BaseException) -> Exception:
    """The error itself if its message names the partition; else a RuntimeError that does."""
    if isinstance(error, Exception) and names_partition(error):
        return error
    return RuntimeError(f"partition {i} could not be read or computed: {type(error).__name__}: {error}")
