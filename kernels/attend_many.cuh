// Attention of a prompt's rows: the warps of a block have 16 queries for every two of
// them, and walk over the units of their sequence together.
#pragma once
#include "attention.cuh"

// Two warps share 16 queries: each finds the scores of half of a unit's positions,
// and the sums for half of a value's elements. So each needs half of the registers, and
// there are enough warps to wait for each other's results.
//
// The queries of a tile are those of its rows and of the heads that share a KV head,
// the heads of a row after one another. While warps work on a unit's keys, its
// values are on their way, and the next unit's keys meanwhile.
//
// Grid: (tiles, kv_heads * parts of a tile's queries). Dynamic shared memory: keys
// and values of a unit, and the weights of 16 queries for each two warps. A block has
// at least as many threads as a unit has positions.
template <int DIM> struct Many {
    using U = Unit<DIM>;
    static constexpr int GROUPS = U::POSITIONS / 32; // of 16 positions, that a warp has
    static constexpr int PAIRS = DIM / 32;           // of 8 elements of a value, that a warp has
    static constexpr int STEP = PAIRS % 2 ? 1 : 2;   // that it sums at a time: registers are short

    struct Shared {
        uint64_t places[2][U::POSITIONS];
        float most[8][2][16]; // by two warps: the largest scores that each of them has
    };

    // The scores of the warp's positions, 16 in each group; the largest goes to most.
    static __device__ __forceinline__ void scores(float (*s)[2][4], const uint32_t (*q)[4], const char *keys) {
#pragma unroll
        for (int g = 0; g < GROUPS; g++)
#pragma unroll
            for (int i = 0; i < 8; i++)
                s[g][i / 4][i % 4] = 0;
#pragma unroll
        for (int c = 0; c < DIM / 16; c++)
#pragma unroll
            for (int g = 0; g < GROUPS; g++) {
                uint32_t b[4];
                load_matrices(b, keys + g * 16 * U::ROW + c * 32);
                mma(s[g][0], q[c], make_uint2(b[0], b[1]));
                mma(s[g][1], q[c], make_uint2(b[2], b[3]));
            }
    }

    // Scores of positions behind a query's own count for nothing.
    static __device__ __forceinline__ void mask(float (*s)[2][4], uint32_t first, const uint32_t *position) {
#pragma unroll
        for (int g = 0; g < GROUPS; g++)
#pragma unroll
            for (int i = 0; i < 8; i++)
                if (first + g * 16 + i / 4 * 8 + i % 2 > position[i % 4 / 2])
                    s[g][i / 4][i % 4] = MINUS_INFINITY;
    }
};

// Where query n of the tile that begins at a row is, and its result.
__device__ __forceinline__ uint64_t query_at(const AttendParams &p, uint32_t row, uint32_t kv_head, uint32_t n, uint32_t group) {
    return ((uint64_t)(row + n / group) * p.heads + kv_head * group + n % group) * p.cache.head_dim;
}

template <int DIM> __device__ __forceinline__ void attend_many(const AttendParams &p) {
    using U = Unit<DIM>;
    using M = Many<DIM>;
    extern __shared__ __align__(16) char shared[];
    __shared__ typename M::Shared s;
    char *keys = shared, *values = shared + U::BYTES;
    let_next_start();
    wait_for_previous();

    const uint32_t lane = threadIdx.x % 32, pair = threadIdx.x / 64, side = threadIdx.x / 32 % 2;
    const uint32_t dim = p.cache.head_dim, group = p.heads / p.cache.kv_heads;
    const uint32_t parts = gridDim.y / p.cache.kv_heads, kv_head = blockIdx.y / parts;
    const uint32_t block_queries = blockDim.x / 64 * 16, first_query = blockIdx.y % parts * block_queries;
    const Rows tile(p, blockIdx.x);
    const uint32_t queries = tile.rows * group;
    if (first_query >= queries)
        return;
    const uint32_t last_query = min(queries, first_query + block_queries) - 1;
    const uint32_t end = tile.position + last_query / group + 1;
    char *weights = shared + 2 * U::BYTES + pair * 16 * U::WEIGHTS;

    // The lane's two queries. Those beyond the last are computed, of zeros, and not
    // written. All of the 16 see the positions before all_see.
    const uint32_t mine = first_query + pair * 16;
    const uint32_t all_see = tile.position + mine / group + 1;
    const uint32_t position[2] = {tile.position + (mine + lane / 4) / group, tile.position + (mine + lane / 4 + 8) / group};

    if (threadIdx.x < U::POSITIONS)
        s.places[0][threadIdx.x] = place_in_unit<DIM>(p.cache, tile.table, kv_head, 0, end, threadIdx.x);
    __syncthreads();
    copy_unit<DIM>(keys, p.cache.keys, s.places[0], 0, end, dim, threadIdx.x, blockDim.x);

    // Queries as operand A.
    uint32_t q[DIM / 16][4];
    const float scale = score_scale(p);
#pragma unroll
    for (int j = 0; j < 2; j++) {
        const uint32_t n = mine + lane / 4 + 8 * j;
        const float *from = (const float *)p.q + query_at(p, tile.row, kv_head, n, group);
#pragma unroll
        for (int c = 0; c < DIM / 16; c++)
#pragma unroll
            for (int i = 0; i < 2; i++) {
                const uint32_t e = c * 16 + i * 8 + lane % 4 * 2;
                float2 x = make_float2(0, 0);
                if (n < queries && e < dim)
                    x = *(const float2 *)(from + e);
                q[c][j + 2 * i] = pack_half(__fmul_rn(x.x, scale), __fmul_rn(x.y, scale));
            }
    }

    float m[2] = {MINUS_INFINITY, MINUS_INFINITY}, l[2] = {0, 0}, o[M::PAIRS][2][4];
#pragma unroll
    for (int n = 0; n < M::PAIRS; n++)
#pragma unroll
        for (int i = 0; i < 8; i++)
            o[n][i / 4][i % 4] = 0;

#pragma unroll 1
    for (uint32_t first = 0; first < end; first += U::POSITIONS) {
        const uint32_t turn = first / U::POSITIONS % 2;
        copy_wait<0>();
        __syncthreads(); // the keys are there; all have done with the last values and weights
        copy_unit<DIM>(values, p.cache.values, s.places[turn], first, end, dim, threadIdx.x, blockDim.x);
        const uint64_t next = place_in_unit<DIM>(p.cache, tile.table, kv_head, first + U::POSITIONS, end, threadIdx.x);

        const uint32_t half = side * M::GROUPS * 16;
        float x[M::GROUPS][2][4], m2[2] = {MINUS_INFINITY, MINUS_INFINITY};
        M::scores(x, q, keys_of_b(keys + half * U::ROW, U::ROW, lane));
        if (first + U::POSITIONS > all_see)
            M::mask(x, first + half + lane % 4 * 2, position);
#pragma unroll
        for (int g = 0; g < M::GROUPS; g++)
#pragma unroll
            for (int i = 0; i < 8; i++)
                m2[i % 4 / 2] = fmaxf(m2[i % 4 / 2], x[g][i / 4][i % 4]);
#pragma unroll
        for (int j = 0; j < 2; j++) {
            m2[j] = largest_in_row(m2[j]);
            if (lane % 4 == 0)
                s.most[pair][side][lane / 4 + 8 * j] = m2[j];
        }
        __syncthreads(); // the other warp's largest scores are there
#pragma unroll
        for (int j = 0; j < 2; j++)
            m2[j] = fmaxf(m2[j], s.most[pair][side ^ 1][lane / 4 + 8 * j]);
#pragma unroll
        for (int g = 0; g < M::GROUPS; g++) {
            uint32_t a[4];
            to_weights(a, &x[g][0][0], m2);
            store_a(weights + (half + g * 16) * 2, U::WEIGHTS, lane, a);
        }
        if (threadIdx.x < U::POSITIONS)
            s.places[turn ^ 1][threadIdx.x] = next;
        copy_wait<0>();
        __syncthreads(); // the values and weights are there; all have done with the keys
        if (first + U::POSITIONS < end)
            copy_unit<DIM>(keys, p.cache.keys, s.places[turn ^ 1], first + U::POSITIONS, end, dim, threadIdx.x, blockDim.x);

        const char *from = values_of_b(values, U::ROW, lane) + side * M::PAIRS * 32, *by = rows_of_a(weights, U::WEIGHTS, lane);
        float l2[4] = {0, 0, 0, 0}, a[2], b[2];
#pragma unroll
        for (int n = 0; n < M::PAIRS; n += M::STEP) {
            float o2[M::STEP][2][4];
#pragma unroll
            for (int i = 0; i < M::STEP * 8; i++)
                o2[i / 8][i / 4 % 2][i % 4] = 0;
#pragma unroll
            for (int g = 0; g < U::POSITIONS / 16; g++) {
                uint32_t w[4];
                load_matrices(w, by + g * 32);
                if (n == 0)
                    sum_weights(l2, w);
                weigh_values<M::STEP>(o2, w, from + n * 32 + g * 16 * U::ROW);
            }
            if (n == 0) {
                fold(m[0], l[0], m2[0], l2[0], a[0], b[0]);
                fold(m[1], l[1], m2[1], l2[2], a[1], b[1]);
            }
#pragma unroll
            for (int i = 0; i < M::STEP * 8; i++) {
                float &sum = o[n + i / 8][i / 4 % 2][i % 4];
                sum = weigh(sum, a[i % 4 / 2], o2[i / 8][i / 4 % 2][i % 4], b[i % 4 / 2]);
            }
        }
    }

#pragma unroll
    for (int j = 0; j < 2; j++) {
        const uint32_t n = mine + lane / 4 + 8 * j;
        float *to = (float *)p.out + query_at(p, tile.row, kv_head, n, group);
        const float inverse = __frcp_rn(l[j]);
#pragma unroll
        for (int i = 0; i < 2 * M::PAIRS; i++) {
            const uint32_t e = side * M::PAIRS * 16 + i * 8 + lane % 4 * 2;
            if (n < queries && e < dim)
                *(float2 *)(to + e) = make_float2(__fmul_rn(o[i / 2][i % 2][2 * j], inverse), __fmul_rn(o[i / 2][i % 2][2 * j + 1], inverse));
        }
    }
}
