"""Columns of frames and of Parquet files: which are numbers, which are features, and what is said of the others."""

import datetime
import decimal
import re

import numpy as np
import pytest

import xent
from xent import Blocks
from xent._estimator.features import check_features

pandas = pytest.importorskip("pandas")
polars = pytest.importorskip("polars")
pyarrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

N = 12
Y = np.arange(N) % 3
NUMBERS = np.random.default_rng(0).normal(size=N)


def objects(value):
    return np.array([value] * N, object)


def of(column):
    return pandas.ArrowDtype(column.type)


def arrow(values, kind):
    return pyarrow.array(values, kind)


DECIMALS = [decimal.Decimal(i) / 8 for i in range(N)]
INTEGERS = list(range(N))
DICTIONARY = pyarrow.DictionaryArray.from_arrays(pyarrow.array(INTEGERS, "int8"), pyarrow.array(INTEGERS))

# A column of Arrow, and its values.
GOOD = {
    "int8": (arrow(INTEGERS, "int8"), INTEGERS),
    "uint64": (arrow(INTEGERS, "uint64"), INTEGERS),
    "bool": (arrow([i % 2 == 0 for i in INTEGERS], "bool"), [i % 2 == 0 for i in INTEGERS]),
    "half": (arrow(np.arange(N).astype(np.float16), pyarrow.float16()), INTEGERS),
    "float": (arrow(NUMBERS, "float32"), NUMBERS.astype(np.float32)),
    "double": (arrow(NUMBERS, "float64"), NUMBERS),
    "decimal": (arrow(DECIMALS, pyarrow.decimal128(6, 3)), np.arange(N) / 8),
    "dictionary": (DICTIONARY, INTEGERS),
}

TEXT = "it must be a real number, not a string"
DATES = [datetime.datetime(2020, 1, 1 + i) for i in range(N)]
KIND = "columns must be real numbers|it must be a real number"
BAD = {
    "string": (arrow(["1.5"] * N, "string"), TEXT),
    "binary": (arrow([b"1"] * N, "binary"), TEXT),
    "words": (pyarrow.array(["a", "b"] * (N // 2)).dictionary_encode(), TEXT),
    "date": (arrow(DATES, "date32"), KIND),
    "timestamp": (arrow(DATES, pyarrow.timestamp("us")), KIND),
    "zone": (arrow(DATES, pyarrow.timestamp("us", "Europe/Zurich")), KIND),
    "duration": (arrow([datetime.timedelta(1)] * N, pyarrow.duration("us")), KIND),
    "NaT": (arrow([None] * N, pyarrow.timestamp("us")), KIND),
    "time": (arrow([datetime.time(1)] * N, pyarrow.time64("us")), "it must be a real number"),
    "list": (arrow([[1.0, 2.0]] * N, pyarrow.list_(pyarrow.float64())), "it must be a real number; lists must have a"),
    "struct": (arrow([{"a": 1.0}] * N, pyarrow.struct([("a", pyarrow.float64())])), "it must be a real number"),
    "null": (arrow([None] * N, pyarrow.null()), "it must be finite"),
    "null in integers": (arrow([0, None, *INTEGERS[2:]], "int64"), r"\[1, 1\] is nan in"),
    "null in bools": (arrow([True, None, *[False] * (N - 2)], "bool"), r"\[1, 1\] is nan in"),
    "null in floats": (arrow([0.0, None, *NUMBERS[2:]], "float32"), r"\[1, 1\] is nan in"),
    "null in decimals": (arrow([None, *DECIMALS[1:]], pyarrow.decimal128(6, 3)), r"\[0, 1\] is nan in"),
    "null in a dictionary": (pyarrow.array([0, 1, None] * (N // 3)).dictionary_encode(), r"\[2, 1\] is nan in"),
    "nan": (arrow([np.nan, *NUMBERS[1:]], "float64"), r"\[0, 1\] is nan in"),
    "lists of words": (arrow([["a"]] * N, pyarrow.list_(pyarrow.string(), 1)), "it must be a real number"),
    "nested lists": (arrow([[[1.0]]] * N, pyarrow.list_(pyarrow.list_(pyarrow.float64(), 1), 1)), KIND),
}


def frames(column):
    """Frames of every library that hold a column beside another one."""
    table = pyarrow.table({"first": NUMBERS, "odd": column})
    yield table
    yield table.to_batches()[0]
    yield table.to_pandas()
    yield table.to_pandas(types_mapper=pandas.ArrowDtype)
    yield polars.from_arrow(table)


def in_file(column, path, dtype=np.float64):
    table = pyarrow.table({"first": NUMBERS, "odd": column, "y": Y})
    parquet.write_table(table, path, row_group_size=5)
    return Blocks.from_parquet(path, target="y", dtype=dtype)


@pytest.mark.parametrize("kind", GOOD)
def test_columns_of_numbers(kind, tmp_path):
    column, values = GOOD[kind]
    expected = np.column_stack([NUMBERS, np.asarray(values, np.float64)])
    for frame in frames(column):
        features = check_features("X", frame)
        assert features.matrix.dtype == np.float64
        assert list(features.names) == ["first", "odd"]
        np.testing.assert_array_equal(features.matrix, expected)
    blocks = [np.asarray(block[0]) for block in in_file(column, tmp_path / "a.parquet")]
    np.testing.assert_array_equal(np.concatenate(blocks), expected)
    blocks = [np.asarray(block[0]) for block in in_file(column, tmp_path / "a.parquet", np.float32)]
    np.testing.assert_array_equal(np.concatenate(blocks), expected.astype(np.float32))


@pytest.mark.parametrize("kind", BAD)
def test_columns_of_something_else(kind, tmp_path):
    """The same words for a frame and for a file, and the column's name in all of them."""
    column, message = BAD[kind]
    for frame in frames(column):
        with pytest.raises((TypeError, ValueError), match=message) as caught:
            xent.LogisticRegression().fit(frame, Y)
        assert re.search(r" in column 'odd(\[0\])?';|^column 'odd' of X ", str(caught.value)), caught.value
    with pytest.raises((TypeError, ValueError), match=message) as caught:
        xent.LogisticRegression().fit(in_file(column, tmp_path / "a.parquet"))
    assert re.search(r"row group 0 of .*a\.parquet.* column 'odd(\[0\])?'", str(caught.value)), caught.value


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (pandas.array(INTEGERS, "Int64"), INTEGERS),
        (pandas.array(NUMBERS, "Float32"), NUMBERS.astype(np.float32)),
        (pandas.array([True, False] * 6, "boolean"), [1, 0] * 6),
        (pandas.Categorical(INTEGERS), INTEGERS),
        (pandas.arrays.SparseArray(NUMBERS, fill_value=np.nan), NUMBERS),
        (np.array(DECIMALS, object), np.arange(N) / 8),
        (np.array([True, 2, 3.0, np.float32(4)] * 3, object), [1, 2, 3, 4] * 3),
    ],
)
def test_types_of_pandas(values, expected):
    for data in ({"a": values}, {"f": NUMBERS, "a": values}):
        np.testing.assert_array_equal(check_features("X", pandas.DataFrame(data)).matrix[:, -1], expected)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (pandas.array([None, *INTEGERS[1:]], "Int64"), r"^X\[0, 1\] is nan in column 'a'"),
        (pandas.Categorical([None, *INTEGERS[1:]]), r"^X\[0, 1\] is nan in column 'a'"),
        (pandas.Categorical(["1"] * N), r"^X\[0, 1\] is '1' in column 'a'; it must be a real number, not a string"),
        (pandas.array(["1"] * N, "string"), r"^X\[0, 1\] is '1' in column 'a'; it must be a real number, not a string"),
        (pandas.period_range("2020", periods=N, freq="M"), r"^X\[0, 1\] is Period.* in column 'a'; it must be a real"),
        (objects(np.timedelta64(1, "s")), r"^column 'a' of X has dtype timedelta64\[s\]"),
        (objects(datetime.date(2020, 1, 1)), r"^X\[0, 1\] is .* in column 'a'; it must be a real number"),
        (NUMBERS * 1j, r"^column 'a' of X has dtype complex128; .*Complex data not supported"),
        (NUMBERS.astype(np.longdouble), r"^column 'a' of X has dtype float128; it must be float16, float32 or"),
    ],
)
def test_other_types_of_pandas(values, message):
    with pytest.raises((TypeError, ValueError), match=message):
        check_features("X", pandas.DataFrame({"f": NUMBERS, "a": values}))


def test_objects_in_arrays():
    X = np.array([[1, decimal.Decimal("1.5")], [True, np.float32(2)]], object)
    np.testing.assert_array_equal(check_features("X", X).matrix, [[1, 1.5], [1, 2]])
    for bad in ("1.5", b"1", np.timedelta64(3, "s"), np.datetime64("2020"), [1.0]):
        X[1, 0] = bad
        with pytest.raises((TypeError, ValueError), match=r"^X\[1, 0\] is .*; it must be a real number"):
            check_features("X", X)


def test_columns_that_are_not_named_by_strings():
    frame = pandas.DataFrame({("a", 1): NUMBERS, ("b", 2): DATES})
    with pytest.raises(TypeError, match=re.escape("column ('b', 2) of X has dtype datetime64")):
        xent.LogisticRegression().fit(frame, Y)


def test_errors_of_a_prediction_name_the_column():
    model = xent.LogisticRegression().fit(pandas.DataFrame({"a": NUMBERS, "b": NUMBERS}), Y)
    for method in (model.predict, model.predict_proba, model.decision_function, lambda X: model.score(X, Y)):
        with pytest.raises(ValueError, match=r"^X\[3, 1\] is inf in column 'b'"):
            method(pandas.DataFrame({"a": NUMBERS, "b": np.where(np.arange(N) == 3, np.inf, 0)}))
    with pytest.raises(TypeError, match=r"^X is a LazyFrame; .*X\.collect\(\)"):
        model.predict(polars.LazyFrame({"a": NUMBERS}))


# --- lists of a fixed length -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["float32", "float64", "int32", "bool"])
def test_embeddings(kind, tmp_path):
    vectors = (np.random.default_rng(1).normal(size=(N, 3), scale=3)).astype(kind)
    # A slice in the middle of its memory, in two chunks.
    chunks = [[*vectors[:2].tolist(), *vectors[:5].tolist()], vectors[5:].tolist()]
    lists = pyarrow.list_(pyarrow.from_numpy_dtype(kind), 3)
    column = pyarrow.chunked_array([arrow(chunk, lists) for chunk in chunks]).slice(2)
    table = pyarrow.table({"e": column, "first": NUMBERS.astype(np.float32)})
    expected = np.column_stack([vectors, NUMBERS.astype(np.float32)])
    for frame in (table, polars.from_arrow(table), table.to_pandas(types_mapper=pandas.ArrowDtype)):
        features = check_features("X", frame)
        np.testing.assert_array_equal(features.matrix, expected)
        assert list(features.names) == ["e[0]", "e[1]", "e[2]", "first"]
    parquet.write_table(table.append_column("y", pyarrow.array(Y)), tmp_path / "a.parquet", row_group_size=5)
    model = xent.LogisticRegression(tol=1e-8).fit(Blocks.from_parquet(tmp_path, target="y", dtype=np.float64))
    wide = xent.LogisticRegression(tol=1e-8).fit(expected.astype(np.float64), Y)
    np.testing.assert_allclose(model.coef_, wide.coef_, atol=1e-6)
    assert list(model.feature_names_in_) == ["e[0]", "e[1]", "e[2]", "first"]
    assert model.score(table, Y) == model.score(polars.from_arrow(table), Y)
    only = xent.LogisticRegression().fit(Blocks.from_parquet(tmp_path, target="y", features=["e"]))
    assert only.coef_.shape == (3, 3)


def test_a_column_of_embeddings_alone():
    vectors = np.random.default_rng(1).normal(size=(N, 3))
    expected = xent.LogisticRegression().fit(vectors, Y)
    column = arrow(vectors.tolist(), pyarrow.list_(pyarrow.float64(), 3))
    for X in (column, pyarrow.chunked_array([column]), polars.Series(column), pandas.Series(column, dtype=of(column))):
        model = xent.LogisticRegression().fit(X, Y)
        np.testing.assert_array_equal(model.coef_, expected.coef_)
        np.testing.assert_array_equal(model.predict_proba(X), expected.predict_proba(vectors))
        np.testing.assert_allclose(
            xent.LogisticRegression(tol=1e-8).fit(Blocks.from_arrays(X, Y, rows=5)).coef_,
            xent.LogisticRegression(tol=1e-8).fit(vectors, Y).coef_,
            atol=1e-6,
        )
    dates = arrow([[DATES[0]] * 3] * N, pyarrow.list_(pyarrow.timestamp("us"), 3))
    with pytest.raises(TypeError, match=r"^X has dtype datetime64\[us\]; it must be real numbers"):
        xent.LogisticRegression().fit(dates, Y)


def test_extension_types(tmp_path):
    """What Arrow stores of a period is a number; and without pandas in the process it does not know that it is one."""
    tensor = pyarrow.ExtensionArray.from_storage(
        pyarrow.fixed_shape_tensor(pyarrow.float64(), [2]), arrow([[1.0, 2.0]] * N, pyarrow.list_(pyarrow.float64(), 2))
    )
    np.testing.assert_array_equal(check_features("X", pyarrow.table({"t": tensor})).matrix, [[1, 2]] * N)
    period = pyarrow.array(pandas.period_range("2020", periods=N, freq="M"))
    strange = pyarrow.field("p", pyarrow.int64(), metadata={"ARROW:extension:name": "somebody's"})
    for table in (
        pyarrow.table({"p": period}),
        pyarrow.table([arrow(INTEGERS, "int64")], schema=pyarrow.schema([strange])),
    ):
        with pytest.raises(TypeError, match=r"^column 'p' of X has dtype extension<.*; convert it to numbers"):
            xent.LogisticRegression().fit(table, Y)
        parquet.write_table(table.append_column("y", pyarrow.array(Y)), tmp_path / "a.parquet")
        with pytest.raises(TypeError, match=r"a\.parquet': column 'p'.* has dtype extension<.*; convert it to numbers"):
            xent.LogisticRegression().fit(Blocks.from_parquet(tmp_path, target="y"))
        with pytest.raises(TypeError, match=r"a\.parquet': column 'p'.* has dtype extension<.*; convert it to numbers"):
            xent.LogisticRegression().fit(Blocks.from_parquet(tmp_path, target="p", features=["y"]))
    with pytest.raises(TypeError, match=r"^y has dtype extension<.*; convert it to numbers"):
        xent.LogisticRegression().fit(NUMBERS[:, None], period)


def test_frames_without_columns():
    for frame in (pandas.DataFrame(index=range(N)), polars.DataFrame(), pyarrow.table({})):
        with pytest.raises(ValueError, match=r"^X has shape \(\d+, 0\); it must have at least one sample and one feat"):
            xent.LogisticRegression().fit(frame, Y)


def test_what_is_missing_in_embeddings():
    lists = [[1.0, 2.0, 3.0]] * N
    for row, bad, message in ((4, None, r"X\[4, 1\]"), (2, [1.0, None, 3.0], r"X\[2, 2\]")):
        for kind in ("float32", "int32"):
            values = [*lists[:row], bad, *lists[row + 1 :]]
            column = arrow(values, pyarrow.list_(pyarrow.type_for_alias(kind), 3))
            table = pyarrow.table({"first": NUMBERS, "e": column})
            for frame in (table, polars.from_arrow(table)):
                with pytest.raises(ValueError, match=message + r" is nan in column 'e\[\d\]'"):
                    xent.LogisticRegression().fit(frame, Y)


# --- the index of pandas ---------------------------------------------------------------------------------------------


def noise(index):
    """A frame whose index gives the label away, in another order."""
    random = np.random.default_rng(0)
    frame = pandas.DataFrame(random.normal(size=(400, 3)), columns=list("abc"), index=index)
    frame["y"] = np.arange(400) // 200
    return frame.sample(frac=1, random_state=0)


INDEXES = {
    "numbers": pandas.Index(range(400)),
    "range": pandas.RangeIndex(400, name="id"),
    "named": pandas.Index(np.arange(400), name="id"),
    "two": pandas.MultiIndex.from_arrays([np.arange(400) // 200, np.arange(400)], names=["group", "id"]),
    "one of two": pandas.MultiIndex.from_arrays([np.arange(400) // 200, np.arange(400)], names=["group", None]),
    "words": pandas.Index([f"row {i}" for i in range(400)]),
    "name of a column": pandas.Index(np.arange(400), name="a"),
}


@pytest.mark.parametrize("kind", INDEXES)
def test_an_index_is_no_feature(kind, tmp_path):
    frame = noise(INDEXES[kind])
    frame.to_parquet(tmp_path / "a.parquet")
    options = {"tol": 1e-8}
    local = xent.LogisticRegression(**options).fit(frame[list("abc")], frame["y"])
    model = xent.LogisticRegression(**options).fit(
        Blocks.from_parquet(tmp_path / "a.parquet", target="y", dtype=np.float64)
    )
    assert list(model.feature_names_in_) == ["a", "b", "c"]
    np.testing.assert_allclose(model.coef_, local.coef_, atol=1e-6)
    table = pyarrow.Table.from_pandas(frame.drop(columns="y"))
    model = xent.LogisticRegression(**options).fit(table, frame["y"])
    np.testing.assert_allclose(model.coef_, local.coef_, atol=1e-6)
    assert model.score(table, frame["y"]) < 0.7


def test_an_index_in_the_second_file_only(tmp_path):
    frame = noise(INDEXES["named"])
    frame.reset_index().to_parquet(tmp_path / "0.parquet")
    frame.to_parquet(tmp_path / "1.parquet")
    blocks = Blocks.from_parquet(tmp_path, target="y")
    with pytest.raises(ValueError, match=r"1\.parquet' holds the index of a pandas frame in its column 'id'"):
        xent.LogisticRegression().fit(blocks)
    xent.LogisticRegression().fit(Blocks.from_parquet(tmp_path, target="y", features=["a", "b"]))


def test_an_index_that_is_asked_for(tmp_path):
    """As a feature, as the target, as the weight."""
    frame = noise(INDEXES["two"])
    frame.to_parquet(tmp_path / "a.parquet")
    model = xent.LogisticRegression().fit(Blocks.from_parquet(tmp_path, target="y", features=["id", "a"], dtype=float))
    assert list(model.feature_names_in_) == ["id", "a"]
    model = xent.LogisticRegression().fit(Blocks.from_parquet(tmp_path, target="group", sample_weight="id"))
    assert list(model.feature_names_in_) == ["a", "b", "c", "y"]
    noise(INDEXES["numbers"]).to_parquet(tmp_path / "a.parquet")
    blocks = Blocks.from_parquet(tmp_path, target="y", features=["__index_level_0__"], dtype=float)
    model = xent.LogisticRegression().fit(blocks)
    assert model.score(polars.read_parquet(tmp_path / "a.parquet").select("__index_level_0__"), np.zeros(400)) >= 0


def test_an_index_that_another_library_has_read(tmp_path):
    """polars takes it for a column, and writes it without a word of what it was."""
    noise(INDEXES["numbers"]).to_parquet(tmp_path / "a.parquet")
    frame = polars.read_parquet(tmp_path / "a.parquet")
    frame.write_parquet(tmp_path / "a.parquet")
    model = xent.LogisticRegression().fit(Blocks.from_parquet(tmp_path, target="y"))
    assert list(model.feature_names_in_) == ["a", "b", "c"]
    X, y = frame.drop("y"), frame["y"]
    for fit in (
        lambda: xent.LogisticRegression().fit(X, y),
        lambda: xent.LogisticRegression().fit(Blocks([(X, y)])),
        lambda: xent.LogisticRegression().fit(Blocks.from_arrays(X, y)),
        lambda: xent.LogisticRegression().partial_fit(X, y, classes=[0, 1]),
    ):
        with pytest.raises(ValueError, match="X has a column '__index_level_0__', which is the index of"):
            fit()


@pytest.mark.parametrize("labels", [["x", "y", None], [1, 2, None], [True, False, None]])
def test_labels_that_are_missing_in_a_dictionary(labels, tmp_path):
    """NumPy would take the last word of the dictionary for them."""
    y = pyarrow.array(labels * (N // 3)).dictionary_encode()
    with pytest.raises(ValueError, match=r"^y\[2\] is (None|nan); labels must be"):
        xent.LogisticRegression().fit(NUMBERS[:, None], y)
    parquet.write_table(pyarrow.table({"a": NUMBERS, "y": y}), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"y\[2\] is (None|nan); labels must be"):
        xent.LogisticRegression().fit(Blocks.from_parquet(tmp_path, target="y"))


# --- frames in memory, in blocks -------------------------------------------------------------------------------------


@pytest.mark.parametrize("library", ["pandas", "polars", "arrow", "array", "list"])
def test_blocks_of_a_frame(library):
    """Rows are taken by their numbers, whatever the index: here one that numbers them backwards, in floats."""
    random = np.random.default_rng(0)
    X, y, weight = random.normal(size=(60, 2)), random.integers(0, 3, 60), random.uniform(size=60)
    local = xent.LogisticRegression(tol=1e-8).fit(X, y, weight)
    index = np.arange(60.0)[::-1]
    frame = pandas.DataFrame(X, columns=["a", "b"], index=index)
    columns = {
        "pandas": (frame, pandas.Series(y, index), pandas.Series(weight, index)),
        "polars": (polars.DataFrame(X, ["a", "b"]), polars.Series(y), polars.Series(weight)),
        "arrow": (pyarrow.Table.from_pandas(frame), pyarrow.array(y), pyarrow.array(weight)),
        "array": (X, y, weight),
        "list": (X.tolist(), y.tolist(), weight.tolist()),
    }[library]
    model = xent.LogisticRegression(tol=1e-8).fit(Blocks.from_arrays(*columns, rows=17))
    np.testing.assert_allclose(model.coef_, local.coef_, atol=1e-6)
    xent.LogisticRegression().fit(Blocks.from_arrays(*columns))
