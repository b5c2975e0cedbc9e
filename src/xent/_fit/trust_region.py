"""What trust-region methods have in common: the agreement of a step with the quadratic model that promised it."""

from __future__ import annotations

import math

GOOD = 0.75         # agreement from which the region may grow
POOR = 0.25         # agreement below which it shrinks
LEAST = 1e-4        # agreement from which a step is taken
MAX_HIDDEN = 3      # consecutive steps with a decrease below the rounding error


def agreement_of(fall: float, promised: float, rounding: float, halved: bool) -> float:
    """The decrease of the value relative to what the model promised; 1 where rounding hides it but the gradient has
    `halved`."""
    if halved and abs(fall) <= rounding:
        return 1.0
    return (fall + rounding) / (max(0.0, promised) + rounding)


def shorten(slope: float, rise: float) -> float:
    """The share of a step to try next, after a step along this slope has changed the value by `rise`: up to the minimum
    of the parabola through both."""
    excess = rise - slope
    lowest = -slope / (2 * excess) if math.isfinite(excess) and excess > 0 else 0.0
    return min(0.5, max(0.1, lowest))
