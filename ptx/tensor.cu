// What happens to tensors between ops: sums, changes of type, products with factors.
//
// computes   add: sum += x. narrow: to = from, rounded to T. widen: to = from, exactly.
//            follow: mean += weight (x - mean). scale: y[i] = factors[(i / run) % count] x[i]. product: y = x other
// pointers   sum, x (n) of T; narrow: from (n) of f32, to (n) of T; widen: from (n) of T, to (n) of f32; follow: mean,
//            x (n) of f32; scale: x, y (n) of T, factors (count) of f32; product: x, other (n) of T, y (n) of f32;
//            16-byte aligned
// arithmetic f32; a stored value is rounded once; follow rounds difference, product and sum, as the CPU does
// owners     a thread four neighbours
// outputs    sum is added to, `to` and y are set, mean is moved
// launch     ceil(n / 1024) blocks of 256. No dynamic shared memory.
// resources  no shared memory; registers in RESOURCES.md
// cost       bytes an element: add 3 sizeof(T), narrow and widen 4 + sizeof(T), follow 12, scale 2 sizeof(T), product
//            2 sizeof(T) + 4. Bound by memory on every card.
#include "common.cuh"

namespace tensor {

constexpr unsigned THREADS = 256;

// The four elements of this thread, of which the last thread may have fewer.
struct Share {
    unsigned first, count;
    DEVICE explicit Share(uint32_t n) {
        first = 4 * (blockIdx.x * THREADS + threadIdx.x);
        count = first >= n ? 0 : min(n - first, 4u);
    }
};

template <typename From, typename To> DEVICE void convert(const From *from, To *to, uint32_t n) {
    const Share share(n);
    if (share.count == 4) {
        *reinterpret_cast<Four<To> *>(to + share.first) =
            Four<To>::narrowed(Four<From>::load(from + share.first).widened());
        return;
    }
    for (unsigned i = 0; i < share.count; ++i) {
        to[share.first + i] = narrow<To>(widen(from[share.first + i]));
    }
}

template <typename T> DEVICE void add(T *sum, const T *x, uint32_t n) {
    const Share share(n);
    if (share.count == 4) {
        const float4 a = Four<T>::load(sum + share.first).widened(), b = Four<T>::load(x + share.first).widened();
        *reinterpret_cast<Four<T> *>(sum + share.first) =
            Four<T>::narrowed(make_float4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w));
        return;
    }
    for (unsigned i = 0; i < share.count; ++i) {
        sum[share.first + i] = narrow<T>(widen(sum[share.first + i]) + widen(x[share.first + i]));
    }
}

DEVICE float followed(float mean, float x, float weight) {
    return __fadd_rn(mean, __fmul_rn(weight, __fsub_rn(x, mean)));
}

DEVICE void follow(float *mean, const float *x, float weight, uint32_t n) {
    const Share share(n);
    if (share.count == 4) {
        const float4 a = Four<float>::load(mean + share.first).widened();
        const float4 b = Four<float>::load(x + share.first).widened();
        *reinterpret_cast<Four<float> *>(mean + share.first) =
            Four<float>::narrowed(make_float4(followed(a.x, b.x, weight), followed(a.y, b.y, weight),
                                              followed(a.z, b.z, weight), followed(a.w, b.w, weight)));
        return;
    }
    for (unsigned i = 0; i < share.count; ++i) {
        mean[share.first + i] = followed(mean[share.first + i], x[share.first + i], weight);
    }
}

template <typename T>
DEVICE void scale(const T *x, const float *factors, T *y, uint32_t run, uint32_t count, uint32_t n) {
    const Share share(n);
    const auto factor = [&](unsigned i) { return factors[(share.first + i) / run % count]; };
    if (share.count == 4) {
        const float4 a = Four<T>::load(x + share.first).widened();
        *reinterpret_cast<Four<T> *>(y + share.first) =
            Four<T>::narrowed(make_float4(factor(0) * a.x, factor(1) * a.y, factor(2) * a.z, factor(3) * a.w));
        return;
    }
    for (unsigned i = 0; i < share.count; ++i) {
        y[share.first + i] = narrow<T>(factor(i) * widen(x[share.first + i]));
    }
}

template <typename T> DEVICE void product(const T *x, const T *other, float *y, uint32_t n) {
    const Share share(n);
    if (share.count == 4) {
        const float4 a = Four<T>::load(x + share.first).widened(), b = Four<T>::load(other + share.first).widened();
        *reinterpret_cast<float4 *>(y + share.first) = make_float4(a.x * b.x, a.y * b.y, a.z * b.z, a.w * b.w);
        return;
    }
    for (unsigned i = 0; i < share.count; ++i) {
        y[share.first + i] = widen(x[share.first + i]) * widen(other[share.first + i]);
    }
}

} // namespace tensor

using f32 = float;

#define ADD(T)                                                                                                         \
    extern "C" __global__ void __launch_bounds__(tensor::THREADS) tensor_add_##T(T *sum, const T *x, uint32_t n) {     \
        tensor::add(sum, x, n);                                                                                        \
    }
#define FACTORS(T)                                                                                                     \
    extern "C" __global__ void __launch_bounds__(tensor::THREADS) tensor_scale_##T(                                    \
        const T *x, const float *factors, T *y, uint32_t run, uint32_t count, uint32_t n) {                            \
        tensor::scale(x, factors, y, run, count, n);                                                                   \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(tensor::THREADS)                                                      \
        tensor_product_##T(const T *x, const T *other, float *y, uint32_t n) {                                         \
        tensor::product(x, other, y, n);                                                                               \
    }
#define CONVERT(T)                                                                                                     \
    extern "C" __global__ void __launch_bounds__(tensor::THREADS)                                                      \
        tensor_narrow_##T(const float *from, T *to, uint32_t n) {                                                      \
        tensor::convert(from, to, n);                                                                                  \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(tensor::THREADS)                                                      \
        tensor_widen_##T(const T *from, float *to, uint32_t n) {                                                       \
        tensor::convert(from, to, n);                                                                                  \
    }

extern "C" __global__ void __launch_bounds__(tensor::THREADS)
    tensor_follow_f32(f32 *mean, const f32 *x, float weight, uint32_t n) {
    tensor::follow(mean, x, weight, n);
}

ADD(f32)
ADD(f16)
FACTORS(f32)
FACTORS(f16)
CONVERT(f16)
#if __CUDA_ARCH__ >= 800
ADD(bf16)
FACTORS(bf16)
CONVERT(bf16)
#endif
