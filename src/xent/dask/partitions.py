"""What is given to one call on Dask, planned together: one graph, and the blocks of each partition.

Dask computes once what collections have in common only if it optimises them together, as ``dask.compute(X, y)`` does.
Optimised alone, as `to_delayed` does it, X and y would each be read by themselves, in fewer partitions if they need few
columns, and after a shuffle their rows would be in different orders. So all dataframes become one expression here, and
all arrays one graph. Small partitions are not fused: errors number them as the user does.

Rows belong together by position. Blocks of y that are not as long as those of X are cut and joined; lengths that are
not known are computed for that, once.
"""

from __future__ import annotations

import bisect
import itertools
import math
import secrets
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import dask
import dask.array
import numpy as np
from dask._task_spec import DataNode, Task, TaskRef, convert_legacy_graph
from dask.array.optimization import optimize as optimize_arrays
from dask.base import collections_to_expr
from dask.core import flatten
from dask.delayed import Delayed
from dask.highlevelgraph import HighLevelGraph, MaterializedLayer
from dask.optimization import cull

from xent._calls.arrays import to_array
from xent._estimator.sklearn_protocol import DataConversionWarning, shared
from xent.dask import tasks
from xent.dask.rounds import Engine, Graph, one_layer, present_client

T = TypeVar("T")


@dataclass(frozen=True)
class Column:
    """X, y or the weights, in blocks of rows.

    Attributes
    ----------
    name : str
    blocks : list
        References to tasks of the graph, or values.
    lengths : list of int or None
        How many rows each has; None if that is not known.
    """

    name: str
    blocks: list[Any]
    lengths: list[int] | None = None


@dataclass(frozen=True)
class Partitions:
    """Columns of the same rows, and the graph that computes them."""

    graph: Graph
    columns: list[Column]
    held: Any = None    # keeps blocks in memory that are not in the graph

    def __len__(self) -> int:
        return len(self.columns[0].blocks)

    def tasks(self, name: str, function: Callable[..., Any], *arguments: Sequence[Any]) -> tuple[Graph, list[str]]:
        """The graph with a task for each partition, function(*arguments of it, *blocks of it), and their keys."""
        graph = dict(self.graph)
        token = secrets.token_hex(6)
        rows = zip(*arguments, *(column.blocks for column in self.columns), strict=True)
        added = [Task(f"xent-{name}-{token}-{i}", function, *row) for i, row in enumerate(rows)]
        graph.update((task.key, task) for task in added)
        return graph, [task.key for task in added]

    def places(self) -> list[str]:
        return [f"partition {i}" for i in range(len(self))]

    def may_match(self) -> bool:
        """Whether the blocks are as many, and of the same lengths as far as those are known."""
        known = [column.lengths for column in self.columns if column.lengths is not None]
        return all(len(column.blocks) == len(self) for column in self.columns) and all(
            lengths == known[0] for lengths in known
        )


def matched(partitions: Partitions, engine: Engine, persist: bool, use: Callable[[Partitions], T]) -> T:
    """What a function makes of partitions whose rows belong together.

    Blocks that are as many are taken as they are; their lengths are looked at only if the function finds that they
    differ, or if there are not as many. With `persist` they are then read once, and kept until the function is done.
    """
    if partitions.may_match():
        try:
            return use(partitions)
        except tasks.RowsDiffer:
            pass
    if persist:
        partitions = _held(partitions, engine)
    return use(_cut(partitions, engine))


def _held(partitions: Partitions, engine: Engine) -> Partitions:
    wanted = [block for column in partitions.columns for block in column.blocks if isinstance(block, TaskRef)]
    keys = list(dict.fromkeys(block.key for block in wanted))
    values, held = engine.hold(partitions.graph, keys)
    there = dict(zip(keys, values, strict=True))
    columns = [
        replace(column, blocks=[there[b.key] if isinstance(b, TaskRef) else b for b in column.blocks])
        for column in partitions.columns
    ]
    return Partitions({}, columns, held)


def _cut(partitions: Partitions, engine: Engine) -> Partitions:
    """The same in blocks of the lengths of those of the first column."""
    columns = [
        column if column.lengths is not None else replace(column, lengths=_lengths(partitions, column, engine))
        for column in partitions.columns
    ]
    first = columns[0]
    assert first.lengths is not None
    rows = sum(first.lengths)
    for column in columns[1:]:
        assert column.lengths is not None
        if sum(column.lengths) != rows:
            raise ValueError(
                f"{column.name} has {sum(column.lengths)} rows in {len(column.blocks)} partitions, but {first.name} "
                f"has {rows} rows in {len(first.blocks)}; both must have as many rows (unknown sizes were computed)"
            )
    graph = dict(partitions.graph)
    columns[1:] = [_recut(graph, column, first.lengths) for column in columns[1:]]
    return replace(partitions, graph=graph, columns=columns)


def _lengths(partitions: Partitions, column: Column, engine: Engine) -> list[int]:
    alone = replace(partitions, columns=[column])
    graph, keys = alone.tasks("length", tasks.length, [column.name] * len(alone))
    return engine.compute(graph, keys)


def _recut(graph: Graph, column: Column, lengths: list[int]) -> Column:
    """A column in blocks of other lengths: tasks that cut and join are added to the graph."""
    assert column.lengths is not None
    if column.lengths == lengths:
        return column
    starts = [0, *itertools.accumulate(column.lengths)]
    token = secrets.token_hex(6)
    blocks = []
    end = 0
    for i, length in enumerate(lengths):
        first, end = end, end + length
        pieces: list[Any] = []
        cuts: list[slice] = []
        j = min(bisect.bisect_right(starts, first), len(column.blocks)) - 1     # the last block that starts there
        while j < len(column.blocks) and (not pieces or starts[j] < end):
            cut = slice(first - starts[j] if not pieces else 0, min(end, starts[j + 1]) - starts[j])
            # A value is cut here, lest all of it be sent with each task.
            is_task = isinstance(column.blocks[j], TaskRef)
            pieces.append(column.blocks[j] if is_task else tasks.rows_of(column.blocks[j], cut))
            cuts.append(cut if is_task else slice(None))
            j += 1
        task = Task(f"xent-rows-of-{column.name}-{token}-{i}", tasks.joined_rows, cuts, *pieces)
        graph[task.key] = task
        blocks.append(TaskRef(task.key))
    return Column(column.name, blocks, lengths)


# --- from collections to blocks --------------------------------------------------------------------------------------


def is_partitioned(X: Any) -> bool:
    if isinstance(X, np.ndarray) and X.dtype == object:     # as to_delayed returns it
        X = X.ravel().tolist()
    if isinstance(X, list | tuple):
        return len(X) > 0 and all(isinstance(x, Delayed) for x in X)
    return bool(dask.is_dask_collection(X))


def is_frame(value: Any) -> bool:
    return not isinstance(value, Delayed) and hasattr(value, "divisions") and hasattr(value, "expr")


def plan(given: Mapping[str, Any]) -> Partitions:
    """Partitions of columns, the first of which has partitions; the others may be in memory.

    Parameters
    ----------
    given : mapping of str to object
        By name: dask arrays, of which the first axis is that of the rows, dask dataframes or series, Delayed or
        sequences of Delayed, or but for the first one arrays or series in memory. Those that are None are left out.
    """
    values = {name: value for name, value in given.items() if value is not None}
    return plan_collections(
        {name: collections_of(name, v) if is_partitioned(v) else in_memory(name, v) for name, v in values.items()}
    )


def plan_collections(given: Mapping[str, list[Any] | Column]) -> Partitions:
    """The same of columns that are lists of collections, the blocks of one after those of the other."""
    collections = {name: value for name, value in given.items() if not isinstance(value, Column)}
    graph, keys = joint_graph([c for several in collections.values() for c in several])
    if len(collections) > 1:    # what is made of one alone may be computed with other things of the caller
        graph, keys = _under_own_keys(graph, keys)
    keys_of = iter(keys)
    columns = []
    for name, value in given.items():
        if isinstance(value, Column):
            columns.append(value)
        else:
            blocks = [TaskRef(key) for _ in value for key in next(keys_of)]
            columns.append(Column(name, blocks, _known_lengths(collections[name])))
    indexed = {name for name, (first, *_) in collections.items() if is_frame(first)}
    indexed |= {column.name for column in columns if hasattr(column.blocks[0], "iloc")}
    _refuse_other_shuffles(graph, columns, indexed)
    return Partitions(graph, columns)


def collections_of(name: str, value: Any) -> list[Any]:
    """A frame, an array in whole rows, or an array for each Delayed: it is one of a block, whatever that is."""
    if isinstance(value, dask.array.Array):
        split = {axis: -1 for axis in range(1, value.ndim) if value.numblocks[axis] > 1}
        return [value.rechunk(split) if split else value]
    if is_frame(value):
        return [value]
    if isinstance(value, Delayed):
        value = [value]
    if isinstance(value, np.ndarray):
        value = value.ravel().tolist()
    elif not isinstance(value, list | tuple):
        if not hasattr(value, "to_delayed"):
            kind = type(value).__name__
            raise TypeError(f"{name} is a {kind}; it must be a dask array, frame or series, or be Delayed")
        value = list(np.asarray(value.to_delayed(), object).ravel())
    return [_as_block(delayed) for delayed in value]


def _as_block(delayed: Delayed) -> Any:
    return dask.array.from_delayed(delayed, (math.nan,), meta=np.empty(0))


def in_memory(name: str, value: Any) -> Column:
    array = value if hasattr(value, "iloc") else to_array(name, value)
    return Column(name, [array], [array.shape[0]] if array.shape else None)


def _known_lengths(collections: list[Any]) -> list[int] | None:
    """Of the blocks of arrays; None if they are not known, as of frames and Delayed."""
    if any(is_frame(c) for c in collections):
        return None
    lengths: list[Any] = [length for c in collections for length in (c.chunks[0] if c.ndim else (math.nan,))]
    return None if any(math.isnan(length) for length in lengths) else lengths


def _refuse_other_shuffles(graph: Graph, columns: list[Column], indexed: set[str]) -> None:
    """Raise if two columns were shuffled apart, or one of them alone, and one has no index to tell the order."""
    shuffles = {key for key, task in graph.items() if _is_shuffle(key, task)}
    if not shuffles:
        return
    # None of what is in memory, here or (futures, which are no tasks) on a cluster.
    keys = [(c.name, [b.key for b in c.blocks if isinstance(b, TaskRef) and b.key in graph]) for c in columns]
    behind = [(name, shuffles.intersection(cull(graph, own)[0]) if own else set()) for name, own in keys]
    for name, own in behind[1:]:
        first, other = behind[0]
        if own != other and not indexed.issuperset((first, name)):
            raise ValueError(
                f"{first} and {name} are made in different shuffles (of a merge, sort_values or the like), or only "
                "one of them in a shuffle, which leaves rows in no fixed order: which belong together is not known. "
                "Give the dataframe's columns themselves, not arrays or Delayed made of each; or persist the whole "
                "dataframe first, and take all columns of that"
            )


def _is_shuffle(key: Any, task: Any) -> bool:
    """Whether a task is the barrier of a shuffle of a dataframe: on the disk, or between workers."""
    name = key[0] if isinstance(key, tuple) else key
    return str(name).startswith("barrier-") or type(getattr(task, "spec", None)).__name__ == "DataFrameShuffleSpec"


def joint_graph(collections: Sequence[Any]) -> tuple[Graph, list[list[Any]]]:
    """One graph for all collections, optimised together, and the keys of the blocks of each."""
    frames = [c for c in collections if hasattr(c, "expr")]
    others = [c for c in collections if not hasattr(c, "expr")]
    graph: Graph = {}
    keys: dict[int, list[Any]] = {id(c): list(flatten(c.__dask_keys__())) for c in others}
    if frames:
        # Tuning would fuse partitions. Workers exchange rows only if it is they who compute.
        settings: dict[str, Any] = {"optimization.tune.active": False}
        if present_client() is None and dask.config.get("dataframe.shuffle.method", None) is None:
            settings["dataframe.shuffle.method"] = "disk"
        with dask.config.set(settings):
            expression = collections_to_expr(frames).optimize()
        keys |= {id(c): list(flatten(own)) for c, own in zip(frames, expression.__dask_keys__(), strict=True)}
        graph = dict(expression.__dask_graph__())
    if others:
        # With the frames' tasks, so that what arrays have in common with them is not fused into the arrays' alone.
        layers = HighLevelGraph.merge(*([one_layer(graph)] if frames else []), *(c.__dask_graph__() for c in others))
        graph = dict(optimize_arrays(layers, [key for own in keys.values() for key in own]))
    return graph, [keys[id(c)] for c in collections]


def _under_own_keys(graph: Graph, keys: list[list[Any]]) -> tuple[Graph, list[list[Any]]]:
    """The same tasks under keys that no other graph has.

    A scheduler that still knows a key from an earlier call goes on with the task of that time, which may have been made
    of other random numbers than the tasks that are new. Futures keep their keys, and so do shuffles, whose barriers
    workers find by name.
    """
    if any(_is_shuffle(key, task) for key, task in graph.items()):
        return graph, keys
    token = secrets.token_hex(6)
    graph = convert_legacy_graph(graph)
    names = {
        key: (f"{key[0]}-{token}", *key[1:]) if isinstance(key, tuple) else f"{key}-{token}"
        for key, task in graph.items()
        if not hasattr(getattr(task, "value", None), "key")     # a future
    }
    renamed = {names.get(key, key): task.substitute(names, key=names.get(key, key)) for key, task in graph.items()}
    return renamed, [[names.get(key, key) for key in own] for own in keys]


def mapped(X: Any, function: Callable[..., Any], model: Any, *arguments: Any, columns: Sequence[int], meta: Any) -> Any:
    """A dask array of function(partition, model, *arguments), of unknown lengths and so many columns."""
    partitions = plan({"X": X})
    graph, token = dict(partitions.graph), secrets.token_hex(6)
    name, model_key = f"xent-{getattr(function, '__name__', 'mapped').strip('_')}-{token}", f"xent-model-{token}"
    graph[model_key] = DataNode(model_key, model)
    blocks = partitions.columns[0].blocks
    for i, block in enumerate(blocks):
        key = (name, i, *(0 for _ in columns))
        graph[key] = Task(key, function, block, TaskRef(model_key), *arguments)
    chunks = ((math.nan,) * len(blocks), *((size,) for size in columns))
    return dask.array.Array(HighLevelGraph({name: MaterializedLayer(graph)}, {name: set()}), name, chunks, meta=meta)


# --- one column of a table as labels ---------------------------------------------------------------------------------


def labels(y: Any) -> Any:
    """A table of one column as that column, with scikit-learn's warning."""
    if is_partitioned(y) and not (is_frame(y) or isinstance(y, dask.array.Array)):
        return y    # Delayed
    shape: Sequence[Any] = getattr(y, "shape", ())
    if len(shape) != 2 or shape[1] != 1:
        return y
    message = "A column-vector y was passed when a 1d array was expected. Please change the shape of y to (n_samples,)"
    warnings.warn(message, shared(DataConversionWarning), stacklevel=4)
    return y.iloc[:, 0] if hasattr(y, "iloc") else y[:, 0]
