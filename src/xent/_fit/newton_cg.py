"""Trust-region Newton method: steps by conjugate gradients, lengths in the norm of the preconditioner's inverse.

One iteration:

    preconditioner = a fresh one, before each of the first iterations and then at times, if the value has fallen or the
                     region has cut a step short
    step           = conjugate gradients on H step = -gradient, until the residual is small beside the gradient, or the
                     step reaches the border of the region
    region         = larger where the value falls as the quadratic model says; smaller where it falls much less, and
                     then the step is not taken

References: T. Steihaug, "The conjugate gradient method and trust regions in large scale optimization", SIAM Journal on
Numerical Analysis 20 (1983); A. R. Conn, N. I. M. Gould, P. L. Toint, "Trust Region Methods", SIAM 2000, section 17.4.2
for rounding errors.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from xent._fit.solver import NO_DESCENT, NOT_FINITE, ROUNDING, Function, Operator, Result, Settings
from xent._fit.trust_region import GOOD, LEAST, MAX_HIDDEN, POOR, agreement_of, shorten
from xent._fit.types import Vector

MAX_PRODUCTS = 500      # Hessian products for one step
FRESH = 0.95            # a preconditioner is fresh until the value is below this share of what it was
FORCING = 0.25          # largest residual of a step, relative to the gradient
FLAT = 1e-8             # curvature relative to the preconditioner's that may be pure rounding error


class _Step(NamedTuple):
    vector: Vector
    slope: float        # of the function along it
    curvature: float    # step' H step
    length: float       # in the norm of the preconditioner's inverse
    at_border: bool

    @property
    def decrease(self) -> float:
        """The decrease that the quadratic model promises."""
        return -self.slope - self.curvature / 2

    def times(self, factor: float) -> _Step:
        return _Step(
            factor * self.vector, factor * self.slope, factor * factor * self.curvature, factor * self.length, True
        )


def _conjugate_gradients(
    gradient: Vector, hessian_product: Operator, precondition: Operator, radius: float, forcing: float
) -> _Step:
    """Roughly -H^-1 gradient, within the radius: until the residual is `forcing` times the gradient.

    Residuals have the norm of the preconditioner M. Lengths are sqrt(s' M^-1 s); the recurrences give them without
    M^-1."""
    step = np.zeros_like(gradient)
    residual = gradient.copy()
    buffer = np.empty_like(gradient)    # reused, since allocating costs more than the product
    scaled = precondition(residual)
    direction = -scaled
    size = float(residual @ scaled)     # r' M r
    enough = forcing * forcing * size
    step_step, step_direction, direction_direction = 0.0, 0.0, size     # inner products under M^-1
    at_border = False
    for _ in range(MAX_PRODUCTS):
        if not size > enough:
            break
        product = hessian_product(direction)
        curvature = float(direction @ product)
        if not curvature > FLAT * direction_direction and step.any():
            break       # pure rounding error: the function is flat in this direction
        length = size / curvature if curvature > 0 else math.inf
        ahead = step_step + 2 * length * step_direction + length * length * direction_direction
        if not ahead < radius * radius:
            at_border = True
            if not math.isfinite(radius):   # no curvature from the start, and no border to stop at
                step, step_step = direction, size
                residual += product
                break
            root = math.sqrt(step_direction**2 + direction_direction * (radius * radius - step_step))
            length = (root - step_direction) / direction_direction
            ahead = radius * radius
        step += np.multiply(direction, length, out=buffer)
        residual += np.multiply(product, length, out=buffer)
        step_step = ahead
        if at_border:
            break
        scaled = precondition(residual)
        size, previous = float(residual @ scaled), size
        ratio = size / previous
        step_direction = ratio * (step_direction + length * direction_direction)
        direction_direction = size + ratio * ratio * direction_direction
        direction *= ratio
        direction -= scaled
    curvature = float(step @ (residual - gradient))     # the residual is gradient + H step
    return _Step(step, float(step @ gradient), curvature, math.sqrt(step_step), at_border)


class _Preconditioner:
    """The preconditioner in use, and whether it is time for another."""

    def __init__(self, make_at: Callable[[Vector], Operator] | None) -> None:
        self.make_at = make_at
        self.apply: Operator = np.copy
        self.earliest = 0               # iteration in which the next one may be made
        self.value = math.inf           # of the function where this one was made
        self.misled = False             # whether a step was cut short, or did not do what the model said

    def renew(self, iteration: int, x: Vector, value: float) -> None:
        """Make the preconditioner of x, if it is time."""
        if self.make_at is None or iteration < self.earliest or not (value < FRESH * self.value or self.misled):
            return
        self.misled = False
        self.apply = np.copy        # frees the old one before the new one is made
        self.apply = self.make_at(x)
        self.value = value
        self.earliest = iteration + max(1, iteration // 2)

    def norm(self, gradient: Vector) -> float:
        """sqrt(g' M g)"""
        square = float(gradient @ self.apply(gradient))
        return math.sqrt(max(0.0, square)) if math.isfinite(square) else square


def _next_radius(radius: float, step: _Step, agreement: float) -> float:
    if agreement > GOOD and step.at_border:
        return 3 * step.length
    return step.length / 2 if agreement < POOR else radius


def newton_cg(
    function: Function,
    start: Vector,
    settings: Settings,
    *,
    hessian_product_at: Callable[[Vector], Operator],
    preconditioner_at: Callable[[Vector], Operator] | None = None,
    at_start: tuple[float, Vector] | None = None,
    forcing: float = FORCING,
) -> Result:
    """Minimise a smooth function with a trust-region Newton method.

    Parameters
    ----------
    function, hessian_product_at, preconditioner_at
        See `xent._fit.solver`.
    start : ndarray of shape (n,), float64
    settings : Settings
    at_start : tuple of float and ndarray, optional
        The value and the gradient at the start, if they are known.
    forcing : float
        Largest residual of the first step, relative to the gradient; later steps are solved more exactly.
    """
    x = start
    loss, gradient = function(x) if at_start is None else at_start
    preconditioner = _Preconditioner(preconditioner_at)
    radius = math.inf
    first_size = 0.0
    hidden = iteration = 0
    step: _Step | None = None
    while True:
        grad_norm, reason = settings.report(iteration, x, loss, gradient)
        if reason is None and (hidden == MAX_HIDDEN or radius == 0):
            reason = NO_DESCENT
        if reason is not None:
            break
        if step is None:
            preconditioner.renew(iteration, x, loss)
            size = preconditioner.norm(gradient)
            if not math.isfinite(size):
                reason = NOT_FINITE
                break
            first_size = first_size or size
            enough = min(forcing, math.sqrt(size / first_size)) if first_size > 0 else forcing
            step = _conjugate_gradients(gradient, hessian_product_at(x), preconditioner.apply, radius, enough)
        point = x + step.vector
        value, gradient_there = function(point)
        rounding = ROUNDING * settings.noise * abs(loss)
        halved = float(np.abs(gradient_there).max(initial=0.0)) < 0.5 * grad_norm
        agreement = -math.inf
        # If H is singular, rounding may make the model wrong: never take a step that increases the value.
        if value <= loss + rounding and np.isfinite(gradient_there).all():
            agreement = agreement_of(loss - value, step.decrease, rounding, halved)
        iteration += 1
        preconditioner.misled |= step.at_border or agreement < POOR
        radius = _next_radius(radius, step, agreement)
        if agreement > LEAST:
            hidden = 0 if halved or loss - value > rounding else hidden + 1
            x, loss, gradient = point, value, gradient_there
            step = None
        else:
            step = step.times(shorten(step.slope, value - loss))
            radius = step.length
    return Result(x, loss, grad_norm, iteration, reason)
