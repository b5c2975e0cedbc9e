# The maximum of a row, the exponentials of its distances to it, and their sum: n contiguous elements, read as
# n // lanes vectors and a shorter last one. Logits x are numbers, or pairs x + low where they were computed (see
# transforms.pxd); `low` is NULL otherwise.
#
# A row that does not fit the scratch comes in pieces. Each piece but the last is a multiple of FOLD_VECTORS vectors, and
# sums go on from piece to piece, so that a result has the same bits however the row is cut.
#
# A sum of vectors is an array of two: sum[HIGH], and in sum[LOW] what its roundings lost.

from libc.math cimport INFINITY, fabs, fma, log, rint

from xent._core.elementary cimport (
    ENTRIES, GRID, LEAST, LN2, LN2_HIGH, LN2_LOW, LOG2_E, LOST, OFFSET, OFFSET_LOW, SHIFT_VECTORS, exp_parts,
    exp_tail, exponent_range, has_table, load_table, table_grid,
)
from xent._core.pairs cimport Pair, add_larger, add_pair, multiply, one_more, single, sum_pairs, two_sum
from xent._core.simd cimport (
    any_equal, element, fill, first_equal_of_four, forced_void, get, lanes, load_first, max_lanes, maximum,
    multiply_add, store_first, vec, vf32, where_equal, where_less, without_lane,
)
from xent._core.streaming cimport (
    LOG_PROBABILITIES, PROBABILITIES, SCALE, FinishKind, Traffic, curve_four, finish, move_four,
)

cdef enum:
    HIGH = 0
    LOW = 1
    EXPONENT_HEADROOM = 32      # exponentials of a row are up to 2^32, so that the smallest are no subnormal numbers
    FOLD_VECTORS = 32           # after so many, what exceeds the powers of the table goes to the exact sum


cdef struct Peak:
    double high                 # m, the largest element that is not NaN
    double low
    Py_ssize_t index            # k, the first place of m


cdef struct Shift:              # how the exponentials of a row are computed: as terms 2^-exponent exp(x_c - offset)
    Peak peak                   # m
    double offset               # m where it is large and subtracting it is exact, or 0
    double offset_low
    double exponent


cdef struct RowSum:
    Pair rest                   # r; NaN where the row has no probabilities
    Pair inverse                # 1 / (1 + r)
    Pair log_sum                # log1p(r)
    Pair unit                   # of the terms: e_c = exp(x_c - m) is `unit` times the term of c


# --- the maximum -----------------------------------------------------------------------------------------------------

cdef enum:                      # the vectors of a search: for each lane,
    BEST = 0                    # the largest element
    WHERE = 1                   # minus the number of the four vectors that had it first
    COUNTER = 2                 # minus the number of the next four
    SEARCH_VECTORS = 3


cdef inline forced_void start_search(vec* search) noexcept nogil:
    search[BEST] = fill(search, -INFINITY)
    search[WHERE] = search[COUNTER] = fill(search, 0)


cdef inline forced_void search_vector(
    vec x, bint finds_index, vec* best, vec* where, vec* counter
) noexcept nogil:
    """Take the largest of four vectors, or one of the last vectors of a row, into account. NaN is passed over, with
    what it hides of its lane; a row with NaN has no result but NaN."""
    if finds_index:
        where[0] = where_less(best[0], x, counter[0], where[0])
        counter[0] = counter[0] + fill(best, -1)
    best[0] = maximum(x, best[0])


cdef inline vec largest_of_four(const vec* x) noexcept nogil:
    return maximum(maximum(x[0], x[1]), maximum(x[2], x[3]))


cdef inline forced_void search_rest(const vec* x, Py_ssize_t n, bint finds_index, vec* search) noexcept nogil:
    """The vectors after the last four."""
    cdef Py_ssize_t i, count
    for i in range(n // (4 * lanes(x)) * 4, (n + lanes(x) - 1) // lanes(x)):
        count = n - i * lanes(x)
        search_vector(
            load_first(x + i, count, -INFINITY) if count < lanes(x) else x[i], finds_index, &search[BEST],
            &search[WHERE], &search[COUNTER]
        )


cdef inline Py_ssize_t find_index(const vec* x, Py_ssize_t first, Py_ssize_t n, double wanted) noexcept nogil:
    """The first index from `first` on at which x is `wanted`; the last one if there is none, as where another thread
    changes x meanwhile: callers address memory by it."""
    cdef Py_ssize_t i
    cdef vec w = fill(x, wanted)
    if first + 4 * lanes(x) <= n and has_equal(element(x, first), w):
        return first + first_equal_of_four(element(x, first), w)
    for i in range(first, n):
        if get(x, i) == wanted:
            return i
    return n - 1


cdef inline bint has_equal(const vec* x, vec w) noexcept nogil:
    """Whether one of four vectors has an element equal to w."""
    return (
        any_equal(x[0], w) or any_equal(x[1], w) or any_equal(x[2], w) or any_equal(x[3], w)
    )


cdef inline Peak end_search(const vec* search, const vec* x, Py_ssize_t n, bint finds_index) noexcept nogil:
    """The largest element of a row that was searched, and its first place."""
    cdef Peak peak
    cdef Py_ssize_t fours = n // (4 * lanes(x)), place
    peak.high = max_lanes(search[BEST])
    peak.low = 0
    peak.index = -1
    if finds_index and peak.high > -INFINITY:
        place = <Py_ssize_t>-max_lanes(
            where_equal(search[BEST], fill(search, peak.high), search[WHERE], fill(search, -INFINITY))
        )
        # After the last four, vectors count one by one.
        place = 4 * place if place <= fours else 3 * fours + place
        peak.index = find_index(x, place * lanes(x), n, peak.high)
    return peak


cdef inline Peak find_peak_of(const vec* x, Py_ssize_t n, bint finds_index) noexcept nogil:
    cdef Py_ssize_t i
    cdef vec search[SEARCH_VECTORS]
    cdef vec best, where, counter
    start_search(search)
    best = search[BEST]
    where = search[WHERE]
    counter = search[COUNTER]
    for i in range(0, n // (4 * lanes(x)) * 4, 4):
        search_vector(largest_of_four(x + i), finds_index, &best, &where, &counter)
    search[BEST] = best
    search[WHERE] = where
    search[COUNTER] = counter
    search_rest(x, n, finds_index, search)
    return end_search(search, x, n, finds_index)


cdef inline Peak no_peak() noexcept nogil:
    cdef Peak peak
    peak.high, peak.low, peak.index = -INFINITY, 0, -1
    return peak


cdef inline void raise_peak(Peak* peak, const vec* x, const vec* low, Py_ssize_t start, Py_ssize_t n) noexcept nogil:
    """Take n more elements into account, the first of which is element `start` of the row."""
    cdef Peak found = find_peak_of(x, n, True)
    if found.high > peak.high:
        peak.high, peak.index = found.high, start + found.index
        peak.low = get(low, found.index) if low is not NULL else 0.0


# --- the shift -------------------------------------------------------------------------------------------------------


cdef inline double large_peak(const vec* like) noexcept nogil:
    """Where |m| is larger, x - m is exact for every x that counts."""
    return 256 if vec is vf32 else 2048


cdef inline double largest_unshifted(const vec* like) noexcept nogil:
    """The largest |m| for which exponentials need no offset."""
    return 16384 if has_table(like) else large_peak(like)


cdef inline Pair small_exp(double d, double d_low, const vec* like) noexcept nogil:
    """exp(d + d_low) for |d| <= log(2)/2 and a far smaller d_low; without a low part for float32."""
    cdef Pair result = two_sum(1, d)
    if vec is vf32:
        return single(result.high + (result.low + exp_tail(d, like)))
    result = two_sum(result.high, result.low + exp_tail(d, like))
    result.low += d_low * result.high
    return result


cdef inline void set_shift(Shift* shift, const Peak* peak, const vec* like) noexcept nogil:
    """For a peak that is finite."""
    shift.peak = peak[0]
    shift.offset = peak.high if fabs(peak.high) > largest_unshifted(like) else 0.0
    shift.offset_low = peak.low if shift.offset != 0 else 0.0
    shift.exponent = rint((peak.high - shift.offset) * LOG2_E) - EXPONENT_HEADROOM


cdef inline Pair unit_of(const Shift* shift, const vec* like) noexcept nogil:
    """exp(offset - m) 2^exponent, which is near 2^-EXPONENT_HEADROOM."""
    cdef double k = shift.exponent + EXPONENT_HEADROOM
    cdef Pair d = two_sum(k * LN2_HIGH, shift.offset - shift.peak.high)        # exact
    cdef Pair unit
    d = two_sum(d.high, d.low + (k * LN2_LOW - (shift.peak.low - shift.offset_low)))
    unit = small_exp(d.high, d.low, like)
    unit.high *= 1.0 / (1LL << EXPONENT_HEADROOM)
    unit.low *= 1.0 / (1LL << EXPONENT_HEADROOM)
    return unit


cdef inline forced_void fill_shift(const Shift* shift, vec* vectors) noexcept nogil:
    """The shift in all lanes, as `exp_parts` takes it."""
    vectors[OFFSET] = fill(vectors, shift.offset)
    vectors[OFFSET_LOW] = fill(vectors, shift.offset_low)
    vectors[GRID] = fill(vectors, table_grid(vectors) - shift.exponent)
    vectors[LEAST] = fill(vectors, (shift.exponent - exponent_range(vectors)) * LN2)
    load_table(vectors + ENTRIES, vectors + LOST)


# --- exponentials ----------------------------------------------------------------------------------------------------


cdef struct Terms:              # of a row, or of a piece of one
    const double* x
    const double* low           # or NULL
    double* e                   # where the terms go, or NULL
    Py_ssize_t n
    Py_ssize_t skip             # the element that is left out of the sum, or none of them
    bint has_offset             # whether the shift's offset may be other than 0
    bint has_maximum            # whether all elements are in the sum, for probabilities
    bint has_hess               # whether the Hessian of the row before may be stored meanwhile


cdef inline Terms describe_terms(const vec* x, vec* e, Py_ssize_t n, Py_ssize_t skip) noexcept nogil:
    """Of logits without low parts."""
    cdef Terms terms
    terms.x, terms.low, terms.e = <const double*>x, NULL, <double*>e
    terms.n, terms.skip = n, skip
    terms.has_offset = False
    terms.has_maximum = terms.has_hess = False
    return terms


cdef inline forced_void add_term(vec scale, vec p, vec* high, vec* low, vec* rest) noexcept nogil:
    """high + low + rest += scale (1 + p), exactly or nearly so: p is small with a table, so `rest` may take its part."""
    cdef vec term
    if has_table(&scale):
        add_larger(scale, high, low)
        rest[0] = multiply_add(scale, p, rest[0])
    else:
        term = multiply_add(scale, p, scale)
        add_larger(term, high, low)
        low[0] = low[0] + multiply_add(scale, p, scale - term)


cdef inline forced_void fold(vec* high, vec* low, vec* rest) noexcept nogil:
    """high + low += rest, before the roundings of `rest` count; and begin anew."""
    if has_table(rest):
        add_larger(rest[0], high, low)
        rest[0] = fill(rest, 0)


cdef inline forced_void compute_four(
    Terms terms, Py_ssize_t i, const vec* shift, vec* high, vec* low, vec* rest
) noexcept nogil:
    """Vectors i to i + 4. Their scales are no array here: what a branch changes in an array, compilers keep in memory."""
    cdef const vec* x = <const vec*>terms.x
    cdef const vec* x_low = <const vec*>terms.low
    cdef vec* e = <vec*>terms.e
    cdef Py_ssize_t width = lanes(x), place = terms.skip - i * lanes(x)
    cdef vec scale[4]
    cdef vec p[4]
    cdef vec a, b, c, d
    exp_parts(x + i, x_low if x_low is NULL else x_low + i, terms.has_offset, shift, scale, p, 4)
    if e is not NULL:
        a = multiply_add(scale[0], p[0], scale[0])
        b = multiply_add(scale[1], p[1], scale[1])
        c = multiply_add(scale[2], p[2], scale[2])
        d = multiply_add(scale[3], p[3], scale[3])
        e[i] = a
        e[i + 1] = b
        e[i + 2] = c
        e[i + 3] = d
    a = scale[0]
    b = scale[1]
    c = scale[2]
    d = scale[3]
    if not terms.has_maximum and 0 <= place < 4 * width:
        a = without_lane(a, place)
        b = without_lane(b, place - width)
        c = without_lane(c, place - 2 * width)
        d = without_lane(d, place - 3 * width)
    add_term(a, p[0], high, low, rest)
    add_term(b, p[1], high, low, rest)
    add_term(c, p[2], high, low, rest)
    add_term(d, p[3], high, low, rest)


cdef inline forced_void accumulate_fours(
    Terms terms, const vec* shift, vec* total, const Traffic* traffic, vec* search, bint finds_index
) noexcept nogil:
    """The vectors that come in fours, with the traffic meanwhile, and with the search for the next row's maximum."""
    cdef Py_ssize_t i = 0, stop = 0, last = terms.n // (4 * lanes(total)) * 4
    cdef const vec* next = <const vec*>traffic.next
    cdef vec high = total[HIGH], low = total[LOW], rest = fill(total, 0)
    cdef vec best = rest, where = rest, counter = rest
    cdef vec factor = rest, minus_slope = rest
    if terms.has_hess:
        factor = fill(total, traffic.curve.factor)
        minus_slope = fill(total, -traffic.curve.slope)
    if next is not NULL:
        best = search[BEST]
        where = search[WHERE]
        counter = search[COUNTER]
    while i < last:
        stop = min(stop + FOLD_VECTORS, last)
        while i < stop:
            compute_four(terms, i, shift, &high, &low, &rest)
            if next is not NULL:
                search_vector(largest_of_four(next + i), finds_index, &best, &where, &counter)
            if terms.has_hess and i < traffic.hess_fours:   # before the gradient overwrites its source
                curve_four(traffic, i, factor, minus_slope)
            move_four(traffic, i, total)
            i += 4
        fold(&high, &low, &rest)
    total[HIGH] = high
    total[LOW] = low
    if next is not NULL:
        search[BEST] = best
        search[WHERE] = where
        search[COUNTER] = counter


cdef inline forced_void load_terms(Terms terms, Py_ssize_t i, vec* x, vec* low, Py_ssize_t count) noexcept nogil:
    """Up to 4 vectors from i on, filled up beyond the end of the row with what has no exponential."""
    cdef Py_ssize_t j, n
    for j in range(count):
        n = elements_of(terms.n, i + j, x)
        x[j] = load_first(<const vec*>terms.x + i + j, n, -INFINITY)
        low[j] = load_first(<const vec*>terms.low + i + j, n, 0) if terms.low is not NULL else fill(x, 0)


cdef inline Py_ssize_t elements_of(Py_ssize_t n, Py_ssize_t i, const vec* like) noexcept nogil:
    """How many of n elements are in vector i."""
    return max(0, min(lanes(like), n - i * lanes(like)))


cdef inline forced_void compute_rest(
    Terms terms, Py_ssize_t i, const vec* shift, vec* total, Py_ssize_t count
) noexcept nogil:
    """The last vectors, `count` <= 4 of them."""
    cdef Py_ssize_t j
    cdef vec x[4]
    cdef vec low[4]
    cdef vec scale[4]
    cdef vec p[4]
    cdef vec high = total[HIGH], rounding = total[LOW], rest = fill(total, 0), y
    load_terms(terms, i, x, low, count)
    exp_parts(x, <vec*>low if terms.low is not NULL else <vec*>NULL, terms.has_offset, shift, scale, p, count)
    for j in range(count):
        if terms.e is not NULL:
            y = multiply_add(scale[j], p[j], scale[j])
            store_first(<vec*>terms.e + i + j, elements_of(terms.n, i + j, total), y)
        y = scale[j] if terms.has_maximum else without_lane(scale[j], terms.skip - (i + j) * lanes(total))
        add_term(y, p[j], &high, &rounding, &rest)
    fold(&high, &rounding, &rest)
    total[HIGH] = high
    total[LOW] = rounding


cdef inline void accumulate_rest(const Terms* terms, const vec* shift, vec* total) noexcept nogil:
    """The vectors after the last four: all of them at once, unless there is one."""
    cdef Py_ssize_t i = terms.n // (4 * lanes(total)) * 4, left = terms.n - i * lanes(total)
    if left > lanes(total):
        compute_rest(terms[0], i, shift, total, 4)
    elif left > 0:
        compute_rest(terms[0], i, shift, total, 1)


cdef inline forced_void accumulate_exponentials(
    Terms terms, const vec* shift, vec* total, Traffic* traffic, vec* search, bint finds_index
) noexcept nogil:
    """total += the terms of a row, while the traffic goes on and, if there is a next row, its maximum is searched for.
    Inlined with constants: see `add_exponentials` in _kernels.pyx."""
    cdef Traffic moves
    cdef FinishKind kind = LOG_PROBABILITIES if terms.e is NULL else PROBABILITIES if terms.has_maximum else SCALE
    if traffic.finish.kind != kind or (traffic.hess is not NULL and not terms.has_hess):    # there is no loop for this
        finish(traffic, 0, total)
    moves = traffic[0]      # in registers: nothing that is stored meanwhile can change it
    moves.finish.kind = kind
    # A loop for each kind of traffic, so that each has all registers.
    if moves.fours == 0:
        moves.fours = 0     # a constant in this call
        accumulate_fours(terms, shift, total, &moves, search, finds_index)
    elif moves.goes_around and (moves.hess_goes_around or not terms.has_hess):
        moves.goes_around = moves.hess_goes_around = True
        accumulate_fours(terms, shift, total, &moves, search, finds_index)
    elif moves.hess_goes_around and terms.has_hess:
        moves.goes_around = False
        moves.hess_goes_around = True
        accumulate_fours(terms, shift, total, &moves, search, finds_index)
    else:
        moves.goes_around = moves.hess_goes_around = False
        accumulate_fours(terms, shift, total, &moves, search, finds_index)
    finish(traffic, terms.n // (4 * lanes(total)) * 4, total)
    accumulate_rest(&terms, shift, total)
    if traffic.next is not NULL:
        search_rest(<const vec*>traffic.next, terms.n, finds_index, search)


cdef inline Pair compute_term(const vec* like, double x, double low, bint has_low, const Shift* shift) noexcept nogil:
    """One term of `add_exponentials`, to the bit, and what it lost."""
    cdef vec vectors[SHIFT_VECTORS]
    cdef vec y, y_low, p, scale
    cdef Pair term
    fill_shift(shift, vectors)
    y = fill(like, x)
    y_low = fill(like, low)
    exp_parts(&y, &y_low if has_low else <vec*>NULL, True, vectors, &scale, &p, 1)
    y = multiply_add(scale, p, scale)
    y_low = multiply_add(scale, p, scale - y)
    term.high, term.low = get(&y, 0), get(&y_low, 0)
    return term


cdef inline RowSum sum_row(const Shift* shift, const vec* total) noexcept nogil:
    """r and what follows from it, from the sum of all terms but the maximum's. For float32, float64 numbers are enough
    and the low parts are 0."""
    cdef RowSum row
    cdef Pair sum = sum_pairs(total[HIGH], total[LOW]), all
    cdef double correction
    row.unit = unit_of(shift, total)
    if vec is vf32:
        row.rest = single(row.unit.high * (sum.high + sum.low))
    else:
        row.rest = multiply(row.unit, sum)
    all = one_more(row.rest)
    row.inverse = single(1 / all.high)
    # log(1 + r) with what 1 + r rounds away, so that it is as exact as log is, for tiny r too.
    correction = all.low * row.inverse.high
    if vec is vf32:
        row.log_sum = single(log(all.high) + correction)
    else:
        row.log_sum = two_sum(log(all.high), correction - 0.5 * correction * correction)
        row.inverse.low = (fma(-row.inverse.high, all.high, 1) - row.inverse.high * all.low) * row.inverse.high
    return row


cdef inline Pair scale_of(const RowSum* row) noexcept nogil:
    """What makes probabilities of terms."""
    return multiply(row.unit, row.inverse)


cdef inline Pair logsumexp_of(const Shift* shift, const RowSum* row) noexcept nogil:
    """m + log1p(r)"""
    cdef Pair result = single(shift.peak.high)
    add_pair(&result, row.log_sum)
    result.low += shift.peak.low
    return result
