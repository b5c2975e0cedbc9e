"""The diagonal of the Hessian of `cross_entropy`: values, bits, outputs, arguments. (See test_accuracy.py for ulp.)"""

import numpy as np
import pytest
import reference
from good_arguments import HALVES, INDICES, LABELS, MASS, X, fails
from loss_problems import INF, NAN, REDUCTIONS, TWO, Problem, assert_same, both, each_dtype, each_kind
from reference import (
    EDGE_LENGTHS,
    LAYOUTS,
    SHORT_LENGTHS,
    WRITEABLE_LAYOUTS,
    assert_close,
    assert_same_bits,
    assert_ulp,
    guarded,
    rows_with_every_maximum,
)

import xent
from xent._calls import threads

OPTIONS = ("class_weight", "sample_weight", "where", "label_smoothing", "logit_scale")
OPTION_SETS = [(), *((name,) for name in OPTIONS), OPTIONS]
REFUSED = {"softcap": 5.0, "z_loss": 0.01, "poly_epsilon": 1.5, "focal_gamma": 2.0}
BOUND = 4       # ulp

each_option_set = pytest.mark.parametrize("names", OPTION_SETS, ids=lambda names: ", ".join(names) or "none")


def three(logits, target, reduction="none", **options):
    """Loss, gradient and Hessian."""
    return xent.cross_entropy(logits, target, reduction=reduction, return_hess=True, **options)


def twin(logits, target, reduction="none", **options):
    return reference.cross_entropy(logits, target, reduction=reduction, return_hess=True, **options)[2]


def check(logits, target, reductions=TWO, **options):
    """The Hessian is the twin's; loss and gradient have the bits that they have without it, in place too."""
    for reduction in reductions:
        results = three(logits, target, reduction, **options)
        assert_close(results[2], twin(logits, target, reduction, **options), logits.dtype)
        assert_same(results[:2], both(logits, target, reduction, **options))
        inside, hess = logits.copy(), np.full_like(logits, 77)
        again = xent.cross_entropy(inside, target, grad_out=inside, hess_out=hess, reduction=reduction, **options)
        assert again[1] is inside
        assert again[2] is hess
        assert_same(again, results)


# --- values ----------------------------------------------------------------------------------------------------------


@each_dtype
@each_kind
@each_option_set
def test_every_option(names, kind, dtype):
    for shape, axis in (((7,), 0), ((5, 40), 1), ((300, 3), 0), ((2, 3, 4, 5), 1), ((3, 600), 1)):
        p = Problem(shape, kind, dtype, axis)
        check(p.logits, p.target, REDUCTIONS if names == OPTIONS else TWO, **p.select(names))


@each_dtype
def test_row_lengths_and_places_of_the_maximum(dtype):
    for n in (*SHORT_LENGTHS, *EDGE_LENGTHS):
        x = rows_with_every_maximum(n, dtype)
        labels = np.arange(len(x)) * 3 % n
        check(x, labels, ("none",))
        check(x, labels, ("none",), label_smoothing=0.125)


@each_kind
def test_it_is_the_derivative_of_the_gradient(kind):
    p = Problem((4, 6), kind, seed=3)
    options, step = p.select(OPTIONS), 1e-5
    _, _, hess = three(p.logits, p.target, "mean", **options)
    for c in range(6):
        moved = [p.logits + sign * step * (np.arange(6) == c) for sign in (1, -1)]
        ahead, behind = (both(x, p.target, "mean", **options)[1][:, c] for x in moved)
        np.testing.assert_allclose((ahead - behind) / (2 * step), hess[:, c], rtol=1e-7, atol=1e-10)


def test_confident_rows_keep_their_digits():
    x = np.array([[50.0, 0, 0], [-700, 0, -700]])
    for label in range(3):
        assert_ulp(three(x, [label] * 2)[2], twin(x, [label] * 2), BOUND)
    assert (three(x, [0, 0])[2] > 0).all()


@each_dtype
def test_equal_logits(dtype):
    """Two maxima have p = 1/2, up to 1 - p that cannot cancel; all of n have (n - 1) / n^2."""
    for n in (2, 3, 33, 1000):
        np.testing.assert_allclose(three(np.full((1, n), 5, dtype), [n - 1])[2], (n - 1) / n**2, rtol=1e-6)
    x = np.array([[9, 9, -60]] * 3, dtype)
    assert_ulp(three(x, [0, 1, 2])[2], twin(x, [0, 1, 2]), BOUND)


@each_dtype
@pytest.mark.parametrize("n", [10, 700])
def test_what_does_not_count_is_0(n, dtype):
    """Ignored rows and weights of 0, whatever the logits; classes that cannot happen."""
    p = Problem((6, n), "labels", dtype, ignored=-100)
    x, y = p.logits, np.arange(6)
    x[1:4, 3] = NAN
    y[1], weight = -100, np.array([1.0, 1, 0, 0.5, 1, 1])
    where = np.broadcast_to(np.arange(n) != 3, x.shape).copy()
    where[:3] = True
    y[3] = 0
    _, _, hess = three(x, y, sample_weight=weight, where=where)
    assert (hess[1:3] == 0).all()
    assert (hess[3:, 3] == 0).all()
    assert np.isfinite(hess).all()
    assert not np.signbit(hess).any()
    for options in ({"sample_weight": np.zeros(6)}, {"ignore_index": 0}):
        loss, grad, hess = xent.cross_entropy(x, np.zeros(6, int), hess_out=np.full_like(x, 7), **options)
        assert np.isnan(loss)
        assert (grad == 0).all()
        assert (hess == 0).all()
    _, _, hess = three(x[:1], y[:1], class_weight=np.zeros(n))
    assert (hess == 0).all()


@each_dtype
@pytest.mark.parametrize("kind", ["labels", "distribution"])
def test_nan_and_infinity_stay_in_their_row(kind, dtype):
    for n in (2, 17, 300, 3000):
        p = Problem((6, n), kind, dtype, ignored=None)
        clean = three(p.logits, p.target)
        x = p.logits.copy()
        x[1, n // 2], x[3, 0], x[4, 1] = NAN, INF, -INF
        results = three(x, p.target)
        assert np.isnan(results[2][[1, 3]]).all()
        assert results[2][4, 1] == 0
        assert_same([a[[0, 2, 5]] for a in results], [a[[0, 2, 5]] for a in clean])
        check(x, p.target, ("none",))


# --- numbers of any size ---------------------------------------------------------------------------------------------


@each_dtype
@pytest.mark.parametrize("n", [10, 300, 2100])
@pytest.mark.parametrize("kind", ["labels", "distribution"])
def test_weights_of_any_size(kind, n, dtype):
    """Also those that float32 holds, but not once they are multiplied by what exponentials are divided by."""
    rng = np.random.default_rng(n)
    x = rng.normal(size=(4, n), scale=2).astype(dtype)
    target = rng.integers(n, size=4) if kind == "labels" else rng.random((4, n)).astype(dtype)
    for weight in (1e-10, 1e-18, 1e-20, 1e-25, 1e-29, 1e-31, 1e20, 1e30, 1e-200, 1e-290, 1e290):
        options = {"sample_weight": np.full(4, weight)}
        loss, grad, hess = three(x, target, "sum", **options)
        exact = reference.cross_entropy(x, target, reduction="sum", return_hess=True, **options)
        assert_ulp(hess, exact[2], BOUND)
        if kind == "labels":
            assert_ulp(grad, exact[1], BOUND)
        assert_same((loss, grad), both(x, target, "sum", **options))
        assert_ulp(three(x, target, "mean", **options)[2], twin(x, target, "mean", **options), BOUND)


@each_dtype
@pytest.mark.parametrize("kind", ["labels", "distribution", "sparse"])
def test_weights_of_any_ratio(kind, dtype):
    p = Problem((6, 9), kind, dtype)
    weights = {
        "class_weight": np.array([1e300, 1, 1e-300, 1e150, 0, 3, 1e-150, 2, 1]),
        "sample_weight": np.array([1e-300, 1, 1e300, 1e-150, 2, 1e150]),
    }
    for reduction in TWO:
        for names in (("class_weight",), ("sample_weight",), tuple(weights)):
            options = p.select(("where",)) | {name: weights[name] for name in names}
            hess = three(p.logits, p.target, reduction, **options)[2]
            assert_ulp(hess, twin(p.logits, p.target, reduction, **options), BOUND + 1)


@each_dtype
def test_scales_of_any_size(dtype):
    """The scale enters squared; rows whose scaled logits overflow are computed in float64, or from their distances."""
    x, y = rows_with_every_maximum(12, np.float64), np.arange(12)
    large = float(np.finfo(dtype).max)
    for scale, size in ((1e-25, 1e25), (-1e18, 1e-18), (large / 4, 1 / large), (-0.75, 1), (1e-9, 1e10), (0, 1)):
        logits = (x * size).astype(dtype)
        for options in ({}, {"sample_weight": np.full(12, 1e-30 / max(abs(scale), 1e-10))}):
            hess = three(logits, y, "sum", logit_scale=scale, **options)[2]
            assert_ulp(hess, twin(logits, y, "sum", logit_scale=scale, **options), BOUND)
    huge = np.array([[large, -large, large / 2], [1, 2, 3]]).astype(dtype)
    check(huge, [2, 0], logit_scale=8.0)
    check(huge, [2, 0])


# --- the same bits everywhere ----------------------------------------------------------------------------------------


@each_dtype
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout, dtype):
    """Of the logits, the gradient and the Hessian, apart and together."""
    for shape, kind in (((4, 6), "labels"), ((40, 300), "labels"), ((3, 5, 260), "sparse"), ((9, 20), "distribution")):
        p = Problem(shape, kind, dtype)
        for names in ((), OPTIONS):
            expected = three(p.logits, p.target, **p.select(names))
            assert_same(three(LAYOUTS[layout](p.logits), p.target, **p.select(names)), expected)
            if layout in WRITEABLE_LAYOUTS:
                for grad, hess in ((None, layout), (layout, "C"), (layout, layout)):
                    outs = {} if grad is None else {"grad_out": WRITEABLE_LAYOUTS[grad](np.full_like(p.logits, 7))}
                    outs["hess_out"] = WRITEABLE_LAYOUTS[hess](np.full_like(p.logits, 7))
                    results = xent.cross_entropy(p.logits, p.target, reduction="none", **outs, **p.select(names))
                    assert_same(results, expected)


@each_dtype
@pytest.mark.parametrize("shape", [(40, 500), (2000, 11), (7, 3, 300), (2, 10_000)])
def test_threads_and_batches(shape, dtype, monkeypatch):
    p = Problem(shape, "labels", dtype)
    for names in ((), OPTIONS):
        whole = three(p.logits, p.target, n_threads=1, **p.select(names))
        monkeypatch.setattr(threads, "BLOCK_ELEMENTS", 1000)
        monkeypatch.setattr(threads, "THREAD_ELEMENTS", 500)
        for n_threads in (1, 2, 3):
            assert_same(three(p.logits, p.target, n_threads=n_threads, **p.select(names)), whole)
        i = len(p.logits) // 3
        parts = [p.with_rows(lambda a, k=k: a[k]) for k in (slice(i), slice(i, None))]
        results = [three(part.logits, part.target, **part.select(names)) for part in parts]
        assert_same([np.concatenate(pair) for pair in zip(*results, strict=True)], whole)
        monkeypatch.undo()


@each_dtype
def test_nothing_else_is_written(dtype):
    for n in (*SHORT_LENGTHS, 511, 513):
        p = Problem((3, n), "labels", dtype)
        for names in ((), OPTIONS):
            (grad, of_grad), (hess, of_hess) = guarded(p.logits), guarded(p.logits)
            xent.cross_entropy(p.logits, p.target, grad_out=grad, hess_out=hess, **p.select(names))
            of_grad()
            of_hess()


# How far gradient and Hessian are from an aligned address, in elements; None: in place of the logits.
AROUND = [(0, 0), (1, 1), (4, 9), (None, 0), (None, 3)]


@each_dtype
@pytest.mark.parametrize("offsets", AROUND, ids=str)
@pytest.mark.parametrize("n", [1001, 20_000])
def test_outputs_around_the_cache(n, offsets, dtype):
    """A row is stored while the next one is computed, in pieces that depend on where it is in memory."""
    rng = np.random.default_rng(0)
    rows = (9 << 19) // (n * np.dtype(dtype).itemsize)
    x = rng.standard_normal((rows, n), np.float32).astype(dtype)
    labels = rng.integers(n, size=rows)
    labels[::9], x[4::9, 17] = -100, NAN
    outs = [np.full(x.size + 40, 7, dtype) for _ in offsets]
    grad, hess = (
        None if offset is None else out[offset + 8 : offset + 8 + x.size].reshape(x.shape)
        for out, offset in zip(outs, offsets, strict=True)
    )
    logits = x.copy() if grad is None else x
    grad = logits if grad is None else grad
    xent.cross_entropy(logits, labels, reduction="sum", grad_out=grad, hess_out=hess, n_threads=2)
    for out, offset in zip(outs, offsets, strict=True):
        if offset is not None:
            assert (out[: offset + 8] == 7).all()
            assert (out[offset + 8 + x.size :] == 7).all()
    for start in range(0, rows, 40):
        k = slice(start, start + 40)
        expected = three(x[k], labels[k], "sum")
        assert_same((grad[k], hess[k]), expected[1:])


@each_dtype
def test_long_rows(dtype):
    """In pieces, where one of the arrays has to be copied."""
    n = 80_003
    x = rows_with_every_maximum(n, dtype)[[3, 6]]
    x[1, n // 3] = -INF
    apart = np.full((2, 2 * n), 99, dtype)[:, ::2]
    for options in ({}, {"logit_scale": -0.75, "label_smoothing": 0.1}):
        expected = three(x, [1, n - 1], n_threads=1, **options)
        assert_close(expected[2], twin(x, [1, n - 1], **options), dtype)
        for grad, hess in ((None, apart), (apart, None), (x.copy(), apart)):
            logits = grad if grad is not None and grad is not apart else x
            results = xent.cross_entropy(
                logits, [1, n - 1], return_hess=True, reduction="none", grad_out=grad, hess_out=hess, n_threads=2,
                **options,
            )
            assert_same(results, expected)


# --- types and arguments ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("half", HALVES)
def test_half_precision(half):
    """It is computed in float32, and has the type of the gradient, or of `hess_out`."""
    for n in (10, 300, 3000):
        x = np.random.default_rng(0).normal(size=(5, n)).astype(half)
        labels = np.arange(5)
        loss, grad, hess = three(x.astype(np.float32), labels)
        result = three(x, labels)
        assert [a.dtype for a in result] == [np.float32, half, half]
        assert_same_bits(result[0], loss)
        assert_same_bits(result[2].astype(np.float32), hess.astype(half).astype(np.float32))
        wide = np.full(x.shape, 7, np.float32)
        result = xent.cross_entropy(x, labels, reduction="none", grad_out=wide.copy(), return_hess=True)
        assert_same(result, (loss, grad, hess))
        result = xent.cross_entropy(x, labels, reduction="none", hess_out=wide)
        assert result[1].dtype == half
        assert result[2] is wide
        assert_same_bits(wide, hess)
        inside = x.copy()
        result = xent.cross_entropy(inside, labels, reduction="none", grad_out=inside, hess_out=wide)
        assert_same_bits(wide, hess)
    fails(
        TypeError, f"hess_out has dtype float64; it must be {np.dtype(half)}, as logits, or float32",
        xent.cross_entropy, x, labels, hess_out=np.zeros(x.shape),
    )


def test_what_is_returned():
    """hess_out implies return_hess, which implies return_grad."""
    hess = np.empty_like(X)
    assert len(xent.cross_entropy(X, LABELS, return_hess=True)) == 3
    result = xent.cross_entropy(X, LABELS, return_grad=False, return_hess=False, hess_out=hess)
    assert result[2] is hess
    assert type(result[0]) is float
    assert isinstance(xent.cross_entropy(X, LABELS, return_hess=False), float)
    assert len(xent.cross_entropy(X, LABELS, return_hess=np.True_)) == 3
    integers = three([[1, 2, 4]], [0])
    assert [a.dtype for a in integers] == [np.float64] * 3


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("given", [{"return_hess": True}, {"hess_out": np.zeros_like(X)}], ids=min)
def test_options_whose_hessian_has_another_form(given, name):
    value = REFUSED[name]
    default = None if name == "softcap" else 0.0
    message = f"{name} is {value}; with return_hess or hess_out it must be {default}"
    fails(ValueError, message, xent.cross_entropy, X, LABELS, **{name: value}, **given)
    xent.cross_entropy(X, LABELS, **{name: default}, **given)
    assert "return_hess" not in xent.linear_cross_entropy.__kwdefaults__


BAD = [
    ([0.0], TypeError, "hess_out is a list; it must be a NumPy array"),
    (np.zeros((3, 4), np.float32), TypeError, "hess_out has dtype float32; it must be float64, as logits"),
    (np.zeros((4, 3)), ValueError, "hess_out has shape (4, 3); it must have shape (3, 4), as logits"),
    (LAYOUTS["read-only"](X), ValueError, "hess_out is read-only; it must be writeable"),
]


@pytest.mark.parametrize(("hess", "error", "message"), BAD, ids=lambda value: str(value)[:20])
def test_outputs_that_do_not_fit(hess, error, message):
    grad = np.full_like(X, 77)
    fails(error, message, xent.cross_entropy, X, LABELS, grad_out=grad, hess_out=hess)
    assert (grad == 77).all()


def test_overlaps():
    """With the logits, even if it is them, the gradient or another argument."""
    memory, grad = np.full((8, 8), 0.25), np.full_like(X, 77)
    x, before = memory[:3, :4], memory.copy()
    for hess in (x, memory[1:4, :4], x[::-1]):
        for given in ({}, {"grad_out": grad}, {"grad_out": x}):
            message = "hess_out overlaps logits in memory; it must have memory of its own"
            fails(ValueError, message, xent.cross_entropy, x, LABELS, hess_out=hess, **given)
    out = memory[4:7, 4:]
    message = "hess_out overlaps grad_out in memory; it must have memory of its own"
    for hess in (out, memory[5:8, 4:]):
        fails(ValueError, message, xent.cross_entropy, x, LABELS, grad_out=out, hess_out=hess)
    for name, given in (
        ("target", {"target": out}),
        ("target[1]", {"target": (INDICES, out[:, :2])}),
        ("class_weight", {"class_weight": out[0]}),
        ("sample_weight", {"sample_weight": out[:, 1]}),
        ("where", {"where": out.view(bool)[0, 8:12]}),
    ):
        message = f"hess_out overlaps {name} in memory; it must have memory of its own"
        fails(ValueError, message, xent.cross_entropy, **{"logits": x, "target": LABELS, **given}, hess_out=out)
    np.testing.assert_array_equal(memory, before)
    assert (grad == 77).all()
    xent.cross_entropy(memory[::2, ::2][:3], LABELS, hess_out=memory[1::2, 1::2][:3])       # interlaced, but apart


BAD_CALLS = [
    {"target": [0, 1, 4]}, {"target": (INDICES + 1, MASS)}, {"label_smoothing": 2}, {"z_loss": 0.5}, {"softcap": 0},
    {"reduction": "all"}, {"n_threads": 0}, {"sample_weight": -1.0}, {"axis": 2},
]       # fmt: skip


@pytest.mark.parametrize("bad", BAD_CALLS, ids=min)
def test_nothing_is_written_after_an_error(bad):
    grad, hess = np.full_like(X, 77), np.full_like(X, 77)
    with pytest.raises((ValueError, TypeError)):
        xent.cross_entropy(**{"logits": X, "target": LABELS, "grad_out": grad, "hess_out": hess, **bad})
    assert (grad == 77).all()
    assert (hess == 77).all()
