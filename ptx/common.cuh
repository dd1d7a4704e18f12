// What all kernels share: the types that memory holds, sums across a warp, and the tile product of both targets.
//
// Memory holds f16, bf16 or f32; registers hold f32. A load widens, a store rounds once, to nearest even.
#pragma once

#include "intrinsics.cuh"

constexpr unsigned WARP = 32;
constexpr unsigned ALL_LANES = 0xffffffffu;

// Storage types: bits only, so that no arithmetic happens in them by accident.
struct f16 {
    uint16_t bits;
};
struct bf16 {
    uint16_t bits;
};

// Two values of T in one word, the lower half first.
template <typename T> DEVICE float2 widen2(uint32_t pair);
template <typename T> DEVICE uint32_t narrow2(float low, float high);
template <typename T> DEVICE float widen(T value);
template <typename T> DEVICE T narrow(float value);

template <> DEVICE float widen<float>(float value) { return value; }
template <> DEVICE float narrow<float>(float value) { return value; }

template <> DEVICE float widen<f16>(f16 value) { return cvt_f32_f16(value.bits); }
template <> DEVICE f16 narrow<f16>(float value) { return f16{cvt_f16_f32(value)}; }
template <> DEVICE float2 widen2<f16>(uint32_t pair) {
    uint16_t low, high;
    unpack_b16(pair, low, high);
    return make_float2(cvt_f32_f16(low), cvt_f32_f16(high));
}
template <> DEVICE uint32_t narrow2<f16>(float low, float high) {
#if __CUDA_ARCH__ >= 800
    return cvt_f16x2_f32(high, low);
#else
    return pack_b16(cvt_f16_f32(low), cvt_f16_f32(high));
#endif
}

#if __CUDA_ARCH__ >= 800
// bf16 is the upper half of an f32.
template <> DEVICE float widen<bf16>(bf16 value) { return __uint_as_float(uint32_t(value.bits) << 16); }
template <> DEVICE bf16 narrow<bf16>(float value) { return bf16{cvt_bf16_f32(value)}; }
template <> DEVICE float2 widen2<bf16>(uint32_t pair) {
    return make_float2(__uint_as_float(pair << 16), __uint_as_float(pair & 0xffff0000u));
}
template <> DEVICE uint32_t narrow2<bf16>(float low, float high) { return cvt_bf16x2_f32(high, low); }
#endif

// Four neighbours, as one load or store: 8 bytes of a 16-bit type, 16 of f32.
template <typename T> struct Four {
    uint2 words;
    static DEVICE Four load(const T *from) { return Four{ld_global_v2(from)}; }
    DEVICE float4 widened() const {
        const float2 a = widen2<T>(words.x), b = widen2<T>(words.y);
        return make_float4(a.x, a.y, b.x, b.y);
    }
    static DEVICE Four narrowed(float4 v) { return Four{make_uint2(narrow2<T>(v.x, v.y), narrow2<T>(v.z, v.w))}; }
};
template <> struct Four<float> {
    float4 words;
    static DEVICE Four load(const float *from) { return Four{*reinterpret_cast<const float4 *>(from)}; }
    DEVICE float4 widened() const { return words; }
    static DEVICE Four narrowed(float4 v) { return Four{v}; }
};

// The sum over a warp, in every lane; the order is fixed by the butterfly.
DEVICE float warp_sum(float value) {
#pragma unroll
    for (unsigned distance = WARP / 2; distance > 0; distance /= 2) {
        value += __shfl_xor_sync(ALL_LANES, value, distance);
    }
    return value;
}

// c (16, 8) += a (16, 16) b (16, 8), fragments as ldmatrix_x4 gives them. Turing has the product of depth 8 only.
template <typename T> DEVICE void multiply_add(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1);
template <> DEVICE void multiply_add<f16>(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
#if __CUDA_ARCH__ >= 800
    mma_m16n8k16_f16(c, a, b0, b1);
#else
    mma_m16n8k8_f16(c, a[0], a[1], b0);
    mma_m16n8k8_f16(c, a[2], a[3], b1);
#endif
}
#if __CUDA_ARCH__ >= 800
template <> DEVICE void multiply_add<bf16>(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    mma_m16n8k16_bf16(c, a, b0, b1);
}
#endif
