"""The measures of `evaluate`, summed over a batch."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from xent._calls.dispatch import kernels
from xent._calls.options import Options
from xent._calls.targets import check_batch, check_ignore_index, refuse_distribution
from xent._calls.threads import cut
from xent._calls.weights import sum_target_weights


class MeasureOptions(NamedTuple):
    topk: tuple[int, ...]
    axis: int
    ignore_index: int
    n_threads: int | None
    classes: int | None         # of the batches before; None if this is the first


def sum_measures(
    logits: ArrayLike, target: ArrayLike, sample_weight: ArrayLike | None, given: MeasureOptions
) -> tuple[int, list[list[float]]]:
    """The number of classes, and for each measure numbers that add up to its sum over the rows: loss, entropy, weight,
    and the weights of the rows whose label is among the k largest logits, for k = 1 and each k of `topk`."""
    batch = check_batch("logits", logits, target, given.axis, sample_weight=sample_weight)
    refuse_distribution(batch)
    options = Options(ignore_index=check_ignore_index(given.ignore_index, batch.target))
    classes = batch.logits.shape[-1]
    if given.classes not in (None, classes):
        raise ValueError(f"logits have {classes} classes; it must be {given.classes}, as in the batches before")
    blocks = cut(batch.target.size, classes, given.n_threads)
    sum_target_weights(batch, options, blocks, given.ignore_index)      # checks the labels
    topk = np.array([1, *(min(k, classes) for k in given.topk)], np.int64)
    sums = np.empty((blocks.number, 3 + len(topk), 3))
    blocks.run(kernels.evaluate, batch, options, topk, sums)
    return classes, [measure.ravel().tolist() for measure in sums.swapaxes(0, 1)]


def expand_sum(values: list[float]) -> list[float]:
    """A few numbers with exactly the sum of all values: the rounded sum, its rounding error, and so on."""
    terms: list[float] = []
    while term := kernels.total(values + [-term for term in terms]):
        if not math.isfinite(term):
            return [term]
        terms.append(term)
    return terms
