"""cross_entropy against the twin: lengths, layouts, axes, types, weights, and what each option means."""

import math

import numpy as np
import pytest
import reference
from hypothesis import given
from hypothesis import strategies as st
from loss_problems import (
    ALL,
    INF,
    INTEGERS,
    NAN,
    NUMBERS,
    REDUCTIONS,
    SHAPES,
    TWO,
    WEIGHTS,
    Problem,
    assert_same,
    both,
    check,
    each_dtype,
    each_kind,
    each_option_set,
)
from reference import DTYPES, EDGE_LENGTHS, LAYOUTS, SHORT_LENGTHS, arrays, guarded, rows_with_every_maximum

import xent

each_number = pytest.mark.parametrize("options", [{}, *({k: v} for k, v in NUMBERS.items()), NUMBERS], ids=str)


def make_rows(n=7, rows=5, dtype=np.float64):
    rng = np.random.default_rng(0)
    return rng.normal(size=(rows, n), scale=4).astype(dtype), rng.integers(n, size=rows), rng


# --- sweeps ----------------------------------------------------------------------------------------------------------


@each_dtype
@each_kind
@each_option_set
def test_row_lengths(names, kind, dtype):
    """Labels at the maximum, before and after it, in the same vector and in others; rows and columns."""
    body_and_tail = range(1, 2 * 64 // np.dtype(dtype).itemsize + 2)
    for n in body_and_tail if len(names) == 1 else (*SHORT_LENGTHS, *EDGE_LENGTHS):
        x = rows_with_every_maximum(n, dtype)
        for shift in (n // 3,) if names else (0, 1, -1, n // 2) if n < 40 else (0, n // 2):
            labels = (x.argmax(axis=1) + shift) % n
            p = Problem(x, kind, labels=labels, seed=n)
            check(x, p.target, ["none"], **p.select(names))
            if n < 18 and shift in (0, 1):
                p = Problem(x.T.copy(), kind, axis=0, labels=labels, seed=n)
                check(p.logits, p.target, ["none"], **p.select(names))


@each_dtype
@each_kind
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_and_axes(layout, kind, dtype):
    """Of every operand; none of them changes."""
    for shape in SHAPES:
        for axis in range(-len(shape) if layout == "C" else 0, len(shape)):
            p = Problem(shape, kind, dtype, axis)
            moved = p.with_operands(LAYOUTS[layout])
            check(moved.logits, moved.target, TWO, **moved.select(ALL if axis % 2 else WEIGHTS))
            for name, array in p.operands().items():
                np.testing.assert_array_equal(moved.operands()[name], array)


@each_dtype
@each_kind
@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0, 0), (2, 0, 3), (2, 3, 0), (0,)])
def test_empty_shapes(shape, kind, dtype):
    for axis in range(len(shape)):
        if kind in ("labels", "sparse") and shape[axis] == 0 and 0 not in np.delete(shape, axis):
            continue    # a label needs a class
        p = Problem(shape, kind, dtype, axis)
        check(p.logits, p.target, **p.select(WEIGHTS))
        loss, grad = xent.cross_entropy(p.logits, p.target, grad_out=np.zeros(shape, dtype), **p.select(()))
        assert math.isnan(loss)
        assert grad.shape == shape


def test_no_rows_and_no_points():
    assert math.isnan(xent.cross_entropy(np.zeros((0, 3)), []))
    assert xent.cross_entropy(np.zeros((0, 3)), [], reduction="sum") == 0
    x, _, _ = make_rows()
    check(x, (np.zeros((5, 0), int), np.zeros((5, 0))), **NUMBERS)


@each_dtype
@each_kind
def test_broadcast_operands(kind, dtype):
    p = Problem((1, 5), kind, dtype)
    p = p.with_rows(lambda a: np.broadcast_to(a, (4, *a.shape[1:])))
    check(p.logits, p.target, **p.select())
    check(np.broadcast_to(p.logits[:, :1], (4, 5)), p.target, **p.select(()))
    p = Problem((3, 4, 5), kind, dtype, ignored=None)
    for axis in (-1, 1):
        q = Problem(np.moveaxis(p.logits, -1, axis), kind, axis=axis, labels=p.labels, ignored=None)
        for shape in ((), (1,), (4,), (3, 1), (3, 4)):
            check(q.logits, q.target, axis=axis, sample_weight=np.random.default_rng(1).integers(1, 5, shape) / 4)
        for shape in ((), (5,), (4, 1), (3, 1, 5)):
            mask = np.asarray(np.random.default_rng(1).random(shape) < 0.7)
            where = np.moveaxis(np.broadcast_to(mask, (3, 4, 5)), -1, axis)
            for move in LAYOUTS.values():
                expected = both(q.logits, q.target, axis=axis, where=where.copy(), label_smoothing=0.1)
                broadcast = move(mask) if axis == -1 else move(where)
                assert_same(both(q.logits, q.target, axis=axis, where=broadcast, label_smoothing=0.1), expected)


@each_dtype
@pytest.mark.parametrize("kind", INTEGERS)
def test_integer_types(kind, dtype):
    """Of labels, one-hot rows, indices and masses."""
    p = Problem((6, 4), "sparse", dtype)
    one_hot, indices = np.eye(4, dtype=kind)[np.maximum(p.labels, 0)], np.where(p.target[0] < 0, 0, p.target[0])
    for move in LAYOUTS.values():
        for target in (np.maximum(p.labels, 0).astype(kind), one_hot, (indices.astype(kind), p.target[1])):
            target = tuple(map(move, target)) if isinstance(target, tuple) else move(target)
            check(p.logits, target, ["mean"], **p.select(WEIGHTS))
    check(p.logits, (indices, (4 * p.target[1]).astype(kind)), TWO)


@pytest.mark.parametrize("kind", INTEGERS)
def test_integer_logits_become_float64(kind):
    check(np.array([[3, 100, 7], [1, 2, 3]], kind), [1, 0])


@each_dtype
@each_kind
def test_mixed_types(kind, dtype):
    """Targets and weights of the other float type, and integer weights."""
    other = np.float32 if dtype is np.float64 else np.float64
    p = Problem((6, 5), kind, dtype)
    cast = {"labels": lambda t: t, "sparse": lambda t: (t[0], t[1].astype(other))}.get(kind, lambda t: t.astype(other))
    for weight in (other, ">f4", "i4", "u1"):
        weights = {name: (2 * p.options[name]).astype(weight) for name in WEIGHTS}
        check(p.logits, cast(p.target), **p.select(()), **weights)


@each_kind
def test_lists_and_scalars(kind):
    for shape in ((2, 3, 4), (4,)):
        p = Problem(shape, kind)
        target = tuple(t.tolist() for t in p.target) if kind == "sparse" else p.target.tolist()
        check(p.logits.tolist(), target, **p.select(()), **{name: p.options[name].tolist() for name in WEIGHTS})
    check(tuple(p.logits), target, class_weight=[1, 2, 0, 1], sample_weight=3, **p.select(()))
    for label in (2, np.uint8(2), np.array(2, ">i4")):
        check([0.5, 1.0, -3.0], label)
    loss = xent.cross_entropy(np.ones(3, np.float32), 1, reduction="none")
    assert type(loss) is np.float32
    assert loss == np.float32(np.log(3))


# --- weights and ignored rows ----------------------------------------------------------------------------------------


@each_dtype
@pytest.mark.parametrize("ignored", [-100, -1, 0, 2, 255])
def test_ignored_labels(ignored, dtype):
    for axis in (-1, 0):
        p = Problem((4, 5, 3) if axis else (3, 4, 5), "labels", dtype, axis, ignored=ignored)
        labels = p.labels.astype(np.int16)
        labels[1] = labels[3, 2] = ignored
        for names in ((), WEIGHTS):
            check(p.logits, labels, **p.select(names))
        clean = both(p.logits, labels, **p.select(()))
        np.moveaxis(p.logits, axis, -1)[labels == ignored] = NAN
        dirty = both(p.logits, labels, **p.select(()))
        assert_same(clean, dirty)
        assert (dirty[0][labels == ignored] == 0).all()
        assert (np.moveaxis(dirty[1], axis, -1)[labels == ignored] == 0).all()


@pytest.mark.parametrize("kind", ["one-hot", "distribution"])
def test_an_ignored_class_is_none_of_a_distribution(kind):
    p = Problem((6, 4), kind)
    check(p.logits, p.target, ignore_index=2)


@pytest.mark.parametrize("ignored", [2**63 - 1, -(2**63), 2**63, 2**64 - 1, 2**70, -(2**70)])
def test_any_integer_can_be_ignored(ignored):
    """Whether the dtype of the labels can hold it or not."""
    logits = np.zeros((3, 4))
    assert xent.cross_entropy(logits, [0, 1, 2], ignore_index=ignored) == pytest.approx(np.log(4))
    if -(2**63) <= ignored < 2**64:
        labels = np.array([1, ignored, 3], np.int64 if ignored < 2**63 else np.uint64)
        loss = xent.cross_entropy(logits, labels, ignore_index=ignored, reduction="none")
        np.testing.assert_allclose(loss, [np.log(4), 0, np.log(4)])


@each_dtype
@each_kind
@pytest.mark.parametrize("n", [1, 2, 7, 8, 33])
def test_zero_sample_weight_hides_everything(n, kind, dtype):
    p = Problem((6, n), kind, dtype, ignored=None)
    for hidden in (NAN, INF, -INF):
        p.logits[1::2] = hidden
        grad = check(p.logits, p.target, sample_weight=[2, 0, 1, 0, 0.5, 0])
        assert (grad[1::2] == 0).all()
    if kind != "labels":
        (p.target[1] if kind == "sparse" else p.target)[1::2] = NAN
        check(p.logits, p.target, sample_weight=[2, 0, 1, 0, 0.5, 0])


@each_dtype
@each_kind
@each_number
def test_no_weight_at_all(options, kind, dtype):
    """The mean is nan and the gradient 0, without a warning."""
    p = Problem((3, 4), kind, dtype, ignored=None)
    q = Problem(np.full((3, 4), NAN, dtype), kind, ignored=None)
    cases = [(q, {"sample_weight": 0}), (q, {"sample_weight": [0, 0, 0], "class_weight": [0] * 4})]
    cases.append((p, {"class_weight": np.zeros(4)}))
    if kind == "labels":
        q = Problem(q.logits, labels=np.ones(3, int), ignored=None)
        cases.append((q, {"ignore_index": 1}))
    for problem, weights in cases:
        loss, grad = both(problem.logits, problem.target, "mean", **weights, **options)
        assert math.isnan(loss)
        assert (grad == 0).all()
        if "class_weight" not in weights or "z_loss" not in options:    # which has no class weight
            assert xent.cross_entropy(problem.logits, problem.target, reduction="sum", **weights, **options) == 0


@pytest.mark.parametrize("name", ["cross_entropy", "binary_cross_entropy_with_logits"])
def test_weights_of_every_size_raise_no_floating_point_errors(name):
    weights = {"sample_weight": np.array([[1e308], [1e-308]]) if name[0] == "b" else np.array([1e308, 1e-308])}
    if name == "cross_entropy":
        weights["class_weight"] = [1e300, 1e-300]
    with np.errstate(all="raise"):
        loss, _ = getattr(xent, name)(np.zeros((2, 2)), np.eye(2), return_grad=True, **weights)
    assert loss == pytest.approx(np.log(2))


@pytest.mark.parametrize("reduction", ["sum", "none"])
def test_weights_that_float32_cannot_hold(reduction):
    """A gradient fits if the weight times the probability does, and it is 0 where the probability is."""
    logits = np.array([[0, -80, -INF, -60]], np.float32)
    for target in ([0], [3], np.eye(4, dtype=np.float32)[[0]], np.array([[0.5, 0, 0, 0.5]], np.float32)):
        for weight in (1e39, 1e50, 1e-50):
            options = {"sample_weight": weight, "reduction": reduction}
            _, grad = xent.cross_entropy(logits, target, return_grad=True, **options)
            _, exact = reference.cross_entropy(logits, target, **options)
            with np.errstate(over="ignore"):
                np.testing.assert_allclose(grad, exact.astype(np.float32), rtol=1e-6)


@pytest.mark.parametrize("kind", ["labels", "one-hot"])
@pytest.mark.parametrize("shape", [(2, 4), (2, 70_000), (70_000, 2)])
def test_infinite_sums(shape, kind):
    """Each loss fits, their sum does not, in one block of work or in many."""
    logits = np.zeros(shape)
    logits[:, 0] = 1.7e308
    p = Problem(logits, kind, labels=np.ones(len(logits), np.int64), ignored=None)
    assert xent.cross_entropy(logits, p.target, reduction="sum") == INF
    assert xent.cross_entropy(logits, p.target) == INF
    assert (xent.cross_entropy(logits, p.target, reduction="none") == 1.7e308).all()
    assert xent.cross_entropy(np.zeros(shape), p.target, sample_weight=1.7e308, reduction="sum") == INF


@pytest.mark.parametrize("name", ["cross_entropy", "categorical_cross_entropy"])
@pytest.mark.parametrize("shape", [(100_000, 2), (7, 3, 50), (3, 70_000)])
def test_sums_are_those_of_the_rows(name, shape):
    """In float64 for float32 too: however many rows there are, the sum is no less accurate than they are."""
    p = Problem(shape, ignored=None)
    function = getattr(xent, name)
    x = p.logits if name == "cross_entropy" else xent.softmax(p.logits)
    weight = p.options["sample_weight"]
    total = math.fsum(function(x, p.target, sample_weight=weight, reduction="none").ravel())
    assert function(x, p.target, sample_weight=weight, reduction="sum") == pytest.approx(total, rel=3e-16)
    assert function(x, p.target, sample_weight=weight) == pytest.approx(total / weight.sum(), rel=5e-16)
    single = function(x.astype(np.float32), p.target, sample_weight=weight, reduction="sum")
    assert single == pytest.approx(total, rel=1e-6)


# --- options, one by one ---------------------------------------------------------------------------------------------


@each_dtype
def test_defaults_cost_no_bit(dtype):
    x, y, _ = make_rows(dtype=dtype)
    neutral = {"label_smoothing": 0, "logit_scale": 1, "softcap": None, "z_loss": 0, "where": True}
    assert_same(both(x, y, **neutral), both(x, y))
    assert_same(both(x, y, where=np.ones(x.shape, bool)), both(x, y))


@each_dtype
def test_smoothing_is_a_distribution(dtype):
    """(1 - e) t + e / C, whose mass is that of the target; class weights multiply it."""
    x, y, rng = make_rows(8, dtype=dtype)
    w = rng.integers(1, 5, 8) / 4
    smooth = 0.75 * np.eye(8, dtype=dtype)[y] + dtype(0.25 / 8)
    for target in (y, np.eye(8, dtype=dtype)[y], (y[:, None], np.ones((5, 1)))):
        for weights in ({}, {"class_weight": w}):
            loss, grad = both(x, target, label_smoothing=0.25, **weights)
            np.testing.assert_allclose(loss, both(x, smooth, **weights)[0], rtol=4 * np.finfo(dtype).eps)
            np.testing.assert_allclose(grad, both(x, smooth, **weights)[1], atol=4 * np.finfo(dtype).eps)
    # The mean divides by the mass before smoothing, as in PyTorch.
    total = xent.cross_entropy(x, y, label_smoothing=0.25, class_weight=w, reduction="sum")
    assert xent.cross_entropy(x, y, label_smoothing=0.25, class_weight=w) == pytest.approx(total / w[y].sum())


@pytest.mark.parametrize("n", [12, 40, 1000])
def test_smoothing_of_logits_that_stand_for_a_mask(n):
    """The sum of their distances does not fit a float32, but the loss does."""
    x = np.full((1, n), np.finfo(np.float32).min, np.float32)
    x[0, :3] = 1, 2, 3
    for options in ({}, {"class_weight": np.ones(n)}):
        loss = both(x, [1], label_smoothing=0.1, **options)[0][0]
        assert loss == pytest.approx(0.1 * (n - 3) / n * 3.4028235e38, rel=1e-6)


@pytest.mark.parametrize("n", [2, 8, 71])
def test_distances_that_only_float64_holds(n):
    x = np.full((1, n), -3e38, np.float32)
    x[0, 0] = 3e38
    assert xent.cross_entropy(x, [1]) == pytest.approx(6e38, rel=1e-6)
    assert both(x, [1], sample_weight=[1e-10])[0][0] == pytest.approx(6e28, rel=1e-6)


def test_smoothing_of_one_forgets_the_target():
    x, y, _ = make_rows()
    x[:, 0] = -30
    assert_same(both(x, y, label_smoothing=1), both(x, (y + 1) % 7, label_smoothing=1))
    x[0, y[0]] = -INF
    assert both(x, y, label_smoothing=1)[0][0] == INF     # this class has its share of the smoothing
    where = np.ones(x.shape, bool)
    where[0, y[0]] = False
    assert np.isfinite(both(x, y, label_smoothing=1, where=where)[0]).all()


@each_dtype
@each_number
def test_a_masked_class_is_a_logit_of_minus_infinity(options, dtype):
    x, y, rng = make_rows(9, dtype=dtype)
    where = rng.random(x.shape) < 0.6
    where[range(5), y] = True
    if "label_smoothing" not in options:    # which puts mass on a logit of -inf, but not on a masked class
        assert_same(both(x, y, where=where, **options), both(np.where(where, x, dtype(-INF)), y, **options))
    for hidden in (NAN, INF, -INF, 1e30):
        dirty = np.where(where, x, dtype(hidden))
        assert_same(both(dirty, y, where=where, **options), both(x, y, where=where, **options))
    _, grad = both(x, y, where=where, **options)
    assert (grad[~where] == 0).all()


def test_all_classes_masked():
    x, y, _ = make_rows()
    where = np.ones(x.shape, bool)
    where[1] = False
    for options in ({}, NUMBERS):
        loss, grad = both(x, y, where=where, **options)
        assert np.isnan(loss[1])
        assert np.isnan(grad[1]).all()
        assert np.isfinite(np.delete(loss, 1)).all()
        assert np.isfinite(np.delete(grad, 1, 0)).all()


@each_dtype
def test_mass_on_a_class_that_cannot_happen(dtype):
    """The loss is inf, the gradient T p - t as everywhere."""
    x = np.array([[0, 0, -INF], [0, 0, -INF], [0, 0, -INF]], dtype)
    t = np.array([[0, 0, 1], [0.5, 0, 0.5], [1, 1, 2]], dtype)
    masked = both([[0.0, 0.0, 5.0]] * 3, t, where=[True, True, False])
    for loss, grad in (both(x, t), masked):
        np.testing.assert_array_equal(loss, INF)
        np.testing.assert_array_equal(grad, [[0.5, 0.5, -1], [0, 0.5, -0.5], [1, 1, -2]])
    for result in both(x, [2, 2, 2], class_weight=[1, 1, 0]):
        np.testing.assert_array_equal(result, 0)
    assert xent.cross_entropy(x, t) == INF
    assert xent.cross_entropy(x, t, reduction="sum") == INF


@each_dtype
@pytest.mark.parametrize("scale", [0.5, 4, -1, 0])
def test_scale(scale, dtype):
    """An exact factor gives the loss of the product, but a logit of -inf stays one."""
    x, y, _ = make_rows(dtype=dtype)
    loss, grad = both(x, y, logit_scale=scale)
    scaled_loss, scaled_grad = both(x * dtype(scale), y)
    eps = np.finfo(dtype).eps
    np.testing.assert_allclose(loss, scaled_loss, rtol=4 * eps)
    np.testing.assert_allclose(grad, dtype(scale) * scaled_grad, rtol=4 * eps)
    x[:, 3] = -INF
    y[:] = 1
    loss, grad = both(x, y, logit_scale=scale)
    assert np.isfinite(loss).all()
    assert (grad[:, 3] == 0).all()


@each_dtype
def test_softcap(dtype):
    x, y, _ = make_rows(dtype=dtype)
    x[0] *= 1000
    for cap in (1e-3, 1, 30, 1e6):
        check(x, y, softcap=cap, logit_scale=0.5)
    _, grad = both(x, y, softcap=1e-3)
    assert (grad[0] == 0).all()         # saturated
    x[1, :2] = -INF, INF                # a class that cannot happen, and one at the cap
    y[1] = 1
    check(x, y, softcap=30)
    # A cap far above the logits changes nothing.
    eps = np.finfo(dtype).eps
    np.testing.assert_allclose(both(x[2:], y[2:], softcap=1e12)[0], both(x[2:], y[2:])[0], rtol=8 * eps, atol=8 * eps)


@each_dtype
@pytest.mark.parametrize("scale", [1e39, -1e300, 1e-39, 1e-300, 5e-324])
@pytest.mark.parametrize("cap", [None, 1e300, 1e39, 1e-39, 1e-300, 5e-324, 2.0])
@reference.quiet
def test_scales_and_caps_that_float32_cannot_hold(cap, scale, dtype):
    x = np.array([[0, 0, 0], [1, -1, 0], [1e-3, 1e-4, -INF], [0, NAN, 0]], dtype)
    options = {"logit_scale": scale, "softcap": cap}
    loss, grad = both(x, [0, 2, 1, 0], **options)
    exact_loss, exact_grad = reference.cross_entropy(x, [0, 2, 1, 0], reduction="none", **options)
    z, _ = reference.transform(x.astype(reference.EXTENDED), reference.EXTENDED(scale), cap)
    held = (np.abs(z) <= np.finfo(dtype).max) | (z == -INF)     # logits that fit the type
    fits = (held | np.isnan(z)).all(-1)
    assert fits[[0, 3]].all()
    np.testing.assert_allclose(loss[fits], exact_loss[fits].astype(dtype), rtol=1e-5)
    if abs(scale) < np.finfo(dtype).max:    # else the gradient overflows before a saturated cap makes it 0
        exact_grad = exact_grad[fits].astype(dtype)
        np.testing.assert_allclose(grad[fits], exact_grad, rtol=1e-5, atol=1e-7 * (1 + abs(scale)))


@each_dtype
def test_poly_epsilon(dtype):
    """The loss of optax.losses.poly_loss_cross_entropy: epsilon times the mass that is not predicted."""
    x, y, rng = make_rows(dtype=dtype)
    t = rng.dirichlet(np.ones(7), 5)
    p = xent.softmax(x.astype(float))
    for target, dense in ((y, np.eye(7)[y]), (t, t), ((np.array([[0, 3]] * 5), np.full((5, 2), 0.25)), None)):
        dense = np.array([0.25, 0, 0, 0.25, 0, 0, 0]) if dense is None else dense
        loss, grad = both(x, target, poly_epsilon=-0.5)
        plain, plain_grad = both(x, target)
        predicted = (dense * p).sum(-1, keepdims=True)
        np.testing.assert_allclose(loss, plain - 0.5 * (dense * (1 - p)).sum(-1), rtol=1e-5)
        np.testing.assert_allclose(grad, plain_grad - 0.5 * p * (predicted - dense), rtol=1e-4, atol=1e-6)
        check(x, target, poly_epsilon=2)
    confident = np.array([[60, 0, 0]], dtype)
    assert xent.cross_entropy(confident, [0], poly_epsilon=1) == pytest.approx(4 * math.exp(-60), rel=1e-6)


@each_dtype
@pytest.mark.parametrize("gamma", [0.5, 2, 5.5])
def test_focal_gamma(gamma, dtype):
    """(1 - p_y)^gamma times the loss, for labels, one-hot rows and sparse targets of one class."""
    x, y, _ = make_rows(dtype=dtype)
    y[1] = -100
    hot = (y[:, None] == np.arange(7)).astype(dtype)
    sparse = np.stack([y, np.full(5, -100), y], 1), np.array([[0.25, 9, 0.75]] * 5)
    plain = xent.cross_entropy(x.astype(float), y, reduction="none")
    p = xent.softmax(x.astype(float))[range(5), np.maximum(y, 0)]
    for target in (y, hot, sparse):
        for options in ({}, {"poly_epsilon": 1.5, "logit_scale": 0.75, "softcap": 9.0}):
            check(x, target, focal_gamma=gamma, **options)
        loss, grad = both(x, target, focal_gamma=gamma)
        np.testing.assert_allclose(loss, (1 - p) ** gamma * plain, rtol=1e-5)
        assert (grad[1] == 0).all()
    alone, grad = both(np.array([[3, -np.inf]], dtype), [0], focal_gamma=gamma)     # nothing to learn
    assert (alone == 0).all()
    assert (grad == 0).all()
    never, grad = both(np.array([[-np.inf, 3, 3]], dtype), [0], focal_gamma=gamma)
    assert never == np.inf
    np.testing.assert_array_equal(grad, [[-1, 0.5, 0.5]])


@pytest.mark.parametrize(("target", "options", "message"), [
    ([[0.5, 0.5, 0]], {}, r"target\[0\] has mass on several classes"),
    (([[0, 1]], [[0.5, 0.5]]), {}, r"target\[0\] has mass on several classes"),
    ([1], {"label_smoothing": 0.1}, "label_smoothing is 0.1 and focal_gamma 2.0"),
    ([1], {"z_loss": 0.1}, "z_loss is 0.1 and focal_gamma 2.0"),
])
def test_focal_gamma_of_several_classes(target, options, message):
    target = target if isinstance(target, tuple) else np.array(target)
    with pytest.raises(ValueError, match=message):
        xent.cross_entropy([[1.0, 2.0, 3.0]], target, focal_gamma=2.0, **options)


@each_dtype
def test_z_loss(dtype):
    """The sample weight multiplies it, class weights do not; ignored rows have none."""
    x, y, rng = make_rows(dtype=dtype)
    y[1] = -100
    s, w = rng.random(5), rng.random(7)
    s[2] = 0
    plain, plain_grad = both(x, y, sample_weight=s, class_weight=w)
    loss, grad = both(x, y, sample_weight=s, class_weight=w, z_loss=0.5)
    lse = xent.logsumexp(x.astype(float))
    extra = np.where(y == -100, 0, s * 0.5 * lse**2)
    np.testing.assert_allclose(loss, plain + extra, rtol=1e-6)
    extra = np.where(y == -100, 0, s * lse)[:, None] * xent.softmax(x.astype(float))
    np.testing.assert_allclose(grad, plain_grad + extra, rtol=1e-5, atol=1e-7)
    assert (loss[[1, 2]] == 0).all()
    check(x, y, sample_weight=s, class_weight=w * 1e-3, z_loss=0.5)
    check(x, y, sample_weight=s, class_weight=w * 1e3, z_loss=0.5)


# --- targets that say the same ---------------------------------------------------------------------------------------


@each_dtype
@each_number
def test_all_mass_on_one_class_is_a_label(options, dtype):
    """To the last bit: one-hot rows, and sparse rows with one point, the same point twice, or padding."""
    for n in (7,) if options else SHORT_LENGTHS:
        p = Problem((5, n), "labels", dtype, ignored=None)
        y, eye = p.labels, np.eye(n, dtype=dtype)
        y[3] = -100
        twice = np.stack([y, y], 1), np.full((5, 2), 0.5)
        padded = np.stack([y, np.full(5, -100)], 1), np.array([[1, NAN]] * 5)
        for names in ((), WEIGHTS):
            given = {**p.select(names), **options}
            for reduction in REDUCTIONS:
                expected = both(p.logits, y, reduction, **given)
                for target in ((y[:, None], np.ones((5, 1), dtype)), twice, padded):
                    assert_same(both(p.logits, target, reduction, **given), expected)
                rows = np.delete(np.arange(5), 3)
                given_rows = {**given, **({"sample_weight": p.options["sample_weight"][rows]} if names else {})}
                expected = both(p.logits[rows], y[rows], reduction, **given_rows)
                for target in (eye[y[rows]], np.eye(n, dtype=np.int8)[y[rows]]):
                    assert_same(both(p.logits[rows], target, reduction, **given_rows), expected)


@each_dtype
@each_number
def test_all_classes_of_a_sparse_distribution(options, dtype):
    x, _, rng = make_rows(dtype=dtype)
    t = rng.dirichlet(np.ones(7), 5).astype(dtype)
    order = rng.permuted(np.tile(np.arange(7), (5, 1)), axis=1)
    weights = {"class_weight": rng.random(7), "sample_weight": rng.random(5)}
    sparse = both(x, (order, np.take_along_axis(t, order, 1)), **weights, **options)
    for a, b in zip(sparse, both(x, t, **weights, **options), strict=True):
        np.testing.assert_allclose(a, b, rtol=8 * np.finfo(dtype).eps, atol=4 * np.finfo(dtype).eps)


def test_sparse_padding():
    """It counts nothing; a row of nothing else is ignored, as a label would be."""
    x = np.array([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0], [NAN, NAN, NAN]])
    indices = np.array([[0, 1, -100], [1, -100, 0], [-100] * 3])
    target = indices, np.array([[0.5, 0.5, 7], [0.5, 7, 0.5], [1, 1, 1]])
    for options in ({}, NUMBERS):
        loss, grad = both(x, target, **options)
        assert loss[0] == loss[1]
        assert loss[2] == 0
        assert (grad[2] == 0).all()
        check(x, target, **options)
    check(x[:2], (np.array([[0, 2], [2, 1]]), np.ones((2, 2))), ignore_index=2)


@each_dtype
def test_repeated_classes_of_sparse_rows_add_up(dtype):
    rng = np.random.default_rng(2)
    for n, k in ((5, 1), (5, 40), (1000, 3), (1000, 700), (150_001, 64)):
        x = rng.normal(size=(3, n)).astype(dtype)
        indices, masses = rng.integers(0, min(n, 50), (3, k)) * (n // min(n, 50)), rng.random((3, k))
        dense = np.zeros((3, n))
        np.add.at(dense, (np.arange(3)[:, None], indices), masses)
        eps = np.finfo(dtype).eps
        for a, b in zip(both(x, (indices, masses)), both(x, dense), strict=True):
            np.testing.assert_allclose(a, b, rtol=64 * eps, atol=64 * eps)


@each_dtype
def test_target_with_one_nan(dtype):
    """It has one mass that is not 0, but is no one-hot row: its row is NaN, and nothing else is touched."""
    for n in SHORT_LENGTHS:
        for place in {0, n // 2, n - 1}:
            target = np.zeros((3, n), dtype)
            target[1, place] = NAN
            target[[0, 2], 0] = 1
            logits, intact = guarded(np.zeros((3, n), dtype))
            loss, grad = xent.cross_entropy(logits, target, reduction="none", grad_out=logits)
            assert np.isnan(loss[1])
            assert np.isnan(grad[1]).all()
            np.testing.assert_allclose(loss[[0, 2]], np.log(n), rtol=1e-6, atol=0)
            np.testing.assert_allclose(grad[[0, 2]], np.full((2, n), 1 / n) - target[0], rtol=1e-6, atol=1e-7)
            intact()


@each_dtype
def test_targets_that_are_no_distributions(dtype):
    """They are neither checked nor normalised: negative, of any sum, all 0."""
    x, _, _ = make_rows(6, 4, dtype)
    t = np.array([[1, -1, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0], [3, 0, 0, 2, 0, 0], [0, 0, -2, 0, 0, 0]], dtype)
    check(x, t)
    check(x, t, class_weight=[1, 2, 3, 0, 1, 1], sample_weight=[1, 2, 3, 4])
    loss, grad = both(x, t)
    assert loss[1] == 0
    assert (grad[1] == 0).all()


# --- other functions that say the same -------------------------------------------------------------------------------


@each_dtype
def test_loss_is_minus_log_softmax_at_the_label(dtype):
    for n in SHORT_LENGTHS:
        x, y, _ = make_rows(n, dtype=dtype)
        log_p = np.take_along_axis(xent.log_softmax(x), y[:, None], 1)[:, 0]
        np.testing.assert_allclose(
            xent.cross_entropy(x, y, reduction="none"), -log_p, rtol=6 * np.finfo(dtype).eps
        )


@each_dtype
@each_kind
def test_categorical_cross_entropy_of_the_softmax_is_cross_entropy(kind, dtype):
    for shape in SHAPES[1:]:
        for axis in range(len(shape)):
            p = Problem(shape, kind, dtype, axis, ignored=None)
            target = (np.maximum(p.target[0], 0), p.target[1]) if kind == "sparse" else p.target
            for reduction in REDUCTIONS:
                options = {"axis": axis, "reduction": reduction, "sample_weight": p.options["sample_weight"]}
                np.testing.assert_allclose(
                    xent.categorical_cross_entropy(xent.softmax(p.logits, axis), target, **options),
                    xent.cross_entropy(p.logits, target, **options),
                    rtol=20 * np.finfo(dtype).eps,
                    atol=20 * np.finfo(dtype).eps,
                )


# --- properties of any problem ---------------------------------------------------------------------------------------


class Any:
    """A random problem: logits, a target of any kind and a random choice of options."""

    def __init__(self, rng):
        dims = rng.integers(1, 4)
        shape = tuple(int(n) for n in rng.integers(1, 24, dims))
        self.axis = int(rng.integers(-dims, dims))
        n, rows = shape[self.axis], tuple(np.delete(shape, self.axis))
        dtype = DTYPES[rng.integers(2)]
        self.logits = rng.normal(size=shape, scale=rng.choice([0.01, 1, 10, 30])).astype(dtype)
        if rng.random() < 0.2:
            self.logits[rng.random(shape) < 0.1] = -INF
        labels = np.where(rng.random(rows) < rng.choice([0, 0.3]), -100, rng.integers(n, size=rows))
        distribution = np.moveaxis(rng.dirichlet(np.ones(n), rows), -1, self.axis).astype(dtype)
        one_hot = np.moveaxis((labels[..., None] == np.arange(n)), -1, self.axis).astype(dtype)
        indices = rng.integers(n, size=(*rows, rng.integers(0, 5)))
        indices = np.where(rng.random(indices.shape) < 0.2, -100, indices)
        sparse = indices, rng.random(indices.shape)
        self.target = (labels, distribution, one_hot, sparse)[rng.integers(4)]
        choices = {
            "class_weight": rng.integers(0, 5, n) / 2,
            "sample_weight": np.asarray(rng.integers(0, 4, rows) / 2),
            "label_smoothing": float(rng.choice([0.1, 0.5, 1, rng.random()])),
            "logit_scale": float(rng.choice([0.5, 2.7, -1, 0, 1e-3])),
            "softcap": float(rng.choice([30, 50, 1, 0.1, 1e4])),
            "z_loss": float(rng.choice([1e-4, 0.3])),
            "where": np.asarray(rng.random(np.where(rng.random(dims) < 0.2, 1, shape)) < 0.8),
        }
        self.options = {"axis": self.axis, **{name: v for name, v in choices.items() if rng.random() < 0.4}}


@given(seed=st.integers(0, 2**32))
def test_any_combination(seed):
    rng = np.random.default_rng(seed)
    for _ in range(10):
        p = Any(rng)
        eps = np.finfo(p.logits.dtype).eps
        for reduction in REDUCTIONS:
            loss, grad = both(p.logits, p.target, reduction, **p.options)
            exact_loss, exact_grad = reference.cross_entropy(p.logits, p.target, reduction=reduction, **p.options)
            np.testing.assert_allclose(np.asarray(loss, reference.EXTENDED), exact_loss, rtol=16 * eps, atol=16 * eps)
            np.testing.assert_allclose(grad.astype(reference.EXTENDED), exact_grad, rtol=32 * eps, atol=32 * eps)
            inside = p.logits.copy()
            again = xent.cross_entropy(inside, p.target, grad_out=inside, reduction=reduction, **p.options)
            assert_same(again, (loss, grad))


@given(seed=st.integers(0, 2**32), reduction=st.sampled_from(["mean", "sum"]))
def test_gradient_by_finite_differences(seed, reduction):
    rng = np.random.default_rng(seed)
    p = Any(rng)
    x = np.clip(np.where(np.isfinite(p.logits), p.logits, 0), -40, 40).astype(np.float64)
    if p.options.get("softcap", 1) < 1:
        p.options["softcap"] = 1.0      # smooth enough for a difference
    direction = rng.normal(size=x.shape)
    loss, grad = both(x, p.target, reduction, **p.options)
    if np.isfinite(loss):
        step = 1e-5
        ahead, behind = (
            xent.cross_entropy(x + sign * step * direction, p.target, reduction=reduction, **p.options)
            for sign in (1, -1)
        )
        scale = 1 + np.abs(grad).sum() + abs(loss)
        assert (ahead - behind) / (2 * step) == pytest.approx(np.vdot(grad, direction), rel=1e-5, abs=1e-6 * scale)


@st.composite
def problems(draw, dtypes=DTYPES, scales=(1e-3, 1, 10)):
    """Logits, a target of any kind that is no sparse one, and weights, or none."""
    logits = draw(arrays(dtypes, 2, scales))
    kind = draw(st.sampled_from(["labels", "one-hot", "distribution"]))
    p = Problem(logits, kind, seed=draw(st.integers(0, 1000)), ignored=None)
    return logits, p.target, {name: p.options[name] for name in WEIGHTS if draw(st.booleans())}


@given(problem=problems([np.float64]), shift=st.integers(-1000, 1000), data=st.data())
def test_shift_and_order_of_the_classes(problem, shift, data):
    logits, target, weights = problem
    logits = np.rint(logits * 1024) / 1024      # adding an integer is exact then
    order = np.array(data.draw(st.permutations(range(logits.shape[-1]))))
    loss, grad = both(logits, target, **weights)
    moved_target = target[..., order] if target.ndim == logits.ndim else np.argsort(order)[target]
    if "class_weight" in weights:
        weights["class_weight"] = weights["class_weight"][order]
    moved_loss, moved_grad = both(logits[..., order] + shift, moved_target, **weights)
    np.testing.assert_allclose(moved_loss, loss, rtol=1e-14, atol=1e-15)
    np.testing.assert_allclose(moved_grad, grad[..., order], rtol=1e-14, atol=1e-15)


@given(problem=problems())
def test_gradients_of_a_row_sum_to_0(problem):
    logits, target, weights = problem
    _, grad = both(logits, target, **weights)
    size = np.abs(grad).sum(axis=-1, dtype=np.float64)
    if target.shape == logits.shape:    # T p - t may cancel
        t, s = reference.masses(logits, target, -1, weights.get("sample_weight"), None)
        size = size + s * (t * weights.get("class_weight", 1)).sum(axis=-1)
    rows = grad.sum(axis=-1, dtype=np.float64)
    assert (np.abs(rows) <= 16 * np.finfo(grad.dtype).eps * size).all()


@given(problem=problems(scales=(1, 5)))
def test_weights_are_multipliers(problem):
    """A row of weight 3 counts as 3 rows, in the loss and in the gradient, whatever the reduction."""
    logits, target, _ = problem
    count = np.random.default_rng(logits.size).integers(0, 4, len(logits))
    weight = np.broadcast_to(count.reshape(-1, *[1] * (logits.ndim - 2)), logits.shape[:-1])
    eps = np.finfo(logits.dtype).eps
    mass = weight * (target.sum(-1) if target.ndim == logits.ndim else np.ones(target.shape))
    for reduction in ("sum", "mean"):
        loss, grad = both(logits, target, reduction, sample_weight=weight)
        share = mass / ((mass.sum() or 1) if reduction == "mean" else 1)    # the size of T p and t, which cancel
        repeated_loss, repeated_grad = both(
            np.repeat(logits, count, axis=0), np.repeat(target, count, axis=0), reduction
        )
        np.testing.assert_allclose(loss, repeated_loss, rtol=8 * eps)
        starts = np.cumsum(count) - count
        for i in np.flatnonzero(count):
            sums = repeated_grad[starts[i] : starts[i] + count[i]].sum(axis=0)
            np.testing.assert_allclose(grad[i], sums, rtol=16 * eps, atol=4 * eps * np.max(share[i]))
