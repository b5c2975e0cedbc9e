"""Working sets: an objective with a kink, minimised for some of the features at a time.

At the minimum most features have no coefficient but 0. One iteration:

    features = those with coefficients, and those whose subgradients are farthest from 0
    inner    = the proximal Newton method for these features alone, whose rows are short
    check    = value and gradient for all features

A pass over all features is needed once in an iteration only.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from xent._fit.kinks import least_subgradient
from xent._fit.newton_models import make_quadratic
from xent._fit.objective import Objective
from xent._fit.proximal_newton import Trust, proximal_newton
from xent._fit.row_sums import RowSums
from xent._fit.solver import NO_DESCENT, NOT_FINITE, Result, Settings
from xent._fit.types import Array, Matrix, Vector

MIN_FEATURES = 200          # fewer are not worth a selection
START_SHARE = 0.03          # of all features, in the first working set at least
LARGEST_SHARE = 0.5         # of all features, above which a selection saves nothing
INNER_TOLERANCE = 0.1       # largest subgradient of the inner problem, relative to that of all features
INNER_ITERATIONS = 15


class _Selection(NamedTuple):
    """An objective for some of the features, sorted."""

    features: NDArray[np.intp]
    objective: Objective


def minimise_kinked(objective: Objective, start: Vector, settings: Settings) -> Result:
    """The minimum of an objective with a kink.

    An iteration is one of working sets if there are many features in memory, else of the proximal Newton method.
    """
    x, kinks, trust = start, objective.kinks, Trust()
    if not x.any() and objective.fit_intercept:
        x = _start_intercepts(objective)
    value, gradient = objective(x)
    if objective.shape[1] - 1 <= MIN_FEATURES or not isinstance(objective.sums, RowSums):
        return _newton(objective, x, settings, trust, (value, gradient))
    selection: _Selection | None = None
    iteration = 0
    while True:
        subgradient = least_subgradient(x, gradient, kinks)
        norm, reason = settings.report(iteration, x, value, subgradient)
        if reason is not None:
            break
        selection = _renew(selection, objective, x, subgradient, norm)
        inner = Settings(max(INNER_TOLERANCE * norm, settings.tol / 2), INNER_ITERATIONS, settings.noise)
        result = _minimise_selected(selection, objective, x, inner, trust, (value, gradient))
        if not result.loss < value:
            reason = NO_DESCENT if np.isfinite(result.loss) else NOT_FINITE
            break
        x = result.x
        value, gradient = objective(x)
        iteration += 1
    return Result(x, value, norm, iteration, reason)


def _newton(
    objective: Objective, start: Vector, settings: Settings, trust: Trust, at_start: tuple[float, Vector]
) -> Result:
    return proximal_newton(
        objective, start, settings, kinks=objective.kinks, quadratic_at=partial(make_quadratic, objective),
        settle=objective.centred, trust=trust, at_start=at_start,
    )  # fmt: skip


def _start_intercepts(objective: Objective) -> Vector:
    """Zeros, but for the best intercepts: from a pass over the rows without their features, if they are in memory."""
    sums = objective.sums.without_features() if isinstance(objective.sums, RowSums) else objective.sums
    without = Objective(sums, objective.penalty, objective.fit_intercept)
    _, gradient = without(np.zeros(without.shape[0] * without.shape[1]))
    result = np.zeros(objective.shape, order=objective.sums.order)
    result[:, -1] = objective.best_intercepts(without.to_matrix(gradient)[:, -1])
    return objective.to_vector(result)


def _select(objective: Objective, features: NDArray[np.intp]) -> _Selection:
    assert isinstance(objective.sums, RowSums)
    selected = Objective(objective.sums.select(features), objective.penalty, objective.fit_intercept)
    return _Selection(features, selected)


def _renew(
    selection: _Selection | None, objective: Objective, x: Vector, subgradient: Vector, norm: float
) -> _Selection:
    """The next working set: the last one, if it has the features that matter; all features, if it would have most."""
    used: Array = np.any(objective.to_matrix(x)[:, :-1], axis=0)
    violation: Array = np.max(np.abs(objective.to_matrix(subgradient)[:, :-1]), axis=0)
    matters = np.flatnonzero(used | (violation > INNER_TOLERANCE * norm))
    size = 0
    if selection is not None:
        if np.isin(matters, selection.features, assume_unique=True).all():
            return selection
        size = len(selection.features)
    wanted = max(MIN_FEATURES // 2, int(START_SHARE * len(used)), 2 * int(used.sum()), size)
    if wanted > LARGEST_SHARE * len(used):
        return _Selection(np.arange(len(used)), objective)
    violation[used] = np.inf
    candidates = np.flatnonzero(violation)
    if len(candidates) == 0:        # only intercepts are left to move
        candidates = np.arange(1)
    if len(candidates) > wanted:
        candidates = np.sort(candidates[np.argpartition(violation[candidates], -wanted)[-wanted:]])
    return _select(objective, candidates)


def _minimise_selected(
    selection: _Selection, objective: Objective, x: Vector, settings: Settings, trust: Trust,
    at_start: tuple[float, Vector],
) -> Result:  # fmt: skip
    """The minimum for the features of the working set, as coefficients of all features."""
    selected = selection.objective
    columns = np.append(selection.features, objective.shape[1] - 1)

    def take(vector: Vector) -> Vector:
        return selected.to_vector(np.array(objective.to_matrix(vector)[:, columns], order=selected.sums.order))

    result = _newton(selected, take(x), settings, trust, (at_start[0], take(at_start[1])))
    matrix: Matrix = objective.to_matrix(x.copy())
    matrix[:, columns] = selected.to_matrix(result.x)
    return result._replace(x=objective.to_vector(matrix))
