# One row, or a piece of it: n contiguous elements, read as n // lanes vectors and a shorter last one. The mathematics is
# at the top of _kernels.pyx. Logits x are numbers, or pairs x + low where they were computed (see `transform_row`); `low`
# is NULL otherwise.
#
# A row that does not fit the scratch comes in pieces. Each piece but the last is a whole number of four vectors, and sums
# go on from piece to piece, so that a result has the same bits however the row is cut.

from libc.math cimport INFINITY, NAN, exp, expm1, fabs, fma, frexp, isfinite, isinf, isnan, ldexp, rint, tanh

from xent._core.elementary cimport exp_parts, exponent_range, expm1_pair, log1p_pair, shifted_zero
from xent._core.pairs cimport (
    Pair, accumulate, accumulate_four, accumulate_largest, add_pair, divide, finite_or_zero, multiply, single,
    sum_pairs, two_sum, value,
)
from xent._core.simd cimport (
    absolute, all_equal, any_equal, element, fill, first_equal_of_four, flip, get, lanes, load_first, max_lanes,
    maximum, multiply_add, multiply_rest, prefetch_four, put, residual, scaled, store_first, vec, vf32, vf64,
    where_equal, where_less, where_true, without_lane,
)
from xent._core.streaming cimport Traffic, finish, move_four

cdef enum:
    MASK_BYTES = 64     # at least the lanes of any vector
    MIN_COMPENSATED_VECTORS = 16           # vectors of a row whose roundings average out; a shorter row keeps what its terms lose
    PIECE_ELEMENTS = 2048        # elements of a piece: fours of vectors of any length


cdef struct Peak:
    double high         # m, the largest element that is not NaN
    double low
    Py_ssize_t index    # k, the first place of m


cdef struct Shift:          # of a row's exponentials: e_c = exp(x_c - m) is so many units
    Peak peak               # m
    double offset           # subtracted from the logits
    double offset_low
    double exponent         # of the power of two that multiplies their exponentials
    Pair unit


cdef struct RowSum:
    Pair rest           # r; NaN where the row has no probabilities
    Pair log_sum        # log1p(r)
    Pair logsumexp      # m + log1p(r)


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
    """The first index at which x is `wanted`, the maximum, or -1 if there is no such."""
    cdef Py_ssize_t full = n // lanes(x), i = 0
    cdef vec w
    w = fill(x, wanted)
    # None is larger, so that their maximum tells of four; a NaN may hide it.
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
    """The maximum so far and of n elements, of which the first is element `start` of the row."""
    cdef double high = row_maximum(x, n)
    cdef Py_ssize_t index
    if high > peak.high:
        index = find(x, n, high)
        peak.high, peak.index = high, start + index
        peak.low = get(low, index) if low is not NULL else 0.0


cdef inline Py_ssize_t find_nonzero(const vec* x, Py_ssize_t first, Py_ssize_t n) noexcept nogil:
    """The first index from `first` on at which x is not 0, or n."""
    cdef Py_ssize_t i = first
    cdef vec zero = fill(x, 0)
    while i + lanes(x) <= n and all_equal(element(x, i)[0], zero):
        i += lanes(x)
    while i < n and get(x, i) == 0:
        i += 1
    return i


cdef enum:
    NO_CLASS = -1
    SEVERAL = -2


cdef inline Py_ssize_t only_class(const vec* t, Py_ssize_t n, Py_ssize_t start, Py_ssize_t before) noexcept nogil:
    """The index of the one element that is not 0, among those `before` (an index, NO_CLASS or SEVERAL) and these n."""
    cdef Py_ssize_t i = find_nonzero(t, 0, n)
    if i == n or before == SEVERAL:
        return before
    return start + i if before == NO_CLASS and find_nonzero(t, i + 1, n) == n else SEVERAL


# --- exponentials ----------------------------------------------------------------------------------------------------


cdef enum:
    EXPONENT_HEADROOM = 32           # exponentials of a row are up to 2^EXPONENT_HEADROOM, so that the smallest are no subnormal numbers


cdef inline double offset_of(const vec* like, double m) noexcept nogil:
    """What to subtract from a row's elements: m where that is exact for all that count, as it is for a large m, or 0."""
    cdef double large = 2048
    if vec is vf32:
        large = 256
    return m if fabs(m) > large else 0.0


cdef inline Pair unit_of(const vec* like, double m, double m_low, double offset, double* exponent) noexcept nogil:
    """exp(offset - (m + m_low)) 2^-exponent, with an integer exponent for which that is about 2^-EXPONENT_HEADROOM."""
    cdef double k = rint((m - offset) * 1.44269504088896340736)
    cdef Pair d = two_sum(k * 0.693147180369123816490, offset - m)     # exact: the constant has 33 bits
    cdef Pair unit
    exponent[0] = EXPONENT_HEADROOM - k
    d = two_sum(d.high, d.low + (k * 1.90821492927058770002e-10 - m_low))
    if vec is vf32:
        unit = single(exp(d.high))
    else:
        unit = two_sum(1, expm1(d.high))
        unit.low += d.low * unit.high
    unit.high /= 1LL << EXPONENT_HEADROOM
    unit.low /= 1LL << EXPONENT_HEADROOM
    return unit


cdef inline void exp_fours(
    const vec* x, const vec* low, vec* e, Py_ssize_t last, Py_ssize_t skip, const Traffic* traffic,
    bint sends, vec offset, vec offset_low, vec power, vec least, bint keep, vec* total, vec* total_low
) noexcept nogil:
    """e = power exp(x - offset + low - offset_low) if `keep`, added to the total either way but for element `skip`, for
    vectors i < last, four at a time, with the traffic meanwhile.

    Four are added while the next are computed: the additions wait for one another, and would keep the processor from
    looking far enough ahead.
    """
    cdef Py_ssize_t i = 0, with_skip = skip // (4 * lanes(x)) * 4
    cdef vec p[4]
    cdef vec s[4]
    cdef vec sum_high = total[0], sum_low = total_low[0]
    cdef vec before[4]
    cdef vec rest_before = fill(x, 0)
    cdef Traffic moves = traffic[0]     # in registers: nothing that is stored here can change it
    cdef Py_ssize_t j
    for j in range(4):
        before[j] = fill(x, 0)
    while i < last:
        exp_parts(
            x + i, low if low is NULL else low + i, offset, offset_low, power, least, p, s, <vec*>NULL, 4
        )
        accumulate_largest(before[0], before[1], before[2], before[3], rest_before, &sum_high, &sum_low)
        move_four(&moves, i, sends, x)
        if keep:
            for j in range(4):
                e[i + j] = multiply_add(p[j], s[j], s[j])
        if i == with_skip:
            for j in range(4):
                s[j] = without_lane(s[j], skip - (i + j) * lanes(x))
        # The powers of two, and apart from them the rest: it is smaller, as is what it loses.
        rest_before = multiply_add(p[0], s[0], p[1] * s[1]) + multiply_add(p[2], s[2], p[3] * s[3])
        for j in range(4):
            before[j] = s[j]
        i += 4
    accumulate_largest(before[0], before[1], before[2], before[3], rest_before, &sum_high, &sum_low)
    total[0] = sum_high
    total_low[0] = sum_low


cdef inline void exp_few(
    const vec* x, const vec* low, vec* e, Py_ssize_t first, Py_ssize_t last, Py_ssize_t n, Py_ssize_t skip, vec offset,
    vec offset_low, vec power, vec least, bint keep, vec* total, vec* total_low
) noexcept nogil:
    """The same one at a time, and the last may reach over the end of the row."""
    cdef Py_ssize_t i, count
    cdef vec y, p, lost, scale, lower = fill(x, 0)
    for i in range(first, last):
        count = n - i * lanes(x)
        if count >= lanes(x):
            y = x[i]
            if low is not NULL:
                lower = low[i]
        else:
            y = load_first(x + i, count, -INFINITY)
            if low is not NULL:
                lower = load_first(low + i, count, 0)
        exp_parts(&y, low if low is NULL else &lower, offset, offset_low, power, least, &p, &scale, &lost, 1)
        y = multiply_add(p, scale, scale)
        if keep:
            if count >= lanes(x):
                e[i] = y
            else:
                store_first(e + i, count, y)
        y = without_lane(y, skip - i * lanes(x))
        scale = without_lane(scale, skip - i * lanes(x))
        accumulate(y, total, total_low)
        total_low[0] = total_low[0] + multiply_add(lost, scale, multiply_add(p, scale, scale - y))


cdef inline void set_shift(Shift* shift, const vec* like) noexcept nogil:
    """By the peak, which is finite."""
    shift.offset = offset_of(like, shift.peak.high)
    shift.offset_low = shift.peak.low if shift.offset != 0 else 0.0
    shift.unit = unit_of(like, shift.peak.high, shift.peak.low - shift.offset_low, shift.offset, &shift.exponent)


cdef inline vec power_of(const vec* like, const Shift* shift) noexcept nogil:
    return scaled(fill(like, 1), shifted_zero(like) + fill(like, shift.exponent))


cdef inline vec least_of(const vec* like, const Shift* shift) noexcept nogil:
    return fill(like, -(exponent_range(like) + shift.exponent) * 0.69314718055994530942)


cdef inline void add_exponentials(
    const vec* x, const vec* low, vec* e, Py_ssize_t n, Py_ssize_t skip, const Shift* shift, bint keep, vec* total,
    vec* total_low, Traffic* traffic
) noexcept nogil:
    """total += exp(x + low - m) of n elements without element `skip` (which may be none of them), in units; with
    `keep`, e (which may be x) are the terms."""
    cdef Py_ssize_t vectors = (n + lanes(x) - 1) // lanes(x), fours = n // (4 * lanes(x)) * 4
    cdef vec offset, offset_low, power, least
    offset = fill(x, shift.offset)
    offset_low = fill(x, shift.offset_low)
    power = power_of(x, shift)
    least = least_of(x, shift)
    # Two calls, so that a loop that sends nothing has all registers for the rest.
    if traffic.fours > 0:
        exp_fours(x, low, e, fours, skip, traffic, True, offset, offset_low, power, least, keep, total, total_low)
    else:
        exp_fours(x, low, e, fours, skip, traffic, False, offset, offset_low, power, least, keep, total, total_low)
    finish(traffic, fours, x)
    exp_few(x, low, e, fours, vectors, n, skip, offset, offset_low, power, least, keep, total, total_low)


cdef inline Pair exponential(const vec* like, double x, double low, bint has_low, const Shift* shift) noexcept nogil:
    """One term of `add_exponentials`, to the bit, and what it lost."""
    cdef vec y, y_low, p, scale
    cdef Pair result
    y = fill(like, x)
    y_low = fill(like, low)
    exp_parts(
        &y, &y_low if has_low else <vec*>NULL, fill(like, shift.offset), fill(like, shift.offset_low),
        power_of(like, shift), least_of(like, shift), &p, &scale, <vec*>NULL, 1
    )
    y = multiply_add(p, scale, scale)
    y_low = multiply_add(p, scale, scale - y)
    result.high, result.low = get(&y, 0), get(&y_low, 0)
    return result


cdef inline RowSum sum_of_row(const Shift* shift, vec total, vec total_low) noexcept nogil:
    """From the exponentials without the maximum."""
    cdef RowSum row
    row.rest = multiply(shift.unit, sum_pairs(total, total_low))
    row.log_sum = log1p_pair(row.rest)
    row.logsumexp = single(shift.peak.high)
    add_pair(&row.logsumexp, row.log_sum)
    row.logsumexp.low += shift.peak.low
    return row


cdef inline bint has_nan(const vec* x, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n):
        if isnan(get(x, i)):
            return True
    return False


cdef inline void fill_row(vec* row, Py_ssize_t n, double x) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n):
        put(row, i, x)


# --- sums ------------------------------------------------------------------------------------------------------------


cdef inline void add_elements(const vec* v, Py_ssize_t n, bint many, vec* total, vec* low) noexcept nogil:
    """total += the sum of n elements; `many` is whether the whole row has many."""
    cdef Py_ssize_t full = n // lanes(v), i = 0
    if many:
        while i + 4 <= full:
            accumulate_four(v[i], v[i + 1], v[i + 2], v[i + 3], total, low)
            i += 4
    while i < full:
        accumulate(v[i], total, low)
        i += 1
    if full * lanes(v) != n:
        accumulate(load_first(v + full, n - full * lanes(v), 0), total, low)


cdef inline bint has_many(const vec* like, Py_ssize_t n) noexcept nogil:
    return n >= MIN_COMPENSATED_VECTORS * lanes(like)


cdef inline vec distance(vec x, vec v, vec m) noexcept nogil:
    # A weight of 0 hides an infinite distance.
    cdef vec zero = fill(&x, 0)
    return where_equal(v, zero, zero, v * (m - x))


cdef inline void add_distance(vec x, vec v, vec m, vec* total, vec* total_low) noexcept nogil:
    """The same, added with what it lost."""
    cdef vec d = m - x
    cdef vec part = d + x
    cdef vec lost = (m - part) - ((d - part) + x)
    cdef vec y = distance(x, v, m)
    accumulate(y, total, total_low)
    total_low[0] = total_low[0] + finite_or_zero(multiply_rest(v, d, y) + v * lost)


cdef inline int distance_exponent(Py_ssize_t n) noexcept nogil:
    """Distances of a row of n are divided by two to it, more than n, so that their sum fits the type if they do."""
    cdef int exponent = 0
    frexp(<double>n, &exponent)
    return exponent


cdef inline void add_distances(
    const vec* x, const vec* low, const vec* v, Py_ssize_t n, Peak peak, Py_ssize_t row_length, const vec* soon,
    vec* total, vec* total_low
) noexcept nogil:
    """total += v (m - x) 2^-(distance_exponent) of n elements, all terms >= 0 if v is; v NULL is all ones. The row at
    `soon` comes from memory meanwhile."""
    cdef Py_ssize_t full = n // lanes(x), tail = n - n // lanes(x) * lanes(x), i = 0
    cdef bint weighs = v is not NULL
    cdef vec m, m_low, u
    m = fill(x, peak.high)
    m_low = fill(x, peak.low)
    u = fill(x, ldexp(1, -distance_exponent(row_length)))
    if has_many(x, row_length):
        while i + 4 <= full:
            accumulate_four(
                distance(x[i], v[i] * u if weighs else u, m),
                distance(x[i + 1], v[i + 1] * u if weighs else u, m),
                distance(x[i + 2], v[i + 2] * u if weighs else u, m),
                distance(x[i + 3], v[i + 3] * u if weighs else u, m),
                total, total_low,
            )
            prefetch_four(soon + i)
            i += 4
    while i < full:
        add_distance(x[i], v[i] * u if weighs else u, m, total, total_low)
        i += 1
    if low is not NULL:
        for i in range(full):
            total_low[0] = total_low[0] + (v[i] * u if weighs else u) * (m_low - low[i])
    if tail:
        if weighs:
            u = load_first(v + full, tail, 0) * u
        add_distance(load_first(x + full, tail, peak.high), u, m, total, total_low)
        if low is not NULL:
            total_low[0] = total_low[0] + u * (m_low - load_first(low + full, tail, peak.low))


cdef inline Pair sum_of_distances(vec total, vec total_low, Py_ssize_t row_length) noexcept nogil:
    cdef Pair result = sum_pairs(total, total_low)
    cdef int exponent = distance_exponent(row_length)
    result.high = ldexp(result.high, exponent)
    result.low = ldexp(result.low, exponent)
    return result


cdef inline Py_ssize_t count_ahead(const vec* x, Py_ssize_t n, Py_ssize_t before, double bound) noexcept nogil:
    """How many elements are larger than `bound`, or equal to it and among the first `before` (any integer)."""
    cdef Py_ssize_t full = n // lanes(x), tail = n - n // lanes(x) * lanes(x), i, ahead
    cdef Py_ssize_t early = max(0, min(before, n)), ties = max(0, min(before, n)) // lanes(x)
    cdef vec b, one, zero, count
    b = fill(x, bound)
    one = fill(x, 1)
    zero = count = fill(x, 0)       # a float32 counts to 2^24, far more than the vectors of a piece
    for i in range(ties):
        count = count + where_less(x[i], b, zero, one)
    for i in range(ties, full):
        count = count + where_less(b, x[i], one, zero)
    if tail:
        count = count + where_less(b, load_first(x + full, tail, -INFINITY), one, zero)
    ahead = <Py_ssize_t>sum_pairs(count, zero).high
    for i in range(ties * lanes(x), early):
        ahead += get(x, i) == bound
    return ahead


cdef inline Pair weighted_sum(const vec* e, const vec* b, Py_ssize_t n) noexcept nogil:
    """The sum of b e, whose terms may cancel: of exact products."""
    cdef Py_ssize_t full = n // lanes(e), tail = n - n // lanes(e) * lanes(e), i
    cdef vec x, y, product, total, low
    total = low = fill(e, 0)
    for i in range(full + (tail > 0)):
        x = e[i] if i < full else load_first(e + full, tail, 0)
        y = b[i] if i < full else load_first(b + full, tail, 0)
        product = x * y
        accumulate(product, &total, &low)
        low = low + finite_or_zero(multiply_rest(x, y, product))
    return sum_pairs(total, low)


# --- elementwise -----------------------------------------------------------------------------------------------------


cdef inline bint is_moderate(const vec* like, double factor) noexcept nogil:
    """Whether a factor fits the vector type; only weights that are out of its range make one that does not."""
    if vec is vf64:
        return isfinite(factor)
    return 1e-30 < fabs(factor) < 1e30 or factor == 0


cdef inline double times(double x, double factor) noexcept nogil:
    """A product that is 0 where x is, even if the factor has overflowed."""
    return x * factor if x != 0 or not isinf(factor) else 0.0


cdef inline void combine_row(
    vec* x, const vec* v, Py_ssize_t n, double factor, double less, double top, double at_top
) noexcept nogil:
    """x = factor x - less v; v NULL is all ones. Where x is `top`, at_top takes the place of the product."""
    cdef Py_ssize_t full = n // lanes(x), tail = n - n // lanes(x) * lanes(x), i
    cdef vec f, g, last, most = fill(x, top), most_of_it = fill(x, at_top)
    if not (is_moderate(x, factor) and is_moderate(x, less)):
        for i in range(n):
            put(
                x, i,
                (times(get(x, i), factor) if get(x, i) != top else at_top) - (less if v is NULL else times(get(v, i), less))
            )
        return
    f = fill(x, factor)
    g = fill(x, -less)
    last = load_first(x + full, tail, 0)
    if v is NULL:
        most_of_it = most_of_it + g
        for i in range(full):
            x[i] = where_equal(x[i], most, most_of_it, multiply_add(x[i], f, g))
        store_first(x + full, tail, where_equal(last, most, most_of_it, multiply_add(last, f, g)))
    else:
        for i in range(full):
            x[i] = where_equal(x[i], most, most_of_it + v[i] * g, multiply_add(x[i], f, v[i] * g))
        g = load_first(v + full, tail, 0) * g
        store_first(x + full, tail, where_equal(last, most, most_of_it + g, multiply_add(last, f, g)))


cdef inline void multiply_row(const vec* x, const vec* v, vec* out, Py_ssize_t n) noexcept nogil:
    """out = x v; out may be x."""
    cdef Py_ssize_t full = n // lanes(x), tail = n - n // lanes(x) * lanes(x), i
    for i in range(full):
        out[i] = x[i] * v[i]
    if tail:
        store_first(out + full, tail, load_first(x + full, tail, 0) * load_first(v + full, tail, 0))


cdef inline void mask_row(const vec* x, const char* mask, vec* out, Py_ssize_t n, double otherwise) noexcept nogil:
    """out = x (or, if NULL, 1) where a byte of the mask is not 0, else `otherwise`."""
    cdef Py_ssize_t full = n // lanes(out), tail = n - n // lanes(out) * lanes(out), i
    cdef char last[MASK_BYTES]
    cdef vec one = fill(out, 1)
    for i in range(full):
        out[i] = where_true(mask + i * lanes(out), one if x is NULL else x[i], otherwise)
    if tail:
        for i in range(MASK_BYTES):
            last[i] = mask[full * lanes(out) + i] if i < tail else 0
        if x is not NULL:
            one = load_first(x + full, tail, 0)
        store_first(out + full, tail, where_true(last, one, otherwise))


cdef inline vec log_probability(vec x, vec m, vec log_sum) noexcept nogil:
    # -((m - x) + log_sum): the terms have one sign, so that no rounding counts for more than it is.
    return (x - m) - log_sum


cdef inline void log_probabilities(
    const vec* x, vec* out, Py_ssize_t n, double m, double log_sum
) noexcept nogil:
    cdef Py_ssize_t full = n // lanes(x), tail = n - n // lanes(x) * lanes(x), i
    cdef vec top = fill(x, m), sums = fill(x, log_sum)
    for i in range(full):
        out[i] = log_probability(x[i], top, sums)
    if tail:
        store_first(out + full, tail, log_probability(load_first(x + full, tail, 0), top, sums))


cdef struct Softmax:        # of exponentials: their factor, but for that of the maximum
    double factor
    double top
    double at_top


cdef inline Softmax softmax_of(const vec* like, const Shift* shift, vec total, vec total_low) noexcept nogil:
    """From the exponentials with the maximum: what is near 1 and not near 0 is as exact that way."""
    cdef Softmax softmax
    cdef Pair sum = sum_pairs(total, total_low), top = exponential(like, shift.peak.high, 0, False, shift)
    softmax.factor = value(divide(single(1), sum))
    softmax.top, softmax.at_top = top.high, value(divide(top, sum))
    return softmax


cdef inline void softmax_row(const vec* x, vec* out, Py_ssize_t n, Traffic* traffic) noexcept nogil:
    cdef Shift shift
    cdef Softmax softmax
    cdef vec total, total_low
    shift.peak = no_peak()
    shift.peak.high = row_maximum(x, n)
    if not isfinite(shift.peak.high):
        fill_row(out, n, NAN)
        return
    set_shift(&shift, x)
    total = total_low = fill(x, 0)
    add_exponentials(x, <vec*>NULL, out, n, -1, &shift, True, &total, &total_low, traffic)
    softmax = softmax_of(x, &shift, total, total_low)
    combine_row(out, <vec*>NULL, n, softmax.factor, 0, softmax.top, softmax.at_top)


cdef inline void log_softmax_row(const vec* x, vec* out, Py_ssize_t n, Traffic* traffic) noexcept nogil:
    cdef Shift shift
    cdef vec total, total_low
    shift.peak = no_peak()
    raise_peak(&shift.peak, x, <vec*>NULL, 0, n)
    if not isfinite(shift.peak.high):
        fill_row(out, n, NAN)
        return
    set_shift(&shift, x)
    total = total_low = fill(x, 0)
    add_exponentials(x, <vec*>NULL, <vec*>x, n, shift.peak.index, &shift, False, &total, &total_low, traffic)
    log_probabilities(x, out, n, shift.peak.high, value(sum_of_row(&shift, total, total_low).log_sum))


cdef struct Transform:      # logits z = softcap tanh(scale x / softcap), or scale (x - origin) if softcap is 0
    double scale
    double softcap
    double origin           # 0, unless scale x overflows float64


cdef inline vec low_part(const vec* high, Pair x) noexcept nogil:
    """What x is beyond the type that `high` has it in, in all lanes."""
    return fill(high, x.high - get(high, 0) + x.low)


cdef inline vec capped(vec u, vec u_low, vec cap, vec cap_low, vec* low, vec* slope) noexcept nogil:
    """cap tanh(u / 2), as a pair, and the slope of the tanh.

    tanh(u / 2) = -p / (2 + p), with p = expm1(-u), and its derivative with respect to u / 2 is 4 q / (1 + q)^2 with
    q = exp(-u); here for |u|. Pairs throughout: an error of tanh is up to 2 cap times larger in exp(z).
    """
    cdef vec zero = fill(&u, 0), one = fill(&u, 1), two = fill(&u, 2)
    cdef vec p, p_low, four_q, four_q_low, total, total_low, inverse, t, t_low, part
    p = expm1_pair(zero - absolute(u), zero - flip(u_low, u), &p_low, &four_q, &four_q_low)
    total = two + p
    total_low = ((two - total) + p) + p_low
    inverse = one / total
    t = (zero - p) * inverse
    t_low = (residual(zero - p, t, total) - multiply_add(t, total_low, p_low)) * inverse
    part = inverse * inverse
    total_low = residual(one, inverse, total) - inverse * total_low         # what the inverse lost, relatively
    total_low = multiply_add(part + part, total_low, multiply_rest(inverse, inverse, part))
    slope[0] = four_q * part
    total_low = multiply_add(four_q, total_low, four_q_low * part)
    slope[0] = slope[0] + (multiply_rest(four_q, part, slope[0]) + total_low)
    part = cap * t
    t_low = multiply_add(cap, t_low, multiply_add(cap_low, t, multiply_rest(cap, t, part)))
    low[0] = flip(t_low, u)
    return flip(part, u)


cdef inline bint is_usual(double factor) noexcept nogil:
    """Whether products with logits of any size fit any type, or saturate as they should."""
    return 1e-18 < fabs(factor) < 1e18 or factor == 0


cdef inline bint is_usual_transform(const Transform* wanted) noexcept nogil:
    return is_usual(wanted.scale) and (
        wanted.softcap == 0 or (is_usual(wanted.softcap) and is_usual(2 * wanted.scale / wanted.softcap))
    )


cdef inline void transform_number(
    const vec* x, vec* z, vec* low, vec* slope, Py_ssize_t i, const Transform* wanted
) noexcept nogil:
    """`transform_row` of one element, in float64, for a scale or softcap that is out of all proportion."""
    cdef double y = get(x, i), ratio = wanted.scale / wanted.softcap, u = y, q = 0
    cdef Pair result = single(y)
    if y != -INFINITY:
        result = multiply(single(y - wanted.origin), single(wanted.scale))
    if y != -INFINITY and wanted.softcap != 0:
        if y != 0:
            u = y * ratio if ratio != 0 else y * wanted.scale / wanted.softcap
        q = exp(-2 * fabs(u))
        if not fabs(u) < 1e-9:      # below, the cap changes nothing that a float64 could tell
            result = single(wanted.softcap * tanh(u))
    put(z, i, result.high)
    put(low, i, (result.high - get(z, i)) + result.low if isfinite(get(z, i)) and isfinite(result.low) else 0.0)
    if wanted.softcap != 0:
        put(slope, i, 4 * q / ((1 + q) * (1 + q)))


cdef inline void transform_row(
    const vec* x, vec* z, vec* low, vec* slope, Py_ssize_t n, const Transform* wanted
) noexcept nogil:
    """z + low = the logits that x stands for; -inf stays -inf. dz/dx = scale slope; without a softcap the slope is 1
    and not written."""
    cdef Py_ssize_t full = n // lanes(x), tail = n - n // lanes(x) * lanes(x), i
    cdef bint caps = wanted.softcap != 0, moves = wanted.origin != 0
    cdef Pair factor = single(wanted.scale)
    cdef vec scale, scale_low, cap, cap_low, y, u, rest, steep, zero = fill(x, 0), bottom = fill(x, -INFINITY)
    cdef vec origin = fill(x, wanted.origin)
    if caps:
        factor.high = 2 * wanted.scale / wanted.softcap
        factor.low = fma(-factor.high, wanted.softcap, 2 * wanted.scale) / wanted.softcap
    if not is_usual_transform(wanted):
        for i in range(n):
            transform_number(x, z, low, slope, i, wanted)
        return
    scale = fill(x, factor.high)
    scale_low = low_part(&scale, factor)
    cap = fill(x, wanted.softcap)
    cap_low = low_part(&cap, single(wanted.softcap))
    for i in range(full + (tail > 0)):
        y = x[i] if i < full else load_first(x + full, tail, 0)
        if moves:
            y = y - origin
        u = y * scale
        rest = finite_or_zero(multiply_add(y, scale_low, multiply_rest(y, scale, u)))
        if caps:
            u = capped(u, rest, cap, cap_low, &rest, &steep)
            steep = where_equal(y, bottom, zero, steep)
            if i < full:
                slope[i] = steep
            else:
                store_first(slope + full, tail, steep)
        if caps or wanted.scale <= 0:
            u = where_equal(y, bottom, bottom, u)
        if i < full:
            z[i] = u
            low[i] = rest
        else:
            store_first(z + full, tail, u)
            store_first(low + full, tail, rest)
