// Small kernels for the tests of ptx-vm.
#include <stdint.h>
extern "C" __global__ void axpy(float a, const float *x, float *y, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = a * x[i] + y[i];
}
extern "C" __global__ void __launch_bounds__(128) block_sum(const float *x, float *sums, int n) {
    __shared__ float part[128];
    int t = threadIdx.x, i = blockIdx.x * 128 + t;
    part[t] = i < n ? x[i] : 0.0f;
    __syncthreads();
    for (int half = 64; half > 0; half >>= 1) {
        if (t < half) part[t] += part[t + half];
        __syncthreads();
    }
    if (t == 0) sums[blockIdx.x] = part[0];
}
extern "C" __global__ void __launch_bounds__(1024) transpose(const float *x, float *y, int n) {
    __shared__ float tile[32][32];
    int c = blockIdx.x * 32 + threadIdx.x, r = blockIdx.y * 32 + threadIdx.y;
    tile[threadIdx.y][threadIdx.x] = x[r * n + c];
    __syncthreads();
    y[(blockIdx.x * 32 + threadIdx.y) * n + blockIdx.y * 32 + threadIdx.x] = tile[threadIdx.x][threadIdx.y];
}
extern "C" __global__ void histogram(const uint8_t *x, uint32_t *counts, int n) {
    __shared__ uint32_t bins[256];
    for (int b = threadIdx.x; b < 256; b += blockDim.x) bins[b] = 0;
    __syncthreads();
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) atomicAdd(&bins[x[i]], 1u);
    __syncthreads();
    for (int b = threadIdx.x; b < 256; b += blockDim.x) atomicAdd(&counts[b], bins[b]);
}
extern "C" __global__ void __launch_bounds__(64) stage(const float4 *x, float4 *y) {
    __shared__ float4 tile[64];
    unsigned to = (unsigned)__cvta_generic_to_shared(&tile[threadIdx.x]);
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(x + blockIdx.x * 64 + threadIdx.x));
    asm volatile("cp.async.commit_group;");
    asm volatile("cp.async.wait_group 0;");
    __syncthreads();
    y[blockIdx.x * 64 + threadIdx.x] = tile[63 - threadIdx.x];
}
__constant__ float weights[4] = {1, 2, 4, 8};
__device__ int calls = 3;
struct Pair { int a; double b; };
__noinline__ __device__ float shifted(float x, Pair p, int *count) { *count += p.a; return x * weights[p.a & 3] + (float)p.b; }
extern "C" __global__ void calls_and_locals(const float *x, float *y, Pair p, int n) {
    float held[8];
    for (int i = 0; i < 8; i++) held[i] = x[i] * i;
    int count = calls;
    float s = shifted(x[threadIdx.x], p, &count);
    switch (n) { case 0: s += 1; break; case 1: s *= 2; break; case 2: s -= 3; break; case 3: s = -s; break; case 4: s = s * s; break; default: s = 0; }
    y[threadIdx.x] = s + held[n & 7] + count + sinf(x[1]);
}
