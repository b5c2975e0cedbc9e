"""The ways through the kernels agree: tiles of few classes and the rows that these leave out, whole calls on plain
arrays, long rows of half precision, and outputs that are stored around the cache. Rows alone and in batches, in every
layout, are in tests/losses/test_batch_invariance.py.
"""

import inspect

import ml_dtypes
import numpy as np
import pytest
import reference
from reference import DTYPES, WRITEABLE_LAYOUTS, assert_close, assert_same_bits, rows_with_every_maximum

import xent
from xent._calls.dispatch import kernels
from xent._calls.options import GivenOptions

INF, NAN = np.inf, np.nan
CLASSES = [1, 2, 3, 4, 5, 7, 8, 10, 16, 33, 63, 64, 65]

each_dtype = pytest.mark.parametrize("dtype", DTYPES)


def strange_rows(n, dtype, rows=75):
    """Ordinary rows, and among them ties, infinities, NaN, ignored labels and weights of every size."""
    rng = np.random.default_rng([n, 0])
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


def assert_same(actual, expected):
    """The same bits in the same types, in tuples too."""
    if isinstance(expected, tuple):
        for a, b in zip(actual, expected, strict=True):
            assert_same(a, b)
    else:
        assert type(actual) is type(expected)
        assert_same_bits(np.asarray(actual), np.asarray(expected))


# --- tiles -----------------------------------------------------------------------------------------------------------


@each_dtype
@pytest.mark.parametrize("n", CLASSES)
def test_strange_rows(n, dtype):
    """Tiles leave some of their rows to the kernels of rows."""
    x, y, _ = strange_rows(n, dtype)
    twin = reference.cross_entropy(x, y, reduction="none")
    for actual, expected in zip(xent.cross_entropy(x, y, reduction="none", return_grad=True), twin, strict=True):
        assert_close(actual, expected, dtype)
    for name in ("logsumexp", "softmax", "log_softmax"):
        assert_close(getattr(xent, name)(x), getattr(reference, name)(x), dtype)


@each_dtype
@pytest.mark.parametrize("n", [*CLASSES, 300])
def test_masked_rows_alone_and_together(n, dtype):
    """In tiles and apart, with a mask that lies in memory as the logits do or otherwise, or is the same for all."""
    x, y, _ = strange_rows(n, dtype)
    own = np.random.default_rng(n).random(x.shape) < 0.7
    own[2::7] = False
    for where in (own, own[1], own[:, :1]):
        rows = np.broadcast_to(where, x.shape)
        expected = masked_results(x, y, rows)
        for first, count in ((0, 1), (1, 2), (5, 9), (16, 15), (60, 15)):
            k = slice(first, first + count)
            for a, b in zip(masked_results(x[k], y[k], rows[k]), expected, strict=True):
                assert_same_bits(a, b[k])
        for shape in ((75,), (3, 25), (5, 15)):
            axis = min(1, len(shape) - 1)
            images, masks = (np.ascontiguousarray(np.moveaxis(a.reshape(*shape, n), -1, axis)) for a in (x, rows))
            for mask in (masks, np.asfortranarray(masks), np.repeat(masks, 2, axis=-1)[..., ::2]):
                for moved in (images, np.asfortranarray(images)):
                    actual = masked_results(moved, y.reshape(shape), mask, axis)
                    for a, b in zip(actual, expected, strict=True):
                        assert_same_bits(a.reshape(b.shape), b)


def masked_results(x, y, where, axis=-1):
    loss, grad = xent.cross_entropy(x, y, axis=axis, where=where, reduction="none", return_grad=True)
    primitives = (f(x, axis, where=where) for f in (xent.softmax, xent.log_softmax))
    return [loss, xent.logsumexp(x, axis, where=where), *(np.moveaxis(a, axis, -1) for a in (grad, *primitives))]


@each_dtype
@pytest.mark.parametrize("n", CLASSES)
def test_distributions_beside_labels(n, dtype):
    """Rows with all their mass on one class give the bits of a label; the others are computed as rows."""
    x, y, weight = strange_rows(n, dtype)
    y = np.where(y < 0, 0, y)
    dense = np.eye(n, dtype=dtype)[y]
    dense[::5] = np.random.default_rng(n).dirichlet(np.ones(n), len(dense[::5]))
    keep = np.arange(len(x)) % 5 != 0
    of_labels = xent.cross_entropy(x, y, sample_weight=weight, reduction="none", return_grad=True)
    mixed = xent.cross_entropy(x, dense, sample_weight=weight, reduction="none", return_grad=True)
    for a, b in zip(mixed, of_labels, strict=True):
        assert_same_bits(a[keep], b[keep])
    twin = reference.cross_entropy(x, dense, reduction="none")
    for a, b in zip(xent.cross_entropy(x, dense, reduction="none", return_grad=True), twin, strict=True):
        assert_close(a, b, dtype)


# --- plain arrays ----------------------------------------------------------------------------------------------------


@pytest.fixture
def general(monkeypatch):
    """A context in which no call takes the fast path for plain arrays."""

    class General:
        def __enter__(self):
            for name in ("plain_softmax", "plain_logsumexp", "plain_cross_entropy"):
                monkeypatch.setattr(kernels, name, lambda *_: None)

        def __exit__(self, *_):
            monkeypatch.undo()

    return General()


@each_dtype
@pytest.mark.parametrize("shape", [(1, 10), (32, 10), (3, 5, 7), (40, 100), (300, 1000), (3, 30_000)])
@pytest.mark.parametrize("n_threads", [None, 1, 3])
def test_the_fast_path_is_the_general_one(shape, dtype, n_threads, general):
    rng = np.random.default_rng(0)
    x, y = (10 * rng.standard_normal(shape)).astype(dtype), rng.integers(0, shape[-1], shape[:-1])
    y.flat[0] = -100

    def calls():
        yield xent.softmax(x, n_threads=n_threads)
        yield xent.log_softmax(x, axis=x.ndim - 1, out=np.empty_like(x), n_threads=n_threads)
        yield xent.logsumexp(x, n_threads=n_threads)
        yield xent.logsumexp(x.reshape(-1), n_threads=n_threads)
        for reduction in ("mean", "sum", "none"):
            options = {"reduction": reduction, "n_threads": n_threads}
            yield xent.cross_entropy(x, y, **options)
            yield xent.cross_entropy(x, y, return_grad=True, **options)
            inside = x.copy()
            yield xent.cross_entropy(inside, y, grad_out=inside, **options)
            yield xent.cross_entropy(x, y, return_hess=True, **options)
            inside = x.copy()
            yield xent.cross_entropy(inside, y, grad_out=inside, hess_out=np.full_like(x, 7), **options)
        for labels in (np.int8, np.int16, np.int32, np.uint8, np.uint16, np.uint32):
            small = np.where((y < 0) | (y > 100), 3, y).astype(labels)
            yield xent.cross_entropy(x, small, ignore_index=3, return_grad=True, n_threads=n_threads)

    plain = tuple(calls())
    with general:
        assert_same(plain, tuple(calls()))


NOT_DEFAULT = {
    "class_weight": np.arange(20.0), "sample_weight": np.arange(10.0), "where": np.arange(20) != 3, "logit_scale": 2.0,
    "softcap": 5.0, "label_smoothing": 0.25, "z_loss": 0.5,
    "poly_epsilon": 1.5, "focal_gamma": 2.0,
}


@pytest.mark.parametrize("name", GivenOptions._fields)
def test_a_call_with_an_option_is_not_plain(name, general):
    """The option counts; a bool is not taken for the number that it equals; the default, given, is the default."""
    x, y, _ = strange_rows(20, np.float32, rows=10)
    plain = xent.cross_entropy(x, y, reduction="none", return_grad=True)

    def call(value):
        return xent.cross_entropy(x, y, reduction="none", return_grad=True, **{name: value})

    result = call(NOT_DEFAULT[name])
    assert not np.array_equal(result[1], plain[1], equal_nan=True)
    with general:
        assert_same(result, call(NOT_DEFAULT[name]))
    default = inspect.signature(xent.cross_entropy).parameters[name].default
    assert default == GivenOptions._field_defaults[name]
    assert_same(call(default), plain)
    if default is not None:
        assert_same(call(float(repr(default))), plain)
        with pytest.raises(TypeError, match=f"{name} is"):
            call(bool(default))


# --- rows that do not fit the scratch --------------------------------------------------------------------------------

LONGER = 150_001        # more than the scratch of anything that is copied


def long_rows(n, dtype):
    x = rows_with_every_maximum(n, dtype)[[0, 3, 6]]
    x[1, n // 3] = -INF
    return x


def long_targets(n):
    rng = np.random.default_rng(1)
    yield np.array([0, 1, n - 1])       # which no mask hides
    yield rng.dirichlet(np.ones(n), 3)
    yield rng.integers(0, n, (3, 5)), rng.random((3, 5))


@each_dtype
@pytest.mark.parametrize("function", [xent.softmax, xent.log_softmax, xent.logsumexp])
def test_primitives_of_long_rows(function, dtype):
    for special in (0, INF, -INF, NAN):
        x = long_rows(LONGER, dtype)
        x[1, [5, -7]] += special
        expected = function(x)
        apart = np.full((len(x), 2 * LONGER), 99, dtype)[:, ::2]
        apart[...] = x
        assert_same(function(apart, n_threads=1), expected)
        assert_same(function(np.asfortranarray(x)), expected)
        where = np.arange(3 * LONGER).reshape(x.shape) % 11 < 8
        masked = function(np.where(where, x, dtype(-INF)))
        for array in (x, apart, np.asfortranarray(x)):
            for mask in (where, np.asfortranarray(where), np.repeat(where, 2, axis=1)[:, ::2]):
                assert_same(function(array, where=mask, n_threads=1), masked)
        if function is not xent.logsumexp:
            assert_same(function(apart.copy("K"), where=where, out=apart), masked)
            apart[...] = x
            assert_same(function(apart, out=apart), expected)
        half = x.astype(np.float16)
        exact = function(half.astype(np.float32)).astype(np.float16)
        np.testing.assert_array_equal(function(half), exact)


@pytest.mark.parametrize("half", [np.float16, ml_dtypes.bfloat16])
def test_long_rows_of_half_precision(half):
    """They are the rows in float32."""
    x = long_rows(LONGER, np.float32).astype(half)
    wide = x.astype(np.float32)
    for function in (xent.softmax, xent.log_softmax, xent.logsumexp):
        assert_same(function(x).astype(np.float32), function(wide).astype(half).astype(np.float32))
    for options in ({}, {"softcap": 5.0}):
        options |= {"return_grad": True, "reduction": "none"}
        for target in long_targets(LONGER):
            expected = xent.cross_entropy(wide, target, **options)
            assert_same(xent.cross_entropy(x, target, grad_out=np.empty_like(wide), **options), expected)
            narrow = xent.cross_entropy(x, target, **options)[1]
            assert narrow.dtype == half
            np.testing.assert_array_equal(narrow.astype(np.float32), expected[1].astype(half).astype(np.float32))


# --- outputs that are stored around the cache ------------------------------------------------------------------------

AROUND_BYTES = 18_000_000
FUNCTIONS = {
    "softmax": lambda x, target, out, n_threads, **_: xent.softmax(x, out=out, n_threads=n_threads),
    "log_softmax": lambda x, target, out, n_threads, **_: xent.log_softmax(x, out=out, n_threads=n_threads),
    "masked softmax": lambda x, target, out, n_threads, **_: xent.softmax(
        x, where=x > -9, out=out, n_threads=n_threads
    ),
    "masked log_softmax": lambda x, target, out, n_threads, **_: xent.log_softmax(
        x, where=x > -9, out=out, n_threads=n_threads
    ),
    "cross_entropy": lambda x, target, out, n_threads, **options: xent.cross_entropy(
        x, target, grad_out=out, reduction="sum", n_threads=n_threads, **options
    )[1],
}
CASES = [       # layout of the logits, classes, threads, how far the output is from an aligned address
    ("C", 2001, 1, 0), ("C", 4096, 2, 1), ("C", 64_000, 2, 5),
    *((name, 12_000, 2, 1) for name in WRITEABLE_LAYOUTS if name != "C"),
]       # fmt: skip


TARGETS = ["labels", "distribution", "sparse"]


def make_target(kind, x):
    """A function of a slice of rows."""
    rng = np.random.default_rng(0)
    rows, n = x.shape
    labels, points, masses = rng.integers(n, size=rows), rng.integers(n, size=(rows, 3)), rng.random((rows, 3))
    labels[rng.random(rows) < 0.1] = labels[-1] = -100
    return {
        "labels": lambda k: labels[k],
        "distribution": lambda k: np.abs(x[k]),
        "sparse": lambda k: (points[k], masses[k]),
    }[kind]


def check_around(call, x, target, offset, n_threads, options=lambda k: {}):
    """A call that fills a large array, with a guard at both ends; and calls for a few rows, whose output is small."""
    memory = np.full(x.size + 20, 7, x.dtype)
    out = memory[offset : offset + x.size].reshape(x.shape)
    every = slice(None)
    call(x, target(every), out, n_threads, **options(every))
    assert (memory[:offset] == 7).all()
    assert (memory[offset + x.size :] == 7).all()
    for start in range(0, len(x), 50):
        k = slice(start, start + 50)
        assert_same_bits(out[k], call(x[k], target(k), np.empty(x[k].shape, x.dtype), 1, **options(k)))


@each_dtype
@pytest.mark.parametrize("case", CASES, ids=str)
def test_outputs_around_the_cache(case, dtype):
    """A row goes to memory while the next one is computed, if there is anything to compute in that; rows that are apart
    in memory are gathered into a scratch beside it."""
    layout, classes, n_threads, offset = case
    rows = AROUND_BYTES // (classes * np.dtype(dtype).itemsize)
    rng = np.random.default_rng(0)
    x = (10 * rng.standard_normal((rows, classes), np.float32)).astype(dtype)
    x[rng.random(rows) < 0.2, 17] = NAN
    x[rng.random(rows) < 0.2] = -INF
    moved = WRITEABLE_LAYOUTS[layout](x)
    for name in FUNCTIONS:
        for kind in TARGETS if name == "cross_entropy" else TARGETS[:1]:
            check_around(FUNCTIONS[name], moved, make_target(kind, x), offset, n_threads)


@pytest.mark.deep
@each_dtype
@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("layout", WRITEABLE_LAYOUTS)
def test_outputs_around_the_cache_with_any_options(layout, function, dtype):
    rng = np.random.default_rng(list(WRITEABLE_LAYOUTS).index(layout))
    for n_threads in (1, 2, 2, 3):
        n = int(rng.choice([1536, 1999, 6000, 20_001, 32_000, 64_000]))
        rows = int((1 << 24) // (n * np.dtype(dtype).itemsize) * rng.uniform(1.05, 1.5)) + 2
        x = (3 * rng.standard_normal((rows, n), np.float32)).astype(dtype)
        weight = rng.random(rows)
        of_rows = {"sample_weight": lambda k, weight=weight: weight[k], "where": lambda k, x=x: x[k] < 6}
        same = {"label_smoothing": 0.1, "logit_scale": 1.5, "softcap": 20.0, "z_loss": 1e-3}
        same["class_weight"] = rng.random(n)
        names = [name for name in (*of_rows, *same) if rng.random() < 0.2]

        def options(k, names=names, of_rows=of_rows, same=same):
            return {name: of_rows[name](k) if name in of_rows else same[name] for name in names}

        target = make_target(TARGETS[rng.integers(3)], x)
        moved = WRITEABLE_LAYOUTS[layout](x)
        check_around(FUNCTIONS[function], moved, target, int(rng.integers(8)), n_threads, options)
