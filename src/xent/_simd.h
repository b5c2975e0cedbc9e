/* The vector types behind the loops of _kernels.pyx: `vf32` and `vf64`, as many floats or doubles as one register
 * of the instruction set holds. +, -, *, / are the compiler's own (GCC and Clang vector extension); what has no
 * operator is a function here, once per type, with the suffix _f32 or _f64. Loads and stores through a pointer to a
 * vector may be unaligned.
 *
 * A compiler without the extension gets vectors of one element through the same names.
 */
#ifndef XENT_SIMD_H
#define XENT_SIMD_H

#include <stdint.h>
#include <string.h>

#if (defined(__GNUC__) || defined(__clang__)) && !defined(XENT_SCALAR)
#  define XENT_INLINE static inline __attribute__((always_inline, unused))
#  if defined(__AVX512F__) && defined(__AVX512DQ__)
#    define XENT_BYTES 64
#  elif defined(__AVX2__)
#    define XENT_BYTES 32
#  else
#    define XENT_BYTES 16
#  endif
typedef float   vf32 __attribute__((vector_size(XENT_BYTES), aligned(4), may_alias));
typedef double  vf64 __attribute__((vector_size(XENT_BYTES), aligned(8), may_alias));
typedef int32_t vi32 __attribute__((vector_size(XENT_BYTES)));
typedef int64_t vi64 __attribute__((vector_size(XENT_BYTES)));
#  define XENT_LANE(v, i) ((v)[i])
#else
#  if defined(_MSC_VER)
#    define XENT_INLINE static __forceinline
#  else
#    define XENT_INLINE static inline
#  endif
#  ifndef XENT_SCALAR
#    define XENT_SCALAR 1
#  endif
typedef float  vf32;
typedef double vf64;
typedef int32_t vi32;
typedef int64_t vi64;
#  define XENT_LANE(v, i) (*((i) * 0 + &(v)))
#endif

#if defined(__SSE2__) && !defined(XENT_SCALAR)
#  include <immintrin.h>
#endif

#define XENT_LANES_f32 ((Py_ssize_t)(sizeof(vf32) / sizeof(float)))
#define XENT_LANES_f64 ((Py_ssize_t)(sizeof(vf64) / sizeof(double)))

/* Bits of a float vector as integers and back; a cast where vectors exist, a copy where they do not. */
XENT_INLINE vi32 xent_bits_f32(vf32 x) { vi32 i; memcpy(&i, &x, sizeof i); return i; }
XENT_INLINE vi64 xent_bits_f64(vf64 x) { vi64 i; memcpy(&i, &x, sizeof i); return i; }
XENT_INLINE vf32 xent_from_bits_f32(vi32 i) { vf32 x; memcpy(&x, &i, sizeof x); return x; }
XENT_INLINE vf64 xent_from_bits_f64(vi64 i) { vf64 x; memcpy(&x, &i, sizeof x); return x; }

/* Comparisons: all bits of a lane set where true. */
#ifdef XENT_SCALAR
#  define XENT_MASK(condition) (-(condition))
#else
#  define XENT_MASK(condition) (condition)
#endif

#ifdef XENT_SCALAR
XENT_INLINE vf32 xent_iota_f32(void) { return 0; }
XENT_INLINE vf64 xent_iota_f64(void) { return 0; }
#else
static const float  xent_counting_f32[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
static const double xent_counting_f64[8] = {0, 1, 2, 3, 4, 5, 6, 7};
XENT_INLINE vf32 xent_iota_f32(void) { return *(const vf32 *)xent_counting_f32; }
XENT_INLINE vf64 xent_iota_f64(void) { return *(const vf64 *)xent_counting_f64; }
#endif

#define XENT_DEFINE(S, scalar, vector, ints, mantissa)                                                               \
    XENT_INLINE vector xent_fill_##S(double value) {                                                                 \
        vector x;                                                                                                    \
        for (size_t i = 0; i < sizeof(vector) / sizeof(scalar); i++) XENT_LANE(x, i) = (scalar)value;                \
        return x;                                                                                                    \
    }                                                                                                                \
    /* where(a < b, yes, no) */                                                                                      \
    XENT_INLINE vector xent_where_less_##S(vector a, vector b, vector yes, vector no) {                              \
        ints mask = XENT_MASK(a < b);                                                                          \
        return xent_from_bits_##S((mask & xent_bits_##S(yes)) | (~mask & xent_bits_##S(no)));                        \
    }                                                                                                                \
    XENT_INLINE vector xent_where_equal_##S(vector a, vector b, vector yes, vector no) {                             \
        ints mask = XENT_MASK(a == b);                                                                         \
        return xent_from_bits_##S((mask & xent_bits_##S(yes)) | (~mask & xent_bits_##S(no)));                        \
    }                                                                                                                \
    XENT_INLINE vector xent_absolute_##S(vector x) {                                                                 \
        ints sign = xent_bits_##S(xent_fill_##S(-0.0));                                                              \
        return xent_from_bits_##S(xent_bits_##S(x) & ~sign);                                                         \
    }                                                                                                                \
    /* 2**n, where `shifted` is n + 1.5 * 2**mantissa: n sits in the low bits, and the shift drops the rest. */       \
    XENT_INLINE vector xent_power_of_two_##S(vector shifted) {                                                       \
        return xent_from_bits_##S((xent_bits_##S(shifted) << mantissa) + xent_bits_##S(xent_fill_##S(1.0)));         \
    }                                                                                                                \
    XENT_INLINE vector xent_without_lane_##S(vector x, Py_ssize_t lane) {                                            \
        return xent_from_bits_##S(xent_bits_##S(x) & XENT_MASK(xent_iota_##S() != (scalar)lane));                    \
    }                                                                                                                \
    XENT_INLINE double xent_max_lanes_##S(vector x) {                                                                \
        double best = XENT_LANE(x, 0);                                                                               \
        for (size_t i = 1; i < sizeof(vector) / sizeof(scalar); i++)                                                 \
            best = XENT_LANE(x, i) > best ? XENT_LANE(x, i) : best;                                                  \
        return best;                                                                                                 \
    }                                                                                                                \
    XENT_INLINE double xent_get_##S(const vector *row, Py_ssize_t i) { return ((const scalar *)row)[i]; }            \
    XENT_INLINE void xent_put_##S(vector *row, Py_ssize_t i, double x) { ((scalar *)row)[i] = (scalar)x; }

XENT_DEFINE(f32, float, vf32, vi32, 23)
XENT_DEFINE(f64, double, vf64, vi64, 52)

/* What the compiler has no operator for, in the instructions of each set:
 *   maximum        max(a, b); which of the two where one is NaN is not specified
 *   equal          a bit for each lane in which a == b
 *   multiply_rest  a * b - product exactly, for product = a * b as rounded
 *   load_first     the first n <= lanes elements at an address, other lanes filled; nothing beyond them is read
 *   store_first    the first n <= lanes elements to an address; nothing beyond them is written
 */
#if defined(__AVX512F__) && XENT_BYTES == 64
XENT_INLINE vf32 xent_maximum_f32(vf32 a, vf32 b) { return (vf32)_mm512_max_ps((__m512)a, (__m512)b); }
XENT_INLINE vf64 xent_maximum_f64(vf64 a, vf64 b) { return (vf64)_mm512_max_pd((__m512d)a, (__m512d)b); }
XENT_INLINE int xent_equal_f32(vf32 a, vf32 b) { return _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_EQ_OQ); }
XENT_INLINE int xent_equal_f64(vf64 a, vf64 b) { return _mm512_cmp_pd_mask((__m512d)a, (__m512d)b, _CMP_EQ_OQ); }
XENT_INLINE vf32 xent_multiply_rest_f32(vf32 a, vf32 b, vf32 product) {
    return (vf32)_mm512_fmsub_ps((__m512)a, (__m512)b, (__m512)product);
}
XENT_INLINE vf64 xent_multiply_rest_f64(vf64 a, vf64 b, vf64 product) {
    return (vf64)_mm512_fmsub_pd((__m512d)a, (__m512d)b, (__m512d)product);
}
XENT_INLINE vf32 xent_load_first_f32(const vf32 *source, Py_ssize_t n, double otherwise) {
    return (vf32)_mm512_mask_loadu_ps((__m512)xent_fill_f32(otherwise), (__mmask16)((1u << n) - 1), source);
}
XENT_INLINE vf64 xent_load_first_f64(const vf64 *source, Py_ssize_t n, double otherwise) {
    return (vf64)_mm512_mask_loadu_pd((__m512d)xent_fill_f64(otherwise), (__mmask8)((1u << n) - 1), source);
}
XENT_INLINE void xent_store_first_f32(vf32 *target, Py_ssize_t n, vf32 x) {
    _mm512_mask_storeu_ps(target, (__mmask16)((1u << n) - 1), (__m512)x);
}
XENT_INLINE void xent_store_first_f64(vf64 *target, Py_ssize_t n, vf64 x) {
    _mm512_mask_storeu_pd(target, (__mmask8)((1u << n) - 1), (__m512d)x);
}
#elif defined(__AVX2__) && XENT_BYTES == 32
XENT_INLINE vf32 xent_maximum_f32(vf32 a, vf32 b) { return (vf32)_mm256_max_ps((__m256)a, (__m256)b); }
XENT_INLINE vf64 xent_maximum_f64(vf64 a, vf64 b) { return (vf64)_mm256_max_pd((__m256d)a, (__m256d)b); }
XENT_INLINE int xent_equal_f32(vf32 a, vf32 b) { return _mm256_movemask_ps((__m256)(a == b)); }
XENT_INLINE int xent_equal_f64(vf64 a, vf64 b) { return _mm256_movemask_pd((__m256d)(a == b)); }
XENT_INLINE vf32 xent_multiply_rest_f32(vf32 a, vf32 b, vf32 product) {
    return (vf32)_mm256_fmsub_ps((__m256)a, (__m256)b, (__m256)product);
}
XENT_INLINE vf64 xent_multiply_rest_f64(vf64 a, vf64 b, vf64 product) {
    return (vf64)_mm256_fmsub_pd((__m256d)a, (__m256d)b, (__m256d)product);
}
XENT_INLINE vf32 xent_load_first_f32(const vf32 *source, Py_ssize_t n, double otherwise) {
    vi32 mask = xent_iota_f32() < (float)n;
    vi32 x = (vi32)_mm256_maskload_ps((const float *)source, (__m256i)mask);
    return (vf32)((x & mask) | ((vi32)xent_fill_f32(otherwise) & ~mask));
}
XENT_INLINE vf64 xent_load_first_f64(const vf64 *source, Py_ssize_t n, double otherwise) {
    vi64 mask = xent_iota_f64() < (double)n;
    vi64 x = (vi64)_mm256_maskload_pd((const double *)source, (__m256i)mask);
    return (vf64)((x & mask) | ((vi64)xent_fill_f64(otherwise) & ~mask));
}
XENT_INLINE void xent_store_first_f32(vf32 *target, Py_ssize_t n, vf32 x) {
    _mm256_maskstore_ps((float *)target, (__m256i)(xent_iota_f32() < (float)n), (__m256)x);
}
XENT_INLINE void xent_store_first_f64(vf64 *target, Py_ssize_t n, vf64 x) {
    _mm256_maskstore_pd((double *)target, (__m256i)(xent_iota_f64() < (double)n), (__m256d)x);
}
#else
#  if defined(__SSE2__) && !defined(XENT_SCALAR)
XENT_INLINE vf32 xent_maximum_f32(vf32 a, vf32 b) { return (vf32)_mm_max_ps((__m128)a, (__m128)b); }
XENT_INLINE vf64 xent_maximum_f64(vf64 a, vf64 b) { return (vf64)_mm_max_pd((__m128d)a, (__m128d)b); }
XENT_INLINE int xent_equal_f32(vf32 a, vf32 b) { return _mm_movemask_ps((__m128)(a == b)); }
XENT_INLINE int xent_equal_f64(vf64 a, vf64 b) { return _mm_movemask_pd((__m128d)(a == b)); }
#  else
XENT_INLINE vf32 xent_maximum_f32(vf32 a, vf32 b) { return xent_where_less_f32(a, b, b, a); }
XENT_INLINE vf64 xent_maximum_f64(vf64 a, vf64 b) { return xent_where_less_f64(a, b, b, a); }
XENT_INLINE int xent_equal_f32(vf32 a, vf32 b) {
    int mask = 0;
    for (int i = 0; i < XENT_LANES_f32; i++) mask |= (XENT_LANE(a, i) == XENT_LANE(b, i)) << i;
    return mask;
}
XENT_INLINE int xent_equal_f64(vf64 a, vf64 b) {
    int mask = 0;
    for (int i = 0; i < XENT_LANES_f64; i++) mask |= (XENT_LANE(a, i) == XENT_LANE(b, i)) << i;
    return mask;
}
#  endif
/* Where a * b + c is one instruction, the compiler may fuse any of them, and Dekker's product needs none to be. */
#  if defined(__FP_FAST_FMA) || defined(__aarch64__)
#    define XENT_MULTIPLY_REST(scalar, vector, splitter)                                                             \
        vector rest = product;                                                                                       \
        for (size_t i = 0; i < sizeof(vector) / sizeof(scalar); i++)                                                 \
            XENT_LANE(rest, i) = sizeof(scalar) == sizeof(float)                                                     \
                ? (scalar)__builtin_fmaf(XENT_LANE(a, i), XENT_LANE(b, i), -XENT_LANE(product, i))                   \
                : (scalar)__builtin_fma(XENT_LANE(a, i), XENT_LANE(b, i), -XENT_LANE(product, i));                   \
        return rest;
#  else
#    define XENT_MULTIPLY_REST(scalar, vector, splitter)                                                             \
        vector a_split = a * (scalar)splitter, a_high = a_split - (a_split - a), a_low = a - a_high;                 \
        vector b_split = b * (scalar)splitter, b_high = b_split - (b_split - b), b_low = b - b_high;                 \
        return ((a_high * b_high - product) + a_high * b_low + a_low * b_high) + a_low * b_low;
#  endif
#  define XENT_DEFINE_PORTABLY(S, scalar, vector, splitter)                                                          \
    XENT_INLINE vector xent_multiply_rest_##S(vector a, vector b, vector product) {                                  \
        XENT_MULTIPLY_REST(scalar, vector, splitter)                                                                 \
    }                                                                                                                \
    XENT_INLINE vector xent_load_first_##S(const vector *source, Py_ssize_t n, double otherwise) {                   \
        vector x = xent_fill_##S(otherwise);                                                                         \
        for (Py_ssize_t i = 0; i < XENT_LANES_##S; i++)                                                              \
            if (i < n) XENT_LANE(x, i) = ((const scalar *)source)[i];                                                \
        return x;                                                                                                    \
    }                                                                                                                \
    XENT_INLINE void xent_store_first_##S(vector *target, Py_ssize_t n, vector x) {                                  \
        for (Py_ssize_t i = 0; i < XENT_LANES_##S; i++)                                                              \
            if (i < n) ((scalar *)target)[i] = XENT_LANE(x, i);                                                      \
    }
XENT_DEFINE_PORTABLY(f32, float, vf32, 4097.0)
XENT_DEFINE_PORTABLY(f64, double, vf64, 134217729.0)
#endif
XENT_INLINE int xent_any_equal_f32(vf32 a, vf32 b) { return xent_equal_f32(a, b) != 0; }
XENT_INLINE int xent_any_equal_f64(vf64 a, vf64 b) { return xent_equal_f64(a, b) != 0; }
XENT_INLINE int xent_all_equal_f32(vf32 a, vf32 b) { return xent_equal_f32(a, b) == (1 << XENT_LANES_f32) - 1; }
XENT_INLINE int xent_all_equal_f64(vf64 a, vf64 b) { return xent_equal_f64(a, b) == (1 << XENT_LANES_f64) - 1; }

/* Ask for the cache line at an address, which need not be one of the program's. */
#if defined(__GNUC__) || defined(__clang__)
XENT_INLINE void xent_prefetch(const void *address) { __builtin_prefetch(address); }
#else
XENT_INLINE void xent_prefetch(const void *address) { (void)address; }
#endif

/* Instruction sets of this CPU that the operating system saves the registers of. */
XENT_INLINE int xent_cpu_has_avx2(void) {
#if (defined(__GNUC__) || defined(__clang__)) && defined(__x86_64__)
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#else
    return 0;
#endif
}
XENT_INLINE int xent_cpu_has_avx512(void) {
#if (defined(__GNUC__) || defined(__clang__)) && defined(__x86_64__)
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw")
        && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
#else
    return 0;
#endif
}

#endif
