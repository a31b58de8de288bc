// Attention of a row that is the only one of its sequence in a step, as when tokens are
// generated; also of a few rows, each for itself.
#pragma once
#include "attention.cuh"
#include "turn.cuh"

static constexpr uint32_t ONE_WARPS = 8, ONE_THREADS = ONE_WARPS * 32; // of a team
static constexpr uint32_t MOST_TEAMS = 2, MOST_CLUSTER = 8;

// Where the cluster's first block has what is at `at` in the shared memory here.
template <class T> __device__ __forceinline__ T *of_first_block(T *at) {
#if __CUDA_ARCH__ >= 900
    asm("mapa.u64 %0, %0, 0;" : "+l"(at));
#endif
    return at;
}

// One row of up to eight heads that share a KV head. A team of eight warps shares a unit's
// positions for the scores and a head's elements for the values. Keys and values are
// operand A, queries and weights B: its eight columns are the heads.
//
// What there is to wait for is the time from the queries on. So by then all is in registers
// that can be: where things are, the first unit's keys, and, before their weights are
// known, its values.
//
// With FUSED, which is for steps with one row of each sequence, the block does
// the work of append for its row on the way. All keys and values before the row's own
// were written by earlier steps then, and may be asked for while the kernel before is
// still running.
//
// A block has one team, which may walk over all units of its row, or two with a unit
// each. Where a row's units are spread, one block folds them: the only one; or, of up to
// eight that are a cluster, the first, into whose shared memory the others store their
// results; or else the one that is done last, which count says, and reads what all have
// left in memory: then a block must have one team.
//
// Grid: (splits / teams, kv_heads * parts of 8 heads, rows). Dynamic shared memory, for
// each team: keys and values of a unit, then what Team has.
template <int DIM, bool FUSED> struct One {
    using U = Unit<DIM>;
    static constexpr uint32_t HEADS = 8;
    static constexpr int GROUPS = U::POSITIONS / 16;        // of a unit's positions
    static constexpr int PARTS = DIM > 128 ? DIM / 128 : 1; // of 16 elements of a value, that a warp has
    static constexpr bool KEYS_KEPT = DIM <= 128;           // for more there are too few registers
    static constexpr uint32_t BATCH = 32, LOADS = 16;       // units whose factors are found, and that are read, at a time

    struct Team {
        char queries[HEADS * U::ROW];
        char weights[U::POSITIONS * HEADS * 2];
        char own[2 * U::ROW]; // key and value of the row itself, until their unit is there
        uint64_t places[2][U::POSITIONS];
        float most[HEADS][ONE_WARPS]; // the largest scores that each warp has
    };
    struct Block {
        float2 sums[MOST_TEAMS * MOST_CLUSTER][HEADS]; // of units: m and l of each head
        bool last;
    };
    static constexpr uint32_t TEAM_BYTES = 2 * U::BYTES + sizeof(Team);
    static_assert(sizeof(Team) == 10 * U::ROW + 32 * U::POSITIONS + 256, "as in attention.go");

    // Who folds a row's units.
    enum Folding { ONE_TEAM, ONE_BLOCK, ONE_CLUSTER, LAST_BLOCK };

    const AttendParams &p;
    Block &block;
    char *const shared; // of the block's first team
    const uint32_t teams, team, thread;
    char *const keys, *const values;
    Team &s;
    uint32_t lane, warp, dim, kv_head, part, heads, first_head, length, units, begin, end;
    Rows row;
    const uint32_t own;                 // position of a key and value that are not in the cache
    const uint32_t my_head, my_element; // the lane's first, of two and of 2 * PARTS, 8 apart
    const bool has_scores, has_values;  // whether the warp makes such

    __device__ __forceinline__ One(const AttendParams &p, Block &block, char *shared)
        : p(p), block(block), shared(shared), teams(blockDim.x / ONE_THREADS), team(kept(threadIdx.x / ONE_THREADS)), thread(kept(threadIdx.x % ONE_THREADS)),
          keys(shared + team * TEAM_BYTES), values(keys + U::BYTES), s(*(Team *)(values + U::BYTES)), lane(thread % 32), warp(thread / 32),
          dim(p.cache.head_dim), row(p, blockIdx.z), own(FUSED ? row.position : ~0u), my_head(lane % 4 * 2), my_element(warp * PARTS * 16 + lane / 4),
          has_scores(GROUPS == ONE_WARPS || warp < GROUPS), has_values(DIM % 128 == 0 || warp * 16 < DIM) {
        const uint32_t group = p.heads / p.cache.kv_heads, parts = (group + HEADS - 1) / HEADS;
        part = blockIdx.y % parts;
        kv_head = blockIdx.y / parts;
        heads = min(HEADS, group - part * HEADS);
        first_head = kv_head * group + part * HEADS;
        length = row.position + 1;
        units = (length + U::POSITIONS - 1) / U::POSITIONS;
        begin = p.splits == 1 ? 0 : blockIdx.x * teams + team;
        end = p.splits == 1 ? units : begin + 1; // which a second team's may be beyond the last: nothing, then
    }

    __device__ __forceinline__ void wait_for_team() { asm volatile("bar.sync %0, %1;" ::"r"(team + 1), "n"(ONE_THREADS) : "memory"); }

    __device__ __forceinline__ void ask_keys(uint32_t unit) {
        copy_unit<DIM>(keys, p.cache.keys, s.places[unit % 2], unit * U::POSITIONS, length, dim, thread, ONE_THREADS, own);
    }
    __device__ __forceinline__ void ask_values(uint32_t unit) {
        copy_unit<DIM>(values, p.cache.values, s.places[unit % 2], unit * U::POSITIONS, length, dim, thread, ONE_THREADS, own);
    }
    __device__ __forceinline__ uint64_t place(uint32_t unit) const {
        return place_in_unit<DIM>(p.cache, row.table, kv_head, unit * U::POSITIONS, length, thread);
    }
    // The row's own key or value from where it waits for its unit, the first apart.
    __device__ __forceinline__ void put_own(char *to, uint32_t which, uint32_t unit) {
        if (FUSED && own / U::POSITIONS == unit && thread < DIM / 8)
            *(uint4 *)(to + own % U::POSITIONS * U::ROW + thread * 16) = *(const uint4 *)(s.own + which * U::ROW + thread * 16);
    }

    // Four elements of a query, or with FUSED of the row's own key or value.
    struct Piece {
        bool there, query; // beyond a head's elements are zeros
        FourTurned x;
        uint32_t to; // bytes from the block's shared memory
        uint2 *cached;

        __device__ __forceinline__ Piece(const One &o, uint32_t n) : Piece(o, o.p, n / (DIM / 4), n % (DIM / 4) * 4) {}
        __device__ __forceinline__ Piece(const One &o, const AttendParams &p, uint32_t h, uint32_t i)
            : there(i < o.dim), query(h < o.heads), x(head_at(o, h), there ? i : 0, FUSED && there && h <= o.heads ? p.dims : 0, p.halves, (const float2 *)p.angles + (uint64_t)o.row.row * (p.dims / 2)) {
            const bool value = h > o.heads, now = o.own / U::POSITIONS == o.begin;
            const char *at = query ? o.s.queries + h * U::ROW : now ? (value ? o.values : o.keys) + o.own % U::POSITIONS * U::ROW : o.s.own + (value ? U::ROW : 0);
            to = kept((uint32_t)(at + i * 2 - o.shared));
            cached = 0;
            if (FUSED && !query && there && o.part == 0)
                cached = (uint2 *)((uint16_t *)(value ? p.cache.values : p.cache.keys) + place_of(p.cache, o.row.table, o.kv_head, o.own) + i);
            cached = kept(cached);
        }
        static __device__ __forceinline__ const float *head_at(const One &o, uint32_t h) {
            const AttendParams &p = o.p;
            if (h < o.heads)
                return (const float *)p.q + ((uint64_t)o.row.row * p.heads + o.first_head + h) * o.dim;
            return (const float *)(h > o.heads ? p.v : p.k) + ((uint64_t)o.row.row * p.cache.kv_heads + o.kv_head) * o.dim;
        }
        __device__ __forceinline__ void load() {
            if (FUSED)
                x.load();
            else
                x.x = __ldcg(x.own);
        }
        __device__ __forceinline__ void store(char *shared, float scale) const {
            float4 y = FUSED ? x.value() : x.x;
            if (query)
                y = make_float4(__fmul_rn(y.x, scale), __fmul_rn(y.y, scale), __fmul_rn(y.z, scale), __fmul_rn(y.w, scale));
            const uint2 packed = there ? make_uint2(pack_half(y.x, y.y), pack_half(y.z, y.w)) : make_uint2(0, 0);
            *(uint2 *)(shared + to) = packed;
            if (cached)
                __stcg(cached, packed);
        }
    };

    // Where a lane reads and writes: bytes from the block's shared memory.
    struct At {
        uint32_t keys, values, queries, weights, my_weights, largest, most;

        __device__ __forceinline__ explicit At(const One &o)
            : keys(of(o, rows_of_a(o.keys + o.warp * 16 * U::ROW, U::ROW, o.lane))), values(of(o, keys_of_b(o.values, U::ROW, o.lane) + o.warp * PARTS * 32)),
              queries(of(o, o.s.queries + o.lane % 8 * U::ROW + o.lane / 8 * 16)), weights(of(o, o.s.weights + o.lane * 16)),
              my_weights(of(o, o.s.weights + (o.warp * 16 + o.lane / 4) * 16 + o.my_head * 2)), largest(of(o, (const char *)&o.s.most[o.my_head])),
              most(of(o, (const char *)&o.s.most[o.my_head + o.lane / 4 % 2][o.warp])) {}
        static __device__ __forceinline__ uint32_t of(const One &o, const char *at) { return kept((uint32_t)(at - o.shared)); }
    };

    // The keys of the warp's 16 positions, of so many times 16 elements.
    template <int COUNT> __device__ __forceinline__ void load_keys(uint32_t (*k)[4], uint32_t at) const {
#pragma unroll
        for (int c = 0; c < COUNT; c++)
            load_matrices(k[c], shared + at + c * 32);
    }
    // The values of the warp's elements, at all positions.
    __device__ __forceinline__ void load_values(uint32_t (*v)[PARTS][4], uint32_t at) const {
#pragma unroll
        for (int g = 0; g < GROUPS; g++)
#pragma unroll
            for (int n = 0; n < PARTS; n++)
                load_transposed(v[g][n], shared + at + g * 16 * U::ROW + n * 32);
    }

    // The scores of the warp's 16 positions: of the lane's two, position lane/4 and that plus 8,
    // for its two heads each. From the first of them on so many are there as left says.
    __device__ __forceinline__ void scores(float *x, const uint32_t (*k)[4], const At &at, int left) {
        x[0] = x[1] = x[2] = x[3] = 0;
#pragma unroll
        for (int c = 0; c < DIM / 16; c += 2) {
            uint32_t q[4], near[2][4];
            load_matrices(q, shared + at.queries + c * 32);
            if (!KEYS_KEPT)
                load_keys<2>(near, at.keys + c * 32);
            mma(x, KEYS_KEPT ? k[c] : near[0], make_uint2(q[0], q[1]));
            mma(x, KEYS_KEPT ? k[c + 1] : near[1], make_uint2(q[2], q[3]));
        }
#pragma unroll
        for (int i = 0; i < 4; i++)
            if (left <= i / 2 * 8)
                x[i] = MINUS_INFINITY;
        // Half of the lanes go on with the first head, the others with the second.
        const float m0 = fmaxf(x[0], x[2]), m1 = fmaxf(x[1], x[3]);
        const bool second = lane & 4;
        float m = fmaxf(second ? m1 : m0, __shfl_xor_sync(~0u, second ? m0 : m1, 4));
        m = fmaxf(m, __shfl_xor_sync(~0u, m, 8));
        m = fmaxf(m, __shfl_xor_sync(~0u, m, 16));
        if (lane < 8)
            *(float *)(shared + at.most) = m;
    }

    // The largest score of a head in the unit.
    __device__ __forceinline__ float largest(uint32_t at) const {
        float m = MINUS_INFINITY;
#pragma unroll
        for (int w = 0; w < GROUPS; w += 4) {
            const float4 v = *(const float4 *)(shared + at + w * 4);
            m = fmaxf(m, fmaxf(fmaxf(v.x, v.y), fmaxf(v.z, v.w)));
        }
        return m;
    }

    __device__ __forceinline__ void run() {
        if (!FUSED) {
            let_next_start();
            wait_for_previous();
        }
        if (p.splits > 1 && begin >= units && (team == 0 || units == 1)) // a second team stays to fold
            return;
        if (thread < U::POSITIONS)
            s.places[begin % 2][thread] = place(begin);
        wait_for_team();
        ask_keys(begin);
        ask_values(begin);

        const At at(*this);
        const uint32_t folding = kept((uint32_t)(p.splits == 1 || units == 1 ? ONE_TEAM : gridDim.x == 1 ? ONE_BLOCK : p.cluster ? ONE_CLUSTER : LAST_BLOCK));
        float *const out = kept((float *)p.out + ((uint64_t)row.row * p.heads + first_head) * dim);
        const uint32_t own_unit = own / U::POSITIONS, pieces = kept((heads + (FUSED && own_unit >= begin && own_unit < end ? 2 : 0)) * (DIM / 4));
        const bool has_own = FUSED && own / 16 == begin * GROUPS + warp; // of the warp's keys
        const float scale = kept(score_scale(p));
        uint32_t k[DIM / 16][4];
        // The first piece is on its way while the keys are waited for.
#pragma unroll 1
        for (uint32_t n = thread;;) {
            Piece piece(*this, n);
            if (FUSED && n == thread) {
                let_next_start();
                wait_for_previous();
            }
            if (n < pieces)
                piece.load();
            if (n == thread) {
                copy_wait<1>();
                wait_for_team(); // the keys are there
                if (KEYS_KEPT && has_scores && !has_own)
                    load_keys<DIM / 16>(k, at.keys);
            }
            if (n < pieces)
                piece.store(shared, scale);
            n += ONE_THREADS;
            if (n >= pieces)
                break;
        }
        copy_wait<0>();
        wait_for_team(); // queries and values are there
        if (KEYS_KEPT && has_scores && has_own)
            load_keys<DIM / 16>(k, at.keys);
        if (end - begin == 1)
            attend<false>(at, folding, k, out);
        else
            attend<true>(at, folding, k, out);
    }

    // The row's attention to its units, to the end. k: the first one's keys. Most have one
    // unit, and code of their own, without what comes between units.
    template <bool WALK> __device__ __forceinline__ void attend(const At &at, uint32_t folding, uint32_t (*k)[4], float *out) {
        int left = (int)kept(length - begin * U::POSITIONS - warp * 16 - lane / 4);
        float m[2] = {MINUS_INFINITY, MINUS_INFINITY}, l[2] = {0, 0}, o[PARTS][4] = {};
#pragma unroll 1
        for (uint32_t unit = begin;; unit++) {
            const bool first = !WALK || unit == begin, last = !WALK || unit + 1 == end;
            if (!first) {
                copy_wait<0>();
                wait_for_team(); // the keys are there; all have done with the last values
                ask_values(unit);
                put_own(values, 1, unit);
                if (KEYS_KEPT && has_scores)
                    load_keys<DIM / 16>(k, at.keys);
            }
            float x[4];
            if (has_scores)
                scores(x, k, at, left);
            left -= U::POSITIONS;
            uint32_t v[GROUPS][PARTS][4];
            if (has_values && first)
                load_values(v, at.values);
            if (!last && thread < U::POSITIONS)
                s.places[(unit + 1) % 2][thread] = place(unit + 1);
            wait_for_team(); // the largest scores are there; all have done with the keys
            if (!WALK && folding == ONE_CLUSTER)
                cluster_arrive();
            if (!last) {
                ask_keys(unit + 1);
                put_own(keys, 0, unit + 1);
                copy_wait<1>();
            } else if (!first) {
                copy_wait<0>();
            }
            const float m2[2] = {largest(at.largest), largest(at.largest + sizeof(s.most[0]))};
            if (has_scores) {
                uint32_t w[2];
                to_weights(w, x, m2);
                *(uint32_t *)(shared + at.my_weights) = w[0];
                *(uint32_t *)(shared + at.my_weights + 8 * 16) = w[1];
            }
            wait_for_team(); // the weights and the values are there
            if (has_values && !first)
                load_values(v, at.values);
            float l2[4] = {}, o2[PARTS][4] = {};
            if (has_values) {
                const uint32_t ones[4] = {0x3c003c00, 0x3c003c00, 0x3c003c00, 0x3c003c00};
#pragma unroll
                for (int g = 0; g < GROUPS; g += 2) {
                    uint32_t w[4];
                    load_transposed(w, shared + at.weights + g * 16 * 16);
#pragma unroll
                    for (int i = 0; i < 2; i++) {
                        const uint2 b = make_uint2(w[2 * i], w[2 * i + 1]);
                        mma(l2, ones, b);
#pragma unroll
                        for (int n = 0; n < PARTS; n++)
                            mma(o2[n], v[g + i][n], b);
                    }
                }
            }
            if (!WALK && folding != ONE_TEAM) {
                fold_with_others(folding, m2, l2, o2, out);
                return;
            }
            float a[2], b[2];
#pragma unroll
            for (int j = 0; j < 2; j++)
                fold(m[j], l[j], m2[j], l2[j], a[j], b[j]);
#pragma unroll
            for (int i = 0; i < PARTS * 4; i++)
                o[i / 4][i % 4] = weigh(o[i / 4][i % 4], a[i % 2], o2[i / 4][i % 4], b[i % 2]);
            if (last)
                break;
        }
        const float inverse[2] = {__frcp_rn(l[0]), __frcp_rn(l[1])};
#pragma unroll
        for (int i = 0; i < PARTS * 4; i++) {
            const uint32_t h = my_head + i % 2, e = my_element + i / 2 * 8;
            if (h < heads && e < dim)
                out[h * dim + e] = __fmul_rn(o[i / 4][i % 4], inverse[i % 2]);
        }
    }

    // The end of a row's attention to one of its units.
    __device__ __forceinline__ void fold_with_others(uint32_t folding, const float *m, const float *l, const float (*o)[4], float *out) {
        if (folding == ONE_BLOCK) {
            leave(block.sums[team], 1, (float *)keys, DIM, m, l, o);
            __syncthreads();
            fold_here(out);
        } else if (folding == ONE_CLUSTER) {
            cluster_wait(); // the first block has done with its keys
            leave(of_first_block(block.sums[begin]), 1, of_first_block(result_here(begin)), DIM, m, l, o);
            cluster_arrive();
            cluster_wait();
            if (blockIdx.x == 0)
                fold_here(out);
        } else {
            leave((float2 *)p.partial_ml + result_of(0) + begin, p.splits, (float *)p.partial + (uint64_t)(result_of(0) + begin) * dim, p.splits * dim, m, l, o);
            if (is_last())
                fold_all(out);
        }
    }

    // The weights of two positions, for two heads each.
    static __device__ __forceinline__ void to_weights(uint32_t *w, const float *x, const float *m) {
        const float top[2] = {reference(m[0]), reference(m[1])};
#pragma unroll
        for (int i = 0; i < 2; i++)
            w[i] = pack_half(exp2_of(__fadd_rn(x[2 * i], -top[0])), exp2_of(__fadd_rn(x[2 * i + 1], -top[1])));
    }

    // Where the results of a head's units are in memory.
    __device__ __forceinline__ uint32_t result_of(uint32_t h) const { return (blockIdx.z * p.heads + first_head + h) * p.splits; }
    // Where those of a unit are in the shared memory of the block that folds: the teams' keys
    // are no longer needed.
    __device__ __forceinline__ float *result_here(uint32_t unit) const {
        const uint32_t second = unit & (teams - 1);
        return (float *)(shared + second * TEAM_BYTES) + (unit >> (teams - 1)) * heads * DIM;
    }

    // Leaves a unit's result for those who fold: m and l of each head, and sums, so far apart
    // from one head to the next.
    __device__ __forceinline__ void leave(float2 *ml, uint32_t ml_apart, float *sums, uint32_t apart, const float *m, const float *l, const float (*o)[4]) {
#pragma unroll
        for (int j = 0; j < 2; j++) {
            const uint32_t h = my_head + j;
            if (h >= heads)
                continue;
            if (thread < 4)
                ml[h * ml_apart] = make_float2(m[j], l[j]);
#pragma unroll
            for (int n = 0; n < 2 * PARTS; n++)
                if (my_element + n * 8 < dim)
                    sums[h * apart + my_element + n * 8] = o[n / 2][n % 2 * 2 + j];
        }
    }

    // Folds results that are in the block's shared memory, of two units or more.
    __device__ __forceinline__ void fold_here(float *out) {
#pragma unroll 1
        for (uint32_t n = threadIdx.x; n < heads * (DIM / 2); n += blockDim.x) {
            const uint32_t h = n / (DIM / 2), e = n % (DIM / 2) * 2;
            const float2 *sums = &block.sums[0][h];
            float2 ml = *sums, x = ((const float2 *)shared)[n]; // a first unit is folded with nothing
#pragma unroll 1
            for (uint32_t u = 1; u < units; u++) {
                const float2 next_ml = sums[u * HEADS], next = ((const float2 *)result_here(u))[n];
                float a, b;
                fold(ml.x, ml.y, next_ml.x, next_ml.y, a, b);
                x = make_float2(weigh(x.x, a, next.x, b), weigh(x.y, a, next.y, b));
            }
            if (e < dim)
                put(out + h * dim + e, x.x, x.y, __frcp_rn(ml.y));
        }
    }

    // Writes two elements of a head's result.
    static __device__ __forceinline__ void put(float *to, float x, float y, float inverse) { *(float2 *)to = make_float2(__fmul_rn(x, inverse), __fmul_rn(y, inverse)); }

    __device__ __forceinline__ bool is_last() {
        __threadfence(); // the parts before the count
        __syncthreads();
        if (threadIdx.x == 0) {
            uint32_t *count = (uint32_t *)p.count + blockIdx.z * gridDim.y + blockIdx.y;
            block.last = (atomicAdd(count, 1) + 1) * teams >= units;
            if (block.last)
                *count = 0; // for the next step
        }
        __syncthreads();
        if (block.last)
            __threadfence();
        return block.last;
    }

    // Folds all units of the block's heads. The factors of a unit follow from the
    // largest score up to it, which a warp finds for 32 units at a time.
    __device__ __forceinline__ void fold_all(float *out) {
        float4(*factors)[BATCH] = (float4(*)[BATCH])shared; // by head: a, b and l of a unit
        float4 *sums = (float4 *)(shared + U::BYTES);       // of two elements so far: o, o and l
        float before = MINUS_INFINITY;
#pragma unroll 1
        for (uint32_t first = 0; first < units; first += BATCH) {
            __syncthreads(); // all have done with the last factors
            const uint32_t h = threadIdx.x / 32, unit = first + lane;
            if (h < heads) {
                float2 ml = make_float2(MINUS_INFINITY, 0);
                if (unit < units)
                    ml = __ldcg((const float2 *)p.partial_ml + result_of(h) + unit);
                float top = fmaxf(ml.x, before);
#pragma unroll
                for (int d = 1; d < 32; d <<= 1) {
                    const float other = __shfl_up_sync(~0u, top, d);
                    if (lane >= d)
                        top = fmaxf(top, other);
                }
                float last_top = __shfl_up_sync(~0u, top, 1);
                if (lane == 0)
                    last_top = before;
                before = __shfl_sync(~0u, top, 31);
                factors[h][lane] = make_float4(exp2_of(last_top - top), exp2_of(ml.x - top), ml.y, 0);
            }
            __syncthreads();
            const uint32_t count = min(BATCH, units - first);
#pragma unroll 1
            for (uint32_t n = threadIdx.x; n < heads * (DIM / 2); n += blockDim.x) {
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
                    put(out + h * dim + e, sum.x, sum.y, __frcp_rn(sum.z));
                }
            }
        }
    }
};

template <int DIM, bool FUSED> __device__ __forceinline__ void attend_one(const AttendParams &p) {
    extern __shared__ __align__(16) char shared[];
    __shared__ typename One<DIM, FUSED>::Block block;
    One<DIM, FUSED>(p, block, shared).run();
}
