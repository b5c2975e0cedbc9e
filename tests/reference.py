"""NumPy twins: every public function from its definition in a few lines, in extended precision; and comparisons.

Nothing cancels here, so a twin is exact to about 2**-60 if a long double has a mantissa of 64 bits.
"""

import math
import tempfile

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

EXTENDED = np.longdouble
IS_EXACT = np.finfo(EXTENDED).nmant >= 63
quiet = np.errstate(all="ignore")


# --- operations ------------------------------------------------------------------------------------------------------


def parts(x, axis):
    """x, its maximum m, e = exp(x - m), and the sum r of all e but that of one maximum."""
    x = np.asarray(x, EXTENDED)
    m = x.max(axis, keepdims=True, initial=-np.inf)
    e = np.exp(x - m)
    top = x == m
    r = np.where(top, 0, e).sum(axis, keepdims=True) + (top.sum(axis, keepdims=True) - 1)
    return x, m, e, np.where(np.isfinite(m), r, np.nan)


def masked(x, where):
    """-inf where a class cannot happen, whatever x is there."""
    return np.where(where, np.asarray(x).astype(EXTENDED), -np.inf)


@quiet
def logsumexp(x, axis=-1, keepdims=False, where=True):
    _, m, _, r = parts(masked(x, where), axis)
    result = np.where(np.isinf(m), m, m + np.log1p(r))
    return result if keepdims else result.squeeze(tuple(range(result.ndim)) if axis is None else axis)


@quiet
def weighted_logsumexp(x, b, axis=-1, where=True):
    """log |Σ b exp(x)| and the sign of that sum."""
    x, b, where = np.broadcast_arrays(np.asarray(x, EXTENDED), np.asarray(b, EXTENDED), where)
    b = np.where(where, b, 0)
    x = np.where(b == 0, -np.inf, x)
    m = x.max(axis, keepdims=True, initial=-np.inf)
    m = np.where(np.isfinite(m), m, 0)
    total = times(np.exp(x - m), b).sum(axis, keepdims=True)
    return (m + np.log(np.abs(total))).squeeze(axis), np.sign(total).squeeze(axis)


@quiet
def softmax(x, axis=-1, where=True):
    _, _, e, r = parts(masked(x, where), axis)
    return e / (1 + r)


@quiet
def log_softmax(x, axis=-1, where=True):
    x, m, _, r = parts(masked(x, where), axis)
    return -((m - x) + np.log1p(r))


@quiet
def cross_entropy(
    logits,
    target,
    *,
    axis=-1,
    class_weight=None,
    sample_weight=None,
    label_smoothing=0,
    ignore_index=-100,
    where=None,
    logit_scale=1,
    softcap=None,
    z_loss=0,
    poly_epsilon=0,
    focal_gamma=0,
    reduction="mean",
    return_hess=False,
):
    """The loss and its gradient; and the diagonal of the Hessian, of labels and distributions without other terms."""
    x = np.moveaxis(np.asarray(logits).astype(EXTENDED), axis, -1)
    possible = np.moveaxis(np.broadcast_to(True if where is None else where, np.shape(logits)), axis, -1)
    x, slope = transform(np.where(possible, x, -np.inf), EXTENDED(logit_scale), softcap)
    t, s = masses(x, target, axis, sample_weight, ignore_index)
    w = EXTENDED(1) if class_weight is None else np.asarray(class_weight, EXTENDED)
    weight = times(s, times(t, w).sum(-1))
    epsilon = EXTENDED(label_smoothing)
    even = np.where(possible, epsilon / np.maximum(possible.sum(-1, keepdims=True), 1), 0)
    t = times(times(1 - epsilon, t) + even, w)
    x, m, e, r = parts(x, -1)
    p = e / (1 + r)
    other = np.where(x == m, r, 1 + r - e) / (1 + r)    # 1 - p
    total = t.sum(-1, keepdims=True)
    lse = m + np.log1p(r)
    loss = times(t, m - x).sum(-1) + (total * np.log1p(r) + times(EXTENDED(z_loss), lse * lse))[..., 0]
    grad = (total - t) * p - t * other      # total * p - t, without cancellation
    grad = grad + times(2 * EXTENDED(z_loss), lse * p)
    plain_grad, poly = grad, EXTENDED(poly_epsilon)
    loss = loss + poly * times(t, other).sum(-1)
    predicted = times(t, p)
    grad = grad + poly * p * ((predicted.sum(-1, keepdims=True) - predicted) - times(t, other))
    if focal_gamma:
        only = t > 0        # one class
        own, miss = np.where(only, p, 0).sum(-1), np.where(only, other, 0).sum(-1)
        focus = np.power(miss, EXTENDED(focal_gamma))
        ratio = np.where((own > 0) & (miss > 0), own / miss, 0)
        steeper = times(EXTENDED(focal_gamma) * ratio, np.where(ratio > 0, loss / total[..., 0], 0))
        grad = grad * focus[..., None] + plain_grad * (focus * steeper)[..., None]
        loss = times(focus, loss)
    loss, grad = times(s, loss), times(s[..., None], grad * slope)
    result = reduce(loss, np.moveaxis(grad, -1, axis), weight, reduction)
    hess = times(s[..., None], total * p * other * slope * slope)
    return (*result, reduce(loss, np.moveaxis(hess, -1, axis), weight, reduction)[1]) if return_hess else result


@quiet
def boosting(scores, target, factor, *, weight=None, class_weight=1, label_smoothing=0, floor=0):
    """The gradient and the diagonal of the Hessian, times a factor, that xent.boosting.Multiclass returns."""
    x, m, e, r = parts(scores, -1)
    p, other = e / (1 + r), np.where(x == m, r, 1 + r - e) / (1 + r)        # other: 1 - p
    t, w = masses(x, target, -1, weight, None)
    t = ((1 - EXTENDED(label_smoothing)) * t + EXTENDED(label_smoothing) / x.shape[-1]) * class_weight
    total = t.sum(-1, keepdims=True)
    grad, hess = times(w[..., None], (total - t) * p - t * other), times(w[..., None], total * p * other)
    return grad, np.maximum(factor * hess, floor)


@quiet
def linear_cross_entropy(X, weight, target, *, bias=None, **options):
    """The loss of X @ weight.T + bias, and its gradients with respect to the three."""
    X, weight = (np.asarray(array).astype(EXTENDED) for array in (X, weight))
    logits = X @ weight.T + (0 if bias is None else np.asarray(bias).astype(EXTENDED))
    loss, grad = cross_entropy(logits, target, **options)
    rows = grad.reshape(math.prod(grad.shape[:-1]), len(weight))
    grad_weight = rows.T @ X.reshape(len(rows), X.shape[-1])
    return loss, (grad @ weight, grad_weight, None if bias is None else rows.sum(axis=0))


class Exact:
    """What bounds the errors for labels or sparse targets: per class, e, the probability p, the target mass t and the
    derivative of the transformed logit (slope); per row, the derivative of the loss by logsumexp."""

    @quiet
    def __init__(
        self, logits, target, *, label_smoothing=0, logit_scale=1, softcap=None, z_loss=0, poly_epsilon=0, focal_gamma=0
    ):
        x, self.slope = transform(np.asarray(logits, EXTENDED), EXTENDED(logit_scale), softcap)
        x, m, self.e, r = parts(x, -1)
        self.p = self.e / (1 + r)
        t, _ = masses(x, target, -1, None, None)
        self.t = (1 - EXTENDED(label_smoothing)) * t + EXTENDED(label_smoothing) / x.shape[-1]
        steeper = 1 + np.abs(EXTENDED(poly_epsilon)) + EXTENDED(focal_gamma)
        self.slope_of_logsumexp = self.t.sum(-1, keepdims=True) * steeper
        self.slope_of_logsumexp += np.abs(2 * EXTENDED(z_loss) * (m + np.log1p(r)))


@quiet
def transform(x, scale, cap):
    """cap tanh(scale x / cap) and its derivative. -inf stays -inf."""
    z, slope = scale * x, np.broadcast_to(scale, x.shape)
    if cap is not None:
        slope = np.where(x == -np.inf, 0, scale / np.cosh(z / EXTENDED(cap)) ** 2)
        z = EXTENDED(cap) * np.tanh(z / EXTENDED(cap))
    return np.where(x == -np.inf, -np.inf, z), slope


@quiet
def categorical_cross_entropy(proba, target, *, axis=-1, sample_weight=None, reduction="mean"):
    p = np.moveaxis(np.asarray(proba, EXTENDED), axis, -1)
    t, s = masses(p, target, axis, sample_weight, None)
    loss = times(s, times(t, -np.log(p)).sum(-1))
    return reduce(loss, 0, times(s, t.sum(-1)), reduction)[0]


def excess(d):
    """exp(d) - 1 - d for |d| < 0.5, without cancellation."""
    series = np.polynomial.Polynomial([1 / EXTENDED(math.factorial(k + 2)) for k in range(20)])
    return d * d * series(np.where(np.abs(d) < 0.5, d, 0))


@quiet
def subtract_exactly(a, b):
    """a - b, and what rounding that lost."""
    d = a - b
    part = d - a
    return d, (a - (d - part)) - (b + part)


@quiet
def kl_divergence(
    logits, ref_logits, *, axis=-1, sample_weight=None, where=None, logit_scale=1, reduction="mean"
):
    """The divergence and its gradient."""
    possible = np.broadcast_to(True if where is None else where, np.shape(logits))
    rows = [np.where(possible, np.asarray(x).astype(EXTENDED), -np.inf) for x in (logits, ref_logits)]
    x, ref = (transform(np.moveaxis(row, axis, -1), EXTENDED(logit_scale), None)[0] for row in rows)
    (_, m, e, r), (_, ref_m, ref_e, ref_r) = parts(x, -1), parts(ref, -1)
    p, q = e / (1 + r), ref_e / (1 + ref_r)
    nothing = np.isnan(p) | np.isnan(q)
    # The differences of logits and maxima as pairs: they may be far larger than delta.
    (d, d_low), (gap, gap_low) = subtract_exactly(x, ref), subtract_exactly(m, ref_m)
    delta = ((d - gap) + (d_low - gap_low)) - (np.log1p(r) - np.log1p(ref_r))
    changes = np.where(np.abs(delta) < 0.5, times(q, np.expm1(delta)), p - q)
    delta = delta - np.log1p(changes.sum(-1, keepdims=True))    # which is 0 but for rounding
    terms = np.where(np.abs(delta) < 0.5, q * excess(delta), (p - q) - times(q, delta))
    terms = np.where(ref == -np.inf, p, np.where(x == -np.inf, np.inf, terms))
    s = np.broadcast_to(EXTENDED(1) if sample_weight is None else np.asarray(sample_weight, EXTENDED), x.shape[:-1])
    loss = times(s, np.where(nothing, np.nan, terms).sum(-1))
    grad = times(s[..., None], EXTENDED(logit_scale) * np.where(nothing, np.nan, p - q))
    return reduce(loss, np.moveaxis(grad, -1, axis), s, reduction)


@quiet
def evaluate(logits, labels, *, topk=(1, 5), axis=-1, sample_weight=None, ignore_index=-100, reference=None):
    """What xent.evaluate returns, as a dict."""
    x = np.moveaxis(np.asarray(logits).astype(EXTENDED), axis, -1)
    loss, _ = cross_entropy(x, labels, ignore_index=ignore_index, reduction="none")
    _, s = masses(x, labels, -1, sample_weight, ignore_index)
    _, _, e, r = parts(x, -1)
    p = e / (1 + r)
    entropy = times(p, -log_softmax(x)).sum(-1)
    label = np.where(s == 0, 0, labels)[..., None]
    at = np.take_along_axis(x, label, -1)
    ahead = (x > at) | ((x == at) & (np.arange(x.shape[-1]) < label))      # of equal logits, the first ranks first
    above = np.where(has_no_rank(x), 1 << 60, ahead.sum(-1))
    at_label = np.arange(x.shape[-1]) == label
    others = np.where(at_label, 0, p)
    brier = (others**2).sum(-1) + others.sum(-1) ** 2
    # With s = 1 / p, p <= j / 15 is s j >= 15; s = 1 + r is exact where p is at the end of a bin.
    total = (1 + r)[..., 0]
    ends = np.sum([total * j < 15 for j in range(1, 15)], axis=0)
    gap = np.where(above == 0, r[..., 0], -1) / total

    def mean(value):
        return times(s, value).sum() / s.sum()

    result = {
        "loss": mean(loss),
        "accuracy": mean(above == 0),
        "topk": {k: mean(above < k) for k in topk},
        "perplexity": np.exp(mean(loss)),
        "entropy": mean(entropy),
        "weight": s.sum(),
        "brier": mean(brier),
        "ece": sum(abs(mean(np.where(ends == j, gap, 0))) for j in range(15)),
        "kl": np.nan,
        "agreement": np.nan,
    }
    if reference is not None:
        ref = np.moveaxis(np.asarray(reference).astype(EXTENDED), axis, -1)
        same = (x.argmax(-1) == ref.argmax(-1)) & ~has_no_rank(x) & ~has_no_rank(ref)
        result |= {"kl": mean(kl_divergence(x, ref, reduction="none")[0]), "agreement": mean(same)}
    return result


def has_no_rank(x):
    """Rows without a largest logit."""
    return np.isnan(x).any(-1) | (x == -np.inf).all(-1)


@quiet
def fit_temperature(logits, labels, *, axis=-1, sample_weight=None, ignore_index=-100, where=True):
    """T, by bisection of log T; 0 or infinity where the loss has no minimum."""
    x = np.moveaxis(masked(logits, where), axis, -1)
    t, s = masses(x, labels, -1, sample_weight, ignore_index)
    t, d = t[s > 0], (x.max(-1, keepdims=True) - x)[s > 0]
    own = (s[s > 0] * times(t, d).sum(-1)).sum()

    def excess(log_t):
        """What the predicted distances from the maximum exceed the labels' by: the slope of the loss, times T^2."""
        e = np.exp(-d / np.exp(log_t))
        return (s[s > 0] * (times(e, d).sum(-1) / e.sum(-1))).sum() - own

    if own == 0:
        return 0.0
    size = np.log(d[np.isfinite(d)].mean())
    low, high = size - 40, size + 40
    if excess(high) <= 0:
        return np.inf
    for _ in range(44):
        middle = (low + high) / 2
        low, high = (low, middle) if excess(middle) > 0 else (middle, high)
    return float(np.exp(low))


@quiet
def binary_cross_entropy_with_logits(
    logits, target, *, pos_weight=1, sample_weight=1, label_smoothing=0, reduction="mean"
):
    """The loss and its gradient."""
    x, y, epsilon = np.asarray(logits).astype(EXTENDED), np.asarray(target).astype(EXTENDED), EXTENDED(label_smoothing)
    s = np.broadcast_to(np.asarray(sample_weight, EXTENDED), x.shape)
    yes = s * ((1 - epsilon) * y + epsilon / 2) * np.asarray(pos_weight, EXTENDED)
    no = s * ((1 - epsilon) * (1 - y) + epsilon / 2)
    loss = times(yes, np.logaddexp(0, -x)) + times(no, np.logaddexp(0, x))
    grad = no / (1 + np.exp(-x)) - yes / (1 + np.exp(x))
    return reduce(np.where(s == 0, 0, loss), np.where(s == 0, 0, grad), s, reduction)


@quiet
def binary_cross_entropy(proba, target, *, sample_weight=1, reduction="mean"):
    """The loss and its gradient."""
    p, y = np.asarray(proba, EXTENDED), np.asarray(target, EXTENDED)
    s = np.broadcast_to(np.asarray(sample_weight, EXTENDED), p.shape)
    loss = times(s * y, -np.log(p)) + times(s * (1 - y), -np.log1p(-p))
    grad = times(s * (1 - y), 1 / (1 - p)) - times(s * y, 1 / p)
    return reduce(loss, grad, s, reduction)


def masses(x, target, axis, sample_weight, ignore_index):
    """The target mass of every class, classes last, and the weight of every row, 0 if it is ignored."""
    s = np.broadcast_to(np.asarray(1 if sample_weight is None else sample_weight, EXTENDED), x.shape[:-1])
    if not isinstance(target, tuple):
        target = np.asarray(target)
        if target.shape == np.moveaxis(x, -1, axis).shape:
            return np.moveaxis(target, axis, -1).astype(EXTENDED), s
        target = target.reshape(x.shape[:-1])[..., None], np.ones((*x.shape[:-1], 1))
    indices, mass = np.asarray(target[0]), np.asarray(target[1]).astype(EXTENDED)
    padding = indices == ignore_index if ignore_index is not None else np.zeros(indices.shape, bool)
    t = times(mass[..., None], (indices[..., None] == np.arange(x.shape[-1])) & ~padding[..., None]).sum(-2)
    return t, np.where(padding.all(-1) & (indices.shape[-1] > 0), 0, s)


def times(mass, x):
    """The product, but 0 where the mass is 0, even if x is NaN or infinite."""
    return np.where(mass == 0, 0, mass * x)


def reduce(loss, grad, weight, reduction):
    if reduction == "mean":
        total = weight.sum()
        return (loss.sum() / total, grad / total) if total else (np.nan, 0 * np.zeros_like(grad))
    return (loss.sum() if reduction == "sum" else loss), grad


# --- comparisons -----------------------------------------------------------------------------------------------------


def extended(exact):
    """As long doubles; the numbers may be mpmath's."""
    high = np.asarray(exact).astype(np.float64)
    if np.asarray(exact).dtype != object:
        return np.asarray(exact, EXTENDED)
    return high.astype(EXTENDED) + (np.asarray(exact) - high).astype(np.float64)


def ulp(x, dtype):
    """The distance between neighbouring numbers of a type around x."""
    info = np.finfo(dtype)
    exponent = np.frexp(np.maximum(np.abs(extended(x)), info.smallest_normal))[1]
    return np.ldexp(EXTENDED(1), exponent - 1 - info.nmant)


@quiet
def assert_ulp(actual, exact, bound, *, at=None, dropped=0, dtype=None):
    """The error is at most `bound` ulp of `at` (default: `exact`) in `dtype` (default: that of `actual`).

    `dropped` is added to the bound: the sum of the terms below the smallest normal number, which may be taken as 0.
    Results that are no normal numbers may be off by the smallest normal number; those that overflow must be infinite.
    """
    actual, exact = np.asarray(actual), extended(exact)
    dtype = dtype or actual.dtype
    at = np.broadcast_to(np.abs(exact if at is None else at), actual.shape)
    assert actual.shape == exact.shape
    smallest, largest = np.finfo(dtype).smallest_normal, np.finfo(dtype).max
    error = np.where(np.abs(exact) > largest, actual != np.copysign(np.inf, exact), np.abs(actual - exact))
    bad = ~(error <= np.where(at >= smallest, bound * ulp(at, dtype) + dropped, smallest))
    if bad.any():
        error = np.where(bad, error / ulp(at, dtype), 0)
        i = np.unravel_index(np.argmax(np.where(np.isnan(error), np.inf, error)), actual.shape)
        raise AssertionError(
            f"{bad.sum()} of {bad.size} are more than {bound} ulp off; worst at {tuple(map(int, i))}: {actual[i]!r}, "
            f"exactly {exact[i]!r}, {error[i]:.4g} ulp off"
        )


def assert_close(actual, expected, dtype):
    """The same type, shape and, up to rounding, values. (test_accuracy.py has the bounds that are promised.)"""
    assert np.asarray(actual).dtype == dtype
    assert np.shape(actual) == np.shape(expected)
    eps = np.finfo(dtype).eps
    np.testing.assert_allclose(np.asarray(actual, EXTENDED), expected, rtol=32 * eps, atol=32 * eps)


def assert_same_bits(actual, expected):
    """Equal to the last bit, except that any NaN equals any other."""
    assert actual.dtype == expected.dtype
    np.testing.assert_array_equal(actual, expected)
    np.testing.assert_array_equal(np.signbit(actual) & ~np.isnan(actual), np.signbit(expected) & ~np.isnan(expected))


# --- the same values in many places of memory ------------------------------------------------------------------------


def _unaligned(a):
    bytes_ = np.empty(a.nbytes + 1, np.uint8)[1:]
    result = bytes_.view(a.dtype).reshape(a.shape)
    result[...] = a
    return result


def _flip(a):
    return a[(..., *[slice(None, None, -1)] * a.ndim)]


def _every_other(a):
    result = np.full([2 * n for n in a.shape], 99, a.dtype)[(..., *[slice(None, None, 2)] * a.ndim)]
    result[...] = a
    return result


def _read_only(a):
    a = a.copy()
    a.flags.writeable = False
    return a


def _memory_map(a):
    with tempfile.TemporaryFile() as file:
        file.write(b"x" * 16 + a.tobytes())
        file.flush()
        return np.memmap(file, a.dtype, "r", 16, a.shape) if a.size else a


def _own_type(a):
    class Own(np.ndarray):
        pass

    return a.view(Own)


LAYOUTS = {
    "C": lambda a: a.copy("C"),
    "Fortran": lambda a: a.copy("F"),
    "reversed": lambda a: _flip(_flip(a).copy()),
    "every other": _every_other,
    "rolled axes": lambda a: np.moveaxis(np.moveaxis(a, 0, -1).copy(), -1, 0) if a.ndim else a,
    "big-endian": lambda a: a.astype(a.dtype.newbyteorder(">")),
    "unaligned": _unaligned,
    "read-only": _read_only,
    "memory map": _memory_map,
    "subclass": _own_type,
}
WRITEABLE_LAYOUTS = {name: LAYOUTS[name] for name in ("C", "Fortran", "reversed", "every other", "rolled axes")}
DTYPES = (np.float32, np.float64)

# Vectors have up to 16 lanes: bodies and tails of all. Sums are blocks of 64 vectors: the edges of these.
SHORT_LENGTHS = range(1, 2 * 16 + 2)
EDGE_LENGTHS = sorted({64 * lanes * k + d for lanes in (2, 4, 8, 16) for k in (1, 2) for d in (-1, 0, 1)})

# Of both signs, quiet and signalling, with and without a payload.
NANS = {
    np.float32: np.array([0x7FC00000, 0xFFC00000, 0x7F800001, 0xFFFFFFFF, 0x7FC12345], "u4").view("f4"),
    np.float64: np.array([0x7FF8 << 48, 0xFFF8 << 48, (0x7FF0 << 48) + 1, (1 << 64) - 1], "u8").view("f8"),
}


def rows_with_every_maximum(n, dtype, seed=0):
    """A row for each place of the maximum; of long rows, for places at the edges and in the middle."""
    places = range(n) if n <= 64 else sorted({0, 1, n // 2, n - 18, n - 9, n - 2, n - 1})
    x = np.random.default_rng(seed).normal(size=(len(places), n), scale=2)
    x[range(len(places)), places] = x.max(axis=1) + 0.125
    return x.astype(dtype)


def guarded(array, guard=123.0):
    """A writeable C-ordered copy inside a larger array, and a function that asserts that the rest is unchanged."""
    outer = np.full(array.size + 64, guard, array.dtype)
    inside = outer[32 : 32 + array.size].reshape(array.shape)
    inside[...] = array

    def intact():
        assert (outer[:32] == guard).all()
        assert (outer[32 + array.size :] == guard).all()

    return inside, intact


@st.composite
def arrays(draw, dtypes=DTYPES, min_dims=1, scales=(1e-3, 1, 10, 80)):
    """Arrays of floats, some with ties. Hypothesis draws shape, scale and type; a generator the elements: faster."""
    shape = draw(hnp.array_shapes(min_dims=min_dims, max_dims=3, max_side=20))
    x = np.random.default_rng(draw(st.integers(0, 2**32))).normal(size=shape, scale=draw(st.sampled_from(scales)))
    return (np.rint(x) if draw(st.booleans()) else x).astype(draw(st.sampled_from(dtypes)))
