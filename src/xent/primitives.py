"""logsumexp, softmax and log_softmax."""

from __future__ import annotations

from typing import Any, Literal, overload

from numpy.typing import ArrayLike

from xent._calls import softmax as calls
from xent._calls import threads
from xent._calls.dispatch import kernels
from xent._calls.softmax import Array, Axes

__all__ = ["log_softmax", "logsumexp", "softmax"]


@overload
def logsumexp(
    x: ArrayLike, axis: Axes = -1, *,
    b: ArrayLike | None = None, where: ArrayLike | None = None, keepdims: bool = False,
    return_sign: Literal[False] = False, n_threads: int | None = None,
) -> Array: ...


@overload
def logsumexp(
    x: ArrayLike, axis: Axes = -1, *,
    b: ArrayLike | None = None, where: ArrayLike | None = None, keepdims: bool = False,
    return_sign: Literal[True], n_threads: int | None = None,
) -> tuple[Array, Array]: ...


@overload
def logsumexp(
    x: ArrayLike, axis: Axes = -1, *,
    b: ArrayLike | None = None, where: ArrayLike | None = None, keepdims: bool = False,
    return_sign: bool, n_threads: int | None = None,
) -> Array | tuple[Array, Array]: ...


def logsumexp(
    x: ArrayLike,
    axis: Axes = -1,
    *,
    b: ArrayLike | None = None,
    where: ArrayLike | None = None,
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
        Factors of the exponentials, finite and of any sign, broadcast against `x`. Where `b` is 0, a NaN or infinite
        `x` is ignored. With `b`, sums are computed in float64, since they may cancel.
    where : array_like of bool, optional
        The elements to sum, broadcast to the shape of `x` (and `b`). Elsewhere both are ignored, whatever they are.
    keepdims : bool, default False
        Keep the axes that were summed over, with length 1.
    return_sign : bool, default False
        Also return the sign of the sum; the logarithm is that of its absolute value.
    n_threads : int, optional
        The largest number of threads; :func:`get_num_threads` if not given. Results do not depend on it.

    Returns
    -------
    result : ndarray or scalar
        The shape of `x` without the summed axes, and the type of `x` (or the common type of `x` and `b`). -inf for an
        empty sum, or if all `x` are -inf or left out by `where`; nan for a negative sum without `return_sign`.
    sign : ndarray or scalar
        -1, 0 or 1, or nan, in the type of the result; only with `return_sign`.

    Raises
    ------
    TypeError, ValueError
        If `x` or `b` does not hold real numbers or `where` booleans, they do not broadcast, or an axis is out of range
        or repeated.

    Notes
    -----
    With m the maximum and r the sum of exp(x - m) over everything but the maximum, the result is m + log1p(r) [1]_.
    The error is at most 2 units in the last place (ulp) of the larger of abs(m) and the result. With `b` it is that of
    a float64 sum: 2 ulp of the largest of abs(m), the result and 1, and more where terms of opposite sign cancel.

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
    >>> round(float(xent.logsumexp([1000.0, np.nan, 1000.0], where=[True, False, True])), 6)
    1000.693147
    >>> log_size, sign = xent.logsumexp([1.0, 2.0], b=[1.0, -1.0], return_sign=True)
    >>> round(float(log_size), 6), float(sign)
    (1.541325, -1.0)
    """
    result = kernels.plain_logsumexp(x, axis, b, where, keepdims, return_sign, n_threads, threads.THREAD_ELEMENTS)
    if isinstance(result, kernels.PlainCall):
        return threads.run_checked_call(result, n_threads)
    if result is not None:
        return result
    return calls.logsumexp(x, axis, b, where, keepdims, return_sign, n_threads)


def softmax(
    x: ArrayLike,
    axis: Axes = -1,
    *,
    where: ArrayLike | None = None,
    out: Array | None = None,
    n_threads: int | None = None,
) -> Array:
    """Probabilities proportional to exp(x), along axes.

    Parameters
    ----------
    x : array_like
        Real numbers (logits). Floats keep their type (half precision is computed in float32); integers become
        float64.
    axis : int, tuple of int, or None, default -1
        The axis or axes along which the result sums to 1; None is all of them.
    where : array_like of bool, optional
        The classes that can happen, broadcast to the shape of `x`. Elsewhere `x` counts as -inf, whatever it is (NaN or
        +inf as well), so that the result is 0 there.
    out : ndarray, optional
        Array for the result, with the shape and type of `x`; it may be `x` itself.
    n_threads : int, optional
        The largest number of threads; :func:`get_num_threads` if not given. Results do not depend on it.

    Returns
    -------
    ndarray
        The shape and type of `x` (a scalar for a scalar); `out` if it was given. A row that holds NaN or +inf, or only
        -inf, or of which `where` leaves nothing, becomes all NaN.

    Raises
    ------
    TypeError, ValueError
        If `x` does not hold real numbers or `where` booleans, `where` does not broadcast to the shape of `x`, an axis
        is out of range or repeated, or `out` has a wrong shape or type.

    Notes
    -----
    exp(x - m) / (1 + r), with m the maximum and r the sum of exp(x - m) over everything else; at most 4 units in the
    last place from the true value. See :func:`logsumexp` for the source.

    Examples
    --------
    >>> import xent
    >>> xent.softmax([2.0, 4.0, 0.5]).round(4)
    array([0.1161, 0.858 , 0.0259])
    >>> xent.softmax([2.0, 4.0, 0.5], where=[True, False, True]).round(4)
    array([0.8176, 0.    , 0.1824])
    """
    return calls.normalize(x, axis, where, out, n_threads, False)


def log_softmax(
    x: ArrayLike,
    axis: Axes = -1,
    *,
    where: ArrayLike | None = None,
    out: Array | None = None,
    n_threads: int | None = None,
) -> Array:
    """Logarithm of the softmax, without its rounding: x - logsumexp(x), along axes.

    Parameters
    ----------
    x : array_like
        Real numbers (logits). Floats keep their type (half precision is computed in float32); integers become
        float64.
    axis : int, tuple of int, or None, default -1
        The axis or axes along which the probabilities sum to 1; None is all of them.
    where : array_like of bool, optional
        The classes that can happen, broadcast to the shape of `x`. Elsewhere `x` counts as -inf, whatever it is (NaN or
        +inf as well), so that the result is -inf there.
    out : ndarray, optional
        Array for the result, with the shape and type of `x`; it may be `x` itself.
    n_threads : int, optional
        The largest number of threads; :func:`get_num_threads` if not given. Results do not depend on it.

    Returns
    -------
    ndarray
        The shape and type of `x` (a scalar for a scalar); `out` if it was given. A row that holds NaN or +inf, or only
        -inf, or of which `where` leaves nothing, becomes all NaN.

    Raises
    ------
    TypeError, ValueError
        If `x` does not hold real numbers or `where` booleans, `where` does not broadcast to the shape of `x`, an axis
        is out of range or repeated, or `out` has a wrong shape or type.

    Notes
    -----
    -((m - x) + log1p(r)): both terms are >= 0, so that nothing cancels; at most 4 units in the last place from the
    true value. See :func:`logsumexp` for the source.

    Examples
    --------
    >>> import xent
    >>> xent.log_softmax([0.0, 50.0])
    array([-5.00000000e+01, -1.92874985e-22])
    >>> xent.log_softmax([0.0, 50.0, 0.0], where=[True, False, True]).round(4)
    array([-0.6931,    -inf, -0.6931])
    """
    return calls.normalize(x, axis, where, out, n_threads, True)
