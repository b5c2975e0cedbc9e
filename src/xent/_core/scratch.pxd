# The scratch of a thread, laid out as structs with named fields. Each layout is a function that is called twice:
# without memory, for the length that it needs, and with it. Lengths count float64 numbers, whatever the type of rows.

from libc.stdint cimport int64_t

from xent._core.batch cimport Batch, DISTRIBUTION, LABELS, SPARSE, needs_float64, smooths, transforms
from xent._core.pairs cimport Pair
from xent._core.rows cimport PIECE_ELEMENTS
from xent._core.simd cimport vf32, vf64
from xent._core.streaming cimport Traffic, no_traffic
from xent._core.strided cimport (
    ABSENT, F64, Kind, Operand, WINDOW_BYTES, has_window, is_contiguous_mask, is_plain,
)

cdef enum:
    LINE_DOUBLES = 8                    # numbers in a cache line, as in the longest vector
    SCRATCH_BYTES = 1000 << 10          # rows of all threads of a call; all scratch stays below a MiB
    MAX_TILE_CLASSES = 256              # rows of so many classes, or fewer, may be computed side by side in tiles
    MAX_TILE_VECTORS = 2                # vectors per class in a tile


cdef enum TileBytes:            # rows up to this length are faster in tiles: the more there is to do once a row, the longer
    SOFTMAX_TILE = 512
    LOG_SOFTMAX_TILE = 768
    LOSS_TILE = 1024            # and logsumexp


cdef struct Memory:             # a bump allocator over the scratch
    double* start               # NULL: only count `used`
    Py_ssize_t used


cdef inline double* take(Memory* memory, bint wanted, Py_ssize_t length) noexcept nogil:
    """Take memory for `length` numbers, aligned to a cache line; NULL if it is not wanted."""
    cdef double* taken = NULL
    if wanted:
        if memory.start is not NULL:
            taken = memory.start + memory.used
        memory.used += (length + LINE_DOUBLES - 1) // LINE_DOUBLES * LINE_DOUBLES
    return taken


cdef inline Py_ssize_t row_space(Py_ssize_t n) noexcept nogil:
    """The length of a row of n numbers plus one line: rows a power of two apart would share cache sets."""
    return (n + LINE_DOUBLES - 1) // LINE_DOUBLES * LINE_DOUBLES + LINE_DOUBLES


cdef inline Py_ssize_t mask_space(Py_ssize_t n) noexcept nogil:
    """Of n bytes."""
    return n // <Py_ssize_t>sizeof(double) + 1


cdef inline Py_ssize_t tile_space(Py_ssize_t n) noexcept nogil:
    return MAX_TILE_VECTORS * LINE_DOUBLES * n


cdef inline bint fits_scratch(
    Py_ssize_t rows, Py_ssize_t n, Kind kind, Py_ssize_t windows, Py_ssize_t threads
) noexcept nogil:
    """Whether the scratch of a thread can hold `rows` rows of n elements beside its windows."""
    cdef Py_ssize_t size = 8 if kind == F64 else 4
    return rows * n * size <= SCRATCH_BYTES // threads - windows * WINDOW_BYTES


cdef inline bint fits_tile(Py_ssize_t n, Kind kind, TileBytes most) noexcept nogil:
    return 0 < n * (8 if kind == F64 else 4) <= most


cdef inline bint is_used_in_place(const Operand* operand, bint in_float64) noexcept nogil:
    """Whether a float64 or float32 kernel can use the rows in place."""
    return is_plain(operand, <vf64*>NULL) if in_float64 else is_plain(operand, <vf32*>NULL)


cdef inline bint is_native_in_place(const Operand* operand) noexcept nogil:
    """Whether a kernel of the operand's own type can use the rows in place."""
    return is_used_in_place(operand, operand.kind == F64)


# --- logsumexp and softmax -------------------------------------------------------------------------------------------


cdef struct SoftmaxTask:        # (*) may be absent
    Operand x
    Operand where               # (*) bool: the elements that count
    Operand out
    bint logarithm
    Py_ssize_t piece            # elements of a row read at a time


cdef struct LogsumexpTask:
    Operand x
    Operand where               # (*)
    Operand weight              # (*)
    Operand out
    Operand sign                # (*)
    Py_ssize_t piece


cdef struct PrimitiveScratch:   # of logsumexp and softmax; fields not needed are NULL
    double* x[2]                # logits that are masked or cannot be read in place: a row and the next one
    char* mask                  # one that cannot be read in place
    double* result[2]           # results that cannot be written in place; used alternately if they stream
    double* tile                # logits, one row per lane
    double* tile_result


cdef struct WeightedScratch:    # of a weighted logsumexp, with terms factor exp(exponent + exponent_low)
    double* exponent
    double* exponent_low
    double* factor
    double* x
    double* weight
    char* mask


cdef inline bint copies_logits(const Operand* x, const Operand* where) noexcept nogil:
    return where.kind != ABSENT or not is_native_in_place(x)


cdef inline bint copies_mask(const Operand* where) noexcept nogil:
    return where.kind != ABSENT and not is_contiguous_mask(where)


cdef inline Py_ssize_t result_rows(const Operand* out) noexcept nogil:
    """The number of scratch rows for results."""
    return 0 if out.kind == ABSENT else 2 if out.streams else not is_native_in_place(out)


cdef inline Py_ssize_t lay_out_primitive(
    const Operand* x, const Operand* where, const Operand* out, Py_ssize_t piece, double* start,
    PrimitiveScratch* scratch
) noexcept nogil:
    """`out` is absent if the result is one number per row."""
    cdef Memory memory
    cdef bint in_pieces = piece < x.n, has_tiles = fits_tile(x.n, x.kind, LOSS_TILE), copies = copies_logits(x, where)
    memory.start, memory.used = start, 0
    scratch.result[0] = take(&memory, result_rows(out) > 0 or (in_pieces and out.kind != ABSENT), row_space(piece))
    scratch.result[1] = take(&memory, result_rows(out) > 1, row_space(piece))
    scratch.x[0] = take(&memory, copies or (in_pieces and out.kind != ABSENT), row_space(piece))
    scratch.x[1] = take(&memory, copies, row_space(piece))
    scratch.mask = <char*>take(&memory, copies_mask(where), mask_space(piece))
    scratch.tile = take(&memory, has_tiles, tile_space(x.n))
    scratch.tile_result = take(&memory, has_tiles, tile_space(x.n))
    return memory.used


cdef inline Py_ssize_t lay_out_weighted(
    const Operand* x, const Operand* where, double* start, WeightedScratch* scratch
) noexcept nogil:
    cdef Memory memory
    cdef Py_ssize_t space = row_space(min(x.n, PIECE_ELEMENTS))
    memory.start, memory.used = start, 0
    scratch.exponent = take(&memory, True, space)
    scratch.exponent_low = take(&memory, True, space)
    scratch.factor = take(&memory, True, space)
    scratch.x = take(&memory, True, space)
    scratch.weight = take(&memory, True, space)
    scratch.mask = <char*>take(&memory, copies_mask(where), mask_space(min(x.n, PIECE_ELEMENTS)))
    return memory.used


cdef inline Py_ssize_t plan_logsumexp(LogsumexpTask* task, Py_ssize_t threads) noexcept:
    """Choose the piece; return the length of the scratch of each thread."""
    cdef Py_ssize_t n = task.x.n, rows = 2 * copies_logits(&task.x, &task.where) + copies_mask(&task.where)
    cdef Operand absent
    cdef PrimitiveScratch unused
    cdef WeightedScratch unused_weighted
    absent.kind = ABSENT
    task.piece = n
    if n > PIECE_ELEMENTS and not fits_scratch(rows, n, task.x.kind, has_window(&task.x), threads):
        task.piece = PIECE_ELEMENTS
    if task.weight.kind != ABSENT:
        return lay_out_weighted(&task.x, &task.where, NULL, &unused_weighted)
    return lay_out_primitive(&task.x, &task.where, &absent, task.piece, NULL, &unused)


cdef inline Py_ssize_t plan_softmax(SoftmaxTask* task, Py_ssize_t threads) noexcept:
    """Choose the piece, and whether the output streams; return the length of the scratch of each thread."""
    cdef Py_ssize_t n = task.x.n, rows = 2 * copies_logits(&task.x, &task.where) + copies_mask(&task.where)
    cdef Py_ssize_t windows = has_window(&task.x) + has_window(&task.out)
    cdef PrimitiveScratch unused
    if not fits_scratch(rows + result_rows(&task.out), n, task.x.kind, windows, threads):
        task.out.streams = False
    rows += result_rows(&task.out)
    task.piece = n
    if n > PIECE_ELEMENTS and not fits_scratch(rows, n, task.x.kind, windows, threads):
        task.piece = PIECE_ELEMENTS
    return lay_out_primitive(&task.x, &task.where, &task.out, task.piece, NULL, &unused)


# --- losses ----------------------------------------------------------------------------------------------------------


cdef struct Points:             # distinct classes with nonzero mass (under the class weights)
    Py_ssize_t count            # or IGNORED, or INVALID (see targets.pxd)
    int64_t* index
    Pair* mass


cdef struct LossScratch:
    Points points               # of one row
    int64_t* table              # hash table of the points of a sparse distribution (see `find_point`)
    Py_ssize_t table_size
    double* tile                # logits, one row per lane
    double* tile_grad
    double* tile_target         # if there may be mass on several classes
    double* rows                # see `lay_out_rows`; tiles gather rows in it
    Traffic traffic


cdef struct RowScratch:         # one piece per field; NULL if the options do not need it
    double* grad[2]             # gradients that cannot be written in place; used alternately if they stream
    double* hess                # a Hessian that cannot be written in place
    double* x[2]                # logits that cannot be read in place: a row and the next one
    double* z                   # masked, scaled or capped
    double* low
    double* cap_slope
    double* mask
    double* target
    double* class_weight
    double* base
    double* mass                # t_c, all shares together
    double* terms               # exponentials, where the gradient does not hold them


cdef inline bint may_have_units(const Batch* batch, Py_ssize_t piece, bint in_float64) noexcept nogil:
    """Whether rows may have units of their own: all under extreme weights; otherwise those with an extreme sample
    weight, which are repeated in float64, in pieces."""
    return batch.has_extreme_weights or (
        in_float64 and piece <= PIECE_ELEMENTS and batch.sample_weight.kind != ABSENT
    )


cdef inline Py_ssize_t lay_out_rows(
    const Batch* batch, Py_ssize_t piece, bint in_float64, double* start, RowScratch* rows
) noexcept nogil:
    cdef Memory memory
    cdef Py_ssize_t space = row_space(piece if in_float64 else (piece + 1) // 2)
    cdef bint masks = batch.where.kind != ABSENT, has_class_weights = batch.class_weight.kind != ABSENT
    cdef bint is_dense = batch.form == DISTRIBUTION
    cdef bint copies_grad = batch.grad.kind != ABSENT and (
        batch.grad.streams or not is_used_in_place(&batch.grad, in_float64)
    )
    memory.start, memory.used = start, 0
    rows.grad[0] = take(&memory, copies_grad, space)
    rows.grad[1] = take(&memory, copies_grad and batch.grad.streams, space)
    rows.hess = take(&memory, batch.hess.kind != ABSENT and not is_used_in_place(&batch.hess, in_float64), space)
    rows.x[0] = take(&memory, not is_used_in_place(&batch.logits, in_float64), space)
    rows.x[1] = take(&memory, not is_used_in_place(&batch.logits, in_float64), space)
    rows.z = take(&memory, masks or transforms(batch), space)
    rows.low = take(&memory, transforms(batch), space)
    rows.cap_slope = take(&memory, batch.transform.softcap != 0, space)
    rows.mask = take(&memory, masks and batch.where.step != 1, space)
    rows.target = take(
        &memory, is_dense and (
            has_class_weights or may_have_units(batch, piece, in_float64)
            or not is_used_in_place(&batch.target, in_float64)
        ), space
    )
    rows.class_weight = take(
        &memory, has_class_weights and (smooths(batch) or is_dense) and not in_float64, space
    )
    rows.base = take(&memory, smooths(batch) and (masks or may_have_units(batch, piece, in_float64)), space)
    rows.mass = take(&memory, batch.poly_epsilon != 0, space)
    rows.terms = take(&memory, batch.poly_epsilon != 0, space)
    return memory.used


cdef inline Py_ssize_t choose_table_size(Py_ssize_t points) noexcept nogil:
    cdef Py_ssize_t size = 2
    while size < 2 * points:
        size *= 2
    return size


cdef inline Py_ssize_t lay_out_loss(const Batch* batch, double* start, LossScratch* scratch) noexcept nogil:
    cdef Memory memory
    cdef RowScratch unused
    cdef Py_ssize_t n = batch.logits.n, rows, points = max(batch.target.n, 1) if batch.form == SPARSE else 1
    cdef bint has_tiles = n <= MAX_TILE_CLASSES
    memory.start, memory.used = start, 0
    scratch.table_size = choose_table_size(points) if batch.form == SPARSE else 0
    scratch.points.count = 0
    scratch.points.mass = <Pair*>take(&memory, True, 2 * points)
    scratch.points.index = <int64_t*>take(&memory, True, points)
    scratch.table = <int64_t*>take(&memory, batch.form == SPARSE, scratch.table_size)
    scratch.tile = take(&memory, has_tiles, tile_space(n))
    scratch.tile_grad = take(&memory, has_tiles, tile_space(n))
    scratch.tile_target = take(&memory, has_tiles and (batch.form != LABELS or smooths(batch)), tile_space(n))
    # Rows that overflow float32, or have an extreme sample weight, are computed again in float64, in pieces.
    rows = lay_out_rows(batch, batch.piece, needs_float64(batch), NULL, &unused)
    rows = max(rows, lay_out_rows(batch, min(n, PIECE_ELEMENTS), True, NULL, &unused))
    scratch.rows = take(&memory, True, max(rows, row_space(n)) if has_tiles else rows)
    scratch.traffic = no_traffic(<vf32*>start)
    return memory.used


cdef inline Py_ssize_t plan_batch(Batch* batch, Py_ssize_t threads) noexcept:
    """Choose the piece, and whether the gradient streams; return the length of the scratch of each thread."""
    cdef Py_ssize_t n = batch.logits.n, most
    cdef Py_ssize_t windows = has_window(&batch.logits) + has_window(&batch.grad) + has_window(&batch.hess)
    cdef bint in_float64 = needs_float64(batch)
    cdef RowScratch unused
    cdef LossScratch unused_loss
    most = (SCRATCH_BYTES // threads - windows * WINDOW_BYTES) // <Py_ssize_t>sizeof(double)
    if lay_out_rows(batch, n, in_float64, NULL, &unused) > most:
        batch.grad.streams = False
    batch.piece = n
    if n > PIECE_ELEMENTS and lay_out_rows(batch, n, in_float64, NULL, &unused) > most:
        batch.piece = PIECE_ELEMENTS
    return lay_out_loss(batch, NULL, &unused_loss)


# --- measures --------------------------------------------------------------------------------------------------------


cdef struct WeightScratch:      # rows of a piece, for a dense target
    double* target
    double* class_weight


cdef inline Py_ssize_t lay_out_weights(const Batch* batch, double* start, WeightScratch* scratch) noexcept nogil:
    cdef Memory memory
    cdef bint is_dense = batch.form == DISTRIBUTION
    memory.start, memory.used = start, 0
    scratch.target = take(&memory, is_dense, row_space(PIECE_ELEMENTS))
    scratch.class_weight = take(&memory, is_dense, row_space(PIECE_ELEMENTS))
    return memory.used
