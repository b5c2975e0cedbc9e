"""Features in float16 and bfloat16: computed in float32, with results in float32."""

import importlib.util
import tracemalloc

import numpy as np
import pytest
from good_arguments import HALVES

import xent

METHODS = ("decision_function", "predict", "predict_proba", "predict_log_proba")


def problem(dtype, rows=400, features=5):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(rows, features)).astype(dtype)
    return X, (X[:, :3].astype(float) + rng.gumbel(size=(rows, 3))).argmax(axis=1)


def assert_same(model, wide, X, X32):
    np.testing.assert_array_equal(model.coef_, wide.coef_)
    for method in METHODS:
        found, expected = getattr(model, method)(X), getattr(wide, method)(X32)
        np.testing.assert_array_equal(found, expected)
        assert found.dtype == expected.dtype


@pytest.mark.parametrize("order", ["C", "F", "strided"])
@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_arrays(dtype, order):
    X, y = problem(dtype)
    X = np.repeat(X, 2, axis=1)[:, ::2] if order == "strided" else np.asarray(X, order=order)
    X32 = X.astype(np.float32)
    model, wide = xent.LogisticRegression().fit(X, y), xent.LogisticRegression().fit(X32, y)
    assert model.coef_.dtype == np.float32
    assert_same(model, wide, X, X32)
    assert model.score(X, y) == wide.score(X32, y)
    model.partial_fit(X, y)
    np.testing.assert_array_equal(model.coef_, wide.partial_fit(X32, y).coef_)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_numbers_that_are_not_finite(dtype):
    X, y = problem(dtype)
    model = xent.LogisticRegression().fit(X, y)
    assert model.predict(np.full_like(X, np.finfo(np.float16).max)).shape == y.shape      # whose sum is inf in float16
    X[7, 2] = np.nan
    for call in (model.predict, lambda X: model.fit(X, y)):
        with pytest.raises(ValueError, match=r"^X\[7, 2\] is nan; it must be finite"):
            call(X)


@pytest.mark.parametrize("library", ["pandas", "polars", "pyarrow"])
def test_frames(library):
    module = pytest.importorskip(library)
    X, y = problem(np.float16)
    columns = {name: X[:, i] for i, name in enumerate("abcde")}
    frame = module.table(columns) if library == "pyarrow" else module.DataFrame(columns)
    X32 = X.astype(np.float32)
    model = xent.LogisticRegression().fit(frame, y)
    assert list(model.feature_names_in_) == list("abcde")
    assert_same(model, xent.LogisticRegression().fit(X32, y), frame, X32)


def test_frames_of_several_types():
    pandas = pytest.importorskip("pandas")
    X, y = problem(np.float16)
    for other, expected in ((np.int8, np.float32), (bool, np.float32), (np.float32, np.float32), (int, np.float64)):
        frame = pandas.DataFrame({"a": X[:, 0], "b": (X[:, 1] > 0).astype(other)})
        assert xent.LogisticRegression().fit(frame, y).coef_.dtype == expected


def test_sparse_rows():
    """SciPy makes such a matrix only from its parts."""
    sparse = pytest.importorskip("scipy.sparse")
    X, y = problem(np.float16)
    X32 = sparse.csr_array(X.astype(np.float32))
    X16 = sparse.csr_array((X32.data.astype(np.float16), X32.indices, X32.indptr), shape=X.shape)
    assert_same(xent.LogisticRegression().fit(X16, y), xent.LogisticRegression().fit(X32, y), X16, X32)


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="no torch")
def test_tensors():
    import torch

    X, y = problem(np.float32)
    X16 = torch.tensor(X).to(torch.float16)
    X32 = X16.float().numpy()
    assert_same(xent.LogisticRegression().fit(X16, y), xent.LogisticRegression().fit(X32, y), X16, X32)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_blocks(dtype):
    X, y = problem(dtype)
    blocks = xent.Blocks.from_arrays(X, y, rows=150)
    model, wide = xent.LogisticRegression().fit(blocks), xent.LogisticRegression()
    wide.fit(xent.Blocks.from_arrays(X.astype(np.float32), y, rows=150))
    assert_same(model, wide, X, X.astype(np.float32))


def test_memory():
    """One copy in float32, of a block if X comes in blocks."""
    X, y = problem(np.float16, 20_000, 200)
    model = xent.LogisticRegression(C=1e-4, tol=0.05).fit(X[:1000], y[:1000])
    blocks = xent.Blocks.from_arrays(X, y, rows=4000)
    for call, copies in ((lambda: model.fit(X, y), 2), (lambda: model.fit(blocks), 0), (lambda: model.predict(X), 2)):
        tracemalloc.start()
        call()
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < copies * X.nbytes + 12e6
