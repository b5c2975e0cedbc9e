"""partial_fit: what a batch adds, what is remembered, and what is refused."""

import tracemalloc

import numpy as np
import pytest

import xent
from xent._fit import online
from xent._fit.penalties import L2
from xent._fit.row_sums import RowSums

X_DIGITS, Y_DIGITS = xent.datasets.load_digits()


@pytest.fixture
def blobs():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 600)
    return rng.normal(size=(600, 5)) + np.eye(3, 5)[y], y


def streamed(X, y, size, **options):
    model = xent.LogisticRegression(**options)
    for start in range(0, len(y), size):
        rows = slice(start, start + size)
        model.partial_fit(X[rows], y[rows], classes=np.unique(y))
    return model


def split():
    order = np.random.default_rng(1).permutation(len(Y_DIGITS))
    X, y = X_DIGITS[order] / 16, Y_DIGITS[order]
    return X[:1350], y[:1350], X[1350:], y[1350:]


def test_a_stream_comes_close_to_a_fit():
    X, y, X_test, y_test = split()
    whole = xent.LogisticRegression().fit(X, y)
    model = streamed(X, y, 50)
    assert model.score(X_test, y_test) > whole.score(X_test, y_test) - 0.01
    assert model.score(X, y) > whole.score(X, y) - 0.01


def test_only_the_diagonal_of_many_features(monkeypatch):
    """What is forgotten then costs a few per cent; a stochastic gradient costs more."""
    monkeypatch.setattr(online, "MAX_BLOCK_ELEMENTS", 0)
    X, y, X_test, y_test = split()
    model = streamed(X, y, 50)
    assert model._curvature.shape == (10, 65)
    assert model.score(X_test, y_test) > 0.92


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("limit", [0, 1 << 20])
def test_the_first_batch_is_a_fit(blobs, monkeypatch, n_classes, limit):
    monkeypatch.setattr(online, "MAX_BLOCK_ELEMENTS", limit)
    X, y = blobs[0], np.minimum(blobs[1], n_classes - 1)
    options = {"C": 0.3, "tol": 1e-10}
    np.testing.assert_allclose(
        streamed(X, y, 600, **options).coef_, xent.LogisticRegression(**options).fit(X, y).coef_, atol=1e-6
    )


def test_batches_of_one_row_and_one_class(blobs):
    X, y = blobs
    model = streamed(X[:100], np.sort(y[:100]), 1)
    assert np.isfinite(model.coef_).all()
    assert streamed(X[:200], y[:200], 1).score(X, y) > xent.LogisticRegression().fit(X, y).score(X, y) - 0.05


@pytest.mark.parametrize("limit", [0, 1 << 20])
@pytest.mark.parametrize("fit_intercept", [True, False])
def test_curvature_is_that_of_the_definition(blobs, monkeypatch, limit, fit_intercept):
    monkeypatch.setattr(online, "MAX_BLOCK_ELEMENTS", limit)
    X, y = blobs
    weight = np.random.default_rng(2).uniform(0, 2, len(y))
    model = xent.LogisticRegression(C=0.5, fit_intercept=fit_intercept)
    model.partial_fit(X, y, classes=[0, 1, 2], sample_weight=weight)
    p = model.predict_proba(X)
    ones = np.c_[X, np.full(len(y), float(fit_intercept))]
    for k in range(3):
        expected = (ones * (p[:, k] * (1 - p[:, k]) * weight)[:, None]).T @ ones + np.diag([2.0] * 5 + [0])
        actual = model._curvature[k]
        np.testing.assert_allclose(actual, expected.diagonal() if limit == 0 else expected, rtol=1e-9, atol=1e-9)


def test_a_stream_goes_on_from_a_fit():
    X, y, X_test, y_test = split()
    model, forgetful = (xent.LogisticRegression().fit(X[:1000], y[:1000]) for _ in range(2))
    forgetful._seen = 0.0
    rows = np.flatnonzero(y[1000:] < 5)[:100] + 1000        # half of the classes: the others should not be forgotten
    score = model.score(X_test, y_test)
    assert model.partial_fit(X[rows], y[rows]).score(X_test, y_test) > score - 0.05
    assert forgetful.partial_fit(X[rows], y[rows]).score(X_test, y_test) < score - 0.1
    streamed = xent.LogisticRegression().fit(X[:500], y[:500])
    score = streamed.score(X_test, y_test)
    for start in range(500, 1350, 170):
        streamed.partial_fit(X[start : start + 170], y[start : start + 170])
    assert streamed.score(X_test, y_test) > score


def test_weights_and_sparse_rows(blobs):
    sparse = pytest.importorskip("scipy.sparse")
    X, y = blobs
    keep = np.arange(len(y)) % 3 > 0
    weighted, plain, rows = (xent.LogisticRegression(tol=1e-8) for _ in range(3))
    for half in (slice(0, 300), slice(300, 600)):
        weighted.partial_fit(X[half], y[half], [0, 1, 2], sample_weight=keep[half].astype(float))
        plain.partial_fit(X[half][keep[half]], y[half][keep[half]], [0, 1, 2])
        rows.partial_fit(sparse.csr_array(X[half][keep[half]]), y[half][keep[half]], [0, 1, 2])
    np.testing.assert_allclose(weighted.coef_, plain.coef_, atol=1e-6)
    np.testing.assert_allclose(rows.coef_, plain.coef_, atol=1e-6)


def test_distributions(blobs):
    X, y = blobs
    hard, soft = xent.LogisticRegression(tol=1e-8), xent.LogisticRegression(tol=1e-8)
    for half in (slice(0, 300), slice(300, 600)):
        hard.partial_fit(X[half], y[half], classes=[0, 1, 2])
        soft.partial_fit(X[half], np.eye(3)[y[half]])
    np.testing.assert_allclose(soft.coef_, hard.coef_, atol=1e-6)


def test_float32_and_types(blobs):
    X, y = blobs
    model = streamed(X.astype(np.float32), y, 100)
    assert model.coef_.dtype == model.intercept_.dtype == np.float32
    model.partial_fit(X[:10], y[:10])
    assert model.coef_.dtype == np.float64


def test_fit_forgets_the_stream(blobs):
    X, y = blobs
    model = streamed(X, y, 50).fit(X[:300], y[:300])
    np.testing.assert_array_equal(model.coef_, xent.LogisticRegression().fit(X[:300], y[:300]).coef_)
    assert model._curvature is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"y": [0, 5, 1, 2]}, r"^y\[1\] is 5, which is not one of the classes, \[0, 1, 2\]"),
        ({"classes": [0, 1]}, r"classes=\[0, 1\] is not the same as on last call to partial_fit, was: \[0, 1, 2\]"),
        ({"X": np.ones((4, 3))}, "X has 3 features, but LogisticRegression is expecting 5 features"),
        ({"X": np.full((4, 5), np.nan)}, r"^X\[0, 0\] is nan"),
        ({"y": [0, 1]}, r"^y has shape \(2,\)"),
        ({"y": [0, 0.5, 1, 1]}, r"^y\[1\] is 0.5; labels must be"),
        ({"sample_weight": [1, 1, -1, 1]}, r"^sample_weight\[2\] is -1"),
        ({"sample_weight": np.zeros(4)}, "is 0 for every sample"),
        ({"y": np.full((4, 2), 0.5)}, "y is a distribution over 2 classes, which are the numbers of its columns"),
    ],
)
def test_bad_batches_leave_the_estimator_alone(blobs, arguments, message):
    model = streamed(*blobs, 100)
    before = {name: np.copy(value) for name, value in vars(model).items()}
    with pytest.raises(ValueError, match=message):
        model.partial_fit(**{"X": np.ones((4, 5)), "y": [0, 1, 2, 0], **arguments})
    assert vars(model).keys() == before.keys()
    for name, value in before.items():
        np.testing.assert_array_equal(vars(model)[name], value)


def test_bad_first_calls(blobs):
    X, y = blobs
    with pytest.raises(ValueError, match="classes must be passed on the first call to partial_fit"):
        xent.LogisticRegression().partial_fit(X, y)
    with pytest.raises(ValueError, match=r"classes has 1 class\(es\); it must have at least 2"):
        xent.LogisticRegression().partial_fit(X, y * 0, classes=[0])
    with pytest.raises(ValueError, match="class_weight 'balanced' is not supported for partial_fit"):
        xent.LogisticRegression(class_weight="balanced").partial_fit(X, y, classes=[0, 1, 2])


@pytest.mark.parametrize("limit", [0, 1 << 20])
@pytest.mark.parametrize("change", [{"C": 0.01}, {"C": 100.0}, {"C": np.inf}])
@pytest.mark.parametrize("start", ["partial_fit", "fit"])
def test_a_penalty_that_is_changed_takes_effect(blobs, monkeypatch, start, change, limit):
    """As if it had been so from the beginning, as far as a quadratic can tell: it can where the penalty was near."""
    monkeypatch.setattr(online, "MAX_BLOCK_ELEMENTS", limit)
    X, y = blobs

    def fitted(**options):
        model = xent.LogisticRegression(tol=1e-9, **options)
        return model.fit(X[:400], y[:400]) if start == "fit" else model.partial_fit(X[:400], y[:400], [0, 1, 2])

    def more(model):
        return model.partial_fit(X[400:], y[400:]).coef_

    near = {"C": 1.1 * min(change["C"], 1e12)}
    always, unchanged = more(fitted(**change)), more(fitted(**near))
    np.testing.assert_allclose(more(fitted(**near).set_params(**change)), always, atol=0.01 * np.abs(always).max())
    if change.get("C") == 0.01:
        error = np.abs(more(fitted(**near).set_params(**change)) - always).max()
        assert error < 0.3 * np.abs(unchanged - always).max()
        far = more(fitted(C=1.0).set_params(**change))
        assert np.abs(far - always).max() < 0.4 * np.abs(more(fitted(C=1.0)) - always).max()


def test_the_quadratic_of_a_changed_penalty(blobs):
    """Its minimum is where the old one's gradient and the change's cancel; intercepts feel the change through it."""
    X, y = blobs
    model = xent.LogisticRegression(tol=1e-9).partial_fit(X, y, [0, 1, 2])
    before = model._coefficients()
    past = online.remember_past(
        RowSums(X[:10], y[:10], 3, np.ones(10)), True, coefficients=before, curvature=model._curvature, penalty=L2(5.0),
        penalty_before=L2(1.0), weight_before=0.0,
    )  # fmt: skip
    ridge = np.diag([4.0] * 5 + [0.0])
    np.testing.assert_allclose(past.curvature, model._curvature + ridge)
    for k in range(3):
        of_old, of_change = model._curvature[k] @ (past.centre[k] - before[k]), ridge @ past.centre[k]
        np.testing.assert_allclose(of_old + of_change, 0, atol=1e-5)


def test_a_changed_penalty_is_saved(blobs, tmp_path):
    X, y = blobs
    model = xent.LogisticRegression(C=0.1).partial_fit(X[:300], y[:300], [0, 1, 2]).set_params(C=10.0)
    model.save(tmp_path / "model")
    twin = xent.LogisticRegression.load(tmp_path / "model")
    np.testing.assert_array_equal(
        twin.partial_fit(X[300:], y[300:]).coef_, model.partial_fit(X[300:], y[300:]).coef_
    )


def test_an_intercept_that_was_fitted_cannot_be_left_out(blobs):
    X, y = blobs
    model = xent.LogisticRegression().partial_fit(X, y, [0, 1, 2])
    with pytest.raises(ValueError, match="fit_intercept is False, but earlier calls have fitted intercept_"):
        model.set_params(fit_intercept=False).partial_fit(X, y)
    model = xent.LogisticRegression(fit_intercept=False).partial_fit(X, y, [0, 1, 2])
    assert model.set_params(fit_intercept=True).partial_fit(X, y).intercept_.any()


@pytest.mark.parametrize("n_classes", [1000, pytest.param(10_000, marks=pytest.mark.deep)])
def test_batches_of_many_classes(n_classes):
    """What is new is learned where the past has no curvature; and there are no probabilities of all rows."""
    rng = np.random.default_rng(3)
    X, y = rng.normal(size=(1000, 4)), rng.integers(0, n_classes, 1000)
    model = xent.LogisticRegression(max_iter=1, tol=1e-9).partial_fit(X[:50], y[:50], np.arange(n_classes))
    before = model.predict_log_proba(X[50:100])[np.arange(50), y[50:100]].mean()
    tracemalloc.start()
    model.partial_fit(X, y)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 24 * 8 * n_classes * 5 + (64 << 20)
    assert model.n_iter_[0] == 1
    assert model.predict_log_proba(X[50:100])[np.arange(50), y[50:100]].mean() > before


def test_without_a_penalty(blobs):
    """There may be no curvature at all at first."""
    X, y = blobs
    for limit in (np.inf, 1.0):
        model = streamed(X, np.minimum(y, 1), 20, C=limit, penalty=None)
        assert np.isfinite(model.coef_).all()
        assert model.score(X, np.minimum(y, 1)) > 0.6
