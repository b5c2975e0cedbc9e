# Memory traffic beside the arithmetic: while a row is computed, the next row is fetched and its maximum found, and the
# row before is finished: multiplied by a factor, and stored. Otherwise arithmetic and memory would wait for each other.

from xent._core.simd cimport (
    element, fill, forced_void, lanes, load_first, prefetch_four, store_around, store_first, vec,
)


cdef struct Traffic:
    const char* next        # the next row, whose maximum is sought, or NULL
    const char* soon        # what to fetch: the next row, or one that is in the cache
    const char* soon_out    # what to fetch of the output, or NULL
    char* target            # where the row before goes, or NULL; around the cache, from its first aligned vector on
    const char* source      # where it is: in a scratch, or in the place itself
    double factor           # what it is multiplied by
    bint goes_around        # whether it is stored around the cache
    Py_ssize_t left         # its elements from there on
    Py_ssize_t fours        # its whole vectors, rounded down to a multiple of 4
    Py_ssize_t free_buffer  # 0 or 1: index of the free scratch; the other is still being stored


cdef inline Traffic no_traffic(const vec* row) noexcept nogil:
    cdef Traffic traffic
    traffic.soon = <const char*>row
    traffic.next = traffic.soon_out = traffic.target = NULL
    traffic.source = NULL
    traffic.factor = 1
    traffic.goes_around = False
    traffic.left = traffic.fours = traffic.free_buffer = 0
    return traffic


cdef inline forced_void move_four(const Traffic* traffic, Py_ssize_t i, const vec* like) noexcept nogil:
    """Do the traffic that goes with vectors i to i + 4 of the row being computed."""
    cdef Py_ssize_t j
    cdef vec factor = fill(like, traffic.factor)
    prefetch_four(<const vec*>traffic.soon + i)
    if traffic.soon_out is not NULL:
        prefetch_four(<const vec*>traffic.soon_out + i)
    if traffic.fours > 0 and i < traffic.fours:
        for j in range(4):
            if traffic.goes_around:
                store_around(<vec*>traffic.target + i + j, (<const vec*>traffic.source)[i + j] * factor)
            else:
                (<vec*>traffic.target)[i + j] = (<const vec*>traffic.source)[i + j] * factor


cdef inline void finish(Traffic* traffic, Py_ssize_t i, const vec* like) noexcept nogil:
    """Store the rest of the row before, of which the vectors before i, a multiple of 4, are stored."""
    cdef Py_ssize_t whole = traffic.left // lanes(like), rest = traffic.left - traffic.left // lanes(like) * lanes(like)
    cdef vec* target = <vec*>traffic.target
    cdef const vec* source = <const vec*>traffic.source
    cdef vec factor
    if target is NULL:
        return
    factor = fill(like, traffic.factor)
    for i in range(min(i, traffic.fours), whole):
        if traffic.goes_around:
            store_around(target + i, source[i] * factor)
        else:
            target[i] = source[i] * factor
    if rest:
        store_first(target + whole, rest, load_first(source + whole, rest, 0) * factor)
    traffic.target = NULL
    traffic.left = traffic.fours = 0


cdef inline void send(Traffic* traffic, vec* target, const vec* source, Py_ssize_t n, double factor) noexcept nogil:
    """Multiply n elements by a factor and store them, around the cache unless they stay where they are, while the next
    row is computed; `source` must not change meanwhile."""
    cdef Py_ssize_t size = sizeof(vec) // lanes(target), head = 0
    finish(traffic, 0, target)
    if target == source and factor == 1:
        return
    traffic.goes_around = target != source
    if traffic.goes_around:
        head = min(n, (-<Py_ssize_t>target // size) & (lanes(target) - 1))
        store_first(target, head, load_first(source, head, 0) * fill(target, factor))
        traffic.free_buffer = 1 - traffic.free_buffer
    traffic.target = <char*>element(target, head)
    traffic.source = <const char*>element(source, head)
    traffic.factor = factor
    traffic.left = n - head
    traffic.fours = traffic.left // (4 * lanes(target)) * 4
