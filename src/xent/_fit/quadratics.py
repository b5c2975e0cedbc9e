"""Quadratic models with kinks, and their minimum.

With a point x, the gradient g and the Hessian H of a smooth function there, the model of the function with kinks is

    model(z) = g' (z - x) + (z - x)' (H + damping D) (z - x) / 2 + sum of kinks[j] |z[j]|

with D diagonal, of the size of the curvatures that elements usually have.

Each class knows H in another way, and finds roughly the z where the model is least.
"""

from __future__ import annotations

import math
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from xent._calls.dispatch import kernels
from xent._fit.kinks import least_subgradient, soft_threshold
from xent._fit.solver import Operator
from xent._fit.types import Array, Matrix, Vector

SWEEPS = 50             # before a step along the face
RIDGE = 1e-10           # relative to the diagonal of H


class Effort(NamedTuple):
    """When to stop: no element of the least subgradient is larger than `enough`, or after so many sweeps over all
    elements (or products with H)."""

    enough: float
    sweeps: int


class Quadratic(Protocol):
    def minimise(self, x: Vector, gradient: Vector, kinks: Vector, damping: float, effort: Effort) -> Vector:
        """z, for the model at x."""


class DenseQuadratic:
    """H is a matrix. Sweeps of coordinate descent find which elements are 0; in between, a step to the minimum among
    the others, as far as the model says that it is one.

    Elements with neither a kink nor a ridge, which are intercepts, are eliminated first. What is left is the Hessian
    by the others where the intercepts follow them; as if the columns were centred, by which nothing else changes.

    Parameters
    ----------
    hessian : ndarray of shape (n, n)
        H without the ridges.
    columns : ndarray of int of shape (n,)
        The column of each element; the usual curvature is the largest of a column.
    ridges : ndarray of shape (n,)
        What the penalty adds to the diagonal of H.
    intercepts : ndarray of bool of shape (n,)
    """

    def __init__(self, hessian: Matrix, columns: Array, ridges: Vector, intercepts: NDArray[np.bool_]) -> None:
        own, others = np.flatnonzero(intercepts), np.flatnonzero(~intercepts)
        self.own, self.others = own, others
        self.of_own = hessian[np.ix_(own, own)]
        self.follow: Array = np.linalg.solve(_regularise(self.of_own), hessian[np.ix_(own, others)])
        full = hessian.diagonal()[others]
        self.hessian: Matrix = hessian[np.ix_(others, others)]
        self.hessian -= hessian[np.ix_(others, own)] @ self.follow
        diagonal: Vector = np.maximum(self.hessian.diagonal(), 0)
        self.kept = float(np.min(diagonal / np.where(full > 0, full, 1), where=full > 0, initial=1.0))
        self.usual = largest_of_column(diagonal, columns[others])
        self.diagonal = diagonal + ridges[others]

    def minimise(self, x: Vector, gradient: Vector, kinks: Vector, damping: float, effort: Effort) -> Vector:
        result, kinks = x.copy(), kinks[self.others]
        z, slope = x[self.others], gradient[self.others] - gradient[self.own] @ self.follow
        hessian, start = self.hessian, z.copy()
        np.einsum("ii->i", hessian)[...] = self.diagonal + damping * self.usual
        for done in range(0, effort.sweeps, SWEEPS):
            some = min(SWEEPS, effort.sweeps - done)
            if kernels.descend_hessian(hessian, z, slope, kinks, some, effort.enough) <= effort.enough:
                break
            if some == SWEEPS:
                _step_on_face(hessian, z, slope, kinks)
        damped = self.of_own + damping * np.diag(self.of_own.diagonal())
        result[self.others] = z
        result[self.own] -= np.linalg.solve(_regularise(damped), gradient[self.own]) + self.follow @ (z - start)
        return result


def _regularise(of_intercepts: Matrix) -> Matrix:
    """The same for intercepts that add up to 0, and regular: a shift of those of all classes has no curvature."""
    result = of_intercepts.copy()
    diagonal = np.einsum("ii->i", result)
    diagonal[...] = np.where(diagonal > 0, diagonal * (1 + RIDGE), 1)
    if len(result) > 1:
        result += diagonal.mean()
    return result


def largest_of_column(diagonal: Vector, columns: Array) -> Vector:
    """For each coefficient the largest curvature of those in its column, of any class."""
    most: Matrix = np.zeros(columns.max(initial=0) + 1)
    np.maximum.at(most, columns, diagonal)
    return most[columns]


def _step_on_face(hessian: Matrix, z: Vector, slope: Vector, kinks: Vector) -> None:
    """Move to the minimum among elements with these signs; those that would change theirs end at 0."""
    free = np.flatnonzero((z != 0) | (kinks == 0))
    of_free = hessian[np.ix_(free, free)]
    diagonal = np.einsum("ii->i", of_free)
    diagonal += RIDGE * diagonal + np.finfo(np.float64).tiny
    signs = np.sign(z[free])
    try:
        step = np.linalg.solve(of_free, -(slope[free] + kinks[free] * signs))
    except np.linalg.LinAlgError:
        return
    target = z[free] + step
    target[(kinks[free] > 0) & (target * signs < 0)] = 0
    step = target - z[free]
    change = step @ hessian[free]
    curvature = float(step @ change[free])
    fall = float(slope[free] @ step) + curvature / 2 + float(kinks[free] @ (np.abs(target) - np.abs(z[free])))
    if fall < 0:
        z[free] = target
        slope += change


class ProductQuadratic:
    """H is known by its products: accelerated proximal gradient steps, scaled by the diagonal of H, with restarts.

    Parameters
    ----------
    product : callable
        v -> H v
    diagonal : ndarray of shape (n,)
        Of H, roughly.
    usual : ndarray of shape (n,)
        The diagonal of D.

    References: A. Beck, M. Teboulle, "A fast iterative shrinkage-thresholding algorithm for linear inverse problems",
    SIAM Journal on Imaging Sciences 2 (2009); B. O'Donoghue, E. Candès, "Adaptive restart for accelerated gradient
    schemes", Foundations of Computational Mathematics 15 (2015).
    """

    def __init__(self, product: Operator, diagonal: Vector, usual: Vector) -> None:
        self.product = product
        self.diagonal = diagonal
        self.usual = usual

    def minimise(self, x: Vector, gradient: Vector, kinks: Vector, damping: float, effort: Effort) -> Vector:
        more = damping * self.usual
        diagonal = self.diagonal + more
        diagonal[~(diagonal > 0)] = 1.0     # columns of zeros
        z, slope = x, gradient                  # slope: the gradient of the model's smooth part at z
        ahead, slope_ahead = x, gradient        # z and a part of the last step
        bound, momentum = 1.0, 1.0              # bound: of the eigenvalues of H relative to the diagonal
        for _ in range(effort.sweeps):
            scale = 1 / (bound * diagonal)
            point = soft_threshold(ahead - scale * slope_ahead, scale * kinks)
            step = point - ahead
            product = self.product(step) + more * step
            needed = float(step @ product) / max(float(step @ (diagonal * step)), math.ulp(0.0))
            if needed > bound * (1 + 1e-12):
                bound = 1.5 * needed
                continue
            slope_there = slope_ahead + product
            if np.abs(least_subgradient(point, slope_there, kinks)).max(initial=0.0) <= effort.enough:
                return point
            if float((ahead - point) @ (diagonal * (point - z))) > 0:
                momentum = 1.0
            following = (1 + math.sqrt(1 + 4 * momentum * momentum)) / 2
            share = (momentum - 1) / following
            ahead, slope_ahead = point + share * (point - z), slope_there + share * (slope_there - slope)
            z, slope, momentum = point, slope_there, following
        return z
