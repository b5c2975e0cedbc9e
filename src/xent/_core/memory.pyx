"""Memory for large results. When one is deleted, its memory is kept for the next one of about its size.

Before a process gets new memory, the system maps and clears it, which takes as long as a softmax, or several times as
long where pages are small. Memory that the process has kept can be written at once. An array that is allocated here
owns its data like any other array: NumPy asks the handler below (NEP 49) for memory, and later gives it back to it. The
handler is in effect only while a result is allocated, never for arrays of the user.

A slot holds the block of one deleted array, or none. A thread that takes a block out of its slot, with one atomic
exchange, is its only owner. So there is no lock, and nothing to repair after a fork.

Compiled once, for all instruction sets of the kernels.
"""

from cpython.object cimport PyObject
from cpython.pycapsule cimport PyCapsule_New
from libc.stdint cimport SIZE_MAX, int64_t, uintptr_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset, strcpy

cimport numpy as cnp

from xent._core.scheduler cimport xent_add, xent_load, xent_replace, xent_shared

cdef extern from "numpy/arrayobject.h":
    PyObject* PyDataMem_DefaultHandler
    object PyArray_NewLikeArray(cnp.ndarray prototype, cnp.NPY_ORDER order, void* dtype, int subok)

cdef extern from "_core/memory.h" nogil:
    void xent_ask_for_huge_pages(void* start, size_t size)
    void xent_lend_to_system(void* start, size_t size)

cnp.import_array()

cdef enum:
    SLOTS = 4                       # results of one step of a training loop
    MAX_DIMS = 64
    LINE = 64                       # bytes
    HUGE_PAGE = 1 << 21             # bytes, on most systems
    LENT = 1 << 24                  # kept blocks from this size on are lent to the system; of small ones it is not worth it
    MIN_BYTES = 1 << 17             # of a result; glibc maps smaller ones once and keeps them

cdef struct Block:                  # the line before the data
    void* start                     # from malloc
    size_t size                     # of the data, in bytes

cdef xent_shared slots[SLOTS]       # Block*, the latest first; 0 if there is none
cdef xent_shared kept_bytes = 0
cdef size_t limit = 0               # of kept_bytes


# ---------------------------------------------------------------------------------------------------------------------
# Blocks
# ---------------------------------------------------------------------------------------------------------------------

cdef inline void* data_of(Block* block) noexcept nogil:
    return <char*>block + LINE


cdef inline Block* block_of(void* data) noexcept nogil:
    return <Block*>(<char*>data - LINE)


cdef inline size_t whole_huge_pages(const Block* block) noexcept nogil:
    """Bytes at the start of the data; of a smaller part, the system would have to split a page."""
    return block.size // HUGE_PAGE * HUGE_PAGE


cdef Block* new_block(size_t size) noexcept nogil:
    """A block from the system, or NULL."""
    cdef size_t alignment = HUGE_PAGE if size >= HUGE_PAGE else LINE
    cdef size_t total = size + LINE + alignment
    cdef void* start = malloc(total)
    cdef Block* block
    if start is NULL:
        release_kept()
        start = malloc(total)
        if start is NULL:
            return NULL
    block = block_of(<void*>((<uintptr_t>start + LINE + alignment - 1) // alignment * alignment))
    block.start, block.size = start, size
    if size >= HUGE_PAGE:
        xent_ask_for_huge_pages(data_of(block), whole_huge_pages(block))
    return block


# ---------------------------------------------------------------------------------------------------------------------
# Blocks that are kept
# ---------------------------------------------------------------------------------------------------------------------

cdef Block* exchange(xent_shared* slot, Block* block) noexcept nogil:
    """Put a block or NULL into the slot; return what it held."""
    cdef int64_t old = xent_load(slot)
    while not xent_replace(slot, old, <int64_t><uintptr_t>block):
        old = xent_load(slot)
    return <Block*><uintptr_t>old


cdef void drop(Block* block) noexcept nogil:
    """Give a block that was kept, or NULL, back to the system."""
    if block is not NULL:
        xent_add(&kept_bytes, -<int64_t>block.size)
        free(block.start)


cdef Block* take_kept(size_t size) noexcept nogil:
    """A block that was kept, if one is large enough and at most twice as large; else NULL."""
    cdef Block* block
    cdef int i
    for i in range(SLOTS):
        block = exchange(&slots[i], NULL)
        if block is NULL:
            continue
        if block.size // 2 <= size <= block.size:
            xent_add(&kept_bytes, -<int64_t>block.size)
            return block
        drop(exchange(&slots[i], block))        # another thread may have filled the slot
    return NULL


cdef void keep(Block* block) noexcept nogil:
    """Keep a block of at most `limit` bytes; drop the oldest ones if there are too many, or too many bytes."""
    cdef int i
    if block.size >= LENT:
        xent_lend_to_system(data_of(block), whole_huge_pages(block))
    xent_add(&kept_bytes, block.size)
    for i in range(SLOTS):
        block = exchange(&slots[i], block)
        if block is NULL:
            break
    drop(block)
    for i in range(SLOTS - 1, 0, -1):
        if <size_t>xent_load(&kept_bytes) <= limit:
            break
        drop(exchange(&slots[i], NULL))


cpdef void release_kept() noexcept nogil:
    """Give all blocks that are kept back to the system."""
    cdef int i
    for i in range(SLOTS):
        drop(exchange(&slots[i], NULL))


def set_limit(size_t bytes):
    """Keep at most so many bytes; 0 keeps none."""
    global limit
    limit = bytes


def count_kept_bytes():
    return xent_load(&kept_bytes)


# ---------------------------------------------------------------------------------------------------------------------
# The handler
# ---------------------------------------------------------------------------------------------------------------------

cdef void* handle_malloc(void* context, size_t size) noexcept nogil:
    cdef Block* block = take_kept(size)
    if block is NULL:
        block = new_block(size)
    return NULL if block is NULL else data_of(block)


cdef void* handle_calloc(void* context, size_t number, size_t each) noexcept nogil:
    cdef void* data = NULL
    if each == 0 or number <= SIZE_MAX // each:
        data = handle_malloc(context, number * each)
    if data is not NULL:
        memset(data, 0, number * each)
    return data


cdef void* handle_realloc(void* context, void* data, size_t size) noexcept nogil:
    cdef void* larger = handle_malloc(context, size)
    if larger is not NULL and data is not NULL:
        memcpy(larger, data, min(size, block_of(data).size))
        handle_free(context, data, 0)
    return larger


cdef void handle_free(void* context, void* data, size_t size) noexcept nogil:
    """The block knows its size, which may be larger than that of the array."""
    cdef Block* block
    if data is NULL:
        return
    block = block_of(data)
    if MIN_BYTES <= block.size <= limit:
        keep(block)
    else:
        free(block.start)


cdef cnp.PyDataMem_Handler functions
strcpy(functions.name, "xent")
functions.version = 1
functions.allocator.malloc = handle_malloc
functions.allocator.calloc = handle_calloc
functions.allocator.realloc = handle_realloc
functions.allocator.free = handle_free

cdef object handler = PyCapsule_New(&functions, "mem_handler", NULL)


# ---------------------------------------------------------------------------------------------------------------------
# Arrays
# ---------------------------------------------------------------------------------------------------------------------

cdef object set_handler(size_t size):
    """Let NumPy take memory of this size from here; return the handler to restore, or None if nothing was set."""
    cdef object before
    if not MIN_BYTES <= size <= limit:
        return None
    before = cnp.PyDataMem_SetHandler(handler)
    if <PyObject*>before != PyDataMem_DefaultHandler:       # the user's own, which is for results, too
        cnp.PyDataMem_SetHandler(before)
        return None
    return before


cdef inline int restore_handler(object before) except -1:
    if before is not None:
        cnp.PyDataMem_SetHandler(before)
    return 0


cdef object new_array(int axes, cnp.npy_intp* shape, int type_number, Py_ssize_t item_size):
    """An array in C order."""
    cdef object before = set_handler(cnp.PyArray_MultiplyList(shape, axes) * item_size)
    try:
        return cnp.PyArray_EMPTY(axes, shape, type_number, 0)
    finally:
        restore_handler(before)


cdef object empty(cnp.ndarray x, int axes):
    """An array of the type of x, with its first axes, in C order."""
    return new_array(axes, cnp.PyArray_DIMS(x), cnp.PyArray_TYPE(x), cnp.PyArray_ITEMSIZE(x))


def empty_of(tuple shape, cnp.dtype dtype):
    """As `numpy.empty`."""
    cdef cnp.npy_intp lengths[MAX_DIMS]
    cdef int axis
    for axis in range(len(shape)):
        lengths[axis] = shape[axis]
    return new_array(len(shape), lengths, dtype.type_num, dtype.itemsize)


cpdef object empty_like(cnp.ndarray array):
    """As `numpy.empty_like`, but never a subclass."""
    cdef object before = set_handler(cnp.PyArray_NBYTES(array))
    try:
        return PyArray_NewLikeArray(array, cnp.NPY_KEEPORDER, NULL, 0)
    finally:
        restore_handler(before)
