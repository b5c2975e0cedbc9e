"""Whole calls on plain arrays, rows that are apart in memory, and outputs too large for the cache: other ways through
the kernels, with the same bits."""

import inspect

import numpy as np
import pytest

import xent
from xent._calls.dispatch import kernels
from xent._calls.options import GivenOptions

DTYPES = [np.float32, np.float64]
LABELS = [np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32]
each_dtype = pytest.mark.parametrize("dtype", DTYPES)


@pytest.fixture
def general(monkeypatch):
    """A context in which no call is plain."""

    class General:
        def __enter__(self):
            for name in ("plain_softmax", "plain_logsumexp", "plain_cross_entropy"):
                monkeypatch.setattr(kernels, name, lambda *_: None)

        def __exit__(self, *_):
            monkeypatch.undo()

    return General()


def batch(rows, classes, dtype, seed=0):
    rng = np.random.default_rng(seed)
    return (10 * rng.standard_normal((rows, classes))).astype(dtype), rng.integers(0, classes, rows)


def same(a, b):
    if isinstance(a, tuple):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            same(x, y)
    else:
        assert type(a) is type(b)
        np.testing.assert_array_equal(a, b)
        assert np.asarray(a).dtype == np.asarray(b).dtype


@each_dtype
@pytest.mark.parametrize("shape", [(1, 10), (32, 10), (3, 5, 7), (40, 100), (300, 1000), (3, 30_000)])
@pytest.mark.parametrize("n_threads", [None, 1, 3])
def test_plain_calls_have_the_bits_of_all_others(shape, dtype, n_threads, general):
    x, y = batch(int(np.prod(shape[:-1])), shape[-1], dtype)
    x, y = x.reshape(shape), y.reshape(shape[:-1])
    y.flat[0] = -100

    def calls():
        yield xent.softmax(x, n_threads=n_threads)
        yield xent.log_softmax(x, axis=x.ndim - 1, out=np.empty_like(x), n_threads=n_threads)
        yield xent.logsumexp(x, n_threads=n_threads)
        yield xent.logsumexp(x.reshape(-1), n_threads=n_threads)
        for reduction in ("mean", "sum", "none"):
            yield xent.cross_entropy(x, y, reduction=reduction, n_threads=n_threads)
            yield xent.cross_entropy(x, y, reduction=reduction, return_grad=True, n_threads=n_threads)
            inside = x.copy()
            yield xent.cross_entropy(inside, y, reduction=reduction, grad_out=inside, n_threads=n_threads)

    plain = list(calls())
    with general:
        expected = list(calls())
    same(tuple(plain), tuple(expected))


@pytest.mark.parametrize("labels", LABELS)
def test_labels_of_any_type(labels, general):
    x, y = batch(500, 20, np.float32)
    plain = xent.cross_entropy(x, y.astype(labels), ignore_index=3, return_grad=True)
    with general:
        same(plain, xent.cross_entropy(x, y.astype(labels), ignore_index=3, return_grad=True))


NOT_DEFAULT = {
    "class_weight": np.arange(20.0), "sample_weight": np.arange(10.0), "where": np.arange(20) != 3, "logit_scale": 2.0,
    "softcap": 5.0, "label_smoothing": 0.25, "z_loss": 0.5,
}


@pytest.mark.parametrize("name", GivenOptions._fields)
def test_a_call_with_an_option_is_not_plain(name, general):
    """The option counts; a bool is not taken for the number that it equals; the default, given, is the default."""
    x, y = batch(10, 20, np.float32)
    plain = xent.cross_entropy(x, y, return_grad=True)
    result = xent.cross_entropy(x, y, return_grad=True, **{name: NOT_DEFAULT[name]})
    assert not np.array_equal(result[1], plain[1])
    with general:
        same(result, xent.cross_entropy(x, y, return_grad=True, **{name: NOT_DEFAULT[name]}))
    default = inspect.signature(xent.cross_entropy).parameters[name].default
    assert default == GivenOptions._field_defaults[name]
    same(xent.cross_entropy(x, y, return_grad=True, **{name: default}), plain)
    if default is not None:
        same(xent.cross_entropy(x, y, return_grad=True, **{name: float(repr(default))}), plain)
        with pytest.raises(TypeError, match=f"{name} is"):
            xent.cross_entropy(x, y, **{name: bool(default)})


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x, y: xent.cross_entropy(x, y + 20), r"target\[0\] is"),
        (lambda x, y: xent.cross_entropy(x, y.astype(float)), "target has dtype float64"),
        (lambda x, y: xent.cross_entropy(x, y[:-1]), "target has shape"),
        (lambda x, y: xent.cross_entropy(x, y, n_threads=0), "n_threads is 0"),
        (lambda x, y: xent.cross_entropy(x, y, reduction="median"), "reduction is 'median'"),
        (lambda x, y: xent.cross_entropy(x, y, ignore_index=1.0), "ignore_index is 1.0"),
        (lambda x, y: xent.cross_entropy(x, y, grad_out=x[:, ::-1]), "grad_out"),
        (lambda x, y: xent.cross_entropy(x[:-1], y[:-1], grad_out=x[1:]), "grad_out overlaps logits"),
        (lambda x, y: xent.cross_entropy(x, y, grad_out=np.empty_like(x, np.float64)), "grad_out has dtype"),
        (lambda x, y: xent.softmax(x[:-1], out=x[1:]), "out overlaps x"),
        (lambda x, y: xent.softmax(x, out=np.empty((3, 4), x.dtype)), "out has shape"),
        (lambda x, y: xent.softmax(x, axis=2), "axis is 2"),
        (lambda x, y: xent.logsumexp(x, n_threads=True), "n_threads is True"),
    ],
)
def test_what_is_not_plain_is_still_said(call, message):
    x, y = batch(10, 20, np.float32)
    before = x.copy()
    with pytest.raises((ValueError, TypeError), match=message):
        call(x, y)
    np.testing.assert_array_equal(x, before)


@each_dtype
@pytest.mark.parametrize("classes", [20, 66, 100, 1000, 5000, 40_000])
@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.25}])
def test_rows_apart_in_memory(classes, dtype, options):
    """Class axis first or in the middle, with runs of rows that are no multiple of anything."""
    rows = max(7, 20_000 // classes)
    x, y = batch(rows, classes, dtype)
    y[0] = -100
    expected = xent.cross_entropy(x, y, reduction="none", return_grad=True, **options)
    apart = np.asfortranarray(x)
    for out in (None, np.empty_like(x), apart):
        loss, grad = xent.cross_entropy(
            apart if out is not None else np.asfortranarray(x), y, reduction="none", return_grad=True,
            grad_out=out, **options,
        )
        same((loss, np.ascontiguousarray(grad)), expected)
    images = np.moveaxis(np.stack([x, x[::-1]]), -1, 1)
    images = np.ascontiguousarray(images)
    assert images.shape == (2, classes, rows)
    for function in (xent.softmax, xent.log_softmax, xent.logsumexp):
        along = function(images, axis=1)
        beside = np.moveaxis(along, 1, -1) if along.ndim == 3 else along
        same(np.ascontiguousarray(beside[0]), function(x))
        same(np.ascontiguousarray(beside[1]), np.ascontiguousarray(function(x)[::-1]))


@each_dtype
@pytest.mark.parametrize("offset", [0, 1, 5])
@pytest.mark.parametrize("classes", [2001, 4096])
def test_large_outputs(classes, offset, dtype):
    """Around the cache, to an address that is aligned to elements alone; nothing beside them is touched."""
    rows = 18_000_000 // (classes * np.dtype(dtype).itemsize)
    x, y = batch(rows, classes, dtype)
    memory = np.full(x.size + 20, 7, dtype)
    out = memory[offset : offset + x.size].reshape(x.shape)
    some = slice(rows - 50, rows)
    for function in (xent.softmax, xent.log_softmax):
        function(x, out=out)
        same(out[some].copy(), function(x[some]))
    xent.cross_entropy(x, y, reduction="sum", grad_out=out)
    same(out[some].copy(), xent.cross_entropy(x[some], y[some], reduction="sum", return_grad=True)[1])
    assert (memory[:offset] == 7).all()
    assert (memory[offset + x.size :] == 7).all()


@each_dtype
@pytest.mark.parametrize("n_threads", [1, 2])
def test_large_outputs_with_strange_rows(n_threads, dtype):
    """A row goes to memory while the next one is computed, and so it does if there is nothing to compute in that."""
    classes = 2001
    rows = 18_000_000 // (classes * np.dtype(dtype).itemsize)
    x, y = batch(rows, classes, dtype)
    kind = np.random.default_rng(0).integers(0, 6, rows)
    x[kind == 0, 17] = np.nan
    x[kind == 1] = -np.inf
    y[kind == 2] = -100
    y[-1] = -100
    grad = np.full_like(x, 7)
    xent.cross_entropy(x, y, reduction="sum", grad_out=grad, n_threads=n_threads)
    out = np.full_like(x, 7)
    logarithms = np.full_like(x, 7)
    xent.softmax(x, out=out, n_threads=n_threads)
    xent.log_softmax(x, out=logarithms, n_threads=n_threads)
    for start in range(0, rows, 50):        # too small to be sent around the cache
        some = slice(start, start + 50)
        same(grad[some].copy(), xent.cross_entropy(x[some], y[some], reduction="sum", return_grad=True)[1])
        same(out[some].copy(), xent.softmax(x[some]))
        same(logarithms[some].copy(), xent.log_softmax(x[some]))


@each_dtype
def test_probability_of_the_maximum(dtype):
    """Exactly 1 where nothing else counts, and equal where maxima are, whatever their size."""
    for m in (0.0, 0.3, -7.7, 123.456, 1e4, -3e5, 1e30):
        x = np.full((3, 200), m - 5 if abs(m) < 1e6 else m / 2, dtype)
        x[:, ::50] = m
        p = xent.softmax(x)
        assert (p[:, ::50] == p[0, 0]).all()
        x[:] = -np.inf
        x[:, 7] = m
        np.testing.assert_array_equal(xent.softmax(x), np.eye(200, dtype=dtype)[[7, 7, 7]])


@each_dtype
@pytest.mark.parametrize("n_threads", [0, -1, True, 1.0, "2"])
def test_thread_counts_that_are_none(n_threads, dtype):
    x, y = batch(4, 5, dtype)
    for call in (xent.softmax, xent.logsumexp):
        with pytest.raises((TypeError, ValueError), match="n_threads"):
            call(x, n_threads=n_threads)
    with pytest.raises((TypeError, ValueError), match="n_threads"):
        xent.cross_entropy(x, y, n_threads=n_threads)
