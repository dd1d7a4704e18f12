// Layer norm along rows of D, forward and backward.
//
// computes   fwd: mean = sum x / D; rstd = 1 / sqrt(sum (x - mean)^2 / D + eps); y = (x - mean) rstd weight + bias
//            bwd: n = (x - mean) rstd; g = dy weight; dx = rstd (g - sum g / D - n sum(g n) / D);
//                 dweight += sum over rows of dy n; dbias += sum over rows of dy. bwd_dx_add: that is added to dx
// pointers   x, y, dy, dx (rows, D) of T; weight, bias, dweight, dbias (D), mean, rstd (rows), partial (blocks, 2, D)
//            of f32. All 16-byte aligned; D a multiple of 4, at most 1024. Whole sectors where D is one of 16.
// arithmetic f32; the variance from centred values, so that a large mean costs no digits; y and dx rounded once
// owners     fwd: a warp a row. bwd_dx: a warp every (4 blocks)-th row, and the block its row of `partial`.
//            bwd_reduce: a lane a column, the eight warps of its block every eighth row of `partial`.
// outputs    y, mean, rstd, dx, partial are set, but dx of bwd_dx_add, dweight and dbias are added to. Every sum has one order: the result
//            is the same bits on every run; its order is the same on every card, as the grid does not depend on the card.
// launch     fwd: blocks of 128, ceil(rows / 4) of them. bwd_dx: blocks of 128, any number of them.
//            bwd_reduce: blocks of 256, ceil(2 D / 32) of them. No dynamic shared memory.
// resources  static shared memory: bwd_dx 8 KiB, bwd_reduce 1 KiB; registers in RESOURCES.md
// cost       fwd 8 FLOPs an element and 2 sizeof(T) bytes; bwd 15 FLOPs an element and 3 sizeof(T) bytes (4 where
//            dx is added to), and 16 blocks D bytes for `partial`, written and read once. Bound by memory on every card.
#include "common.cuh"

namespace layer_norm {

constexpr unsigned WIDEST = 1024;
// A lane holds every 32nd group of four columns: neighbours in a warp are neighbours in memory, for x and weight alike.
constexpr unsigned GROUPS = WIDEST / (4 * WARP);
constexpr unsigned WARPS = 4;
constexpr unsigned REDUCE_WARPS = 8;

DEVICE float sum4(float4 v) { return (v.x + v.y) + (v.z + v.w); }
DEVICE float4 load4(const float *from) { return *reinterpret_cast<const float4 *>(from); }
DEVICE void add4(float4 &sum, float4 v) {
    sum.x += v.x;
    sum.y += v.y;
    sum.z += v.z;
    sum.w += v.w;
}

// The columns of this lane; groups past the row's end are empty.
DEVICE unsigned column(unsigned group) { return 4 * (group * WARP + threadIdx.x % WARP); }

template <typename T>
DEVICE void forward(const T *x, const float *weight, const float *bias, T *y, float *mean, float *rstd, uint32_t rows,
                    uint32_t d, float eps) {
    const unsigned row = blockIdx.x * WARPS + threadIdx.x / WARP;
    if (row >= rows) {
        return;
    }
    const size_t start = size_t(row) * d;
    float4 v[GROUPS];
    float sum = 0.0f;
#pragma unroll
    for (unsigned i = 0; i < GROUPS; ++i) {
        if (column(i) < d) {
            v[i] = Four<T>::load(x + start + column(i)).widened();
            sum += sum4(v[i]);
        }
    }
    const float m = warp_sum(sum) / float(d);
    float squares = 0.0f;
#pragma unroll
    for (unsigned i = 0; i < GROUPS; ++i) {
        if (column(i) < d) {
            v[i] = make_float4(v[i].x - m, v[i].y - m, v[i].z - m, v[i].w - m);
            squares += sum4(make_float4(v[i].x * v[i].x, v[i].y * v[i].y, v[i].z * v[i].z, v[i].w * v[i].w));
        }
    }
    const float r = rsqrt_approx(warp_sum(squares) / float(d) + eps);
    if (threadIdx.x % WARP == 0) {
        mean[row] = m;
        rstd[row] = r;
    }
#pragma unroll
    for (unsigned i = 0; i < GROUPS; ++i) {
        if (column(i) < d) {
            const float4 w = load4(weight + column(i)), b = load4(bias + column(i));
            *reinterpret_cast<Four<T> *>(y + start + column(i)) = Four<T>::narrowed(
                make_float4(v[i].x * r * w.x + b.x, v[i].y * r * w.y + b.y, v[i].z * r * w.z + b.z,
                            v[i].w * r * w.w + b.w));
        }
    }
}

DEVICE float4 normalised(float4 v, float m, float r) {
    return make_float4((v.x - m) * r, (v.y - m) * r, (v.z - m) * r, (v.w - m) * r);
}

DEVICE float4 times(float4 a, float4 b) { return make_float4(a.x * b.x, a.y * b.y, a.z * b.z, a.w * b.w); }

// What dx starts from.
template <typename T> struct Set {
    DEVICE float4 operator()(const T *) const { return make_float4(0.0f, 0.0f, 0.0f, 0.0f); }
};
template <typename T> struct Add {
    DEVICE float4 operator()(const T *dx) const { return Four<T>::load(dx).widened(); }
};

template <typename T, typename Start>
DEVICE void backward_dx(const T *dy, const T *x, const float *weight, const float *mean, const float *rstd, T *dx,
                        float *partial, uint32_t rows, uint32_t d, Start start_from) {
    // The parameters' gradients of the rows that this warp saw.
    float4 dweight[GROUPS], dbias[GROUPS];
#pragma unroll
    for (unsigned i = 0; i < GROUPS; ++i) {
        dweight[i] = dbias[i] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    }
    const unsigned warp = threadIdx.x / WARP;
    for (unsigned row = blockIdx.x * WARPS + warp; row < rows; row += gridDim.x * WARPS) {
        const size_t start = size_t(row) * d;
        const float m = mean[row], r = rstd[row];
        // The row stays as it was stored, in half the registers; both passes widen it.
        Four<T> xs[GROUPS], dys[GROUPS];
        float sum_g = 0.0f, sum_gn = 0.0f;
#pragma unroll
        for (unsigned i = 0; i < GROUPS; ++i) {
            if (column(i) < d) {
                xs[i] = Four<T>::load(x + start + column(i));
                dys[i] = Four<T>::load(dy + start + column(i));
                const float4 n = normalised(xs[i].widened(), m, r), dy4 = dys[i].widened();
                const float4 g = times(dy4, load4(weight + column(i)));
                add4(dbias[i], dy4);
                add4(dweight[i], times(dy4, n));
                sum_g += sum4(g);
                sum_gn += sum4(times(g, n));
            }
        }
        const float mean_g = warp_sum(sum_g) / float(d), mean_gn = warp_sum(sum_gn) / float(d);
#pragma unroll
        for (unsigned i = 0; i < GROUPS; ++i) {
            if (column(i) < d) {
                const float4 n = normalised(xs[i].widened(), m, r);
                const float4 g = times(dys[i].widened(), load4(weight + column(i)));
                float4 total = start_from(dx + start + column(i));
                add4(total, make_float4(r * (g.x - mean_g - n.x * mean_gn), r * (g.y - mean_g - n.y * mean_gn),
                                        r * (g.z - mean_g - n.z * mean_gn), r * (g.w - mean_g - n.w * mean_gn)));
                *reinterpret_cast<Four<T> *>(dx + start + column(i)) = Four<T>::narrowed(total);
            }
        }
    }

    // The warps add up in turn: one order, no atomics.
    __shared__ float4 sums[2][WIDEST / 4];
#pragma unroll 1
    for (unsigned turn = 0; turn < WARPS; ++turn) {
        if (warp == turn) {
#pragma unroll
            for (unsigned i = 0; i < GROUPS; ++i) {
                if (column(i) < d) {
                    if (turn > 0) {
                        add4(dweight[i], sums[0][column(i) / 4]);
                        add4(dbias[i], sums[1][column(i) / 4]);
                    }
                    sums[0][column(i) / 4] = dweight[i];
                    sums[1][column(i) / 4] = dbias[i];
                }
            }
        }
        __syncthreads();
    }
    float4 *out = reinterpret_cast<float4 *>(partial + size_t(blockIdx.x) * 2 * d);
    for (unsigned i = threadIdx.x; i < d / 4; i += WARPS * WARP) {
        out[i] = sums[0][i];
        out[d / 4 + i] = sums[1][i];
    }
}

} // namespace layer_norm

using f32 = float;
using namespace layer_norm;

// `partial` is read as a matrix of `blocks` rows and 2 D columns: D of dweight, then D of dbias.
extern "C" __global__ void __launch_bounds__(REDUCE_WARPS *WARP)
    layer_norm_bwd_reduce_f32(const float *partial, float *dweight, float *dbias, uint32_t blocks, uint32_t d) {
    __shared__ float sums[REDUCE_WARPS][WARP];
    const unsigned lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    const unsigned at = blockIdx.x * WARP + lane;
    float sum = 0.0f;
    if (at < 2 * d) {
        for (unsigned row = warp; row < blocks; row += REDUCE_WARPS) {
            sum += partial[size_t(row) * 2 * d + at];
        }
    }
    sums[warp][lane] = sum;
    __syncthreads();
    if (warp == 0 && at < 2 * d) {
        float total = 0.0f;
#pragma unroll
        for (unsigned i = 0; i < REDUCE_WARPS; ++i) {
            total += sums[i][lane];
        }
        float *out = at < d ? dweight + at : dbias + (at - d);
        *out += total;
    }
}

#define BACKWARD_DX(NAME, T, Start)                                                                                    \
    extern "C" __global__ void __launch_bounds__(WARPS *WARP)                                                          \
        NAME(const T *dy, const T *x, const float *weight, const float *mean, const float *rstd, T *dx,                \
             float *partial, uint32_t rows, uint32_t d) {                                                              \
        backward_dx(dy, x, weight, mean, rstd, dx, partial, rows, d, Start<T>{});                                      \
    }

#define ENTRIES(T)                                                                                                     \
    extern "C" __global__ void __launch_bounds__(WARPS *WARP)                                                          \
        layer_norm_fwd_##T(const T *x, const float *weight, const float *bias, T *y, float *mean,    \
                           float *rstd, uint32_t rows, uint32_t d, float eps) {                                        \
        forward(x, weight, bias, y, mean, rstd, rows, d, eps);                                                         \
    }                                                                                                                  \
    BACKWARD_DX(layer_norm_bwd_dx_##T, T, Set)                                                                         \
    BACKWARD_DX(layer_norm_bwd_dx_add_##T, T, Add)

ENTRIES(f16)
ENTRIES(f32)
#if __CUDA_ARCH__ >= 800
ENTRIES(bf16)
#endif
