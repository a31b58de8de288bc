// Where a byte of a tensor is on the device.
//
// In a file, a row of a quantized matrix is a run of blocks of 18 to 210 bytes
// that mix scales and quants; nothing is aligned. On the device each kind of
// byte has a plane of its own. No byte changes: the planes are a permutation of
// the file's bytes with zeros where rows or columns are filled up, so the hash
// of the file can be computed from them.
//
// In a plane of fragments, the 32-byte units of 16 rows make a record of 512
// bytes, one 16-byte load for each lane of a warp, four words of rows l/4 and
// l/4 + 8. Of packed weights, lane l has first two of the former, bytes 4*(l%4) ... + 3
// of both 16-byte parts of the unit, and then those of the latter. Of 16-bit weights,
// where k = 4*(l%4) ... + 3 of 16 are two words, 0 and 2 of them and 1 and 3, the rows
// alternate: the words are in the order of an mma's operand, and a load can put them where
// it reads.
//
// In other planes the units of rows r and r + 8 of 16 stand side by side, because
// the lanes that work on one of them work on the other, too.
#pragma once
#include "device.cuh"

// Where byte j of a block of a row is, in a tensor that has planes.
__device__ __forceinline__ uint64_t locate_in_block(const Layout &l, uint32_t row, uint32_t block, uint32_t j) {
    uint32_t s = 0;
    while (s + 1 < l.segments && j >= l.segment[s + 1].start)
        s++;
    const Segment &seg = l.segment[s];
    const Plane &p = l.plane[seg.plane];
    uint32_t at = block * seg.bytes + (j - seg.start);
    uint32_t unit = at >> p.shift, in = at & (p.unit - 1), r = row & 15, inner;
    if (p.piece) {
        const uint32_t half = r >> 3; // of the rows
        uint32_t lane = (r & 7) * 4, word, byte;
        if (p.piece == 8) {
            const uint32_t n = in >> 1 & 3; // of the lane's k
            lane += in >> 3;
            word = (n & 1) * 2 + half;
            byte = (n & 2) + (in & 1);
        } else {
            lane += in >> 2 & 3;
            word = half * 2 + (in >> 4);
            byte = in & 3;
        }
        inner = lane * 16 + word * 4 + byte;
    } else {
        inner = ((r & 7) * 2 + (r >> 3)) * p.unit + in;
    }
    return l.base + p.offset + (((uint64_t)(row >> 4) * p.units + unit) << (p.shift + 4)) + inner;
}

__device__ __forceinline__ uint64_t locate(const Layout &l, uint32_t row, uint32_t byte) {
    if (l.segments == 0)
        return l.base + (uint64_t)row * l.row_bytes + byte;
    uint32_t block = byte / l.block_bytes;
    return locate_in_block(l, row, block, byte - block * l.block_bytes);
}

// A call and not inlined: dequantization has dozens of them and is not what
// anybody waits for.
__device__ __noinline__ uint32_t byte_at(const Layout &l, uint32_t row, uint32_t byte) { return *(const uint8_t *)locate(l, row, byte); }

// The bytes of one block.
struct Block {
    const Layout &layout;
    uint32_t row, start;

    __device__ uint32_t operator[](uint32_t j) const { return byte_at(layout, row, start + j); }
    __device__ float half_at(uint32_t j) const { return half_to_float((uint16_t)((*this)[j] | (*this)[j + 1] << 8)); }
};
