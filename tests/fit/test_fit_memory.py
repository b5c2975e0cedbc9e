"""What a fit allocates beside the data."""

import tracemalloc

import numpy as np
import pytest
from fit_problems import make_objective, minimise

from xent._fit.row_pass import count_coef_rows
from xent._fit.strategy import MAX_NEWTON_SIZE

sparse = pytest.importorskip("scipy.sparse")

MANY = 20_000       # classes


def peak_of_fit(X, target, n_classes, **options):
    """In bytes, and what it may be: beside the data, 24 times the coefficients and 64 MB."""
    tracemalloc.start()
    function = make_objective(X, target, n_classes, strength=1e-3, n_threads=2)
    size = int(np.prod(function.shape))
    noise = float(np.finfo(X.dtype).eps)
    minimise(function, tol=1e-12, noise=noise, **options)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak, 24 * 8 * size + (64 << 20)


FITS = {    # rows, features, classes: nothing that grows with two of them is small
    "logits of all rows": (1200, 1, MANY),
    "a matrix for all classes": (100, 60, MANY),
    "an inverse for each class": (1000, 21, 4000),
    "beyond the inverses": (1000, 22, 4000),
    "one large inverse": (1000, 1020, 2),
    "eigenvectors": (1000, 1590, 3),
    "many features": (1000, 40_000, 2),
    "many features and classes": (200, 40_000, 32),
}


@pytest.mark.parametrize("solver", ["auto", pytest.param("newton-cg", marks=pytest.mark.deep)])
@pytest.mark.parametrize("dtype", [np.float32, pytest.param(np.float64, marks=pytest.mark.deep)])
@pytest.mark.parametrize("holder", [pytest.param("dense", marks=pytest.mark.deep), "sparse"])
@pytest.mark.parametrize("fit", FITS)
def test_memory_of_a_fit(fit, holder, dtype, solver):
    rows, features, n_classes = FITS[fit]
    rng = np.random.default_rng(12)
    X = np.zeros((rows, features), dtype)
    elements = min(features, 20)
    np.put_along_axis(X, rng.integers(0, features, (rows, elements)), rng.normal(size=(rows, elements)), axis=1)
    X = sparse.csr_array(X) if holder == "sparse" else X
    peak, bound = peak_of_fit(X, rng.integers(0, n_classes, rows), n_classes, solver=solver, max_iter=2)
    assert peak < bound


def test_memory_of_a_dense_fit_of_twenty_thousand_classes():
    rng = np.random.default_rng(13)
    X = rng.normal(size=(1500, 1)).astype(np.float32)
    peak, bound = peak_of_fit(X, rng.integers(0, MANY, 1500), MANY, max_iter=1)
    assert peak < bound < 1500 * MANY * 4


@pytest.mark.deep
@pytest.mark.parametrize("solver", ["auto", "lbfgs", "newton-cg"])
@pytest.mark.parametrize("holder", ["dense", "sparse"])
@pytest.mark.parametrize("soft", [False, True])
def test_memory_of_a_long_fit_of_twenty_thousand_classes(soft, holder, solver):
    rng = np.random.default_rng(13)
    X = rng.normal(size=(600, 100))
    target = rng.random((600, MANY), np.float32) if soft else rng.integers(0, MANY, 600)
    X = sparse.csr_array(X * (rng.random(X.shape) < 0.1)) if holder == "sparse" else X
    peak, bound = peak_of_fit(X, target, MANY, solver=solver, max_iter=12)
    assert peak < bound


@pytest.mark.parametrize(("solver", "n_classes"), [("lbfgs", 10), ("newton-cg", 2)])
def test_a_dense_fit_takes_little_memory(n_classes, solver):
    rng = np.random.default_rng(7)
    X = rng.normal(size=(30_000, 150)).astype(np.float32)
    target = rng.integers(0, n_classes, len(X))
    weight = np.ones(len(X))
    tracemalloc.start()
    function = make_objective(X, target, n_classes, weight, 1e-3, n_threads=2)
    minimise(function, solver=solver, tol=1e-12, max_iter=6, noise=1e-7)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 64e6 + 8 * 8 * np.prod(function.shape)


@pytest.mark.parametrize("n_classes", [2, 5, pytest.param(40, marks=pytest.mark.deep)])
def test_memory_of_a_whole_hessian(n_classes):
    """Of as many coefficients as "auto" makes one for."""
    rng = np.random.default_rng(14)
    features = MAX_NEWTON_SIZE // count_coef_rows(n_classes) - 1
    X = rng.normal(size=(1500, features)).astype(np.float32)
    target = rng.integers(0, n_classes, 1500)
    target[X[:, 0] > 0] = 0
    peak, bound = peak_of_fit(X * 1000, target, n_classes, solver="newton-cholesky", max_iter=4)
    assert peak < bound
