"""Every loop over elements. Nothing here checks an argument, allocates or starts a thread.

One row x of C logits, with target mass t and T = sum(t):

    m = max x          k = an index where x_k = m          e_c = exp(x_c - m)
    r = sum of e_c over c != k            s = 1 + r        logsumexp = m + log1p(r)
    p_c = e_c / s                         log p_c = -((m - x_c) + log1p(r))
    loss = sum(t_c (m - x_c)) + T log1p(r)                 grad_c = T p_c - t_c

(a) The maximum is left out of the sum and comes back through log1p, so the loss is a sum of terms that are all >= 0:
    a confident row keeps every digit of its tiny loss.
(b) With all the mass on one class y the gradient there is -T (sum of e_c over c != y) / s, never T (p_y - 1).
(c) x - m rounds. Its rounding error, recovered by a two-sum, goes into the reduced argument of exp.
(d) Sums run in short blocks, four vectors of partial sums each; block totals are added in float64 with compensation.

Layers, each using only those above it: numbers (exp, log1p, sums) -> one row -> a block of rows -> the functions that
Python calls, which take arrays that are known to be good (see _arguments.py) and a range of blocks to work on.
"""

from libc.math cimport INFINITY, NAN, isfinite, isnan, log, log1p
from libc.stdint cimport INT64_MIN, int64_t
from libc.string cimport memset

cimport numpy as cnp

from xent._operands cimport (
    ABSENT, F32, Operand, bind, gather, place, read_integer, read_number, row_of, scatter, weight_of, write_number,
)
from xent._simd cimport (
    absolute, any_equal, fill, get, lanes, load_first, max_lanes, maximum, power_of_two, put, store_first, sum_lanes,
    vec, vf32, vf64, where_equal, where_less, without_lane, xent_cpu_has_avx2, xent_cpu_has_avx512,
)

cnp.import_array()

cdef enum:
    BLOCK = 64          # vectors to a short sum: at most 16 additions before a partial sum is widened
    CHUNK = 512         # elements of a binary loss at a time


# ---------------------------------------------------------------------------------------------------------------------
# Numbers
# ---------------------------------------------------------------------------------------------------------------------

cdef struct Sum:        # a float64 sum and what its roundings lost
    double high
    double low


cdef inline void add(Sum* total, double x) noexcept nogil:
    cdef double high = total.high + x
    cdef double part = high - total.high
    total.low += (total.high - (high - part)) + (x - part)
    total.high = high


cdef inline void add_lanes(Sum* total, vec x) noexcept nogil:
    cdef Py_ssize_t i
    if vec is vf32:
        add(total, sum_lanes(x))    # in float64 already
    else:
        for i in range(lanes(&x)):
            add(total, get(&x, i))


cdef inline double value(Sum total) noexcept nogil:
    # An infinite sum has lost infinity - infinity.
    return total.high + total.low if isfinite(total.high) else total.high


cdef inline vec exp_shifted(vec x, vec m) noexcept nogil:
    """exp(x - m) for x <= m; 0 where that is below the smallest normal number.

    x - m = n log 2 + f with |f| <= log(2)/2, and exp(f) = 1 + f + f^2 q(f), q a minimax polynomial of this interval.
    """
    cdef vec d = x - m
    cdef vec part = d - x
    cdef vec lost = (x - (d - part)) - (m + part)
    cdef vec shifted, n, f, q, power, high, low = d
    if vec is vf32:
        shifted = d * fill(&d, 1.44269504088896340736) + fill(&d, 12582912.0)             # 1.5 * 2^23
        n = shifted - fill(&d, 12582912.0)
        f = (d - n * fill(&d, 0.693359375)) + (lost - n * fill(&d, -2.12194440054690583e-4))
        q = fill(&d, 0.0013814553640338619)
        q = q * f + fill(&d, 0.0083687449038423794)
        q = q * f + fill(&d, 0.0416683905176082777)
        q = q * f + fill(&d, 0.1666652040223332495)
        q = q * f + fill(&d, 0.4999999343346428785)
    else:
        shifted = d * fill(&d, 1.44269504088896340736) + fill(&d, 6755399441055744.0)     # 1.5 * 2^52
        n = shifted - fill(&d, 6755399441055744.0)
        high = d - n * fill(&d, 0.693147180369123816490)
        low = lost - n * fill(&d, 1.90821492927058770002e-10)
        f = high + low
        low = (high - f) + low
        q = fill(&d, 2.4999965952650315e-8)
        q = q * f + fill(&d, 2.7630306354519168589e-7)
        q = q * f + fill(&d, 2.7557586977541140902e-6)
        q = q * f + fill(&d, 0.000024801492949640669651)
        q = q * f + fill(&d, 0.00019841269505573799554)
        q = q * f + fill(&d, 0.0013888888943759598763)
        q = q * f + fill(&d, 0.0083333333334950705962)
        q = q * f + fill(&d, 0.041666666666529731216)
        q = q * f + fill(&d, 0.16666666666666411364)
        q = q * f + fill(&d, 0.50000000000000106682)
    # float64 sums have no wider type to hide in: there f keeps its rounding error.
    f = f * f * q + f if vec is vf32 else (f * f * q + low) + f
    power = power_of_two(shifted)
    return where_less(d, fill(&d, -87.3365447505531 if vec is vf32 else -708.3964185322641), fill(&d, 0), f * power + power)


cdef inline vec log1p_unit(vec x) noexcept nogil:
    """log1p(x) for 0 <= x <= 1.

    1 + x = 2^k (1 + f), k = 1 from sqrt(2) on; with s = f / (2 + f), log1p(f) = f - (f^2/2 - s (f^2/2 + R(s^2))),
    R a minimax polynomial. The form is that of FreeBSD's log1p.
    """
    cdef vec bound = fill(&x, 0.41421356237309515)
    cdef vec zero = fill(&x, 0)
    cdef vec f = where_less(bound, x, (x - fill(&x, 1)) * fill(&x, 0.5), x)
    cdef vec s = f / (fill(&x, 2) + f)
    cdef vec z = s * s
    cdef vec half = fill(&x, 0.5) * f * f
    cdef vec r
    if vec is vf32:
        r = fill(&x, 0.23583540742507851)
        r = r * z + fill(&x, 0.285372400263040985)
        r = r * z + fill(&x, 0.400003361872143129)
        r = r * z + fill(&x, 0.666666656414753555)
        r = s * (half + r * z) + where_less(bound, x, fill(&x, 9.05800061445916e-06), zero)
        return where_less(bound, x, fill(&x, 0.693138122558594), zero) - ((half - r) - f)
    else:
        r = fill(&x, 0.147974705326395037)
        r = r * z + fill(&x, 0.153139072509607208)
        r = r * z + fill(&x, 0.181835695695164154)
        r = r * z + fill(&x, 0.22222198479599416)
        r = r * z + fill(&x, 0.285714287432230625)
        r = r * z + fill(&x, 0.399999999994112994)
        r = r * z + fill(&x, 0.666666666666673486)
        r = s * (half + r * z) + where_less(bound, x, fill(&x, 1.90821492927058770002e-10), zero)
        return where_less(bound, x, fill(&x, 0.693147180369123816490), zero) - ((half - r) - f)


# ---------------------------------------------------------------------------------------------------------------------
# One row: n contiguous elements, read as n // lanes vectors and a shorter last one
# ---------------------------------------------------------------------------------------------------------------------

cdef struct Shift:
    double maximum      # m
    Py_ssize_t argmax   # k
    double rest         # r; NaN where the row has no probabilities
    double log_sum      # log1p(r)
    double logsumexp    # m + log1p(r)


cdef inline double row_maximum(const vec* x, Py_ssize_t n) noexcept nogil:
    """The largest element that is not NaN; -inf if there is none."""
    cdef Py_ssize_t full = n // lanes(x), i = 0
    cdef vec a, b, c, d
    a = b = c = d = fill(x, -INFINITY)
    while i + 4 <= full:
        a = maximum(x[i], a)
        b = maximum(x[i + 1], b)
        c = maximum(x[i + 2], c)
        d = maximum(x[i + 3], d)
        i += 4
    while i < full:
        a = maximum(x[i], a)
        i += 1
    if n != full * lanes(x):
        b = maximum(load_first(x + full, n - full * lanes(x), -INFINITY), b)
    return max_lanes(maximum(maximum(a, b), maximum(c, d)))


cdef inline Py_ssize_t find(const vec* x, Py_ssize_t n, double wanted) noexcept nogil:
    """The first index at which x is `wanted`, or -1."""
    cdef Py_ssize_t full = n // lanes(x), i = 0
    cdef vec w
    w = fill(x, wanted)
    while i < full and not any_equal(x[i], w):
        i += 1
    i *= lanes(x)
    while i < n:
        if get(x, i) == wanted:
            return i
        i += 1
    return -1


cdef inline void exp_vectors(
    const vec* x, vec* e, Py_ssize_t first, Py_ssize_t last, vec m, bint keep, Sum* total
) noexcept nogil:
    """e = exp(x - m) if `keep`, added to the total either way, for the full vectors first <= i < last."""
    cdef Py_ssize_t stop, i = first
    cdef vec a, b, c, d, y0, y1, y2, y3
    while i < last:
        stop = min(i + BLOCK, last)
        a = b = c = d = fill(x, 0)
        while i + 4 <= stop:
            y0 = exp_shifted(x[i], m)
            y1 = exp_shifted(x[i + 1], m)
            y2 = exp_shifted(x[i + 2], m)
            y3 = exp_shifted(x[i + 3], m)
            if keep:
                e[i] = y0
                e[i + 1] = y1
                e[i + 2] = y2
                e[i + 3] = y3
            a += y0
            b += y1
            c += y2
            d += y3
            i += 4
        while i < stop:
            y0 = exp_shifted(x[i], m)
            if keep:
                e[i] = y0
            a += y0
            i += 1
        add_lanes(total, (a + b) + (c + d))


cdef inline void exp_partial(
    const vec* x, vec* e, Py_ssize_t i, Py_ssize_t n, Py_ssize_t skip, vec m, bint keep, Sum* total
) noexcept nogil:
    """The same for vector i alone, which may reach over the end of the row; element `skip` (-1: none) is not added."""
    cdef Py_ssize_t start = i * lanes(x)
    cdef Py_ssize_t count = min(n - start, lanes(x))
    cdef vec y = exp_shifted(load_first(x + i, count, -INFINITY), m)
    if keep:
        store_first(e + i, count, y)
    if skip >= 0:
        y = without_lane(y, skip - start)
    add_lanes(total, y)


cdef Shift row_without_probabilities(const vec* x, vec* e, Py_ssize_t n, double m, bint keep) noexcept nogil:
    """An infinite maximum: an infinite logit or none that is finite; NaN wins over both."""
    cdef Shift row
    cdef Py_ssize_t i
    row.maximum = m
    row.argmax = -1
    row.rest = row.log_sum = NAN
    row.logsumexp = m
    for i in range(n):
        if isnan(get(x, i)):
            row.logsumexp = NAN
    if keep:
        for i in range(n):
            put(e, i, NAN)
    return row


cdef inline Shift shift_row(const vec* x, vec* e, Py_ssize_t n, double m, bint keep) noexcept nogil:
    """Sum exp(x - m) without the maximum m; with `keep`, e (which may be x) holds exp(x - m) afterwards."""
    cdef Shift row
    cdef Sum rest
    cdef Py_ssize_t full = n // lanes(x), middle
    cdef vec shift
    if not isfinite(m):
        return row_without_probabilities(x, e, n, m, keep)
    shift = fill(x, m)
    rest.high = rest.low = 0
    row.maximum = m
    row.argmax = find(x, n, m)
    middle = row.argmax // lanes(x)
    exp_vectors(x, e, 0, middle, shift, keep, &rest)
    exp_partial(x, e, middle, n, row.argmax, shift, keep, &rest)
    exp_vectors(x, e, middle + 1, full, shift, keep, &rest)
    if full * lanes(x) != n and middle != full:
        exp_partial(x, e, full, n, -1, shift, keep, &rest)
    row.rest = value(rest)
    row.log_sum = log1p(row.rest)
    row.logsumexp = m + row.log_sum
    return row


cdef inline void scale_row(vec* x, Py_ssize_t n, double factor) noexcept nogil:
    cdef Py_ssize_t full = n // lanes(x), i
    cdef vec f
    f = fill(x, factor)
    for i in range(full):
        x[i] = x[i] * f
    if full * lanes(x) != n:
        store_first(x + full, n - full * lanes(x), load_first(x + full, n - full * lanes(x), 0) * f)


cdef inline void softmax_row(const vec* x, vec* out, Py_ssize_t n) noexcept nogil:
    cdef Shift row = shift_row(x, out, n, row_maximum(x, n), True)
    scale_row(out, n, 1 / (1 + row.rest))


cdef inline vec log_probability(vec x, vec m, vec log_sum_high, vec log_sum_low) noexcept nogil:
    # -((m - x) + log_sum): the terms have one sign. Both roundings of the parts go in with the low part of log_sum.
    cdef vec d = x - m
    cdef vec part = d - x
    cdef vec lost = (x - (d - part)) - (m + part)
    # Where x is -inf the rounding error is NaN, and of no interest.
    lost = where_equal(d, fill(&d, -INFINITY), fill(&d, 0), lost)
    return (d - log_sum_high) + (lost - log_sum_low)


cdef inline void log_softmax_row(const vec* x, vec* out, Py_ssize_t n) noexcept nogil:
    cdef Shift row = shift_row(x, out, n, row_maximum(x, n), False)
    cdef Py_ssize_t full = n // lanes(x), tail = n - n // lanes(x) * lanes(x), i
    cdef vec m, high, low
    m = fill(x, row.maximum if isfinite(row.maximum) else NAN)
    high = fill(x, row.log_sum)
    low = fill(x, row.log_sum - get(&high, 0))
    for i in range(full):
        out[i] = log_probability(x[i], m, high, low)
    if tail:
        store_first(out + full, tail, log_probability(load_first(x + full, tail, 0), m, high, low))


cdef inline double label_row(
    const vec* x, vec* grad, Py_ssize_t n, Py_ssize_t label, double weight, double scale, bint keep
) noexcept nogil:
    """Loss of a row whose mass `weight` is all on one class; with `keep`, grad (which may be x) = scale * gradient."""
    cdef double logit = get(x, label)
    cdef Shift row = shift_row(x, grad, n, row_maximum(x, n), keep)
    cdef double rest = row.rest, factor = weight * scale / (1 + row.rest)
    if keep:
        if label != row.argmax:
            rest = 1 + (row.rest - get(grad, label))
        scale_row(grad, n, factor)
        put(grad, label, -factor * rest)
    # A weight of 0 hides an infinite distance, not a NaN.
    return (weight * (row.maximum - logit) if weight != 0 else 0.0) + weight * row.log_sum


cdef struct Target:     # of one row
    double distance     # sum of t_c (m - x_c)
    double mass         # T
    double support      # how many t_c are not 0


cdef inline Target target_row(const vec* x, const vec* t, Py_ssize_t n, double m) noexcept nogil:
    cdef Py_ssize_t full = n // lanes(x), tail = n - n // lanes(x) * lanes(x), i = 0, stop
    cdef Sum distance, mass, support
    cdef vec shift, zero, one, distances, masses, supports, y
    cdef Target result
    shift = fill(x, m)
    zero = fill(x, 0)
    one = fill(x, 1)
    distance.high = distance.low = mass.high = mass.low = support.high = support.low = 0
    while i < full:
        stop = min(i + BLOCK // 4, full)
        distances = masses = supports = zero
        while i < stop:
            y = t[i]
            distances += where_equal(y, zero, zero, y * (shift - x[i]))
            masses += y
            supports += where_equal(y, zero, zero, one)
            i += 1
        add_lanes(&distance, distances)
        add_lanes(&mass, masses)
        add_lanes(&support, supports)
    if tail:
        y = load_first(t + full, tail, 0)
        add_lanes(&distance, where_equal(y, zero, zero, y * (shift - load_first(x + full, tail, 0))))
        add_lanes(&mass, y)
        add_lanes(&support, where_equal(y, zero, zero, one))
    result.distance = value(distance)
    result.mass = value(mass)
    result.support = value(support)
    return result


cdef inline double distribution_row(
    const vec* x, const vec* t, vec* grad, Py_ssize_t n, double weight, double scale, bint keep
) noexcept nogil:
    """Loss of a row whose mass is weight * t."""
    cdef double m = row_maximum(x, n)
    cdef Target target = target_row(x, t, n, m)
    cdef Py_ssize_t full = n // lanes(x), tail = n - n // lanes(x) * lanes(x), i
    cdef Shift row
    cdef vec p, q
    if target.support == 1:     # one-hot: the difference T p - t would cancel
        return label_row(x, grad, n, find(t, n, target.mass), weight * target.mass, scale, keep)
    row = shift_row(x, grad, n, m, keep)
    if keep:
        p = fill(x, weight * target.mass * scale / (1 + row.rest))
        q = fill(x, weight * scale)
        for i in range(full):
            grad[i] = grad[i] * p - t[i] * q
        if tail:
            store_first(grad + full, tail, load_first(grad + full, tail, 0) * p - load_first(t + full, tail, 0) * q)
    return weight * (target.distance + target.mass * row.log_sum)


# ---------------------------------------------------------------------------------------------------------------------
# Rows first <= i < last of a batch. `scratch` holds three rows.
# ---------------------------------------------------------------------------------------------------------------------

cdef void logsumexp_rows(
    const Operand* x, const Operand* out, vec* scratch, Py_ssize_t first, Py_ssize_t last
) noexcept nogil:
    cdef Py_ssize_t i
    cdef vec* row
    for i in range(first, last):
        row = gather(x, i, 0, x.n, scratch)
        write_number(out, i, shift_row(row, row, x.n, row_maximum(row, x.n), False).logsumexp)


cdef void softmax_rows(
    const Operand* x, const Operand* out, bint logarithm, vec* scratch, Py_ssize_t first, Py_ssize_t last
) noexcept nogil:
    cdef Py_ssize_t i
    cdef vec* row
    cdef vec* result
    for i in range(first, last):
        row = gather(x, i, 0, x.n, scratch)
        result = place(out, i, 0, scratch)
        if logarithm:
            log_softmax_row(row, result, x.n)
        else:
            softmax_row(row, result, x.n)
        scatter(out, i, 0, x.n, result)


cdef struct Batch:              # the operands of a loss; (*) may be absent
    Operand logits              # or probabilities
    Operand target              # labels, one a row, or distributions
    bint labels
    int64_t ignore_index
    Operand class_weight        # (*) one row, for every row of the batch
    Operand sample_weight       # (*) one a row
    double scale                # of the gradient
    Operand loss                # (*) output, one a row
    Operand grad                # (*) output


cdef inline vec* weighted_target(const Batch* batch, Py_ssize_t i, vec* scratch) noexcept nogil:
    cdef vec* t = gather(&batch.target, i, 0, batch.target.n, scratch)
    cdef Py_ssize_t j
    if batch.class_weight.kind != ABSENT:
        for j in range(batch.target.n):
            put(scratch, j, get(t, j) * get(<vec*>batch.class_weight.data, j))
        t = scratch
    return t


cdef double cross_entropy_rows(const Batch* batch, vec* scratch, Py_ssize_t first, Py_ssize_t last) noexcept nogil:
    """The sum of the losses; writes each loss and gradient where they are wanted."""
    cdef Py_ssize_t i, n = batch.logits.n, rows = (n + lanes(scratch) - 1) // lanes(scratch)
    cdef bint keep = batch.grad.kind != ABSENT
    cdef double weight, loss
    cdef int64_t label = 0
    cdef Sum total
    cdef vec* x
    cdef vec* grad = scratch
    total.high = total.low = 0
    for i in range(first, last):
        weight = weight_of(&batch.sample_weight, i)
        if batch.labels:
            label = read_integer(row_of(&batch.target, i), batch.target.kind)
        if keep:
            grad = place(&batch.grad, i, 0, scratch)
        if weight == 0 or (batch.labels and label == batch.ignore_index):
            loss = 0
            if keep:
                memset(grad, 0, n * (sizeof(vec) // lanes(scratch)))
        else:
            x = gather(&batch.logits, i, 0, n, scratch + rows)
            if batch.labels:
                if batch.class_weight.kind != ABSENT:
                    weight *= get(<vec*>batch.class_weight.data, label)
                if keep:
                    loss = label_row(x, grad, n, label, weight, batch.scale, True)
                else:
                    loss = label_row(x, x, n, label, weight, batch.scale, False)
            else:
                loss = distribution_row(
                    x, weighted_target(batch, i, scratch + 2 * rows), grad, n, weight, batch.scale, keep
                )
        if keep:
            scatter(&batch.grad, i, 0, n, grad)
        write_number(&batch.loss, i, loss)
        add(&total, loss)
    return value(total)


cdef double log_loss_rows(const Batch* batch, Py_ssize_t first, Py_ssize_t last) noexcept nogil:
    """As above from probabilities: -sum(t_c log p_c)."""
    cdef Py_ssize_t i, j
    cdef double weight, loss, t
    cdef char* row
    cdef char* target
    cdef Sum total, terms
    total.high = total.low = 0
    for i in range(first, last):
        weight = weight_of(&batch.sample_weight, i)
        row = row_of(&batch.logits, i)
        target = row_of(&batch.target, i)
        if weight == 0:
            loss = 0
        elif batch.labels:
            j = read_integer(target, batch.target.kind)
            loss = -log(read_number(row + j * batch.logits.step, batch.logits.kind))
        else:
            terms.high = terms.low = 0
            for j in range(batch.target.n):
                t = read_number(target + j * batch.target.step, batch.target.kind)
                if t != 0:
                    add(&terms, -t * log(read_number(row + j * batch.logits.step, batch.logits.kind)))
            loss = value(terms)
        loss = weight * loss + 0.0      # -log(1) is -0
        write_number(&batch.loss, i, loss)
        add(&total, loss)
    return value(total)


cdef Py_ssize_t weight_rows(const Batch* batch, Py_ssize_t first, Py_ssize_t last, double* mass) noexcept nogil:
    """The sum of sample weight times target mass, and the first row whose label is out of range, or -1."""
    cdef Py_ssize_t i, j, n = batch.logits.n
    cdef double weight, t
    cdef int64_t label
    cdef char* row
    cdef Sum total
    total.high = total.low = 0
    for i in range(first, last):
        weight = weight_of(&batch.sample_weight, i)
        row = row_of(&batch.target, i)
        if batch.labels:
            label = read_integer(row, batch.target.kind)
            if label == batch.ignore_index:
                continue
            if label < 0 or label >= n:
                return i
            if batch.class_weight.kind != ABSENT:
                weight *= read_number(batch.class_weight.data + label * batch.class_weight.step, batch.class_weight.kind)
            add(&total, weight)
        elif weight != 0:
            for j in range(n):
                t = weight * read_number(row + j * batch.target.step, batch.target.kind)
                if batch.class_weight.kind != ABSENT:
                    t *= read_number(batch.class_weight.data + j * batch.class_weight.step, batch.class_weight.kind)
                add(&total, t)
    mass[0] = value(total)
    return -1


# ---------------------------------------------------------------------------------------------------------------------
# Binary losses: element by element, in chunks that a scratch can hold
# ---------------------------------------------------------------------------------------------------------------------

cdef struct BinaryBatch:        # every operand has the shape of the first; (*) may be absent
    Operand x                   # logits or probabilities
    Operand target
    Operand pos_weight          # (*)
    Operand sample_weight       # (*)
    double scale                # of the gradient
    Operand loss                # (*) output
    Operand grad                # (*) output


cdef inline vec binary_loss(vec x, vec y, vec pos_weight, vec weight, vec scale, vec* grad) noexcept nogil:
    """Loss y w softplus(-x) + (1 - y) softplus(x) of logits x; both terms are >= 0. Writes scale * gradient.

    softplus(x) = max(x, 0) + log1p(exp(-|x|)), and sigmoid(-|x|) = e / (1 + e) with e = exp(-|x|).
    """
    cdef vec zero = fill(&x, 0)
    cdef vec one = fill(&x, 1)
    cdef vec e = exp_shifted(zero - absolute(x), zero)
    cdef vec rest = log1p_unit(e)
    cdef vec near = one / (one + e)
    cdef vec far = e / (one + e)
    cdef vec no = one - y
    cdef vec yes = y * pos_weight
    # A mass of 0 hides an infinite loss. A NaN stays in `rest`, whatever the comparisons make of it.
    cdef vec loss = (
        where_equal(no, zero, zero, no * (where_less(zero, x, x, zero) + rest))
        + where_equal(yes, zero, zero, yes * (where_less(x, zero, zero - x, zero) + rest))
    )
    cdef vec slope = no * where_less(zero, x, near, far) - yes * where_less(zero, x, far, near)
    grad[0] = where_equal(weight, zero, zero, weight * scale * slope)
    return where_equal(weight, zero, zero, weight * loss)


cdef inline void binary_logits(
    const vec* x, const vec* y, const vec* pos_weight, const vec* weight, double scale, vec* loss, vec* grad,
    Py_ssize_t n
) noexcept nogil:
    cdef Py_ssize_t full = n // lanes(x), tail = n - n // lanes(x) * lanes(x), i
    cdef vec factor, slope, result
    factor = fill(x, scale)
    for i in range(full):
        result = binary_loss(x[i], y[i], pos_weight[i], weight[i], factor, &slope)
        loss[i] = result
        grad[i] = slope
    if tail:
        result = binary_loss(
            load_first(x + full, tail, 0), load_first(y + full, tail, 0), load_first(pos_weight + full, tail, 0),
            load_first(weight + full, tail, 0), factor, &slope,
        )
        store_first(loss + full, tail, result)
        store_first(grad + full, tail, slope)


cdef inline void binary_probabilities(
    const vec* p, const vec* y, const vec* weight, double scale, vec* loss, vec* grad, Py_ssize_t n
) noexcept nogil:
    """Loss -y log p - (1 - y) log(1 - p); a mass of 0 hides an infinite logarithm."""
    cdef Py_ssize_t i
    cdef double yes, no, q, result, slope
    for i in range(n):
        q = get(p, i)
        yes = get(y, i) * get(weight, i)
        no = (1 - get(y, i)) * get(weight, i)
        result = slope = 0
        if yes != 0:
            result -= yes * log(q)
            slope -= yes / q
        if no != 0:
            result -= no * log1p(-q)
            slope += no / (1 - q)
        put(loss, i, result)
        put(grad, i, scale * slope)


cdef double binary_chunks(
    const BinaryBatch* batch, bint from_logits, vec* scratch, Py_ssize_t first, Py_ssize_t last
) noexcept nogil:
    """The sum of the losses of chunks first <= i < last, each at most CHUNK elements of a row."""
    cdef Py_ssize_t per_row = (batch.x.n + CHUNK - 1) // CHUNK, size = CHUNK // lanes(scratch), i, j, row, start, n
    cdef vec* ones = scratch
    cdef vec* loss
    cdef vec* grad
    cdef vec* x
    cdef vec* y
    cdef vec* weight
    cdef vec* pos_weight
    cdef Sum total
    total.high = total.low = 0
    for i in range(size):
        ones[i] = fill(ones, 1)
    for i in range(first, last):
        row = i // per_row
        start = i % per_row * CHUNK
        n = min(batch.x.n - start, CHUNK)
        loss = scratch + size
        grad = scratch + 2 * size
        weight = pos_weight = ones
        x = gather(&batch.x, row, start, n, scratch + 3 * size)
        y = gather(&batch.target, row, start, n, scratch + 4 * size)
        if batch.sample_weight.kind != ABSENT:
            weight = gather(&batch.sample_weight, row, start, n, scratch + 5 * size)
        if batch.pos_weight.kind != ABSENT:
            pos_weight = gather(&batch.pos_weight, row, start, n, scratch + 6 * size)
        if batch.loss.kind != ABSENT:
            loss = place(&batch.loss, row, start, loss)
        if batch.grad.kind != ABSENT:
            grad = place(&batch.grad, row, start, grad)
        if from_logits:
            binary_logits(x, y, pos_weight, weight, batch.scale, loss, grad, n)
        else:
            binary_probabilities(x, y, weight, batch.scale, loss, grad, n)
        for j in range(n):
            add(&total, get(loss, j))
        if batch.loss.kind != ABSENT:
            scatter(&batch.loss, row, start, n, loss)
        if batch.grad.kind != ABSENT:
            scatter(&batch.grad, row, start, n, grad)
    return value(total)


# ---------------------------------------------------------------------------------------------------------------------
# What Python calls, with arrays that are known to be good. The work is `count` units (rows, or chunks of elements), in
# blocks of `size` of them; a call does blocks first <= i < last. sums[i] is what block i adds up to, so that a total
# does not depend on which thread did which block. `scratch` holds three rows and a few vectors, or seven chunks.
# ---------------------------------------------------------------------------------------------------------------------

BINARY_CHUNK = CHUNK    # elements in a unit of binary_cross_entropy


def cpu_sets():
    """The instruction sets, beyond the baseline, that this CPU and its operating system offer, slowest first."""
    return [name for name, present in (("avx2", xent_cpu_has_avx2()), ("avx512", xent_cpu_has_avx512())) if present]


def logsumexp(x, out, scratch, Py_ssize_t count, Py_ssize_t size, Py_ssize_t first, Py_ssize_t last):
    """out = logsumexp of the rows of x."""
    cdef Operand rows, result
    cdef void* room = cnp.PyArray_DATA(<cnp.ndarray>scratch)
    bind(&rows, x, True)
    bind(&result, out, False)
    with nogil:
        if rows.kind == F32:
            logsumexp_rows(&rows, &result, <vf32*>room, first * size, min(last * size, count))
        else:
            logsumexp_rows(&rows, &result, <vf64*>room, first * size, min(last * size, count))


def softmax(
    x, out, bint logarithm, scratch, Py_ssize_t count, Py_ssize_t size, Py_ssize_t first, Py_ssize_t last
):
    """out = softmax or, if `logarithm`, log_softmax of the rows of x; out may be x."""
    cdef Operand rows, result
    cdef void* room = cnp.PyArray_DATA(<cnp.ndarray>scratch)
    bind(&rows, x, True)
    bind(&result, out, True)
    with nogil:
        if rows.kind == F32:
            softmax_rows(&rows, &result, logarithm, <vf32*>room, first * size, min(last * size, count))
        else:
            softmax_rows(&rows, &result, logarithm, <vf64*>room, first * size, min(last * size, count))


cdef void bind_batch(
    Batch* batch, logits, target, class_weight, sample_weight, int64_t ignore_index, double scale, loss, grad
) noexcept:
    batch.labels = cnp.PyArray_NDIM(<cnp.ndarray>target) < cnp.PyArray_NDIM(<cnp.ndarray>logits)
    batch.ignore_index = ignore_index
    batch.scale = scale
    bind(&batch.logits, logits, True)
    bind(&batch.target, target, not batch.labels)
    bind(&batch.class_weight, class_weight, True)
    bind(&batch.sample_weight, sample_weight, False)
    bind(&batch.loss, loss, False)
    bind(&batch.grad, grad, True)


def target_weight(
    logits, target, class_weight, sample_weight, int64_t ignore_index, double[::1] sums,
    Py_ssize_t count, Py_ssize_t size, Py_ssize_t first, Py_ssize_t last,
):
    """sums = sample weight times target mass; returns the first row whose label is out of range, or -1."""
    cdef Batch batch
    cdef Py_ssize_t i, bad = -1
    bind_batch(&batch, logits, target, class_weight, sample_weight, ignore_index, 1, None, None)
    with nogil:
        for i in range(first, last):
            bad = weight_rows(&batch, i * size, min((i + 1) * size, count), &sums[i])
            if bad >= 0:
                break
    return bad


def cross_entropy(
    logits, target, class_weight, sample_weight, int64_t ignore_index, double scale, loss, grad, scratch,
    double[::1] sums, Py_ssize_t count, Py_ssize_t size, Py_ssize_t first, Py_ssize_t last,
):
    """loss (or None) = the loss of each row, grad (or None; may be logits) = scale times the gradient of their sum."""
    cdef Batch batch
    cdef Py_ssize_t i
    cdef void* room = cnp.PyArray_DATA(<cnp.ndarray>scratch)
    bind_batch(&batch, logits, target, class_weight, sample_weight, ignore_index, scale, loss, grad)
    with nogil:
        for i in range(first, last):
            if batch.logits.kind == F32:
                sums[i] = cross_entropy_rows(&batch, <vf32*>room, i * size, min((i + 1) * size, count))
            else:
                sums[i] = cross_entropy_rows(&batch, <vf64*>room, i * size, min((i + 1) * size, count))


def log_loss(
    proba, target, sample_weight, loss, double[::1] sums,
    Py_ssize_t count, Py_ssize_t size, Py_ssize_t first, Py_ssize_t last,
):
    """loss (or None) = minus the logarithm of the probability of each row's target."""
    cdef Batch batch
    cdef Py_ssize_t i
    bind_batch(&batch, proba, target, None, sample_weight, INT64_MIN, 1, loss, None)
    with nogil:
        for i in range(first, last):
            sums[i] = log_loss_rows(&batch, i * size, min((i + 1) * size, count))


def binary_cross_entropy(
    x, target, pos_weight, sample_weight, bint from_logits, double scale, loss, grad, scratch,
    double[::1] sums, Py_ssize_t count, Py_ssize_t size, Py_ssize_t first, Py_ssize_t last,
):
    """Of logits or probabilities, element by element; all operands (or None) have the shape of x."""
    cdef BinaryBatch batch
    cdef Py_ssize_t i
    cdef void* room = cnp.PyArray_DATA(<cnp.ndarray>scratch)
    batch.scale = scale
    bind(&batch.x, x, True)
    bind(&batch.target, target, True)
    bind(&batch.pos_weight, pos_weight, True)
    bind(&batch.sample_weight, sample_weight, True)
    bind(&batch.loss, loss, True)
    bind(&batch.grad, grad, True)
    with nogil:
        for i in range(first, last):
            if batch.x.kind == F32:
                sums[i] = binary_chunks(&batch, from_logits, <vf32*>room, i * size, min((i + 1) * size, count))
            else:
                sums[i] = binary_chunks(&batch, from_logits, <vf64*>room, i * size, min((i + 1) * size, count))
