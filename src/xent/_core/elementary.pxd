# exp, expm1 and log, of vectors and of float64 numbers. At each: where it holds, what it loses, and where its
# coefficients come from. Polynomials lose far less than a rounding; results are exact to the roundings of the last
# operations, and most functions write those as a low part as well.

from libc.math cimport log

from xent._core.pairs cimport Pair, one_more, single, two_sum
from xent._core.simd cimport (
    fill, forced_void, maximum, multiply_add, multiply_rest, scaled, split, unless_less, vec, vf32, where_less,
)

cdef extern from *:
    """
    /* Of log 2, the high 32 bits, whose product with any exponent is exact, and the rest (fdlibm's two numbers). */
    #define XENT_LN2_HIGH 0x1.62e42feep-1
    #define XENT_LN2_LOW 0x1.a39ef35793c76p-33
    #define XENT_LN2 0x1.62e42fefa39efp-1
    #define XENT_LOG2_E 0x1.71547652b82fep+0
    """
    const double LN2_HIGH "XENT_LN2_HIGH"
    const double LN2_LOW "XENT_LN2_LOW"
    const double LN2 "XENT_LN2"
    const double LOG2_E "XENT_LOG2_E"

cdef enum:                      # the vectors of a shift, each one number in all lanes: what `exp_parts` takes from x
    OFFSET, OFFSET_LOW          # m, or a part of it
    POWER                       # of two, for the rest
    LEAST                       # the first x - offset for which no exponent is left
    SHIFT_VECTORS


cdef inline Pair minus_log(double x) noexcept nogil:
    """-log(x) as the C library has it; 0 (not -0) for 1."""
    return single(0 - log(x))


cdef inline Pair log_pair(Pair x) noexcept nogil:
    """log(x) for x > 0, as exact as the C library's log: the low part through two terms of log(1 + low / high)."""
    cdef double correction = x.low / x.high
    return two_sum(log(x.high), correction - 0.5 * correction * correction)


cdef inline Pair log1p_pair(Pair x) noexcept nogil:
    """log(1 + x) for x >= 0: with what 1 + x rounds away, so that it is as exact as log is, for tiny x too."""
    return log_pair(one_more(x))


cdef inline vec shifted_zero(const vec* like) noexcept nogil:
    """1.5 * 2^23 or 1.5 * 2^52: added to a smaller number, it rounds that to an integer, in the low bits of the sum."""
    return fill(like, 12582912.0) if vec is vf32 else fill(like, 6755399441055744.0)


cdef inline forced_void find_exponent(const vec* d, vec* n, vec* shifted) noexcept nogil:
    """The integer n nearest to d log2(e), for a |d| that is not far larger than exponentials allow, and n + 1.5 *
    2^mantissa."""
    cdef vec big = shifted_zero(d)
    shifted[0] = multiply_add(d[0], fill(d, LOG2_E), big)
    n[0] = shifted[0] - big


cdef inline vec minus_log2_high(const vec* like) noexcept nogil:
    """-log 2 rounded to so few bits that its product with an exponent is exact: 9 bits in float32, 32 in float64 (for
    which fdlibm has the same two numbers)."""
    return fill(like, -0.693359375) if vec is vf32 else fill(like, -LN2_HIGH)


cdef inline vec minus_log2_low(const vec* like) noexcept nogil:
    """What that lacks; the sum is wrong by 2^-39 in float32, by 2^-86 in float64."""
    return fill(like, 2.12194440054690583e-4) if vec is vf32 else fill(like, -LN2_LOW)


cdef inline vec reduced(vec d, vec lost, vec* f, vec* f_low) noexcept nogil:
    """d + lost = n log 2 + f + f_low with |f| <= log(2)/2, for d <= 0 and a far smaller `lost`; returns n as
    `shifted_zero` has it."""
    cdef vec n, high, low, shifted
    find_exponent(&d, &n, &shifted)
    high = multiply_add(n, minus_log2_high(&d), d)
    low = multiply_add(n, minus_log2_low(&d), lost)
    f[0] = high + low
    f_low[0] = (high - f[0]) + low
    return shifted


cdef inline vec exp_lowest(const vec* like) noexcept nogil:
    """The logarithm of the smallest normal number."""
    return fill(like, -87.3365447505531) if vec is vf32 else fill(like, -708.3964185322641)


cdef inline forced_void set_line(const vec* f, double slope, double at_zero, vec* q) noexcept nogil:
    """q = slope f + at_zero."""
    q[0] = multiply_add(fill(f, slope), f[0], fill(f, at_zero))


cdef inline forced_void add_line(
    const vec* f, const vec* square, double slope, double at_zero, vec* q
) noexcept nogil:
    """q = q square + (slope f + at_zero)."""
    q[0] = multiply_add(q[0], square[0], multiply_add(fill(f, slope), f[0], fill(f, at_zero)))


cdef inline forced_void exp_polynomials(const vec* f, const vec* square, vec* q, Py_ssize_t count) noexcept nogil:
    """q = (exp(f) - 1 - f) / f^2 of up to 4 vectors, for |f| <= log(2)/2.

    Minimax polynomials of degree 4 (float32) and 9 (float64). 1 + f + f^2 q is wrong by at most 2^-28.0 of exp(f) in
    float32, 2^-56.3 in float64: 1/16 and 1/20 of a unit in the last place (found with mpmath at 2001 Chebyshev points,
    coefficients as stored). Evaluated in f^2, with lines in f as coefficients, and step by step for all vectors, since
    each step waits for the one before.
    """
    cdef Py_ssize_t j
    if vec is vf32:
        for j in range(count):
            set_line(&f[j], 0.0083687449038423794, 0.0416683905176082777, &q[j])
        for j in range(count):
            q[j] = multiply_add(fill(f, 0.0013814553640338619), square[j], q[j])
        for j in range(count):
            add_line(&f[j], &square[j], 0.1666652040223332495, 0.4999999343346428785, &q[j])
    else:
        for j in range(count):
            set_line(&f[j], 2.4999965952650315e-8, 2.7630306354519168589e-7, &q[j])
        for j in range(count):
            add_line(&f[j], &square[j], 2.7557586977541140902e-6, 0.000024801492949640669651, &q[j])
        for j in range(count):
            add_line(&f[j], &square[j], 0.00019841269505573799554, 0.0013888888943759598763, &q[j])
        for j in range(count):
            add_line(&f[j], &square[j], 0.0083333333334950705962, 0.041666666666529731216, &q[j])
        for j in range(count):
            add_line(&f[j], &square[j], 0.16666666666666411364, 0.50000000000000106682, &q[j])


cdef inline forced_void exp_parts(
    const vec* x, const vec* low, const vec* shift, vec* p, vec* scale, vec* rest, Py_ssize_t count
) noexcept nogil:
    """exp of `count` <= 4 vectors in two factors: power exp(x - offset + low - offset_low) = scale (1 + p), where scale
    is a power of two and |p| <= 0.42. The names are those of the vectors of `shift`.

    x - offset must be exact, and the low parts far smaller (`low` is NULL if there is none). `power`, a power of two,
    may lie as far outside the exponent range as the exponential does on the other side. The scale is 0 where x - offset
    <= least, the first number for which no exponent is left. `rest`, unless NULL, gets what rounding p lost.

    Written in steps for all vectors, since each step waits for the one before and compilers keep the order.
    """
    cdef vec offset = shift[OFFSET], offset_low = shift[OFFSET_LOW], power = shift[POWER], least = shift[LEAST]
    cdef vec d[4]
    cdef vec n[4]
    cdef vec high[4]
    cdef vec lower[4]
    cdef vec f[4]
    cdef vec square[4]
    cdef vec q[4]
    cdef Py_ssize_t j
    for j in range(count):
        d[j] = maximum(least, x[j] - offset)
    for j in range(count):
        find_exponent(&d[j], &n[j], &scale[j])
    for j in range(count):
        scale[j] = scaled(power, scale[j])
    for j in range(count):
        high[j] = multiply_add(n[j], minus_log2_high(x), d[j])
    for j in range(count):
        lower[j] = n[j] * minus_log2_low(x)
        if low is NULL:
            f[j] = multiply_add(n[j], minus_log2_low(x), high[j])
        else:               # where the scale is 0 the low part may be of any size
            lower[j] = lower[j] + unless_less(x[j] - offset, least, low[j] - offset_low)
            f[j] = high[j] + lower[j]
    for j in range(count):
        square[j] = f[j] * f[j]
        lower[j] = (high[j] - f[j]) + lower[j]
    exp_polynomials(f, square, q, count)
    for j in range(count):
        lower[j] = multiply_add(square[j], q[j], lower[j])
        if vec is vf32:     # whose sums are float64 in the end: what f lost is at most a quarter of an ulp of p
            p[j] = multiply_add(square[j], q[j], f[j])
        else:
            p[j] = lower[j] + f[j]
        if rest is not NULL:
            rest[j] = (f[j] - p[j]) + lower[j]


cdef inline double exponent_range(const vec* like) noexcept nogil:
    """The bias of exponents: 2^-range would be the smallest normal number halved, and its bits are all 0."""
    return 127 if vec is vf32 else 1023


cdef inline forced_void exps_shifted(const vec* x, const vec* m, vec* e, vec* rest, Py_ssize_t count) noexcept nogil:
    """e = exp(x - m) of `count` <= 4 vectors x <= m; 0 where that is below the smallest normal number. What the
    subtraction lost goes into the exponential; `rest`, unless NULL, gets what rounding e lost. In steps, as in
    `exp_parts`."""
    cdef vec d[4]
    cdef vec part[4]
    cdef vec lost[4]
    cdef vec n[4]
    cdef vec high[4]
    cdef vec f[4]
    cdef vec low[4]
    cdef vec power[4]
    cdef vec square[4]
    cdef vec q[4]
    cdef vec result[4]
    cdef Py_ssize_t j
    for j in range(count):
        d[j] = x[j] - m[j]
        part[j] = d[j] - x[j]
    for j in range(count):
        lost[j] = (x[j] - (d[j] - part[j])) - (m[j] + part[j])
    for j in range(count):
        find_exponent(&d[j], &n[j], &power[j])
    for j in range(count):
        high[j] = multiply_add(n[j], minus_log2_high(x), d[j])
        lost[j] = multiply_add(n[j], minus_log2_low(x), lost[j])
    for j in range(count):
        f[j] = high[j] + lost[j]
        low[j] = (high[j] - f[j]) + lost[j]
        power[j] = scaled(fill(x, 1), power[j])
    for j in range(count):
        square[j] = f[j] * f[j]
    exp_polynomials(f, square, q, count)
    for j in range(count):
        if vec is vf32:
            f[j] = multiply_add(square[j], q[j], f[j])
        else:       # no wider type to be saved by: f keeps its rounding error
            f[j] = multiply_add(square[j], q[j], low[j]) + f[j]
    for j in range(count):
        result[j] = multiply_add(f[j], power[j], power[j])
        e[j] = unless_less(d[j], exp_lowest(x), result[j])
        if rest is not NULL:
            rest[j] = unless_less(d[j], exp_lowest(x), multiply_add(f[j], power[j], power[j] - result[j]))


cdef inline vec exp_shifted(vec x, vec m, vec* rest) noexcept nogil:
    cdef vec e
    exps_shifted(&x, &m, &e, rest, 1)
    return e


cdef inline vec expm1_pair(vec d, vec lost, vec* low, vec* four_exp, vec* four_exp_low) noexcept nogil:
    """expm1(d + lost) as a pair, for d <= 0 and a far smaller `lost`; and 4 exp(d + lost) as another, 0 where that is
    below the smallest normal number.

    expm1(f) = f + f^2/2 + f^3 (1/6 + f q(f)), |f| <= log(2)/2; all but the last term are pairs. q interpolates the rest
    of the series, at degree 3 (float32) and 8 (float64): the formula is wrong by at most 2^-29.9 and 2^-58.7 of
    expm1(f), found as in `exp_polynomials`.
    """
    cdef vec one = fill(&d, 1)
    cdef vec lowest = exp_lowest(&d) - fill(&d, 2 * LN2)
    cdef vec clipped = maximum(lowest, d)
    cdef vec f, f_low, q, square, square_low, cube, cube_low, sixth, sixth_low, g, g_low, power, four, result, shifted
    cdef vec part
    # Below the bound, where d is clipped, the low part of a huge d may itself be huge.
    shifted = reduced(clipped, unless_less(d, lowest, lost), &f, &f_low)
    if vec is vf32:
        q = fill(&d, 0.00019882698337221478)
        q = multiply_add(q, f, fill(&d, 0.0013926183587713495))
        q = multiply_add(q, f, fill(&d, 0.0083333208871696409))
        q = multiply_add(q, f, fill(&d, 0.041666554617204574))
        sixth_low = fill(&d, -4.967053731282552e-9)         # 1/6 minus its float32
    else:
        q = fill(&d, 2.0911236630261544e-9)
        q = multiply_add(q, f, fill(&d, 2.5100385495510319e-8))
        q = multiply_add(q, f, fill(&d, 2.7557282969549953e-7))
        q = multiply_add(q, f, fill(&d, 2.7557268459997065e-6))
        q = multiply_add(q, f, fill(&d, 2.4801587317144499e-5))
        q = multiply_add(q, f, fill(&d, 1.9841269863053617e-4))
        q = multiply_add(q, f, fill(&d, 0.0013888888888886552))
        q = multiply_add(q, f, fill(&d, 0.0083333333333300618))
        q = multiply_add(q, f, fill(&d, 0.041666666666666667))
        sixth_low = fill(&d, 9.251858538542970e-18)         # 1/6 minus its float64
    g = f * fill(&d, 0.5)
    square = g * f
    square_low = multiply_add(f_low, f, multiply_rest(g, f, square))
    g = f + f
    cube = square * g
    cube_low = multiply_rest(square, g, cube) + multiply_add(square_low, g, square * (f_low + f_low))
    sixth = fill(&d, 0.16666666666666667)
    part = q * f
    q = sixth + part
    sixth_low = ((sixth - q) + part) + sixth_low
    part = cube * q
    cube_low = multiply_rest(cube, q, part) + multiply_add(cube, sixth_low, cube_low * q)
    cube = part
    part = square + cube
    square_low = ((square - part) + cube) + (square_low + cube_low)
    g = f + part
    g_low = ((f - g) + part) + (f_low + square_low)
    four = scaled(fill(&d, 4), shifted)     # exp itself may be too small
    part = multiply_add(four, g, four)
    four_exp[0] = unless_less(d, lowest, part)
    four_exp_low[0] = unless_less(d, lowest, multiply_add(four, g_low, multiply_add(four, g, four - part)))
    power = four * fill(&d, 0.25)
    part = power - one
    g = g * power
    result = part + g
    low[0] = multiply_add(g_low, power, ((power - (part + one)) + (part - result)) + g)
    return result


cdef inline vec log1p_reduced(vec k, vec f, vec f_low, vec* rest) noexcept nogil:
    """k log 2 + log(1 + f + f_low), for sqrt(1/2) <= 1 + f < sqrt(2) and a far smaller f_low; `rest` gets what rounding
    lost.

    With s = f / (2 + f), log1p(f) = f - (f^2/2 - s (f^2/2 + R(s^2))), the form of FreeBSD's log1p. R is a minimax
    polynomial of 4 terms (float32) or 7 (float64): the formula is wrong by at most 2^-31.1 and 2^-59.1 of log1p(f),
    found as in `exp_polynomials`.
    """
    cdef vec s = f / (fill(&f, 2) + f)
    cdef vec z = s * s
    cdef vec half = fill(&f, 0.5) * f * f
    cdef vec r, log_2, log_2_low, bend, sum_1, sum_2
    if vec is vf32:
        log_2 = k * fill(&f, 0.693138122558594)         # 17 bits; with the low part, wrong by 2^-40
        log_2_low = k * fill(&f, 9.05800061445916e-06)
        r = fill(&f, 0.23583540742507851)
        r = multiply_add(r, z, fill(&f, 0.285372400263040985))
        r = multiply_add(r, z, fill(&f, 0.400003361872143129))
        r = multiply_add(r, z, fill(&f, 0.666666656414753555))
    else:
        log_2 = k * fill(&f, LN2_HIGH)
        log_2_low = k * fill(&f, LN2_LOW)
        r = fill(&f, 0.147974705326395037)
        r = multiply_add(r, z, fill(&f, 0.153139072509607208))
        r = multiply_add(r, z, fill(&f, 0.181835695695164154))
        r = multiply_add(r, z, fill(&f, 0.22222198479599416))
        r = multiply_add(r, z, fill(&f, 0.285714287432230625))
        r = multiply_add(r, z, fill(&f, 0.399999999994112994))
        r = multiply_add(r, z, fill(&f, 0.666666666666673486))
    bend = half - s * multiply_add(r, z, half)
    sum_1 = f - bend                # |f| > bend and |k log 2| > |sum_1|, so that two operations find what was lost
    sum_2 = log_2 + sum_1
    # f_low / (1 + f), well enough
    f_low = f_low * multiply_add(f, f - fill(&f, 1), fill(&f, 1))
    rest[0] = ((log_2 - sum_2) + sum_1) + (((f - sum_1) - bend) + (log_2_low + f_low))
    return sum_2


cdef inline vec log1p_unit(vec x, vec x_rest, vec* rest) noexcept nogil:
    """log1p(x + x_rest) for 0 <= x <= 1 and a far smaller x_rest; `rest` gets what rounding lost."""
    cdef vec bound = fill(&x, 0.41421356237309515)      # sqrt(2) - 1
    cdef vec zero = fill(&x, 0), one = fill(&x, 1), half = fill(&x, 0.5)
    cdef vec f = where_less(bound, x, (x - one) * half, x)
    return log1p_reduced(
        where_less(bound, x, one, zero), f, where_less(bound, x, x_rest * half, x_rest), rest
    )


cdef inline vec log_of_pair(vec x, vec x_low, vec* rest) noexcept nogil:
    """log(x + x_low) for x >= 1 and a far smaller x_low; nothing cancels near 1. `rest` gets what rounding lost."""
    cdef vec down
    cdef vec k = split(x, &down)
    cdef vec a = x * down - fill(&x, 1)
    cdef vec b = x_low * down
    cdef vec f = a + b
    return log1p_reduced(k, f, (a - f) + b, rest)
