"""The objective of a linear classifier: values, gradients and Hessian products, whatever holds the rows."""

import tracemalloc

import numpy as np
import pytest
import reference

from xent._fit import linear, solvers
from xent._fit.linear import Objective, RowSums, minimise
from xent.datasets import load_digits

sparse = pytest.importorskip("scipy.sparse")

N, D = 230, 6
TOLERANCE = {np.float32: 2e-6, np.float64: 1e-13}


def make(n_classes, soft=False, seed=0):
    """Rows (some elements 0), a target and weights."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(N, D)) * (rng.random((N, D)) < 0.6)
    target = rng.dirichlet(np.ones(n_classes), N) * rng.uniform(0.5, 2) if soft else rng.integers(0, n_classes, N)
    return X, target, rng.uniform(0, 2, N) * (rng.random(N) < 0.9)


HOLDERS = {
    "C": np.ascontiguousarray,
    "Fortran": np.asfortranarray,
    "strided": lambda X: np.repeat(np.repeat(X, 2, axis=0), 3, axis=1)[::2, ::3],
    "csr_array": sparse.csr_array,
    "csr_matrix": sparse.csr_matrix,
}


def twin(X, target, n_classes, weight, l2, matrix, fit_intercept=True):
    """The objective and its gradient from the reference loss, a row of coefficients for each class."""
    scores = X @ matrix[:, :-1].T + matrix[:, -1]
    if n_classes == 2:
        scores = np.pad(scores, ((0, 0), (1, 0)))
    loss, slopes = reference.cross_entropy(scores, target, sample_weight=weight)
    slopes = slopes[:, 1:] if n_classes == 2 else slopes
    gradient = np.c_[slopes.T @ X + l2 * matrix[:, :-1], slopes.sum(0) if fit_intercept else 0 * matrix[:, -1]]
    return loss + l2 / 2 * (matrix[:, :-1] ** 2).sum(), gradient


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("holder", HOLDERS)
@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("n_classes", [2, 3, 11, 40])
def test_objective_is_its_twin(n_classes, soft, holder, dtype):
    X, target, weight = make(n_classes, soft)
    X = X.astype(dtype)
    function = Objective(HOLDERS[holder](X), target, n_classes, weight, 0.1, True, None)
    matrix = np.random.default_rng(1).normal(size=function.shape).astype(dtype).astype(float)
    loss, gradient = function(function.vector(matrix))
    expected, slopes = twin(X.astype(float), target, n_classes, weight, 0.1, matrix)
    assert loss == pytest.approx(expected, rel=TOLERANCE[dtype])
    assert gradient.dtype == np.float64
    np.testing.assert_allclose(function.matrix(gradient), slopes, atol=TOLERANCE[dtype])


@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize("holder", HOLDERS)
@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("n_classes", [2, 3, 40])
def test_derivatives_by_finite_differences(n_classes, soft, holder, fit_intercept):
    X, target, weight = make(n_classes, soft)
    function = Objective(HOLDERS[holder](X), target, n_classes, weight, 0.2, fit_intercept, None)
    rng = np.random.default_rng(2)
    x, v = rng.normal(size=(2, *function.shape))
    if not fit_intercept:
        x[:, -1] = v[:, -1] = 0
    x, v = function.vector(x), function.vector(v)
    (above, up), (below, down) = function(x + 1e-5 * v), function(x - 1e-5 * v)
    assert function(x)[1] @ v == pytest.approx((above - below) / 2e-5, abs=1e-8)
    np.testing.assert_allclose(function.hessian_product_at(x)(v), (up - down) / 2e-5, atol=1e-8)


@pytest.mark.parametrize("holder", ["C", "csr_array"])
def test_sums_of_parts_are_the_sums(holder):
    X, target, weight = make(5)
    X = HOLDERS[holder](X)
    whole = RowSums(X, target, 5, weight)
    parts = [RowSums(X[s], target[s], 5, weight[s]) for s in (slice(0, 70), slice(70, N))]
    matrix, v = np.random.default_rng(3).normal(size=(2, 5, D + 1))
    losses, gradients = zip(*(part.loss_gradient(matrix) for part in parts), strict=True)
    assert sum(part.weight for part in parts) == pytest.approx(whole.weight)
    assert sum(losses) == pytest.approx(whole.loss_gradient(matrix)[0])
    np.testing.assert_allclose(sum(gradients), whole.loss_gradient(matrix)[1], atol=1e-12)
    products = [part.hessian_product_at(matrix)(v) for part in parts]
    np.testing.assert_allclose(sum(products), whole.hessian_product_at(matrix)(v), atol=1e-12)
    x = matrix.ravel(order=whole.order)
    of_whole = Objective.of(whole, 0.3, True)(x)
    expected = Objective(X, target, 5, weight, 0.3, True, None)(x)
    assert of_whole[0] == expected[0]
    reference.assert_same_bits(of_whole[1], expected[1])


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("n_classes", [2, 5])
def test_hessian_products_of_many_rows_keep_no_probabilities(monkeypatch, n_classes, soft):
    X, target, weight = make(n_classes, soft)
    sums = RowSums(X, target, n_classes, weight)
    matrix, v = np.random.default_rng(3).normal(size=(2, sums.rows, D + 1))
    expected = sums.hessian_product_at(matrix)(v)
    monkeypatch.setattr(linear, "MAX_KEPT_BYTES", 60 * 8 * n_classes)
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
        function = Objective(X, target, n_classes, np.ones(2500), 0.1, True, n_threads)
        x, v = np.random.default_rng(5).normal(size=(2, np.prod(function.shape)))
        loss, gradient = function(x)
        results.append((loss, gradient, function.hessian_product_at(x)(v)))
    for loss, gradient, product in results[1:]:
        assert loss == results[0][0]
        reference.assert_same_bits(gradient, results[0][1])
        reference.assert_same_bits(product, results[0][2])


def dense_hessian(function, x):
    product = function.hessian_product_at(x)
    return np.array([product(e) for e in np.eye(x.size)])


METRICS = {"blocks": (1 << 21, 2000), "factors": (0, 2000), "diagonal": (0, 0)}


def use_metric(monkeypatch, name):
    elements, size = METRICS[name]
    monkeypatch.setattr(linear, "MAX_BLOCK_ELEMENTS", elements)
    monkeypatch.setattr(linear, "MAX_FACTOR_SIZE", size)


@pytest.mark.parametrize("holder", ["C", "csr_array"])
@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("n_classes", [2, 5])
def test_metrics_are_positive_and_near_the_inverse(monkeypatch, n_classes, metric, fit_intercept, holder):
    """Symmetric, positive among centred vectors, and a better condition than the Hessian has by itself."""
    use_metric(monkeypatch, metric)
    X, target, weight = make(n_classes)
    X = HOLDERS[holder](X * np.logspace(-3, 3, D))
    function = Objective(X, target, n_classes, weight, 1e-9, fit_intercept, None)
    x = np.random.default_rng(6).normal(size=function.shape) / np.r_[np.logspace(-3, 3, D), 1]
    x[:, -1] *= fit_intercept
    x = function.vector(x)
    hessian = dense_hessian(function, x)
    matrix = np.array([function.metric_at(x)(e) for e in np.eye(hessian.shape[0])])
    free = np.array([function.centred(e) for e in np.eye(hessian.shape[0])])
    for row in free:
        function.matrix(row)[:, -1] *= fit_intercept
    scale = np.sqrt(np.diag(hessian))
    scale[scale == 0] = 1
    matrix = free @ matrix @ free.T * scale * scale[:, None]
    np.testing.assert_allclose(matrix, matrix.T, atol=1e-9 * np.abs(matrix).max())
    assert np.linalg.eigvalsh((matrix + matrix.T) / 2).min() > -1e-9 * np.abs(matrix).max()
    values = np.linalg.eigvals(matrix / scale / scale[:, None] @ hessian).real
    values = values[values > 1e-9 * values.max()]
    assert values.max() / values.min() < 200


@pytest.mark.parametrize("solver", ["lbfgs", "newton-cg"])
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("n_classes", [2, 5])
def test_solvers_agree(monkeypatch, n_classes, metric, solver):
    use_metric(monkeypatch, metric)
    X, target, weight = make(n_classes, soft=True)
    function = Objective(sparse.csr_array(X), target, n_classes, weight, 0.01, True, None)
    start = np.zeros(np.prod(function.shape))
    result = minimise(function, start, solver=solver, tol=1e-11, max_iter=300, noise=1e-16)
    assert result.converged
    dense = Objective(X, target, n_classes, weight, 0.01, True, None)
    monkeypatch.undo()
    expected = minimise(dense, start, tol=1e-11, max_iter=300, noise=1e-16)
    assert expected.converged
    np.testing.assert_allclose(function.matrix(result.x), dense.matrix(expected.x), atol=1e-8)


# --- dual ascent -----------------------------------------------------------------------------------------------------


def text(n_classes, soft=False, n=200, words=400):
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


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("index", [np.int32, np.int64])
@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("n_classes", [2, pytest.param(3, marks=pytest.mark.deep), 11])
def test_an_ascent_goes_most_of_the_way(n_classes, soft, fit_intercept, index, dtype):
    X, target, weight = text(n_classes, soft)
    X = X.astype(dtype)
    X.indices, X.indptr = X.indices.astype(index), X.indptr.astype(index)
    function = Objective(X, target, n_classes, weight, 1 / weight.sum(), fit_intercept, None)
    zeros = np.zeros(np.prod(function.shape))
    least = minimise(function, zeros, solver="newton-cg", tol=1e-7, max_iter=50, noise=float(np.finfo(dtype).eps))
    assert least.converged
    start, sweeps = function.ascent(100)
    assert 4 <= sweeps <= 16
    np.testing.assert_array_equal(function.ascent(sweeps)[0], start)
    assert function(zeros)[0] == pytest.approx(np.log(n_classes))
    assert function(start)[0] - least.loss < 0.01 * (function(zeros)[0] - least.loss)
    assert fit_intercept or not function.matrix(start)[:, -1].any()


@pytest.mark.parametrize("scale", [1e-200, 1e-8, 1.0, 1e3, 1e30, 1e200])
@pytest.mark.parametrize("l2", [0.0, 1e-12, 1.0, 1e6])
def test_no_start_is_worse_than_zeros(l2, scale, monkeypatch):
    monkeypatch.setattr(linear, "MAX_FACTOR_SIZE", 0)
    X, target, weight = text(4)
    function = Objective(X * scale, target, 4, weight, l2, True, None)
    losses = []
    with np.errstate(all="ignore"):
        for max_iter in (0, 1, 2, 5):
            result = minimise(
                function, np.zeros(4 * (X.shape[1] + 1)), tol=1e-12, max_iter=max_iter, noise=1e-16,
                callback=lambda progress: losses.append(progress.loss),
            )    # fmt: skip
            assert result.iterations <= max_iter
    assert max(losses) <= np.log(4) * (1 + 1e-12)


def test_ascents_are_for_sparse_rows_whose_probabilities_take_little(monkeypatch):
    X, target, weight = text(50)
    assert RowSums(X.toarray(), target, 50, weight).ascent(1.0, True, 9) is None
    assert RowSums(X, target, 50, weight).ascent(0.0, True, 9) is None
    assert RowSums(X, target, 50, weight).ascent(1.0, True, 9)[0].shape == (50, X.shape[1] + 1)
    monkeypatch.setattr(linear, "MAX_KEPT_BYTES", 0)
    monkeypatch.setattr(linear, "ASCENT_ARRAYS", 0)
    assert RowSums(X, target, 50, weight).ascent(1.0, True, 9) is None


def test_a_fit_that_starts_with_an_ascent_ends_at_the_minimum(monkeypatch):
    X, target, weight = text(4)
    function = Objective(X, target, 4, weight, 1 / len(weight), True, None)
    arguments = {"tol": 1e-10, "max_iter": 50, "noise": 1e-16}
    expected = minimise(function, np.zeros(4 * (X.shape[1] + 1)), solver="lbfgs", **arguments)
    monkeypatch.setattr(linear, "MAX_FACTOR_SIZE", 0)
    result = minimise(function, np.zeros(4 * (X.shape[1] + 1)), **arguments)
    assert expected.converged
    assert result.converged
    np.testing.assert_allclose(result.x, expected.x, atol=1e-7)


@pytest.mark.parametrize("solver", ["lbfgs", "newton-cg"])
@pytest.mark.parametrize("metric", ["blocks", "factors"])
def test_columns_from_a_millionth_to_a_million_need_no_scaler(monkeypatch, metric, solver):
    use_metric(monkeypatch, metric)
    X, target, _ = make(4)
    scale = np.logspace(-6, 6, D)
    arguments = {"solver": solver, "tol": 1e-10, "noise": 1e-16}
    function = Objective(X * scale, target, 4, np.ones(N), 0.0, True, None)
    result = minimise(function, np.zeros(4 * (D + 1)), **{**arguments, "tol": 1e-14}, max_iter=100)
    plain = Objective(X, target, 4, np.ones(N), 0.0, True, None)
    expected = minimise(plain, np.zeros(4 * (D + 1)), **arguments, max_iter=100)
    assert expected.converged
    assert result.loss == pytest.approx(expected.loss, rel=1e-12)


@pytest.mark.parametrize("solver", ["lbfgs", "newton-cg"])
@pytest.mark.parametrize("l2", [1e6, 1.0, 1e-6, 0.0])
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_separable_rows_and_any_penalty_end_in_finite_numbers(dtype, l2, solver):
    X = np.repeat(np.eye(3), 20, axis=0).astype(dtype)
    target = np.repeat(np.arange(3), 20)
    function = Objective(X, target, 3, np.ones(60), l2, True, None)
    with np.errstate(all="ignore"):
        result = minimise(
            function, np.zeros(12), solver=solver, tol=1e-6, max_iter=200, noise=float(np.finfo(dtype).eps)
        )
    assert np.isfinite(result.x).all()
    assert result.converged
    assert result.grad_norm <= 1e-6


@pytest.mark.parametrize("solver", ["auto", "lbfgs", "newton-cg"])
@pytest.mark.parametrize("seed", range(4))
def test_redundant_columns_of_any_scale_without_a_penalty(solver, seed):
    """The Hessian is singular, and rounding makes more or less than nothing of its curvature there."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(2000, 12)) @ rng.normal(size=(12, 20))
    y = (X @ rng.normal(size=20) / 4 + 2 * rng.logistic(size=len(X)) > 0).astype(np.int64)
    function = Objective(X, y, 2, np.ones(len(X)), 0.0, True, 1)
    least = minimise(function, np.zeros(21), solver="lbfgs", tol=1e-6, max_iter=100, noise=1e-16).loss
    function = Objective(X * 10.0 ** rng.permutation(np.linspace(-6, 6, 20)), y, 2, np.ones(len(X)), 0.0, True, 1)
    result = minimise(function, np.zeros(21), solver=solver, tol=1e-8, max_iter=100, noise=1e-16)
    assert result.loss == pytest.approx(least, rel=1e-9)


def columns_of_all_scales(seed, dtype):
    """Digits, almost separable; some columns feel the penalty. Permuted rows have other rounding errors everywhere."""
    X, y = load_digits()
    order = np.random.default_rng(seed).permutation(len(X)) if seed else np.arange(len(X))
    X = X * 10.0 ** np.random.default_rng(0).uniform(-6, 6, 64)
    return Objective(X[order].astype(dtype), y[order], 10, np.ones(len(X)), 100 / len(X), True, 1)


LEAST = 0.1239151844        # of that objective


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("solver", ["auto", "newton-cg"])
def test_columns_that_few_rows_have_hinder_no_solver(solver, seed):
    """Pixels that are black but in a few images: a sample of the rows alone says that they have no curvature."""
    function, seen = columns_of_all_scales(seed, np.float64), []
    result = minimise(function, np.zeros(650), solver=solver, tol=1e-4, max_iter=300, noise=2e-16, callback=seen.append)
    assert result.converged
    assert result.loss == pytest.approx(LEAST, rel=1e-8)
    assert [progress.iteration for progress in seen] == list(range(result.iterations + 1))
    assert seen[-1].loss == result.loss


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("solver", ["auto", "lbfgs", "newton-cg"])
def test_a_fit_in_float32_ends_where_its_rounding_errors_are(solver, seed):
    """It comes near the minimum and does not spend its iterations there on nothing."""
    noise = float(np.finfo(np.float32).eps)
    result = minimise(
        columns_of_all_scales(seed, np.float32), np.zeros(650), solver=solver, tol=1e-6, max_iter=1000, noise=noise
    )
    assert result.reason == solvers.NO_DESCENT
    assert result.iterations < 500
    assert result.loss == pytest.approx(LEAST, rel=200 * noise)


def test_newton_goes_on_where_lbfgs_stops_short(monkeypatch):
    """Whichever of them came farther, the reason is that of the last."""
    X, target, weight = make(4)
    function = Objective(X, target, 4, weight, 0.01, True, None)
    monkeypatch.setattr(linear, "PATIENCE", 2)
    seen = []
    zeros = np.zeros(4 * (D + 1))
    result = minimise(function, zeros, tol=1e-9, max_iter=100, noise=1e-16, callback=seen.append)
    assert result.converged
    assert result.iterations > 2
    assert [progress.iteration for progress in seen] == list(range(result.iterations + 1))
    assert minimise(function, zeros, tol=1e-30, max_iter=4, noise=1e-16).reason == solvers.MAX_ITER
    result = minimise(function, zeros, tol=1e-30, max_iter=1000, noise=1e-16)
    assert (result.reason, result.iterations < 1000) == (solvers.NO_DESCENT, True)


@pytest.mark.parametrize("solver", ["auto", "lbfgs", "newton-cg"])
@pytest.mark.parametrize("limits", [(1 << 21, 1600), (0, 1600), (0, 0)], ids=["blocks", "factors", "diagonal"])
def test_columns_that_a_thousandth_of_the_rows_have(monkeypatch, limits, solver):
    monkeypatch.setattr(linear, "MAX_BLOCK_ELEMENTS", limits[0])
    monkeypatch.setattr(linear, "MAX_FACTOR_SIZE", limits[1])
    rng = np.random.default_rng(11)
    X = (rng.random((20_000, 20)) < np.logspace(-3.3, 0, 20)) * rng.geometric(0.1, (20_000, 20))
    scores = X @ (rng.normal(size=(20, 3)) / 10) + rng.gumbel(size=(20_000, 3))
    function = Objective(X.astype(float), scores.argmax(axis=1), 3, np.ones(len(X)), 1e-4 / len(X), True, None)
    result = minimise(function, np.zeros(63), solver=solver, tol=1e-6, max_iter=100, noise=2e-16)
    assert result.converged


# --- memory ----------------------------------------------------------------------------------------------------------

MANY = 20_000       # classes


def peak_of_fit(X, target, n_classes, **options):
    """In bytes, and what it may be: beside the data, 24 times the coefficients and 64 MB."""
    tracemalloc.start()
    function = Objective(X, target, n_classes, np.ones(X.shape[0]), 1e-3, True, 2)
    size = int(np.prod(function.shape))
    noise = float(np.finfo(X.dtype).eps)
    minimise(function, np.zeros(size), tol=1e-12, noise=noise, **options)
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
    function = Objective(X, target, n_classes, weight, 1e-3, True, 2)
    minimise(function, np.zeros(np.prod(function.shape)), solver=solver, tol=1e-12, max_iter=6, noise=1e-7)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 64e6 + 8 * 8 * np.prod(function.shape)


def test_blas_has_one_thread_during_a_fit_and_its_own_afterwards():
    threadpoolctl = pytest.importorskip("threadpoolctl")

    def blas_threads():
        return {pool["num_threads"] for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "blas"}

    seen = []
    X, target, weight = make(3)
    linear._controller.cache_clear()       # it knows the libraries that were there at the first fit
    with threadpoolctl.threadpool_limits(2, user_api="blas"):
        before = blas_threads()
        minimise(
            Objective(X, target, 3, weight, 0.1, True, None), np.zeros(3 * (D + 1)), tol=1e-6, max_iter=3, noise=1e-16,
            callback=lambda progress: seen.append(blas_threads()),
        )  # fmt: skip
        assert blas_threads() == before
    assert all(threads <= {1} for threads in seen)
