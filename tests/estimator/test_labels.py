"""Labels of every type, wherever they are given: what is taken, what is refused, and what is said of it."""

import datetime
import decimal
import enum
import fractions

import numpy as np
import pytest

import xent

X = np.random.default_rng(0).normal(size=(60, 3))
Y = np.arange(60) % 3
NAMES = np.array(["ash", "birch", "cedar"])


class Tree(enum.StrEnum):
    ASH = "ash"
    BIRCH = "birch"


def objects(values):
    result = np.empty(len(values), object)
    result[:] = values
    return result


GOOD = {
    "bool": Y > 0,
    "int8": Y.astype(np.int8),
    "uint64": Y.astype(np.uint64) + np.uint64(1 << 63),
    "float16": Y.astype(np.float16),
    "float64": Y * 1.0,
    "str": NAMES[Y],
    "bytes": NAMES.astype("S")[Y],
    "objects": NAMES.astype(object)[Y],
    "an enumeration": objects([list(Tree)[i % 2] for i in range(60)]),
    "zeros at the end": objects(["a", "a\0", "b\0\0"])[Y],
    "dates": Y.astype("M8[D]"),
    "durations": Y.astype("m8[ns]"),
    "StringDType": NAMES.astype(np.dtypes.StringDType())[Y],
    "a list": NAMES[Y].tolist(),
    "a list of bools": (Y > 0).tolist(),
}


@pytest.mark.parametrize("kind", GOOD)
def test_what_fits_can_be_predicted_scored_streamed_and_saved(kind, tmp_path):
    y = GOOD[kind]
    model = xent.LogisticRegression().fit(X, y)
    _, indices = np.unique(np.asarray(y), return_inverse=True)
    plain = xent.LogisticRegression().fit(X, indices)
    np.testing.assert_array_equal(model.predict(X), model.classes_[plain.predict(X)])
    assert model.predict(X).dtype == model.classes_.dtype
    assert model.score(X, y) == plain.score(X, indices)
    model.save(tmp_path / "model")
    twin = xent.LogisticRegression.load(tmp_path / "model")
    assert twin.classes_.dtype == model.classes_.dtype
    assert twin.classes_.tolist() == model.classes_.tolist()
    twin.partial_fit(X, y, classes=model.classes_)
    blocks = xent.Blocks.from_arrays(X, y, rows=17, classes=model.classes_)
    np.testing.assert_allclose(xent.LogisticRegression().fit(blocks).coef_, model.coef_, atol=0.1)


CONVERT = r"convert them to {} \("
BAD = {
    "integers in objects": (Y.astype(object), CONVERT.format("int")),
    "integers of NumPy in objects": (objects([np.int8(v) for v in Y]), CONVERT.format("int")),
    "bools in objects": ((Y > 0).astype(object), CONVERT.format("bool")),
    "floats in objects": ((Y * 1.0).astype(object), CONVERT.format("float")),
    "integers and bools": (objects([True, *Y[1:].tolist()]), CONVERT.format("int")),
    "integers and floats": (objects([1.0, *Y[1:].tolist()]), CONVERT.format("float")),
    "decimals": (objects([decimal.Decimal(int(v)) for v in Y]), CONVERT.format("str")),
    "fractions": ([fractions.Fraction(int(v), 7) for v in Y], CONVERT.format("str")),
    "bytes in objects": (NAMES.astype("S").astype(object)[Y], CONVERT.format("bytes")),
    "dates in objects": (objects([datetime.date(2020, 1, 1 + int(v)) for v in Y]), CONVERT.format(r"datetime64\[us\]")),
    "tuples": (objects([(int(v), 1) for v in Y]), CONVERT.format("str")),
    "None": (objects([None, *NAMES[Y[1:]]]), r"^y\[0\] is None; labels must be"),
    "NaN": (np.where(np.arange(60) == 7, np.nan, Y), r"^y\[7\] is nan; labels must be"),
    "NaN in objects": (objects([*NAMES[Y[1:]], np.nan]), r"^y\[59\] is nan; labels must be"),
    "NaT": (np.where(np.arange(60) == 7, np.datetime64("NaT"), Y.astype("M8[D]")), r"^y\[7\] is NaT; labels must be"),
    "continuous": (Y + 0.5, r"^y\[0\] is 0.5; labels must be .*Unknown label type: continuous"),
    "complex": (Y * 1j, "^y is complex; labels must be .*Unknown label type: complex"),
    "records": (np.array([(int(v),) for v in Y], [("a", int)]), "^y has dtype .*; labels must be"),
    "mixed": (objects([0, *NAMES[Y[1:]]]), "^y has labels that cannot be sorted: they are of types int, str_"),
    "a mixed list": ([0, *NAMES[Y[1:]].tolist()], "^y has labels that cannot be sorted: they are of types int, str"),
    "nothing": (None, "^requires y to be passed, .* y must hold one label per row of X"),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_is_refused_is_refused_everywhere(kind):
    """In a fit, a score and a stream, at once, and in blocks; and the estimator stays as it was."""
    y, message = BAD[kind]
    model = xent.LogisticRegression().fit(X, Y)
    before = model.coef_.copy()
    for call in (
        lambda: model.fit(X, y),
        lambda: model.score(X, y),
        lambda: model.partial_fit(X, y),
        lambda: xent.LogisticRegression(warm_start=True).fit(X, Y).fit(X, y),
        lambda: xent.LogisticRegression().partial_fit(X, y, classes=[0, 1, 2]),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            call()
    with pytest.raises((TypeError, ValueError), match=message.replace("^", "^block 0: ")):
        model.fit(xent.Blocks([(X, y)]))
    np.testing.assert_array_equal(model.coef_, before)


@pytest.mark.parametrize("kind", BAD)
def test_classes_are_labels(kind):
    bad, message = BAD[kind]
    if bad is None:
        return
    message = message.replace("^y", "^classes")
    for call in (
        lambda: xent.LogisticRegression().partial_fit(X, Y, classes=bad),
        lambda: xent.Blocks([(X, Y)], classes=bad),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            call()


def test_classes_have_one_axis():
    for bad in ([[0, 1, 2]], 3):
        with pytest.raises(ValueError, match=r"^classes has shape .*; it must be a 1d array of labels"):
            xent.Blocks([(X, Y)], classes=bad)


def test_labels_of_pandas():
    pandas = pytest.importorskip("pandas")
    for dtype in ("Int64", "int32[pyarrow]", "category"):
        assert xent.LogisticRegression().fit(X, pandas.Series(Y).astype(dtype)).classes_.tolist() == [0, 1, 2]
    for dtype in ("string", "string[pyarrow]", "category"):
        assert xent.LogisticRegression().fit(X, pandas.Series(NAMES[Y]).astype(dtype)).classes_.tolist() == [*NAMES]
    intervals = pandas.cut(pandas.Series(X[:, 0]), 3)
    periods = pandas.Series(pandas.period_range("2020", periods=3, freq="M"))[Y]
    zones = pandas.Series(pandas.date_range("2020", periods=3, tz="UTC"))[Y]
    for bad, word in ((intervals, "Interval"), (periods, "Period"), (zones, "Timestamp")):
        with pytest.raises(ValueError, match=rf"^y has labels of type {word}.*convert them to"):
            xent.LogisticRegression().fit(X, bad)
        assert len(xent.LogisticRegression().fit(X, bad.astype(str)).classes_) == 3
    missing = pandas.Series([None, *Y[1:]], dtype="Int64")
    with pytest.raises(ValueError, match=r"^y\[0\] is nan; labels must be"):
        xent.LogisticRegression().fit(X, missing)
    one_hot = pandas.get_dummies(pandas.Series(Y))
    np.testing.assert_array_equal(
        xent.LogisticRegression().fit(X, one_hot).coef_, xent.LogisticRegression().fit(X, np.eye(3)[Y]).coef_
    )


def test_a_column_of_labels_warns():
    with pytest.warns(UserWarning, match="A column-vector y was passed when a 1d array was expected"):
        model = xent.LogisticRegression().fit(X, Y[:, None])
    np.testing.assert_array_equal(model.coef_, xent.LogisticRegression().fit(X, Y).coef_)


# --- scores ----------------------------------------------------------------------------------------------------------


def test_scores_are_those_of_scikit_learn():
    """Numbers are numbers, whatever their type; a label that the model has not seen is wrong."""
    metrics = pytest.importorskip("sklearn.metrics")
    model = xent.LogisticRegression().fit(X, Y)
    for y in (Y, Y * 1.0, Y > 0, Y.astype(np.uint8), np.where(Y == 2, 9, Y), Y - 5, Y.astype(np.float16)):
        assert model.score(X, y) == metrics.accuracy_score(y, model.predict(X))
    names = xent.LogisticRegression().fit(X, NAMES[Y])
    for y in (NAMES[Y], NAMES[Y].astype(object), np.where(Y == 2, "a long name of a tree", NAMES[Y])):
        assert names.score(X, y) == metrics.accuracy_score(y, names.predict(X))
    bools = xent.LogisticRegression().fit(X, Y > 0)
    assert bools.score(X, (Y > 0).astype(int)) == bools.score(X, Y > 0)


def test_large_labels_are_compared_as_they_are():
    labels = np.array([2**53, 2**53 + 1, 2**53 + 2])
    model = xent.LogisticRegression().fit(X, labels[Y])
    assert model.score(X, labels[Y] * 1.0) < model.score(X, labels[Y])


def test_dates_of_other_units():
    model = xent.LogisticRegression().fit(X, Y.astype("M8[D]"))
    assert model.score(X, Y.astype("M8[D]").astype("M8[ns]")) == model.score(X, Y.astype("M8[D]"))
    model.partial_fit(X, Y.astype("M8[D]").astype("M8[us]"))


@pytest.mark.parametrize(
    ("labels", "y", "kinds"),
    [
        (Y, Y.astype(str), "string and number"),
        (Y, Y.astype(str).astype(object), "string and number"),
        (Y.astype(str), Y, "number and string"),
        (Y, Y.astype("S"), "bytes and number"),
        (Y.astype(str), Y.astype("S"), "bytes and string"),
        (Y, Y.astype("M8[ns]"), "date and number"),
        (Y.astype("M8[ns]"), Y.astype("m8[ns]"), "duration and date"),
    ],
)
def test_labels_of_another_kind(labels, y, kinds):
    model = xent.LogisticRegression().fit(X, labels)
    for call in (model.score, model.partial_fit):
        with pytest.raises(ValueError, match=rf"^y has .* labels, such as .*\(Mix of label input types \({kinds}\)\)"):
            call(X, y)


def test_strings_are_of_one_kind_in_all_blocks():
    model = xent.LogisticRegression(tol=1e-8).fit(
        xent.Blocks([(X[:20], NAMES[Y[:20]]), (X[20:], NAMES[Y[20:]].astype(object))])
    )
    np.testing.assert_allclose(model.coef_, xent.LogisticRegression(tol=1e-8).fit(X, NAMES[Y]).coef_, atol=1e-6)


# --- bools, and class weights ----------------------------------------------------------------------------------------


def test_bools_are_zero_and_one():
    keep = np.arange(60) % 2 > 0
    expected = xent.LogisticRegression().fit(X, Y, keep * 1.0)
    np.testing.assert_array_equal(xent.LogisticRegression().fit(X, Y, keep).coef_, expected.coef_)
    assert expected.score(X, Y, keep) == expected.score(X, Y, keep * 1.0)
    assert expected.score(X, np.eye(3, dtype=bool)[Y]) == expected.score(X, Y)
    soft = xent.LogisticRegression(class_weight={0: True, 1: np.True_, 2: False}).fit(X, np.eye(3, dtype=bool)[Y])
    hard = xent.LogisticRegression(class_weight={0: 1, 1: 1, 2: 0}).fit(X, np.eye(3)[Y])
    np.testing.assert_array_equal(soft.coef_, hard.coef_)
    np.testing.assert_array_equal(
        xent.LogisticRegression().fit(X > 0, Y).coef_, xent.LogisticRegression().fit((X > 0) * 1.0, Y).coef_
    )
    streamed = xent.LogisticRegression().partial_fit(X, Y, [0, 1, 2], keep)
    np.testing.assert_array_equal(
        streamed.coef_, xent.LogisticRegression().partial_fit(X, Y, [0, 1, 2], keep * 1.0).coef_
    )
    bad = np.eye(3, dtype=bool)[Y]
    bad[4] = True
    with pytest.raises(ValueError, match=r"^y\[4\] sums to 3; each row must sum to 1 \(use sample_weight to"):
        xent.LogisticRegression().fit(X, bad)


@pytest.mark.parametrize("bad", ["0", None, float("nan"), 0.5, (0,), np.datetime64("2020")])
def test_keys_of_class_weight_are_labels(bad):
    weights = {0: 1.0, 1: 2.0, 2: 3.0, bad: 1.0}
    with pytest.raises(ValueError, match=r"^class_weight names .*, which is not a label of y; the labels"):
        xent.LogisticRegression(class_weight=weights).fit(X, Y)


def test_keys_of_class_weight_in_other_types():
    expected = xent.LogisticRegression(class_weight={0: 1.0, 1: 2.0, 2: 3.0}).fit(X, Y).coef_
    for weights in ({False: 1, True: 2, 2: 3}, {0.0: 1, 1.0: 2, 2.0: 3}, {0: 1, 1: 2, 2: 3, 7: 9}):
        np.testing.assert_array_equal(xent.LogisticRegression(class_weight=weights).fit(X, Y).coef_, expected)
