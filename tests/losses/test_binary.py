"""The binary losses against the twin: shapes, layouts, weights, outputs, infinities."""

import math

import numpy as np
import pytest
import reference
from hypothesis import given
from hypothesis import strategies as st
from reference import (
    DTYPES,
    LAYOUTS,
    NANS,
    SHORT_LENGTHS,
    WRITEABLE_LAYOUTS,
    arrays,
    assert_close,
    assert_same_bits,
    guarded,
)

import xent

REDUCTIONS = ["mean", "sum", "none"]
TWO = ["mean", "none"]      # for sweeps: a sum is a mean without its division
NAMES = ["binary_cross_entropy_with_logits", "binary_cross_entropy"]
SHAPES = [(), (1,), (5,), (3, 5), (2, 3, 4), (2, 1, 3, 2)]
LENGTHS = [*SHORT_LENGTHS, 511, 512, 513, 1024, 1029]     # the kernel takes chunks of 512 elements
INF, NAN = np.inf, np.nan

each = pytest.mark.parametrize("name", NAMES)
each_dtype = pytest.mark.parametrize("dtype", DTYPES)


class Problem:
    """Logits (or probabilities), targets (labels, or numbers in [0, 1]) and every kind of weight."""

    def __init__(self, name, shape, dtype=np.float64, seed=0, labels=False):
        rng = np.random.default_rng(seed)
        x = rng.normal(size=shape, scale=3)
        self.x = np.asarray(x if name == NAMES[0] else 1 / (1 + np.exp(-x)), dtype)
        self.target = np.asarray(rng.integers(2, size=shape) if labels else rng.random(shape), dtype)
        self.weights = {"sample_weight": np.asarray(rng.integers(0, 4, shape) / 2)}
        if name == NAMES[0]:
            self.weights["pos_weight"] = np.asarray(rng.integers(0, 4, shape) / 2)


def check(name, x, target, reductions=REDUCTIONS, **options):
    """For every reduction, the loss (with a gradient and without) and the gradient are the twin's."""
    dtype = np.asarray(x).dtype.newbyteorder("=")
    dtype = dtype if dtype.kind == "f" else np.dtype(np.float64)
    for reduction in reductions:
        loss, grad = getattr(xent, name)(x, target, reduction=reduction, return_grad=True, **options)
        exact_loss, exact_grad = getattr(reference, name)(x, target, reduction=reduction, **options)
        assert_close(grad, exact_grad, dtype)
        alone = getattr(xent, name)(x, target, reduction=reduction, **options)
        if reduction == "none":
            assert_close(loss, exact_loss, dtype)
            assert_same_bits(np.asarray(alone), np.asarray(loss))
        else:
            assert type(loss) is float
            np.testing.assert_allclose(loss, float(exact_loss), rtol=8 * np.finfo(dtype).eps)
            np.testing.assert_equal(alone, loss)


# --- sweeps ----------------------------------------------------------------------------------------------------------


@each
@each_dtype
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout, dtype, name):
    for shape in [*SHAPES, (2, 600)]:
        p = Problem(name, shape, dtype)
        x, target = LAYOUTS[layout](p.x), LAYOUTS[layout](p.target)
        check(name, x, target, TWO)
        check(name, x, target, TWO, **{key: LAYOUTS[layout](w) for key, w in p.weights.items()})
        np.testing.assert_array_equal(x, p.x)


@each
@each_dtype
def test_lengths(dtype, name):
    for n in LENGTHS:
        p = Problem(name, n, dtype)
        check(name, p.x, p.target, TWO, **p.weights)
        p = Problem(name, (2, n), dtype, labels=True)
        check(name, np.asfortranarray(p.x), p.target, TWO, **p.weights)


@each
@each_dtype
def test_layouts_that_differ(dtype, name):
    p = Problem(name, (3, 4, 5), dtype)
    moved = [LAYOUTS[layout](p.target) for layout in LAYOUTS]
    for i, target in enumerate(moved):
        check(name, LAYOUTS["Fortran"](p.x) if i % 2 else p.x, target, sample_weight=moved[i - 1])


@each
@each_dtype
@pytest.mark.parametrize("kind", ["i1", "i4", "i8", "u1", "u8", ">i2", "f4", "f8", ">f8"])
def test_target_types(kind, dtype, name):
    p = Problem(name, (6, 4), dtype, labels=True)
    for layout in LAYOUTS.values():
        weights = {key: w.astype("f4") for key, w in p.weights.items()}
        check(name, p.x, layout(p.target.astype(kind)), ["none"], **weights)


def test_integer_logits_become_float64():
    for kind in ("i1", "u2", "i8", ">u8"):
        check(NAMES[0], np.array([3, 0, 7], kind), [1, 0, 0.5])


@each
def test_lists_and_scalars(name):
    p = Problem(name, (2, 3))
    check(name, p.x.tolist(), p.target.tolist(), **{key: w.tolist() for key, w in p.weights.items()})
    check(name, 0.25, 1)
    check(name, np.float32(0.25), np.float32(0.5), sample_weight=3)
    assert type(getattr(xent, name)(np.float32(0.25), 1, reduction="none")) is np.float32


@each
@each_dtype
@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0), (2, 0, 3)])
def test_empty_shapes(shape, dtype, name):
    p = Problem(name, shape, dtype)
    check(name, p.x, p.target, **p.weights)
    out = np.zeros(shape, dtype)
    assert math.isnan(getattr(xent, name)(p.x, p.target, grad_out=out)[0])


@each
@each_dtype
def test_broadcast_arrays(dtype, name):
    p = Problem(name, (1, 5), dtype)
    check(name, np.broadcast_to(p.x, (4, 5)), np.broadcast_to(p.target[:, :1], (4, 5)))
    for shape in [(), (5,), (4, 1), (4, 5), (1, 1)]:
        check(name, np.broadcast_to(p.x, (4, 5)), np.zeros((4, 5)), sample_weight=np.full(shape, 0.5))
    check(NAMES[0], np.ones((4, 5), dtype), np.ones((4, 5)), pos_weight=np.arange(5))


# --- weights ---------------------------------------------------------------------------------------------------------


@each
@each_dtype
def test_zero_weight_hides_everything(dtype, name):
    for n in LENGTHS:
        p = Problem(name, n, dtype)
        weight = np.arange(n) % 3
        p.x[::3] = NAN if name == NAMES[0] else p.target.round()[::3] < 0.5
        loss, grad = getattr(xent, name)(p.x, p.target, sample_weight=weight, reduction="none", return_grad=True)
        assert (loss[::3] == 0).all()
        assert (grad[::3] == 0).all()
        assert np.isfinite(loss).all()
        check(name, p.x, p.target, sample_weight=weight)


@each
@each_dtype
def test_no_weight_at_all(dtype, name):
    p = Problem(name, 5, dtype)
    loss, grad = getattr(xent, name)(p.x, p.target, sample_weight=0, return_grad=True)
    assert math.isnan(loss)
    assert (grad == 0).all()
    assert getattr(xent, name)(p.x, p.target, sample_weight=0, reduction="sum") == 0


@each
@each_dtype
@pytest.mark.parametrize("size", [1e-310, 1e-50, 1e50, 1e300])
def test_size_of_the_weights_leaves_the_mean_alone(size, dtype, name):
    """Weights are float64, whatever the logits are."""
    p = Problem(name, 20, dtype)
    loss, grad = getattr(xent, name)(p.x, p.target, sample_weight=size, return_grad=True)
    exact_loss, exact_grad = getattr(reference, name)(p.x, p.target)
    assert loss == pytest.approx(float(exact_loss), rel=1e-5)
    np.testing.assert_allclose(grad, exact_grad.astype(np.float64), rtol=1e-4)


def test_pos_weight_is_not_in_the_denominator():
    loss, grad = xent.binary_cross_entropy_with_logits([0.0, 0.0], [1, 0], pos_weight=3, return_grad=True)
    assert loss == pytest.approx(2 * np.log(2), rel=1e-15)
    np.testing.assert_allclose(grad, [-0.75, 0.25])


@each
def test_infinite_sums(name):
    """Each loss fits, their sum does not, in one block of work or in many."""
    for n in (3, 200_000):
        options = {"sample_weight": 1e308} if name == NAMES[1] else {}
        x = np.full(n, 1.7e308 if name == NAMES[0] else 0.5)
        assert getattr(xent, name)(x, np.zeros(n), reduction="sum", **options) == INF


@each_dtype
@pytest.mark.parametrize("epsilon", [0.0, 0.1, 0.5, 1.0, 1e-6])
def test_smoothing(epsilon, dtype):
    rng = np.random.default_rng(0)
    for n in SHORT_LENGTHS:
        x = rng.normal(size=n, scale=10).astype(dtype)
        for y in (rng.integers(2, size=n), rng.random(n).astype(dtype)):
            options = {"pos_weight": rng.random(n), "sample_weight": rng.random(n), "label_smoothing": epsilon}
            for reduction in REDUCTIONS:
                actual = xent.binary_cross_entropy_with_logits(
                    x, y, return_grad=True, reduction=reduction, **options
                )
                exact = reference.binary_cross_entropy_with_logits(x, y, reduction=reduction, **options)
                for a, b in zip(actual, exact, strict=True):
                    eps = np.finfo(dtype).eps
                    np.testing.assert_allclose(np.asarray(a, reference.EXTENDED), b, rtol=8 * eps, atol=8 * eps)


# --- the gradient's array --------------------------------------------------------------------------------------------


@each
@each_dtype
@pytest.mark.parametrize("layout", WRITEABLE_LAYOUTS)
def test_grad_out(layout, dtype, name):
    """Fresh and in place, whatever the strides."""
    move = WRITEABLE_LAYOUTS[layout]
    for shape in [*SHAPES, (2, 600), (600, 2)]:
        p = Problem(name, shape, dtype)
        for reduction in REDUCTIONS:
            options = {"reduction": reduction, **p.weights}
            loss, expected = getattr(xent, name)(p.x, p.target, return_grad=True, **options)
            for x, out in ((p.x, move(np.full(shape, 77, dtype))), (move(p.x.copy()),) * 2):
                again, grad = getattr(xent, name)(x, p.target, grad_out=out, **options)
                assert grad is out
                assert_same_bits(grad, expected)
                np.testing.assert_allclose(again, loss, rtol=1e-6)


@each
@each_dtype
def test_nothing_else_is_written(dtype, name):
    for n in LENGTHS:
        p = Problem(name, n, dtype)
        x, intact = guarded(p.x)
        getattr(xent, name)(x, p.target, grad_out=x, **p.weights)
        intact()
        gaps = np.full(2 * n, 0.5, dtype)
        getattr(xent, name)(gaps[::2], p.target, grad_out=gaps[::2])
        assert (gaps[1::2] == 0.5).all()


# --- infinities, NaN and other strange numbers -----------------------------------------------------------------------


@each_dtype
def test_nan_stays_where_it_is(dtype):
    for n in LENGTHS:
        p = Problem(NAMES[0], n, dtype)
        clean = xent.binary_cross_entropy_with_logits(p.x, p.target, reduction="none", return_grad=True)
        x, spots = p.x.copy(), slice(n % 2, None, 3)
        x[spots] = np.resize(NANS[dtype], len(x[spots]))
        dirty = xent.binary_cross_entropy_with_logits(x, p.target, reduction="none", return_grad=True)
        for a, b in zip(clean, dirty, strict=True):
            assert np.isnan(b[spots]).all()
            keep = np.ones(n, bool)
            keep[spots] = False
            assert_same_bits(b[keep], a[keep])


@each_dtype
def test_infinite_logits_have_their_limits(dtype):
    for n in (1, 4, 17):
        x = np.repeat(np.array([INF, -INF, INF, -INF, INF, -INF], dtype), n)
        y = np.repeat(np.array([1, 0, 0, 1, 0.25, 0.25], dtype), n)
        loss, grad = xent.binary_cross_entropy_with_logits(x, y, reduction="none", return_grad=True)
        np.testing.assert_array_equal(loss, np.repeat([0, 0, INF, INF, INF, INF], n))
        np.testing.assert_array_equal(grad, np.repeat([0, 0, 1, -1, 0.75, -0.25], n))
        smooth = xent.binary_cross_entropy_with_logits(x, y, reduction="none", label_smoothing=0.1)
        assert (smooth == INF).all()


@each_dtype
def test_huge_and_tiny_logits(dtype):
    info = np.finfo(dtype)
    sizes = [info.max, info.max / 2, 1e30, 100, 1, info.eps, info.smallest_normal, info.smallest_subnormal, 0]
    x = np.array([*sizes, *np.negative(sizes)], dtype)
    for y in (0, 1, 0.5):
        target = np.full(len(x), y, dtype)
        loss, grad = xent.binary_cross_entropy_with_logits(x, target, reduction="none", return_grad=True)
        exact_loss, exact_grad = reference.binary_cross_entropy_with_logits(x, target, reduction="none")
        np.testing.assert_allclose(loss, exact_loss.astype(dtype), rtol=4 * info.eps, atol=info.smallest_normal)
        np.testing.assert_allclose(grad, exact_grad.astype(dtype), rtol=4 * info.eps, atol=4 * info.eps)


@each_dtype
def test_certain_probabilities(dtype):
    """Right is 0, wrong is inf, and a mass of 0 hides it."""
    p, y = np.array([1, 0, 1, 0, 0.5, 0, 1], dtype), np.array([1, 0, 0, 1, 1, 0.5, 0.5], dtype)
    loss, grad = xent.binary_cross_entropy(p, y, reduction="none", return_grad=True)
    np.testing.assert_allclose(loss, [0, 0, INF, INF, np.log(2), INF, INF], rtol=1e-7)
    np.testing.assert_array_equal(grad, [-1, 1, INF, -INF, -2, -INF, INF])
    assert not np.signbit(loss).any()
    assert xent.binary_cross_entropy(p, y, sample_weight=[1, 1, 0, 0, 1, 0, 0]) == pytest.approx(np.log(2) / 3)


# --- properties ------------------------------------------------------------------------------------------------------


@each
@given(x=arrays(scales=(1e-3, 1, 10)), seed=st.integers(0, 1000))
def test_any_array(name, x, seed):
    p = Problem(name, x.shape, x.dtype, seed)
    check(name, x if name == NAMES[0] else p.x, p.target, **p.weights)


@each
@given(x=arrays([np.float64], scales=(1, 3)), seed=st.integers(0, 1000), reduction=st.sampled_from(["mean", "sum"]))
def test_gradient_by_finite_differences(name, x, seed, reduction):
    p = Problem(name, x.shape, np.float64, seed)
    x = x if name == NAMES[0] else 0.1 + 0.8 * p.x
    direction = np.random.default_rng(seed).normal(size=x.shape)
    _, grad = getattr(xent, name)(x, p.target, reduction=reduction, return_grad=True, **p.weights)
    step = 1e-5
    ahead, behind = (
        getattr(xent, name)(x + sign * step * direction, p.target, reduction=reduction, **p.weights)
        for sign in (1, -1)
    )
    slope = (ahead - behind) / (2 * step)
    if not math.isnan(slope):
        assert slope == pytest.approx(np.vdot(grad, direction), rel=1e-6, abs=1e-7 * (1 + np.abs(grad).sum()))


@given(x=arrays(), labels=st.booleans())
def test_symmetry(x, labels):
    """The loss of 1 at x is that of 0 at -x."""
    p = Problem(NAMES[0], x.shape, x.dtype, labels=labels)
    p.target = np.rint(p.target * 16) / 16
    loss, grad = xent.binary_cross_entropy_with_logits(x, p.target, reduction="none", return_grad=True)
    other_loss, other_grad = xent.binary_cross_entropy_with_logits(
        -x, (1 - p.target).astype(x.dtype), reduction="none", return_grad=True
    )
    eps = np.finfo(x.dtype).eps
    np.testing.assert_allclose(loss, other_loss, rtol=4 * eps)
    np.testing.assert_allclose(grad, -other_grad, rtol=4 * eps, atol=0 if labels else 4 * eps)


@given(x=arrays(scales=(1e-3, 1, 10)))
def test_two_classes_of_which_one_has_logit_0(x):
    """The binary loss is cross_entropy of (0, x), and that of probabilities is that of logits."""
    eps = np.finfo(x.dtype).eps
    p = Problem(NAMES[0], x.shape, x.dtype)
    y, weight = p.target, p.weights["sample_weight"]
    for reduction in REDUCTIONS:
        options = {"sample_weight": weight, "reduction": reduction}
        loss, grad = xent.binary_cross_entropy_with_logits(x, y, return_grad=True, **options)
        two_loss, two_grad = xent.cross_entropy(
            np.stack([np.zeros_like(x), x], axis=-1), np.stack([1 - y, y], axis=-1), return_grad=True, **options
        )
        np.testing.assert_allclose(loss, two_loss, rtol=8 * eps)
        np.testing.assert_allclose(grad, two_grad[..., 1], rtol=16 * eps, atol=8 * eps)
    x = np.clip(x, -3, 3)
    np.testing.assert_allclose(
        xent.binary_cross_entropy(xent.softmax(np.stack([np.zeros_like(x), x], axis=-1))[..., 1], y, reduction="none"),
        xent.binary_cross_entropy_with_logits(x, y, reduction="none"),
        rtol=200 * eps,
    )


@pytest.mark.parametrize("name", NAMES)
def test_integer_targets_are_labels(name):
    with pytest.raises(ValueError, match=r"target\[1\] is -100; labels must be 0 or 1"):
        getattr(xent, name)([0.5, 0.9], [1, -100])
