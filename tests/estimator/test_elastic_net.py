"""LogisticRegression with L1 and elastic net: zeros, parameters, forms of the data, other libraries."""

import numpy as np
import pytest

import xent
from xent import Blocks

ROWS, FEATURES = 400, 12
TIGHT = {"tol": 1e-9, "max_iter": 200}


def problem(n_classes=3, dtype=np.float64):
    """Rows, labels and weights; half of the features say nothing."""
    random = np.random.default_rng(0)
    X = random.normal(size=(ROWS, FEATURES)) * (random.random((ROWS, FEATURES)) < 0.7)
    scores = X[:, :6] @ random.normal(size=(6, n_classes)) + random.gumbel(size=(ROWS, n_classes)) * 2
    return X.astype(dtype), scores.argmax(axis=1), random.uniform(0.5, 2, ROWS)


def objective(model, X, y, weight):
    """In float64, with scikit-learn's formula divided by C times the weight."""
    z = X.astype(np.float64) @ model.coef_.T.astype(np.float64) + model.intercept_
    z = np.hstack([np.zeros((len(z), 1)), z]) if z.shape[1] == 1 else z
    size = model.l1_ratio * np.abs(model.coef_).sum() + (1 - model.l1_ratio) / 2 * (model.coef_**2).sum()
    return xent.cross_entropy(z, y, sample_weight=weight) + size / (model.C * weight.sum())


def assert_same(model, other, tolerance=1e-6):
    np.testing.assert_allclose(model.coef_, other.coef_, rtol=0, atol=tolerance)
    np.testing.assert_allclose(model.intercept_, other.intercept_, rtol=0, atol=tolerance)


@pytest.mark.parametrize("n_classes", [2, 3])
def test_coefficients_are_exactly_zero(n_classes):
    X, y, weight = problem(n_classes)
    model = xent.LogisticRegression(C=0.1, l1_ratio=1, **TIGHT).fit(X, y, weight)
    assert model.converged_
    assert model.grad_norm_ <= 1e-9
    assert model.objective_ == pytest.approx(objective(model, X, y, weight), rel=1e-12)
    assert (model.coef_[:, 6:] == 0).mean() >= 0.5
    assert model.coef_[:, :6].any()
    assert not xent.LogisticRegression(C=1e-4, l1_ratio=1, **TIGHT).fit(X, y, weight).coef_.any()


@pytest.mark.parametrize("l1_ratio", [0.3, 1.0])
@pytest.mark.parametrize("fit_intercept", [False, True])
@pytest.mark.parametrize("n_classes", [2, 3])
def test_same_as_saga(n_classes, fit_intercept, l1_ratio):
    linear_model = pytest.importorskip("sklearn.linear_model")
    X, y, weight = problem(n_classes)
    arguments = {"C": 0.2, "l1_ratio": l1_ratio, "fit_intercept": fit_intercept}
    model = xent.LogisticRegression(**arguments, **TIGHT).fit(X, y, weight)
    peer = linear_model.LogisticRegression(**arguments, solver="saga", tol=1e-10, max_iter=20_000).fit(X, y, weight)
    np.testing.assert_allclose(model.coef_, peer.coef_, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(model.coef_ == 0, peer.coef_ == 0)


def test_names_of_the_penalty_and_of_solvers():
    X, y, _ = problem()
    expected = xent.LogisticRegression(C=0.1, l1_ratio=1).fit(X, y).coef_
    for other in ({"penalty": "l1"}, {"l1_ratio": 1, "solver": "lbfgs"}, {"penalty": "elasticnet", "l1_ratio": 1}):
        np.testing.assert_array_equal(xent.LogisticRegression(C=0.1, **other).fit(X, y).coef_, expected)
    assert xent.LogisticRegression(l1_ratio=0.0).fit(X, y).coef_.all()
    without = xent.LogisticRegression(C=np.inf, l1_ratio=1).fit(X, y)
    np.testing.assert_array_equal(without.coef_, xent.LogisticRegression(C=np.inf).fit(X, y).coef_)


@pytest.mark.parametrize("n_classes", [2, 3])
def test_forms_of_the_data(n_classes):
    """Sparse rows, blocks, and labels as distributions; weights and repeated rows."""
    sparse = pytest.importorskip("scipy.sparse")
    X, y, weight = problem(n_classes)
    model = xent.LogisticRegression(C=0.1, l1_ratio=0.8, **TIGHT)
    expected = xent.LogisticRegression(C=0.1, l1_ratio=0.8, **TIGHT).fit(X, y, weight)
    assert_same(model.fit(sparse.csr_array(X), y, weight), expected)
    assert_same(model.fit(sparse.csc_matrix(X), y, weight), expected)
    assert_same(model.fit(X, np.eye(n_classes)[y], weight), expected)
    assert_same(model.fit(Blocks.from_arrays(X, y, weight, rows=150)), expected)
    assert_same(model.fit(Blocks.from_arrays(sparse.csr_array(X), y, weight, rows=150)), expected)
    twice = np.repeat(np.arange(ROWS), np.arange(ROWS) % 3)
    counted = xent.LogisticRegression(C=0.1, l1_ratio=0.8, **TIGHT).fit(X, y, np.arange(ROWS) % 3)
    assert_same(model.fit(X[twice], y[twice]), counted)


@pytest.mark.parametrize("is_sparse", [False, True])
def test_float32(is_sparse):
    sparse = pytest.importorskip("scipy.sparse")
    X, y, weight = problem()
    expected = xent.LogisticRegression(C=0.1, l1_ratio=1, **TIGHT).fit(X, y, weight)
    rows = X.astype(np.float32)
    model = xent.LogisticRegression(C=0.1, l1_ratio=1, tol=1e-6).fit(
        sparse.csr_array(rows) if is_sparse else rows, y, weight
    )
    assert model.converged_
    assert model.coef_.dtype == np.float32
    assert_same(model, expected, 1e-4)


def test_warm_start_along_a_path():
    X, y, _ = problem()
    model = xent.LogisticRegression(l1_ratio=1, warm_start=True, **TIGHT)
    for C in (0.03, 0.1, 0.3):
        model.C = C
        model.fit(X, y)
        assert_same(model, xent.LogisticRegression(C=C, l1_ratio=1, **TIGHT).fit(X, y))
    model.fit(X, y)
    assert model.n_iter_[0] == 0


def test_a_weak_penalty_on_separated_rows():
    X = np.repeat(np.eye(3), 20, axis=0)
    y = np.repeat(np.arange(3), 20)
    model = xent.LogisticRegression(C=1e6, l1_ratio=1, tol=1e-7).fit(X, y)
    assert model.converged_
    assert np.isfinite(model.coef_).all()
    with pytest.warns(xent.ConvergenceWarning, match=r"^the fit .*reached\. Raise max_iter or tol, or su"):
        xent.LogisticRegression(C=1e6, l1_ratio=1, solver="lbfgs", tol=1e-12, max_iter=1).fit(X, y)


def test_streams_have_no_kinks():
    X, y, _ = problem()
    with pytest.raises(ValueError, match="l1_ratio must be 0"):
        xent.LogisticRegression(l1_ratio=0.5).partial_fit(X, y)
    model = xent.LogisticRegression(C=0.1, l1_ratio=0.5).fit(X, y)
    model.l1_ratio = 0
    assert model.partial_fit(X, y).coef_.all()


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("sparse", [False, True])
def test_only_the_intercepts_are_left_to_move(n_classes, sparse):
    """Many features, none of which matters, from a start with the intercepts of other rows."""
    random = np.random.default_rng(0)
    X, y = random.normal(size=(103, 300)), random.integers(0, n_classes, 103)
    if sparse:
        X = pytest.importorskip("scipy.sparse").csr_array(X)
    model = xent.LogisticRegression(C=1e-3, l1_ratio=1, warm_start=True, tol=1e-7)
    model.fit(X[:50], y[:50]).fit(X, y)
    assert model.converged_
    assert not model.coef_.any()
    share = np.bincount(y) / len(y)
    np.testing.assert_allclose(model.predict_proba(X[:1])[0], share, rtol=1e-5)
    assert xent.LogisticRegressionCV(Cs=3, l1_ratios=[1.0], cv=2).fit(X, y).scores_.shape == (2, 1, 3)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n_classes", [2, 4])
def test_columns_far_from_zero(dtype, n_classes):
    """A constant that is added to a column changes intercepts alone."""
    random = np.random.default_rng(0)
    X, y = random.normal(size=(200, 6)), random.integers(0, n_classes, 200)
    X[:, 5] = 3
    far = (X + 1000 * random.normal(size=6)).astype(dtype)
    near = xent.LogisticRegression(C=30.0, l1_ratio=0.9, tol=1e-6).fit(far.astype(np.float64) - far.mean(axis=0), y)
    model = xent.LogisticRegression(C=30.0, l1_ratio=0.9, tol=1e-3 if dtype is np.float64 else 0.05).fit(far, y)
    assert model.n_iter_[0] < 20
    assert model.objective_ < near.objective_ + 1e-5
