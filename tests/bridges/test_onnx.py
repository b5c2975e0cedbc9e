"""Fitted classifiers as ONNX models, computed by onnxruntime."""

import re

import numpy as np
import pytest

import xent

pytest.importorskip("skl2onnx")
ort = pytest.importorskip("onnxruntime")

import onnx  # noqa: E402
import skl2onnx  # noqa: E402
from reference import softmax  # noqa: E402
from skl2onnx.common.data_types import FloatTensorType, StringTensorType  # noqa: E402
from sklearn.calibration import CalibratedClassifierCV  # noqa: E402
from sklearn.ensemble import BaggingClassifier, StackingClassifier, VotingClassifier  # noqa: E402
from sklearn.feature_selection import SelectFromModel  # noqa: E402
from sklearn.model_selection import GridSearchCV  # noqa: E402
from sklearn.multiclass import OneVsRestClassifier  # noqa: E402
from sklearn.pipeline import make_pipeline  # noqa: E402
from sklearn.preprocessing import StandardScaler  # noqa: E402

import xent.onnx  # noqa: E402

ARRAYS = {"zipmap": False}
DTYPES = [np.float32, np.float64]
OLDEST_OPSET = 11       # the first with ArgMax of float64 in onnxruntime


def convert(model, X, options=ARRAYS, **more):
    """An onnxruntime session of a checked model."""
    graph = skl2onnx.to_onnx(model, X[:1], options=options, **more)
    onnx.checker.check_model(graph, full_check=True)
    return start(graph.SerializeToString())


def start(model):
    settings = ort.SessionOptions()
    settings.log_severity_level = 3     # errors only: skl2onnx's ensembles leave constants that nothing uses
    return ort.InferenceSession(model, settings, providers=["CPUExecutionProvider"])


def run(session, X):
    (given,) = session.get_inputs()
    return session.run(None, {given.name: X})


def by_hand(coef, intercept=0.0, classes=None):
    """A model with these coefficients."""
    model = xent.LogisticRegression()
    model.coef_ = np.atleast_2d(np.asarray(coef, float))
    model.intercept_ = np.broadcast_to(float(intercept), len(model.coef_))
    model.classes_ = np.arange(max(2, len(model.coef_))) if classes is None else classes
    return model


def assert_close(found, wanted):
    """Probabilities of logits that are sums of a few products, in either order."""
    assert found.dtype == wanted.dtype
    np.testing.assert_allclose(found, wanted, rtol=64 * np.finfo(wanted.dtype).eps, atol=0)


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 120)
    return rng.normal(size=(120, 4)) + np.eye(3, 4)[y], y


# --- Labels, probabilities and scores -------------------------------------------------------------------------------


def make_labels(y):
    return {
        "int64": y * 7 - 3,
        "beyond int32": y + 2**40,
        "uint8": y.astype(np.uint8),
        "whole floats": y.astype(float),
        "strings": np.array(["no", "yes", "käse"])[y],
        "objects": np.array(["no", "yes", "käse"], object)[y],
        "bools": y > 0,
        "two integers": np.where(y > 0, 5, -5),
        "two strings": np.where(y > 0, "spam", "ham"),
    }


KINDS = list(make_labels(np.zeros(1, int)))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_labels_and_probabilities(data, kind, dtype):
    X, y = data[0].astype(dtype), make_labels(data[1])[kind]
    model = xent.LogisticRegression().fit(X, y)
    labels, proba = run(convert(model, X), X)
    assert np.array_equal(labels, model.predict(X))
    assert labels.dtype == (object if isinstance(model.classes_[0], str) else np.int64)
    assert_close(proba, model.predict_proba(X))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("options", [None, {"zipmap": True}, {"zipmap": "columns"}], ids=str)
def test_zipmap(data, kind, dtype, options):
    """Dictionaries by label (of float32, which is all that ZipMap takes), or an output for each class."""
    X, y = data[0].astype(dtype), make_labels(data[1])[kind]
    model = xent.LogisticRegression().fit(X, y)
    session = convert(model, X, options)
    labels, *proba = run(session, X)
    assert np.array_equal(labels, model.predict(X))
    names = [output.name for output in session.get_outputs()]
    if options == {"zipmap": "columns"}:
        prefix = "i" if model.classes_.dtype.kind in "iub" else "s"
        assert names == ["output_label", *(f"{prefix}{int(c) if prefix == 'i' else c}" for c in model.classes_)]
        assert_close(np.stack(proba, axis=1), model.predict_proba(X))
    else:
        assert names == ["output_label", "output_probability"]
        wanted = model.predict_proba(X).astype(np.float32)
        (rows,) = proba
        assert all(list(row) == model.classes_.tolist() for row in rows)
        assert_close(np.array([list(row.values()) for row in rows], np.float32), wanted)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_output_class_labels(data, kind, dtype):
    X, y = data[0].astype(dtype), make_labels(data[1])[kind]
    model = xent.LogisticRegression().fit(X, y)
    labels, proba, classes = run(convert(model, X, {"zipmap": False, "output_class_labels": True}), X)
    assert np.array_equal(labels, model.predict(X))
    assert_close(proba, model.predict_proba(X))
    assert np.array_equal(classes, model.classes_)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_raw_scores_are_those_of_the_decision_function(data, kind, dtype):
    """For two classes, skl2onnx has a column for each: -z and z."""
    X, y = data[0].astype(dtype), make_labels(data[1])[kind]
    model = xent.LogisticRegression().fit(X, y)
    labels, scores = run(convert(model, X, {"zipmap": False, "raw_scores": True}), X)
    assert np.array_equal(labels, model.predict(X))
    wanted = model.decision_function(X)
    wanted = np.column_stack([-wanted, wanted]) if wanted.ndim == 1 else wanted
    assert scores.dtype == dtype
    np.testing.assert_allclose(scores, wanted, rtol=0, atol=64 * np.finfo(dtype).eps)


@pytest.mark.parametrize("labels", [np.array([b"a", b"b", b"c"]), np.array(["2020", "2021", "2022"], "M8[Y]")])
def test_labels_that_onnx_does_not_have(data, labels):
    X, y = data
    model = xent.LogisticRegression().fit(X, labels[y])
    for options in (None, ARRAYS, {"zipmap": "columns"}):
        with pytest.raises(TypeError, match=rf"^classes_ has dtype {re.escape(str(labels.dtype))}; .*nocl=True"):
            skl2onnx.to_onnx(model, X, options=options)
    numbers, proba = run(convert(model, X, {"zipmap": False, "nocl": True}), X)
    assert np.array_equal(labels[numbers], model.predict(X))
    assert_close(proba, model.predict_proba(X))
    numbers, rows = run(convert(model, X, {"nocl": True}), X)
    assert np.array_equal(labels[numbers], model.predict(X))
    assert list(rows[0]) == [0, 1, 2]


def test_labels_too_large_for_onnx(data):
    X, y = data
    model = xent.LogisticRegression().fit(X, np.array([1, 2**63, 2**64 - 1], np.uint64)[y])
    with pytest.raises(ValueError, match=rf"^classes_\[1\] is {2**63}; a label of an ONNX model is"):
        skl2onnx.to_onnx(model, X)
    with pytest.raises(ValueError, match=r"^classes_\[0\] is 0\.5; a label of an ONNX model is"):
        skl2onnx.to_onnx(by_hand([1.0], classes=np.array([0.5, 1.0])), X[:, :1])


def test_class_labels_and_dictionaries_exclude_each_other(data):
    model = xent.LogisticRegression().fit(*data)
    with pytest.raises(RuntimeError, match="'output_class_labels' is not compatible with option 'zipmap'"):
        skl2onnx.to_onnx(model, data[0], options={"output_class_labels": True})


@pytest.mark.parametrize("options", [{"zipmap": "rows"}, {"zipmap": False, "raw": True}], ids=str)
def test_unknown_options(data, options):
    model = xent.LogisticRegression().fit(*data)
    with pytest.raises((ValueError, NameError), match=r"zipmap|raw"):
        skl2onnx.to_onnx(model, data[0], options=options)


@pytest.mark.parametrize("dtype", DTYPES)
def test_of_equal_logits_the_first_is_the_label(dtype):
    rows = np.array([[1, 1, 0], [0, 2, 2], [3, 3, 3], [-0.0, 0.0, 0.0], [0.0, -0.0, -1]], dtype)
    model = by_hand(np.eye(3))
    labels, _ = run(convert(model, rows), rows)
    assert labels.tolist() == model.predict(rows).tolist() == [0, 1, 0, 0, 0]
    zeros, model = np.array([[0.0], [-0.0], [1e-30], [-1e-30]], dtype), by_hand([1.0])
    for raw in (False, True):
        labels, _ = run(convert(model, zeros, {"zipmap": False, "raw_scores": raw}), zeros)
        assert labels.tolist() == model.predict(zeros).tolist() == [0, 0, 1, 0]


@pytest.mark.parametrize("dtype", DTYPES)
def test_two_classes_keep_the_digits_of_small_probabilities(dtype):
    """Neither 1 - p nor a sigmoid that is 1: both probabilities have all digits."""
    rows = np.linspace(-80, 80, 201, dtype=dtype)[:, None]
    _, proba = run(convert(by_hand([1.0]), rows), rows)
    wanted = softmax(np.column_stack([np.zeros_like(rows), rows]))
    assert np.abs(np.longdouble(proba) / wanted - 1).max() < 4 * np.finfo(dtype).eps


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("scale", "ulps"), [(1, 10), (30, 200)])
def test_the_softmax_of_many_classes(dtype, scale, ulps):
    """onnxruntime subtracts the maximum, which rounds: half an ulp of the difference. docs/onnx.md has the numbers."""
    rows = (scale * np.random.default_rng(1).normal(size=(500, 100))).astype(dtype)
    _, proba = run(convert(by_hand(np.eye(100)), rows), rows)
    wanted = softmax(rows)
    normal = wanted > 8 * np.finfo(dtype).tiny
    assert np.abs(np.longdouble(proba) / np.where(normal, wanted, 1) - 1)[normal].max() < ulps * np.finfo(dtype).eps


def test_without_an_intercept_and_with_coefficients_of_another_type(data):
    X, y = data[0].astype(np.float32), data[1]
    model = xent.LogisticRegression(fit_intercept=False).fit(X, y)
    assert model.coef_.dtype == np.float32
    for dtype in DTYPES:
        labels, proba = run(convert(model, X.astype(dtype)), X.astype(dtype))
        assert np.array_equal(labels, model.predict(X.astype(dtype)))
        assert_close(proba, model.predict_proba(X.astype(dtype)))


def test_coefficients_set_by_hand():
    """One row of coefficients, and a number for the intercept, as `predict` takes them."""
    model, X = by_hand([2.0, -1.0]), np.array([[1.0, 0.5], [0.0, 3.0]])
    model.coef_, model.intercept_ = model.coef_[0], 0.25
    assert_close(run(convert(model, X), X)[1], model.predict_proba(X))
    model.coef_ = np.ones((3, 2))
    with pytest.raises(ValueError, match=r"^coef_ has shape \(3, 2\); for 2 classes"):
        skl2onnx.to_onnx(model, X)


# --- Inputs ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.int64, np.int32, bool])
def test_integers_are_computed_in_float64(data, dtype):
    """As xent does; skl2onnx's probabilities of integers are float32."""
    X = (3 * data[0]).astype(dtype)
    coef = np.array([[1.0, 0.5, -1, 0.3], [-0.5, 1, 1, 0], [0.3, -0.4, 0, 2]])
    if dtype is not bool:
        X += 1 << 25      # float32 has no odd numbers there
        coef -= coef.mean(axis=1, keepdims=True)
    model = by_hand(coef)
    labels, proba = run(convert(model, X), X)
    assert np.array_equal(labels, model.predict(X))
    assert proba.dtype == np.float32
    np.testing.assert_allclose(proba, model.predict_proba(X), rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("options", [None, ARRAYS, {"zipmap": "columns"}], ids=str)
@pytest.mark.parametrize("n_classes", [2, 3])
def test_any_number_of_rows(data, dtype, options, n_classes):
    X, y = data[0].astype(dtype), data[1] % n_classes
    model = xent.LogisticRegression().fit(X, y)
    session = convert(model, X, options)
    for n in (0, 1, 2, 120):
        results = run(session, X[:n])
        assert {len(result) for result in results} == {n}
        assert np.array_equal(results[0], model.predict(X[:n]) if n else [])
    if options == ARRAYS:
        assert run(session, X[:0])[1].shape == (0, n_classes)


def test_initial_types(data):
    X, y = data[0].astype(np.float32), data[1]
    model = xent.LogisticRegression().fit(X, y)
    types = [("features", FloatTensorType([None, 4]))]
    graph = skl2onnx.to_onnx(model, initial_types=types, options=ARRAYS)
    session = start(graph.SerializeToString())
    assert session.get_inputs()[0].name == "features"
    assert_close(run(session, X)[1], model.predict_proba(X))
    outputs = [("number", None), ("share", None)]
    session = convert(model, X, final_types=outputs)
    assert [output.name for output in session.get_outputs()] == ["number", "share"]
    assert session.get_outputs()[1].shape[1] == 3


def test_inputs_that_do_not_fit(data):
    model = xent.LogisticRegression().fit(*data)
    message = r"^the inputs of LogisticRegression have 5 features; the model was fitted with 4$"
    with pytest.raises(ValueError, match=message):
        skl2onnx.to_onnx(model, initial_types=[("X", FloatTensorType([None, 5]))])
    with pytest.raises(ValueError, match=message):
        skl2onnx.to_onnx(model, initial_types=[(name, FloatTensorType([None, 1])) for name in "abcde"])
    with pytest.raises(TypeError, match=r"^the input 'X' of LogisticRegression has the type StringTensorType"):
        skl2onnx.to_onnx(model, initial_types=[("X", StringTensorType([None, 4]))])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_features_that_are_not_finite(data, dtype, n_classes, bad):
    """`predict_proba` refuses them; here the row is NaN, and its neighbours are as they were."""
    X = data[0].astype(dtype)
    model = xent.LogisticRegression().fit(X, data[1] % n_classes)
    X[1, 2] = bad
    _, proba = run(convert(model, X), X)
    assert np.isnan(proba[1]).all()
    assert_close(np.delete(proba, 1, 0), model.predict_proba(np.delete(X, 1, 0)))


@pytest.mark.parametrize("options", [None, ARRAYS, {"zipmap": "columns"}], ids=str)
def test_a_frame_has_an_input_for_each_column(data, options):
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(data[0], columns=["a", "b", "c", "d"])
    frame["a"] = frame["a"].astype(np.float32)
    frame["c"] = (3 * frame["c"]).astype(int)
    model = xent.LogisticRegression().fit(frame, data[1])
    session = convert(model, frame, options)
    assert [given.name for given in session.get_inputs()] == list(frame)
    labels, *proba = session.run(None, {name: frame[[name]].to_numpy() for name in frame})
    assert np.array_equal(labels, model.predict(frame))
    wanted = model.predict_proba(frame)
    if options is None:
        wanted, proba = wanted.astype(np.float32), [np.array([list(row.values()) for row in proba[0]], np.float32)]
    assert_close(np.column_stack(proba), wanted)


def test_columns_of_one_type(data):
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(data[0].astype(np.float32), columns=["a", "b", "c", "d"])
    model = xent.LogisticRegression().fit(frame, data[1])
    graph = skl2onnx.to_onnx(model, frame[:1], options=ARRAYS)
    assert "Cast" not in [node.op_type for node in graph.graph.node]
    _, proba = start(graph.SerializeToString()).run(None, {name: frame[[name]].to_numpy() for name in frame})
    assert_close(proba, model.predict_proba(frame))


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_nodes(data, dtype):
    """What the first comment of the module says, and nothing else."""
    X = data[0].astype(dtype)
    graph = skl2onnx.to_onnx(xent.LogisticRegression().fit(X, data[1]), X[:1], options=ARRAYS)
    assert sorted(node.op_type for node in graph.graph.node) == ["ArgMax", "Gather", "Gemm", "Softmax"]
    assert {domain.domain for domain in graph.opset_import} == {""}


@pytest.mark.parametrize("opset", range(OLDEST_OPSET, skl2onnx.get_latest_tested_opset_version() + 1))
@pytest.mark.parametrize("dtype", DTYPES)
def test_opsets(data, opset, dtype):
    X = data[0].astype(dtype)
    model = xent.LogisticRegression().fit(X, data[1])
    labels, proba = run(convert(model, X, target_opset=opset), X)
    assert np.array_equal(labels, model.predict(X))
    assert_close(proba, model.predict_proba(X))
    labels, scores = run(convert(model, X, {"zipmap": False, "raw_scores": True}, target_opset=opset), X)
    assert np.array_equal(labels, model.predict(X))
    assert np.array_equal(scores.argmax(axis=1), labels)
    labels, rows = run(convert(model, X, None, target_opset={"": opset, "ai.onnx.ml": 1}), X)
    assert np.array_equal(labels, model.predict(X))
    assert np.array_equal([max(row, key=row.get) for row in rows], labels)


# --- Estimators ------------------------------------------------------------------------------------------------------


def test_cross_validated(data):
    X, y = data
    model = xent.LogisticRegressionCV(Cs=3, cv=3).fit(X, y)
    labels, proba = run(convert(model, X), X)
    assert np.array_equal(labels, model.predict(X))
    assert_close(proba, model.predict_proba(X))


@pytest.mark.parametrize("estimator", [xent.LogisticRegression, xent.LogisticRegressionCV])
def test_not_fitted(data, estimator):
    from sklearn.exceptions import NotFittedError

    for options in (None, ARRAYS):
        with pytest.raises(xent.NotFittedError, match=rf"^this {estimator.__name__} is not fitted yet") as info:
            skl2onnx.to_onnx(estimator(), data[0], options=options)
        assert isinstance(info.value, NotFittedError)
    with pytest.raises(xent.NotFittedError):
        skl2onnx.to_onnx(make_pipeline(StandardScaler().fit(data[0]), estimator()), data[0])


def fits_with_xent():
    model = xent.LogisticRegression
    return {
        "pipeline": make_pipeline(StandardScaler(), model()),
        "pipeline with CV": make_pipeline(StandardScaler(), xent.LogisticRegressionCV(Cs=2, cv=2)),
        "calibrated": CalibratedClassifierCV(model(), cv=3),
        "calibrated in a pipeline": make_pipeline(StandardScaler(), CalibratedClassifierCV(model(), cv=3)),
        "one against the rest": OneVsRestClassifier(model()),
        "search": GridSearchCV(make_pipeline(StandardScaler(), model()), {"logisticregression__C": [0.1, 1.0]}, cv=2),
        "bagging": BaggingClassifier(model(), n_estimators=3, random_state=0),
        "selected features": make_pipeline(SelectFromModel(model(), max_features=2, threshold=-np.inf), model()),
        "stacking": StackingClassifier([("a", model()), ("b", model(C=0.1))], final_estimator=model(), cv=2),
        "voting": VotingClassifier([("a", model()), ("b", model(C=0.1))], voting="soft", flatten_transform=False),
    }


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["int64", "strings", "bools"])
@pytest.mark.parametrize("name", fits_with_xent())
def test_inside_of_scikit_learns(data, name, kind, dtype):
    X, y = data[0].astype(dtype), make_labels(data[1])[kind]
    model = fits_with_xent()[name].fit(X, y)
    labels, proba = run(convert(model, X), X)
    assert np.array_equal(labels, model.predict(X))
    np.testing.assert_allclose(proba, model.predict_proba(X), rtol=0, atol=64 * np.finfo(dtype).eps)


@pytest.mark.parametrize("how", ["id", "class", "all", "name"])
def test_options_of_a_step(data, how):
    X, y = data
    model = make_pipeline(StandardScaler(), xent.LogisticRegression()).fit(X, y)
    last = {"zipmap": False, "raw_scores": True}
    options = {
        "id": {id(model[-1]): last},
        "class": {xent.LogisticRegression: last},
        "all": ARRAYS,
        "name": {f"logisticregression__{option}": value for option, value in last.items()},
    }[how]
    labels, result = run(convert(model, X, options), X)
    wanted = model.predict_proba(X) if how == "all" else model.decision_function(X)
    np.testing.assert_allclose(result, wanted, rtol=0, atol=1e-13)
    assert np.array_equal(labels, model.predict(X))


@pytest.mark.parametrize("search", [False, True])
def test_dictionaries_are_the_default_of_pipelines(data, search):
    X, y = data[0], make_labels(data[1])["strings"]
    model = make_pipeline(StandardScaler(), xent.LogisticRegression())
    model = (GridSearchCV(model, {"logisticregression__C": [0.1, 1.0]}, cv=2) if search else model).fit(X, y)
    labels, rows = run(convert(model, X, None), X)
    assert np.array_equal(labels, model.predict(X))
    assert all(list(row) == model.classes_.tolist() for row in rows)
    assert_close(np.array([list(row.values()) for row in rows], np.float32), model.predict_proba(X).astype("f4"))


def test_a_pipeline_of_frames(data):
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(data[0], columns=["a", "b", "c", "d"])
    model = make_pipeline(StandardScaler(), xent.LogisticRegression()).fit(frame, data[1])
    labels, rows = convert(model, frame, None).run(None, {name: frame[[name]].to_numpy() for name in frame})
    assert np.array_equal(labels, model.predict(frame))
    assert_close(np.array([list(row.values()) for row in rows], np.float32), model.predict_proba(frame).astype("f4"))


def test_register(data):
    X, y = data

    @xent.onnx.register
    class Mine(xent.LogisticRegression):
        """A class of a user."""

    class Other(xent.LogisticRegression):
        """Another one."""

    assert_close(run(convert(Mine().fit(X, y), X), X)[1], Mine().fit(X, y).predict_proba(X))
    with pytest.raises(skl2onnx.common.exceptions.MissingShapeCalculator, match="Other"):
        skl2onnx.to_onnx(Other().fit(X, y), X)
    for wrong in (StandardScaler, xent.LogisticRegression(), int):
        with pytest.raises(TypeError, match=r"is not a class derived from xent\.LogisticRegression$"):
            xent.onnx.register(wrong)


# --- The module ------------------------------------------------------------------------------------------------------


def test_to_onnx_is_that_of_skl2onnx():
    assert xent.onnx.to_onnx is skl2onnx.to_onnx


def test_nothing_is_imported_unasked(python):
    script = """
import sys, xent
xent.LogisticRegression().fit([[0.0], [1.0]], [0, 1])
print(sorted({"onnx", "skl2onnx", "onnxruntime", "xent.onnx"} & set(sys.modules)))
import xent.onnx
print(sorted({"dask", "onnxruntime"} & set(sys.modules)))
"""
    assert python(script).split("\n") == ["[]", "[]"]


def test_a_file_in_a_process_without_xent(data, python, tmp_path):
    X, y = data
    model = make_pipeline(StandardScaler(), xent.LogisticRegression()).fit(X, make_labels(y)["strings"])
    path = tmp_path / "model.onnx"
    onnx.save(xent.onnx.to_onnx(model, X[:1], options=ARRAYS), path)
    np.save(tmp_path / "X.npy", X)
    script = f"""
import sys, numpy as np, onnxruntime
session = onnxruntime.InferenceSession({str(path)!r}, providers=["CPUExecutionProvider"])
labels, proba = session.run(["label", "probabilities"], {{"X": np.load({str(tmp_path / "X.npy")!r})}})
np.save({str(tmp_path / "proba.npy")!r}, proba)
assert not {{"xent", "sklearn", "skl2onnx"}} & set(sys.modules)
print(*labels)
"""
    assert python(script, PYTHONIOENCODING="utf-8").split() == model.predict(X).tolist()
    assert_close(np.load(tmp_path / "proba.npy"), model.predict_proba(X))


def test_the_estimator_on_dask(python):
    """It is registered whichever of the two modules is imported first."""
    pytest.importorskip("distributed")
    script = """
import warnings
warnings.simplefilter("ignore")     # those of the imports
import importlib, numpy as np, dask.array as da, onnxruntime, skl2onnx
import xent.onnx, xent.dask
from skl2onnx._supported_operators import sklearn_operator_name_map as names
X = np.random.default_rng(0).normal(size=(60, 3))
y = (X[:, 0] > 0).astype(int)
model = xent.dask.LogisticRegression().fit(da.from_array(X, chunks=(20, 3)), da.from_array(y, chunks=20))
for _ in range(2):
    graph = skl2onnx.to_onnx(model, X[:1], options={"zipmap": False})
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    labels, proba = session.run(None, {"X": X})
    print(np.array_equal(labels, model.predict(X)), np.abs(proba - model.predict_proba(X)).max() < 1e-14)
    del names[xent.dask.LogisticRegression]
    importlib.reload(xent.onnx)
"""
    assert python(script).split() == ["True"] * 4
