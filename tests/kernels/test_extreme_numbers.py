"""Finite logits, scales and weights of any size and ratio: exact wherever the result is finite."""

import ml_dtypes
import numpy as np
import pytest
import reference
from loss_problems import each_dtype
from reference import EXTENDED, SHORT_LENGTHS

import xent

LENGTHS = [*SHORT_LENGTHS, 64, 65, 300, 3000]
HALVES = (np.float16, ml_dtypes.bfloat16)
each_kind = pytest.mark.parametrize("kind", ["labels", "distribution", "sparse"])


def target_of(kind, rows, n, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(n, size=rows)
    if kind == "distribution":
        return rng.dirichlet(np.ones(n), rows)
    return labels if kind == "labels" else (np.stack([labels, labels], 1), np.full((rows, 2), 0.5))


@reference.quiet
def check(x, target, dtype, sizes=("none", "mean", "sum"), **options):
    """For each reduction, loss and gradient are the twin's, and infinite where these are too large."""
    eps = float(np.finfo(dtype).eps)
    for reduction in sizes:
        loss, grad = xent.cross_entropy(x, target, reduction=reduction, return_grad=True, **options)
        exact, slope = reference.cross_entropy(x, target, reduction=reduction, **options)
        of_loss = np.finfo(dtype if reduction == "none" else np.float64)
        for actual, desired, info, name in ((loss, exact, of_loss, "loss"), (grad, slope, np.finfo(dtype), "gradient")):
            actual, desired = np.asarray(actual, EXTENDED), np.asarray(desired, EXTENDED)
            fits = np.abs(desired) <= info.max
            np.testing.assert_array_equal(np.isfinite(actual), fits)
            # The terms of a gradient are as large as the weight of the row, or 1.
            terms = 8 * eps * max(np.abs(desired[fits]).max(initial=0), 1) if name == "gradient" else 0
            np.testing.assert_allclose(actual[fits], desired[fits], 64 * eps, 4 * info.smallest_normal + terms)


# --- logits ----------------------------------------------------------------------------------------------------------


def test_a_capped_mask():
    """A large negative logit that stands for "never" saturates at minus the cap."""
    assert xent.cross_entropy(np.float32([[1, 2, -1e30]]), [0], softcap=30.0) == pytest.approx(1.311371, rel=1e-6)
    x = np.float32([[6, 0, -2e14]])
    exact = reference.cross_entropy(x, [2], softcap=30.0)[0]
    assert xent.cross_entropy(x, [2], softcap=30.0) == pytest.approx(float(exact), rel=1e-6)


@each_dtype
@each_kind
@pytest.mark.parametrize("cap", [1e-3, 30.0, 1e15])
def test_capped_logits_of_any_size(kind, dtype, cap):
    info = np.finfo(dtype)
    for n in LENGTHS:
        rng = np.random.default_rng(n)
        for size in (1e10, 2e14, 1e30, float(info.max)):
            x = rng.normal(size=(4, n), scale=3).astype(dtype)
            for i, sign in enumerate((1, -1, -1)):
                x[i, rng.integers(n, size=i + 1)] = sign * min(size, float(info.max))
            x[3] = -min(size, float(info.max))
            check(x, target_of(kind, 4, n), dtype, ["none"], softcap=cap)


@pytest.mark.parametrize("dtype", HALVES)
def test_capped_logits_of_half_precision(dtype):
    largest = float(ml_dtypes.finfo(dtype).max)
    x = np.array([[1, 2, -largest], [1, largest, 0], [-largest, -largest, largest / 2]]).astype(dtype)
    wide = x.astype(np.float32)
    loss = xent.cross_entropy(x, [0, 1, 2], softcap=30.0, reduction="none")
    np.testing.assert_array_equal(loss, xent.cross_entropy(wide, [0, 1, 2], softcap=30.0, reduction="none"))
    np.testing.assert_allclose(loss, reference.cross_entropy(wide, [0, 1, 2], softcap=30.0, reduction="none")[0], 1e-6)


@each_dtype
def test_a_capped_linear_layer(dtype):
    X, weight = np.eye(3, dtype=dtype), np.array([[1, 2, 3], [0, 1, -1e30], [1e30, -1e30, 0], [2, 2, 2]], dtype)
    expected = reference.cross_entropy(weight.T, [0, 1, 2], softcap=30.0)[0]
    assert xent.linear_cross_entropy(X, weight, [0, 1, 2], softcap=30.0) == pytest.approx(float(expected), rel=1e-6)


@each_dtype
@each_kind
@pytest.mark.parametrize("scale", [2.0, -3.0, 1e3])
def test_scaled_logits_that_overflow(kind, dtype, scale):
    """Logits of the largest finite size, in a part of a row and in all of it, times an inverse temperature."""
    largest = float(np.finfo(dtype).max)
    for n in LENGTHS:
        rng = np.random.default_rng(n)
        x = rng.normal(size=(4, n), scale=3).astype(dtype)
        x[0, : n // 2] = -largest
        x[1] = -largest
        x[2] = largest
        x[3, n // 2 :] = largest
        rows = slice(1, 3) if kind == "distribution" and dtype == np.float64 else slice(4)     # whose sums fit
        target = target_of(kind, 4, n)
        target = tuple(t[rows] for t in target) if type(target) is tuple else target[rows]
        check(x[rows], target, dtype, ["none"], logit_scale=scale)


@each_dtype
@pytest.mark.parametrize("options", [
    {"softcap": 1e-300}, {"softcap": 1e300}, {"logit_scale": 1e20, "softcap": 5.0}, {"logit_scale": 1e-300},
    {"logit_scale": -1e200, "softcap": 1e-200}, {"z_loss": 1e-300}, {"label_smoothing": 1e-300},
    {"logit_scale": 0.0}, {"logit_scale": 1e-30, "softcap": 1e-30},
], ids=str)
def test_options_of_any_size(options, dtype):
    for n in (1, 3, 70, 3000):
        x = np.random.default_rng(n).normal(size=(3, n), scale=3).astype(dtype)
        for kind in ("labels", "distribution"):
            check(x, target_of(kind, 3, n), dtype, ["none", "mean"], **options)


@each_dtype
def test_logits_near_the_cap(dtype):
    """Where exp(-2 x / cap) is about eps, small differences keep their digits."""
    bits = 24 if dtype == np.float32 else 53
    for cap in (5.0, 30.0):
        edge = np.linspace(bits * np.log(2) / 2 - 2, bits * np.log(2) / 2 + 2, 200)
        x = np.stack([edge * cap, np.full(200, 1e4)], axis=1).astype(dtype)
        loss, grad = xent.cross_entropy(x, np.ones(200, int), softcap=cap, reduction="none", return_grad=True)
        exact, slope = reference.cross_entropy(x, np.ones(200, int), softcap=cap, reduction="none")
        reference.assert_ulp(loss, exact, 2)
        reference.assert_ulp(grad, slope, 4)


def test_labels_that_cannot_happen():
    """Beside a logit of -inf, the gradient of scaled logits keeps its digits."""
    x = np.array([[-np.inf, -33.1, 0.7]])
    for label in (0, 2):
        grad = xent.cross_entropy(x, [label], logit_scale=1.5, return_grad=True, reduction="sum")[1]
        exact = reference.cross_entropy(x, [label], logit_scale=1.5, reduction="sum")[1]
        reference.assert_ulp(grad[0, 1], exact[0, 1], 4)


def test_distances_that_overflow():
    x = np.array([[3e38, -3e38, 0, 0]], np.float32)
    target = np.array([[0.75, 0.25, 0, 0]], np.float32)
    for options in ({}, {"logit_scale": 1.5}):
        check(x, [0], np.float32, ["mean"], label_smoothing=0.1, **options)
        check(x, target, np.float32, ["mean"], **options)


def test_scales_that_round():
    """In a linear layer too, the bits do not depend on the size of the scratch."""
    rng = np.random.default_rng(0)
    weight, X = (rng.normal(size=(5000, 1)) * 30).astype(np.float32), np.ones((400, 1), np.float32)
    labels = np.full(400, weight.argmax())
    for scale in (0.7, 1e37):
        results = [
            xent.linear_cross_entropy(X, weight, labels, logit_scale=scale, reduction="none", max_scratch=size)
            for size in (1 << 25, 1_500_000)
        ]
        np.testing.assert_array_equal(*results)
    exact = (1000.001 - 1000.0) * 1e20
    assert xent.cross_entropy([[1000.001, 1000.0]], [1], logit_scale=1e20) == pytest.approx(exact, rel=1e-15)


# --- weights ---------------------------------------------------------------------------------------------------------

WEIGHTS = {
    "1e600 apart": lambda n: np.where(np.arange(n) == 0, 1e300, 1e-300),
    "tiny": lambda n: np.linspace(1, 2, n) * 1e-300,
    "subnormal": lambda n: np.linspace(1, 2, n) * 1e-310,
    "huge": lambda n: np.linspace(1, 1.5, n) * 1e307,
    "beyond float32": lambda n: np.where(np.arange(n) == n - 1, 1, 1e-50),
    "zeros among them": lambda n: np.where(np.arange(n) % 3 == 1, 0, 1e-250),
}
each_weight = pytest.mark.parametrize("name", WEIGHTS)
OTHERS = [{}, {"label_smoothing": 0.25}, {"z_loss": 1e-6}]


@each_dtype
@each_kind
@each_weight
def test_class_weights_of_any_ratio(name, kind, dtype):
    for n in (2, 3, 10, 70, 3000):
        x = np.random.default_rng(n).normal(size=(5, n)).astype(dtype)
        for options in OTHERS:
            check(x, target_of(kind, 5, n), dtype, ["mean", "none"], class_weight=WEIGHTS[name](n), **options)
    x, weight = np.zeros((4, 2), dtype), np.array([1e-300, 1e300])      # the heavy class does not occur
    assert xent.cross_entropy(x, [0, 0, 0, 0], class_weight=weight) == pytest.approx(np.log(2), rel=1e-6)


@each_dtype
@each_kind
@each_weight
def test_sample_weights_of_any_ratio(name, kind, dtype):
    for n in (2, 70):
        x = np.random.default_rng(n).normal(size=(6, n)).astype(dtype)
        for options in OTHERS:
            check(x, target_of(kind, 6, n), dtype, ["mean", "none"], sample_weight=WEIGHTS[name](6), **options)


@each_dtype
def test_gradients_under_small_weights(dtype):
    """They keep their digits down to the smallest normal numbers."""
    for n in (3, 100, 300, 3000):
        x = np.random.default_rng(n).normal(size=(6, n)).astype(dtype)
        labels = np.arange(6) % n
        for weight in (1e-20, 1e-25, 1e-28, 1e-30, 1e-33, 1e-36, 1e-80, 1e-290):
            grad = xent.cross_entropy(x, labels, sample_weight=np.full(6, weight), reduction="sum", return_grad=True)[1]
            exact = reference.cross_entropy(x, labels, sample_weight=np.full(6, weight), reduction="sum")[1]
            reference.assert_ulp(grad, exact, 4)


@each_dtype
@each_kind
def test_the_heaviest_row_is_ignored(kind, dtype):
    """The other weights are 1e-600 times as large."""
    x = np.random.default_rng(0).normal(size=(3, 4)).astype(dtype)
    weight = np.array([1e300, 1e-300, 1e-300])
    for target in ([-100, 0, 1], (np.array([[-100], [0], [1]]), np.ones((3, 1)))):
        mean = xent.cross_entropy(x, target, sample_weight=weight)
        rest = tuple(t[1:] for t in target) if type(target) is tuple else target[1:]
        assert mean == pytest.approx(xent.cross_entropy(x[1:], rest), rel=1e-6)


@each_dtype
@each_weight
def test_products_of_weights(name, dtype):
    x = np.random.default_rng(0).normal(size=(6, 5)).astype(dtype)
    labels = np.array([0, 1, 2, 3, 4, 0])
    for inverse in (WEIGHTS[name](5), 1 / np.maximum(WEIGHTS[name](5), 1e-300)):
        check(x, labels, dtype, ["mean"], class_weight=inverse, sample_weight=WEIGHTS[name](6))


@each_dtype
@each_weight
def test_other_losses(name, dtype):
    weight = WEIGHTS[name](4)
    p = np.random.default_rng(0).dirichlet(np.ones(3), 4).astype(dtype)
    labels = np.array([0, 1, 2, 1])
    expected = reference.categorical_cross_entropy(p, labels, sample_weight=weight)
    assert xent.categorical_cross_entropy(p, labels, sample_weight=weight) == pytest.approx(float(expected), rel=1e-12)
    assert xent.log_loss(labels, p, sample_weight=weight) == pytest.approx(float(expected), rel=1e-12)
    y = p > 0.5
    for function in (xent.binary_cross_entropy, xent.binary_cross_entropy_with_logits):
        expected = getattr(reference, function.__name__)(p, y, sample_weight=weight[:, None])[0]
        eps = float(np.finfo(dtype).eps)
        assert function(p, y, sample_weight=weight[:, None]) == pytest.approx(float(expected), rel=32 * eps)
    X, layer = np.eye(4, dtype=dtype), np.random.default_rng(1).normal(size=(3, 4)).astype(dtype)
    loss = xent.linear_cross_entropy(X, layer, labels, sample_weight=weight, class_weight=WEIGHTS[name](3))
    expected = reference.cross_entropy(layer.T, labels, sample_weight=weight, class_weight=WEIGHTS[name](3))[0]
    assert loss == pytest.approx(float(expected), rel=1e-6, nan_ok=True)
