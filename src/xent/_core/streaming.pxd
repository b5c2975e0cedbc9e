# Memory traffic beside the arithmetic: while a row is computed, lines of the next row are fetched, and the result of
# the row before is streamed out. Otherwise arithmetic and memory would wait for each other.

from xent._core.simd cimport (
    element, forced_void, lanes, load_first, prefetch_four, store_around, store_first, vec,
)


cdef struct Traffic:
    const char* soon        # what to fetch: the next row, or one that is in the cache
    const char* soon_out    # what to fetch of the output, or NULL
    char* target            # where the last result goes, around the cache, from its first aligned vector on; or NULL
    const char* source      # the scratch where it is
    Py_ssize_t left         # its elements from there on
    Py_ssize_t fours        # its whole vectors, rounded down to a multiple of 4
    Py_ssize_t free_buffer  # 0 or 1: index of the free scratch; the other is still being streamed out


cdef inline Traffic no_traffic(const vec* row) noexcept nogil:
    cdef Traffic traffic
    traffic.soon = <const char*>row
    traffic.soon_out = traffic.target = NULL
    traffic.source = NULL
    traffic.left = traffic.fours = traffic.free_buffer = 0
    return traffic


cdef inline forced_void move_four(const Traffic* traffic, Py_ssize_t i, const vec* like) noexcept nogil:
    """Do the traffic that goes with vectors i to i + 4 of the row being computed."""
    cdef Py_ssize_t j
    prefetch_four(<const vec*>traffic.soon + i)
    if traffic.soon_out is not NULL:
        prefetch_four(<const vec*>traffic.soon_out + i)
    if traffic.fours > 0 and i < traffic.fours:
        for j in range(4):
            store_around(<vec*>traffic.target + i + j, (<const vec*>traffic.source)[i + j])


cdef inline void finish(Traffic* traffic, Py_ssize_t i, const vec* like) noexcept nogil:
    """Stream out the rest of the last result, of which the vectors before i, a multiple of 4, are out."""
    cdef Py_ssize_t whole = traffic.left // lanes(like), rest = traffic.left - traffic.left // lanes(like) * lanes(like)
    cdef vec* target = <vec*>traffic.target
    cdef const vec* source = <const vec*>traffic.source
    if target is NULL:
        return
    for i in range(min(i, traffic.fours), whole):
        store_around(target + i, source[i])
    store_first(target + whole, rest, load_first(source + whole, rest, 0))
    traffic.target = NULL
    traffic.left = traffic.fours = 0


cdef inline void send(Traffic* traffic, vec* target, const vec* source, Py_ssize_t n) noexcept nogil:
    """Stream n elements out while the next row is computed; `source`, a scratch, must not change meanwhile."""
    cdef Py_ssize_t size = sizeof(vec) // lanes(target)
    cdef Py_ssize_t head = min(n, (-<Py_ssize_t>target // size) & (lanes(target) - 1))
    finish(traffic, 0, target)
    store_first(target, head, load_first(source, head, 0))
    traffic.target = <char*>element(target, head)
    traffic.source = <const char*>element(source, head)
    traffic.left = n - head
    traffic.fours = traffic.left // (4 * lanes(target)) * 4
    traffic.free_buffer = 1 - traffic.free_buffer
