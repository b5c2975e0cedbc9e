"""Newton's method with the whole Hessian: on functions whose answers are known, and on data that are hard to fit."""

import numpy as np
import pytest
from fit_problems import D, ill_conditioned_quadratic, make_objective, make_rows, minimise, quadratic, solve

from xent._fit import strategy
from xent._fit.newton import newton
from xent._fit.solver import NO_DESCENT, NOT_FINITE, Expansion
from xent._fit.strategy import cost_of_expansion, uses_newton


def expansion_of(function, hessian_at):
    return lambda x: Expansion(*function(x), hessian_at(x))


def test_one_step_to_the_minimum_of_a_quadratic():
    matrix, target = ill_conditioned_quadratic()
    expand = expansion_of(quadratic(matrix, target), lambda x: matrix)
    result = solve(newton, expand, np.zeros(40), tol=1e-9, max_iter=9)
    assert result.converged
    assert result.iterations <= 2
    np.testing.assert_allclose(result.x, target, atol=1e-8)


def softplus_sum(scale):
    """sum_i log(1 + exp(s_i x_i)) - s_i x_i / 4, whose minimum is where s_i x_i = log(1 / 3)."""

    def expand(x):
        z = scale * x
        p = 1 / (1 + np.exp(-z))
        value = float((np.logaddexp(0, z) - z / 4).sum())
        return Expansion(value, scale * (p - 0.25), np.diag(scale * scale * p * (1 - p)))

    return expand


@pytest.mark.parametrize("start", [0.0, 3.0, 30.0, -300.0])
def test_variables_of_any_scale_and_a_start_without_curvature(start):
    scale = np.logspace(-8, 8, 9)
    seen = []
    with np.errstate(all="ignore"):     # as in every fit: a first step may leave the numbers
        result = solve(
            newton, softplus_sum(scale), start / scale, tol=1e-12, max_iter=100, callback=seen.append,
            make_metric=lambda: softplus_sum(scale)(np.zeros(9)).hessian,
        )  # fmt: skip
    np.testing.assert_allclose(scale * result.x, np.log(1 / 3), rtol=1e-6)
    assert [progress.iteration for progress in seen] == list(range(result.iterations + 1))
    assert seen[-1].loss == result.loss
    values = np.array([progress.loss for progress in seen])
    assert (np.diff(values) <= 1e-14 * values[:-1]).all()


def test_a_singular_hessian():
    matrix = np.diag([1.0, 1e-30, 0, 4])
    matrix[:2, :2] = [[1, 1], [1, 1]]
    function = quadratic(matrix, np.array([1.0, 2, 3, 4]))
    result = solve(newton, expansion_of(function, lambda x: matrix), np.zeros(4), tol=1e-10, max_iter=9)
    assert result.converged


def test_a_function_that_leaves_the_numbers():
    result = solve(newton, lambda x: Expansion(0.0, x + 1, np.full((2, 2), np.inf)), np.zeros(2), tol=1e-9, max_iter=9)
    assert result.reason == NOT_FINITE
    result = solve(newton, lambda x: Expansion(np.nan, x + 1, np.eye(2)), np.zeros(2), tol=1e-9, max_iter=9)
    assert result.reason == NOT_FINITE
    inside = expansion_of(lambda x: (float(-x.sum()) if x[0] < 1 else np.inf, -np.ones(2)), lambda x: np.eye(2))
    result = solve(newton, inside, np.zeros(2), tol=1e-9, max_iter=50)
    assert 0.5 < result.x[0] < 1


def test_a_tolerance_below_the_rounding_errors_ends_the_fit():
    X, target, weight = make_rows(4)
    result = minimise(make_objective(X, target, 4, weight, 0.01), solver="newton-cholesky", tol=1e-30, max_iter=100)
    assert result.reason == NO_DESCENT
    assert result.iterations < 20


@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize("strength", [0.1, 0.0])
@pytest.mark.parametrize("n_classes", [2, 4])
@pytest.mark.parametrize("holder", ["dense", "sparse"])
def test_the_expansion_of_an_objective(holder, n_classes, strength, fit_intercept):
    X, target, weight = make_rows(n_classes)
    if holder == "sparse":
        X = pytest.importorskip("scipy.sparse").csr_array(X)
    function = make_objective(X, target, n_classes, weight, strength, fit_intercept)
    x = np.random.default_rng(0).normal(size=np.prod(function.shape))
    v = function.centred(np.random.default_rng(1).normal(size=len(x)))
    if not fit_intercept:
        for vector in (x, v):
            function.to_matrix(vector)[:, -1] = 0
    value, gradient, hessian = function.expand(x)
    expected = function(x)
    assert value == pytest.approx(expected[0])
    np.testing.assert_allclose(gradient, expected[1], atol=1e-13)
    np.testing.assert_allclose(hessian @ v, function.hessian_product_at(x)(v), atol=1e-13)
    start = function.centred(x)
    result = minimise(function, start, solver="newton-cholesky", tol=1e-12, max_iter=20)
    assert result.converged
    least = minimise(function, start, solver="lbfgs", tol=1e-12, max_iter=500)
    assert result.loss == pytest.approx(least.loss, rel=1e-13)
    np.testing.assert_allclose(result.x, least.x, atol=1e-9)


def test_coefficients_stay_centred_and_intercepts_that_are_not_fitted_stay_0():
    X, target, weight = make_rows(4)
    function = make_objective(X * np.logspace(-6, 6, D), target, 4, weight, 0.0, fit_intercept=False)
    result = minimise(function, solver="newton-cholesky", tol=1e-10, max_iter=50)
    matrix = function.to_matrix(result.x)
    assert not matrix[:, -1].any()
    assert (abs(matrix.sum(axis=0)) <= 1e-10 * abs(matrix).max(axis=0)).all()


def raw_columns(n_classes):
    """Nearly separable classes in columns of scales from 1 to 10,000, some rows far from all others."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, n_classes, 600)
    X = rng.normal(size=(n_classes, 7))[y] * 2 + rng.standard_t(2, size=(600, 7))
    return X * np.logspace(0, 4, 7), y


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n_classes", [2, 5])
def test_auto_goes_on_with_the_whole_hessian_where_lbfgs_is_slow(n_classes, dtype):
    X, y = raw_columns(n_classes)
    function, seen = make_objective(X.astype(dtype), y, n_classes, strength=1e-6), []
    result = minimise(function, tol=1e-8, max_iter=100, noise=float(np.finfo(dtype).eps), callback=seen.append)
    assert result.converged
    assert [progress.iteration for progress in seen] == list(range(result.iterations + 1))
    least = minimise(function, solver="newton-cholesky", tol=1e-8, max_iter=100)
    assert result.loss == pytest.approx(least.loss, rel=1e-9)


def test_a_dear_hessian_is_left_to_the_end():
    costs = [cost_of_expansion(shape) for shape in [(1, 5), (7, 10), (10, 65), (16, 121)]]
    assert costs == sorted(costs)
    assert costs[0] < 4
    assert costs[2] < strategy.MAX_COST < costs[3]
    assert uses_newton("auto", 1000)
    assert not uses_newton("auto", 1001)
    assert uses_newton("newton-cholesky", 10_000)
    assert not uses_newton("lbfgs", 10)


def test_where_it_is_dear_it_ends_what_rounding_stops(monkeypatch):
    monkeypatch.setattr(strategy, "MAX_COST", 0)
    X, y = raw_columns(3)
    function = make_objective(X.astype(np.float32), y, 3, strength=1e-6)
    result = minimise(function, tol=1e-8, max_iter=200, noise=float(np.finfo(np.float32).eps))
    assert result.converged
