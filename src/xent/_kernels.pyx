"""Blocks of rows, and what Python calls. Nothing here starts a thread or raises for an argument; only whole calls
(_plain.pxi) look at theirs, to leave what is not plain to _arguments.py.

One row x of C logits, with target mass t and T = sum(t):

    m = max x          k = an index where x_k = m          e_c = exp(x_c - m)
    r = sum of e_c over c != k            s = 1 + r        logsumexp = m + log1p(r)
    p_c = e_c / s                         log p_c = -((m - x_c) + log1p(r))
    loss = sum(t_c (m - x_c)) + T log1p(r)                 grad_c = T p_c - t_c

(a) The maximum is left out of the sum and comes back through log1p, so the loss is a sum of terms that are all >= 0:
    a confident row keeps every digit of its tiny loss.
(b) With all the mass on one class y the gradient there is -T (sum of e_c over c != y) / s, never T (p_y - 1).
(c) x - m rounds, by half a unit in the last place of a number that may be large, and exp multiplies that. So exponents
    are shifted by an integer near m log2(e), which is exact; what is left of m is one factor for the whole row.
(d) Sums keep what their roundings lose, in vectors as in float64, and so do the last few operations of a row: they
    round once, at the end.

Every option is this formula with another t or another x. The mass of a row is share (points + t) + even base: points
are a label, or the classes of a sparse distribution; t is a dense one; base is 1 (or the class weights) for each class
that smoothing reaches. Logits that are scaled, capped or masked are computed first, as pairs, in a scratch.

Layers, each using only those above it: numbers (_core/pairs.pxd, _core/elementary.pxd) -> one row, or a vector of rows side by side (_rows.pxd,
_columns.pxi, _binary.pxd) -> a block of rows (here and in _losses.pxi) -> the functions that Python calls, which take
arrays that are known to be good (see _arguments.py) and work in blocks, which threads share (_core/scheduler.pyx) -> whole calls
on plain arrays (_plain.pxi).
"""

from libc.limits cimport INT_MIN
from libc.math cimport INFINITY, NAN, fabs, frexp, isfinite, isinf, isnan, ldexp
from libc.stdint cimport int32_t, int64_t, uint8_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memset

cimport numpy as cnp

from xent._core.elementary cimport log_pair, minus_log
from xent._core.pairs cimport (
    Pair, Sum, add, add_exactly, add_pair, divide, multiply, one_more, single, sum_pairs, two_sum, value,
)
from xent._core.rows cimport (
    NO_CLASS, PIECE_ELEMENTS, Peak, RowSum, SEVERAL, Shift, Transform, add_distances, add_elements, add_exponentials, combine_row,
    Softmax, count_ahead, exponential, fill_row, has_many, has_nan, is_moderate, is_usual_transform, log_probabilities,
    log_softmax_row, mask_row, multiply_row, no_peak, only_class, raise_peak, set_shift, softmax_of, softmax_row,
    sum_of_distances, sum_of_row, times as times_number, transform_row, weighted_sum,
)
from xent._core.scheduler cimport (
    PY_SSIZE_T_MAX, BlockClaim, Work, block_size, claim_blocks, count_blocks, do_alone, next_block, xent_load,
    xent_replace, xent_shared,
)
from xent._core.simd cimport (
    XENT_LANES_f32, XENT_LANES_f64, all_equal, element, fill, get, lanes, load_first, multiply_add, put, vec, vf32,
    vf64, xent_add_lanes_f32, xent_add_lanes_f64, xent_cpu_has_avx2, xent_cpu_has_avx512, xent_drain, xent_prefetch,
    xent_transpose_rows_f32, xent_transpose_rows_f64,
)
from xent._core.streaming cimport Traffic, finish, no_traffic

cnp.import_array()

include "_core/strided.pxi"
include "_core/tiles.pxi"


# ---------------------------------------------------------------------------------------------------------------------
# Softmax and its kin: rows first <= i < last of a batch
# ---------------------------------------------------------------------------------------------------------------------

cdef enum:
    LINE_DOUBLES = 8                    # numbers in a cache line, as in the longest vector
    SCRATCH_BYTES = 1000 << 10  # for the rows that all threads of a call hold: within a MiB, what is small included
    TILE_ROWS = 3               # in the scratch before the tiles


cdef inline vec* aligned(const double* scratch, const vec* like) noexcept nogil:
    """From the next cache line on."""
    return <vec*>((<size_t>scratch + 63) // 64 * 64)


cdef Py_ssize_t row_space(Py_ssize_t n) noexcept nogil:
    """Of a row of n elements of float64, in whole cache lines, and one line more: rows a power of two apart collide."""
    return (n + LINE_DOUBLES - 1) // LINE_DOUBLES * LINE_DOUBLES + LINE_DOUBLES


cdef bint fits(Py_ssize_t rows, Py_ssize_t n, Kind kind, Py_ssize_t windows, Py_ssize_t threads) noexcept nogil:
    """Whether each of so many threads may keep so many rows of n elements, and windows beside them."""
    cdef Py_ssize_t size = 8 if kind == F64 else 4
    return rows * n * size <= SCRATCH_BYTES // threads - windows * WINDOW_BYTES


cdef bint is_in_place(const Operand* x) noexcept nogil:
    """Whether a kernel of its own type reads or writes its rows where they are."""
    return is_plain(x, <vf32*>NULL) or is_plain(x, <vf64*>NULL)


cdef Py_ssize_t result_rows(const Operand* out) noexcept nogil:
    """How many rows of scratch results take: in claim, if they stream."""
    return 0 if out.kind == ABSENT else 2 if out.streams else not is_in_place(out)


# Not inline, so that their loops have all registers: sums of exponentials and, with _terms, the exponentials themselves; of
# logits, and of logits that are pairs.

cdef void exp_sum(
    const vec* x, Py_ssize_t n, Py_ssize_t skip, const Shift* shift, vec* total, vec* total_low, Traffic* traffic
) noexcept nogil:
    add_exponentials(x, <vec*>NULL, <vec*>x, n, skip, shift, False, total, total_low, traffic)


cdef void exp_terms(
    const vec* x, vec* e, Py_ssize_t n, Py_ssize_t skip, const Shift* shift, vec* total, vec* total_low,
    Traffic* traffic
) noexcept nogil:
    add_exponentials(x, <vec*>NULL, e, n, skip, shift, True, total, total_low, traffic)


cdef void exp_sum_of_pairs(
    const vec* x, const vec* low, Py_ssize_t n, Py_ssize_t skip, const Shift* shift, vec* total, vec* total_low,
    Traffic* traffic
) noexcept nogil:
    add_exponentials(x, low, <vec*>x, n, skip, shift, False, total, total_low, traffic)


cdef void exp_terms_of_pairs(
    const vec* x, const vec* low, vec* e, Py_ssize_t n, Py_ssize_t skip, const Shift* shift, vec* total,
    vec* total_low, Traffic* traffic
) noexcept nogil:
    add_exponentials(x, low, e, n, skip, shift, True, total, total_low, traffic)


cdef void logsumexp_rows(
    const Operand* x, const Operand* out, vec* scratch, Py_ssize_t piece, Py_ssize_t first, Py_ssize_t last
) noexcept nogil:
    cdef Py_ssize_t i, start, count
    cdef bint lacks
    cdef vec* row
    cdef Peak peak
    cdef Shift shift
    cdef Window window
    cdef vec total, total_low
    cdef Traffic traffic = no_traffic(scratch)
    open_window(&window, x, first, last if piece == x.n else first, scratch)
    for i in range(first, last):
        peak = no_peak()
        start = 0
        while start < x.n:
            row = gather_through(&window, x, i, last, start, min(piece, x.n - start), scratch)
            raise_peak(&peak, row, <vec*>NULL, start, min(piece, x.n - start))
            start += piece
        lacks = False
        total = total_low = fill(scratch, 0)
        if isfinite(peak.high):
            shift.peak = peak
            set_shift(&shift, scratch)
        start = 0
        while start < x.n:
            count = min(piece, x.n - start)
            if piece < x.n:
                row = gather(x, i, start, count, scratch)
            traffic.soon = <const char*>(next_row(x, i, row) if piece == x.n else row)
            if isfinite(peak.high):
                exp_sum(row, count, peak.index - start, &shift, &total, &total_low, &traffic)
            else:
                lacks = lacks or has_nan(row, count)
            start += piece
        if isfinite(peak.high):
            write_number(out, i, value(sum_of_row(&shift, total, total_low).logsumexp))
        else:
            write_number(out, i, NAN if lacks else peak.high)
    close_window(&window)


cdef void logsumexp_tiles(
    const Operand* x, const Operand* out, vec* scratch, vec* tile, Py_ssize_t first, Py_ssize_t last
) noexcept nogil:
    cdef Py_ssize_t i, j, count
    cdef vec sums[MAX_TILE_VECTORS]
    cdef vec result[MAX_TILE_VECTORS]
    i = first
    while i < last:
        count = min(last - i, MAX_TILE_VECTORS * lanes(tile))
        if count > lanes(tile):
            load_tile(x, i, count, tile, 2, scratch)
            logsumexp_tile(tile, tile + MAX_TILE_VECTORS * x.n, result, x.n, 2, sums)
        else:
            load_tile(x, i, count, tile, 1, scratch)
            logsumexp_tile(tile, tile + MAX_TILE_VECTORS * x.n, result, x.n, 1, sums)
        for j in range(count):
            if isnan(get(sums, j)):
                logsumexp_rows(x, out, scratch, x.n, i + j, i + j + 1)
            else:
                write_number(out, i + j, get(result, j))
        i += count


cdef double infinite_terms(const vf64* x, const vf64* b, Py_ssize_t n) noexcept nogil:
    """The sum of b exp(x) in a row whose largest element is infinite or NaN."""
    cdef Py_ssize_t i
    cdef double total = 0
    for i in range(n):
        if isnan(get(x, i)) or isnan(get(b, i)):
            total = NAN
        elif get(x, i) == INFINITY:     # factors that are not 0 by now
            total += INFINITY if get(b, i) > 0 else -INFINITY
    return total


cdef double moderate_factor(double b, double* log_rest, double* log_rest_low) noexcept nogil:
    """b, or for one of extreme size its mantissa, and the logarithm of the rest."""
    cdef int exponent = 0
    cdef double mantissa = frexp(b, &exponent)
    log_rest[0] = log_rest_low[0] = 0
    if -64 < exponent < 64 or not isfinite(b):
        return b
    log_rest[0] = exponent * 0.693147180369123816490      # exact: the constant has 33 bits
    log_rest_low[0] = exponent * 1.90821492927058770002e-10
    return mantissa


cdef void terms_of(
    const Operand* x, const Operand* weight, Py_ssize_t i, Py_ssize_t first, Py_ssize_t n, vf64* scratch
) noexcept nogil:
    """b exp(x) of n elements of row i, as factor exp(e + low): three rows of the scratch, of five."""
    cdef Py_ssize_t j, rows = (n + lanes(scratch) - 1) // lanes(scratch)
    cdef double log_rest = 0, log_rest_low = 0
    cdef const vf64* row = gather(x, i, first, n, scratch + 3 * rows)
    cdef const vf64* b = gather(weight, i, first, n, scratch + 4 * rows)
    cdef Pair total
    for j in range(n):
        put(scratch + 2 * rows, j, moderate_factor(get(b, j), &log_rest, &log_rest_low))
        total = two_sum(get(row, j), log_rest)
        put(scratch, j, total.high if get(b, j) != 0 else -INFINITY)
        put(scratch + rows, j, total.low + log_rest_low if isfinite(total.high) else 0.0)


cdef void weighted_logsumexp_rows(
    const Operand* x, const Operand* weight, const Operand* out, const Operand* sign, vf64* scratch, Py_ssize_t first,
    Py_ssize_t last
) noexcept nogil:
    """log |sum(b exp(x))| and the sign of that sum, in float64 whatever the type: terms may cancel. A long row is in
    pieces, which are computed twice: for the largest of all, and for their sums."""
    cdef Py_ssize_t i, start, n = x.n, size = min(n, PIECE_ELEMENTS), count, rows
    cdef double direction, infinite
    cdef vf64* e = scratch
    cdef Peak highest
    cdef Shift shift
    cdef vf64 unused, unused_low
    cdef Pair total
    cdef Traffic traffic = no_traffic(scratch)
    for i in range(first, last):
        highest = no_peak()
        start = 0
        while start < n:
            count = min(n - start, size)
            rows = (count + lanes(e) - 1) // lanes(e)
            terms_of(x, weight, i, start, count, scratch)
            raise_peak(&highest, e, e + rows, start, count)
            start += PIECE_ELEMENTS
        total = single(0)
        infinite = 0
        if isfinite(highest.high):
            shift.peak = highest
            set_shift(&shift, e)
        start = 0
        while start < n:
            count = min(n - start, size)
            rows = (count + lanes(e) - 1) // lanes(e)
            if size < n:
                terms_of(x, weight, i, start, count, scratch)
            if isfinite(highest.high):
                unused = unused_low = fill(e, 0)
                exp_terms_of_pairs(e, e + rows, e, count, -1, &shift, &unused, &unused_low, &traffic)
                add_pair(&total, multiply(weighted_sum(e, e + 2 * rows, count), shift.unit))
            else:
                infinite += infinite_terms(e, e + 2 * rows, count)
            start += PIECE_ELEMENTS
        if isfinite(highest.high):
            total = two_sum(total.high, total.low) if isfinite(total.low) else single(total.high)
            direction = (total.high > 0) - (total.high < 0) if not isnan(total.high) else NAN
            if direction < 0:
                total.high, total.low = -total.high, -total.low
            total = log_pair(total) if 0 < total.high < INFINITY else single(-INFINITY if direction == 0 else total.high)
            add(&total, highest.high)
            total.low += highest.low
        else:
            direction = (infinite > 0) - (infinite < 0) if not isnan(infinite) else NAN
            total = single(-INFINITY if infinite == 0 else fabs(infinite))
        if sign.kind == ABSENT and direction < 0:
            total = single(NAN)
        write_number(out, i, value(total))
        write_number(sign, i, direction)


cdef void softmax_rows(
    const Operand* x, const Operand* out, bint logarithm, vec* scratch, Py_ssize_t first, Py_ssize_t last
) noexcept nogil:
    """`scratch`: rows for results, and one for x."""
    cdef Py_ssize_t i, space = row_space(x.n) * sizeof(double) // sizeof(vec)
    cdef vec* row
    cdef vec* result
    cdef Window window, window_out
    cdef Traffic traffic = no_traffic(scratch)
    open_window(&window, x, first, last, scratch)
    open_window(&window_out, out, first, last, scratch)
    for i in range(first, last):
        row = gather_through(&window, x, i, last, 0, x.n, scratch + result_rows(out) * space)
        result = place_through(&window_out, out, i, last, scratch + traffic.free_buffer * space)
        traffic.soon = <const char*>next_row(x, i, row)
        traffic.soon_out = <const char*>next_place(out, i, result)
        if logarithm:
            log_softmax_row(row, result, x.n, &traffic)
        else:
            softmax_row(row, result, x.n, &traffic)
        scatter_through(&window_out, out, i, result, &traffic)
    finish(&traffic, 0, scratch)
    close_window(&window)
    close_window(&window_out)


cdef void softmax_long_rows(
    const Operand* x, const Operand* out, bint logarithm, vec* scratch, Py_ssize_t first, Py_ssize_t last
) noexcept nogil:
    """The same piece by piece: the maximum, the sum, and results, whose exponentials are computed again."""
    cdef Py_ssize_t i, start, count
    cdef vec* x_row = scratch + row_space(PIECE_ELEMENTS) * sizeof(double) // sizeof(vec)
    cdef vec* row
    cdef vec* result
    cdef Peak peak
    cdef Shift shift
    cdef Softmax softmax
    cdef RowSum sums
    cdef vec total, total_low, unused, unused_low
    cdef Traffic traffic = no_traffic(scratch)
    for i in range(first, last):
        peak = no_peak()
        start = 0
        while start < x.n:
            count = min(PIECE_ELEMENTS, x.n - start)
            raise_peak(&peak, gather(x, i, start, count, x_row), <vec*>NULL, start, count)
            start += count
        total = total_low = fill(scratch, 0)
        if isfinite(peak.high):
            shift.peak = peak
            set_shift(&shift, scratch)
        start = 0
        while start < x.n and isfinite(peak.high):
            count = min(PIECE_ELEMENTS, x.n - start)
            row = gather(x, i, start, count, x_row)
            exp_sum(row, count, peak.index - start if logarithm else -1, &shift, &total, &total_low, &traffic)
            start += count
        if isfinite(peak.high):
            sums = sum_of_row(&shift, total, total_low)
            softmax = softmax_of(scratch, &shift, total, total_low)
        start = 0
        while start < x.n:
            count = min(PIECE_ELEMENTS, x.n - start)
            row = gather(x, i, start, count, x_row)
            result = place(out, i, start, scratch)
            if not isfinite(peak.high):
                fill_row(result, count, NAN)
            elif logarithm:
                log_probabilities(row, result, count, peak.high, value(sums.log_sum))
            else:
                unused = unused_low = fill(scratch, 0)
                exp_terms(row, result, count, -1, &shift, &unused, &unused_low, &traffic)
                combine_row(result, <vec*>NULL, count, softmax.factor, 0, softmax.top, softmax.at_top)
            scatter(out, i, start, count, result)
            start += count


cdef void softmax_tiles(
    const Operand* x, const Operand* out, bint logarithm, vec* scratch, vec* tile, Py_ssize_t first, Py_ssize_t last
) noexcept nogil:
    cdef Py_ssize_t i, j, count
    cdef bint skip[MAX_TILE_ROWS]
    cdef bint skips
    cdef vec sums[MAX_TILE_VECTORS]
    cdef vec* results = tile + MAX_TILE_VECTORS * x.n
    i = first
    while i < last:
        count = min(last - i, MAX_TILE_VECTORS * lanes(tile))
        if count > lanes(tile):
            load_tile(x, i, count, tile, 2, scratch)
            if logarithm:
                log_softmax_tile(tile, results, x.n, 2, sums)
            else:
                softmax_tile(tile, results, x.n, 2, sums)
        else:
            load_tile(x, i, count, tile, 1, scratch)
            if logarithm:
                log_softmax_tile(tile, results, x.n, 1, sums)
            else:
                softmax_tile(tile, results, x.n, 1, sums)
        skips = False
        for j in range(count):
            skip[j] = isnan(get(sums, j))
            skips = skips or skip[j]
            if skip[j]:
                softmax_rows(x, out, logarithm, scratch, i + j, i + j + 1)
        if count > lanes(tile):
            store_tile(out, i, count, results, 2, skip, skips, scratch)
        else:
            store_tile(out, i, count, results, 1, skip, skips, scratch)
        i += count


cdef vec* tiles_in(vec* scratch, Py_ssize_t n) noexcept nogil:
    return aligned(<double*>scratch + TILE_ROWS * row_space(n), scratch)


cdef void logsumexp_block(
    const Operand* x, const Operand* out, vec* scratch, Py_ssize_t piece, Py_ssize_t first, Py_ssize_t last
) noexcept nogil:
    if 0 < x.n <= MAX_TILE_CLASSES:
        logsumexp_tiles(x, out, scratch, tiles_in(scratch, x.n), first, last)
    else:
        logsumexp_rows(x, out, scratch, piece, first, last)


cdef void softmax_block(
    const Operand* x, const Operand* out, bint logarithm, vec* scratch, Py_ssize_t piece, Py_ssize_t first,
    Py_ssize_t last
) noexcept nogil:
    if 0 < x.n <= MAX_TILE_CLASSES:
        softmax_tiles(x, out, logarithm, scratch, tiles_in(scratch, x.n), first, last)
    elif piece == x.n:
        softmax_rows(x, out, logarithm, scratch, first, last)
    else:
        softmax_long_rows(x, out, logarithm, scratch, first, last)
    if out.streams:
        xent_drain()


include "_core/binary.pxi"
include "_core/losses.pxi"


# ---------------------------------------------------------------------------------------------------------------------
# What Python calls, with arrays that are known to be good, and what each thread does then, a `part`. The work is rows, or
# chunks of elements, in blocks. sums[i] is what block i adds up to, so that a total does not depend on which thread did
# which block.
# ---------------------------------------------------------------------------------------------------------------------

BINARY_CHUNK = CHUNK    # elements in a unit of binary_cross_entropy

cdef Py_ssize_t tile_space(Py_ssize_t n) noexcept nogil:
    """The length of the scratch of rows that are done in tiles. Of float64, as all scratch is."""
    return TILE_ROWS * row_space(n) + 2 * MAX_TILE_VECTORS * LINE_DOUBLES * n + LINE_DOUBLES


def cpu_sets():
    """The instruction sets, beyond the baseline, that this CPU and its operating system offer, slowest first."""
    return [name for name, present in (("avx2", xent_cpu_has_avx2()), ("avx512", xent_cpu_has_avx512())) if present]


cdef struct LogsumexpTask:
    Operand x
    Operand weight
    Operand out
    Operand sign
    Py_ssize_t piece        # elements of a row that are read at a time


cdef Py_ssize_t plan_logsumexp(LogsumexpTask* task, Py_ssize_t threads) noexcept:
    """Choose the piece; the length of the scratch of each thread."""
    cdef Py_ssize_t n = task.x.n
    cdef Py_ssize_t rows = 0 if is_in_place(&task.x) else 1
    task.piece = n if n <= PIECE_ELEMENTS or fits(rows, n, task.x.kind, has_window(&task.x), threads) else PIECE_ELEMENTS
    if task.weight.kind != ABSENT:
        return 5 * row_space(min(n, PIECE_ELEMENTS))
    return tile_space(n) if n <= MAX_TILE_CLASSES else rows * row_space(task.piece) + LINE_DOUBLES


cdef void logsumexp_worker(const void* task, double* scratch, BlockClaim* claim) noexcept nogil:
    cdef const LogsumexpTask* t = <const LogsumexpTask*>task
    while claim_blocks(claim):
        if t.weight.kind != ABSENT:
            weighted_logsumexp_rows(&t.x, &t.weight, &t.out, &t.sign, <vf64*>scratch, claim.first, claim.last)
        elif t.x.kind != F64:
            logsumexp_block(&t.x, &t.out, <vf32*>scratch, t.piece, claim.first, claim.last)
        else:
            logsumexp_block(&t.x, &t.out, <vf64*>scratch, t.piece, claim.first, claim.last)


def logsumexp(x, weight, out, sign, int row_axes, Work work):
    """out = logsumexp of the rows of x, its last axes, weighted or (None) not; sign (or None) = the sign of the weighted
    sums."""
    cdef LogsumexpTask task
    bind(&task.x, x, row_axes)
    bind(&task.weight, weight, row_axes)
    bind(&task.out, out, 0)
    bind(&task.sign, sign, 0)
    work.do(logsumexp_worker, &task, plan_logsumexp(&task, work.job.threads))


cdef struct SoftmaxTask:
    Operand x
    Operand out
    bint logarithm
    Py_ssize_t piece


cdef Py_ssize_t plan_softmax(SoftmaxTask* task, Py_ssize_t threads) noexcept:
    """Choose the piece, and whether the output streams; the length of the scratch of each thread."""
    cdef Py_ssize_t n = task.x.n, rows = 0 if is_in_place(&task.x) else 1
    cdef Py_ssize_t windows = has_window(&task.x) + has_window(&task.out)
    if not fits(rows + result_rows(&task.out), n, task.x.kind, windows, threads):
        task.out.streams = False
    rows += result_rows(&task.out)
    task.piece = n if n <= PIECE_ELEMENTS or fits(rows, n, task.x.kind, windows, threads) else PIECE_ELEMENTS
    return tile_space(n) if n <= MAX_TILE_CLASSES else max(rows, 2 * (task.piece < n)) * row_space(task.piece) + LINE_DOUBLES


cdef void softmax_worker(const void* task, double* scratch, BlockClaim* claim) noexcept nogil:
    cdef const SoftmaxTask* t = <const SoftmaxTask*>task
    while claim_blocks(claim):
        if t.x.kind != F64:
            softmax_block(&t.x, &t.out, t.logarithm, <vf32*>scratch, t.piece, claim.first, claim.last)
        else:
            softmax_block(&t.x, &t.out, t.logarithm, <vf64*>scratch, t.piece, claim.first, claim.last)


def softmax(x, out, bint logarithm, int row_axes, Work work):
    """out = softmax or, if `logarithm`, log_softmax of the rows of x, its last axes; out may be x."""
    cdef SoftmaxTask task
    bind(&task.x, x, row_axes)
    bind_output(&task.out, out, row_axes, &task.x)
    task.logarithm = logarithm
    work.do(softmax_worker, &task, plan_softmax(&task, work.job.threads))


cdef int bind_batch(Batch* batch, problem, options, int weight_exponent) except -1:
    cdef bint dense = cnp.PyArray_NDIM(<cnp.ndarray>problem.target) == cnp.PyArray_NDIM(<cnp.ndarray>problem.logits)
    batch.form = LABELS
    if problem.mass is not None:
        batch.form = SPARSE
    elif dense:
        batch.form = DISTRIBUTION
    batch.ignores = options.ignore_index is not None
    batch.ignore_index = options.ignore_index if batch.ignores else 0
    batch.transform.scale = options.logit_scale
    batch.transform.softcap = options.softcap
    batch.transform.origin = 0
    batch.smoothing = options.label_smoothing
    batch.z_loss = options.z_loss
    batch.extreme = options.extreme
    batch.weight_exponent = weight_exponent
    bind(&batch.logits, problem.logits, 1)
    bind(&batch.target, problem.target, batch.form != LABELS)
    bind(&batch.mass, problem.mass, 1)
    bind(&batch.where, problem.where, 1)
    bind(&batch.class_weight, problem.class_weight, 1)
    bind(&batch.sample_weight, problem.sample_weight, 0)
    batch.loss.kind = batch.grad.kind = ABSENT
    return 0


cdef struct BatchTask:
    Batch batch
    WeightSum* weights      # of each block
    double* sums            # of each block
    xent_shared bad         # the first label or class that is out of range, or more than there are
    const int64_t* topk
    Py_ssize_t n_topk
    Sum* totals             # of each block, 3 + n_topk of them


cdef void target_weight_worker(const void* task, double* scratch, BlockClaim* claim) noexcept nogil:
    cdef BatchTask* t = <BatchTask*>task
    cdef Py_ssize_t bad
    cdef int64_t first
    while next_block(claim):
        if t.batch.logits.kind != F64:
            bad = weight_rows(&t.batch, <vf32*>scratch, claim.first, claim.last, &t.weights[claim.block])
        else:
            bad = weight_rows(&t.batch, <vf64*>scratch, claim.first, claim.last, &t.weights[claim.block])
        if bad >= 0:
            first = xent_load(&t.bad)
            while bad < first and not xent_replace(&t.bad, first, bad):
                first = xent_load(&t.bad)


def target_weight(problem, options, sums, Work work):
    """sums = sample weight times target mass, three numbers each: high, low, and the exponent of their unit; returns the
    place in the target of the first label or class that is out of range, or -1."""
    cdef BatchTask task
    bind_batch(&task.batch, problem, options, 0)
    task.weights = <WeightSum*>sums_of(work, sums)
    task.bad = PY_SSIZE_T_MAX
    # Labels need no room for a row.
    work.do(target_weight_worker, &task, 2 * row_space(PIECE_ELEMENTS) if task.batch.form == DISTRIBUTION else 0)
    return task.bad if task.bad < PY_SSIZE_T_MAX else -1


cdef void cross_entropy_worker(const void* task, double* scratch, BlockClaim* claim) noexcept nogil:
    cdef const BatchTask* t = <const BatchTask*>task
    cross_entropy_blocks(&t.batch, scratch, t.sums, claim)


def cross_entropy(problem, options, int weight_exponent, double divisor, loss, grad, sums, Work work):
    """loss (or None) = the loss of each row, grad (or None; may be logits) = the gradient of their sum / divisor, both
    in units of two to the weight_exponent."""
    cdef BatchTask task
    bind_batch(&task.batch, problem, options, weight_exponent)
    task.batch.divisor = divisor
    bind(&task.batch.loss, loss, 0)
    bind_output(&task.batch.grad, grad, 1, &task.batch.logits)
    task.sums = sums_of(work, sums)
    work.do(cross_entropy_worker, &task, plan_batch(&task.batch, work.job.threads))


cpdef Py_ssize_t batch_scratch(Py_ssize_t classes, Py_ssize_t points):
    """The most that `plan_batch` asks for, whatever the options."""
    cdef Py_ssize_t rows = sizeof(RowScratch) // sizeof(double*) * row_space(min(classes, PIECE_ELEMENTS))
    rows = max(rows, min(sizeof(RowScratch) // sizeof(double*) * row_space(classes), SCRATCH_BYTES // sizeof(double)))
    return rows + 7 * max(points, 1) + (tile_space(classes) if classes <= MAX_TILE_CLASSES else 0) + 4 * LINE_DOUBLES


cdef void log_loss_worker(const void* task, double* scratch, BlockClaim* claim) noexcept nogil:
    cdef const BatchTask* t = <const BatchTask*>task
    cdef Room room = room_of(&t.batch, scratch)
    while next_block(claim):
        t.sums[claim.block] = log_loss_rows(&t.batch, &room, claim.first, claim.last)


def log_loss(problem, options, int weight_exponent, loss, sums, Work work):
    """loss (or None) = minus the logarithm of the probability of each row's target."""
    cdef BatchTask task
    bind_batch(&task.batch, problem, options, weight_exponent)
    bind(&task.batch.loss, loss, 0)
    task.sums = sums_of(work, sums)
    work.do(log_loss_worker, &task, plan_batch(&task.batch, work.job.threads))


cdef void evaluate_worker(const void* task, double* scratch, BlockClaim* claim) noexcept nogil:
    cdef const BatchTask* t = <const BatchTask*>task
    cdef Sum* totals
    while next_block(claim):
        totals = t.totals + claim.block * (3 + t.n_topk)
        if t.batch.logits.kind != F64:
            evaluate_rows(&t.batch, <vf32*>scratch, t.topk, t.n_topk, claim.first, claim.last, totals)
        else:
            evaluate_rows(&t.batch, <vf64*>scratch, t.topk, t.n_topk, claim.first, claim.last, totals)


def evaluate(problem, options, topk, sums, Work work):
    """sums[i] = what the rows of block i add up to, each as three numbers: loss, entropy, weight, and for each k the
    weight of the rows whose label is among the k largest logits."""
    cdef BatchTask task
    bind_batch(&task.batch, problem, options, 0)
    task.topk = <int64_t*>cnp.PyArray_DATA(<cnp.ndarray>topk)
    task.n_topk = cnp.PyArray_DIM(<cnp.ndarray>topk, 0)
    task.totals = <Sum*>sums_of(work, sums)
    work.do(evaluate_worker, &task, 2 * row_space(PIECE_ELEMENTS))


cdef struct BinaryTask:
    BinaryBatch batch
    bint from_logits
    bint narrow
    double* sums


cdef void binary_worker(const void* task, double* scratch, BlockClaim* claim) noexcept nogil:
    cdef const BinaryTask* t = <const BinaryTask*>task
    while next_block(claim):
        if t.narrow:
            t.sums[claim.block] = binary_chunks(&t.batch, t.from_logits, <vf32*>scratch, claim.first, claim.last)
        else:
            t.sums[claim.block] = binary_chunks(&t.batch, t.from_logits, <vf64*>scratch, claim.first, claim.last)


def binary_cross_entropy(
    x, target, pos_weight, sample_weight, double weight_unit, double label_smoothing, bint from_logits, double divisor,
    loss, grad, sums, Work work
):
    """Of logits or probabilities, element by element; all operands (or None) have the shape of x."""
    cdef BinaryTask task
    cdef BinaryBatch* batch = &task.batch
    batch.weight_unit = weight_unit
    batch.smoothing = label_smoothing
    batch.divisor = divisor
    bind(&batch.x, x, 1)
    bind(&batch.target, target, 1)
    bind(&batch.pos_weight, pos_weight, 1)
    bind(&batch.sample_weight, sample_weight, 1)
    bind(&batch.loss, loss, 1)
    bind(&batch.grad, grad, 1)
    # Targets and weights are not rounded to float32: the widest operand decides.
    task.narrow = fits_float32(&batch.x) and fits_float32(&batch.target) and fits_float32(&batch.pos_weight)
    task.narrow = task.narrow and fits_float32(&batch.sample_weight)
    task.from_logits = from_logits
    task.sums = sums_of(work, sums)
    work.do(binary_worker, &task, sizeof(BinaryScratch) // sizeof(double))


include "_core/fast_path.pxi"
include "_core/linear.pxi"
