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
#include "common.cuh"

namespace attention {

constexpr unsigned WIDTH = 64;
constexpr unsigned ROW_BYTES = 2 * WIDTH;
constexpr unsigned STRIP = 16;
constexpr unsigned LONGEST = 256;
// Keys are taken 16 at a time: the depth of one product with v.
constexpr unsigned KEYS = 16;
constexpr unsigned GROUPS = LONGEST / KEYS;
// The powers are of two: 1 / sqrt(64) and log2(e) are one factor.
constexpr float LOG2_E = 1.4426950408889634f;
constexpr float LN_2 = 0.69314718055994531f;
constexpr float SCALE = LOG2_E / 8.0f;

// Byte offset of a 16-byte chunk in a tile of rows of 128 bytes. Chunks move with the row: eight rows at one chunk, as
// ldmatrix reads them, and one row's eight chunks, as they are stored, both meet all 32 banks once.
DEVICE unsigned chunk_offset(unsigned row, unsigned chunk) { return row * ROW_BYTES + ((chunk ^ (row % 8)) * 16); }

// Where the head of this block lies. Rows of q, k and v follow one another 3 D values apart.
template <typename T> struct Head {
    const T *q, *k, *v;
    T *y;
    float *lse;
    unsigned s, row, y_row;

    DEVICE Head(const T *qkv, T *y_all, float *lse_all, unsigned image_and_head, unsigned keys, unsigned heads) {
        const unsigned image = image_and_head / heads, head = image_and_head % heads;
        s = keys;
        y_row = heads * WIDTH;
        row = 3 * y_row;
        q = qkv + size_t(image) * s * row + head * WIDTH;
        k = q + y_row;
        v = k + y_row;
        y = y_all + size_t(image) * s * y_row + head * WIDTH;
        lse = lse_all + size_t(image_and_head) * s;
    }
};

// Brings rows first..first + count of k or v into shared memory; rows from S on are zero. Not waited for on sm_80.
template <typename T>
DEVICE void bring(char *to, const T *from, unsigned first, unsigned count, const Head<T> &head) {
    for (unsigned i = threadIdx.x; i < count * 8; i += blockDim.x) {
        const unsigned row = i / 8, chunk = i % 8;
        const bool real = first + row < head.s;
        const T *source = from + (real ? size_t(first + row) * head.row + chunk * 8 : 0);
        char *target = to + chunk_offset(row, chunk);
#if __CUDA_ARCH__ >= 800
        cp_async_16(shared_address(target), source, real ? 16 : 0);
#else
        *reinterpret_cast<uint4 *>(target) =
            real ? *reinterpret_cast<const uint4 *>(source) : make_uint4(0, 0, 0, 0);
#endif
    }
}

// The four lanes of a quad hold a 4 x 4 matrix of words, a row each; afterwards a column each.
DEVICE void transpose_quad(uint32_t (&w)[4]) {
    const bool odd = threadIdx.x & 1, upper = threadIdx.x & 2;
    const uint32_t a = __shfl_xor_sync(ALL_LANES, odd ? w[0] : w[1], 1);
    const uint32_t b = __shfl_xor_sync(ALL_LANES, odd ? w[2] : w[3], 1);
    (odd ? w[0] : w[1]) = a;
    (odd ? w[2] : w[3]) = b;
    const uint32_t c = __shfl_xor_sync(ALL_LANES, upper ? w[0] : w[2], 2);
    const uint32_t d = __shfl_xor_sync(ALL_LANES, upper ? w[1] : w[3], 2);
    (upper ? w[0] : w[2]) = c;
    (upper ? w[1] : w[3]) = d;
}

// The fragments of a strip of q. A lane reads 16 bytes, so that a quad reads whole sectors; the words that a fragment
// wants of it lie with the other lanes of the quad. Rows from S on are zero.
template <typename T> DEVICE void load_queries(uint32_t (&a)[4][4], unsigned first, const Head<T> &head) {
    const unsigned lane = threadIdx.x % WARP;
#pragma unroll
    for (unsigned half = 0; half < 2; ++half) {
        const unsigned row = first + lane / 4 + 8 * half;
#pragma unroll
        for (unsigned side = 0; side < 2; ++side) {
            uint4 chunk = make_uint4(0, 0, 0, 0);
            if (row < head.s) {
                chunk = *reinterpret_cast<const uint4 *>(head.q + size_t(row) * head.row + side * 32 + lane % 4 * 8);
            }
            uint32_t w[4] = {chunk.x, chunk.y, chunk.z, chunk.w};
            transpose_quad(w);
            a[2 * side][half] = w[0];
            a[2 * side][2 + half] = w[1];
            a[2 * side + 1][half] = w[2];
            a[2 * side + 1][2 + half] = w[3];
        }
    }
}

// Scores of a strip with 16 keys, from the shared address of the first key's row.
template <typename T>
DEVICE void scores_of_group(float (&scores)[2][4], const uint32_t (&q)[4][4], uint32_t keys) {
    const unsigned lane = threadIdx.x % WARP;
#pragma unroll
    for (unsigned i = 0; i < 4; ++i) {
        scores[0][i] = scores[1][i] = 0.0f;
    }
#pragma unroll
    for (unsigned k = 0; k < 4; ++k) {
        uint32_t b[4];
        ldmatrix_x4(b, keys + chunk_offset(lane % 8 + lane / 16 * 8, 2 * k + lane / 8 % 2));
        multiply_add<T>(scores[0], q[k], b[0], b[1]);
        multiply_add<T>(scores[1], q[k], b[2], b[3]);
    }
}

// Scores of keys from S on become minus infinity; `first` is the group's first key.
DEVICE void mask_group(float (&scores)[2][4], unsigned first, unsigned s) {
    const unsigned quad = threadIdx.x % 4;
#pragma unroll
    for (unsigned j = 0; j < 2; ++j) {
#pragma unroll
        for (unsigned i = 0; i < 4; ++i) {
            if (first + j * 8 + 2 * quad + i % 2 >= s) {
                scores[j][i] = -INFINITY;
            }
        }
    }
}

// Adds the product of 16 columns of P with 16 rows of v, from the shared address of the first key's row.
template <typename T>
DEVICE void weigh_group(float (&sums)[8][4], const float (&p)[2][4], uint32_t values) {
    const unsigned lane = threadIdx.x % WARP;
    const uint32_t a[4] = {narrow2<T>(p[0][0], p[0][1]), narrow2<T>(p[0][2], p[0][3]), narrow2<T>(p[1][0], p[1][1]),
                           narrow2<T>(p[1][2], p[1][3])};
#pragma unroll
    for (unsigned j = 0; j < 4; ++j) {
        uint32_t b[4];
        ldmatrix_x4_trans(b, values + chunk_offset(lane % 16, 2 * j + lane / 16));
        multiply_add<T>(sums[2 * j], a, b[0], b[1]);
        multiply_add<T>(sums[2 * j + 1], a, b[2], b[3]);
    }
}

DEVICE float quad_max(float value) {
    value = fmaxf(value, __shfl_xor_sync(ALL_LANES, value, 1));
    return fmaxf(value, __shfl_xor_sync(ALL_LANES, value, 2));
}

DEVICE float quad_sum(float value) {
    value += __shfl_xor_sync(ALL_LANES, value, 1);
    return value + __shfl_xor_sync(ALL_LANES, value, 2);
}

// exp of a score less the row's largest, both still unscaled.
DEVICE float power(float score, float largest) { return ex2_approx((score - largest) * SCALE); }

// Stores a strip of y and its lse; `largest` and `total` are those of rows lane / 4 and + 8. The way of load_queries,
// back.
template <typename T>
DEVICE void store_strip(const float (&sums)[8][4], const float (&largest)[2], const float (&total)[2], unsigned first,
                        const Head<T> &head) {
    const unsigned lane = threadIdx.x % WARP;
#pragma unroll
    for (unsigned half = 0; half < 2; ++half) {
        const unsigned row = first + lane / 4 + 8 * half;
        const float scale = 1.0f / total[half];
        if (row < head.s && lane % 4 == 0) {
            head.lse[row] = (largest[half] * SCALE + lg2_approx(total[half])) * LN_2;
        }
#pragma unroll
        for (unsigned side = 0; side < 2; ++side) {
            uint32_t w[4];
#pragma unroll
            for (unsigned j = 0; j < 4; ++j) {
                const float *pair = &sums[4 * side + j][2 * half];
                w[j] = narrow2<T>(pair[0] * scale, pair[1] * scale);
            }
            transpose_quad(w);
            if (row < head.s) {
                st_global_v4(head.y + size_t(row) * head.y_row + side * 32 + lane % 4 * 8,
                             make_uint4(w[0], w[1], w[2], w[3]));
            }
        }
    }
}

template <typename T> DEVICE void forward(const T *qkv, T *y, float *lse, unsigned s, unsigned heads) {
    extern __shared__ __align__(128) char shared[];
    const Head<T> head(qkv, y, lse, blockIdx.x, s, heads);
    const unsigned padded = (s + KEYS - 1) / KEYS * KEYS;
    bring(shared, head.k, 0, padded, head);
    bring(shared + padded * ROW_BYTES, head.v, 0, padded, head);
#if __CUDA_ARCH__ >= 800
    cp_async_commit_group();
    cp_async_wait_group<0>();
#endif
    __syncthreads();
    const uint32_t keys = shared_address(shared), values = keys + padded * ROW_BYTES;

#pragma unroll 1
    for (unsigned first = threadIdx.x / WARP * STRIP; first < s; first += blockDim.x / WARP * STRIP) {
        uint32_t q[4][4];
        load_queries(q, first, head);
        float p[GROUPS][2][4];
        float largest[2] = {-INFINITY, -INFINITY};
#pragma unroll
        for (unsigned g = 0; g < GROUPS; ++g) {
            if (g * KEYS < s) {
                scores_of_group<T>(p[g], q, keys + g * KEYS * ROW_BYTES);
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
        store_strip(sums, largest, total, first, head);
    }
}

constexpr unsigned ONLINE_WARPS = 4;
constexpr unsigned ONLINE_QUERIES = ONLINE_WARPS * STRIP;
constexpr unsigned ONLINE_KEYS = 64;
constexpr unsigned ONLINE_GROUPS = ONLINE_KEYS / KEYS;
#if __CUDA_ARCH__ >= 800
constexpr unsigned ONLINE_STAGES = 2;
#else
constexpr unsigned ONLINE_STAGES = 1;
#endif
constexpr unsigned OPERAND_BYTES = ONLINE_KEYS * ROW_BYTES;

template <typename T> DEVICE void bring_block(char *stage, unsigned block, const Head<T> &head) {
    bring(stage, head.k, block * ONLINE_KEYS, ONLINE_KEYS, head);
    bring(stage + OPERAND_BYTES, head.v, block * ONLINE_KEYS, ONLINE_KEYS, head);
#if __CUDA_ARCH__ >= 800
    cp_async_commit_group();
#endif
}

// Keys come in blocks of 64; sums and totals are those of the largest score seen so far, and shrink when it grows.
template <typename T> DEVICE void forward_online(const T *qkv, T *y, float *lse, unsigned s, unsigned heads) {
    __shared__ __align__(128) char shared[ONLINE_STAGES * 2 * OPERAND_BYTES];
    const unsigned tiles = (s + ONLINE_QUERIES - 1) / ONLINE_QUERIES;
    const Head<T> head(qkv, y, lse, blockIdx.x / tiles, s, heads);
    const unsigned first = blockIdx.x % tiles * ONLINE_QUERIES + threadIdx.x / WARP * STRIP;
    const unsigned blocks = (s + ONLINE_KEYS - 1) / ONLINE_KEYS;
    uint32_t q[4][4];
    load_queries(q, first, head);
    float largest[2] = {-INFINITY, -INFINITY}, total[2] = {0.0f, 0.0f};
    float sums[8][4] = {};
#if __CUDA_ARCH__ >= 800
    bring_block(shared, 0, head);
#endif
#pragma unroll 1
    for (unsigned block = 0; block < blocks; ++block) {
#if __CUDA_ARCH__ >= 800
        char *stage = shared + block % 2 * 2 * OPERAND_BYTES;
        cp_async_wait_group<0>();
        // The block is there for all, and nobody reads the other stage any more.
        __syncthreads();
        if (block + 1 < blocks) {
            bring_block(shared + (block + 1) % 2 * 2 * OPERAND_BYTES, block + 1, head);
        }
#else
        char *stage = shared;
        __syncthreads();
        bring_block(stage, block, head);
        __syncthreads();
#endif
        const uint32_t keys = shared_address(stage), values = keys + OPERAND_BYTES;
        float p[ONLINE_GROUPS][2][4];
        float grown[2] = {largest[0], largest[1]};
#pragma unroll
        for (unsigned g = 0; g < ONLINE_GROUPS; ++g) {
            scores_of_group<T>(p[g], q, keys + g * KEYS * ROW_BYTES);
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
    }
    total[0] = quad_sum(total[0]);
    total[1] = quad_sum(total[1]);
    store_strip(sums, largest, total, first, head);
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
