# Part of _kernels.pyx: losses of few classes whose target has mass on several of them, a distribution or a smoothed
# label, with rows side by side (see tiles.pxd). Rows that a tile has no answer for are left to `cross_entropy_rows`.


cdef bint has_distribution_tiles(const Batch* batch) noexcept nogil:
    """Whether `distribution_tiles` computes rows with mass on several classes."""
    return (
        (batch.form != LABELS or smooths(batch)) and batch.where.kind == ABSENT and has_smoothed_formula(batch)
        and fits_tile(batch.logits.n, batch.logits.kind, LOSS_TILE)
    )


cdef inline vec smooth_mass(vec t, vec share, vec base, double class_weight) noexcept nogil:
    """share t + base, times the class weight, which is in t already. The same for every form of a target."""
    return multiply_add(t, share, base * fill(&t, class_weight))


cdef void load_target_tile(
    const Batch* batch, Py_ssize_t i, Py_ssize_t count, const LossScratch* scratch, TileTargets* targets,
    const vec* like
) noexcept nogil:
    """The target masses of rows i to i + count. Rows without a target (ignored ones) are skipped."""
    cdef Py_ssize_t n_vectors = vectors_of(count, like), c, h, j, k
    cdef vec share = fill(like, 1 - batch.smoothing), base = fill(like, batch.smoothing / <double>batch.logits.n), mass
    cdef vec* t = <vec*>scratch.tile_target
    cdef Points points
    if batch.form == DISTRIBUTION:
        load_tile(&batch.target, i, count, t, n_vectors, <vec*>scratch.rows)
    for c in range(batch.logits.n):
        for h in range(n_vectors):
            mass = fill(like, 0)
            if batch.form == DISTRIBUTION:
                mass = t[c * n_vectors + h] * fill(like, class_weight_of(batch, c))
            t[c * n_vectors + h] = smooth_mass(mass, share, base, class_weight_of(batch, c))
    for j in range(count if batch.form != DISTRIBUTION else 0):
        points = read_points(batch, i + j, scratch, 0)
        targets.skip[j] = targets.skip[j] or points.count < 0
        for k in range(points.count):
            c = points.index[k]
            mass = smooth_mass(fill(like, value(points.mass[k])), share, base, class_weight_of(batch, c))
            copy_element(t, c * n_vectors * lanes(like) + j, &mass, 0)


cdef inline vec unless_extreme(vec loss, vec scale) noexcept nogil:
    """The loss; NaN if the factors of its gradient and Hessian may be out of range, as for `fits_scale`."""
    cdef vec least = fill(&loss, 1e-17 if vec is vf32 else 1e-230), most = fill(&loss, 1e30 if vec is vf32 else 1e230)
    cdef vec zero = fill(&loss, 0), none = fill(&loss, NAN)
    return where_less(
        absolute(scale), least, where_equal(scale, zero, loss, none), where_less(absolute(scale), most, loss, none)
    )


cdef inline forced_void distribution_tile(
    const LossScratch* scratch, Py_ssize_t n, Py_ssize_t n_vectors, const vec* weight, const vec* scale,
    bint wants_grad, bint wants_hess, vec* loss
) noexcept nogil:
    """The losses of rows times `weight`; in the place of the terms their gradients times `scale`, and in that of the
    logits their Hessians. `weight`, `scale` and `loss` are pairs; a loss without probabilities is NaN."""
    cdef Py_ssize_t c, h
    cdef vec* x = <vec*>scratch.tile
    cdef vec* e = <vec*>scratch.tile_grad
    cdef const vec* t = <const vec*>scratch.tile_target
    cdef vec one = fill(loss, 1), y
    cdef vec peak[MAX_TILE_VECTORS]
    cdef vec rest[2 * MAX_TILE_VECTORS]
    cdef vec unit[2 * MAX_TILE_VECTORS]
    cdef vec mass[2]
    cdef vec distance[2]
    cdef vec total[2]
    cdef vec log_sum[2]
    cdef vec inverse[2]
    cdef vec product[2]
    cdef vec share, factor, at_peak
    shift_tile(x, e, n, n_vectors, peak, rest, unit)
    for h in range(n_vectors):
        mass[HIGH] = mass[LOW] = distance[HIGH] = distance[LOW] = fill(loss, 0)
        for c in range(n):
            y = t[c * n_vectors + h]
            accumulate(y, &mass[HIGH], &mass[LOW])
            add_distance(x[c * n_vectors + h], y, peak[h], distance)
        add_one(rest + 2 * h, total)
        log_pairs(total, log_sum)
        invert(total, inverse)
        multiply_pairs(log_sum, mass, product)
        accumulate(distance[HIGH], &product[HIGH], &product[LOW])
        product[LOW] = product[LOW] + distance[LOW]
        multiply_pairs(product, weight + 2 * h, loss + 2 * h)
        if not wants_grad:
            continue
        multiply_pairs(unit + 2 * h, inverse, product)
        share = product[HIGH] + product[LOW]
        multiply_pairs(mass, scale + 2 * h, total)
        loss[2 * h + HIGH] = unless_extreme(loss[2 * h + HIGH], total[HIGH])
        multiply_pairs(product, total, distance)
        factor = distance[HIGH] + distance[LOW]
        if wants_hess:
            # p (1 - p) of a maximum, where 1 - p may cancel: r / (1 + r)^2
            multiply_pairs(rest + 2 * h, inverse, product)
            multiply_pairs(product, inverse, distance)
            multiply_pairs(distance, total, product)
            at_peak = product[HIGH] + product[LOW]
            for c in range(n):
                y = e[c * n_vectors + h]
                y = y * factor * (one - y * share)
                x[c * n_vectors + h] = where_equal(x[c * n_vectors + h], peak[h], at_peak, y)
        y = scale[2 * h]
        for c in range(n):
            e[c * n_vectors + h] = e[c * n_vectors + h] * factor - t[c * n_vectors + h] * y


cdef void distribution_one(
    const LossScratch* scratch, Py_ssize_t n, const vec* weight, const vec* scale, bint wants_grad, bint wants_hess,
    vec* loss
) noexcept nogil:
    distribution_tile(scratch, n, 1, weight, scale, wants_grad, wants_hess, loss)


cdef void distribution_two(
    const LossScratch* scratch, Py_ssize_t n, const vec* weight, const vec* scale, bint wants_grad, bint wants_hess,
    vec* loss
) noexcept nogil:
    distribution_tile(scratch, n, 2, weight, scale, wants_grad, wants_hess, loss)


cdef void weigh_distributions(
    const Batch* batch, Py_ssize_t i, Py_ssize_t count, TileTargets* targets, const vec* like
) noexcept nogil:
    """Weights and scales of rows i to i + count; rows in which these are extreme are skipped."""
    cdef Pair scale = divide(single(1), single(batch.divisor)), weight, row_scale
    cdef Py_ssize_t j
    for j in range(count):
        weight = single(weight_of(&batch.sample_weight, i + j))
        row_scale = multiply(weight, scale)
        set_lane(&targets.weight, j, weight)
        set_lane(&targets.scale, j, row_scale)
        targets.skip[j] = not (
            is_usual_weight(weight.high) and is_moderate(like, weight.high) and fits_scale(like, row_scale.high)
        )


cdef void distribution_tiles(
    const Batch* batch, LossScratch* scratch, Py_ssize_t first, Py_ssize_t last, Pair* total, vec* like
) noexcept nogil:
    """Add up the losses; write each loss, gradient and Hessian where they are wanted."""
    cdef Py_ssize_t i = first, j, count, n = batch.logits.n
    cdef bint wants_grad = batch.grad.kind != ABSENT, wants_hess = batch.hess.kind != ABSENT
    cdef Pair row
    cdef TileTargets targets
    cdef vec weight[2 * MAX_TILE_VECTORS]
    cdef vec scale[2 * MAX_TILE_VECTORS]
    cdef vec loss[2 * MAX_TILE_VECTORS]
    cdef vec limits[LIMIT_VECTORS * MAX_TILE_VECTORS]
    fill_lanes(&targets.weight, single(0))
    fill_lanes(&targets.scale, single(0))
    set_limits(limits)
    while i < last:
        count = min(last - i, MAX_TILE_VECTORS * lanes(like))
        weigh_distributions(batch, i, count, &targets, like)
        write_lanes(&targets.weight, weight)
        write_lanes(&targets.scale, scale)
        load_tile(&batch.logits, i, count, <vec*>scratch.tile, vectors_of(count, like), <vec*>scratch.rows)
        load_target_tile(batch, i, count, scratch, &targets, like)
        if vectors_of(count, like) == 2:
            distribution_two(scratch, n, weight, scale, wants_grad, wants_hess, loss)
        else:
            distribution_one(scratch, n, weight, scale, wants_grad, wants_hess, loss)
        targets.skipped = 0
        for j in range(count):
            targets.skipped += targets.skip[j]
        skip_infinite(loss, count, &targets)
        if wants_grad:
            store_tile(
                &batch.grad, i, count, targets.skip if targets.skipped else NULL, <vec*>scratch.tile_grad, limits,
                <vec*>scratch.rows
            )
        if wants_hess:
            store_tile(
                &batch.hess, i, count, targets.skip if targets.skipped else NULL, <vec*>scratch.tile, limits,
                <vec*>scratch.rows
            )
        for j in range(count):
            if targets.skip[j]:
                cross_entropy_rows(batch, scratch, i + j, i + j + 1, total, like)
            else:
                row = read_lane(loss, j)
                write_number(&batch.loss, i + j, value(row))
                add_pair(total, row)
        i += count
