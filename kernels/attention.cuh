// The one arithmetic of attention, for kernels attend_one (rows that stand alone in
// their sequence) and attend_many (rows of a prompt).
//
// A row's positions are cut into units, always at the same places. In a unit, the
// tensor cores multiply a query with the keys; the largest score m is found; they
// multiply exp2(score - m), rounded to half, with the values, which gives o, and with
// ones, which gives l. Units are folded together in order (Milakov and
// Gimelshein, "Online normalizer calculation for softmax", 2018). What is behind a
// row's own position has the weight 0 in its unit, and a unit of nothing else changes
// nothing when it is folded. So a row has the same bits wherever it stands in an
// operand, whichever warps or blocks share its work, and however far other rows reach.
//
// Queries are multiplied by the scale and by log2(e) before they are rounded to
// half; scores, l, o and all folding are float32.
#pragma once
#include "device.cuh"

// Sizes for heads of at most DIM elements. 16 bytes more a row keep eight rows, which
// the tensor cores' operands are loaded from, in different banks.
template <int DIM> struct Unit {
    static constexpr int POSITIONS = DIM > 128 ? 64 : 128;
    static constexpr int ROW = DIM * 2 + 16;           // bytes of a key, value or query
    static constexpr int WEIGHTS = POSITIONS * 2 + 16; // bytes of a row of weights
    static constexpr int BYTES = POSITIONS * ROW;      // of the unit's keys, or its values
};

// A sequence's rows in a step, or a part of them: attend_one takes one row.
struct Rows {
    uint32_t row, rows, position; // the first of them, how many, its position
    const int32_t *table;         // the sequence's KV blocks

    __device__ __forceinline__ Rows(const AttendParams &p, uint32_t n) {
        const int4 t = ((const int4 *)p.tiles)[n];
        row = t.x;
        rows = t.y;
        position = t.z;
        table = (const int32_t *)p.tables + t.w;
    }
};

__device__ __forceinline__ float exp2_of(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

#define MINUS_INFINITY __int_as_float(0xff800000)

// Scores are exponents of two.
__device__ __forceinline__ float score_scale(const AttendParams &p) { return __fmul_rn(p.scale, 1.44269504f); }

// What scores are compared with: there may be none in a unit.
__device__ __forceinline__ float reference(float m) { return m == MINUS_INFINITY ? 0.f : m; }

// Folds a unit's m and l into those of the units before; o becomes a*o + b*unit's o.
__device__ __forceinline__ void fold(float &m, float &l, float m2, float l2, float &a, float &b) {
    const float top = fmaxf(m, m2);
    a = exp2_of(m - top);
    b = exp2_of(m2 - top);
    l = weigh(l, a, l2, b);
    m = top;
}

// Four 8 x 8 matrices of halves; lane l says where row l%8 of matrix l/8 is. Lane l
// receives of each matrix row l/4, columns 2*(l%4) and the next; transposed, column
// l/4 of rows 2*(l%4) and the next.
__device__ __forceinline__ void load_matrices(uint32_t *d, const char *at) {
    uint32_t s = (uint32_t)__cvta_generic_to_shared(at);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3]) : "r"(s) : "memory");
}
__device__ __forceinline__ void load_transposed(uint32_t *d, const char *at) {
    uint32_t s = (uint32_t)__cvta_generic_to_shared(at);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3]) : "r"(s) : "memory");
}

// Where a lane reads operand A of mma: 16 rows of 16 halves.
__device__ __forceinline__ const char *rows_of_a(const char *at, uint32_t row_bytes, uint32_t lane) {
    return at + lane % 16 * row_bytes + lane / 16 * 16;
}
// Where a lane reads two operands B from keys: 16 positions of 16 elements.
__device__ __forceinline__ const char *keys_of_b(const char *at, uint32_t row_bytes, uint32_t lane) {
    return at + (lane / 16 * 8 + lane % 8) * row_bytes + lane / 8 % 2 * 16;
}
// Where a lane reads two operands B from values: 16 positions of 16 elements.
__device__ __forceinline__ const char *values_of_b(const char *at, uint32_t row_bytes, uint32_t lane) {
    return rows_of_a(at, row_bytes, lane);
}

// Two results of mma are half of what the next takes as operand A: of the scores for
// 8 positions and the 8 next, the weights.
__device__ __forceinline__ void to_weights(uint32_t *a, const float *s, const float *m) {
    const float top[2] = {reference(m[0]), reference(m[1])};
#pragma unroll
    for (int i = 0; i < 4; i++)
        a[i] = pack_half(exp2_of(__fadd_rn(s[2 * i], -top[i % 2])), exp2_of(__fadd_rn(s[2 * i + 1], -top[i % 2])));
}

// Stores operand A where rows_of_a reads it.
__device__ __forceinline__ void store_a(char *to, uint32_t row_bytes, uint32_t lane, const uint32_t *a) {
#pragma unroll
    for (int i = 0; i < 4; i++)
        *(uint32_t *)(to + (lane / 4 + i % 2 * 8) * row_bytes + i / 2 * 16 + lane % 4 * 4) = a[i];
}

// The columns that a lane has of a row are those of its three neighbours, too.
__device__ __forceinline__ float largest_in_row(float m) {
    m = fmaxf(m, __shfl_xor_sync(~0u, m, 1));
    return fmaxf(m, __shfl_xor_sync(~0u, m, 2));
}

// Adds up the weights of 16 positions.
__device__ __forceinline__ void sum_weights(float *l, const uint32_t *a) { mma(l, a, make_uint2(0x3c003c00, 0x3c003c00)); }

// Adds weights of 16 positions times values of 16 * PAIRS elements.
template <int PAIRS> __device__ __forceinline__ void weigh_values(float (*o)[2][4], const uint32_t *a, const char *values) {
#pragma unroll
    for (int n = 0; n < PAIRS; n++) {
        uint32_t b[4];
        load_transposed(b, values + n * 32);
        mma(o[n][0], a, make_uint2(b[0], b[1]));
        mma(o[n][1], a, make_uint2(b[2], b[3]));
    }
}

// Where a position's key and value begin in the cache, in elements.
__device__ __forceinline__ uint64_t place_of(const CacheLayer &c, const int32_t *table, uint32_t kv_head, uint32_t position) {
    const uint32_t block = position / c.block_size, slot = position - block * c.block_size;
    return (((uint64_t)table[block] * c.kv_heads + kv_head) * c.block_size + slot) * c.head_dim;
}

// The place of position first + thread of a unit; 0 beyond the end.
template <int DIM> __device__ __forceinline__ uint64_t place_in_unit(const CacheLayer &c, const int32_t *table, uint32_t kv_head, uint32_t first, uint32_t end, uint32_t thread) {
    const uint32_t position = first + thread;
    return thread < Unit<DIM>::POSITIONS && position < end ? place_of(c, table, kv_head, position) : 0;
}

// 16 bytes into shared memory in the background; zeros, with nothing read, if !valid;
// nothing if !wanted.
__device__ __forceinline__ void copy_piece(char *to, const void *from, bool valid, bool wanted) {
    asm volatile("{\n.reg .pred p;\nsetp.ne.u32 p, %3, 0;\n@p cp.async.cg.shared.global [%0], [%1], 16, %2;\n}"
                 ::"r"((uint32_t)__cvta_generic_to_shared(to)), "l"(from), "r"(valid ? 16 : 0), "r"((int)wanted));
}

// Starts to copy a unit's keys or values; what is beyond the end, or beyond a head's
// elements, becomes zeros. Position skip is left out.
template <int DIM> __device__ __forceinline__ void copy_unit(char *to, uint64_t cached, const uint64_t *places, uint32_t first, uint32_t end, uint32_t dim, uint32_t thread, uint32_t threads, uint32_t skip = ~0u) {
    constexpr uint32_t PIECES = DIM / 8, ALL = Unit<DIM>::POSITIONS * PIECES;
    static_assert(ALL % 512 == 0, "threads have equally many pieces");
#pragma unroll 2
    for (uint32_t turn = 0; turn < ALL / threads; turn++) {
        const uint32_t i = thread + turn * threads, n = i / PIECES, piece = i % PIECES, position = first + n;
        copy_piece(to + n * Unit<DIM>::ROW + piece * 16, (const uint16_t *)cached + places[n] + piece * 8, position < end && piece * 8 < dim, position != skip);
    }
    copy_commit();
}
