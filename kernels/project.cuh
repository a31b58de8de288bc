// Projections: rows of activations times weight matrices, y = W x + bias, with
// an optional norm before and a gate or residual after.
//
// One arithmetic, several kernels. A row of weights is cut into segments (by the
// host, from the matrix's shape alone). Within a segment the tensor cores add up
// chunk after chunk; there are four groups of segments, and the sums of a group are added
// in order, and then those of the groups: so whoever has a whole group keeps but one
// sum. one (a single row)
// and few (up to 8) give each segment to a warp of its own, so that many warps wait for
// memory together, and round their rows themselves; many takes what kernel prepare has
// rounded, and walks through the segments with 64 rows at once; so does wide on Hopper,
// where many is not needed. A row gets the same bits from all, in any company. Each has
// a file: one.cuh, few.cuh, many.cuh, wide.cuh.
#pragma once
#include "formats.cuh"
#include "rows.cuh"

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

// Sums of one segment for GROUPS x 8 rows.
//
// Activations are in shared memory: rows of halves, padded so that 8 rows of 32 bytes
// lie in different banks.
template <int GROUPS> struct Sink {
    float v[GROUPS][4];
    const char *halves; // where the lane reads: its column's row, its four of 16
    uint32_t half_stride;

    __device__ __forceinline__ explicit Sink(uint32_t half_stride) : half_stride(half_stride) { clear(); }
    __device__ __forceinline__ void place(const char *half, uint32_t chunk, uint32_t lane) { halves = half + lane / 4 * half_stride + lane % 4 * 8 + chunk * 32; }
    __device__ __forceinline__ void advance(uint32_t chunks) { halves += chunks * 32; }
    __device__ __forceinline__ void clear() {
#pragma unroll
        for (int g = 0; g < GROUPS; g++)
            v[g][0] = v[g][1] = v[g][2] = v[g][3] = 0;
    }
    __device__ __forceinline__ void plain(int chunk, const uint32_t *a) {
#pragma unroll
        for (int g = 0; g < GROUPS; g++)
            mma(v[g], a, *(const uint2 *)(halves + g * 8 * half_stride + chunk * 32));
    }
};

// The last touch, by one thread for one output of one row. sum is the product,
// other the second matrix's where there is a gate; scale is the row's factor.
struct Finish {
    bool biased, other_biased;
    float bias, other_bias, down;
    __device__ __forceinline__ Finish(const ProjectParams &p, const Matrix &m, uint32_t output)
        : biased(m.bias && output < m.outs), other_biased(p.gated && p.matrix[1].bias && output < m.outs), down(m.down) {
        bias = biased ? ((const float *)m.bias)[output] : 0;
        other_bias = other_biased ? ((const float *)p.matrix[1].bias)[output] : 0;
    }
    __device__ __forceinline__ float value(const ProjectParams &p, float sum, float other, float scale, float residual) const {
        float y = __fmul_rn(sum, __fmul_rn(scale, down));
        if (biased)
            y = __fadd_rn(y, bias);
        if (p.gated) {
            other = __fmul_rn(other, __fmul_rn(scale, p.matrix[1].down));
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

// The best of a row so far, or what it was a while ago.
__device__ __forceinline__ uint64_t best_seen(const ProjectParams &p, uint32_t row) { return p.best ? ((const unsigned long long *)p.best)[row] : 0; }

// Raises the best of a row by those of so many threads, 16 or 32. Most are less than what
// has been seen already.
template <int LANES> __device__ __forceinline__ void raise(const ProjectParams &p, uint32_t row, uint64_t best, uint64_t seen) {
#pragma unroll
    for (int d = LANES / 2; d; d >>= 1) {
        uint64_t other = __shfl_xor_sync(~0u, best, d);
        best = other > best ? other : best;
    }
    if (threadIdx.x % LANES == 0 && best > seen)
        atomicMax((unsigned long long *)p.best + row, (unsigned long long)best);
}

__device__ __forceinline__ float residual_of(const ProjectParams &p, const Matrix &m, uint32_t output, uint32_t row) {
    return p.residual && output < m.outs ? __ldcg((const float *)p.residual + (uint64_t)row * m.outs + output) : 0.f;
}

__device__ __forceinline__ float add(float a, float b) { return __fadd_rn(a, b); }
__device__ __forceinline__ float4 add(float4 a, float4 b) { return make_float4(__fadd_rn(a.x, b.x), __fadd_rn(a.y, b.y), __fadd_rn(a.z, b.z), __fadd_rn(a.w, b.w)); }

// The sum of a row's first segments and of the next four, of so many in all: 4, 8 or 16.
// They are a segment of each group, two groups, or one.
template <class T> __device__ __forceinline__ T add_four(T sum, bool first, const T *v, uint32_t segments) {
    const T two = add(v[0], v[1]);
    if (segments == 8)
        return add(first ? two : add(sum, two), add(v[2], v[3]));
    const T four = add(add(two, v[2]), v[3]);
    return first ? four : add(sum, four);
}

// Sum of the segments' sums, which are at such distances; four are on their way at a
// time.
__device__ __forceinline__ float sum_of(const float *at, uint32_t distance, uint32_t segments) {
    float sum = 0;
#pragma unroll 1
    for (uint32_t s = 0; s < segments; s += 4, at += 4 * distance) {
        float v[4];
#pragma unroll
        for (int i = 0; i < 4; i++)
            v[i] = at[i * distance];
        sum = add_four(sum, s == 0, v, segments);
    }
    return sum;
}

// Where a segment begins, in steps: at a multiple of 64 columns. The number of
// segments is a power of two.
template <class W> __device__ __forceinline__ uint32_t segment_begin(uint32_t segment, uint32_t steps, uint32_t segments_log) {
    constexpr uint32_t UNIT = W::CHUNKS < 4 ? 4 / W::CHUNKS : 1; // steps in 64 columns
    return min((segment * ((steps + UNIT - 1) / UNIT) >> segments_log) * UNIT, steps);
}
template <class W> __device__ __forceinline__ uint32_t segment_begin(uint32_t segment, const ProjectParams &p) { return segment_begin<W>(segment, p.steps, p.segments_log); }

__device__ __forceinline__ uint32_t cluster_size() {
    uint32_t n = 1;
#if __CUDA_ARCH__ >= 900
    asm("mov.u32 %0, %%cluster_nctaid.x;" : "=r"(n));
#endif
    return n;
}

__device__ __forceinline__ uint32_t cluster_rank() {
    uint32_t r = 0;
#if __CUDA_ARCH__ >= 900
    asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(r));
#endif
    return r;
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
