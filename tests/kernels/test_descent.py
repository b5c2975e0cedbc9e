"""Coordinate descent on quadratics with kinks, against a few lines of NumPy."""

import numpy as np
import pytest

from xent._calls.dispatch import kernels
from xent._fit.column_descent import ColumnOperands


def descend(hessian, x, gradient, kinks, sweeps, enough):
    """The twin; returns x, the gradient there and the largest violation that the last sweep has met."""
    x, gradient, worst = x.copy(), gradient.copy(), 0.0
    for _ in range(sweeps):
        worst = 0.0
        for c in range(len(x)):
            at_zero = max(abs(gradient[c]) - kinks[c], 0)
            worst = max(worst, at_zero if x[c] == 0 else abs(gradient[c] + kinks[c] * np.sign(x[c])))
            if hessian[c, c] > 0:
                moved = x[c] - gradient[c] / hessian[c, c]
                change = np.sign(moved) * max(abs(moved) - kinks[c] / hessian[c, c], 0) - x[c]
                x[c] += change
                gradient += change * hessian[c]
        if worst <= enough:
            break
    return x, gradient, worst


@pytest.mark.parametrize("sweeps", [1, 3, 1000])
@pytest.mark.parametrize("n", [*range(1, 20), 50])
def test_hessian(n, sweeps):
    random = np.random.default_rng(n)
    factor = random.normal(size=(n + 2, n))
    factor[:, n // 2] *= n % 2      # for even n, nothing along one coordinate
    hessian = factor.T @ factor
    x, gradient, kinks = random.normal(size=n), 3 * random.normal(size=n), random.uniform(0, 2, n)
    gradient[n // 2] *= n % 2
    expected = descend(hessian, x, gradient, kinks, sweeps, 1e-10)
    worst = kernels.descend_hessian(hessian, x, gradient, kinks, sweeps, 1e-10)
    np.testing.assert_allclose(x, expected[0], atol=1e-9)
    np.testing.assert_allclose(gradient, expected[1], atol=1e-9)
    assert worst == pytest.approx(expected[2], abs=1e-9)


@pytest.mark.parametrize("kind", ["dense", "sparse", "sparse float32", "sparse int64"])
@pytest.mark.parametrize("n_coef_rows", [1, 3])
@pytest.mark.parametrize("n", [1, 7, 8, 33])
def test_columns(n, n_coef_rows, kind):
    """The Hessian of a row is w (diag(p) - p p'), or w p (1 - p) for one row of coefficients."""
    sparse = pytest.importorskip("scipy.sparse")
    random = np.random.default_rng(n)
    n_features = 5
    X = random.normal(size=(n, n_features)) * (random.random((n, n_features)) < 0.6)
    X = X.astype(np.float32).astype(np.float64)
    with_ones = np.c_[X, np.ones(n)]
    p = random.dirichlet(np.ones(max(2, n_coef_rows)), n).T[-n_coef_rows:].copy()
    weight = random.uniform(0, 1, n)
    blocks = [
        [(with_ones * (weight * p[k] * ((k == m) - p[m]))[:, None]).T @ with_ones for m in range(n_coef_rows)]
        for k in range(n_coef_rows)
    ]
    hessian = np.block(blocks)
    chosen = np.flatnonzero(random.random(len(hessian)) < 0.8)
    ridges = random.uniform(0, 1, len(chosen))
    classes, column = np.divmod(chosen, n_features + 1)
    x, gradient = random.normal(size=(2, len(chosen)))
    kinks = random.uniform(0, 1, len(chosen))
    expected = descend(hessian[np.ix_(chosen, chosen)] + np.diag(ridges), x, gradient, kinks, 3, 0)
    columns = X.ravel(order="F"), None, None
    if kind != "dense":
        csc = sparse.csc_array(X)
        index = np.int64 if kind == "sparse int64" else np.int32
        values = csc.data.astype(np.float32 if kind == "sparse float32" else np.float64)
        columns = values, csc.indices.astype(index), csc.indptr.astype(index)
    operands = ColumnOperands(
        columns, n_features, weight, p, 1 - p, np.searchsorted(classes, np.arange(n_coef_rows + 1)).astype(np.int64),
        column.astype(np.int64), x, gradient, kinks, ridges, np.full(len(chosen), -1.0), np.zeros(p.shape), np.zeros(n),
        np.empty((3, n)),
    )  # fmt: skip
    worst = [kernels.descend_columns(operands, 1) for _ in range(3)]
    np.testing.assert_allclose(operands.x, expected[0], atol=1e-9)
    assert worst[-1] == pytest.approx(expected[2], abs=1e-9)
