"""Predictions, probabilities and scores, of coefficients that were fitted or set by hand."""

import tracemalloc

import numpy as np
import pytest

import xent

X = np.random.default_rng(0).normal(size=(60, 3))
Y = np.arange(60) % 3



def test_log_probabilities_are_exact():
    model = xent.LogisticRegression(C=1e9, tol=1e-3).fit([[0.0], [1.0], [2.0], [3.0]], [0, 0, 1, 1])
    rows = np.array([[-1e4], [1e4]])
    score = model.decision_function(rows)
    np.testing.assert_allclose(model.predict_log_proba(rows), -np.logaddexp(0, np.c_[score, -score]), rtol=1e-14)
    assert (model.predict_log_proba(rows) < 0).any(axis=1).all()
    assert (model.predict_proba(rows).sum(axis=1) == 1).all()


def test_score_without_any_weight(blobs):
    X, y = blobs
    model = xent.LogisticRegression().fit(X, y)
    with pytest.raises(ValueError, match="sample_weight is 0 for every sample"):
        model.score(X, y, np.zeros(300))
    assert model.score(X, y, np.full(300, 1e308)) == model.score(X, y)


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


# --- coefficients set by hand ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("fitted", [True, False])
@pytest.mark.parametrize("intercept", [0.5, np.float32(0.5), np.array(0.5), [0.5], np.array([0.5])])
@pytest.mark.parametrize("coef", [[1, -2, 3], np.array([1.0, -2.0, 3.0]), np.array([[1.0, -2.0, 3.0]], np.float32)])
def test_coefficients_set_by_hand(coef, intercept, fitted, tmp_path):
    model = xent.LogisticRegression(warm_start=True, max_iter=0, tol=10)
    if fitted:
        model.fit(X, Y > 0)
    model.classes_, model.coef_, model.intercept_ = np.array([False, True]), coef, intercept
    scores = X @ [1.0, -2.0, 3.0] + 0.5
    np.testing.assert_allclose(model.decision_function(X), scores, rtol=1e-12)
    np.testing.assert_array_equal(model.predict(X), scores > 0)
    np.testing.assert_allclose(model.predict_proba(X)[:, 1], 1 / (1 + np.exp(-scores)), rtol=1e-12)
    assert model.score(X, scores > 0) == 1
    if fitted:
        model.save(tmp_path / "model")
        twin = xent.LogisticRegression.load(tmp_path / "model")
        np.testing.assert_array_equal(twin.decision_function(X), model.decision_function(X))
        model.fit(X, Y > 0)
        np.testing.assert_array_equal(model.coef_, [[1, -2, 3]])
    else:
        with pytest.raises(ValueError, match=r"^the estimator has no n_iter_, n_features_in_, .*call fit first"):
            model.save(tmp_path / "model")


@pytest.mark.parametrize(
    ("coef", "intercept", "message"),
    [
        (np.ones(3), np.zeros(3), r"^coef_ has shape \(3,\); for 3 classes it must have shape \(3, n_features\)"),
        (np.ones((2, 3)), np.zeros(3), r"^coef_ has shape \(2, 3\); for 3 classes it must have shape \(3, n_"),
        (np.ones((3, 3)), np.zeros(2), r"^intercept_ has shape \(2,\); for 3 classes it must have shape \(3,\) or be"),
        (np.ones((3, 3)), np.zeros((3, 1)), r"^intercept_ has shape \(3, 1\); for 3 classes it must have shape \(3,\)"),
        (np.ones((3, 3)), "0", "^intercept_ has dtype <U1"),
        (np.ones((3, 4)), np.zeros(3), "X has 3 features, but LogisticRegression is expecting 4|coef_ has shape"),
    ],
)
def test_coefficients_that_do_not_fit(coef, intercept, message, tmp_path):
    model = xent.LogisticRegression().fit(X, Y)
    model.coef_, model.intercept_ = coef, intercept
    for call in (
        model.predict,
        model.predict_proba,
        model.decision_function,
        lambda X: model.score(X, Y),
        lambda X: model.partial_fit(X, Y),
        lambda X: model.save(tmp_path / "model"),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            call(X)


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
