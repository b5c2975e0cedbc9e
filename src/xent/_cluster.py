"""Rounds of tasks over the partitions of a fit on Dask, and what those tasks do.

A partition becomes a `RowSums` that stays where it was made, or, if it is to be read again each time, the recipe for
it. A round has one task for each thread of the cluster, which takes the partitions that are there one after the other.
Names in Dask's dashboard are those of the tasks' keys: xent-partition, xent-summary, xent-rows once, and for each round
xent-coefficients, xent-loss-gradient (or the like) and xent-add.
"""

from __future__ import annotations

import concurrent.futures
import secrets
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import dask
import numpy as np
from dask.delayed import Delayed
from dask.sizeof import sizeof
from numpy.typing import NDArray

from xent import parts
from xent._dispatch import kernels
from xent.linear import Matrix, RowSums

Array = NDArray[Any]
Vector = NDArray[np.float64]

FAN_IN = 16         # results that one task adds up
AT_ONCE = 1 << 20   # bytes that the client sends with the tasks, and of results that it adds up, itself
REGROUP = 10        # rounds after which partitions are looked for again, as workers come and go
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


def load(i: int, *columns: Delayed) -> Delayed:
    name = f"xent-partition-{secrets.token_hex(6)}-{i}"
    return dask.delayed(_part, pure=False)(f"partition {i}", *columns, dask_key_name=name)


# --- what tasks do ---------------------------------------------------------------------------------------------------


def _part(place: str, *columns: Any) -> parts.Part | None:
    if len(columns) == 1:
        if not isinstance(columns[0], tuple | list) or len(columns[0]) not in (2, 3):
            kind = type(columns[0]).__name__
            raise TypeError(f"{place} is a {kind}; without y it must be (X, y) or (X, y, sample_weight)")
        columns = tuple(columns[0])
    return parts.part(place, *columns)


@dataclass(frozen=True)     # and no tuple, into which Dask would look for its keys
class _Recipe:
    """How to read a partition: a graph for it alone."""

    graph: dict[Any, Any]
    key: Any

    def read(self) -> parts.Part | None:
        return dask.get(self.graph, self.key)   # type: ignore[no-any-return]


@dataclass(frozen=True)
class _Reread:
    """A partition that is read again for every task."""

    recipe: _Recipe
    plan: parts.Plan
    n_threads: int | None

    def sums(self) -> RowSums:
        part = self.recipe.read()
        assert part is not None
        return self.plan.sums(part, self.n_threads)


def _recipes(loads: list[Delayed]) -> list[_Recipe]:
    from dask.optimization import cull

    (whole,) = dask.optimize(dask.delayed(list)(loads))
    graph = dict(whole.__dask_graph__())
    recipes = []
    for load in loads:
        needed, _ = cull(graph, [load.key])
        if any(key not in needed for task in needed.values() for key in getattr(task, "dependencies", ())):
            raise ValueError("persist is False, but the data has been persisted already, and would not be read again")
        recipes.append(_Recipe(needed, load.key))
    return recipes


def _same(x: Any) -> Any:
    return x


def _summary(part: parts.Part | _Recipe | None, known: Array | None) -> parts.Summary | None:
    part = part.read() if isinstance(part, _Recipe) else part
    return None if part is None else parts.summary(part, known)


def _prepared(part: parts.Part | _Recipe, plan: parts.Plan, n_threads: int | None) -> RowSums | _Reread:
    return _Reread(part, plan, n_threads) if isinstance(part, _Recipe) else plan.sums(part, n_threads)


def _sums(prepared: RowSums | _Reread) -> RowSums:
    return prepared.sums() if isinstance(prepared, _Reread) else prepared


def _loss_gradient(prepared: RowSums | _Reread, matrix: Matrix) -> Vector:
    loss, gradient = _sums(prepared).loss_gradient(matrix)
    return np.append(gradient, loss)


def _curvature(prepared: RowSums | _Reread, matrix: Matrix) -> Any:
    """v -> H v; what is read again keeps the place where it is taken only."""
    return (prepared, matrix) if isinstance(prepared, _Reread) else prepared.hessian_product_at(matrix)


def _product(curvature: Any, direction: Matrix) -> Matrix:
    if isinstance(curvature, tuple):
        prepared, matrix = curvature
        curvature = prepared.sums().hessian_product_at(matrix)
    result: Matrix = curvature(direction)
    return result


def _diagonal(prepared: RowSums | _Reread, matrix: Matrix) -> Matrix:
    return parts.diagonal(_sums(prepared), matrix)


def _outside(prepared: RowSums | _Reread, coef: Array, intercept: Array) -> Vector:
    return np.array([0.0 if parts.separated(_sums(prepared), coef, intercept) else 1.0])


def _sample(prepared: RowSums | _Reread, rows: slice) -> tuple[Any, Array, Array]:
    X, target, weight = parts.sample_of(_sums(prepared), rows)
    return X.copy(), target.copy(), weight.copy()


def _each(
    group: Sequence[Any], numbers: Sequence[int], function: Callable[..., Array], arguments: Sequence[Array]
) -> tuple[Array, float]:
    """The exact sums of what a function returns of each partition of a group, and the time that it took."""
    start = time.perf_counter()
    sums = np.zeros((0, 3))
    for i, prepared in zip(numbers, group, strict=True):
        try:
            with np.errstate(all="ignore"):
                result = np.ascontiguousarray(function(prepared, *arguments), np.float64)
        except Exception as error:
            raise _located(i, error) from error
        if not sums.size:
            sums = np.zeros((result.size, 3))
        kernels.add_each_exactly(sums, result)
    return sums, time.perf_counter() - start


def _curvatures(group: Sequence[Any], numbers: Sequence[int], matrix: Matrix) -> list[Any]:
    return [_curvature(prepared, matrix) for prepared in group]


def _add(results: Sequence[tuple[Array, float]]) -> tuple[Array, float]:
    sums = results[0][0].copy()
    for more, _ in results[1:]:
        kernels.add_each_exactly(sums, more)
    return sums, sum(seconds for _, seconds in results)


def _rounded(sums: Array) -> Vector:
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


def _size_of_sums(sums: RowSums) -> int:
    return sum(sizeof(a) for a in (sums.X, sums.target, sums.mass))


def _size_of_part(part: parts.Part) -> int:
    return sum(sizeof(a) for a in (part.X, part.y, part.weight))


sizeof.register(RowSums, _size_of_sums)
sizeof.register(parts.Part, _size_of_part)


# --- without a cluster -----------------------------------------------------------------------------------------------


def local_rows(
    loads: list[Delayed], known: Array | None, class_weight: Any, persist: bool, n_threads: int | None
) -> parts.Rows:
    def read(i: int) -> parts.Part | None:
        try:
            return loads[i].compute()   # type: ignore[no-any-return]
        except Exception as error:
            raise _located(i, error) from error

    numbers = range(len(loads))
    kept = [read(i) for i in numbers] if persist else None
    found = (read(i) if kept is None else kept[i] for i in numbers)
    plan = parts.plan([None if part is None else parts.summary(part, known) for part in found], class_weight)
    ready = None if kept is None else [None if p is None else plan.sums(p, n_threads) for p in kept]

    def each() -> Iterator[tuple[int, RowSums]]:
        for i in numbers:
            if plan.rows[i] and ready is not None:
                sums = ready[i]
                assert sums is not None
                yield i, sums
            elif plan.rows[i]:
                part = read(i)
                assert part is not None
                yield i, plan.sums(part, n_threads)

    sums = parts.SequentialSums(plan, each)
    return parts.Rows(sums, plan.classes, plan.weight, plan.dtype, plan.names, sums.separated)


def _located(i: int, error: BaseException) -> Exception:
    """The error, if it says which partition it is about; else one that does."""
    if isinstance(error, TypeError | ValueError | RuntimeError) and str(error).startswith("partition "):
        return error
    return RuntimeError(f"partition {i} could not be read or computed: {type(error).__name__}: {error}")


# --- on a cluster ----------------------------------------------------------------------------------------------------


def present_client() -> Any:
    """The present client of dask.distributed, if there is one."""
    try:
        from distributed import default_client
    except ImportError:
        return None
    try:
        return default_client()
    except ValueError:
        return None


class Group(NamedTuple):
    """Partitions that one task takes one after the other.

    Attributes
    ----------
    numbers : list of int
    prepared : list of Future
        Their `RowSums`, or together what is made of them.
    worker : str or None
        Where most of them are; None if that does not matter.
    """

    numbers: list[int]
    prepared: Any
    worker: str | None


def grouped(
    holders: Sequence[Sequence[str]], rows: Sequence[int], threads: dict[str, int]
) -> list[tuple[str | None, list[int]]]:
    """Partitions dealt out to the threads of workers: each to one that holds it, as far as that has not its share
    of the rows already.

    Parameters
    ----------
    holders : sequence of sequence of str
        For each partition, the workers that hold it; none if it was lost with them.
    rows : sequence of int
        Of each partition.
    threads : dict of str to int
        Of each worker.

    Returns
    -------
    list of (str or None, list of int)
        A worker, and the partitions of one of its threads; None if there is no worker just now.
    """
    if not threads:
        return [(None, list(range(len(rows))))]
    share = sum(rows) / sum(threads.values())
    load = dict.fromkeys(threads, 0.0)
    members: dict[str, list[int]] = {worker: [] for worker in threads}

    def give(i: int, worker: str) -> None:
        load[worker] += rows[i] / threads[worker]
        members[worker].append(i)

    homeless = []
    for i, workers in enumerate(holders):
        open_ones = [
            w for w in workers if w in load and (not members[w] or load[w] + rows[i] / threads[w] / 2 <= share)
        ]
        if open_ones:
            give(i, min(open_ones, key=load.__getitem__))
        else:
            homeless.append(i)
    for i in homeless:
        give(i, min(load, key=lambda w: load[w] + rows[i] / threads[w]))
    groups: list[tuple[str | None, list[int]]] = []
    for worker, own in members.items():
        ends = np.cumsum([rows[i] for i in own]) - [rows[i] / 2 for i in own]
        part = (ends * threads[worker] / max(1, sum(rows[i] for i in own))).astype(int)
        groups += [(worker, [i for i, p in zip(own, part, strict=True) if p == k]) for k in range(threads[worker])]
    return [(worker, sorted(own)) for worker, own in groups if own]


class Cluster:
    """Rounds of tasks.

    Parameters
    ----------
    client : distributed.Client
    retries : int
        Of tasks that fail.
    """

    def __init__(self, client: Any, retries: int) -> None:
        self.client = client
        self.retries = retries
        self._token = secrets.token_hex(6)      # two fits on one scheduler have no keys in common
        self._rounds = self._sent = 0
        self._seconds = self._computing = 0.0

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
                    raise _located((found or group.numbers)[0], cause) from cause
            raise error

    def round(self, name: str, function: Callable[..., Array], partitions: PartitionSums, *arguments: Array) -> Vector:
        """The sums of what a function returns of each partition."""
        return self.attempt(lambda: self._round(name, function, partitions.groups(), arguments))

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
        self._sent += 1
        keys = [f"xent-coefficients-{self._token}-{self._sent}-{i}" for i in range(len(arrays))]
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Sending large graph")    # they are what has to be sent
            return [self.client.submit(_same, array, key=key) for array, key in zip(arrays, keys, strict=True)]

    def _round(
        self, name: str, function: Callable[..., Array], groups: Sequence[Group], arguments: Sequence[Array]
    ) -> Vector:
        start = time.perf_counter()
        self._rounds += 1
        # What is little goes with each task, and what is more from worker to worker.
        size = len(groups) * sum(array.nbytes for array in arguments)
        sent = arguments if size < AT_ONCE else self.send(arguments)
        place = f"{name}-{self._token}-{self._rounds}"
        level = leaves = self.of_groups(place, _each, groups, function, sent)
        depth = 0
        while len(level) > (FAN_IN if 3 * size < AT_ONCE else 1):
            several = [level[i : i + FAN_IN] for i in range(0, len(level), FAN_IN)]
            keys = [f"xent-add-{place}-{depth}-{i}" for i in range(len(several))]
            level, depth = self.client.map(_add, several, key=keys), depth + 1
        sums, seconds = _add(self.results(leaves, groups, level))
        total = _rounded(sums)
        self._seconds += time.perf_counter() - start
        self._computing += seconds
        return total

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

    def rows(
        self, loads: list[Delayed], known: Array | None, class_weight: Any, persist: bool, n_threads: int
    ) -> parts.Rows:
        """What a fit is to: partitions read, summarised, and made ready for rounds."""
        if persist:
            read = self.client.compute(loads, retries=self.retries)
        else:
            read = self.map("recipe", _same, _recipes(loads))
        found = self.map("summary", _summary, read, known=known)
        plan = parts.plan(self.results(found, [Group([i], [f], None) for i, f in enumerate(read)]), class_weight)
        numbers = [i for i, rows in enumerate(plan.rows) if rows]
        sizes = [plan.rows[i] for i in numbers] if persist else None
        prepared = self.map(
            "rows", _prepared, [read[i] for i in numbers], plan=plan._replace(rows=()), n_threads=n_threads
        )
        sums = PartitionSums(plan, self, numbers, sizes, prepared)
        return parts.Rows(sums, plan.classes, plan.weight, plan.dtype, plan.names, sums.separated)

    def timing(self) -> Timing:
        threads = sum(self.client.nthreads().values())
        share = 1 - self._computing / (threads * self._seconds) if threads * self._seconds > 0 else 0.0
        return Timing(self._rounds, self._seconds, self._computing, threads, max(0.0, share))


class PartitionSums(parts.PartSums):
    """The sums over partitions on a cluster.

    Parameters
    ----------
    plan : Plan
    cluster : Cluster
    numbers : list of int
        Of the partitions that have rows.
    sizes : list of int or None
        How many each has; None if they are read again for each task.
    prepared : list of Future
        Their `RowSums`.
    """

    def __init__(
        self, plan: parts.Plan, cluster: Cluster, numbers: list[int], sizes: list[int] | None, prepared: list[Any]
    ) -> None:
        super().__init__(plan)
        self.cluster = cluster
        self.numbers = numbers
        self.sizes = sizes
        self.prepared = prepared
        # Readers take turns as they come: what they will take is not known, and a task for each costs little beside.
        self._groups = [Group([i], [p], None) for i, p in zip(numbers, prepared, strict=True)]
        self._uses = 0

    def groups(self) -> list[Group]:
        if self.sizes is not None and self._uses % REGROUP == 0:
            self._groups = self.cluster.placed(self.numbers, self.sizes, self.prepared)
        self._uses += 1
        return self._groups

    def loss_gradient(self, matrix: Matrix) -> tuple[float, Matrix]:
        sums = self.cluster.round("loss-gradient", _loss_gradient, self, matrix)
        return float(sums[-1]), sums[:-1].reshape(matrix.shape)

    def hessian_product_at(self, matrix: Matrix) -> Callable[[Matrix], Matrix]:
        """The probabilities stay on the workers until the function that is returned is forgotten."""
        there: list[Group] = []
        sent: list[Any] = []

        def product(direction: Matrix) -> Vector:
            if not there:
                sent[:] = self.cluster.send([matrix])
                there.extend(self._curvatures(sent[0]))
            try:
                return self.cluster._round("hessian-product", _product, there, [direction])
            except concurrent.futures.CancelledError:
                there.clear()
                raise

        return lambda direction: self.cluster.attempt(lambda: product(direction)).reshape(matrix.shape)

    def _curvatures(self, matrix: Any) -> list[Group]:
        groups = self.groups()
        made = self.cluster.of_groups(f"curvature-{secrets.token_hex(6)}", _curvatures, groups, matrix)
        return [group._replace(prepared=curvature) for group, curvature in zip(groups, made, strict=True)]

    def separated(self, coef: Array, intercept: Array) -> bool:
        return not self.cluster.round("separated", _outside, self, coef, intercept).any()

    def _read_sample(self) -> RowSums:
        slices = self.plan.samples()
        samples = self.cluster.map("sample", _sample, self.prepared, [slices[i] for i in self.numbers])
        each = [Group([i], [p], None) for i, p in zip(self.numbers, self.prepared, strict=True)]
        return parts.joined(self.cluster.results(samples, each), len(self.plan.classes))

    def _diagonal(self, matrix: Matrix) -> Matrix:
        return self.cluster.round("diagonal", _diagonal, self, matrix).reshape(matrix.shape)
