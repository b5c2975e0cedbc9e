"""Checks of single values: integers, real numbers, choices and axes. Errors name the argument, the value and what is
allowed."""

from __future__ import annotations

import functools
import operator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xent._calls import cpus, tensors

REDUCTIONS = ("mean", "sum", "none")


def check_integer(name: str, value: object) -> int:
    try:
        if isinstance(value, (bool, np.bool_)):
            raise TypeError
        return operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"{name} is {value!r}; it must be an integer") from None


def check_positive_integer(name: str, value: object) -> int:
    number = check_integer(name, value)
    if number < 1:
        raise ValueError(f"{name} is {number}; it must be at least 1")
    return number


def check_positive_integers(name: str, value: object) -> tuple[int, ...]:
    """One integer, or several in a tuple, list, range or array."""
    if not isinstance(value, (tuple, list, range, np.ndarray)) or getattr(value, "ndim", 1) == 0:
        try:
            return (check_positive_integer(name, value),)
        except TypeError as error:
            raise TypeError(f"{error}, or a tuple of integers") from None
    return tuple(check_positive_integer(f"{name}[{i}]", number) for i, number in enumerate(value))


def check_n_threads(value: object) -> int | None:
    return None if value is None else check_positive_integer("n_threads", value)


def check_n_jobs(value: object) -> int | None:
    """joblib's n_jobs: -1 is every CPU that this process may use, -2 all but one, and so on, at least one."""
    jobs = None if value is None else check_integer("n_jobs", value)
    if jobs == 0:
        raise ValueError("n_jobs is 0; it must be at least 1, negative (-1: all CPUs, -2: all but one), or None")
    return max(1, _count_cpus() + 1 + jobs) if jobs is not None and jobs < 0 else jobs


@functools.cache    # counting them takes longer than a small prediction
def _count_cpus() -> int:
    return cpus.available()


def check_real(name: str, value: object) -> float:
    if type(value) is float:
        return value
    value = tensors.to_arrays(name, value)
    kind = value.dtype.kind if isinstance(value, np.generic | np.ndarray) else ""
    if isinstance(value, (bool, str, bytes)) or (kind and kind in "bSU"):
        raise TypeError(f"{name} is {value!r}; it must be a real number")
    try:
        return float(value)  # type: ignore[arg-type]
    except OverflowError:
        raise ValueError(f"{name} is larger than a float can be") from None
    except (TypeError, ValueError):
        raise TypeError(f"{name} is {value!r}; it must be a real number") from None


def check_real_between(name: str, value: object, low: float, high: float, allowed: str) -> float:
    number = check_real(name, value)
    if not low <= number <= high:
        raise ValueError(f"{name} is {number}; it must be {allowed}")
    return number


def check_choice(name: str, value: object, allowed: tuple[str, ...]) -> str:
    if not isinstance(value, str) or value not in allowed:
        raise ValueError(f"{name} is {value!r}; it must be one of {', '.join(map(repr, allowed))}")
    return value


def check_reduction(value: object) -> str:
    return check_choice("reduction", value, REDUCTIONS)


def check_axis(value: object, array: NDArray[Any], name: str) -> int:
    """One axis of an array, as an index >= 0."""
    axis = check_integer("axis", value)
    if array.ndim == 0:
        raise np.exceptions.AxisError(f"axis is {axis}; {name} is a number and has no axis: it must have at least one")
    if not -array.ndim <= axis < array.ndim:
        dimensions = "1 dimension" if array.ndim == 1 else f"{array.ndim} dimensions"
        allowed = f"[{-array.ndim}, {array.ndim})"
        raise np.exceptions.AxisError(f"axis is {axis}; {name} has {dimensions}, so it must be in {allowed}")
    return axis % array.ndim


def check_axes(value: object, array: NDArray[Any], name: str) -> tuple[int, ...]:
    """Axes of an array, one, several or (None) all, as indices >= 0."""
    if value is None:
        return tuple(range(array.ndim))
    given = tuple(check_integer("axis", axis) for axis in (value if isinstance(value, tuple) else (value,)))
    if array.ndim == 0 and given:
        raise np.exceptions.AxisError(f"axis is {value}; {name} is a number and has no axis: axis must be None")
    axes = tuple(check_axis(axis, array, name) for axis in given)
    if len(set(axes)) < len(axes):
        raise ValueError(f"axis is {value}; an axis must not be repeated")
    return axes
