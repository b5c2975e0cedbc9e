# Memory traffic beside the arithmetic: while a row is computed, the next row is fetched and its maximum found, and the
# row before is finished, for which its sum had to be known, and stored. Otherwise arithmetic and memory would wait for
# each other.

from xent._core.simd cimport (
    element, fill, forced_void, lanes, load_first, minimum, prefetch_four, store_around, store_first, vec,
)


cdef enum FinishKind:
    SCALE, PROBABILITIES, LOG_PROBABILITIES


cdef struct Finish:         # how a row is finished: x factor; the same, but no more than `most`; or (x - most) - log_sum
    FinishKind kind
    double factor
    double most             # the largest probability; or the largest logit
    double log_sum


cdef struct Traffic:
    const char* next        # the next row, whose maximum is sought, or NULL
    const char* soon        # what to fetch: the next row, or one that is in the cache
    const char* soon_out    # what to fetch of the output, or NULL
    char* target            # where the row before goes, or NULL; around the cache, from its first aligned vector on
    const char* source      # where it is: in a scratch, or in the place itself
    Finish finish
    bint goes_around        # whether it is stored around the cache
    Py_ssize_t left         # its elements from there on
    Py_ssize_t fours        # its whole vectors, rounded down to a multiple of 4
    Py_ssize_t free_buffer  # 0 or 1: index of the free scratch; the other is still being stored


cdef inline Finish multiply_by(double factor) noexcept nogil:
    cdef Finish how
    how.kind = SCALE
    how.factor = factor
    how.most = how.log_sum = 0
    return how


cdef inline Finish scale_to_probabilities(double factor, double most) noexcept nogil:
    """The factor is rounded up, so that all terms of the largest logit reach `most`, which is exact."""
    cdef Finish how = multiply_by(factor)
    how.kind = PROBABILITIES
    how.most = most
    return how


cdef inline Finish subtract_from(double peak, double log_sum) noexcept nogil:
    """Of logits: their log-probabilities, for which nothing cancels, as both differences are <= 0."""
    cdef Finish how = multiply_by(1)
    how.kind = LOG_PROBABILITIES
    how.most, how.log_sum = peak, log_sum
    return how


cdef inline vec finished(vec x, const Finish* how) noexcept nogil:
    if how.kind == LOG_PROBABILITIES:
        return (x - fill(&x, how.most)) - fill(&x, how.log_sum)
    x = x * fill(&x, how.factor)
    return minimum(fill(&x, how.most), x) if how.kind == PROBABILITIES else x


cdef inline Traffic no_traffic(const vec* row) noexcept nogil:
    cdef Traffic traffic
    traffic.soon = <const char*>row
    traffic.next = traffic.soon_out = traffic.target = NULL
    traffic.source = NULL
    traffic.finish = multiply_by(1)
    traffic.goes_around = False
    traffic.left = traffic.fours = traffic.free_buffer = 0
    return traffic


cdef inline forced_void move_four(const Traffic* traffic, Py_ssize_t i, const vec* like) noexcept nogil:
    """Do the traffic that goes with vectors i to i + 4 of the row being computed."""
    cdef Py_ssize_t j
    cdef const vec* source = <const vec*>traffic.source + i
    cdef vec* target = <vec*>traffic.target + i
    prefetch_four(<const vec*>traffic.soon + i)
    if traffic.soon_out is not NULL:
        prefetch_four(<const vec*>traffic.soon_out + i)
    if traffic.fours > 0 and i < traffic.fours:
        for j in range(4):
            if traffic.goes_around:
                store_around(target + j, finished(source[j], &traffic.finish))
            else:
                target[j] = finished(source[j], &traffic.finish)


cdef inline void finish(Traffic* traffic, Py_ssize_t i, const vec* like) noexcept nogil:
    """Store the rest of the row before, of which the vectors before i, a multiple of 4, are stored."""
    cdef Py_ssize_t whole = traffic.left // lanes(like), rest = traffic.left - traffic.left // lanes(like) * lanes(like)
    cdef vec* target = <vec*>traffic.target
    cdef const vec* source = <const vec*>traffic.source
    if target is NULL:
        return
    for i in range(min(i, traffic.fours), whole):
        if traffic.goes_around:
            store_around(target + i, finished(source[i], &traffic.finish))
        else:
            target[i] = finished(source[i], &traffic.finish)
    if rest:
        store_first(target + whole, rest, finished(load_first(source + whole, rest, 0), &traffic.finish))
    traffic.target = NULL
    traffic.left = traffic.fours = 0


cdef inline void send(
    Traffic* traffic, vec* target, const vec* source, Py_ssize_t n, bint goes_around, const Finish* how
) noexcept nogil:
    """Finish n elements and store them while the next row is computed; `source` must not change meanwhile."""
    cdef Py_ssize_t size = sizeof(vec) // lanes(target), head = 0
    finish(traffic, 0, target)
    if target == source and how.kind == SCALE and how.factor == 1:
        return
    traffic.goes_around = goes_around
    if goes_around:
        head = min(n, (-<Py_ssize_t>target // size) & (lanes(target) - 1))
        store_first(target, head, finished(load_first(source, head, 0), how))
        traffic.free_buffer = 1 - traffic.free_buffer
    traffic.target = <char*>element(target, head)
    traffic.source = <const char*>element(source, head)
    traffic.finish = how[0]
    traffic.left = n - head
    traffic.fours = traffic.left // (4 * lanes(target)) * 4
