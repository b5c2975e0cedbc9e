"""Small arguments that every function takes, for tests that spoil one of them; and what an error says, exactly."""

import numpy as np
import pytest

try:
    from ml_dtypes import bfloat16

    HALVES = [np.float16, bfloat16]
except ImportError:
    HALVES = [np.float16]

X = np.zeros((3, 4))
PROBA = np.full((3, 4), 0.25)
LABELS = np.array([0, 1, 2])
SIXTEENTHS = np.arange(1, 13).reshape(3, 4) / 16       # of any float type, and of use as anything
INDICES, MASS = np.array([[0, 1], [1, 2], [2, 3]]), np.full((3, 2), 0.25)
LOSSES = {
    "cross_entropy": (X, LABELS),
    "categorical_cross_entropy": (PROBA, LABELS),
    "binary_cross_entropy_with_logits": (X, X),
    "binary_cross_entropy": (PROBA, X),
}
FIRST = {name: "proba" if args[0] is PROBA else "logits" for name, args in LOSSES.items()}
PRIMITIVES = ["logsumexp", "softmax", "log_softmax"]
WITH_GRAD = [name for name in LOSSES if name != "categorical_cross_entropy"]
MANY = 100_000      # rows, in several blocks of work
FLOATS = "float16, bfloat16, float32 or float64"
OTHER_FLOATS = [np.longdouble] if np.dtype(np.longdouble).itemsize > 8 else []
nan, inf = np.nan, np.inf


def fails(error, message, function, *args, **options):
    """The call raises, with exactly this message."""
    with pytest.raises(error) as caught:
        function(*args, **options)
    assert str(caught.value) == message
