"""Cross-entropy of logits: one row, then loops over rows, then what Python calls.

One row x of C logits, with target mass t (class weights, smoothing, a label or a distribution, all folded in) and
T = sum(t):

    m = max x          k = an index where x_k = m          e_c = exp(x_c - m)
    r = sum of e_c over c != k            s = 1 + r        logsumexp = m + log1p(r)
    p_c = e_c / s                         log p_c = -((m - x_c) + log1p(r))
    loss = sum(t_c (m - x_c)) + T log1p(r)                 grad_c = T p_c - t_c
    hess_c = T p_c (1 - p_c)

(a) The maximum is left out of the sum and comes back through log1p. Every term of the loss is >= 0, so nothing cancels:
    a confident row keeps every digit of its tiny loss.
(b) If all the mass is on one class y, the gradient there is -T (sum of e_c over c != y) / s, never T (p_y - 1). At the
    maximum, the Hessian has r / s, never 1 - p_k; at other classes p_c <= 1/2, and 1 - p_c is exact enough.
(c) x - m rounds, by up to half an ulp of a large number, and exp multiplies that error. So exponents are shifted by an
    integer near m log2(e), which is exact; the rest of m is one factor for the whole row (`Shift`, `unit_of`).
(d) Sums keep what their roundings lose, in vectors and in float64, as do the last few operations of a row: they round
    once, at the end.
(e) Three rows are under way at a time: while the exponentials of one are summed, the next is searched for its maximum,
    and the one before, whose sum is known, is finished and stored (`Traffic`).

Every option is this formula with another t, another x, or one more term. With label smoothing,
t = target_share (points + dense) + base_share base: points are a label or the classes of a sparse distribution, dense
is a distribution, base is 1 (or the class weight) for each class that smoothing reaches. Logits that are scaled, capped
or masked are computed first, as pairs, in scratch.

From _core come vectors (simd.pxd), numbers as pairs (pairs.pxd), exp and log (elementary.pxd), exponentials of a row
and their sum (exponentials.pxd), operations on a row (rows.pxd), rows in memory (strided.pxd, streaming.pxd), reading a
batch (batch.pxd, targets.pxd, reader.pxd), rows side by side for few classes (tiles.pxd), scratch (scratch.pxd) and
blocks of rows for threads (scheduler.pyx). Arguments have been checked in Python (_calls), except for calls on plain
arrays, which fast_path.pxi checks itself.
"""

from libc.float cimport DBL_MAX, FLT_MAX
from libc.math cimport INFINITY, NAN, ceil, fabs, frexp, isfinite, isinf, isnan, pow
from libc.stdint cimport int32_t, int64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

cimport numpy as cnp

from xent._core.batch cimport (
    DISTRIBUTION, LABELS, SPARSE, Batch, has_plain_formula, has_smoothed_formula, is_usual_weight, largest_usual_weight,
    needs_float64, needs_own_unit, set_defaults, smooths, transforms,
)
from xent._core.binary cimport CHUNK, BinaryBatch, BinaryScratch, binary_chunks
from xent._core.divergence cimport (
    CENTRE, CENTRE_LOW, COMPARE_VECTORS, MOST_PASSES, RATIO, ABSums, Compared, Mass, TermPiece, add_class, add_excess,
    compare_terms, conclude, difference_of, divergence_of, estimate_log_ratio, exp_minus, find_deltas, gap_between,
    has_probabilities, is_empty, is_larger, join_compared, lifted_factor, load_four, no_mass, nothing_compared, peak_of,
    scale_of, set_constants, subtract_terms,
)
from xent._core.elementary cimport LN2_HIGH, LN2_LOW, SHIFT_VECTORS, exp_parts, log_pair, minus_log
from xent._core.exponentials cimport (
    EXPONENT_HEADROOM, HIGH, LOW, SEARCH_VECTORS, Peak, RowSum, Shift, Terms, accumulate_exponentials, compute_term,
    describe_terms, end_search, fill_shift, find_peak_of, largest_of_four, logsumexp_of, no_peak, raise_peak, set_shift,
    start_search, sum_row, unit_of,
)
from xent._core.memory cimport empty
from xent._core.pairs cimport (
    Pair, Sum, accumulate, add, add_exactly, add_pair, divide, finite_or_zero, multiply, one_more, single, sum_pairs,
    two_sum, value,
)
from xent._core.reader cimport (
    Reader, Row, RowPiece, describe_row, logit_at, open_reader, read_mask, read_masked_logits, read_peak, read_piece,
    read_target_piece, transform_piece,
)
from xent._core.rows cimport (
    MOMENT_VECTORS, NO_CLASS, PIECE_ELEMENTS, add_distance, add_distances, add_elements, add_moments, count_ahead,
    curve_row, fill_row, find_only_class, fits_curve, has_many, has_nan, is_moderate, log_probability, mask_row,
    multiply_or_zero, multiply_row, scale_distances, scale_row, suits_terms, sum_distances, sum_products,
)
from xent._core.scheduler cimport (
    FEW_UNITS, PY_SSIZE_T_MAX, BlockClaim, Work, block_size, claim_blocks, count_blocks, do_alone, end_of_block,
    next_block, xent_load, xent_replace, xent_shared,
)
from xent._core.scratch cimport (
    LINE_DOUBLES, LOG_SOFTMAX_TILE, LOSS_TILE, MAX_TILE_CLASSES, MAX_TILE_VECTORS, SCRATCH_BYTES, SOFTMAX_TILE,
    LogsumexpTask, LossScratch, Memory, Points, PrimitiveScratch, RowScratch, SoftmaxTask, WeightScratch,
    WeightedScratch, copies_mask, fits_tile, lay_out_loss, lay_out_primitive, lay_out_rows, lay_out_weighted,
    lay_out_weights, mask_space, plan_batch, plan_logsumexp, plan_softmax, row_space, take, tile_space,
)
from xent._core.simd cimport (
    XENT_HAS_32, XENT_LANES_f32, XENT_LANES_f64, absolute, all_equal, element, fill, forced_void, get, lanes,
    load_first, max_lanes, maximum, multiply_add, put, store_first, vec, vf32, vf64, where_equal, where_less,
    where_true, xent_add_four_f32, xent_add_four_f64, xent_add_lanes_f32, xent_add_lanes_f64, xent_are_classes,
    xent_cpu_has_avx2, xent_cpu_has_avx512, xent_drain, xent_half_f32, xent_prefetch, xent_transpose_rows_f32,
    xent_transpose_rows_f64,
)
from xent._core.streaming cimport (
    Curve, Finish, Traffic, curved, finish, multiply_by, no_traffic, scale_to_probabilities, send, send_hessian,
    subtract_from,
)
from xent._core.strided cimport (
    ABSENT, AHEAD_IN_ROW, F32, F64, I8, I16, I32, I64, U8, U16, U32, Operand, Window, bind, bind_output, close_window,
    data_of_blocks, fits_float32, gather, gather_mask, gather_through, is_contiguous_mask, is_native, is_plain,
    is_ready, kind_of, next_place, next_row, open_window, place, place_of, place_through, read_integer, read_number,
    row_of, scatter, scatter_through, weight_of, write_float, write_number,
)
from xent._core.target_weights cimport WeightSum, weigh_rows
from xent._core.targets cimport INVALID, class_weight_of, is_class, is_ignored, read_points, scale_pair
from xent._core.tiles cimport (
    FACTOR, LIMIT_VECTORS, MAXIMA, MAX_TILE_ROWS, MOST, SUM_VECTORS, LanePairs, TileTotals, add_column, add_lanes,
    add_one, are_adjacent, clear_lanes, copy_element, exp_vectors, fill_lanes, find_peaks, invert, load_tile, log_pairs,
    multiply_pairs, read_lane, set_lane, shift_lanes, shift_vectors, store_tile, sum_lanes, write_lanes,
)

cnp.import_array()

# ---------------------------------------------------------------------------------------------------------------------
# One row
# ---------------------------------------------------------------------------------------------------------------------


cdef void add_exponentials(
    const vec* x, const vec* low, vec* e, Py_ssize_t n, Py_ssize_t skip, const Shift* shift, vec* total,
    Traffic* traffic
) noexcept nogil:
    """total += the terms of n elements, exp(x + low - m) in units of the shift, without element `skip` (which may be
    none of them). `low` may be NULL; e (or NULL; may be x) = the terms.

    This and the next two are not inline, and have a loop for each kind of call, so that each has all registers.
    """
    cdef Terms terms = describe_terms(x, e, n, skip)
    cdef vec vectors[SHIFT_VECTORS]
    cdef vec* nothing = NULL
    terms.has_offset = True
    terms.low = <const double*>low
    traffic.next = NULL
    fill_shift(shift, vectors)
    if low is not NULL:
        finish(traffic, 0, total)
        traffic.fours = 0
        if e is NULL:
            terms.e = NULL
            accumulate_exponentials(terms, vectors, total, traffic, nothing, False)
        else:
            accumulate_exponentials(terms, vectors, total, traffic, nothing, False)
        return
    terms.low = NULL
    if e is NULL:
        terms.e = NULL
        accumulate_exponentials(terms, vectors, total, traffic, nothing, False)
    else:
        accumulate_exponentials(terms, vectors, total, traffic, nothing, False)


cdef void add_and_search(
    const vec* x, vec* e, Py_ssize_t n, const Shift* shift, vec* total, Traffic* traffic, vec* search
) noexcept nogil:
    """`add_exponentials` of a row without its maximum, while the next row is searched; `traffic.next` becomes NULL if
    that is not done."""
    cdef Terms terms = describe_terms(x, e, n, shift.peak.index)
    cdef vec vectors[SHIFT_VECTORS]
    if traffic.next is NULL or shift.offset != 0:
        traffic.next = NULL
        add_exponentials(x, <vec*>NULL, e, n, shift.peak.index, shift, total, traffic)
        return
    fill_shift(shift, vectors)
    if e is NULL:
        terms.e = NULL
        accumulate_exponentials(terms, vectors, total, traffic, search, True)
    elif traffic.hess is not NULL:
        terms.has_hess = True
        accumulate_exponentials(terms, vectors, total, traffic, search, True)
    else:
        accumulate_exponentials(terms, vectors, total, traffic, search, True)


cdef void add_all_and_search(
    const vec* x, vec* e, Py_ssize_t n, const Shift* shift, vec* total, Traffic* traffic, vec* search
) noexcept nogil:
    """The same with the maximum, for softmax: a probability needs no digits near 1."""
    cdef Terms terms = describe_terms(x, e, n, -1)
    cdef vec vectors[SHIFT_VECTORS]
    cdef vec* nothing = NULL
    terms.has_maximum = True
    fill_shift(shift, vectors)
    if traffic.next is not NULL and shift.offset == 0:
        accumulate_exponentials(terms, vectors, total, traffic, search, False)
        return
    traffic.next = NULL
    terms.has_offset = True
    if e is NULL:
        terms.e = NULL
        accumulate_exponentials(terms, vectors, total, traffic, nothing, False)
    else:
        accumulate_exponentials(terms, vectors, total, traffic, nothing, False)


cdef inline bint shift_row(Shift* shift, const Peak* peak, const vec* like) noexcept nogil:
    """Shift a row by its maximum; False if that is not finite."""
    if not isfinite(peak.high):
        return False
    set_shift(shift, peak, like)
    return True


cdef inline double round_up(Pair x, const vec* like) noexcept nogil:
    """x > 0 in the type of the kernel, rounded up, or one more where that is not certain."""
    cdef double up
    if vec is vf32:
        up = <float>x.high
        return up if up > x.high * (1 + 1e-12) else <float>(up * (1 + 0.75 * 2.0 ** -23))
    x = two_sum(x.high, x.low)
    return x.high if x.low < -2.0 ** -58 * x.high else x.high + x.high * (0.75 * 2.0 ** -52)


cdef inline Finish probabilities_of(const Shift* shift, const vec* total) noexcept nogil:
    """How terms become probabilities; `total` is their sum."""
    cdef Pair sum = sum_pairs(total[HIGH], total[LOW]), unit = unit_of(shift, total), factor
    if vec is vf32:         # numbers are enough
        factor = single(1 / (sum.high + sum.low))
        return scale_to_probabilities(round_up(factor, total), 1 / (unit.high * (sum.high + sum.low)))
    factor = divide(single(1), sum)
    return scale_to_probabilities(round_up(factor, total), value(divide(single(1), multiply(unit, sum))))


cdef Finish softmax_row(
    const vec* x, vec* out, Py_ssize_t n, const Peak* peak, Traffic* traffic, vec* search
) noexcept nogil:
    """out = the terms of a row; return how they become probabilities. Meanwhile the next row is searched."""
    cdef Shift shift
    cdef vec total[2]
    if not shift_row(&shift, peak, x):
        traffic.next = NULL
        finish(traffic, 0, out)
        fill_row(out, n, NAN)
        return multiply_by(1)
    total[HIGH] = total[LOW] = fill(x, 0)
    add_all_and_search(x, out, n, &shift, total, traffic, search)
    return probabilities_of(&shift, total)


cdef Finish log_softmax_row(const vec* x, Py_ssize_t n, const Peak* peak, Traffic* traffic, vec* search) noexcept nogil:
    """How logits become log-probabilities. Meanwhile the next row is searched."""
    cdef Shift shift
    cdef RowSum sums
    cdef vec total[2]
    if not shift_row(&shift, peak, x):
        traffic.next = NULL
        return subtract_from(NAN, NAN)
    total[HIGH] = total[LOW] = fill(x, 0)
    add_and_search(x, <vec*>NULL, n, &shift, total, traffic, search)
    sums = sum_row(&shift, total)
    return subtract_from(peak.high, value(sums.log_sum))


# --- the loss of one row, and its gradient ---------------------------------------------------------------------------


cdef void weigh_points(const Reader* reader, Row* row, vec* like) noexcept nogil:
    """T and the sum of t (m - x), of the points alone."""
    cdef Py_ssize_t j
    cdef Pair x, distance
    row.target_mass = row.weighted_distance = single(0)
    for j in range(row.points.count):
        if reader.reads_whole_rows:
            x.high = get(<vec*>row.all.x, row.points.index[j])
            x.low = get(<vec*>row.all.low, row.points.index[j]) if row.all.low is not NULL else 0.0
        else:
            x = logit_at(reader, row, row.points.index[j], like)
        row.has_largest = x.high == row.shift.peak.high and x.low == row.shift.peak.low
        distance = two_sum(row.shift.peak.high, -x.high)
        distance.low += row.shift.peak.low - x.low
        row.label_distance = distance
        add_pair(&row.target_mass, row.points.mass[j])
        add_pair(&row.weighted_distance, multiply(distance, row.points.mass[j]))


cdef void weigh_row(Reader* reader, Row* row, const vec* soon_target, vec* like) noexcept nogil:
    """T, and the sum of t (m - x). The target at `soon_target` is fetched from memory meanwhile."""
    cdef Py_ssize_t n = reader.batch.logits.n, start = 0, count
    cdef bint many = has_many(like, n), has_base = row.base_share.high != 0
    cdef const Peak* peak = &row.shift.peak
    cdef const vec* soon
    cdef RowPiece piece
    cdef Pair base_mass
    cdef vec mass[2]
    cdef vec distance[2]
    cdef vec base[2]
    cdef vec base_distance[2]
    weigh_points(reader, row, like)
    if not (row.is_dense or has_base):
        return
    mass[HIGH] = mass[LOW] = distance[HIGH] = distance[LOW] = fill(like, 0)
    base[HIGH] = base[LOW] = base_distance[HIGH] = base_distance[LOW] = fill(like, 0)
    piece.base = NULL
    while start < n:
        count = min(PIECE_ELEMENTS, n - start)
        read_piece(reader, row, start, count, &piece, like)
        if row.is_dense:
            soon = element(soon_target, start) if reader.reads_whole_rows else <const vec*>piece.target
            add_elements(<vec*>piece.target, count, many, mass)
            add_distances(<vec*>piece.x, <vec*>piece.low, <vec*>piece.target, count, peak, n, soon, distance)
        if has_base:
            if piece.base is not NULL:
                add_elements(<vec*>piece.base, count, many, base)
            add_distances(
                <vec*>piece.x, <vec*>piece.low, <vec*>piece.base, count, peak, n, <vec*>piece.x, base_distance
            )
        start += count
    if row.is_dense:
        add_pair(&row.target_mass, sum_pairs(mass[HIGH], mass[LOW]))
        add_pair(&row.weighted_distance, sum_distances(distance, n))
    if has_base:
        base_mass = single(<double>n) if piece.base is NULL else sum_pairs(base[HIGH], base[LOW])
        row.target_mass = multiply(row.target_mass, row.target_share)
        row.weighted_distance = multiply(row.weighted_distance, row.target_share)
        add_pair(&row.target_mass, multiply(row.base_share, base_mass))
        add_pair(&row.weighted_distance, multiply(row.base_share, sum_distances(base_distance, n)))


cdef void sum_exponentials(
    Reader* reader, Row* row, vec* grad, bint keeps_terms, Traffic* traffic, vec* like
) noexcept nogil:
    """row.sums, and with `keeps_terms` the terms in the place of the gradient: of a whole row, `grad`."""
    cdef const Batch* batch = reader.batch
    cdef Py_ssize_t n = batch.logits.n, start = 0, count
    cdef RowPiece piece
    cdef vec total[2]
    cdef vec* e
    total[HIGH] = total[LOW] = fill(like, 0)
    while start < n:
        count = min(reader.piece, n - start)
        read_piece(reader, row, start, count, &piece, like)
        if not reader.reads_whole_rows:
            traffic.soon = <const char*>piece.x
        e = NULL
        if keeps_terms:
            e = grad if reader.reads_whole_rows else place(&batch.grad, row.i, start, <vec*>reader.scratch.grad[0])
        add_exponentials(
            <vec*>piece.x, <vec*>piece.low, e, count, row.shift.peak.index - start, &row.shift, total, traffic
        )
        start += count
    row.sums = sum_row(&row.shift, total)


cdef inline Pair negate(Pair x) noexcept nogil:
    x.high, x.low = -x.high, -x.low
    return x


cdef double term_at(const Reader* reader, const Row* row, Py_ssize_t c, const vec* grad, bint has_terms) noexcept nogil:
    """The term of one class; `has_terms` says whether terms are in the place of the gradient."""
    cdef const Batch* batch = reader.batch
    cdef Pair x
    if has_terms and reader.reads_whole_rows:
        return get(grad, c)
    if has_terms:
        return read_number(place_of(&batch.grad, row.i, c), batch.grad.kind)
    x = logit_at(reader, row, c, <vec*>grad)
    return compute_term(grad, x.high, x.low, transforms(batch), &row.shift).high


cdef inline Pair sum_others(Pair rest, Pair own, bint is_largest) noexcept nogil:
    """The sum of all e_c but the label's: r where that is a maximum, else r + (1 - its own)."""
    if not is_largest:
        add_pair(&rest, negate(own))
        add(&rest, 1)
    return rest


cdef inline Pair multiply_mass(Pair x, Pair mass) noexcept nogil:
    """A product that is 0 where x is, even if the mass has overflowed."""
    return multiply(x, mass) if x.high != 0 or not isinf(mass.high) else single(0)


# A row with all its mass on one class, without options that change the formula. For float32, float64 numbers are enough.


cdef inline Pair label_loss(const RowSum* sums, Pair distance, Pair weight, const vec* like) noexcept nogil:
    """`distance` is that of the label from the maximum, `weight` all that multiplies the row."""
    cdef Pair loss = sums.log_sum
    if vec is vf32:
        return single((distance.high + loss.high) * weight.high)
    add_pair(&loss, distance)
    return multiply(loss, weight)


cdef struct LabelGradient:
    double factor               # of the terms
    double at_label


cdef inline LabelGradient label_gradient(
    const RowSum* sums, double own_term, bint has_largest, Pair scale, const vec* like
) noexcept nogil:
    """`scale` times the gradient of the loss, which may be infinite."""
    cdef LabelGradient gradient
    cdef Pair others
    cdef double number
    if vec is vf32:
        number = sums.inverse.high * scale.high
        gradient.factor = sums.unit.high * number
        others = sums.rest
        if not has_largest:
            others.high += 1 - sums.unit.high * own_term
        gradient.at_label = -multiply_or_zero(others.high, number)
        return gradient
    scale = multiply(scale, sums.inverse)
    others = sum_others(sums.rest, multiply(sums.unit, single(own_term)), has_largest)
    gradient.factor = value(multiply(sums.unit, scale))
    gradient.at_label = -value(multiply_mass(others, scale))
    return gradient


cdef void separate_label(const Reader* reader, Row* row, const vec* grad, bint has_terms) noexcept nogil:
    """row.own and row.others, of a row with all its mass on one class."""
    row.own = single(1)
    row.own_term = term_at(reader, row, row.only_class, grad, has_terms)
    if not row.has_largest:
        row.own = multiply(row.sums.unit, single(row.own_term))
    row.others = sum_others(row.sums.rest, row.own, row.has_largest)


cdef void read_masked_target(
    Reader* reader, const Row* row, Py_ssize_t start, Py_ssize_t count, RowPiece* piece, vec* like
) noexcept nogil:
    """Read a piece without its logits, in whose place the terms may be."""
    if reader.reads_whole_rows:
        read_piece(reader, row, start, count, piece, like)
        return
    if reader.batch.where.kind != ABSENT and row.base_share.high != 0:
        read_mask(reader, row.i, start, count)
    read_target_piece(reader, row, start, count, piece, like)
    piece.cap_slope = NULL


cdef void read_masses(
    const Row* row, const RowPiece* piece, Py_ssize_t start, Py_ssize_t count, vec* mass
) noexcept nogil:
    """mass = t_c of a piece."""
    cdef Py_ssize_t j, c
    cdef double share = value(row.target_share), base_share = value(row.base_share), t
    for j in range(count):
        t = 0
        if row.base_share.high != 0:
            t = base_share * get(<vec*>piece.base, j) if piece.base is not NULL else base_share
        if row.is_dense:
            t += share * get(<vec*>piece.target, j)
        put(mass, j, t)
    for j in range(row.points.count):
        c = row.points.index[j] - start
        if 0 <= c < count:
            put(mass, c, get(mass, c) + share * value(row.points.mass[j]))


cdef Pair mass_at(
    const Row* row, const RowPiece* piece, Py_ssize_t start, Py_ssize_t c, const vec* like
) noexcept nogil:
    """t_c of one class of a piece, with what a float32 would lose."""
    cdef Py_ssize_t j
    cdef Pair mass = single(0)
    if row.base_share.high != 0:
        mass = row.base_share
        if piece.base is not NULL:
            mass = multiply(mass, single(get(<vec*>piece.base, c - start)))
    if row.is_dense:
        add_pair(&mass, multiply(row.target_share, single(get(<vec*>piece.target, c - start))))
    for j in range(row.points.count):
        if row.points.index[j] == c:
            add_pair(&mass, multiply(row.target_share, row.points.mass[j]))
    return mass


cdef Pair sum_missed_mass(
    Reader* reader, const Row* row, vec* grad, bint has_terms, Traffic* traffic, vec* like
) noexcept nogil:
    """T - sum of t_c p_c. With k the class of the maximum, s times it is T r + (T - t_k) - sum of t_c e_c over c != k:
    no more than half of that cancels."""
    cdef Py_ssize_t n = reader.batch.logits.n, start = 0, count, k = row.shift.peak.index
    cdef RowPiece piece
    cdef Pair total, at_peak = single(0), others = single(0)
    cdef vec* mass = <vec*>reader.scratch.mass
    cdef vec* terms
    cdef vec unused[2]
    if row.only_class >= 0:
        return multiply(multiply_mass(row.others, row.target_mass), row.sums.inverse)
    while start < n:
        count = min(PIECE_ELEMENTS, n - start)
        if has_terms:
            read_masked_target(reader, row, start, count, &piece, like)
            terms = <vec*>element(grad, start)
            if not reader.reads_whole_rows:
                terms = place(&reader.batch.grad, row.i, start, like)
        else:
            read_piece(reader, row, start, count, &piece, like)
            terms = <vec*>reader.scratch.terms
            unused[HIGH] = unused[LOW] = fill(like, 0)
            add_exponentials(<vec*>piece.x, <vec*>piece.low, terms, count, -1, &row.shift, unused, traffic)
        read_masses(row, &piece, start, count, mass)
        if start <= k < start + count:
            at_peak = mass_at(row, &piece, start, k, like)
            put(mass, k - start, 0)
        add_pair(&others, sum_products(terms, mass, count))
        start += count
    total = multiply(row.target_mass, row.sums.rest)
    add_pair(&total, row.target_mass)
    add_pair(&total, negate(at_peak))
    add_pair(&total, negate(multiply(others, row.sums.unit)))
    return multiply(total, row.sums.inverse)


cdef Pair unfocused_loss_of(const Batch* batch, const Row* row) noexcept nogil:
    """The loss of a row, for each unit of its weight, before `focal_gamma`."""
    cdef Pair loss = multiply(row.sums.log_sum, row.target_mass), logsumexp
    add_pair(&loss, row.weighted_distance)
    if row.z_loss != 0:
        logsumexp = logsumexp_of(&row.shift, &row.sums)
        add_pair(&loss, multiply(multiply(logsumexp, single(row.z_loss)), logsumexp))
    if batch.poly_epsilon != 0:
        add_pair(&loss, multiply(row.missed_mass, single(batch.poly_epsilon)))
    return loss


cdef Pair focal_weight_of(const Batch* batch, const Row* row) noexcept nogil:
    """(1 - p_y)^gamma; 1 of a row without mass."""
    cdef Pair others, weight
    if batch.focal_gamma == 0 or row.only_class < 0:
        return single(1)
    others = multiply(row.others, row.sums.inverse)
    weight = single(pow(others.high, batch.focal_gamma))
    if weight.high != 0:
        weight.low = weight.high * (batch.focal_gamma * others.low / others.high)
    return weight


cdef Pair loss_of(const Batch* batch, const Row* row) noexcept nogil:
    """The loss of a row, for each unit of its weight."""
    cdef Pair loss = unfocused_loss_of(batch, row)
    return loss if batch.focal_gamma == 0 else multiply(loss, focal_weight_of(batch, row))


cdef struct GradientTerms:      # the gradient of a row: factor term - target_share t - base_share base, class by class
    double factor
    double target_share
    double base_share
    double at_label             # the gradient at the class that has all the mass, if one has,
    double label_term           # and the term that becomes it when it is scaled; or infinity
    double poly_factor          # of t_c times the term of c, which is subtracted as well; 0 with one class


cdef Pair add_poly_mass(const Batch* batch, const Row* row) noexcept nogil:
    """T + epsilon sum of t_c p_c: with poly_epsilon, this multiplies p_c in the gradient."""
    cdef Pair mass = row.target_mass, predicted = row.target_mass
    if row.only_class >= 0:
        predicted = multiply(multiply(row.target_mass, row.own), row.sums.inverse)
    else:
        add_pair(&predicted, negate(row.missed_mass))
    add_pair(&mass, multiply(predicted, single(batch.poly_epsilon)))
    return mass


cdef Pair focus_mass(const Batch* batch, const Row* row, Pair mass) noexcept nogil:
    """The gradient of w loss, with w = (1 - p_y)^gamma, is that of the loss with w (T + gamma loss p_y / (1 - p_y)) in
    the place of T."""
    if row.only_class >= 0 and row.own.high != 0 and row.others.high != 0:
        add_pair(&mass, multiply(
            multiply(unfocused_loss_of(batch, row), single(batch.focal_gamma)), divide(row.own, row.others)
        ))
    return multiply(mass, focal_weight_of(batch, row))


cdef GradientTerms gradient_of(const Batch* batch, const Row* row, Pair scale) noexcept nogil:
    """`scale` times the gradient of `loss_of`, but for its weight."""
    cdef GradientTerms terms
    cdef Pair factor = multiply(scale, row.sums.inverse)       # of e_c, for each unit of T
    cdef Pair mass = row.target_mass, pull = single(0), at_label
    terms.target_share = terms.base_share = terms.at_label = terms.poly_factor = 0
    if batch.poly_epsilon != 0:
        mass = add_poly_mass(batch, row)
    if batch.focal_gamma != 0:
        mass = focus_mass(batch, row, mass)
    if row.z_loss != 0:
        pull = multiply(logsumexp_of(&row.shift, &row.sums), single(2 * row.z_loss))
    if row.only_class >= 0:     # the difference T p - t would cancel
        at_label = multiply_mass(row.others, mass)
        if row.z_loss != 0:
            add_pair(&at_label, multiply_mass(negate(row.own), pull))
        terms.at_label = -value(multiply_mass(at_label, factor))
    else:
        terms.target_share = value(multiply(row.target_share, scale))
        terms.base_share = value(multiply(row.base_share, scale))
        if batch.poly_epsilon != 0:
            terms.poly_factor = value(multiply(multiply(factor, single(batch.poly_epsilon)), row.sums.unit))
    if row.z_loss != 0:
        add_pair(&mass, pull)
    terms.factor = value(multiply(multiply(factor, mass), row.sums.unit))
    terms.label_term = INFINITY
    return terms


cdef inline double term_to_scale(double result, double factor, const vec* like) noexcept nogil:
    """What becomes `result` when it is multiplied by the factor of its row, but for two roundings; infinite where that
    would cost more, since the number or the factor is too large or too small for the type."""
    cdef double least = 2.3e-308, most = 1.7e308, term
    if vec is vf32:
        least, most = 1.2e-38, 3.4e38
        factor = <float>factor
    if not least < fabs(factor) < most:
        return INFINITY
    term = result / factor
    return term if least < fabs(term) < most or term == 0 else INFINITY


cdef inline Curve hessian_of(
    const RowSum* sums, Py_ssize_t peak, Pair mass, double factor, const vec* like
) noexcept nogil:
    """How the terms of a row become the diagonal of its Hessian. `mass` is T and all else that multiplies p (1 - p), and
    `factor` what makes p mass of a term. Where p_c <= 1/2, nothing cancels in 1 - p_c; only at the maximum p_c may be
    larger, but there 1 - p_c is r / s."""
    cdef Curve curve
    cdef Pair share = scale_of(sums)
    curve.peak, curve.label = peak, NO_CLASS
    curve.mass, curve.share, curve.factor = value(mass), value(share), factor
    if vec is vf32:         # numbers are enough
        curve.factor = <float>factor
        curve.at_peak = multiply_or_zero(sums.rest.high * sums.inverse.high * sums.inverse.high, curve.mass)
    else:
        curve.at_peak = value(multiply_mass(multiply(multiply(sums.rest, sums.inverse), sums.inverse), mass))
    # Of the factor as it is rounded, so that its rounding does not count twice where p is near 1/2.
    curve.slope = value(multiply(share, single(curve.factor)))
    curve.fits_type = fits_curve(like, factor, curve.slope)
    return curve


cdef void compute_hessian(const Curve* curve, const vec* e, vec* hess, Py_ssize_t start, Py_ssize_t n) noexcept nogil:
    """From the terms of a piece, which begins at class `start`, its Hessian."""
    curve_row(e, hess, n, curve)
    if start <= curve.peak < start + n:
        put(hess, curve.peak - start, curve.at_peak)


cdef void write_hessian(
    Reader* reader, const Row* row, const Curve* curve, const vec* e, vec* hess, Py_ssize_t start, Py_ssize_t count
) noexcept nogil:
    """The Hessian of a piece; of a whole row, in `hess`."""
    cdef const Operand* out = &reader.batch.hess
    if not reader.reads_whole_rows:
        hess = place(out, row.i, start, <vec*>reader.scratch.hess)
    compute_hessian(curve, e, hess, start, count)
    if not reader.reads_whole_rows:
        scatter(out, row.i, start, count, hess)


cdef void finish_gradient(
    const Row* row, const RowPiece* piece, const GradientTerms* terms, vec* grad, Py_ssize_t start, Py_ssize_t count,
    vec* mass
) noexcept nogil:
    """The terms of a piece become its gradient. `mass` is scratch."""
    cdef Py_ssize_t j, c = row.only_class - start
    cdef bint scales_label = 0 <= c < count and isfinite(terms.label_term)
    if scales_label:
        put(grad, c, terms.label_term)
    if terms.poly_factor != 0:
        read_masses(row, piece, start, count, mass)
        for j in range(count):
            put(mass, j, terms.poly_factor * get(mass, j) * get(grad, j))
    if row.is_dense:
        scale_row(grad, <vec*>piece.target, count, terms.factor, terms.target_share)
        if row.base_share.high != 0:
            scale_row(grad, <vec*>piece.base, count, 1, terms.base_share)
    else:
        scale_row(grad, <vec*>piece.base, count, terms.factor, terms.base_share)
    for j in range(row.points.count):
        c = row.points.index[j] - start
        if 0 <= c < count and row.only_class < 0:
            put(grad, c, get(grad, c) - multiply_or_zero(value(row.points.mass[j]), terms.target_share))
        elif 0 <= c < count and not scales_label:
            put(grad, c, terms.at_label)
    if terms.poly_factor != 0:
        for j in range(count):
            put(grad, j, get(grad, j) - get(mass, j))
    if piece.cap_slope is not NULL:
        multiply_row(grad, <vec*>piece.cap_slope, grad, count)


cdef inline bint is_plain_row(const Batch* batch, const Row* row) noexcept nogil:
    """Whether `label_loss` and `label_gradient` compute the row."""
    return row.only_class >= 0 and has_plain_formula(batch)


cdef inline Pair row_weight(const Row* row) noexcept nogil:
    return multiply(row.weight, row.target_mass)


cdef Pair curvature_mass(const Batch* batch, const Row* row, Pair scale) noexcept nogil:
    """What multiplies p (1 - p) in the Hessian, if `scale` multiplies the gradient for each unit of T. The exponents of
    a logit_scale, which enters twice, and of extreme weights may be out of range one by one."""
    cdef int exponent = 0
    cdef double logit_scale = frexp(batch.transform.scale, &exponent)
    return scale_pair(
        multiply(multiply(scale, row.target_mass), single(logit_scale)), exponent + row.result_exponent
    )


cdef void write_gradient(
    Reader* reader, const Row* row, vec* grad, vec* hess, bint has_terms, Traffic* traffic, vec* like
) noexcept nogil:
    """From terms that are in the place of the gradient, or that are computed again now that their sum is known. The
    Hessian, if it is wanted, comes from the same terms."""
    cdef const Batch* batch = reader.batch
    cdef bint wants_hess = batch.hess.kind != ABSENT
    cdef Py_ssize_t n = batch.logits.n, start = 0, count, peak = row.shift.peak.index
    cdef Pair scale = multiply(row.weight, reader.scale), mass
    cdef GradientTerms terms
    cdef Curve curve
    cdef LabelGradient plain
    cdef RowPiece piece
    cdef vec unused[2]
    if is_plain_row(batch, row):
        mass = multiply(row_weight(row), reader.scale)
        plain = label_gradient(&row.sums, row.own_term, row.has_largest, mass, like)
        terms.factor, terms.at_label = plain.factor, plain.at_label
        terms.target_share = terms.base_share = terms.poly_factor = 0
        terms.label_term = term_to_scale(terms.at_label, terms.factor, like)
        if wants_hess:
            curve = hessian_of(&row.sums, peak, mass, plain.factor, like)
    else:
        terms = gradient_of(batch, row, scale_pair(scale, row.result_exponent))
        if wants_hess:
            mass = curvature_mass(batch, row, scale)
            curve = hessian_of(&row.sums, peak, mass, value(multiply(mass, scale_of(&row.sums))), like)
    while start < n:
        count = min(reader.piece, n - start)
        if not reader.reads_whole_rows:
            grad = place(&batch.grad, row.i, start, <vec*>reader.scratch.grad[0])
        if has_terms:
            read_masked_target(reader, row, start, count, &piece, like)
        else:
            read_piece(reader, row, start, count, &piece, like)
        if not has_terms:
            unused[HIGH] = unused[LOW] = fill(like, 0)
            add_exponentials(<vec*>piece.x, <vec*>piece.low, grad, count, -1, &row.shift, unused, traffic)
        if wants_hess:
            write_hessian(reader, row, &curve, grad, hess, start, count)
        finish_gradient(row, &piece, &terms, grad, start, count, <vec*>reader.scratch.mass)
        if not reader.reads_whole_rows:
            scatter(&batch.grad, row.i, start, count, grad)
        start += count


cdef void write_constant(
    const Reader* reader, const Operand* out, Py_ssize_t i, vec* row, vec* scratch, double x
) noexcept nogil:
    """A gradient or Hessian that is x everywhere: of a whole row, in `row`."""
    cdef Py_ssize_t n = out.n, start = 0, count
    if out.kind == ABSENT:
        return
    if reader.reads_whole_rows:
        fill_row(row, n, x)
        return
    while start < n:
        count = min(reader.piece, n - start)
        row = place(out, i, start, scratch)
        fill_row(row, count, x)
        scatter(out, i, start, count, row)
        start += count


cdef void write_constants(
    const Reader* reader, Py_ssize_t i, vec* grad, vec* hess, double x, const vec* like
) noexcept nogil:
    write_constant(reader, &reader.batch.grad, i, grad, <vec*>reader.scratch.grad[0], x)
    write_constant(reader, &reader.batch.hess, i, hess, <vec*>reader.scratch.hess, x)


cdef Pair loss_row(
    Reader* reader, Row* row, vec* grad, vec* hess, bint wants_grad, Traffic* traffic, vec* like
) noexcept nogil:
    """The loss of a row whose maximum, mass and distances are known; and its gradient and Hessian, in `grad` and `hess`
    if rows are read whole."""
    # Terms of a row in pieces wait in the gradient's place, unless it is of another type or needs the slopes of a cap.
    cdef bint keeps_terms = wants_grad and (
        reader.reads_whole_rows or (is_plain(&reader.batch.grad, like) and not transforms(reader.batch))
    )
    cdef Peak peak = row.shift.peak
    if not isfinite(peak.high):
        write_constants(reader, row.i, grad, hess, NAN, like)
        return single(NAN)
    set_shift(&row.shift, &peak, like)
    sum_exponentials(reader, row, grad, keeps_terms, traffic, like)
    if wants_grad or reader.batch.poly_epsilon != 0 or reader.batch.focal_gamma != 0:
        if row.only_class >= 0:
            separate_label(reader, row, grad if keeps_terms else like, keeps_terms)
    if reader.batch.poly_epsilon != 0:
        row.missed_mass = sum_missed_mass(reader, row, grad, keeps_terms, traffic, like)
    if wants_grad:
        write_gradient(reader, row, grad, hess, keeps_terms, traffic, like)
    if is_plain_row(reader.batch, row):
        return label_loss(&row.sums, row.label_distance, row_weight(row), like)
    return scale_pair(multiply(loss_of(reader.batch, row), row.weight), row.result_exponent)


# ---------------------------------------------------------------------------------------------------------------------
# Rows first <= i < last. `like` is a pointer of the kernel's type, for its type alone.
# ---------------------------------------------------------------------------------------------------------------------


cdef inline vec* gather_masked(
    const Operand* x, const Operand* where, Py_ssize_t i, Py_ssize_t start, Py_ssize_t count,
    const PrimitiveScratch* scratch, vec* like
) noexcept nogil:
    """`gather`, but -inf where elements are masked."""
    cdef vec* buffer = <vec*>scratch.x[0]
    cdef vec* row = gather(x, i, start, count, buffer)
    if where.kind == ABSENT:
        return row
    mask_row(row, gather_mask(where, i, start, count, scratch.mask), buffer, count, -INFINITY)
    return buffer


cdef inline Peak find_peak(
    const Operand* x, const Operand* where, Py_ssize_t i, Py_ssize_t piece, const PrimitiveScratch* scratch, vec* like
) noexcept nogil:
    """The maximum of a row, piece by piece."""
    cdef Py_ssize_t start = 0, count
    cdef Peak peak = no_peak()
    while start < x.n:
        count = min(piece, x.n - start)
        raise_peak(&peak, gather_masked(x, where, i, start, count, scratch, like), <vec*>NULL, start, count)
        start += count
    return peak


cdef inline vec* read_row(
    Window* window, const Operand* x, Py_ssize_t i, Py_ssize_t last, double** buffers, vec* like
) noexcept nogil:
    return gather_through(window, x, i, last, 0, x.n, <vec*>buffers[i & 1])


cdef inline vec* read_ahead(
    Window* window, const Operand* x, Py_ssize_t i, Py_ssize_t last, double** buffers, vec* like
) noexcept nogil:
    """Row i, if it can be read while the row before is computed; or NULL."""
    return read_row(window, x, i, last, buffers, like) if i < last and is_ready(window, i) else <vec*>NULL


cdef inline vec* read_masked_row(
    Window* window, const Operand* x, const Operand* where, Py_ssize_t i, Py_ssize_t last,
    const PrimitiveScratch* scratch, vec* like
) noexcept nogil:
    """`read_row`, but -inf where elements are masked."""
    cdef vec* buffer = <vec*>scratch.x[i & 1]
    cdef vec* row = read_row(window, x, i, last, <double**>scratch.x, like)
    if where.kind == ABSENT:
        return row
    mask_row(row, gather_mask(where, i, 0, x.n, scratch.mask), buffer, x.n, -INFINITY)
    return buffer


cdef inline vec* read_masked_ahead(
    Window* window, const Operand* x, const Operand* where, Py_ssize_t i, Py_ssize_t last,
    const PrimitiveScratch* scratch, vec* like
) noexcept nogil:
    """`read_ahead` of `read_masked_row`."""
    if i >= last or not is_ready(window, i):
        return <vec*>NULL
    return read_masked_row(window, x, where, i, last, scratch, like)


cdef inline void look_ahead(Traffic* traffic, const vec* row, const vec* next) noexcept nogil:
    """Fetch and search the next row, unless it is NULL, while `row` is computed."""
    traffic.next = <const char*>next
    traffic.soon = <const char*>(next if next is not NULL else row) + AHEAD_IN_ROW
    traffic.soon_out = NULL


cdef inline Peak next_peak(
    const Traffic* traffic, const vec* search, const vec* row, Py_ssize_t n, bint finds_index
) noexcept nogil:
    """The maximum of a row, which has been searched if the traffic says so."""
    return end_search(search, row, n, finds_index) if traffic.next is not NULL else find_peak_of(row, n, finds_index)


cdef void logsumexp_rows(
    const LogsumexpTask* task, const PrimitiveScratch* scratch, Py_ssize_t first, Py_ssize_t last, vec* like
) noexcept nogil:
    """Whole rows. Each is searched for its maximum while the exponentials of the one before are summed."""
    cdef const Operand* x = &task.x
    cdef const Operand* where = &task.where
    cdef Py_ssize_t i
    cdef vec* row
    cdef vec* next
    cdef Peak peak
    cdef RowSum sums
    cdef Shift shift
    cdef Window window
    cdef vec total[2]
    cdef vec search[SEARCH_VECTORS]
    cdef Traffic traffic = no_traffic(like)
    open_window(&window, x, first, last, like)
    row = read_masked_row(&window, x, where, first, last, scratch, like)
    peak = find_peak_of(row, x.n, True)
    for i in range(first, last):
        next = read_masked_ahead(&window, x, where, i + 1, last, scratch, like)
        look_ahead(&traffic, row, next)
        if shift_row(&shift, &peak, like):
            total[HIGH] = total[LOW] = fill(like, 0)
            start_search(search)
            add_and_search(row, <vec*>NULL, x.n, &shift, total, &traffic, search)
            sums = sum_row(&shift, total)
            write_number(&task.out, i, value(logsumexp_of(&shift, &sums)))
        else:
            traffic.next = NULL
            write_number(&task.out, i, NAN if has_nan(row, x.n) else peak.high)
        if i + 1 < last:
            row = next if next is not NULL else read_masked_row(&window, x, where, i + 1, last, scratch, like)
            peak = next_peak(&traffic, search, row, x.n, True)
    close_window(&window)


cdef void logsumexp_long_rows(
    const LogsumexpTask* task, const PrimitiveScratch* scratch, Py_ssize_t first, Py_ssize_t last, vec* like
) noexcept nogil:
    """Piece by piece: the maximum, then the sum."""
    cdef const Operand* x = &task.x
    cdef Py_ssize_t i, start, count
    cdef bint is_finite
    cdef double result
    cdef vec* row
    cdef Peak peak
    cdef RowSum sums
    cdef Shift shift
    cdef vec total[2]
    cdef Traffic traffic = no_traffic(like)
    for i in range(first, last):
        peak = find_peak(x, &task.where, i, task.piece, scratch, like)
        is_finite = shift_row(&shift, &peak, like)
        result = peak.high
        total[HIGH] = total[LOW] = fill(like, 0)
        start = 0
        while start < x.n:
            count = min(task.piece, x.n - start)
            row = gather_masked(x, &task.where, i, start, count, scratch, like)
            if is_finite:
                add_exponentials(
                    row, <vec*>NULL, <vec*>NULL, count, peak.index - start, &shift, total, &traffic
                )
            elif has_nan(row, count):
                result = NAN
            start += count
        if is_finite:
            sums = sum_row(&shift, total)
            result = value(logsumexp_of(&shift, &sums))
        write_number(&task.out, i, result)


cdef void softmax_rows(
    const SoftmaxTask* task, const PrimitiveScratch* scratch, Py_ssize_t first, Py_ssize_t last, vec* like
) noexcept nogil:
    """Whole rows: while the exponentials of one are computed, the next is searched, and the one before is multiplied by
    its factor and stored."""
    cdef const Operand* x = &task.x
    cdef const Operand* where = &task.where
    cdef const Operand* out = &task.out
    cdef Py_ssize_t i
    cdef bint finds_index = task.logarithm
    cdef Finish how
    cdef vec* row
    cdef vec* next
    cdef vec* result
    cdef Peak peak
    cdef Window window, window_out
    cdef vec search[SEARCH_VECTORS]
    cdef Traffic traffic = no_traffic(like)
    open_window(&window, x, first, last, like)
    open_window(&window_out, out, first, last, like)
    row = read_masked_row(&window, x, where, first, last, scratch, like)
    peak = find_peak_of(row, x.n, finds_index)
    for i in range(first, last):
        next = read_masked_ahead(&window, x, where, i + 1, last, scratch, like)
        look_ahead(&traffic, row, next)
        result = place_through(&window_out, out, i, last, <vec*>scratch.result[traffic.free_buffer])
        start_search(search)
        if task.logarithm:
            how = log_softmax_row(row, x.n, &peak, &traffic, search)
            scatter_through(&window_out, out, i, result, row, &how, &traffic)
            if not is_plain(x, row) or where.kind != ABSENT:    # the place of the row is needed for another one
                finish(&traffic, 0, like)
        else:
            how = softmax_row(row, result, x.n, &peak, &traffic, search)
            scatter_through(&window_out, out, i, result, result, &how, &traffic)
        if i + 1 < last:
            row = next if next is not NULL else read_masked_row(&window, x, where, i + 1, last, scratch, like)
            peak = next_peak(&traffic, search, row, x.n, finds_index)
    finish(&traffic, 0, like)
    close_window(&window)
    close_window(&window_out)


cdef void softmax_long_rows(
    const SoftmaxTask* task, const PrimitiveScratch* scratch, Py_ssize_t first, Py_ssize_t last, vec* like
) noexcept nogil:
    """The same piece by piece: the maximum, the sum, and results, whose exponentials are computed again."""
    cdef const Operand* x = &task.x
    cdef Py_ssize_t i, start, count
    cdef vec* row
    cdef vec* result
    cdef vec* nothing = NULL
    cdef Peak peak
    cdef Shift shift
    cdef Finish how
    cdef double log_sum = NAN
    cdef vec total[2]
    cdef vec unused[2]
    cdef Traffic traffic = no_traffic(like)
    for i in range(first, last):
        peak = find_peak(x, &task.where, i, PIECE_ELEMENTS, scratch, like)
        total[HIGH] = total[LOW] = fill(like, 0)
        if isfinite(peak.high):
            set_shift(&shift, &peak, like)
            start = 0
            while start < x.n:
                count = min(PIECE_ELEMENTS, x.n - start)
                row = gather_masked(x, &task.where, i, start, count, scratch, like)
                if task.logarithm:
                    add_exponentials(
                        row, <vec*>NULL, <vec*>NULL, count, peak.index - start, &shift, total, &traffic
                    )
                else:
                    add_all_and_search(row, <vec*>NULL, count, &shift, total, &traffic, nothing)
                start += count
            if task.logarithm:
                log_sum = value(sum_row(&shift, total).log_sum)
            else:
                how = probabilities_of(&shift, total)
        start = 0
        while start < x.n:
            count = min(PIECE_ELEMENTS, x.n - start)
            row = gather_masked(x, &task.where, i, start, count, scratch, like)
            result = place(&task.out, i, start, <vec*>scratch.result[0])
            if not isfinite(peak.high):
                fill_row(result, count, NAN)
            elif task.logarithm:
                how = subtract_from(peak.high, log_sum)
                send(&traffic, result, row, count, False, &how)
                finish(&traffic, 0, like)
            else:
                unused[HIGH] = unused[LOW] = fill(like, 0)
                add_exponentials(row, <vec*>NULL, result, count, -1, &shift, unused, &traffic)
                send(&traffic, result, result, count, False, &how)
                finish(&traffic, 0, like)
            scatter(&task.out, i, start, count, result)
            start += count


# --- weighted logsumexp ----------------------------------------------------------------------------------------------


cdef double sum_infinite_terms(const vf64* x, const vf64* b, Py_ssize_t n) noexcept nogil:
    """The sum of b exp(x) in a row whose largest element is infinite or NaN."""
    cdef Py_ssize_t i
    cdef double total = 0
    for i in range(n):
        if isnan(get(x, i)) or isnan(get(b, i)):
            total = NAN
        elif get(x, i) == INFINITY:     # b is not 0 here
            total += INFINITY if get(b, i) > 0 else -INFINITY
    return total


cdef inline double moderate_factor(double b, Pair* log_rest) noexcept nogil:
    """b; if it is of extreme size its mantissa, and the logarithm of the rest."""
    cdef int exponent = 0
    cdef double mantissa = frexp(b, &exponent)
    log_rest[0] = single(0)
    if -64 < exponent < 64 or not isfinite(b):
        return b
    log_rest.high = exponent * LN2_HIGH     # exact
    log_rest.low = exponent * LN2_LOW
    return mantissa


cdef void read_weighted_terms(
    const LogsumexpTask* task, Py_ssize_t i, Py_ssize_t start, Py_ssize_t n, const WeightedScratch* scratch
) noexcept nogil:
    """n elements b exp(x) of row i, as factor exp(exponent + exponent_low); 0 where they are masked."""
    cdef Py_ssize_t j
    cdef const vf64* row = gather(&task.x, i, start, n, <vf64*>scratch.x)
    cdef const vf64* b = gather(&task.weight, i, start, n, <vf64*>scratch.weight)
    cdef Pair exponent, log_rest
    if task.where.kind != ABSENT:
        mask_row(b, gather_mask(&task.where, i, start, n, scratch.mask), <vf64*>scratch.weight, n, 0)
        b = <vf64*>scratch.weight
    for j in range(n):
        scratch.factor[j] = moderate_factor(get(b, j), &log_rest)
        exponent = two_sum(get(row, j), log_rest.high)
        scratch.exponent[j] = exponent.high if get(b, j) != 0 else -INFINITY
        scratch.exponent_low[j] = exponent.low + log_rest.low if isfinite(exponent.high) else 0.0


cdef Pair log_magnitude(Pair total, const Peak* peak, double* sign) noexcept nogil:
    """log |total| + m, and the sign of the total."""
    total = two_sum(total.high, total.low) if isfinite(total.low) else single(total.high)
    sign[0] = (total.high > 0) - (total.high < 0) if not isnan(total.high) else NAN
    if sign[0] < 0:
        total.high, total.low = -total.high, -total.low
    if 0 < total.high < INFINITY:
        total = log_pair(total)
    else:
        total = single(-INFINITY if sign[0] == 0 else total.high)
    add(&total, peak.high)
    total.low += peak.low
    return total


cdef void weighted_logsumexp_rows(
    const LogsumexpTask* task, const WeightedScratch* scratch, Py_ssize_t first, Py_ssize_t last
) noexcept nogil:
    """log |sum(b exp(x))| and the sign of that sum, in float64 whatever the type: terms may cancel. A long row comes in
    pieces, which are computed twice: for the largest term, and for the sum."""
    cdef Py_ssize_t i, start, count, n = task.x.n
    cdef double sign, infinite
    cdef vf64* e = <vf64*>scratch.exponent
    cdef vf64* low = <vf64*>scratch.exponent_low
    cdef vf64* factor = <vf64*>scratch.factor
    cdef Peak peak
    cdef Shift shift
    cdef vf64 unused[2]
    cdef Pair total
    cdef Traffic traffic = no_traffic(e)
    for i in range(first, last):
        peak = no_peak()
        start = 0
        while start < n:
            count = min(n - start, PIECE_ELEMENTS)
            read_weighted_terms(task, i, start, count, scratch)
            raise_peak(&peak, e, low, start, count)
            start += count
        total = single(0)
        infinite = 0
        if isfinite(peak.high):
            set_shift(&shift, &peak, e)
        start = 0
        while start < n:
            count = min(n - start, PIECE_ELEMENTS)
            if n > PIECE_ELEMENTS:
                read_weighted_terms(task, i, start, count, scratch)
            if isfinite(peak.high):
                unused[HIGH] = unused[LOW] = fill(e, 0)
                add_exponentials(e, low, e, count, -1, &shift, unused, &traffic)
                add_pair(&total, multiply(sum_products(e, factor, count), unit_of(&shift, e)))
            else:
                infinite += sum_infinite_terms(e, factor, count)
            start += count
        if isfinite(peak.high):
            total = log_magnitude(total, &peak, &sign)
        else:
            sign = (infinite > 0) - (infinite < 0) if not isnan(infinite) else NAN
            total = single(-INFINITY if infinite == 0 else fabs(infinite))
        if task.sign.kind == ABSENT and sign < 0:
            total = single(NAN)
        write_number(&task.out, i, value(total))
        write_number(&task.sign, i, sign)


# --- losses ----------------------------------------------------------------------------------------------------------


cdef inline bint overflows(const Batch* batch, const Row* row, const vec* like) noexcept nogil:
    """Whether logits that were scaled, or distances in float32, may be infinite for that alone."""
    if isfinite(row.shift.peak.high) and isfinite(row.weighted_distance.high) or batch.transform.softcap != 0:
        return False
    if vec is vf32:
        return batch.transform.scale != 1 or isfinite(row.shift.peak.high)
    return batch.transform.scale != 1 and batch.transform.origin == 0


cdef double choose_origin(const Batch* batch, Py_ssize_t i) noexcept nogil:
    """The logit that is the largest when all are scaled; 0 if none overflows then, or if one is NaN or infinite."""
    cdef Py_ssize_t j
    cdef double x, sign = 1 if batch.transform.scale > 0 else -1, most = -INFINITY, least = INFINITY
    for j in range(batch.logits.n):
        x = read_number(place_of(&batch.logits, i, j), batch.logits.kind)
        if x == -INFINITY or (batch.where.kind != ABSENT and not row_of(&batch.where, i)[j * batch.where.step]):
            continue
        if not isfinite(x):
            return 0
        most, least = max(most, sign * x), min(least, sign * x)
    if not isfinite(most) or isfinite(batch.transform.scale * max(fabs(most), fabs(least))):
        return 0
    return sign * most


cdef bint repeats_row(const Batch* batch, const Row* row, const vec* like) noexcept nogil:
    """Whether a row is to be repeated in `repeat_row`: with an extreme sample weight; or because it overflows here, one
    of float32 always, one of float64 if its logits have an origin to subtract, which a z_loss, a function of the logits
    themselves, does not allow."""
    if needs_own_unit(batch, row.weight.high):
        return True
    if not overflows(batch, row, like):
        return False
    return vec is vf32 or (batch.z_loss == 0 and choose_origin(batch, row.i) != 0)


cdef void repeat_row(const Batch* batch, LossScratch* scratch, Py_ssize_t i, Pair* total, vec* like) noexcept nogil:
    """Compute a row in float64, under an extreme weight in a unit of its own; if it overflows in float64 too, from the
    distances of its logits to the largest."""
    cdef Batch moved = batch[0]
    finish(&scratch.traffic, 0, like)
    if needs_own_unit(batch, weight_of(&batch.sample_weight, i)):
        moved.has_extreme_weights = True
        moved.piece = min(batch.logits.n, PIECE_ELEMENTS)       # for which there is scratch
    elif vec is vf64:
        moved.transform.origin = choose_origin(batch, i)
    cross_entropy_rows(&moved, scratch, i, i + 1, total, <vf64*>NULL)


cdef struct OutputRows:         # the rows of the gradient and of the Hessian that are being computed
    Window grad_window
    Window hess_window
    double* grad                # where they go; NULL if they are not wanted, or written in pieces
    double* hess


cdef inline void open_outputs(
    OutputRows* rows, const Batch* batch, Py_ssize_t first, Py_ssize_t last, const vec* like
) noexcept nogil:
    open_window(&rows.grad_window, &batch.grad, first, last, like)
    open_window(&rows.hess_window, &batch.hess, first, last, like)
    rows.grad = rows.hess = NULL


cdef inline void close_outputs(OutputRows* rows) noexcept nogil:
    close_window(&rows.grad_window)
    close_window(&rows.hess_window)


cdef inline void place_outputs(
    OutputRows* rows, const Reader* reader, Py_ssize_t i, const Traffic* traffic, vec* like
) noexcept nogil:
    """`place_through` for row i, if it is read whole."""
    cdef const Batch* batch = reader.batch
    cdef Py_ssize_t last = reader.last
    cdef vec* buffer = <vec*>reader.scratch.grad[traffic.free_buffer]
    if batch.grad.kind != ABSENT and reader.reads_whole_rows:
        rows.grad = <double*>place_through(&rows.grad_window, &batch.grad, i, last, buffer)
    if batch.hess.kind != ABSENT and reader.reads_whole_rows:
        buffer = <vec*>reader.scratch.hess      # which no Hessian needs in order to go around the cache
        if rows.hess_window.most > 0:
            buffer = place_through(&rows.hess_window, &batch.hess, i, last, buffer)
        rows.hess = <double*>place(&batch.hess, i, 0, buffer)


cdef inline void store_hessian(
    OutputRows* rows, const Batch* batch, Py_ssize_t i, Traffic* traffic, const vec* like
) noexcept nogil:
    cdef Finish as_it_is = multiply_by(1)
    cdef vec* hess = <vec*>rows.hess
    if hess is not NULL:
        scatter_through(&rows.hess_window, &batch.hess, i, hess, hess, &as_it_is, traffic)


cdef inline void store_gradient(
    OutputRows* rows, const Batch* batch, Py_ssize_t i, const Finish* how, Traffic* traffic, const vec* like
) noexcept nogil:
    cdef vec* grad = <vec*>rows.grad
    if grad is not NULL:
        scatter_through(&rows.grad_window, &batch.grad, i, grad, grad, how, traffic)


cdef inline void read_back(
    OutputRows* rows, const Batch* batch, Py_ssize_t i, Traffic* traffic, vec* like
) noexcept nogil:
    """Fetch what another call has written of row i, where a window would overwrite it."""
    cdef Finish as_it_is = multiply_by(1)
    if rows.grad_window.most > 0:
        gather(&batch.grad, i, 0, batch.grad.n, <vec*>rows.grad)
        store_gradient(rows, batch, i, &as_it_is, traffic, like)
    if rows.hess_window.most > 0:
        gather(&batch.hess, i, 0, batch.hess.n, <vec*>rows.hess)
        store_hessian(rows, batch, i, traffic, like)


cdef void cross_entropy_rows(
    const Batch* batch, LossScratch* scratch, Py_ssize_t first, Py_ssize_t last, Pair* total, vec* like
) noexcept nogil:
    """Add up the losses; write each loss, gradient and Hessian where they are wanted."""
    cdef Py_ssize_t i
    cdef bint wants_grad = batch.grad.kind != ABSENT
    cdef Traffic* traffic = &scratch.traffic
    cdef Reader reader
    cdef OutputRows rows
    cdef Row row
    cdef Pair loss
    cdef double constant
    cdef Finish as_it_is = multiply_by(1)
    cdef vec* grad
    cdef vec* hess
    cdef vec* soon_target = NULL
    open_reader(&reader, batch, scratch, first, last, like)
    open_outputs(&rows, batch, first, last if reader.reads_whole_rows else first, like)
    traffic.next = NULL
    for i in range(first, last):
        describe_row(&reader, i, weight_of(&batch.sample_weight, i), scratch, &row, like)
        place_outputs(&rows, &reader, i, traffic, like)
        grad, hess = <vec*>rows.grad, <vec*>rows.hess
        if row.weight.high == 0 or row.points.count < 0:
            constant = NAN if row.weight.high != 0 and row.points.count == INVALID else 0
            loss = single(constant)
            write_constants(&reader, i, grad, hess, constant, like)
        else:
            row.shift.peak = read_peak(&reader, &row, like)
            if reader.reads_whole_rows:
                traffic.soon = <const char*>next_row(&batch.logits, i, <vec*>row.all.x)
                traffic.soon_out = <const char*>next_place(&batch.grad, i, grad) if wants_grad else NULL
                soon_target = next_row(&batch.target, i, <vec*>row.all.target) if row.is_dense else NULL
            weigh_row(&reader, &row, soon_target, like)
            if repeats_row(batch, &row, like):
                repeat_row(batch, scratch, i, total, like)
                read_back(&rows, batch, i, traffic, like)
                continue
            loss = loss_row(&reader, &row, grad, hess, wants_grad, traffic, like)
        store_hessian(&rows, batch, i, traffic, like)
        store_gradient(&rows, batch, i, &as_it_is, traffic, like)
        write_number(&batch.loss, i, value(loss))
        add_pair(total, loss)
    close_window(&reader.window)
    close_outputs(&rows)


cdef bint has_loss_tiles(const Batch* batch) noexcept nogil:
    """Whether `cross_entropy_tiles` computes the batch."""
    return has_plain_formula(batch) and fits_tile(batch.logits.n, batch.logits.kind, LOSS_TILE)


cdef bint has_label_rows(const Batch* batch) noexcept nogil:
    """Whether `label_rows` computes the batch."""
    return (
        batch.form == LABELS and batch.where.kind == ABSENT and has_plain_formula(batch)
        and not has_loss_tiles(batch) and batch.logits.n > 0 and batch.piece == batch.logits.n
    )


cdef inline bint describe_label(
    const Batch* batch, Py_ssize_t i, const Peak* peak, const vec* x, Row* row
) noexcept nogil:
    """As `describe_row` and `weigh_row`; False if the row needs them."""
    cdef int64_t label = read_integer(row_of(&batch.target, i), batch.target.kind)
    row.weight = single(weight_of(&batch.sample_weight, i))
    if not is_class(batch, label) or not is_usual_weight(row.weight.high) or not isfinite(peak.high):
        return False
    row.only_class = label
    row.target_mass = single(class_weight_of(batch, label))
    row.label_distance = two_sum(peak.high, -get(x, label))
    row.has_largest = row.label_distance.high == 0
    return isfinite(row.label_distance.high) and row.target_mass.high != 0


cdef inline bint has_plain_derivatives(const Batch* batch, const vec* like) noexcept nogil:
    return is_plain(&batch.grad, like) and is_plain(&batch.hess, like)


cdef inline void set_label(Curve* curve, Py_ssize_t label, double term, const vec* like) noexcept nogil:
    """The Hessian of the label, whose term the gradient will replace, to the bit as the others."""
    cdef vec hess = curved(fill(like, term), fill(like, curve.factor), fill(like, -curve.slope))
    curve.label, curve.at_label = label, get(&hess, 0)


cdef inline void finish_label_row(
    const Batch* batch, Row* row, OutputRows* rows, Py_ssize_t i, Pair scale, Traffic* traffic, vec* like
) noexcept nogil:
    """From the terms of a row, in the place of its gradient, to gradient and Hessian: while the next row is computed, as
    far as factors can do it."""
    cdef vec* grad = <vec*>rows.grad
    cdef vec* hess = <vec*>rows.hess
    cdef LabelGradient gradient = label_gradient(
        &row.sums, get(grad, row.only_class), row.has_largest, scale, grad
    )
    cdef double label_term = term_to_scale(gradient.at_label, gradient.factor, grad)
    cdef bint is_factor = isfinite(label_term) and is_moderate(grad, gradient.factor), sends_hess = False
    cdef Finish how = multiply_by(gradient.factor if is_factor else 1)
    cdef Curve curve
    if hess is not NULL:
        curve = hessian_of(&row.sums, row.shift.peak.index, scale, gradient.factor, like)
        sends_hess = is_factor and curve.fits_type and has_plain_derivatives(batch, like)
        if sends_hess:
            set_label(&curve, row.only_class, get(grad, row.only_class), like)
        else:
            compute_hessian(&curve, grad, hess, 0, batch.logits.n)
            store_hessian(rows, batch, i, traffic, like)
    if isfinite(label_term):
        put(grad, row.only_class, label_term)
    if not is_factor:
        scale_row(grad, <vec*>NULL, batch.logits.n, gradient.factor, 0)
    if not isfinite(label_term):
        put(grad, row.only_class, gradient.at_label)
    store_gradient(rows, batch, i, &how, traffic, like)
    if sends_hess:
        send_hessian(traffic, hess, grad, batch.logits.n, batch.hess.streams, &curve)


cdef void label_rows(
    const Batch* batch, LossScratch* scratch, const BlockClaim* claim, double* sums_of_blocks, vec* like
) noexcept nogil:
    """The rows of a claim, without options that change the formula. While the exponentials of a row are summed, the next
    row is searched, and the gradient of the row before is multiplied by its factor and stored."""
    cdef Py_ssize_t first = claim.first, last = claim.last, block = claim.block
    cdef const Operand* x = &batch.logits
    cdef Py_ssize_t i, n = batch.logits.n
    cdef Traffic* traffic = &scratch.traffic
    cdef Reader reader
    cdef OutputRows rows
    cdef Row row
    cdef Peak peak
    cdef Pair loss, weight, total = single(0)
    cdef vec* logits
    cdef vec* next
    cdef vec* grad
    cdef vec sums[2]
    cdef vec search[SEARCH_VECTORS]
    open_reader(&reader, batch, scratch, first, last, like)
    open_outputs(&rows, batch, first, last, like)
    row.z_loss = 0
    logits = read_row(&reader.window, x, first, last, reader.scratch.x, like)
    peak = find_peak_of(logits, n, True)
    for i in range(first, last):
        next = NULL
        place_outputs(&rows, &reader, i, traffic, like)
        grad = <vec*>rows.grad
        if describe_label(batch, i, &peak, logits, &row):
            next = read_ahead(&reader.window, x, i + 1, last, reader.scratch.x, like)
            look_ahead(traffic, logits, next)
            set_shift(&row.shift, &peak, like)
            sums[HIGH] = sums[LOW] = fill(like, 0)
            start_search(search)
            add_and_search(logits, grad, n, &row.shift, sums, traffic, search)
            row.sums = sum_row(&row.shift, sums)
            weight = row_weight(&row)
            if grad is not NULL:
                finish_label_row(batch, &row, &rows, i, multiply(weight, reader.scale), traffic, like)
            loss = label_loss(&row.sums, row.label_distance, weight, like)
            write_number(&batch.loss, i, value(loss))
            add_pair(&total, loss)
        else:
            traffic.next = NULL
            finish(traffic, 0, like)
            cross_entropy_rows(batch, scratch, i, i + 1, &total, like)
            read_back(&rows, batch, i, traffic, like)
        if i + 1 == end_of_block(claim.job, block):
            sums_of_blocks[block] = value(total)
            total = single(0)
            block += 1
        if i + 1 < last:
            logits = next if next is not NULL else read_row(&reader.window, x, i + 1, last, reader.scratch.x, like)
            peak = next_peak(traffic, search, logits, n, True)
    close_window(&reader.window)
    close_outputs(&rows)


cdef Pair negative_log_likelihood(const Batch* batch, const LossScratch* scratch, Py_ssize_t i) noexcept nogil:
    """-sum(t_c log p_c) of a row of probabilities."""
    cdef Py_ssize_t j
    cdef double t
    cdef char* target = row_of(&batch.target, i)
    cdef Points points
    cdef Pair loss = single(0)
    if batch.form == DISTRIBUTION:
        for j in range(batch.logits.n):
            t = read_number(target + j * batch.target.step, batch.target.kind)
            if t != 0:
                add_pair(&loss, multiply(minus_log_at(batch, i, j), single(t)))
        return loss
    points = read_points(batch, i, scratch, 0)
    if points.count == INVALID:
        return single(NAN)
    for j in range(points.count):
        add_pair(&loss, multiply(minus_log_at(batch, i, points.index[j]), points.mass[j]))
    return loss


cdef inline Pair minus_log_at(const Batch* batch, Py_ssize_t i, Py_ssize_t c) noexcept nogil:
    return minus_log(read_number(place_of(&batch.logits, i, c), batch.logits.kind))


cdef double log_loss_rows(
    const Batch* batch, const LossScratch* scratch, Py_ssize_t first, Py_ssize_t last
) noexcept nogil:
    cdef Py_ssize_t i
    cdef double weight
    cdef int exponent = 0
    cdef Pair loss, total = single(0)
    for i in range(first, last):
        weight = weight_of(&batch.sample_weight, i)
        loss = negative_log_likelihood(batch, scratch, i) if weight != 0 else single(0)
        exponent = 0
        if batch.has_extreme_weights or needs_own_unit(batch, weight):
            weight = frexp(weight, &exponent)
            exponent -= batch.weight_exponent
        loss = scale_pair(multiply(loss, single(weight)), exponent)
        write_number(&batch.loss, i, value(loss))
        add_pair(&total, loss)
    return value(total)


include "_core/tile_kernels.pxi"
include "_core/distribution_tiles.pxi"


# --- one block -------------------------------------------------------------------------------------------------------


cdef void logsumexp_block(
    const LogsumexpTask* task, Py_ssize_t first, Py_ssize_t last, vec* memory
) noexcept nogil:
    cdef PrimitiveScratch scratch
    cdef Operand absent
    absent.kind = ABSENT
    lay_out_primitive(&task.x, &task.where, &absent, task.piece, <double*>memory, &scratch)
    if fits_tile(task.x.n, task.x.kind, LOSS_TILE):
        logsumexp_tiles(task, &scratch, first, last, memory)
    elif task.piece == task.x.n:
        logsumexp_rows(task, &scratch, first, last, memory)
    else:
        logsumexp_long_rows(task, &scratch, first, last, memory)


cdef void softmax_block(const SoftmaxTask* task, Py_ssize_t first, Py_ssize_t last, vec* memory) noexcept nogil:
    cdef PrimitiveScratch scratch
    lay_out_primitive(&task.x, &task.where, &task.out, task.piece, <double*>memory, &scratch)
    if fits_tile(task.x.n, task.x.kind, LOG_SOFTMAX_TILE if task.logarithm else SOFTMAX_TILE):
        softmax_tiles(task, &scratch, first, last, memory)
    elif task.piece == task.x.n:
        softmax_rows(task, &scratch, first, last, memory)
    else:
        softmax_long_rows(task, &scratch, first, last, memory)
    if task.out.streams:
        xent_drain()


cdef double cross_entropy_block(
    const Batch* batch, LossScratch* scratch, Py_ssize_t first, Py_ssize_t last, vec* like
) noexcept nogil:
    cdef Pair total = single(0)
    if has_loss_tiles(batch):
        cross_entropy_tiles(batch, scratch, first, last, &total, like)
    elif has_distribution_tiles(batch):
        distribution_tiles(batch, scratch, first, last, &total, like)
    else:
        cross_entropy_rows(batch, scratch, first, last, &total, like)
    return value(total)


# ---------------------------------------------------------------------------------------------------------------------
# What Python calls, with arrays that are known to be good. A worker is what each thread does: it claims blocks of rows
# and computes them, in float32 or in float64. What a block adds up to goes to a place of its own, so that a total does
# not depend on which thread did which block.
# ---------------------------------------------------------------------------------------------------------------------

BINARY_CHUNK = CHUNK    # elements in a unit of binary_cross_entropy
LARGEST_USUAL_WEIGHT = largest_usual_weight()       # of a row; what is larger, or smaller than its inverse, is extreme


def cpu_sets():
    """The instruction sets, beyond the baseline, that this CPU and its operating system offer, slowest first."""
    return [name for name, present in (("avx2", xent_cpu_has_avx2()), ("avx512", xent_cpu_has_avx512())) if present]


# --- logsumexp and softmax -------------------------------------------------------------------------------------------


cdef void weighted_logsumexp_blocks(const LogsumexpTask* task, double* memory, BlockClaim* claim) noexcept nogil:
    cdef WeightedScratch scratch
    lay_out_weighted(&task.x, &task.where, memory, &scratch)
    while claim_blocks(claim):
        weighted_logsumexp_rows(task, &scratch, claim.first, claim.last)


cdef void logsumexp_blocks(const LogsumexpTask* task, vec* memory, BlockClaim* claim) noexcept nogil:
    while claim_blocks(claim):
        logsumexp_block(task, claim.first, claim.last, memory)


cdef void logsumexp_worker(const void* task, double* memory, BlockClaim* claim) noexcept nogil:
    cdef const LogsumexpTask* t = <const LogsumexpTask*>task
    if t.weight.kind != ABSENT:
        weighted_logsumexp_blocks(t, memory, claim)
    elif t.x.kind == F64:
        logsumexp_blocks(t, <vf64*>memory, claim)
    else:
        logsumexp_blocks(t, <vf32*>memory, claim)


def logsumexp(x, where, weight, out, sign, int row_axes, Work work):
    """out = logsumexp of the rows of x, its last axes, masked and weighted or (None) not; sign (or None) = the sign of
    the weighted sums."""
    cdef LogsumexpTask task
    bind(&task.x, x, row_axes)
    bind(&task.where, where, row_axes)
    bind(&task.weight, weight, row_axes)
    bind(&task.out, out, 0)
    bind(&task.sign, sign, 0)
    work.do(logsumexp_worker, &task, plan_logsumexp(&task, work.job.threads))


cdef void softmax_blocks(const SoftmaxTask* task, vec* memory, BlockClaim* claim) noexcept nogil:
    while claim_blocks(claim):
        softmax_block(task, claim.first, claim.last, memory)


cdef void softmax_worker(const void* task, double* memory, BlockClaim* claim) noexcept nogil:
    cdef const SoftmaxTask* t = <const SoftmaxTask*>task
    if t.x.kind == F64:
        softmax_blocks(t, <vf64*>memory, claim)
    else:
        softmax_blocks(t, <vf32*>memory, claim)


def softmax(x, where, out, bint logarithm, int row_axes, Work work):
    """out = softmax or, if `logarithm`, log_softmax of the rows of x, its last axes, masked or (None) not; out may be
    x."""
    cdef SoftmaxTask task
    bind(&task.x, x, row_axes)
    bind(&task.where, where, row_axes)
    bind_output(&task.out, out, row_axes, &task.x)
    task.logarithm = logarithm
    work.do(softmax_worker, &task, plan_softmax(&task, work.job.threads))


# --- batches of logits and targets -----------------------------------------------------------------------------------


cdef int bind_batch(Batch* batch, problem, options, int weight_exponent) except -1:
    cdef bint is_dense = cnp.PyArray_NDIM(<cnp.ndarray>problem.target) == cnp.PyArray_NDIM(<cnp.ndarray>problem.logits)
    set_defaults(batch)
    if problem.target_probs is not None:
        batch.form = SPARSE
    elif is_dense:
        batch.form = DISTRIBUTION
    batch.ignores = options.ignore_index is not None
    batch.ignore_index = options.ignore_index if batch.ignores else 0
    batch.transform.scale = options.logit_scale
    batch.transform.softcap = options.softcap
    batch.smoothing = options.label_smoothing
    batch.z_loss = options.z_loss
    batch.poly_epsilon = options.poly_epsilon
    batch.focal_gamma = options.focal_gamma
    batch.has_extreme_weights = options.extreme
    batch.weight_exponent = weight_exponent
    bind(&batch.logits, problem.logits, 1)
    bind(&batch.target, problem.target, batch.form != LABELS)
    bind(&batch.target_probs, problem.target_probs, 1)
    bind(&batch.where, problem.where, 1)
    bind(&batch.class_weight, problem.class_weight, 1)
    bind(&batch.sample_weight, problem.sample_weight, 0)
    return 0


cdef struct BatchTask:
    Batch batch
    WeightSum* weights      # of each block
    double* sums            # of each block
    xent_shared bad         # the first label or class that is out of range, or PY_SSIZE_T_MAX


cdef void target_weight_blocks(BatchTask* task, vec* memory, BlockClaim* claim) noexcept nogil:
    cdef WeightScratch scratch
    cdef Py_ssize_t bad
    cdef int64_t first
    lay_out_weights(&task.batch, <double*>memory, &scratch)
    while next_block(claim):
        bad = weigh_rows(&task.batch, &scratch, claim.first, claim.last, &task.weights[claim.block], memory)
        if bad >= 0:
            first = xent_load(&task.bad)
            while bad < first and not xent_replace(&task.bad, first, bad):
                first = xent_load(&task.bad)


cdef void target_weight_worker(const void* task, double* memory, BlockClaim* claim) noexcept nogil:
    cdef BatchTask* t = <BatchTask*>task
    if t.batch.logits.kind == F64:
        target_weight_blocks(t, <vf64*>memory, claim)
    else:
        target_weight_blocks(t, <vf32*>memory, claim)


def target_weight(problem, options, sums, Work work):
    """sums = sample weight times target mass of each block, three numbers each: high, low, and the exponent of their
    unit. Return the place in the target of the first label or class that is out of range, or -1."""
    cdef BatchTask task
    cdef WeightScratch unused
    bind_batch(&task.batch, problem, options, 0)
    task.weights = <WeightSum*>data_of_blocks(sums, work, 3)
    task.bad = PY_SSIZE_T_MAX
    work.do(target_weight_worker, &task, lay_out_weights(&task.batch, NULL, &unused))
    return task.bad if task.bad < PY_SSIZE_T_MAX else -1


cdef void cross_entropy_blocks(const BatchTask* task, vec* memory, BlockClaim* claim) noexcept nogil:
    cdef LossScratch scratch
    lay_out_loss(&task.batch, <double*>memory, &scratch)
    if has_label_rows(&task.batch):
        while claim_blocks(claim):
            label_rows(&task.batch, &scratch, claim, task.sums, memory)
    else:
        while next_block(claim):
            task.sums[claim.block] = cross_entropy_block(&task.batch, &scratch, claim.first, claim.last, memory)
    finish(&scratch.traffic, 0, memory)
    if task.batch.grad.streams or task.batch.hess.streams:
        xent_drain()


cdef void cross_entropy_worker(const void* task, double* memory, BlockClaim* claim) noexcept nogil:
    cdef const BatchTask* t = <const BatchTask*>task
    if needs_float64(&t.batch):
        cross_entropy_blocks(t, <vf64*>memory, claim)
    else:
        cross_entropy_blocks(t, <vf32*>memory, claim)


def cross_entropy(problem, options, outputs, sums, Work work):
    """outputs: LossOutputs of _calls/outputs.py; sums = the loss of each block, in the units of the outputs."""
    cdef BatchTask task
    bind_batch(&task.batch, problem, options, outputs.exponent)
    task.batch.divisor = outputs.divisor
    bind(&task.batch.loss, outputs.loss, 0)
    bind_output(&task.batch.grad, outputs.grad, 1, &task.batch.logits)
    bind_output(&task.batch.hess, outputs.hess, 1, &task.batch.logits)
    task.sums = data_of_blocks(sums, work, 1)
    work.do(cross_entropy_worker, &task, plan_batch(&task.batch, work.job.threads))


cpdef Py_ssize_t batch_scratch(Py_ssize_t classes, Py_ssize_t points):
    """The most that `plan_batch` asks for, whatever the options, without a Hessian."""
    cdef Py_ssize_t most_rows = sizeof(RowScratch) // sizeof(double*) - 1
    cdef Py_ssize_t rows = most_rows * row_space(min(classes, PIECE_ELEMENTS))
    cdef Py_ssize_t tiles = 0
    rows = max(rows, min(most_rows * row_space(classes), SCRATCH_BYTES // sizeof(double)))
    if classes <= MAX_TILE_CLASSES:
        tiles = 3 * row_space(classes) + 3 * tile_space(classes) + LINE_DOUBLES
    return rows + 7 * max(points, 1) + tiles + 4 * LINE_DOUBLES


cdef void log_loss_worker(const void* task, double* memory, BlockClaim* claim) noexcept nogil:
    cdef const BatchTask* t = <const BatchTask*>task
    cdef LossScratch scratch
    lay_out_loss(&t.batch, memory, &scratch)
    while next_block(claim):
        t.sums[claim.block] = log_loss_rows(&t.batch, &scratch, claim.first, claim.last)


def log_loss(problem, options, int weight_exponent, loss, sums, Work work):
    """loss (or None) = minus the logarithm of the probability of each row's target; sums = the loss of each block."""
    cdef BatchTask task
    bind_batch(&task.batch, problem, options, weight_exponent)
    bind(&task.batch.loss, loss, 0)
    task.sums = data_of_blocks(sums, work, 1)
    work.do(log_loss_worker, &task, plan_batch(&task.batch, work.job.threads))


# --- binary losses ---------------------------------------------------------------------------------------------------


cdef struct BinaryTask:
    BinaryBatch batch
    Py_ssize_t count        # elements
    bint from_logits
    bint fits_float32
    double* sums


cdef void binary_blocks(const BinaryTask* task, vec* memory, BlockClaim* claim) noexcept nogil:
    while next_block(claim):
        task.sums[claim.block] = binary_chunks(
            &task.batch, task.from_logits, memory, claim.first * CHUNK, min(claim.last * CHUNK, task.count)
        )


cdef void binary_worker(const void* task, double* memory, BlockClaim* claim) noexcept nogil:
    cdef const BinaryTask* t = <const BinaryTask*>task
    if t.fits_float32:
        binary_blocks(t, <vf32*>memory, claim)
    else:
        binary_blocks(t, <vf64*>memory, claim)


def binary_cross_entropy(problem, options, double divisor, loss, grad, sums, Work work):
    """As `cross_entropy`, of logits or probabilities, element by element, in units of BINARY_CHUNK elements; all arrays
    (or None) have the shape of the first. options: BinaryOptions of _calls/losses.py."""
    cdef BinaryTask task
    cdef BinaryBatch* batch = &task.batch
    task.count = problem.logits.size
    batch.weight_unit = options.weight_unit
    batch.smoothing = options.label_smoothing
    batch.divisor = divisor
    bind(&batch.x, problem.logits, 1)
    bind(&batch.target, problem.target, 1)
    bind(&batch.pos_weight, problem.class_weight, 1)
    bind(&batch.sample_weight, problem.sample_weight, 1)
    bind(&batch.loss, loss, 1)
    bind(&batch.grad, grad, 1)
    # Targets and weights are not rounded to float32: the widest operand decides.
    task.fits_float32 = fits_float32(&batch.x) and fits_float32(&batch.target) and fits_float32(&batch.pos_weight)
    task.fits_float32 = task.fits_float32 and fits_float32(&batch.sample_weight)
    task.from_logits = options.from_logits
    task.sums = data_of_blocks(sums, work, 1)
    work.do(binary_worker, &task, sizeof(BinaryScratch) // sizeof(double))


include "_core/divergence_kernels.pxi"
include "_core/measures.pxi"
include "_core/fast_path.pxi"
include "_core/linear.pxi"
include "_core/descent.pxi"
include "_core/expansion.pxi"
include "_core/temperature.pxi"
