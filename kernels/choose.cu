// The largest logits of some rows, without sorting them: a histogram over the
// leading bits of a row's ranks says from where on there are enough of them, those
// are collected, and they alone are put in order.
#include "device.cuh"

static constexpr uint32_t BINS = 4096; // sign, exponent and three bits of the fraction
static constexpr uint32_t CHOOSE_THREADS = 256, SORT_THREADS = 512, AT_ONCE = 4;

// A number that rises with y; that of -0 is that of 0.
__device__ __forceinline__ uint32_t rank_of(float y) {
    uint32_t bits = __float_as_uint(__fadd_rn(y, 0.f));
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

// What the launch wants of the row of the block: where it is, and how many.
struct Wanted {
    const float *logits;
    uint32_t many;
    uint32_t *bins, *found;
    uint64_t *list;
    __device__ __forceinline__ Wanted(const ChooseParams &p) {
        const uint32_t n = blockIdx.y;
        logits = (const float *)p.logits + (uint64_t)((const uint32_t *)p.rows)[n] * p.count;
        many = ((const uint32_t *)p.wanted)[n];
        bins = (uint32_t *)p.bins + (uint64_t)n * (BINS + 2);
        found = bins + BINS;
        list = (uint64_t *)p.list + (uint64_t)n * p.room;
    }
};

// Calls use(i, rank) for the block's share of the row; several loads are under way
// at a time.
template <class Use> __device__ __forceinline__ void each(const ChooseParams &p, const float *logits, Use use) {
    const uint32_t stride = gridDim.x * CHOOSE_THREADS;
    for (uint32_t at = blockIdx.x * CHOOSE_THREADS + threadIdx.x; at < p.count; at += AT_ONCE * stride) {
        float y[AT_ONCE];
#pragma unroll
        for (uint32_t u = 0; u < AT_ONCE; u++)
            y[u] = at + u * stride < p.count ? __ldg(logits + at + u * stride) : 0;
#pragma unroll
        for (uint32_t u = 0; u < AT_ONCE; u++)
            if (at + u * stride < p.count)
                use(at + u * stride, rank_of(y[u]));
    }
}

// The largest logit of each row, raised into out: for logits of products that do not
// rank what they make. Grid: (blocks that share a row, rows).
KIGO_KERNEL(choose_largest, ChooseParams, __launch_bounds__(CHOOSE_THREADS)) {
    __shared__ uint64_t parts[CHOOSE_THREADS / 32];
    let_next_start();
    wait_for_previous();
    uint64_t best = 0;
    each(p, (const float *)p.logits + (uint64_t)blockIdx.y * p.count, [&](uint32_t i, uint32_t rank) { best = max(best, (uint64_t)rank << 32 | (uint32_t)~i); });
#pragma unroll
    for (int d = 16; d; d >>= 1)
        best = max(best, (uint64_t)__shfl_xor_sync(~0u, best, d));
    if (threadIdx.x % 32 == 0)
        parts[threadIdx.x / 32] = best;
    __syncthreads();
    if (threadIdx.x)
        return;
    for (uint32_t w = 1; w < CHOOSE_THREADS / 32; w++)
        best = max(best, parts[w]);
    atomicMax((unsigned long long *)p.out + blockIdx.y, (unsigned long long)best);
}

// Grid: (blocks that share a row, rows).
KIGO_KERNEL(choose_count, ChooseParams, __launch_bounds__(CHOOSE_THREADS)) {
    __shared__ uint32_t bins[BINS];
    for (uint32_t i = threadIdx.x; i < BINS; i += CHOOSE_THREADS)
        bins[i] = 0;
    __syncthreads();
    wait_for_previous();
    Wanted w(p);
    each(p, w.logits, [&](uint32_t, uint32_t rank) { atomicAdd(&bins[rank >> 20], 1); });
    __syncthreads();
    for (uint32_t i = threadIdx.x; i < BINS; i += CHOOSE_THREADS)
        if (bins[i])
            atomicAdd(w.bins + i, bins[i]);
}

// Every block finds the lowest bin of its row that is needed, and collects what it
// sees of that bin and above. The order in the list is left to chance.
// Grid: (blocks that share a row, rows).
KIGO_KERNEL(choose_collect, ChooseParams, __launch_bounds__(CHOOSE_THREADS)) {
    constexpr uint32_t PART = BINS / CHOOSE_THREADS;
    __shared__ uint32_t parts[CHOOSE_THREADS], lowest;
    wait_for_previous();
    Wanted w(p);
    const uint32_t top = BINS - 1 - threadIdx.x * PART; // the thread's bins, from here down
    uint32_t sum = 0;
    for (uint32_t i = 0; i < PART; i++)
        sum += w.bins[top - i];
    parts[threadIdx.x] = sum;
    if (threadIdx.x == 0)
        lowest = 0; // fewer logits than wanted: all
    __syncthreads();
    uint32_t above = 0;
    for (uint32_t t = 0; t < threadIdx.x; t++)
        above += parts[t];
    if (above < w.many && above + sum >= w.many) { // in one thread
        uint32_t bin = top;
        for (above += w.bins[bin]; above < w.many; above += w.bins[bin])
            bin--;
        lowest = bin;
    }
    __syncthreads();
    each(p, w.logits, [&](uint32_t i, uint32_t rank) {
        if (rank >> 20 < lowest)
            return;
        uint32_t at = atomicAdd(w.found, 1);
        if (at < p.room)
            w.list[at] = (uint64_t)rank << 32 | (uint32_t)~i;
    });
}

// Puts a row's list in order, by a bitonic network in shared memory, and gives its
// length and as many of it as are wanted: a row of (1 + most) numbers in out. A list
// without room for all of a row's gives its length alone.
// Grid: (1, rows).
KIGO_KERNEL(choose_sort, ChooseParams, __launch_bounds__(SORT_THREADS)) {
    __shared__ uint64_t list[2 * SORT_THREADS];
    wait_for_previous();
    Wanted w(p);
    const uint32_t found = *w.found;
    uint64_t *out = (uint64_t *)p.out + (uint64_t)blockIdx.y * (1 + p.most);
    if (threadIdx.x == 0)
        out[0] = found;
    if (found > p.room || found > 2 * SORT_THREADS)
        return;
    uint32_t size = 2;
    while (size < found)
        size *= 2;
    for (uint32_t i = threadIdx.x; i < size; i += SORT_THREADS)
        list[i] = i < found ? w.list[i] : 0;
    for (uint32_t run = 2; run <= size; run *= 2)
        for (uint32_t half = run / 2; half; half /= 2) {
            __syncthreads();
            if (threadIdx.x < size / 2) {
                uint32_t a = threadIdx.x / half * half * 2 + threadIdx.x % half, b = a + half;
                uint64_t x = list[a], y = list[b];
                if ((x < y) == ((a & run) == 0)) { // largest first, in the end
                    list[a] = y;
                    list[b] = x;
                }
            }
        }
    __syncthreads();
    for (uint32_t i = threadIdx.x; i < min(found, w.many); i += SORT_THREADS)
        out[1 + i] = list[i];
}
