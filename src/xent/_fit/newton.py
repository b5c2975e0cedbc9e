"""Newton's method with the whole Hessian, in a trust region: for few coefficients, however badly conditioned.

One iteration:

    step    = the minimum of the quadratic model within the region: (H + mu M) step = -gradient, by Cholesky, with mu
              the least number for which the length, sqrt(step' M step), is within the radius (0 if that will do)
    region  = larger where the value falls as the model says; smaller where it falls much less, and then the step is
              not taken

The metric M is a Hessian as well: where a step changes all logits as much as another, both have the same length,
whatever the scale and the correlations of the columns. It is only made when a first step has failed.

References: J. J. More, D. C. Sorensen, "Computing a trust region step", SIAM Journal on Scientific and Statistical
Computing 4 (1983); A. R. Conn, N. I. M. Gould, P. L. Toint, "Trust Region Methods", SIAM 2000, section 7.3.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from xent._fit.inverses import Factor
from xent._fit.solver import NO_DESCENT, NOT_FINITE, ROUNDING, Expansion, Result, Settings
from xent._fit.trust_region import GOOD, LEAST, MAX_HIDDEN, POOR, agreement_of, shorten
from xent._fit.types import Matrix, Vector

MAX_FACTORS = 20        # for one step
NEAR = 0.1              # relative distance of a step's length from the radius that is good enough
FIRST = 10              # times the length of a step by the metric alone: the largest first radius
SMALLEST_SHIFT = 1e-14  # mu, where it must be greater than 0


class _Step(NamedTuple):
    vector: Vector
    slope: float        # of the function along it
    decrease: float     # that the model promises
    length: float
    at_border: bool


class _Region:
    """Points within a radius, in the norm of a metric that is made when it is needed."""

    def __init__(self, make_metric: Callable[[], Matrix]) -> None:
        self.make_metric = make_metric
        self.metric: Matrix | None = None
        self.radius = math.inf

    def length(self, vector: Vector) -> float:
        if self.metric is None:
            return math.inf
        return math.sqrt(max(0.0, float(vector @ (self.metric @ vector))))

    def restrict(self, vector: Vector, share: float, gradient: Vector) -> None:
        """Shrink to a share of the length of a step that was made for a gradient.

        The first one may be too long by any factor if there was hardly any curvature: not more than a few times as long
        as with the curvature of the metric.
        """
        most = math.inf
        if self.metric is None:
            self.metric = self.make_metric()
            most = FIRST * math.sqrt(max(0.0, float(gradient @ Factor(self.metric).solve(gradient))))
        self.radius = min(most, share * self.length(vector))

    def minimum_of(self, model: Expansion) -> _Step:
        """The step to the minimum of a quadratic model."""
        vector, mu, length = self._solve(model.gradient, model.hessian)
        slope = float(vector @ model.gradient)
        curvature = float(vector @ (model.hessian @ vector))
        return _Step(vector, slope, -slope - curvature / 2, length, mu > 0)

    def _solve(self, gradient: Vector, hessian: Matrix) -> tuple[Vector, float, float]:
        """The vector, mu and the length; mu by Newton's method for 1 / length = 1 / radius, within a bracket."""
        mu, low, high = 0.0, 0.0, math.inf
        for _ in range(MAX_FACTORS):
            factor = Factor(hessian if self.metric is None or mu == 0 else hessian + mu * self.metric)
            vector = -factor.solve(gradient)
            length = self.length(vector)
            if self.metric is None or (mu == 0 and length <= self.radius) or self._is_near(length):
                break
            low, high = (max(low, mu), high) if length > self.radius else (low, min(high, mu))
            across = self.metric @ vector
            change = float(across @ factor.solve(across))
            mu += length * length / change * (length / self.radius - 1) if change > 0 else math.nan
            if not low < mu < high:
                mu = 10 * max(low, SMALLEST_SHIFT) if high == math.inf else math.sqrt(max(low, SMALLEST_SHIFT) * high)
        return vector, mu, length

    def _is_near(self, length: float) -> bool:
        return abs(length - self.radius) <= NEAR * self.radius


def newton(
    expand: Callable[[Vector], Expansion],
    start: Vector,
    settings: Settings,
    *,
    make_metric: Callable[[], Matrix] | None = None,
) -> Result:
    """Minimise a smooth convex function with Newton's method in a trust region.

    Parameters
    ----------
    expand : callable
        x -> the value, the gradient and the Hessian.
    start : ndarray of shape (n,), float64
    settings : Settings
    make_metric : callable, optional
        Returns the matrix that measures the lengths of steps; by default the Hessian at the start.
    """
    x = start
    model = expand(x)
    region = _Region(make_metric or (lambda: expand(start).hessian))
    hidden = iteration = 0
    while True:
        grad_norm, reason = settings.report(iteration, x, model.value, model.gradient)
        if reason is None and (hidden == MAX_HIDDEN or region.radius == 0):
            reason = NO_DESCENT
        elif reason is None and not np.isfinite(model.hessian).all():
            reason = NOT_FINITE
        if reason is not None:
            break
        step = region.minimum_of(model)
        there = expand(x + step.vector)
        fall = model.value - there.value
        rounding = ROUNDING * settings.noise * abs(model.value)
        halved = float(np.abs(there.gradient).max(initial=0.0)) < 0.5 * grad_norm
        agreement = -math.inf
        if fall >= -rounding and np.isfinite(there.gradient).all():
            agreement = agreement_of(fall, step.decrease, rounding, halved)
        iteration += 1
        if agreement > LEAST:
            if agreement < POOR:
                region.restrict(step.vector, 0.5, model.gradient)
            elif agreement > GOOD and step.at_border:
                region.radius = 3 * step.length
            hidden = 0 if halved or fall > rounding else hidden + 1
            x, model = x + step.vector, there
        else:
            region.restrict(step.vector, shorten(step.slope, -fall), model.gradient)
    return Result(x, model.value, grad_norm, iteration, reason)
