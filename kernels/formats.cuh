// How each format's planes become operands of mma.
//
// A step is what a warp loads at once of 16 rows: 16 to 256 columns. Its work is
// given out as chunks of 16 columns, each with the fragment a (see mma) and, for
// quantized formats, a scale and an offset for the lane's two rows:
//
//    w = scale * q + offset
//
// The integers q go into the product as they are, unsigned. A byte with zeros
// above it, read as a half, is the subnormal q * 2^-24, exactly; the tensor cores
// take those at full speed. So unpacking is masks and byte moves, the products
// are exact, and the scales (times 2^24) meet the sums in float32. The offset
// meets the sum of the activations: sum(w*x) = scale * sum(q*x) + offset * sum(x).
//
// A sink receives the chunks of a step, numbered from 0, in a fixed order:
//
//    plain(chunk, a)                              16-bit weights
//    pair<OFFSET>(chunk, a, b, scale, offset)     32 columns with one scale
//    single(chunk, a, scale, offset)              16 columns with one scale
//
// UNROLL steps are on their way at a time in few, AT_ONCE in one, AHEAD in wide; BLOCKS of few,
// of 256 threads, should fit on a multiprocessor, which bounds the registers.
// scale[0] and offset[0] belong to row l/4, [1] to row l/4 + 8.
#pragma once
#include "device.cuh"

// Where a lane reads the planes of a tile of 16 rows. BYTES are what each plane
// has of a step; a format's at() adds what the lane skips. From there on, steps
// are at distances that the compiler knows.
struct Cursor {
    const char *plane[4];
};

template <class W> __device__ __forceinline__ Cursor cursor(const Matrix &m, uint32_t tile, uint32_t steps, uint32_t step, uint32_t lane) {
    const uint64_t n = (uint64_t)tile * steps + step;
    Cursor c;
#pragma unroll
    for (int i = 0; i < 4; i++)
        if (W::BYTES[i])
            c.plane[i] = (const char *)m.plane[i] + n * W::BYTES[i] + W::at(i, lane);
    return c;
}

template <class W> __device__ __forceinline__ void advance(Cursor &c, uint32_t steps) {
#pragma unroll
    for (int i = 0; i < 4; i++)
        if (W::BYTES[i])
            c.plane[i] += steps * W::BYTES[i];
}

__device__ __forceinline__ void bytes_to_fragment(uint32_t *a, uint32_t lo, uint32_t hi) {
    a[0] = __byte_perm(lo, 0, 0x4140);
    a[2] = __byte_perm(lo, 0, 0x4342);
    a[1] = __byte_perm(hi, 0, 0x4140);
    a[3] = __byte_perm(hi, 0, 0x4342);
}

#define SUBNORMAL 16777216.f // 2^24

struct WeightsF16 {
    static constexpr uint32_t BYTES[4] = {512, 0, 0, 0};
    __device__ __forceinline__ static uint32_t at(int plane, uint32_t lane) { return lane * 16; }
    static constexpr int CHUNKS = 1, UNROLL = 8, AT_ONCE = 8, BLOCKS = 2, AHEAD = 4;
    uint4 w;
    __device__ __forceinline__ void load(const Cursor &c, int step) { w = load_weights(c.plane[0] + step * 512); }
    __device__ __forceinline__ void fragment(uint32_t *a) const {
        a[0] = w.x;
        a[1] = w.y;
        a[2] = w.z;
        a[3] = w.w;
    }
    template <class S> __device__ __forceinline__ void give(S &sink, int) const {
        uint32_t a[4];
        fragment(a);
        sink.plain(0, a);
    }
};

// As float16: exact for magnitudes from 2^-14 to 65504, which is all that a
// model's weights are in practice; below, off by at most 2^-25; above, infinite.
struct WeightsBF16 : WeightsF16 {
    __device__ __forceinline__ static uint32_t convert(uint32_t w) {
        return pack_half(__uint_as_float(w << 16), __uint_as_float(w & 0xffff0000u));
    }
    __device__ __forceinline__ void fragment(uint32_t *a) const {
        a[0] = convert(w.x);
        a[1] = convert(w.y);
        a[2] = convert(w.z);
        a[3] = convert(w.w);
    }
    template <class S> __device__ __forceinline__ void give(S &sink, int) const {
        uint32_t a[4];
        fragment(a);
        sink.plain(0, a);
    }
};

struct WeightsQ8_0 {
    static constexpr uint32_t BYTES[4] = {512, 0, 32, 0};
    __device__ __forceinline__ static uint32_t at(int plane, uint32_t lane) { return plane == 0 ? lane * 16 : lane / 4 * 4; }
    static constexpr int CHUNKS = 2, UNROLL = 4, AT_ONCE = 8, BLOCKS = 3, AHEAD = 2;
    uint4 w;
    uint32_t d;
    __device__ __forceinline__ void load(const Cursor &c, int step) {
        w = load_weights(c.plane[0] + step * 512);
        d = load_weights1(c.plane[2] + step * 32);
    }
    template <class S> __device__ __forceinline__ void give(S &sink, int) const {
        const uint32_t flip = 0x80808080u; // q + 128 is unsigned
        float d0 = low_half(d), d1 = high_half(d);
        float scale[2] = {d0 * SUBNORMAL, d1 * SUBNORMAL}, offset[2] = {d0 * -128.f, d1 * -128.f};
        uint32_t a[4], b[4];
        bytes_to_fragment(a, w.x ^ flip, w.z ^ flip);
        bytes_to_fragment(b, w.y ^ flip, w.w ^ flip);
        sink.template pair<true>(0, a, b, scale, offset);
    }
};

// Two blocks of 32 values a step: the nibbles of one in the first word of a
// lane's row, of the other in the second.
struct Nibbles {
    static constexpr int CHUNKS = 4, UNROLL = 4, AT_ONCE = 8, BLOCKS = 2, AHEAD = 2;
    uint4 w;
    // Values of block n (0 or 1); high holds a fifth bit for each, or 0.
    __device__ __forceinline__ void fragments(uint32_t *a, uint32_t *b, int n, uint32_t high0, uint32_t high1, int lane) const {
        uint32_t w0 = n ? w.y : w.x, w1 = n ? w.w : w.z;
        uint32_t lo0 = w0 & 0x0f0f0f0fu, lo1 = w1 & 0x0f0f0f0fu, hi0 = w0 >> 4 & 0x0f0f0f0fu, hi1 = w1 >> 4 & 0x0f0f0f0fu;
        bytes_to_fragment(a, lo0 | spread(high0, lane), lo1 | spread(high1, lane));
        bytes_to_fragment(b, hi0 | spread(high0 >> 16, lane), hi1 | spread(high1 >> 16, lane));
    }
    // The bits of values 4*(lane%4) ... + 3, each as 16 in a byte.
    __device__ __forceinline__ static uint32_t spread(uint32_t bits, int lane) {
        return ((bits >> lane % 4 * 4 & 15) * 0x00204081u & 0x01010101u) << 4;
    }
};

struct WeightsQ4_0 : Nibbles {
    static constexpr uint32_t BYTES[4] = {512, 0, 64, 0};
    __device__ __forceinline__ static uint32_t at(int plane, uint32_t lane) { return plane == 0 ? lane * 16 : lane / 4 * 8; }
    uint2 d;
    __device__ __forceinline__ void load(const Cursor &c, int step) {
        w = load_weights(c.plane[0] + step * 512);
        d = load_weights2(c.plane[2] + step * 64);
    }
    template <class S> __device__ __forceinline__ void give(S &sink, int lane) const {
#pragma unroll
        for (int n = 0; n < 2; n++) {
            float d0 = n ? high_half(d.x) : low_half(d.x), d1 = n ? high_half(d.y) : low_half(d.y);
            float scale[2] = {d0 * SUBNORMAL, d1 * SUBNORMAL}, offset[2] = {d0 * -8.f, d1 * -8.f};
            uint32_t a[4], b[4];
            fragments(a, b, n, 0, 0, lane);
            sink.template pair<true>(2 * n, a, b, scale, offset);
        }
    }
};

struct WeightsQ4_1 : Nibbles {
    static constexpr uint32_t BYTES[4] = {512, 0, 128, 0};
    __device__ __forceinline__ static uint32_t at(int plane, uint32_t lane) { return plane == 0 ? lane * 16 : lane / 4 * 16; }
    uint4 dm;
    __device__ __forceinline__ void load(const Cursor &c, int step) {
        w = load_weights(c.plane[0] + step * 512);
        dm = load_weights(c.plane[2] + step * 128);
    }
    template <class S> __device__ __forceinline__ void give(S &sink, int lane) const {
#pragma unroll
        for (int n = 0; n < 2; n++) {
            uint32_t dm0 = n ? dm.y : dm.x, dm1 = n ? dm.w : dm.z;
            float scale[2] = {low_half(dm0) * SUBNORMAL, low_half(dm1) * SUBNORMAL}, offset[2] = {high_half(dm0), high_half(dm1)};
            uint32_t a[4], b[4];
            fragments(a, b, n, 0, 0, lane);
            sink.template pair<true>(2 * n, a, b, scale, offset);
        }
    }
};

struct WeightsQ5_0 : Nibbles {
    static constexpr uint32_t BYTES[4] = {512, 128, 64, 0};
    __device__ __forceinline__ static uint32_t at(int plane, uint32_t lane) { return plane == 0 ? lane * 16 : plane == 1 ? lane / 4 * 16 : lane / 4 * 8; }
    uint2 d;
    uint4 h;
    __device__ __forceinline__ void load(const Cursor &c, int step) {
        w = load_weights(c.plane[0] + step * 512);
        h = load_weights(c.plane[1] + step * 128);
        d = load_weights2(c.plane[2] + step * 64);
    }
    template <class S> __device__ __forceinline__ void give(S &sink, int lane) const {
#pragma unroll
        for (int n = 0; n < 2; n++) {
            float d0 = n ? high_half(d.x) : low_half(d.x), d1 = n ? high_half(d.y) : low_half(d.y);
            float scale[2] = {d0 * SUBNORMAL, d1 * SUBNORMAL}, offset[2] = {d0 * -16.f, d1 * -16.f};
            uint32_t a[4], b[4];
            fragments(a, b, n, n ? h.y : h.x, n ? h.w : h.z, lane);
            sink.template pair<true>(2 * n, a, b, scale, offset);
        }
    }
};

struct WeightsQ5_1 : Nibbles {
    static constexpr uint32_t BYTES[4] = {512, 128, 128, 0};
    static constexpr int AT_ONCE = 6;
    __device__ __forceinline__ static uint32_t at(int plane, uint32_t lane) { return plane == 0 ? lane * 16 : lane / 4 * 16; }
    uint4 dm, h;
    __device__ __forceinline__ void load(const Cursor &c, int step) {
        w = load_weights(c.plane[0] + step * 512);
        h = load_weights(c.plane[1] + step * 128);
        dm = load_weights(c.plane[2] + step * 128);
    }
    template <class S> __device__ __forceinline__ void give(S &sink, int lane) const {
#pragma unroll
        for (int n = 0; n < 2; n++) {
            uint32_t dm0 = n ? dm.y : dm.x, dm1 = n ? dm.w : dm.z;
            float scale[2] = {low_half(dm0) * SUBNORMAL, low_half(dm1) * SUBNORMAL}, offset[2] = {high_half(dm0), high_half(dm1)};
            uint32_t a[4], b[4];
            fragments(a, b, n, n ? h.y : h.x, n ? h.w : h.z, lane);
            sink.template pair<true>(2 * n, a, b, scale, offset);
        }
    }
};

// Scales and minima of the 8 groups of a Q4_K or Q5_K block, a byte each, from
// its first 16 bytes.
struct GroupScales {
    uint32_t scale[2], low[2]; // groups 0-3, 4-7
    float d, dmin;
    __device__ __forceinline__ GroupScales(uint4 h) {
        d = low_half(h.x);
        dmin = high_half(h.x);
        scale[0] = h.y & 0x3f3f3f3fu;
        low[0] = h.z & 0x3f3f3f3fu;
        scale[1] = (h.w & 0x0f0f0f0fu) | (h.y >> 2 & 0x30303030u);
        low[1] = (h.w >> 4 & 0x0f0f0f0fu) | (h.z >> 2 & 0x30303030u);
    }
    __device__ __forceinline__ float scale_of(int g) const { return d * (float)(scale[g / 4] >> g % 4 * 8 & 255); }
    __device__ __forceinline__ float low_of(int g) const { return dmin * (float)(low[g / 4] >> g % 4 * 8 & 255); }
};

// A block of 256 values a step, in four units of 64: low nibbles are group 2u, high
// nibbles group 2u + 1.
template <bool FIFTH> struct WeightsK45 {
    static constexpr uint32_t BYTES[4] = {2048, FIFTH ? 512 : 0, 256, 0};
    __device__ __forceinline__ static uint32_t at(int plane, uint32_t lane) { return plane < 2 ? lane * 16 : lane / 4 * 32; }
    static constexpr int CHUNKS = 16, UNROLL = 1, AT_ONCE = 1, BLOCKS = 2, AHEAD = 1;
    uint4 w[4], h, s0, s1;
    __device__ __forceinline__ void load(const Cursor &c, int step) {
#pragma unroll
        for (int u = 0; u < 4; u++)
            w[u] = load_weights(c.plane[0] + step * 2048 + u * 512);
        if (FIFTH)
            h = load_weights(c.plane[1] + step * 512);
        s0 = load_weights(c.plane[2] + step * 256);
        s1 = load_weights(c.plane[2] + step * 256 + 16);
    }
    template <class S> __device__ __forceinline__ void give(S &sink, int) const {
        GroupScales g0(s0), g1(s1);
#pragma unroll
        for (int u = 0; u < 4; u++)
#pragma unroll
            for (int n = 0; n < 2; n++) {
                const int g = 2 * u + n;
                uint32_t x = w[u].x >> 4 * n & 0x0f0f0f0fu, y = w[u].y >> 4 * n & 0x0f0f0f0fu;
                uint32_t z = w[u].z >> 4 * n & 0x0f0f0f0fu, v = w[u].w >> 4 * n & 0x0f0f0f0fu;
                if (FIFTH) {
                    x |= (h.x >> g & 0x01010101u) << 4;
                    y |= (h.y >> g & 0x01010101u) << 4;
                    z |= (h.z >> g & 0x01010101u) << 4;
                    v |= (h.w >> g & 0x01010101u) << 4;
                }
                uint32_t a[4], b[4];
                bytes_to_fragment(a, x, z);
                bytes_to_fragment(b, y, v);
                float scale[2] = {g0.scale_of(g) * SUBNORMAL, g1.scale_of(g) * SUBNORMAL}, offset[2] = {-g0.low_of(g), -g1.low_of(g)};
                sink.template pair<true>(2 * g, a, b, scale, offset);
            }
    }
};
typedef WeightsK45<false> WeightsQ4_K;
typedef WeightsK45<true> WeightsQ5_K;

// A block of 256 values a step, in two halves of 128 = four runs of 32: runs 0 and
// 1 in the low nibbles of two units, 2 and 3 in the high ones.
struct WeightsQ6_K {
    static constexpr uint32_t BYTES[4] = {2048, 1024, 256, 32};
    __device__ __forceinline__ static uint32_t at(int plane, uint32_t lane) { return plane < 2 ? lane * 16 : plane == 2 ? lane / 4 * 32 : lane / 4 * 4; }
    static constexpr int CHUNKS = 16, UNROLL = 1, AT_ONCE = 1, BLOCKS = 2, AHEAD = 1;
    uint4 w[4], h[2], s0, s1;
    uint32_t d;
    __device__ __forceinline__ void load(const Cursor &c, int step) {
#pragma unroll
        for (int u = 0; u < 4; u++)
            w[u] = load_weights(c.plane[0] + step * 2048 + u * 512);
        h[0] = load_weights(c.plane[1] + step * 1024);
        h[1] = load_weights(c.plane[1] + step * 1024 + 512);
        s0 = load_weights(c.plane[2] + step * 256);
        s1 = load_weights(c.plane[2] + step * 256 + 16);
        d = load_weights1(c.plane[3] + step * 32);
    }
    __device__ __forceinline__ static float byte_of(uint4 v, int i) {
        uint32_t w = i < 4 ? v.x : i < 8 ? v.y : i < 12 ? v.z : v.w;
        return (float)(int8_t)(w >> i % 4 * 8);
    }
    template <class S> __device__ __forceinline__ void give(S &sink, int) const {
        float d0 = low_half(d), d1 = high_half(d);
#pragma unroll
        for (int half = 0; half < 2; half++)
#pragma unroll
            for (int run = 0; run < 4; run++) {
                const int u = half * 2 + run % 2, n = run / 2;
                uint32_t x = (w[u].x >> 4 * n & 0x0f0f0f0fu) | (h[half].x >> 2 * run & 0x03030303u) << 4;
                uint32_t y = (w[u].y >> 4 * n & 0x0f0f0f0fu) | (h[half].y >> 2 * run & 0x03030303u) << 4;
                uint32_t z = (w[u].z >> 4 * n & 0x0f0f0f0fu) | (h[half].z >> 2 * run & 0x03030303u) << 4;
                uint32_t v = (w[u].w >> 4 * n & 0x0f0f0f0fu) | (h[half].w >> 2 * run & 0x03030303u) << 4;
                uint32_t a[4];
#pragma unroll
                for (int part = 0; part < 2; part++) {
                    const int g = half * 8 + run * 2 + part;
                    bytes_to_fragment(a, part ? y : x, part ? v : z);
                    float f0 = d0 * byte_of(s0, g), f1 = d1 * byte_of(s1, g);
                    float scale[2] = {f0 * SUBNORMAL, f1 * SUBNORMAL}, offset[2] = {f0 * -32.f, f1 * -32.f};
                    sink.single(g, a, scale, offset);
                }
            }
    }
};
