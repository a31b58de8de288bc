// Rotation of queries and keys, the KV cache, and attention over it.
#include "attend_many.cuh"
#include "attend_one.cuh"

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

// By the largest head that they take. attend_append does the work of append as well.
#define ATTEND(dim) \
    KIGO_KERNEL(attend_one_##dim, AttendParams, __launch_bounds__(ONE_THREADS, 2)) { attend_one<dim, false>(p); } \
    KIGO_KERNEL(attend_append_##dim, AttendParams, __launch_bounds__(ONE_THREADS, 2)) { attend_one<dim, true>(p); } \
    KIGO_KERNEL(attend_many_##dim, AttendParams, __launch_bounds__(256, 1)) { attend_many<dim>(p); }
ATTEND(32)
ATTEND(64)
ATTEND(96)
ATTEND(128)
ATTEND(256)
