"""The options of `cross_entropy`. A new one needs a line in each of the four lists with z_loss, in their order."""

from __future__ import annotations

from typing import Literal, NamedTuple, TypedDict

import numpy as np
from numpy.typing import ArrayLike

from xent._calls.scalars import check_real_between

_LARGEST = float(np.finfo(np.float64).max)
_SMALLEST = 5e-324      # above 0


class GivenOptions(NamedTuple):
    """Options as a caller gives them. The fast path takes the calls in which all of these have their default."""

    class_weight: ArrayLike | None = None
    sample_weight: ArrayLike | None = None
    where: ArrayLike | None = None
    logit_scale: object = 1.0
    softcap: object = None
    label_smoothing: object = 0.0
    z_loss: object = 0.0
    poly_epsilon: object = 0.0
    focal_gamma: object = 0.0


DEFAULTS = tuple(GivenOptions())


class _Threads(TypedDict, total=False):
    n_threads: int | None


class _ModelKeywords(_Threads, total=False):
    class_weight: ArrayLike | None
    sample_weight: ArrayLike | None
    where: ArrayLike | None
    ignore_index: int
    logit_scale: float
    softcap: float | None
    label_smoothing: float
    z_loss: float
    poly_epsilon: float
    focal_gamma: float


class HessKeywords(_ModelKeywords, total=False):
    """Of `cross_entropy`, like the others below those that do not change the type of what it returns."""

    axis: int


class LossKeywords(HessKeywords, total=False):
    """The same without a Hessian."""

    return_hess: Literal[False]
    hess_out: None


class LinearKeywords(_ModelKeywords, total=False):
    bias: ArrayLike | None
    max_scratch: int


class KLKeywords(_Threads, total=False):
    axis: int
    sample_weight: ArrayLike | None
    where: ArrayLike | None
    logit_scale: float


class ProbaKeywords(_Threads, total=False):
    axis: int
    sample_weight: ArrayLike | None


class BinaryProbaKeywords(_Threads, total=False):
    sample_weight: ArrayLike | None


class BinaryKeywords(BinaryProbaKeywords, total=False):
    pos_weight: ArrayLike | None
    label_smoothing: float


class _Range(NamedTuple):
    low: float
    high: float
    allowed: str


_RANGES = {     # of the options that are numbers
    "logit_scale": _Range(-_LARGEST, _LARGEST, "finite"),
    "softcap": _Range(_SMALLEST, _LARGEST, "above 0 and finite, or None"),
    "label_smoothing": _Range(0, 1, "in [0, 1]"),
    "z_loss": _Range(0, _LARGEST, "at least 0 and finite"),
    "poly_epsilon": _Range(-_LARGEST, _LARGEST, "finite"),
    "focal_gamma": _Range(0, _LARGEST, "at least 0 and finite"),
}


class Options(NamedTuple):
    """Options as the kernels read them: checked, None as 0."""

    logit_scale: float = 1.0
    softcap: float = 0.0
    label_smoothing: float = 0.0
    z_loss: float = 0.0
    poly_epsilon: float = 0.0
    focal_gamma: float = 0.0
    ignore_index: int | None = None     # None: no label is ignored
    extreme: bool = False               # set by `weights.scale_weights`


def check_options(given: GivenOptions, ignored: int | None) -> Options:
    numbers = given[-len(_RANGES) :]
    checked = [
        value if type(value) is float and low <= value <= high else check_option(name, value)
        for value, (name, (low, high, _)) in zip(numbers, _RANGES.items(), strict=True)
    ]
    options = Options._make([*checked, ignored, False])
    if options.focal_gamma != 0:
        for name, value in (("label_smoothing", options.label_smoothing), ("z_loss", options.z_loss)):
            if value != 0:
                raise ValueError(f"{name} is {value} and focal_gamma {options.focal_gamma}; one must be 0")
    return options


def refuse_with_hess(options: Options) -> None:
    """Raise for an option whose Hessian has another form than T p (1 - p)."""
    for name in ("softcap", "z_loss", "poly_epsilon", "focal_gamma"):
        value = getattr(options, name)
        if value != 0:
            default = GivenOptions._field_defaults[name]
            raise ValueError(f"{name} is {value}; with return_hess or hess_out it must be {default}")


def check_option(name: str, value: object) -> float:
    if value is None and GivenOptions._field_defaults[name] is None:
        return 0.0
    return check_real_between(name, value, *_RANGES[name])
