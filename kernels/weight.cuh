// Weights of tokens: engine/sample/weight.go in CUDA, which says what they are. Bit
// for bit the same: every operation is named, so that none is fused or reordered. It
// has nothing else of CUDA in it, so that a test compiles it for the host.
#pragma once

static constexpr double FIRST_PLACE = 128, LAST_PLACE = 128 + 41;
static constexpr uint64_t FRACTION = (1ull << 52) - 1;

__device__ __forceinline__ double place_of(double largest, float logit, double scale) {
    return __fma_rn(__dadd_rn(largest, -(double)logit), scale, FIRST_PLACE);
}

// Of a place from FIRST_PLACE on.
__device__ __forceinline__ uint64_t weight_of(double place) {
    if (place >= LAST_PLACE)
        return 0;
    double whole = __dadd_rn(place, 0x1p52);
    double x = __dadd_rn(__dadd_rn(whole, -0x1p52), -place);
    double y = 0x1.c3bd650fc2986p-36; // (ln 2)^12 / 12!, and so on
    y = __fma_rn(y, x, 0x1.e8cac7351bb25p-32);
    y = __fma_rn(y, x, 0x1.e4cf5158b8ecap-28);
    y = __fma_rn(y, x, 0x1.b5253d395e7c4p-24);
    y = __fma_rn(y, x, 0x1.62c0223a5c824p-20);
    y = __fma_rn(y, x, 0x1.ffcbfc588b0c7p-17);
    y = __fma_rn(y, x, 0x1.430912f86c787p-13);
    y = __fma_rn(y, x, 0x1.5d87fe78a6731p-10);
    y = __fma_rn(y, x, 0x1.3b2ab6fba4e77p-07);
    y = __fma_rn(y, x, 0x1.c6b08d704a0cp-05);
    y = __fma_rn(y, x, 0x1.ebfbdff82c58fp-03);
    y = __fma_rn(y, x, 0x1.62e42fefa39efp-01);
    y = __fma_rn(y, x, 1.);
    uint64_t power = (1023 + 40 + 128 - ((uint64_t)__double_as_longlong(whole) & FRACTION)) << 52;
    return (uint64_t)__double_as_longlong(__fma_rn(y, __longlong_as_double((int64_t)power), 0x1p52)) & FRACTION;
}

__device__ __forceinline__ uint32_t bin_of(double place) {
    return (uint32_t)(((uint64_t)__double_as_longlong(place) & FRACTION) >> 39);
}

// At least 1; of 0 is all.
__device__ __forceinline__ uint64_t share_of(uint64_t of, uint64_t sum) {
    if (of == 0)
        return sum;
    return __umul64hi(of, sum) + (of * sum != 0);
}

__device__ __forceinline__ uint64_t point_of(uint64_t random, uint64_t sum) { return __umul64hi(random, sum) + 1; }
