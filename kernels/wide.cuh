// Projections of more than a few rows on Hopper's tensor cores: wgmma, whose operand
// A, the weights, comes from registers, where formats.cuh puts it, and whose operand
// B, the activations, from shared memory. For the same k in the same order it gives the
// same bits as mma.sync (measured: RESULTS.md), so this is the third kernel
// of the one arithmetic that project.cuh describes.
//
// Two warpgroups of a block make 128 outputs of N rows; with a gate, 64 outputs, one
// warpgroup each matrix. A third one, with few registers, asks for activations: 64
// columns at a time, as many such stages ahead as there is room for. Prepare has laid
// them out so that a stage of a block is one run of bytes, for one bulk copy:
// [stage][row] with 64 halves of a row, 128 bytes. The 16 columns of a chunk are
// ordered as the registers have them, and rows are swizzled: 16 bytes at place c of
// row r lie at c ^ r%8. What rows there are beyond the step's is anything, and ends
// nowhere.
//
// Where that makes too few blocks, a cluster of blocks shares the segments of the
// same outputs, in order; each keeps the sums of its own in shared memory, and at the
// end adds up those of all for a part of the rows, segment after segment. In the same
// way the two warpgroups of a block can share its segments, and make 64 outputs: they
// are joint. Then each is at other columns and has stages of its own, in every second
// place of those there are; a block has as many on their way as without, but needs
// activations twice as fast. It is not for matrices with a gate.
#pragma once
#include "project.cuh"
#include "wgmma.cuh"

static constexpr uint32_t WIDE_WARPS = 8, WIDE_OUTPUTS = 128, WIDE_COLUMNS = 64;
static constexpr uint32_t WIDE_WORKERS = WIDE_WARPS * 32, WIDE_THREADS = WIDE_WORKERS + 128;

// Of a row's sums in shared memory, in floats: neither writers nor readers of a warp
// meet in a bank.
static constexpr uint32_t WIDE_STRIDE = WIDE_OUTPUTS + 4;

// What there is room for with a shape of N rows, in the registers of a thread: groups of
// four steps of float16 weights that are on their way.
template <int N> struct Wide {
    static constexpr int SUMS = N / 2; // of a thread
    static constexpr int GROUPS = N > 64 ? 6 : 8;
    static constexpr uint32_t STAGES = N > 64 ? 5 : 8; // of activations
    static constexpr uint32_t STAGE_BYTES = N * WIDE_COLUMNS * 2;
    static constexpr uint32_t STAGES_BYTES = STAGES * (STAGE_BYTES + 16);
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

// Where what is at `at` here is in the shared memory of a block of the cluster.
__device__ __forceinline__ uint32_t shared_of(const float *at, uint32_t rank) {
    uint32_t local = (uint32_t)__cvta_generic_to_shared(at), remote = local;
#if __CUDA_ARCH__ >= 900
    asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(remote) : "r"(local), "r"(rank));
#endif
    return remote;
}
// A float from there; 0, with nothing read, if !wanted.
__device__ __forceinline__ float load_shared(uint32_t at, bool wanted) {
    float v = 0;
#if __CUDA_ARCH__ >= 900
    asm volatile("{\n.reg .pred p;\nsetp.ne.u32 p, %2, 0;\n@p ld.shared::cluster.f32 %0, [%1];\n}" : "+f"(v) : "r"(at), "r"((int)wanted) : "memory");
#endif
    return v;
}

// The stages of activations on their way through shared memory: first the halves of
// all of them, then the barriers: full ones, where copies arrive, and empty ones, where
// the warps do that have done with a stage. Warps that use them and the one that asks
// for them go through the places in the same order: all, or every second one, from the
// number of their group on.
template <int N> struct Stages {
    static constexpr uint32_t COUNT = Wide<N>::STAGES, BYTES = Wide<N>::STAGE_BYTES;
    const ProjectParams &p;
    char *shared;
    uint64_t *full, *empty;
    uint32_t slot, parity; // of the stage in use
    uint64_t matrix;       // its descriptor

    __device__ __forceinline__ Stages(const ProjectParams &p, char *shared, uint32_t group)
        : p(p), shared(shared), full((uint64_t *)(shared + COUNT * BYTES)), empty(full + COUNT), slot(places() - apart() + group), parity(1) {}
    // From a place to the next one, and how many are in use: as many for either group.
    __device__ __forceinline__ uint32_t apart() const { return 1 + p.joint; }
    __device__ __forceinline__ uint32_t places() const { return COUNT - COUNT % 2 * p.joint; }
    // By one thread, before any other.
    __device__ __forceinline__ void init() const {
#pragma unroll 1
        for (uint32_t i = 0; i < COUNT; i++) {
            barrier_init(full + i, 1);
            barrier_init(empty + i, WIDE_WARPS >> p.joint);
        }
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
    __device__ __forceinline__ void next() {
        slot += apart();
        if (slot >= places()) {
            slot -= places();
            parity ^= 1;
        }
    }
    // Asks for all stages from one on and before another, by one thread. An empty slot's
    // barrier is in its first phase: the one before it has ended.
    __device__ __forceinline__ void ask(uint32_t first_row, uint32_t stage, uint32_t end) {
        const char *from = (const char *)p.half + ((uint64_t)stage * p.stage_rows + first_row) * 128;
#pragma unroll 1
        for (; stage < end; stage++, from += (uint64_t)p.stage_rows * 128) {
            next();
            barrier_wait(empty + slot, parity ^ 1);
            barrier_expect(full + slot, BYTES);
            copy_bulk(shared + slot * BYTES, from, BYTES, full + slot);
        }
    }
    // Goes on to the next stage. Its matrix descriptor: 128-byte swizzle, 1,024 bytes from
    // 8 rows to the next 8.
    __device__ __forceinline__ void go_on() {
        next();
        const uint32_t at = (uint32_t)__cvta_generic_to_shared(shared + slot * BYTES);
        matrix = (uint64_t)((at & 0x3ffff) >> 4) | (uint64_t)1 << 16 | (uint64_t)64 << 32 | (uint64_t)1 << 62;
    }
    __device__ __forceinline__ void wait() const { barrier_wait(full + slot, parity); }
    __device__ __forceinline__ void enter() {
        go_on();
        wait();
    }
    // Only wgmma has read the stage so many before, if there was one, and has been waited
    // for.
    template <int BEFORE> __device__ __forceinline__ void leave(bool was) const {
        const uint32_t back = BEFORE * apart();
        if (was && threadIdx.x % 32 == 0)
            barrier_arrive(empty + (slot < back ? slot + places() : slot) - back);
    }
    // The descriptor of a chunk of 16 columns.
    __device__ __forceinline__ uint64_t chunk(int n) const { return matrix + n * 2; }
};

// Sums of 16 outputs of each warp and N rows: v of the segment at hand. In shared memory
// are those of the segments before: of each its own where segments are shared, and else
// their sum. Registers would do, too, but there they would take the place of weights that
// are on their way.
template <class W, int N> struct WideSums {
    float v[Wide<N>::SUMS];
    float *mine; // the thread's first one in shared memory
    bool shares;
    uint32_t segment, first, last; // at hand, and those of this warp
    uint32_t end;                  // where the segment ends, in steps

    __device__ __forceinline__ WideSums(const ProjectParams &p, float *parts, bool shares, uint32_t first, uint32_t last)
        : mine(parts + threadIdx.x % 4 * 2 * WIDE_STRIDE + threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4),
          shares(shares), segment(first), first(first), last(last), end(wide_segment<W>(first + 1, p)) {
#pragma unroll
        for (int i = 0; i < Wide<N>::SUMS; i++)
            v[i] = 0;
    }
    // How far sum i of the thread lies behind its first one: [N rows][128 outputs], or
    // [N rows][joint warpgroup][64 outputs].
    __device__ static constexpr uint32_t offset(int i) { return (i / 4 * 8 + i % 2) * WIDE_STRIDE + i % 4 / 2 * 8; }
    // Closes the segments that end before a step; one may be empty.
    __device__ __forceinline__ void flush(const ProjectParams &p, uint32_t step) {
        while (segment < last && step >= end) {
            float *to = mine + (shares ? (segment - first) * Wide<N>::SEGMENT : 0);
            const bool more = segment > first && !shares;
            // Eight are on their way at a time: more would take the place of weights.
#pragma unroll
            for (int i = 0; i < Wide<N>::SUMS; i += 8) {
                float was[8];
#pragma unroll
                for (int k = 0; k < 8; k++)
                    was[k] = more ? to[offset(i + k)] : 0;
#pragma unroll
                for (int k = 0; k < 8; k++) {
                    to[offset(i + k)] = more ? __fadd_rn(was[k], v[i + k]) : v[i + k];
                    v[i + k] = 0;
                }
            }
            segment++;
            end = wide_segment<W>(segment + 1, p);
        }
    }
};

// Weights in float16: a stage's four chunks one after another, while the stage before is
// still being multiplied. Segments begin with a stage.
template <class W, int N> __device__ __forceinline__ void wide_plain(const ProjectParams &p, WideSums<W, N> &sums, Stages<N> &stages, const Matrix &m, uint32_t tile, uint32_t begin, uint32_t end) {
    constexpr int GROUPS = Wide<N>::GROUPS;
    const uint32_t first = begin / 4, whole = end / 4; // the stage at the end may be cut short
    // Loads have no condition, so that they can go straight to where wgmma reads: those
    // beyond the last stage read it once more.
    Cursor at = cursor<W>(m, tile, p.steps, begin, threadIdx.x % 32);
    W w[GROUPS][4];
    auto load_stage = [&](W *to, uint32_t stage) {
#pragma unroll
        for (int u = 0; u < 4; u++)
            load(to[u], at, u);
        if (stage + 1 < whole)
            advance<W>(at, 4);
    };
    if (first < whole)
#pragma unroll
        for (int g = 0; g < GROUPS; g++)
            load_stage(w[g], first + g);
    stages.go_on();
    if (first < whole)
        stages.wait();
#pragma unroll 1
    for (uint32_t stage = first; stage < whole; stage += GROUPS) {
#pragma unroll
        for (int g = 0; g < GROUPS; g++) {
            const uint32_t now = stage + g;
            if (now >= whole)
                break;
            uint32_t a[4][4];
#pragma unroll
            for (int u = 0; u < 4; u++)
                w[g][u].fragments(a + u, 0, {}, 0);
            if (now * 4 >= sums.end) {
                wgmma_wait<0>();
                sums.flush(p, now * 4);
            }
            wgmma_fence();
#pragma unroll
            for (int u = 0; u < 4; u++)
                wgmma<N>(sums.v, a[u], stages.chunk(u), true);
            wgmma_commit();
            // All but the last two stages have been multiplied: their registers are free.
            if (now >= first + 2)
                load_stage(w[(g + GROUPS - 2) % GROUPS], now - 2 + GROUPS);
            stages.go_on();
            wgmma_wait<1>();
            stages.leave<2>(now > first);
            if (now + 1 < whole)
                stages.wait();
        }
    }
    wgmma_wait<0>();
    if (whole * 4 == end)
        return;
    sums.flush(p, whole * 4);
    at = cursor<W>(m, tile, p.steps, whole * 4, threadIdx.x % 32);
    stages.wait();
#pragma unroll
    for (int u = 0; u < 3; u++)
        if (whole * 4 + u < end) {
            uint32_t a[1][4];
            load(w[0][0], at, u);
            w[0][0].fragments(a, 0, {}, 0);
            wgmma_fence();
            wgmma<N>(sums.v, a[0], stages.chunk(u), true);
            wgmma_commit();
            wgmma_wait<0>();
        }
}

// Weights that become float16 first: a stage's are made while the stage before is still
// being multiplied, and those of the next step loaded where they were. AHEAD steps are
// an even number of stages, so that fragments take turns in two sets of registers.
//
// No branch may come between two wgmmas of a turn, or the assembler would have them
// wait for each other. So a turn always has all its stages: beyond the last one,
// weights are 0 and meet its activations once more.
template <class W, int N> __device__ __forceinline__ void wide_packed(const ProjectParams &p, WideSums<W, N> &sums, Stages<N> &stages, const Matrix &m, uint32_t tile, uint32_t begin, uint32_t end) {
    constexpr int AHEAD = N > 64 ? W::AHEAD : W::AHEAD_NARROW;
    constexpr int STEPS = W::CHUNKS < 4 ? 4 / W::CHUNKS : 1; // of a stage
    const uint32_t lane = threadIdx.x % 32;
    const float up = m.up;
    Cursor at = cursor<W>(m, tile, p.steps, begin, lane);
    W w[AHEAD] = {};
#pragma unroll
    for (int u = 0; u < AHEAD; u++)
        if (begin + u < end)
            load(w[u], at, u);
    uint32_t a[2][4][4] = {};
#pragma unroll 1
    for (uint32_t step = begin; step < end; step += AHEAD) {
#pragma unroll
        for (int u = 0; u < AHEAD; u += STEPS) {
            const bool there = u == 0 || step + u < end;
            if (there && step + u >= sums.end) {
                wgmma_wait<0>();
                sums.flush(p, step + u);
            }
            typename W::Rest rest[STEPS];
#pragma unroll
            for (int i = 0; i < STEPS; i++) {
                rest[i] = w[u + i].rest(there ? up : 0);
                if (step + u + i + AHEAD < end)
                    w[u + i].load_rest(at, u + i + AHEAD);
            }
#pragma unroll
            for (int part = 0; part < Parts<W>::COUNT; part++) {
                uint32_t (*now)[4] = a[(u / STEPS + part) % 2];
#pragma unroll
                for (int i = 0; i < STEPS; i++) {
                    w[u + i].fragments(now + i * Parts<W>::CHUNKS, part, rest[i], lane);
                    if (step + u + i + AHEAD < end)
                        w[u + i].load_quants(at, u + i + AHEAD, part);
                }
                if (there)
                    stages.enter();
                wgmma_fence();
#pragma unroll
                for (int c = 0; c < 4; c++)
                    wgmma<N>(sums.v, now[c], stages.chunk(c), true);
                wgmma_commit();
                wgmma_wait<1>();
                stages.leave<1>(there && (step + u > begin || part > 0));
            }
        }
        advance<W>(at, AHEAD);
    }
    wgmma_wait<0>();
    keep_operands(a[1], p.rows == 0, (uint32_t)__cvta_generic_to_shared(stages.shared));
}

// Dynamic shared memory: the stages; what WideSums has there, for one segment or, where
// they are shared, for each of a warp's.
//
// Grid: (row blocks * blocks of a cluster, blocks of tiles).
template <class W, int N> __device__ __forceinline__ void wide(const ProjectParams &p) {
    extern __shared__ __align__(1024) char shared[];
    const uint32_t warp = __shfl_sync(~0u, threadIdx.x / 32, 0), tiles_here = p.gated || p.joint ? 4 : 8;
    const uint32_t blocks = cluster_size(), rank = blocks > 1 ? cluster_rank() : 0;
    const uint32_t first_row = blockIdx.x / blocks * N, first_tile = blockIdx.y * tiles_here;
    let_next_start();
    // Whose stages the warp uses or asks for, and which it is of those that share segments.
    const uint32_t group = p.joint ? warp < WIDE_WARPS ? warp / 4 : warp - WIDE_WARPS : 0;
    const uint32_t sharers = blocks << p.joint, each = p.segments / sharers, sharer = (rank << p.joint) + group;
    float *parts = (float *)(shared + Wide<N>::STAGES_BYTES);
    Stages<N> stages(p, shared, group);
    if (threadIdx.x == 0)
        stages.init();
    __syncthreads();
    const uint32_t begin = wide_segment<W>(sharer * each, p), end = wide_segment<W>((sharer + 1) * each, p);
    if (warp >= WIDE_WARPS) {
        fewer_registers<40>();
        if (threadIdx.x % 32 == 0 && warp <= WIDE_WARPS + p.joint) {
            wait_for_previous();
            stages.ask(first_row, begin * W::CHUNKS / 4, (end * W::CHUNKS + 3) / 4);
        }
        __syncwarp();
        cluster_barrier(blocks > 1); // both as below
        cluster_barrier(blocks > 1);
        return; // all that follows would have to do with 40 registers if it came this way, too
    }
    more_registers<232>();
    Place place(p, first_tile + warp % tiles_here);
    const Matrix &m = p.matrix[p.gated ? warp / 4 : place.matrix];
    const uint32_t tile = place.there ? place.tile : 0;
    WideSums<W, N> sums(p, parts, sharers > 1, sharer * each, (sharer + 1) * each);
    if constexpr (W::CONVERTED)
        wide_packed<W, N>(p, sums, stages, m, tile, begin, end);
    else
        wide_plain<W, N>(p, sums, stages, m, tile, begin, end);
    sums.flush(p, end);

    // Through shared memory, so that outputs are written side by side and gates meet.
    wait_for_previous();
    cluster_barrier(blocks > 1);
    const uint32_t outputs = tiles_here * 16, o = threadIdx.x % outputs, rows = N / blocks;
    Place there(p, first_tile + o / 16);
    const Matrix &first = p.matrix[there.matrix];
    const uint32_t output = there.tile * 16 + o % 16;
    const bool writes = there.there && output < first.outs;
    const Finish finish(p, first, writes ? output : first.outs);
    // What comes from memory, or from other blocks, for AT_ONCE rows is on its way before
    // the first is used.
    constexpr int AT_ONCE = 4;
    auto sums_of = [&](float *sum, uint32_t o, const uint32_t *r, uint32_t count) {
        if (sharers == 1) {
#pragma unroll
            for (int n = 0; n < AT_ONCE; n++)
                sum[n] = parts[r[n] * WIDE_STRIDE + o];
            return;
        }
        // Four at a time: there are 4, 8 or 16 segments, and a power of two each.
        const uint32_t each_log = 31 - __clz(each);
#pragma unroll 1
        for (uint32_t s = 0; s < p.segments; s += 4) {
            float v[AT_ONCE][4];
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const uint32_t sharer = s + i >> each_log, side = sharer & p.joint;
                const uint32_t at = shared_of(parts + (s + i - (sharer << each_log)) * Wide<N>::SEGMENT + side * 64 + o, sharer >> p.joint);
#pragma unroll
                for (int n = 0; n < AT_ONCE; n++)
                    v[n][i] = load_shared(at + r[n] * (WIDE_STRIDE * 4), n < count);
            }
#pragma unroll
            for (int n = 0; n < AT_ONCE; n++) {
                sum[n] = s ? __fadd_rn(sum[n], v[n][0]) : v[n][0];
#pragma unroll
                for (int i = 1; i < 4; i++)
                    sum[n] = __fadd_rn(sum[n], v[n][i]);
            }
        }
    };
    const uint32_t step = WIDE_WORKERS / outputs, last = first_row + min((rank + 1) * rows, p.rows > first_row ? p.rows - first_row : 0);
#pragma unroll 1
    for (uint32_t row = first_row + rank * rows + threadIdx.x / outputs; row < last; row += AT_ONCE * step) {
        float residual[AT_ONCE], scale[AT_ONCE], sum[AT_ONCE], other[AT_ONCE] = {};
        uint64_t seen[AT_ONCE];
        uint32_t of[AT_ONCE]; // where they are among this block's
        const uint32_t count = (last - row + step - 1) / step; // of those that there are
#pragma unroll
        for (int i = 0; i < AT_ONCE; i++) {
            const uint32_t r = min(row + i * step, last - 1);
            of[i] = r - first_row;
            scale[i] = ((const float *)p.scale)[r];
            seen[i] = best_seen(p, r);
            residual[i] = writes ? residual_of(p, first, output, r) : 0;
        }
        sums_of(sum, o, of, count);
        if (p.gated)
            sums_of(other, 64 + o, of, count);
#pragma unroll
        for (int i = 0; i < AT_ONCE; i++) {
            const uint32_t r = row + i * step;
            if (r >= last) // the same in a warp
                break;
            uint64_t best = 0;
            if (writes) {
                float y = finish.value(p, sum[i], other[i], scale[i], residual[i]);
                ((float *)first.out)[(uint64_t)r * first.outs + output] = y;
                best = ranked(y, output);
            }
            if (p.best)
                raise<16>(p, r, best, seen[i]);
        }
    }
    cluster_barrier(blocks > 1); // the others have read this block's sums
}
