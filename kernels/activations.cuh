// Rows of floats become what a product takes: halves.
//
// A norm is split up: the gain meets the values before they are rounded, and the
// factor 1/rms meets the sums of products at the end, so that nothing has to
// wait for the sum of squares. Values are rounded as they are if the largest is
// between 2^-8 and 2^15; other rows are scaled by a power of two, undone at the
// end with the factor.
//
// Whether kernel prepare does it for many rows or a projection for its own few,
// the operations are the same.
#pragma once
#include "device.cuh"

// The sum of squares is made of those of runs of 256 values, what a warp takes at a
// time: 8 values a lane one after another, then a tree. Lane l of a warp adds up runs l,
// l + 32, ... and a tree the lanes.
static constexpr uint32_t RUN = 256;

struct Octet {
    float v[8];
    // From the second-level cache: what other multiprocessors have written lately is
    // there. WHOLE: rows consist of octets, and zeros follow.
    template <bool WHOLE> __device__ __forceinline__ void load(const float *in, uint32_t at, uint32_t width) {
        if (WHOLE || (at + 8 <= width && width % 4 == 0)) {
            float4 a = make_float4(0, 0, 0, 0), b = a;
            if (!WHOLE || at < width) {
                a = __ldcg((const float4 *)(in + at));
                b = __ldcg((const float4 *)(in + at + 4));
            }
            v[0] = a.x, v[1] = a.y, v[2] = a.z, v[3] = a.w, v[4] = b.x, v[5] = b.y, v[6] = b.z, v[7] = b.w;
        } else {
#pragma unroll
            for (int i = 0; i < 8; i++)
                v[i] = at + i < width ? in[at + i] : 0;
        }
    }
    // By the first-level cache: what no kernel writes, in rows of whole octets.
    __device__ __forceinline__ void load_constant(const float *in, uint32_t at, uint32_t width) {
        float4 a = make_float4(0, 0, 0, 0), b = a;
        if (at < width) {
            a = __ldg((const float4 *)(in + at));
            b = __ldg((const float4 *)(in + at + 4));
        }
        v[0] = a.x, v[1] = a.y, v[2] = a.z, v[3] = a.w, v[4] = b.x, v[5] = b.y, v[6] = b.z, v[7] = b.w;
    }
    __device__ __forceinline__ float squares() const {
        float sum = 0;
#pragma unroll
        for (int i = 0; i < 8; i++)
            sum = fmaf(v[i], v[i], sum);
        return sum;
    }
    __device__ __forceinline__ void multiply(const Octet &gain) {
#pragma unroll
        for (int i = 0; i < 8; i++)
            v[i] = __fmul_rn(v[i], gain.v[i]);
    }
    __device__ __forceinline__ float largest(float most) const {
#pragma unroll
        for (int i = 0; i < 8; i++)
            most = fmaxf(most, fabsf(v[i]));
        return most;
    }
    // Rounds to halves in four words, in the order of weights: 0, 2, 1, 3 of each four (see
    // formats.cuh).
    __device__ __forceinline__ void pack(uint32_t *w, float down) const {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const int first = i / 2 * 4 + i % 2;
            w[i] = pack_half(__fmul_rn(v[first], down), __fmul_rn(v[first + 2], down));
        }
    }
    // The same, to half[0..7].
    __device__ __forceinline__ void round(void *half, float down) const {
        uint32_t w[4];
        pack(w, down);
        *(uint4 *)half = make_uint4(w[0], w[1], w[2], w[3]);
    }
};

__device__ __forceinline__ float warp_sum(float v) {
#pragma unroll
    for (int d = 16; d; d >>= 1)
        v = __fadd_rn(v, __shfl_xor_sync(~0u, v, d));
    return v;
}

// The largest of a warp's magnitudes, which as numbers are in the order of their bits.
__device__ __forceinline__ float warp_largest(float magnitude) { return __uint_as_float(__reduce_max_sync(~0u, __float_as_uint(magnitude))); }

// By which power of two a row with that largest value is scaled: up undoes it.
__device__ __forceinline__ bool row_scale(float most, float *down, float *up) {
    *down = *up = 1;
    if ((most >= 0.00390625f && most <= 32768.f) || most == 0 || !(most < __int_as_float(0x7f800000)))
        return false;
    int e = min(max((int)(__float_as_uint(most) >> 23) - 127 - 13, -120), 120);
    *down = __uint_as_float((uint32_t)(127 - e) << 23);
    *up = __uint_as_float((uint32_t)(127 + e) << 23);
    return true;
}

// From the squares of a row's runs, by whole warps.
__device__ __forceinline__ float inverse_rms(const float *squares, uint32_t width, float inverse_width, float eps) {
    float s = 0;
#pragma unroll 1
    for (uint32_t r = threadIdx.x % 32; r < (width + RUN - 1) / RUN; r += 32)
        s = __fadd_rn(s, squares[r]);
    return rsqrtf(__fadd_rn(__fmul_rn(warp_sum(s), inverse_width), eps));
}
