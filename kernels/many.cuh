// Projections of any number of rows by mma.sync. See project.cuh.
#pragma once
#include "project.cuh"

// Any number of rows, 64 to a block of 8 warps with a tile each. The activations
// of 256 columns at a time come to shared memory while those before are in use.
// With a gate, even warps have the first matrix and odd ones the second.
static constexpr int MANY_ROWS = 64, MANY_WARPS = 8, MANY_COLUMNS = 256;
static constexpr uint32_t MANY_HALF_STRIDE = MANY_COLUMNS * 2 + 32;
static constexpr uint32_t MANY_STAGE = MANY_ROWS * MANY_HALF_STRIDE;

template <class W> __device__ __forceinline__ void many(const ProjectParams &p) {
    extern __shared__ __align__(16) char shared[];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const uint32_t first_row = blockIdx.x * MANY_ROWS;
    const uint32_t tiles_here = p.gated ? MANY_WARPS / 2 : MANY_WARPS;
    Place place(p, blockIdx.y * tiles_here + (p.gated ? warp / 2 : warp));
    const Matrix &m = p.matrix[p.gated ? warp % 2 : place.matrix];
    Cursor at = cursor<W>(m, place.there ? place.tile : 0, p.steps, 0, lane);

    auto stage = [&](uint32_t column, uint32_t slot) {
        char *to = shared + slot * MANY_STAGE;
        uint32_t columns = min((uint32_t)MANY_COLUMNS, p.stride - column);
        for (uint32_t i = threadIdx.x; i < MANY_ROWS * MANY_COLUMNS / 8; i += MANY_WARPS * 32) {
            uint32_t r = i / (MANY_COLUMNS / 8), c = i % (MANY_COLUMNS / 8) * 8, row = first_row + r;
            bool there = row < p.rows && c < columns;
            copy_async(to + r * MANY_HALF_STRIDE + c * 2, (const char *)p.half + (there ? ((uint64_t)row * p.stride + column + c) * 2 : 0), there);
        }
        copy_commit();
    };

    constexpr uint32_t PER_STAGE = MANY_COLUMNS / 16 / W::CHUNKS;
    Sink<MANY_ROWS / 8> sink(MANY_HALF_STRIDE);
    float total[MANY_ROWS / 8][4] = {}, group[MANY_ROWS / 8][4] = {};
    const uint32_t each = p.segments / 4; // of a group
    uint32_t segment = 0, end = segment_begin<W>(1, p), stages = (p.steps + PER_STAGE - 1) / PER_STAGE;
    for (; end == 0; end = segment_begin<W>(segment + 1, p)) // the first are empty: narrow rows
        segment++;
    let_next_start();
    W w;
    load(w, at, 0);
    wait_for_previous();
    stage(0, 0);
    for (uint32_t n = 0; n < stages; n++) {
        if (n + 1 < stages) {
            stage((n + 1) * MANY_COLUMNS, (n + 1) % 2);
            copy_wait<1>();
        } else {
            copy_wait<0>();
        }
        __syncthreads();
        sink.place(shared + n % 2 * MANY_STAGE, 0, lane);
#pragma unroll 1
        for (uint32_t i = 0; i < PER_STAGE && n * PER_STAGE + i < p.steps; i++) {
            uint32_t step = n * PER_STAGE + i;
            W now = w;
            advance<W>(at, 1);
            if (step + 1 < p.steps)
                load(w, at, 0);
            give(now, m.up, sink, lane);
            sink.advance(W::CHUNKS);
            while (segment < p.segments && step + 1 >= end) { // a segment may be empty
                const uint32_t in_group = segment & (each - 1);
#pragma unroll
                for (int g = 0; g < MANY_ROWS / 8; g++)
#pragma unroll
                    for (int j = 0; j < 4; j++) {
                        group[g][j] = in_group ? __fadd_rn(group[g][j], sink.v[g][j]) : sink.v[g][j];
                        if (in_group == each - 1)
                            total[g][j] = segment >= each ? __fadd_rn(total[g][j], group[g][j]) : group[g][j];
                    }
                sink.clear();
                segment++;
                end = segment_begin<W>(segment + 1, p);
            }
        }
        __syncthreads();
    }
    // Through shared memory, so that whole outputs are written side by side and
    // gates meet: [warp][16 outputs][rows + 1].
    float *parts = (float *)shared;
#pragma unroll
    for (int g = 0; g < MANY_ROWS / 8; g++)
#pragma unroll
        for (int j = 0; j < 4; j++)
            parts[(warp * 16 + lane / 4 + j / 2 * 8) * (MANY_ROWS + 1) + g * 8 + lane % 4 * 2 + j % 2] = total[g][j];
    __syncthreads();
    for (uint32_t i = threadIdx.x; i < tiles_here * 16 * MANY_ROWS; i += MANY_WARPS * 32) {
        uint32_t o = i % 16, t = i / 16 % tiles_here, r = i / 16 / tiles_here, row = first_row + r;
        Place there(p, blockIdx.y * tiles_here + t);
        const Matrix &first = p.matrix[there.matrix];
        uint32_t output = there.tile * 16 + o, w = p.gated ? t * 2 : t;
        uint64_t best = 0;
        if (there.there && row < p.rows && output < first.outs) {
            float y = finish(p, first, output, row, parts[(w * 16 + o) * (MANY_ROWS + 1) + r], p.gated ? parts[((w + 1) * 16 + o) * (MANY_ROWS + 1) + r] : 0.f,
                             ((const float *)p.scale)[row], residual_of(p, first, output, row));
            if (p.best)
                best = ranked(y, output);
        }
        if (p.best)
            raise<16>(p, row, best, best_seen(p, row)); // the loop has the same turns in all threads
    }
}
