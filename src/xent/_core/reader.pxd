# Reads the rows of a batch as contiguous arrays of the kernel's type: logits masked and transformed, targets multiplied
# by class weights. A row that fits the scratch is read once; a longer one is read in pieces, again in each pass.

from libc.math cimport INFINITY, frexp, ldexp

from xent._core.batch cimport Batch, DISTRIBUTION, needs_float64, smooths, transforms
from xent._core.exponentials cimport Peak, RowSum, Shift, no_peak, raise_peak
from xent._core.pairs cimport Pair, divide, single, two_sum, value
from xent._core.rows cimport NO_CLASS, PIECE_ELEMENTS, SEVERAL, find_only_class, mask_row, multiply_row
from xent._core.scratch cimport LossScratch, Points, RowScratch, lay_out_rows
from xent._core.simd cimport element, fill, get, put, vec, vf64
from xent._core.strided cimport (
    ABSENT, Window, gather, gather_mask, gather_through, open_window, place_of, read_number, row_of,
)
from xent._core.targets cimport class_weight_of, exponent_of_row, read_points, target_mass_of
from xent._core.transforms cimport transform_row


cdef struct RowPiece:           # consecutive elements of a row, as vectors; (*) may be NULL
    double* x                   # logits, masked and transformed
    double* low                 # (*) their low parts
    double* cap_slope           # (*) derivative of the softcap's tanh
    double* target              # (*) dense target times class weights
    double* base                # (*) class weights that smoothing applies to; NULL is all ones


cdef struct Reader:
    const Batch* batch
    RowScratch scratch
    Window window
    Py_ssize_t last             # reads rows before this one
    Py_ssize_t piece            # elements read at a time
    bint reads_whole_rows
    const char* mask            # of the last piece read
    Pair target_share           # 1 - smoothing
    Pair base_share             # smoothing / C, unless classes are masked
    Pair scale                  # of the gradient, for each unit of weight


cdef struct Row:                # with target t = target_share (points + target) + base_share base
    Py_ssize_t i
    RowPiece all                # if whole rows are read
    Points points               # a label, or the classes of a sparse distribution
    bint is_dense               # whether `target` is used
    Py_ssize_t only_class       # the only class with target mass, or SEVERAL
    int exponent                # target masses are in units of 2^exponent
    int result_exponent         # results are in units of 2^result_exponent
    Pair weight                 # sample weight
    Pair target_share
    Pair base_share
    double z_loss
    Pair target_mass            # T
    Pair missed_mass            # T - sum of t_c p_c, for poly_epsilon
    Pair weighted_distance      # the sum of t (m - x)
    Shift shift
    RowSum sums
    Pair own                    # if only one class y has target mass: e_y,
    double own_term             # the same in units of the terms,
    Pair label_distance         # m - x_y,
    bint has_largest            # whether that is 0,
    Pair others                 # and the sum of all other e, since 1 - p_y would cancel


cdef inline void open_reader(
    Reader* reader, const Batch* batch, const LossScratch* scratch, Py_ssize_t first, Py_ssize_t last, const vec* like
) noexcept nogil:
    cdef bint in_float64 = vec is vf64
    cdef Py_ssize_t n = batch.logits.n
    reader.batch = batch
    reader.piece = batch.piece if in_float64 == needs_float64(batch) else min(n, PIECE_ELEMENTS)
    reader.reads_whole_rows = reader.piece == n
    reader.last = last
    reader.mask = NULL
    reader.target_share = two_sum(1, -batch.smoothing)
    reader.base_share = divide(single(batch.smoothing), single(<double>max(n, 1)))
    reader.scale = divide(single(batch.transform.scale), single(batch.divisor))
    lay_out_rows(batch, reader.piece, in_float64, scratch.rows, &reader.scratch)
    open_window(&reader.window, &batch.logits, first, last if reader.reads_whole_rows else first, like)


# --- pieces ----------------------------------------------------------------------------------------------------------


cdef inline void read_mask(Reader* reader, Py_ssize_t i, Py_ssize_t start, Py_ssize_t count) noexcept nogil:
    reader.mask = gather_mask(&reader.batch.where, i, start, count, <char*>reader.scratch.mask)


cdef inline vec* transform_piece(Reader* reader, const vec* x, Py_ssize_t count) noexcept nogil:
    cdef RowScratch* scratch = &reader.scratch
    transform_row(
        x, <vec*>scratch.z, <vec*>scratch.low, <vec*>scratch.cap_slope, count, &reader.batch.transform
    )
    return <vec*>scratch.z


cdef inline vec* read_masked_logits(
    Reader* reader, Py_ssize_t i, Py_ssize_t start, Py_ssize_t count, vec* like
) noexcept nogil:
    """The given logits, -inf where masked."""
    cdef const Batch* batch = reader.batch
    cdef vec* x = gather_through(
        &reader.window, &batch.logits, i, reader.last, start, count, <vec*>reader.scratch.x[0]
    )
    if batch.where.kind != ABSENT:
        read_mask(reader, i, start, count)
        mask_row(x, reader.mask, <vec*>reader.scratch.z, count, -INFINITY)
        x = <vec*>reader.scratch.z
    return x


cdef inline vec* read_logits(
    Reader* reader, Py_ssize_t i, Py_ssize_t start, Py_ssize_t count, vec* like
) noexcept nogil:
    cdef vec* x = read_masked_logits(reader, i, start, count, like)
    return transform_piece(reader, x, count) if transforms(reader.batch) else x


cdef inline Pair logit_at(const Reader* reader, const Row* row, Py_ssize_t c, vec* like) noexcept nogil:
    """One logit, bitwise as `read_logits` gives it."""
    cdef const Batch* batch = reader.batch
    cdef Pair x = single(read_number(place_of(&batch.logits, row.i, c), batch.logits.kind))
    cdef vec given, z, low, cap_slope
    if batch.where.kind != ABSENT and not row_of(&batch.where, row.i)[c * batch.where.step]:
        x.high = -INFINITY
    if transforms(batch):
        given = fill(like, x.high)
        low = cap_slope = fill(like, 0)
        transform_row(&given, &z, &low, &cap_slope, 1, &batch.transform)
        x.high, x.low = get(&z, 0), get(&low, 0)
    return x


cdef inline vec* read_target(
    const Reader* reader, const Row* row, Py_ssize_t start, Py_ssize_t count, vec* like
) noexcept nogil:
    """A dense target times the class weights."""
    cdef const Batch* batch = reader.batch
    cdef Py_ssize_t j
    cdef double x
    cdef vec* t = gather(&batch.target, row.i, start, count, <vec*>reader.scratch.target)
    cdef vec* out = <vec*>reader.scratch.target
    if batch.class_weight.kind == ABSENT and not batch.has_extreme_weights:
        return t
    if batch.has_extreme_weights:
        for j in range(count):
            x = get(t, j)
            put(out, j, value(target_mass_of(batch, x, start + j, row.exponent)) if x != 0 else 0)
    else:
        multiply_row(
            t, gather(&batch.class_weight, 0, start, count, <vec*>reader.scratch.class_weight), out, count
        )
    return out


cdef inline vec* read_base(
    const Reader* reader, const Row* row, Py_ssize_t start, Py_ssize_t count, vec* like
) noexcept nogil:
    """The class weights that smoothing applies to; NULL for ones. The mask of the piece must have been read."""
    cdef const Batch* batch = reader.batch
    cdef Py_ssize_t j
    cdef vec* weight = NULL
    if batch.has_extreme_weights:
        for j in range(count):
            put(<vec*>reader.scratch.base, j, ldexp(class_weight_of(batch, start + j), -row.exponent))
        weight = <vec*>reader.scratch.base
    elif batch.class_weight.kind != ABSENT:
        weight = gather(&batch.class_weight, 0, start, count, <vec*>reader.scratch.class_weight)
    if batch.where.kind == ABSENT:
        return weight
    mask_row(weight, reader.mask, <vec*>reader.scratch.base, count, 0)
    return <vec*>reader.scratch.base


cdef inline void read_target_piece(
    Reader* reader, const Row* row, Py_ssize_t start, Py_ssize_t count, RowPiece* piece, vec* like
) noexcept nogil:
    """The target and the base of a piece, whose mask must have been read."""
    piece.target = <double*>read_target(reader, row, start, count, like) if row.is_dense else NULL
    piece.base = <double*>read_base(reader, row, start, count, like) if row.base_share.high != 0 else NULL


cdef inline double* advance(double* row, Py_ssize_t start, const vec* like) noexcept nogil:
    return <double*>element(<vec*>row, start) if row is not NULL else NULL


cdef inline void read_piece(
    Reader* reader, const Row* row, Py_ssize_t start, Py_ssize_t count, RowPiece* piece, vec* like
) noexcept nogil:
    """Elements start <= j < start + count."""
    if reader.reads_whole_rows:
        piece.x = advance(row.all.x, start, like)
        piece.low = advance(row.all.low, start, like)
        piece.cap_slope = advance(row.all.cap_slope, start, like)
        piece.target = advance(row.all.target, start, like)
        piece.base = advance(row.all.base, start, like)
        return
    piece.x = <double*>read_logits(reader, row.i, start, count, like)
    piece.low, piece.cap_slope = reader.scratch.low, reader.scratch.cap_slope
    read_target_piece(reader, row, start, count, piece, like)


# --- rows ------------------------------------------------------------------------------------------------------------


cdef inline Peak read_peak(Reader* reader, Row* row, vec* like) noexcept nogil:
    """The largest logit. Where whole rows are read, this reads the row into `row.all`. A positive scale and a softcap
    preserve the order of the logits, so only the largest has to be transformed."""
    cdef const Batch* batch = reader.batch
    cdef Py_ssize_t n = batch.logits.n, start = 0, count
    cdef bint keeps_order = transforms(batch) and batch.transform.scale > 0
    cdef Pair largest
    cdef Peak peak = no_peak()
    cdef vec* x = NULL
    while start < n:
        count = min(reader.piece, n - start)
        if keeps_order:
            x = read_masked_logits(reader, row.i, start, count, like)
            raise_peak(&peak, x, <vec*>NULL, start, count)
        else:
            x = read_logits(reader, row.i, start, count, like)
            raise_peak(&peak, x, <vec*>reader.scratch.low, start, count)
        start += count
    if keeps_order and peak.index >= 0:
        largest = logit_at(reader, row, peak.index, like)
        peak.high, peak.low = largest.high, largest.low
    if reader.reads_whole_rows:
        if keeps_order:
            x = transform_piece(reader, x, n)
        row.all.x, row.all.low, row.all.cap_slope = <double*>x, reader.scratch.low, reader.scratch.cap_slope
        read_target_piece(reader, row, 0, n, &row.all, like)
    return peak


cdef inline void read_dense_target(Reader* reader, const LossScratch* scratch, Row* row, vec* like) noexcept nogil:
    """If a dense target is nonzero for one class only, store that class as a point."""
    cdef const Batch* batch = reader.batch
    cdef Py_ssize_t n = batch.logits.n, start = 0, count, c = NO_CLASS
    row.points = scratch.points
    row.points.count = 0
    while start < n and c != SEVERAL:
        count = min(reader.piece, n - start)
        c = find_only_class(
            gather(&batch.target, row.i, start, count, <vec*>reader.scratch.target), count, start, c
        )
        start += count
    row.is_dense = c < 0
    if c >= 0:
        row.points.index[0] = c
        row.points.mass[0] = target_mass_of(
            batch, read_number(place_of(&batch.target, row.i, c), batch.target.kind), c, row.exponent
        )
        row.points.count = row.points.mass[0].high != 0


cdef inline Pair share_among(const Batch* batch, Py_ssize_t i) noexcept nogil:
    """smoothing / the number of classes that `where` leaves in row i."""
    cdef Py_ssize_t j, count = 0
    for j in range(batch.logits.n):
        count += row_of(&batch.where, i)[j * batch.where.step] != 0
    return divide(single(batch.smoothing), single(<double>max(count, 1)))


cdef inline void describe_row(
    Reader* reader, Py_ssize_t i, double weight, const LossScratch* scratch, Row* row, vec* like
) noexcept nogil:
    """Target and weights of row i, before its logits are read."""
    cdef const Batch* batch = reader.batch
    cdef int weight_exponent = 0
    row.i = i
    row.exponent = exponent_of_row(batch, i, True)
    row.result_exponent = 0
    row.z_loss = batch.z_loss
    row.target_share, row.base_share = reader.target_share, reader.base_share
    if batch.form == DISTRIBUTION:
        read_dense_target(reader, scratch, row, like)
    else:
        row.is_dense = False
        row.points = read_points(batch, i, scratch, row.exponent)
    row.only_class = row.points.index[0] if row.points.count == 1 and not smooths(batch) else SEVERAL
    if batch.smoothing == 1:        # 0 times an infinite distance would be NaN
        row.points.count = min(row.points.count, 0)
        row.is_dense = False
    if smooths(batch) and batch.where.kind != ABSENT:
        row.base_share = share_among(batch, i)
    if batch.has_extreme_weights:
        row.z_loss = ldexp(batch.z_loss, -row.exponent)
        weight = frexp(weight, &weight_exponent)
        row.result_exponent = row.exponent + weight_exponent - batch.weight_exponent
    row.weight = single(weight)
