"""The options of `cross_entropy` that are numbers. A new one needs a line in each of the three lists here."""

from __future__ import annotations

from typing import NamedTuple, TypedDict

import numpy as np
from numpy.typing import ArrayLike

from xent._calls.scalars import check_real_between

_LARGEST = float(np.finfo(np.float64).max)
_SMALLEST = 5e-324      # above 0


class Options(NamedTuple):
    """Options as the kernels read them: checked, and a number for each (None is 0)."""

    logit_scale: float = 1.0
    softcap: float = 0.0
    label_smoothing: float = 0.0
    z_loss: float = 0.0
    ignore_index: int | None = None     # None: no label is ignored
    extreme: bool = False               # set by `weights.scale_weights`


class _Range(NamedTuple):
    default: float | None       # None is allowed only if it is the default
    low: float
    high: float
    allowed: str                # what an error says


_RANGES = {     # in the order of Options
    "logit_scale": _Range(1.0, -_LARGEST, _LARGEST, "finite"),
    "softcap": _Range(None, _SMALLEST, _LARGEST, "above 0 and finite, or None"),
    "label_smoothing": _Range(0.0, 0.0, 1.0, "in [0, 1]"),
    "z_loss": _Range(0.0, 0.0, _LARGEST, "at least 0 and finite"),
}
DEFAULTS = tuple(option.default for option in _RANGES.values())


class LossKeywords(TypedDict, total=False):
    """The types of the keywords of `cross_entropy` that do not change what it returns."""

    axis: int
    class_weight: ArrayLike | None
    sample_weight: ArrayLike | None
    label_smoothing: float
    ignore_index: int
    where: ArrayLike | None
    logit_scale: float
    softcap: float | None
    z_loss: float
    n_threads: int | None


def check_options(given: tuple[object, ...], ignored: int | None) -> Options:
    """Options from the values that a caller gave, in the order of `Options`, and the label to ignore."""
    checked = [check_option(name, value) for name, value in zip(_RANGES, given, strict=True)]
    return Options._make([*checked, ignored, False])


def check_option(name: str, value: object) -> float:
    default, low, high, allowed = _RANGES[name]
    return 0.0 if value is None and default is None else check_real_between(name, value, low, high, allowed)
