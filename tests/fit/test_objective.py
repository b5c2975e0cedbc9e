"""The objective: values, gradients and Hessian products, whatever holds the rows."""

import numpy as np
import pytest
from fit_problems import HOLDERS, TOLERANCE, evaluate_twin, make_objective, make_rows


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("holder", HOLDERS)
@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("n_classes", [2, 3, 11, 40])
def test_objective_is_its_twin(n_classes, soft, holder, dtype):
    X, target, weight = make_rows(n_classes, soft)
    X = X.astype(dtype)
    function = make_objective(HOLDERS[holder](X), target, n_classes, weight, 0.1)
    matrix = np.random.default_rng(1).normal(size=function.shape).astype(dtype).astype(float)
    loss, gradient = function(function.to_vector(matrix))
    expected, expected_gradient = evaluate_twin(X.astype(float), target, n_classes, weight, 0.1, matrix)
    assert loss == pytest.approx(expected, rel=TOLERANCE[dtype])
    assert gradient.dtype == np.float64
    np.testing.assert_allclose(function.to_matrix(gradient), expected_gradient, atol=TOLERANCE[dtype])


@pytest.mark.parametrize(("fit_intercept", "strength"), [(True, 0.2), (True, 0.0), (False, 0.2)])
@pytest.mark.parametrize("holder", HOLDERS)
@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("n_classes", [2, 3, 40])
def test_derivatives_by_finite_differences(n_classes, soft, holder, fit_intercept, strength):
    X, target, weight = make_rows(n_classes, soft)
    function = make_objective(HOLDERS[holder](X), target, n_classes, weight, strength, fit_intercept)
    rng = np.random.default_rng(2)
    x, v = rng.normal(size=(2, *function.shape))
    if not fit_intercept:
        x[:, -1] = v[:, -1] = 0
    x, v = function.to_vector(x), function.to_vector(v)
    (above, up), (below, down) = function(x + 1e-5 * v), function(x - 1e-5 * v)
    assert function(x)[1] @ v == pytest.approx((above - below) / 2e-5, abs=1e-8)
    np.testing.assert_allclose(function.hessian_product_at(x)(v), (up - down) / 2e-5, atol=1e-8)
