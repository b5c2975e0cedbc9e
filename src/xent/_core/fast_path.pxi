# Part of _kernels.pyx: calls without options on plain arrays. With a few rows, the checks in Python take longer than
# everything else. Here they ask only "is this plain?", in C, and nothing else: a call that is not, or that is wrong in
# any respect, gets None, and goes the general way, where errors are told. A plain call gives the same bits either way,
# which tests/kernels/test_code_paths.py checks.

from cpython.float cimport PyFloat_AS_DOUBLE, PyFloat_CheckExact
from cpython.long cimport PyLong_AsLongLongAndOverflow, PyLong_CheckExact
from cpython.object cimport PyObject

from math import fsum

cdef extern from "Python.h":
    # Borrowed references: those of cpython.tuple are counted.
    PyObject* PyTuple_GET_ITEM(object items, Py_ssize_t i)
    Py_ssize_t PyTuple_GET_SIZE(object items)


cdef inline bint are_default(tuple options, tuple defaults):
    """Whether each option is its default, or an equal float."""
    cdef Py_ssize_t i
    cdef PyObject *given, *default
    for i in range(PyTuple_GET_SIZE(defaults)):
        given, default = PyTuple_GET_ITEM(options, i), PyTuple_GET_ITEM(defaults, i)
        if given != default and not (
            PyFloat_CheckExact(<object>given) and PyFloat_CheckExact(<object>default)
            and PyFloat_AS_DOUBLE(<object>given) == PyFloat_AS_DOUBLE(<object>default)
        ):
            return False
    return True


cdef bint is_int(value, int64_t* number):
    cdef int overflow = 0
    if not PyLong_CheckExact(value):
        return False
    number[0] = PyLong_AsLongLongAndOverflow(value, &overflow)
    return overflow == 0


cdef bint is_contiguous(value):
    """Whether it is a NumPy array in C order, aligned, in native byte order."""
    return cnp.PyArray_CheckExact(value) and cnp.PyArray_ISCARRAY_RO(<cnp.ndarray>value)


cdef bint are_rows(x, axis):
    """Whether it is a contiguous float32 or float64 array, not empty, and the axis is its last."""
    cdef cnp.ndarray array
    cdef int64_t index
    if not (is_contiguous(x) and is_int(axis, &index)):
        return False
    array = <cnp.ndarray>x
    return (
        cnp.PyArray_TYPE(array) in (cnp.NPY_FLOAT, cnp.NPY_DOUBLE) and cnp.PyArray_SIZE(array) > 0
        and cnp.PyArray_NDIM(array) > 0 and (index == -1 or index == cnp.PyArray_NDIM(array) - 1)
    )


cdef bint is_thread_count(n_threads, int64_t* threads):
    """Whether it is a positive int, which goes to `threads`, or None, which leaves that as it is."""
    return n_threads is None or (is_int(n_threads, threads) and threads[0] > 0)


cdef bint same_shape(cnp.ndarray a, cnp.ndarray b, int axes):
    cdef int axis
    for axis in range(axes):
        if cnp.PyArray_DIM(a, axis) != cnp.PyArray_DIM(b, axis):
            return False
    return True


cdef bint are_apart(cnp.ndarray a, cnp.ndarray b):
    cdef char* start = <char*>cnp.PyArray_DATA(a)
    cdef char* other = <char*>cnp.PyArray_DATA(b)
    return start + cnp.PyArray_NBYTES(a) <= other or other + cnp.PyArray_NBYTES(b) <= start


cdef bint is_output_for(value, cnp.ndarray x):
    """Whether it is contiguous, of the shape and type of x, and either x itself or without memory in common."""
    cdef cnp.ndarray array
    if not is_contiguous(value):
        return False
    array = <cnp.ndarray>value
    return (
        cnp.PyArray_ISCARRAY(array) and cnp.PyArray_TYPE(array) == cnp.PyArray_TYPE(x)
        and cnp.PyArray_NDIM(array) == cnp.PyArray_NDIM(x) and same_shape(array, x, cnp.PyArray_NDIM(x))
        and (cnp.PyArray_DATA(array) == cnp.PyArray_DATA(x) or are_apart(array, x))
    )


cdef inline bint is_bool(value):
    return value is True or value is False


cdef bint is_hess_for(value, cnp.ndarray x, cnp.ndarray labels, grad):
    """Whether it is an output for x with memory of its own."""
    cdef cnp.ndarray array
    if not is_output_for(value, x):
        return False
    array = <cnp.ndarray>value
    return (
        are_apart(array, x) and are_apart(array, labels) and (grad is None or are_apart(array, <cnp.ndarray>grad))
    )


def total(values):
    """The sum of a list of floats, rounded once."""
    try:
        return fsum(values)
    except (OverflowError, ValueError):     # a sum too large, infinity - infinity
        return sum(values)


cdef class PlainCall:
    """A plain call that is large enough for several threads."""

    cdef Py_ssize_t count       # rows
    cdef Py_ssize_t n           # elements of each
    cdef object arrays          # keeps alive what the task points into
    cdef object output

    @property
    def rows(self):
        return self.count

    @property
    def classes(self):
        return self.n

    def result(self):
        """What the public function returns, after `compute`."""
        return self.output


cdef class PlainSoftmax(PlainCall):
    cdef SoftmaxTask task

    def compute(self, Work work):
        work.do(softmax_worker, &self.task, plan_softmax(&self.task, work.job.threads))


cdef class PlainLogsumexp(PlainCall):
    cdef LogsumexpTask task

    def compute(self, Work work):
        work.do(logsumexp_worker, &self.task, plan_logsumexp(&self.task, work.job.threads))


cdef object for_later(PlainCall call, Py_ssize_t count, Py_ssize_t n, arrays, output):
    call.count, call.n, call.arrays, call.output = count, n, arrays, output
    return call


def plain_softmax(x, axis, where, out, bint logarithm, n_threads, Py_ssize_t thread_elements):
    """The result of a plain call; a PlainCall if it is large enough for several threads; None if it is not plain."""
    cdef cnp.ndarray array
    cdef SoftmaxTask task
    cdef PlainSoftmax call
    cdef Py_ssize_t count
    cdef int64_t threads = 2
    if where is not None or not are_rows(x, axis) or not is_thread_count(n_threads, &threads):
        return None
    array = <cnp.ndarray>x
    if out is None:
        out = empty(array, cnp.PyArray_NDIM(array))
    elif not is_output_for(out, array):
        return None
    bind(&task.x, array, 1)
    task.where.kind = ABSENT
    bind_output(&task.out, out, 1, &task.x)
    task.logarithm = logarithm
    count = cnp.PyArray_SIZE(array) // task.x.n
    if threads > 1 and cnp.PyArray_SIZE(array) >= 2 * thread_elements:
        call = PlainSoftmax()
        call.task = task
        return for_later(call, count, task.x.n, array, out)
    do_alone(softmax_worker, &task, plan_softmax(&task, 1), count, count, task.x.n)
    return out


def plain_logsumexp(x, axis, b, where, keepdims, return_sign, n_threads, Py_ssize_t thread_elements):
    """As `plain_softmax`."""
    cdef cnp.ndarray array
    cdef LogsumexpTask task
    cdef PlainLogsumexp call
    cdef Py_ssize_t count
    cdef int64_t threads = 2
    if b is not None or where is not None or keepdims is not False or return_sign is not False:
        return None
    if not are_rows(x, axis) or not is_thread_count(n_threads, &threads):
        return None
    array = <cnp.ndarray>x
    out = empty(array, cnp.PyArray_NDIM(array) - 1)
    bind(&task.x, array, 1)
    bind(&task.out, out, 0)
    task.where.kind = task.weight.kind = task.sign.kind = ABSENT
    count = cnp.PyArray_SIZE(array) // task.x.n
    if threads > 1 and cnp.PyArray_NDIM(array) > 1 and cnp.PyArray_SIZE(array) >= 2 * thread_elements:
        call = PlainLogsumexp()
        call.task = task
        return for_later(call, count, task.x.n, array, out)
    do_alone(logsumexp_worker, &task, plan_logsumexp(&task, 1), count, count, task.x.n)
    return out if cnp.PyArray_NDIM(array) > 1 else out[()]


cdef struct LossCall:
    BatchTask task
    Py_ssize_t number   # of blocks, and of task.sums
    double weight       # what a mean divides by, or 0


cdef int allocate_sums(LossCall* call, Py_ssize_t number) except -1:
    call.number = number
    call.task.sums = <double*>malloc(number * sizeof(double))
    if call.task.sums is NULL:
        raise MemoryError
    return 0


cdef object result_of(const LossCall* call, loss, grad, hess):
    cdef const double* sums = call.task.sums
    if loss is None:
        loss = sums[0] if call.number == 1 else total([sums[i] for i in range(call.number)])
        if call.weight != 0:
            loss /= call.weight
    return loss if grad is None else (loss, grad) if hess is None else (loss, grad, hess)


cdef class PlainLoss(PlainCall):
    cdef LossCall call

    def __dealloc__(self):
        free(self.call.task.sums)

    def compute(self, Work work):
        allocate_sums(&self.call, work.job.number)
        work.do(cross_entropy_worker, &self.call.task, plan_batch(&self.call.task.batch, work.job.threads))

    def result(self):
        loss, grad, hess = self.output
        return result_of(&self.call, loss, grad, hess)


cdef inline Py_ssize_t weigh_labels(const Batch* batch, Py_ssize_t count, WeightSum* weight) noexcept:
    """`weigh_rows` of labels, which needs no scratch."""
    cdef WeightScratch unused
    cdef Py_ssize_t bad
    if count <= FEW_UNITS:      # to release the GIL would take longer
        return weigh_rows(batch, &unused, 0, count, weight, <vf64*>NULL)
    with nogil:
        bad = weigh_rows(batch, &unused, 0, count, weight, <vf64*>NULL)
    return bad


def plain_cross_entropy(
    logits, target, axis, ignore_index, tuple options, tuple defaults, reduction, return_grad, return_hess, grad_out,
    hess_out, n_threads, Py_ssize_t thread_elements, Py_ssize_t block_elements
):
    """As `plain_softmax`."""
    cdef cnp.ndarray x, labels
    cdef LossCall call
    cdef Batch* batch = &call.task.batch
    cdef PlainLoss job
    cdef int64_t threads = 2, ignored
    cdef int axes
    cdef WeightSum weight
    cdef Py_ssize_t count, size
    if not (are_default(options, defaults) and is_thread_count(n_threads, &threads)):
        return None
    if not (are_rows(logits, axis) and is_contiguous(target)):
        return None
    x, labels = <cnp.ndarray>logits, <cnp.ndarray>target
    axes = cnp.PyArray_NDIM(x) - 1
    if axes == 0 or axes != cnp.PyArray_NDIM(labels) or not same_shape(x, labels, axes):
        return None
    if kind_of(labels) not in (I8, I16, I32, I64, U8, U16, U32) or not is_int(ignore_index, &ignored):
        return None
    if reduction not in ("mean", "sum", "none") or not (is_bool(return_grad) and is_bool(return_hess)):
        return None
    if grad_out is not None and not (is_output_for(grad_out, x) and are_apart(<cnp.ndarray>grad_out, labels)):
        return None
    if hess_out is not None and not is_hess_for(hess_out, x, labels, grad_out):
        return None
    count = cnp.PyArray_SIZE(labels)
    if threads > 1 and count >= 2 * thread_elements:       # the labels alone are work for several threads
        return None

    set_defaults(batch)
    bind(&batch.logits, x, 1)
    bind(&batch.target, labels, 0)
    batch.ignores, batch.ignore_index = True, ignored
    if weigh_labels(batch, count, &weight) >= 0 or (weight.high == 0 and reduction == "mean"):
        return None
    call.task.sums, call.number = NULL, 0
    call.weight = weight.high if reduction == "mean" else 0
    batch.divisor = weight.high if reduction == "mean" else 1
    grad, hess = grad_out, hess_out
    if hess is None and return_hess:
        hess = empty(x, axes + 1)
    if grad is None and (return_grad or hess is not None):
        grad = empty(x, axes + 1)
    loss = empty(x, axes) if reduction == "none" else None
    bind(&batch.loss, loss, 0)
    bind_output(&batch.grad, grad, 1, &batch.logits)
    bind_output(&batch.hess, hess, 1, &batch.logits)
    if threads > 1 and cnp.PyArray_SIZE(x) >= 2 * thread_elements:
        job = PlainLoss()
        job.call = call
        return for_later(job, count, batch.logits.n, (x, labels), (loss, grad, hess))
    size = block_size(count, batch.logits.n, block_elements)
    allocate_sums(&call, count_blocks(count, size))
    try:
        do_alone(cross_entropy_worker, &call.task, plan_batch(batch, 1), count, size, batch.logits.n)
        return result_of(&call, loss, grad, hess)
    finally:
        free(call.task.sums)
