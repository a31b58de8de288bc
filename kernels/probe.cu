// The self-test: each thread writes where it is in the grid, and the parameters as
// it sees them, so that a launch with one block or many, and the layout of the
// parameters, can be proven on the device before anything else is believed.
#include "kigo.cuh"

KIGO_KERNEL(probe, ProbeParams, __launch_bounds__(1024)) {
    const uint64_t width = (uint64_t)gridDim.x * blockDim.x;
    const uint64_t height = (uint64_t)gridDim.y * blockDim.y;
    const uint64_t x = (uint64_t)blockIdx.x * blockDim.x + threadIdx.x;
    const uint64_t y = (uint64_t)blockIdx.y * blockDim.y + threadIdx.y;
    const uint64_t z = (uint64_t)blockIdx.z * blockDim.z + threadIdx.z;
    const uint64_t i = x + width * (y + height * z);
    if (i >= p.count) {
        return;
    }
    ProbeRecord &r = p.out[i];
    r.block[0] = blockIdx.x;
    r.block[1] = blockIdx.y;
    r.block[2] = blockIdx.z;
    r.thread[0] = threadIdx.x;
    r.thread[1] = threadIdx.y;
    r.thread[2] = threadIdx.z;
#ifdef __CUDA_ARCH__
    r.arch = __CUDA_ARCH__;
#endif
    r.size = sizeof(ProbeParams);
    r.address = (uint64_t)p.out;
    r.wide = p.wide;
    r.signed_wide = p.signed_wide;
    r.real = p.real;
    r.whole = p.whole;
    for (int n = 0; n < 5; n++) {
        r.bytes[n] = p.bytes[n];
    }
    for (int n = 0; n < 2; n++) {
        r.inner[n] = p.inner[n];
    }
}
