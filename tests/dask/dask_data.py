"""Problems that the tests of Dask fit, and how they are compared with fits on one machine."""

import contextlib

import dask
import dask.array as da
import dask.dataframe as dd
import distributed
import numpy as np
import pandas
import pytest

import xent
import xent.dask

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
def cluster_of(workers, *, processes, default=True, **options):
    with (
        distributed.LocalCluster(
            n_workers=workers, threads_per_worker=1, processes=processes, dashboard_address=":0", silence_logs=50,
            **options,
        ) as cluster,
        distributed.Client(cluster, set_as_default=default) as client,
    ):
        yield client    # fmt: skip


# --- a table whose labels follow from the features -------------------------------------------------------------------


F = list("abcd")
QUICK = {"C": 0.001, "tol": 1e-9}        # to the minimum in few passes


def table():
    """Labels follow from the features of the same row, so that a fit to rows that belong together is nearly perfect."""
    rows, random = 1200, np.random.default_rng(0)
    frame = pandas.DataFrame(random.normal(size=(rows, 4)), columns=F)
    frame["i"] = random.integers(0, 20, rows)
    frame["k"] = np.arange(rows)
    frame["w"] = random.uniform(0.5, 2, rows)
    frame["y"] = (frame.a + frame.b > 0).astype(int)
    frame["s"] = np.array(["low", "top"])[frame.y]
    return frame


TABLE = table()

OTHER = pandas.DataFrame({"i": np.arange(20), "z": np.arange(20.0)})


def fit(*data, **options):
    return xent.dask.LogisticRegression(**QUICK).fit(*data, **options)


def local_fit(frame, labels="y", weight="w"):
    return xent.LogisticRegression(**QUICK).fit(frame[F], frame[labels], frame[weight])


# --- what frames are made by -----------------------------------------------------------------------------------------


def merged(frame):
    return frame.merge(dd.from_pandas(OTHER, npartitions=3), on="i")


def shuffled(part):
    return part.iloc[np.random.default_rng().permutation(len(part))]


# --- containers and blocks -------------------------------------------------------------------------------------------


def cut(values, *ends):
    """Blocks of rows up to each of the ends."""
    return [values[start:end] for start, end in zip((0, *ends), ends, strict=False)]


def delayed(values, *ends):
    return [dask.delayed(block) for block in cut(values, *ends)]


X, Y, W = TABLE[F].to_numpy(), TABLE["y"].to_numpy(), TABLE["w"].to_numpy()

# X, y and weights of all rows in order, from a frame of 8 files and one of 5 partitions.
CONTAINERS = {
    "arrays": lambda files, frame: (files[F].values, files["y"].values, files["w"].values),
    "array, series": lambda files, frame: (files[F].values, files["y"], files["w"]),
    "frame, arrays": lambda files, frame: (files[F], files["y"].values, files["w"].values),
    "frame, memory": lambda files, frame: (files[F], Y, W.tolist()),
    "array, pandas": lambda files, frame: (files[F].values, TABLE["y"], TABLE["w"]),
    "frame, pandas": lambda files, frame: (frame[F], TABLE["y"], TABLE["w"]),
    "known array, series": lambda files, frame: (da.from_array(X, chunks=(333, 3)), frame["y"], frame["w"]),
    "known arrays": lambda files, frame: (da.from_array(X, chunks=(400, 4)), da.from_array(Y, chunks=333), W),
    "lengths": lambda files, frame: (*(frame[c].to_dask_array(lengths=True) for c in (F, "y")), frame["w"]),
    "other divisions": lambda files, frame: (frame[F], *(dd.from_pandas(TABLE[c], npartitions=3) for c in "yw")),
    "other partitions": lambda files, frame: (frame[F], frame["y"].repartition(npartitions=2), frame["w"]),
}
DELAYED = {
    "delayed": lambda files, frame: (files[F].to_delayed(), files["y"].to_delayed(), files["w"].to_delayed()),
    "delayed, series": lambda files, frame: ([dask.delayed(TABLE[F])], frame["y"], frame["w"]),
    "one delayed": lambda files, frame: (dask.delayed((X, TABLE["y"], TABLE["w"])), None, None),
    "delayed tuples": lambda files, frame: (
        [dask.delayed(block) for block in zip(*(cut(a, 700, 700, 1200) for a in (X, Y, W)), strict=True)], None, None
    ),
    "delayed, other blocks": lambda files, frame: (
        delayed(X, 0, 700, 1200, 1200), *(delayed(TABLE[c], 650, 650, 1200) for c in "yw")
    ),
    "memory, series": lambda files, frame: (TABLE[F], frame["y"], frame["w"]),
}    # fmt: skip


def columns(folder, kind):
    return (CONTAINERS | DELAYED)[kind](dd.read_parquet(folder), dd.from_pandas(TABLE, npartitions=5))
