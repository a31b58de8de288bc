// The projections of many rows on Hopper. See wide.cuh.
//
// targets: sm_90a
#include "wide.cuh"

#define FORMAT(name, W) \
    KIGO_KERNEL(wide32_##name, ProjectParams, __launch_bounds__(WIDE_THREADS, 1)) { wide<W, 32>(p); } \
    KIGO_KERNEL(wide64_##name, ProjectParams, __launch_bounds__(WIDE_THREADS, 1)) { wide<W, 64>(p); } \
    KIGO_KERNEL(wide128_##name, ProjectParams, __launch_bounds__(WIDE_THREADS, 1)) { wide<W, 128>(p); }

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

// A warp has two tiles: for weights that need no work before they are multiplied, and come
// fast enough only if few activations come with them.
KIGO_KERNEL(wide64_pairs_f16, ProjectParams, __launch_bounds__(WIDE_THREADS, 1)) { wide<WeightsF16, 64, 2>(p); }
KIGO_KERNEL(wide128_pairs_f16, ProjectParams, __launch_bounds__(WIDE_THREADS, 1)) { wide<WeightsF16, 128, 2>(p); }
