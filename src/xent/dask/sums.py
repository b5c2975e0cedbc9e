"""What a fit is to, in partitions of Dask: held in memory, here or on a cluster, or read again for every pass."""

from __future__ import annotations

import concurrent.futures
import secrets
from collections.abc import Callable
from typing import Any

import numpy as np
from dask._task_spec import DataNode, TaskRef
from numpy.typing import NDArray

from xent._fit import partitioned
from xent._fit.linear import Matrix
from xent._fit.subsample import Candidates
from xent.dask import tasks
from xent.dask.partitions import Partitions
from xent.dask.placement import Group, one_per_partition
from xent.dask.rounds import Cluster, Engine, add_reduction

Array = NDArray[Any]
Vector = NDArray[np.float64]

REGROUP = 10        # rounds after which partitions are looked for again, as workers come and go


def local_rows(
    engine: Engine, partitions: Partitions, known: Array | None, class_weight: Any, n_threads: int | None
) -> partitioned.Rows:
    """Partitions in the memory of this process, computed in one call of Dask."""
    graph, keys = partitions.add_tasks(
        "partition", tasks.read_partition, partitions.places(), [known] * len(partitions)
    )
    read = engine.compute(graph, keys)
    plan = partitioned.plan([summary for _, summary in read], class_weight)
    prepared = {}
    for i, rows in enumerate(plan.rows):
        if rows:
            prepared[i] = plan.sums(read[i][0], n_threads)
        read[i] = None
    sums = partitioned.SequentialSums(plan, lambda: iter(prepared.items()))
    return partitioned.Rows(sums, plan.classes, plan.weight, plan.dtype, plan.names, sums.separated)


def cluster_rows(
    cluster: Cluster, partitions: Partitions, known: Array | None, class_weight: Any, n_threads: int
) -> partitioned.Rows:
    """Partitions in the memory of a cluster: read, summarised, and made ready for rounds."""
    read = cluster.submit(*partitions.add_tasks("partition", tasks.make_partition, partitions.places()))
    found = cluster.map("summary", tasks.summarise_partition, read, known=known)
    plan = partitioned.plan(cluster.gather(found, one_per_partition(range(len(read)), read)), class_weight)
    numbers = [i for i, rows in enumerate(plan.rows) if rows]
    sizes = [plan.rows[i] for i in numbers]
    prepared = cluster.map(
        "rows", tasks.make_sums, [read[i] for i in numbers], plan=plan._replace(rows=()), n_threads=n_threads
    )
    sums = PartitionSums(plan, cluster, numbers, sizes, prepared)
    return partitioned.Rows(sums, plan.classes, plan.weight, plan.dtype, plan.names, sums.separated)


def reread_rows(
    engine: Engine, partitions: Partitions, known: Array | None, class_weight: Any, n_threads: int
) -> partitioned.Rows:
    """Partitions that are read again for every pass, here or on a cluster."""
    graph, keys = partitions.add_tasks("summary", tasks.read_summary, partitions.places(), [known] * len(partitions))
    summaries = engine.compute(graph, keys)
    plan = partitioned.plan(summaries, class_weight)
    sums = RereadSums(plan, engine, partitions, [_seen(s, plan.classes) for s in summaries], n_threads)
    return partitioned.Rows(sums, plan.classes, plan.weight, plan.dtype, plan.names, sums.separated)


def _seen(summary: partitioned.Summary | None, classes: Array) -> tasks.FirstPass:
    counts = np.zeros(len(classes))
    if summary is None:
        return tasks.FirstPass(0, counts)
    counts[np.searchsorted(classes, summary.labels)] = summary.counts
    return tasks.FirstPass(summary.rows, counts)


class RereadSums(partitioned.PartSums):
    """The sums over partitions that are read again for every pass.

    Parameters
    ----------
    plan : Plan
    engine : Engine
    partitions : Partitions
    seen : list of FirstPass
        What each was at first, and must be again.
    n_threads : int
        Of each task.
    """

    def __init__(
        self,
        plan: partitioned.Plan,
        engine: Engine,
        partitions: Partitions,
        seen: list[tasks.FirstPass],
        n_threads: int,
    ) -> None:
        super().__init__(plan)
        self.engine = engine
        self.partitions = partitions
        self.seen = seen
        self.n_threads = n_threads

    def loss_gradient(self, matrix: Matrix) -> tuple[float, Matrix]:
        sums = self._total("loss-gradient", tasks.loss_gradient, matrix)
        return float(sums[-1]), sums[:-1].reshape(matrix.shape)

    def hessian_product_at(self, matrix: Matrix) -> Callable[[Matrix], Matrix]:
        """Probabilities are computed anew for each product: reading the rows takes longer, and they need memory."""

        def product(direction: Matrix) -> Matrix:
            return self._total("hessian-product", tasks.hessian_product, matrix, direction).reshape(matrix.shape)

        return product

    def separated(self, coef: Array, intercept: Array) -> bool:
        return not self._total("separated", tasks.not_separated, coef, intercept).any()

    def _read_sample(self) -> Candidates:
        graph, keys = self._tasks("sample", tasks.reread_subsample, tasks.take_subsample, *self.plan.samples())
        samples = [sample for sample in self.engine.compute(graph, keys) if sample is not None]
        return partitioned.joined(samples, len(self.plan.classes))

    def _diagonal(self, matrix: Matrix) -> Matrix:
        return self._total("diagonal", tasks.diagonal, matrix).reshape(matrix.shape)

    def _total(self, name: str, function: Callable[..., Array], *arguments: Array) -> Vector:
        """The exact sum of what a function returns of each partition, added up by tasks."""
        graph, keys = self._tasks(name, tasks.reread_and_sum, function, *arguments)
        return self.engine.compute_sum(graph, keys, add_reduction(graph, keys, "add", tasks.add_sums))

    def _tasks(
        self, name: str, task: Callable[..., Any], function: Callable[..., Any], *arguments: Any
    ) -> tuple[dict[Any, Any], list[str]]:
        n = len(self.partitions)
        key = f"xent-coefficients-{secrets.token_hex(6)}"
        what = tasks.RereadTask(self.plan._replace(rows=()), self.n_threads, function, arguments)
        graph, keys = self.partitions.add_tasks(name, task, range(n), self.seen, [TaskRef(key)] * n)
        graph[key] = DataNode(key, what)
        return graph, keys


class PartitionSums(partitioned.PartSums):
    """The sums over partitions on a cluster.

    Parameters
    ----------
    plan : Plan
    cluster : Cluster
    numbers : list of int
        Of the partitions that have rows.
    sizes : list of int
        How many each has.
    prepared : list of Future
        Their `RowSums`.
    """

    def __init__(
        self, plan: partitioned.Plan, cluster: Cluster, numbers: list[int], sizes: list[int], prepared: list[Any]
    ) -> None:
        super().__init__(plan)
        self.cluster = cluster
        self.numbers = numbers
        self.sizes = sizes
        self.prepared = prepared
        self._groups: list[Group] = []
        self._uses = 0

    def groups(self) -> list[Group]:
        if self._uses % REGROUP == 0:
            self._groups = self.cluster.place(self.numbers, self.sizes, self.prepared)
        self._uses += 1
        return self._groups

    def loss_gradient(self, matrix: Matrix) -> tuple[float, Matrix]:
        sums = self.cluster.round("loss-gradient", tasks.loss_gradient, self.groups, matrix)
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
                return self.cluster.attempt_round("hessian-product", tasks.apply_hessian_product, there, [direction])
            except concurrent.futures.CancelledError:
                there.clear()
                raise

        return lambda direction: self.cluster.attempt(lambda: product(direction)).reshape(matrix.shape)

    def _curvatures(self, matrix: Any) -> list[Group]:
        groups = self.groups()
        name = f"curvature-{secrets.token_hex(6)}"
        made = self.cluster.submit_groups(name, tasks.make_hessian_products, groups, matrix)
        return [group._replace(prepared=curvature) for group, curvature in zip(groups, made, strict=True)]

    def separated(self, coef: Array, intercept: Array) -> bool:
        return not self.cluster.round("separated", tasks.not_separated, self.groups, coef, intercept).any()

    def _read_sample(self) -> Candidates:
        slices = self.plan.samples()
        samples = self.cluster.map("sample", tasks.take_subsample, self.prepared, [slices[i] for i in self.numbers])
        found = self.cluster.gather(samples, one_per_partition(self.numbers, self.prepared))
        return partitioned.joined(found, len(self.plan.classes))

    def _diagonal(self, matrix: Matrix) -> Matrix:
        return self.cluster.round("diagonal", tasks.diagonal, self.groups, matrix).reshape(matrix.shape)
