// Projections of more than a few rows on Hopper's tensor cores: wgmma, whose operand
// A, the weights, comes from registers, where formats.cuh puts it, and whose operand
// B, the activations, from shared memory. For the same k in the same order it gives the
// same bits as mma.sync (measured: RESULTS.md), so this is the third kernel
// of the one arithmetic that project.cuh describes.
//
// Two warpgroups of a block make 128 outputs of N rows; with a gate, 64 outputs, one
// warpgroup each matrix; and twice as many where a warp has two tiles. A third one, with few registers, asks for activations: 64
// columns at a time, as many such stages ahead as there is room for. Prepare has laid
// them out so that a stage of a block is one run of bytes, for one bulk copy:
// [stage][row] with 64 halves of a row, 128 bytes. The 16 columns of a chunk are
// ordered as the registers have them, and rows are swizzled: 16 bytes at place c of
// row r lie at c ^ r%8. What rows there are beyond the step's is anything, and ends
// nowhere.
//
// Where that makes too few blocks, several share the segments of the same outputs, in
// order. They are a cluster, and each adds up the sums of all for a part of the rows; or,
// since a GPU has no room for clusters of four on all its multiprocessors, each hands its
// sums over through memory, and the last to do so adds them up, which is later by a
// microsecond. In the same way the two warpgroups of a block can share its segments, and
// make 64 outputs: they are joint. Then each is at other columns and has stages of its own,
// in every second place of those there are; a block has as many on their way as without,
// but needs activations twice as fast. It is not for matrices with a gate.
#pragma once
#include "ending.cuh"
#include "wgmma.cuh"

static constexpr uint32_t WIDE_COLUMNS = 64, WIDE_THREADS = WIDE_WORKERS + 128;

// What there is room for with a shape of N rows and TILES tiles of 16 outputs for a warp.
template <int N, int TILES> struct Wide {
    static constexpr int SUMS = N / 2; // of a thread and tile
    // Float16 weights are on their way in groups, of so many chunks of all tiles.
    static constexpr int CHUNKS = 4 / TILES, GROUPS = N <= 64 ? 8 : TILES > 1 ? 5 : 6;
    static constexpr uint32_t STAGES = N > 64 ? 5 : 8; // of activations
    static constexpr uint32_t STAGE_BYTES = N * WIDE_COLUMNS * 2;
    static constexpr uint32_t STAGES_BYTES = STAGES * (STAGE_BYTES + 16);
    static constexpr uint32_t STRIDE = WIDE_OUTPUTS * TILES + 4; // floats from a row's sums to the next row's
    static constexpr uint32_t PLACE = N * STRIDE;                // of a place of sums
};

// segment_begin with the power of two found again: kept as long as this one is needed,
// it costs the kernels of 128 rows spills, and 5 % of their speed.
template <class W> __device__ __forceinline__ uint32_t wide_segment(uint32_t segment, const ProjectParams &p) {
    constexpr uint32_t UNIT = W::CHUNKS < 4 ? 4 / W::CHUNKS : 1;
    return min((segment * ((p.steps + UNIT - 1) / UNIT) >> (31 - __clz(p.segments))) * UNIT, p.steps);
}

// The stages of activations on their way through shared memory: first the halves of
// all of them, then the barriers: full ones, where copies arrive, and empty ones, where
// the warps do that have done with a stage. Warps that use them and the one that asks
// for them go through the places in the same order: all, or every second one, from the
// number of their group on.
template <int N> struct Stages {
    static constexpr uint32_t COUNT = Wide<N, 1>::STAGES, BYTES = Wide<N, 1>::STAGE_BYTES;
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

// How many segments are summed in one place of shared memory, where somebody has so many
// of them: those of a group, or one, if it has less than a group. As powers of two.
__device__ __forceinline__ uint32_t gathered_log(const ProjectParams &p, uint32_t each_log) { return each_log + 2 >= p.segments_log ? p.segments_log - 2 : 0; }

// Sums of a warp's tiles and N rows: v of the segment at hand, and in shared memory
// those of the segments before. A block that has all segments gathers them in the first
// place, and those of a group behind the first group in a second one. Where segments are
// shared, each has places of its own. With several tiles to a warp there is one place, for
// segments that are groups, for one group, or for one segment. Registers would do, too,
// but there they would take the room of weights that are on their way.
template <class W, int N, int TILES> struct WideSums {
    typedef Wide<N, TILES> Shape;
    float v[TILES][Shape::SUMS];
    float *mine; // the thread's first one in shared memory
    uint32_t segment, first, last; // at hand, and those of this warp
    uint32_t end;                  // where the segment ends, in steps

    __device__ __forceinline__ WideSums(const ProjectParams &p, float *parts, uint32_t first, uint32_t last)
        : mine(parts + threadIdx.x % 4 * 2 * Shape::STRIDE + threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4),
          segment(first), first(first), last(last), end(wide_segment<W>(first + 1, p)) {
#pragma unroll
        for (int t = 0; t < TILES; t++)
#pragma unroll
            for (int i = 0; i < Shape::SUMS; i++)
                v[t][i] = 0;
    }
    // How far sum i of a tile lies behind its first one: [N rows][tile of the warp][128
    // outputs], or [N rows][joint warpgroup][64 outputs].
    __device__ static constexpr uint32_t offset(int i) { return (i / 4 * 8 + i % 2) * Shape::STRIDE + i % 4 / 2 * 8; }
    // Closes the segments that end before a step; one may be empty.
    __device__ __forceinline__ void flush(const ProjectParams &p, uint32_t step) {
        while (segment < last && step >= end) {
            float *place = mine; // of the segment's sums
            bool more = segment > first, all = false; // there are some; there the group meets those before
            if (TILES == 1) {
                const uint32_t together = gathered_log(p, 31 - __clz(last - first)), in_place = segment & (1 << together) - 1;
                const bool alone = last - first == p.segments, behind = segment >> together > 0; // the first group
                place += (alone ? behind : segment - first >> together) * Shape::PLACE;
                more = in_place > 0;
                all = alone && behind && in_place + 1 == 1 << together;
            }
            float *to = all ? mine : place;
            // Eight are on their way at a time: more would take the room of weights, which
            // the compiler has to be told; and so would branches in place of conditions.
#pragma unroll
            for (int i = 0; i < TILES * Shape::SUMS; i += 8) {
                const int tile = i / Shape::SUMS, n = i % Shape::SUMS;
                float was[8], before[8];
#pragma unroll
                for (int k = 0; k < 8; k++) {
                    was[k] = more ? place[tile * WIDE_OUTPUTS + offset(n + k)] : 0;
                    before[k] = all ? mine[tile * WIDE_OUTPUTS + offset(n + k)] : 0;
                }
#pragma unroll
                for (int k = 0; k < 8; k++) {
                    const float sum = more ? __fadd_rn(was[k], v[tile][n + k]) : v[tile][n + k];
                    to[tile * WIDE_OUTPUTS + offset(n + k)] = all ? __fadd_rn(before[k], sum) : sum;
                    v[tile][n + k] = 0;
                }
                asm volatile("" ::: "memory");
            }
            segment++;
            end = wide_segment<W>(segment + 1, p);
        }
    }
};

// A matrix and a tile of it.
struct Tile {
    const Matrix *matrix;
    uint32_t number;
};

// Weights in float16: group after group of chunks, while the group before is still being
// multiplied. Segments begin with a stage, of four chunks.
template <class W, int N, int TILES> __device__ __forceinline__ void wide_plain(const ProjectParams &p, WideSums<W, N, TILES> &sums, Stages<N> &stages, const Tile *tile, uint32_t begin, uint32_t end) {
    typedef Wide<N, TILES> Shape;
    constexpr int CHUNKS = Shape::CHUNKS, GROUPS = Shape::GROUPS, PARTS = 4 / CHUNKS; // of a stage
    constexpr int TURN = GROUPS % PARTS ? GROUPS * PARTS : GROUPS;
    const uint32_t first = begin / 4, whole = end / 4; // the stage at the end may be cut short
    // Loads have no condition, so that they can go straight to where wgmma reads: those
    // beyond the last group read it once more.
    Cursor at[TILES];
#pragma unroll
    for (int t = 0; t < TILES; t++)
        at[t] = cursor<W>(*tile[t].matrix, tile[t].number, p.steps, begin, threadIdx.x % 32);
    W w[GROUPS][TILES][CHUNKS];
    auto load_group = [&](W (*to)[CHUNKS], uint32_t group) {
#pragma unroll
        for (int t = 0; t < TILES; t++) {
#pragma unroll
            for (int u = 0; u < CHUNKS; u++)
                load(to[t][u], at[t], u);
            if (group + 1 < whole * PARTS)
                advance<W>(at[t], CHUNKS);
        }
    };
    if (first < whole)
#pragma unroll
        for (int g = 0; g < GROUPS; g++)
            load_group(w[g], first * PARTS + g);
    stages.go_on();
    if (first < whole)
        stages.wait();
#pragma unroll 1
    for (uint32_t stage = first; stage < whole; stage += TURN / PARTS) {
#pragma unroll
        for (int i = 0; i < TURN; i++) {
            const int g = i % GROUPS, part = i % PARTS;
            const uint32_t now = stage + i / PARTS;
            if (part == 0 && now >= whole)
                break;
            uint32_t a[TILES][CHUNKS][4];
#pragma unroll
            for (int t = 0; t < TILES; t++)
#pragma unroll
                for (int u = 0; u < CHUNKS; u++)
                    w[g][t][u].fragments(a[t] + u, 0, {}, 0);
            if (part == 0 && now * 4 >= sums.end) {
                wgmma_wait<0>();
                sums.flush(p, now * 4);
            }
            wgmma_fence();
#pragma unroll
            for (int u = 0; u < CHUNKS; u++)
#pragma unroll
                for (int t = 0; t < TILES; t++)
                    wgmma<N>(sums.v[t], a[t][u], stages.chunk(part * CHUNKS + u), true);
            wgmma_commit();
            // All but the last two groups have been multiplied: their registers are free.
            if (now * PARTS + part >= first * PARTS + 2)
                load_group(w[(g + GROUPS - 2) % GROUPS], now * PARTS + part - 2 + GROUPS);
            const bool last = part == PARTS - 1; // of the stage
            if (last)
                stages.go_on();
            wgmma_wait<1>();
            if (part == 0)
                stages.template leave<PARTS == 1 ? 2 : 1>(now > first);
            if (last && now + 1 < whole)
                stages.wait();
        }
    }
    wgmma_wait<0>();
    if (whole * 4 == end)
        return;
    sums.flush(p, whole * 4);
    stages.wait();
#pragma unroll
    for (int t = 0; t < TILES; t++) {
        at[t] = cursor<W>(*tile[t].matrix, tile[t].number, p.steps, whole * 4, threadIdx.x % 32);
#pragma unroll
        for (int u = 0; u < 3; u++)
            if (whole * 4 + u < end) {
                uint32_t a[1][4];
                load(w[0][0][0], at[t], u);
                w[0][0][0].fragments(a, 0, {}, 0);
                wgmma_fence();
                wgmma<N>(sums.v[t], a[0], stages.chunk(u), true);
                wgmma_commit();
                wgmma_wait<0>();
            }
    }
}

// Weights that become float16 first: a stage's are made while the stage before is still
// being multiplied, and those of the next step loaded where they were. AHEAD steps are
// an even number of stages, so that fragments take turns in two sets of registers.
//
// No branch may come between two wgmmas of a turn, or the assembler would have them
// wait for each other. So a turn always has all its stages: beyond the last one,
// weights are 0 and meet its activations once more.
template <class W, int N> __device__ __forceinline__ void wide_packed(const ProjectParams &p, WideSums<W, N, 1> &sums, Stages<N> &stages, const Tile &tile, uint32_t begin, uint32_t end) {
    constexpr int AHEAD = N > 64 ? W::AHEAD : W::AHEAD_NARROW;
    constexpr int STEPS = W::CHUNKS < 4 ? 4 / W::CHUNKS : 1; // of a stage
    const uint32_t lane = threadIdx.x % 32;
    const float up = tile.matrix->up;
    Cursor at = cursor<W>(*tile.matrix, tile.number, p.steps, begin, lane);
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
                    wgmma<N>(sums.v[0], now[c], stages.chunk(c), true);
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

// Dynamic shared memory: the stages; the places of WideSums (wideShape.places in the host's
// words).
//
// Grid: (row blocks * blocks that share, blocks of tiles).
template <class W, int N, int TILES = 1> __device__ __forceinline__ void wide(const ProjectParams &p) {
    typedef Wide<N, TILES> Shape;
    extern __shared__ __align__(1024) char shared[];
    const uint32_t warp = __shfl_sync(~0u, threadIdx.x / 32, 0);
    const uint32_t tiles_here = WIDE_WARPS * TILES >> (p.gated | p.joint); // of each matrix with a gate
    const uint32_t splits_log = 31 - __clz(p.splits), row_block = blockIdx.x >> splits_log, rank = blockIdx.x & (p.splits - 1);
    const uint32_t first_row = row_block * N, first_tile = blockIdx.y * tiles_here;
    let_next_start();
    // Whose stages the warp uses or asks for, and which it is of those that share segments.
    const uint32_t group = p.joint ? warp < WIDE_WARPS ? warp / 4 : warp - WIDE_WARPS : 0;
    const uint32_t each_log = p.segments_log - splits_log - p.joint, sharer = (rank << p.joint) + group; // segments of a sharer
    float *parts = (float *)(shared + Shape::STAGES_BYTES);
    Stages<N> stages(p, shared, group);
    if (threadIdx.x == 0)
        stages.init();
    __syncthreads();
    const uint32_t begin = wide_segment<W>(sharer << each_log, p), end = wide_segment<W>(sharer + 1 << each_log, p);
    if (warp >= WIDE_WARPS) {
        fewer_registers<24>();
        if (threadIdx.x % 32 == 0 && warp <= WIDE_WARPS + p.joint) {
            wait_for_previous();
            stages.ask(first_row, begin * W::CHUNKS / 4, (end * W::CHUNKS + 3) / 4);
        }
        return; // all that follows would have to do with 24 registers if it came this way, too
    }
    more_registers<240>();
    // In shared memory a matrix stands behind the other.
    Tile tile[TILES];
#pragma unroll
    for (int t = 0; t < TILES; t++) {
        const uint32_t n = t * WIDE_WARPS + warp;
        const Place place(p, first_tile + n % tiles_here);
        tile[t] = {p.matrix + (p.gated ? n / tiles_here : place.matrix), place.there ? place.tile : 0};
    }
    WideSums<W, N, TILES> sums(p, parts, sharer << each_log, sharer + 1 << each_log);
    if constexpr (W::CONVERTED)
        wide_packed<W, N>(p, sums, stages, tile[0], begin, end);
    else
        wide_plain<W, N, TILES>(p, sums, stages, tile, begin, end);
    sums.flush(p, end);

    // Through shared memory, so that outputs are written side by side and gates meet.
    wait_for_previous();
    const uint32_t blocks = cluster_size(), there = p.rows > first_row ? p.rows - first_row : 0, places_log = each_log - gathered_log(p, each_log);
    constexpr uint32_t OUTPUTS = WIDE_OUTPUTS * TILES;
    if (p.splits > blocks) {
        const Ending ending{parts, Shape::STRIDE, Shape::PLACE, places_log, first_tile, tiles_here, first_row, first_row, first_row + min((uint32_t)N, there)};
        const Memory<N, OUTPUTS> memory(p, blockIdx.y * (gridDim.x >> splits_log) + row_block, places_log);
        workers_barrier(false);
        if (hand_over(p, ending, memory, rank, (uint32_t *)shared)) // the stages have been used
            finish_rows<true, N, OUTPUTS>(p, ending, memory.sums);
        return;
    }
    workers_barrier(blocks > 1);
    const uint32_t rows = N >> (blocks > 1 ? splits_log : 0); // to finish
    finish_rows<false, N, OUTPUTS>(p, {parts, Shape::STRIDE, Shape::PLACE, places_log, first_tile, tiles_here, first_row, first_row + rank * rows, first_row + min((rank + 1) * rows, there)}, 0);
    if (blocks > 1)
        workers_barrier(true); // the others have read this block's sums
}
