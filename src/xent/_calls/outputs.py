"""Output arrays: checks the given ones (`out`, `grad_out`) and allocates others."""

from __future__ import annotations

import os
import sys
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from xent._calls.arrays import widen
from xent._calls.targets import Batch
from xent._core import memory

DEFAULT_CACHE = 256     # MiB

Array = NDArray[Any]


def _cache_size() -> int:
    """Bytes of deleted outputs that are kept, by XENT_OUTPUT_CACHE, which is in MiB."""
    text = os.environ.get("XENT_OUTPUT_CACHE") or str(DEFAULT_CACHE)
    if not text.isdecimal():
        raise ImportError(f"XENT_OUTPUT_CACHE is {text!r}; it must be a whole number of MiB, 0 or more")
    return min(int(text) << 20, sys.maxsize)


memory.set_limit(_cache_size())
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=memory.release_kept)     # the child would copy the pages to write them


def check_output(
    name: str,
    value: object,
    like: Array,
    like_name: str,
    others: dict[str, Array | None],
    widest: np.dtype[Any] | None = None,
    *,
    in_place: bool = True,
) -> Array:
    """Check that an output has the shape of `like`, and its dtype or the `widest`. With `in_place` it may be `like`
    itself, but it must not overlap it in part, nor any of the others."""
    if not isinstance(value, np.ndarray):
        view = f": pass {name}.numpy(), which has the same memory" if hasattr(value, "numpy") else ""
        raise TypeError(f"{name} is a {type(value).__name__}; it must be a NumPy array{view}")
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"{name} is a masked array, whose mask would be ignored; it must be a plain array")
    if not value.dtype.isnative:
        raise TypeError(f"{name} has dtype {value.dtype}; it must be in native byte order")
    if value.dtype not in (like.dtype, widest or like.dtype):
        wider = "" if widest in (None, like.dtype) else f", or {widest}"
        raise TypeError(f"{name} has dtype {value.dtype}; it must be {like.dtype}, as {like_name}{wider}")
    if value.shape != like.shape:
        raise ValueError(f"{name} has shape {value.shape}; it must have shape {like.shape}, as {like_name}")
    if not value.flags.writeable:
        raise ValueError(f"{name} is read-only; it must be writeable")
    if not value.flags.aligned:
        raise ValueError(f"{name} is not aligned in memory; allocate it with NumPy, for example np.empty_like")
    if value.size and any(s == 0 and n > 1 for s, n in zip(value.strides, value.shape, strict=True)):
        raise ValueError(f"{name} has elements that share memory (a stride of 0); each must have its own memory")
    may_be = f"it must be {like_name} itself or not overlap it" if in_place else "it must have memory of its own"
    same = value.ctypes.data == like.ctypes.data and value.strides == like.strides and value.dtype == like.dtype
    same = same and in_place
    for other_name, other in others.items() if same else {like_name: like, **others}.items():
        if other is not None and np.may_share_memory(value, other) and np.shares_memory(value, other):
            raise ValueError(f"{name} overlaps {other_name} in memory; {may_be}")
    return value


class LossOutputs(NamedTuple):
    """Where the kernel of `cross_entropy` writes, and in which units.

    Attributes
    ----------
    loss : ndarray of shape (...), or None
        The loss of each row.
    grad, hess : ndarray of shape (..., C), or None
        The gradient of the sum of the losses and the diagonal of its Hessian; `grad` may be the logits, and goes with
        every `hess`.
    exponent : int
        Losses are in units of 2^exponent.
    divisor : float
        Divides gradient and Hessian.
    """

    loss: Array | None = None
    grad: Array | None = None
    hess: Array | None = None
    exponent: int = 0
    divisor: float = 1.0


def _operands(
    batch: Batch, weight_name: str = "class_weight", target_name: str = "target"
) -> dict[str, Array | None]:
    """What an output must not overlap, besides the logits."""
    return {
        target_name if batch.target_probs is None else "target[0]": batch.target,
        "target[1]": batch.target_probs,
        "where": batch.where,
        weight_name: batch.class_weight,
        "sample_weight": batch.sample_weight,
    }


def choose_grad(
    name: str,
    batch: Batch,
    return_grad: bool,
    grad_out: object,
    weight_name: str = "class_weight",
    target_name: str = "target",
) -> Array | None:
    """The array for the gradient, in the shape of the user's logits: `grad_out`, a new array, or None."""
    logits = batch.logits_as_given()
    if grad_out is None:
        return memory.empty_like(logits) if return_grad else None
    operands = _operands(batch, weight_name, target_name)
    return check_output("grad_out", grad_out, logits, name, operands, widen(logits.dtype))


def choose_hess(batch: Batch, grad: Array, hess_out: object) -> Array:
    """The array for the Hessian: `hess_out`, or a new one like the gradient, which is chosen."""
    if hess_out is None:
        return memory.empty_like(grad)
    logits = batch.logits_as_given()
    others = _operands(batch) | {"grad_out": grad}
    return check_output("hess_out", hess_out, logits, "logits", others, widen(logits.dtype), in_place=False)
