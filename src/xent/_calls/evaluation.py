"""The measures of `evaluate`, summed over a batch."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xent._calls.arrays import move_axis_last
from xent._calls.dispatch import kernels
from xent._calls.options import Options
from xent._calls.targets import check_batch, check_ignore_index, check_reference, refuse_distribution
from xent._calls.threads import Blocks, cut
from xent._calls.weights import sum_target_weights

ECE_BINS = 15
MEANS = ("loss", "entropy", "weight", "brier", "kl", "agreement")      # sums of the kernels that come before the bins
MAX_TERMS = 64          # numbers that are kept as they are; more are summed up
MAX_BLOCKS = 256        # sums do not depend on the blocks, and those of many would take time and memory


class MeasureOptions(NamedTuple):
    topk: tuple[int, ...]
    axis: int
    ignore_index: int
    n_threads: int | None


class Measures(NamedTuple):
    """What is measured of rows: for each measure, numbers that add up to its sum over the rows."""

    classes: int | None         # None without rows
    compares: bool | None       # whether there is a reference
    sums: list[list[float]]     # in the order of MEANS, then each bin, then k = 1 and each k of `topk`

    def add(self, more: Measures) -> Measures:
        """The measures of the rows of both."""
        first = more if self.classes is None else self
        sums = [join_sums(ours, theirs) for ours, theirs in zip(self.sums, more.sums, strict=True)]
        return Measures(first.classes, first.compares, sums)


def no_measures(topk: tuple[int, ...]) -> Measures:
    return Measures(None, None, [[] for _ in range(len(MEANS) + ECE_BINS + 1 + len(topk))])


def sum_measures(
    logits: ArrayLike,
    target: ArrayLike,
    sample_weight: ArrayLike | None,
    reference: ArrayLike | None,
    given: MeasureOptions,
    before: Measures,
) -> Measures:
    """Measure a batch that comes after others, which it must be like."""
    batch = check_batch("logits", logits, target, given.axis, sample_weight=sample_weight)
    refuse_distribution(batch)
    options = Options(ignore_index=check_ignore_index(given.ignore_index, batch.target))
    ref_logits = None
    if reference is not None:
        ref_logits = move_axis_last(
            check_reference("reference", reference, "logits", batch.logits_as_given().shape), batch.axis
        )
    classes = batch.logits.shape[-1]
    check_like_before(before, classes, reference is not None)
    blocks = cut(batch.target.size, classes, given.n_threads)
    sum_target_weights(batch, options, blocks, given.ignore_index)      # checks the labels
    blocks = blocks._replace(size=max(blocks.size, -(-blocks.units // MAX_BLOCKS)))
    topk = clip_topk(given.topk, classes)
    sums = new_sums(blocks, topk)
    blocks.run(kernels.evaluate, batch, ref_logits, options, topk, sums)
    return Measures(classes, reference is not None, list_sums(sums))


def check_like_before(before: Measures, classes: int, compares: bool) -> None:
    if before.classes not in (None, classes):
        raise ValueError(f"logits have {classes} classes; it must be {before.classes}, as in the batches before")
    if before.compares not in (None, compares):
        found, earlier = ("given", "none") if compares else ("missing", "one")
        raise ValueError(f"reference is {found}; the batches before had {earlier}: all must have one, or none")


def clip_topk(topk: tuple[int, ...], classes: int) -> NDArray[np.int64]:
    """Every k as the kernels take it, after k = 1 for the accuracy."""
    return np.array([1, *(min(k, classes) for k in topk)], np.int64)


def new_sums(blocks: Blocks, topk: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.empty((blocks.number, len(MEANS) + ECE_BINS + len(topk), 3))


def list_sums(sums: NDArray[np.float64]) -> list[list[float]]:
    """For each measure, the numbers other than 0 of all blocks."""
    measures = sums.swapaxes(0, 1).reshape(sums.shape[1], -1).tolist()
    return [[x for x in measure if x] for measure in measures]


def join_sums(first: list[float], second: list[float]) -> list[float]:
    """Numbers that add up to the sum of all of these."""
    values = first + second
    return expand_sum(values) if len(values) > MAX_TERMS else values


def expand_sum(values: list[float]) -> list[float]:
    """A few numbers with exactly the sum of all values: the rounded sum, its rounding error, and so on."""
    terms: list[float] = []
    while term := kernels.total(values + [-term for term in terms]):
        if not math.isfinite(term):
            return [term]
        terms.append(term)
    return terms
