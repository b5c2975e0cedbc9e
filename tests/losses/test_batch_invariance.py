"""The promise: a row has the same bits alone and in any batch, in any memory layout, and with any number of threads.

Every function of rows is a line of FUNCTIONS, and every result is compared with those of each row alone. Results that
are NaN may be any NaN. (What BLAS computes is not promised; see "Batch invariance" in docs/accuracy.md.)
"""

import contextlib
import functools
import itertools
import math

import numpy as np
import pytest
from reference import LAYOUTS

import xent
from xent._calls import threads

bfloat16 = pytest.importorskip("ml_dtypes").bfloat16

FLOATS = [np.float16, bfloat16, np.float32, np.float64]
LARGEST = dict(zip(FLOATS, (6e4, 3e38, 3e38, 1e300), strict=True))
FEW, MANY = [1, 2, 5, 10, 33, 64], [100, 257, 1000]     # classes: in tiles, and more than tiles hold
LONG = {np.float64: 40_003}     # classes: more than the scratch of a thread holds, here and in other types
INF, NAN, IGNORED = np.inf, np.nan, -7
EVERY = ()      # the place of all classes of a row

each_float = pytest.mark.parametrize("dtype", FLOATS, ids=lambda dtype: np.dtype(dtype).name)


# --- the rows --------------------------------------------------------------------------------------------------------

STRANGE = {     # kinds of rows: what is in their operands, at a place among the classes (if there are any)
    "NaN": {"x": ((0,), NAN)},
    "infinity": {"x": ((-1,), INF)},
    "a class that cannot happen": {"x": ((0,), -INF)},
    "no class that can happen": {"x": (EVERY, -INF)},
    "huge": {"x": ((slice(None, None, 2),), LARGEST)},      # distances or scaled logits overflow; repeated in float64
    "ties": {"x": (EVERY, 1.5)},
    "ignored": {"labels": (EVERY, IGNORED), "indices": (EVERY, IGNORED)},
    "no weight": {"weight": (EVERY, 0)},
    "large weight": {"weight": (EVERY, 1e200)},
    "small weight": {"weight": (EVERY, 1e-200)},
    "mass on one class": {"dense": ((slice(1, None),), 0), "masses": ((slice(1, None),), 0)},
    "no mass": {"dense": (EVERY, 0), "masses": (EVERY, 0)},
    "NaN as mass": {"dense": ((0,), NAN), "masses": ((0,), NAN)},
    "masked": {"where": (EVERY, False)},
}


class Rows:
    """Operands by name: those with a number for each class, those of rows, and those that all rows share."""

    BY_CLASS, BY_ROW = ("x", "p", "b", "where", "one_hot", "dense"), ("labels", "weight", "indices", "masses")

    def __init__(self, operands):
        self.__dict__.update(operands)

    def map(self, by_class, by_row):
        """Change all operands but the shared ones."""
        changed = {name: by_class(getattr(self, name)) for name in self.BY_CLASS}
        changed |= {name: by_row(getattr(self, name)) for name in self.BY_ROW}
        return Rows({**self.__dict__, **changed})

    def __getitem__(self, k):
        return self.map(lambda a: a[k], lambda a: a[k])

    def __len__(self):
        return len(self.x)


@functools.cache
def make_rows(n, classes, dtype, strange=tuple(STRANGE)):
    """Every other row is strange."""
    rng = np.random.default_rng([n, classes])
    labels, other = rng.integers(classes, size=(2, n))
    one_hot, also = (k[:, None] == np.arange(classes) for k in (labels, other))
    x = rng.normal(size=(n, classes), scale=3) + 20 * one_hot * rng.random((n, 1))
    operands = {
        "x": x.astype(dtype),
        "p": xent.softmax(x.astype(dtype)),
        "b": rng.normal(size=(n, classes)).astype(dtype),
        "where": (rng.random((n, classes)) < 0.8) | one_hot | also,
        "one_hot": one_hot.astype(dtype),
        "dense": (rng.random((n, classes)) * (rng.random((n, classes)) < 0.5)).astype(dtype),
        "labels": labels,
        "weight": rng.random(n) + 0.5,
        "indices": np.stack([labels, np.full(n, IGNORED), other, labels], axis=-1),
        "masses": rng.random((n, 4)).astype(dtype),
        "class_weight": rng.integers(1, 5, classes) / 2,
    }
    for i, kind in zip(range(1, n, 2), itertools.cycle(strange)):
        for name, (place, value) in STRANGE[kind].items():
            operands[name][(i, *place)] = value[dtype] if value is LARGEST else value
    return Rows(operands)


def move(rows, lead, axis, layout):
    """The same rows in a batch of the shape `lead`, with another class axis, elsewhere in memory."""

    def place(a):
        has_no_order = a.dtype == bfloat16 and layout == "big-endian"
        return a if has_no_order else LAYOUTS[layout](a)

    return rows.map(
        lambda a: place(np.ascontiguousarray(np.moveaxis(a.reshape(*lead, -1), -1, axis))),
        lambda a: place(a.reshape(*lead, *a.shape[1:])),
    )


@functools.cache
def make_moved(n, classes, dtype):
    """A list of rows and their class axis: those of `make_rows` in every layout, on every axis."""
    rows = make_rows(n, classes, dtype)
    cases = [((n,), -1, layout) for layout in ("Fortran", "reversed", "every other", "big-endian", "unaligned")]
    cases += [
        (lead, axis, layout) for lead, axis in (((n,), 0), ((3, n // 3), 1), ((n // 3, 3), 1), ((3, n // 3), 0))
        for layout in ("C", "every other")
    ]   # fmt: skip
    return [(move(rows, lead, axis, layout), axis) for lead, axis, layout in cases]


# --- the functions ---------------------------------------------------------------------------------------------------

BOTH = {"reduction": "none", "return_grad": True}
TARGETS = {
    "labels": lambda r: r.labels,
    "one-hot": lambda r: r.one_hot,
    "distribution": lambda r: r.dense,
    "sparse": lambda r: (r.indices, r.masses),
}
OPTIONS = {
    "no option": lambda r: {},
    "class_weight": lambda r: {"class_weight": r.class_weight},
    "sample_weight": lambda r: {"sample_weight": r.weight},
    "where": lambda r: {"where": r.where},
    "label_smoothing": lambda r: {"label_smoothing": 0.125},
    "extreme class_weight": lambda r: {"class_weight": 10.0 ** np.linspace(-300, 300, len(r.class_weight))},
    "logit_scale": lambda r: {"logit_scale": 0.75},
    "negative logit_scale": lambda r: {"logit_scale": -0.75},
    "huge logit_scale": lambda r: {"logit_scale": 1e30},
    "softcap": lambda r: {"softcap": 5.0},
    "z_loss": lambda r: {"z_loss": 0.01},
    "poly_epsilon": lambda r: {"poly_epsilon": 1.5},
    "every option": lambda r: {
        "class_weight": r.class_weight, "sample_weight": r.weight, "where": r.where, "label_smoothing": 0.125,
        "logit_scale": 0.75, "softcap": 5.0, "z_loss": 0.01, "poly_epsilon": 1.5,
    },
}   # fmt: skip


def cross_entropy(target, option, r, **how):
    return xent.cross_entropy(r.x, TARGETS[target](r), ignore_index=IGNORED, **OPTIONS[option](r), **BOTH, **how)


def kl_divergence(option, r, **how):
    return xent.kl_divergence(r.x, r.b, **OPTIONS[option](r), **BOTH, **how)


FUNCTIONS = {
    "logsumexp": lambda r, **how: xent.logsumexp(r.x, **how),
    "logsumexp with factors": lambda r, **how: xent.logsumexp(r.x, b=r.b, return_sign=True, **how),
    "softmax": lambda r, **how: xent.softmax(r.x, **how),
    "log_softmax": lambda r, **how: xent.log_softmax(r.x, **how),
    **{
        f"cross_entropy, {target}, {option}": functools.partial(cross_entropy, target, option)
        for target in TARGETS for option in OPTIONS
    },
    **{
        f"kl_divergence, {option}": functools.partial(kl_divergence, option)
        for option in ("no option", "sample_weight", "where", "logit_scale", "negative logit_scale", "huge logit_scale")
    },
    "divergence from a reference with strange rows": lambda r, **how: xent.kl_divergence(
        r.b, r.x, sample_weight=r.weight, where=r.where, **BOTH, **how
    ),
    "gradient of the sum of cross_entropy": lambda r, **how: xent.cross_entropy(
        r.x, r.labels, sample_weight=r.weight, ignore_index=IGNORED, reduction="sum", return_grad=True, **how
    )[1],
    "cross_entropy, labels, focal_gamma": lambda r, **how: xent.cross_entropy(
        r.x, r.labels, focal_gamma=2.0, ignore_index=IGNORED, **BOTH, **how
    ),
    "cross_entropy, one-hot, focal_gamma": lambda r, **how: xent.cross_entropy(
        r.x, r.one_hot, focal_gamma=0.5, **BOTH, **how
    ),
    "categorical_cross_entropy, labels": lambda r, **how: xent.categorical_cross_entropy(
        r.p, np.maximum(r.labels, 0), reduction="none", **how
    ),
    "categorical_cross_entropy, distribution": lambda r, **how: xent.categorical_cross_entropy(
        r.p, r.dense, sample_weight=r.weight, reduction="none", **how
    ),
    "categorical_cross_entropy, sparse": lambda r, **how: xent.categorical_cross_entropy(
        r.p, (np.maximum(r.indices, 0), r.masses), reduction="none", **how
    ),
    "binary_cross_entropy_with_logits": lambda r, axis, **how: xent.binary_cross_entropy_with_logits(
        r.x, r.p, **BOTH, **how
    ),
    "binary_cross_entropy_with_logits, every option": lambda r, axis, **how: xent.binary_cross_entropy_with_logits(
        r.x, r.one_hot, pos_weight=r.p, sample_weight=r.p, label_smoothing=0.125, **BOTH, **how
    ),
    "binary_cross_entropy": lambda r, axis, **how: xent.binary_cross_entropy(
        r.p, r.one_hot, sample_weight=r.p, **BOTH, **how
    ),
}   # fmt: skip
OUTPUTS = {     # which may be the logits
    "softmax": "out", "log_softmax": "out", "cross_entropy": "grad_out", "kl_divergence": "grad_out"
}
each_function = pytest.mark.parametrize("name", FUNCTIONS)


def compute(name, rows, axis=-1, **how):
    """The results for the rows, one after the other, with the classes last."""
    found = FUNCTIONS[name](rows, axis=axis, **how)
    results = []
    for array in map(np.asarray, found if isinstance(found, tuple) else (found,)):
        of_rows = array.ndim == rows.weight.ndim
        results.append(array.reshape(-1) if of_rows else np.moveaxis(array, axis, -1).reshape(-1, array.shape[axis]))
    return results


def compute_alone(name, *problem):
    """The results of each row of `make_rows` by itself."""
    rows = make_rows(*problem)
    alone = [compute(name, rows[i : i + 1]) for i in range(len(rows))]
    return [np.concatenate(parts) for parts in zip(*alone, strict=True)]


def assert_same(results, expected, k=slice(None)):
    """The same bits as the expected results of rows k."""
    for actual, whole in zip(results, expected, strict=True):
        array = whole[k]
        assert (actual.dtype, actual.shape) == (array.dtype, array.shape)
        bits = f"u{array.itemsize}"
        different = np.ascontiguousarray(actual).view(bits) != np.ascontiguousarray(array).view(bits)
        if different.any():
            different &= ~(np.isnan(actual) & np.isnan(array))
            assert not different.any(), (np.argwhere(different)[:3], actual[different][:3], array[different][:3])


# --- the tests -------------------------------------------------------------------------------------------------------

BATCHES = [slice(None), slice(2), slice(1, 4), slice(5, 10), slice(7, 14), slice(12, None)]


def each_problem(dtype):
    """Numbers of rows and classes, and the dtype. The longest tiles have 32 rows."""
    return [(45, classes, dtype) for classes in FEW] + [(18, classes, dtype) for classes in MANY]


@contextlib.contextmanager
def small_blocks(classes):
    """Make blocks of three rows, and a thread for each."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threads, "BLOCK_ELEMENTS", 3 * classes)
        patch.setattr(threads, "THREAD_ELEMENTS", 1)
        assert threads.cut(15, classes, 5).threads == 5
        yield


@each_float
@each_function
def test_rows(name, dtype):
    """First, last and between others, in batches that vectors and tiles cut differently; without an axis of rows; in
    every layout, and on several threads."""
    for problem in each_problem(dtype):
        rows, alone = make_rows(*problem), compute_alone(name, *problem)
        for k in BATCHES:
            assert_same(compute(name, rows[k]), alone, k)
        for i in (0, 1, 5):
            assert_same([np.atleast_1d(a) for a in compute(name, rows[i])], alone, slice(i, i + 1))
        for moved, axis in make_moved(*problem):
            assert_same(compute(name, moved, axis), alone)
        with small_blocks(problem[1]):
            for n_threads in (1, 2, 5):
                assert_same(compute(name, rows, n_threads=n_threads), alone)


def check_long(name, dtype, n, classes, strange):
    """More threads have less scratch each, and a copy needs more of it, so that rows are cut into different pieces."""
    problem = n, classes, dtype, strange
    rows, alone = make_rows(*problem), compute_alone(name, *problem)
    for layout, axis, n_threads in (("C", -1, 5), ("every other", -1, 1), ("every other", -1, 5), ("C", 0, 2)):
        moved = move(rows, (n,), axis, layout)
        assert_same(compute(name, moved, axis, n_threads=n_threads), alone)
        output = OUTPUTS.get(name.partition(",")[0])
        if output:
            assert_same(compute(name, moved, axis, n_threads=n_threads, **{output: moved.x}), alone)


@each_function
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_long_rows(name, dtype):
    check_long(name, dtype, 18, 5001, ("huge",))
    check_long(name, dtype, 3, LONG.get(dtype, 150_001), ("huge",))


@pytest.mark.deep
@each_function
@each_float
def test_long_rows_of_all_kinds(name, dtype):
    for kind in ("NaN", "infinity", "huge", "large weight"):
        check_long(name, dtype, 3, LONG.get(dtype, 150_001), (kind,))


@each_float
def test_measures(dtype):
    """`evaluate` is the exact sum of what it is for each row alone, in every layout and with any number of threads."""
    options = {"topk": (1, 3), "ignore_index": IGNORED}
    for problem in each_problem(dtype):
        rows = make_rows(*problem)
        usual = np.isfinite(rows.x).all(axis=1) & (rows.weight < 2)     # no infinite sums
        weight = np.where(usual, rows.weight, 0)
        stream = xent.StreamingLoss(**options)
        for i in range(len(rows)):
            k = slice(i, i + 1)
            stream.update(rows.x[k], rows.labels[k], sample_weight=weight[k], reference=rows.b[k])
        alone = stream.result()
        assert alone.weight > 0
        assert math.isfinite(alone.loss)
        assert math.isfinite(alone.kl)
        for moved, axis in make_moved(*problem):
            given = {"sample_weight": weight.reshape(moved.weight.shape), "reference": moved.b, **options}
            assert xent.evaluate(moved.x, moved.labels, axis=axis, **given) == alone
        with small_blocks(problem[1]):
            given = {"sample_weight": weight, "reference": rows.b, **options}
            for n_threads in (1, 2, 5):
                assert xent.evaluate(rows.x, rows.labels, n_threads=n_threads, **given) == alone


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_linear_layers(dtype):
    """The loss of logits that need no rounding. (How BLAS rounds others depends on the shape of the product.)"""
    rng = np.random.default_rng(0)
    X, weight = rng.integers(-4, 5, (45, 6)).astype(dtype), rng.integers(-4, 5, (50, 6)).astype(dtype)
    labels = rng.integers(50, size=45)
    together = xent.linear_cross_entropy(X, weight, labels, reduction="none")
    alone = [xent.linear_cross_entropy(X[i : i + 1], weight, labels[i : i + 1], reduction="none") for i in range(45)]
    assert_same([together], [np.concatenate(alone)])


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_predictions_for_sparse_rows(dtype, classes):
    """SciPy multiplies each row by itself."""
    sparse = pytest.importorskip("scipy.sparse")
    rng = np.random.default_rng(0)
    X = sparse.csr_matrix((rng.normal(size=(45, 30)) * (rng.random((45, 30)) < 0.3)).astype(dtype))
    model = xent.LogisticRegression().fit(X, np.arange(45) % classes)
    for predict in (model.decision_function, model.predict_proba, model.predict_log_proba):
        assert_same([np.concatenate([predict(X[i : i + 1]) for i in range(45)])], [predict(X)])
        assert_same([predict(X[7:20])], [predict(X)], slice(7, 20))
