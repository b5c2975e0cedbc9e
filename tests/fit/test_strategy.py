"""Fits from zeros to their minimum: which solver takes over when, and columns of all scales."""

import numpy as np
import pytest
from fit_problems import PRECONDITIONERS, TOLERANCE, D, make_objective, make_rows, minimise, use_preconditioner

import xent
from xent._fit import blas_threads, strategy
from xent._fit.solver import CONVERGED, MAX_ITER, NO_DESCENT
from xent.datasets import load_digits


@pytest.mark.parametrize("solver", ["lbfgs", "newton-cg", "newton-cholesky"])
@pytest.mark.parametrize("kind", ["blocks", "factors"])
def test_columns_from_a_millionth_to_a_million_need_no_scaler(monkeypatch, kind, solver):
    use_preconditioner(monkeypatch, kind)
    X, target, _ = make_rows(4)
    scale = np.logspace(-6, 6, D)
    arguments = {"solver": solver, "tol": 1e-10, "noise": 1e-16}
    function = make_objective(X * scale, target, 4)
    result = minimise(function, **{**arguments, "tol": 1e-14}, max_iter=100)
    plain = make_objective(X, target, 4)
    expected = minimise(plain, **arguments, max_iter=100)
    assert expected.converged
    assert result.loss == pytest.approx(expected.loss, rel=1e-12)


@pytest.mark.parametrize("solver", ["lbfgs", "newton-cg", "newton-cholesky"])
@pytest.mark.parametrize("strength", [1e6, 1.0, 1e-6, 0.0])
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_separable_rows_and_any_penalty_end_in_finite_numbers(dtype, strength, solver):
    X = np.repeat(np.eye(3), 20, axis=0).astype(dtype)
    target = np.repeat(np.arange(3), 20)
    function = make_objective(X, target, 3, strength=strength)
    with np.errstate(all="ignore"):
        result = minimise(function, solver=solver, tol=1e-6, max_iter=200, noise=float(np.finfo(dtype).eps))
    assert np.isfinite(result.x).all()
    assert result.converged
    assert result.grad_norm <= 1e-6


@pytest.mark.parametrize("solver", ["auto", "lbfgs", "newton-cg", "newton-cholesky"])
@pytest.mark.parametrize("seed", range(4))
def test_redundant_columns_of_any_scale_without_a_penalty(solver, seed):
    """The Hessian is singular, and rounding makes more or less than nothing of its curvature there."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(2000, 12)) @ rng.normal(size=(12, 20))
    y = (X @ rng.normal(size=20) / 4 + 2 * rng.logistic(size=len(X)) > 0).astype(np.int64)
    function = make_objective(X, y, 2, n_threads=1)
    least = minimise(function, solver="lbfgs", tol=1e-6, max_iter=100, noise=1e-16).loss
    function = make_objective(X * 10.0 ** rng.permutation(np.linspace(-6, 6, 20)), y, 2, n_threads=1)
    result = minimise(function, solver=solver, tol=1e-8, max_iter=100, noise=1e-16)
    assert result.loss == pytest.approx(least, rel=1e-9)


def columns_of_all_scales(seed, dtype):
    """Digits, almost separable; some columns feel the penalty. Permuted rows have other rounding errors everywhere."""
    X, y = load_digits()
    order = np.random.default_rng(seed).permutation(len(X)) if seed else np.arange(len(X))
    X = X * 10.0 ** np.random.default_rng(0).uniform(-6, 6, 64)
    return make_objective(X[order].astype(dtype), y[order], 10, strength=100 / len(X), n_threads=1)


LEAST = 0.1239151844        # of that objective


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("solver", ["auto", "newton-cg", "newton-cholesky"])
def test_columns_that_few_rows_have_hinder_no_solver(solver, seed):
    """Pixels that are black but in a few images: a sample of the rows alone says that they have no curvature."""
    function, seen = columns_of_all_scales(seed, np.float64), []
    result = minimise(function, solver=solver, tol=1e-4, max_iter=300, noise=2e-16, callback=seen.append)
    assert result.converged
    assert result.loss == pytest.approx(LEAST, rel=1e-8)
    assert [progress.iteration for progress in seen] == list(range(result.iterations + 1))
    assert seen[-1].loss == result.loss


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("solver", ["auto", "lbfgs", "newton-cg", "newton-cholesky"])
def test_a_fit_in_float32_ends_where_its_rounding_errors_are(solver, seed):
    """It comes near the minimum and does not spend its iterations there on nothing; the whole Hessian, which is
    computed in float64, ends it within tol."""
    noise = float(np.finfo(np.float32).eps)
    function = columns_of_all_scales(seed, np.float32)
    result = minimise(function, solver=solver, tol=1e-6, max_iter=1000, noise=noise)
    assert result.reason == (NO_DESCENT if solver in ("lbfgs", "newton-cg") else CONVERGED)
    assert result.iterations < 500
    assert result.loss == pytest.approx(LEAST, rel=200 * noise)


def test_newton_goes_on_where_lbfgs_stops_short(monkeypatch):
    """Whichever of them came farther, the reason is that of the last."""
    X, target, weight = make_rows(4)
    function = make_objective(X, target, 4, weight, 0.01)
    monkeypatch.setattr(strategy, "PATIENCE", 2)
    seen = []
    result = minimise(function, tol=1e-9, max_iter=100, noise=1e-16, callback=seen.append)
    assert result.converged
    assert result.iterations > 2
    assert [progress.iteration for progress in seen] == list(range(result.iterations + 1))
    assert minimise(function, tol=1e-30, max_iter=4, noise=1e-16).reason == MAX_ITER
    result = minimise(function, tol=1e-30, max_iter=1000, noise=1e-16)
    assert (result.reason, result.iterations < 1000) == (NO_DESCENT, True)


@pytest.mark.parametrize("solver", ["auto", "lbfgs", "newton-cg", "newton-cholesky"])
@pytest.mark.parametrize("kind", PRECONDITIONERS)
def test_columns_that_a_thousandth_of_the_rows_have(monkeypatch, kind, solver):
    use_preconditioner(monkeypatch, kind)
    rng = np.random.default_rng(11)
    X = (rng.random((20_000, 20)) < np.logspace(-3.3, 0, 20)) * rng.geometric(0.1, (20_000, 20))
    scores = X @ (rng.normal(size=(20, 3)) / 10) + rng.gumbel(size=(20_000, 3))
    function = make_objective(X.astype(float), scores.argmax(axis=1), 3, strength=1e-4 / len(X))
    result = minimise(function, solver=solver, tol=1e-6, max_iter=100, noise=2e-16)
    assert result.converged


def test_blas_has_one_thread_during_a_fit_and_its_own_afterwards():
    threadpoolctl = pytest.importorskip("threadpoolctl")

    def count_blas_threads():
        return {pool["num_threads"] for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "blas"}

    seen = []
    X, target, weight = make_rows(3)
    blas_threads._controller.cache_clear()       # it knows the libraries that were there at the first fit
    with threadpoolctl.threadpool_limits(2, user_api="blas"):
        before = count_blas_threads()
        minimise(
            make_objective(X, target, 3, weight, 0.1), tol=1e-6, max_iter=3, noise=1e-16,
            callback=lambda progress: seen.append(count_blas_threads()),
        )  # fmt: skip
        assert count_blas_threads() == before
    assert all(threads <= {1} for threads in seen)


@pytest.mark.parametrize("n_features", [33, 40])
def test_auto_does_not_give_up_after_lbfgs(n_features):
    """Somewhat more coefficients than "auto" keeps a Hessian of, and columns far from 0."""
    random = np.random.default_rng(0)
    X = random.normal(size=(170, n_features)) + 1000 * np.linspace(-1, 1, n_features)
    y = random.permutation(np.arange(170) % 30)
    assert xent.LogisticRegression(max_iter=200).fit(X, y).converged_
    assert (xent.LogisticRegressionCV(Cs=[0.002, 0.4, 145.0], cv=3, max_iter=200).fit(X, y).n_iter_ > 0).all()
