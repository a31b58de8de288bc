// Projections of a single row, as when one sequence generates. See project.cuh.
//
// Nothing here but reading the weights takes long by itself, so what counts is how
// little there is between the predecessor's end and the next kernel's begin. All that
// does not depend on the predecessor comes before the wait for it; while the row is on its
// way, fragments are made of the first weights; from there on two barriers, and what the
// row's largest value and its squares say is not asked before the second one. Of the code,
// what runs but once should be short: it comes from memory, too.
#pragma once
#include "ring.cuh"

static constexpr uint32_t ONE_WARPS = 16; // as many as a tile has sides, at most
static constexpr uint32_t ONE_THREADS = ONE_WARPS * 32;

// What takes the chunks of 16 columns. For mma the row is in all eight columns; the sums
// of the first one are read.
struct RowSink {
    float v[4];
    const char *halves; // where the lane reads: its four of 16

    __device__ __forceinline__ explicit RowSink(const char *halves) : halves(halves) { v[0] = v[1] = v[2] = v[3] = 0; }
    __device__ __forceinline__ void advance(uint32_t chunks) { halves += chunks * 32; }
    __device__ __forceinline__ void plain(int chunk, const uint32_t *a, bool there = true) { mma(v, a, there ? *(const uint2 *)(halves + chunk * 32) : make_uint2(0, 0)); }
};

// The row in shared memory: halves, squares of runs (with zeros up to eight), and room for
// the largest magnitude that each warp has seen. A row consists of
// whole octets, which the host has checked. See activations.cuh.
struct Row {
    static constexpr uint32_t SPAN = ONE_THREADS * 8; // what all threads take at a time
    static constexpr int AT_ONCE = 2;                 // spans that are on their way before the first is used
    static constexpr uint32_t FEW_RUNS = 8;
    char *half;
    float *squares, *largest;
    uint32_t runs, lane, first; // the thread's first element
    const float *in;
    Octet x[AT_ONCE], gain; // its first values, and the gain of the first eight

    // What the thread has seen, and squares of which the warp's sum is still to be made.
    float most, sums[AT_ONCE];

    // The second half of the warps comes first: short rows leave the first half alone,
    // which has more to multiply.
    __device__ __forceinline__ Row(const ProjectParams &p, char *shared)
        : half(shared), squares((float *)(shared + p.stride * 2)), runs((p.stride + RUN - 1) / RUN), lane(threadIdx.x % 32),
          first(kept((threadIdx.x ^ ONE_THREADS / 2) * 8)), in((const float *)p.in) {
        largest = squares + max(FEW_RUNS, (runs + 3) / 4 * 4);
    }
    __device__ __forceinline__ float *end() const { return largest + ONE_WARPS; }

    // Before the row is there: which one it is, which the host has said, and gains.
    __device__ __forceinline__ void expect(const ProjectParams &p) {
        if (threadIdx.x < FEW_RUNS)
            squares[threadIdx.x] = 0;
        if (p.pick)
            in = (const float *)p.in + (uint64_t)((const int32_t *)p.pick)[0] * p.width;
        if (!p.gain)
            return;
        gain.load<true>((const float *)p.gain, first, p.width);
#pragma unroll 1
        for (uint32_t e = SPAN + threadIdx.x * 32; e < p.width; e += SPAN * 4)
            prefetch_line((const float *)p.gain + e);
    }
    __device__ __forceinline__ void load(const ProjectParams &p) {
#pragma unroll
        for (int i = 0; i < AT_ONCE; i++)
            x[i].load<true>(in, first + i * SPAN, p.width);
    }

    // Rounds all values, scaled by a power of two. sum_squares has to be called after the
    // barrier that follows.
    __device__ __forceinline__ void round(const ProjectParams &p, float down) {
        most = 0;
#pragma unroll
        for (int i = 0; i < AT_ONCE; i++) {
            const uint32_t n = first + i * SPAN;
            if (n - lane * 8 >= p.stride) // the same in all lanes
                return;
            sums[i] = take(p, x[i], n, i == 0, down);
        }
#pragma unroll 1
        for (uint32_t n = first + AT_ONCE * SPAN; n - lane * 8 < p.stride; n += SPAN) {
            x[0].load<true>(in, n, p.width);
            leave_sum(p, take(p, x[0], n, false, down), n);
        }
    }
    // Eight values; their squares.
    __device__ __forceinline__ float take(const ProjectParams &p, Octet &v, uint32_t n, bool has_gain, float down) {
        float sum = 0;
        if (p.gain) {
            sum = v.squares();
            if (!has_gain)
                gain.load<true>((const float *)p.gain, n, p.width);
            v.multiply(gain);
        }
        most = v.largest(most);
        if (n < p.stride)
            v.round(half + n * 2, down);
        return sum;
    }
    __device__ __forceinline__ void leave_sum(const ProjectParams &p, float sum, uint32_t n) {
        if (!p.gain)
            return;
        sum = warp_sum(sum);
        if (lane == 0)
            squares[n / RUN] = sum;
    }
    __device__ __forceinline__ void sum_squares(const ProjectParams &p) {
#pragma unroll
        for (int i = 0; i < AT_ONCE; i++)
            if (first + i * SPAN - lane * 8 < p.stride)
                leave_sum(p, sums[i], first + i * SPAN);
    }

    // By which power of two the row has to be scaled, for all threads together: false if by none.
    __device__ __forceinline__ bool scale(float *down, float *up) {
        const float of_warp = warp_largest(most);
        if (lane == 0)
            largest[threadIdx.x / 32] = of_warp;
        __syncthreads();
        return row_scale(warp_largest(lane < ONE_WARPS ? largest[lane] : 0), down, up);
    }

    // What products are multiplied with at the end, by whole warps. up undoes down.
    __device__ __forceinline__ float factor(const ProjectParams &p, float up) const {
        if (!p.gain)
            return up;
        if (runs > FEW_RUNS)
            return __fmul_rn(inverse_rms(squares, p.width, p.inverse_width, p.eps), up);
        // What inverse_rms adds to these are zeros.
        const float4 a = *(const float4 *)squares, b = *(const float4 *)(squares + 4);
        const float even = __fadd_rn(__fadd_rn(a.x, b.x), __fadd_rn(a.z, b.z)), odd = __fadd_rn(__fadd_rn(a.y, b.y), __fadd_rn(a.w, b.w));
        return __fmul_rn(rsqrtf(__fadd_rn(__fmul_rn(__fadd_rn(even, odd), p.inverse_width), p.eps)), up);
    }
};

// One of a block's outputs, for the thread that finishes it: all that is known before the
// predecessor's end, and the residual, which is there after it.
struct Output {
    bool there, biased;
    uint32_t number;
    float *to;
    float down, bias, other_bias, residual;

    __device__ __forceinline__ Output() {}
    __device__ __forceinline__ Output(const ProjectParams &p, uint32_t tile, uint32_t i) : residual(0) {
        const Place place(p, tile);
        const Matrix &m = p.matrix[place.matrix];
        number = place.tile * 16 + i;
        there = number < m.outs;
        biased = there && m.bias;
        to = (float *)m.out + number;
        down = m.down;
        bias = biased ? ((const float *)m.bias)[number] : 0;
        other_bias = there && p.gated && p.matrix[1].bias ? ((const float *)p.matrix[1].bias)[number] : 0;
    }
    // So that nothing of it is found again behind the products.
    __device__ __forceinline__ void keep() {
        to = kept(to);
        down = kept(down);
        there = kept((uint32_t)there);
    }
    __device__ __forceinline__ void load_residual(const ProjectParams &p) {
        if (p.residual && there)
            residual = __ldcg((const float *)p.residual + number);
    }
};

// As sum_of; four or eight are on their way at a time.
__device__ __forceinline__ float sum_of_sides(const float *at, uint32_t segments) {
    const bool eight = segments > 4;
    float sum = 0;
#pragma unroll 1
    for (uint32_t s = 0; s < segments; s += 8, at += 8 * 16) {
        float v[8];
#pragma unroll
        for (int i = 0; i < 8; i++)
            if (i < 4 || eight)
                v[i] = at[i * 16];
        sum = add_four(sum, s == 0, v, segments);
        if (eight)
            sum = add_four(sum, false, v + 4, segments);
    }
    return sum;
}

template <bool FIRST, class A, class B> struct Choose { typedef A type; };
template <class A, class B> struct Choose<false, A, B> { typedef B type; };

// A block has contiguous tiles of its share, equally many as the others or one more. Its
// warps share them: so many as a tile has sides (segments, of both matrices with a gate)
// work on a tile together.
//
// Dynamic shared memory, oneShared in the host's words: what Row has; the sums of the
// sides, [tile][side][16 outputs] with 16 floats more a tile, for the banks; the warps'
// rings.
template <class W> __device__ __forceinline__ void one(const ProjectParams &p, const Share &share) {
    extern __shared__ __align__(16) char shared[];
    using Weights = typename Choose<(W::AT_ONCE > 1), Direct<W>, typename Choose<W::AT_ONCE == 1, Stepwise<W>, Ring<W>>::type>::type;
    const uint32_t tid = threadIdx.x, lane = tid % 32, warp = tid / 32;
    const uint32_t block = blockIdx.x - share.block;
    const uint32_t first = share.tile + block * share.each + min(block, share.more), tiles = share.each + (block < share.more);
    const uint32_t segments = 1u << share.segments_log, log = share.segments_log + p.gated, sides = 1u << log;
    const uint32_t side = warp & (sides - 1), part = side >> share.segments_log, segment = side & (segments - 1);
    const uint32_t begin = segment_begin<W>(segment, share.steps, share.segments_log), end = segment_begin<W>(segment + 1, share.steps, share.segments_log);

    Row row(p, shared);
    float *parts = row.end();
    // What is needed behind the wait is found before it, in bytes of shared memory: the warp's
    // slots; where the lane reads the row, and leaves sums of the warp's first tile; where
    // the thread finds those of its first output.
    uint32_t slots = (uint32_t)((char *)(parts + tiles * (sides + 1) * 16) - shared) + warp * share.ring;
    if (W::CHUNKS == 2) // see Ring
        slots = kept(slots);
    const uint32_t halves_at = kept(lane % 4 * 8 + begin * W::CHUNKS * 32);
    const uint32_t sums_at = kept((uint32_t)((char *)(parts + (warp >> log) * (sides + 1) * 16 + side * 16 + lane / 4) - shared));
    const uint32_t from_at = kept((uint32_t)((char *)(parts + tid / 16 * (sides + 1) * 16 + tid % 16) - shared));
    const uint32_t tile_bytes = kept((sides + 1) * 64), tiles_apart = kept(ONE_WARPS >> log);
    float down = 1, up = 1;
    Output output;
    // A second time those rows with values that halves do not hold as they are.
#pragma unroll 1
    for (bool again = false;; again = true) {
        uint32_t tile = warp >> log;
        Weights weights(p, shared + slots, lane, part, share.steps, begin, end, first + tile, tiles_apart, first + tiles);
        weights.fill();
        row.expect(p);
        output = Output(p, first + min(tid / 16, tiles - 1), tid % 16);
        auto up_of = [&] { return p.matrix[p.gated ? part : Place(p, first + tile).matrix].up; };
        float scale_up = up_of();
        output.keep();
        uint32_t to = sums_at;
        let_next_start(); // rather than first of all: faster with most models (lab)
        wait_for_previous();
        row.load(p);
        output.load_residual(p);
        if (tile < tiles)
            weights.make(scale_up);
        row.round(p, down);
        // Whether halves hold the values as they are, said in two parts by the barriers.
        const bool large_enough = __syncthreads_or(row.most >= 0.00390625f);
        row.sum_squares(p);
#pragma unroll 1
        while (tile < tiles) {
            RowSink sink(shared + halves_at);
            weights.multiply(sink, scale_up);
            if (lane % 4 == 0) {
                *(float *)(shared + to) = sink.v[0];
                *(float *)(shared + to + 32) = sink.v[2];
            }
            to += tiles_apart * tile_bytes;
            tile += tiles_apart;
            if (tile < tiles)
                scale_up = up_of();
        }
        const bool too_large = __syncthreads_or(row.most > 32768.f);
        if (again || (large_enough && !too_large) || !row.scale(&down, &up))
            break;
        __syncthreads(); // the largest have been read
    }
    const float scale = row.factor(p, up);
    uint64_t best = 0;
    const float *from = (const float *)(shared + from_at);
#pragma unroll 1
    for (uint32_t i = tid; i < tiles * 16; from += ONE_THREADS / 64 * tile_bytes) {
        if (output.there) {
            float y = __fmul_rn(sum_of_sides(from, segments), __fmul_rn(scale, output.down));
            if (output.biased)
                y = __fadd_rn(y, output.bias);
            if (p.gated) {
                float other = __fmul_rn(sum_of_sides(from + segments * 16, segments), __fmul_rn(scale, p.matrix[1].down));
                if (p.matrix[1].bias)
                    other = __fadd_rn(other, output.other_bias);
                y = __fmul_rn(silu(y), other);
            }
            if (p.residual)
                y = __fadd_rn(y, output.residual);
            *output.to = y;
            best = max(best, ranked(y, output.number));
        }
        i += ONE_THREADS;
        if (i < tiles * 16) {
            output = Output(p, first + i / 16, i % 16);
            output.load_residual(p);
        }
    }
    if (p.best)
        raise<32>(p, 0, best, best_seen(p, 0));
}
