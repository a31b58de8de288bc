// How weights come to a warp of one.cuh, tile after tile: its segment of each.
#pragma once
#include "project.cuh"

// Straight into registers: 16-bit weights, which need nothing but mma.
template <class W> struct Direct {
    static constexpr int AT_ONCE = W::AT_ONCE;
    const ProjectParams &p;
    const uint32_t lane, side, all, begin, steps; // of a row, and of the warp's segment
    uint32_t tile;
    const uint32_t stride, last;
    Cursor at;
    W w[AT_ONCE];

    // tile is the warp's first one; stride from it to the next, last behind all of the
    // block. side: which matrix of a gated pair.
    __device__ __forceinline__ Direct(const ProjectParams &p, char *, uint32_t lane, uint32_t side, uint32_t all, uint32_t begin, uint32_t end, uint32_t tile, uint32_t stride, uint32_t last)
        : p(p), lane(lane), side(side), all(all), begin(begin), steps(end - begin), tile(tile), stride(stride), last(last), w{} {}

    __device__ __forceinline__ void fill() {
        if (tile >= last)
            return;
        const Place place(p, tile);
        at = cursor<W>(p.matrix[p.gated ? side : place.matrix], place.tile, all, begin, lane);
#pragma unroll
        for (int u = 0; u < AT_ONCE; u++)
            if (u < steps)
                load(w[u], at, u);
    }

    __device__ __forceinline__ void make(float) {}

    // Multiplies the segment of the next tile.
    template <class S> __device__ __forceinline__ void multiply(S &sink, float) {
#pragma unroll 1
        for (int left = steps; left > 0; left -= AT_ONCE) {
#pragma unroll
            for (int u = 0; u < AT_ONCE; u++) {
                // Without a branch, so that activations are on their way for several
                // steps: those beyond the segment are multiplied with zeros.
                uint32_t a[1][4];
                w[u].fragments(a, 0, {~0u}, lane);
                sink.plain(u, a[0], u < left);
                // Into the registers that have just been used: into others, with a move
                // to follow, the loads would wait for each other.
                if (u + AT_ONCE < left)
                    load(w[u], at, u + AT_ONCE);
            }
            sink.advance(AT_ONCE * W::CHUNKS);
            advance<W>(at, AT_ONCE);
        }
        tile += stride;
        fill();
    }
};

// Into registers as well: formats of which a step is large. Each part of the next step, of
// the next tile's segment too, is asked for when that of the step at hand has become
// fragments.
template <class W> struct Stepwise {
    const ProjectParams &p;
    const uint32_t lane, side, all, begin, end; // steps of a row, and of the warp's segment
    uint32_t tile, step;                        // asked for next, if tile < last
    const uint32_t stride, last;
    Cursor at; // of that
    W w;

    __device__ __forceinline__ Stepwise(const ProjectParams &p, char *, uint32_t lane, uint32_t side, uint32_t all, uint32_t begin, uint32_t end, uint32_t tile, uint32_t stride, uint32_t last)
        : p(p), lane(lane), side(side), all(all), begin(begin), end(end), tile(begin < end ? tile : last), stride(stride), last(last), w{} {
        seek();
    }
    // To the begin of the warp's segment in the tile.
    __device__ __forceinline__ void seek() {
        step = begin;
        if (tile >= last)
            return;
        const Place place(p, tile);
        at = cursor<W>(p.matrix[p.gated ? side : place.matrix], place.tile, all, begin, lane);
    }
    __device__ __forceinline__ void go_on() {
        advance<W>(at, 1);
        if (++step == end) {
            tile += stride;
            seek();
        }
    }
    __device__ __forceinline__ void fill() {
        if (tile >= last)
            return;
        load(w, at, 0);
        go_on();
    }
    __device__ __forceinline__ void make(float) {}

    // Multiplies the segment of the next tile.
    template <class S> __device__ __forceinline__ void multiply(S &sink, float up) {
#pragma unroll 1
        for (uint32_t left = end - begin; left; left--) {
            const bool more = tile < last;
            give_and_load(w, up, sink, lane, at, 0, more);
            if (more)
                go_on();
            sink.advance(W::CHUNKS);
        }
    }
};

// Through shared memory: formats of small steps that become float16. Registers would do,
// but the loads that bandwidth wants would take so many of them that there were too few
// warps to make fragments; and a loop whose loads have registers of their own is unrolled
// as often, which for a kernel that runs for two microseconds is code that has to come
// from memory, too.
//
// Each warp has slots to itself, so nothing but the warp has to be waited for. A slot
// takes a unit, the steps in kRingColumns: what each plane has of them, one after another.
// There are DEPTH of them, or as many as a warp has units in all.
template <class W> struct Ring {
    static constexpr uint32_t UNIT = kRingColumns / 16 / W::CHUNKS;
    // Of which there are registers enough to keep where a segment and the slots are: with
    // others it was slower.
    static constexpr bool KEPT = W::CHUNKS == 2;
    // Where a plane's bytes are in a slot. Written out: a loop up to plane would be one that
    // runs, over numbers in memory.
    __device__ static constexpr uint32_t offset(int plane) {
        return UNIT * ((plane > 0 ? W::BYTES[0] : 0) + (plane > 1 ? W::BYTES[1] : 0) + (plane > 2 ? W::BYTES[2] : 0) + (plane > 3 ? W::BYTES[3] : 0));
    }
    // Of quants each lane copies as many pieces of 16 bytes. What the other planes have is
    // one piece for some of the lanes.
    static constexpr uint32_t QUANTS = offset(1), SLOT = offset(4), OTHERS = (SLOT - QUANTS) / 16;
    static_assert(QUANTS % 512 == 0 && OTHERS <= 32 && SLOT % 16 == 0);
    static constexpr uint32_t DEPTH = kRingBytes / SLOT < 2 ? 2 : kRingBytes / SLOT;
    static constexpr uint32_t BYTES = DEPTH * SLOT;

    // A slot as fragments are made from it: see Cursor.
    struct Slot {
        const char *plane[4];
        __device__ __forceinline__ uint4 quad(int i, uint32_t at) const { return *(const uint4 *)(plane[i] + at); }
        __device__ __forceinline__ uint2 pair(int i, uint32_t at) const { return *(const uint2 *)(plane[i] + at); }
        __device__ __forceinline__ uint32_t word(int i, uint32_t at) const { return *(const uint32_t *)(plane[i] + at); }
    };

    // Keeps fragments.
    struct Fragments {
        uint32_t a[UNIT * W::CHUNKS][4];
        __device__ __forceinline__ void plain(int chunk, const uint32_t *from) {
#pragma unroll
            for (int i = 0; i < 4; i++)
                a[chunk][i] = from[i];
        }
    };

    const ProjectParams &p;
    char *const slots;
    const uint32_t lane, side, all, begin, end; // steps of a row, and of the warp's segment
    uint32_t next = 0, now = 0;                 // bytes from slots: what is asked for and what is used next
    uint32_t tile, step;                        // asked for next
    const uint32_t stride, last;                // from one tile of the warp to the next, and behind all of the block
    const char *quants, *other;                 // where the lane reads that
    uint32_t other_bytes = 0, other_step = 0;   // of a unit, and which of its steps
    Fragments first;                            // of the first unit
    bool made = false;                          // are those

    // tile is the warp's first one. side: which matrix of a gated pair.
    __device__ __forceinline__ Ring(const ProjectParams &p, char *slots, uint32_t lane, uint32_t side, uint32_t all, uint32_t begin, uint32_t end, uint32_t tile, uint32_t stride, uint32_t last)
        : p(p), slots(slots), lane(lane), side(side), all(all), begin(KEPT ? kept(begin) : begin), end(KEPT ? kept(end) : end), tile(begin < end ? tile : last), stride(stride), last(last) {
        seek();
    }

    // To the begin of the warp's segment in the tile.
    __device__ __forceinline__ void seek() {
        step = begin;
        if (tile >= last)
            return;
        const Place place(p, tile);
        const Matrix &m = p.matrix[p.gated ? side : place.matrix];
        const uint64_t n = (uint64_t)place.tile * all + begin;
        quants = (const char *)m.plane[0] + n * W::BYTES[0] + lane * 16;
#pragma unroll
        for (int i = 1; i < 4; i++) {
            const uint32_t piece = lane - (offset(i) - QUANTS) / 16;
            if (W::BYTES[i] && (int)piece >= 0) {
                other = (const char *)m.plane[i] + n * W::BYTES[i] + piece * 16;
                other_bytes = UNIT * W::BYTES[i];
                other_step = piece * 16 / W::BYTES[i];
            }
        }
    }

    // Asks for the next unit, if there is one. What a segment lacks in its last unit
    // is not asked for.
    __device__ __forceinline__ void ask() {
        if (tile < last) {
            char *to = slots + next + lane * 16;
            const uint32_t left = end - step;
#pragma unroll
            for (uint32_t at = 0; at < QUANTS; at += 512)
                if (at == 0 || at / W::BYTES[0] < left)
                    copy_async(to + at, quants + at, true);
            if (lane < OTHERS && other_step < left)
                copy_async(to + QUANTS, other, true);
            next = next + SLOT == BYTES ? 0 : next + SLOT;
            step += UNIT;
            if (step < end) {
                quants += QUANTS;
                other += other_bytes;
            } else {
                tile += stride;
                seek();
            }
        }
        copy_commit();
    }

    // At the beginning: fills all slots.
    __device__ __forceinline__ void fill() {
#pragma unroll 1
        for (int i = 0; i < DEPTH; i++)
            ask();
    }

    // Takes the oldest unit that was asked for, when it is there, and gives its first
    // steps' fragments to a sink.
    template <class S> __device__ __forceinline__ void take(S &sink, uint32_t count, float up) {
        copy_wait<DEPTH - 1>();
        __syncwarp();
        Slot slot;
#pragma unroll
        for (int i = 0; i < 4; i++)
            if (W::BYTES[i])
                slot.plane[i] = slots + now + offset(i) + W::at(i, lane);
        W w[UNIT];
#pragma unroll
        for (int u = 0; u < UNIT; u++)
            load(w[u], slot, u);
        now = now + SLOT == BYTES ? 0 : now + SLOT;
        __syncwarp(); // all lanes have read it
        ask();
#pragma unroll
        for (int u = 0; u < UNIT; u++)
            if (u == 0 || u < count)
                give(w[u], up, sink, lane, u * W::CHUNKS);
    }

    // While activations are on their way: the fragments of the first unit, where they
    // take little code.
    __device__ __forceinline__ void make(float up) {
        made = W::CHUNKS == 2 && begin < end;
        if (made)
            take(first, end - begin, up);
    }

    // Multiplies the segment of the next tile.
    template <class S> __device__ __forceinline__ void multiply(S &sink, float up) {
        uint32_t left = end - begin;
        if (made) {
#pragma unroll
            for (int c = 0; c < UNIT * W::CHUNKS; c++)
                if (c < W::CHUNKS || c / W::CHUNKS < left)
                    sink.plain(c, first.a[c]);
            sink.advance(UNIT * W::CHUNKS);
            left -= min(left, UNIT);
            made = false;
        }
#pragma unroll 1
        for (; left; left -= min(left, UNIT)) {
            take(sink, left, up);
            sink.advance(UNIT * W::CHUNKS);
        }
    }
};
