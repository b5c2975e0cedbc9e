"""A storage of rows of one's own: the five sums, from their definitions, are all that a fit asks of it."""

import numpy as np
import pytest
import reference
from fit_problems import D, make_objective, make_rows, minimise

from xent._fit.objective import Objective
from xent._fit.penalties import L2
from xent._fit.subsample import choose_candidates


class NumPySums:
    """Over an array, its target (of one distribution a row) and weights."""

    order = "C"
    needs_no_blas = False

    def __init__(self, X, target, weights):
        self.X, self.target, self.weights = X, target, weights
        self.n_classes = target.shape[1]
        self.n_coef_rows = 1 if self.n_classes == 2 else self.n_classes
        self.n_features = X.shape[1]
        self.row_weight = weights * target.sum(axis=1)
        self.weight = self.row_weight.sum()

    def loss_gradient(self, matrix):
        loss, grad = reference.cross_entropy(
            self._logits(matrix), self.target, sample_weight=self.weights, reduction="sum"
        )
        return float(loss), self._product(grad)

    def hessian_product_at(self, matrix):
        p = reference.softmax(self._logits(matrix))

        def product(direction):
            v = self._logits(direction)
            return self._product(self.row_weight[:, None] * p * (v - (p * v).sum(axis=1, keepdims=True)))

        return product

    def hessian(self, matrix):
        p = reference.softmax(self._logits(matrix))
        x = np.c_[self.X, np.ones(len(self.X))]
        curvature = p[:, :, None] * (np.eye(self.n_classes) - p[:, None, :]) * self.row_weight[:, None, None]
        own = slice(-self.n_coef_rows, None)
        return np.einsum("ikm,ia,ib->kamb", curvature[:, own, own], x, x).reshape(matrix.size, -1).astype(float)

    def subsample(self, matrix):
        return choose_candidates(self.X, self.row_weight, self.n_classes, None).draw(matrix)

    def diagonal(self, matrix):
        p = reference.softmax(self._logits(matrix))[:, -self.n_coef_rows :]
        squares = np.c_[self.X**2, np.ones(len(self.X))]
        return ((self.row_weight[:, None] * p * (1 - p)).T @ squares / self.weight).astype(float)

    def _logits(self, matrix):
        logits = np.zeros((len(self.X), self.n_classes))
        logits[:, -self.n_coef_rows :] = self.X @ matrix[:, :-1].T + matrix[:, -1]
        return logits

    def _product(self, grad):
        return (grad[:, -self.n_coef_rows :].T @ np.c_[self.X, np.ones(len(self.X))]).astype(float)


@pytest.mark.parametrize("n_classes", [2, 5])
def test_the_sums_of_rows_in_memory_are_their_definitions(n_classes):
    X, target, weight = make_rows(n_classes, soft=True)
    mine, theirs = NumPySums(X, target, weight), make_objective(X, target, n_classes, weight).sums
    matrix, v = np.random.default_rng(0).normal(size=(2, theirs.n_coef_rows, D + 1))
    assert theirs.weight == pytest.approx(mine.weight)
    for here, there in zip(mine.loss_gradient(matrix), theirs.loss_gradient(matrix), strict=True):
        np.testing.assert_allclose(there, here, atol=1e-11)
    np.testing.assert_allclose(theirs.hessian_product_at(matrix)(v), mine.hessian_product_at(matrix)(v), atol=1e-11)
    np.testing.assert_allclose(theirs.hessian(matrix), mine.hessian(matrix), atol=1e-11)
    np.testing.assert_allclose(theirs.diagonal(matrix), mine.diagonal(matrix), atol=1e-13)
    here, there = mine.subsample(matrix), theirs.subsample(matrix)
    np.testing.assert_array_equal(there.rows, here.rows)
    np.testing.assert_allclose(there.row_weight, here.row_weight)


@pytest.mark.parametrize("solver", ["auto", "lbfgs", "newton-cg"])
@pytest.mark.parametrize("n_classes", [2, 5])
def test_a_fit_over_them(n_classes, solver):
    X, target, weight = make_rows(n_classes, soft=True)
    mine = Objective(NumPySums(X, target, weight), L2(0.01), True)
    theirs = make_objective(X, target, n_classes, weight, 0.01)
    options = {"tol": 1e-10, "max_iter": 100, "solver": solver}
    result, expected = minimise(mine, **options), minimise(theirs, **options)
    assert result.converged
    np.testing.assert_allclose(result.x, expected.x, atol=1e-8)
