// Projections of up to 8 rows. See project.cuh.
#pragma once
#include "project.cuh"

__device__ __forceinline__ float largest_of(const float *largest) {
    float most = 0;
#pragma unroll
    for (int w = 0; w < NORM_WARPS; w++)
        most = fmaxf(most, largest[w]);
    return most;
}

// A block of few has 8 warps: one for each segment, or with a gate one for each
// segment of both matrices. Where there are too few tiles to keep all
// multiprocessors busy, two blocks in a cluster share a tile's segments: the
// second leaves its sums in the shared memory of the first.
static constexpr uint32_t FEW_WARPS = 8;

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

// Rounds the rows for a block of few; all of them, in every block: that takes less
// time than to wait for another kernel.
template <bool ONE> struct Rounded {
    static constexpr uint32_t ROWS = ONE ? 1 : 8;
    char *half;
    float *sums, *squares, *largest;
    uint32_t half_stride, sum_stride;
    float factor; // of the row that the thread will finish

    // Octets e, e + 2,048, ... of a row, N of them: all are on their way before the
    // first is used.
    template <int N, bool GAIN> __device__ __forceinline__ void octets(const ProjectParams &p, const float *in, uint32_t r, uint32_t e, float down, float &sum, float &most) {
        const uint32_t lane = threadIdx.x % 32;
        Octet x[N];
#pragma unroll
        for (int i = 0; i < N; i++)
            x[i].load(in, e + i * NORM_WARPS * 256, p.width);
#pragma unroll
        for (int i = 0; i < N; i++) {
            const uint32_t at = e + i * NORM_WARPS * 256;
            if (at - lane * 8 >= p.stride) // the same in all lanes
                return;
            if (GAIN) {
                Octet g;
                g.load((const float *)p.gain, at, p.width);
                sum = x[i].squares(sum);
                x[i].multiply(g);
            }
            most = x[i].largest(most);
            float s = 0;
            if (at < p.stride)
                s = x[i].round(half + r * half_stride + at * 2, down);
            s = __fadd_rn(s, __shfl_xor_sync(~0u, s, 1));
            if (at < p.stride && lane % 2 == 0)
                sums[r * sum_stride + at / 16] = s;
        }
    }

    // Before the rows are there: gains come close.
    __device__ __forceinline__ void expect(const ProjectParams &p) const {
        if (p.gain)
            for (uint32_t e = threadIdx.x * 32; e < p.width; e += NORM_WARPS * 32 * 32)
                prefetch_line((const float *)p.gain + e);
    }

    // A second round is for rows with values that halves do not hold as they are.
    __device__ __forceinline__ void round(const ProjectParams &p, uint32_t rows) {
        const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll 1
        for (bool first = true, again = true; again; first = false) {
#pragma unroll 1
            for (uint32_t r = 0; r < rows; r++) {
                const float *in = (const float *)p.in + (uint64_t)(p.pick ? ((const int32_t *)p.pick)[r] : r) * p.width;
                float sum = 0, most = 0, down = 1, up;
                if (!first)
                    row_scale(largest_of(largest + r * NORM_WARPS), &down, &up);
                constexpr int AT_ONCE = 2;
                uint32_t e = threadIdx.x * 8;
                if (p.gain)
#pragma unroll 1
                    for (; e - lane * 8 < p.stride; e += AT_ONCE * NORM_WARPS * 256)
                        octets<AT_ONCE, true>(p, in, r, e, down, sum, most);
                else
#pragma unroll 1
                    for (; e - lane * 8 < p.stride; e += AT_ONCE * NORM_WARPS * 256)
                        octets<AT_ONCE, false>(p, in, r, e, down, sum, most);
                sum = warp_sum(sum);
                most = warp_max(most);
                if (lane == 0 && first) {
                    squares[r * NORM_WARPS + warp] = sum;
                    largest[r * NORM_WARPS + warp] = most;
                }
            }
            __syncthreads();
            again = false; // the same in all threads
#pragma unroll 1
            for (uint32_t r = 0; r < rows; r++) {
                float down, up;
                again |= row_scale(largest_of(largest + r * NORM_WARPS), &down, &up);
                if (r == threadIdx.x / 16)
                    factor = __fmul_rn(p.gain ? inverse_rms(squares + r * NORM_WARPS, p.width, p.eps) : 1.f, up);
            }
            again &= first;
        }
    }
};

// Up to 8 rows. A block works on one tile of 16 outputs at a time (of both
// matrices with a gate), a warp on one segment of it. What does not depend on
// the kernel before comes first: it may still be running.
//
// Dynamic shared memory, fewShared in the host's words: the rows as halves, their
// sums, the sums of the segments of two tiles, squares and largest by row.
template <class W, bool ONE> __device__ __forceinline__ void few(const ProjectParams &p) {
    extern __shared__ __align__(16) char shared[];
    constexpr uint32_t ROWS = ONE ? 1 : 8;
    const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    Rounded<ONE> rounded;
    rounded.half_stride = p.stride * 2 + 32;
    rounded.sum_stride = p.stride / 16 + 1;
    rounded.half = shared;
    rounded.sums = (float *)(shared + ROWS * rounded.half_stride);
    float *parts = rounded.sums + ROWS * rounded.sum_stride; // [2][matrix][segment][16 outputs][rows]
    const uint32_t part_warps = p.gated ? 2 * p.segments : p.segments;
    rounded.squares = parts + 2 * part_warps * 16 * ROWS;
    rounded.largest = rounded.squares + ROWS * NORM_WARPS;

    let_next_start();
    const bool cluster = part_warps > FEW_WARPS;
    const uint32_t rank = cluster ? cluster_rank() : 0, slot = rank * FEW_WARPS + warp;
    const uint32_t part = p.gated ? slot / p.segments : 0, segment = slot - part * p.segments;
    const uint32_t begin = segment_begin<W>(segment, p), end = segment_begin<W>(segment + 1, p);
    const uint32_t stride = cluster ? gridDim.x / 2 : gridDim.x;
    uint32_t n = cluster ? blockIdx.x / 2 : blockIdx.x;
    Place place(p, n);
    Cursor at;
    W w[W::UNROLL];
    auto load_first = [&] {
        at = cursor<W>(p.matrix[p.gated ? part : place.matrix], place.tile, p.steps, begin, lane);
#pragma unroll
        for (int u = 0; u < W::UNROLL; u++)
            if (u < end - begin)
                w[u].load(at, u);
    };
    load_first();
    rounded.expect(p);
    wait_for_previous();
    const uint32_t rows = ONE ? 1 : p.rows;
    rounded.round(p, rows);

    const uint32_t output_in_tile = threadIdx.x % 16, row = threadIdx.x / 16;
    uint64_t best = 0;
#pragma unroll 1
    for (uint32_t turn = 0; n < p.tiles; turn++) {
        const Matrix &first = p.matrix[place.matrix];
        const uint32_t output = place.tile * 16 + output_in_tile;
        float residual = row < rows && rank == 0 ? residual_of(p, first, output, row) : 0;
        Sink<1, ONE> sink(rounded.half_stride, rounded.sum_stride, lane);
        sink.place(rounded.half, rounded.sums, begin * W::CHUNKS, lane);
#pragma unroll 1
        for (int left = end - begin; left > 0; left -= W::UNROLL) {
#pragma unroll
            for (int u = 0; u < W::UNROLL; u++)
                if (u < left) {
                    w[u].give(sink, lane);
                    sink.advance(W::CHUNKS);
                    // Into the registers that have just been used: into others, with
                    // a move to follow, the loads would wait for each other.
                    if (u + W::UNROLL < left)
                        w[u].load(at, u + W::UNROLL);
                }
            advance<W>(at, W::UNROLL);
        }
        n += stride;
        if (n < p.tiles) {
            place = Place(p, n);
            load_first();
        }
        float *here = parts + turn % 2 * part_warps * 16 * ROWS, *mine = here + slot * 16 * ROWS;
        auto leave = [&](float *at, float v) {
            if (rank)
                store_first(at, v);
            else
                *at = v;
        };
        if (ONE) {
            if (lane % 4 == 0) {
                leave(mine + lane / 4, sink.v[0][0]);
                leave(mine + lane / 4 + 8, sink.v[0][2]);
            }
        } else {
            float *at = mine + lane / 4 * 8 + lane % 4 * 2;
            leave(at, sink.v[0][0]);
            leave(at + 1, sink.v[0][1]);
            leave(at + 64, sink.v[0][2]);
            leave(at + 65, sink.v[0][3]);
        }
        cluster_barrier(cluster);
        if (row < rows && rank == 0 && output < first.outs) {
            const float *s = here + output_in_tile * ROWS + row;
            float sum = s[0], other = 0;
            for (uint32_t g = 1; g < p.segments; g++)
                sum = __fadd_rn(sum, s[g * 16 * ROWS]);
            if (p.gated) {
                s += p.segments * 16 * ROWS;
                other = s[0];
                for (uint32_t g = 1; g < p.segments; g++)
                    other = __fadd_rn(other, s[g * 16 * ROWS]);
            }
            float y = finish(p, first, output, row, sum, other, rounded.factor, residual);
            if (p.best)
                best = max(best, ranked(y, output));
        }
    }
    if (p.best && threadIdx.x / 32 * 2 < rows) // whole warps, of two rows each
        raise(p, row, best);
}
