"""Tasks in rounds, on a Dask cluster or by Dask's scheduler on this machine.

Of data that a cluster holds, a round is one task for each thread, whose results are added up on the way to the client.
Of data that is read again, it is a graph with everything from the sources to the sum: so each source is read once, and
Dask decides what is in memory at a time.
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
from dask._task_spec import TaskRef
from dask.delayed import Delayed
from dask.highlevelgraph import HighLevelGraph, MaterializedLayer
from dask.optimization import cull
from numpy.typing import NDArray

from xent.dask import tasks
from xent.dask.placement import Group, grouped

Array = NDArray[Any]
Vector = NDArray[np.float64]
Graph = dict[Any, Any]

FAN_IN = 16         # results that one task adds up
AT_ONCE = 1 << 20   # bytes that the client sends with the tasks, and of results that it adds up, itself
ATTEMPTS = 3        # of a round whose results were lost with the workers that had them


class Timing(NamedTuple):
    """What the evaluations of a fit took.

    Attributes
    ----------
    rounds : int
        Rounds of the cluster: evaluations, Hessian products and metrics.
    seconds : float
        The time that they took, all together.
    computing : float
        The time that tasks computed in them, in seconds of one thread.
    threads : int
        Of all workers, at the end of the fit.
    scheduling : float
        The share of the threads' time in which they did not compute: 1 - computing / (threads * seconds). It is the
        scheduler's and the network's, and that of threads without a partition to work on.
    """

    rounds: int
    seconds: float
    computing: float
    threads: int
    scheduling: float


def present_client() -> Any:
    """The client of dask.distributed that Dask would compute with now, if there is one.

    None within a task of a cluster: `dask.compute` knows how to wait there without keeping the worker from its work.
    """
    if hasattr(getattr(sys.modules.get("distributed.worker"), "thread_state", None), "key"):
        return None
    client = getattr(dask.base.get_scheduler(), "__self__", None)
    return client if hasattr(client, "who_has") else None


def one_layer(graph: Graph) -> HighLevelGraph:
    name = f"xent-{secrets.token_hex(6)}"
    return HighLevelGraph({name: MaterializedLayer(graph)}, {name: set()})


def delayed_of(graph: Graph, keys: Sequence[Any]) -> list[Delayed]:
    """Tasks of a graph, as Dask's functions take them."""
    needed = one_layer(cull(graph, list(keys))[0])
    (name,) = needed.layers
    return [Delayed(key, needed, layer=name) for key in keys]


class Engine:
    """Has Dask compute the tasks of a graph; this one on this machine, by its present scheduler."""

    def __init__(self) -> None:
        self._rounds = 0
        self._seconds = self._computing = 0.0

    def compute(self, graph: Graph, keys: Sequence[Any], wanted: Sequence[Any] | None = None) -> list[Any]:
        """The values of tasks.

        Parameters
        ----------
        graph : dict
        keys : sequence
            Tasks of each partition: an error names the one that failed.
        wanted : sequence, optional
            The tasks; `keys` if not given.
        """
        try:
            return self._values(graph, keys if wanted is None else wanted)
        except Exception as error:
            if tasks.names_partition(error):
                raise
            # Dask does not say which task has failed. What fails once more does.
            for i, key in enumerate(keys):
                try:
                    self._values(graph, [key])
                except Exception as again:
                    raise tasks.located(i, again) from again
            raise RuntimeError(f"a partition could not be read or computed: {type(error).__name__}: {error}") from error

    def _values(self, graph: Graph, keys: Sequence[Any]) -> list[Any]:
        return list(dask.compute(*delayed_of(graph, keys), traverse=False, optimize_graph=False))

    def hold(self, graph: Graph, keys: Sequence[Any]) -> tuple[list[Any], Any]:
        """Arguments for other tasks that stand for the values of these, and what keeps those in memory."""
        return self._values(graph, keys), None

    def total(self, graph: Graph, keys: Sequence[Any], total: Any) -> Vector:
        """The sums that one task has added up."""
        start = time.perf_counter()
        (result,) = self.compute(graph, keys, [total])
        return self._rounded(start, *result)

    def _rounded(self, start: float, sums: Array, computing: float) -> Vector:
        total = tasks.rounded(sums)
        self._rounds += 1
        self._seconds += time.perf_counter() - start
        self._computing += computing
        return total


class Cluster(Engine):
    """The same on a cluster, and rounds over data that is there.

    Parameters
    ----------
    client : distributed.Client
    retries : int
        Of tasks that fail.
    """

    def __init__(self, client: Any, retries: int) -> None:
        super().__init__()
        self.client = client
        self.retries = retries
        self._token = secrets.token_hex(6)      # two fits on one scheduler have no keys in common
        self._names = 0

    def compute(self, graph: Graph, keys: Sequence[Any], wanted: Sequence[Any] | None = None) -> list[Any]:
        more = [] if wanted is None else [key for key in wanted if key not in keys]
        futures = dict(zip([*keys, *more], self.futures(graph, [*keys, *more]), strict=True))
        groups = [Group([i], None, None) for i in range(len(keys))]
        return self.results([futures[key] for key in keys], groups, [futures[key] for key in wanted or keys])

    def futures(self, graph: Graph, keys: Sequence[Any]) -> list[Any]:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Sending large graph")    # its data is the user's, or coefficients
            computed = self.client.compute(delayed_of(graph, keys), retries=self.retries, optimize_graph=False)
        return computed     # type: ignore[no-any-return]

    def hold(self, graph: Graph, keys: Sequence[Any]) -> tuple[list[Any], Any]:
        futures = self.futures(graph, keys)
        return [TaskRef(future.key) for future in futures], futures

    def total(self, graph: Graph, keys: Sequence[Any], total: Any) -> Vector:
        return self.attempt(lambda: super(Cluster, self).total(graph, keys, total))

    def map(self, name: str, function: Callable[..., Any], *columns: Sequence[Any], **options: Any) -> list[Any]:
        """One task for each element of the columns."""
        keys = [f"xent-{name}-{self._token}-{i}" for i in range(len(columns[0]))]
        futures: list[Any] = self.client.map(function, *columns, key=keys, retries=self.retries, **options)
        return futures

    def results(self, futures: list[Any], groups: Sequence[Group], wanted: list[Any] | None = None) -> list[Any]:
        """What tasks return; an error names the partition that failed."""
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
                    raise tasks.located((found or group.numbers)[0], cause) from cause
            raise error

    def round(
        self, name: str, function: Callable[..., Array], groups: Callable[[], Sequence[Group]], *arguments: Array
    ) -> Vector:
        """The sums of what a function returns of each partition."""
        return self.attempt(lambda: self.round_once(name, function, groups(), arguments))

    def attempt(self, work: Callable[[], Vector]) -> Vector:
        """Again if data that the client has sent was lost with the workers: partitions come back by themselves."""
        for _ in range(ATTEMPTS - 1):
            try:
                return work()
            except concurrent.futures.CancelledError:
                continue
        return work()

    def send(self, arrays: Sequence[Array]) -> list[Any]:
        """Arrays for all workers, which get them from each other.

        As tasks, not by `Client.scatter`: the scheduler has what it needs to make them again when workers are lost,
        and does not wait for a worker that has just died.
        """
        self._names += 1
        keys = [f"xent-coefficients-{self._token}-{self._names}-{i}" for i in range(len(arrays))]
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Sending large graph")    # they are what has to be sent
            return [self.client.submit(tasks.same, array, key=key) for array, key in zip(arrays, keys, strict=True)]

    def round_once(
        self, name: str, function: Callable[..., Array], groups: Sequence[Group], arguments: Sequence[Array]
    ) -> Vector:
        start = time.perf_counter()
        # What is little goes with each task, and what is more from worker to worker.
        size = len(groups) * sum(array.nbytes for array in arguments)
        sent = arguments if size < AT_ONCE else self.send(arguments)
        self._names += 1
        place = f"{name}-{self._token}-{self._names}"
        level = leaves = self.of_groups(place, tasks.each, groups, function, sent)
        depth = 0
        while len(level) > (FAN_IN if 3 * size < AT_ONCE else 1):
            several = [level[i : i + FAN_IN] for i in range(0, len(level), FAN_IN)]
            keys = [f"xent-add-{place}-{depth}-{i}" for i in range(len(several))]
            level, depth = self.client.map(tasks.add, several, key=keys), depth + 1
        return self._rounded(start, *tasks.add(self.results(leaves, groups, level)))

    def of_groups(
        self, name: str, function: Callable[..., Any], groups: Sequence[Group], *arguments: Any
    ) -> list[Any]:
        """One task for each group, where it is if that worker is still there."""
        return [
            self.client.submit(
                function, group.prepared, group.numbers, *arguments, key=f"xent-{name}-{i}", retries=self.retries,
                workers=group.worker, allow_other_workers=group.worker is not None,
            )
            for i, group in enumerate(groups)
        ]    # fmt: skip

    def placed(self, numbers: Sequence[int], rows: Sequence[int], prepared: list[Any]) -> list[Group]:
        """A group of partitions for each thread, where they are."""
        from distributed import wait

        wait(prepared)
        threads = self.client.nthreads()
        there = self.client.who_has(prepared)
        holders = [there.get(future.key, ()) for future in prepared]
        return [
            Group([numbers[j] for j in members], [prepared[j] for j in members], worker)
            for worker, members in grouped(holders, rows, threads)
        ]

    def timing(self) -> Timing:
        threads = sum(self.client.nthreads().values())
        share = 1 - self._computing / (threads * self._seconds) if threads * self._seconds > 0 else 0.0
        return Timing(self._rounds, self._seconds, self._computing, threads, max(0.0, share))
