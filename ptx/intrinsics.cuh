// The PTX instructions that C++ has no word for: one instruction a function.
// The chapter named above each group is that of the PTX ISA manual, the section is the instruction's own.
#pragma once

#include <stdint.h>

#define DEVICE __device__ __forceinline__

// "Data Movement and Conversion Instructions: cvt". Conversions to 16 bits round to nearest even.

DEVICE float cvt_f32_f16(uint16_t bits) {
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
    return value;
}

DEVICE uint16_t cvt_f16_f32(float value) {
    uint16_t bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    return bits;
}

#if __CUDA_ARCH__ >= 800
DEVICE uint32_t cvt_f16x2_f32(float high, float low) {
    uint32_t pair;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}

DEVICE uint16_t cvt_bf16_f32(float value) {
    uint16_t bits;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    return bits;
}

DEVICE uint32_t cvt_bf16x2_f32(float high, float low) {
    uint32_t pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}
#endif

// "Data Movement and Conversion Instructions: mov", packing and unpacking.

DEVICE uint32_t pack_b16(uint16_t low, uint16_t high) {
    uint32_t pair;
    asm("mov.b32 %0, {%1, %2};" : "=r"(pair) : "h"(low), "h"(high));
    return pair;
}

DEVICE void unpack_b16(uint32_t pair, uint16_t &low, uint16_t &high) {
    asm("mov.b32 {%0, %1}, %2;" : "=h"(low), "=h"(high) : "r"(pair));
}

// "Floating Point Instructions: ex2, lg2, rsqrt". Approximations, good to about 2 in the last place of f32;
// the two first flush subnormals, which the callers never feed them where it would show.

DEVICE float ex2_approx(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

DEVICE float lg2_approx(float x) {
    float y;
    asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

DEVICE float rsqrt_approx(float x) {
    float y;
    asm("rsqrt.approx.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// "Data Movement and Conversion Instructions: cvta". The 32-bit shared address that ldmatrix and cp.async take.

DEVICE uint32_t shared_address(const void *pointer) {
    return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

// "Data Movement and Conversion Instructions: ld, st". Neighbours in one access: the compiler takes wide accesses apart where
// it loses sight of their alignment, and every part then costs the sectors or banks of the whole.

// Only for memory that the kernel does not write: the compiler may move it.
DEVICE uint2 ld_global_v2(const void *from) {
    uint2 words;
    asm("ld.global.v2.b32 {%0, %1}, [%2];" : "=r"(words.x), "=r"(words.y) : "l"(__cvta_generic_to_global(from)));
    return words;
}

DEVICE void st_global_v4(void *to, uint4 words) {
    asm volatile("st.global.v4.b32 [%0], {%1, %2, %3, %4};" ::"l"(__cvta_generic_to_global(to)), "r"(words.x),
                 "r"(words.y), "r"(words.z), "r"(words.w)
                 : "memory");
}

DEVICE void st_shared_v2(uint32_t to, float first, float second) {
    asm volatile("st.shared.v2.f32 [%0], {%1, %2};" ::"r"(to), "f"(first), "f"(second) : "memory");
}

DEVICE void st_global_v2(void *to, uint2 words) {
    asm volatile("st.global.v2.b32 [%0], {%1, %2};" ::"l"(__cvta_generic_to_global(to)), "r"(words.x), "r"(words.y)
                 : "memory");
}

// "Warp Level Matrix Instructions: ldmatrix". Four 8 x 8 tiles of 16-bit words; lane l gives the address of row l % 8
// of tile l / 8, and gets words 2 (l % 4) and + 1 of row l / 4 of each tile (of each tile's transpose).

DEVICE void ldmatrix_x4(uint32_t (&tile)[4], uint32_t row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(tile[0]), "=r"(tile[1]), "=r"(tile[2]), "=r"(tile[3])
                 : "r"(row)
                 : "memory");
}

DEVICE void ldmatrix_x4_trans(uint32_t (&tile)[4], uint32_t row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(tile[0]), "=r"(tile[1]), "=r"(tile[2]), "=r"(tile[3])
                 : "r"(row)
                 : "memory");
}

// "Warp Level Matrix Instructions: mma". c += a b with a (16, k) by rows and b (k, 8) by columns, f32 sums. Lane l
// holds c at rows l / 4 and + 8, columns 2 (l % 4) and + 1.

DEVICE void mma_m16n8k8_f16(float (&c)[4], uint32_t a0, uint32_t a1, uint32_t b) {
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 "
                 "{%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a0), "r"(a1), "r"(b));
}

#if __CUDA_ARCH__ >= 800
DEVICE void mma_m16n8k16_f16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
                 "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

DEVICE void mma_m16n8k16_bf16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                 "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// "Data Movement and Conversion Instructions: Asynchronous copy". 16 bytes from global to shared memory, past L1. Of
// them `bytes` are read and the rest is zero.

DEVICE void cp_async_16(uint32_t to, const void *from, uint32_t bytes) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(bytes) : "memory");
}

DEVICE void cp_async_commit_group() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until at most PENDING of this thread's groups are under way.
template <int PENDING> DEVICE void cp_async_wait_group() {
    asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}
#endif
