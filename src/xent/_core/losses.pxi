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
    Operand class_weight        # (*) one row of float64, for every row of the batch
    Operand sample_weight       # (*) one a row
    bint extreme                # weights are so large, small or far apart that each row needs a unit of its own
    int weight_exponent         # losses and gradients come in units of two to it; 0 unless weights are extreme
    Transform transform         # of the logits
    double smoothing
    double z_loss
    double divisor              # of the gradient
    Operand loss                # (*) output, one a row
    Operand grad                # (*) output
    Py_ssize_t piece            # elements of a row that are read at a time


cdef enum:
    IGNORED = -1
    INVALID = -2


cdef struct Points:             # classes with mass, each once, under the class weights
    Py_ssize_t count            # or IGNORED, or INVALID
    int64_t* index
    Pair* mass


cdef struct Room:               # scratch for one row
    Points points
    int64_t* table              # of the points of a sparse distribution, by class (see `place_in`)
    Py_ssize_t table_size
    double* tile                # two tiles
    double* rows                # see `lay_out`
    Traffic traffic


cdef bint transforms(const Batch* batch) noexcept nogil:
    return batch.transform.scale != 1 or batch.transform.softcap != 0


cdef bint smooths(const Batch* batch) noexcept nogil:
    return batch.smoothing != 0 and batch.logits.n > 0


cdef bint is_wide(const Batch* batch) noexcept nogil:
    """Whether rows are computed in float64, whatever the logits are."""
    return batch.logits.kind == F64 or batch.extreme or not is_usual_transform(&batch.transform)


# --- scratch ---------------------------------------------------------------------------------------------------------


cdef struct RowScratch:         # rows of a piece each; NULL where the options at hand need none
    double* grad[2]             # results that cannot be put in their place at once; two in claim, if they stream
    double* x                   # logits, where they cannot be read in their place
    double* z                   # masked, scaled or capped
    double* low
    double* slope
    double* mask
    double* target
    double* class_weight
    double* base


cdef bint stays(const Operand* operand, bint wide) noexcept nogil:
    """Whether the kernel reads or writes its rows where they are."""
    return is_plain(operand, <vf64*>NULL) if wide else is_plain(operand, <vf32*>NULL)


cdef void take_row(double** row, bint wanted, Py_ssize_t space, double* memory, Py_ssize_t* used) noexcept nogil:
    row[0] = NULL
    if wanted:
        if memory is not NULL:
            row[0] = memory + used[0]
        used[0] += space


cdef Py_ssize_t lay_out(
    const Batch* batch, Py_ssize_t piece, bint wide, double* memory, RowScratch* rows
) noexcept nogil:
    """Give each row that is needed its place in the memory; with NULL, only say how much that is, in float64 numbers."""
    cdef Py_ssize_t used = 0, space = row_space(piece if wide else (piece + 1) // 2)
    cdef bint masks = batch.where.kind != ABSENT, weighs = batch.class_weight.kind != ABSENT
    cdef bint dense = batch.form == DISTRIBUTION, even = smooths(batch), moves = transforms(batch)
    cdef bint lands = batch.grad.kind == ABSENT or (stays(&batch.grad, wide) and not batch.grad.streams)
    take_row(&rows.grad[0], not lands, space, memory, &used)
    take_row(&rows.grad[1], not lands and batch.grad.streams, space, memory, &used)
    take_row(&rows.x, not stays(&batch.logits, wide), space, memory, &used)
    take_row(&rows.z, masks or moves, space, memory, &used)
    take_row(&rows.low, moves, space, memory, &used)
    take_row(&rows.slope, batch.transform.softcap != 0, space, memory, &used)
    take_row(&rows.mask, masks and batch.where.step != 1, space, memory, &used)
    take_row(&rows.target, dense and (weighs or batch.extreme or not stays(&batch.target, wide)), space, memory, &used)
    take_row(&rows.class_weight, weighs and (even or dense) and not wide, space, memory, &used)
    take_row(&rows.base, even and (masks or batch.extreme), space, memory, &used)
    return used


cdef Py_ssize_t table_size_of(Py_ssize_t points) noexcept nogil:
    cdef Py_ssize_t size = 2
    while size < 2 * points:
        size *= 2
    return size


cdef Py_ssize_t points_of_row(const Batch* batch) noexcept nogil:
    return max(batch.target.n, 1) if batch.form == SPARSE else 1


cdef Py_ssize_t plan_batch(Batch* batch, Py_ssize_t threads) noexcept:
    """Choose the piece, and whether the gradient streams; the length of the scratch of each thread."""
    cdef Py_ssize_t n = batch.logits.n, points = points_of_row(batch), small = min(n, PIECE_ELEMENTS), most
    cdef bint wide = is_wide(batch)
    cdef RowScratch unused
    most = SCRATCH_BYTES // threads // sizeof(double)
    most -= (has_window(&batch.logits) + has_window(&batch.grad)) * WINDOW_BYTES // sizeof(double)
    if lay_out(batch, n, wide, NULL, &unused) > most:
        batch.grad.streams = False
    batch.piece = n if n <= PIECE_ELEMENTS or lay_out(batch, n, wide, NULL, &unused) <= most else PIECE_ELEMENTS
    # A row that overflows float32 is computed in float64, in pieces.
    most = max(lay_out(batch, batch.piece, wide, NULL, &unused), lay_out(batch, small, True, NULL, &unused))
    if n <= MAX_TILE_CLASSES:
        most = max(most, row_space(n)) + 2 * MAX_TILE_VECTORS * LINE_DOUBLES * n + LINE_DOUBLES
    return most + 3 * points + (table_size_of(points) if batch.form == SPARSE else 0) + 2 * LINE_DOUBLES


cdef Room room_of(const Batch* batch, double* scratch) noexcept nogil:
    cdef Room room
    cdef Py_ssize_t most = points_of_row(batch)
    room.points.count = 0
    room.points.mass = <Pair*>scratch
    room.points.index = <int64_t*>(scratch + 2 * most)
    room.table = room.points.index + most
    room.table_size = table_size_of(most) if batch.form == SPARSE else 0
    room.tile = <double*>aligned(<double*>(room.table + room.table_size), <vf64*>NULL)
    room.rows = room.tile
    if batch.logits.n <= MAX_TILE_CLASSES:
        room.rows = <double*>aligned(room.tile + 2 * MAX_TILE_VECTORS * LINE_DOUBLES * batch.logits.n, <vf64*>NULL)
    room.traffic = no_traffic(<vf32*>scratch)
    return room


# --- targets and weights ---------------------------------------------------------------------------------------------


cdef double class_weight_of(const Batch* batch, Py_ssize_t c) noexcept nogil:
    return (<double*>batch.class_weight.data)[c] if batch.class_weight.kind != ABSENT else 1.0


cdef Pair scale_pair(Pair x, int exponent) noexcept nogil:
    """x times two to the exponent."""
    if exponent != 0:
        x.high, x.low = ldexp(x.high, exponent), ldexp(x.low, exponent)
    return x


cdef int exponent_of(double x) noexcept nogil:
    cdef int exponent = 0
    frexp(x, &exponent)
    return exponent


cdef Pair mass_of(const Batch* batch, double t, Py_ssize_t c, int exponent) noexcept nogil:
    """t under the weight of class c, in units of two to the exponent."""
    cdef double weight = class_weight_of(batch, c)
    cdef int t_exponent = 0, weight_exponent = 0
    if not batch.extreme:
        return multiply(single(t), single(weight))
    t, weight = frexp(t, &t_exponent), frexp(weight, &weight_exponent)
    return scale_pair(multiply(single(t), single(weight)), t_exponent + weight_exponent - exponent)


cdef bint is_class(const Batch* batch, int64_t c) noexcept nogil:
    return 0 <= c < batch.logits.n and not (batch.ignores and c == batch.ignore_index)


cdef int exponent_of_row(const Batch* batch, Py_ssize_t i, bint with_all) noexcept nogil:
    """The exponent of the largest number that multiplies a part of row i's loss, so that in units of two to it none
    overflows, and none that counts vanishes; `with_all`: of smoothing and z_loss too. 0 unless weights are extreme."""
    cdef Py_ssize_t j, k = batch.target.n, n = batch.logits.n
    cdef int most = INT_MIN
    cdef double t, weight
    cdef int64_t c
    cdef char* target
    cdef char* where = NULL
    if not batch.extreme:
        return 0
    target = row_of(&batch.target, i)
    if batch.where.kind != ABSENT:
        where = row_of(&batch.where, i)
    if batch.form == LABELS:
        c = read_integer(target, batch.target.kind)
        if is_class(batch, c) and class_weight_of(batch, c) != 0:
            most = exponent_of(class_weight_of(batch, c))
    elif batch.form == SPARSE:
        for j in range(k):
            c = read_integer(target + j * batch.target.step, batch.target.kind)
            t = read_number(row_of(&batch.mass, i) + j * batch.mass.step, batch.mass.kind)
            if is_class(batch, c) and t != 0 and class_weight_of(batch, c) != 0:
                most = max(most, exponent_of(t) + exponent_of(class_weight_of(batch, c)))
    else:
        for j in range(n):
            t = read_number(target + j * batch.target.step, batch.target.kind)
            if t != 0 and class_weight_of(batch, j) != 0:
                most = max(most, exponent_of(t) + exponent_of(class_weight_of(batch, j)))
    if with_all and smooths(batch):
        for j in range(n):
            weight = class_weight_of(batch, j)
            if weight != 0 and (where is NULL or where[j * batch.where.step]):
                most = max(most, exponent_of(weight))
    if with_all and batch.z_loss != 0:
        most = max(most, exponent_of(batch.z_loss))
    return most if most > INT_MIN else 0


cdef Py_ssize_t place_in(const Room* room, Py_ssize_t merged, int64_t c) noexcept nogil:
    """The place of class c among the points so far, or `merged`, the next one, which it then has. Open addressing: an
    entry of the table is a place, plus 1."""
    cdef uint64_t slot = (<uint64_t>c * 0x9E3779B97F4A7C15U >> 32) & <uint64_t>(room.table_size - 1)
    while room.table[slot] != 0:
        if room.points.index[room.table[slot] - 1] == c:
            return room.table[slot] - 1
        slot = (slot + 1) & <uint64_t>(room.table_size - 1)
    room.table[slot] = merged + 1
    return merged


cdef Points points_of(const Batch* batch, Py_ssize_t i, const Room* room, int exponent) noexcept nogil:
    """The label or the sparse distribution of row i, in units of two to the exponent. One that is out of range has
    changed since it was checked."""
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
            points.mass[0] = mass_of(batch, 1, c, exponent)
            points.count = points.mass[0].high != 0
        return points
    memset(room.table, 0, room.table_size * sizeof(int64_t))
    # Repeated classes add up, with what that loses: it would be missed in the loss.
    mass = row_of(&batch.mass, i)
    for j in range(batch.target.n):
        c = read_integer(row + j * batch.target.step, batch.target.kind)
        if batch.ignores and c == batch.ignore_index:
            continue
        if not 0 <= c < n:
            points.count = INVALID
            return points
        counted += 1
        x = mass_of(batch, read_number(mass + j * batch.mass.step, batch.mass.kind), c, exponent)
        place = place_in(room, merged, c)
        if place < merged:
            add_pair(&points.mass[place], x)
        else:
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


# --- one row ---------------------------------------------------------------------------------------------------------


cdef struct RowPiece:       # elements of a row from some place on, as vectors; (*) may be NULL
    double* x               # logits, ready
    double* low             # (*) what they are beyond their type
    double* slope           # (*) of a softcap
    double* target          # (*) the mass of a dense target, under the class weights
    double* base            # (*) the weights that smoothing reaches


cdef struct Reader:         # of the rows of a batch
    const Batch* batch
    RowScratch at
    Window window
    Py_ssize_t last
    Py_ssize_t piece        # elements that are read at a time
    bint whole              # all of a row: it is read once, and stays; else each pass reads the pieces again
    char* mask              # of the piece that was read last
    Pair share              # multiplies points and targets
    Pair even               # multiplies the base, unless it is masked
    Pair scale              # of the gradient, for each unit of weight


cdef struct Row:            # what is known of a row
    Py_ssize_t i
    RowPiece all            # if rows are whole
    Points points
    Py_ssize_t only         # the class that has all the mass, or NO_CLASS or SEVERAL
    bint dense              # a dense target takes part
    int exponent            # masses are in units of two to it
    int result_exponent     # and results, so far, in units of two to this
    Pair weight
    Pair share              # multiplies the points and the target
    Pair even               # multiplies the base
    double z_loss
    Pair mass               # T
    Pair far                # the sum of t (m - x)
    Shift shift
    RowSum sums


cdef void read_mask(Reader* reader, Py_ssize_t i, Py_ssize_t start, Py_ssize_t count) noexcept nogil:
    cdef const Operand* where = &reader.batch.where
    cdef Py_ssize_t j
    cdef char* mask = row_of(where, i) + start * where.step
    reader.mask = mask
    if where.step != 1:
        reader.mask = <char*>reader.at.mask
        for j in range(count):
            reader.mask[j] = mask[j * where.step]


cdef vec* read_logits(
    Reader* reader, Py_ssize_t i, Py_ssize_t start, Py_ssize_t count, bint ready, vec* like
) noexcept nogil:
    """Logits, masked; and unless they are to be `ready`, neither scaled nor capped."""
    cdef const Batch* batch = reader.batch
    cdef vec* x = gather_through(
        &reader.window, &batch.logits, i, reader.last, start, count, <vec*>reader.at.x
    )
    if batch.where.kind != ABSENT:
        read_mask(reader, i, start, count)
        mask_row(x, reader.mask, <vec*>reader.at.z, count, -INFINITY)
        x = <vec*>reader.at.z
    if ready and transforms(batch):
        transform_row(x, <vec*>reader.at.z, <vec*>reader.at.low, <vec*>reader.at.slope, count, &batch.transform)
        x = <vec*>reader.at.z
    return x


cdef Pair logit_at(const Reader* reader, const Row* row, Py_ssize_t c, vec* like) noexcept nogil:
    """One logit, ready: the same bits as in its row."""
    cdef const Batch* batch = reader.batch
    cdef Pair x = single(read_number(place_of(&batch.logits, row.i, c), batch.logits.kind))
    cdef vec given, z, low, slope
    if batch.where.kind != ABSENT and not row_of(&batch.where, row.i)[c * batch.where.step]:
        x.high = -INFINITY
    if transforms(batch):
        given = fill(like, x.high)
        low = slope = fill(like, 0)
        transform_row(&given, &z, &low, &slope, 1, &batch.transform)
        x.high, x.low = get(&z, 0), get(&low, 0)
    return x


cdef vec* read_target(
    const Reader* reader, const Row* row, Py_ssize_t start, Py_ssize_t count, vec* like
) noexcept nogil:
    """The mass of a dense target, under the class weights."""
    cdef const Batch* batch = reader.batch
    cdef Py_ssize_t j
    cdef double x
    cdef vec* t = gather(&batch.target, row.i, start, count, <vec*>reader.at.target)
    cdef vec* out = <vec*>reader.at.target
    if batch.class_weight.kind == ABSENT and not batch.extreme:
        return t
    if batch.extreme:
        for j in range(count):
            x = get(t, j)
            put(out, j, value(mass_of(batch, x, start + j, row.exponent)) if x != 0 else 0)
    else:
        multiply_row(t, gather(&batch.class_weight, 0, start, count, <vec*>reader.at.class_weight), out, count)
    return out


cdef vec* read_base(
    const Reader* reader, const Row* row, Py_ssize_t start, Py_ssize_t count, vec* like
) noexcept nogil:
    """The weights that smoothing reaches; NULL for ones. The logits of the piece have been read."""
    cdef const Batch* batch = reader.batch
    cdef Py_ssize_t j
    cdef vec* weight = NULL
    if batch.extreme:
        for j in range(count):
            put(<vec*>reader.at.base, j, ldexp(class_weight_of(batch, start + j), -row.exponent))
        weight = <vec*>reader.at.base
    elif batch.class_weight.kind != ABSENT:
        weight = gather(&batch.class_weight, 0, start, count, <vec*>reader.at.class_weight)
    if batch.where.kind == ABSENT:
        return weight
    mask_row(weight, reader.mask, <vec*>reader.at.base, count, 0)
    return <vec*>reader.at.base


cdef void read_piece(
    Reader* reader, const Row* row, Py_ssize_t start, Py_ssize_t count, RowPiece* piece, vec* like
) noexcept nogil:
    """Elements start <= j < start + count, of a row that is whole from where it is."""
    if reader.whole:
        piece.x = <double*>element(<vec*>row.all.x, start)
        piece.low = <double*>element(<vec*>row.all.low, start) if row.all.low is not NULL else NULL
        piece.slope = <double*>element(<vec*>row.all.slope, start) if row.all.slope is not NULL else NULL
        piece.target = <double*>element(<vec*>row.all.target, start) if row.all.target is not NULL else NULL
        piece.base = <double*>element(<vec*>row.all.base, start) if row.all.base is not NULL else NULL
        return
    piece.x = <double*>read_logits(reader, row.i, start, count, True, like)
    piece.low, piece.slope = reader.at.low, reader.at.slope
    piece.target = <double*>read_target(reader, row, start, count, like) if row.dense else NULL
    piece.base = <double*>read_base(reader, row, start, count, like) if row.even.high != 0 else NULL


cdef void find_peak(Reader* reader, Row* row, vec* like) noexcept nogil:
    """The largest logit; a whole row is ready then. A scale above 0 and a cap keep the order of the logits, so that only
    the largest needs them."""
    cdef const Batch* batch = reader.batch
    cdef Py_ssize_t n = batch.logits.n, start = 0, count
    cdef bint keeps_order = transforms(batch) and batch.transform.scale > 0
    cdef Pair largest
    cdef Peak peak = no_peak()
    cdef vec* x = NULL
    while start < n:
        count = min(reader.piece, n - start)
        x = read_logits(reader, row.i, start, count, not keeps_order, like)
        raise_peak(&peak, x, <vec*>NULL if keeps_order else <vec*>reader.at.low, start, count)
        start += count
    if keeps_order and peak.index >= 0:
        largest = logit_at(reader, row, peak.index, like)
        peak.high, peak.low = largest.high, largest.low
    row.shift.peak = peak
    if reader.whole:
        if keeps_order:
            transform_row(x, <vec*>reader.at.z, <vec*>reader.at.low, <vec*>reader.at.slope, n, &batch.transform)
            x = <vec*>reader.at.z
        row.all.x, row.all.low, row.all.slope = <double*>x, reader.at.low, reader.at.slope
        row.all.target = <double*>read_target(reader, row, 0, n, like) if row.dense else NULL
        row.all.base = <double*>read_base(reader, row, 0, n, like) if row.even.high != 0 else NULL


cdef void weigh_row(Reader* reader, Row* row, const vec* soon_target, vec* like) noexcept nogil:
    """T, and the sum of t (m - x)."""
    cdef Py_ssize_t n = reader.batch.logits.n, j, start = 0, count
    cdef bint many = has_many(like, n), even = row.even.high != 0
    cdef Peak peak = row.shift.peak
    cdef RowPiece piece
    cdef Pair x, distance
    cdef vec mass, mass_low, far, far_low, base, base_low, base_far, base_far_low
    row.mass = row.far = single(0)
    for j in range(row.points.count):
        if reader.whole:
            x.high = get(<vec*>row.all.x, row.points.index[j])
            x.low = get(<vec*>row.all.low, row.points.index[j]) if row.all.low is not NULL else 0.0
        else:
            x = logit_at(reader, row, row.points.index[j], like)
        distance = two_sum(peak.high, -x.high)
        distance.low += peak.low - x.low
        add_pair(&row.mass, row.points.mass[j])
        add_pair(&row.far, multiply(distance, row.points.mass[j]))
    if not (row.dense or even):
        return
    mass = mass_low = far = far_low = base = base_low = base_far = base_far_low = fill(like, 0)
    while start < n:
        count = min(PIECE_ELEMENTS, n - start)
        read_piece(reader, row, start, count, &piece, like)
        if row.dense:
            add_elements(<vec*>piece.target, count, many, &mass, &mass_low)
            add_distances(
                <vec*>piece.x, <vec*>piece.low, <vec*>piece.target, count, peak, n,
                element(soon_target, start) if reader.whole else <vec*>piece.target, &far, &far_low
            )
        if even:
            if piece.base is not NULL:
                add_elements(<vec*>piece.base, count, many, &base, &base_low)
            add_distances(
                <vec*>piece.x, <vec*>piece.low, <vec*>piece.base, count, peak, n, <vec*>piece.x, &base_far,
                &base_far_low
            )
        start += count
    if row.dense:
        add_pair(&row.mass, sum_pairs(mass, mass_low))
        add_pair(&row.far, sum_of_distances(far, far_low, n))
    if even:
        row.mass = multiply(row.mass, row.share)
        row.far = multiply(row.far, row.share)
        x = single(<double>n) if piece.base is NULL else sum_pairs(base, base_low)
        add_pair(&row.mass, multiply(row.even, x))
        add_pair(&row.far, multiply(row.even, sum_of_distances(base_far, base_far_low, n)))


cdef void sum_exponentials(
    Reader* reader, Row* row, vec* grad, bint keep, Traffic* traffic, vec* like
) noexcept nogil:
    """The sum over the other classes; with `keep`, the terms are left in their places (or in `grad`)."""
    cdef const Batch* batch = reader.batch
    cdef Py_ssize_t n = batch.logits.n, start = 0, count, skip
    cdef RowPiece piece
    cdef vec total, total_low
    cdef vec* e
    set_shift(&row.shift, like)
    total = total_low = fill(like, 0)
    while start < n:
        count = min(reader.piece, n - start)
        read_piece(reader, row, start, count, &piece, like)
        skip = row.shift.peak.index - start
        if not reader.whole:
            traffic.soon = <const char*>piece.x
        e = <vec*>piece.x
        if keep:
            e = grad if reader.whole else place(&batch.grad, row.i, start, <vec*>reader.at.grad[0])
        if piece.low is NULL and keep:
            exp_terms(<vec*>piece.x, e, count, skip, &row.shift, &total, &total_low, traffic)
        elif piece.low is NULL:
            exp_sum(<vec*>piece.x, count, skip, &row.shift, &total, &total_low, traffic)
        elif keep:
            exp_terms_of_pairs(
                <vec*>piece.x, <vec*>piece.low, e, count, skip, &row.shift, &total, &total_low, traffic
            )
        else:
            exp_sum_of_pairs(<vec*>piece.x, <vec*>piece.low, count, skip, &row.shift, &total, &total_low, traffic)
        start += count
    row.sums = sum_of_row(&row.shift, total, total_low)


cdef struct Slope:          # the gradient of a row: factor e - share t - even base, but for the exceptions
    double factor
    double share
    double even
    double top              # the term of the maximum, and the product for it: what it lost is in there
    double at_top
    double at_label         # if one class has all the mass


cdef Pair multiply_mass(Pair x, Pair mass) noexcept nogil:
    """A product that is 0 where x is, even if the mass has overflowed."""
    return multiply(x, mass) if x.high != 0 or not isinf(mass.high) else single(0)


cdef void set_slope(
    Slope* slope, const Reader* reader, const Row* row, double own_term, const vec* like
) noexcept nogil:
    """`own_term`: that of the class that has all the mass, if one has."""
    cdef Pair scale, factor, pull = single(0), mass = row.mass, others, own
    scale = multiply(row.weight, reader.scale)
    scale = scale_pair(scale, row.result_exponent)
    factor = divide(scale, one_more(row.sums.rest))      # of exp(x - m), for each unit of T
    slope.top = exponential(
        like, row.shift.peak.high, row.shift.peak.low, transforms(reader.batch), &row.shift
    ).high
    slope.share = slope.even = slope.at_label = 0
    if row.z_loss != 0:
        pull = multiply(row.sums.logsumexp, single(2 * row.z_loss))
    if row.only >= 0:       # the difference T p - t would cancel
        others = row.sums.rest
        own = single(-1) if own_term == slope.top else multiply(row.shift.unit, single(-own_term))
        if row.only != row.shift.peak.index:
            add_pair(&others, own)
            add(&others, 1)
        others = multiply_mass(others, mass)
        if row.z_loss != 0:
            add_pair(&others, multiply_mass(own, pull))
            add_pair(&mass, pull)
        slope.at_label = -value(multiply_mass(others, factor))
        factor = multiply(factor, mass)
    else:
        add_pair(&mass, pull)
        factor = multiply(factor, mass)
        slope.share = value(multiply(row.share, scale))
        slope.even = value(multiply(row.even, scale))
    slope.at_top = value(factor)
    slope.factor = value(multiply(factor, row.shift.unit))


cdef void finish_gradient(
    const Reader* reader, const Row* row, const RowPiece* piece, const Slope* slope, vec* grad, Py_ssize_t start,
    Py_ssize_t count
) noexcept nogil:
    """Exponentials of a piece become its gradient."""
    cdef Py_ssize_t j, c
    if row.dense:
        combine_row(grad, <vec*>piece.target, count, slope.factor, slope.share, slope.top, slope.at_top)
        if row.even.high != 0:
            combine_row(grad, <vec*>piece.base, count, 1, slope.even, NAN, 0)
    else:
        combine_row(grad, <vec*>piece.base, count, slope.factor, slope.even, slope.top, slope.at_top)
    for j in range(row.points.count):
        c = row.points.index[j] - start
        if 0 <= c < count and row.only < 0:
            put(grad, c, get(grad, c) - times_number(value(row.points.mass[j]), slope.share))
        elif 0 <= c < count:
            put(grad, c, slope.at_label)
    if piece.slope is not NULL:
        multiply_row(grad, <vec*>piece.slope, grad, count)


cdef void write_gradient(
    Reader* reader, Row* row, vec* grad, bint kept, Traffic* traffic, vec* like
) noexcept nogil:
    """From exponentials that were `kept`, or that are computed again now that their sum is known."""
    cdef const Batch* batch = reader.batch
    cdef Py_ssize_t n = batch.logits.n, start = 0, count
    cdef RowPiece piece
    cdef Pair own
    cdef Slope slope
    cdef vec unused, unused_low
    cdef double own_term = 0
    if row.only >= 0 and reader.whole:
        own_term = get(grad, row.only)
    elif row.only >= 0 and kept:
        own_term = read_number(place_of(&batch.grad, row.i, row.only), batch.grad.kind)
    elif row.only >= 0:
        own = logit_at(reader, row, row.only, like)
        own_term = exponential(like, own.high, own.low, transforms(batch), &row.shift).high
    set_slope(&slope, reader, row, own_term, like)
    while start < n:
        count = min(reader.piece, n - start)
        if not reader.whole:
            grad = place(&batch.grad, row.i, start, <vec*>reader.at.grad[0])
        if kept and not reader.whole:
            piece.slope = NULL
            piece.target = <double*>read_target(reader, row, start, count, like) if row.dense else NULL
            piece.base = NULL
            if row.even.high != 0:
                if batch.where.kind != ABSENT:
                    read_mask(reader, row.i, start, count)
                piece.base = <double*>read_base(reader, row, start, count, like)
        else:
            read_piece(reader, row, start, count, &piece, like)
        if not kept:
            unused = unused_low = fill(like, 0)
            if piece.low is NULL:
                exp_terms(<vec*>piece.x, grad, count, -1, &row.shift, &unused, &unused_low, traffic)
            else:
                exp_terms_of_pairs(
                    <vec*>piece.x, <vec*>piece.low, grad, count, -1, &row.shift, &unused, &unused_low, traffic
                )
        finish_gradient(reader, row, &piece, &slope, grad, start, count)
        if not reader.whole:
            scatter(&batch.grad, row.i, start, count, grad)
        start += count


# --- blocks of rows --------------------------------------------------------------------------------------------------


cdef void describe_row(
    Reader* reader, Py_ssize_t i, double weight, const Room* room, Row* row, vec* like
) noexcept nogil:
    """Target and weights of a row, before its logits are looked at."""
    cdef const Batch* batch = reader.batch
    cdef Py_ssize_t n = batch.logits.n, start = 0, count, reached = 0, j
    cdef int weight_exponent = 0
    row.i = i
    row.only = SEVERAL
    row.dense = False
    row.result_exponent = 0
    row.exponent = 0
    row.z_loss = batch.z_loss
    row.share, row.even = reader.share, reader.even
    if batch.extreme:
        row.exponent = exponent_of_row(batch, i, True)
        row.z_loss = ldexp(batch.z_loss, -row.exponent)
    if batch.form == DISTRIBUTION:
        row.points = room.points
        row.points.count = 0
        row.only = NO_CLASS
        while start < n and row.only != SEVERAL:
            count = min(reader.piece, n - start)
            row.only = only_class(
                gather(&batch.target, i, start, count, <vec*>reader.at.target), count, start, row.only
            )
            start += count
        if row.only >= 0:
            row.points.index[0] = row.only
            row.points.mass[0] = mass_of(
                batch, read_number(place_of(&batch.target, i, row.only), batch.target.kind), row.only, row.exponent
            )
            row.points.count = row.points.mass[0].high != 0
        row.dense = row.only < 0
    else:
        row.points = points_of(batch, i, room, row.exponent)
    row.only = row.points.index[0] if row.points.count == 1 and not row.dense else SEVERAL
    if batch.smoothing == 1:        # a mass of 0 hides an infinite distance
        row.points.count = min(row.points.count, 0)
        row.dense = False
    if smooths(batch):
        row.only = SEVERAL
        if batch.where.kind != ABSENT:
            for j in range(n):
                reached += row_of(&batch.where, i)[j * batch.where.step] != 0
            row.even = divide(single(batch.smoothing), single(<double>max(reached, 1)))
    if batch.extreme:
        weight = frexp(weight, &weight_exponent)
        row.result_exponent = row.exponent + weight_exponent - batch.weight_exponent
    row.weight = single(weight)


cdef bint overflows(const Batch* batch, const Row* row, const vec* like) noexcept nogil:
    """Whether logits that were scaled, or distances in float32, may be infinite for that alone."""
    if isfinite(row.shift.peak.high) and isfinite(row.far.high) or batch.transform.softcap != 0:
        return False
    if vec is vf32:
        return batch.transform.scale != 1 or isfinite(row.shift.peak.high)
    return batch.transform.scale != 1 and batch.transform.origin == 0


cdef double origin_of(const Batch* batch, Py_ssize_t i) noexcept nogil:
    """The logit that is the largest when all are scaled; 0 if none overflows then, or if one is NaN or infinite."""
    cdef Py_ssize_t j
    cdef double x, sign = 1 if batch.transform.scale > 0 else -1, most = -INFINITY, least = INFINITY
    for j in range(batch.logits.n):
        x = read_number(place_of(&batch.logits, i, j), batch.logits.kind)
        if x == -INFINITY or (batch.where.kind != ABSENT and not row_of(&batch.where, i)[j * batch.where.step]):
            continue
        if not isfinite(x):
            return 0
        most, least = max(most, sign * x), min(least, sign * x)
    if not isfinite(most) or isfinite(batch.transform.scale * max(fabs(most), fabs(least))):
        return 0
    return sign * most


cdef void repeat_row(const Batch* batch, vec* like, Room* room, Py_ssize_t i, Pair* total) noexcept nogil:
    """A row whose scaled logits overflow, in float64; there, as far as they are from the largest. (A z_loss overflows
    all the same.)"""
    cdef Batch moved
    if vec is vf64:
        moved = batch[0]
        moved.transform.origin = origin_of(batch, i)
        cross_entropy_rows(&moved, <vf64*>NULL, room, i, i + 1, total)
    else:
        cross_entropy_rows(batch, <vf64*>NULL, room, i, i + 1, total)


cdef void open_reader(
    Reader* reader, const Batch* batch, const Room* room, Py_ssize_t first, Py_ssize_t last, const vec* like
) noexcept nogil:
    cdef bint wide = vec is vf64
    cdef Py_ssize_t n = batch.logits.n
    reader.batch = batch
    reader.piece = batch.piece if wide == is_wide(batch) else min(n, PIECE_ELEMENTS)
    reader.whole = reader.piece == n
    reader.last = last
    reader.mask = NULL
    reader.share = two_sum(1, -batch.smoothing)
    reader.even = divide(single(batch.smoothing), single(<double>max(n, 1)))
    reader.scale = divide(single(batch.transform.scale), single(batch.divisor))
    lay_out(batch, reader.piece, wide, room.rows, &reader.at)
    open_window(&reader.window, &batch.logits, first, last if reader.whole else first, like)


cdef void write_constant(const Reader* reader, Py_ssize_t i, vec* grad, double x, const vec* like) noexcept nogil:
    """A gradient that is x everywhere."""
    cdef Py_ssize_t n = reader.batch.logits.n, start = 0, count
    if reader.whole:
        fill_row(grad, n, x)
        return
    while start < n:
        count = min(reader.piece, n - start)
        grad = place(&reader.batch.grad, i, start, <vec*>reader.at.grad[0])
        fill_row(grad, count, x)
        scatter(&reader.batch.grad, i, start, count, grad)
        start += count


cdef Pair loss_row(
    Reader* reader, Row* row, vec* grad, bint keep, Traffic* traffic, vec* like
) noexcept nogil:
    """The loss of a row whose masses and distances are known; with `keep`, its gradient."""
    cdef bint kept = keep and (reader.whole or (is_plain(&reader.batch.grad, like) and not transforms(reader.batch)))
    cdef Pair loss
    if not isfinite(row.shift.peak.high):
        if keep:
            write_constant(reader, row.i, grad, NAN, like)
        return single(NAN)
    sum_exponentials(reader, row, grad, kept, traffic, like)
    if keep:
        write_gradient(reader, row, grad, kept, traffic, like)
    loss = multiply(row.sums.log_sum, row.mass)
    add_pair(&loss, row.far)
    if row.z_loss != 0:
        add_pair(&loss, multiply(multiply(row.sums.logsumexp, single(row.z_loss)), row.sums.logsumexp))
    return scale_pair(multiply(loss, row.weight), row.result_exponent)


cdef void cross_entropy_rows(
    const Batch* batch, vec* like, Room* room, Py_ssize_t first, Py_ssize_t last, Pair* total
) noexcept nogil:
    """Adds up the losses; writes each loss and gradient where they are wanted."""
    cdef Py_ssize_t i
    cdef bint keep = batch.grad.kind != ABSENT
    cdef Traffic* traffic = &room.traffic
    cdef Reader reader
    cdef Window window_out
    cdef Row row
    cdef Pair loss
    cdef double constant
    cdef vec* grad = NULL
    cdef vec* soon_target = NULL
    open_reader(&reader, batch, room, first, last, like)
    open_window(&window_out, &batch.grad, first, last if reader.whole else first, like)
    for i in range(first, last):
        describe_row(&reader, i, weight_of(&batch.sample_weight, i), room, &row, like)
        if keep and reader.whole:
            grad = place_through(&window_out, &batch.grad, i, last, <vec*>reader.at.grad[traffic.free_buffer])
        if row.weight.high == 0 or row.points.count < 0:
            constant = NAN if row.weight.high != 0 and row.points.count == INVALID else 0
            loss = single(constant)
            if keep:
                write_constant(&reader, i, grad, constant, like)
        else:
            find_peak(&reader, &row, like)
            if reader.whole:
                traffic.soon = <const char*>next_row(&batch.logits, i, <vec*>row.all.x)
                traffic.soon_out = <const char*>next_place(&batch.grad, i, grad) if keep else NULL
                soon_target = next_row(&batch.target, i, <vec*>row.all.target) if row.dense else NULL
            weigh_row(&reader, &row, soon_target, like)
            if overflows(batch, &row, like) and (vec is vf32 or (batch.z_loss == 0 and origin_of(batch, i) != 0)):
                finish(traffic, 0, like)
                repeat_row(batch, like, room, i, total)
                if window_out.most > 0:     # which would put back what it has
                    gather(&batch.grad, i, 0, batch.grad.n, grad)
                    scatter_through(&window_out, &batch.grad, i, grad, traffic)
                continue
            loss = loss_row(&reader, &row, grad, keep, traffic, like)
        if keep and reader.whole:
            scatter_through(&window_out, &batch.grad, i, grad, traffic)
        write_number(&batch.loss, i, value(loss))
        add_pair(total, loss)
    close_window(&reader.window)
    close_window(&window_out)


cdef bint has_tiles(const Batch* batch) noexcept nogil:
    """Whether rows are done side by side: of few classes, and without the options that need a row's own sums."""
    return (
        0 < batch.logits.n <= MAX_TILE_CLASSES and batch.smoothing == 0 and batch.z_loss == 0 and not transforms(batch)
        and not batch.extreme
    )


cdef bint has_one_class(
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
        points = points_of(batch, i, room, 0)
        if points.count != 1:
            return False
        c = points.index[0]
        mass[0] = points.mass[0]
    else:
        t = gather(&batch.target, i, 0, batch.logits.n, scratch)
        c = only_class(t, batch.logits.n, 0, NO_CLASS)
        if c < 0:
            return False
        mass[0] = multiply(single(get(t, c)), single(class_weight_of(batch, c)))
    label[0] = c
    return True


cdef Py_ssize_t read_labels(
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


cdef Pair pair_of(const vec* high, const vec* low, Py_ssize_t j) noexcept nogil:
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
    cdef bint skip[MAX_TILE_ROWS]
    cdef Py_ssize_t label[MAX_TILE_ROWS]
    cdef Pair mass = single(1), scale = divide(single(1), single(batch.divisor)), row_scale
    cdef Factors weights, scales
    cdef char* mask
    cdef Factors totals     # additions that need not wait for one another
    cdef vec sums[MAX_TILE_VECTORS]
    cdef vec weight[MAX_TILE_VECTORS]
    cdef vec weight_low[MAX_TILE_VECTORS]
    cdef vec factor[MAX_TILE_VECTORS]
    cdef vec factor_low[MAX_TILE_VECTORS]
    cdef vec loss[MAX_TILE_VECTORS]
    cdef vec loss_low[MAX_TILE_VECTORS]
    cdef vec* tile = aligned(room.tile, scratch)
    cdef vec* grad = tile + MAX_TILE_VECTORS * n
    for j in range(MAX_TILE_ROWS):
        totals.high[j] = totals.low[j] = 0
        weights.high[j] = 1
        weights.low[j] = 0
        row_scale = scale
        scales.high[j] = row_scale.high
        scales.low[j] = row_scale.low
    factors_of(&weights, weight, weight_low)
    factors_of(&scales, factor, factor_low)
    plain = plain and is_moderate(tile, weights.high[0]) and is_moderate(tile, scales.high[0])
    i = first
    while i < last:
        count = min(last - i, MAX_TILE_VECTORS * lanes(tile))
        width = MAX_TILE_VECTORS * lanes(tile) if count > lanes(tile) else lanes(tile)
        if plain:
            skipped = read_labels(batch, i, count, label, skip)
        else:
            skipped = 0
            for j in range(count):
                label[j] = 0
                weights.high[j] = weight_of(&batch.sample_weight, i + j)
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
        if skipped == 0 and count == MAX_TILE_VECTORS * lanes(tile):
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
    for j in range(MAX_TILE_ROWS):
        row_scale.high, row_scale.low = totals.high[j], totals.low[j]
        add_pair(total, row_scale)


cdef double cross_entropy_block(
    const Batch* batch, vec* like, Room* room, Py_ssize_t first, Py_ssize_t last
) noexcept nogil:
    cdef Pair total = single(0)
    if has_tiles(batch):
        cross_entropy_tiles(batch, <vec*>room.rows, room, first, last, &total)
    else:
        cross_entropy_rows(batch, like, room, first, last, &total)
    return value(total)


cdef void cross_entropy_blocks(const Batch* batch, double* scratch, double* sums, BlockClaim* claim) noexcept nogil:
    """Blocks of rows; sums[i] is what block i adds up to."""
    cdef Room room = room_of(batch, scratch)
    cdef bint wide = is_wide(batch)
    while next_block(claim):
        if wide:
            sums[claim.block] = cross_entropy_block(batch, <vf64*>scratch, &room, claim.first, claim.last)
        else:
            sums[claim.block] = cross_entropy_block(batch, <vf32*>scratch, &room, claim.first, claim.last)
    if wide:
        finish(&room.traffic, 0, <vf64*>scratch)
    else:
        finish(&room.traffic, 0, <vf32*>scratch)
    if batch.grad.streams:
        xent_drain()


cdef double log_loss_rows(const Batch* batch, Room* room, Py_ssize_t first, Py_ssize_t last) noexcept nogil:
    """The same from probabilities: -sum(t_c log p_c)."""
    cdef Py_ssize_t i, j, n = batch.logits.n
    cdef double weight, t
    cdef int exponent = 0
    cdef char* target
    cdef Points points
    cdef Pair loss, total = single(0)
    for i in range(first, last):
        weight = weight_of(&batch.sample_weight, i)
        loss = single(0)
        if weight != 0 and batch.form == DISTRIBUTION:
            target = row_of(&batch.target, i)
            for j in range(n):
                t = read_number(target + j * batch.target.step, batch.target.kind)
                if t != 0:
                    add_pair(&loss, multiply(minus_log_at(batch, i, j), single(t)))
        elif weight != 0:
            points = points_of(batch, i, room, 0)
            if points.count == INVALID:
                loss = single(NAN)
            for j in range(points.count):
                add_pair(&loss, multiply(minus_log_at(batch, i, points.index[j]), points.mass[j]))
        if batch.extreme:
            weight = frexp(weight, &exponent)
            exponent -= batch.weight_exponent
        loss = scale_pair(multiply(loss, single(weight)), exponent)
        write_number(&batch.loss, i, value(loss))
        add_pair(&total, loss)
    return value(total)


cdef Pair minus_log_at(const Batch* batch, Py_ssize_t i, Py_ssize_t c) noexcept nogil:
    return minus_log(read_number(place_of(&batch.logits, i, c), batch.logits.kind))


ctypedef fused label_type:
    int64_t
    int32_t
    uint8_t


cdef Py_ssize_t count_labels(
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


cdef Py_ssize_t count_good(const Batch* batch, Py_ssize_t first, Py_ssize_t last) noexcept nogil:
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


cdef struct WeightSum:      # in units of two to the exponent
    double high
    double low
    double exponent


cdef void add_weight(WeightSum* total, Pair x, int exponent) noexcept nogil:
    """x is in units of two to the exponent; the sum is in those of its largest term."""
    cdef Pair sum
    if x.high == 0:
        return
    sum.high, sum.low = total.high, total.low
    if exponent > total.exponent or total.high == 0:
        sum = scale_pair(sum, <int>total.exponent - exponent)
        total.exponent = exponent
    add_pair(&sum, scale_pair(x, exponent - <int>total.exponent))
    total.high, total.low = sum.high, sum.low


cdef Pair mass_of_row(
    const Batch* batch, vec* scratch, Py_ssize_t i, int exponent, Py_ssize_t* bad
) noexcept nogil:
    """The target mass of row i, in units of two to the exponent, and the place of a label or class that is out of range.
    `scratch`: two rows of a piece, for a dense target."""
    cdef Py_ssize_t j, n = batch.logits.n, k = batch.target.n, start = 0, count
    cdef char* row = row_of(&batch.target, i)
    cdef char* mass
    cdef int64_t c
    cdef Pair total = single(0)
    cdef vec sums, sums_low
    cdef vec* t
    if batch.form == LABELS:
        c = read_integer(row, batch.target.kind)
        if not is_class(batch, c):
            bad[0] = i if not (batch.ignores and c == batch.ignore_index) else bad[0]
            return total
        return mass_of(batch, 1, c, exponent)
    if batch.form == SPARSE:
        mass = row_of(&batch.mass, i)
        for j in range(k):
            c = read_integer(row + j * batch.target.step, batch.target.kind)
            if is_class(batch, c):
                add_pair(&total, mass_of(
                    batch, read_number(mass + j * batch.mass.step, batch.mass.kind), c, exponent
                ))
            elif not (batch.ignores and c == batch.ignore_index):
                bad[0] = i * k + j
                return total
        return total
    if batch.extreme:
        for j in range(n):
            add_pair(&total, mass_of(batch, read_number(row + j * batch.target.step, batch.target.kind), j, exponent))
        return total
    sums = sums_low = fill(scratch, 0)
    while start < n:
        count = min(PIECE_ELEMENTS, n - start)
        t = gather(&batch.target, i, start, count, scratch)
        if batch.class_weight.kind != ABSENT:
            multiply_row(
                t, gather(&batch.class_weight, 0, start, count, scratch + PIECE_ELEMENTS // lanes(scratch)), scratch, count
            )
            t = scratch
        add_elements(t, count, has_many(scratch, n), &sums, &sums_low)
        start += count
    return sum_pairs(sums, sums_low)


cdef Py_ssize_t weight_rows(
    const Batch* batch, vec* scratch, Py_ssize_t first, Py_ssize_t last, WeightSum* sum
) noexcept nogil:
    """The sum of sample weight times target mass, and the first label or class that is out of range, or -1."""
    cdef Py_ssize_t i, counted, bad = -1
    cdef double weight
    cdef int exponent, weight_exponent = 0
    cdef Pair mass, total = single(0)
    sum.high = sum.low = sum.exponent = 0
    if batch.form == LABELS and batch.class_weight.kind == ABSENT and batch.sample_weight.kind == ABSENT:
        counted = count_good(batch, first, last)
        if counted >= 0:
            sum.high = counted
            return -1
    for i in range(first, last):
        weight = weight_of(&batch.sample_weight, i)
        if weight == 0 and batch.form == DISTRIBUTION:
            continue
        exponent = exponent_of_row(batch, i, False)
        mass = mass_of_row(batch, scratch, i, exponent, &bad)
        if bad >= 0:
            return bad
        if weight == 0:
            continue
        if batch.extreme:
            weight = frexp(weight, &weight_exponent)
            add_weight(sum, multiply(mass, single(weight)), exponent + weight_exponent)
        elif mass.high != 0:
            add_pair(&total, multiply(mass, single(weight)))
    if not batch.extreme:
        sum.high, sum.low = total.high, total.low if isfinite(total.low) else 0.0
    return -1


cdef void add_product(Sum* total, Pair x, Pair y) noexcept nogil:
    cdef Pair product = multiply(x, y)
    add_exactly(total, product.high)
    if isfinite(product.low):
        add_exactly(total, product.low)


cdef void evaluate_rows(
    const Batch* batch, vec* scratch, const int64_t* topk, Py_ssize_t n_topk, Py_ssize_t first, Py_ssize_t last,
    Sum* sums
) noexcept nogil:
    """Adds up loss, entropy, weight and, for each k, the weight of the rows whose label is among the k largest: ahead of
    it are larger logits, and equal ones of earlier classes. `scratch`: a row of terms, and a row of logits."""
    cdef Py_ssize_t i, j, ahead, start, count, n = batch.logits.n
    cdef int64_t label
    cdef double own
    cdef bint many = has_many(scratch, n), ranks
    cdef Pair weight, loss, entropy
    cdef Peak peak
    cdef Shift shift
    cdef RowSum row
    cdef vec* x
    cdef vec* x_row = scratch + row_space(PIECE_ELEMENTS) * sizeof(double) // sizeof(vec)
    cdef vec total, total_low, distance, distance_low
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
        own = read_number(place_of(&batch.logits, i, label), batch.logits.kind)
        peak = no_peak()
        ahead = start = 0
        ranks = True
        while start < n:
            count = min(PIECE_ELEMENTS, n - start)
            x = gather(&batch.logits, i, start, count, x_row)
            raise_peak(&peak, x, <vec*>NULL, start, count)
            ahead += count_ahead(x, count, label - start, own)
            start += count
        entropy = loss = single(NAN)
        total = total_low = distance = distance_low = fill(scratch, 0)
        start = 0
        if isfinite(peak.high):
            shift.peak = peak
            set_shift(&shift, scratch)
        while start < n:
            count = min(PIECE_ELEMENTS, n - start)
            x = gather(&batch.logits, i, start, count, x_row)
            if isfinite(peak.high):
                exp_terms(x, scratch, count, peak.index - start, &shift, &total, &total_low, &traffic)
                add_distances(x, <vec*>NULL, scratch, count, peak, n, x, &distance, &distance_low)
            else:
                ranks = ranks and not has_nan(x, count)
            start += count
        if isfinite(peak.high):
            row = sum_of_row(&shift, total, total_low)
            ranks = not isnan(row.rest.high)
            loss = two_sum(peak.high, -own)
            add_pair(&loss, row.log_sum)
            entropy = multiply(sum_of_distances(distance, distance_low, n), shift.unit)
            entropy = divide(entropy, one_more(row.rest))
            add_pair(&entropy, row.log_sum)
        ranks = ranks and peak.high > -INFINITY
        add_product(&sums[0], loss, weight)
        add_product(&sums[1], entropy, weight)
        add_exactly(&sums[2], weight.high)
        for j in range(n_topk):
            if ranks and ahead < topk[j]:
                add_exactly(&sums[3 + j], weight.high)
    for j in range(3 + n_topk):
        if not isfinite(sums[j].low + sums[j].lowest):      # of infinity or NaN
            sums[j].low = sums[j].lowest = 0
