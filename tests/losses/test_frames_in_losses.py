"""Frames and series of pandas and polars as arguments give the results of the same NumPy arrays."""

import numpy as np
import pytest
from good_arguments import FLOATS, INDICES, LABELS, MASS, fails

import xent

X = np.random.default_rng(0).dirichlet(np.ones(4), 3)
BINARY = ["binary_cross_entropy_with_logits", "binary_cross_entropy"]
NUMPY_OF = {
    "float32": "f4", "Float32": "f4", "float[pyarrow]": "f4", "Float64": "f8", "double[pyarrow]": "f8", "Int64": "i8",
    "UInt8": "u1", "int32[pyarrow]": "i4", "boolean": "?", "bool[pyarrow]": "?", "bool": "?",
}       # fmt: skip
FLOATING = [name for name, dtype in NUMPY_OF.items() if dtype[0] == "f"]


def frames(dtype):
    """Functions that turn an array into a frame or series: of pandas with this dtype, and of polars with a like one."""
    pandas = pytest.importorskip("pandas")
    if "pyarrow" in dtype:
        pytest.importorskip("pyarrow")

    def of_pandas(array):
        index = [f"row {i}" for i in range(len(array))]
        return (pandas.Series if array.ndim == 1 else pandas.DataFrame)(array, index=index).astype(dtype)

    yield of_pandas
    try:
        import polars
    except ImportError:
        return

    def of_polars(array):
        array = array.astype(NUMPY_OF[dtype])
        return polars.Series(array) if array.ndim == 1 else polars.from_numpy(array)

    yield of_polars


def same(actual, desired):
    for a, b in zip(actual if isinstance(actual, tuple) else [actual], desired, strict=True):
        np.testing.assert_array_equal(a, b)
        assert getattr(a, "dtype", None) == getattr(b, "dtype", None)


@pytest.mark.parametrize("dtype", FLOATING)
def test_floats(dtype):
    """As logits, probabilities, targets and weights, in their own type."""
    for make in frames(dtype):
        x = X.astype(NUMPY_OF[dtype])
        frame, column, numbers = make(x), make(x[:, 0]), x[:, 0]
        for name in ("cross_entropy", "categorical_cross_entropy"):
            function = getattr(xent, name)
            for target in (LABELS, (INDICES, MASS)):
                rows = function(x, target, sample_weight=numbers, reduction="none")
                same(function(frame, target, sample_weight=column, reduction="none"), [rows])
            same(function(frame, frame, reduction="none"), [function(x, x, reduction="none")])
            same(function(frame, (INDICES, make(x[:, :2])), reduction="none"), [
                function(x, (INDICES, x[:, :2]), reduction="none")
            ])
        weighted = {"class_weight": make(x[0]), "return_grad": True, "reduction": "none"}
        same(xent.cross_entropy(frame, LABELS, **weighted), xent.cross_entropy(
            x, LABELS, **{**weighted, "class_weight": x[0]}
        ))
        for name in BINARY:
            function = getattr(xent, name)
            options = {"return_grad": True, "reduction": "none"}
            same(function(frame, frame, sample_weight=frame, **options), function(x, x, sample_weight=x, **options))
            same(function(column, column, **options), function(numbers, numbers, **options))
        same(xent.softmax(frame), [xent.softmax(x)])
        same(xent.logsumexp(frame, b=frame), [xent.logsumexp(x, b=x)])
        same(xent.linear_cross_entropy(frame, make(x), LABELS), [xent.linear_cross_entropy(x, x, LABELS)])
        assert xent.evaluate(frame, LABELS, sample_weight=column) == xent.evaluate(x, LABELS, sample_weight=numbers)
        assert xent.evaluate(frame, LABELS, reference=make(x[::-1])) == xent.evaluate(x, LABELS, reference=x[::-1])
        same(xent.kl_divergence(frame, make(x[::-1])), [xent.kl_divergence(x, x[::-1])])
        model = xent.LogisticRegression().fit(frame, LABELS)
        np.testing.assert_array_equal(model.coef_, xent.LogisticRegression().fit(x, LABELS).coef_)


@pytest.mark.parametrize("dtype", [name for name in NUMPY_OF if name not in FLOATING])
def test_integers_and_booleans(dtype):
    """As one-hot rows, binary targets and weights; integers also as labels and indices; booleans also as a mask."""
    one_hot = np.eye(4, dtype=NUMPY_OF[dtype])[LABELS]
    for make in frames(dtype):
        assert xent.cross_entropy(X, make(one_hot)) == xent.cross_entropy(X, LABELS)
        weight = one_hot[:, 1]
        assert xent.cross_entropy(X, LABELS, sample_weight=make(weight)) == xent.cross_entropy(X[1], 1)
        assert xent.linear_cross_entropy(X, X, LABELS[:3], sample_weight=make(weight)) > 0
        for name in BINARY:
            assert getattr(xent, name)(X, make(one_hot)) == getattr(xent, name)(X, one_hot)
        if NUMPY_OF[dtype] == "?":
            masked = xent.cross_entropy(X, LABELS, where=make(X > 0.01))
            assert masked == xent.cross_entropy(X, LABELS, where=X > 0.01)
        else:
            assert xent.cross_entropy(X, make(LABELS)) == xent.cross_entropy(X, LABELS)
            assert xent.cross_entropy(X, (make(INDICES), MASS)) == xent.cross_entropy(X, (INDICES, MASS))
            assert xent.evaluate(X, make(LABELS)) == xent.evaluate(X, LABELS)


@pytest.mark.parametrize("dtype", ["Float64", "double[pyarrow]", "Float32"])
def test_missing_numbers_are_nan(dtype):
    pandas = pytest.importorskip("pandas")
    if "pyarrow" in dtype:
        pytest.importorskip("pyarrow")
    frame = pandas.DataFrame(X).astype(dtype)
    frame.iloc[1, 2] = pandas.NA
    rows = xent.cross_entropy(frame, LABELS, reduction="none")
    np.testing.assert_array_equal(np.isnan(rows), [False, True, False])
    message = "proba[1, 2] is nan; probabilities must be in [0, 1]"
    fails(ValueError, message, xent.categorical_cross_entropy, frame, LABELS)
    message = "sample_weight[1] is nan; weights must be at least 0"
    fails(ValueError, message, xent.cross_entropy, X, LABELS, sample_weight=frame[2])
    with pytest.raises(ValueError, match=r"^X\[1, 2\] is nan( in column \S+)?; it must be finite"):
        xent.LogisticRegression().fit(frame, LABELS)


@pytest.mark.parametrize("dtype", ["Int64", "int8[pyarrow]", "boolean"])
def test_missing_labels(dtype):
    pandas = pytest.importorskip("pandas")
    if "pyarrow" in dtype:
        pytest.importorskip("pyarrow")
    labels = pandas.Series([0, 1, 0]).astype(dtype)
    labels[1] = pandas.NA
    message = "target[1] is nan; labels must be integers, none of them missing"
    for function in (xent.cross_entropy, xent.evaluate):
        fails(TypeError, message, function, X, labels)
    message = "target[1] is nan; probabilities must be in [0, 1]"
    fails(ValueError, message, xent.binary_cross_entropy, X[:, 0], labels)


def test_missing_labels_of_polars():
    labels = pytest.importorskip("polars").Series([0, None, 2])
    fails(TypeError, "target[1] is nan; labels must be integers, none of them missing", xent.cross_entropy, X, labels)


def test_columns_of_several_types():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"a": pandas.array([0.5, 0.25], "Float64"), "b": [1, 2], "c": np.array([0.5, 3], "f4")})
    expected = np.array([[0.5, 1, 0.5], [0.25, 2, 3]])
    np.testing.assert_array_equal(xent.softmax(frame), xent.softmax(expected))
    frame.columns = ["a", "a", "a"]
    np.testing.assert_array_equal(xent.softmax(frame), xent.softmax(expected))
    mixed = pandas.DataFrame({"a": np.array([0.5, 3], "f4"), "b": [True, False]})       # to NumPy, objects
    np.testing.assert_array_equal(xent.softmax(mixed), xent.softmax(np.array([[0.5, 1], [3, 0]], "f4")))


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_columns_that_are_no_numbers(library):
    """The error names the column."""
    make = pytest.importorskip(library).DataFrame
    frame = make({"a": [0.5, 0.25], "text": ["x", "y"], "b": ["x", "y"]})
    dtype = frame.dtypes["text"] if library == "pandas" else frame.dtypes[1]
    message = f"has a column 'text' of dtype {dtype}; it must be real numbers, {FLOATS}"
    fails(TypeError, f"logits {message}", xent.cross_entropy, frame, [0, 1])
    fails(TypeError, f"proba {message}", xent.categorical_cross_entropy, frame, [0, 1])
    fails(TypeError, f"X {message}", xent.linear_cross_entropy, frame, np.ones((2, 3)), [0, 1])
    fails(TypeError, f"where has a column 'text' of dtype {dtype}; it must be bool", xent.cross_entropy,
          np.ones((2, 3)), [0, 1], where=frame)
    fails(TypeError, f"target {message}", xent.binary_cross_entropy, np.ones((2, 3)), frame)
    fails(TypeError, f"sample_weight {message}", xent.binary_cross_entropy, np.ones((2, 3)), np.ones((2, 3)),
          sample_weight=frame)
    with pytest.raises(ValueError, match=r"^X\[0, 1\] is 'x' in column 'text'; it must be a real number, not a string"):
        xent.LogisticRegression().fit(frame, [0, 1])


def test_no_columns():
    pandas = pytest.importorskip("pandas")
    logits, labels = pandas.DataFrame(np.zeros((0, 3))).astype("Float64"), pandas.Series([], dtype="Int64")
    assert np.isnan(xent.cross_entropy(logits, labels))
    assert xent.softmax(pandas.DataFrame(index=[1, 2])).shape == (2, 0)


def test_arrow_arrays_and_tables():
    """Missing values in dictionaries are NaN; an index that pandas stored is no class; a period is no number."""
    arrow, pandas = pytest.importorskip("pyarrow"), pytest.importorskip("pandas")

    def column(values):     # what a column of a table is
        return arrow.chunked_array([arrow.array(values).dictionary_encode()])

    logits = np.log(np.resize([0.7, 0.2, 0.1], (4, 3)))
    with pytest.raises(TypeError, match=r"^target\[2\] is nan; labels must be integers"):
        xent.cross_entropy(logits, column([0, 1, None, 2]))
    assert xent.cross_entropy(logits, column([0, 1, 1, 2])) == xent.cross_entropy(logits, [0, 1, 1, 2])
    with pytest.raises(ValueError, match=r"^y_proba\[1\] is nan"):
        xent.log_loss([0, 1, 1], column([0.25, None, 0.75]))
    with pytest.raises(ValueError, match=r"^sample_weight\[1\] is nan"):
        xent.log_loss([0, 1, 1], [0.2, 0.3, 0.9], sample_weight=column([2.0, None, 9.0]))
    table = arrow.table({"a": arrow.array([1.0, None, 3.0, 1.0]).dictionary_encode(), "b": [0.0] * 4})
    assert np.isnan(xent.softmax(table)).all(axis=1).tolist() == [False, True, False, False]
    frame = pandas.DataFrame(logits, index=[5, 6, 7, 9], columns=list("abc"))
    assert xent.evaluate(arrow.Table.from_pandas(frame), [0, 1, 2, 0]) == xent.evaluate(logits, [0, 1, 2, 0])
    one = pandas.DataFrame({"p": [0.25, 0.75]}, index=[1, 0])
    assert xent.log_loss([0, 1], arrow.Table.from_pandas(one)) == xent.log_loss([0, 1], one)
    labels = pandas.DataFrame({"y": [0, 1, 2, 0]}, index=[3, 0, 1, 2])
    model = xent.LogisticRegression().fit(logits + np.arange(12).reshape(4, 3), labels["y"])
    assert model.score(logits, arrow.Table.from_pandas(labels)["y"]) == model.score(logits, labels["y"])
    with pytest.warns(Warning, match="column-vector"):
        assert model.score(logits, arrow.Table.from_pandas(labels)) == model.score(logits, labels["y"])
    periods = arrow.array(pandas.period_range("1970", periods=4, freq="Y"))
    with pytest.raises((TypeError, ValueError), match="target"):
        xent.cross_entropy(logits, periods)
