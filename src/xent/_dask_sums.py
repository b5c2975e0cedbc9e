"""What a fit is to, in partitions of Dask: without a cluster one after the other, on a cluster by rounds of tasks."""

from __future__ import annotations

import concurrent.futures
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from dask.delayed import Delayed
from numpy.typing import NDArray

from xent import _dask_tasks as tasks
from xent import parts
from xent._dask_groups import Group, singly
from xent._dask_rounds import Cluster
from xent.linear import Matrix, RowSums

Array = NDArray[Any]
Vector = NDArray[np.float64]

REGROUP = 10        # rounds after which partitions are looked for again, as workers come and go


@dataclass(frozen=True)
class _Load:
    """Has Dask's present scheduler read a partition."""

    number: int
    load: Delayed

    def read(self) -> parts.Part | None:
        try:
            return self.load.compute()      # type: ignore[no-any-return]
        except Exception as error:
            raise tasks.located(self.number, error) from error


def local_rows(
    loads: list[Delayed], known: Array | None, class_weight: Any, persist: bool, n_threads: int | None
) -> parts.Rows:
    """What a fit is to, without a cluster."""
    read: list[Any] = [_Load(i, load) for i, load in enumerate(loads)]
    if persist:
        read = [load.read() for load in read]
    plan = parts.plan([tasks.summary(part, known) for part in read], class_weight)
    prepared = {i: tasks.prepared(read[i], plan, n_threads) for i, rows in enumerate(plan.rows) if rows}
    sums = parts.SequentialSums(plan, lambda: ((i, tasks.sums_of(p)) for i, p in prepared.items()))
    return parts.Rows(sums, plan.classes, plan.weight, plan.dtype, plan.names, sums.separated)


def cluster_rows(
    cluster: Cluster, loads: list[Delayed], known: Array | None, class_weight: Any, persist: bool, n_threads: int
) -> parts.Rows:
    """The same on a cluster: partitions read, summarised, and made ready for rounds."""
    if persist:
        read = cluster.client.compute(loads, retries=cluster.retries)
    else:
        read = cluster.map("recipe", tasks.same, tasks.recipes(loads))
    found = cluster.map("summary", tasks.summary, read, known=known)
    plan = parts.plan(cluster.results(found, singly(range(len(read)), read)), class_weight)
    numbers = [i for i, rows in enumerate(plan.rows) if rows]
    sizes = [plan.rows[i] for i in numbers] if persist else None
    prepared = cluster.map(
        "rows", tasks.prepared, [read[i] for i in numbers], plan=plan._replace(rows=()), n_threads=n_threads
    )
    sums = PartitionSums(plan, cluster, numbers, sizes, prepared)
    return parts.Rows(sums, plan.classes, plan.weight, plan.dtype, plan.names, sums.separated)


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
        self._groups = singly(numbers, prepared)
        self._uses = 0

    def groups(self) -> list[Group]:
        if self.sizes is not None and self._uses % REGROUP == 0:
            self._groups = self.cluster.placed(self.numbers, self.sizes, self.prepared)
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
                return self.cluster.round_once("hessian-product", tasks.product, there, [direction])
            except concurrent.futures.CancelledError:
                there.clear()
                raise

        return lambda direction: self.cluster.attempt(lambda: product(direction)).reshape(matrix.shape)

    def _curvatures(self, matrix: Any) -> list[Group]:
        groups = self.groups()
        made = self.cluster.of_groups(f"curvature-{secrets.token_hex(6)}", tasks.curvatures, groups, matrix)
        return [group._replace(prepared=curvature) for group, curvature in zip(groups, made, strict=True)]

    def separated(self, coef: Array, intercept: Array) -> bool:
        return not self.cluster.round("separated", tasks.outside, self.groups, coef, intercept).any()

    def _read_sample(self) -> RowSums:
        slices = self.plan.samples()
        samples = self.cluster.map("sample", tasks.sample, self.prepared, [slices[i] for i in self.numbers])
        return parts.joined(self.cluster.results(samples, singly(self.numbers, self.prepared)), len(self.plan.classes))

    def _diagonal(self, matrix: Matrix) -> Matrix:
        return self.cluster.round("diagonal", tasks.diagonal, self.groups, matrix).reshape(matrix.shape)
