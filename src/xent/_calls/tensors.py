"""Reads tensors in place, as arrays that share their memory: those of PyTorch, and of every library with DLPack.

No library is imported for that: where there is one of its tensors, it has been imported.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xent._calls import frames

Array = NDArray[Any]

# Devices whose memory the CPU can read, by their numbers in DLPack: CPU, CUDAHost, ROCMHost, CUDAManaged.
_CPU = (1, 3, 11, 13)


def is_tensor(value: object) -> bool:
    """Whether a value is an array of another library, with DLPack. (Those of Arrow are columns; see `frames`.)"""
    return hasattr(value, "__dlpack__") and not isinstance(value, np.ndarray) and not frames.is_arrow(value)


def to_arrays(name: str, value: Any) -> Any:
    """A tensor as an array, in place; a list of tensors as a list of arrays; anything else as it is."""
    if is_tensor(value):
        return _to_array(name, value)
    first = value
    while isinstance(first, list | tuple) and first:
        first = first[0]
    if first is value or not is_tensor(first):
        return value
    return [to_arrays(f"{name}[{i}]", item) for i, item in enumerate(value)]


def _to_array(name: str, tensor: Any) -> Array:
    is_torch = frames.is_instance(tensor, "torch", "Tensor")
    try:
        refusal = _refuse_torch(name, tensor) if is_torch else _refuse_device(name, tensor)
        if not refusal:
            return _read_torch(tensor) if is_torch else _read_dlpack(tensor)
    except (AttributeError, BufferError, RuntimeError, TypeError, ValueError) as error:
        found = f"{type(tensor).__name__} of dtype {getattr(tensor, 'dtype', 'unknown')}"
        raise TypeError(f"{name} is a {found}, which NumPy cannot read: {error}") from error
    raise TypeError(refusal)


def _refuse_torch(name: str, tensor: Any) -> str:
    """Why a tensor is not read; empty if it is."""
    if tensor.requires_grad:
        return f"{name} requires a gradient, which xent does not pass on: use {name}.detach()"
    if tensor.device.type != "cpu":
        return f"{name} is on the device {tensor.device}; it must be on the CPU: use {name}.cpu()"
    if tensor.layout is not sys.modules["torch"].strided:
        return f"{name} has the layout {tensor.layout}; it must be dense: use {name}.to_dense()"
    return ""


def _refuse_device(name: str, tensor: Any) -> str:
    if frames.is_instance(tensor, "jax.core", "Tracer"):
        return (
            f"{name} has no values yet: JAX is tracing it (jit, grad, vmap); call xent outside of that, or through "
            "jax.pure_callback"
        )
    device = tensor.__dlpack_device__()[0]
    if device not in _CPU:
        return (
            f"{name} is a {type(tensor).__name__} on another device ({int(device)} in DLPack); it must be on the CPU: "
            f"use {name}.cpu(), or jax.device_get({name})"
        )
    return ""


def _read_torch(tensor: Any) -> Array:
    # Not by DLPack, which does not know of views of the negated numbers in memory.
    torch = sys.modules["torch"]
    if tensor.dtype is torch.bfloat16:
        try:
            from ml_dtypes import bfloat16
        except ImportError:     # NumPy alone has no such type; float32 has all its numbers
            tensor = tensor.float()
        else:
            bits: Array = tensor.view(torch.int16).numpy()
            return bits.view(bfloat16)
    array: Array = tensor.numpy()
    return array


def _read_dlpack(tensor: Any) -> Array:
    try:
        return np.from_dlpack(tensor)
    except (BufferError, RuntimeError):     # of a type for which NumPy has no DLPack
        array = np.asarray(tensor)          # JAX's bfloat16 is one of ml_dtypes
        if array.dtype.kind in "iuO":       # in other libraries, it may come as integers that are its bits
            raise
        return array
