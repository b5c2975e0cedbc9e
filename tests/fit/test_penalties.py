"""Penalties, and that nothing but their own file knows which there are."""

from typing import NamedTuple

import numpy as np
import pytest
from fit_problems import HOLDERS, PRECONDITIONERS, make_rows, minimise, use_preconditioner

from xent._fit.objective import Objective
from xent._fit.penalties import L2, NO_PENALTY, expand_curvature
from xent._fit.row_sums import RowSums


class Pull(NamedTuple):
    """strength / 2 |W - centre|^2: coefficients need not have mean 0 over the classes."""

    strength: float
    centre: np.ndarray

    @property
    def curvature(self):
        return self.strength

    @property
    def kink(self):
        return 0.0

    @property
    def is_least_centred(self):
        return False

    def value(self, matrix):
        return self.strength / 2 * ((matrix[:, :-1] - self.centre) ** 2).sum()

    def add_gradient(self, matrix, gradient):
        gradient[:, :-1] += self.strength * (matrix[:, :-1] - self.centre)


PULL = Pull(0.3, np.arange(6.0).reshape(2, 3))


@pytest.mark.parametrize("penalty", [L2(0.3), NO_PENALTY, PULL])
def test_derivatives(penalty):
    """By finite differences; the last column has the intercepts."""
    matrix = np.random.default_rng(2).normal(size=(2, 4))
    gradient = np.ones((2, 4))
    penalty.add_gradient(matrix, gradient)
    for place in np.ndindex(2, 4):
        h = np.zeros((2, 4))
        h[place] = 1e-4
        above, below, here = penalty.value(matrix + h), penalty.value(matrix - h), penalty.value(matrix)
        assert gradient[place] - 1 == pytest.approx((above - below) / 2e-4, abs=1e-9)
        assert expand_curvature(penalty, 4)[place[1]] == pytest.approx((above - 2 * here + below) / 1e-8, abs=1e-6)


@pytest.mark.parametrize("solver", ["auto", "lbfgs", "newton-cg"])
@pytest.mark.parametrize("kind", PRECONDITIONERS)
@pytest.mark.parametrize("holder", ["C", "csr_array"])
@pytest.mark.parametrize("n_classes", [2, 4])
def test_solvers_take_any_penalty(monkeypatch, n_classes, holder, kind, solver):
    use_preconditioner(monkeypatch, kind)
    X, target, weight = make_rows(n_classes)
    sums = RowSums(HOLDERS[holder](X), target, n_classes, weight)
    centre = np.random.default_rng(3).normal(size=(sums.n_coef_rows, sums.n_features)) + 1
    objective = Objective(sums, Pull(0.1, centre), True)
    result = minimise(objective, solver=solver, tol=1e-9, max_iter=100)
    assert result.converged
    if n_classes > 2:       # the mean over the classes is that of the centre: the loss does not see it
        mean = objective.to_matrix(result.x).mean(axis=0)
        np.testing.assert_allclose(mean, np.append(centre.mean(axis=0), 0), atol=1e-7)
