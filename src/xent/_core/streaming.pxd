# Memory traffic beside the arithmetic: while a row is computed, the next row is fetched and its maximum found, and the
# row before is finished, for which its sum had to be known, and stored. Otherwise arithmetic and memory would wait for
# each other.

from xent._core.simd cimport (
    element, fill, forced_void, lanes, load_first, minimum, multiply_add, prefetch_four, store_around, store_first, vec,
    with_lane, xent_prefetch,
)


cdef enum:
    VECTORS_AHEAD = 16          # of a Hessian that is stored through the cache


cdef enum FinishKind:
    SCALE, PROBABILITIES, LOG_PROBABILITIES


cdef struct Finish:         # how a row is finished: x factor; the same, but no more than `most`; or (x - most) - log_sum
    FinishKind kind
    double factor
    double most             # the largest probability; or the largest logit
    double log_sum


cdef struct Curve:          # how the terms x of a row become the diagonal of its Hessian, p (1 - p) mass with p = share x
    double share
    double mass
    double factor           # share mass: then the Hessian is x (factor - slope x),
    double slope            # with slope = factor share,
    bint fits_type          # if these two are in the range of the kernel's type
    double at_peak          # the Hessian of the maximum, where 1 - p may cancel,
    Py_ssize_t peak         # and its place
    double at_label         # that of an element whose term has been replaced,
    Py_ssize_t label        # and its place, or none


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
    char* hess              # where the Hessian of the row before goes, or NULL; the rest is as above
    const char* hess_source
    Curve curve
    bint hess_goes_around
    Py_ssize_t hess_left
    Py_ssize_t hess_fours
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
    traffic.next = traffic.soon_out = traffic.target = traffic.hess = NULL
    traffic.source = NULL
    traffic.finish = multiply_by(1)
    traffic.goes_around = traffic.hess_goes_around = False
    traffic.left = traffic.fours = traffic.hess_left = traffic.hess_fours = traffic.free_buffer = 0
    return traffic


cdef inline vec curved(vec x, vec factor, vec minus_slope) noexcept nogil:
    return x * multiply_add(x, minus_slope, factor)


cdef inline forced_void store(vec* target, vec x, bint goes_around) noexcept nogil:
    if goes_around:
        store_around(target, x)
    else:
        target[0] = x


cdef inline forced_void curve_four(const Traffic* traffic, Py_ssize_t i, vec factor, vec minus_slope) noexcept nogil:
    """Store vectors i to i + 4 of a Hessian. What a branch changes is no array, as in `compute_four`."""
    cdef Curve curve = traffic.curve
    cdef Py_ssize_t width = lanes(&factor), label = curve.label - i * width, peak = curve.peak - i * width
    cdef const vec* x = <const vec*>traffic.hess_source + i
    cdef vec* hess = <vec*>traffic.hess + i
    cdef vec a = curved(x[0], factor, minus_slope), b = curved(x[1], factor, minus_slope)
    cdef vec c = curved(x[2], factor, minus_slope), d = curved(x[3], factor, minus_slope)
    if 0 <= label < 4 * width:
        a = with_lane(a, label, curve.at_label)
        b = with_lane(b, label - width, curve.at_label)
        c = with_lane(c, label - 2 * width, curve.at_label)
        d = with_lane(d, label - 3 * width, curve.at_label)
    if 0 <= peak < 4 * width:
        a = with_lane(a, peak, curve.at_peak)
        b = with_lane(b, peak - width, curve.at_peak)
        c = with_lane(c, peak - 2 * width, curve.at_peak)
        d = with_lane(d, peak - 3 * width, curve.at_peak)
    if not traffic.hess_goes_around:
        prefetch_four(hess + VECTORS_AHEAD)
    store(hess, a, traffic.hess_goes_around)
    store(hess + 1, b, traffic.hess_goes_around)
    store(hess + 2, c, traffic.hess_goes_around)
    store(hess + 3, d, traffic.hess_goes_around)


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


cdef inline void finish_hessian(Traffic* traffic, Py_ssize_t i, const vec* like) noexcept nogil:
    """Store the rest of a Hessian, of which the vectors before i, a multiple of 4, are stored."""
    cdef Py_ssize_t n
    cdef Curve curve = traffic.curve
    cdef vec factor = fill(like, curve.factor), minus_slope = fill(like, -curve.slope), x
    i = min(i, traffic.hess_fours)
    while i * lanes(like) < traffic.hess_left:
        n = min(lanes(like), traffic.hess_left - i * lanes(like))
        x = curved(load_first(<const vec*>traffic.hess_source + i, n, 0), factor, minus_slope)
        x = with_lane(x, curve.label - i * lanes(like), curve.at_label)
        x = with_lane(x, curve.peak - i * lanes(like), curve.at_peak)
        if n == lanes(like):
            store(<vec*>traffic.hess + i, x, traffic.hess_goes_around)
        else:
            store_first(<vec*>traffic.hess + i, n, x)
        i += 1
    traffic.hess = NULL
    traffic.hess_left = traffic.hess_fours = 0


cdef inline void finish(Traffic* traffic, Py_ssize_t i, const vec* like) noexcept nogil:
    """Store the rest of the row before, of which the vectors before i, a multiple of 4, are stored."""
    cdef Py_ssize_t whole = traffic.left // lanes(like), rest = traffic.left - traffic.left // lanes(like) * lanes(like)
    cdef vec* target = <vec*>traffic.target
    cdef const vec* source = <const vec*>traffic.source
    if traffic.hess is not NULL:
        finish_hessian(traffic, i, like)
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


cdef inline Py_ssize_t elements_to_alignment(const vec* x) noexcept nogil:
    return (-<Py_ssize_t>x // <Py_ssize_t>(sizeof(vec) // lanes(x))) & (lanes(x) - 1)


cdef inline void store_head(Traffic* traffic, Py_ssize_t head, const vec* like) noexcept nogil:
    """Store the first elements now."""
    cdef vec* target = <vec*>traffic.target
    cdef const vec* source = <const vec*>traffic.source
    store_first(target, head, finished(load_first(source, head, 0), &traffic.finish))
    traffic.target, traffic.source = <char*>element(target, head), <const char*>element(source, head)
    traffic.left -= head
    traffic.fours = traffic.left // (4 * lanes(like)) * 4


cdef inline void send(
    Traffic* traffic, vec* target, const vec* source, Py_ssize_t n, bint goes_around, const Finish* how
) noexcept nogil:
    """Finish n elements and store them while the next row is computed; `source` must not change meanwhile."""
    finish(traffic, 0, target)
    if target == source and how.kind == SCALE and how.factor == 1:
        return
    traffic.target, traffic.source = <char*>target, <const char*>source
    traffic.goes_around = goes_around
    traffic.finish = how[0]
    traffic.left = n
    traffic.fours = n // (4 * lanes(target)) * 4
    if goes_around:
        traffic.free_buffer = 1 - traffic.free_buffer
        store_head(traffic, min(n, elements_to_alignment(target)), target)


cdef inline void send_hessian(
    Traffic* traffic, vec* hess, const vec* source, Py_ssize_t n, bint goes_around, const Curve* curve
) noexcept nogil:
    """Store a Hessian beside the gradient from the same source, which has been sent."""
    cdef Py_ssize_t head = min(n, elements_to_alignment(hess if goes_around else source))
    if goes_around:             # the next row may begin in a line that is needed to finish this one
        xent_prefetch(element(hess, n))
        xent_prefetch(element(<vec*>traffic.target, traffic.left))
    traffic.hess, traffic.hess_source, traffic.curve = <char*>hess, <const char*>source, curve[0]
    traffic.hess_goes_around = goes_around
    traffic.hess_left, traffic.hess_fours = head, 0
    finish_hessian(traffic, 0, hess)
    if traffic.target is not NULL and not traffic.goes_around:
        store_head(traffic, head, hess)
    traffic.hess, traffic.hess_source = <char*>element(hess, head), <const char*>element(source, head)
    traffic.curve.label -= head
    traffic.curve.peak -= head
    traffic.hess_left = n - head
    traffic.hess_fours = traffic.hess_left // (4 * lanes(hess)) * 4
