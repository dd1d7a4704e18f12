// Multi-head self-attention with heads of width 64, backward.
//
// computes   per image and head, with P = exp(q k^T / 8 - lse): dv = P^T dy; dS = P (dy v^T - delta), where delta is each
//            row's sum of dy y; dq = dS k / 8; dk = dS^T q / 8
// pointers   qkv, dqkv (B, S, 3, H, 64) and y, dy (B, S, H, 64) of T, lse and delta (B, H, S) of f32; all 16-byte
//            aligned. Any B, S and H; attention_bwd takes S up to 240, the pair attention_bwd_dq, attention_bwd_dkv any S.
// arithmetic P and dS in f32, rounded to T before the products that they are the left side of; sums in f32; dq, dk and dv
//            rounded once
// owners     bwd: a block an image and head; its warps take every other strip of 16 queries, then every other strip of 16
//            keys. bwd_dq: a block 64 queries of an image and head, a strip a warp. bwd_dkv: the same of keys. Each sum
//            runs in one order: same input, same bits. P is made twice, once from either side: seven products instead
//            of five, and no sum that two warps share.
// outputs    bwd: dqkv is set. bwd_dq: the dq in dqkv, and delta, are set. bwd_dkv: dk and dv in dqkv are set; it reads
//            delta, and so follows bwd_dq.
// launch     bwd: B H blocks of 32 to 256 threads (from sm_80 on: 128) in x, with 264 bytes of dynamic shared memory a row,
//            the rows rounded up to 16. bwd_dq, bwd_dkv: B H ceil(S / 64) blocks of 128 threads in x, no dynamic shared
//            memory.
// resources  bwd: at most 62 KiB of shared memory: first k and v, then q and dy with two numbers a row. The others: static
//            shared memory of 16 KiB and a half on sm_75, twice that on sm_80 (two stages). Registers in RESOURCES.md.
// cost       14 B S S H 64 FLOPs; bwd: 12 sizeof(T) B S H 64 bytes, of which q, k, v and dy, read a second time by the
//            block that just read them, come from a cache. bwd_dq reads k and v once for every 64 queries, bwd_dkv q
//            and dy once for every 64 keys.
#include "attention.cuh"

namespace attention {

// The head of this block.
template <typename T> struct Head {
    Rows<const T> q, k, v, y, dy;
    Rows<T> dq, dk, dv;
    const float *lse;

    DEVICE Head(const T *qkv, const T *y_all, const T *dy_all, const float *lse_all, T *dqkv, unsigned image_and_head,
                unsigned s, unsigned heads) {
        q = rows_of_head(qkv, image_and_head, s, heads, 3, 0);
        k = rows_of_head(qkv, image_and_head, s, heads, 3, 1);
        v = rows_of_head(qkv, image_and_head, s, heads, 3, 2);
        y = rows_of_head(y_all, image_and_head, s, heads, 1, 0);
        dy = rows_of_head(dy_all, image_and_head, s, heads, 1, 0);
        dq = rows_of_head(dqkv, image_and_head, s, heads, 3, 0);
        dk = rows_of_head(dqkv, image_and_head, s, heads, 3, 1);
        dv = rows_of_head(dqkv, image_and_head, s, heads, 3, 2);
        lse = lse_all + size_t(image_and_head) * s;
    }
};

// What a warp holds of its 16 queries; lse, of powers of two, and delta are those of rows lane / 4 and + 8.
struct Queries {
    uint32_t q[4][4], dy[4][4];
    float lse[2], delta[2];
};

// Queries from S on get an lse of infinity: their P is 0, whatever their scores.
template <typename T> DEVICE void load_queries(Queries &strip, const Head<T> &head, unsigned first) {
    const unsigned lane = threadIdx.x % WARP;
    load_strip(strip.q, head.q, first);
    load_strip(strip.dy, head.dy, first);
    uint32_t y[4][4];
    load_strip(y, head.y, first);
#pragma unroll
    for (unsigned half = 0; half < 2; ++half) {
        float sum = 0.0f;
#pragma unroll
        for (unsigned k = 0; k < 4; ++k) {
#pragma unroll
            for (unsigned side = half; side < 4; side += 2) {
                const float2 a = widen2<T>(y[k][side]), b = widen2<T>(strip.dy[k][side]);
                sum += a.x * b.x + a.y * b.y;
            }
        }
        strip.delta[half] = quad_sum(sum);
        const unsigned row = first + lane / 4 + 8 * half;
        strip.lse[half] = row < head.q.count ? head.lse[row] * LOG2_E : INFINITY;
    }
}

// Adds what 16 keys give to dq, times 8; `first` is the group's first key, `keys` and `values` its shared addresses.
template <typename T>
DEVICE void add_dq(float (&dq)[8][4], const Queries &strip, uint32_t keys, uint32_t values, unsigned first, unsigned s) {
    float p[2][4], ds[2][4];
    products_with_group<T>(p, strip.q, keys);
    mask_group(p, first, s);
    products_with_group<T>(ds, strip.dy, values);
#pragma unroll
    for (unsigned j = 0; j < 2; ++j) {
#pragma unroll
        for (unsigned i = 0; i < 4; ++i) {
            ds[j][i] = ex2_approx(p[j][i] * SCALE - strip.lse[i / 2]) * (ds[j][i] - strip.delta[i / 2]);
        }
    }
    weigh_group<T>(dq, ds, keys);
}

// What a warp holds of its 16 keys.
template <typename T> struct Keys {
    uint32_t k[4][4], v[4][4];
    float dk[8][4], dv[8][4];

    DEVICE Keys(const Head<T> &head, unsigned first) : dk(), dv() {
        load_strip(k, head.k, first);
        load_strip(v, head.v, first);
    }
    // Adds what 16 queries give, from the shared addresses of their q and dy; each has its lse and delta in `numbers`.
    DEVICE void add(uint32_t queries, uint32_t dys, const float2 *numbers) {
        float p[2][4], ds[2][4], delta[2][2];
        products_with_group<T>(p, k, queries);
#pragma unroll
        for (unsigned j = 0; j < 2; ++j) {
            // Two queries' lse and delta.
            const float4 both = *reinterpret_cast<const float4 *>(numbers + j * 8 + threadIdx.x % 4 * 2);
            delta[j][0] = both.y;
            delta[j][1] = both.w;
#pragma unroll
            for (unsigned i = 0; i < 4; ++i) {
                p[j][i] = ex2_approx(p[j][i] * SCALE - (i % 2 ? both.z : both.x));
            }
        }
        weigh_group<T>(dv, p, dys);
        products_with_group<T>(ds, v, dys);
#pragma unroll
        for (unsigned j = 0; j < 2; ++j) {
#pragma unroll
            for (unsigned i = 0; i < 4; ++i) {
                ds[j][i] = p[j][i] * (ds[j][i] - delta[j][i % 2]);
            }
        }
        weigh_group<T>(dk, ds, queries);
    }
    DEVICE void store(const Head<T> &head, unsigned first) const {
        const float eighth[2] = {0.125f, 0.125f}, one[2] = {1.0f, 1.0f};
        store_strip(dk, eighth, head.dk, first);
        store_strip(dv, one, head.dv, first);
    }
};

// As many blocks a multiprocessor as the registers of a strip allow; src/ops/attention/cuda/geometry.rs knows the threads.
#if __CUDA_ARCH__ >= 800
constexpr unsigned WHOLE_THREADS = 128, WHOLE_BLOCKS = 3;
#else
constexpr unsigned WHOLE_THREADS = 256, WHOLE_BLOCKS = 1;
#endif

template <typename T>
DEVICE void backward(const T *qkv, const T *y, const T *dy, const float *lse, T *dqkv, unsigned s, unsigned heads) {
    extern __shared__ __align__(128) char shared[];
    const Head<T> head(qkv, y, dy, lse, dqkv, blockIdx.x, s, heads);
    const unsigned padded = (s + KEYS - 1) / KEYS * KEYS, operand = padded * ROW_BYTES;
    const unsigned warp_first = threadIdx.x / WARP * STRIP, step = blockDim.x / WARP * STRIP;
    const uint32_t left = shared_address(shared), right = left + operand;
    const float2 *numbers = reinterpret_cast<const float2 *>(shared + 2 * operand);

    bring(shared, head.k, 0, padded);
    bring(shared + operand, head.v, 0, padded);
    wait_for_rows();
#pragma unroll 1
    for (unsigned first = warp_first; first < s; first += step) {
        Queries strip;
        load_queries(strip, head, first);
        float dq[8][4] = {};
#pragma unroll 1
        for (unsigned key = 0; key < padded; key += KEYS) {
            add_dq<T>(dq, strip, left + key * ROW_BYTES, right + key * ROW_BYTES, key, s);
        }
        const float eighth[2] = {0.125f, 0.125f};
        store_strip(dq, eighth, head.dq, first);
        if (threadIdx.x % 4 == 0) {
            const unsigned row = first + threadIdx.x % WARP / 4;
            st_shared_v2(right + operand + row * 8, strip.lse[0], strip.delta[0]);
            st_shared_v2(right + operand + (row + 8) * 8, strip.lse[1], strip.delta[1]);
        }
    }

    // No warp needs k and v any more.
    __syncthreads();
    bring(shared, head.q, 0, padded);
    bring(shared + operand, head.dy, 0, padded);
    wait_for_rows();
#pragma unroll 1
    for (unsigned first = warp_first; first < s; first += step) {
        Keys<T> strip(head, first);
#pragma unroll 1
        for (unsigned query = 0; query < padded; query += KEYS) {
            strip.add(left + query * ROW_BYTES, right + query * ROW_BYTES, numbers + query);
        }
        strip.store(head, first);
    }
}

// The kernels for any S: four strips a block, and the other side in blocks of 64 rows.
constexpr unsigned BLOCK_WARPS = 4;
constexpr unsigned BLOCK_THREADS = BLOCK_WARPS * WARP;
constexpr unsigned BLOCK_ROWS = BLOCK_WARPS * STRIP;
constexpr unsigned OPERAND_BYTES = BLOCK_ROWS * ROW_BYTES;
constexpr unsigned NUMBERS_BYTES = BLOCK_ROWS * 8;
#if __CUDA_ARCH__ >= 800
constexpr unsigned DQ_BLOCKS = 3, DKV_BLOCKS = 3;
#else
constexpr unsigned DQ_BLOCKS = 3, DKV_BLOCKS = 2;
#endif

// Rows of a block that the strip from `first` on sums over: those of the sequence, and none where the strip lies beyond it.
DEVICE unsigned rows_there(unsigned first, unsigned block, unsigned s) {
    return first < s ? min(s - block * BLOCK_ROWS, BLOCK_ROWS) : 0;
}

template <typename T>
DEVICE void backward_dq(const T *qkv, const T *y, const T *dy, const float *lse, T *dqkv, float *delta, unsigned s,
                        unsigned heads) {
    __shared__ __align__(128) char shared[STAGES * 2 * OPERAND_BYTES];
    const unsigned tiles = (s + BLOCK_ROWS - 1) / BLOCK_ROWS, image_and_head = blockIdx.x / tiles;
    const Head<T> head(qkv, y, dy, lse, dqkv, image_and_head, s, heads);
    const unsigned first = blockIdx.x % tiles * BLOCK_ROWS + threadIdx.x / WARP * STRIP;
    Queries strip;
    load_queries(strip, head, first);
    float dq[8][4] = {};
    const auto bring_block = [&](char *stage, unsigned block) {
        bring(stage, head.k, block * BLOCK_ROWS, BLOCK_ROWS);
        bring(stage + OPERAND_BYTES, head.v, block * BLOCK_ROWS, BLOCK_ROWS);
    };
    stream<2 * OPERAND_BYTES>(shared, tiles, bring_block, [&](const char *stage, unsigned block) {
        const uint32_t keys = shared_address(stage), values = keys + OPERAND_BYTES;
        const unsigned there = rows_there(first, block, s);
#pragma unroll 1
        for (unsigned key = 0; key < there; key += KEYS) {
            add_dq<T>(dq, strip, keys + key * ROW_BYTES, values + key * ROW_BYTES, block * BLOCK_ROWS + key, s);
        }
    });
    const float eighth[2] = {0.125f, 0.125f};
    store_strip(dq, eighth, head.dq, first);
#pragma unroll
    for (unsigned half = 0; half < 2; ++half) {
        const unsigned row = first + threadIdx.x % WARP / 4 + 8 * half;
        if (threadIdx.x % 4 == 0 && row < s) {
            delta[size_t(image_and_head) * s + row] = strip.delta[half];
        }
    }
}

template <typename T>
DEVICE void backward_dkv(const T *qkv, const T *dy, const float *lse, const float *delta, T *dqkv, unsigned s,
                         unsigned heads) {
    __shared__ __align__(128) char shared[STAGES * (2 * OPERAND_BYTES + NUMBERS_BYTES)];
    const unsigned tiles = (s + BLOCK_ROWS - 1) / BLOCK_ROWS, image_and_head = blockIdx.x / tiles;
    const Head<T> head(qkv, dy, dy, lse, dqkv, image_and_head, s, heads);
    const float *head_delta = delta + size_t(image_and_head) * s;
    const unsigned first = blockIdx.x % tiles * BLOCK_ROWS + threadIdx.x / WARP * STRIP;
    Keys<T> strip(head, first);
    const auto bring_block = [&](char *stage, unsigned block) {
        bring(stage, head.q, block * BLOCK_ROWS, BLOCK_ROWS);
        bring(stage + OPERAND_BYTES, head.dy, block * BLOCK_ROWS, BLOCK_ROWS);
        if (threadIdx.x < BLOCK_ROWS) {
            // As in load_queries: past the end P is 0.
            const unsigned row = block * BLOCK_ROWS + threadIdx.x;
            st_shared_v2(shared_address(stage) + 2 * OPERAND_BYTES + threadIdx.x * 8,
                         row < s ? head.lse[row] * LOG2_E : INFINITY, row < s ? head_delta[row] : 0.0f);
        }
    };
    stream<2 * OPERAND_BYTES + NUMBERS_BYTES>(shared, tiles, bring_block, [&](const char *stage, unsigned block) {
        const uint32_t queries = shared_address(stage), dys = queries + OPERAND_BYTES;
        const float2 *numbers = reinterpret_cast<const float2 *>(stage + 2 * OPERAND_BYTES);
        const unsigned there = rows_there(first, block, s);
#pragma unroll 1
        for (unsigned query = 0; query < there; query += KEYS) {
            strip.add(queries + query * ROW_BYTES, dys + query * ROW_BYTES, numbers + query);
        }
    });
    strip.store(head, first);
}

} // namespace attention

#define ENTRY(NAME, THREADS, BLOCKS)                                                                                   \
    extern "C" __global__ void __launch_bounds__(attention::THREADS, attention::BLOCKS) NAME
#define ENTRIES(T)                                                                                                     \
    ENTRY(attention_bwd_##T, WHOLE_THREADS, WHOLE_BLOCKS)                                                              \
    (const T *qkv, const T *y, const T *dy, const float *lse, T *dqkv, uint32_t s, uint32_t heads) {                   \
        attention::backward(qkv, y, dy, lse, dqkv, s, heads);                                                          \
    }                                                                                                                  \
    ENTRY(attention_bwd_dq_##T, BLOCK_THREADS, DQ_BLOCKS)                                                              \
    (const T *qkv, const T *y, const T *dy, const float *lse, T *dqkv, float *delta, uint32_t s, uint32_t heads) {     \
        attention::backward_dq(qkv, y, dy, lse, dqkv, delta, s, heads);                                                \
    }                                                                                                                  \
    ENTRY(attention_bwd_dkv_##T, BLOCK_THREADS, DKV_BLOCKS)                                                            \
    (const T *qkv, const T *dy, const float *lse, const float *delta, T *dqkv, uint32_t s, uint32_t heads) {           \
        attention::backward_dkv(qkv, dy, lse, delta, dqkv, s, heads);                                                  \
    }

ENTRIES(f16)
#if __CUDA_ARCH__ >= 800
ENTRIES(bf16)
#endif
