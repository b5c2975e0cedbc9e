"""Rounds: one evaluation over all partitions, on a Dask cluster or by Dask's scheduler on this machine.

If a cluster holds the data, a round sends the coefficients and one task per thread (see `placement`), and the results
are added on the way to the client. If data is read again, a round is one graph from the sources to the sum, so that
each source is read once and Dask decides what is in memory at a time.
"""

from __future__ import annotations

import concurrent.futures
import secrets
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import dask
import numpy as np
from dask._task_spec import List, Task, TaskRef
from dask.delayed import Delayed
from dask.highlevelgraph import HighLevelGraph, MaterializedLayer
from dask.optimization import cull
from numpy.typing import NDArray

from xent.dask import tasks
from xent.dask.placement import Group, assign_partitions

Array = NDArray[Any]
Vector = NDArray[np.float64]
Graph = dict[Any, Any]

FAN_IN = 16                 # results that one task adds
DIRECT_BYTES = 1 << 20      # up to this, coefficients travel with the tasks, and the client adds the results
ATTEMPTS = 3                # at a round whose inputs were lost together with workers


class Timing(NamedTuple):
    """How long the evaluations of a fit took.

    Attributes
    ----------
    rounds : int
        Rounds of the cluster: evaluations, Hessian products and diagonals.
    seconds : float
        The time of all rounds.
    computing : float
        The time that tasks computed in them, in seconds of one thread.
    threads : int
        The threads of all workers at the end of the fit.
    scheduling : float
        The share of the threads' time in which they did not compute: 1 - computing / (threads * seconds). It
        covers the scheduler, the network, and threads without a partition to work on.
    """

    rounds: int
    seconds: float
    computing: float
    threads: int
    scheduling: float


def present_client() -> Any:
    """The client of dask.distributed that Dask would compute with now; None if there is none.

    None within a task of a cluster, too: there `dask.compute` waits without blocking the worker's thread.
    """
    if hasattr(getattr(sys.modules.get("distributed.worker"), "thread_state", None), "key"):
        return None
    client = getattr(dask.base.get_scheduler(), "__self__", None)
    return client if hasattr(client, "who_has") else None


def present_engine(retries: int = 0) -> Engine:
    client = present_client()
    return Engine() if client is None else Cluster(client, retries)


def wrap_graph(graph: Graph) -> HighLevelGraph:
    """The graph as the one layer of a HighLevelGraph."""
    name = f"xent-{secrets.token_hex(6)}"
    return HighLevelGraph({name: MaterializedLayer(graph)}, {name: set()})


def to_delayed(graph: Graph, keys: Sequence[Any]) -> list[Delayed]:
    """Tasks of a graph as Delayed objects, which Dask's functions take."""
    needed = wrap_graph(cull(graph, list(keys))[0])
    (name,) = needed.layers
    return [Delayed(key, needed, layer=name) for key in keys]


def add_reduction(graph: Graph, keys: Sequence[Any], name: str, combine: Callable[[list[Any]], Any]) -> Any:
    """Add tasks to the graph that combine the results of others, FAN_IN at a time; return the key of the last one."""
    level, token = list(keys), secrets.token_hex(6)
    while len(level) > 1:
        several = [level[i : i + FAN_IN] for i in range(0, len(level), FAN_IN)]
        added = [
            Task(f"xent-{name}-{token}-{len(level)}-{i}", combine, List(*map(TaskRef, some)))
            for i, some in enumerate(several)
        ]
        graph.update((task.key, task) for task in added)
        level = [task.key for task in added]
    return level[0]


class Engine:
    """Computes tasks of a graph with Dask; this class on this machine, by Dask's present scheduler."""

    def __init__(self) -> None:
        self._rounds = 0
        self._seconds = self._computing = 0.0

    def compute(self, graph: Graph, keys: Sequence[Any], wanted: Sequence[Any] | None = None) -> list[Any]:
        """Compute the values of tasks.

        Parameters
        ----------
        graph : dict
        keys : sequence
            The task of each partition: if one fails, the error names its partition.
        wanted : sequence, optional
            The tasks whose values are returned; `keys` if not given.
        """
        try:
            return self._values(graph, keys if wanted is None else wanted)
        except Exception as error:
            if tasks.names_partition(error):
                raise
            # Dask does not say which task has failed: find the one that fails again.
            for i, key in enumerate(keys):
                try:
                    self._values(graph, [key])
                except Exception as again:
                    raise tasks.locate_error(i, again) from again
            raise RuntimeError(f"a partition could not be read or computed: {type(error).__name__}: {error}") from error

    def _values(self, graph: Graph, keys: Sequence[Any]) -> list[Any]:
        return list(dask.compute(*to_delayed(graph, keys), traverse=False, optimize_graph=False))

    def persist(self, graph: Graph, keys: Sequence[Any]) -> tuple[list[Any], Any]:
        """Compute tasks and keep their values in memory.

        Returns
        -------
        list, object
            What stands for each value as an argument of other tasks; and what keeps the values in memory.
        """
        return self._values(graph, keys), None

    def compute_sum(self, graph: Graph, keys: Sequence[Any], total: Any) -> Vector:
        """One round: the task `total` returns the exact sums (as `tasks.sum_over`) over the tasks of all partitions."""
        start = time.perf_counter()
        (result,) = self.compute(graph, keys, [total])
        return self._finish_round(start, *result)

    def _finish_round(self, start: float, sums: Array, computing: float) -> Vector:
        total = tasks.round_sums(sums)
        self._rounds += 1
        self._seconds += time.perf_counter() - start
        self._computing += computing
        return total


class Cluster(Engine):
    """The same on a cluster, and rounds over data that the cluster holds.

    Parameters
    ----------
    client : distributed.Client
    retries : int
        How often a task that fails is tried again.
    """

    def __init__(self, client: Any, retries: int) -> None:
        super().__init__()
        self.client = client
        self.retries = retries
        self._token = secrets.token_hex(6)      # two fits on one scheduler have no keys in common
        self._names = 0

    def compute(self, graph: Graph, keys: Sequence[Any], wanted: Sequence[Any] | None = None) -> list[Any]:
        more = [] if wanted is None else [key for key in wanted if key not in keys]
        futures = dict(zip([*keys, *more], self.submit(graph, [*keys, *more]), strict=True))
        groups = [Group([i], None, None) for i in range(len(keys))]
        return self.gather([futures[key] for key in keys], groups, [futures[key] for key in wanted or keys])

    def submit(self, graph: Graph, keys: Sequence[Any]) -> list[Any]:
        """Start the computation of tasks; return their futures."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Sending large graph")    # its data is the user's, or coefficients
            futures = self.client.compute(to_delayed(graph, keys), retries=self.retries, optimize_graph=False)
        return futures     # type: ignore[no-any-return]

    def persist(self, graph: Graph, keys: Sequence[Any]) -> tuple[list[Any], Any]:
        futures = self.submit(graph, keys)
        return [TaskRef(future.key) for future in futures], futures

    def compute_sum(self, graph: Graph, keys: Sequence[Any], total: Any) -> Vector:
        return self.attempt(lambda: super(Cluster, self).compute_sum(graph, keys, total))

    def map(self, name: str, function: Callable[..., Any], *columns: Sequence[Any], **options: Any) -> list[Any]:
        """Submit one task for each element of the columns; return the futures."""
        self._names += 1        # what is mapped again must not meet the tasks of the first time
        keys = [f"xent-{name}-{self._token}-{self._names}-{i}" for i in range(len(columns[0]))]
        futures: list[Any] = self.client.map(function, *columns, key=keys, retries=self.retries, **options)
        return futures

    def gather(self, futures: list[Any], groups: Sequence[Group], wanted: list[Any] | None = None) -> list[Any]:
        """The results of `wanted`, or of all futures; an error names the partition whose future failed."""
        try:
            return self.client.gather(futures if wanted is None else wanted)    # type: ignore[no-any-return]
        except concurrent.futures.CancelledError:
            raise
        except Exception as error:
            for future, group in zip(futures, groups, strict=True):
                if future.status == "error":
                    pieces = group.prepared if isinstance(group.prepared, list) else []
                    found = [i for i, p in zip(group.numbers, pieces, strict=False) if p.status == "error"]
                    cause = future.exception()
                    raise tasks.locate_error((found or group.numbers)[0], cause) from cause
            raise error

    def attempt(self, work: Callable[[], Vector]) -> Vector:
        """Repeat work whose inputs from the client were lost with workers. Dask recomputes lost partitions itself."""
        for _ in range(ATTEMPTS - 1):
            try:
                return work()
            except concurrent.futures.CancelledError:
                continue
        return work()

    def round(
        self, name: str, function: Callable[..., Array], groups: Callable[[], Sequence[Group]], *arguments: Array
    ) -> Vector:
        """One round: the sum of function(partition, *arguments) over all partitions."""
        return self.attempt(lambda: self.attempt_round(name, function, groups(), arguments))

    def attempt_round(
        self, name: str, function: Callable[..., Array], groups: Sequence[Group], arguments: Sequence[Array]
    ) -> Vector:
        start = time.perf_counter()
        size = len(groups) * sum(array.nbytes for array in arguments)
        sent = arguments if size < DIRECT_BYTES else self.send(arguments)
        self._names += 1
        place = f"{name}-{self._token}-{self._names}"
        level = leaves = self.submit_groups(place, tasks.sum_over, groups, function, sent)
        depth = 0
        # The sums are three numbers for each coefficient.
        while len(level) > (FAN_IN if 3 * size < DIRECT_BYTES else 1):
            several = [level[i : i + FAN_IN] for i in range(0, len(level), FAN_IN)]
            keys = [f"xent-add-{place}-{depth}-{i}" for i in range(len(several))]
            level, depth = self.client.map(tasks.add_sums, several, key=keys), depth + 1
        return self._finish_round(start, *tasks.add_sums(self.gather(leaves, groups, level)))

    def send(self, arrays: Sequence[Array]) -> list[Any]:
        """Send arrays once, for all workers, which pass them on to each other; return their futures.

        They are the results of tasks, not of `Client.scatter`: the scheduler can then make them again when workers are
        lost, and does not wait for a worker that has just died.
        """
        self._names += 1
        keys = [f"xent-coefficients-{self._token}-{self._names}-{i}" for i in range(len(arrays))]
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Sending large graph")    # they are what has to be sent
            return [self.client.submit(tasks.identity, array, key=key) for array, key in zip(arrays, keys, strict=True)]

    def submit_groups(
        self, name: str, function: Callable[..., Any], groups: Sequence[Group], *arguments: Any
    ) -> list[Any]:
        """Submit one task for each group, to its worker if that is still there; return the futures."""
        return [
            self.client.submit(
                function, group.prepared, group.numbers, *arguments, key=f"xent-{name}-{i}", retries=self.retries,
                workers=group.worker, allow_other_workers=group.worker is not None,
            )
            for i, group in enumerate(groups)
        ]    # fmt: skip

    def place(self, numbers: Sequence[int], lengths: Sequence[int], prepared: list[Any]) -> list[Group]:
        """A group of partitions for each thread, on the workers that hold them."""
        from distributed import wait

        wait(prepared)
        threads = self.client.nthreads()
        who_has = self.client.who_has(prepared)
        holders = [who_has.get(future.key, ()) for future in prepared]
        return [
            Group([numbers[j] for j in members], [prepared[j] for j in members], worker)
            for worker, members in assign_partitions(holders, lengths, threads)
        ]

    def timing(self) -> Timing:
        threads = sum(self.client.nthreads().values())
        share = 1 - self._computing / (threads * self._seconds) if threads * self._seconds > 0 else 0.0
        return Timing(self._rounds, self._seconds, self._computing, threads, max(0.0, share))
