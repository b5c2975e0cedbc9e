/* The loops whose speed is this machine's limit (see limits.py): bare, of ordinary accuracy, and good for nothing else.
 *
 * Compiled once for every BITS (32, 64: the type) and WAYS (1, 2, 4: how much is under way at once). -ffast-math must
 * not be given: `exponential` rounds by adding a large number, which it would take away. Arrays start at a multiple of
 * 64 bytes.
 */
#include <stdint.h>

#if BITS == 32
typedef float real;
typedef int32_t whole;
#  define MANTISSA 23
#  define BIAS 127
#  define TYPED(name) name##ps
#else
typedef double real;
typedef int64_t whole;
#  define MANTISSA 52
#  define BIAS 1023
#  define TYPED(name) name##pd
#endif

#if defined(__AVX512F__)
#  define BYTES 64
#elif defined(__AVX2__)
#  define BYTES 32
#else
#  define BYTES 16
#endif

typedef real vector __attribute__((vector_size(BYTES), may_alias));
typedef whole bits __attribute__((vector_size(BYTES)));

#define LANES ((long)(BYTES / sizeof(real)))
#define UNROLL (2 * WAYS) /* vectors of a row, each with its own sum */
#define INLINE static inline __attribute__((always_inline))

/* What C has no operator for. Machines without stores around the cache get ordinary ones. */
#if defined(__SSE2__)
#  include <immintrin.h>
#endif
#if defined(__AVX512F__)
#  define LARGER(a, b) (vector)TYPED(_mm512_max_)(a, b)
#  define STORE_AROUND(to, x) TYPED(_mm512_stream_)((real *)(to), x)
#elif defined(__AVX2__)
#  define LARGER(a, b) (vector)TYPED(_mm256_max_)(a, b)
#  define STORE_AROUND(to, x) TYPED(_mm256_stream_)((real *)(to), x)
#elif defined(__SSE2__)
#  define LARGER(a, b) (vector)TYPED(_mm_max_)(a, b)
#  define STORE_AROUND(to, x) TYPED(_mm_stream_)((real *)(to), x)
#else
#  define LARGER(a, b) (vector)(((bits)(a) & ((a) > (b))) | ((bits)(b) & ~((a) > (b))))
#  define STORE_AROUND(to, x) (*(to) = (x))
#endif

INLINE vector fill(real value) { return value - (vector){0}; }

/* --- memory: n elements, read as WAYS streams side by side, since each can be fetched ahead by itself ------------- */

#define FOR_ALL(n, on_vector, on_element)                                                                             \
    do {                                                                                                              \
        const long stream = n / (LANES * UNROLL * WAYS) * UNROLL; /* its vectors */                                   \
        for (long first = 0; first < stream; first += UNROLL)                                                         \
            for (int way = 0; way < WAYS; way++)                                                                      \
                for (int j = 0; j < UNROLL; j++) {                                                                    \
                    const long i = way * stream + first + j;                                                          \
                    on_vector;                                                                                        \
                }                                                                                                     \
        for (long i = WAYS * stream * LANES; i < n; i++) {                                                            \
            on_element;                                                                                               \
        }                                                                                                             \
    } while (0)

/* *y = the sum of x */
void read_all(const real *x, real *y, long n) {
    const vector *from = (const vector *)x;
    vector sums[UNROLL];
    real total = 0;
    for (int j = 0; j < UNROLL; j++) sums[j] = fill(0);
    FOR_ALL(n, sums[j] += from[i], total += x[i]);
    for (int j = 0; j < UNROLL; j++)
        for (int lane = 0; lane < LANES; lane++) total += sums[j][lane];
    *y = total;
}

/* y = x */
void copy(const real *x, real *y, long n) {
    const vector *from = (const vector *)x;
    vector *to = (vector *)y;
    FOR_ALL(n, to[i] = from[i], y[i] = x[i]);
}

/* y = x, past the cache */
void copy_around(const real *x, real *y, long n) {
    const vector *from = (const vector *)x;
    vector *to = (vector *)y;
    FOR_ALL(n, STORE_AROUND(to + i, from[i]), y[i] = x[i]);
#if defined(__SSE2__)
    _mm_sfence();
#endif
}

/* y *= -1 */
void update(const real *x, real *y, long n) {
    vector *to = (vector *)y;
    (void)x;
    FOR_ALL(n, to[i] *= -1, y[i] *= -1);
}

/* --- arithmetic: rows of n elements, a multiple of LANES * UNROLL, gone through `repeats` times ------------------- */

#define LOG2_E ((real)1.4426950408889634)
#define ROUNDER ((real)((whole)3 << (MANTISSA - 1))) /* so large that whole numbers are left when it is added */

/* 2**f for |f| <= 1/2, within an ulp. The longer polynomial is two, of f**2: half as many steps wait for one another. */
#if BITS == 32
static const real COEFFICIENTS[] = {
    1.0000000754548972, 0.69314718802622878, 0.24022107485308338, 0.055503571142190778, 0.0096760319183220541,
    0.0013390863364671234,
};
INLINE vector power_of_two(vector f) {
    vector p = fill(COEFFICIENTS[5]);
    for (int i = 4; i >= 0; i--) p = p * f + COEFFICIENTS[i];
    return p;
}
#else
static const real COEFFICIENTS[] = {
    1.0, 0.69314718055994998, 0.24022650695910098, 0.055504108664447719, 0.0096181291076068885, 0.0013333558230164974,
    0.00015403530441736050, 1.5252657260200837e-5, 1.3215442587921690e-6, 1.0208690299958306e-7, 7.0725859492692237e-9,
};
INLINE vector power_of_two(vector f) {
    vector square = f * f, even = fill(COEFFICIENTS[10]), odd = fill(COEFFICIENTS[9]);
    for (int i = 8; i >= 0; i -= 2) even = even * square + COEFFICIENTS[i];
    for (int i = 7; i >= 0; i -= 2) odd = odd * square + COEFFICIENTS[i];
    return odd * f + even;
}
#endif

/* exp(x) / 2**k = *fraction * *power, where `large` is ROUNDER + BIAS - k. Nothing is done for results that are
 * too small to be normal numbers. */
INLINE void exponential(vector x, vector large, vector *fraction, vector *power) {
    vector shifted = x * LOG2_E + large;
    *fraction = power_of_two(x * LOG2_E + (large - shifted));
    *power = (vector)((bits)shifted << MANTISSA);
}

INLINE real largest(const vector *x) {
    vector m = x[0];
    for (int j = 1; j < UNROLL; j++) m = LARGER(m, x[j]);
    real top = m[0];
    for (int lane = 1; lane < LANES; lane++) top = m[lane] > top ? m[lane] : top;
    return top;
}

INLINE real sum(const vector *x) {
    vector s = x[0];
    for (int j = 1; j < UNROLL; j++) s += x[j];
    real total = 0;
    for (int lane = 0; lane < LANES; lane++) total += s[lane];
    return total;
}

INLINE void start(vector *highest, const vector *row) {
    for (int j = 0; j < UNROLL; j++) highest[j] = row[j];
}

/* The next row's maximum is found during this row's exponentials, for which it has to be fetched. They are shifted by
 * the multiple of log(2) that is nearest to the maximum, which saves a rounding and an instruction. */
INLINE void exp_rows(const real *x, real *y, long rows, long n, const int keep) {
    const long vectors = n / LANES;
    const vector *row = (const vector *)x;
    vector highest[UNROLL], sums[UNROLL], fraction, power;
    start(highest, row);
    for (long i = 0; i < vectors; i += UNROLL)
        for (int j = 0; j < UNROLL; j++) highest[j] = LARGER(row[i + j], highest[j]);
    for (long r = 0; r < rows; r++) {
        const vector *next = r + 1 < rows ? row + vectors : row;
        vector *to = (vector *)(y + r * n);
        const real shift = __builtin_rint(largest(highest) * LOG2_E);
        const vector large = fill(ROUNDER + BIAS - shift);
        start(highest, next);
        for (int j = 0; j < UNROLL; j++) sums[j] = fill(0);
        for (long i = 0; i < vectors; i += UNROLL)
            for (int j = 0; j < UNROLL; j++) {
                exponential(row[i + j], large, &fraction, &power);
                highest[j] = LARGER(next[i + j], highest[j]);
                if (keep) sums[j] += to[i + j] = fraction * power;
                else sums[j] += fraction * power;
            }
        const real total = sum(sums);
        if (keep) {
            const vector factor = fill(1 / total);
            for (long i = 0; i < vectors; i += UNROLL)
                for (int j = 0; j < UNROLL; j++) to[i + j] *= factor;
        } else {
            y[2 * r] = total;
            y[2 * r + 1] = shift;
        }
        row = next;
    }
}

/* y[r] = (s, k): the sum of exp(x[r]) is s * 2**k */
void exp_sum(const real *x, real *y, long rows, long n, long repeats) {
    for (long i = 0; i < repeats; i++) exp_rows(x, y, rows, n, 0);
}

/* y = exp(x), divided by its sums along rows */
void exp_sum_multiply(const real *x, real *y, long rows, long n, long repeats) {
    for (long i = 0; i < repeats; i++) exp_rows(x, y, rows, n, 1);
}
