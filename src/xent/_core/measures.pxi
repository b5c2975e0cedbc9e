# Part of _kernels.pyx: what `evaluate` measures of rows. They come in pieces, as in divergence_kernels.pxi; what is
# known of the classes so far is a struct.


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


cdef inline forced_void add_spread_of_four(
    const vec* x, const vec* low, const vec* e, const vec* peak, vec* spread, vec* squares
) noexcept nogil:
    """spread += e (m - x), squares += e^2 of four vectors; `peak` is m and its low part, and `low` may be NULL."""
    cdef Py_ssize_t j
    cdef vec zero = fill(x, 0), d
    cdef vec y[4]
    for j in range(4):
        d = peak[0] - x[j]
        if low is not NULL:
            d = d + (peak[1] - low[j])
        y[j] = where_equal(e[j], zero, zero, e[j] * d)      # the distance may be infinite
    accumulate((y[0] + y[1]) + (y[2] + y[3]), &spread[HIGH], &spread[LOW])
    for j in range(4):
        y[j] = e[j] * e[j]
    accumulate((y[0] + y[1]) + (y[2] + y[3]), &squares[HIGH], &squares[LOW])


cdef inline forced_void add_spread(
    const TermPiece* piece, bint has_low, const vec* peak, vec* spread, vec* squares
) noexcept nogil:
    cdef Py_ssize_t i, last = piece.n // (4 * lanes(peak)) * 4
    cdef const vec* low = <const vec*>piece.low
    cdef vec x[4]
    cdef vec lower[4]
    cdef vec e[4]
    for i in range(0, last, 4):
        add_spread_of_four(
            <const vec*>piece.x + i, low + i if has_low else <const vec*>NULL, <const vec*>piece.e + i, peak, spread,
            squares
        )
    if last * lanes(peak) < piece.n:
        load_four(piece.x, last, piece.n, 0, x)
        load_four(piece.low, last, piece.n, 0, lower)
        load_four(piece.e, last, piece.n, 0, e)
        add_spread_of_four(x, lower, e, peak, spread, squares)


cdef void measure_piece(
    const TermPiece* piece, Py_ssize_t first_class, RowMeasures* part, const vec* like
) noexcept nogil:
    """Everything but the rank of the label, from the terms and masses of a piece."""
    cdef const Peak* m = &part.compared.logits.peak
    cdef Pair unit = piece.sums.unit
    cdef double own_term
    cdef vec peak[2]
    cdef vec spread[2]
    cdef vec squares[2]
    part.spread, part.squares = single(0), 0
    if isfinite(m.high):
        peak[0] = fill(like, m.high)
        peak[1] = fill(like, m.low)
        spread[HIGH] = spread[LOW] = squares[HIGH] = squares[LOW] = fill(like, 0)
        own_term = get(<vec*>piece.e, m.index - first_class)        # left out of the squares
        put(<vec*>piece.e, m.index - first_class, 0)
        if piece.low is NULL:
            add_spread(piece, False, peak, spread, squares)
        else:
            add_spread(piece, True, peak, spread, squares)
        put(<vec*>piece.e, m.index - first_class, own_term)
        part.spread = multiply(sum_pairs(spread[HIGH], spread[LOW]), unit)
        part.squares = value(multiply(multiply(sum_pairs(squares[HIGH], squares[LOW]), unit), unit))
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
    row.squares = get(<const vec*>measures.squares, j) * unit.high * unit.high
    row.squares += get(<const vec*>measures.maxima, j) - 1
    row.own = single(get(<const vec*>measures.own, j))
    row.n_ahead = <Py_ssize_t>get(<const vec*>measures.n_ahead, j)
    return row


cdef void compute_measures(
    const MeasureTask* task, const PieceScratch* scratch, Py_ssize_t n_vectors, LaneMasses masses,
    LaneMasses ref_masses, LaneMeasures measures, vec* divergence
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


cdef void rank_logits(
    RowSoFar* row, Py_ssize_t most, const vec* x, Py_ssize_t n, Py_ssize_t first_class
) noexcept nogil:
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
    """Measure the next classes of a batch of labels: `problem` and `reference` (or None) have their logits. `rows` is
    what is known of each row; `most` is the largest k of a top-k accuracy."""
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
