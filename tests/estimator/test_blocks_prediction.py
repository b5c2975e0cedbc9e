"""Prediction and scores of blocks: those of all rows together, with errors that name the block."""

import numpy as np
import pytest

import xent
from xent import Blocks

METHODS = ("decision_function", "predict", "predict_proba", "predict_log_proba")
RNG = np.random.default_rng(0)
X = RNG.normal(size=(300, 4))
Y = np.array(["a", "bb", "c"])[(X[:, :3] + RNG.gumbel(size=(300, 3))).argmax(axis=1)]
WEIGHT = RNG.uniform(0, 2, 300)
CUTS = [slice(0, 0), slice(0, 120), slice(120, 121), slice(121, 300), slice(300, 300)]


@pytest.fixture(params=[2, 3])
def model(request):
    keep = Y != "c" if request.param == 2 else slice(None)
    return xent.LogisticRegression().fit(X[keep], Y[keep])


@pytest.mark.parametrize("kind", ["X", "(X,)", "(X, y)", "(X, y, weight)", "sparse", "frame", "float32"])
def test_prediction_is_that_of_all_rows(model, kind):
    whole, blocks = X, [(X[cut],) for cut in CUTS]
    if kind == "X":
        blocks = [X[cut] for cut in CUTS]
    elif kind == "(X, y)":
        blocks = [(X[cut], ["unknown"] * len(Y[cut])) for cut in CUTS]     # labels are not looked at
    elif kind == "(X, y, weight)":
        blocks = [[X[cut], Y[cut], WEIGHT[cut]] for cut in CUTS]
    elif kind == "sparse":
        sparse = pytest.importorskip("scipy.sparse")
        blocks = [sparse.csr_array(X)[cut] for cut in CUTS]
    elif kind == "frame":
        pandas = pytest.importorskip("pandas")
        model.feature_names_in_ = np.array(list("pqrs"), object)
        whole = pandas.DataFrame(X, columns=list("pqrs"))
        blocks = [whole[cut] for cut in CUTS]
    elif kind == "float32":
        whole = X.astype(np.float32)
        blocks = [whole[cut] for cut in CUTS]
    for method in METHODS:
        found, expected = getattr(model, method)(Blocks(blocks)), getattr(model, method)(whole)
        assert found.dtype == expected.dtype
        assert found.shape == expected.shape
        if method == "predict":
            np.testing.assert_array_equal(found, expected)
        else:
            np.testing.assert_allclose(found, expected, rtol=1e-6 if kind == "float32" else 1e-13, atol=1e-7)


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("weight", [None, WEIGHT, WEIGHT * 8e307, WEIGHT * 1e-310, np.r_[np.zeros(200), WEIGHT[200:]]])
def test_scores(weight, soft):
    y = RNG.dirichlet(np.ones(3), 300) if soft else Y
    model = xent.LogisticRegression().fit(X, y)
    expected = model.score(X, y, weight)
    for rows in (300, 100, 7):
        assert model.score(Blocks.from_arrays(X, y, weight, rows=rows)) == pytest.approx(expected, rel=1e-12)


def test_scores_of_labels_that_are_no_classes(model):
    other = np.where(Y == "a", "zzz", Y)
    assert model.score(Blocks.from_arrays(X, other, rows=50)) == pytest.approx(model.score(X, other))


def test_parquet_files(tmp_path, model):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    table = pyarrow.table({**dict(zip("pqrs", X.T, strict=True)), "y": Y, "w": WEIGHT})
    parquet.write_table(table, tmp_path / "a.parquet", row_group_size=90)
    blocks = Blocks.from_parquet(tmp_path, target="y", sample_weight="w", dtype=np.float64)
    fitted = xent.LogisticRegression().fit(blocks)
    np.testing.assert_array_equal(fitted.predict(blocks), fitted.predict(table.select(list("pqrs"))))
    assert fitted.score(blocks) == pytest.approx(fitted.score(table.select(list("pqrs")), Y, WEIGHT))
    fitted.feature_names_in_ = np.array(list("pqrt"), object)
    with pytest.raises(ValueError, match=r"^block 0 \(row group 0 of .*a\.parquet'\): The feature names should match"):
        fitted.score(blocks)


@pytest.mark.parametrize("kind", ["arrays", "npz", "npy", "parquet"])
def test_rows_without_labels(tmp_path, model, kind):
    if kind == "arrays":
        blocks = Blocks.from_arrays(X, rows=70)
    elif kind == "parquet":
        pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        table = pyarrow.table({**dict(zip("pqrs", X.T, strict=True)), "extra": WEIGHT})
        parquet.write_table(table, tmp_path / "a.parquet", row_group_size=90)
        model.feature_names_in_ = np.array(list("pqrs"), object)
        blocks = Blocks.from_parquet(tmp_path, features=list("pqrs"), dtype=np.float64)
        with pytest.raises(ValueError, match=r"^block 0 \(row group 0 of .*\): The feature names should match"):
            model.predict(Blocks.from_parquet(tmp_path))
        with pytest.raises(ValueError, match="target is None, but sample_weight is 'extra'"):
            Blocks.from_parquet(tmp_path, sample_weight="extra")
    else:
        for i, cut in enumerate([slice(0, 200), slice(200, 300)]):
            if kind == "npz":
                np.savez(tmp_path / f"{i}.npz", X=X[cut])
            else:
                np.save(tmp_path / f"{i}.X.npy", X[cut])
        blocks = Blocks.from_folder(tmp_path)
    expected = model.coef_ @ X.T + model.intercept_[:, None]
    np.testing.assert_allclose(np.atleast_2d(model.decision_function(blocks).T), expected, rtol=1e-12, atol=1e-12)
    for call in (model.score, model.fit):
        with pytest.raises(TypeError, match=r"^block 0 .*has no y; it must be"):
            call(blocks)
    with pytest.raises(ValueError, match="y is None, but sample_weight is not"):
        Blocks.from_arrays(X, None, WEIGHT)


def test_each_block_is_read_once_and_then_forgotten(model):
    read, alive = [], []

    class Counted(np.ndarray):
        def __del__(self):
            alive.remove(id(self))

    def source():
        for i, cut in enumerate(CUTS):
            read.append(i)
            block = X[cut].view(Counted)
            alive.append(id(block))
            yield block, Y[cut]
            assert len(alive) <= 1
            del block

    for method in (*METHODS, "score"):
        read.clear()
        getattr(model, method)(Blocks(source))
        assert read == list(range(len(CUTS)))


# --- errors ----------------------------------------------------------------------------------------------------------


GOOD = (X[:10], Y[:10])
NAN = np.where(np.arange(40).reshape(10, 4) == 6, np.nan, X[:10])


@pytest.mark.parametrize(
    ("block", "error", "message"),
    [
        ((X[:10, :3], Y[:10]), ValueError, "^block 1: X has 3 features, but LogisticRegression is expecting 4"),
        ((NAN, Y[:10]), ValueError, r"^block 1: X\[1, 2\] is nan"),
        ((X[0], Y[:1]), ValueError, "^block 1: X has 1 dimensions"),
        ((X[:10], Y[:10], Y[:10], 1), TypeError, "^block 1 (has 4 elements|is a tuple); it must be"),
        ((), TypeError, "^block 1 (has 0 elements|is a tuple); it must be"),
        ("text", (TypeError, ValueError), "^block 1"),
    ],
)
def test_errors_name_the_block(block, error, message):
    model = xent.LogisticRegression().fit(X, Y)
    for method in (*METHODS, "score"):
        with pytest.raises(error, match=message):
            getattr(model, method)(Blocks([GOOD, block]))


@pytest.mark.parametrize(
    ("block", "error", "message"),
    [
        ((X[:10], Y[:9]), ValueError, r"^block 1: y has shape \(9,\); it must have shape \(10,\)"),
        ((X[:10], np.arange(10)), ValueError, "^block 1: y has number labels, such as 0; they must be string labels"),
        ((X[:10], np.full((10, 2), 0.5)), ValueError, "^block 1: y has 2 columns; it must have one for each class, 3"),
        ((X[:10], Y[:10], -np.ones(10)), ValueError, r"^block 1: sample_weight\[0\] is -1.0"),
        (X[:10], TypeError, r"^block 1 is a ndarray; it must be \(X, y\) or \(X, y, sample_weight\)"),
        ((X[:10],), TypeError, r"^block 1 has no y; it must be \(X, y\) or \(X, y, sample_weight\)"),
    ],
)
def test_errors_of_a_score(block, error, message):
    with pytest.raises(error, match=message):
        xent.LogisticRegression().fit(X, Y).score(Blocks([GOOD, block]))


def test_arguments_that_do_not_go_together():
    model, blocks = xent.LogisticRegression().fit(X, Y), Blocks([GOOD])
    for more in ({"y": Y}, {"sample_weight": WEIGHT}):
        with pytest.raises(ValueError, match="X is a Blocks, which includes y and sample_weight; both must be None"):
            model.score(blocks, **more)
    with pytest.raises(ValueError, match="requires y to be passed, but the target y is None"):
        model.score(X)
    with pytest.raises(TypeError, match="X is a Blocks; partial_fit takes one batch at a time"):
        model.partial_fit(blocks, Y)
    with pytest.raises(ValueError, match="sample_weight is 0 for every sample"):
        model.score(Blocks([(*GOOD, np.zeros(10))]))
    for empty in ([], [(X[:0], Y[:0])]):
        with pytest.raises(ValueError, match="there are no rows"):
            model.predict(Blocks(empty))
        with pytest.raises(ValueError, match="there are no rows"):
            model.score(Blocks(empty))
    for method in (*METHODS, "score"):
        with pytest.raises(xent.NotFittedError, match="not fitted yet"):
            getattr(xent.LogisticRegression(), method)(blocks)
    for nothing in (object(), iter([1])):
        with pytest.raises((TypeError, ValueError), match=r"^X(\[\])? is <"):
            model.predict(nothing)
