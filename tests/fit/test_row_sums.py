"""Sums over rows in memory: pieces of them, threads, and what is stored."""

import numpy as np
import pytest
import reference
from fit_problems import HOLDERS, TOLERANCE, D, N, evaluate_twin, make_objective, make_rows

from xent._fit import row_pass, row_sums
from xent._fit.row_pass import pass_over
from xent._fit.row_sums import RowSums


@pytest.mark.parametrize("holder", ["C", "csr_array"])
def test_sums_over_partitions_add_up(holder):
    X, target, weight = make_rows(5)
    X = HOLDERS[holder](X)
    whole = RowSums(X, target, 5, weight)
    partitions = [RowSums(X[s], target[s], 5, weight[s]) for s in (slice(0, 70), slice(70, N))]
    matrix, v = np.random.default_rng(3).normal(size=(2, 5, D + 1))
    losses, gradients = zip(*(partition.loss_gradient(matrix) for partition in partitions), strict=True)
    assert sum(partition.weight for partition in partitions) == pytest.approx(whole.weight)
    assert sum(losses) == pytest.approx(whole.loss_gradient(matrix)[0])
    np.testing.assert_allclose(sum(gradients), whole.loss_gradient(matrix)[1], atol=1e-12)
    products = [partition.hessian_product_at(matrix)(v) for partition in partitions]
    np.testing.assert_allclose(sum(products), whole.hessian_product_at(matrix)(v), atol=1e-12)
    diagonals = [partition.diagonal(matrix) * partition.weight for partition in partitions]
    np.testing.assert_allclose(sum(diagonals), whole.diagonal(matrix) * whole.weight, atol=1e-12)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("order", ["C", "F"])
def test_a_pass_by_blas_over_many_blocks_is_the_definition(monkeypatch, dtype, order):
    monkeypatch.setattr(row_pass, "BLOCK_ELEMENTS", 3000)      # 65 rows a block, the last one shorter
    X, target, weight = make_rows(40)
    X = np.asarray(X, dtype, order)
    objective = make_objective(X, target, 40, weight, 0.1)
    assert not objective.sums.needs_no_blas
    matrix = np.random.default_rng(2).normal(size=objective.shape)
    loss, gradient = objective(matrix.ravel())
    expected, expected_gradient = evaluate_twin(X.astype(float), target, 40, weight, 0.1, matrix)
    assert loss == pytest.approx(expected, rel=TOLERANCE[dtype])
    np.testing.assert_allclose(objective.to_matrix(gradient), expected_gradient, atol=TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("order", ["C", "F"])
def test_kernels_take_any_number_of_rows_features_and_classes(dtype, order):
    """Tiles of several sizes, and what is left of them."""
    rng = np.random.default_rng(6)
    features = [*range(1, 20), 31, 32, 33, 47, 48, 49, 63, 95, 96, 97, 113]
    for k, n_features in enumerate(features):
        rows, n_classes = 1 + k % 15, 2 + k % 9
        X = np.asarray(rng.normal(size=(rows, n_features)), dtype, order)
        sums = RowSums(X, rng.integers(0, n_classes, rows), n_classes, np.ones(rows))
        matrix = rng.normal(size=(sums.n_coef_rows, n_features + 1))
        found = pass_over(sums.rows._replace(by_kernels=True), row_pass.LOSS, matrix)
        expected = pass_over(sums.rows._replace(by_kernels=False), row_pass.LOSS, matrix)
        assert found[0] == pytest.approx(expected[0], rel=TOLERANCE[dtype])
        np.testing.assert_allclose(found[1], expected[1], atol=20 * TOLERANCE[dtype])


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("n_classes", [2, 5])
def test_hessian_products_of_many_rows_keep_no_probabilities(monkeypatch, n_classes, soft):
    X, target, weight = make_rows(n_classes, soft)
    sums = RowSums(X, target, n_classes, weight)
    matrix, v = np.random.default_rng(3).normal(size=(2, sums.n_coef_rows, D + 1))
    expected = sums.hessian_product_at(matrix)(v)
    monkeypatch.setattr(row_sums, "MAX_PROBABILITY_BYTES", 60 * 8 * n_classes)
    np.testing.assert_allclose(sums.hessian_product_at(matrix)(v), expected, atol=1e-12)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("holder", HOLDERS)
@pytest.mark.parametrize("n_classes", [2, 10, 40])
def test_any_number_of_threads_gives_the_same_bits(n_classes, holder, dtype):
    rng = np.random.default_rng(4)
    X = HOLDERS[holder]((rng.normal(size=(2500, 83)) * (rng.random((2500, 83)) < 0.5)).astype(dtype))
    target = rng.integers(0, n_classes, 2500)
    results = []
    for n_threads in (1, 2, 5):
        function = make_objective(X, target, n_classes, np.ones(2500), 0.1, n_threads=n_threads)
        x, v = np.random.default_rng(5).normal(size=(2, np.prod(function.shape)))
        loss, gradient = function(x)
        results.append((loss, gradient, function.hessian_product_at(x)(v)))
    for loss, gradient, product in results[1:]:
        assert loss == results[0][0]
        reference.assert_same_bits(gradient, results[0][1])
        reference.assert_same_bits(product, results[0][2])
