# Arithmetic that keeps what its roundings lose, of float64 numbers and of vectors, and the exponential and logarithm in
# vectors. Each function's comment says what is exact about it; _kernels.pyx says why that is needed.

from libc.math cimport fma, isfinite, log

from xent._core.simd cimport (
    fill, forced_void, get, lanes, maximum, minimum, multiply_add, multiply_rest, scaled, split, unless_less, vec,
    vf32, where_equal, where_less, xent_sum_lanes_f32,
)


cdef enum:
    MAX_LANES = 16      # of any vector


cdef struct Pair:       # a number, high + low: a float64 result and what its roundings lost
    double high
    double low


cdef struct Sum:        # a sum of many numbers, and what its roundings lost, twice over
    double high
    double low
    double lowest


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


cdef inline void add_exactly(Sum* total, double x) noexcept nogil:
    cdef Pair result = two_sum(total.high, x)
    total.high = result.high
    result = two_sum(total.low, result.low)
    total.low = result.high
    total.lowest += result.low


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


cdef inline Pair minus_log(double x) noexcept nogil:
    return single(0 - log(x))       # 0 - 0 is 0, and -0 is not


cdef inline Pair one_more(Pair x) noexcept nogil:
    cdef Pair total = two_sum(1, x.high)
    total.low += x.low
    return total


cdef inline Pair log_pair(Pair x) noexcept nogil:
    """log(x) for x > 0: what the high part leaves out comes in through the derivative."""
    cdef double correction = x.low / x.high
    return two_sum(log(x.high), correction - 0.5 * correction * correction)


cdef inline Pair log1p_pair(Pair x) noexcept nogil:
    """log(1 + x) for x >= 0: more exact than log1p, as log is."""
    return log_pair(one_more(x))


cdef inline forced_void accumulate(vec y, vec* high, vec* low) noexcept nogil:
    """high + low += y, lane by lane."""
    cdef vec total = high[0] + y
    cdef vec part = total - high[0]
    low[0] = low[0] + ((high[0] - (total - part)) + (y - part))
    high[0] = total


cdef inline Pair sum_pairs(vec high, vec low) noexcept nogil:
    """The sum over all lanes: of float32 ones in float64, of float64 ones with what is lost."""
    cdef Pair part[MAX_LANES]
    cdef Py_ssize_t i
    if vec is vf32:
        part[0].high = xent_sum_lanes_f32(high)
        part[0].low = xent_sum_lanes_f32(low)
        return part[0]
    for i in range(lanes(&high)):
        part[i].high = get(&high, i)
        part[i].low = get(&low, i)
    if lanes(&high) == 8:
        for i in range(4):
            add_pair(&part[i], part[i + 4])
    if lanes(&high) >= 4:
        add_pair(&part[0], part[2])
        add_pair(&part[1], part[3])
    if lanes(&high) >= 2:
        add_pair(&part[0], part[1])
    return part[0]


cdef inline forced_void accumulate_largest(vec a, vec b, vec c, vec d, vec more, vec* high, vec* low) noexcept nogil:
    """high + low += a + b + c + d + more, for four numbers >= 0 and a `more` that is not far larger: the largest is
    exact, and all the rest is not so large that its roundings would count."""
    # A NaN is in one of the two: each is its second argument then.
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
    else:       # the last bits of a float64 are all there is
        accumulate(b, &a, low)
        accumulate(d, &c, low)
        accumulate(c, &a, low)
        accumulate(a, high, low)


cdef inline vec finite_or_zero(vec x) noexcept nogil:
    cdef vec zero = fill(&x, 0)
    return where_equal(x - x, zero, x, zero)


cdef inline vec shifted_zero(const vec* like) noexcept nogil:
    """1.5 * 2^mantissa: added to a number, it rounds that to an integer, which then sits in the low bits."""
    return fill(like, 12582912.0) if vec is vf32 else fill(like, 6755399441055744.0)


cdef inline forced_void find_exponent(const vec* d, vec* n, vec* shifted) noexcept nogil:
    """The integer n nearest to d log2(e), for a |d| that is not far larger than exponentials allow, and n + 1.5 *
    2^mantissa."""
    cdef vec big = shifted_zero(d)
    shifted[0] = multiply_add(d[0], fill(d, 1.44269504088896340736), big)
    n[0] = shifted[0] - big


cdef inline vec minus_log2_high(const vec* like) noexcept nogil:
    """The high part of -log(2), of so few bits that its product with an integer is exact."""
    return fill(like, -0.693359375) if vec is vf32 else fill(like, -0.693147180369123816490)


cdef inline vec minus_log2_low(const vec* like) noexcept nogil:
    return fill(like, 2.12194440054690583e-4) if vec is vf32 else fill(like, -1.90821492927058770002e-10)


cdef inline vec reduced(vec d, vec lost, vec* f, vec* f_low) noexcept nogil:
    """n + 1.5 * 2^mantissa, with d + lost = n log 2 + f and |f| <= log(2)/2, for d <= 0 and a far smaller `lost`; the
    low part of f is what it lost."""
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
    """(exp(f) - 1 - f) / f^2 of a few vectors, a minimax polynomial for |f| <= log(2)/2: one of f^2 whose coefficients
    are lines, and step by step side by side, since each step waits for the one before."""
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
    const vec* x, const vec* low, vec offset, vec offset_low, vec power, vec least, vec* p, vec* scale, vec* rest,
    Py_ssize_t count
) noexcept nogil:
    """p and a power of two, `scale`, for which scale (1 + p) = power exp(x - offset + low - offset_low) and 1 + p is
    near 1, of at most 4 vectors; for x - offset that are exact and far smaller low parts (no `low` at all if NULL). The
    given power, of two, may be out of range by as much as the exponential is; the scale is 0 where x - offset is `least`
    or less, for which it has just no exponent left. Writes what p lost when its two parts were added, if asked.

    In steps for all vectors, since each waits for the one before and compilers keep the order.
    """
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
    """exp(x - m) of at most 4 vectors x <= m; 0 where that is below the smallest normal number. Writes what the results
    lost, if asked. In steps for all vectors, as `exp_parts`."""
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

    expm1(f) = f + f^2/2 + f^3 (1/6 + f q(f)), q a polynomial that interpolates; all but the last term are pairs.
    """
    cdef vec one = fill(&d, 1)
    cdef vec lowest = exp_lowest(&d) - fill(&d, 1.3862943611198906)
    cdef vec clipped = maximum(lowest, d)
    cdef vec f, f_low, q, square, square_low, cube, cube_low, sixth, sixth_low, g, g_low, power, four, part, result, shifted
    # Below the bound, where d is clipped, the low part of a huge d may itself be huge.
    shifted = reduced(clipped, unless_less(d, lowest, lost), &f, &f_low)
    if vec is vf32:
        q = fill(&d, 0.00019882698337221478)
        q = multiply_add(q, f, fill(&d, 0.0013926183587713495))
        q = multiply_add(q, f, fill(&d, 0.0083333208871696409))
        q = multiply_add(q, f, fill(&d, 0.041666554617204574))
        sixth_low = fill(&d, -4.967053731282552e-9)
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
        sixth_low = fill(&d, 9.251858538542970e-18)
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
    """k log 2 + log(1 + f + f_low), for sqrt(1/2) <= 1 + f < sqrt(2) and a far smaller f_low; writes what it lost.

    With s = f / (2 + f), log1p(f) = f - (f^2/2 - s (f^2/2 + R(s^2))), R a minimax polynomial. The form is that of
    FreeBSD's log1p.
    """
    cdef vec s = f / (fill(&f, 2) + f)
    cdef vec z = s * s
    cdef vec half = fill(&f, 0.5) * f * f
    cdef vec r, log_2, log_2_low, bend, sum_1, sum_2
    if vec is vf32:
        log_2 = k * fill(&f, 0.693138122558594)
        log_2_low = k * fill(&f, 9.05800061445916e-06)
        r = fill(&f, 0.23583540742507851)
        r = multiply_add(r, z, fill(&f, 0.285372400263040985))
        r = multiply_add(r, z, fill(&f, 0.400003361872143129))
        r = multiply_add(r, z, fill(&f, 0.666666656414753555))
    else:
        log_2 = k * fill(&f, 0.693147180369123816490)
        log_2_low = k * fill(&f, 1.90821492927058770002e-10)
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
    """log1p(x + x_rest) for 0 <= x <= 1 and a far smaller x_rest; writes what the result lost."""
    cdef vec bound = fill(&x, 0.41421356237309515)
    cdef vec zero = fill(&x, 0), one = fill(&x, 1), half = fill(&x, 0.5)
    cdef vec f = where_less(bound, x, (x - one) * half, x)
    return log1p_reduced(
        where_less(bound, x, one, zero), f, where_less(bound, x, x_rest * half, x_rest), rest
    )


cdef inline vec log_of_pair(vec x, vec x_low, vec* rest) noexcept nogil:
    """log(x + x_low) for x >= 1 and a far smaller x_low, exact where that is 1 and hardly more; writes what it lost."""
    cdef vec down
    cdef vec k = split(x, &down)
    cdef vec a = x * down - fill(&x, 1)
    cdef vec b = x_low * down
    cdef vec f = a + b
    return log1p_reduced(k, f, (a - f) + b, rest)
