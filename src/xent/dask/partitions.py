"""Partitions: from the collections of one call to one graph, and the blocks of X, y and weights of each partition.

Dask computes once what collections share only if it optimises them together, as ``dask.compute(X, y)`` does. Optimised
alone, as by `to_delayed`, X and y would be read separately, in fewer partitions if they need few columns, and after a
shuffle in different orders. So all dataframes become one expression here, and all arrays one graph. Small partitions
are not fused, so that errors number partitions as the user does.

Rows are matched by position. If the blocks of y are not as long as those of X, they are cut to the same lengths;
unknown lengths are computed for that, once.
"""

from __future__ import annotations

import bisect
import itertools
import math
import secrets
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
from xent.dask import tasks
from xent.dask.rounds import Engine, Graph, present_client, wrap_graph

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
        The number of rows of each block; None if unknown.
    """

    name: str
    blocks: list[Any]
    lengths: list[int] | None = None


@dataclass(frozen=True)
class Partitions:
    """Columns of the same rows, and the graph that computes them."""

    graph: Graph
    columns: list[Column]
    held: Any = None    # futures of blocks that are in the memory of a cluster, not in the graph

    def __len__(self) -> int:
        return len(self.columns[0].blocks)

    def add_tasks(self, name: str, function: Callable[..., Any], *arguments: Sequence[Any]) -> tuple[Graph, list[str]]:
        """A graph with one more task for each partition, and the keys of these.

        Task i is function(arguments[0][i], arguments[1][i], ..., block i of X, block i of y, ...).
        """
        graph = dict(self.graph)
        token = secrets.token_hex(6)
        rows = zip(*arguments, *(column.blocks for column in self.columns), strict=True)
        added = [Task(f"xent-{name}-{token}-{i}", function, *row) for i, row in enumerate(rows)]
        graph.update((task.key, task) for task in added)
        return graph, [task.key for task in added]

    def with_constant(self, name: str, value: float) -> Partitions:
        """With one more column, which has this value in each row of the first one."""
        first = self.columns[0]
        graph, keys = replace(self, columns=[first]).add_tasks(name, tasks.repeat, [value] * len(self))
        column = Column(name, [TaskRef(key) for key in keys], first.lengths)
        return replace(self, graph=graph, columns=[*self.columns, column])

    def places(self) -> list[str]:
        return [f"partition {i}" for i in range(len(self))]

    def may_be_aligned(self) -> bool:
        """Whether all columns have the same number of blocks, and equal lengths where these are known."""
        known = [column.lengths for column in self.columns if column.lengths is not None]
        return all(len(column.blocks) == len(self) for column in self.columns) and all(
            lengths == known[0] for lengths in known
        )


def use_aligned(partitions: Partitions, engine: Engine, persist: bool, use: Callable[[Partitions], T]) -> T:
    """Call a function with partitions in which block i of each column has the same rows; return its result.

    Unknown lengths are computed only if they are needed: if the columns have different numbers of blocks, or if `use`
    raises `LengthsDiffer`. With `persist`, the blocks are then computed once and kept until `use` is done.
    """
    if partitions.may_be_aligned():
        try:
            return use(partitions)
        except tasks.LengthsDiffer:
            pass
    if persist:
        partitions = _persist(partitions, engine)
    return use(_align(partitions, engine))


def _persist(partitions: Partitions, engine: Engine) -> Partitions:
    wanted = [block for column in partitions.columns for block in column.blocks if isinstance(block, TaskRef)]
    keys = list(dict.fromkeys(block.key for block in wanted))
    values, held = engine.persist(partitions.graph, keys)
    there = dict(zip(keys, values, strict=True))
    columns = [
        replace(column, blocks=[there[b.key] if isinstance(b, TaskRef) else b for b in column.blocks])
        for column in partitions.columns
    ]
    return Partitions({}, columns, held)


def _align(partitions: Partitions, engine: Engine) -> Partitions:
    """The same rows, with the blocks of all columns as long as those of the first."""
    columns = [
        column if column.lengths is not None else replace(column, lengths=_count_rows(partitions, column, engine))
        for column in partitions.columns
    ]
    first = columns[0]
    assert first.lengths is not None
    rows = sum(first.lengths)
    for column in columns[1:]:
        assert column.lengths is not None
        if sum(column.lengths) != rows:
            raise ValueError(
                f"{column.name} has {_describe_rows(column)}, but {first.name} has {_describe_rows(first)}; both must "
                "have the same number"
            )
    graph = dict(partitions.graph)
    columns[1:] = [_cut(graph, column, first.lengths) for column in columns[1:]]
    return replace(partitions, graph=graph, columns=columns)


def _describe_rows(column: Column) -> str:
    assert column.lengths is not None
    return f"{sum(column.lengths)} rows" + (f" in {len(column.blocks)} partitions" if len(column.blocks) > 1 else "")


def _count_rows(partitions: Partitions, column: Column, engine: Engine) -> list[int]:
    alone = replace(partitions, columns=[column])
    graph, keys = alone.add_tasks("length", tasks.count_rows, [column.name] * len(alone))
    return engine.compute(graph, keys)


def _cut(graph: Graph, column: Column, lengths: list[int]) -> Column:
    """A column in blocks of the given lengths; tasks that cut and stack its blocks are added to the graph."""
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
            # A block in memory is cut here, so that no task carries all of it.
            is_task = isinstance(column.blocks[j], TaskRef)
            pieces.append(column.blocks[j] if is_task else tasks.slice_rows(column.blocks[j], cut))
            cuts.append(cut if is_task else slice(None))
            j += 1
        task = Task(f"xent-rows-of-{column.name}-{token}-{i}", tasks.stack_rows, cuts, *pieces)
        graph[task.key] = task
        blocks.append(TaskRef(task.key))
    return Column(column.name, blocks, lengths)


# --- from collections to one graph -----------------------------------------------------------------------------------


def is_partitioned(X: Any) -> bool:
    if isinstance(X, np.ndarray) and X.dtype == object:     # as to_delayed returns it
        X = X.ravel().tolist()
    if isinstance(X, list | tuple):
        return len(X) > 0 and all(isinstance(x, Delayed) for x in X)
    return bool(dask.is_dask_collection(X))


def is_frame(value: Any) -> bool:
    return not isinstance(value, Delayed) and hasattr(value, "divisions") and hasattr(value, "expr")


def build_partitions(given: Mapping[str, Any]) -> Partitions:
    """Partitions from the columns of one call.

    Parameters
    ----------
    given : mapping of str to object
        By name: dask arrays with the rows along the first axis, dask dataframes or series, Delayed or sequences of
        Delayed; and, except for the first, arrays or series in memory. None is left out.
    """
    values = {name: value for name, value in given.items() if value is not None}
    return join_collections(
        {name: to_collections(name, v) if is_partitioned(v) else _in_memory(name, v) for name, v in values.items()}
    )


def join_collections(given: Mapping[str, list[Any] | Column]) -> Partitions:
    """The same from columns that are lists of collections: the blocks of the first, then those of the second, ..."""
    collections = {name: value for name, value in given.items() if not isinstance(value, Column)}
    graph, keys = _join_graphs([c for several in collections.values() for c in several])
    if len(collections) > 1:    # the graph of one column alone keeps its keys, which the caller may share with others
        graph, keys = _rename_keys(graph, keys)
    keys_of = iter(keys)
    columns = []
    for name, value in given.items():
        if isinstance(value, Column):
            columns.append(value)
        else:
            blocks = [TaskRef(key) for _ in value for key in next(keys_of)]
            columns.append(Column(name, blocks, _find_lengths(collections[name])))
    indexed = {name for name, (first, *_) in collections.items() if is_frame(first)}
    indexed |= {column.name for column in columns if hasattr(column.blocks[0], "iloc")}
    _check_shuffles(graph, columns, indexed)
    return Partitions(graph, columns)


def to_collections(name: str, value: Any) -> list[Any]:
    """A dataframe; an array, in blocks of whole rows; or for each Delayed an array of one block."""
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
    return [dask.array.from_delayed(delayed, (math.nan,), meta=np.empty(0)) for delayed in value]


def _in_memory(name: str, value: Any) -> Column:
    array = value if hasattr(value, "iloc") else to_array(name, value)
    return Column(name, [array], [array.shape[0]] if array.shape else None)


def _find_lengths(collections: list[Any]) -> list[int] | None:
    """The numbers of rows of the blocks; None if unknown, as for frames and Delayed."""
    if any(is_frame(c) for c in collections):
        return None
    lengths: list[Any] = [length for c in collections for length in (c.chunks[0] if c.ndim else (math.nan,))]
    return None if any(math.isnan(length) for length in lengths) else lengths


def _check_shuffles(graph: Graph, columns: list[Column], indexed: set[str]) -> None:
    """Raise if two columns come from different shuffles, or only one from a shuffle, unless both have an index that
    tells whether their rows are in the same order."""
    shuffles = {key for key, task in graph.items() if _is_shuffle(key, task)}
    if not shuffles:
        return
    # Only blocks that are tasks: those in memory, here or as futures on a cluster, are in a fixed order.
    keys = [(c.name, [b.key for b in c.blocks if isinstance(b, TaskRef) and b.key in graph]) for c in columns]
    behind = [(name, shuffles.intersection(cull(graph, own)[0]) if own else set()) for name, own in keys]
    for name, own in behind[1:]:
        first, other = behind[0]
        if own != other and not indexed.issuperset((first, name)):
            raise ValueError(
                f"{first} and {name} do not come from the same shuffle (merge, sort_values or the like). A shuffle "
                "leaves rows in no fixed order, so their rows cannot be matched. Pass columns of the dataframe itself, "
                "not arrays or Delayed made from them; or persist the whole dataframe first, and pass its columns"
            )


def _is_shuffle(key: Any, task: Any) -> bool:
    """Whether a task is the barrier of a shuffle of a dataframe, on disk or between workers."""
    name = key[0] if isinstance(key, tuple) else key
    return str(name).startswith("barrier-") or type(getattr(task, "spec", None)).__name__ == "DataFrameShuffleSpec"


def _join_graphs(collections: Sequence[Any]) -> tuple[Graph, list[list[Any]]]:
    """One graph for all collections, optimised together, and for each the keys of its blocks."""
    frames = [c for c in collections if hasattr(c, "expr")]
    others = [c for c in collections if not hasattr(c, "expr")]
    graph: Graph = {}
    keys: dict[int, list[Any]] = {id(c): list(flatten(c.__dask_keys__())) for c in others}
    if frames:
        # Tuning would fuse partitions. Without a cluster, there are no workers that could exchange rows: use the disk.
        settings: dict[str, Any] = {"optimization.tune.active": False}
        if present_client() is None and dask.config.get("dataframe.shuffle.method", None) is None:
            settings["dataframe.shuffle.method"] = "disk"
        with dask.config.set(settings):
            expression = collections_to_expr(frames).optimize()
        keys |= {id(c): list(flatten(own)) for c, own in zip(frames, expression.__dask_keys__(), strict=True)}
        graph = dict(expression.__dask_graph__())
    if others:
        # Together with the tasks of the frames, so that tasks which both need are not fused into the arrays' own.
        layers = HighLevelGraph.merge(*([wrap_graph(graph)] if frames else []), *(c.__dask_graph__() for c in others))
        graph = dict(optimize_arrays(layers, [key for own in keys.values() for key in own]))
    return graph, [keys[id(c)] for c in collections]


def _rename_keys(graph: Graph, keys: list[list[Any]]) -> tuple[Graph, list[list[Any]]]:
    """The same tasks under keys that no other graph has.

    A scheduler that still knows a key from an earlier call reuses the task of that call, whose random numbers may
    differ from those of the new tasks. Futures keep their keys, and so do graphs with shuffles, whose barriers workers
    find by name.
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


def map_partitions(
    X: Any, function: Callable[..., Any], model: Any, *arguments: Any, columns: Sequence[int], meta: Any
) -> Any:
    """A dask array of function(partition, model, *arguments), with unknown lengths and the given columns."""
    partitions = build_partitions({"X": X})
    graph, token = dict(partitions.graph), secrets.token_hex(6)
    name, model_key = f"xent-{getattr(function, '__name__', 'mapped').strip('_')}-{token}", f"xent-model-{token}"
    graph[model_key] = DataNode(model_key, model)
    blocks = partitions.columns[0].blocks
    for i, block in enumerate(blocks):
        key = (name, i, *(0 for _ in columns))
        graph[key] = Task(key, function, block, TaskRef(model_key), *arguments)
    chunks = ((math.nan,) * len(blocks), *((size,) for size in columns))
    return dask.array.Array(HighLevelGraph({name: MaterializedLayer(graph)}, {name: set()}), name, chunks, meta=meta)
