"""Fits on Dask: the local estimator's answer, whatever the partitions and the workers, and whatever becomes of them."""

import contextlib
import math
import os
import signal
import subprocess
import sys

import numpy as np
import pytest

import xent

dask = pytest.importorskip("dask")
distributed = pytest.importorskip("distributed")
import dask.array as da  # noqa: E402

import xent.dask  # noqa: E402

# What Dask's own threads and sockets leave behind when a cluster stops is not what is tested.
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning"),
]

ROWS, FEATURES, CLASSES = 1500, 6, 4
TIGHT = {"tol": 1e-10, "max_iter": 500}


def problem(dtype=np.float64, seed=0):
    """Rows, labels and weights; classes that overlap."""
    random = np.random.default_rng(seed)
    X = random.normal(size=(ROWS, FEATURES)).astype(dtype)
    scores = X @ random.normal(size=(FEATURES, CLASSES)) + random.gumbel(size=(ROWS, CLASSES)) * 2
    return X, scores.argmax(axis=1), random.uniform(0, 2, ROWS)


def arrays(X, y, rows, sample_weight=None):
    chunks = rows if isinstance(rows, tuple) else int(rows)
    columns = [da.from_array(X, chunks=(chunks, X.shape[1])), da.from_array(y, chunks=(chunks, *y.shape[1:]))]
    return (*columns, *([] if sample_weight is None else [da.from_array(sample_weight, chunks=chunks)]))


def objective(model, X, y, weight):
    """In float64, with scikit-learn's formula divided by C times the weight."""
    z = X.astype(np.float64) @ model.coef_.T.astype(np.float64) + model.intercept_.astype(np.float64)
    penalty = (model.coef_.astype(np.float64) ** 2).sum() / (2 * model.C * weight.sum())
    return xent.cross_entropy(z, y, sample_weight=weight) + penalty


def assert_same(model, local):
    """In float32 the value itself is rounded more than this: it is compared by `objective`."""
    if model.coef_.dtype == np.float64:
        assert model.objective_ == pytest.approx(local.objective_, rel=1e-9)
    np.testing.assert_allclose(model.coef_, local.coef_, rtol=0, atol=1e-6)
    np.testing.assert_allclose(model.intercept_, local.intercept_, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(model.classes_, local.classes_)
    assert model.coef_.dtype == local.coef_.dtype
    assert model.classes_.dtype == local.classes_.dtype


@contextlib.contextmanager
def cluster_of(workers, processes):
    with (
        distributed.LocalCluster(
            n_workers=workers, threads_per_worker=1, processes=processes, dashboard_address=":0", silence_logs=50
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


@pytest.fixture(scope="module")
def two_workers():
    with cluster_of(2, processes=False) as client:
        yield client


@pytest.fixture(params=["synchronous", pytest.param("cluster", marks=pytest.mark.deep)])
def engine(request):
    """Without a client, and with one: the latter in deep runs."""
    with on(request):
        yield


@pytest.fixture(params=["synchronous", "cluster"])
def both(request):
    with on(request):
        yield


@contextlib.contextmanager
def on(request):
    if request.param == "cluster":
        with request.getfixturevalue("two_workers").as_current():
            yield
    else:
        with without_client(), dask.config.set(scheduler="synchronous"):
            yield


@contextlib.contextmanager
def without_client():
    client = xent.dask.rounds.present_client
    xent.dask.rounds.present_client = lambda: None
    try:
        yield
    finally:
        xent.dask.rounds.present_client = client


# --- the local estimator's answer ------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [ROWS, 400, 97, (1, 0, 999, 500, 0)], ids=str)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_partitioning(engine, rows, dtype):
    X, y, weight = problem(dtype)
    tol = 1e-10 if dtype == np.float64 else 1e-6
    local = xent.LogisticRegression(tol=tol, max_iter=500).fit(X, y, weight)
    model = xent.dask.LogisticRegression(tol=tol, max_iter=500).fit(*arrays(X, y, rows, weight))
    assert_same(model, local)
    assert objective(model, X, y, weight) == pytest.approx(objective(local, X, y, weight), rel=1e-9)


@pytest.mark.parametrize("solver", ["lbfgs", "newton-cg"])
@pytest.mark.parametrize("persist", [True, False])
def test_solvers_and_partitions_that_are_read_again(both, solver, persist):
    X, y, _ = problem()
    local = xent.LogisticRegression(**TIGHT, solver=solver).fit(X, y)
    model = xent.dask.LogisticRegression(**TIGHT, solver=solver).fit(*arrays(X, y, 400), persist=persist)
    assert_same(model, local)


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
    pandas = pytest.importorskip("pandas")
    dd = pytest.importorskip("dask.dataframe")
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


def test_delayed_partitions(engine):
    X, y, weight = problem()
    slices = [slice(0, 700), slice(700, 700), slice(700, ROWS)]
    local = xent.LogisticRegression(**TIGHT).fit(X, y, weight)
    together = [dask.delayed((X[s], y[s], weight[s])) for s in slices]
    assert_same(xent.dask.LogisticRegression(**TIGHT).fit(together), local)
    apart = [[dask.delayed(a[s]) for s in slices] for a in (X, y, weight)]
    model = xent.dask.LogisticRegression(**TIGHT).fit(*apart)
    assert_same(model, local)
    np.testing.assert_array_equal(model.predict(apart[0]).compute(), local.predict(X))


def test_blocks_of_unknown_sizes_and_of_columns(engine):
    X, y, _ = problem()
    local = xent.LogisticRegression(**TIGHT).fit(X[X[:, 0] > 0], y[X[:, 0] > 0])
    dX, dy = da.from_array(X, chunks=(400, 2)), da.from_array(y, chunks=400)
    keep = da.from_array(X[:, 0], chunks=400) > 0
    assert_same(xent.dask.LogisticRegression(**TIGHT).fit(dX[keep], dy[keep]), local)
    with pytest.raises(ValueError, match=r"y has 1500 rows in 3 partitions, but X has \d+ rows in 4"):
        xent.dask.LogisticRegression().fit(dX[keep], da.from_array(y, chunks=500))


def test_data_that_is_persisted_already(two_workers):
    X, y, _ = problem()
    with two_workers.as_current():
        data = [a.persist() for a in arrays(X, y, 400)]
        assert_same(xent.dask.LogisticRegression(**TIGHT).fit(*data), xent.LogisticRegression(**TIGHT).fit(X, y))
        local = xent.LogisticRegression(**TIGHT).fit(X, y)
        assert_same(xent.dask.LogisticRegression(**TIGHT).fit(*data, persist=False), local)
        futures = two_workers.scatter([(X[:400], y[:400]), (X[400:], y[400:])])
        for persist in (True, False):
            parts = [dask.delayed(f) for f in futures]
            assert_same(xent.dask.LogisticRegression(**TIGHT).fit(parts, persist=persist), local)


def test_labels_in_other_blocks_and_in_memory(engine):
    X, y, _ = problem()
    local = xent.LogisticRegression(**TIGHT).fit(X, y)
    dX = da.from_array(X, chunks=(400, FEATURES))
    for labels in (da.from_array(y, chunks=333), y):
        assert_same(xent.dask.LogisticRegression(**TIGHT).fit(dX, labels), local)


def test_the_sums_do_not_depend_on_who_computes_them(two_workers):
    X, y, weight = problem(np.float32)
    with two_workers.as_current():
        first = xent.dask.LogisticRegression(tol=1e-5).fit(*arrays(X, y, 75, weight))
    with cluster_of(3, processes=False) as client, client.as_current():
        second = xent.dask.LogisticRegression(tol=1e-5).fit(*arrays(X, y, 75, weight))
    np.testing.assert_array_equal(first.coef_, second.coef_)
    assert first.objective_ == second.objective_


def test_sums_have_the_same_bits_in_any_order():
    random = np.random.default_rng(0)
    terms = random.normal(size=(40, 15)) * 10.0 ** random.integers(-12, 12, size=(40, 15))
    terms[20:] = -terms[:20] * (1 + 1e-15 * random.normal(size=(20, 15)))       # cancel, nearly
    exact = [math.fsum(column) for column in terms.T]
    for _ in range(20):
        order = random.permutation(40)
        cuts = np.sort(random.choice(np.arange(1, 40), 6, replace=False))
        np.testing.assert_array_equal(total(terms, np.split(order, cuts)), exact)


def total(terms, groups):
    from xent.dask.tasks import add_sums, round_sums, sum_over

    sums, seconds = add_sums([sum_over(terms[group], group, np.copy, []) for group in groups])
    assert seconds > 0
    return round_sums(sums)


def test_infinite_sums_are_no_nan():
    assert total(np.array([[1.0], [np.inf], [2.0]]), [[0, 1], [2]]) == np.inf
    assert np.isnan(total(np.array([[1.0], [np.nan]]), [[0, 1]]))


def test_partitions_are_dealt_out_where_they_are():
    from xent.dask.placement import assign_partitions

    groups = assign_partitions([["a"], ["b"], ["a"], ["b"], ["a", "b"]], [10, 10, 10, 10, 1], {"a": 1, "b": 1})
    assert sorted(w for w, _ in groups) == ["a", "b"]
    (a,) = (own for w, own in groups if w == "a")
    assert {0, 2} <= set(a) <= {0, 2, 4}
    # Lost ones, those of a worker that is gone, and what is more than a share goes to who has least.
    groups = dict(assign_partitions([["a"]] * 6 + [[], ["gone"]], [5] * 8, {"a": 1, "b": 1}))
    assert len(groups["a"]) == len(groups["b"]) == 4
    assert sorted(groups["a"] + groups["b"]) == list(range(8))
    # One that is more than a share stays.
    assert dict(assign_partitions([["c"]], [10], {"a": 1, "b": 1, "c": 1, "d": 1})) == {"c": [0]}
    # Threads of one worker share its rows evenly.
    groups = assign_partitions([["a"]] * 12, [1] * 11 + [4], {"a": 3})
    assert [own for _, own in groups] == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9], [10, 11]]
    assert assign_partitions([["a"]], [3], {"a": 8}) == [("a", [0])]
    assert assign_partitions([["gone"], []], [3, 4], {}) == [(None, [0, 1])]


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


@pytest.mark.parametrize("axis", [-1, 1])
def test_evaluate(both, axis):
    random = np.random.default_rng(0)
    logits = random.normal(size=(60, 7) if axis == -1 else (60, 7, 5)).astype(np.float32)
    target = random.integers(-1, 7, size=logits[:, 0].shape)
    weight = random.uniform(size=target.shape)
    blocks = (17, 3) if axis == -1 else (17, 3, 2)
    result = xent.dask.evaluate(
        da.from_array(logits, chunks=blocks), da.from_array(target, chunks=20), axis=axis, ignore_index=-1,
        sample_weight=da.from_array(weight, chunks=10), topk=2,
    )    # fmt: skip
    assert result == xent.evaluate(logits, target, axis=axis, ignore_index=-1, sample_weight=weight, topk=2)


def test_timing_and_names(two_workers):
    X, y, _ = problem()
    seen = []
    with two_workers.as_current():
        model = xent.dask.LogisticRegression()
        model.fit(*arrays(X, y, 400), callback=lambda p: seen.append(p.iteration))
    assert seen == list(range(model.n_iter_[0] + 1))
    assert model.timing_.rounds > model.n_iter_[0]
    assert model.timing_.threads == 2
    assert 0 <= model.timing_.scheduling < 1


def test_save_and_load(tmp_path, two_workers):
    X, y, _ = problem()
    with two_workers.as_current():
        model = xent.dask.LogisticRegression(C=0.5).fit(*arrays(X, y, 400))
    model.save(tmp_path / "model.npz")
    np.testing.assert_array_equal(xent.LogisticRegression.load(tmp_path / "model.npz").coef_, model.coef_)


# --- what is wrong ---------------------------------------------------------------------------------------------------


def spoilt(X, y, what):
    X, y = X.copy(), y.copy()
    if what == "nan":
        X[450, 3] = np.nan
    return *arrays(X, y, 400),


def test_errors_name_the_partition(both):
    X, y, weight = problem()
    model = xent.dask.LogisticRegression().fit(*arrays(X, y, 400))
    before = model.coef_.copy()
    with pytest.raises(ValueError, match=r"^partition 1: X\[50, 3\] is nan"):
        model.fit(*spoilt(X, y, "nan"))
    with pytest.raises(ValueError, match=r"^partition 2: sample_weight\[\d+\] is -1"):
        model.fit(*arrays(X, y, 400, np.where(np.arange(ROWS) == 1000, -1, weight)))
    parts = [dask.delayed((X[:500], y[:500])), dask.delayed((X[500:, :3], y[500:]))]
    with pytest.raises(ValueError, match="partition 1 has 3 features, but partition 0 has 6"):
        model.fit(parts)
    with pytest.raises(ValueError, match=r"^partition 1: y has shape"):
        model.fit([parts[0], dask.delayed((X[500:], y[:500]))])
    with pytest.raises(TypeError, match="partition 1, but int64 in partition 0; labels must be of one kind"):
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
    with pytest.raises(ValueError, match=r"must have .* rows"):
        model.fit(dX, dy[:100])
    with pytest.raises(ValueError, match="y has 3000 rows in 2 partitions, but X has 1500 rows in 1; both must have"):
        model.fit([dask.delayed(X)], [dask.delayed(y), dask.delayed(y)])
    with pytest.raises(TypeError, match="logits is a ndarray"):
        xent.dask.evaluate(X, y)
    with pytest.raises(AttributeError, match="not fitted"):
        model.predict(dX)


# --- faults ----------------------------------------------------------------------------------------------------------


def unreliable(path, failures, X, y):
    """A reader that fails so many times."""
    count = len(os.listdir(path))
    if count < failures:
        (path / f"{count}").touch()
        raise OSError("the disk is away")
    return X, y


@pytest.mark.parametrize("persist", [True, False])
def test_a_reader_that_fails_twice(two_workers, tmp_path, persist):
    X, y, _ = problem()
    good = dask.delayed((X[:500], y[:500]))
    bad = dask.delayed(unreliable)(tmp_path, 2, X[500:], y[500:])
    with two_workers.as_current():
        model = xent.dask.LogisticRegression(**TIGHT).fit([good, bad], persist=persist)
    assert len(os.listdir(tmp_path)) == 2
    assert_same(model, xent.LogisticRegression(**TIGHT).fit(X, y))


def test_a_reader_that_always_fails(both, tmp_path):
    X, y, _ = problem()
    parts = [dask.delayed((X[:500], y[:500])), dask.delayed(unreliable)(tmp_path, 1000, X[500:], y[500:])]
    with pytest.raises(RuntimeError, match="partition 1 could not be read or computed: OSError: the disk is away"):
        xent.dask.LogisticRegression().fit(parts)


def test_resuming_from_a_checkpoint(engine, tmp_path):
    X, y, _ = problem()
    path = tmp_path / "state"

    class Death(Exception):
        pass

    def die(progress):
        if progress.iteration == 5:
            raise Death

    data = arrays(X, y, 400)
    with pytest.raises(Death):
        xent.dask.LogisticRegression(**TIGHT).fit(*data, checkpoint=path, checkpoint_every=2, callback=die)
    seen = []
    model = xent.dask.LogisticRegression(**TIGHT).fit(
        *data, checkpoint=path, checkpoint_every=2, callback=lambda p: seen.append(p)
    )
    assert seen[0].iteration == 4
    assert seen[0].loss < np.log(CLASSES)
    local = xent.LogisticRegression(**TIGHT).fit(X, y)
    assert_same(model, local)
    with pytest.raises(ValueError, match="is of another fit, which differs in C"):
        xent.dask.LogisticRegression(C=3).fit(*data, checkpoint=path)
    path.write_bytes(b"nonsense")
    with pytest.raises(ValueError, match="damaged"):
        xent.dask.LogisticRegression().fit(*data, checkpoint=path)


def faulty_fit(client, fault, workers=2, **options):
    """A fit in which something happens after the third iteration, and the local one."""
    X, y, weight = problem()
    local = xent.LogisticRegression(**TIGHT).fit(X, y, weight)
    happened = []

    def at_three(progress):
        if progress.iteration == 3:
            happened.append(fault())

    model = xent.dask.LogisticRegression(**TIGHT).fit(*arrays(X, y, 150, weight), callback=at_three, **options)
    assert len(happened) == 1
    assert_same(model, local)


@pytest.mark.deep
@pytest.mark.parametrize("persist", [True, False])
@pytest.mark.parametrize("workers", [1, 2])
def test_a_worker_is_killed(workers, persist):
    """With one worker all data is gone, and what the client had sent as well."""
    with cluster_of(workers, processes=True) as client:
        victim = next(iter(client.run(os.getpid).values()))
        faulty_fit(client, lambda: os.kill(victim, signal.SIGKILL), persist=persist)
        assert victim not in client.run(os.getpid).values()


@pytest.mark.deep
def test_a_worker_is_killed_within_a_round():
    """A thread kills it at some moment while the fit is running."""
    import threading

    with cluster_of(2, processes=True) as client:
        for delay in (0.02, 0.05, 0.1):
            victim = next(iter(client.run(os.getpid).values()))
            killer = threading.Timer(delay, os.kill, (victim, signal.SIGKILL))
            faulty_fit(client, killer.start)
            killer.join()


@pytest.mark.deep
def test_a_worker_joins_late():
    with cluster_of(1, processes=True) as client:
        faulty_fit(client, lambda: (client.cluster.scale(2), client.wait_for_workers(2)))
        assert len(client.nthreads()) == 2


CLIENT = """
import os, sys
sys.path.insert(0, {tests!r})
from distributed import Client
from test_dask import TIGHT, arrays, problem
import xent.dask

def die(progress):
    if progress.iteration == 7:
        os._exit(3)

with Client({address!r}):
    xent.dask.LogisticRegression(**TIGHT).fit(
        *arrays(*problem()[:2], 400), checkpoint={path!r}, checkpoint_every=2, callback=die
    )
"""


@pytest.mark.deep
def test_the_client_dies(tmp_path):
    X, y, _ = problem()
    path = str(tmp_path / "state")
    with cluster_of(2, processes=True) as client:
        script = CLIENT.format(tests=os.path.dirname(__file__), address=client.scheduler.address, path=path)
        assert subprocess.run([sys.executable, "-c", script], timeout=100, check=False).returncode == 3
        seen = []
        model = xent.dask.LogisticRegression(**TIGHT).fit(
            *arrays(X, y, 400), checkpoint=path, callback=lambda p: seen.append(p.iteration)
        )
        assert seen[0] == 6
        assert_same(model, xent.LogisticRegression(**TIGHT).fit(X, y))


@pytest.mark.deep
def test_a_partition_that_kills_its_workers():
    X, y, _ = problem()
    parts = [dask.delayed((X[:500], y[:500])), dask.delayed(os._exit)(1)]
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 1}),
        cluster_of(2, processes=True),
        pytest.raises(RuntimeError, match="partition 1 could not be read or computed: KilledWorker"),
    ):
        xent.dask.LogisticRegression().fit(parts)


@pytest.mark.deep
def test_four_times_more_data_than_the_worker_may_have(tmp_path):
    """Dask kills a worker at 95 % of its limit; it takes 150 MB itself."""
    random = np.random.default_rng(0)
    X = random.normal(size=(3_000_000, 100)).astype(np.float32)
    y = (X[:, :3] + random.gumbel(size=(len(X), 3))).argmax(axis=1)
    np.save(tmp_path / "X.npy", X)
    local = xent.LogisticRegression(tol=1e-6).fit(X, y)
    rows, path = 50_000, str(tmp_path / "X.npy")

    def read(start, labels):
        return np.load(path, mmap_mode="r")[start : start + rows].copy(), labels

    parts = [dask.delayed(read)(start, y[start : start + rows].astype(np.int8)) for start in range(0, len(X), rows)]
    with (
        distributed.LocalCluster(
            n_workers=1, threads_per_worker=1, dashboard_address=":0", memory_limit=X.nbytes // 4, silence_logs=50
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        workers = set(client.run(os.getpid).values())
        model = xent.dask.LogisticRegression(tol=1e-6).fit(parts, persist=False)
        assert set(client.run(os.getpid).values()) == workers
    assert objective(model, X, y, np.ones(len(X))) == pytest.approx(objective(local, X, y, np.ones(len(X))), rel=1e-9)
