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
