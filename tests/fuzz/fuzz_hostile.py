"""Callers that do what they should not, or at a bad time: arrays that another thread changes during the call, outputs
deleted from anywhere, forks, signals, exceptions in threads, and an interpreter that shuts down meanwhile.

What is computed from arrays that change is undefined; but a call must end, touch no other memory (guard pages stand
beside the arrays), raise nothing but TypeError and ValueError, and leave calls on other arrays alone.

Not among them: arrays whose memory is freed or moved during a call (ndarray.resize with refcheck=False, a memory map of
a file that is cut): NumPy itself does not survive that, and no library can. A reference that is dropped is harmless,
since a call holds its own.
"""

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time

import fuzz_arrays as arrays
import fuzz_calls
import numpy as np
import numpy.testing
from fuzz_arrays import chance, pick
from reference import assert_same_bits

import xent
from xent._calls import threads
from xent._core import memory

assert numpy.testing    # imported before any fork: a child would wait for another thread's import of it

CHANGES_SECONDS = 0.1
FORK_SECONDS = 30
MANY = 8            # threads that call at the same time
HOSTILE = np.array([1 << 62, -(1 << 62), -1, 1 << 31, 12345, 7])


def hold(array):
    return arrays.guarded(array, True, 1)[0] if arrays.HAS_GUARDS else array.copy()


# --- arrays that change ----------------------------------------------------------------------------------------------


def change(stop, changed):
    """Overwrite arrays, without the GIL: each now with its own values, now with others."""
    while not stop.is_set():
        for array, versions in changed:
            for version in versions:
                ctypes.memmove(array.ctypes.data, version.ctypes.data, array.nbytes)


def other_versions(rng, array):
    """What an array is changed to."""
    with np.errstate(all="ignore"):
        if array.dtype.kind in "iu":
            bad = np.resize(HOSTILE, array.shape).astype(array.dtype)
            random = np.frombuffer(rng.bytes(array.nbytes), array.dtype).reshape(array.shape)
            return [bad, random]
        if array.dtype == bool:
            return [~array, np.frombuffer(rng.bytes(array.nbytes), np.uint8).reshape(array.shape)]
        special = np.resize(np.array([np.nan, np.inf, -np.inf, 3e38, -3e38, 0]), array.shape).astype(array.dtype)
        return [np.frombuffer(rng.bytes(array.nbytes), array.dtype).reshape(array.shape), special]


def large_call(rng):
    """A call that takes long enough to be disturbed, whose arrays are contiguous."""
    while True:
        name = pick(rng, fuzz_calls.NAMES)
        call = fuzz_calls.FUNCTIONS[name][0](rng)
        size = next(iter(call.given.values())).size
        if size > 1000:
            return call


def run_changing(rng):
    """Labels, logits, masks, weights and outputs change during calls."""
    call = large_call(rng)
    given = {name: hold(array) for name, array in call.given.items()}
    first = next(iter(given))
    outputs = {name: hold(np.zeros(given[first].shape, dtypes[0])) for name, dtypes in call.outputs.items()}
    victims = [name for name in given if given[name].nbytes and chance(rng, 0.6)] or [first]
    everything = [*((name, given[name]) for name in victims), *outputs.items()]
    changed = [
        (array, [np.ascontiguousarray(a) for a in (call.given.get(name, array.copy()), *other_versions(rng, array))])
        for name, array in everything if array.nbytes
    ]
    stop, end = threading.Event(), time.perf_counter() + CHANGES_SECONDS
    thread = threading.Thread(target=change, args=(stop, changed))
    thread.start()
    calls = errors = 0
    try:
        while time.perf_counter() < end:
            calls += 1
            try:
                # What is computed from such arrays may be anything, and NumPy may say so.
                with np.errstate(all="ignore"):
                    fuzz_calls.invoke(call, given, **(fuzz_calls.with_threads(call, int(rng.integers(1, 4))) | outputs))
            except (ValueError, TypeError, RuntimeWarning):
                errors += 1
    finally:
        stop.set()
        thread.join()
    check_alive()
    yield from ["call on changing arrays"] * (calls - errors) + ["error on changing arrays"] * errors


def check_alive():
    """Nothing remains of what came before."""
    x = np.random.default_rng(1).normal(size=(300, 700)).astype(np.float32)
    y = np.arange(300) % 700
    loss, grad = xent.cross_entropy(x, y, return_grad=True, n_threads=3)
    alone, grad_alone = xent.cross_entropy(x, y, return_grad=True, n_threads=1)
    assert loss == alone
    assert_same_bits(grad, grad_alone)


# --- calls from many threads -----------------------------------------------------------------------------------------


def make_calls(rng, number):
    """Calls that give the same bits whenever they are made, and what they give."""
    calls = []
    while len(calls) < number:
        call = fuzz_calls.FUNCTIONS[pick(rng, fuzz_calls.NAMES)][0](rng)
        if call.name not in fuzz_calls.BY_BLAS:
            calls.append((call, invoke_quietly(call, 1)))
    return calls


def invoke_quietly(call, n_threads):
    return fuzz_calls.invoke(call, call.given, **fuzz_calls.with_threads(call, n_threads))


def in_threads(functions):
    """Run functions at the same time; raise what one of them has raised."""
    failures = []

    def run(function):
        try:
            function()
        except BaseException as error:      # to be raised in the thread that waits
            failures.append(error)

    started = [threading.Thread(target=run, args=(function,)) for function in functions]
    for thread in started:
        thread.start()
    for thread in started:
        thread.join()
    if failures:
        raise failures[0]


def run_many(rng):
    """Many threads call at once, some with errors, while others change the number of threads and drop outputs."""
    calls = make_calls(rng, 6)
    limit = pick(rng, (0, 1 << 20, 1 << 28))
    kept = []

    def work(seed):
        own = np.random.default_rng(seed)
        for _ in range(6):
            call, expected = calls[int(own.integers(len(calls)))]
            n_threads = int(own.integers(1, 5))
            fuzz_calls.assert_same(invoke_quietly(call, n_threads), expected, call, "among other calls")
            try:
                xent.cross_entropy(np.zeros((50, 4)), np.full(50, 4), n_threads=n_threads)
            except ValueError as error:
                if "target[0] is 4" not in str(error):
                    raise
            else:
                raise AssertionError("no error for a label out of range")

    def disturb():
        for k in range(30):
            memory.set_limit((0, limit, 1 << 18)[k % 3])
            memory.release_kept()
            xent.set_num_threads(1 + k % 4)
            x = np.full((200, 300), k, np.float32)
            kept.append((k, xent.softmax(x), xent.logsumexp(x)))
            if k % 3 == 0:
                kept.pop(0)

    before = xent.get_num_threads()
    seeds = [int(seed) for seed in rng.integers(1 << 30, size=MANY)]
    try:
        in_threads([*(lambda seed=seed: work(seed) for seed in seeds), disturb, disturb])
        for k, probabilities, total in kept:        # nobody has written to results that are alive
            assert (probabilities == probabilities[0, 0]).all()
            assert (np.abs(total - k - np.log(300)) < 1e-3).all()
    finally:
        xent.set_num_threads(before)
        memory.set_limit(256 << 20)
    yield from ["call among others"] * (6 * MANY)


def run_deleted(rng):
    """References are dropped during the call, and results in another thread than the one that made them."""
    calls = make_calls(rng, 3)
    results = []
    done = threading.Event()

    def drop():
        while not done.is_set() or results:
            if results:
                results.pop()

    def work():
        try:
            for call, expected in calls * 5:
                given = {name: array.copy() for name, array in call.given.items()}
                box = [given]
                holders = threading.Thread(target=box.clear)
                del given
                holders.start()
                found = invoke_box(call, box)
                holders.join()
                if found is not None:
                    fuzz_calls.assert_same(found, expected, call, "after its arrays were dropped")
                    results.append(found)
        finally:
            done.set()

    in_threads([drop, work])
    yield from ["call on dropped arrays"] * 15


def invoke_box(call, box):
    """The call on the arrays in a box, unless it has been emptied."""
    try:
        given = box[0]
    except IndexError:
        return None
    return fuzz_calls.invoke(call, given, **fuzz_calls.with_threads(call, 2))


# --- signals, forks and the end --------------------------------------------------------------------------------------


def run_signal(rng):
    """Ctrl-C at any time: KeyboardInterrupt or a result, and later calls are as ever."""
    calls = make_calls(rng, 3)

    def interrupt(number, frame):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    interrupted = 0
    try:
        for call, expected in calls * 4:
            try:
                signal.setitimer(signal.ITIMER_REAL, float(rng.uniform(1e-5, 3e-3)))
                for _ in range(3):
                    found = invoke_quietly(call, 3)
                signal.setitimer(signal.ITIMER_REAL, 0)
            except KeyboardInterrupt:
                interrupted += 1
                found = invoke_quietly(call, 3)
            fuzz_calls.assert_same(found, expected, call, "after an interrupt")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    yield from ["interrupted call"] * interrupted + ["call not interrupted"] * (len(calls) * 4 - interrupted)


class Thrown(Exception):
    pass


def run_exception(rng):
    """An exception is thrown into a thread that calls."""
    call, expected = make_calls(rng, 1)[0]
    state = {"thrown": 0}
    stop = threading.Event()

    def work():
        while not stop.is_set():
            try:
                found = invoke_quietly(call, 3)
                fuzz_calls.assert_same(found, expected, call, "between exceptions")
            except Thrown:
                state["thrown"] += 1

    thread = threading.Thread(target=lambda: swallow(work, stop))
    thread.start()
    for _ in range(10):
        time.sleep(float(rng.uniform(1e-4, 5e-3)))
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(Thrown))
    stop.set()
    thread.join()
    fuzz_calls.assert_same(invoke_quietly(call, 3), expected, call, "after exceptions in another thread")
    yield from ["exception in a calling thread"] * state["thrown"]


def swallow(work, stop):
    """Go on after an exception that has come outside the try."""
    while not stop.is_set():
        try:
            work()
        except Thrown:
            continue


def run_fork(rng):
    """Forks while other threads call: the child's calls have the same bits, with threads of its own."""
    calls = make_calls(rng, 2)
    stop = threading.Event()

    def work():
        while not stop.is_set():
            for call, expected in calls:
                fuzz_calls.assert_same(invoke_quietly(call, 2), expected, call, "beside a fork")

    def fork():
        try:
            for _ in range(3):
                pid = os.fork()
                if pid == 0:
                    code = 1
                    try:
                        signal.alarm(FORK_SECONDS)
                        for call, expected in calls:
                            fuzz_calls.assert_same(invoke_quietly(call, 3), expected, call, "in a child")
                        check_alive()
                        code = 0
                    finally:
                        os._exit(code)
                status = os.waitpid(pid, 0)[1]
                assert status == 0, f"a child ended with the status {status}"
        finally:
            stop.set()

    in_threads([work, fork, work])
    yield from ["fork during calls"] * 3


SHUTDOWN = """
import atexit, sys, threading, warnings
warnings.simplefilter("error")
import numpy as np
import numpy.testing      # here: a child must not wait for an import of another thread
import xent
rng = np.random.default_rng({seed})
x, y = rng.normal(size=(400, 1000)).astype(np.float32), rng.integers(1000, size=400)
expected = xent.cross_entropy(x, y, n_threads=1)
def work():
    while True:
        loss, grad = xent.cross_entropy(x, y, return_grad=True, n_threads=3)
        xent.softmax(x, n_threads=2)
def check():
    assert xent.cross_entropy(x, y, n_threads=2) == expected
    print("checked", flush=True)
class Late:
    def __del__(self):
        assert xent.cross_entropy(x, y, n_threads=2) == expected
late = Late()
atexit.register(check)
for _ in range({threads}):
    threading.Thread(target=work, daemon=True).start()
import time
time.sleep({pause})
{end}
"""


def run_shutdown(rng):
    """The interpreter ends while daemon threads call, and calls still work at exit."""
    end = pick(rng, ("", "sys.exit(0)", "raise SystemExit(0)"))
    count, pause = int(rng.integers(1, 4)), rng.uniform(0, 0.05)
    script = SHUTDOWN.format(seed=int(rng.integers(99)), threads=count, pause=pause, end=end)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 0, f"exit code {done.returncode}: {done.stderr[-2000:]}"
    assert "checked" in done.stdout, done.stderr[-2000:]
    yield "shutdown during calls"


RUNS = [run_changing] * 10 + [run_many] * 4 + [run_deleted] * 3
if hasattr(signal, "setitimer"):
    RUNS += [run_signal] * 3 + [run_exception] * 3 + [run_fork] * 2 + [run_shutdown]


def run_case(rng):
    threads.BLOCK_ELEMENTS, threads.THREAD_ELEMENTS = pick(rng, fuzz_calls.CUTS[1:])
    with fuzz_calls.usual_warnings():
        yield from pick(rng, RUNS)(rng)
