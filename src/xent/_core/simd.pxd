# The vector types of simd.h as one fused type: `vec` is a register of floats or of doubles. Cython takes it for a
# number, so that +, -, * and / reach the C compiler, which fuses none of them. Never compare or convert one in Cython.

from libc.stdint cimport int64_t

cdef extern from "_core/simd.h" nogil:
    ctypedef void forced_void "xent_forced_void"    # of a function that must be inlined: vectors stay in registers
    ctypedef float vf32
    ctypedef double vf64
    int XENT_LANES_f32
    int XENT_LANES_f64
    vf32 xent_fill_f32(double value)
    vf64 xent_fill_f64(double value)
    vf32 xent_maximum_f32(vf32 a, vf32 b)
    vf64 xent_maximum_f64(vf64 a, vf64 b)
    vf32 xent_minimum_f32(vf32 a, vf32 b)
    vf64 xent_minimum_f64(vf64 a, vf64 b)
    vf32 xent_absolute_f32(vf32 x)
    vf64 xent_absolute_f64(vf64 x)
    vf32 xent_where_less_f32(vf32 a, vf32 b, vf32 yes, vf32 no)
    vf64 xent_where_less_f64(vf64 a, vf64 b, vf64 yes, vf64 no)
    vf32 xent_where_equal_f32(vf32 a, vf32 b, vf32 yes, vf32 no)
    vf64 xent_where_equal_f64(vf64 a, vf64 b, vf64 yes, vf64 no)
    vf32 xent_unless_less_f32(vf32 a, vf32 b, vf32 x)
    vf64 xent_unless_less_f64(vf64 a, vf64 b, vf64 x)
    bint xent_any_equal_f32(vf32 a, vf32 b)
    bint xent_any_equal_f64(vf64 a, vf64 b)
    bint xent_all_equal_f32(vf32 a, vf32 b)
    bint xent_all_equal_f64(vf64 a, vf64 b)
    vf32 xent_multiply_add_f32(vf32 a, vf32 b, vf32 c)
    vf64 xent_multiply_add_f64(vf64 a, vf64 b, vf64 c)
    vf32 xent_residual_f32(vf32 c, vf32 a, vf32 b)
    vf64 xent_residual_f64(vf64 c, vf64 a, vf64 b)
    vf32 xent_flip_f32(vf32 x, vf32 sign)
    vf64 xent_flip_f64(vf64 x, vf64 sign)
    vf32 xent_multiply_rest_f32(vf32 a, vf32 b, vf32 product)
    vf64 xent_multiply_rest_f64(vf64 a, vf64 b, vf64 product)
    vf32 xent_scaled_f32(vf32 x, vf32 shifted)
    vf64 xent_scaled_f64(vf64 x, vf64 shifted)
    vf32 xent_split_f32(vf32 x, vf32* down)
    vf64 xent_split_f64(vf64 x, vf64* down)
    vf32 xent_load_first_f32(const vf32* source, Py_ssize_t n, double otherwise)
    vf64 xent_load_first_f64(const vf64* source, Py_ssize_t n, double otherwise)
    void xent_store_first_f32(vf32* target, Py_ssize_t n, vf32 x)
    void xent_store_first_f64(vf64* target, Py_ssize_t n, vf64 x)
    vf32 xent_without_lane_f32(vf32 x, Py_ssize_t lane)
    vf64 xent_without_lane_f64(vf64 x, Py_ssize_t lane)
    vf32 xent_with_lane_f32(vf32 x, Py_ssize_t lane, double value)
    vf64 xent_with_lane_f64(vf64 x, Py_ssize_t lane, double value)
    double xent_sum_lanes_f32(vf32 x)
    vf64 xent_upper_f64(vf64 x, int half)
    vf64 xent_half_f32(vf32 x, bint second)
    bint xent_are_classes(const int64_t* labels, Py_ssize_t n, int64_t classes)
    float xent_add_lanes_f32(vf32 x)
    double xent_add_lanes_f64(vf64 x)
    void xent_add_four_f32(const vf32* sums, const double* start, vf32* out)
    void xent_add_four_f64(const vf64* sums, const double* start, vf64* out)
    bint XENT_HAS_32
    float xent_max_lanes_f32(vf32 x)
    double xent_max_lanes_f64(vf64 x)
    double xent_get_f32(const vf32* row, Py_ssize_t i)
    double xent_get_f64(const vf64* row, Py_ssize_t i)
    void xent_put_f32(vf32* row, Py_ssize_t i, double x)
    void xent_put_f64(vf64* row, Py_ssize_t i, double x)
    vf32 xent_where_true_f32(const void* mask, vf32 x, double otherwise)
    vf64 xent_where_true_f64(const void* mask, vf64 x, double otherwise)
    vf32 xent_widen_f16(const void* source)
    vf32 xent_widen_bf16(const void* source)
    void xent_narrow_f16(void* target, vf32 x)
    void xent_narrow_bf16(void* target, vf32 x)
    float xent_read_f16(const void* source)
    float xent_read_bf16(const void* source)
    void xent_write_f16(void* target, double x)
    void xent_write_bf16(void* target, double x)
    void xent_to_columns_f32(
        void* tile, Py_ssize_t step, const void* a, const void* b, const void* c, const void* d, Py_ssize_t n
    )
    void xent_to_columns_f64(
        void* tile, Py_ssize_t step, const void* a, const void* b, const void* c, const void* d, Py_ssize_t n
    )
    void xent_to_rows_f32(const void* tile, Py_ssize_t step, void* a, void* b, void* c, void* d, Py_ssize_t n)
    void xent_to_rows_f64(const void* tile, Py_ssize_t step, void* a, void* b, void* c, void* d, Py_ssize_t n)
    bint XENT_HAS_PARTS
    vf32 xent_every_second_f32(const vf32* x)
    vf64 xent_every_second_f64(const vf64* x)
    void xent_read_columns_f32(vf32* tile, Py_ssize_t step, const char* rows, Py_ssize_t stride, Py_ssize_t n)
    void xent_read_columns_f64(vf64* tile, Py_ssize_t step, const char* rows, Py_ssize_t stride, Py_ssize_t n)
    void xent_write_columns_f32(
        const vf32* tile, Py_ssize_t step, vf32 factor, vf32 most, char* rows, Py_ssize_t stride, Py_ssize_t n
    )
    void xent_write_columns_f64(
        const vf64* tile, Py_ssize_t step, vf64 factor, vf64 most, char* rows, Py_ssize_t stride, Py_ssize_t n
    )
    Py_ssize_t xent_first_equal_of_four_f32(const vf32* x, vf32 w)
    Py_ssize_t xent_first_equal_of_four_f64(const vf64* x, vf64 w)
    void xent_store_around_f32(vf32* target, vf32 x)
    void xent_store_around_f64(vf64* target, vf64 x)
    void xent_drain()
    void xent_transpose_rows_f32(
        void* aside, Py_ssize_t step, void* rows, Py_ssize_t stride, Py_ssize_t n, Py_ssize_t count, bint back
    )
    void xent_transpose_rows_f64(
        void* aside, Py_ssize_t step, void* rows, Py_ssize_t stride, Py_ssize_t n, Py_ssize_t count, bint back
    )
    void xent_prefetch(const void* address)
    void xent_prefetch_four(const void* address)
    bint xent_cpu_has_avx2()
    bint xent_cpu_has_avx512()

ctypedef fused vec:
    vf32
    vf64


cdef inline Py_ssize_t lanes(const vec* row) noexcept nogil:
    """Elements in a vector of the type that `row` points to."""
    if vec is vf32:
        return XENT_LANES_f32
    else:
        return XENT_LANES_f64


cdef inline vec fill(const vec* like, double value) noexcept nogil:
    """All lanes `value`, in the type that `like` points to."""
    if vec is vf32:
        return xent_fill_f32(value)
    else:
        return xent_fill_f64(value)


cdef inline vec maximum(vec a, vec b) noexcept nogil:
    """The larger; b where either is NaN."""
    if vec is vf32:
        return xent_maximum_f32(a, b)
    else:
        return xent_maximum_f64(a, b)


cdef inline vec minimum(vec a, vec b) noexcept nogil:
    """The smaller; b where either is NaN."""
    if vec is vf32:
        return xent_minimum_f32(a, b)
    else:
        return xent_minimum_f64(a, b)


cdef inline vec absolute(vec x) noexcept nogil:
    if vec is vf32:
        return xent_absolute_f32(x)
    else:
        return xent_absolute_f64(x)


cdef inline vec where_less(vec a, vec b, vec yes, vec no) noexcept nogil:
    """yes where a < b, else no (NaN is not less)."""
    if vec is vf32:
        return xent_where_less_f32(a, b, yes, no)
    else:
        return xent_where_less_f64(a, b, yes, no)


cdef inline vec unless_less(vec a, vec b, vec x) noexcept nogil:
    """0 where a < b, else x (NaN is not less)."""
    if vec is vf32:
        return xent_unless_less_f32(a, b, x)
    else:
        return xent_unless_less_f64(a, b, x)


cdef inline vec where_equal(vec a, vec b, vec yes, vec no) noexcept nogil:
    if vec is vf32:
        return xent_where_equal_f32(a, b, yes, no)
    else:
        return xent_where_equal_f64(a, b, yes, no)


cdef inline vec where_true(const char* mask, vec x, double otherwise) noexcept nogil:
    """x where a byte of the mask is not 0; as many bytes are read as there are lanes."""
    if vec is vf32:
        return xent_where_true_f32(mask, x, otherwise)
    else:
        return xent_where_true_f64(mask, x, otherwise)


cdef inline bint any_equal(vec a, vec b) noexcept nogil:
    if vec is vf32:
        return xent_any_equal_f32(a, b)
    else:
        return xent_any_equal_f64(a, b)


cdef inline bint all_equal(vec a, vec b) noexcept nogil:
    if vec is vf32:
        return xent_all_equal_f32(a, b)
    else:
        return xent_all_equal_f64(a, b)


cdef inline Py_ssize_t first_equal_of_four(const vec* x, vec w) noexcept nogil:
    """Index of the first element equal to w in four vectors; 0 if there is none any more."""
    if vec is vf32:
        return xent_first_equal_of_four_f32(x, w)
    else:
        return xent_first_equal_of_four_f64(x, w)


cdef inline vec every_second(const vec* x) noexcept nogil:
    """Every second element of two vectors."""
    if vec is vf32:
        return xent_every_second_f32(x)
    else:
        return xent_every_second_f64(x)


cdef inline void store_around(vec* target, vec x) noexcept nogil:
    """Store to an aligned vector without bringing its line into the cache."""
    if vec is vf32:
        xent_store_around_f32(target, x)
    else:
        xent_store_around_f64(target, x)


cdef inline vec multiply_add(vec a, vec b, vec c) noexcept nogil:
    """a * b + c, rounded once where that is an instruction."""
    if vec is vf32:
        return xent_multiply_add_f32(a, b, c)
    else:
        return xent_multiply_add_f64(a, b, c)


cdef inline vec multiply_rest(vec a, vec b, vec product) noexcept nogil:
    """a * b - product, exactly, for product = a * b as rounded."""
    if vec is vf32:
        return xent_multiply_rest_f32(a, b, product)
    else:
        return xent_multiply_rest_f64(a, b, product)


cdef inline vec residual(vec c, vec a, vec b) noexcept nogil:
    """c - a * b, rounded once, for c near a * b."""
    if vec is vf32:
        return xent_residual_f32(c, a, b)
    else:
        return xent_residual_f64(c, a, b)


cdef inline vec flip(vec x, vec sign) noexcept nogil:
    """x, or -x where `sign` is negative."""
    if vec is vf32:
        return xent_flip_f32(x, sign)
    else:
        return xent_flip_f64(x, sign)


cdef inline forced_void prefetch_four(const vec* x) noexcept nogil:
    # If it is not inlined, GCC takes it for a function without effect, and removes its calls.
    xent_prefetch_four(x)


cdef inline vec scaled(vec x, vec shifted) noexcept nogil:
    """x 2^n for a power of two x, which may be out of range; `shifted` is n + 1.5 * 2^23 or, in float64, 1.5 * 2^52."""
    if vec is vf32:
        return xent_scaled_f32(x, shifted)
    else:
        return xent_scaled_f64(x, shifted)


cdef inline vec split(vec x, vec* down) noexcept nogil:
    """k, with x = 2^k f and sqrt(1/2) <= f < sqrt(2), for x > 0; writes 2^-k."""
    if vec is vf32:
        return xent_split_f32(x, down)
    else:
        return xent_split_f64(x, down)


cdef inline vec load_first(const vec* source, Py_ssize_t n, double otherwise) noexcept nogil:
    """The first n elements at `source`, the other lanes filled."""
    if vec is vf32:
        return xent_load_first_f32(source, n, otherwise)
    else:
        return xent_load_first_f64(source, n, otherwise)


cdef inline void store_first(vec* target, Py_ssize_t n, vec x) noexcept nogil:
    if vec is vf32:
        xent_store_first_f32(target, n, x)
    else:
        xent_store_first_f64(target, n, x)


cdef inline vec without_lane(vec x, Py_ssize_t lane) noexcept nogil:
    """x with one lane set to 0."""
    if vec is vf32:
        return xent_without_lane_f32(x, lane)
    else:
        return xent_without_lane_f64(x, lane)


cdef inline vec with_lane(vec x, Py_ssize_t lane, double value) noexcept nogil:
    """x with one lane set to a value."""
    if vec is vf32:
        return xent_with_lane_f32(x, lane, value)
    else:
        return xent_with_lane_f64(x, lane, value)


cdef inline double max_lanes(vec x) noexcept nogil:
    if vec is vf32:
        return xent_max_lanes_f32(x)
    else:
        return xent_max_lanes_f64(x)


cdef inline const vec* element(const vec* row, Py_ssize_t i) noexcept nogil:
    """The vector that begins at element i of a row."""
    if vec is vf32:
        return <const vec*>(<const float*>row + i)
    else:
        return <const vec*>(<const double*>row + i)


cdef inline double get(const vec* row, Py_ssize_t i) noexcept nogil:
    """Element i (not vector i) of a row."""
    if vec is vf32:
        return xent_get_f32(row, i)
    else:
        return xent_get_f64(row, i)


cdef inline void put(vec* row, Py_ssize_t i, double x) noexcept nogil:
    if vec is vf32:
        xent_put_f32(row, i, x)
    else:
        xent_put_f64(row, i, x)


cdef inline void to_columns(
    vec* tile, Py_ssize_t lane, Py_ssize_t wide, const void* a, const void* b, const void* c, const void* d,
    Py_ssize_t n
) noexcept nogil:
    """Write four contiguous rows of n elements into lanes `lane` to `lane` + 3 of a tile, whose elements are `wide`
    vectors apart."""
    if vec is vf32:
        xent_to_columns_f32(<float*>tile + lane, wide * lanes(tile), a, b, c, d, n)
    else:
        xent_to_columns_f64(<double*>tile + lane, wide * lanes(tile), a, b, c, d, n)


cdef inline void to_rows(
    const vec* tile, Py_ssize_t lane, Py_ssize_t wide, void* a, void* b, void* c, void* d, Py_ssize_t n
) noexcept nogil:
    """The inverse of `to_columns`."""
    if vec is vf32:
        xent_to_rows_f32(<const float*>tile + lane, wide * lanes(tile), a, b, c, d, n)
    else:
        xent_to_rows_f64(<const double*>tile + lane, wide * lanes(tile), a, b, c, d, n)


cdef inline void read_columns(
    vec* tile, Py_ssize_t step, const char* rows, Py_ssize_t stride, Py_ssize_t n
) noexcept nogil:
    """Write as many rows as there are lanes, `stride` bytes apart, into columns of a tile: n >= 4 elements, `step`
    vectors apart. Only where XENT_HAS_PARTS."""
    if vec is vf32:
        xent_read_columns_f32(tile, step, rows, stride, n)
    else:
        xent_read_columns_f64(tile, step, rows, stride, n)


cdef inline void write_columns(
    const vec* tile, Py_ssize_t step, vec factor, vec most, char* rows, Py_ssize_t stride, Py_ssize_t n
) noexcept nogil:
    """The inverse of `read_columns`, with each row times its lane of `factor`, and no more than that of `most`."""
    if vec is vf32:
        xent_write_columns_f32(tile, step, factor, most, rows, stride, n)
    else:
        xent_write_columns_f64(tile, step, factor, most, rows, stride, n)
