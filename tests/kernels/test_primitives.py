"""logsumexp, softmax and log_softmax against the twins: types, layouts, axes, lengths, outputs, infinities, factors."""

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
    assert_ulp,
    guarded,
    rows_with_every_maximum,
)

import xent
from xent._calls import threads

NAMES = ["logsumexp", "softmax", "log_softmax"]
OUTPUTS = ["softmax", "log_softmax"]
SHAPES = [(5,), (3, 5), (2, 3, 5), (2, 3, 4, 5)]
INF, NAN = np.inf, np.nan

each = pytest.mark.parametrize("name", NAMES)
outputs = pytest.mark.parametrize("name", OUTPUTS)
each_dtype = pytest.mark.parametrize("dtype", DTYPES)
needs_exact_twin = pytest.mark.skipif(not reference.IS_EXACT, reason="long double is float64 here")


def both(name, x, axis=-1, **options):
    return getattr(xent, name)(x, axis, **options), getattr(reference, name)(x, axis)


def every_axis(ndim):
    """Each axis counted from both ends, every combination of axes, no axis, and all of them."""
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
@each_dtype
def test_layouts_and_axes(name, layout, dtype):
    for shape in SHAPES:
        x = LAYOUTS[layout](normal(shape, dtype))
        before = x.copy()
        for axis in every_axis(len(shape)):
            assert_close(*both(name, x, axis), dtype)
        np.testing.assert_array_equal(x, before)


@each
@pytest.mark.parametrize("layout", LAYOUTS)
@each_dtype
def test_rows_of_several_axes(name, layout, dtype):
    """Rows of many elements, in contiguous runs of memory that are multiples of a vector or not."""
    x = LAYOUTS[layout](normal((3, 20, 4, 70), dtype))
    for axis in [(1, 3), (3, 1), (0, 2), (0, 1, 3), (0, 3)]:
        assert_close(*both(name, x, axis), dtype)
        if name in OUTPUTS:
            out = np.empty(x.shape, dtype)
            getattr(xent, name)(x, axis, out=out)
            assert_close(out, getattr(reference, name)(x, axis), dtype)


@each
@each_dtype
def test_broadcast_arrays(name, dtype):
    for shape in [(1, 5), (4, 1), (1, 1)]:
        x = np.broadcast_to(normal(shape, dtype), (3, 4, 5))
        for axis in every_axis(3):
            assert_close(*both(name, x, axis), dtype)


@each
@each_dtype
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
@each_dtype
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
@each_dtype
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
            expected = getattr(xent, name)(own.copy("K"), axis)     # several axes are read in the order of memory
            assert getattr(xent, name)(own, axis, out=own) is own
            assert_same_bits(own, expected)


@outputs
@each_dtype
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
    """Big-endian, unaligned and read-only inputs have an ordinary output; an output of a subclass keeps its type."""
    x = normal((3, 4))
    for layout in ("big-endian", "unaligned", "read-only", "memory map"):
        out = np.empty((3, 4))
        assert_same_bits(getattr(xent, name)(LAYOUTS[layout](x), out=out), getattr(xent, name)(x))
    own = LAYOUTS["subclass"](x.copy())
    assert getattr(xent, name)(own, out=own) is own


# --- infinities, NaN and other strange numbers -----------------------------------------------------------------------


@each
@each_dtype
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
@each_dtype
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
@each_dtype
def test_both_infinities_and_nan_in_a_row(name, dtype):
    for values in itertools.permutations([INF, -INF, NAN, 1.0]):
        for n in (4, 9, 33):
            x = np.resize(np.array(values, dtype), n)
            assert np.isnan(getattr(xent, name)(x)).all()
            y = x[~np.isnan(x)]
            assert np.all(getattr(xent, name)(y) == INF if name == "logsumexp" else np.isnan(getattr(xent, name)(y)))


@each
@each_dtype
@pytest.mark.parametrize("n", [2, 3, 8, 19])
def test_huge_and_tiny_logits(name, n, dtype):
    info = np.finfo(dtype)
    for scale in (info.max, info.max / 4, info.smallest_subnormal, info.smallest_normal, 0):
        for signs in ([1] * n, [-1] * n, [-1, 1] + [0] * (n - 2), [1] + [0.5] * (n - 1)):
            x = (np.array(signs) * float(scale)).astype(dtype)
            with np.errstate(over="ignore"):
                expected = np.asarray(getattr(reference, name)(x)).astype(dtype)
            np.testing.assert_allclose(getattr(xent, name)(x), expected, rtol=32 * info.eps, atol=0)


@each_dtype
def test_probability_of_the_maximum(dtype):
    """It is exactly 1 if all other classes are -inf, and equal for equal maxima, whatever their size."""
    for m in (0.0, 0.3, -7.7, 123.456, 1e4, -3e5, 1e30):
        x = np.full((3, 200), m - 5 if abs(m) < 1e6 else m / 2, dtype)
        x[:, ::50] = m
        p = xent.softmax(x)
        assert (p[:, ::50] == p[0, 0]).all()
        x[:] = -np.inf
        x[:, 7] = m
        np.testing.assert_array_equal(xent.softmax(x), np.eye(200, dtype=dtype)[[7, 7, 7]])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n", [1, 2, 3, 10, 26, 64, 100, 128, 129, 300, 1000, 5000])
def test_no_probability_exceeds_1(n, dtype):
    """However rounding goes: variances p (1 - p) are not negative. Those of equal logits are equal."""
    rng = np.random.default_rng(n)
    for scale in (0.1, 3, 30, 300):
        x = (scale * rng.standard_normal((200_000 // n, n))).astype(dtype)
        x[:, -1] = x[:, 0]
        p = xent.softmax(x)
        assert 0 <= p.min() <= p.max() <= 1
        np.testing.assert_array_equal(p[:, -1], p[:, 0])
        np.testing.assert_array_equal(p.max(axis=1), p[np.arange(len(x)), x.argmax(axis=1)])


# --- masks -----------------------------------------------------------------------------------------------------------


def mask_of(shape, seed=5):
    return np.random.default_rng(seed).random(shape) < 0.7


def check_mask(name, x, where, axis=-1, **options):
    """The bits are those of -inf in the masked places, which may hold anything."""
    strange, never = x.copy("K"), x.copy("K")       # several axes are read in the order of memory
    hidden = ~np.broadcast_to(where, x.shape)
    never[hidden] = -INF
    strange[hidden] = np.resize(np.array([NAN, INF, 7, -INF, np.finfo(x.dtype).max], x.dtype), hidden.sum())
    before = strange.copy()
    actual = getattr(xent, name)(strange, axis, where=where, **options)
    expected = getattr(xent, name)(never, axis, **options)
    np.testing.assert_array_equal(strange, before)
    assert_same_bits(np.asarray(actual), np.asarray(expected))
    return actual


@each
@pytest.mark.parametrize("layout", LAYOUTS)
@each_dtype
def test_masks_layouts_and_axes(name, layout, dtype):
    for shape in SHAPES:
        x, where = normal(shape, dtype), mask_of(shape)
        moved, moved_mask = LAYOUTS[layout](x), LAYOUTS[layout](where)
        for axis in every_axis(len(shape)):
            expected = getattr(reference, name)(x, axis, where=where)
            for array, mask in ((moved, moved_mask), (x, moved_mask), (moved, where)):
                assert_close(getattr(xent, name)(array, axis, where=mask), expected, dtype)
            check_mask(name, x, where, axis)
        np.testing.assert_array_equal(moved_mask, where)


@each
@each_dtype
def test_masks_broadcast(name, dtype):
    x = normal((3, 4, 5), dtype)
    for shape in [(3, 4, 5), (5,), (4, 1), (1, 4, 5), (3, 1, 1), (3, 1, 5), (1, 1, 1), ()]:
        for axis in every_axis(3):
            check_mask(name, x, mask_of(shape), axis)
    for where in (True, False, np.True_, [True, False, True, False, True]):
        check_mask(name, x, where)


@each
@pytest.mark.parametrize("layout", LAYOUTS)
@each_dtype
def test_masks_of_several_axes(name, layout, dtype):
    """Rows of many elements, whose masks lie in memory as the logits do or in another order."""
    x = normal((3, 20, 4, 70), dtype)
    for mask in (LAYOUTS[layout](mask_of(x.shape)), mask_of((20, 1, 70)), mask_of((4, 70)), mask_of((3, 1, 1, 1))):
        for axis in [(1, 3), (3, 1), (0, 2), (0, 1, 3), (0, 3), None]:
            check_mask(name, LAYOUTS[layout](x) if layout in WRITEABLE_LAYOUTS else x, mask, axis)


@each
@each_dtype
@pytest.mark.parametrize("lengths", [SHORT_LENGTHS, EDGE_LENGTHS], ids=["short", "edge"])
def test_masks_row_lengths(name, lengths, dtype):
    """The largest logit may be hidden, and all others; rows have masks of their own, or one for all."""
    for n in lengths:
        x = rows_with_every_maximum(n, dtype)
        where = mask_of(x.shape, n)
        where[:, n // 2] = True
        actual = check_mask(name, x, where)
        assert_close(actual, getattr(reference, name)(x, where=where), dtype)
        for mask in (where, where[:1], np.arange(n) == n // 2, where[:, :1]):
            check_mask(name, x, mask)
            check_mask(name, np.asfortranarray(x), mask)
            check_mask(name, x.T.copy(), mask.T if mask.ndim == 2 else mask[:, None], 0)


@each
@each_dtype
@pytest.mark.parametrize("n", [1, 2, 3, 7, 16, 40, 200, 3000])
def test_nothing_left_by_a_mask(name, n, dtype):
    """logsumexp -inf, all else NaN, as of a row of -inf; the neighbours keep their bits."""
    x, where = normal((40, n), dtype), mask_of((40, n))
    where[:, 0] = True
    where[::3] = False
    for axis, rows, mask in ((-1, x, where), (0, x.T.copy(), where.T.copy()), (0, x.T, where.T)):
        actual = np.asarray(check_mask(name, rows, mask, axis))
        actual = actual if axis == -1 or name == "logsumexp" else actual.T
        np.testing.assert_array_equal(actual[::3], -INF if name == "logsumexp" else NAN)
        others = np.delete(actual, np.s_[::3], axis=0)
        assert np.isfinite(others if name == "logsumexp" else others[:, 0]).all()


@each
@each_dtype
@pytest.mark.parametrize("n", [3, 20, 300, 3000])
def test_infinities_that_are_not_masked(name, n, dtype):
    x, where = normal((5, n), dtype), mask_of((5, n))
    where[:, :3] = True
    x[0, 0], x[1, 1], x[2, 2], x[3], x[4, :2] = INF, NAN, -INF, -INF, (INF, NAN)
    actual = check_mask(name, x, where)
    assert_close(actual, getattr(reference, name)(x, where=where), dtype)


@each
def test_masks_of_scalars_and_of_nothing(name):
    for x in (1.5, np.float32(2)):
        for where in (True, np.array(False)):
            for axis in (None, ()):
                check_mask(name, np.asarray(x), where, axis)
    for shape in [(0,), (0, 3), (3, 0), (2, 0, 3)]:
        for axis in every_axis(len(shape)):
            check_mask(name, np.zeros(shape), np.zeros(shape, bool), axis)
            check_mask(name, np.zeros(shape), True, axis)
    assert type(xent.softmax(1.5, None, where=True)) is np.float64


@outputs
@each_dtype
@pytest.mark.parametrize("layout", WRITEABLE_LAYOUTS)
def test_masks_and_out(name, layout, dtype):
    for shape in [(3, 5), (2, 3, 4), (40, 3), (20, 300)]:
        x, where = normal(shape, dtype), mask_of(shape)
        for axis in every_axis(len(shape)):
            out = WRITEABLE_LAYOUTS[layout](np.full(shape, 77, dtype))
            assert getattr(xent, name)(x, axis, where=where, out=out) is out
            assert_same_bits(out, getattr(xent, name)(x, axis, where=where))
            own = WRITEABLE_LAYOUTS[layout](x)
            expected = getattr(xent, name)(own.copy("K"), axis, where=where)
            assert getattr(xent, name)(own, axis, where=where, out=own) is own
            assert_same_bits(own, expected)


def test_masks_and_keepdims():
    for shape in [*SHAPES, (2, 0, 3)]:
        x, where = normal(shape), mask_of(shape)
        for axis in every_axis(len(shape)):
            actual = xent.logsumexp(x, axis, where=where, keepdims=True)
            assert_close(actual, reference.logsumexp(x, axis, keepdims=True, where=where), np.float64)


@each_dtype
def test_masks_and_factors(dtype):
    """A mask is a factor of 0, which hides a NaN or infinite factor as well; the sign of nothing is 0."""
    shapes = [((5,), (5,), (5,)), ((3, 5), (5,), (3, 1)), ((4, 1), (1, 6), (4, 6)), ((3, 4, 70), (3, 4, 70), (4, 70))]
    shapes += [((2, 5000), (2, 5000), (2, 5000)), ((2, 50, 100), (2, 50, 100), (50, 1))]
    for of_x, of_b, of_mask in shapes:
        x, b, where = normal(of_x, dtype), factors(of_b, dtype), mask_of(of_mask)
        shape = np.broadcast_shapes(of_x, of_b)
        b_all, hidden = np.broadcast_to(b, shape).copy(), ~np.broadcast_to(where, shape)
        masked = np.where(hidden, dtype(0), b_all)
        b_all[hidden] = np.resize(np.array([NAN, INF, -INF, 3], dtype), hidden.sum())
        for axis in every_axis(len(shape)):
            expected = xent.logsumexp(x, axis, b=masked, return_sign=True, keepdims=True)
            for given_b in (b, b_all):
                actual = xent.logsumexp(x, axis, b=given_b, where=where, return_sign=True, keepdims=True)
                for one, other in zip(actual, expected, strict=True):
                    assert_same_bits(one, other)
            _, sign = reference.weighted_logsumexp(x, b, axis, where=where)
            np.testing.assert_array_equal(actual[1].reshape(sign.shape), sign)
            single = xent.logsumexp(x, axis, b=b, where=where)
            np.testing.assert_array_equal(np.isnan(single), sign < 0)
    np.testing.assert_array_equal(xent.logsumexp([[NAN, 1.0]], b=2, where=False, return_sign=True), [[-INF], [0]])
    actual, sign = xent.logsumexp(normal((3, 4), dtype), where=np.array([[True], [False], [True]]), return_sign=True)
    np.testing.assert_array_equal(sign, [1, 0, 1])
    assert actual[1] == -INF


@each
@given(x=arrays(), data=st.data())
def test_any_mask(name, x, data):
    axis = data.draw(st.integers(-x.ndim, x.ndim - 1))
    shape = [n if data.draw(st.booleans()) else 1 for n in x.shape]
    where = mask_of(shape, data.draw(st.integers(0, 99)))
    actual = check_mask(name, x, where, axis)
    eps = np.finfo(x.dtype).eps
    expected = getattr(reference, name)(x, axis, where=where)
    np.testing.assert_allclose(actual, expected, rtol=8 * eps, atol=8 * eps * np.abs(x).max())


# --- half precision --------------------------------------------------------------------------------------------------


@each
@pytest.mark.parametrize("half", ["float16", "bfloat16"])
@pytest.mark.parametrize("scale", [0.01, 3, 1000])
def test_half_precision(name, scale, half):
    """Results have the type of x and are within an ulp of it; below the smallest normal float32 they may be 0."""
    ml_dtypes = pytest.importorskip("ml_dtypes") if half == "bfloat16" else None
    dtype, info = (ml_dtypes.bfloat16, ml_dtypes.finfo("bfloat16")) if ml_dtypes else (np.float16, np.finfo(half))
    for shape in [(4, 1), (50, 2), (30, 7), (20, 40), (2, 600)]:
        x = normal(shape, scale=scale).astype(dtype)
        for axis in (0, -1, None):
            actual, exact = both(name, x, axis)
            assert actual.dtype == dtype
            assert actual.shape == exact.shape
            exponent = np.frexp(np.maximum(np.abs(exact), info.smallest_normal))[1]
            bound = np.ldexp(reference.EXTENDED(1), exponent - 1 - info.nmant) + np.finfo(np.float32).smallest_normal
            error = np.abs(actual.astype(reference.EXTENDED) - exact)
            assert (np.where(np.abs(exact) <= info.max, error <= bound, actual == np.copysign(INF, exact))).all()
            if name in OUTPUTS:
                assert_same_bits(getattr(xent, name)(x, axis, out=x.copy()), actual)
            where = mask_of(shape)
            hidden = np.where(where, x, np.array(-INF, dtype))
            actual, expected = getattr(xent, name)(x, axis, where=where), getattr(xent, name)(hidden, axis)
            assert actual.dtype == dtype
            assert_same_bits(actual.astype(np.float32), expected.astype(np.float32))


# --- factors and signs -----------------------------------------------------------------------------------------------


FEW = 4 if reference.IS_EXACT else 100


@reference.quiet
def check_factors(x, b, axis=-1, dtype=None):
    """The sum is within a few float64 roundings of its terms, however much cancels; then the logarithm rounds."""
    actual, sign = xent.logsumexp(x, axis, b=b, return_sign=True)
    exact, exact_sign = reference.weighted_logsumexp(x, b, axis)
    # Of the dtypes, since NumPy 1 looks at the values of scalars as well.
    dtype = np.result_type(np.asarray(x).dtype, np.asarray(b).dtype) if dtype is None else dtype
    assert actual.dtype == sign.dtype == dtype
    assert actual.shape == sign.shape == exact.shape
    size = reference.weighted_logsumexp(x, np.abs(np.asarray(b, reference.EXTENDED)), axis)[0]
    share = np.where(size == -INF, 0, np.exp(exact - size))     # the fraction of the terms that does not cancel
    error = np.abs(np.where(size == -INF, sign, sign * np.exp(actual - size)) - exact_sign * share)
    m = np.where(b == 0, -INF, x).max(axis, initial=-INF)
    at = np.where(share == 0, 0, np.maximum(np.abs(m), np.abs(exact)))
    assert (error <= FEW * 2**-53 + 2 * reference.ulp(at, dtype) * share).all()
    np.testing.assert_array_equal(actual == -INF, sign == 0)
    np.testing.assert_array_equal(xent.logsumexp(x, axis, b=b), np.where(sign < 0, NAN, actual))
    return actual, sign


def factors(shape, dtype=np.float64, seed=1):
    """Integers of both signs, some of them 0."""
    return np.rint(normal(shape, np.float64, 4, seed)).astype(dtype)


@each_dtype
@pytest.mark.parametrize("layout", LAYOUTS)
def test_factors_layouts_and_axes(layout, dtype):
    for shape in SHAPES:
        x, b = (LAYOUTS[layout](f(shape, dtype)) for f in (normal, factors))
        before = x.copy(), b.copy()
        for axis in every_axis(len(shape)):
            check_factors(x, b, axis, dtype)
        np.testing.assert_array_equal((x, b), before)


@each_dtype
def test_factors_of_long_rows(dtype):
    """Rows are taken in pieces: a maximum, an infinity or NaN in one of them counts in all."""
    places = [0, 4095, 4096, 8191, 8192, 9999]
    x, b = normal((len(places), 10_000), dtype), factors((len(places), 10_000), dtype)
    x[range(len(places)), places] = 20
    b[range(len(places)), places] = 3
    check_factors(x, b)
    check_factors(np.asfortranarray(x), b[:1])
    check_factors(x.reshape(len(places), 100, 100), b.reshape(len(places), 100, 100), (1, 2))
    for first, second in itertools.permutations(places, 2):
        x, b = np.zeros((4, 10_000), dtype), np.ones((4, 10_000), dtype)
        x[:3, first], x[:2, second], x[2, second] = INF, INF, NAN
        b[1, second], b[2, second], x[3], x[3, second] = -1, 0, -INF, 2
        found, sign = xent.logsumexp(x, b=b, return_sign=True)
        np.testing.assert_array_equal(found, [INF, NAN, INF, 2])
        np.testing.assert_array_equal(sign, [1, NAN, 1, 1])


@each_dtype
def test_factors_broadcast(dtype):
    for one, other in itertools.product([(3, 4, 5), (5,), (4, 1), (1, 4, 5), (3, 1, 1), ()], repeat=2):
        x, b = normal(one, dtype), factors(other, dtype) + 9
        for axis in every_axis(max(x.ndim, b.ndim)):
            check_factors(x, b, axis)


@each_dtype
def test_factor_types(dtype):
    """As in NumPy, the result has the common type of both, and a Python number has no type."""
    x = normal((3, 5), dtype)
    for kind in ("i1", "i2", "i4", "i8", ">i2", "u1", "u8", "f4", "f8", ">f8", "f2"):
        b = np.abs(factors((3, 5))).astype(kind) if kind[0] == "u" else factors((3, 5), kind)
        check_factors(x, b)
        check_factors(np.arange(5), b, dtype=np.float64)
    for b in (2, -0.5):
        check_factors(x, b, dtype=dtype)
    check_factors(x, np.float64(3))
    assert_same_bits(xent.logsumexp(x, b=[1.0] * 5), xent.logsumexp(x, b=np.ones(5)))


@needs_exact_twin
@each_dtype
@pytest.mark.parametrize("lengths", [SHORT_LENGTHS, EDGE_LENGTHS], ids=["short", "edge"])
def test_factors_row_lengths(lengths, dtype):
    """With factors of one sign, within 2 ulp of the larger of maximum and result; of both signs, see check_factors."""
    for n in lengths:
        x = rows_with_every_maximum(n, dtype)
        x += 4 - x.max(axis=1, keepdims=True)
        b = factors(x.shape, dtype)
        check_factors(x, b)
        check_factors(x.T.copy(), b.T, 0)
        for scale in (1, 20):
            positive = np.exp(normal(x.shape, np.float64, scale)).astype(dtype)
            exact, _ = reference.weighted_logsumexp(x, positive)
            assert_ulp(xent.logsumexp(x, b=positive), exact, 2, at=np.maximum(4, np.abs(exact)))
            actual, sign = xent.logsumexp(x, b=-positive, return_sign=True)
            assert_same_bits(actual, xent.logsumexp(x, b=positive))
            assert (sign == -1).all()


@needs_exact_twin
@each_dtype
def test_factors_of_sums_near_one(dtype):
    """Maximum and result are near 0, where the logarithm of the sum cancels."""
    for n in (2, 3, 5, 17):
        x = normal((200, n), dtype, 0.1)
        b = (normal((200, n), np.float64, 0.1) + 1 / n).clip(0.01).astype(dtype)
        exact, _ = reference.weighted_logsumexp(x, b)
        at = np.maximum(1, np.maximum(np.abs(x.max(axis=1)), np.abs(exact)))
        assert_ulp(xent.logsumexp(x, b=b), exact, 2, at=at if dtype is np.float64 else np.abs(exact))


@needs_exact_twin
@pytest.mark.parametrize(
    ("x", "b"),
    [
        ([0, -800], [1e-300, 1e300]),   # the second term is the larger by far
        ([-800, 0], [1e300, -1e-300]),
        ([0, 0], [1e308, 1e308]),       # log(2e308) is no large number
        ([0, 0, 0], [1e308, 1e308, -1e308]),
        ([-745, -745], [1e-308, 1e-308]),
        ([700, 700], [5e-324, 1e-323]),
        ([0, -1000], [0, 1e-300]),
    ],
)
def test_factors_of_every_size(x, b):
    check_factors(np.array(x, float), np.array(b))


@each_dtype
@pytest.mark.parametrize("n", [1, 2, 3, 8, 17, 40])
def test_factor_0_hides_everything(n, dtype):
    x, b = normal((5, n), dtype), factors((5, n), dtype)
    for zero in (0.0, -0.0):
        for place in {0, n // 2, n - 1}:
            b[:, place] = zero
            x[:, place] = [NAN, INF, -INF, np.finfo(dtype).max, 0]
            clean, dirty = check_factors(np.where(b == 0, 0, x), b), xent.logsumexp(x, b=b, return_sign=True)
            for one, other in zip(clean, dirty, strict=True):
                assert_same_bits(one, other)
    np.testing.assert_array_equal(xent.logsumexp([[NAN] * n], b=0, return_sign=True), [[-INF], [0]])


@each_dtype
@pytest.mark.parametrize(
    ("x", "b", "expected"),
    [
        ([1, 1], [2, -2], (-INF, 0)),
        ([7, 3, 7, 3], [1, -2, -1, 2], (-INF, 0)),
        ([0, 0], [1, -3], (np.log(2), -1)),
        ([-INF, -INF], [1, -1], (-INF, 0)),
        ([-INF, 0], [-5, 1], (0, 1)),
        ([INF, 0], [2, -1], (INF, 1)),
        ([INF, 0], [-2, 1], (INF, -1)),
        ([INF, INF], [2, 1], (INF, 1)),
        ([INF, INF], [2, -1], (NAN, NAN)),
        ([INF, -INF], [-1, 1], (INF, -1)),
        ([INF, NAN], [1, 0], (INF, 1)),
        ([INF, NAN], [1, 1], (NAN, NAN)),
        ([0, NAN], [1, 1], (NAN, NAN)),
        ([0, 0], [1, NAN], (NAN, NAN)),
        ([INF, 0], [1, NAN], (NAN, NAN)),
        ([0, 1], [1, INF], (INF, 1)),
        ([0, 1], [1, -INF], (INF, -1)),
        ([0, 1], [INF, -INF], (NAN, NAN)),
    ],
)
def test_strange_sums(x, b, expected, dtype):
    """In rows of any length and both orders; a negative sum gives NaN unless return_sign is set."""
    tolerance = {"rtol": 2 * np.finfo(dtype).eps, "atol": 0}
    for n, step in itertools.product((0, 1, 5, 14, 70), (1, -1)):
        row = np.array([*x[::step], *[-INF] * n], dtype)
        weight = np.array([*b[::step], *[0] * n], dtype)
        actual = xent.logsumexp(row, b=weight, return_sign=True)
        np.testing.assert_allclose(actual, expected, **tolerance)
        assert actual[1] != 0 or not np.signbit(actual[1])
        alone = NAN if expected[1] == -1 else expected[0]
        np.testing.assert_allclose(xent.logsumexp(row, b=weight), alone, **tolerance)


def test_keepdims_and_signs():
    for shape in [*SHAPES, (2, 0, 3), (0, 4)]:
        for axis in every_axis(len(shape)):
            for b in (None, factors(shape)):
                flat = xent.logsumexp(normal(shape), axis, b=b, return_sign=True)
                kept = xent.logsumexp(normal(shape), axis, b=b, return_sign=True, keepdims=True)
                for one, other in zip(flat, kept, strict=True):
                    assert other.shape == np.zeros(shape).sum(axis, keepdims=True).shape
                    np.testing.assert_array_equal(other.squeeze(), np.squeeze(one))
    assert xent.logsumexp(np.zeros(3), b=np.ones((4, 1)), return_sign=True, keepdims=True)[1].shape == (4, 1)


@each_dtype
def test_sign_without_factors(dtype):
    x = np.array([[1, 2], [-INF, -INF], [INF, 0], [NAN, 0], [-1e30, -INF]], dtype)
    for b in (None, np.ones(2, dtype)):
        actual, sign = xent.logsumexp(x, b=b, return_sign=True)
        assert_close(actual, reference.logsumexp(x), dtype)
        assert_same_bits(sign, np.array([1, 0, 1, NAN, 1], dtype))
        assert [type(y) for y in xent.logsumexp(x[0], b=b, return_sign=True)] == [dtype] * 2
    for b, shape in itertools.product((None, dtype(3)), [(0,), (2, 0), (0, 2), (2, 0, 3)]):
        actual, sign = xent.logsumexp(np.zeros(shape, dtype), b=b, return_sign=True)
        assert_same_bits(np.asarray(actual), np.full(shape[:-1], -INF, dtype))
        assert_same_bits(np.asarray(sign), np.zeros(shape[:-1], dtype))


@each_dtype
def test_factors_and_threads(dtype):
    for shape in [(9000, 60), (60, 9000)]:
        assert threads.cut(*shape, 4).threads == 4
        x, b = normal(shape, dtype), factors(shape, dtype)
        serial = xent.logsumexp(x, b=b, return_sign=True, n_threads=1)
        for n_threads in (2, 3, 4, None):
            for one, other in zip(xent.logsumexp(x, b=b, return_sign=True, n_threads=n_threads), serial, strict=True):
                assert_same_bits(one, other)


@given(x=arrays(), data=st.data())
def test_any_factors(x, data):
    axis = data.draw(st.integers(-x.ndim, x.ndim - 1))
    scale = 10.0 ** data.draw(st.integers(-5, 5))
    check_factors(x, scale * factors(x.shape, x.dtype, data.draw(st.integers(0, 99))), axis)


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


@given(x=arrays(scales=(1, 10, 30)))
def test_entry_points_agree(x):
    """softmax sums to 1 and is exp(log_softmax); log_softmax is x - logsumexp."""
    eps = np.finfo(x.dtype).eps
    p, log_p, total = xent.softmax(x), xent.log_softmax(x), xent.logsumexp(x, keepdims=True)
    size = np.abs(x).max() + 1
    np.testing.assert_allclose(p.sum(axis=-1, dtype=np.float64), 1, rtol=8 * eps)
    np.testing.assert_allclose(np.exp(log_p.astype(np.float64)), p, rtol=8 * eps * size, atol=np.finfo(x.dtype).tiny)
    np.testing.assert_allclose(log_p, x - total, rtol=0, atol=8 * eps * size)
    assert (log_p <= 0).all()
