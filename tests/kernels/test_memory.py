"""Peak memory: beyond its operands and results, a call allocates at most a scratch for a few rows.

NumPy and the kernels report their allocations to tracemalloc.
"""

import tracemalloc
from functools import cache, partial

import numpy as np
import pytest
from reference import WRITEABLE_LAYOUTS

import xent

ELEMENTS = 2_000_000        # of every operand of full shape: 8 MB of float32, 2 MB of bool
BOUND = 1 << 20             # bytes
LAYOUTS = {name: WRITEABLE_LAYOUTS[name] for name in ("C", "Fortran", "every other")}

# Class axis and shape: with many classes; and with few, so that an array with one element per row is large, too.
SHAPES = {
    "last axis, many classes": (-1, (1000, 2000)),
    "last axis, few classes": (-1, (250_000, 8)),
    "middle axis, many classes": (1, (20, 2000, 50)),
    "middle axis, few classes": (1, (250, 8, 1000)),
    "first axis, many classes": (0, (2000, 1000)),
    "first axis, few classes": (0, (8, 250_000)),
    "last axis, a vocabulary": (-1, (15, 128_256)),
    "last axis, one row": (-1, (1, 2_000_000)),
}
TARGETS = ["labels", "distribution", "sparse"]
K = 4       # classes per row of a sparse distribution


@cache
def uniform(dtype):
    """Numbers in [0, 1)."""
    values = np.random.default_rng(0).random(ELEMENTS, np.float32).astype(dtype)
    values.flags.writeable = False
    return values


def filled(shape, dtype=np.float32, times=1):
    return (times * uniform(np.dtype(dtype))[: np.prod(shape)]).astype(dtype).reshape(shape)


def target_for(form, shape, axis, dtype, move):
    rows, classes = np.delete(shape, axis), shape[axis]
    if form == "labels":
        return move(filled(rows, np.int64) + classes // 2)
    if form == "distribution":
        return move(filled(shape, dtype))
    indices = filled((*rows, K), np.float64, times=classes).astype(np.int32)
    return move(indices), move(filled((*rows, K)))


# --- the calls: each takes a layout for its operands, and returns a call and the output array that it fills -----------


def cross_entropy(move, form="labels", at="last axis, few classes", dtype=np.float32, grad=None, options=None):
    axis, shape = SHAPES[at]
    x, target = move(filled(shape, dtype, times=8)), target_for(form, shape, axis, dtype, move)
    given = {name: make(shape, axis, move) for name, make in (options or {}).items()}
    out = move(np.zeros(shape, grad)) if grad else None
    return partial(xent.cross_entropy, x, target, axis=axis, grad_out=out, n_threads=2, **given), out


def categorical_cross_entropy(move, form="labels", at="last axis, few classes", options=None):
    axis, shape = SHAPES[at]
    p, target = move(filled(shape)), target_for(form, shape, axis, np.float32, move)
    given = {name: make(shape, axis, move) for name, make in (options or {}).items()}
    return partial(xent.categorical_cross_entropy, p, target, axis=axis, n_threads=2, **given), None


def kl_divergence(move, at="last axis, few classes", dtype=np.float32, grad=None, options=None):
    axis, shape = SHAPES[at]
    x, ref = move(filled(shape, dtype, times=8)), move(filled(shape, times=7))
    given = {name: make(shape, axis, move) for name, make in (options or {}).items()}
    out = move(np.zeros(shape, grad)) if grad else None
    return partial(xent.kl_divergence, x, ref, axis=axis, grad_out=out, n_threads=2, **given), out


def evaluate(move, at="last axis, few classes", options=None, compares=False):
    axis, shape = SHAPES[at]
    x, labels = move(filled(shape, times=8)), target_for("labels", shape, axis, None, move)
    given = {name: make(shape, axis, move) for name, make in (options or {}).items()}
    ref = move(filled(shape, times=7)) if compares else None
    return partial(xent.evaluate, x, labels, axis=axis, reference=ref, n_threads=2, **given), None


def fit_temperature(move, at="last axis, few classes", dtype=np.float32, options=None):
    axis, shape = SHAPES[at]
    x, labels = filled(shape, dtype, times=8), target_for("labels", shape, axis, None, move)
    np.moveaxis(x, axis, -1)[..., labels.flat[0]] = 7       # likelier than by chance, so that there is a minimum
    given = {name: make(shape, axis, move) for name, make in (options or {}).items()}
    return partial(xent.fit_temperature, move(x), labels, axis=axis, n_threads=2, **given), None


def binary(move, function, target=np.float32, grad=None, weights=(), shape=(1000, 2000), dtype=np.float32, **options):
    x, y = move(filled(shape, dtype)), move(filled(shape, target))
    given = {name: move(filled(shape)) for name in weights}
    out = move(np.zeros(shape, grad)) if grad else None
    return partial(function, x, y, grad_out=out, n_threads=2, **given, **options), out


def probabilities(move, function, axis, shape, dtype=np.float32, in_place=False, mask=None):
    x = move(filled(shape, dtype, times=8))
    out = x if in_place else move(np.zeros(shape, dtype))
    where = None if mask is None else mask(filled(shape) < 0.9)
    return partial(function, x, axis, where=where, out=out, n_threads=2), out


def logsumexp(move, axis, shape, dtype=np.float32, factors=None, mask=None):
    x = move(filled(shape, dtype, times=8))
    b = None if factors is None else move(filled(factors))
    where = None if mask is None else mask(filled(shape) < 0.9)
    return partial(xent.logsumexp, x, axis, b=b, where=where, n_threads=2), None


# --- the options -----------------------------------------------------------------------------------------------------


def row_weights(shape, axis, move):
    return move(filled(np.delete(shape, axis), np.float64))


def mask_of_classes(shape, axis, move):
    """A mask that is broadcast over the rows."""
    line = np.ones(len(shape), int)
    line[axis] = shape[axis]
    return np.arange(shape[axis]).reshape(line) % 7 != 5


OPTIONS = {
    "class_weight": lambda shape, axis, move: filled(shape[axis], np.float64),
    "sample_weight": row_weights,
    "where": lambda shape, axis, move: move(filled(shape) < 0.9),
    "label_smoothing": lambda *_: 0.125,
    "ignore_index": lambda shape, axis, move: shape[axis] // 2,
    "logit_scale": lambda *_: 0.5,
    "softcap": lambda *_: 5.0,
    "z_loss": lambda *_: 0.01,
    "poly_epsilon": lambda *_: 1.5,
}
KL_OPTIONS = ("sample_weight", "where", "logit_scale")
HESSIAN = {"return_hess": lambda *_: True}
NO_HESSIAN = ("softcap", "z_loss", "poly_epsilon")
WITH_HESSIAN = HESSIAN | {name: make for name, make in OPTIONS.items() if name not in NO_HESSIAN}
WEIGHTED = {"sample_weight": row_weights}
UNREDUCED = {"reduction": lambda *_: "none"}


# --- the table -------------------------------------------------------------------------------------------------------

BINARY = {
    "from logits": xent.binary_cross_entropy_with_logits,
    "from probabilities": xent.binary_cross_entropy,
}
AXES = {
    "last axis": (-1, (1000, 2000)),
    "last axis, few classes": (-1, (250_000, 8)),
    "middle axis": (1, (20, 2000, 50)),
    "first axis": (0, (2000, 1000)),
    "first axis, few classes": (0, (8, 250_000)),
    "last two axes": ((1, 2), (1000, 40, 50)),
    "first two axes": ((0, 1), (40, 50, 1000)),
    "two axes apart": ((0, 2), (40, 1000, 50)),
    "all axes": (None, (1000, 2000)),
    "a vocabulary": (-1, (15, 128_256)),
    "one row": (-1, (1, 2_000_000)),
}


def table():
    """A name, and a call."""
    for at in SHAPES:
        for form in TARGETS:
            yield f"cross_entropy, {at}, {form}", partial(cross_entropy, form=form, at=at)
            row = partial(cross_entropy, form=form, at=at, grad=np.float32)
            yield f"cross_entropy, {at}, {form}, gradient", row
            yield f"cross_entropy, {at}, {form}, gradient, every option", partial(row, options=OPTIONS)
            yield f"categorical_cross_entropy, {at}, {form}", partial(categorical_cross_entropy, form=form, at=at)
        hess = partial(cross_entropy, at=at, grad=np.float32, options=WITH_HESSIAN if "many" in at else HESSIAN)
        yield f"cross_entropy, {at}, Hessian", hess
        yield f"evaluate, {at}", partial(evaluate, at=at)
        masked = {"where": OPTIONS["where"], "sample_weight": row_weights}
        yield f"fit_temperature, {at}", partial(fit_temperature, at=at)
        yield f"fit_temperature, {at}, float64, options", partial(fit_temperature, at=at, dtype=float, options=masked)
        yield f"evaluate, {at}, reference", partial(evaluate, at=at, compares=True)
        yield f"kl_divergence, {at}", partial(kl_divergence, at=at)
        yield f"kl_divergence, {at}, gradient, every option", partial(
            kl_divergence, at=at, grad=np.float32, options={name: OPTIONS[name] for name in KL_OPTIONS}
        )
    for form in TARGETS:
        for grad in (None, np.float16, np.float32):
            row = partial(cross_entropy, form=form, dtype=np.float16, grad=grad)
            yield f"cross_entropy, {form}, float16{f', {grad.__name__} gradient' if grad else ''}", row
    for grad in (None, np.float16, np.float32):
        options = {"options": OPTIONS, "dtype": np.float16, "grad": grad, "at": "last axis, a vocabulary"}
        yield f"cross_entropy, a vocabulary, float16, every option, {grad}", partial(cross_entropy, **options)
        options["options"] = HESSIAN
        yield f"cross_entropy, a vocabulary, float16, Hessian, {grad}", partial(cross_entropy, **options)
    for name, make in {**OPTIONS, "where, broadcast": mask_of_classes, **UNREDUCED, **HESSIAN}.items():
        options = {name.split(",")[0]: make}
        yield f"cross_entropy, {name}", partial(cross_entropy, grad=np.float32, options=options)
    for options in (WEIGHTED, UNREDUCED):
        yield f"categorical_cross_entropy, {min(options)}", partial(categorical_cross_entropy, options=options)
    yield "evaluate, sample_weight", partial(evaluate, options=WEIGHTED)
    yield "kl_divergence, float16", partial(kl_divergence, dtype=np.float16, grad=np.float16)

    for name, function in BINARY.items():
        row = partial(binary, function=function)
        yield f"binary, {name}", row
        yield f"binary, {name}, none", partial(row, reduction="none")
        yield f"binary, {name}, gradient", partial(row, grad=np.float32)
        yield f"binary, {name}, gradient, labels", partial(row, grad=np.float32, target=np.int8)
        yield f"binary, {name}, gradient, weights", partial(row, grad=np.float32, weights=["sample_weight"])
        yield f"binary, {name}, gradient, float16", partial(row, grad=np.float16, dtype=np.float16)
        yield f"binary, {name}, gradient, one axis", partial(row, grad=np.float32, shape=(ELEMENTS,))
    row = partial(binary, function=xent.binary_cross_entropy_with_logits, grad=np.float32)
    yield "binary, from logits, gradient, pos_weight", partial(row, weights=["pos_weight"])

    for at, (axis, shape) in AXES.items():
        row = partial(probabilities, function=xent.softmax, axis=axis, shape=shape)
        yield f"softmax, {at}", row
        yield f"softmax, {at}, in place", partial(row, in_place=True)
        yield f"log_softmax, {at}", partial(row, function=xent.log_softmax)
        row = partial(logsumexp, axis=axis, shape=shape)
        yield f"logsumexp, {at}", row
        factors = (*(1 for _ in shape[1:]), shape[-1])
        yield f"logsumexp, {at}, b broadcast", partial(row, factors=factors)
        yield f"logsumexp, {at}, where", partial(row, mask=LAYOUTS["C"])
        for layout in LAYOUTS:
            row = partial(probabilities, function=xent.softmax, axis=axis, shape=shape, mask=LAYOUTS[layout])
            yield f"softmax, {at}, where {layout}", row
    yield "logsumexp, b and where", partial(logsumexp, axis=-1, shape=(1000, 2000), factors=(2000,), mask=np.copy)
    row = partial(probabilities, function=xent.softmax, axis=-1, shape=(15, 128_256), mask=LAYOUTS["every other"])
    yield "softmax, a vocabulary, where, float16", partial(row, dtype=np.float16)
    axis, shape = AXES["last axis"]
    row = partial(probabilities, function=xent.softmax, axis=axis, shape=shape)
    yield "softmax, float16", partial(row, dtype=np.float16)
    for at in ("a vocabulary", "one row"):
        axis, long = AXES[at]
        for function in (xent.softmax, xent.log_softmax):
            half = partial(probabilities, function=function, axis=axis, shape=long, dtype=np.float16)
            yield f"{function.__name__}, {at}, float16", half
        yield f"logsumexp, {at}, float16", partial(logsumexp, axis=axis, shape=long, dtype=np.float16)
    yield "logsumexp, float16", partial(logsumexp, axis=axis, shape=shape, dtype=np.float16)
    yield "logsumexp, b", partial(logsumexp, axis=axis, shape=shape, factors=shape)


def cells():
    for name, prepare in table():
        for layout in LAYOUTS:
            long = "vocabulary" in name or "one row" in name
            if layout == "every other" and not long:
                continue
            usual = layout == "C" or "vocabulary" in name      # the others are for the deep run
            marks = [] if usual else [pytest.mark.deep]
            yield pytest.param(prepare, layout, id=f"{name}, {layout}", marks=marks)


def peak(call, given):
    """Peak bytes that a call allocates beyond the arrays that it returns."""
    tracemalloc.start()
    try:
        results = call()
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    results = results if isinstance(results, tuple) else (results,)
    return most - sum(array.nbytes for array in results if isinstance(array, np.ndarray) and array is not given)


@pytest.fixture(scope="module", autouse=True)
def _once():
    """Allocate what is needed once: threads, and modules that NumPy imports lazily."""
    xent.cross_entropy(np.zeros((1000, 1000), order="F"), np.zeros(1000, int), n_threads=2)


@pytest.mark.parametrize(("prepare", "layout"), list(cells()))
def test_peak_memory(prepare, layout):
    call, given = prepare(LAYOUTS[layout])
    assert peak(call, given) < BOUND
