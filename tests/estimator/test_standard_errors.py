"""Covariance of the coefficients: statsmodels' numbers, in any storage, and when there is none."""

import numpy as np
import pytest

import xent
from xent import Blocks

N = 400
EXACT = {"C": np.inf, "tol": 1e-11, "max_iter": 1000}
KINDS = ("hessian", "sandwich")


def problem(n_classes=3, seed=0):
    """Rows, labels that are words, and weights."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(N, 4))
    y = (X @ rng.normal(size=(4, n_classes)) / 2 + rng.gumbel(size=(N, n_classes))).argmax(axis=1)
    return X, np.array(["a", "bb", "c", "d"])[y], rng.uniform(0.2, 2, N)


def assert_close(found, expected, error=1e-9):
    """Relative to the standard errors."""
    errors = np.sqrt(np.diag(expected))
    assert found.dtype == np.float64
    assert np.max(abs(found - expected) / errors / errors[:, None]) < error


THEIR_KINDS = {"hessian": "nonrobust", "sandwich": "HC0"}

# --- statsmodels -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize("n_classes", [2, 3, 4])
def test_statsmodels(n_classes, fit_intercept, kind):
    discrete = pytest.importorskip("statsmodels.discrete.discrete_model")
    X, y, _ = problem(n_classes)
    X = X * [1, 1e4, 1e-5, 1] + [0, 3e4, 0, 0]
    model = xent.LogisticRegression(**EXACT, fit_intercept=fit_intercept).fit(X, y)
    design = np.c_[X, np.ones(N)] if fit_intercept else X
    theirs = discrete.Logit if n_classes == 2 else discrete.MNLogit
    fitted = theirs(np.searchsorted(model.classes_, y), design).fit(
        method="newton", tol=1e-13, maxiter=50, ridge_factor=0, disp=False, warn_convergence=False,
        cov_type=THEIR_KINDS[kind],
    )
    assert_close(model.covariance(X, y, kind=kind), np.asarray(fitted.cov_params()))


@pytest.mark.parametrize("kind", KINDS)
def test_statsmodels_with_weights(kind):
    """Its generalised linear model has weights that multiply the score of one row."""
    api = pytest.importorskip("statsmodels.api")
    X, y, weight = problem(2)
    model = xent.LogisticRegression(**EXACT).fit(X, y, weight)
    theirs = api.GLM(y == "bb", np.c_[X, np.ones(N)], family=api.families.Binomial(), var_weights=weight)
    fitted = theirs.fit(tol=1e-13, maxiter=100, cov_type=THEIR_KINDS[kind])
    expected = np.asarray(fitted.cov_params())
    assert_close(model.covariance(X, y, weight, kind=kind), expected, 1e-7)


# --- what the numbers mean -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_classes", [2, 3])
def test_weights_are_repeated_rows(n_classes):
    X, y, _ = problem(n_classes)
    times = np.random.default_rng(1).integers(0, 4, N)
    model = xent.LogisticRegression(**EXACT).fit(X, y, times)
    repeated = model.covariance(np.repeat(X, times, axis=0), np.repeat(y, times))
    assert_close(model.covariance(X, y, times), repeated)
    assert_close(model.covariance(X, y, 2.0 * times), repeated / 2)
    # For the sandwich a weight is one row that counts more: the scale of all weights does not matter.
    sandwich = model.covariance(X, y, times, kind="sandwich")
    for scale in (100.0, 1e-250, 1e250):
        assert_close(model.covariance(X, y, scale * times, kind="sandwich"), sandwich)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("class_weight", ["balanced", {"a": 3.0, "bb": 0.5}])
def test_class_weights_are_sample_weights(class_weight, kind):
    X, y, weight = problem()
    model = xent.LogisticRegression(**EXACT, class_weight=class_weight).fit(X, y, weight)
    if class_weight == "balanced":
        factors = weight.sum() / (3 * np.array([weight[y == label].sum() for label in model.classes_]))
    else:
        factors = np.array([3.0, 0.5, 1.0])
    found = model.covariance(X, y, weight, kind=kind)
    model.class_weight = None
    assert_close(found, model.covariance(X, y, weight * factors[np.searchsorted(model.classes_, y)], kind=kind))


@pytest.mark.parametrize("kind", KINDS)
def test_distributions(kind):
    X, y, weight = problem()
    hard = xent.LogisticRegression(**EXACT).fit(X, y, weight)
    one_hot = (y[:, None] == hard.classes_).astype(float)
    soft = xent.LogisticRegression(**EXACT).fit(X, one_hot, weight)
    assert_close(soft.covariance(X, one_hot, weight, kind=kind), hard.covariance(X, y, weight, kind=kind), 1e-7)
    mixed = 0.8 * one_hot + 0.2 / 3
    rows, labels = np.repeat(X, 3, axis=0), np.tile(np.arange(3), N)
    soft.fit(X, mixed, weight)
    if kind == "hessian":       # each row of a distribution is so many rows of labels, as heavy as it says
        each = soft.covariance(rows, labels, (weight[:, None] * mixed).ravel())
        assert_close(soft.covariance(X, mixed, weight), each, 1e-7)


@pytest.mark.deep
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n_classes", [2, 3])
def test_coefficients_vary_as_it_says(n_classes, kind):
    """Of many samples of 1000 rows, the covariance of the coefficients."""
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(n_classes, 3)) / 2
    found, expected = [], []
    for _ in range(200):
        X = rng.normal(size=(1000, 2))
        y = (np.c_[X, np.ones(1000)] @ truth.T + rng.gumbel(size=(1000, n_classes))).argmax(axis=1)
        model = xent.LogisticRegression(C=np.inf, tol=1e-8).fit(X, y)
        matrix = np.c_[model.coef_, model.intercept_]
        found.append((matrix if n_classes == 2 else matrix[1:] - matrix[0]).ravel())
        expected.append(model.covariance(X, y, kind=kind))
    expected = np.mean(expected, axis=0)
    assert_close(np.cov(found, rowvar=False), expected, 0.3)


# --- storage ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n_classes", [2, 3])
def test_any_storage_of_the_rows(n_classes, kind):
    sparse, pandas = pytest.importorskip("scipy.sparse"), pytest.importorskip("pandas")
    X, y, weight = problem(n_classes)
    X[np.random.default_rng(2).random(X.shape) < 0.5] = 0
    model = xent.LogisticRegression(**EXACT).fit(X, y, weight)
    expected = model.covariance(X, y, weight, kind)
    for given in (np.asfortranarray(X), sparse.csr_array(X), sparse.csc_matrix(X), X.tolist()):
        assert_close(model.covariance(given, y, weight, kind), expected, 1e-12)
    for rows in (N, 150, 7):
        assert_close(model.covariance(Blocks.from_arrays(X, y, weight, rows=rows), kind=kind), expected, 1e-12)
    blocks = Blocks([(sparse.csr_array(X)[cut], y[cut], weight[cut]) for cut in (slice(90), slice(90, N))])
    assert_close(model.covariance(blocks, kind=kind), expected, 1e-12)
    frame = pandas.DataFrame(X, columns=list("pqrs"))
    model.feature_names_in_ = np.array(list("pqrs"), object)
    assert_close(model.covariance(frame, y, weight, kind), expected, 1e-12)


def test_single_precision():
    """Where the rows and coefficients are float32, the covariance is computed in float64."""
    X, y, weight = problem()
    X = X.astype(np.float32)
    single = xent.LogisticRegression(C=np.inf, tol=1e-6).fit(X, y, weight)
    double = xent.LogisticRegression(**EXACT).fit(X.astype(float), y, weight)
    for kind in KINDS:
        assert_close(single.covariance(X, y, weight, kind), double.covariance(X.astype(float), y, weight, kind), 1e-4)


def test_a_class_that_is_not_in_the_data():
    X, y, _ = problem()
    model = xent.LogisticRegression(**EXACT).fit(X, y)
    with pytest.warns(xent.ConvergenceWarning, match="coef_ is not at the minimum for these data"):
        assert model.covariance(X[y != "c"], y[y != "c"]).shape == (10, 10)
    with pytest.raises(ValueError, match=r"^y\[0\] is 'z', which is not one of the classes"):
        model.covariance(X, np.full(N, "z"))


# --- when there is none ----------------------------------------------------------------------------------------------


def test_a_penalty():
    X, y, _ = problem()
    model = xent.LogisticRegression().fit(X, y)
    with pytest.raises(ValueError, match=r"^C is 1.0; the covariance is that of a fit without a .*fit with C=inf"):
        model.covariance(X, y)
    model.C = np.inf
    with pytest.warns(xent.ConvergenceWarning, match=r"coef_ is not at the minimum for these data, but [\d.]+ stand"):
        model.covariance(X, y)
    xent.LogisticRegression(penalty=None).fit(X, y).covariance(X, y)


def test_arguments():
    X, y, _ = problem()
    with pytest.raises(xent.NotFittedError, match="not fitted yet"):
        xent.LogisticRegression(C=np.inf).covariance(X, y)
    model = xent.LogisticRegression(**EXACT).fit(X, y)
    with pytest.raises(ValueError, match="kind is 'HC0'; it must be one of 'hessian', 'sandwich'"):
        model.covariance(X, y, kind="HC0")
    with pytest.raises(ValueError, match="X has 3 features, but LogisticRegression is expecting 4"):
        model.covariance(X[:, :3], y)
    with pytest.raises(ValueError, match="X has 3 features, but LogisticRegression is expecting 4"):
        model.covariance(Blocks.from_arrays(X[:, :3], y))
    with pytest.raises(ValueError, match="target y is None"):
        model.covariance(X)
    with pytest.raises(ValueError, match="X is a Blocks, which includes y and sample_weight"):
        model.covariance(Blocks([(X, y)]), y)
    with pytest.raises(ValueError, match=r"block 1: X has 3 features|block 1 has 3 features, but block 0 has 4"):
        model.covariance(Blocks([(X, y), (X[:, :3], y)]))
    with pytest.raises(ValueError, match=r"^X\[0, 0\] is nan"):
        model.covariance(np.full_like(X, np.nan), y)
    with pytest.raises(ValueError, match=r"^sample_weight\[0\] is -1.0"):
        model.covariance(X, y, -np.ones(N))
    model.C = "1"
    with pytest.raises(TypeError, match="C is '1'"):
        model.covariance(X, y)
    model.C = np.inf
    before = model.coef_.copy()
    model.covariance(X, y)
    np.testing.assert_array_equal(model.coef_, before)


@pytest.mark.filterwarnings("ignore:.*failed to converge")
def test_columns_that_are_dependent():
    pandas = pytest.importorskip("pandas")
    X, y, _ = problem()
    constant = np.c_[X, np.full(N, 3.0)]
    for kind in KINDS:
        model = xent.LogisticRegression(C=np.inf, tol=1e-8).fit(constant, y)
        message = r"^the Hessian is singular: column 4, the intercept \(a column of ones\) are linearly dependent"
        with pytest.raises(ValueError, match=message):
            model.covariance(constant, y, kind=kind)
        with pytest.raises(ValueError, match=message):
            model.covariance(Blocks.from_arrays(constant, y, rows=150), kind=kind)
    frame = pandas.DataFrame({"a": X[:, 0], "b": X[:, 1], "c": X[:, 0] - 2 * X[:, 1], "zero": 0 * X[:, 0]})
    model = xent.LogisticRegression(C=np.inf, tol=1e-8).fit(frame[["a", "b", "c"]], y)
    with pytest.raises(ValueError, match="column 'a', column 'b', column 'c' are linearly dependent"):
        model.covariance(frame[["a", "b", "c"]], y)
    model = xent.LogisticRegression(C=np.inf, tol=1e-8).fit(frame[["a", "zero"]], y)
    with pytest.raises(ValueError, match="the likelihood does not depend on the coefficients of column 'zero'"):
        model.covariance(frame[["a", "zero"]], y)
    many = np.c_[X, np.tile(X[:, :1], 20)]
    model = xent.LogisticRegression(C=np.inf, tol=1e-8).fit(many, y)
    with pytest.raises(ValueError, match=r"column 0, column 4, column 5, .*, column 10 and 13 more are linearly"):
        model.covariance(many, y)


def test_overflow():
    X, y, _ = problem()
    model = xent.LogisticRegression(C=np.inf).fit(X, y)
    model.coef_ /= 1e200
    with pytest.raises(ValueError, match="the Hessian overflows float64: scale the features or the weights down"):
        model.covariance(X * 1e200, y)


def test_more_coefficients_than_memory():
    sparse = pytest.importorskip("scipy.sparse")
    model = xent.LogisticRegression(C=np.inf)
    model.classes_, model.coef_, model.intercept_ = np.array([0, 1]), np.zeros((1, 10**6)), 0.0
    with pytest.raises(MemoryError, match=r"^the covariance of 1000001 coefficients needs about 48000 GB, but this"):
        model.covariance(sparse.csr_array(np.eye(2, 10**6)), [0, 1])


def test_separable_classes():
    X, y, _ = problem()
    X = X + 20 * (y[:, None] == ["a", "bb", "c", "-"])
    with pytest.warns(xent.ConvergenceWarning, match="linearly separable"):
        model = xent.LogisticRegression(C=np.inf).fit(X, y)
    for given in ((X, y), (Blocks.from_arrays(X, y, rows=150),)):
        with pytest.raises(ValueError, match="the classes are linearly separable: the likelihood has no maximum"):
            model.covariance(*given)


@pytest.mark.parametrize("tol", [1e-5, 1e-7, 1e-10])
@pytest.mark.parametrize("n_classes", [2, 3])
def test_a_column_that_separates_some_rows(n_classes, tol):
    X, y, _ = problem(n_classes)
    X = np.c_[X, (y == "a") & (np.arange(N) % 5 == 0)]       # a sign that is seen in one class only
    model = xent.LogisticRegression(C=np.inf, tol=tol, max_iter=1000).fit(X, y)
    with pytest.warns(xent.ConvergenceWarning, match=rf"would change the logits of {int(X[:, -1].sum())} rows by more"):
        model.covariance(X, y)


def test_a_fit_that_was_stopped():
    X, y, _ = problem()
    with pytest.warns(xent.ConvergenceWarning, match="failed to converge"):
        model = xent.LogisticRegression(C=np.inf, max_iter=1, solver="lbfgs").fit(X, y)
    with pytest.warns(xent.ConvergenceWarning, match=r"coef_ is not at the minimum for these data, but [\d.]+ stand"):
        model.covariance(X, y)
