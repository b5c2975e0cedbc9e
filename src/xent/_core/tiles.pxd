# With few classes a vector along a row would be mostly empty, so rows are computed side by side, one per lane. A tile
# has n_vectors vectors per class: 2, whose independent operations hide latency, or 1 for the last rows. Lane j of
# vector n_vectors * c + h is class c of row h * lanes + j. Lanes do not affect each other.
#
# A pair of vectors is an array x of two: x[HIGH] and x[LOW]. For a tile, x + 2 * h is the pair of the vectors h.

from xent._core.elementary cimport (
    ENTRIES, GRID, LEAST, LN2, LOST, OFFSET, SHIFT_VECTORS, exp_parts, exp_polynomials, exponent_range, find_exponent,
    has_table, load_table, log_of_pair, minus_log2_high, minus_log2_low, table_grid,
)
from xent._core.exponentials cimport EXPONENT_HEADROOM, FOLD_VECTORS, HIGH, LOW, add_term, large_peak
from xent._core.pairs cimport MAX_LANES, Pair, accumulate, single, sum_pairs
from xent._core.scratch cimport MAX_TILE_VECTORS
from xent._core.simd cimport (
    XENT_HAS_PARTS, XENT_LANES_f32, XENT_LANES_f64, absolute, fill, forced_void, get, lanes, maximum, minimum,
    multiply_add, multiply_rest, put, read_columns, residual, to_columns, to_rows, vec, vf32, vf64, where_equal,
    where_less, write_columns, xent_half_f32,
)
from xent._core.strided cimport Operand, gather, is_native, is_plain, place, row_of, scatter

cdef enum:
    MAX_TILE_ROWS = MAX_TILE_VECTORS * MAX_LANES

cdef enum:                      # how the results of a vector of rows come from what is in the tile: times a factor,
    FACTOR = 0
    MOST = 1                    # and no more than this
    LIMIT_VECTORS = 2


# --- memory ----------------------------------------------------------------------------------------------------------


cdef inline bint are_adjacent(const Operand* operand, Py_ssize_t i, Py_ssize_t count, Py_ssize_t size) noexcept nogil:
    """Whether element c of rows i to i + count, `size` bytes each, is one piece of memory, for every c."""
    cdef int last = operand.ndim - 1
    return (
        last >= 0 and operand.run == operand.n and operand.strides[last] == size
        and i % operand.shape[last] + count <= operand.shape[last]
    )


cdef inline bint lie_side_by_side(const Operand* operand, Py_ssize_t i, const vec* like) noexcept nogil:
    """Whether consecutive rows are adjacent in memory, so that a tile vector can be copied directly."""
    return is_native(operand, like) and are_adjacent(
        operand, i, lanes(like), <Py_ssize_t>sizeof(vec) // lanes(like)
    )


cdef inline bint has_even_rows(const Operand* operand, Py_ssize_t i, Py_ssize_t count, const vec* like) noexcept nogil:
    """Whether `count` rows fill a vector and can be read where they are, with the same stride between all of them."""
    cdef int last = operand.ndim - 1
    return (
        XENT_HAS_PARTS and count == lanes(like) and operand.n >= 4 and is_plain(operand, like) and last >= 0
        and (last == 0 or i % operand.shape[last] + count <= operand.shape[last])
    )


cdef inline void copy_element(vec* target, Py_ssize_t i, const vec* source, Py_ssize_t j) noexcept nogil:
    if vec is vf32:
        (<float*>target)[i] = (<const float*>source)[j]
    else:
        (<double*>target)[i] = (<const double*>source)[j]


cdef inline forced_void load_lanes(
    const Operand* operand, Py_ssize_t i, Py_ssize_t count, vec* tile, Py_ssize_t n_vectors, vec* row_buffer
) noexcept nogil:
    """Load rows i to i + count into one vector per class; other lanes become 0."""
    cdef Py_ssize_t width = lanes(tile), j = 0, c
    cdef vec* row
    cdef char* first = row_of(operand, i)
    if count == width and lie_side_by_side(operand, i, tile):
        for c in range(operand.n):
            tile[c * n_vectors] = (<vec*>(first + c * operand.step))[0]
        return
    if has_even_rows(operand, i, count, tile):
        read_columns(tile, n_vectors, first, operand.strides[operand.ndim - 1], operand.n)
        return
    if count < width:
        for c in range(operand.n):
            tile[c * n_vectors] = fill(tile, 0)
    if is_plain(operand, tile) and width % 4 == 0:
        while j + 4 <= count:
            to_columns(
                tile, j, n_vectors, row_of(operand, i + j), row_of(operand, i + j + 1), row_of(operand, i + j + 2),
                row_of(operand, i + j + 3), operand.n,
            )
            j += 4
    while j < count:
        row = gather(operand, i + j, 0, operand.n, row_buffer)
        for c in range(operand.n):
            copy_element(tile, c * n_vectors * width + j, row, c)
        j += 1


cdef inline void store_lanes(
    const Operand* operand, Py_ssize_t i, Py_ssize_t count, const bint* skip, vec* tile, Py_ssize_t n_vectors,
    const vec* limits, vec* row_buffer
) noexcept nogil:
    """Store what `load_lanes` loads, each row times its lane of limits[FACTOR] and no more than that of limits[MOST],
    except the rows where `skip` is true (NULL: none). The tile may change."""
    cdef Py_ssize_t width = lanes(tile), j = 0, c
    cdef vec factor = limits[FACTOR], most = limits[MOST]
    cdef vec* row
    cdef char* first = row_of(operand, i)
    if count == width and skip is NULL and lie_side_by_side(operand, i, tile):
        for c in range(operand.n):
            (<vec*>(first + c * operand.step))[0] = minimum(most, tile[c * n_vectors] * factor)
        return
    if skip is NULL and has_even_rows(operand, i, count, tile):
        write_columns(tile, n_vectors, factor, most, first, operand.strides[operand.ndim - 1], operand.n)
        return
    for c in range(operand.n):
        tile[c * n_vectors] = minimum(most, tile[c * n_vectors] * factor)
    if is_plain(operand, tile) and width % 4 == 0 and skip is NULL:
        while j + 4 <= count:
            to_rows(
                tile, j, n_vectors, row_of(operand, i + j), row_of(operand, i + j + 1), row_of(operand, i + j + 2),
                row_of(operand, i + j + 3), operand.n,
            )
            j += 4
    while j < count:
        if skip is NULL or not skip[j]:
            row = place(operand, i + j, 0, row_buffer)
            for c in range(operand.n):
                copy_element(row, c, tile, c * n_vectors * width + j)
            scatter(operand, i + j, 0, operand.n, row)
        j += 1


cdef inline void load_tile(
    const Operand* operand, Py_ssize_t i, Py_ssize_t count, vec* tile, Py_ssize_t n_vectors, vec* row_buffer
) noexcept nogil:
    """Load rows i to i + count into a tile; other lanes become 0."""
    if n_vectors == 2:
        load_lanes(operand, i, lanes(tile), tile, 2, row_buffer)
        load_lanes(operand, i + lanes(tile), count - lanes(tile), tile + 1, 2, row_buffer)
    else:
        load_lanes(operand, i, count, tile, 1, row_buffer)


cdef inline void store_tile(
    const Operand* operand, Py_ssize_t i, Py_ssize_t count, const bint* skip, vec* tile, const vec* limits,
    vec* row_buffer
) noexcept nogil:
    """Store a tile within its limits, two vectors for each vector of rows. The tile may change."""
    cdef Py_ssize_t width = lanes(tile)
    if count <= width:
        store_lanes(operand, i, count, skip, tile, 1, limits, row_buffer)
        return
    store_lanes(operand, i, width, skip, tile, 2, limits, row_buffer)
    if skip is not NULL:
        skip += width
    store_lanes(operand, i + width, count - width, skip, tile + 1, 2, limits + LIMIT_VECTORS, row_buffer)


# --- a number for each row -------------------------------------------------------------------------------------------


cdef struct LanePairs:
    double high[MAX_TILE_ROWS]
    double low[MAX_TILE_ROWS]


cdef inline void set_lane(LanePairs* numbers, Py_ssize_t j, Pair x) noexcept nogil:
    numbers.high[j], numbers.low[j] = x.high, x.low


cdef inline void fill_lanes(LanePairs* numbers, Pair x) noexcept nogil:
    cdef Py_ssize_t j
    for j in range(MAX_TILE_ROWS):
        set_lane(numbers, j, x)


cdef inline void write_lanes(const LanePairs* numbers, vec* pairs) noexcept nogil:
    """Convert to pairs of vectors."""
    cdef Py_ssize_t j, h
    cdef vec* pair
    for h in range(MAX_TILE_VECTORS):
        pair = pairs + 2 * h
        for j in range(lanes(pairs)):
            put(pair + HIGH, j, numbers.high[h * lanes(pairs) + j])
            put(
                pair + LOW, j,
                (numbers.high[h * lanes(pairs) + j] - get(pair + HIGH, j)) + numbers.low[h * lanes(pairs) + j]
            )


cdef inline Pair read_lane(const vec* pairs, Py_ssize_t row) noexcept nogil:
    """The pair of one row; a pair of float32 fits one float64."""
    cdef const vec* pair = pairs + row // lanes(pairs) * 2
    cdef Py_ssize_t j = row % lanes(pairs)
    cdef Pair x
    x.high = get(pair + HIGH, j)
    x.low = get(pair + LOW, j)
    return single(x.high + x.low) if vec is vf32 else x


cdef struct TileTotals:         # the sums of the rows' losses, lane by lane
    vf64 high[2 * MAX_TILE_VECTORS]
    vf64 low[2 * MAX_TILE_VECTORS]


cdef inline void add_lanes(TileTotals* totals, const vec* pairs) noexcept nogil:
    """totals += pairs, for all rows of a tile; float32 pairs as float64 numbers."""
    cdef Py_ssize_t h, half
    cdef const vec* pair
    for h in range(MAX_TILE_VECTORS):
        pair = pairs + 2 * h
        if vec is vf32:
            for half in range(XENT_LANES_f32 // XENT_LANES_f64):     # 1 where vectors are single numbers
                accumulate(
                    xent_half_f32(pair[HIGH], half) + xent_half_f32(pair[LOW], half), &totals.high[2 * h + half],
                    &totals.low[2 * h + half]
                )
        else:
            accumulate(pair[HIGH], &totals.high[h], &totals.low[h])
            totals.low[h] = totals.low[h] + pair[LOW]


cdef inline void clear_lanes(TileTotals* totals) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(2 * MAX_TILE_VECTORS):
        totals.high[i] = totals.low[i] = fill(<vf64*>NULL, 0)


cdef inline Pair sum_lanes(TileTotals* totals) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(1, 2 * MAX_TILE_VECTORS):
        totals.low[0] = totals.low[0] + totals.low[i]
        accumulate(totals.high[i], &totals.high[0], &totals.low[0])
    return sum_pairs(totals.high[0], totals.low[0])


# --- arithmetic ------------------------------------------------------------------------------------------------------


cdef inline forced_void shift_lanes(vec m, vec* shift, vec* unit) noexcept nogil:
    """The shift of the row in each lane, as `exp_parts` takes it, and the unit of its terms as a pair."""
    cdef vec zero = fill(&m, 0), k, shifted, d, f, square, q
    shift[OFFSET] = where_less(fill(&m, large_peak(&m)), absolute(m), m, zero)
    d = m - shift[OFFSET]
    find_exponent(&d, &k, &shifted)
    shift[GRID] = fill(&m, table_grid(&m) + EXPONENT_HEADROOM) - k
    shift[LEAST] = (k - fill(&m, EXPONENT_HEADROOM + exponent_range(&m))) * fill(&m, LN2)
    load_table(shift + ENTRIES, shift + LOST)
    # exp(k log(2) - d), where the first part of the difference is exact.
    d = zero - multiply_add(k, minus_log2_high(&m), d)
    k = k * minus_log2_low(&m)
    f = d - k
    shifted = (d - f) - k
    square = f * f
    exp_polynomials(&f, &square, &q, 1)
    d = fill(&m, 1)
    k = d + f
    shifted = multiply_add(square, q, multiply_add(shifted, k, (d - k) + f))
    d = k + shifted
    unit[HIGH] = d * fill(&m, 1.0 / (1LL << EXPONENT_HEADROOM))
    unit[LOW] = ((k - d) + shifted) * fill(&m, 1.0 / (1LL << EXPONENT_HEADROOM))


cdef enum:                      # the vectors of a sum over classes
    MAXIMA = 3                  # how many classes have the largest logit; before it high, low and rest of `add_term`
    SUM_VECTORS = 4


cdef inline forced_void add_classes(
    const vec* x, vec* e, Py_ssize_t n_vectors, const vec* m, const vec* shift, vec* sums, Py_ssize_t count
) noexcept nogil:
    """e = the terms of `count` <= 4 classes, one vector of rows; sums += those of all that are not maxima, which are
    counted. With m NULL all are added, which is enough for probabilities."""
    cdef vec zero = fill(x, 0), one = fill(x, 1), term
    cdef vec y[4]
    cdef vec scale[4]
    cdef vec p[4]
    cdef vec high = sums[0], low = sums[1], rest = sums[2], maxima = sums[MAXIMA]
    cdef Py_ssize_t j
    for j in range(count):
        y[j] = x[j * n_vectors]
    exp_parts(y, <vec*>NULL, True, shift, scale, p, count)
    for j in range(count):
        e[j * n_vectors] = multiply_add(scale[j], p[j], scale[j])
    for j in range(count):
        if m is NULL:
            add_term(scale[j], p[j], &high, &low, &rest)
            continue
        maxima = maxima + where_equal(y[j], m[0], one, zero)
        scale[j] = where_equal(y[j], m[0], zero, scale[j])
        # Exactly, whichever is larger: a row is one lane here, so that nothing averages out.
        if has_table(x):
            accumulate(scale[j], &high, &low)
            rest = multiply_add(scale[j], p[j], rest)
        else:
            term = multiply_add(scale[j], p[j], scale[j])
            accumulate(term, &high, &low)
            low = low + multiply_add(scale[j], p[j], scale[j] - term)
    sums[0] = high
    sums[1] = low
    sums[2] = rest
    sums[MAXIMA] = maxima


cdef inline forced_void add_column(
    const vec* x, vec* e, Py_ssize_t n, Py_ssize_t n_vectors, const vec* m, const vec* shift, vec* sums
) noexcept nogil:
    """`add_classes` of all classes; the sum is a pair then."""
    cdef Py_ssize_t c, fours = n // 4 * 4
    sums[0] = sums[1] = sums[2] = fill(x, 0)
    for c in range(0, fours, 4):
        if c % FOLD_VECTORS == 0 and c > 0:
            accumulate(sums[2], &sums[0], &sums[1])
            sums[2] = fill(x, 0)
        add_classes(x + c * n_vectors, e + c * n_vectors, n_vectors, m, shift, sums, 4)
    if n - fours >= 2:
        add_classes(x + fours * n_vectors, e + fours * n_vectors, n_vectors, m, shift, sums, 2)
        fours += 2
    if n > fours:
        add_classes(x + fours * n_vectors, e + fours * n_vectors, n_vectors, m, shift, sums, 1)
    accumulate(sums[2], &sums[0], &sums[1])


cdef inline forced_void find_peaks(const vec* x, Py_ssize_t n, Py_ssize_t n_vectors, vec* peak) noexcept nogil:
    cdef Py_ssize_t c, h
    for h in range(n_vectors):
        peak[h] = x[h]
    for c in range(1, n):
        for h in range(n_vectors):
            peak[h] = maximum(x[c * n_vectors + h], peak[h])


cdef inline forced_void shift_vectors(
    const vec* x, vec* e, Py_ssize_t n, Py_ssize_t n_vectors, vec* peak, vec* rest, vec* unit
) noexcept nogil:
    """`shift_tile` for a constant n_vectors, so that its loops are unrolled."""
    cdef Py_ssize_t h
    cdef vec shift[SHIFT_VECTORS]
    cdef vec sums[SUM_VECTORS]
    find_peaks(x, n, n_vectors, peak)
    for h in range(n_vectors):
        shift_lanes(peak[h], shift, unit + 2 * h)
        sums[MAXIMA] = peak[h] - peak[h]        # NaN if that is infinite
        add_column(x + h, e + h, n, n_vectors, peak + h, shift, sums)
        multiply_pairs(sums, unit + 2 * h, rest + 2 * h)
        accumulate(sums[MAXIMA] - fill(x, 1), &rest[2 * h + HIGH], &rest[2 * h + LOW])


cdef inline forced_void exp_vectors(
    const vec* x, vec* e, Py_ssize_t n, Py_ssize_t n_vectors, vec* total, vec* unit
) noexcept nogil:
    """`exp_tile` for a constant n_vectors."""
    cdef Py_ssize_t h
    cdef vec peak[MAX_TILE_VECTORS]
    cdef vec shift[SHIFT_VECTORS]
    cdef vec sums[SUM_VECTORS]
    find_peaks(x, n, n_vectors, peak)
    for h in range(n_vectors):
        shift_lanes(peak[h], shift, unit + 2 * h)
        sums[MAXIMA] = peak[h] - peak[h]
        add_column(x + h, e + h, n, n_vectors, <vec*>NULL, shift, sums)
        total[2 * h + HIGH] = sums[0] + sums[MAXIMA]
        total[2 * h + LOW] = sums[1]


cdef inline forced_void add_one(const vec* rest, vec* total) noexcept nogil:
    """total = 1 + rest, pairs."""
    total[HIGH] = fill(rest, 1)
    total[LOW] = rest[LOW]
    accumulate(rest[HIGH], &total[HIGH], &total[LOW])


cdef inline forced_void invert(const vec* total, vec* inverse) noexcept nogil:
    """inverse = 1 / total, two pairs."""
    cdef vec one = fill(total, 1)
    inverse[HIGH] = one / total[HIGH]
    inverse[LOW] = (residual(one, inverse[HIGH], total[HIGH]) - inverse[HIGH] * total[LOW]) * inverse[HIGH]


cdef inline forced_void multiply_pairs(const vec* a, const vec* b, vec* product) noexcept nogil:
    product[HIGH] = a[HIGH] * b[HIGH]
    product[LOW] = multiply_rest(a[HIGH], b[HIGH], product[HIGH]) + multiply_add(a[HIGH], b[LOW], a[LOW] * b[HIGH])


cdef inline forced_void log_pairs(const vec* total, vec* log_total) noexcept nogil:
    """The logarithm of total >= 1, as a pair."""
    log_total[HIGH] = log_of_pair(total[HIGH], total[LOW], &log_total[LOW])
