"""The rows that a preconditioner is computed from."""

import numpy as np
import pytest

from xent._fit.curvature import softmax_variance
from xent._fit.subsample import Candidates, compute_chances, draw_rows, select_rows


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def probabilities_of(rng, rows, classes, confidence):
    z = confidence * rng.standard_normal((rows, classes))
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def test_chances_add_up_and_draws_keep_to_them(rng):
    undecided = rng.random(5000) ** 8
    weight = rng.random(5000)
    chance = compute_chances(undecided, weight, 1200)
    assert chance.max() <= 1
    assert chance.min() > 0
    assert chance.sum() == pytest.approx(1200, rel=0.02)
    rows = select_rows(chance)
    assert len(rows) == pytest.approx(1200, rel=0.02)
    assert np.isin(np.flatnonzero(chance == 1), rows).all()


@pytest.mark.parametrize("undecided", [0.0, np.nan, np.inf])
def test_without_undecided_rows_chances_go_by_weight(undecided):
    weight = np.repeat([0.0, 1.0, 3.0], 1000)
    chance = compute_chances(np.full(3000, undecided), weight, 1200)
    assert (chance[:1000] == 0).all()
    assert chance[1000:].sum() == pytest.approx(1200)
    assert chance[2500] == pytest.approx(3 * chance[1500])


def test_few_rows_are_all_taken(rng):
    X, undecided, weight = rng.standard_normal((50, 3)), rng.random(50), rng.random(50)
    drawn = draw_rows(Candidates(X, weight, 3), undecided, 100)
    scaled = drawn.scaled_rows(slice(None))
    np.testing.assert_allclose(scaled[:, :-1] * drawn.scale[:-1], X, rtol=1e-6)
    np.testing.assert_array_equal(drawn.undecided, undecided)
    np.testing.assert_allclose(drawn.row_weight, weight / weight.sum())


def test_the_sample_has_the_curvature_of_all_rows_better_than_even_distances_give(rng):
    X, p = rng.standard_normal((20_000, 5)), probabilities_of(rng, 20_000, 3, 20)
    variance = softmax_variance(p[:, 0])
    exact = (X * variance[:, None]).T @ X / len(X)
    drawn = draw_rows(Candidates(X, np.ones(len(X)), 3), 1 - (p**2).sum(axis=1), 1000)
    rows = X[drawn.rows]
    of_sample = (rows * (drawn.row_weight * variance[drawn.rows])[:, None]).T @ rows
    of_twentieths = (X[::20] * variance[::20, None]).T @ X[::20] / len(X[::20])
    assert np.abs(of_sample - exact).max() < 0.5 * np.abs(of_twentieths - exact).max()
    assert np.abs(of_sample - exact).max() < 0.2 * exact.max()


def test_columns_of_any_size_fit_float32(rng):
    X = rng.standard_normal((2000, 4)) * [1e-300, 1.0, 1e300, 0.0]
    drawn = draw_rows(Candidates(X, np.ones(2000), 3), rng.random(2000), 500)
    scaled = drawn.scaled_rows(slice(None))
    assert scaled.dtype == np.float32
    assert np.abs(scaled[:, :3]).max(axis=0) == pytest.approx(1)
    assert (scaled[:, 3] == 0).all()
    assert (drawn.scale > 0).all()
