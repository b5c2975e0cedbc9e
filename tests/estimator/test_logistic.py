"""The estimator and its objective."""

import sys
import tracemalloc
import warnings

import numpy as np
import pytest

import xent
from xent._fit.objective import Objective

X_DIGITS, Y_DIGITS = xent.datasets.load_digits()


@pytest.fixture
def blobs():
    """Three overlapping classes: a well-conditioned problem."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 300)
    return rng.normal(size=(300, 5)) + np.eye(3, 5)[y], y


def objective_by_hand(X, y, coef, intercept, l2, weight=None):
    """Mean cross-entropy plus penalty and its gradients, in NumPy from the definition, one row a class."""
    weight = np.ones(len(y)) if weight is None else weight
    scores = X @ coef.T + intercept
    p = np.exp(scores - scores.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    slopes = (p - np.eye(p.shape[1])[y]) * weight[:, None] / weight.sum()
    loss = -(weight * np.log(p[np.arange(len(y)), y])).sum() / weight.sum() + l2 / 2 * (coef**2).sum()
    return loss, slopes.T @ X + l2 * coef, slopes.sum(0)


@pytest.mark.parametrize("penalty", ["l2", None])
@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize("n_classes", [2, 3])
def test_fit_is_stationary(blobs, penalty, fit_intercept, n_classes):
    X, y = blobs
    y = np.minimum(y, n_classes - 1)
    model = xent.LogisticRegression(C=0.5, penalty=penalty, fit_intercept=fit_intercept, tol=1e-10, max_iter=1000)
    model.fit(X, y)
    coef, intercept = model.coef_, model.intercept_
    l2 = 0.0 if penalty is None else 1 / (0.5 * len(y))
    if n_classes == 2:      # one row stands for the difference of two: the penalty is on that
        coef, intercept = np.array([-coef[0] / 2, coef[0] / 2]), np.array([-intercept[0] / 2, intercept[0] / 2])
        l2 *= 2
    loss, slope, slope_of_intercept = objective_by_hand(X, y, coef, intercept, l2)
    np.testing.assert_allclose(slope, 0, atol=1e-9)
    assert model.objective_ == pytest.approx(loss, rel=1e-12)
    assert model.converged_
    assert model.grad_norm_ <= 1e-10
    if fit_intercept:
        np.testing.assert_allclose(slope_of_intercept, 0, atol=1e-9)
    else:
        np.testing.assert_array_equal(model.intercept_, 0)
    if n_classes == 3:
        np.testing.assert_allclose(model.coef_.sum(0), 0, atol=1e-8)


@pytest.mark.parametrize("C", [1e-3, 1.0, 100.0])
@pytest.mark.parametrize("labels", [2, 3])
def test_coefficients_are_scikit_learns(blobs, C, labels):
    linear_model = pytest.importorskip("sklearn.linear_model")
    X, y = blobs
    y = np.minimum(y, labels - 1)
    weight = np.random.default_rng(4).uniform(0, 2, len(y))
    ours = xent.LogisticRegression(C=C, tol=1e-10, max_iter=1000).fit(X, y, weight)
    theirs = linear_model.LogisticRegression(C=C, tol=1e-10, solver="newton-cholesky").fit(X, y, weight)
    np.testing.assert_allclose(ours.coef_, theirs.coef_, atol=1e-7)
    np.testing.assert_allclose(ours.intercept_, theirs.intercept_, atol=1e-7)
    np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), atol=1e-7)
    np.testing.assert_allclose(ours.decision_function(X), theirs.decision_function(X), atol=1e-6)
    assert ours.score(X, y, weight) == theirs.score(X, y, weight)
    for name in ("coef_", "intercept_", "classes_", "n_iter_"):
        assert getattr(ours, name).shape == getattr(theirs, name).shape


@pytest.mark.parametrize("weights", ["balanced", {0: 2.0, 2: 0.5}])
def test_class_weights_are_sample_weights(blobs, weights):
    X, y = blobs
    per_class = {0: 2.0, 1: 1.0, 2: 0.5}
    if weights == "balanced":
        per_class = {k: len(y) / (3 * (y == k).sum()) for k in range(3)}
    ours = xent.LogisticRegression(class_weight=weights, tol=1e-10, max_iter=500).fit(X, y)
    twin = xent.LogisticRegression(tol=1e-10, max_iter=500).fit(X, y, [per_class[k] for k in y])
    np.testing.assert_allclose(ours.coef_, twin.coef_, atol=1e-8)


def test_weight_zero_is_absence(blobs):
    X, y = blobs
    weight = (np.arange(len(y)) % 3 > 0).astype(float)
    ours = xent.LogisticRegression(tol=1e-10, max_iter=500).fit(X, y, weight)
    twin = xent.LogisticRegression(tol=1e-10, max_iter=500).fit(X[weight > 0], y[weight > 0])
    np.testing.assert_allclose(ours.coef_, twin.coef_, atol=1e-8)


@pytest.mark.parametrize(
    "labels",
    [
        np.array(["ash", "birch", "cedar"]),
        np.array(["ash", "birch", "cedar"], object),
        np.array([-5, 0, 1000]),
        np.array([0.0, 1.0, 2.0]),
        np.array([3, 1, 2], np.uint8),
        np.array([b"a", b"b", b"c"]),
    ],
    ids=lambda labels: str(labels.dtype),
)
def test_labels_of_any_type(blobs, labels):
    X, y = blobs
    plain = xent.LogisticRegression(tol=1e-8).fit(X, y)
    model = xent.LogisticRegression(tol=1e-8).fit(X, labels[y])
    assert model.classes_.tolist() == sorted(labels.tolist())
    assert model.predict(X).tolist() == labels[plain.predict(X)].tolist()
    assert model.score(X, labels[y]) == plain.score(X, y)


def test_bool_labels_are_two_classes(blobs):
    X, y = blobs
    model = xent.LogisticRegression().fit(X, y > 0)
    assert model.classes_.tolist() == [False, True]
    assert model.predict(X).dtype == bool
    assert model.decision_function(X).shape == (300,)


def test_log_probabilities_are_exact():
    model = xent.LogisticRegression(C=1e9, tol=1e-3).fit([[0.0], [1.0], [2.0], [3.0]], [0, 0, 1, 1])
    rows = np.array([[-1e4], [1e4]])
    score = model.decision_function(rows)
    np.testing.assert_allclose(model.predict_log_proba(rows), -np.logaddexp(0, np.c_[score, -score]), rtol=1e-14)
    assert (model.predict_log_proba(rows) < 0).any(axis=1).all()
    assert (model.predict_proba(rows).sum(axis=1) == 1).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_digits(dtype):
    X = X_DIGITS.astype(dtype)
    model = xent.LogisticRegression().fit(X[:1350], Y_DIGITS[:1350])
    assert model.coef_.dtype == model.intercept_.dtype == dtype
    assert model.predict_proba(X).dtype == dtype
    assert model.converged_
    assert model.score(X[:1350], Y_DIGITS[:1350]) > 0.995
    assert model.score(X[1350:], Y_DIGITS[1350:]) > 0.88


@pytest.mark.parametrize(
    "change",
    [np.asfortranarray, lambda X: np.repeat(X, 2, axis=1)[:, ::2], lambda X: X.tolist(), lambda X: X[::-1][::-1]],
    ids=["fortran", "strided", "list", "reversed twice"],
)
def test_layouts(blobs, change):
    X, y = blobs
    plain = xent.LogisticRegression(tol=1e-10).fit(X, y)
    model = xent.LogisticRegression(tol=1e-10).fit(change(X), y)
    np.testing.assert_allclose(model.coef_, plain.coef_, atol=1e-9)


def test_read_only_memory_map(blobs, tmp_path):
    X, y = blobs
    np.save(tmp_path / "X.npy", X)
    X_map = np.load(tmp_path / "X.npy", mmap_mode="r")
    mapped, plain = xent.LogisticRegression().fit(X_map, y), xent.LogisticRegression().fit(X, y)
    np.testing.assert_array_equal(mapped.coef_, plain.coef_)


def test_integer_features():
    X, y = X_DIGITS[:300].astype(np.int8), Y_DIGITS[:300]
    np.testing.assert_array_equal(
        xent.LogisticRegression().fit(X, y).coef_, xent.LogisticRegression().fit(X.astype(float), y).coef_
    )


def test_inputs_are_not_changed_and_logits_never_exist_whole():
    rng = np.random.default_rng(5)
    X, y = rng.normal(size=(50_000, 4)), rng.integers(0, 60, 50_000)
    before = X.copy()
    tracemalloc.start()
    xent.LogisticRegression(max_iter=3, tol=1e-2).fit(X, y)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    np.testing.assert_array_equal(X, before)
    assert peak < 50_000 * 60 * 8 / 2


def test_callback_and_first_loss(blobs):
    X, y = blobs
    seen = []
    model = xent.LogisticRegression().fit(X, y, callback=seen.append)
    assert seen[0].loss == pytest.approx(np.log(3), rel=1e-15)
    assert [p.iteration for p in seen] == list(range(int(model.n_iter_[0]) + 1))
    assert seen[-1].loss == model.objective_


def test_verbose_prints(blobs, capsys):
    xent.LogisticRegression(verbose=1).fit(*blobs)
    assert "iteration 0: loss 1.0986" in capsys.readouterr().out


def test_max_iter_warns_and_says_what_to_do(blobs):
    with pytest.warns(xent.ConvergenceWarning, match=r"2 iterations .* tol=1e-10: max_iter was reached\. Raise max"):
        model = xent.LogisticRegression(tol=1e-10, max_iter=2).fit(*blobs)
    assert not model.converged_


def test_warnings_say_what_has_happened_and_what_helps(blobs):
    X, y = blobs
    X = X * np.logspace(-3, 3, 5)
    with pytest.warns(xent.ConvergenceWarning, match=r"descent\. Raise tol, or scale the features, or let X be"):
        model = xent.LogisticRegression(tol=1e-12, max_iter=1000).fit(X.astype(np.float32), y)
    assert 0 < model.n_iter_[0] < 1000
    with pytest.warns(xent.ConvergenceWarning, match=r"hide the descent\. Raise tol, or scale the features$"):
        model = xent.LogisticRegression(tol=1e-300, max_iter=1000).fit(X, y)
    assert 0 < model.n_iter_[0] < 1000
    for solver in ("auto", "lbfgs", "newton-cg"):
        for max_iter in (0, 3):
            message = rf"after {max_iter} iterations .*: max_iter was reached\. Raise max_iter"
            with pytest.warns(xent.ConvergenceWarning, match=message):
                model = xent.LogisticRegression(tol=1e-12, max_iter=max_iter, solver=solver).fit(X, y)
            assert model.n_iter_[0] == max_iter


@pytest.mark.parametrize("solver", ["auto", "lbfgs", "newton-cg"])
def test_separable_classes_are_said_to_be(solver):
    X, y = np.array([[-2.0], [-1.0], [1.0], [2.0]]), [0, 0, 1, 1]
    with pytest.warns(xent.ConvergenceWarning, match="linearly separable"):
        xent.LogisticRegression(C=np.inf, solver=solver).fit(X, y)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        xent.LogisticRegression(C=1e6, solver=solver).fit(X, y)


def test_warm_start_goes_on(blobs):
    X, y = blobs
    model = xent.LogisticRegression(tol=1e-8, warm_start=True).fit(X, y)
    coef = model.coef_.copy()
    model.fit(X, y)
    assert model.n_iter_[0] == 0
    np.testing.assert_allclose(model.coef_, coef, rtol=1e-12)


def test_separable_data_without_penalty_is_finite():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", xent.ConvergenceWarning)    # there is no minimum to converge to
        model = xent.LogisticRegression(penalty=None, max_iter=30).fit([[-2.0], [-1.0], [1.0], [2.0]], [0, 0, 1, 1])
    assert np.isfinite(model.coef_).all()
    assert model.score([[-3.0], [3.0]], [0, 1]) == 1


def test_constant_and_duplicate_features(blobs):
    X, y = blobs
    X = np.c_[X, X[:, 0], np.zeros(len(X)), np.ones(len(X))]
    for penalty in ("l2", None):
        model = xent.LogisticRegression(penalty=penalty, tol=1e-8, max_iter=500).fit(X, y)
        assert model.converged_
        assert np.isfinite(model.coef_).all()


def test_badly_scaled_features(blobs):
    X, y = blobs
    scale = np.logspace(-3, 3, 5)
    plain = xent.LogisticRegression(penalty=None, tol=1e-9).fit(X, y)
    model = xent.LogisticRegression(penalty=None, tol=1e-9, max_iter=300).fit(X * scale, y)
    assert model.converged_
    np.testing.assert_allclose(model.predict_proba(X * scale), plain.predict_proba(X), atol=1e-4)


def test_more_features_than_samples():
    rng = np.random.default_rng(6)
    X, y = rng.normal(size=(20, 200)), rng.integers(0, 3, 20)
    model = xent.LogisticRegression(tol=1e-8, max_iter=1000).fit(X, y)
    assert model.converged_


def test_threads_do_not_matter():
    one = xent.LogisticRegression(n_jobs=1, tol=1e-2).fit(X_DIGITS, Y_DIGITS)
    two = xent.LogisticRegression(n_jobs=2, tol=1e-2).fit(X_DIGITS, Y_DIGITS)
    np.testing.assert_array_equal(one.coef_, two.coef_)


def test_parameters(blobs):
    model = xent.LogisticRegression(C=2.0, max_iter=7)
    assert model.get_params()["C"] == 2.0
    assert model.set_params(C=3.0) is model
    assert repr(model) == "LogisticRegression(C=3.0, max_iter=7)"
    assert type(model)(**model.get_params()).get_params() == model.get_params()
    with pytest.raises(ValueError, match="'alpha' is not a parameter"):
        model.set_params(alpha=1)


BAD_PARAMETERS = [
    ({"C": 0}, ValueError, "C is 0; it must be greater than 0"),
    ({"C": "big"}, TypeError, "C is 'big'; it must be a real number"),
    ({"C": float("nan")}, ValueError, "C is nan"),
    ({"penalty": "l1"}, ValueError, "penalty is 'l1'; it must be 'l2' or None"),
    ({"solver": "saga"}, ValueError, "solver is 'saga'; it must be one of 'auto', 'lbfgs'"),
    ({"tol": 0}, ValueError, "tol is 0"),
    ({"max_iter": -1}, ValueError, "max_iter is -1"),
    ({"max_iter": 1.5}, TypeError, "max_iter is 1.5; it must be an integer"),
    ({"n_jobs": 0}, ValueError, "n_jobs is 0; it must be at least 1, negative "),
    ({"C": 10**400}, ValueError, "C is larger than a float can be"),
    ({"class_weight": {0: None}}, TypeError, r"class_weight\[0\] is None; it must be a real number"),
    ({"class_weight": {9: 1.0}}, ValueError, "class_weight names 9, which is not a label"),
    ({"class_weight": {0: -1.0}}, ValueError, r"class_weight\[0\] is -1.0"),
    ({"class_weight": "even"}, ValueError, "class_weight is 'even'"),
]


@pytest.mark.parametrize(("parameters", "error", "message"), BAD_PARAMETERS)
def test_bad_parameters(blobs, parameters, error, message):
    with pytest.raises(error, match=message):
        xent.LogisticRegression(**parameters).fit(*blobs)


BAD_DATA = [
    (lambda X, y: (np.where(np.arange(5) == 2, np.nan, X), y), r"X\[0, 2\] is nan; it must be finite"),
    (lambda X, y: (np.where(np.arange(5) == 2, np.inf, X), y), r"X\[0, 2\] is inf"),
    (lambda X, y: (X[:, 0], y), "X has 1 dimensions"),
    (lambda X, y: (X[:0], y[:0]), "at least one sample"),
    (lambda X, y: (X, y[:-1]), r"y has shape \(299,\); it must have shape \(300,\)"),
    (lambda X, y: (X, np.zeros(300)), "one class only"),
    (lambda X, y: (X, y + 0.5), r"y\[0\] is \d.5; labels must be"),
    (lambda X, y: (X, np.where(np.arange(300) == 7, np.inf, y)), r"y\[7\] is inf; labels must be"),
    (lambda X, y: (X, [np.nan if i == 7 else v for i, v in enumerate(y)]), r"y\[7\] is nan; labels must be"),
    (lambda X, y: (X, np.array([None if i == 7 else "a" for i in y * 0 + np.arange(300)], object)), r"y\[7\] is None"),
    (lambda X, y: (X, np.array([np.nan if i == 7 else "ab"[i % 2] for i in range(300)], object)), r"y\[7\] is nan"),
    (lambda X, y: (X, np.array(["NaT" if i == 7 else "2020-01-01" for i in range(300)], "M8[D]")), r"y\[7\] is NaT"),
    (lambda X, y: (X, y, np.full(300, -1.0)), r"sample_weight\[0\] is -1.0"),
    (lambda X, y: (X, y, np.ones(3)), "sample_weight has shape"),
    (lambda X, y: (X, y, np.zeros(300)), "is 0 for every sample"),
]


@pytest.mark.parametrize(("spoil", "message"), BAD_DATA)
def test_bad_data_leaves_a_fitted_estimator_alone(blobs, spoil, message):
    X, y = blobs
    model = xent.LogisticRegression().fit(X, y)
    coef = model.coef_.copy()
    with pytest.raises(ValueError, match=message):
        model.fit(*spoil(X, y))
    np.testing.assert_array_equal(model.coef_, coef)


def test_numbers_too_large_end_in_one_warning(blobs):
    X, y = blobs
    with pytest.warns(xent.ConvergenceWarning, match=r"not a finite number\. Scale the features$"):
        model = xent.LogisticRegression().fit(X * 1e300, y)
    assert np.isfinite(model.coef_).all()


def test_score_without_any_weight(blobs):
    X, y = blobs
    model = xent.LogisticRegression().fit(X, y)
    with pytest.raises(ValueError, match="sample_weight is 0 for every sample"):
        model.score(X, y, np.zeros(300))
    assert model.score(X, y, np.full(300, 1e308)) == model.score(X, y)


def test_bad_data_types(blobs):
    X, y = blobs
    with pytest.raises(ValueError, match="X has dtype complex128; it must be real numbers"):
        xent.LogisticRegression().fit(X * 1j, y)
    with pytest.raises(TypeError, match="y has labels that cannot be sorted"):
        xent.LogisticRegression().fit(X[:2], np.array(["a", 1], object))


def test_use_before_fit_and_other_width(blobs):
    X, y = blobs
    with pytest.raises(xent.NotFittedError, match="not fitted yet"):
        xent.LogisticRegression().predict(X)
    with pytest.raises(ValueError, match="X has 4 features, but LogisticRegression is expecting 5"):
        xent.LogisticRegression().fit(X, y).predict(X[:, :4])


def test_memory_of_prediction():
    """What is returned, and a block."""
    rng = np.random.default_rng(7)
    X = rng.normal(size=(100_000, 20))[:, ::2]      # strided: a product would copy all of it
    model = xent.LogisticRegression().fit(X[:2000], np.arange(2000) % 30)
    for method, returned in ((model.predict, 8), (model.predict_proba, 30 * 8), (model.predict_log_proba, 30 * 8)):
        tracemalloc.start()
        method(X)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 100_000 * returned + 16e6


def test_predictions_do_not_depend_on_the_blocks(blobs, monkeypatch):
    X, y = blobs
    model = xent.LogisticRegression().fit(X, y)
    whole = model.predict(X), model.predict_proba(X), model.decision_function(X)
    monkeypatch.setattr("xent._fit.logits.BLOCK_ELEMENTS", 1)
    for one, two in zip(whole, (model.predict(X), model.predict_proba(X), model.decision_function(X)), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-13)


# --- distributions ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("weights", [None, "balanced", {0: 2.0, 1: 0.5}])
def test_one_hot_distributions_are_labels(blobs, n_classes, weights):
    X, y = blobs
    y = np.minimum(y, n_classes - 1)
    weight = np.random.default_rng(8).uniform(0, 2, len(y))
    hard = xent.LogisticRegression(class_weight=weights, tol=1e-10, max_iter=500).fit(X, y, weight)
    for dtype in (np.float16, np.float32, np.float64):
        soft = xent.LogisticRegression(class_weight=weights, tol=1e-10, max_iter=500)
        soft.fit(X, np.asfortranarray(np.eye(n_classes, dtype=dtype)[y]), weight)
        np.testing.assert_allclose(soft.coef_, hard.coef_, atol=1e-7)
        assert soft.objective_ == pytest.approx(hard.objective_, rel=1e-10)
        assert soft.classes_.tolist() == list(range(n_classes))
    assert soft.score(X, np.eye(n_classes)[y], weight) == pytest.approx(hard.score(X, y, weight))


@pytest.mark.parametrize("n_classes", [2, 4])
def test_distributions_are_weighted_labels(n_classes):
    """Each row of a distribution is so many rows of labels, as heavy as it says."""
    rng = np.random.default_rng(9)
    X, t = rng.normal(size=(80, 3)), rng.dirichlet(np.ones(n_classes), 80)
    class_weight = {0: 3.0, 1: 0.5}
    soft = xent.LogisticRegression(class_weight=class_weight, tol=1e-10, max_iter=500).fit(X, t)
    hard = xent.LogisticRegression(class_weight=class_weight, tol=1e-10, max_iter=500)
    hard.fit(np.repeat(X, n_classes, axis=0), np.tile(np.arange(n_classes), 80), t.ravel())
    np.testing.assert_allclose(soft.coef_, hard.coef_, atol=1e-7)
    np.testing.assert_allclose(soft.intercept_, hard.intercept_, atol=1e-7)
    assert soft.objective_ == pytest.approx(hard.objective_, rel=1e-10)


@pytest.mark.parametrize(
    ("y", "message"),
    [
        ([[0.5, 0.5], [0.5, 0.6]], r"^y\[1\] sums to 1.1; each row must sum to 1 \(use sample_weight to weight rows\)"),
        ([[0.5, 0.5], [1.5, -0.5]], r"^y\[1, 1\] is -0.5; probabilities must be at least 0"),
        ([[0.5, 0.5], [np.nan, 1]], r"^y\[1, 0\] is nan"),
        ([[0.5, 0.5]], r"^y has shape \(1, 2\); it must have 2 rows"),
        ([[0, 1], [1, 0]], r"^y should be a 1d array of labels, or floats or bools of shape \(n_samples, n_classes\)"),
        ([[[0.5, 0.5]] * 2], r"^y should be a 1d array"),
    ],
)
def test_bad_distributions(y, message):
    with pytest.raises(ValueError, match=message):
        xent.LogisticRegression().fit([[0.0], [1.0]], y)


# --- interrupts and progress -----------------------------------------------------------------------------------------


class Stop:
    """Ctrl-C in an iteration."""

    def __init__(self, iteration):
        self.iteration = iteration
        self.losses = []

    def __call__(self, progress):
        self.losses.append(progress.loss)
        if progress.iteration == self.iteration:
            raise KeyboardInterrupt


def test_ctrl_c_keeps_the_best_so_far(blobs):
    X, y = blobs
    whole = xent.LogisticRegression(tol=1e-9, max_iter=200).fit(X, y)
    model, stop = xent.LogisticRegression(tol=1e-9, max_iter=200, warm_start=True), Stop(3)
    with pytest.raises(KeyboardInterrupt):
        model.fit(X, y, callback=stop)
    assert not model.converged_
    assert model.n_iter_.tolist() == [3]
    assert model.objective_ <= min(stop.losses)
    loss = objective_by_hand(X, y, model.coef_, model.intercept_, 1 / len(y))[0]
    assert model.objective_ == pytest.approx(loss, rel=1e-12)
    assert model.score(X, y) > 0.5
    model.fit(X, y)
    assert model.converged_
    np.testing.assert_allclose(model.coef_, whole.coef_, atol=1e-6)
    assert model.n_iter_[0] < whole.n_iter_[0]


def test_ctrl_c_within_an_evaluation(blobs, monkeypatch):
    """Before the first one is done there is nothing to keep; later, what the last one found."""
    X, y = blobs
    model = xent.LogisticRegression(tol=1e-9)
    plain, calls = Objective.__call__, []

    def interrupted(self, x):
        calls.append(1)
        if len(calls) == limit:
            raise KeyboardInterrupt
        return plain(self, x)

    monkeypatch.setattr(Objective, "__call__", interrupted)
    limit = 1
    with pytest.raises(KeyboardInterrupt):
        model.fit(X, y)
    assert not hasattr(model, "coef_")
    calls.clear()
    limit = 5
    with pytest.raises(KeyboardInterrupt):
        model.fit(X, y)
    assert np.abs(model.coef_).max() > 0.1
    before, curvature = model.coef_.copy(), model._curvature
    calls.clear()
    with pytest.raises(KeyboardInterrupt):
        model.partial_fit(X * 2, y)
    assert (model.coef_ != before).any()
    assert curvature is None
    assert model._curvature is not None


def test_another_error_on_the_way_leaves_the_estimator_alone(blobs):
    X, y = blobs
    model = xent.LogisticRegression().fit(X, y)
    before = dict(vars(model))
    with pytest.raises(ZeroDivisionError):
        model.fit(X * 2, y, callback=lambda progress: 1 / (2 - progress.iteration))
    assert vars(model) == before


@pytest.mark.parametrize("bar", [True, False])
def test_verbose(blobs, capsys, monkeypatch, bar):
    pytest.importorskip("tqdm")
    monkeypatch.setattr("sys.stderr.isatty", lambda: bar, raising=False)
    seen = []
    model = xent.LogisticRegression(verbose=1).fit(*blobs, callback=seen.append)
    out, err = capsys.readouterr()
    shown = err if bar else out
    for word in ("loss", "gradient", f"{model.objective_:.6f}", f"{model.grad_norm_:.{1 if bar else 2}e}"):
        assert word in shown
    assert (out == "") == bar
    assert (err == "") != bar
    assert len(seen) == model.n_iter_[0] + 1
    if bar:
        assert f"{model.n_iter_[0]}/{model.n_iter_[0]}" in err


def test_verbose_without_tqdm(blobs, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    xent.LogisticRegression(verbose=1).fit(*blobs)
    assert "iteration 1: loss 0." in capsys.readouterr().out


# --- the ends of C ---------------------------------------------------------------------------------------------------


def test_infinite_c_is_no_penalty(blobs):
    one, two = xent.LogisticRegression(C=np.inf, tol=1e-9), xent.LogisticRegression(penalty=None, tol=1e-9)
    np.testing.assert_array_equal(one.fit(*blobs).coef_, two.fit(*blobs).coef_)
    assert one.converged_


@pytest.mark.parametrize("C", [1e-6, 1e-3, 1e6])
@pytest.mark.parametrize("n_classes", [2, 3])
def test_extremes_of_c(blobs, C, n_classes):
    X, y = blobs[0], np.minimum(blobs[1], n_classes - 1)
    model = xent.LogisticRegression(C=C, tol=1e-9, max_iter=500).fit(X, y)
    assert model.converged_
    if C == 1e-6:       # far from the data's scale, the coefficients are C times the slope at zero
        share = np.bincount(y) / len(y)
        slope = (np.eye(n_classes)[y] - share).T @ X * C
        expected = slope if n_classes == 3 else slope[1:]
        np.testing.assert_allclose(model.coef_, expected, rtol=1e-2, atol=1e-8)


@pytest.mark.parametrize("labels", [[0, 0, 1, 1], [0, 1, 2, 2]])
@pytest.mark.parametrize("tol", [1e-4, 1e-300])
def test_separable_data_is_said_to_be_so(labels, tol):
    X = np.array([[-2.0, 1.0], [-1.0, -3.0], [1.0, 0.0], [2.0, 0.5]])
    model = xent.LogisticRegression(C=np.inf, tol=tol)
    with pytest.warns(xent.ConvergenceWarning, match="linearly separable: .* no minimum.*Set C to a finite") as caught:
        model.fit(X, labels)
    assert len(caught) == 1
    assert np.isfinite(model.coef_).all()
    assert model.score(X, labels) == 1
    xent.LogisticRegression(C=1e3, max_iter=1000).fit(X, labels)       # with a penalty there is nothing to warn of


def test_separable_but_for_a_row_without_weight():
    X, y = [[-2.0], [-1.0], [1.0], [2.0], [3.0]], [0, 0, 1, 1, 0]
    with pytest.warns(xent.ConvergenceWarning, match="linearly separable"):
        xent.LogisticRegression(C=np.inf).fit(X, y, [1, 1, 1, 1, 0])
    xent.LogisticRegression(C=np.inf).fit(X, y)


def test_warm_start_needs_the_same_classes(blobs):
    X, y = blobs
    model = xent.LogisticRegression(warm_start=True).fit(X, y)
    cold = xent.LogisticRegression().fit(X, 10 - y)
    np.testing.assert_array_equal(model.fit(X, 10 - y).coef_, cold.coef_)


def test_a_column_of_labels_warns(blobs):
    X, y = blobs
    with pytest.warns(UserWarning, match="A column-vector y was passed when a 1d array was expected"):
        model = xent.LogisticRegression().fit(X, y[:, None])
    np.testing.assert_array_equal(model.coef_, xent.LogisticRegression().fit(X, y).coef_)


def test_class_weights_of_a_class_that_is_not_there(blobs):
    """As in a fold without it."""
    X, y = blobs
    weights = {0: 2.0, 1: 1.0, 2: 0.5, 9: 7.0}
    one = xent.LogisticRegression(class_weight=weights).fit(X, y)
    np.testing.assert_array_equal(one.coef_, xent.LogisticRegression(class_weight={0: 2.0, 2: 0.5}).fit(X, y).coef_)


def test_weights_that_sum_to_too_much(blobs):
    X, y = blobs
    with pytest.raises(ValueError, match="has a sum that overflows float64"):
        xent.LogisticRegression().fit(X, y, np.full(len(y), 1e308))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_dense_features_are_not_copied(dtype):
    X = np.asfortranarray(np.random.default_rng(10).normal(size=(200_000, 20)).astype(dtype))
    y = np.arange(len(X)) % 2
    for given in (X, np.ascontiguousarray(X)):
        given.flags.writeable = False
        tracemalloc.start()
        xent.LogisticRegression(max_iter=2, tol=0.1).fit(given, y)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < given.nbytes / 2 + 8e6


def test_coefficients_from_elsewhere(blobs):
    """An estimator may be put together by hand, as scikit-learn's."""
    X, y = blobs
    fitted = xent.LogisticRegression().fit(X, y)
    model = xent.LogisticRegression()
    model.classes_, model.coef_, model.intercept_ = fitted.classes_, fitted.coef_, fitted.intercept_
    np.testing.assert_array_equal(model.predict_proba(X), fitted.predict_proba(X))
    model.partial_fit(X[:50], y[:50])
    with pytest.raises(ValueError, match="X has 4 features, but LogisticRegression is expecting 5"):
        model.predict(X[:, :4])
