"""The interface of solvers.

A solver minimises a smooth function through:

    function            x -> (value, gradient), with x and the gradient float64 vectors
    expand              x -> (value, gradient, Hessian)
    hessian_product_at  x -> (v -> H v), with H the Hessian at x
    preconditioner_at   x -> (g -> M g), with M roughly the inverse of H, symmetric and positive definite
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from xent._fit.types import Matrix, Vector


class Expansion(NamedTuple):
    """A function at a point, to second order."""

    value: float
    gradient: Vector
    hessian: Matrix


Function = Callable[[Vector], tuple[float, Vector]]
Operator = Callable[[Vector], Vector]       # a product with a symmetric matrix; returns a new array

ROUNDING = 10       # differences of two values below this multiple of their rounding error are ignored

# Why a solver stops, and the words for it.
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
    """Where a solver is: before the first iteration and after each."""

    iteration: int
    loss: float             # the value of the function
    grad_norm: float        # the largest absolute element of its gradient


class Result(NamedTuple):
    """The result of a solver."""

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


class Settings(NamedTuple):
    """When a solver stops, and its callback.

    Attributes
    ----------
    tol : float
        Stop when no element of the gradient is larger in absolute value.
    max_iter : int
        Stop after this many iterations.
    noise : float
        Relative rounding error of the function's value.
    callback : callable, optional
        Called with a `Progress` and the point, before the first iteration and after each. It may keep the point without
        a copy: solvers make a new array for each.
    """

    tol: float
    max_iter: int
    noise: float = float(np.finfo(np.float64).eps)
    callback: Callable[[Progress, Vector], object] | None = None

    def report(self, iteration: int, x: Vector, loss: float, gradient: Vector) -> tuple[float, str | None]:
        """Call the callback; return the norm of the gradient, and the reason to stop if there is one."""
        grad_norm = float(np.abs(gradient).max(initial=0.0))
        if self.callback is not None:
            self.callback(Progress(iteration, loss, grad_norm), x)
        if grad_norm <= self.tol:
            return grad_norm, CONVERGED
        if not (math.isfinite(loss) and math.isfinite(grad_norm)):
            return grad_norm, NOT_FINITE
        return grad_norm, MAX_ITER if iteration == self.max_iter else None
