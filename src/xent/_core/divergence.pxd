# How far the softmax q of one row of logits, the reference, is from p, that of another, over the same classes.
#
# With d = x - ref, c = logsumexp(x) - logsumexp(ref) and delta = d - c,
#
#     KL(q || p) = sum of q (exp(delta) - 1 - delta) where q > 0, + sum of p where q = 0
#
# (a) Every term is >= 0. The usual sum of q (log q - log p) is the same number, but its terms have both signs and
#     cancel: what is left of them is noise if p and q are close.
# (b) An estimate c0 of c is enough. Let A be the sum above with delta = d - c0, and B the sum of p exp(c - c0),
#     minus 1, computed as the sum of q (exp(delta) - 1), + p where q = 0. Then c = c0 + log1p(B), and
#     KL = A - (B - log1p(B)), where the second term is about B^2 / 2. B is as small as c0 is good. If the second term
#     is not small beside A, as for rows that agree but for classes of hardly any probability, all is repeated with the
#     better c.
# (c) Classes come in pieces. Distributions over groups of classes have the same formula, with the shares of the groups
#     in the place of q and p, and the c of each group in the place of d; the divergence within each group is added,
#     times its share. So a row is read once, in order.
#
# Of c only the log ratio is kept, what is left of it without the maxima of the two rows, whose difference may overflow.

from libc.math cimport INFINITY, NAN, fabs, isfinite, isnan, ldexp, log1p, rint

from xent._core.elementary cimport LN2_HIGH, LN2_LOW, LOG2_E, excess_polynomials, log_pair
from xent._core.exponentials cimport EXPONENT_HEADROOM, HIGH, LOW, Peak, RowSum, no_peak, scale_of, small_exp
from xent._core.pairs cimport (
    Pair, accumulate, add, add_pair, divide, finite_or_zero, multiply, one_more, single, two_sum, value,
)
from xent._core.rows cimport multiply_or_zero, suits_terms
from xent._core.simd cimport (
    absolute, fill, forced_void, get, lanes, load_first, multiply_add, put, store_first, vec, vf64, where_equal,
    where_less,
)


cdef struct Mass:               # of the classes of a row that were seen so far
    Peak peak                   # the largest logit; -inf if none of the classes can occur
    double order                # by which that is the largest, however transformed logits are rounded (see `order_of`)
    Pair rest                   # sum of exp(x - m) over all but that; NaN where there are no probabilities
    bint has_nan


cdef struct Compared:           # the classes of two rows that were seen so far
    Mass logits
    Mass reference
    Pair log_ratio              # of sum exp(x - m) to that of the reference: c without the maxima; if there are both
    double divergence           # of the distributions over these classes


cdef inline Mass no_mass() noexcept nogil:
    cdef Mass mass
    mass.peak, mass.order, mass.rest, mass.has_nan = no_peak(), -INFINITY, single(0), False
    return mass


cdef inline Compared nothing_compared() noexcept nogil:
    cdef Compared nothing
    nothing.logits = nothing.reference = no_mass()
    nothing.log_ratio, nothing.divergence = single(0), 0
    return nothing


cdef inline Pair peak_of(const Mass* mass) noexcept nogil:
    cdef Pair peak
    peak.high, peak.low = mass.peak.high, mass.peak.low
    return peak


cdef inline bint is_empty(const Mass* mass) noexcept nogil:
    return mass.peak.high == -INFINITY


cdef inline bint is_nothing(const Compared* both) noexcept nogil:
    """Whether none of the classes can occur; NaN is something."""
    return (
        is_empty(&both.logits) and is_empty(&both.reference) and not both.logits.has_nan and not both.reference.has_nan
    )


cdef inline bint has_probabilities(const Mass* mass) noexcept nogil:
    return isfinite(mass.peak.high) and not isnan(mass.rest.high)


cdef inline Pair log_sum_of(const Mass* mass) noexcept nogil:
    """log1p(r)"""
    return log_pair(one_more(mass.rest))


cdef inline Pair difference_of(Pair x, Pair y) noexcept nogil:
    cdef Pair result = two_sum(x.high, -y.high)
    result.low += x.low - y.low
    return result


cdef inline Pair gap_between(const Mass* low, const Mass* high) noexcept nogil:
    """How far the maximum of one is below that of the other."""
    return difference_of(peak_of(high), peak_of(low))


cdef inline Pair exp_minus(Pair d) noexcept nogil:
    """exp(-d) for d >= 0, or below by a rounding; to about 2^-57."""
    cdef double k = rint(d.high * LOG2_E)
    cdef Pair rest, result
    if not k < 1100:
        return single(0)
    rest = two_sum(k * LN2_HIGH, -d.high)
    rest = two_sum(rest.high, rest.low + (k * LN2_LOW - d.low))
    result = small_exp(rest.high, rest.low, <vf64*>NULL)
    result.high, result.low = ldexp(result.high, -<int>k), ldexp(result.low, -<int>k)
    return result


# --- masses ----------------------------------------------------------------------------------------------------------


cdef inline bint is_larger(const Mass* a, const Mass* b) noexcept nogil:
    """Whether the maximum of a is larger than that of b."""
    return a.order > b.order


cdef inline Mass join_masses(const Mass* first, const Mass* second) noexcept nogil:
    """The mass of two groups of classes; those of the second come after the others."""
    cdef bint later = is_larger(second, first)
    cdef const Mass* large = second if later else first
    cdef const Mass* small = first if later else second
    cdef Mass both = large[0]
    both.has_nan = first.has_nan or second.has_nan
    if isnan(small.rest.high):
        both.rest = single(NAN)
    elif not is_empty(small):
        add_pair(&both.rest, multiply(exp_minus(gap_between(small, large)), one_more(small.rest)))
    return both


cdef inline double share_of(const Mass* part, const Mass* whole) noexcept nogil:
    """The probability of a group of classes."""
    if is_empty(part):
        return 0
    return value(divide(
        multiply(exp_minus(gap_between(part, whole)), one_more(part.rest)), one_more(whole.rest)
    ))


cdef inline Pair estimate_log_ratio(const Compared* both) noexcept nogil:
    """log1p(r) of the logits minus that of the reference."""
    cdef Pair ratio = difference_of(log_sum_of(&both.logits), log_sum_of(&both.reference))
    return two_sum(ratio.high, ratio.low)


# --- divergences -----------------------------------------------------------------------------------------------------


cdef enum:
    MOST_PASSES = 12            # over the classes, each with a c that is better by up to 16 digits


cdef struct ABSums:             # A and B of the comment at the top
    Pair a
    Pair b


cdef inline double excess(double d) noexcept nogil:
    """exp(d) - 1 - d for |d| <= 1"""
    cdef vf64 x = fill(<vf64*>NULL, d), q
    excess_polynomials(&x, &q, 1)
    return d * d * get(&q, 0)


cdef inline void add_class(double p, double q, double delta, ABSums* sums) noexcept nogil:
    """A += q (exp(delta) - 1 - delta), B += q (exp(delta) - 1); where q is 0, both += p. Where exp(delta) is no small
    change, p is more exact than q exp(delta)."""
    cdef double more
    if fabs(delta) <= 1:
        more = q * excess(delta)
        add(&sums.b, more + q * delta)
    else:
        more = (p - q) - q * delta if q > 0 else p
        add(&sums.b, p - q)
    add(&sums.a, more)


cdef inline double beyond_log(double b) noexcept nogil:
    """b - log1p(b) for b > -1"""
    return b * b * (0.5 - b * (1.0 / 3 - b * 0.25)) if fabs(b) < 1e-4 else b - log1p(b)


cdef inline bint conclude(Compared* both, Pair log_ratio, double a, double b, double within) noexcept nogil:
    """The divergence from A and B, with `within`, that inside groups, and a better log ratio. Returns whether so much
    of A was cancelled that both should be computed again with that."""
    cdef double less
    if not fabs(b) < 0.5:
        b = 0           # the rounding errors of large terms
    less = beyond_log(b)
    both.log_ratio = log_ratio
    add_pair(&both.log_ratio, single(log1p(b)))
    both.divergence = within + (0.0 if a <= less else a - less)
    return 4 * less > a + within


cdef inline void add_group(
    const Compared* group, const Compared* both, Pair log_ratio, ABSums* sums, double* within
) noexcept nogil:
    """A group of classes as one class, and the divergence within it, times its share."""
    cdef double p = share_of(&group.logits, &both.logits), q = share_of(&group.reference, &both.reference)
    cdef Pair delta
    if is_empty(&group.reference):
        q = 0
    elif not isfinite(group.divergence):
        within[0] = INFINITY
        return
    if q == 0:
        add_class(p, 0, INFINITY, sums)
        return
    within[0] += q * group.divergence
    delta = difference_of(
        gap_between(&group.reference, &both.reference), gap_between(&group.logits, &both.logits)
    )
    add_pair(&delta, difference_of(group.log_ratio, log_ratio))
    add_class(p, q, value(delta), sums)


cdef inline Compared join_compared(const Compared* first, const Compared* second) noexcept nogil:
    """Two groups of classes together; those of the second come after the others."""
    cdef Compared both
    cdef Pair log_ratio
    cdef ABSums sums
    cdef double within
    cdef Py_ssize_t i
    if is_nothing(first):
        return second[0]
    if is_nothing(second):
        return first[0]
    both.logits = join_masses(&first.logits, &second.logits)
    both.reference = join_masses(&first.reference, &second.reference)
    both.log_ratio, both.divergence = single(0), 0
    if is_empty(&both.reference):
        return both
    if not (has_probabilities(&both.logits) and has_probabilities(&both.reference)):
        both.divergence = INFINITY      # without classes that can occur; NaN is found in the masses
        return both
    log_ratio = estimate_log_ratio(&both)
    for i in range(MOST_PASSES):
        sums.a = sums.b = single(0)
        within = 0
        add_group(first, &both, log_ratio, &sums, &within)
        add_group(second, &both, log_ratio, &sums, &within)
        if not conclude(&both, log_ratio, value(sums.a), value(sums.b), within):
            break
        log_ratio = both.log_ratio
    return both


cdef inline double divergence_of(const Compared* row) noexcept nogil:
    """The divergence of whole rows; NaN if one of them has no probabilities."""
    return row.divergence if has_probabilities(&row.logits) and has_probabilities(&row.reference) else NAN


# --- one piece -------------------------------------------------------------------------------------------------------


cdef struct TermPiece:          # n classes of both rows; (*) may be NULL
    const double* x             # logits
    const double* low           # (*) their low parts
    const double* ref           # logits of the reference
    const double* ref_low       # (*)
    double* e                   # terms of the logits: exp(x - m) in units of `sums.unit`
    double* q                   # terms of the reference
    Py_ssize_t n
    RowSum sums                 # of the terms of the logits
    RowSum ref_sums


cdef enum:                      # the vectors that are the same for all classes
    CENTRE = 0
    CENTRE_LOW = 1
    RATIO = 2                   # terms of the logits times this are in units of those of the reference
    COMPARE_VECTORS = 3


cdef inline forced_void load_four(
    const double* row, Py_ssize_t i, Py_ssize_t n, double otherwise, vec* x
) noexcept nogil:
    """Vectors i to i + 4 of a row, filled up beyond its end; 0 if there is no row."""
    cdef Py_ssize_t j, count
    for j in range(4):
        count = max(0, min(lanes(x), n - (i + j) * lanes(x)))
        if row is NULL:
            x[j] = fill(x, 0)
        elif count == lanes(x):
            x[j] = (<const vec*>row)[i + j]
        else:
            x[j] = load_first(<const vec*>row + i + j, count, otherwise)


cdef inline forced_void find_deltas(
    const vec* x, const vec* x_low, const vec* r, const vec* r_low, const vec* constants, vec* delta
) noexcept nogil:
    """delta = x - ref - c of four vectors; x_low and r_low may be NULL. Where the reference is -inf it is 2, with which
    q = 0 adds p."""
    cdef Py_ssize_t j
    cdef vec d, part, lost, bottom = fill(x, -INFINITY), two = fill(x, 2)
    for j in range(4):
        d = x[j] - r[j]
        part = d - x[j]
        lost = finite_or_zero((x[j] - (d - part)) - (r[j] + part))
        if x_low is not NULL:
            lost = lost + (x_low[j] - r_low[j])
        delta[j] = where_equal(r[j], bottom, two, (d - constants[CENTRE]) + (lost - constants[CENTRE_LOW]))


cdef inline forced_void add_excess(
    const vec* delta, const vec* e, const vec* q, const vec* constants, vec* a, vec* t
) noexcept nogil:
    """a += q (exp(delta) - 1 - delta) and t += q delta of four vectors, in units of q. Near 0 the difference is a
    polynomial; elsewhere it is p - q - q delta."""
    cdef Py_ssize_t j
    cdef vec one = fill(delta, 1), zero = fill(delta, 0), far
    cdef vec poly[4]
    cdef vec product[4]
    cdef vec term[4]
    excess_polynomials(delta, poly, 4)
    for j in range(4):
        product[j] = q[j] * delta[j]
    for j in range(4):
        term[j] = product[j] * (delta[j] * poly[j])
        far = multiply_add(e[j], constants[RATIO], zero - q[j]) - product[j]
        term[j] = where_less(one, absolute(delta[j]), far, term[j])
    accumulate((term[0] + term[1]) + (term[2] + term[3]), &a[HIGH], &a[LOW])
    accumulate((product[0] + product[1]) + (product[2] + product[3]), &t[HIGH], &t[LOW])


cdef inline forced_void compare_fours(
    const TermPiece* piece, bint has_low, const vec* constants, vec* a, vec* t
) noexcept nogil:
    """The vectors that come in fours."""
    cdef Py_ssize_t i
    cdef const vec* low = <const vec*>piece.low
    cdef const vec* ref_low = <const vec*>piece.ref_low
    cdef vec delta[4]
    for i in range(0, piece.n // (4 * lanes(a)) * 4, 4):
        find_deltas(
            <const vec*>piece.x + i, low + i if has_low else <const vec*>NULL, <const vec*>piece.ref + i,
            ref_low + i if has_low else <const vec*>NULL, constants, delta
        )
        add_excess(delta, <const vec*>piece.e + i, <const vec*>piece.q + i, constants, a, t)


cdef inline forced_void compare_rest(const TermPiece* piece, const vec* constants, vec* a, vec* t) noexcept nogil:
    """The last vectors."""
    cdef Py_ssize_t i = piece.n // (4 * lanes(a)) * 4
    cdef vec x[4]
    cdef vec x_low[4]
    cdef vec r[4]
    cdef vec r_low[4]
    cdef vec delta[4]
    if i * lanes(a) == piece.n:
        return
    load_four(piece.x, i, piece.n, 0, x)
    load_four(piece.low, i, piece.n, 0, x_low)
    load_four(piece.ref, i, piece.n, -INFINITY, r)
    load_four(piece.ref_low, i, piece.n, 0, r_low)
    find_deltas(x, x_low, r, r_low, constants, delta)
    load_four(piece.e, i, piece.n, 0, x)
    load_four(piece.q, i, piece.n, 0, r)
    add_excess(delta, x, r, constants, a, t)


cdef inline forced_void compare_terms(const TermPiece* piece, const vec* constants, vec* a, vec* t) noexcept nogil:
    if piece.low is NULL:
        compare_fours(piece, False, constants, a, t)
    else:
        compare_fours(piece, True, constants, a, t)
    compare_rest(piece, constants, a, t)


cdef inline void set_constants(
    const TermPiece* piece, const Compared* masses, Pair log_ratio, vec* constants
) noexcept nogil:
    cdef Pair c0 = gap_between(&masses.reference, &masses.logits)
    cdef double high
    add_pair(&c0, log_ratio)
    constants[CENTRE] = fill(constants, c0.high)
    high = get(constants + CENTRE, 0)
    constants[CENTRE_LOW] = fill(constants, c0.high - high + c0.low)
    constants[RATIO] = fill(constants, value(divide(scale_of(&piece.sums), scale_of(&piece.ref_sums))))


cdef inline Pair lift(Pair unit) noexcept nogil:
    unit.high, unit.low = ldexp(unit.high, EXPONENT_HEADROOM), ldexp(unit.low, EXPONENT_HEADROOM)
    return unit


cdef inline Pair lifted_factor(const Mass* part, const Mass* row, const RowSum* sums) noexcept nogil:
    """2^EXPONENT_HEADROOM times what makes probabilities of a row of the terms of a part of it."""
    return multiply(multiply(exp_minus(gap_between(part, row)), lift(sums.unit)), divide(single(1), one_more(row.rest)))


cdef inline forced_void subtract_terms(
    const vec* e, Pair p_lifted, const vec* q, Pair q_lifted, double weight, vec* out, Py_ssize_t n
) noexcept nogil:
    """out = weight (p - q), from terms and factors. Both products are rounded alike, so that equal terms give 0."""
    cdef Py_ssize_t full = n // lanes(e), tail = n - n // lanes(e) * lanes(e), i
    cdef double unit = 1.0 / (1LL << EXPONENT_HEADROOM)
    cdef double p_factor = value(multiply(p_lifted, single(weight)))
    cdef double q_factor = value(multiply(q_lifted, single(weight)))
    cdef vec f = fill(e, p_factor * unit), g = fill(e, q_factor * unit)
    if not (suits_terms(e, p_factor) and suits_terms(e, q_factor)):
        for i in range(n):
            put(out, i, multiply_or_zero(
                get(e, i) * unit * value(p_lifted) - get(q, i) * unit * value(q_lifted), weight
            ))
        return
    for i in range(full):
        out[i] = e[i] * f - q[i] * g
    if tail:
        store_first(out + full, tail, load_first(e + full, tail, 0) * f - load_first(q + full, tail, 0) * g)
