"""cross_entropy and log_loss against the twin: targets, weights, layouts, axes, outputs, infinities, properties."""

import math
import sys

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

REDUCTIONS = ["mean", "sum", "none"]
TWO = ["mean", "none"]      # for sweeps: a sum is a mean without its division
SHAPES = [(5,), (3, 5), (2, 3, 5), (2, 3, 4, 5)]
TARGETS = ["labels", "one-hot", "distribution"]
INTEGERS = ["i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", ">i2", ">i8", ">u8"]
INF, NAN = np.inf, np.nan

each_dtype = pytest.mark.parametrize("dtype", DTYPES)
each_target = pytest.mark.parametrize("kind", TARGETS)


class Problem:
    """Random logits and a target of some kind, with all the weights there are."""

    def __init__(self, shape, axis=-1, dtype=np.float64, kind="labels", seed=0):
        rng = np.random.default_rng(seed)
        self.axis = axis
        self.logits = rng.normal(size=shape, scale=3).astype(dtype)
        rows = tuple(np.delete(shape, axis))
        classes = shape[axis]
        self.labels = np.asarray(rng.integers(classes, size=rows) if classes else np.zeros(rows, np.int64))
        one_hot = self.labels[..., None] == np.arange(classes)
        distribution = rng.dirichlet(np.ones(max(classes, 1)), rows)[..., :classes]
        t = {"one-hot": one_hot, "distribution": distribution}.get(kind, one_hot)
        self.target = self.labels if kind == "labels" else np.moveaxis(t, -1, axis).astype(dtype)
        self.weights = {
            "class_weight": rng.integers(0, 5, classes) / 2,
            "sample_weight": np.asarray(rng.integers(0, 4, rows) / 2),
        }


def check(logits, target, reductions=REDUCTIONS, **options):
    """The loss for every reduction, with a gradient and without, is that of the twin; returns the last gradient."""
    dtype = np.asarray(logits).dtype.newbyteorder("=")
    dtype = dtype if dtype.kind == "f" else np.dtype(np.float64)
    for reduction in reductions:
        loss, grad = xent.cross_entropy(logits, target, reduction=reduction, return_grad=True, **options)
        exact_loss, exact_grad = reference.cross_entropy(logits, target, reduction=reduction, **options)
        assert_close(grad, exact_grad, dtype)
        alone = xent.cross_entropy(logits, target, reduction=reduction, **options)
        if reduction == "none":
            assert_close(loss, exact_loss, dtype)
            assert_same_bits(np.asarray(alone), np.asarray(loss))
        else:
            assert type(loss) is float
            eps = np.finfo(dtype).eps
            np.testing.assert_allclose(loss, float(exact_loss), rtol=8 * eps, atol=8 * eps)
            np.testing.assert_equal(alone, loss)
    return grad


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
                xent.binary_cross_entropy_with_logits(out, apart, grad_out=out)
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


# --- infinities, NaN and other strange numbers -----------------------------------------------------------------------


@each_dtype
@each_target
@pytest.mark.parametrize("axis", [0, -1])
def test_nan_stays_in_its_row(axis, kind, dtype):
    """At every place of short rows; the neighbours keep their bits."""
    for n in (*SHORT_LENGTHS, 513):
        clean = rows_with_every_maximum(n, dtype)
        p = Problem(clean.shape, -1, dtype, kind)
        dirty, target = np.repeat(clean, 2, axis=0), np.repeat(p.target, 2, axis=0)
        np.fill_diagonal(dirty[1::2], np.resize(NANS[dtype], len(clean)))
        results = []
        for logits, t in ((clean, p.target), (dirty, target)):
            t = t if kind == "labels" else np.moveaxis(t, -1, axis).copy()
            logits = np.moveaxis(logits, -1, axis).copy()
            loss, grad = xent.cross_entropy(logits, t, axis=axis, reduction="none", return_grad=True)
            results += [loss, np.moveaxis(grad, axis, -1)]
        for a, b in zip(results[:2], results[2:], strict=True):
            assert np.isnan(b[1::2]).all()
            assert_same_bits(b[::2], a)


@each_dtype
@each_target
@pytest.mark.parametrize("n", [2, 3, 4, 5, 8, 17, 33, 513])
def test_infinite_logits(n, kind, dtype):
    """All -inf, some +inf, and -inf: a class that cannot happen, with target mass and without."""
    for place in {0, n // 2, n - 1}:
        p = Problem((6, n), dtype=dtype, kind=kind)
        x = p.logits
        x[0] = -INF
        x[1, place] = INF
        x[2] = INF
        x[3:, place] = -INF
        free = (np.arange(3, 6) + place) % n
        free[free == place] = (place + 1) % n
        if kind == "labels":
            p.target[3:] = free
            p.target[5] = place
        elif kind == "one-hot":
            p.target[3:] = np.eye(n)[[*free[:2], place]]
        else:
            p.target[3:5, place] = 0
        loss, grad = xent.cross_entropy(x, p.target, reduction="none", return_grad=True)
        assert np.isnan(loss[:3]).all()
        assert np.isnan(grad[:3]).all()
        assert np.isfinite(loss[3:5]).all()
        assert (grad[3:5, place] == 0).all()
        assert loss[5] == INF
        exact_loss, exact_grad = reference.cross_entropy(x, p.target, reduction="none")
        assert_close(loss, exact_loss, dtype)
        assert_close(grad, exact_grad, dtype)


@each_dtype
def test_mass_on_a_class_that_cannot_happen(dtype):
    """The loss is inf, the gradient T p - t as everywhere."""
    x = np.array([[0, 0, -INF], [0, 0, -INF], [0, 0, -INF]], dtype)
    t = np.array([[0, 0, 1], [0.5, 0, 0.5], [1, 1, 2]], dtype)
    loss, grad = xent.cross_entropy(x, t, reduction="none", return_grad=True)
    np.testing.assert_array_equal(loss, INF)
    np.testing.assert_array_equal(grad, [[0.5, 0.5, -1], [0, 0.5, -0.5], [1, 1, -2]])
    loss, grad = xent.cross_entropy(x, [2, 2, 2], class_weight=[1, 1, 0], reduction="none", return_grad=True)
    np.testing.assert_array_equal(loss, 0)
    np.testing.assert_array_equal(grad, 0)
    assert xent.cross_entropy(x, t) == INF
    assert xent.cross_entropy(x, t, reduction="sum") == INF


@each_dtype
@each_target
@pytest.mark.parametrize("n", [2, 3, 8, 19])
def test_huge_and_tiny_logits(n, kind, dtype):
    info = np.finfo(dtype)
    for scale in (info.max, info.max / 4, 1e30, info.smallest_normal, info.smallest_subnormal, 0):
        for signs in ([1] * n, [-1] * n, [0, 1] + [0.5] * (n - 2), [0.5, -0.5] + [0] * (n - 2)):
            p = Problem((n, n), dtype=dtype, kind=kind)
            if kind != "distribution":
                p.labels[:] = range(n)
                p.target = p.labels if kind == "labels" else np.eye(n, dtype=dtype)
            x = np.broadcast_to((np.array(signs) * float(scale)).astype(dtype), (n, n))
            loss, grad = xent.cross_entropy(x, p.target, reduction="none", return_grad=True)
            exact_loss, exact_grad = reference.cross_entropy(x, p.target, reduction="none")
            np.testing.assert_allclose(loss, exact_loss.astype(dtype), rtol=8 * info.eps, atol=info.smallest_normal)
            np.testing.assert_allclose(grad, exact_grad.astype(dtype), rtol=8 * info.eps, atol=8 * info.eps)


@each_dtype
def test_targets_that_are_no_distributions(dtype):
    """They are neither checked nor normalised: negative, of any sum, all 0."""
    p = Problem((4, 6), dtype=dtype)
    t = np.array([[1, -1, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0], [3, 0, 0, 2, 0, 0], [0, 0, -2, 0, 0, 0]], dtype)
    check(p.logits, t)
    check(p.logits, t, class_weight=[1, 2, 3, 0, 1, 1], sample_weight=[1, 2, 3, 4])
    loss, grad = xent.cross_entropy(p.logits, t, reduction="none", return_grad=True)
    assert loss[1] == 0
    assert (grad[1] == 0).all()


@each_dtype
def test_floating_point_flags_are_not_seen(dtype):
    """No NaN, infinity or subnormal number raises a warning, or the error that NumPy may be told to raise instead."""
    tiny = float(np.finfo(dtype).smallest_subnormal)
    x = np.array([[NAN, 1, 2], [INF, 0, -INF], [1e30, -1e30, 0], [0, -750, -tiny]], dtype)
    t = np.array([[0, 1, 0], [NAN, INF, 0], [tiny, 1, 1], [0, 0, 1]], dtype)
    p = np.array([[0, 1, tiny]] * 4, dtype)
    labels = np.array([0, 1, 2, 1])
    with np.errstate(all="raise"):
        for function in (xent.logsumexp, xent.softmax, xent.log_softmax):
            function(x)
        for reduction in REDUCTIONS:
            options = {"reduction": reduction, "sample_weight": np.array([0, 1, 3, 1])}
            for target in (labels, t):
                xent.cross_entropy(x, target, class_weight=[0, 1, 2], return_grad=True, **options)
            xent.log_loss(p, labels, **options)
            options["sample_weight"] = options["sample_weight"][:, None]
            xent.binary_cross_entropy_with_logits(x, t, pos_weight=[0, 1, 2], return_grad=True, **options)
            xent.binary_cross_entropy(p, t, return_grad=True, **options)
    assert (np.full(5, tiny, dtype) * np.ones(5, dtype) == tiny).all()      # subnormal numbers are still there


# --- properties ------------------------------------------------------------------------------------------------------


@st.composite
def problems(draw, dtypes=DTYPES, min_dims=2, scales=(1e-3, 1, 10)):
    """Logits, a target of any kind and weights, or none."""
    logits = draw(arrays(dtypes, min_dims, scales))
    p = Problem(logits.shape, -1, logits.dtype, draw(st.sampled_from(TARGETS)), draw(st.integers(0, 1000)))
    return logits, p.target, {name: w for name, w in p.weights.items() if draw(st.booleans())}


@given(problem=problems(min_dims=1))
def test_any_problem(problem):
    logits, target, weights = problem
    check(logits, target, **weights)


@given(problem=problems([np.float64]), shift=st.integers(-1000, 1000))
def test_shift_invariance(problem, shift):
    logits, target, weights = problem
    logits = np.rint(logits * 1024) / 1024      # adding an integer is exact then
    for a, b in zip(
        xent.cross_entropy(logits, target, reduction="none", return_grad=True, **weights),
        xent.cross_entropy(logits + shift, target, reduction="none", return_grad=True, **weights),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, rtol=1e-14, atol=1e-15)


@given(problem=problems())
def test_gradients_of_a_row_sum_to_0(problem):
    logits, target, weights = problem
    _, grad = xent.cross_entropy(logits, target, reduction="none", return_grad=True, **weights)
    size = np.abs(grad).sum(axis=-1, dtype=np.float64)
    if target.shape == logits.shape:    # T p - t may cancel
        t, s = reference.masses(logits, target, -1, weights.get("sample_weight"), None)
        size = size + s * (t * weights.get("class_weight", 1)).sum(axis=-1)
    rows = grad.sum(axis=-1, dtype=np.float64)
    assert (np.abs(rows) <= 16 * np.finfo(grad.dtype).eps * size).all()


@given(problem=problems([np.float64]), data=st.data())
def test_order_of_the_classes(problem, data):
    logits, target, weights = problem
    order = np.array(data.draw(st.permutations(range(logits.shape[-1]))))
    loss, grad = xent.cross_entropy(logits, target, reduction="none", return_grad=True, **weights)
    moved_target = target[..., order] if target.ndim == logits.ndim else np.argsort(order)[target]
    if "class_weight" in weights:
        weights["class_weight"] = weights["class_weight"][order]
    moved_loss, moved_grad = xent.cross_entropy(
        logits[..., order], moved_target, reduction="none", return_grad=True, **weights
    )
    np.testing.assert_allclose(moved_loss, loss, rtol=1e-14, atol=1e-15)
    np.testing.assert_allclose(moved_grad, grad[..., order], rtol=1e-14, atol=1e-15)


@given(problem=problems(), data=st.data())
def test_cut_of_the_batch(problem, data):
    """Unreduced losses and gradients of a batch are those of its parts, to the last bit."""
    logits, target, weights = problem
    i = data.draw(st.integers(0, len(logits)))
    whole = xent.cross_entropy(logits, target, reduction="none", return_grad=True, **weights)
    s = weights.pop("sample_weight", np.ones(logits.shape[:-1]))
    parts = [
        xent.cross_entropy(logits[k], target[k], sample_weight=s[k], reduction="none", return_grad=True, **weights)
        for k in (slice(i), slice(i, None))
    ]
    for a, b, c in zip(*parts, whole, strict=True):
        assert_same_bits(np.concatenate([a, b]), c)


@given(problem=problems(scales=(1, 5)))
def test_weights_are_multipliers(problem):
    """A row of weight 3 counts as 3 rows, in the loss and in the gradient, whatever the reduction."""
    logits, target, _ = problem
    count = np.random.default_rng(logits.size).integers(0, 4, len(logits))
    expanded = logits.ndim - 2
    weight = np.broadcast_to(count.reshape(-1, *[1] * expanded), logits.shape[:-1])
    eps = np.finfo(logits.dtype).eps
    mass = weight * (target.sum(-1) if target.ndim == logits.ndim else np.ones(target.shape))
    for reduction in ("sum", "mean"):
        loss, grad = xent.cross_entropy(logits, target, sample_weight=weight, reduction=reduction, return_grad=True)
        share = mass / ((mass.sum() or 1) if reduction == "mean" else 1)    # what T p - t is the difference of
        repeated_loss, repeated_grad = xent.cross_entropy(
            np.repeat(logits, count, axis=0), np.repeat(target, count, axis=0), reduction=reduction, return_grad=True
        )
        np.testing.assert_allclose(loss, repeated_loss, rtol=8 * eps)
        starts = np.cumsum(count) - count
        for i in np.flatnonzero(count):
            sums = repeated_grad[starts[i] : starts[i] + count[i]].sum(axis=0)
            np.testing.assert_allclose(grad[i], sums, rtol=16 * eps, atol=4 * eps * np.max(share[i]))


@given(problem=problems([np.float64], scales=(1, 3)), reduction=st.sampled_from(["mean", "sum"]))
def test_gradient_by_finite_differences(problem, reduction):
    logits, target, weights = problem
    direction = np.random.default_rng(0).normal(size=logits.shape)
    _, grad = xent.cross_entropy(logits, target, reduction=reduction, return_grad=True, **weights)
    step = 1e-5
    ahead, behind = (
        xent.cross_entropy(logits + sign * step * direction, target, reduction=reduction, **weights)
        for sign in (1, -1)
    )
    slope = (ahead - behind) / (2 * step)
    if not math.isnan(slope):
        scale = 1 + np.abs(grad).sum() + abs(ahead) / logits.size
        assert slope == pytest.approx(np.vdot(grad, direction), rel=1e-6, abs=1e-7 * scale)


@pytest.mark.parametrize("name", ["cross_entropy", "log_loss"])
@pytest.mark.parametrize("shape", [(100_000, 2), (7, 3, 50), (3, 70_000)])
def test_sums_are_those_of_the_rows(name, shape):
    """In float64 for float32 too: they lose no more than the rows do, however many there are."""
    p = Problem(shape)
    function = getattr(xent, name)
    x = p.logits if name == "cross_entropy" else xent.softmax(p.logits)
    weight = p.weights["sample_weight"]
    rows = function(x, p.target, sample_weight=weight, reduction="none")
    total = math.fsum(rows.ravel())
    assert function(x, p.target, sample_weight=weight, reduction="sum") == pytest.approx(total, rel=3e-16)
    assert function(x, p.target, sample_weight=weight) == pytest.approx(total / weight.sum(), rel=5e-16)
    single = function(x.astype(np.float32), p.target, sample_weight=weight, reduction="sum")
    assert single == pytest.approx(total, rel=1e-6)


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
def test_log_loss_of_the_softmax_is_cross_entropy(kind, dtype):
    for shape in SHAPES[1:]:
        for axis in range(len(shape)):
            p = Problem(shape, axis, dtype, kind)
            for reduction in REDUCTIONS:
                options = {"axis": axis, "reduction": reduction, "sample_weight": p.weights["sample_weight"]}
                np.testing.assert_allclose(
                    xent.log_loss(xent.softmax(p.logits, axis), p.target, **options),
                    xent.cross_entropy(p.logits, p.target, **options),
                    rtol=20 * np.finfo(dtype).eps,
                    atol=20 * np.finfo(dtype).eps,
                )


# --- log_loss --------------------------------------------------------------------------------------------------------


def check_log_loss(proba, target, reductions=REDUCTIONS, **options):
    dtype = np.asarray(proba).dtype.newbyteorder("=")
    dtype = dtype if dtype.kind == "f" else np.dtype(np.float64)
    for reduction in reductions:
        loss = xent.log_loss(proba, target, reduction=reduction, **options)
        exact = reference.log_loss(proba, target, reduction=reduction, **options)
        if reduction == "none":
            assert_close(loss, exact, dtype)
        else:
            assert type(loss) is float
            np.testing.assert_allclose(loss, float(exact), rtol=32 * np.finfo(dtype).eps)


@each_dtype
@each_target
@pytest.mark.parametrize("layout", LAYOUTS)
def test_log_loss(layout, kind, dtype):
    move = LAYOUTS[layout]
    for shape in [*SHAPES[1:], (3, 1), (0, 3), (3, 0)]:
        for axis in range(-len(shape) if layout == "C" else 0, len(shape)):
            p = Problem(shape, axis, dtype, kind)
            if shape[axis] == 0 and kind == "labels":
                continue
            proba = reference.softmax(p.logits, axis).astype(dtype)
            check_log_loss(move(proba), move(p.target), TWO, axis=axis, sample_weight=move(p.weights["sample_weight"]))
            if layout == "C":
                check_log_loss(proba, p.target, axis=axis)


@pytest.mark.parametrize("kind", INTEGERS)
def test_log_loss_label_types(kind):
    proba = [[0.25, 0.5, 0.25], [0.125, 0.75, 0.125]]
    check_log_loss(proba, np.array([2, 1], kind))
    check_log_loss(proba, np.array([[0, 0, 1], [0, 1, 0]], kind))
    check_log_loss(proba, [2, 1], sample_weight=[[3, 0]][0])


@each_dtype
def test_log_loss_of_certainties(dtype):
    """Right is 0, wrong is inf; a mass or a weight of 0 hides both."""
    proba = np.array([[1, 0], [1, 0], [0, 1]], dtype)
    np.testing.assert_array_equal(xent.log_loss(proba, [0, 1, 1], reduction="none"), [0, INF, 0])
    np.testing.assert_array_equal(xent.log_loss(proba, proba, reduction="none"), [0, 0, 0])
    assert xent.log_loss(proba, [0, 1, 1]) == INF
    assert xent.log_loss(proba, [0, 1, 1], sample_weight=[1, 0, 1]) == 0
    assert math.isnan(xent.log_loss(proba, [0, 1, 1], sample_weight=0))
    assert not np.signbit(xent.log_loss(proba, [0, 0, 1], reduction="none")).any()


def test_log_loss_is_not_normalised():
    check_log_loss([[0.5, 0.125, 0.125], [1, 1, 1]], [[2, 0, 1], [0.5, 0.25, 0]])
    check_log_loss([[0, 1], [1, 1]], [1, 0])
