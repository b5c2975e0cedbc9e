"""Paths of folds, with every kind of preconditioner and for sparse rows, against fits from zeros."""

from functools import partial

import fit_problems
import numpy as np
import pytest
from fit_problems import make_objective, make_rows, make_text, minimise, use_preconditioner

from xent._fit import fold_sums, path
from xent._fit.path import Problem, fit_all, fit_paths
from xent._fit.row_sums import RowSums
from xent._fit.solver import Settings

STRENGTHS = (3.0, 100.0, 0.0, 0.3, 30.0)       # in no order
TIGHT = 1e-9


def make_problem(X, target, n_classes, weight, solver="auto", fit_intercept=True):
    return Problem(
        lambda w: RowSums(X, target, n_classes, w, 1), weight, STRENGTHS[:2] + STRENGTHS[3:], 0.0, fit_intercept, solver
    )


def make_counts(n):
    folds = np.arange(n) % 3
    return [(folds != i).astype(float) for i in range(3)]


def check(problem, counts, X, target, n_classes, tol=TIGHT, atol=2e-5):
    paths = fit_paths(problem, [partial(np.copy, count) for count in counts], Settings(tol, 400))
    for count, found in zip(counts, paths, strict=True):
        weight = problem.weight * count
        for strength, matrix, result in zip(problem.strengths, found.coefficients, found.results, strict=True):
            objective = make_objective(
                X, target, n_classes, weight, strength / (weight.sum()), fit_intercept=problem.fit_intercept
            )
            twin = minimise(objective, tol=tol, max_iter=400)
            assert result.converged
            assert result.grad_norm <= tol
            np.testing.assert_allclose(matrix, objective.to_matrix(twin.x), atol=atol)
            value, gradient = objective(objective.to_vector(matrix))
            assert np.abs(gradient).max() <= 2 * tol       # rounded in another order
            np.testing.assert_allclose(value, result.loss)


@pytest.mark.parametrize("kind", fit_problems.PRECONDITIONERS)
@pytest.mark.parametrize("n_classes", [2, 3])
def test_dense_rows(kind, n_classes, monkeypatch):
    use_preconditioner(monkeypatch, kind)
    X, target, weight = make_rows(n_classes)
    check(make_problem(X, target, n_classes, weight), make_counts(len(X)), X, target, n_classes)


def test_far_from_the_minimum_float32_will_do(monkeypatch):
    monkeypatch.setattr(fold_sums, "SMALL_WORK", 0)
    X, target, weight = make_rows(4)
    seen = []
    original = fold_sums.FoldSums.loss_gradients

    def record(self, folds, matrices, single=False):
        seen.append(single)
        return original(self, folds, matrices, single)

    monkeypatch.setattr(fold_sums.FoldSums, "loss_gradients", record)
    check(make_problem(X, target, 4, weight), make_counts(len(X)), X, target, 4)
    assert set(seen) == {True, False}


def test_one_fold_after_the_other_if_there_are_many(monkeypatch):
    X, target, weight = make_rows(3)
    problem = make_problem(X, target, 3, weight)
    counts = [partial(np.copy, count) for count in make_counts(len(X))]
    together = fit_paths(problem, counts, Settings(TIGHT, 400))
    monkeypatch.setattr(path, "MAX_TOGETHER", 1)
    alone = fit_paths(problem, counts, Settings(TIGHT, 400))
    for one, other in zip(together, alone, strict=True):
        np.testing.assert_allclose(one.coefficients, other.coefficients, atol=1e-6)


@pytest.mark.parametrize("kind", ["blocks", "diagonal"])
@pytest.mark.parametrize("soft", [False, True])
def test_sparse_rows(kind, soft, monkeypatch):
    use_preconditioner(monkeypatch, kind)
    X, target, weight = make_text(4, soft, words=60)
    if soft:
        target = target / target.sum(axis=1, keepdims=True)
    check(make_problem(X, target, 4, weight), make_counts(X.shape[0]), X, target, 4)


def test_a_fit_of_all_rows():
    X, target, weight = make_rows(3)
    problem = make_problem(X, target, 3, weight)
    found = fit_all(problem, 3.0, np.ones((3, 7)), Settings(TIGHT, 400))
    objective = make_objective(X, target, 3, weight, 3.0 / weight.sum())
    twin = minimise(objective, tol=TIGHT, max_iter=400)
    np.testing.assert_allclose(found.coefficients[0], objective.to_matrix(twin.x), atol=1e-6)


def test_few_iterations_leave_every_fit_where_it_is():
    X, target, weight = make_rows(3)
    problem = make_problem(X, target, 3, weight)
    counts = [partial(np.copy, count) for count in make_counts(len(X))]
    for found in fit_paths(problem, counts, Settings(TIGHT, 2)):
        assert all(not r.converged and r.iterations <= 2 for r in found.results)
        assert np.isfinite(found.coefficients).all()


def test_held_out_rows_are_never_seen():
    """With other rows in their place, the fits that leave them out stay the same but for the preconditioner."""
    X, target, weight = make_rows(3)
    counts = make_counts(len(X))
    tol = 1e-3
    settings = Settings(tol, 100)
    first = fit_paths(make_problem(X, target, 3, weight), [partial(np.copy, c) for c in counts], settings)[0]
    changed = np.where(counts[0] > 0, target, (target + 1) % 3)
    other = fit_paths(make_problem(X, changed, 3, weight), [partial(np.copy, c) for c in counts], settings)[0]
    np.testing.assert_allclose(first.coefficients, other.coefficients, atol=30 * tol)
