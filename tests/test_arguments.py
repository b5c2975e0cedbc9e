"""Bad input: which exception, what it says (argument, place, what was found, what is allowed), and that no output is
written then.
"""

import re

import numpy as np
import pytest
from reference import LAYOUTS

import xent

try:
    from ml_dtypes import bfloat16

    HALVES = [np.float16, bfloat16]
except ImportError:
    HALVES = [np.float16]

X = np.zeros((3, 4))
PROBA = np.full((3, 4), 0.25)
LABELS = np.array([0, 1, 2])
SIXTEENTHS = np.arange(1, 13).reshape(3, 4) / 16       # of any float type, and of use as anything
INDICES, MASS = np.array([[0, 1], [1, 2], [2, 3]]), np.full((3, 2), 0.25)
LOSSES = {
    "cross_entropy": (X, LABELS),
    "log_loss": (PROBA, LABELS),
    "binary_cross_entropy_with_logits": (X, X),
    "binary_cross_entropy": (PROBA, X),
}
FIRST = {name: "proba" if args[0] is PROBA else "logits" for name, args in LOSSES.items()}
PRIMITIVES = ["logsumexp", "softmax", "log_softmax"]
WITH_GRAD = [name for name in LOSSES if name != "log_loss"]
FLOATS = "float16, bfloat16, float32 or float64"
nan, inf = np.nan, np.inf


def fails(error, message, function, *args, **options):
    """The call raises, with exactly this message."""
    with pytest.raises(error) as caught:
        function(*args, **options)
    assert str(caught.value) == message


# --- real arrays -----------------------------------------------------------------------------------------------------

NOT_REAL = [
    (np.array([1j, 2]), "complex128"),
    (np.array(["a", "b"]), "<U1"),
    (np.array([b"a"]), "|S1"),
    (np.array([None, 1]), "object"),
    (np.array([True, False]), "bool"),
    (np.array(["2020-01-01"], "M8[D]"), "datetime64[D]"),
    (np.array([1], "m8[s]"), "timedelta64[s]"),
    (np.zeros(2, "f4,f4"), "[('f0', '<f4'), ('f1', '<f4')]"),
    ("text", "<U4"),
    (2**100, "object"),
]
OTHER_FLOATS = [np.longdouble] if np.dtype(np.longdouble).itemsize > 8 else []


def take_arrays():
    """Every array argument of every function, a good value of it, and all other arguments."""
    good = SIXTEENTHS
    for name in PRIMITIVES:
        yield name, "x", good, {}
    yield "logsumexp", "b", good, {"x": good}
    for name, (_, target) in LOSSES.items():
        given = {FIRST[name]: good, "target": target}
        yield name, FIRST[name], good, given
        yield name, "sample_weight", good[:, 1] if target is LABELS else good, given
        yield name, *(("target[1]", good[:, :2]) if target is LABELS else ("target", good)), given
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
@pytest.mark.parametrize("dtype", OTHER_FLOATS)
def test_other_floats(dtype, argument, good, call):
    message = f"{argument} has dtype {np.dtype(dtype)}; it must be {FLOATS}: convert it, with {argument}.astype"
    fails(TypeError, f"{message}(np.float64)", call, np.zeros((3, 4), dtype))


@each_array
@pytest.mark.parametrize("dtype", [*HALVES, ">f2"])
def test_half_precision(dtype, argument, good, call):
    """Taken for what it is."""
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
@pytest.mark.parametrize(("bad", "found"), [(0, "0"), (-3, "-3"), (np.int64(0), "0"), (-(2**70), str(-(2**70)))])
def test_number_of_threads(bad, found, name, args):
    fails(ValueError, f"n_threads is {found}; it must be at least 1", getattr(xent, name), *args, n_threads=bad)


@each_function
@pytest.mark.parametrize("bad", [1.0, "2", True, [1], np.float64(2), np.True_])
def test_number_of_threads_is_an_integer(bad, name, args):
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
    if name == "log_loss":
        fails(ValueError, message, xent.log_loss, [0.5], [1], reduction=bad)


@pytest.mark.parametrize("bad", [1.0, None, "1", True])
def test_ignore_index(bad):
    message = f"ignore_index is {bad!r}; it must be an integer"
    fails(TypeError, message, xent.cross_entropy, X, LABELS, ignore_index=bad)


IN_RANGE = {        # what each option allows, what it does not, and its limits
    "label_smoothing": ("in [0, 1]", [-1, -5e-324, np.nextafter(1, 2), -inf, inf, nan], [0, 1, np.float32(1)]),
    "logit_scale": ("finite", [-inf, inf, nan], [-1e308, 0, 1e308]),
    "softcap": ("above 0 and finite, or None", [0, -0.0, -5e-324, -30, -inf, inf, nan], [5e-324, 1e308, None]),
    "z_loss": ("at least 0 and finite", [-5e-324, np.float32(-1), -inf, inf, nan], [0, 5e-324, 1e307]),
}
OPTIONS = [*(("cross_entropy", option) for option in IN_RANGE), ("binary_cross_entropy_with_logits", "label_smoothing")]
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
    """Limits of float64, whatever the type of the logits."""
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
    message = f"axis is -1; {first} has 0 dimensions, so it must be None: there is no axis"
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


def test_one_axis_of_a_log_loss_of_two_classes():
    fails(
        np.exceptions.AxisError,
        "axis is 1; proba has 1 dimensions, so it must be in [-1, 1)",
        xent.log_loss,
        [0.5],
        [1],
        axis=1,
    )


# --- targets ---------------------------------------------------------------------------------------------------------

each_categorical = pytest.mark.parametrize("name", ["cross_entropy", "log_loss"])
MANY = 100_000      # rows, in several blocks of work


@each_categorical
@pytest.mark.parametrize("kind", ["i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", ">i8", ">u8"])
def test_label_out_of_range(kind, name):
    """The largest and smallest of every type too."""
    info = np.iinfo(kind)
    for bad in {4, info.min, info.max} - {0}:
        labels = np.array([0, bad, 4], kind)
        for given in [labels, *(layout(labels) for layout in LAYOUTS.values())]:
            for weight in (None, [1, 0, 1]):
                with pytest.raises(ValueError, match=rf"^target\[1\] is {bad}; labels must be in \[0, 4\)"):
                    getattr(xent, name)(PROBA, given, sample_weight=weight)


@each_categorical
def test_place_of_a_label(name):
    """The first in C order, with any axis and any number of threads."""
    proba, labels = np.full((2, 5, 3), 0.2), np.zeros((2, 3), int)
    labels[1, 1] = labels[1, 2] = -7
    message = r"^target\[1, 1\] is -7; labels must be in \[0, 5\)"
    for layout in LAYOUTS.values():
        with pytest.raises(ValueError, match=message):
            getattr(xent, name)(layout(proba), layout(labels), axis=1)
    labels = np.zeros(MANY, np.int32)
    labels[MANY - 100 :] = labels[MANY // 2] = 99
    for n_threads in (1, 2, 5):
        with pytest.raises(ValueError, match=rf"^target\[{MANY // 2}\] is 99; labels must be in \[0, 4\)"):
            getattr(xent, name)(np.full((MANY, 4), 0.25), labels, n_threads=n_threads)


def test_message_names_the_ignored_label():
    message = "target[0] is -100; labels must be in [0, 4) or be ignore_index, 255"
    fails(ValueError, message, xent.cross_entropy, X, [-100, 255, 0], ignore_index=255)
    fails(ValueError, message.replace("[0]", ""), xent.cross_entropy, X[0], -100, ignore_index=255)
    fails(ValueError, message.replace("-100", "4").replace("255", "-100"), xent.cross_entropy, X, [4, -100, 0])


@pytest.mark.parametrize("ignored", [-1, -100, -(2**63), 2**63 - 1])
def test_no_other_label_is_taken_for_the_ignored_one(ignored):
    """Bits that mean another number in another type."""
    for labels, ignore_index in (
        (np.array([0, 1, ignored % 2**64 if ignored < 0 else 2**63], np.uint64), ignored),
        (np.array([0, 1, -1], np.int64), 2**64 - 1),
    ):
        found, rest = labels[2], f"must be in [0, 4) or be ignore_index, {ignore_index}"
        message = f"target[2] is {found}; labels {rest}"
        fails(ValueError, message, xent.cross_entropy, X, labels, ignore_index=ignore_index)
        message = f"target[0][2, 0] is {found}; indices {rest}"
        sparse = (labels[:, None], np.ones((3, 1)))
        fails(ValueError, message, xent.cross_entropy, X, sparse, ignore_index=ignore_index)


@each_categorical
def test_no_class_at_all(name):
    with pytest.raises(ValueError, match=r"^target\[0\] is 0; labels must be in \[0, 0\)"):
        getattr(xent, name)(np.zeros((3, 0)), LABELS)
    with pytest.raises(ValueError, match=r"^target\[0\]\[0, 0\] is 0; indices must be in \[0, 0\)"):
        getattr(xent, name)(np.zeros((3, 0)), (INDICES, MASS))


each_type_but_integers = pytest.mark.parametrize(
    "dtype", [*HALVES, "f4", "f8", "?", "c16", "U3", "O", "M8[D]", "m8[s]"]
)


@each_categorical
@each_type_but_integers
def test_labels_are_integers(dtype, name):
    message = f"target has dtype {np.dtype(dtype)}; labels must be integers"
    fails(TypeError, message, getattr(xent, name), PROBA, np.zeros(3, dtype))
    fails(TypeError, message, getattr(xent, name), PROBA[:0], np.zeros(0, dtype))


@each_categorical
@each_type_but_integers
def test_indices_are_integers(dtype, name):
    message = f"target[0] has dtype {np.dtype(dtype)}; indices must be integers"
    fails(TypeError, message, getattr(xent, name), PROBA, (np.zeros((3, 2), dtype), MASS))
    fails(TypeError, message, getattr(xent, name), PROBA, (np.zeros((3, 0), dtype), MASS[:, :0]))


@each_categorical
@pytest.mark.parametrize("dtype", ["?", "c16", "U3", "O"])
def test_distributions_are_real(dtype, name):
    message = f"target has dtype {np.dtype(dtype)}; it must be real numbers, {FLOATS}"
    fails(TypeError, message, getattr(xent, name), PROBA, np.zeros((3, 4), dtype))


@each_categorical
def test_masked_and_ragged_targets(name):
    for bad in (np.ma.masked_array(LABELS, [0, 1, 0]), np.ma.masked_array(PROBA)):
        with pytest.raises(TypeError, match=r"^target is a masked array, .*target\.filled\(\.\.\.\)$"):
            getattr(xent, name)(PROBA, bad)
    with pytest.raises(ValueError, match=r"^target is not a rectangular array: "):
        getattr(xent, name)(PROBA, [[0, 1], [2]])
    with pytest.raises(TypeError, match=r"^target\[0\] is a masked array, .*target\[0\]\.filled\(\.\.\.\)$"):
        getattr(xent, name)(PROBA, (np.ma.masked_array(INDICES), MASS))
    with pytest.raises(ValueError, match=r"^target\[0\] is not a rectangular array: "):
        getattr(xent, name)(PROBA, ([[0, 1], [2], [3]], MASS))


@each_categorical
@pytest.mark.parametrize("shape", [(), (2,), (4,), (1,), (3, 1), (1, 3), (3, 3), (4, 3), (3, 4, 1)])
def test_target_shape(shape, name):
    fails(
        ValueError,
        f"target has shape {shape}; for {FIRST[name]} of shape (3, 4) with axis 1 it must have shape (3,) (labels) or "
        "(3, 4) (a distribution)",
        getattr(xent, name),
        PROBA,
        np.zeros(shape, int),
    )


def test_target_shape_with_another_axis():
    message = "target has shape (3,); for logits of shape (3, 4) with axis 0 it must have shape (4,) (labels) or "
    with pytest.raises(ValueError, match=re.escape(message)):
        xent.cross_entropy(X, LABELS, axis=0)
    message = "target[0] has shape (3, 2); for logits of shape (3, 4) with axis 0 the indices of a sparse distribution "
    fails(ValueError, f"{message}must have shape (4, k)", xent.cross_entropy, X, (INDICES, MASS), axis=0)


@each_categorical
@pytest.mark.parametrize("bad", [(), (INDICES,), (0, 1, 2), (INDICES, MASS, MASS)], ids=len)
def test_tuples_that_are_no_pairs(bad, name):
    message = (
        f"target is a tuple of {len(bad)}; a tuple must be (indices, probabilities), and labels an array or list"
    )
    fails(TypeError, message, getattr(xent, name), PROBA, bad)


@each_categorical
@pytest.mark.parametrize("shape", [(), (3,), (2, 2), (4, 2), (1, 3, 2), (3, 2, 1), (0,)])
def test_shape_of_indices(shape, name):
    message = (
        f"target[0] has shape {shape}; for {FIRST[name]} of shape (3, 4) with axis 1 the indices of a sparse "
        "distribution must have shape (3, k)"
    )
    fails(ValueError, message, getattr(xent, name), PROBA, (np.zeros(shape, int), np.ones(shape)))


@each_categorical
@pytest.mark.parametrize("shape", [(), (2,), (3,), (3, 1), (3, 3), (2, 3), (1, 3, 2), (3, 4)])
def test_shape_of_sparse_probabilities(shape, name):
    message = f"target[1] has shape {shape}; it must have shape (3, 2), as target[0]"
    fails(ValueError, message, getattr(xent, name), PROBA, (INDICES, np.ones(shape)))


@each_categorical
@pytest.mark.parametrize("kind", ["i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", ">i8", ">u8"])
def test_index_out_of_range(kind, name):
    """The first in C order; without probability or weight too."""
    info = np.iinfo(kind)
    rest = "[0, 4) or be ignore_index, -100" if name == "cross_entropy" else "[0, 4)"
    for bad in {4, info.min, info.max} - {0}:
        indices = np.array([[0, 1], [2, bad], [4, 4]], kind)
        message = f"target[0][1, 1] is {bad}; indices must be in {rest}"
        for given in [indices, *(layout(indices) for layout in LAYOUTS.values())]:
            fails(ValueError, message, getattr(xent, name), PROBA, (given, MASS))
        fails(ValueError, message, getattr(xent, name), PROBA, (indices, 0 * MASS))
        fails(ValueError, message, getattr(xent, name), PROBA, (indices, MASS), sample_weight=[1, 0, 1])


@each_categorical
def test_place_of_an_index(name):
    """With any axis and any number of threads."""
    proba, indices = np.full((2, 5, 3), 0.2), np.zeros((2, 3, 4), int)
    indices[1, 1, 2:] = indices[1, 2] = -7
    with pytest.raises(ValueError, match=r"^target\[0\]\[1, 1, 2\] is -7; indices must be in \[0, 5\)"):
        getattr(xent, name)(proba, (indices, np.ones(indices.shape)), axis=1)
    indices = np.zeros((MANY, 2), np.int32)
    indices[MANY - 100 :] = indices[MANY // 2, 1] = 99
    for n_threads in (1, 2, 5):
        with pytest.raises(ValueError, match=rf"^target\[0\]\[{MANY // 2}, 1\] is 99; indices must be in \[0, 4\)"):
            getattr(xent, name)(np.full((MANY, 4), 0.25), (indices, np.ones((MANY, 2))), n_threads=n_threads)


@pytest.mark.parametrize(
    ("kind", "ignored"), [("i1", -100), ("i2", 999), ("i8", -(2**63)), ("u1", 255), ("u8", 2**63), (">u8", 2**64 - 1)]
)
def test_ignored_indices_are_padding(kind, ignored):
    """Whatever their probability. A log loss has no such label."""
    padded = np.full((3, 4), ignored, kind), np.full((3, 4), nan)
    padded[0][:, ::2], padded[1][:, ::2] = INDICES, MASS
    logits, options = np.arange(12.0).reshape(3, 4) ** 0.5, {"ignore_index": ignored, "return_grad": True}
    loss, grad = xent.cross_entropy(logits, padded, **options)
    expected = xent.cross_entropy(logits, (INDICES, MASS), **options)
    assert loss == expected[0]
    np.testing.assert_array_equal(grad, expected[1])
    message = f"target[0][0, 1] is {ignored}; indices must be in [0, 4)"
    fails(ValueError, message, xent.log_loss, PROBA, padded)


@pytest.mark.parametrize("name", WITH_GRAD[1:])
@pytest.mark.parametrize("shape", [(), (3,), (4,), (3, 1), (1, 4), (4, 3), (1, 3, 4)])
def test_binary_target_shape(shape, name):
    message = f"target has shape {shape}; it must have shape (3, 4), as {FIRST[name]}"
    fails(ValueError, message, getattr(xent, name), PROBA, np.zeros(shape))


def test_targets_of_a_log_loss_of_two_classes():
    fails(ValueError, "target[1] is 2; labels must be 0 or 1", xent.log_loss, [0.5, 0.5], [1, 2])
    fails(ValueError, "target[0] is -1; labels must be 0 or 1", xent.log_loss, [0.5, 0.5], np.array([-1, 1], "i1"))
    fails(ValueError, "target has shape (1,); it must have shape (2,), as proba", xent.log_loss, [0.5, 0.5], [1])
    fails(
        TypeError,
        f"target has dtype bool; it must be real numbers, {FLOATS}",
        xent.log_loss,
        [0.5, 0.5],
        [True, False],
    )


# --- weights, probabilities and classes that can happen --------------------------------------------------------------


@each_loss
@pytest.mark.parametrize(("bad", "found"), [(-1, "-1.0"), (nan, "nan"), (-inf, "-inf"), (-1e-300, "-1e-300")])
def test_weights_are_at_least_0(bad, found, name):
    f, args = getattr(xent, name), LOSSES[name]
    shape = (3,) if args[1] is LABELS else (3, 4)
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
    f, args = getattr(xent, name), LOSSES[name]
    shape = (3,) if args[1] is LABELS else (3, 4)
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


@pytest.mark.parametrize("dtype", ["i1", "i8", "u1", *HALVES, "f8", "O", "U4", "c16"])
def test_where_is_bool(dtype):
    message = f"where has dtype {np.dtype(dtype)}; it must be bool"
    for bad in (np.ones((3, 4), dtype), np.ones(5, dtype)):
        fails(TypeError, message, xent.cross_entropy, X, LABELS, where=bad)


def test_shape_of_where():
    """Whatever the axis."""
    for bad in ((3,), (2, 4), (4, 1), (4, 3), (1, 3, 4), (0,)):
        message = f"where has shape {bad}; it must broadcast to (3, 4), the shape of logits"
        for axis, labels in ((1, LABELS), (0, [0, 1, 2, 0])):
            fails(ValueError, message, xent.cross_entropy, X, labels, axis=axis, where=np.ones(bad, bool))


def test_masked_and_ragged_where():
    with pytest.raises(TypeError, match=r"^where is a masked array, .*where\.filled\(\.\.\.\)$"):
        xent.cross_entropy(X, LABELS, where=np.ma.ones((3, 4), bool))
    with pytest.raises(ValueError, match=r"^where is not a rectangular array: "):
        xent.cross_entropy(X, LABELS, where=[[True], [True, False]])


@pytest.mark.parametrize("dtype", [*HALVES, np.float32, np.float64])
@pytest.mark.parametrize("bad", [-0.5, 1.5, nan, inf, -inf])
def test_probabilities_are_in_0_to_1(bad, dtype):
    proba = PROBA.astype(dtype)
    proba[1, 2] = bad
    message = f"proba[1, 2] is {dtype(bad)}; probabilities must be in [0, 1]"
    fails(ValueError, message, xent.log_loss, proba, LABELS)
    fails(ValueError, message, xent.log_loss, proba, LABELS, sample_weight=[1, 0, 1])
    fails(ValueError, message, xent.binary_cross_entropy, proba, X)
    fails(ValueError, message.replace("[1, 2]", "[2]"), xent.log_loss, proba[1], [0, 0, 0, 0])
    fails(ValueError, message.replace("[1, 2]", ""), xent.binary_cross_entropy, proba[1, 2], 1)


@pytest.mark.parametrize(
    ("bits", "dtype"),
    [(0x7FF0 << 48 | 1, "f8"), (0x7F800001, "f4"), *zip((0x7C01, 0x7F81), HALVES, strict=False)],
)
def test_signalling_nan_raises_no_warning(bits, dtype):
    bad = np.array([bits], f"u{np.dtype(dtype).itemsize}").view(dtype)
    message = "sample_weight[0] is nan; weights must be at least 0"
    fails(ValueError, message, xent.log_loss, [0.5], [1], sample_weight=bad)
    fails(ValueError, "proba[0] is nan; probabilities must be in [0, 1]", xent.binary_cross_entropy, bad, [1])


# --- outputs ---------------------------------------------------------------------------------------------------------


def with_output():
    """Every function that takes an output: its name, the output's name, that of what it is like, and a call."""
    for name in PRIMITIVES[1:]:
        yield "out", "x", lambda out, x=X, name=name: getattr(xent, name)(x, out=out)
    for name in WITH_GRAD:
        target = LOSSES[name][1]
        yield "grad_out", FIRST[name], lambda out, x=X, name=name, t=target: getattr(xent, name)(x, t, grad_out=out)


each_output = pytest.mark.parametrize(
    ("argument", "like", "call"), list(with_output()), ids=[*PRIMITIVES[1:], *WITH_GRAD]
)


@each_output
def test_outputs_that_do_not_fit(argument, like, call):
    for bad, found in (([0.0], "list"), (1.0, "float"), (np.float64(1), "float64"), (memoryview(X), "memoryview")):
        fails(TypeError, f"{argument} is a {found}; it must be a NumPy array", call, bad)
    message = f"{argument} has dtype >f8; it must be in native byte order"
    fails(TypeError, message, call, np.zeros((3, 4), ">f8"))
    message = f"{argument} is a masked array, whose mask would be ignored; it must be a plain array"
    fails(TypeError, message, call, np.ma.zeros((3, 4)))
    for dtype in ("f4", "i8", "c16"):
        message = f"{argument} has dtype {np.dtype(dtype)}; it must be float64, as {like}"
        fails(TypeError, message, call, np.zeros((3, 4), dtype))
    for shape in ((3,), (4, 3), (1, 3, 4), (3, 5), ()):
        message = f"{argument} has shape {shape}; it must have shape (3, 4), as {like}"
        fails(ValueError, message, call, np.zeros(shape))
    fails(ValueError, f"{argument} is read-only; it must be writeable", call, LAYOUTS["read-only"](X))
    message = f"{argument} is not aligned in memory; allocate it with NumPy, for example np.empty_like"
    fails(ValueError, message, call, LAYOUTS["unaligned"](X))
    message = f"{argument} has elements that share memory (a stride of 0); it must have room for each"
    shared = np.lib.stride_tricks.as_strided(np.zeros(4), (3, 4), (0, 8))
    fails(ValueError, message, call, shared)
    assert (shared == 0).all()


@each_output
@pytest.mark.parametrize("half", HALVES)
def test_outputs_of_half_precision(half, argument, like, call):
    """A gradient may be in float32 too."""
    x, accepted = PROBA.astype(half), [half, np.float32] if argument == "grad_out" else [half]
    rest = f"it must be {np.dtype(half)}, as {like}{', or float32' if argument == 'grad_out' else ''}"
    for dtype in (*HALVES, np.float32, np.float64, np.int16):
        out = np.full((3, 4), 77, dtype)
        if dtype in accepted:
            result = call(out, x)
            assert (result if argument == "out" else result[1]) is out
            assert (out != 77).all()
        else:
            fails(TypeError, f"{argument} has dtype {np.dtype(dtype)}; {rest}", call, out, x)
            assert (out == 77).all()
    for dtype in (np.float32, np.float64):
        message = f"{argument} has dtype {np.dtype(half)}; it must be {np.dtype(dtype)}, as {like}"
        fails(TypeError, message, call, x, PROBA.astype(dtype))


@pytest.mark.parametrize("half", HALVES)
@pytest.mark.parametrize("name", WITH_GRAD)
def test_wide_gradients_do_not_fit_in_place(name, half):
    """A float32 view of half-precision logits, of the same address and strides among them."""
    room, first = np.zeros((3, 8), np.float32), FIRST[name]
    message = f"grad_out overlaps {first} in memory; it may be {first} itself, or apart from it"
    halves = room.view(half)
    for logits in (halves[:, :4], halves[:, 4:8], halves[:, :8:2], halves[:, 7:3:-1]):
        fails(ValueError, message, getattr(xent, name), logits, LOSSES[name][1], grad_out=room[:, :4])
    assert (room == 0).all()
    getattr(xent, name)(halves[:, 8:12], LOSSES[name][1], grad_out=room[:, :4])


@each_output
def test_overlap_with_the_input(argument, like, call):
    """Shifted, reversed or transposed; the array itself is fine."""
    message = f"{argument} overlaps {like} in memory; it may be {like} itself, or apart from it"
    room = np.full((8, 8), 0.5)
    before = room.copy()
    x = room[:3, :4]
    for out in (room[1:4, :4], room[:3, 1:5], x[::-1], x[:, ::-1]):
        fails(ValueError, message, call, out, x)
    square = room[:3, :3]
    with pytest.raises(ValueError, match="overlaps"):
        xent.softmax(square, out=square.T)
    np.testing.assert_array_equal(room, before)
    if "grad_out" not in argument:
        call(room[::2, ::2][:3], room[1::2, 1::2][:3])      # between one another, but apart


def test_interlaced_arrays_are_apart():
    room = np.zeros((3, 8))
    loss, grad = xent.cross_entropy(room[:, ::2], LABELS, grad_out=room[:, 1::2])
    assert loss == pytest.approx(np.log(4))
    assert (room[:, ::2] == 0).all()
    np.testing.assert_allclose(grad, (0.25 - np.eye(3, 4)) / 3)


OVERLAPS = [
    ("cross_entropy", "target", lambda out: out),
    ("cross_entropy", "target", lambda out: out.view(np.int64)[:, 2]),
    ("cross_entropy", "target[0]", lambda out: (out.view(np.int64)[:, 1:3], np.ones((4, 2)))),
    ("cross_entropy", "target[1]", lambda out: (np.zeros((4, 2), int), out[:, 2:])),
    ("cross_entropy", "where", lambda out: out.view(bool)[:, 5:9]),
    ("cross_entropy", "where", lambda out: out.view(bool)[2, 8:12]),
    ("cross_entropy", "class_weight", lambda out: out[0]),
    ("cross_entropy", "sample_weight", lambda out: out[:, 1]),
    ("binary_cross_entropy_with_logits", "target", lambda out: out),
    ("binary_cross_entropy_with_logits", "pos_weight", lambda out: out[1]),
    ("binary_cross_entropy_with_logits", "sample_weight", lambda out: out[:, :1]),
]


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize(("name", "other", "part"), OVERLAPS, ids=[f"{name}-{other}" for name, other, _ in OVERLAPS])
def test_overlap_with_other_arguments(name, other, part, in_place):
    out, apart = np.zeros((4, 4)), np.zeros((4, 4))
    given = {"logits": out if in_place else apart, "target": apart, other.split("[")[0]: part(out)}
    message = f"grad_out overlaps {other} in memory; it may be logits itself, or apart from it"
    fails(ValueError, message, getattr(xent, name), **given, grad_out=out)
    assert (out == 0).all()


# --- nothing is written then -----------------------------------------------------------------------------------------

BAD_OPTIONS = {
    "cross_entropy": [
        {"target": [0, 1, 4]},
        {"target": [0, 1]},
        {"target": [0.0, 1.0, 2.0]},
        {"axis": 2},
        {"class_weight": [1, 1, 1, -1]},
        {"ignore_index": 0.5},
        {"target": (INDICES + 1, MASS)},
        {"target": (INDICES, MASS[:, :1])},
        {"target": (INDICES, MASS, MASS)},
        {"where": [1, 1, 1, 1]},
        {"label_smoothing": 2},
        {"logit_scale": nan},
        {"softcap": 0},
        {"z_loss": -1},
    ],
    "binary_cross_entropy_with_logits": [{"target": X[0]}, {"pos_weight": -1.0}, {"label_smoothing": 2}],
    "binary_cross_entropy": [{"target": X[0]}, {"proba": PROBA + np.eye(3, 4)}],
}
COMMON = [{"sample_weight": -1.0}, {"sample_weight": "a"}, {"reduction": "all"}, {"n_threads": 0}, {"n_threads": 1.5}]
FAILURES = [(name, bad) for name in WITH_GRAD for bad in BAD_OPTIONS[name] + COMMON]


@pytest.mark.parametrize(("name", "bad"), FAILURES, ids=[f"{name}-{'-'.join(bad)}" for name, bad in FAILURES])
def test_no_gradient_is_written(name, bad):
    given = {FIRST[name]: PROBA.copy(), "target": LOSSES[name][1], **bad}
    for grad_out in (np.full((3, 4), 77.0), given[FIRST[name]]):
        before = grad_out.copy()
        with pytest.raises((ValueError, TypeError)):
            getattr(xent, name)(**given, grad_out=grad_out)
        np.testing.assert_array_equal(grad_out, before)


def test_no_gradient_is_written_for_one_bad_label_among_many():
    grad_out, labels = np.full((MANY, 4), 77.0), np.zeros(MANY, int)
    for place in (0, MANY // 2, MANY - 1):
        labels[:] = 0
        labels[place] = 4
        with pytest.raises(ValueError, match=rf"^target\[{place}\] is 4"):
            xent.cross_entropy(np.zeros((MANY, 4)), labels, grad_out=grad_out, n_threads=2)
        sparse = labels[:, None], np.ones((MANY, 1))
        with pytest.raises(ValueError, match=rf"^target\[0\]\[{place}, 0\] is 4"):
            xent.cross_entropy(np.zeros((MANY, 4)), sparse, grad_out=grad_out, n_threads=2)
        assert (grad_out == 77).all()


@pytest.mark.parametrize("name", PRIMITIVES[1:])
@pytest.mark.parametrize("bad", [{"axis": 2}, {"axis": (0, 0)}, {"axis": 0.5}, {"n_threads": 0}])
def test_no_probability_is_written(bad, name):
    out = np.full((3, 4), 77.0)
    with pytest.raises((ValueError, TypeError)):
        getattr(xent, name)(X, out=out, **bad)
    assert (out == 77).all()


# --- the estimator ---------------------------------------------------------------------------------------------------

FEATURES = np.random.default_rng(0).normal(size=(4, 2))
CLASSES = np.array([0, 1, 2, 1])


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"X": FEATURES[0]}, ValueError, r"^X has 1 dimensions; it must have 2, \(n_samples, n_features\)"),
        ({"X": FEATURES[:0]}, ValueError, r"^X has shape \(0, 2\); it must have at least one sample and one feature"),
        ({"X": FEATURES[:, :0]}, ValueError, r"^X has shape \(4, 0\); it must have at least one sample"),
        ({"X": np.where(FEATURES < 9, nan, 0)}, ValueError, r"^X\[0, 0\] is nan; it must be finite \(no NaN, no inf\)"),
        ({"X": [[1.0], [2.0], [inf], [0.0]]}, ValueError, r"^X\[2, 0\] is inf; it must be finite"),
        ({"y": [0, 1]}, ValueError, r"^y has shape \(2,\); it must have shape \(4,\), a value for each row of X"),
        ({"y": [1, 1, 1, 1]}, ValueError, "^y has one class only, .*1.*; it must have at least 2"),
        ({"y": [0, 0.5, 1, 1]}, ValueError, r"^y\[1\] is 0.5; labels must be integers, strings or other classes"),
        ({"y": np.array([1, "a", 2, 1], object)}, TypeError, "^y has labels that cannot be sorted: "),
        ({"sample_weight": [1, 2]}, ValueError, r"^sample_weight has shape \(2,\); it must have shape \(4,\)"),
        ({"sample_weight": [1, -2, 0, 0]}, ValueError, r"^sample_weight\[1\] is -2.0; weights must be finite"),
        ({"sample_weight": [1, inf, 0, 0]}, ValueError, r"^sample_weight\[1\] is inf; weights must be finite"),
    ],
)
def test_bad_input_to_fit(options, error, message):
    with pytest.raises(error, match=message):
        xent.LogisticRegression().fit(**{"X": FEATURES, "y": CLASSES, **options})


@pytest.mark.parametrize("dtype", [*HALVES, *OTHER_FLOATS, np.complex128, "M8[s]"])
def test_types_of_features(dtype):
    """No half precision, and no message that offers it."""
    allowed, error = "it must be real numbers, float32 or float64", TypeError
    if dtype is np.complex128:
        allowed, error = "it must be real numbers (Complex data not supported)", ValueError     # as scikit-learn
    if dtype in HALVES + OTHER_FLOATS:
        wider = "float32" if dtype in HALVES else "float64"
        allowed = f"it must be float32 or float64: convert it, with X.astype(np.{wider})"
    model, bad = xent.LogisticRegression().fit(FEATURES, CLASSES), FEATURES.astype(dtype)
    fails(error, f"X has dtype {np.dtype(dtype)}; {allowed}", model.predict, bad)
    fails(error, f"X has dtype {np.dtype(dtype)}; {allowed}", model.fit, bad, CLASSES)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("heavy", "^class_weight is 'heavy'; it must be a dict from label to weight, 'balanced' or None"),
        ([1, 2, 3], r"^class_weight is \[1, 2, 3\]; it must be a dict"),
        ({3: 1.0}, r"^class_weight names 3, which is not a label of y; those are \[0, 1, 2\]"),
        ({1: -1.0}, r"^class_weight\[1\] is -1.0; weights must be finite and at least 0"),
        ({0: inf}, r"^class_weight\[0\] is inf; weights must be finite and at least 0"),
    ],
)
def test_bad_class_weights_of_the_estimator(bad, message):
    with pytest.raises(ValueError, match=message):
        xent.LogisticRegression(class_weight=bad).fit(FEATURES, CLASSES)


@pytest.mark.parametrize("bad", ["1", True, None, [1.0]])
def test_numbers_of_the_estimator(bad):
    with pytest.raises(TypeError, match=rf"^C is {re.escape(repr(bad))}; it must be a real number"):
        xent.LogisticRegression(C=bad).fit(FEATURES, CLASSES)
