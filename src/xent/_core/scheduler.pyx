"""Work in blocks, shared by the calling thread and workers. None of them holds the GIL: waiting for it, or sleeping,
costs about 50 microseconds.

Workers are Python threads that call `worker_loop` (asked for by _calls/threads.py). Any thread may do any block, but each
block has its own place for results, so that results do not depend on threads. The number of blocks depends only on the
shape of the arrays, and is computed here and nowhere else.

Compiled once, for all instruction sets of the kernels.
"""

from cpython.mem cimport PyMem_RawFree, PyMem_RawMalloc

cdef enum:
    SLOTS = 16                          # jobs that can be offered at a time

cpdef enum:
    MAX_BLOCKS = 1024

cdef double SPIN_SECONDS = 100e-6       # how long to spin before sleeping, for a job or for workers to finish

cdef Job* slots[SLOTS]                  # jobs that want workers; these and `wanted` change only under the lock
cdef xent_shared lock = 0
cdef xent_shared wakeups = 0            # jobs offered so far; waiting workers watch this number
cdef xent_shared idle_workers = 0       # workers that wait for a job
cdef xent_shared started_workers = 0    # calls of `worker_loop` started or about to start, and not ended


# ---------------------------------------------------------------------------------------------------------------------
# Blocks, and claims on them
# ---------------------------------------------------------------------------------------------------------------------

cpdef Py_ssize_t block_size(Py_ssize_t units, Py_ssize_t elements, Py_ssize_t block_elements) noexcept:
    """Units per block, for units of `elements` elements: about `block_elements`, and at most MAX_BLOCKS blocks."""
    return max(1, block_elements // max(elements, 1), (units + MAX_BLOCKS - 1) // MAX_BLOCKS)


cpdef Py_ssize_t count_blocks(Py_ssize_t units, Py_ssize_t size) noexcept:
    """Blocks of `size` units; the last may have fewer."""
    return units // size + (units % size != 0)


cdef bint claim_blocks(BlockClaim* claim) noexcept nogil:
    """Claim the next blocks, units first <= i < last; False if none are left. Claims shrink, so that threads finish
    together."""
    cdef Job* job = claim.job
    cdef int64_t start = xent_load(&job.next), blocks
    while True:
        if start >= job.number:
            return False
        blocks = job.number if job.threads == 1 else max(1, (job.number - start) // (2 * job.threads))
        if xent_replace(&job.next, start, start + blocks):
            break
        start = xent_load(&job.next)
    claim.block, claim.stop = start, start + blocks
    claim.first, claim.last = start * job.size, end_of_block(job, start + blocks - 1)
    return True


cdef bint next_block(BlockClaim* claim) noexcept nogil:
    """Like `claim_blocks`, but one block at a time: for results per block."""
    claim.block += 1
    if claim.block >= claim.stop and not claim_blocks(claim):
        return False
    claim.first, claim.last = claim.block * claim.job.size, end_of_block(claim.job, claim.block)
    return True


cdef inline double* from_cache_line(void* memory) noexcept nogil:
    """The first cache line in the memory; a vector across two lines costs twice."""
    return <double*>((<size_t>memory + 63) // 64 * 64)


cdef bint run_worker(Job* job) noexcept nogil:
    """Run blocks until none are left; False if the scratch cannot be allocated."""
    cdef BlockClaim claim
    cdef void* memory = PyMem_RawMalloc(job.scratch_length * sizeof(double) + 64)       # visible to tracemalloc
    if memory is NULL:
        return False
    claim.job = job
    claim.block = claim.stop = claim.first = claim.last = 0
    job.worker(job.task, from_cache_line(memory), &claim)
    PyMem_RawFree(memory)
    return True


# ---------------------------------------------------------------------------------------------------------------------
# Jobs, and workers for them
# ---------------------------------------------------------------------------------------------------------------------

cdef void acquire() noexcept nogil:
    while not xent_replace(&lock, 0, 1):
        xent_yield()        # the thread that holds the lock may have been preempted


cdef void release() noexcept nogil:
    xent_add(&lock, -1)


cdef int offer_job(Job* job) noexcept nogil:
    """Put the job into a free slot and wake waiting workers; return the slot, or -1 if none is free."""
    cdef int slot = SLOTS
    acquire()
    while slot > 0:
        slot -= 1
        if slots[slot] is NULL:
            slots[slot] = job
            break
    else:
        slot = -1
    release()
    xent_add(&wakeups, 1)
    return slot


cdef Job* take_job() noexcept nogil:
    """Join a job that wants workers, or return NULL."""
    cdef Job* job = NULL
    cdef int slot
    acquire()
    for slot in range(SLOTS):
        if slots[slot] is not NULL and xent_load(&slots[slot].wanted) > 0:
            job = slots[slot]
            xent_add(&job.wanted, -1)
            xent_add(&job.present, 1)
            break
    release()
    return job


cdef void retire(Job* job, int slot) noexcept nogil:
    """Let no more workers join, and wait for those that did."""
    cdef double end = xent_seconds() + SPIN_SECONDS
    if slot >= 0:
        acquire()
        slots[slot] = NULL
        release()
    while xent_load(&job.present) > 0:
        if xent_seconds() < end:
            xent_yield()
        else:
            xent_sleep_briefly()


cdef bint await_wakeup(int64_t known) noexcept nogil:
    """Wait until the number of wakeups differs from `known`; False after SPIN_SECONDS."""
    cdef double end = xent_seconds() + SPIN_SECONDS
    cdef int i
    while xent_seconds() < end:
        for i in range(16):
            if xent_load(&wakeups) != known:
                return True
            xent_relax()
        xent_yield()
    return False


def worker_loop():
    """Work on jobs; return when none comes for a while."""
    cdef Job* job
    cdef int64_t known
    cdef double start
    cdef bint woken = True
    with nogil:
        while woken:
            known = xent_load(&wakeups)
            job = take_job()
            if job is not NULL:
                start = xent_busy_seconds()
                run_worker(job)
                xent_add(&job.busy, <int64_t>(1e9 * (xent_busy_seconds() - start)))
                xent_add(&job.present, -1)      # from here on the job may be gone
                continue
            xent_add(&idle_workers, 1)
            woken = await_wakeup(known)
            xent_add(&idle_workers, -1)
        xent_add(&started_workers, -1)


def count_idle_workers():
    """The number of workers that wait for a job."""
    return xent_load(&idle_workers)


cdef class Pool:
    """Python threads that call what is submitted, and otherwise wait; they do not keep the interpreter from ending.

    concurrent.futures has the same, but in Python: where a signal handler (Ctrl-C) raises in the middle of a `submit`, a
    lock may stay locked, and the next call would wait for it for ever. Nothing can raise in the middle of these.

    Parameters
    ----------
    calls : SimpleQueue
    start_thread : callable
        As `_thread.start_new_thread`.
    """

    cdef readonly object calls          # submitted functions that no thread has taken yet; None ends a thread
    cdef readonly Py_ssize_t size       # threads
    cdef object start_thread

    def __init__(self, calls, start_thread):
        self.calls, self.start_thread = calls, start_thread

    def submit(self, function, Py_ssize_t wanted):
        """Let a thread call the function; start one if there are fewer than `wanted`."""
        if self.size < wanted:
            self.size += 1
            try:
                self.start_thread(self.serve, ())
            except BaseException:
                self.size -= 1
                raise
        self.calls.put(function)

    def start_worker(self, Py_ssize_t most):
        """Let a thread call `worker_loop`; False if `most` such calls are made or waiting to be made."""
        cdef Py_ssize_t started = xent_add(&started_workers, 1)
        if started > most:
            xent_add(&started_workers, -1)
            return False
        try:
            self.submit(worker_loop, started)
        except BaseException:
            xent_add(&started_workers, -1)
            raise
        return True

    def serve(self):
        while True:
            function = self.calls.get()
            if function is None:
                return
            function()

    def close(self):
        """Let all threads end when they have nothing else to do."""
        for _ in range(self.size):
            self.calls.put(None)
        self.size = 0


def forget_workers():
    """After a fork: workers and their jobs are the parent's."""
    global lock, idle_workers, started_workers
    cdef int slot
    lock = idle_workers = started_workers = 0
    for slot in range(SLOTS):
        slots[slot] = NULL


cdef void set_job(Job* job, Py_ssize_t units, Py_ssize_t size, Py_ssize_t threads) noexcept:
    job.units, job.size, job.threads = units, size, threads
    job.number = count_blocks(units, size)
    job.next = job.present = job.busy = 0
    job.wanted = threads - 1


cdef class Work:
    """Work for one call of a kernel: `units` in `number` blocks of `size`, for up to `threads` threads."""

    @property
    def number(self):
        return self.job.number

    @property
    def threads(self):
        return self.job.threads

    def __cinit__(self, Py_ssize_t units, Py_ssize_t size, Py_ssize_t threads):
        set_job(&self.job, units, size, threads)

    cdef int do(self, Worker worker, const void* task, Py_ssize_t scratch_length) except -1:
        """Run the worker in this thread, and in others that join before it is done."""
        cdef Job* job = &self.job
        cdef double start, start_busy
        cdef int slot
        cdef bint done
        job.worker, job.task, job.scratch_length = worker, task, scratch_length
        with nogil:
            if job.threads == 1:
                done = run_worker(job)
            else:
                start, start_busy = xent_seconds(), xent_busy_seconds()
                slot = offer_job(job)
                done = run_worker(job)
                retire(job, slot)
                self.seconds = xent_seconds() - start
                self.busy = xent_busy_seconds() - start_busy + 1e-9 * xent_load(&job.busy)
        if not done:
            raise MemoryError
        return 0


cdef int do_alone(
    Worker worker, const void* task, Py_ssize_t scratch_length, Py_ssize_t units, Py_ssize_t size, Py_ssize_t elements
) except -1:
    """Run the worker in this thread only, without a Work. A unit has so many `elements`."""
    cdef Job job
    cdef bint done
    set_job(&job, units, size, 1)
    job.worker, job.task, job.scratch_length = worker, task, scratch_length
    if units * elements <= FEW_UNITS:       # to release the GIL would take longer
        done = run_worker(&job)
    else:
        with nogil:
            done = run_worker(&job)
    if not done:
        raise MemoryError
    return 0
