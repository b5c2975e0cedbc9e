"""Rows that do not fit the scratch: taken in pieces, they have the bits of rows that are used where they are."""

import ml_dtypes
import numpy as np
import pytest
from reference import assert_same_bits, rows_with_every_maximum

import xent

N = 40_003              # of float64 with a few options, more than the scratch of a thread
LONGER = 150_001        # of anything that is copied
OPTIONS = {
    "plain": {},
    "softcap": {"softcap": 20.0, "z_loss": 0.01},
    "scale": {"logit_scale": -0.75, "label_smoothing": 0.1},
    "class weights": {"class_weight": lambda n: np.linspace(0.5, 2, n), "label_smoothing": 0.2},
    "mask": {"where": lambda n: np.arange(n) % 7 != 5, "label_smoothing": 0.1, "softcap": 9.0},
    "extreme weights": {"class_weight": lambda n: np.where(np.arange(n) % 2, 1e300, 1e-300), "z_loss": 0.01},
}


def targets(n, rows):
    rng = np.random.default_rng(1)
    # Class 0 can happen whatever the mask.
    labels = np.resize([0, 1, n - 1, n // 2], rows)
    yield labels
    yield rng.dirichlet(np.ones(n), rows)
    yield rng.integers(0, n, (rows, 5)), rng.random((rows, 5))


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n", [N, LONGER])
def test_losses_of_long_rows(n, dtype, name):
    """In another layout a row is copied, into more scratch than where it is used in place: there are more pieces."""
    x = rows_with_every_maximum(n, dtype)[[0, 3, 6]]
    x[1, n // 3] = -np.inf
    options = {key: make(n) if callable(make) else make for key, make in OPTIONS[name].items()}
    apart = np.full((len(x), 2 * n), 99, dtype)[:, ::2]
    apart[...] = x
    for target in targets(n, len(x)):
        arguments = {"return_grad": True, "reduction": "none", **options}
        expected = xent.cross_entropy(x, target, n_threads=1, **arguments)
        for array, threads in ((apart, 1), (apart, 2), (np.asfortranarray(x), 2), (x, 2), (x.copy(), 2)):
            out = array if array is not x and array is not apart else None
            loss, grad = xent.cross_entropy(array, target, n_threads=threads, grad_out=out, **arguments)
            assert_same_bits(loss, expected[0])
            assert_same_bits(np.ascontiguousarray(grad), expected[1])
            alone = xent.cross_entropy(x[1:2], tuple(t[1:2] for t in target) if type(target) is tuple else target[1:2],
                                       **arguments)
            assert_same_bits(alone[0], expected[0][1:2])
            assert_same_bits(alone[1], expected[1][1:2])


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_losses_of_half_precision(dtype):
    """A long row of half precision is the row in float32."""
    x = rows_with_every_maximum(LONGER, np.float32)[:3].astype(dtype)
    wide = x.astype(np.float32)
    for options in ({}, {"softcap": 5.0}):
        for target in targets(LONGER, len(x)):
            arguments = {"return_grad": True, "reduction": "none", **options}
            expected = xent.cross_entropy(wide, target, **arguments)
            loss, grad = xent.cross_entropy(x, target, grad_out=np.empty_like(wide), **arguments)
            assert_same_bits(loss, expected[0])
            assert_same_bits(grad, expected[1])
            narrow = xent.cross_entropy(x, target, **arguments)[1]
            assert narrow.dtype == dtype
            np.testing.assert_array_equal(narrow.astype(np.float32), expected[1].astype(dtype).astype(np.float32))


@pytest.mark.parametrize("function", [xent.softmax, xent.log_softmax, xent.logsumexp])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_functions_of_long_rows(dtype, function):
    for special in (0, np.inf, -np.inf, np.nan):
        x = rows_with_every_maximum(LONGER, dtype)[[0, 3, 6]]
        x[1, [5, -7]] += special
        expected = function(x)
        apart = np.full((len(x), 2 * LONGER), 99, dtype)[:, ::2]
        apart[...] = x
        assert_same_bits(np.ascontiguousarray(function(apart, n_threads=1)), expected)
        assert_same_bits(np.ascontiguousarray(function(np.asfortranarray(x))), expected)
        if function is not xent.logsumexp:
            function(apart, out=apart)
            assert_same_bits(np.ascontiguousarray(apart), expected)
        wide = x.astype(np.float16)
        narrow = function(wide)
        np.testing.assert_array_equal(
            narrow.astype(np.float32), function(wide.astype(np.float32)).astype(narrow.dtype).astype(np.float32)
        )


def test_points_of_a_sparse_target():
    """Repeated classes add up, whichever and however many there are."""
    rng = np.random.default_rng(2)
    for n, k in ((5, 1), (5, 40), (1000, 3), (1000, 700), (LONGER, 64)):
        x = rng.normal(size=(3, n))
        indices, masses = rng.integers(0, min(n, 50), (3, k)) * (n // min(n, 50)), rng.random((3, k))
        dense = np.zeros((3, n))
        np.add.at(dense, (np.arange(3)[:, None], indices), masses)
        loss, grad = xent.cross_entropy(x, (indices, masses), reduction="none", return_grad=True)
        expected, slope = xent.cross_entropy(x, dense, reduction="none", return_grad=True)
        np.testing.assert_allclose(loss, expected, rtol=1e-14)
        np.testing.assert_allclose(grad, slope, rtol=1e-12, atol=1e-13)
