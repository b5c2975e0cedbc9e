"""L-BFGS, on functions whose answers are known."""

import itertools

import numpy as np
import pytest
from fit_problems import ill_conditioned_quadratic, quadratic, rosenbrock, solve

from xent._fit.lbfgs import _InverseHessian, lbfgs
from xent._fit.solver import NO_DESCENT, NOT_FINITE, Progress


@pytest.fixture
def problem():
    return ill_conditioned_quadratic()


def test_quadratic(problem):
    matrix, target = problem
    result = solve(lbfgs, quadratic(matrix, target), np.zeros(40), tol=1e-9, max_iter=5000)
    assert result.converged
    assert result.grad_norm <= 1e-9
    np.testing.assert_allclose(result.x, target, atol=1e-8)


def test_rosenbrock():
    result = solve(lbfgs, rosenbrock, np.zeros(10), tol=1e-8, max_iter=1000)
    assert result.converged
    np.testing.assert_allclose(result.x, 1, atol=1e-6)


def test_an_exact_preconditioner_is_newton(problem):
    matrix, target = problem
    inverse = np.linalg.inv(matrix)
    exact = {"preconditioner_at": lambda x: lambda g: inverse @ g}
    result = solve(lbfgs, quadratic(matrix, target), np.zeros(40), **exact, tol=1e-8, max_iter=10)
    assert result.converged
    assert result.iterations <= 2


@pytest.mark.parametrize("memory", [1, 3, 30])
def test_compact_form_is_the_bfgs_update(problem, memory):
    """Against H' = (I - s y'/y's) H (I - y s'/y's) + s s'/y's over the kept pairs, from a scaled preconditioner."""
    matrix, _ = problem
    rng = np.random.default_rng(1)
    preconditioner = np.diag(rng.uniform(1, 2, 40))
    compact = _InverseHessian(40, memory)
    compact.renew(lambda x: lambda g: preconditioner @ g, None)
    steps = rng.normal(size=(7, 40))
    for step in steps:
        compact.learn(step, matrix @ step)
    kept = steps[-memory:]
    newest = matrix @ kept[-1]
    dense = preconditioner * (kept[-1] @ newest) / (newest @ preconditioner @ newest)
    for step in kept:
        change = matrix @ step
        left = np.eye(40) - np.outer(step, change) / (step @ change)
        dense = left @ dense @ left.T + np.outer(step, step) / (step @ change)
    gradient = rng.normal(size=40)
    np.testing.assert_allclose(compact.apply(gradient), dense @ gradient, rtol=1e-6)


def test_renewing_the_preconditioner_keeps_the_pairs(problem):
    matrix, _ = problem
    rng = np.random.default_rng(2)
    first, second = np.diag(rng.uniform(1, 2, 40)), np.diag(rng.uniform(1, 2, 40))
    late, early = _InverseHessian(40, 3), _InverseHessian(40, 3)
    late.renew(lambda x: lambda g: first @ g, None)
    early.renew(lambda x: lambda g: second @ g, None)
    for step in rng.normal(size=(5, 40)):
        late.learn(step, matrix @ step)
        early.learn(step, matrix @ step)
    late.renew(lambda x: lambda g: second @ g, None)
    gradient = rng.normal(size=40)
    np.testing.assert_allclose(late.apply(gradient), early.apply(gradient), rtol=1e-9)


def test_callback_sees_every_iteration_and_the_loss_falls(problem):
    seen: list[Progress] = []
    result = solve(lbfgs, quadratic(*problem), np.zeros(40), tol=1e-6, max_iter=5000, callback=seen.append)
    assert [p.iteration for p in seen] == list(range(result.iterations + 1))
    assert seen[-1].loss == result.loss
    assert all(b.loss <= a.loss for a, b in itertools.pairwise(seen))


def test_max_iter_and_a_start_at_the_minimum(problem):
    matrix, target = problem
    result = solve(lbfgs, quadratic(matrix, target), np.zeros(40), tol=1e-12, max_iter=3)
    assert (result.iterations, result.converged, result.message) == (3, False, "max_iter was reached")
    result = solve(lbfgs, quadratic(matrix, target), target, tol=1e-12, max_iter=3)
    assert (result.iterations, result.converged) == (0, True)


def test_no_descent_is_said():
    """A function flatter than its gradient says: rounding errors can make it so."""
    result = solve(lbfgs, lambda x: (1.0, np.ones(2)), np.zeros(2), tol=1e-6, max_iter=50, noise=0.0)
    assert (result.iterations, result.converged) == (0, False)
    assert "no step" in result.message


def test_lbfgs_stops_where_rounding_hides_all_progress():
    """Values and gradients of a quadratic to seven digits: none of many iterations more would be of use."""
    rng = np.random.default_rng(4)
    scale = np.logspace(0, 3, 20)

    def rounded(x):
        error = 1 + 1e-7 * rng.normal(size=21)
        return (1 + 0.5 * float(scale @ (x - 1) ** 2)) * error[0], scale * (x - 1) * error[1:] + 1e-5 * (error[1:] - 1)

    result = solve(lbfgs, rounded, np.zeros(20), tol=1e-15, max_iter=10_000, noise=1e-7)
    assert result.reason == NO_DESCENT
    assert result.iterations < 300
    np.testing.assert_allclose(result.x, 1, atol=1e-2)


def test_a_value_that_is_no_number_is_said():
    result = solve(lbfgs, lambda x: (np.nan, np.ones(2)), np.zeros(2), tol=1e-6, max_iter=50)
    assert (result.reason, result.iterations) == (NOT_FINITE, 0)


@pytest.mark.parametrize("factor", [1.0, 1e3, 1e8, 1e15])
def test_a_step_that_is_much_too_long_is_shortened(factor):
    """The gradient of sqrt(1 + x^2) does not say how far its minimum is, and the preconditioner does not know it."""

    def function(x):
        root = np.sqrt(1 + x[0] ** 2)
        return float(root), x / root

    ignorant = {"preconditioner_at": lambda x: lambda g: factor * g}
    result = solve(lbfgs, function, np.array([20.0]), **ignorant, tol=1e-6, max_iter=100)
    assert result.converged


def test_infinite_values_shorten_the_step():
    def barrier(x):     # x - log x, infinite from 0 down; far steps land there
        if x[0] <= 0:
            return np.inf, np.array([np.nan])
        return float(x[0] - np.log(x[0])), np.array([1 - 1 / x[0]])

    too_long = {"preconditioner_at": lambda x: lambda g: 1000 * g}
    result = solve(lbfgs, barrier, np.array([30.0]), **too_long, tol=1e-9, max_iter=200)
    assert result.converged
    np.testing.assert_allclose(result.x, 1, atol=1e-8)
