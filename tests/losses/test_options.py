"""What the options of cross_entropy mean, one by one and together, against the twin and against one another."""

import numpy as np
import pytest
import reference
from hypothesis import given
from hypothesis import strategies as st
from reference import DTYPES, EDGE_LENGTHS, LAYOUTS, SHORT_LENGTHS, assert_close, assert_same_bits

import xent

INF, NAN = np.inf, np.nan
IGNORED = -100
ALL = {"label_smoothing": 0.1, "logit_scale": 0.75, "softcap": 20.0, "z_loss": 0.01}

each_dtype = pytest.mark.parametrize("dtype", DTYPES)
each_option = pytest.mark.parametrize("options", [{k: v} for k, v in ALL.items()] + [{}, ALL], ids=str)


def both(logits, target, reduction="none", **options):
    return xent.cross_entropy(logits, target, reduction=reduction, return_grad=True, **options)


def check(logits, target, reductions=("none", "mean"), **options):
    """Loss and gradient are those of the twin, and so is the loss alone."""
    dtype = np.asarray(logits).dtype.newbyteorder("=")
    for reduction in reductions:
        loss, grad = both(logits, target, reduction, **options)
        exact_loss, exact_grad = reference.cross_entropy(logits, target, reduction=reduction, **options)
        assert_close(grad, exact_grad, dtype)
        assert_close(np.asarray(loss).astype(dtype), exact_loss, dtype)
        np.testing.assert_array_equal(xent.cross_entropy(logits, target, reduction=reduction, **options), loss)


def same(first, second):
    for a, b in zip(first, second, strict=True):
        assert_same_bits(np.asarray(a), np.asarray(b))


def problem(n=7, rows=5, dtype=np.float64, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(rows, n), scale=4).astype(dtype), rng.integers(n, size=rows), rng


# --- one by one ------------------------------------------------------------------------------------------------------


@each_dtype
def test_defaults_cost_no_bit(dtype):
    x, y, _ = problem(dtype=dtype)
    neutral = {"label_smoothing": 0, "logit_scale": 1, "softcap": None, "z_loss": 0, "where": True}
    same(both(x, y, **neutral), both(x, y))
    same(both(x, y, where=np.ones(x.shape, bool)), both(x, y))


@each_dtype
@each_option
def test_row_lengths(options, dtype):
    for n in (*SHORT_LENGTHS, *EDGE_LENGTHS[:6]):
        x, y, rng = problem(n, dtype=dtype)
        where = rng.random(x.shape) < 0.7
        where[range(5), y] = True
        for mask in (None, where):
            check(x, y, ["none"], where=mask, **options)
            check(x, (rng.integers(n, size=(5, 3)), rng.random((5, 3))), ["none"], **options)
            check(x, rng.dirichlet(np.ones(n), 5).astype(dtype) * (mask if mask is not None else 1), ["none"],
                  where=mask, class_weight=rng.random(n), **options)


@each_dtype
def test_smoothing_is_a_distribution(dtype):
    """(1 - e) t + e / C, whose mass is that of the target; class weights come after it."""
    x, y, rng = problem(8, dtype=dtype)
    w = rng.integers(1, 5, 8) / 4
    smooth = 0.75 * np.eye(8, dtype=dtype)[y] + dtype(0.25 / 8)
    for given_target in (y, np.eye(8, dtype=dtype)[y], (y[:, None], np.ones((5, 1)))):
        for weights in ({}, {"class_weight": w}):
            loss, grad = both(x, given_target, label_smoothing=0.25, **weights)
            np.testing.assert_allclose(loss, both(x, smooth, **weights)[0], rtol=4 * np.finfo(dtype).eps)
            np.testing.assert_allclose(grad, both(x, smooth, **weights)[1], atol=4 * np.finfo(dtype).eps)
    # The mean is over the mass before smoothing, as PyTorch divides it.
    total = xent.cross_entropy(x, y, label_smoothing=0.25, class_weight=w, reduction="sum")
    assert xent.cross_entropy(x, y, label_smoothing=0.25, class_weight=w) == pytest.approx(total / w[y].sum())


@pytest.mark.parametrize("n", [12, 40, 1000])
def test_smoothing_of_logits_that_stand_for_a_mask(n):
    """The sum of their distances does not fit a float32, what is left of it does."""
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
    x, y, _ = problem()
    x[:, 0] = -30
    same(both(x, y, label_smoothing=1), both(x, (y + 1) % 7, label_smoothing=1))
    x[0, y[0]] = -INF
    assert both(x, y, label_smoothing=1)[0][0] == INF     # its share of the smoothing
    where = np.ones(x.shape, bool)
    where[0, y[0]] = False
    assert np.isfinite(both(x, y, label_smoothing=1, where=where)[0]).all()


@each_dtype
@each_option
def test_a_masked_class_is_a_logit_of_minus_infinity(options, dtype):
    x, y, rng = problem(9, dtype=dtype)
    where = rng.random(x.shape) < 0.6
    where[range(5), y] = True
    if "label_smoothing" not in options:    # which reaches a logit of -inf, but no masked class
        same(both(x, y, where=where, **options), both(np.where(where, x, dtype(-INF)), y, **options))
    for hidden in (NAN, INF, -INF, 1e30):
        same(both(np.where(where, x, dtype(hidden)), y, where=where, **options), both(x, y, where=where, **options))
    _, grad = both(x, y, where=where, **options)
    assert (grad[~where] == 0).all()


@pytest.mark.parametrize("move", LAYOUTS.values(), ids=LAYOUTS)
def test_masks_broadcast_and_have_strides(move):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3, 4, 5))
    y = np.zeros((3, 4), int)
    for shape in ((5,), (4, 1), (3, 1, 5), (3, 4, 5), ()):
        where = np.asarray(rng.random(shape) < 0.7)
        if shape and shape[-1] == 5:
            where[..., 0] = True
        check(x, y, where=move(where), label_smoothing=0.1)
        check(np.moveaxis(x, -1, 0), y, axis=0, where=move(np.moveaxis(np.broadcast_to(where, x.shape), -1, 0)))


def test_nothing_left():
    x, y, _ = problem()
    where = np.ones(x.shape, bool)
    where[1] = False
    for options in ({}, ALL):
        loss, grad = both(x, y, where=where, **options)
        assert np.isnan(loss[1])
        assert np.isnan(grad[1]).all()
        assert np.isfinite(np.delete(loss, 1)).all()
        assert np.isfinite(np.delete(grad, 1, 0)).all()


def test_mass_on_a_masked_class():
    """The loss is inf, the gradient T p - t as everywhere."""
    loss, grad = both([[0.0, 0.0, 5.0]], [2], where=[True, True, False])
    np.testing.assert_array_equal(loss, INF)
    np.testing.assert_array_equal(grad, [[0.5, 0.5, -1]])


@each_dtype
@pytest.mark.parametrize("scale", [0.5, 4, -1, 0])
def test_scale(scale, dtype):
    """By an exact factor it is the product, but for what a softmax of 0 x (-inf) would be."""
    x, y, _ = problem(dtype=dtype)
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
    x, y, _ = problem(dtype=dtype)
    x[0] *= 1000
    for cap in (1e-3, 1, 30, 1e6):
        check(x, y, softcap=cap, logit_scale=0.5)
    _, grad = both(x, y, softcap=1e-3)
    assert (grad[0] == 0).all()         # saturated
    x[1, :2] = -INF, INF                # a class that cannot happen, and one at the cap
    y[1] = 1
    check(x, y, softcap=30)
    # A cap far above the logits is none.
    eps = np.finfo(dtype).eps
    np.testing.assert_allclose(both(x[2:], y[2:], softcap=1e12)[0], both(x[2:], y[2:])[0], rtol=8 * eps, atol=8 * eps)


@each_dtype
@pytest.mark.parametrize("scale", [1e39, -1e300, 1e-39, 1e-300, 5e-324])
@pytest.mark.parametrize("cap", [None, 1e300, 1e39, 1e-39, 1e-300, 5e-324, 2.0])
@reference.quiet
def test_options_out_of_all_proportion(cap, scale, dtype):
    """Which need not be float32 numbers."""
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
def test_z_loss(dtype):
    """Under the sample weight, not the class weights; ignored rows have none."""
    x, y, rng = problem(dtype=dtype)
    y[1] = IGNORED
    s, w = rng.random(5), rng.random(7)
    s[2] = 0
    plain, plain_grad = both(x, y, sample_weight=s, class_weight=w)
    loss, grad = both(x, y, sample_weight=s, class_weight=w, z_loss=0.5)
    lse = xent.logsumexp(x.astype(float))
    extra = np.where(y == IGNORED, 0, s * 0.5 * lse**2)
    np.testing.assert_allclose(loss, plain + extra, rtol=1e-6)
    extra = np.where(y == IGNORED, 0, s * lse)[:, None] * xent.softmax(x.astype(float))
    np.testing.assert_allclose(grad, plain_grad + extra, rtol=1e-5, atol=1e-7)
    assert (loss[[1, 2]] == 0).all()
    check(x, y, sample_weight=s, class_weight=w * 1e-3, z_loss=0.5)
    check(x, y, sample_weight=s, class_weight=w * 1e3, z_loss=0.5)


def test_no_weight_at_all():
    x, y, _ = problem()
    x[0] = NAN
    for options in ({}, ALL):
        loss, grad = both(x, np.full(5, IGNORED), "mean", **options)
        assert np.isnan(loss)
        assert (grad == 0).all()
        loss, grad = both(x, y, "mean", class_weight=np.zeros(7), **options)
        assert np.isnan(loss)
        assert (grad == 0).all()


# --- sparse distributions --------------------------------------------------------------------------------------------


@each_dtype
@each_option
def test_a_sparse_label_is_a_label(options, dtype):
    x, y, rng = problem(dtype=dtype)
    y[3] = IGNORED
    weights = {"class_weight": rng.random(7), "sample_weight": rng.random(5)}
    twice = np.stack([y, y], 1), np.full((5, 2), 0.5)
    padded = np.stack([y, np.full(5, IGNORED)], 1), np.array([[1, NAN]] * 5)
    for target in ((y[:, None], np.ones((5, 1), dtype)), twice, padded):
        same(both(x, target, **weights, **options), both(x, y, **weights, **options))


@each_dtype
@each_option
def test_all_classes_of_a_sparse_distribution(options, dtype):
    x, _, rng = problem(dtype=dtype)
    t = rng.dirichlet(np.ones(7), 5).astype(dtype)
    order = rng.permuted(np.tile(np.arange(7), (5, 1)), axis=1)
    weights = {"class_weight": rng.random(7), "sample_weight": rng.random(5)}
    sparse = both(x, (order, np.take_along_axis(t, order, 1)), **weights, **options)
    for a, b in zip(sparse, both(x, t, **weights, **options), strict=True):
        np.testing.assert_allclose(a, b, rtol=8 * np.finfo(dtype).eps, atol=4 * np.finfo(dtype).eps)


@pytest.mark.parametrize("index", ["i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", ">i4", ">u8"])
def test_sparse_types_and_layouts(index):
    x, _, rng = problem()
    indices, mass = rng.integers(7, size=(5, 3)), rng.random((5, 3))
    for move in LAYOUTS.values():
        for kind in ("f4", "f8", ">f4", "i8"):
            check(move(x), (move(indices.astype(index)), move((4 * mass).astype(kind))), ["mean"])
    check(x, (indices.tolist(), mass.tolist()), ["mean"])


def test_sparse_axes():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 3, 4))
    for axis in range(-3, 3):
        rows = np.delete(x.shape, axis)
        target = rng.integers(x.shape[axis], size=(*rows, 2)), rng.random((*rows, 2))
        check(x, target, axis=axis, **ALL)
        check(x, (target[0][..., :0], target[1][..., :0]), axis=axis, **ALL)


def test_sparse_padding():
    """It counts nothing; a row of nothing else is ignored, as a label would be."""
    x = np.array([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0], [NAN, NAN, NAN]])
    indices = np.array([[0, 1, IGNORED], [1, IGNORED, 0], [IGNORED] * 3])
    target = indices, np.array([[0.5, 0.5, 7], [0.5, 7, 0.5], [1, 1, 1]])
    for options in ({}, ALL):
        loss, grad = both(x, target, **options)
        assert loss[0] == loss[1]
        assert loss[2] == 0
        assert (grad[2] == 0).all()
        check(x, target, **options)
    check(x[:2], (np.array([[0, 2], [2, 1]]), np.ones((2, 2))), ignore_index=2)


@each_dtype
def test_sparse_categorical_cross_entropy(dtype):
    _, _, rng = problem()
    p = rng.dirichlet(np.ones(7), 5).astype(dtype)
    target = rng.integers(7, size=(5, 3)), rng.random((5, 3))
    for reduction in ("mean", "sum", "none"):
        options = {"reduction": reduction, "sample_weight": [1, 0, 2, 3, 1]}
        loss = xent.categorical_cross_entropy(p, target, **options)
        exact = reference.categorical_cross_entropy(p, target, **options)
        np.testing.assert_allclose(np.asarray(loss), exact.astype(dtype), rtol=4 * np.finfo(dtype).eps)


# --- together --------------------------------------------------------------------------------------------------------


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
        labels = np.where(rng.random(rows) < rng.choice([0, 0.3]), IGNORED, rng.integers(n, size=rows))
        distribution = np.moveaxis(rng.dirichlet(np.ones(n), rows), -1, self.axis).astype(dtype)
        one_hot = np.moveaxis((labels[..., None] == np.arange(n)), -1, self.axis).astype(dtype)
        indices = rng.integers(n, size=(*rows, rng.integers(0, 5)))
        indices = np.where(rng.random(indices.shape) < 0.2, IGNORED, indices)
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
        self.options = {name: value for name, value in choices.items() if rng.random() < 0.4}


@given(seed=st.integers(0, 2**32))
def test_any_combination(seed):
    rng = np.random.default_rng(seed)
    for _ in range(10):
        p = Any(rng)
        eps = np.finfo(p.logits.dtype).eps
        for reduction in ("mean", "sum", "none"):
            options = {"axis": p.axis, "reduction": reduction, **p.options}
            loss, grad = xent.cross_entropy(p.logits, p.target, return_grad=True, **options)
            exact_loss, exact_grad = reference.cross_entropy(p.logits, p.target, **options)
            np.testing.assert_allclose(np.asarray(loss, reference.EXTENDED), exact_loss, rtol=16 * eps, atol=16 * eps)
            np.testing.assert_allclose(grad.astype(reference.EXTENDED), exact_grad, rtol=32 * eps, atol=32 * eps)
            inside = p.logits.copy()
            again, _ = xent.cross_entropy(inside, p.target, grad_out=inside, **options)
            np.testing.assert_array_equal(again, loss)
            assert_same_bits(inside, grad)


@given(seed=st.integers(0, 2**32))
def test_gradient_by_finite_differences(seed):
    rng = np.random.default_rng(seed)
    p = Any(rng)
    x = np.clip(np.where(np.isfinite(p.logits), p.logits, 0), -40, 40).astype(np.float64)
    if p.options.get("softcap", 1) < 1:
        p.options["softcap"] = 1.0      # smooth enough for a difference
    options = {"axis": p.axis, "reduction": "sum", **p.options}
    direction = rng.normal(size=x.shape)
    loss, grad = xent.cross_entropy(x, p.target, return_grad=True, **options)
    if np.isfinite(loss):
        step = 1e-5
        ahead, behind = (xent.cross_entropy(x + sign * step * direction, p.target, **options) for sign in (1, -1))
        scale = 1 + np.abs(grad).sum() + abs(loss)
        assert (ahead - behind) / (2 * step) == pytest.approx(np.vdot(grad, direction), rel=1e-5, abs=1e-6 * scale)


# --- binary ----------------------------------------------------------------------------------------------------------


@each_dtype
@pytest.mark.parametrize("epsilon", [0.0, 0.1, 0.5, 1.0, 1e-6])
def test_binary_smoothing(epsilon, dtype):
    rng = np.random.default_rng(0)
    for n in SHORT_LENGTHS:
        x = rng.normal(size=n, scale=10).astype(dtype)
        for y in (rng.integers(2, size=n), rng.random(n).astype(dtype)):
            options = {"pos_weight": rng.random(n), "sample_weight": rng.random(n), "label_smoothing": epsilon}
            for reduction in ("mean", "sum", "none"):
                actual = xent.binary_cross_entropy_with_logits(
                    x, y, return_grad=True, reduction=reduction, **options
                )
                exact = reference.binary_cross_entropy_with_logits(x, y, reduction=reduction, **options)
                for a, b in zip(actual, exact, strict=True):
                    eps = np.finfo(dtype).eps
                    np.testing.assert_allclose(np.asarray(a, reference.EXTENDED), b, rtol=8 * eps, atol=8 * eps)


def test_binary_limits():
    """Infinite logits at their limits."""
    x, y = np.array([-INF, INF, -INF, INF]), np.array([0, 1, 1, 0])
    loss, grad = xent.binary_cross_entropy_with_logits(x, y, reduction="none", return_grad=True)
    np.testing.assert_array_equal(loss, [0, 0, INF, INF])
    np.testing.assert_array_equal(grad, [0, 0, -1, 1])
    assert (xent.binary_cross_entropy_with_logits(x, y, reduction="none", label_smoothing=0.1) == INF).all()
