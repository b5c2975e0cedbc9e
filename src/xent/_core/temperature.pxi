# Part of _kernels.pyx: what an inverse temperature b does to the loss of labels.
#
# With y_c = b (x_c - m) and p = softmax(y), the loss of a row is log(sum of exp(y_c)) - y_label. With respect to log b
# its slope is own - mean, with own = -y_label and mean = -sum(p_c y_c), and the slope of the mean is
# mean - variance, with variance = sum(p_c y_c^2) - mean^2. All terms of both sums are >= 0. Computed in float64, whatever
# the logits are: the temperature has to be exact to 1e-8.

cdef enum:                      # sums of a block over its rows, times their weights; pairs
    OWN = 0
    MEAN = 1
    VARIANCE = 2
    TEMPERATURE_SUMS = 3


cdef struct TemperatureScratch:
    double* y                   # of a piece; or of a tile, one row per lane
    double* term                # exp(y)
    double* narrow              # a tile of float32
    char* mask


cdef inline Py_ssize_t lay_out_temperature(
    const Batch* batch, double* start, TemperatureScratch* scratch
) noexcept nogil:
    cdef Memory memory
    cdef Py_ssize_t n = batch.logits.n, piece = row_space(min(n, PIECE_ELEMENTS))
    cdef bint has_tiles = has_temperature_tiles(batch)
    memory.start, memory.used = start, 0
    scratch.y = take(&memory, True, max(piece, tile_space(n)) if has_tiles else piece)
    scratch.term = take(&memory, True, max(piece, tile_space(n)) if has_tiles else piece)
    scratch.narrow = take(&memory, has_tiles, tile_space(n))
    scratch.mask = <char*>take(&memory, copies_mask(&batch.where), mask_space(min(n, PIECE_ELEMENTS)))
    return memory.used


cdef inline bint has_temperature_tiles(const Batch* batch) noexcept nogil:
    """Whether rows are computed side by side."""
    return fits_tile(batch.logits.n, F64, LOSS_TILE)


cdef inline double read_row_weight(const Batch* batch, Py_ssize_t i, int64_t* label) noexcept nogil:
    """The weight of a row and its label; 0 and 0 of a row that is ignored; NaN if the label is out of range."""
    cdef double weight = weight_of(&batch.sample_weight, i)
    label[0] = read_integer(row_of(&batch.target, i), batch.target.kind)
    if weight == 0 or (batch.ignores and label[0] == batch.ignore_index):
        label[0] = 0
        return 0
    if not 0 <= label[0] < batch.logits.n:      # it has changed since it was checked
        label[0] = 0
        return NAN
    return weight


# --- rows one after the other ----------------------------------------------------------------------------------------


cdef inline vf64* gather_logits(
    const Batch* batch, const TemperatureScratch* scratch, Py_ssize_t i, Py_ssize_t start, Py_ssize_t count
) noexcept nogil:
    """Logits as float64, -inf where they are masked: in place, or in scratch.y."""
    cdef vf64* y = <vf64*>scratch.y
    cdef vf64* x = gather(&batch.logits, i, start, count, y)
    if batch.where.kind == ABSENT:
        return x
    mask_row(x, gather_mask(&batch.where, i, start, count, scratch.mask), y, count, -INFINITY)
    return y


cdef void add_temperature_row(
    const Batch* batch, const TemperatureScratch* scratch, Py_ssize_t i, Pair* sums
) noexcept nogil:
    cdef Py_ssize_t n = batch.logits.n, start = 0, count
    cdef int64_t label
    cdef double weight = read_row_weight(batch, i, &label), b = batch.transform.scale, own = NAN, mean
    cdef vf64* y = <vf64*>scratch.y
    cdef Peak peak = no_peak(), zero = no_peak()
    cdef Shift shift
    cdef vf64 total[2]
    cdef vf64 moments[MOMENT_VECTORS]
    cdef Traffic traffic = no_traffic(y)
    cdef Pair sum
    if weight == 0:
        return
    while start < n:
        count = min(PIECE_ELEMENTS, n - start)
        raise_peak(&peak, gather_logits(batch, scratch, i, start, count), <vf64*>NULL, start, count)
        start += count
    zero.high = 0
    set_shift(&shift, &zero, y)
    total[HIGH] = total[LOW] = fill(y, 0)
    moments[0] = moments[1] = moments[2] = fill(y, 0)
    start = 0
    while start < n:
        count = min(PIECE_ELEMENTS, n - start)
        scale_distances(gather_logits(batch, scratch, i, start, count), y, count, peak.high, b)
        if start <= label < start + count:
            own = -get(y, label - start)
        add_exponentials(y, <vf64*>NULL, <vf64*>scratch.term, count, -1, &shift, total, &traffic)
        add_moments(y, <vf64*>scratch.term, count, moments)
        start += count
    sum = sum_pairs(total[HIGH], total[LOW])
    mean = value(divide(sum_pairs(moments[0], moments[1]), sum))
    add_pair(&sums[OWN], multiply(single(own), single(weight)))
    add_pair(&sums[MEAN], multiply(single(mean), single(weight)))
    add(&sums[VARIANCE], (sum_pairs(moments[2], fill(y, 0)).high / sum.high - mean * mean) * weight)


# --- rows side by side -----------------------------------------------------------------------------------------------


cdef inline forced_void temperature_tile(
    vf64* y, vf64* e, Py_ssize_t n, Py_ssize_t n_vectors, double b, vf64* mean, vf64* variance
) noexcept nogil:
    """From logits in the place of y."""
    cdef Py_ssize_t c, h
    cdef vf64 zero = fill(y, 0), half = fill(y, 0.5), twice = fill(y, 2 * b), d, weighted, high, low, second
    cdef vf64 peak[MAX_TILE_VECTORS]
    cdef vf64 shift[SHIFT_VECTORS]
    cdef vf64 unused[2]
    cdef vf64 sums[SUM_VECTORS]
    find_peaks(y, n, n_vectors, peak)
    shift_lanes(zero, shift, unused)
    for h in range(n_vectors):
        peak[h] = peak[h] * half
        for c in range(n):
            y[c * n_vectors + h] = (y[c * n_vectors + h] * half - peak[h]) * twice
        sums[MAXIMA] = zero
        add_column(y + h, e + h, n, n_vectors, <vf64*>NULL, shift, sums)
        high = low = second = zero
        for c in range(n):
            d = where_equal(e[c * n_vectors + h], zero, zero, y[c * n_vectors + h])
            weighted = e[c * n_vectors + h] * d
            accumulate(weighted, &high, &low)
            second = multiply_add(weighted, d, second)
        d = sums[0] + sums[1]
        mean[h] = zero - (high + low) / d
        variance[h] = second / d - mean[h] * mean[h]


cdef void temperature_one(vf64* y, vf64* e, Py_ssize_t n, double b, vf64* mean, vf64* variance) noexcept nogil:
    temperature_tile(y, e, n, 1, b, mean, variance)


cdef void temperature_two(vf64* y, vf64* e, Py_ssize_t n, double b, vf64* mean, vf64* variance) noexcept nogil:
    temperature_tile(y, e, n, 2, b, mean, variance)


cdef inline Py_ssize_t load_wide_tile(
    const Batch* batch, const TemperatureScratch* scratch, Py_ssize_t i, Py_ssize_t count
) noexcept nogil:
    """Load rows i to i + count as float64; return the vectors of each class."""
    cdef Py_ssize_t c, h, parts = XENT_LANES_f32 // XENT_LANES_f64, n_vectors = vectors_of(count, <vf64*>scratch.y)
    cdef vf64* y = <vf64*>scratch.y
    cdef vf32* narrow = <vf32*>scratch.narrow
    if batch.logits.kind == F64:
        load_masked_tile(
            &batch.logits, &batch.where, i, count, y, n_vectors, <vf64*>scratch.term, <vf64*>scratch.narrow
        )
        return n_vectors
    load_masked_tile(
        &batch.logits, &batch.where, i, count, narrow, MAX_TILE_VECTORS // parts, <vf32*>scratch.term, <vf32*>y
    )
    for c in range(batch.logits.n):
        for h in range(MAX_TILE_VECTORS):
            y[MAX_TILE_VECTORS * c + h] = xent_half_f32(narrow[(MAX_TILE_VECTORS * c + h) // parts], h % parts)
    return MAX_TILE_VECTORS


cdef void add_temperature_tiles(
    const Batch* batch, const TemperatureScratch* scratch, Py_ssize_t first, Py_ssize_t last, Pair* sums
) noexcept nogil:
    cdef Py_ssize_t i = first, j, h, k, count, n_vectors, width, n = batch.logits.n
    cdef int64_t label
    cdef vf64* y = <vf64*>scratch.y
    cdef vf64 zero = fill(y, 0)
    cdef vf64 measures[TEMPERATURE_SUMS * MAX_TILE_VECTORS]
    cdef vf64 weight[MAX_TILE_VECTORS]
    cdef vf64 high[TEMPERATURE_SUMS]
    cdef vf64 low[TEMPERATURE_SUMS]
    for k in range(TEMPERATURE_SUMS):
        high[k] = low[k] = zero
    while i < last:
        count = min(last - i, MAX_TILE_VECTORS * lanes(y))
        n_vectors = load_wide_tile(batch, scratch, i, count)
        width = n_vectors * lanes(y)
        if n_vectors == 2:
            temperature_two(
                y, <vf64*>scratch.term, n, batch.transform.scale, measures + 2 * MEAN, measures + 2 * VARIANCE
            )
        else:
            temperature_one(
                y, <vf64*>scratch.term, n, batch.transform.scale, measures + 2 * MEAN, measures + 2 * VARIANCE
            )
        weight[0] = weight[1] = measures[2 * OWN] = measures[2 * OWN + 1] = zero
        for j in range(count):
            put(weight, j, read_row_weight(batch, i + j, &label))
            put(measures + 2 * OWN, j, -get(y, label * width + j))
        for h in range(n_vectors):
            for k in range(TEMPERATURE_SUMS):
                accumulate(
                    where_equal(weight[h], zero, zero, measures[2 * k + h] * weight[h]), &high[k], &low[k]
                )
        i += count
    for k in range(TEMPERATURE_SUMS):
        add_pair(&sums[k], sum_pairs(high[k], low[k]))


# --- blocks ----------------------------------------------------------------------------------------------------------


cdef void temperature_worker(const void* task, double* memory, BlockClaim* claim) noexcept nogil:
    cdef const BatchTask* t = <const BatchTask*>task
    cdef const Batch* batch = &t.batch
    cdef TemperatureScratch scratch
    cdef Py_ssize_t i
    cdef Pair* sums
    lay_out_temperature(batch, memory, &scratch)
    while next_block(claim):
        sums = <Pair*>t.sums + TEMPERATURE_SUMS * claim.block
        memset(sums, 0, TEMPERATURE_SUMS * sizeof(Pair))
        if has_temperature_tiles(batch):
            add_temperature_tiles(batch, &scratch, claim.first, claim.last, sums)
        else:
            for i in range(claim.first, claim.last):
                add_temperature_row(batch, &scratch, i, sums)


def temperature(problem, options, sums, Work work):
    """sums[i] = what the rows of block i add up to, each as two numbers: own, mean and variance, at the inverse
    temperature options.logit_scale."""
    cdef BatchTask task
    cdef TemperatureScratch unused
    bind_batch(&task.batch, problem, options, 0)
    task.sums = data_of_blocks(sums, work, 2 * TEMPERATURE_SUMS)
    work.do(temperature_worker, &task, lay_out_temperature(&task.batch, NULL, &unused))
