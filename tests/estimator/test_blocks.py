"""Fits of blocks that are read again for every evaluation: the answer of a fit in memory, within less memory."""

import re
import struct
from itertools import pairwise

import numpy as np
import pytest

import xent
from xent import Blocks

ROWS, FEATURES, CLASSES = 1200, 6, 4
TIGHT = {"tol": 1e-10, "max_iter": 500}


def problem(dtype=np.float64):
    random = np.random.default_rng(0)
    X = random.normal(size=(ROWS, FEATURES)).astype(dtype)
    scores = X @ random.normal(size=(FEATURES, CLASSES)) + random.gumbel(size=(ROWS, CLASSES)) * 2
    return X, scores.argmax(axis=1), random.uniform(0, 2, ROWS)


def objective(model, X, y, weight):
    """In float64, with scikit-learn's formula divided by C times the weight."""
    z = X.astype(np.float64) @ model.coef_.T.astype(np.float64) + model.intercept_.astype(np.float64)
    penalty = (model.coef_.astype(np.float64) ** 2).sum() / (2 * model.C * weight.sum())
    return xent.cross_entropy(z, y, sample_weight=weight) + penalty


def assert_same(model, local):
    np.testing.assert_allclose(model.coef_, local.coef_, rtol=0, atol=1e-6)
    np.testing.assert_allclose(model.intercept_, local.intercept_, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(model.classes_, local.classes_)
    assert model.coef_.dtype == local.coef_.dtype
    if model.coef_.dtype == np.float64:
        assert model.objective_ == pytest.approx(local.objective_, rel=1e-9)


# --- the answer of a fit in memory -----------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [ROWS, 500, 37])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_any_cut(rows, dtype):
    X, y, weight = problem(dtype)
    tol = 1e-10 if dtype == np.float64 else 1e-6
    local = xent.LogisticRegression(tol=tol, max_iter=500).fit(X, y, weight)
    model = xent.LogisticRegression(tol=tol, max_iter=500).fit(Blocks.from_arrays(X, y, weight, rows=rows))
    assert_same(model, local)
    assert objective(model, X, y, weight) == pytest.approx(objective(local, X, y, weight), rel=1e-9)


@pytest.mark.parametrize("solver", ["lbfgs", "newton-cg", "newton-cholesky"])
@pytest.mark.parametrize("class_weight", [None, "balanced", {0: 2.0, 3: 0.1}], ids=str)
@pytest.mark.parametrize("soft", [False, True])
def test_options(solver, class_weight, soft):
    X, y, weight = problem()
    target = 0.9 * np.eye(CLASSES)[y] + 0.1 / CLASSES if soft else y
    options = {**TIGHT, "solver": solver, "class_weight": class_weight}
    local = xent.LogisticRegression(**options).fit(X, target, weight)
    model = xent.LogisticRegression(**options).fit(Blocks.from_arrays(X, target, weight, rows=500))
    assert_same(model, local)


def test_blocks_of_sorted_labels_with_some_blocks_empty():
    X, y, _ = problem()
    y = np.sort(y)
    slices = [slice(*ends) for ends in pairwise([0, 0, 300, 300, 700, ROWS])]
    blocks = [(X[s], np.array(["a", "bb", "c", "dddd"])[y[s]]) for s in slices]
    model = xent.LogisticRegression(**TIGHT).fit(Blocks(blocks))
    assert_same(model, xent.LogisticRegression(**TIGHT).fit(X, np.array(["a", "bb", "c", "dddd"])[y]))


def test_sparse_blocks_with_few_and_with_many_features():
    sparse = pytest.importorskip("scipy.sparse")
    random = np.random.default_rng(0)
    for features in (20, 2500):
        X = sparse.random(400, features, 0.05, format="csr", random_state=random)
        y = random.integers(0, 3, 400)
        local = xent.LogisticRegression(**TIGHT).fit(X, y)
        assert_same(xent.LogisticRegression(**TIGHT).fit(Blocks.from_arrays(X, y, rows=150)), local)


def test_frames_keep_their_names():
    pandas = pytest.importorskip("pandas")
    X, y, _ = problem()
    frame = pandas.DataFrame(X, columns=list("abcdef"))
    model = xent.LogisticRegression().fit(Blocks([(frame[:500], y[:500]), (frame[500:], y[500:])]))
    assert list(model.feature_names_in_) == list("abcdef")
    with pytest.raises(ValueError, match="block 1 has other feature names than block 0"):
        model.fit(Blocks([(frame[:500], y[:500]), (frame[500:].rename(columns={"a": "z"}), y[500:])]))


def test_classes_given():
    X, y, _ = problem()
    model = xent.LogisticRegression().fit(Blocks.from_arrays(X, y, rows=500, classes=[9, 0, 1, 2, 3]))
    np.testing.assert_array_equal(model.classes_, [0, 1, 2, 3, 9])
    with pytest.raises(ValueError, match=r"^block 0: y\[\d+\] is 3, which is not one of the classes"):
        model.fit(Blocks.from_arrays(X, y, rows=500, classes=[0, 1, 2]))


def test_separable_classes_without_a_penalty():
    X = np.arange(20.0)[:, None]
    with pytest.warns(xent.ConvergenceWarning, match="linearly separable"):
        xent.LogisticRegression(penalty=None).fit(Blocks.from_arrays(X, X[:, 0] > 9.5, rows=7))


def test_warm_start_and_partial_fit_go_on():
    X, y, _ = problem()
    model = xent.LogisticRegression(**TIGHT, warm_start=True).fit(X, y)
    model.fit(Blocks.from_arrays(X, y, rows=500))
    assert model.n_iter_[0] == 0
    model.partial_fit(X[:100], y[:100])


# --- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("kind", ["npz", "npy"])
def test_folders(tmp_path, kind, weighted):
    X, y, weight = problem(np.float32)
    for i, part in enumerate([slice(0, 500), slice(500, 900), slice(900, ROWS)]):
        columns = {"X": X[part], "y": y[part], **({"sample_weight": weight[part]} if weighted else {})}
        if kind == "npz":
            np.savez(tmp_path / f"{i}.npz", **columns)
        else:
            for name, array in columns.items():
                np.save(tmp_path / f"{i}.{name}.npy", array)
    local = xent.LogisticRegression(tol=1e-6).fit(X, y, weight if weighted else None)
    assert_same(xent.LogisticRegression(tol=1e-6).fit(Blocks.from_folder(tmp_path)), local)


def test_memory_maps(tmp_path):
    X, y, _ = problem()
    np.save(tmp_path / "X.npy", X)
    blocks = Blocks.from_arrays(np.load(tmp_path / "X.npy", mmap_mode="r"), y)
    assert_same(xent.LogisticRegression(**TIGHT).fit(blocks), xent.LogisticRegression(**TIGHT).fit(X, y))


def test_folders_that_do_not_fit(tmp_path):
    with pytest.raises(ValueError, match="contains no"):
        Blocks.from_folder(tmp_path)
    np.save(tmp_path / "a.X.npy", np.ones((2, 2)))
    np.save(tmp_path / "b.X.npy", np.ones((2, 2)))
    for name in ("sample_weight", "y"):
        np.save(tmp_path / f"b.{name}.npy", np.ones(2))
        with pytest.raises(ValueError, match=rf"has no matching a\.{name}\.npy"):
            Blocks.from_folder(tmp_path)
        (tmp_path / f"b.{name}.npy").unlink()
    np.save(tmp_path / "a.sample_weight.npy", np.ones(2))
    (tmp_path / "b.X.npy").unlink()
    with pytest.raises(ValueError, match=r"has \*\.sample_weight\.npy but no \*\.y\.npy"):
        Blocks.from_folder(tmp_path)
    (tmp_path / "a.sample_weight.npy").unlink()
    np.save(tmp_path / "a.y.npy", np.ones(2))
    np.savez(tmp_path / "b.npz", y=np.ones(2))
    with pytest.raises(ValueError, match="only one kind"):
        Blocks.from_folder(tmp_path)
    (tmp_path / "a.X.npy").unlink()
    with pytest.raises(ValueError, match="has no array 'X'"):
        xent.LogisticRegression().fit(Blocks.from_folder(tmp_path))


def npy(header):
    """An array with this header, and zeros."""
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(header) + 1) + header.encode() + b"\n" + bytes(64)


def damage_archive(content):
    """Damaged archives, for which zipfile and the decompressor raise errors of their own types."""
    yield b""
    yield b"no archive"
    yield npy("{'descr': '<f8', 'fortran_order': False, 'shape': (1,)}")
    yield content[:-30]
    yield content[:1] + b"\xff" + content[2:]
    yield content.replace(b"PK\1\2", b"PK\1\1")
    for place in range(60, len(content) - 100, 37):
        yield content[:place] + b"\xff\0\xff" + content[place + 3 :]
    directory = content.rindex(b"PK\5\6")
    yield content[: directory + 16] + b"\xff\xff\xff\xff" + content[directory + 20 :]


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_damaged_archives_are_named(tmp_path, save):
    X, y, _ = problem()
    save(tmp_path / "a.npz", X=X[:50], y=y[:50])
    content = (tmp_path / "a.npz").read_bytes()
    errors = set()
    for damaged in damage_archive(content):
        (tmp_path / "a.npz").write_bytes(damaged)
        try:
            list(Blocks.from_folder(tmp_path))
        except (ValueError, TypeError, OSError) as error:
            assert str(error).startswith(repr(str(tmp_path / "a.npz")))     # noqa: PT017
            errors.add(type(error.__cause__ or error))
    assert len(errors) > 2


HEADERS = ["(", "{'descr': '<f8', ", "'\0'", "{}", "{'descr': '|O', 'fortran_order': False, 'shape': (2,)}"]


@pytest.mark.parametrize("header", HEADERS)
def test_damaged_headers_are_named(tmp_path, header):
    np.save(tmp_path / "a.y.npy", np.ones(2))
    (tmp_path / "a.X.npy").write_bytes(npy(header))
    with pytest.raises(ValueError, match=re.escape(f"{str(tmp_path / 'a')!r}: ")):
        list(Blocks.from_folder(tmp_path))


# --- what is wrong ---------------------------------------------------------------------------------------------------


def test_what_can_be_read_only_once():
    X, y, _ = problem()
    with pytest.raises(TypeError, match="source is a generator, an iterator, which can be read only once"):
        Blocks((X, y) for _ in range(3))
    spent = iter([(X, y)])
    with pytest.raises(ValueError, match="this pass had 0 blocks, but the first had 1: a source must yield"):
        xent.LogisticRegression().fit(Blocks(lambda: spent))


def test_blocks_that_change():
    X, y, _ = problem()
    passes = []

    def fewer():
        passes.append(0)
        yield X[: ROWS if len(passes) == 1 else 10], y[: ROWS if len(passes) == 1 else 10]

    with pytest.raises(ValueError, match="block 0 has 10 rows, but had 1200 in the first pass"):
        xent.LogisticRegression().fit(Blocks(fewer))

    def more():
        passes.append(0)
        return [(X, y)] * len(passes)

    passes.clear()
    with pytest.raises(ValueError, match="there is a block 1, but the first pass had 1"):
        xent.LogisticRegression().fit(Blocks(more))


@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        (lambda X, y: (np.where(X > 2, np.nan, X), y), ValueError, r"^block 1: X\[\d+, \d\] is nan"),
        (lambda X, y: (X[:, :3], y), ValueError, "block 1 has 3 features, but block 0 has 6"),
        (lambda X, y: (X[:5], y), ValueError, r"^block 1: y has shape \(700,\)"),
        (lambda X, y: (X, y, -np.ones(len(y))), ValueError, r"^block 1: sample_weight\[0\] is -1"),
        (lambda X, y: (X, y.astype(str)), TypeError, "string labels in block 1, but number labels in block 0; they"),
        (lambda X, y: (X, np.eye(CLASSES)[y]), ValueError, "distributions in block 1, but labels in block 0"),
        (lambda X, y: (X, y + 0.5), ValueError, r"^block 1: y\[0\] is"),
        (lambda X, y: X, TypeError, "^block 1 is a ndarray; it must be"),
        (lambda X, y: (X, None), ValueError, "^block 1: requires y"),
        (lambda X, y: (X[:0], y), ValueError, "^block 1: y has 700 rows; it must have none"),
    ],
)
def test_errors_name_the_block(spoil, error, message):
    X, y, _ = problem()
    model = xent.LogisticRegression().fit(X, y)
    before = model.coef_.copy()
    with pytest.raises(error, match=message):
        model.fit(Blocks([(X[:500], y[:500]), spoil(X[500:], y[500:])]))
    np.testing.assert_array_equal(model.coef_, before)


def test_blocks_without_an_answer():
    X, y, _ = problem()
    with pytest.raises(ValueError, match="no rows"):
        xent.LogisticRegression().fit(Blocks([]))
    with pytest.raises(ValueError, match="one class only, 0"):
        xent.LogisticRegression().fit(Blocks([(X, 0 * y)]))
    with pytest.raises(ValueError, match="is 0 for every sample"):
        xent.LogisticRegression().fit(Blocks([(X, y, 0 * y)]))
    with pytest.raises(ValueError, match="both must be None"):
        xent.LogisticRegression().fit(Blocks([(X, y)]), y)
    with pytest.raises(TypeError, match="source is a int"):
        Blocks(3)
    with pytest.raises(ValueError, match="rows is 0"):
        Blocks.from_arrays(X, y, rows=0)
    with pytest.raises(ValueError, match="they must have the same number"):
        Blocks.from_arrays(X, y[:5])


# --- memory ----------------------------------------------------------------------------------------------------------

FIT = """
import resource
import numpy as np, xent
resource.setrlimit(resource.RLIMIT_DATA, ({allowed}, resource.RLIM_INFINITY))
try:
    bytearray({allowed})
except MemoryError:
    pass
else:
    raise AssertionError("the limit does not hold")
model = xent.LogisticRegression(tol=1e-6, solver={solver!r}).fit(xent.Blocks.from_folder({folder!r}))
print(model.objective_)
"""


@pytest.mark.deep
@pytest.mark.skipif("sys.platform != 'linux'", reason="a limit of Linux")
@pytest.mark.parametrize("solver", ["lbfgs", "newton-cg", "newton-cholesky"])
def test_data_four_times_larger_than_the_memory(tmp_path, python, solver):
    """The system refuses the process more than 128 MB, its interpreter and threads included; the files have 512 MB.

    Most of the 128 are not for blocks: BLAS has 64, the interpreter 20, each thread 8. The allocator keeps a block or
    two that are free, so that blocks are small.
    """
    random = np.random.default_rng(0)
    coef = random.normal(size=(100, 5)).astype(np.float32) / 10
    files = 256
    X = random.normal(size=(1_280_000, 100)).astype(np.float32)
    y = (X @ coef + random.gumbel(size=(len(X), 5))).argmax(axis=1).astype(np.int8)
    for i in range(files):
        np.savez(tmp_path / f"{i:03}.npz", X=X[i::files], y=y[i::files])
    script = FIT.format(allowed=X.nbytes // 4, folder=str(tmp_path), solver=solver)
    found = float(python(script, XENT_NUM_THREADS="2", OPENBLAS_NUM_THREADS="1"))
    local = xent.LogisticRegression(tol=1e-6, solver=solver).fit(X, y)
    assert found == pytest.approx(local.objective_, rel=1e-9)
