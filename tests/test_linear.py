"""The objective of a linear classifier: values, gradients and Hessian products, whatever holds the rows."""

import numpy as np
import pytest
import reference

from xent.linear import Objective, RowSums

sparse = pytest.importorskip("scipy.sparse")

N, D = 230, 6
TOLERANCE = {np.float32: 2e-6, np.float64: 1e-13}


def make(n_classes, soft=False, seed=0):
    """Rows (some elements 0), a target and weights."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(N, D)) * (rng.random((N, D)) < 0.6)
    target = rng.dirichlet(np.ones(n_classes), N) * rng.uniform(0.5, 2) if soft else rng.integers(0, n_classes, N)
    return X, target, rng.uniform(0, 2, N) * (rng.random(N) < 0.9)


HOLDERS = {
    "C": np.ascontiguousarray,
    "Fortran": np.asfortranarray,
    "strided": lambda X: np.repeat(np.repeat(X, 2, axis=0), 3, axis=1)[::2, ::3],
    "csr_array": sparse.csr_array,
    "csr_matrix": sparse.csr_matrix,
}


def twin(X, target, n_classes, weight, l2, matrix, fit_intercept=True):
    """The objective and its gradient from the reference loss, a row of coefficients for each class."""
    scores = X @ matrix[:, :-1].T + matrix[:, -1]
    if n_classes == 2:
        scores = np.pad(scores, ((0, 0), (1, 0)))
    loss, slopes = reference.cross_entropy(scores, target, sample_weight=weight)
    slopes = slopes[:, 1:] if n_classes == 2 else slopes
    gradient = np.c_[slopes.T @ X + l2 * matrix[:, :-1], slopes.sum(0) if fit_intercept else 0 * matrix[:, -1]]
    return loss + l2 / 2 * (matrix[:, :-1] ** 2).sum(), gradient


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("holder", HOLDERS)
@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("n_classes", [2, 3, 11, 40])
def test_objective_is_its_twin(n_classes, soft, holder, dtype):
    X, target, weight = make(n_classes, soft)
    X = X.astype(dtype)
    function = Objective(HOLDERS[holder](X), target, n_classes, weight, 0.1, True, None)
    matrix = np.random.default_rng(1).normal(size=function.shape).astype(dtype).astype(float)
    loss, gradient = function(matrix.ravel())
    expected, slopes = twin(X.astype(float), target, n_classes, weight, 0.1, matrix)
    assert loss == pytest.approx(expected, rel=TOLERANCE[dtype])
    assert gradient.dtype == np.float64
    np.testing.assert_allclose(gradient.reshape(function.shape), slopes, atol=TOLERANCE[dtype])


@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize("holder", HOLDERS)
@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("n_classes", [2, 3, 40])
def test_derivatives_by_finite_differences(n_classes, soft, holder, fit_intercept):
    X, target, weight = make(n_classes, soft)
    function = Objective(HOLDERS[holder](X), target, n_classes, weight, 0.2, fit_intercept, None)
    rng = np.random.default_rng(2)
    x, v = rng.normal(size=(2, *function.shape))
    if not fit_intercept:
        x[:, -1] = v[:, -1] = 0
    x, v = x.ravel(), v.ravel()
    (above, up), (below, down) = function(x + 1e-5 * v), function(x - 1e-5 * v)
    assert function(x)[1] @ v == pytest.approx((above - below) / 2e-5, abs=1e-8)
    np.testing.assert_allclose(function.hessian_product_at(x)(v), (up - down) / 2e-5, atol=1e-8)


@pytest.mark.parametrize("holder", ["C", "csr_array"])
def test_sums_of_parts_are_the_sums(holder):
    X, target, weight = make(5)
    X = HOLDERS[holder](X)
    whole = RowSums(X, target, 5, weight)
    parts = [RowSums(X[s], target[s], 5, weight[s]) for s in (slice(0, 70), slice(70, N))]
    matrix, v = np.random.default_rng(3).normal(size=(2, 5, D + 1))
    losses, gradients = zip(*(part.loss_gradient(matrix) for part in parts), strict=True)
    assert sum(part.weight for part in parts) == pytest.approx(whole.weight)
    assert sum(losses) == pytest.approx(whole.loss_gradient(matrix)[0])
    np.testing.assert_allclose(sum(gradients), whole.loss_gradient(matrix)[1], atol=1e-12)
    products = [part.hessian_product_at(matrix)(v) for part in parts]
    np.testing.assert_allclose(sum(products), whole.hessian_product_at(matrix)(v), atol=1e-12)
    of_whole = Objective.of(whole, 0.3, True)(matrix.ravel())
    expected = Objective(X, target, 5, weight, 0.3, True, None)(matrix.ravel())
    assert of_whole[0] == expected[0]
    reference.assert_same_bits(of_whole[1], expected[1])


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("holder", HOLDERS)
@pytest.mark.parametrize("n_classes", [2, 10, 40])
def test_any_number_of_threads_gives_the_same_bits(n_classes, holder, dtype):
    rng = np.random.default_rng(4)
    X = HOLDERS[holder]((rng.normal(size=(6000, 33)) * (rng.random((6000, 33)) < 0.5)).astype(dtype))
    target = rng.integers(0, n_classes, 6000)
    results = []
    for n_threads in (1, 2, 3, 7):
        function = Objective(X, target, n_classes, np.ones(6000), 0.1, True, n_threads)
        x, v = np.random.default_rng(5).normal(size=(2, np.prod(function.shape)))
        loss, gradient = function(x)
        results.append((loss, gradient, function.hessian_product_at(x)(v)))
    for loss, gradient, product in results[1:]:
        assert loss == results[0][0]
        reference.assert_same_bits(gradient, results[0][1])
        reference.assert_same_bits(product, results[0][2])
