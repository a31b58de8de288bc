// How each format's planes become operands of mma.
//
// A step is what a warp loads at once of 16 rows: 16 to 256 columns. It is used in
// parts of at most 64 columns, each of up to four chunks of 16 columns: of each chunk
// fragments() makes the fragment a (see mma), in float16. Values of quantized formats are
//
//    w = scale * q + offset
//
// with the scale and the offset rounded to float16, and the result once more. A byte
// with zeros above it, read as a half, is the subnormal q * 2^-24, exactly, and halves
// are multiplied and added at full speed whatever they are. So unpacking is masks and
// byte moves, and one operation for two weights. The scale has the 2^24 that is missing,
// and a power of two besides, one for all of a matrix, by which its largest scale is
// just below 65,504 (Matrix.up); products are divided by that power at the end
// (Matrix.down). So scales are as exact as float16 can be, and a weight is off by 2^-12
// of itself or 2^-16 of a step of the coarsest block, whichever is more, and as much
// again by the scale.
//
// UNROLL steps are on their way at a time in few, AT_ONCE in one, where they come
// straight into registers (see ring.cuh; 0: they do not), AHEAD in wide of 128 rows;
// BLOCKS of few, of 256 threads, should fit on a multiprocessor, which bounds the
// registers. load is load_quants of all parts and load_rest; wide loads a part's quants
// when it has used those of the step before. Rest is what it keeps of a step until the
// last part: the rest is loaded anew before.
#pragma once
#include "device.cuh"

// Where a lane reads the planes of a tile of 16 rows. BYTES are what each plane
// has of a step; a format's at() adds what the lane skips. From there on, steps
// are at distances that the compiler knows.
struct Cursor {
    const char *plane[4];
    __device__ __forceinline__ uint4 quad(int i, uint32_t at) const { return load_weights(plane[i] + at); }
    __device__ __forceinline__ uint2 pair(int i, uint32_t at) const { return load_weights2(plane[i] + at); }
    __device__ __forceinline__ uint32_t word(int i, uint32_t at) const { return load_weights1(plane[i] + at); }
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

static constexpr float SUBNORMAL = 16777216; // 2^24

// One row's scale and offset, each in both halves of a word.
struct Scale {
    uint32_t by, plus;
    // Of d * (q - zero).
    __device__ __forceinline__ static Scale centred(float d, float up, uint32_t zero) {
        const uint32_t by = pack_half(d * up, d * up), minus = 0x80008000u | zero | zero << 16; // -zero * 2^-24
        return {by, multiply_halves(by, minus)};
    }
    __device__ __forceinline__ static Scale of(float d, float low, float up) {
        const float plus = low * (up / SUBNORMAL);
        return {pack_half(d * up, d * up), pack_half(plus, plus)};
    }
};

// The bytes of a lane's two rows as weights.
__device__ __forceinline__ void scaled_fragment(uint32_t *a, uint32_t lo, uint32_t hi, const Scale &s0, const Scale &s1) {
    a[0] = scale_halves(__byte_perm(lo, 0, 0x4140), s0.by, s0.plus);
    a[2] = scale_halves(__byte_perm(lo, 0, 0x4342), s0.by, s0.plus);
    a[1] = scale_halves(__byte_perm(hi, 0, 0x4140), s1.by, s1.plus);
    a[3] = scale_halves(__byte_perm(hi, 0, 0x4342), s1.by, s1.plus);
}

struct WeightsF16 {
    static constexpr uint32_t BYTES[4] = {512, 0, 0, 0};
    __device__ __forceinline__ static uint32_t at(int plane, uint32_t lane) { return lane * 16; }
    static constexpr int CHUNKS = 1, UNROLL = 8, AT_ONCE = 8, BLOCKS = 2, AHEAD = 8, AHEAD_NARROW = 16;
    static constexpr bool CONVERTED = false;
    struct Rest {
        uint32_t mask; // of what there is
    };
    uint4 w;
    template <class C> __device__ __forceinline__ void load_rest(const C &c, int step) {}
    template <class C> __device__ __forceinline__ void load_quants(const C &c, int step, int part) { w = c.quad(0, step * 512); }
    __device__ __forceinline__ Rest rest(float up) const { return {up ? ~0u : 0u}; }
    __device__ __forceinline__ void fragments(uint32_t (*a)[4], int part, const Rest &, int lane) const {
        a[0][0] = w.x;
        a[0][1] = w.y;
        a[0][2] = w.z;
        a[0][3] = w.w;
    }
};

// As float16: exact for magnitudes from 2^-14 to 65504, which is all that a
// model's weights are in practice; below, off by at most 2^-25; above, infinite.
struct WeightsBF16 : WeightsF16 {
    static constexpr bool CONVERTED = true;
    __device__ __forceinline__ static uint32_t convert(uint32_t w) {
        return pack_half(__uint_as_float(w << 16), __uint_as_float(w & 0xffff0000u));
    }
    __device__ __forceinline__ void fragments(uint32_t (*a)[4], int part, const Rest &r, int lane) const {
        a[0][0] = convert(w.x) & r.mask;
        a[0][1] = convert(w.y) & r.mask;
        a[0][2] = convert(w.z) & r.mask;
        a[0][3] = convert(w.w) & r.mask;
    }
};

// Of two rows, by block of the step.
template <int BLOCKS> struct Scales {
    Scale of[BLOCKS][2];
};

struct WeightsQ8_0 {
    static constexpr uint32_t BYTES[4] = {512, 0, 32, 0};
    __device__ __forceinline__ static uint32_t at(int plane, uint32_t lane) { return plane == 0 ? lane * 16 : lane / 4 * 4; }
    static constexpr int CHUNKS = 2, UNROLL = 4, AT_ONCE = 0, BLOCKS = 2, AHEAD = 4, AHEAD_NARROW = 8;
    static constexpr bool CONVERTED = true;
    typedef Scales<1> Rest;
    uint4 w;
    uint32_t d;
    template <class C> __device__ __forceinline__ void load_rest(const C &c, int step) { d = c.word(2, step * 32); }
    template <class C> __device__ __forceinline__ void load_quants(const C &c, int step, int part) { w = c.quad(0, step * 512); }
    __device__ __forceinline__ Rest rest(float up) const { return {{{Scale::centred(low_half(d), up, 128), Scale::centred(high_half(d), up, 128)}}}; }
    __device__ __forceinline__ void fragments(uint32_t (*a)[4], int part, const Rest &r, int lane) const {
        const uint32_t flip = 0x80808080u; // q + 128 is unsigned
        scaled_fragment(a[0], w.x ^ flip, w.z ^ flip, r.of[0][0], r.of[0][1]);
        scaled_fragment(a[1], w.y ^ flip, w.w ^ flip, r.of[0][0], r.of[0][1]);
    }
};

// Two blocks of 32 values a step: the nibbles of one in the first word of a
// lane's row, of the other in the second.
struct Nibbles {
    static constexpr int CHUNKS = 4, UNROLL = 4, AT_ONCE = 0, BLOCKS = 2, AHEAD = 4, AHEAD_NARROW = 4;
    static constexpr bool CONVERTED = true;
    uint4 w;
    template <class C> __device__ __forceinline__ void load_quants(const C &c, int step, int part) { w = c.quad(0, step * 512); }
    // Values of block n (0 or 1); high holds a fifth bit for each, or 0.
    __device__ __forceinline__ void fragments_of(uint32_t (*a)[4], int n, const Scale *scale, uint32_t high0, uint32_t high1, int lane) const {
        const uint32_t w0 = n ? w.y : w.x, w1 = n ? w.w : w.z, mask = 0x0f0f0f0fu;
        const uint32_t low = lane % 4 * 4, high = low + 16;
        scaled_fragment(a[0], w0 & mask | spread(high0 >> low), w1 & mask | spread(high1 >> low), scale[0], scale[1]);
        scaled_fragment(a[1], w0 >> 4 & mask | spread(high0 >> high), w1 >> 4 & mask | spread(high1 >> high), scale[0], scale[1]);
    }
    // Four bits, each as 16 in a byte.
    __device__ __forceinline__ static uint32_t spread(uint32_t bits) { return (bits & 15) * 0x02040810u & 0x10101010u; }
};

struct WeightsQ4_0 : Nibbles {
    static constexpr uint32_t BYTES[4] = {512, 0, 64, 0};
    __device__ __forceinline__ static uint32_t at(int plane, uint32_t lane) { return plane == 0 ? lane * 16 : lane / 4 * 8; }
    typedef Scales<2> Rest;
    uint2 d;
    template <class C> __device__ __forceinline__ void load_rest(const C &c, int step) { d = c.pair(2, step * 64); }
    __device__ __forceinline__ Rest rest(float up) const {
        return {{{Scale::centred(low_half(d.x), up, 8), Scale::centred(low_half(d.y), up, 8)},
                 {Scale::centred(high_half(d.x), up, 8), Scale::centred(high_half(d.y), up, 8)}}};
    }
    __device__ __forceinline__ void fragments(uint32_t (*a)[4], int part, const Rest &r, int lane) const {
        fragments_of(a, 0, r.of[0], 0, 0, lane);
        fragments_of(a + 2, 1, r.of[1], 0, 0, lane);
    }
};

// A scale and a minimum for each block and row.
__device__ __forceinline__ Scales<2> with_minima(uint4 dm, float up) {
    return {{{Scale::of(low_half(dm.x), high_half(dm.x), up), Scale::of(low_half(dm.z), high_half(dm.z), up)},
             {Scale::of(low_half(dm.y), high_half(dm.y), up), Scale::of(low_half(dm.w), high_half(dm.w), up)}}};
}

struct WeightsQ4_1 : Nibbles {
    static constexpr uint32_t BYTES[4] = {512, 0, 128, 0};
    __device__ __forceinline__ static uint32_t at(int plane, uint32_t lane) { return plane == 0 ? lane * 16 : lane / 4 * 16; }
    typedef Scales<2> Rest;
    uint4 dm;
    template <class C> __device__ __forceinline__ void load_rest(const C &c, int step) { dm = c.quad(2, step * 128); }
    __device__ __forceinline__ Rest rest(float up) const { return with_minima(dm, up); }
    __device__ __forceinline__ void fragments(uint32_t (*a)[4], int part, const Rest &r, int lane) const {
        fragments_of(a, 0, r.of[0], 0, 0, lane);
        fragments_of(a + 2, 1, r.of[1], 0, 0, lane);
    }
};

struct HighBits : Scales<2> {
    uint4 h;
};

struct WeightsQ5_0 : Nibbles {
    static constexpr uint32_t BYTES[4] = {512, 128, 64, 0};
    __device__ __forceinline__ static uint32_t at(int plane, uint32_t lane) { return plane == 0 ? lane * 16 : plane == 1 ? lane / 4 * 16 : lane / 4 * 8; }
    typedef HighBits Rest;
    uint2 d;
    uint4 h;
    template <class C> __device__ __forceinline__ void load_rest(const C &c, int step) {
        h = c.quad(1, step * 128);
        d = c.pair(2, step * 64);
    }
    __device__ __forceinline__ Rest rest(float up) const {
        return {{{{Scale::centred(low_half(d.x), up, 16), Scale::centred(low_half(d.y), up, 16)},
                  {Scale::centred(high_half(d.x), up, 16), Scale::centred(high_half(d.y), up, 16)}}}, h};
    }
    __device__ __forceinline__ void fragments(uint32_t (*a)[4], int part, const Rest &r, int lane) const {
        fragments_of(a, 0, r.of[0], r.h.x, r.h.z, lane);
        fragments_of(a + 2, 1, r.of[1], r.h.y, r.h.w, lane);
    }
};

struct WeightsQ5_1 : Nibbles {
    static constexpr uint32_t BYTES[4] = {512, 128, 128, 0};
    __device__ __forceinline__ static uint32_t at(int plane, uint32_t lane) { return plane == 0 ? lane * 16 : lane / 4 * 16; }
    typedef HighBits Rest;
    uint4 dm, h;
    template <class C> __device__ __forceinline__ void load_rest(const C &c, int step) {
        h = c.quad(1, step * 128);
        dm = c.quad(2, step * 128);
    }
    __device__ __forceinline__ Rest rest(float up) const { return {with_minima(dm, up), h}; }
    __device__ __forceinline__ void fragments(uint32_t (*a)[4], int part, const Rest &r, int lane) const {
        fragments_of(a, 0, r.of[0], r.h.x, r.h.z, lane);
        fragments_of(a + 2, 1, r.of[1], r.h.y, r.h.w, lane);
    }
};

// Scales and minima of the 8 groups of a row's Q4_K or Q5_K block, a byte each, from
// its first 16 bytes. A group's scale is d times a number below 64, which 32 makes a
// half of with its last bit worth 1/32: so the numbers become halves by a byte move and
// a subtraction. d and dmin have 32 times the matrix's power of two.
struct GroupScales {
    uint32_t scale[2], low[2]; // of groups 0-3, 4-7
    uint32_t d, dmin;
    __device__ __forceinline__ GroupScales() {}
    __device__ __forceinline__ GroupScales(uint4 h, float up) {
        const float by = low_half(h.x) * (up * 32), plus = high_half(h.x) * (up * (-32 / SUBNORMAL));
        d = pack_half(by, by);
        dmin = pack_half(plus, plus);
        scale[0] = h.y & 0x3f3f3f3fu;
        low[0] = h.z & 0x3f3f3f3fu;
        scale[1] = (h.w & 0x0f0f0f0fu) | (h.y >> 2 & 0x30303030u);
        low[1] = (h.w >> 4 & 0x0f0f0f0fu) | (h.z >> 2 & 0x30303030u);
    }
    // Byte i of a word, over 32, in both halves.
    __device__ __forceinline__ static uint32_t halves(uint32_t w, int i) {
        const uint32_t half_32 = 0x5000, both = half_32 << 16 | half_32;
        return subtract_halves(__byte_perm(w, half_32, i | 0x50 | i << 8 | 0x5000), both);
    }
    __device__ __forceinline__ Scale of(int g) const {
        return {multiply_halves(halves(scale[g / 4], g % 4), d), multiply_halves(halves(low[g / 4], g % 4), dmin)};
    }
};

// A block of 256 values a step, in four parts of 64: low nibbles are group 2u, high
// nibbles group 2u + 1.
template <bool FIFTH> struct WeightsK45 {
    static constexpr uint32_t BYTES[4] = {2048, FIFTH ? 512 : 0, 256, 0};
    __device__ __forceinline__ static uint32_t at(int plane, uint32_t lane) { return plane < 2 ? lane * 16 : lane / 4 * 32; }
    static constexpr int CHUNKS = 16, UNROLL = 1, AT_ONCE = 1, BLOCKS = 2, AHEAD = 1, AHEAD_NARROW = 2;
    static constexpr bool CONVERTED = true;
    struct Rest {
        GroupScales of[2];
        uint4 h;
    };
    uint4 w[4], h, s0, s1;
    template <class C> __device__ __forceinline__ void load_rest(const C &c, int step) {
        if (FIFTH)
            h = c.quad(1, step * 512);
        s0 = c.quad(2, step * 256);
        s1 = c.quad(2, step * 256 + 16);
    }
    template <class C> __device__ __forceinline__ void load_quants(const C &c, int step, int part) { w[part] = c.quad(0, step * 2048 + part * 512); }
    __device__ __forceinline__ Rest rest(float up) const { return {{GroupScales(s0, up), GroupScales(s1, up)}, FIFTH ? h : uint4{}}; }
    __device__ __forceinline__ void fragments(uint32_t (*a)[4], int part, const Rest &r, int) const {
#pragma unroll
        for (int n = 0; n < 2; n++) {
            const int g = 2 * part + n;
            uint32_t x = w[part].x >> 4 * n & 0x0f0f0f0fu, y = w[part].y >> 4 * n & 0x0f0f0f0fu;
            uint32_t z = w[part].z >> 4 * n & 0x0f0f0f0fu, v = w[part].w >> 4 * n & 0x0f0f0f0fu;
            if (FIFTH) {
                x |= (r.h.x >> g & 0x01010101u) << 4;
                y |= (r.h.y >> g & 0x01010101u) << 4;
                z |= (r.h.z >> g & 0x01010101u) << 4;
                v |= (r.h.w >> g & 0x01010101u) << 4;
            }
            const Scale s0 = r.of[0].of(g), s1 = r.of[1].of(g);
            scaled_fragment(a[2 * n], x, z, s0, s1);
            scaled_fragment(a[2 * n + 1], y, v, s0, s1);
        }
    }
};
typedef WeightsK45<false> WeightsQ4_K;
typedef WeightsK45<true> WeightsQ5_K;

// A block of 256 values a step, in two halves of 128 = four runs of 32: runs 0 and
// 1 in the low nibbles of two units, 2 and 3 in the high ones. A part is two runs.
struct WeightsQ6_K {
    static constexpr uint32_t BYTES[4] = {2048, 1024, 256, 32};
    __device__ __forceinline__ static uint32_t at(int plane, uint32_t lane) { return plane < 2 ? lane * 16 : plane == 2 ? lane / 4 * 32 : lane / 4 * 4; }
    static constexpr int CHUNKS = 16, UNROLL = 1, AT_ONCE = 1, BLOCKS = 2, AHEAD = 1, AHEAD_NARROW = 2;
    static constexpr bool CONVERTED = true;
    struct Rest {
        uint4 s0, s1;
        float d0, d1;
    };
    uint4 w[4], h[2], s0, s1;
    uint32_t d;
    template <class C> __device__ __forceinline__ void load_rest(const C &c, int step) {
        s0 = c.quad(2, step * 256);
        s1 = c.quad(2, step * 256 + 16);
        d = c.word(3, step * 32);
    }
    // Two parts have the same bytes.
    template <class C> __device__ __forceinline__ void load_quants(const C &c, int step, int part) {
        if (part % 2 == 0)
            return;
        w[part - 1] = c.quad(0, step * 2048 + (part - 1) * 512);
        w[part] = c.quad(0, step * 2048 + part * 512);
        h[part / 2] = c.quad(1, step * 1024 + part / 2 * 512);
    }
    __device__ __forceinline__ Rest rest(float up) const { return {s0, s1, low_half(d) * up, high_half(d) * up}; }
    __device__ __forceinline__ static float byte_of(uint4 v, int i) {
        uint32_t w = i < 4 ? v.x : i < 8 ? v.y : i < 12 ? v.z : v.w;
        return (float)(int8_t)(w >> i % 4 * 8);
    }
    __device__ __forceinline__ void fragments(uint32_t (*a)[4], int part, const Rest &r, int) const {
        const int half = part / 2, n = part % 2;
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const int u = half * 2 + i, run = n * 2 + i;
            const uint4 q = w[u], high = h[half];
            uint32_t x = (q.x >> 4 * n & 0x0f0f0f0fu) | (high.x >> 2 * run & 0x03030303u) << 4;
            uint32_t y = (q.y >> 4 * n & 0x0f0f0f0fu) | (high.y >> 2 * run & 0x03030303u) << 4;
            uint32_t z = (q.z >> 4 * n & 0x0f0f0f0fu) | (high.z >> 2 * run & 0x03030303u) << 4;
            uint32_t v = (q.w >> 4 * n & 0x0f0f0f0fu) | (high.w >> 2 * run & 0x03030303u) << 4;
            const int g = half * 8 + run * 2;
            scaled_fragment(a[2 * i], x, z, Scale::centred(r.d0, byte_of(r.s0, g), 32), Scale::centred(r.d1, byte_of(r.s1, g), 32));
            scaled_fragment(a[2 * i + 1], y, v, Scale::centred(r.d0, byte_of(r.s0, g + 1), 32), Scale::centred(r.d1, byte_of(r.s1, g + 1), 32));
        }
    }
};

// What a step is used in.
template <class W> struct Parts {
    static constexpr int COUNT = W::CHUNKS > 4 ? W::CHUNKS / 4 : 1, CHUNKS = W::CHUNKS / COUNT;
};

template <class W, class C> __device__ __forceinline__ void load(W &w, const C &c, int step) {
#pragma unroll
    for (int i = 0; i < Parts<W>::COUNT; i++)
        w.load_quants(c, step, i);
    w.load_rest(c, step);
}

// Gives a step's fragments to a sink, by the number of their chunk.
template <class W, class S> __device__ __forceinline__ void give(const W &w, float up, S &sink, int lane, int first = 0) {
    const typename W::Rest rest = w.rest(up);
#pragma unroll
    for (int i = 0; i < Parts<W>::COUNT; i++) {
        uint32_t a[Parts<W>::CHUNKS][4];
        w.fragments(a, i, rest, lane);
#pragma unroll
        for (int c = 0; c < Parts<W>::CHUNKS; c++)
            sink.plain(first + i * Parts<W>::CHUNKS + c, a[c]);
    }
}
