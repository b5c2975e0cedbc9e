"""Converts arguments to arrays that the kernels can read (type, byte order, alignment) and checks their values.

Arrays and tensors that a kernel can read directly are not copied.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xent._calls import frames, tensors

Array = NDArray[Any]

FLOAT32 = np.dtype(np.float32)
FLOAT64 = np.dtype(np.float64)
_WIDE = "float32 or float64"
_FLOATS = f"float16, bfloat16, {_WIDE}"


# --- types -----------------------------------------------------------------------------------------------------------


def to_array(name: str, value: ArrayLike) -> Array:
    """An array of any type."""
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"{name} is a masked array, whose mask would be ignored; fill it with {name}.filled(...)")
    if isinstance(value, np.ndarray):
        return np.asarray(value)
    if hasattr(value, "toarray"):
        raise TypeError(f"{name} is a sparse {type(value).__name__}; it must be dense: use {name}.toarray()")
    given = tensors.to_arrays(name, frames.arrow_to_array(name, value))
    try:
        array = np.asarray(given)
    except ValueError as error:
        raise ValueError(f"{name} is not a rectangular array: {error}") from None
    return _convert_pandas(value, array) if array.dtype == object and hasattr(value, "iloc") else array


def _convert_pandas(value: Any, array: Array) -> Array:
    """The numbers of a frame or series that NumPy converts to objects: nullable, Arrow or mixed types.

    Missing numbers become NaN. If a column does not hold numbers, the array of objects is returned unchanged.
    """
    columns = [value] if array.ndim == 1 else [value.iloc[:, i] for i in range(array.shape[1])]
    arrays = [_convert_series(column) for column in columns]
    if not arrays or any(column.dtype.kind not in "biuf" for column in arrays):
        return array
    return arrays[0] if array.ndim == 1 else np.stack(arrays, axis=1)


def _convert_series(series: Any) -> Array:
    array = np.asarray(series)
    dtype: np.dtype[Any] = getattr(series.dtype, "numpy_dtype", array.dtype)    # of nullable and Arrow types
    if array.dtype != object or dtype.kind not in "biuf":
        return array
    if not series.isna().any():
        return np.asarray(series.to_numpy(dtype))
    return np.asarray(series.to_numpy(dtype if dtype.kind == "f" else np.float64, na_value=np.nan))


def describe_type(value: Any, array: Array) -> str:
    """Describe the dtype of an array made from `value`; for a frame, its first column that does not hold numbers."""
    if array.dtype == object and array.ndim == 2 and hasattr(value, "columns") and hasattr(value, "dtypes"):
        for i, (label, dtype) in enumerate(zip(value.columns, value.dtypes, strict=True)):
            column = value.iloc[:, i] if hasattr(value, "iloc") else value[:, i]
            if _convert_series(column).dtype.kind not in "biuf":
                return f"a column {label!r} of dtype {dtype}"
    return f"dtype {array.dtype}"


def to_native(array: Array) -> Array:
    """The array in native byte order and aligned; copied only if necessary."""
    if array.dtype.isnative and array.flags.aligned:
        return array
    return np.require(array, array.dtype.newbyteorder("="), "A")


def is_half(dtype: np.dtype[Any]) -> bool:
    """Whether the dtype is float16, or bfloat16 of ml_dtypes, whose kind is not "f"."""
    return dtype.itemsize == 2 and (dtype.kind == "f" or dtype.name == "bfloat16")


def widen(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The dtype to compute in: float32 for half precision, else the same."""
    return FLOAT32 if is_half(dtype) else dtype


def to_floats(name: str, value: ArrayLike, *, halves: bool = True, given: object = None) -> Array:
    """Convert to a float type that the kernels read; integers become float64.

    `given` is the user's argument if `value` was made from it; errors then name the column of a frame.
    """
    array = value if type(value) is np.ndarray else to_array(name, value)
    dtype = array.dtype
    if dtype in (FLOAT32, FLOAT64) and array.flags.aligned:
        return array
    if dtype.kind in "iu":
        return array.astype(np.float64)
    if (dtype.kind == "f" and dtype.itemsize in (4, 8)) or (halves and is_half(dtype)):
        return to_native(array)
    given = value if given is None else given
    allowed = _FLOATS if halves else _WIDE
    if dtype.kind == "f" or is_half(dtype):
        to = f"astype(np.{'float32' if is_half(dtype) else 'float64'})"
        to = "float()" if hasattr(given, "float") else to       # of a tensor of PyTorch
        raise TypeError(f"{name} has dtype {dtype}; it must be {allowed}: convert it with {name}.{to}")
    found = describe_type(given, array)
    raise TypeError(f"{name} has {found}; it must be real numbers, {allowed}")


def to_numbers(name: str, value: ArrayLike, *, given: object = None) -> Array:
    """Convert to floats or integers of the same type; booleans become 0 and 1."""
    array = to_array(name, value)
    if array.dtype.kind == "b":
        return array.view(np.uint8)
    if array.dtype.kind in "iu":
        return to_native(array)
    return to_floats(name, array, given=value if given is None else given)


def to_probabilities(name: str, value: ArrayLike) -> Array:
    """Convert predicted probabilities; `check_unit_interval` checks their values."""
    array = to_array(name, value)
    if array.dtype.kind in "biu":
        raise TypeError(f"{name} has dtype {array.dtype}; it must be floats, {_FLOATS}: are {name} and target swapped?")
    return to_floats(name, array, given=value)


# --- values ----------------------------------------------------------------------------------------------------------


def describe_first_bad(array: Array, good: Array) -> str:
    """The index and value of the first element that is not good: "[3, 0] is nan", or " is nan" of a single number."""
    where = np.unravel_index(int(np.argmin(good)), array.shape)
    index = ", ".join(str(int(i)) for i in where)
    return f"[{index}] is {array[where]}" if index else f" is {array[()]}"


def check_between(name: str, array: Array, low: float, high: float, allowed: str) -> None:
    """Raise unless low <= array <= high everywhere; NaN is outside."""
    if not array.size or (low == 0 and _have_bits_up_to(array, high)):
        return
    with np.errstate(invalid="ignore"):     # a NaN of ml_dtypes
        if array.min() >= low and array.max() <= high:      # reductions need no temporary array, comparisons do
            return
        values = array.astype(np.float64)
        good = np.asarray((values >= low) & (values <= high))
    raise ValueError(f"{name}{describe_first_bad(array, good)}; {allowed}")


def _have_bits_up_to(array: Array, high: float) -> bool:
    """Whether these are floats in [0, high], in one pass: nonnegative floats are ordered like their bits as unsigned
    integers; negative numbers, -0.0 and NaN have larger bits."""
    if array.dtype.kind != "f" and not is_half(array.dtype):
        return False
    with np.errstate(over="ignore"):
        limit = np.array(high, array.dtype)
    bits = np.dtype(f"u{array.dtype.itemsize}")
    return bool(limit <= high and array.view(bits).max() <= limit.view(bits))


def check_unit_interval(name: str, array: Array) -> None:
    check_between(name, array, 0, 1, "probabilities must be in [0, 1]")


def check_weights(name: str, value: ArrayLike, shape: tuple[int, ...], what: str) -> Array:
    """Check weights >= 0 and broadcast them to a shape; `what` names that shape in errors."""
    array = to_numbers(name, value)
    check_between(name, array, 0, math.inf, "weights must be at least 0")
    if array.dtype.kind in "iu":
        array = array.astype(np.float64)
    return broadcast(name, array, shape, what)


def check_mask(value: ArrayLike, shape: tuple[int, ...], what: str) -> Array:
    """Check the argument `where`, and broadcast it to a shape; `what` names that shape in errors."""
    mask = to_array("where", value)
    if mask.dtype != bool:
        raise TypeError(f"where has {describe_type(value, mask)}; it must be bool")
    return broadcast("where", mask, shape, what)


# --- shapes ----------------------------------------------------------------------------------------------------------


def broadcast(name: str, array: Array, shape: tuple[int, ...], what: str) -> Array:
    if array.shape == shape:
        return array
    try:
        return np.broadcast_to(array, shape)
    except ValueError:
        raise ValueError(
            f"{name} has shape {array.shape}; it must broadcast to {shape}, the shape of {what}"
        ) from None


def move_axis_last(array: Array, axis: int) -> Array:
    """A view with one axis moved to the end."""
    return array if axis in (-1, array.ndim - 1) else np.moveaxis(array, axis, -1)


def move_axes_last(array: Array, axes: tuple[int, ...], like: Array) -> Array:
    """A view with some axes moved to the end.

    They are ordered by the strides of `like`, an array of the same shape, so that a kernel can merge them into one axis
    where possible.
    """
    if len(axes) == 1:
        return move_axis_last(array, axes[0])
    in_memory = sorted(axes, key=lambda axis: -abs(like.strides[axis]))
    return np.moveaxis(array, in_memory, range(-len(axes), 0))


def flatten(*arrays: Array | None) -> tuple[Any, ...]:
    """Views with one axis if all arrays are contiguous, else with at least one axis."""
    present = [array for array in arrays if array is not None]
    if all(array.flags.c_contiguous for array in present):
        return tuple(None if array is None else array.reshape(-1) for array in arrays)
    return tuple(None if array is None else np.atleast_1d(array) for array in arrays)
