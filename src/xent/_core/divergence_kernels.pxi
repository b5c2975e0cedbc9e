# Part of _kernels.pyx, since functions that are not inline cannot be in a .pxd: how far rows are from those of a
# reference (see divergence.pxd). Rows come in pieces, which are joined in order; rows of few classes are computed side
# by side.


cdef struct PieceScratch:       # rows of a piece
    LossScratch rows            # of the reader of the logits
    LossScratch ref_rows        # of the reader of the reference
    double* e                   # terms of the logits
    double* q                   # terms of the reference
    double* grad
    double* tile_x              # rows of few classes, side by side: logits
    double* tile_ref            # and those of the reference,
    double* tile_e              # and the terms of both
    double* tile_q


cdef inline bint has_piece_tiles(const Batch* batch) noexcept nogil:
    """Whether rows are computed side by side."""
    return not transforms(batch) and fits_tile(batch.logits.n, batch.logits.kind, LOSS_TILE)


cdef Py_ssize_t lay_out_pieces(
    const Batch* batch, const Batch* reference, double* start, PieceScratch* scratch
) noexcept nogil:
    """Wide enough for float64, in which rows whose scaled logits overflow float32 are computed again."""
    cdef Memory memory
    cdef Py_ssize_t space = row_space(PIECE_ELEMENTS)
    cdef bint compares = reference.logits.kind != ABSENT, has_tiles = has_piece_tiles(batch)
    memory.start, memory.used = start, 0
    scratch.rows.rows = take(&memory, True, space_for_pieces(batch))
    scratch.ref_rows.rows = take(&memory, compares, space_for_pieces(reference))
    scratch.e = take(&memory, True, space)
    scratch.q = take(&memory, compares, space)
    scratch.grad = take(&memory, batch.grad.kind != ABSENT, space)
    scratch.tile_x = take(&memory, has_tiles, tile_space(batch.logits.n))
    scratch.tile_ref = take(&memory, has_tiles and compares, tile_space(batch.logits.n))
    scratch.tile_e = take(&memory, has_tiles, tile_space(batch.logits.n))
    scratch.tile_q = take(&memory, has_tiles and compares, tile_space(batch.logits.n))
    return memory.used


cdef inline Py_ssize_t space_for_pieces(const Batch* batch) noexcept nogil:
    cdef RowScratch unused
    cdef Py_ssize_t wide = lay_out_rows(batch, batch.piece, True, NULL, &unused)
    return max(wide, lay_out_rows(batch, batch.piece, False, NULL, &unused))


# --- one piece -------------------------------------------------------------------------------------------------------


cdef struct Readers:
    Reader logits
    Reader reference
    bint compares               # whether there is a reference
    const PieceScratch* scratch


cdef void open_readers(
    Readers* readers, const Batch* batch, const Batch* reference, const PieceScratch* scratch, Py_ssize_t first,
    Py_ssize_t last, const vec* like
) noexcept nogil:
    readers.scratch = scratch
    readers.compares = reference.logits.kind != ABSENT
    open_reader(&readers.logits, batch, &scratch.rows, first, last, like)
    open_reader(&readers.reference, reference, &scratch.ref_rows, first, last, like)


cdef void close_readers(Readers* readers) noexcept nogil:
    close_window(&readers.logits.window)
    close_window(&readers.reference.window)


cdef const vec* order_of(const Reader* reader, const vec* x, vec* buffer, Py_ssize_t n) noexcept nogil:
    """Numbers in the order of the transformed logits, which may round alike: the given ones, minus these, or zeros."""
    cdef Py_ssize_t full = n // lanes(x), tail = n - n // lanes(x) * lanes(x), i
    cdef double scale = reader.batch.transform.scale
    cdef vec bottom = fill(x, -INFINITY), lowest = fill(x, -FLT_MAX if vec is vf32 else -DBL_MAX)
    cdef vec sign = fill(x, -1 if scale < 0 else 0), y
    if scale > 0:
        return x
    for i in range(full + (tail > 0)):
        y = x[i] if i < full else load_first(x + full, tail, -INFINITY)
        y = where_equal(y, bottom, bottom, maximum(lowest, y * sign))
        if i < full:
            buffer[i] = y
        else:
            store_first(buffer + full, tail, y)
    return buffer


cdef vec* read_mass(
    Reader* reader, Py_ssize_t i, Py_ssize_t start, Py_ssize_t first_class, Py_ssize_t n, Mass* mass, vec* buffer
) noexcept nogil:
    """The logits of a piece of a row; and the largest of them, in the mass."""
    cdef vec* x = read_masked_logits(reader, i, start, n, buffer)
    mass[0] = no_mass()
    raise_peak(&mass.peak, order_of(reader, x, buffer, n), <vec*>NULL, first_class, n)
    mass.order = mass.peak.high
    if transforms(reader.batch):
        x = transform_piece(reader, x, n)
        if mass.peak.index >= 0:
            mass.peak.high = get(x, mass.peak.index - first_class)
            mass.peak.low = get(<vec*>reader.scratch.low, mass.peak.index - first_class)
    return x


cdef void sum_mass(
    const vec* x, const vec* low, vec* e, Py_ssize_t start, Py_ssize_t n, const vec* soon, Mass* mass, RowSum* sums
) noexcept nogil:
    """The rest of the mass of n classes from `start` on; e = their terms, 0 if none of them can occur. Prefetches what
    is `soon`."""
    cdef Shift shift
    cdef Traffic traffic = no_traffic(e)
    cdef vec total[2]
    if not isfinite(mass.peak.high):
        mass.has_nan = has_nan(x, n)
        if mass.has_nan or not is_empty(mass):
            mass.rest = single(NAN)
        fill_row(e, n, 0)
        sums.unit = sums.inverse = single(0)
        return
    set_shift(&shift, &mass.peak, x)
    traffic.soon = <const char*>soon
    total[HIGH] = total[LOW] = fill(x, 0)
    add_exponentials(x, low, e, n, mass.peak.index - start, &shift, total, &traffic)
    sums[0] = sum_row(&shift, total)
    mass.rest = sums.rest
    mass.has_nan = isnan(mass.rest.high)


cdef inline const vec* what_follows(const Operand* operand, Py_ssize_t i, const vec* x, Py_ssize_t n) noexcept nogil:
    """What to prefetch while n elements at x, of row i, are computed: the next row, or the next piece."""
    return next_row(operand, i, <vec*>x) if n == operand.n else element(x, n)


cdef void read_terms(
    Readers* readers, Py_ssize_t i, Py_ssize_t start, Py_ssize_t first_class, TermPiece* piece, Compared* masses,
    vec* like
) noexcept nogil:
    """Read the piece of row i that begins at `start`, where class `first_class` is; compute terms and masses."""
    cdef vec* e = <vec*>readers.scratch.e
    cdef vec* q = <vec*>readers.scratch.q
    cdef Py_ssize_t n = min(PIECE_ELEMENTS, readers.logits.batch.logits.n - start)
    cdef vec* x
    cdef const vec* soon
    masses[0] = nothing_compared()
    piece.n = n
    piece.e, piece.q = <double*>e, <double*>q
    x = read_mass(&readers.logits, i, start, first_class, n, &masses.logits, e)
    piece.x, piece.low = <double*>x, readers.logits.scratch.low
    soon = what_follows(&readers.logits.batch.logits, i, x, n)
    sum_mass(x, <vec*>piece.low, e, first_class, n, soon, &masses.logits, &piece.sums)
    if readers.compares:
        x = read_mass(&readers.reference, i, start, first_class, n, &masses.reference, q)
        piece.ref, piece.ref_low = <double*>x, readers.reference.scratch.low
        soon = what_follows(&readers.reference.batch.logits, i, x, n)
        sum_mass(x, <vec*>piece.ref_low, q, first_class, n, soon, &masses.reference, &piece.ref_sums)


cdef Pair logit_of_piece(const double* x, const double* low, Py_ssize_t j, const vec* like) noexcept nogil:
    cdef Pair logit = single(get(<const vec*>x, j))
    if low is not NULL:
        logit.low = get(<const vec*>low, j)
    return logit


cdef bint compare_again(const TermPiece* piece, Pair log_ratio, Compared* compared, const vec* like) noexcept nogil:
    """`compare_piece` from this log ratio, class by class in float64. Returns whether the new one is worth a pass."""
    cdef Pair p_scale = scale_of(&piece.sums), q_scale = scale_of(&piece.ref_sums), total = single(0), x, ref, delta
    cdef double p, q
    cdef Py_ssize_t j
    cdef ABSums sums
    sums.a = sums.b = single(0)
    for j in range(piece.n):
        x, ref = logit_of_piece(piece.x, piece.low, j, like), logit_of_piece(piece.ref, piece.ref_low, j, like)
        p = get(<const vec*>piece.e, j) * value(p_scale)
        q = get(<const vec*>piece.q, j) * value(q_scale)
        add(&total, q)      # which is 1 but for rounding
        if ref.high == -INFINITY:
            add_class(p, 0, INFINITY, &sums)
        elif x.high == -INFINITY:
            compared.divergence = INFINITY
            return False
        else:
            delta = difference_of(
                difference_of(x, peak_of(&compared.logits)), difference_of(ref, peak_of(&compared.reference))
            )
            add_class(p, q, value(difference_of(delta, log_ratio)), &sums)
    return conclude(compared, log_ratio, value(divide(sums.a, total)), value(divide(sums.b, total)), 0)


cdef void compare_piece(const TermPiece* piece, Compared* compared, const vec* like) noexcept nogil:
    """Log ratio and divergence, from the terms and masses of both rows."""
    cdef vec constants[COMPARE_VECTORS]
    cdef vec a[2]
    cdef vec t[2]
    cdef Pair log_ratio, scale
    cdef double excess_sum
    cdef Py_ssize_t i
    if is_empty(&compared.reference):
        return
    if not (has_probabilities(&compared.logits) and has_probabilities(&compared.reference)):
        compared.divergence = INFINITY
        return
    log_ratio = estimate_log_ratio(compared)
    set_constants(piece, compared, log_ratio, constants)
    a[HIGH] = a[LOW] = t[HIGH] = t[LOW] = fill(like, 0)
    compare_terms(piece, constants, a, t)
    scale = scale_of(&piece.ref_sums)
    excess_sum = value(multiply(sum_pairs(a[HIGH], a[LOW]), scale))
    # Where terms overflow, or A and B nearly cancel, the type of the vectors is too narrow.
    if not isfinite(excess_sum) or conclude(
        compared, log_ratio, excess_sum, excess_sum + value(multiply(sum_pairs(t[HIGH], t[LOW]), scale)), 0
    ):
        for i in range(MOST_PASSES):
            if not compare_again(piece, log_ratio, compared, like):
                break
            log_ratio = compared.log_ratio


# --- the divergence of rows ------------------------------------------------------------------------------------------


cdef Compared compare_row(Readers* readers, Py_ssize_t i, TermPiece* piece, vec* like) noexcept nogil:
    """`piece` holds the last piece then."""
    cdef Compared row = nothing_compared(), part
    cdef Py_ssize_t start = 0
    while start < readers.logits.batch.logits.n:
        read_terms(readers, i, start, start, piece, &part, like)
        compare_piece(piece, &part, like)
        row = join_compared(&row, &part) if start > 0 else part
        start += piece.n
    return row


cdef void write_difference(
    Readers* readers, Py_ssize_t i, const Compared* row, TermPiece* piece, double weight, vec* like
) noexcept nogil:
    """The gradient, weight (p - q). `piece` holds the terms of a row of one piece; others' are computed again."""
    cdef const Operand* out = &readers.logits.batch.grad
    cdef Py_ssize_t start = 0, n
    cdef bint exists = has_probabilities(&row.logits) and has_probabilities(&row.reference)
    cdef Compared part = row[0]
    cdef vec* grad
    while start < out.n:
        n = min(PIECE_ELEMENTS, out.n - start)
        grad = place(out, i, start, <vec*>readers.scratch.grad)
        if exists and n < out.n:
            read_terms(readers, i, start, start, piece, &part, like)
        if exists:
            subtract_terms(
                <vec*>piece.e, lifted_factor(&part.logits, &row.logits, &piece.sums),
                <vec*>piece.q, lifted_factor(&part.reference, &row.reference, &piece.ref_sums), weight, grad, n
            )
        else:
            fill_row(grad, n, NAN)
        scatter(out, i, start, n, grad)
        start += n


cdef void write_zeros(const Operand* out, Py_ssize_t i, vec* buffer) noexcept nogil:
    cdef Py_ssize_t start = 0, n
    cdef vec* row
    while start < out.n:
        n = min(PIECE_ELEMENTS, out.n - start)
        row = place(out, i, start, buffer)
        fill_row(row, n, 0)
        scatter(out, i, start, n, row)
        start += n


cdef struct KLTask:
    Batch batch                 # without a target
    Batch reference
    double weight_unit          # multiplies every sample weight
    double* sums                # of each block


cdef bint repeats_comparison(const KLTask* task, Py_ssize_t i, const Compared* row, const vec* like) noexcept nogil:
    """Whether a row may have no finite divergence because its scaled logits overflow, so that `repeat_comparison` finds
    one: of float32 always, of float64 if there is an origin to subtract."""
    if not transforms(&task.batch) or isfinite(divergence_of(row)) or row.logits.has_nan or row.reference.has_nan:
        return False
    return vec is vf32 or (
        task.batch.transform.origin == 0 and task.reference.transform.origin == 0
        and (choose_origin(&task.batch, i) != 0 or choose_origin(&task.reference, i) != 0)
    )


cdef void repeat_comparison(
    const KLTask* task, const PieceScratch* scratch, Py_ssize_t i, Pair* total, vec* like
) noexcept nogil:
    """Compute a row in float64; if it overflows there too, from the distances of its logits to the largest."""
    cdef KLTask moved = task[0]
    if vec is vf64:
        moved.batch.transform.origin = choose_origin(&task.batch, i)
        moved.reference.transform.origin = choose_origin(&task.reference, i)
    kl_rows(&moved, scratch, i, i + 1, total, <vf64*>NULL)


cdef void kl_rows(
    const KLTask* task, const PieceScratch* scratch, Py_ssize_t first, Py_ssize_t last, Pair* total, vec* like
) noexcept nogil:
    """Add up the divergences; write each divergence and gradient where they are wanted."""
    cdef const Batch* batch = &task.batch
    cdef Py_ssize_t i
    cdef double weight
    cdef Readers readers
    cdef Compared row
    cdef TermPiece piece
    cdef Pair loss
    open_readers(&readers, batch, &task.reference, scratch, first, last, like)
    for i in range(first, last):
        weight = weight_of(&batch.sample_weight, i) * task.weight_unit
        loss = single(0)
        if weight == 0:
            write_zeros(&batch.grad, i, <vec*>scratch.grad)
        else:
            row = compare_row(&readers, i, &piece, like)
            if repeats_comparison(task, i, &row, like):
                repeat_comparison(task, scratch, i, total, like)
                continue
            loss = multiply(single(divergence_of(&row)), single(weight))
            write_difference(&readers, i, &row, &piece, weight * value(readers.logits.scale), like)
        write_number(&batch.loss, i, value(loss))
        add_pair(total, loss)
    close_readers(&readers)


# --- the same for few classes ----------------------------------------------------------------------------------------


cdef inline forced_void take_four(
    const vec* tile, Py_ssize_t c, Py_ssize_t n, Py_ssize_t n_vectors, double otherwise, vec* x
) noexcept nogil:
    """Classes c to c + 4 of one vector of rows, filled up beyond the last class."""
    cdef Py_ssize_t j
    for j in range(4):
        x[j] = tile[(c + j) * n_vectors] if c + j < n else fill(tile, otherwise)


cdef inline forced_void find_log_and_scale(LaneMasses masses, Py_ssize_t h, vec* log_sum, vec* scale) noexcept nogil:
    """log1p(r), and what makes probabilities of terms, for vector h of the rows; pairs."""
    cdef vec total[2]
    cdef vec inverse[2]
    add_one(<vec*>masses.rest + 2 * h, total)
    log_pairs(total, log_sum)
    invert(total, inverse)
    multiply_pairs(<vec*>masses.unit + 2 * h, inverse, scale)


cdef inline forced_void find_lane_constants(
    LaneMasses masses, LaneMasses ref_masses, Py_ssize_t h, vec* constants, vec* scale, vec* ref_scale
) noexcept nogil:
    """`set_constants` and `scale_of` for the row in each lane."""
    cdef vec log_sum[2]
    cdef vec ref_log_sum[2]
    cdef vec inverse[2]
    cdef vec ratio[2]
    cdef vec high = (<vec*>masses.peak)[h], zero = fill(constants, 0), low = fill(constants, 0)
    find_log_and_scale(masses, h, log_sum, scale)
    find_log_and_scale(ref_masses, h, ref_log_sum, ref_scale)
    accumulate(zero - (<vec*>ref_masses.peak)[h], &high, &low)
    accumulate(log_sum[HIGH], &high, &low)
    accumulate(zero - ref_log_sum[HIGH], &high, &low)
    low = low + (log_sum[LOW] - ref_log_sum[LOW])
    constants[CENTRE] = high + low
    constants[CENTRE_LOW] = (high - constants[CENTRE]) + low
    invert(ref_scale, inverse)
    multiply_pairs(scale, inverse, ratio)
    constants[RATIO] = ratio[HIGH] + ratio[LOW]


cdef inline forced_void conclude_lanes(
    const vec* a, const vec* t, const vec* ref_scale, vec* divergence
) noexcept nogil:
    """`conclude`; NaN where that would return True, or B is not small, or terms overflow."""
    cdef vec sums[2]
    cdef vec b, less, zero = fill(a, 0), nothing = fill(a, NAN)
    multiply_pairs(a, ref_scale, sums)
    b = sums[HIGH] + (t[HIGH] + t[LOW]) * ref_scale[HIGH]
    less = b * b * (fill(a, 0.5) - b * fill(a, 1.0 / 3))
    divergence[HIGH] = where_less(sums[HIGH], less * fill(a, 4), nothing, sums[HIGH] - less)
    divergence[HIGH] = where_less(fill(a, 1.0 / 64), absolute(b), nothing, divergence[HIGH])
    divergence[LOW] = where_equal(divergence[HIGH], zero, zero, sums[LOW])


cdef struct LaneMasses:         # of the rows of a tile: the maximum, r and the unit of the terms (pairs) of each lane
    double* peak
    double* rest
    double* unit


cdef inline forced_void divergence_tile(
    const PieceScratch* scratch, Py_ssize_t n, Py_ssize_t n_vectors, LaneMasses masses, LaneMasses ref_masses,
    vec* divergence, vec* scales
) noexcept nogil:
    """Masses and divergence (a pair) of each row of two tiles, and their terms, whose scales are two pairs a row."""
    cdef Py_ssize_t h, c
    cdef const vec* x = <const vec*>scratch.tile_x
    cdef const vec* ref = <const vec*>scratch.tile_ref
    cdef vec* e = <vec*>scratch.tile_e
    cdef vec* q = <vec*>scratch.tile_q
    cdef vec constants[COMPARE_VECTORS]
    cdef vec a[2]
    cdef vec t[2]
    cdef vec y[4]
    cdef vec r[4]
    cdef vec delta[4]
    cdef vec* nothing = NULL
    mass_tile(x, e, n, n_vectors, masses)
    mass_tile(ref, q, n, n_vectors, ref_masses)
    for h in range(n_vectors):
        find_lane_constants(masses, ref_masses, h, constants, scales + 4 * h, scales + 4 * h + 2)
        a[HIGH] = a[LOW] = t[HIGH] = t[LOW] = fill(x, 0)
        for c in range(0, n, 4):
            take_four(x + h, c, n, n_vectors, 0, y)
            take_four(ref + h, c, n, n_vectors, -INFINITY, r)
            find_deltas(y, nothing, r, nothing, constants, delta)
            take_four(e + h, c, n, n_vectors, 0, y)
            take_four(q + h, c, n, n_vectors, 0, r)
            add_excess(delta, y, r, constants, a, t)
        conclude_lanes(a, t, scales + 4 * h + 2, divergence + 2 * h)


cdef inline forced_void mass_tile(
    const vec* x, vec* e, Py_ssize_t n, Py_ssize_t n_vectors, LaneMasses masses
) noexcept nogil:
    shift_tile(x, e, n, n_vectors, <vec*>masses.peak, <vec*>masses.rest, <vec*>masses.unit)


cdef void compare_tile(
    const PieceScratch* scratch, Py_ssize_t n, Py_ssize_t n_vectors, LaneMasses masses, LaneMasses ref_masses,
    vec* divergence, vec* scales
) noexcept nogil:
    """Two calls, so that the number of vectors is constant in each."""
    if n_vectors == 2:
        divergence_tile(scratch, n, 2, masses, ref_masses, divergence, scales)
    else:
        divergence_tile(scratch, n, 1, masses, ref_masses, divergence, scales)


cdef inline forced_void subtract_tile(
    vec* e, const vec* q, Py_ssize_t n, Py_ssize_t n_vectors, const vec* scales, const vec* weight
) noexcept nogil:
    """e = weight (p - q), as `subtract_terms`; `weight` is a pair."""
    cdef Py_ssize_t h, c
    cdef vec p_factor[2]
    cdef vec q_factor[2]
    cdef vec f, g
    for h in range(n_vectors):
        multiply_pairs(scales + 4 * h, weight + 2 * h, p_factor)
        multiply_pairs(scales + 4 * h + 2, weight + 2 * h, q_factor)
        f = p_factor[HIGH] + p_factor[LOW]
        g = q_factor[HIGH] + q_factor[LOW]
        for c in range(n):
            e[c * n_vectors + h] = e[c * n_vectors + h] * f - q[c * n_vectors + h] * g


cdef struct TileWeights:
    LanePairs loss
    LanePairs grad
    bint skip[MAX_TILE_ROWS]    # rows that are left to `kl_rows`


cdef void weigh_tile(
    const KLTask* task, Py_ssize_t i, Py_ssize_t count, TileWeights* weights, const vec* like
) noexcept nogil:
    cdef const Batch* batch = &task.batch
    cdef Pair scale = divide(single(1), single(batch.divisor))
    cdef Py_ssize_t j
    for j in range(count):
        set_lane(&weights.loss, j, single(weight_of(&batch.sample_weight, i + j) * task.weight_unit))
        set_lane(&weights.grad, j, multiply(single(weights.loss.high[j]), scale))
        weights.skip[j] = weights.loss.high[j] == 0 or not suits_terms(like, weights.grad.high[j])


cdef void write_tile(
    const KLTask* task, Py_ssize_t i, Py_ssize_t count, const PieceScratch* scratch, const vec* scales,
    TileWeights* weights
) noexcept nogil:
    cdef vec weight[2 * MAX_TILE_VECTORS]
    cdef vec limits[LIMIT_VECTORS * MAX_TILE_VECTORS]
    cdef Py_ssize_t j, n_vectors = vectors_of(count, scales)
    cdef bint skips = False
    for j in range(count):
        skips = skips or weights.skip[j]
    set_limits(limits)
    write_lanes(&weights.grad, weight)
    subtract_tile(<vec*>scratch.tile_e, <vec*>scratch.tile_q, task.batch.logits.n, n_vectors, scales, weight)
    store_tile(
        &task.batch.grad, i, count, weights.skip if skips else NULL, <vec*>scratch.tile_e, limits, <vec*>scratch.grad
    )


cdef inline LaneMasses split_masses(vec* peak, vec* rest, vec* unit, Py_ssize_t part) noexcept nogil:
    """The first or second half of arrays for the masses of two tiles."""
    cdef LaneMasses masses
    masses.peak = <double*>(peak + part * MAX_TILE_VECTORS)
    masses.rest = <double*>(rest + part * 2 * MAX_TILE_VECTORS)
    masses.unit = <double*>(unit + part * 2 * MAX_TILE_VECTORS)
    return masses


cdef inline void load_pair_of_tiles(
    const Batch* batch, const Batch* reference, Py_ssize_t i, Py_ssize_t count, const PieceScratch* scratch,
    const vec* like
) noexcept nogil:
    """The reference may be absent."""
    cdef Py_ssize_t n_vectors = vectors_of(count, like)
    cdef vec* aside = <vec*>scratch.tile_e
    load_masked_tile(
        &batch.logits, &batch.where, i, count, <vec*>scratch.tile_x, n_vectors, aside, <vec*>scratch.e
    )
    if reference.logits.kind != ABSENT:
        load_masked_tile(
            &reference.logits, &batch.where, i, count, <vec*>scratch.tile_ref, n_vectors, aside, <vec*>scratch.e
        )


cdef void kl_tiles(
    const KLTask* task, const PieceScratch* scratch, Py_ssize_t first, Py_ssize_t last, Pair* total, vec* like
) noexcept nogil:
    """`kl_rows` for rows of few classes, which are computed side by side."""
    cdef const Batch* batch = &task.batch
    cdef Py_ssize_t i = first, j, count
    cdef vec peak[2 * MAX_TILE_VECTORS]
    cdef vec rest[4 * MAX_TILE_VECTORS]
    cdef vec unit[4 * MAX_TILE_VECTORS]
    cdef vec divergence[2 * MAX_TILE_VECTORS]
    cdef vec scales[4 * MAX_TILE_VECTORS]
    cdef LaneMasses masses = split_masses(peak, rest, unit, 0), ref_masses = split_masses(peak, rest, unit, 1)
    cdef Pair loss
    cdef TileWeights weights
    fill_lanes(&weights.grad, single(0))
    while i < last:
        count = min(last - i, MAX_TILE_VECTORS * lanes(like))
        weigh_tile(task, i, count, &weights, like)
        load_pair_of_tiles(batch, &task.reference, i, count, scratch, like)
        compare_tile(scratch, batch.logits.n, vectors_of(count, like), masses, ref_masses, divergence, scales)
        for j in range(count):
            loss = read_lane(divergence, j)
            if not isfinite(loss.high):
                weights.skip[j] = True
            if not weights.skip[j]:
                loss = multiply(loss, single(weights.loss.high[j]))
                write_number(&batch.loss, i + j, value(loss))
                add_pair(total, loss)
        if batch.grad.kind != ABSENT:
            write_tile(task, i, count, scratch, scales, &weights)
        for j in range(count):
            if weights.skip[j]:
                kl_rows(task, scratch, i + j, i + j + 1, total, like)
        i += count


cdef void kl_blocks(const KLTask* task, vec* memory, BlockClaim* claim) noexcept nogil:
    cdef PieceScratch scratch
    cdef Pair total
    lay_out_pieces(&task.batch, &task.reference, <double*>memory, &scratch)
    while next_block(claim):
        total = single(0)
        if has_piece_tiles(&task.batch):
            kl_tiles(task, &scratch, claim.first, claim.last, &total, memory)
        else:
            kl_rows(task, &scratch, claim.first, claim.last, &total, memory)
        task.sums[claim.block] = value(total)


cdef void kl_worker(const void* task, double* memory, BlockClaim* claim) noexcept nogil:
    cdef const KLTask* t = <const KLTask*>task
    if needs_float64(&t.batch) or needs_float64(&t.reference):
        kl_blocks(t, <vf64*>memory, claim)
    else:
        kl_blocks(t, <vf32*>memory, claim)


cdef int bind_reference(Batch* reference, const Batch* batch, logits) except -1:
    """The reference (or None) as a batch of its own, with the options of the other."""
    reference[0] = batch[0]
    reference.grad.kind = reference.loss.kind = ABSENT
    bind(&reference.logits, logits, 1)
    return 0


def kl_divergence(problem, options, double divisor, loss, grad, sums, Work work):
    """loss (or None) = the divergence of each row from its reference times its weight, grad (or None; it may be the
    logits) = the gradient of their sum / divisor, sums = that of each block. options: KLOptions of _calls/losses.py."""
    cdef KLTask task
    cdef PieceScratch unused
    set_defaults(&task.batch)
    bind(&task.batch.logits, problem.logits, 1)
    bind(&task.batch.where, problem.where, 1)
    bind(&task.batch.sample_weight, problem.sample_weight, 0)
    bind(&task.batch.loss, loss, 0)
    bind(&task.batch.grad, grad, 1)
    task.batch.target.kind = ABSENT
    task.batch.transform.scale = options.logit_scale
    task.batch.divisor = divisor
    task.batch.piece = min(task.batch.logits.n, PIECE_ELEMENTS)
    bind_reference(&task.reference, &task.batch, problem.target)
    task.weight_unit = options.weight_unit
    task.sums = data_of_blocks(sums, work, 1)
    work.do(kl_worker, &task, lay_out_pieces(&task.batch, &task.reference, NULL, &unused))
