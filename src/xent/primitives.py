"""logsumexp, softmax and log_softmax."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xent._calls import arguments as check
from xent._calls import threads
from xent._calls.dispatch import kernels
from xent._calls.threads import cut


def logsumexp(
    x: ArrayLike,
    axis: int | tuple[int, ...] | None = -1,
    *,
    b: ArrayLike | None = None,
    keepdims: bool = False,
    return_sign: bool = False,
    n_threads: int | None = None,
) -> Any:
    """Logarithm of the sum of exponentials, log(sum(b * exp(x))), along axes.

    Parameters
    ----------
    x : array_like
        Real numbers. Floats keep their type (half precision is computed in float32); integers become float64.
    axis : int, tuple of int, or None, default -1
        The axis or axes to sum over; None is all of them.
    b : array_like, optional
        Factors of the exponentials, finite and of any sign; `x` and `b` are broadcast against each other. Where it is
        0, it hides a NaN or infinite `x`. Sums are formed in float64 then, since they may cancel.
    keepdims : bool, default False
        Keep the axes that were summed over, with length 1.
    return_sign : bool, default False
        Also return the sign of the sum; the logarithm is that of its absolute value.
    n_threads : int, optional
        The largest number of threads; :func:`get_num_threads` if not given. Results do not depend on it.

    Returns
    -------
    result : ndarray or scalar
        `x` without its summed axes, in its type (that of `x` and `b` together, with `b`). An empty sum, or one of -inf
        alone, is -inf; a negative sum is nan, unless its sign is asked for.
    sign : ndarray or scalar
        -1, 0 or 1, or nan, in the type of the result; only with `return_sign`.

    Raises
    ------
    TypeError, ValueError
        If `x` or `b` is not real numbers, they do not broadcast, or an axis is out of range or repeated.

    Notes
    -----
    With m the maximum and r the sum of exp(x - m) over everything but the maximum, the result is m + log1p(r) [1]_.
    Its error is at most 2 units in the last place of the larger of abs(m) and the result. With factors it is that of a
    float64 sum: 2 units of the largest of abs(m), the result and 1, and more by as much as terms of both signs cancel.

    References
    ----------
    .. [1] P. Blanchard, D. J. Higham, N. J. Higham, "Accurately computing the log-sum-exp and softmax functions", IMA
       Journal of Numerical Analysis 41 (2021), 2311-2330.

    Examples
    --------
    >>> import numpy as np, xent
    >>> round(float(xent.logsumexp([1000.0, 1000.0])), 6)
    1000.693147
    >>> xent.logsumexp(np.zeros((2, 3)), axis=0)
    array([0.69314718, 0.69314718, 0.69314718])
    >>> log_size, sign = xent.logsumexp([1.0, 2.0], b=[1.0, -1.0], return_sign=True)
    >>> round(float(log_size), 6), float(sign)
    (1.541325, -1.0)
    """
    result = kernels.plain_logsumexp(x, axis, b, keepdims, return_sign, n_threads, threads.THREAD_ELEMENTS)
    if isinstance(result, kernels.PlainCall):
        return threads.run_checked_call(result, n_threads)
    if result is not None:
        return result
    array, factors, dtype = check.summands(x, b)
    axes = check.axis_indices(axis, array, "x")
    rows = check.last_axes(array, axes, array)
    weight = None if factors is None else check.last_axes(factors, axes, array)
    n_threads = check.thread_count(n_threads)
    out = np.empty(rows.shape[: array.ndim - len(axes)], dtype)
    sign = np.empty_like(out) if return_sign and weight is not None else None
    blocks = cut(out.size, math.prod(array.shape[axis] for axis in axes), n_threads)
    blocks.run(kernels.logsumexp, rows, weight, out, sign, len(axes))
    if return_sign and sign is None:        # a sum of exponentials
        sign = np.where(np.isnan(out), out, out > -math.inf).astype(dtype)

    def shaped(result: NDArray[Any]) -> Any:
        return result.reshape([1 if i in axes else n for i, n in enumerate(array.shape)]) if keepdims else result[()]

    return shaped(out) if sign is None else (shaped(out), shaped(sign))


def softmax(
    x: ArrayLike,
    axis: int | tuple[int, ...] | None = -1,
    *,
    out: NDArray[Any] | None = None,
    n_threads: int | None = None,
) -> NDArray[Any]:
    """Probabilities proportional to exp(x), along axes.

    Parameters
    ----------
    x : array_like
        Real numbers (logits). Floats keep their type (half precision is computed in float32); integers become
        float64.
    axis : int, tuple of int, or None, default -1
        The axis or axes along which the result sums to 1; None is all of them.
    out : ndarray, optional
        Where to put the result: of the shape and type of `x`, which it may be.
    n_threads : int, optional
        The largest number of threads; :func:`get_num_threads` if not given. Results do not depend on it.

    Returns
    -------
    ndarray
        Of the shape and type of `x` (a scalar for a scalar); `out` if it was given. All NaN where a row holds NaN or
        +inf, or only -inf.

    Raises
    ------
    TypeError, ValueError
        If `x` is not real numbers, an axis is out of range or repeated, or `out` does not fit.

    Notes
    -----
    exp(x - m) / (1 + r), with m the maximum and r the sum of exp(x - m) over everything else; at most 4 units in the
    last place from the true value. See :func:`logsumexp` for the source.

    Examples
    --------
    >>> import xent
    >>> xent.softmax([2.0, 4.0, 0.5]).round(4)
    array([0.1161, 0.858 , 0.0259])
    """
    return _probabilities(x, axis, out, n_threads, logarithm=False)


def log_softmax(
    x: ArrayLike,
    axis: int | tuple[int, ...] | None = -1,
    *,
    out: NDArray[Any] | None = None,
    n_threads: int | None = None,
) -> NDArray[Any]:
    """Logarithm of the softmax, without its rounding: x - logsumexp(x), along axes.

    Parameters
    ----------
    x : array_like
        Real numbers (logits). Floats keep their type (half precision is computed in float32); integers become
        float64.
    axis : int, tuple of int, or None, default -1
        The axis or axes along which the probabilities sum to 1; None is all of them.
    out : ndarray, optional
        Where to put the result: of the shape and type of `x`, which it may be.
    n_threads : int, optional
        The largest number of threads; :func:`get_num_threads` if not given. Results do not depend on it.

    Returns
    -------
    ndarray
        Of the shape and type of `x` (a scalar for a scalar); `out` if it was given. All NaN where a row holds NaN or
        +inf, or only -inf.

    Raises
    ------
    TypeError, ValueError
        If `x` is not real numbers, an axis is out of range or repeated, or `out` does not fit.

    Notes
    -----
    -((m - x) + log1p(r)): both terms are >= 0, so that nothing cancels; at most 4 units in the last place from the
    true value. See :func:`logsumexp` for the source.

    Examples
    --------
    >>> import xent
    >>> xent.log_softmax([0.0, 50.0])
    array([-5.00000000e+01, -1.92874985e-22])
    """
    return _probabilities(x, axis, out, n_threads, logarithm=True)


def _probabilities(
    x: ArrayLike,
    axis: int | tuple[int, ...] | None,
    out: NDArray[Any] | None,
    n_threads: int | None,
    *,
    logarithm: bool,
) -> NDArray[Any]:
    plain: NDArray[Any] | None = kernels.plain_softmax(
        x, axis, out, logarithm, n_threads, threads.THREAD_ELEMENTS
    )
    if isinstance(plain, kernels.PlainCall):
        plain = threads.run_checked_call(plain, n_threads)
    if plain is not None:
        return plain
    array = check.floating("x", x)
    axes = check.axis_indices(axis, array, "x")
    n_threads = check.thread_count(n_threads)
    result = np.empty_like(array, subok=False) if out is None else check.output("out", out, array, "x", {})
    classes = math.prod(array.shape[axis] for axis in axes)
    rows, target = check.last_axes(array, axes, array), check.last_axes(result, axes, array)
    blocks = cut(math.prod(rows.shape[: array.ndim - len(axes)]), classes, n_threads)
    blocks.run(kernels.softmax, rows, target, logarithm, len(axes))
    return result if result.ndim or out is not None else result[()]     # a number for a number, as NumPy has it
