"""Blocks of rows, and what Python calls. Nothing here checks an argument, allocates or starts a thread.

One row x of C logits, with target mass t and T = sum(t):

    m = max x          k = an index where x_k = m          e_c = exp(x_c - m)
    r = sum of e_c over c != k            s = 1 + r        logsumexp = m + log1p(r)
    p_c = e_c / s                         log p_c = -((m - x_c) + log1p(r))
    loss = sum(t_c (m - x_c)) + T log1p(r)                 grad_c = T p_c - t_c

(a) The maximum is left out of the sum and comes back through log1p, so the loss is a sum of terms that are all >= 0:
    a confident row keeps every digit of its tiny loss.
(b) With all the mass on one class y the gradient there is -T (sum of e_c over c != y) / s, never T (p_y - 1).
(c) x - m rounds. Its rounding error, recovered by a two-sum, goes into the reduced argument of exp.
(d) Sums keep what their roundings lose, in vectors as in float64, and so do the last few operations of a row: they
    round once, at the end.

Every option is this formula with another t or another x. The mass of a row is share (points + t) + even base: points
are a label, or the classes of a sparse distribution; t is a dense one; base is 1 (or the class weights) for each class
that smoothing reaches. Logits that are scaled, capped or masked are computed first, as pairs, in a scratch.

Layers, each using only those above it: numbers (_numbers.pxd) -> one row (_rows.pxd, _binary.pxd) -> a block of rows ->
the functions that Python calls, which take arrays that are known to be good (see _arguments.py) and a range of blocks
to work on.
"""

from libc.math cimport INFINITY, NAN, frexp, isfinite, isnan
from libc.stdint cimport int64_t

cimport numpy as cnp

from xent._binary cimport CHUNK, BinaryBatch, binary_chunks
from xent._columns cimport (
    FEW, MAX_LANES, label_tile, load_tile, log_softmax_tile, logsumexp_tile, softmax_tile, store_tile,
)
from xent._numbers cimport (
    Pair, Sum, add, add_exactly, add_pair, divide, log_pair, minus_log, multiply, one_more, single, two_sum, value,
)
from xent._operands cimport (
    ABSENT, F64, Operand, bind, fits_float32, gather, next_row, place, read_integer, read_number, row_of, scatter,
    weight_of, write_number,
)
from xent._rows cimport (
    Peak, Shift, Transform, combine_row, count_above, distance_row, is_moderate, log_softmax_row, mask_row, multiply_row, only_class,
    peak_of, shift_row, softmax_row, sum_row, transform_row, weighted_sum,
)
from xent._simd cimport get, lanes, put, vec, vf32, vf64, xent_cpu_has_avx2, xent_cpu_has_avx512

cnp.import_array()


# ---------------------------------------------------------------------------------------------------------------------
# Softmax and its kin: rows first <= i < last of a batch
# ---------------------------------------------------------------------------------------------------------------------

cdef inline vec* aligned(const double* scratch, const vec* like) noexcept nogil:
    """From the next cache line on."""
    return <vec*>((<size_t>scratch + 63) // 64 * 64)


cdef void logsumexp_rows(
    const Operand* x, const Operand* out, vec* scratch, Py_ssize_t first, Py_ssize_t last
) noexcept nogil:
    cdef Py_ssize_t i
    cdef vec* row
    cdef Shift shift
    for i in range(first, last):
        row = gather(x, i, 0, x.n, scratch)
        shift = shift_row(row, <vec*>NULL, row, x.n, peak_of(row, <vec*>NULL, x.n), False, next_row(x, i, row))
        write_number(out, i, value(shift.logsumexp))


cdef void logsumexp_tiles(
    const Operand* x, const Operand* out, vec* scratch, vec* tile, Py_ssize_t first, Py_ssize_t last
) noexcept nogil:
    cdef Py_ssize_t i, j, count
    cdef vec total, result
    i = first
    while i < last:
        count = min(last - i, lanes(tile))
        load_tile(x, i, count, tile, scratch)
        total = logsumexp_tile(tile, &result, x.n)
        for j in range(count):
            if isnan(get(&total, j)):
                logsumexp_rows(x, out, scratch, i + j, i + j + 1)
            else:
                write_number(out, i + j, get(&result, j))
        i += lanes(tile)


cdef Pair infinite_sum(const vf64* x, const vf64* b, Py_ssize_t n, double* sign) noexcept nogil:
    """logsumexp of a row whose largest element is infinite or NaN, and the sign of its sum."""
    cdef Py_ssize_t i
    cdef double total = 0
    for i in range(n):
        if isnan(get(x, i)) or isnan(get(b, i)):
            total = NAN
        elif get(x, i) == INFINITY:     # weights that are not 0 by now
            total += INFINITY if get(b, i) > 0 else -INFINITY
    sign[0] = (total > 0) - (total < 0) if not isnan(total) else NAN
    return single(-INFINITY if total == 0 else INFINITY if sign[0] != 0 and not isnan(total) else NAN)


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


cdef void weighted_logsumexp_rows(
    const Operand* x, const Operand* weight, const Operand* out, const Operand* sign, vf64* scratch, Py_ssize_t first,
    Py_ssize_t last
) noexcept nogil:
    """log |sum(b exp(x))| and the sign of that sum, in float64 whatever the type: terms may cancel."""
    cdef Py_ssize_t i, j, n = x.n, rows = (n + lanes(scratch) - 1) // lanes(scratch)
    cdef double direction, log_rest = 0, log_rest_low = 0
    cdef vf64* row
    cdef vf64* b
    cdef vf64* e = scratch
    cdef vf64* low = scratch + rows
    cdef vf64* factor = scratch + 2 * rows
    cdef Peak peak
    cdef Pair total
    for i in range(first, last):
        row = gather(x, i, 0, n, scratch + 3 * rows)
        b = gather(weight, i, 0, n, scratch + 4 * rows)
        for j in range(n):
            put(factor, j, moderate_factor(get(b, j), &log_rest, &log_rest_low))
            total = two_sum(get(row, j), log_rest)
            put(e, j, total.high if get(b, j) != 0 else -INFINITY)
            put(low, j, total.low + log_rest_low if isfinite(total.high) else 0.0)
        peak = peak_of(e, low, n)
        if isfinite(peak.high):
            shift_row(e, low, e, n, peak, True, row)
            total = weighted_sum(e, factor, n)
            total = two_sum(total.high, total.low) if isfinite(total.low) else single(total.high)
            direction = (total.high > 0) - (total.high < 0) if not isnan(total.high) else NAN
            if direction < 0:
                total.high, total.low = -total.high, -total.low
            total = log_pair(total) if 0 < total.high < INFINITY else single(-INFINITY if direction == 0 else total.high)
            add(&total, peak.high)
            total.low += peak.low
        else:
            total = infinite_sum(e, b, n, &direction)
        if sign.kind == ABSENT and direction < 0:
            total = single(NAN)
        write_number(out, i, value(total))
        write_number(sign, i, direction)


cdef void softmax_rows(
    const Operand* x, const Operand* out, bint logarithm, vec* scratch, Py_ssize_t first, Py_ssize_t last
) noexcept nogil:
    cdef Py_ssize_t i
    cdef vec* row
    cdef vec* result
    for i in range(first, last):
        row = gather(x, i, 0, x.n, scratch)
        result = place(out, i, 0, scratch)
        if logarithm:
            log_softmax_row(row, result, x.n, next_row(x, i, row))
        else:
            softmax_row(row, result, x.n, next_row(x, i, row))
        scatter(out, i, 0, x.n, result)


cdef void softmax_tiles(
    const Operand* x, const Operand* out, bint logarithm, vec* scratch, vec* tile, Py_ssize_t first, Py_ssize_t last
) noexcept nogil:
    cdef Py_ssize_t i, j, count
    cdef bint skip[MAX_LANES]
    cdef bint skips
    cdef vec total
    i = first
    while i < last:
        count = min(last - i, lanes(tile))
        load_tile(x, i, count, tile, scratch)
        if logarithm:
            total = log_softmax_tile(tile, tile + x.n, x.n)
        else:
            total = softmax_tile(tile, tile + x.n, x.n)
        skips = False
        for j in range(count):
            skip[j] = isnan(get(&total, j))
            skips = skips or skip[j]
            if skip[j]:
                softmax_rows(x, out, logarithm, scratch, i + j, i + j + 1)
        store_tile(out, i, count, tile + x.n, skip, skips, scratch)
        i += lanes(tile)


cdef void logsumexp_block(
    const Operand* x, const Operand* out, vec* scratch, Py_ssize_t first, Py_ssize_t last
) noexcept nogil:
    if 0 < x.n <= FEW:
        logsumexp_tiles(x, out, scratch, aligned(<double*>scratch + 5 * (x.n + 16), scratch), first, last)
    else:
        logsumexp_rows(x, out, scratch, first, last)


cdef void softmax_block(
    const Operand* x, const Operand* out, bint logarithm, vec* scratch, Py_ssize_t first, Py_ssize_t last
) noexcept nogil:
    if 0 < x.n <= FEW:
        softmax_tiles(x, out, logarithm, scratch, aligned(<double*>scratch + 5 * (x.n + 16), scratch), first, last)
    else:
        softmax_rows(x, out, logarithm, scratch, first, last)


# ---------------------------------------------------------------------------------------------------------------------
# Cross-entropy
# ---------------------------------------------------------------------------------------------------------------------

cdef enum Form:
    LABELS, DISTRIBUTION, SPARSE


cdef struct Batch:              # the operands of a loss; (*) may be absent
    Operand logits              # or probabilities
    Form form
    Operand target              # labels, one a row; a distribution; the classes of a sparse one
    Operand mass                # (*) of those classes
    int64_t ignore_index
    bint ignores                # whether there is such an index
    Operand where               # (*) bool: the classes that can happen
    Operand class_weight        # (*) one row of float64, at most 1, for every row of the batch
    Operand sample_weight       # (*) one a row
    double weight_unit          # multiplies every sample weight
    Transform transform         # of the logits
    double smoothing
    double z_loss
    double divisor              # of the gradient
    Operand loss                # (*) output, one a row
    Operand grad                # (*) output


cdef enum:
    IGNORED = -1
    INVALID = -2


cdef struct Points:             # classes with mass, each once, under the class weights
    Py_ssize_t count            # or IGNORED, or INVALID
    int64_t* index
    double* mass


cdef struct Room:               # scratch for one row
    Points points
    double* totals              # one a class; each is set before it is used
    double* tile                # two tiles


cdef Room room_of(const Batch* batch, double* scratch) noexcept nogil:
    cdef Room room
    cdef Py_ssize_t most = max(batch.target.n, 1) if batch.form == SPARSE else 1
    room.points.count = 0
    room.points.mass = scratch
    room.points.index = <int64_t*>(scratch + most)
    room.totals = scratch + 2 * most
    room.tile = room.totals + batch.logits.n
    return room


cdef inline double class_weight_of(const Batch* batch, Py_ssize_t c) noexcept nogil:
    return (<double*>batch.class_weight.data)[c] if batch.class_weight.kind != ABSENT else 1.0


cdef inline Points points_of(const Batch* batch, Py_ssize_t i, const Room* room) noexcept nogil:
    """The label or the sparse distribution of row i. One that is out of range has changed since it was checked."""
    cdef Points points = room.points
    cdef Py_ssize_t j, n = batch.logits.n, counted = 0
    cdef int64_t c
    cdef char* row = row_of(&batch.target, i)
    cdef char* mass
    if batch.form == LABELS:
        c = read_integer(row, batch.target.kind)
        if batch.ignores and c == batch.ignore_index:
            points.count = IGNORED
        elif not 0 <= c < n:
            points.count = INVALID
        else:
            points.index[0] = c
            points.mass[0] = class_weight_of(batch, c)
            points.count = points.mass[0] != 0
        return points
    # Repeated classes add up: through `totals`, of which only the elements in question are touched.
    mass = row_of(&batch.mass, i)
    for j in range(batch.target.n):
        c = read_integer(row + j * batch.target.step, batch.target.kind)
        if batch.ignores and c == batch.ignore_index:
            points.index[j] = -1
        elif not 0 <= c < n:
            points.count = INVALID
            return points
        else:
            points.index[j] = c
            room.totals[c] = 0
            counted += 1
    for j in range(batch.target.n):
        if points.index[j] >= 0:
            c = points.index[j]
            room.totals[c] += read_number(mass + j * batch.mass.step, batch.mass.kind) * class_weight_of(batch, c)
    for j in range(batch.target.n):
        c = points.index[j]
        if c >= 0 and room.totals[c] != 0:
            points.index[points.count] = c
            points.mass[points.count] = room.totals[c]
            room.totals[c] = 0
            points.count += 1
    if counted == 0 and batch.target.n > 0:
        points.count = IGNORED
    return points


cdef struct Terms:      # what a row's loss is made of beside its logits
    Points points
    Pair share          # multiplies the points and t
    Pair even           # multiplies the base
    Pair weight         # of the row
    double z_loss
    Pair scale          # of the gradient: dz/dx, but for the slope of a softcap, and what it is divided by


cdef inline Pair loss_row(
    const vec* x, const vec* low, const vec* slope, const vec* t, const vec* base, vec* grad, Py_ssize_t n,
    const Terms* terms, bint keep, const vec* soon, const vec* soon_t
) noexcept nogil:
    """The loss; with `keep`, grad (may be x) = its gradient / divisor. `low`, `slope`, t and `base` may be NULL. The
    rows at `soon` come from memory meanwhile."""
    cdef Peak peak = peak_of(x, low, n)
    cdef Pair mass = single(0), far = single(0), loss, distance, scale, factor, pull, others
    cdef double share, even, at_label
    cdef Shift row
    cdef Py_ssize_t j, only = -1
    cdef int64_t c = 0
    cdef bint smooths = terms.even.high != 0
    # The gradient may replace the logits, so whatever needs them comes first.
    for j in range(terms.points.count):
        c = terms.points.index[j]
        distance = two_sum(peak.high, -get(x, c))
        if low is not NULL:
            distance.low += peak.low - get(low, c)
        add(&mass, terms.points.mass[j])
        add_pair(&far, multiply(distance, single(terms.points.mass[j])))
    if t is not NULL:
        add_pair(&mass, sum_row(t, n))
        add_pair(&far, distance_row(x, low, t, n, peak, soon_t))
    if smooths:
        mass = multiply(mass, terms.share)
        far = multiply(far, terms.share)
        add_pair(&mass, multiply(terms.even, single(<double>n) if base is NULL else sum_row(base, n)))
        add_pair(&far, multiply(terms.even, distance_row(x, low, base, n, peak, x)))
    elif terms.points.count == 1 and t is NULL:
        only = c
    # Four calls, so that what is constant in each costs nothing in its loops.
    if low is NULL and keep:
        row = shift_row(x, <vec*>NULL, grad, n, peak, True, soon)
    elif low is NULL:
        row = shift_row(x, <vec*>NULL, <vec*>x, n, peak, False, soon)
    elif keep:
        row = shift_row(x, low, grad, n, peak, True, soon)
    else:
        row = shift_row(x, low, <vec*>x, n, peak, False, soon)
    loss = multiply(row.log_sum, mass)
    add_pair(&loss, far)
    if terms.z_loss != 0:
        add_pair(&loss, multiply(multiply(row.logsumexp, row.logsumexp), single(terms.z_loss)))
    if not keep:
        return multiply(loss, terms.weight)

    scale = multiply(terms.weight, terms.scale)
    factor = divide(scale, one_more(row.rest))      # of e_c, for each unit of T
    pull = multiply(row.logsumexp, single(2 * terms.z_loss)) if terms.z_loss != 0 else single(0)
    if only >= 0:       # the difference T p - t would cancel
        others = row.rest
        if only != peak.index:
            add(&others, -get(grad, only))
            add(&others, 1)
        others = multiply(others, mass)
        if terms.z_loss != 0:
            add_pair(&others, multiply(pull, single(-get(grad, only))))
            add_pair(&mass, pull)
        at_label = -value(multiply(factor, others))
        combine_row(grad, <vec*>NULL, n, value(multiply(factor, mass)), 0)
        put(grad, only, at_label)
    else:
        add_pair(&mass, pull)
        factor = multiply(factor, mass)
        share = value(multiply(terms.share, scale))
        even = value(multiply(terms.even, scale))
        if t is not NULL:
            combine_row(grad, t, n, value(factor), share)
            if smooths:
                combine_row(grad, base, n, 1, even)
        else:
            combine_row(grad, base if smooths else <vec*>NULL, n, value(factor), even)
        for j in range(terms.points.count):
            c = terms.points.index[j]
            put(grad, c, get(grad, c) - terms.points.mass[j] * share)
    if slope is not NULL:
        multiply_row(grad, slope, grad, n)
    return multiply(loss, terms.weight)


cdef inline Pair constant_row(vec* grad, Py_ssize_t n, double x, bint keep) noexcept nogil:
    """A row whose loss and gradient are x whatever its logits."""
    cdef Py_ssize_t j
    if keep:
        for j in range(n):
            put(grad, j, x)
    return single(x)


cdef inline char* contiguous_mask(const Operand* where, Py_ssize_t i, char* scratch) noexcept nogil:
    cdef Py_ssize_t j
    cdef char* row = row_of(where, i)
    if where.step == 1:
        return row
    for j in range(where.n):
        scratch[j] = row[j * where.step]
    return scratch


cdef inline vec* weighted(const vec* t, const vec* class_weight, vec* scratch, Py_ssize_t n) noexcept nogil:
    if class_weight is NULL:
        return <vec*>t
    multiply_row(t, class_weight, scratch, n)
    return scratch


cdef void cross_entropy_rows(
    const Batch* batch, vec* scratch, const Room* room, Py_ssize_t first, Py_ssize_t last, Pair* total
) noexcept nogil:
    """Adds up the losses; writes each loss and gradient where they are wanted. `scratch` holds ROWS rows."""
    cdef Py_ssize_t i, j, reached, only, n = batch.logits.n, rows = (n + lanes(scratch) - 1) // lanes(scratch)
    cdef bint keep = batch.grad.kind != ABSENT, masks = batch.where.kind != ABSENT
    cdef bint transforms = batch.transform.scale != 1 or batch.transform.softcap != 0
    cdef bint smooths = batch.smoothing != 0 and n > 0
    cdef Terms terms
    cdef Pair loss
    cdef char* mask = NULL
    cdef vec* x
    cdef vec* soon
    cdef vec* soon_t = NULL
    cdef vec* t
    cdef vec* low = NULL
    cdef vec* slope = NULL
    cdef vec* base = NULL
    cdef vec* class_weight = NULL
    cdef vec* grad = scratch
    terms.share = two_sum(1, -batch.smoothing)
    terms.even = divide(single(batch.smoothing), single(<double>max(n, 1)))
    terms.scale = divide(single(batch.transform.scale), single(batch.divisor))
    terms.z_loss = batch.z_loss
    if transforms:
        low = scratch + 4 * rows
        if batch.transform.softcap != 0:
            slope = scratch + 5 * rows
    if batch.class_weight.kind != ABSENT and (smooths or batch.form == DISTRIBUTION):
        class_weight = base = gather(&batch.class_weight, 0, 0, n, scratch + 6 * rows)
    for i in range(first, last):
        t = NULL
        terms.weight = single(weight_of(&batch.sample_weight, i) * batch.weight_unit)
        if batch.form == DISTRIBUTION:
            terms.points = room.points
        else:
            terms.points = points_of(batch, i, room)
        if keep:
            grad = place(&batch.grad, i, 0, scratch)
        if terms.weight.high == 0 or terms.points.count == IGNORED:
            loss = constant_row(grad, n, 0, keep)
        elif terms.points.count == INVALID:
            loss = constant_row(grad, n, NAN, keep)
        else:
            x = gather(&batch.logits, i, 0, n, scratch + rows)
            soon = next_row(&batch.logits, i, x)
            if batch.form == DISTRIBUTION:
                t = gather(&batch.target, i, 0, n, scratch + 2 * rows)
                soon_t = next_row(&batch.target, i, t)
                only = only_class(t, n)
                if only >= 0:
                    terms.points.index[0] = only
                    terms.points.mass[0] = get(t, only) * class_weight_of(batch, only)
                    terms.points.count = terms.points.mass[0] != 0
                    t = NULL
                else:
                    t = weighted(t, class_weight, scratch + 2 * rows, n)
            if batch.smoothing == 1:        # a mass of 0 hides an infinite distance
                terms.points.count = 0
                t = NULL
            if masks:
                mask = contiguous_mask(&batch.where, i, <char*>(scratch + 7 * rows))
                mask_row(x, mask, scratch + 3 * rows, n, -INFINITY)
                x = scratch + 3 * rows
                if smooths:
                    base = scratch + 8 * rows
                    mask_row(class_weight, mask, base, n, 0)
                    reached = 0
                    for j in range(n):
                        reached += mask[j] != 0
                    terms.even = divide(single(batch.smoothing), single(<double>max(reached, 1)))
            if transforms:
                transform_row(x, scratch + 3 * rows, low, slope, n, &batch.transform)
                x = scratch + 3 * rows
            loss = loss_row(x, low, slope, t, base, grad, n, &terms, keep, soon, soon_t)
        if keep:
            scatter(&batch.grad, i, 0, n, grad)
        write_number(&batch.loss, i, value(loss))
        add_pair(total, loss)


cdef bint has_tiles(const Batch* batch) noexcept nogil:
    """Whether rows are done side by side: of few classes, and without the options that need a row's own sums."""
    return (
        0 < batch.logits.n <= FEW and batch.smoothing == 0 and batch.z_loss == 0 and batch.transform.scale == 1
        and batch.transform.softcap == 0
    )


cdef inline bint has_one_class(
    const Batch* batch, Py_ssize_t i, const Room* room, vec* scratch, Py_ssize_t* label, double* mass
) noexcept nogil:
    """Whether all the mass of row i is on one class: on which, and how much under its class weight."""
    cdef Points points
    cdef int64_t c
    cdef vec* t
    if batch.form == LABELS:
        c = read_integer(row_of(&batch.target, i), batch.target.kind)
        if not 0 <= c < batch.logits.n or (batch.ignores and c == batch.ignore_index):
            return False
        mass[0] = class_weight_of(batch, c)
    elif batch.form == SPARSE:
        points = points_of(batch, i, room)
        if points.count != 1:
            return False
        c = points.index[0]
        mass[0] = points.mass[0]
    else:
        t = gather(&batch.target, i, 0, batch.logits.n, scratch)
        c = only_class(t, batch.logits.n)
        if c < 0:
            return False
        mass[0] = get(t, c) * class_weight_of(batch, c)
    label[0] = c
    return True


cdef void cross_entropy_tiles(
    const Batch* batch, vec* scratch, const Room* room, Py_ssize_t first, Py_ssize_t last, Pair* total
) noexcept nogil:
    """The same; rows that are ignored, strange, without probabilities or with mass on several classes are left to
    `cross_entropy_rows`."""
    cdef Py_ssize_t i, j, k, count, skipped, n = batch.logits.n
    cdef bint keep = batch.grad.kind != ABSENT
    cdef bint skip[MAX_LANES]
    cdef Py_ssize_t label[MAX_LANES]
    cdef double weight[MAX_LANES]
    cdef double mass = 0
    cdef Pair loss[MAX_LANES]
    cdef Pair scale = divide(single(1), single(batch.divisor))
    cdef char* mask
    cdef Pair totals[4]     # additions that need not wait for one another
    cdef vec sums
    cdef vec* tile = aligned(room.tile, scratch)
    for j in range(4):
        totals[j] = single(0)
    i = first
    while i < last:
        count = min(last - i, lanes(tile))
        skipped = 0
        for j in range(count):
            weight[j] = weight_of(&batch.sample_weight, i + j) * batch.weight_unit
            skip[j] = weight[j] == 0 or not has_one_class(batch, i + j, room, scratch, &label[j], &mass)
            weight[j] *= mass
            skip[j] = skip[j] or not is_moderate(tile, weight[j] * scale.high)
            if skip[j]:
                label[j] = 0
                skipped += 1
        if skipped < count:
            load_tile(&batch.logits, i, count, tile, scratch)
            if batch.where.kind != ABSENT:
                for j in range(count):
                    mask = row_of(&batch.where, i + j)
                    for k in range(n):
                        if not mask[k * batch.where.step]:
                            put(tile, k * lanes(tile) + j, -INFINITY)
            if keep:
                sums = label_tile(tile, tile + n, n, count, label, weight, scale, loss, True)
            else:
                sums = label_tile(tile, tile + n, n, count, label, weight, scale, loss, False)
            for j in range(count):
                if not skip[j] and isnan(get(&sums, j)):
                    skip[j] = True
                    skipped += 1
        for j in range(count):
            if skip[j]:
                cross_entropy_rows(batch, scratch, room, i + j, i + j + 1, total)
            else:
                write_number(&batch.loss, i + j, value(loss[j]))
                add_pair(&totals[j % 4], loss[j])
        if keep and skipped < count:
            store_tile(&batch.grad, i, count, tile + n, skip, skipped > 0, scratch)
        i += lanes(tile)
    for j in range(4):
        add_pair(total, totals[j])


cdef double cross_entropy_block(
    const Batch* batch, vec* scratch, const Room* room, Py_ssize_t first, Py_ssize_t last
) noexcept nogil:
    cdef Pair total = single(0)
    if has_tiles(batch):
        cross_entropy_tiles(batch, scratch, room, first, last, &total)
    else:
        cross_entropy_rows(batch, scratch, room, first, last, &total)
    return value(total)


cdef double log_loss_rows(
    const Batch* batch, vec* scratch, const Room* room, Py_ssize_t first, Py_ssize_t last
) noexcept nogil:
    """The same from probabilities: -sum(t_c log p_c)."""
    cdef Py_ssize_t i, j, n = batch.logits.n
    cdef double weight, t
    cdef vec* p
    cdef char* target
    cdef Points points
    cdef Pair loss, total = single(0)
    for i in range(first, last):
        weight = weight_of(&batch.sample_weight, i) * batch.weight_unit
        loss = single(0)
        if weight != 0 and batch.form == DISTRIBUTION:
            p = gather(&batch.logits, i, 0, n, scratch)
            target = row_of(&batch.target, i)
            for j in range(n):
                t = read_number(target + j * batch.target.step, batch.target.kind)
                if t != 0:
                    add_pair(&loss, multiply(minus_log(get(p, j)), single(t)))
        elif weight != 0:
            points = points_of(batch, i, room)
            if points.count == INVALID:
                loss = single(NAN)
            for j in range(points.count):
                t = read_number(
                    row_of(&batch.logits, i) + points.index[j] * batch.logits.step, batch.logits.kind
                )
                add_pair(&loss, multiply(minus_log(t), single(points.mass[j])))
        loss = multiply(loss, single(weight))
        write_number(&batch.loss, i, value(loss))
        add_pair(&total, loss)
    return value(total)


cdef Py_ssize_t weight_rows(
    const Batch* batch, vec* scratch, Py_ssize_t first, Py_ssize_t last, double* mass
) noexcept nogil:
    """The sum of sample weight times target mass, and the first label or class that is out of range, or -1."""
    cdef Py_ssize_t i, j, n = batch.logits.n, k = batch.target.n, rows = (n + lanes(scratch) - 1) // lanes(scratch)
    cdef double weight
    cdef int64_t c
    cdef char* row
    cdef vec* t
    cdef vec* class_weight = NULL
    cdef Pair total = single(0), row_mass
    cdef Py_ssize_t counted = 0
    if batch.form == LABELS and batch.class_weight.kind == ABSENT and batch.sample_weight.kind == ABSENT:
        for i in range(first, last):
            c = read_integer(row_of(&batch.target, i), batch.target.kind)
            if 0 <= c < n and not (batch.ignores and c == batch.ignore_index):
                counted += 1
            elif not (batch.ignores and c == batch.ignore_index):
                return i
        mass[0] = counted * batch.weight_unit
        return -1
    if batch.form == DISTRIBUTION and batch.class_weight.kind != ABSENT:
        class_weight = gather(&batch.class_weight, 0, 0, n, scratch)
    for i in range(first, last):
        weight = weight_of(&batch.sample_weight, i) * batch.weight_unit
        row = row_of(&batch.target, i)
        if batch.form == LABELS:
            c = read_integer(row, batch.target.kind)
            if batch.ignores and c == batch.ignore_index:
                continue
            if c < 0 or c >= n:
                return i
            add(&total, weight * class_weight_of(batch, c))
        elif batch.form == SPARSE:
            row_mass = single(0)
            for j in range(k):
                c = read_integer(row + j * batch.target.step, batch.target.kind)
                if batch.ignores and c == batch.ignore_index:
                    continue
                if c < 0 or c >= n:
                    return i * k + j
                add_pair(&row_mass, multiply(
                    single(read_number(row_of(&batch.mass, i) + j * batch.mass.step, batch.mass.kind)),
                    single(class_weight_of(batch, c)),
                ))
            if weight != 0:
                add_pair(&total, multiply(row_mass, single(weight)))
        elif weight != 0:
            t = gather(&batch.target, i, 0, n, scratch + rows)
            t = weighted(t, class_weight, scratch + rows, n)
            add_pair(&total, multiply(sum_row(t, n), single(weight)))
    mass[0] = value(total)
    return -1


cdef inline void add_product(Sum* total, Pair x, Pair y) noexcept nogil:
    cdef Pair product = multiply(x, y)
    add_exactly(total, product.high)
    if isfinite(product.low):
        add_exactly(total, product.low)


cdef void evaluate_rows(
    const Batch* batch, vec* scratch, const int64_t* topk, Py_ssize_t n_topk, Py_ssize_t first, Py_ssize_t last,
    Sum* sums
) noexcept nogil:
    """Adds up loss, entropy, weight and, for each k, the weight of the rows whose label is among the k largest."""
    cdef Py_ssize_t i, j, above, n = batch.logits.n, rows = (n + lanes(scratch) - 1) // lanes(scratch)
    cdef int64_t label
    cdef Pair weight, loss, entropy
    cdef Peak peak
    cdef Shift row
    cdef vec* x
    for j in range(3 + n_topk):
        sums[j].high = sums[j].low = sums[j].lowest = 0
    for i in range(first, last):
        weight = single(weight_of(&batch.sample_weight, i))
        label = read_integer(row_of(&batch.target, i), batch.target.kind)
        if weight.high == 0 or (batch.ignores and label == batch.ignore_index):
            continue
        if not 0 <= label < n:      # changed since it was checked
            add_exactly(&sums[0], NAN)
            continue
        x = gather(&batch.logits, i, 0, n, scratch + rows)
        above = count_above(x, n, get(x, label))
        peak = peak_of(x, <vec*>NULL, n)
        row = shift_row(x, <vec*>NULL, scratch, n, peak, True, next_row(&batch.logits, i, x))
        loss = two_sum(peak.high, -get(x, label))
        add_pair(&loss, row.log_sum)
        entropy = divide(distance_row(x, <vec*>NULL, scratch, n, peak, x), one_more(row.rest))
        add_pair(&entropy, row.log_sum)
        add_product(&sums[0], loss, weight)
        add_product(&sums[1], entropy, weight)
        add_exactly(&sums[2], weight.high)
        for j in range(n_topk):
            if above < topk[j]:
                add_exactly(&sums[3 + j], weight.high)
    for j in range(3 + n_topk):
        if not isfinite(sums[j].low + sums[j].lowest):      # of infinity or NaN
            sums[j].low = sums[j].lowest = 0


# ---------------------------------------------------------------------------------------------------------------------
# What Python calls, with arrays that are known to be good. The work is `count` units (rows, or chunks of elements), in
# blocks of `size` of them; a call does blocks first <= i < last. sums[i] is what block i adds up to, so that a total
# does not depend on which thread did which block. `scratch` is float64, as long as the functions here say.
# ---------------------------------------------------------------------------------------------------------------------

BINARY_CHUNK = CHUNK    # elements in a unit of binary_cross_entropy
BINARY_SCRATCH = 7 * CHUNK  # the length of its scratch

cdef enum:
    ROWS = 9            # of the logits, in their type, in the scratch of a batch


def row_scratch(Py_ssize_t classes):
    """The length of the scratch of a function of rows: five of them, and two tiles."""
    return 5 * (classes + 16) + tile_scratch(classes)


cdef Py_ssize_t tile_scratch(Py_ssize_t classes):
    return 2 * 8 * classes + 8 if classes <= FEW else 0


def batch_scratch(Py_ssize_t classes, Py_ssize_t points):
    """The length of the scratch of a batch: rows, a total for each class, an index and a mass for each point, tiles."""
    return ROWS * (classes + 16) + classes + 2 * max(points, 1) + tile_scratch(classes)


def cpu_sets():
    """The instruction sets, beyond the baseline, that this CPU and its operating system offer, slowest first."""
    return [name for name, present in (("avx2", xent_cpu_has_avx2()), ("avx512", xent_cpu_has_avx512())) if present]


def logsumexp(
    x, weight, out, sign, scratch, Py_ssize_t count, Py_ssize_t size, Py_ssize_t first, Py_ssize_t last
):
    """out = logsumexp of the rows of x, weighted or (None) not; sign (or None) = the sign of the weighted sums."""
    cdef Operand rows, weights, result, signs
    cdef void* room = cnp.PyArray_DATA(<cnp.ndarray>scratch)
    bind(&rows, x, True)
    bind(&weights, weight, True)
    bind(&result, out, False)
    bind(&signs, sign, False)
    with nogil:
        if weights.kind != ABSENT:
            weighted_logsumexp_rows(
                &rows, &weights, &result, &signs, <vf64*>room, first * size, min(last * size, count)
            )
        elif rows.kind != F64:
            logsumexp_block(&rows, &result, <vf32*>room, first * size, min(last * size, count))
        else:
            logsumexp_block(&rows, &result, <vf64*>room, first * size, min(last * size, count))


def softmax(
    x, out, bint logarithm, scratch, Py_ssize_t count, Py_ssize_t size, Py_ssize_t first, Py_ssize_t last
):
    """out = softmax or, if `logarithm`, log_softmax of the rows of x; out may be x."""
    cdef Operand rows, result
    cdef void* room = cnp.PyArray_DATA(<cnp.ndarray>scratch)
    bind(&rows, x, True)
    bind(&result, out, True)
    with nogil:
        if rows.kind != F64:
            softmax_block(&rows, &result, logarithm, <vf32*>room, first * size, min(last * size, count))
        else:
            softmax_block(&rows, &result, logarithm, <vf64*>room, first * size, min(last * size, count))


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
    bind(&batch.logits, problem.logits, True)
    bind(&batch.target, problem.target, batch.form != LABELS)
    bind(&batch.mass, problem.mass, True)
    bind(&batch.where, problem.where, True)
    bind(&batch.class_weight, problem.class_weight, True)
    bind(&batch.sample_weight, problem.sample_weight, False)
    batch.loss.kind = batch.grad.kind = ABSENT
    return 0


def target_weight(
    problem, options, double weight_unit, scratch, double[::1] sums, Py_ssize_t count, Py_ssize_t size,
    Py_ssize_t first, Py_ssize_t last,
):
    """sums = sample weight times target mass; returns the place in the target of the first label or class that is out
    of range, or -1."""
    cdef Batch batch
    cdef Py_ssize_t i, bad = -1
    cdef void* room = cnp.PyArray_DATA(<cnp.ndarray>scratch)
    bind_batch(&batch, problem, options, weight_unit)
    with nogil:
        for i in range(first, last):
            if batch.logits.kind != F64:
                bad = weight_rows(&batch, <vf32*>room, i * size, min((i + 1) * size, count), &sums[i])
            else:
                bad = weight_rows(&batch, <vf64*>room, i * size, min((i + 1) * size, count), &sums[i])
            if bad >= 0:
                break
    return bad


def cross_entropy(
    problem, options, double weight_unit, double divisor, loss, grad, scratch, double[::1] sums, Py_ssize_t count,
    Py_ssize_t size, Py_ssize_t first, Py_ssize_t last,
):
    """loss (or None) = the loss of each row, grad (or None; may be logits) = the gradient of their sum / divisor."""
    cdef Batch batch
    cdef Py_ssize_t i
    cdef double* data = <double*>cnp.PyArray_DATA(<cnp.ndarray>scratch)
    cdef Room room
    bind_batch(&batch, problem, options, weight_unit)
    batch.divisor = divisor
    bind(&batch.loss, loss, False)
    bind(&batch.grad, grad, True)
    room = room_of(&batch, data + ROWS * (batch.logits.n + 16))
    with nogil:
        for i in range(first, last):
            if batch.logits.kind != F64:
                sums[i] = cross_entropy_block(&batch, <vf32*>data, &room, i * size, min((i + 1) * size, count))
            else:
                sums[i] = cross_entropy_block(&batch, <vf64*>data, &room, i * size, min((i + 1) * size, count))


def log_loss(
    problem, options, double weight_unit, loss, scratch, double[::1] sums, Py_ssize_t count, Py_ssize_t size,
    Py_ssize_t first, Py_ssize_t last,
):
    """loss (or None) = minus the logarithm of the probability of each row's target."""
    cdef Batch batch
    cdef Py_ssize_t i
    cdef double* data = <double*>cnp.PyArray_DATA(<cnp.ndarray>scratch)
    cdef Room room
    bind_batch(&batch, problem, options, weight_unit)
    bind(&batch.loss, loss, False)
    room = room_of(&batch, data + ROWS * (batch.logits.n + 16))
    with nogil:
        for i in range(first, last):
            if batch.logits.kind != F64:
                sums[i] = log_loss_rows(&batch, <vf32*>data, &room, i * size, min((i + 1) * size, count))
            else:
                sums[i] = log_loss_rows(&batch, <vf64*>data, &room, i * size, min((i + 1) * size, count))


def evaluate(
    problem, options, const int64_t[::1] topk, scratch, double[:, :, ::1] sums, Py_ssize_t count, Py_ssize_t size,
    Py_ssize_t first, Py_ssize_t last,
):
    """sums[i] = what the rows of block i add up to, each as three numbers: loss, entropy, weight, and for each k the
    weight of the rows whose label is among the k largest logits."""
    cdef Batch batch
    cdef Py_ssize_t i
    cdef void* room = cnp.PyArray_DATA(<cnp.ndarray>scratch)
    cdef const int64_t* k = &topk[0] if topk.shape[0] else NULL
    bind_batch(&batch, problem, options, 1)
    with nogil:
        for i in range(first, last):
            if batch.logits.kind != F64:
                evaluate_rows(
                    &batch, <vf32*>room, k, topk.shape[0], i * size, min((i + 1) * size, count), <Sum*>&sums[i, 0, 0]
                )
            else:
                evaluate_rows(
                    &batch, <vf64*>room, k, topk.shape[0], i * size, min((i + 1) * size, count), <Sum*>&sums[i, 0, 0]
                )


def binary_cross_entropy(
    x, target, pos_weight, sample_weight, double weight_unit, double label_smoothing, bint from_logits, double divisor,
    loss, grad, scratch, double[::1] sums, Py_ssize_t count, Py_ssize_t size, Py_ssize_t first, Py_ssize_t last,
):
    """Of logits or probabilities, element by element; all operands (or None) have the shape of x."""
    cdef BinaryBatch batch
    cdef Py_ssize_t i
    cdef bint narrow
    cdef void* room = cnp.PyArray_DATA(<cnp.ndarray>scratch)
    batch.weight_unit = weight_unit
    batch.smoothing = label_smoothing
    batch.divisor = divisor
    bind(&batch.x, x, True)
    bind(&batch.target, target, True)
    bind(&batch.pos_weight, pos_weight, True)
    bind(&batch.sample_weight, sample_weight, True)
    bind(&batch.loss, loss, True)
    bind(&batch.grad, grad, True)
    # Targets and weights are not rounded to float32: the widest operand decides.
    narrow = fits_float32(&batch.x) and fits_float32(&batch.target) and fits_float32(&batch.pos_weight)
    narrow = narrow and fits_float32(&batch.sample_weight)
    with nogil:
        for i in range(first, last):
            if narrow:
                sums[i] = binary_chunks(&batch, from_logits, <vf32*>room, i * size, min((i + 1) * size, count))
            else:
                sums[i] = binary_chunks(&batch, from_logits, <vf64*>room, i * size, min((i + 1) * size, count))
