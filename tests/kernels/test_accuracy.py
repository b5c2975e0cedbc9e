"""What the library promises: how many units in the last place (ulp) a result may differ from extended precision.

The bounds hold for results that are normal numbers; a term of a sum, or a probability, below the smallest normal number
may be taken as 0. These bounds are part of the interface and must never be widened.
"""

from importlib.util import find_spec

import mpmath
import numpy as np
import pytest
import reference
from reference import DTYPES, EXTENDED, IS_EXACT, assert_ulp

import xent

LOSS = 2
LOGSUMEXP = 2       # of the larger of |maximum| and |result|, since their sum may cancel
PROBABILITY = 4
GRADIENT = 4        # of the result if all mass is on one class, else of the larger of T p and t, which cancel
HESSIAN = 4
DIVERGENCE = 16
DIVERGENCE_GRADIENT = 8     # of the larger of p and q, which cancel

KINDS = {
    "N(0, 1)": (1, 0, None),
    "N(0, 10)": (10, 0, None),
    "N(0, 30)": (30, 0, None),
    "N(0, 1) + 1e4": (1, 1e4, None),
    "N(0, 30) + 1e4": (30, 1e4, None),
    "leads by 10": (3, 0, 10),
    "leads by 35": (3, 0, 35),
    "leads by 60": (3, 0, 60),
}
CLASSES = [2, 3, 10, 100, 1000, 30_000]
ELEMENTS = 6000
DIFFERENCES = [1e-3, 0.01, 0.1, 1, 10, 30]      # of logits from those of a reference
SHIFTS = [0, 100, 1, -100]

each_dtype = pytest.mark.parametrize("dtype", DTYPES)
each_kind = pytest.mark.parametrize("kind", [kind for kind in KINDS if "1e4" not in kind])
pytestmark = pytest.mark.skipif(not IS_EXACT, reason="a long double here has no more digits than a double")


class Cell:
    """Random logits of one kind, labels, and the exact softmax."""

    def __init__(self, dtype, kind, classes, elements=ELEMENTS):
        scale, offset, lead = KINDS[kind]
        self.dtype, self.classes, self.is_large = dtype, classes, elements > ELEMENTS
        self.seed = [classes, list(KINDS).index(kind)]
        rng = np.random.default_rng(self.seed)
        self.rows = range(max(1, elements // classes))
        x = rng.normal(size=(len(self.rows), classes), scale=scale) + offset
        self.labels = rng.integers(classes, size=len(x))
        if lead is not None:
            x[self.rows, self.labels] = -np.inf
            x[self.rows, self.labels] = x.max(axis=1) + lead
        self.logits = x.astype(dtype)
        self.smallest = np.finfo(dtype).smallest_normal
        _, self.maximum, e, rest = reference.parts(self.logits, -1)
        self.softmax = e / (1 + rest)
        # What may be taken as 0: of the sum of a row, and of each probability.
        self.dropped = np.where(e < self.smallest, e, 0).sum(-1)
        self.dropped_softmax = np.where(self.softmax < self.smallest, self.softmax, 0)

    @property
    def rng(self):
        """For targets and weights: the same in every test, whichever ran before."""
        return np.random.default_rng([*self.seed, 1])

    def dropped_grad(self, labels):
        """What may be taken as 0 in a gradient. At the label it is minus the sum of the other probabilities."""
        result = self.dropped_softmax.copy()
        result[self.rows, labels] = self.dropped
        return result

    def dropped_hess(self):
        """The same for a Hessian, where it is all of the row at the maximum."""
        return np.where(self.logits == self.maximum, self.dropped[:, None], self.dropped_softmax)

    def soft_targets(self):
        """Distributions with some mass on every class, and most of it on a few."""
        t = self.rng.dirichlet(np.ones(self.classes), len(self.rows)) * 0.5
        t[self.rows, self.labels] += 0.5
        return t.astype(self.dtype)

    def weights(self):
        rng = self.rng
        return {
            "class_weight": rng.uniform(0.1, 10, self.classes),
            "sample_weight": rng.uniform(0.1, 10, len(self.rows)),
        }


def grid():
    for dtype in DTYPES:
        for kind in KINDS:
            for n in CLASSES:
                yield pytest.param((dtype, kind, n), id=f"{dtype.__name__}-{kind}-{n}")
            for n in (*CLASSES, 128_256):
                name = f"{dtype.__name__}-{kind}-{n}-many"
                yield pytest.param((dtype, kind, n, 100_000), id=name, marks=pytest.mark.deep)


@pytest.fixture(scope="module", params=list(grid()))
def cell(request):
    return Cell(*request.param)


def test_reference():
    """The twins agree with the plain formulas in 100 digits."""
    x = np.concatenate([Cell(np.float64, kind, 10).logits[:20] for kind in KINDS])
    labels = np.arange(len(x)) % 10
    with mpmath.workdps(100):
        exps = [[mpmath.exp(mpmath.mpf(v)) for v in row] for row in x.tolist()]
        totals = [mpmath.fsum(row) for row in exps]
        softmax = [[e / total for e in row] for row, total in zip(exps, totals, strict=True)]
        logsumexp = [mpmath.log(total) for total in totals]
        losses = [-mpmath.log(row[label]) for row, label in zip(softmax, labels, strict=True)]
        grads = [[p - (c == label) for c, p in enumerate(row)] for row, label in zip(softmax, labels, strict=True)]
        sigmoids = [[1 / (1 + mpmath.exp(-mpmath.mpf(v))) for v in row] for row in x[:20].tolist()]
        softplus = [[-mpmath.log(p) for p in row] for row in sigmoids]
        loss, grad, hess = reference.cross_entropy(x, labels, reduction="none", return_hess=True)
        other = x + np.resize([1e-3, 1, 30], (len(x), 1)) * np.random.default_rng(0).normal(size=x.shape) + 100
        others = [[mpmath.exp(mpmath.mpf(v)) for v in row] for row in other.tolist()]
        others = [[e / mpmath.fsum(row) for e in row] for row in others]
        pairs = [zip(row, other_row, strict=True) for row, other_row in zip(softmax, others, strict=True)]
        divergences = [mpmath.fsum(q * mpmath.log(q / p) for q, p in row) for row in pairs]
        divergence, _ = reference.kl_divergence(other, x, reduction="none")
        ones = np.ones((20, 10))
        binary_loss, binary_grad = reference.binary_cross_entropy_with_logits(x[:20], ones, reduction="none")
        for twin, exact in (
            (reference.logsumexp(x), logsumexp),
            (reference.softmax(x), softmax),
            (-reference.log_softmax(x)[range(len(x)), labels], losses),
            (loss, losses),
            (grad, grads),
            (hess, [[p * (1 - p) for p in row] for row in softmax]),
            (divergence, divergences),
            (binary_loss, softplus),
            (binary_grad, [[p - 1 for p in row] for row in sigmoids]),
        ):
            assert_ulp(twin, np.array(exact, object), 2**-6, dtype=np.float64)


# --- softmax and its kin ---------------------------------------------------------------------------------------------


def test_logsumexp(cell):
    exact = reference.logsumexp(cell.logits)
    at = np.maximum(np.abs(exact), np.abs(cell.maximum[:, 0]))
    assert_ulp(xent.logsumexp(cell.logits), exact, LOGSUMEXP, at=at, dropped=cell.dropped)


def test_softmax(cell):
    assert_ulp(xent.softmax(cell.logits), cell.softmax, PROBABILITY)


def test_log_softmax(cell):
    exact = reference.log_softmax(cell.logits)
    assert_ulp(xent.log_softmax(cell.logits), exact, PROBABILITY, dropped=cell.dropped[:, None])


def test_masked(cell):
    """What is hidden is larger than everything else."""
    where = np.resize([True, True, False], cell.logits.shape)
    where[:, 0] = True
    logits = np.where(where, cell.logits, cell.dtype(1e30))
    _, maximum, e, _ = reference.parts(reference.masked(logits, where), -1)
    dropped = np.where(e < cell.smallest, e, 0).sum(-1)
    assert_ulp(xent.softmax(logits, where=where), reference.softmax(logits, where=where), PROBABILITY)
    exact = reference.log_softmax(logits, where=where)
    actual = xent.log_softmax(logits, where=where)
    np.testing.assert_array_equal(actual == -np.inf, ~where)
    assert_ulp(actual[where], exact[where], PROBABILITY, dropped=np.broadcast_to(dropped[:, None], where.shape)[where])
    exact = reference.logsumexp(logits, where=where)
    at = np.maximum(np.abs(exact), np.abs(maximum[:, 0]))
    assert_ulp(xent.logsumexp(logits, where=where), exact, LOGSUMEXP, at=at, dropped=dropped)


# --- cross_entropy ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["label", "other label", "one-hot"])
def test_labels(target, cell):
    labels = (cell.labels + (target == "other label")) % cell.classes
    given = (labels[:, None] == np.arange(cell.classes)).astype(cell.dtype) if target == "one-hot" else labels
    loss, grad = xent.cross_entropy(cell.logits, given, reduction="none", return_grad=True)
    exact_loss, exact_grad = reference.cross_entropy(cell.logits, labels, reduction="none")
    assert_ulp(loss, exact_loss, LOSS, dropped=cell.dropped)
    assert_ulp(grad, exact_grad, GRADIENT, dropped=cell.dropped_grad(labels))


def test_soft_targets(cell):
    t = cell.soft_targets()
    loss, grad = xent.cross_entropy(cell.logits, t, reduction="none", return_grad=True)
    exact_loss, exact_grad = reference.cross_entropy(cell.logits, t, reduction="none")
    total = t.sum(axis=1, dtype=EXTENDED)
    assert_ulp(loss, exact_loss, LOSS, dropped=total * cell.dropped)
    at = np.maximum(total[:, None] * cell.softmax, t)
    assert_ulp(grad, exact_grad, GRADIENT, at=at, dropped=total[:, None] * cell.dropped_softmax)


# Factors have few bits, so that their products are exact in a long double, too.
OPTIONS = [
    {"label_smoothing": 0.125},
    {"logit_scale": 0.6875},
    {"logit_scale": 14.25},
    {"softcap": 30.0},
    {"softcap": 50.0, "logit_scale": 1.5},
    {"z_loss": 1e-4},
    {"poly_epsilon": 1.5},
    {"focal_gamma": 2.0},
    {"focal_gamma": 0.5, "poly_epsilon": 1.0},
    {"label_smoothing": 0.125, "logit_scale": 0.6875, "softcap": 30.0, "z_loss": 1e-4},
]


def test_options(cell):
    """Loss and gradient of a label; with smoothing or z_loss, in ulp of the larger of the terms that cancel.

    Large cells have the harder options, small ones every other option with one of two labels, in turns.
    """
    both = [cell.labels, (cell.labels + 1) % cell.classes]
    for i, options in enumerate(OPTIONS):
        first = i + sum(cell.seed) + len(str(cell.classes))
        if cell.is_large and (len(options) > 1 or "softcap" in options):
            for labels in both:
                check_options(cell, labels, options)
        elif not cell.is_large and first % 2:
            check_options(cell, both[first // 2 % 2], options)


def check_options(cell, labels, options):
    loss, grad = xent.cross_entropy(cell.logits, labels, reduction="none", return_grad=True, **options)
    exact_loss, exact_grad = reference.cross_entropy(cell.logits, labels, reduction="none", **options)
    e = reference.Exact(cell.logits, labels, **options)
    dropped = np.where(e.e < cell.smallest, e.e, 0).sum(-1) * e.slope_of_logsumexp[:, 0]
    bound = LOSS * (1 + options.get("focal_gamma", 0))      # (1 - p)^gamma multiplies the errors of 1 - p by gamma
    assert_ulp(loss, exact_loss, bound, dropped=dropped)
    at = np.maximum(e.slope * e.p * e.slope_of_logsumexp, e.slope * e.t)
    of_others = np.where(e.t > 0, dropped[:, None], np.where(e.p < cell.smallest, e.p, 0) * e.slope_of_logsumexp)
    one_hot = not {"label_smoothing", "z_loss"} & set(options)
    assert_ulp(grad, exact_grad, GRADIENT, at=exact_grad if one_hot else at, dropped=e.slope * of_others)


def test_hessian(cell):
    """Of every kind of target, with the options that it allows; in small cells two of them, in turns."""
    labels, other = cell.labels, (cell.labels + 1) % cell.classes
    three = (cell.labels[:, None] + [0, 1, 2]) % cell.classes, cell.rng.random((len(cell.labels), 3)).astype(cell.dtype)
    calls = [
        (labels, {}),
        (other, {"reduction": "mean"}),
        (cell.soft_targets(), {}),
        (labels, {"label_smoothing": 0.125}),
        (labels, {"logit_scale": 0.6875}),
        (three, {"logit_scale": -1.75}),
        (labels, {**cell.weights(), "reduction": "mean"}),
        (cell.soft_targets(), cell.weights()),
    ]
    for target, options in calls if cell.is_large else calls[sum(cell.seed) % 4 :: 4]:
        options = {"reduction": "none", **options}
        hess = xent.cross_entropy(cell.logits, target, return_hess=True, **options)[2]
        _, _, exact = reference.cross_entropy(cell.logits, target, return_hess=True, **options)
        x, m, e, rest = reference.parts(options.get("logit_scale", 1) * cell.logits.astype(EXTENDED), -1)
        p = e / (1 + rest)
        # What multiplies p (1 - p), from a class in the middle of the range; and what may be taken as 0 of each p.
        with np.errstate(all="ignore"):
            mass = np.nanmax(exact / (p * np.where(x == m, rest, 1 + rest - e) / (1 + rest)), -1, keepdims=True)
        dropped = np.where(p < cell.smallest, p, 0)
        dropped = np.where(x == m, np.where(e < cell.smallest, e, 0).sum(-1, keepdims=True), dropped)
        assert_ulp(hess, exact, HESSIAN, dropped=mass * dropped)


def test_sparse_targets(cell):
    """A label as two points of half the mass, and three classes."""
    labels = np.stack([cell.labels] * 2, 1), np.full((len(cell.labels), 2), 0.5, cell.dtype)
    loss, grad = xent.cross_entropy(cell.logits, labels, reduction="none", return_grad=True)
    exact_loss, exact_grad = reference.cross_entropy(cell.logits, cell.labels, reduction="none")
    assert_ulp(loss, exact_loss, LOSS, dropped=cell.dropped)
    assert_ulp(grad, exact_grad, GRADIENT, dropped=cell.dropped_grad(cell.labels))
    three = (cell.labels[:, None] + [0, 1, 2]) % cell.classes, cell.rng.random((len(cell.labels), 3)).astype(cell.dtype)
    loss, grad = xent.cross_entropy(cell.logits, three, reduction="none", return_grad=True)
    exact_loss, exact_grad = reference.cross_entropy(cell.logits, three, reduction="none")
    e = reference.Exact(cell.logits, three)
    total = e.t.sum(-1, keepdims=True)
    assert_ulp(loss, exact_loss, LOSS, dropped=total[:, 0] * cell.dropped)
    at = np.maximum(total * cell.softmax, e.t)
    assert_ulp(grad, exact_grad, GRADIENT, at=at, dropped=total * cell.dropped_softmax)


@each_dtype
@pytest.mark.parametrize("classes", [65, 100, 300])
def test_terms_that_round_away(dtype, classes):
    """A few large terms and many that are smaller by about eps: what rounding loses of each adds up."""
    rng = np.random.default_rng(classes)
    rows = np.arange(500_000 // classes)
    x = rng.normal(size=(len(rows), classes), scale=1.5)
    x += np.log(np.finfo(dtype).eps) * rng.uniform(0.9, 1.1, (len(rows), 1))
    for _ in range(2):
        x[rows, rng.integers(classes, size=len(rows))] = rng.normal(size=len(rows), scale=2)
    labels = rng.integers(classes, size=len(rows))
    x[rows, labels] = 20
    x = x.astype(dtype)
    loss, grad = xent.cross_entropy(x, labels, reduction="none", return_grad=True)
    exact_loss, exact_grad = reference.cross_entropy(x, labels, reduction="none")
    assert_ulp(loss, exact_loss, LOSS)
    assert_ulp(grad, exact_grad, GRADIENT)


@each_dtype
@pytest.mark.parametrize("classes", [65, 130, 300])
def test_masses_that_round_away(dtype, classes):
    """The same for the masses of a target."""
    rng = np.random.default_rng(classes)
    rows = np.arange(500_000 // classes)
    x = rng.normal(size=(len(rows), classes))
    x[rows, rng.integers(classes, size=len(rows))] = 20
    t = rng.random(x.shape) * np.finfo(dtype).eps
    t[rows, rng.integers(classes, size=len(rows))] = rng.random(len(rows))
    x, t = x.astype(dtype), t.astype(dtype)
    exact, _ = reference.cross_entropy(x, t, reduction="none")
    assert_ulp(xent.cross_entropy(x, t, reduction="none"), exact, LOSS)


def test_repeated_classes(cell):
    """Masses of the same class add up without an extra rounding."""
    if cell.classes > 10 or cell.is_large:
        pytest.skip("of few classes many are repeated")
    rng, shape = cell.rng, (len(cell.labels), 40)
    many = rng.integers(cell.classes, size=shape), rng.random(shape).astype(cell.dtype)
    exact, _ = reference.cross_entropy(cell.logits, many, reduction="none")
    total = many[1].sum(-1, dtype=EXTENDED)
    assert_ulp(xent.cross_entropy(cell.logits, many, reduction="none"), exact, LOSS, dropped=total * cell.dropped)


def test_sums(cell):
    """They are float64, but only as accurate as their terms."""
    for t in (cell.labels, cell.soft_targets()):
        exact, _ = reference.cross_entropy(cell.logits, t, reduction="sum")
        loss = xent.cross_entropy(cell.logits, t, reduction="sum")
        assert_ulp(loss, exact, LOSS, dropped=cell.dropped.sum(), dtype=cell.dtype)
    mean = xent.cross_entropy(cell.logits, cell.labels)
    exact, _ = reference.cross_entropy(cell.logits, cell.labels)
    assert_ulp(mean, exact, LOSS, dropped=cell.dropped.max(), dtype=cell.dtype)


@pytest.mark.parametrize("target", ["label", "distribution"])
def test_weighted_means(target, cell):
    """Loss and gradient under class and sample weights."""
    weights = cell.weights()
    t = cell.labels if target == "label" else cell.soft_targets()
    loss, grad = xent.cross_entropy(cell.logits, t, return_grad=True, **weights)
    exact_loss, exact_grad = reference.cross_entropy(cell.logits, t, **weights)
    masses, s = reference.masses(cell.logits, t, -1, weights["sample_weight"], None)
    masses = masses * weights["class_weight"] * s[:, None]
    total = masses.sum(-1, keepdims=True)
    assert_ulp(loss, exact_loss, LOSS, dropped=cell.dropped.max(), dtype=cell.dtype)
    dropped = (cell.dropped_grad(t) if target == "label" else cell.dropped_softmax) * total / total.sum()
    at = exact_grad if target == "label" else np.maximum(total * cell.softmax, masses) / total.sum()
    assert_ulp(grad, exact_grad, GRADIENT, at=at, dropped=dropped)


def test_kl_divergence(cell):
    """Large cells with every difference and two shifts, small ones with some of them, in turns."""
    for i, difference in enumerate(DIFFERENCES):
        for j, shift in enumerate(SHIFTS):
            if (i + 2 * j + sum(cell.seed)) % (2 if cell.is_large else 12) == 0:
                check_divergence(cell, difference, shift)


def check_divergence(cell, difference, shift):
    noise = cell.rng.normal(size=cell.logits.shape, scale=difference)
    ref = (cell.logits.astype(np.float64) + noise + shift).astype(cell.dtype)
    loss, grad = xent.kl_divergence(cell.logits, ref, reduction="none", return_grad=True)
    exact_loss, exact_grad = reference.kl_divergence(cell.logits, ref, reduction="none")
    q = reference.softmax(ref)
    size = 1 + np.abs(noise).max(-1, keepdims=True)
    dropped = cell.dropped_softmax + np.where(q < cell.smallest, q, 0) * size
    assert_ulp(loss, exact_loss, DIVERGENCE, dropped=dropped.sum(-1))
    assert_ulp(grad, exact_grad, DIVERGENCE_GRADIENT, at=np.maximum(cell.softmax, q))


def test_categorical_cross_entropy(cell):
    proba = np.maximum(cell.softmax.astype(cell.dtype), cell.smallest)
    for target in (cell.labels, (cell.labels + 1) % cell.classes, cell.soft_targets()):
        exact = reference.categorical_cross_entropy(proba, target, reduction="none")
        assert_ulp(xent.categorical_cross_entropy(proba, target, reduction="none"), exact, LOSS)


# --- the binary losses -----------------------------------------------------------------------------------------------


def binary(dtype, kind):
    """Logits, labels that they mostly predict, and the probability of 1."""
    scale, _, lead = KINDS[kind]
    rng = np.random.default_rng(1)
    y = rng.integers(2, size=ELEMENTS)
    x = rng.normal(size=ELEMENTS, scale=scale) + (2 * y - 1) * (lead or 0)
    return x.astype(dtype), y, (1 / (1 + np.exp(-x))).astype(dtype)


@each_dtype
@each_kind
@pytest.mark.parametrize("weighted", [False, True])
def test_binary_with_logits(weighted, dtype, kind):
    x, y, _ = binary(dtype, kind)
    rng = np.random.default_rng(2)
    pos_weight, sample_weight = rng.uniform(0.1, 10, (2, len(x))) if weighted else np.ones((2, 1))
    options = {"pos_weight": pos_weight, "sample_weight": sample_weight, "reduction": "none"}
    e = np.exp(-np.abs(x.astype(EXTENDED)))
    for target in (y, rng.random(len(x)).astype(dtype)):
        yes, no = sample_weight * pos_weight * target.astype(EXTENDED), sample_weight * (1 - target.astype(EXTENDED))
        dropped = np.where(e < np.finfo(dtype).smallest_normal, (yes + no) * e, 0)
        exact_loss, exact_grad = reference.binary_cross_entropy_with_logits(x, target, **options)
        loss, grad = xent.binary_cross_entropy_with_logits(x, target, return_grad=True, **options)
        assert_ulp(loss, exact_loss, LOSS, dropped=dropped)
        at = np.maximum(no / (1 + np.exp(-x.astype(EXTENDED))), yes / (1 + np.exp(x.astype(EXTENDED))))
        assert_ulp(grad, exact_grad, GRADIENT, at=at, dropped=dropped)


@each_dtype
@each_kind
@pytest.mark.parametrize("weighted", [False, True])
def test_binary_of_probabilities(weighted, dtype, kind):
    _, y, p = binary(dtype, kind)
    rng = np.random.default_rng(3)
    weights = {"sample_weight": rng.uniform(0.1, 10, len(p))} if weighted else {}
    p = np.clip(p, np.finfo(dtype).smallest_normal, 1 - np.finfo(dtype).epsneg)
    for target in (y, rng.random(len(p)).astype(dtype)):
        exact_loss, exact_grad = reference.binary_cross_entropy(p, target, reduction="none", **weights)
        loss, grad = xent.binary_cross_entropy(p, target, reduction="none", return_grad=True, **weights)
        assert_ulp(loss, exact_loss, LOSS)
        s, t = weights.get("sample_weight", EXTENDED(1)), target.astype(EXTENDED)
        assert_ulp(grad, exact_grad, GRADIENT, at=np.maximum(s * t / p, s * (1 - t) / (EXTENDED(1) - p)))


# --- every number ----------------------------------------------------------------------------------------------------


@each_dtype
def test_a_dense_line_of_distances(dtype):
    """exp and log1p over their whole range: two classes, and the binary loss."""
    d = np.linspace(0, 90 if dtype is np.float32 else 715, 20_001).astype(dtype)
    x = np.stack([np.zeros_like(d), -d], axis=1)
    assert_ulp(xent.softmax(x), reference.softmax(x), PROBABILITY)
    for label in (0, 1):
        labels = np.full(len(d), label)
        exact = reference.cross_entropy(x, labels, reduction="none", return_hess=True)
        actual = xent.cross_entropy(x, labels, reduction="none", return_hess=True)
        for a, b, bound in zip(actual, exact, (LOSS, GRADIENT, HESSIAN), strict=True):
            assert_ulp(a, b, bound)
        exact = reference.binary_cross_entropy_with_logits(d, labels, reduction="none")
        actual = xent.binary_cross_entropy_with_logits(d, labels, reduction="none", return_grad=True)
        for a, b, bound in zip(actual, exact, (LOSS, GRADIENT), strict=True):
            assert_ulp(a, b, bound)


# --- the table in the docs -----------------------------------------------------------------------------------------


def peers():
    """For each installed library, a function of logits and labels that returns logsumexp, softmax, log_softmax, loss,
    gradient and the diagonal of the Hessian."""
    yield "xent", lambda x, y: (
        xent.logsumexp(x), xent.softmax(x), xent.log_softmax(x),
        *xent.cross_entropy(x, y, reduction="none", return_hess=True),
    )
    rows = np.arange(10**6)
    if find_spec("scipy"):
        from scipy import special

        def with_scipy(x, y):
            p, log_p = special.softmax(x, 1), special.log_softmax(x, 1)
            grad = p.copy()
            grad[rows[: len(x)], y] -= 1
            return special.logsumexp(x, 1), p, log_p, -log_p[rows[: len(x)], y], grad, p * (1 - p)

        yield "SciPy", with_scipy
    if find_spec("torch"):
        import torch

        def with_torch(x, y):
            leaf = torch.tensor(x, requires_grad=True)
            loss = torch.nn.functional.cross_entropy(leaf, torch.tensor(y), reduction="none")
            loss.sum().backward()
            p = torch.softmax(leaf, 1)
            results = torch.logsumexp(leaf, 1), p, torch.log_softmax(leaf, 1), loss, leaf.grad, p * (1 - p)
            return tuple(result.detach().numpy() for result in results)

        yield "PyTorch", with_torch


def largest_errors(cell):
    """For each function and library, the largest error in ulp."""
    exact_loss, exact_grad, exact_hess = reference.cross_entropy(
        cell.logits, cell.labels, reduction="none", return_hess=True
    )
    logsumexp, log_softmax = reference.logsumexp(cell.logits), reference.log_softmax(cell.logits)
    exact = {
        "logsumexp": (logsumexp, np.maximum(np.abs(logsumexp), np.abs(cell.maximum[:, 0])), cell.dropped),
        "softmax": (cell.softmax, cell.softmax, 0),
        "log_softmax": (log_softmax, np.abs(log_softmax), cell.dropped[:, None]),
        "loss": (exact_loss, exact_loss, cell.dropped),
        "gradient": (exact_grad, np.abs(exact_grad), cell.dropped_grad(cell.labels)),
        "Hessian": (exact_hess, exact_hess, cell.dropped_hess()),
    }
    for peer, call in peers():
        for (name, (result, at, dropped)), actual in zip(exact.items(), call(cell.logits, cell.labels), strict=True):
            error = np.maximum(np.abs(actual - result) - dropped, 0) / reference.ulp(at, cell.dtype)
            yield name, peer, float(np.max(error[at >= cell.smallest], initial=0))


@pytest.mark.deep       # the bounds are those of the tests above
@pytest.mark.filterwarnings("ignore")       # of the peers
def test_table():
    """Prints the largest error of each function beside the peers' (`pytest -s -m deep`), for the docs."""
    worst, bounds = {}, {"logsumexp": LOGSUMEXP, "loss": LOSS}
    for dtype in DTYPES:
        for kind in KINDS:
            for n in CLASSES:
                for name, peer, error in largest_errors(Cell(dtype, kind, n)):
                    key = name, dtype.__name__, peer, kind
                    worst[key] = max(worst.get(key, 0), error)
    libraries = list(dict.fromkeys(peer for _, _, peer, _ in worst))
    print(f"\nLargest error in ulp, from {CLASSES[0]} to {CLASSES[-1]} classes: {' / '.join(libraries)}\n")
    print("| function, type | " + " | ".join(KINDS) + " |\n|---|" + "---|" * len(KINDS))
    for name, dtype in dict.fromkeys((name, dtype) for name, dtype, _, _ in worst):
        errors = [[worst[name, dtype, peer, kind] for peer in libraries] for kind in KINDS]
        cells = [" / ".join(format_error(error, dtype) for error in row) for row in errors]
        print(f"| {name}, {dtype} | " + " | ".join(cells) + " |")
        assert all(worst[name, dtype, "xent", kind] <= bounds.get(name, PROBABILITY) for kind in KINDS)


def peers_of_divergence():
    """For each installed library, a function of logits and a reference that returns the divergence of each row."""
    yield "xent", lambda x, ref: xent.kl_divergence(x, ref, reduction="none")
    if find_spec("torch"):
        import torch

        def with_torch(x, ref):
            log_p, log_q = (torch.log_softmax(torch.tensor(a), 1) for a in (x, ref))
            return torch.nn.functional.kl_div(log_p, log_q, reduction="none", log_target=True).sum(1).numpy()

        yield "PyTorch", with_torch
    if find_spec("jax"):
        import jax

        def with_jax(x, ref):
            """optax.losses.kl_divergence_with_log_targets"""
            with jax.enable_x64(x.dtype == np.float64):
                log_p, log_q = jax.nn.log_softmax(x), jax.nn.log_softmax(ref)
                return np.asarray((jax.numpy.exp(log_q) * (log_q - log_p)).sum(-1))

        yield "optax", with_jax


@pytest.mark.deep       # the bound is that of test_kl_divergence
@pytest.mark.filterwarnings("ignore")       # of the peers
def test_table_of_divergences():
    """The same for the divergence of rows of 1000 classes: the largest relative error, by how far the logits are from
    those of the reference."""
    differences = [1e-6, 1e-5, 1e-4, *DIFFERENCES]
    print("\n| type, library | " + " | ".join(f"{d:g}" for d in differences) + " |\n|---|" + "---|" * len(differences))
    for dtype in DTYPES:
        cell = Cell(dtype, "N(0, 1)", 1000, 200_000)
        noise = cell.rng.normal(size=cell.logits.shape)
        refs = [(cell.logits.astype(np.float64) + difference * noise).astype(dtype) for difference in differences]
        exact = [reference.kl_divergence(cell.logits, ref, reduction="none")[0] for ref in refs]
        for peer, call in peers_of_divergence():
            results = [call(cell.logits, ref) for ref in refs]
            errors = [float(np.max(np.abs(a - e) / e)) for a, e in zip(results, exact, strict=True)]
            print(f"| {dtype.__name__}, {peer} | " + " | ".join(f"{error:.0e}" for error in errors) + " |")
            assert peer != "xent" or max(errors[3:]) <= DIVERGENCE * np.finfo(dtype).eps


def format_error(error, dtype):
    """The error in ulp, or "all" if no digit is right."""
    if error * np.finfo(dtype).eps > 0.2:
        return "all"
    return f"{error:.1f}" if error < 9.95 else f"{error:.0f}"
