// The linear layer without matrix units: f32, and the sizes that ptx/matmul.cu and ptx/matmul_bwd.cu refuse; and the
// sums of the way back that need no products.
//
// computes   fwd_bias, fwd_bias_gelu, fwd_bias_residual: as ptx/matmul.cu. bwd_dx, bwd_dx_gelu, bwd_dweight: as
//            ptx/matmul_bwd.cu. bwd_dbias: partial[part] = sum of g's rows in that part; part p has the rows
//            p * part_rows up to the next. dweight_reduce, dbias_reduce: out = (or +=) the sum over partial's rows
// pointers   x, pre of dx_gelu, dx (M, K), weight (N, K), g, y, residual, pre (M, N) of T; bias (N), out of dweight
//            (parts, N, K), partial (parts, N) or (parts, len), out of reduce (len) of f32; by rows, 16-byte aligned.
//            Any M, N and K; no part without rows. dx may be pre, and the forward pre may be null.
// arithmetic f32; what is stored as T is rounded once
// owners     products: a block a tile of 64 x 64, a thread 4 x 4 of it; dbias: a block 128 columns of a part, its warps
//            every eighth row; reduce: dweight a thread four elements, dbias a lane an element, its block's warps every
//            eighth part. Every sum has one order, the same on every card: same input and parts, same bits.
// outputs    set, but for the two entries named `add`, and for a pre that is null
// launch     blocks of 256 threads in x: products ceil(rows / 64) ceil(columns / 64) of the output (times parts for
//            dweight), dbias parts ceil(N / 128), dweight_reduce ceil(len / 1024), dbias_reduce ceil(len / 32). No
//            dynamic shared memory.
// resources  static shared memory: products 8.5 KiB, dbias 4 KiB, dbias_reduce 1 KiB; registers in RESOURCES.md
// cost       products 2 M N K FLOPs, each operand read once for 64 rows or columns of the output; the others bound by
//            memory: dbias sizeof(T) M N bytes, reduce 4 (parts + 1) len
#include "gelu.cuh"

namespace scalar {

constexpr unsigned SIDE = 64, DEPTH = 16, THREADS = 256, ACROSS = 16, EACH = SIDE / ACROSS;
// Words that a row of shared memory has beyond SIDE: rows stay aligned to 16 bytes and begin in other banks.
constexpr unsigned SPARE = 4;
constexpr unsigned WARPS = THREADS / WARP;

using Stage = float[DEPTH][SIDE + SPARE];

// An operand whose rows run along the sum: `rows` of them, `stride` apart.
template <typename T> struct Along {
    const T *from;
    unsigned rows, stride;
    // The values `at` to `end` of the sum, of SIDE rows from `first` on; zeros where there are none.
    DEVICE void load(Stage &stage, unsigned first, unsigned at, unsigned end) const {
        const unsigned d = threadIdx.x % DEPTH;
#pragma unroll
        for (unsigned r = threadIdx.x / DEPTH; r < SIDE; r += THREADS / DEPTH) {
            const bool real = first + r < rows && at + d < end;
            stage[d][r] = real ? widen(from[size_t(first + r) * stride + at + d]) : 0.0f;
        }
    }
};

// An operand whose rows lie across the sum: each has `columns` values.
template <typename T> struct Across {
    const T *from;
    unsigned columns;
    DEVICE void load(Stage &stage, unsigned first, unsigned at, unsigned end) const {
        const unsigned r = threadIdx.x % SIDE;
#pragma unroll
        for (unsigned d = threadIdx.x / SIDE; d < DEPTH; d += THREADS / SIDE) {
            const bool real = first + r < columns && at + d < end;
            stage[d][r] = real ? widen(from[size_t(at + d) * columns + first + r]) : 0.0f;
        }
    }
};

// The tile of `block` in the output (m, n): sums over `begin` to `end`, handed to `put` with their row and column.
template <typename Left, typename Right, typename Put>
DEVICE void product(unsigned block, const Left &left, const Right &right, unsigned m, unsigned n, unsigned begin,
                    unsigned end, const Put &put) {
    __shared__ __align__(16) Stage a, b;
    const unsigned tiles_m = (m + SIDE - 1) / SIDE;
    const unsigned first_row = block % tiles_m * SIDE, first_column = block / tiles_m * SIDE;
    const unsigned row = threadIdx.x / ACROSS * EACH, column = threadIdx.x % ACROSS;
    float sums[EACH][EACH] = {};
#pragma unroll 1
    for (unsigned at = begin; at < end; at += DEPTH) {
        left.load(a, first_row, at, end);
        right.load(b, first_column, at, end);
        __syncthreads();
#pragma unroll
        for (unsigned d = 0; d < DEPTH; ++d) {
            const float4 rows = *reinterpret_cast<const float4 *>(&a[d][row]);
            const float r[EACH] = {rows.x, rows.y, rows.z, rows.w};
#pragma unroll
            for (unsigned j = 0; j < EACH; ++j) {
                const float c = b[d][column + j * ACROSS];
#pragma unroll
                for (unsigned i = 0; i < EACH; ++i) {
                    sums[i][j] = fmaf(r[i], c, sums[i][j]);
                }
            }
        }
        __syncthreads();
    }
#pragma unroll
    for (unsigned i = 0; i < EACH; ++i) {
#pragma unroll
        for (unsigned j = 0; j < EACH; ++j) {
            const unsigned y_row = first_row + row + i, y_column = first_column + column + j * ACROSS;
            if (y_row < m && y_column < n) {
                put(sums[i][j], size_t(y_row) * n + y_column, y_column);
            }
        }
    }
    put.finish(sums, a, first_row, first_column, m, n);
}

// What needs nothing of the whole tile.
struct Single {
    DEVICE void finish(float (&)[EACH][EACH], Stage &, unsigned, unsigned, unsigned, unsigned) const {}
};

// What becomes of a sum: its place in the output, and its column.
template <typename T> struct Bias : Single {
    const float *bias;
    T *y;
    DEVICE void operator()(float sum, size_t at, unsigned column) const { y[at] = narrow<T>(sum + bias[column]); }
};

template <typename T> struct BiasGelu : Single {
    const float *bias;
    T *pre, *y;
    DEVICE void operator()(float sum, size_t at, unsigned column) const {
        if (pre != nullptr) {
            pre[at] = narrow<T>(sum + bias[column]);
        }
        y[at] = narrow<T>(gelu(sum + bias[column]));
    }
};

template <typename T> struct BiasResidual : Single {
    const float *bias;
    const T *residual;
    T *y;
    DEVICE void operator()(float sum, size_t at, unsigned column) const {
        y[at] = narrow<T>(sum + bias[column] + widen(residual[at]));
    }
};

template <typename T> struct Store : Single {
    T *out;
    DEVICE void operator()(float sum, size_t at, unsigned) const { out[at] = narrow<T>(sum); }
};

template <typename T> struct GeluSlope {
    const T *pre;
    T *dx;
    float *partial;
    // The sum becomes the gradient, for `finish`.
    DEVICE void operator()(float &sum, size_t at, unsigned) const {
        sum *= gelu_slope(widen(pre[at]));
        dx[at] = narrow<T>(sum);
    }
    // Sums the columns over the tile's rows: each thread its own four, then a thread a column those of all, in order.
    DEVICE void finish(float (&sums)[EACH][EACH], Stage &stage, unsigned first_row, unsigned first_column, unsigned m,
                       unsigned n) const {
        const unsigned row = threadIdx.x / ACROSS, column = threadIdx.x % ACROSS;
#pragma unroll
        for (unsigned j = 0; j < EACH; ++j) {
            float sum = 0.0f;
#pragma unroll
            for (unsigned i = 0; i < EACH; ++i) {
                sum += first_row + row * EACH + i < m ? sums[i][j] : 0.0f;
            }
            stage[row][column + j * ACROSS] = sum;
        }
        __syncthreads();
        if (threadIdx.x < SIDE && first_column + threadIdx.x < n) {
            float sum = 0.0f;
#pragma unroll
            for (unsigned i = 0; i < DEPTH; ++i) {
                sum += stage[i][threadIdx.x];
            }
            partial[size_t(first_row / SIDE) * n + first_column + threadIdx.x] = sum;
        }
    }
};

template <typename T, typename Put>
DEVICE void forward(const T *x, const T *weight, unsigned m, unsigned n, unsigned k, const Put &put) {
    product(blockIdx.x, Along<T>{x, m, k}, Along<T>{weight, n, k}, m, n, 0, k, put);
}

template <typename T, typename Put>
DEVICE void backward_dx(const T *g, const T *weight, unsigned m, unsigned n, unsigned k, const Put &put) {
    product(blockIdx.x, Along<T>{g, m, n}, Across<T>{weight, k}, m, k, 0, n, put);
}

template <typename T>
DEVICE void backward_dweight(const T *g, const T *x, float *out, unsigned m, unsigned n, unsigned k,
                             unsigned part_rows) {
    const unsigned tiles = ((n + SIDE - 1) / SIDE) * ((k + SIDE - 1) / SIDE), part = blockIdx.x / tiles;
    const unsigned begin = part * part_rows, end = begin + min(m - begin, part_rows);
    product(blockIdx.x % tiles, Across<T>{g, n}, Across<T>{x, k}, n, k, begin, end,
            Store<float>{{}, out + size_t(part) * n * k});
}

constexpr unsigned COLUMNS = 4 * WARP;

template <typename T>
DEVICE void backward_dbias(const T *g, float *partial, unsigned m, unsigned n, unsigned part_rows) {
    __shared__ __align__(16) float sums[WARPS][COLUMNS];
    const unsigned lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, groups = (n + COLUMNS - 1) / COLUMNS;
    const unsigned part = blockIdx.x / groups, first = blockIdx.x % groups * COLUMNS;
    const unsigned begin = part * part_rows, end = begin + min(m - begin, part_rows);
    if (n % 4 == 0) {
        float4 sum = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        if (first + lane * 4 < n) {
            for (unsigned row = begin + warp; row < end; row += WARPS) {
                const float4 v = Four<T>::load(g + size_t(row) * n + first + lane * 4).widened();
                sum = make_float4(sum.x + v.x, sum.y + v.y, sum.z + v.z, sum.w + v.w);
            }
        }
        *reinterpret_cast<float4 *>(&sums[warp][lane * 4]) = sum;
    } else {
#pragma unroll
        for (unsigned column = lane; column < COLUMNS; column += WARP) {
            float sum = 0.0f;
            if (first + column < n) {
                for (unsigned row = begin + warp; row < end; row += WARPS) {
                    sum += widen(g[size_t(row) * n + first + column]);
                }
            }
            sums[warp][column] = sum;
        }
    }
    __syncthreads();
    if (threadIdx.x < COLUMNS && first + threadIdx.x < n) {
        float sum = 0.0f;
#pragma unroll
        for (unsigned i = 0; i < WARPS; ++i) {
            sum += sums[i][threadIdx.x];
        }
        partial[size_t(part) * n + first + threadIdx.x] = sum;
    }
}

struct Set {
    DEVICE void operator()(float *out, float sum) const { *out = sum; }
};
struct Add {
    DEVICE void operator()(float *out, float sum) const { *out += sum; }
};

template <typename Write>
DEVICE void dweight_reduce(const float *partial, float *out, unsigned parts, unsigned len, Write write) {
    float sums[4] = {};
    const size_t first = size_t(blockIdx.x) * 4 * THREADS + threadIdx.x;
    for (unsigned part = 0; part < parts; ++part) {
#pragma unroll
        for (unsigned i = 0; i < 4; ++i) {
            if (first + i * THREADS < len) {
                sums[i] += partial[size_t(part) * len + first + i * THREADS];
            }
        }
    }
#pragma unroll
    for (unsigned i = 0; i < 4; ++i) {
        if (first + i * THREADS < len) {
            write(out + first + i * THREADS, sums[i]);
        }
    }
}

template <typename Write>
DEVICE void dbias_reduce(const float *partial, float *out, unsigned parts, unsigned len, Write write) {
    __shared__ float sums[WARPS][WARP];
    const unsigned lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, at = blockIdx.x * WARP + lane;
    float sum = 0.0f;
    if (at < len) {
        for (unsigned part = warp; part < parts; part += WARPS) {
            sum += partial[size_t(part) * len + at];
        }
    }
    sums[warp][lane] = sum;
    __syncthreads();
    if (warp == 0 && at < len) {
        float total = 0.0f;
#pragma unroll
        for (unsigned i = 0; i < WARPS; ++i) {
            total += sums[i][lane];
        }
        write(out + at, total);
    }
}

} // namespace scalar

using f32 = float;
using namespace scalar;

#define ENTRY(NAME) extern "C" __global__ void __launch_bounds__(THREADS, 4) NAME

ENTRY(matmul_bwd_dweight_reduce_set_f32)(const float *partial, float *out, uint32_t parts, uint32_t len) {
    dweight_reduce(partial, out, parts, len, Set{});
}

ENTRY(matmul_bwd_dweight_reduce_add_f32)(const float *partial, float *out, uint32_t parts, uint32_t len) {
    dweight_reduce(partial, out, parts, len, Add{});
}

ENTRY(matmul_bwd_dbias_reduce_set_f32)(const float *partial, float *out, uint32_t parts, uint32_t len) {
    dbias_reduce(partial, out, parts, len, Set{});
}

ENTRY(matmul_bwd_dbias_reduce_add_f32)(const float *partial, float *out, uint32_t parts, uint32_t len) {
    dbias_reduce(partial, out, parts, len, Add{});
}

#define ENTRIES(T)                                                                                                     \
    ENTRY(matmul_fwd_bias_scalar_##T)(const T *x, const T *weight, const float *bias, T *y, uint32_t m, uint32_t n,    \
                                      uint32_t k) {                                                                    \
        forward(x, weight, m, n, k, Bias<T>{{}, bias, y});                                                             \
    }                                                                                                                  \
    ENTRY(matmul_fwd_bias_gelu_scalar_##T)(const T *x, const T *weight, const float *bias, T *pre, T *y, uint32_t m,   \
                                           uint32_t n, uint32_t k) {                                                   \
        forward(x, weight, m, n, k, BiasGelu<T>{{}, bias, pre, y});                                                    \
    }                                                                                                                  \
    ENTRY(matmul_fwd_bias_residual_scalar_##T)(const T *x, const T *weight, const float *bias, const T *residual,      \
                                               T *y, uint32_t m, uint32_t n, uint32_t k) {                             \
        forward(x, weight, m, n, k, BiasResidual<T>{{}, bias, residual, y});                                           \
    }                                                                                                                  \
    ENTRY(matmul_bwd_dx_scalar_##T)(const T *g, const T *weight, T *dx, uint32_t m, uint32_t n, uint32_t k) {          \
        backward_dx(g, weight, m, n, k, Store<T>{{}, dx});                                                             \
    }                                                                                                                  \
    ENTRY(matmul_bwd_dx_gelu_scalar_##T)(const T *g, const T *weight, const T *pre, T *dx, float *partial, uint32_t m, \
                                         uint32_t n, uint32_t k) {                                                     \
        backward_dx(g, weight, m, n, k, GeluSlope<T>{pre, dx, partial});                                               \
    }                                                                                                                  \
    ENTRY(matmul_bwd_dweight_scalar_##T)(const T *g, const T *x, float *out, uint32_t m, uint32_t n, uint32_t k,       \
                                         uint32_t part_rows) {                                                         \
        backward_dweight(g, x, out, m, n, k, part_rows);                                                               \
    }                                                                                                                  \
    ENTRY(matmul_bwd_dbias_##T)(const T *g, float *partial, uint32_t m, uint32_t n, uint32_t part_rows) {              \
        backward_dbias(g, partial, m, n, part_rows);                                                                   \
    }

ENTRIES(f16)
ENTRIES(f32)
#if __CUDA_ARCH__ >= 800
ENTRIES(bf16)
#endif
