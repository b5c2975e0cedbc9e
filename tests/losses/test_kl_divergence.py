"""kl_divergence against the twin: types, layouts, lengths, options, numbers of any size; errors. (Its accuracy to the
last digits: tests/kernels/test_accuracy.py.)"""

import ml_dtypes
import numpy as np
import pytest
import reference
from good_arguments import fails
from hypothesis import given
from hypothesis import strategies as st
from loss_problems import INF, NAN, REDUCTIONS, assert_same, each_dtype
from reference import (
    DTYPES,
    EDGE_LENGTHS,
    EXTENDED,
    LAYOUTS,
    NANS,
    SHORT_LENGTHS,
    WRITEABLE_LAYOUTS,
    guarded,
    rows_with_every_maximum,
)

import xent
from xent._calls import threads

SHAPES = [(5,), (3, 5), (2, 3, 4, 5)]
PIECE_LENGTHS = [2047, 2048, 2049, 4097]
TILE_LENGTHS = [127, 128, 129, 255, 256, 257]       # up to a KiB of float64, and of float32, rows come side by side
HALVES = [np.float16, ml_dtypes.bfloat16]
TYPES = [*HALVES, np.float32, np.float64]


def problem(shape, axis=-1, dtype=np.float64, ref_dtype=None, seed=0, scale=3):
    """Two arrays of logits, and options of every kind: some rows have a weight of 0, some classes are masked."""
    rng = np.random.default_rng(seed)
    rows = tuple(np.delete(shape, axis))
    x, ref = rng.normal(size=(2, *shape), scale=scale)
    where = rng.random(shape) < 0.8
    np.put_along_axis(where, np.expand_dims(rng.integers(shape[axis], size=rows), axis), True, axis)
    weight = np.asarray(rng.integers(0, 4, rows) / 2)
    weight.flat[:1] = 1.5
    options = {"where": where, "sample_weight": weight, "logit_scale": 0.75}
    return x.astype(dtype), ref.astype(ref_dtype or dtype), options


def both(x, ref, reduction="none", **options):
    return xent.kl_divergence(x, ref, reduction=reduction, return_grad=True, **options)


def computed_in(dtype):
    dtype = np.dtype(dtype)
    return np.dtype(np.float64 if dtype.kind == "i" else np.float32 if dtype.itemsize < 4 else dtype)


def check(x, ref, reductions=("none",), few=32, **options):
    """Divergence and gradient are the twin's, the divergence in all its digits; and alone it has the same bits."""
    dtype = np.asarray(x).dtype
    wide, own = computed_in(dtype), np.dtype(np.float64) if dtype.kind == "i" else dtype
    for reduction in reductions:
        loss, grad = both(x, ref, reduction, **options)
        exact, slope = reference.kl_divergence(x, ref, reduction=reduction, **options)
        assert type(loss) is float or loss.dtype == wide
        np.testing.assert_allclose(np.asarray(loss, EXTENDED), exact, few * np.finfo(wide).eps, np.finfo(wide).tiny)
        assert (np.asarray(loss) >= 0).all() or np.isnan(exact).any()
        assert grad.dtype == own
        size = max(1, abs(options.get("logit_scale", 1)), float(np.nanmax(np.abs(slope), initial=0)))
        np.testing.assert_allclose(grad.astype(EXTENDED), slope, 0, few * float(ml_dtypes.finfo(own).eps) * size)
        np.testing.assert_array_equal(xent.kl_divergence(x, ref, reduction=reduction, **options), loss)
    return loss, grad


# --- sweeps ----------------------------------------------------------------------------------------------------------


@each_dtype
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_and_axes(layout, dtype):
    """All operands elsewhere in memory: the same bits, and nothing changes."""
    move = LAYOUTS[layout]
    for shape in SHAPES:
        for axis in range(-1, len(shape) - 1):
            x, ref, options = problem(shape, axis, dtype)
            for given_options in ({}, options):
                expected = check(x, ref, axis=axis, **given_options)
                moved = {k: move(v) if isinstance(v, np.ndarray) else v for k, v in given_options.items()}
                for a, b in ((move(x), ref), (x, move(ref)), (move(x), move(ref))):
                    assert_same(both(a, b, axis=axis, **moved), expected)
                    np.testing.assert_array_equal(a, x)
                    np.testing.assert_array_equal(b, ref)


@each_dtype
@pytest.mark.parametrize("lengths", [SHORT_LENGTHS, EDGE_LENGTHS[::3], TILE_LENGTHS, PIECE_LENGTHS], ids=str)
def test_row_lengths(lengths, dtype):
    """The maxima of both at every place, together and apart."""
    for n in lengths:
        x, ref = rows_with_every_maximum(n, dtype), rows_with_every_maximum(n, dtype, seed=1)
        expected = check(x, ref)
        check(x, ref[::-1])
        assert_same(both(x.T.copy(), ref.T.copy(), axis=0), (expected[0], expected[1].T))
        for i in {0, len(x) - 1}:
            assert_same(both(x[i], ref[i]), (expected[0][i], expected[1][i]))


@each_dtype
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_options(reduction, dtype):
    for n in (3, 40, 300, 2500):
        x, ref, options = problem((6, n), dtype=dtype)
        for names in ("where", "sample_weight", "logit_scale"), ("where",), ("sample_weight",), ():
            check(x, ref, [reduction], **{name: options[name] for name in names})


@pytest.mark.parametrize("dtype", [*TYPES, "i2"])
@pytest.mark.parametrize("ref_dtype", [*TYPES, "i8"])
def test_types_that_differ(ref_dtype, dtype):
    """The wider one is computed in; results are of the first one's type."""
    for n in (3, 300, 2100):
        x, ref, options = problem((2, n), dtype=dtype, ref_dtype=ref_dtype)
        wide = np.result_type(computed_in(dtype), computed_in(ref_dtype))
        for given_options in ({}, options):
            loss, grad = check(x, ref, **given_options)
            wide_loss, wide_grad = both(x.astype(wide), ref.astype(wide), **given_options)
            np.testing.assert_array_equal(loss, wide_loss.astype(loss.dtype))
            half_an_ulp = float(ml_dtypes.finfo(grad.dtype).eps) / 2
            np.testing.assert_allclose(grad.astype(float), wide_grad.astype(float), 0, half_an_ulp)


@each_dtype
def test_masks(dtype):
    """Of any shape that broadcasts; what is masked is hidden, whatever it is."""
    for shape in ((4, 3, 7), (4, 3, 300)):
        x, ref, options = problem(shape, dtype=dtype)
        n = shape[-1]
        expected = check(x, ref, where=options["where"])
        hidden = [np.where(options["where"], a, np.resize([NAN, INF, -INF, 7], shape)).astype(dtype) for a in (x, ref)]
        assert_same(both(*hidden, where=options["where"]), expected)
        assert (expected[1][~options["where"]] == 0).all()
        impossible = [np.where(options["where"], a, -INF).astype(dtype) for a in (x, ref)]
        assert_same(both(*impossible), expected)
        for line in (np.arange(n) % 3 != 1, np.arange(n) % 2 == 0, np.arange(3)[:, None] > np.arange(n) - 3, True):
            check(x, ref, where=line)
        assert np.isnan(both(x, ref, where=False)[0]).all()
        assert np.isnan(both(x, ref, where=False)[1]).all()


@each_dtype
@pytest.mark.parametrize("scale", [-2.5, 0.0, 1e-30, 0.3, 7.0, 1e30])
def test_scales(scale, dtype):
    """It multiplies both; the gradient is with respect to the given logits."""
    for n in (2, 40, 300, 2500):
        x, ref, options = problem((5, n), dtype=dtype)
        x[0, 0] = ref[1, -1] = -INF
        ref[0, 0] = -INF
        options["logit_scale"] = scale
        for given_options in ({"logit_scale": scale}, options):
            loss, _ = check(x, ref, **given_options)
            assert scale != 0 or (loss == 0)[np.isfinite(x).all(-1) & np.isfinite(ref).all(-1)].all()


@each_dtype
def test_a_scale_of_a_power_of_two_is_exact(dtype):
    for n in (3, 300, 2500):
        x, ref, _ = problem((5, n), dtype=dtype)
        for scale in (0.25, 4, -2):
            loss, grad = both(x, ref, logit_scale=scale)
            expected, slope = both((x * dtype(scale)), (ref * dtype(scale)))
            np.testing.assert_allclose(loss, expected, rtol=16 * np.finfo(dtype).eps)
            np.testing.assert_allclose(grad, slope * dtype(scale), 0, 16 * np.finfo(dtype).eps)


# --- reductions and weights ------------------------------------------------------------------------------------------


@each_dtype
@pytest.mark.parametrize("weight", [
    2, 0.5, [1.0, 0, 3], [[1], [2]], np.array([[4, 5, 0]], "u1"), np.array([True, False, True]), [1e-300, 3e-300, 0],
    [1e300, 1e307, 0], [1e-30, 1, 1e30], np.full((2, 3), 1e-39), [5e-29, 2e-30, 1e-33], 1e39, 1e-25,
], ids=str)
def test_weights(weight, dtype):
    """Of any size and shape; the gradient keeps its digits."""
    for n in (3, 400, 2500):
        x, ref, _ = problem((2, 3, n), dtype=dtype)
        p, q = reference.softmax(x), reference.softmax(ref)
        for reduction in REDUCTIONS:
            loss, grad = both(x, ref, reduction, sample_weight=weight)
            exact, slope = reference.kl_divergence(x, ref, reduction=reduction, sample_weight=weight)
            of_loss = np.finfo(dtype if reduction == "none" else float)
            w = np.broadcast_to(np.asarray(weight, EXTENDED), (2, 3))[..., None]
            terms = np.maximum(p, q) * (w / w.sum() if reduction == "mean" else w)
            for actual, desired, at, info in ((loss, exact, exact, of_loss), (grad, slope, terms, np.finfo(dtype))):
                fits = np.abs(desired) <= info.max
                np.testing.assert_array_equal(np.isfinite(actual), fits)
                error = np.abs(np.asarray(actual, EXTENDED) - desired)[fits]
                bound = np.maximum(16 * np.finfo(dtype).eps * np.abs(at), 2 * info.smallest_normal)
                assert (error <= np.broadcast_to(bound, fits.shape)[fits]).all()


@each_dtype
def test_rows_without_weight(dtype):
    """Exactly 0, whatever the logits."""
    for n in (3, 40, 300, 2500):
        x, ref, _ = problem((4, n), dtype=dtype)
        weight = [1, 0, 2, 0]
        expected = both(x, ref, sample_weight=weight)
        x[1], ref[3, 0], x[3, -1] = NAN, NAN, INF
        loss, grad = both(x, ref, sample_weight=weight)
        assert_same((loss, grad), expected)
        assert (loss[1::2] == 0).all()
        assert (grad[1::2] == 0).all()


@each_dtype
def test_nothing(dtype):
    """Without rows or weight the mean is nan, and the gradient 0; without classes a row is nan."""
    with np.errstate(all="raise"):
        for shape in ((0, 4), (0, 0), (0, 5, 4), (5, 0, 4), (0, 3000)):
            x = np.zeros(shape, dtype)
            for reduction, expected in (("mean", NAN), ("sum", 0), ("none", np.zeros(shape[:-1]))):
                loss, grad = both(x, x, reduction)
                np.testing.assert_array_equal(loss, expected)
                assert grad.shape == shape
        for n in (4, 3000):
            x, ref, _ = problem((3, n), dtype=dtype)
            x[1, 1] = NAN
            loss, grad = both(x, ref, "mean", sample_weight=0)
            assert np.isnan(loss)
            assert (grad == 0).all()
            assert both(x, ref, "sum", sample_weight=[0, 0, 0])[0] == 0
        for reduction in REDUCTIONS:
            assert np.isnan(both(np.zeros((3, 0), dtype), np.zeros((3, 0), dtype), reduction)[0]).all()


def test_other_arguments():
    """Lists, integers and numbers of one row."""
    x, ref, options = problem((2, 3, 4))
    expected = check(x, ref, **options)
    lists = {name: value.tolist() for name, value in options.items() if isinstance(value, np.ndarray)}
    assert_same(both(x.tolist(), ref.tolist(), logit_scale=0.75, **lists), expected)
    assert xent.kl_divergence([2, 4, 0], [2, 3, 0]) == xent.kl_divergence([2.0, 4, 0], [2.0, 3, 0])
    assert xent.kl_divergence([5.0], [-3.0]) == 0
    many = both(np.broadcast_to(x[:, :1], x.shape), ref)
    assert_same(many, both(np.broadcast_to(x[:, :1], x.shape).copy(), ref))


# --- gradients -------------------------------------------------------------------------------------------------------


def test_gradients_are_slopes():
    for n in (3, 2100):
        x, ref, options = problem((2, n))
        options["sample_weight"] = np.array([1.5, 0.5])
        _, grad = both(x, ref, "mean", **options)
        for place in [(0, 0), (1, 2), (0, n - 1)]:
            kept = x[place]
            x[place] = kept + 1e-5
            above = xent.kl_divergence(x, ref, **options)
            x[place] = kept - 1e-5
            below = xent.kl_divergence(x, ref, **options)
            x[place] = kept
            assert (above - below) / 2e-5 == pytest.approx(grad[place], abs=1e-9)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("layout", WRITEABLE_LAYOUTS)
def test_gradients_in_given_arrays(layout, dtype):
    """In another array, in the logits' own, and in float32 for half precision; for every axis."""
    move = WRITEABLE_LAYOUTS[layout]
    for shape in ((5,), (3, 18), (3, 4, 18), (2, 2100)):
        for axis in range(len(shape)):
            x, ref, options = problem(shape, axis, dtype)
            for reduction in ("mean", "none"):
                expected = both(x, ref, reduction, axis=axis, **options)
                for logits, out in ((x, move(np.full(shape, 77, dtype))), (move(x),) * 2):
                    result = xent.kl_divergence(logits, ref, axis=axis, grad_out=out, reduction=reduction, **options)
                    assert result[1] is out
                    assert_same(result, expected)
                if dtype in HALVES:
                    out = move(np.full(shape, 77, np.float32))
                    loss, _ = xent.kl_divergence(x, ref, axis=axis, grad_out=out, reduction=reduction, **options)
                    assert_same((np.asarray(loss), out.astype(dtype)), expected)


@each_dtype
def test_nothing_else_is_written(dtype):
    for n in (*SHORT_LENGTHS, 128, 257, 2049):
        x, ref, options = problem((3, n), dtype=dtype)
        for given_options in ({}, options):
            logits, intact = guarded(x)
            xent.kl_divergence(logits, ref, grad_out=logits, **given_options)
            intact()
            gaps = np.full((3, 2 * n), 5, dtype)
            xent.kl_divergence(gaps[:, ::2], ref, grad_out=gaps[:, ::2], **given_options)
            assert (gaps[:, 1::2] == 5).all()


@each_dtype
def test_gradients_of_small_probabilities(dtype):
    """Of classes in another piece than the maximum, too, they are accurate to the last digits."""
    for n in (40, 300, 2049, 6000):
        for depth in (20, 60, 75, 84, 300, 650, 690, 705):
            x, ref, _ = problem((3, n), dtype=dtype)
            x[:, n // 2 :] -= depth
            ref[:, n // 2 :] -= depth
            p, q = reference.softmax(x), reference.softmax(ref)
            reference.assert_ulp(both(x, ref)[1], p - q, 8, at=np.maximum(p, q))


# --- infinities and NaN ----------------------------------------------------------------------------------------------


@each_dtype
@pytest.mark.parametrize("n", [2, 3, 8, 19, 70, 300, 2500])
def test_classes_that_cannot_happen(n, dtype):
    """In the reference alone they add their p, in the logits alone they make the row infinite, in both they count
    nothing; the gradient is p - q."""
    with np.errstate(all="raise"):
        for place in {0, n // 2, n - 1}:
            x, ref, _ = problem((1, n), dtype=dtype)
            gone = x.copy()
            gone[0, place] = -INF
            absent = ref.copy()
            absent[0, place] = -INF
            assert np.isfinite(check(x, absent, REDUCTIONS)[0])
            assert np.isfinite(check(gone, absent, REDUCTIONS)[0])
            assert np.isinf(check(gone, ref, REDUCTIONS)[0])
            several = np.concatenate([gone, x, gone])
            assert np.isinf(both(several, np.repeat(ref, 3, 0), "mean")[0])
            check(several, np.concatenate([absent, ref, ref]))
        if n > 2:
            x[0, ::2], ref[0, 1::2] = -INF, -INF       # nothing in common
            assert np.isinf(check(x, ref)[0])
            x, ref, _ = problem((1, n), dtype=dtype)
            x[0, 1:], ref[0, 1:] = -INF, -INF          # one class left
            assert check(x, ref)[0] == 0


@each_dtype
@pytest.mark.parametrize("n", [40, 2049, 6000])
def test_a_class_that_cannot_happen_though_it_is_rare(n, dtype):
    """However small q is."""
    for depth in (50, 200, 800, 1e5, 1e30):
        for place in (3, n - 1):
            x, ref, _ = problem((2, n), dtype=dtype)
            x[1, place] = -INF
            ref[:, place] = -depth
            loss = both(x, ref)[0]
            assert np.isfinite(loss[0])
            assert loss[1] == INF


@each_dtype
@pytest.mark.parametrize("n", [1, 2, 3, 8, 19, 70, 300, 2500])
def test_rows_without_probabilities(n, dtype):
    """NaN or +inf in one of the two, or nothing but -inf; neighbours keep their bits, and nothing warns."""
    with np.errstate(all="raise"):
        x, ref, _ = problem((9, n), dtype=dtype)
        clean = both(x, ref)
        bad = [np.resize(NANS[dtype], 2)[i % 2] if i < 4 else INF for i in range(4)]
        for place in {0, n // 2, n - 1}:
            a, b = x.copy(), ref.copy()
            a[1, place], b[3, place], a[5, place], b[7, place] = bad[0], bad[1], INF, INF
            loss, grad = both(a, b)
            assert np.isnan(loss[[1, 3, 5, 7]]).all()
            assert np.isnan(grad[[1, 3, 5, 7]]).all()
            assert_same((loss[::2], grad[::2]), [array[::2] for array in clean])
            assert np.isnan(both(a, b, "mean")[0])
        a, b = x.copy(), ref.copy()
        a[1], b[3], a[5], b[5] = -INF, -INF, -INF, -INF
        loss, grad = both(a, b)
        assert np.isnan(loss[[1, 3, 5]]).all()
        assert np.isnan(grad[[1, 3, 5]]).all()
        assert_same((loss[::2], grad[::2]), [array[::2] for array in clean])


def test_nan_at_every_place():
    for dtype in DTYPES:
        for n in (*SHORT_LENGTHS, 65):
            x, ref, _ = problem((n, n), dtype=dtype)
            for a, b in ((x.copy(), ref), (x, ref.copy())):
                np.fill_diagonal(a if a is not x else b, np.resize(NANS[dtype], n))
                loss, grad = both(a, b)
                assert np.isnan(loss).all()
                assert np.isnan(grad).all()


# --- numbers of any size ---------------------------------------------------------------------------------------------


@each_dtype
@pytest.mark.parametrize("n", [2, 10, 300, 2500])
def test_logits_of_any_size(n, dtype):
    """Finite wherever the result is."""
    rng = np.random.default_rng(n)
    largest = float(np.finfo(dtype).max)
    for size in (1e4, 1e8, 1e15, 1e17, 1e30, largest / 16, 1e300):
        if size < largest / 8:
            x, ref = (rng.normal(size=(2, n)) * size).astype(dtype), rng.normal(size=(2, n)).astype(dtype)
            for a, b in ((x, ref), (ref, x), (x, (x * 0.75).astype(dtype)), (x, x[::-1])):
                check(a, b)


@each_dtype
@pytest.mark.parametrize("n", [2, 10, 300, 2500])
def test_logits_as_large_as_can_be(n, dtype):
    """Their differences overflow."""
    largest = np.finfo(dtype).max
    x, ref = np.full((4, n), largest, dtype), np.full((4, n), -largest, dtype)
    x[1, 1:] = 0
    ref[2, : n // 2] = -INF
    x[3, n // 2 :], ref[3, : n // 2] = 0, 0
    for a, b in ((x, ref), (ref, x)):
        loss, grad = both(a, b)
        exact, slope = reference.kl_divergence(a, b, reduction="none")
        fits = np.abs(exact) <= largest
        np.testing.assert_allclose(loss[fits].astype(EXTENDED), exact[fits], rtol=32 * np.finfo(dtype).eps)
        assert (loss[~fits] == INF).all()
        np.testing.assert_allclose(grad.astype(EXTENDED), slope, 0, 8 * np.finfo(dtype).eps)


@each_dtype
@pytest.mark.parametrize("scale", [2.0, -3.0, 1e3])
def test_scaled_logits_that_overflow(scale, dtype):
    largest = float(np.finfo(dtype).max)
    for n in (1, 2, 3, 17, 300, 3000):
        x, ref, _ = problem((5, n), dtype=dtype)
        x[0] = largest
        ref[1] = -largest
        x[2], ref[2] = largest, -largest
        x[3, : n // 2], ref[3, : n // 2] = largest, largest
        x[4, : n // 2], ref[4, : n // 2] = -largest, -largest
        check(x, ref, logit_scale=scale, few=64)


@each_dtype
def test_masses_far_apart(dtype):
    """Groups of classes that hardly count in one of the two, or in both, beyond the range of the type."""
    for n in (10, 300, 4096):
        for down, ref_down in ((0, 730), (730, 0), (730, 700), (100, 720), (1000, 0), (0, 1000), (1e4, 3), (40, 95)):
            x, ref, _ = problem((2, n), dtype=dtype)
            x[:, n // 2 :] -= down
            ref[:, n // 2 :] -= ref_down
            check(x, ref)
            check(x[:, ::-1], ref[:, ::-1])


@each_dtype
@pytest.mark.parametrize("n", [3, 100, 300, 2500])
def test_rows_that_hardly_differ(n, dtype):
    """Equal but for classes of hardly any probability, and under a common shift: nothing is lost."""
    for shift in (0, 1, 96):
        for depth in (15, 30, 60):
            rng = np.random.default_rng(n)
            x = (rng.integers(-64, 64, (2, n)) / 64).astype(dtype)
            x[:, -1] -= depth
            ref = x + dtype(shift)
            ref[:, -1] += dtype(2**-8)
            check(x, ref)
            check(ref, x)


@pytest.mark.parametrize("dtype", TYPES)
def test_equal_rows(dtype):
    """Exactly 0, also in other places of memory, in another type, and after an exact shift."""
    for n in (1, 2, 7, 100, 300, 2049, 5000):
        x, _, options = problem((6, n), dtype=dtype)
        x[1, 0], x[2] = -INF, x[2, 0]
        for move in LAYOUTS.values():
            for a, b in ((move(x), x), (x, move(x))):
                for given_options in ({}, options, {"logit_scale": -3.7}):
                    loss, grad = both(a, b, **given_options)
                    assert (loss[np.isfinite(loss)] == 0).all()
                    assert np.isfinite(loss[1 if n == 1 else 0 :][-4:]).all()
                    assert (grad[np.isfinite(loss)] == 0).all()
        wide = x.astype(np.float64)
        assert (both(x[3:], wide[3:])[0] == 0).all()
        assert (both(wide[3:], x[3:])[0] == 0).all()
        whole = np.rint(wide)
        assert (both((whole + 512).astype(np.float32), whole.astype(np.float32))[0][3:] == 0).all()


# --- properties ------------------------------------------------------------------------------------------------------


@given(
    x=reference.arrays(),
    difference=st.sampled_from([0, 1e-8, 1e-4, 1e-2, 1, 100]),
    shift=st.sampled_from([0, 1, -64, 4096]),
    seed=st.integers(0, 2**32),
)
def test_never_negative_and_not_moved_by_a_shift(x, difference, shift, seed):
    rng = np.random.default_rng(seed)
    x = np.rint(np.clip(x, -200, 200) * 64).astype(x.dtype) / x.dtype.type(64)      # so that the shift is exact
    ref = (np.rint((x + difference * rng.normal(size=x.shape)) * 256) / 256).astype(x.dtype)
    loss = xent.kl_divergence(x, ref, reduction="none")
    assert (loss >= 0).all()
    exact = reference.kl_divergence(x, ref, reduction="none")[0]
    tiny = np.finfo(x.dtype).smallest_normal
    for a, b in ((x, ref), (x + x.dtype.type(shift), ref), (x, ref - x.dtype.type(shift))):
        result = xent.kl_divergence(a, b, reduction="none")
        assert (result >= 0).all()
        np.testing.assert_allclose(result.astype(EXTENDED), exact, rtol=64 * np.finfo(x.dtype).eps, atol=tiny)


@each_dtype
def test_it_is_cross_entropy_minus_entropy(dtype):
    """Of the softmax of the reference as a target."""
    for n in (5, 300, 2500):
        x, ref, _ = problem((4, n), dtype=dtype)
        q = xent.softmax(ref)
        difference = xent.cross_entropy(x, q) - xent.cross_entropy(ref, q)
        assert xent.kl_divergence(x, ref) == pytest.approx(difference, rel=100 * float(np.finfo(dtype).eps))


@each_dtype
@pytest.mark.parametrize("shape", [(40, 500), (2000, 11), (7, 3, 300), (3, 10_000)])
def test_threads_and_batches(shape, dtype, monkeypatch):
    x, ref, options = problem(shape, dtype=dtype)
    x.reshape(-1, shape[-1])[::7, 0] = -INF
    for given_options in ({}, options):
        whole = both(x, ref, n_threads=1, **given_options)
        monkeypatch.setattr(threads, "BLOCK_ELEMENTS", 1000)
        monkeypatch.setattr(threads, "THREAD_ELEMENTS", 500)
        for reduction in REDUCTIONS:
            serial = both(x, ref, reduction, n_threads=1, **given_options)
            for n_threads in (2, 8):
                assert_same(both(x, ref, reduction, n_threads=n_threads, **given_options), serial)
        assert_same(serial, whole)
        for i in {1, len(x) // 3, len(x) - 1} - {0}:
            part = {k: v[:i] if isinstance(v, np.ndarray) else v for k, v in given_options.items()}
            assert_same(both(x[:i], ref[:i], **part), [a[:i] for a in whole])
        monkeypatch.undo()


@each_dtype
@pytest.mark.parametrize("n", [1, 3, 8, 10, 33, 100, 250])
def test_alone_and_side_by_side(n, dtype):
    """Rows of few classes: some fill a vector, some do not, some have no answer there."""
    x, ref, _ = problem((75, n), dtype=dtype)
    x[3::11, 0], ref[4::13, -1], x[5::13, -1], ref[6::17] = NAN, INF, -INF, -INF
    x[7::9] = ref[7::9]
    weight = np.random.default_rng(0).random(75)
    weight[8::19], weight[9::19], weight[10::19] = 0, 1e39, 1e-39
    together = both(x, ref, sample_weight=weight)
    for first in (0, 1, 5, 16, 60):
        for count in (1, 2, 3, 4, 5, 7, 8, 9, 15):
            k = slice(first, first + count)
            assert_same(both(x[k], ref[k], sample_weight=weight[k]), [a[k] for a in together])


# --- errors (more: test_arguments.py, test_outputs.py) ---------------------------------------------------------------


def test_shape_of_the_reference():
    X = np.zeros((3, 4))
    for bad in ((3,), (4,), (4, 3), (3, 1), (1, 3, 4), (3, 5), ()):
        message = f"ref_logits has shape {bad}; it must have shape (3, 4), as logits"
        for axis in (0, 1):
            fails(ValueError, message, xent.kl_divergence, X, np.zeros(bad), axis=axis)
    message = "grad_out overlaps ref_logits in memory; it must be logits itself or not overlap it"
    fails(ValueError, message, xent.kl_divergence, X, X, grad_out=X)
