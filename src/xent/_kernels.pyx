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
(d) Sums keep what their roundings lose, in vectors as in float64, and so do the last few operations of a row: they
    round once, at the end.

Layers, each using only those above it: numbers (_numbers.pxd) -> one row -> a block of rows -> the functions that
Python calls, which take arrays that are known to be good (see _arguments.py) and a range of blocks to work on.
"""

from libc.math cimport INFINITY, NAN, fabs, fma, isfinite, isnan, log
from libc.stdint cimport int64_t

cimport numpy as cnp

from xent._numbers cimport (
    Pair, accumulate, add, add_pair, divide, exp_shifted, log1p_pair, log1p_unit, multiply, one_more, single, sum_pairs,
    two_sum, value,
)
from xent._operands cimport (
    ABSENT, F32, Operand, bind, fits_float32, gather, place, read_integer, read_number, row_of, scatter, weight_of,
    write_number,
)
from xent._simd cimport (
    absolute, all_equal, any_equal, element, fill, get, lanes, load_first, max_lanes, maximum, multiply_rest, put,
    store_first, vec, vf32, vf64, where_equal, where_less, without_lane, xent_cpu_has_avx2,
    xent_cpu_has_avx512, xent_prefetch,
)

cnp.import_array()

cdef enum:
    CHUNK = 512         # elements of a binary loss at a time
    AHEAD = 1 << 16     # bytes of a row up to which the next one is fetched: both are to stay in the cache


# ---------------------------------------------------------------------------------------------------------------------
# One row: n contiguous elements, read as n // lanes vectors and a shorter last one
# ---------------------------------------------------------------------------------------------------------------------

cdef struct Shift:
    double maximum      # m
    Py_ssize_t argmax   # k
    Pair rest           # r; NaN where the row has no probabilities
    Pair log_sum        # log1p(r)
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


cdef inline Py_ssize_t find_nonzero(const vec* x, Py_ssize_t first, Py_ssize_t n) noexcept nogil:
    """The first index from `first` on at which x is not 0, or n."""
    cdef Py_ssize_t i = first
    cdef vec zero = fill(x, 0)
    while i + lanes(x) <= n and all_equal(element(x, i)[0], zero):
        i += lanes(x)
    while i < n and get(x, i) == 0:
        i += 1
    return i


cdef inline void exp_vectors(
    const vec* x, vec* e, Py_ssize_t first, Py_ssize_t last, Py_ssize_t ahead, vec m, bint keep, vec* high, vec* low
) noexcept nogil:
    """e = exp(x - m) if `keep`, added to high + low either way, for the full vectors first <= i < last."""
    cdef Py_ssize_t i = first
    cdef const vec* soon = element(x, ahead)
    cdef vec y0, y1, y2, y3, total = high[0], lost = low[0]
    while i + 4 <= last:
        y0 = exp_shifted(x[i], m, <vec*>NULL)
        y1 = exp_shifted(x[i + 1], m, <vec*>NULL)
        y2 = exp_shifted(x[i + 2], m, <vec*>NULL)
        y3 = exp_shifted(x[i + 3], m, <vec*>NULL)
        xent_prefetch(soon + i)
        xent_prefetch(soon + i + 1)
        xent_prefetch(soon + i + 2)
        xent_prefetch(soon + i + 3)
        if keep:
            e[i] = y0
            e[i + 1] = y1
            e[i + 2] = y2
            e[i + 3] = y3
        if vec is vf32:
            y0 = (y0 + y1) + (y2 + y3)
        else:       # the last bits of a float64 are all there is
            accumulate(y1, &y0, &lost)
            accumulate(y3, &y2, &lost)
            accumulate(y2, &y0, &lost)
        accumulate(y0, &total, &lost)
        i += 4
    # A short row has few roundings to average: its terms keep what they lost.
    while i < last:
        y0 = exp_shifted(x[i], m, &y1)
        if keep:
            e[i] = y0
        accumulate(y0, &total, &lost)
        lost = lost + y1
        i += 1
    high[0] = total
    low[0] = lost


cdef inline void exp_partial(
    const vec* x, vec* e, Py_ssize_t i, Py_ssize_t n, Py_ssize_t skip, vec m, bint keep, vec* high, vec* low
) noexcept nogil:
    """The same for vector i alone, which may reach over the end of the row; element `skip` (-1: none) is not added."""
    cdef Py_ssize_t start = i * lanes(x)
    cdef Py_ssize_t count = min(n - start, lanes(x))
    cdef vec rest
    cdef vec y = exp_shifted(load_first(x + i, count, -INFINITY), m, &rest)
    if keep:
        store_first(e + i, count, y)
    if skip >= 0:
        y = without_lane(y, skip - start)
        rest = without_lane(rest, skip - start)
    accumulate(y, high, low)
    low[0] = low[0] + rest


cdef Shift row_without_probabilities(const vec* x, vec* e, Py_ssize_t n, double m, bint keep) noexcept nogil:
    """An infinite maximum: an infinite logit or none that is finite; NaN wins over both."""
    cdef Shift row
    cdef Py_ssize_t i
    row.maximum = m
    row.argmax = -1
    row.rest = row.log_sum = single(NAN)
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
    cdef Pair total
    cdef Py_ssize_t full = n // lanes(x), middle, ahead
    cdef vec shift, high, low
    if not isfinite(m):
        return row_without_probabilities(x, e, n, m, keep)
    shift = fill(x, m)
    high = low = fill(x, 0)
    row.maximum = m
    row.argmax = find(x, n, m)
    middle = row.argmax // lanes(x)
    # The next row, if rows follow one another, comes from memory while this one is computed.
    ahead = n if n * <Py_ssize_t>sizeof(vec) <= AHEAD * lanes(x) else 0
    exp_vectors(x, e, 0, middle, ahead, shift, keep, &high, &low)
    exp_partial(x, e, middle, n, row.argmax, shift, keep, &high, &low)
    exp_vectors(x, e, middle + 1, full, ahead, shift, keep, &high, &low)
    if full * lanes(x) != n and middle != full:
        exp_partial(x, e, full, n, -1, shift, keep, &high, &low)
    row.rest = sum_pairs(high, low)
    row.log_sum = log1p_pair(row.rest)
    total = single(m)
    add_pair(&total, row.log_sum)
    row.logsumexp = value(total)
    return row


cdef inline bint is_moderate(const vec* like, double factor) noexcept nogil:
    """Whether a factor fits the vector type; only weights that are out of its range make one that does not."""
    return vec is vf64 or 1e-30 < fabs(factor) < 1e30 or factor == 0


cdef inline void scale_row(vec* x, Py_ssize_t n, double factor) noexcept nogil:
    cdef Py_ssize_t full = n // lanes(x), i
    cdef vec f
    if not is_moderate(x, factor):
        for i in range(n):
            put(x, i, get(x, i) * factor)
        return
    f = fill(x, factor)
    for i in range(full):
        x[i] = x[i] * f
    if full * lanes(x) != n:
        store_first(x + full, n - full * lanes(x), load_first(x + full, n - full * lanes(x), 0) * f)


cdef inline void softmax_row(const vec* x, vec* out, Py_ssize_t n) noexcept nogil:
    cdef Shift row = shift_row(x, out, n, row_maximum(x, n), True)
    scale_row(out, n, value(divide(single(1), one_more(row.rest))))


cdef inline vec log_probability(vec x, vec m, vec log_sum, vec log_sum_rest) noexcept nogil:
    # -((m - x) + log_sum): the terms have one sign.
    cdef vec d = x - m
    cdef vec part = d - x
    cdef vec lost = (x - (d - part)) - (m + part)
    # Where x is -inf the rounding error is NaN, and of no interest.
    lost = where_equal(d, fill(&d, -INFINITY), fill(&d, 0), lost)
    return (d - log_sum) + (lost - log_sum_rest)


cdef inline void log_softmax_row(const vec* x, vec* out, Py_ssize_t n) noexcept nogil:
    cdef Shift row = shift_row(x, out, n, row_maximum(x, n), False)
    cdef Py_ssize_t full = n // lanes(x), tail = n - n // lanes(x) * lanes(x), i
    cdef vec m, high, low
    m = fill(x, row.maximum if isfinite(row.maximum) else NAN)
    high = fill(x, value(row.log_sum))
    low = fill(x, row.log_sum.high - get(&high, 0) + row.log_sum.low)
    for i in range(full):
        out[i] = log_probability(x[i], m, high, low)
    if tail:
        store_first(out + full, tail, log_probability(load_first(x + full, tail, 0), m, high, low))


cdef inline Pair label_row(
    const vec* x, vec* grad, Py_ssize_t n, Py_ssize_t label, Pair weight, double divisor, bint keep
) noexcept nogil:
    """Loss of a row whose mass `weight` is all on one class; with `keep`, grad (may be x) = gradient / divisor."""
    cdef double logit = get(x, label)
    cdef Shift row = shift_row(x, grad, n, row_maximum(x, n), keep)
    cdef Pair factor, others, loss = two_sum(row.maximum, -logit)
    if keep:
        factor = divide(weight, multiply(one_more(row.rest), single(divisor)))
        others = row.rest
        if label != row.argmax:
            add(&others, -get(grad, label))
            add(&others, 1)
        scale_row(grad, n, value(factor))
        put(grad, label, -value(multiply(factor, others)))
    if weight.high == 0:        # hides an infinite distance, not a NaN
        return multiply(weight, row.log_sum)
    add_pair(&loss, row.log_sum)
    return multiply(loss, weight)


cdef inline Py_ssize_t only_class(const vec* t, Py_ssize_t n) noexcept nogil:
    """The index of the one element that is not 0; -1 if there are none or more."""
    cdef Py_ssize_t i = find_nonzero(t, 0, n)
    return i if i < n and find_nonzero(t, i + 1, n) == n else -1


cdef struct Target:     # of one row
    Pair distance       # sum of t_c (m - x_c)
    Pair mass           # T


cdef inline Target target_row(const vec* x, const vec* t, Py_ssize_t n, double maximum) noexcept nogil:
    cdef Py_ssize_t full = n // lanes(x), tail = n - n // lanes(x) * lanes(x), i
    cdef vec m, zero, mass, mass_low, distance, distance_low, y, z, d, part, lost
    cdef Target target
    m = fill(x, maximum)
    zero = mass = mass_low = distance = distance_low = fill(x, 0)
    for i in range(full + (tail > 0)):
        y = t[i] if i < full else load_first(t + full, tail, 0)
        z = x[i] if i < full else load_first(x + full, tail, 0)
        d = m - z
        part = d + z
        lost = (m - part) - ((d - part) + z)
        # A mass of 0 hides an infinite distance; an infinite distance has lost infinity - infinity.
        d = where_equal(y, zero, zero, d)
        lost = where_less(d, fill(x, INFINITY), lost, zero)
        accumulate(y, &mass, &mass_low)
        accumulate(y * d, &distance, &distance_low)
        distance_low = distance_low + where_equal(y, zero, zero, y * lost)
    target.mass = sum_pairs(mass, mass_low)
    target.distance = sum_pairs(distance, distance_low)
    return target


cdef inline Pair distribution_row(
    const vec* x, const vec* t, vec* grad, Py_ssize_t n, Pair weight, double divisor, bint keep
) noexcept nogil:
    """Loss of a row whose mass is weight * t."""
    cdef double m = row_maximum(x, n)
    cdef Target target = target_row(x, t, n, m)
    cdef Shift row = shift_row(x, grad, n, m, keep)
    cdef Py_ssize_t full = n // lanes(x), tail = n - n // lanes(x) * lanes(x), i
    cdef Pair scale, loss
    cdef double p_scale, t_scale
    cdef vec p, q, y
    if keep:
        scale = divide(weight, single(divisor))
        t_scale = value(scale)
        p_scale = value(divide(multiply(scale, target.mass), one_more(row.rest)))
        p = fill(x, p_scale)
        q = fill(x, t_scale)
        if not (is_moderate(x, p_scale) and is_moderate(x, t_scale)):
            for i in range(n):
                put(grad, i, get(grad, i) * p_scale - get(t, i) * t_scale)
        else:
            for i in range(full):
                grad[i] = grad[i] * p - t[i] * q
            if tail:
                y = load_first(t + full, tail, 0) * q
                store_first(grad + full, tail, load_first(grad + full, tail, 0) * p - y)
    loss = multiply(row.log_sum, target.mass)
    add_pair(&loss, target.distance)
    return multiply(loss, weight)


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
    bint ignores                # whether there is such an index
    Operand class_weight        # (*) one row of float64, at most 1, for every row of the batch
    Operand sample_weight       # (*) one a row
    double weight_unit          # multiplies every sample weight
    double divisor              # of the gradient
    Operand loss                # (*) output, one a row
    Operand grad                # (*) output


cdef inline vec* weighted_target(const Batch* batch, vec* t, vec* scratch) noexcept nogil:
    cdef Py_ssize_t j
    if batch.class_weight.kind == ABSENT:
        return t
    for j in range(batch.target.n):
        put(scratch, j, get(t, j) * (<double*>batch.class_weight.data)[j])
    return scratch


cdef inline Pair constant_row(vec* grad, Py_ssize_t n, double x, bint keep) noexcept nogil:
    """A row whose loss and gradient are x whatever its logits."""
    cdef Py_ssize_t j
    if keep:
        for j in range(n):
            put(grad, j, x)
    return single(x)


cdef inline Pair minus_log(double x) noexcept nogil:
    return single(0 - log(x))       # 0 - 0 is 0, and -0 is not


cdef double cross_entropy_rows(const Batch* batch, vec* scratch, Py_ssize_t first, Py_ssize_t last) noexcept nogil:
    """The sum of the losses; writes each loss and gradient where they are wanted."""
    cdef Py_ssize_t i, n = batch.logits.n, rows = (n + lanes(scratch) - 1) // lanes(scratch)
    cdef bint keep = batch.grad.kind != ABSENT
    cdef Pair weight, loss, total = single(0)
    cdef int64_t label = 0
    cdef vec* x
    cdef vec* t = scratch
    cdef vec* grad = scratch
    for i in range(first, last):
        weight = single(weight_of(&batch.sample_weight, i) * batch.weight_unit)
        if batch.labels:
            label = read_integer(row_of(&batch.target, i), batch.target.kind)
        if keep:
            grad = place(&batch.grad, i, 0, scratch)
        if weight.high == 0 or (batch.labels and batch.ignores and label == batch.ignore_index):
            loss = constant_row(grad, n, 0, keep)
        elif batch.labels and not 0 <= label < n:       # changed since it was checked
            loss = constant_row(grad, n, NAN, keep)
        else:
            x = gather(&batch.logits, i, 0, n, scratch + rows)
            if not batch.labels:
                t = gather(&batch.target, i, 0, n, scratch + 2 * rows)
                label = only_class(t, n)
                if label >= 0:      # one-hot: the difference T p - t would cancel
                    weight = multiply(weight, single(get(t, label)))
            if label >= 0:
                if batch.class_weight.kind != ABSENT:
                    weight = multiply(weight, single((<double*>batch.class_weight.data)[label]))
                if keep:
                    loss = label_row(x, grad, n, label, weight, batch.divisor, True)
                else:
                    loss = label_row(x, x, n, label, weight, batch.divisor, False)
            else:
                t = weighted_target(batch, t, scratch + 2 * rows)
                loss = distribution_row(x, t, grad, n, weight, batch.divisor, keep)
        if keep:
            scatter(&batch.grad, i, 0, n, grad)
        write_number(&batch.loss, i, value(loss))
        add_pair(&total, loss)
    return value(total)


cdef double log_loss_rows(const Batch* batch, Py_ssize_t first, Py_ssize_t last) noexcept nogil:
    """The same from probabilities: -sum(t_c log p_c)."""
    cdef Py_ssize_t i, j, n = batch.logits.n
    cdef double weight, t, p
    cdef char* row
    cdef char* target
    cdef Pair loss, total = single(0)
    for i in range(first, last):
        weight = weight_of(&batch.sample_weight, i) * batch.weight_unit
        row = row_of(&batch.logits, i)
        target = row_of(&batch.target, i)
        loss = single(0)
        if weight != 0 and batch.labels:
            j = read_integer(target, batch.target.kind)
            # Out of range: changed since it was checked.
            loss = minus_log(read_number(row + j * batch.logits.step, batch.logits.kind) if 0 <= j < n else NAN)
        elif weight != 0:
            for j in range(n):
                t = read_number(target + j * batch.target.step, batch.target.kind)
                if t != 0:
                    p = read_number(row + j * batch.logits.step, batch.logits.kind)
                    add_pair(&loss, multiply(minus_log(p), single(t)))
        loss = multiply(loss, single(weight))
        write_number(&batch.loss, i, value(loss))
        add_pair(&total, loss)
    return value(total)


cdef Py_ssize_t weight_rows(const Batch* batch, Py_ssize_t first, Py_ssize_t last, double* mass) noexcept nogil:
    """The sum of sample weight times target mass, and the first row whose label is out of range, or -1."""
    cdef Py_ssize_t i, j, n = batch.logits.n
    cdef double* class_weight = <double*>batch.class_weight.data
    cdef bint weighs = batch.class_weight.kind != ABSENT
    cdef double weight
    cdef int64_t label
    cdef char* row
    cdef Pair t, total = single(0)
    for i in range(first, last):
        weight = weight_of(&batch.sample_weight, i) * batch.weight_unit
        row = row_of(&batch.target, i)
        if batch.labels:
            label = read_integer(row, batch.target.kind)
            if batch.ignores and label == batch.ignore_index:
                continue
            if label < 0 or label >= n:
                return i
            add(&total, weight * class_weight[label] if weighs else weight)
        elif weight != 0:
            for j in range(n):
                t = single(read_number(row + j * batch.target.step, batch.target.kind))
                if weighs:
                    t = multiply(t, single(class_weight[j]))
                add_pair(&total, multiply(t, single(weight)))
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
    double weight_unit          # multiplies every sample weight
    double divisor              # of the gradient
    Operand loss                # (*) output
    Operand grad                # (*) output


cdef inline vec binary_loss(
    vec x, vec y, vec pos_weight, vec weight, vec scale, vec scale_rest, vec* grad
) noexcept nogil:
    """Loss y w softplus(-x) + (1 - y) softplus(x) of logits x, all terms >= 0; writes scale * gradient.

    softplus(x) = max(x, 0) + log1p(e) and sigmoid(-|x|) = e / (1 + e), with e = exp(-|x|): so the loss is
    T log1p(e) + t |x|, with t the mass of the side that x speaks against and T all of it.
    """
    cdef vec zero = fill(&x, 0)
    cdef vec one = fill(&x, 1)
    cdef vec size = absolute(x)
    cdef vec no = one - y
    cdef vec no_rest = (one - no) - y
    cdef vec yes = y * pos_weight
    cdef vec yes_rest = multiply_rest(y, pos_weight, yes)
    cdef vec against = where_less(x, zero, yes, no)
    cdef vec against_rest = where_less(x, zero, yes_rest, no_rest)
    cdef vec mass = no, mass_rest = no_rest + yes_rest
    cdef vec e, e_rest, log_sum, log_rest, near, far, up, down, slope, product, loss, low
    accumulate(yes, &mass, &mass_rest)
    e = exp_shifted(zero - size, zero, &e_rest)
    log_sum = log1p_unit(e, e_rest, &log_rest)
    near = one / (one + e)
    far = e / (one + e)
    up = where_less(zero, x, near, far)
    down = where_less(zero, x, far, near)
    slope = ((no * up + no_rest * up) - (yes * down + yes_rest * down)) * weight
    grad[0] = where_equal(weight, zero, zero, slope * scale + slope * scale_rest)

    loss = mass * log_sum
    low = multiply_rest(mass, log_sum, loss) + (mass * log_rest + mass_rest * log_sum)
    size = where_equal(against, zero, zero, size)       # a mass of 0 hides an infinite logit
    product = against * size
    low = low + (multiply_rest(against, size, product) + against_rest * size)
    accumulate(product, &loss, &low)
    product = loss * weight
    low = multiply_rest(loss, weight, product) + low * weight
    low = where_equal(low - low, zero, low, zero)       # what infinity has lost is not a number
    return where_equal(weight, zero, zero, product + low)


cdef inline void binary_logits(
    const vec* x, const vec* y, const vec* pos_weight, const vec* weight, double divisor, vec* loss, vec* grad,
    Py_ssize_t n
) noexcept nogil:
    cdef Py_ssize_t full = n // lanes(x), tail = n - n // lanes(x) * lanes(x), i
    cdef vec scale, scale_rest, slope, result
    scale = fill(x, 1 / divisor)
    scale_rest = fill(x, fma(-get(&scale, 0), divisor, 1) / divisor if isfinite(divisor) else 0.0)
    for i in range(full):
        result = binary_loss(x[i], y[i], pos_weight[i], weight[i], scale, scale_rest, &slope)
        loss[i] = result
        grad[i] = slope
    if tail:
        result = binary_loss(
            load_first(x + full, tail, 0), load_first(y + full, tail, 0), load_first(pos_weight + full, tail, 0),
            load_first(weight + full, tail, 0), scale, scale_rest, &slope,
        )
        store_first(loss + full, tail, result)
        store_first(grad + full, tail, slope)


cdef inline void binary_probabilities(
    const vec* p, const vec* y, const vec* weight, double divisor, vec* loss, vec* grad, Py_ssize_t n
) noexcept nogil:
    """Loss -y log p - (1 - y) log(1 - p); a mass of 0 hides an infinite logarithm."""
    cdef Py_ssize_t i
    cdef double q, yes, slope
    cdef Pair no, less, result, term
    for i in range(n):
        q = get(p, i)
        yes = get(y, i)
        no = two_sum(1, -yes)
        result = single(0)
        slope = 0
        if yes != 0 and get(weight, i) != 0:
            result = multiply(minus_log(q), single(yes))
            slope = -yes / q
        if no.high != 0 and get(weight, i) != 0:
            less = two_sum(1, -q)
            term = minus_log(less.high)
            term.low = -less.low / less.high
            add_pair(&result, multiply(term, no))
            slope += no.high / less.high
        put(loss, i, value(multiply(result, single(get(weight, i)))))
        put(grad, i, get(weight, i) * slope / divisor)


cdef inline vec* gather_scaled(
    const Operand* operand, Py_ssize_t i, Py_ssize_t first, Py_ssize_t n, double unit, vec* scratch
) noexcept nogil:
    """Weights, in a unit in which they fit the kernel's type."""
    cdef Py_ssize_t j
    cdef char* source = row_of(operand, i) + first * operand.step
    if unit == 1:
        return gather(operand, i, first, n, scratch)
    for j in range(n):
        put(scratch, j, read_number(source + j * operand.step, operand.kind) * unit)
    return scratch


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
    cdef Pair total
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
            weight = gather_scaled(&batch.sample_weight, row, start, n, batch.weight_unit, scratch + 5 * size)
        if batch.pos_weight.kind != ABSENT:
            pos_weight = gather(&batch.pos_weight, row, start, n, scratch + 6 * size)
        if batch.loss.kind != ABSENT:
            loss = place(&batch.loss, row, start, loss)
        if batch.grad.kind != ABSENT:
            grad = place(&batch.grad, row, start, grad)
        if from_logits:
            binary_logits(x, y, pos_weight, weight, batch.divisor, loss, grad, n)
        else:
            binary_probabilities(x, y, weight, batch.divisor, loss, grad, n)
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


cdef int bind_batch(
    Batch* batch, logits, target, class_weight, sample_weight, double weight_unit, ignore_index, double divisor, loss,
    grad,
):
    batch.ignores = ignore_index is not None
    batch.ignore_index = ignore_index if batch.ignores else 0
    batch.weight_unit = weight_unit
    batch.divisor = divisor
    batch.labels = cnp.PyArray_NDIM(<cnp.ndarray>target) < cnp.PyArray_NDIM(<cnp.ndarray>logits)
    bind(&batch.logits, logits, True)
    bind(&batch.target, target, not batch.labels)
    bind(&batch.class_weight, class_weight, True)
    bind(&batch.sample_weight, sample_weight, False)
    bind(&batch.loss, loss, False)
    bind(&batch.grad, grad, True)
    return 0


def target_weight(
    logits, target, class_weight, sample_weight, double weight_unit, ignore_index, double[::1] sums,
    Py_ssize_t count, Py_ssize_t size, Py_ssize_t first, Py_ssize_t last,
):
    """sums = sample weight times target mass; returns the first row whose label is out of range, or -1."""
    cdef Batch batch
    cdef Py_ssize_t i, bad = -1
    bind_batch(&batch, logits, target, class_weight, sample_weight, weight_unit, ignore_index, 1, None, None)
    with nogil:
        for i in range(first, last):
            bad = weight_rows(&batch, i * size, min((i + 1) * size, count), &sums[i])
            if bad >= 0:
                break
    return bad


def cross_entropy(
    logits, target, class_weight, sample_weight, double weight_unit, ignore_index, double divisor, loss, grad, scratch,
    double[::1] sums, Py_ssize_t count, Py_ssize_t size, Py_ssize_t first, Py_ssize_t last,
):
    """loss (or None) = the loss of each row, grad (or None; may be logits) = the gradient of their sum / divisor."""
    cdef Batch batch
    cdef Py_ssize_t i
    cdef void* room = cnp.PyArray_DATA(<cnp.ndarray>scratch)
    bind_batch(&batch, logits, target, class_weight, sample_weight, weight_unit, ignore_index, divisor, loss, grad)
    with nogil:
        for i in range(first, last):
            if batch.logits.kind == F32:
                sums[i] = cross_entropy_rows(&batch, <vf32*>room, i * size, min((i + 1) * size, count))
            else:
                sums[i] = cross_entropy_rows(&batch, <vf64*>room, i * size, min((i + 1) * size, count))


def log_loss(
    proba, target, sample_weight, double weight_unit, loss, double[::1] sums,
    Py_ssize_t count, Py_ssize_t size, Py_ssize_t first, Py_ssize_t last,
):
    """loss (or None) = minus the logarithm of the probability of each row's target."""
    cdef Batch batch
    cdef Py_ssize_t i
    bind_batch(&batch, proba, target, None, sample_weight, weight_unit, None, 1, loss, None)
    with nogil:
        for i in range(first, last):
            sums[i] = log_loss_rows(&batch, i * size, min((i + 1) * size, count))


def binary_cross_entropy(
    x, target, pos_weight, sample_weight, double weight_unit, bint from_logits, double divisor, loss, grad, scratch,
    double[::1] sums, Py_ssize_t count, Py_ssize_t size, Py_ssize_t first, Py_ssize_t last,
):
    """Of logits or probabilities, element by element; all operands (or None) have the shape of x."""
    cdef BinaryBatch batch
    cdef Py_ssize_t i
    cdef bint narrow
    cdef void* room = cnp.PyArray_DATA(<cnp.ndarray>scratch)
    batch.weight_unit = weight_unit
    batch.divisor = divisor
    bind(&batch.x, x, True)
    bind(&batch.target, target, True)
    bind(&batch.pos_weight, pos_weight, True)
    bind(&batch.sample_weight, sample_weight, True)
    bind(&batch.loss, loss, True)
    bind(&batch.grad, grad, True)
    # Targets and weights are not rounded to float32: the widest operand decides.
    narrow = fits_float32(&batch.x) and fits_float32(&batch.target) and fits_float32(&batch.pos_weight)
    narrow = narrow and fits_float32(&batch.sample_weight)
    with nogil:
        for i in range(first, last):
            if narrow:
                sums[i] = binary_chunks(&batch, from_logits, <vf32*>room, i * size, min((i + 1) * size, count))
            else:
                sums[i] = binary_chunks(&batch, from_logits, <vf64*>room, i * size, min((i + 1) * size, count))
