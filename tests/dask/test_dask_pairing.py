"""Rows stay together on Dask: what is given to one call is planned together, whatever made it, and read once a pass."""

import collections
import contextlib
import os
import threading

import numpy as np
import pytest
from test_dask import assert_same, cluster_of

import xent

dask = pytest.importorskip("dask")
distributed = pytest.importorskip("distributed")
pandas = pytest.importorskip("pandas")
dd = pytest.importorskip("dask.dataframe")
import dask.array as da  # noqa: E402

import xent.dask  # noqa: E402

# What Dask's own threads and sockets leave behind when a cluster stops is not what is tested.
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning"),
]

ROWS = 1200
F = list("abcd")
QUICK = {"C": 0.001, "tol": 1e-9}        # to the minimum in few passes


def table():
    """Labels follow from the features of the same row, so that a fit to rows that belong together is nearly perfect."""
    random = np.random.default_rng(0)
    frame = pandas.DataFrame(random.normal(size=(ROWS, 4)), columns=F)
    frame["i"] = random.integers(0, 20, ROWS)
    frame["k"] = np.arange(ROWS)
    frame["w"] = random.uniform(0.5, 2, ROWS)
    frame["y"] = (frame.a + frame.b > 0).astype(int)
    frame["s"] = np.array(["low", "top"])[frame.y]
    return frame


TABLE = table()
OTHER = pandas.DataFrame({"i": np.arange(20), "z": np.arange(20.0)})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Of 8 files, each with an index of its own; Dask fuses their partitions if few columns are asked for."""
    path = tmp_path_factory.mktemp("table")
    for i in range(8):
        TABLE[150 * i : 150 * (i + 1)].reset_index(drop=True).to_parquet(path / f"{i}.parquet")
    return str(path)


@pytest.fixture(scope="module")
def two_workers():
    """Not for all that follows: while there is a default client, Dask plans merges for its workers."""
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=False, dashboard_address=":0", silence_logs=50
        ) as cluster,
        distributed.Client(cluster, set_as_default=False) as client,
    ):
        yield client


DEEP = [pytest.param(name, marks=pytest.mark.deep) for name in ("synchronous", "cluster")]


@pytest.fixture(params=["threads", *DEEP])
def engine(request):
    """Without a cluster, and in deep runs with one."""
    with on(request):
        yield


@pytest.fixture(params=["threads", "cluster"])
def both(request):
    with on(request):
        yield


@contextlib.contextmanager
def on(request):
    if request.param == "cluster":
        with request.getfixturevalue("two_workers").as_current():
            yield
    else:
        with dask.config.set(scheduler=request.param):
            yield


def fit(*data, **options):
    return xent.dask.LogisticRegression(**QUICK).fit(*data, **options)


def local_fit(frame, labels="y", weight="w"):
    return xent.LogisticRegression(**QUICK).fit(frame[F], frame[labels], frame[weight])


# --- columns of one frame --------------------------------------------------------------------------------------------


def merged(frame):
    return frame.merge(dd.from_pandas(OTHER, npartitions=3), on="i")


def sorted_with_ties(frame):
    return frame.sort_values("i")


def shuffled(part):
    return part.iloc[np.random.default_rng().permutation(len(part))]


def some(part):
    return part.sample(frac=0.7)


def fresh(part):
    a = np.random.default_rng().normal(size=len(part))
    return part.assign(a=a, y=(a + part.b > 0).astype(int))


SAME_ROWS = {
    "merge": merged,
    "sort_values": sorted_with_ties,
    "shuffle": lambda frame: frame.shuffle("i"),
    "random order": lambda frame: frame.map_partitions(shuffled),
    "repartition": lambda frame: frame.repartition(npartitions=3),
}
OTHER_ROWS = {
    "filter": lambda frame: frame[frame.a > 0.3],
    "random rows": lambda frame: frame.map_partitions(some),
    "random values": lambda frame: frame.map_partitions(fresh),
}


@pytest.mark.parametrize("source", ["pandas", "parquet"])
@pytest.mark.parametrize("made", SAME_ROWS | OTHER_ROWS)
def test_columns_of_one_frame(engine, folder, source, made):
    frame = dd.from_pandas(TABLE, npartitions=5) if source == "pandas" else dd.read_parquet(folder)
    frame = (SAME_ROWS | OTHER_ROWS)[made](frame)
    if made.startswith("random "):
        model = xent.dask.LogisticRegression().fit(frame[F], frame["y"], frame["w"])
        assert model.score(frame[F], frame["y"], frame["w"]) > 0.97
    if made in SAME_ROWS | {"filter": None}:
        model = fit(frame[F], frame["y"], frame["w"])
        score = model.score(frame[F], frame["y"], frame["w"])
        table = TABLE if made in SAME_ROWS else TABLE[TABLE.a > 0.3]
        assert_same(model, local_fit(table))
        assert score == pytest.approx(local_fit(table).score(table[F], table["y"], table["w"]), rel=1e-12)


@pytest.mark.parametrize(
    "made", ["merge", *(pytest.param(made, marks=pytest.mark.deep) for made in ("sort_values", "filter"))]
)
def test_frames_that_are_read_again(both, folder, made):
    """On a cluster, merges and sorts exchange rows between workers, in an order that is another one each time."""
    frame = (SAME_ROWS | OTHER_ROWS)[made](dd.read_parquet(folder))
    model = fit(frame[F], frame["y"], frame["w"], persist=False)
    assert_same(model, local_fit(TABLE if made in SAME_ROWS else TABLE[TABLE.a > 0.3]))


@pytest.mark.parametrize("made", ["merge", "random values"])
def test_frames_that_are_kept_on_a_cluster(two_workers, folder, made):
    frame = (SAME_ROWS | OTHER_ROWS)[made](dd.read_parquet(folder))
    with two_workers.as_current():
        model = xent.dask.LogisticRegression().fit(frame[F], frame["y"], frame["w"])
        assert model.score(frame[F], frame["y"], frame["w"]) > 0.97


def random_block(_):
    return np.random.default_rng().normal(size=(200, 2))


def test_arrays_and_delayed_of_one_source(engine):
    """Each block is made once, whatever is computed of it: as arrays, as a frame, or as Delayed."""
    blocks = [dask.delayed(random_block)(i) for i in range(4)]
    array = da.concatenate([da.from_delayed(block, (200, 2), float) for block in blocks])
    frame = dd.from_delayed([dask.delayed(pandas.DataFrame)(block, columns=["a", "b"]) for block in blocks])
    delayed = [dask.delayed(np.greater)(dask.delayed(np.sum)(block, axis=1), 0) for block in blocks]
    for X in (array, frame, blocks):
        for y in (array.sum(axis=1) > 0, frame["a"] + frame["b"] > 0, delayed):
            model = xent.dask.LogisticRegression().fit(X, y)
            assert min(model.coef_[0]) > 1
            assert model.score(X, y) > 0.97


@pytest.mark.deep
def test_frames_on_workers_of_other_processes(folder):
    with cluster_of(2, processes=True):
        frame = merged(dd.read_parquet(folder))
        for persist in (True, False):
            model = fit(frame[F], frame["y"], frame["w"], persist=persist)
            assert_same(model, local_fit(TABLE))
        assert model.score(frame[F], frame["y"]) > 0.97


def test_partitions_have_the_numbers_that_the_user_sees(engine, folder):
    frame = dd.read_parquet(folder)
    assert frame["y"].optimize().npartitions < frame.npartitions == 8
    bad = frame.assign(a=frame.a.where(frame.k != 700))
    for persist in (True, False):
        with pytest.raises(ValueError, match=r"^partition 4: X\[100, 0\] is nan"):
            fit(bad[["a"]], bad["y"], persist=persist)
    assert fit(frame[["a"]], frame["y"]).predict(frame[["a"]]).numblocks == (8,)


def test_predictions_of_one_frame(engine):
    frame = dd.from_pandas(TABLE, npartitions=5).map_partitions(shuffled)
    model = fit(frame[F], frame["s"])
    labels, probabilities = dask.compute(model.predict(frame[F]), model.predict_proba(frame[F]))
    np.testing.assert_array_equal(model.classes_[probabilities.argmax(axis=1)], labels)
    assert labels.shape == (ROWS,)


# --- columns that are matched by position ----------------------------------------------------------------------------


def columns(folder, kind):
    """X, y and weights, of all rows in order."""
    files, frame = dd.read_parquet(folder), dd.from_pandas(TABLE, npartitions=5)
    return {
        "arrays": lambda: (files[F].values, files["y"].values, files["w"].values),
        "array, series": lambda: (files[F].values, files["y"], files["w"]),
        "frame, arrays": lambda: (files[F], files["y"].values, files["w"].values),
        "frame, memory": lambda: (files[F], TABLE["y"].to_numpy(), TABLE["w"].tolist()),
        "array, pandas": lambda: (files[F].values, TABLE["y"], TABLE["w"]),
        "frame, pandas": lambda: (frame[F], TABLE["y"], TABLE["w"]),
        "known array, series": lambda: (da.from_array(TABLE[F].to_numpy(), chunks=(333, 3)), frame["y"], frame["w"]),
        "lengths": lambda: (frame[F].to_dask_array(lengths=True), frame["y"].to_dask_array(lengths=True), frame["w"]),
        "other divisions": lambda: (frame[F], *(dd.from_pandas(TABLE[c], npartitions=3) for c in "yw")),
        "other partitions": lambda: (frame[F], frame["y"].repartition(npartitions=2), frame["w"]),
        "delayed": lambda: (files[F].to_delayed(), files["y"].to_delayed(), files["w"].to_delayed()),
        "delayed, series": lambda: ([dask.delayed(TABLE[F])], frame["y"], frame["w"]),
        "one delayed": lambda: (dask.delayed((TABLE[F].to_numpy(), TABLE["y"], TABLE["w"])), None, None),
        "in other blocks": lambda: (
            [dask.delayed(TABLE[F].to_numpy()[s]) for s in (slice(0, 0), slice(0, 700), slice(700, ROWS), slice(0, 0))],
            *([dask.delayed(TABLE[c][s]) for s in (slice(0, 650), slice(650, 650), slice(650, ROWS))] for c in "yw"),
        ),
        "memory, series": lambda: (TABLE[F], frame["y"], frame["w"]),
    }[kind]()    # fmt: skip


KINDS = [
    "arrays", "array, series", "frame, arrays", "frame, memory", "array, pandas", "frame, pandas",
    "known array, series", "lengths", "other divisions", "other partitions", "delayed", "delayed, series",
    "one delayed", "in other blocks", "memory, series",
]    # fmt: skip


@pytest.mark.parametrize("persist", [True, pytest.param(False, marks=pytest.mark.deep)])
@pytest.mark.parametrize("kind", KINDS)
def test_other_containers_and_blocks(engine, folder, kind, persist):
    data = columns(folder, kind)
    local = local_fit(TABLE)
    model = fit(*data, persist=persist)
    assert_same(model, local)
    score = local.score(TABLE[F], TABLE["y"], TABLE["w"])
    assert model.score(*data) == pytest.approx(score, rel=1e-12)


@pytest.mark.deep
@pytest.mark.parametrize("kind", ["arrays", "frame, memory"])
def test_other_blocks_on_a_cluster(two_workers, folder, kind):
    with two_workers.as_current():
        for persist in (True, False):
            assert_same(fit(*columns(folder, kind), persist=persist), local_fit(TABLE))


def test_a_filter(engine, folder):
    frame = dd.read_parquet(folder)
    frame = frame[frame.a > 0.3]
    local = local_fit(TABLE[TABLE.a > 0.3])
    for data in ((frame[F].values, frame["y"].values, frame["w"].values), (frame[F].values, frame["y"], frame["w"])):
        assert_same(fit(*data), local)


@pytest.mark.parametrize("kind", ["string[pyarrow]", "category", object])
def test_labels_of_frames(engine, kind):
    frame = dd.from_pandas(TABLE, npartitions=5)
    labels = frame["s"].astype(kind)
    model = fit(frame[F], labels, frame["w"])
    assert_same(model, local_fit(TABLE, "s"))
    assert model.score(frame[F], labels, frame["w"]) == local_fit(TABLE).score(TABLE[F], TABLE["y"], TABLE["w"])


def test_a_table_of_one_column_is_that_column(engine):
    frame = dd.from_pandas(TABLE, npartitions=5)
    for y in (frame[["y"]], da.from_array(TABLE[["y"]].to_numpy(), chunks=(400, 1)), TABLE[["y"]]):
        with pytest.warns(UserWarning, match="column-vector y"):
            model = fit(frame[F], y, frame["w"])
        assert_same(model, local_fit(TABLE))


def test_distributions_in_a_frame(engine):
    frame = dd.from_pandas(TABLE.assign(**{f"p{k}": 0.9 * (TABLE.y == k) + 0.05 for k in range(2)}), npartitions=5)
    soft = ["p0", "p1"]
    model = fit(frame[F], frame[soft])
    np.testing.assert_allclose(model.coef_, fit(frame[F], frame[soft].to_dask_array(lengths=True)).coef_, atol=1e-9)
    assert model.score(frame[F], frame[soft]) > 0.9


def test_numbers_of_rows_that_differ(engine, folder):
    frame = dd.read_parquet(folder)
    with pytest.raises(ValueError, match="y has 600 rows in 4 partitions, but X has 1200 rows in 8; both must have"):
        fit(frame[F], frame["y"].partitions[:4])
    with pytest.raises(ValueError, match="sample_weight has 1199 rows in 1 partitions, but X has 1200 rows in 8"):
        fit(frame[F], frame["y"], TABLE["w"].to_numpy()[1:])
    with pytest.raises(ValueError, match=r"y has \d+ rows in 8 partitions, but X has 1200 rows in 8"):
        fit(frame[F], frame[frame.a > 0]["y"], persist=False)
    model = fit(frame[F], frame["y"])
    with pytest.raises(ValueError, match="y has 600 rows in 4 partitions, but X has 1200 rows in 8; both must have"):
        model.score(frame[F], frame["y"].partitions[:4])


def test_errors_on_a_cluster(two_workers):
    """That come as they were raised, not as those of a task."""
    frame = dd.from_pandas(TABLE, npartitions=3)
    with two_workers.as_current():
        model = fit(frame[F], frame["y"])
        with pytest.raises(ValueError, match=r"^partition \d: y has string labels, such as 'low'; they must be number"):
            model.score(frame[F], frame["s"])
        with pytest.raises(ValueError, match=r"^partition \d: the index of y is 1 in row 0, but that of X is 0; both"):
            model.score([dask.delayed(TABLE[F])], [dask.delayed(TABLE["y"].set_axis(np.arange(ROWS) + 1))])
        changing = dd.from_map(Changing(lambda part: part[:-1]).read, [0, 600], meta=TABLE[:0])
        with pytest.raises(ValueError, match=r"^partition 1 has 599 rows, but had 600 at the first pass"):
            fit(changing[F], changing["y"], persist=False)


def test_indexes_that_disagree(engine):
    frame = dd.from_pandas(TABLE, npartitions=3)
    moved = dd.from_pandas(TABLE.set_axis(np.roll(np.arange(ROWS), 1)), npartitions=3, sort=False)
    model = fit(frame[F], frame["y"])
    message = r"^partition \d: the index of {} is -?\d+ in row \d+, but that of {} is \d+; both must be equal"
    for data, names in (
        ((frame[F], moved["y"]), ("y", "X")),
        ((frame[F], frame["y"], moved["w"]), ("sample_weight", "X")),
        ((frame[F].to_dask_array(lengths=True), frame["y"], moved["w"]), ("sample_weight", "y")),
        ((frame[F], TABLE["y"].set_axis(np.arange(ROWS) - 1)), ("y", "X")),
        (([dask.delayed(TABLE[F])], [dask.delayed(TABLE["y"][::-1])]), ("y", "X")),
    ):
        for call in (fit, model.score, lambda *data: fit(*data, persist=False)):
            with pytest.raises(ValueError, match=message.format(*names)):
                call(*data)
    with pytest.raises(ValueError, match=r"^the index of y is 0 in row 0, but that of X is 1"):
        fit(TABLE[F].set_axis(np.arange(ROWS) + 1), frame["y"])


def test_rows_that_were_shuffled_apart(both):
    """Each array has a merge of its own, and no index."""
    frame = merged(dd.from_pandas(TABLE, npartitions=5))
    model = xent.dask.LogisticRegression(max_iter=5)
    model.__dict__.update(xent.LogisticRegression().fit(TABLE[F], TABLE["y"]).__dict__)
    for data in (
        (frame[F].values, frame["y"].values),
        (frame[F].values, frame["y"]),
        (frame[F].to_delayed(), frame["y"].to_delayed()),
    ):
        for call in (fit, model.score):
            with pytest.raises(ValueError, match="X and y are made in different shuffles"):
                call(*data)
    with pytest.raises(ValueError, match="logits and target are made in different shuffles"):
        xent.dask.evaluate(model.predict_log_proba(frame[F]), frame["y"])
    frame = frame.persist()
    assert_same(fit(frame[F].values, frame["y"].values, frame["w"]), local_fit(TABLE))


# --- how often and by whom data is read ------------------------------------------------------------------------------


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


@pytest.mark.parametrize("made", [lambda frame: frame, lambda frame: frame.shuffle("i"), merged])
@pytest.mark.parametrize("scheduler", ["threads", pytest.param("synchronous", marks=pytest.mark.deep)])
def test_each_partition_is_read_once_a_pass(calls, made, scheduler):
    source = Source()
    with dask.config.set(scheduler=scheduler):
        reads_of_passes(source, calls, made)


def reads_of_passes(source, calls, made):
    frame = made(source.frame())
    model = fit(frame[F], frame["y"], frame["w"])
    assert source.reads == dict.fromkeys(range(6), 1)
    model.score(frame[F], frame["y"], frame["w"])
    assert source.reads == dict.fromkeys(range(6), 2)
    del calls[:]
    assert_same(fit(frame[F], frame["y"], frame["w"], persist=False), model)
    assert len(calls) > 5
    assert source.reads == dict.fromkeys(range(6), 2 + len(calls))


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


def fit_within_a_task():
    frame = merged(dd.from_pandas(TABLE, npartitions=3))
    return [fit(frame[F], frame["y"], frame["w"], persist=persist) for persist in (True, False)]


@pytest.mark.deep
def test_a_fit_within_a_task():
    """It leaves the only thread of the cluster to the tasks that it waits for."""
    with (
        distributed.LocalCluster(
            n_workers=1, threads_per_worker=1, processes=False, dashboard_address=":0", silence_logs=50
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        for model in client.submit(fit_within_a_task).result(timeout=100):
            assert_same(model, local_fit(TABLE))


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
        (lambda part: part[:-1], "partition 1 has 599 rows, but had 600 at the first pass: with persist=False a sour"),
        (lambda part: part[:0], "partition 1 has 0 rows, but had 600 at the first pass"),
        (lambda part: part.assign(y=1), "partition 1 has other labels or weights than at the first pass"),
        (lambda part: part.assign(w=part.w * 2), "partition 1 has other labels or weights than at the first pass"),
        (lambda part: part.assign(y=7), r"partition 1: y\[0\] is 7, which is not one of the classes"),
    ],
)
@pytest.mark.parametrize("class_weight", [None, "balanced"])
def test_a_source_that_changes(engine, change, message, class_weight):
    frame = dd.from_map(Changing(change).read, [0, 600], meta=TABLE[:0])
    with pytest.raises(ValueError, match=message):
        xent.dask.LogisticRegression(class_weight=class_weight).fit(frame[F], frame["y"], frame["w"], persist=False)


def test_partitions_that_are_empty(engine):
    frame = dd.from_pandas(TABLE, npartitions=6)
    frame = frame[frame.k < 500]
    for persist in (True, False):
        model = fit(frame[F], frame["y"], frame["w"], persist=persist)
        assert_same(model, local_fit(TABLE[:500]))
    assert model.predict(frame[F]).compute().shape == (500,)


# --- targets that do not belong --------------------------------------------------------------------------------------


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


# --- evaluation ------------------------------------------------------------------------------------------------------


def test_evaluate_columns_of_one_frame(both):
    frame = dd.from_pandas(TABLE, npartitions=5).map_partitions(shuffled).shuffle("i")
    result = xent.dask.evaluate(frame[F], frame["y"], sample_weight=frame["w"])
    assert result == xent.evaluate(TABLE[F].to_numpy(), TABLE["y"], sample_weight=TABLE["w"])


@pytest.mark.parametrize("kind", KINDS[:10])
def test_evaluate_other_containers_and_blocks(engine, folder, kind):
    logits, target, weight = columns(folder, kind)
    result = xent.dask.evaluate(logits, target, sample_weight=weight)
    assert result == xent.evaluate(TABLE[F].to_numpy(), TABLE["y"], sample_weight=TABLE["w"])


@pytest.mark.deep
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_evaluate_several_axes(engine, axis):
    random = np.random.default_rng(0)
    logits = np.moveaxis(random.normal(size=(60, 9, 5, 4)), -1, axis)
    target = random.integers(0, 4, size=(60, 9, 5))
    shape = np.moveaxis(np.zeros((17, 4, 2, 3)), -1, axis).shape
    data = da.from_array(logits, chunks=shape)
    expected = xent.evaluate(logits, target, axis=axis)
    for blocks in ((17, 4, 2), (20, 9, 5), (60, 1, 3)):
        assert xent.dask.evaluate(data, da.from_array(target, chunks=blocks), axis=axis) == expected
    assert xent.dask.evaluate(data, target, axis=axis) == expected
    if axis == -1:
        keep = random.uniform(size=60) < 0.6
        some_logits = data[da.from_array(keep, chunks=17)]
        some_targets = da.from_array(target, chunks=(23, 9, 1))[da.from_array(keep, chunks=23)]
        assert xent.dask.evaluate(some_logits, some_targets) == xent.evaluate(logits[keep], target[keep])


def test_evaluate_what_does_not_fit(engine):
    frame = dd.from_pandas(TABLE, npartitions=5)
    moved = dd.from_pandas(TABLE.set_axis(np.roll(np.arange(ROWS), 1)), npartitions=5, sort=False)
    with pytest.raises(ValueError, match=r"^partition \d: the index of target is"):
        xent.dask.evaluate(frame[F], moved["y"])
    with pytest.raises(TypeError, match=r"^partition \d: target"):
        xent.dask.evaluate(frame[F], frame["y"].astype(float))
    with pytest.raises(ValueError, match=r"^partition \d: target\[\d+\] is 9"):
        xent.dask.evaluate(frame[F], frame["y"].replace(0, 9))
    with pytest.raises(ValueError, match="target has 100 rows in 1 partitions, but logits has 1200 rows in 5"):
        xent.dask.evaluate(frame[F], TABLE["y"][:100])
    with pytest.raises(ValueError, match=r"target has shape \(60, 3\); it must have shape \(60, 2\)"):
        xent.dask.evaluate(da.zeros((60, 2, 4), chunks=20), np.zeros((60, 3), int))
    with pytest.raises(ValueError, match="axis is 0; it must be -1 or 1"):
        xent.dask.evaluate(frame[F], frame["y"], axis=0)
    assert xent.dask.evaluate(da.from_array([1.0, 2.0], chunks=1), 1).accuracy == 1


# --- what Dask says of an index, and what it does not ----------------------------------------------------------------


def test_divisions_that_are_not_those_of_the_index(engine):
    """Rows are matched by position and by the lengths of partitions; none is lost."""
    a = np.random.default_rng(0).normal(size=40)

    def reset(part):
        return part.reset_index(drop=True)

    X = dd.from_pandas(pandas.DataFrame({"a": a}), npartitions=2).map_partitions(reset)
    labels = pandas.Series(1 * (a > 0), index=2 * np.arange(40), name="y")
    y = dd.from_pandas(labels, npartitions=2).map_partitions(reset)
    expected = xent.LogisticRegression().fit(a[:, None], a > 0).coef_
    np.testing.assert_allclose(xent.dask.LogisticRegression().fit(X, y).coef_, expected, atol=1e-4)
    whole = X.repartition(npartitions=1).map_partitions(reset)
    model = xent.dask.LogisticRegression().fit(whole.values, y.values)
    np.testing.assert_allclose(model.coef_, expected, atol=1e-4)
    assert model.score(X.values, y.values) == xent.LogisticRegression().fit(a[:, None], a > 0).score(a[:, None], a > 0)


def test_one_side_of_a_shuffle(engine):
    """Its rows are in no fixed order: what is not made in it with them may be in another."""
    frame = pandas.DataFrame({"a": np.random.default_rng(1).normal(size=400), "g": np.arange(400) % 5})
    frame["y"] = 1 * (frame.a > 0)
    mixed = dd.from_pandas(frame, npartitions=4).sort_values("g")
    held, labels = mixed[["a"]].values.persist(), mixed["y"].compute().to_numpy()
    for X, y in ((held, mixed["y"].values), (held, mixed["y"]), (mixed[["a"]], labels)):
        with pytest.raises(ValueError, match="only one of them in a shuffle, which leaves rows in no fixed order"):
            xent.dask.LogisticRegression().fit(X, y)
    whole = mixed.persist()
    model = xent.dask.LogisticRegression().fit(whole[["a"]].values, whole["y"].values)
    assert model.score(whole[["a"]].values, whole["y"].values) > 0.99


def test_indexes_of_other_types(engine):
    a = np.random.default_rng(0).normal(size=40)
    frame = pandas.DataFrame({"a": a})
    for kind in ("Int64", "int32", "float64"):
        y = pandas.Series(1 * (a > 0), index=frame.index.astype(kind))
        model = xent.dask.LogisticRegression().fit(dd.from_pandas(frame, npartitions=2), y)
        assert model.score(dd.from_pandas(frame, npartitions=2), y) > 0.9


def test_delayed_as_dask_returns_them(engine):
    X, y = da.from_array(np.arange(40.0)[:, None], chunks=(10, 1)), da.from_array(np.arange(40) // 20, chunks=10)
    model = xent.dask.LogisticRegression().fit(X.to_delayed(), y.to_delayed())
    np.testing.assert_array_equal(model.coef_, xent.dask.LogisticRegression().fit(X, y).coef_)
    lists = [dask.delayed(np.arange(40.0)[:, None].tolist())]
    np.testing.assert_array_equal(model.predict(lists).compute(), model.predict(X).compute())
    with pytest.raises(ValueError, match=r"^sample_weight is 2.0; it must have a value for each row of X"):
        model.fit(X, y, 2.0)
