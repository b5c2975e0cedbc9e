"""Parquet files as blocks: columns by name, errors that name the file."""

import numpy as np
import pytest

import xent
from xent import Blocks

pyarrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")


@pytest.fixture
def folder(tmp_path):
    """Features a to d, labels and weights in two files of several row groups; with the arrays."""
    random = np.random.default_rng(0)
    X, y, weight = random.normal(size=(1200, 4)), random.integers(0, 3, 1200), random.uniform(0, 2, 1200)
    y = np.array(["p", "q", "r"])[y]
    table = pyarrow.table({"label": y, **dict(zip("abcd", X.T, strict=True)), "weight": weight})
    parquet.write_table(table[:700], tmp_path / "0.parquet", row_group_size=250)
    parquet.write_table(table[700:], tmp_path / "1.parquet", row_group_size=250)
    return tmp_path, X, y.astype(object), weight


def test_a_block_for_each_row_group(folder):
    path, X, y, weight = folder
    blocks = Blocks.from_parquet(path, target="label", sample_weight="weight", dtype=np.float64)
    assert len(list(blocks)) == 5
    model = xent.LogisticRegression(tol=1e-10).fit(blocks)
    local = xent.LogisticRegression(tol=1e-10).fit(X, y, weight)
    assert model.objective_ == pytest.approx(local.objective_, rel=1e-12)
    np.testing.assert_allclose(model.coef_, local.coef_, rtol=0, atol=1e-7)
    np.testing.assert_allclose(model.intercept_, local.intercept_, rtol=0, atol=1e-7)
    np.testing.assert_array_equal(model.classes_, local.classes_)
    assert model.coef_.dtype == local.coef_.dtype
    assert list(model.feature_names_in_) == list("abcd")
    two = Blocks.from_parquet(path / "0.parquet", target="label", features=["c", "a"])
    assert list(xent.LogisticRegression().fit(two).feature_names_in_) == ["c", "a"]


def test_damaged_files_are_named(folder):
    blocks = Blocks.from_parquet(folder[0], target="label")
    file = folder[0] / "1.parquet"
    content = file.read_bytes()
    file.write_bytes(content[:4] + b"\xff" * 8 + content[12:])
    with pytest.raises(OSError, match=r"^row group 0 of .*1\.parquet': "):
        xent.LogisticRegression().fit(blocks)
    file.write_bytes(content[:-300] + b"\xff" * 8 + content[-292:])
    with pytest.raises((OSError, ValueError), match=r"^'.*1\.parquet': "):
        xent.LogisticRegression().fit(blocks)
    file.write_bytes(b"no file of Parquet")
    with pytest.raises(ValueError, match=r"^'.*1\.parquet': "):
        xent.LogisticRegression().fit(blocks)


def test_columns_are_found_by_name(tmp_path):
    random = np.random.default_rng(0)
    X, y = random.normal(size=(60, 3)), random.integers(0, 2, 60)
    data = {**dict(zip("abc", X.T, strict=True)), "y": y}
    parquet.write_table(pyarrow.table({k: v[:30] for k, v in data.items()}), tmp_path / "0.parquet")
    parquet.write_table(pyarrow.table({k: data[k][30:] for k in "cyba"}), tmp_path / "1.parquet")
    model = xent.LogisticRegression(tol=1e-8).fit(Blocks.from_parquet(tmp_path, target="y", dtype=np.float64))
    np.testing.assert_allclose(model.coef_, xent.LogisticRegression(tol=1e-8).fit(X, y).coef_, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.drop_columns("b"), r"1\.parquet' has no column 'b'; available: \['a', 'y'\]"),
        (lambda t: t.drop_columns("y"), r"1\.parquet' has no column 'y'; available"),
        (lambda t: t.append_column("b", t["a"]), r"1\.parquet' has 2 columns 'b'; it must have one"),
        (
            lambda t: t.set_column(1, "b", [["x"] * 6]),
            r"row group 0 of '.*1\.parquet': X\[0, 1\] is 'x' in column 'b'; it must be a real number, not a string",
        ),
        (lambda t: t.set_column(1, "b", [[1e300] * 6]), r"column 'b' of X has numbers that are too large for float32"),
        (
            lambda t: t.set_column(2, "y", [[0, 1, 0, None, 1, 0]]),
            r"^block 1 \(row group 0 of '.*1\.parquet'\): y\[3\] is nan; labels must be",
        ),
        (lambda t: t.set_column(2, "y", [["0"] * 6]), r"has string labels in block 1 .* but number labels in block 0"),
    ],
)
def test_files_that_do_not_fit_together(change, message, tmp_path):
    table = pyarrow.table({"a": np.arange(6.0), "b": np.arange(6), "y": [0, 1] * 3})
    parquet.write_table(table, tmp_path / "0.parquet")
    parquet.write_table(change(table), tmp_path / "1.parquet")
    with pytest.raises((TypeError, ValueError), match=message):
        xent.LogisticRegression().fit(Blocks.from_parquet(tmp_path, target="y"))


def test_arguments_of_from_parquet(tmp_path):
    file = tmp_path / "a.parquet"
    parquet.write_table(pyarrow.table({"a": np.arange(6.0), "y": [0, 1] * 3}), file)
    for options, message in (
        ({"target": "z"}, r"has no column 'z'; available: \['a', 'y'\]"),
        ({"target": "y", "features": "a"}, "features is 'a', a string; it must be a sequence"),
        ({"target": "y", "features": ["a", "y"]}, "features has 'y', which is the target; it must not be a feature"),
        ({"target": "y", "dtype": np.int32}, "dtype is int32; it must be float32 or float64"),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            Blocks.from_parquet(file, **options)
    with pytest.raises(ValueError, match=r"contains no \*\.parquet files"):
        Blocks.from_parquet([], target="y")
    file.write_bytes(b"no file of Parquet")
    with pytest.raises(ValueError, match=r"^'.*a\.parquet': "):
        Blocks.from_parquet(file, target="y")
