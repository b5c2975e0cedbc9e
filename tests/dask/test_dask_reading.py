"""How often partitions are read, in which process, and what happens if a read fails or gives other rows."""

import collections
import os
import threading

import dask
import dask.dataframe as dd
import numpy as np
import pytest
from dask_data import TABLE, TIGHT, F, assert_same, cluster_of, fit, local_fit, merged, objective, problem

import xent
import xent.dask


class Source:
    """A frame of 6 partitions that counts how often each is read."""

    def __init__(self):
        self.reads = collections.Counter()
        self.lock = threading.Lock()

    def __dask_tokenize__(self):
        return id(self)

    def frame(self):
        return dd.from_map(self.read, range(6), meta=TABLE[:0])

    def read(self, i):
        with self.lock:
            self.reads[i] += 1
        return TABLE[200 * i : 200 * (i + 1)]


@pytest.fixture
def calls(monkeypatch):
    """Of Dask's scheduler."""
    seen = []
    original = xent.dask.rounds.Engine._values

    def values(self, graph, keys):
        seen.append(len(keys))
        return original(self, graph, keys)

    monkeypatch.setattr(xent.dask.rounds.Engine, "_values", values)
    return seen


@pytest.mark.parametrize(
    "made", [lambda frame: frame, pytest.param(lambda frame: frame.shuffle("i"), marks=pytest.mark.deep), merged]
)
@pytest.mark.parametrize("scheduler", ["threads", pytest.param("synchronous", marks=pytest.mark.deep)])
def test_each_partition_is_read_once_a_pass(calls, made, scheduler):
    source = Source()
    with dask.config.set(scheduler=scheduler):
        frame = made(source.frame())
        model = fit(frame[F], frame["y"], frame["w"])
        assert source.reads == dict.fromkeys(range(6), 1)
        model.score(frame[F], frame["y"], frame["w"])
        assert source.reads == dict.fromkeys(range(6), 2)
        del calls[:]
        assert_same(fit(frame[F], frame["y"], frame["w"], persist=False), model)
        assert len(calls) > 5
        assert source.reads == dict.fromkeys(range(6), 2 + len(calls))


def test_lengths_are_computed_once_and_partitions_kept(calls):
    """y is in memory, so that lengths are needed: the partitions that they were computed of are those that are used."""
    source = Source()
    with dask.config.set(scheduler="threads"):
        frame = source.frame()
        fit(frame[F], TABLE["y"])
        assert source.reads == dict.fromkeys(range(6), 1)
        del calls[:]
        fit(frame[F], TABLE["y"], persist=False)
        assert source.reads == dict.fromkeys(range(6), 1 + len(calls))


def read_and_note(folder, i):
    """A counter that is of use in other processes too."""
    path = os.path.join(folder, str(i))
    with open(path, "a") as file:
        file.write("x")
    return TABLE[300 * i : 300 * (i + 1)]


def test_each_partition_is_read_once_on_a_cluster(two_workers, tmp_path):
    def reads():
        return {os.path.getsize(tmp_path / str(i)) for i in range(4)}

    with two_workers.as_current():
        frame = dd.from_map(read_and_note, [str(tmp_path)] * 4, range(4), meta=TABLE[:0]).shuffle("i")
        model = fit(frame[F], frame["y"], frame["w"])
        assert reads() == {1}
        again = fit(frame[F], frame["y"], frame["w"], persist=False)
        assert_same(again, model)
        (times,) = reads()
        assert times - 1 - again.timing_.rounds in (1, 2)   # and once to look at them, and for a sample


def test_partitions_are_computed_in_parallel():
    """Each reader waits for the other one."""
    meeting = threading.Barrier(2, timeout=60)

    def read(start):
        meeting.wait()
        rows = slice(start, start + 600)
        return TABLE[F].to_numpy()[rows], TABLE["y"].to_numpy()[rows]

    data = [dask.delayed(read)(start) for start in (0, 600)]
    with dask.config.set(scheduler="threads", num_workers=2):
        model = fit(data)
        fit(data, persist=False)
        assert model.score(data) > 0.9


def fit_within_a_task():
    frame = merged(dd.from_pandas(TABLE, npartitions=3))
    return [fit(frame[F], frame["y"], frame["w"], persist=persist) for persist in (True, False)]


@pytest.mark.deep
def test_a_fit_within_a_task():
    """It leaves the only thread of the cluster to the tasks that it waits for."""
    with cluster_of(1, processes=False) as client:
        for model in client.submit(fit_within_a_task).result(timeout=100):
            assert_same(model, local_fit(TABLE))


# --- sources that change ---------------------------------------------------------------------------------------------


TIMES = collections.Counter()       # apart from the objects, of which a cluster may make copies


class Changing:
    """Rows that are others each time that they are read."""

    def __init__(self, change):
        self.change, self.name = change, os.urandom(8).hex()

    def __dask_tokenize__(self):
        return self.name

    def read(self, start):
        TIMES[self.name] += start == 600
        part = TABLE[start : start + 600]
        return part if TIMES[self.name] < 3 or start == 0 else self.change(part)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda part: part[:-1], "partition 1 has 599 rows, but had 600 in the first pass: with persist=False a sour"),
        (lambda part: part[:0], "partition 1 has 0 rows, but had 600 in the first pass"),
        (lambda part: part.assign(y=1), "partition 1 has other labels or weights than in the first pass"),
        (lambda part: part.assign(w=part.w * 2), "partition 1 has other labels or weights than in the first pass"),
        (lambda part: part.assign(y=7), r"partition 1: y\[0\] is 7, which is not one of the classes"),
    ],
)
@pytest.mark.parametrize("class_weight", [None, "balanced"])
def test_a_source_that_changes(engine, change, message, class_weight):
    frame = dd.from_map(Changing(change).read, [0, 600], meta=TABLE[:0])
    with pytest.raises(ValueError, match=message):
        xent.dask.LogisticRegression(class_weight=class_weight).fit(frame[F], frame["y"], frame["w"], persist=False)


def test_errors_on_a_cluster(two_workers):
    """That come as they were raised, not as those of a task."""
    frame = dd.from_pandas(TABLE, npartitions=3)
    with two_workers.as_current():
        model = fit(frame[F], frame["y"])
        with pytest.raises(ValueError, match=r"^partition \d: y has string labels, such as 'low'; they must be number"):
            model.score(frame[F], frame["s"])
        with pytest.raises(ValueError, match=r"^partition \d: the index of y is 1 in row 0, but that of X is 0; both"):
            model.score([dask.delayed(TABLE[F])], [dask.delayed(TABLE["y"].set_axis(np.arange(len(TABLE)) + 1))])
        changing = dd.from_map(Changing(lambda part: part[:-1]).read, [0, 600], meta=TABLE[:0])
        with pytest.raises(ValueError, match=r"^partition 1 has 599 rows, but had 600 in the first pass"):
            fit(changing[F], changing["y"], persist=False)


# --- readers that fail -----------------------------------------------------------------------------------------------


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
    """Dask kills a worker at 95 % of its limit. It takes 170 MB itself, and reads some blocks ahead, of 40 MB each with
    the pages of the file; all of X takes 2.4 GB."""
    random = np.random.default_rng(0)
    X = random.standard_normal((6_000_000, 100), np.float32)
    y = (X[:, :3] + random.gumbel(size=(len(X), 3))).argmax(axis=1)
    np.save(tmp_path / "X.npy", X)
    local = xent.LogisticRegression(tol=1e-6).fit(X, y)
    rows, path = 50_000, str(tmp_path / "X.npy")

    def read(start, labels):
        return np.load(path, mmap_mode="r")[start : start + rows].copy(), labels

    parts = [dask.delayed(read)(start, y[start : start + rows].astype(np.int8)) for start in range(0, len(X), rows)]
    with cluster_of(1, processes=True, memory_limit=X.nbytes // 4) as client:
        workers = set(client.run(os.getpid).values())
        model = xent.dask.LogisticRegression(tol=1e-6).fit(parts, persist=False)
        assert set(client.run(os.getpid).values()) == workers
    assert objective(model, X, y, np.ones(len(X))) == pytest.approx(objective(local, X, y, np.ones(len(X))), rel=1e-9)
