"""softmax, log_softmax and logsumexp: checks the arguments and calls the kernels."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xent._calls import threads
from xent._calls.arrays import check_mask, move_axes_last, to_floats, to_numbers, widen
from xent._calls.dispatch import kernels
from xent._calls.outputs import check_output
from xent._calls.scalars import check_axes, check_n_threads
from xent._core import memory

Array = NDArray[Any]
Axes = int | tuple[int, ...] | None


def softmax(x: ArrayLike, axis: Axes = -1, *, out: Array | None = None, n_threads: int | None = None) -> Array:
    """`xent.softmax`."""
    return normalize(x, axis, None, out, n_threads, False)


def log_softmax(x: ArrayLike, axis: Axes = -1, *, out: Array | None = None, n_threads: int | None = None) -> Array:
    """`xent.log_softmax`."""
    return normalize(x, axis, None, out, n_threads, True)


def normalize(
    x: ArrayLike, axis: Axes, where: ArrayLike | None, out: Array | None, n_threads: int | None, logarithm: bool
) -> Array:
    """The softmax or, if `logarithm`, the log_softmax."""
    fast = kernels.plain_softmax(x, axis, where, out, logarithm, n_threads, threads.THREAD_ELEMENTS)
    if fast is not None:
        result: Array = threads.run_checked_call(fast, n_threads) if isinstance(fast, kernels.PlainCall) else fast
        return result
    array = to_floats("x", x)
    axes = check_axes(axis, array, "x")
    mask = None if where is None else check_mask(where, array.shape, "x")
    n_threads = check_n_threads(n_threads)
    result = memory.empty_like(array) if out is None else check_output("out", out, array, "x", {"where": mask})
    classes = math.prod(array.shape[i] for i in axes)
    rows, result_rows = move_axes_last(array, axes, array), move_axes_last(result, axes, array)
    blocks = threads.cut(math.prod(rows.shape[: array.ndim - len(axes)]), classes, n_threads)
    row_mask = None if mask is None else move_axes_last(mask, axes, array)
    blocks.run(kernels.softmax, rows, row_mask, result_rows, logarithm, len(axes))
    return result if result.ndim or out is not None else result[()]     # a scalar for a scalar, as in NumPy


def logsumexp(
    x: ArrayLike,
    axis: Axes,
    b: ArrayLike | None,
    where: ArrayLike | None,
    keepdims: bool,
    return_sign: bool,
    n_threads: int | None,
) -> Any:
    """`xent.logsumexp`."""
    array, factors, dtype = _check_terms(x, b)
    axes = check_axes(axis, array, "x")
    mask = None if where is None else check_mask(where, array.shape, "x" if b is None else "x and b")
    rows = move_axes_last(array, axes, array)
    row_mask, row_factors = (None if a is None else move_axes_last(a, axes, array) for a in (mask, factors))
    n_threads = check_n_threads(n_threads)
    out = memory.empty_of(rows.shape[: array.ndim - len(axes)], dtype)
    sign = memory.empty_like(out) if return_sign and factors is not None else None
    blocks = threads.cut(out.size, math.prod(array.shape[i] for i in axes), n_threads)
    blocks.run(kernels.logsumexp, rows, row_mask, row_factors, out, sign, len(axes))
    if return_sign and sign is None:        # a sum of exponentials has sign 1, or is 0 or nan
        sign = np.where(np.isnan(out), out, out > -math.inf).astype(dtype)

    def reshape(result: Array) -> Any:
        return result.reshape([1 if i in axes else n for i, n in enumerate(array.shape)]) if keepdims else result[()]

    return reshape(out) if sign is None else (reshape(out), reshape(sign))


def _check_terms(x: ArrayLike, b: ArrayLike | None) -> tuple[Array, Array | None, np.dtype[Any]]:
    """Exponents and factors, broadcast to one shape, and the dtype of the result."""
    array = to_floats("x", x)
    if b is None:
        return array, None, array.dtype
    factors = to_numbers("b", b)
    dtype = array.dtype
    if type(b) not in (bool, int, float):       # which take the type of x, as in NumPy
        try:
            dtype = np.result_type(array.dtype, factors.dtype)
        except TypeError:       # bfloat16 and an integer or a float16
            dtype = np.result_type(widen(array.dtype), widen(factors.dtype))
    try:
        array, factors = np.broadcast_arrays(array, factors)
    except ValueError:
        raise ValueError(f"b has shape {factors.shape}; it must broadcast with {array.shape}, the shape of x") from None
    return array, factors, dtype
