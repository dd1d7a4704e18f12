// Counts how often each of 32 values occurs: what the shipped kernels never do, atomics, for the tests that plant bugs.
//
// computes   counts[v] += number of i with values[i] == v
// pointers   values (n) of u32 below 32, counts (32) of u32
// owners     a block every (gridDim)-th run of 128 values; it counts in shared memory first
// outputs    counts are added to
// launch     blocks of 128 threads in x, any number of them
#include "../../ptx/common.cuh"

extern "C" __global__ void __launch_bounds__(128) count_fwd_u32(const uint32_t *values, uint32_t *counts, uint32_t n) {
    __shared__ uint32_t bins[WARP];
    if (threadIdx.x < WARP) {
        bins[threadIdx.x] = 0;
    }
    __syncthreads();
    for (unsigned i = blockIdx.x * 128 + threadIdx.x; i < n; i += gridDim.x * 128) {
        atomicAdd(&bins[values[i] % WARP], 1u);
    }
    __syncthreads();
    if (threadIdx.x < WARP) {
        atomicAdd(&counts[threadIdx.x], bins[threadIdx.x]);
    }
}
