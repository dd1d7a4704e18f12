// Mean cross-entropy of logits with label smoothing, and its gradient.
//
// computes   rows: loss[b] = (1 - s) (ln sum - (z[label] - max)) + s (ln sum - mean (z - max)), the terms of softmax;
//            unit = (softmax - target) / B, target = (1 - s) at the label plus s / classes everywhere
//            mean: loss = sum of losses / B. bwd: dlogits = unit dloss
// pointers   logits, dlogits (B, classes) of T; labels (B) of u32 below classes; losses (B), unit (B, classes), loss and
//            dloss (1) of f32
// arithmetic f32; sums of a row and of the losses by a warp, each lane its 32nd part in order, then the butterfly; dlogits
//            is rounded once
// owners     rows: a warp a row. mean: a warp. bwd: a thread an element.
// outputs    all are set
// launch     rows: ceil(B / 4) blocks of 128. mean: one block of 32. bwd: ceil(B classes / 256) blocks of 256.
//            No dynamic shared memory.
// resources  no shared memory; registers in RESOURCES.md
// cost       about 20 FLOPs and 3 reads of an element of the logits, 4 bytes written of unit; small beside the rest
#include "common.cuh"

namespace cross_entropy {

constexpr unsigned WARPS = 4;
constexpr float LOG2_E = 1.44269504f;
constexpr float LN_2 = 0.69314718f;

DEVICE float warp_max(float value) {
#pragma unroll
    for (unsigned distance = WARP / 2; distance > 0; distance /= 2) {
        value = fmaxf(value, __shfl_xor_sync(ALL_LANES, value, distance));
    }
    return value;
}

template <typename T>
DEVICE void rows(const T *logits, const uint32_t *labels, float *losses, float *unit, uint32_t b, uint32_t classes,
                 float smoothing) {
    const unsigned row = blockIdx.x * WARPS + threadIdx.x / WARP, lane = threadIdx.x % WARP;
    if (row >= b) {
        return;
    }
    const T *z = logits + size_t(row) * classes;
    float most = -INFINITY;
    for (unsigned i = lane; i < classes; i += WARP) {
        most = fmaxf(most, widen(z[i]));
    }
    most = warp_max(most);
    float exps = 0.0f, shifted = 0.0f;
    for (unsigned i = lane; i < classes; i += WARP) {
        const float v = widen(z[i]) - most;
        exps += ex2_approx(v * LOG2_E);
        shifted += v;
    }
    exps = warp_sum(exps);
    shifted = warp_sum(shifted);
    const unsigned label = labels[row];
    const float log = lg2_approx(exps) * LN_2, share = 1.0f / float(b);
    if (lane == 0) {
        const float hard = log - (widen(z[label]) - most), soft = log - shifted / float(classes);
        losses[row] = (1.0f - smoothing) * hard + smoothing * soft;
    }
    for (unsigned i = lane; i < classes; i += WARP) {
        const float p = ex2_approx((widen(z[i]) - most) * LOG2_E) / exps;
        const float target = (i == label ? 1.0f - smoothing : 0.0f) + smoothing / float(classes);
        unit[size_t(row) * classes + i] = (p - target) * share;
    }
}

} // namespace cross_entropy

using f32 = float;

extern "C" __global__ void __launch_bounds__(WARP) cross_entropy_mean_f32(const float *losses, float *loss, uint32_t b) {
    float sum = 0.0f;
    for (unsigned i = threadIdx.x; i < b; i += WARP) {
        sum += losses[i];
    }
    sum = warp_sum(sum);
    if (threadIdx.x == 0) {
        loss[0] = sum / float(b);
    }
}

#define ENTRIES(T)                                                                                                     \
    extern "C" __global__ void __launch_bounds__(cross_entropy::WARPS *WARP)                                           \
        cross_entropy_rows_##T(const T *logits, const uint32_t *labels, float *losses, float *unit, uint32_t b,        \
                               uint32_t classes, float smoothing) {                                                    \
        cross_entropy::rows(logits, labels, losses, unit, b, classes, smoothing);                                      \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(256)                                                                  \
        cross_entropy_bwd_##T(const float *unit, const float *dloss, T *dlogits, uint32_t n) {                         \
        const unsigned i = blockIdx.x * 256 + threadIdx.x;                                                             \
        if (i < n) {                                                                                                   \
            dlogits[i] = narrow<T>(unit[i] * dloss[0]);                                                                \
        }                                                                                                              \
    }

ENTRIES(f32)
ENTRIES(f16)
#if __CUDA_ARCH__ >= 800
ENTRIES(bf16)
#endif
