# Blocks of work, and the threads that do them: see scheduler.pyx.

from libc.stdint cimport int64_t

cdef extern from "Python.h" nogil:
    Py_ssize_t PY_SSIZE_T_MAX

cdef extern from "_core/scheduler.h" nogil:
    ctypedef int64_t xent_shared
    int64_t xent_load(xent_shared* x)
    int64_t xent_add(xent_shared* x, int64_t more)
    bint xent_replace(xent_shared* x, int64_t old, int64_t now)
    void xent_relax()
    void xent_yield()
    void xent_sleep_briefly()
    double xent_seconds()
    double xent_busy_seconds()

cdef enum:
    FEW_UNITS = 1024                # numbers that take less time than it takes to release the GIL

cdef struct BlockClaim

# Runs in each thread: claims blocks until none are left. `scratch` is private to the thread and starts a cache line.
ctypedef void (*Worker)(const void* task, double* scratch, BlockClaim* claim) noexcept nogil


cdef struct Job:
    Worker worker
    const void* task                # operands and options
    Py_ssize_t scratch_length       # float64 numbers, for each thread
    Py_ssize_t units                # rows, or chunks of elements
    Py_ssize_t size                 # units in a block
    Py_ssize_t number               # of blocks
    Py_ssize_t threads
    xent_shared next                # the first block that no thread has claimed
    xent_shared wanted              # workers that may still join
    xent_shared present             # workers that have joined and are not done
    xent_shared busy                # CPU time of the workers, in nanoseconds


cdef struct BlockClaim:             # blocks that one thread does
    Job* job
    Py_ssize_t block                # the current block
    Py_ssize_t stop                 # the first after the claim
    Py_ssize_t first                # units first <= i < last
    Py_ssize_t last


cdef inline Py_ssize_t end_of_block(const Job* job, Py_ssize_t block) noexcept nogil:
    return job.units if block == job.number - 1 else (block + 1) * job.size


cdef bint claim_blocks(BlockClaim* claim) noexcept nogil
cdef bint next_block(BlockClaim* claim) noexcept nogil

cpdef Py_ssize_t block_size(Py_ssize_t units, Py_ssize_t elements, Py_ssize_t block_elements) noexcept
cpdef Py_ssize_t count_blocks(Py_ssize_t units, Py_ssize_t size) noexcept


cdef class Work:
    cdef Job job
    cdef readonly double seconds        # wall time of the kernel, if it had workers
    cdef readonly double busy           # CPU time of all its threads, in seconds

    cdef int do(self, Worker worker, const void* task, Py_ssize_t scratch_length) except -1


cdef int do_alone(
    Worker worker, const void* task, Py_ssize_t scratch_length, Py_ssize_t units, Py_ssize_t size, Py_ssize_t elements
) except -1
