"""Fits, predictions and scores on Dask are those of the local estimator."""

import itertools

import dask
import dask.array as da
import dask.dataframe as dd
import numpy as np
import pandas
import polars
import pyarrow
import pytest
from dask_data import (
    CLASSES,
    FEATURES,
    QUICK,
    ROWS,
    TABLE,
    TIGHT,
    F,
    arrays,
    assert_same,
    fit,
    local_fit,
    objective,
    problem,
    shuffled,
)

import xent
import xent.dask
from xent._fit.row_sums import RowSums


@pytest.mark.parametrize("rows", [ROWS, 400, 97, (1, 0, 999, 500, 0)], ids=str)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_partitioning(engine, rows, dtype):
    X, y, weight = problem(dtype)
    tol = 1e-10 if dtype == np.float64 else 1e-6
    local = xent.LogisticRegression(tol=tol, max_iter=500).fit(X, y, weight)
    model = xent.dask.LogisticRegression(tol=tol, max_iter=500).fit(*arrays(X, y, rows, weight))
    assert_same(model, local)
    assert objective(model, X, y, weight) == pytest.approx(objective(local, X, y, weight), rel=1e-9)


@pytest.mark.parametrize("solver", ["lbfgs", "newton-cg", "newton-cholesky"])
@pytest.mark.parametrize("persist", [True, False])
def test_solvers_and_partitions_that_are_read_again(both, solver, persist):
    X, y, _ = problem()
    local = xent.LogisticRegression(**TIGHT, solver=solver).fit(X, y)
    model = xent.dask.LogisticRegression(**TIGHT, solver=solver).fit(*arrays(X, y, 400), persist=persist)
    assert_same(model, local)


@pytest.mark.parametrize("persist", [True, False])
def test_l1(both, persist):
    X, y, _ = problem()
    options = {"C": 0.02, "l1_ratio": 0.9, "tol": 1e-9}
    local = xent.LogisticRegression(**options).fit(X, y)
    model = xent.dask.LogisticRegression(**options).fit(*arrays(X, y, 400), persist=persist)
    assert_same(model, local)
    np.testing.assert_array_equal(model.coef_ == 0, local.coef_ == 0)
    assert (model.coef_ == 0).any()


@pytest.mark.parametrize(
    "options",
    [
        {"class_weight": "balanced"},
        {"class_weight": {0: 3.0, 2: 0.5}},
        {"penalty": None},
        {"fit_intercept": False, "C": 0.01},
    ],
    ids=str,
)
def test_parameters(engine, options):
    X, y, weight = problem()
    local = xent.LogisticRegression(**TIGHT, **options).fit(X, y, weight)
    assert_same(xent.dask.LogisticRegression(**TIGHT, **options).fit(*arrays(X, y, 400, weight)), local)


@pytest.mark.parametrize("class_weight", [None, "balanced"])
def test_distributions(engine, class_weight):
    X, y, weight = problem()
    soft = 0.9 * np.eye(CLASSES)[y] + 0.1 / CLASSES
    local = xent.LogisticRegression(**TIGHT, class_weight=class_weight).fit(X, soft, weight)
    model = xent.dask.LogisticRegression(**TIGHT, class_weight=class_weight).fit(*arrays(X, soft, 400, weight))
    assert_same(model, local)
    assert model.score(*arrays(X, soft, 400)) == pytest.approx(local.score(X, soft), rel=1e-12)


def test_distributions_in_a_frame(engine):
    frame = dd.from_pandas(TABLE.assign(**{f"p{k}": 0.9 * (TABLE.y == k) + 0.05 for k in range(2)}), npartitions=5)
    soft = ["p0", "p1"]
    model = fit(frame[F], frame[soft])
    np.testing.assert_allclose(model.coef_, fit(frame[F], frame[soft].to_dask_array(lengths=True)).coef_, atol=1e-9)
    assert model.score(frame[F], frame[soft]) > 0.9


@pytest.mark.parametrize(
    "labels", [["no", "maybe", "certainly", "never"], [10, -5, 7, 1000], [b"a", b"bb", b"c", b"d"]], ids=str
)
def test_labels_of_any_type(both, labels):
    X, y, _ = problem()
    y = np.array(labels)[y]
    local = xent.LogisticRegression(**TIGHT).fit(X, y)
    dX, dy = arrays(X, y, 400)
    model = xent.dask.LogisticRegression(**TIGHT).fit(dX, dy)
    assert_same(model, local)
    np.testing.assert_array_equal(model.predict(dX).compute(), local.predict(X))


@pytest.mark.parametrize("kind", ["string[pyarrow]", "category", object])
def test_labels_of_frames(engine, kind):
    frame = dd.from_pandas(TABLE, npartitions=5)
    labels = frame["s"].astype(kind)
    model = fit(frame[F], labels, frame["w"])
    assert_same(model, local_fit(TABLE, "s"))
    assert model.score(frame[F], labels, frame["w"]) == local_fit(TABLE).score(TABLE[F], TABLE["y"], TABLE["w"])


def features_of(kind, X):
    """X in three partitions, whose lengths are known or not."""
    array = da.from_array(X, chunks=(600, X.shape[1]))
    if kind == "frame":
        return dd.from_pandas(pandas.DataFrame(X, columns=list("abcdef")), npartitions=3)
    if kind == "unknown":
        return array[da.ones(len(X), chunks=600, dtype=bool)]
    return list(array.to_delayed().ravel()) if kind == "delayed" else array


IN_MEMORY = {
    "array": np.asarray,
    "list": list,
    "series": pandas.Series,
    "nullable": lambda values: pandas.Series(values).convert_dtypes(),
    "category": lambda values: pandas.Series(pandas.Categorical(values)),
    "polars": polars.Series,
    "arrow": pyarrow.array,
    "chunked": lambda values: pyarrow.chunked_array([values[:100], values[100:]]),
}


OTHERS = itertools.product(["unknown", "frame", "delayed"], ["list", "series"])


@pytest.mark.parametrize(("features", "kind"), [*(("array", kind) for kind in IN_MEMORY), *OTHERS])
def test_labels_and_weights_in_memory(engine, features, kind):
    X, y, weight = problem()
    y = np.array(["a", "b", "c", "d"])[y]
    local = xent.LogisticRegression(**QUICK).fit(X, y, weight)
    given, labels = features_of(features, X), IN_MEMORY[kind](y)
    weights = IN_MEMORY["list" if kind == "category" else kind](weight)
    model = xent.dask.LogisticRegression(**QUICK).fit(given, labels, weights)
    np.testing.assert_allclose(model.coef_, local.coef_, rtol=0, atol=1e-6)
    assert model.classes_.tolist() == list("abcd")
    assert model.score(given, labels, weights) == pytest.approx(local.score(X, y, weight))


@pytest.mark.parametrize("kind", ["array", "pandas", "polars", "arrow"])
def test_distributions_and_tables_in_memory(engine, kind):
    X, y, _ = problem()
    columns = {name: np.eye(CLASSES)[y][:, k] for k, name in enumerate("pqrs")}
    make = {
        "array": lambda columns: np.column_stack(list(columns.values())),
        "pandas": pandas.DataFrame,
        "polars": polars.DataFrame,
        "arrow": pyarrow.table,
    }[kind]
    local = xent.LogisticRegression(**QUICK).fit(X, y)
    model = xent.dask.LogisticRegression(**QUICK).fit(features_of("unknown", X), make(columns))
    np.testing.assert_allclose(model.coef_, local.coef_, rtol=0, atol=1e-6)
    with pytest.warns(UserWarning, match="A column-vector y was passed"):
        model.fit(features_of("unknown", X), make({"y": y}))
    np.testing.assert_allclose(model.coef_, local.coef_, rtol=0, atol=1e-6)


@pytest.mark.parametrize("persist", [True, False])
@pytest.mark.parametrize("features", ["array", "unknown", "frame", "delayed"])
def test_one_weight_for_every_row(engine, features, persist):
    X, y, _ = problem()
    local = xent.LogisticRegression(**QUICK).fit(X, y, 2.0)
    given, labels = features_of(features, X), da.from_array(y, chunks=500)
    model = xent.dask.LogisticRegression(**QUICK).fit(given, labels, 2.0, persist=persist)
    np.testing.assert_allclose(model.coef_, local.coef_, rtol=0, atol=1e-6)
    for weight in (2, np.float32(2), np.array(2), da.from_array(2.0)):
        assert model.score(given, labels, weight) == pytest.approx(local.score(X, y))


@pytest.mark.parametrize("features", ["array", "unknown", "frame", "delayed"])
def test_labels_in_memory_that_do_not_fit(engine, features):
    X, y, weight = problem()
    given, model = features_of(features, X), xent.dask.LogisticRegression(**QUICK)
    for call in (model.fit, model.fit(given, y).score):
        with pytest.raises(ValueError, match="y has 1499 rows, but X has 1500 rows in 3 partitions; both must"):
            call(given, y[:-1])
        with pytest.raises(ValueError, match="sample_weight has 1499 rows, but X has 1500 rows in 3 partitions; both"):
            call(given, y, weight[:-1])
        with pytest.raises(ValueError, match=r"^sample_weight is -1; weights must be finite and at least 0"):
            call(given, y, -1)
        with pytest.raises((TypeError, ValueError), match=r"^partition \d: y has labels"):
            call(given, [*y[:-1], "text"])


def test_a_table_of_one_column_is_that_column(engine):
    frame = dd.from_pandas(TABLE, npartitions=5)
    for y in (frame[["y"]], da.from_array(TABLE[["y"]].to_numpy(), chunks=(400, 1)), TABLE[["y"]]):
        with pytest.warns(UserWarning, match="column-vector y"):
            model = fit(frame[F], y, frame["w"])
        assert_same(model, local_fit(TABLE))


def test_two_classes_in_partitions_of_one_class_each(engine):
    X, y, _ = problem()
    y = np.sort(y > 1)
    dX, dy = arrays(X, y, 500)
    model = xent.dask.LogisticRegression(**TIGHT).fit(dX, dy)
    local = xent.LogisticRegression(**TIGHT).fit(X, y)
    assert_same(model, local)
    assert model.coef_.shape == (1, FEATURES)
    np.testing.assert_allclose(model.decision_function(dX).compute(), local.decision_function(X), atol=1e-6)


def test_classes_given(engine):
    X, y, _ = problem()
    model = xent.dask.LogisticRegression().fit(*arrays(X, y, 400), classes=[7, *range(CLASSES)])
    np.testing.assert_array_equal(model.classes_, [0, 1, 2, 3, 7])
    with pytest.raises(ValueError, match=r"^partition \d: y\[\d+\] is 3, which is not one of the classes"):
        xent.dask.LogisticRegression().fit(*arrays(X, y, 400), classes=[0, 1, 2])


def test_sparse_blocks(both):
    sparse = pytest.importorskip("scipy.sparse")
    X, y, _ = problem()
    X = np.where(np.abs(X) > 1, X, 0)
    dX, dy = arrays(X, y, 400)
    dX = dX.map_blocks(sparse.csr_matrix)
    local = xent.LogisticRegression(**TIGHT).fit(sparse.csr_matrix(X), y)
    model = xent.dask.LogisticRegression(**TIGHT).fit(dX, dy)
    assert_same(model, local)
    np.testing.assert_allclose(model.predict_proba(dX).compute(), local.predict_proba(X), atol=1e-6)


def test_frames(both):
    X, y, weight = problem()
    frame = pandas.DataFrame(X, columns=list("abcdef"))
    y = pandas.Series(np.array(["w", "x", "y", "z"])[y])
    dX, dy, dw = (dd.from_pandas(v, npartitions=3) for v in (frame, y, pandas.Series(weight)))
    local = xent.LogisticRegression(**TIGHT).fit(frame, y, weight)
    model = xent.dask.LogisticRegression(**TIGHT).fit(dX, dy, dw)
    assert_same(model, local)
    assert list(model.feature_names_in_) == list("abcdef")
    assert list(model.predict(dX).compute()) == list(local.predict(frame))
    assert model.score(dX, dy, dw) == pytest.approx(local.score(frame, y, weight), rel=1e-12)


def test_partitions_that_are_empty(engine):
    frame = dd.from_pandas(TABLE, npartitions=6)
    frame = frame[frame.k < 500]
    for persist in (True, False):
        model = fit(frame[F], frame["y"], frame["w"], persist=persist)
        assert_same(model, local_fit(TABLE[:500]))
    assert model.predict(frame[F]).compute().shape == (500,)


def test_prediction(engine):
    X, y, weight = problem(np.float32)
    dX, dy, dw = arrays(X, y, (700, 0, 800), weight)
    model = xent.dask.LogisticRegression().fit(dX, dy)
    local = xent.LogisticRegression()
    local.__dict__.update(model.__dict__)
    for method in ("predict", "predict_proba", "predict_log_proba", "decision_function"):
        lazy, expected = getattr(model, method)(dX), getattr(local, method)(X)
        assert lazy.shape == expected.shape
        assert lazy.dtype == expected.dtype
        np.testing.assert_allclose(lazy.compute(), expected, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(getattr(model, method)(X), expected)
    assert model.score(dX, dy, dw) == pytest.approx(local.score(X, y, weight), rel=1e-12)


def test_predictions_of_one_frame(engine):
    frame = dd.from_pandas(TABLE, npartitions=5).map_partitions(shuffled)
    model = fit(frame[F], frame["s"])
    labels, probabilities = dask.compute(model.predict(frame[F]), model.predict_proba(frame[F]))
    np.testing.assert_array_equal(model.classes_[probabilities.argmax(axis=1)], labels)
    assert labels.shape == (len(TABLE),)


def test_half_precision(engine):
    """Computed in float32, in which the results are."""
    X, y, _ = problem(np.float16)
    local = xent.LogisticRegression(C=0.001, tol=1e-6).fit(X.astype(np.float32), y)
    for given in (arrays(X, y, 400)[0], dd.from_pandas(pandas.DataFrame(X, columns=list("abcdef")), npartitions=3)):
        model = xent.dask.LogisticRegression(C=0.001, tol=1e-6).fit(given, y)
        assert_same(model, local)
        for method in ("decision_function", "predict_proba", "predict_log_proba"):
            found = getattr(model, method)(given)
            assert found.dtype == found.compute().dtype == np.float32
        assert model.score(given, y) == pytest.approx(local.score(X, y))


@pytest.mark.parametrize("persist", [True, False])
@pytest.mark.parametrize("kind", ["hessian", "sandwich"])
def test_covariance(both, kind, persist):
    X, y, weight = problem()
    local = xent.LogisticRegression(C=np.inf, **TIGHT).fit(X, y, weight)
    expected = local.covariance(X, y, weight, kind)
    model = xent.dask.LogisticRegression(C=np.inf, **TIGHT).fit(X, y, weight)
    for given in (arrays(X, y, 400, weight), (features_of("unknown", X), y, pandas.Series(weight)), (X, y, weight)):
        options = {} if given[0] is X else {"persist": persist}
        np.testing.assert_allclose(model.covariance(*given, kind, **options), expected, rtol=1e-9, atol=1e-13)
    blocks = xent.Blocks.from_arrays(X, y, weight, rows=400)
    np.testing.assert_allclose(model.covariance(blocks, kind=kind), expected, rtol=1e-9, atol=1e-13)
    assert model.score(blocks) == pytest.approx(local.score(X, y, weight))
    np.testing.assert_array_equal(model.predict(blocks), local.predict(X))
    delayed = [dask.delayed((X[cut], y[cut], weight[cut])) for cut in (slice(700), slice(700, ROWS))]
    np.testing.assert_allclose(model.covariance(delayed, kind=kind, persist=persist), expected, rtol=1e-9, atol=1e-13)


def test_where_there_is_no_covariance(engine):
    X, y, weight = problem()
    dX, dy, dw = arrays(X, y, 400, weight)
    with pytest.raises(xent.NotFittedError):
        xent.dask.LogisticRegression(C=np.inf).covariance(dX, dy)
    model = xent.dask.LogisticRegression().fit(dX, dy)
    with pytest.raises(ValueError, match=r"^C is 1.0; the covariance is that of a fit without a penalty"):
        model.covariance(dX, dy)
    model = xent.dask.LogisticRegression(C=np.inf, **TIGHT).fit(dX, dy)
    with pytest.raises(ValueError, match="kind is 'HC0'"):
        model.covariance(dX, dy, kind="HC0")
    with pytest.raises(ValueError, match="retries is -1"):
        model.covariance(dX, dy, retries=-1)
    with pytest.raises(ValueError, match="X has 3 features, but LogisticRegression is expecting 6"):
        model.covariance(dX[:, :3], dy)
    with pytest.raises(ValueError, match=r"^partition \d: y\[\d+\] is 7, which is not one of the classes"):
        model.covariance(dX, da.where(dy > 0, dy, 7))
    with pytest.warns(xent.ConvergenceWarning, match="coef_ is not at the minimum for these data"):
        model.covariance(dX, dy, dw**4)
    constant = da.concatenate([dX[:, :5], da.ones((ROWS, 1), chunks=(400, 1))], axis=1)
    model.fit(constant, dy)
    with pytest.raises(ValueError, match=r"the Hessian is singular: column 5, the intercept \(a column of ones\) are"):
        model.covariance(constant, dy)
    sign = da.from_array(((y == 0) & (X[:, 0] > 1)).astype(float)[:, None], chunks=(400, 1))
    separated = da.concatenate([dX, sign], axis=1)
    model.fit(separated, dy)
    with pytest.warns(xent.ConvergenceWarning, match=r"would change the logits of \d+ rows by more than 0.5"):
        model.covariance(separated, dy)


def test_save_and_load(tmp_path, two_workers):
    X, y, _ = problem()
    with two_workers.as_current():
        model = xent.dask.LogisticRegression(C=0.5).fit(*arrays(X, y, 400))
    model.save(tmp_path / "model.npz")
    np.testing.assert_array_equal(xent.LogisticRegression.load(tmp_path / "model.npz").coef_, model.coef_)


# --- what is wrong ---------------------------------------------------------------------------------------------------


def test_errors_name_the_partition(both):
    X, y, weight = problem()
    model = xent.dask.LogisticRegression().fit(*arrays(X, y, 400))
    before = model.coef_.copy()
    spoilt = X.copy()
    spoilt[450, 3] = np.nan
    with pytest.raises(ValueError, match=r"^partition 1: X\[50, 3\] is nan"):
        model.fit(*arrays(spoilt, y, 400))
    with pytest.raises(ValueError, match=r"^partition 2: sample_weight\[\d+\] is -1"):
        model.fit(*arrays(X, y, 400, np.where(np.arange(ROWS) == 1000, -1, weight)))
    parts = [dask.delayed((X[:500], y[:500])), dask.delayed((X[500:, :3], y[500:]))]
    with pytest.raises(ValueError, match="partition 1 has 3 features, but partition 0 has 6"):
        model.fit(parts)
    with pytest.raises(ValueError, match=r"^partition 1: y has shape"):
        model.fit([parts[0], dask.delayed((X[500:], y[:500]))])
    with pytest.raises(TypeError, match="string labels in partition 1, but number labels in partition 0; they must"):
        model.fit([parts[0], dask.delayed((X[500:], y[500:].astype(str)))])
    with pytest.raises(ValueError, match=r"is labels in partition 1, but distributions"):
        model.fit([dask.delayed((X[:500], np.eye(CLASSES)[y[:500]])), dask.delayed((X[500:], y[500:]))])
    with pytest.raises(TypeError, match=r"^partition 0 is a ndarray; without y it must be"):
        model.fit([dask.delayed(X)])
    with pytest.raises(ValueError, match="one class only, 0"):
        model.fit(*arrays(X, np.zeros(ROWS, int), 400))
    with pytest.raises(ValueError, match="no rows"):
        model.fit([dask.delayed((X[:0], y[:0]))])
    np.testing.assert_array_equal(model.coef_, before)


def test_arguments_are_checked():
    X, y, _ = problem()
    dX, dy = arrays(X, y, 400)
    model = xent.dask.LogisticRegression()
    with pytest.raises(ValueError, match="target y is None"):
        model.fit(dX)
    with pytest.raises(ValueError, match="C is -1"):
        xent.dask.LogisticRegression(C=-1).fit(dX, dy)
    with pytest.raises(ValueError, match="checkpoint_every is 0"):
        model.fit(dX, dy, checkpoint_every=0)
    with pytest.raises(ValueError, match="retries is -1"):
        model.fit(dX, dy, retries=-1)
    with pytest.raises(ValueError, match="y has 100 rows, but X has 1500 rows in 4 partitions; both must have"):
        model.fit(dX, dy[:100])
    with pytest.raises(ValueError, match="y has 3000 rows in 2 partitions, but X has 1500 rows; both must have"):
        model.fit([dask.delayed(X)], [dask.delayed(y), dask.delayed(y)])
    with pytest.raises(TypeError, match="logits is a ndarray"):
        xent.dask.evaluate(X, y)
    with pytest.raises(AttributeError, match="not fitted"):
        model.predict(dX)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda y: y.astype(str), ValueError, r"y has string labels, such as '\d'; they must be number labels"),
        (lambda y: y + 0.5, ValueError, r"y\[0\] is \d.5; labels must be integers, bools, strings, bytes or dates"),
        (lambda y: y.where(y.index != 700), ValueError, r"y\[\d+\] is nan; labels must be"),
        (lambda y: y.astype(object).where(y.index != 700, None), ValueError, "y has labels of type"),
        (lambda y: y.astype("datetime64[ns]"), ValueError, "y has date labels, such as"),
        (lambda y: y + 1j, ValueError, "y is complex"),
    ],
)
def test_targets_that_do_not_belong(engine, change, error, message):
    y = change(TABLE["y"])
    frame = dd.from_pandas(TABLE, npartitions=5)
    model = fit(frame[F], frame["y"])
    weight = dd.from_pandas(TABLE["w"] * 0, npartitions=5)
    with dask.config.set({"dataframe.convert-string": False}):
        given = dd.from_pandas(y, npartitions=5)
    for labels in (given, da.from_array(y.to_numpy(), chunks=500)):
        with pytest.raises(error, match=rf"^partition \d: {message}"):
            model.score(frame[F], labels, weight)


def test_strings_and_numbers_of_any_type_belong(engine):
    X = da.from_array(TABLE[F].to_numpy(), chunks=(500, 4))
    right = local_fit(TABLE).score(TABLE[F], TABLE["y"])
    model = fit(X, da.from_array(TABLE["y"].to_numpy(), chunks=500), TABLE["w"])
    for kind in (np.int8, np.float64, np.float16):
        assert model.score(X, TABLE["y"].astype(kind)) == pytest.approx(right, rel=1e-12)
    assert model.score(X, TABLE["y"].to_numpy() + 100) == 0      # labels, though none of the classes
    model = fit(X, TABLE["s"].to_numpy().astype(str), TABLE["w"])
    for labels in (TABLE["s"], TABLE["s"].astype(object), TABLE["s"].to_numpy().astype(str)):
        assert model.score(X, labels) == pytest.approx(right, rel=1e-12)
    with pytest.raises(ValueError, match="y has number labels, such as 0; they must be string labels, as the classes"):
        model.score(X, TABLE["y"])


@pytest.mark.parametrize("persist", [True, False])
def test_expansions_of_partitions_add_up(both, monkeypatch, persist):
    X, y, weight = problem()
    sums = []
    monkeypatch.setattr(xent.dask.LogisticRegression, "_fit", lambda self, data, *_: sums.append(data.sums) or self)
    xent.dask.LogisticRegression().fit(*arrays(X, y, 400, weight), persist=persist)
    matrix = np.random.default_rng(0).normal(size=(CLASSES, FEATURES + 1))
    local = RowSums(X, y, CLASSES, weight)
    for found, expected in zip(sums[0].expand(matrix), local.expand(matrix), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-10)
