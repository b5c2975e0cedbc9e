# Arithmetic that keeps what its roundings lose, of float64 numbers and of vectors, and the exponential and logarithm in
# vectors. Each function's comment says what is exact about it; _kernels.pyx says why that is needed.

from libc.math cimport fma, isfinite, log

from xent._simd cimport fill, get, lanes, power_of_two, vec, vf32, where_less


cdef struct Pair:       # a number, high + low: a float64 result and what its roundings lost
    double high
    double low


cdef inline Pair two_sum(double a, double b) noexcept nogil:
    cdef Pair total
    cdef double part
    total.high = a + b
    part = total.high - a
    total.low = (a - (total.high - part)) + (b - part)
    return total


cdef inline void add(Pair* total, double x) noexcept nogil:
    cdef Pair result = two_sum(total.high, x)
    total.high = result.high
    total.low += result.low


cdef inline void add_pair(Pair* total, Pair x) noexcept nogil:
    add(total, x.high)
    total.low += x.low


cdef inline Pair multiply(Pair x, Pair y) noexcept nogil:
    cdef Pair product
    product.high = x.high * y.high
    product.low = fma(x.high, y.high, -product.high) + (x.high * y.low + x.low * y.high)
    return product


cdef inline Pair divide(Pair x, Pair y) noexcept nogil:
    cdef Pair quotient
    quotient.high = x.high / y.high
    quotient.low = (fma(-quotient.high, y.high, x.high) + (x.low - quotient.high * y.low)) / y.high
    return quotient


cdef inline Pair single(double x) noexcept nogil:
    cdef Pair pair
    pair.high = x
    pair.low = 0
    return pair


cdef inline double value(Pair x) noexcept nogil:
    # Where the high part is infinite or 0 the low part may be infinity - infinity or 0 / 0.
    return x.high + x.low if isfinite(x.low) else x.high


cdef inline Pair one_more(Pair x) noexcept nogil:
    cdef Pair total = two_sum(1, x.high)
    total.low += x.low
    return total


cdef inline Pair log1p_pair(Pair x) noexcept nogil:
    """log(1 + x) for x >= 0: log is more exact than log1p, and what 1 + x loses comes back through its derivative."""
    cdef Pair total = one_more(x)
    cdef double correction = total.low / total.high
    return two_sum(log(total.high), correction - 0.5 * correction * correction)


cdef inline void accumulate(vec y, vec* high, vec* low) noexcept nogil:
    """high + low += y, lane by lane."""
    cdef vec total = high[0] + y
    cdef vec part = total - high[0]
    low[0] = low[0] + ((high[0] - (total - part)) + (y - part))
    high[0] = total


cdef inline Pair sum_pairs(vec high, vec low) noexcept nogil:
    cdef Pair total
    cdef Py_ssize_t i
    total.high = total.low = 0
    for i in range(lanes(&high)):
        add(&total, get(&high, i))
        total.low += get(&low, i)
    return total


cdef inline vec exp_shifted(vec x, vec m, vec* rest) noexcept nogil:
    """exp(x - m) for x <= m; 0 where that is below the smallest normal number. Writes what the result lost, if asked.

    x - m = n log 2 + f with |f| <= log(2)/2, and exp(f) = 1 + f + f^2 q(f), q a minimax polynomial of this interval.
    """
    cdef vec d = x - m
    cdef vec part = d - x
    cdef vec lost = (x - (d - part)) - (m + part)
    cdef vec zero = fill(&d, 0)
    cdef vec shifted, n, f, q, power, result, lowest, high, low = zero
    if vec is vf32:
        lowest = fill(&d, -87.3365447505531)
        shifted = d * fill(&d, 1.44269504088896340736) + fill(&d, 12582912.0)             # 1.5 * 2^23
        n = shifted - fill(&d, 12582912.0)
        f = (d - n * fill(&d, 0.693359375)) + (lost - n * fill(&d, -2.12194440054690583e-4))
        q = fill(&d, 0.0013814553640338619)
        q = q * f + fill(&d, 0.0083687449038423794)
        q = q * f + fill(&d, 0.0416683905176082777)
        q = q * f + fill(&d, 0.1666652040223332495)
        q = q * f + fill(&d, 0.4999999343346428785)
        f = f * f * q + f
    else:
        lowest = fill(&d, -708.3964185322641)
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
        # float64 has no wider type to be saved by: there f keeps its rounding error.
        f = (f * f * q + low) + f
    power = power_of_two(shifted)
    result = f * power + power
    if rest is not NULL:
        rest[0] = where_less(d, lowest, zero, (power - result) + f * power)
    return where_less(d, lowest, zero, result)


cdef inline vec log1p_unit(vec x, vec x_rest, vec* rest) noexcept nogil:
    """log1p(x + x_rest) for 0 <= x <= 1 and a far smaller x_rest; writes what the result lost.

    1 + x = 2^k (1 + f), k = 1 from sqrt(2) on; with s = f / (2 + f), log1p(f) = f - (f^2/2 - s (f^2/2 + R(s^2))),
    R a minimax polynomial. The form is that of FreeBSD's log1p.
    """
    cdef vec bound = fill(&x, 0.41421356237309515)
    cdef vec zero = fill(&x, 0)
    cdef vec one = fill(&x, 1)
    cdef vec f = where_less(bound, x, (x - one) * fill(&x, 0.5), x)
    cdef vec s = f / (fill(&x, 2) + f)
    cdef vec z = s * s
    cdef vec half = fill(&x, 0.5) * f * f
    cdef vec r, k_log_2, k_log_2_rest, bend, sum_1, sum_2
    if vec is vf32:
        k_log_2 = where_less(bound, x, fill(&x, 0.693138122558594), zero)
        k_log_2_rest = where_less(bound, x, fill(&x, 9.05800061445916e-06), zero)
        r = fill(&x, 0.23583540742507851)
        r = r * z + fill(&x, 0.285372400263040985)
        r = r * z + fill(&x, 0.400003361872143129)
        r = r * z + fill(&x, 0.666666656414753555)
    else:
        k_log_2 = where_less(bound, x, fill(&x, 0.693147180369123816490), zero)
        k_log_2_rest = where_less(bound, x, fill(&x, 1.90821492927058770002e-10), zero)
        r = fill(&x, 0.147974705326395037)
        r = r * z + fill(&x, 0.153139072509607208)
        r = r * z + fill(&x, 0.181835695695164154)
        r = r * z + fill(&x, 0.22222198479599416)
        r = r * z + fill(&x, 0.285714287432230625)
        r = r * z + fill(&x, 0.399999999994112994)
        r = r * z + fill(&x, 0.666666666666673486)
    bend = half - s * (half + r * z)
    sum_1 = f - bend                # |f| > bend and k log 2 > |sum_1|, so that two operations find what was lost
    sum_2 = k_log_2 + sum_1
    rest[0] = (
        where_less(bound, x, (k_log_2 - sum_2) + sum_1, zero) + ((f - sum_1) - bend) + k_log_2_rest
        + x_rest / (one + x)
    )
    return sum_2
