// Rounds the few rows that a block of a product takes, in every block: that takes less
// time than to wait for another kernel. See activations.cuh.
#pragma once
#include "activations.cuh"

// In shared memory: halves and squares of runs, for ROWS rows each, and the largest
// magnitude that each warp has seen. A row of halves has 32 bytes more than it needs, so
// that 8 rows of 32 bytes lie in different banks. Rows consist of whole octets, which the
// host has checked.
//
// All rows come at the same time. Each is a warp's, or that of two, four or eight, as many
// as there are for each: they take its runs in turns.
struct Rows {
    static constexpr int WARPS = 8, ROWS = 8; // of the block, and at most
    static constexpr int AT_ONCE = 4; // runs of a warp that are on their way before the first is used
    char *half;
    float *squares, *largest;
    uint32_t half_stride, runs, lane, warp;
    uint32_t each_log; // of the warps that a row has, a power of two

    __device__ __forceinline__ Rows(const ProjectParams &p, char *shared)
        : half(shared), half_stride(p.stride * 2 + 32), runs((p.stride + RUN - 1) / RUN), lane(threadIdx.x % 32), warp(threadIdx.x / 32),
          each_log((p.rows <= 4) + (p.rows <= 2) + (p.rows <= 1)) {
        squares = (float *)(half + ROWS * half_stride);
        largest = squares + ROWS * runs;
    }
    __device__ __forceinline__ float *end() const { return largest + WARPS; }

    // Before the rows are there: gains come.
    __device__ __forceinline__ void expect(const ProjectParams &p) {
        if (!p.gain)
            return;
#pragma unroll 1
        for (uint32_t e = threadIdx.x * 32; e < p.width; e += WARPS * 32 * 32)
            prefetch_line((const float *)p.gain + e);
    }

    // The warp's runs of its row, scaled by a power of two.
    __device__ __forceinline__ void round(const ProjectParams &p, float down) {
        const uint32_t r = warp >> each_log, stride = RUN << each_log;
        float most = 0;
        if (r < p.rows) {
            const float *in = (const float *)p.in + (uint64_t)(p.pick ? ((const int32_t *)p.pick)[r] : r) * p.width;
#pragma unroll 1
            for (uint32_t e = (warp & ((1 << each_log) - 1)) * RUN + lane * 8; e - lane * 8 < p.stride; e += AT_ONCE * stride) {
                Octet x[AT_ONCE];
#pragma unroll
                for (int i = 0; i < AT_ONCE; i++)
                    x[i].load<true>(in, e + i * stride, p.width);
#pragma unroll
                for (int i = 0; i < AT_ONCE; i++) {
                    const uint32_t at = e + i * stride;
                    if (at - lane * 8 >= p.stride) // the same in all lanes
                        break;
                    if (p.gain) {
                        const float sum = warp_sum(x[i].squares());
                        if (lane == 0)
                            squares[r * runs + at / RUN] = sum;
                        Octet gain;
                        gain.load_constant((const float *)p.gain, at, p.width);
                        x[i].multiply(gain);
                    }
                    most = x[i].largest(most);
                    if (at < p.stride)
                        x[i].round(half + r * half_stride + at * 2, down);
                }
            }
        }
        most = warp_largest(most);
        if (lane == 0)
            largest[warp] = most;
    }

    // The largest magnitude of a row, by whole warps.
    __device__ __forceinline__ float largest_of(uint32_t r) const { return warp_largest(lane >> each_log ? 0 : largest[(r << each_log) + lane]); }

    // All rows, with a barrier at the end. A second time, all of them, if any has values
    // that halves do not hold as they are.
    __device__ __forceinline__ void round(const ProjectParams &p) {
        float down = 1;
#pragma unroll 1
        for (bool first = true, again = true; again; first = false) {
            round(p, down);
            __syncthreads();
            again = false; // the same in all threads
            if (first)
#pragma unroll 1
                for (uint32_t r = 0; r < p.rows; r++) {
                    float of_row, up;
                    again |= row_scale(largest_of(r), &of_row, &up);
                    down = r == warp >> each_log ? of_row : down;
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
