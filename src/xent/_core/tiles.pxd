# With few classes a vector along a row would be mostly empty, so rows are computed side by side, one per lane. A tile
# has n_vectors vectors per class: 2, whose independent operations hide latency, or 1 for the last rows. Lane j of
# vector n_vectors * c + h is class c of row h * lanes + j. Lanes do not affect each other.
#
# A pair of vectors is an array x of two: x[HIGH] and x[LOW]. For a tile, x + 2 * h is the pair of the vectors h.

from xent._core.exponentials cimport HIGH, LOW
from xent._core.elementary cimport exps_shifted, log_of_pair
from xent._core.pairs cimport MAX_LANES, Pair, accumulate, single, two_sum
from xent._core.scratch cimport MAX_TILE_VECTORS
from xent._core.simd cimport (
    fill, forced_void, get, lanes, maximum, multiply_add, multiply_rest, put, residual, to_columns, to_rows, vec,
    vf32, where_equal,
)
from xent._core.strided cimport Operand, gather, is_native, is_plain, place, row_of, scatter

cdef enum:
    MAX_TILE_ROWS = MAX_TILE_VECTORS * MAX_LANES


# --- memory ----------------------------------------------------------------------------------------------------------


cdef inline bint lie_side_by_side(const Operand* operand, Py_ssize_t i, const vec* like) noexcept nogil:
    """Whether consecutive rows are adjacent in memory, so that a tile vector can be copied directly."""
    cdef int last = operand.ndim - 1
    return (
        is_native(operand, like) and last >= 0 and operand.run == operand.n
        and operand.strides[last] == <Py_ssize_t>sizeof(vec) // lanes(like)
        and i % operand.shape[last] + lanes(like) <= operand.shape[last]
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
    for j in range(count, width):
        for c in range(operand.n):
            put(tile, c * n_vectors * width + j, 0)


cdef inline void store_lanes(
    const Operand* operand, Py_ssize_t i, Py_ssize_t count, const vec* tile, Py_ssize_t n_vectors, const bint* skip,
    vec* row_buffer
) noexcept nogil:
    """Store what `load_lanes` loads, except the lanes where `skip` is true (NULL: none)."""
    cdef Py_ssize_t width = lanes(tile), j = 0, c
    cdef vec* row
    cdef char* first = row_of(operand, i)
    if count == width and skip is NULL and lie_side_by_side(operand, i, tile):
        for c in range(operand.n):
            (<vec*>(first + c * operand.step))[0] = tile[c * n_vectors]
        return
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
    const Operand* operand, Py_ssize_t i, Py_ssize_t count, const vec* tile, Py_ssize_t n_vectors, const bint* skip,
    vec* row_buffer
) noexcept nogil:
    cdef Py_ssize_t width = lanes(tile)
    if n_vectors == 2:
        store_lanes(operand, i, width, tile, 2, skip, row_buffer)
        store_lanes(
            operand, i + width, count - width, tile + 1, 2, skip if skip is NULL else skip + width, row_buffer
        )
    else:
        store_lanes(operand, i, count, tile, 1, skip, row_buffer)


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


cdef inline void add_lanes(LanePairs* totals, const vec* pairs) noexcept nogil:
    """totals += pairs, for all rows of a tile; the additions are independent."""
    cdef Py_ssize_t h, j, row
    cdef const vec* pair
    cdef double x
    cdef Pair total
    for h in range(MAX_TILE_VECTORS):
        pair = pairs + 2 * h
        for j in range(lanes(pairs)):
            row = h * lanes(pairs) + j
            x = get(pair + HIGH, j) + get(pair + LOW, j) if vec is vf32 else get(pair + HIGH, j)
            total = two_sum(totals.high[row], x)
            totals.high[row] = total.high
            totals.low[row] += total.low
            if vec is not vf32:
                totals.low[row] += get(pair + LOW, j)


# --- arithmetic ------------------------------------------------------------------------------------------------------


cdef inline forced_void exponentiate(
    const vec* x, vec* e, const vec* m, Py_ssize_t n_vectors, vec* low, Py_ssize_t count
) noexcept nogil:
    """e = exp(x - m) for at most 4 vectors; low += their rounding errors."""
    cdef Py_ssize_t j
    cdef vec lost[4]
    cdef vec peak[4]
    for j in range(count):
        peak[j] = m[j % n_vectors]
    exps_shifted(x, peak, e, lost, count)
    for j in range(count):
        low[j % n_vectors] = low[j % n_vectors] + lost[j]       # 0 at a maximum


cdef inline forced_void shift_vectors(
    const vec* x, vec* e, Py_ssize_t n, Py_ssize_t n_vectors, vec* peak, vec* rest
) noexcept nogil:
    """`shift_tile` for a constant n_vectors, so that its loops are unrolled."""
    cdef Py_ssize_t vectors = n * n_vectors, fours = n * n_vectors // 4 * 4, c, h
    cdef vec zero = fill(x, 0), one = fill(x, 1)
    cdef vec m[MAX_TILE_VECTORS]
    cdef vec high[MAX_TILE_VECTORS]
    cdef vec low[MAX_TILE_VECTORS]
    cdef vec maxima[MAX_TILE_VECTORS]
    for h in range(n_vectors):
        m[h] = x[h]
    for c in range(1, n):
        for h in range(n_vectors):
            m[h] = maximum(x[c * n_vectors + h], m[h])
    for h in range(n_vectors):
        high[h] = low[h] = zero
        maxima[h] = m[h] - m[h]
    for c in range(0, fours, 4):
        exponentiate(x + c, e + c, m, n_vectors, low, 4)
    # Three calls, so that the count is constant in each.
    if vectors - fours == 3:
        exponentiate(x + fours, e + fours, m, n_vectors, low, 3)
    elif vectors - fours == 2:
        exponentiate(x + fours, e + fours, m, n_vectors, low, 2)
    elif vectors - fours == 1:
        exponentiate(x + fours, e + fours, m, n_vectors, low, 1)
    # A separate loop: these additions form a dependency chain, which would stall the exponentials.
    for c in range(n):
        for h in range(n_vectors):
            maxima[h] = maxima[h] + where_equal(x[c * n_vectors + h], m[h], one, zero)
            accumulate(where_equal(x[c * n_vectors + h], m[h], zero, e[c * n_vectors + h]), &high[h], &low[h])
    for h in range(n_vectors):
        accumulate(maxima[h] - one, &high[h], &low[h])
        peak[h] = m[h]
        rest[2 * h + HIGH] = high[h]
        rest[2 * h + LOW] = low[h]


cdef inline forced_void add_one(const vec* rest, vec* total) noexcept nogil:
    """total = 1 + rest, pairs."""
    total[HIGH] = fill(rest, 1)
    total[LOW] = rest[LOW]
    accumulate(rest[HIGH], &total[HIGH], &total[LOW])


cdef inline forced_void invert(const vec* total, vec* inverse) noexcept nogil:
    """inverse = 1 / total, pairs."""
    cdef vec one = fill(total, 1)
    inverse[HIGH] = one / total[HIGH]
    inverse[LOW] = (residual(one, inverse[HIGH], total[HIGH]) - inverse[HIGH] * total[LOW]) * inverse[HIGH]


cdef inline forced_void multiply_pairs(const vec* a, const vec* b, vec* product) noexcept nogil:
    product[HIGH] = a[HIGH] * b[HIGH]
    product[LOW] = multiply_rest(a[HIGH], b[HIGH], product[HIGH]) + multiply_add(a[HIGH], b[LOW], a[LOW] * b[HIGH])


cdef inline forced_void log_pairs(const vec* total, vec* log_total) noexcept nogil:
    """The logarithm of total >= 1, as a pair."""
    log_total[HIGH] = log_of_pair(total[HIGH], total[LOW], &log_total[LOW])
