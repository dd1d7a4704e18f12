// What the attention kernels of the tensor cores share: heads of width 64 in shared memory and in fragments.
#pragma once

#include "common.cuh"

namespace attention {

constexpr unsigned WIDTH = 64;
constexpr unsigned ROW_BYTES = 2 * WIDTH;
// Rows of a warp: those of one fragment.
constexpr unsigned STRIP = 16;
// Rows in shared memory are taken 16 at a time: the depth of one product with them.
constexpr unsigned KEYS = 16;
// The powers are of two: 1 / sqrt(64) and log2(e) are one factor.
constexpr float LOG2_E = 1.4426950408889634f;
constexpr float LN_2 = 0.69314718055994531f;
constexpr float SCALE = LOG2_E / 8.0f;

// The rows of one head of one image: 64 values each, `stride` values from one to the next.
template <typename T> struct Rows {
    T *start;
    unsigned stride, count;
    DEVICE T *at(unsigned row) const { return start + size_t(row) * stride; }
};

// Head `image_and_head` of an array (B, S, parts, H, 64).
template <typename T>
DEVICE Rows<T> rows_of_head(T *array, unsigned image_and_head, unsigned s, unsigned heads, unsigned parts,
                            unsigned part) {
    const unsigned image = image_and_head / heads, head = image_and_head % heads, stride = parts * heads * WIDTH;
    return Rows<T>{array + size_t(image) * s * stride + (part * heads + head) * WIDTH, stride, s};
}

// Byte offset of a 16-byte chunk in a tile of rows of 128 bytes. Chunks move with the row: eight rows at one chunk, as
// ldmatrix reads them, and one row's eight chunks, as they are stored, both meet all 32 banks once.
DEVICE unsigned chunk_offset(unsigned row, unsigned chunk) { return row * ROW_BYTES + ((chunk ^ (row % 8)) * 16); }

// Brings rows first..first + count into shared memory; rows past the end are zero. Not waited for on sm_80.
template <typename T> DEVICE void bring(char *to, const Rows<const T> &rows, unsigned first, unsigned count) {
    for (unsigned i = threadIdx.x; i < count * 8; i += blockDim.x) {
        const unsigned row = i / 8, chunk = i % 8;
        const bool real = first + row < rows.count;
        const T *source = rows.at(real ? first + row : 0) + (real ? chunk * 8 : 0);
        char *target = to + chunk_offset(row, chunk);
#if __CUDA_ARCH__ >= 800
        cp_async_16(shared_address(target), source, real ? 16 : 0);
#else
        *reinterpret_cast<uint4 *>(target) =
            real ? *reinterpret_cast<const uint4 *>(source) : make_uint4(0, 0, 0, 0);
#endif
    }
}

// What was brought is there, for every thread of the block.
DEVICE void wait_for_rows() {
#if __CUDA_ARCH__ >= 800
    cp_async_commit_group();
    cp_async_wait_group<0>();
#endif
    __syncthreads();
}

#if __CUDA_ARCH__ >= 800
constexpr unsigned STAGES = 2;
#else
constexpr unsigned STAGES = 1;
#endif

// Calls `use(stage, block)` for each block of rows in order, after `bring_block(stage, block)` put it into shared memory,
// from sm_80 on while the block before is used. The stages lie one after the other.
template <unsigned STAGE_BYTES, typename Bring, typename Use>
DEVICE void stream(char *shared, unsigned blocks, const Bring &bring_block, const Use &use) {
#if __CUDA_ARCH__ >= 800
    bring_block(shared, 0);
    cp_async_commit_group();
#endif
#pragma unroll 1
    for (unsigned block = 0; block < blocks; ++block) {
#if __CUDA_ARCH__ >= 800
        char *stage = shared + block % 2 * STAGE_BYTES;
        cp_async_wait_group<0>();
        // The block is there for all, and nobody reads the other stage any more.
        __syncthreads();
        if (block + 1 < blocks) {
            bring_block(shared + (block + 1) % 2 * STAGE_BYTES, block + 1);
            cp_async_commit_group();
        }
#else
        char *stage = shared;
        __syncthreads();
        bring_block(stage, block);
        __syncthreads();
#endif
        use(stage, block);
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

// The fragments of a strip of rows. A lane reads 16 bytes, so that a quad reads whole sectors; the words that a fragment
// wants of it lie with the other lanes of the quad. Rows past the end are zero.
template <typename T> DEVICE void load_strip(uint32_t (&a)[4][4], const Rows<const T> &rows, unsigned first) {
    const unsigned lane = threadIdx.x % WARP;
#pragma unroll
    for (unsigned half = 0; half < 2; ++half) {
        const unsigned row = first + lane / 4 + 8 * half;
#pragma unroll
        for (unsigned side = 0; side < 2; ++side) {
            uint4 chunk = make_uint4(0, 0, 0, 0);
            if (row < rows.count) {
                chunk = *reinterpret_cast<const uint4 *>(rows.at(row) + side * 32 + lane % 4 * 8);
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

// Stores a strip of sums, those of rows lane / 4 and + 8 times their `scale`: the way of load_strip, back.
template <typename T>
DEVICE void store_strip(const float (&sums)[8][4], const float (&scale)[2], const Rows<T> &rows, unsigned first) {
    const unsigned lane = threadIdx.x % WARP;
#pragma unroll
    for (unsigned half = 0; half < 2; ++half) {
        const unsigned row = first + lane / 4 + 8 * half;
#pragma unroll
        for (unsigned side = 0; side < 2; ++side) {
            uint32_t w[4];
#pragma unroll
            for (unsigned j = 0; j < 4; ++j) {
                const float *pair = &sums[4 * side + j][2 * half];
                w[j] = narrow2<T>(pair[0] * scale[half], pair[1] * scale[half]);
            }
            transpose_quad(w);
            if (row < rows.count) {
                st_global_v4(rows.at(row) + side * 32 + lane % 4 * 8, make_uint4(w[0], w[1], w[2], w[3]));
            }
        }
    }
}

// Products of a strip's rows with 16 rows in shared memory, from the address of the first of them.
template <typename T>
DEVICE void products_with_group(float (&products)[2][4], const uint32_t (&strip)[4][4], uint32_t group) {
    const unsigned lane = threadIdx.x % WARP;
#pragma unroll
    for (unsigned i = 0; i < 4; ++i) {
        products[0][i] = products[1][i] = 0.0f;
    }
    // Two chunks further on lie 32 bytes off, up or down, as the swizzle is an XOR and rows begin at multiples of 128 bytes.
    const uint32_t start = group + chunk_offset(lane % 8 + lane / 16 * 8, lane / 8 % 2);
#pragma unroll
    for (unsigned k = 0; k < 4; ++k) {
        uint32_t b[4];
        ldmatrix_x4(b, start ^ (k * 32));
        multiply_add<T>(products[0], strip[k], b[0], b[1]);
        multiply_add<T>(products[1], strip[k], b[2], b[3]);
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

// Adds 16 columns of weights, rounded to T, times 16 rows in shared memory, from the address of the first of them.
template <typename T>
DEVICE void weigh_group(float (&sums)[8][4], const float (&p)[2][4], uint32_t group) {
    const unsigned lane = threadIdx.x % WARP;
    const uint32_t a[4] = {narrow2<T>(p[0][0], p[0][1]), narrow2<T>(p[0][2], p[0][3]), narrow2<T>(p[1][0], p[1][1]),
                           narrow2<T>(p[1][2], p[1][3])};
    // As above.
    const uint32_t start = group + chunk_offset(lane % 16, lane / 16);
#pragma unroll
    for (unsigned j = 0; j < 4; ++j) {
        uint32_t b[4];
        ldmatrix_x4_trans(b, start ^ (j * 32));
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

} // namespace attention
