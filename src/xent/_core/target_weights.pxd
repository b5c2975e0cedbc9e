# The weights of the rows of a batch, sample weight times target mass; a mean divides by their sum. Labels and sparse
# indices are checked in the same pass.

from libc.math cimport frexp, isfinite
from libc.stdint cimport int32_t, int64_t, uint8_t

from xent._core.batch cimport Batch, DISTRIBUTION, LABELS
from xent._core.exponentials cimport HIGH, LOW
from xent._core.pairs cimport Pair, add_pair, multiply, single, sum_pairs
from xent._core.rows cimport PIECE_ELEMENTS, add_elements, has_many, multiply_row
from xent._core.scratch cimport WeightScratch
from xent._core.simd cimport fill, vec, xent_are_classes
from xent._core.strided cimport (
    ABSENT, I32, I64, Operand, U8, gather, read_integer, read_number, row_of, weight_of,
)
from xent._core.targets cimport exponent_of_row, is_class, is_ignored, scale_pair, target_mass_of


cdef struct WeightSum:          # in units of 2^exponent
    double high
    double low
    double exponent


ctypedef fused label_type:
    int64_t
    int32_t
    uint8_t


cdef inline Py_ssize_t count_labels(
    const label_type* label, Py_ssize_t n, Py_ssize_t classes, bint ignores, int64_t ignore_index
) noexcept nogil:
    """Count the labels that are classes; -1 if any is neither a class nor ignored. Branch-free, to vectorise."""
    cdef Py_ssize_t i, counted = 0, ignored = 0
    cdef int64_t c
    cdef bint within, skips
    for i in range(n):
        c = label[i]
        skips = ignores & (c == ignore_index)
        within = (c >= 0) & (c < classes) & (not skips)
        counted += within
        ignored += skips
    return counted if counted + ignored == n else -1


cdef inline Py_ssize_t count_plain_labels(const Batch* batch, Py_ssize_t first, Py_ssize_t last) noexcept nogil:
    """`count_labels` for rows first <= i < last; -1 also if labels are strided or of another type."""
    cdef const Operand* target = &batch.target
    cdef char* label = row_of(target, first)
    cdef Py_ssize_t size = 8 if target.kind == I64 else 4 if target.kind == I32 else 1
    if target.ndim > 1 or (target.ndim == 1 and target.strides[0] != size):
        return -1
    if target.kind == I64 and not 0 <= batch.ignore_index < batch.logits.n:
        if xent_are_classes(<int64_t*>label, last - first, batch.logits.n):
            return last - first
    if target.kind == I64:
        return count_labels(<int64_t*>label, last - first, batch.logits.n, batch.ignores, batch.ignore_index)
    if target.kind == I32:
        return count_labels(<int32_t*>label, last - first, batch.logits.n, batch.ignores, batch.ignore_index)
    if target.kind == U8:
        return count_labels(<uint8_t*>label, last - first, batch.logits.n, batch.ignores, batch.ignore_index)
    return -1


cdef inline void add_weight(WeightSum* total, Pair x, int exponent) noexcept nogil:
    """total += x 2^exponent; the sum is in the units of its largest term."""
    cdef Pair sum
    if x.high == 0:
        return
    sum.high, sum.low = total.high, total.low
    if exponent > total.exponent or total.high == 0:
        sum = scale_pair(sum, <int>total.exponent - exponent)
        total.exponent = exponent
    add_pair(&sum, scale_pair(x, exponent - <int>total.exponent))
    total.high, total.low = sum.high, sum.low


cdef inline Pair weigh_points(const Batch* batch, Py_ssize_t i, int exponent, Py_ssize_t* bad) noexcept nogil:
    """`weigh_target` for a label or a sparse distribution."""
    cdef Py_ssize_t j, k = batch.target.n
    cdef char* row = row_of(&batch.target, i)
    cdef char* probs
    cdef int64_t c
    cdef Pair total = single(0)
    if batch.form == LABELS:
        c = read_integer(row, batch.target.kind)
        if is_class(batch, c):
            return target_mass_of(batch, 1, c, exponent)
        if not is_ignored(batch, c):
            bad[0] = i
        return total
    probs = row_of(&batch.target_probs, i)
    for j in range(k):
        c = read_integer(row + j * batch.target.step, batch.target.kind)
        if is_class(batch, c):
            add_pair(&total, target_mass_of(
                batch, read_number(probs + j * batch.target_probs.step, batch.target_probs.kind), c, exponent
            ))
        elif not is_ignored(batch, c):
            bad[0] = i * k + j
            return total
    return total


cdef inline Pair weigh_target(
    const Batch* batch, const WeightScratch* scratch, Py_ssize_t i, int exponent, Py_ssize_t* bad, vec* like
) noexcept nogil:
    """The target mass of row i, in units of 2^exponent. If a label or sparse index is out of range, `bad` becomes its
    index in the target."""
    cdef Py_ssize_t j, n = batch.logits.n, start = 0, count
    cdef char* row = row_of(&batch.target, i)
    cdef Pair total = single(0)
    cdef vec sums[2]
    cdef vec* t
    cdef vec* weight
    if batch.form != DISTRIBUTION:
        return weigh_points(batch, i, exponent, bad)
    if batch.has_extreme_weights:
        for j in range(n):
            add_pair(&total, target_mass_of(
                batch, read_number(row + j * batch.target.step, batch.target.kind), j, exponent
            ))
        return total
    sums[HIGH] = sums[LOW] = fill(like, 0)
    while start < n:
        count = min(PIECE_ELEMENTS, n - start)
        t = gather(&batch.target, i, start, count, <vec*>scratch.target)
        if batch.class_weight.kind != ABSENT:
            weight = gather(&batch.class_weight, 0, start, count, <vec*>scratch.class_weight)
            multiply_row(t, weight, <vec*>scratch.target, count)
            t = <vec*>scratch.target
        add_elements(t, count, has_many(like, n), sums)
        start += count
    return sum_pairs(sums[HIGH], sums[LOW])


cdef inline Py_ssize_t weigh_rows(
    const Batch* batch, const WeightScratch* scratch, Py_ssize_t first, Py_ssize_t last, WeightSum* sum, vec* like
) noexcept nogil:
    """Sum sample weight times target mass. Return the index of the first bad label or sparse index, or -1."""
    cdef Py_ssize_t i, counted, bad = -1
    cdef double weight
    cdef int exponent, weight_exponent = 0
    cdef Pair mass, total = single(0)
    sum.high = sum.low = sum.exponent = 0
    if batch.form == LABELS and batch.class_weight.kind == ABSENT and batch.sample_weight.kind == ABSENT:
        counted = count_plain_labels(batch, first, last)
        if counted >= 0:
            sum.high = counted
            return -1
    for i in range(first, last):
        weight = weight_of(&batch.sample_weight, i)
        if weight == 0 and batch.form == DISTRIBUTION:
            continue
        exponent = exponent_of_row(batch, i, False)
        mass = weigh_target(batch, scratch, i, exponent, &bad, like)
        if bad >= 0:
            return bad
        if weight == 0:
            continue
        if batch.has_extreme_weights:
            weight = frexp(weight, &weight_exponent)
            add_weight(sum, multiply(mass, single(weight)), exponent + weight_exponent)
        elif mass.high != 0:
            add_pair(&total, multiply(mass, single(weight)))
    if not batch.has_extreme_weights:
        sum.high, sum.low = total.high, total.low if isfinite(total.low) else 0.0
    return -1
