"""float16 and bfloat16: every number is read exactly, and a gradient is that of float32, rounded to nearest even."""

import numpy as np
import pytest
import reference
from loss_problems import Problem
from reference import (
    DTYPES,
    EDGE_LENGTHS,
    LAYOUTS,
    SHORT_LENGTHS,
    WRITEABLE_LAYOUTS,
    assert_close,
    assert_same_bits,
    assert_ulp,
    guarded,
    quiet,
)

import xent

try:
    from ml_dtypes import bfloat16
except ImportError:
    bfloat16 = None

INF, NAN = np.inf, np.nan
REDUCTIONS = ["mean", "sum", "none"]
BINARY = ["binary_cross_entropy_with_logits", "binary_cross_entropy"]
LENGTH = 19     # a body and a tail, for vectors of 4, 8 and 16 lanes
FEW_LENGTHS = (1, 2, 7, 16, 17, 33)

needs_bfloat16 = pytest.mark.skipif(bfloat16 is None, reason="no ml_dtypes")
each_half = pytest.mark.parametrize("half", [np.float16, pytest.param(bfloat16, marks=needs_bfloat16)])
each_target = pytest.mark.parametrize("kind", ["labels", "distribution", "sparse"])


def everything(shape, dtype, kind, seed=0, ignored=-7):
    """Logits, a target and every option."""
    p = Problem(shape, kind, dtype, seed=seed, ignored=ignored)
    return p.logits, p.target, p.select() | {"ignore_index": ignored}


def patterns(half):
    """All 65,536 numbers, infinities and NaN."""
    return np.arange(1 << 16, dtype=np.uint16).view(half)


@quiet
def cast(x, dtype):
    """Convert as NumPy and ml_dtypes do: to nearest, ties to even, overflow to infinity."""
    return x.astype(dtype)


def assert_same(actual, expected):
    """The same type and bits; bfloat16 is compared as float32."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.dtype == expected.dtype
    assert_same_bits(*(cast(a, np.float32) if a.itemsize == 2 else a for a in (actual, expected)))


def check(name, x, target, reductions=REDUCTIONS, **options):
    """Loss and float32 gradient are those of the same numbers in float32; the half-precision gradient is its rounding.
    Returns the loss and the half-precision gradient of the last reduction."""
    function = getattr(xent, name)
    for reduction in reductions:
        given = {"reduction": reduction, **options}
        exact_loss, exact = function(cast(x, np.float32), target, return_grad=True, **given)
        loss, wide = function(x, target, grad_out=np.full(x.shape, 77, np.float32), **given)
        assert_same(loss, exact_loss)
        assert_same(wide, exact)
        result, grad = function(x, target, return_grad=True, **given)
        assert_same(result, exact_loss)
        assert_same(grad, cast(exact, x.dtype))
        assert_same(function(x, target, **given), exact_loss)
        out, intact = guarded(x)
        result, inside = function(out, target, grad_out=out, **given)
        assert inside is out
        assert_same(result, exact_loss)
        assert_same(out, grad)
        intact()
    return result, grad


def rows_of(numbers, n, places):
    """A row for each number; all other classes are -inf."""
    x = np.full((len(numbers), n), -INF, numbers.dtype)
    x[range(len(numbers)), places] = numbers
    return x


# --- every number ----------------------------------------------------------------------------------------------------


@each_half
def test_every_number_at_every_place_of_all_lengths(half):
    """If all other classes are -inf, the gradient of half the squared logsumexp is the logit itself."""
    numbers = patterns(half)
    wide = cast(numbers, np.float32)
    wide[np.isinf(wide)] = NAN      # no probabilities
    for place in range(0, LENGTH, 3):
        x, labels = rows_of(numbers, LENGTH, place), np.full(len(numbers), place)
        np.testing.assert_array_equal(cast(xent.logsumexp(x), np.float32), cast(numbers, np.float32))
        options = {"z_loss": 0.5, "reduction": "sum"}
        _, grad = xent.cross_entropy(x, labels, grad_out=np.empty(x.shape, np.float32), **options)
        np.testing.assert_array_equal(grad[:, place], wide)
        _, grad = xent.cross_entropy(x, labels, grad_out=x, **options)
        np.testing.assert_array_equal(cast(grad[:, place], np.float32), wide)


@each_half
@pytest.mark.parametrize("sign", [1, -1])
def test_rounding_at_all_lengths(half, sign):
    """Gradients next to and half-way between all numbers, below the smallest and above the largest."""
    exact = cast(patterns(half)[: 1 << 15], np.float64)
    exact = exact[exact < INF]
    exact = np.append(exact, 2 * exact[-1] - exact[-2])     # where the next one would be
    weight = cast(np.concatenate([exact, (exact[1:] + exact[:-1]) / 2]), np.float32)
    weight = np.concatenate([weight, np.nextafter(weight, np.float32(0)), np.nextafter(weight, np.float32(3e38))])
    weight = np.append(weight[(weight > 0) & (weight < INF)], np.finfo(np.float32).max)
    expected = cast(sign * weight, half)
    assert {0, sign * INF} <= set(expected.astype(float))
    for order in ("C", "F"):
        places = np.arange(len(weight)) % LENGTH
        x = np.asarray(rows_of(np.full(len(weight), sign, half), LENGTH, places), order=order)
        _, grad = xent.cross_entropy(x, places, sample_weight=weight, z_loss=0.5, reduction="sum", return_grad=True)
        assert_same(grad[range(len(weight)), places], expected)


@each_half
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_of_all_lengths(layout, half):
    if layout == "big-endian" and half is bfloat16:
        pytest.skip("bfloat16 has the byte order of the machine alone")
    for n in SHORT_LENGTHS if layout == "C" else FEW_LENGTHS:
        x = patterns(half)[: (1 << 16) // n * n].reshape(-1, n)
        moved, labels = LAYOUTS[layout](x), np.arange(len(x)) % n
        loss, grad = xent.cross_entropy(cast(x, np.float32), labels, reduction="none", return_grad=True)
        actual, moved_grad = xent.cross_entropy(moved, labels, reduction="none", return_grad=True)
        assert_same(actual, loss)
        assert_same(moved_grad, cast(grad, half))
        if layout in WRITEABLE_LAYOUTS:
            xent.cross_entropy(moved, labels, reduction="none", grad_out=moved)
            assert_same(moved, cast(grad, half))


@each_half
@pytest.mark.parametrize("name", BINARY)
def test_every_number_in_a_binary_loss_at_all_offsets(name, half):
    numbers = patterns(half)
    if name == BINARY[1]:
        numbers = numbers[:32768][cast(numbers[:32768], np.float32) <= 1]
    for offset in range(9):
        x = numbers[offset:]
        for target in (np.arange(len(x)) % 2, np.resize([0, 1, 0.25], len(x)).astype(np.float32)):
            check(name, x, target, ["none"] if offset else REDUCTIONS)
        weight = np.resize([1, 3, 1e-6, 1e6, 0], len(x))            # subnormal results and infinite ones
        check(name, x[::-1], target, ["sum"], sample_weight=weight)


@each_half
@pytest.mark.parametrize("name", ["logsumexp", "softmax", "log_softmax"])
def test_primitives_of_all_lengths(name, half):
    function = getattr(xent, name)
    for n in FEW_LENGTHS:
        x = patterns(half)[: (1 << 16) // n * n].reshape(-1, n)
        for a in (x, x[::-1, ::-1], np.asarray(x, order="F")):
            assert_same(function(a), cast(function(cast(a, np.float32)), half))
        if name != "logsumexp":
            expected, out = function(x), x.copy()
            assert_same(function(out, out=out), expected)
        else:
            b = x[:, ::-1]
            expected = function(cast(x, np.float32), b=cast(b, np.float32), return_sign=True)
            for a, e in zip(function(x, b=b, return_sign=True), expected, strict=True):
                assert_same(a, cast(e, half))


# --- losses and gradients --------------------------------------------------------------------------------------------


@each_half
@each_target
@pytest.mark.parametrize("weight", [1, 1e-7, 1e-39, 1e5])
def test_all_lengths(weight, kind, half):
    """Without options and with all; gradients that are normal, subnormal, or too large."""
    for n in (*SHORT_LENGTHS, *EDGE_LENGTHS[-3:]) if weight == 1 else FEW_LENGTHS:
        x, target, options = everything((4, n), half, kind, seed=n)
        options["sample_weight"] = options["sample_weight"] * weight
        alone = {name: options[name] for name in ("sample_weight", "ignore_index")}
        for given in (alone, options):
            check("cross_entropy", x, target, ["mean", "none"], **given)


@each_half
@each_target
def test_overflow(kind, half):
    """Gradients overflow to infinities of both signs, whether the float32 gradient overflows too or not."""
    x, target, _ = everything((20, LENGTH), half, kind)
    for weight in (3.4e38, 1e39) if half is bfloat16 else (1e4, 1e39, 1e6):
        _, grad = check("cross_entropy", x, target, ["sum"], sample_weight=weight, ignore_index=-7)
    assert {-INF, INF} <= set(grad.ravel().astype(float))


@each_half
@each_target
def test_nan_infinity_and_zeros(kind, half):
    x, target, options = everything((7, LENGTH), half, kind)
    options.update(sample_weight=np.ones(7), where=None)
    x[0, 3], x[1, LENGTH - 1], x[2], x[3] = NAN, INF, -INF, -0.0
    x[4, ::2], x[5, 1:], x[6, 0] = -INF, -INF, 0
    for given in ({"ignore_index": options["ignore_index"]}, options):
        check("cross_entropy", x, target, **given)


@each_half
@each_target
def test_every_option_against_the_twin(kind, half):
    for shape in ((8,), (5, 4), (2, 3, LENGTH), (3, 200)):
        x, target, options = everything(shape, half, kind, seed=1)
        for reduction in REDUCTIONS:
            wide = np.empty(shape, np.float32)
            loss, _ = xent.cross_entropy(x, target, reduction=reduction, grad_out=wide, **options)
            exact, slope = reference.cross_entropy(x, target, reduction=reduction, **options)
            assert_close(wide, slope, np.float32)
            assert_ulp(np.asarray(loss), exact, 2, dtype=np.float32)
            _, grad = xent.cross_entropy(x, target, reduction=reduction, return_grad=True, **options)
            assert_same(grad, cast(wide, half))


@each_half
def test_binary_options_against_the_twin(half):
    rng = np.random.default_rng(0)
    x, target, weight, positive = (4 * rng.normal(size=(4, 5, 140)) ** k for k in (1, 0, 2, 2))
    x, target = x.astype(half), target / 4 * rng.random(x.shape)
    options = {"pos_weight": positive, "sample_weight": weight, "label_smoothing": 0.125}
    for name, given in zip(BINARY, (options, {"sample_weight": weight}), strict=True):
        if name == BINARY[1]:
            x = (0.01 + 0.98 / (1 + np.exp(-x.astype(float)))).astype(half)
        for reduction in REDUCTIONS:
            check(name, x, target, [reduction], **given)
            loss, wide = getattr(xent, name)(x, target, reduction=reduction, grad_out=x.astype("f4"), **given)
            exact, slope = getattr(reference, name)(x.astype("f8"), target, reduction=reduction, **given)
            assert_ulp(np.asarray(loss), exact, 2, dtype=np.float32)
            assert_close(wide, slope, np.float32)


@each_half
@each_target
def test_categorical_cross_entropy(kind, half):
    for n in SHORT_LENGTHS:
        x, target, options = everything((6, n), half, kind, seed=n, ignored=0)      # which here is a class
        p, weight = xent.softmax(x), options["sample_weight"]
        for move in (np.copy, np.asfortranarray):
            for reduction in REDUCTIONS:
                loss = xent.categorical_cross_entropy(move(p), target, sample_weight=weight, reduction=reduction)
                wide = xent.categorical_cross_entropy(
                    p.astype("f4"), target, sample_weight=weight, reduction=reduction
                )
                assert_same(loss, wide)


# --- other operands --------------------------------------------------------------------------------------------------


def with_masses(target, change):
    """Change the masses of a target; labels have none."""
    if isinstance(target, tuple):
        return target[0], change(target[1])
    return target if target.dtype.kind == "i" else change(target)


@each_half
@each_target
@pytest.mark.parametrize("layout", ["C", "every other", "reversed", "unaligned"])
def test_targets_and_weights(layout, kind, half):
    """Half-precision masses and weights are read exactly, whatever the type of the logits."""
    for dtype in (*DTYPES, half):
        for n in (1, 2, 17, 40):
            x, target, options = everything((5, n), dtype, kind, seed=n)
            results = []
            for given in (half, np.float32):

                def rounded(a, given=given):
                    return LAYOUTS[layout](cast(a, half).astype(given))

                weights = {name: rounded(options[name]) for name in ("sample_weight", "class_weight")}
                t = with_masses(target, rounded)
                results.append(xent.cross_entropy(x, t, return_grad=True, **{**options, **weights}))
            for one, other in zip(*results, strict=True):
                assert_same(one, other)


@each_half
@pytest.mark.parametrize("name", BINARY)
def test_binary_targets_and_weights(name, half):
    rng = np.random.default_rng(0)
    for dtype in (*DTYPES, half):
        x, *others = (rng.random((3, 519)) for _ in range(4))
        names = ["target", "sample_weight", "pos_weight"][: 3 if name == BINARY[0] else 2]
        results = [
            getattr(xent, name)(
                x.astype(dtype),
                **{key: a.astype(half).astype(given) for key, a in zip(names, others, strict=False)},
                return_grad=True,
            )
            for given in (half, np.float32)
        ]
        for one, other in zip(*results, strict=True):
            assert_same(one, other)


# --- types, sizes, threads -------------------------------------------------------------------------------------------


@each_half
def test_types(half):
    x = np.zeros((2, 3), half)
    for name, target in (("cross_entropy", [0, 1]), (BINARY[0], x), (BINARY[1], x)):
        function = getattr(xent, name)
        assert type(function(x, target)) is float
        loss, grad = function(x, target, reduction="none", return_grad=True)
        assert (loss.dtype, grad.dtype) == (np.float32, half)
        for dtype in (half, np.float32):
            out = np.empty((2, 3), dtype)
            assert function(x, target, grad_out=out)[1] is out
    assert type(xent.cross_entropy(x[0], 1, reduction="none")) is np.float32


@each_half
def test_mean_of_many_rows(half):
    """Most elements of its gradient are below the smallest float16, but not below that of float32 or bfloat16."""
    rows = 1 << 16
    x = np.random.default_rng(0).normal(size=(rows, 20), scale=4).astype(half)
    labels = np.arange(rows) % 20
    _, grad = xent.cross_entropy(x, labels, return_grad=True)
    _, wide = xent.cross_entropy(x, labels, grad_out=np.empty(x.shape, np.float32))
    _, total = xent.cross_entropy(x, labels, reduction="sum", return_grad=True)
    assert_same(grad, cast(wide, half))
    assert (wide != 0).all()
    assert ((grad == 0).mean() > 0.5) == (half is np.float16)
    np.testing.assert_allclose(wide.astype(float) * rows, total.astype(float), rtol=2**-8, atol=2**-25)
