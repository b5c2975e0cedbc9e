/* The vector types of the kernels: `vf32` and `vf64` are one register of floats or doubles. +, -, *, / are operators of
 * the GCC and Clang vector extension; everything else is a function here, one per type, with the suffix _f32 or _f64.
 * Vectors may be unaligned in memory. Compilers without the extension get vectors of one element.
 *
 * A vector is as wide as a register, or XENT_WIDTH bytes (16, 32 or 64) where that is defined. Wider ones are for tests:
 * their results are those of a set with such registers, if the CPU can fuse a multiply-add, too.
 */
#ifndef XENT_SIMD_H
#define XENT_SIMD_H

#include <stdint.h>
#include <string.h>

#if (defined(__clang__) || (defined(__GNUC__) && __GNUC__ >= 9)) && !defined(XENT_SCALAR)
#  define XENT_INLINE static inline __attribute__((always_inline, unused))
#  define xent_forced_void __attribute__((always_inline)) void
#  if defined(XENT_WIDTH)
#    define XENT_BYTES XENT_WIDTH
#  elif defined(__AVX512F__) && defined(__AVX512DQ__)
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
typedef uint32_t vu32 __attribute__((vector_size(XENT_BYTES)));
typedef uint64_t vu64 __attribute__((vector_size(XENT_BYTES)));
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
typedef uint32_t vu32;
typedef uint64_t vu64;
#  define XENT_LANE(v, i) (*((i) * 0 + &(v)))
#endif

#if defined(__SSE2__) && !defined(XENT_SCALAR)
#  include <immintrin.h>
#  if XENT_BYTES == 16 || (XENT_BYTES == 32 && defined(__AVX2__)) || (XENT_BYTES == 64 && defined(__AVX512F__))
#    define XENT_REGISTERS 1            /* a vector is an x86 register */
#  endif
#endif

#ifndef xent_forced_void
#  define xent_forced_void void
#endif

/* Whether there are 32 registers, not 16. */
#if (defined(__AVX512F__) && XENT_BYTES == 64) || (defined(__aarch64__) && XENT_BYTES == 16)
#  define XENT_HAS_32 1
#else
#  define XENT_HAS_32 0
#endif

#define XENT_LANES_f32 ((Py_ssize_t)(sizeof(vf32) / sizeof(float)))
#define XENT_LANES_f64 ((Py_ssize_t)(sizeof(vf64) / sizeof(double)))

/* Reinterpret the bits of a float vector as integers, and back. */
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

#define XENT_TWO_TO_f32 8388608.0              /* 2**mantissa */
#define XENT_TWO_TO_f64 4503599627370496.0

/* Bits are shifted left and added as unsigned integers, because signed overflow is undefined in C. */
#define XENT_DEFINE(S, scalar, vector, ints, unsigneds, mantissa)                                                    \
    XENT_INLINE vector xent_fill_##S(double value) {                                                                 \
        vector x;                                                                                                    \
        for (size_t i = 0; i < sizeof(vector) / sizeof(scalar); i++) XENT_LANE(x, i) = (scalar)value;                \
        return x;                                                                                                    \
    }                                                                                                                \
    /* x, or -x where `sign` is negative (-0 is) */                                                                  \
    XENT_INLINE vector xent_flip_##S(vector x, vector sign) {                                                        \
        ints bit = xent_bits_##S(xent_fill_##S(-0.0));                                                               \
        return xent_from_bits_##S(xent_bits_##S(x) ^ (xent_bits_##S(sign) & bit));                                   \
    }                                                                                                                \
    XENT_INLINE vector xent_absolute_##S(vector x) {                                                                 \
        ints sign = xent_bits_##S(xent_fill_##S(-0.0));                                                              \
        return xent_from_bits_##S(xent_bits_##S(x) & ~sign);                                                         \
    }                                                                                                                \
    /* x 2**n for a power of two x; `shifted` is n + 1.5 * 2**mantissa, which has n in its low bits. The exponent may \
     * leave its range. */                                                                                           \
    XENT_INLINE vector xent_scaled_##S(vector x, vector shifted) {                                                   \
        unsigneds bits = ((unsigneds)xent_bits_##S(shifted) << mantissa) + (unsigneds)xent_bits_##S(x);              \
        return xent_from_bits_##S((ints)bits);                                                                       \
    }                                                                                                                \
    /* k, with x = 2**k * f and sqrt(1/2) <= f < sqrt(2) for a normal x > 0; *down = 2**-k. */                       \
    XENT_INLINE vector xent_split_##S(vector x, vector *down) {                                                      \
        ints one = xent_bits_##S(xent_fill_##S(1.0)), big = xent_bits_##S(xent_fill_##S(1.5 * XENT_TWO_TO_##S));     \
        unsigneds bits = (unsigneds)xent_bits_##S(x);                                                                \
        ints k = (ints)(bits - (unsigneds)xent_bits_##S(xent_fill_##S(0.70710678118654752440))) >> mantissa;         \
        *down = xent_from_bits_##S((ints)((unsigneds)one - ((unsigneds)k << mantissa)));                             \
        return xent_from_bits_##S(k + big) - xent_from_bits_##S(big);                                                \
    }                                                                                                                \
    XENT_INLINE vector xent_without_lane_##S(vector x, Py_ssize_t lane) {                                            \
        return xent_from_bits_##S(xent_bits_##S(x) & XENT_MASK(xent_iota_##S() != (scalar)lane));                    \
    }                                                                                                                \
    XENT_INLINE vector xent_with_lane_##S(vector x, Py_ssize_t lane, double value) {                                 \
        ints others = XENT_MASK(xent_iota_##S() != (scalar)lane);                                                    \
        return xent_from_bits_##S((xent_bits_##S(x) & others) | (xent_bits_##S(xent_fill_##S(value)) & ~others));    \
    }                                                                                                                \
    XENT_INLINE double xent_get_##S(const vector *row, Py_ssize_t i) { return ((const scalar *)row)[i]; }            \
    XENT_INLINE void xent_put_##S(vector *row, Py_ssize_t i, double x) { ((scalar *)row)[i] = (scalar)x; }

/* The largest lane; and the sum over all lanes of floats, in float64. In registers where that is possible: through
 * memory, each step would wait for the stores of the last. */
#ifdef XENT_REGISTERS
XENT_INLINE float xent_max_lanes_f32(vf32 x) {
#  if XENT_BYTES == 64
    __m256 wide = _mm256_max_ps(_mm512_castps512_ps256((__m512)x), _mm512_extractf32x8_ps((__m512)x, 1));
    __m128 four = _mm_max_ps(_mm256_castps256_ps128(wide), _mm256_extractf128_ps(wide, 1));
#  elif XENT_BYTES == 32
    __m128 four = _mm_max_ps(_mm256_castps256_ps128((__m256)x), _mm256_extractf128_ps((__m256)x, 1));
#  else
    __m128 four = (__m128)x;
#  endif
    four = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(four, _mm_shuffle_ps(four, four, 1)));
}
XENT_INLINE double xent_max_lanes_f64(vf64 x) {
#  if XENT_BYTES == 64
    __m256d wide = _mm256_max_pd(_mm512_castpd512_pd256((__m512d)x), _mm512_extractf64x4_pd((__m512d)x, 1));
    __m128d two = _mm_max_pd(_mm256_castpd256_pd128(wide), _mm256_extractf128_pd(wide, 1));
#  elif XENT_BYTES == 32
    __m128d two = _mm_max_pd(_mm256_castpd256_pd128((__m256d)x), _mm256_extractf128_pd((__m256d)x, 1));
#  else
    __m128d two = (__m128d)x;
#  endif
    return _mm_cvtsd_f64(_mm_max_sd(two, _mm_unpackhi_pd(two, two)));
}
#else
#  define XENT_DEFINE_MAX_LANES(S, scalar, vector)                                                                   \
    XENT_INLINE scalar xent_max_lanes_##S(vector x) {                                                                \
        scalar best[sizeof(vector) / sizeof(scalar)];                                                                \
        memcpy(best, &x, sizeof best);                                                                               \
        for (Py_ssize_t half = XENT_LANES_##S / 2; half > 0; half /= 2)                                              \
            for (Py_ssize_t i = 0; i < half; i++) best[i] = best[i] > best[i + half] ? best[i] : best[i + half];     \
        return best[0];                                                                                              \
    }
XENT_DEFINE_MAX_LANES(f32, float, vf32)
XENT_DEFINE_MAX_LANES(f64, double, vf64)
#endif
#if XENT_BYTES == 64 && defined(__AVX512F__)
XENT_INLINE double xent_sum_lanes_f32(vf32 x) {
    __m512d eight = _mm512_add_pd(
        _mm512_cvtps_pd(_mm512_castps512_ps256((__m512)x)), _mm512_cvtps_pd(_mm512_extractf32x8_ps((__m512)x, 1)));
    __m256d four = _mm256_add_pd(_mm512_castpd512_pd256(eight), _mm512_extractf64x4_pd(eight, 1));
    __m128d two = _mm_add_pd(_mm256_castpd256_pd128(four), _mm256_extractf128_pd(four, 1));
    return _mm_cvtsd_f64(_mm_add_sd(two, _mm_unpackhi_pd(two, two)));
}
#elif XENT_BYTES == 32 && defined(__AVX2__)
XENT_INLINE double xent_sum_lanes_f32(vf32 x) {
    __m256d four = _mm256_add_pd(
        _mm256_cvtps_pd(_mm256_castps256_ps128((__m256)x)), _mm256_cvtps_pd(_mm256_extractf128_ps((__m256)x, 1)));
    __m128d two = _mm_add_pd(_mm256_castpd256_pd128(four), _mm256_extractf128_pd(four, 1));
    return _mm_cvtsd_f64(_mm_add_sd(two, _mm_unpackhi_pd(two, two)));
}
#else
XENT_INLINE double xent_sum_lanes_f32(vf32 x) {
    double sums[sizeof(vf32) / sizeof(float)];
    for (Py_ssize_t i = 0; i < XENT_LANES_f32; i++) sums[i] = XENT_LANE(x, i);
    for (Py_ssize_t half = XENT_LANES_f32 / 2; half > 0; half /= 2)
        for (Py_ssize_t i = 0; i < half; i++) sums[i] += sums[i + half];
    return sums[0];
}
#endif

/* The upper half of the first 2 `half` lanes, moved to the lower half. */
#if XENT_BYTES == 64 && defined(__AVX512F__)
XENT_INLINE vf64 xent_upper_f64(vf64 x, int half) {
    __m512d v = (__m512d)x;
    return (vf64)(half == 4 ? _mm512_shuffle_f64x2(v, v, 0x4e) : half == 2 ? _mm512_shuffle_f64x2(v, v, 0xb1)
                                                                           : _mm512_permute_pd(v, 0x55));
}
#elif XENT_BYTES == 32 && defined(__AVX2__)
XENT_INLINE vf64 xent_upper_f64(vf64 x, int half) {
    __m256d v = (__m256d)x;
    return (vf64)(half == 2 ? _mm256_permute4x64_pd(v, 0x4e) : _mm256_permute_pd(v, 0x5));
}
#else
XENT_INLINE vf64 xent_upper_f64(vf64 x, int half) {
    vf64 y = x;
    for (int i = 0; i < half; i++) XENT_LANE(y, i) = XENT_LANE(x, i + half);
    return y;
}
#endif

/* The sum over all lanes in their own type, in pairs. */
#define XENT_ADD_LANES(S, scalar, vector)                                                                            \
    XENT_INLINE scalar xent_add_lanes_##S(vector x) {                                                                \
        scalar sums[sizeof(vector) / sizeof(scalar)];                                                                \
        memcpy(sums, &x, sizeof sums);                                                                               \
        for (size_t half = sizeof(vector) / sizeof(scalar) / 2; half > 0; half /= 2)                                 \
            for (size_t i = 0; i < half; i++) sums[i] += sums[i + half];                                             \
        return sums[0];                                                                                              \
    }
#ifdef XENT_REGISTERS
/* In registers: through memory, each step would wait for the stores of the last. */
XENT_INLINE float xent_add_lanes_f32(vf32 x) {
#  if XENT_BYTES == 64
    __m256 wide = _mm256_add_ps(_mm512_castps512_ps256((__m512)x), _mm512_extractf32x8_ps((__m512)x, 1));
#  elif XENT_BYTES == 32
    __m256 wide = (__m256)x;
#  endif
#  if XENT_BYTES >= 32
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(wide), _mm256_extractf128_ps(wide, 1));
#  else
    __m128 four = (__m128)x;
#  endif
    __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
}
XENT_INLINE double xent_add_lanes_f64(vf64 x) {
#  if XENT_BYTES == 64
    __m256d wide = _mm256_add_pd(_mm512_castpd512_pd256((__m512d)x), _mm512_extractf64x4_pd((__m512d)x, 1));
#  elif XENT_BYTES == 32
    __m256d wide = (__m256d)x;
#  endif
#  if XENT_BYTES >= 32
    __m128d two = _mm_add_pd(_mm256_castpd256_pd128(wide), _mm256_extractf128_pd(wide, 1));
#  else
    __m128d two = (__m128d)x;
#  endif
    return _mm_cvtsd_f64(_mm_add_sd(two, _mm_unpackhi_pd(two, two)));
}
#else
XENT_ADD_LANES(f32, float, vf32)
XENT_ADD_LANES(f64, double, vf64)
#endif

XENT_DEFINE(f32, float, vf32, vi32, vu32, 23)
XENT_DEFINE(f64, double, vf64, vi64, vu64, 52)

/* out[c] = the sum of the lanes of sums[c], plus start[c], for four: fewer instructions than one by one. Halves are added
 * in the same order. */
XENT_INLINE void xent_add_four_f32(const vf32 *sums, const double *start, vf32 *out) {
#if defined(__AVX512F__) && XENT_BYTES == 64
    __m512 a = (__m512)sums[0], b = (__m512)sums[1], c = (__m512)sums[2], d = (__m512)sums[3];
    __m512 ab = _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xee));
    __m512 cd = _mm512_add_ps(_mm512_shuffle_f32x4(c, d, 0x44), _mm512_shuffle_f32x4(c, d, 0xee));
    __m512 x = _mm512_add_ps(_mm512_shuffle_f32x4(ab, cd, 0x88), _mm512_shuffle_f32x4(ab, cd, 0xdd));
    x = _mm512_add_ps(x, _mm512_permute_ps(x, 0x4e));
    x = _mm512_add_ps(x, _mm512_permute_ps(x, 0xb1));
    __m512i places = _mm512_castsi128_si512(_mm_setr_epi32(0, 4, 8, 12));
    __m256d z = _mm256_cvtps_pd(_mm512_castps512_ps128(_mm512_permutexvar_ps(places, x)));
    _mm_storeu_ps((float *)out, _mm256_cvtpd_ps(_mm256_add_pd(z, _mm256_loadu_pd(start))));
#elif defined(__AVX2__) && XENT_BYTES == 32
    __m256 a = (__m256)sums[0], b = (__m256)sums[1], c = (__m256)sums[2], d = (__m256)sums[3];
    __m256 ab = _mm256_add_ps(_mm256_permute2f128_ps(a, b, 0x20), _mm256_permute2f128_ps(a, b, 0x31));
    __m256 cd = _mm256_add_ps(_mm256_permute2f128_ps(c, d, 0x20), _mm256_permute2f128_ps(c, d, 0x31));
    __m256 x = _mm256_add_ps(_mm256_shuffle_ps(ab, cd, 0x44), _mm256_shuffle_ps(ab, cd, 0xee));
    x = _mm256_add_ps(x, _mm256_permute_ps(x, 0xb1));
    x = _mm256_permutevar8x32_ps(x, _mm256_setr_epi32(0, 4, 2, 6, 0, 4, 2, 6));
    __m256d z = _mm256_cvtps_pd(_mm256_castps256_ps128(x));
    _mm_storeu_ps((float *)out, _mm256_cvtpd_ps(_mm256_add_pd(z, _mm256_loadu_pd(start))));
#else
    for (int c = 0; c < 4; c++) xent_put_f32(out, c, xent_add_lanes_f32(sums[c]) + start[c]);
#endif
}
XENT_INLINE void xent_add_four_f64(const vf64 *sums, const double *start, vf64 *out) {
#if defined(__AVX512F__) && XENT_BYTES == 64
    __m512d a = (__m512d)sums[0], b = (__m512d)sums[1], c = (__m512d)sums[2], d = (__m512d)sums[3];
    __m512d ab = _mm512_add_pd(_mm512_shuffle_f64x2(a, b, 0x44), _mm512_shuffle_f64x2(a, b, 0xee));
    __m512d cd = _mm512_add_pd(_mm512_shuffle_f64x2(c, d, 0x44), _mm512_shuffle_f64x2(c, d, 0xee));
    __m512d x = _mm512_add_pd(_mm512_shuffle_f64x2(ab, cd, 0x88), _mm512_shuffle_f64x2(ab, cd, 0xdd));
    x = _mm512_add_pd(x, _mm512_permute_pd(x, 0x55));
    __m512i places = _mm512_castsi256_si512(_mm256_setr_epi64x(0, 2, 4, 6));
    __m256d z = _mm512_castpd512_pd256(_mm512_permutexvar_pd(places, x));
    _mm256_storeu_pd((double *)out, _mm256_add_pd(z, _mm256_loadu_pd(start)));
#elif defined(__AVX2__) && XENT_BYTES == 32
    __m256d a = (__m256d)sums[0], b = (__m256d)sums[1], c = (__m256d)sums[2], d = (__m256d)sums[3];
    __m256d ab = _mm256_add_pd(_mm256_permute2f128_pd(a, b, 0x20), _mm256_permute2f128_pd(a, b, 0x31));
    __m256d cd = _mm256_add_pd(_mm256_permute2f128_pd(c, d, 0x20), _mm256_permute2f128_pd(c, d, 0x31));
    __m256d z = _mm256_add_pd(_mm256_unpacklo_pd(ab, cd), _mm256_unpackhi_pd(ab, cd));
    _mm256_storeu_pd((double *)out, _mm256_add_pd(_mm256_permute4x64_pd(z, 0xd8), _mm256_loadu_pd(start)));
#else
    for (int c = 0; c < 4; c++) xent_put_f64(out, c, xent_add_lanes_f64(sums[c]) + start[c]);
#endif
}

#define XENT_BLEND(mask, yes, no) (((mask) & (yes)) | (~(mask) & (no)))

/* Functions for which there is no operator, in the instructions of each set:
 *   where_less     yes in the lanes in which a < b, else no
 *   where_equal    the same for a == b
 *   unless_less    0 in the lanes in which a < b, else x
 *   maximum        max(a, b); b where either is NaN; and minimum
 *   equal          a bit for each lane in which a == b
 *   multiply_add   a * b + c, rounded once where the set has such an instruction
 *   multiply_rest  a * b - product exactly, for product = a * b as rounded
 *   residual       c - a * b, rounded once, for c near a * b
 *   load_first     the first n <= lanes elements at an address, other lanes filled; nothing beyond them is read
 *   store_first    the first n <= lanes elements to an address; nothing beyond them is written
 */
#if defined(__AVX512F__) && XENT_BYTES == 64
XENT_INLINE vf32 xent_where_less_f32(vf32 a, vf32 b, vf32 yes, vf32 no) {
    return (vf32)_mm512_mask_blend_ps(_mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_LT_OQ), (__m512)no, (__m512)yes);
}
XENT_INLINE vf32 xent_where_equal_f32(vf32 a, vf32 b, vf32 yes, vf32 no) {
    return (vf32)_mm512_mask_blend_ps(_mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_EQ_OQ), (__m512)no, (__m512)yes);
}
XENT_INLINE vf64 xent_where_less_f64(vf64 a, vf64 b, vf64 yes, vf64 no) {
    return (vf64)_mm512_mask_blend_pd(_mm512_cmp_pd_mask((__m512d)a, (__m512d)b, _CMP_LT_OQ), (__m512d)no, (__m512d)yes);
}
XENT_INLINE vf64 xent_where_equal_f64(vf64 a, vf64 b, vf64 yes, vf64 no) {
    return (vf64)_mm512_mask_blend_pd(_mm512_cmp_pd_mask((__m512d)a, (__m512d)b, _CMP_EQ_OQ), (__m512d)no, (__m512d)yes);
}
XENT_INLINE vf32 xent_unless_less_f32(vf32 a, vf32 b, vf32 x) {
    return (vf32)_mm512_maskz_mov_ps(_mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_NLT_UQ), (__m512)x);
}
XENT_INLINE vf64 xent_unless_less_f64(vf64 a, vf64 b, vf64 x) {
    return (vf64)_mm512_maskz_mov_pd(_mm512_cmp_pd_mask((__m512d)a, (__m512d)b, _CMP_NLT_UQ), (__m512d)x);
}
XENT_INLINE vf32 xent_maximum_f32(vf32 a, vf32 b) { return (vf32)_mm512_max_ps((__m512)a, (__m512)b); }
XENT_INLINE vf32 xent_minimum_f32(vf32 a, vf32 b) { return (vf32)_mm512_min_ps((__m512)a, (__m512)b); }
XENT_INLINE vf64 xent_maximum_f64(vf64 a, vf64 b) { return (vf64)_mm512_max_pd((__m512d)a, (__m512d)b); }
XENT_INLINE vf64 xent_minimum_f64(vf64 a, vf64 b) { return (vf64)_mm512_min_pd((__m512d)a, (__m512d)b); }
XENT_INLINE int xent_equal_f32(vf32 a, vf32 b) { return _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_EQ_OQ); }
XENT_INLINE int xent_equal_f64(vf64 a, vf64 b) { return _mm512_cmp_pd_mask((__m512d)a, (__m512d)b, _CMP_EQ_OQ); }
XENT_INLINE vf32 xent_multiply_add_f32(vf32 a, vf32 b, vf32 c) {
    return (vf32)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
}
XENT_INLINE vf32 xent_residual_f32(vf32 c, vf32 a, vf32 b) {
    return (vf32)_mm512_fnmadd_ps((__m512)a, (__m512)b, (__m512)c);
}
XENT_INLINE vf32 xent_multiply_rest_f32(vf32 a, vf32 b, vf32 product) {
    return (vf32)_mm512_fmsub_ps((__m512)a, (__m512)b, (__m512)product);
}
XENT_INLINE vf64 xent_multiply_add_f64(vf64 a, vf64 b, vf64 c) {
    return (vf64)_mm512_fmadd_pd((__m512d)a, (__m512d)b, (__m512d)c);
}
XENT_INLINE vf64 xent_residual_f64(vf64 c, vf64 a, vf64 b) {
    return (vf64)_mm512_fnmadd_pd((__m512d)a, (__m512d)b, (__m512d)c);
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
XENT_INLINE vf32 xent_where_less_f32(vf32 a, vf32 b, vf32 yes, vf32 no) {
    return (vf32)_mm256_blendv_ps((__m256)no, (__m256)yes, (__m256)(a < b));
}
XENT_INLINE vf32 xent_where_equal_f32(vf32 a, vf32 b, vf32 yes, vf32 no) {
    return (vf32)_mm256_blendv_ps((__m256)no, (__m256)yes, (__m256)(a == b));
}
XENT_INLINE vf64 xent_where_less_f64(vf64 a, vf64 b, vf64 yes, vf64 no) {
    return (vf64)_mm256_blendv_pd((__m256d)no, (__m256d)yes, (__m256d)(a < b));
}
XENT_INLINE vf64 xent_where_equal_f64(vf64 a, vf64 b, vf64 yes, vf64 no) {
    return (vf64)_mm256_blendv_pd((__m256d)no, (__m256d)yes, (__m256d)(a == b));
}
XENT_INLINE vf32 xent_unless_less_f32(vf32 a, vf32 b, vf32 x) {
    return (vf32)_mm256_andnot_ps((__m256)(a < b), (__m256)x);
}
XENT_INLINE vf64 xent_unless_less_f64(vf64 a, vf64 b, vf64 x) {
    return (vf64)_mm256_andnot_pd((__m256d)(a < b), (__m256d)x);
}
XENT_INLINE vf32 xent_maximum_f32(vf32 a, vf32 b) { return (vf32)_mm256_max_ps((__m256)a, (__m256)b); }
XENT_INLINE vf32 xent_minimum_f32(vf32 a, vf32 b) { return (vf32)_mm256_min_ps((__m256)a, (__m256)b); }
XENT_INLINE vf64 xent_maximum_f64(vf64 a, vf64 b) { return (vf64)_mm256_max_pd((__m256d)a, (__m256d)b); }
XENT_INLINE vf64 xent_minimum_f64(vf64 a, vf64 b) { return (vf64)_mm256_min_pd((__m256d)a, (__m256d)b); }
XENT_INLINE int xent_equal_f32(vf32 a, vf32 b) { return _mm256_movemask_ps((__m256)(a == b)); }
XENT_INLINE int xent_equal_f64(vf64 a, vf64 b) { return _mm256_movemask_pd((__m256d)(a == b)); }
XENT_INLINE vf32 xent_multiply_add_f32(vf32 a, vf32 b, vf32 c) {
    return (vf32)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
}
XENT_INLINE vf32 xent_residual_f32(vf32 c, vf32 a, vf32 b) {
    return (vf32)_mm256_fnmadd_ps((__m256)a, (__m256)b, (__m256)c);
}
XENT_INLINE vf32 xent_multiply_rest_f32(vf32 a, vf32 b, vf32 product) {
    return (vf32)_mm256_fmsub_ps((__m256)a, (__m256)b, (__m256)product);
}
XENT_INLINE vf64 xent_multiply_add_f64(vf64 a, vf64 b, vf64 c) {
    return (vf64)_mm256_fmadd_pd((__m256d)a, (__m256d)b, (__m256d)c);
}
XENT_INLINE vf64 xent_residual_f64(vf64 c, vf64 a, vf64 b) {
    return (vf64)_mm256_fnmadd_pd((__m256d)a, (__m256d)b, (__m256d)c);
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
/* Stores in pieces: a masked store that misses the cache takes hundreds of cycles on AMD processors. */
XENT_INLINE void xent_store_first_f32(vf32 *target, Py_ssize_t n, vf32 x) {
    float *to = (float *)target;
    __m128 part = _mm256_castps256_ps128((__m256)x);
    if (n & 8) _mm256_storeu_ps(to, (__m256)x);
    if (n & 4) _mm_storeu_ps(to, part), to += 4, part = _mm256_extractf128_ps((__m256)x, 1);
    if (n & 2) _mm_storel_pi((__m64 *)to, part), to += 2, part = _mm_movehl_ps(part, part);
    if (n & 1) _mm_store_ss(to, part);
}
XENT_INLINE void xent_store_first_f64(vf64 *target, Py_ssize_t n, vf64 x) {
    double *to = (double *)target;
    __m128d part = _mm256_castpd256_pd128((__m256d)x);
    if (n & 4) _mm256_storeu_pd(to, (__m256d)x);
    if (n & 2) _mm_storeu_pd(to, part), to += 2, part = _mm256_extractf128_pd((__m256d)x, 1);
    if (n & 1) _mm_store_sd(to, part);
}
#else
#  define XENT_DEFINE_WHERE(S, vector, ints)                                                                         \
    XENT_INLINE vector xent_where_less_##S(vector a, vector b, vector yes, vector no) {                              \
        ints mask = XENT_MASK(a < b);                                                                                \
        return xent_from_bits_##S(XENT_BLEND(mask, xent_bits_##S(yes), xent_bits_##S(no)));                          \
    }                                                                                                                \
    XENT_INLINE vector xent_where_equal_##S(vector a, vector b, vector yes, vector no) {                             \
        ints mask = XENT_MASK(a == b);                                                                               \
        return xent_from_bits_##S(XENT_BLEND(mask, xent_bits_##S(yes), xent_bits_##S(no)));                          \
    }                                                                                                                \
    XENT_INLINE vector xent_unless_less_##S(vector a, vector b, vector x) {                                          \
        ints mask = XENT_MASK(a < b);                                                                                \
        return xent_from_bits_##S(~mask & xent_bits_##S(x));                                                         \
    }
XENT_DEFINE_WHERE(f32, vf32, vi32)
XENT_DEFINE_WHERE(f64, vf64, vi64)
#  ifdef XENT_REGISTERS
XENT_INLINE vf32 xent_maximum_f32(vf32 a, vf32 b) { return (vf32)_mm_max_ps((__m128)a, (__m128)b); }
XENT_INLINE vf32 xent_minimum_f32(vf32 a, vf32 b) { return (vf32)_mm_min_ps((__m128)a, (__m128)b); }
XENT_INLINE vf64 xent_maximum_f64(vf64 a, vf64 b) { return (vf64)_mm_max_pd((__m128d)a, (__m128d)b); }
XENT_INLINE vf64 xent_minimum_f64(vf64 a, vf64 b) { return (vf64)_mm_min_pd((__m128d)a, (__m128d)b); }
XENT_INLINE int xent_equal_f32(vf32 a, vf32 b) { return _mm_movemask_ps((__m128)(a == b)); }
XENT_INLINE int xent_equal_f64(vf64 a, vf64 b) { return _mm_movemask_pd((__m128d)(a == b)); }
#  else
XENT_INLINE vf32 xent_maximum_f32(vf32 a, vf32 b) { return xent_where_less_f32(b, a, a, b); }
XENT_INLINE vf32 xent_minimum_f32(vf32 a, vf32 b) { return xent_where_less_f32(a, b, a, b); }
XENT_INLINE vf64 xent_maximum_f64(vf64 a, vf64 b) { return xent_where_less_f64(b, a, a, b); }
XENT_INLINE vf64 xent_minimum_f64(vf64 a, vf64 b) { return xent_where_less_f64(a, b, a, b); }
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
#  if defined(__FP_FAST_FMA) || defined(__aarch64__)
#    define XENT_FUSED(scalar, x, y, z)                                                                              \
        (sizeof(scalar) == sizeof(float) ? (scalar)__builtin_fmaf(x, y, z) : (scalar)__builtin_fma(x, y, z))
#    define XENT_MULTIPLY_ADD(scalar, vector)                                                                        \
        for (size_t i = 0; i < sizeof(vector) / sizeof(scalar); i++)                                                 \
            XENT_LANE(c, i) = XENT_FUSED(scalar, XENT_LANE(a, i), XENT_LANE(b, i), XENT_LANE(c, i));                 \
        return c;
#    define XENT_MULTIPLY_REST(scalar, vector, splitter)                                                             \
        vector rest = product;                                                                                       \
        for (size_t i = 0; i < sizeof(vector) / sizeof(scalar); i++)                                                 \
            XENT_LANE(rest, i) = XENT_FUSED(scalar, XENT_LANE(a, i), XENT_LANE(b, i), -XENT_LANE(product, i));       \
        return rest;
#  else
#    define XENT_MULTIPLY_ADD(scalar, vector) return a * b + c;
#    define XENT_MULTIPLY_REST(scalar, vector, splitter)                                                             \
        vector a_split = a * (scalar)splitter, a_high = a_split - (a_split - a), a_low = a - a_high;                 \
        vector b_split = b * (scalar)splitter, b_high = b_split - (b_split - b), b_low = b - b_high;                 \
        return ((a_high * b_high - product) + a_high * b_low + a_low * b_high) + a_low * b_low;
#  endif
#  define XENT_DEFINE_PORTABLY(S, scalar, vector, splitter)                                                          \
    XENT_INLINE vector xent_multiply_add_##S(vector a, vector b, vector c) { XENT_MULTIPLY_ADD(scalar, vector) }     \
    XENT_INLINE vector xent_multiply_rest_##S(vector a, vector b, vector product) {                                  \
        XENT_MULTIPLY_REST(scalar, vector, splitter)                                                                 \
    }                                                                                                                \
    XENT_INLINE vector xent_residual_##S(vector c, vector a, vector b) {                                             \
        vector product = a * b;                                                                                      \
        return (c - product) - xent_multiply_rest_##S(a, b, product);                                                \
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
/* As many elements of one or two bytes as there are lanes: bool, and float16 and bfloat16 as integers. */
#ifdef XENT_SCALAR
typedef uint16_t vu16;
#else
typedef uint16_t vu16 __attribute__((vector_size(XENT_BYTES / 2)));
#endif
#if defined(__AVX512F__) && XENT_BYTES == 64
XENT_INLINE vi32 xent_ints_of_halves(vu16 halves) { return (vi32)_mm512_cvtepu16_epi32((__m256i)halves); }
XENT_INLINE vu16 xent_halves_of_ints(vi32 ints) { return (vu16)_mm512_cvtepi32_epi16((__m512i)ints); }
XENT_INLINE vf32 xent_where_true_f32(const void *mask, vf32 x, double otherwise) {
    __m128i bytes = _mm_loadu_si128((const __m128i *)mask);
    return (vf32)_mm512_mask_mov_ps((__m512)xent_fill_f32(otherwise), _mm_test_epi8_mask(bytes, bytes), (__m512)x);
}
XENT_INLINE vf64 xent_where_true_f64(const void *mask, vf64 x, double otherwise) {
    __m128i bytes = _mm_loadl_epi64((const __m128i *)mask);
    __mmask8 yes = (__mmask8)_mm_test_epi8_mask(bytes, bytes);
    return (vf64)_mm512_mask_mov_pd((__m512d)xent_fill_f64(otherwise), yes, (__m512d)x);
}
#elif defined(__AVX2__) && XENT_BYTES == 32
XENT_INLINE vi32 xent_ints_of_halves(vu16 halves) { return (vi32)_mm256_cvtepu16_epi32((__m128i)halves); }
XENT_INLINE vu16 xent_halves_of_ints(vi32 ints) {
    __m256i pairs = _mm256_packus_epi32((__m256i)ints, (__m256i)ints);
    return (vu16)_mm256_castsi256_si128(_mm256_permute4x64_epi64(pairs, 0x08));
}
XENT_INLINE vf32 xent_where_true_f32(const void *mask, vf32 x, double otherwise) {
    vi32 bytes = (vi32)_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)mask));
    return (vf32)_mm256_blendv_ps((__m256)xent_fill_f32(otherwise), (__m256)x, (__m256)(bytes != 0));
}
XENT_INLINE vf64 xent_where_true_f64(const void *mask, vf64 x, double otherwise) {
    int32_t four;
    memcpy(&four, mask, sizeof four);
    vi64 bytes = (vi64)_mm256_cvtepi8_epi64(_mm_cvtsi32_si128(four));
    return (vf64)_mm256_blendv_pd((__m256d)xent_fill_f64(otherwise), (__m256d)x, (__m256d)(bytes != 0));
}
#else
#  ifdef XENT_SCALAR
typedef int8_t vi8_f32, vi8_f64;
#    define XENT_CONVERT(x, type) ((type)(x))
#  else
typedef int8_t vi8_f32 __attribute__((vector_size(XENT_BYTES / 4)));
typedef int8_t vi8_f64 __attribute__((vector_size(XENT_BYTES / 8)));
#    define XENT_CONVERT(x, type) __builtin_convertvector(x, type)
#  endif
XENT_INLINE vi32 xent_ints_of_halves(vu16 halves) { return XENT_CONVERT(halves, vi32); }
XENT_INLINE vu16 xent_halves_of_ints(vi32 ints) { return XENT_CONVERT(ints, vu16); }
#  define XENT_DEFINE_WHERE_TRUE(S, vector, ints)                                                                    \
    XENT_INLINE vector xent_where_true_##S(const void *mask, vector x, double otherwise) {                           \
        vi8_##S bytes;                                                                                               \
        memcpy(&bytes, mask, sizeof bytes);                                                                          \
        ints yes = XENT_MASK(XENT_CONVERT(bytes, ints) != 0);                                                        \
        return xent_from_bits_##S(XENT_BLEND(yes, xent_bits_##S(x), xent_bits_##S(xent_fill_##S(otherwise))));       \
    }
XENT_DEFINE_WHERE_TRUE(f32, vf32, vi32)
XENT_DEFINE_WHERE_TRUE(f64, vf64, vi64)
#endif

/* A float16 is a float32 whose exponent is smaller by 112 and whose mantissa has 13 bits less. Subnormal float16 are
 * normal float32: a subtraction converts them, and an addition, which rounds, converts back. Ties round to even. */
#if defined(__AVX512F__) && XENT_BYTES == 64
XENT_INLINE vf32 xent_widen_f16(const void *source) {
    return (vf32)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)source));
}
XENT_INLINE void xent_narrow_f16(void *target, vf32 x) {
    _mm256_storeu_si256((__m256i *)target, _mm512_cvtps_ph((__m512)x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
#else
XENT_INLINE vf32 xent_widen_f16(const void *source) {
    vu16 halves;
    memcpy(&halves, source, sizeof halves);
    vi32 h = xent_ints_of_halves(halves), size = (h & 0x7fff) << 13;
    vi32 infinite = XENT_MASK(size >= 0x7c00 << 13), subnormal = XENT_MASK(size < 0x400 << 13);
    vi32 normal = size + (112 << 23) + (infinite & (112 << 23));
    vf32 tiny = xent_from_bits_f32(size + (113 << 23)) - xent_fill_f32(6.103515625e-05);
    return xent_from_bits_f32(XENT_BLEND(subnormal, xent_bits_f32(tiny), normal) | (vi32)((vu32)(h & 0x8000) << 16));
}
XENT_INLINE void xent_narrow_f16(void *target, vf32 x) {
    vi32 bits = xent_bits_f32(x), size = bits & 0x7fffffff;
    vi32 huge = XENT_MASK(size >= 143 << 23), nan = XENT_MASK(size > 255 << 23), subnormal = XENT_MASK(size < 113 << 23);
    vi32 tiny = xent_bits_f32(xent_from_bits_f32(size) + xent_fill_f32(0.5)) - (126 << 23);
    vi32 normal = (size - (112 << 23) + 0xfff + ((size >> 13) & 1)) >> 13;
    vi32 h = XENT_BLEND(huge, 0x7c00 + (nan & 0x200), XENT_BLEND(subnormal, tiny, normal));
    vu16 halves = xent_halves_of_ints(h | ((bits >> 16) & 0x8000));
    memcpy(target, &halves, sizeof halves);
}
#endif
XENT_INLINE vf32 xent_widen_bf16(const void *source) {
    vu16 halves;
    memcpy(&halves, source, sizeof halves);
    return xent_from_bits_f32((vi32)((vu32)xent_ints_of_halves(halves) << 16));
}
XENT_INLINE void xent_narrow_bf16(void *target, vf32 x) {
    vi32 bits = xent_bits_f32(x), nan = XENT_MASK(x != x);
    vi32 rounded = (vi32)((vu32)bits + 0x7fff + (vu32)((bits >> 16) & 1));
    vu16 halves = xent_halves_of_ints(XENT_BLEND(nan, (bits >> 16) | 0x40, rounded >> 16) & 0xffff);
    memcpy(target, &halves, sizeof halves);
}
/* One element, converted as the first of a vector. */
#define XENT_DEFINE_HALF(kind)                                                                                       \
    XENT_INLINE float xent_read_##kind(const void *source) {                                                         \
        uint16_t halves[sizeof(vu16) / sizeof(uint16_t)] = {0};                                                      \
        memcpy(halves, source, sizeof(uint16_t));                                                                    \
        vf32 x = xent_widen_##kind(halves);                                                                          \
        return XENT_LANE(x, 0);                                                                                      \
    }                                                                                                                \
    XENT_INLINE void xent_write_##kind(void *target, double x) {                                                     \
        uint16_t halves[sizeof(vu16) / sizeof(uint16_t)];                                                            \
        xent_narrow_##kind(halves, xent_fill_f32(x));                                                                \
        memcpy(target, halves, sizeof(uint16_t));                                                                    \
    }
XENT_DEFINE_HALF(f16)
XENT_DEFINE_HALF(bf16)

XENT_INLINE int xent_any_equal_f32(vf32 a, vf32 b) { return xent_equal_f32(a, b) != 0; }
XENT_INLINE int xent_any_equal_f64(vf64 a, vf64 b) { return xent_equal_f64(a, b) != 0; }
XENT_INLINE int xent_all_equal_f32(vf32 a, vf32 b) { return xent_equal_f32(a, b) == (1 << XENT_LANES_f32) - 1; }
XENT_INLINE int xent_all_equal_f64(vf64 a, vf64 b) { return xent_equal_f64(a, b) == (1 << XENT_LANES_f64) - 1; }

/* Copy four rows of n elements into four lanes of a tile, and back. `tile` points to the first of these lanes; there,
 * successive elements of a row are `step` apart. */
#define XENT_DEFINE_TILES(S, scalar, FOUR)                                                                           \
    XENT_INLINE void xent_to_columns_##S(void *tile, Py_ssize_t step, const void *p, const void *q, const void *r,   \
                                         const void *s, Py_ssize_t n) {                                              \
        const scalar *a = p, *b = q, *c = r, *d = s;                                                                 \
        scalar *to = tile;                                                                                           \
        Py_ssize_t i = 0;                                                                                            \
        FOUR(for (; i < n && n >= 4; i += 4) {                                                                       \
            if (i > n - 4) i = n - 4; /* the last four overlap those before */                                       \
            to = (scalar *)tile + i * step;                                                                          \
            xent_transpose_##S(a + i, b + i, c + i, d + i, to, to + step, to + 2 * step, to + 3 * step);             \
        })                                                                                                           \
        for (; i < n; i++, to += step) to[0] = a[i], to[1] = b[i], to[2] = c[i], to[3] = d[i];                       \
    }                                                                                                                \
    XENT_INLINE void xent_to_rows_##S(const void *tile, Py_ssize_t step, void *p, void *q, void *r, void *s,         \
                                      Py_ssize_t n) {                                                                \
        scalar *a = p, *b = q, *c = r, *d = s;                                                                       \
        const scalar *of = tile;                                                                                     \
        Py_ssize_t i = 0;                                                                                            \
        FOUR(for (; i < n && n >= 4; i += 4) {                                                                       \
            if (i > n - 4) i = n - 4;                                                                                \
            of = (const scalar *)tile + i * step;                                                                    \
            xent_transpose_##S(of, of + step, of + 2 * step, of + 3 * step, a + i, b + i, c + i, d + i);             \
        })                                                                                                           \
        for (; i < n; i++, of += step) a[i] = of[0], b[i] = of[1], c[i] = of[2], d[i] = of[3];                       \
    }
#define XENT_WITH(...) __VA_ARGS__
#define XENT_WITHOUT(...)
#if defined(__SSE2__) && !defined(XENT_SCALAR)
XENT_INLINE void xent_transpose_f32(const float *a, const float *b, const float *c, const float *d, float *p, float *q,
                                    float *r, float *s) {
    __m128 w = _mm_loadu_ps(a), x = _mm_loadu_ps(b), y = _mm_loadu_ps(c), z = _mm_loadu_ps(d);
    _MM_TRANSPOSE4_PS(w, x, y, z);
    _mm_storeu_ps(p, w), _mm_storeu_ps(q, x), _mm_storeu_ps(r, y), _mm_storeu_ps(s, z);
}
XENT_INLINE void xent_transpose_f64(const double *a, const double *b, const double *c, const double *d, double *p,
                                    double *q, double *r, double *s) {
    for (int i = 0; i < 4; i += 2, p = r, q = s) {
        __m128d w = _mm_loadu_pd(a + i), x = _mm_loadu_pd(b + i), y = _mm_loadu_pd(c + i), z = _mm_loadu_pd(d + i);
        _mm_storeu_pd(p, _mm_unpacklo_pd(w, x)), _mm_storeu_pd(p + 2, _mm_unpacklo_pd(y, z));
        _mm_storeu_pd(q, _mm_unpackhi_pd(w, x)), _mm_storeu_pd(q + 2, _mm_unpackhi_pd(y, z));
    }
}
XENT_DEFINE_TILES(f32, float, XENT_WITH)
XENT_DEFINE_TILES(f64, double, XENT_WITH)
#else
XENT_DEFINE_TILES(f32, float, XENT_WITHOUT)
XENT_DEFINE_TILES(f64, double, XENT_WITHOUT)
#endif

/* Copy as many rows as there are lanes, `stride` bytes apart, into columns of a tile, and back: n >= 4 contiguous
 * elements each, `step` vectors apart in the tile. Four columns at a time (the last four may overlap those before), as
 * registers of 128-bit parts, each of a few rows, which are then transposed part by part. What is copied back is
 * multiplied by a factor for each row, and is at most another number. */
#if XENT_BYTES == 64 && defined(__AVX512F__)
#  define XENT_PARTS(base, gap)                                                                                      \
    _mm512_insertf32x4(_mm512_insertf32x4(_mm512_insertf32x4(_mm512_castps128_ps512(                                 \
        _mm_loadu_ps((const float *)(base))), _mm_loadu_ps((const float *)((base) + (gap))), 1),                     \
        _mm_loadu_ps((const float *)((base) + 2 * (gap))), 2), _mm_loadu_ps((const float *)((base) + 3 * (gap))), 3)
#  define XENT_STORE_PARTS(base, gap, x)                                                                             \
    _mm_storeu_ps((float *)(base), _mm512_castps512_ps128(x)),                                                       \
    _mm_storeu_ps((float *)((base) + (gap)), _mm512_extractf32x4_ps(x, 1)),                                          \
    _mm_storeu_ps((float *)((base) + 2 * (gap)), _mm512_extractf32x4_ps(x, 2)),                                      \
    _mm_storeu_ps((float *)((base) + 3 * (gap)), _mm512_extractf32x4_ps(x, 3))
#  define XENT_WIDE(name) _mm512_##name
typedef __m512 xent_parts;
typedef __m512d xent_parts_pd;
#elif XENT_BYTES == 32 && defined(__AVX2__)
#  define XENT_PARTS(base, gap)                                                                                      \
    _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps((const float *)(base))),                                \
                         _mm_loadu_ps((const float *)((base) + (gap))), 1)
#  define XENT_STORE_PARTS(base, gap, x)                                                                             \
    _mm_storeu_ps((float *)(base), _mm256_castps256_ps128(x)),                                                       \
    _mm_storeu_ps((float *)((base) + (gap)), _mm256_extractf128_ps(x, 1))
#  define XENT_WIDE(name) _mm256_##name
typedef __m256 xent_parts;
typedef __m256d xent_parts_pd;
#endif
#ifdef XENT_PARTS
#  define XENT_HAS_PARTS 1
XENT_INLINE void xent_transpose_parts(xent_parts *z) {
    xent_parts_pd a = (xent_parts_pd)XENT_WIDE(unpacklo_ps)(z[0], z[1]), b = (xent_parts_pd)XENT_WIDE(unpackhi_ps)(z[0], z[1]);
    xent_parts_pd c = (xent_parts_pd)XENT_WIDE(unpacklo_ps)(z[2], z[3]), d = (xent_parts_pd)XENT_WIDE(unpackhi_ps)(z[2], z[3]);
    z[0] = (xent_parts)XENT_WIDE(unpacklo_pd)(a, c), z[1] = (xent_parts)XENT_WIDE(unpackhi_pd)(a, c);
    z[2] = (xent_parts)XENT_WIDE(unpacklo_pd)(b, d), z[3] = (xent_parts)XENT_WIDE(unpackhi_pd)(b, d);
}
XENT_INLINE void xent_read_columns_f32(vf32 *tile, Py_ssize_t step, const char *rows, Py_ssize_t stride, Py_ssize_t n) {
    for (Py_ssize_t i = 0; i < n; i += 4) {
        xent_parts z[4];
        if (i > n - 4) i = n - 4;
        for (int q = 0; q < 4; q++) z[q] = XENT_PARTS(rows + 4 * i + q * stride, 4 * stride);
        xent_transpose_parts(z);
        for (int q = 0; q < 4; q++) tile[(i + q) * step] = (vf32)z[q];
    }
}
XENT_INLINE void xent_write_columns_f32(const vf32 *tile, Py_ssize_t step, vf32 factor, vf32 most, char *rows,
                                        Py_ssize_t stride, Py_ssize_t n) {
    for (Py_ssize_t i = 0; i < n; i += 4) {
        xent_parts z[4];
        if (i > n - 4) i = n - 4;
        for (int q = 0; q < 4; q++) z[q] = (xent_parts)xent_minimum_f32(most, tile[(i + q) * step] * factor);
        xent_transpose_parts(z);
        for (int q = 0; q < 4; q++) XENT_STORE_PARTS(rows + 4 * i + q * stride, 4 * stride, z[q]);
    }
}
XENT_INLINE void xent_read_columns_f64(vf64 *tile, Py_ssize_t step, const char *rows, Py_ssize_t stride, Py_ssize_t n) {
    for (Py_ssize_t i = 0; i < n; i += 2) {
        if (i > n - 2) i = n - 2;
        xent_parts_pd a = (xent_parts_pd)XENT_PARTS(rows + 8 * i, 2 * stride);
        xent_parts_pd b = (xent_parts_pd)XENT_PARTS(rows + 8 * i + stride, 2 * stride);
        tile[i * step] = (vf64)XENT_WIDE(unpacklo_pd)(a, b);
        tile[(i + 1) * step] = (vf64)XENT_WIDE(unpackhi_pd)(a, b);
    }
}
XENT_INLINE void xent_write_columns_f64(const vf64 *tile, Py_ssize_t step, vf64 factor, vf64 most, char *rows,
                                        Py_ssize_t stride, Py_ssize_t n) {
    for (Py_ssize_t i = 0; i < n; i += 2) {
        if (i > n - 2) i = n - 2;
        xent_parts_pd a = (xent_parts_pd)xent_minimum_f64(most, tile[i * step] * factor);
        xent_parts_pd b = (xent_parts_pd)xent_minimum_f64(most, tile[(i + 1) * step] * factor);
        XENT_STORE_PARTS(rows + 8 * i, 2 * stride, (xent_parts)XENT_WIDE(unpacklo_pd)(a, b));
        XENT_STORE_PARTS(rows + 8 * i + stride, 2 * stride, (xent_parts)XENT_WIDE(unpackhi_pd)(a, b));
    }
}
#else
#  define XENT_HAS_PARTS 0
#  define XENT_DEFINE_NO_COLUMNS(S, vector)                                                                           \
    XENT_INLINE void xent_read_columns_##S(vector *tile, Py_ssize_t step, const char *rows, Py_ssize_t stride,       \
                                           Py_ssize_t n) {                                                           \
        (void)tile, (void)step, (void)rows, (void)stride, (void)n;                                                   \
    }                                                                                                                \
    XENT_INLINE void xent_write_columns_##S(const vector *tile, Py_ssize_t step, vector factor, vector most,         \
                                            char *rows, Py_ssize_t stride, Py_ssize_t n) {                           \
        (void)tile, (void)step, (void)factor, (void)most, (void)rows, (void)stride, (void)n;                                     \
    }
XENT_DEFINE_NO_COLUMNS(f32, vf32)
XENT_DEFINE_NO_COLUMNS(f64, vf64)
#endif

/* Every second element of two vectors, from the first on. */
#if XENT_BYTES == 64 && defined(__AVX512F__)
XENT_INLINE vf32 xent_every_second_f32(const vf32 *x) {
    const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    return (vf32)_mm512_permutex2var_ps((__m512)x[0], even, (__m512)x[1]);
}
XENT_INLINE vf64 xent_every_second_f64(const vf64 *x) {
    return (vf64)_mm512_permutex2var_pd((__m512d)x[0], _mm512_setr_epi64(0, 2, 4, 6, 8, 10, 12, 14), (__m512d)x[1]);
}
#elif XENT_BYTES == 32 && defined(__AVX2__)
XENT_INLINE vf32 xent_every_second_f32(const vf32 *x) {
    __m256d mixed = (__m256d)_mm256_shuffle_ps((__m256)x[0], (__m256)x[1], 0x88);
    return (vf32)_mm256_permute4x64_pd(mixed, 0xd8);
}
XENT_INLINE vf64 xent_every_second_f64(const vf64 *x) {
    return (vf64)_mm256_permute4x64_pd(_mm256_unpacklo_pd((__m256d)x[0], (__m256d)x[1]), 0xd8);
}
#else
#  define XENT_DEFINE_EVERY_SECOND(S, scalar, vector)                                                                \
    XENT_INLINE vector xent_every_second_##S(const vector *x) {                                                      \
        vector y = x[0];                                                                                             \
        for (Py_ssize_t i = 0; i < XENT_LANES_##S; i++) XENT_LANE(y, i) = ((const scalar *)x)[2 * i];                \
        return y;                                                                                                    \
    }
XENT_DEFINE_EVERY_SECOND(f32, float, vf32)
XENT_DEFINE_EVERY_SECOND(f64, double, vf64)
#endif

/* Index of the first element equal to w in four vectors; 0 if there is none any more. */
XENT_INLINE int xent_first_of(uint64_t bits) {
#if defined(__GNUC__) || defined(__clang__)
    return bits ? __builtin_ctzll(bits) : 0;
#else
    int i = 0;
    while (bits && !(bits >> i & 1)) i++;
    return i;
#endif
}
#define XENT_DEFINE_FIRST(S, vector)                                                                                 \
    XENT_INLINE Py_ssize_t xent_first_equal_of_four_##S(const vector *x, vector w) {                                 \
        uint64_t bits = 0;                                                                                           \
        for (int i = 0; i < 4; i++) bits |= (uint64_t)(unsigned)xent_equal_##S(x[i], w) << (i * XENT_LANES_##S);     \
        return xent_first_of(bits);                                                                                  \
    }
XENT_DEFINE_FIRST(f32, vf32)
XENT_DEFINE_FIRST(f64, vf64)

/* Transpose: copy `count` adjacent rows of n elements, which are `step` bytes apart within a row, to contiguous rows
 * `stride` bytes apart; or back. */
#define XENT_DEFINE_TRANSPOSE_ROWS(S, scalar, FOUR)                                                                  \
    XENT_INLINE scalar *xent_at_##S(void *base, Py_ssize_t bytes, Py_ssize_t i) {                                    \
        return (scalar *)((char *)base + bytes) + i;                                                                 \
    }                                                                                                                \
    XENT_INLINE void xent_transpose_rows_##S(void *aside, Py_ssize_t step, void *rows, Py_ssize_t stride, Py_ssize_t n,\
                                   Py_ssize_t count, int back) {                                                     \
        Py_ssize_t whole = 0, c, j;                                                                                  \
        FOUR(whole = count / 4 * 4; for (c = 0; c + 4 <= n; c += 4) for (j = 0; j < whole; j += 4) {                 \
            scalar *p[4], *q[4];                                                                                     \
            for (int k = 0; k < 4; k++) p[k] = xent_at_##S(aside, (c + k) * step, j);                                \
            for (int k = 0; k < 4; k++) q[k] = xent_at_##S(rows, (j + k) * stride, c);                               \
            if (back) xent_transpose_##S(q[0], q[1], q[2], q[3], p[0], p[1], p[2], p[3]);                            \
            else xent_transpose_##S(p[0], p[1], p[2], p[3], q[0], q[1], q[2], q[3]);                                 \
        })                                                                                                           \
        for (c = 0; c < n; c++)                                                                                      \
            for (j = c < n / 4 * 4 ? whole : 0; j < count; j++) {                                                    \
                scalar *p = xent_at_##S(aside, c * step, j), *q = xent_at_##S(rows, j * stride, c);                  \
                if (back) *p = *q;                                                                                   \
                else *q = *p;                                                                                        \
            }                                                                                                        \
    }
#if defined(__SSE2__) && !defined(XENT_SCALAR)
XENT_DEFINE_TRANSPOSE_ROWS(f32, float, XENT_WITH)
XENT_DEFINE_TRANSPOSE_ROWS(f64, double, XENT_WITH)
#else
XENT_DEFINE_TRANSPOSE_ROWS(f32, float, XENT_WITHOUT)
XENT_DEFINE_TRANSPOSE_ROWS(f64, double, XENT_WITHOUT)
#endif

/* Whether all labels are 0 <= label < classes. */
XENT_INLINE int xent_are_classes(const int64_t *labels, Py_ssize_t n, int64_t classes) {
    Py_ssize_t i = 0;
    uint64_t outside = 0;
#ifndef XENT_SCALAR
    vu64 most = (vu64){0} + (uint64_t)classes, all_outside = {0};
    for (; i + XENT_LANES_f64 <= n; i += XENT_LANES_f64) {
        vu64 some;
        memcpy(&some, labels + i, sizeof some);
        all_outside |= (vu64)(some >= most);
    }
    for (int lane = 0; lane < XENT_LANES_f64; lane++) outside |= all_outside[lane];
#endif
    for (; i < n; i++) outside |= (uint64_t)labels[i] >= (uint64_t)classes;
    return outside == 0;
}

/* The first or second half of the lanes as float64, and all lanes as float64 (of a float64 vector). */
#if XENT_BYTES == 64 && defined(__AVX512F__)
XENT_INLINE vf64 xent_half_f32(vf32 x, int second) {
    __m256 half = second ? _mm512_extractf32x8_ps((__m512)x, 1) : _mm512_castps512_ps256((__m512)x);
    return (vf64)_mm512_cvtps_pd(half);
}
#elif XENT_BYTES == 32 && defined(__AVX2__)
XENT_INLINE vf64 xent_half_f32(vf32 x, int second) {
    __m128 half = second ? _mm256_extractf128_ps((__m256)x, 1) : _mm256_castps256_ps128((__m256)x);
    return (vf64)_mm256_cvtps_pd(half);
}
#else
XENT_INLINE vf64 xent_half_f32(vf32 x, int second) {
    vf64 half;
    for (int lane = 0; lane < XENT_LANES_f64; lane++)
        XENT_LANE(half, lane) = XENT_LANE(x, lane + second * (XENT_LANES_f32 - XENT_LANES_f64));
    return half;
}
#endif

/* Store an aligned vector around the cache (a non-temporal store) where possible; `drain` makes earlier ones visible to
 * other threads. */
#if defined(__AVX512F__) && XENT_BYTES == 64
XENT_INLINE void xent_store_around_f32(vf32 *target, vf32 x) { _mm512_stream_ps((float *)target, (__m512)x); }
XENT_INLINE void xent_store_around_f64(vf64 *target, vf64 x) { _mm512_stream_pd((double *)target, (__m512d)x); }
#elif defined(__AVX2__) && XENT_BYTES == 32
XENT_INLINE void xent_store_around_f32(vf32 *target, vf32 x) { _mm256_stream_ps((float *)target, (__m256)x); }
XENT_INLINE void xent_store_around_f64(vf64 *target, vf64 x) { _mm256_stream_pd((double *)target, (__m256d)x); }
#elif defined(__SSE2__) && XENT_BYTES == 16 && !defined(XENT_SCALAR)
XENT_INLINE void xent_store_around_f32(vf32 *target, vf32 x) { _mm_stream_ps((float *)target, (__m128)x); }
XENT_INLINE void xent_store_around_f64(vf64 *target, vf64 x) { _mm_stream_pd((double *)target, (__m128d)x); }
#else
XENT_INLINE void xent_store_around_f32(vf32 *target, vf32 x) { *target = x; }
XENT_INLINE void xent_store_around_f64(vf64 *target, vf64 x) { *target = x; }
#endif
XENT_INLINE void xent_drain(void) {
#if defined(__SSE2__) && !defined(XENT_SCALAR)
    _mm_sfence();
#endif
}

/* Prefetch the cache line of an address (which may be invalid), or those of four vectors from there on. */
XENT_INLINE void xent_prefetch(const void *address) {
#if defined(__GNUC__) || defined(__clang__)
    __builtin_prefetch(address);
#else
    (void)address;
#endif
}
XENT_INLINE void xent_prefetch_four(const void *address) {
    for (size_t i = 0; i < 4 * sizeof(vf32); i += 64) xent_prefetch((const char *)address + i);
}

/* Instruction sets that the CPU and the operating system support. Clang with MSVC's libraries lacks what
 * __builtin_cpu_supports needs: it asks the CPU, and the system which registers it saves. */
#if defined(__clang__) && defined(_MSC_VER) && defined(__x86_64__)
#  include <cpuid.h>
XENT_INLINE int xent_cpu_has(unsigned leaf_7_ebx, unsigned saved) {
    const unsigned fma_osxsave_avx = 1u << 12 | 1u << 27 | 1u << 28;
    unsigned a, b, c, d, low, high;
    if (!__get_cpuid(1, &a, &b, &c, &d) || (c & fma_osxsave_avx) != fma_osxsave_avx) return 0;
    __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (low & saved) == saved && __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b & leaf_7_ebx) == leaf_7_ebx;
}
XENT_INLINE int xent_cpu_has_avx2(void) { return xent_cpu_has(1u << 5, 0x6); }
XENT_INLINE int xent_cpu_has_avx512(void) {     /* F, DQ, BW, VL */
    return xent_cpu_has(1u << 16 | 1u << 17 | 1u << 30 | 1u << 31, 0xe6);
}
#elif (defined(__GNUC__) || defined(__clang__)) && defined(__x86_64__)
XENT_INLINE int xent_cpu_has_avx2(void) { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
XENT_INLINE int xent_cpu_has_avx512(void) {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw")
        && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
#else
XENT_INLINE int xent_cpu_has_avx2(void) { return 0; }
XENT_INLINE int xent_cpu_has_avx512(void) { return 0; }
#endif

#endif
