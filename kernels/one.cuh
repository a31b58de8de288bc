// Projections of a single row, as when one sequence generates. See project.cuh.
//
// Nothing here but reading the weights takes long by itself, so what counts is how
// little there is between the predecessor's end and the next kernel's begin: few
// instructions, all loads that do not depend on the predecessor before the wait for
// it, two barriers, and all outputs of a block at the end.
#pragma once
#include "project.cuh"

// What takes the chunks of 16 columns. For mma the row is a column among zeros: lanes
// 0 to 3 have it, and get the sums.
struct RowSink {
    float v[4];
    const char *halves; // where the lane reads: its four of 16
    bool reads;

    __device__ __forceinline__ void place(const char *half, uint32_t chunk, uint32_t lane) {
        v[0] = v[1] = v[2] = v[3] = 0;
        halves = half + lane % 4 * 8 + chunk * 32;
        reads = lane < 4;
    }
    __device__ __forceinline__ void advance(uint32_t chunks) { halves += chunks * 32; }
    __device__ __forceinline__ uint2 half(int chunk, bool there = true) const { return reads && there ? *(const uint2 *)(halves + chunk * 32) : make_uint2(0, 0); }
    __device__ __forceinline__ void plain(int chunk, const uint32_t *a) { mma(v, a, half(chunk)); }
};

// A block has contiguous tiles, equally many as the others or one more. Its warps
// share them: so many as a tile has sides (segments, of both matrices with a gate) work
// on a tile together.
//
// Dynamic shared memory, oneShared in the host's words: what Rows have, and the sums of
// the sides, [tile][side][16 outputs] with 16 floats more a tile, for the banks.
static constexpr uint32_t ONE_WARPS = 16; // as many as a tile has sides, at most

template <class W> __device__ __forceinline__ void one(const ProjectParams &p) {
    extern __shared__ __align__(16) char shared[];
    constexpr uint32_t WARPS = ONE_WARPS, THREADS = WARPS * 32;
    constexpr int UNROLL = W::AT_ONCE;
    const uint32_t tid = threadIdx.x, lane = tid % 32, warp = tid / 32;
    let_next_start();
    const uint32_t log = p.segments_log + p.gated, sides = 1u << log;
    const uint32_t first = blockIdx.x * p.each + min(blockIdx.x, p.more), tiles = p.each + (blockIdx.x < p.more);
    const uint32_t side = warp & (sides - 1), part = side >> p.segments_log, segment = side & (p.segments - 1);
    const uint32_t begin = segment_begin<W>(segment, p), steps = segment_begin<W>(segment + 1, p) - begin;

    uint32_t tile = warp >> log;
    Cursor at;
    float up;
    W w[UNROLL] = {};
    auto load_first = [&] {
        const Place place(p, first + tile);
        const Matrix &m = p.matrix[p.gated ? part : place.matrix];
        up = m.up;
        at = cursor<W>(m, place.tile, p.steps, begin, lane);
#pragma unroll
        for (int u = 0; u < UNROLL; u++)
            if (u < steps)
                load(w[u], at, u);
    };
    if (tile < tiles)
        load_first();
    Rows<WARPS, 1> row(p, shared);
    float *parts = row.end();
    row.expect(p);
    // Of the thread's first output.
    const Place mine(p, first + tid / 16);
    const uint32_t output = mine.tile * 16 + tid % 16;
    const Matrix &m = p.matrix[mine.matrix];
    const bool there = tid < tiles * 16 && output < m.outs;
    float bias = there && m.bias ? ((const float *)m.bias)[output] : 0;
    wait_for_previous();
    float residual = there && p.residual ? __ldcg((const float *)p.residual + output) : 0;
    row.round(p, 1);

    RowSink sink;
#pragma unroll 1
    while (tile < tiles) {
        sink.place(row.half, begin * W::CHUNKS, lane);
#pragma unroll 1
        for (int left = steps; left > 0; left -= UNROLL) {
#pragma unroll
            for (int u = 0; u < UNROLL; u++) {
                if constexpr (W::CHUNKS == 1) {
                    // Without a branch, so that activations are on their way for
                    // several steps: those beyond the segment are multiplied with zeros.
                    uint32_t a[1][4];
                    w[u].fragments(a, 0, {~0u}, lane);
                    mma(sink.v, a[0], sink.half(u, u < left));
                } else if (u < left) {
                    give(w[u], up, sink, lane);
                    sink.advance(W::CHUNKS);
                }
                // Into the registers that have just been used: into others, with a move
                // to follow, the loads would wait for each other.
                if (u + UNROLL < left)
                    load(w[u], at, u + UNROLL);
            }
            if (W::CHUNKS == 1)
                sink.advance(UNROLL);
            advance<W>(at, UNROLL);
        }
        float *to = parts + tile * (sides + 1) * 16 + side * 16 + lane / 4;
        tile += WARPS >> log;
        if (tile < tiles)
            load_first();
        if (lane % 4 == 0) {
            to[0] = sink.v[0];
            to[8] = sink.v[2];
        }
    }
    __syncthreads();
    const float scale = row.factor(p, 0);
    uint64_t best = 0;
#pragma unroll 1
    for (uint32_t i = tid; i < tiles * 16; i += THREADS) {
        const Place place(p, first + i / 16);
        const Matrix &m = p.matrix[place.matrix];
        const uint32_t output = place.tile * 16 + i % 16;
        if (output >= m.outs)
            continue;
        if (i != tid) {
            bias = m.bias ? ((const float *)m.bias)[output] : 0;
            residual = p.residual ? __ldcg((const float *)p.residual + output) : 0;
        }
        const float *from = parts + i / 16 * (sides + 1) * 16 + i % 16;
        float y = __fmul_rn(sum_of(from, 16, p.segments), __fmul_rn(scale, m.down));
        if (m.bias)
            y = __fadd_rn(y, bias);
        if (p.gated) {
            float other = __fmul_rn(sum_of(from + p.segments * 16, 16, p.segments), __fmul_rn(scale, p.matrix[1].down));
            if (p.matrix[1].bias)
                other = __fadd_rn(other, ((const float *)p.matrix[1].bias)[output]);
            y = __fmul_rn(silu(y), other);
        }
        if (p.residual)
            y = __fadd_rn(y, residual);
        ((float *)m.out)[output] = y;
        best = max(best, ranked(y, output));
    }
    if (p.best)
        raise<32>(p, 0, best);
}
