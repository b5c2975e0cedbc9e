"""Small good arguments, of which tests spoil one at a time; and a check of the error's type and exact message."""

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
SIXTEENTHS = np.arange(1, 13).reshape(3, 4) / 16       # exact in every float type; good as any argument
INDICES, MASS = np.array([[0, 1], [1, 2], [2, 3]]), np.full((3, 2), 0.25)
LOSSES = {
    "cross_entropy": (X, LABELS),
    "categorical_cross_entropy": (PROBA, LABELS),
    "binary_cross_entropy_with_logits": (X, X),
    "binary_cross_entropy": (PROBA, X),
    "kl_divergence": (X, X),
}
FIRST = {name: "proba" if args[0] is PROBA else "logits" for name, args in LOSSES.items()}
SECOND = {name: "ref_logits" if name == "kl_divergence" else "target" for name in LOSSES}
BINARY = [name for name in LOSSES if name.startswith("binary")]
WEIGHT_SHAPE = {name: (3, 4) if name in BINARY else (3,) for name in LOSSES}
PRIMITIVES = ["logsumexp", "softmax", "log_softmax"]
WITH_GRAD = [name for name in LOSSES if name != "categorical_cross_entropy"]
MANY = 100_000      # rows: enough for several blocks
FLOATS = "float16, bfloat16, float32 or float64"
OTHER_FLOATS = [np.longdouble] if np.dtype(np.longdouble).itemsize > 8 else []
nan, inf = np.nan, np.inf

READABLE_DEVICES = [1, 3, 11, 13]       # DLPack's numbers of the devices whose memory a CPU can read


class Tensor:
    """Of a library that has DLPack and nothing else."""

    def __init__(self, array, device=READABLE_DEVICES[0]):
        self.array, self.dtype, self.device = array, array.dtype, device

    def __dlpack_device__(self):
        return self.device, 0

    def __dlpack__(self, **options):
        assert self.device in READABLE_DEVICES
        return self.array.__dlpack__(**options)


def fails(error, message, function, *args, **options):
    """The call raises, with exactly this message."""
    with pytest.raises(error) as caught:
        function(*args, **options)
    assert str(caught.value) == message
