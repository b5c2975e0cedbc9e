"""Calls of every loss, primitive and measure, with any options, on arrays of any type, shape and place in memory.

Each case is checked against the twin in reference.py, within bounds that are loose (1e-5 of the result in float32,
1e-12 in float64: the promised ones are the matter of tests/kernels/test_accuracy.py), and against itself: the same bits
for other places in memory, other numbers of threads, results in given arrays, and some of the rows. Or one argument is
spoiled, and the error must name it and leave all outputs as they were.
"""

import contextlib
import functools
import itertools
import warnings
from typing import NamedTuple

import fuzz_arrays as arrays
import numpy as np
import reference
from fuzz_arrays import FLOATS, INTEGERS, chance, pick
from reference import EXTENDED, assert_same_bits

import xent
from xent._calls import threads

threads.LONGEST_PAUSE = 0.0
CUTS = [(threads.BLOCK_ELEMENTS, threads.THREAD_ELEMENTS), (1000, 500), (100, 50)]
TWIN_ELEMENTS = 20_000


class Call(NamedTuple):
    """A call with good arguments. The axes of an array are those of the logits ("full", "row" without the class axis,
    "sparse" with one more) or others ("other"); operands that broadcast have fewer or shorter ones."""

    name: str
    given: dict         # arrays by name
    axes: dict          # of each array
    options: dict
    outputs: dict       # name: dtypes that an output of the shape of the first array may have
    exact: object = None        # given reduction="none" or not: a list of what `assert_near` takes, or None

    @property
    def axis(self):
        return self.options.get("axis", -1)


def invoke(call, given, **changed):
    """Call the function; the arrays of its result."""
    keywords = {name: array for name, array in given.items() if "[" not in name}
    if "target[0]" in given:
        keywords["target"] = given["target[0]"], given["target[1]"]
    result = getattr(xent, call.name)(**keywords, **(call.options | changed))
    return flatten(result)


def flatten(result):
    if isinstance(result, dict):
        result = tuple(result.values())
    if isinstance(result, tuple):
        return [part for element in result for part in flatten(element)]
    return [] if result is None else [np.asarray(result)]


# --- operands and options --------------------------------------------------------------------------------------------


def rows_of(size, axis):
    axis %= len(size)
    return size[:axis] + size[axis + 1 :]


def labels(rng, rows, classes, ignored):
    """Labels of some integer type, or of the type of lists; some of them are ignored."""
    values = rng.integers(max(classes, 1), size=rows)
    mask = rng.random(rows) < (0.1 if classes else 1.1)
    if ignored is not None and (chance(rng, 0.5) or not classes):
        values = np.where(mask, ignored, values)
    low, high = min(0, int(np.min(values, initial=0))), int(np.max(values, initial=0))
    fits = [dtype for dtype in INTEGERS if np.iinfo(dtype).min <= low and high <= np.iinfo(dtype).max]
    return np.asarray(values).astype(pick(rng, fits) if chance(rng, 0.5) else np.int64)


def target(rng, size, axis, dtype, ignored, kinds=("labels",) * 4 + ("one-hot", "dense", "bool", "sparse")):
    """A target for logits of this shape; its arrays and their axes."""
    rows, classes = rows_of(size, axis), size[axis]
    kind = pick(rng, kinds)
    if kind == "sparse" and classes:
        k = int(rng.integers(0, 5))
        indices = labels(rng, (*rows, k), classes, ignored)
        masses = rng.integers(0, 4, indices.shape) / 4 if chance(rng, 0.5) else rng.random(indices.shape)
        more = {"target[0]": indices, "target[1]": masses.astype(dtype)}
        return more, dict.fromkeys(more, "sparse")
    if kind in ("one-hot", "dense", "bool") and classes:
        if kind == "dense":
            t = rng.random((*rows, classes)) * (rng.random((*rows, classes)) < pick(rng, (0.1, 1)))
        else:
            t = rng.integers(classes, size=(*rows, 1)) == np.arange(classes)
        t = np.moveaxis(np.asarray(t), -1, axis).astype(bool if kind == "bool" else dtype)
        return {"target": np.ascontiguousarray(t)}, {"target": "full"}
    return {"target": labels(rng, rows, classes, ignored)}, {"target": "row"}


def mask(rng, size):
    return rng.random(arrays.broadcastable(rng, size)) < pick(rng, (0.3, 0.8, 0.95))


def common_options(rng, size, outputs=True):
    options = {"n_threads": 1}
    if chance(rng, 0.8):
        options["reduction"] = pick(rng, ("mean", "sum", "none", "none"))
    if outputs and chance(rng, 0.6):
        options["return_grad"] = True
    return options


def gradient_types(dtype):
    return [dtype] if dtype.itemsize > 2 else [dtype, np.dtype(np.float32)]


def optional(rng, call_arrays, axes, name, kind, make, probability=0.3):
    if chance(rng, probability):
        call_arrays[name], axes[name] = make(), kind


# --- one function each -----------------------------------------------------------------------------------------------


def make_cross_entropy(rng):
    size, dtype = arrays.shape(rng), pick(rng, FLOATS)
    axis = int(rng.integers(-len(size), len(size))) if chance(rng, 0.4) else -1
    size = tuple(np.roll(size, 1)) if axis not in (-1, len(size) - 1) and chance(rng, 0.3) else size
    size = tuple(map(int, size))
    ignored = pick(rng, (-100, -7, 2, -100))
    given = {"logits": arrays.logits(rng, size, dtype)}
    more, axes = target(rng, size, axis, dtype, ignored)
    given, axes = given | more, {"logits": "full"} | axes
    options = common_options(rng, size) | {"ignore_index": ignored, "axis": axis}
    rows = rows_of(size, axis)
    optional(rng, given, axes, "class_weight", "other", lambda: arrays.weights(rng, size[axis]), 0.2)
    optional(rng, given, axes, "sample_weight", "row", lambda: arrays.weights(rng, arrays.broadcastable(rng, rows)))
    optional(rng, given, axes, "where", "full", lambda: mask(rng, size), 0.2)
    wants_hess = options.get("return_grad") and chance(rng, 0.3)
    if chance(rng, 0.3):
        options["logit_scale"] = pick(rng, (0.5, 0.75, 2.0, -1.0, 0.0, 1e-3))
    if chance(rng, 0.2):
        options["label_smoothing"] = pick(rng, (0.1, 0.125, 1.0, 1e-6))
    if wants_hess:
        options["return_hess"] = True
    else:
        more = {"softcap": (5.0, 30.0, 0.5), "z_loss": (1e-4, 0.01, 1.0), "poly_epsilon": (1.5, -0.5)}
        for name, values in more.items():
            if chance(rng, 0.15):
                options[name] = pick(rng, values)
        if chance(rng, 0.15) and "target" in given and axes["target"] == "row":
            options |= {"focal_gamma": pick(rng, (0.5, 1.0, 2.0)), "label_smoothing": 0.0, "z_loss": 0.0}
    outputs = {"grad_out": gradient_types(dtype)} if options.get("return_grad") else {}
    outputs |= {"hess_out": gradient_types(dtype)} if wants_hess else {}
    return Call("cross_entropy", given, axes, options, outputs, exact_cross_entropy)


def twin_arguments(call):
    given = dict(call.given)
    if "target[0]" in given:
        given["target"] = given.pop("target[0]"), given.pop("target[1]")
    options = {name: value for name, value in call.options.items() if not name.startswith(("return", "n_threads"))}
    return given | options


@reference.quiet
def exact_cross_entropy(call):
    arguments = twin_arguments(call)
    if "focal_gamma" in arguments and {"where", "class_weight"}.intersection(arguments):
        return None         # rows that have no mass and no number are NaN; for the twin, 0
    exact = reference.cross_entropy(**arguments, return_hess=True)
    plain = {k: v for k, v in arguments.items() if k not in ("logits", "target", "axis", "reduction")}
    x = np.moveaxis(np.asarray(arguments["logits"]).astype(EXTENDED), call.axis, -1)
    t, s = reference.masses(x, arguments["target"], call.axis, plain.get("sample_weight"), plain["ignore_index"])
    epsilon, w = plain.get("label_smoothing", 0), np.asarray(plain.get("class_weight", 1), EXTENDED)
    t = ((1 - epsilon) * t + (epsilon and 1)) * w
    total = s * t.sum(-1)
    divisor = 1
    if call.options.get("reduction", "mean") == "mean":
        before, _ = reference.masses(x, arguments["target"], call.axis, None, plain["ignore_index"])
        divisor = reference.times(s, (before * w).sum(-1)).sum() or np.inf
    # Where a formula has terms of both signs, a result is as exact as the larger of them.
    has_more_terms = any(plain.get(name) for name in ("z_loss", "poly_epsilon", "softcap"))
    loss_scale = total * abs(plain.get("poly_epsilon", 0))
    scale = abs(plain.get("logit_scale", 1))
    derivative_scale = 0
    if not ("target" in call.given and call.axes["target"] == "row" and not epsilon and not has_more_terms):
        _, grads = reference.cross_entropy(**(arguments | {"reduction": "none"}))
        largest = np.nan_to_num(np.abs(np.moveaxis(grads, call.axis, -1))).max(-1, keepdims=True, initial=0)
        derivative_scale = np.moveaxis((total * scale)[..., None] + largest, -1, call.axis) / divisor
    if np.ndim(exact[0]) == 0:
        loss_scale = np.nan_to_num(loss_scale).sum() / divisor
    return [(exact[0], loss_scale), (exact[1], derivative_scale), (exact[2], derivative_scale)]


def make_categorical(rng):
    size, dtype = arrays.shape(rng), pick(rng, FLOATS)
    size = (*size[:-1], max(1, size[-1]))       # without classes, no label is good
    proba = np.abs(np.sin(arrays.logits(rng, size, np.float64, specials=False))) * (rng.random(size) < 0.95)
    if chance(rng, 0.1):
        proba = np.where(rng.random(size) < 0.3, 1.0, proba)
    more, axes = target(rng, size, -1, dtype, None)
    given = {"proba": proba.astype(dtype)} | more
    axes = {"proba": "full"} | axes
    rows = size[:-1]
    optional(rng, given, axes, "sample_weight", "row", lambda: arrays.weights(rng, arrays.broadcastable(rng, rows)))
    options = common_options(rng, size, outputs=False)
    def exact(call):
        return [(reference.categorical_cross_entropy(**twin_arguments(call)), 0)]
    return Call("categorical_cross_entropy", given, axes, options, {}, exact)


def make_binary(rng, from_logits):
    size, dtype = arrays.shape(rng), pick(rng, FLOATS)
    if from_logits:
        given = {"logits": arrays.logits(rng, size, dtype)}
    else:
        given = {"proba": np.abs(np.sin(arrays.logits(rng, size, np.float64, specials=False))).astype(dtype)}
    axes = dict.fromkeys(given, "full") | {"target": "full"}
    y = rng.random(size) if chance(rng, 0.5) else rng.integers(0, 2, size)
    y = np.asarray(y)
    given["target"] = y.astype(dtype if y.dtype.kind == "f" else pick(rng, [bool, dtype, *INTEGERS]))
    weigh = functools.partial(optional, rng, given, axes)
    weigh("sample_weight", "full", lambda: arrays.weights(rng, arrays.broadcastable(rng, size)))
    options = common_options(rng, size)
    if from_logits:
        weigh("pos_weight", "full", lambda: arrays.weights(rng, arrays.broadcastable(rng, size)))
        if chance(rng, 0.3):
            options["label_smoothing"] = pick(rng, (0.1, 0.125, 1.0))
    outputs = {"grad_out": gradient_types(dtype)} if options.get("return_grad") else {}
    name = "binary_cross_entropy_with_logits" if from_logits else "binary_cross_entropy"

    @reference.quiet
    def exact(call):
        arguments = twin_arguments(call)
        loss, grad = getattr(reference, name)(**arguments)
        if "pos_weight" in arguments and np.isnan(arguments["logits"]).any():
            return None         # under a weight of 0 for yes and no, NaN is NaN; for the twin, 0
        rows = np.abs(getattr(reference, name)(**(arguments | {"reduction": "none"}))[0])
        if dtype.itemsize < 8 and (rows[np.isfinite(rows)] > np.finfo(np.float32).max).any():
            return None         # a loss that a float32 cannot hold is infinite, in sums too
        s = np.broadcast_to(np.asarray(arguments.get("sample_weight", 1), EXTENDED), size)
        scale = s * np.maximum(1, np.asarray(arguments.get("pos_weight", 1), EXTENDED))
        if not from_logits:
            p = np.asarray(arguments["proba"]).astype(EXTENDED)
            scale = scale * (1 / p + 1 / (1 - p))
        scale = np.nan_to_num(scale)
        if arguments.get("reduction", "mean") == "mean":
            scale = scale / (s.sum() or np.inf)
        return [(loss, 0), (grad, scale)]

    return Call(name, given, axes, options, outputs, exact)


def has_huge(x):
    """Whether there are finite logits so large that a divergence loses digits."""
    size = np.abs(np.asarray(x).astype(EXTENDED))
    return bool(((size > 1e7) & (size < np.inf)).any())


def make_kl(rng):
    size, dtype = arrays.shape(rng), pick(rng, FLOATS)
    axis = int(rng.integers(-len(size), len(size))) if chance(rng, 0.3) else -1
    x = arrays.logits(rng, size, dtype)
    kind = pick(rng, ("near", "far", "same"))
    with np.errstate(all="ignore"):
        ref = arrays.logits(rng, size, dtype) if kind == "far" else x.copy()
        if kind == "near":
            noise = rng.normal(size=size) * pick(rng, (1e-6, 1e-3, 1))
            ref = (x.astype(np.float64) + noise).astype(pick(rng, FLOATS) if chance(rng, 0.2) else dtype)
    given, axes = {"logits": x, "ref_logits": ref}, {"logits": "full", "ref_logits": "full"}
    rows = rows_of(size, axis)
    optional(rng, given, axes, "sample_weight", "row", lambda: arrays.weights(rng, arrays.broadcastable(rng, rows)))
    optional(rng, given, axes, "where", "full", lambda: mask(rng, size))
    options = common_options(rng, size) | {"axis": axis}
    if chance(rng, 0.3):
        options["logit_scale"] = pick(rng, (0.5, 0.75, 2.0, -1.0))
    outputs = {"grad_out": gradient_types(dtype)} if options.get("return_grad") else {}

    @reference.quiet
    def exact(call):
        arguments = twin_arguments(call)
        if not size[call.axis] or has_huge(x) or has_huge(ref):
            return None         # NaN, and for the twin a sum without terms; or digits are lost, as documented
        loss, grad = reference.kl_divergence(**arguments)
        s = np.broadcast_to(np.asarray(arguments.get("sample_weight", 1), EXTENDED), rows)
        scale = np.expand_dims(s, call.axis) * abs(arguments.get("logit_scale", 1)) * np.ones(size)
        divisor = (s.sum() or np.inf) if arguments.get("reduction", "mean") == "mean" else 1
        smallest = 1e-9 if min(x.dtype.itemsize, ref.dtype.itemsize) < 8 else 1e-25     # what nearly cancels
        loss_scale = smallest * (s if np.ndim(loss) else s.sum() / divisor)
        return [(loss, loss_scale), (grad, scale / divisor)]

    return Call("kl_divergence", given, axes, options, outputs, exact)


def make_softmax(rng, name):
    size, dtype = arrays.shape(rng), pick(rng, FLOATS)
    given, axes = {"x": arrays.logits(rng, size, dtype)}, {"x": "full"}
    axis = pick(rng, (-1, -1, 0, None, int(rng.integers(-len(size), len(size)))))
    options = {"n_threads": 1, "axis": axis}
    optional(rng, given, axes, "where", "full", lambda: mask(rng, size))

    def exact(call):
        return [(getattr(reference, name)(call.given["x"], call.axis, call.given.get("where", True)), 0)]

    return Call(name, given, axes, options, {"out": [dtype]}, exact)


def make_logsumexp(rng):
    size, dtype = arrays.shape(rng), pick(rng, FLOATS)
    given, axes = {"x": arrays.logits(rng, size, dtype)}, {"x": "full"}
    several = tuple(int(a) for a in rng.permutation(len(size))[: rng.integers(1, len(size) + 1)])
    axis = pick(rng, (-1, -1, 0, None, several))
    options = {"n_threads": 1, "axis": axis, "keepdims": chance(rng, 0.3), "return_sign": chance(rng, 0.3)}
    optional(rng, given, axes, "where", "full", lambda: mask(rng, size))
    if chance(rng, 0.4):
        b = rng.normal(size=arrays.broadcastable(rng, size)) if chance(rng, 0.5) else arrays.weights(rng, size)
        fits = np.max(np.abs(b), initial=0) < 1e30
        given["b"], axes["b"] = np.asarray(b).astype(pick(rng, FLOATS[-2:]) if fits else np.float64), "full"

    @reference.quiet
    def exact(call):
        x, b, where = call.given["x"], call.given.get("b"), call.given.get("where", True)
        plain = reference.logsumexp(x, axis, options["keepdims"], where)
        if b is None:
            peak = np.max(reference.masked(x, where), axis, keepdims=options["keepdims"], initial=-np.inf)
            return [(plain, np.where(np.isfinite(peak), np.abs(peak), 0))]
        if (np.asarray(b) < 0).any() or isinstance(axis, tuple) or axis is None or options["keepdims"]:
            return None         # terms cancel; the twin takes one axis
        value, sign = reference.weighted_logsumexp(x, b, axis, where)
        return [(value, np.maximum(1, np.nan_to_num(np.abs(plain)))), (sign, 0)]

    return Call("logsumexp", given, axes, options, {}, exact)


def make_evaluate(rng):
    size, dtype = arrays.shape(rng), pick(rng, FLOATS)
    size = (*size[:-1], max(1, size[-1]))
    ignored = pick(rng, (-100, -7, 0))
    given = {"logits": arrays.logits(rng, size, dtype), "target": labels(rng, size[:-1], size[-1], ignored)}
    axes = {"logits": "full", "target": "row"}
    optional(rng, given, axes, "sample_weight", "row", lambda: rng.integers(0, 4, size[:-1]) / 2)
    optional(rng, given, axes, "reference", "full", lambda: arrays.logits(rng, size, pick(rng, (dtype, np.float32))))
    options = {"n_threads": 1, "ignore_index": ignored, "topk": pick(rng, ((1, 5), 3, (2, 100_000)))}

    @reference.quiet
    def exact(call):
        arguments = twin_arguments(call)
        topk = arguments.pop("topk")
        topk = topk if isinstance(topk, tuple) else (topk,)
        if not given["target"].size:
            return None
        found = reference.evaluate(arguments.pop("logits"), arguments.pop("target"), topk=topk, **arguments)
        found["perplexity"] = found["ece"] = None       # at the end of a bin and near overflow, rounding decides
        if has_huge(given["logits"]) or has_huge(given.get("reference", 0)):
            found["kl"] = None
        if np.isnan(found["loss"]):
            found["brier"] = None       # of an infinite logit alone, NaN; in the twin, 0
        return [(value, 1e-3) for value in (found["loss"], found["accuracy"], *found["topk"].values(),
                *(found[name] for name in ("perplexity", "entropy", "weight", "brier", "ece", "kl", "agreement")))]

    return Call("evaluate", given, axes, options, {}, exact)


def make_temperature(rng):
    size, dtype = arrays.shape(rng, 2000), pick(rng, FLOATS)
    size = (*size[:-1], max(1, size[-1]))
    special = chance(rng, 0.3)
    given = {"logits": arrays.logits(rng, size, dtype, special), "target": labels(rng, size[:-1], size[-1], -100)}
    axes = {"logits": "full", "target": "row"}
    optional(rng, given, axes, "sample_weight", "row", lambda: rng.integers(0, 4, size[:-1]) / 2)
    options = {"n_threads": 1}

    def exact(call):
        T = invoke(call, call.given)[0]
        if special or not np.isfinite(T) or not 1e-4 < T < 1e4 or T == 1:
            return None
        arguments = twin_arguments(call)
        exact = reference.fit_temperature(arguments.pop("logits"), arguments.pop("target"), **arguments)
        return [(exact, 1e4 * T)]       # to 1e-8, not 1e-12

    return Call("fit_temperature", given, axes, options, {}, exact)


def make_linear(rng, name):
    *rows, classes = arrays.shape(rng, 5000)
    classes, features = max(1, classes), int(pick(rng, (1, 3, 17, 64)))
    dtype = pick(rng, FLOATS)
    X, weight = rng.normal(size=(*rows, features)).astype(dtype), rng.normal(size=(classes, features)).astype(dtype)
    given, axes = {"X": X, "weight": weight}, {"X": "other", "weight": "other"}
    optional(rng, given, axes, "bias", "other", lambda: rng.normal(size=classes).astype(dtype))
    kinds = ("labels",) if name == "linear_evaluate" else ("labels", "labels", "dense", "sparse")
    more, more_axes = target(rng, (*rows, classes), -1, np.dtype(np.float32), -100, kinds)
    given, axes = given | more, axes | more_axes
    optional(rng, given, axes, "sample_weight", "row", lambda: rng.integers(0, 4, tuple(rows)) / 2)
    options = {"n_threads": 1}
    if chance(rng, 0.4):
        options["max_scratch"] = pick(rng, (1 << 20, 1 << 18, 1 << 17))
    if chance(rng, 0.3):
        options["logit_scale"] = pick(rng, (0.5, 0.75))
    if name == "linear_evaluate":
        return Call(name, given, axes, options, {}, None)
    options |= common_options(rng, (*rows, classes))
    if chance(rng, 0.2):
        options |= pick(rng, ({"label_smoothing": 0.1}, {"z_loss": 0.01}, {"softcap": 5.0}, {"poly_epsilon": 0.5}))

    def exact(call):
        arguments = {k: v for k, v in twin_arguments(call).items() if k != "max_scratch"}
        loss, grads = reference.linear_cross_entropy(**arguments)
        bound = 10 if dtype.itemsize > 2 else 1000      # rounding of the products, of which there are many
        n = 1 + X.size // features

        def scale(result, factor):
            return bound * factor * np.nan_to_num(np.abs(result)).max(initial=1)

        return [(loss, scale(np.sum(loss), 10)), *((g, scale(g, n)) for g in grads if g is not None)]

    return Call(name, given, axes, options, {}, exact)


def make_log_loss(rng):
    dtype, classes, n = pick(rng, FLOATS), int(pick(rng, (2, 2, 3, 10, 40))), int(pick(rng, (1, 2, 30, 700)))
    proba = rng.random((n, classes)) * (rng.random((n, classes)) < 0.95) + 1e-9
    proba = (proba / proba.sum(axis=1, keepdims=True)).astype(dtype)
    names = pick(rng, (np.arange(classes), np.array([f"class {i:03}" for i in range(classes)])))
    indices = rng.integers(classes, size=n)
    given, axes = {"y_proba": proba, "y_true": names[indices]}, {"y_proba": "other", "y_true": "other"}
    if classes == 2 and chance(rng, 0.5):
        given["y_proba"] = proba = np.ascontiguousarray(proba[:, 1])
    optional(rng, given, axes, "sample_weight", "other", lambda: rng.integers(0, 4, n) / 2)
    options = {"labels": names, "normalize": chance(rng, 0.7)}

    @reference.quiet
    def exact(call):
        p = np.asarray(proba).astype(EXTENDED)
        chosen = np.where(indices == 1, np.log(p), np.log1p(-p)) if p.ndim == 1 else np.log(p[np.arange(n), indices])
        s = np.asarray(call.given.get("sample_weight", np.ones(n)), EXTENDED)
        total = reference.times(s, -chosen).sum()
        return [((total / s.sum() if s.sum() else np.nan) if options["normalize"] else total, 0)]

    return Call("log_loss", given, axes, options, {}, exact)


FUNCTIONS = {
    "cross_entropy": (make_cross_entropy, 6),
    "categorical_cross_entropy": (make_categorical, 1),
    "binary_cross_entropy_with_logits": (functools.partial(make_binary, from_logits=True), 2),
    "binary_cross_entropy": (functools.partial(make_binary, from_logits=False), 1),
    "kl_divergence": (make_kl, 2),
    "softmax": (functools.partial(make_softmax, name="softmax"), 1),
    "log_softmax": (functools.partial(make_softmax, name="log_softmax"), 1),
    "logsumexp": (make_logsumexp, 2),
    "evaluate": (make_evaluate, 2),
    "fit_temperature": (make_temperature, 1),
    "log_loss": (make_log_loss, 1),
    "linear_cross_entropy": (functools.partial(make_linear, name="linear_cross_entropy"), 1),
    "linear_evaluate": (functools.partial(make_linear, name="linear_evaluate"), 1),
}
NAMES = [name for name, (_, share) in FUNCTIONS.items() for _ in range(share)]
BY_BLAS = ("linear_cross_entropy", "linear_evaluate")


# --- checks ----------------------------------------------------------------------------------------------------------


@reference.quiet
def assert_near(actual, exact, scale, call, place):
    """Within the bounds, relative to the exact result or to `scale` if that is larger."""
    if exact is None:
        return
    first = next(iter(call.given.values())).dtype
    half = first.itemsize == 2
    info = np.finfo(actual.dtype if actual.dtype.kind == "f" else np.float32)      # of bfloat16, the range
    computed = np.float32 if half else first
    bound = 1e-12 if computed == np.float64 and actual.dtype == np.float64 else 1e-5
    if call.name == "kl_divergence":
        bound *= 100
    if actual.dtype.itemsize == 2:
        bound = 2e-3 if actual.dtype.kind == "f" else 1.6e-2
    a, e = np.asarray(actual).astype(EXTENDED), np.asarray(exact, EXTENDED)
    assert a.shape == e.shape, f"result {place} has shape {a.shape}; it must be {e.shape}"
    largest, smallest = EXTENDED(float(info.max)) * 0.99, EXTENDED(float(info.tiny)) * 4
    # A probability below the smallest normal number may be taken as 0, whatever multiplies it.
    factors = [call.given[name].astype(EXTENDED) for name in ("sample_weight", "class_weight") if name in call.given]
    largest_factor = np.prod([4, *(np.max(factor, initial=1) for factor in factors)])
    smallest = max(smallest, EXTENDED(float(np.finfo(computed).tiny)) * largest_factor)
    good = (np.isnan(a) & np.isnan(e)) | (a == e) | ((np.abs(e) >= largest) & (np.abs(a) >= largest) & (a * e > 0))
    good |= np.abs(a - e) <= bound * np.maximum(np.abs(e), scale) + smallest
    if not good.all():
        i = np.unravel_index(np.argmin(good), good.shape)
        raise AssertionError(
            f"result {place} of {call.name} at {tuple(map(int, i))} is {a[i]!r}, exactly {e[i]!r}; options "
            f"{call.options}, arrays {describe(call.given)}"
        )


def describe(given):
    return {name: f"{array.dtype}{array.shape}" for name, array in given.items()}


@contextlib.contextmanager
def usual_warnings():
    """Those that a function is documented to give."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "the loss has no minimum")
        warnings.filterwarnings("ignore", r"y_proba\[\d+\] sums to")
        yield


def check_twin(call, result):
    if call.exact is None or next(iter(call.given.values())).size > TWIN_ELEMENTS:
        return
    wanted = call.exact(call)
    if wanted is None:
        return
    for place, (array, (exact, scale)) in enumerate(zip(result, wanted, strict=False)):
        assert_near(array, exact, scale, call, place)


def assert_same(result, expected, call, what):
    assert len(result) == len(expected)
    for place, (a, b) in enumerate(zip(result, expected, strict=True)):
        try:
            assert a.dtype == b.dtype
            assert_same_bits(*(c.astype(np.float32) if c.dtype.itemsize == 2 else c for c in (a, b)))
        except AssertionError as error:
            raise AssertionError(
                f"result {place} of {call.name} differs {what}: {error}; options {call.options}, "
                f"arrays {describe(call.given)}"
            ) from None


def check_places(rng, call, expected):
    """The same bits in other places of memory, with other numbers of threads and with given outputs."""
    placed, intact, layouts = {}, [], {}
    first = next(iter(call.given))
    in_place = bool({"grad_out", "out"}.intersection(call.outputs)) and chance(rng, 0.3)
    for name, array in call.given.items():
        placed[name], check, layouts[name] = arrays.place(rng, array, writeable=in_place and name == first)
        intact.append(check)
    outputs, same_types = {}, True
    for name, dtypes in call.outputs.items():
        if in_place and name != "hess_out":
            outputs[name] = placed[first]
        elif chance(rng, 0.6):
            dtype = pick(rng, dtypes)
            same_types &= dtype == dtypes[0]
            like = np.full(call.given[first].shape, 77).astype(dtype)
            outputs[name], check, layouts[name] = arrays.place(rng, like, writeable=True)
            intact.append(check)
    before = {name: array.copy() for name, array in placed.items()}
    n_threads = int(rng.integers(1, 5))
    result = invoke(call, placed, **(with_threads(call, n_threads) | outputs))
    for check in intact:
        check()
    for name, array in placed.items():
        if not (in_place and name == first):
            assert array.tobytes() == before[name].tobytes(), f"{name} was changed"
    if same_types and call.name not in BY_BLAS:
        assert_same(result, expected, call, f"with {n_threads} threads, in {layouts}")


def with_threads(call, n_threads):
    return {"n_threads": n_threads} if "n_threads" in call.options else {}


def check_some_rows(rng, call):
    """Some rows alone have the bits that they have among all."""
    names = ("cross_entropy", "categorical_cross_entropy", "binary_cross_entropy", "binary_cross_entropy_with_logits",
             "kl_divergence", "softmax", "log_softmax")
    first = next(iter(call.given.values()))
    if call.name not in names or first.ndim < 2 or not first.size or not isinstance(call.axis, int):
        return
    class_axis = call.axis % first.ndim
    axis = int(pick(rng, [a for a in range(first.ndim) if a != class_axis]))
    start = int(rng.integers(first.shape[axis]))
    rows = slice(start, int(rng.integers(start, first.shape[axis])) + 1)
    some = {}
    for name, array in call.given.items():
        kind, shape = call.axes[name], first.shape
        at = axis
        if kind in ("row", "sparse"):
            shape = rows_of(first.shape, class_axis) + (array.shape[-1:] if kind == "sparse" else ())
            at = axis - (axis > class_axis)
        some[name] = array
        if kind != "other":
            some[name] = np.broadcast_to(array, shape)[(slice(None),) * at + (rows,)]
    more = {"reduction": "none"} if "softmax" not in call.name else {}
    for whole, part in zip(invoke(call, call.given, **more), invoke(call, some, **more), strict=True):
        at = axis - (axis > class_axis and whole.ndim < first.ndim)
        assert_same([part], [whole[(slice(None),) * at + (rows,)]], call, f"in rows {rows} of axis {axis} alone")


def check_stream(rng, call, expected):
    """In batches, merged in any order, a stream has the same bits."""
    options = {name: call.options[name] for name in ("topk", "ignore_index")}
    rows = {name: np.broadcast_to(array, call.given["logits"].shape[:-1]) if name == "sample_weight" else array
            for name, array in call.given.items()}
    n = len(rows["target"]) if rows["target"].ndim else 0
    if n < 2:
        return
    cuts = [0, *sorted(int(i) for i in rng.integers(0, n + 1, 2)), n]
    streams = []
    for start, stop in itertools.pairwise(cuts):
        part = {name: array[start:stop] for name, array in rows.items()}
        streams.append(xent.StreamingLoss(**options, n_threads=2).update(**part))
    whole = streams.pop(int(rng.integers(len(streams))))
    for stream in streams:
        whole.merge(stream)
    assert_same(flatten(tuple(whole.result())), expected, call, f"in batches cut at {cuts}")


# --- errors ----------------------------------------------------------------------------------------------------------


def at_random(rng, array, value, dtype=None):
    """A copy with one bad element."""
    result = np.array(array, dtype or array.dtype)
    result[np.unravel_index(int(rng.integers(result.size)), result.shape)] = value
    return result


def list_spoiled(rng, call):
    """Pairs of an argument and what is changed to spoil it."""
    given, options = call.given, call.options
    first, x = next(iter(given.items()))
    if "n_threads" in options:
        yield "n_threads", {"n_threads": pick(rng, (0, -1, 1.5, "2", True))}
    kinds = (complex, "U3", "M8[s]", "V3", *([] if first == "y_proba" else [object]))
    yield first, {first: np.ones(x.shape).astype(pick(rng, kinds))}
    if "reduction" in options:
        yield "reduction", {"reduction": pick(rng, ("all", None, 3, "Mean"))}
    if "axis" in options:
        yield "axis", {"axis": pick(rng, (x.ndim, -x.ndim - 1, 1.5, "0", 1 << 70))}
    for name, values in {"label_smoothing": (2, -0.1, np.nan, "a"), "logit_scale": (np.nan, np.inf, "a"),
                         "softcap": (0, -1.0, np.nan, np.inf), "z_loss": (-1, np.nan, np.inf), "topk": (0, (1, 0), 1.5),
                         "poly_epsilon": (np.nan, np.inf), "focal_gamma": (-1, np.inf), "ignore_index": (0.5, "a"),
                         "max_scratch": (0, -5, 1.5)}.items():
        if name in options:
            yield name, {name: pick(rng, values)}
    for name in ("sample_weight", "class_weight", "pos_weight"):
        if name in given and given[name].size:
            yield name, {name: at_random(rng, given[name], pick(rng, (-1, np.nan, -np.inf)), np.float64)}
            yield name, {name: np.ones((*given[name].shape, 3, 1, 1, 1))}
    if "where" in given:
        yield "where", {"where": given["where"].astype(pick(rng, (int, float)))}
        yield "where", {"where": np.ones((2, *x.shape), bool)}
    if "y_true" in given:
        yield "y_true", {"y_true": np.array(["unknown"] * len(x))}
        yield "y_true", {"y_true": given["y_true"][:-1]}
        yield "normalize", {"normalize": pick(rng, ("yes", None))}
    if first in ("proba", "y_proba") and x.size:
        yield first, {first: at_random(rng, x, pick(rng, (-0.5, 1.5, np.nan)))}
    name = "target[0]" if "target[0]" in given else "target"
    if name in given and given[name].dtype.kind in "iu" and call.axes[name] != "full" and given[name].size:
        classes = len(given["weight"]) if "weight" in given else x.shape[call.axis]
        bad = [c for c in (classes, -1, 1 << 40, -(1 << 62)) if c != options.get("ignore_index")]
        yield "target", {name: at_random(rng, given[name], pick(rng, bad), np.int64)}
        yield "target", {name: given[name].astype(pick(rng, (float, bool, complex, str)))}
        yield "target", {name: given[name][..., None, None]}
    for name, dtypes in call.outputs.items():
        yield name, {name: pick(rng, bad_outputs(rng, x, dtypes[0]))}


def bad_outputs(rng, x, dtype):
    bad = [np.full((*x.shape, 1), 77).astype(dtype), np.full(x.shape, 77, np.int32), [0.0]]
    read_only = np.full(x.shape, 77).astype(dtype)
    read_only.flags.writeable = False
    bad.append(read_only)
    if x.size:
        moved = np.full(x.nbytes + 1, 77, np.uint8)[1:].view(dtype).reshape(x.shape)
        if not moved.flags.aligned:
            bad.append(moved)
    if x.size > 1:
        bad.append(np.broadcast_to(np.full((), 77).astype(dtype), x.shape))
    return bad


def check_error(rng, call):
    """The error names the argument; outputs and operands are as before. Returns the type of the error."""
    argument, changed = pick(rng, list(list_spoiled(rng, call)))
    x = next(iter(call.given.values()))
    outputs = {name: np.full(x.shape, 77).astype(dtypes[0]) for name, dtypes in call.outputs.items()}
    every = call.given | outputs | changed
    given = {name: value for name, value in every.items() if name in call.given}
    options = {name: value for name, value in every.items() if name not in call.given}
    before = {name: value.copy() for name, value in every.items() if isinstance(value, np.ndarray)}
    try:
        invoke(call, given, **options)
    except (ValueError, TypeError) as error:
        message = str(error)
        assert argument in message, f"{message!r} does not name {argument}"
        for name, array in before.items():
            if array.dtype != object:
                assert every[name].tobytes() == array.tobytes(), f"{name} was written before the error {message!r}"
        return type(error).__name__
    raise AssertionError(f"no error for {argument} of {call.name}: {changed}; options {call.options}, "
                         f"arrays {describe(call.given)}")


def run_case(rng):
    threads.BLOCK_ELEMENTS, threads.THREAD_ELEMENTS = pick(rng, CUTS)
    name = pick(rng, NAMES)
    make, _ = FUNCTIONS[name]
    call = make(rng)
    with usual_warnings():
        if chance(rng, 0.25):
            yield f"{name}, {check_error(rng, call)}"
            return
        try:
            expected = invoke(call, call.given)
        except ValueError as error:
            if not str(error).startswith("max_scratch"):
                raise
            yield f"{name}, too little scratch"
            return
        check_twin(call, expected)
        check_places(rng, call, expected)
        check_some_rows(rng, call)
        if name == "evaluate":
            check_stream(rng, call, expected)
    yield name
