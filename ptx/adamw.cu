// One update of the flat parameters, the copy of them that the products read, and the check that comes before it.
//
// computes   check: flag = 1 when some x is NaN or infinite. adamw, where the flag is 0, with g = grads / scale:
//            m += (g - m) (1 - beta1); v = v beta2 + (1 - beta2) g g;
//            p = p decay - rate m / (sqrt(v) / root2 + eps); copy = p
// pointers   x, params, grads, exp_avg, exp_avg_sq (n) of f32, copy (n) of T, all 16-byte aligned; flag (1) of u32;
//            factors (8) of f32: decay, 1 - beta1, beta2, 1 - beta2, rate, root2, eps, 1 / scale, as the op computes them;
//            spared (2 ranges) of u32: begin and end of the runs without decay, ascending
// arithmetic f32; copy is rounded once
// owners     a thread four neighbours
// outputs    check: flag is set to 1, or left. adamw: params, exp_avg, exp_avg_sq and copy are set, or left by a set flag.
// launch     ceil(n / 1024) blocks of 256. No dynamic shared memory.
// resources  no shared memory; registers in RESOURCES.md
// cost       check 4 bytes an element; adamw 14 FLOPs and 28 + sizeof(T) bytes. Bound by memory on every card.
#include "common.cuh"

namespace adamw {

constexpr unsigned THREADS = 256;

struct Factors {
    float decay, weight1, beta2, weight2, rate, root2, eps, unscale;
};

// Whether element i lies in one of the runs: a search by halves.
DEVICE bool is_spared(unsigned i, const uint32_t *spared, uint32_t ranges) {
    unsigned low = 0, high = ranges;
    while (low < high) {
        const unsigned middle = (low + high) / 2;
        if (spared[2 * middle + 1] <= i) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low < ranges && spared[2 * low] <= i;
}

DEVICE void update(float &p, float g, float &m, float &v, const Factors &f, float decay) {
    g *= f.unscale;
    m += (g - m) * f.weight1;
    v = v * f.beta2 + f.weight2 * g * g;
    p = p * decay - f.rate * m / (sqrtf(v) / f.root2 + f.eps);
}

DEVICE float &part(float4 &v, unsigned i) { return i == 0 ? v.x : i == 1 ? v.y : i == 2 ? v.z : v.w; }

// The copy of parameters: T, or nothing where T is f32, since the products then read the parameters themselves.
template <typename T> DEVICE void keep(T *copy, unsigned first, float4 p) {
    *reinterpret_cast<Four<T> *>(copy + first) = Four<T>::narrowed(p);
}

template <typename T, bool COPY>
DEVICE void step(float *params, const float *grads, float *exp_avg, float *exp_avg_sq, T *copy, const float *factors,
                 const uint32_t *flag, const uint32_t *spared, uint32_t ranges, uint32_t n) {
    const unsigned first = 4 * (blockIdx.x * THREADS + threadIdx.x);
    if (first >= n || flag[0] != 0) {
        return;
    }
    const Factors f = {factors[0], factors[1], factors[2], factors[3], factors[4], factors[5], factors[6], factors[7]};
    const unsigned count = min(n - first, 4u);
    if (count == 4) {
        float4 p = *reinterpret_cast<const float4 *>(params + first), g = *reinterpret_cast<const float4 *>(grads + first);
        float4 m = *reinterpret_cast<const float4 *>(exp_avg + first);
        float4 v = *reinterpret_cast<const float4 *>(exp_avg_sq + first);
#pragma unroll
        for (unsigned i = 0; i < 4; ++i) {
            const float decay = is_spared(first + i, spared, ranges) ? 1.0f : f.decay;
            update(part(p, i), part(g, i), part(m, i), part(v, i), f, decay);
        }
        *reinterpret_cast<float4 *>(params + first) = p;
        *reinterpret_cast<float4 *>(exp_avg + first) = m;
        *reinterpret_cast<float4 *>(exp_avg_sq + first) = v;
        if (COPY) {
            keep(copy, first, p);
        }
        return;
    }
    for (unsigned i = first; i < n; ++i) {
        const float decay = is_spared(i, spared, ranges) ? 1.0f : f.decay;
        update(params[i], grads[i], exp_avg[i], exp_avg_sq[i], f, decay);
        if (COPY) {
            copy[i] = narrow<T>(params[i]);
        }
    }
}

} // namespace adamw

DEVICE bool infinite(float v) { return (__float_as_uint(v) & 0x7f800000u) == 0x7f800000u; }

extern "C" __global__ void __launch_bounds__(adamw::THREADS) adamw_check_f32(const float *x, uint32_t *flag, uint32_t n) {
    const unsigned first = 4 * (blockIdx.x * adamw::THREADS + threadIdx.x);
    bool bad = false;
    if (first + 4 <= n) {
        const float4 v = *reinterpret_cast<const float4 *>(x + first);
        bad = infinite(v.x) || infinite(v.y) || infinite(v.z) || infinite(v.w);
    } else {
        for (unsigned i = first; i < n; ++i) {
            bad = bad || infinite(x[i]);
        }
    }
    if (bad) {
        atomicOr(flag, 1u);
    }
}

extern "C" __global__ void __launch_bounds__(adamw::THREADS)
    adamw_step_f32(float *params, const float *grads, float *exp_avg, float *exp_avg_sq, const float *factors,
                   const uint32_t *flag, const uint32_t *spared, uint32_t ranges, uint32_t n) {
    adamw::step<float, false>(params, grads, exp_avg, exp_avg_sq, nullptr, factors, flag, spared, ranges, n);
}

#define ENTRIES(T)                                                                                                     \
    extern "C" __global__ void __launch_bounds__(adamw::THREADS)                                                       \
        adamw_step_##T(float *params, const float *grads, float *exp_avg, float *exp_avg_sq, T *copy,                  \
                       const float *factors, const uint32_t *flag, const uint32_t *spared, uint32_t ranges,            \
                       uint32_t n) {                                                                                   \
        adamw::step<T, true>(params, grads, exp_avg, exp_avg_sq, copy, factors, flag, spared, ranges, n);              \
    }

ENTRIES(f16)
#if __CUDA_ARCH__ >= 800
ENTRIES(bf16)
#endif
