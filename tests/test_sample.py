"""The rows that a metric is computed from."""

import numpy as np
import pytest

from xent import sample


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
    chance = sample.chances(undecided, mass, 1200)
    assert chance.max() <= 1
    assert chance.min() > 0
    assert chance.sum() == pytest.approx(1200, rel=0.02)
    rows = sample.drawn(chance)
    assert len(rows) == pytest.approx(1200, rel=0.02)
    assert np.isin(np.flatnonzero(chance == 1), rows).all()


@pytest.mark.parametrize("undecided", [0.0, np.nan, np.inf])
def test_without_undecided_rows_chances_go_by_mass(undecided):
    mass = np.repeat([0.0, 1.0, 3.0], 1000)
    chance = sample.chances(np.full(3000, undecided), mass, 1200)
    assert (chance[:1000] == 0).all()
    assert chance[1000:].sum() == pytest.approx(1200)
    assert chance[2500] == pytest.approx(3 * chance[1500])


def test_few_rows_are_all_taken(rng):
    X, p, mass = rng.standard_normal((50, 3)), probabilities_of(rng, 50, 4, 1), rng.random(50)
    drawn = sample.draw(X, p, mass, 100)
    np.testing.assert_allclose(drawn.X[:, :-1] * drawn.scale[:-1], X, rtol=1e-6)
    np.testing.assert_array_equal(drawn.p, p)
    np.testing.assert_allclose(drawn.mass, mass / mass.sum())


def test_the_sample_has_the_curvature_of_all_rows_better_than_even_distances_give(rng):
    X, p = rng.standard_normal((20_000, 5)), probabilities_of(rng, 20_000, 3, 20)
    spread = p[:, 0] * (1 - p[:, 0])
    exact = (X * spread[:, None]).T @ X / len(X)
    drawn = sample.draw(X, p, np.ones(len(X)), 1000)
    rows = drawn.X[:, :-1] * drawn.scale[:-1]
    of_sample = (rows * (drawn.mass * drawn.p[:, 0] * (1 - drawn.p[:, 0]))[:, None]).T @ rows
    of_twentieths = (X[::20] * spread[::20, None]).T @ X[::20] / len(X[::20])
    assert np.abs(of_sample - exact).max() < 0.5 * np.abs(of_twentieths - exact).max()
    assert np.abs(of_sample - exact).max() < 0.2 * exact.max()


def test_columns_of_any_size_fit_float32(rng):
    X = rng.standard_normal((2000, 4)) * [1e-300, 1.0, 1e300, 0.0]
    drawn = sample.draw(X, probabilities_of(rng, 2000, 3, 1), np.ones(2000), 500)
    assert drawn.X.dtype == np.float32
    assert np.abs(drawn.X[:, :3]).max(axis=0) == pytest.approx(1)
    assert (drawn.X[:, 3] == 0).all()
    assert (drawn.scale > 0).all()
