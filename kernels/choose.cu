// The next token of some rows of logits, chosen where they are: the largest logit, or
// one drawn as sample.Plan in engine/sample says, with the same result to the bit.
//
// Nothing is sorted but what top-p or top-k end in. Weights are whole numbers, so the
// order of a sum does not matter: sums over bins of equal size tell the bin in which
// enough is reached, and its members alone are collected and put in order. Sums over
// chunks of ids tell the chunk of the drawn token.
//
//   draw_start    edits logits, which draw_pick takes back
//   draw_largest  the largest logit, of rows whose product's does not do
//   draw_weigh    sums over bins, for top-k and top-p
//   draw_collect  the members of the last bin; for top-k of those before it, too
//   draw_cut      the last token that stays; for top-k the drawn token
//   draw_sum      sums over chunks of what stays
//   draw_pick     the drawn token
#include "device.cuh"
#include "weight.cuh"

static constexpr uint32_t THREADS = 256, SORT_THREADS = 512, AT_ONCE = 4;
static constexpr uint32_t SORT_PART = kDrawRoom / SORT_THREADS;

// A number that rises with y; that of -0 is that of 0.
__device__ __forceinline__ uint32_t rank_of(float y) {
    uint32_t bits = __float_as_uint(__fadd_rn(y, 0.f));
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}
__device__ __forceinline__ float logit_of(uint32_t rank) { return __uint_as_float(rank & 0x80000000u ? rank & 0x7fffffffu : ~rank); }

// The larger logit first, of equal ones the lower id.
__device__ __forceinline__ uint64_t key_of(float y, uint32_t id) { return (uint64_t)rank_of(y) << 32 | (uint32_t)~id; }

static constexpr uint32_t LOWEST = 0x007fffffu;  // the rank of -inf
static constexpr uint32_t HIGHEST = 0xff800000u; // the rank of inf, below that of NaN

// Calls use(i, y) for the block's share of count logits; several loads are under way
// at a time.
template <class Use> __device__ __forceinline__ void each(uint32_t count, const float *logits, Use use) {
    const uint32_t stride = gridDim.x * THREADS;
    for (uint32_t at = blockIdx.x * THREADS + threadIdx.x; at < count; at += AT_ONCE * stride) {
        float y[AT_ONCE];
#pragma unroll
        for (uint32_t u = 0; u < AT_ONCE; u++)
            y[u] = at + u * stride < count ? __ldg(logits + at + u * stride) : 0;
#pragma unroll
        for (uint32_t u = 0; u < AT_ONCE; u++)
            if (at + u * stride < count)
                use(at + u * stride, y[u]);
    }
}

// Raises *to to the largest of the block's.
__device__ __forceinline__ void raise_to(uint64_t *to, uint64_t best) {
    __shared__ uint64_t parts[THREADS / 32];
#pragma unroll
    for (int d = 16; d; d >>= 1)
        best = max(best, (uint64_t)__shfl_xor_sync(~0u, best, d));
    if (threadIdx.x % 32 == 0)
        parts[threadIdx.x / 32] = best;
    __syncthreads();
    if (threadIdx.x)
        return;
    for (uint32_t w = 1; w < THREADS / 32; w++)
        best = max(best, parts[w]);
    atomicMax((unsigned long long *)to, (unsigned long long)best);
}

// The largest logit of each row, raised into out: for logits of products that do not
// rank what they make. Grid: (blocks that share a row, rows).
KIGO_KERNEL(choose_largest, ChooseParams, __launch_bounds__(THREADS)) {
    let_next_start();
    wait_for_previous();
    uint64_t best = 0;
    each(p.count, (const float *)p.logits + (uint64_t)blockIdx.y * p.count, [&](uint32_t i, float y) { best = max(best, key_of(y, i)); });
    raise_to((uint64_t *)p.out + blockIdx.y, best);
}

// What the launch wants of the row of the block, and where that stands.
struct Draw {
    const DrawRow &want;
    DrawState &state;
    float *logits;
    uint64_t *bins, *list, *sums;
    __device__ __forceinline__ Draw(const DrawParams &p) : want(((const DrawRow *)p.rows)[blockIdx.y]), state(((DrawState *)p.states)[blockIdx.y]) {
        logits = (float *)p.logits + (uint64_t)want.row * p.count;
        bins = (uint64_t *)p.bins + (uint64_t)blockIdx.y * kDrawBins;
        list = (uint64_t *)p.list + (uint64_t)blockIdx.y * kDrawRoom;
        sums = (uint64_t *)p.sums + (uint64_t)blockIdx.y * p.chunks;
    }
    // Something is to be drawn, and everything has been a number so far. Where other
    // threads may find what is not meanwhile, ask for the block.
    __device__ __forceinline__ bool draws() const { return want.scale != 0 && good(); }
    __device__ __forceinline__ bool block_draws() const { return __syncthreads_and(draws()); }
    __device__ __forceinline__ bool good() const {
        const uint32_t rank = (uint32_t)(state.largest >> 32);
        return !state.bad && rank > LOWEST && rank < HIGHEST;
    }
    __device__ __forceinline__ bool cuts() const { return want.top || want.share; }
    __device__ __forceinline__ double largest() const { return (double)logit_of((uint32_t)(state.largest >> 32)); }
    __device__ __forceinline__ bool allows(uint32_t id) const {
        const uint32_t *mask = (const uint32_t *)want.allowed;
        return !mask || (mask[id / 32] >> id % 32 & 1);
    }
};

// The sum of what the threads before have. Every thread gets the sum of all.
template <uint32_t COUNT> __device__ __forceinline__ uint64_t before(uint64_t mine, uint64_t &total) {
    __shared__ uint64_t parts[COUNT / 32];
    uint64_t sum = mine;
#pragma unroll
    for (uint32_t d = 1; d < 32; d *= 2) {
        uint64_t other = __shfl_up_sync(~0u, sum, d);
        if (threadIdx.x % 32 >= d)
            sum += other;
    }
    __syncthreads(); // the last call's parts have been read
    if (threadIdx.x % 32 == 31)
        parts[threadIdx.x / 32] = sum;
    __syncthreads();
    sum -= mine;
    total = 0;
    for (uint32_t w = 0; w < COUNT / 32; w++) {
        if (w < threadIdx.x / 32)
            sum += parts[w];
        total += parts[w];
    }
    return sum;
}

// The first of n numbers, at most COUNT * PART, with which their sum reaches what limit
// makes of the sum of all: from 1 to that. skipped is the sum of those before it.
template <uint32_t COUNT, uint32_t PART, class Number, class Limit>
__device__ __forceinline__ uint32_t reach(uint32_t n, Number number, Limit limit, uint64_t &skipped) {
    __shared__ uint32_t at;
    __shared__ uint64_t above;
    uint64_t part[PART], mine = 0, total;
    if (threadIdx.x == 0)
        at = above = 0;
#pragma unroll
    for (uint32_t j = 0; j < PART; j++) {
        const uint32_t i = threadIdx.x * PART + j;
        part[j] = i < n ? number(i) : 0;
        mine += part[j];
    }
    uint64_t sum = before<COUNT>(mine, total);
    const uint64_t enough = limit(total);
    if (sum < enough && sum + mine >= enough) { // in one thread
#pragma unroll
        for (uint32_t j = 0; j < PART; j++) {
            if (sum < enough && sum + part[j] >= enough) {
                at = threadIdx.x * PART + j;
                above = sum;
            }
            sum += part[j];
        }
    }
    __syncthreads();
    skipped = above;
    return at;
}

// Grid: (1, rows).
KIGO_KERNEL(draw_start, DrawParams, __launch_bounds__(THREADS)) {
    let_next_start();
    wait_for_previous();
    const Draw d(p);
    if (d.cuts())
        for (uint32_t i = threadIdx.x; i < kDrawBins; i += THREADS)
            d.bins[i] = 0;
    DrawEdit *edits = (DrawEdit *)d.want.edits;
    for (uint32_t i = threadIdx.x; i < d.want.edited; i += THREADS) {
        const DrawEdit e = edits[i];
        const float old = d.logits[e.id];
        float y = __fadd_rn(old, e.bias);
        if (__float_as_uint(e.bias) == 0xff800000u) // -inf
            y = e.bias;
        if (e.times) {
            y = y > 0 ? __fdiv_rn(y, d.want.repetition) : __fmul_rn(y, d.want.repetition);
            y = __fsub_rn(__fsub_rn(y, d.want.presence), __fmul_rn((float)e.times, d.want.frequency));
        }
        d.logits[e.id] = y;
        edits[i].bias = old;
    }
    if (threadIdx.x == 0) {
        DrawState s = {};
        if (!d.want.search)
            s.largest = ((const uint64_t *)p.best)[d.want.row];
        d.state = s;
    }
}

// Grid: (blocks that share a row, rows).
KIGO_KERNEL(draw_largest, DrawParams, __launch_bounds__(THREADS)) {
    let_next_start();
    wait_for_previous();
    const Draw d(p);
    if (!d.want.search)
        return;
    uint64_t best = 0;
    each(d.want.vocab, d.logits, [&](uint32_t i, float y) {
        if (!(y < __uint_as_float(0x7f800000u))) // NaN and inf, whether allowed or not
            best = ~0ull;
        else if (d.allows(i))
            best = max(best, key_of(y, i));
    });
    raise_to(&d.state.largest, best);
}

// Grid: (blocks that share a row, rows).
KIGO_KERNEL(draw_weigh, DrawParams, __launch_bounds__(THREADS)) {
    __shared__ uint32_t low[kDrawBins], high[kDrawBins];
    let_next_start();
    wait_for_previous();
    const Draw d(p);
    if (!d.cuts() || !d.block_draws())
        return;
    for (uint32_t i = threadIdx.x; i < kDrawBins; i += THREADS)
        low[i] = high[i] = 0;
    __syncthreads();
    const double largest = d.largest(), scale = d.want.scale;
    const bool counts = d.want.top != 0;
    each(d.want.vocab, d.logits, [&](uint32_t i, float y) {
        const double place = place_of(largest, y, scale);
        if (place >= LAST_PLACE || !d.allows(i))
            return;
        if (!(place >= FIRST_PLACE)) {
            d.state.bad = 1;
            return;
        }
        // Atomic in two halves: shared memory has no atomics of 64 bits that are fast.
        const uint64_t w = counts ? 1 : weight_of(place);
        const uint32_t bin = bin_of(place), part = (uint32_t)w;
        const uint32_t up = (uint32_t)(w >> 32) + (atomicAdd(low + bin, part) + part < part);
        if (up)
            atomicAdd(high + bin, up);
    });
    __syncthreads();
    for (uint32_t i = threadIdx.x; i < kDrawBins; i += THREADS)
        if (low[i] | high[i])
            atomicAdd((unsigned long long *)d.bins + i, (unsigned long long)((uint64_t)high[i] << 32 | low[i]));
}

// Every block finds the bin with which there is enough, and collects what it sees of
// it. The order in the list is left to chance.
// Grid: (blocks that share a row, rows).
KIGO_KERNEL(draw_collect, DrawParams, __launch_bounds__(THREADS)) {
    let_next_start();
    wait_for_previous();
    const Draw d(p);
    if (!d.cuts() || !d.draws())
        return;
    const uint32_t top = d.want.top;
    uint64_t skipped, enough = 0;
    const uint32_t last = reach<THREADS, (kDrawBins + THREADS - 1) / THREADS>(
        kDrawBins, [&](uint32_t i) { return d.bins[i]; },
        [&](uint64_t total) { return enough = top ? min((uint64_t)top, total) : share_of(d.want.share, total); }, skipped);
    if (blockIdx.x == 0 && threadIdx.x == 0)
        d.state.missing = enough - skipped;
    const double largest = d.largest(), scale = d.want.scale;
    const uint32_t first = top ? 0 : last;
    each(d.want.vocab, d.logits, [&](uint32_t i, float y) {
        const double place = place_of(largest, y, scale);
        if (place >= LAST_PLACE || bin_of(place) < first || bin_of(place) > last || !d.allows(i))
            return;
        uint32_t at = atomicAdd(&d.state.found, 1);
        if (at < kDrawRoom)
            d.list[at] = key_of(y, i);
    });
}

// Puts n keys in order, the largest first, by a bitonic network.
__device__ __forceinline__ void sort(uint64_t *keys, uint32_t n) {
    uint32_t size = 2;
    while (size < n)
        size *= 2;
    for (uint32_t i = n + threadIdx.x; i < size; i += SORT_THREADS)
        keys[i] = 0;
    for (uint32_t run = 2; run <= size; run *= 2)
        for (uint32_t half = run / 2; half; half /= 2) {
            __syncthreads();
            for (uint32_t i = threadIdx.x; i < size / 2; i += SORT_THREADS) {
                uint32_t a = i / half * half * 2 + i % half, b = a + half;
                uint64_t x = keys[a], y = keys[b];
                if ((x < y) == ((a & run) == 0)) { // largest first, in the end
                    keys[a] = y;
                    keys[b] = x;
                }
            }
        }
    __syncthreads();
}

// Grid: (1, rows).
KIGO_KERNEL(draw_cut, DrawParams, __launch_bounds__(SORT_THREADS)) {
    __shared__ uint64_t keys[kDrawRoom];
    let_next_start();
    wait_for_previous();
    const Draw d(p);
    if (!d.cuts() || !d.draws())
        return;
    uint32_t n = d.state.found;
    const uint32_t top = d.want.top;
    if (n > kDrawRoom) {
        if (threadIdx.x == 0)
            d.state.bad = 1;
        return;
    }
    for (uint32_t i = threadIdx.x; i < n; i += SORT_THREADS)
        keys[i] = d.list[i];
    sort(keys, n);
    const double largest = d.largest(), scale = d.want.scale;
    auto weigh = [&](uint64_t rank) { return weight_of(place_of(largest, logit_of((uint32_t)rank), scale)); };
    if (top)
        n = min(n, top);
    uint64_t skipped;
    n = 1 + reach<SORT_THREADS, SORT_PART>(
        n, [&](uint32_t i) { return weigh(keys[i] >> 32); },
        [&](uint64_t total) { return top ? share_of(d.want.share, total) : d.state.missing; }, skipped);
    if (!top) {
        if (threadIdx.x == 0)
            d.state.cut = keys[n - 1];
        return;
    }
    // The list has all that stays. By rising id, it is drawn from.
    for (uint32_t i = threadIdx.x; i < n; i += SORT_THREADS)
        keys[i] = keys[i] << 32 | keys[i] >> 32;
    sort(keys, n);
    const uint32_t at = reach<SORT_THREADS, SORT_PART>(
        n, [&](uint32_t i) {
            uint64_t w = weigh(keys[i]);
            return w < d.want.least ? 0 : w;
        },
        [&](uint64_t total) { return point_of(d.want.random, total); }, skipped);
    if (threadIdx.x == 0) {
        d.state.id = ~(uint32_t)(keys[at] >> 32);
        d.state.drawn = 1;
    }
}

// The weight of a token that stays; 0 of another. bad is set where there is no number.
__device__ __forceinline__ uint64_t kept(const Draw &d, double largest, uint32_t id, float y, bool &bad) {
    if (!d.allows(id) || key_of(y, id) < d.state.cut)
        return bad |= y != y, 0;
    const double place = place_of(largest, y, d.want.scale);
    if (!(place >= FIRST_PLACE))
        return bad = true, 0;
    const uint64_t w = weight_of(place);
    return w < d.want.least ? 0 : w;
}

// Grid: (chunks, rows).
KIGO_KERNEL(draw_sum, DrawParams, __launch_bounds__(THREADS)) {
    let_next_start();
    wait_for_previous();
    const Draw d(p);
    if (d.state.drawn || !d.block_draws())
        return;
    const double largest = d.largest();
    const uint32_t from = blockIdx.x * kDrawChunk;
    bool bad = false;
    uint64_t sum = 0, total;
#pragma unroll
    for (uint32_t u = 0; u < kDrawChunk / THREADS; u++) {
        const uint32_t id = from + u * THREADS + threadIdx.x;
        if (id < d.want.vocab)
            sum += kept(d, largest, id, __ldg(d.logits + id), bad);
    }
    if (bad)
        d.state.bad = 1;
    before<THREADS>(sum, total);
    if (threadIdx.x == 0)
        d.sums[blockIdx.x] = total;
}

// Gives each row's token, or -1 where the host has to look for itself. It takes the place
// of the largest logit's for the step that comes next (see embed.cu).
// Grid: (1, rows).
KIGO_KERNEL(draw_pick, DrawParams, __launch_bounds__(SORT_THREADS)) {
    let_next_start();
    wait_for_previous();
    const Draw d(p);
    int32_t id = -1;
    if (d.draws() && !d.state.drawn) {
        const double largest = d.largest();
        uint64_t skipped, point = 0, none;
        bool bad = false;
        const uint32_t from = kDrawChunk * reach<SORT_THREADS, SORT_PART>(
            (d.want.vocab + kDrawChunk - 1) / kDrawChunk, [&](uint32_t i) { return d.sums[i]; },
            [&](uint64_t total) { return point = point_of(d.want.random, total); }, skipped);
        id = (int32_t)(from + reach<SORT_THREADS, SORT_PART>(
            min(kDrawChunk, d.want.vocab - from), [&](uint32_t i) { return kept(d, largest, from + i, d.logits[from + i], bad); },
            [&](uint64_t) { return point - skipped; }, none));
    } else if (d.good())
        id = d.want.scale == 0 ? (int32_t)~(uint32_t)d.state.largest : (int32_t)d.state.id;
    if (threadIdx.x == 0) {
        ((int32_t *)p.out)[blockIdx.y] = id;
        uint64_t *best = (uint64_t *)p.best + d.want.row;
        if (id >= 0)
            *best = *best >> 32 << 32 | (uint32_t)~id;
    }
    __syncthreads(); // the logits have been read
    const DrawEdit *edits = (const DrawEdit *)d.want.edits;
    for (uint32_t i = threadIdx.x; i < d.want.edited; i += SORT_THREADS)
        d.logits[edits[i].id] = edits[i].bias;
}
