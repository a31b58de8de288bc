// Rotation of queries and keys, the KV cache, and attention over it.
#include "attend_many.cuh"
#include "attend_one.cuh"
#include "turn.cuh"

enum Kind { QUERY, KEY, VALUE, NONE };

// Which head number n of all a row has is: queries, then keys, then values.
struct Place {
    Kind kind;
    uint32_t head;

    __device__ __forceinline__ Place(const AppendParams &p, uint32_t n) {
        const uint32_t kv = p.cache.kv_heads;
        kind = n < p.heads ? QUERY : n < p.heads + kv ? KEY : n < p.heads + 2 * kv ? VALUE : NONE;
        head = kind == QUERY ? n : kind == KEY ? n - p.heads : n - p.heads - kv;
    }
    // Its number among those of all rows.
    __device__ __forceinline__ uint64_t vector(const AppendParams &p, uint32_t row) const {
        return (uint64_t)row * (kind == QUERY ? p.heads : p.cache.kv_heads) + head;
    }
};

// Grid: (heads and twice the KV heads, kAppendHeads of them a block; rows). A thread
// has the same element of all its heads: rotated, or copied. The angles of a row are
// those of its position.
KIGO_KERNEL(append, AppendParams) {
    let_next_start();
    wait_for_previous();
    const uint32_t row = blockIdx.y, dim = p.cache.head_dim;
    const uint32_t position = ((const int32_t *)p.positions)[row], slot = position % p.cache.block_size;
    const int32_t *table = (const int32_t *)p.tables + ((const int32_t *)p.table_of)[row];
    const uint64_t block = table[position / p.cache.block_size];
    const float2 *angles = (const float2 *)p.angles + (uint64_t)row * (p.dims / 2);
    for (uint32_t i = threadIdx.x; i < dim; i += blockDim.x) {
        const Turn turn(i, p.dims, p.halves, angles);
        float y[kAppendHeads]; // all are on their way before the first is stored
#pragma unroll
        for (uint32_t n = 0; n < kAppendHeads; n++) {
            const Place to(p, blockIdx.x * kAppendHeads + n);
            const float *x = (const float *)(to.kind == QUERY ? p.q : to.kind == KEY ? p.k : p.v) + to.vector(p, row) * dim;
            y[n] = to.kind == NONE ? 0 : to.kind == VALUE ? x[i] : turn.of(x);
        }
#pragma unroll
        for (uint32_t n = 0; n < kAppendHeads; n++) {
            const Place to(p, blockIdx.x * kAppendHeads + n);
            if (to.kind == NONE)
                continue;
            if (to.kind != VALUE)
                ((float *)(to.kind == QUERY ? p.q_out : p.k_out))[to.vector(p, row) * dim + i] = y[n];
            if (to.kind != QUERY)
                ((uint16_t *)(to.kind == KEY ? p.cache.keys : p.cache.values))[((block * p.cache.kv_heads + to.head) * p.cache.block_size + slot) * dim + i] = float_to_half(y[n]);
        }
    }
}

// By the largest head that they take. attend_append does the work of append as well.
#define ATTEND(dim) \
    KIGO_KERNEL(attend_one_##dim, AttendParams, __launch_bounds__(MOST_TEAMS * ONE_THREADS, 1)) { attend_one<dim, false>(p); } \
    KIGO_KERNEL(attend_append_##dim, AttendParams, __launch_bounds__(MOST_TEAMS * ONE_THREADS, 1)) { attend_one<dim, true>(p); } \
    KIGO_KERNEL(attend_many_##dim, AttendParams, __launch_bounds__(dim > 128 ? 256 : 512, 1)) { attend_many<dim>(p); }
ATTEND(32)
ATTEND(64)
ATTEND(96)
ATTEND(128)
ATTEND(256)
