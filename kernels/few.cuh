// Projections of up to 8 rows. See project.cuh.
#pragma once
#include "project.cuh"

// A block of few has 8 warps: one for each segment, or with a gate one for each
// segment of both matrices. Where there are too few tiles to keep all
// multiprocessors busy, two blocks in a cluster share a tile's segments: the
// second leaves its sums in the shared memory of the first.
static constexpr uint32_t FEW_WARPS = Rows::WARPS;

// Stores to the shared memory of the cluster's first block.
__device__ __forceinline__ void store_first(float *at, float v) {
#if __CUDA_ARCH__ >= 900
    uint32_t local = (uint32_t)__cvta_generic_to_shared(at), remote;
    asm("mapa.shared::cluster.u32 %0, %1, 0;" : "=r"(remote) : "r"(local));
    asm volatile("st.shared::cluster.f32 [%0], %1;" ::"r"(remote), "f"(v) : "memory");
#else
    *at = v;
#endif
}

// Up to 8 rows. A block works on one tile of 16 outputs at a time (of both
// matrices with a gate), a warp on one segment of it. What does not depend on
// the kernel before comes first: it may still be running.
//
// Dynamic shared memory, fewShared in the host's words: what Rows have, and the sums
// of the segments of two tiles, [2][matrix][segment][16 outputs][8 rows].
template <class W> __device__ __forceinline__ void few(const ProjectParams &p) {
    extern __shared__ __align__(16) char shared[];
    constexpr uint32_t ROWS = Rows::ROWS;
    const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const uint32_t part_warps = p.segments << p.gated;
    let_next_start();
    const bool cluster = part_warps > FEW_WARPS;
    if (cluster)
        cluster_arrive(); // there is shared memory to store to
    const uint32_t rank = cluster ? cluster_rank() : 0, slot = rank * FEW_WARPS + warp;
    const uint32_t part = slot >> p.segments_log, segment = slot & (p.segments - 1);
    const uint32_t begin = segment_begin<W>(segment, p), end = segment_begin<W>(segment + 1, p);
    const uint32_t stride = gridDim.x >> cluster;
    uint32_t n = blockIdx.x >> cluster;
    Place place(p, n);
    Cursor at;
    W w[W::UNROLL];
    auto load_first = [&] {
        at = cursor<W>(p.matrix[p.gated ? part : place.matrix], place.tile, p.steps, begin, lane);
#pragma unroll
        for (int u = 0; u < W::UNROLL; u++)
            if (u < end - begin)
                load(w[u], at, u);
    };
    load_first();
    Rows all(p, shared);
    float *parts = all.end();
    all.expect(p);
    wait_for_previous();
    all.round(p);

    // Two rows for each of the first warps, to finish.
    const uint32_t output_in_tile = threadIdx.x % 16, row = threadIdx.x / 16;
    float factor = 0;
#pragma unroll 1
    for (uint32_t r = warp * 2; r < min(warp * 2 + 2, p.rows); r++) {
        const float f = all.factor(p, r);
        factor = r == row ? f : factor;
    }
    uint64_t best = 0;
#pragma unroll 1
    for (uint32_t turn = 0; n < p.tiles; turn++) {
        const Matrix &first = p.matrix[place.matrix];
        const uint32_t output = place.tile * 16 + output_in_tile;
        float residual = row < p.rows && rank == 0 ? residual_of(p, first, output, row) : 0;
        const float up = p.matrix[p.gated ? part : place.matrix].up;
        Sink<1> sink(all.half_stride);
        sink.place(all.half, begin * W::CHUNKS, lane);
#pragma unroll 1
        for (int left = end - begin; left > 0; left -= W::UNROLL) {
#pragma unroll
            for (int u = 0; u < W::UNROLL; u++)
                if (u < left) {
                    // Into the registers that have just been used: into others, with
                    // a move to follow, the loads would wait for each other.
                    give_and_load(w[u], up, sink, lane, at, u + W::UNROLL, u + W::UNROLL < left);
                    sink.advance(W::CHUNKS);
                }
            advance<W>(at, W::UNROLL);
        }
        n += stride;
        if (n < p.tiles) {
            place = Place(p, n);
            load_first();
        }
        float *here = parts + turn % 2 * part_warps * 16 * ROWS, *mine = here + slot * 16 * ROWS + lane / 4 * 8 + lane % 4 * 2;
        if (cluster && turn == 0)
            cluster_wait();
        auto leave = [&](float *at, float v) {
            if (rank)
                store_first(at, v);
            else
                *at = v;
        };
        leave(mine, sink.v[0][0]);
        leave(mine + 1, sink.v[0][1]);
        leave(mine + 64, sink.v[0][2]);
        leave(mine + 65, sink.v[0][3]);
        cluster_barrier(cluster);
        if (row < p.rows && rank == 0 && output < first.outs) {
            const float *s = here + output_in_tile * ROWS + row;
            const float sum = sum_of(s, 16 * ROWS, p.segments), other = p.gated ? sum_of(s + p.segments * 16 * ROWS, 16 * ROWS, p.segments) : 0;
            const float y = finish(p, first, output, row, sum, other, factor, residual);
            if (p.best)
                best = max(best, ranked(y, output));
        }
    }
    if (p.best && warp * 2 < p.rows) // whole warps, of two rows each
        raise<16>(p, row, best, best_seen(p, row));
}
