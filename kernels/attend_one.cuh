// Attention of a row that is the only one of its sequence in a step, as when tokens are
// generated; also of a few rows, each for itself.
#pragma once
#include "attention.cuh"
#include "turn.cuh"

static constexpr uint32_t ONE_WARPS = 8, ONE_THREADS = ONE_WARPS * 32, MOST_CLUSTER = 8;

// Stores to where the cluster's first block has what is at `at` here.
__device__ __forceinline__ void store_first(float2 *at, float x, float y) {
#if __CUDA_ARCH__ >= 900
    uint32_t local = (uint32_t)__cvta_generic_to_shared(at), remote;
    asm("mapa.shared::cluster.u32 %0, %1, 0;" : "=r"(remote) : "r"(local));
    asm volatile("st.shared::cluster.v2.f32 [%0], {%1, %2};" ::"r"(remote), "f"(x), "f"(y) : "memory");
#endif
}

// One row of up to 16 heads that share a KV head: they are the rows of operand A. The
// warps share a unit's positions for the scores and a head's elements for the
// values.
//
// With FUSED, which is for steps with one row of each sequence, the block does
// the work of append for its row on the way. All keys and values before the row's own
// were written by earlier steps then, and may be asked for while the kernel before is
// still running.
//
// Where a row's units are spread over blocks, one block folds them. Up to eight may be
// a cluster: then the others store their results into the shared memory of the first.
// Else all leave them in memory, and the block that is done last reads them; count says
// which one that is.
//
// Grid: (splits, kv_heads * parts of 16 heads, rows). Dynamic shared memory: keys and
// values of a unit.
template <int DIM, bool FUSED> struct One {
    using U = Unit<DIM>;
    static constexpr int PAIRS = DIM > 128 ? DIM / 128 : 1; // of 8 elements of a value, that a warp has
    static constexpr uint32_t BATCH = 32, LOADS = 16;       // units whose factors are found, and that are read, at a time

    struct Shared {
        char queries[16 * U::ROW];
        char weights[16 * U::WEIGHTS];
        char own[2 * U::ROW]; // key and value of the row itself, until their unit is there
        uint64_t places[2][U::POSITIONS];
        float most[ONE_WARPS][16];
        float2 sums[MOST_CLUSTER][16]; // of the cluster's units: m and l of each head
        bool last;
    };

    const AttendParams &p;
    Shared &s;
    char *keys, *values;
    uint32_t lane, warp, dim, kv_head, part, heads, first_head, length, units, begin, end;
    Rows row;
    const uint32_t own; // position of a key and value that are not in the cache

    __device__ __forceinline__ One(const AttendParams &p, Shared &s, char *tiles)
        : p(p), s(s), keys(tiles), values(tiles + U::BYTES), lane(threadIdx.x % 32), warp(threadIdx.x / 32), dim(p.cache.head_dim),
          row(p, blockIdx.z), own(FUSED ? row.position : ~0u) {
        const uint32_t group = p.heads / p.cache.kv_heads, parts = (group + 15) / 16;
        part = blockIdx.y % parts;
        kv_head = blockIdx.y / parts;
        heads = min(16u, group - part * 16);
        first_head = kv_head * group + part * 16;
        length = row.position + 1;
        units = (length + U::POSITIONS - 1) / U::POSITIONS;
        begin = p.splits == 1 ? 0 : blockIdx.x;
        end = p.splits == 1 ? units : min(units, begin + 1);
    }

    __device__ __forceinline__ void ask_keys(uint32_t unit) {
        copy_unit<DIM>(keys, p.cache.keys, s.places[unit % 2], unit * U::POSITIONS, length, dim, ONE_THREADS, own);
    }
    __device__ __forceinline__ void ask_values(uint32_t unit) {
        copy_unit<DIM>(values, p.cache.values, s.places[unit % 2], unit * U::POSITIONS, length, dim, ONE_THREADS, own);
    }
    __device__ __forceinline__ uint64_t place(uint32_t unit) const {
        return place_in_unit<DIM>(p.cache, row.table, kv_head, unit * U::POSITIONS, length);
    }
    // The row's own key or value from where it waits for its unit, the first apart.
    __device__ __forceinline__ void put_own(char *to, uint32_t which, uint32_t unit) {
        if (FUSED && own / U::POSITIONS == unit && threadIdx.x < DIM / 8)
            *(uint4 *)(to + own % U::POSITIONS * U::ROW + threadIdx.x * 16) = *(const uint4 *)(s.own + which * U::ROW + threadIdx.x * 16);
    }

    // Zeros for the heads that are not there.
    __device__ __forceinline__ void clear_queries() {
        for (uint32_t n = heads * (U::ROW / 16) + threadIdx.x; n < 16 * (U::ROW / 16); n += ONE_THREADS)
            *(uint4 *)(s.queries + n * 16) = make_uint4(0, 0, 0, 0);
    }

    // Queries, and with FUSED the row's own key and value, four elements a thread.
    // Where they are is found out before the kernel before is waited for.
    __device__ __forceinline__ void take_inputs() {
        constexpr uint32_t QUADS = DIM / 4;
        const float scale = score_scale(p);
        const float2 *angle = (const float2 *)p.angles + (uint64_t)row.row * (p.dims / 2);
        const bool with_own = FUSED && own / U::POSITIONS >= begin && own / U::POSITIONS < end;
        const uint32_t all = (heads + (with_own ? 2 : 0)) * QUADS;
        bool waited = !FUSED;
#pragma unroll 1
        for (uint32_t n = threadIdx.x; n < all || !waited; n += ONE_THREADS) {
            const uint32_t h = n / QUADS, i = n % QUADS * 4;
            const bool query = h < heads, value = h == heads + 1;
            const float *from = (const float *)(query ? p.q : value ? p.v : p.k);
            from += query ? ((uint64_t)row.row * p.heads + first_head + h) * dim : ((uint64_t)row.row * p.cache.kv_heads + kv_head) * dim;
            char *to = query ? s.queries + h * U::ROW
                       : own / U::POSITIONS == begin ? (value ? values : keys) + own % U::POSITIONS * U::ROW
                                                     : s.own + (value ? U::ROW : 0);
            uint16_t *cached = 0;
            if (FUSED && h >= heads && part == 0 && i < dim)
                cached = (uint16_t *)(value ? p.cache.values : p.cache.keys) + place_of(p.cache, row.table, kv_head, own) + i;
            if (!waited) {
                let_next_start();
                wait_for_previous();
            }
            waited = true;
            if (n >= all)
                break;
            float x[4] = {0, 0, 0, 0};
            if (i < dim)
#pragma unroll
                for (int j = 0; j < 4; j++)
                    x[j] = FUSED ? Turn(i + j, value ? 0 : p.dims, p.halves, angle).of(from) : from[i + j];
            if (query)
#pragma unroll
                for (int j = 0; j < 4; j++)
                    x[j] = __fmul_rn(x[j], scale);
            const uint2 packed = make_uint2(pack_half(x[0], x[1]), pack_half(x[2], x[3]));
            *(uint2 *)(to + i * 2) = packed;
            if (cached)
                *(uint2 *)cached = packed;
        }
    }

    // The scores of 16 positions, by each of the first warps.
    __device__ __forceinline__ void scores(float (*x)[4], uint32_t first) {
#pragma unroll
        for (int i = 0; i < 8; i++)
            x[i / 4][i % 4] = 0;
        const char *a_at = rows_of_a(s.queries, U::ROW, lane), *b_at = keys_of_b(keys + warp * 16 * U::ROW, U::ROW, lane);
#pragma unroll
        for (int c = 0; c < DIM / 16; c++) {
            uint32_t a[4], b[4];
            load_matrices(a, a_at + c * 32);
            load_matrices(b, b_at + c * 32);
            mma(x[0], a, make_uint2(b[0], b[1]));
            mma(x[1], a, make_uint2(b[2], b[3]));
        }
        float m[2] = {MINUS_INFINITY, MINUS_INFINITY};
#pragma unroll
        for (int i = 0; i < 8; i++) {
            if (first + warp * 16 + i / 4 * 8 + lane % 4 * 2 + i % 2 >= length)
                x[i / 4][i % 4] = MINUS_INFINITY;
            m[i % 4 / 2] = fmaxf(m[i % 4 / 2], x[i / 4][i % 4]);
        }
#pragma unroll
        for (int j = 0; j < 2; j++) {
            m[j] = largest_in_row(m[j]);
            if (lane % 4 == 0)
                s.most[warp][lane / 4 + 8 * j] = m[j];
        }
    }

    __device__ __forceinline__ void run() {
        constexpr uint32_t GROUPS = U::POSITIONS / 16;
        const uint32_t my_element = warp * PAIRS * 16; // the warp's first of a value
        if (!FUSED) {
            let_next_start();
            wait_for_previous();
        }
        if (begin >= end)
            return;
        if (threadIdx.x < U::POSITIONS)
            s.places[begin % 2][threadIdx.x] = place(begin);
        clear_queries();
        __syncthreads();
        ask_keys(begin);
        ask_values(begin);
        take_inputs();

        float m[2] = {MINUS_INFINITY, MINUS_INFINITY}, l[2] = {0, 0}, o[PAIRS][2][4];
#pragma unroll
        for (int i = 0; i < PAIRS * 8; i++)
            o[i / 8][i / 4 % 2][i % 4] = 0;
#pragma unroll 1
        for (uint32_t unit = begin; unit < end; unit++) {
            copy_wait<0>();
            __syncthreads(); // the keys are there; all have done with the last values
            if (unit > begin) {
                ask_values(unit);
                put_own(values, 1, unit);
            }
            const uint64_t next = unit + 1 < end ? place(unit + 1) : 0;
            float x[2][4];
            if (GROUPS == ONE_WARPS || warp < GROUPS)
                scores(x, unit * U::POSITIONS);
            if (threadIdx.x < U::POSITIONS)
                s.places[(unit + 1) % 2][threadIdx.x] = next;
            __syncthreads(); // the largest scores are there; all have done with the keys
            if (p.cluster && units > 1)
                cluster_arrive();
            if (unit + 1 < end) {
                ask_keys(unit + 1);
                put_own(keys, 0, unit + 1);
                copy_wait<1>();
            } else {
                copy_wait<0>();
            }
            float m2[2] = {MINUS_INFINITY, MINUS_INFINITY};
#pragma unroll
            for (int w = 0; w < GROUPS; w++)
#pragma unroll
                for (int j = 0; j < 2; j++)
                    m2[j] = fmaxf(m2[j], s.most[w][lane / 4 + 8 * j]);
            if (GROUPS == ONE_WARPS || warp < GROUPS) {
                uint32_t a[4];
                to_weights(a, &x[0][0], m2);
                store_a(s.weights + warp * 32, U::WEIGHTS, lane, a);
            }
            __syncthreads(); // the weights and the values are there
            float l2[4] = {0, 0, 0, 0}, o2[PAIRS][2][4];
#pragma unroll
            for (int i = 0; i < PAIRS * 8; i++)
                o2[i / 8][i / 4 % 2][i % 4] = 0;
            if (DIM % 128 == 0 || my_element < DIM) {
                const char *a_at = rows_of_a(s.weights, U::WEIGHTS, lane), *b_at = values_of_b(values, U::ROW, lane) + my_element * 2;
#pragma unroll
                for (int g = 0; g < GROUPS; g++) {
                    uint32_t a[4];
                    load_matrices(a, a_at + g * 32);
                    sum_weights(l2, a);
                    weigh_values<PAIRS>(o2, a, b_at + g * 16 * U::ROW);
                }
            }
            if (p.splits > 1 && units > 1) {
                if (p.cluster)
                    cluster_wait(); // the first block has done with its keys
                leave(unit, m2, l2, o2, my_element);
                break;
            }
            float a[2], b[2];
            fold(m[0], l[0], m2[0], l2[0], a[0], b[0]);
            fold(m[1], l[1], m2[1], l2[2], a[1], b[1]);
#pragma unroll
            for (int i = 0; i < PAIRS * 8; i++)
                o[i / 8][i / 4 % 2][i % 4] = weigh(o[i / 8][i / 4 % 2][i % 4], a[i % 4 / 2], o2[i / 8][i / 4 % 2][i % 4], b[i % 4 / 2]);
        }
        if (p.splits > 1 && units > 1) {
            if (p.cluster) {
                cluster_arrive();
                cluster_wait();
                if (begin == 0)
                    fold_cluster();
            } else if (is_last()) {
                fold_all();
            }
            return;
        }
#pragma unroll
        for (int j = 0; j < 2; j++) {
            const uint32_t h = lane / 4 + 8 * j;
            const float inverse = __frcp_rn(l[j]);
#pragma unroll
            for (int n = 0; n < 2 * PAIRS; n++) {
                const uint32_t e = my_element + n * 8 + lane % 4 * 2;
                if (h < heads && e < dim)
                    put(h, e, o[n / 2][n % 2][2 * j], o[n / 2][n % 2][2 * j + 1], inverse);
            }
        }
    }

    // Where the results of a head's units are.
    __device__ __forceinline__ uint32_t result_of(uint32_t h) const { return (blockIdx.z * p.heads + first_head + h) * p.splits; }

    // Leaves a unit's result for the block that folds.
    __device__ __forceinline__ void leave(uint32_t unit, const float *m, const float *l, const float (*o)[2][4], uint32_t my_element) {
#pragma unroll
        for (int j = 0; j < 2; j++) {
            const uint32_t h = lane / 4 + 8 * j;
            if (h >= heads)
                continue;
            const uint32_t to = result_of(h) + unit;
            if (warp == 0 && lane % 4 == 0) {
                if (p.cluster)
                    store_first(&s.sums[unit][h], m[j], l[2 * j]);
                else
                    ((float2 *)p.partial_ml)[to] = make_float2(m[j], l[2 * j]);
            }
#pragma unroll
            for (int n = 0; n < 2 * PAIRS; n++) {
                const uint32_t e = my_element + n * 8 + lane % 4 * 2;
                const float x = o[n / 2][n % 2][2 * j], y = o[n / 2][n % 2][2 * j + 1];
                if (e >= dim)
                    continue;
                if (p.cluster)
                    store_first((float2 *)keys + ((unit * heads + h) * DIM + e) / 2, x, y);
                else
                    *(float2 *)((float *)p.partial + to * dim + e) = make_float2(x, y);
            }
        }
    }

    // Folds what the cluster's blocks have left here.
    __device__ __forceinline__ void fold_cluster() {
#pragma unroll 1
        for (uint32_t n = threadIdx.x; n < heads * (DIM / 2); n += ONE_THREADS) {
            const uint32_t h = n / (DIM / 2), e = n % (DIM / 2) * 2;
            float m = MINUS_INFINITY, l = 0, x = 0, y = 0, a, b;
#pragma unroll 2
            for (uint32_t u = 0; u < units; u++) {
                const float2 ml = s.sums[u][h], next = ((const float2 *)keys)[u * heads * (DIM / 2) + n];
                fold(m, l, ml.x, ml.y, a, b);
                x = weigh(x, a, next.x, b);
                y = weigh(y, a, next.y, b);
            }
            if (e < dim)
                put(h, e, x, y, __frcp_rn(l));
        }
    }

    // Writes two elements of a head's result.
    __device__ __forceinline__ void put(uint32_t h, uint32_t e, float x, float y, float inverse) {
        *(float2 *)((float *)p.out + ((uint64_t)row.row * p.heads + first_head + h) * dim + e) = make_float2(__fmul_rn(x, inverse), __fmul_rn(y, inverse));
    }

    __device__ __forceinline__ bool is_last() {
        __threadfence(); // the parts before the count
        __syncthreads();
        if (threadIdx.x == 0) {
            uint32_t *count = (uint32_t *)p.count + blockIdx.z * gridDim.y + blockIdx.y;
            s.last = atomicAdd(count, 1) + 1 == units;
            if (s.last)
                *count = 0; // for the next step
        }
        __syncthreads();
        if (s.last)
            __threadfence();
        return s.last;
    }

    // Folds all units of the block's heads. The factors of a unit follow from the
    // largest score up to it, which a warp finds for 32 units at a time.
    __device__ __forceinline__ void fold_all() {
        float4(*factors)[BATCH] = (float4(*)[BATCH])keys; // by head: a, b and l of a unit
        float4 *sums = (float4 *)values;                  // of two elements so far: o, o and l
        float before[2] = {MINUS_INFINITY, MINUS_INFINITY};
#pragma unroll 1
        for (uint32_t first = 0; first < units; first += BATCH) {
            __syncthreads(); // all have done with the last factors
#pragma unroll
            for (int j = 0; j < 2; j++) {
                const uint32_t h = warp + ONE_WARPS * j, unit = first + lane;
                if (h >= heads)
                    continue;
                float2 ml = make_float2(MINUS_INFINITY, 0);
                if (unit < units)
                    ml = __ldcg((const float2 *)p.partial_ml + result_of(h) + unit);
                float top = fmaxf(ml.x, before[j]);
#pragma unroll
                for (int d = 1; d < 32; d <<= 1) {
                    const float other = __shfl_up_sync(~0u, top, d);
                    if (lane >= d)
                        top = fmaxf(top, other);
                }
                float last_top = __shfl_up_sync(~0u, top, 1);
                if (lane == 0)
                    last_top = before[j];
                before[j] = __shfl_sync(~0u, top, 31);
                factors[h][lane] = make_float4(exp2_of(last_top - top), exp2_of(ml.x - top), ml.y, 0);
            }
            __syncthreads();
            const uint32_t count = min(BATCH, units - first);
#pragma unroll 1
            for (uint32_t n = threadIdx.x; n < heads * (DIM / 2); n += ONE_THREADS) {
                const uint32_t h = n / (DIM / 2), e = n % (DIM / 2) * 2;
                if (e >= dim)
                    continue;
                const float *from = (const float *)p.partial + (result_of(h) + first) * dim + e;
                float4 sum = first ? sums[n] : make_float4(0, 0, 0, 0);
#pragma unroll 1
                for (uint32_t u = 0; u < count; u += LOADS) {
                    float2 x[LOADS]; // all on their way before the first is used
#pragma unroll
                    for (uint32_t i = 0; i < LOADS; i++)
                        if (u + i < count)
                            x[i] = __ldcg((const float2 *)(from + (u + i) * dim));
#pragma unroll
                    for (uint32_t i = 0; i < LOADS; i++)
                        if (u + i < count) {
                            const float4 f = factors[h][u + i];
                            sum.x = weigh(sum.x, f.x, x[i].x, f.y);
                            sum.y = weigh(sum.y, f.x, x[i].y, f.y);
                            sum.z = weigh(sum.z, f.x, f.z, f.y);
                        }
                }
                if (first + BATCH < units) {
                    sums[n] = sum;
                } else {
                    put(h, e, sum.x, sum.y, __frcp_rn(sum.z));
                }
            }
        }
    }
};

template <int DIM, bool FUSED> __device__ __forceinline__ void attend_one(const AttendParams &p) {
    extern __shared__ __align__(16) char shared[];
    __shared__ __align__(16) typename One<DIM, FUSED>::Shared s;
    One<DIM, FUSED>(p, s, shared).run();
}
