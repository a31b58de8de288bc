// Rotation of queries and keys by their positions.
#pragma once
#include "device.cuh"

// How element i of a head is rotated: the first dims elements are, in pairs. Everything
// is loaded before anything is used.
struct Turn {
    uint32_t element, other;
    bool rotated, first; // of the pair
    float2 angle;        // cosine, sine

    __device__ __forceinline__ Turn(uint32_t i, uint32_t dims, bool halves, const float2 *angles) : element(i) {
        const uint32_t pairs = dims / 2;
        rotated = i < dims;
        first = halves ? i < pairs : i % 2 == 0;
        other = !rotated ? i : halves ? (first ? i + pairs : i - pairs) : i ^ 1;
        angle = rotated ? angles[halves ? (first ? i : i - pairs) : i / 2] : make_float2(1, 0);
    }
    // The element of the head at x.
    __device__ __forceinline__ float of(const float *x) const {
        const float y = x[element], z = x[other];
        const float turned = first ? __fsub_rn(__fmul_rn(y, angle.x), __fmul_rn(z, angle.y)) : __fadd_rn(__fmul_rn(z, angle.y), __fmul_rn(y, angle.x));
        return rotated ? turned : y;
    }
};

// Four elements side by side of a head that is rotated in dims, a multiple of 8, or not at
// all: as Turn. Everything but what is loaded is known before.
struct FourTurned {
    const float4 *own, *other, *angle; // other: of the pairs' other halves; angle: of four elements, or of two pairs
    uint32_t rotated, halves;
    uint32_t even, odd; // signs of sines
    float4 x, y, turn, next;

    __device__ __forceinline__ FourTurned(const float *head, uint32_t i, uint32_t dims, bool halves, const float2 *angles) : halves(halves) {
        const uint32_t pairs = dims / 2;
        const bool first = i < pairs, turned = i < dims;
        own = kept((const float4 *)(head + i));
        other = kept((const float4 *)(head + (!turned || !halves ? i : first ? i + pairs : i - pairs)));
        angle = kept((const float4 *)(angles + (!turned ? 0 : !halves ? i / 2 : first ? i : i - pairs)));
        rotated = kept((uint32_t)turned);
        even = kept(first || !halves ? 0x80000000 : 0);
        odd = kept(first && halves ? 0x80000000 : 0);
    }
    __device__ __forceinline__ void load() {
        x = __ldcg(own);
        y = __ldcg(other);
        turn = __ldcg(angle);
        next = __ldcg(angle + halves);
    }
    // One of a pair, with the other of it.
    static __device__ __forceinline__ float of(float x, float y, float cosine, float sine, uint32_t sign) {
        return __fadd_rn(__fmul_rn(x, cosine), __fmul_rn(y, __uint_as_float(__float_as_uint(sine) ^ sign)));
    }
    __device__ __forceinline__ float4 value() const {
        if (!rotated)
            return x;
        return make_float4(of(x.x, halves ? y.x : y.y, turn.x, turn.y, even),
                           of(x.y, halves ? y.y : y.x, halves ? turn.z : turn.x, halves ? turn.w : turn.y, odd),
                           of(x.z, halves ? y.z : y.w, halves ? next.x : turn.z, halves ? next.y : turn.w, even),
                           of(x.w, halves ? y.w : y.z, next.z, next.w, odd));
    }
};
