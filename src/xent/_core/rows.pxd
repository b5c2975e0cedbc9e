# Sums over one row, and operations on its elements. A row is n contiguous elements, read as n // lanes vectors and a
# shorter last one; it may come in pieces, and a sum of vectors is an array of two (see exponentials.pxd).

from libc.math cimport INFINITY, fabs, frexp, isfinite, isinf, isnan, ldexp
from libc.string cimport memcpy, memset

from xent._core.exponentials cimport HIGH, LOW, Peak
from xent._core.pairs cimport Pair, accumulate, accumulate_four, finite_or_zero, sum_pairs
from xent._core.simd cimport (
    all_equal, element, fill, forced_void, get, lanes, load_first, multiply_add, multiply_rest, prefetch_four, put,
    store_first, vec, vf32, vf64, where_equal, where_less, where_true,
)
from xent._core.streaming cimport Curve, curved

cdef enum:
    MASK_BYTES = 64             # at least the lanes of any vector
    MIN_COMPENSATED_VECTORS = 16        # in longer rows, the rounding errors of single terms average out
    PIECE_ELEMENTS = 2048       # elements of a piece: a multiple of four vectors of any length

cdef enum:                      # special values of a class index
    NO_CLASS = -1
    SEVERAL = -2


# --- questions -------------------------------------------------------------------------------------------------------


cdef inline bint has_nan(const vec* x, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n):
        if isnan(get(x, i)):
            return True
    return False


cdef inline Py_ssize_t find_nonzero(const vec* x, Py_ssize_t first, Py_ssize_t n) noexcept nogil:
    """The first index from `first` on at which x is not 0, or n."""
    cdef Py_ssize_t i = first
    cdef vec zero = fill(x, 0)
    while i + lanes(x) <= n and all_equal(element(x, i)[0], zero):
        i += lanes(x)
    while i < n and get(x, i) == 0:
        i += 1
    return i


cdef inline Py_ssize_t find_only_class(const vec* t, Py_ssize_t n, Py_ssize_t start, Py_ssize_t before) noexcept nogil:
    """The index of the only nonzero element, or NO_CLASS, or SEVERAL. The n elements begin at class `start`; `before`
    is the answer for the elements before them."""
    cdef Py_ssize_t i = find_nonzero(t, 0, n)
    if i == n or before == SEVERAL:
        return before
    return start + i if before == NO_CLASS and find_nonzero(t, i + 1, n) == n else SEVERAL


cdef inline Py_ssize_t count_ahead(const vec* x, Py_ssize_t n, Py_ssize_t before, double bound) noexcept nogil:
    """Count elements larger than `bound`, and equal ones among the first `before` (any integer)."""
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


# --- sums ------------------------------------------------------------------------------------------------------------


cdef inline bint has_many(const vec* like, Py_ssize_t n) noexcept nogil:
    return n >= MIN_COMPENSATED_VECTORS * lanes(like)


cdef inline forced_void add_elements(const vec* v, Py_ssize_t n, bint many, vec* total) noexcept nogil:
    """total += the sum of n elements; `many` is has_many of the whole row."""
    cdef Py_ssize_t full = n // lanes(v), i = 0
    if many:
        while i + 4 <= full:
            accumulate_four(v[i], v[i + 1], v[i + 2], v[i + 3], &total[HIGH], &total[LOW])
            i += 4
    while i < full:
        accumulate(v[i], &total[HIGH], &total[LOW])
        i += 1
    if full * lanes(v) != n:
        accumulate(load_first(v + full, n - full * lanes(v), 0), &total[HIGH], &total[LOW])


cdef inline vec weigh_distance(vec x, vec v, vec m) noexcept nogil:
    """v (m - x); 0 where v is 0, even if the distance is infinite."""
    cdef vec zero = fill(&x, 0)
    return where_equal(v, zero, zero, v * (m - x))


cdef inline forced_void add_distance(vec x, vec v, vec m, vec* total) noexcept nogil:
    """total += v (m - x), including the rounding errors of the term."""
    cdef vec d = m - x
    cdef vec back = d + x
    cdef vec lost = (m - back) - ((d - back) + x)
    cdef vec y = weigh_distance(x, v, m)
    accumulate(y, &total[HIGH], &total[LOW])
    total[LOW] = total[LOW] + finite_or_zero(multiply_rest(v, d, y) + v * lost)


cdef inline int distance_exponent(Py_ssize_t n) noexcept nogil:
    """Distances of a row of n are divided by 2^exponent > n, so that their sum cannot overflow if no term does."""
    cdef int exponent = 0
    frexp(<double>n, &exponent)
    return exponent


cdef inline forced_void add_distances(
    const vec* x, const vec* low, const vec* v, Py_ssize_t n, const Peak* peak, Py_ssize_t row_length, const vec* soon,
    vec* total
) noexcept nogil:
    """total += v (m - x) 2^-(distance_exponent) of n elements, all terms >= 0 if v is; v NULL is all ones. Prefetches
    the row at `soon`."""
    cdef Py_ssize_t full = n // lanes(x), tail = n - n // lanes(x) * lanes(x), i = 0
    cdef bint is_weighted = v is not NULL
    cdef vec m, m_low, u
    m = fill(x, peak.high)
    m_low = fill(x, peak.low)
    u = fill(x, ldexp(1, -distance_exponent(row_length)))
    if has_many(x, row_length):
        while i + 4 <= full:
            accumulate_four(
                weigh_distance(x[i], v[i] * u if is_weighted else u, m),
                weigh_distance(x[i + 1], v[i + 1] * u if is_weighted else u, m),
                weigh_distance(x[i + 2], v[i + 2] * u if is_weighted else u, m),
                weigh_distance(x[i + 3], v[i + 3] * u if is_weighted else u, m),
                &total[HIGH], &total[LOW],
            )
            prefetch_four(soon + i)
            i += 4
    while i < full:
        add_distance(x[i], v[i] * u if is_weighted else u, m, total)
        i += 1
    if low is not NULL:
        for i in range(full):
            total[LOW] = total[LOW] + (v[i] * u if is_weighted else u) * (m_low - low[i])
    if tail:
        if is_weighted:
            u = load_first(v + full, tail, 0) * u
        add_distance(load_first(x + full, tail, peak.high), u, m, total)
        if low is not NULL:
            total[LOW] = total[LOW] + u * (m_low - load_first(low + full, tail, peak.low))


cdef inline Pair sum_distances(const vec* total, Py_ssize_t row_length) noexcept nogil:
    cdef Pair result = sum_pairs(total[HIGH], total[LOW])
    cdef int exponent = distance_exponent(row_length)
    result.high = ldexp(result.high, exponent)
    result.low = ldexp(result.low, exponent)
    return result


cdef inline Pair sum_products(const vec* e, const vec* b, Py_ssize_t n) noexcept nogil:
    """The sum of b e from exact products, since terms may cancel."""
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


cdef enum:                      # the vectors of `add_moments`
    MOMENT_VECTORS = 3          # the first moment, a pair, and the second


cdef inline forced_void add_moments(const vec* y, const vec* e, Py_ssize_t n, vec* moments) noexcept nogil:
    """Add the sums of -y e and y^2 e, for y <= 0; terms are 0 where e is, even if y is -inf."""
    cdef Py_ssize_t full = n // lanes(y), tail = n - n // lanes(y) * lanes(y), i
    cdef vec zero = fill(y, 0), term, d
    for i in range(full + (tail > 0)):
        term = e[i] if i < full else load_first(e + full, tail, 0)
        d = where_equal(term, zero, zero, zero - (y[i] if i < full else load_first(y + full, tail, 0)))
        term = term * d
        accumulate(term, &moments[HIGH], &moments[LOW])
        moments[2] = multiply_add(term, d, moments[2])


# --- elementwise -----------------------------------------------------------------------------------------------------


cdef inline bint is_moderate(const vec* like, double factor) noexcept nogil:
    """Whether a factor is well inside the range of the vector type; extreme weights may make one that is not."""
    if vec is vf64:
        return isfinite(factor)
    return 1e-30 < fabs(factor) < 1e30 or factor == 0


cdef inline bint fits_curve(const vec* like, double factor, double slope) noexcept nogil:
    """Whether a Hessian of terms x may be computed as x (factor - slope x). Infinite or NaN factors do not fit."""
    if vec is vf32:
        return is_moderate(like, factor) and (fabs(slope) > 1e-37 or slope == 0)
    return 1e-250 < fabs(factor) < 1e250 or factor == 0


cdef inline bint suits_terms(const vec* like, double weight) noexcept nogil:
    """Whether a weight is moderate, and so are products of it with the unit of terms, about 2^-EXPONENT_HEADROOM, and
    with the inverse of a sum; and whether it may be a pair (without fused operations, products of pairs overflow
    early)."""
    if vec is vf64:
        return 1e-290 < fabs(weight) < 1e290 or weight == 0
    return 1e-20 < fabs(weight) < 1e30 or weight == 0


cdef inline double multiply_or_zero(double x, double factor) noexcept nogil:
    """x factor, but 0 if x is 0, even if the factor is infinite."""
    return x * factor if x != 0 or not isinf(factor) else 0.0


cdef inline forced_void scale_row(vec* x, const vec* v, Py_ssize_t n, double factor, double less) noexcept nogil:
    """x = factor x - less v; v NULL is all ones."""
    cdef Py_ssize_t full = n // lanes(x), tail = n - n // lanes(x) * lanes(x), i
    cdef vec f, g
    if not (is_moderate(x, factor) and is_moderate(x, less)):
        for i in range(n):
            put(x, i, multiply_or_zero(get(x, i), factor) - (
                less if v is NULL else multiply_or_zero(get(v, i), less)
            ))
        return
    f = fill(x, factor)
    g = fill(x, -less)
    if v is NULL:
        for i in range(full):
            x[i] = multiply_add(x[i], f, g)
        store_first(x + full, tail, multiply_add(load_first(x + full, tail, 0), f, g))
    else:
        for i in range(full):
            x[i] = multiply_add(x[i], f, v[i] * g)
        store_first(x + full, tail, multiply_add(load_first(x + full, tail, 0), f, load_first(v + full, tail, 0) * g))


cdef inline forced_void curve_row(const vec* x, vec* out, Py_ssize_t n, const Curve* curve) noexcept nogil:
    """out = the Hessian of terms x, without its exceptions."""
    cdef Py_ssize_t full = n // lanes(x), tail = n - n // lanes(x) * lanes(x), i
    cdef vec factor = fill(x, curve.factor), minus_slope = fill(x, -curve.slope)
    cdef double p
    if not curve.fits_type:
        for i in range(n):
            p = get(x, i) * curve.share
            put(out, i, multiply_or_zero(p * (1 - p), curve.mass))
        return
    for i in range(full):
        out[i] = curved(x[i], factor, minus_slope)
    store_first(out + full, tail, curved(load_first(x + full, tail, 0), factor, minus_slope))


cdef inline void fill_row(vec* row, Py_ssize_t n, double x) noexcept nogil:
    cdef Py_ssize_t full = n // lanes(row), i
    for i in range(full):
        row[i] = fill(row, x)
    store_first(row + full, n - full * lanes(row), fill(row, x))


cdef inline void multiply_row(const vec* x, const vec* v, vec* out, Py_ssize_t n) noexcept nogil:
    """out = x v; out may be x."""
    cdef Py_ssize_t full = n // lanes(x), tail = n - n // lanes(x) * lanes(x), i
    for i in range(full):
        out[i] = x[i] * v[i]
    if tail:
        store_first(out + full, tail, load_first(x + full, tail, 0) * load_first(v + full, tail, 0))


cdef inline void scale_distances(const vec* x, vec* y, Py_ssize_t n, double m, double b) noexcept nogil:
    """y = b (x - m), which does not overflow before it is multiplied by b; y may be x."""
    cdef Py_ssize_t full = n // lanes(x), tail = n - n // lanes(x) * lanes(x), i
    cdef vec half, half_m, twice
    half = fill(x, 0.5)
    half_m = fill(x, 0.5 * m)
    twice = fill(x, 2 * b)
    for i in range(full):
        y[i] = (x[i] * half - half_m) * twice
    if tail:
        store_first(y + full, tail, (load_first(x + full, tail, 0) * half - half_m) * twice)


cdef inline void mask_row(const vec* x, const char* mask, vec* out, Py_ssize_t n, double otherwise) noexcept nogil:
    """out = x (or, if NULL, 1) where a byte of the mask is not 0, else `otherwise`."""
    cdef Py_ssize_t full = n // lanes(out), tail = n - n // lanes(out) * lanes(out), i
    cdef char last[MASK_BYTES]
    cdef vec one = fill(out, 1)
    for i in range(full):
        out[i] = where_true(mask + i * lanes(out), one if x is NULL else x[i], otherwise)
    if tail:
        memset(last, 0, MASK_BYTES)
        memcpy(last, mask + full * lanes(out), tail)
        if x is not NULL:
            one = load_first(x + full, tail, 0)
        store_first(out + full, tail, where_true(last, one, otherwise))


cdef inline vec log_probability(vec x, vec m, vec log_sum) noexcept nogil:
    # = -((m - x) + log_sum), where both terms are >= 0, so nothing cancels.
    return (x - m) - log_sum
