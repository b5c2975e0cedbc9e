"""The whole Hessian: against finite differences of the gradient, and where all but a sum of positive terms cancels."""

import numpy as np
import pytest
import reference
from fit_problems import HOLDERS, D, N, make_rows, sparse

from xent._fit import hessian
from xent._fit.partitioned import Layout, SequentialSums
from xent._fit.row_sums import RowSums

SHAPES = [(0, 2), (0, 3), (1, 2), (3, 2), (4, 5), (20, 2), (40, 4), (1, 140)]      # features, classes


def use_way(monkeypatch, way):
    """Products of the elements of a row for all pairs of classes, or weighted rows for each pair."""
    monkeypatch.setattr(hessian, "PAIRS_PER_COLUMN", {"products": 0, "weighted rows": np.inf}[way])
    monkeypatch.setattr(hessian, "TILE_ROWS", 96)


def in_partitions(X, target, n_classes, weight):
    cuts = [slice(0, 70), slice(70, 71), slice(71, N)]
    parts = [RowSums(X[cut], target[cut], n_classes, weight[cut]) for cut in cuts]
    layout = Layout(n_classes, D, X.dtype, sum(part.weight for part in parts), (70, 1, N - 71))
    return SequentialSums(layout, lambda: iter(enumerate(parts)))


@pytest.mark.parametrize("way", ["products", "weighted rows"])
@pytest.mark.parametrize("holder", [*HOLDERS, "partitions"])
@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("n_classes", [2, 3, 11])
def test_hessian_by_finite_differences(monkeypatch, n_classes, soft, holder, way):
    use_way(monkeypatch, way)
    X, target, weight = make_rows(n_classes, soft)
    if holder == "partitions":
        sums = in_partitions(X, target, n_classes, weight)
    else:
        sums = RowSums(HOLDERS[holder](X), target, n_classes, weight)
    matrix, step = np.random.default_rng(1).normal(size=(sums.n_coef_rows, D + 1)), 1e-5
    loss, gradient, found = sums.expand(matrix)
    expected = sums.loss_gradient(matrix)
    assert loss == pytest.approx(expected[0])
    np.testing.assert_allclose(gradient, expected[1], atol=1e-11)
    np.testing.assert_array_equal(found, found.T)
    np.testing.assert_array_equal(sums.hessian(matrix), found)
    for i in range(matrix.size):
        v = np.zeros(matrix.size)
        v[i] = step
        v = v.reshape(matrix.shape)
        difference = sums.loss_gradient(matrix + v)[1] - sums.loss_gradient(matrix - v)[1]
        np.testing.assert_allclose(found[i].reshape(matrix.shape), difference / (2 * step), atol=1e-7)
    product = sums.hessian_product_at(matrix)(matrix)
    np.testing.assert_allclose((found @ matrix.ravel()).reshape(matrix.shape), product, atol=1e-10)
    np.testing.assert_allclose(found.diagonal().reshape(matrix.shape) / sums.weight, sums.diagonal(matrix), atol=1e-12)


@pytest.mark.parametrize("way", ["products", "weighted rows"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n_classes", [2, 4])
def test_curvatures_of_separated_rows_keep_their_digits(monkeypatch, n_classes, dtype, way):
    """The first class leads by 20 to 60 in every row: 1 - p would have no digit left in most of them."""
    use_way(monkeypatch, way)
    X, target, weight = make_rows(n_classes)
    X = X.astype(dtype)
    matrix = np.random.default_rng(1).normal(size=(1 if n_classes == 2 else n_classes, D + 1))
    matrix[:, -1] -= 40
    if n_classes > 2:
        matrix[0, -1] += 40
    found = RowSums(X, target, n_classes, weight).expand(matrix)[2]
    x = np.c_[X, np.ones(N)].astype(np.longdouble)
    logits = np.zeros((N, n_classes), np.longdouble)
    logits[:, -len(matrix) :] = x @ matrix.T
    p = reference.softmax(logits)
    curvature = -p[:, :, None] * p[:, None, :] * weight[:, None, None]
    each = np.arange(n_classes)
    curvature[:, each, each] = 0        # before the sum, in which it would drown the others
    curvature[:, each, each] = -curvature.sum(axis=1)
    curvature = curvature[:, -len(matrix) :, -len(matrix) :]
    expected = np.einsum("ikm,ia,ib->kamb", curvature, x, x)
    size = np.einsum("ikm,ia,ib->kamb", abs(curvature), abs(x), abs(x))
    error = abs(found.reshape(expected.shape) - expected) / size
    assert error.max() < 1e-12


def expand_in_numpy(X, target, n_classes, weight, matrix):
    """With labels."""
    x = np.c_[X, np.ones(len(X))].astype(np.float64)
    logits = np.zeros((len(X), n_classes))
    logits[:, -len(matrix) :] = x @ matrix.T
    log_p = reference.log_softmax(logits)
    p = np.exp(log_p)
    spread = p[:, :, None] * (np.eye(n_classes) - p[:, None, :]) * weight[:, None, None]
    spread = spread[:, -len(matrix) :, -len(matrix) :]
    rest = (p - np.eye(n_classes)[target])[:, -len(matrix) :] * weight[:, None]
    found = np.einsum("ikm,ia,ib->kamb", spread, x, x, optimize=True)
    return -weight @ log_p[np.arange(len(X)), target], rest.T @ x, found.reshape(matrix.size, -1)


@pytest.mark.parametrize("way", ["products", "weighted rows"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n", [1, 7, 96, 200])
@pytest.mark.parametrize(("n_features", "n_classes"), SHAPES)
def test_all_shapes(monkeypatch, n_features, n_classes, n, dtype, way):
    """Tiles that are full or not, several chunks of pairs and of products, rows too long for tiles of the loss."""
    use_way(monkeypatch, way)
    rng = np.random.default_rng(3)
    X, target, weight = rng.normal(size=(n, n_features)).astype(dtype), rng.integers(0, n_classes, n), rng.random(n)
    sums = RowSums(X, target, n_classes, weight)
    matrix = rng.normal(size=(sums.n_coef_rows, n_features + 1))
    expected = expand_in_numpy(X, target, n_classes, weight, matrix)
    for found, right in zip(sums.expand(matrix), expected, strict=True):
        np.testing.assert_allclose(found, right, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("holder", HOLDERS)
@pytest.mark.parametrize("n_classes", [2, 7])
def test_threads_change_nothing(monkeypatch, n_classes, holder):
    """With blocks of one or two tiles."""
    monkeypatch.setattr(hessian, "TILE_ROWS", 8)
    monkeypatch.setattr(hessian, "THREAD_ELEMENTS", 1)
    X, target, weight = make_rows(n_classes)
    alone, together = (RowSums(HOLDERS[holder](X), target, n_classes, weight, n_threads=t) for t in (1, 4))
    matrix = np.random.default_rng(1).normal(size=(alone.n_coef_rows, D + 1))
    expected = expand_in_numpy(X, target, n_classes, weight, matrix)
    for found, same, right in zip(alone.expand(matrix), together.expand(matrix), expected, strict=True):
        np.testing.assert_array_equal(found, same)
        np.testing.assert_allclose(found, right, rtol=1e-11, atol=1e-11)


def test_elements_that_are_stored_twice_are_added_up():
    _, target, weight = make_rows(3)
    rows = sparse.csr_array((np.arange(3.0 * N) / N, np.tile([1, 4, 1], N), np.arange(0, 3 * N + 1, 3)), shape=(N, D))
    matrix = np.random.default_rng(1).normal(size=(3, D + 1))
    expected = RowSums(rows.toarray(), target, 3, weight).expand(matrix)
    for found, right in zip(RowSums(rows, target, 3, weight).expand(matrix), expected, strict=True):
        np.testing.assert_array_equal(found, right)


def test_rows_without_weight_and_no_rows_at_all():
    X, target, weight = make_rows(3)
    matrix = np.ones((3, D + 1))
    assert not RowSums(X, target, 3, 0 * weight).expand(matrix)[2].any()
    assert RowSums(X[:0], target[:0], 3, weight[:0]).expand(matrix)[2].shape == (matrix.size, matrix.size)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n_classes", [2, 4])
def test_some_elements(n_classes, dtype):
    X, target, weight = make_rows(n_classes)
    scale = np.append(np.logspace(-30, 30, D), 1)
    sums = RowSums(X * scale[:-1], target, n_classes, weight)
    matrix = np.random.default_rng(1).normal(size=(sums.n_coef_rows, D + 1)) / scale
    chosen = np.flatnonzero(np.random.default_rng(2).random(matrix.size) < 0.6)
    expected = sums.hessian(matrix)[np.ix_(chosen, chosen)]
    found = sums.hessian_among(matrix, np.unravel_index(chosen, matrix.shape), dtype)
    size = np.sqrt(expected.diagonal())
    found, expected = found / size / size[:, None], expected / size / size[:, None]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 if dtype == np.float32 else 1e-12)
