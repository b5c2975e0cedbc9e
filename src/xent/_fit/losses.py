"""The losses that fits use, in one place."""

from __future__ import annotations

from xent.losses import cross_entropy
from xent.primitives import log_softmax, softmax

__all__ = ["cross_entropy", "log_softmax", "softmax"]
