// The kept patches of images, flattened in the order of a convolution's weight.
//
// computes   y[b, i, (c, py, px)] = the pixel of channel c at (py, px) in patch kept[b, i]; bytes: levels[c][that byte]
// pointers   images (B, C, height, width) of f32; kept (B, k) of u32, below the number of patches; y (B, k, C P P) of T;
//            bytes: rgb (B, height, width, 3), levels (3, 256) of f32
// arithmetic none; y is rounded once
// owners     a block a patch
// outputs    y is set
// launch     B k blocks of 256. No dynamic shared memory.
// resources  no shared memory; registers in RESOURCES.md
// cost       4 + sizeof(T) bytes an element of y, of bytes 1 + sizeof(T); patches that are not kept are never read
#include "common.cuh"

namespace patchify {

constexpr unsigned THREADS = 256;

template <typename T>
DEVICE void forward(const float *images, const uint32_t *kept, T *y, uint32_t k, uint32_t channels, uint32_t height,
                    uint32_t width, uint32_t patch) {
    const unsigned image = blockIdx.x / k, columns = width / patch;
    const unsigned index = kept[blockIdx.x], row = index / columns * patch, column = index % columns * patch;
    const unsigned area = patch * patch, values = channels * area;
    const float *from = images + size_t(image) * channels * height * width;
    T *to = y + size_t(blockIdx.x) * values;
    for (unsigned i = threadIdx.x; i < values; i += THREADS) {
        const unsigned c = i / area, py = i % area / patch, px = i % patch;
        to[i] = narrow<T>(from[(size_t(c) * height + row + py) * width + column + px]);
    }
}

template <typename T>
DEVICE void from_bytes(const uint8_t *rgb, const float *levels, const uint32_t *kept, T *y, uint32_t k, uint32_t height,
                       uint32_t width, uint32_t patch) {
    const unsigned image = blockIdx.x / k, columns = width / patch, area = patch * patch;
    const unsigned index = kept[blockIdx.x], row = index / columns * patch, column = index % columns * patch;
    const uint8_t *from = rgb + size_t(image) * height * width * 3;
    T *to = y + size_t(blockIdx.x) * 3 * area;
    for (unsigned i = threadIdx.x; i < area; i += THREADS) {
        const uint8_t *pixel = from + (size_t(row + i / patch) * width + column + i % patch) * 3;
#pragma unroll
        for (unsigned c = 0; c < 3; ++c) {
            to[c * area + i] = narrow<T>(levels[c * 256 + pixel[c]]);
        }
    }
}

} // namespace patchify

using f32 = float;

#define ENTRIES(T)                                                                                                     \
    extern "C" __global__ void __launch_bounds__(patchify::THREADS)                                                    \
        patchify_fwd_##T(const float *images, const uint32_t *kept, T *y, uint32_t k, uint32_t channels,               \
                         uint32_t height, uint32_t width, uint32_t patch) {                                            \
        patchify::forward(images, kept, y, k, channels, height, width, patch);                                         \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(patchify::THREADS)                                                    \
        patchify_bytes_fwd_##T(const uint8_t *rgb, const float *levels, const uint32_t *kept, T *y, uint32_t k,        \
                               uint32_t height, uint32_t width, uint32_t patch) {                                      \
        patchify::from_bytes(rgb, levels, kept, y, k, height, width, patch);                                           \
    }

ENTRIES(f32)
ENTRIES(f16)
#if __CUDA_ARCH__ >= 800
ENTRIES(bf16)
#endif
