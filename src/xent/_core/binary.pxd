# The binary losses, element by element.

from libc.math cimport fma, isfinite

from xent._core.elementary cimport exp_shifted, log1p_unit, minus_log
from xent._core.pairs cimport Pair, accumulate, add, add_pair, finite_or_zero, multiply, single, two_sum, value
from xent._core.scratch cimport LINE_DOUBLES
from xent._core.simd cimport (
    absolute, fill, get, lanes, load_first, multiply_rest, put, store_first, vec, where_equal, where_less,
)

from xent._core.strided cimport ABSENT, Operand, gather, place, read_number, row_of, scatter

cdef enum:
    CHUNK = 512         # elements at a time, in a scratch that stays in the cache


cdef struct BinaryBatch:        # every operand has the shape of the first; (*) may be absent
    Operand x                   # logits or probabilities
    Operand target
    Operand pos_weight          # (*)
    Operand sample_weight       # (*)
    double weight_unit          # multiplies every sample weight
    double smoothing            # of the targets
    double divisor              # of the gradient
    Operand loss                # (*) output
    Operand grad                # (*) output


cdef struct Smoothing:          # a target y becomes keep y + add
    bint changes                # whether that is not y itself
    Pair keep
    Pair add


cdef inline Smoothing smoothing_of(double epsilon) noexcept nogil:
    cdef Smoothing smoothing
    smoothing.changes = epsilon != 0
    smoothing.keep = two_sum(1, -epsilon)
    smoothing.add = single(0.5 * epsilon)
    return smoothing


cdef inline vec smooth(vec y, vec y_rest, const Smoothing* smoothing, vec* rest) noexcept nogil:
    """keep y + add, as a pair."""
    cdef vec keep = fill(&y, smoothing.keep.high)
    cdef vec keep_rest = fill(&y, smoothing.keep.high - get(&keep, 0) + smoothing.keep.low)
    cdef vec total = fill(&y, smoothing.add.high)
    cdef vec product = keep * y
    rest[0] = fill(&y, smoothing.add.high - get(&total, 0))
    rest[0] = rest[0] + multiply_rest(keep, y, product) + (keep * y_rest + keep_rest * y)
    accumulate(product, &total, rest)
    return total


cdef inline vec loss_of_logit(
    vec x, vec y, vec pos_weight, vec weight, vec scale, vec scale_rest, const Smoothing* smoothing, vec* grad
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
    cdef vec yes, yes_rest, against, against_rest, mass, mass_rest
    cdef vec e, e_rest, log_sum, log_rest, near, far, up, down, slope, product, loss, low
    if smoothing.changes:
        no = smooth(no, no_rest, smoothing, &no_rest)
        y = smooth(y, zero, smoothing, &low)
        yes = y * pos_weight
        yes_rest = multiply_rest(y, pos_weight, yes) + low * pos_weight
    else:
        yes = y * pos_weight
        yes_rest = multiply_rest(y, pos_weight, yes)
    against = where_less(x, zero, yes, no)
    against_rest = where_less(x, zero, yes_rest, no_rest)
    mass = no
    mass_rest = no_rest + yes_rest
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
    low = finite_or_zero(multiply_rest(loss, weight, product) + low * weight)    # what infinity has lost is NaN
    return where_equal(weight, zero, zero, product + low)


cdef inline void losses_of_logits(
    const BinaryBatch* batch, const vec* x, const vec* y, const vec* pos_weight, const vec* weight, vec* loss,
    vec* grad, Py_ssize_t n
) noexcept nogil:
    """The losses of n elements, which have been read, and their gradients divided by the divisor."""
    cdef Py_ssize_t full = n // lanes(x), tail = n - n // lanes(x) * lanes(x), i
    cdef Smoothing smoothing = smoothing_of(batch.smoothing)
    cdef double divisor = batch.divisor
    cdef vec scale, scale_rest, slope, result
    scale = fill(x, 1 / divisor)
    scale_rest = fill(x, fma(-get(&scale, 0), divisor, 1) / divisor if isfinite(divisor) else 0.0)
    for i in range(full):
        result = loss_of_logit(x[i], y[i], pos_weight[i], weight[i], scale, scale_rest, &smoothing, &slope)
        loss[i] = result
        grad[i] = slope
    if tail:
        result = loss_of_logit(
            load_first(x + full, tail, 0), load_first(y + full, tail, 0), load_first(pos_weight + full, tail, 0),
            load_first(weight + full, tail, 0), scale, scale_rest, &smoothing, &slope,
        )
        store_first(loss + full, tail, result)
        store_first(grad + full, tail, slope)


cdef inline void losses_of_probabilities(
    const BinaryBatch* batch, const vec* p, const vec* y, const vec* weight, vec* loss, vec* grad, Py_ssize_t n
) noexcept nogil:
    """Loss -y log p - (1 - y) log(1 - p); a mass of 0 hides an infinite logarithm."""
    cdef Py_ssize_t i
    cdef Smoothing smoothing = smoothing_of(batch.smoothing)
    cdef double q, slope
    cdef Pair yes, no, less, result, term
    for i in range(n):
        q = get(p, i)
        yes = multiply(single(get(y, i)), smoothing.keep)
        add_pair(&yes, smoothing.add)
        no = multiply(two_sum(1, -get(y, i)), smoothing.keep)
        add_pair(&no, smoothing.add)
        result = single(0)
        slope = 0
        if yes.high != 0 and get(weight, i) != 0:
            result = multiply(minus_log(q), yes)
            slope = -value(yes) / q
        if no.high != 0 and get(weight, i) != 0:
            less = two_sum(1, -q)
            term = minus_log(less.high)
            term.low = -less.low / less.high
            add_pair(&result, multiply(term, no))
            slope += value(no) / less.high
        put(loss, i, value(multiply(result, single(get(weight, i)))))
        put(grad, i, get(weight, i) * slope / batch.divisor)


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


cdef enum:
    CHUNK_DOUBLES = CHUNK + LINE_DOUBLES    # a cache line more: equal places of two rows would compete for the cache


cdef struct BinaryScratch:                  # CHUNK elements each, of either type
    double ones[CHUNK_DOUBLES]              # the weights, if there are none
    double loss[CHUNK_DOUBLES]
    double grad[CHUNK_DOUBLES]
    double x[CHUNK_DOUBLES]
    double target[CHUNK_DOUBLES]
    double sample_weight[CHUNK_DOUBLES]
    double pos_weight[CHUNK_DOUBLES]


cdef inline double binary_chunks(
    const BinaryBatch* batch, bint from_logits, vec* memory, Py_ssize_t first, Py_ssize_t last
) noexcept nogil:
    """The sum of the losses of elements first <= i < last, counted through all rows: where a sum begins and ends must
    not depend on the layout. At most CHUNK elements of a row at a time. `memory` holds a BinaryScratch."""
    cdef BinaryScratch* scratch = <BinaryScratch*>memory
    cdef Py_ssize_t i, j, row, start, n
    cdef vec* ones = <vec*>scratch.ones
    cdef vec* loss
    cdef vec* grad
    cdef vec* x
    cdef vec* y
    cdef vec* weight
    cdef vec* pos_weight
    cdef Pair total = single(0)
    for i in range(CHUNK // lanes(memory)):
        ones[i] = fill(ones, 1)
    while first < last:
        row = first // batch.x.n
        start = first % batch.x.n
        n = min(batch.x.n - start, last - first, CHUNK)
        first += n
        loss = <vec*>scratch.loss
        grad = <vec*>scratch.grad
        weight = pos_weight = ones
        x = gather(&batch.x, row, start, n, <vec*>scratch.x)
        y = gather(&batch.target, row, start, n, <vec*>scratch.target)
        if batch.sample_weight.kind != ABSENT:
            weight = gather_scaled(
                &batch.sample_weight, row, start, n, batch.weight_unit, <vec*>scratch.sample_weight
            )
        if batch.pos_weight.kind != ABSENT:
            pos_weight = gather(&batch.pos_weight, row, start, n, <vec*>scratch.pos_weight)
        if batch.loss.kind != ABSENT:
            loss = place(&batch.loss, row, start, loss)
        if batch.grad.kind != ABSENT:
            grad = place(&batch.grad, row, start, grad)
        if from_logits:
            losses_of_logits(batch, x, y, pos_weight, weight, loss, grad, n)
        else:
            losses_of_probabilities(batch, x, y, weight, loss, grad, n)
        for j in range(n):
            add(&total, get(loss, j))
        if batch.loss.kind != ABSENT:
            scatter(&batch.loss, row, start, n, loss)
        if batch.grad.kind != ABSENT:
            scatter(&batch.grad, row, start, n, grad)
    return value(total)
