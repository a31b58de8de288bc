// What a step begins with: embeddings of its tokens, angles of its positions;
// and dequantization, which embeddings are made of.
#include "layout.cuh"

// GGML's type numbers.
enum { F32 = 0, F16 = 1, Q4_0 = 2, Q4_1 = 3, Q5_0 = 6, Q5_1 = 7, Q8_0 = 8, Q4_K = 12, Q5_K = 13, Q6_K = 14, BF16 = 30 };

// Scale and minimum of group g of Q4_K and Q5_K: 6 bits each, packed in the 12
// bytes from byte 4 of the block on.
__device__ __forceinline__ void group_scale(const Block &b, uint32_t g, float *scale, float *low) {
    uint32_t s, m;
    if (g < 4) {
        s = b[4 + g] & 63;
        m = b[8 + g] & 63;
    } else {
        s = (b[8 + g] & 15) | b[g] >> 6 << 4;
        m = b[8 + g] >> 4 | b[4 + g] >> 6 << 4;
    }
    *scale = __fmul_rn(b.half_at(0), (float)s);
    *low = __fmul_rn(b.half_at(2), (float)m);
}

// One value, with the roundings of package quant: products and sums are rounded
// one by one. NaNs keep no payload.
__device__ float dequantized(const Layout &l, uint32_t row, uint32_t col) {
    uint32_t n = col / l.block_size, i = col - n * l.block_size;
    Block b = {l, row, n * l.block_bytes};
    switch (l.format) {
    case F32:
        return *(const float *)locate(l, row, col * 4);
    case F16:
        return b.half_at(0);
    case BF16:
        return brain_to_float((uint16_t)(b[0] | b[1] << 8));
    case Q4_0:
        return __fmul_rn(b.half_at(0), (float)((int)(b[2 + i % 16] >> i / 16 * 4 & 15) - 8));
    case Q4_1:
        return __fadd_rn(__fmul_rn(b.half_at(0), (float)(b[4 + i % 16] >> i / 16 * 4 & 15)), b.half_at(2));
    case Q5_0: {
        uint32_t q = (b[6 + i % 16] >> i / 16 * 4 & 15) | (b[2 + i / 8] >> i % 8 & 1) << 4;
        return __fmul_rn(b.half_at(0), (float)((int)q - 16));
    }
    case Q5_1: {
        uint32_t q = (b[8 + i % 16] >> i / 16 * 4 & 15) | (b[4 + i / 8] >> i % 8 & 1) << 4;
        return __fadd_rn(__fmul_rn(b.half_at(0), (float)q), b.half_at(2));
    }
    case Q8_0:
        return __fmul_rn(b.half_at(0), (float)(int8_t)b[2 + i]);
    case Q4_K: {
        float scale, low;
        group_scale(b, i / 32, &scale, &low);
        return __fsub_rn(__fmul_rn(scale, (float)(b[16 + i / 64 * 32 + i % 32] >> i / 32 % 2 * 4 & 15)), low);
    }
    case Q5_K: {
        float scale, low;
        group_scale(b, i / 32, &scale, &low);
        uint32_t q = (b[48 + i / 64 * 32 + i % 32] >> i / 32 % 2 * 4 & 15) | (b[16 + i % 32] >> i / 32 & 1) << 4;
        return __fsub_rn(__fmul_rn(scale, (float)q), low);
    }
    case Q6_K: {
        uint32_t half = i / 128, r = i / 32 % 4, c = i % 32;
        uint32_t q = (b[half * 64 + r % 2 * 32 + c] >> r / 2 * 4 & 15) | (b[128 + half * 32 + c] >> r * 2 & 3) << 4;
        return __fmul_rn(__fmul_rn(b.half_at(208), (float)(int8_t)b[192 + i / 16]), (float)((int)q - 32));
    }
    }
    return __int_as_float(0x7fffffff); // the host knows every format of the table
}

KIGO_KERNEL(dequantize, DequantizeParams) {
    uint64_t step = (uint64_t)gridDim.x * blockDim.x;
    for (uint64_t i = blockIdx.x * (uint64_t)blockDim.x + threadIdx.x; i < p.count; i += step) {
        uint64_t at = p.first + i, row = at / p.layout.cols;
        ((float *)p.out)[i] = dequantized(p.layout, (uint32_t)row, (uint32_t)(at - row * p.layout.cols));
    }
}

// The token that a rank names, the largest logit's or one that was drawn, is in the low half, inverted (see ranked in project.cuh).
// Where nothing was ranked, or only what is no number, it may be any: token 0 then, whose
// results nobody uses.
__device__ __forceinline__ uint32_t token_of(const EmbedParams &p, uint32_t row) {
    int32_t token = ((const int32_t *)p.tokens)[row];
    uint32_t id = token >= 0 ? (uint32_t)token : ~(uint32_t)((const uint64_t *)p.previous)[-1 - token];
    return id < p.vocab ? id : 0;
}

// Cosine and sine of position * frequency, in double: at position 30,000 a
// float's angle would be off by 1e-3.
__device__ __forceinline__ void turn(const AnglesParams &p, uint32_t pair, uint32_t row) {
    if (pair >= p.pairs)
        return;
    double s, c;
    sincos((double)((const int32_t *)p.positions)[row] * ((const double *)p.freq)[pair], &s, &c);
    ((float2 *)p.out)[(uint64_t)row * p.pairs + pair] = make_float2((float)c, (float)s);
}

// The angles as well, which want no kernel of their own. Grid: (blocks + pairs / threads, rows).
KIGO_KERNEL(embed, EmbedParams) {
    let_next_start();
    wait_for_previous();
    uint32_t col = blockIdx.x * blockDim.x + threadIdx.x, row = blockIdx.y;
    if (blockIdx.x >= p.blocks) {
        turn(p.angles, col - p.blocks * blockDim.x, row);
        return;
    }
    if (col == 0 && row < p.clears)
        ((uint64_t *)p.clear)[row] = 0;
    if (col < p.table.cols)
        ((float *)p.out)[(uint64_t)row * p.table.cols + col] = dequantized(p.table, token_of(p, row), col);
}

// Where a model has a second kind of angles. Grid: (pairs / threads, rows).
KIGO_KERNEL(angles, AnglesParams) {
    let_next_start();
    wait_for_previous();
    turn(p, blockIdx.x * blockDim.x + threadIdx.x, blockIdx.y);
}
