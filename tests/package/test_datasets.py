"""The embedded digits are the published ones."""

import hashlib

import numpy as np
import pytest

from xent.datasets import load_digits

SHA256 = "87ff0c9e40dc7e2c0e34e7257799c2e3f3aec1a016363bb11cad869ec428a826"  # of both arrays as bytes, X first


def test_shapes_and_types():
    X, y = load_digits()
    assert (X.shape, X.dtype) == ((1797, 64), np.float64)
    assert (y.shape, y.dtype) == ((1797,), np.int64)
    assert X.flags.c_contiguous
    assert y.flags.c_contiguous


def test_values():
    X, y = load_digits()
    assert (X.min(), X.max(), X.sum()) == (0, 16, 561_718)
    assert np.bincount(y).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    np.testing.assert_array_equal(X, np.rint(X))


def test_bytes():
    X, y = load_digits()
    assert hashlib.sha256(X.astype(np.uint8).tobytes() + y.astype(np.uint8).tobytes()).hexdigest() == SHA256


def test_every_call_gives_arrays_of_its_own():
    for array, again in zip(load_digits(), load_digits(), strict=True):
        assert array.flags.writeable
        assert not np.shares_memory(array, again)
        array[:] = 0
    assert load_digits()[0].sum() == 561_718


def test_same_as_scikit_learn():
    peer = pytest.importorskip("sklearn.datasets")
    for ours, theirs in zip(load_digits(), peer.load_digits(return_X_y=True), strict=True):
        np.testing.assert_array_equal(ours, theirs)
