"""Threads: the same bits for any number of them; calls from other threads and processes, and at exit."""

import _thread
import os
import sysconfig
import threading
import time
from queue import SimpleQueue

import numpy as np
import pytest
from reference import DTYPES, assert_same_bits

import xent
from xent._calls import cpus, threads
from xent._calls.dispatch import kernels
from xent._core import scheduler

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform cannot fork")


@pytest.fixture(autouse=True)
def _threads():
    before = xent.get_num_threads()
    yield
    xent.set_num_threads(before)


# --- the same bits ---------------------------------------------------------------------------------------------------

SHAPES = [(40, 500), (2000, 11), (7, 3, 1000), (2, 10_000), (20_000, 1)]


@pytest.fixture
def small_blocks(monkeypatch):
    """Cut small arrays into blocks and share them among threads, as large ones are."""
    monkeypatch.setattr(threads, "BLOCK_ELEMENTS", 1000)
    monkeypatch.setattr(threads, "THREAD_ELEMENTS", 2000)


def arguments(shape, dtype):
    rng = np.random.default_rng(0)
    x = rng.standard_normal(shape, np.float32).astype(dtype)
    return x, rng.integers(shape[-1], size=shape[:-1]), rng.integers(1, 4, shape[:-1]) / 2


def calls(shape, dtype):
    """Every function, as a function of the number of threads."""
    x, labels, weight = arguments(shape, dtype)
    target = np.abs(x)
    proba = target / (1 + target)
    sparse = np.stack([labels, np.zeros_like(labels)], -1), np.stack([weight, weight / 3], -1)
    options = {"sample_weight": weight, "return_grad": True}

    def evaluate(n, ref=None):
        loss, accuracy, topk, *rest = xent.evaluate(x, labels, sample_weight=weight, reference=ref, n_threads=n)
        return loss, accuracy, *topk.values(), *rest

    return {
        "logsumexp": lambda n: xent.logsumexp(x, n_threads=n),
        "logsumexp with factors": lambda n: xent.logsumexp(x, b=x, return_sign=True, n_threads=n),
        "softmax": lambda n: xent.softmax(x, n_threads=n),
        "masked softmax": lambda n: xent.softmax(x, where=target > 0.25, n_threads=n),
        "masked logsumexp": lambda n: xent.logsumexp(x, where=target > 0.25, n_threads=n),
        "softmax of the last two axes": lambda n: xent.softmax(x.reshape(-1, 1, *shape[-1:]), axis=(1, 2), n_threads=n),
        "log_softmax of the first axis": lambda n: xent.log_softmax(x, axis=0, n_threads=n),
        "labels, mean": lambda n: xent.cross_entropy(x, labels, n_threads=n, **options),
        "labels, none": lambda n: xent.cross_entropy(x, labels, reduction="none", n_threads=n, **options),
        "distribution": lambda n: xent.cross_entropy(x, target, n_threads=n, **options),
        "distribution, none": lambda n: xent.cross_entropy(x, target, reduction="none", n_threads=n, **options),
        "sparse": lambda n: xent.cross_entropy(x, sparse, n_threads=n, **options),
        "evaluate": evaluate,
        "fit_temperature": lambda n: xent.fit_temperature(x, labels, sample_weight=weight, n_threads=n),
        "evaluate, reference": lambda n: evaluate(n, target),
        "divergence, mean": lambda n: xent.kl_divergence(x, target, n_threads=n, **options),
        "divergence, none": lambda n: xent.kl_divergence(x, target, reduction="none", n_threads=n, **options),
        "categorical_cross_entropy": lambda n: xent.categorical_cross_entropy(proba, labels, n_threads=n),
        "binary": lambda n: xent.binary_cross_entropy_with_logits(x, proba, return_grad=True, n_threads=n),
        "binary, none": lambda n: xent.binary_cross_entropy_with_logits(
            x, proba, reduction="none", return_grad=True, n_threads=n
        ),
        "probabilities": lambda n: xent.binary_cross_entropy(proba, proba, return_grad=True, n_threads=n),
    }


UNREDUCED = ["logsumexp", "logsumexp with factors", "softmax", "masked softmax", "masked logsumexp",
             "log_softmax of the first axis", "labels, none", "distribution, none", "divergence, none",
             "binary, none"]      # fmt: skip


def assert_equal_results(a, b):
    for one, other in zip(a if isinstance(a, tuple) else (a,), b if isinstance(b, tuple) else (b,), strict=True):
        assert_same_bits(np.asarray(one), np.asarray(other))


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_number_of_threads(shape, dtype, monkeypatch):
    """What is not summed over the blocks does not depend on their size, either."""
    assert threads.cut(np.prod(shape[:-1]), shape[-1], 8).number > 1
    serial = {name: call(1) for name, call in calls(shape, dtype).items()}
    for name, call in calls(shape, dtype).items():
        for n_threads in (2, 3, 7):
            assert_equal_results(call(n_threads), serial[name])
        xent.set_num_threads(2)
        assert_equal_results(call(None), serial[name])
    for elements in (1, 777, 5000):
        monkeypatch.setattr(threads, "BLOCK_ELEMENTS", elements)
        for name in UNREDUCED:
            assert_equal_results(calls(shape, dtype)[name](3), serial[name])


@pytest.mark.parametrize("name", calls((1, 1), np.float32))
def test_large_arrays(name):
    """Large enough for 8 threads."""
    call = calls((300, 4000), np.float32)[name]
    assert threads.cut(300, 4000, 8).threads == 8
    assert_equal_results(call(8), call(1))


@pytest.mark.parametrize("n_threads", [1, 2, 8])
def test_in_place(n_threads):
    x, labels, _ = arguments((300, 4000), np.float32)
    expected = xent.cross_entropy(x, labels, return_grad=True, n_threads=1)
    assert_equal_results(xent.cross_entropy(x, labels, grad_out=x, n_threads=n_threads), expected)


# --- the blocks ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("units", "elements"), [(0, 5), (1, 0), (1, 10**9), (10**9, 1), (70_000, 10), (5, 10**6), (0, 0)]
)
def test_blocks_cover_the_work(units, elements):
    blocks = threads.cut(units, elements, 4)
    assert (blocks.number - 1) * blocks.size < max(units, 1)
    assert units <= blocks.number * blocks.size
    assert blocks.number <= scheduler.MAX_BLOCKS
    assert 1 <= blocks.threads <= 4
    assert threads.cut(units, elements, 1)[:2] == blocks[:2]


def sums_of_rows(n_threads):
    """A kernel's results for 20 blocks of one row."""
    x = np.random.default_rng(0).normal(size=(20, 50_000))
    out = np.full(20, np.nan)
    threads.Blocks(20, 1, n_threads).run(kernels.logsumexp, x, None, None, out, None, 1)
    return out


@pytest.mark.parametrize("n_threads", [2, 5, 40])
def test_every_block_is_done(n_threads):
    expected = sums_of_rows(1)
    for _ in range(20):
        np.testing.assert_array_equal(sums_of_rows(n_threads), expected)


def test_no_thread_can_start(monkeypatch):
    """The system may refuse to start a thread, the first one or a later one."""

    asked = []

    def start(*args):
        asked.append(args)
        if len(asked) > 1:
            raise RuntimeError("can't start new thread")
        return _thread.start_new_thread(*args)

    expected = sums_of_rows(1)
    monkeypatch.setattr(scheduler, "count_idle_workers", lambda: 0)
    monkeypatch.setattr(threads, "MAX_WORKERS", 100)
    pool = scheduler.Pool(SimpleQueue(), start)
    monkeypatch.setattr(threads, "_pool", pool)
    for _ in range(3):
        np.testing.assert_array_equal(sums_of_rows(3), expected)
    assert len(asked) > 1
    assert pool.size == 1
    pool.close()


def test_busy_workers_are_not_awaited(monkeypatch):
    """If a call finishes before a worker starts, it does not wait for the worker."""
    expected = sums_of_rows(1)
    release = threading.Event()
    pool = scheduler.Pool(SimpleQueue(), _thread.start_new_thread)
    monkeypatch.setattr(threads, "_pool", pool)
    pool.submit(lambda: release.wait(30), 1)
    np.testing.assert_array_equal(sums_of_rows(2), expected)
    assert pool.size == 1
    assert pool.calls.qsize() == 1
    release.set()
    pool.close()


def test_workers_are_not_asked_for_again_and_again(monkeypatch):
    """While no worker starts, later calls do not ask for more of them again and again."""
    expected = sums_of_rows(1)
    release = threading.Event()
    monkeypatch.setattr(threads, "MAX_WORKERS", 3)
    monkeypatch.setattr(scheduler, "count_idle_workers", lambda: 0)
    pool = scheduler.Pool(SimpleQueue(), _thread.start_new_thread)
    monkeypatch.setattr(threads, "_pool", pool)
    for _ in range(3):
        pool.submit(lambda: release.wait(30), 3)
    for _ in range(20):
        np.testing.assert_array_equal(sums_of_rows(2), expected)
    assert pool.size == 3
    assert pool.calls.qsize() <= 3
    release.set()
    pool.close()


# A trace function raises where a signal handler could, at every step in turn.
INTERRUPTED = """
import faulthandler, sys, time
from xent._calls import threads
faulthandler.dump_traceback_later(90, exit=True)
threads.LONGEST_PAUSE = 0.0
def interrupt_at(step):
    def trace(frame, event, argument):
        nonlocal step
        frame.f_trace_opcodes = True
        step -= 1
        if step == 0:
            raise KeyboardInterrupt
        return trace
    return trace
interrupted = 0
assert same()
for step in reversed(range(1, 300)):
    time.sleep(0.002)       # workers end
    try:
        sys.settrace(interrupt_at(step))
        threads._start_workers(1)
        sys.settrace(None)
    except KeyboardInterrupt:
        interrupted += 1
    assert same()
time.sleep(0.1)
print(interrupted > 10, threads._pool.size <= threads.MAX_WORKERS, threads._pool.start_worker(1))
"""


def test_ctrl_c_while_workers_start(python):
    """No lock stays locked, for which a later call would wait for ever, and no worker stays counted."""
    assert python(PREPARE + INTERRUPTED) == "True True True"


@pytest.fixture
def learning(monkeypatch):
    """Learn from the times of runs, as outside of the tests, from a fresh start."""
    monkeypatch.setattr(threads, "LONGEST_PAUSE", 1.0)
    monkeypatch.setattr(threads, "_pause", 0.0)
    monkeypatch.setattr(threads, "_alone_until", 0.0)


def threads_of_a_run():
    return threads.Blocks(20, 1, 2).run(lambda work: work.threads)


@pytest.mark.usefixtures("learning")
def test_threads_that_only_wait_are_no_help(monkeypatch):
    """After a run whose threads got little CPU time, calls work alone for a while."""
    assert threads_of_a_run() == 2
    with monkeypatch.context() as patch:
        patch.setattr(threads, "_learn", lambda seconds, busy, learn=threads._learn: learn(0.02, 0.01))
        threads_of_a_run()
    assert threads._pause == threads.SHORTEST_PAUSE
    assert threads._alone_until > time.perf_counter() - 1
    threads._alone_until = time.perf_counter() + 60
    assert threads_of_a_run() == 1
    threads._alone_until = time.perf_counter()
    assert threads_of_a_run() == 2


@pytest.mark.parametrize("threads", [1, 2])
def test_time_of_a_run(threads):
    """The wall time of a run and the CPU time of its threads, from which the pause is learned."""
    x = np.random.default_rng(0).normal(size=(2000, 4000))
    work = scheduler.Work(2000, 10, threads)
    start = time.perf_counter()
    kernels.softmax(x, None, x, False, 1, work)
    elapsed = time.perf_counter() - start
    assert work.threads == threads
    if threads == 1:
        assert work.seconds == work.busy == 0       # with one thread, nothing to learn
    else:
        assert 0 < work.seconds <= elapsed
        assert 0 < work.busy <= 2 * elapsed


@pytest.mark.usefixtures("learning")
def test_pauses_grow_and_shrink():
    def learn(seconds, busy):
        threads._learn(seconds, busy)
        return threads._pause

    shortest, longest = threads.SHORTEST_PAUSE, threads.LONGEST_PAUSE
    short = threads.TELLING_TIME / 2
    assert learn(short, 0.0) == 0           # too short to tell
    assert learn(0.002, 0.004) == 0         # both CPUs were ours
    assert threads._alone_until == 0
    assert [learn(0.002, 0.001) for _ in range(3)] == [shortest, 2 * shortest, 4 * shortest]
    assert learn(short, 0.0) == 4 * shortest
    assert learn(0.002, 0.0021) == 2 * shortest
    assert [learn(1.0, 0.9) for _ in range(20)][-1] == longest
    assert longest - 1 < threads._alone_until - time.perf_counter() <= longest
    assert [learn(1.0, 7.9) for _ in range(20)][-1] < shortest


# --- how many --------------------------------------------------------------------------------------------------------


def test_set_num_threads():
    for n in (1, 3, np.int64(2)):
        xent.set_num_threads(n)
        assert xent.get_num_threads() == n
        assert type(xent.get_num_threads()) is int


def test_default_number_of_threads(monkeypatch):
    monkeypatch.delenv("XENT_NUM_THREADS", raising=False)
    monkeypatch.setattr(threads, "_num_threads", None)
    monkeypatch.setattr(cpus, "available", lambda: 5)
    assert xent.get_num_threads() == 5
    monkeypatch.setattr(cpus, "available", lambda: 6)
    assert xent.get_num_threads() == 5      # determined once


@pytest.mark.parametrize("text", ["0", "-1", "two", "1.5", " 2", "2,1"])
def test_bad_environment(text, monkeypatch):
    monkeypatch.setenv("XENT_NUM_THREADS", text)
    monkeypatch.setattr(threads, "_num_threads", None)
    for call in (xent.get_num_threads, lambda: xent.softmax([1.0])):
        with pytest.raises(ValueError, match="XENT_NUM_THREADS is ") as caught:
            call()
        assert str(caught.value) == f"XENT_NUM_THREADS is {text!r}; it must be an integer of at least 1"
    xent.softmax([1.0], n_threads=1)
    xent.set_num_threads(1)
    assert xent.get_num_threads() == 1


SMALL_AND_LARGE = """
import threading
import numpy as np
import xent
print(xent.get_num_threads())
xent.cross_entropy(np.zeros((100, 100)), np.zeros(100, int), n_threads=64, return_grad=True)
print(threading.active_count())
xent.softmax(np.zeros((2000, 1000)))
print(threading.active_count())
"""


def test_environment_and_the_threads_that_start(python):
    """A small call starts no thread, a large one at most XENT_NUM_THREADS - 1."""
    assert python(SMALL_AND_LARGE, XENT_NUM_THREADS="1").split() == ["1", "1", "1"]
    number, small, large = python(SMALL_AND_LARGE, XENT_NUM_THREADS="2").split()
    assert (number, small) == ("2", "1")
    assert large in ("1", "2")


# --- other processes, and the end of this one ------------------------------------------------------------------------

PREPARE = """
import numpy as np
import xent
x = np.random.default_rng(0).normal(size=(300, 4000))
serial = xent.softmax(x, n_threads=1)
def same():
    return bool((xent.softmax(x, n_threads=4) == serial).all())
"""

FORK = """
import os, threading, warnings
warnings.filterwarnings("ignore", ".*fork.*", DeprecationWarning)      # of a process with threads
assert same()
busy = [threading.Thread(target=lambda: [same() for _ in range(10)]) for _ in range(2)]
for thread in busy: thread.start()
for _ in range(5):
    child = os.fork()
    if child == 0:
        os._exit(0 if same() and same() else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
for thread in busy: thread.join()
print(same())
"""

MULTIPROCESSING = """
import multiprocessing, warnings
warnings.filterwarnings("ignore", ".*fork.*", DeprecationWarning)
def work(_):
    return same()
if __name__ == "__main__":
    assert same()
    with multiprocessing.get_context({method!r}).Pool(2) as pool:
        print(pool.map(work, range(4)))
"""


JOBLIB = """
import warnings
import joblib
warnings.filterwarnings("ignore", ".*fork.*", DeprecationWarning)
def rows(i, n_threads):
    return xent.cross_entropy(x[i:], np.arange(i, 300), reduction="none", return_grad=True, n_threads=n_threads)
if __name__ == "__main__":
    assert same()
    expected = [rows(i, 1) for i in range(6)]
    with joblib.parallel_config({backend!r}, n_jobs=2):
        found = joblib.Parallel()(joblib.delayed(rows)(i, 4) for i in range(6))
    print(all((a == b).all() for one, other in zip(expected, found) for a, b in zip(one, other)))
"""

# More threads than CPUs and workers; none may wait for another for ever.
MANY_THREADS = """
import faulthandler, threading
faulthandler.dump_traceback_later(90, exit=True)
inputs = [x[: 70 + i] for i in range(12)]
labels = np.arange(300)
def call(i, n_threads):
    return xent.cross_entropy(inputs[i], labels[: 70 + i], return_grad=True, n_threads=n_threads)
expected = [call(i, 1) for i in range(12)]
right = []
start = threading.Barrier(24)
def work(thread):
    start.wait()
    for i in range(12):
        loss, grad = call((thread + i) % 12, 2)
        right.append(loss == expected[(thread + i) % 12][0] and (grad == expected[(thread + i) % 12][1]).all())
threads = [threading.Thread(target=work, args=(thread,)) for thread in range(24)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(len(right), all(right))
"""

# Threads of the pool that make calls themselves, so that no worker is left.
NESTED = """
import faulthandler
from queue import SimpleQueue
from xent._calls import threads
faulthandler.dump_traceback_later(90, exit=True)
assert same()
found = SimpleQueue()
for _ in range(8):
    threads._pool.submit(lambda: found.put(same()), 4)
print(all(found.get() for _ in range(8)))
"""


def test_calls_from_many_threads_at_once(python):
    assert python(PREPARE + MANY_THREADS) == "288 True"


def test_calls_from_a_worker(python):
    assert python(PREPARE + NESTED) == "True"


@pytest.mark.skipif(not sysconfig.get_config_var("Py_GIL_DISABLED"), reason="this interpreter has a GIL")
@pytest.mark.parametrize("script", [MANY_THREADS, NESTED], ids=["many threads", "nested"])
def test_without_gil(script, python):
    """Importing xent does not enable it: Python would warn, and warnings are errors here."""
    off = "\nimport sys\nassert not sys._is_gil_enabled()\n"
    assert python(PREPARE + off + script + off).endswith("True")


@pytest.mark.parametrize("backend", ["loky", "threading"])
def test_joblib(backend, python):
    pytest.importorskip("joblib")
    assert python(PREPARE + JOBLIB.format(backend=backend)) == "True"


@needs_fork
def test_fork(python):
    """Of a process whose pool is at work; the child makes its own pool."""
    assert python(PREPARE + FORK) == "True"


@pytest.mark.parametrize("method", [pytest.param("fork", marks=needs_fork), "spawn"])
def test_multiprocessing(method, python):
    assert python(PREPARE + MULTIPROCESSING.format(method=method)) == "[True, True, True, True]"


@pytest.mark.parametrize("used_before", [False, True])
def test_calls_work_while_the_interpreter_shuts_down(used_before, python):
    """In atexit and after it, when no thread can be started any more; whether there is a pool already or not."""
    script = PREPARE + f"""
import atexit, sys
if {used_before}:
    assert same()
atexit.register(lambda: print(same()))
class Last:
    def __del__(self, same=same, print=print):
        print(same())
last = Last()
"""
    assert python(script).split() == ["True", "True"]


def test_empty_environment_is_none(monkeypatch):
    monkeypatch.setenv("XENT_NUM_THREADS", "")
    monkeypatch.setattr(threads, "_num_threads", None)
    assert xent.get_num_threads() >= 1
