# What moves between memory and the cache while a row is computed: lines of the next row come, and the result of the
# last one goes. Arithmetic and memory would otherwise wait for each other.

from xent._core.simd cimport (
    element, forced_void, lanes, load_first, prefetch_four, store_around, store_first, vec,
)


cdef struct Traffic:
    const char* soon        # a row to fetch; one that is in the cache, to fetch nothing
    const char* soon_out    # (or NULL) the place of a result to fetch
    char* target            # (or NULL) where the last result goes, around the cache, from its first whole vector on
    const char* source      # and where it is
    Py_ssize_t left         # elements of it
    Py_ssize_t fours        # and whole vectors, in fours
    Py_ssize_t free_buffer         # 0 or 1: which of two scratches the next result may be in, since it is not on its way


cdef inline Traffic no_traffic(const vec* row) noexcept nogil:
    cdef Traffic traffic
    traffic.soon = <const char*>row
    traffic.soon_out = traffic.target = NULL
    traffic.source = NULL
    traffic.left = traffic.fours = traffic.free_buffer = 0
    return traffic


cdef inline forced_void move_four(const Traffic* traffic, Py_ssize_t i, bint sends, const vec* like) noexcept nogil:
    """The part of the traffic that belongs to vectors i to i + 4 of a row."""
    cdef Py_ssize_t j
    prefetch_four(<const vec*>traffic.soon + i)
    if traffic.soon_out is not NULL:
        prefetch_four(<const vec*>traffic.soon_out + i)
    if sends and i < traffic.fours:
        for j in range(4):
            store_around(<vec*>traffic.target + i + j, (<const vec*>traffic.source)[i + j])


cdef inline void finish(Traffic* traffic, Py_ssize_t i, const vec* like) noexcept nogil:
    """Send what is left of the last result when vectors before i, a multiple of 4, have been sent."""
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
    """Send n elements to their place while the next row is computed; `source`, a scratch, stays as it is meanwhile."""
    cdef Py_ssize_t size = sizeof(vec) // lanes(target)
    cdef Py_ssize_t head = min(n, (-<Py_ssize_t>target // size) & (lanes(target) - 1))
    finish(traffic, 0, target)
    store_first(target, head, load_first(source, head, 0))
    traffic.target = <char*>element(target, head)
    traffic.source = <const char*>element(source, head)
    traffic.left = n - head
    traffic.fours = traffic.left // (4 * lanes(target)) * 4
    traffic.free_buffer = 1 - traffic.free_buffer
