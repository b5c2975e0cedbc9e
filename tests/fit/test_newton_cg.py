"""Newton-CG, on functions whose answers are known."""

import numpy as np
import pytest
from fit_problems import ill_conditioned_quadratic, quadratic, rosenbrock, solve

from xent._fit.lbfgs import lbfgs
from xent._fit.newton_cg import newton_cg
from xent._fit.solver import NOT_FINITE, Progress


@pytest.fixture
def problem():
    return ill_conditioned_quadratic()


def product_by_differences(function):
    """Hessian products from gradients."""

    def at(x):
        return lambda v: (function(x + 1e-6 * v)[1] - function(x - 1e-6 * v)[1]) / 2e-6

    return at


def test_newton_takes_few_iterations_on_a_quadratic(problem):
    matrix, target = problem
    product = {"hessian_product_at": lambda x: lambda v: matrix @ v}
    result = solve(newton_cg, quadratic(matrix, target), np.zeros(40), **product, tol=1e-9, max_iter=20)
    assert result.converged
    np.testing.assert_allclose(result.x, target, atol=1e-8)


def test_newton_leaves_a_region_without_positive_curvature():
    start = np.zeros(10)
    start[::2] = -1.2
    product = {"hessian_product_at": product_by_differences(rosenbrock)}
    result = solve(newton_cg, rosenbrock, start, **product, tol=1e-8, max_iter=500)
    assert result.converged
    assert result.loss < 4      # the global minimum is 0, a local one 3.99
    assert result.grad_norm <= 1e-8


def test_a_preconditioner_makes_conjugate_gradients_short(problem):
    matrix, target = problem
    inverse = np.linalg.inv(matrix)
    products = []

    def product_at(x):
        def product(v):
            products.append(v)
            return matrix @ v

        return product

    exact = {"preconditioner_at": lambda x: lambda g: inverse @ g}
    function = quadratic(matrix, target)
    result = solve(newton_cg, function, np.zeros(40), hessian_product_at=product_at, **exact, tol=1e-8, max_iter=10)
    assert result.converged
    assert len(products) <= 3


def test_a_preconditioner_is_made_anew_where_the_loss_has_fallen():
    """exp(x) - x + level, whose minimum is at 0: near it, or above a high level, the first preconditioner does."""
    for level, start, number in [(0, 1e-3, 1), (1e6, 3.0, 1), (0, 3.0, 5)]:
        made = []

        def preconditioner_at(x, made=made):
            made.append(x[0])
            return lambda g, x=x: g * np.exp(-x)

        result = solve(
            newton_cg, lambda x, level=level: (float(np.exp(x[0]) - x[0] + level), np.exp(x) - 1), np.array([start]),
            hessian_product_at=lambda x: lambda v: np.exp(x) * v, preconditioner_at=preconditioner_at, tol=1e-12,
            max_iter=100,
        )  # fmt: skip
        assert result.converged
        assert result.iterations > len(made) - 1
        assert len(made) <= number


def test_what_is_known_at_the_start_is_not_computed(problem):
    matrix, target = problem
    function, start, asked = quadratic(matrix, target), np.zeros(40), []

    def counted(x):
        asked.append(x)
        return function(x)

    arguments = {"hessian_product_at": lambda x: lambda v: matrix @ v, "tol": 1e-9, "max_iter": 20}
    result = solve(newton_cg, counted, start, at_start=function(start), **arguments)
    np.testing.assert_array_equal(result.x, solve(newton_cg, function, start, **arguments).x)
    assert len(asked) == result.iterations
    assert all(x.any() for x in asked)


@pytest.mark.parametrize("forcing", [0.9, 0.25, 1e-6])
def test_forcing(problem, forcing):
    """The first step leaves so much of the gradient, at most; the smaller, the fewer steps."""
    matrix, target = problem
    norms = []
    result = solve(
        newton_cg, quadratic(matrix, target), np.zeros(40), hessian_product_at=lambda x: lambda v: matrix @ v,
        forcing=forcing, tol=1e-9, max_iter=50, callback=lambda progress: norms.append(progress.grad_norm),
    )  # fmt: skip
    assert result.converged
    assert norms[1] <= forcing * norms[0] * 40**0.5
    assert result.iterations == len(norms) - 1 <= (3 if forcing < 1e-3 else 20)


@pytest.mark.parametrize("solver", ["lbfgs", "newton_cg"])
def test_columns_of_any_scale(solver):
    """A quadratic whose Hessian spans 24 decades, with its diagonal as the preconditioner."""
    rng = np.random.default_rng(3)
    factor = rng.normal(size=(60, 30))
    scale = np.logspace(-6, 6, 30)
    matrix = factor.T @ factor / 60 * scale * scale[:, None]
    target = rng.normal(size=30) / scale
    function = quadratic(matrix, target)
    arguments = {"preconditioner_at": lambda x: lambda g: g / matrix.diagonal(), "tol": 1e-12, "max_iter": 500}
    if solver == "lbfgs":
        result = solve(lbfgs, function, np.zeros(30), **arguments)
    else:
        product = {"hessian_product_at": lambda x: lambda v: matrix @ v}
        result = solve(newton_cg, function, np.zeros(30), **product, **arguments)
    np.testing.assert_allclose(result.x * scale, target * scale, atol=1e-5)


def test_newton_shortens_steps_into_infinity():
    def barrier(x):
        if x[0] <= 0:
            return np.inf, np.array([np.nan])
        return float(x[0] - np.log(x[0])), np.array([1 - 1 / x[0]])

    product = {"hessian_product_at": lambda x: lambda v: v / x[0] ** 2}
    result = solve(newton_cg, barrier, np.array([30.0]), **product, tol=1e-9, max_iter=200)
    assert result.converged
    np.testing.assert_allclose(result.x, 1, atol=1e-8)


def test_newton_says_why_it_ends(problem):
    matrix, target = problem

    def run(function=None, start=None, **arguments):
        given = {"tol": 1e-9, "max_iter": 20, "hessian_product_at": lambda x: lambda v: matrix @ v, **arguments}
        start = np.zeros(40) if start is None else start
        return solve(newton_cg, function or quadratic(matrix, target), start, **given)

    seen: list[Progress] = []
    result = run(callback=seen.append)
    assert [p.iteration for p in seen] == list(range(result.iterations + 1))
    assert run(max_iter=1, tol=1e-300).message == "max_iter was reached"
    assert run(start=target).iterations == 0
    assert "not a finite number" in run(lambda x: (np.nan, np.ones(40))).message
    flat = run(lambda x: (1.0, np.ones(40)), hessian_product_at=lambda x: lambda v: v, max_iter=500)
    assert (flat.converged, flat.loss) == (False, 1.0)
    assert "no step" in flat.message


def test_a_preconditioner_that_overflows_is_said():
    overflow = {"hessian_product_at": lambda x: lambda v: v, "preconditioner_at": lambda x: lambda g: g * 1e200}
    with np.errstate(over="ignore"):
        result = solve(newton_cg, lambda x: (1.0, np.full(2, 1e200)), np.zeros(2), **overflow, tol=1e-6, max_iter=50)
    assert (result.reason, result.iterations) == (NOT_FINITE, 0)


def test_a_preconditioner_that_misled_is_renewed():
    """Above a level that hides how far the value has fallen."""
    made = []

    def preconditioner_at(x):
        made.append(x[0])
        return lambda g, x=x: g * np.exp(-x)

    result = solve(
        newton_cg, lambda x: (float(np.exp(x[0]) - x[0]) + 1e3, np.exp(x) - 1), np.array([-6.0]),
        hessian_product_at=lambda x: lambda v: np.exp(x) * v, preconditioner_at=preconditioner_at, tol=1e-9,
        max_iter=100,
    )    # fmt: skip
    assert result.converged
    assert len(made) > 1
