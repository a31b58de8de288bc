// Rounds the few rows that a block of a product takes, in every block: that takes less
// time than to wait for another kernel. See activations.cuh.
#pragma once
#include "activations.cuh"

// In shared memory, for ROWS rows each: halves, squares of runs, and the largest magnitude that each warp has seen. A row of halves
// has 32 bytes more than it needs, so that 8 rows of 32 bytes lie in different banks.
template <int WARPS, int ROWS> struct Rows {
    static constexpr uint32_t SPAN = WARPS * RUN; // what all threads take at a time
    static constexpr int AT_ONCE = 2;             // spans that are on their way before the first is used
    char *half;
    float *squares, *largest;
    uint32_t half_stride, runs;
    Octet gain; // the thread's first

    __device__ __forceinline__ Rows(const ProjectParams &p, char *shared)
        : half(shared), half_stride(p.stride * 2 + 32), runs((p.stride + RUN - 1) / RUN) {
        squares = (float *)(half + ROWS * half_stride);
        largest = squares + ROWS * runs;
    }
    __device__ __forceinline__ float *end() const { return largest + ROWS * WARPS; }

    // Before the rows are there: gains come.
    __device__ __forceinline__ void expect(const ProjectParams &p) {
        if (!p.gain)
            return;
        gain.load<false>((const float *)p.gain, threadIdx.x * 8, p.width);
#pragma unroll 1
        for (uint32_t e = SPAN + threadIdx.x * 32; e < p.width; e += SPAN * 4)
            prefetch_line((const float *)p.gain + e);
    }

    __device__ __forceinline__ void round(const ProjectParams &p, uint32_t r, float down) {
        const uint32_t lane = threadIdx.x % 32;
        const float *in = (const float *)p.in + (uint64_t)(p.pick ? ((const int32_t *)p.pick)[r] : r) * p.width;
        float most = 0;
#pragma unroll 1
        for (uint32_t e = threadIdx.x * 8; e - lane * 8 < p.stride; e += AT_ONCE * SPAN) {
            Octet x[AT_ONCE];
#pragma unroll
            for (int i = 0; i < AT_ONCE; i++)
                x[i].load<false>(in, e + i * SPAN, p.width);
#pragma unroll
            for (int i = 0; i < AT_ONCE; i++) {
                const uint32_t at = e + i * SPAN;
                if (at - lane * 8 >= p.stride) // the same in all lanes
                    break;
                if (p.gain) {
                    const float sum = warp_sum(x[i].squares());
                    if (lane == 0)
                        squares[r * runs + at / RUN] = sum;
                    if (at >= SPAN) {
                        Octet g;
                        g.load<false>((const float *)p.gain, at, p.width);
                        x[i].multiply(g);
                    } else {
                        x[i].multiply(gain);
                    }
                }
                most = x[i].largest(most);
                if (at < p.stride)
                    x[i].round(half + r * half_stride + at * 2, down);
            }
        }
        most = warp_largest(most);
        if (lane == 0)
            largest[r * WARPS + threadIdx.x / 32] = most;
    }

    // The largest magnitude of a row, by whole warps.
    __device__ __forceinline__ float largest_of(uint32_t r) const {
        const uint32_t lane = threadIdx.x % 32;
        return warp_largest(lane < WARPS ? largest[r * WARPS + lane] : 0);
    }

    // All rows, with a barrier at the end. A second time those with values that halves
    // do not hold as they are.
    __device__ __forceinline__ void round(const ProjectParams &p, uint32_t rows) {
#pragma unroll 1
        for (bool first = true, again = true; again; first = false) {
#pragma unroll 1
            for (uint32_t r = 0; r < rows; r++) {
                float down = 1, up;
                if (!first)
                    row_scale(largest_of(r), &down, &up);
                round(p, r, down);
            }
            __syncthreads();
            again = false; // the same in all threads
            if (first)
#pragma unroll 1
                for (uint32_t r = 0; r < rows; r++) {
                    float down, up;
                    again |= row_scale(largest_of(r), &down, &up);
                }
            if (again)
                __syncthreads(); // the largest have been read
        }
    }

    // What the products of a row are multiplied with at the end, by whole warps.
    __device__ __forceinline__ float factor(const ProjectParams &p, uint32_t r) const {
        float down, up;
        row_scale(largest_of(r), &down, &up);
        return __fmul_rn(p.gain ? inverse_rms(squares + r * runs, p.width, p.inverse_width, p.eps) : 1.f, up);
    }
};
