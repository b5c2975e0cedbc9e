"""Fits under L1 and elastic net: the subgradient at their end, computed here, and what may not change it."""

import numpy as np
import pytest
from fit_problems import HOLDERS, TOLERANCE, evaluate_twin, make_rows, make_text, minimise

from xent._fit import newton_models, working_set
from xent._fit.column_descent import ColumnQuadratic
from xent._fit.kinks import least_subgradient, soft_threshold
from xent._fit.objective import Objective
from xent._fit.partitioned import Layout, SequentialSums
from xent._fit.penalties import L2, ElasticNet, make_penalty
from xent._fit.quadratics import DenseQuadratic, ProductQuadratic
from xent._fit.row_sums import RowSums
from xent._fit.solver import MAX_ITER

RATIOS = [0.5, 1.0]


def make_objective(X, target, n_classes, weight, penalty, fit_intercept=True, n_threads=None):
    return Objective(RowSums(X, target, n_classes, weight, n_threads), penalty, fit_intercept)


def find_violation(X, target, n_classes, weight, penalty, matrix, fit_intercept=True):
    """The largest absolute element of the least subgradient, and the objective."""
    value, gradient = evaluate_twin(X, target, n_classes, weight, penalty.curvature, matrix, fit_intercept)
    coef, slopes = matrix[:, :-1], gradient[:, :-1]
    at_zero = np.maximum(np.abs(slopes) - penalty.kink, 0)
    violation = np.where(coef == 0, at_zero, np.abs(slopes + penalty.kink * np.sign(coef)))
    return max(violation.max(), np.abs(gradient[:, -1]).max()), value + penalty.kink * np.abs(coef).sum()


def test_subgradient():
    x, kinks = np.array([0.0, 0.0, 2.0, -2.0, 0.0, 5.0]), np.array([1.0, 1.0, 1.0, 1.0, 0.0, np.inf])
    gradient = np.array([0.5, -3.0, 0.25, 0.25, 2.0, 7.0])
    np.testing.assert_array_equal(least_subgradient(x, gradient, kinks), [0, -2, 1.25, -0.75, 2, 0])
    np.testing.assert_array_equal(soft_threshold(np.array([3.0, -3.0, 0.5]), np.ones(3)), [2, -2, 0])


def test_a_penalty_without_a_kink_is_l2():
    assert make_penalty(0.5, 0.0) == L2(0.5)
    assert make_penalty(0.0, 1.0) == L2(0.0)
    assert make_penalty(0.5, 0.25) == ElasticNet(0.5, 0.25)


@pytest.mark.parametrize("l1_ratio", RATIOS)
@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("n_classes", [2, 4])
@pytest.mark.parametrize("holder", HOLDERS)
def test_the_minimum_of_rows_in_any_form(holder, n_classes, soft, l1_ratio):
    X, target, weight = make_rows(n_classes, soft)
    penalty = ElasticNet(0.02, l1_ratio)
    function = make_objective(HOLDERS[holder](X), target, n_classes, weight, penalty)
    result = minimise(function, tol=1e-9, max_iter=50)
    matrix = function.to_matrix(result.x)
    violation, value = find_violation(X, target, n_classes, weight, penalty, matrix)
    assert result.converged
    assert violation <= 2e-9
    assert result.loss == pytest.approx(value, rel=1e-12)
    assert (matrix[:, :-1] == 0).any()
    assert matrix[:, -1].mean() == pytest.approx(0, abs=1e-12) or n_classes == 2


@pytest.mark.parametrize("kind", [DenseQuadratic, ProductQuadratic, ColumnQuadratic])
@pytest.mark.parametrize("fit_intercept", [False, True])
@pytest.mark.parametrize("n_classes", [2, 3])
def test_each_model_has_the_same_minimum(monkeypatch, n_classes, fit_intercept, kind):
    X, target, weight = make_rows(n_classes)
    X[:, 1], X[:, 2] = 0, 3     # a column of zeros, and one that is constant
    penalty = ElasticNet(0.03, 0.7)
    sums = RowSums(X, target, n_classes, weight)
    monkeypatch.setattr(newton_models, "MAX_HESSIAN_SIZE", 1500 if kind is DenseQuadratic else 0)
    monkeypatch.setattr(newton_models, "SWEEPS_PER_SIZE", 1e-9)
    if kind is ProductQuadratic:
        layout = Layout(n_classes, X.shape[1], X.dtype, sums.weight, (len(X),))
        sums = SequentialSums(layout, lambda: iter([(0, RowSums(X, target, n_classes, weight))]))
    function = Objective(sums, penalty, fit_intercept)
    seen = []

    def record(*arguments):
        seen.append(newton_models.make_quadratic(*arguments))
        return seen[-1]

    monkeypatch.setattr(working_set, "make_quadratic", record)
    result = minimise(function, tol=1e-8, max_iter=60)
    assert result.converged
    assert {type(quadratic) for quadratic in seen} == {kind}
    matrix = function.to_matrix(result.x)
    assert find_violation(X, target, n_classes, weight, penalty, matrix, fit_intercept)[0] <= 2e-8
    assert (matrix[:, 1] == 0).all()
    assert fit_intercept or not matrix[:, -1].any()


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("is_sparse", [False, True])
@pytest.mark.parametrize("n_classes", [2, 3])
def test_working_sets(n_classes, is_sparse, dtype):
    X, target, weight = make_text(n_classes)
    penalty = ElasticNet(0.005, 0.9)
    X = X.astype(dtype)
    function = make_objective(X if is_sparse else X.toarray(), target, n_classes, weight, penalty)
    seen = []
    tol = 1e-8 if dtype == np.float64 else 1e-5
    noise = float(np.finfo(dtype).eps)
    result = minimise(function, tol=tol, max_iter=30, noise=noise, callback=seen.append)
    assert result.converged
    assert [progress.iteration for progress in seen] == list(range(result.iterations + 1))
    assert seen[-1].loss == result.loss
    matrix = function.to_matrix(result.x)
    assert find_violation(X.toarray(), target, n_classes, weight, penalty, matrix)[0] <= 2 * tol
    assert 0 < np.count_nonzero(matrix[:, :-1]) < matrix.size / 4
    assert minimise(function, tol=tol, max_iter=0).reason == MAX_ITER


def test_a_start_at_the_minimum_stays_there():
    X, target, weight = make_text(3)
    function = make_objective(X, target, 3, weight, ElasticNet(0.005, 1.0))
    first = minimise(function, tol=1e-8, max_iter=30)
    again = minimise(function, first.x, tol=1e-7, max_iter=30)
    assert again.iterations == 0
    np.testing.assert_allclose(again.x, first.x, rtol=0, atol=1e-15)


def test_a_strong_penalty_leaves_intercepts_alone():
    """From any start, warm ones included."""
    X, target, weight = make_rows(4)
    function = make_objective(X, target, 4, weight, ElasticNet(10.0, 1.0))
    start = np.random.default_rng(0).normal(size=28)
    matrix = function.to_matrix(minimise(function, start, tol=1e-10, max_iter=30).x)
    share = np.bincount(target, weight) / weight.sum()
    assert not matrix[:, :-1].any()
    np.testing.assert_allclose(np.exp(matrix[:, -1]) / np.exp(matrix[:, -1]).sum(), share, rtol=1e-6)


@pytest.mark.parametrize("maker", [make_rows, make_text])
def test_threads_do_not_change_a_bit(maker):
    X, target, weight = maker(3)
    found = [
        minimise(make_objective(X, target, 3, weight, ElasticNet(0.01, 0.8), n_threads=n), tol=1e-8, max_iter=30).x
        for n in (1, 3)
    ]
    np.testing.assert_array_equal(*found)


def test_columns_of_all_scales():
    X, target, weight = make_rows(3)
    function = make_objective(X * np.logspace(-4, 4, 6), target, 3, weight, ElasticNet(0.001, 1.0))
    assert minimise(function, tol=1e-7, max_iter=50).converged
