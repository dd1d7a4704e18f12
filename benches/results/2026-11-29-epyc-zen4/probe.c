// The rate of vdpbf16ps on two threads: from registers alone, and in the loop of the 12 x 32 kernel on operands that stay in the
// first cache, by inner size in words.
//     cc -O2 -mavx512f -mavx512bf16 -pthread probe.c -o probe && ./probe
#include <immintrin.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define TURNS 9
static const long SIZES[] = {0, 8, 16, 32, 64, 128, 256, 384};
#define COUNT (sizeof SIZES / sizeof *SIZES)
static long k;

// Sums with names, and not in an array, stay in registers with any compiler.
#define EACH(DO) DO(0, p0, 0) DO(1, p0, 1) DO(2, p0, 2) DO(3, p1, 0) DO(4, p1, 1) DO(5, p1, 2) \
    DO(6, p2, 0) DO(7, p2, 1) DO(8, p2, 2) DO(9, p3, 0) DO(10, p3, 1) DO(11, p3, 2)
#define ZERO(i, p, j) __m512 low##i = _mm512_setzero_ps(), high##i = _mm512_setzero_ps();
#define STEP(i, p, j) \
    x = (__m512bh)_mm512_set1_ps(p[j * row]); \
    low##i = _mm512_dpbf16_ps(low##i, x, y0), high##i = _mm512_dpbf16_ps(high##i, x, y1);
#define STORE(i, p, j) _mm512_storeu_ps(c + i * stride, low##i), _mm512_storeu_ps(c + i * stride + 16, high##i);

__attribute__((noinline)) static void rectangle(long k, const float *a, long row, const float *b, float *c, long stride) {
    EACH(ZERO)
    const float *p0 = a, *p1 = a + 3 * row, *p2 = a + 6 * row, *p3 = a + 9 * row;
    asm volatile("" : "+r"(p0), "+r"(p1), "+r"(p2), "+r"(p3), "+r"(b));
    for (long l = 0; l < k; l++, b += 32, p0++, p1++, p2++, p3++) {
        __m512bh y0 = (__m512bh)_mm512_loadu_ps(b), y1 = (__m512bh)_mm512_loadu_ps(b + 16), x;
        EACH(STEP)
    }
    EACH(STORE)
}

static void *work(void *out) {
    float *a = aligned_alloc(64, 12 * 400 * 4), *b = aligned_alloc(64, 384 * 32 * 4), *c = aligned_alloc(64, 12 * 128 * 4);
    for (int i = 0; i < 12 * 400; i++) a[i] = 1e-3f;
    for (int i = 0; i < 384 * 32; i++) b[i] = 1e-3f;
    struct timespec from, to;
    clock_gettime(CLOCK_MONOTONIC, &from);
    long products = 0;
    if (k == 0) {
        __m512 sums[24];
        __m512bh x = (__m512bh)_mm512_set1_ps(1e-3f);
        for (int i = 0; i < 24; i++) sums[i] = _mm512_setzero_ps();
        for (; products < 48000000; products += 24) {
#pragma GCC unroll 24
            for (int i = 0; i < 24; i++) sums[i] = _mm512_dpbf16_ps(sums[i], x, x);
            asm volatile("" : "+v"(x));
        }
        for (int i = 0; i < 24; i++) c[i] = _mm512_reduce_add_ps(sums[i]);
    }
    for (; k > 0 && products < 48000000; products += 24 * k) rectangle(k, a, 400, b, c, 128);
    clock_gettime(CLOCK_MONOTONIC, &to);
    asm volatile("" : : "r"(c) : "memory");
    *(double *)out = products * 64.0 / (1e9 * (to.tv_sec - from.tv_sec) + to.tv_nsec - from.tv_nsec);
    free(a), free(b), free(c);
    return 0;
}

static int compare(const void *x, const void *y) { return (*(double *)x > *(double *)y) - (*(double *)x < *(double *)y); }

int main(void) {
    double rates[COUNT][TURNS];
    for (int turn = 0; turn < TURNS; turn++)
        for (int s = 0; s < (int)COUNT; s++) {
            pthread_t threads[2];
            double each[2];
            k = SIZES[s];
            for (int t = 0; t < 2; t++) pthread_create(&threads[t], 0, work, &each[t]);
            for (int t = 0; t < 2; t++) pthread_join(threads[t], 0);
            rates[s][turn] = each[0] + each[1];
        }
    for (int s = 0; s < (int)COUNT; s++) {
        qsort(rates[s], TURNS, sizeof(double), compare);
        double median = rates[s][TURNS / 2];
        printf("%s %3ld: %.0f GFLOP/s (%.0f to %.0f)", s ? "inner size" : "registers ", SIZES[s], median, rates[s][0], rates[s][TURNS - 1]);
        printf(s ? ", %.0f ns a rectangle\n" : "\n", 2 * 24 * 64.0 * SIZES[s] / median);
    }
}
