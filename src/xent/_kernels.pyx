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

Layers, each using only those above it: numbers (_numbers.pxd) -> one row, or a vector of rows side by side (_rows.pxd,
_columns.pxi, _binary.pxd) -> a block of rows (here and in _losses.pxi) -> the functions that Python calls, which take
arrays that are known to be good (see _arguments.py) and work in blocks, which threads share (_work.pxi) -> whole calls
on plain arrays (_plain.pxi).
"""

from libc.math cimport INFINITY, NAN, fabs, frexp, isfinite, isnan
from libc.stdint cimport int32_t, int64_t, uint8_t
from libc.stdlib cimport free, malloc

cimport numpy as cnp

from xent._binary cimport CHUNK, BinaryBatch, binary_chunks
from xent._numbers cimport (
    Pair, Sum, add, add_exactly, add_pair, divide, log_pair, minus_log, multiply, one_more, single, two_sum,
    value,
)
from xent._operands cimport (
    ABSENT, F64, I8, I16, I32, I64, Operand, U8, U16, U32, Window, bind, bind_output, close_window, fits_float32,
    gather, gather_through, is_plain, kind_of, open_window, place_through, scatter_through, next_place, next_row, place,
    read_integer, read_number, row_of, weight_of, write_number,
)
from xent._rows cimport (
    Peak, Shift, Transform, combine_row, count_above, distance_row, is_moderate, log_softmax_row, mask_row,
    multiply_row, only_class, peak_of, shift_row, softmax_row, sum_row, transform_row, weighted_sum,
)
from xent._simd cimport (
    XENT_LANES_f32, XENT_LANES_f64, all_equal, element, fill, get, lanes, load_first, multiply_add, put, vec, vf32,
    vf64, xent_add_lanes_f32, xent_add_lanes_f64, xent_cpu_has_avx2, xent_cpu_has_avx512, xent_drain, xent_prefetch,
    xent_turn_f32, xent_turn_f64,
)
from xent._traffic cimport Traffic, finish, no_traffic

cnp.import_array()

include "_columns.pxi"


# ---------------------------------------------------------------------------------------------------------------------
# Softmax and its kin: rows first <= i < last of a batch
# ---------------------------------------------------------------------------------------------------------------------

cdef enum:
    PIECE = 4096        # elements of a row of terms with factors
    SHORT_ROWS = 5      # in the scratch of a function of rows, of float64
    LINE = 8            # numbers in a cache line, as in the longest vector


cdef inline vec* aligned(const double* scratch, const vec* like) noexcept nogil:
    """From the next cache line on."""
    return <vec*>((<size_t>scratch + 63) // 64 * 64)


cdef void logsumexp_rows(
    const Operand* x, const Operand* out, vec* scratch, Py_ssize_t first, Py_ssize_t last
) noexcept nogil:
    cdef Py_ssize_t i
    cdef vec* row
    cdef Shift shift
    cdef Window window
    cdef Traffic traffic = no_traffic(scratch)
    open_window(&window, x, first, last, scratch)
    for i in range(first, last):
        row = gather_through(&window, x, i, last, scratch)
        traffic.soon = <const char*>next_row(x, i, row)
        shift = shift_row(row, <vec*>NULL, row, x.n, peak_of(row, <vec*>NULL, x.n), False, &traffic)
        write_number(out, i, value(shift.logsumexp))
    close_window(&window)


cdef void logsumexp_tiles(
    const Operand* x, const Operand* out, vec* scratch, vec* tile, Py_ssize_t first, Py_ssize_t last
) noexcept nogil:
    cdef Py_ssize_t i, j, count
    cdef vec sums[WIDEST]
    cdef vec result[WIDEST]
    i = first
    while i < last:
        count = min(last - i, WIDEST * lanes(tile))
        if count > lanes(tile):
            load_tile(x, i, count, tile, 2, scratch)
            logsumexp_tile(tile, tile + WIDEST * x.n, result, x.n, 2, sums)
        else:
            load_tile(x, i, count, tile, 1, scratch)
            logsumexp_tile(tile, tile + WIDEST * x.n, result, x.n, 1, sums)
        for j in range(count):
            if isnan(get(sums, j)):
                logsumexp_rows(x, out, scratch, i + j, i + j + 1)
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


cdef inline double moderate_factor(double b, double* log_rest, double* log_rest_low) noexcept nogil:
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
    cdef Py_ssize_t i, start, n = x.n, size = min(n, PIECE), count, rows
    cdef double direction, infinite
    cdef vf64* e = scratch
    cdef Peak peak, highest
    cdef Shift shift
    cdef Pair total
    cdef Traffic traffic = no_traffic(scratch)
    for i in range(first, last):
        highest.high, highest.low, highest.index = -INFINITY, 0, -1
        start = 0
        while start < n:
            count = min(n - start, size)
            rows = (count + lanes(e) - 1) // lanes(e)
            terms_of(x, weight, i, start, count, scratch)
            peak = peak_of(e, e + rows, count)
            if peak.high > highest.high:
                highest = peak
            start += size
        total = single(0)
        infinite = start = 0
        while start < n:
            count = min(n - start, size)
            rows = (count + lanes(e) - 1) // lanes(e)
            if size < n:
                terms_of(x, weight, i, start, count, scratch)
            if isfinite(highest.high):
                shift = shift_row(e, e + rows, e, count, highest, True, &traffic)
                add_pair(&total, multiply(weighted_sum(e, e + 2 * rows, count), shift.unit))
            else:
                infinite += infinite_terms(e, e + 2 * rows, count)
            start += size
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
    cdef Py_ssize_t i, rows = (x.n + lanes(scratch) - 1) // lanes(scratch)
    cdef vec* row
    cdef vec* result
    cdef Window window, window_out
    cdef Traffic traffic = no_traffic(scratch)
    open_window(&window, x, first, last, scratch)
    open_window(&window_out, out, first, last, scratch)
    for i in range(first, last):
        row = gather_through(&window, x, i, last, scratch + 2 * rows)
        result = place_through(&window_out, out, i, last, scratch + traffic.turn * rows)
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


cdef void softmax_tiles(
    const Operand* x, const Operand* out, bint logarithm, vec* scratch, vec* tile, Py_ssize_t first, Py_ssize_t last
) noexcept nogil:
    cdef Py_ssize_t i, j, count
    cdef bint skip[MAX_ROWS]
    cdef bint skips
    cdef vec sums[WIDEST]
    cdef vec* results = tile + WIDEST * x.n
    i = first
    while i < last:
        count = min(last - i, WIDEST * lanes(tile))
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


cdef void logsumexp_block(
    const Operand* x, const Operand* out, vec* scratch, Py_ssize_t first, Py_ssize_t last
) noexcept nogil:
    if 0 < x.n <= FEW:
        logsumexp_tiles(x, out, scratch, aligned(<double*>scratch + SHORT_ROWS * (x.n + 16), scratch), first, last)
    else:
        logsumexp_rows(x, out, scratch, first, last)


cdef void softmax_block(
    const Operand* x, const Operand* out, bint logarithm, vec* scratch, Py_ssize_t first, Py_ssize_t last
) noexcept nogil:
    if 0 < x.n <= FEW:
        softmax_tiles(x, out, logarithm, scratch, aligned(<double*>scratch + SHORT_ROWS * (x.n + 16), scratch), first, last)
    else:
        softmax_rows(x, out, logarithm, scratch, first, last)
    if out.streams:
        xent_drain()


include "_work.pxi"
include "_losses.pxi"


# ---------------------------------------------------------------------------------------------------------------------
# What Python calls, with arrays that are known to be good, and what each thread does then, a `part`. The work is rows, or
# chunks of elements, in blocks. sums[i] is what block i adds up to, so that a total does not depend on which thread did
# which block.
# ---------------------------------------------------------------------------------------------------------------------

BINARY_CHUNK = CHUNK    # elements in a unit of binary_cross_entropy

cdef enum:
    ROWS = 10           # of the logits, in their type, in the scratch of a batch

cpdef enum:
    MAX_BLOCKS = 1024


cpdef Py_ssize_t block_size(Py_ssize_t units, Py_ssize_t elements, Py_ssize_t block_elements):
    """How many of so many units, of so many elements each, make a block."""
    return max(1, block_elements // max(elements, 1), (units + MAX_BLOCKS - 1) // MAX_BLOCKS)


cpdef Py_ssize_t row_scratch(Py_ssize_t classes):
    """The length of the scratch of a function of rows: SHORT_ROWS of them, and two tiles. Of float64, as all scratch is."""
    return SHORT_ROWS * (classes + 16) + tile_scratch(classes)


cdef Py_ssize_t scratch_for(const Operand* x, const Operand* out):
    """The same, or none where rows are long and can be used where they are: one may be all there is."""
    cdef bint stays = is_plain(x, <vf32*>NULL) or is_plain(x, <vf64*>NULL)
    if out is not NULL:
        stays = stays and not out.streams and (is_plain(out, <vf32*>NULL) or is_plain(out, <vf64*>NULL))
    if stays and x.n > FEW:
        return LINE
    return row_scratch(x.n)


cdef Py_ssize_t tile_scratch(Py_ssize_t classes):
    return 2 * WIDEST * LINE * classes + LINE if classes <= FEW else 0


cpdef Py_ssize_t batch_scratch(Py_ssize_t classes, Py_ssize_t points):
    """The length of the scratch of a batch: rows, a place for each class, an index and a mass for each point, tiles."""
    return ROWS * (classes + 16) + classes + 3 * max(points, 1) + tile_scratch(classes)


def cpu_sets():
    """The instruction sets, beyond the baseline, that this CPU and its operating system offer, slowest first."""
    return [name for name, present in (("avx2", xent_cpu_has_avx2()), ("avx512", xent_cpu_has_avx512())) if present]


cdef struct LogsumexpTask:
    Operand x
    Operand weight
    Operand out
    Operand sign


cdef void logsumexp_part(const void* task, double* scratch, Turn* turn) noexcept nogil:
    cdef const LogsumexpTask* t = <const LogsumexpTask*>task
    while next_turn(turn):
        if t.weight.kind != ABSENT:
            weighted_logsumexp_rows(&t.x, &t.weight, &t.out, &t.sign, <vf64*>scratch, turn.first, turn.last)
        elif t.x.kind != F64:
            logsumexp_block(&t.x, &t.out, <vf32*>scratch, turn.first, turn.last)
        else:
            logsumexp_block(&t.x, &t.out, <vf64*>scratch, turn.first, turn.last)


def logsumexp(x, weight, out, sign, int row_axes, Work work):
    """out = logsumexp of the rows of x, its last axes, weighted or (None) not; sign (or None) = the sign of the weighted
    sums."""
    cdef LogsumexpTask task
    bind(&task.x, x, row_axes)
    bind(&task.weight, weight, row_axes)
    bind(&task.out, out, 0)
    bind(&task.sign, sign, 0)
    work.do(logsumexp_part, &task, row_scratch(min(task.x.n, PIECE)) if weight is not None else scratch_for(&task.x, NULL))


cdef struct SoftmaxTask:
    Operand x
    Operand out
    bint logarithm


cdef void softmax_part(const void* task, double* scratch, Turn* turn) noexcept nogil:
    cdef const SoftmaxTask* t = <const SoftmaxTask*>task
    while next_turn(turn):
        if t.x.kind != F64:
            softmax_block(&t.x, &t.out, t.logarithm, <vf32*>scratch, turn.first, turn.last)
        else:
            softmax_block(&t.x, &t.out, t.logarithm, <vf64*>scratch, turn.first, turn.last)


def softmax(x, out, bint logarithm, int row_axes, Work work):
    """out = softmax or, if `logarithm`, log_softmax of the rows of x, its last axes; out may be x."""
    cdef SoftmaxTask task
    bind(&task.x, x, row_axes)
    bind_output(&task.out, out, row_axes, &task.x)
    task.logarithm = logarithm
    work.do(softmax_part, &task, scratch_for(&task.x, &task.out))


cdef int bind_batch(Batch* batch, problem, options, double weight_unit) except -1:
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
    batch.smoothing = options.label_smoothing
    batch.z_loss = options.z_loss
    batch.weight_unit = weight_unit
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
    Pair* weights           # of each block
    double* sums            # of each block
    xent_shared bad         # the first label or class that is out of range, or more than there are
    const int64_t* topk
    Py_ssize_t n_topk
    Sum* totals             # of each block, 3 + n_topk of them


cdef inline Py_ssize_t points_in(const Batch* batch):
    return batch.target.n if batch.form == SPARSE else 1


cdef void target_weight_part(const void* task, double* scratch, Turn* turn) noexcept nogil:
    cdef BatchTask* t = <BatchTask*>task
    cdef Py_ssize_t bad
    cdef int64_t first
    while next_block(turn):
        if t.batch.logits.kind != F64:
            bad = weight_rows(&t.batch, <vf32*>scratch, turn.first, turn.last, &t.weights[turn.block])
        else:
            bad = weight_rows(&t.batch, <vf64*>scratch, turn.first, turn.last, &t.weights[turn.block])
        if bad >= 0:
            first = xent_load(&t.bad)
            while bad < first and not xent_replace(&t.bad, first, bad):
                first = xent_load(&t.bad)


def target_weight(problem, options, double weight_unit, sums, Work work):
    """sums = sample weight times target mass, two numbers each, high and low; returns the place in the target of the
    first label or class that is out of range, or -1."""
    cdef BatchTask task
    bind_batch(&task.batch, problem, options, weight_unit)
    task.weights = <Pair*>cnp.PyArray_DATA(<cnp.ndarray>sums)
    task.bad = PY_SSIZE_T_MAX
    # Labels need no room for a row.
    work.do(target_weight_part, &task, row_scratch(task.batch.logits.n if task.batch.form == DISTRIBUTION else 0))
    return task.bad if task.bad < PY_SSIZE_T_MAX else -1


cdef void cross_entropy_part(const void* task, double* scratch, Turn* turn) noexcept nogil:
    cdef const BatchTask* t = <const BatchTask*>task
    cross_entropy_blocks(&t.batch, scratch, t.sums, turn)


def cross_entropy(problem, options, double weight_unit, double divisor, loss, grad, sums, Work work):
    """loss (or None) = the loss of each row, grad (or None; may be logits) = the gradient of their sum / divisor."""
    cdef BatchTask task
    bind_batch(&task.batch, problem, options, weight_unit)
    task.batch.divisor = divisor
    bind(&task.batch.loss, loss, 0)
    bind_output(&task.batch.grad, grad, 1, &task.batch.logits)
    task.sums = <double*>cnp.PyArray_DATA(<cnp.ndarray>sums)
    work.do(cross_entropy_part, &task, batch_scratch(task.batch.logits.n, points_in(&task.batch)))


cdef void log_loss_part(const void* task, double* scratch, Turn* turn) noexcept nogil:
    cdef const BatchTask* t = <const BatchTask*>task
    cdef Room room = room_of(&t.batch, scratch + ROWS * (t.batch.logits.n + 16))
    while next_block(turn):
        if t.batch.logits.kind != F64:
            t.sums[turn.block] = log_loss_rows(&t.batch, <vf32*>scratch, &room, turn.first, turn.last)
        else:
            t.sums[turn.block] = log_loss_rows(&t.batch, <vf64*>scratch, &room, turn.first, turn.last)


def log_loss(problem, options, double weight_unit, loss, sums, Work work):
    """loss (or None) = minus the logarithm of the probability of each row's target."""
    cdef BatchTask task
    bind_batch(&task.batch, problem, options, weight_unit)
    bind(&task.batch.loss, loss, 0)
    task.sums = <double*>cnp.PyArray_DATA(<cnp.ndarray>sums)
    work.do(log_loss_part, &task, batch_scratch(task.batch.logits.n, points_in(&task.batch)))


cdef void evaluate_part(const void* task, double* scratch, Turn* turn) noexcept nogil:
    cdef const BatchTask* t = <const BatchTask*>task
    cdef Sum* totals
    while next_block(turn):
        totals = t.totals + turn.block * (3 + t.n_topk)
        if t.batch.logits.kind != F64:
            evaluate_rows(&t.batch, <vf32*>scratch, t.topk, t.n_topk, turn.first, turn.last, totals)
        else:
            evaluate_rows(&t.batch, <vf64*>scratch, t.topk, t.n_topk, turn.first, turn.last, totals)


def evaluate(problem, options, topk, sums, Work work):
    """sums[i] = what the rows of block i add up to, each as three numbers: loss, entropy, weight, and for each k the
    weight of the rows whose label is among the k largest logits."""
    cdef BatchTask task
    bind_batch(&task.batch, problem, options, 1)
    task.topk = <int64_t*>cnp.PyArray_DATA(<cnp.ndarray>topk)
    task.n_topk = cnp.PyArray_DIM(<cnp.ndarray>topk, 0)
    task.totals = <Sum*>cnp.PyArray_DATA(<cnp.ndarray>sums)
    work.do(evaluate_part, &task, row_scratch(task.batch.logits.n))


cdef struct BinaryTask:
    BinaryBatch batch
    bint from_logits
    bint narrow
    double* sums


cdef void binary_part(const void* task, double* scratch, Turn* turn) noexcept nogil:
    cdef const BinaryTask* t = <const BinaryTask*>task
    while next_block(turn):
        if t.narrow:
            t.sums[turn.block] = binary_chunks(&t.batch, t.from_logits, <vf32*>scratch, turn.first, turn.last)
        else:
            t.sums[turn.block] = binary_chunks(&t.batch, t.from_logits, <vf64*>scratch, turn.first, turn.last)


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
    task.sums = <double*>cnp.PyArray_DATA(<cnp.ndarray>sums)
    work.do(binary_part, &task, 7 * CHUNK)


include "_plain.pxi"
include "_products.pxi"
