# Part of _kernels.pyx: rows side by side, for few classes, where a vector along a row would be mostly empty, and the
# work at its end more than that on its elements. A tile is `wide` vectors for each class: 2 of them, since each alone
# would be a chain of steps that wait for one another, or 1 where there are no more rows. Vector wide * c + h is class
# c, and its lane j row h * lanes + j. What a lane computes does not depend on its neighbours.

from xent._core.elementary cimport exps_shifted, log_of_pair
from xent._core.pairs cimport MAX_LANES, accumulate, finite_or_zero
from xent._core.rows cimport log_probability
from xent._core.simd cimport (
    fill, get, lanes, maximum, multiply_add, multiply_rest, put, residual, to_columns, to_rows, vec, vf32, where_equal,
)

cdef enum:
    MAX_TILE_CLASSES = 64            # classes up to which rows are done in tiles
    MAX_TILE_VECTORS = 2
    MAX_TILE_ROWS = MAX_TILE_VECTORS * MAX_LANES


cdef bint side_by_side(const Operand* operand, Py_ssize_t i, const vec* like) noexcept nogil:
    """Whether the next rows are the next elements in memory, so that a vector of a tile can be copied as it is."""
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


cdef inline void load_lanes(
    const Operand* operand, Py_ssize_t i, Py_ssize_t count, vec* tile, Py_ssize_t wide, vec* scratch
) noexcept nogil:
    """Rows i to i + count into one vector of each class; the other lanes are 0."""
    cdef Py_ssize_t width = lanes(tile), j = 0, c
    cdef vec* row
    cdef char* first = row_of(operand, i)
    if count == width and side_by_side(operand, i, tile):
        for c in range(operand.n):
            tile[c * wide] = (<vec*>(first + c * operand.step))[0]
        return
    if is_plain(operand, tile) and width % 4 == 0:
        while j + 4 <= count:
            to_columns(
                tile, j, wide, row_of(operand, i + j), row_of(operand, i + j + 1), row_of(operand, i + j + 2),
                row_of(operand, i + j + 3), operand.n,
            )
            j += 4
    while j < count:
        row = gather(operand, i + j, 0, operand.n, scratch)
        for c in range(operand.n):
            copy_element(tile, c * wide * width + j, row, c)
        j += 1
    for j in range(count, width):
        for c in range(operand.n):
            put(tile, c * wide * width + j, 0)


cdef inline void store_lanes(
    const Operand* operand, Py_ssize_t i, Py_ssize_t count, const vec* tile, Py_ssize_t wide, const bint* skip,
    bint skips, vec* scratch
) noexcept nogil:
    """And back, but for the lanes that are to be skipped."""
    cdef Py_ssize_t width = lanes(tile), j = 0, c
    cdef vec* row
    cdef char* first = row_of(operand, i)
    if count == width and not skips and side_by_side(operand, i, tile):
        for c in range(operand.n):
            (<vec*>(first + c * operand.step))[0] = tile[c * wide]
        return
    if is_plain(operand, tile) and width % 4 == 0 and not skips:
        while j + 4 <= count:
            to_rows(
                tile, j, wide, row_of(operand, i + j), row_of(operand, i + j + 1), row_of(operand, i + j + 2),
                row_of(operand, i + j + 3), operand.n,
            )
            j += 4
    while j < count:
        if not skip[j]:
            row = place(operand, i + j, 0, scratch)
            for c in range(operand.n):
                copy_element(row, c, tile, c * wide * width + j)
            scatter(operand, i + j, 0, operand.n, row)
        j += 1


cdef Py_ssize_t rows_among(Py_ssize_t count, Py_ssize_t h, const vec* tile) noexcept nogil:
    """How many of `count` rows are in the vectors h."""
    return max(0, min(count - h * lanes(tile), lanes(tile)))


cdef inline void load_tile(
    const Operand* operand, Py_ssize_t i, Py_ssize_t count, vec* tile, Py_ssize_t wide, vec* scratch
) noexcept nogil:
    """Rows i to i + count; the other lanes are 0."""
    cdef Py_ssize_t h
    for h in range(wide):
        load_lanes(operand, i + h * lanes(tile), rows_among(count, h, tile), tile + h, wide, scratch)


cdef inline void store_tile(
    const Operand* operand, Py_ssize_t i, Py_ssize_t count, const vec* tile, Py_ssize_t wide, const bint* skip,
    bint skips, vec* scratch
) noexcept nogil:
    cdef Py_ssize_t h
    for h in range(wide):
        store_lanes(
            operand, i + h * lanes(tile), rows_among(count, h, tile), tile + h, wide, skip + h * lanes(tile), skips,
            scratch,
        )


cdef inline void exponentials(
    const vec* x, vec* e, const vec* m, Py_ssize_t wide, vec* low, Py_ssize_t count
) noexcept nogil:
    """e = exp(x - m) of at most 4 vectors; low += what they lost."""
    cdef Py_ssize_t j
    cdef vec lost[4]
    cdef vec peak[4]
    for j in range(count):
        peak[j] = m[j % wide]
    exps_shifted(x, peak, e, lost, count)
    for j in range(count):
        low[j % wide] = low[j % wide] + lost[j]       # 0 at a maximum


cdef inline void shift_tile(
    const vec* x, vec* e, Py_ssize_t n, Py_ssize_t wide, vec* peak, vec* rest, vec* rest_low
) noexcept nogil:
    """e = exp(x - m), m the maximum, and r, their sum but for one maximum, as a pair: that of a NaN or infinite m is
    NaN."""
    cdef Py_ssize_t vectors = n * wide, fours = n * wide // 4 * 4, c, h
    cdef vec zero = fill(x, 0), one = fill(x, 1)
    cdef vec m[MAX_TILE_VECTORS]
    cdef vec high[MAX_TILE_VECTORS]
    cdef vec low[MAX_TILE_VECTORS]
    cdef vec maxima[MAX_TILE_VECTORS]
    for h in range(wide):
        m[h] = x[h]
    for c in range(1, n):
        for h in range(wide):
            m[h] = maximum(x[c * wide + h], m[h])
    for h in range(wide):
        high[h] = low[h] = zero
        maxima[h] = m[h] - m[h]
    for c in range(0, fours, 4):
        exponentials(x + c, e + c, m, wide, low, 4)
    # Three calls, so that the count is constant in each.
    if vectors - fours == 3:
        exponentials(x + fours, e + fours, m, wide, low, 3)
    elif vectors - fours == 2:
        exponentials(x + fours, e + fours, m, wide, low, 2)
    elif vectors - fours == 1:
        exponentials(x + fours, e + fours, m, wide, low, 1)
    # A loop of its own: additions wait for one another, and the exponentials would wait with them.
    for c in range(n):
        for h in range(wide):
            maxima[h] = maxima[h] + where_equal(x[c * wide + h], m[h], one, zero)
            accumulate(where_equal(x[c * wide + h], m[h], zero, e[c * wide + h]), &high[h], &low[h])
    for h in range(wide):
        accumulate(maxima[h] - one, &high[h], &low[h])
        peak[h] = m[h]
        rest[h] = high[h]
        rest_low[h] = low[h]


# Not inline, so that their loops have all registers.

cdef void shift_one(const vec* x, vec* e, Py_ssize_t n, vec* peak, vec* rest, vec* rest_low) noexcept nogil:
    shift_tile(x, e, n, 1, peak, rest, rest_low)


cdef void shift_two(const vec* x, vec* e, Py_ssize_t n, vec* peak, vec* rest, vec* rest_low) noexcept nogil:
    shift_tile(x, e, n, 2, peak, rest, rest_low)


cdef inline void shift(
    const vec* x, vec* e, Py_ssize_t n, Py_ssize_t wide, vec* peak, vec* rest, vec* rest_low
) noexcept nogil:
    if wide == 2:
        shift_two(x, e, n, peak, rest, rest_low)
    else:
        shift_one(x, e, n, peak, rest, rest_low)


cdef vec sum_of(vec rest, vec rest_low, vec* low) noexcept nogil:
    """1 + r, as a pair."""
    cdef vec total = fill(&rest, 1)
    low[0] = rest_low
    accumulate(rest, &total, low)
    return total


cdef vec inverse_of(vec total, vec total_low, vec* low) noexcept nogil:
    cdef vec one = fill(&total, 1)
    cdef vec inverse = one / total
    low[0] = (residual(one, inverse, total) - inverse * total_low) * inverse
    return inverse


cdef inline void softmax_tile(const vec* x, vec* out, Py_ssize_t n, Py_ssize_t wide, vec* sums) noexcept nogil:
    """Writes the sums as well, which are NaN where there are no probabilities."""
    cdef Py_ssize_t c, h
    cdef vec m[MAX_TILE_VECTORS]
    cdef vec low[MAX_TILE_VECTORS]
    cdef vec inverse, lost
    shift(x, out, n, wide, m, sums, low)
    for h in range(wide):
        sums[h] = sum_of(sums[h], low[h], &low[h])
        inverse = inverse_of(sums[h], low[h], &lost)
        inverse = inverse + lost
        for c in range(n):
            out[c * wide + h] = out[c * wide + h] * inverse


cdef inline void log_softmax_tile(const vec* x, vec* out, Py_ssize_t n, Py_ssize_t wide, vec* sums) noexcept nogil:
    cdef Py_ssize_t c, h
    cdef vec m[MAX_TILE_VECTORS]
    cdef vec low[MAX_TILE_VECTORS]
    cdef vec log_sum, log_low
    shift(x, out, n, wide, m, sums, low)
    for h in range(wide):
        sums[h] = sum_of(sums[h], low[h], &low[h])
        log_sum = log_of_pair(sums[h], low[h], &log_low)
        log_sum = log_sum + log_low
        for c in range(n):
            out[c * wide + h] = log_probability(x[c * wide + h], m[h], log_sum)


cdef inline void logsumexp_tile(
    const vec* x, vec* e, vec* out, Py_ssize_t n, Py_ssize_t wide, vec* sums
) noexcept nogil:
    cdef Py_ssize_t h
    cdef vec m[MAX_TILE_VECTORS]
    cdef vec low[MAX_TILE_VECTORS]
    cdef vec log_sum, log_low
    shift(x, e, n, wide, m, sums, low)
    for h in range(wide):
        sums[h] = sum_of(sums[h], low[h], &low[h])
        log_sum = log_of_pair(sums[h], low[h], &log_low)
        accumulate(log_sum, &m[h], &log_low)
        out[h] = m[h] + log_low


cdef inline vec times(vec a, vec a_low, vec b, vec b_low, vec* low) noexcept nogil:
    """The product of two pairs, as a pair."""
    cdef vec product = a * b
    low[0] = multiply_rest(a, b, product) + multiply_add(a, b_low, a_low * b)
    return product


cdef struct Factors:    # a number for each lane, as a float64 and what that lost
    double high[MAX_TILE_ROWS]
    double low[MAX_TILE_ROWS]


cdef void factors_of(const Factors* factors, vec* high, vec* low) noexcept nogil:
    """As the vectors of a tile, in two parts."""
    cdef Py_ssize_t j
    for j in range(MAX_TILE_VECTORS * lanes(high)):
        put(high, j, factors.high[j])
        put(low, j, (factors.high[j] - get(high, j)) + factors.low[j])


cdef inline void add_rows(Factors* totals, const vec* high, const vec* low) noexcept nogil:
    """Add numbers in two parts to totals, for all rows of a tile."""
    cdef Py_ssize_t j
    cdef double x, total, part
    for j in range(MAX_TILE_VECTORS * lanes(high)):
        x = get(high, j) + get(low, j) if vec is vf32 else get(high, j)      # a float64 holds two float32
        total = totals.high[j] + x
        part = total - totals.high[j]
        totals.low[j] += (totals.high[j] - (total - part)) + (x - part)
        totals.high[j] = total
        if vec is not vf32:
            totals.low[j] += get(low, j)


cdef inline void label_tile(
    const vec* x, vec* e, Py_ssize_t n, Py_ssize_t wide, const Py_ssize_t* label, const vec* weight,
    const vec* weight_low, const vec* scale, const vec* scale_low, bint keep, vec* loss, vec* loss_low, vec* sums
) noexcept nogil:
    """The losses times `weight`, as pairs, and with `keep` e = their gradients times `scale` (else scratch), of rows
    whose mass is all on one class; and the sums, which are NaN where there are no probabilities."""
    cdef Py_ssize_t width = wide * lanes(x), j, c, h
    cdef vec zero = fill(x, 0), one = fill(x, 1)
    cdef vec m[MAX_TILE_VECTORS]
    cdef vec others[MAX_TILE_VECTORS]
    cdef vec others_low[MAX_TILE_VECTORS]
    cdef vec total_low[MAX_TILE_VECTORS]
    cdef vec logit[MAX_TILE_VECTORS]
    cdef vec own[MAX_TILE_VECTORS]
    cdef vec log_sum, log_low, d, d_low, high, inverse, inverse_low, factor, factor_low, part
    shift(x, e, n, wide, m, others, others_low)
    for j in range(width):
        copy_element(logit, j, x, label[j] * width + j)
    for h in range(wide):
        sums[h] = sum_of(others[h], others_low[h], &total_low[h])
        log_sum = log_of_pair(sums[h], total_low[h], &log_low)
        d = m[h] - logit[h]
        part = d + logit[h]
        d_low = finite_or_zero((m[h] - part) - ((d - part) + logit[h])) + log_low
        high = d
        accumulate(log_sum, &high, &d_low)
        loss[h] = times(high, finite_or_zero(d_low), weight[h], weight_low[h], &loss_low[h])
    if not keep:
        return

    for j in range(width):
        copy_element(own, j, e, label[j] * width + j)
    for h in range(wide):
        inverse = inverse_of(sums[h], total_low[h], &inverse_low)
        # Of the classes but the label: r where it is a maximum, else r + (1 - its own).
        part = one - own[h]
        d_low = (one - part) - own[h]
        others_low[h] = others_low[h] + where_equal(logit[h], m[h], zero, d_low)
        accumulate(where_equal(logit[h], m[h], zero, part), &others[h], &others_low[h])
        factor = times(inverse, inverse_low, scale[h], scale_low[h], &factor_low)
        part = times(others[h], others_low[h], factor, factor_low, &d_low)
        own[h] = zero - (part + d_low)
        factor = factor + factor_low
        for c in range(n):
            e[c * wide + h] = e[c * wide + h] * factor
    for j in range(width):
        copy_element(e, label[j] * width + j, own, j)
