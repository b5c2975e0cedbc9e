"""linear_evaluate is evaluate of X @ weight.T + bias, in bounded memory."""

import tracemalloc

import ml_dtypes
import numpy as np
import pytest
import reference
from good_arguments import fails
from hypothesis import given, settings
from hypothesis import strategies as st
from loss_problems import INF, NAN, each_dtype
from reference import EXTENDED, LAYOUTS

import xent
from xent._calls import linear_evaluation

CHUNK = linear_evaluation.LARGEST_CHUNK
HALVES = [np.float16, ml_dtypes.bfloat16]


def problem(lead=(40,), classes=7, features=5, dtype=np.float64, seed=0):
    """Operands, labels, a bias, and the operands of a reference with other features."""
    rng = np.random.default_rng(seed)
    X, weight = rng.normal(size=(*lead, features)), rng.normal(size=(classes, features))
    ref_X, ref_weight = rng.normal(size=(*lead, features + 2)), rng.normal(size=(classes, features + 2))
    bias, ref_bias = rng.normal(size=(2, classes))
    operands = (a.astype(dtype) for a in (X, weight, bias, ref_X, ref_weight, ref_bias))
    X, weight, bias, *ref = operands
    return X, weight, np.asarray(rng.integers(0, classes, lead)), bias, tuple(ref)


def integers(lead, classes, dtype, seed=0):
    """The same from small integers, whose products are exact, with many ties among them."""
    rng = np.random.default_rng(seed)
    X, weight, bias = (rng.integers(-3, 4, shape).astype(dtype) for shape in ((*lead, 4), (classes, 4), classes))
    ref = tuple(rng.integers(-2, 3, shape).astype(dtype) for shape in ((*lead, 3), (classes, 3), classes))
    return X, weight, np.asarray(rng.integers(0, classes, lead)), bias, ref


def logits_of(X, weight, bias=None, dtype=EXTENDED):
    return X.astype(dtype) @ weight.astype(dtype).T + (0 if bias is None else bias.astype(dtype))


def small_blocks(monkeypatch, rows=8, chunk=3):
    """Blocks of a few rows and chunks of a few classes, depending on the scratch."""
    monkeypatch.setattr(linear_evaluation, "_choose", lambda *_: linear_evaluation._Plan(rows, chunk, 2))


def assert_close(actual, expected, eps, terms=1.0):
    """The same counts of rows, and numbers that differ by roundings of terms of this size."""
    assert type(actual) is xent.Evaluation
    expected = expected if isinstance(expected, dict) else expected._asdict()
    for name in ("accuracy", "topk", "agreement", "weight"):
        exact = expected[name]
        exact = {k: float(share) for k, share in exact.items()} if name == "topk" else float(exact)
        np.testing.assert_equal(getattr(actual, name), exact, name)
    for name in {"loss", "perplexity", "entropy", "brier", "ece", "kl"} & set(expected):
        exact = float(expected[name])
        size = abs(exact) if name == "perplexity" else max(abs(exact), 1)
        error = 0 if np.isinf(exact) else 32 * eps * terms * size
        np.testing.assert_allclose(getattr(actual, name), exact, 0, error, err_msg=name)


# --- the same as from the logits -------------------------------------------------------------------------------------

OPTIONS = {
    "plain": {},
    "bias": {"bias": True},
    "sample_weight": {"sample_weight": True},
    "ignored": {"ignore_index": 1},
    "scale": {"logit_scale": 0.5},
    "negative scale": {"logit_scale": -1.5},
    "no scale": {"logit_scale": 0.0},
    "softcap": {"softcap": 2.0},
    "topk": {"topk": [3, 1, 100, 2]},
    "many": {"bias": True, "sample_weight": True, "logit_scale": -0.75, "softcap": 5.0, "ignore_index": 2, "topk": 2},
}


@each_dtype
@pytest.mark.parametrize("compares", [False, True])
@pytest.mark.parametrize("blocks", ["whole", "small"])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_every_option_is_that_of_the_twin(options, blocks, compares, dtype, monkeypatch):
    if blocks == "small":
        small_blocks(monkeypatch)
    X, weight, y, bias, ref = problem(dtype=dtype)
    options = dict(options)
    bias = options.pop("bias", None) and bias
    if options.get("sample_weight"):
        options["sample_weight"] = np.arange(len(y)) % 3 / 2
    actual = xent.linear_evaluate(X, weight, y, bias=bias, reference=ref if compares else None, **options)
    scale, cap = options.pop("logit_scale", 1.0), options.pop("softcap", None)
    logits, ref_logits = (
        reference.transform(logits_of(*operands), EXTENDED(scale), cap)[0] for operands in ((X, weight, bias), ref)
    )
    ks = np.atleast_1d(options.pop("topk", (1, 5))).tolist()
    expected = reference.evaluate(
        logits, y, topk=[min(k, 7) for k in ks], reference=ref_logits if compares else None, **options
    )
    expected["topk"] = {k: expected["topk"][min(k, 7)] for k in ks}
    assert_close(actual, expected, np.finfo(dtype).eps)


@each_dtype
@pytest.mark.parametrize("classes", [1, 2, 100, CHUNK - 1, CHUNK, CHUNK + 1, 5000])
def test_exact_products(classes, dtype, monkeypatch):
    """Ties are ranked alike wherever the classes are cut; where they are cut as in evaluate, all bits are the same."""
    X, weight, y, bias, ref = integers((20,), classes, dtype)
    sample_weight = np.arange(20) % 4 / 2
    for options in ({}, {"bias": bias}, {"bias": bias, "logit_scale": -0.5}):
        scale = options.get("logit_scale", 1)
        logits, ref_logits = logits_of(X, weight, options.get("bias"), dtype) * scale, logits_of(*ref, dtype) * scale
        for reference_given, ref_given in ((None, None), (ref, ref_logits)):
            given_options = {"topk": (1, 2, 5, min(classes, 300)), "sample_weight": sample_weight}
            expected = xent.evaluate(logits, y, reference=ref_given, **given_options)
            actual = xent.linear_evaluate(X, weight, y, reference=reference_given, **options, **given_options)
            assert_close(actual, expected, np.finfo(dtype).eps)
            if classes > 256 and scale == 1:       # fewer come side by side in evaluate
                np.testing.assert_equal(tuple(actual), tuple(expected))
            for rows, chunk in ((11, 500), (20, 999)) if classes > 300 else ((7, 64),):
                small_blocks(monkeypatch, rows, chunk)
                again = xent.linear_evaluate(X, weight, y, reference=reference_given, **options, **given_options)
                assert_close(again, expected, np.finfo(dtype).eps)
                monkeypatch.undo()


@given(data=st.data())
@settings(deadline=None)
def test_sweep(data):
    lead = tuple(data.draw(st.lists(st.integers(0, 6), max_size=3)))
    classes = data.draw(st.integers(1, 40))
    dtype = data.draw(st.sampled_from([np.float32, np.float64]))
    X, weight, y, bias, ref = integers(lead, classes, dtype, data.draw(st.integers(0, 99)))
    options = {"topk": data.draw(st.lists(st.integers(1, 50), max_size=3)), "ignore_index": 0}
    if data.draw(st.booleans()):
        options["sample_weight"] = np.random.default_rng(0).integers(0, 3, lead)
    bias, ref = bias if data.draw(st.booleans()) else None, ref[: data.draw(st.integers(2, 3))]
    expected = xent.evaluate(logits_of(X, weight, bias, dtype), y, reference=logits_of(*ref, dtype=dtype), **options)
    with pytest.MonkeyPatch.context() as patch:
        small_blocks(patch, data.draw(st.integers(1, 9)), data.draw(st.integers(1, 45)))
        actual = xent.linear_evaluate(X, weight, y, bias=bias, reference=ref, **options)
    assert_close(actual, expected, np.finfo(dtype).eps)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("blocks", ["whole", "small"])
def test_operands_anywhere_in_memory(layout, blocks, monkeypatch):
    if blocks == "small":
        small_blocks(monkeypatch)
    X, weight, y, bias, ref = integers((4, 6), 9, np.float64)
    sample_weight = np.random.default_rng(0).random(y.shape)
    move = LAYOUTS[layout]
    plain = xent.linear_evaluate(X, weight, y, bias=bias, sample_weight=sample_weight, reference=ref)
    moved = xent.linear_evaluate(
        move(X), move(weight), move(y), bias=move(bias), sample_weight=move(sample_weight),
        reference=tuple(map(move, ref)),
    )
    assert moved == plain


@pytest.mark.parametrize("half", HALVES)
@pytest.mark.parametrize("blocks", ["whole", "small"])
def test_half_precision_is_computed_in_float32(half, blocks, monkeypatch):
    if blocks == "small":
        small_blocks(monkeypatch)
    X, weight, y, bias, ref = problem((60,), dtype=half)
    wide = [a.astype(np.float32) for a in (X, weight, bias, *ref)]
    for own, given_reference in ((ref, tuple(wide[3:])), (tuple(wide[3:]), ref)):
        actual = xent.linear_evaluate(X, weight, y, bias=bias, reference=own)
        expected = xent.linear_evaluate(*wide[:2], y, bias=wide[2], reference=given_reference)
        assert_close(actual, expected, np.finfo(np.float32).eps)


def test_types_that_differ():
    """Each model is multiplied out in its own type."""
    X, weight, y, bias, ref = integers((40,), 300, np.float64)
    expected = xent.linear_evaluate(X, weight, y, bias=bias, reference=ref)
    for dtype in (np.float32, np.float16, np.int8):
        narrow = tuple(a.astype(dtype) for a in ref)
        assert xent.linear_evaluate(X, weight, y, bias=bias, reference=narrow) == expected
        actual = xent.linear_evaluate(*(a.astype(dtype) for a in (X, weight)), y, bias=bias, reference=ref)
        assert actual == expected
    lists = [a.tolist() for a in (X, weight, y)]
    actual = xent.linear_evaluate(*lists, bias=bias.tolist(), reference=(*ref[:2], None))
    assert actual == xent.linear_evaluate(X, weight, y, bias=bias, reference=ref[:2])


# --- rows that do not count, and strange numbers ---------------------------------------------------------------------


@pytest.mark.parametrize("blocks", ["whole", "small"])
def test_rows_that_do_not_count_have_no_effect(blocks, monkeypatch):
    if blocks == "small":
        small_blocks(monkeypatch)
    X, weight, y, bias, ref = problem()
    y[3], weights = -100, np.ones(40)
    weights[[7, 20]] = 0
    options = {"bias": bias, "sample_weight": weights}
    right = xent.linear_evaluate(X, weight, y, reference=ref, **options)
    X[[3, 7, 20]], ref[0][[3, 7, 20]] = [[NAN], [INF], [-INF]], NAN
    assert xent.linear_evaluate(X, weight, y, reference=ref, **options) == right
    nothing = xent.linear_evaluate(X, weight, y, reference=ref, sample_weight=0)
    assert nothing.weight == 0
    assert np.isnan([*nothing[:2], *nothing[3:5], *nothing[6:]]).all()


@each_dtype
@pytest.mark.parametrize("chunk", [3, 7])
def test_strange_numbers(chunk, dtype, monkeypatch):
    """NaN, infinities, and logits as large as those whose divergence is finite, in any chunk; as in evaluate."""
    small_blocks(monkeypatch, 4, chunk)
    one, ref_one = np.random.default_rng(0).normal(size=(2, 7)).astype(dtype)
    with np.errstate(all="raise"):
        for value in (NAN, INF, -INF, 1e30, -1e30):
            for place in (0, 3, 6):
                strange, ref_strange = one.copy(), ref_one.copy()
                strange[place] = ref_strange[place] = value
                everywhere = np.full(7, value, dtype)
                for x, ref in ((strange, ref_one), (one, ref_strange), (strange, ref_strange), (everywhere, one)):
                    expected = xent.evaluate(x, 3, reference=ref, topk=(1, 2, 7))
                    X = np.ones((1, 1), dtype)
                    actual = xent.linear_evaluate(X, x[:, None], [3], reference=(X, ref[:, None]), topk=(1, 2, 7))
                    assert_close(actual, expected, np.finfo(dtype).eps)


@each_dtype
@pytest.mark.parametrize("scale", [6.0, 100.0, -100.0])
def test_capped_logits_rank_as_the_given_ones(scale, dtype, monkeypatch):
    """Near the cap they round alike, or to numbers in another order."""
    X, weight, y, _, ref = integers((40,), 30, dtype)
    given_logits = [np.sign(scale) * logits_of(*operands, dtype=dtype) for operands in ((X, weight), ref[:2])]
    capped = [(2 * np.tanh(abs(scale) * logits.astype(EXTENDED) / 2)).astype(dtype) for logits in given_logits]
    ranks = xent.evaluate(given_logits[0], y, reference=given_logits[1], topk=(1, 2, 9))
    expected = xent.evaluate(capped[0], y, reference=capped[1], topk=(1, 2, 9))._asdict()
    expected |= {"accuracy": ranks.accuracy, "topk": ranks.topk, "agreement": ranks.agreement}
    del expected["ece"]     # which is of the rows that are right
    for chunk in (1, 3, 7, 30):
        small_blocks(monkeypatch, 16, chunk)
        options = {"softcap": 2.0, "logit_scale": scale, "topk": (1, 2, 9)}
        actual = xent.linear_evaluate(X, weight, y, reference=ref[:2], **options)
        assert_close(actual, expected, np.finfo(dtype).eps, terms=8)


def test_a_confident_row_keeps_its_digits(monkeypatch):
    X, weight = np.eye(3), np.array([[50.0, 0, 0], [0, 60, 0], [0, 0, 0], [0, 0, 70]])
    y, ref_weight = np.array([0, 1, 3]), weight * (1 + 2.0**-20)
    for chunk in (1, 2, 4):
        small_blocks(monkeypatch, 2, chunk)
        actual = xent.linear_evaluate(X, weight, y, reference=(X, ref_weight))
        exact = reference.evaluate(weight.T, y, topk=(1,), reference=ref_weight.T)
        for name in ("loss", "entropy", "brier", "ece", "kl"):
            np.testing.assert_allclose(getattr(actual, name), float(exact[name]), rtol=1e-13, err_msg=name)


@pytest.mark.parametrize(("lead", "classes", "features"), [((0,), 3, 2), ((4,), 3, 0), ((2, 0), 3, 2), ((3,), 0, 2)])
def test_nothing(lead, classes, features):
    X, weight = np.zeros((*lead, features)), np.zeros((classes, features))
    y = np.full(lead, -100) if classes == 0 else np.zeros(lead, int)
    result = xent.linear_evaluate(X, weight, y, bias=np.zeros(classes), reference=(X, weight))
    if features:
        assert result.weight == 0
        assert np.isnan(result.loss)
        assert np.isnan(result.kl)
    else:
        assert result[:2] == (pytest.approx(np.log(3)), 1)
        assert result[-2:] == (0, 1)


def test_one_row():
    X, weight, y, bias, ref = integers((), 50, np.float64)
    expected = xent.evaluate(logits_of(X, weight, bias, float), y, reference=logits_of(*ref, float))
    assert_close(xent.linear_evaluate(X, weight, y, bias=bias, reference=ref), expected, np.finfo(float).eps)


# --- threads and memory ----------------------------------------------------------------------------------------------


@each_dtype
def test_threads_do_not_matter(dtype, monkeypatch):
    monkeypatch.setattr(linear_evaluation, "_choose", lambda *_: linear_evaluation._Plan(250, 900, 4))
    X, weight, y, bias, ref = problem((400,), 2000, 8, dtype)
    one, *others = (xent.linear_evaluate(X, weight, y, bias=bias, reference=ref, n_threads=n) for n in (1, 2, 4))
    assert all(other == one for other in others)


CASES = {       # lead, classes, features, max_scratch, options
    "few classes": ((5_000,), 10, 50, 1 << 20, {}),
    "many classes": ((300,), 10_000, 16, 3 << 20, {}),
    "a vocabulary": ((50,), 128_256, 4, 3 << 20, {}),
    "many features": ((64,), 10, 20_000, 2 << 20, {}),
    "capped": ((100,), 5_000, 16, 2 << 20, {"softcap": 5.0}),
    "two axes": ((10, 20), 3_000, 16, 2 << 20, {}),
    "many ranks": ((100,), 3_000, 16, 2 << 20, {"topk": (1, 300)}),
}


@pytest.mark.parametrize(("layout", "dtype"), [
    ("C", np.float32), *(pytest.param(*more, marks=pytest.mark.deep) for more in (
        ("reversed", np.float16), ("Fortran", np.float32), ("reversed", np.float64), ("every other", np.float32)
    )),
])  # fmt: skip
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_memory(case, layout, dtype):
    lead, classes, features, max_scratch, options = case
    X, weight, y, bias, ref = problem(lead, classes, features, dtype)
    X, weight, *ref = map(LAYOUTS[layout], (X, weight, *ref))
    sample_weight = np.ones(lead)
    xent.cross_entropy(np.zeros((1000, 1000)), np.zeros(1000, int), n_threads=2)    # what is needed once
    for given_reference in (None, tuple(ref)):
        tracemalloc.start()
        try:
            xent.linear_evaluate(
                X, weight, y, bias=bias, sample_weight=sample_weight, reference=given_reference, n_threads=2,
                max_scratch=max_scratch, **options,
            )
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak <= max_scratch


def test_the_scratch_that_an_error_names_is_enough():
    X, weight, y, bias, ref = problem((5,), 300, 5)
    for given_reference in (None, ref):
        options = {"bias": bias, "reference": given_reference}
        with pytest.raises(ValueError, match="max_scratch is 1, too small for these operands; ") as error:
            xent.linear_evaluate(X, weight, y, max_scratch=1, **options)
        needed = int(str(error.value).split()[-4])
        actual = xent.linear_evaluate(X, weight, y, max_scratch=needed, **options)
        assert_close(actual, xent.linear_evaluate(X, weight, y, **options), np.finfo(float).eps)


# --- errors ----------------------------------------------------------------------------------------------------------

X, W, Y, B, (REF_X, REF_W, REF_B) = problem()
A_TUPLE = "it must be a tuple (X, weight) or (X, weight, bias)"
FLOATS = "it must be real numbers, float16, bfloat16, float32 or float64"
BAD = [
    ((X, W[:, :4], Y), {}, ValueError, "weight has shape (7, 4); for X of shape (40, 5) it must be (n_classes, 5)"),
    ((X, W[0], Y), {}, ValueError, "weight has 1 dimensions; it must have 2, (n_classes, n_features)"),
    ((1.0, W, Y), {}, ValueError, "X is a number; it must have a last axis of features"),
    ((X > 0, W, Y), {}, TypeError, f"X has dtype bool; {FLOATS}"),
    ((X, W.astype(complex), Y), {}, TypeError, f"weight has dtype complex128; {FLOATS}"),
    ((X, W, Y), {"bias": B[:3]}, ValueError,
     "bias has shape (3,); it must have shape (7,), a number for each row of weight"),
    ((X, W, np.where(np.arange(40) == 9, 7, Y)), {}, ValueError,
     "target[9] is 7; labels must be in [0, 7) or be ignore_index, -100"),
    ((X, W, np.where(np.arange(40) == 9, -1, Y)), {"sample_weight": 0}, ValueError,
     "target[9] is -1; labels must be in [0, 7) or be ignore_index, -100"),
    ((X, W, Y * 1.0), {}, TypeError, "target has dtype float64; labels must be integers"),
    ((X, W, np.zeros((40, 7))), {}, TypeError, "target is a distribution; it must be labels, integers of shape (40,)"),
    ((X, W, (Y[:, None], np.ones((40, 1)))), {}, TypeError,
     "target is a distribution; it must be labels, integers of shape (40,)"),
    ((X, W, Y), {"max_scratch": 0}, ValueError, "max_scratch is 0; it must be at least 1"),
    ((X, W, Y), {"max_scratch": 1e6}, TypeError, "max_scratch is 1000000.0; it must be an integer"),
    ((X, W, Y), {"n_threads": 0}, ValueError, "n_threads is 0; it must be at least 1"),
    ((X, W, Y), {"topk": 0}, ValueError, "topk is 0; it must be at least 1"),
    ((X, W, Y), {"ignore_index": None}, TypeError, "ignore_index is None; it must be an integer"),
    ((X, W, Y), {"softcap": 0.0}, ValueError, "softcap is 0.0; it must be above 0 and finite, or None"),
    ((X, W, Y), {"logit_scale": INF}, ValueError, "logit_scale is inf; it must be finite"),
    ((X, W, Y), {"sample_weight": -1.0}, ValueError, "sample_weight is -1.0; weights must be at least 0"),
    ((X, W, Y), {"sample_weight": [1.0, 2.0]}, ValueError,
     "sample_weight has shape (2,); it must broadcast to (40,), the shape of the unreduced loss"),
    ((X, W, Y), {"reference": [REF_X, REF_W]}, TypeError, f"reference is a list; {A_TUPLE}"),
    ((X, W, Y), {"reference": REF_X}, TypeError, f"reference is a ndarray; {A_TUPLE}"),
    ((X, W, Y), {"reference": (REF_X,)}, TypeError, f"reference is a tuple of 1; {A_TUPLE}"),
    ((X, W, Y), {"reference": (REF_X, REF_W, REF_B, 0)}, TypeError, f"reference is a tuple of 4; {A_TUPLE}"),
    ((X, W, Y), {"reference": (REF_X, W)}, ValueError,
     "reference[1] has shape (7, 5); for reference[0] of shape (40, 7) it must be (n_classes, 7)"),
    ((X, W, Y), {"reference": (REF_X[:9], REF_W)}, ValueError,
     "reference[0] has shape (9, 7); its rows must have shape (40,), as those of X"),
    ((X, W, Y), {"reference": (REF_X, REF_W[:6])}, ValueError,
     "reference[1] has 6 rows, one per class; it must have 7, as weight"),
    ((X, W, Y), {"reference": (REF_X, REF_W, REF_B[:6])}, ValueError,
     "reference[2] has shape (6,); it must have shape (7,), a number for each row of reference[1]"),
    ((X, W, Y), {"reference": (REF_X, REF_W > 0)}, TypeError, f"reference[1] has dtype bool; {FLOATS}"),
]


@pytest.mark.parametrize(("arguments", "options", "error", "message"), BAD, ids=range(len(BAD)))
def test_bad_arguments(arguments, options, error, message):
    fails(error, message, xent.linear_evaluate, *arguments, **options)
