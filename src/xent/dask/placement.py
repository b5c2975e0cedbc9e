"""Placement: which thread of a cluster works on which partitions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np


class Group(NamedTuple):
    """Partitions that one task works through, one after the other.

    Attributes
    ----------
    numbers : list of int
    prepared : list of Future
        Their `RowSums`; or one Future of a list made from these.
    worker : str or None
        The worker that holds most of them; None to leave the choice to the scheduler.
    """

    numbers: list[int]
    prepared: Any
    worker: str | None


def one_per_partition(numbers: Sequence[int], prepared: Sequence[Any]) -> list[Group]:
    """A group for each partition, on any worker."""
    return [Group([i], [p], None) for i, p in zip(numbers, prepared, strict=True)]


def assign_partitions(
    holders: Sequence[Sequence[str]], lengths: Sequence[int], threads: dict[str, int]
) -> list[tuple[str | None, list[int]]]:
    """Assign partitions to the threads of the workers.

    A partition goes to a worker that holds it, unless that worker has its share of the rows already; all others go to
    the worker with the fewest rows per thread.

    Parameters
    ----------
    holders : sequence of sequence of str
        For each partition, the workers that hold it; empty if it was lost with them.
    lengths : sequence of int
        The number of rows of each partition.
    threads : dict of str to int
        The number of threads of each worker.

    Returns
    -------
    list of (str or None, list of int)
        A worker, and the partitions of one of its threads. The worker is None if there is none at the moment.
    """
    if not threads:
        return [(None, list(range(len(lengths))))]
    share = sum(lengths) / sum(threads.values())
    load = dict.fromkeys(threads, 0.0)      # rows per thread
    members: dict[str, list[int]] = {worker: [] for worker in threads}

    def assign(i: int, worker: str) -> None:
        load[worker] += lengths[i] / threads[worker]
        members[worker].append(i)

    unplaced = []
    for i, workers in enumerate(holders):
        open_workers = [
            w for w in workers if w in load and (not members[w] or load[w] + lengths[i] / threads[w] / 2 <= share)
        ]
        if open_workers:
            assign(i, min(open_workers, key=load.__getitem__))
        else:
            unplaced.append(i)
    for i in unplaced:
        assign(i, min(load, key=lambda w: load[w] + lengths[i] / threads[w]))
    return [group for worker, own in members.items() for group in _split(worker, own, lengths, threads[worker])]


def _split(worker: str, own: list[int], lengths: Sequence[int], n_threads: int) -> list[tuple[str | None, list[int]]]:
    """Split the partitions of a worker among its threads, each thread about as many rows."""
    middles = np.cumsum([lengths[i] for i in own]) - [lengths[i] / 2 for i in own]
    thread = (middles * n_threads / max(1, sum(lengths[i] for i in own))).astype(int)
    groups = [sorted(i for i, t in zip(own, thread, strict=True) if t == k) for k in range(n_threads)]
    return [(worker, group) for group in groups if group]
