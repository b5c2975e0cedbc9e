"""linear_cross_entropy is cross_entropy of X @ weight.T + bias, in bounded memory."""

import tracemalloc

import ml_dtypes
import numpy as np
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import LAYOUTS

import xent
from xent._calls import linear_losses

OPTIONS = {
    "plain": {},
    "sum": {"reduction": "sum"},
    "none": {"reduction": "none"},
    "class_weight": {"class_weight": True},
    "sample_weight": {"sample_weight": True},
    "smoothing": {"label_smoothing": 0.1},
    "ignored": {"ignore_index": 1},
    "where": {"where": True},
    "scale": {"logit_scale": 0.5},
    "negative scale": {"logit_scale": -0.5},
    "softcap": {"softcap": 2.0},
    "z_loss": {"z_loss": 0.1},
    "poly_epsilon": {"poly_epsilon": 1.5},
    "many": {"class_weight": True, "sample_weight": True, "z_loss": 0.1, "logit_scale": 0.7, "ignore_index": 2},
}


def problem(lead=(50,), classes=7, features=5, dtype=np.float64, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(*lead, features)).astype(dtype)
    weight = rng.normal(size=(classes, features)).astype(dtype)
    return X, weight, rng.integers(0, classes, lead), rng.normal(size=classes).astype(dtype)


def filled(options, lead, classes, target=None):
    """Replace True by an array. Labels are not masked, since their loss would be infinite."""
    rng = np.random.default_rng(1)
    made = {
        "class_weight": lambda: rng.random(classes),
        "sample_weight": lambda: rng.integers(0, 3, lead) / 2,
        "where": lambda: (rng.random((*lead, classes)) < 0.7) | (np.arange(classes) == np.asarray(target)[..., None]),
    }
    return {name: made[name]() if value is True else value for name, value in options.items()}


def targets(labels, classes, form):
    rng = np.random.default_rng(2)
    if form == "labels":
        return labels
    if form == "distribution":
        return rng.random((*labels.shape, classes))
    return rng.integers(0, classes, (*labels.shape, 3)), rng.random((*labels.shape, 3))


def assert_close(actual, expected, dtype, terms=0.0):
    """Equal up to the rounding of matrix products, relative to the largest element or to the terms that cancel."""
    (loss, grads), (right, right_grads) = actual, expected
    for got, want in zip((loss, *grads), (right, *right_grads), strict=True):
        if want is None:
            assert got is None
            continue
        assert np.shape(got) == np.shape(want)
        scale = max(terms, np.abs(want[np.isfinite(want)]).max(initial=0) if np.ndim(want) else abs(want))
        np.testing.assert_allclose(np.asarray(got, np.longdouble), want, rtol=0, atol=64 * np.finfo(dtype).eps * scale)


def small_blocks(monkeypatch, by_classes, rows=8, classes=3):
    """Blocks of a few rows or chunks of a few classes, depending on the scratch."""

    def choose(task, max_scratch):
        return linear_losses._Plan(by_classes and task.may_go_by_classes(), rows, classes, 2, 4)

    monkeypatch.setattr(linear_losses, "_choose", choose)


@pytest.mark.parametrize("blocks", ["whole", "rows", "classes"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_every_option_is_that_of_the_twin(options, dtype, blocks, monkeypatch):
    if blocks != "whole":
        small_blocks(monkeypatch, blocks == "classes")
    X, weight, y, bias = problem(dtype=dtype)
    options = filled(options, y.shape, len(weight), y)
    actual = xent.linear_cross_entropy(X, weight, y, bias=bias, return_grad=True, **options)
    assert_close(actual, reference.linear_cross_entropy(X, weight, y, bias=bias, **options), dtype)
    assert [g.dtype for g in actual[1]] == [dtype] * 3
    alone = xent.linear_cross_entropy(X, weight, y, bias=bias, **options)
    np.testing.assert_allclose(alone, actual[0], rtol=8 * np.finfo(dtype).eps)
    if options.get("reduction") == "none":
        assert alone.dtype == dtype
    else:
        assert type(alone) is float


@pytest.mark.parametrize("form", ["labels", "distribution", "sparse"])
@pytest.mark.parametrize("lead", [(), (9,), (3, 4), (2, 1, 5)])
@pytest.mark.parametrize("blocks", ["whole", "rows", "classes"])
def test_every_target_and_any_number_of_axes(lead, form, blocks, monkeypatch):
    if blocks != "whole":
        small_blocks(monkeypatch, blocks == "classes")
    X, weight, y, _ = problem(lead)
    target = targets(y, len(weight), form)
    for reduction in ("mean", "none"):
        actual = xent.linear_cross_entropy(X, weight, target, return_grad=True, reduction=reduction)
        assert_close(actual, reference.linear_cross_entropy(X, weight, target, reduction=reduction), np.float64)


@given(data=st.data())
@settings(deadline=None, max_examples=60)
def test_sweep(data):
    lead = tuple(data.draw(st.lists(st.integers(0, 6), max_size=3)))
    classes, features = data.draw(st.integers(1, 40)), data.draw(st.integers(0, 9))
    dtype = data.draw(st.sampled_from([np.float32, np.float64]))
    X, weight, y, bias = problem(lead, classes, features, dtype, data.draw(st.integers(0, 99)))
    target = targets(y, classes, data.draw(st.sampled_from(["labels", "distribution", "sparse"])))
    options = {}
    for name in data.draw(st.lists(st.sampled_from(list(OPTIONS)), max_size=3)):
        options.update(OPTIONS[name])
    options = filled(options, y.shape, classes, y)
    if "where" in options and target is not y:
        del options["where"]
    bias = bias if data.draw(st.booleans()) else None
    with pytest.MonkeyPatch.context() as patch:
        if data.draw(st.booleans()):
            rows, chunk = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 20))
            small_blocks(patch, data.draw(st.booleans()), rows, chunk)
        actual = xent.linear_cross_entropy(X, weight, target, bias=bias, return_grad=True, **options)
    # With one class T p - t is 0, in exact arithmetic: what rounding leaves is relative to T and t.
    terms = y.size * max(1, np.abs(X).max(initial=0), np.abs(weight).max(initial=0)) if classes == 1 else 0.0
    assert_close(actual, reference.linear_cross_entropy(X, weight, target, bias=bias, **options), dtype, terms)


def test_one_class():
    """A case that the sweep found: the smoothed mass of one class cancels up to rounding."""
    X, weight, y, _ = problem((1,), 1, 1, np.float32, 5)
    for smoothing in (0.1, 0.3, 0.7):
        loss, grads = xent.linear_cross_entropy(X, weight, y, label_smoothing=smoothing, return_grad=True)
        assert loss == 0
        assert np.abs(grads[1]).max() < 2 * np.finfo(np.float32).eps * np.abs(X).max()


def test_gradients_are_slopes():
    X, weight, y, bias = problem((4,), 3, 2)
    operands = [X, weight, bias]
    options = {"label_smoothing": 0.1, "z_loss": 0.1, "softcap": 3.0}

    def loss():
        return xent.linear_cross_entropy(X, weight, y, bias=bias, **options)

    _, grads = xent.linear_cross_entropy(X, weight, y, bias=bias, return_grad=True, **options)
    for operand, grad in zip(operands, grads, strict=True):
        for place in np.ndindex(operand.shape):
            kept = operand[place]
            operand[place] = kept + 1e-5
            above = loss()
            operand[place] = kept - 1e-5
            below = loss()
            operand[place] = kept
            assert (above - below) / 2e-5 == pytest.approx(grad[place], abs=1e-9)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_same_bits_as_the_loss_of_the_logits(dtype):
    """Products of small integers are exact."""
    rng = np.random.default_rng(0)
    X = rng.integers(-4, 5, (3000, 6)).astype(dtype)
    weight, y = rng.integers(-4, 5, (50, 6)).astype(dtype), rng.integers(0, 50, 3000)
    for options in ({}, {"sample_weight": rng.random(3000), "class_weight": rng.random(50)}, {"softcap": 5.0}):
        loss = xent.linear_cross_entropy(X, weight, y, **options)
        assert loss == xent.cross_entropy(X @ weight.T, y, **options)
        rows = xent.linear_cross_entropy(X, weight, y, reduction="none", **options)
        np.testing.assert_array_equal(rows, xent.cross_entropy(X @ weight.T, y, reduction="none", **options))


@pytest.mark.parametrize("blocks", ["rows", "classes"])
def test_a_confident_row_keeps_its_digits(blocks, monkeypatch):
    small_blocks(monkeypatch, blocks == "classes", rows=2, classes=2)
    X, weight = np.eye(3), np.array([[50.0, 0, 0], [0, 60, 0], [0, 0, 0], [0, 0, 70]])
    y = np.array([0, 1, 3])
    actual = xent.linear_cross_entropy(X, weight, y, return_grad=True, reduction="none")
    right, (grad_X, grad_weight, _) = reference.linear_cross_entropy(X, weight, y, reduction="none")
    np.testing.assert_allclose(actual[0], right.astype(float), rtol=1e-14)
    np.testing.assert_allclose(actual[1][0], grad_X.astype(float), rtol=1e-14)
    np.testing.assert_allclose(actual[1][1], grad_weight.astype(float), rtol=1e-14)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("blocks", ["whole", "rows", "classes"])
def test_operands_anywhere_in_memory(layout, blocks, monkeypatch):
    if blocks != "whole":
        small_blocks(monkeypatch, blocks == "classes")
    X, weight, y, bias = problem((4, 6))
    weights = np.random.default_rng(0).random(y.shape)
    move = LAYOUTS[layout]
    plain = xent.linear_cross_entropy(X, weight, y, bias=bias, sample_weight=weights, return_grad=True)
    moved = xent.linear_cross_entropy(
        move(X), move(weight), move(y), bias=move(bias), sample_weight=move(weights), return_grad=True
    )
    assert_close(moved, plain, np.float64)
    for array, grad in zip((X, weight, bias), moved[1], strict=True):
        assert grad.dtype == array.dtype
        assert type(grad) is np.ndarray


@pytest.mark.parametrize("half", [np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("blocks", ["whole", "rows", "classes"])
def test_half_precision_is_computed_in_float32(half, blocks, monkeypatch):
    if blocks != "whole":
        small_blocks(monkeypatch, blocks == "classes")
    X, weight, y, bias = problem((60,), dtype=half)
    wide = [array.astype(np.float32) for array in (X, weight, bias)]
    loss, grads = xent.linear_cross_entropy(X, weight, y, bias=bias, return_grad=True, reduction="sum")
    right, right_grads = xent.linear_cross_entropy(*wide[:2], y, bias=wide[2], return_grad=True, reduction="sum")
    assert loss == pytest.approx(right, rel=1e-6)
    for got, want in zip(grads, right_grads, strict=True):
        assert got.dtype == half
        np.testing.assert_allclose(got.astype(np.float32), want, rtol=float(ml_dtypes.finfo(half).eps), atol=1e-5)


def test_mixed_types_and_integers():
    X, weight, y, bias = problem()
    loss, grads = xent.linear_cross_entropy(X.astype(np.float32), weight, y, bias=bias, return_grad=True)
    assert [grad.dtype for grad in grads] == [np.float32, np.float64, np.float64]
    assert loss == xent.linear_cross_entropy(X.astype(np.float32).astype(float), weight, y, bias=bias)
    loss, grads = xent.linear_cross_entropy([[1, 2], [3, 4]], [[1, 0], [0, 1]], [0, 1], return_grad=True)
    assert [grad.dtype for grad in grads[:2]] == [np.float64, np.float64]
    assert loss == pytest.approx(np.log1p(np.exp(1)) / 2 + np.log1p(np.exp(-1)) / 2)


@pytest.mark.parametrize("blocks", ["whole", "rows", "classes"])
def test_rows_that_do_not_count_have_no_effect(blocks, monkeypatch):
    if blocks != "whole":
        small_blocks(monkeypatch, blocks == "classes")
    X, weight, y, bias = problem()
    y[3], weights = -100, np.ones(50)
    weights[[7, 20]] = 0
    right = xent.linear_cross_entropy(X, weight, y, bias=bias, sample_weight=weights, return_grad=True)
    X[[3, 7, 20]] = [[np.nan], [np.inf], [-np.inf]]
    actual = xent.linear_cross_entropy(X, weight, y, bias=bias, sample_weight=weights, return_grad=True)
    assert (actual[1][0][[3, 7, 20]] == 0).all()
    assert_close(actual, right, np.float64)


@pytest.mark.parametrize("blocks", ["rows", "classes"])
def test_nan_stays_in_its_row_and_minus_infinity_is_impossible(blocks, monkeypatch):
    small_blocks(monkeypatch, blocks == "classes")
    X, weight, y, bias = problem()
    X[4], bias[2] = np.nan, -np.inf
    y[y == 2] = 1
    logits = X @ weight.T + bias
    loss, (grad_X, _, grad_bias) = xent.linear_cross_entropy(
        X, weight, y, bias=bias, reduction="none", return_grad=True
    )
    np.testing.assert_allclose(loss, xent.cross_entropy(logits, y, reduction="none"), rtol=1e-12)
    assert np.isnan(loss[4])
    assert np.isnan(grad_X[4]).all()
    assert np.isfinite(np.delete(grad_X, 4, axis=0)).all()
    keep = np.arange(50) != 4
    _, (_, _, grad_bias) = xent.linear_cross_entropy(X[keep], weight, y[keep], bias=bias, return_grad=True)
    assert grad_bias[2] == 0
    assert np.isfinite(grad_bias).all()


@pytest.mark.parametrize(("lead", "classes", "features"), [((0,), 3, 2), ((4,), 3, 0), ((2, 0), 3, 2), ((3,), 0, 2)])
def test_nothing(lead, classes, features):
    X, weight = np.zeros((*lead, features)), np.zeros((classes, features))
    y = np.full(lead, -100) if classes == 0 else np.zeros(lead, int)
    loss, grads = xent.linear_cross_entropy(X, weight, y, bias=np.zeros(classes), return_grad=True)
    assert [grad.shape for grad in grads] == [X.shape, weight.shape, (classes,)]
    assert np.isnan(loss) if 0 in lead or classes == 0 else loss == pytest.approx(np.log(3))
    total = xent.linear_cross_entropy(X, weight, y, reduction="sum", return_grad=True)[0]
    assert total == pytest.approx(0 if np.isnan(loss) else 4 * np.log(3))


def test_without_weight_the_mean_is_nan_and_the_gradient_0():
    X, weight, y, _ = problem()
    loss, grads = xent.linear_cross_entropy(X, weight, y, sample_weight=0, return_grad=True)
    assert np.isnan(loss)
    assert not grads[0].any()
    assert not grads[1].any()
    assert grads[2] is None


@pytest.mark.parametrize("blocks", ["rows", "classes"])
def test_threads_do_not_matter(blocks, monkeypatch):
    plan = linear_losses._Plan(blocks == "classes", 300, 500, 4, 10)
    monkeypatch.setattr(linear_losses, "_choose", lambda *_: plan)
    X, weight, y, bias = problem((700,), 3000, 8, np.float32)
    one, *others = (
        xent.linear_cross_entropy(X, weight, y, bias=bias, return_grad=True, n_threads=n) for n in (1, 2, 4)
    )
    for other in others:
        assert other[0] == one[0]
        for a, b in zip(other[1], one[1], strict=True):
            np.testing.assert_array_equal(a, b)


CASES = {
    "few classes": ((5_000,), 10, 50, 1 << 20, {}),
    "many classes": ((300,), 10_000, 16, 3 << 20, {}),
    "too many for rows": ((50,), 50_000, 4, 1 << 20, {}),
    "many features": ((64,), 10, 20_000, 2 << 20, {}),
    "capped": ((100,), 5_000, 16, 2 << 20, {"softcap": 5.0}),
    "weights": ((300,), 10_000, 16, 3 << 20, {"class_weight": True, "sample_weight": True}),
    "two axes": ((20, 30), 3_000, 16, 2 << 20, {}),
    "distribution": ((400,), 3_000, 16, 2 << 20, {"form": "distribution"}),
    "sparse": ((400,), 3_000, 16, 2 << 20, {"form": "sparse"}),
}


@pytest.mark.parametrize(
    ("layout", "with_grad"),
    [("C", True), *(pytest.param(*more, marks=pytest.mark.deep) for more in (
        ("C", False), ("Fortran", True), ("reversed", False), ("reversed", True)
    ))],
)  # fmt: skip
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_memory(case, with_grad, layout):
    lead, classes, features, max_scratch, options = case
    X, weight, y, bias = problem(lead, classes, features, np.float32)
    options = dict(options)
    target = targets(y, classes, options.pop("form", "labels"))
    options = filled(options, lead, classes)
    move = LAYOUTS[layout]
    X, weight = move(X), move(weight)
    xent.cross_entropy(np.zeros((1000, 1000)), np.zeros(1000, int), n_threads=2)    # what is needed once
    tracemalloc.start()
    try:
        result = xent.linear_cross_entropy(
            X, weight, target, bias=bias, return_grad=with_grad, max_scratch=max_scratch, n_threads=2, **options
        )
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak - (sum(grad.nbytes for grad in result[1]) if with_grad else 0) <= max_scratch


def test_most_of_the_scratch_holds_logits(monkeypatch):
    """Products of few rows are slow."""
    plans, choose = [], linear_losses._choose
    monkeypatch.setattr(linear_losses, "_choose", lambda *arguments: plans.append(choose(*arguments)) or plans[-1])
    X, weight, y, _ = problem((570,), 20_000, 8, np.float32)
    xent.linear_cross_entropy(X, weight, y, max_scratch=16 << 20, return_grad=True)
    assert plans[0].rows * len(weight) * weight.itemsize > 0.85 * (16 << 20)


@pytest.mark.parametrize("options", [{}, {"softcap": 9.0}], ids=["by classes", "by rows"])
def test_the_scratch_that_an_error_names_is_enough(options):
    X, weight, y, _ = problem((20,), 3000, 5)
    with pytest.raises(ValueError, match="max_scratch is 1, too small for 3000 classes and 5 features") as error:
        xent.linear_cross_entropy(X, weight, y, max_scratch=1, return_grad=True, **options)
    needed = int(str(error.value).split()[-4])
    actual = xent.linear_cross_entropy(X, weight, y, max_scratch=needed, return_grad=True, **options)
    assert_close(actual, reference.linear_cross_entropy(X, weight, y, **options), np.float64)


X, W, Y, B = problem()


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((X, W[:, :4], Y), {}, ValueError, r"weight has shape \(7, 4\); for X of shape \(50, 5\) it must be"),
        ((X, W[0], Y), {}, ValueError, "weight has 1 dimensions; it must have 2"),
        ((1.0, W, Y), {}, ValueError, "X is a number"),
        ((X > 0, W, Y), {}, TypeError, "X has dtype bool"),
        ((X, W.astype(complex), Y), {}, TypeError, "weight has dtype complex128"),
        ((X, W, Y), {"bias": B[:3]}, ValueError, r"bias has shape \(3,\); it must have shape \(7,\)"),
        ((X, W, Y + 7), {}, ValueError, r"target\[0\] is \d+; labels must be in \[0, 7\)"),
        ((X, W, Y[:9]), {}, ValueError, r"target has shape \(9,\); for X @ weight.T of shape \(50, 7\)"),
        ((X, W, Y * 1.0), {}, TypeError, "target has dtype float64"),
        ((X, W, Y), {"max_scratch": 0}, ValueError, "max_scratch is 0; it must be at least 1"),
        ((X, W, Y), {"max_scratch": 1e6}, TypeError, "max_scratch is 1000000.0; it must be an integer"),
        ((X, W, Y), {"n_threads": 0}, ValueError, "n_threads is 0"),
        ((X, W, Y), {"reduction": "max"}, ValueError, "reduction is 'max'"),
        ((X, W, Y), {"softcap": 0}, ValueError, "softcap is 0"),
        ((X, W, Y), {"where": np.ones(6, bool)}, ValueError, "where has shape"),
        ((X, W, Y), {"class_weight": B[:2]}, ValueError, "class_weight has shape"),
        ((X, W, Y), {"sample_weight": -1}, ValueError, "sample_weight is -1"),
    ],
)
def test_bad_arguments(arguments, options, error, message):
    with pytest.raises(error, match=message):
        xent.linear_cross_entropy(*arguments, return_grad=True, **options)


def test_focal_gamma():
    """It needs a class for each row, as in cross_entropy."""
    rng = np.random.default_rng(0)
    X, weight, labels = rng.normal(size=(9, 4)), rng.normal(size=(2000, 4)), rng.integers(0, 2000, 9)
    expected = xent.cross_entropy(X @ weight.T, labels, focal_gamma=2.0)
    assert xent.linear_cross_entropy(X, weight, labels, focal_gamma=2.0) == pytest.approx(expected, rel=1e-12)
    with pytest.raises(ValueError, match="mass on several classes"):
        xent.linear_cross_entropy(X, weight, rng.dirichlet(np.ones(2000), 9), focal_gamma=2.0)
