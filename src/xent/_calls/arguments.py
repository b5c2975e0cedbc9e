"""The one place that checks arguments. What comes out of here is an array that a kernel can take, or an exception that
names the argument, the place, what was found and what is allowed.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xent._calls import cpus, frames

Array = NDArray[Any]

_FLOAT32 = np.dtype(np.float32)
_FLOAT64 = np.dtype(np.float64)
_LARGEST = float(np.finfo(np.float64).max)
_WIDE = "float32 or float64"
_FLOATS = f"float16, bfloat16, {_WIDE}"
REDUCTIONS = ("mean", "sum", "none")


# --- single values ---------------------------------------------------------------------------------------------------


def integer(name: str, value: object) -> int:
    try:
        if isinstance(value, (bool, np.bool_)):
            raise TypeError
        return operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"{name} is {value!r}; it must be an integer") from None


def positive_integer(name: str, value: object) -> int:
    number = integer(name, value)
    if number < 1:
        raise ValueError(f"{name} is {number}; it must be at least 1")
    return number


def positive_integers(name: str, value: object) -> tuple[int, ...]:
    """One integer or several."""
    if not isinstance(value, (tuple, list, range, np.ndarray)) or getattr(value, "ndim", 1) == 0:
        try:
            return (positive_integer(name, value),)
        except TypeError as error:
            raise TypeError(f"{error}, or a tuple of integers") from None
    return tuple(positive_integer(f"{name}[{i}]", number) for i, number in enumerate(value))


def thread_count(value: object) -> int | None:
    return None if value is None else positive_integer("n_threads", value)


def job_count(value: object) -> int | None:
    """joblib's n_jobs: -1 is every CPU that this process may use, -2 all but one, and so on, at least one."""
    jobs = None if value is None else integer("n_jobs", value)
    if jobs == 0:
        raise ValueError("n_jobs is 0; it must be at least 1, negative (-1: all CPUs, -2: all but one), or None")
    return max(1, _all_cpus() + 1 + jobs) if jobs is not None and jobs < 0 else jobs


@functools.cache    # finding out takes longer than a small prediction
def _all_cpus() -> int:
    return cpus.available()


def real(name: str, value: object) -> float:
    if type(value) is float:
        return value
    kind = value.dtype.kind if isinstance(value, np.generic | np.ndarray) else ""
    if isinstance(value, (bool, str, bytes)) or (kind and kind in "bSU"):
        raise TypeError(f"{name} is {value!r}; it must be a real number")
    try:
        return float(value)  # type: ignore[arg-type]
    except OverflowError:
        raise ValueError(f"{name} is larger than a float can be") from None
    except (TypeError, ValueError):
        raise TypeError(f"{name} is {value!r}; it must be a real number") from None


def real_between(name: str, value: object, low: float, high: float, allowed: str) -> float:
    number = real(name, value)
    if not low <= number <= high:
        raise ValueError(f"{name} is {number}; it must be {allowed}")
    return number


class Options(NamedTuple):
    """What a loss does to logits and targets, as the kernels read it."""

    ignore_index: int | None = None
    logit_scale: float = 1.0
    softcap: float = 0.0            # none
    label_smoothing: float = 0.0
    z_loss: float = 0.0
    extreme: bool = False           # weights need units of their own (see losses.prepared)


def smoothing(value: object) -> float:
    return real_between("label_smoothing", value, 0, 1, "in [0, 1]")


def options(
    ignore_index: int | None, logit_scale: object, softcap: object, label_smoothing: object, z_loss: object
) -> Options:
    return Options(
        ignore_index,
        real_between("logit_scale", logit_scale, -_LARGEST, _LARGEST, "finite"),
        0.0 if softcap is None else real_between("softcap", softcap, 5e-324, _LARGEST, "above 0 and finite, or None"),
        smoothing(label_smoothing),
        real_between("z_loss", z_loss, 0, _LARGEST, "at least 0 and finite"),
    )


def choice(name: str, value: object, allowed: tuple[str, ...]) -> str:
    if not isinstance(value, str) or value not in allowed:
        raise ValueError(f"{name} is {value!r}; it must be one of {', '.join(map(repr, allowed))}")
    return value


def axis_index(value: object, array: Array, name: str) -> int:
    """One axis of an array as an index >= 0."""
    axis = integer("axis", value)
    if array.ndim == 0:
        raise np.exceptions.AxisError(f"axis is {axis}; {name} is a number and has no axis: it must have at least one")
    if not -array.ndim <= axis < array.ndim:
        dimensions = "1 dimension" if array.ndim == 1 else f"{array.ndim} dimensions"
        allowed = f"[{-array.ndim}, {array.ndim})"
        raise np.exceptions.AxisError(f"axis is {axis}; {name} has {dimensions}, so it must be in {allowed}")
    return axis % array.ndim


def axis_indices(value: object, array: Array, name: str) -> tuple[int, ...]:
    """Axes of an array, one, several or (None) all, as indices >= 0."""
    if value is None:
        return tuple(range(array.ndim))
    given = tuple(integer("axis", axis) for axis in (value if isinstance(value, tuple) else (value,)))
    if array.ndim == 0 and given:
        raise np.exceptions.AxisError(f"axis is {value}; {name} is a number and has no axis: axis must be None")
    axes = tuple(axis_index(axis, array, name) for axis in given)
    if len(set(axes)) < len(axes):
        raise ValueError(f"axis is {value}; an axis must not be repeated")
    return axes


# --- arrays ----------------------------------------------------------------------------------------------------------


def to_array(name: str, value: ArrayLike) -> Array:
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"{name} is a masked array, whose mask would be ignored; fill it, with {name}.filled(...)")
    if hasattr(value, "toarray"):
        raise TypeError(f"{name} is a sparse {type(value).__name__}; it must be dense: use {name}.toarray()")
    try:
        array = np.asarray(value if isinstance(value, np.ndarray) else frames.arrow_to_array(name, value))
    except ValueError as error:
        raise ValueError(f"{name} is not a rectangular array: {error}") from None
    return _of_pandas(value, array) if array.dtype == object and hasattr(value, "iloc") else array


def _of_pandas(value: Any, array: Array) -> Array:
    """A frame or series of numbers whose types (nullable, Arrow, or of several columns) NumPy takes for objects.

    A missing number is NaN. What has other columns stays an array of objects.
    """
    columns = [value] if array.ndim == 1 else [value.iloc[:, i] for i in range(array.shape[1])]
    arrays = [_of_series(column) for column in columns]
    if not arrays or any(column.dtype.kind not in "biuf" for column in arrays):
        return array
    return arrays[0] if array.ndim == 1 else np.stack(arrays, axis=1)


def _of_series(series: Any) -> Array:
    array = np.asarray(series)
    dtype: np.dtype[Any] = getattr(series.dtype, "numpy_dtype", array.dtype)    # of nullable and Arrow types
    if array.dtype != object or dtype.kind not in "biuf":
        return array
    if not series.isna().any():
        return np.asarray(series.to_numpy(dtype))
    return np.asarray(series.to_numpy(dtype if dtype.kind == "f" else np.float64, na_value=np.nan))


def what_it_has(value: Any, array: Array) -> str:
    """The type of an array, or the first column of a frame that made it one of objects."""
    if array.dtype == object and array.ndim == 2 and hasattr(value, "columns") and hasattr(value, "dtypes"):
        for i, (label, dtype) in enumerate(zip(value.columns, value.dtypes, strict=True)):
            column = value.iloc[:, i] if hasattr(value, "iloc") else value[:, i]
            if _of_series(column).dtype.kind not in "biuf":
                return f"a column {label!r} of dtype {dtype}"
    return f"dtype {array.dtype}"


def _usable(array: Array) -> Array:
    """Native byte order and aligned; a copy only where it was not."""
    if array.dtype.isnative and array.flags.aligned:
        return array
    return np.require(array, array.dtype.newbyteorder("="), "A")


def is_half(dtype: np.dtype[Any]) -> bool:
    """float16, or the bfloat16 of ml_dtypes, which to NumPy is no float."""
    return dtype.itemsize == 2 and (dtype.kind == "f" or dtype.name == "bfloat16")


def wide(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The type in which values of another are computed."""
    return _FLOAT32 if is_half(dtype) else dtype


def floating(name: str, value: ArrayLike, *, halves: bool = True, given: object = None) -> Array:
    """An array of real numbers that the kernels read; integers become float64. An array may be `given` as a frame."""
    array = value if type(value) is np.ndarray else to_array(name, value)
    dtype = array.dtype
    if dtype in (_FLOAT32, _FLOAT64) and array.flags.aligned:
        return array
    if dtype.kind in "iu":
        return array.astype(np.float64)
    if (dtype.kind == "f" and dtype.itemsize in (4, 8)) or (halves and is_half(dtype)):
        return _usable(array)
    allowed = _FLOATS if halves else _WIDE
    if dtype.kind == "f" or is_half(dtype):
        to = "float32" if is_half(dtype) else "float64"
        raise TypeError(f"{name} has dtype {dtype}; it must be {allowed}: convert it, with {name}.astype(np.{to})")
    found = what_it_has(value if given is None else given, array)
    raise TypeError(f"{name} has {found}; it must be real numbers, {allowed}")


def numeric(name: str, value: ArrayLike, *, given: object = None) -> Array:
    """A float or integer array in its own type; booleans are 0 and 1."""
    array = to_array(name, value)
    if array.dtype.kind == "b":
        return array.view(np.uint8)
    if array.dtype.kind in "iu":
        return _usable(array)
    return floating(name, array, given=value if given is None else given)


def probabilities(name: str, value: ArrayLike) -> Array:
    """Floats that a model has predicted, of any value (see `in_unit_interval`)."""
    array = to_array(name, value)
    if array.dtype.kind in "biu":
        raise TypeError(f"{name} has dtype {array.dtype}; it must be floats, {_FLOATS}: are {name} and target swapped?")
    return floating(name, array, given=value)


def summands(x: ArrayLike, b: ArrayLike | None) -> tuple[Array, Array | None, np.dtype[Any]]:
    """Exponents and factors of one shape, and the type of the result."""
    array = floating("x", x)
    if b is None:
        return array, None, array.dtype
    factors = numeric("b", b)
    # A Python number takes the type of what it meets.
    dtype = array.dtype
    if type(b) not in (bool, int, float):
        try:
            dtype = np.result_type(array.dtype, factors.dtype)
        except TypeError:       # bfloat16 and an integer or a float16
            dtype = np.result_type(wide(array.dtype), wide(factors.dtype))
    try:
        array, factors = np.broadcast_arrays(array, factors)
        return array, factors, dtype
    except ValueError:
        raise ValueError(f"b has shape {factors.shape}; it must broadcast with {array.shape}, the shape of x") from None


def position(array: Array, good: Array) -> str:
    """The index of the first element that is not good, as one writes it, and its value."""
    where = np.unravel_index(int(np.argmin(good)), array.shape)
    index = ", ".join(str(int(i)) for i in where)
    return f"[{index}] is {array[where]}" if index else f" is {array[()]}"


def between(name: str, array: Array, low: float, high: float, allowed: str) -> None:
    """Raise unless low <= array <= high everywhere (NaN is not)."""
    if not array.size or (low == 0 and _bits_up_to(array, high)):
        return
    with np.errstate(invalid="ignore"):     # a NaN of ml_dtypes
        if array.min() >= low and array.max() <= high:      # reductions, not comparisons: no temporary array
            return
        values = array.astype(np.float64)
        good = np.asarray((values >= low) & (values <= high))
    raise ValueError(f"{name}{position(array, good)}; {allowed}")


def _bits_up_to(array: Array, high: float) -> bool:
    """Whether these are floats in [0, high], found out in one pass: non-negative floats are ordered as their bits, read
    as integers; numbers with a sign bit come after them, -0.0 included, and so does NaN."""
    if array.dtype.kind != "f" and not is_half(array.dtype):
        return False
    with np.errstate(over="ignore"):
        limit = np.array(high, array.dtype)
    bits = np.dtype(f"u{array.dtype.itemsize}")
    return bool(limit <= high and array.view(bits).max() <= limit.view(bits))


def in_unit_interval(name: str, array: Array) -> None:
    between(name, array, 0, 1, "probabilities must be in [0, 1]")


def weights(name: str, value: ArrayLike, shape: tuple[int, ...], what: str) -> Array:
    """Weights >= 0, broadcast to a shape."""
    array = numeric(name, value)
    between(name, array, 0, math.inf, "weights must be at least 0")
    if array.dtype.kind in "iu":
        array = array.astype(np.float64)
    return broadcast(name, array, shape, what)


def broadcast(name: str, array: Array, shape: tuple[int, ...], what: str) -> Array:
    try:
        return np.broadcast_to(array, shape)
    except ValueError:
        raise ValueError(
            f"{name} has shape {array.shape}; it must broadcast to {shape}, the shape of {what}"
        ) from None


def output(
    name: str,
    value: object,
    like: Array,
    like_name: str,
    others: dict[str, Array | None],
    widest: np.dtype[Any] | None = None,
) -> Array:
    """A given output array: the type (or the `widest`) and shape of `like`, which it may be; apart from all else."""
    if not isinstance(value, np.ndarray):
        raise TypeError(f"{name} is a {type(value).__name__}; it must be a NumPy array")
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
        raise ValueError(f"{name} has elements that share memory (a stride of 0); it must have room for each")
    same = value.ctypes.data == like.ctypes.data and value.strides == like.strides and value.dtype == like.dtype
    for other_name, other in others.items() if same else {like_name: like, **others}.items():
        if other is not None and np.may_share_memory(value, other) and np.shares_memory(value, other):
            raise ValueError(f"{name} overlaps {other_name} in memory; it may be {like_name} itself, or apart from it")
    return value


# --- targets ---------------------------------------------------------------------------------------------------------


class Batch(NamedTuple):
    """What a loss is computed from, ready for the kernels."""

    given: Array                    # the logits (or probabilities) as they came
    axis: int                       # their class axis, which is the last one below
    logits: Array
    target: Array                   # labels, one axis less than the logits; or of their shape; or with `mass` the
    mass: Array | None              # probabilities of a sparse distribution, its classes
    where: Array | None             # the classes that can happen, of the shape of the logits
    class_weight: Array | None      # of the binary losses: pos_weight
    sample_weight: Array | None     # of the shape of the unreduced loss


def last(array: Array, axis: int) -> Array:
    """A view with one axis moved to the end."""
    return array if axis == array.ndim - 1 else np.moveaxis(array, axis, -1)


def last_axes(array: Array, axes: tuple[int, ...], like: Array) -> Array:
    """A view with some axes moved to the end, in the order in which they are in the memory of another array of its
    shape, so that they are one where they can be."""
    if len(axes) == 1:
        return last(array, axes[0])
    in_memory = sorted(axes, key=lambda axis: -abs(like.strides[axis]))
    return np.moveaxis(array, in_memory, range(-len(axes), 0))


def targets(
    name: str,
    logits: ArrayLike,
    target: object,
    axis: int,
    class_weight: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    where: ArrayLike | None = None,
) -> Batch:
    """Check everything but the range of the labels, which a kernel checks (see `bad_label`)."""
    given = floating(name, logits)
    axis = axis_index(axis, given, name)
    x = last(given, axis)
    shape, full = x.shape[:-1], given.shape
    what = f"for {name} of shape {full} with axis {axis}"
    mass = None
    if isinstance(target, tuple):
        t, mass = _sparse(target, shape, what, functools.partial(_other_axis, name, full))
    else:
        t = to_array("target", target)  # type: ignore[arg-type]
        if t.shape == full:
            t = last(numeric("target", t, given=target), axis)
        elif t.shape != shape:
            raise ValueError(
                f"target has shape {t.shape}; {what} it must have shape {shape} (labels) or {full} (a distribution)"
                + _other_axis(name, full, t.shape, t)
            )
        else:
            t = _labels("target", t, target, "labels")
    if where is not None:
        mask = to_array("where", where)
        if mask.dtype != bool:
            raise TypeError(f"where has {what_it_has(where, mask)}; it must be bool")
        where = last(broadcast("where", mask, full, name), axis)
    if class_weight is not None:
        class_weight = numeric("class_weight", class_weight)
        if class_weight.shape != x.shape[-1:]:
            raise ValueError(f"class_weight has shape {class_weight.shape}; it must have shape {x.shape[-1:]}")
        class_weight = np.ascontiguousarray(weights("class_weight", class_weight, x.shape[-1:], "a row"), np.float64)
    if sample_weight is not None:
        sample_weight = weights("sample_weight", sample_weight, shape, "the unreduced loss")
    return Batch(given, axis, x, t, mass, where, class_weight, sample_weight)


def _other_axis(name: str, full: tuple[int, ...], shape: tuple[int, ...], labels: Array) -> str:
    """Which other class axis labels of a shape would fit, if there is one."""
    if labels.dtype.kind in "iu" and name in ("logits", "proba"):
        for axis in (1, 0, *range(2, len(full))) if len(full) > 2 else ():
            if full[:axis] + full[axis + 1 :] == shape:
                also = ", as in PyTorch" if axis == 1 else ""
                return f"; labels of the given shape go with a class axis of {axis}{also}: pass axis={axis}"
    return ""


def _labels(name: str, array: Array, given: object, what: str) -> Array:
    if array.dtype.kind in "iu":
        return _usable(array)
    if array.size == 0 and not isinstance(given, np.ndarray):
        return array.astype(np.int64)       # NumPy makes an empty list floats
    if array.dtype.kind == "f" and not isinstance(given, np.ndarray) and np.isnan(array).any():
        raise TypeError(f"{name}{position(array, ~np.isnan(array))}; {what} must be integers, none of them missing")
    raise TypeError(f"{name} has dtype {array.dtype}; {what} must be integers")


def _sparse(
    target: tuple[Any, ...], shape: tuple[int, ...], what: str, hint: Callable[[tuple[int, ...], Array], str]
) -> tuple[Array, Array]:
    """The classes and probabilities of a sparse distribution."""
    if len(target) != 2:
        raise TypeError(
            f"target is a tuple of {len(target)}; a tuple must be (indices, probabilities), and labels an array or list"
        )
    indices = to_array("target[0]", target[0])
    if indices.shape[:-1] != shape or indices.ndim != len(shape) + 1:
        raise ValueError(
            f"target[0] has shape {indices.shape}; {what} the indices of a sparse distribution must have shape "
            + (f"({', '.join(map(str, shape))}, k)" if shape else "(k,)")
            + hint(indices.shape[:-1], indices)
        )
    mass = numeric("target[1]", target[1])
    if mass.shape != indices.shape:
        raise ValueError(f"target[1] has shape {mass.shape}; it must have shape {indices.shape}, as target[0]")
    return _labels("target[0]", indices, target[0], "indices"), mass


def is_dense(batch: Batch) -> bool:
    """Whether the target is a distribution over all classes."""
    return batch.mass is None and batch.target.ndim == batch.logits.ndim


def are_labels(batch: Batch) -> None:
    if batch.mass is not None or is_dense(batch):
        shape = batch.logits.shape[:-1]
        raise TypeError(f"target is a distribution; it must be labels, integers of shape {shape}")


def ignored_label(value: object, target: Array) -> int | None:
    """The label to ignore as the kernels read it, or None if no label of this type can be it."""
    number = integer("ignore_index", value)
    if target.dtype == np.uint64 and number >= 1 << 63:
        return number - (1 << 64) if number < 1 << 64 else None     # read as int64
    if target.dtype == np.uint64 and number < 0:
        return None
    return number if -(1 << 63) <= number < 1 << 63 else None


def bad_label(batch: Batch, place: int, allowed: str) -> NoReturn:
    """Raise for one label, or one class of a sparse distribution, that is out of range."""
    good = np.ones(batch.target.size, bool)
    good[place] = False
    name, what = ("target", "labels") if batch.mass is None else ("target[0]", "indices")
    raise ValueError(f"{name}{position(batch.target, good)}; {what} must be in {allowed}")


def elements(
    name: str, x: Array, target: ArrayLike, pos_weight: ArrayLike | None, sample_weight: ArrayLike | None
) -> Batch:
    """The same for the binary losses, where all arrays have one shape."""
    t = numeric("target", target)
    if t.shape != x.shape:
        raise ValueError(f"target has shape {t.shape}; it must have shape {x.shape}, as {name}")
    if t.dtype.kind in "iu":
        between("target", t, 0, 1, "labels must be 0 or 1")
    else:
        in_unit_interval("target", t)
    if pos_weight is not None:
        pos_weight = weights("pos_weight", pos_weight, x.shape, name)
    if sample_weight is not None:
        sample_weight = weights("sample_weight", sample_weight, x.shape, "the unreduced loss")
    return Batch(x, x.ndim - 1, x, t, None, None, pos_weight, sample_weight)


def flat(*arrays: Array | None) -> tuple[Any, ...]:
    """Arrays of one shape as views with one axis if all are contiguous, else with at least one."""
    present = [array for array in arrays if array is not None]
    if all(array.flags.c_contiguous for array in present):
        return tuple(None if array is None else array.reshape(-1) for array in arrays)
    return tuple(None if array is None else np.atleast_1d(array) for array in arrays)


def gradient(name: str, weight_name: str, batch: Batch, wanted: bool, given: object) -> Array | None:
    """The array for the gradient, of the shape of the logits as they came, if there is to be one."""
    if given is None:
        return np.empty_like(batch.given, subok=False) if wanted else None
    others = {
        "target" if batch.mass is None else "target[0]": batch.target,
        "target[1]": batch.mass,
        "where": batch.where,
        weight_name: batch.class_weight,
        "sample_weight": batch.sample_weight,
    }
    return output("grad_out", given, batch.given, name, others, wide(batch.given.dtype))


# --- a linear layer --------------------------------------------------------------------------------------------------


def linear_operands(
    X: ArrayLike, weight: ArrayLike, bias: ArrayLike | None
) -> tuple[Array, Array, Array | None, np.dtype[Any]]:
    """The operands of X @ weight.T + bias as they came, whatever their byte order, and the type to compute it in."""
    x, w = _real("X", X), _real("weight", weight)
    if x.ndim == 0:
        raise ValueError("X is a number; it must have a last axis of features")
    if w.ndim != 2:
        raise ValueError(f"weight has {w.ndim} dimensions; it must have 2, (n_classes, n_features)")
    if w.shape[1] != x.shape[-1]:
        raise ValueError(f"weight has shape {w.shape}; for X of shape {x.shape} it must be (n_classes, {x.shape[-1]})")
    b = None if bias is None else _real("bias", bias)
    if b is not None and b.shape != w.shape[:1]:
        raise ValueError(f"bias has shape {b.shape}; it must have shape {w.shape[:1]}, a number for each row of weight")
    dtype = np.result_type(*(wide(gradient_type(array)) for array in (x, w, b) if array is not None))
    return x, w, b, dtype


def _real(name: str, value: ArrayLike) -> Array:
    """An array of the types of `floating`, which checks them, as it is."""
    array = to_array(name, value)
    if array.dtype.kind not in "iu":
        floating(name, array[:0] if array.ndim else array, given=value)
    return array


def gradient_type(array: Array) -> np.dtype[Any]:
    """The type of the gradient for an array: its own, in native byte order; of integers float64."""
    return _FLOAT64 if array.dtype.kind in "iu" else array.dtype.newbyteorder("=")
