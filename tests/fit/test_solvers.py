"""The minimisers, on functions whose answers are known."""

import itertools

import numpy as np
import pytest

from xent._fit.solvers import NO_DESCENT, NOT_FINITE, Progress, _InverseHessian, lbfgs, newton_cg


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


def test_lbfgs_stops_where_rounding_hides_all_progress():
    """Values and gradients of a quadratic to seven digits: none of many iterations more would be of use."""
    rng = np.random.default_rng(4)
    scale = np.logspace(0, 3, 20)

    def rounded(x):
        error = 1 + 1e-7 * rng.normal(size=21)
        return (1 + 0.5 * float(scale @ (x - 1) ** 2)) * error[0], scale * (x - 1) * error[1:] + 1e-5 * (error[1:] - 1)

    result = lbfgs(rounded, np.zeros(20), tol=1e-15, max_iter=10_000, noise=1e-7)
    assert result.reason == NO_DESCENT
    assert result.iterations < 300
    np.testing.assert_allclose(result.x, 1, atol=1e-2)


def test_a_value_that_is_no_number_is_said():
    result = lbfgs(lambda x: (np.nan, np.ones(2)), np.zeros(2), tol=1e-6, max_iter=50)
    assert (result.reason, result.iterations) == (NOT_FINITE, 0)
    overflow = {"hessian_product_at": lambda x: lambda v: v, "metric_at": lambda x: lambda g: g * 1e200}
    with np.errstate(over="ignore"):
        result = newton_cg(lambda x: (1.0, np.full(2, 1e200)), np.zeros(2), **overflow, tol=1e-6, max_iter=50)
    assert (result.reason, result.iterations) == (NOT_FINITE, 0)


def test_a_metric_that_misled_is_renewed():
    """Above a level that hides how far the value has fallen."""
    made = []

    def metric_at(x):
        made.append(x[0])
        return lambda g, x=x: g * np.exp(-x)

    result = newton_cg(
        lambda x: (float(np.exp(x[0]) - x[0]) + 1e3, np.exp(x) - 1), np.array([-6.0]),
        hessian_product_at=lambda x: lambda v: np.exp(x) * v, metric_at=metric_at, tol=1e-9, max_iter=100,
    )    # fmt: skip
    assert result.converged
    assert len(made) > 1


@pytest.mark.parametrize("factor", [1.0, 1e3, 1e8, 1e15])
def test_a_step_that_is_much_too_long_is_shortened(factor):
    """The gradient of sqrt(1 + x^2) says nothing of how far its minimum is; a metric that does not know it either."""
    def function(x):
        root = np.sqrt(1 + x[0] ** 2)
        return float(root), x / root

    result = lbfgs(function, np.array([20.0]), metric_at=lambda x: lambda g: factor * g, tol=1e-6, max_iter=100)
    assert result.converged


def test_infinite_values_shorten_the_step():
    def barrier(x):     # x - log x, infinite from 0 down; far steps land there
        if x[0] <= 0:
            return np.inf, np.array([np.nan])
        return float(x[0] - np.log(x[0])), np.array([1 - 1 / x[0]])

    result = lbfgs(barrier, np.array([30.0]), tol=1e-9, max_iter=200, metric_at=lambda x: lambda g: 1000 * g)
    assert result.converged
    np.testing.assert_allclose(result.x, 1, atol=1e-8)


# ---------------------------------------------------------------------------------------------------------------------
# Newton-CG
# ---------------------------------------------------------------------------------------------------------------------


def product_by_differences(function):
    """Hessian products from gradients."""

    def at(x):
        return lambda v: (function(x + 1e-6 * v)[1] - function(x - 1e-6 * v)[1]) / 2e-6

    return at


def test_newton_takes_few_iterations_on_a_quadratic(problem):
    matrix, target = problem
    product = {"hessian_product_at": lambda x: lambda v: matrix @ v}
    result = newton_cg(quadratic(matrix, target), np.zeros(40), **product, tol=1e-9, max_iter=20)
    assert result.converged
    np.testing.assert_allclose(result.x, target, atol=1e-8)


def test_newton_leaves_a_region_without_positive_curvature():
    start = np.zeros(10)
    start[::2] = -1.2
    result = newton_cg(rosenbrock, start, hessian_product_at=product_by_differences(rosenbrock), tol=1e-8, max_iter=500)
    assert result.converged
    assert result.loss < 4      # the global minimum is 0, a local one 3.99
    assert result.grad_norm <= 1e-8


def test_a_metric_makes_conjugate_gradients_short(problem):
    matrix, target = problem
    inverse = np.linalg.inv(matrix)
    products = []

    def product_at(x):
        def product(v):
            products.append(v)
            return matrix @ v

        return product

    metric = {"metric_at": lambda x: lambda g: inverse @ g}
    function = quadratic(matrix, target)
    result = newton_cg(function, np.zeros(40), hessian_product_at=product_at, **metric, tol=1e-8, max_iter=10)
    assert result.converged
    assert len(products) <= 3


def test_a_metric_is_made_anew_where_the_loss_has_fallen():
    """exp(x) - x + level, whose minimum is at 0: near it, or above a high level, the first metric does."""
    for level, start, number in [(0, 1e-3, 1), (1e6, 3.0, 1), (0, 3.0, 5)]:
        made = []

        def metric_at(x, made=made):
            made.append(x[0])
            return lambda g, x=x: g * np.exp(-x)

        result = newton_cg(
            lambda x, level=level: (float(np.exp(x[0]) - x[0] + level), np.exp(x) - 1), np.array([start]),
            hessian_product_at=lambda x: lambda v: np.exp(x) * v, metric_at=metric_at, tol=1e-12, max_iter=100,
        )    # fmt: skip
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
    result = newton_cg(counted, start, at_start=function(start), **arguments)
    np.testing.assert_array_equal(result.x, newton_cg(function, start, **arguments).x)
    assert len(asked) == result.iterations
    assert all(x.any() for x in asked)


@pytest.mark.parametrize("forcing", [0.9, 0.25, 1e-6])
def test_forcing(problem, forcing):
    """The first step leaves so much of the gradient, at most; the smaller, the fewer steps."""
    matrix, target = problem
    norms = []
    result = newton_cg(
        quadratic(matrix, target), np.zeros(40), hessian_product_at=lambda x: lambda v: matrix @ v, forcing=forcing,
        tol=1e-9, max_iter=50, callback=lambda progress: norms.append(progress.grad_norm),
    )    # fmt: skip
    assert result.converged
    assert norms[1] <= forcing * norms[0] * 40**0.5
    assert result.iterations == len(norms) - 1 <= (3 if forcing < 1e-3 else 20)


@pytest.mark.parametrize("solver", ["lbfgs", "newton_cg"])
def test_columns_of_any_scale(solver):
    """A quadratic whose Hessian spans 24 decades, with its diagonal as the metric."""
    rng = np.random.default_rng(3)
    factor = rng.normal(size=(60, 30))
    scale = np.logspace(-6, 6, 30)
    matrix = factor.T @ factor / 60 * scale * scale[:, None]
    target = rng.normal(size=30) / scale
    function = quadratic(matrix, target)
    arguments = {"metric_at": lambda x: lambda g: g / matrix.diagonal(), "tol": 1e-12, "max_iter": 500}
    if solver == "lbfgs":
        result = lbfgs(function, np.zeros(30), **arguments)
    else:
        result = newton_cg(function, np.zeros(30), hessian_product_at=lambda x: lambda v: matrix @ v, **arguments)
    np.testing.assert_allclose(result.x * scale, target * scale, atol=1e-5)


def test_newton_shortens_steps_into_infinity():
    def barrier(x):
        if x[0] <= 0:
            return np.inf, np.array([np.nan])
        return float(x[0] - np.log(x[0])), np.array([1 - 1 / x[0]])

    result = newton_cg(
        barrier, np.array([30.0]), hessian_product_at=lambda x: lambda v: v / x[0] ** 2, tol=1e-9, max_iter=200
    )
    assert result.converged
    np.testing.assert_allclose(result.x, 1, atol=1e-8)


def test_newton_says_why_it_ends(problem):
    matrix, target = problem

    def run(function=None, start=None, **arguments):
        given = {"tol": 1e-9, "max_iter": 20, "hessian_product_at": lambda x: lambda v: matrix @ v, **arguments}
        return newton_cg(function or quadratic(matrix, target), np.zeros(40) if start is None else start, **given)

    seen: list[Progress] = []
    result = run(callback=seen.append)
    assert [p.iteration for p in seen] == list(range(result.iterations + 1))
    assert run(max_iter=1, tol=1e-300).message == "max_iter was reached"
    assert run(start=target).iterations == 0
    assert "not a finite number" in run(lambda x: (np.nan, np.ones(40))).message
    flat = run(lambda x: (1.0, np.ones(40)), hessian_product_at=lambda x: lambda v: v, max_iter=500)
    assert (flat.converged, flat.loss) == (False, 1.0)
    assert "no step" in flat.message
