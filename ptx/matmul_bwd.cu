// The way back through the linear layer on the matrix units: the gradients of its input and of its weight.
//
// computes   dx: dx = g W. dx_gelu: dx = (g W) gelu'(pre), for an input that was gelu(pre): the gradient of pre; and
//            partial[p] = the sum over rows 64 p to 64 p + 63 of that dx before it is rounded.
//            dweight: out[part] = g^T x over the rows of that part; part p has the rows p * part_rows up to the next
// pointers   g (M, N), weight (N, K), x, pre, dx (M, K) of T, out (parts, N, K), partial (ceil(M / 64), K) of f32, by
//            rows, 16-byte aligned; dx may be pre. Any M; N and K multiples of 8; part_rows a multiple of 32, and no part without rows.
// arithmetic products of 16-bit values, summed in f32 by the matrix units; gelu' in f32; dx rounded once
// owners     a block owns a tile of dx, or of one part of out; a warp a quarter of it. Each sum runs over N, or over
//            the part's rows, in one order: same input and parts, same bits. Sums of dx's rows are made of 32 and 32 of
//            them, whatever the tile.
// outputs    dx, partial and out are set. With one part out may be dW; else matmul_bwd_dweight_reduce of ptx/matmul_scalar.cu
//            sums the parts.
// launch     dx: ceil(M / tile) ceil(K / tile) blocks in x; dweight: parts ceil(N / tile) ceil(K / tile). Blocks of 128
//            threads for tiles of 128 x 128 and of 64 x 64 (`tile64`). No dynamic shared memory.
// resources  those of ptx/matmul.cu; registers in RESOURCES.md
// cost       2 M N K FLOPs each; dx sizeof(T) (M N + N K + M K) bytes when every operand comes from memory once, and
//            sizeof(T) M K for pre; dweight sizeof(T) (M N + M K) + 4 parts N K
#include "gelu.cuh"
#include "matmul.cuh"

namespace matmul {

struct Nothing : Rowwise {
    DEVICE void start(unsigned, unsigned) {}
    DEVICE void apply(float (&)[8], size_t, unsigned, bool) const {}
};

// Also sums the columns over the 64 rows that two warps of a small tile, or one of a large one, have.
template <unsigned SIDE, typename V> struct GeluSlope {
    const V *pre;
    float *partial;
    // Of the 32 rows so far, and of those before them.
    float sums[8], before[8];
    DEVICE void start(unsigned, unsigned) {
#pragma unroll
        for (unsigned i = 0; i < 8; ++i) {
            sums[i] = before[i] = 0.0f;
        }
    }
    DEVICE void apply(float (&v)[8], size_t at, unsigned count, bool whole) {
        float p[8];
        load8(p, pre + at, count, whole);
#pragma unroll
        for (unsigned i = 0; i < 8; ++i) {
            v[i] *= gelu_slope(p[i]);
            sums[i] += v[i];
        }
    }
    // The lanes of a column are four apart.
    DEVICE void pause() {
#pragma unroll
        for (unsigned i = 0; i < 8; ++i) {
#pragma unroll
            for (unsigned distance = WARP / 2; distance >= 4; distance /= 2) {
                sums[i] += __shfl_xor_sync(ALL_LANES, sums[i], distance);
            }
            before[i] += sums[i];
            sums[i] = 0.0f;
        }
    }
    DEVICE void finish(char *shared, unsigned first_row, unsigned column, unsigned count, unsigned m, unsigned k) {
        // Lane and lane + 4 share their columns; each writes four of the eight, side by side with the others.
        const unsigned lane = threadIdx.x % WARP, quad = lane % 4, upper = lane / 4;
        bool writes = lane < 8;
        if (SIDE == 64) {
            // The lower half of the rows belongs to another warp, which hands its sums over.
            float *handed = reinterpret_cast<float *>(shared) + warp_column<SIDE>();
            const bool lower = warp_row<SIDE>() > 0;
            __syncthreads();
            if (lower && lane < 4) {
#pragma unroll
                for (unsigned i = 0; i < 8; ++i) {
                    handed[quad * 8 + i] = before[i];
                }
            }
            __syncthreads();
            writes = writes && !lower;
            if (writes) {
#pragma unroll
                for (unsigned i = 0; i < 8; ++i) {
                    before[i] += handed[quad * 8 + i];
                }
            }
        }
        if (writes && first_row < m && count > 0) {
            uint32_t four[4];
#pragma unroll
            for (unsigned i = 0; i < 4; ++i) {
                four[i] = __float_as_uint(upper ? before[4 + i] : before[i]);
            }
            st_global_v4(partial + size_t(first_row / 64) * k + column + 4 * upper,
                         make_uint4(four[0], four[1], four[2], four[3]));
        }
    }
};

template <unsigned SIDE, typename V, typename Epilogue>
DEVICE void backward_dx(const V *g, const V *weight, V *dx, unsigned m, unsigned n, unsigned k, Epilogue epilogue) {
    __shared__ __align__(128) char shared[SHARED_BYTES<SIDE>];
    const uint2 tile = tile_of_block(blockIdx.x, (m + SIDE - 1) / SIDE, (k + SIDE - 1) / SIDE);
    Along<SIDE> load_g(g, tile.x * SIDE, m, n);
    Across<SIDE> load_weight(weight, tile.y * SIDE, k, 0, n);
    Sums<SIDE> sums = {};
    accumulate<V>(sums, shared, load_g, load_weight, (n + DEPTH - 1) / DEPTH);
    store(sums, shared, tile.x * SIDE, tile.y * SIDE, dx, m, k, epilogue);
}

// Stores a warp's sums into out (n, k): the two neighbours of a lane and of the three beside it are a whole sector.
template <unsigned SIDE>
DEVICE void store_sums(const Sums<SIDE> &sums, float *out, unsigned first_row, unsigned first_column, unsigned n,
                       unsigned k) {
    const unsigned lane = threadIdx.x % WARP;
    const unsigned row = first_row + warp_row<SIDE>() + lane / 4, column = first_column + warp_column<SIDE>() + lane % 4 * 2;
#pragma unroll
    for (unsigned i = 0; i < Tile<SIDE>::ROW_TILES; ++i) {
#pragma unroll
        for (unsigned half = 0; half < 2; ++half) {
            const unsigned at = row + i * 16 + half * 8;
#pragma unroll
            for (unsigned j = 0; j < Tile<SIDE>::COLUMN_TILES; ++j) {
                if (at < n && column + j * 8 < k) {
                    *reinterpret_cast<float2 *>(out + size_t(at) * k + column + j * 8) =
                        make_float2(sums.c[i][j][2 * half], sums.c[i][j][2 * half + 1]);
                }
            }
        }
    }
}

template <unsigned SIDE, typename V>
DEVICE void backward_dweight(const V *g, const V *x, float *out, unsigned m, unsigned n, unsigned k,
                             unsigned part_rows) {
    __shared__ __align__(128) char shared[SHARED_BYTES<SIDE>];
    const unsigned tiles_n = (n + SIDE - 1) / SIDE, tiles_k = (k + SIDE - 1) / SIDE;
    const unsigned part = blockIdx.x / (tiles_n * tiles_k);
    const uint2 tile = tile_of_block(blockIdx.x % (tiles_n * tiles_k), tiles_n, tiles_k);
    const unsigned begin = part * part_rows, rows = min(m - begin, part_rows);
    Across<SIDE> load_g(g, tile.x * SIDE, n, begin, begin + rows), load_x(x, tile.y * SIDE, k, begin, begin + rows);
    Sums<SIDE> sums = {};
    accumulate<V>(sums, shared, load_g, load_x, (rows + DEPTH - 1) / DEPTH);
    store_sums(sums, out + size_t(part) * n * k, tile.x * SIDE, tile.y * SIDE, n, k);
}

} // namespace matmul

using namespace matmul;

#define ENTRY(NAME, SIDE) extern "C" __global__ void __launch_bounds__(Tile<SIDE>::THREADS, SIDE == 128 ? 2 : 4) NAME

#define ENTRIES(T, SIDE, TILE)                                                                                         \
    ENTRY(matmul_bwd_dx##TILE##_##T, SIDE)(const T *g, const T *weight, T *dx, uint32_t m, uint32_t n, uint32_t k) {   \
        backward_dx<SIDE>(g, weight, dx, m, n, k, Nothing{});                                                          \
    }                                                                                                                  \
    ENTRY(matmul_bwd_dx_gelu##TILE##_##T, SIDE)(const T *g, const T *weight, const T *pre, T *dx, float *partial,      \
                                                uint32_t m, uint32_t n, uint32_t k) {                                  \
        backward_dx<SIDE>(g, weight, dx, m, n, k, GeluSlope<SIDE, T>{pre, partial});                               \
    }                                                                                                                  \
    ENTRY(matmul_bwd_dweight##TILE##_##T, SIDE)(const T *g, const T *x, float *out, uint32_t m, uint32_t n,            \
                                                uint32_t k, uint32_t part_rows) {                                      \
        backward_dweight<SIDE>(g, x, out, m, n, k, part_rows);                                                         \
    }

ENTRIES(f16, 128, )
ENTRIES(f16, 64, _tile64)
#if __CUDA_ARCH__ >= 800
ENTRIES(bf16, 128, )
ENTRIES(bf16, 64, _tile64)
#endif
