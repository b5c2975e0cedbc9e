"""Features in sparse matrices and in frames."""

import tracemalloc

import numpy as np
import pytest

import xent

scipy_sparse = pytest.importorskip("scipy.sparse")

CSR = [scipy_sparse.csr_matrix, scipy_sparse.csr_array]
FORMATS = ("csc", "coo", "lil", "bsr", "dok")
OTHERS = [getattr(scipy_sparse, f"{name}_{kind}") for name in FORMATS for kind in ("matrix", "array")]


@pytest.fixture
def data():
    """Dense features, nine in ten of them zero, with the labels of three classes."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(400, 12)) * (rng.random((400, 12)) < 0.1)
    return X, (X @ rng.normal(size=(12, 3)) + rng.gumbel(size=(400, 3))).argmax(axis=1)


@pytest.mark.parametrize("kind", CSR + OTHERS, ids=lambda kind: kind.__name__)
def test_a_sparse_fit_is_a_dense_one(data, kind):
    X, y = data
    dense, sparse = xent.LogisticRegression(tol=1e-9).fit(X, y), xent.LogisticRegression(tol=1e-9).fit(kind(X), y)
    np.testing.assert_allclose(sparse.coef_, dense.coef_, atol=1e-6)
    assert isinstance(sparse.coef_, np.ndarray)
    np.testing.assert_allclose(sparse.predict_log_proba(kind(X)), sparse.predict_log_proba(X), atol=1e-12)
    np.testing.assert_allclose(sparse.decision_function(kind(X)), sparse.decision_function(X), atol=1e-12)
    np.testing.assert_array_equal(sparse.predict(kind(X)), sparse.predict(X))
    assert sparse.score(kind(X), y) == sparse.score(X, y)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int8, bool])
@pytest.mark.parametrize("index", [np.int32, np.int64])
def test_types_of_values_and_indices(data, dtype, index):
    X, y = (data[0] > 0).astype(dtype), data[1]
    matrix = scipy_sparse.csr_array(X)
    matrix.indices, matrix.indptr = matrix.indices.astype(index), matrix.indptr.astype(index)
    dense, sparse = xent.LogisticRegression(tol=1e-6).fit(X, y), xent.LogisticRegression(tol=1e-6).fit(matrix, y)
    assert sparse.coef_.dtype == (np.float32 if dtype == np.float32 else np.float64)
    np.testing.assert_allclose(sparse.coef_, dense.coef_, atol=1e-3)


def test_ctrl_c_keeps_what_an_ascent_has_found(data):
    """With many columns, whose fit begins so; its sweeps are iterations."""
    X, y = scipy_sparse.csr_array(data[0]), data[1]
    X = scipy_sparse.csr_array((X.data, X.indices, X.indptr), (X.shape[0], 2500))
    seen = []

    def stop(progress):
        seen.append(progress)
        if progress.iteration >= at:
            raise KeyboardInterrupt

    for at in (0, 10, 20):
        model = xent.LogisticRegression(tol=1e-12)
        with pytest.raises(KeyboardInterrupt):
            model.fit(X, y, callback=stop)
        assert model.objective_ == min(progress.loss for progress in seen) < 1
        assert model.n_iter_[0] == seen[-1].iteration >= at
    for max_iter in (1, 3):
        with pytest.warns(Warning, match="max_iter"):
            model = xent.LogisticRegression(tol=1e-12, max_iter=max_iter).fit(X, y)
        assert model.n_iter_[0] == max_iter
    whole = xent.LogisticRegression(tol=1e-9).fit(X, y)
    np.testing.assert_allclose(whole.coef_[:, :12], xent.LogisticRegression(tol=1e-9).fit(*data).coef_, atol=1e-6)


def test_duplicates_are_summed_and_the_given_matrix_stays_as_it_is(data):
    X, y = data
    plain = scipy_sparse.csr_matrix(X)
    twice = scipy_sparse.csr_matrix(
        (np.repeat(plain.data / 2, 2), np.repeat(plain.indices, 2), plain.indptr * 2), plain.shape
    )
    before = twice.data.copy(), twice.indices.copy(), twice.indptr.copy()
    for array in (twice.data, twice.indices, twice.indptr):
        array.flags.writeable = False
    model = xent.LogisticRegression(tol=1e-9).fit(twice, y)
    np.testing.assert_allclose(model.coef_, xent.LogisticRegression(tol=1e-9).fit(X, y).coef_, atol=1e-6)
    for old, new in zip(before, (twice.data, twice.indices, twice.indptr), strict=True):
        np.testing.assert_array_equal(new, old)


def test_arrays_that_are_not_contiguous():
    """SciPy keeps strides, and packed buffers that are not aligned, as they come."""
    rng = np.random.default_rng(0)
    X = scipy_sparse.random(60, 8, 0.5, format="csr", random_state=0)
    y = rng.integers(0, 3, 60)
    expected = xent.LogisticRegression().fit(X, y)
    for spread in (lambda a: np.repeat(a, 2)[::2], lambda a: np.frombuffer(b"0" + a.tobytes(), a.dtype, offset=1)):
        arrays = [spread(a) for a in (X.data, X.indices, X.indptr)]
        twin = scipy_sparse.csr_matrix(X.shape, dtype=X.dtype)
        twin.data, twin.indices, twin.indptr = arrays
        model = xent.LogisticRegression().fit(twin, y)
        np.testing.assert_array_equal(model.coef_, expected.coef_)
        np.testing.assert_array_equal(model.predict_proba(twin), expected.predict_proba(X))


def test_never_dense():
    rng = np.random.default_rng(1)
    X = scipy_sparse.random(20_000, 3000, 1e-3, format="csr", random_state=rng)
    y = rng.integers(0, 3, 20_000)
    tracemalloc.start()
    model = xent.LogisticRegression(max_iter=2, tol=0.1).fit(X, y)
    model.predict_proba(X)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20_000 * 3000 * 8 / 10


def spoiled(**changes):
    matrix = scipy_sparse.csr_matrix(np.eye(4, 3) + 1)
    for name, (place, value) in changes.items():
        getattr(matrix, name)[place] = value
    return matrix


@pytest.mark.parametrize(
    ("X", "error", "message"),
    [
        (spoiled(data=(5, np.nan)), ValueError, r"^X\[1, 2\] is nan; it must be finite .* Input X contains NaN"),
        (spoiled(data=(9, -np.inf)), ValueError, r"^X\[3, 0\] is -inf; it must be finite .* contains infinity"),
        (spoiled(indices=(4, 3)), ValueError, r"^X.indices\[4\] is 3; it must be in \[0, 3\), the columns"),
        (spoiled(indices=(4, -1)), ValueError, r"^X.indices\[4\] is -1; it must be in \[0, 3\), the columns"),
        (spoiled(indptr=(2, 99)), ValueError, r"^X.indptr must rise from 0 to at most the number of elements, 12"),
        (scipy_sparse.csr_matrix((0, 3)), ValueError, r"^X has shape \(0, 3\); it must have at least one sample"),
        (scipy_sparse.csr_matrix((4, 0)), ValueError, r"^X has shape \(4, 0\); it must have at least one sample"),
        (spoiled().astype(complex), ValueError, r"^X has dtype complex128; .* \(Complex data not supported\)"),
        (spoiled().astype(np.longdouble), TypeError, r"^X has dtype float\d+; it must be real numbers, float32 or"),
    ],
)
def test_bad_matrices(X, error, message):
    with pytest.raises(error, match=message):
        xent.LogisticRegression().fit(X, [0, 1, 0, 1])


@pytest.mark.parametrize("value", [-1, 99])
@pytest.mark.parametrize(
    ("format", "attribute", "length", "what"),
    [("csr", "indices", 3, "columns"), ("csc", "indices", 4, "rows"), ("bsr", "indices", 1, "columns"),
     ("coo", "row", 4, "rows"), ("coo", "col", 3, "columns")],
)   # fmt: skip
def test_indices_of_other_formats(format, attribute, length, what, value):
    """Before SciPy converts the matrix, which writes to where they say."""
    options = {"blocksize": (2, 3)} if format == "bsr" else {}
    matrix = getattr(scipy_sparse, f"{format}_matrix")(np.eye(4, 3) + 1, **options)
    indices = getattr(matrix, attribute).copy()     # SciPy may have made it read-only
    indices[1] = value
    setattr(matrix, attribute, indices)
    message = rf"^X\.{attribute}\[1\] is {value}; it must be in \[0, {length}\), the {what}"
    for call in (
        lambda: xent.LogisticRegression().fit(matrix, [0, 1, 0, 1]),
        lambda: xent.Blocks.from_arrays(matrix, [0, 1, 0, 1]),
    ):
        with pytest.raises(ValueError, match=message):
            call()


@pytest.mark.parametrize("format", ["csr", "csc", "bsr", "coo", "lil", "dok"])
def test_blocks_of_other_formats(data, format):
    X, y = data
    expected = xent.LogisticRegression(tol=1e-8).fit(X, y)
    blocks = xent.Blocks.from_arrays(getattr(scipy_sparse, f"{format}_array")(X), y, rows=70)
    np.testing.assert_allclose(xent.LogisticRegression(tol=1e-8).fit(blocks).coef_, expected.coef_, atol=1e-5)


def test_sparse_labels():
    with pytest.raises(TypeError, match="y is a sparse csr_matrix; it must be dense"):
        xent.LogisticRegression().fit(np.eye(3), scipy_sparse.csr_matrix([[0, 1, 1]]))


# --- frames ----------------------------------------------------------------------------------------------------------


def frame(library, X, names):
    module = pytest.importorskip(library)
    return module.DataFrame(dict(zip(names, X.T, strict=True)))


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_frames(data, library):
    X, y = data
    names = [f"f{i}" for i in range(12)]
    plain = xent.LogisticRegression(tol=1e-8).fit(X, y)
    model = xent.LogisticRegression(tol=1e-8).fit(frame(library, X, names), y)
    assert model.feature_names_in_.tolist() == names
    assert model.feature_names_in_.dtype == object
    np.testing.assert_allclose(model.coef_, plain.coef_, rtol=1e-5, atol=1e-8)
    np.testing.assert_array_equal(model.predict(frame(library, X, names)), plain.predict(X))
    with pytest.warns(UserWarning, match="X does not have valid feature names, but LogisticRegression was fitted with"):
        model.predict(X)
    with pytest.warns(UserWarning, match="X has feature names, but LogisticRegression was fitted without"):
        plain.predict_proba(frame(library, X, names))
    with pytest.raises(ValueError, match="must be in the same order as they were in fit"):
        model.predict(frame(library, X, names[::-1]))
    with pytest.raises(ValueError, match=r"(?s)unseen at fit time:\n- g\nFeature names seen .* missing:\n- f11"):
        model.predict(frame(library, X, [*names[:11], "g"]))
    model.fit(X, y)
    assert not hasattr(model, "feature_names_in_")


def test_labels_in_a_series(data):
    X, y = data
    names = np.array(["ash", "birch", "cedar"])[y]
    plain = xent.LogisticRegression().fit(X, names)
    for series in (
        pytest.importorskip("pandas").Series(names),
        pytest.importorskip("pandas").Categorical(names),
        pytest.importorskip("polars").Series(names),
    ):
        model = xent.LogisticRegression().fit(X, series)
        assert model.classes_.tolist() == ["ash", "birch", "cedar"]
        np.testing.assert_array_equal(model.coef_, plain.coef_)
        assert model.score(X, series) == plain.score(X, names)


def test_frames_of_many_types():
    pandas = pytest.importorskip("pandas")
    data = {"a": [1, 2, 3, 4], "b": [True, False, True, True], "c": np.array([0, 1, 0, 2], np.float32)}
    X, y = np.array([[1, 1, 0], [2, 0, 1], [3, 1, 0], [4, 1, 2.0]]), [0, 1, 1, 0]
    expected = xent.LogisticRegression().fit(X, y).coef_
    np.testing.assert_allclose(xent.LogisticRegression().fit(pandas.DataFrame(data), y).coef_, expected, rtol=1e-12)
    sparse = pandas.DataFrame(X, columns=["a", "b", "c"]).astype(pandas.SparseDtype(float, 0))
    model = xent.LogisticRegression().fit(sparse, y)
    np.testing.assert_allclose(model.coef_, expected, atol=1e-3)
    assert model.feature_names_in_.tolist() == ["a", "b", "c"]
    missing = pandas.DataFrame({"a": [1.0, None, 3.0, 4.0]})
    with pytest.raises(ValueError, match=r"^X\[1, 0\] is nan in column 'a'; it must be finite"):
        xent.LogisticRegression().fit(missing, y)
    with pytest.raises(ValueError, match=r"^X\[1, 0\] is nan in column 'a'"):
        xent.LogisticRegression().fit(missing.convert_dtypes(), y)
    with pytest.raises(ValueError, match=r"^X\[1, 0\] is 'x' in column 'a'; it must be a real number, not a string"):
        xent.LogisticRegression().fit(pandas.DataFrame({"a": [1, "x", 2, 3]}, dtype=object), y)
    with pytest.raises(TypeError, match="Feature names are only supported if all input features have string names"):
        xent.LogisticRegression().fit(pandas.DataFrame({"a": [1, 2, 3, 4], 1: [1, 2, 3, 4]}), y)
