"""xent.boosting without the libraries: what it returns for their arguments, and its errors."""

import copy
import pickle
import tracemalloc

import numpy as np
import pytest
import reference
from good_arguments import fails, inf, nan
from reference import ulp

import xent
from xent import boosting
from xent.boosting import Multiclass

ROWS, CLASSES = 203, 7
FACTORS = {"xgboost": 2, "lightgbm": CLASSES / (CLASSES - 1)}
FLOORS = {"xgboost": 1e-16, "lightgbm": 0}
LIBRARIES = list(FACTORS)
NAMES = {       # of the scores, labels and weights in errors
    "xgboost": ("predt", "label", "weight"),
    "xgboost_sklearn": ("y_pred", "y_true", "sample_weight"),
    "lightgbm": ("preds", "label", "weight"),
    "lightgbm_sklearn": ("y_pred", "y_true", "weight"),
}


class Rows:
    """What the libraries pass with the scores: a DMatrix or a Dataset."""

    def __init__(self, label, weight):
        self.label, self.weight = label, weight

    def get_label(self):
        return self.label

    def get_weight(self):
        return self.weight


def call(objective, method, scores, label, weight=None):
    """Pass arguments as the library does."""
    function = getattr(objective, method)
    if method.endswith("sklearn"):
        return function(label, scores) if weight is None else function(label, scores, weight)
    if method == "xgboost" and weight is None:
        weight = np.array([], np.float32)
    return function(scores, Rows(label, weight))


rng = np.random.default_rng(0)
LABELS = rng.integers(CLASSES, size=ROWS)
LABEL = LABELS.astype(np.float32)
WEIGHT = rng.random(ROWS, dtype=np.float32)
SCORES = {
    "xgboost": (3 * rng.normal(size=(ROWS, CLASSES))).astype(np.float32),
    "lightgbm": np.asfortranarray(3 * rng.normal(size=(ROWS, CLASSES))),
}
SOFT = rng.dirichlet(np.ones(CLASSES), ROWS)
OPTIONS = {
    "labels": {},
    "class_weight": {"class_weight": np.linspace(0, 3, CLASSES)},
    "label_smoothing": {"label_smoothing": 0.1},
    "target": {"target": SOFT},
    "all": {"target": 3 * SOFT, "class_weight": np.linspace(0, 3, CLASSES), "label_smoothing": 0.1},
}


def scores_of(method):
    return SCORES[method.split("_")[0]]


def assert_right(results, scores, target, library, *, weight=None, **options):
    """Within the bounds of `xent.cross_entropy` and a rounding to float32."""
    classes = scores.shape[1]
    factor = 2 if library == "xgboost" else classes / (classes - 1)
    exact = reference.boosting(scores, target, factor, weight=weight, floor=FLOORS[library], **options)
    mass = np.ones(len(scores)) if np.ndim(target) == 1 else np.asarray(target).sum(axis=1)
    largest = (mass if weight is None else mass * weight) * np.max(options.get("class_weight", 1))
    for result, wanted in zip(results, exact, strict=True):
        assert result.dtype == np.float32
        assert result.shape == scores.shape
        assert (np.abs(result - wanted) <= 5 * ulp(np.maximum(largest[:, None], 1e-3), np.float32)).all()
    hess, wanted = results[1], exact[1]
    np.testing.assert_allclose(hess, wanted.astype(np.float64), rtol=8e-7, atol=1e-37)


@pytest.mark.parametrize("weight", [None, WEIGHT], ids=["", "weights"])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("method", NAMES)
def test_gradient_and_hessian(method, options, weight):
    scores, given = scores_of(method), dict(options)
    before = scores.copy()
    results = call(Multiclass(**options), method, scores, LABEL, weight)
    target = given.pop("target", LABELS)
    assert_right(results, scores, target, method.split("_")[0], weight=weight, **given)
    np.testing.assert_array_equal(scores, before)


@pytest.mark.parametrize("method", NAMES)
def test_they_are_derivatives_of_the_loss(method):
    """The Hessian divided by the factor of the library, where it is not at the floor."""
    scores, library = scores_of(method).astype(np.float64), method.split("_")[0]
    options = {"class_weight": np.linspace(0.5, 2, CLASSES), "label_smoothing": 0.2}
    grad, hess = call(Multiclass(**options), method, scores, LABEL, WEIGHT)

    def loss(x):
        return xent.cross_entropy(x, LABELS, sample_weight=WEIGHT, reduction="none", **options)

    for c in range(CLASSES):
        step = np.zeros(CLASSES)
        step[c] = 1e-3
        low, here, high = loss(scores - step), loss(scores), loss(scores + step)
        np.testing.assert_allclose(grad[:, c], (high - low) / 2e-3, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(hess[:, c], FACTORS[library] * (high + low - 2 * here) / 1e-6, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("order", ["C", "F", "strided", "read-only"])
def test_scores_of_any_layout(library, dtype, order):
    """Results are in the order of the scores, so that each library reads them as they are."""
    scores = SCORES["lightgbm"].astype(dtype, order="F" if order == "F" else "C")
    if order == "strided":
        scores = np.repeat(scores, 2, axis=1)[:, ::2]
    scores.flags.writeable = order != "read-only"
    results = call(Multiclass(), library, scores, LABEL)
    assert_right(results, scores, LABELS, library)
    for result in results:
        assert result.flags.f_contiguous if order == "F" else result.flags.c_contiguous
        assert np.shares_memory(result, result.ravel(order="F" if order == "F" else "C"))


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("method", NAMES)
def test_blocks_and_threads_change_no_bits(method, options, monkeypatch):
    whole = call(Multiclass(**options), method, scores_of(method), LABEL, WEIGHT)
    monkeypatch.setattr(boosting, "BLOCK_ELEMENTS", 20 * CLASSES + 3)
    for n_threads in (1, 2):
        blocks = call(Multiclass(**options, n_threads=n_threads), method, scores_of(method), LABEL, WEIGHT)
        for got, wanted in zip(blocks, whole, strict=True):
            reference.assert_same_bits(got, wanted)


@pytest.mark.parametrize("library", LIBRARIES)
def test_two_classes_one_row_and_none(library):
    for scores in ([[0.5, -1.0]], [[0.0, 0.0], [3.0, 1.0]], np.zeros((0, 2))):
        scores = np.array(scores)
        labels = np.arange(len(scores)) % 2
        assert_right(call(Multiclass(), library, scores, labels.astype(float)), scores, labels, library)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_confident_rows_keep_their_digits(dtype):
    """A float32 objective that forms p - 1 has gradient 0 here, and the Hessian of XGBoost its floor."""
    scores = np.array([[20.0, 0.0, 0.0], [60.0, 0.0, 0.0]], dtype)
    grad, hess = call(Multiclass(), "xgboost", scores, np.zeros(2))
    own = np.array([2 * np.exp(-20.0), 2 * np.exp(-60.0)])
    np.testing.assert_allclose(grad[:, 0], -own, rtol=1e-6)
    np.testing.assert_allclose(hess[0], 2 * own[0] * np.array([1, 0.5, 0.5]), rtol=1e-6)
    np.testing.assert_array_equal(hess[1], np.float32(1e-16))
    grad, hess = call(Multiclass(), "lightgbm", scores, np.zeros(2))
    np.testing.assert_allclose(hess[:, 0], 1.5 * own, rtol=1e-6)


@pytest.mark.parametrize("library", LIBRARIES)
def test_peak_memory(library):
    """Beyond the results: none of them in float64, but for a block."""
    scores = np.zeros((250_000, 8), order="F")
    label, results = np.zeros(len(scores), np.float32), 2 * scores.size * 4
    tracemalloc.start()
    try:
        kept = call(Multiclass(), library, scores, label)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert sum(array.nbytes for array in kept) == results
    assert results < peak <= results + (17 << 20) + 16 * len(scores)


# --- labels, weights and targets -------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", NAMES)
@pytest.mark.parametrize("kind", [np.float64, np.int8, np.uint64, list])
def test_labels_are_whole_numbers_of_any_type(method, kind):
    label = LABELS.tolist() if kind is list else LABELS.astype(kind)
    for got, wanted in zip(
        call(Multiclass(), method, scores_of(method), label), call(Multiclass(), method, scores_of(method), LABEL),
        strict=True,
    ):
        reference.assert_same_bits(got, wanted)


@pytest.mark.parametrize("method", NAMES)
@pytest.mark.parametrize(
    ("value", "found"),
    [(12, "12"), (7, "7"), (-1, "-1"), (-100, "-100"), (0.5, "0.5"), (nan, "nan"), (inf, "inf"), (1e30, "1e+30")],
)
def test_a_label_out_of_range_is_named(method, value, found, monkeypatch):
    monkeypatch.setattr(boosting, "BLOCK_ELEMENTS", CLASSES)
    label = LABEL.astype(np.float64)
    label[17] = value
    message = f"{NAMES[method][1]}[17] is {found}; labels must be whole numbers in [0, 7)"
    fails(ValueError, message, call, Multiclass(), method, scores_of(method), label)
    fails(ValueError, message, call, Multiclass(), method, scores_of(method), label, np.zeros(ROWS))


def test_labels_that_are_no_numbers():
    message = "y_true has dtype bool; labels must be whole numbers"
    fails(TypeError, message, Multiclass().lightgbm_sklearn, [True, False], np.zeros((2, 3)))
    message = "y_true has dtype <U1; labels must be whole numbers"
    fails(TypeError, message, Multiclass().lightgbm_sklearn, ["a", "b"], np.zeros((2, 3)))


@pytest.mark.parametrize("shape", [(ROWS - 1,), (), (0,), (ROWS, CLASSES - 1), (ROWS, 1)])
def test_labels_of_another_shape(shape):
    message = (
        f"label has shape {shape}; for predt of shape ({ROWS}, {CLASSES}) it must have shape ({ROWS},) (labels) or "
        f"({ROWS}, {CLASSES}) (a distribution)"
    )
    fails(ValueError, message, call, Multiclass(), "xgboost", SCORES["xgboost"], np.zeros(shape))


@pytest.mark.parametrize("method", NAMES)
def test_a_distribution_in_place_of_labels(method):
    """XGBoost stores matrices of labels, which may be soft labels; 2.1 returns them flat."""
    soft = SOFT.astype(np.float32)
    expected = call(Multiclass(target=soft, label_smoothing=0.1), method, scores_of(method), LABEL, WEIGHT)
    for label in (soft, soft.ravel()):
        results = call(Multiclass(label_smoothing=0.1), method, scores_of(method), label, WEIGHT)
        for got, wanted in zip(results, expected, strict=True):
            reference.assert_same_bits(got, wanted)


@pytest.mark.parametrize("method", NAMES)
def test_a_target_replaces_the_labels(method):
    one_hot = np.eye(CLASSES)[LABELS]
    wanted = call(Multiclass(), method, scores_of(method), LABEL, WEIGHT)
    for target in (one_hot, one_hot.astype(np.float32), one_hot.astype(int), one_hot.astype(bool), one_hot.tolist()):
        for label in (LABEL, np.full(ROWS, nan), np.array([]), None):
            got = call(Multiclass(target=target), method, scores_of(method), label, WEIGHT)
            for a, b in zip(got, wanted, strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)


def test_a_target_is_not_copied():
    assert np.shares_memory(Multiclass(target=SOFT).target, SOFT)
    assert Multiclass(target=SOFT).n_classes == CLASSES


@pytest.mark.parametrize("method", NAMES)
@pytest.mark.parametrize("rows", [ROWS - 1, ROWS + 1])
def test_a_target_of_other_rows(method, rows):
    message = (
        f"target has {rows} rows and {NAMES[method][0]} has {ROWS}; they must be those of one training set, not of a "
        "fold or subset of it"
    )
    objective = Multiclass(target=np.resize(SOFT, (rows, CLASSES)))
    fails(ValueError, message, call, objective, method, scores_of(method), LABEL)


@pytest.mark.parametrize("method", NAMES)
def test_bad_weights(method):
    name = NAMES[method][2]
    for shape in [(ROWS - 1,), (ROWS, 1), (1,)]:
        message = f"{name} has shape {shape}; it must have shape ({ROWS},), one weight per row"
        fails(ValueError, message, call, Multiclass(), method, scores_of(method), LABEL, np.ones(shape))
    for value in (-1.0, nan):
        weight = np.ones(ROWS)
        weight[150] = value
        message = f"{name}[150] is {value}; weights must be at least 0"
        fails(ValueError, message, call, Multiclass(), method, scores_of(method), LABEL, weight)


@pytest.mark.parametrize("method", NAMES)
def test_rows_without_weight(method):
    scores, weight = scores_of(method).copy(), WEIGHT.copy()
    scores[3], weight[3] = nan, 0
    grad, hess = call(Multiclass(), method, scores, LABEL, weight)
    np.testing.assert_array_equal(grad[3], 0)
    np.testing.assert_array_equal(hess[3], np.float32(FLOORS[method.split("_")[0]]))
    assert np.isfinite(grad).all()
    assert np.isfinite(hess).all()


# --- scores ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", NAMES)
@pytest.mark.parametrize("shape", [(ROWS,), (ROWS * CLASSES,), (ROWS, 1), (ROWS, CLASSES, 1)])
def test_scores_of_another_shape(method, shape):
    message = (
        f"{NAMES[method][0]} has shape {shape}; it must have shape (rows, classes), one score per class: set num_class,"
        " also to 2, and use XGBoost 2.1, LightGBM 4.0 or later"
    )
    fails(ValueError, message, call, Multiclass(), method, np.zeros(shape), LABEL)


@pytest.mark.parametrize("method", NAMES)
def test_scores_of_another_number_of_classes(method):
    message = f"{NAMES[method][0]} has shape ({ROWS}, {CLASSES}); it must have shape ({ROWS}, 8)"
    for objective in (Multiclass(8), Multiclass(target=np.ones((ROWS, 8)))):
        fails(ValueError, message, call, objective, method, scores_of(method), LABEL)
    message = f"class_weight has shape (8,); it must have shape ({CLASSES},)"
    fails(ValueError, message, call, Multiclass(class_weight=np.ones(8)), method, scores_of(method), LABEL)


@pytest.mark.parametrize("method", NAMES)
def test_scores_on_a_gpu(method):
    class OnGpu:
        __cuda_array_interface__ = {}       # noqa: RUF012

    message = (
        f"{NAMES[method][0]} is on a GPU, and xent computes on the CPU: train with device='cpu', or use the library's "
        "own objective"
    )
    fails(TypeError, message, call, Multiclass(), method, OnGpu(), LABEL)


def test_scores_of_a_wrong_type():
    message = "predt has dtype complex128; it must be real numbers, float32 or float64"
    fails(TypeError, message, call, Multiclass(), "xgboost", np.zeros((2, 3), complex), [0, 1])


@pytest.mark.parametrize("method", NAMES)
@pytest.mark.parametrize("value", [nan, inf])
def test_a_gradient_of_nan_is_an_error(method, value, monkeypatch):
    monkeypatch.setattr(boosting, "BLOCK_ELEMENTS", 20 * CLASSES)
    scores = scores_of(method).copy()
    scores[170, 3] = value
    message = f"{NAMES[method][0]}[170, 3] is {value}; it must be finite"
    fails(ValueError, message, call, Multiclass(), method, scores, LABEL)
    soft = SOFT.copy()
    soft[170, 3] = nan
    message = "target[170, 3] is nan; it must be finite"
    fails(ValueError, message, call, Multiclass(target=soft), method, scores_of(method), LABEL)
    message = f"{NAMES[method][1]}[170, 3] is nan; it must be finite"
    fails(ValueError, message, call, Multiclass(), method, scores_of(method), soft)


def test_a_score_of_minus_infinity_is_a_class_that_cannot_occur():
    scores = np.array([[0.0, 0.0, -inf], [0.0, 0.0, -inf]])
    grad, hess = call(Multiclass(), "lightgbm", scores, np.array([0.0, 2.0]))
    np.testing.assert_array_equal(grad, np.array([[-0.5, 0.5, 0], [0.5, 0.5, -1]], np.float32))
    np.testing.assert_array_equal(hess, np.array([[0.375, 0.375, 0], [0.375, 0.375, 0]], np.float32))


# --- the object ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "message", "options"),
    [
        (ValueError, "n_classes is 1; it must be at least 2", {"n_classes": 1}),
        (TypeError, "n_classes is 3.0; it must be an integer", {"n_classes": 3.0}),
        (ValueError, "label_smoothing is 1.5; it must be in [0, 1]", {"label_smoothing": 1.5}),
        (ValueError, "n_threads is 0; it must be at least 1", {"n_threads": 0}),
        (ValueError, "class_weight[1] is -1.0; weights must be at least 0", {"class_weight": [1.0, -1.0]}),
        (ValueError, "class_weight has shape (2,); it must have shape (3,)", {"n_classes": 3, "class_weight": [1, 2]}),
        (ValueError, "class_weight has shape (1, 2); it must have shape (classes,)", {"class_weight": [[1, 2]]}),
        (
            ValueError, "class_weight has shape (2,); it must have shape (3,)",
            {"target": np.ones((4, 3)), "class_weight": [1, 2]},
        ),
        (
            ValueError, "target has shape (4,); it must have shape (rows, classes), a distribution for each row",
            {"target": np.ones(4)},
        ),
        (
            ValueError, "target has shape (4, 1); it must have shape (rows, classes), a distribution for each row",
            {"target": np.ones((4, 1))},
        ),
        (
            ValueError, "target has shape (4, 2); it must have shape (rows, 3), a distribution for each row",
            {"target": np.ones((4, 2)), "n_classes": 3},
        ),
    ],
)  # fmt: skip
def test_bad_parameters(error, message, options):
    fails(error, message, Multiclass, **options)


@pytest.mark.parametrize("method", NAMES)
def test_pickles(method):
    """Of the methods, as estimators hold them."""
    wanted = call(Multiclass(**OPTIONS["all"]), method, scores_of(method), LABEL, WEIGHT)
    function = pickle.loads(pickle.dumps(getattr(Multiclass(**OPTIONS["all"]), method)))
    for a, b in zip(call(function.__self__, method, scores_of(method), LABEL, WEIGHT), wanted, strict=True):
        reference.assert_same_bits(a, b)


def test_copies_share_the_target():
    objective = Multiclass(target=SOFT)
    assert copy.deepcopy({"objective": objective.lightgbm})["objective"].__self__ is objective


def test_no_library_is_imported(python):
    script = """
import sys
import xent.boosting
print({"xgboost", "lightgbm", "sklearn", "pandas"} & set(sys.modules))
"""
    assert python(script) == "set()"
