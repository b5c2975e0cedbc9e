"""Every option of a loss at once where it hurts: sizes, memory, NaN, overlaps, threads."""

import re
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import reference
from reference import DTYPES, LAYOUTS, NANS, SHORT_LENGTHS, WRITEABLE_LAYOUTS, assert_close, assert_same_bits, guarded

import xent
from xent._calls import threads

INF, NAN = np.inf, np.nan
REDUCTIONS = ["mean", "sum", "none"]
TARGETS = ["labels", "distribution", "sparse"]
BINARY = ["binary_cross_entropy_with_logits", "binary_cross_entropy"]
INTEGERS = ["i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8"]
FLOATS = [np.float16, *DTYPES]
OPTIONS = {"label_smoothing": 0.125, "logit_scale": 0.75, "softcap": 5.0, "z_loss": 0.01}
OPERANDS = ["class_weight", "sample_weight", "where"]

each_float = pytest.mark.parametrize("dtype", FLOATS)
each_target = pytest.mark.parametrize("kind", TARGETS)
only_linux = pytest.mark.skipif(sys.platform != "linux", reason="counts on how Linux hands out memory")


def everything(shape, dtype=np.float64, kind="labels", seed=0, ignored=-7):
    """Logits, a target of some kind and every option there is: with ignored rows, padding, repeated and masked classes,
    and weights of 0; what has target mass is not masked.
    """
    rng = np.random.default_rng(seed)
    rows, n = shape[:-1], shape[-1]
    logits = rng.normal(size=shape, scale=3).astype(dtype)
    labels, others = rng.integers(n, size=(2, *rows))
    where = rng.random(shape) < 0.8
    for place in (labels, others):
        np.put_along_axis(where, place[..., None], True, -1)
    target = np.where(rng.random(rows) < 0.1, ignored, labels)
    if kind == "distribution":
        target = (rng.random(shape) * where).astype(dtype)
    elif kind == "sparse":
        indices = np.stack([target, np.full(rows, ignored), np.where(target == ignored, ignored, others), target], -1)
        target = indices, rng.random(indices.shape).astype(dtype)
    weights = {"class_weight": rng.integers(0, 5, n) / 2, "sample_weight": rng.integers(0, 4, rows) / 2}
    return logits, target, {"ignore_index": ignored, "where": where, **weights, **OPTIONS}


def both(logits, target, reduction="none", **options):
    return xent.cross_entropy(logits, target, reduction=reduction, return_grad=True, **options)


def assert_same(first, second):
    for a, b in zip(first, second, strict=True):
        assert_same_bits(np.asarray(a), np.asarray(b))


def move_target(move, target):
    return tuple(map(move, target)) if isinstance(target, tuple) else move(target)


def move_rows(move, target, options):
    """A target and options of which everything that has rows is moved."""
    moved = {name: move(options[name]) for name in ("sample_weight", "where") if name in options}
    return move_target(move, target), {**options, **moved}


# --- more elements than 2**31, in little memory ----------------------------------------------------------------------

BASE = 100, 1000
TIMES = 2**31 // 100_000 + 1


def repeated(a):
    return np.broadcast_to(a, (TIMES, *np.shape(a)))


@pytest.fixture
def little_memory():
    """Room for 2 GB more than is in use, which no operand of 2**31 elements fits in."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (2 << 30), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def many_elements(test):
    return only_linux(pytest.mark.deep(pytest.mark.usefixtures("little_memory")(test)))


@many_elements
@each_target
@pytest.mark.parametrize(("dtype", "alone"), [(np.float16, False), (np.float32, True)], ids=["every option", "alone"])
def test_large_cross_entropy(dtype, kind, alone):
    x, target, options = everything(BASE, dtype, kind)
    if alone:
        options = {"ignore_index": options["ignore_index"]}
    large_target, large_options = move_rows(repeated, target, options)
    rows = xent.cross_entropy(x, target, reduction="none", **options)
    assert_same_bits(xent.cross_entropy(repeated(x), large_target, reduction="none", **large_options), repeated(rows))
    for reduction, times in (("mean", 1), ("sum", TIMES)):
        loss = xent.cross_entropy(x, target, reduction=reduction, **options)
        large_loss = xent.cross_entropy(repeated(x), large_target, reduction=reduction, **large_options)
        assert large_loss == pytest.approx(times * loss, rel=1e-13)


@many_elements
def test_large_cross_entropy_along_the_first_axis():
    x, target, options = everything((2, 1000), np.float32)
    options["sample_weight"][:] = 1, 2
    loss = xent.cross_entropy(x, target, **options)

    def columns(a):
        return np.broadcast_to(a.T[..., None], (*a.T.shape, 2**30 // 1000 + 1))

    target, options = move_rows(columns, target, options)
    assert xent.cross_entropy(columns(x), target, axis=0, **options) == pytest.approx(loss, rel=1e-13)


@many_elements
def test_large_evaluation():
    x, target, options = everything(BASE, np.float32)
    weight, ignored = options["sample_weight"], {"ignore_index": options["ignore_index"]}
    expected = xent.evaluate(x, target, sample_weight=weight, **ignored)
    result = xent.evaluate(repeated(x), repeated(target), sample_weight=weight, **ignored)
    assert result.weight == TIMES * expected.weight
    assert result.topk == pytest.approx(expected.topk)
    for name in ("loss", "accuracy", "perplexity", "entropy"):
        assert getattr(result, name) == pytest.approx(getattr(expected, name), rel=1e-13)
    assert_same_bits(xent.logsumexp(repeated(x)), repeated(xent.logsumexp(x)))
    p, target = xent.softmax(x), np.maximum(target, 0)
    for t in (target, (target[:, None], np.ones((100, 1)))):
        loss = xent.categorical_cross_entropy(p, t, sample_weight=weight)
        large = xent.categorical_cross_entropy(repeated(p), move_target(repeated, t), sample_weight=weight)
        assert large == pytest.approx(loss, rel=1e-13)


@many_elements
@pytest.mark.parametrize("name", BINARY)
def test_large_binary_losses(name):
    x, target, *weights = np.random.default_rng(0).random((4, *BASE), np.float32)
    target = (target < 0.5).astype(np.int8)
    names = ["sample_weight", "pos_weight"] if name == BINARY[0] else ["sample_weight"]
    options = dict(zip(names, weights, strict=False))
    loss = getattr(xent, name)(x, target, **options)
    large = getattr(xent, name)(repeated(x), repeated(target), **options)
    assert large == pytest.approx(loss, rel=1e-12)


@many_elements
def test_one_long_row():
    n = 2**31 + 5
    x, yes = np.broadcast_to(np.float32(0.5), n), np.broadcast_to(np.int8(1), n)
    loss = xent.binary_cross_entropy_with_logits(x, yes, reduction="sum")
    assert loss == pytest.approx(n * np.log1p(np.exp(-0.5)), rel=1e-6)


@only_linux
@pytest.mark.deep
def test_far_addresses():
    """Only what is far from the beginning counts; the rest of the arrays is memory that is never written to."""
    n, rows = 1000, 2**31 // 1000 + 100
    x, target, options = everything((50, n), np.float16, "distribution")
    far, mass = np.zeros((rows, n), np.float16), np.zeros((rows, n), np.int8)
    far[-50:], mass[-50:] = x, 100 * target
    options = {"class_weight": options["class_weight"], "softcap": 5.0, "reduction": "none"}
    loss = xent.cross_entropy(far, mass, **options)
    assert (loss[:-50] == 0).all()
    assert_same_bits(loss[-50:], xent.cross_entropy(x, mass[-50:], **options))
    weight = np.zeros((rows, n), np.float16)
    weight[-50:] = target
    loss = xent.binary_cross_entropy_with_logits(far, weight, sample_weight=weight, reduction="sum")
    small = xent.binary_cross_entropy_with_logits(x, weight[-50:], sample_weight=weight[-50:], reduction="sum")
    assert loss == pytest.approx(small, rel=1e-13)


@pytest.mark.parametrize("name", ["cross_entropy", "categorical_cross_entropy", *BINARY])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_broadcast_operands_are_not_copied(reduction, name):
    x, target, options = everything((1, 1000), np.float32, "distribution")
    x, weight, options = xent.softmax(x), np.ones((1, 1000)), options if name == "cross_entropy" else {}

    def large(a):
        return np.broadcast_to(a, (5000, *a.shape[1:]))

    def call(move):
        given, other = move_rows(move, target, {**options, "sample_weight": weight if name in BINARY else weight[:, 0]})
        getattr(xent, name)(move(x), given, reduction=reduction, n_threads=1, **other)

    call(np.copy)       # what is needed once, if anything
    tracemalloc.start()
    call(large)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


# --- no memory but the operands' -------------------------------------------------------------------------------------


@pytest.mark.parametrize("integer", INTEGERS)
@pytest.mark.parametrize("kind", ["labels", "sparse"])
def test_labels_out_of_range(kind, integer):
    """Of every type, at every place, in rows without weight too: named, and nothing is written."""
    x, target, options = everything((3, 4), kind=kind, ignored=1)
    given = target if kind == "labels" else target[0]
    name = "target" if kind == "labels" else r"target\[0\]"
    lowest, highest = np.iinfo(integer).min, np.iinfo(integer).max
    for place in np.ndindex(given.shape):
        for bad in {4, highest, highest - 3, max(lowest, -1), lowest} - {0}:
            labels = given.astype(integer)
            labels[place] = bad
            wrong = labels if kind == "labels" else (labels, target[1])
            message = rf"^{name}\[{', '.join(map(str, place))}\] is {bad}; .* must be in \[0, 4\)"
            for out in (np.full((3, 4), 77.0), x):
                before = out.copy()
                with pytest.raises(ValueError, match=message):
                    xent.cross_entropy(x, wrong, grad_out=out, **options)
                assert_same_bits(out, before)
            with pytest.raises(ValueError, match=message):
                xent.categorical_cross_entropy(np.ones((3, 4)), wrong, sample_weight=options["sample_weight"])
            if kind == "labels":
                with pytest.raises(ValueError, match=message):
                    xent.evaluate(x, wrong, sample_weight=options["sample_weight"], ignore_index=1)
    if integer[0] == "u":       # the bits of -1
        with pytest.raises(ValueError, match=f"is {highest}; "):
            xent.cross_entropy(x, np.full(3, highest, integer), ignore_index=-1)


PAGES = """
import ctypes, mmap
import numpy as np
import xent
page = mmap.PAGESIZE
rng = np.random.default_rng(0)

class Room:
    def __init__(self):
        self.pages = mmap.mmap(-1, 3 * page)
        first = ctypes.addressof(ctypes.c_char.from_buffer(self.pages))
        for address in (first, first + 2 * page):
            assert ctypes.CDLL(None).mprotect(ctypes.c_void_p(address), ctypes.c_size_t(page), 0) == 0

    def hold(self, array, at_end, step):
        # A copy whose first or last byte is that of the page in the middle.
        middle = np.frombuffer(self.pages, array.dtype, page // array.itemsize, page)
        size = (array.size - 1) * abs(step) + 1
        result = (middle[-size:] if at_end else middle[:size])[::step].reshape(array.shape)
        result[...] = array
        return result

names = ["x", "p", "where", "labels", "dense", "indices", "masses", "class_weight", "sample_weight", "elements", "out"]
rooms = {name: Room() for name in names}

def results(x, p, where, labels, dense, indices, masses, class_weight, sample_weight, elements, out):
    options = {"where": where, "class_weight": class_weight, "sample_weight": sample_weight, "label_smoothing": 0.125,
               "ignore_index": -7, "logit_scale": 0.75, "softcap": 5.0, "z_loss": 0.01, "reduction": "none"}
    given = x.copy()
    for target in (labels, dense, (indices, masses)):
        yield xent.cross_entropy(x, target, **options)
        for grad in (out, x):
            yield xent.cross_entropy(x, target, grad_out=grad, **options)
            x[...] = given
        yield xent.categorical_cross_entropy(p, target, sample_weight=sample_weight, reduction="none")
    yield xent.evaluate(x, labels, sample_weight=sample_weight)[0]
    yield xent.logsumexp(x, b=dense, return_sign=True)
    weights = {"sample_weight": elements, "reduction": "none", "grad_out": out}
    yield xent.binary_cross_entropy_with_logits(x, p, pos_weight=dense, label_smoothing=0.125, **weights)
    yield xent.binary_cross_entropy(p, dense, **weights)

def bits(result):
    return [np.array(a).tobytes() for a in (result if isinstance(result, tuple) else (result,))]

for dtype in ("f2", "f4", "f8"):
    for n in range(1, 71):
        rows = rng.random((3, 2, n)).astype(dtype)
        arrays = [rows[0], rows[1], rng.random((2, n)) < 0.8, rng.integers(n, size=2), rows[2],
                  rng.integers(n, size=(2, 3)), rng.random((2, 3)).astype(dtype), rng.random(n), rng.random(2),
                  rng.random((2, n)).astype(dtype), np.zeros((2, n), dtype)]
        expected = list(map(bits, results(*(array.copy() for array in arrays))))
        for at_end, step in ((0, 1), (1, 1), (0, -1), (1, 2)):
            held = [rooms[name].hold(array, at_end, step) for name, array in zip(names, arrays)]
            assert list(map(bits, results(*held))) == expected, (dtype, n, at_end, step)
print("alive")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no mprotect")
def test_nothing_outside_is_touched(python):
    """Operands that begin or end at a page that must not be: backwards, and with gaps, too."""
    assert python(PAGES, XENT_ISA=xent.isa()) == "alive"


@each_float
@each_target
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_of_every_operand(layout, kind, dtype):
    """Read-only memory maps among them: the same bits, one by one and all at once, and nothing is changed."""
    move = LAYOUTS[layout]
    for shape in ((4,), (3, 17), (2, 3, 5)):
        x, target, options = everything(shape, dtype, kind)
        expected = both(x, target, **options)
        moved = {name: move(np.asarray(options[name])) for name in OPERANDS}
        moved = {"logits": move(x), "target": move_target(move, target), **moved}
        given = {"logits": x, "target": target, **options}
        for part in (moved, *({name: a} for name, a in moved.items())):
            assert_same(both(**{**given, **part}), expected)
        for name in ("logits", *OPERANDS):
            np.testing.assert_array_equal(moved[name], given[name])


# --- NaN and infinity ------------------------------------------------------------------------------------------------


each_option = pytest.mark.parametrize("names", ["none", *OPERANDS, *OPTIONS, "all"])


def chosen(options, names):
    return options if names == "all" else {name: options[name] for name in {"ignore_index", names} & set(options)}


@each_option
@each_target
@each_float
def test_nan_stays_in_its_row(dtype, kind, names):
    """At every place; what is masked or has no weight hides it, and the neighbours keep their bits."""
    for n in SHORT_LENGTHS:
        x, target, options = everything((n, n), dtype, kind, seed=n)
        options = chosen(options, names)
        clean = both(x, target, **options)
        _, weight = reference.masses(x, target, -1, options.get("sample_weight"), options["ignore_index"])
        hidden = (weight == 0) | ~np.diagonal(options.get("where", np.ones((n, n), bool)))
        dirty = np.repeat(x, 2, axis=0)
        np.fill_diagonal(dirty[1::2], np.resize(NANS.get(dtype, NAN), n))
        out, intact = guarded(dirty)
        target, options = move_rows(lambda a: np.repeat(a, 2, axis=0), target, options)
        loss, grad = xent.cross_entropy(out, target, reduction="none", grad_out=out, **options)
        intact()
        assert np.isnan(loss[1::2][~hidden]).all()
        assert np.isnan(grad[1::2][~hidden]).all()
        assert_same((loss[::2], grad[::2]), clean)
        assert_same((loss[1::2][hidden], grad[1::2][hidden]), [a[hidden] for a in clean])


@each_option
@each_target
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [INF, -INF])
def test_infinite_logits(value, dtype, kind, names):
    """At every place, with target mass and without."""
    for n in SHORT_LENGTHS:
        x, target, options = everything((n, n), dtype, kind, seed=n)
        np.fill_diagonal(x, value)
        loss, grad = both(x, target, **chosen(options, names))
        exact_loss, exact_grad = reference.cross_entropy(x, target, reduction="none", **chosen(options, names))
        assert_close(loss, exact_loss, dtype)
        assert_close(grad, exact_grad, dtype)


# --- the gradient's array --------------------------------------------------------------------------------------------


@each_target
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("in_place", [False, True])
def test_overlap(in_place, dtype, kind):
    """With any operand but the logits: refused, and nothing is written."""
    x, target, options = everything((6, 8), dtype, kind)
    targets = {"target[0]": target[0], "target[1]": target[1]} if kind == "sparse" else {"target": target}
    for name, array in {**targets, **{name: options[name] for name in OPERANDS}}.items():
        out = np.zeros((6, 8), dtype)
        inside = out.ravel().view(array.dtype)[-array.size :].reshape(array.shape)
        inside[...] = array
        before = out.copy()
        given = {"target": target, **options, name: inside}
        if given.pop("target[0]", given.pop("target[1]", None)) is not None:
            given["target"] = tuple(inside if a is array else a for a in target)
        with pytest.raises(ValueError, match=f"^grad_out overlaps {re.escape(name)} in memory"):
            xent.cross_entropy(out if in_place else x, grad_out=out, **given)
        assert_same_bits(out.view(f"u{out.itemsize}"), before.view(f"u{out.itemsize}"))


@each_float
@each_target
@pytest.mark.parametrize("layout", WRITEABLE_LAYOUTS)
def test_in_place(layout, kind, dtype):
    """The same bits as in a fresh array, for every axis."""
    for axis in range(3):
        x, target, options = everything((3, 4, 18), dtype, kind, seed=axis)
        x = WRITEABLE_LAYOUTS[layout](np.moveaxis(x, -1, axis))
        options["where"] = np.moveaxis(options["where"], -1, axis)
        target = np.moveaxis(target, -1, axis) if kind == "distribution" else target
        for reduction in REDUCTIONS:
            expected = both(x, target, reduction, axis=axis, **options)
            out = WRITEABLE_LAYOUTS[layout](x)
            loss, grad = xent.cross_entropy(out, target, reduction=reduction, axis=axis, grad_out=out, **options)
            assert grad is out
            assert_same((loss, grad), expected)


# --- threads and cuts ------------------------------------------------------------------------------------------------


@each_float
@each_target
@pytest.mark.parametrize("shape", [(40, 500), (2000, 11), (7, 3, 300)])
def test_threads_and_cuts(shape, kind, dtype, monkeypatch):
    """Blocks of work as a large array has them: the same bits for any number of threads and any part of the batch."""
    monkeypatch.setattr(threads, "BLOCK_ELEMENTS", 1000)
    monkeypatch.setattr(threads, "THREAD_ELEMENTS", 500)
    x, target, options = everything(shape, dtype, kind)
    for reduction in REDUCTIONS:
        serial = both(x, target, reduction, n_threads=1, **options)
        for n_threads in (2, 3, 8):
            assert_same(both(x, target, reduction, n_threads=n_threads, **options), serial)
    for i in (1, len(x) // 3, len(x) - 1):
        parts = []
        for part in (slice(i), slice(i, None)):
            part_target, part_options = move_rows(lambda a, part=part: a[part], target, options)
            parts.append(both(x[part], part_target, n_threads=3, **part_options))
        assert_same([np.concatenate(halves) for halves in zip(*parts, strict=True)], serial)
