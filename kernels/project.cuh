// Projections: rows of activations times weight matrices, y = W x + bias, with
// an optional norm before and a gate or residual after.
//
// One arithmetic, several kernels. A row of weights is cut into segments (by the
// host, from the matrix's shape alone). Within a segment the tensor cores add up
// chunk after chunk; the sums of the segments are added in order. few (up to 8
// rows, and one for a single one) gives each segment to a warp of its own, so that
// many warps wait for memory together, and rounds its rows itself; many takes what
// kernel prepare has rounded, and walks through the segments with 64 rows at once;
// so does wide (wide.cuh) on Hopper, where many is not needed. A row gets the same
// bits from all, in any company.
#pragma once
#include "activations.cuh"
#include "formats.cuh"

// Which matrix and which of its tiles a tile number of the launch means.
struct Place {
    uint32_t matrix, tile;
    bool there;
    __device__ __forceinline__ Place(const ProjectParams &p, uint32_t n) {
        matrix = 0;
        tile = n;
        if (!p.gated)
            while (matrix + 1 < p.matrices && tile >= p.matrix[matrix].tiles) {
                tile -= p.matrix[matrix].tiles;
                matrix++;
            }
        there = tile < p.matrix[matrix].tiles;
    }
};

// Sums of one segment for GROUPS x 8 rows. With ONE, there is a single row, and
// what would be other rows is not computed.
//
// Activations are in shared memory: rows of halves and their sums. A row of halves
// is padded so that 8 rows of 32 bytes lie in different banks.
template <int GROUPS, bool ONE> struct Sink {
    float v[GROUPS][4];
    const char *halves; // where the lane reads: its column's row, its four of 16
    const float *sums;  // of the first of its two columns
    uint32_t half_stride, sum_stride;
    bool reads;         // with ONE, other columns are zeros

    __device__ __forceinline__ Sink(uint32_t half_stride, uint32_t sum_stride, uint32_t lane)
        : half_stride(half_stride), sum_stride(sum_stride), reads(!ONE || lane < 4) {
        clear();
    }
    __device__ __forceinline__ void place(const char *half, const float *sum, uint32_t chunk, uint32_t lane) {
        halves = half + (ONE ? lane % 4 * 8 : lane / 4 * half_stride + lane % 4 * 8) + chunk * 32;
        sums = sum + (ONE ? 0 : lane % 4 * 2 * sum_stride) + chunk;
    }
    __device__ __forceinline__ void advance(uint32_t chunks) {
        halves += chunks * 32;
        sums += chunks;
    }
    __device__ __forceinline__ void clear() {
#pragma unroll
        for (int g = 0; g < GROUPS; g++)
            v[g][0] = v[g][1] = v[g][2] = v[g][3] = 0;
    }
    __device__ __forceinline__ uint2 half(int g, int chunk) const {
        return reads ? *(const uint2 *)(halves + g * 8 * half_stride + chunk * 32) : make_uint2(0, 0);
    }
    __device__ __forceinline__ float sum(int g, int column, int chunk) const { return sums[(g * 8 + column) * sum_stride + chunk]; }
    __device__ __forceinline__ void plain(int chunk, const uint32_t *a) {
#pragma unroll
        for (int g = 0; g < GROUPS; g++)
            mma(v[g], a, half(g, chunk));
    }
    // sum += scale * part + offset * sum of activations, for both rows of
    // weights and (unless ONE) both columns that the lane has.
    __device__ __forceinline__ void scaled(int g, const float *part, const float *scale, const float *offset, float x0, float x1) {
        v[g][0] = fmaf(offset[0], x0, fmaf(scale[0], part[0], v[g][0]));
        v[g][2] = fmaf(offset[1], x0, fmaf(scale[1], part[2], v[g][2]));
        if (!ONE) {
            v[g][1] = fmaf(offset[0], x1, fmaf(scale[0], part[1], v[g][1]));
            v[g][3] = fmaf(offset[1], x1, fmaf(scale[1], part[3], v[g][3]));
        }
    }
    template <bool OFFSET> __device__ __forceinline__ void pair(int chunk, const uint32_t *a, const uint32_t *b, const float *scale, const float *offset) {
#pragma unroll
        for (int g = 0; g < GROUPS; g++) {
            float part[4] = {0, 0, 0, 0};
            mma(part, a, half(g, chunk));
            mma(part, b, half(g, chunk + 1));
            scaled(g, part, scale, offset, __fadd_rn(sum(g, 0, chunk), sum(g, 0, chunk + 1)),
                   ONE ? 0 : __fadd_rn(sum(g, 1, chunk), sum(g, 1, chunk + 1)));
        }
    }
    __device__ __forceinline__ void single(int chunk, const uint32_t *a, const float *scale, const float *offset) {
#pragma unroll
        for (int g = 0; g < GROUPS; g++) {
            float part[4] = {0, 0, 0, 0};
            mma(part, a, half(g, chunk));
            scaled(g, part, scale, offset, sum(g, 0, chunk), ONE ? 0 : sum(g, 1, chunk));
        }
    }
};

// The last touch, by one thread for one output of one row. sum is the product,
// other the second matrix's where there is a gate; scale is the row's factor.
struct Finish {
    bool biased, other_biased;
    float bias, other_bias;
    __device__ __forceinline__ Finish(const ProjectParams &p, const Matrix &m, uint32_t output) : biased(m.bias && output < m.outs), other_biased(p.gated && p.matrix[1].bias && output < m.outs) {
        bias = biased ? ((const float *)m.bias)[output] : 0;
        other_bias = other_biased ? ((const float *)p.matrix[1].bias)[output] : 0;
    }
    __device__ __forceinline__ float value(const ProjectParams &p, float sum, float other, float scale, float residual) const {
        float y = __fmul_rn(sum, scale);
        if (biased)
            y = __fadd_rn(y, bias);
        if (p.gated) {
            other = __fmul_rn(other, scale);
            if (other_biased)
                other = __fadd_rn(other, other_bias);
            y = __fmul_rn(silu(y), other);
        }
        if (p.residual)
            y = __fadd_rn(y, residual);
        return y;
    }
};

__device__ __forceinline__ float finish(const ProjectParams &p, const Matrix &m, uint32_t output, uint32_t row, float sum, float other, float scale, float residual) {
    float y = Finish(p, m, output).value(p, sum, other, scale, residual);
    ((float *)m.out)[(uint64_t)row * m.outs + output] = y;
    return y;
}

// A number that is the larger the larger y, and of equal y the smaller the output's
// number; a NaN is above all or below all. 0 is below every output.
__device__ __forceinline__ uint64_t ranked(float y, uint32_t output) {
    uint32_t bits = __float_as_uint(__fadd_rn(y, 0.f)); // -0 becomes 0
    bits = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
    return (uint64_t)bits << 32 | (uint32_t)~output;
}

// Raises the best of a row by those of 16 threads.
__device__ __forceinline__ void raise(const ProjectParams &p, uint32_t row, uint64_t best) {
#pragma unroll
    for (int d = 8; d; d >>= 1) {
        uint64_t other = __shfl_xor_sync(~0u, best, d);
        best = other > best ? other : best;
    }
    // Most are less than what is there already, which may be seen late.
    if (threadIdx.x % 16 == 0 && best > ((const unsigned long long *)p.best)[row])
        atomicMax((unsigned long long *)p.best + row, (unsigned long long)best);
}

__device__ __forceinline__ float residual_of(const ProjectParams &p, const Matrix &m, uint32_t output, uint32_t row) {
    return p.residual && output < m.outs ? ((const float *)p.residual)[(uint64_t)row * m.outs + output] : 0.f;
}

// Where a segment begins, in steps: at a multiple of 64 columns. The number of
// segments is a power of two.
template <class W> __device__ __forceinline__ uint32_t segment_begin(uint32_t segment, const ProjectParams &p) {
    constexpr uint32_t UNIT = W::CHUNKS < 4 ? 4 / W::CHUNKS : 1; // steps in 64 columns
    return min((segment * ((p.steps + UNIT - 1) / UNIT) >> (31 - __clz(p.segments))) * UNIT, p.steps);
}

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

__device__ __forceinline__ uint32_t cluster_rank() {
    uint32_t r = 0;
#if __CUDA_ARCH__ >= 900
    asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(r));
#endif
    return r;
}

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

__device__ __forceinline__ void cluster_barrier(bool cluster) {
#if __CUDA_ARCH__ >= 900
    if (cluster) {
        asm volatile("barrier.cluster.arrive.aligned;\nbarrier.cluster.wait.aligned;" ::: "memory");
        return;
    }
#endif
    __syncthreads();
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

// Any number of rows, 64 to a block of 8 warps with a tile each. The activations
// of 256 columns at a time come to shared memory while those before are in use.
// With a gate, even warps have the first matrix and odd ones the second.
static constexpr int MANY_ROWS = 64, MANY_WARPS = 8, MANY_COLUMNS = 256;
static constexpr uint32_t MANY_HALF_STRIDE = MANY_COLUMNS * 2 + 32, MANY_SUM_STRIDE = MANY_COLUMNS / 16 + 4;
static constexpr uint32_t MANY_STAGE = MANY_ROWS * (MANY_HALF_STRIDE + MANY_SUM_STRIDE * 4);

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
        for (uint32_t i = threadIdx.x; i < MANY_ROWS * MANY_COLUMNS / 64; i += MANY_WARPS * 32) {
            uint32_t r = i / (MANY_COLUMNS / 64), c = i % (MANY_COLUMNS / 64) * 64, row = first_row + r;
            bool there = row < p.rows && c < columns;
            copy_async(to + MANY_ROWS * MANY_HALF_STRIDE + r * MANY_SUM_STRIDE * 4 + c / 4,
                       (const char *)p.sums + (there ? ((uint64_t)row * (p.stride / 16) + (column + c) / 16) * 4 : 0), there);
        }
        copy_commit();
    };

    constexpr uint32_t PER_STAGE = MANY_COLUMNS / 16 / W::CHUNKS;
    Sink<MANY_ROWS / 8, false> sink(MANY_HALF_STRIDE, MANY_SUM_STRIDE, lane);
    float total[MANY_ROWS / 8][4];
    uint32_t segment = 0, end = segment_begin<W>(1, p), stages = (p.steps + PER_STAGE - 1) / PER_STAGE;
    let_next_start();
    W w;
    w.load(at, 0);
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
        const char *half = shared + n % 2 * MANY_STAGE;
        sink.place(half, (const float *)(half + MANY_ROWS * MANY_HALF_STRIDE), 0, lane);
#pragma unroll 1
        for (uint32_t i = 0; i < PER_STAGE && n * PER_STAGE + i < p.steps; i++) {
            uint32_t step = n * PER_STAGE + i;
            W now = w;
            advance<W>(at, 1);
            if (step + 1 < p.steps)
                w.load(at, 0);
            now.give(sink, lane);
            sink.advance(W::CHUNKS);
            while (segment < p.segments && step + 1 >= end) { // a segment may be empty
#pragma unroll
                for (int g = 0; g < MANY_ROWS / 8; g++)
#pragma unroll
                    for (int j = 0; j < 4; j++)
                        total[g][j] = segment ? __fadd_rn(total[g][j], sink.v[g][j]) : sink.v[g][j];
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
            raise(p, row, best); // the loop has the same turns in all threads
    }
}
