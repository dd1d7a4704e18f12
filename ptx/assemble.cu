// The encoder's input: [CLS] and the kept tokens, each with its row of the position table.
//
// computes   fwd: y[b, 0] = cls + pos[0]; y[b, 1 + i] = tokens[b, i] + pos[rows[b, i]]
//            bwd: dtokens = dy[:, 1:]; dcls and dpos[0] get the sum of dy[b, 0] over b, dpos[r] that of dy[b, 1 + i]
//            over all b, i with rows[b, i] = r
// pointers   tokens, dtokens (B, k, D), y, dy (B, 1 + k, D) of T; cls, dcls (D), pos, dpos (table, D) of f32; all
//            16-byte aligned; rows (B, k) of u32 in 1..table. D a multiple of 4.
// arithmetic f32; sums in the order of b, then i; y is rounded once
// owners     fwd: a block a row of y. bwd_tokens: a block a row of dtokens. bwd_table: a block a row of dpos, a warp
//            128 columns of it; block 0 has dcls too.
// outputs    y and dtokens are set; dcls and dpos are set, or added to where the argument says so
// launch     fwd: B (1 + k) blocks of 128. bwd_tokens: B k blocks of 128. bwd_table: `table` blocks of 128.
//            No dynamic shared memory.
// resources  no shared memory; registers in RESOURCES.md
// cost       fwd 4 + 2 sizeof(T) bytes an element, bwd 3 sizeof(T) bytes an element and the table's 4 bytes; each row of
//            the table reads the B k indices, which stay in cache
#include "common.cuh"

namespace assemble {

constexpr unsigned THREADS = 128;

DEVICE float4 load4(const float *from) { return *reinterpret_cast<const float4 *>(from); }
DEVICE float4 sum(float4 a, float4 b) { return make_float4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w); }

template <typename T>
DEVICE void forward(const T *tokens, const float *cls, const float *pos, const uint32_t *rows, T *y, uint32_t k,
                    uint32_t d) {
    const unsigned image = blockIdx.x / (1 + k), place = blockIdx.x % (1 + k);
    const size_t token = size_t(image) * k + place - 1;
    const float *position = place == 0 ? pos : pos + size_t(rows[token]) * d;
    for (unsigned i = 4 * threadIdx.x; i < d; i += 4 * THREADS) {
        const float4 value = place == 0 ? load4(cls + i) : Four<T>::load(tokens + token * d + i).widened();
        *reinterpret_cast<Four<T> *>(y + size_t(blockIdx.x) * d + i) = Four<T>::narrowed(sum(value, load4(position + i)));
    }
}

template <typename T> DEVICE void backward_tokens(const T *dy, T *dtokens, uint32_t k, uint32_t d) {
    const size_t from = size_t(blockIdx.x / k) * (1 + k) + 1 + blockIdx.x % k;
    for (unsigned i = 4 * threadIdx.x; i < d; i += 4 * THREADS) {
        *reinterpret_cast<Four<T> *>(dtokens + size_t(blockIdx.x) * d + i) = Four<T>::load(dy + from * d + i);
    }
}

DEVICE void put(float *to, float4 value, uint32_t add) {
    float4 *place = reinterpret_cast<float4 *>(to);
    *place = add ? sum(*place, value) : value;
}

template <typename T>
DEVICE void backward_table(const T *dy, const uint32_t *rows, float *dcls, float *dpos, uint32_t b, uint32_t k, uint32_t d,
                           uint32_t add_cls, uint32_t add_pos) {
    const unsigned row = blockIdx.x, lane = threadIdx.x % WARP, tokens = b * k;
    for (unsigned first = 4 * (threadIdx.x - lane); first < d; first += 4 * THREADS) {
        const unsigned i = first + 4 * lane;
        float4 total = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        if (row == 0) {
            for (unsigned image = 0; image < b && i < d; ++image) {
                total = sum(total, Four<T>::load(dy + size_t(image) * (1 + k) * d + i).widened());
            }
        } else {
            // A warp looks at 32 indices at once, and takes those that name its row in their order.
            for (unsigned at = 0; at < tokens; at += WARP) {
                const bool mine = at + lane < tokens && rows[at + lane] == row;
                for (unsigned found = __ballot_sync(ALL_LANES, mine); found != 0; found &= found - 1) {
                    const unsigned token = at + __ffs(found) - 1;
                    if (i < d) {
                        total = sum(total, Four<T>::load(dy + (size_t(token / k) * (1 + k) + 1 + token % k) * d + i).widened());
                    }
                }
            }
        }
        if (i < d) {
            put(dpos + size_t(row) * d + i, total, add_pos);
            if (row == 0) {
                put(dcls + i, total, add_cls);
            }
        }
    }
}

} // namespace assemble

using f32 = float;

#define ENTRIES(T)                                                                                                     \
    extern "C" __global__ void __launch_bounds__(assemble::THREADS)                                                    \
        assemble_fwd_##T(const T *tokens, const float *cls, const float *pos, const uint32_t *rows, T *y, uint32_t k,  \
                         uint32_t d) {                                                                                 \
        assemble::forward(tokens, cls, pos, rows, y, k, d);                                                            \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(assemble::THREADS)                                                    \
        assemble_bwd_tokens_##T(const T *dy, T *dtokens, uint32_t k, uint32_t d) {                                     \
        assemble::backward_tokens(dy, dtokens, k, d);                                                                  \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(assemble::THREADS)                                                    \
        assemble_bwd_table_##T(const T *dy, const uint32_t *rows, float *dcls, float *dpos, uint32_t b, uint32_t k,    \
                               uint32_t d, uint32_t add_cls, uint32_t add_pos) {                                       \
        assemble::backward_table(dy, rows, dcls, dpos, b, k, d, add_cls, add_pos);                                     \
    }

ENTRIES(f32)
ENTRIES(f16)
#if __CUDA_ARCH__ >= 800
ENTRIES(bf16)
#endif
