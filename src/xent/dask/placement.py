"""Which thread of a cluster takes which partitions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np


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


def singly(numbers: Sequence[int], prepared: Sequence[Any]) -> list[Group]:
    """A group for each partition, wherever that is."""
    return [Group([i], [p], None) for i, p in zip(numbers, prepared, strict=True)]


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
