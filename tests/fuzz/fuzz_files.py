"""Files that are not what they say: saved models, checkpoints, folders of .npz and .npy, Parquet, and the digits.

A good file is damaged: bytes are changed, cut out or put in; or parts of an archive are (headers of arrays, members,
the description), under checksums that are right again. What reads it must return something that works, or raise an
error that names the file; it must not run code, nor take much more memory than the file has bytes.
"""

import contextlib
import importlib.resources
import io
import json
import os
import resource
import struct
import tempfile
import warnings
import zipfile
from pathlib import Path

import numpy as np
from fuzz_arrays import chance, pick

import xent
from xent._estimator.checkpoint import Checkpoint

try:
    import pyarrow
    import pyarrow.parquet
except ImportError:
    pyarrow = None

MORE_MEMORY = 1 << 30       # bytes, beyond those at the start: what a small file may make a process ask for
MOST_RESIDENT = 200 << 20   # and use
CANARY = "xent-fuzz-canary"     # a file that a pickle in a damaged file would make
CODE = f"cos\nsystem\n(S'touch {CANARY}'\ntR.".encode()
INTEGERS = (0, 1, 2, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 1 << 40, (1 << 63) - 1, (1 << 64) - 1)


# --- good files ------------------------------------------------------------------------------------------------------


def fit_models():
    """Files of models of several kinds."""
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(40, 3)), np.arange(40) % 3
    labels = [y, y > 0, np.array(["a", "bé", "c"])[y], np.array(["a", "b", "c"], object)[y], y.astype(np.float32),
              np.array(["2020-01-01", "2021-01-01", "2022-01-01"], "M8[D]")[y]]
    for k, target in enumerate(labels):
        options = {"class_weight": {target[0]: 2.0}} if k % 2 else {}
        model = xent.LogisticRegression(max_iter=5, tol=0.3, **options)
        yield model.fit(X.astype(np.float32) if k == 2 else X, target)
    yield xent.LogisticRegression().partial_fit(X, y, classes=[0, 1, 2])


def save_bytes(model, path):
    model.save(path)
    return path.read_bytes()


def make_files():
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = Path(folder, "file")
        models = [save_bytes(model, path) for model in fit_models()]
        path.unlink()
        checkpoint = Checkpoint(path, 1, PROBLEM)
        checkpoint.resume(START, CLASSES)
        checkpoint.write(7, START + 1)
        checkpoints = [path.read_bytes()]
        rng = np.random.default_rng(0)
        X, y = rng.normal(size=(20, 3)), np.arange(20) % 3
        archives = []
        for save in (np.savez, np.savez_compressed):
            for arrays in ({"X": X, "y": y}, {"X": X.astype(np.float32), "y": y, "sample_weight": np.ones(20)}):
                buffer = io.BytesIO()
                save(buffer, **arrays)
                archives.append(buffer.getvalue())
        buffer = io.BytesIO()
        np.save(buffer, X)
        tables = []
        if pyarrow:
            table = pyarrow.table({"a": X[:, 0], "b": X[:, 1].astype(np.float32), "c": y, "y": y % 2})
            for options in ({}, {"compression": "none"}, {"use_dictionary": False, "row_group_size": 7}):
                pyarrow.parquet.write_table(table, path, **options)
                tables.append(path.read_bytes())
        digits = importlib.resources.files("xent").joinpath("data", "digits.npz").read_bytes()
    return {
        "model": models, "checkpoint": checkpoints, "npz": archives, "npy": [buffer.getvalue()], "parquet": tables,
        "digits": [digits],
    }


START, CLASSES, PROBLEM = np.ones((3, 4)), np.arange(3), {"C": 1.0, "penalty": "l2"}
FILES = make_files()


# --- damage ----------------------------------------------------------------------------------------------------------


def change_bytes(rng, data):
    """A few changes, wherever they fall."""
    data = bytearray(data)
    for _ in range(int(pick(rng, (1, 1, 2, 5, 20)))):
        place = int(rng.integers(len(data) + 1))
        length = int(pick(rng, (1, 2, 4, 8, 100)))
        how = int(rng.integers(7))
        if how == 0 and place < len(data):
            data[place] ^= 1 << int(rng.integers(8))
        elif how == 1:
            data[place : place + length] = rng.bytes(length)
        elif how == 2:
            del data[place : place + length]
        elif how == 3:
            data[place:place] = rng.bytes(length)
        elif how == 4:
            value = pick(rng, INTEGERS)
            code = pick(rng, [c for c in ("<H", "<I", "<Q", ">I", ">Q") if value < 1 << 8 * struct.calcsize(c)])
            packed = struct.pack(code, value)
            data[place : place + len(packed)] = packed
        elif how == 5:
            data[place : place + length] = bytes(len(data[place : place + length]))
        else:
            other = int(rng.integers(len(data) + 1))
            data[place : place + length] = data[other : other + length]
    if chance(rng, 0.15):
        del data[int(rng.integers(len(data) + 1)) :]
    return bytes(data)


def random_header(rng, array):
    """A header of an array that may claim anything."""
    lengths = (0, 1, 3, 4, -1, 1 << 20, 1 << 33, 1 << 40, 1 << 62, 1 << 70)
    shape = tuple(pick(rng, lengths) for _ in range(rng.integers(0, 4)))
    shapes = (shape, array.shape, array.shape, (1 << 27,), array.shape[::-1], "(3,)", None, (True,), (2.0,))
    types = (
        array.dtype.str, "<f8", ">f8", "<f4", "|b1", "|O", "<U1000000000", "<U5", "<c16", "<M8[D]", "<m8", "|V8", "<i2",
        [("a", "<f8")], "|S0", "<U0", "xyz", "<f2", "|u1", 5,
    )
    orders = (False, False, True, 1, "no")
    header = {"descr": pick(rng, types), "fortran_order": pick(rng, orders), "shape": pick(rng, shapes)}
    if chance(rng, 0.1):
        header.pop(pick(rng, list(header)))
    return header


def write_array(rng, array):
    """The bytes of an .npy file of this array, or of something else."""
    buffer = io.BytesIO()
    if chance(rng, 0.4):
        header = (repr(random_header(rng, array)) + "\n").encode("latin-1")
        buffer.write(b"\x93NUMPY" + pick(rng, (b"\x01\x00", b"\x01\x00", b"\x02\x00", b"\x03\x00", b"\x09\x00")))
        buffer.write(struct.pack("<H", len(header)) + header)
        buffer.write(pick(rng, (array.tobytes(), CODE, b"", b"\x80\x04" + CODE)))
        return buffer.getvalue()
    np.save(buffer, spoil_array(rng, array), allow_pickle=False)
    return buffer.getvalue()


def spoil_array(rng, array):
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        how = int(rng.integers(6))
        if how == 0 and array.size and array.dtype.kind == "f":
            array = array.copy()
            array.flat[int(rng.integers(array.size))] = pick(rng, (np.nan, np.inf, 1e300, -1))
        elif how == 1:
            array = array[..., :-1] if array.ndim and array.shape[-1] else array[None]
        elif how == 2:
            array = array.reshape(-1) if chance(rng, 0.5) else array[None]
        elif how == 3:
            kinds = ("f4", "i8", "U3", "c16", "S2", "?", "f2", "u1", ">f8", "M8[s]")
            array = np.ones(array.shape).astype(pick(rng, kinds))
        elif how == 4:
            array = array[:0]
    return array


def spoil_json(rng, value, depth=0):
    """A description with something else in one place."""
    strange = (
        None, True, -1, 0, 1e400, float("nan"), 1 << 80, "x", "balanced", "\0", [], [[]], {}, {"unknown": 1},
        {"a": 1, "b": 2}, {"dict": 5}, {"dict": [[1]]}, {"dict": [[{"dict": []}, 1]]}, {"bytes": "\u1234"},
        {"time": ["<M8[D]"]}, {"time": ["|O", 3]}, {"time": [[["a", "O"]], 1]}, {"time": ["U9", 5]},
        {"time": ["<M8[D]", 1 << 70]},
    )
    if isinstance(value, dict) and value and depth < 3 and chance(rng, 0.9):
        value = dict(value)
        key = pick(rng, list(value))
        if chance(rng, 0.15):
            del value[key]
        elif chance(rng, 0.1):
            value[pick(rng, ("x", "coef", "self", "__class__", "tol"))] = pick(rng, strange)
        else:
            value[key] = spoil_json(rng, value[key], depth + 1)
        return value
    return pick(rng, strange)


NEW_MEMBERS = ("x.npy", "X.npy", "y.npy", "curvature.npy", "../../up.npy", "a", "feature_names.npy")
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)


def change_archive(rng, data):
    """An archive that is whole, and holds something else."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    names = list(members)
    for _ in range(int(pick(rng, (1, 1, 2, 3)))):
        name = pick(rng, names)
        how = int(rng.integers(6))
        if how == 0:
            members.pop(name, None)
        elif how == 1:
            other = pick(rng, names)
            members[name], members[other] = members.get(other, b""), members.get(name, b"")
        elif how == 2:
            members[pick(rng, NEW_MEMBERS)] = write_array(rng, np.ones((3, 4)))
        elif name == "description.npy" and name in members:
            with contextlib.suppress(ValueError):
                text = json.loads(np.load(io.BytesIO(members[name])).tobytes())
                buffer = io.BytesIO()
                np.save(buffer, np.frombuffer(json.dumps(spoil_json(rng, text)).encode(), np.uint8))
                members[name] = buffer.getvalue()
        elif name in members:
            try:
                array = np.load(io.BytesIO(members[name]))
            except (ValueError, EOFError):
                array = np.ones((3, 4))
            members[name] = write_array(rng, array)
    buffer = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(buffer, "w", pick(rng, METHODS)) as archive:
        warnings.simplefilter("ignore")     # duplicate names
        for name, content in members.items():
            archive.writestr(name, content)
            if chance(rng, 0.03):
                archive.writestr(name, content)
        if chance(rng, 0.03):
            zeros = io.BytesIO()
            np.save(zeros, np.zeros(1 << 25))
            big = pick(rng, (*names, "big.npy")) if "description.npy" in names else "big.npy"   # X may be large
            archive.writestr(big, zeros.getvalue(), zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


def damage(rng, kind):
    """A file of a kind, damaged in some way."""
    data = pick(rng, FILES[kind])
    if kind in ("model", "checkpoint", "npz") and chance(rng, 0.7):
        data = change_archive(rng, data)
        return change_bytes(rng, data) if chance(rng, 0.1) else data
    if kind == "npy" and chance(rng, 0.6):
        return write_array(rng, np.ones((20, 3)))
    return pick(rng, (b"", b"PK\x03\x04", CODE, b"\x80\x04" + CODE)) if chance(rng, 0.02) else change_bytes(rng, data)


# --- what reads files ------------------------------------------------------------------------------------------------


def use_model(path):
    """Load, and do what one does with a model."""
    model = xent.LogisticRegression.load(path)
    rows = np.zeros((5, model.n_features_in_))
    if hasattr(model, "feature_names_in_"):
        assert len(model.feature_names_in_) == model.n_features_in_
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")     # without names of features
        proba = model.predict_proba(rows)
        assert proba.shape == (5, len(model.classes_))
        assert model.predict(rows).shape == (5,)
    repr(model)
    model.save(f"{path}.again")
    xent.LogisticRegression.load(f"{path}.again")
    return "loads"


def use_checkpoint(path):
    coefficients, done = Checkpoint(path, 1, PROBLEM).resume(START, CLASSES)
    assert coefficients.shape == START.shape
    assert coefficients.dtype == np.float64
    assert type(done) is int
    assert done >= 0
    assert np.isfinite(coefficients).all()
    return "loads"


def use_folder(path):
    path.rename(path.parent / "b.npz")
    (path.parent / "a.npz").write_bytes(FILES["npz"][0])
    return use_blocks(xent.Blocks.from_folder(path.parent))


def use_maps(path):
    path.rename(path.parent / "b.X.npy")
    np.save(path.parent / "b.y.npy", np.arange(20) % 3)
    return use_blocks(xent.Blocks.from_folder(path.parent))


def use_parquet(path):
    path.rename(path.parent / "b.parquet")
    return use_blocks(xent.Blocks.from_parquet(path.parent, target="y"))


def use_blocks(blocks):
    """Read them, then fit: errors of a fit are about values, and need not name the file."""
    for block in blocks:
        for array in block:
            np.asarray(array)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            xent.LogisticRegression(max_iter=3).fit(blocks)
        except (ValueError, TypeError) as error:
            if not any(word in str(error) for word in ("block", "y ", "labels")):
                raise
            return "reads, and cannot be fitted"
    return "fits"


def use_digits(path):
    """As if the file of the package were damaged."""
    before = importlib.resources.files
    path.parent.joinpath("data").mkdir()
    path.rename(path.parent / "data" / "digits.npz")
    importlib.resources.files = lambda package: path.parent
    try:
        X, y = xent.datasets.load_digits()
    finally:
        importlib.resources.files = before
    assert X.dtype == np.float64
    assert y.dtype == np.int64
    return "loads"


USES = {
    "model": use_model, "checkpoint": use_checkpoint, "npz": use_folder, "npy": use_maps, "parquet": use_parquet,
    "digits": use_digits,
}
SHARES = {"model": 6, "checkpoint": 3, "npz": 4, "npy": 3, "parquet": 3 if pyarrow else 0, "digits": 1}
KINDS = [kind for kind, share in SHARES.items() for _ in range(share)]


def resident():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


@contextlib.contextmanager
def little_memory():
    """An address space that is hardly larger than what is used, and an error if much more memory was used."""
    pages = int(Path("/proc/self/statm").read_text().split()[0]) if os.path.exists("/proc/self/statm") else 0
    before, (soft, hard) = resident(), resource.getrlimit(resource.RLIMIT_AS)
    if pages:
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MORE_MEMORY, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    assert resident() - before < MOST_RESIDENT, f"{(resident() - before) >> 20} MiB more"


def run_case(rng):
    kind = pick(rng, KINDS)
    data = damage(rng, kind)
    here = os.getcwd()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "file")
        path.write_bytes(data)
        os.chdir(folder)
        try:
            with little_memory():
                result = USES[kind](path)
        except (ValueError, TypeError, OSError) as error:
            if kind != "digits" and folder not in str(error):       # errors of the digits are NumPy's
                raise AssertionError(f"{type(error).__name__} does not name the file: {error}") from error
            result = type(error).__name__
        except Exception as error:
            if kind != "digits":
                raise
            result = type(error).__name__
        finally:
            os.chdir(here)
        assert not Path(folder, CANARY).exists(), "code in a file was run"
        assert not [name for name in os.listdir(folder) if name.endswith(".tmp")]
    yield f"{kind}: {result}"
