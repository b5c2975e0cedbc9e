"""Errors for output arrays: which do not fit, and which overlap an operand; and nothing is written after an error."""

import numpy as np
import pytest
from good_arguments import (
    FIRST,
    HALVES,
    INDICES,
    LABELS,
    LOSSES,
    MANY,
    MASS,
    PRIMITIVES,
    PROBA,
    SECOND,
    WITH_GRAD,
    X,
    fails,
    nan,
)
from reference import LAYOUTS

import xent

# --- outputs ---------------------------------------------------------------------------------------------------------


def with_output():
    """For every function with an output: the output's name, the name of the operand that it is like, and a call."""
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
    message = f"{argument} has elements that share memory (a stride of 0); each must have its own memory"
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
    """A float32 view of half-precision logits overlaps them, even if address and strides are the same."""
    memory, first = np.zeros((3, 8), np.float32), FIRST[name]
    message = f"grad_out overlaps {first} in memory; it must be {first} itself or not overlap it"
    halves = memory.view(half)
    for logits in (halves[:, :4], halves[:, 4:8], halves[:, :8:2], halves[:, 7:3:-1]):
        fails(ValueError, message, getattr(xent, name), logits, LOSSES[name][1], grad_out=memory[:, :4])
    assert (memory == 0).all()
    getattr(xent, name)(halves[:, 8:12], LOSSES[name][1], grad_out=memory[:, :4])


@each_output
def test_overlap_with_the_input(argument, like, call):
    """Shifted, reversed or transposed; the array itself is fine."""
    message = f"{argument} overlaps {like} in memory; it must be {like} itself or not overlap it"
    memory = np.full((8, 8), 0.5)
    before = memory.copy()
    x = memory[:3, :4]
    for out in (memory[1:4, :4], memory[:3, 1:5], x[::-1], x[:, ::-1]):
        fails(ValueError, message, call, out, x)
    rows = np.full((4, 4), 0.5)     # contiguous parts, as the fast path takes them
    fails(ValueError, message, call, rows[1:], rows[:-1])
    square = memory[:3, :3]
    with pytest.raises(ValueError, match="overlaps"):
        xent.softmax(square, out=square.T)
    np.testing.assert_array_equal(memory, before)
    if "grad_out" not in argument:
        call(memory[::2, ::2][:3], memory[1::2, 1::2][:3])      # interlaced, but apart


def test_interlaced_arrays_are_apart():
    memory = np.zeros((3, 8))
    loss, grad = xent.cross_entropy(memory[:, ::2], LABELS, grad_out=memory[:, 1::2])
    assert loss == pytest.approx(np.log(4))
    assert (memory[:, ::2] == 0).all()
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
    ("kl_divergence", "ref_logits", lambda out: out),
    ("kl_divergence", "ref_logits", lambda out: out.T),
    ("kl_divergence", "where", lambda out: out.view(bool)[:, 5:9]),
    ("kl_divergence", "sample_weight", lambda out: out[:, 1]),
]


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize(("name", "other", "part"), OVERLAPS, ids=[f"{name}-{other}" for name, other, _ in OVERLAPS])
def test_overlap_with_other_arguments(name, other, part, in_place):
    out, apart = np.zeros((4, 4)), np.zeros((4, 4))
    given = {"logits": out if in_place else apart, SECOND[name]: apart, other.split("[")[0]: part(out)}
    message = f"grad_out overlaps {other} in memory; it must be logits itself or not overlap it"
    fails(ValueError, message, getattr(xent, name), **given, grad_out=out)
    assert (out == 0).all()


# --- nothing is written after an error --------------------------------------------------------------------------------

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
    "kl_divergence": [{"ref_logits": X[0]}, {"ref_logits": X * 1j}, {"axis": 2}, {"where": X}, {"logit_scale": nan}],
}
COMMON = [{"sample_weight": -1.0}, {"sample_weight": "a"}, {"reduction": "all"}, {"n_threads": 0}, {"n_threads": 1.5}]
FAILURES = [(name, bad) for name in WITH_GRAD for bad in BAD_OPTIONS[name] + COMMON]


@pytest.mark.parametrize(("name", "bad"), FAILURES, ids=[f"{name}-{'-'.join(bad)}" for name, bad in FAILURES])
def test_no_gradient_is_written(name, bad):
    given = {FIRST[name]: PROBA.copy(), SECOND[name]: LOSSES[name][1], **bad}
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
def test_probabilities_over_their_mask(name):
    out = np.zeros((4, 4))
    message = "out overlaps where in memory; it must be x itself or not overlap it"
    for x in (out, np.zeros((4, 4))):
        for where in (out.view(bool)[:, 5:9], out.view(bool)[2, 8:12]):
            fails(ValueError, message, getattr(xent, name), x, where=where, out=out)
    assert (out == 0).all()


@pytest.mark.parametrize("name", PRIMITIVES[1:])
@pytest.mark.parametrize(
    "bad",
    [{"axis": 2}, {"axis": (0, 0)}, {"axis": 0.5}, {"n_threads": 0}, {"where": [1, 0, 1, 1]}, {"where": [True] * 3}],
)
def test_no_probability_is_written(bad, name):
    out = np.full((3, 4), 77.0)
    with pytest.raises((ValueError, TypeError)):
        getattr(xent, name)(X, out=out, **bad)
    assert (out == 77).all()
