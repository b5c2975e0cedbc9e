# Part of _kernels.pyx: the losses of classes, over rows first <= i < last of a batch, and what is measured along with
# them.

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
    Operand class_weight        # (*) one row of float64, in a unit near the largest, for every row of the batch
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
    Pair* mass


cdef struct Room:               # scratch for one row
    Points points
    double* places              # of each class among the points; each is set before it is used
    double* tile                # two tiles
    Traffic traffic


cdef Room room_of(const Batch* batch, double* scratch) noexcept nogil:
    cdef Room room
    cdef Py_ssize_t most = max(batch.target.n, 1) if batch.form == SPARSE else 1
    room.points.count = 0
    room.points.mass = <Pair*>scratch
    room.points.index = <int64_t*>(scratch + 2 * most)
    room.places = scratch + 3 * most
    room.tile = room.places + batch.logits.n
    room.traffic = no_traffic(<vf32*>scratch)
    return room


cdef inline double class_weight_of(const Batch* batch, Py_ssize_t c) noexcept nogil:
    return (<double*>batch.class_weight.data)[c] if batch.class_weight.kind != ABSENT else 1.0


cdef inline Points points_of(const Batch* batch, Py_ssize_t i, const Room* room) noexcept nogil:
    """The label or the sparse distribution of row i. One that is out of range has changed since it was checked."""
    cdef Points points = room.points
    cdef Pair x
    cdef Py_ssize_t j, place, n = batch.logits.n, counted = 0, merged = 0
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
            points.mass[0] = single(class_weight_of(batch, c))
            points.count = points.mass[0].high != 0
        return points
    for j in range(batch.target.n):
        c = read_integer(row + j * batch.target.step, batch.target.kind)
        if batch.ignores and c == batch.ignore_index:
            points.index[j] = -1
        elif not 0 <= c < n:
            points.count = INVALID
            return points
        else:
            points.index[j] = c
            room.places[c] = -1
            counted += 1
    # Repeated classes add up, with what that loses: it would be missed in the loss.
    mass = row_of(&batch.mass, i)
    for j in range(batch.target.n):
        c = points.index[j]
        if c < 0:
            continue
        x = multiply(single(read_number(mass + j * batch.mass.step, batch.mass.kind)), single(class_weight_of(batch, c)))
        place = <Py_ssize_t>room.places[c]
        if place >= 0:
            add_pair(&points.mass[place], x)
        else:
            room.places[c] = merged
            points.index[merged] = c
            points.mass[merged] = x
            merged += 1
    for j in range(merged):
        if value(points.mass[j]) != 0:
            points.index[points.count] = points.index[j]
            points.mass[points.count] = points.mass[j]
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
    const Terms* terms, bint keep, Traffic* traffic, const vec* soon_t
) noexcept nogil:
    """The loss; with `keep`, grad (may be x) = its gradient / divisor. `low`, `slope`, t and `base` may be NULL. The
    row at `soon_t` comes from memory meanwhile."""
    cdef Peak peak = peak_of(x, low, n)
    cdef Pair mass = single(0), far = single(0), loss, distance, scale, factor, pull, others, own
    cdef double share, even, at_label, at_top
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
        add_pair(&mass, terms.points.mass[j])
        add_pair(&far, multiply(distance, terms.points.mass[j]))
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
        row = shift_row(x, <vec*>NULL, grad, n, peak, True, traffic)
    elif low is NULL:
        row = shift_row(x, <vec*>NULL, <vec*>x, n, peak, False, traffic)
    elif keep:
        row = shift_row(x, low, grad, n, peak, True, traffic)
    else:
        row = shift_row(x, low, <vec*>x, n, peak, False, traffic)
    loss = multiply(row.log_sum, mass)
    add_pair(&loss, far)
    if terms.z_loss != 0:
        add_pair(&loss, multiply(multiply(row.logsumexp, row.logsumexp), single(terms.z_loss)))
    if not keep:
        return multiply(loss, terms.weight)

    scale = multiply(terms.weight, terms.scale)
    factor = divide(scale, one_more(row.rest))      # of exp(x - m), for each unit of T
    pull = multiply(row.logsumexp, single(2 * terms.z_loss)) if terms.z_loss != 0 else single(0)
    if only >= 0:       # the difference T p - t would cancel
        others = row.rest
        own = single(-1) if get(grad, only) == row.top else multiply(row.unit, single(-get(grad, only)))
        if only != peak.index:
            add_pair(&others, own)
            add(&others, 1)
        others = multiply(others, mass)
        if terms.z_loss != 0:
            add_pair(&others, multiply(pull, own))
            add_pair(&mass, pull)
        at_label = -value(multiply(factor, others))
        factor = multiply(factor, mass)
        combine_row(grad, <vec*>NULL, n, value(multiply(factor, row.unit)), 0, row.top, value(factor))
        put(grad, only, at_label)
    else:
        add_pair(&mass, pull)
        factor = multiply(factor, mass)
        at_top = value(factor)
        factor = multiply(factor, row.unit)
        share = value(multiply(terms.share, scale))
        even = value(multiply(terms.even, scale))
        if t is not NULL:
            combine_row(grad, t, n, value(factor), share, row.top, at_top)
            if smooths:
                combine_row(grad, base, n, 1, even, NAN, 0)
        else:
            combine_row(grad, base if smooths else <vec*>NULL, n, value(factor), even, row.top, at_top)
        for j in range(terms.points.count):
            c = terms.points.index[j]
            put(grad, c, get(grad, c) - value(terms.points.mass[j]) * share)
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
    const Batch* batch, vec* scratch, Room* room, Py_ssize_t first, Py_ssize_t last, Pair* total
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
    cdef vec* soon_t = NULL
    cdef Traffic* traffic = &room.traffic
    cdef vec* t
    cdef vec* low = NULL
    cdef vec* slope = NULL
    cdef vec* base = NULL
    cdef vec* class_weight = NULL
    cdef vec* grad = scratch
    cdef Window window, window_out
    open_window(&window, &batch.logits, first, last, scratch)
    open_window(&window_out, &batch.grad, first, last, scratch)
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
            grad = place_through(&window_out, &batch.grad, i, last, scratch + traffic.turn * 9 * rows)
        if terms.weight.high == 0 or terms.points.count == IGNORED:
            loss = constant_row(grad, n, 0, keep)
        elif terms.points.count == INVALID:
            loss = constant_row(grad, n, NAN, keep)
        else:
            x = gather_through(&window, &batch.logits, i, last, scratch + rows)
            traffic.soon = <const char*>next_row(&batch.logits, i, x)
            if keep:
                traffic.soon_out = <const char*>next_place(&batch.grad, i, grad)
            if batch.form == DISTRIBUTION:
                t = gather(&batch.target, i, 0, n, scratch + 2 * rows)
                soon_t = next_row(&batch.target, i, t)
                only = only_class(t, n)
                if only >= 0:
                    terms.points.index[0] = only
                    terms.points.mass[0] = multiply(single(get(t, only)), single(class_weight_of(batch, only)))
                    terms.points.count = terms.points.mass[0].high != 0
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
            loss = loss_row(x, low, slope, t, base, grad, n, &terms, keep, traffic, soon_t)
        if keep:
            scatter_through(&window_out, &batch.grad, i, grad, traffic)
        write_number(&batch.loss, i, value(loss))
        add_pair(total, loss)
    close_window(&window)
    close_window(&window_out)


cdef bint has_tiles(const Batch* batch) noexcept nogil:
    """Whether rows are done side by side: of few classes, and without the options that need a row's own sums."""
    return (
        0 < batch.logits.n <= FEW and batch.smoothing == 0 and batch.z_loss == 0 and batch.transform.scale == 1
        and batch.transform.softcap == 0
    )


cdef inline bint has_one_class(
    const Batch* batch, Py_ssize_t i, Room* room, vec* scratch, Py_ssize_t* label, Pair* mass
) noexcept nogil:
    """Whether all the mass of row i is on one class: on which, and how much under its class weight."""
    cdef Points points
    cdef int64_t c
    cdef vec* t
    if batch.form == LABELS:
        c = read_integer(row_of(&batch.target, i), batch.target.kind)
        if not 0 <= c < batch.logits.n or (batch.ignores and c == batch.ignore_index):
            return False
        mass[0] = single(class_weight_of(batch, c))
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
        mass[0] = multiply(single(get(t, c)), single(class_weight_of(batch, c)))
    label[0] = c
    return True


cdef inline Py_ssize_t read_labels(
    const Batch* batch, Py_ssize_t i, Py_ssize_t count, Py_ssize_t* label, bint* skip
) noexcept nogil:
    """The labels of rows i to i + count, along one axis and without weights; returns how many are to be skipped."""
    cdef const Operand* target = &batch.target
    cdef const char* row = row_of(target, i)
    cdef Py_ssize_t step = target.strides[0] if target.ndim == 1 else 0, n = batch.logits.n, j, skipped = 0
    # The usual type in a loop of its own.
    if target.kind == I64:
        for j in range(count):
            label[j] = (<const int64_t*>(row + j * step))[0]
    else:
        for j in range(count):
            label[j] = read_integer(row + j * step, target.kind)
    for j in range(count):
        skip[j] = (label[j] < 0) | (label[j] >= n) | (batch.ignores & (label[j] == batch.ignore_index))
        label[j] = 0 if skip[j] else label[j]
        skipped += skip[j]
    return skipped


cdef inline Pair pair_of(const vec* high, const vec* low, Py_ssize_t j) noexcept nogil:
    """A number of which lane j holds the parts: one float64 holds two float32."""
    cdef Pair x
    x.high = get(high, j)
    x.low = get(low, j)
    return single(x.high + x.low) if vec is vf32 else x


cdef void cross_entropy_tiles(
    const Batch* batch, vec* scratch, Room* room, Py_ssize_t first, Py_ssize_t last, Pair* total
) noexcept nogil:
    """The same; rows that are ignored, strange, without probabilities or with mass on several classes are left to
    `cross_entropy_rows`."""
    cdef Py_ssize_t i, j, k, count, width, skipped, n = batch.logits.n
    cdef bint keep = batch.grad.kind != ABSENT
    cdef bint plain = (
        batch.form == LABELS and batch.target.ndim <= 1 and batch.sample_weight.kind == ABSENT
        and batch.class_weight.kind == ABSENT
    )
    cdef bint skip[MAX_ROWS]
    cdef Py_ssize_t label[MAX_ROWS]
    cdef Pair mass = single(1), scale = divide(single(1), single(batch.divisor)), row_scale
    cdef Factors weights, scales
    cdef char* mask
    cdef Factors totals     # additions that need not wait for one another
    cdef vec sums[WIDEST]
    cdef vec weight[WIDEST]
    cdef vec weight_low[WIDEST]
    cdef vec factor[WIDEST]
    cdef vec factor_low[WIDEST]
    cdef vec loss[WIDEST]
    cdef vec loss_low[WIDEST]
    cdef vec* tile = aligned(room.tile, scratch)
    cdef vec* grad = tile + WIDEST * n
    for j in range(MAX_ROWS):
        totals.high[j] = totals.low[j] = 0
        weights.high[j] = batch.weight_unit
        weights.low[j] = 0
        row_scale = multiply(single(batch.weight_unit), scale)
        scales.high[j] = row_scale.high
        scales.low[j] = row_scale.low
    factors_of(&weights, weight, weight_low)
    factors_of(&scales, factor, factor_low)
    plain = plain and is_moderate(tile, weights.high[0]) and is_moderate(tile, scales.high[0])
    i = first
    while i < last:
        count = min(last - i, WIDEST * lanes(tile))
        width = WIDEST * lanes(tile) if count > lanes(tile) else lanes(tile)
        if plain:
            skipped = read_labels(batch, i, count, label, skip)
        else:
            skipped = 0
            for j in range(count):
                label[j] = 0
                weights.high[j] = weight_of(&batch.sample_weight, i + j) * batch.weight_unit
                skip[j] = not has_one_class(batch, i + j, room, scratch, &label[j], &mass) or weights.high[j] == 0
                row_scale = multiply(single(weights.high[j]), mass)
                weights.high[j] = row_scale.high
                weights.low[j] = row_scale.low
                row_scale = multiply(row_scale, scale)
                scales.high[j] = row_scale.high
                scales.low[j] = row_scale.low
                skip[j] = skip[j] or not (is_moderate(tile, weights.high[j]) and is_moderate(tile, scales.high[j]))
                skipped += skip[j]
            factors_of(&weights, weight, weight_low)
            factors_of(&scales, factor, factor_low)
        for j in range(count, width):
            label[j] = 0
        if skipped < count:
            if width > lanes(tile):
                load_tile(&batch.logits, i, count, tile, 2, scratch)
            else:
                load_tile(&batch.logits, i, count, tile, 1, scratch)
            if batch.where.kind != ABSENT:
                for j in range(count):
                    mask = row_of(&batch.where, i + j)
                    for k in range(n):
                        if not mask[k * batch.where.step]:
                            put(tile, k * width + j, -INFINITY)
            # Four calls, so that what is constant in each costs nothing in its loops.
            if width > lanes(tile) and keep:
                label_tile(
                    tile, grad, n, 2, label, weight, weight_low, factor, factor_low, True, loss, loss_low, sums
                )
            elif width > lanes(tile):
                label_tile(
                    tile, grad, n, 2, label, weight, weight_low, factor, factor_low, False, loss, loss_low, sums
                )
            elif keep:
                label_tile(
                    tile, grad, n, 1, label, weight, weight_low, factor, factor_low, True, loss, loss_low, sums
                )
            else:
                label_tile(
                    tile, grad, n, 1, label, weight, weight_low, factor, factor_low, False, loss, loss_low, sums
                )
            # A loss that is infinite here may be the difference of two logits that a float64 holds.
            for k in range(width // lanes(tile)):
                sums[k] = sums[k] + (loss[k] + loss_low[k])
                sums[k] = sums[k] - sums[k]
            if not (all_equal(sums[0], fill(tile, 0)) and all_equal(sums[width // lanes(tile) - 1], fill(tile, 0))):
                for j in range(count):
                    if not skip[j] and get(sums, j) != 0:
                        skip[j] = True
                        skipped += 1
        if skipped == 0 and count == WIDEST * lanes(tile):
            add_rows(&totals, loss, loss_low)
        else:
            for j in range(count):
                if skip[j]:
                    cross_entropy_rows(batch, scratch, room, i + j, i + j + 1, total)
                else:
                    add_pair(total, pair_of(loss, loss_low, j))
        if batch.loss.kind != ABSENT:
            for j in range(count):
                if not skip[j]:
                    write_number(&batch.loss, i + j, get(loss, j) + get(loss_low, j))
        if keep and skipped < count:
            if width > lanes(tile):
                store_tile(&batch.grad, i, count, grad, 2, skip, skipped > 0, scratch)
            else:
                store_tile(&batch.grad, i, count, grad, 1, skip, skipped > 0, scratch)
        i += count
    for j in range(MAX_ROWS):
        row_scale.high, row_scale.low = totals.high[j], totals.low[j]
        add_pair(total, row_scale)


cdef double cross_entropy_block(
    const Batch* batch, vec* scratch, Room* room, Py_ssize_t first, Py_ssize_t last
) noexcept nogil:
    cdef Pair total = single(0)
    if has_tiles(batch):
        cross_entropy_tiles(batch, scratch, room, first, last, &total)
    else:
        cross_entropy_rows(batch, scratch, room, first, last, &total)
    return value(total)


cdef void cross_entropy_blocks(const Batch* batch, double* scratch, double* sums, Turn* turn) noexcept nogil:
    """Blocks of rows; sums[i] is what block i adds up to."""
    cdef Room room = room_of(batch, scratch + ROWS * (batch.logits.n + 16))
    while next_block(turn):
        if batch.logits.kind != F64:
            sums[turn.block] = cross_entropy_block(batch, <vf32*>scratch, &room, turn.first, turn.last)
        else:
            sums[turn.block] = cross_entropy_block(batch, <vf64*>scratch, &room, turn.first, turn.last)
    if batch.logits.kind != F64:
        finish(&room.traffic, 0, <vf32*>scratch)
    else:
        finish(&room.traffic, 0, <vf64*>scratch)
    if batch.grad.streams:
        xent_drain()


cdef double log_loss_rows(
    const Batch* batch, vec* scratch, Room* room, Py_ssize_t first, Py_ssize_t last
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
                add_pair(&loss, multiply(minus_log(t), points.mass[j]))
        loss = multiply(loss, single(weight))
        write_number(&batch.loss, i, value(loss))
        add_pair(&total, loss)
    return value(total)


ctypedef fused label_type:
    int64_t
    int32_t
    uint8_t


cdef inline Py_ssize_t count_labels(
    const label_type* label, Py_ssize_t n, Py_ssize_t classes, bint ignores, int64_t ignore_index
) noexcept nogil:
    """How many labels are classes; -1 if any is neither that nor to be ignored. Without a branch, so that the compiler
    does several at a time."""
    cdef Py_ssize_t i, counted = 0, ignored = 0
    cdef int64_t c
    cdef bint within, named
    for i in range(n):
        c = label[i]
        named = ignores & (c == ignore_index)
        within = (c >= 0) & (c < classes) & (not named)
        counted += within
        ignored += named
    return counted if counted + ignored == n else -1


cdef inline Py_ssize_t count_good(const Batch* batch, Py_ssize_t first, Py_ssize_t last) noexcept nogil:
    """The same for rows first <= i < last, of labels side by side in one of the usual types; else -1."""
    cdef const Operand* target = &batch.target
    cdef char* label = row_of(target, first)
    cdef Py_ssize_t size = 8 if target.kind == I64 else 4 if target.kind == I32 else 1
    if target.ndim > 1 or (target.ndim == 1 and target.strides[0] != size):
        return -1
    if target.kind == I64:
        return count_labels(<int64_t*>label, last - first, batch.logits.n, batch.ignores, batch.ignore_index)
    if target.kind == I32:
        return count_labels(<int32_t*>label, last - first, batch.logits.n, batch.ignores, batch.ignore_index)
    if target.kind == U8:
        return count_labels(<uint8_t*>label, last - first, batch.logits.n, batch.ignores, batch.ignore_index)
    return -1


cdef Py_ssize_t weight_rows(
    const Batch* batch, vec* scratch, Py_ssize_t first, Py_ssize_t last, Pair* mass
) noexcept nogil:
    """The sum of sample weight times target mass, and the first label or class that is out of range, or -1."""
    cdef Py_ssize_t i, j, n = batch.logits.n, k = batch.target.n, rows = (n + lanes(scratch) - 1) // lanes(scratch)
    cdef double weight
    cdef int64_t c
    cdef char* row
    cdef vec* t
    cdef vec* class_weight = NULL
    cdef Pair total = single(0), row_mass
    cdef Py_ssize_t counted = 0     # labels without weights: they need no sum
    cdef bint weighs = batch.class_weight.kind != ABSENT or batch.sample_weight.kind != ABSENT
    if batch.form == LABELS and not weighs:
        counted = count_good(batch, first, last)
        if counted >= 0:
            mass[0] = single(counted * batch.weight_unit)
            return -1
        counted = 0
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
            if weighs:
                add(&total, weight * class_weight_of(batch, c))
            else:
                counted += 1
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
    add(&total, counted * batch.weight_unit)
    mass[0] = total if isfinite(total.low) else single(total.high)
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
    cdef Traffic traffic = no_traffic(scratch)
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
        traffic.soon = <const char*>next_row(&batch.logits, i, x)
        row = shift_row(x, <vec*>NULL, scratch, n, peak, True, &traffic)
        loss = two_sum(peak.high, -get(x, label))
        add_pair(&loss, row.log_sum)
        entropy = multiply(distance_row(x, <vec*>NULL, scratch, n, peak, x), row.unit)
        entropy = divide(entropy, one_more(row.rest))
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
