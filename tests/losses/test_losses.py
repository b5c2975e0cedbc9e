"""cross_entropy against the twin: targets, weights, layouts, axes, outputs."""

import math
import sys

import numpy as np
import pytest
import reference
from loss_problems import INF, INTEGERS, NAN, REDUCTIONS, SHAPES, TWO, Problem, check, each_dtype, each_target
from reference import (
    DTYPES,
    EDGE_LENGTHS,
    LAYOUTS,
    SHORT_LENGTHS,
    WRITEABLE_LAYOUTS,
    assert_same_bits,
    guarded,
    rows_with_every_maximum,
)

import xent

# --- sweeps ----------------------------------------------------------------------------------------------------------


@each_dtype
@each_target
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_and_axes(layout, kind, dtype):
    move = LAYOUTS[layout]
    for shape in SHAPES:
        for axis in range(-len(shape) if layout == "C" else 0, len(shape)):
            p = Problem(shape, axis, dtype, kind)
            logits, target = move(p.logits), move(p.target)
            weights = {name: move(w) for name, w in p.weights.items()}
            check(logits, target, TWO, axis=axis, **weights)
            np.testing.assert_array_equal(logits, p.logits)
            np.testing.assert_array_equal(target, p.target)


@each_dtype
@each_target
@pytest.mark.parametrize("lengths", [SHORT_LENGTHS, EDGE_LENGTHS], ids=["short", "edge"])
def test_row_lengths(lengths, kind, dtype):
    """Labels at the maximum, before and after it, in the same vector and others."""
    for n in lengths:
        logits = rows_with_every_maximum(n, dtype)
        rows = len(logits)
        best = logits.argmax(axis=1)
        for move in (0, 1, -1, n // 2) if n < 40 else (0, n // 2):
            labels = (best + move) % n
            target = labels
            if kind != "labels":
                target = np.eye(n, dtype=dtype)[labels]
            if kind == "distribution":
                target = (target + np.random.default_rng(n).dirichlet(np.ones(n), rows)).astype(dtype)
            check(logits, target, ["none"])
            if n < 18 and move < 2:
                moved = np.moveaxis(target, -1, 0) if target.ndim > 1 else target
                check(logits.T.copy(), moved, ["none"], axis=0)


@each_dtype
@pytest.mark.parametrize("kind", INTEGERS)
def test_label_types(kind, dtype):
    p = Problem((6, 4), dtype=dtype)
    for move in LAYOUTS.values():
        check(p.logits, move(p.labels.astype(kind)), TWO, **p.weights)
        check(p.logits, move(np.eye(4, dtype=kind)[p.labels]), TWO, **p.weights)


@pytest.mark.parametrize("kind", INTEGERS)
def test_integer_logits_become_float64(kind):
    check(np.array([[3, 100, 7], [1, 2, 3]], kind), [1, 0])


@each_dtype
@each_target
def test_mixed_types(kind, dtype):
    """Targets and weights of the other float type, and integer weights."""
    other = np.float32 if dtype is np.float64 else np.float64
    p = Problem((6, 5), dtype=dtype, kind=kind)
    for weight in (other, ">f4", "i4", "u1"):
        weights = {name: (2 * w).astype(weight) for name, w in p.weights.items()}
        check(p.logits, p.target if kind == "labels" else p.target.astype(other), **weights)


@each_target
def test_lists(kind):
    p = Problem((2, 3, 4), kind=kind)
    check(p.logits.tolist(), p.target.tolist(), **{name: w.tolist() for name, w in p.weights.items()})
    p = Problem((4,), kind=kind)
    check(p.logits.tolist(), p.target.tolist())
    check(tuple(p.logits), p.target.tolist(), class_weight=[1, 2, 0, 1], sample_weight=3)


def test_scalar_labels():
    for label in (2, np.uint8(2), np.array(2, ">i4")):
        check([0.5, 1.0, -3.0], label)
    loss = xent.cross_entropy(np.ones(3, np.float32), 1, reduction="none")
    assert type(loss) is np.float32
    assert loss == np.float32(np.log(3))


@each_target
@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0, 0), (2, 0, 3), (2, 3, 0), (0,)])
def test_empty_shapes(shape, kind):
    for axis in range(len(shape)):
        if kind == "labels" and shape[axis] == 0 and 0 not in np.delete(shape, axis):
            continue    # a label needs a class
        for dtype in DTYPES:
            p = Problem(shape, axis, dtype, kind)
            check(p.logits, p.target, axis=axis, **p.weights)
            loss, grad = xent.cross_entropy(p.logits, p.target, axis=axis, grad_out=np.zeros(shape, dtype))
            assert math.isnan(loss)
            assert grad.shape == shape


def test_an_empty_list_of_labels():
    assert math.isnan(xent.cross_entropy(np.zeros((0, 3)), []))
    assert xent.cross_entropy(np.zeros((0, 3)), [], reduction="sum") == 0


@each_dtype
@each_target
def test_broadcast_arrays(kind, dtype):
    p = Problem((1, 5), dtype=dtype, kind=kind)
    check(np.broadcast_to(p.logits, (4, 5)), np.broadcast_to(p.target, (4, *p.target.shape[1:])))
    check(np.broadcast_to(p.logits[:, :1], (1, 5)), p.target)


@each_target
@pytest.mark.parametrize("shape", [(), (1,), (4,), (3, 1), (3, 4)])
def test_sample_weights_broadcast(shape, kind):
    p = Problem((3, 4, 5), kind=kind)
    weight = np.random.default_rng(1).integers(1, 5, shape) / 4
    check(p.logits, p.target, sample_weight=weight)
    check(np.moveaxis(p.logits, -1, 1), np.moveaxis(p.target, -1, 1) if kind != "labels" else p.target, axis=1,
          sample_weight=weight)


# --- weights and ignored rows ----------------------------------------------------------------------------------------


@each_dtype
@pytest.mark.parametrize("ignored", [-100, -1, 0, 2, 255])
def test_ignored_labels(ignored, dtype):
    p = Problem((4, 5, 3), dtype=dtype)
    labels = p.labels.astype(np.int16)
    labels[1] = labels[3, 2] = ignored
    for axis, logits in ((-1, p.logits), (0, np.moveaxis(p.logits, -1, 0))):
        check(logits, labels, axis=axis, ignore_index=ignored)
        check(logits, labels, axis=axis, ignore_index=ignored, **p.weights)
    clean = xent.cross_entropy(p.logits, labels, ignore_index=ignored, reduction="none", return_grad=True)
    p.logits[labels == ignored] = NAN
    dirty = xent.cross_entropy(p.logits, labels, ignore_index=ignored, reduction="none", return_grad=True)
    for a, b in zip(clean, dirty, strict=True):
        assert_same_bits(a, b)
        assert (b[labels == ignored] == 0).all()


def test_an_ignored_class_is_none_of_a_distribution():
    p = Problem((6, 4), kind="distribution")
    check(p.logits, p.target, ignore_index=2)
    check(p.logits, np.eye(4)[p.labels], ignore_index=2)


@pytest.mark.parametrize("ignored", [2**63 - 1, -(2**63), 2**63, 2**64 - 1, 2**70, -(2**70)])
def test_any_integer_can_be_ignored(ignored):
    """Whether the type of the labels holds it or not."""
    logits = np.zeros((3, 4))
    assert xent.cross_entropy(logits, [0, 1, 2], ignore_index=ignored) == pytest.approx(np.log(4))
    if -(2**63) <= ignored < 2**64:
        labels = np.array([1, ignored, 3], np.int64 if ignored < 2**63 else np.uint64)
        loss = xent.cross_entropy(logits, labels, ignore_index=ignored, reduction="none")
        np.testing.assert_allclose(loss, [np.log(4), 0, np.log(4)])


@each_dtype
@each_target
@pytest.mark.parametrize("n", [1, 2, 7, 8, 33])
def test_zero_sample_weight_hides_everything(n, kind, dtype):
    p = Problem((6, n), dtype=dtype, kind=kind)
    for hidden in (NAN, INF, -INF):
        p.logits[1::2] = hidden
        grad = check(p.logits, p.target, sample_weight=[2, 0, 1, 0, 0.5, 0])
        assert (grad[1::2] == 0).all()
    if kind != "labels":
        p.target[1::2] = NAN
        check(p.logits, p.target, sample_weight=[2, 0, 1, 0, 0.5, 0])


@each_dtype
@each_target
def test_no_weight_at_all(kind, dtype):
    """The mean is nan and the gradient 0, without a warning."""
    p = Problem((3, 4), dtype=dtype, kind=kind)
    nothing = [{"sample_weight": 0}, {"class_weight": [0] * 4}]
    if kind == "labels":
        nothing.append({"ignore_index": 1})
        p.target[:] = 1
    for options in nothing:
        loss, grad = xent.cross_entropy(p.logits, p.target, return_grad=True, **options)
        assert math.isnan(loss)
        assert (grad == 0).all()
        assert xent.cross_entropy(p.logits, p.target, reduction="sum", **options) == 0


@each_dtype
@pytest.mark.parametrize("kind", ["labels", "distribution"])
@pytest.mark.parametrize("size", [1e-310, 1e-50, 1e50, 1e300])
@pytest.mark.parametrize("name", ["class_weight", "sample_weight"])
def test_size_of_the_weights_leaves_the_mean_alone(name, size, kind, dtype):
    """Weights are float64, whatever the logits are."""
    p = Problem((6, 4), dtype=dtype, kind=kind)
    weight = np.full(4 if name == "class_weight" else 6, size)
    loss, grad = xent.cross_entropy(p.logits, p.target, return_grad=True, **{name: weight})
    exact_loss, exact_grad = reference.cross_entropy(p.logits, p.target)
    assert loss == pytest.approx(float(exact_loss), rel=1e-5)
    np.testing.assert_allclose(grad, exact_grad.astype(np.float64), rtol=1e-5)


@pytest.mark.parametrize("name", ["cross_entropy", "binary_cross_entropy_with_logits"])
def test_weights_of_every_size_raise_no_floating_point_errors(name):
    weights = {"sample_weight": np.array([[1e308], [1e-308]]) if name[0] == "b" else np.array([1e308, 1e-308])}
    if name == "cross_entropy":
        weights["class_weight"] = [1e300, 1e-300]
    with np.errstate(all="raise"):
        loss, _ = getattr(xent, name)(np.zeros((2, 2)), np.eye(2), return_grad=True, **weights)
    assert loss == pytest.approx(np.log(2))


@pytest.mark.parametrize("reduction", ["sum", "none"])
def test_weights_that_float32_cannot_hold(reduction):
    """A gradient fits if the weight times the probability does, and it is 0 where the probability is."""
    logits = np.array([[0, -80, -INF, -60]], np.float32)
    for target in ([0], [3], np.eye(4, dtype=np.float32)[[0]], np.array([[0.5, 0, 0, 0.5]], np.float32)):
        for weight in (1e39, 1e50, 1e-50):
            options = {"sample_weight": weight, "reduction": reduction}
            _, grad = xent.cross_entropy(logits, target, return_grad=True, **options)
            _, exact = reference.cross_entropy(logits, target, **options)
            with np.errstate(over="ignore"):
                np.testing.assert_allclose(grad, exact.astype(np.float32), rtol=1e-6)


@each_target
def test_infinite_sums(kind):
    """Each loss fits, their sum does not, in one block of work or in many."""
    for shape in ((2, 4), (2, 70_000), (70_000, 2)):
        logits = np.zeros(shape)
        logits[:, 0] = 1.7e308
        target = np.ones(len(logits), np.int64)
        if kind != "labels":
            target = np.zeros(shape)
            target[:, 1] = 1
        assert xent.cross_entropy(logits, target, reduction="sum") == INF
        assert xent.cross_entropy(logits, target) == INF
        assert (xent.cross_entropy(logits, target, reduction="none") == 1.7e308).all()
        assert xent.cross_entropy(np.zeros(shape), target, sample_weight=1.7e308, reduction="sum") == INF


# --- the gradient's array --------------------------------------------------------------------------------------------


@each_dtype
@each_target
@pytest.mark.parametrize("layout", WRITEABLE_LAYOUTS)
def test_grad_out(layout, kind, dtype):
    """Fresh and in place, whatever the strides, for every axis."""
    move = WRITEABLE_LAYOUTS[layout]
    for shape in SHAPES:
        for axis in range(len(shape)):
            p = Problem(shape, axis, dtype, kind)
            for reduction in REDUCTIONS:
                options = {"axis": axis, "reduction": reduction, **p.weights}
                loss, expected = xent.cross_entropy(p.logits, p.target, return_grad=True, **options)
                for logits, out in ((p.logits, move(np.full(shape, 77, dtype))), (move(p.logits.copy()),) * 2):
                    again, grad = xent.cross_entropy(logits, p.target, grad_out=out, **options)
                    assert grad is out
                    assert_same_bits(grad, expected)
                    np.testing.assert_array_equal(again, loss)


@each_dtype
@each_target
def test_nothing_else_is_written(kind, dtype):
    for n in (*SHORT_LENGTHS, 511, 513):
        p = Problem((3, n), dtype=dtype, kind=kind)
        logits, intact = guarded(p.logits)
        xent.cross_entropy(logits, p.target, grad_out=logits, **p.weights)
        intact()
        gaps = np.full((3, 2 * n), 5, dtype)
        xent.cross_entropy(gaps[:, ::2], p.target, grad_out=gaps[:, ::2])
        assert (gaps[:, 1::2] == 5).all()


NEIGHBOURS = """
import ctypes, mmap
import numpy as np
import xent
page = mmap.PAGESIZE
room = mmap.mmap(-1, 3 * page)
first = ctypes.addressof(ctypes.c_char.from_buffer(room))
for address in (first, first + 2 * page):
    assert ctypes.CDLL(None).mprotect(ctypes.c_void_p(address), ctypes.c_size_t(page), 0) == 0
for dtype in ("f4", "f8"):
    middle = np.frombuffer(room, dtype, page // np.dtype(dtype).itemsize, page)
    for n in range(1, 70):
        for row in (middle[:n], middle[-n:]):
            apart = np.full(n, 0.5, dtype)
            row[:] = 0.5
            xent.logsumexp(row)
            xent.binary_cross_entropy(row, row, sample_weight=row, return_grad=True)
            xent.cross_entropy(apart, row, grad_out=apart)
            for out in (row, row[::-1]):
                xent.softmax(out, out=out)
                xent.log_softmax(out, out=out)
                for label in {0, n - 1}:
                    xent.cross_entropy(out, label, grad_out=out)
                xent.binary_cross_entropy_with_logits(out, np.full(n, 0.5, dtype), grad_out=out)
print("alive")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no mprotect")
def test_nothing_outside_is_read(python):
    """Arrays that begin or end at a page that must not be touched."""
    assert python(NEIGHBOURS) == "alive"


@each_dtype
def test_target_with_one_nan(dtype):
    """It has one mass that is not 0, but is no one-hot target; its row is NaN, and nothing else is touched."""
    for n in SHORT_LENGTHS:
        for place in {0, n // 2, n - 1}:
            target = np.zeros((3, n), dtype)
            target[1, place] = NAN
            target[[0, 2], 0] = 1
            logits, intact = guarded(np.zeros((3, n), dtype))
            loss, grad = xent.cross_entropy(logits, target, reduction="none", grad_out=logits)
            assert np.isnan(loss[1])
            assert np.isnan(grad[1]).all()
            np.testing.assert_allclose(loss[[0, 2]], np.log(n), rtol=1e-6, atol=0)
            np.testing.assert_allclose(grad[[0, 2]], np.full((2, n), 1 / n) - target[0], rtol=1e-6, atol=1e-7)
            intact()


# --- the same across entry points ------------------------------------------------------------------------------------


@each_dtype
@pytest.mark.parametrize("weighted", [False, True])
def test_one_hot_is_a_label(weighted, dtype):
    for n in SHORT_LENGTHS:
        p = Problem((5, n), dtype=dtype)
        weights = p.weights if weighted else {}
        for reduction in REDUCTIONS:
            results = [
                xent.cross_entropy(p.logits, target, reduction=reduction, return_grad=True, **weights)
                for target in (p.labels, np.eye(n, dtype=dtype)[p.labels], np.eye(n, dtype=np.int8)[p.labels])
            ]
            for loss, grad in results[1:]:
                np.testing.assert_equal(loss, results[0][0])
                np.testing.assert_array_equal(grad, results[0][1])


@each_dtype
def test_loss_is_minus_log_softmax_at_the_label(dtype):
    for n in SHORT_LENGTHS:
        p = Problem((5, n), dtype=dtype)
        loss = xent.cross_entropy(p.logits, p.labels, reduction="none")
        log_p = np.take_along_axis(xent.log_softmax(p.logits), p.labels[:, None], 1)[:, 0]
        np.testing.assert_allclose(loss, -log_p, rtol=6 * np.finfo(dtype).eps)


@each_dtype
@each_target
def test_categorical_cross_entropy_of_the_softmax_is_cross_entropy(kind, dtype):
    for shape in SHAPES[1:]:
        for axis in range(len(shape)):
            p = Problem(shape, axis, dtype, kind)
            for reduction in REDUCTIONS:
                options = {"axis": axis, "reduction": reduction, "sample_weight": p.weights["sample_weight"]}
                np.testing.assert_allclose(
                    xent.categorical_cross_entropy(xent.softmax(p.logits, axis), p.target, **options),
                    xent.cross_entropy(p.logits, p.target, **options),
                    rtol=20 * np.finfo(dtype).eps,
                    atol=20 * np.finfo(dtype).eps,
                )
