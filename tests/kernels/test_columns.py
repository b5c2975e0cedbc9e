"""Few classes, whose rows are done side by side: a row's result is its own, whatever is beside it, wherever it is."""

import numpy as np
import pytest
import reference
from reference import DTYPES, assert_close, assert_same_bits

import xent

INF, NAN = np.inf, np.nan
CLASSES = [1, 2, 3, 4, 5, 7, 8, 10, 16, 33, 63, 64, 65]

each_dtype = pytest.mark.parametrize("dtype", DTYPES)
each_count = pytest.mark.parametrize("n", CLASSES)


def results(x, y, axis=-1, **weights):
    """Everything that is computed in tiles, classes last."""
    loss, grad = xent.cross_entropy(x, y, axis=axis, reduction="none", return_grad=True, **weights)
    primitives = (f(x, axis) for f in (xent.softmax, xent.log_softmax))
    return [loss, xent.logsumexp(x, axis), *(np.moveaxis(a, axis, -1) for a in (grad, *primitives))]


def strange(n, dtype, rows=75, seed=0):
    """Ordinary rows, and among them ties, infinities, NaN, ignored labels and weights of every size."""
    rng = np.random.default_rng([n, seed])
    x = rng.normal(size=(rows, n), scale=5).astype(dtype)
    y = rng.integers(n, size=rows)
    weight = rng.random(rows)
    x[::9] = x[0, 0]
    x[3::11, 0] = NAN
    x[4::13, -1] = INF
    x[5::13, -1] = -INF
    x[6::17] = -INF
    y[7::7] = -100
    weight[8::19] = 0
    weight[9::19] = 1e39
    weight[10::19] = 1e-39
    return x, y, weight


@each_dtype
@each_count
def test_alone_and_together(n, dtype):
    x, y, weight = strange(n, dtype)
    weights = {"class_weight": np.random.default_rng(n).integers(0, 3, n) / 2}
    together = results(x, y, sample_weight=weight, **weights)
    for first in (0, 1, 5, 16, 60):
        for count in (1, 2, 3, 4, 5, 7, 8, 9, 15):
            k = slice(first, first + count)
            for a, b in zip(results(x[k], y[k], sample_weight=weight[k], **weights), together, strict=True):
                assert_same_bits(a, b[k])


@each_dtype
@each_count
def test_wherever_the_classes_are(n, dtype):
    """Last, first and between, neighbours in memory or not; with a tile that reaches over the end of an image."""
    x, y, weight = strange(n, dtype)
    expected = results(x, y, sample_weight=weight)
    for shape in ((75,), (3, 25), (25, 3), (1, 75), (5, 15)):
        images = np.ascontiguousarray(np.moveaxis(x.reshape(*shape, n), -1, 1 if len(shape) > 1 else 0))
        axis = 1 if len(shape) > 1 else 0
        labels, weights = y.reshape(shape), weight.reshape(shape)
        for moved in (images, np.asfortranarray(images), np.repeat(images, 2, axis=-1)[..., ::2]):
            for a, b in zip(results(moved, labels, axis, sample_weight=weights), expected, strict=True):
                assert_same_bits(a.reshape(b.shape), b)
            inside = moved.copy()
            xent.cross_entropy(inside, labels, axis=axis, sample_weight=weights, reduction="sum", grad_out=inside)
            assert_same_bits(np.moveaxis(inside, axis, -1).reshape(75, n), expected[2])


@each_dtype
@each_count
def test_against_the_twin(n, dtype):
    x, y, _ = strange(n, dtype)
    loss, logsumexp, grad, softmax, log_softmax = results(x, y)
    exact_loss, exact_grad = reference.cross_entropy(x, y, reduction="none")
    for actual, exact in (
        (loss, exact_loss),
        (logsumexp, reference.logsumexp(x)),
        (grad, exact_grad),
        (softmax, reference.softmax(x)),
        (log_softmax, reference.log_softmax(x)),
    ):
        assert_close(actual, exact, dtype)


@each_dtype
@each_count
def test_sparse_and_dense_targets_beside_labels(n, dtype):
    """Rows with all their mass on one class give the bits of a label; others are computed as rows."""
    x, y, weight = strange(n, dtype)
    y = np.where(y < 0, 0, y)
    dense = np.eye(n, dtype=dtype)[y]
    dense[::5] = np.random.default_rng(n).dirichlet(np.ones(n), len(dense[::5]))
    exact = xent.cross_entropy(x, y, sample_weight=weight, reduction="none", return_grad=True)
    mixed = xent.cross_entropy(x, dense, sample_weight=weight, reduction="none", return_grad=True)
    for a, b in zip(mixed, exact, strict=True):
        keep = np.arange(len(x)) % 5 != 0
        assert_same_bits(a[keep], b[keep])
    twin = reference.cross_entropy(x, dense, reduction="none")
    for a, b in zip(xent.cross_entropy(x, dense, reduction="none", return_grad=True), twin, strict=True):
        assert_close(a, b, dtype)
