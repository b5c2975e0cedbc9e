"""logsumexp, softmax and log_softmax against the twin: types, layouts, axes, shapes, lengths, outputs, infinities."""

import itertools

import numpy as np
import pytest
import reference
from hypothesis import given
from hypothesis import strategies as st
from reference import (
    DTYPES,
    EDGE_LENGTHS,
    LAYOUTS,
    NANS,
    SHORT_LENGTHS,
    WRITEABLE_LAYOUTS,
    arrays,
    assert_close,
    assert_same_bits,
    guarded,
    rows_with_every_maximum,
)

import xent

NAMES = ["logsumexp", "softmax", "log_softmax"]
OUTPUTS = ["softmax", "log_softmax"]
SHAPES = [(5,), (3, 5), (2, 3, 5), (2, 3, 4, 5)]
INF, NAN = np.inf, np.nan

each = pytest.mark.parametrize("name", NAMES)
outputs = pytest.mark.parametrize("name", OUTPUTS)


def both(name, x, axis=-1, **options):
    return getattr(xent, name)(x, axis, **options), getattr(reference, name)(x, axis)


def every_axis(ndim):
    """Each axis counted from both ends, every combination of axes in some order, none of them, and all."""
    yield from range(-ndim, ndim)
    for k in range(ndim + 1):
        yield from itertools.combinations(range(ndim), k)
    yield tuple(range(-1, -ndim - 1, -1))
    yield None


def normal(shape, dtype=np.float64, scale=3, seed=0):
    return np.random.default_rng(seed).normal(size=shape, scale=scale).astype(dtype)


# --- sweeps ----------------------------------------------------------------------------------------------------------


@each
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_layouts_and_axes(name, layout, dtype):
    for shape in SHAPES:
        x = LAYOUTS[layout](normal(shape, dtype))
        before = x.copy()
        for axis in every_axis(len(shape)):
            assert_close(*both(name, x, axis), dtype)
        np.testing.assert_array_equal(x, before)


@each
@pytest.mark.parametrize("dtype", DTYPES)
def test_broadcast_arrays(name, dtype):
    for shape in [(1, 5), (4, 1), (1, 1)]:
        x = np.broadcast_to(normal(shape, dtype), (3, 4, 5))
        for axis in every_axis(3):
            assert_close(*both(name, x, axis), dtype)


@each
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("lengths", [SHORT_LENGTHS, EDGE_LENGTHS], ids=["short", "edge"])
def test_row_lengths(name, lengths, dtype):
    for n in lengths:
        x = rows_with_every_maximum(n, dtype)
        assert_close(*both(name, x), dtype)
        assert_close(*both(name, np.asfortranarray(x)), dtype)
        assert_close(*both(name, x.T.copy(), 0), dtype)


@each
@pytest.mark.parametrize("kind", ["i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", ">i4", ">u8"])
def test_integers_become_float64(name, kind):
    x = np.array([[3, 100, 7], [1, 2, 3]], kind)
    assert_close(*both(name, x), np.float64)


@each
@pytest.mark.parametrize("x", [[1.0, 2.0, 4.0], [[1, 2], [3, 5]], ((0.5, 1), (2, 3)), range(4), 1.5, np.float64(2)])
def test_nested_lists_and_scalars(name, x):
    for axis in {None, -1 if np.ndim(x) else None, ()}:
        assert_close(*both(name, x, axis), np.float64)


@each
@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0), (0, 0), (2, 0, 3)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_empty_shapes(name, shape, dtype):
    for axis in every_axis(len(shape)):
        actual, expected = both(name, np.zeros(shape, dtype), axis)
        assert_close(actual, expected, dtype)
        if name in OUTPUTS:
            out = np.zeros(shape, dtype)
            assert getattr(xent, name)(out, axis, out=out) is out


def test_keepdims():
    for shape in [*SHAPES, (2, 0, 3)]:
        for axis in every_axis(len(shape)):
            actual = xent.logsumexp(normal(shape), axis, keepdims=True)
            assert_close(actual, reference.logsumexp(normal(shape), axis, keepdims=True), np.float64)


@each
def test_kinds_of_result(name):
    x = normal(4, np.float32)
    result = getattr(xent, name)(x)
    assert type(result) is (np.float32 if name == "logsumexp" else np.ndarray)
    assert type(getattr(xent, name)(LAYOUTS["subclass"](normal((3, 4))))) is np.ndarray


# --- outputs ---------------------------------------------------------------------------------------------------------


@outputs
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", WRITEABLE_LAYOUTS)
def test_out(name, layout, dtype):
    """Fresh and in place, whatever the strides, for every axis."""
    for shape in SHAPES:
        for axis in every_axis(len(shape)):
            x = normal(shape, dtype)
            expected = getattr(xent, name)(x, axis)
            out = WRITEABLE_LAYOUTS[layout](np.full(shape, 77, dtype))
            assert getattr(xent, name)(x, axis, out=out) is out
            assert_same_bits(out, expected)
            own = WRITEABLE_LAYOUTS[layout](x)
            assert getattr(xent, name)(own, axis, out=own) is own
            assert_same_bits(own, expected)


@outputs
@pytest.mark.parametrize("dtype", DTYPES)
def test_nothing_else_is_written(name, dtype):
    for n in (*SHORT_LENGTHS, 511, 513):
        x, intact = guarded(normal((3, n), dtype))
        getattr(xent, name)(x, out=x)
        intact()
        gaps = np.full((3, 2 * n), 5, dtype)
        getattr(xent, name)(gaps[:, ::2], out=gaps[:, ::2])
        assert (gaps[:, 1::2] == 5).all()


@outputs
def test_out_of_other_arrays(name):
    """Big-endian, unaligned and read-only input goes to an ordinary output, and a view of a subclass keeps its type."""
    x = normal((3, 4))
    for layout in ("big-endian", "unaligned", "read-only", "memory map"):
        out = np.empty((3, 4))
        assert_same_bits(getattr(xent, name)(LAYOUTS[layout](x), out=out), getattr(xent, name)(x))
    own = LAYOUTS["subclass"](x.copy())
    assert getattr(xent, name)(own, out=own) is own


# --- infinities, NaN and other strange numbers -----------------------------------------------------------------------


@each
@pytest.mark.parametrize("dtype", DTYPES)
def test_nan_stays_in_its_row(name, dtype):
    """At every place of short rows; the neighbours keep their bits."""
    for n in (*SHORT_LENGTHS, 513):
        clean = rows_with_every_maximum(n, dtype)
        dirty = np.repeat(clean, 2, axis=0)
        np.fill_diagonal(dirty[1::2], np.resize(NANS[dtype], len(clean)))
        for layout in ("C", "Fortran"):
            actual = getattr(xent, name)(LAYOUTS[layout](dirty))
            assert np.isnan(actual[1::2]).all()
            assert_same_bits(actual[::2], getattr(xent, name)(LAYOUTS[layout](clean)))


@each
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [1, 2, 3, 4, 7, 8, 16, 17, 40, 513])
def test_infinite_rows(name, n, dtype):
    for place in {0, n // 2, n - 1}:
        x = normal((6, n), dtype)
        x[1] = -INF
        x[2, place] = INF
        x[3] = INF
        x[4, place] = -INF
        x[5] = -INF
        x[5, place] = NAN
        actual, expected = both(name, x)
        assert_close(actual, expected, dtype)
        if name == "logsumexp":
            np.testing.assert_array_equal(actual[[1, 2, 3, 5]], [-INF, INF, INF, NAN])
        else:
            assert np.isnan(actual[[1, 2, 3, 5]]).all()
            if n > 1:
                assert actual[4, place] == (0 if name == "softmax" else -INF)


@each
@pytest.mark.parametrize("dtype", DTYPES)
def test_both_infinities_and_nan_in_a_row(name, dtype):
    for values in itertools.permutations([INF, -INF, NAN, 1.0]):
        for n in (4, 9, 33):
            x = np.resize(np.array(values, dtype), n)
            assert np.isnan(getattr(xent, name)(x)).all()
            y = x[~np.isnan(x)]
            assert np.all(getattr(xent, name)(y) == INF if name == "logsumexp" else np.isnan(getattr(xent, name)(y)))


@each
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [2, 3, 8, 19])
def test_huge_and_tiny_logits(name, n, dtype):
    info = np.finfo(dtype)
    for scale in (info.max, info.max / 4, info.smallest_subnormal, info.smallest_normal, 0):
        for signs in ([1] * n, [-1] * n, [-1, 1] + [0] * (n - 2), [1] + [0.5] * (n - 1)):
            x = (np.array(signs) * float(scale)).astype(dtype)
            with np.errstate(over="ignore"):
                expected = np.asarray(getattr(reference, name)(x)).astype(dtype)
            np.testing.assert_allclose(getattr(xent, name)(x), expected, rtol=32 * info.eps, atol=0)


# --- properties ------------------------------------------------------------------------------------------------------


@each
@given(x=arrays(), data=st.data())
def test_any_array(name, x, data):
    axis = data.draw(st.integers(-x.ndim, x.ndim - 1))
    actual, expected = both(name, x, axis)
    eps = np.finfo(x.dtype).eps
    np.testing.assert_allclose(actual, expected, rtol=8 * eps, atol=8 * eps * np.abs(x).max())


@each
@given(x=arrays([np.float64]), shift=st.integers(-1000, 1000))
def test_shift_invariance(name, x, shift):
    x = np.rint(x * 1024) / 1024    # adding an integer is exact then
    expected = getattr(xent, name)(x) + (shift if name == "logsumexp" else 0)
    tolerance = {"rtol": 0, "atol": 1e-12} if name == "logsumexp" else {"rtol": 1e-15}
    np.testing.assert_allclose(getattr(xent, name)(x + shift), expected, **tolerance)


@each
@given(x=arrays([np.float64]), data=st.data())
def test_order_of_the_classes(name, x, data):
    order = data.draw(st.permutations(range(x.shape[-1])))
    expected = getattr(xent, name)(x)
    moved = expected if name == "logsumexp" else expected[..., order]
    np.testing.assert_allclose(getattr(xent, name)(x[..., order]), moved, rtol=1e-14, atol=1e-14)


@each
@given(x=arrays(min_dims=2), data=st.data())
def test_cut_of_the_batch(name, x, data):
    i = data.draw(st.integers(0, len(x)))
    parts = [getattr(xent, name)(x[:i]), getattr(xent, name)(x[i:])]
    assert_same_bits(np.concatenate(parts), getattr(xent, name)(x))


@given(x=arrays(scales=(1, 10, 30)))
def test_entry_points_agree(x):
    """softmax sums to 1, is exp(log_softmax), and log_softmax is x - logsumexp."""
    eps = np.finfo(x.dtype).eps
    p, log_p, total = xent.softmax(x), xent.log_softmax(x), xent.logsumexp(x, keepdims=True)
    size = np.abs(x).max() + 1
    np.testing.assert_allclose(p.sum(axis=-1, dtype=np.float64), 1, rtol=8 * eps)
    np.testing.assert_allclose(np.exp(log_p.astype(np.float64)), p, rtol=8 * eps * size, atol=np.finfo(x.dtype).tiny)
    np.testing.assert_allclose(log_p, x - total, rtol=0, atol=8 * eps * size)
    assert (log_p <= 0).all()
