// Instructions that C++ has no words for, one function each.
#pragma once
#include "kigo.cuh"

__device__ __forceinline__ float half_to_float(uint16_t h) {
    float f;
    asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(h));
    return f;
}

__device__ __forceinline__ uint16_t float_to_half(float f) {
    uint16_t h;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(h) : "f"(f));
    return h;
}

// Two halves in a word, the first in the low half.
__device__ __forceinline__ uint32_t pack_half(float lo, float hi) {
    uint32_t w;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(w) : "f"(hi), "f"(lo));
    return w;
}

// Two halves at a time, each operation rounded once; subnormal ones are numbers like others.
__device__ __forceinline__ uint32_t scale_halves(uint32_t a, uint32_t by, uint32_t plus) { // a * by + plus
    uint32_t w;
    asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(w) : "r"(a), "r"(by), "r"(plus));
    return w;
}
__device__ __forceinline__ uint32_t multiply_halves(uint32_t a, uint32_t b) {
    uint32_t w;
    asm("mul.rn.f16x2 %0, %1, %2;" : "=r"(w) : "r"(a), "r"(b));
    return w;
}
__device__ __forceinline__ uint32_t subtract_halves(uint32_t a, uint32_t b) {
    uint32_t w;
    asm("sub.rn.f16x2 %0, %1, %2;" : "=r"(w) : "r"(a), "r"(b));
    return w;
}

// One half of a word in both: where it is an operand of those above, the compiler reads
// that half twice instead.
__device__ __forceinline__ uint32_t low_twice(uint32_t w) {
    uint32_t v;
    asm("{\n.reg .b16 lo, hi;\nmov.b32 {lo, hi}, %1;\nmov.b32 %0, {lo, lo};\n}" : "=r"(v) : "r"(w));
    return v;
}
__device__ __forceinline__ uint32_t high_twice(uint32_t w) {
    uint32_t v;
    asm("{\n.reg .b16 lo, hi;\nmov.b32 {lo, hi}, %1;\nmov.b32 %0, {hi, hi};\n}" : "=r"(v) : "r"(w));
    return v;
}

__device__ __forceinline__ float low_half(uint32_t w) { return half_to_float((uint16_t)w); }
__device__ __forceinline__ float high_half(uint32_t w) { return half_to_float((uint16_t)(w >> 16)); }

__device__ __forceinline__ float brain_to_float(uint16_t b) { return __uint_as_float((uint32_t)b << 16); }

// Weights are read once: past the first-level cache, so that activations stay.
__device__ __forceinline__ uint4 load_weights(const void *p) {
    uint4 v;
    asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(p));
    return v;
}

__device__ __forceinline__ uint2 load_weights2(const void *p) {
    uint2 v;
    asm volatile("ld.global.nc.v2.u32 {%0, %1}, [%2];" : "=r"(v.x), "=r"(v.y) : "l"(p));
    return v;
}

__device__ __forceinline__ uint32_t load_weights1(const void *p) {
    uint32_t v;
    asm volatile("ld.global.nc.u32 %0, [%1];" : "=r"(v) : "l"(p));
    return v;
}

// Asks for the line of an address to come to the first-level cache.
__device__ __forceinline__ void prefetch_line(const void *p) { asm volatile("prefetch.global.L1 [%0];" ::"l"(p)); }

// 16 bytes from global to shared memory in the background; zeros if !valid.
__device__ __forceinline__ void copy_async(void *shared, const void *global, bool valid) {
    uint32_t s = (uint32_t)__cvta_generic_to_shared(shared);
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(s), "l"(global), "r"(valid ? 16 : 0));
}
__device__ __forceinline__ void copy_commit() { asm volatile("cp.async.commit_group;"); }
template <int LEFT> __device__ __forceinline__ void copy_wait() { asm volatile("cp.async.wait_group %0;" ::"n"(LEFT)); }

// Barriers in shared memory that also count the bytes of bulk copies (PTX: mbarrier).
// A phase ends when so many have arrived and the bytes that were expected are there;
// parity is that of the phase, from 0 on.
__device__ __forceinline__ void barrier_init(uint64_t *b, uint32_t arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"((uint32_t)__cvta_generic_to_shared(b)), "r"(arrivals) : "memory");
}
__device__ __forceinline__ void barrier_wait(uint64_t *b, uint32_t parity) {
#if __CUDA_ARCH__ >= 900
    for (uint32_t done = 0; !done;)
        asm volatile("{\n.reg .pred p;\nmbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\nselp.u32 %0, 1, 0, p;\n}"
                     : "=r"(done) : "r"((uint32_t)__cvta_generic_to_shared(b)), "r"(parity) : "memory");
#endif
}
__device__ __forceinline__ void barrier_expect(uint64_t *b, uint32_t bytes) { // and arrives
#if __CUDA_ARCH__ >= 900
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"((uint32_t)__cvta_generic_to_shared(b)), "r"(bytes) : "memory");
#endif
}
__device__ __forceinline__ void barrier_arrive(uint64_t *b) {
#if __CUDA_ARCH__ >= 900
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"((uint32_t)__cvta_generic_to_shared(b)) : "memory");
#endif
}
// Copies bytes, a multiple of 16, to shared memory in the background; the barrier
// counts them.
__device__ __forceinline__ void copy_bulk(void *shared, const void *global, uint32_t bytes, uint64_t *b) {
#if __CUDA_ARCH__ >= 900
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];"
                 ::"r"((uint32_t)__cvta_generic_to_shared(shared)), "l"(global), "r"(bytes), "r"((uint32_t)__cvta_generic_to_shared(b)) : "memory");
#endif
}

// d[16 x 8] += a[16 x 16] * b[16 x 8], halves in, floats out. Lane l holds
//
//    a[0], a[2]: row l/4, two k each; a[1], a[3]: row l/4 + 8, the same k
//    b.x, b.y:   column l/4, the same k as a[0] and a[2]
//    d[0], d[1]: row l/4, columns 2*(l%4) and the next; d[2], d[3]: row l/4 + 8
//
// The k of a lane are 4*(l%4) ... + 3 here, and not the instruction's own
// 2*(l%4), + 1, + 8, + 9: a sum over k does not mind, so long as both operands
// agree.
__device__ __forceinline__ void mma(float *d, const uint32_t *a, uint2 b) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b.x), "r"(b.y));
}

// Programmatic dependent launch: a kernel lets its successor start at once, and
// waits for its predecessor's results where it needs them. Launched without it,
// both do nothing.
__device__ __forceinline__ void let_next_start() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;");
#endif
}
__device__ __forceinline__ void wait_for_previous() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// A value in a register from here on. Left to itself the compiler finds out again, where it
// is needed, what follows from parameters: behind the wait, where it takes time. Of a kept
// pointer it no longer knows which memory it is into: shared memory wants a kept offset.
__device__ __forceinline__ uint32_t kept(uint32_t x) {
    asm volatile("" : "+r"(x));
    return x;
}
__device__ __forceinline__ float kept(float x) {
    asm volatile("" : "+f"(x));
    return x;
}
template <class T> __device__ __forceinline__ T *kept(T *x) {
    asm volatile("" : "+l"(x));
    return x;
}

// A cluster's blocks wait for each other in two steps, and not for those that have
// ended.
__device__ __forceinline__ void cluster_arrive() {
#if __CUDA_ARCH__ >= 900
    asm volatile("barrier.cluster.arrive.release;" ::: "memory");
#endif
}
__device__ __forceinline__ void cluster_wait() {
#if __CUDA_ARCH__ >= 900
    asm volatile("barrier.cluster.wait.acquire;" ::: "memory");
#endif
}
// a*b + c*d with one order of roundings wherever it is inlined: left to itself,
// the compiler fuses either product.
__device__ __forceinline__ float weigh(float a, float b, float c, float d) { return fmaf(a, b, __fmul_rn(c, d)); }

// Off by a few units in the last place.
__device__ __forceinline__ float silu(float x) { return __fdividef(x, 1.f + __expf(-x)); }
