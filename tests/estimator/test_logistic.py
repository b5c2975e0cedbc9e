"""Fits of the estimator: their optimum, options, layouts, and what they warn of."""

import tracemalloc

import numpy as np
import pytest

import xent

X_DIGITS, Y_DIGITS = xent.datasets.load_digits()


def objective_by_hand(X, y, coef, intercept, l2, weight=None):
    """Mean cross-entropy plus penalty and its gradients, in NumPy from the definition, one row a class."""
    weight = np.ones(len(y)) if weight is None else weight
    scores = X @ coef.T + intercept
    p = np.exp(scores - scores.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    slopes = (p - np.eye(p.shape[1])[y]) * weight[:, None] / weight.sum()
    loss = -(weight * np.log(p[np.arange(len(y)), y])).sum() / weight.sum() + l2 / 2 * (coef**2).sum()
    return loss, slopes.T @ X + l2 * coef, slopes.sum(0)


@pytest.mark.parametrize("C", [0.5, np.inf])
@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize("n_classes", [2, 3])
def test_fit_is_stationary(blobs, C, fit_intercept, n_classes):
    X, y = blobs
    y = np.minimum(y, n_classes - 1)
    model = xent.LogisticRegression(C=C, fit_intercept=fit_intercept, tol=1e-10, max_iter=1000)
    model.fit(X, y)
    coef, intercept = model.coef_, model.intercept_
    l2 = 1 / (C * len(y))
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


def test_max_iter_warns_and_says_what_to_do(blobs):
    with pytest.warns(xent.ConvergenceWarning, match=r"2 iterations .* tol=1e-10: max_iter was reached\. Raise max"):
        model = xent.LogisticRegression(tol=1e-10, max_iter=2).fit(*blobs)
    assert not model.converged_


def test_warnings_say_what_has_happened_and_what_helps(blobs):
    X, y = blobs
    X = X * np.logspace(-3, 3, 5)
    with pytest.warns(xent.ConvergenceWarning, match=r"descent\. Raise tol, or scale the features, or pass X as"):
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


def test_warm_start_goes_on(blobs):
    X, y = blobs
    model = xent.LogisticRegression(tol=1e-8, warm_start=True).fit(X, y)
    coef = model.coef_.copy()
    model.fit(X, y)
    assert model.n_iter_[0] == 0
    np.testing.assert_allclose(model.coef_, coef, rtol=1e-12)


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


def test_numbers_too_large_end_in_one_warning(blobs):
    X, y = blobs
    with pytest.warns(xent.ConvergenceWarning, match=r"not a finite number\. Scale the features$"):
        model = xent.LogisticRegression().fit(X * 1e300, y)
    assert np.isfinite(model.coef_).all()


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
@pytest.mark.parametrize("solver", ["auto", "lbfgs", "newton-cg"])
def test_separable_data_is_said_to_be_so(labels, tol, solver):
    X = np.array([[-2.0, 1.0], [-1.0, -3.0], [1.0, 0.0], [2.0, 0.5]])
    model = xent.LogisticRegression(C=np.inf, tol=tol, solver=solver)
    with pytest.warns(xent.ConvergenceWarning, match="linearly separable: .* no minimum.*Set C to a finite") as caught:
        model.fit(X, labels)
    assert len(caught) == 1
    assert np.isfinite(model.coef_).all()
    assert model.score(X, labels) == 1
    xent.LogisticRegression(C=1e3, max_iter=1000, solver=solver).fit(X, labels)     # no warning


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


def test_class_weights_of_a_class_that_is_not_there(blobs):
    """As in a fold without it."""
    X, y = blobs
    weights = {0: 2.0, 1: 1.0, 2: 0.5, 9: 7.0}
    one = xent.LogisticRegression(class_weight=weights).fit(X, y)
    np.testing.assert_array_equal(one.coef_, xent.LogisticRegression(class_weight={0: 2.0, 2: 0.5}).fit(X, y).coef_)


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
