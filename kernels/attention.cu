// Rotation of queries and keys, the KV cache, and attention over it.
//
// A row's positions are cut into splits of 128, always at the same places. A
// split's result is its largest score m, the sum l of exp(score - m), and the sum
// o of exp(score - m) * value; results are folded together split after split
// (Milakov and Gimelshein, "Online normalizer calculation for softmax", 2018). Whether
// a block of threads does one split of a row or all of them, the same operations
// happen in the same order: few rows are spread over many blocks, many are not,
// and no row's bits depend on it.
#include "device.cuh"

static constexpr int SPLIT = 128, WARPS = 8;

__device__ __forceinline__ void fold(float &m, float &l, float m2, float l2, float &a, float &b) {
    float top = fmaxf(m, m2);
    a = __expf(m - top);
    b = __expf(m2 - top);
    l = weigh(l, a, l2, b);
    m = top;
}

// Element i of a head at x, rotated: the first dims elements in pairs.
__device__ __forceinline__ float turned(const float *x, uint32_t i, uint32_t dims, bool halves, const float2 *angle) {
    float y = x[i];
    if (i >= dims)
        return y;
    const uint32_t pairs = dims / 2;
    const bool first = halves ? i < pairs : i % 2 == 0;
    float other = x[halves ? (first ? i + pairs : i - pairs) : i ^ 1];
    float2 cs = angle[halves ? i % pairs : i / 2];
    if (first)
        return __fsub_rn(__fmul_rn(y, cs.x), __fmul_rn(other, cs.y));
    return __fadd_rn(__fmul_rn(other, cs.y), __fmul_rn(y, cs.x));
}

// Grid: (heads + 2*kv_heads, rows); a thread rotates pairs of one head, or copies.
// The angles of a row are those of its position.
KIGO_KERNEL(append, AppendParams) {
    let_next_start();
    wait_for_previous();
    const uint32_t row = blockIdx.y, dim = p.cache.head_dim, pairs = p.dims / 2;
    const uint32_t position = ((const int32_t *)p.positions)[row], slot = position % p.cache.block_size;
    const int32_t *table = (const int32_t *)p.tables + ((const int32_t *)p.table_of)[row];
    const uint64_t block = table[position / p.cache.block_size];
    uint32_t head = blockIdx.x;
    const float *in;
    float *out = 0;
    uint16_t *cached = 0;
    bool rotated = true;
    if (head < p.heads) {
        uint64_t at = ((uint64_t)row * p.heads + head) * dim;
        in = (const float *)p.q + at;
        out = (float *)p.q_out + at;
    } else {
        head -= p.heads;
        rotated = head < p.cache.kv_heads;
        if (!rotated)
            head -= p.cache.kv_heads;
        uint64_t at = ((uint64_t)row * p.cache.kv_heads + head) * dim;
        uint64_t to = ((block * p.cache.kv_heads + head) * p.cache.block_size + slot) * dim;
        in = (const float *)(rotated ? p.k : p.v) + at;
        if (rotated)
            out = (float *)p.k_out + at;
        cached = (uint16_t *)(rotated ? p.cache.keys : p.cache.values) + to;
    }
    const float2 *angle = (const float2 *)p.angles + (uint64_t)row * pairs;
    for (uint32_t i = threadIdx.x; i < dim; i += blockDim.x) {
        float y = rotated ? turned(in, i, p.dims, p.halves, angle) : in[i];
        if (out)
            out[i] = y;
        if (cached)
            cached[i] = float_to_half(y);
    }
}

__device__ __forceinline__ void unpack8(float *f, uint4 w) {
    f[0] = low_half(w.x);
    f[1] = high_half(w.x);
    f[2] = low_half(w.y);
    f[3] = high_half(w.y);
    f[4] = low_half(w.z);
    f[5] = high_half(w.z);
    f[6] = low_half(w.w);
    f[7] = high_half(w.w);
}

// LANES lanes work on a token, 8 elements of a head each (LANES * 8 >= head_dim);
// a warp on 32/LANES tokens, a block on 4 times as many. HEADS query heads that
// share a KV head are served together, so that keys and values are read once.
// With FUSED, which is for steps with one row of each sequence, it does the
// work of append for its row on the way.
//
// Where a row's splits are spread over blocks, the block that is done last folds
// them; count says which one that is.
//
// Grid: (rows, kv_heads * groups of HEADS, splits).
template <int LANES, int HEADS, bool FUSED> __device__ __forceinline__ void attend(const AttendParams &p) {
    constexpr int TOKENS = 32 / LANES, STRIDE = TOKENS * WARPS, UNROLL = 4, DIM = LANES * 8;
    __shared__ float parts[WARPS][HEADS][DIM];
    __shared__ float2 parts_ml[WARPS][HEADS];
    let_next_start();
    wait_for_previous();
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, sub = lane % LANES;
    const uint32_t dim = p.cache.head_dim, group = p.heads / p.cache.kv_heads, groups = (group + HEADS - 1) / HEADS;
    const uint32_t row = blockIdx.x, kv_head = blockIdx.y / groups, head_in_group = blockIdx.y % groups * HEADS;
    const uint32_t heads = min((uint32_t)HEADS, group - head_in_group), first_head = kv_head * group + head_in_group;
    const uint32_t length = ((const int32_t *)p.positions)[row] + 1;
    const int32_t *table = (const int32_t *)p.tables + ((const int32_t *)p.table_of)[row];
    const bool active = sub * 8 < dim;
    const uint32_t all = (length + SPLIT - 1) / SPLIT;
    const uint32_t split_begin = p.splits == 1 ? 0 : blockIdx.z, split_end = p.splits == 1 ? all : min(all, split_begin + 1);

    const float2 *angle = (const float2 *)p.angles + (uint64_t)row * (p.dims / 2);
    if (split_begin >= split_end)
        return;

    // Queries, and with FUSED the row's own key and value, for all warps.
    __shared__ float queries[HEADS][DIM];
    __shared__ uint4 fresh[2][LANES];
    for (uint32_t at = threadIdx.x; at < HEADS * DIM; at += WARPS * 32) {
        uint32_t h = at / DIM, i = at % DIM;
        float x = 0;
        if (h < heads && i < dim) {
            const float *head = (const float *)p.q + ((uint64_t)row * p.heads + first_head + h) * dim;
            x = __fmul_rn(FUSED ? turned(head, i, p.dims, p.halves, angle) : head[i], p.scale);
        }
        queries[h][i] = x;
    }
    if (FUSED)
        for (uint32_t i = threadIdx.x * 2; i < 2 * dim; i += WARPS * 64) {
            const bool key = i < dim;
            const float *x = (const float *)(key ? p.k : p.v) + ((uint64_t)row * p.cache.kv_heads + kv_head) * dim;
            uint32_t e = key ? i : i - dim, dims = key ? p.dims : 0;
            ((uint32_t *)fresh[!key])[e / 2] = pack_half(turned(x, e, dims, p.halves, angle), turned(x, e + 1, dims, p.halves, angle));
        }
    __syncthreads();
    float q[HEADS][8];
#pragma unroll
    for (int h = 0; h < HEADS; h++)
#pragma unroll
        for (int i = 0; i < 8; i++)
            q[h][i] = queries[h][sub * 8 + i];

    // Where the whole row's result gathers: thread t has elements t, t + 128, ...
    // of the heads.
    constexpr int MINE = (HEADS * DIM + WARPS * 32 - 1) / (WARPS * 32);
    float result[MINE], result_m[MINE], result_l[MINE];

    for (uint32_t split = split_begin; split < split_end; split++) {
        const uint32_t begin = split * SPLIT, end = min(length, begin + SPLIT);
        float m[HEADS], l[HEADS], o[HEADS][8];
#pragma unroll
        for (int h = 0; h < HEADS; h++) {
            m[h] = -1e30f;
            l[h] = 0;
#pragma unroll
            for (int i = 0; i < 8; i++)
                o[h][i] = 0;
        }
        for (uint32_t t0 = begin + warp * TOKENS + lane / LANES; t0 - lane / LANES < end; t0 += STRIDE * UNROLL) {
            uint4 k[UNROLL], v[UNROLL];
#pragma unroll
            for (int u = 0; u < UNROLL; u++) {
                uint32_t t = t0 + u * STRIDE;
                k[u] = v[u] = make_uint4(0, 0, 0, 0);
                if (active && t < end) {
                    uint64_t at = (((uint64_t)table[t / p.cache.block_size] * p.cache.kv_heads + kv_head) * p.cache.block_size + t % p.cache.block_size) * dim + sub * 8;
                    uint4 *key = (uint4 *)((uint16_t *)p.cache.keys + at), *value = (uint4 *)((uint16_t *)p.cache.values + at);
                    if (FUSED && t + 1 == length) {
                        k[u] = fresh[0][sub];
                        v[u] = fresh[1][sub];
                        if (head_in_group == 0) {
                            *key = k[u];
                            *value = v[u];
                        }
                    } else {
                        k[u] = *key;
                        v[u] = *value;
                    }
                }
            }
            float s[HEADS][UNROLL];
#pragma unroll
            for (int u = 0; u < UNROLL; u++) {
                float f[8];
                unpack8(f, k[u]);
#pragma unroll
                for (int h = 0; h < HEADS; h++) {
                    float a = __fmul_rn(q[h][0], f[0]);
#pragma unroll
                    for (int i = 1; i < 8; i++)
                        a = fmaf(q[h][i], f[i], a);
#pragma unroll
                    for (int d = LANES / 2; d; d >>= 1)
                        a = __fadd_rn(a, __shfl_xor_sync(~0u, a, d));
                    s[h][u] = t0 + u * STRIDE < end ? a : -1e30f;
                }
            }
#pragma unroll
            for (int h = 0; h < HEADS; h++) {
                float top = m[h];
#pragma unroll
                for (int u = 0; u < UNROLL; u++)
                    top = fmaxf(top, s[h][u]);
                float c = __expf(m[h] - top);
                m[h] = top;
                l[h] = __fmul_rn(l[h], c);
#pragma unroll
                for (int i = 0; i < 8; i++)
                    o[h][i] = __fmul_rn(o[h][i], c);
            }
#pragma unroll
            for (int u = 0; u < UNROLL; u++) {
                float f[8];
                unpack8(f, v[u]);
#pragma unroll
                for (int h = 0; h < HEADS; h++) {
                    float e = t0 + u * STRIDE < end ? __expf(s[h][u] - m[h]) : 0;
                    l[h] = __fadd_rn(l[h], e);
#pragma unroll
                    for (int i = 0; i < 8; i++)
                        o[h][i] = fmaf(e, f[i], o[h][i]);
                }
            }
        }
        // The tokens of a warp, then the warps.
#pragma unroll
        for (int d = LANES; d < 32; d <<= 1)
#pragma unroll
            for (int h = 0; h < HEADS; h++) {
                float m2 = __shfl_xor_sync(~0u, m[h], d), l2 = __shfl_xor_sync(~0u, l[h], d), a, b;
                fold(m[h], l[h], m2, l2, a, b);
#pragma unroll
                for (int i = 0; i < 8; i++)
                    o[h][i] = weigh(o[h][i], a, __shfl_xor_sync(~0u, o[h][i], d), b);
            }
        __syncthreads(); // the last split's parts have been read
        if (lane < LANES) {
#pragma unroll
            for (int h = 0; h < HEADS; h++) {
#pragma unroll
                for (int i = 0; i < 8; i++)
                    parts[warp][h][sub * 8 + i] = o[h][i];
                if (lane == 0)
                    parts_ml[warp][h] = make_float2(m[h], l[h]);
            }
        }
        __syncthreads();
#pragma unroll
        for (int n = 0; n < MINE; n++) {
            uint32_t at = threadIdx.x + n * WARPS * 32, h = at / DIM, i = at % DIM;
            if (h >= heads || i >= dim)
                continue;
            float2 ml = parts_ml[0][h];
            float x = parts[0][h][i], a, b;
            for (int w = 1; w < WARPS; w++) {
                fold(ml.x, ml.y, parts_ml[w][h].x, parts_ml[w][h].y, a, b);
                x = weigh(x, a, parts[w][h][i], b);
            }
            if (p.splits > 1) {
                uint64_t to = ((uint64_t)row * p.heads + first_head + h) * p.splits + split;
                ((float *)p.partial)[to * dim + i] = x;
                if (i == 0)
                    ((float2 *)p.partial_ml)[to] = ml;
            } else if (split == 0) {
                result[n] = x;
                result_m[n] = ml.x;
                result_l[n] = ml.y;
            } else {
                fold(result_m[n], result_l[n], ml.x, ml.y, a, b);
                result[n] = weigh(result[n], a, x, b);
            }
        }
    }
    if (p.splits > 1) {
        __shared__ bool last;
        __threadfence(); // the parts before the count
        __syncthreads();
        if (threadIdx.x == 0) {
            uint32_t *count = (uint32_t *)p.count + row * gridDim.y + blockIdx.y;
            last = atomicAdd(count, 1) + 1 == all;
            if (last)
                *count = 0; // for the next step
        }
        __syncthreads();
        if (!last)
            return;
        __threadfence();
#pragma unroll
        for (int n = 0; n < MINE; n++) {
            uint32_t at = threadIdx.x + n * WARPS * 32, h = at / DIM, i = at % DIM;
            if (h >= heads || i >= dim)
                continue;
            uint64_t from = ((uint64_t)row * p.heads + first_head + h) * p.splits;
            const float2 *ml = (const float2 *)p.partial_ml + from;
            const float *x = (const float *)p.partial + from * dim + i;
            float2 first = __ldcg(ml);
            result[n] = __ldcg(x);
            result_m[n] = first.x;
            result_l[n] = first.y;
#pragma unroll 4
            for (uint32_t s = 1; s < all; s++) {
                float2 next = __ldcg(ml + s);
                float y = __ldcg(x + (uint64_t)s * dim), a, b;
                fold(result_m[n], result_l[n], next.x, next.y, a, b);
                result[n] = weigh(result[n], a, y, b);
            }
        }
    }
#pragma unroll
    for (int n = 0; n < MINE; n++) {
        uint32_t at = threadIdx.x + n * WARPS * 32, h = at / DIM, i = at % DIM;
        if (h < heads && i < dim)
            ((float *)p.out)[((uint64_t)row * p.heads + first_head + h) * dim + i] = result[n] / result_l[n];
    }
}

#define ATTEND(lanes, heads) \
    KIGO_KERNEL(attend_##lanes##x##heads, AttendParams, __launch_bounds__(WARPS * 32)) { attend<lanes, heads, false>(p); } \
    KIGO_KERNEL(attend_append_##lanes##x##heads, AttendParams, __launch_bounds__(WARPS * 32)) { attend<lanes, heads, true>(p); }
#define ATTEND_HEADS(lanes) ATTEND(lanes, 1) ATTEND(lanes, 2) ATTEND(lanes, 4)
ATTEND_HEADS(4)
ATTEND_HEADS(8)
ATTEND_HEADS(16)
ATTEND_HEADS(32)
