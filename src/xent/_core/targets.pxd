# The target of one row: the classes with nonzero target mass (probability times class weight), and their masses. If
# products of weights may leave the range of float64 ("extreme weights"), masses are in units of a power of two per row.

from libc.limits cimport INT_MIN
from libc.math cimport frexp, ldexp
from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memset

from xent._core.batch cimport Batch, LABELS, SPARSE, smooths
from xent._core.pairs cimport Pair, add_pair, multiply, single, value
from xent._core.scratch cimport LossScratch, Points
from xent._core.strided cimport ABSENT, read_integer, read_number, row_of

cdef enum:                      # special values of Points.count
    IGNORED = -1
    INVALID = -2


cdef inline double class_weight_of(const Batch* batch, Py_ssize_t c) noexcept nogil:
    return (<double*>batch.class_weight.data)[c] if batch.class_weight.kind != ABSENT else 1.0


cdef inline Pair scale_pair(Pair x, int exponent) noexcept nogil:
    """x 2^exponent"""
    if exponent != 0:
        x.high, x.low = ldexp(x.high, exponent), ldexp(x.low, exponent)
    return x


cdef inline int exponent_of(double x) noexcept nogil:
    cdef int exponent = 0
    frexp(x, &exponent)
    return exponent


cdef inline Pair target_mass_of(const Batch* batch, double t, Py_ssize_t c, int exponent) noexcept nogil:
    """t times the weight of class c, in units of 2^exponent."""
    cdef double weight = class_weight_of(batch, c)
    cdef int t_exponent = 0, weight_exponent = 0
    if not batch.has_extreme_weights:
        return multiply(single(t), single(weight))
    t, weight = frexp(t, &t_exponent), frexp(weight, &weight_exponent)
    return scale_pair(multiply(single(t), single(weight)), t_exponent + weight_exponent - exponent)


cdef inline bint is_ignored(const Batch* batch, int64_t c) noexcept nogil:
    return batch.ignores and c == batch.ignore_index


cdef inline bint is_class(const Batch* batch, int64_t c) noexcept nogil:
    return 0 <= c < batch.logits.n and not is_ignored(batch, c)


# --- units of extreme weights ----------------------------------------------------------------------------------------


cdef inline int target_exponent_of(const Batch* batch, Py_ssize_t i) noexcept nogil:
    """The exponent of the largest target mass of row i, INT_MIN if it has none."""
    cdef Py_ssize_t j
    cdef int largest = INT_MIN
    cdef double t
    cdef int64_t c
    cdef char* target = row_of(&batch.target, i)
    if batch.form == LABELS:
        c = read_integer(target, batch.target.kind)
        if is_class(batch, c) and class_weight_of(batch, c) != 0:
            largest = exponent_of(class_weight_of(batch, c))
        return largest
    for j in range(batch.target.n):
        c = j
        if batch.form == SPARSE:
            c = read_integer(target + j * batch.target.step, batch.target.kind)
            if not is_class(batch, c):
                continue
            t = read_number(row_of(&batch.target_probs, i) + j * batch.target_probs.step, batch.target_probs.kind)
        else:
            t = read_number(target + j * batch.target.step, batch.target.kind)
        if t != 0 and class_weight_of(batch, c) != 0:
            largest = max(largest, exponent_of(t) + exponent_of(class_weight_of(batch, c)))
    return largest


cdef inline int exponent_of_row(const Batch* batch, Py_ssize_t i, bint with_options) noexcept nogil:
    """The exponent of the largest factor in the loss of row i (`with_options`: smoothing and z_loss included). In units
    of 2^exponent no factor overflows, and none that matters underflows. 0 unless weights are extreme."""
    cdef Py_ssize_t j
    cdef int largest
    cdef double weight
    cdef char* where = NULL
    if not batch.has_extreme_weights:
        return 0
    largest = target_exponent_of(batch, i)
    if with_options and smooths(batch):
        if batch.where.kind != ABSENT:
            where = row_of(&batch.where, i)
        for j in range(batch.logits.n):
            weight = class_weight_of(batch, j)
            if weight != 0 and (where is NULL or where[j * batch.where.step]):
                largest = max(largest, exponent_of(weight))
    if with_options and batch.z_loss != 0:
        largest = max(largest, exponent_of(batch.z_loss))
    return largest if largest > INT_MIN else 0


# --- labels and sparse distributions ---------------------------------------------------------------------------------


cdef inline Py_ssize_t find_point(const LossScratch* scratch, Py_ssize_t found, int64_t c) noexcept nogil:
    """The index of class c among the points found so far; a new class is added as number `found`. The hash table uses
    open addressing; an entry is an index plus 1, 0 if free."""
    cdef uint64_t slot = (<uint64_t>c * 0x9E3779B97F4A7C15U >> 32) & <uint64_t>(scratch.table_size - 1)
    while scratch.table[slot] != 0:
        if scratch.points.index[scratch.table[slot] - 1] == c:
            return scratch.table[slot] - 1
        slot = (slot + 1) & <uint64_t>(scratch.table_size - 1)
    scratch.table[slot] = found + 1
    return found


cdef inline Points read_label(
    const Batch* batch, Py_ssize_t i, const LossScratch* scratch, int exponent
) noexcept nogil:
    cdef Points points = scratch.points
    cdef int64_t c = read_integer(row_of(&batch.target, i), batch.target.kind)
    if is_ignored(batch, c):
        points.count = IGNORED
    elif not 0 <= c < batch.logits.n:
        points.count = INVALID
    else:
        points.index[0] = c
        points.mass[0] = target_mass_of(batch, 1, c, exponent)
        points.count = points.mass[0].high != 0
    return points


cdef inline Points read_points(
    const Batch* batch, Py_ssize_t i, const LossScratch* scratch, int exponent
) noexcept nogil:
    """The label or sparse distribution of row i, in units of 2^exponent. An index out of range (INVALID) was changed
    after it was checked."""
    cdef Points points = scratch.points
    cdef Pair x
    cdef Py_ssize_t j, place, counted = 0, found = 0
    cdef int64_t c
    cdef char* row = row_of(&batch.target, i)
    cdef char* probs
    if batch.form == LABELS:
        return read_label(batch, i, scratch, exponent)
    memset(scratch.table, 0, scratch.table_size * sizeof(int64_t))
    # Repeated classes add up as pairs: what that loses would be missed in the loss.
    probs = row_of(&batch.target_probs, i)
    for j in range(batch.target.n):
        c = read_integer(row + j * batch.target.step, batch.target.kind)
        if is_ignored(batch, c):
            continue
        if not 0 <= c < batch.logits.n:
            points.count = INVALID
            return points
        counted += 1
        x = target_mass_of(
            batch, read_number(probs + j * batch.target_probs.step, batch.target_probs.kind), c, exponent
        )
        place = find_point(scratch, found, c)
        if place < found:
            add_pair(&points.mass[place], x)
        else:
            points.index[found] = c
            points.mass[found] = x
            found += 1
    for j in range(found):
        if value(points.mass[j]) != 0:
            points.index[points.count] = points.index[j]
            points.mass[points.count] = points.mass[j]
            points.count += 1
    if counted == 0 and batch.target.n > 0:
        points.count = IGNORED
    return points
