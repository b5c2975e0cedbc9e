"""Proximal Newton method: for smooth functions with kinks (see `xent._fit.kinks`).

One iteration:

    free    = elements that are not 0, or whose subgradients exclude 0
    target  = roughly where the quadratic model with the kinks is least, among the free elements
    damping = more where the value falls much less than the slope says, and then the target is not taken; less where it
              falls as it should

The model keeps its kinks, so that elements become 0 exactly. Damping is curvature added to the model, relative to its
own.

References: J. D. Lee, Y. Sun, M. A. Saunders, "Proximal Newton-type methods for minimizing composite functions", SIAM
Journal on Optimization 24 (2014); D. W. Marquardt, "An algorithm for least-squares estimation of nonlinear parameters",
Journal of the Society for Industrial and Applied Mathematics 11 (1963).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from xent._fit.kinks import least_subgradient
from xent._fit.quadratics import Effort, Quadratic
from xent._fit.solver import NO_DESCENT, NOT_FINITE, ROUNDING, Function, Operator, Result, Settings
from xent._fit.trust_region import MAX_HIDDEN
from xent._fit.types import Vector

FORCING = 0.1           # largest subgradient at the target, relative to that at the start of the iteration
MAX_DAMPING = 1e10
FIRST_DAMPING = 1.0
LOW_DAMPING = 0.1       # where there was none before
LEAST_DAMPING = 1e-3    # less is none
FIRST_SWEEPS = 4        # over the elements, to minimise a model
MAX_SWEEPS = 200

Free = NDArray[np.intp]


class Trust:
    """How far models are trusted: much damping and little effort at first.

    Attributes
    ----------
    damping : float
        A multiple of the usual curvatures, which is added to that of the model.
    sweeps : int
        For one model.
    """

    def __init__(self) -> None:
        self.damping = FIRST_DAMPING
        self.sweeps = FIRST_SWEEPS

    def adapt(self, agreement: float) -> None:
        """To the decrease of the value relative to the slope: between 1/2 and 1 where the model is right."""
        if agreement < 0.2:
            self.damping = max(LOW_DAMPING, (4 if agreement > -1 else 16) * self.damping)
        elif agreement > 0.4:
            self.damping = self.damping / 4 if self.damping > LEAST_DAMPING else 0.0
            self.sweeps = min(2 * self.sweeps, MAX_SWEEPS)


def proximal_newton(
    function: Function,
    start: Vector,
    settings: Settings,
    *,
    kinks: Vector,
    quadratic_at: Callable[[Vector, Free, Trust], Quadratic],
    settle: Operator = np.copy,
    trust: Trust | None = None,
    at_start: tuple[float, Vector] | None = None,
) -> Result:
    """Minimise a smooth function with kinks.

    Parameters
    ----------
    function : callable
        x -> (value, gradient): the value with the kinks, the gradient of the smooth part.
    start : ndarray of shape (n,), float64
    settings : Settings
        `tol` is for the largest element of the least subgradient.
    kinks : ndarray of shape (n,)
    quadratic_at : callable
        (x, indices of elements, trust) -> the quadratic model of the smooth part at x, in these elements.
    settle : callable
        x -> a point where the value is at most the same, in a new array.
    trust : Trust, optional
        That of an earlier call, from which this one goes on.
    at_start : tuple of float and ndarray, optional
        The value and the gradient at the start, if they are known.
    """
    x = start
    value, gradient = function(x) if at_start is None else at_start
    iteration, hidden, least, trust = 0, 0, math.inf, trust or Trust()
    quadratic: Quadratic | None = None
    while True:
        subgradient = least_subgradient(x, gradient, kinks)
        norm, reason = settings.report(iteration, x, value, subgradient)
        if reason is None and (hidden == MAX_HIDDEN or trust.damping > MAX_DAMPING):
            reason = NO_DESCENT
        if reason is not None:
            break
        hidden, least = (0, norm) if norm < 0.5 * least else (hidden, least)
        if quadratic is None:
            free = np.flatnonzero(((x != 0) | (subgradient != 0) | (kinks == 0)) & (kinks < math.inf))
            of_free = x[free], gradient[free], kinks[free]
            quadratic = quadratic_at(x, free, trust)
        effort = Effort(max(FORCING * norm, settings.tol / 4), trust.sweeps)
        target = quadratic.minimise(*of_free, trust.damping, effort)
        slope = _slope_to(target, *of_free)
        if not math.isfinite(slope):
            reason = NOT_FINITE
            break
        point = x.copy()
        point[free] = target
        point = settle(point)
        there, gradient_there = function(point)
        rounding = ROUNDING * settings.noise * abs(value)
        agreement = -math.inf       # 1/2 to 1 if the function is like the model
        if there <= value + rounding and np.isfinite(gradient_there).all():
            agreement = (value - there + rounding) / (rounding - min(slope, 0))
        iteration += 1
        trust.adapt(agreement)
        if agreement > 1e-3:
            hidden = 0 if value - there > rounding else hidden + 1
            x, value, gradient, quadratic = point, there, gradient_there, None
    return Result(x, value, norm, iteration, reason)


def _slope_to(target: Vector, x: Vector, gradient: Vector, kinks: Vector) -> float:
    """The change of the linear model with the kinks: at most 0."""
    return float(gradient @ (target - x) + kinks @ (np.abs(target) - np.abs(x)))


