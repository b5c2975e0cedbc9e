"""fit_temperature against the twin, mpmath and scikit-learn: types, layouts, logits of any size, no minimum."""

import contextlib
import math
import warnings

import ml_dtypes
import mpmath
import numpy as np
import pytest
import reference
from good_arguments import fails
from hypothesis import given
from hypothesis import strategies as st
from reference import DTYPES, EDGE_LENGTHS, LAYOUTS, SHORT_LENGTHS

import xent
from xent._calls import temperature, threads

INF, NAN = np.inf, np.nan
BOUND = 2.0**20
SHAPES = [(40, 5), (3, 20, 5), (2, 5, 3, 4)]
INTEGERS = ["i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", ">i2", ">i8", ">u8"]

each_dtype = pytest.mark.parametrize("dtype", DTYPES)


def falls_to_0():
    return pytest.warns(xent.ConvergenceWarning, match="temperature goes to 0; .*: every label has the largest")


def falls_to_infinity():
    return pytest.warns(xent.ConvergenceWarning, match="temperature goes to infinity; .*: the labels are no like")


def problem(shape, axis=-1, dtype=np.float64, seed=0, scale=2.0, times=1.5):
    """Logits, labels drawn from their softmax, and weights, some of them 0; the logits are then multiplied."""
    rng = np.random.default_rng(seed)
    x = np.moveaxis(rng.normal(size=shape, scale=scale), axis, -1)
    p = np.cumsum(reference.softmax(x), axis=-1)
    labels = np.minimum((rng.random((*x.shape[:-1], 1)) > p).sum(-1), x.shape[-1] - 1)
    return np.moveaxis(times * x, -1, axis).astype(dtype), labels, np.asarray(rng.integers(0, 4, labels.shape) / 2)


def check(logits, labels, **options):
    """The result is the twin's, or a bound and a warning where that has no minimum."""
    exact = reference.fit_temperature(logits, labels, **options)
    with falls_to_0() if exact == 0 else falls_to_infinity() if exact == INF else contextlib.nullcontext():
        actual = xent.fit_temperature(logits, labels, **options)
    assert type(actual) is float
    assert actual == pytest.approx({0: 1 / BOUND, INF: BOUND}.get(exact, exact), rel=1e-8, abs=0)
    return actual


# --- sweeps ----------------------------------------------------------------------------------------------------------


@each_dtype
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_and_axes(layout, dtype):
    """The same bits in every layout, along every axis, with weights and a mask and without."""
    move = LAYOUTS[layout]
    for shape in SHAPES:
        for axis in range(-len(shape), len(shape)):
            logits, labels, weight = problem(shape, axis, dtype)
            where = np.random.default_rng(1).random(shape) < 0.9
            np.put_along_axis(where, np.expand_dims(labels, axis), True, axis)
            for options in ({}, {"sample_weight": weight}, {"where": where, "sample_weight": weight}):
                moved = {name: move(value) for name, value in options.items()}
                fit = check if layout == "C" else xent.fit_temperature
                actual = fit(move(logits), move(labels), axis=axis, **moved)
                assert actual == xent.fit_temperature(logits, labels, axis=axis, **options)
                rows = {name: np.moveaxis(a, axis, -1) if a.ndim == len(shape) else a for name, a in options.items()}
                assert actual == xent.fit_temperature(np.moveaxis(logits, axis, -1).copy(), labels, **rows)


@each_dtype
@pytest.mark.parametrize("lengths", [SHORT_LENGTHS[1:], [*EDGE_LENGTHS[::8], 129, 2049, 4500]], ids=["short", "edge"])
def test_row_lengths(lengths, dtype):
    for n in lengths:
        logits, labels, weight = problem((21, n), dtype=dtype, seed=n)
        check(logits, labels, sample_weight=weight)
        check(logits[:5], labels[:5])


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_half_precision(dtype):
    """The result is that of the same numbers in float64."""
    for shape in [(60, 3), (40, 50), (40, 300), (7, 5000)]:
        for axis in (0, -1):
            logits, labels, weight = problem(shape, axis, dtype)
            actual = check(logits, labels, axis=axis, sample_weight=weight)
            wide = xent.fit_temperature(logits.astype(float), labels, axis=axis, sample_weight=weight)
            assert actual == pytest.approx(wide, rel=1e-12)


@pytest.mark.parametrize("kind", INTEGERS)
def test_label_types(kind):
    logits, labels, _ = problem((60, 4))
    expected = xent.fit_temperature(logits, labels)
    for move in LAYOUTS.values():
        assert xent.fit_temperature(logits, move(labels.astype(kind))) == expected
    assert xent.fit_temperature(logits.tolist(), labels.tolist()) == expected
    assert xent.fit_temperature(np.rint(logits).astype("i4"), labels) == check(np.rint(logits), labels)


@each_dtype
@pytest.mark.parametrize("n", [4, 100, 300])
def test_ignored_rows(n, dtype):
    """Whatever their logits are, and however many of them there are."""
    logits, labels, weight = problem((80, n), dtype=dtype)
    labels[1::7] = 2
    labels[::3] = -100
    logits[::3] = np.resize(np.array([NAN, INF, -INF], dtype), logits[::3].shape)
    weight[5::9], logits[5::9] = 0, NAN
    count = (labels != -100) & (weight > 0)
    expected = xent.fit_temperature(logits[count], labels[count], sample_weight=weight[count])
    assert check(logits, labels, sample_weight=weight) == pytest.approx(expected, rel=1e-12)
    few = {"sample_weight": weight[count], "ignore_index": 2}
    check(logits[count], labels[count], **few)
    assert math.isnan(xent.fit_temperature(logits, np.full(80, -100)))


@each_dtype
@pytest.mark.parametrize("n", [5, 200, 2500])
def test_masks(n, dtype):
    """A class that cannot happen counts as little as one of logit -inf, or as one that is not there."""
    logits, labels, _ = problem((20, n), dtype=dtype)
    for where in (np.random.default_rng(0).random(logits.shape) < 0.7, np.arange(n) % 3 != 1, np.ones((20, 1), bool)):
        allowed = np.broadcast_to(where, logits.shape).copy()
        allowed[np.arange(20), labels] = True
        hidden = np.where(allowed, logits, dtype(-INF))
        strange = np.where(allowed, logits, dtype(NAN))
        expected = check(hidden, labels)
        assert xent.fit_temperature(strange, labels, where=allowed) == expected
    left = np.delete(logits, 1, axis=1)
    fewer = np.where(labels > 1, labels - 1, 0)
    labels = np.where(labels == 1, 0, labels)
    assert xent.fit_temperature(logits, labels, where=np.arange(n) != 1) == pytest.approx(
        xent.fit_temperature(left, fewer), rel=1e-12
    )


# --- the minimum -----------------------------------------------------------------------------------------------------


@each_dtype
@pytest.mark.parametrize("n", [2, 10, 150])
@pytest.mark.parametrize("kind", ["calibrated", "confident", "almost right", "almost chance"])
def test_logits_of_any_size(kind, n, dtype):
    """The temperature is in the units of the logits."""
    logits, labels, _ = problem((60, n), times=1)
    if kind == "confident":
        logits[np.arange(60), labels] += 8 * (np.arange(60) % 20 != 0)
    elif kind == "almost right":
        labels = logits.argmax(axis=1)
        labels[0] = logits[0].argsort()[-2]
    elif kind == "almost chance":
        labels = np.random.default_rng(1).integers(n, size=60)
        labels[:10] = logits[:10].argmax(axis=1)
    largest = 1e30 if dtype is np.float32 else 1e300
    for size in (1, 10, 1e-3, 1e-30, 1e30, 1 / largest, largest):
        check((size * logits).astype(dtype), labels)


@each_dtype
def test_offsets(dtype):
    """Only distances from the maximum count, and large logits keep their digits."""
    logits, labels, _ = problem((50, 8), dtype=dtype)
    for offset in (1e4, -1e6, 1e7):
        check((logits + np.arange(50)[:, None] + dtype(offset)).astype(dtype), labels)


def test_mpmath():
    """The root of the slope in 50 digits."""
    logits, labels, _ = problem((12, 4), times=3)
    with mpmath.workdps(50):
        x = [[mpmath.mpf(v) for v in row] for row in logits.tolist()]

        def slope(log_t):
            b, total = mpmath.exp(-log_t), mpmath.mpf(0)
            for row, label in zip(x, labels.tolist(), strict=True):
                e = [mpmath.exp(b * v) for v in row]
                total += mpmath.fsum(v * w for v, w in zip(row, e, strict=True)) / mpmath.fsum(e) - row[label]
            return total

        exact = mpmath.exp(mpmath.findroot(slope, (mpmath.log(0.1), mpmath.log(100)), solver="anderson"))
    assert xent.fit_temperature(logits, labels) == pytest.approx(float(exact), rel=1e-8)


def test_no_other_temperature_has_a_smaller_loss():
    for n in (3, 500):
        logits, labels, weight = problem((300, n), seed=n)
        best = xent.fit_temperature(logits, labels, sample_weight=weight)
        losses = [
            reference.cross_entropy(logits, labels, sample_weight=weight, logit_scale=1 / (best * (1 + step)))[0]
            for step in (0, -1e-6, 1e-6, -0.01, 0.01)
        ]
        assert losses[0] < min(losses[1:])


def test_scikit_learn():
    """The minimum of the same loss, which a search for it in float64 only finds to half of its digits."""
    calibration = pytest.importorskip("sklearn.calibration")
    base = pytest.importorskip("sklearn.base")
    if not hasattr(calibration, "_TemperatureScaling"):
        pytest.skip("this scikit-learn has no temperature scaling")

    class Given(base.ClassifierMixin, base.BaseEstimator):
        """X are the logits."""

        def fit(self, X, y):
            self.classes_ = np.unique(y)
            return self

        def decision_function(self, X):
            return X

        def predict(self, X):
            return X.argmax(axis=1)

    logits, labels, _ = problem((2000, 7), times=2.5)
    model = Given().fit(logits, labels)
    frozen = pytest.importorskip("sklearn.frozen").FrozenEstimator(model)
    theirs = calibration.CalibratedClassifierCV(frozen, method="temperature").fit(logits, labels)
    beta = theirs.calibrated_classifiers_[0].calibrators[0].beta_
    T = xent.fit_temperature(logits, labels)
    assert pytest.approx(1 / beta, rel=1e-6) == T
    ours, other = (reference.cross_entropy(logits, labels, logit_scale=scale)[0] for scale in (1 / T, beta))
    assert ours <= other


def test_few_passes():
    """Over the logits: a typical classifier's temperature takes a handful."""
    for n in (2, 10, 200):
        logits, labels, _ = problem((200, n), times=1)
        for size in (0.5, 1, 2, 4, 1e10):
            fit = temperature.fit_temperature(size * logits, labels, -1, None, -100, None, 1)
            assert fit.passes <= 8
        again = temperature.fit_temperature(size * logits / fit.temperature, labels, -1, None, -100, None, 1)
        assert again.passes == 1


# --- no minimum ------------------------------------------------------------------------------------------------------


@each_dtype
@pytest.mark.parametrize("n", [2, 30, 500])
@pytest.mark.parametrize("size", [1, 1e-30, 1e30])
def test_loss_that_falls_towards_0(size, n, dtype):
    """Every label has the largest logit, alone or not."""
    logits = (size * problem((30, n))[0]).astype(dtype)
    labels = logits.argmax(axis=1)
    logits[3, :2] = logits[3].max()
    labels[3] = 1
    with falls_to_0():
        assert xent.fit_temperature(logits, labels) == 1 / BOUND


@each_dtype
@pytest.mark.parametrize("n", [2, 30, 500])
@pytest.mark.parametrize("size", [1, 1e-30, 1e30])
def test_loss_that_falls_towards_infinity(size, n, dtype):
    """Labels are unlikelier than by chance, or exactly as likely."""
    logits = (size * problem((30, n))[0]).astype(dtype)
    with falls_to_infinity():
        assert xent.fit_temperature(logits, logits.argmin(axis=1)) == BOUND
    # Each class once: distances of labels and predicted ones are equal at T = infinity, but for rounding.
    once = np.repeat(logits[:1], n, axis=0)
    with falls_to_infinity():
        assert xent.fit_temperature(once, np.arange(n)) == BOUND


@pytest.mark.filterwarnings("error")
@each_dtype
def test_loss_that_is_constant(dtype):
    for logits in (np.zeros((5, 3), dtype), np.full((4, 200), 1e30, dtype), problem((6, 1), dtype=dtype)[0]):
        labels = np.arange(len(logits)) % logits.shape[1]
        assert xent.fit_temperature(logits, labels) == 1.0
    logits = problem((6, 5), dtype=dtype)[0]
    assert xent.fit_temperature(logits, np.arange(6) % 5, where=np.arange(5) == np.arange(6)[:, None] % 5) == 1.0


@pytest.mark.filterwarnings("error")
@each_dtype
@pytest.mark.parametrize("n", [4, 300])
def test_loss_that_is_no_number(n, dtype):
    """nan, without a warning, as of the mean loss."""
    logits, labels, weight = problem((20, n), dtype=dtype)
    weight[:3] = 1
    for bad in (NAN, INF):
        strange = logits.copy()
        strange[2, 0] = bad
        assert math.isnan(xent.fit_temperature(strange, labels))
    impossible, nothing = logits.copy(), logits.copy()
    impossible[1, labels[1]], nothing[1] = -INF, -INF
    allowed = np.ones(logits.shape, bool)
    allowed[1, labels[1]] = False
    assert math.isnan(xent.fit_temperature(impossible, labels))
    assert math.isnan(xent.fit_temperature(nothing, labels))
    assert math.isnan(xent.fit_temperature(logits, labels, where=allowed))
    assert math.isnan(xent.fit_temperature(logits, labels, where=False))
    for array, options in ((impossible, {}), (nothing, {}), (logits, {"where": allowed})):
        weight[1] = 0
        assert math.isfinite(xent.fit_temperature(array, labels, sample_weight=weight, **options))


@pytest.mark.filterwarnings("error")
def test_nothing_to_fit():
    logits, labels, _ = problem((6, 4))
    for rows, options in ((6, {"sample_weight": 0}), (6, {"sample_weight": np.zeros(6)}), (0, {})):
        assert math.isnan(xent.fit_temperature(logits[:rows], labels[:rows], **options))
    for shape in ((0, 4), (3, 0), (0, 0), (2, 0, 4)):
        assert math.isnan(xent.fit_temperature(np.zeros(shape), np.full(shape[:-1], -100)))


def test_warning_of_scikit_learn():
    """It is an instance of scikit-learn's, and points to the caller."""
    exceptions = pytest.importorskip("sklearn.exceptions")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        xent.fit_temperature([[1.0, 0.0]], [0])
    assert issubclass(caught[0].category, exceptions.ConvergenceWarning)
    assert caught[0].filename == __file__


# --- batches, threads and any rows -----------------------------------------------------------------------------------


@each_dtype
@pytest.mark.parametrize("shape", [(70_000, 3), (9000, 40), (800, 600), (40, 20_000)])
def test_threads(shape, dtype):
    assert threads.cut(*shape, 4).threads > 1
    logits, labels, weight = problem(shape, dtype=dtype)
    expected = xent.fit_temperature(logits, labels, sample_weight=weight, n_threads=1)
    for n_threads in (2, 3, 4, None):
        assert xent.fit_temperature(logits, labels, sample_weight=weight, n_threads=n_threads) == expected


def test_weights_are_repetitions():
    logits, labels, weight = problem((70, 6))
    times = (2 * weight).astype(int)
    expected = xent.fit_temperature(np.repeat(logits, times, axis=0), np.repeat(labels, times))
    for unit in (1, 0.25, 1e200, 1e-200):
        assert xent.fit_temperature(logits, labels, sample_weight=unit * weight) == pytest.approx(expected, rel=1e-12)


@given(seed=st.integers(0, 2**32), data=st.data())
def test_any_logits(seed, data):
    """Rows of very different sizes, whose losses have their minima at very different temperatures."""
    n = data.draw(st.integers(2, 12))
    rows = data.draw(st.integers(1, 40))
    logits, labels, weight = problem((rows, n), seed=seed, times=1)
    logits *= 10.0 ** np.random.default_rng(seed).uniform(-data.draw(st.integers(0, 8)), 0, (rows, 1))
    labels = np.random.default_rng(seed).permutation(labels) if data.draw(st.booleans()) else labels
    weight[0] = 1
    check(logits, labels, sample_weight=weight)


# --- errors ----------------------------------------------------------------------------------------------------------


def test_distributions_are_refused():
    message = "target is a distribution; it must be labels, integers of shape (3,)"
    fails(TypeError, message, xent.fit_temperature, np.zeros((3, 4)), np.full((3, 4), 0.25))
    fails(TypeError, message, xent.fit_temperature, np.zeros((3, 4)), (np.zeros((3, 2), int), np.ones((3, 2))))
    message = "target is a distribution; it must be labels, integers of shape ()"
    fails(TypeError, message, xent.fit_temperature, np.zeros(4), np.full(4, 0.25))
    message += "; for two classes with one logit a row, pass np.column_stack([np.zeros(n), logits])"
    fails(TypeError, message, xent.fit_temperature, np.zeros(4), [0, 1, 1, 0])


def test_errors():
    x, y = np.zeros((3, 4)), np.array([0, 1, 2])
    f = xent.fit_temperature
    fails(ValueError, "target[1] is 4; labels must be in [0, 4) or be ignore_index, -100", f, x, [0, 4, -100])
    message = "target[0] is -1; labels must be in [0, 4) or be ignore_index, 7"
    fails(ValueError, message, f, x, [-1, 7, 7], ignore_index=7)
    fails(TypeError, "target has dtype float64; labels must be integers", f, x, np.zeros(3))
    fails(TypeError, "where has dtype int64; it must be bool", f, x, y, where=np.ones(4, "i8"))
    message = "where has shape (3,); it must broadcast to (3, 4), the shape of logits"
    fails(ValueError, message, f, x, y, where=[True] * 3)
    fails(ValueError, "sample_weight[2] is nan; weights must be at least 0", f, x, y, sample_weight=[1, 1, NAN])
    fails(np.exceptions.AxisError, "axis is 2; logits has 2 dimensions, so it must be in [-2, 2)", f, x, y, axis=2)
    fails(ValueError, "n_threads is 0; it must be at least 1", f, x, y, n_threads=0)
    fails(TypeError, "ignore_index is 1.5; it must be an integer", f, x, y, ignore_index=1.5)
    with pytest.raises(TypeError, match="logits has dtype complex128; it must be real numbers"):
        f(x + 1j, y)
