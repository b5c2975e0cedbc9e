"""Rows stay together: what is passed to one call is planned together, whatever made it."""

import dask
import dask.array as da
import dask.dataframe as dd
import numpy as np
import pandas
import pytest
from dask_data import (
    CONTAINERS,
    DELAYED,
    TABLE,
    TIGHT,
    F,
    arrays,
    assert_same,
    cluster_of,
    columns,
    fit,
    local_fit,
    merged,
    problem,
    shuffled,
)

import xent
import xent.dask


def sorted_with_ties(frame):
    return frame.sort_values("i")


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


# --- columns that are matched by position ----------------------------------------------------------------------------


@pytest.mark.parametrize("persist", [True, pytest.param(False, marks=pytest.mark.deep)])
@pytest.mark.parametrize("kind", CONTAINERS | DELAYED)
def test_other_containers_and_blocks(engine, folder, kind, persist):
    data = columns(folder, kind)
    local = local_fit(TABLE)
    model = fit(*data, persist=persist)
    assert_same(model, local)
    score = local.score(TABLE[F], TABLE["y"], TABLE["w"])
    assert model.score(*data) == pytest.approx(score, rel=1e-12)


def test_a_filter(engine, folder):
    frame = dd.read_parquet(folder)
    frame = frame[frame.a > 0.3]
    local = local_fit(TABLE[TABLE.a > 0.3])
    for data in ((frame[F].values, frame["y"].values, frame["w"].values), (frame[F].values, frame["y"], frame["w"])):
        assert_same(fit(*data), local)


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


def test_delayed_as_dask_returns_them(engine):
    X, y = da.from_array(np.arange(40.0)[:, None], chunks=(10, 1)), da.from_array(np.arange(40) // 20, chunks=10)
    model = xent.dask.LogisticRegression().fit(X.to_delayed(), y.to_delayed())
    np.testing.assert_array_equal(model.coef_, xent.dask.LogisticRegression().fit(X, y).coef_)
    lists = [dask.delayed(np.arange(40.0)[:, None].tolist())]
    np.testing.assert_array_equal(model.predict(lists).compute(), model.predict(X).compute())


def test_numbers_of_rows_that_differ(engine, folder):
    frame = dd.read_parquet(folder)
    with pytest.raises(ValueError, match="y has 600 rows in 4 partitions, but X has 1200 rows in 8 partitions; both"):
        fit(frame[F], frame["y"].partitions[:4])
    with pytest.raises(ValueError, match="sample_weight has 1199 rows, but X has 1200 rows in 8"):
        fit(frame[F], frame["y"], TABLE["w"].to_numpy()[1:])
    with pytest.raises(ValueError, match=r"y has \d+ rows in 8 partitions, but X has 1200 rows in 8"):
        fit(frame[F], frame[frame.a > 0]["y"], persist=False)
    model = fit(frame[F], frame["y"])
    with pytest.raises(ValueError, match="y has 600 rows in 4 partitions, but X has 1200 rows in 8 partitions; both"):
        model.score(frame[F], frame["y"].partitions[:4])


# --- shuffles and indexes --------------------------------------------------------------------------------------------


def test_indexes_that_disagree(engine):
    frame = dd.from_pandas(TABLE, npartitions=3)
    moved = dd.from_pandas(TABLE.set_axis(np.roll(np.arange(len(TABLE)), 1)), npartitions=3, sort=False)
    model = fit(frame[F], frame["y"])
    message = r"^partition \d: the index of {} is -?\d+ in row \d+, but that of {} is \d+; both must be equal"
    for data, names in (
        ((frame[F], moved["y"]), ("y", "X")),
        ((frame[F], frame["y"], moved["w"]), ("sample_weight", "X")),
        ((frame[F].to_dask_array(lengths=True), frame["y"], moved["w"]), ("sample_weight", "y")),
        ((frame[F], TABLE["y"].set_axis(np.arange(len(TABLE)) - 1)), ("y", "X")),
        (([dask.delayed(TABLE[F])], [dask.delayed(TABLE["y"][::-1])]), ("y", "X")),
    ):
        for call in (fit, model.score, lambda *data: fit(*data, persist=False)):
            with pytest.raises(ValueError, match=message.format(*names)):
                call(*data)
    with pytest.raises(ValueError, match=r"^the index of y is 0 in row 0, but that of X is 1"):
        fit(TABLE[F].set_axis(np.arange(len(TABLE)) + 1), frame["y"])


def test_indexes_of_other_types(engine):
    a = np.random.default_rng(0).normal(size=40)
    frame = pandas.DataFrame({"a": a})
    for kind in ("Int64", "int32", "float64"):
        y = pandas.Series(1 * (a > 0), index=frame.index.astype(kind))
        model = xent.dask.LogisticRegression().fit(dd.from_pandas(frame, npartitions=2), y)
        assert model.score(dd.from_pandas(frame, npartitions=2), y) > 0.9


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
            with pytest.raises(ValueError, match="X and y do not come from the same shuffle"):
                call(*data)
    with pytest.raises(ValueError, match="logits and target do not come from the same shuffle"):
        xent.dask.evaluate(model.predict_log_proba(frame[F]), frame["y"])
    frame = frame.persist()
    assert_same(fit(frame[F].values, frame["y"].values, frame["w"]), local_fit(TABLE))


def test_one_side_of_a_shuffle(engine):
    """Its rows are in no fixed order: what is not made in it with them may be in another."""
    frame = pandas.DataFrame({"a": np.random.default_rng(1).normal(size=400), "g": np.arange(400) % 5})
    frame["y"] = 1 * (frame.a > 0)
    mixed = dd.from_pandas(frame, npartitions=4).sort_values("g")
    held, labels = mixed[["a"]].values.persist(), mixed["y"].compute().to_numpy()
    for X, y in ((held, mixed["y"].values), (held, mixed["y"]), (mixed[["a"]], labels)):
        with pytest.raises(ValueError, match="do not come from the same shuffle"):
            xent.dask.LogisticRegression().fit(X, y)
    whole = mixed.persist()
    model = xent.dask.LogisticRegression().fit(whole[["a"]].values, whole["y"].values)
    assert model.score(whole[["a"]].values, whole["y"].values) > 0.99
