# Part of _kernels.pyx: the divergence of one row from another, and what `evaluate` measures of rows. Rows come in pieces;
# what is known of the classes so far is a struct, and pieces are joined in order (see divergence.pxd).


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
    """Wide enough for float64, in which rows that overflow float32 are computed again."""
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
    scratch.tile_ref = take(&memory, has_tiles, tile_space(batch.logits.n))
    scratch.tile_e = take(&memory, has_tiles, tile_space(batch.logits.n))
    scratch.tile_q = take(&memory, has_tiles, tile_space(batch.logits.n))
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
    const vec* x, const vec* low, vec* e, Py_ssize_t start, Py_ssize_t n, Mass* mass, RowSum* sums
) noexcept nogil:
    """The rest of the mass of n classes from `start` on; e = their terms, 0 if none of them can occur."""
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
    total[HIGH] = total[LOW] = fill(x, 0)
    add_exponentials(x, low, e, n, mass.peak.index - start, &shift, total, &traffic)
    sums[0] = sum_row(&shift, total)
    mass.rest = sums.rest
    mass.has_nan = isnan(mass.rest.high)


cdef void read_terms(
    Readers* readers, Py_ssize_t i, Py_ssize_t start, Py_ssize_t first_class, TermPiece* piece, Compared* masses,
    vec* like
) noexcept nogil:
    """Read the piece of row i that begins at `start`, where class `first_class` is; compute terms and masses."""
    cdef vec* e = <vec*>readers.scratch.e
    cdef vec* q = <vec*>readers.scratch.q
    cdef Py_ssize_t n = min(PIECE_ELEMENTS, readers.logits.batch.logits.n - start)
    masses[0] = nothing_compared()
    piece.n = n
    piece.e, piece.q = <double*>e, <double*>q
    piece.x = <double*>read_mass(&readers.logits, i, start, first_class, n, &masses.logits, e)
    piece.low = readers.logits.scratch.low
    sum_mass(<vec*>piece.x, <vec*>piece.low, e, first_class, n, &masses.logits, &piece.sums)
    if readers.compares:
        piece.ref = <double*>read_mass(&readers.reference, i, start, first_class, n, &masses.reference, q)
        piece.ref_low = readers.reference.scratch.low
        sum_mass(<vec*>piece.ref, <vec*>piece.ref_low, q, first_class, n, &masses.reference, &piece.ref_sums)


cdef Pair logit_of_piece(const double* x, const double* low, Py_ssize_t j, const vec* like) noexcept nogil:
    cdef Pair logit = single(get(<const vec*>x, j))
    if low is not NULL:
        logit.low = get(<const vec*>low, j)
    return logit


cdef bint compare_again(const TermPiece* piece, Pair log_ratio, Compared* compared, const vec* like) noexcept nogil:
    """`compare_piece` from this log ratio, class by class in float64. Returns whether to repeat it with a better one."""
    cdef Pair p_scale = scale_of(&piece.sums), q_scale = scale_of(&piece.ref_sums), x, ref, delta
    cdef double p, q
    cdef Py_ssize_t j
    cdef ABSums sums
    sums.a = sums.b = single(0)
    for j in range(piece.n):
        x, ref = logit_of_piece(piece.x, piece.low, j, like), logit_of_piece(piece.ref, piece.ref_low, j, like)
        p = get(<const vec*>piece.e, j) * value(p_scale)
        q = get(<const vec*>piece.q, j) * value(q_scale)
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
    return conclude(compared, log_ratio, value(sums.a), value(sums.b), 0)


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
    """The gradient, weight (p - q). `piece` holds the terms of a row of one piece; those of others are computed again."""
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
    """Whether a row has no finite divergence because its scaled logits overflow, and `repeat_comparison` may find one: of
    float32 always, of float64 if there is an origin to subtract."""
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


cdef inline forced_void conclude_lanes(const vec* a, const vec* t, const vec* ref_scale, vec* divergence) noexcept nogil:
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
            find_deltas(y, nothing, r, nothing, False, constants, delta)
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
    load_masked_tile(batch, i, count, <vec*>scratch.tile_x, vectors_of(count, like), <vec*>scratch.e)
    if reference.logits.kind != ABSENT:
        load_masked_tile(reference, i, count, <vec*>scratch.tile_ref, vectors_of(count, like), <vec*>scratch.e)


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
    """loss (or None) = the divergence of each row from its reference times its weight, grad (or None; may be the logits)
    = the gradient of their sum / divisor, sums = that of each block. options: KLOptions of _calls/losses.py."""
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


# --- the measures of evaluate ----------------------------------------------------------------------------------------


cdef enum:
    ECE_BINS = 15               # of equal width, from 0 to 1


cdef enum:                      # the sums over rows, each times the weight of its row
    LOSS_SUM = 0
    ENTROPY_SUM = 1
    WEIGHT_SUM = 2
    BRIER_SUM = 3
    KL_SUM = 4
    AGREEMENT_SUM = 5
    ECE_SUMS = 6                # for each bin: rows that are right, minus their largest probabilities
    TOPK_SUMS = ECE_SUMS + ECE_BINS     # for each k: rows whose label is among the k largest logits


cdef struct RowMeasures:        # of the classes of a row that were seen so far
    Compared compared
    Pair spread                 # sum of exp(x - m) (m - x)
    double squares              # sum of exp(x - m)^2 over all but the maximum
    Pair own                    # the logit of the label, once its class was seen
    Py_ssize_t n_ahead          # larger logits than the label's, and equal ones of earlier classes


cdef struct MeasureTask:
    Batch batch
    Batch reference             # its logits may be absent
    bint compares               # whether there is a reference
    const int64_t* topk
    Py_ssize_t n_topk
    Sum* sums                   # of each block, TOPK_SUMS + n_topk of them


cdef RowMeasures no_measures() noexcept nogil:
    cdef RowMeasures row
    row.compared = nothing_compared()
    row.spread = row.own = single(0)
    row.squares, row.n_ahead = 0, 0
    return row


cdef double sum_squares(vec* e, Py_ssize_t n, Py_ssize_t skip) noexcept nogil:
    """The sum of e^2 without element `skip`, which is restored."""
    cdef Py_ssize_t i = 0, full = n // lanes(e)
    cdef double skipped = get(e, skip)
    cdef vec total[2]
    cdef vec x
    put(e, skip, 0)
    total[HIGH] = total[LOW] = fill(e, 0)
    while i + 4 <= full:
        accumulate_four(
            e[i] * e[i], e[i + 1] * e[i + 1], e[i + 2] * e[i + 2], e[i + 3] * e[i + 3], &total[HIGH], &total[LOW]
        )
        i += 4
    for i in range(i, full):
        accumulate(e[i] * e[i], &total[HIGH], &total[LOW])
    if n > full * lanes(e):
        x = load_first(e + full, n - full * lanes(e), 0)
        accumulate(x * x, &total[HIGH], &total[LOW])
    put(e, skip, skipped)
    return value(sum_pairs(total[HIGH], total[LOW]))


cdef void measure_piece(const TermPiece* piece, Py_ssize_t first_class, RowMeasures* part, const vec* like) noexcept nogil:
    """Everything but the rank of the label, from the terms and masses of a piece."""
    cdef const Peak* peak = &part.compared.logits.peak
    cdef double unit = piece.sums.unit.high + piece.sums.unit.low
    cdef vec distance[2]
    part.spread, part.squares = single(0), 0
    if isfinite(peak.high):
        distance[HIGH] = distance[LOW] = fill(like, 0)
        add_distances(
            <vec*>piece.x, <vec*>piece.low, <vec*>piece.e, piece.n, peak, piece.n, <vec*>piece.x, distance
        )
        part.spread = multiply(sum_distances(distance, piece.n), piece.sums.unit)
        part.squares = sum_squares(<vec*>piece.e, piece.n, peak.index - first_class) * unit * unit
    compare_piece(piece, &part.compared, like)


cdef void join_measures(RowMeasures* row, const RowMeasures* part) noexcept nogil:
    """Add classes that come after the others."""
    cdef bint later = is_larger(&part.compared.logits, &row.compared.logits)
    cdef const RowMeasures* large = part if later else row
    cdef const RowMeasures* small = row if later else part
    cdef Pair spread = large.spread, added = small.spread, gap, factor
    cdef double squares = large.squares
    if not is_empty(&small.compared.logits):
        gap = gap_between(&small.compared.logits, &large.compared.logits)
        factor = exp_minus(gap)
        if factor.high != 0:
            add_pair(&added, multiply(gap, one_more(small.compared.logits.rest)))
            add_pair(&spread, multiply(factor, added))
            squares += factor.high * factor.high * (1 + small.squares)
    row.spread, row.squares = spread, squares
    row.compared = join_compared(&row.compared, &part.compared)


cdef inline bint has_rank(const Mass* mass) noexcept nogil:
    """Whether one of the logits is the largest."""
    return not is_empty(mass) and not mass.has_nan


cdef inline bint agree(const Mass* x, const Mass* y) noexcept nogil:
    return has_rank(x) and has_rank(y) and x.peak.index == y.peak.index


cdef Py_ssize_t bin_of(double total) noexcept nogil:
    """The bin j of the largest probability, 1 / total, which is in (j / 15, (j + 1) / 15]; 0 for NaN."""
    cdef double j = 1
    if total >= 1:
        j = ceil(ECE_BINS / total)
        if (j - 1) * total >= ECE_BINS:     # the quotient was rounded
            j -= 1
        elif j * total < ECE_BINS:
            j += 1
    return <Py_ssize_t>j - 1


cdef inline void add_product(Sum* total, Pair x, Pair y) noexcept nogil:
    cdef Pair product = multiply(x, y)
    add_exactly(total, product.high)
    if isfinite(product.low):
        add_exactly(total, product.low)


cdef double brier_of(const RowMeasures* row, Pair distance, Pair inverse) noexcept nogil:
    """Sum of (p - y)^2 with y the label as a distribution: the squares of all other probabilities, and of their sum."""
    cdef Pair own = exp_minus(distance), others = row.compared.logits.rest
    cdef double squares = row.squares
    if distance.high > 0 or distance.low > 0:       # another class is the largest
        add_pair(&others, negate(own))
        add(&others, 1)
        squares += (1 - own.high) * (1 + own.high)
    return (squares + others.high * others.high) * inverse.high * inverse.high


cdef void add_measures(const MeasureTask* task, const RowMeasures* row, double row_weight, Sum* sums) noexcept nogil:
    cdef const Mass* mass = &row.compared.logits
    cdef Py_ssize_t j
    cdef bint is_right = has_rank(mass) and row.n_ahead == 0
    cdef Pair weight = single(row_weight), total, log_sum, loss, entropy, inverse
    cdef double brier = NAN
    loss = entropy = inverse = total = single(NAN)
    if has_probabilities(mass):
        total = one_more(mass.rest)
        inverse = divide(single(1), total)
        log_sum = log_pair(total)
        loss = difference_of(peak_of(mass), row.own)
        brier = brier_of(row, loss, inverse)
        add_pair(&loss, log_sum)
        entropy = multiply(row.spread, inverse)
        add_pair(&entropy, log_sum)
    add_product(&sums[LOSS_SUM], loss, weight)
    add_product(&sums[ENTROPY_SUM], entropy, weight)
    add_exactly(&sums[WEIGHT_SUM], row_weight)
    add_product(&sums[BRIER_SUM], single(brier), weight)
    add_product(&sums[ECE_SUMS + bin_of(total.high)], difference_of(single(is_right), inverse), weight)
    if task.compares:
        add_product(&sums[KL_SUM], single(divergence_of(&row.compared)), weight)
        if agree(mass, &row.compared.reference):
            add_exactly(&sums[AGREEMENT_SUM], row_weight)
    for j in range(task.n_topk):
        if has_rank(mass) and row.n_ahead < task.topk[j]:
            add_exactly(&sums[TOPK_SUMS + j], row_weight)


cdef RowMeasures measure_row(
    Readers* readers, Py_ssize_t i, int64_t label, vec* like
) noexcept nogil:
    cdef const Operand* logits = &readers.logits.batch.logits
    cdef RowMeasures row, part
    cdef TermPiece piece
    cdef Py_ssize_t start = 0
    cdef double own = read_number(place_of(logits, i, label), logits.kind)
    row.own, row.n_ahead = single(own), 0
    while start < logits.n:
        read_terms(readers, i, start, start, &piece, &part.compared if start > 0 else &row.compared, like)
        measure_piece(&piece, start, &part if start > 0 else &row, like)
        if start > 0:
            join_measures(&row, &part)
        row.n_ahead += count_ahead(<vec*>piece.x, piece.n, label - start, own)
        start += piece.n
    return row


cdef void measure_rows(
    const MeasureTask* task, const PieceScratch* scratch, Py_ssize_t first, Py_ssize_t last, Sum* sums, vec* like
) noexcept nogil:
    """Add up what is measured, times the weight of each row."""
    cdef const Batch* batch = &task.batch
    cdef Py_ssize_t i
    cdef int64_t label
    cdef double weight
    cdef RowMeasures row
    cdef Readers readers
    open_readers(&readers, batch, &task.reference, scratch, first, last, like)
    for i in range(first, last):
        weight = weight_of(&batch.sample_weight, i)
        label = read_integer(row_of(&batch.target, i), batch.target.kind)
        if weight == 0 or is_ignored(batch, label):
            continue
        if not is_class(batch, label):      # it has changed since it was checked
            add_exactly(&sums[LOSS_SUM], NAN)
            continue
        row = measure_row(&readers, i, label, like)
        add_measures(task, &row, weight, sums)
    close_readers(&readers)


# --- the same for few classes ----------------------------------------------------------------------------------------


cdef struct LaneMeasures:       # of the rows of a tile; numbers of classes are vectors, too
    double* own                 # the logit of the label
    double* label
    double* spread              # pairs, in units of the terms
    double* squares             # of the terms below the maximum, in units of theirs
    double* maxima              # classes that have the largest logit
    double* index               # the first of them
    double* ref_index           # the same of the reference
    double* n_ahead


cdef inline forced_void find_first(
    const vec* x, Py_ssize_t n, Py_ssize_t n_vectors, const vec* peak, vec* index
) noexcept nogil:
    """The first class with the largest logit."""
    cdef Py_ssize_t c, h
    for h in range(n_vectors):
        index[h] = fill(x, n)
        for c in range(n - 1, -1, -1):
            index[h] = where_equal(x[c * n_vectors + h], peak[h], fill(x, c), index[h])


cdef inline forced_void measure_tile(
    const vec* x, const vec* e, Py_ssize_t n, Py_ssize_t n_vectors, const vec* peak, LaneMeasures measures
) noexcept nogil:
    """What `measure_piece` and `count_ahead` find."""
    cdef Py_ssize_t c, h
    cdef vec zero = fill(x, 0), one = fill(x, 1), y, term, own, label, squares, maxima, n_ahead
    cdef vec spread[2]
    find_first(x, n, n_vectors, peak, <vec*>measures.index)
    for h in range(n_vectors):
        own = (<vec*>measures.own)[h]
        label = (<vec*>measures.label)[h]
        spread[HIGH] = spread[LOW] = squares = maxima = n_ahead = zero
        for c in range(n):
            y = x[c * n_vectors + h]
            term = e[c * n_vectors + h]
            add_distance(y, term, peak[h], spread)
            term = where_equal(y, peak[h], zero, term)
            squares = multiply_add(term, term, squares)
            maxima = maxima + where_equal(y, peak[h], one, zero)
            n_ahead = n_ahead + where_less(
                own, y, one, where_equal(own, y, where_less(fill(x, c), label, one, zero), zero)
            )
        (<vec*>measures.spread)[2 * h + HIGH] = spread[HIGH]
        (<vec*>measures.spread)[2 * h + LOW] = spread[LOW]
        (<vec*>measures.squares)[h] = squares
        (<vec*>measures.maxima)[h] = maxima
        (<vec*>measures.n_ahead)[h] = n_ahead


cdef void measure_one(
    const PieceScratch* scratch, Py_ssize_t n, LaneMasses masses, LaneMeasures measures, const vec* like
) noexcept nogil:
    measure_tile(<const vec*>scratch.tile_x, <const vec*>scratch.tile_e, n, 1, <const vec*>masses.peak, measures)


cdef void measure_two(
    const PieceScratch* scratch, Py_ssize_t n, LaneMasses masses, LaneMeasures measures, const vec* like
) noexcept nogil:
    measure_tile(<const vec*>scratch.tile_x, <const vec*>scratch.tile_e, n, 2, <const vec*>masses.peak, measures)


cdef inline Mass mass_of_lane(LaneMasses masses, const vec* index, Py_ssize_t j) noexcept nogil:
    cdef Mass mass
    mass.peak.high, mass.peak.low = get(<const vec*>masses.peak, j), 0
    mass.peak.index, mass.order = <Py_ssize_t>get(index, j), mass.peak.high
    mass.rest, mass.has_nan = read_lane(<const vec*>masses.rest, j), False
    return mass


cdef RowMeasures measures_of_lane(
    LaneMasses masses, LaneMasses ref_masses, LaneMeasures measures, const vec* divergence, Py_ssize_t j
) noexcept nogil:
    cdef RowMeasures row
    cdef Pair unit = read_lane(<const vec*>masses.unit, j)
    row.compared.logits = mass_of_lane(masses, <const vec*>measures.index, j)
    row.compared.reference = mass_of_lane(ref_masses, <const vec*>measures.ref_index, j)
    row.compared.divergence = value(read_lane(divergence, j))
    row.spread = multiply(read_lane(<const vec*>measures.spread, j), unit)
    row.squares = get(<const vec*>measures.squares, j) * unit.high * unit.high + (get(<const vec*>measures.maxima, j) - 1)
    row.own = single(get(<const vec*>measures.own, j))
    row.n_ahead = <Py_ssize_t>get(<const vec*>measures.n_ahead, j)
    return row


cdef void compute_measures(
    const MeasureTask* task, const PieceScratch* scratch, Py_ssize_t n_vectors, LaneMasses masses, LaneMasses ref_masses,
    LaneMeasures measures, vec* divergence
) noexcept nogil:
    cdef Py_ssize_t n = task.batch.logits.n
    cdef vec unused[4 * MAX_TILE_VECTORS]
    if task.compares:
        compare_tile(scratch, n, n_vectors, masses, ref_masses, divergence, unused)
        find_first(
            <const vec*>scratch.tile_ref, n, n_vectors, <const vec*>ref_masses.peak, <vec*>measures.ref_index
        )
    else:
        mass_tile(<const vec*>scratch.tile_x, <vec*>scratch.tile_e, n, n_vectors, masses)
    if n_vectors == 2:
        measure_two(scratch, n, masses, measures, divergence)
    else:
        measure_one(scratch, n, masses, measures, divergence)


cdef double find_divergence(
    const MeasureTask* task, const PieceScratch* scratch, Py_ssize_t i, vec* like
) noexcept nogil:
    """That of a row for which a tile has none."""
    cdef Readers readers
    cdef Compared row
    cdef TermPiece unused
    open_readers(&readers, &task.batch, &task.reference, scratch, i, i + 1, like)
    row = compare_row(&readers, i, &unused, like)
    close_readers(&readers)
    return divergence_of(&row)


cdef void measure_tiles(
    const MeasureTask* task, const PieceScratch* scratch, Py_ssize_t first, Py_ssize_t last, Sum* sums, vec* like
) noexcept nogil:
    """`measure_rows` for rows of few classes, which are computed side by side."""
    cdef const Batch* batch = &task.batch
    cdef Py_ssize_t i = first, j, count, width
    cdef int64_t label
    cdef double weight
    cdef bint skip[MAX_TILE_ROWS]
    cdef vec peak[2 * MAX_TILE_VECTORS]
    cdef vec rest[4 * MAX_TILE_VECTORS]
    cdef vec unit[4 * MAX_TILE_VECTORS]
    cdef vec divergence[2 * MAX_TILE_VECTORS]
    cdef vec numbers[9 * MAX_TILE_VECTORS]
    cdef LaneMasses masses = split_masses(peak, rest, unit, 0), ref_masses = split_masses(peak, rest, unit, 1)
    cdef LaneMeasures measures = split_measures(numbers)
    cdef RowMeasures row
    for j in range(9 * MAX_TILE_VECTORS):
        numbers[j] = fill(like, 0)
    for j in range(2 * MAX_TILE_VECTORS):       # without a reference, they keep these
        peak[j] = divergence[j] = fill(like, 0)
        rest[2 * j] = rest[2 * j + 1] = fill(like, 0)
    while i < last:
        count = min(last - i, MAX_TILE_VECTORS * lanes(like))
        width = vectors_of(count, like) * lanes(like)
        load_pair_of_tiles(batch, &task.reference, i, count, scratch, like)
        for j in range(count):
            label = read_integer(row_of(&batch.target, i + j), batch.target.kind)
            skip[j] = not is_class(batch, label)
            if not skip[j]:
                put(<vec*>measures.label, j, <double>label)
                copy_element(<vec*>measures.own, j, <vec*>scratch.tile_x, label * width + j)
        compute_measures(task, scratch, vectors_of(count, like), masses, ref_masses, measures, divergence)
        for j in range(count):
            weight = weight_of(&batch.sample_weight, i + j)
            row = measures_of_lane(masses, ref_masses, measures, divergence, j)
            if skip[j] or not isfinite(
                row.compared.logits.rest.high + row.spread.high + row.compared.reference.rest.high
            ):
                measure_rows(task, scratch, i + j, i + j + 1, sums, like)
            elif weight != 0:
                if not isfinite(row.compared.divergence):
                    row.compared.divergence = find_divergence(task, scratch, i + j, like)
                add_measures(task, &row, weight, sums)
        i += count


cdef inline LaneMeasures split_measures(vec* numbers) noexcept nogil:
    """Pointers into nine arrays for the rows of a tile."""
    cdef LaneMeasures measures
    measures.own = <double*>numbers
    measures.label = <double*>(numbers + MAX_TILE_VECTORS)
    measures.spread = <double*>(numbers + 2 * MAX_TILE_VECTORS)
    measures.squares = <double*>(numbers + 4 * MAX_TILE_VECTORS)
    measures.maxima = <double*>(numbers + 5 * MAX_TILE_VECTORS)
    measures.index = <double*>(numbers + 6 * MAX_TILE_VECTORS)
    measures.ref_index = <double*>(numbers + 7 * MAX_TILE_VECTORS)
    measures.n_ahead = <double*>(numbers + 8 * MAX_TILE_VECTORS)
    return measures


cdef void clear_sums(Sum* sums, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t j
    for j in range(n):
        sums[j].high = sums[j].low = sums[j].lowest = 0


cdef void finish_sums(Sum* sums, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t j
    for j in range(n):
        if not isfinite(sums[j].low + sums[j].lowest):      # of infinity or NaN
            sums[j].low = sums[j].lowest = 0


cdef void measure_blocks(const MeasureTask* task, vec* memory, BlockClaim* claim) noexcept nogil:
    cdef Py_ssize_t n = TOPK_SUMS + task.n_topk
    cdef Sum* sums
    cdef PieceScratch scratch
    lay_out_pieces(&task.batch, &task.reference, <double*>memory, &scratch)
    while next_block(claim):
        sums = task.sums + claim.block * n
        clear_sums(sums, n)
        if has_piece_tiles(&task.batch):
            measure_tiles(task, &scratch, claim.first, claim.last, sums, memory)
        else:
            measure_rows(task, &scratch, claim.first, claim.last, sums, memory)
        finish_sums(sums, n)


cdef void evaluate_worker(const void* task, double* memory, BlockClaim* claim) noexcept nogil:
    cdef const MeasureTask* t = <const MeasureTask*>task
    if needs_float64(&t.batch) or needs_float64(&t.reference):
        measure_blocks(t, <vf64*>memory, claim)
    else:
        measure_blocks(t, <vf32*>memory, claim)


cdef int bind_measures(MeasureTask* task, problem, reference, options) except -1:
    bind_batch(&task.batch, problem, options, 0)
    task.batch.piece = min(task.batch.logits.n, PIECE_ELEMENTS)
    bind_reference(&task.reference, &task.batch, reference)
    task.compares = reference is not None
    return 0


cdef int bind_measure_sums(MeasureTask* task, topk, sums, Work work) except -1:
    task.topk = <int64_t*>cnp.PyArray_DATA(<cnp.ndarray>topk)
    task.n_topk = cnp.PyArray_DIM(<cnp.ndarray>topk, 0)
    task.sums = <Sum*>data_of_blocks(sums, work, 3 * (TOPK_SUMS + task.n_topk))
    return 0


def evaluate(problem, reference, options, topk, sums, Work work):
    """sums[i] = what the rows of block i add up to, each as three numbers, in the order of the constants above."""
    cdef MeasureTask task
    cdef PieceScratch unused
    bind_measures(&task, problem, reference, options)
    bind_measure_sums(&task, topk, sums, work)
    work.do(evaluate_worker, &task, lay_out_pieces(&task.batch, &task.reference, NULL, &unused))


# --- the same, a chunk of classes at a time --------------------------------------------------------------------------


cdef struct RowSoFar:           # before `most` largest logits
    RowMeasures measures
    Py_ssize_t n_largest


cdef struct Ranked:
    double logit                # see `order_of`
    int64_t index


cdef struct ChunkTask:
    MeasureTask measures
    RowSoFar* rows              # each followed by the largest logits so far, in order
    Py_ssize_t row_size         # bytes
    Py_ssize_t most             # of these logits
    Py_ssize_t first_class      # of the chunk


cdef inline RowSoFar* row_so_far(const ChunkTask* task, Py_ssize_t i) noexcept nogil:
    return <RowSoFar*>(<char*>task.rows + i * task.row_size)


cdef inline void rank_logit(RowSoFar* row, Py_ssize_t most, double logit, int64_t index) noexcept nogil:
    """Insert a logit of a class after those before, if it is among the `most` largest."""
    cdef Ranked* largest = <Ranked*>(row + 1)
    cdef Py_ssize_t j = row.n_largest
    if j == most:
        j -= 1
        if not logit > largest[j].logit:
            return
    else:
        row.n_largest += 1
    while j > 0 and logit > largest[j - 1].logit:
        largest[j] = largest[j - 1]
        j -= 1
    largest[j].logit, largest[j].index = logit, index


cdef void rank_logits(RowSoFar* row, Py_ssize_t most, const vec* x, Py_ssize_t n, Py_ssize_t first_class) noexcept nogil:
    cdef Ranked* largest = <Ranked*>(row + 1)
    cdef Py_ssize_t j, start = 0, step = 4 * lanes(x)
    while start < n:
        if row.n_largest < most or start + step > n or (
            max_lanes(largest_of_four(element(x, start))) > largest[most - 1].logit
        ):
            for j in range(start, min(start + step, n)):
                rank_logit(row, most, get(x, j), first_class + j)
        start += step


cdef Py_ssize_t rank_of(const RowSoFar* row, Py_ssize_t most, int64_t label) noexcept nogil:
    """How many logits are ahead of the label's; `most` if there are as many or more."""
    cdef const Ranked* largest = <const Ranked*>(row + 1)
    cdef Py_ssize_t j
    for j in range(row.n_largest):
        if largest[j].index == label:
            return j
    return most


cdef void measure_chunk_row(
    const ChunkTask* task, Readers* readers, Py_ssize_t i, int64_t label, RowSoFar* row, vec* like
) noexcept nogil:
    cdef const Operand* logits = &readers.logits.batch.logits
    cdef Py_ssize_t start = 0, first_class, own
    cdef RowMeasures part
    cdef TermPiece piece
    cdef const vec* given
    while start < logits.n:
        first_class = task.first_class + start
        read_terms(readers, i, start, first_class, &piece, &part.compared, like)
        measure_piece(&piece, first_class, &part, like)
        join_measures(&row.measures, &part)
        own = label - first_class
        if 0 <= own < piece.n:
            row.measures.own.high = get(<vec*>piece.x, own)
            row.measures.own.low = get(<vec*>piece.low, own) if piece.low is not NULL else 0
        given = gather(logits, i, start, piece.n, <vec*>readers.logits.scratch.x[0])
        given = order_of(&readers.logits, given, <vec*>piece.e, piece.n)
        rank_logits(row, task.most, given, piece.n, first_class)
        start += piece.n


cdef void measure_chunk_blocks(const ChunkTask* task, vec* memory, BlockClaim* claim) noexcept nogil:
    cdef const Batch* batch = &task.measures.batch
    cdef Py_ssize_t i
    cdef int64_t label
    cdef RowSoFar* row
    cdef Readers readers
    cdef PieceScratch scratch
    lay_out_pieces(batch, &task.measures.reference, <double*>memory, &scratch)
    while claim_blocks(claim):
        open_readers(&readers, batch, &task.measures.reference, &scratch, claim.first, claim.last, memory)
        for i in range(claim.first, claim.last):
            row = row_so_far(task, i)
            if task.first_class == 0:
                row.measures, row.n_largest = no_measures(), 0
            label = read_integer(row_of(&batch.target, i), batch.target.kind)
            if weight_of(&batch.sample_weight, i) != 0 and not is_ignored(batch, label):
                measure_chunk_row(task, &readers, i, label, row, memory)
        close_readers(&readers)


cdef void measure_chunk_worker(const void* task, double* memory, BlockClaim* claim) noexcept nogil:
    cdef const ChunkTask* t = <const ChunkTask*>task
    if needs_float64(&t.measures.batch) or needs_float64(&t.measures.reference):
        measure_chunk_blocks(t, <vf64*>memory, claim)
    else:
        measure_chunk_blocks(t, <vf32*>memory, claim)


cdef int bind_rows_so_far(ChunkTask* task, rows, Py_ssize_t most) except -1:
    task.rows = <RowSoFar*>cnp.PyArray_DATA(<cnp.ndarray>rows)
    task.row_size = cnp.PyArray_STRIDE(<cnp.ndarray>rows, 0)
    task.most = most
    return 0


def row_so_far_length(Py_ssize_t most):
    """The length of a row of `rows`, an array of float64, in the two functions below."""
    return (sizeof(RowSoFar) + most * sizeof(Ranked)) // sizeof(double)


def measure_chunk(problem, reference, options, Py_ssize_t first_class, rows, Py_ssize_t most, Work work):
    """Measure the next classes of a batch of labels: `problem` and `reference` (or None) have their logits. `rows` is what
    is known of each row; `most` is the largest k of a top-k accuracy."""
    cdef ChunkTask task
    cdef PieceScratch unused
    bind_measures(&task.measures, problem, reference, options)
    bind_rows_so_far(&task, rows, most)
    task.first_class = first_class
    work.do(
        measure_chunk_worker, &task, lay_out_pieces(&task.measures.batch, &task.measures.reference, NULL, &unused)
    )


cdef void sum_chunks_worker(const void* task, double* memory, BlockClaim* claim) noexcept nogil:
    cdef const ChunkTask* t = <const ChunkTask*>task
    cdef const Batch* batch = &t.measures.batch
    cdef Py_ssize_t i, n = TOPK_SUMS + t.measures.n_topk
    cdef int64_t label
    cdef double weight
    cdef RowSoFar* row
    cdef Sum* sums
    while next_block(claim):
        sums = t.measures.sums + claim.block * n
        clear_sums(sums, n)
        for i in range(claim.first, claim.last):
            label = read_integer(row_of(&batch.target, i), batch.target.kind)
            weight = weight_of(&batch.sample_weight, i)
            if weight != 0 and not is_ignored(batch, label):
                row = row_so_far(t, i)
                row.measures.n_ahead = rank_of(row, t.most, label)
                add_measures(&t.measures, &row.measures, weight, sums)
        finish_sums(sums, n)


def sum_chunks(problem, bint compares, options, topk, rows, Py_ssize_t most, sums, Work work):
    """The sums of `evaluate`, of rows of which all classes have been measured."""
    cdef ChunkTask task
    bind_measures(&task.measures, problem, None, options)
    task.measures.compares = compares
    bind_measure_sums(&task.measures, topk, sums, work)
    bind_rows_so_far(&task, rows, most)
    work.do(sum_chunks_worker, &task, 1)
