// Projections: rows of activations times weight matrices, y = W x + bias, with
// an optional norm before and a gate or residual after.
//
// One arithmetic, two kernels. A row of weights is cut into segments (by the
// host, from the matrix's shape alone). Within a segment the tensor cores add up
// chunk after chunk; the sums of the segments are added in order. few (up to 8
// rows) gives each segment to a warp of its own, so that many warps wait for
// memory together, and rounds its rows itself; many takes what kernel prepare has
// rounded, and walks through the segments with 64 rows at once. A row gets the
// same bits from both, in any company.
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

// Bytes of a plane in a step of 16 rows.
template <class W> struct Steps;
#define STEP_BYTES(W, Q, H, S, D) \
    template <> struct Steps<W> { static constexpr uint32_t bytes[4] = {Q, H, S, D}; };
STEP_BYTES(WeightsF16, 512, 0, 0, 0)
STEP_BYTES(WeightsBF16, 512, 0, 0, 0)
STEP_BYTES(WeightsQ8_0, 512, 0, 32, 0)
STEP_BYTES(WeightsQ4_0, 512, 0, 64, 0)
STEP_BYTES(WeightsQ4_1, 512, 0, 128, 0)
STEP_BYTES(WeightsQ5_0, 512, 128, 64, 0)
STEP_BYTES(WeightsQ5_1, 512, 128, 128, 0)
STEP_BYTES(WeightsQ4_K, 2048, 0, 256, 0)
STEP_BYTES(WeightsQ5_K, 2048, 512, 256, 0)
STEP_BYTES(WeightsQ6_K, 2048, 1024, 256, 32)

template <class W> __device__ __forceinline__ Tile tile_of(const Matrix &m, uint32_t tile, uint32_t steps) {
    constexpr uint32_t q = Steps<W>::bytes[0], h = Steps<W>::bytes[1], s = Steps<W>::bytes[2], d = Steps<W>::bytes[3];
    uint64_t n = (uint64_t)tile * steps;
    Tile t;
    t.plane[0] = (const char *)m.plane[0] + n * q;
    t.plane[1] = (const char *)m.plane[1] + n * h;
    t.plane[2] = (const char *)m.plane[2] + n * s;
    t.plane[3] = (const char *)m.plane[3] + n * d;
    return t;
}

static constexpr int FEW_THREADS = 512; // at most: 16 segments, or 8 of a gated pair

// The activations that a sink reads, in shared memory: rows of halves and their
// sums. A row is padded so that 8 rows of 32 bytes lie in different banks.
struct Activations {
    const char *half;  // row r at r * half_stride
    const float *sums; // row r at r * sum_stride
    uint32_t half_stride, sum_stride;
};

// Sums of one segment for GROUPS x 8 rows. With ONE, there is a single row, and
// what would be other rows is not computed.
template <int GROUPS, bool ONE> struct Sink {
    float v[GROUPS][4];
    const Activations &x;
    int lane;

    __device__ __forceinline__ Sink(const Activations &x, int lane) : x(x), lane(lane) { clear(); }
    __device__ __forceinline__ void clear() {
#pragma unroll
        for (int g = 0; g < GROUPS; g++)
            v[g][0] = v[g][1] = v[g][2] = v[g][3] = 0;
    }
    __device__ __forceinline__ uint2 half(int g, uint32_t chunk) const {
        if (ONE)
            return lane < 4 ? *(const uint2 *)(x.half + chunk * 32 + lane * 8) : make_uint2(0, 0);
        return *(const uint2 *)(x.half + (g * 8 + lane / 4) * x.half_stride + chunk * 32 + lane % 4 * 8);
    }
    __device__ __forceinline__ void plain(uint32_t chunk, const uint32_t *a) {
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
    template <bool OFFSET> __device__ __forceinline__ void pair(uint32_t chunk, const uint32_t *a, const uint32_t *b, const float *scale, const float *offset) {
#pragma unroll
        for (int g = 0; g < GROUPS; g++) {
            float part[4] = {0, 0, 0, 0};
            mma(part, a, half(g, chunk));
            mma(part, b, half(g, chunk + 1));
            const float *s = x.sums + (g * 8 + lane % 4 * 2) * x.sum_stride + chunk;
            float x0, x1 = 0;
            if (ONE) {
                x0 = x.sums[chunk] + x.sums[chunk + 1];
            } else {
                x0 = s[0] + s[1];
                x1 = s[x.sum_stride] + s[x.sum_stride + 1];
            }
            scaled(g, part, scale, offset, x0, x1);
        }
    }
    __device__ __forceinline__ void single(uint32_t chunk, const uint32_t *a, const float *scale, const float *offset) {
#pragma unroll
        for (int g = 0; g < GROUPS; g++) {
            float part[4] = {0, 0, 0, 0};
            mma(part, a, half(g, chunk));
            const float *s = x.sums + (g * 8 + lane % 4 * 2) * x.sum_stride + chunk;
            if (ONE)
                scaled(g, part, scale, offset, x.sums[chunk], 0);
            else
                scaled(g, part, scale, offset, s[0], s[x.sum_stride]);
        }
    }
};

// The last touch, by one thread for one output of one row. sum is the product,
// other the second matrix's where there is a gate; scale is the row's factor.
__device__ __forceinline__ float finish(const ProjectParams &p, const Matrix &m, uint32_t output, uint32_t row, float sum, float other, float scale, float residual) {
    float y = __fmul_rn(sum, scale);
    if (m.bias)
        y = __fadd_rn(y, ((const float *)m.bias)[output]);
    if (p.gated) {
        other = __fmul_rn(other, scale);
        if (p.matrix[1].bias)
            other = __fadd_rn(other, ((const float *)p.matrix[1].bias)[output]);
        y = __fmul_rn(silu(y), other);
    }
    if (p.residual)
        y = __fadd_rn(y, residual);
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
    if (threadIdx.x % 16 == 0 && best)
        atomicMax((unsigned long long *)p.best + row, (unsigned long long)best);
}

__device__ __forceinline__ float residual_of(const ProjectParams &p, const Matrix &m, uint32_t output, uint32_t row) {
    return p.residual && output < m.outs ? ((const float *)p.residual)[(uint64_t)row * m.outs + output] : 0.f;
}

__device__ __forceinline__ uint32_t segment_begin(uint32_t segment, const ProjectParams &p) { return segment * p.steps / p.segments; }

__device__ __forceinline__ float largest_of(const float *largest) {
    float most = 0;
#pragma unroll
    for (int w = 0; w < NORM_WARPS; w++)
        most = fmaxf(most, largest[w]);
    return most;
}

// Up to 8 rows. A block works on one tile of 16 outputs at a time (of both
// matrices with a gate), a warp on one segment of it. What does not depend on
// the kernel before comes first: it may still be running.
//
// Dynamic shared memory, fewShared in the host's words: the rows as halves, their
// sums, the sums of the segments of two tiles, squares and largest by row.
template <class W, bool ONE> __device__ __forceinline__ void few(const ProjectParams &p) {
    extern __shared__ __align__(16) char shared[];
    constexpr uint32_t ROWS = ONE ? 1 : 8;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
    const uint32_t half_stride = p.stride * 2 + 32, sum_stride = p.stride / 16 + 1;
    float *sums = (float *)(shared + ROWS * half_stride);
    float *parts = sums + ROWS * sum_stride; // [2][matrix][segment][16 outputs][rows]
    float *squares = parts + 2 * warps * 16 * ROWS, *largest = squares + ROWS * NORM_WARPS;

    let_next_start();
    const uint32_t part = p.gated ? warp / p.segments : 0, segment = warp - part * p.segments;
    const uint32_t begin = segment_begin(segment, p), end = segment_begin(segment + 1, p);
    uint32_t n = blockIdx.x;
    Place place(p, n);
    Tile tile = tile_of<W>(p.matrix[p.gated ? part : place.matrix], place.tile, p.steps);
    W w[W::UNROLL];
    auto load_first = [&] {
#pragma unroll
        for (int u = 0; u < W::UNROLL; u++)
            if (begin + u < end)
                w[u].load(tile, begin + u, lane);
    };
    load_first();
    const float *gain = (const float *)p.gain;

    wait_for_previous();
    const uint32_t rows = ONE ? 1 : p.rows;
    // A second round is for rows with values that halves do not hold as they are.
    float factor = 1; // of the row that the thread will finish
    for (bool first = true, again = true; again; first = false) {
        for (uint32_t r = 0; r < rows; r++) {
            const float *in = (const float *)p.in + (uint64_t)(p.pick ? ((const int32_t *)p.pick)[r] : r) * p.width;
            float down = 1, up;
            if (!first)
                row_scale(largest_of(largest + r * NORM_WARPS), &down, &up);
            for (uint32_t vw = warp; vw < NORM_WARPS; vw += warps) {
                float sum = 0, most = 0;
                for (uint32_t at = vw * 256; at < p.stride; at += NORM_WARPS * 256) {
                    uint32_t e = at + lane * 8;
                    Octet x, g;
                    x.load(in, e, p.width);
                    if (gain)
                        g.load(gain, e, p.width);
                    sum = x.squares(sum);
                    if (gain)
                        x.multiply(g);
                    most = x.largest(most);
                    float s = 0;
                    if (e < p.stride)
                        s = x.round(shared + r * half_stride + e * 2, down);
                    s = __fadd_rn(s, __shfl_xor_sync(~0u, s, 1));
                    if (e < p.stride && lane % 2 == 0)
                        sums[r * sum_stride + e / 16] = s;
                }
                sum = warp_sum(sum);
                most = warp_max(most);
                if (lane == 0 && first) {
                    squares[r * NORM_WARPS + vw] = sum;
                    largest[r * NORM_WARPS + vw] = most;
                }
            }
        }
        __syncthreads();
        again = false; // the same in all threads
        for (uint32_t r = 0; r < rows; r++) {
            float down, up;
            again |= row_scale(largest_of(largest + r * NORM_WARPS), &down, &up);
            if (r == threadIdx.x / 16)
                factor = __fmul_rn(gain ? inverse_rms(squares + r * NORM_WARPS, p.width, p.eps) : 1.f, up);
        }
        again &= first;
    }

    Activations x = {shared, sums, half_stride, sum_stride};
    const uint32_t output_in_tile = threadIdx.x % 16, row = threadIdx.x / 16;
    uint64_t best = 0;
    for (uint32_t turn = 0; n < p.tiles; turn++) {
        const Matrix &first = p.matrix[place.matrix];
        const uint32_t output = place.tile * 16 + output_in_tile;
        float residual = row < rows ? residual_of(p, first, output, row) : 0;
        Sink<1, ONE> sink(x, lane);
        for (uint32_t step = begin; step < end; step += W::UNROLL) {
#pragma unroll
            for (int u = 0; u < W::UNROLL; u++)
                if (step + u < end) {
                    W now = w[u];
                    if (step + u + W::UNROLL < end)
                        w[u].load(tile, step + u + W::UNROLL, lane);
                    now.give(sink, (step + u) * W::CHUNKS, lane);
                }
        }
        n += gridDim.x;
        if (n < p.tiles) {
            place = Place(p, n);
            tile = tile_of<W>(p.matrix[p.gated ? part : place.matrix], place.tile, p.steps);
            load_first();
        }
        float *here = parts + turn % 2 * warps * 16 * ROWS, *mine = here + warp * 16 * ROWS;
        if (ONE) {
            if (lane % 4 == 0) {
                mine[lane / 4] = sink.v[0][0];
                mine[lane / 4 + 8] = sink.v[0][2];
            }
        } else {
            float *at = mine + lane / 4 * 8 + lane % 4 * 2;
            at[0] = sink.v[0][0];
            at[1] = sink.v[0][1];
            at[64] = sink.v[0][2];
            at[65] = sink.v[0][3];
        }
        __syncthreads();
        if (row < rows && output < first.outs) {
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
            float y = finish(p, first, output, row, sum, other, factor, residual);
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
    Tile tile = tile_of<W>(m, place.there ? place.tile : 0, p.steps);

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
    Activations x = {0, 0, MANY_HALF_STRIDE, MANY_SUM_STRIDE};
    Sink<MANY_ROWS / 8, false> sink(x, lane);
    float total[MANY_ROWS / 8][4];
    uint32_t segment = 0, end = segment_begin(1, p), stages = (p.steps + PER_STAGE - 1) / PER_STAGE;
    let_next_start();
    W next;
    next.load(tile, 0, lane);
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
        x.half = shared + n % 2 * MANY_STAGE;
        x.sums = (const float *)(x.half + MANY_ROWS * MANY_HALF_STRIDE);
#pragma unroll 1
        for (uint32_t i = 0; i < PER_STAGE && n * PER_STAGE + i < p.steps; i++) {
            uint32_t step = n * PER_STAGE + i;
            W now = next;
            if (step + 1 < p.steps)
                next.load(tile, step + 1, lane);
            now.give(sink, i * W::CHUNKS, lane);
            while (segment < p.segments && step + 1 >= end) { // a segment may be empty
#pragma unroll
                for (int g = 0; g < MANY_ROWS / 8; g++)
#pragma unroll
                    for (int j = 0; j < 4; j++)
                        total[g][j] = segment ? __fadd_rn(total[g][j], sink.v[g][j]) : sink.v[g][j];
                sink.clear();
                segment++;
                end = segment_begin(segment + 1, p);
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
