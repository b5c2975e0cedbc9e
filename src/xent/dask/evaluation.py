"""Evaluation of logits in Dask collections: one stream per block, merged exactly."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import dask
import dask.array
import numpy as np

from xent._calls.arrays import to_array
from xent._calls.scalars import check_integer
from xent.dask import tasks
from xent.dask.partitions import (
    Partitions,
    build_partitions,
    is_frame,
    is_partitioned,
    join_collections,
    use_aligned,
)
from xent.dask.rounds import add_reduction, present_engine
from xent.evaluation import Evaluation, StreamingLoss


def evaluate(
    logits: Any,
    target: Any,
    *,
    topk: int | Sequence[int] = (1, 5),
    axis: int = -1,
    sample_weight: Any = None,
    ignore_index: int = -100,
    reference: Any = None,
) -> Evaluation:
    """The measures of :func:`xent.evaluate`, of logits in a dask array, in one pass.

    Parameters
    ----------
    logits : dask array or dataframe
    target : dask array or series, or array_like
        Labels, of the shape of `logits` without `axis`. Rows are matched as in `LogisticRegression.fit`.
    topk, axis, ignore_index
        As in :func:`xent.evaluate`.
    sample_weight : dask array or series, or array_like, optional
        Of the shape of `target`.
    reference : dask array or dataframe, or array_like, optional
        The logits of another model, of the shape of `logits`.

    Returns
    -------
    Evaluation
        Equal to :func:`xent.evaluate` of all rows, to the last bit.

    Raises
    ------
    TypeError, ValueError
        If an argument has a wrong type, shape or value.

    Examples
    --------
    >>> import dask.array as da, xent.dask
    >>> logits = da.from_array([[2.0, 4.0, 0.5], [1.0, 0.0, 3.0]], chunks=(1, 3))
    >>> xent.dask.evaluate(logits, da.from_array([1, 0], chunks=1)).accuracy
    0.5
    """
    axis = check_integer("axis", axis)
    ndim = getattr(logits, "ndim", 0)
    if not (isinstance(logits, dask.array.Array) or is_frame(logits)) or not -ndim <= axis < ndim:
        raise TypeError(
            f"logits is a {type(logits).__name__}; it must be a dask array or dataframe that has an axis {axis}"
        )
    empty = StreamingLoss(topk=topk, axis=-1, ignore_index=ignore_index, n_threads=1)
    engine = present_engine()

    def evaluate_partitions(partitions: Partitions) -> StreamingLoss:
        names = [column.name for column in partitions.columns]
        same = [[value] * len(partitions) for value in (empty, names)]
        graph, keys = partitions.add_tasks("evaluate", tasks.evaluate_blocks, *same, partitions.places())
        (stream,) = engine.compute(graph, keys, [add_reduction(graph, keys, "merge", tasks.merge_streams)])
        return stream   # type: ignore[no-any-return]

    columns = {"target": target, "sample_weight": sample_weight, "reference": reference}
    partitions = _move_classes_last(logits, axis, columns)
    return use_aligned(partitions, engine, False, evaluate_partitions).result()


def _move_classes_last(logits: Any, axis: int, columns: dict[str, Any]) -> Partitions:
    """Partitions of the logits in which the last axis has all classes, and the other columns in blocks that match.

    With several axes of rows, blocks along all but the first must have known lengths: each position along these is a
    collection of its own, cut along the first axis only.
    """
    columns = {name: value for name, value in columns.items() if value is not None}
    if "reference" in columns:
        columns["reference"] = _move_reference(columns["reference"], axis, logits.ndim)
    if logits.ndim < 3:
        if isinstance(logits, dask.array.Array):
            logits = dask.array.moveaxis(logits, axis, -1).rechunk({logits.ndim - 1: -1})
        elif axis % logits.ndim == 0:
            raise ValueError("axis is 0; it must be -1 or 1, the columns, for a dask dataframe")
        return build_partitions({"logits": logits, **columns})
    logits = dask.array.moveaxis(logits, axis, -1)
    inner = logits.chunks[1:-1]
    logits = logits.rechunk({logits.ndim - 1: -1})
    given = {"logits": _split_inner_axes(logits)}
    for name, value in columns.items():
        is_dask = isinstance(value, dask.array.Array)
        array = value if is_dask else dask.array.from_array(to_array(name, value), chunks=-1)
        wanted = logits.shape if name == "reference" else logits.shape[:-1]
        if array.ndim != len(wanted) or array.shape[1:] != wanted[1:]:
            raise ValueError(f"{name} has shape {array.shape}; it must have shape {wanted}")
        given[name] = _split_inner_axes(array.rechunk({i + 1: chunks for i, chunks in enumerate(inner)}))
    return join_collections(given)


def _move_reference(reference: Any, axis: int, ndim: int) -> Any:
    """The reference as the logits are: with all classes in the last axis of each block."""
    if not isinstance(reference, dask.array.Array):
        if is_partitioned(reference) or hasattr(reference, "iloc"):
            return reference
        reference = to_array("reference", reference)
    if reference.ndim != ndim:
        raise ValueError(f"reference has {reference.ndim} dimensions; it must have {ndim}, as logits")
    if isinstance(reference, np.ndarray):
        return np.moveaxis(reference, axis, -1)
    return dask.array.moveaxis(reference, axis, -1).rechunk({ndim - 1: -1})


def _split_inner_axes(array: Any) -> list[Any]:
    """Arrays that are cut along the first axis only: one for each position of blocks along the others."""
    return [array.blocks[(slice(None), *place)] for place in itertools.product(*map(range, array.numblocks[1:]))]
