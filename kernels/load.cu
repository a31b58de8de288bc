// Bytes of a file into planes, the hash of a file out of them, and the largest scale.
#include "layout.cuh"

// Moves two bytes a thread: every block and every part of one is even.
KIGO_KERNEL(repack, RepackParams) {
    const Layout &l = p.layout;
    uint32_t first_row = p.first / l.row_bytes, first_byte = p.first % l.row_bytes;
    uint64_t step = (uint64_t)gridDim.x * blockDim.x * 2;
    for (uint64_t i = (blockIdx.x * (uint64_t)blockDim.x + threadIdx.x) * 2; i < p.bytes; i += step) {
        uint32_t at = first_byte + (uint32_t)i, row = at / l.row_bytes; // a piece is far below 4 GiB
        *(uint16_t *)locate(l, first_row + row, at - row * l.row_bytes) = *(const uint16_t *)(p.from + i);
    }
}

__device__ __forceinline__ uint64_t mix(uint64_t x) {
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ x >> 27) * 0x94d049bb133111ebull;
    return x ^ x >> 31;
}

// The word at a byte of the file, its 16-bit parts gathered from the planes. What is
// beyond the tensor is 0.
__device__ __forceinline__ uint64_t gather(const Layout &l, uint64_t at) {
    uint64_t row = at / l.row_bytes;
    uint32_t byte = (uint32_t)(at - row * l.row_bytes);
    if (l.row_bytes % 8 == 0 && l.segments == 0)
        return *(const uint64_t *)locate(l, (uint32_t)row, byte);
    if (l.row_bytes % 8 == 0 && l.plane[0].piece == 8) { // a lane's two words of a row: 0 and 2, 1 and 3
        const uint32_t *piece = (const uint32_t *)locate(l, (uint32_t)row, byte);
        return __byte_perm(piece[0], piece[2], 0x5410) | (uint64_t)__byte_perm(piece[0], piece[2], 0x7632) << 32;
    }
    uint64_t word = 0;
    if (l.segments == 0) {
        for (int i = 0; i < 4 && at + 2 * i < l.size; i++)
            word |= (uint64_t) * (const uint16_t *)(l.base + at + 2 * i) << (16 * i);
        return word;
    }
    uint32_t r = (uint32_t)row, block = byte / l.block_bytes, j = byte - block * l.block_bytes, blocks = l.cols / l.block_size;
    for (int i = 0; i < 4 && at + 2 * i < l.size; i++) {
        word |= (uint64_t) * (const uint16_t *)locate_in_block(l, r, block, j) << (16 * i);
        j += 2;
        if (j == l.block_bytes) {
            j = 0;
            if (++block == blocks) {
                block = 0;
                r++;
            }
        }
    }
    return word;
}

// The hash of package device (device.Hash), of the tensor's bytes in the file's
// order. A thread takes one 8-byte word at a time.
KIGO_KERNEL(hash_tensor, HashParams) {
    const Layout &l = p.layout;
    uint64_t sum = 0, words = (l.size + 7) / 8, step = (uint64_t)gridDim.x * blockDim.x;
    for (uint64_t w = blockIdx.x * (uint64_t)blockDim.x + threadIdx.x; w < words; w += step)
        sum += mix(gather(l, w * 8) + w * 0x9e3779b97f4a7c15ull);
    for (int d = 16; d; d >>= 1)
        sum += __shfl_xor_sync(~0u, sum, d);
    if (threadIdx.x % 32 == 0)
        atomicAdd((unsigned long long *)p.sum, (unsigned long long)sum); // of integers: any order gives the same
}

// Of all of a tensor's blocks, a thread each.
KIGO_KERNEL(largest_scale, LargestScaleParams) {
    const uint32_t blocks = p.layout.row_bytes / p.layout.block_bytes;
    const uint64_t all = p.layout.size / p.layout.block_bytes, step = (uint64_t)gridDim.x * blockDim.x;
    float most = 0;
    for (uint64_t i = blockIdx.x * (uint64_t)blockDim.x + threadIdx.x; i < all; i += step) {
        const uint32_t row = (uint32_t)(i / blocks), n = (uint32_t)(i - (uint64_t)row * blocks);
        for (int j = 0; j < 2; j++) {
            const float v = fabsf(half_to_float(*(const uint16_t *)locate_in_block(p.layout, row, n, p.at[j])) * p.times[j]);
            most = v < __int_as_float(0x7f800000) ? fmaxf(most, v) : most; // a NaN is not less
        }
    }
    const uint32_t bits = __reduce_max_sync(~0u, __float_as_uint(most)); // in the order of the numbers
    if (threadIdx.x % 32 == 0)
        atomicMax((uint32_t *)p.out, bits);
}
