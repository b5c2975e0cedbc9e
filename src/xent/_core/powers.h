/* Powers of two from a table that registers hold: 2^(k / N) for k = n N + i is 2^n times entry i of a table of
 * N = 2^XENT_TABLE_BITS numbers 2^(i / N). What is left of an exponent is then at most 1 / (2 N), for which a short
 * polynomial is enough. A set has as many entries as one instruction finds in its registers. One without such an
 * instruction has no table: N = 1.
 *
 * entries   2^(i / N) as rounded, with i subtracted from its exponent's lowest bits, so that k, shifted to its place as
 *           an exponent with BITS bits behind the point, is added to it as an integer
 * lost      (2^(i / N) - entry) / entry
 * powers    of 2^f - 1 = f (powers[0] + powers[1] f + ...): minimax polynomials, |f| <= 1.02 / (2 N)
 *
 * All from tests/kernels/powers_of_two.py (mpmath, 50 digits); tests/kernels/test_powers.py recomputes the errors, which
 * are those of 2^f relative to it, in units of 2^-24 (float32) or 2^-53 (float64).
 */
#ifndef XENT_POWERS_H
#define XENT_POWERS_H

#include "simd.h"

#if !defined(XENT_SCALAR) && XENT_BYTES == 64
#  define XENT_TABLE_BITS_f32 4
#  define XENT_TABLE_BITS_f64 4
#elif !defined(XENT_SCALAR) && XENT_BYTES == 32
#  define XENT_TABLE_BITS_f32 3
#  define XENT_TABLE_BITS_f64 2
#else
#  define XENT_TABLE_BITS_f32 0
#  define XENT_TABLE_BITS_f64 0
#endif

#if XENT_TABLE_BITS_f32 == 4        /* error 0.029 */
#  define XENT_DEGREE_f32 3
static const double xent_powers_f32[] = {0.69314718284, 0.24023460237, 0.055502056694};
static const int32_t xent_entries_f32[] = {
    0x3f800000, 0x3f7daac3, 0x3f7b95c2, 0x3f79c3d3, 0x3f7837f0, 0x3f76f532, 0x3f75fed7, 0x3f75583f,
    0x3f7504f3, 0x3f7508a4, 0x3f75672a, 0x3f76248c, 0x3f7744fd, 0x3f78ccdf, 0x3f7ac0c7, 0x3f7d257d,
};
static const float xent_lost_f32[] = {
    0, 4.62854708109e-8f, -1.19921570877e-8f, 4.72978236193e-8f, 3.19341808612e-8f, 3.62105731435e-8f,
    -3.09907207583e-8f, -7.47521316648e-9f, 1.71142713287e-8f, -3.04768342359e-8f, 5.23333424981e-9f,
    6.1075916221e-9f, -1.47196054402e-8f, -5.25879512118e-9f, -6.12825982415e-9f, 5.14060921431e-9f,
};
#elif XENT_TABLE_BITS_f32 == 3      /* error 0.0099 */
#  define XENT_DEGREE_f32 4
static const double xent_powers_f32[] = {0.69314717377, 0.24022651055, 0.055510856691, 0.0096176342421};
static const int32_t xent_entries_f32[] = {
    0x3f800000, 0x3f7b95c2, 0x3f7837f0, 0x3f75fed7, 0x3f7504f3, 0x3f75672a, 0x3f7744fd, 0x3f7ac0c7,
};
static const float xent_lost_f32[] = {
    0, -1.19921570877e-8f, 3.19341808612e-8f, -3.09907207583e-8f, 1.71142713287e-8f, 5.23333424981e-9f,
    -1.47196054402e-8f, -6.12825982415e-9f,
};
#else
#  define XENT_DEGREE_f32 0
static const double xent_powers_f32[] = {0};
static const int32_t xent_entries_f32[] = {0x3f800000};
static const float xent_lost_f32[] = {0};
#endif

#if XENT_TABLE_BITS_f64 == 4        /* error 0.077 */
#  define XENT_DEGREE_f64 6
#  define XENT_TABLE_VECTORS_f64 2
static const double xent_powers_f64[] = {
    0.69314718055994704481, 0.24022650695909886067, 0.05550410865108854181, 0.009618129112569829272,
    0.0013333829039806534062, 0.00015403340836969493156,
};
static const int64_t xent_entries_f64[] = {
    0x3ff0000000000000, 0x3fefb5586cf9890f, 0x3fef72b83c7d517b, 0x3fef387a6e756238,
    0x3fef06fe0a31b715, 0x3feedea64c123422, 0x3feebfdad5362a27, 0x3feeab07dd485429,
    0x3feea09e667f3bcd, 0x3feea11473eb0187, 0x3feeace5422aa0db, 0x3feec49182a3f090,
    0x3feee89f995ad3ad, 0x3fef199bdd85529c, 0x3fef5818dcfba487, 0x3fefa4afa2a490da,
};
static const double xent_lost_f64[] = {
    0, 8.1893176382e-17, -2.79391148595e-17, 7.82657325864e-17, 3.34846233363e-17, 3.7508542013e-17,
    1.95725852931e-17, 5.68648095791e-17, -6.83580865766e-17, -2.35910947709e-17, 5.15483011708e-17,
    1.53414100536e-17, 4.87516052623e-17, 1.68548729063e-17, 1.7901269076e-17, -5.54506561864e-17,
};
#elif XENT_TABLE_BITS_f64 == 2      /* error 0.039 */
#  define XENT_DEGREE_f64 8
static const double xent_powers_f64[] = {
    0.69314718055994506905, 0.24022650695910111207, 0.055504108665023049791, 0.0096181291074934574505,
    0.0013333557696194167008, 0.00015403531625099881925, 0.00001525644510432760676, 1.321319011776355851e-6,
};
static const int64_t xent_entries_f64[] = {
    0x3ff0000000000000, 0x3fef06fe0a31b715, 0x3feea09e667f3bcd, 0x3feee89f995ad3ad,
};
static const double xent_lost_f64[] = {0, 3.34846233363e-17, -6.83580865766e-17, 4.87516052623e-17};
#else
#  define XENT_DEGREE_f64 0
static const double xent_powers_f64[] = {0};
static const int64_t xent_entries_f64[] = {0x3ff0000000000000};
static const double xent_lost_f64[] = {0};
#endif

/* Vectors that a table takes. */
#define XENT_TABLE_VECTORS_f32 1
#ifndef XENT_TABLE_VECTORS_f64
#  define XENT_TABLE_VECTORS_f64 1
#endif

/* A number with k in its lowest bits becomes what `pick` takes; `pick` finds the entry for the last bits of each lane. */
#if defined(__AVX512F__) && XENT_BYTES == 64
XENT_INLINE vf32 xent_index_f32(vf32 k) { return k; }
XENT_INLINE vf64 xent_index_f64(vf64 k) { return k; }
XENT_INLINE vf32 xent_pick_f32(vf32 index, const vf32 *table) {
    return (vf32)_mm512_permutexvar_ps((__m512i)index, (__m512)table[0]);
}
XENT_INLINE vf64 xent_pick_f64(vf64 index, const vf64 *table) {
    return (vf64)_mm512_permutex2var_pd((__m512d)table[0], (__m512i)index, (__m512d)table[1]);
}
#elif defined(__AVX2__) && XENT_BYTES == 32
XENT_INLINE vf32 xent_index_f32(vf32 k) { return k; }
/* A pair of float32 lanes for each float64: 2 i and 2 i + 1. */
XENT_INLINE vf64 xent_index_f64(vf64 k) {
    __m256i i = (__m256i)_mm256_moveldup_ps((__m256)k);
    return (vf64)_mm256_add_epi32(_mm256_add_epi32(i, i), _mm256_set1_epi64x(1LL << 32));
}
XENT_INLINE vf32 xent_pick_f32(vf32 index, const vf32 *table) {
    return (vf32)_mm256_permutevar8x32_ps((__m256)table[0], (__m256i)index);
}
XENT_INLINE vf64 xent_pick_f64(vf64 index, const vf64 *table) {
    return (vf64)_mm256_permutevar8x32_ps((__m256)table[0], (__m256i)index);
}
#else
#  define XENT_DEFINE_PICK(S, scalar, vector, ints)                                                                  \
    XENT_INLINE vector xent_index_##S(vector k) { return k; }                                                        \
    XENT_INLINE vector xent_pick_##S(vector index, const vector *table) {                                            \
        const scalar *entries = (const scalar *)table;                                                               \
        vector picked = table[0];                                                                                    \
        ints bits = xent_bits_##S(index);                                                                            \
        if (XENT_TABLE_BITS_##S > 0)                                                                                 \
            for (Py_ssize_t i = 0; i < XENT_LANES_##S; i++)                                                          \
                XENT_LANE(picked, i) = entries[XENT_LANE(bits, i) & ((1 << XENT_TABLE_BITS_##S) - 1)];               \
        return picked;                                                                                               \
    }
XENT_DEFINE_PICK(f32, float, vf32, vi32)
XENT_DEFINE_PICK(f64, double, vf64, vi64)
#endif

/* The tables; and `entry` 2^n for k = n N + i in the lowest bits of `grid`, where n may be out of range. */
#define XENT_DEFINE_POWERS(S, scalar, vector, unsigneds, mantissa)                                                   \
    XENT_INLINE void xent_load_table_##S(vector *entries, vector *lost) {                                            \
        if (XENT_TABLE_BITS_##S == 0) {                                                                              \
            entries[0] = xent_fill_##S(1), lost[0] = xent_fill_##S(0);                                               \
            return;                                                                                                  \
        }                                                                                                            \
        memcpy(entries, xent_entries_##S, sizeof xent_entries_##S);                                                  \
        memcpy(lost, xent_lost_##S, sizeof xent_lost_##S);                                                           \
    }                                                                                                                \
    XENT_INLINE vector xent_raised_##S(vector entry, vector grid) {                                                  \
        unsigneds bits = (unsigneds)xent_bits_##S(grid) << (mantissa - XENT_TABLE_BITS_##S);                         \
        return xent_from_bits_##S((vi_##S)(bits + (unsigneds)xent_bits_##S(entry)));                                 \
    }
typedef vi32 vi_f32;
typedef vi64 vi_f64;
XENT_DEFINE_POWERS(f32, float, vf32, vu32, 23)
XENT_DEFINE_POWERS(f64, double, vf64, vu64, 52)

#endif
