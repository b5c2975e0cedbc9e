"""The covariance of the coefficients and what it is made of, from their definitions."""

import numpy as np
import pytest
import reference
from fit_problems import HOLDERS, D, N, make_rows

from xent._fit import scores
from xent._fit.covariance import HESSIAN, SANDWICH, SingularHessian, compute_covariance, find_free
from xent._fit.partitioned import Layout, SequentialSums
from xent._fit.row_sums import RowSums


def in_partitions(X, target, n_classes, weight):
    cuts = [slice(0, 70), slice(70, 71), slice(71, N)]
    parts = [RowSums(X[cut], target[cut], n_classes, weight[cut]) for cut in cuts]
    layout = Layout(n_classes, D, X.dtype, sum(part.weight for part in parts), (70, 1, N - 71))
    return SequentialSums(layout, lambda: iter(enumerate(parts)))


def scores_of(X, target, n_classes, weight, matrix):
    """w (p - t) x' of each row, from the reference loss."""
    x = np.c_[np.asarray(X, float), np.ones(len(X))]
    logits = np.zeros((len(X), n_classes))
    logits[:, -len(matrix) :] = x @ matrix.T
    _, residual = reference.cross_entropy(logits, target, sample_weight=weight, reduction="sum")
    return (residual[:, -len(matrix) :, None] * x[:, None, :]).reshape(len(X), -1)


@pytest.mark.parametrize("holder", [*HOLDERS, "partitions"])
@pytest.mark.parametrize(("soft", "dtype"), [(False, np.float32), (False, np.float64), (True, np.float64)])
@pytest.mark.parametrize("n_classes", [2, 3])
def test_products_of_scores(monkeypatch, n_classes, dtype, soft, holder):
    monkeypatch.setattr(scores, "MAX_BLOCK_ROWS", 100)
    X, target, weight = make_rows(n_classes, soft)
    X = X.astype(dtype)
    make = in_partitions if holder == "partitions" else lambda X, *rest: RowSums(HOLDERS[holder](X), *rest)
    sums = make(X, target, n_classes, weight)
    matrix = np.random.default_rng(1).normal(size=(sums.n_coef_rows, D + 1))
    expected = scores_of(X, target, n_classes, weight, matrix)
    expected = expected if n_classes == 2 else expected[:, D + 1 :]
    found = 9 * sums.multiply_scores(matrix, 3.0)
    np.testing.assert_allclose(found, expected.T @ expected, rtol=1e-12, atol=1e-11)
    np.testing.assert_array_equal(found, found.T)


@pytest.mark.parametrize("holder", [*HOLDERS, "partitions"])
@pytest.mark.parametrize("n_classes", [2, 3])
def test_rows_that_a_step_moves(n_classes, holder):
    X, target, weight = make_rows(n_classes)
    make = in_partitions if holder == "partitions" else lambda X, *rest: RowSums(HOLDERS[holder](X), *rest)
    sums = make(X, target, n_classes, weight)
    step = np.random.default_rng(1).normal(size=(sums.n_coef_rows, D + 1))
    change = np.c_[X, np.ones(N)] @ step.T
    apart = abs(change[:, 0]) if n_classes == 2 else change.max(axis=1) - change.min(axis=1)
    assert sums.count_moved(step, 2.0) == ((apart > 2) & (weight > 0)).sum() > 0
    if n_classes > 2:
        assert sums.count_moved(np.ones_like(step), 1e-9) == 0      # the same for all classes


@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize("n_classes", [2, 4])
def test_covariance_by_finite_differences(n_classes, fit_intercept):
    X, target, weight = make_rows(n_classes)
    sums = RowSums(X, target, n_classes, weight)
    shape = (sums.n_coef_rows, D + 1)
    matrix = np.random.default_rng(1).normal(size=shape)
    free = find_free(shape, fit_intercept)
    assert len(free) == max(1, n_classes - 1) * (D + fit_intercept)

    def gradient(theta):
        full = matrix.copy()
        full.reshape(-1)[free] += theta
        return scores_of(X, target, n_classes, weight, full).sum(axis=0)[free]

    steps = 1e-5 * np.eye(len(free))
    hessian = np.array([(gradient(step) - gradient(-step)) / 2e-5 for step in steps]).astype(float)
    inverse = np.linalg.inv(hessian)
    each = scores_of(X, target, n_classes, weight, matrix)[:, free].astype(float)
    for kind, expected in ((HESSIAN, inverse), (SANDWICH, inverse @ (each.T @ each) @ inverse)):
        found = compute_covariance(sums, matrix, fit_intercept, kind)
        errors = np.sqrt(expected.diagonal())
        assert np.max(abs(found.matrix - expected) / errors / errors[:, None]) < 1e-6
        np.testing.assert_array_equal(found.matrix, found.matrix.T)
        step = -inverse @ gradient(np.zeros(len(free))).astype(float)
        np.testing.assert_allclose(found.newton_step.reshape(-1)[free], step, rtol=1e-6)
        assert np.count_nonzero(found.newton_step) == len(free)
        assert found.error_of_step == pytest.approx(abs(step / errors).max(), rel=1e-6)


@pytest.mark.parametrize("n_classes", [2, 3])
def test_scales_of_the_columns_do_not_matter(n_classes):
    X, target, weight = make_rows(n_classes)
    matrix = np.random.default_rng(1).normal(size=(1 if n_classes == 2 else n_classes, D + 1))
    scale = np.array([1e-60, 1e60, 1, 3e-7, 1e12, 1e-30])
    all_scales = np.tile([*scale, 1], max(1, n_classes - 1))
    for kind in (HESSIAN, SANDWICH):
        plain = compute_covariance(RowSums(X, target, n_classes, weight), matrix, True, kind)
        scaled_matrix = matrix / [*scale, 1]
        scaled = compute_covariance(RowSums(X * scale, target, n_classes, weight), scaled_matrix, True, kind)
        found = scaled.matrix * all_scales[:, None] * all_scales
        errors = np.sqrt(plain.matrix.diagonal())
        assert np.max(abs(found - plain.matrix) / errors / errors[:, None]) < 1e-12


@pytest.mark.parametrize("n", [200, 5000])
@pytest.mark.parametrize("n_classes", [2, 4])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_columns_that_are_dependent(dtype, n_classes, n):
    """Columns of any scale, of numbers that are rounded and of integers."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n, 6))
    target, weight = rng.integers(0, n_classes, n), rng.uniform(0.5, 2, n)
    matrix = rng.normal(size=(1 if n_classes == 2 else n_classes, 7)) / 3
    cases = {
        (4, 6): lambda X: X[:, 4].fill(3.7),
        (1, 3): lambda X: np.multiply(X[:, 1], 1e-8, out=X[:, 3]),
        (0, 1, 2): lambda X: np.add(X[:, 0], X[:, 1], out=X[:, 2]),
        (1, 2, 3, 6): lambda X: X.__setitem__((slice(None), slice(1, 4)), np.eye(3)[rng.integers(0, 3, n)]),
        (0, 1, 2, 3, 4, 5): lambda X: np.copyto(X[:, 5], X[:, :5].sum(axis=1)),
    }
    for columns, change in cases.items():
        given = X.copy()
        change(given)
        with pytest.raises(SingularHessian) as caught:
            compute_covariance(RowSums(given.astype(dtype), target, n_classes, weight), matrix, True, HESSIAN)
        assert tuple(caught.value.columns) == columns
        assert not caught.value.are_flat
        if columns[-1] == 6:        # without an intercept there is one direction less
            compute_covariance(RowSums(given.astype(dtype), target, n_classes, weight), matrix, False, HESSIAN)
    X[:, 2] = 0
    with pytest.raises(SingularHessian) as caught:
        compute_covariance(RowSums(X.astype(dtype), target, n_classes, weight), matrix, True, HESSIAN)
    assert caught.value.columns == [2]
    assert caught.value.are_flat


def test_columns_that_are_nearly_dependent():
    """A column far from 0, as years are or Unix times: what can be computed is computed."""
    rng = np.random.default_rng(0)
    X, target = rng.normal(size=(5000, 2)), rng.integers(0, 2, 5000)
    matrix = np.array([[0.3, -0.2, 0.1]])
    plain = compute_covariance(RowSums(X, target, 2, np.ones(5000)), matrix, True, HESSIAN).matrix
    for offset, error in ((2e3, 1e-8), (1e5, 1e-4)):
        shifted = matrix - [[0, 0, 0.3 * offset]]
        sums = RowSums(X + np.array([offset, 0]), target, 2, np.ones(5000))
        found = compute_covariance(sums, shifted, True, HESSIAN).matrix
        np.testing.assert_allclose(found[:2, :2], plain[:2, :2], rtol=error, atol=error * plain.max())
        back = np.array([[1, 0, 0], [0, 1, 0], [offset, 0, 1]])
        np.testing.assert_allclose(back @ found @ back.T, plain, rtol=0, atol=100 * error * plain.max())
    with pytest.raises(SingularHessian) as caught:
        compute_covariance(RowSums(X + np.array([1e9, 0]), target, 2, np.ones(5000)), 0 * matrix, True, HESSIAN)
    assert caught.value.columns == [0, 2]
