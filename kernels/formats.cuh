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
// Of four k in a row, the order in which they are multiplied is 0, 2, 1, 3 (Octet::pack has
// that of activations): so a mask makes two halves of the nibbles in bytes 0 and 2 of a
// word, and one more of those in bytes 1 and 3, once it is shifted. What stands in the
// upper nibble counts 16 times, and has a 16th of the scale. Operations are what quantized
// weights cost, as much as their bytes.
//
// UNROLL steps are on their way at a time in few, AT_ONCE in one, where they come
// straight into registers (see ring.cuh; 0: they do not; 1: part by part), AHEAD in wide of
// 128 rows; BLOCKS of few, of 256 threads, should fit on a multiprocessor, which bounds the
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

// A scale and an offset, each in both halves of a word.
struct Scale {
    uint32_t by, plus;
};

// Two scales and two offsets, a word each: of a lane's two rows, or of two groups of one. The
// instructions that take one of them read its half twice.
struct TwoScales {
    uint32_t by, plus;
    // Of d * (q - zero).
    __device__ __forceinline__ static TwoScales centred(float d0, float d1, float up, uint32_t zero) {
        const uint32_t by = pack_half(d0 * up, d1 * up);
        return {by, multiply_halves(by, 0x80008000u | zero | zero << 16)}; // -zero * 2^-24
    }
    // Of d * q + low.
    __device__ __forceinline__ static TwoScales of(float d0, float low0, float d1, float low1, float up) {
        return {pack_half(d0 * up, d1 * up), pack_half(low0 * (up / SUBNORMAL), low1 * (up / SUBNORMAL))};
    }
    // For values that are 16 times as large.
    __device__ __forceinline__ TwoScales of_upper() const { return {multiply_halves(by, 0x2c002c00u), plus}; }
    __device__ __forceinline__ Scale first() const { return {low_twice(by), low_twice(plus)}; }
    __device__ __forceinline__ Scale second() const { return {high_twice(by), high_twice(plus)}; }
};

// The bytes of a lane's two rows as weights.
__device__ __forceinline__ void scaled_fragment(uint32_t *a, uint32_t lo, uint32_t hi, const Scale &s0, const Scale &s1) {
    a[0] = scale_halves(__byte_perm(lo, 0, 0x4240), s0.by, s0.plus);
    a[2] = scale_halves(__byte_perm(lo, 0, 0x4341), s0.by, s0.plus);
    a[1] = scale_halves(__byte_perm(hi, 0, 0x4240), s1.by, s1.plus);
    a[3] = scale_halves(__byte_perm(hi, 0, 0x4341), s1.by, s1.plus);
}

// Their lower nibbles (UPPER = 0), or the upper ones as values 16 times as large.
template <int UPPER> __device__ __forceinline__ void nibble_fragment(uint32_t *a, uint32_t lo, uint32_t hi, const Scale &s0, const Scale &s1) {
    const uint32_t mask = UPPER ? 0x00f000f0u : 0x000f000fu;
    a[0] = scale_halves(lo & mask, s0.by, s0.plus);
    a[2] = scale_halves(lo >> 8 & mask, s0.by, s0.plus);
    a[1] = scale_halves(hi & mask, s1.by, s1.plus);
    a[3] = scale_halves(hi >> 8 & mask, s1.by, s1.plus);
}

struct WeightsF16 {
    static constexpr uint32_t BYTES[4] = {512, 0, 0, 0};
    __device__ __forceinline__ static uint32_t at(int plane, uint32_t lane) { return lane * 16; }
    static constexpr int CHUNKS = 1, UNROLL = 8, AT_ONCE = 16, BLOCKS = 2, AHEAD = 8, AHEAD_NARROW = 16;
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
    static constexpr int AT_ONCE = 8;
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

// Of the lane's rows, by block of the step.
template <int BLOCKS> struct Scales {
    TwoScales of[BLOCKS];
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
    __device__ __forceinline__ Rest rest(float up) const { return {{TwoScales::centred(low_half(d), high_half(d), up, 128)}}; }
    __device__ __forceinline__ void fragments(uint32_t (*a)[4], int part, const Rest &r, int lane) const {
        const uint32_t flip = 0x80808080u; // q + 128 is unsigned
        scaled_fragment(a[0], w.x ^ flip, w.z ^ flip, r.of[0].first(), r.of[0].second());
        scaled_fragment(a[1], w.y ^ flip, w.w ^ flip, r.of[0].first(), r.of[0].second());
    }
};

// Two blocks of 32 values a step: the nibbles of one in the first word of a
// lane's row, of the other in the second.
struct Nibbles {
    static constexpr int CHUNKS = 4, UNROLL = 4, AT_ONCE = 0, BLOCKS = 2, AHEAD = 4, AHEAD_NARROW = 4;
    static constexpr bool CONVERTED = true;
    uint4 w;
    template <class C> __device__ __forceinline__ void load_quants(const C &c, int step, int part) { w = c.quad(0, step * 512); }
    // Values of block n (0 or 1).
    __device__ __forceinline__ void fragments_of(uint32_t (*a)[4], int n, const TwoScales &scales) const {
        const uint32_t w0 = n ? w.y : w.x, w1 = n ? w.w : w.z;
        const TwoScales upper = scales.of_upper();
        nibble_fragment<0>(a[0], w0, w1, scales.first(), scales.second());
        nibble_fragment<1>(a[1], w0, w1, upper.first(), upper.second());
    }
    // The same with a fifth bit for each.
    __device__ __forceinline__ void fragments_of(uint32_t (*a)[4], int n, const TwoScales &scales, uint32_t high0, uint32_t high1, int lane) const {
        const uint32_t w0 = n ? w.y : w.x, w1 = n ? w.w : w.z, mask = 0x0f0f0f0fu;
        const uint32_t low = lane % 4 * 4, high = low + 16;
        scaled_fragment(a[0], w0 & mask | spread(high0 >> low), w1 & mask | spread(high1 >> low), scales.first(), scales.second());
        scaled_fragment(a[1], w0 >> 4 & mask | spread(high0 >> high), w1 >> 4 & mask | spread(high1 >> high), scales.first(), scales.second());
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
        return {{TwoScales::centred(low_half(d.x), low_half(d.y), up, 8), TwoScales::centred(high_half(d.x), high_half(d.y), up, 8)}};
    }
    __device__ __forceinline__ void fragments(uint32_t (*a)[4], int part, const Rest &r, int lane) const {
        fragments_of(a, 0, r.of[0]);
        fragments_of(a + 2, 1, r.of[1]);
    }
};

// A scale and a minimum for each block and row.
__device__ __forceinline__ Scales<2> with_minima(uint4 dm, float up) {
    return {{TwoScales::of(low_half(dm.x), high_half(dm.x), low_half(dm.z), high_half(dm.z), up),
             TwoScales::of(low_half(dm.y), high_half(dm.y), low_half(dm.w), high_half(dm.w), up)}};
}

struct WeightsQ4_1 : Nibbles {
    static constexpr uint32_t BYTES[4] = {512, 0, 128, 0};
    __device__ __forceinline__ static uint32_t at(int plane, uint32_t lane) { return plane == 0 ? lane * 16 : lane / 4 * 16; }
    typedef Scales<2> Rest;
    uint4 dm;
    template <class C> __device__ __forceinline__ void load_rest(const C &c, int step) { dm = c.quad(2, step * 128); }
    __device__ __forceinline__ Rest rest(float up) const { return with_minima(dm, up); }
    __device__ __forceinline__ void fragments(uint32_t (*a)[4], int part, const Rest &r, int lane) const {
        fragments_of(a, 0, r.of[0]);
        fragments_of(a + 2, 1, r.of[1]);
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
        return {{{TwoScales::centred(low_half(d.x), low_half(d.y), up, 16), TwoScales::centred(high_half(d.x), high_half(d.y), up, 16)}}, h};
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
// a subtraction, two at a time. d and dmin have 32 times the matrix's power of two; d for
// every second group a 16th of it, where values are in upper nibbles (UPPER = 16; or 1).
template <int UPPER> struct GroupScales {
    uint32_t scale[2], low[2]; // of groups 0-3, 4-7
    uint32_t d, dmin;
    __device__ __forceinline__ GroupScales() {}
    __device__ __forceinline__ GroupScales(uint4 h, float up) {
        const float by = low_half(h.x) * (up * 32), plus = high_half(h.x) * (up * (-32 / SUBNORMAL));
        d = pack_half(by, by / UPPER);
        dmin = pack_half(plus, plus);
        scale[0] = h.y & 0x3f3f3f3fu;
        low[0] = h.z & 0x3f3f3f3fu;
        scale[1] = (h.w & 0x0f0f0f0fu) | (h.y >> 2 & 0x30303030u);
        low[1] = (h.w >> 4 & 0x0f0f0f0fu) | (h.z >> 2 & 0x30303030u);
    }
    // Bytes i and i + 1 of a word, over 32.
    __device__ __forceinline__ static uint32_t halves(uint32_t w, int i) {
        const uint32_t half_32 = 0x5000, both = half_32 << 16 | half_32;
        return subtract_halves(__byte_perm(w, half_32, i | 0x50 | (i + 1) << 8 | 0x5000), both);
    }
    // Of groups 2 * n and 2 * n + 1.
    __device__ __forceinline__ TwoScales of(int n) const {
        return {multiply_halves(halves(scale[n / 2], n % 2 * 2), d), multiply_halves(halves(low[n / 2], n % 2 * 2), dmin)};
    }
};

// A block of 256 values a step, in four parts of 64: low nibbles are group 2u, high
// nibbles group 2u + 1.
template <bool FIFTH> struct WeightsK45 {
    static constexpr uint32_t BYTES[4] = {2048, FIFTH ? 512 : 0, 256, 0};
    __device__ __forceinline__ static uint32_t at(int plane, uint32_t lane) { return plane < 2 ? lane * 16 : lane / 4 * 32; }
    static constexpr int CHUNKS = 16, UNROLL = 1, AT_ONCE = 1, BLOCKS = 2, AHEAD = 1, AHEAD_NARROW = 2;
    static constexpr bool CONVERTED = true;
    typedef GroupScales<FIFTH ? 1 : 16> Groups;
    struct Rest {
        Groups of[2];
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
    __device__ __forceinline__ Rest rest(float up) const { return {{Groups(s0, up), Groups(s1, up)}, FIFTH ? h : uint4{}}; }
    __device__ __forceinline__ void fragments(uint32_t (*a)[4], int part, const Rest &r, int) const {
        const TwoScales s0 = r.of[0].of(part), s1 = r.of[1].of(part);
        const uint4 q = w[part];
        if constexpr (!FIFTH) {
            nibble_fragment<0>(a[0], q.x, q.z, s0.first(), s1.first());
            nibble_fragment<0>(a[1], q.y, q.w, s0.first(), s1.first());
            nibble_fragment<1>(a[2], q.x, q.z, s0.second(), s1.second());
            nibble_fragment<1>(a[3], q.y, q.w, s0.second(), s1.second());
        } else {
#pragma unroll
            for (int n = 0; n < 2; n++) {
                const int g = 2 * part + n;
                const Scale t0 = n ? s0.second() : s0.first(), t1 = n ? s1.second() : s1.first();
                scaled_fragment(a[2 * n], five_bits(q.x, r.h.x, n, g), five_bits(q.z, r.h.z, n, g), t0, t1);
                scaled_fragment(a[2 * n + 1], five_bits(q.y, r.h.y, n, g), five_bits(q.w, r.h.w, n, g), t0, t1);
            }
        }
    }
    // Nibbles n of a word, each with bit g of a byte above it.
    __device__ __forceinline__ static uint32_t five_bits(uint32_t q, uint32_t high, int n, int g) {
        return (q >> 4 * n & 0x0f0f0f0fu) | ((g < 4 ? high << (4 - g) : high >> (g - 4)) & 0x10101010u);
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
        uint4 s0, s1;    // scales of two rows' 16 groups, a byte each, from -128 to 127
        uint32_t d0, d1; // what 128 times a scale is multiplied with, in both halves
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
    __device__ __forceinline__ Rest rest(float up) const {
        const float d0 = low_half(d) * (up * 128), d1 = high_half(d) * (up * 128);
        return {s0, s1, pack_half(d0, d0), pack_half(d1, d1)};
    }
    // Of group g, an even number, and the next one. A byte plus 128 behind 0x48 is a half, of
    // which 9 is subtracted: the byte over 128.
    __device__ __forceinline__ static TwoScales scales_of(uint4 v, int g, uint32_t d) {
        const uint32_t w = (g < 4 ? v.x : g < 8 ? v.y : g < 12 ? v.z : v.w) ^ 0x80808080u;
        const uint32_t halves = subtract_halves(__byte_perm(w, 0x4800, g % 4 ? 0x5352 : 0x5150), 0x48804880u);
        const uint32_t by = multiply_halves(halves, d);
        return {by, multiply_halves(by, 0x80208020u)}; // -32 * 2^-24
    }
    __device__ __forceinline__ void fragments(uint32_t (*a)[4], int part, const Rest &r, int) const {
        const int half = part / 2, n = part % 2;
        const uint4 high = h[half];
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const int run = n * 2 + i, g = half * 8 + run * 2;
            const uint4 q = w[half * 2 + i];
            const TwoScales s0 = scales_of(r.s0, g, r.d0), s1 = scales_of(r.s1, g, r.d1);
            scaled_fragment(a[2 * i], six_bits(q.x, high.x, n, run), six_bits(q.z, high.z, n, run), s0.first(), s1.first());
            scaled_fragment(a[2 * i + 1], six_bits(q.y, high.y, n, run), six_bits(q.w, high.w, n, run), s0.second(), s1.second());
        }
    }
    // Nibbles n of a word, each with pair `run` of a byte's bits above it.
    __device__ __forceinline__ static uint32_t six_bits(uint32_t q, uint32_t high, int n, int run) {
        return (q >> 4 * n & 0x0f0f0f0fu) | ((run < 2 ? high << (4 - 2 * run) : high >> (2 * run - 4)) & 0x30303030u);
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

// Gives a step's fragments to a sink, and loads another into the same registers if there is
// one more: each part as soon as it has become fragments.
template <class W, class S> __device__ __forceinline__ void give_and_load(W &w, float up, S &sink, int lane, const Cursor &at, int next, bool more) {
    const typename W::Rest rest = w.rest(up);
    if (more)
        w.load_rest(at, next);
#pragma unroll
    for (int i = 0; i < Parts<W>::COUNT; i++) {
        uint32_t a[Parts<W>::CHUNKS][4];
        w.fragments(a, i, rest, lane);
        if (more)
            w.load_quants(at, next, i);
#pragma unroll
        for (int c = 0; c < Parts<W>::CHUNKS; c++)
            sink.plain(i * Parts<W>::CHUNKS + c, a[c]);
    }
}
