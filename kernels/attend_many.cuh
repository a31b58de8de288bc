// Attention of a prompt's rows: 4 or 8 warps of a block have 16 queries each and walk
// over the units of their sequence together.
#pragma once
#include "attention.cuh"

// With heads of more than 128 elements, two warps have the same queries and do half of
// the values each: one would not have registers for all sums.
//
// The queries of a tile are those of its rows and of the heads that share a KV head,
// the heads of a row after one another. While warps work on a unit's keys, its
// values are on their way, and the next unit's keys meanwhile.
//
// Grid: (tiles, kv_heads * parts of a tile's queries). Dynamic shared memory: keys
// and values of a unit. Blocks have at least 128 threads.
template <int DIM> __device__ __forceinline__ void attend_many(const AttendParams &p) {
    using U = Unit<DIM>;
    constexpr int SHARE = DIM > 128 ? 2 : 1, MINE = DIM / SHARE, GROUPS = U::POSITIONS / 16;
    extern __shared__ __align__(16) char shared[];
    __shared__ uint64_t places[2][U::POSITIONS];
    char *keys = shared, *values = shared + U::BYTES;
    let_next_start();
    wait_for_previous();

    const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const uint32_t dim = p.cache.head_dim, group = p.heads / p.cache.kv_heads;
    const uint32_t parts = gridDim.y / p.cache.kv_heads, kv_head = blockIdx.y / parts;
    const uint32_t block_queries = blockDim.x / 32 / SHARE * 16, first_query = blockIdx.y % parts * block_queries;
    const Rows tile(p, blockIdx.x);
    const uint32_t queries = tile.rows * group;
    if (first_query >= queries)
        return;
    const uint32_t last_query = min(queries, first_query + block_queries) - 1;
    const uint32_t end = tile.position + last_query / group + 1;
    const uint32_t half = warp % SHARE * MINE; // the warp's first element of a value

    // The lane's two queries. Those beyond the last are computed, of zeros, and not
    // written.
    const uint32_t mine = first_query + warp / SHARE * 16;
    const uint32_t warp_begin = tile.position + mine / group, warp_end = mine > last_query ? 0 : tile.position + min(mine + 15, last_query) / group + 1;
    uint32_t position[2];
    uint64_t at[2]; // of the query, and of its result
    bool there[2];
#pragma unroll
    for (int j = 0; j < 2; j++) {
        const uint32_t n = mine + lane / 4 + 8 * j, row = n / group;
        there[j] = n < queries;
        position[j] = tile.position + row;
        at[j] = ((uint64_t)(tile.row + row) * p.heads + kv_head * group + n % group) * dim;
    }

    if (threadIdx.x < U::POSITIONS)
        places[0][threadIdx.x] = place_in_unit<DIM>(p.cache, tile.table, kv_head, 0, end);
    __syncthreads();
    copy_unit<DIM>(keys, p.cache.keys, places[0], 0, end, dim, blockDim.x);

    // Queries as operand A.
    uint32_t q[DIM / 16][4];
    const float scale = score_scale(p);
#pragma unroll
    for (int c = 0; c < DIM / 16; c++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const uint32_t e = c * 16 + i / 2 * 8 + lane % 4 * 2;
            float2 x = make_float2(0, 0);
            if (there[i % 2] && e < dim)
                x = *(const float2 *)((const float *)p.q + at[i % 2] + e);
            q[c][i] = pack_half(__fmul_rn(x.x, scale), __fmul_rn(x.y, scale));
        }

    float m[2] = {MINUS_INFINITY, MINUS_INFINITY}, l[2] = {0, 0}, o[MINE / 16][2][4];
#pragma unroll
    for (int n = 0; n < MINE / 16; n++)
#pragma unroll
        for (int i = 0; i < 8; i++)
            o[n][i / 4][i % 4] = 0;

#pragma unroll 1
    for (uint32_t first = 0, turn = 0; first < end; first += U::POSITIONS, turn ^= 1) {
        copy_wait<0>();
        __syncthreads(); // the keys are there; all have done with the last values
        copy_unit<DIM>(values, p.cache.values, places[turn], first, end, dim, blockDim.x);
        const uint64_t next = place_in_unit<DIM>(p.cache, tile.table, kv_head, first + U::POSITIONS, end);

        const bool busy = first < warp_end; // or the unit is behind all of the warp's rows
        uint32_t weight[GROUPS][4];
        float m2[2] = {MINUS_INFINITY, MINUS_INFINITY};
        if (busy) {
            float s[GROUPS][2][4];
#pragma unroll
            for (int g = 0; g < GROUPS; g++)
#pragma unroll
                for (int i = 0; i < 8; i++)
                    s[g][i / 4][i % 4] = 0;
            const char *from = keys_of_b(keys, U::ROW, lane);
#pragma unroll
            for (int c = 0; c < DIM / 16; c++)
#pragma unroll
                for (int g = 0; g < GROUPS; g++) {
                    uint32_t b[4];
                    load_matrices(b, from + g * 16 * U::ROW + c * 32);
                    mma(s[g][0], q[c], make_uint2(b[0], b[1]));
                    mma(s[g][1], q[c], make_uint2(b[2], b[3]));
                }
            if (first + U::POSITIONS > warp_begin + 1) {
#pragma unroll
                for (int g = 0; g < GROUPS; g++)
#pragma unroll
                    for (int i = 0; i < 8; i++)
                        if (first + g * 16 + i / 4 * 8 + lane % 4 * 2 + i % 2 > position[i % 4 / 2])
                            s[g][i / 4][i % 4] = MINUS_INFINITY;
            }
#pragma unroll
            for (int g = 0; g < GROUPS; g++)
#pragma unroll
                for (int i = 0; i < 8; i++)
                    m2[i % 4 / 2] = fmaxf(m2[i % 4 / 2], s[g][i / 4][i % 4]);
            m2[0] = largest_in_row(m2[0]);
            m2[1] = largest_in_row(m2[1]);
#pragma unroll
            for (int g = 0; g < GROUPS; g++)
                to_weights(weight[g], &s[g][0][0], m2);
        }
        if (threadIdx.x < U::POSITIONS)
            places[turn ^ 1][threadIdx.x] = next;
        copy_wait<0>();
        __syncthreads(); // the values are there; all have done with the keys
        if (first + U::POSITIONS < end)
            copy_unit<DIM>(keys, p.cache.keys, places[turn ^ 1], first + U::POSITIONS, end, dim, blockDim.x);
        if (busy) {
            float l2[4] = {0, 0, 0, 0}, o2[MINE / 16][2][4], a[2], b[2];
#pragma unroll
            for (int n = 0; n < MINE / 16; n++)
#pragma unroll
                for (int i = 0; i < 8; i++)
                    o2[n][i / 4][i % 4] = 0;
            const char *from = values_of_b(values, U::ROW, lane) + half * 2;
#pragma unroll
            for (int g = 0; g < GROUPS; g++)
                weigh_values<MINE / 16>(l2, o2, weight[g], from + g * 16 * U::ROW);
            fold(m[0], l[0], m2[0], l2[0], a[0], b[0]);
            fold(m[1], l[1], m2[1], l2[2], a[1], b[1]);
#pragma unroll
            for (int n = 0; n < MINE / 16; n++)
#pragma unroll
                for (int i = 0; i < 8; i++)
                    o[n][i / 4][i % 4] = weigh(o[n][i / 4][i % 4], a[i % 4 / 2], o2[n][i / 4][i % 4], b[i % 4 / 2]);
        }
    }

#pragma unroll
    for (int j = 0; j < 2; j++) {
        const float inverse = __frcp_rn(l[j]);
#pragma unroll
        for (int n = 0; n < MINE / 8; n++) {
            const uint32_t e = half + n * 8 + lane % 4 * 2;
            if (there[j] && e < dim)
                *(float2 *)((float *)p.out + at[j] + e) =
                    make_float2(__fmul_rn(o[n / 2][n % 2][2 * j], inverse), __fmul_rn(o[n / 2][n % 2][2 * j + 1], inverse));
        }
    }
}
