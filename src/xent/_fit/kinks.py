"""Functions with kinks: smooth(x) + sum of kinks[j] |x[j]|, with kinks[j] >= 0.

At their minimum 0 is a subgradient: an element of the subdifferential, which is gradient + kinks sign(x), or where
x[j] = 0 any number within kinks[j] of the gradient. An infinite kink holds an element at 0, or wherever it is.
"""

from __future__ import annotations

import numpy as np

from xent._fit.types import Vector


def soft_threshold(x: Vector, thresholds: Vector) -> Vector:
    """The proximal step: the z where (z - x)^2 / 2 + thresholds |z| is least."""
    result: Vector = np.sign(x) * np.maximum(np.abs(x) - thresholds, 0)
    return result


def least_subgradient(x: Vector, gradient: Vector, kinks: Vector) -> Vector:
    """The subgradient whose elements are least in absolute value: 0 at the minimum."""
    finite = np.isfinite(kinks)
    heights = np.where(finite, kinks, 0)
    result = np.where(x == 0, soft_threshold(gradient, heights), gradient + heights * np.sign(x))
    result *= finite
    return result
