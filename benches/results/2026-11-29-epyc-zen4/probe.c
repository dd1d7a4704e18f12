// The rate of vdpbf16ps on two threads: from registers alone, and in the loop of the 12 x 32 kernel on operands that stay in the
// first cache, by inner size in words.
//     cc -O2 -mavx512f -mavx512bf16 -pthread probe.c -o probe && ./probe
#include <immintrin.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define TURNS 9
static const long SIZES[] = {0, 32, 128, 384};
static long k;

static void rectangle(long k, const float *a, long row, const float *b, float *c) {
    __m512 sums[12][2];
    for (int i = 0; i < 12; i++) sums[i][0] = sums[i][1] = _mm512_setzero_ps();
    const float *rows[4] = {a, a + 3 * row, a + 6 * row, a + 9 * row};
    asm volatile("" : "+r"(rows[0]), "+r"(rows[1]), "+r"(rows[2]), "+r"(rows[3]));
    for (long l = 0; l < k; l++, b += 32) {
        __m512bh y0 = (__m512bh)_mm512_loadu_ps(b), y1 = (__m512bh)_mm512_loadu_ps(b + 16);
#pragma GCC unroll 12
        for (int i = 0; i < 12; i++) {
            __m512bh x = (__m512bh)_mm512_set1_ps(rows[i / 3][i % 3 * row + l]);
            sums[i][0] = _mm512_dpbf16_ps(sums[i][0], x, y0);
            sums[i][1] = _mm512_dpbf16_ps(sums[i][1], x, y1);
        }
    }
    for (int i = 0; i < 12; i++)
        for (int v = 0; v < 2; v++) _mm512_storeu_ps(c + 32 * i + 16 * v, sums[i][v]);
}

static void *work(void *out) {
    float *a = aligned_alloc(64, 12 * 400 * 4), *b = aligned_alloc(64, 384 * 32 * 4), *c = aligned_alloc(64, 12 * 32 * 4);
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
    for (; k > 0 && products < 48000000; products += 24 * k) rectangle(k, a, 400, b, c);
    clock_gettime(CLOCK_MONOTONIC, &to);
    asm volatile("" : : "r"(c) : "memory");
    *(double *)out = products * 64.0 / (1e9 * (to.tv_sec - from.tv_sec) + to.tv_nsec - from.tv_nsec);
    free(a), free(b), free(c);
    return 0;
}

static int compare(const void *x, const void *y) { return (*(double *)x > *(double *)y) - (*(double *)x < *(double *)y); }

int main(void) {
    double rates[4][TURNS];
    for (int turn = 0; turn < TURNS; turn++)
        for (int s = 0; s < 4; s++) {
            pthread_t threads[2];
            double each[2];
            k = SIZES[s];
            for (int t = 0; t < 2; t++) pthread_create(&threads[t], 0, work, &each[t]);
            for (int t = 0; t < 2; t++) pthread_join(threads[t], 0);
            rates[s][turn] = each[0] + each[1];
        }
    for (int s = 0; s < 4; s++) {
        qsort(rates[s], TURNS, sizeof(double), compare);
        printf("%s %3ld: %.0f GFLOP/s (%.0f to %.0f)\n", s ? "inner size" : "registers ", SIZES[s], rates[s][TURNS / 2], rates[s][0], rates[s][TURNS - 1]);
    }
}
