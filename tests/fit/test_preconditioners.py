"""Rough inverses of the Hessian."""

import numpy as np
import pytest
from fit_problems import HOLDERS, PRECONDITIONERS, D, make_objective, make_rows, minimise, use_preconditioner

from xent._fit import preconditioners
from xent._fit.inverses import regularised_inverse
from xent._fit.penalties import L2, NO_PENALTY
from xent._fit.subsample import Candidates

sparse = pytest.importorskip("scipy.sparse")


def dense_hessian(function, x):
    product = function.hessian_product_at(x)
    return np.array([product(e) for e in np.eye(x.size)])


@pytest.mark.parametrize("holder", ["C", "csr_array"])
@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize("kind", PRECONDITIONERS)
@pytest.mark.parametrize("n_classes", [2, 5])
def test_preconditioners_are_positive_and_near_the_inverse(monkeypatch, n_classes, kind, fit_intercept, holder):
    """Symmetric, positive among centred vectors, and a better condition than the Hessian has by itself."""
    use_preconditioner(monkeypatch, kind)
    X, target, weight = make_rows(n_classes)
    X = HOLDERS[holder](X * np.logspace(-3, 3, D))
    function = make_objective(X, target, n_classes, weight, 1e-9, fit_intercept)
    x = np.random.default_rng(6).normal(size=function.shape) / np.r_[np.logspace(-3, 3, D), 1]
    x[:, -1] *= fit_intercept
    x = function.to_vector(x)
    hessian = dense_hessian(function, x)
    matrix = np.array([function.preconditioner_at(x)(e) for e in np.eye(hessian.shape[0])])
    free = np.array([function.centred(e) for e in np.eye(hessian.shape[0])])
    for row in free:
        function.to_matrix(row)[:, -1] *= fit_intercept
    scale = np.sqrt(np.diag(hessian))
    scale[scale == 0] = 1
    matrix = free @ matrix @ free.T * scale * scale[:, None]
    np.testing.assert_allclose(matrix, matrix.T, atol=1e-9 * np.abs(matrix).max())
    assert np.linalg.eigvalsh((matrix + matrix.T) / 2).min() > -1e-9 * np.abs(matrix).max()
    values = np.linalg.eigvals(matrix / scale / scale[:, None] @ hessian).real
    values = values[values > 1e-9 * values.max()]
    assert values.max() / values.min() < 200


@pytest.mark.parametrize("solver", ["lbfgs", "newton-cg"])
@pytest.mark.parametrize("kind", PRECONDITIONERS)
@pytest.mark.parametrize("n_classes", [2, 5])
def test_solvers_agree(monkeypatch, n_classes, kind, solver):
    use_preconditioner(monkeypatch, kind)
    X, target, weight = make_rows(n_classes, soft=True)
    function = make_objective(sparse.csr_array(X), target, n_classes, weight, 0.01)
    result = minimise(function, solver=solver, tol=1e-11, max_iter=300, noise=1e-16)
    assert result.converged
    dense = make_objective(X, target, n_classes, weight, 0.01)
    monkeypatch.undo()
    expected = minimise(dense, tol=1e-11, max_iter=300, noise=1e-16)
    assert expected.converged
    np.testing.assert_allclose(function.to_matrix(result.x), dense.to_matrix(expected.x), atol=1e-8)


@pytest.mark.parametrize("n_classes", [2, 3])
def test_blocks_are_the_inverse_of_the_hessian_of_each_class(n_classes):
    rng = np.random.default_rng(3)
    X, target = rng.normal(size=(60, 4)), rng.integers(0, n_classes, 60)
    function = make_objective(X, target, n_classes, rng.uniform(0.5, 2, 60), 0.2)
    size = np.prod(function.shape)
    x = rng.normal(size=size)
    hessian = np.array([(function(x + h)[1] - function(x - h)[1]) / 2e-5 for h in 1e-5 * np.eye(size)])
    blocks = np.zeros((size, size))
    for k in range(0, size, 5):
        blocks[k : k + 5, k : k + 5] = np.linalg.inv(hessian[k : k + 5, k : k + 5])
    centre = np.array([function.centred(e) for e in np.eye(size)])
    precondition = function.preconditioner_at(x)
    actual = np.array([precondition(e) for e in np.eye(size)])
    np.testing.assert_allclose(actual, centre @ blocks @ centre, rtol=1e-5, atol=1e-6)


def hessian_of_classes(X, p, weight):
    rows = np.c_[X, np.ones(len(X))]
    variance = weight[:, None] * p * (1 - p) / weight.sum()
    return np.einsum("ik,ij,il->kjl", variance, rows, rows)


@pytest.mark.parametrize("layout", ["dense", "sparse"])
@pytest.mark.parametrize("n_classes", [2, 3, 9])
def test_blocks_of_all_rows_are_those_of_the_hessian(n_classes, layout):
    rng = np.random.default_rng(0)
    X, weight = rng.standard_normal((300, 4)), rng.uniform(0.5, 2, 300)
    matrix = rng.standard_normal((1 if n_classes == 2 else n_classes, 5))
    scores = X @ matrix[:, :-1].T + matrix[:, -1]
    e = np.exp(np.c_[np.zeros(300), scores] if n_classes == 2 else scores)
    p = (e / e.sum(axis=1, keepdims=True))[:, -len(matrix) :]
    expected = hessian_of_classes(X, p, weight)
    diagonal = np.einsum("kii->ki", expected)
    X = X if layout == "dense" else sparse.csr_array(X)
    subsample = Candidates(X, weight, n_classes, are_all=True).draw(matrix)
    blocks = preconditioners.estimate_class_blocks(subsample, matrix, diagonal)
    np.testing.assert_allclose(blocks, expected, rtol=1e-4, atol=1e-6)
    basis, curvatures = preconditioners.estimate_eigen_factors(subsample, matrix, diagonal, L2(0.3))
    penalty = 0.3 * np.diag([1.0] * 4 + [0])
    mean = np.linalg.inv(expected.mean(axis=0) + penalty)
    np.testing.assert_allclose((basis / curvatures.mean(axis=0)) @ basis.T, mean, rtol=1e-3, atol=1e-4)


def test_a_column_that_no_row_of_the_sample_has_keeps_its_curvature():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((20_000, 3))
    X[:, 2] = 0
    X[[5, 4711], 2] = 1e3
    weight, matrix = np.ones(len(X)), 0.1 * rng.standard_normal((3, 4))
    diagonal = np.array([[0.2, 0.2, 22.0, 0.2]] * 3)
    subsample = Candidates(X[1::10], weight[1::10], 3).draw(matrix)
    blocks = preconditioners.estimate_class_blocks(subsample, matrix, diagonal)
    np.testing.assert_allclose(np.einsum("kii->ki", blocks), diagonal)
    basis, curvatures = preconditioners.estimate_eigen_factors(subsample, matrix, diagonal, NO_PENALTY)
    inverse = (basis / curvatures[0]) @ basis.T
    assert inverse[2, 2] == pytest.approx(1 / 22, rel=0.1)


def test_inverse_of_what_is_hardly_or_not_a_matrix():
    """Singular, rounded to indefinite, or overflowed: an answer, finite, and not an endless search for one."""
    for matrix in (np.zeros((2, 2)), np.ones((3, 3)), np.array([[1.0, 1 + 1e-6], [1 + 1e-6, 1.0]])):
        assert (np.linalg.eigvalsh(regularised_inverse(matrix)) > 0).all()
    for bad in (np.nan, np.inf):
        np.testing.assert_array_equal(regularised_inverse(np.full((2, 2), bad)), np.eye(2))
