"""The temperature that minimises the cross-entropy of labels: Newton's method over sums of the kernels.

With logits b x (b = 1 / T) the loss of a row is convex in b. Its slope is 0 where the predicted distances from the
maximum, `mean`, are on average the distances of the labels, `own` (see _core/temperature.pxi). `own` is proportional to
b, and `mean` falls, compared to it, somewhere between a power of b and an exponential. So Newton's method is applied to
log(mean / own) as a function of log b, which needs few steps from anywhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from xent._calls.dispatch import kernels
from xent._calls.options import Options
from xent._calls.scalars import check_n_threads
from xent._calls.targets import check_batch, check_ignore_index, refuse_distribution
from xent._calls.threads import cut
from xent._calls.weights import sum_target_weights

BOUND = 2.0**20         # of the temperature, where the loss has no minimum
TOLERANCE = 1e-5        # of the last step of log b: convergence is quadratic, so that what remains is about its square
CLOSED = 1e-9           # relative width of a bracket that is as good as its root
FLAT = 2.0**-200        # mean distance of labels at which all probabilities are equal, in rows of any size
CHANCE = 1e-8           # excess over `own` there up to which labels are as likely as by chance
FAR = 0.01              # where `mean` is smaller compared to `own`, steps down are short
PATIENCE = 30           # passes after which steps halve the bracket


class Fit(NamedTuple):
    temperature: float
    falls_towards: str      # where the loss falls forever: "0" or "infinity"; "" if it does not
    passes: int             # over the logits


class _Sums(NamedTuple):
    """Over the rows, times their weights, at one inverse temperature."""

    own: float          # distances of the labels
    mean: float         # predicted distances
    excess: float       # mean - own, rounded once
    variance: float     # of the predicted distances, within the rows

    def is_finite(self) -> bool:
        return math.isfinite(self.own) and math.isfinite(self.mean)

    def step(self, weight: float) -> float:
        """Newton's step of log b; up, of b, since the larger distances matter less and less."""
        if self.mean == 0:
            return -math.inf
        if not self.variance > 0:       # lost to underflow: go where labels have a distance of 1
            return math.log(weight) - math.log(self.own)
        is_near = 0.5 < self.mean / self.own < 2        # `excess` has all digits then
        ratio = math.log1p(self.excess / self.own) if is_near else math.log(self.mean) - math.log(self.own)
        step = ratio * self.mean / self.variance
        return math.log1p(step) if step > 0 else step


def fit_temperature(
    logits: ArrayLike,
    target: ArrayLike,
    axis: int,
    sample_weight: ArrayLike | None,
    ignore_index: int,
    where: ArrayLike | None,
    n_threads: int | None,
) -> Fit:
    """`xent.fit_temperature`."""
    batch = check_batch("logits", logits, target, axis, sample_weight=sample_weight, where=where)
    refuse_distribution(batch)
    options = Options(ignore_index=check_ignore_index(ignore_index, batch.target))
    blocks = cut(batch.target.size, batch.logits.shape[-1], check_n_threads(n_threads))
    weight, _ = sum_target_weights(batch, options, blocks, ignore_index)     # checks the labels
    if weight == 0:
        return Fit(math.nan, "", 0)

    def sum_up(b: float) -> _Sums:
        sums = np.empty((blocks.number, 3, 2))
        blocks.run(kernels.temperature, batch, options._replace(logit_scale=b), sums)
        own, mean, variance = (part.ravel().tolist() for part in sums.swapaxes(0, 1))
        return _Sums(*map(kernels.total, (own, mean, mean + [-x for x in own], variance)))

    return _minimise(sum_up, float(weight))


def _minimise(sum_up: Callable[[float], _Sums], weight: float) -> Fit:
    """Newton's method for log b, between the largest b that is known to be too small and the smallest too large."""
    b, low, high, passes = 1.0, 0.0, math.inf, 1
    sums = sum_up(b)
    if not sums.is_finite():        # distances may be so large that their sum overflows
        b, passes = 2.0**-600, 2
        sums = sum_up(b)
    if sums.own == 0:       # every label has the largest logit: the loss falls with T, or is the same for all
        is_constant = sums.mean == 0 and sum_up(2.0**-1000).mean == 0
        return Fit(1.0, "", passes + 1) if is_constant else Fit(1 / BOUND, "0", passes)
    least = max(FLAT * (b * weight / sums.own), 2.0**-1020)
    while sums.is_finite():
        step = sums.step(weight)
        if b <= least and sums.excess <= CHANCE * sums.own:
            return Fit(BOUND, "infinity", passes)
        if sums.excess > 0:
            low = b
        else:
            high = b
        is_flat = low == 0 and sums.variance < CHANCE * sums.mean       # `excess` may be nothing but rounding errors
        if abs(step) < TOLERANCE and not is_flat:
            return Fit(1 / (b * math.exp(step)), "", passes)
        if high - low < CLOSED * low:
            return Fit(1 / b, "", passes)
        if is_flat or (low == 0 and sums.mean < FAR * sums.own):
            b = least
        else:
            b = max(least, _choose_next(b, step, low, high, passes < PATIENCE))
        sums = sum_up(b)
        passes += 1
    return Fit(math.nan, "", passes)


def _choose_next(b: float, step: float, low: float, high: float, trusts_step: bool) -> float:
    """Newton's step within the bracket, or the middle of that."""
    guess = b * math.exp(min(step, 600))
    if high == math.inf or (trusts_step and low < guess < high):
        return guess
    return math.sqrt(low) * math.sqrt(high)
