"""Minimisers of a smooth function. Nothing here knows what the function is.

A function takes a point x, a float64 vector, and returns its value and gradient there. One iteration of L-BFGS:

    metric    = a fresh one, before iterations 0, 5, 10, 20, 40, ...
    direction = -H gradient     H: the inverse Hessian learned from the last steps, over the metric
    step      = search along the direction for the weak Wolfe conditions
    learn     = (difference of x, difference of the gradient)

On the handwritten digits, pixels as they are, L-BFGS needs 870 iterations for a relative gap of 1e-6 with a metric that
stays as it was at the start, and 77 with one that is renewed so.

References: D. C. Liu, J. Nocedal, "On the limited memory BFGS method for large scale optimization", Mathematical
Programming 45 (1989); R. H. Byrd, J. Nocedal, R. B. Schnabel, "Representations of quasi-Newton matrices and their use
in limited memory methods", Mathematical Programming 63 (1994); A. S. Lewis, M. L. Overton, "Nonsmooth optimization via
quasi-Newton methods", Mathematical Programming 141 (2013), for the line search.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]
Function = Callable[[Vector], tuple[float, Vector]]
Metric = Callable[[Vector], Vector]     # g -> M g, with M symmetric and positive definite

RENEWALS = frozenset([0, *(5 << k for k in range(40))])


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
    converged: bool         # grad_norm <= tol
    message: str


class _InverseHessian:
    """The L-BFGS matrix in compact form, over a metric M (the identity at first).

    With S and Y the last steps and gradient differences as rows, oldest first, R the upper triangle of S Y' and D its
    diagonal, and c = s'y / y'My of the newest pair,

        H g = c M g + S' a - c M Y' u,    u = R^-1 S g,    a = R^-T ((D + c Y M Y') u - c Y M g).
    """

    def __init__(self, size: int, memory: int) -> None:
        self.metric: Metric = lambda x: x
        self.memory = memory
        self.count = 0      # of pairs learned; the last `memory` are kept, each in the place of an older one
        self.steps = np.empty((memory, size))
        self.changes = np.empty((memory, size))
        self.metric_changes = np.empty((memory, size))
        self.products = np.empty((memory, memory))          # S Y'
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
        self.products[place, :used] = self.changes[:used] @ step
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
        product: Vector = scale * (result - u[back] @ self.metric_changes[:used]) + a[back] @ self.steps[:used]
        return product


def _search(
    function: Function, x: Vector, loss: float, direction: Vector, slope: float, step: float, noise: float
) -> tuple[Vector, float, Vector] | None:
    """A step along the direction with enough decrease and enough less slope, by bisection; None if there is none."""
    low, high = 0.0, math.inf
    for _ in range(40):
        point = x + step * direction
        value, gradient = function(point)
        if not value <= loss + 1e-4 * step * slope + noise * abs(loss):
            high = step
        elif float(gradient @ direction) < 0.9 * slope:
            low = step
        else:
            return point, value, gradient
        step = 2 * low if high == math.inf else (low + high) / 2
    return None


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
    message = "the gradient is within tol"
    while True:
        grad_norm = float(np.abs(gradient).max(initial=0.0))
        if callback is not None:
            callback(Progress(iteration, loss, grad_norm))
        if grad_norm <= tol:
            break
        if iteration == max_iter:
            message = "max_iter was reached"
            break
        if metric_at is not None and iteration in RENEWALS:
            inverse_hessian.renew(metric_at(x))
        direction = -inverse_hessian.apply(gradient)
        slope = float(gradient @ direction)
        if not slope < 0:   # rounding has spoilt the memory
            inverse_hessian.count = 0
            direction = -inverse_hessian.apply(gradient)
            slope = float(gradient @ direction)
        # Without a metric the first gradient has no scale.
        step = 1.0 if metric_at is not None or inverse_hessian.count else min(1.0, 1 / grad_norm)
        found = _search(function, x, loss, direction, slope, step, noise)
        if found is None:
            message = "no step along the search direction lowers the value: its rounding errors hide the descent"
            if not (math.isfinite(loss) and math.isfinite(slope)):
                message = "the value or the gradient is not a finite number"
            break
        iteration += 1
        if float((found[0] - x) @ (found[2] - gradient)) > 0:
            inverse_hessian.learn(found[0] - x, found[2] - gradient)
        x, loss, gradient = found
    return Result(x, loss, grad_norm, iteration, grad_norm <= tol, message)
