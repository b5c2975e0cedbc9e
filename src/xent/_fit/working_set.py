"""Working sets: an objective with a kink, minimised for some of the features at a time.

At the minimum most features have no coefficient but 0. One iteration:

    features = those with coefficients, and those whose subgradients are farthest from 0
    inner    = the proximal Newton method for these features alone, whose rows are short
    check    = value and gradient for all features

A pass over all features is needed once in an iteration only.
"""

from __future__ import annotations

from functools import partial

import numpy as np
from numpy.typing import NDArray

from xent._fit.kinks import least_subgradient
from xent._fit.newton_models import make_quadratic
from xent._fit.objective import Objective
from xent._fit.proximal_newton import Trust, proximal_newton
from xent._fit.row_sums import RowSums
from xent._fit.solver import NO_DESCENT, NOT_FINITE, Result, Settings
from xent._fit.types import Matrix, Vector

MIN_FEATURES = 200          # fewer are not worth a selection
START_SHARE = 0.05          # of all features, in the first working set at least
LARGEST_SHARE = 0.5         # of all features, above which a selection saves nothing
INNER_TOLERANCE = 0.1       # largest subgradient of the inner problem, relative to that of all features
INNER_ITERATIONS = 15


def minimise_kinked(objective: Objective, start: Vector, settings: Settings) -> Result:
    """The minimum of an objective with a kink.

    An iteration is one of working sets if there are many features in memory, else of the proximal Newton method.
    """
    x, kinks = start, objective.kinks
    value, gradient = objective(x)
    if not x.any() and objective.fit_intercept:
        x = objective.best_intercepts(gradient)
        value, gradient = objective(x)
    if objective.shape[1] - 1 <= MIN_FEATURES or not isinstance(objective.sums, RowSums):
        return _newton(objective, x, settings, Trust(), (value, gradient))
    size, iteration, trust = 0, 0, Trust()
    while True:
        subgradient = least_subgradient(x, gradient, kinks)
        norm, reason = settings.report(iteration, x, value, subgradient)
        if reason is not None:
            break
        features = _choose_features(objective, x, subgradient, size)
        size = len(features)
        tolerance = max(INNER_TOLERANCE * norm, settings.tol / 2)
        inner = Settings(tolerance, INNER_ITERATIONS, settings.noise)
        if size > LARGEST_SHARE * (objective.shape[1] - 1):
            result = _newton(objective, x, inner, trust, (value, gradient))
        else:
            result = _minimise_selected(objective, x, features, inner, trust, (value, gradient))
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


def _choose_features(objective: Objective, x: Vector, subgradient: Vector, size: int) -> NDArray[np.intp]:
    """The features of the next working set, sorted."""
    matrix = objective.to_matrix(x)[:, :-1]
    violation = np.abs(objective.to_matrix(subgradient)[:, :-1]).max(axis=0)
    used = matrix.any(axis=0)
    wanted = max(MIN_FEATURES // 2, int(START_SHARE * len(used)), 2 * int(used.sum()), size)
    violation[used] = np.inf
    candidates = np.flatnonzero(violation)
    if len(candidates) > wanted:
        candidates = candidates[np.argpartition(violation[candidates], -wanted)[-wanted:]]
    return np.sort(candidates)


def _minimise_selected(
    objective: Objective, x: Vector, features: NDArray[np.intp], settings: Settings, trust: Trust,
    at_start: tuple[float, Vector],
) -> Result:  # fmt: skip
    """The minimum for some of the features, as coefficients of all of them."""
    assert isinstance(objective.sums, RowSums)
    selected = Objective(objective.sums.select(features), objective.penalty, objective.fit_intercept)
    columns = np.append(features, objective.shape[1] - 1)

    def take(vector: Vector) -> Vector:
        return selected.to_vector(np.array(objective.to_matrix(vector)[:, columns], order=selected.sums.order))

    result = _newton(selected, take(x), settings, trust, (at_start[0], take(at_start[1])))
    matrix: Matrix = objective.to_matrix(x.copy())
    matrix[:, columns] = selected.to_matrix(result.x)
    return result._replace(x=objective.to_vector(matrix))
