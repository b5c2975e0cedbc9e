# Part of _kernels.pyx, since functions that are not inline cannot be in a .pxd: the formulas for tiles (see tiles.pxd).
# Rows that a tile has no answer for (NaN, infinities, several classes with mass) are left to the kernels of one row.

# Not inline, so that their loops have all registers.

cdef void shift_one(const vec* x, vec* e, Py_ssize_t n, vec* peak, vec* rest, vec* unit) noexcept nogil:
    shift_vectors(x, e, n, 1, peak, rest, unit)


cdef void shift_two(const vec* x, vec* e, Py_ssize_t n, vec* peak, vec* rest, vec* unit) noexcept nogil:
    shift_vectors(x, e, n, 2, peak, rest, unit)


cdef void exp_one(const vec* x, vec* e, Py_ssize_t n, vec* total, vec* unit) noexcept nogil:
    exp_vectors(x, e, n, 1, total, unit)


cdef void exp_two(const vec* x, vec* e, Py_ssize_t n, vec* total, vec* unit) noexcept nogil:
    exp_vectors(x, e, n, 2, total, unit)


cdef inline forced_void shift_tile(
    const vec* x, vec* e, Py_ssize_t n, Py_ssize_t n_vectors, vec* peak, vec* rest, vec* unit
) noexcept nogil:
    """m, the maximum of each row; e = exp(x - m) in units of `unit`; and r, their sum without one maximum, NaN where m
    is NaN or infinite. r and unit are pairs."""
    if n_vectors == 2:
        shift_two(x, e, n, peak, rest, unit)
    else:
        shift_one(x, e, n, peak, rest, unit)


cdef inline forced_void exp_tile(
    const vec* x, vec* e, Py_ssize_t n, Py_ssize_t n_vectors, vec* total, vec* unit
) noexcept nogil:
    """The same, but the sum of all terms in place of r, in units of `unit` too."""
    if n_vectors == 2:
        exp_two(x, e, n, total, unit)
    else:
        exp_one(x, e, n, total, unit)


cdef inline vec round_up_lanes(const vec* pair) noexcept nogil:
    """A pair > 0 rounded up, or one more where that is not certain."""
    cdef vec high = pair[HIGH] + pair[LOW], low = (pair[HIGH] - (pair[HIGH] + pair[LOW])) + pair[LOW]
    cdef vec zero = fill(pair, 0), ulp = high * fill(pair, 1.5 * 2.0 ** -24 if vec is vf32 else 1.5 * 2.0 ** -53)
    cdef vec bound = zero - high * fill(pair, 2.0 ** -28 if vec is vf32 else 2.0 ** -57)
    return high + where_less(low, bound, zero, ulp)


cdef inline forced_void softmax_tile(
    const vec* x, vec* out, Py_ssize_t n, Py_ssize_t n_vectors, vec* sums, vec* limits
) noexcept nogil:
    """out within its limits is the result. The sums are NaN where there are no probabilities."""
    cdef Py_ssize_t h
    cdef vec total[2 * MAX_TILE_VECTORS]
    cdef vec unit[2 * MAX_TILE_VECTORS]
    cdef vec all[2]
    cdef vec inverse[2]
    exp_tile(x, out, n, n_vectors, total, unit)
    for h in range(n_vectors):      # as in `scale_to_probabilities`
        sums[h] = total[2 * h + HIGH]
        invert(total + 2 * h, inverse)
        limits[LIMIT_VECTORS * h + FACTOR] = round_up_lanes(inverse)
        multiply_pairs(total + 2 * h, unit + 2 * h, all)
        invert(all, inverse)
        limits[LIMIT_VECTORS * h + MOST] = inverse[HIGH] + inverse[LOW]


cdef inline forced_void log_softmax_tile(
    const vec* x, vec* out, Py_ssize_t n, Py_ssize_t n_vectors, vec* sums
) noexcept nogil:
    """As `softmax_tile`."""
    cdef Py_ssize_t c, h
    cdef vec m[MAX_TILE_VECTORS]
    cdef vec rest[2 * MAX_TILE_VECTORS]
    cdef vec unit[2 * MAX_TILE_VECTORS]
    cdef vec total[2]
    cdef vec log_total[2]
    cdef vec log_sum
    shift_tile(x, out, n, n_vectors, m, rest, unit)
    for h in range(n_vectors):
        add_one(rest + 2 * h, total)
        sums[h] = total[HIGH]
        log_pairs(total, log_total)
        log_sum = log_total[HIGH] + log_total[LOW]
        for c in range(n):
            out[c * n_vectors + h] = log_probability(x[c * n_vectors + h], m[h], log_sum)


cdef inline forced_void logsumexp_tile(
    const vec* x, vec* e, vec* out, Py_ssize_t n, Py_ssize_t n_vectors, vec* sums
) noexcept nogil:
    cdef Py_ssize_t h
    cdef vec m[MAX_TILE_VECTORS]
    cdef vec rest[2 * MAX_TILE_VECTORS]
    cdef vec unit[2 * MAX_TILE_VECTORS]
    cdef vec total[2]
    cdef vec log_sum[2]
    shift_tile(x, e, n, n_vectors, m, rest, unit)
    for h in range(n_vectors):
        add_one(rest + 2 * h, total)
        sums[h] = total[HIGH]
        log_pairs(total, log_sum)
        accumulate(log_sum[HIGH], &m[h], &log_sum[LOW])
        out[h] = m[h] + log_sum[LOW]


cdef inline forced_void label_terms(const vec* logit, const vec* peak, const vec* unit, vec* own) noexcept nogil:
    """exp(x - m) of the labels, computed as that of the other classes."""
    cdef vec shift[SHIFT_VECTORS]
    cdef vec scale, p
    cdef vec unused[2]
    shift_lanes(peak[0], shift, unused)
    exp_parts(logit, <vec*>NULL, True, shift, &scale, &p, 1)
    own[0] = multiply_add(scale, p, scale) * unit[HIGH]


cdef struct TileResults:        # of the rows of a tile, as vectors
    double* loss                # pairs
    double* at_label            # the gradient of the label
    double* limits              # what makes gradients of terms
    bint has_hess


cdef void hessian_lanes(
    vec* x, const vec* e, Py_ssize_t n, Py_ssize_t n_vectors, vec peak, vec at_peak, vec factor, vec minus_slope
) noexcept nogil:
    """The logits of a vector of rows become their Hessian; that of a maximum (there may be several in a row) is
    `at_peak`."""
    cdef Py_ssize_t c
    for c in range(n):
        x[c * n_vectors] = where_equal(
            x[c * n_vectors], peak, at_peak, curved(e[c * n_vectors], factor, minus_slope)
        )


cdef inline forced_void loss_tile(
    vec* x, vec* e, Py_ssize_t n, Py_ssize_t n_vectors, const vec* logit, const vec* weight, const vec* scale,
    TileResults results
) noexcept nogil:
    """The losses of rows with all their mass on their label, whose logits are `logit`, times `weight`. With `scale` (it
    may be NULL) e within `limits` are their gradients times `scale`, except for the label's, which are `at_label`;
    without, e is scratch. With `results.has_hess` too, x becomes the Hessian times `scale`. `loss`, `weight` and `scale`
    are pairs; a loss without probabilities is NaN."""
    cdef Py_ssize_t h
    cdef vec* loss = <vec*>results.loss
    cdef vec* at_label = <vec*>results.at_label
    cdef vec* limits = <vec*>results.limits
    cdef vec zero = fill(x, 0), one = fill(x, 1)
    cdef vec m[MAX_TILE_VECTORS]
    cdef vec others[2 * MAX_TILE_VECTORS]
    cdef vec unit[2 * MAX_TILE_VECTORS]
    cdef vec total[2 * MAX_TILE_VECTORS]
    cdef vec row_loss[2]
    cdef vec log_sum[2]
    cdef vec factor[2]
    cdef vec product[2]
    cdef vec inverse[2]
    cdef vec missed[2]
    cdef vec d, back, own
    shift_tile(x, e, n, n_vectors, m, others, unit)
    for h in range(n_vectors):
        add_one(others + 2 * h, total + 2 * h)
        log_pairs(total + 2 * h, log_sum)
        d = m[h] - logit[h]
        back = d + logit[h]
        row_loss[HIGH] = d
        row_loss[LOW] = finite_or_zero((m[h] - back) - ((d - back) + logit[h])) + log_sum[LOW]
        accumulate(log_sum[HIGH], &row_loss[HIGH], &row_loss[LOW])
        row_loss[LOW] = finite_or_zero(row_loss[LOW])
        multiply_pairs(row_loss, weight + 2 * h, loss + 2 * h)
    if scale is NULL:
        return

    for h in range(n_vectors):
        invert(total + 2 * h, inverse)
        if results.has_hess:
            multiply_pairs(others + 2 * h, inverse, missed)
        # The sum without the label: r where that is a maximum, else r + (1 - its own).
        label_terms(logit + h, m + h, unit + 2 * h, &own)
        d = one - own
        back = (one - d) - own
        others[2 * h + LOW] = others[2 * h + LOW] + where_equal(logit[h], m[h], zero, back)
        accumulate(where_equal(logit[h], m[h], zero, d), &others[2 * h + HIGH], &others[2 * h + LOW])
        multiply_pairs(inverse, scale + 2 * h, factor)
        multiply_pairs(others + 2 * h, factor, product)
        at_label[h] = zero - (product[HIGH] + product[LOW])
        multiply_pairs(factor, unit + 2 * h, product)
        limits[LIMIT_VECTORS * h + FACTOR] = product[HIGH] + product[LOW]
        if results.has_hess:    # as `hessian_of`
            multiply_pairs(missed, factor, product)
            own = product[HIGH] + product[LOW]
            factor[HIGH] = limits[LIMIT_VECTORS * h + FACTOR]
            factor[LOW] = zero
            multiply_pairs(inverse, unit + 2 * h, product)
            multiply_pairs(product, factor, missed)
            d = zero - (missed[HIGH] + missed[LOW])
            hessian_lanes(x + h, e + h, n, n_vectors, m[h], own, factor[HIGH], d)


cdef inline forced_void set_limits(vec* limits) noexcept nogil:
    """None: a factor of 1, and no bound."""
    cdef Py_ssize_t h
    for h in range(MAX_TILE_VECTORS):
        limits[LIMIT_VECTORS * h + FACTOR] = fill(limits, 1)
        limits[LIMIT_VECTORS * h + MOST] = fill(limits, INFINITY)


# --- tiles of a batch: rows first <= i < last ------------------------------------------------------------------------


cdef inline Py_ssize_t vectors_of(Py_ssize_t count, const vec* tile) noexcept nogil:
    return 2 if count > lanes(tile) else 1


cdef inline bint are_one_after_another(const Operand* operand, Py_ssize_t i, Py_ssize_t count) noexcept nogil:
    """Whether rows i to i + count, contiguous each, are contiguous together."""
    cdef int last = operand.ndim - 1
    return count == 1 or (
        last >= 0 and operand.strides[last] == operand.n * operand.step
        and i % operand.shape[last] + count <= operand.shape[last]
    )


cdef inline Operand rows_at(vec* rows, const Operand* like, Py_ssize_t count) noexcept nogil:
    """Contiguous rows of the length and type of `like`."""
    cdef Operand operand
    operand.data, operand.kind, operand.streams = <char*>rows, like.kind, False
    operand.n = operand.run = like.n
    operand.step = like.step
    operand.ndim, operand.row_ndim = 1, 0
    operand.shape[0], operand.strides[0] = count, like.n * like.step
    return operand


cdef void mask_tile(
    const Operand* where, Py_ssize_t i, Py_ssize_t count, vec* tile, Py_ssize_t n_vectors, char* bytes
) noexcept nogil:
    """-inf where rows i to i + count are masked. `bytes` is scratch: one for each element of the tile, and a row."""
    cdef Py_ssize_t width = n_vectors * lanes(tile), apart = n_vectors * lanes(tile), j, c, h
    cdef const char* mask
    cdef const char* first = bytes
    cdef vec* x
    if where.ndim == 0 or (where.ndim == 1 and where.strides[0] == 0):      # the same for all rows
        for c in range(where.n):
            if not place_of(where, 0, c)[0]:
                for h in range(n_vectors):
                    tile[c * n_vectors + h] = fill(tile, -INFINITY)
        return
    if count == width and are_adjacent(where, i, count, 1):
        first, apart = row_of(where, i), where.step
    else:
        memset(bytes, 1, where.n * width)
        for j in range(count):
            mask = gather_mask(where, i + j, 0, where.n, bytes + where.n * width)
            for c in range(where.n):
                bytes[c * width + j] = mask[c]
    for c in range(where.n):
        for h in range(n_vectors):
            x = &tile[c * n_vectors + h]
            x[0] = where_true(first + c * apart + h * lanes(tile), x[0], -INFINITY)


cdef void mask_and_load_tile(
    const Operand* x, const Operand* where, Py_ssize_t i, Py_ssize_t count, vec* tile, Py_ssize_t n_vectors,
    vec* scratch, vec* row_buffer
) noexcept nogil:
    """`load_masked_tile` where there is a mask; apart, so that calls without one have all registers."""
    cdef Operand masked
    if (
        is_plain(x, tile) and are_one_after_another(x, i, count)
        and is_contiguous_mask(where) and are_one_after_another(where, i, count)
    ):
        mask_row(<vec*>row_of(x, i), row_of(where, i), scratch, count * x.n, -INFINITY)
        masked = rows_at(scratch, x, count)
        load_tile(&masked, 0, count, tile, n_vectors, row_buffer)
    else:
        load_tile(x, i, count, tile, n_vectors, row_buffer)
        mask_tile(where, i, count, tile, n_vectors, <char*>scratch)


cdef inline void load_masked_tile(
    const Operand* x, const Operand* where, Py_ssize_t i, Py_ssize_t count, vec* tile, Py_ssize_t n_vectors,
    vec* scratch, vec* row_buffer
) noexcept nogil:
    """`load_tile` of logits, -inf where they are masked. `scratch` is as long as the tile."""
    if where.kind == ABSENT:
        load_tile(x, i, count, tile, n_vectors, row_buffer)
    else:
        mask_and_load_tile(x, where, i, count, tile, n_vectors, scratch, row_buffer)


cdef inline bint are_numbers(const vec* x, Py_ssize_t count) noexcept nogil:
    """Whether none of the first `count` lanes of a tile's vectors is NaN. The lanes of rows that a tile does not have may
    be anything but that."""
    cdef Py_ssize_t h
    for h in range(vectors_of(count, x)):
        if not all_equal(x[h], x[h]):
            return False
    return True


cdef inline void write_numbers(const Operand* out, Py_ssize_t i, Py_ssize_t count, const vec* x) noexcept nogil:
    """Lane j to place i + j, along one axis and of the kernel's type."""
    cdef Py_ssize_t j
    cdef char* first = row_of(out, i)
    for j in range(count):
        copy_element(<vec*>(first + j * out.strides[0]), 0, x, j)


cdef void logsumexp_tiles(
    const LogsumexpTask* task, const PrimitiveScratch* scratch, Py_ssize_t first, Py_ssize_t last, vec* like
) noexcept nogil:
    cdef Py_ssize_t i, j, count, n_vectors, n = task.x.n
    cdef vec sums[MAX_TILE_VECTORS]
    cdef vec result[MAX_TILE_VECTORS]
    cdef vec* tile = <vec*>scratch.tile
    i = first
    while i < last:
        count = min(last - i, MAX_TILE_VECTORS * lanes(like))
        n_vectors = vectors_of(count, like)
        load_masked_tile(
            &task.x, &task.where, i, count, tile, n_vectors, <vec*>scratch.tile_result, <vec*>scratch.x[0]
        )
        logsumexp_tile(tile, <vec*>scratch.tile_result, result, n, n_vectors, sums)
        if are_numbers(sums, count) and is_native(&task.out, like) and task.out.ndim == 1:
            write_numbers(&task.out, i, count, result)
            i += count
            continue
        for j in range(count):
            if isnan(get(sums, j)):
                logsumexp_rows(task, scratch, i + j, i + j + 1, like)
            else:
                write_number(&task.out, i + j, get(result, j))
        i += count


cdef void softmax_tiles(
    const SoftmaxTask* task, const PrimitiveScratch* scratch, Py_ssize_t first, Py_ssize_t last, vec* like
) noexcept nogil:
    cdef Py_ssize_t i, j, count, n_vectors, skipped, n = task.x.n
    cdef bint skip[MAX_TILE_ROWS]
    cdef vec sums[MAX_TILE_VECTORS]
    cdef vec limits[LIMIT_VECTORS * MAX_TILE_VECTORS]
    cdef vec* tile = <vec*>scratch.tile
    cdef vec* result = <vec*>scratch.tile_result
    set_limits(limits)
    i = first
    while i < last:
        count = min(last - i, MAX_TILE_VECTORS * lanes(like))
        n_vectors = vectors_of(count, like)
        load_masked_tile(&task.x, &task.where, i, count, tile, n_vectors, result, <vec*>scratch.x[0])
        # Four calls, so that what is constant in each costs nothing in its loops.
        if task.logarithm and n_vectors == 2:
            log_softmax_tile(tile, result, n, 2, sums)
        elif task.logarithm:
            log_softmax_tile(tile, result, n, 1, sums)
        elif n_vectors == 2:
            softmax_tile(tile, result, n, 2, sums, limits)
        else:
            softmax_tile(tile, result, n, 1, sums, limits)
        skipped = 0
        if not are_numbers(sums, count):
            for j in range(count):
                skip[j] = isnan(get(sums, j))
                skipped += skip[j]
                if skip[j]:
                    softmax_rows(task, scratch, i + j, i + j + 1, like)
        store_tile(&task.out, i, count, skip if skipped else NULL, result, limits, <vec*>scratch.result[0])
        i += count


cdef struct TileTargets:        # of the rows of a tile
    int64_t label[MAX_TILE_ROWS]
    bint skip[MAX_TILE_ROWS]    # rows that are left to `cross_entropy_rows`
    Py_ssize_t skipped
    LanePairs weight            # sample weight times target mass
    LanePairs scale             # of the gradient


cdef inline bint has_plain_labels(const Batch* batch) noexcept nogil:
    """Whether targets are labels along one axis, without weights."""
    return (
        batch.form == LABELS and batch.target.ndim <= 1 and batch.sample_weight.kind == ABSENT
        and batch.class_weight.kind == ABSENT
    )


cdef inline void read_plain_labels(
    const Batch* batch, Py_ssize_t i, Py_ssize_t count, TileTargets* targets
) noexcept nogil:
    """The labels of rows i to i + count; weights and scales stay as they are."""
    cdef const Operand* target = &batch.target
    cdef const char* row = row_of(target, i)
    cdef Py_ssize_t step = target.strides[0] if target.ndim == 1 else 0, n = batch.logits.n, j, skipped = 0
    cdef int64_t* label = targets.label
    cdef bint* skip = targets.skip
    if targets.skipped:
        memset(skip, 0, sizeof(targets.skip))
        targets.skipped = 0
    # The usual type in a loop of its own; and nothing more to do where all are classes.
    if target.kind == I64 and step == sizeof(int64_t):
        memcpy(label, row, count * sizeof(int64_t))
        if not 0 <= batch.ignore_index < n and xent_are_classes(label, count, n):
            return
    elif target.kind == I64:
        for j in range(count):
            label[j] = (<const int64_t*>(row + j * step))[0]
    else:
        for j in range(count):
            label[j] = read_integer(row + j * step, target.kind)
    for j in range(count):
        skip[j] = (label[j] < 0) | (label[j] >= n) | (batch.ignores & (label[j] == batch.ignore_index))
        label[j] = 0 if skip[j] else label[j]
        skipped += skip[j]
    targets.skipped = skipped


cdef inline bint find_label(
    const Batch* batch, Py_ssize_t i, const LossScratch* scratch, int64_t* label, Pair* mass, vec* like
) noexcept nogil:
    """Whether all the mass of row i is on one class: on which, and how much under its class weight."""
    cdef Points points
    cdef int64_t c
    cdef vec* t
    if batch.form == LABELS:
        c = read_integer(row_of(&batch.target, i), batch.target.kind)
        if not is_class(batch, c):
            return False
        mass[0] = single(class_weight_of(batch, c))
    elif batch.form == SPARSE:
        points = read_points(batch, i, scratch, 0)
        if points.count != 1:
            return False
        c = points.index[0]
        mass[0] = points.mass[0]
    else:
        t = gather(&batch.target, i, 0, batch.logits.n, <vec*>scratch.rows)
        c = find_only_class(t, batch.logits.n, 0, NO_CLASS)
        if c < 0:
            return False
        mass[0] = multiply(single(get(t, c)), single(class_weight_of(batch, c)))
    label[0] = c
    return True


cdef inline bint fits_scale(const vec* like, double scale) noexcept nogil:
    """Whether a tile can compute gradients and Hessians times this: the factors of its terms must be in range, too."""
    cdef double unit = 1.0 / (1LL << EXPONENT_HEADROOM)
    return is_moderate(like, scale) and fits_curve(like, scale * unit, scale * unit * unit)


cdef inline void read_weighted_labels(
    const Batch* batch, Py_ssize_t i, Py_ssize_t count, const LossScratch* scratch, Pair scale, TileTargets* targets,
    vec* like
) noexcept nogil:
    """Labels, weights and scales of rows i to i + count."""
    cdef Py_ssize_t j
    cdef double sample_weight
    cdef Pair mass, weight, row_scale
    targets.skipped = 0
    for j in range(count):
        targets.label[j] = 0
        sample_weight = weight_of(&batch.sample_weight, i + j)
        mass = single(1)
        targets.skip[j] = (
            not find_label(batch, i + j, scratch, &targets.label[j], &mass, like) or not is_usual_weight(sample_weight)
        )
        weight = multiply(single(sample_weight), mass)
        row_scale = multiply(weight, scale)
        set_lane(&targets.weight, j, weight)
        set_lane(&targets.scale, j, row_scale)
        if not (is_moderate(like, weight.high) and fits_scale(like, row_scale.high)):
            targets.skip[j] = True
        targets.skipped += targets.skip[j]


cdef inline void skip_infinite(const vec* loss, Py_ssize_t count, TileTargets* targets) noexcept nogil:
    """Skip rows whose loss is NaN, or infinite: it may be the difference of two logits that a float64 holds."""
    cdef Py_ssize_t j, h, n_vectors = vectors_of(count, loss)
    cdef bint is_finite = True
    cdef vec odd[MAX_TILE_VECTORS]
    for h in range(n_vectors):
        odd[h] = loss[2 * h + HIGH] + loss[2 * h + LOW]
        odd[h] = odd[h] - odd[h]
        is_finite = is_finite and all_equal(odd[h], fill(loss, 0))
    if is_finite:
        return
    for j in range(count):
        if not targets.skip[j] and get(odd, j) != 0:
            targets.skip[j] = True
            targets.skipped += 1


cdef inline void compute_loss_tile(
    const Batch* batch, Py_ssize_t count, const LossScratch* scratch, TileTargets* targets, const vec* weight,
    const vec* scale, TileResults results
) noexcept nogil:
    cdef bint wants_grad = batch.grad.kind != ABSENT, wants_hess = batch.hess.kind != ABSENT
    cdef Py_ssize_t n = batch.logits.n, n_vectors = vectors_of(count, weight), width = n_vectors * lanes(weight), j
    cdef vec logit[MAX_TILE_VECTORS]
    cdef vec* x = <vec*>scratch.tile
    cdef vec* e = <vec*>scratch.tile_grad
    for j in range(count, width):
        targets.label[j] = 0
    for j in range(width):
        copy_element(logit, j, x, targets.label[j] * width + j)
    # A call for each kind, so that what is constant in it costs nothing in its loops.
    results.has_hess = False
    if wants_hess:
        results.has_hess = True
        if n_vectors == 2:
            loss_tile(x, e, n, 2, logit, weight, scale, results)
        else:
            loss_tile(x, e, n, 1, logit, weight, scale, results)
    elif n_vectors == 2 and wants_grad:
        loss_tile(x, e, n, 2, logit, weight, scale, results)
    elif n_vectors == 2:
        loss_tile(x, e, n, 2, logit, weight, <vec*>NULL, results)
    elif wants_grad:
        loss_tile(x, e, n, 1, logit, weight, scale, results)
    else:
        loss_tile(x, e, n, 1, logit, weight, <vec*>NULL, results)
    skip_infinite(<vec*>results.loss, count, targets)


cdef inline void store_gradient_tile(
    const Batch* batch, Py_ssize_t i, Py_ssize_t count, const LossScratch* scratch, const TileTargets* targets,
    const vec* limits, const vec* at_label
) noexcept nogil:
    cdef const Operand* grad = &batch.grad
    cdef Py_ssize_t j
    store_tile(
        grad, i, count, targets.skip if targets.skipped else NULL, <vec*>scratch.tile_grad, limits,
        <vec*>scratch.rows
    )
    if is_plain(grad, at_label):
        for j in range(count):
            if not targets.skip[j]:
                copy_element(<vec*>row_of(grad, i + j), targets.label[j], at_label, j)
    else:
        for j in range(count):
            if not targets.skip[j]:
                write_float(place_of(grad, i + j, targets.label[j]), grad.kind, get(at_label, j))


cdef void store_hessian_tile(
    const Batch* batch, Py_ssize_t i, Py_ssize_t count, const LossScratch* scratch, const TileTargets* targets,
    const vec* like
) noexcept nogil:
    cdef vec limits[LIMIT_VECTORS * MAX_TILE_VECTORS]
    set_limits(limits)
    store_tile(
        &batch.hess, i, count, targets.skip if targets.skipped else NULL, <vec*>scratch.tile, limits,
        <vec*>scratch.rows
    )


cdef inline void write_tile_losses(
    const Operand* out, Py_ssize_t i, Py_ssize_t count, const vec* loss, const TileTargets* targets
) noexcept nogil:
    cdef Py_ssize_t j
    if out.kind != ABSENT:
        for j in range(count):
            if not targets.skip[j]:
                write_number(out, i + j, value(read_lane(loss, j)))


cdef void add_tile_losses(
    const Batch* batch, LossScratch* scratch, Py_ssize_t i, Py_ssize_t count, const vec* loss,
    const TileTargets* targets, Pair* total
) noexcept nogil:
    """Add up the losses of a tile, and those of the rows that it skipped, which are computed now."""
    cdef Py_ssize_t j = 0, run
    cdef vec* like = <vec*>scratch.tile
    while j < count:
        run = j
        while run < count and targets.skip[run]:
            run += 1
        if run == j:
            add_pair(total, read_lane(loss, j))
            run += 1
        elif has_distribution_tiles(batch):
            distribution_tiles(batch, scratch, i + j, i + run, total, like)
        else:
            cross_entropy_rows(batch, scratch, i + j, i + run, total, like)
        j = run


cdef void cross_entropy_tiles(
    const Batch* batch, LossScratch* scratch, Py_ssize_t first, Py_ssize_t last, Pair* total, vec* like
) noexcept nogil:
    """Add up the losses; write each loss, gradient and Hessian where they are wanted. The batch
    `has_plain_formula`."""
    cdef Py_ssize_t i, count
    cdef bint wants_grad = batch.grad.kind != ABSENT, wants_hess = batch.hess.kind != ABSENT, has_labels
    cdef Pair one = single(1), grad_scale = divide(single(1), single(batch.divisor))
    cdef TileTargets targets
    cdef TileTotals totals
    cdef vec weight[2 * MAX_TILE_VECTORS]
    cdef vec scale[2 * MAX_TILE_VECTORS]
    cdef vec loss[2 * MAX_TILE_VECTORS]
    cdef vec at_label[MAX_TILE_VECTORS]
    cdef vec limits[LIMIT_VECTORS * MAX_TILE_VECTORS]
    cdef TileResults results
    cdef vec* row_buffer = <vec*>scratch.rows
    results.loss, results.at_label, results.limits = <double*>loss, <double*>at_label, <double*>limits
    set_limits(limits)
    clear_lanes(&totals)
    targets.skipped = MAX_TILE_ROWS         # nothing is known of them
    fill_lanes(&targets.weight, one)
    fill_lanes(&targets.scale, grad_scale)
    write_lanes(&targets.weight, weight)
    write_lanes(&targets.scale, scale)
    has_labels = has_plain_labels(batch) and fits_scale(like, grad_scale.high)
    i = first
    while i < last:
        count = min(last - i, MAX_TILE_VECTORS * lanes(like))
        if has_labels:
            read_plain_labels(batch, i, count, &targets)
        else:
            read_weighted_labels(batch, i, count, scratch, grad_scale, &targets, like)
            write_lanes(&targets.weight, weight)
            write_lanes(&targets.scale, scale)
        if targets.skipped < count:
            load_masked_tile(
                &batch.logits, &batch.where, i, count, <vec*>scratch.tile, vectors_of(count, like),
                <vec*>scratch.tile_grad, row_buffer
            )
            compute_loss_tile(batch, count, scratch, &targets, weight, scale, results)
            write_tile_losses(&batch.loss, i, count, loss, &targets)
            if wants_hess:
                store_hessian_tile(batch, i, count, scratch, &targets, like)
            if wants_grad:
                store_gradient_tile(batch, i, count, scratch, &targets, limits, at_label)
        if targets.skipped == 0 and count == MAX_TILE_VECTORS * lanes(like):
            add_lanes(&totals, loss)
        else:       # after the tile is stored: other rows may need its place
            add_tile_losses(batch, scratch, i, count, loss, &targets, total)
        i += count
    add_pair(total, sum_lanes(&totals))
