// The largest logits of a row, without sorting it: a histogram over the leading
// bits of their ranks says from where on there are enough of them, and those are
// collected; the host puts them in order.
#include "device.cuh"

static constexpr uint32_t BINS = 4096; // sign, exponent and three bits of the fraction
static constexpr uint32_t CHOOSE_THREADS = 256;

// A number that rises with y; that of -0 is that of 0.
__device__ __forceinline__ uint32_t rank_of(float y) {
    uint32_t bits = __float_as_uint(__fadd_rn(y, 0.f));
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

KIGO_KERNEL(choose_count, ChooseParams, __launch_bounds__(CHOOSE_THREADS)) {
    __shared__ uint32_t bins[BINS];
    for (uint32_t i = threadIdx.x; i < BINS; i += CHOOSE_THREADS)
        bins[i] = 0;
    __syncthreads();
    for (uint32_t i = blockIdx.x * CHOOSE_THREADS + threadIdx.x; i < p.count; i += gridDim.x * CHOOSE_THREADS)
        atomicAdd(&bins[rank_of(((const float *)p.logits)[i]) >> 20], 1);
    __syncthreads();
    for (uint32_t i = threadIdx.x; i < BINS; i += CHOOSE_THREADS)
        if (bins[i])
            atomicAdd((uint32_t *)p.bins + i, bins[i]);
}

// Every block finds the lowest bin that is needed, and collects what it sees of
// that bin and above. The order in the list is left to chance; the host sorts.
KIGO_KERNEL(choose_collect, ChooseParams, __launch_bounds__(CHOOSE_THREADS)) {
    constexpr uint32_t PART = BINS / CHOOSE_THREADS;
    __shared__ uint32_t parts[CHOOSE_THREADS], lowest;
    const uint32_t *bins = (const uint32_t *)p.bins;
    const uint32_t top = BINS - 1 - threadIdx.x * PART; // the thread's bins, from here down
    uint32_t sum = 0;
    for (uint32_t i = 0; i < PART; i++)
        sum += bins[top - i];
    parts[threadIdx.x] = sum;
    if (threadIdx.x == 0)
        lowest = 0; // fewer logits than wanted: all
    __syncthreads();
    uint32_t above = 0;
    for (uint32_t t = 0; t < threadIdx.x; t++)
        above += parts[t];
    if (above < p.wanted && above + sum >= p.wanted) { // in one thread
        uint32_t bin = top;
        for (above += bins[bin]; above < p.wanted; above += bins[bin])
            bin--;
        lowest = bin;
    }
    __syncthreads();
    for (uint32_t i = blockIdx.x * CHOOSE_THREADS + threadIdx.x; i < p.count; i += gridDim.x * CHOOSE_THREADS) {
        uint32_t rank = rank_of(((const float *)p.logits)[i]);
        if (rank >> 20 < lowest)
            continue;
        uint32_t at = atomicAdd((uint32_t *)p.found, 1);
        if (at < p.room)
            ((uint64_t *)p.list)[at] = (uint64_t)rank << 32 | (uint32_t)~i;
    }
}
