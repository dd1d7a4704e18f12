// Rows of each image: the kept tokens after a dense embedding, or [CLS] alone.
//
// computes   fwd: y[b, i] = x[b, kept[b, i]]. bwd: dx[b, r] = sum of dy[b, i] over all i with kept[b, i] = r
// pointers   x, dx (B, n, D), y, dy (B, k, D) of T, 16-byte aligned; kept (B, k) of u32 below n. D a multiple of 4.
// arithmetic f32 for the sum, which has the order of i; dx is rounded once
// owners     fwd: a block a row of y. bwd: a block a row of dx.
// outputs    y and dx are set
// launch     fwd: B k blocks of 128. bwd: B n blocks of 128. No dynamic shared memory.
// resources  no shared memory; registers in RESOURCES.md
// cost       fwd 2 sizeof(T) bytes an element of y; bwd sizeof(T) bytes an element of dy and of dx, and 4 k bytes of
//            indices a row, which stay in cache
#include "common.cuh"

namespace gather {

constexpr unsigned THREADS = 128;

template <typename T>
DEVICE void forward(const T *x, const uint32_t *kept, T *y, uint32_t n, uint32_t k, uint32_t d) {
    const size_t from = (size_t(blockIdx.x / k) * n + kept[blockIdx.x]) * d, to = size_t(blockIdx.x) * d;
    for (unsigned i = 4 * threadIdx.x; i < d; i += 4 * THREADS) {
        *reinterpret_cast<Four<T> *>(y + to + i) = Four<T>::load(x + from + i);
    }
}

template <typename T>
DEVICE void backward(const T *dy, const uint32_t *kept, T *dx, uint32_t n, uint32_t k, uint32_t d) {
    const unsigned image = blockIdx.x / n, row = blockIdx.x % n;
    const size_t to = size_t(blockIdx.x) * d;
    for (unsigned i = 4 * threadIdx.x; i < d; i += 4 * THREADS) {
        float4 sum = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        for (unsigned j = image * k; j < (image + 1) * k; ++j) {
            if (kept[j] == row) {
                const float4 v = Four<T>::load(dy + size_t(j) * d + i).widened();
                sum = make_float4(sum.x + v.x, sum.y + v.y, sum.z + v.z, sum.w + v.w);
            }
        }
        *reinterpret_cast<Four<T> *>(dx + to + i) = Four<T>::narrowed(sum);
    }
}

} // namespace gather

using f32 = float;

#define ENTRIES(T)                                                                                                     \
    extern "C" __global__ void __launch_bounds__(gather::THREADS)                                                      \
        gather_fwd_##T(const T *x, const uint32_t *kept, T *y, uint32_t n, uint32_t k, uint32_t d) {                   \
        gather::forward(x, kept, y, n, k, d);                                                                          \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(gather::THREADS)                                                      \
        gather_bwd_##T(const T *dy, const uint32_t *kept, T *dx, uint32_t n, uint32_t k, uint32_t d) {                 \
        gather::backward(dy, kept, dx, n, k, d);                                                                       \
    }

ENTRIES(f32)
ENTRIES(f16)
#if __CUDA_ARCH__ >= 800
ENTRIES(bf16)
#endif
