// The linear layer with fused epilogues: y = x W^T + bias, and what follows it.
//
// computes   bias: y = x W^T + bias. bias_gelu: pre = x W^T + bias, y = gelu(pre), the exact GELU of erf.
//            bias_residual: y = x W^T + bias + residual
// pointers   x (M, K), weight (N, K), y, pre, residual (M, N) of T by rows, 16-byte aligned; bias (N) of f32, 16-byte
//            aligned. pre may be null. Any M and N; K a multiple of 8. An N that is no multiple of 8 is stored singly.
// arithmetic products of 16-bit values, summed in f32 by the tensor cores; epilogue in f32; y and pre rounded once
// owners     a block owns a tile of y, a warp a quarter of it. Each sum runs over K in one order: same input, same bits.
// outputs    y is set, and pre unless it is null
// launch     a grid of ceil(M / tile) ceil(N / tile) blocks in x; blocks of 128 threads for tiles of 128 x 128 and for
//            tiles of 64 x 64 (entries with `tile64`, for products too small to fill a card otherwise). No dynamic
//            shared memory.
// resources  tile 128: sm_75 32 KiB in 2 stages, sm_80 48 KiB in 3 stages, at most 255 registers, so that two blocks
//            fit a multiprocessor, and 32 KiB read and 16 KiB written of shared memory for 32 of K; tile 64: half of
//            that, and at most 128 registers; registers in RESOURCES.md
// cost       2 M N K FLOPs; sizeof(T) (M K + N K + M N) bytes when every operand comes from memory once
#include "gelu.cuh"
#include "matmul.cuh"

namespace matmul {

// The epilogues: the bias, then what follows it.
struct Nothing {
    DEVICE void apply(float (&)[8], size_t, unsigned, bool) const {}
};

template <typename V> struct Gelu {
    V *pre;
    DEVICE void apply(float (&v)[8], size_t at, unsigned count, bool whole) const {
        if (pre != nullptr) {
            store8(pre + at, v, count, whole);
        }
#pragma unroll
        for (unsigned i = 0; i < 8; ++i) {
            v[i] = gelu(v[i]);
        }
    }
};

template <typename V> struct Residual {
    const V *residual;
    DEVICE void apply(float (&v)[8], size_t at, unsigned count, bool whole) const {
        float r[8];
        load8(r, residual + at, count, whole);
#pragma unroll
        for (unsigned i = 0; i < 8; ++i) {
            v[i] += r[i];
        }
    }
};

template <typename Next> struct Bias : Rowwise {
    const float *bias;
    Next next;
    float b[8];
    // One load of whole sectors for the warp's columns; each lane takes its eight from the others.
    DEVICE void start(unsigned first_column, unsigned n) {
        const unsigned lane = threadIdx.x % WARP, quad = lane % 4;
        const float warp_bias = first_column + lane < n ? bias[first_column + lane] : 0.0f;
#pragma unroll
        for (unsigned i = 0; i < 8; ++i) {
            b[i] = __shfl_sync(ALL_LANES, warp_bias, quad * 8 + i);
        }
    }
    DEVICE void apply(float (&v)[8], size_t at, unsigned count, bool whole) const {
#pragma unroll
        for (unsigned i = 0; i < 8; ++i) {
            v[i] += b[i];
        }
        next.apply(v, at, count, whole);
    }
};

template <unsigned SIDE, typename V, typename Next>
DEVICE void forward(const V *x, const V *weight, const float *bias, V *y, unsigned m, unsigned n, unsigned k, Next next) {
    __shared__ __align__(128) char shared[SHARED_BYTES<SIDE>];
    const uint2 tile = tile_of_block(blockIdx.x, (m + SIDE - 1) / SIDE, (n + SIDE - 1) / SIDE);
    Along<SIDE> load_x(x, tile.x * SIDE, m, k), load_weight(weight, tile.y * SIDE, n, k);
    Sums<SIDE> sums = {};
    accumulate<V>(sums, shared, load_x, load_weight, (k + DEPTH - 1) / DEPTH);
    store(sums, shared, tile.x * SIDE, tile.y * SIDE, y, m, n, Bias<Next>{{}, bias, next});
}

} // namespace matmul

using namespace matmul;

#define ENTRY(NAME, SIDE) extern "C" __global__ void __launch_bounds__(Tile<SIDE>::THREADS, SIDE == 128 ? 2 : 4) NAME

#define ENTRIES(T, SIDE, TILE)                                                                                         \
    ENTRY(matmul_fwd_bias##TILE##_##T, SIDE)(const T *x, const T *weight, const float *bias, T *y, uint32_t m,         \
                                             uint32_t n, uint32_t k) {                                                 \
        forward<SIDE>(x, weight, bias, y, m, n, k, Nothing{});                                                         \
    }                                                                                                                  \
    ENTRY(matmul_fwd_bias_gelu##TILE##_##T, SIDE)(const T *x, const T *weight, const float *bias, T *pre, T *y,        \
                                                  uint32_t m, uint32_t n, uint32_t k) {                                \
        forward<SIDE>(x, weight, bias, y, m, n, k, Gelu<T>{pre});                                                      \
    }                                                                                                                  \
    ENTRY(matmul_fwd_bias_residual##TILE##_##T, SIDE)(const T *x, const T *weight, const float *bias,                  \
                                                      const T *residual, T *y, uint32_t m, uint32_t n, uint32_t k) {   \
        forward<SIDE>(x, weight, bias, y, m, n, k, Residual<T>{residual});                                             \
    }

ENTRIES(f16, 128, )
ENTRIES(f16, 64, _tile64)
#if __CUDA_ARCH__ >= 800
ENTRIES(bf16, 128, )
ENTRIES(bf16, 64, _tile64)
#endif
