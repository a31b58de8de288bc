// The projections of every format. See project.cuh.
#include "few.cuh"
#include "many.cuh"
#include "one.cuh"

// Where wide is (wide.cu), many is not needed. Of 16-bit weights two of its blocks fit on a
// multiprocessor, if a dozen registers are spilled; what is better was not measured.
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
#define MANY(name, W)
#else
#define MANY(name, W) \
    KIGO_KERNEL(many_##name, ProjectParams, __launch_bounds__(MANY_WARPS * 32, W::CHUNKS == 1 ? 2 : 1)) { many<W>(p); }
#endif

#define FORMAT(name, W) \
    KIGO_KERNEL(one_##name, ProjectParams, __launch_bounds__(ONE_THREADS, 1)) { one<W>(p, p.share[0]); } \
    KIGO_KERNEL(few_##name, ProjectParams, __launch_bounds__(FEW_WARPS * 32, W::BLOCKS)) { few<W>(p); } \
    MANY(name, W)

FORMAT(f16, WeightsF16)
FORMAT(bf16, WeightsBF16)
FORMAT(q4_0, WeightsQ4_0)
FORMAT(q4_1, WeightsQ4_1)
FORMAT(q5_0, WeightsQ5_0)
FORMAT(q5_1, WeightsQ5_1)
FORMAT(q8_0, WeightsQ8_0)
FORMAT(q4_k, WeightsQ4_K)
FORMAT(q5_k, WeightsQ5_K)
FORMAT(q6_k, WeightsQ6_K)

// A single row and matrices of two formats that llama.cpp's mixtures have side by side.
// Such a model takes these kernels for either format alone as well: their code is still
// there from the product before.
#define FORMATS(first, First, second, Second) \
    KIGO_KERNEL(one_##first##_##second, ProjectParams, __launch_bounds__(ONE_THREADS, 1)) { \
        if (blockIdx.x < p.share[1].block) \
            one<First>(p, p.share[0]); \
        else \
            one<Second>(p, p.share[1]); \
    }

FORMATS(q5_0, WeightsQ5_0, q8_0, WeightsQ8_0)
FORMATS(q5_1, WeightsQ5_1, q8_0, WeightsQ8_0)
FORMATS(q4_k, WeightsQ4_K, q6_k, WeightsQ6_K)
FORMATS(q5_k, WeightsQ5_K, q6_k, WeightsQ6_K)

// Weights in float32, which models use for little: a warp computes one output of
// one row, in float32 throughout. Grid: (outputs / warps, rows).
KIGO_KERNEL(project_f32, ProjectF32Params) {
    let_next_start();
    wait_for_previous();
    uint32_t lane = threadIdx.x % 32, output = (blockIdx.x * blockDim.x + threadIdx.x) / 32, row = blockIdx.y;
    if (output >= p.outs)
        return;
    const float *w = (const float *)p.weight + (uint64_t)output * p.cols, *x = (const float *)p.in + (uint64_t)row * p.cols;
    float sum = 0;
    for (uint32_t i = lane; i < p.cols; i += 32)
        sum = fmaf(w[i], x[i], sum);
    for (int d = 16; d; d >>= 1)
        sum += __shfl_xor_sync(~0u, sum, d);
    if (lane)
        return;
    if (p.bias)
        sum += ((const float *)p.bias)[output];
    uint64_t at = (uint64_t)row * p.outs + output;
    if (p.residual)
        sum += ((const float *)p.residual)[at];
    ((float *)p.out)[at] = sum;
}
