# Describes the rows of an array (address, strides, type) so that loops need no Python object: any strides, any number
# of batch axes, any real dtype.

from libc.stdint cimport int8_t, int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memset

cimport numpy as cnp

from xent._core.scheduler cimport Work
from xent._core.simd cimport (
    XENT_LANES_f32, XENT_LANES_f64, element, every_second, get, lanes, put, vec, vf32, vf64, xent_half_f32,
    xent_narrow_bf16, xent_narrow_f16, xent_read_bf16, xent_read_f16,
    xent_transpose_rows_f32, xent_transpose_rows_f64, xent_widen_bf16, xent_widen_f16, xent_write_bf16, xent_write_f16,
)
from xent._core.streaming cimport Finish, Traffic, finish, send

cdef enum:
    MAX_DIMS = 64
    PREFETCH_BYTES = 1 << 20    # rows up to this size are prefetched while the previous row is computed
    AHEAD_IN_ROW = 1 << 12      # bytes of an output fetched ahead
    WINDOW_ROWS = 16            # float32 rows: one cache line across
    WINDOW_BYTES = 1 << 17

    # Outputs larger than STREAM_BYTES, more than what a core has for itself, bypass the cache, if their rows are between
    # these two lengths: shorter ones are mostly first and last lines, and two longer ones do not fit the scratch.
    STREAM_BYTES = 1 << 22
    MIN_STREAM_ROW = 1 << 10    # bytes
    MAX_STREAM_ROW = 1 << 19


cdef enum Kind:
    ABSENT, F16, BF16, F32, F64, BOOL, I8, I16, I32, I64, U8, U16, U32, U64


cdef struct Operand:
    char* data
    Kind kind
    Py_ssize_t n                        # elements of a row
    Py_ssize_t step                     # bytes from one to the next
    Py_ssize_t run                      # elements `step` bytes apart: n, or fewer if the axes of the row do not merge
    bint streams                        # whether rows of an output bypass the cache
    int ndim                            # batch axes, merged where strides allow
    int row_ndim                        # axes of the row except the last; they follow the batch axes
    Py_ssize_t shape[MAX_DIMS]
    Py_ssize_t strides[MAX_DIMS]


cdef inline Kind kind_of(cnp.ndarray array) noexcept:
    cdef char letter = (<cnp.dtype>cnp.PyArray_DESCR(array)).kind
    cdef Py_ssize_t size = cnp.PyArray_ITEMSIZE(array)
    if letter == c"f":
        return F16 if size == 2 else F32 if size == 4 else F64
    if letter == c"V":      # bfloat16 is not NumPy's own
        return BF16
    if letter == c"b":
        return BOOL
    if letter == c"i":
        return I8 if size == 1 else I16 if size == 2 else I32 if size == 4 else I64
    return U8 if size == 1 else U16 if size == 2 else U32 if size == 4 else U64


cdef inline int merge_axes(
    cnp.ndarray array, int first, int last, Py_ssize_t* shape, Py_ssize_t* strides
) noexcept:
    """Merge adjacent axes first <= axis < last where strides allow; return how many remain."""
    cdef Py_ssize_t length, stride
    cdef int axis, count = 0
    for axis in range(first, last):
        length = cnp.PyArray_DIM(array, axis)
        stride = cnp.PyArray_STRIDE(array, axis)
        if length == 1:
            continue
        if count > 0 and strides[count - 1] == length * stride:
            shape[count - 1] *= length
            strides[count - 1] = stride
        else:
            shape[count] = length
            strides[count] = stride
            count += 1
    return count


cdef inline void bind(Operand* operand, object maybe, int row_axes) noexcept:
    """Describe an array (or None), whose last `row_axes` axes are the row; with 0 of them a row is one element."""
    cdef cnp.ndarray array
    cdef int axes, axis
    operand.kind = ABSENT
    operand.data = NULL
    operand.streams = False
    operand.n = operand.step = operand.run = operand.ndim = operand.row_ndim = 0
    if maybe is None:
        return
    array = <cnp.ndarray>maybe
    axes = cnp.PyArray_NDIM(array)
    operand.data = <char*>cnp.PyArray_DATA(array)
    operand.kind = kind_of(array)
    operand.n = operand.run = 1
    operand.step = cnp.PyArray_ITEMSIZE(array)
    operand.ndim = merge_axes(array, 0, axes - row_axes, operand.shape, operand.strides)
    axes = operand.ndim + merge_axes(
        array, axes - row_axes, axes, operand.shape + operand.ndim, operand.strides + operand.ndim
    )
    for axis in range(operand.ndim, axes):
        operand.n *= operand.shape[axis]
    if axes > operand.ndim:
        operand.run = operand.shape[axes - 1]
        operand.step = operand.strides[axes - 1]
        operand.row_ndim = axes - 1 - operand.ndim


cdef inline void bind_output(Operand* operand, object maybe, int row_axes, const Operand* source) noexcept:
    """`bind` an output, and decide whether it streams. In-place results do not: they are in the cache already."""
    bind(operand, maybe, row_axes)
    if operand.kind != ABSENT and operand.data != source.data:
        operand.streams = (
            cnp.PyArray_NBYTES(<cnp.ndarray>maybe) > STREAM_BYTES
            and MIN_STREAM_ROW <= operand.n * operand.step <= MAX_STREAM_ROW
        )


cdef inline double* data_of_blocks(sums, Work work, Py_ssize_t per_block) except? NULL:
    """The data of a float64 array with `per_block` numbers for each block of the work."""
    cdef Py_ssize_t size = cnp.PyArray_SIZE(<cnp.ndarray>sums)
    if size != work.job.number * per_block:
        raise ValueError(f"sums holds {size} numbers; {work.job.number} blocks of {per_block} expected")
    return <double*>cnp.PyArray_DATA(<cnp.ndarray>sums)


cdef inline char* row_of(const Operand* operand, Py_ssize_t i) noexcept nogil:
    cdef char* row = operand.data
    cdef int axis = operand.ndim - 1
    while axis > 0:
        row += i % operand.shape[axis] * operand.strides[axis]
        i = i // operand.shape[axis]
        axis -= 1
    return row + i * operand.strides[0] if axis == 0 else row


cdef inline char* place_of(const Operand* operand, Py_ssize_t i, Py_ssize_t j) noexcept nogil:
    """Element j of row i."""
    cdef char* place = row_of(operand, i)
    cdef int axis = operand.ndim + operand.row_ndim
    if operand.run == operand.n:
        return place + j * operand.step
    place += j % operand.run * operand.step
    j = j // operand.run
    while axis > operand.ndim:
        axis -= 1
        place += j % operand.shape[axis] * operand.strides[axis]
        j = j // operand.shape[axis]
    return place


cdef inline Py_ssize_t run_from(const Operand* operand, Py_ssize_t j) noexcept nogil:
    """The number of elements from j on that are `step` bytes apart."""
    return (operand.n if operand.run == operand.n else operand.run) - j % operand.run


cdef inline double read_number(const char* p, Kind kind) noexcept nogil:
    if kind == F32:
        return (<const float*>p)[0]
    if kind == F64:
        return (<const double*>p)[0]
    if kind == F16:
        return xent_read_f16(p)
    if kind == BF16:
        return xent_read_bf16(p)
    if kind == U64:
        return <double>(<const uint64_t*>p)[0]
    return <double>read_integer(p, kind)


cdef inline int64_t read_integer(const char* p, Kind kind) noexcept nogil:
    """An integer or bool; a uint64 beyond the range of int64 comes out negative."""
    if kind == I64:
        return (<const int64_t*>p)[0]
    if kind == I32:
        return (<const int32_t*>p)[0]
    if kind == I16:
        return (<const int16_t*>p)[0]
    if kind == I8:
        return (<const int8_t*>p)[0]
    if kind == U8 or kind == BOOL:
        return (<const uint8_t*>p)[0]
    if kind == U16:
        return (<const uint16_t*>p)[0]
    if kind == U32:
        return (<const uint32_t*>p)[0]
    return <int64_t>(<const uint64_t*>p)[0]


cdef inline bint fits_float32(const Operand* operand) noexcept nogil:
    """Whether float32 is wide enough to compute in: every type but float64, and None."""
    return operand.kind != F64


cdef inline bint is_native(const Operand* operand, const vec* like) noexcept nogil:
    """Whether its elements are of the kernel's type."""
    if vec is vf32:
        return operand.kind == F32
    else:
        return operand.kind == F64


cdef inline bint is_plain(const Operand* operand, const vec* like) noexcept nogil:
    """Whether rows can be used where they are: contiguous, and of the kernel's type."""
    return (
        is_native(operand, like) and operand.step == <Py_ssize_t>sizeof(vec) // lanes(like)
        and operand.run == operand.n
    )


cdef inline bint is_contiguous_mask(const Operand* mask) noexcept nogil:
    """Whether the rows of a mask can be used where they are."""
    return mask.step == 1 and mask.run == mask.n


cdef inline Py_ssize_t widen(
    const Operand* operand, const char* source, Py_ssize_t j, Py_ssize_t stop, vf64* scratch
) noexcept nogil:
    """Convert adjacent float32, float16 or bfloat16 from element j on, as long as they fill vectors; return the first
    that is left."""
    cdef Py_ssize_t size = 4 if operand.kind == F32 else 2, part
    cdef vf32 narrow
    if operand.kind not in (F32, F16, BF16) or operand.step != size:
        return j
    while j + XENT_LANES_f32 <= stop:
        if operand.kind == F32:
            narrow = (<const vf32*>(source + size * j))[0]
        elif operand.kind == F16:
            narrow = xent_widen_f16(source + size * j)
        else:
            narrow = xent_widen_bf16(source + size * j)
        for part in range(XENT_LANES_f32 // XENT_LANES_f64):
            (<vf64*>element(scratch, j + part * XENT_LANES_f64))[0] = xent_half_f32(narrow, part)
        j += XENT_LANES_f32
    return j


cdef inline vec* gather(
    const Operand* operand, Py_ssize_t i, Py_ssize_t first, Py_ssize_t n, vec* scratch
) noexcept nogil:
    """n contiguous elements of row i: in place, or copied to the scratch."""
    cdef char* source
    cdef Py_ssize_t j = 0, stop
    if is_plain(operand, scratch):
        return <vec*>place_of(operand, i, first)
    while j < n:
        stop = min(n, j + run_from(operand, first + j))
        source = place_of(operand, i, first + j) - j * operand.step
        if is_native(operand, scratch) and operand.step == 2 * <Py_ssize_t>sizeof(vec) // lanes(scratch):
            while j + lanes(scratch) < stop:    # what lies between the elements is read, but nothing after the last
                (<vec*>element(scratch, j))[0] = every_second(<const vec*>(source + j * operand.step))
                j += lanes(scratch)
        if vec is vf64:
            j = widen(operand, source, j, stop, scratch)
        if operand.kind == F32:
            for j in range(j, stop):
                put(scratch, j, (<float*>(source + j * operand.step))[0])
        elif operand.kind == F64:
            for j in range(j, stop):
                put(scratch, j, (<double*>(source + j * operand.step))[0])
        else:
            if vec is vf32 and operand.step == 2:
                if operand.kind == F16:
                    while j + lanes(scratch) <= stop:
                        (<vf32*>element(scratch, j))[0] = xent_widen_f16(source + 2 * j)
                        j += lanes(scratch)
                elif operand.kind == BF16:
                    while j + lanes(scratch) <= stop:
                        (<vf32*>element(scratch, j))[0] = xent_widen_bf16(source + 2 * j)
                        j += lanes(scratch)
            for j in range(j, stop):
                put(scratch, j, read_number(source + j * operand.step, operand.kind))
        j = stop
    return scratch


cdef inline const char* gather_mask(
    const Operand* mask, Py_ssize_t i, Py_ssize_t first, Py_ssize_t n, char* scratch
) noexcept nogil:
    """`gather` of a mask: n contiguous bytes."""
    cdef char* source
    cdef Py_ssize_t j = 0, stop
    if is_contiguous_mask(mask):
        return place_of(mask, i, first)
    while j < n:
        stop = min(n, j + run_from(mask, first + j))
        source = place_of(mask, i, first + j) - j * mask.step
        if mask.step == 0:
            memset(scratch + j, source[0], stop - j)
        else:
            for j in range(j, stop):
                scratch[j] = source[j * mask.step]
        j = stop
    return scratch


cdef inline vec* next_row(const Operand* operand, Py_ssize_t i, vec* row) noexcept nogil:
    """The row to prefetch while row i, at `row`, is computed: the next one, or `row` itself (no effect) if both would
    not fit the cache."""
    if operand.step > <Py_ssize_t>sizeof(double) or operand.run < operand.n:
        return row
    if operand.n * operand.step > PREFETCH_BYTES:
        return row
    return <vec*>row_of(operand, i + 1)


cdef inline vec* next_place(const Operand* operand, Py_ssize_t i, vec* row) noexcept nogil:
    """The output to prefetch while row i, at `row`, is written: the next row, or the part of a long row just ahead. A
    store that misses the cache delays all later stores."""
    if row != <vec*>row_of(operand, i):     # `row` is a scratch
        return row
    return <vec*>(<char*>row + min(operand.n * operand.step, AHEAD_IN_ROW))


cdef inline vec* place(const Operand* operand, Py_ssize_t i, Py_ssize_t first, vec* scratch) noexcept nogil:
    """Where to write elements of row i of an output: in place, or a scratch that `scatter` copies to the output."""
    if is_plain(operand, scratch):
        return <vec*>place_of(operand, i, first)
    return scratch


cdef inline void scatter(
    const Operand* operand, Py_ssize_t i, Py_ssize_t first, Py_ssize_t n, const vec* scratch
) noexcept nogil:
    cdef char* target
    cdef Py_ssize_t j = 0, stop
    if is_plain(operand, scratch):
        return
    while j < n:
        stop = min(n, j + run_from(operand, first + j))
        target = place_of(operand, i, first + j) - j * operand.step
        if operand.kind == F32:
            for j in range(j, stop):
                (<float*>(target + j * operand.step))[0] = <float>get(scratch, j)
        elif operand.kind == F64:
            for j in range(j, stop):
                (<double*>(target + j * operand.step))[0] = get(scratch, j)
        else:
            if vec is vf32 and operand.step == 2:
                if operand.kind == F16:
                    while j + lanes(scratch) <= stop:
                        xent_narrow_f16(target + 2 * j, (<const vf32*>element(scratch, j))[0])
                        j += lanes(scratch)
                else:
                    while j + lanes(scratch) <= stop:
                        xent_narrow_bf16(target + 2 * j, (<const vf32*>element(scratch, j))[0])
                        j += lanes(scratch)
            for j in range(j, stop):
                write_float(target + j * operand.step, operand.kind, get(scratch, j))
        j = stop


# An operand with adjacent rows (stride of one element between rows) is read or written through a window: a transposed
# copy of up to 16 rows, so that every element of a cache line is used. A single row would use one element per line.

cdef struct Window:             # rows first <= i < first + count
    char* rows
    Py_ssize_t stride           # bytes
    Py_ssize_t most             # rows that fit; 0 if there is no window
    Py_ssize_t first
    Py_ssize_t count


cdef inline bint has_window(const Operand* operand) noexcept nogil:
    """Whether the operand uses a window: its rows are adjacent, and at least two of them fit."""
    cdef Py_ssize_t size = 8 if operand.kind == F64 else 4
    if operand.kind not in (F32, F64) or operand.ndim == 0 or operand.run < operand.n or operand.step == size:
        return False
    return operand.strides[operand.ndim - 1] == size and 0 < (operand.n + 16) * size <= WINDOW_BYTES // 2


cdef inline void open_window(
    Window* window, const Operand* operand, Py_ssize_t first, Py_ssize_t last, const vec* like
) noexcept nogil:
    cdef Py_ssize_t size = sizeof(vec) // lanes(like)
    window.most = window.stride = window.first = window.count = 0
    window.rows = NULL
    if not has_window(operand) or not is_native(operand, like):
        return
    window.stride = (operand.n + 16) * size     # padded: elements a power of two apart would share cache sets
    window.most = min(min(WINDOW_ROWS, WINDOW_BYTES // window.stride), last - first)
    if window.most >= 2:
        window.rows = <char*>malloc(window.most * window.stride + sizeof(vec))
    if window.rows is NULL:
        window.most = 0


cdef inline void close_window(Window* window) noexcept nogil:
    free(window.rows)


cdef inline bint move_window(Window* window, const Operand* operand, Py_ssize_t i, Py_ssize_t last) noexcept nogil:
    """Move the window to start at row i; return False if it already holds row i."""
    cdef Py_ssize_t run = operand.shape[operand.ndim - 1]
    if window.first <= i < window.first + window.count:
        return False
    window.first = i
    window.count = min(min(window.most, last - i), run - i % run)
    return True


cdef inline void transpose(Window* window, const Operand* operand, bint back, const vec* like) noexcept nogil:
    cdef char* aside = row_of(operand, window.first)
    if vec is vf32:
        xent_transpose_rows_f32(aside, operand.step, window.rows, window.stride, operand.n, window.count, back)
    else:
        xent_transpose_rows_f64(aside, operand.step, window.rows, window.stride, operand.n, window.count, back)


cdef inline vec* gather_through(
    Window* window, const Operand* operand, Py_ssize_t i, Py_ssize_t last, Py_ssize_t start, Py_ssize_t count,
    vec* scratch
) noexcept nogil:
    """`gather` for row i < last; a window always returns the whole row."""
    if window.most == 0:
        return gather(operand, i, start, count, scratch)
    if move_window(window, operand, i, last):
        transpose(window, operand, False, scratch)
    return <vec*>(window.rows + (i - window.first) * window.stride)


cdef inline vec* place_through(
    Window* window, const Operand* operand, Py_ssize_t i, Py_ssize_t last, vec* scratch
) noexcept nogil:
    """`place` for a whole row, called in row order. If the output streams, consecutive rows need separate scratches."""
    if window.most == 0:
        return scratch if operand.streams else place(operand, i, 0, scratch)
    move_window(window, operand, i, last)
    return <vec*>(window.rows + (i - window.first) * window.stride)


cdef inline void scatter_through(
    Window* window, const Operand* operand, Py_ssize_t i, vec* place, const vec* row, const Finish* how,
    Traffic* traffic
) noexcept nogil:
    """Finish a row and store it, by way of `place` from `place_through`, while the next row is computed; in a window, or
    where elements are converted, at once: a window is copied to the output when its last row is complete."""
    if window.most == 0 and is_plain(operand, row):
        send(traffic, <vec*>row_of(operand, i), row, operand.n, operand.streams, how)
        return
    send(traffic, place, row, operand.n, False, how)
    finish(traffic, 0, row)
    if window.most == 0:
        scatter(operand, i, 0, operand.n, place)
    elif i == window.first + window.count - 1:
        transpose(window, operand, True, row)


cdef inline bint is_ready(const Window* window, Py_ssize_t i) noexcept nogil:
    """Whether row i can be read without moving the window."""
    return window.most == 0 or window.first <= i < window.first + window.count


cdef inline void write_float(char* p, Kind kind, double x) noexcept nogil:
    if kind == F32:
        (<float*>p)[0] = <float>x
    elif kind == F64:
        (<double*>p)[0] = x
    elif kind == F16:
        xent_write_f16(p, x)
    elif kind == BF16:
        xent_write_bf16(p, x)


cdef inline void write_number(const Operand* operand, Py_ssize_t i, double x) noexcept nogil:
    if operand.kind != ABSENT:
        write_float(row_of(operand, i), operand.kind, x)


cdef inline double weight_of(const Operand* weight, Py_ssize_t i) noexcept nogil:
    return 1.0 if weight.kind == ABSENT else read_number(row_of(weight, i), weight.kind)
