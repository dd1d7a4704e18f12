// Products of 16-bit matrices on the matrix units, tile by tile: what the linear layer's way there and back share.
//
// A block makes a tile of SIDE x SIDE of the output, a warp a quarter of it. An operand is read in stages of DEPTH
// values of the dimension that is summed over. It is `Along` that dimension when its rows are, else `Across`: then each
// row holds one value of the sum for all rows or columns of the tile, and ldmatrix turns it. Every sum has one order.
#pragma once

#include "common.cuh"

namespace matmul {

// Values of the sum that a stage of shared memory holds: of an operand along it 64 bytes of a row.
constexpr unsigned DEPTH = 32;
constexpr unsigned CHUNK = 8;
constexpr unsigned CHUNK_BYTES = 16;
// Columns of a warp that pass through its strip together.
constexpr unsigned STRIP_COLUMNS = 32;
#if __CUDA_ARCH__ >= 800
constexpr unsigned STAGES = 3;
#else
constexpr unsigned STAGES = 2;
#endif

// A tile of the output: two warps along its rows by two along its columns. A warp's quarter is ROW_TILES by COLUMN_TILES
// fragments of 16 x 8, square for the fewest bytes of shared memory that products read.
template <unsigned SIDE> struct Tile {
    static constexpr unsigned THREADS = 4 * WARP;
    static constexpr unsigned QUARTER = SIDE / 2;
    static constexpr unsigned ROW_TILES = QUARTER / 16, COLUMN_TILES = QUARTER / 8;
    static constexpr unsigned OPERAND_BYTES = SIDE * DEPTH * 2;
    // Chunks that a thread loads for a stage of one operand.
    static constexpr unsigned LOADS = OPERAND_BYTES / CHUNK_BYTES / THREADS;
};

// One thread's share in loading an operand, a stage at a time: a chunk of rows ROWS_AT_ONCE apart. Chunks that do not
// exist are zero in shared memory, where they add nothing.
template <unsigned SIDE, typename Operand> struct Loader {
    using T = Tile<SIDE>;
#if __CUDA_ARCH__ >= 800
    // A copy of no bytes fills with zeros; its source is not read, yet is `operand`, which is an address that exists.
    DEVICE void copy(unsigned stage) {
        Operand &self = static_cast<Operand &>(*this);
#pragma unroll
        for (unsigned i = 0; i < T::LOADS; ++i) {
            const bool real = self.exists(i);
            cp_async_16(stage + self.to + i * Operand::STEP, real ? self.source(i) : self.operand, real ? CHUNK_BYTES : 0);
        }
        self.advance();
    }
#else
    DEVICE void fetch(uint4 (&held)[T::LOADS]) {
        Operand &self = static_cast<Operand &>(*this);
#pragma unroll
        for (unsigned i = 0; i < T::LOADS; ++i) {
            held[i] = make_uint4(0, 0, 0, 0);
            if (self.exists(i)) {
                held[i] = *reinterpret_cast<const uint4 *>(self.source(i));
            }
        }
        self.advance();
    }
    DEVICE void put(char *stage, const uint4 (&held)[T::LOADS]) const {
        const Operand &self = static_cast<const Operand &>(*this);
#pragma unroll
        for (unsigned i = 0; i < T::LOADS; ++i) {
            *reinterpret_cast<uint4 *>(stage + self.to + i * Operand::STEP) = held[i];
        }
    }
#endif
};

// An operand whose rows run along the sum: rows `first` to `rows` of a matrix with `depth` columns, which is a multiple
// of 8. A stage holds SIDE rows of DEPTH values.
template <unsigned SIDE> struct Along : Loader<SIDE, Along<SIDE>> {
    static constexpr unsigned ROW_BYTES = DEPTH * 2, CHUNKS = DEPTH / CHUNK;
    static constexpr unsigned ROWS_AT_ONCE = Tile<SIDE>::THREADS / CHUNKS;
    // A multiple of 8 rows: the swizzle of a thread's chunks is the same.
    static constexpr unsigned STEP = ROWS_AT_ONCE * ROW_BYTES;
    const void *operand;
    const char *from;
    bool inside[Tile<SIDE>::LOADS];
    unsigned to, at, depth;

    // Byte offset of a chunk in a stage. The chunk moves with the row, such that eight rows at one chunk (a tile of
    // ldmatrix) and eight chunks of two rows (a quarter warp's store) both meet all 32 banks once.
    static DEVICE unsigned offset(unsigned row, unsigned chunk) {
        return row * ROW_BYTES + ((chunk ^ (row / 2 % 4)) * CHUNK_BYTES);
    }
    DEVICE Along(const void *operand, unsigned first, unsigned rows, unsigned depth) : operand(operand), depth(depth) {
        const unsigned row = threadIdx.x / CHUNKS, chunk = threadIdx.x % CHUNKS;
        at = chunk * CHUNK;
        to = offset(row, chunk);
        from = static_cast<const char *>(operand) + (size_t(first + row) * depth + at) * 2;
#pragma unroll
        for (unsigned i = 0; i < Tile<SIDE>::LOADS; ++i) {
            inside[i] = first + row + i * ROWS_AT_ONCE < rows;
        }
    }
    DEVICE bool exists(unsigned i) const { return inside[i] && at < depth; }
    DEVICE const char *source(unsigned i) const { return from + size_t(i * ROWS_AT_ONCE * 2) * depth; }
    DEVICE void advance() {
        at += DEPTH;
        from += DEPTH * 2;
    }

    // What this lane adds to a stage's address for ldmatrix: tiles of a left operand lie below one another first, then
    // along the sum; those of a right operand the other way round.
    static DEVICE unsigned left_lane(unsigned first) {
        const unsigned lane = threadIdx.x % WARP;
        return first * ROW_BYTES + offset(lane % 16, lane / 16);
    }
    static DEVICE unsigned right_lane(unsigned first) {
        const unsigned lane = threadIdx.x % WARP;
        return first * ROW_BYTES + offset(lane % 8 + lane / 16 * 8, lane / 8 % 2);
    }
    // The fragment of the `i`-th 16 rows, of the `half`-th 16 values of the sum. The chunk two further on lies 32 bytes
    // off, up or down, as the swizzle is an XOR.
    static DEVICE void fragment(uint32_t (&tile)[4], unsigned lane, unsigned i, unsigned half) {
        ldmatrix_x4(tile, (lane ^ (half * 2 * CHUNK_BYTES)) + i * 16 * ROW_BYTES);
    }
};

// An operand whose rows lie across the sum: columns `first` to `columns`, which is a multiple of 8, of the rows `begin`
// to `end` of a matrix. A stage holds DEPTH rows of SIDE values.
template <unsigned SIDE> struct Across : Loader<SIDE, Across<SIDE>> {
    static constexpr unsigned ROW_BYTES = SIDE * 2, CHUNKS = SIDE / CHUNK;
    static constexpr unsigned ROWS_AT_ONCE = Tile<SIDE>::THREADS / CHUNKS;
    static constexpr unsigned STEP = ROWS_AT_ONCE * ROW_BYTES;
    const void *operand;
    const char *from;
    bool inside;
    unsigned to, at, end, columns;

    // Eight rows at one chunk and eight chunks of one row both meet all 32 banks once.
    static DEVICE unsigned offset(unsigned row, unsigned chunk) {
        return row * ROW_BYTES + ((chunk ^ (row % 8)) * CHUNK_BYTES);
    }
    DEVICE Across(const void *operand, unsigned first, unsigned columns, unsigned begin, unsigned end)
        : operand(operand), end(end), columns(columns) {
        const unsigned row = threadIdx.x / CHUNKS, chunk = threadIdx.x % CHUNKS, column = first + chunk * CHUNK;
        at = begin + row;
        to = offset(row, chunk);
        from = static_cast<const char *>(operand) + (size_t(at) * columns + column) * 2;
        inside = column < columns;
    }
    DEVICE bool exists(unsigned i) const { return inside && at + i * ROWS_AT_ONCE < end; }
    DEVICE const char *source(unsigned i) const { return from + size_t(i * ROWS_AT_ONCE * 2) * columns; }
    DEVICE void advance() {
        at += DEPTH;
        from += size_t(DEPTH * 2) * columns;
    }

    // As for `Along`, with the tiles transposed in place.
    static DEVICE unsigned left_lane(unsigned first) {
        const unsigned lane = threadIdx.x % WARP;
        return offset(lane % 8 + lane / 16 * 8, first / CHUNK + lane / 8 % 2);
    }
    static DEVICE unsigned right_lane(unsigned first) {
        const unsigned lane = threadIdx.x % WARP;
        return offset(lane % 16, first / CHUNK + lane / 16);
    }
    static DEVICE void fragment(uint32_t (&tile)[4], unsigned lane, unsigned i, unsigned half) {
        ldmatrix_x4_trans(tile, (lane ^ (i * 2 * CHUNK_BYTES)) + half * 16 * ROW_BYTES);
    }
};

// The sums of a warp.
template <unsigned SIDE> struct Sums {
    float c[Tile<SIDE>::ROW_TILES][Tile<SIDE>::COLUMN_TILES][4];
};

// What a warp multiplies in a half step: 16 values of the sum, of its rows and of its columns.
template <unsigned SIDE> struct Fragments {
    uint32_t a[Tile<SIDE>::ROW_TILES][4], b[Tile<SIDE>::COLUMN_TILES / 2][4];

    // Of the `half`-th 16 values of a stage; `left` and `right` are this lane's addresses in it.
    template <typename Left, typename Right> DEVICE void load(unsigned left, unsigned right, unsigned half) {
#pragma unroll
        for (unsigned i = 0; i < Tile<SIDE>::ROW_TILES; ++i) {
            Left::fragment(a[i], left, i, half);
        }
#pragma unroll
        for (unsigned j = 0; j < Tile<SIDE>::COLUMN_TILES / 2; ++j) {
            Right::fragment(b[j], right, j, half);
        }
    }
};

template <typename V, unsigned SIDE> DEVICE void multiply(Sums<SIDE> &sums, const Fragments<SIDE> &of) {
#pragma unroll
    for (unsigned j = 0; j < Tile<SIDE>::COLUMN_TILES / 2; ++j) {
#pragma unroll
        for (unsigned i = 0; i < Tile<SIDE>::ROW_TILES; ++i) {
            multiply_add<V>(sums.c[i][2 * j], of.a[i], of.b[j][0], of.b[j][1]);
            multiply_add<V>(sums.c[i][2 * j + 1], of.a[i], of.b[j][2], of.b[j][3]);
        }
    }
}

// A warp's place in the tile.
template <unsigned SIDE> DEVICE unsigned warp_row() { return threadIdx.x / WARP % 2 * Tile<SIDE>::QUARTER; }
template <unsigned SIDE> DEVICE unsigned warp_column() { return threadIdx.x / WARP / 2 * Tile<SIDE>::QUARTER; }

template <unsigned SIDE> constexpr unsigned SHARED_BYTES = STAGES * 2 * Tile<SIDE>::OPERAND_BYTES;

// The sums of `steps` stages of both operands, through `shared`, which has SHARED_BYTES and is aligned to 128 bytes.
// When this returns all warps are done with it.
template <typename V, unsigned SIDE, typename Left, typename Right>
DEVICE void accumulate(Sums<SIDE> &sums, char *shared, Left &load_left, Right &load_right, unsigned steps) {
    using T = Tile<SIDE>;
    constexpr unsigned STAGE_BYTES = 2 * T::OPERAND_BYTES;
    const unsigned base = shared_address(shared);
    const unsigned left = base + Left::left_lane(warp_row<SIDE>());
    const unsigned right = base + T::OPERAND_BYTES + Right::right_lane(warp_column<SIDE>());
#if __CUDA_ARCH__ >= 800
#pragma unroll
    for (unsigned i = 0; i < STAGES - 1; ++i) {
        if (i < steps) {
            load_left.copy(base + i * STAGE_BYTES);
            load_right.copy(base + i * STAGE_BYTES + T::OPERAND_BYTES);
        }
        cp_async_commit_group();
    }
    cp_async_wait_group<STAGES - 2>();
    __syncthreads();
    // The fragments of a half step are read while those of the one before are multiplied.
    Fragments<SIDE> first, second;
    first.template load<Left, Right>(left, right, 0);
    unsigned stage = 0, free = (STAGES - 1) * STAGE_BYTES;
#pragma unroll 1
    for (unsigned step = 0; step < steps; ++step) {
        if (step + STAGES - 1 < steps) {
            load_left.copy(base + free);
            load_right.copy(base + free + T::OPERAND_BYTES);
        }
        // A group a step, empty or not, keeps the count that the wait relies on.
        cp_async_commit_group();
        second.template load<Left, Right>(left + stage, right + stage, 1);
        multiply<V>(sums, first);
        // The next step's group is done for this thread; behind the barrier for all, and nobody reads this stage any more:
        // after the last step the strips of `store` may be written.
        cp_async_wait_group<STAGES - 2>();
        __syncthreads();
        free = stage;
        stage = stage == (STAGES - 1) * STAGE_BYTES ? 0 : stage + STAGE_BYTES;
        if (step + 1 < steps) {
            first.template load<Left, Right>(left + stage, right + stage, 0);
        }
        multiply<V>(sums, second);
    }
#else
    uint4 held[T::LOADS];
    load_left.fetch(held);
    load_left.put(shared, held);
    load_right.fetch(held);
    load_right.put(shared + T::OPERAND_BYTES, held);
    __syncthreads();
    Fragments<SIDE> first, second;
    unsigned stage = 0;
#pragma unroll 1
    for (unsigned step = 0; step < steps; ++step) {
        // The next stage comes from memory while this one is multiplied: an operand during either half of the step, so
        // that only one is held in registers. Both halves' fragments are read before the first is multiplied.
        const bool more = step + 1 < steps;
        const unsigned next = stage ^ STAGE_BYTES;
        if (more) {
            load_left.fetch(held);
        }
        first.template load<Left, Right>(left + stage, right + stage, 0);
        second.template load<Left, Right>(left + stage, right + stage, 1);
        multiply<V>(sums, first);
        if (more) {
            load_left.put(shared + next, held);
            load_right.fetch(held);
        }
        multiply<V>(sums, second);
        if (more) {
            load_right.put(shared + next + T::OPERAND_BYTES, held);
        }
        stage = next;
        // That stage is written for all, and this one is free; after the last step the strips may be written.
        __syncthreads();
    }
#endif
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

// Stores a warp's sums into y (m, n), whose first row and column these are, as values of V. Fragments hold two
// neighbours a lane, a store of whole sectors wants eight: strips of 16 rows by 32 columns pass through 2 KiB of shared
// memory that are the warp's own. Of every 32 columns an epilogue is told the eight of its lane by `start`, then with
// `apply` changes eight neighbours before they are stored; `at` is their place in y, `count` of them exist. At every 32
// rows of the warp, `pause` follows, and in the end `finish` with the warp's first row and the lane's first column.
template <typename V, unsigned SIDE, typename Epilogue>
DEVICE void store(const Sums<SIDE> &sums, char *shared, unsigned first_row, unsigned first_column, V *y, unsigned m,
                  unsigned n, Epilogue epilogue) {
    using T = Tile<SIDE>;
    constexpr unsigned STRIP = 16 * STRIP_COLUMNS;
    static_assert(T::THREADS / WARP * STRIP * 4 <= SHARED_BYTES<SIDE>, "strips reuse the stages");
    float *strip = reinterpret_cast<float *>(shared) + threadIdx.x / WARP * STRIP;
    first_row += warp_row<SIDE>();
    first_column += warp_column<SIDE>();
    const unsigned lane = threadIdx.x % WARP, row = lane / 4, quad = lane % 4;
    // 16-byte chunks move with the row, as in the stages: the fragments' stores and the rows' loads meet no conflict.
    const unsigned turn = row % 4 * 2 + row % 2;
    const uint32_t strip_address = shared_address(strip);
    const bool whole = n % 8 == 0;
#pragma unroll
    for (unsigned part = 0; part < T::QUARTER / STRIP_COLUMNS; ++part) {
        const unsigned column = first_column + part * STRIP_COLUMNS + quad * 8;
        const unsigned count = column < n ? min(n - column, 8u) : 0;
        epilogue.start(first_column + part * STRIP_COLUMNS, n);
#pragma unroll
        for (unsigned i = 0; i < T::ROW_TILES; ++i) {
#pragma unroll
            for (unsigned j = 0; j < STRIP_COLUMNS / 8; ++j) {
#pragma unroll
                for (unsigned half = 0; half < 2; ++half) {
                    const unsigned chunk = (2 * j + quad / 2) ^ turn;
                    const float(&c)[4] = sums.c[i][part * STRIP_COLUMNS / 8 + j];
                    st_shared_v2(strip_address + ((row + 8 * half) * STRIP_COLUMNS + chunk * 4 + quad % 2 * 2) * 4,
                                 c[2 * half], c[2 * half + 1]);
                }
            }
            __syncwarp();
#pragma unroll
            for (unsigned half = 0; half < 2; ++half) {
                const unsigned in_strip = row + 8 * half, global_row = first_row + i * 16 + in_strip;
                if (global_row < m && count > 0) {
                    const float *values = strip + in_strip * STRIP_COLUMNS;
                    const float4 low = *reinterpret_cast<const float4 *>(values + ((2 * quad) ^ turn) * 4);
                    const float4 high = *reinterpret_cast<const float4 *>(values + ((2 * quad + 1) ^ turn) * 4);
                    float v[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
                    const size_t at = size_t(global_row) * n + column;
                    epilogue.apply(v, at, count, whole);
                    store8(y + at, v, count, whole);
                }
            }
            __syncwarp();
            if (i % 2 == 1) {
                epilogue.pause();
            }
        }
        epilogue.finish(shared, first_row, column, count, m, n);
    }
}

// An epilogue that keeps nothing from row to row.
struct Rowwise {
    DEVICE void pause() {}
    DEVICE void finish(char *, unsigned, unsigned, unsigned, unsigned, unsigned) const {}
};

// The tile of a block among those of its product. Blocks that run together share operands in the L2 cache: they walk
// eight tiles down before one across.
DEVICE uint2 tile_of_block(unsigned block, unsigned tiles_m, unsigned tiles_n) {
    constexpr unsigned BAND = 8;
    const unsigned band = block / (BAND * tiles_n), within = block % (BAND * tiles_n);
    const unsigned height = min(tiles_m - band * BAND, BAND);
    return make_uint2(band * BAND + within % height, within / height);
}

} // namespace matmul
