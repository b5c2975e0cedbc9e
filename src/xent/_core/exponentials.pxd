# The maximum of a row, the exponentials of its distances to it, and their sum: n contiguous elements, read as
# n // lanes vectors and a shorter last one. Logits x are numbers, or pairs x + low where they were computed (see
# transforms.pxd); `low` is NULL otherwise.
#
# A row that does not fit the scratch comes in pieces. Each piece but the last is a multiple of four vectors, and sums
# go on from piece to piece, so that a result has the same bits however the row is cut.
#
# A sum of vectors is an array of two: sum[HIGH], and in sum[LOW] what its roundings lost.

from libc.math cimport INFINITY, exp, expm1, fabs, rint

from xent._core.elementary cimport (
    LEAST, LN2, LN2_HIGH, LN2_LOW, LOG2_E, OFFSET, OFFSET_LOW, POWER, SHIFT_VECTORS, exp_parts, exponent_range,
    log1p_pair, shifted_zero,
)
from xent._core.pairs cimport Pair, accumulate, accumulate_largest, add_pair, multiply, single, sum_pairs, two_sum
from xent._core.simd cimport (
    any_equal, fill, first_equal_of_four, forced_void, get, lanes, load_first, max_lanes, maximum, multiply_add,
    scaled, store_first, vec, vf32, without_lane,
)
from xent._core.streaming cimport Traffic, finish, move_four

cdef enum:
    HIGH = 0
    LOW = 1
    EXPONENT_HEADROOM = 32      # exponentials of a row are up to 2^32, so that the smallest are no subnormal numbers


cdef struct Peak:
    double high                 # m, the largest element that is not NaN
    double low
    Py_ssize_t index            # k, the first place of m


cdef struct Shift:              # how the exponentials of a row are computed: as terms 2^exponent exp(x_c - offset);
                                # e_c = exp(x_c - m) is `unit` times that
    Peak peak                   # m
    double offset               # m where subtracting it is exact, or 0
    double offset_low
    double exponent
    Pair unit


cdef struct RowSum:
    Pair rest                   # r; NaN where the row has no probabilities
    Pair log_sum                # log1p(r)
    Pair logsumexp              # m + log1p(r)


# --- the maximum -----------------------------------------------------------------------------------------------------


cdef inline double find_maximum(const vec* x, Py_ssize_t n) noexcept nogil:
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


cdef inline Py_ssize_t find_index(const vec* x, Py_ssize_t n, double wanted) noexcept nogil:
    """The first index at which x is `wanted`, its maximum; -1 if there is none."""
    cdef Py_ssize_t full = n // lanes(x), i = 0
    cdef vec w
    w = fill(x, wanted)
    # No element is larger, so the maximum of four vectors says whether one of them has it; a NaN may hide it.
    while i + 4 <= full:
        if any_equal(maximum(maximum(x[i], x[i + 1]), maximum(x[i + 2], x[i + 3])), w):
            return i * lanes(x) + first_equal_of_four(x + i, w)
        i += 4
    for i in range(i * lanes(x), n):
        if get(x, i) == wanted:
            return i
    for i in range(n):
        if get(x, i) == wanted:
            return i
    return -1


cdef inline Peak no_peak() noexcept nogil:
    cdef Peak peak
    peak.high, peak.low, peak.index = -INFINITY, 0, -1
    return peak


cdef inline void raise_peak(Peak* peak, const vec* x, const vec* low, Py_ssize_t start, Py_ssize_t n) noexcept nogil:
    """Take n more elements into account, the first of which is element `start` of the row."""
    cdef double high = find_maximum(x, n)
    cdef Py_ssize_t index
    if high > peak.high:
        index = find_index(x, n, high)
        peak.high, peak.index = high, start + index
        peak.low = get(low, index) if low is not NULL else 0.0


# --- the shift -------------------------------------------------------------------------------------------------------


cdef inline double choose_offset(const vec* like, double m) noexcept nogil:
    """m if it is so large that x - m is exact for all x that count; else 0."""
    cdef double large = 2048
    if vec is vf32:
        large = 256
    return m if fabs(m) > large else 0.0


cdef inline void set_shift(Shift* shift, const Peak* peak, const vec* like) noexcept nogil:
    """For a peak that is finite. The exponent is the integer for which `unit`, exp(offset - m) 2^-exponent, is nearest
    to 2^-EXPONENT_HEADROOM."""
    cdef double offset = choose_offset(like, peak.high), k = rint((peak.high - offset) * LOG2_E)
    cdef Pair d = two_sum(k * LN2_HIGH, offset - peak.high)         # exact
    shift.peak = peak[0]
    shift.offset = offset
    shift.offset_low = peak.low if offset != 0 else 0.0
    shift.exponent = EXPONENT_HEADROOM - k
    d = two_sum(d.high, d.low + (k * LN2_LOW - (peak.low - shift.offset_low)))
    if vec is vf32:
        shift.unit = single(exp(d.high))
    else:
        shift.unit = two_sum(1, expm1(d.high))
        shift.unit.low += d.low * shift.unit.high
    shift.unit.high /= 1LL << EXPONENT_HEADROOM
    shift.unit.low /= 1LL << EXPONENT_HEADROOM


cdef inline void fill_shift(const Shift* shift, vec* vectors) noexcept nogil:
    """The shift in all lanes, as `exp_parts` takes it."""
    vectors[OFFSET] = fill(vectors, shift.offset)
    vectors[OFFSET_LOW] = fill(vectors, shift.offset_low)
    vectors[POWER] = scaled(fill(vectors, 1), shifted_zero(vectors) + fill(vectors, shift.exponent))
    vectors[LEAST] = fill(vectors, -(exponent_range(vectors) + shift.exponent) * LN2)


# --- exponentials ----------------------------------------------------------------------------------------------------


cdef inline forced_void accumulate_fours(
    const vec* x, const vec* low, vec* e, Py_ssize_t n, Py_ssize_t skip, const vec* shift, vec* total, Traffic traffic
) noexcept nogil:
    """The vectors of `accumulate_exponentials` that come in fours, with the traffic meanwhile.

    Four are added while the next are computed: additions wait for one another, and would keep the processor from
    looking far enough ahead.
    """
    cdef Py_ssize_t i = 0, last = n // (4 * lanes(x)) * 4, with_skip = skip // (4 * lanes(x)) * 4
    cdef vec p[4]
    cdef vec s[4]
    cdef vec sum_high = total[HIGH], sum_low = total[LOW]
    cdef vec before[4]
    cdef vec rest_before = fill(x, 0)
    cdef Py_ssize_t j
    for j in range(4):
        before[j] = fill(x, 0)
    while i < last:
        exp_parts(x + i, low if low is NULL else low + i, shift, p, s, <vec*>NULL, 4)
        accumulate_largest(before[0], before[1], before[2], before[3], rest_before, &sum_high, &sum_low)
        move_four(&traffic, i, x)
        if e is not NULL:
            for j in range(4):
                e[i + j] = multiply_add(p[j], s[j], s[j])
        if i == with_skip:
            for j in range(4):
                s[j] = without_lane(s[j], skip - (i + j) * lanes(x))
        # Powers of two apart from what exceeds them, which is smaller, as is what its sum loses.
        rest_before = multiply_add(p[0], s[0], p[1] * s[1]) + multiply_add(p[2], s[2], p[3] * s[3])
        for j in range(4):
            before[j] = s[j]
        i += 4
    accumulate_largest(before[0], before[1], before[2], before[3], rest_before, &sum_high, &sum_low)
    total[HIGH] = sum_high
    total[LOW] = sum_low


cdef inline forced_void accumulate_rest(
    const vec* x, const vec* low, vec* e, Py_ssize_t n, Py_ssize_t skip, const vec* shift, vec* total
) noexcept nogil:
    """The vectors after the last four, one at a time; the last may reach beyond the end of the row."""
    cdef Py_ssize_t i, count
    cdef vec y, p, lost, scale, lower = fill(x, 0)
    for i in range(n // (4 * lanes(x)) * 4, (n + lanes(x) - 1) // lanes(x)):
        count = n - i * lanes(x)
        if count >= lanes(x):
            y = x[i]
            if low is not NULL:
                lower = low[i]
        else:
            y = load_first(x + i, count, -INFINITY)
            if low is not NULL:
                lower = load_first(low + i, count, 0)
        exp_parts(&y, low if low is NULL else &lower, shift, &p, &scale, &lost, 1)
        y = multiply_add(p, scale, scale)
        if e is not NULL:
            if count >= lanes(x):
                e[i] = y
            else:
                store_first(e + i, count, y)
        y = without_lane(y, skip - i * lanes(x))
        scale = without_lane(scale, skip - i * lanes(x))
        accumulate(y, &total[HIGH], &total[LOW])
        total[LOW] = total[LOW] + multiply_add(lost, scale, multiply_add(p, scale, scale - y))


cdef inline forced_void accumulate_exponentials(
    const vec* x, const vec* low, vec* e, Py_ssize_t n, Py_ssize_t skip, const Shift* shift, vec* total,
    Traffic* traffic
) noexcept nogil:
    """See `add_exponentials` in _kernels.pyx, for which this is compiled once for each kind of call."""
    cdef vec vectors[SHIFT_VECTORS]
    cdef Traffic moves = traffic[0]     # in registers: nothing that is stored meanwhile can change it
    fill_shift(shift, vectors)
    # Two calls, so that a loop that sends nothing has all registers for the rest.
    if moves.fours > 0:
        accumulate_fours(x, low, e, n, skip, vectors, total, moves)
    else:
        moves.fours = 0     # a constant in this call
        accumulate_fours(x, low, e, n, skip, vectors, total, moves)
    finish(traffic, n // (4 * lanes(x)) * 4, x)
    accumulate_rest(x, low, e, n, skip, vectors, total)


cdef inline Pair compute_term(const vec* like, double x, double low, bint has_low, const Shift* shift) noexcept nogil:
    """One term of `add_exponentials`, to the bit, and what it lost."""
    cdef vec vectors[SHIFT_VECTORS]
    cdef vec y, y_low, p, scale
    cdef Pair term
    fill_shift(shift, vectors)
    y = fill(like, x)
    y_low = fill(like, low)
    exp_parts(&y, &y_low if has_low else <vec*>NULL, vectors, &p, &scale, <vec*>NULL, 1)
    y = multiply_add(p, scale, scale)
    y_low = multiply_add(p, scale, scale - y)
    term.high, term.low = get(&y, 0), get(&y_low, 0)
    return term


cdef inline RowSum sum_row(const Shift* shift, const vec* total) noexcept nogil:
    """r and what follows from it, from the sum of all terms but the maximum's."""
    cdef RowSum row
    row.rest = multiply(shift.unit, sum_pairs(total[HIGH], total[LOW]))
    row.log_sum = log1p_pair(row.rest)
    row.logsumexp = single(shift.peak.high)
    add_pair(&row.logsumexp, row.log_sum)
    row.logsumexp.low += shift.peak.low
    return row
