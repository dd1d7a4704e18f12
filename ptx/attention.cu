// Multi-head self-attention with heads of width 64, forward.
//
// computes   per image and head: y = P v with P = softmax(q k^T / 8), and lse, the log of each row's sum of exp(q k^T / 8)
// pointers   qkv (B, S, 3, H, 64) and y (B, S, H, 64) of T, lse (B, H, S) of f32; all 16-byte aligned. Any B, S and H;
//            attention_fwd takes S up to 256, attention_fwd_online any S.
// arithmetic scores and sums in f32; P rounded to T before the product with v, unnormalised, its largest value 1 in
//            every row (online: in the block of keys where the maximum stood); y rounded once
// owners     fwd: a block an image and head, its warps every other strip of 16 queries. fwd_online: a block 64 queries of
//            an image and head, a strip a warp. Each sum runs in one order: same input, same bits.
// outputs    y and lse are set
// launch     fwd: B H blocks of 32 to 256 threads in x, with 256 bytes of dynamic shared memory a key, the keys rounded
//            up to 16. fwd_online: B H ceil(S / 64) blocks of 128 threads in x, no dynamic shared memory.
// resources  fwd: at most 64 KiB of shared memory; all scores of a strip stay in registers. fwd_online: static shared
//            memory of 16 KiB on sm_75, 32 KiB on sm_80 (two stages). Registers in RESOURCES.md.
// cost       4 B S S H 64 FLOPs; sizeof(T) B S H 256 bytes when k and v are read once (fwd); fwd_online reads k and v
//            once for every 64 queries
#include "attention.cuh"

namespace attention {

constexpr unsigned LONGEST = 256;
constexpr unsigned GROUPS = LONGEST / KEYS;

// The head of this block.
template <typename T> struct Head {
    Rows<const T> q, k, v;
    Rows<T> y;
    float *lse;

    DEVICE Head(const T *qkv, T *y_all, float *lse_all, unsigned image_and_head, unsigned s, unsigned heads) {
        q = rows_of_head(qkv, image_and_head, s, heads, 3, 0);
        k = rows_of_head(qkv, image_and_head, s, heads, 3, 1);
        v = rows_of_head(qkv, image_and_head, s, heads, 3, 2);
        y = rows_of_head(y_all, image_and_head, s, heads, 1, 0);
        lse = lse_all + size_t(image_and_head) * s;
    }
};

// exp of a score less the row's largest, both still unscaled.
DEVICE float power(float score, float largest) { return ex2_approx((score - largest) * SCALE); }

// Stores a strip of y and its lse; `largest` and `total` are those of rows lane / 4 and + 8.
template <typename T>
DEVICE void store_result(const float (&sums)[8][4], const float (&largest)[2], const float (&total)[2], unsigned first,
                         const Head<T> &head) {
    const unsigned lane = threadIdx.x % WARP;
#pragma unroll
    for (unsigned half = 0; half < 2; ++half) {
        const unsigned row = first + lane / 4 + 8 * half;
        if (row < head.y.count && lane % 4 == 0) {
            head.lse[row] = (largest[half] * SCALE + lg2_approx(total[half])) * LN_2;
        }
    }
    const float scale[2] = {1.0f / total[0], 1.0f / total[1]};
    store_strip(sums, scale, head.y, first);
}

template <typename T> DEVICE void forward(const T *qkv, T *y, float *lse, unsigned s, unsigned heads) {
    extern __shared__ __align__(128) char shared[];
    const Head<T> head(qkv, y, lse, blockIdx.x, s, heads);
    const unsigned padded = (s + KEYS - 1) / KEYS * KEYS;
    bring(shared, head.k, 0, padded);
    bring(shared + padded * ROW_BYTES, head.v, 0, padded);
    wait_for_rows();
    const uint32_t keys = shared_address(shared), values = keys + padded * ROW_BYTES;

#pragma unroll 1
    for (unsigned first = threadIdx.x / WARP * STRIP; first < s; first += blockDim.x / WARP * STRIP) {
        uint32_t q[4][4];
        load_strip(q, head.q, first);
        float p[GROUPS][2][4];
        float largest[2] = {-INFINITY, -INFINITY};
#pragma unroll
        for (unsigned g = 0; g < GROUPS; ++g) {
            if (g * KEYS < s) {
                products_with_group<T>(p[g], q, keys + g * KEYS * ROW_BYTES);
                mask_group(p[g], g * KEYS, s);
#pragma unroll
                for (unsigned i = 0; i < 4; ++i) {
                    largest[i / 2] = fmaxf(largest[i / 2], fmaxf(p[g][0][i], p[g][1][i]));
                }
            }
        }
        largest[0] = quad_max(largest[0]);
        largest[1] = quad_max(largest[1]);
        float total[2] = {0.0f, 0.0f};
        float sums[8][4] = {};
#pragma unroll
        for (unsigned g = 0; g < GROUPS; ++g) {
            if (g * KEYS < s) {
#pragma unroll
                for (unsigned i = 0; i < 4; ++i) {
                    p[g][0][i] = power(p[g][0][i], largest[i / 2]);
                    p[g][1][i] = power(p[g][1][i], largest[i / 2]);
                    total[i / 2] += p[g][0][i] + p[g][1][i];
                }
                weigh_group<T>(sums, p[g], values + g * KEYS * ROW_BYTES);
            }
        }
        total[0] = quad_sum(total[0]);
        total[1] = quad_sum(total[1]);
        store_result(sums, largest, total, first, head);
    }
}

constexpr unsigned ONLINE_WARPS = 4;
constexpr unsigned ONLINE_QUERIES = ONLINE_WARPS * STRIP;
constexpr unsigned ONLINE_KEYS = 64;
constexpr unsigned ONLINE_GROUPS = ONLINE_KEYS / KEYS;
constexpr unsigned OPERAND_BYTES = ONLINE_KEYS * ROW_BYTES;

// Keys come in blocks of 64; sums and totals are those of the largest score seen so far, and shrink when it grows.
template <typename T> DEVICE void forward_online(const T *qkv, T *y, float *lse, unsigned s, unsigned heads) {
    __shared__ __align__(128) char shared[STAGES * 2 * OPERAND_BYTES];
    const unsigned tiles = (s + ONLINE_QUERIES - 1) / ONLINE_QUERIES;
    const Head<T> head(qkv, y, lse, blockIdx.x / tiles, s, heads);
    const unsigned first = blockIdx.x % tiles * ONLINE_QUERIES + threadIdx.x / WARP * STRIP;
    const unsigned blocks = (s + ONLINE_KEYS - 1) / ONLINE_KEYS;
    uint32_t q[4][4];
    load_strip(q, head.q, first);
    float largest[2] = {-INFINITY, -INFINITY}, total[2] = {0.0f, 0.0f};
    float sums[8][4] = {};
    const auto bring_block = [&](char *stage, unsigned block) {
        bring(stage, head.k, block * ONLINE_KEYS, ONLINE_KEYS);
        bring(stage + OPERAND_BYTES, head.v, block * ONLINE_KEYS, ONLINE_KEYS);
    };
    stream<2 * OPERAND_BYTES>(shared, blocks, bring_block, [&](const char *stage, unsigned block) {
        const uint32_t keys = shared_address(stage), values = keys + OPERAND_BYTES;
        float p[ONLINE_GROUPS][2][4];
        float grown[2] = {largest[0], largest[1]};
#pragma unroll
        for (unsigned g = 0; g < ONLINE_GROUPS; ++g) {
            products_with_group<T>(p[g], q, keys + g * KEYS * ROW_BYTES);
            mask_group(p[g], block * ONLINE_KEYS + g * KEYS, s);
#pragma unroll
            for (unsigned i = 0; i < 4; ++i) {
                grown[i / 2] = fmaxf(grown[i / 2], fmaxf(p[g][0][i], p[g][1][i]));
            }
        }
#pragma unroll
        for (unsigned half = 0; half < 2; ++half) {
            // Every block has a key, so `grown` is a number; the first block's factor is 0.
            grown[half] = quad_max(grown[half]);
            const float factor = power(largest[half], grown[half]);
            largest[half] = grown[half];
            total[half] *= factor;
#pragma unroll
            for (unsigned j = 0; j < 8; ++j) {
                sums[j][2 * half] *= factor;
                sums[j][2 * half + 1] *= factor;
            }
        }
#pragma unroll
        for (unsigned g = 0; g < ONLINE_GROUPS; ++g) {
#pragma unroll
            for (unsigned i = 0; i < 4; ++i) {
                p[g][0][i] = power(p[g][0][i], largest[i / 2]);
                p[g][1][i] = power(p[g][1][i], largest[i / 2]);
                total[i / 2] += p[g][0][i] + p[g][1][i];
            }
            weigh_group<T>(sums, p[g], values + g * KEYS * ROW_BYTES);
        }
    });
    total[0] = quad_sum(total[0]);
    total[1] = quad_sum(total[1]);
    store_result(sums, largest, total, first, head);
}

} // namespace attention

#define ENTRIES(T)                                                                                                     \
    extern "C" __global__ void __launch_bounds__(256)                                                                  \
        attention_fwd_##T(const T *qkv, T *y, float *lse, uint32_t s, uint32_t heads) {                                \
        attention::forward(qkv, y, lse, s, heads);                                                                     \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(attention::ONLINE_WARPS *WARP, 3)                                     \
        attention_fwd_online_##T(const T *qkv, T *y, float *lse, uint32_t s, uint32_t heads) {                         \
        attention::forward_online(qkv, y, lse, s, heads);                                                              \
    }

ENTRIES(f16)
#if __CUDA_ARCH__ >= 800
ENTRIES(bf16)
#endif
