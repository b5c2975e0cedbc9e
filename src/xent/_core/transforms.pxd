# Scaled or soft-capped logits, computed from the given ones as pairs z + low, since exp amplifies rounding errors.

from libc.math cimport INFINITY, exp, fabs, fma, isfinite, tanh

from xent._core.elementary cimport expm1_pair
from xent._core.pairs cimport Pair, finite_or_zero, multiply, single
from xent._core.simd cimport (
    absolute, fill, flip, get, lanes, load_first, multiply_add, multiply_rest, put, residual, store_first, vec,
    where_equal,
)


cdef struct Transform:      # logits z = softcap tanh(scale x / softcap), or scale (x - origin) if softcap is 0
    double scale
    double softcap
    double origin           # 0, unless scale x overflows float64


cdef inline vec low_part(const vec* high, Pair x) noexcept nogil:
    """In all lanes, x minus its value rounded to the type of `high`."""
    return fill(high, x.high - get(high, 0) + x.low)


cdef inline vec cap_logit(vec u, vec u_low, vec cap, vec cap_low, vec* low, vec* cap_slope) noexcept nogil:
    """cap tanh(u / 2), as a pair, and the slope of the tanh.

    tanh(u / 2) = -p / (2 + p), with p = expm1(-u), and its derivative with respect to u / 2 is 4 q / (1 + q)^2 with
    q = exp(-u); here for |u|. Pairs throughout: an error of tanh is up to 2 cap times larger in exp(z).
    """
    cdef vec zero = fill(&u, 0), one = fill(&u, 1), two = fill(&u, 2)
    cdef vec p, p_low, four_q, four_q_low, total, total_low, inverse, inverse_low, square, square_low, t, t_low, slope
    p = expm1_pair(zero - absolute(u), zero - flip(u_low, u), &p_low, &four_q, &four_q_low)
    total = two + p
    total_low = ((two - total) + p) + p_low
    inverse = one / total
    t = (zero - p) * inverse
    t_low = (residual(zero - p, t, total) - multiply_add(t, total_low, p_low)) * inverse
    square = inverse * inverse
    inverse_low = residual(one, inverse, total) - inverse * total_low       # relative to the inverse
    square_low = multiply_add(square + square, inverse_low, multiply_rest(inverse, inverse, square))
    slope = four_q * square
    square_low = multiply_add(four_q, square_low, four_q_low * square)
    cap_slope[0] = slope + (multiply_rest(four_q, square, slope) + square_low)
    p = cap * t
    low[0] = flip(multiply_add(cap, t_low, multiply_add(cap_low, t, multiply_rest(cap, t, p))), u)
    return flip(p, u)


cdef inline bint is_usual(double factor) noexcept nogil:
    """Whether the vector code handles this factor: products with logits are in range, or saturate correctly."""
    return 1e-18 < fabs(factor) < 1e18 or factor == 0


cdef inline bint is_usual_transform(const Transform* wanted) noexcept nogil:
    return is_usual(wanted.scale) and (
        wanted.softcap == 0 or (is_usual(wanted.softcap) and is_usual(2 * wanted.scale / wanted.softcap))
    )


cdef inline void transform_number(
    const vec* x, vec* z, vec* low, vec* cap_slope, Py_ssize_t i, const Transform* wanted
) noexcept nogil:
    """`transform_row` for element i in float64, for extreme scales and softcaps."""
    cdef double y = get(x, i), ratio = wanted.scale / wanted.softcap, u = y, q = 0
    cdef Pair result = single(y)
    if y != -INFINITY:
        result = multiply(single(y - wanted.origin), single(wanted.scale))
    if y != -INFINITY and wanted.softcap != 0:
        if y != 0:
            u = y * ratio if ratio != 0 else y * wanted.scale / wanted.softcap
        q = exp(-2 * fabs(u))
        if not fabs(u) < 1e-9:      # below, the effect of the cap is less than rounding
            result = single(wanted.softcap * tanh(u))
    put(z, i, result.high)
    put(low, i, (result.high - get(z, i)) + result.low if isfinite(get(z, i)) and isfinite(result.low) else 0.0)
    if wanted.softcap != 0:
        put(cap_slope, i, 4 * q / ((1 + q) * (1 + q)))


cdef inline void transform_row(
    const vec* x, vec* z, vec* low, vec* cap_slope, Py_ssize_t n, const Transform* wanted
) noexcept nogil:
    """z + low = transformed x; -inf stays -inf. dz/dx = scale cap_slope; without a softcap, cap_slope is 1 and not
    written."""
    cdef Py_ssize_t full = n // lanes(x), tail = n - n // lanes(x) * lanes(x), i
    cdef bint caps = wanted.softcap != 0, has_origin = wanted.origin != 0
    cdef Pair factor = single(wanted.scale)
    cdef vec scale, scale_low, cap, cap_low, y, u, rest, slope, zero = fill(x, 0), bottom = fill(x, -INFINITY)
    cdef vec origin = fill(x, wanted.origin)
    if caps:
        factor.high = 2 * wanted.scale / wanted.softcap
        factor.low = fma(-factor.high, wanted.softcap, 2 * wanted.scale) / wanted.softcap
    if not is_usual_transform(wanted):
        for i in range(n):
            transform_number(x, z, low, cap_slope, i, wanted)
        return
    scale = fill(x, factor.high)
    scale_low = low_part(&scale, factor)
    cap = fill(x, wanted.softcap)
    cap_low = low_part(&cap, single(wanted.softcap))
    for i in range(full + (tail > 0)):
        y = x[i] if i < full else load_first(x + full, tail, 0)
        if has_origin:
            y = y - origin
        u = y * scale
        rest = finite_or_zero(multiply_add(y, scale_low, multiply_rest(y, scale, u)))
        if caps:
            u = cap_logit(u, rest, cap, cap_low, &rest, &slope)
            slope = where_equal(y, bottom, zero, slope)
            if i < full:
                cap_slope[i] = slope
            else:
                store_first(cap_slope + full, tail, slope)
        if caps or wanted.scale <= 0:
            u = where_equal(y, bottom, bottom, u)
        if i < full:
            z[i] = u
            low[i] = rest
        else:
            store_first(z + full, tail, u)
            store_first(low + full, tail, rest)
