"""The rows of a fit in partitions of Dask: held in memory, here or on a cluster, or read again for every pass."""

from __future__ import annotations

import concurrent.futures
import secrets
from collections.abc import Callable
from typing import Any

import numpy as np
from dask._task_spec import DataNode, TaskRef
from numpy.typing import NDArray

from xent._estimator.partitions import FitData, Plan, Summary, make_plan
from xent._fit.partitioned import PartitionedSums, SequentialSums, concat_samples, sum_diagonal, take_rows
from xent._fit.subsample import Candidates
from xent._fit.types import Matrix, Vector
from xent.dask import tasks
from xent.dask.partitions import Partitions
from xent.dask.placement import Group, one_per_partition
from xent.dask.rounds import Cluster, Engine, add_reduction

Array = NDArray[Any]

REGROUP = 10        # rounds after which partitions are assigned again, as workers come and go


def local_rows(
    engine: Engine, partitions: Partitions, known: Array | None, class_weight: Any, n_threads: int | None
) -> FitData:
    """Partitions in the memory of this process, computed in one call of Dask."""
    graph, keys = partitions.add_tasks(
        "partition", tasks.read_partition, partitions.places(), [known] * len(partitions)
    )
    read = engine.compute(graph, keys)
    plan = make_plan([summary for _, summary in read], class_weight)
    row_sums = {}
    for i, length in enumerate(plan.partition_lengths):
        if length:
            row_sums[i] = plan.row_sums(read[i][0], n_threads)
        read[i] = None
    sums = SequentialSums(plan.layout, lambda: iter(row_sums.items()))
    return plan.fit_data(sums, sums.are_separated)


def cluster_rows(
    cluster: Cluster, partitions: Partitions, known: Array | None, class_weight: Any, n_threads: int
) -> FitData:
    """Partitions in the memory of a cluster: read, summarised, and made ready for rounds."""
    read = cluster.submit(*partitions.add_tasks("partition", tasks.make_partition, partitions.places()))
    found = cluster.map("summary", tasks.summarise_partition, read, known=known)
    plan = make_plan(cluster.gather(found, one_per_partition(range(len(read)), read)), class_weight)
    numbers = [i for i, length in enumerate(plan.partition_lengths) if length]
    prepared = cluster.map(
        "rows", tasks.make_sums, [read[i] for i in numbers], plan=_for_tasks(plan), n_threads=n_threads
    )
    sums = ClusterSums(plan, cluster, numbers, prepared)
    return plan.fit_data(sums, sums.are_separated)


def reread_rows(
    engine: Engine, partitions: Partitions, known: Array | None, class_weight: Any, n_threads: int
) -> FitData:
    """Partitions that are read again for every pass, here or on a cluster."""
    graph, keys = partitions.add_tasks("summary", tasks.read_summary, partitions.places(), [known] * len(partitions))
    summaries = engine.compute(graph, keys)
    plan = make_plan(summaries, class_weight)
    sums = RereadSums(plan, engine, partitions, [_seen(s, plan.classes) for s in summaries], n_threads)
    return plan.fit_data(sums, sums.are_separated)


def _seen(summary: Summary | None, classes: Array) -> tasks.FirstPass:
    counts = np.zeros(len(classes))
    if summary is None:
        return tasks.FirstPass(0, counts)
    counts[np.searchsorted(classes, summary.labels)] = summary.counts
    return tasks.FirstPass(summary.rows, counts)


def _for_tasks(plan: Plan) -> Plan:
    """A plan without the fields that grow with the number of partitions."""
    return plan._replace(partition_lengths=())


def _unpack_triangle(triangle: Vector, size: int) -> Matrix:
    """The symmetric matrix with this upper triangle."""
    upper = np.triu_indices(size)
    result = np.empty((size, size))
    result[upper] = result.T[upper] = triangle
    return result


class RereadSums(PartitionedSums):
    """The `Sums` over partitions that are read again for every pass.

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
        self, plan: Plan, engine: Engine, partitions: Partitions, seen: list[tasks.FirstPass], n_threads: int
    ) -> None:
        super().__init__(plan.layout)
        self.plan = _for_tasks(plan)
        self.engine = engine
        self.partitions = partitions
        self.seen = seen
        self.n_threads = n_threads

    def loss_gradient(self, matrix: Matrix) -> tuple[float, Matrix]:
        sums = self._total("loss-gradient", tasks.loss_gradient, matrix)
        return float(sums[-1]), sums[:-1].reshape(matrix.shape)

    def hessian_product_at(self, matrix: Matrix) -> Callable[[Matrix], Matrix]:
        """Each product computes the probabilities again, to save memory; reading the rows takes longer anyway."""

        def product(direction: Matrix) -> Matrix:
            return self._total("hessian-product", tasks.hessian_product, matrix, direction).reshape(matrix.shape)

        return product

    def hessian(self, matrix: Matrix) -> Matrix:
        return _unpack_triangle(self._total("hessian", tasks.hessian_triangle, matrix), matrix.size)

    def are_separated(self, coef: Array, intercept: Array) -> bool:
        return not self._total("separated", tasks.not_separated, coef, intercept).any()

    def _read_candidates(self) -> Candidates:
        slices = self.layout.candidate_slices()
        graph, keys = self._tasks("sample", tasks.reread_subsample, take_rows, *slices)
        samples = [sample for sample in self.engine.compute(graph, keys) if sample is not None]
        return concat_samples(samples, self.layout.n_classes)

    def _sum_diagonals(self, matrix: Matrix) -> Matrix:
        return self._total("diagonal", sum_diagonal, matrix).reshape(matrix.shape)

    def _total(self, name: str, function: Callable[..., Array], *arguments: Array) -> Vector:
        """The exact sum of what a function returns of each partition, added up by tasks."""
        graph, keys = self._tasks(name, tasks.reread_and_sum, function, *arguments)
        return self.engine.compute_sum(graph, keys, add_reduction(graph, keys, "add", tasks.add_sums))

    def _tasks(
        self, name: str, task: Callable[..., Any], function: Callable[..., Any], *arguments: Any
    ) -> tuple[dict[Any, Any], list[str]]:
        n = len(self.partitions)
        key = f"xent-coefficients-{secrets.token_hex(6)}"
        what = tasks.RereadTask(self.plan, self.n_threads, function, arguments)
        graph, keys = self.partitions.add_tasks(name, task, range(n), self.seen, [TaskRef(key)] * n)
        graph[key] = DataNode(key, what)
        return graph, keys


class ClusterSums(PartitionedSums):
    """The `Sums` over partitions in the memory of a cluster.

    Parameters
    ----------
    plan : Plan
    cluster : Cluster
    numbers : list of int
        Of the partitions that have rows.
    prepared : list of Future
        Their `RowSums`.
    """

    def __init__(self, plan: Plan, cluster: Cluster, numbers: list[int], prepared: list[Any]) -> None:
        super().__init__(plan.layout)
        self.cluster = cluster
        self.numbers = numbers
        self.lengths = [plan.partition_lengths[i] for i in numbers]
        self.prepared = prepared
        self._groups: list[Group] = []
        self._uses = 0

    def groups(self) -> list[Group]:
        if self._uses % REGROUP == 0:
            self._groups = self.cluster.place(self.numbers, self.lengths, self.prepared)
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

    def hessian(self, matrix: Matrix) -> Matrix:
        triangle = self.cluster.round("hessian", tasks.hessian_triangle, self.groups, matrix)
        return _unpack_triangle(triangle, matrix.size)

    def are_separated(self, coef: Array, intercept: Array) -> bool:
        return not self.cluster.round("separated", tasks.not_separated, self.groups, coef, intercept).any()

    def _read_candidates(self) -> Candidates:
        slices = self.layout.candidate_slices()
        samples = self.cluster.map("sample", take_rows, self.prepared, [slices[i] for i in self.numbers])
        found = self.cluster.gather(samples, one_per_partition(self.numbers, self.prepared))
        return concat_samples(found, self.layout.n_classes)

    def _sum_diagonals(self, matrix: Matrix) -> Matrix:
        return self.cluster.round("diagonal", sum_diagonal, self.groups, matrix).reshape(matrix.shape)
