"""The grid that a cross-validation searches: values of C and of l1_ratio."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from xent._calls.scalars import check_real, check_real_between

Vector = NDArray[np.float64]


class Grid(NamedTuple):
    """The values to try."""

    Cs: Vector
    l1_ratios: Vector


def check_Cs(value: Any) -> Vector:
    """The values of C: as many as a number says, evenly spaced in the logarithm from 1e-4 to 1e4; or those given."""
    if isinstance(value, int | np.integer) and not isinstance(value, bool):
        if value < 1:
            raise ValueError(f"Cs is {value}; it must be at least 1, or an array of values of C")
        return np.logspace(-4, 4, int(value))
    values = _to_list("Cs", value, "an integer or a 1d array of values of C")
    result = np.array([check_real(f"Cs[{i}]", C) for i, C in enumerate(values)])
    good = result > 0
    if not good.all():
        place = int(np.argmin(good))
        raise ValueError(f"Cs[{place}] is {values[place]!r}; it must be greater than 0")
    return result


def check_l1_ratios(value: Any) -> Vector:
    values = _to_list("l1_ratios", value, "a 1d array of numbers in [0, 1]")
    result = [check_real_between(f"l1_ratios[{i}]", ratio, 0, 1, "in [0, 1]") for i, ratio in enumerate(values)]
    return np.array(result)


def resolve_l1_ratios(penalty: Any, l1_ratios: Any) -> Vector:
    """The values of l1_ratio: those given, unless `penalty` names one."""
    ratios = check_l1_ratios((0.0,) if _is_unset(l1_ratios) else l1_ratios)
    if isinstance(penalty, str) and penalty in ("l1", "l2"):
        return np.array([1.0 if penalty == "l1" else 0.0])
    if not (isinstance(penalty, str) and penalty in ("unset", "deprecated", "elasticnet")):
        raise ValueError(f"penalty is {penalty!r}; it must be one of 'l1', 'l2', 'elasticnet' or 'unset'")
    return ratios


def _is_unset(value: Any) -> bool:
    """Whether it is scikit-learn's default, which get_params of its estimators returns."""
    return value is None or (isinstance(value, str) and value == "warn")


def _to_list(name: str, value: Any, allowed: str) -> list[Any]:
    if isinstance(value, str | bytes) or not hasattr(value, "__iter__") or getattr(value, "ndim", 1) != 1:
        raise TypeError(f"{name} is {value!r}; it must be {allowed}")
    values = list(value)
    if not values:
        raise ValueError(f"{name} is empty; it must be {allowed}")
    return values


def find_best(scores: NDArray[np.float64]) -> tuple[int, int]:
    """The place with the largest mean score; the first of several.

    Parameters
    ----------
    scores : ndarray of shape (n_folds, n_l1_ratios, n_cs)
        The mean of a cell with NaN counts as the least.
    """
    mean = scores.mean(axis=0)
    mean = np.where(np.isnan(mean), -np.inf, mean)
    # C first, then l1_ratio, as scikit-learn looks through them.
    c, ratio = np.unravel_index(int(np.argmax(mean.T)), mean.T.shape)
    return int(ratio), int(c)


def show_scores(grid: Grid, scores: NDArray[np.float64]) -> None:
    for ratio, of_ratio in zip(grid.l1_ratios, scores.mean(axis=0), strict=True):
        for C, score in zip(grid.Cs, of_ratio, strict=True):
            print(f"C = {C:g}, l1_ratio = {ratio:g}: mean score {score:.6f}")
