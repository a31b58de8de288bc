// Projections of more than a few rows on Hopper's tensor cores: wgmma, whose operand
// A, the weights, comes from registers, where formats.cuh puts it, and whose operand
// B, the activations, from shared memory. For the same k in the same order it gives the
// same bits as mma.sync (measured: RESULTS.md), so this is the third kernel
// of the one arithmetic that project.cuh describes.
//
// A block of two warpgroups makes 128 outputs of N rows; with a gate, 64 outputs,
// one warpgroup each matrix. Activations come 64 columns at a time, three such
// stages ahead. Prepare has laid them out so that a stage of a block is one run of
// bytes, for one bulk copy: [stage][row] with 64 halves of a row, 128 bytes, and
// [stage][row] with its four sums. The 16 columns of a chunk are ordered as the
// registers have them, and rows are swizzled: 16 bytes at place c of row r lie at c ^
// r%8. What rows there are beyond the step's is anything, and ends nowhere.
//
// Where that makes too few blocks, a cluster of blocks shares the segments of the
// same outputs, in order; each keeps the sums of its own in shared memory, and at the
// end adds up those of all for a part of the rows, segment after segment.
#pragma once
#include "project.cuh"
#include "wgmma.cuh"

static constexpr uint32_t WIDE_THREADS = 256, WIDE_OUTPUTS = 128, WIDE_COLUMNS = 64, WIDE_STAGES = 5;

// Of a row's sums in shared memory, in floats: neither writers nor readers of a warp
// meet in a bank.
static constexpr uint32_t WIDE_STRIDE = WIDE_OUTPUTS + 4;

// Registers of a thread are what decides over the rest of a shape of N rows: how many
// groups of four steps of 16-bit weights are on their way, and for how many rows a
// product of quantized weights is made at a time.
template <int N> struct Wide {
    static constexpr int SUMS = N / 2; // of a thread
    static constexpr int GROUPS = N > 64 ? 3 : 4;
    static constexpr int PART = N > 32 ? 32 : 16;
    static constexpr uint32_t HALF_BYTES = N * WIDE_COLUMNS * 2, SUM_BYTES = N * WIDE_COLUMNS / 16 * 4;
    static constexpr uint32_t STAGES_BYTES = WIDE_STAGES * (HALF_BYTES + SUM_BYTES + 16);
    static constexpr uint32_t SEGMENT = N * WIDE_STRIDE; // floats of one segment's sums
};

// segment_begin with the power of two found again: kept as long as this one is needed,
// it costs the kernels of 128 rows spills, and 5 % of their speed.
template <class W> __device__ __forceinline__ uint32_t wide_segment(uint32_t segment, const ProjectParams &p) {
    constexpr uint32_t UNIT = W::CHUNKS < 4 ? 4 / W::CHUNKS : 1;
    return min((segment * ((p.steps + UNIT - 1) / UNIT) >> (31 - __clz(p.segments))) * UNIT, p.steps);
}

__device__ __forceinline__ uint32_t cluster_size() {
    uint32_t n = 1;
#if __CUDA_ARCH__ >= 900
    asm("mov.u32 %0, %%cluster_nctaid.x;" : "=r"(n));
#endif
    return n;
}

// A float in the shared memory of a block of the cluster; at is where it would be in
// one's own.
__device__ __forceinline__ float load_shared(const float *at, uint32_t rank) {
    float v = 0;
#if __CUDA_ARCH__ >= 900
    uint32_t local = (uint32_t)__cvta_generic_to_shared(at), remote;
    asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(remote) : "r"(local), "r"(rank));
    asm volatile("ld.shared::cluster.f32 %0, [%1];" : "=f"(v) : "r"(remote) : "memory");
#endif
    return v;
}

// The stages of activations on their way through shared memory: first the halves of
// all of them, then the sums, then the barriers: full ones, where copies arrive, and
// empty ones, where the warps do that have done with a stage.
template <int N, bool SUMS> struct Stages {
    static constexpr uint32_t AHEAD = WIDE_STAGES - 2; // the one before may still be in use
    const ProjectParams &p;
    char *shared;
    uint64_t *full, *empty;
    uint32_t first_row, next, end; // stage to be asked for, and the one after the last
    uint32_t ask_slot, ask_parity; // where it goes
    uint32_t slot, parity;         // of the stage in use
    uint64_t matrix;               // its descriptor
    const float *sums;

    __device__ __forceinline__ Stages(const ProjectParams &p, char *shared, uint32_t first_row, uint32_t first, uint32_t end)
        : p(p), shared(shared), full((uint64_t *)(shared + WIDE_STAGES * (Wide<N>::HALF_BYTES + Wide<N>::SUM_BYTES))), empty(full + WIDE_STAGES),
          first_row(first_row), next(first), end(end), ask_slot(0), ask_parity(1), slot(WIDE_STAGES - 1), parity(1) {}
    // By one thread, before any other.
    __device__ __forceinline__ void init() const {
#pragma unroll 1
        for (uint32_t i = 0; i < WIDE_STAGES; i++) {
            barrier_init(full + i, 1);
            barrier_init(empty + i, WIDE_THREADS / 32);
        }
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
    __device__ __forceinline__ void begin() {
#pragma unroll 1
        for (uint32_t i = 0; i < AHEAD; i++)
            ask();
    }
    // An empty slot's barrier is in its first phase: the one before it has ended.
    __device__ __forceinline__ void ask() {
        if (threadIdx.x == 0 && next < end) {
            barrier_wait(empty + ask_slot, ask_parity);
            barrier_expect(full + ask_slot, Wide<N>::HALF_BYTES + (SUMS ? Wide<N>::SUM_BYTES : 0));
            const uint64_t row = (uint64_t)next * p.stage_rows + first_row;
            copy_bulk(shared + ask_slot * Wide<N>::HALF_BYTES, (const char *)p.half + row * 128, Wide<N>::HALF_BYTES, full + ask_slot);
            if (SUMS)
                copy_bulk(shared + WIDE_STAGES * Wide<N>::HALF_BYTES + ask_slot * Wide<N>::SUM_BYTES, (const char *)p.sums + row * 16, Wide<N>::SUM_BYTES, full + ask_slot);
            if (++ask_slot == WIDE_STAGES) {
                ask_slot = 0;
                ask_parity ^= 1;
            }
        }
        next++;
    }
    // Waits for the next stage. Its matrix descriptor: 128-byte swizzle, 1,024 bytes from
    // 8 rows to the next 8.
    __device__ __forceinline__ void enter() {
        ask();
        if (++slot == WIDE_STAGES) {
            slot = 0;
            parity ^= 1;
        }
        const uint32_t at = (uint32_t)__cvta_generic_to_shared(shared + slot * Wide<N>::HALF_BYTES);
        matrix = (uint64_t)((at & 0x3ffff) >> 4) | (uint64_t)1 << 16 | (uint64_t)64 << 32 | (uint64_t)1 << 62;
        sums = (const float *)(shared + WIDE_STAGES * Wide<N>::HALF_BYTES + slot * Wide<N>::SUM_BYTES);
        barrier_wait(full + slot, parity);
    }
    // The warp has done with the stage in use.
    __device__ __forceinline__ void leave() const {
        __syncwarp();
        if (threadIdx.x % 32 == 0)
            barrier_arrive(empty + slot);
    }
    // Only wgmma has read the stage before, if there was one, and has been waited for.
    __device__ __forceinline__ void leave_before(bool was) const {
        if (was && threadIdx.x % 32 == 0)
            barrier_arrive(empty + (slot ? slot - 1 : WIDE_STAGES - 1));
    }
    // The descriptor of a chunk of 16 columns, of rows from row on.
    __device__ __forceinline__ uint64_t chunk(int n, uint32_t row = 0) const { return matrix + n * 2 + row * 8; }
};

// Sums of 16 outputs of each warp and N rows: v of the segment at hand, total of those
// before. In a cluster totals come last, and v goes to parts.
template <class W, int N> struct WideSums {
    float v[Wide<N>::SUMS], total[Wide<N>::SUMS];
    float *parts;                  // null: no cluster
    uint32_t segment, first, last; // at hand, and those of this block
    uint32_t end;                  // where the segment ends, in steps

    __device__ __forceinline__ WideSums(const ProjectParams &p, float *parts, uint32_t first, uint32_t last)
        : parts(parts), segment(first), first(first), last(last), end(wide_segment<W>(first + 1, p)) {
#pragma unroll
        for (int i = 0; i < Wide<N>::SUMS; i++)
            v[i] = 0;
    }
    // Where sum i of the thread lies in shared memory: [N rows][128 outputs].
    __device__ __forceinline__ static uint32_t place(int i) {
        const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32;
        return (i / 4 * 8 + lane % 4 * 2 + i % 2) * WIDE_STRIDE + warp * 16 + lane / 4 + i % 4 / 2 * 8;
    }
    // Closes the segments that end before a step; one may be empty.
    __device__ __forceinline__ void flush(const ProjectParams &p, uint32_t step) {
        while (segment < last && step >= end) {
            if (parts) {
#pragma unroll
                for (int i = 0; i < Wide<N>::SUMS; i++)
                    parts[(segment - first) * Wide<N>::SEGMENT + place(i)] = v[i];
            } else {
#pragma unroll
                for (int i = 0; i < Wide<N>::SUMS; i++)
                    total[i] = segment ? __fadd_rn(total[i], v[i]) : v[i];
            }
#pragma unroll
            for (int i = 0; i < Wide<N>::SUMS; i++)
                v[i] = 0;
            segment++;
            end = wide_segment<W>(segment + 1, p);
        }
    }
};

template <class W> struct GivesSingles {
    static constexpr bool value = false;
};
template <> struct GivesSingles<WeightsQ6_K> {
    static constexpr bool value = true;
};

// What quantized formats give their chunks to. Chunks come in order; every fourth
// enters a stage. The product of PART rows is made while that of the part before is
// scaled and added.
template <class W, int N> struct WideSink {
    static constexpr int PART = Wide<N>::PART, PARTS = N / PART;
    static constexpr bool SINGLES = GivesSingles<W>::value;
    WideSums<W, N> &sums;
    Stages<N, true> &stages;
    uint32_t at; // chunks of the stage that have been used
    float part[2][PART / 2];

    __device__ __forceinline__ WideSink(WideSums<W, N> &sums, Stages<N, true> &stages) : sums(sums), stages(stages), at(0) {}
    __device__ __forceinline__ void begin(int q, const uint32_t *a, const uint32_t *b) {
        wgmma_fence();
        wgmma<PART>(part[q % 2], a, stages.chunk(at, q * PART), false);
        if (!SINGLES)
            wgmma<PART>(part[q % 2], b, stages.chunk(at + 1, q * PART), true);
        wgmma_commit();
    }
    // Waits for a part, while the one that was begun after it goes on, and adds it.
    __device__ __forceinline__ void finish(int q, const float *scale, const float *offset) {
        const float *s = stages.sums + threadIdx.x % 4 * 8 + at + q * PART * 4; // of the lane's first column
        float x[PART / 4];
#pragma unroll
        for (int g = 0; g < PART / 8; g++) {
            // Four floats on is the second column.
            if (SINGLES) {
                x[2 * g] = s[g * 32];
                x[2 * g + 1] = s[g * 32 + 4];
            } else {
                float2 first = *(const float2 *)(s + g * 32), second = *(const float2 *)(s + g * 32 + 4);
                x[2 * g] = __fadd_rn(first.x, first.y);
                x[2 * g + 1] = __fadd_rn(second.x, second.y);
            }
        }
        if (q + 1 < PARTS)
            wgmma_wait<1>();
        else
            wgmma_wait<0>();
        float *to = sums.v + q * PART / 2;
        const float *from = part[q % 2];
#pragma unroll
        for (int i = 0; i < PART / 2; i++)
            to[i] = fmaf(offset[i % 4 / 2], x[i / 4 * 2 + i % 2], fmaf(scale[i % 4 / 2], from[i], to[i]));
    }
    __device__ __forceinline__ void multiply(const uint32_t *a, const uint32_t *b, const float *scale, const float *offset) {
        if (at == 0)
            stages.enter();
        begin(0, a, b);
#pragma unroll
        for (int q = 0; q < PARTS; q++) {
            if (q + 1 < PARTS)
                begin(q + 1, a, b);
            finish(q, scale, offset);
        }
        at = (at + (SINGLES ? 1 : 2)) % 4;
        if (at == 0)
            stages.leave();
    }
    template <bool OFFSET> __device__ __forceinline__ void pair(int, const uint32_t *a, const uint32_t *b, const float *scale, const float *offset) {
        multiply(a, b, scale, offset);
    }
    __device__ __forceinline__ void single(int, const uint32_t *a, const float *scale, const float *offset) { multiply(a, a, scale, offset); }
};

// 16-bit weights: a stage's four chunks one after another, while the stage before is
// still being multiplied. Segments begin with a stage.
template <class W, int N, bool SUMS> __device__ __forceinline__ void wide_plain(const ProjectParams &p, WideSums<W, N> &sums, Stages<N, SUMS> &stages, const Matrix &m, uint32_t tile, uint32_t begin, uint32_t end) {
    constexpr int GROUPS = Wide<N>::GROUPS;
    const uint32_t first = begin / 4, whole = end / 4; // the stage at the end may be cut short
    // Loads have no condition, so that they can go straight to where wgmma reads: those
    // beyond the last stage read it once more.
    Cursor at = cursor<W>(m, tile, p.steps, begin, threadIdx.x % 32);
    W w[GROUPS][4];
    auto load = [&](W *to, uint32_t stage) {
#pragma unroll
        for (int u = 0; u < 4; u++)
            to[u].load(at, u);
        if (stage + 1 < whole)
            advance<W>(at, 4);
    };
    if (first < whole)
#pragma unroll
        for (int g = 0; g < GROUPS; g++)
            load(w[g], first + g);
    wait_for_previous();
    stages.begin();
#pragma unroll 1
    for (uint32_t stage = first; stage < whole; stage += GROUPS) {
#pragma unroll
        for (int g = 0; g < GROUPS; g++) {
            if (stage + g >= whole)
                break;
            uint32_t a[4][4];
#pragma unroll
            for (int u = 0; u < 4; u++)
                w[g][u].fragment(a[u]);
            if ((stage + g) * 4 >= sums.end) {
                wgmma_wait<0>();
                sums.flush(p, (stage + g) * 4);
            }
            stages.enter();
            wgmma_fence();
#pragma unroll
            for (int u = 0; u < 4; u++)
                wgmma<N>(sums.v, a[u], stages.chunk(u), true);
            wgmma_commit();
            wgmma_wait<1>();
            // The stage before has been multiplied now: its registers are free.
            stages.leave_before(stage + g > first);
            if (stage + g > first)
                load(w[(g + GROUPS - 1) % GROUPS], stage + g + GROUPS - 1);
        }
    }
    wgmma_wait<0>();
    if (whole * 4 == end)
        return;
    sums.flush(p, whole * 4);
    at = cursor<W>(m, tile, p.steps, whole * 4, threadIdx.x % 32);
    stages.enter();
#pragma unroll
    for (int u = 0; u < 3; u++)
        if (whole * 4 + u < end) {
            uint32_t a[4];
            w[0][0].load(at, u);
            w[0][0].fragment(a);
            wgmma_fence();
            wgmma<N>(sums.v, a, stages.chunk(u), true);
            wgmma_commit();
            wgmma_wait<0>();
        }
}

template <class W, int N, bool SUMS> __device__ __forceinline__ void wide_quantized(const ProjectParams &p, WideSums<W, N> &sums, Stages<N, SUMS> &stages, const Matrix &m, uint32_t tile, uint32_t begin, uint32_t end) {
    constexpr int AHEAD = N > 64 ? W::AHEAD : 2 * W::AHEAD;
    const uint32_t lane = threadIdx.x % 32;
    Cursor at = cursor<W>(m, tile, p.steps, begin, lane);
    W w[AHEAD]; // steps on their way
#pragma unroll
    for (int u = 0; u < AHEAD; u++)
        if (begin + u < end)
            w[u].load(at, u);
    wait_for_previous();
    stages.begin();
    WideSink<W, N> sink(sums, stages);
#pragma unroll 1
    for (uint32_t step = begin; step < end; step += AHEAD) {
#pragma unroll
        for (int u = 0; u < AHEAD; u++) {
            if (step + u >= end)
                break;
            if (step + u >= sums.end)
                sums.flush(p, step + u);
            w[u].give(sink, lane);
            if (step + u + AHEAD < end)
                w[u].load(at, u + AHEAD);
        }
        advance<W>(at, AHEAD);
    }
}

// Dynamic shared memory: the stages and, where a cluster shares segments, the sums of
// this block's; else these take the stages' place at the end.
//
// Grid: (row blocks * blocks of a cluster, blocks of tiles).
template <class W, int N> __device__ __forceinline__ void wide(const ProjectParams &p) {
    extern __shared__ __align__(1024) char shared[];
    const uint32_t warp = threadIdx.x / 32, tiles_here = p.gated ? 4 : 8;
    const uint32_t blocks = cluster_size(), rank = blocks > 1 ? cluster_rank() : 0;
    const uint32_t each = p.segments / blocks, first_row = blockIdx.x / blocks * N, first_tile = blockIdx.y * tiles_here;
    let_next_start();
    Place place(p, first_tile + (p.gated ? warp % 4 : warp));
    const Matrix &m = p.matrix[p.gated ? warp / 4 : place.matrix];
    const uint32_t tile = place.there ? place.tile : 0;
    float *parts = (float *)(shared + (blocks > 1 ? Wide<N>::STAGES_BYTES : 0));
    WideSums<W, N> sums(p, blocks > 1 ? parts : nullptr, rank * each, (rank + 1) * each);
    const uint32_t begin = wide_segment<W>(sums.first, p), end = wide_segment<W>(sums.last, p);
    Stages<N, W::CHUNKS != 1> stages(p, shared, first_row, begin * W::CHUNKS / 4, (end * W::CHUNKS + 3) / 4);
    if (threadIdx.x == 0)
        stages.init();
    __syncthreads();
    if constexpr (W::CHUNKS == 1)
        wide_plain<W, N>(p, sums, stages, m, tile, begin, end);
    else
        wide_quantized<W, N>(p, sums, stages, m, tile, begin, end);
    sums.flush(p, end);

    // Through shared memory, so that outputs are written side by side and gates meet.
    if (blocks == 1) {
        __syncthreads(); // the stages are free
#pragma unroll
        for (int i = 0; i < Wide<N>::SUMS; i++)
            parts[sums.place(i)] = sums.total[i];
    }
    cluster_barrier(blocks > 1);
    const uint32_t outputs = tiles_here * 16, o = threadIdx.x % outputs, rows = N / blocks;
    Place there(p, first_tile + o / 16);
    const Matrix &first = p.matrix[there.matrix];
    const uint32_t output = there.tile * 16 + o % 16;
    const bool writes = there.there && output < first.outs;
    const Finish finish(p, first, writes ? output : first.outs);
    auto sum_of = [&](uint32_t o, uint32_t r) {
        const float *at = parts + r * WIDE_STRIDE + o;
        if (blocks == 1)
            return *at;
        // Four at a time: there are 4, 8 or 16 segments, and a power of two each.
        const uint32_t each_log = 31 - __clz(each);
        float sum = 0;
#pragma unroll 1
        for (uint32_t s = 0; s < p.segments; s += 4) {
            float v[4];
#pragma unroll
            for (int i = 0; i < 4; i++)
                v[i] = load_shared(at + (s + i & each - 1) * Wide<N>::SEGMENT, s + i >> each_log);
            sum = s ? __fadd_rn(sum, v[0]) : v[0];
#pragma unroll
            for (int i = 1; i < 4; i++)
                sum = __fadd_rn(sum, v[i]);
        }
        return sum;
    };
    // What comes from memory for AT_ONCE rows is on its way before the first is used.
    constexpr int AT_ONCE = 4;
    const uint32_t step = WIDE_THREADS / outputs, last = first_row + min((rank + 1) * rows, p.rows > first_row ? p.rows - first_row : 0);
#pragma unroll 1
    for (uint32_t row = first_row + rank * rows + threadIdx.x / outputs; row < last; row += AT_ONCE * step) {
        float residual[AT_ONCE], scale[AT_ONCE];
#pragma unroll
        for (int i = 0; i < AT_ONCE; i++) {
            const uint32_t r = min(row + i * step, last - 1);
            scale[i] = ((const float *)p.scale)[r];
            residual[i] = writes ? residual_of(p, first, output, r) : 0;
        }
#pragma unroll
        for (int i = 0; i < AT_ONCE; i++) {
            const uint32_t r = row + i * step;
            if (r >= last) // the same in a warp
                break;
            uint64_t best = 0;
            if (writes) {
                float y = finish.value(p, sum_of(o, r - first_row), p.gated ? sum_of(64 + o, r - first_row) : 0.f, scale[i], residual[i]);
                ((float *)first.out)[(uint64_t)r * first.outs + output] = y;
                best = ranked(y, output);
            }
            if (p.best)
                raise<16>(p, r, best);
        }
    }
    cluster_barrier(blocks > 1); // the others have read this block's sums
}
