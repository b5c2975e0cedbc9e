"""Problems for the categorical losses, and a check of an answer against the twin."""

import numpy as np
import pytest
import reference
from reference import DTYPES, assert_close, assert_same_bits

import xent

REDUCTIONS = ["mean", "sum", "none"]
TWO = ["mean", "none"]      # for sweeps: a sum is a mean without its division
SHAPES = [(5,), (3, 5), (2, 3, 5), (2, 3, 4, 5)]
TARGETS = ["labels", "one-hot", "distribution"]
INTEGERS = ["i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", ">i2", ">i8", ">u8"]
INF, NAN = np.inf, np.nan

each_dtype = pytest.mark.parametrize("dtype", DTYPES)
each_target = pytest.mark.parametrize("kind", TARGETS)


class Problem:
    """Random logits and a target of some kind, with all the weights there are."""

    def __init__(self, shape, axis=-1, dtype=np.float64, kind="labels", seed=0):
        rng = np.random.default_rng(seed)
        self.axis = axis
        self.logits = rng.normal(size=shape, scale=3).astype(dtype)
        rows = tuple(np.delete(shape, axis))
        classes = shape[axis]
        self.labels = np.asarray(rng.integers(classes, size=rows) if classes else np.zeros(rows, np.int64))
        one_hot = self.labels[..., None] == np.arange(classes)
        distribution = rng.dirichlet(np.ones(max(classes, 1)), rows)[..., :classes]
        t = {"one-hot": one_hot, "distribution": distribution}.get(kind, one_hot)
        self.target = self.labels if kind == "labels" else np.moveaxis(t, -1, axis).astype(dtype)
        self.weights = {
            "class_weight": rng.integers(0, 5, classes) / 2,
            "sample_weight": np.asarray(rng.integers(0, 4, rows) / 2),
        }


def check(logits, target, reductions=REDUCTIONS, **options):
    """The loss for every reduction, with a gradient and without, is that of the twin; returns the last gradient."""
    dtype = np.asarray(logits).dtype.newbyteorder("=")
    dtype = dtype if dtype.kind == "f" else np.dtype(np.float64)
    for reduction in reductions:
        loss, grad = xent.cross_entropy(logits, target, reduction=reduction, return_grad=True, **options)
        exact_loss, exact_grad = reference.cross_entropy(logits, target, reduction=reduction, **options)
        assert_close(grad, exact_grad, dtype)
        alone = xent.cross_entropy(logits, target, reduction=reduction, **options)
        if reduction == "none":
            assert_close(loss, exact_loss, dtype)
            assert_same_bits(np.asarray(alone), np.asarray(loss))
        else:
            assert type(loss) is float
            eps = np.finfo(dtype).eps
            np.testing.assert_allclose(loss, float(exact_loss), rtol=8 * eps, atol=8 * eps)
            np.testing.assert_equal(alone, loss)
    return grad
