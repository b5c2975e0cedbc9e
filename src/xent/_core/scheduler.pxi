# Part of _kernels.pyx: work in blocks, done by the calling thread and by helpers, none of which holds the interpreter: a
# thread that has to sleep for it, or for anything, loses some 50 microseconds. Helpers are Python threads (_parallel.py
# starts them) that call `serve`. Which thread does a block is left to chance, and its result goes to its own place.

from cpython.mem cimport PyMem_RawFree, PyMem_RawMalloc

cdef extern from "_core/shared.h" nogil:
    ctypedef int64_t xent_shared
    int64_t xent_load(xent_shared* x)
    int64_t xent_add(xent_shared* x, int64_t more)
    bint xent_replace(xent_shared* x, int64_t old, int64_t now)
    void xent_relax()
    void xent_yield()
    void xent_nap()
    double xent_seconds()
    double xent_busy_seconds()

cdef extern from "Python.h" nogil:
    Py_ssize_t PY_SSIZE_T_MAX

cdef enum:
    DESKS = 16              # jobs that can be offered at a time

cdef double PATIENCE = 100e-6       # seconds to wait without sleeping, for a job or for helpers to be done


cdef struct Turn            # of blocks, for one thread

ctypedef void (*Part)(const void* task, double* scratch, Turn* turn) noexcept nogil     # what each thread does


cdef struct Job:
    Part part
    const void* task
    Py_ssize_t scratch      # length of it, for each thread
    Py_ssize_t units
    Py_ssize_t size         # of them in a block
    Py_ssize_t number       # of blocks
    Py_ssize_t threads
    xent_shared next        # the first block that no thread has taken
    xent_shared wanted      # helpers that may still join; this and `desks` change under the lock alone
    xent_shared present     # helpers that have joined and are not done
    xent_shared busy        # nanoseconds that they had a CPU


cdef struct Turn:
    Job* job
    Py_ssize_t block        # the one to do
    Py_ssize_t stop         # and the first that is not of this turn
    Py_ssize_t first        # units first <= i < last
    Py_ssize_t last


cdef Job* desks[DESKS]      # jobs on offer
cdef xent_shared lock = 0
cdef xent_shared bell = 0       # rung for each
cdef xent_shared idle = 0       # helpers that wait for it
cdef xent_shared called = 0     # calls of `serve` that have not ended, or not yet begun


cdef bint next_turn(Turn* turn) noexcept nogil:
    """Whether there is more to do: the units of some blocks. Fewer and fewer: few turns in all, and small ones at the
    end, so that no thread is waited for long."""
    cdef Job* job = turn.job
    cdef int64_t start = xent_load(&job.next), blocks
    while True:
        if start >= job.number:
            return False
        blocks = job.number if job.threads == 1 else max(1, (job.number - start) // (2 * job.threads))
        if xent_replace(&job.next, start, start + blocks):
            break
        start = xent_load(&job.next)
    turn.block, turn.stop = start, start + blocks
    turn.first, turn.last = start * job.size, min((start + blocks) * job.size, job.units)
    return True


cdef bint next_block(Turn* turn) noexcept nogil:
    """The same, one block after the other."""
    turn.block += 1
    if turn.block >= turn.stop and not next_turn(turn):
        return False
    turn.first, turn.last = turn.block * turn.job.size, min((turn.block + 1) * turn.job.size, turn.job.units)
    return True


cdef inline double* aligned_room(void* memory) noexcept nogil:
    """From the first whole cache line on: a vector across two of them costs twice."""
    return <double*>((<size_t>memory + 63) // 64 * 64)


cdef bint take_part(Job* job) noexcept nogil:
    """Do turns until there are none; whether there was memory to."""
    cdef Turn turn
    cdef void* room = PyMem_RawMalloc(job.scratch * sizeof(double) + 64)       # which tracemalloc sees
    if room is NULL:
        return False
    turn.job = job
    turn.block = turn.stop = turn.first = turn.last = 0
    job.part(job.task, aligned_room(room), &turn)
    PyMem_RawFree(room)
    return True


cdef void acquire() noexcept nogil:
    while not xent_replace(&lock, 0, 1):
        xent_yield()        # who has it may have lost its CPU


cdef void release() noexcept nogil:
    xent_add(&lock, -1)


cdef int offer(Job* job) noexcept nogil:
    """The desk at which helpers find the job, or -1."""
    cdef int desk = DESKS
    acquire()
    while desk > 0:
        desk -= 1
        if desks[desk] is NULL:
            desks[desk] = job
            break
    else:
        desk = -1
    release()
    xent_add(&bell, 1)
    return desk


cdef void withdraw(Job* job, int desk) noexcept nogil:
    """Let nobody join any more, and wait for those who did."""
    cdef double end = xent_seconds() + PATIENCE
    if desk >= 0:
        acquire()
        desks[desk] = NULL
        release()
    while xent_load(&job.present) > 0:
        if xent_seconds() < end:
            xent_yield()
        else:
            xent_nap()


cdef Job* join() noexcept nogil:
    """A job that wants a helper, with this one counted, or NULL."""
    cdef Job* job = NULL
    cdef int desk
    acquire()
    for desk in range(DESKS):
        if desks[desk] is not NULL and xent_load(&desks[desk].wanted) > 0:
            job = desks[desk]
            xent_add(&job.wanted, -1)
            xent_add(&job.present, 1)
            break
    release()
    return job


cdef bint await_bell(int64_t rings) noexcept nogil:
    """Wait until it was rung more often, but not for long; whether it was."""
    cdef double end = xent_seconds() + PATIENCE
    cdef int i
    while xent_seconds() < end:
        for i in range(16):
            if xent_load(&bell) != rings:
                return True
            xent_relax()
        xent_yield()
    return False


def serve():
    """Take part in jobs as long as one comes soon after the other."""
    cdef Job* job
    cdef int64_t rings
    cdef double start
    cdef bint rung = True
    with nogil:
        while rung:
            rings = xent_load(&bell)
            job = join()
            if job is not NULL:
                start = xent_busy_seconds()
                take_part(job)
                xent_add(&job.busy, <int64_t>(1e9 * (xent_busy_seconds() - start)))
                xent_add(&job.present, -1)      # and the job may be gone
                continue
            xent_add(&idle, 1)
            rung = await_bell(rings)
            xent_add(&idle, -1)
        xent_add(&called, -1)


def idle_helpers():
    """How many wait for a job now."""
    return xent_load(&idle)


def call_helper(Py_ssize_t most):
    """Whether one more call of `serve` is to be made, of so many at a time at most; it counts from now on."""
    if xent_add(&called, 1) <= most:
        return True
    xent_add(&called, -1)
    return False


def helper_cannot_come():
    xent_add(&called, -1)


def forget_helpers():
    """After a fork, which leaves them and their jobs behind."""
    global lock, idle, called
    cdef int desk
    lock = idle = called = 0
    for desk in range(DESKS):
        desks[desk] = NULL


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

    cdef int do(self, Part part, const void* task, Py_ssize_t scratch) except -1:
        """part(task, scratch of that many numbers, turns) in each thread."""
        cdef Job* job = &self.job
        cdef double start, start_busy
        cdef int desk
        cdef bint done
        job.part, job.task, job.scratch = part, task, scratch
        with nogil:
            if job.threads == 1:
                done = take_part(job)
            else:
                start, start_busy = xent_seconds(), xent_busy_seconds()
                desk = offer(job)
                done = take_part(job)
                withdraw(job, desk)
                self.seconds = xent_seconds() - start
                self.busy = xent_busy_seconds() - start_busy + 1e-9 * xent_load(&job.busy)
        if not done:
            raise MemoryError
        return 0


cdef int do_alone(
    Part part, const void* task, Py_ssize_t scratch, Py_ssize_t units, Py_ssize_t size, Py_ssize_t number
) except -1:
    """The same without helpers, and without an object."""
    cdef Job job
    cdef bint done
    job.part, job.task, job.scratch = part, task, scratch
    job.units, job.size, job.number, job.threads = units, size, number, 1
    job.next = 0
    with nogil:
        done = take_part(&job)
    if not done:
        raise MemoryError
    return 0
