"""Rounds: exact sums, time, and fits that go on whatever becomes of workers and clients."""

import math
import os
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest
from dask_data import CLASSES, TIGHT, arrays, assert_same, cluster_of, problem

import xent
import xent.dask
from xent.dask.tasks import add_sums, round_sums, sum_over


def total(terms, groups):
    sums, seconds = add_sums([sum_over(terms[group], group, np.copy, []) for group in groups])
    assert seconds > 0
    return round_sums(sums)


def test_sums_have_the_same_bits_in_any_order():
    random = np.random.default_rng(0)
    terms = random.normal(size=(40, 15)) * 10.0 ** random.integers(-12, 12, size=(40, 15))
    terms[20:] = -terms[:20] * (1 + 1e-15 * random.normal(size=(20, 15)))       # cancel, nearly
    exact = [math.fsum(column) for column in terms.T]
    for _ in range(20):
        order = random.permutation(40)
        cuts = np.sort(random.choice(np.arange(1, 40), 6, replace=False))
        np.testing.assert_array_equal(total(terms, np.split(order, cuts)), exact)


def test_infinite_sums_are_no_nan():
    assert total(np.array([[1.0], [np.inf], [2.0]]), [[0, 1], [2]]) == np.inf
    assert np.isnan(total(np.array([[1.0], [np.nan]]), [[0, 1]]))


def test_the_sums_do_not_depend_on_who_computes_them(two_workers):
    X, y, weight = problem(np.float32)
    with two_workers.as_current():
        first = xent.dask.LogisticRegression(tol=1e-5).fit(*arrays(X, y, 75, weight))
    with cluster_of(3, processes=False) as client, client.as_current():
        second = xent.dask.LogisticRegression(tol=1e-5).fit(*arrays(X, y, 75, weight))
    np.testing.assert_array_equal(first.coef_, second.coef_)
    assert first.objective_ == second.objective_


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


# --- fits that go on -------------------------------------------------------------------------------------------------


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
    with pytest.raises(ValueError, match="is of another fit, which differs in 1 / C"):
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
from dask_data import TIGHT, arrays, problem
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
