"""The divisor of a mean: sums of weights of any size, without overflow or loss of digits."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from xent._calls.dispatch import kernels
from xent._calls.options import Options
from xent._calls.targets import Batch, raise_bad_label
from xent._calls.threads import Blocks, cut

SUMMED_ELEMENTS = 1 << 16       # weights that are added up, and copied if they are strided, at a time

Array = NDArray[Any]
Number = float | np.longdouble


class Scale(NamedTuple):
    """How a loss scales its weights."""

    options: Options        # with `extreme` set
    exponent: int           # losses are computed in units of 2^exponent
    total: Number           # divisor of a mean, in the same unit; 1.0 if not needed


def scale_weights(
    reduction: str, batch: Batch, options: Options, blocks: Blocks, ignore_index: int | None
) -> Scale:
    """Sum the weights and choose the unit of the losses. Raises for a label out of range, before any output is written.

    Losses under usual weights are computed in units of 1: their sums neither overflow nor vanish, even in float32.
    Under extreme weights, a mean is computed in units of a power of two near the weight of all rows together. Without a
    mean, an extreme sample weight is a matter of its row alone, which the kernels see to.
    """
    extreme = _are_extreme(batch.class_weight, 2.0**30)
    if reduction == "mean":
        extreme = extreme or _are_extreme(batch.sample_weight, kernels.LARGEST_USUAL_WEIGHT)
    options = options._replace(extreme=extreme)
    if reduction != "mean" and batch.is_dense():
        return Scale(options, 0, 1.0)       # no total is needed, and there are no labels to check
    total, exponent = sum_target_weights(batch, options, blocks, ignore_index)
    return Scale(options, exponent if reduction == "mean" else 0, total)


def sum_target_weights(
    batch: Batch, options: Options, blocks: Blocks, ignore_index: int | None
) -> tuple[Number, int]:
    """The sum of sample weight times target mass, as a number and an exponent of two.

    Raises for a label out of range; `ignore_index` is only for the message.
    """
    rows = blocks.units
    blocks = cut(rows, batch.target.size // max(rows, 1), blocks.threads)   # a label is much less work than a row
    sums = np.zeros((blocks.number, 3))     # of each block: high and low part, exponent
    bad = blocks.run(kernels.target_weight, batch, options, sums)
    if bad >= 0:
        raise_bad_label(batch, bad, ignore_index)
    exponent = 0
    if options.extreme:
        exponents = sums[sums[:, 0] != 0, 2]
        exponent = int(exponents.max(initial=-4096))
        with np.errstate(under="ignore"):
            sums[:, :2] = np.ldexp(sums[:, :2], (sums[:, 2:] - exponent).astype(np.int32))
    numbers = sums[:, :2].ravel().tolist()
    total = kernels.total(numbers)
    low = kernels.total([*numbers, -total])
    # Rounding the divisor to float64 would use up half of the error bound of a mean.
    return total if low == 0 or not math.isfinite(low) else np.longdouble(total) + low, exponent


def _are_extreme(weights: Array | None, largest: float) -> bool:
    """Whether some weight above 0 is larger than `largest`, or smaller than its inverse."""
    if weights is None or not weights.size:
        return False
    most, least = float(weights.max()), float(weights.min())
    if least == 0:
        least = float(weights.min(where=weights > 0, initial=math.inf))
    return most > 0 and not 1 / largest <= least <= most <= largest


def unit_exponent(weights: Array | None) -> int:
    """An exponent near that of the largest weight: weights divided by 2^exponent are exact and fit any type."""
    largest = 0.0 if weights is None else float(weights.max(initial=0.0))
    return min(1000, max(-1000, math.frexp(largest)[1])) if largest < math.inf else 0


def sum_sample_weights(weight: Array | None, count: int, unit: float = 1.0) -> float:
    """The sum of the weights of `count` losses, times a power of two; without weights, the count.

    Copies only if the sum overflows or underflows, or a chunk at a time. Repeated elements (stride 0) are read once.
    """
    if weight is None:
        return float(count)
    once = weight[tuple(slice(0, 1) if stride == 0 else slice(None) for stride in weight.strides)]
    repeats = weight.size // max(once.size, 1)
    with np.errstate(over="ignore", under="ignore"):
        result = _sum_in_order(once)
        if not 1e-290 < result < math.inf:
            return repeats * _sum_in_order(np.multiply(once, unit, dtype=np.float64))
    return repeats * (result * unit)


def _sum_in_order(array: Array) -> float:
    """The sum in C order, to the bit, whatever the layout: NumPy adds up in the order of the memory."""
    elements = array.reshape(-1) if array.flags.c_contiguous else array.flat
    starts = range(0, array.size, SUMMED_ELEMENTS)
    return kernels.total([float(elements[i : i + SUMMED_ELEMENTS].sum(dtype=np.float64)) for i in starts])
