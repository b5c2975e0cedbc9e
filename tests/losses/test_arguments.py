"""Errors for arguments: their type, and a message that says argument, place, what was found and what is allowed."""

import re
from functools import partial

import numpy as np
import pytest
from good_arguments import (
    FIRST,
    FLOATS,
    HALVES,
    INDICES,
    LABELS,
    LOSSES,
    OTHER_FLOATS,
    PRIMITIVES,
    PROBA,
    SECOND,
    SIXTEENTHS,
    WEIGHT_SHAPE,
    X,
    fails,
    inf,
    nan,
)

import xent

SWAPPED = f"it must be floats, {FLOATS}: are proba and target swapped?"

# --- real arrays -----------------------------------------------------------------------------------------------------

NOT_REAL = [
    (np.array([1j, 2]), "complex128"),
    (np.array(["a", "b"]), "<U1"),
    (np.array([b"a"]), "|S1"),
    (np.array([None, 1]), "object"),
    (np.array(["2020-01-01"], "M8[D]"), "datetime64[D]"),
    (np.array([1], "m8[s]"), "timedelta64[s]"),
    (np.zeros(2, "f4,f4"), "[('f0', '<f4'), ('f1', '<f4')]"),
    ("text", "<U4"),
    (2**100, "object"),
]


def take_arrays():
    """For every array argument: the function, the argument, a good value, and the other arguments."""
    good = SIXTEENTHS
    for name in PRIMITIVES:
        yield name, "x", good, {}
    yield "logsumexp", "b", good, {"x": good}
    for name, (_, target) in LOSSES.items():
        given = {FIRST[name]: good, SECOND[name]: target}
        yield name, FIRST[name], good, given
        yield name, "sample_weight", good[:, 1] if WEIGHT_SHAPE[name] == (3,) else good, given
        yield name, *(("target[1]", good[:, :2]) if target is LABELS else (SECOND[name], good)), given
    yield "cross_entropy", "class_weight", good[1], {"logits": good, "target": LABELS}
    yield "binary_cross_entropy_with_logits", "pos_weight", good, {"logits": good, "target": good}


def with_array(name, argument, given):
    def call(array):
        value = {"target": (INDICES, array)} if argument == "target[1]" else {argument: array}
        return getattr(xent, name)(**{**given, **value})

    return call


each_array = pytest.mark.parametrize(
    ("argument", "good", "call"),
    [pytest.param(a, good, with_array(f, a, given), id=f"{f}-{a}") for f, a, good, given in take_arrays()],
)


@each_array
@pytest.mark.parametrize(("bad", "dtype"), NOT_REAL, ids=[dtype for _, dtype in NOT_REAL])
def test_not_real_numbers(bad, dtype, argument, good, call):
    fails(TypeError, f"{argument} has dtype {dtype}; it must be real numbers, {FLOATS}", call, bad)


@each_array
def test_booleans_are_0_and_1(argument, good, call):
    """Wherever a number in [0, 1] is due. Logits are not such numbers, and a boolean is no predicted probability."""
    bad = good > good.mean()
    if argument == "proba":
        call = partial(fails, TypeError, f"proba has dtype bool; {SWAPPED}", call)
    elif argument in ("logits", "ref_logits", "x"):
        call = partial(fails, TypeError, f"{argument} has dtype bool; it must be real numbers, {FLOATS}", call)
    else:
        np.testing.assert_array_equal(call(bad), call(bad * 1.0))
    call(bad)


@pytest.mark.parametrize("name", ["categorical_cross_entropy", "binary_cross_entropy"])
@pytest.mark.parametrize("dtype", ["i1", "i8", "u2", ">i4", "?"])
def test_swapped_probabilities(dtype, name):
    first, target = LOSSES[name]
    message = f"proba has dtype {np.dtype(dtype)}; {SWAPPED}"
    fails(TypeError, message, getattr(xent, name), target.astype(dtype), first)
    fails(TypeError, message, getattr(xent, name), np.ones((3, 4), dtype), target)
    fails(TypeError, message, getattr(xent, name), np.ones(0, dtype), target)


@each_array
@pytest.mark.parametrize("dtype", OTHER_FLOATS)
def test_other_floats(dtype, argument, good, call):
    message = f"{argument} has dtype {np.dtype(dtype)}; it must be {FLOATS}: convert it with {argument}.astype"
    fails(TypeError, f"{message}(np.float64)", call, np.zeros((3, 4), dtype))


@each_array
@pytest.mark.parametrize("dtype", [*HALVES, ">f2"])
def test_half_precision(dtype, argument, good, call):
    """It is taken as it is."""
    actual, desired = (np.asarray(call(good.astype(d)), np.float64) for d in (dtype, np.float64))
    np.testing.assert_allclose(actual, desired, rtol=2**-8)


@each_array
def test_masked_arrays(argument, good, call):
    argument = re.escape(argument)
    with pytest.raises(TypeError, match=rf"^{argument} is a masked array, .*{argument}\.filled\(\.\.\.\)$"):
        call(np.ma.masked_array([1.0, 2.0], [True, False]))


@each_array
def test_ragged_lists(argument, good, call):
    with pytest.raises(ValueError, match=rf"^{re.escape(argument)} is not a rectangular array: .*inhomogeneous"):
        call([[1.0, 2.0], [3.0]])


@pytest.mark.parametrize("shape", [(3,), (2, 4), (4, 1), (4, 3), (2, 3, 3), (0,)])
def test_shape_of_factors(shape):
    message = f"b has shape {shape}; it must broadcast with (3, 4), the shape of x"
    fails(ValueError, message, xent.logsumexp, X, b=np.ones(shape))


@pytest.mark.parametrize("x", [*HALVES, "f4", "f8", "i4"])
@pytest.mark.parametrize("b", [*HALVES, "f4", "f8", "i1", "i2", "i8", "u8"])
def test_exponents_and_factors_of_any_two_types(b, x):
    result, sign = xent.logsumexp(np.zeros(4, x), b=np.ones(4, b), return_sign=True)
    assert float(result) == pytest.approx(np.log(4), rel=2**-8)
    assert sign == 1


# --- single values ---------------------------------------------------------------------------------------------------

EVERY = [*LOSSES.items(), *((name, (X,)) for name in PRIMITIVES)]
each_function = pytest.mark.parametrize(("name", "args"), EVERY, ids=[name for name, _ in EVERY])
each_loss = pytest.mark.parametrize("name", LOSSES)


@each_function
def test_number_of_threads(name, args):
    for bad in (0, -3, np.int64(0), -(2**70)):
        fails(ValueError, f"n_threads is {bad}; it must be at least 1", getattr(xent, name), *args, n_threads=bad)
    for bad in (1.0, "2", True, [1], np.float64(2), np.True_):
        fails(TypeError, f"n_threads is {bad!r}; it must be an integer", getattr(xent, name), *args, n_threads=bad)


def test_set_num_threads():
    fails(ValueError, "n is 0; it must be at least 1", xent.set_num_threads, 0)
    fails(TypeError, "n is None; it must be an integer", xent.set_num_threads, None)
    fails(TypeError, "n is 1.5; it must be an integer", xent.set_num_threads, 1.5)


@each_loss
@pytest.mark.parametrize("bad", ["average", "", None, "Mean", b"mean", 1, ["mean"]])
def test_reduction(bad, name):
    message = f"reduction is {bad!r}; it must be one of 'mean', 'sum', 'none'"
    fails(ValueError, message, getattr(xent, name), *LOSSES[name], reduction=bad)


@pytest.mark.parametrize("bad", [1.0, None, "1", True])
def test_ignore_index(bad):
    message = f"ignore_index is {bad!r}; it must be an integer"
    fails(TypeError, message, xent.cross_entropy, X, LABELS, ignore_index=bad)


IN_RANGE = {        # what is allowed, values that are not, and values at the limits
    "label_smoothing": ("in [0, 1]", [-1, -5e-324, np.nextafter(1, 2), -inf, inf, nan], [0, 1, np.float32(1)]),
    "logit_scale": ("finite", [-inf, inf, nan], [-1e308, 0, 1e308]),
    "softcap": ("above 0 and finite, or None", [0, -0.0, -5e-324, -30, -inf, inf, nan], [5e-324, 1e308, None]),
    "poly_epsilon": ("finite", [inf, -inf, nan], [-2, 0, 5e-324, 1e307]),
    "focal_gamma": ("at least 0 and finite", [-1, inf, nan], [0, 2, 5e-324]),
    "z_loss": ("at least 0 and finite", [-5e-324, np.float32(-1), -inf, inf, nan], [0, 5e-324, 1e307]),
}
OPTIONS = [
    *(("cross_entropy", option) for option in IN_RANGE), ("binary_cross_entropy_with_logits", "label_smoothing"),
    ("kl_divergence", "logit_scale"),
]       # fmt: skip
each_option = pytest.mark.parametrize(("name", "option"), OPTIONS, ids=[f"{f}-{option}" for f, option in OPTIONS])


@each_option
def test_options_out_of_range(option, name):
    allowed, values, _ = IN_RANGE[option]
    for bad in values:
        message = f"{option} is {float(bad)}; it must be {allowed}"
        fails(ValueError, message, getattr(xent, name), *LOSSES[name], **{option: bad})
    message = f"{option} is larger than a float can be"
    fails(ValueError, message, getattr(xent, name), *LOSSES[name], **{option: 10**400})


@each_option
@pytest.mark.parametrize("dtype", [*HALVES, np.float32, np.float64])
def test_options_at_their_limits(dtype, option, name):
    """The limits are those of float64, whatever the type of the logits."""
    for good in IN_RANGE[option][2]:
        assert np.isfinite(getattr(xent, name)(X.astype(dtype), LOSSES[name][1], **{option: good})), good


@each_option
@pytest.mark.parametrize("bad", ["0.5", b"1", True, np.True_, [0.5], np.array([0.5, 0.5]), 0.5j, None])
def test_options_are_real_numbers(bad, option, name):
    if bad is not None or option != "softcap":
        message = f"{option} is {bad!r}; it must be a real number"
        fails(TypeError, message, getattr(xent, name), *LOSSES[name], **{option: bad})


WITH_AXIS = [(name, args) for name, args in EVERY if not name.startswith("binary")]
each_axis = pytest.mark.parametrize(("name", "args"), WITH_AXIS, ids=[name for name, _ in WITH_AXIS])


@each_axis
@pytest.mark.parametrize("bad", [2, -3, 100, 2**70])
def test_axis_out_of_range(bad, name, args):
    first = FIRST.get(name, "x")
    message = f"axis is {bad}; {first} has 2 dimensions, so it must be in [-2, 2)"
    fails(np.exceptions.AxisError, message, getattr(xent, name), *args, axis=bad)
    if name in PRIMITIVES:
        fails(np.exceptions.AxisError, message, getattr(xent, name), *args, axis=(0, bad))


@each_axis
def test_axis_of_a_scalar(name, args):
    first = FIRST.get(name, "x")
    allowed = "axis must be None" if name in PRIMITIVES else "it must have at least one"
    message = f"axis is -1; {first} is a number and has no axis: {allowed}"
    fails(np.exceptions.AxisError, message, getattr(xent, name), 0.5, *args[1:])


@each_axis
@pytest.mark.parametrize("bad", [1.0, "0", True, [0], [0, 1]])
def test_axis_is_an_integer(bad, name, args):
    fails(TypeError, f"axis is {bad!r}; it must be an integer", getattr(xent, name), *args, axis=bad)


@pytest.mark.parametrize("name", PRIMITIVES)
def test_repeated_axes(name):
    for bad in ((0, 0), (1, -1), (0, 1, 0)):
        fails(ValueError, f"axis is {bad}; an axis must not be repeated", getattr(xent, name), X, bad)
    fails(TypeError, "axis is 0.5; it must be an integer", getattr(xent, name), X, (0, 0.5))


# --- weights, probabilities and classes that can happen --------------------------------------------------------------


@each_loss
@pytest.mark.parametrize(("bad", "found"), [(-1, "-1.0"), (nan, "nan"), (-inf, "-inf"), (-1e-300, "-1e-300")])
def test_weights_are_at_least_0(bad, found, name):
    f, args, shape = getattr(xent, name), LOSSES[name], WEIGHT_SHAPE[name]
    weight = np.ones(shape)
    weight[-1] = bad
    place = "2" if len(shape) == 1 else "2, 0"
    fails(ValueError, f"sample_weight[{place}] is {found}; weights must be at least 0", f, *args, sample_weight=weight)
    fails(ValueError, f"sample_weight is {found}; weights must be at least 0", f, *args, sample_weight=float(bad))
    for option in {"cross_entropy": ["class_weight"], "binary_cross_entropy_with_logits": ["pos_weight"]}.get(name, []):
        message = f"{option}[1] is {found}; weights must be at least 0"
        fails(ValueError, message, f, *args, **{option: [1.0, float(bad), float(bad), 1.0]})


@each_loss
def test_shape_of_weights(name):
    f, args, shape = getattr(xent, name), LOSSES[name], WEIGHT_SHAPE[name]
    for bad in ((2,), (3, 3), (1, 3, 4), (0,)):
        message = f"sample_weight has shape {bad}; it must broadcast to {shape}, the shape of the unreduced loss"
        fails(ValueError, message, f, *args, sample_weight=np.ones(bad))


def test_shape_of_class_and_positive_weights():
    for bad in ((), (3,), (1,), (4, 1), (3, 4)):
        message = f"class_weight has shape {bad}; it must have shape (4,)"
        fails(ValueError, message, xent.cross_entropy, X, LABELS, class_weight=np.ones(bad))
    for bad in ((3,), (4, 1), (1, 3, 4)):
        message = f"pos_weight has shape {bad}; it must broadcast to (3, 4), the shape of logits"
        fails(ValueError, message, xent.binary_cross_entropy_with_logits, X, X, pos_weight=np.ones(bad))


WITH_WHERE = [(name, args) for name, args in EVERY if name in ("cross_entropy", "kl_divergence", *PRIMITIVES)]
each_mask = pytest.mark.parametrize(("name", "args"), WITH_WHERE, ids=[name for name, _ in WITH_WHERE])


@each_mask
@pytest.mark.parametrize("dtype", ["i1", "i8", "u1", *HALVES, "f8", "O", "U4", "c16"])
def test_where_is_bool(dtype, name, args):
    message = f"where has dtype {np.dtype(dtype)}; it must be bool"
    for bad in (np.ones((3, 4), dtype), np.ones(5, dtype)):
        fails(TypeError, message, getattr(xent, name), *args, where=bad)


@each_mask
def test_shape_of_where(name, args):
    """It is that of the logits, whatever the axis."""
    for bad in ((3,), (2, 4), (4, 1), (4, 3), (1, 3, 4), (0,)):
        message = f"where has shape {bad}; it must broadcast to (3, 4), the shape of {FIRST.get(name, 'x')}"
        for axis, labels in ((1, LABELS), (0, [0, 1, 2, 0])):
            given = (X, labels) if name == "cross_entropy" else args
            fails(ValueError, message, getattr(xent, name), *given, axis=axis, where=np.ones(bad, bool))
    message = "where has shape (3,); it must broadcast to (3, 4), the shape of x and b"
    fails(ValueError, message, xent.logsumexp, np.zeros((3, 1)), b=np.ones(4), where=np.ones(3, bool))


@each_mask
def test_masked_and_ragged_where(name, args):
    with pytest.raises(TypeError, match=r"^where is a masked array, .*where\.filled\(\.\.\.\)$"):
        getattr(xent, name)(*args, where=np.ma.ones((3, 4), bool))
    with pytest.raises(ValueError, match=r"^where is not a rectangular array: "):
        getattr(xent, name)(*args, where=[[True], [True, False]])


@pytest.mark.parametrize("dtype", [*HALVES, np.float32, np.float64])
@pytest.mark.parametrize("bad", [-0.5, 1.5, nan, inf, -inf])
def test_probabilities_are_in_0_to_1(bad, dtype):
    proba = PROBA.astype(dtype)
    proba[1, 2] = bad
    message = f"proba[1, 2] is {dtype(bad)}; probabilities must be in [0, 1]"
    fails(ValueError, message, xent.categorical_cross_entropy, proba, LABELS)
    fails(ValueError, message, xent.categorical_cross_entropy, proba, LABELS, sample_weight=[1, 0, 1])
    fails(ValueError, message, xent.binary_cross_entropy, proba, X)
    fails(ValueError, message.replace("[1, 2]", "[2]"), xent.categorical_cross_entropy, proba[1], 0)
    fails(ValueError, message.replace("[1, 2]", ""), xent.binary_cross_entropy, proba[1, 2], 1)


@pytest.mark.parametrize(
    ("bits", "dtype"),
    [(0x7FF0 << 48 | 1, "f8"), (0x7F800001, "f4"), *zip((0x7C01, 0x7F81), HALVES, strict=False)],
)
def test_signalling_nan_raises_no_warning(bits, dtype):
    bad = np.array([bits], f"u{np.dtype(dtype).itemsize}").view(dtype)
    message = "sample_weight[0] is nan; weights must be at least 0"
    fails(ValueError, message, xent.categorical_cross_entropy, [[0.5]], [0], sample_weight=bad)
    fails(ValueError, "proba[0] is nan; probabilities must be in [0, 1]", xent.binary_cross_entropy, bad, [1])
