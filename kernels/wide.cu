// The projections of many rows on Hopper. See wide.cuh.
//
// targets: sm_90a
#include "wide.cuh"

#define FORMAT(name, W, threads) \
    KIGO_KERNEL(wide_##name, ProjectParams, __launch_bounds__(threads, 1)) { wide<W, threads>(p); }

FORMAT(f16, WeightsF16, 512)
FORMAT(bf16, WeightsBF16, 512)
FORMAT(q4_0, WeightsQ4_0, 256)
FORMAT(q4_1, WeightsQ4_1, 256)
FORMAT(q5_0, WeightsQ5_0, 256)
FORMAT(q5_1, WeightsQ5_1, 256)
FORMAT(q8_0, WeightsQ8_0, 256)
FORMAT(q4_k, WeightsQ4_K, 256)
FORMAT(q5_k, WeightsQ5_K, 256)
FORMAT(q6_k, WeightsQ6_K, 256)
