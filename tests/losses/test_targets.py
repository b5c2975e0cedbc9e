"""Errors for targets: labels, distributions and sparse distributions of a wrong type, shape or range."""

import re

import numpy as np
import pytest
from good_arguments import BINARY, FIRST, FLOATS, HALVES, INDICES, LABELS, MANY, MASS, PROBA, X, fails, nan
from reference import LAYOUTS

import xent

INTEGERS = ["i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", ">i8", ">u8"]
each_categorical = pytest.mark.parametrize("name", ["cross_entropy", "categorical_cross_entropy"])


@each_categorical
@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("kind", INTEGERS)
def test_out_of_range(kind, sparse, name):
    """Labels and indices of every type, at every place; rows without weight and indices without probability too."""
    info, good = np.iinfo(kind), INDICES if sparse else LABELS
    argument, what = ("target[0]", "indices") if sparse else ("target", "labels")
    allowed = "[0, 4) or be ignore_index, -100" if name == "cross_entropy" else "[0, 4)"
    function = getattr(xent, name)
    for place in np.ndindex(good.shape):
        for bad in {4, info.min, info.max, info.max - 3, max(info.min, -1)} - {0}:
            wrong = good.astype(kind)
            wrong[place] = bad
            message = f"{argument}[{', '.join(map(str, place))}] is {bad}; {what} must be in {allowed}"
            moved = [layout(wrong) for layout in LAYOUTS.values()] if place[0] == 1 else []
            for target in [wrong, *moved]:
                fails(ValueError, message, function, PROBA, (target, MASS) if sparse else target)
            target = (wrong, 0 * MASS) if sparse else wrong
            fails(ValueError, message, function, PROBA, target, sample_weight=[0, 0, 0])
            if name == "cross_entropy":
                for out in (np.full((3, 4), 77.0), PROBA.copy()):
                    before = out.copy()
                    options = {"where": np.ones((3, 4), bool), "softcap": 5.0, "class_weight": [1, 2, 3, 4]}
                    fails(ValueError, message, function, out, target, grad_out=out, **options)
                    fails(ValueError, message, function, PROBA, target, grad_out=out, **options)
                    np.testing.assert_array_equal(out, before)
                if not sparse:
                    fails(ValueError, message, xent.evaluate, PROBA, wrong, sample_weight=[0, 0, 0])


@each_categorical
@pytest.mark.parametrize("sparse", [False, True])
def test_place_of_a_label(sparse, name):
    """The first in C order, with any axis, layout and number of threads."""
    function = getattr(xent, name)
    proba, labels = np.full((2, 5, 3), 0.2), np.zeros((2, 3, 4) if sparse else (2, 3), int)
    labels[1, 1, ...], labels[1, 2] = -7, -7
    place = "target[0][1, 1, 0]" if sparse else "target[1, 1]"
    for layout in LAYOUTS.values():
        target = layout(labels)
        with pytest.raises(ValueError, match=rf"^{re.escape(place)} is -7; \w+ must be in \[0, 5\)"):
            function(layout(proba), (target, np.ones(labels.shape)) if sparse else target, axis=1)
    labels = np.zeros((MANY, 2) if sparse else MANY, np.int32)
    labels[MANY - 100 :] = labels[MANY // 2] = 99
    place = f"target[0][{MANY // 2}, 0]" if sparse else f"target[{MANY // 2}]"
    target = (labels, np.ones(labels.shape)) if sparse else labels
    for n_threads in (1, 2, 5):
        with pytest.raises(ValueError, match=rf"^{re.escape(place)} is 99; \w+ must be in \[0, 4\)"):
            function(np.full((MANY, 4), 0.25), target, n_threads=n_threads)


def test_swapped_arguments():
    message = (
        "target has shape (3, 4); for logits of shape (3,) with axis 0 it must have shape () (labels) or (3,) (a "
        "distribution): are logits and target swapped?"
    )
    fails(ValueError, message, xent.cross_entropy, [0, 1, 2], np.zeros((3, 4)))


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
    function, wrong = getattr(xent, name), np.zeros((3, 2), dtype)
    message = f"target has dtype {np.dtype(dtype)}; labels must be integers"
    fails(TypeError, message, function, PROBA, wrong[:, 0])
    fails(TypeError, message, function, PROBA[:0], wrong[:0, 0])
    message = f"target[0] has dtype {np.dtype(dtype)}; indices must be integers"
    fails(TypeError, message, function, PROBA, (wrong, MASS))
    fails(TypeError, message, function, PROBA, (wrong[:, :0], MASS[:, :0]))


@each_categorical
@pytest.mark.parametrize("dtype", ["c16", "U3", "O"])
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
def test_labels_that_fit_another_axis(name):
    """As PyTorch has it, with the classes on axis 1. Floats are no labels, and two axes leave nothing to mix up."""
    shape, first = (2, 4, 3), FIRST[name]
    function, x = getattr(xent, name), np.full(shape, 0.25)
    for labels, axis, also in (((2, 3), 1, ", as in PyTorch"), ((4, 3), 0, "")):
        allowed = "it must have shape (2, 4) (labels) or (2, 4, 3) (a distribution)"
        message = f"target has shape {labels}; for {first} of shape (2, 4, 3) with axis 2 {allowed}"
        hint = f"; labels of the given shape go with a class axis of {axis}{also}: pass axis={axis}"
        fails(ValueError, message + hint, function, x, np.zeros(labels, np.int8))
        assert np.isfinite(function(x, np.zeros(labels, int), axis=axis))
        fails(ValueError, message, function, x, np.zeros(labels))
        sparse = np.zeros((*labels, 2), int), np.ones((*labels, 2))
        message = (
            f"target[0] has shape {(*labels, 2)}; for {first} of shape (2, 4, 3) with axis 2 the indices of a sparse "
            "distribution must have shape (2, 4, k)"
        )
        fails(ValueError, message + hint, function, x, sparse)
    with pytest.raises(ValueError, match=r"pass axis=1$"):
        xent.evaluate(np.zeros((2, 5, 3, 4)), np.zeros((2, 3, 4), int))
    with pytest.raises(ValueError, match=r"\(a distribution\)$"):      # there is no axis to pass
        xent.linear_cross_entropy(np.zeros((2, 4, 3)), np.zeros((5, 3)), np.zeros((2, 5), int))


@each_categorical
@pytest.mark.parametrize("bad", [(), (INDICES,), (0, 1, 2), (INDICES, MASS, MASS)], ids=len)
def test_tuples_that_are_no_pairs(bad, name):
    message = (
        f"target is a tuple of {len(bad)}; a tuple must be (indices, probabilities), and labels an array or list"
    )
    fails(TypeError, message, getattr(xent, name), PROBA, bad)


@each_categorical
def test_shapes_of_sparse_targets(name):
    for shape in ((), (3,), (2, 2), (4, 2), (1, 3, 2), (3, 2, 1), (0,)):
        message = (
            f"target[0] has shape {shape}; for {FIRST[name]} of shape (3, 4) with axis 1 the indices of a sparse "
            "distribution must have shape (3, k)"
        )
        fails(ValueError, message, getattr(xent, name), PROBA, (np.zeros(shape, int), np.ones(shape)))
    for shape in ((), (2,), (3,), (3, 1), (3, 3), (2, 3), (1, 3, 2), (3, 4)):
        message = f"target[1] has shape {shape}; it must have shape (3, 2), as target[0]"
        fails(ValueError, message, getattr(xent, name), PROBA, (INDICES, np.ones(shape)))


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
    fails(ValueError, message, xent.categorical_cross_entropy, PROBA, padded)


@pytest.mark.parametrize("name", BINARY)
@pytest.mark.parametrize("shape", [(), (3,), (4,), (3, 1), (1, 4), (4, 3), (1, 3, 4)])
def test_binary_target_shape(shape, name):
    message = f"target has shape {shape}; it must have shape (3, 4), as {FIRST[name]}"
    fails(ValueError, message, getattr(xent, name), PROBA, np.zeros(shape))


@pytest.mark.parametrize("name", BINARY)
def test_binary_targets_are_in_0_to_1(name):
    def refuses(target, found, allowed):
        message = f"target[1] is {found}; {allowed}"
        fails(ValueError, message, getattr(xent, name), [0.5, 0.5, 0.5], target)
        fails(ValueError, message, getattr(xent, name), [0.5, 0.5, 0.5], target, sample_weight=[1, 0, 1])

    for kind in ("i1", "i8", ">i4", "u1"):
        refuses(np.array([1, 2, 3], kind), "2", "labels must be 0 or 1")
    refuses(np.array([0, -1, 1], "i1"), "-1", "labels must be 0 or 1")
    for dtype in (*HALVES, "f4", ">f4", "f8"):
        for bad in (-0.25, 1.0 + 2**-7, nan, -nan, np.inf, -np.inf):
            array = np.array([0, bad, 1], dtype)
            refuses(array, array[1], "probabilities must be in [0, 1]")
        assert np.isfinite(getattr(xent, name)([0.5, 0.5, 0.5], np.array([-0.0, 1, 0.25], dtype)))


@each_categorical
def test_distributions_are_not_checked(name):
    assert getattr(xent, name)(PROBA, np.full((3, 4), -2.0), reduction="sum") < 0
    assert getattr(xent, name)(PROBA, (INDICES, -3 * MASS), reduction="sum") < 0
