// The linear layer with fused epilogues: y = x W^T + bias, and what follows it.
//
// computes   bias: y = x W^T + bias. bias_gelu: pre = x W^T + bias, y = gelu(pre), the exact GELU of erf.
//            bias_residual: y = x W^T + bias + residual
// pointers   x (M, K), weight (N, K), y, pre, residual (M, N) of T by rows, 16-byte aligned; bias (N) of f32, 16-byte
//            aligned. Any M and N; K a multiple of 8. An N that is no multiple of 8 is stored a value at a time.
// arithmetic products of 16-bit values, summed in f32 by the tensor cores; epilogue in f32; y and pre rounded once
// owners     a block owns a tile of y, a warp 32 columns of it. Each sum runs over K in one order: same input, same bits.
// outputs    y and pre are set
// launch     a grid of ceil(M / tile) ceil(N / tile) blocks in x; blocks of 256 threads for tiles of 128 x 128, of 128
//            threads for tiles of 64 x 64 (entries with `tile64`, for products too small to fill a card otherwise).
//            No dynamic shared memory.
// resources  tile 128: sm_75 32 KiB in 2 stages, sm_80 48 KiB in 3 stages, at most 128 registers, so that two blocks
//            fit a multiprocessor; tile 64: half of that, and at most 128 registers;
//            registers in RESOURCES.md
// cost       2 M N K FLOPs; sizeof(T) (M K + N K + M N) bytes when every operand comes from memory once
#include "common.cuh"

namespace matmul {

// Values of K that a stage of shared memory holds: 64 bytes of a row, four chunks of 16 bytes.
constexpr unsigned DEPTH = 32;
constexpr unsigned CHUNK = 8;
constexpr unsigned CHUNKS = DEPTH / CHUNK;
constexpr unsigned WARP_COLUMNS = 32;
#if __CUDA_ARCH__ >= 800
constexpr unsigned STAGES = 3;
#else
constexpr unsigned STAGES = 2;
#endif

// A tile of y of SIDE x SIDE: SIDE / 32 warps along N, two along M with ROW_TILES fragments of 16 rows each.
template <unsigned SIDE> struct Tile {
    static constexpr unsigned WARPS_N = SIDE / WARP_COLUMNS;
    static constexpr unsigned THREADS = 2 * WARPS_N * WARP;
    static constexpr unsigned ROW_TILES = SIDE / 32;
    // Rows that the block loads at once, a chunk a thread; and how often it does so for a stage of one operand.
    static constexpr unsigned LOAD_ROWS = THREADS / CHUNKS;
    static constexpr unsigned LOADS = SIDE / LOAD_ROWS;
    static constexpr unsigned OPERAND_BYTES = SIDE * DEPTH * 2;
};

// Byte offset of a chunk in an operand's stage. The chunk moves with the row, such that eight rows at one chunk (a tile
// of ldmatrix) and eight chunks of two rows (a quarter warp's store) both meet all 32 banks once.
DEVICE unsigned chunk_offset(unsigned row, unsigned chunk) { return row * DEPTH * 2 + ((chunk ^ (row / 2 % 4)) * 16); }

// One thread's share in loading an operand's rows from `first` on, a stage at a time. Rows past the end and chunks past
// K are zero in shared memory, where they add nothing.
template <unsigned SIDE> struct Loader {
    using T = Tile<SIDE>;
    const char *from;
    bool inside[T::LOADS];
    unsigned to, k;

    DEVICE Loader(const void *operand, unsigned first, unsigned rows, unsigned depth) {
        const unsigned row = threadIdx.x / CHUNKS, chunk = threadIdx.x % CHUNKS;
        k = chunk * CHUNK;
        to = chunk_offset(row, chunk);
        from = static_cast<const char *>(operand) + (size_t(first + row) * depth + k) * 2;
#pragma unroll
        for (unsigned i = 0; i < T::LOADS; ++i) {
            inside[i] = first + row + i * T::LOAD_ROWS < rows;
        }
    }
    // LOAD_ROWS is a multiple of 8: the swizzle of a thread's chunks is the same.
    static DEVICE unsigned step(unsigned i) { return i * T::LOAD_ROWS * DEPTH * 2; }
    DEVICE const char *source(unsigned i, unsigned depth) const { return from + size_t(i * T::LOAD_ROWS * 2) * depth; }
    DEVICE void advance() {
        k += DEPTH;
        from += DEPTH * 2;
    }
#if __CUDA_ARCH__ >= 800
    // A copy of no bytes fills with zeros; its source is not read, yet is `operand`, which is an address that exists.
    DEVICE void copy(unsigned stage, const void *operand, unsigned depth) {
#pragma unroll
        for (unsigned i = 0; i < T::LOADS; ++i) {
            const bool real = inside[i] && k < depth;
            cp_async_16(stage + to + step(i), real ? source(i, depth) : operand, real ? 16 : 0);
        }
        advance();
    }
#else
    DEVICE void fetch(uint4 (&held)[T::LOADS], unsigned depth) {
#pragma unroll
        for (unsigned i = 0; i < T::LOADS; ++i) {
            held[i] = make_uint4(0, 0, 0, 0);
            if (inside[i] && k < depth) {
                held[i] = *reinterpret_cast<const uint4 *>(source(i, depth));
            }
        }
        advance();
    }
    DEVICE void put(char *stage, const uint4 (&held)[T::LOADS]) const {
#pragma unroll
        for (unsigned i = 0; i < T::LOADS; ++i) {
            *reinterpret_cast<uint4 *>(stage + to + step(i)) = held[i];
        }
    }
#endif
};

// The sums of a warp: ROW_TILES x 4 fragments of 16 x 8.
template <unsigned SIDE> struct Sums {
    float c[Tile<SIDE>::ROW_TILES][4][4];
};

// Adds the product of the `half`-th 16 values of K of a stage. `x` and `weight` are the shared addresses that this lane
// gives ldmatrix for the first 16 rows and values of its warp; the chunk two further on lies 32 bytes off, up or down,
// as the swizzle is an XOR.
template <typename V, unsigned SIDE> DEVICE void multiply(Sums<SIDE> &sums, unsigned x, unsigned weight, unsigned half) {
    constexpr unsigned ROW_TILES = Tile<SIDE>::ROW_TILES, NEXT_TILE = 16 * DEPTH * 2;
    uint32_t a[ROW_TILES][4];
#pragma unroll
    for (unsigned i = 0; i < ROW_TILES; ++i) {
        ldmatrix_x4(a[i], (x ^ (half * 32)) + i * NEXT_TILE);
    }
#pragma unroll
    for (unsigned j = 0; j < 2; ++j) {
        uint32_t b[4];
        ldmatrix_x4(b, (weight ^ (half * 32)) + j * NEXT_TILE);
#pragma unroll
        for (unsigned i = 0; i < ROW_TILES; ++i) {
            multiply_add<V>(sums.c[i][2 * j], a[i], b[0], b[1]);
            multiply_add<V>(sums.c[i][2 * j + 1], a[i], b[2], b[3]);
        }
    }
}

// Eight neighbours of a row, of which `count` exist; `whole` where all rows begin at a multiple of 16 bytes.
template <typename V> DEVICE void load8(float (&v)[8], const V *from, unsigned count, bool whole) {
    if (whole) {
        const uint4 words = *reinterpret_cast<const uint4 *>(from);
        const uint32_t word[4] = {words.x, words.y, words.z, words.w};
#pragma unroll
        for (unsigned i = 0; i < 4; ++i) {
            const float2 pair = widen2<V>(word[i]);
            v[2 * i] = pair.x;
            v[2 * i + 1] = pair.y;
        }
    } else {
#pragma unroll
        for (unsigned i = 0; i < 8; ++i) {
            v[i] = i < count ? widen(from[i]) : 0.0f;
        }
    }
}

template <typename V> DEVICE void store8(V *to, const float (&v)[8], unsigned count, bool whole) {
    if (whole) {
        st_global_v4(to, make_uint4(narrow2<V>(v[0], v[1]), narrow2<V>(v[2], v[3]), narrow2<V>(v[4], v[5]),
                                    narrow2<V>(v[6], v[7])));
    } else {
#pragma unroll
        for (unsigned i = 0; i < 8; ++i) {
            if (i < count) {
                to[i] = narrow<V>(v[i]);
            }
        }
    }
}

// The epilogues: what happens to eight neighbours between the bias and the store into y; `at` is their place in (M, N).
struct Bias {
    DEVICE void apply(float (&)[8], size_t, unsigned, bool) const {}
};

template <typename V> struct BiasGelu {
    V *pre;
    DEVICE void apply(float (&v)[8], size_t at, unsigned count, bool whole) const {
        store8(pre + at, v, count, whole);
#pragma unroll
        for (unsigned i = 0; i < 8; ++i) {
            constexpr float SQRT_HALF = 0.70710678118654752f;
            v[i] = 0.5f * v[i] * (1.0f + erff(v[i] * SQRT_HALF));
        }
    }
};

template <typename V> struct BiasResidual {
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

// Stores a warp's sums, whose first row and column of y these are. Fragments hold two neighbours a lane, a store of
// whole sectors wants eight: strips of 16 rows pass through 2 KiB of shared memory that are the warp's own.
template <typename V, unsigned SIDE, typename Epilogue>
DEVICE void store(const Sums<SIDE> &sums, float *strip, unsigned first_row, unsigned first_column, const float *bias, V *y,
                  unsigned m, unsigned n, const Epilogue &epilogue) {
    const unsigned lane = threadIdx.x % WARP, row = lane / 4, quad = lane % 4;
    // 16-byte chunks move with the row, as in the stages: the fragments' stores and the rows' loads meet no conflict.
    const unsigned turn = row % 4 * 2 + row % 2;
    const uint32_t strip_address = shared_address(strip);
    const unsigned column = first_column + quad * 8;
    const unsigned count = column < n ? min(n - column, 8u) : 0;
    const bool whole = n % 8 == 0;
    // One load of whole sectors for the warp's columns; each lane takes its eight from the others.
    const float warp_bias = first_column + lane < n ? bias[first_column + lane] : 0.0f;
    float b[8];
#pragma unroll
    for (unsigned i = 0; i < 8; ++i) {
        b[i] = __shfl_sync(ALL_LANES, warp_bias, quad * 8 + i);
    }
#pragma unroll
    for (unsigned i = 0; i < Tile<SIDE>::ROW_TILES; ++i) {
#pragma unroll
        for (unsigned j = 0; j < 4; ++j) {
#pragma unroll
            for (unsigned half = 0; half < 2; ++half) {
                const unsigned chunk = (2 * j + quad / 2) ^ turn;
                st_shared_v2(strip_address + ((row + 8 * half) * WARP_COLUMNS + chunk * 4 + quad % 2 * 2) * 4,
                             sums.c[i][j][2 * half], sums.c[i][j][2 * half + 1]);
            }
        }
        __syncwarp();
#pragma unroll
        for (unsigned half = 0; half < 2; ++half) {
            const unsigned in_strip = row + 8 * half, global_row = first_row + i * 16 + in_strip;
            if (global_row < m && count > 0) {
                const float *values = strip + in_strip * WARP_COLUMNS;
                const float4 low = *reinterpret_cast<const float4 *>(values + ((2 * quad) ^ turn) * 4);
                const float4 high = *reinterpret_cast<const float4 *>(values + ((2 * quad + 1) ^ turn) * 4);
                float v[8] = {low.x + b[0],  low.y + b[1],  low.z + b[2],  low.w + b[3],
                              high.x + b[4], high.y + b[5], high.z + b[6], high.w + b[7]};
                const size_t at = size_t(global_row) * n + column;
                epilogue.apply(v, at, count, whole);
                store8(y + at, v, count, whole);
            }
        }
        __syncwarp();
    }
}

// Blocks that run together share operands in the L2 cache: they walk eight tiles down before one across.
DEVICE uint2 tile_of_block(unsigned tiles_m, unsigned tiles_n) {
    constexpr unsigned BAND = 8;
    const unsigned band = blockIdx.x / (BAND * tiles_n), within = blockIdx.x % (BAND * tiles_n);
    const unsigned height = min(tiles_m - band * BAND, BAND);
    return make_uint2(band * BAND + within % height, within / height);
}

template <unsigned SIDE, typename V, typename Epilogue>
DEVICE void product(const V *x, const V *weight, const float *bias, V *y, unsigned m, unsigned n, unsigned k,
                    const Epilogue &epilogue) {
    using T = Tile<SIDE>;
    constexpr unsigned STAGE_BYTES = 2 * T::OPERAND_BYTES;
    static_assert(T::THREADS / WARP * 16 * WARP_COLUMNS * 4 <= STAGES * STAGE_BYTES, "the strips reuse the stages");
    __shared__ __align__(128) char shared[STAGES * STAGE_BYTES];

    const uint2 tile = tile_of_block((m + SIDE - 1) / SIDE, (n + SIDE - 1) / SIDE);
    const unsigned warp = threadIdx.x / WARP, warp_row = warp % 2 * 16 * T::ROW_TILES;
    const unsigned warp_column = warp / 2 * WARP_COLUMNS;
    const unsigned base = shared_address(shared);
    // The lanes of ldmatrix: tiles of x lie below one another first, then along K; tiles of weight the other way round.
    const unsigned lane = threadIdx.x % WARP;
    const unsigned x_lane = base + warp_row * DEPTH * 2 + chunk_offset(lane % 16, lane / 16);
    const unsigned weight_lane = base + T::OPERAND_BYTES + warp_column * DEPTH * 2 +
                                 chunk_offset(lane % 8 + lane / 16 * 8, lane / 8 % 2);
    const unsigned steps = (k + DEPTH - 1) / DEPTH;
    Loader<SIDE> load_x(x, tile.x * SIDE, m, k), load_weight(weight, tile.y * SIDE, n, k);
    Sums<SIDE> sums = {};

#if __CUDA_ARCH__ >= 800
#pragma unroll
    for (unsigned i = 0; i < STAGES - 1; ++i) {
        if (i < steps) {
            load_x.copy(base + i * STAGE_BYTES, x, k);
            load_weight.copy(base + i * STAGE_BYTES + T::OPERAND_BYTES, weight, k);
        }
        cp_async_commit_group();
    }
    unsigned stage = 0, next = (STAGES - 1) * STAGE_BYTES;
#pragma unroll 1
    for (unsigned step = 0; step < steps; ++step) {
        // This step's group is done for this thread; behind the barrier for all, and nobody reads stage `next` any more.
        cp_async_wait_group<STAGES - 2>();
        __syncthreads();
        if (step + STAGES - 1 < steps) {
            load_x.copy(base + next, x, k);
            load_weight.copy(base + next + T::OPERAND_BYTES, weight, k);
        }
        // A group a step, empty or not, keeps the count that the wait relies on.
        cp_async_commit_group();
        multiply<V>(sums, x_lane + stage, weight_lane + stage, 0);
        multiply<V>(sums, x_lane + stage, weight_lane + stage, 1);
        stage = stage == (STAGES - 1) * STAGE_BYTES ? 0 : stage + STAGE_BYTES;
        next = next == (STAGES - 1) * STAGE_BYTES ? 0 : next + STAGE_BYTES;
    }
    // The strips of `store` lie where other warps may still read the last stage.
    __syncthreads();
#else
    uint4 held[T::LOADS];
    load_x.fetch(held, k);
    load_x.put(shared, held);
    load_weight.fetch(held, k);
    load_weight.put(shared + T::OPERAND_BYTES, held);
    __syncthreads();
    unsigned stage = 0;
#pragma unroll 1
    for (unsigned step = 0; step < steps; ++step) {
        // The next stage comes from memory while this one is multiplied: an operand during either half of the step, so
        // that only one is held in registers.
        const bool more = step + 1 < steps;
        const unsigned next = stage ^ STAGE_BYTES;
        if (more) {
            load_x.fetch(held, k);
        }
        multiply<V>(sums, x_lane + stage, weight_lane + stage, 0);
        if (more) {
            load_x.put(shared + next, held);
            load_weight.fetch(held, k);
        }
        multiply<V>(sums, x_lane + stage, weight_lane + stage, 1);
        if (more) {
            load_weight.put(shared + next + T::OPERAND_BYTES, held);
        }
        stage = next;
        // That stage is written for all, and this one is free; after the last step the strips may be written.
        __syncthreads();
    }
#endif

    store(sums, reinterpret_cast<float *>(shared) + warp * 16 * WARP_COLUMNS, tile.x * SIDE + warp_row,
          tile.y * SIDE + warp_column, bias, y, m, n, epilogue);
}

} // namespace matmul

using namespace matmul;

#define ENTRY(NAME, SIDE) extern "C" __global__ void __launch_bounds__(Tile<SIDE>::THREADS, SIDE == 128 ? 2 : 4) NAME

#define ENTRIES(T, SIDE, TILE)                                                                                         \
    ENTRY(matmul_fwd_bias##TILE##_##T, SIDE)(const T *x, const T *weight, const float *bias, T *y, uint32_t m,         \
                                             uint32_t n, uint32_t k) {                                                 \
        product<SIDE>(x, weight, bias, y, m, n, k, Bias{});                                                            \
    }                                                                                                                  \
    ENTRY(matmul_fwd_bias_gelu##TILE##_##T, SIDE)(const T *x, const T *weight, const float *bias, T *pre, T *y,        \
                                                  uint32_t m, uint32_t n, uint32_t k) {                                \
        product<SIDE>(x, weight, bias, y, m, n, k, BiasGelu<T>{pre});                                                  \
    }                                                                                                                  \
    ENTRY(matmul_fwd_bias_residual##TILE##_##T, SIDE)(const T *x, const T *weight, const float *bias,                  \
                                                      const T *residual, T *y, uint32_t m, uint32_t n, uint32_t k) {   \
        product<SIDE>(x, weight, bias, y, m, n, k, BiasResidual<T>{residual});                                         \
    }

ENTRIES(f16, 128, )
ENTRIES(f16, 64, _tile64)
#if __CUDA_ARCH__ >= 800
ENTRIES(bf16, 128, )
ENTRIES(bf16, 64, _tile64)
#endif
