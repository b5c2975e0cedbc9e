"""Minimisers of a smooth function. Nothing here knows what the function is.

A function takes a point x, a float64 vector, and returns its value and gradient there. Where the inverse of its Hessian
is known roughly, both minimisers take that as a metric. One iteration of L-BFGS:

    metric    = a fresh one, before iterations 0, 5, 10, 20, 40, ...
    direction = -H gradient     H: the inverse Hessian learned from the last steps, over the metric
    step      = search along the direction for the weak Wolfe conditions
    learn     = (difference of x, difference of the gradient)

One iteration of Newton-CG, in a trust region measured by the metric:

    metric    = a fresh one, before each of the first iterations and then at times, if the value has fallen or the
                region was in the way of a step
    step      = conjugate gradients on H step = -gradient, until the residual is small beside the gradient, or at the
                border of the region
    region    = larger where the value falls as the quadratic model says, smaller where much less, and no step there

On the handwritten digits, pixels as they are, L-BFGS needs 870 iterations for a relative gap of 1e-6 with a metric that
stays as it was at the start, and 77 with one that is renewed so.

References: D. C. Liu, J. Nocedal, "On the limited memory BFGS method for large scale optimization", Mathematical
Programming 45 (1989); R. H. Byrd, J. Nocedal, R. B. Schnabel, "Representations of quasi-Newton matrices and their use
in limited memory methods", Mathematical Programming 63 (1994); A. S. Lewis, M. L. Overton, "Nonsmooth optimization via
quasi-Newton methods", Mathematical Programming 141 (2013), for the line search; T. Steihaug, "The conjugate gradient
method and trust regions in large scale optimization", SIAM Journal on Numerical Analysis 20 (1983); A. R. Conn,
N. I. M. Gould, P. L. Toint, "Trust Region Methods", SIAM 2000, section 17.4.2 for rounding errors.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]
Function = Callable[[Vector], tuple[float, Vector]]
Metric = Callable[[Vector], Vector]     # g -> M g, a new array, with M symmetric and positive definite

RENEWALS = frozenset([0, *(5 << k for k in range(40))])
MAX_PRODUCTS = 500      # Hessian products for one step
FRESH = 0.95            # of the loss where a metric was made: below, another one is
FORCING = 0.25
MAX_HIDDEN = 3
MAX_STALLED = 30        # iterations of L-BFGS in which neither the value nor the gradient shows progress
ROUNDING = 10           # multiples of the noise: a smaller difference of two values says nothing

HALVINGS = 10
FLAT = 1e-8             # curvature, as a multiple of what the metric says, that rounding may make

# Why a minimiser stops, and what is said of it.
CONVERGED = "converged"
MAX_ITER = "max_iter"
NO_DESCENT = "no descent"
NOT_FINITE = "not finite"
INTERRUPTED = "interrupted"
MESSAGES = {
    CONVERGED: "the gradient is within tol",
    MAX_ITER: "max_iter was reached",
    NO_DESCENT: "no step lowers the value any more: its rounding errors hide the descent",
    NOT_FINITE: "the value or the gradient is not a finite number",
    INTERRUPTED: "it was interrupted",
}


class Progress(NamedTuple):
    """Where a minimiser is: given to a callback before the first iteration and after each."""

    iteration: int
    loss: float             # the value of the function
    grad_norm: float        # the largest absolute element of its gradient


class Result(NamedTuple):
    x: Vector
    loss: float
    grad_norm: float
    iterations: int
    reason: str             # why it stopped

    @property
    def converged(self) -> bool:
        """Whether no element of the gradient is larger than tol."""
        return self.reason == CONVERGED

    @property
    def message(self) -> str:
        return MESSAGES[self.reason]


def _why_to_stop(loss: float, grad_norm: float, tol: float, iteration: int, max_iter: int) -> str | None:
    if grad_norm <= tol:
        return CONVERGED
    if not (math.isfinite(loss) and math.isfinite(grad_norm)):
        return NOT_FINITE
    return MAX_ITER if iteration == max_iter else None


class _InverseHessian:
    """The L-BFGS matrix in compact form, over a metric M (the identity at first).

    With S and Y the last steps and gradient differences as rows, oldest first, R the upper triangle of S Y' and D its
    diagonal, and c = s'y / y'My of the newest pair,

        H g = c M g + S' a - c M Y' u,    u = R^-1 S g,    a = R^-T ((D + c Y M Y') u - c Y M g).
    """

    def __init__(self, size: int, memory: int) -> None:
        self.metric: Metric = np.copy
        self.memory = memory
        self.count = 0      # of pairs learned; the last `memory` are kept, each in the place of an older one
        self.steps = np.empty((memory, size))
        self.changes = np.empty((memory, size))
        self.metric_changes = np.empty((memory, size))
        self.products = np.empty((memory, memory))          # S Y', the upper triangle from oldest to newest
        self.metric_products = np.empty((memory, memory))   # Y M Y'

    def renew(self, metric: Metric) -> None:
        used = min(self.count, self.memory)
        self.metric = metric
        for place in range(used):
            self.metric_changes[place] = metric(self.changes[place])
        self.metric_products[:used, :used] = self.metric_changes[:used] @ self.changes[:used].T

    def learn(self, step: Vector, change: Vector) -> None:
        place = self.count % self.memory
        self.count += 1
        used = min(self.count, self.memory)
        self.steps[place] = step
        self.changes[place] = change
        self.metric_changes[place] = self.metric(change)
        self.products[:used, place] = self.steps[:used] @ change
        self.metric_products[place, :used] = self.metric_changes[:used] @ change
        self.metric_products[:used, place] = self.metric_products[place, :used]

    def apply(self, gradient: Vector) -> Vector:
        result = self.metric(gradient)
        if self.count == 0:
            return result
        used = min(self.count, self.memory)
        newest = (self.count - 1) % self.memory
        scale = self.products[newest, newest] / self.metric_products[newest, newest]
        order = np.arange(self.count - used, self.count) % self.memory
        products = self.products[np.ix_(order, order)]
        middle = scale * self.metric_products[np.ix_(order, order)]
        middle.flat[:: used + 1] += products.diagonal()
        upper = np.triu(products)
        u = np.linalg.solve(upper, (self.steps[:used] @ gradient)[order])
        a = np.linalg.solve(upper.T, middle @ u - scale * (self.metric_changes[:used] @ gradient)[order])
        back = np.argsort(order)
        # In place: where coefficients are many, each array beside the steps counts.
        result -= u[back] @ self.metric_changes[:used]
        result *= scale
        result += a[back] @ self.steps[:used]
        return result


def _search(
    function: Function, x: Vector, loss: float, direction: Vector, slope: float, step: float, noise: float
) -> tuple[Vector, float, Vector] | None:
    """A step along the direction with enough decrease and enough less slope, by bisection; None if there is none.

    Where a metric knows no curvature, a step may be too long by many orders of magnitude: after HALVINGS it is
    shortened faster.
    """
    low, high = 0.0, math.inf
    for trial in range(40):
        point = x + step * direction
        value, gradient = function(point)
        if not value <= loss + 1e-4 * step * slope + noise * abs(loss):
            high = step
        elif float(gradient @ direction) < 0.9 * slope:
            low = step
        else:
            return point, value, gradient
        step = 2 * low if high == math.inf else (low + high) / 2
        if low == 0 and trial >= HALVINGS:
            step = high / 16
    point = x + low * direction     # before a kink: the value is lower there at least
    value, gradient = function(point) if low > 0 else (loss, direction)
    return (point, value, gradient) if value < loss else None


def lbfgs(
    function: Function,
    start: Vector,
    *,
    metric_at: Callable[[Vector], Metric] | None = None,
    tol: float,
    max_iter: int,
    memory: int = 30,
    noise: float = float(np.finfo(np.float64).eps),
    callback: Callable[[Progress], object] | None = None,
) -> Result:
    """Minimise a smooth function with L-BFGS.

    Parameters
    ----------
    function : callable
        x -> (value, gradient).
    start : ndarray of shape (n,), float64
        Where to begin.
    metric_at : callable, optional
        x -> (g -> M g) with M roughly the inverse Hessian at x, symmetric and positive definite.
    tol : float
        Stop when no element of the gradient is larger in absolute value.
    max_iter : int
        Stop after so many iterations.
    memory : int
        How many steps to remember.
    noise : float
        Relative rounding error of the value of the function.
    callback : callable, optional
        Called with a `Progress` before the first iteration and after each.

    Returns
    -------
    Result
    """
    x = start
    loss, gradient = function(x)
    inverse_hessian = _InverseHessian(start.size, memory)
    iteration = 0
    least, least_norm, at_least = math.inf, math.inf, 0     # of the value and the gradient, and when
    while True:
        grad_norm = float(np.abs(gradient).max(initial=0.0))
        if callback is not None:
            callback(Progress(iteration, loss, grad_norm))
        reason = _why_to_stop(loss, grad_norm, tol, iteration, max_iter)
        if loss < least - ROUNDING * noise * abs(loss) or grad_norm < 0.5 * least_norm:
            least, least_norm, at_least = min(least, loss), min(least_norm, grad_norm), iteration
        if reason is None and iteration - at_least >= MAX_STALLED:
            reason = NO_DESCENT
        if reason is not None:
            break
        if metric_at is not None and iteration in RENEWALS:
            inverse_hessian.metric = np.copy    # the old one is gone before there is memory for another
            inverse_hessian.renew(metric_at(x))
        direction = inverse_hessian.apply(gradient)
        slope = -float(gradient @ direction)
        if not slope < 0:   # rounding has spoilt the memory
            inverse_hessian.count = 0
            direction = inverse_hessian.apply(gradient)
            slope = -float(gradient @ direction)
        np.negative(direction, out=direction)
        # Without a metric the first gradient has no scale.
        step = 1.0 if metric_at is not None or inverse_hessian.count else min(1.0, 1 / grad_norm)
        found = _search(function, x, loss, direction, slope, step, noise)
        if found is None:
            reason = NO_DESCENT if math.isfinite(slope) else NOT_FINITE
            break
        iteration += 1
        step_taken, change = found[0] - x, found[2] - gradient
        x, loss, gradient = found
        del found, direction
        if float(step_taken @ change) > 0:
            inverse_hessian.learn(step_taken, change)
        del step_taken, change
    return Result(x, loss, grad_norm, iteration, reason)


class _Step(NamedTuple):
    step: Vector
    slope: float        # of the function along it
    curvature: float    # step' H step
    length: float       # in the norm of the inverse metric
    at_border: bool

    @property
    def decrease(self) -> float:
        """What the quadratic model promises."""
        return -self.slope - self.curvature / 2

    def times(self, factor: float) -> _Step:
        return _Step(
            factor * self.step, factor * self.slope, factor * factor * self.curvature, factor * self.length, True
        )


def _conjugate_gradients(
    gradient: Vector, hessian_product: Metric, metric: Metric, radius: float, forcing: float
) -> _Step:
    """Roughly -H^-1 gradient, within the radius: until the residual is `forcing` times the gradient, in the norm of the
    metric M. Lengths are sqrt(s' M^-1 s), which the recurrences give without M^-1."""
    step = np.zeros_like(gradient)
    residual = gradient.copy()
    room = np.empty_like(gradient)      # fresh memory for each product would cost more than the product
    scaled = metric(residual)
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
            break       # nothing but rounding: along such a direction of a convex function there is nothing to gain
        length = size / curvature if curvature > 0 else math.inf
        ahead = step_step + 2 * length * step_direction + length * length * direction_direction
        if not ahead < radius * radius:
            if not math.isfinite(radius):   # no curvature from the start, and nothing to stop at
                step, step_step, at_border = direction, size, True
                residual += product
                break
            root = math.sqrt(step_direction**2 + direction_direction * (radius * radius - step_step))
            length = (root - step_direction) / direction_direction
            step += np.multiply(direction, length, out=room)
            residual += np.multiply(product, length, out=room)
            step_step = radius * radius
            at_border = True
            break
        step += np.multiply(direction, length, out=room)
        residual += np.multiply(product, length, out=room)
        step_step = ahead
        scaled = metric(residual)
        size, previous = float(residual @ scaled), size
        more = size / previous
        step_direction = more * (step_direction + length * direction_direction)
        direction_direction = size + more * more * direction_direction
        direction *= more
        direction -= scaled
    curvature = float(step @ (residual - gradient))     # the residual is gradient + H step
    return _Step(step, float(step @ gradient), curvature, math.sqrt(step_step), at_border)


def newton_cg(
    function: Function,
    start: Vector,
    *,
    at_start: tuple[float, Vector] | None = None,
    hessian_product_at: Callable[[Vector], Metric],
    metric_at: Callable[[Vector], Metric] | None = None,
    forcing: float = FORCING,
    tol: float,
    max_iter: int,
    noise: float = float(np.finfo(np.float64).eps),
    callback: Callable[[Progress], object] | None = None,
) -> Result:
    """Minimise a smooth function with a trust-region Newton method whose steps are found by conjugate gradients.

    Parameters
    ----------
    function : callable
        x -> (value, gradient).
    start : ndarray of shape (n,), float64
        Where to begin.
    at_start : tuple of float and ndarray, optional
        What the function is there, if that is known.
    hessian_product_at : callable
        x -> (v -> H v), with H the Hessian at x.
    metric_at : callable, optional
        x -> (g -> M g) with M roughly the inverse Hessian at x, symmetric and positive definite.
    forcing : float, default 0.25
        A step solves Newton's equations to a residual of at most so much, relatively; later ones to less and less.
    tol : float
        Stop when no element of the gradient is larger in absolute value.
    max_iter : int
        Stop after so many iterations.
    noise : float
        Relative rounding error of the value of the function.
    callback : callable, optional
        Called with a `Progress` before the first iteration and after each.

    Returns
    -------
    Result
    """
    x = start
    loss, gradient = function(x) if at_start is None else at_start
    metric: Metric = np.copy
    radius = math.inf
    first_size = 0.0
    renewal, of_metric = 0, math.inf    # iteration of the next metric at the earliest, and the loss where this was made
    hidden = 0      # steps in a row whose progress rounding hides
    iteration = 0
    misled = False
    found: _Step | None = None
    while True:
        grad_norm = float(np.abs(gradient).max(initial=0.0))
        if callback is not None:
            callback(Progress(iteration, loss, grad_norm))
        reason = _why_to_stop(loss, grad_norm, tol, iteration, max_iter)
        if reason is None and (hidden == MAX_HIDDEN or radius == 0):
            reason = NO_DESCENT
        if reason is not None:
            break
        if found is None and metric_at is not None and iteration >= renewal and (loss < FRESH * of_metric or misled):
            misled = False
            metric = np.copy    # the old one is gone before there is memory for another
            metric, of_metric = metric_at(x), loss
            renewal = iteration + max(1, iteration // 2)
        if found is None:
            size = float(gradient @ metric(gradient))
            if not math.isfinite(size):
                reason = NOT_FINITE
                break
            size = math.sqrt(max(0.0, size))
            first_size = first_size or size
            enough = min(forcing, math.sqrt(size / first_size)) if first_size > 0 else forcing
            found = _conjugate_gradients(gradient, hessian_product_at(x), metric, radius, enough)
        point = x + found.step
        value, slopes = function(point)
        rounding = ROUNDING * noise * abs(loss)
        lower = float(np.abs(slopes).max(initial=0.0)) < 0.5 * grad_norm
        agreement = -math.inf
        # Where H is singular, rounding may turn the model upside down: no step upwards, whatever it says.
        if value <= loss + rounding and np.isfinite(slopes).all():
            agreement = (loss - value + rounding) / (max(0.0, found.decrease) + rounding)
            if lower and abs(loss - value) <= rounding:
                agreement = 1.0
        iteration += 1
        misled = misled or found.at_border or agreement < 0.25
        if agreement > 0.75 and found.at_border:
            radius = 3 * found.length
        elif agreement < 0.25:
            radius = found.length / 2
        if agreement > 1e-4:
            hidden = 0 if lower or loss - value > rounding else hidden + 1
            x, loss, gradient = point, value, slopes
            found = None
        else:       # the same way again, to where the parabola through what is known has its minimum
            rise = value - loss - found.slope
            lowest = -found.slope / (2 * rise) if math.isfinite(rise) and rise > 0 else 0.0
            found = found.times(min(0.5, max(0.1, lowest)))
            radius = found.length
    return Result(x, loss, grad_norm, iteration, reason)
