# Numbers as pairs, high + low, of about twice the digits of their type: float64 numbers, and vectors lane by lane.

from libc.math cimport fma, isfinite

from xent._core.simd cimport (
    fill, forced_void, get, lanes, maximum, minimum, vec, vf32, vf64, where_equal, xent_sum_lanes_f32,
    xent_upper_f64,
)


cdef enum:
    MAX_LANES = 16      # of any vector


cdef struct Pair:       # the number high + low, where low is what the roundings of high lost
    double high
    double low


cdef struct Sum:        # high + low + lowest, where lowest is what the roundings of low lost
    double high
    double low
    double lowest


cdef inline Pair two_sum(double a, double b) noexcept nogil:
    """a + b, exactly, whichever is larger (Knuth)."""
    cdef Pair total
    cdef double rounded
    total.high = a + b
    rounded = total.high - a
    total.low = (a - (total.high - rounded)) + (b - rounded)
    return total


cdef inline void add(Pair* total, double x) noexcept nogil:
    """total += x, to about twice the digits of float64 while the low parts stay small."""
    cdef Pair result = two_sum(total.high, x)
    total.high = result.high
    total.low += result.low


cdef inline void add_pair(Pair* total, Pair x) noexcept nogil:
    add(total, x.high)
    total.low += x.low


cdef inline void add_exactly(Sum* total, double x) noexcept nogil:
    """total += x, with the roundings of both parts kept."""
    cdef Pair result = two_sum(total.high, x)
    total.high = result.high
    result = two_sum(total.low, result.low)
    total.low = result.high
    total.lowest += result.low


cdef inline Pair multiply(Pair x, Pair y) noexcept nogil:
    """x y; drops x.low y.low."""
    cdef Pair product
    product.high = x.high * y.high
    product.low = fma(x.high, y.high, -product.high) + (x.high * y.low + x.low * y.high)
    return product


cdef inline Pair divide(Pair x, Pair y) noexcept nogil:
    """x / y, by one correction of the quotient of the high parts."""
    cdef Pair quotient
    quotient.high = x.high / y.high
    quotient.low = (fma(-quotient.high, y.high, x.high) + (x.low - quotient.high * y.low)) / y.high
    return quotient


cdef inline Pair single(double x) noexcept nogil:
    """x as a pair."""
    cdef Pair pair
    pair.high = x
    pair.low = 0
    return pair


cdef inline double value(Pair x) noexcept nogil:
    """The nearest float64."""
    # Where the high part is infinite or 0 the low part may be infinity - infinity or 0 / 0.
    return x.high + x.low if isfinite(x.low) else x.high


cdef inline Pair one_more(Pair x) noexcept nogil:
    """1 + x."""
    cdef Pair total = two_sum(1, x.high)
    total.low += x.low
    return total


cdef inline forced_void accumulate(vec y, vec* high, vec* low) noexcept nogil:
    """high + low += y, lane by lane: two_sum of vectors."""
    cdef vec total = high[0] + y
    cdef vec rounded = total - high[0]
    low[0] = low[0] + ((high[0] - (total - rounded)) + (y - rounded))
    high[0] = total


cdef inline forced_void add_larger(vec y, vec* high, vec* low) noexcept nogil:
    """high + low += y >= 0, exactly where high is the larger (Dekker). Where y is larger, high is at least doubled, and
    at most half an ulp of y is lost: not more than the last such y costs, however many there are."""
    cdef vec total = high[0] + y
    low[0] = low[0] + (y - (total - high[0]))
    high[0] = total


cdef inline forced_void add_upper_half(int half, vf64* high, vf64* low) noexcept nogil:
    low[0] = low[0] + xent_upper_f64(low[0], half)
    accumulate(xent_upper_f64(high[0], half), high, low)


cdef inline Pair sum_pairs(vec high, vec low) noexcept nogil:
    """The sum over all lanes: float32 lanes in float64, float64 lanes in pairs."""
    cdef Pair total
    if vec is vf32:
        total.high = xent_sum_lanes_f32(high)
        total.low = xent_sum_lanes_f32(low)
    else:
        if lanes(&high) == 8:
            add_upper_half(4, &high, &low)
        if lanes(&high) >= 4:
            add_upper_half(2, &high, &low)
        if lanes(&high) >= 2:
            add_upper_half(1, &high, &low)
        total.high = get(&high, 0)
        total.low = get(&low, 0)
    return total


cdef inline forced_void accumulate_largest(vec a, vec b, vec c, vec d, vec more, vec* high, vec* low) noexcept nogil:
    """high + low += a + b + c + d + more, for four numbers >= 0 and a `more` that is not far larger. The largest is
    added exactly; the roundings of the sum of all others are too small to count."""
    # maximum and minimum return their second argument where either is NaN, so that a NaN ends in one of the two.
    cdef vec ab = maximum(a, b), cd = maximum(c, d)
    cdef vec largest = maximum(ab, cd), total
    cdef vec rest = (minimum(b, a) + minimum(d, c)) + minimum(cd, ab)
    rest = rest + more
    total = largest + rest
    low[0] = low[0] + ((largest - total) + rest)
    accumulate(total, high, low)


cdef inline forced_void accumulate_four(vec a, vec b, vec c, vec d, vec* high, vec* low) noexcept nogil:
    """high + low += a + b + c + d, for numbers >= 0."""
    if vec is vf32:
        accumulate_largest(a, b, c, d, fill(&a, 0), high, low)
    else:       # there is no wider type for the result: no rounding may be lost
        accumulate(b, &a, low)
        accumulate(d, &c, low)
        accumulate(c, &a, low)
        accumulate(a, high, low)


cdef inline vec finite_or_zero(vec x) noexcept nogil:
    cdef vec zero = fill(&x, 0)
    return where_equal(x - x, zero, x, zero)
