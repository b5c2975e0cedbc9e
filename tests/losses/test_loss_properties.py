"""What holds for cross_entropy of any problem."""

import math

import numpy as np
import pytest
import reference
from hypothesis import given
from hypothesis import strategies as st
from loss_problems import TARGETS, Problem, check
from reference import DTYPES, arrays, assert_same_bits

import xent


@st.composite
def problems(draw, dtypes=DTYPES, min_dims=2, scales=(1e-3, 1, 10)):
    """Logits, a target of any kind and weights, or none."""
    logits = draw(arrays(dtypes, min_dims, scales))
    p = Problem(logits.shape, -1, logits.dtype, draw(st.sampled_from(TARGETS)), draw(st.integers(0, 1000)))
    return logits, p.target, {name: w for name, w in p.weights.items() if draw(st.booleans())}


@given(problem=problems(min_dims=1))
def test_any_problem(problem):
    logits, target, weights = problem
    check(logits, target, **weights)


@given(problem=problems([np.float64]), shift=st.integers(-1000, 1000))
def test_shift_invariance(problem, shift):
    logits, target, weights = problem
    logits = np.rint(logits * 1024) / 1024      # adding an integer is exact then
    for a, b in zip(
        xent.cross_entropy(logits, target, reduction="none", return_grad=True, **weights),
        xent.cross_entropy(logits + shift, target, reduction="none", return_grad=True, **weights),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, rtol=1e-14, atol=1e-15)


@given(problem=problems())
def test_gradients_of_a_row_sum_to_0(problem):
    logits, target, weights = problem
    _, grad = xent.cross_entropy(logits, target, reduction="none", return_grad=True, **weights)
    size = np.abs(grad).sum(axis=-1, dtype=np.float64)
    if target.shape == logits.shape:    # T p - t may cancel
        t, s = reference.masses(logits, target, -1, weights.get("sample_weight"), None)
        size = size + s * (t * weights.get("class_weight", 1)).sum(axis=-1)
    rows = grad.sum(axis=-1, dtype=np.float64)
    assert (np.abs(rows) <= 16 * np.finfo(grad.dtype).eps * size).all()


@given(problem=problems([np.float64]), data=st.data())
def test_order_of_the_classes(problem, data):
    logits, target, weights = problem
    order = np.array(data.draw(st.permutations(range(logits.shape[-1]))))
    loss, grad = xent.cross_entropy(logits, target, reduction="none", return_grad=True, **weights)
    moved_target = target[..., order] if target.ndim == logits.ndim else np.argsort(order)[target]
    if "class_weight" in weights:
        weights["class_weight"] = weights["class_weight"][order]
    moved_loss, moved_grad = xent.cross_entropy(
        logits[..., order], moved_target, reduction="none", return_grad=True, **weights
    )
    np.testing.assert_allclose(moved_loss, loss, rtol=1e-14, atol=1e-15)
    np.testing.assert_allclose(moved_grad, grad[..., order], rtol=1e-14, atol=1e-15)


@given(problem=problems(), data=st.data())
def test_cut_of_the_batch(problem, data):
    """Unreduced losses and gradients of a batch are those of its parts, to the last bit."""
    logits, target, weights = problem
    i = data.draw(st.integers(0, len(logits)))
    whole = xent.cross_entropy(logits, target, reduction="none", return_grad=True, **weights)
    s = weights.pop("sample_weight", np.ones(logits.shape[:-1]))
    parts = [
        xent.cross_entropy(logits[k], target[k], sample_weight=s[k], reduction="none", return_grad=True, **weights)
        for k in (slice(i), slice(i, None))
    ]
    for a, b, c in zip(*parts, whole, strict=True):
        assert_same_bits(np.concatenate([a, b]), c)


@given(problem=problems(scales=(1, 5)))
def test_weights_are_multipliers(problem):
    """A row of weight 3 counts as 3 rows, in the loss and in the gradient, whatever the reduction."""
    logits, target, _ = problem
    count = np.random.default_rng(logits.size).integers(0, 4, len(logits))
    expanded = logits.ndim - 2
    weight = np.broadcast_to(count.reshape(-1, *[1] * expanded), logits.shape[:-1])
    eps = np.finfo(logits.dtype).eps
    mass = weight * (target.sum(-1) if target.ndim == logits.ndim else np.ones(target.shape))
    for reduction in ("sum", "mean"):
        loss, grad = xent.cross_entropy(logits, target, sample_weight=weight, reduction=reduction, return_grad=True)
        share = mass / ((mass.sum() or 1) if reduction == "mean" else 1)    # what T p - t is the difference of
        repeated_loss, repeated_grad = xent.cross_entropy(
            np.repeat(logits, count, axis=0), np.repeat(target, count, axis=0), reduction=reduction, return_grad=True
        )
        np.testing.assert_allclose(loss, repeated_loss, rtol=8 * eps)
        starts = np.cumsum(count) - count
        for i in np.flatnonzero(count):
            sums = repeated_grad[starts[i] : starts[i] + count[i]].sum(axis=0)
            np.testing.assert_allclose(grad[i], sums, rtol=16 * eps, atol=4 * eps * np.max(share[i]))


@given(problem=problems([np.float64], scales=(1, 3)), reduction=st.sampled_from(["mean", "sum"]))
def test_gradient_by_finite_differences(problem, reduction):
    logits, target, weights = problem
    direction = np.random.default_rng(0).normal(size=logits.shape)
    _, grad = xent.cross_entropy(logits, target, reduction=reduction, return_grad=True, **weights)
    step = 1e-5
    ahead, behind = (
        xent.cross_entropy(logits + sign * step * direction, target, reduction=reduction, **weights)
        for sign in (1, -1)
    )
    slope = (ahead - behind) / (2 * step)
    if not math.isnan(slope):
        scale = 1 + np.abs(grad).sum() + abs(ahead) / logits.size
        assert slope == pytest.approx(np.vdot(grad, direction), rel=1e-6, abs=1e-7 * scale)


@pytest.mark.parametrize("name", ["cross_entropy", "categorical_cross_entropy"])
@pytest.mark.parametrize("shape", [(100_000, 2), (7, 3, 50), (3, 70_000)])
def test_sums_are_those_of_the_rows(name, shape):
    """In float64 for float32 too: they lose no more than the rows do, however many there are."""
    p = Problem(shape)
    function = getattr(xent, name)
    x = p.logits if name == "cross_entropy" else xent.softmax(p.logits)
    weight = p.weights["sample_weight"]
    rows = function(x, p.target, sample_weight=weight, reduction="none")
    total = math.fsum(rows.ravel())
    assert function(x, p.target, sample_weight=weight, reduction="sum") == pytest.approx(total, rel=3e-16)
    assert function(x, p.target, sample_weight=weight) == pytest.approx(total / weight.sum(), rel=5e-16)
    single = function(x.astype(np.float32), p.target, sample_weight=weight, reduction="sum")
    assert single == pytest.approx(total, rel=1e-6)
