# As many rows as a vector has lanes, side by side: a tile is n vectors, one for each class, and lane j is row j. For few
# classes, where a vector along a row would be mostly empty, and the work at its end more than that on its elements.
# What a lane computes does not depend on its neighbours.

from xent._numbers cimport MAX_LANES, accumulate, exps_shifted, finite_or_zero, log_of_pair
from xent._operands cimport Operand, gather, is_native, is_plain, place, row_of, scatter
from xent._rows cimport log_probability
from xent._simd cimport (
    fill, get, lanes, maximum, multiply_add, multiply_rest, put, residual, to_columns, to_rows, vec, vf32, where_equal,
)

cdef enum:
    FEW = 64            # classes up to which rows are done in tiles


cdef inline bint side_by_side(const Operand* operand, Py_ssize_t i, const vec* like) noexcept nogil:
    """Whether the next rows are the next elements in memory, so that a vector of a tile can be copied as it is."""
    cdef int last = operand.ndim - 1
    return (
        is_native(operand, like) and last >= 0
        and operand.strides[last] == <Py_ssize_t>sizeof(vec) // lanes(like)
        and i % operand.shape[last] + lanes(like) <= operand.shape[last]
    )


cdef inline void copy_element(vec* target, Py_ssize_t i, const vec* source, Py_ssize_t j) noexcept nogil:
    if vec is vf32:
        (<float*>target)[i] = (<const float*>source)[j]
    else:
        (<double*>target)[i] = (<const double*>source)[j]


cdef inline void load_tile(
    const Operand* operand, Py_ssize_t i, Py_ssize_t count, vec* tile, vec* scratch
) noexcept nogil:
    """Rows i to i + count; the other lanes are 0."""
    cdef Py_ssize_t width = lanes(tile), j = 0, c
    cdef vec* row
    cdef char* first = row_of(operand, i)
    if count == width and side_by_side(operand, i, tile):
        for c in range(operand.n):
            tile[c] = (<vec*>(first + c * operand.step))[0]
        return
    if is_plain(operand, tile) and width % 4 == 0:
        while j + 4 <= count:
            to_columns(
                tile, j, row_of(operand, i + j), row_of(operand, i + j + 1), row_of(operand, i + j + 2),
                row_of(operand, i + j + 3), operand.n,
            )
            j += 4
    while j < count:
        row = gather(operand, i + j, 0, operand.n, scratch)
        for c in range(operand.n):
            copy_element(tile, c * width + j, row, c)
        j += 1
    for j in range(count, width):
        for c in range(operand.n):
            put(tile, c * width + j, 0)


cdef inline void store_tile(
    const Operand* operand, Py_ssize_t i, Py_ssize_t count, const vec* tile, const bint* skip, bint skips, vec* scratch
) noexcept nogil:
    """Write the lanes that are not to be skipped."""
    cdef Py_ssize_t width = lanes(tile), j = 0, c
    cdef vec* row
    cdef char* first = row_of(operand, i)
    if count == width and not skips and side_by_side(operand, i, tile):
        for c in range(operand.n):
            (<vec*>(first + c * operand.step))[0] = tile[c]
        return
    if is_plain(operand, tile) and width % 4 == 0 and not skips:
        while j + 4 <= count:
            to_rows(
                tile, j, row_of(operand, i + j), row_of(operand, i + j + 1), row_of(operand, i + j + 2),
                row_of(operand, i + j + 3), operand.n,
            )
            j += 4
    while j < count:
        if not skip[j]:
            row = place(operand, i + j, 0, scratch)
            for c in range(operand.n):
                copy_element(row, c, tile, c * width + j)
            scatter(operand, i + j, 0, operand.n, row)
        j += 1


cdef inline void add_exponentials(
    const vec* x, vec* e, vec m, bint keep, vec* high, vec* low, vec* maxima, Py_ssize_t count
) noexcept nogil:
    """high + low += exp(x - m) of at most 4 vectors, where x is not m; maxima += 1 where it is."""
    cdef Py_ssize_t j
    cdef vec y[4]
    cdef vec lost[4]
    cdef vec zero = fill(x, 0), one = fill(x, 1)
    exps_shifted(x, m, y, lost, count)
    for j in range(count):
        maxima[0] = maxima[0] + where_equal(x[j], m, one, zero)
        accumulate(where_equal(x[j], m, zero, y[j]), high, low)
        low[0] = low[0] + lost[j]       # 0 at a maximum
        if keep:
            e[j] = y[j]


cdef inline void shift_tile(
    const vec* x, vec* e, Py_ssize_t n, bint keep, vec* peak, vec* rest, vec* rest_low
) noexcept nogil:
    """e = exp(x - m) if `keep`, m the maximum, and r, their sum but for one maximum, as a pair: that of a NaN or infinite
    m is NaN."""
    cdef Py_ssize_t fours = n // 4 * 4, c
    cdef vec m = x[0], high, low, maxima
    for c in range(1, n):
        m = maximum(x[c], m)
    high = low = fill(x, 0)
    maxima = m - m
    for c in range(0, fours, 4):
        add_exponentials(x + c, e + c, m, keep, &high, &low, &maxima, 4)
    # Three calls, so that the count is constant in each.
    if n - fours == 3:
        add_exponentials(x + fours, e + fours, m, keep, &high, &low, &maxima, 3)
    elif n - fours == 2:
        add_exponentials(x + fours, e + fours, m, keep, &high, &low, &maxima, 2)
    elif n - fours == 1:
        add_exponentials(x + fours, e + fours, m, keep, &high, &low, &maxima, 1)
    accumulate(maxima - fill(x, 1), &high, &low)
    peak[0] = m
    rest[0] = high
    rest_low[0] = low


cdef inline vec sum_of(vec rest, vec rest_low, vec* low) noexcept nogil:
    """1 + r, as a pair."""
    cdef vec total = fill(&rest, 1)
    low[0] = rest_low
    accumulate(rest, &total, low)
    return total


cdef inline vec inverse_of(vec total, vec total_low, vec* low) noexcept nogil:
    cdef vec one = fill(&total, 1)
    cdef vec inverse = one / total
    low[0] = (residual(one, inverse, total) - inverse * total_low) * inverse
    return inverse


cdef inline vec softmax_tile(const vec* x, vec* out, Py_ssize_t n) noexcept nogil:
    """Returns the sums, which are NaN where there are no probabilities."""
    cdef Py_ssize_t c
    cdef vec m, total, total_low, inverse, low
    shift_tile(x, out, n, True, &m, &total, &total_low)
    total = sum_of(total, total_low, &total_low)
    inverse = inverse_of(total, total_low, &low)
    inverse = inverse + low
    for c in range(n):
        out[c] = out[c] * inverse
    return total


cdef inline vec log_softmax_tile(const vec* x, vec* out, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t c
    cdef vec m, total, total_low, log_sum, log_low
    shift_tile(x, out, n, False, &m, &total, &total_low)
    total = sum_of(total, total_low, &total_low)
    log_sum = log_of_pair(total, total_low, &log_low)
    log_sum = log_sum + log_low
    for c in range(n):
        out[c] = log_probability(x[c], m, log_sum)
    return total


cdef inline vec logsumexp_tile(const vec* x, vec* out, Py_ssize_t n) noexcept nogil:
    cdef vec m, total, total_low, log_sum, log_low, high
    shift_tile(x, out, n, False, &m, &total, &total_low)
    total = sum_of(total, total_low, &total_low)
    log_sum = log_of_pair(total, total_low, &log_low)
    high = m
    accumulate(log_sum, &high, &log_low)
    out[0] = high + log_low
    return total


cdef inline vec times(vec a, vec a_low, vec b, vec b_low, vec* low) noexcept nogil:
    """The product of two pairs, as a pair."""
    cdef vec product = a * b
    low[0] = multiply_rest(a, b, product) + multiply_add(a, b_low, a_low * b)
    return product


cdef struct Factors:    # a number for each lane, as a float64 and what that lost
    double high[MAX_LANES]
    double low[MAX_LANES]


cdef inline vec factors_of(const vec* like, const Factors* factors, vec* low) noexcept nogil:
    cdef Py_ssize_t j
    cdef vec high = fill(like, 0)
    low[0] = high
    for j in range(lanes(like)):
        put(&high, j, factors.high[j])
        put(low, j, (factors.high[j] - get(&high, j)) + factors.low[j])
    return high


cdef inline void add_lanes(Factors* totals, const vec* high, const vec* low) noexcept nogil:
    """Add numbers in two parts to totals, lane by lane."""
    cdef Py_ssize_t j
    cdef double x, total, part
    for j in range(lanes(high)):
        x = get(high, j) + get(low, j) if vec is vf32 else get(high, j)      # a float64 holds two float32
        total = totals.high[j] + x
        part = total - totals.high[j]
        totals.low[j] += (totals.high[j] - (total - part)) + (x - part)
        totals.high[j] = total
        if vec is not vf32:
            totals.low[j] += get(low, j)


cdef inline vec label_tile(
    const vec* x, vec* e, Py_ssize_t n, const Py_ssize_t* label, vec weight, vec weight_low, vec scale, vec scale_low,
    bint keep, vec* loss, vec* loss_low
) noexcept nogil:
    """The losses times `weight`, as pairs, and with `keep` e = their gradients times `scale`, of rows whose mass is all
    on one class. Returns the sums, which are NaN where there are no probabilities."""
    cdef Py_ssize_t width = lanes(x), j, c
    cdef vec zero = fill(x, 0), one = fill(x, 1)
    cdef vec m, total, total_low, log_sum, log_low, logit, own, d, d_low, high, inverse, inverse_low, others, others_low
    cdef vec factor, factor_low, part
    logit = own = zero
    shift_tile(x, e, n, keep, &m, &others, &others_low)
    total = sum_of(others, others_low, &total_low)
    log_sum = log_of_pair(total, total_low, &log_low)
    for j in range(width):
        copy_element(&logit, j, x, label[j] * width + j)
    d = m - logit
    part = d + logit
    d_low = finite_or_zero((m - part) - ((d - part) + logit)) + log_low
    high = d
    accumulate(log_sum, &high, &d_low)
    loss[0] = times(high, finite_or_zero(d_low), weight, weight_low, loss_low)
    if not keep:
        return total

    for j in range(width):
        copy_element(&own, j, e, label[j] * width + j)
    inverse = inverse_of(total, total_low, &inverse_low)
    # Of the classes but the label: r where it is a maximum, else r + (1 - its own).
    part = one - own
    d_low = (one - part) - own
    others_low = others_low + where_equal(logit, m, zero, d_low)
    accumulate(where_equal(logit, m, zero, part), &others, &others_low)
    factor = times(inverse, inverse_low, scale, scale_low, &factor_low)
    part = times(others, others_low, factor, factor_low, &d_low)
    own = zero - (part + d_low)
    factor = factor + factor_low
    for c in range(n):
        e[c] = e[c] * factor
    for j in range(width):
        copy_element(e, label[j] * width + j, &own, j)
    return total
