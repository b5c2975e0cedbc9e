"""The rows that a metric is computed from."""

import numpy as np
import pytest

from xent._fit import subsample


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def probabilities_of(rng, rows, classes, confidence):
    z = confidence * rng.standard_normal((rows, classes))
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def test_chances_add_up_and_draws_keep_to_them(rng):
    undecided = rng.random(5000) ** 8
    mass = rng.random(5000)
    chance = subsample.chances(undecided, mass, 1200)
    assert chance.max() <= 1
    assert chance.min() > 0
    assert chance.sum() == pytest.approx(1200, rel=0.02)
    rows = subsample.drawn(chance)
    assert len(rows) == pytest.approx(1200, rel=0.02)
    assert np.isin(np.flatnonzero(chance == 1), rows).all()


@pytest.mark.parametrize("undecided", [0.0, np.nan, np.inf])
def test_without_undecided_rows_chances_go_by_mass(undecided):
    mass = np.repeat([0.0, 1.0, 3.0], 1000)
    chance = subsample.chances(np.full(3000, undecided), mass, 1200)
    assert (chance[:1000] == 0).all()
    assert chance[1000:].sum() == pytest.approx(1200)
    assert chance[2500] == pytest.approx(3 * chance[1500])


def test_few_rows_are_all_taken(rng):
    X, undecided, mass = rng.standard_normal((50, 3)), rng.random(50), rng.random(50)
    drawn = subsample.draw(X, undecided, mass, 100)
    scaled = subsample.scaled_rows(X, drawn, slice(None))
    np.testing.assert_allclose(scaled[:, :-1] * drawn.scale[:-1], X, rtol=1e-6)
    np.testing.assert_array_equal(drawn.undecided, undecided)
    np.testing.assert_allclose(drawn.mass, mass / mass.sum())


def test_the_sample_has_the_curvature_of_all_rows_better_than_even_distances_give(rng):
    X, p = rng.standard_normal((20_000, 5)), probabilities_of(rng, 20_000, 3, 20)
    spread = p[:, 0] * (1 - p[:, 0])
    exact = (X * spread[:, None]).T @ X / len(X)
    drawn = subsample.draw(X, 1 - (p**2).sum(axis=1), np.ones(len(X)), 1000)
    rows = X[drawn.rows]
    of_sample = (rows * (drawn.mass * spread[drawn.rows])[:, None]).T @ rows
    of_twentieths = (X[::20] * spread[::20, None]).T @ X[::20] / len(X[::20])
    assert np.abs(of_sample - exact).max() < 0.5 * np.abs(of_twentieths - exact).max()
    assert np.abs(of_sample - exact).max() < 0.2 * exact.max()


def test_columns_of_any_size_fit_float32(rng):
    X = rng.standard_normal((2000, 4)) * [1e-300, 1.0, 1e300, 0.0]
    drawn = subsample.draw(X, rng.random(2000), np.ones(2000), 500)
    scaled = subsample.scaled_rows(X, drawn, slice(None))
    assert scaled.dtype == np.float32
    assert np.abs(scaled[:, :3]).max(axis=0) == pytest.approx(1)
    assert (scaled[:, 3] == 0).all()
    assert (drawn.scale > 0).all()


def hessian_of_classes(X, p, mass):
    rows = np.c_[X, np.ones(len(X))]
    spread = mass[:, None] * p * (1 - p) / mass.sum()
    return np.einsum("ik,ij,il->kjl", spread, rows, rows)


@pytest.mark.parametrize("layout", ["dense", "sparse"])
@pytest.mark.parametrize("n_classes", [2, 3, 9])
def test_blocks_of_all_rows_are_those_of_the_hessian(rng, n_classes, layout):
    sparse = pytest.importorskip("scipy.sparse")
    X, mass = rng.standard_normal((300, 4)), rng.uniform(0.5, 2, 300)
    matrix = rng.standard_normal((1 if n_classes == 2 else n_classes, 5))
    scores = X @ matrix[:, :-1].T + matrix[:, -1]
    e = np.exp(np.c_[np.zeros(300), scores] if n_classes == 2 else scores)
    p = (e / e.sum(axis=1, keepdims=True))[:, -len(matrix) :]
    expected = hessian_of_classes(X, p, mass)
    diagonal = np.einsum("kii->ki", expected)
    rows = subsample.Candidates(X if layout == "dense" else sparse.csr_array(X), mass, n_classes, all_rows=True)
    np.testing.assert_allclose(rows.class_blocks(matrix, diagonal), expected, rtol=1e-4, atol=1e-6)
    features, curvatures = rows.factors(matrix, diagonal, 0.3)
    penalty = 0.3 * np.diag([1.0] * 4 + [0])
    mean = np.linalg.inv(expected.mean(axis=0) + penalty)
    np.testing.assert_allclose((features / curvatures.mean(axis=0)) @ features.T, mean, rtol=1e-3, atol=1e-4)


def test_a_column_that_no_row_of_the_sample_has_keeps_its_curvature(rng):
    X = rng.standard_normal((20_000, 3))
    X[:, 2] = 0
    X[[5, 4711], 2] = 1e3
    mass, matrix = np.ones(len(X)), 0.1 * rng.standard_normal((3, 4))
    diagonal = np.array([[0.2, 0.2, 22.0, 0.2]] * 3)
    rows = subsample.Candidates(X[1::10], mass[1::10], 3)
    blocks = rows.class_blocks(matrix, diagonal)
    np.testing.assert_allclose(np.einsum("kii->ki", blocks), diagonal)
    features, curvatures = rows.factors(matrix, diagonal, 0.0)
    inverse = (features / curvatures[0]) @ features.T
    assert inverse[2, 2] == pytest.approx(1 / 22, rel=0.1)
