"""Work cut into blocks, and the threads that do them.

The cut depends on the shape alone, and each block's result goes to its own place, so that results are bitwise the same
for any number of threads. The calling thread works too. Workers that have not started when it runs out of blocks are
skipped. One that has must be waited for, which takes milliseconds if the system has preempted it; where that happens,
the calling thread works alone for a while, so that a busy machine costs little waiting (see `_learn`). What threads do
with one another while they work is in _core/scheduler.pyx, where none of them needs the interpreter.
"""

from __future__ import annotations

import _thread
import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from xent._calls import cpus
from xent._calls.scalars import check_positive_integer
from xent._core import scheduler

if TYPE_CHECKING:
    from xent._calls.dispatch import kernels

BLOCK_ELEMENTS = 1 << 16        # in a block: about 50 microseconds of work, much more than a claim costs
THREAD_ELEMENTS = 3 << 15       # for each thread at least: waking one costs about 50 microseconds
SHORTEST_PAUSE = 0.004          # seconds without workers: about the time slice that another process gets
LONGEST_PAUSE = 1.0
MAX_WORKERS = os.cpu_count() or 1
TELLING_TIME = 0.0005           # seconds: in shorter calls, waking a thread may take most of the time

T = TypeVar("T")

_num_threads: int | None = None
_pool: scheduler.Pool | None = None
_pause = 0.0
_alone_until = 0.0


def get_num_threads() -> int:
    """Return the largest number of threads that a call uses by default.

    Returns
    -------
    int
        What :func:`set_num_threads` set, else the environment variable ``XENT_NUM_THREADS``, else the number of CPUs
        that the process may use: by its affinity, and by the CPU quota of its container (Linux control groups), rounded
        up. Read once.

    Examples
    --------
    >>> import xent
    >>> xent.get_num_threads() >= 1
    True
    """
    global _num_threads
    if _num_threads is None:
        text = os.environ.get("XENT_NUM_THREADS")
        if not text:
            _num_threads = cpus.available()
        elif text.isdecimal() and int(text) > 0:
            _num_threads = int(text)
        else:
            raise ValueError(f"XENT_NUM_THREADS is {text!r}; it must be an integer of at least 1")
    return _num_threads


def set_num_threads(n: int) -> None:
    """Set the largest number of threads that a call uses by default.

    Parameters
    ----------
    n : int
        At least 1. Results do not depend on it.

    Raises
    ------
    TypeError, ValueError
        If `n` is not an integer of at least 1.

    Examples
    --------
    >>> import xent
    >>> xent.set_num_threads(xent.get_num_threads())
    """
    global _num_threads
    _num_threads = check_positive_integer("n", n)


class Blocks(NamedTuple):
    """`units` of work in blocks of `size` units (the last may have fewer), for up to `threads` threads."""

    units: int
    size: int
    threads: int

    @property
    def number(self) -> int:
        """The number of blocks."""
        return scheduler.count_blocks(self.units, self.size)

    def run(self, kernel: Callable[..., T], *arguments: Any) -> T:
        """Call a kernel with the arguments, followed by the Work of these blocks."""
        threads = max(1, min(self.threads, self.number))
        if threads == 1 or time.perf_counter() < _alone_until:
            return kernel(*arguments, scheduler.Work(self.units, self.size, 1))
        _start_workers(threads - 1 - scheduler.count_idle_workers())
        work = scheduler.Work(self.units, self.size, threads)
        result = kernel(*arguments, work)
        _learn(work.seconds, work.busy)
        return result


def cut(units: int, elements: int, n_threads: int | None) -> Blocks:
    """Cut `units` of `elements` elements each."""
    size = scheduler.block_size(units, elements, BLOCK_ELEMENTS)
    wanted = get_num_threads() if n_threads is None else n_threads
    enough = min(scheduler.count_blocks(units, size), units * elements // THREAD_ELEMENTS)
    return Blocks(units, size, max(1, min(wanted, enough)))


def run_checked_call(call: kernels.PlainCall, n_threads: int | None) -> Any:
    """Run a call whose arguments the kernels have checked."""
    cut(call.rows, call.classes, n_threads).run(call.compute)
    return call.result()


def _learn(seconds: float, busy: float) -> None:
    """Do without workers for a while if all threads of a call together got less than one CPU.

    That happens where other processes or Python threads compete for the CPUs: a thread that waits for anything, even
    briefly for the GIL, loses its CPU for milliseconds. One thread that never waits is then faster. Workers are tried
    again after a pause, which doubles each time that they lose and halves otherwise.
    """
    global _pause, _alone_until
    if seconds < TELLING_TIME:
        return
    if busy >= seconds:
        _pause /= 2
    else:
        _pause = min(max(SHORTEST_PAUSE, 2 * _pause), LONGEST_PAUSE)
        _alone_until = time.perf_counter() + _pause


def _start_workers(number: int) -> None:
    """Start up to `number` workers, as far as MAX_WORKERS and the system allow."""
    global _pool
    try:
        if _pool is None:
            from queue import SimpleQueue  # here, so that importing xent does not pay for it

            _pool = scheduler.Pool(SimpleQueue(), _thread.start_new_thread)
        for _ in range(number):
            if not _pool.start_worker(MAX_WORKERS):
                break
    except (RuntimeError, ImportError):     # out of threads, or the interpreter is shutting down
        pass


def _forget_pool() -> None:
    global _pool
    _pool = None
    scheduler.forget_workers()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_pool)    # threads do not survive a fork
