# Worker of _kernels.pyx: work in blocks, done by the calling thread and by helpers, none of which holds the interpreter: a
# thread that has to sleep for it, or for anything, loses some 50 microseconds. Helpers are Python threads (_parallel.py
# starts them) that call `worker_loop`. Which thread does a block is left to chance, and its result goes to its own place.

from cpython.mem cimport PyMem_RawFree, PyMem_RawMalloc

cdef extern from "_core/shared.h" nogil:
    ctypedef int64_t xent_shared
    int64_t xent_load(xent_shared* x)
    int64_t xent_add(xent_shared* x, int64_t more)
    bint xent_replace(xent_shared* x, int64_t old, int64_t now)
    void xent_relax()
    void xent_yield()
    void xent_sleep_briefly()
    double xent_seconds()
    double xent_busy_seconds()

cdef extern from "Python.h" nogil:
    Py_ssize_t PY_SSIZE_T_MAX

cdef enum:
    SLOTS = 16              # jobs that can be offered at a time

cdef double SPIN_SECONDS = 100e-6       # seconds to wait without sleeping, for a job or for helpers to be done


cdef struct BlockClaim            # of blocks, for one thread

ctypedef void (*Worker)(const void* task, double* scratch, BlockClaim* claim) noexcept nogil     # what each thread does


cdef struct Job:
    Worker worker
    const void* task
    Py_ssize_t scratch      # length of it, for each thread
    Py_ssize_t units
    Py_ssize_t size         # of them in a block
    Py_ssize_t number       # of blocks
    Py_ssize_t threads
    xent_shared next        # the first block that no thread has taken
    xent_shared wanted      # helpers that may still take_job; this and `slots` change under the lock alone
    xent_shared present     # helpers that have joined and are not done
    xent_shared busy        # nanoseconds that they had a CPU


cdef struct BlockClaim:
    Job* job
    Py_ssize_t block        # the one to do
    Py_ssize_t stop         # and the first that is not of this claim
    Py_ssize_t first        # units first <= i < last
    Py_ssize_t last


cdef Job* slots[SLOTS]      # jobs on offer_job
cdef xent_shared lock = 0
cdef xent_shared wakeups = 0       # rung for each
cdef xent_shared idle_workers = 0       # helpers that wait for it
cdef xent_shared started_workers = 0     # calls of `worker_loop` that have not ended, or not yet begun


cdef bint claim_blocks(BlockClaim* claim) noexcept nogil:
    """Whether there is more to do: the units of some blocks. Fewer and fewer: few turns in all, and small ones at the
    end, so that no thread is waited for long."""
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
    claim.first, claim.last = start * job.size, min((start + blocks) * job.size, job.units)
    return True


cdef bint next_block(BlockClaim* claim) noexcept nogil:
    """The same, one block after the other."""
    claim.block += 1
    if claim.block >= claim.stop and not claim_blocks(claim):
        return False
    claim.first, claim.last = claim.block * claim.job.size, min((claim.block + 1) * claim.job.size, claim.job.units)
    return True


cdef inline double* aligned_scratch(void* memory) noexcept nogil:
    """From the first whole cache line on: a vector across two of them costs twice."""
    return <double*>((<size_t>memory + 63) // 64 * 64)


cdef bint run_worker(Job* job) noexcept nogil:
    """Do turns until there are none; whether there was memory to."""
    cdef BlockClaim claim
    cdef void* scratch_memory = PyMem_RawMalloc(job.scratch * sizeof(double) + 64)       # which tracemalloc sees
    if scratch_memory is NULL:
        return False
    claim.job = job
    claim.block = claim.stop = claim.first = claim.last = 0
    job.worker(job.task, aligned_scratch(scratch_memory), &claim)
    PyMem_RawFree(scratch_memory)
    return True


cdef void acquire() noexcept nogil:
    while not xent_replace(&lock, 0, 1):
        xent_yield()        # who has it may have lost its CPU


cdef void release() noexcept nogil:
    xent_add(&lock, -1)


cdef int offer_job(Job* job) noexcept nogil:
    """The slot at which helpers find the job, or -1."""
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


cdef void retire(Job* job, int slot) noexcept nogil:
    """Let nobody take_job any more, and wait for those who did."""
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


cdef Job* take_job() noexcept nogil:
    """A job that wants a helper, with this one counted, or NULL."""
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


cdef bint await_wakeup(int64_t rings) noexcept nogil:
    """Wait until it was rung more often, but not for long; whether it was."""
    cdef double end = xent_seconds() + SPIN_SECONDS
    cdef int i
    while xent_seconds() < end:
        for i in range(16):
            if xent_load(&wakeups) != rings:
                return True
            xent_relax()
        xent_yield()
    return False


def worker_loop():
    """Take worker in jobs as long as one comes soon after the other."""
    cdef Job* job
    cdef int64_t rings
    cdef double start
    cdef bint rung = True
    with nogil:
        while rung:
            rings = xent_load(&wakeups)
            job = take_job()
            if job is not NULL:
                start = xent_busy_seconds()
                run_worker(job)
                xent_add(&job.busy, <int64_t>(1e9 * (xent_busy_seconds() - start)))
                xent_add(&job.present, -1)      # and the job may be gone
                continue
            xent_add(&idle_workers, 1)
            rung = await_wakeup(rings)
            xent_add(&idle_workers, -1)
        xent_add(&started_workers, -1)


def count_idle_workers():
    """How many wait for a job now."""
    return xent_load(&idle_workers)


def start_worker(Py_ssize_t most):
    """Whether one more call of `worker_loop` is to be made, of so many at a time at most; it counts from now on."""
    if xent_add(&started_workers, 1) <= most:
        return True
    xent_add(&started_workers, -1)
    return False


def worker_did_not_start():
    xent_add(&started_workers, -1)


def forget_workers():
    """After a fork, which leaves them and their jobs behind."""
    global lock, idle_workers, started_workers
    cdef int slot
    lock = idle_workers = started_workers = 0
    for slot in range(SLOTS):
        slots[slot] = NULL


cdef class Work:
    """`units` of work in `number` blocks of `size` units, for up to `threads` threads, to be given to a kernel once."""

    cdef Job job
    cdef readonly double seconds        # that the kernel took, if it had helpers
    cdef readonly double busy           # and that its threads together had a CPU

    @property
    def threads(self):
        return self.job.threads

    def __cinit__(self, Py_ssize_t units, Py_ssize_t size, Py_ssize_t number, Py_ssize_t threads):
        self.job.units, self.job.size, self.job.number, self.job.threads = units, size, number, threads
        self.job.next = self.job.present = self.job.busy = 0
        self.job.wanted = threads - 1

    cdef int do(self, Worker worker, const void* task, Py_ssize_t scratch) except -1:
        """worker(task, scratch of that many numbers, turns) in each thread."""
        cdef Job* job = &self.job
        cdef double start, start_busy
        cdef int slot
        cdef bint done
        job.worker, job.task, job.scratch = worker, task, scratch
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
    Worker worker, const void* task, Py_ssize_t scratch, Py_ssize_t units, Py_ssize_t size, Py_ssize_t number
) except -1:
    """The same without helpers, and without an object."""
    cdef Job job
    cdef bint done
    job.worker, job.task, job.scratch = worker, task, scratch
    job.units, job.size, job.number, job.threads = units, size, number, 1
    job.next = 0
    with nogil:
        done = run_worker(&job)
    if not done:
        raise MemoryError
    return 0
