"""What the tasks of a fit on Dask do: read a partition, look at it, and take coefficients through it.

A partition becomes a `RowSums` that stays where it was made, or, if it is to be read again each time, the recipe for
it. Names in Dask's dashboard are those of the tasks' keys: xent-partition, xent-summary, xent-rows once, and for each
round xent-coefficients, xent-loss-gradient (or the like) and xent-add.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

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


def load(i: int, *columns: Delayed) -> Delayed:
    name = f"xent-partition-{secrets.token_hex(6)}-{i}"
    return dask.delayed(_part, pure=False)(f"partition {i}", *columns, dask_key_name=name)


def _part(place: str, *columns: Any) -> parts.Part | None:
    if len(columns) == 1:
        if not isinstance(columns[0], tuple | list) or len(columns[0]) not in (2, 3):
            kind = type(columns[0]).__name__
            raise TypeError(f"{place} is a {kind}; without y it must be (X, y) or (X, y, sample_weight)")
        columns = tuple(columns[0])
    return parts.part(place, *columns)


class Readable(Protocol):
    """What reads a partition, as often as asked."""

    def read(self) -> parts.Part | None: ...


@dataclass(frozen=True)     # and no tuple, into which Dask would look for its keys
class _Recipe:
    """A graph for a partition alone."""

    graph: dict[Any, Any]
    key: Any

    def read(self) -> parts.Part | None:
        return dask.get(self.graph, self.key)   # type: ignore[no-any-return]


@dataclass(frozen=True)
class _Reread:
    """The sums over a partition that is read again for every task."""

    source: Readable
    plan: parts.Plan
    n_threads: int | None

    def sums(self) -> RowSums:
        part = self.source.read()
        assert part is not None
        return self.plan.sums(part, self.n_threads)

    def hessian_product_at(self, matrix: Matrix) -> Callable[[Matrix], Matrix]:
        return lambda direction: self.sums().hessian_product_at(matrix)(direction)


def recipes(loads: list[Delayed]) -> Sequence[Readable]:
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


def same(x: Any) -> Any:
    return x


def summary(part: parts.Part | Readable | None, known: Array | None) -> parts.Summary | None:
    part = part if part is None or isinstance(part, parts.Part) else part.read()
    return None if part is None else parts.summary(part, known)


def prepared(part: parts.Part | Readable, plan: parts.Plan, n_threads: int | None) -> RowSums | _Reread:
    return plan.sums(part, n_threads) if isinstance(part, parts.Part) else _Reread(part, plan, n_threads)


def sums_of(prepared: RowSums | _Reread) -> RowSums:
    return prepared.sums() if isinstance(prepared, _Reread) else prepared


def loss_gradient(prepared: RowSums | _Reread, matrix: Matrix) -> Vector:
    loss, gradient = sums_of(prepared).loss_gradient(matrix)
    return np.append(gradient, loss)


def product(curvature: Callable[[Matrix], Matrix], direction: Matrix) -> Matrix:
    return curvature(direction)


def diagonal(prepared: RowSums | _Reread, matrix: Matrix) -> Matrix:
    return parts.diagonal(sums_of(prepared), matrix)


def outside(prepared: RowSums | _Reread, coef: Array, intercept: Array) -> Vector:
    return np.array([0.0 if parts.separated(sums_of(prepared), coef, intercept) else 1.0])


def sample(prepared: RowSums | _Reread, rows: slice) -> tuple[Any, Array, Array]:
    X, target, weight = parts.sample_of(sums_of(prepared), rows)
    return X.copy(), target.copy(), weight.copy()


def each(
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
            raise located(i, error) from error
        if not sums.size:
            sums = np.zeros((result.size, 3))
        kernels.add_each_exactly(sums, result)
    return sums, time.perf_counter() - start


def curvatures(group: Sequence[Any], numbers: Sequence[int], matrix: Matrix) -> list[Any]:
    return [prepared.hessian_product_at(matrix) for prepared in group]


def add(results: Sequence[tuple[Array, float]]) -> tuple[Array, float]:
    sums = results[0][0].copy()
    for more, _ in results[1:]:
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


def _size_of_sums(sums: RowSums) -> int:
    return sum(sizeof(a) for a in (sums.X, sums.target, sums.mass))


def _size_of_part(part: parts.Part) -> int:
    return sum(sizeof(a) for a in (part.X, part.y, part.weight))


sizeof.register(RowSums, _size_of_sums)
sizeof.register(parts.Part, _size_of_part)


def located(i: int, error: BaseException) -> Exception:
    """The error, if it says which partition it is about; else one that does."""
    if isinstance(error, TypeError | ValueError | RuntimeError) and str(error).startswith("partition "):
        return error
    return RuntimeError(f"partition {i} could not be read or computed: {type(error).__name__}: {error}")
