"""Data that are hard to fit: every solver finds the minimum, or warns, and its advice works."""

import warnings

import numpy as np
import pytest

import xent
from xent._fit.strategy import SOLVERS

N = 400


def draw_labels(logits, seed=0):
    noise = np.random.default_rng(seed).gumbel(size=logits.shape)
    return (logits + noise).argmax(axis=1)


def raw_columns():
    """Integers of scales from 2 to 26,000, nearly separable classes, of which two have 2 and 3 rows."""
    rng = np.random.default_rng(0)
    y = rng.choice(5, N, p=[0.8, 0.1, 0.08, 0.01, 0.01])
    y[:5] = [3, 3, 4, 4, 4]
    X = rng.normal(size=(5, 6))[y] * 3 + rng.standard_t(3, size=(N, 6))
    X *= [2, 12, 30, 90, 300, 1000]
    X[:5] *= 26
    X[:, 5] = X[:, 4] - X[:, 3]
    return np.round(X), y


def collinear_and_constant():
    rng = np.random.default_rng(1)
    Z = rng.normal(size=(N, 4))
    X = np.c_[Z, Z @ rng.normal(size=(4, 4)), np.full(N, 7.0), np.zeros(N), Z[:, 0] + 1e-7 * rng.normal(size=N)]
    return X * 10.0 ** rng.uniform(-3, 3, X.shape[1]), draw_labels(Z @ rng.normal(size=(4, 3)))


def one_row_of_a_class():
    rng = np.random.default_rng(2)
    X = rng.normal(size=(N, 5)) * np.logspace(0, 3, 5)
    y = draw_labels(rng.normal(size=(N, 5)))
    y[y == 4] = 0
    y[7] = 4
    return X, y


def columns_of_all_scales():
    rng = np.random.default_rng(3)
    Z = rng.normal(size=(N, 9))
    return Z * np.logspace(-8, 8, 9), draw_labels(Z @ rng.normal(size=(9, 4)))


def quasi_separated():
    """A dummy that only rows of one class have, beside raw numbers."""
    rng = np.random.default_rng(4)
    Z = rng.normal(size=(N, 4))
    y = draw_labels(2 * Z[:, :3])
    return np.c_[1000 + 300 * Z, (y == 1) & (rng.random(N) < 0.3), Z[:, 0] > 0], y


def two_classes_with_an_outlier():
    rng = np.random.default_rng(5)
    Z = rng.normal(size=(N, 4))
    y = (Z[:, 0] + rng.logistic(size=N) > 0).astype(np.int64)
    Z[3] *= 1e4
    return Z * [1, 100, 1e4, 1e-4], y


SETS = [
    (raw_columns, 1.0),
    (raw_columns, 1e4),
    (collinear_and_constant, 1.0),
    (collinear_and_constant, np.inf),
    (one_row_of_a_class, 1.0),
    (columns_of_all_scales, 1.0),
    (columns_of_all_scales, 1e6),
    (quasi_separated, 1e-3),
    (quasi_separated, 1.0),
    (quasi_separated, 1e6),
    (two_classes_with_an_outlier, 1.0),
    (two_classes_with_an_outlier, np.inf),
]


def objective_of(X, y, model):
    """In float64, of coefficients as they are stored."""
    X = X.astype(np.float64)
    z = X @ model.coef_.T.astype(np.float64) + model.intercept_.astype(np.float64)
    if z.shape[1] == 1:
        z = np.c_[0 * z, z]
    return xent.cross_entropy(z, y) + (model.coef_.astype(np.float64) ** 2).sum() / (2 * model.C * len(y))


def fit_as_advised(X, y, **parameters):
    """Fit, and follow the first advice of a warning, and then that of the next."""
    for _ in range(3):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            model = xent.LogisticRegression(**parameters).fit(X, y)
        if model.converged_:
            return model
        assert len(caught) == 1
        message = str(caught[0].message)
        if "solver='newton-cholesky'" in message:
            parameters["solver"] = "newton-cholesky"
        elif "Raise max_iter" in message:
            parameters["max_iter"] = 1000
        else:
            raise AssertionError(message)
    return model


@pytest.fixture(scope="module")
def least():
    """The least objective of a set and C, computed once."""
    known = {}

    def find(X, y, C):
        key = X.tobytes(), C
        if key not in known:
            model = xent.LogisticRegression(C=C, solver="newton-cholesky", tol=1e-11, max_iter=300)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                known[key] = model.fit(X, y).objective_
        return known[key]

    return find


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize(("make", "C"), SETS, ids=lambda value: getattr(value, "__name__", str(value)))
def test_every_solver_keeps_the_promise(least, make, C, solver, dtype):
    X, y = make()
    X = X.astype(dtype)
    model = fit_as_advised(X, y, C=C, solver=solver, tol=1e-6)
    assert model.converged_
    assert model.grad_norm_ <= 1e-6
    assert np.isfinite(model.coef_).all()
    assert model.objective_ == pytest.approx(least(X.astype(np.float64), y, C), rel=2e-6, abs=2e-6)
    if dtype == np.float64 or np.inf > C:       # else float32 may not hold the coefficients of nearly equal columns
        assert objective_of(X, y, model) == pytest.approx(model.objective_, rel=1e-5, abs=2e-6)
