# exp, expm1 and log, of vectors and of float64 numbers. At each: where it holds, what it loses, and where its
# coefficients come from. Polynomials lose far less than a rounding; results are exact to the roundings of the last
# operations, and most functions write those as a low part as well.

from libc.math cimport log

from xent._core.pairs cimport Pair, single, two_sum
from xent._core.simd cimport (
    fill, forced_void, maximum, multiply_add, multiply_rest, scaled, split, unless_less, vec, vf32, vf64,
    where_less,
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

cdef extern from "_core/powers.h" nogil:
    const double xent_powers_f32[]
    const double xent_powers_f64[]
    int XENT_TABLE_BITS_f32
    int XENT_TABLE_BITS_f64
    int XENT_DEGREE_f32
    int XENT_DEGREE_f64
    void xent_load_table_f32(vf32* entries, vf32* lost)
    void xent_load_table_f64(vf64* entries, vf64* lost)
    vf32 xent_index_f32(vf32 k)
    vf64 xent_index_f64(vf64 k)
    vf32 xent_pick_f32(vf32 index, const vf32* table)
    vf64 xent_pick_f64(vf64 index, const vf64* table)
    vf32 xent_raised_f32(vf32 entry, vf32 grid)
    vf64 xent_raised_f64(vf64 entry, vf64 grid)

cdef enum:                      # the vectors of a shift: what `exp_parts` needs for a row, or for each of several
    OFFSET = 0                  # subtracted from logits first
    OFFSET_LOW = 1              # subtracted from their low parts
    GRID = 2                    # a large number minus the exponent: added to another, it rounds that to the table's grid
    LEAST = 3                   # the first x - offset for which no exponent is left
    ENTRIES = 4                 # the table of powers of two, up to two vectors
    LOST = 6                    # what its entries lost
    SHIFT_VECTORS = 8


cdef inline double exp_tail(double d, const vec* like) noexcept nogil:
    """exp(d) - 1 - d for |d| <= log(2)/2, wrong by at most 2^-32 for float32, 2^-57 for float64: its series up to d^8
    or d^13, in pairs of terms, which do not wait for one another."""
    cdef double d2 = d * d, d4 = d * d * (d * d)
    cdef double low = (0.5 + d * (1.0 / 6)) + d2 * (1.0 / 24 + d * (1.0 / 120))
    if vec is vf32:
        return d2 * (low + d4 * ((1.0 / 720 + d * (1.0 / 5040)) + d2 * (1.0 / 40320)))
    return d2 * (low + d4 * (
        ((1.0 / 720 + d * (1.0 / 5040)) + d2 * (1.0 / 40320 + d * (1.0 / 362880)))
        + d4 * ((1.0 / 3628800 + d * (1.0 / 39916800)) + d2 * (1.0 / 479001600 + d * (1.0 / 6227020800.0)))
    ))


cdef inline Pair minus_log(double x) noexcept nogil:
    """-log(x) as the C library has it; 0 (not -0) for 1."""
    return single(0 - log(x))


cdef inline Pair log_pair(Pair x) noexcept nogil:
    """log(x) for x > 0, as exact as the C library's log: the low part through two terms of log(1 + low / high)."""
    cdef double correction = x.low / x.high
    return two_sum(log(x.high), correction - 0.5 * correction * correction)


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


cdef inline forced_void step_of_excess(
    const vec* d, double at_f32, double at_f64, vec* q, Py_ssize_t count
) noexcept nogil:
    """q = q d + a coefficient."""
    cdef Py_ssize_t j
    for j in range(count):
        q[j] = multiply_add(q[j], d[j], fill(d, at_f32 if vec is vf32 else at_f64))


cdef inline forced_void excess_polynomials(const vec* d, vec* q, Py_ssize_t count) noexcept nogil:
    """q = (exp(d) - 1 - d) / d^2 of up to 4 vectors, for |d| <= 1.

    Minimax polynomials of degree 7 (float32) and 13 (float64), wrong by at most 2^-26.6 and 2^-54.2 of the value, found
    as in `exp_polynomials`. In steps, as there.
    """
    cdef Py_ssize_t j
    if vec is vf32:
        for j in range(count):
            q[j] = fill(d, 2.772282869045739e-06)
    else:
        for j in range(count):
            q[j] = fill(d, 7.679721343855964e-13)
        step_of_excess(d, 0, 1.1638481624306464e-11, q, count)
        step_of_excess(d, 0, 1.6059833989629884e-10, q, count)
        step_of_excess(d, 0, 2.0874456917332125e-09, q, count)
        step_of_excess(d, 0, 2.505209084850624e-08, q, count)
        step_of_excess(d, 0, 2.755733482929975e-07, q, count)
        step_of_excess(d, 0, 2.755731935186589e-06, q, count)
    step_of_excess(d, 2.535482963139657e-05, 2.4801587247336444e-05, q, count)
    step_of_excess(d, 0.0001984402333619073, 0.00019841269840858297, q, count)
    step_of_excess(d, 0.001388545148074627, 0.0013888888888978507, q, count)
    step_of_excess(d, 0.00833331048488617, 0.008333333333333878, q, count)
    step_of_excess(d, 0.04166673496365547, 0.041666666666666116, q, count)
    step_of_excess(d, 0.1666666716337204, 0.16666666666666666, q, count)
    step_of_excess(d, 0.5, 0.5, q, count)


cdef inline double table_grid(const vec* like) noexcept nogil:
    """Added to a smaller number, it rounds that to a multiple of 1 / N, whose N-fold is in the lowest bits of the sum."""
    return 12582912.0 / (1 << XENT_TABLE_BITS_f32) if vec is vf32 else 6755399441055744.0 / (1 << XENT_TABLE_BITS_f64)


cdef inline forced_void load_table(vec* entries, vec* lost) noexcept nogil:
    if vec is vf32:
        xent_load_table_f32(entries, lost)
    else:
        xent_load_table_f64(entries, lost)


cdef inline vec table_index(vec k) noexcept nogil:
    if vec is vf32:
        return xent_index_f32(k)
    else:
        return xent_index_f64(k)


cdef inline vec pick(vec index, const vec* table) noexcept nogil:
    if vec is vf32:
        return xent_pick_f32(index, table)
    else:
        return xent_pick_f64(index, table)


cdef inline vec raised(vec entry, vec grid) noexcept nogil:
    """`entry` times the power of two of a number on the grid."""
    if vec is vf32:
        return xent_raised_f32(entry, grid)
    else:
        return xent_raised_f64(entry, grid)


cdef inline double coefficient(const vec* like, int i) noexcept nogil:
    return xent_powers_f32[i] if vec is vf32 else xent_powers_f64[i]


cdef inline forced_void step_of_horner(const vec* f, int i, int degree, vec* q, Py_ssize_t count) noexcept nogil:
    """q = q f + coefficient i, unless that is beyond the polynomial, or its last one, with which q begins."""
    cdef Py_ssize_t j
    if i == degree - 1:
        for j in range(count):
            q[j] = fill(f, coefficient(f, i))
    elif i < degree - 1:
        for j in range(count):
            q[j] = multiply_add(q[j], f[j], fill(f, coefficient(f, i)))


cdef inline forced_void power_polynomials(const vec* f, vec* q, Py_ssize_t count) noexcept nogil:
    """q = (2^f - 1) / f of up to 4 vectors, step by step for all of them, since each step waits for the one before."""
    cdef int degree = XENT_DEGREE_f32 if vec is vf32 else XENT_DEGREE_f64
    step_of_horner(f, 7, degree, q, count)
    step_of_horner(f, 6, degree, q, count)
    step_of_horner(f, 5, degree, q, count)
    step_of_horner(f, 4, degree, q, count)
    step_of_horner(f, 3, degree, q, count)
    step_of_horner(f, 2, degree, q, count)
    step_of_horner(f, 1, degree, q, count)
    step_of_horner(f, 0, degree, q, count)


cdef inline vec log2_e_high(const vec* like) noexcept nogil:
    return fill(like, 1.44269502162933349609375) if vec is vf32 else fill(like, LOG2_E)


cdef inline vec log2_e_low(const vec* like) noexcept nogil:
    """log2(e) minus its rounded value; the sum is wrong by 2^-50 in float32, by 2^-109 in float64."""
    return fill(like, 1.92596299112661746e-8) if vec is vf32 else fill(like, 2.0355273740931033e-17)


cdef inline bint has_table(const vec* like) noexcept nogil:
    return XENT_TABLE_BITS_f32 > 0 if vec is vf32 else XENT_TABLE_BITS_f64 > 0


cdef inline forced_void power_parts(
    const vec* y, const vec* low, const vec* n, const vec* index, const vec* shift, vec* p, Py_ssize_t count
) noexcept nogil:
    """`exp_parts` with a table: from y = x - offset, nearest to n in units of log 2."""
    cdef vec f[4]
    cdef vec q[4]
    cdef Py_ssize_t j
    for j in range(count):      # the first product and n cancel before anything is rounded
        f[j] = multiply_add(y[j], log2_e_low(y), multiply_rest(y[j], log2_e_high(y), n[j]))
        if low is not NULL:
            f[j] = multiply_add(low[j], log2_e_high(y), f[j])
    power_polynomials(f, q, count)
    for j in range(count):
        p[j] = multiply_add(q[j], f[j], pick(index[j], shift + LOST))


cdef inline forced_void expm1_parts(
    const vec* y, const vec* low, const vec* n, vec* p, Py_ssize_t count
) noexcept nogil:
    """`exp_parts` without a table. n is an integer of few bits, whose product with as few bits of log(2) is exact."""
    cdef vec high[4]
    cdef vec lower[4]
    cdef vec f[4]
    cdef vec square[4]
    cdef vec q[4]
    cdef Py_ssize_t j
    for j in range(count):
        high[j] = multiply_add(n[j], minus_log2_high(y), y[j])
        lower[j] = n[j] * minus_log2_low(y)
        if low is not NULL:
            lower[j] = lower[j] + low[j]
        f[j] = high[j] + lower[j]
    for j in range(count):
        square[j] = f[j] * f[j]
        lower[j] = (high[j] - f[j]) + lower[j]
    exp_polynomials(f, square, q, count)
    for j in range(count):
        p[j] = multiply_add(square[j], q[j], lower[j]) + f[j]


cdef inline forced_void exp_parts(
    const vec* x, const vec* low, bint has_offset, const vec* shift, vec* scale, vec* p, Py_ssize_t count
) noexcept nogil:
    """2^-exponent exp(x - offset + low - offset_low) of `count` <= 4 vectors in two factors, scale (1 + p): scale is an
    entry of the table times a power of two; |p| <= 0.42 / N. The names are those of the vectors of `shift`.

    x - offset must be exact, and `low` (NULL if there is none) far smaller. Without `has_offset` the offset is 0. The
    scale is 0 where x - offset <= least, and NaN stays NaN.

    x - m itself is never formed: the whole part of x log2(e) - exponent is rounded off to the grid of the table,
    and the rest, which is small, is computed from x. In steps, as in `power_polynomials`.
    """
    cdef vec y[4]
    cdef vec n[4]
    cdef vec k[4]
    cdef vec index[4]
    cdef vec lower[4]
    cdef vec total
    cdef Py_ssize_t j
    for j in range(count):
        y[j] = maximum(shift[LEAST], x[j] - shift[OFFSET] if has_offset else x[j])
        if low is not NULL:     # where the scale is 0 it may be of any size
            lower[j] = unless_less(x[j] - shift[OFFSET], shift[LEAST], low[j] - shift[OFFSET_LOW])
            total = y[j] + lower[j]
            lower[j] = (y[j] - total) + lower[j]
            y[j] = total
    for j in range(count):
        k[j] = multiply_add(y[j], log2_e_high(x), shift[GRID])
    for j in range(count):
        n[j] = k[j] - shift[GRID]
    for j in range(count):
        index[j] = table_index(k[j])
        scale[j] = raised(pick(index[j], shift + ENTRIES), k[j])
    if has_table(x):
        power_parts(y, low if low is NULL else <vec*>lower, n, index, shift, p, count)
    else:
        expm1_parts(y, low if low is NULL else <vec*>lower, n, p, count)


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
