// How fast the tensor cores are by the instructions that the kernels of this folder
// multiply with, halves with sums in float32, when nothing has to be fetched: what a
// product by that instruction can reach at most. Results mean nothing.
#include "wgmma.cuh"

#define OPERANDS_A 2
#define OPERANDS_B 4
static_assert(OPERANDS_A * OPERANDS_B == kRateMmas, "the host counts them");

// Two halves from 0.5 to 1 of either sign, so that the multipliers have something
// to do, as with real values.
static __device__ __forceinline__ uint32_t halves(uint32_t n) {
    n = (n ^ (n >> 16)) * 0x85ebca6bu;
    n = (n ^ (n >> 13)) * 0xc2b2ae35u;
    return (n & 0x83ff83ffu) | 0x38003800u;
}

// mma.sync.m16n8k16. All operands stay in registers. Eight sums that do not wait for
// each other hide the latency of the instruction, together with the other warps.
KIGO_KERNEL(rate_mma, RateParams, __launch_bounds__(256)) {
    const uint32_t thread = blockIdx.x * blockDim.x + threadIdx.x;
    uint32_t a[OPERANDS_A][4], b[OPERANDS_B][2];
    float sum[OPERANDS_A][OPERANDS_B][4] = {};
#pragma unroll
    for (uint32_t i = 0; i < OPERANDS_A; i++) {
#pragma unroll
        for (uint32_t j = 0; j < 4; j++) {
            a[i][j] = halves(thread * 16 + i * 4 + j);
        }
    }
#pragma unroll
    for (uint32_t i = 0; i < OPERANDS_B; i++) {
#pragma unroll
        for (uint32_t j = 0; j < 2; j++) {
            b[i][j] = halves(thread * 16 + 8 + i * 2 + j);
        }
    }
#pragma unroll 4
    for (uint32_t round = 0; round < p.rounds; round++) {
#pragma unroll
        for (uint32_t i = 0; i < OPERANDS_A; i++) {
#pragma unroll
            for (uint32_t j = 0; j < OPERANDS_B; j++) {
                float *d = sum[i][j];
                asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                             : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                             : "r"(a[i][0]), "r"(a[i][1]), "r"(a[i][2]), "r"(a[i][3]), "r"(b[j][0]), "r"(b[j][1]));
            }
        }
    }
    // Written, or the compiler would leave all of it out.
    float all = 0.f;
#pragma unroll
    for (uint32_t i = 0; i < OPERANDS_A; i++) {
#pragma unroll
        for (uint32_t j = 0; j < OPERANDS_B; j++) {
            all += (sum[i][j][0] + sum[i][j][1]) + (sum[i][j][2] + sum[i][j][3]);
        }
    }
    p.out[thread] = all;
}

#ifdef __CUDA_ARCH_FEAT_SM90_ALL

// wgmma.m64n128k16, the first operand from registers, the second from shared memory: four
// chunks of 16 columns side by side in rows of 128 bytes, swizzled. The warps of a
// block, and those of other blocks, take turns while one waits for its sums.
KIGO_KERNEL(rate_wgmma, RateParams, __launch_bounds__(256)) {
    __shared__ __align__(1024) uint32_t shared[128 * 128 / 4];
    const uint32_t thread = blockIdx.x * blockDim.x + threadIdx.x;
    for (uint32_t i = threadIdx.x; i < 128 * 128 / 4; i += blockDim.x) {
        shared[i] = halves(i);
    }
    uint32_t a[2][4];
#pragma unroll
    for (uint32_t i = 0; i < 2; i++) {
#pragma unroll
        for (uint32_t j = 0; j < 4; j++) {
            a[i][j] = halves(thread * 8 + i * 4 + j);
        }
    }
    float sum[64] = {};
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); // wgmma reads by another way than threads write
    __syncthreads();
    // The matrix descriptor: 128-byte swizzle, 1,024 bytes from 8 rows to the next 8.
    const uint32_t at = (uint32_t)__cvta_generic_to_shared(shared);
    const uint64_t b = (uint64_t)((at & 0x3ffff) >> 4) | (uint64_t)1 << 16 | (uint64_t)64 << 32 | (uint64_t)1 << 62;
#pragma unroll 1
    for (uint32_t round = 0; round < p.rounds; round++) {
        wgmma_fence();
#pragma unroll
        for (uint32_t i = 0; i < kRateWgmmas; i++) {
            wgmma<128>(sum, a[i % 2], b + i % 4 * 2, true); // a chunk is 32 bytes, and descriptors count in 16
        }
        wgmma_commit();
        wgmma_wait<0>();
    }
    float all = 0.f;
#pragma unroll
    for (uint32_t i = 0; i < 64; i++) {
        all += sum[i];
    }
    p.out[thread] = all;
}

#endif
