"""The minimisers, on functions whose answers are known."""

import itertools

import numpy as np
import pytest

from xent.solvers import Progress, _InverseHessian, lbfgs


def quadratic(matrix, target):
    def function(x):
        difference = x - target
        product = matrix @ difference
        return 0.5 * float(difference @ product), product

    return function


def rosenbrock(x):
    a, b = 1 - x[:-1], x[1:] - x[:-1] ** 2
    gradient = np.zeros_like(x)
    gradient[:-1] = -2 * a - 400 * b * x[:-1]
    gradient[1:] += 200 * b
    return float((a**2 + 100 * b**2).sum()), gradient


@pytest.fixture
def problem():
    rng = np.random.default_rng(0)
    factor = rng.normal(size=(40, 40)) * np.logspace(-2, 2, 40)
    return factor.T @ factor + np.eye(40), rng.normal(size=40)


def test_quadratic(problem):
    matrix, target = problem
    result = lbfgs(quadratic(matrix, target), np.zeros(40), tol=1e-9, max_iter=5000)
    assert result.converged
    assert result.grad_norm <= 1e-9
    np.testing.assert_allclose(result.x, target, atol=1e-8)


def test_rosenbrock():
    result = lbfgs(rosenbrock, np.zeros(10), tol=1e-8, max_iter=1000)
    assert result.converged
    np.testing.assert_allclose(result.x, 1, atol=1e-6)


def test_exact_metric_is_newton(problem):
    matrix, target = problem
    inverse = np.linalg.inv(matrix)
    result = lbfgs(
        quadratic(matrix, target), np.zeros(40), metric_at=lambda x: lambda g: inverse @ g, tol=1e-8, max_iter=10
    )
    assert result.converged
    assert result.iterations <= 2


@pytest.mark.parametrize("memory", [1, 3, 30])
def test_compact_form_is_the_bfgs_update(problem, memory):
    """Against H' = (I - s y'/y's) H (I - y s'/y's) + s s'/y's over the kept pairs, from a scaled metric."""
    matrix, _ = problem
    rng = np.random.default_rng(1)
    metric = np.diag(rng.uniform(1, 2, 40))
    compact = _InverseHessian(40, memory)
    compact.renew(lambda g: metric @ g)
    steps = rng.normal(size=(7, 40))
    for step in steps:
        compact.learn(step, matrix @ step)
    kept = steps[-memory:]
    newest = matrix @ kept[-1]
    dense = metric * (kept[-1] @ newest) / (newest @ metric @ newest)
    for step in kept:
        change = matrix @ step
        left = np.eye(40) - np.outer(step, change) / (step @ change)
        dense = left @ dense @ left.T + np.outer(step, step) / (step @ change)
    gradient = rng.normal(size=40)
    np.testing.assert_allclose(compact.apply(gradient), dense @ gradient, rtol=1e-6)


def test_renewing_the_metric_keeps_the_pairs(problem):
    matrix, _ = problem
    rng = np.random.default_rng(2)
    first, second = np.diag(rng.uniform(1, 2, 40)), np.diag(rng.uniform(1, 2, 40))
    late, early = _InverseHessian(40, 3), _InverseHessian(40, 3)
    late.renew(lambda g: first @ g)
    early.renew(lambda g: second @ g)
    for step in rng.normal(size=(5, 40)):
        late.learn(step, matrix @ step)
        early.learn(step, matrix @ step)
    late.renew(lambda g: second @ g)
    gradient = rng.normal(size=40)
    np.testing.assert_allclose(late.apply(gradient), early.apply(gradient), rtol=1e-9)


def test_callback_sees_every_iteration_and_the_loss_falls(problem):
    seen: list[Progress] = []
    result = lbfgs(quadratic(*problem), np.zeros(40), tol=1e-6, max_iter=5000, callback=seen.append)
    assert [p.iteration for p in seen] == list(range(result.iterations + 1))
    assert seen[-1].loss == result.loss
    assert all(b.loss <= a.loss for a, b in itertools.pairwise(seen))


def test_max_iter_and_a_start_at_the_minimum(problem):
    matrix, target = problem
    result = lbfgs(quadratic(matrix, target), np.zeros(40), tol=1e-12, max_iter=3)
    assert (result.iterations, result.converged, result.message) == (3, False, "max_iter was reached")
    result = lbfgs(quadratic(matrix, target), target, tol=1e-12, max_iter=3)
    assert (result.iterations, result.converged) == (0, True)


def test_no_descent_is_said():
    """A function flatter than its gradient says: rounding errors can make it so."""
    result = lbfgs(lambda x: (1.0, np.ones(2)), np.zeros(2), tol=1e-6, max_iter=50, noise=0.0)
    assert (result.iterations, result.converged) == (0, False)
    assert "no step" in result.message


def test_infinite_values_shorten_the_step():
    def barrier(x):     # x - log x, infinite from 0 down; far steps land there
        if x[0] <= 0:
            return np.inf, np.array([np.nan])
        return float(x[0] - np.log(x[0])), np.array([1 - 1 / x[0]])

    result = lbfgs(barrier, np.array([30.0]), tol=1e-9, max_iter=200, metric_at=lambda x: lambda g: 1000 * g)
    assert result.converged
    np.testing.assert_allclose(result.x, 1, atol=1e-8)
