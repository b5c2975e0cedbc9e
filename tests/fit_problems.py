"""Rows, targets and objectives for the tests of fits."""

import numpy as np
import pytest
import reference

from xent._fit import preconditioners, strategy
from xent._fit.objective import Objective
from xent._fit.penalties import L2
from xent._fit.row_sums import RowSums
from xent._fit.solver import Settings

sparse = pytest.importorskip("scipy.sparse")

PRECONDITIONERS = ["blocks", "factors", "diagonal"]
N, D = 230, 6
EPSILON = float(np.finfo(np.float64).eps)
TOLERANCE = {np.float32: 2e-6, np.float64: 1e-13}
HOLDERS = {
    "C": np.ascontiguousarray,
    "Fortran": np.asfortranarray,
    "strided": lambda X: np.repeat(np.repeat(X, 2, axis=0), 3, axis=1)[::2, ::3],
    "csr_array": sparse.csr_array,
    "csr_matrix": sparse.csr_matrix,
}


def make_rows(n_classes, soft=False, seed=0):
    """Rows (some elements 0), a target and weights."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(N, D)) * (rng.random((N, D)) < 0.6)
    target = rng.dirichlet(np.ones(n_classes), N) * rng.uniform(0.5, 2) if soft else rng.integers(0, n_classes, N)
    return X, target, rng.uniform(0, 2, N) * (rng.random(N) < 0.9)


def make_text(n_classes, soft=False, n=200, words=400):
    """Sparse rows with few words in common, sorted by class."""
    rng = np.random.default_rng(8)
    target = np.sort(rng.integers(0, n_classes, n))
    word = rng.integers(0, words, (n, 12))
    word = np.where(rng.random(word.shape) < 0.4, word - word % n_classes + target[:, None], word) % words
    X = sparse.csr_array((rng.uniform(0.1, 0.4, word.size), word.ravel(), np.arange(0, word.size + 1, 12)), (n, words))
    X.sum_duplicates()
    if soft:
        target = rng.dirichlet(np.ones(n_classes), n) * rng.uniform(0.5, 2) + 2 * np.eye(n_classes)[target]
    return X, target, rng.uniform(0, 2, n) * (rng.random(n) < 0.9)


def make_objective(X, target, n_classes, weight=None, strength=0.0, fit_intercept=True, n_threads=None):
    weight = np.ones(X.shape[0]) if weight is None else weight
    return Objective(RowSums(X, target, n_classes, weight, n_threads), L2(strength), fit_intercept)


def use_preconditioner(monkeypatch, kind):
    """Whatever the size of the coefficients."""
    elements, size = {"blocks": (1 << 21, 1600), "factors": (0, 1600), "diagonal": (0, 0)}[kind]
    monkeypatch.setattr(preconditioners, "MAX_BLOCK_ELEMENTS", elements)
    monkeypatch.setattr(preconditioners, "MAX_FACTOR_SIZE", size)


def zeros_of(objective):
    return np.zeros(np.prod(objective.shape))


def evaluate_twin(X, target, n_classes, weight, strength, matrix, fit_intercept=True):
    """The objective and its gradient from the reference loss."""
    logits = X @ matrix[:, :-1].T + matrix[:, -1]
    if n_classes == 2:
        logits = np.pad(logits, ((0, 0), (1, 0)))
    loss, grad = reference.cross_entropy(logits, target, sample_weight=weight)
    grad = grad[:, 1:] if n_classes == 2 else grad
    gradient = np.c_[grad.T @ X + strength * matrix[:, :-1], grad.sum(0) if fit_intercept else 0 * matrix[:, -1]]
    return loss + strength / 2 * (matrix[:, :-1] ** 2).sum(), gradient


# --- functions whose minimum is known --------------------------------------------------------------------------------


def quadratic(matrix, target):
    def function(x):
        difference = x - target
        product = matrix @ difference
        return 0.5 * float(difference @ product), product

    return function


def rosenbrock(x):
    a, b = 1 - x[:-1], x[1:] - x[:-1] ** 2
    gradient = np.zeros_like(x)
    gradient[:-1] = -2 * a - 400 * b * x[:-1]
    gradient[1:] += 200 * b
    return float((a**2 + 100 * b**2).sum()), gradient


def ill_conditioned_quadratic():
    """Its Hessian and its minimum."""
    rng = np.random.default_rng(0)
    factor = rng.normal(size=(40, 40)) * np.logspace(-2, 2, 40)
    return factor.T @ factor + np.eye(40), rng.normal(size=40)


def solve(run, function, start, *, tol, max_iter, noise=EPSILON, callback=None, **options):
    """What a solver finds; the callback sees its progress."""
    report = None if callback is None else lambda progress, x: callback(progress)
    return run(function, start, Settings(tol, max_iter, noise, report), **options)


def minimise(objective, start=None, **options):
    """The same of the strategy, from zeros on if there is no start."""
    return solve(strategy.minimise, objective, zeros_of(objective) if start is None else start, **options)
