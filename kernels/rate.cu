// How fast the tensor cores are by the instructions that the kernels of this folder
// multiply with, halves with sums in float32, when nothing has to be fetched: what a
// product by that instruction can reach at most. Results mean nothing.
#include "kigo.cuh"

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

// d[64 x 128] += a[64 x 16] * b[16 x 128], by four warps together.
static __device__ __forceinline__ void wgmma(float *d, const uint32_t *a, uint64_t b) {
    asm volatile("wgmma.mma_async.sync.aligned.m64n128k16.f32.f16.f16 {"
                 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
                 "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
                 "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
                 "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
                 "}, {%64, %65, %66, %67}, %68, 1, 1, 1, 0;"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]),
                   "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]),
                   "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]),
                   "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31]),
                   "+f"(d[32]), "+f"(d[33]), "+f"(d[34]), "+f"(d[35]), "+f"(d[36]), "+f"(d[37]), "+f"(d[38]), "+f"(d[39]),
                   "+f"(d[40]), "+f"(d[41]), "+f"(d[42]), "+f"(d[43]), "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47]),
                   "+f"(d[48]), "+f"(d[49]), "+f"(d[50]), "+f"(d[51]), "+f"(d[52]), "+f"(d[53]), "+f"(d[54]), "+f"(d[55]),
                   "+f"(d[56]), "+f"(d[57]), "+f"(d[58]), "+f"(d[59]), "+f"(d[60]), "+f"(d[61]), "+f"(d[62]), "+f"(d[63])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}

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
        asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#pragma unroll
        for (uint32_t i = 0; i < kRateWgmmas; i++) {
            wgmma(sum, a[i % 2], b + i % 4 * 2); // a chunk is 32 bytes, and descriptors count in 16
        }
        asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
        asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
    }
    float all = 0.f;
#pragma unroll
    for (uint32_t i = 0; i < 64; i++) {
        all += sum[i];
    }
    p.out[thread] = all;
}

#endif
