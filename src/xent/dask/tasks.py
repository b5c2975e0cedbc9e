"""What the tasks of a fit on Dask do: make a partition of its blocks, look at it, and take coefficients through it.

A partition becomes a `RowSums` that stays where it was made, or is made again for every pass over the data. Names in
Dask's dashboard are those of the tasks' keys: xent-partition, xent-summary, xent-rows once, and for each round
xent-coefficients, xent-loss-gradient (or the like) and xent-add.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from dask.sizeof import sizeof
from numpy.typing import NDArray

from xent._calls.dispatch import kernels
from xent._estimator import parameters as check
from xent._estimator.partitions import (
    NamedMatrix,
    Partition,
    Plan,
    Summary,
    check_partition,
    prefix_errors,
    summarise,
)
from xent._fit.partitioned import sum_diagonal, take_rows
from xent._fit.row_sums import RowSums
from xent._fit.types import Matrix
from xent.evaluation import StreamingLoss

Array = NDArray[Any]
Vector = NDArray[np.float64]


# --- blocks ----------------------------------------------------------------------------------------------------------


class RowsDiffer(ValueError):
    """Blocks of one partition have different numbers of rows."""


def length(name: str, block: Any) -> int:
    """The number of rows of a block of a column of that name."""
    shape = getattr(block, "shape", None)
    if shape is None and hasattr(block, "__len__"):
        return len(block)
    if not shape:
        raise TypeError(f"{name} is a {type(block).__name__}, which has no rows")
    return int(shape[0])


def rows_of(block: Any, rows: slice) -> Any:
    return block.iloc[rows] if hasattr(block, "iloc") else block[rows]


def joined_rows(cuts: Sequence[slice], *blocks: Any) -> Any:
    """Some rows of each block, one below the other."""
    pieces = [rows_of(block, cut) for block, cut in zip(blocks, cuts, strict=True)]
    if len(pieces) == 1:
        return pieces[0]
    if all(hasattr(piece, "iloc") for piece in pieces):
        from dask.dataframe.dispatch import concat

        return concat(pieces)
    if any(hasattr(piece, "tocsr") for piece in pieces):
        from scipy import sparse

        return sparse.vstack(pieces, format="csr")
    return np.concatenate([np.asarray(piece) for piece in pieces])


def part(place: str, *blocks: Any) -> Partition | None:
    """The rows of a partition, from a block of each of X, y and, if given, the weights; or from one that has all."""
    if len(blocks) == 1:
        if not isinstance(blocks[0], tuple | list) or len(blocks[0]) not in (2, 3):
            kind = type(blocks[0]).__name__
            raise TypeError(f"{place} is a {kind}; without y it must be (X, y) or (X, y, sample_weight)")
        blocks = tuple(blocks[0])
    else:
        same_rows(place, ("X", "y", "sample_weight"), blocks)
    same_index(place, ("X", "y", "sample_weight"), blocks)
    return check_partition(place, *blocks)


def same_rows(place: str, names: Sequence[str], blocks: Sequence[Any]) -> None:
    with prefix_errors(place):
        rows = [length(name, block) for name, block in zip(names, blocks, strict=False)]
    for name, own in zip(names, rows, strict=False):
        if own != rows[0]:
            raise RowsDiffer(f"{place}: {name} has {own} rows; it must have {rows[0]}, as {names[0]}")


def same_index(place: str, names: Sequence[str], blocks: Sequence[Any]) -> None:
    """Rows are matched by their position. Where pandas says by its index that it is not the same row, it is not."""
    indexed = [(name, b.index) for name, b in zip(names, blocks, strict=False) if hasattr(b, "iloc")]
    for name, index in indexed[1:]:
        other, first = indexed[0]
        if len(index) != len(first) or index.equals(first):
            continue
        pairs = zip(index.tolist(), first.tolist(), strict=True)
        labels = ((i, repr(here), repr(there)) for i, (here, there) in enumerate(pairs))
        different = next((pair for pair in labels if pair[1] != pair[2]), None)
        if different is None:       # equal labels of other types
            continue
        row, here, there = different
        raise ValueError(
            f"{place}{': ' * bool(place)}the index of {name} is {here} in row {row}, but that of {other} is {there}; "
            "both must be equal, since rows are matched by their position (take arrays of values if that is meant)"
        )


# --- partitions ------------------------------------------------------------------------------------------------------


def same(x: Any) -> Any:
    return x


def summary(part: Partition | None, known: Array | None) -> Summary | None:
    return None if part is None else summarise(part, known)


def summary_of(place: str, known: Array | None, *blocks: Any) -> Summary | None:
    return summary(part(place, *blocks), known)


def part_and_summary(
    place: str, known: Array | None, *blocks: Any
) -> tuple[Partition | None, Summary | None]:
    rows = part(place, *blocks)
    return rows, summary(rows, known)


def prepared(part: Partition, plan: Plan, n_threads: int | None) -> RowSums:
    return plan.row_sums(part, n_threads)


class Seen(NamedTuple):
    """What the first pass found in a partition."""

    rows: int
    counts: Vector      # the weight of each class


@dataclass(frozen=True)     # and no tuple, into which Dask would look for its keys
class Pass:
    """What is computed of each partition that is read again."""

    plan: Plan
    n_threads: int | None
    function: Callable[..., Any]
    arguments: Sequence[Any]


def reread(i: int, seen: Seen, task: Pass, *blocks: Any) -> RowSums | None:
    """The sums over a partition; None if it has no rows. It must have the rows that it had."""
    place = f"partition {i}"
    rows = part(place, *blocks)
    number = 0 if rows is None else rows.X.shape[0]
    if number != seen.rows:
        raise ValueError(f"{place} has {number} rows, but had {seen.rows} at the first pass: {_AGAIN}")
    if rows is None:
        return None
    plan = task.plan
    if rows.X.shape[1] != plan.features:
        raise ValueError(f"{place} has {rows.X.shape[1]} features, but had {plan.features} at the first pass: {_AGAIN}")
    sums = plan.row_sums(rows, task.n_threads)
    weight = np.ones(number) if sums.rows.sample_weight is None else sums.rows.sample_weight
    counts = check.class_counts(sums.rows.target, weight, len(plan.classes))
    then = seen.counts if plan.class_factors is None else seen.counts * plan.class_factors
    if not np.allclose(counts, then, rtol=SAME, atol=SAME * then.sum()):
        raise ValueError(f"{place} has other labels or weights than at the first pass: {_AGAIN}")
    return sums


SAME = 1e-9         # relatively: weights of the same rows may be added in another order
_AGAIN = "with persist=False a source must give the same rows each time that it is read"


def sample_reread(i: int, seen: Seen, task: Pass, *blocks: Any) -> tuple[Any, Vector] | None:
    """Some rows of a partition: `task` has the slices of all of them."""
    sums = reread(i, seen, task, *blocks)
    return None if sums is None else sample(sums, task.arguments[i])


def each_reread(i: int, seen: Seen, task: Pass, *blocks: Any) -> tuple[Array, float]:
    """As `each`, of one partition."""
    start = time.perf_counter()
    sums = reread(i, seen, task, *blocks)
    if sums is None:
        return np.zeros((0, 3)), time.perf_counter() - start
    return each([sums], [i], task.function, task.arguments, start)


def loss_gradient(prepared: RowSums, matrix: Matrix) -> Vector:
    loss, gradient = prepared.loss_gradient(matrix)
    return np.append(gradient, loss)


def hessian_product(prepared: RowSums, matrix: Matrix, direction: Matrix) -> Matrix:
    return prepared.hessian_product_at(matrix)(direction)


def product(curvature: Callable[[Matrix], Matrix], direction: Matrix) -> Matrix:
    return curvature(direction)


def diagonal(prepared: RowSums, matrix: Matrix) -> Matrix:
    return sum_diagonal(prepared, matrix)


def outside(prepared: RowSums, coef: Array, intercept: Array) -> Vector:
    return np.array([0.0 if prepared.are_separated(coef, intercept) else 1.0])


def sample(prepared: RowSums, rows: slice) -> tuple[Any, Vector]:
    return take_rows(prepared, rows)


def each(
    group: Sequence[Any],
    numbers: Sequence[int],
    function: Callable[..., Array],
    arguments: Sequence[Array],
    start: float | None = None,
) -> tuple[Array, float]:
    """The exact sums of what a function returns of each partition of a group, and the time that it took."""
    start = time.perf_counter() if start is None else start
    sums = np.zeros((0, 3))
    for i, prepared in zip(numbers, group, strict=True):
        try:
            with np.errstate(all="ignore"):
                result = np.ascontiguousarray(function(prepared, *arguments), np.float64)
        except Exception as error:
            raise located(i, error) from error
        if not sums.size:
            sums = np.zeros((result.size, 3))
        kernels.add_each_exactly(sums, result)
    return sums, time.perf_counter() - start


def curvatures(group: Sequence[Any], numbers: Sequence[int], matrix: Matrix) -> list[Any]:
    return [prepared.hessian_product_at(matrix) for prepared in group]


def add(results: Sequence[tuple[Array, float]]) -> tuple[Array, float]:
    filled = [each for each, _ in results if each.size] or [results[0][0]]
    sums = filled[0].copy()
    for more in filled[1:]:
        kernels.add_each_exactly(sums, more)
    return sums, sum(seconds for _, seconds in results)


def rounded(sums: Array) -> Vector:
    """The nearest float64: three numbers hold so many digits that it is the same in any order of the terms. What an
    infinite sum has lost is NaN."""

    def two_sum(a: Vector, b: Vector) -> tuple[Vector, Vector]:
        total = a + b
        part = total - a
        return total, (a - (total - part)) + (b - part)

    with np.errstate(all="ignore"):
        low, lowest = two_sum(sums[:, 1], sums[:, 2])
        high, low = two_sum(sums[:, 0], low)
        rest = low + lowest
        return np.where(np.isfinite(rest), high + rest, sums[:, 0])


# --- scores ----------------------------------------------------------------------------------------------------------


def right(model: Any, place: str, *blocks: Any) -> tuple[float, float]:
    """The weight of the rows whose label is predicted, and of all rows."""
    rows = part(place, *blocks)
    if rows is None:
        return 0.0, 0.0
    with prefix_errors(place):
        target = check.target_array("y", rows.y)
        if check.distribution("y", target, rows.X.shape[0]) is None:    # checked in rows without weight too
            check.places("y", target, rows.X.shape[0], model.classes_, stacklevel=2)
        weight = float(rows.weight.sum())
        if not weight > 0:
            return 0.0, 0.0
        X = rows.X if rows.names is None else NamedMatrix(rows.X, list(rows.names))
        return model.score(X, rows.y, rows.weight) * weight, weight


def evaluated(empty: StreamingLoss, place: str, *blocks: Any) -> StreamingLoss:
    """A stream, as an empty one, that has seen a block of the logits, the target and, if given, the weights."""
    names = ("logits", "target", "sample_weight")
    stream = StreamingLoss(topk=empty.topk, axis=empty.axis, ignore_index=empty.ignore_index, n_threads=1)
    logits, target, *weight = blocks
    if getattr(target, "shape", ()) or getattr(logits, "ndim", 2) > 1:
        same_rows(place, names, blocks)
    same_index(place, names, blocks)
    with prefix_errors(place):
        return stream.update(logits, target, sample_weight=weight[0] if weight else None)


def merged(streams: Sequence[StreamingLoss]) -> StreamingLoss:
    first = streams[0]
    total = StreamingLoss(topk=first.topk, axis=first.axis, ignore_index=first.ignore_index, n_threads=1)
    for stream in streams:
        total.merge(stream)
    return total


# --- sizes and errors ------------------------------------------------------------------------------------------------


def _size_of_sums(sums: RowSums) -> int:
    return sum(sizeof(a) for a in (sums.rows.X, sums.rows.target, sums.rows.row_weight))


def _size_of_part(part: Partition) -> int:
    return sum(sizeof(a) for a in (part.X, part.y, part.weight))


sizeof.register(RowSums, _size_of_sums)
sizeof.register(Partition, _size_of_part)


def names_partition(error: BaseException) -> bool:
    return isinstance(error, TypeError | ValueError | RuntimeError) and str(error).startswith("partition ")


def located(i: int, error: BaseException) -> Exception:
    """The error, if it says which partition it is about; else one that does."""
    if isinstance(error, Exception) and names_partition(error):
        return error
    return RuntimeError(f"partition {i} could not be read or computed: {type(error).__name__}: {error}")
