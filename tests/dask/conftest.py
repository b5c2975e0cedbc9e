"""The engines that tests of Dask run on."""

import contextlib
import importlib.util

import pytest

MISSING = [name for name in ("distributed", "pandas", "pyarrow") if importlib.util.find_spec(name) is None]
if MISSING:
    collect_ignore_glob = ["test_*.py"]     # they import these
else:
    import dask
    from dask_data import TABLE, cluster_of

# Dask's threads and sockets leave these behind when a cluster stops.
LEFT_BEHIND = (
    "ignore::ResourceWarning",
    "ignore::pytest.PytestUnraisableExceptionWarning",
    "ignore::pytest.PytestUnhandledThreadExceptionWarning",
)


def pytest_terminal_summary(terminalreporter):
    if MISSING:
        terminalreporter.write_line(f"SKIPPED tests/dask: could not import {', '.join(MISSING)}")


def pytest_collection_modifyitems(items):
    for item in items:
        if item.path.parent.name == "dask":
            for warning in LEFT_BEHIND:
                item.add_marker(pytest.mark.filterwarnings(warning))


@pytest.fixture(scope="module")
def two_workers():
    """Not the default client: while there is one, Dask plans merges for its workers."""
    with cluster_of(2, processes=False, default=False) as client:
        yield client


DEEP = [pytest.param(name, marks=pytest.mark.deep) for name in ("synchronous", "cluster")]


@pytest.fixture(params=["threads", *DEEP])
def engine(request):
    """Dask's schedulers; in deep runs a cluster, too."""
    with on(request):
        yield


@pytest.fixture(params=["threads", "cluster"])
def both(request):
    """With and without a cluster in every run."""
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


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Of 8 files, each with an index of its own; Dask fuses their partitions if few columns are asked for."""
    path = tmp_path_factory.mktemp("table")
    for i in range(8):
        TABLE[150 * i : 150 * (i + 1)].reset_index(drop=True).to_parquet(path / f"{i}.parquet")
    return str(path)
