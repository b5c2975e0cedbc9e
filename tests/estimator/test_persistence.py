"""Saving and loading: the same estimator comes back, or an error; a file is whole or not there."""

import datetime
import io
import json
import os
import pickle
import stat
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest

import xent
from xent._estimator import persistence
from xent._estimator.checkpoint import Checkpoint

X = np.random.default_rng(0).normal(size=(60, 4))
Y = np.arange(60) % 3
LABELS = {
    "int": np.array([-5, 0, 1 << 40]),
    "uint8": np.array([1, 2, 3], np.uint8),
    "float": np.array([0.0, 1.0, 2.0], np.float32),
    "str": np.array(["ash", "birch", "çédar"]),
    "object": np.array(["ash", "birch", "cedar"], object),
    "bytes": np.array([b"a", b"b", b"c"]),
    "date": np.array(["2020-01-01", "2021-01-01", "2022-01-01"], "M8[D]"),
    "duration": np.array([1, 2, 3], "m8[s]"),
}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.npz"


def same(a, b):
    assert a.get_params() == b.get_params()
    names = {name for name in vars(a) if name.endswith("_")}
    assert names == {name for name in vars(b) if name.endswith("_")}
    for name in names:
        one, two = getattr(a, name), getattr(b, name)
        assert type(one) is type(two), name
        assert getattr(one, "dtype", None) == getattr(two, "dtype", None), name
        np.testing.assert_array_equal(one, two)
    np.testing.assert_array_equal(a.predict_proba(X), b.predict_proba(X))


@pytest.mark.parametrize("kind", LABELS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_what_is_loaded_is_what_was_saved(path, kind, dtype):
    model = xent.LogisticRegression(C=2.5, class_weight={LABELS[kind][0]: 2.0}, max_iter=77, tol=1e-3)
    model.fit(X.astype(dtype), LABELS[kind][Y])
    model.save(path)
    same(xent.LogisticRegression.load(path), model)


def test_bools_no_penalty_and_two_classes(path):
    model = xent.LogisticRegression(C=np.inf, penalty=None, class_weight="balanced", n_jobs=2).fit(X, Y > 0)
    model.save(str(path))
    same(xent.LogisticRegression.load(str(path)), model)


def test_feature_names(path):
    pandas = pytest.importorskip("pandas")
    model = xent.LogisticRegression().fit(pandas.DataFrame(X, columns=list("abcd")), Y)
    model.save(path)
    twin = xent.LogisticRegression.load(path)
    np.testing.assert_array_equal(twin.feature_names_in_, model.feature_names_in_)
    assert twin.feature_names_in_.dtype == object


def test_a_stream_goes_on(path):
    model = xent.LogisticRegression().partial_fit(X[:30], Y[:30], classes=[0, 1, 2])
    model.save(path)
    twin = xent.LogisticRegression.load(path).partial_fit(X[30:], Y[30:])
    same(twin, model.partial_fit(X[30:], Y[30:]))


def test_the_file_is_plain_and_always_the_same(path, tmp_path):
    model = xent.LogisticRegression().fit(X, Y)
    model.save(path)
    model.save(tmp_path / "again")
    assert path.read_bytes() == (tmp_path / "again").read_bytes()
    with np.load(path, allow_pickle=False) as arrays:
        np.testing.assert_array_equal(arrays["coef"], model.coef_)
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask


def test_what_cannot_be_saved_leaves_the_old_file(path):
    xent.LogisticRegression().fit(X, Y).save(path)
    before = path.read_bytes()
    model = xent.LogisticRegression().fit(X, Y)
    model.classes_ = np.array([datetime.date(2020, 1, 1 + i) for i in range(3)], object)
    with pytest.raises(ValueError, match="classes_ has dtype object; only numbers"):
        model.save(path)
    with pytest.raises(ValueError, match=r"random_state is .*RandomState.*; only numbers"):
        xent.LogisticRegression(random_state=np.random.RandomState(0)).fit(X, Y).save(path)
    with pytest.raises(xent.NotFittedError):
        xent.LogisticRegression().save(path)
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failure_on_the_way_leaves_the_old_file(path, monkeypatch, step):
    model = xent.LogisticRegression().fit(X, Y)
    model.save(path)
    before = path.read_bytes()

    def fail(*arguments):
        raise OSError("the disk is full")

    monkeypatch.setattr(f"os.{step}", fail)
    with pytest.raises(OSError, match="the disk is full"):
        model.fit(X, 2 - Y).save(path)
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


def test_a_link_stays_a_link(path, tmp_path):
    path.write_bytes(b"old")
    link = tmp_path / "link"
    link.symlink_to(path)
    xent.LogisticRegression().fit(X, Y).save(link)
    assert link.is_symlink()
    xent.LogisticRegression.load(path)


def test_every_cut_and_many_damages_are_found(path):
    """A damaged file gives the same estimator (where the byte has no meaning), or a ValueError that names the file."""
    model = xent.LogisticRegression().fit(X, Y)
    model.save(path)
    whole = path.read_bytes()
    for size in [*range(0, len(whole), 97), len(whole) - 1]:
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match=r"model\.npz' is damaged"):
            xent.LogisticRegression.load(path)
    rng = np.random.default_rng(1)
    found = 0
    for place in range(0, len(whole), 7):
        damaged = bytearray(whole)
        damaged[place] ^= int(rng.integers(1, 256))
        path.write_bytes(damaged)
        try:
            same(xent.LogisticRegression.load(path), model)
        except ValueError as error:
            assert "model.npz'" in str(error)       # noqa: PT017
            found += 1
    assert found > 0.8 * len(whole) / 7


def archive(**members):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        for name, data in members.items():
            file.writestr(name + ".npy", data)
    return stream.getvalue()


def npy(array):
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


FOREIGN = {
    "empty": b"",
    "text": b"C,1.0\n",
    "pickle": pickle.dumps({"C": 1.0}),
    "zip": archive(),
    "other arrays": archive(coef=npy(np.eye(2))),
    "objects": archive(description=npy(np.array([{"kind": 1}], object))),
    "no JSON": archive(description=npy(np.zeros(3, np.uint8))),
    "JSON of something": archive(description=npy(np.frombuffer(b'{"a": 1}', np.uint8))),
    "a list": archive(description=npy(np.frombuffer(b"[1]", np.uint8))),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_foreign_files(path, kind):
    path.write_bytes(FOREIGN[kind])
    with pytest.raises(ValueError, match=r"model\.npz' is damaged, or not a file of xent"):
        xent.LogisticRegression.load(path)


def rewritten(path, change):
    """Change the members of a file, as another version, or somebody, might have written them."""
    with np.load(path) as file:
        members = dict(file)
    text = members["description"].tobytes().decode()
    members["description"], arrays = change(text, members)
    members["description"] = np.frombuffer(members["description"].encode(), np.uint8)
    members.update(arrays)
    with open(path, "wb") as file:
        np.savez(file, **members)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text, arrays: (text.replace("xent.LogisticRegression", "x"), {}), "holds a x; it must hold a xent"),
        (lambda text, arrays: (text.replace('"version": 1', '"version": 2'), {}), "has version 2 of the format"),
        (lambda text, arrays: (text.replace('"C"', '"D"'), {}), "unexpected keyword argument 'D'"),
        (lambda text, arrays: (text.replace('"_seen"', '"seen"'), {}), "_seen"),
        (lambda text, arrays: (text, {"coef": np.zeros((3, 5))}), "shapes of its arrays are inconsistent"),
        (lambda text, arrays: (text, {"classes": np.arange(4)}), "shapes of its arrays are inconsistent"),
        (lambda text, arrays: (text, {"coef": np.array([["a"] * 4] * 3)}), "coef has dtype"),
        (lambda text, arrays: (text, {k: arrays[k][:1] for k in ("classes", "coef", "intercept")}), "at least two"),
        (lambda text, arrays: (text, {"classes": arrays["classes"][::-1]}), "different labels in order"),
        (lambda text, arrays: (text, {"classes": arrays["classes"][None]}), "at least two"),
    ],
)
def test_files_that_do_not_fit_together(path, change, message):
    xent.LogisticRegression().fit(X, Y).save(path)
    rewritten(path, change)
    with pytest.raises(ValueError, match=message):
        xent.LogisticRegression.load(path)


PARAMETERS = [{"time": ["<M8[D]", 1 << 70]}, {"time": ["U1(", 1]}, {"dict": 5}, {"dict": [[1]]}, {"bytes": "\u1234"}]


@pytest.mark.parametrize("parameter", PARAMETERS, ids=str)
def test_parameters_that_are_nothing(path, parameter):
    xent.LogisticRegression().fit(X, Y).save(path)
    rewritten(path, lambda text, arrays: (text.replace('"C": 1.0', f'"C": {json.dumps(parameter)}'), {}))
    with pytest.raises(ValueError, match=r"model\.npz' is damaged"):
        xent.LogisticRegression.load(path)


HEADERS = ["(", "{'descr': '<f8', ", "{'descr': '<f8', 'fortran_order': False, 'shape': (1 << 2,)}", "'\0'", "{1: 2}"]


@pytest.mark.parametrize("header", HEADERS)
@pytest.mark.parametrize("version", [1, 2, 3])
def test_headers_that_are_nothing(path, header, version):
    """NumPy raises tokenize.TokenError or SyntaxError for some of them."""
    length = struct.pack("<H" if version == 1 else "<I", len(header))
    array = b"\x93NUMPY" + bytes([version, 0]) + length + header.encode()
    path.write_bytes(archive(description=array))
    with pytest.raises(ValueError, match=r"model\.npz' is damaged"):
        xent.LogisticRegression.load(path)


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_small_file_cannot_take_much_memory(path, method):
    """Compressed members are refused before they are read; xent writes none."""
    xent.LogisticRegression().fit(X, Y).save(path)
    with zipfile.ZipFile(path, "a", method) as file:
        file.writestr("more.npy", npy(np.zeros(1 << 21)))
    assert path.stat().st_size < 1 << 17
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"model\.npz' is damaged.*it is compressed"):
        xent.LogisticRegression.load(path)
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


CHECKPOINTS = {
    "no iterations": ({"problem": {}}, 1, "is damaged"),
    "iterations of another type": ({"problem": {}, "iterations": "balanced"}, 1, "is damaged"),
    "iterations before the first": ({"problem": {}, "iterations": -1}, 1, "is damaged"),
    "no problem": ({"iterations": 3}, 1, "is damaged"),
    "problem of another type": ({"problem": [], "iterations": 3}, 1, "is damaged"),
    "NaN": ({"problem": {"classes": ["0"]}, "iterations": 3}, np.nan, "not finite"),
    "another fit": ({"problem": {"classes": ["1"]}, "iterations": 3}, 1, "of another fit"),
}


@pytest.mark.parametrize("kind", CHECKPOINTS)
def test_checkpoints_that_are_nothing(path, kind):
    content, value, message = CHECKPOINTS[kind]
    persistence.write(path, "xent checkpoint", 1, content, {"coefficients": np.full((1, 2), value, np.float64)})
    with pytest.raises(ValueError, match=rf"model\.npz'.* {message}"):
        Checkpoint(path, 1, {}).resume(np.ones((1, 2)), np.arange(1))


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        xent.LogisticRegression.load(tmp_path / "none")
    with pytest.raises(FileNotFoundError):
        xent.LogisticRegression().fit(X, Y).save(tmp_path / "none" / "model.npz")
    with pytest.raises(IsADirectoryError):
        xent.LogisticRegression.load(tmp_path)


def test_pickle_works_too():
    model = xent.LogisticRegression().fit(X, Y)
    same(pickle.loads(pickle.dumps(model)), model)


def test_parameters_of_many_kinds(tmp_path):
    """What a fit takes, a file takes."""
    import datetime
    from fractions import Fraction
    from types import MappingProxyType

    y = np.array(["2020-01-01", "2020-01-02"], "M8[D]")[np.arange(20) % 2]
    X = np.arange(20.0)[:, None]
    for weight in ({datetime.date(2020, 1, 1): 2.0}, MappingProxyType({datetime.date(2020, 1, 1): Fraction(1, 2)})):
        model = xent.LogisticRegression(C=np.array(0.5), class_weight=weight).fit(X, y)
        model.save(tmp_path / "model.npz")
        again = xent.LogisticRegression.load(tmp_path / "model.npz")
        assert again.C == 0.5
        np.testing.assert_array_equal(again.fit(X, y).coef_, model.coef_)
