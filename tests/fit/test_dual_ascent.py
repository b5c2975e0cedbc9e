"""Dual ascent over sparse rows, and fits that begin with it."""

import numpy as np
import pytest
from fit_problems import TOLERANCE, make_objective, make_text, minimise, use_preconditioner, zeros_of

from xent._fit import dual_ascent
from xent._fit.penalties import L2
from xent._fit.row_sums import RowSums


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("index", [np.int32, np.int64])
@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("n_classes", [2, pytest.param(3, marks=pytest.mark.deep), 11])
def test_an_ascent_goes_most_of_the_way(n_classes, soft, fit_intercept, index, dtype):
    X, target, weight = make_text(n_classes, soft)
    X = X.astype(dtype)
    X.indices, X.indptr = X.indices.astype(index), X.indptr.astype(index)
    function = make_objective(X, target, n_classes, weight, 1 / weight.sum(), fit_intercept)
    zeros = zeros_of(function)

    def ascend(max_sweeps):
        matrix, sweeps = dual_ascent.dual_ascent(function.sums, function.penalty, fit_intercept, max_sweeps)
        return function.centred(function.to_vector(matrix)), sweeps

    least = minimise(function, solver="newton-cg", tol=1e-7, max_iter=50, noise=float(np.finfo(dtype).eps))
    assert least.converged
    start, sweeps = ascend(100)
    assert 4 <= sweeps <= 16
    np.testing.assert_array_equal(ascend(sweeps)[0], start)
    assert function(zeros)[0] == pytest.approx(np.log(n_classes))
    assert function(start)[0] - least.loss < 0.01 * (function(zeros)[0] - least.loss)
    assert fit_intercept or not function.to_matrix(start)[:, -1].any()


@pytest.mark.parametrize("scale", [1e-200, 1e-8, 1.0, 1e3, 1e30, 1e200])
@pytest.mark.parametrize("strength", [0.0, 1e-12, 1.0, 1e6])
def test_no_start_is_worse_than_zeros(strength, scale, monkeypatch):
    use_preconditioner(monkeypatch, "diagonal")
    X, target, weight = make_text(4)
    function = make_objective(X * scale, target, 4, weight, strength)
    losses = []
    with np.errstate(all="ignore"):
        for max_iter in (0, 1, 2, 5):
            result = minimise(
                function, tol=1e-12, max_iter=max_iter, noise=1e-16,
                callback=lambda progress: losses.append(progress.loss),
            )    # fmt: skip
            assert result.iterations <= max_iter
    assert max(losses) <= np.log(4) * (1 + 1e-12)


def test_ascents_are_for_sparse_rows_whose_probabilities_take_little(monkeypatch):
    X, target, weight = make_text(50)

    def ascend(X, strength):
        return dual_ascent.dual_ascent(RowSums(X, target, 50, weight), L2(strength), True, 9)

    assert ascend(X.toarray(), 1.0) is None
    assert ascend(X, 0.0) is None
    assert ascend(X, 1.0)[0].shape == (50, X.shape[1] + 1)
    monkeypatch.setattr(dual_ascent, "MAX_DUAL_BYTES", 0)
    monkeypatch.setattr(dual_ascent, "MAX_DUAL_ARRAYS", 0)
    assert ascend(X, 1.0) is None


def test_a_fit_that_starts_with_an_ascent_ends_at_the_minimum(monkeypatch):
    X, target, weight = make_text(4)
    function = make_objective(X, target, 4, weight, 1 / len(weight))
    arguments = {"tol": 1e-10, "max_iter": 50, "noise": 1e-16}
    expected = minimise(function, solver="lbfgs", **arguments)
    use_preconditioner(monkeypatch, "diagonal")
    result = minimise(function, **arguments)
    assert expected.converged
    assert result.converged
    np.testing.assert_allclose(result.x, expected.x, atol=1e-7)
