"""log_loss: scikit-learn's function of that name, without its clipping."""

import math
import re
import warnings

import numpy as np
import pytest
from good_arguments import HALVES, inf, nan

import xent

RNG = np.random.default_rng(0)
TWO, THREE = RNG.dirichlet(np.ones(2), 6), RNG.dirichlet(np.ones(3), 6)
WEIGHT = np.array([0, 1, 2, 0.5, 3, 1])
INDICES = np.array([1, 0, 2, 2, 0, 1])


def expected(indices, proba, weight=None, normalize=True):
    terms = [-math.log(row[i]) for i, row in zip(indices, proba.astype(float), strict=True)]
    weight = np.ones(len(terms)) if weight is None else weight
    return math.fsum(weight * terms) / (weight.sum() if normalize else 1)


LABELS = {      # in sorted order
    "int": [-3, 0, 7],
    "uint8": np.array([0, 7, 255], "u1"),
    "large": [2**53, 2**53 + 1, 2**62],
    "float": [-0.5 * 2, 1.0, 1e6],
    "half": np.array([0, 1, 2], "f2"),
    "str": ["a", "ab", "b"],
    "bytes": [b"a", b"ab", b"b"],
    "object": np.array(["a", "ab", "b"], object),
    "date": np.array(["2020-01-01", "2020-01-02", "2021-01-01"], "M8[D]"),
    "nanoseconds": np.array([1, 2, 30], "M8[ns]"),
    "timedelta": np.array([-1, 0, 1], "m8[us]"),
}
each_label = pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS)
each_container = pytest.mark.parametrize("container", ["array", "list", "column", "Series", "Categorical", "polars"])


def contained(labels, container):
    array = np.asarray(labels)
    if array.dtype.kind == "S" and container in ("Categorical", "polars"):
        pytest.skip("bytes are objects there, which are no labels")
    if container == "list":
        return list(labels)
    if container == "column":
        return array[:, None]
    if container == "Series":
        return pytest.importorskip("pandas").Series(labels, index=range(5, 5 + len(labels)))
    if container == "Categorical":
        pandas = pytest.importorskip("pandas")
        if array.dtype == np.float16:
            pytest.skip("pandas has no index of float16")
        order = list(dict.fromkeys(labels[::-1]))
        return pandas.Series(pandas.Categorical(labels, categories=order, ordered=True))
    if container == "polars":
        return pytest.importorskip("polars").Series(array if array.dtype.kind in "mM" else list(labels))
    return array


@each_label
@each_container
def test_labels_of_any_type(container, labels):
    array = np.asarray(labels)
    y = contained(array[INDICES], container)
    for weight in (None, WEIGHT):
        for normalize in (True, False):
            loss = xent.log_loss(y, THREE, sample_weight=weight, normalize=normalize)
            assert type(loss) is float
            assert loss == pytest.approx(expected(INDICES, THREE, weight, normalize), rel=4e-16)
    two = contained(array[np.minimum(INDICES, 1)], container)
    for p in (TWO, TWO[:, 1], TWO[:, 1:]):
        assert xent.log_loss(two, p) == pytest.approx(expected(np.minimum(INDICES, 1), TWO), rel=1e-15)


@each_label
@pytest.mark.parametrize("container", ["array", "list", "Series", "polars"])
def test_labels_that_y_true_lacks(container, labels):
    array = np.asarray(labels)
    for i in range(3):
        y, given = contained(np.repeat(array[i], 6), container), contained(array, container)
        assert xent.log_loss(y, THREE, labels=given) == pytest.approx(expected([i] * 6, THREE), rel=4e-16)
    for i in range(2):
        y = contained(np.repeat(array[i], 6), container)
        assert xent.log_loss(y, TWO[:, 1], labels=given[:2]) == pytest.approx(expected([i] * 6, TWO), rel=1e-15)


@pytest.mark.parametrize(
    ("y", "labels"),
    [
        ([0, 1, 1], [False, True]),
        ([0.0, 1.0, 1.0], [0, 1]),
        ([False, True, True], [0, 1]),
        (np.array([False, True, True]), None),
        (np.array(["a", "b", "b"]), np.array(["a", "b"], object)),
        (np.array(["2020", "2021", "2021"], "M8[Y]"), np.array(["2020-01-01", "2021-01-01"], "M8[ns]")),
        (np.array([0, 1, 1], "u8"), np.array([0, 1], "i1")),
    ],
    ids=str,
)
def test_labels_are_equal_whatever_their_type(y, labels):
    assert xent.log_loss(y, TWO[:3], labels=labels) == pytest.approx(expected([0, 1, 1], TWO[:3]), rel=4e-16)


@pytest.mark.parametrize("dtype", ["Int64", "boolean", "int8[pyarrow]", "bool[pyarrow]", "string", "string[pyarrow]"])
def test_pandas_types(dtype):
    pandas = pytest.importorskip("pandas")
    if "pyarrow" in dtype:
        pytest.importorskip("pyarrow")
    y = pandas.Series([0, 1, 1]).astype(dtype)
    for p in (pandas.DataFrame(TWO[:3], columns=["no", "yes"]), pandas.DataFrame(TWO[:3]).astype("Float64")):
        assert xent.log_loss(y, p) == pytest.approx(expected([0, 1, 1], TWO[:3]), rel=4e-16)
        assert xent.log_loss(y, p[p.columns[1]]) == pytest.approx(expected([0, 1, 1], TWO[:3]), rel=1e-15)
    for missing in (y.astype(object).where([True, False, True]), y.where([True, False, True])):
        with pytest.raises(ValueError, match=r"^y_true\[1\] is (nan|None|<NA>); labels must be"):
            xent.log_loss(missing, p)


@pytest.mark.parametrize("dtype", ["f4", ">f8", *HALVES])
def test_types_of_probabilities(dtype):
    p = THREE.astype(dtype)
    assert xent.log_loss(INDICES, p) == pytest.approx(expected(INDICES, p), rel=1e-6)


def test_probabilities_as_objects():
    assert xent.log_loss(INDICES, THREE.astype(object)) == pytest.approx(expected(INDICES, THREE), rel=4e-16)


def test_certain_predictions():
    """Integers and booleans are taken as the probabilities 0 and 1."""
    one_hot = np.eye(3)[INDICES]
    for p in (one_hot, one_hot.astype(int), one_hot.astype(bool), one_hot.tolist(), one_hot.astype(bool).tolist()):
        assert xent.log_loss(INDICES, p) == 0
        assert xent.log_loss((INDICES + 1) % 3, p) == inf
    assert xent.log_loss([0, 1], [0, 1]) == xent.log_loss([False, True], [False, True]) == 0
    assert xent.log_loss([0, 1], [1, 0]) == inf
    assert xent.log_loss(["no", "yes"], [1e-20, 1]) == pytest.approx(5e-21)     # nothing is clipped


def test_distributions():
    target = RNG.dirichlet(np.ones(3), 6)
    rows = -(target * np.log(THREE)).sum(axis=1)
    assert xent.log_loss(target, THREE) == pytest.approx(rows.mean())
    assert xent.log_loss(target, THREE, sample_weight=WEIGHT) == pytest.approx(np.average(rows, weights=WEIGHT))
    assert xent.log_loss(target, THREE, normalize=False, labels=["a", "b", "c"]) == pytest.approx(rows.sum())
    assert xent.log_loss(target / 2, THREE) == pytest.approx(rows.mean() / 2)       # a mean over rows, not over mass
    for kind in ("i8", "u1", "?", "f4", *HALVES):
        assert xent.log_loss(np.eye(3)[INDICES].astype(kind), THREE) == pytest.approx(expected(INDICES, THREE))


def test_floats_of_one_axis_are_labels():
    """Labels are never taken for a distribution, whatever the shape of the probabilities."""
    assert xent.log_loss([2.0, 5.0], [0.25, 0.5]) == pytest.approx((-math.log(0.75) - math.log(0.5)) / 2)
    with pytest.raises(ValueError, match=r"^y_true\[0\] is 0\.25; .*\(Unknown label type: continuous\)$"):
        xent.log_loss([0.25, 1], [0.25, 0.5])


def test_nothing_to_average():
    assert math.isnan(xent.log_loss(INDICES, THREE, sample_weight=np.zeros(6)))
    assert math.isnan(xent.log_loss([], THREE[:0], labels=[0, 1, 2]))
    assert xent.log_loss([], [], labels=[0, 1], normalize=False) == 0
    with pytest.raises(ValueError, match=r"^y_true is empty; "):
        xent.log_loss([], [])


ERRORS = {
    "one label": ([2, 2], TWO[:2], {}, "y_true contains only one label (2). Please provide the list of all expected "
                  "class labels explicitly through the labels argument."),
    "labels of one label": ([2, 2], TWO[:2], {"labels": [2, 2]}, "labels array needs to contain at least two"),
    "columns": ([0, 1, 2], TWO[:3], {}, "y_true has 3 labels, [0, 1, 2], and y_proba 2 classes"),
    "columns of one axis": ([0, 1, 2], TWO[:3, 1], {}, "y_true has 3 labels, [0, 1, 2], and y_proba 2 classes"),
    "columns, labels": ([0, 1], THREE[:2], {"labels": [0, 1]}, "y_proba has 3 classes and labels 2"),
    "columns, distribution": (THREE, THREE, {"labels": [0, 1]}, "y_proba has 3 classes and labels 2"),
    "unknown": (["a", "b", "c"], THREE[:3], {"labels": ["a", "c", "d"]}, "y_true[1] is 'b', which is not one of lab"),
    "in scikit-learn's words": (["a", "b", "c"], THREE[:3], {"labels": ["a", "c", "d"]}, "y_true contains values {'b'} "
                                "not belonging to the passed labels ['a', 'c', 'd']."),
    "strings for integers": (["0", "1"], TWO[:2], {"labels": [0, 1]}, "y_true[0] is '0', which is not one of labels"),
    "rows": ([2, 2], TWO[:3], {}, "Found input variables with inconsistent numbers of samples: [3, 2]"),
    "nan": ([0, nan, 1], TWO[:3], {}, "y_true[1] is nan; labels must be"),
    "None": (["a", None, "b"], TWO[:3], {}, "y_true[1] is None; labels must be"),
    "not a date": (np.array(["2020", "NaT"], "M8[D]"), TWO[:2], {}, "y_true[1] is NaT; labels must be"),
    "fraction": ([1, 0.5, 0], TWO[:3], {}, "(Unknown label type: continuous)"),
    "complex": ([1j, 0], TWO[:2], {}, "y_true is complex; labels must be"),
    "unsortable": (np.array(["a", 1], object), TWO[:2], {}, "y_true has labels that cannot be sorted"),
    "fraction in labels": ([1, 0], TWO[:2], {"labels": [0.5, 1]}, "labels[0] is 0.5; labels must be"),
    "axes of labels": ([1, 0], TWO[:2], {"labels": [[0, 1]]}, "labels has shape (1, 2); it must have one axis"),
    "swapped": (TWO[:3], [0, 1, 1], {}, "y_true has shape (3, 2) and y_proba (3,); y_true, which comes first, must"),
    "swapped, three classes": (
        np.eye(3), [0, 1, 2], {}, "y_proba[2] is 2.0; probabilities must be in [0, 1]: are y_true and y_proba swapped?"
    ),
    "swapped, one axis": (TWO[:3, 1], [0, 1, 1], {}, "y_true[0] is "),
    "no array": (None, TWO, {}, "the target y is None: y_true must hold one label per row"),
    "axes": ([0, 1], TWO[:2, :, None], {}, "y_proba has 3 dimensions; it must have 2, (n_samples, n_classes), or 1"),
    "scalar": ([0, 1], 0.5, {}, "y_proba has 0 dimensions"),
    "above 1": ([0, 1], [0.5, 1.5], {}, "y_proba[1] is 1.5; probabilities must be in [0, 1]"),
    "below 0": ([0, 1], [[0.5, 0.5], [-0.5, 1.5]], {}, "y_proba[1, 0] is -0.5; probabilities must be in [0, 1]"),
    "probability nan": ([0, 1], [0.5, nan], {}, "y_proba[1] is nan; probabilities must be in [0, 1]"),
    "text": ([0, 1], ["0.5", "0.5"], {}, "y_proba has dtype <U3; it must be real numbers"),
    "objects": ([0, 1], np.array([0.5, "x"], object), {}, "y_proba has dtype object and an element that is no number"),
    "multi-class indicator": (np.array([[0, 2], [1, 0]]), TWO[:2], {}, "y_true[0, 1] is 2; an indicator of classes"),
    "weights": ([0, 1], TWO[:2], {"sample_weight": [1]}, "sample_weight has shape (1,); it must have shape (2,)"),
    "axes of weights": ([0, 1], TWO[:2], {"sample_weight": [[1], [1]]}, "sample_weight has shape (2, 1); it must"),
    "negative weight": ([0, 1], TWO[:2], {"sample_weight": [1, -1]}, "sample_weight[1] is -1; weights must be"),
    "normalize": ([0, 1], TWO[:2], {"normalize": "no"}, "normalize is 'no'; it must be True or False"),
    "masked": (np.ma.masked_array([0, 1], [0, 1]), TWO[:2], {}, "y_true is a masked array"),
}


@pytest.mark.parametrize(("y", "p", "options", "message"), ERRORS.values(), ids=ERRORS)
def test_errors(message, options, p, y):
    with pytest.raises((ValueError, TypeError), match=re.escape(message)):
        xent.log_loss(y, p, **options)


def test_warnings():
    """xent warns where scikit-learn does, in the same words, and names the caller's line."""
    for y, p, options, words in (
        ([0, 1], [[0.5, 0.25], [0.5, 0.5]], {}, r"^y_proba\[0\] sums to 0.75, .*The y_prob values do not sum to one\."),
        (
            ["eggs", "spam", "ham"], np.eye(3), {"labels": ["spam", "eggs", "ham"]},
            re.escape("Labels passed were ['spam', 'eggs', 'ham']. But this function assumes labels are ordered "
                      "lexicographically. Pass the ordered labels=['eggs', 'ham', 'spam'] and ensure that the columns "
                      "of y_prob correspond to this ordering."),
        ),
    ):
        with pytest.warns(UserWarning, match=words) as caught:
            xent.log_loss(y, p, **options)
        assert caught[0].filename == __file__
    with warnings.catch_warnings():     # it is not normalised, all the same
        warnings.simplefilter("ignore")
        assert xent.log_loss([0, 1], [[0.5, 0.25], [0.5, 0.5]]) == pytest.approx(math.log(2))
    for dtype in (*HALVES, "f4", "f8"):
        xent.log_loss(np.arange(1000), np.full((1000, 1000), 1 / 1000).astype(dtype))


def test_scikit_learn_says_the_same():
    log_loss = pytest.importorskip("sklearn.metrics").log_loss
    for n, classes in ((2, 2), (50, 2), (50, 3), (200, 17)):
        p, y = RNG.dirichlet(np.ones(classes), n), RNG.permutation(np.arange(n) % classes)
        names = np.array([f"class {i}" for i in RNG.permutation(classes)])
        weight = RNG.random(n)
        one_hot = np.eye(classes)[y]
        for labels in (y, names[y], y.astype(float), y.astype("i2") - 5, one_hot, one_hot.astype(int)):
            for options in ({}, {"normalize": False}, {"sample_weight": weight}):
                exact = xent.log_loss(labels, p, **options)
                assert exact == pytest.approx(log_loss(labels, p, **options), rel=1e-13)
        if classes == 2:
            assert xent.log_loss(names[y], p[:, 1]) == pytest.approx(log_loss(names[y], p[:, 1]), rel=1e-13)
        some = names[y % 2]
        for options in ({"labels": np.sort(names)}, {"labels": list(np.sort(names)), "sample_weight": weight}):
            assert xent.log_loss(some, p, **options) == pytest.approx(log_loss(some, p, **options), rel=1e-13)


def test_the_accuracy_of_the_sum():
    """A mean over many rows is as accurate as the rows."""
    p = RNG.dirichlet(np.ones(4), 100_000).astype(np.float32)
    y = RNG.integers(4, size=len(p))
    assert xent.log_loss(y, p) == pytest.approx(expected(y, p), rel=1e-7)
