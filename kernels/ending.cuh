// How wide ends: the sums of segments, in shared memory, become outputs. A thread has four
// outputs side by side and takes row after row, so that what is read and written comes
// 16 bytes at a time, and no condition is asked twice. Written for one output and one row at
// a time, it took up to half as long as the products of 4,096 columns.
#pragma once
#include "project.cuh"

static constexpr uint32_t WIDE_WARPS = 8, WIDE_WORKERS = WIDE_WARPS * 32, WIDE_OUTPUTS = 128;

// Where what is at `at` here is in the shared memory of a block of the cluster.
__device__ __forceinline__ uint32_t shared_of(const float *at, uint32_t rank) {
    uint32_t local = (uint32_t)__cvta_generic_to_shared(at), remote = local;
#if __CUDA_ARCH__ >= 900
    asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(remote) : "r"(local), "r"(rank));
#endif
    return remote;
}
// Four floats from there; 0, with nothing read, if !wanted.
__device__ __forceinline__ float4 load_shared(uint32_t at, bool wanted) {
    float4 v = {};
#if __CUDA_ARCH__ >= 900
    asm volatile("{\n.reg .pred p;\nsetp.ne.u32 p, %5, 0;\n@p ld.shared::cluster.v4.f32 {%0, %1, %2, %3}, [%4];\n}"
                 : "+f"(v.x), "+f"(v.y), "+f"(v.z), "+f"(v.w) : "r"(at), "r"((int)wanted) : "memory");
#endif
    return v;
}

// Among the threads that multiply; of a cluster's blocks, or of one.
__device__ __forceinline__ void workers_barrier(bool cluster) {
    if (cluster)
        cluster_barrier(true); // does not wait for those that have ended
    else
        asm volatile("bar.sync 1, %0;" ::"n"(WIDE_WORKERS) : "memory");
}

// What is added where there is nothing to add: it changes no number, not even -0.
static constexpr float NOTHING = -0.f;

// What products become besides their sums and a row's factor: of up to four outputs of a
// matrix, side by side.
struct Touch {
    float down, bias[4];

    __device__ __forceinline__ Touch(const Matrix &m, uint32_t number, uint32_t count) : down(m.down), bias{NOTHING, NOTHING, NOTHING, NOTHING} {
        if (m.bias)
#pragma unroll
            for (int i = 0; i < 4; i++)
                bias[i] = i < count ? ((const float *)m.bias)[number + i] : NOTHING;
    }
    __device__ __forceinline__ float4 of(float4 sum, float scale) const {
        const float by = __fmul_rn(scale, down);
        return make_float4(__fadd_rn(__fmul_rn(sum.x, by), bias[0]), __fadd_rn(__fmul_rn(sum.y, by), bias[1]),
                           __fadd_rn(__fmul_rn(sum.z, by), bias[2]), __fadd_rn(__fmul_rn(sum.w, by), bias[3]));
    }
};

// Where they go.
struct Outputs {
    float *out;
    const float *residual; // as out; or 0
    uint32_t number, count, outs;
    bool together; // all four, or none, at addresses that are multiples of 16

    __device__ __forceinline__ Outputs(const ProjectParams &p, const Matrix &m, uint32_t number, bool there)
        : out((float *)m.out), residual((const float *)p.residual), number(number), count(there && number < m.outs ? min(m.outs - number, 4) : 0),
          outs(m.outs), together(m.outs % 4 == 0 && ((m.out | p.residual) & 15) == 0) {}
    __device__ __forceinline__ float4 residual_of(uint32_t row) const {
        float4 v = make_float4(NOTHING, NOTHING, NOTHING, NOTHING);
        if (!residual)
            return v;
        const float *at = residual + (uint64_t)row * outs + number;
        if (together)
            return count ? __ldcg((const float4 *)at) : v;
        v.x = count > 0 ? __ldcg(at) : NOTHING;
        v.y = count > 1 ? __ldcg(at + 1) : NOTHING;
        v.z = count > 2 ? __ldcg(at + 2) : NOTHING;
        v.w = count > 3 ? __ldcg(at + 3) : NOTHING;
        return v;
    }
    __device__ __forceinline__ void store(uint32_t row, float4 y) const {
        float *at = out + (uint64_t)row * outs + number;
        if (together) {
            if (count)
                *(float4 *)at = y;
            return;
        }
        if (count > 0)
            at[0] = y.x;
        if (count > 1)
            at[1] = y.y;
        if (count > 2)
            at[2] = y.z;
        if (count > 3)
            at[3] = y.w;
    }
    // The best of them; 0 if there are none.
    __device__ __forceinline__ uint64_t best(float4 y) const {
        uint64_t best = count > 0 ? ranked(y.x, number) : 0;
        best = count > 1 ? max(best, ranked(y.y, number + 1)) : best;
        best = count > 2 ? max(best, ranked(y.z, number + 2)) : best;
        return count > 3 ? max(best, ranked(y.w, number + 3)) : best;
    }
};

// The sums of a block, and the rows that it finishes.
struct Ending {
    const float *parts;   // in shared memory: [place][N rows][stride]; the first place has all if there is one sharer
    uint32_t stride;      // floats of a row, with four more than there are
    uint32_t place;       // floats of a place
    uint32_t places_log;  // of a sharer: a block, or each joint warpgroup of it
    uint32_t first_tile, tiles; // of outputs; the first of both matrices with a gate
    uint32_t first_row;         // of the block
    uint32_t begin, end;        // those to finish
};

// Where the blocks of the same outputs and rows leave their sums, numbered from 0 on:
// [block][place][N rows][OUTPUTS, of both matrices].
template <int N, int OUTPUTS> struct Memory {
    float *sums;
    uint32_t *count; // of them that are there
    __device__ __forceinline__ Memory(const ProjectParams &p, uint32_t block, uint32_t places_log)
        : sums((float *)p.partial + (uint64_t)(block * p.splits << places_log) * (N * OUTPUTS)), count((uint32_t *)p.count + block) {}
};

// Leaves the sums of a block's rows there, and says whether it is the last to do so. A word
// of shared memory must be free at last.
template <int N, int OUTPUTS> __device__ __forceinline__ bool hand_over(const ProjectParams &p, const Ending &e, const Memory<N, OUTPUTS> &memory, uint32_t rank, uint32_t *last) {
    for (uint32_t place = 0; place < 1u << e.places_log; place++) {
        const float *from = e.parts + place * e.place;
        float *to = memory.sums + ((rank << e.places_log) + place) * (N * OUTPUTS);
#pragma unroll 4
        for (uint32_t i = threadIdx.x; i < (e.end - e.begin) * (OUTPUTS / 4); i += WIDE_WORKERS)
            ((float4 *)to)[i] = *(const float4 *)(from + i / (OUTPUTS / 4) * e.stride + i % (OUTPUTS / 4) * 4);
    }
    workers_barrier(false);
    if (threadIdx.x == 0) {
        __threadfence(); // the sums before the count
        *last = atomicAdd(memory.count, 1) + 1 == p.splits;
        if (*last) {
            *memory.count = 0; // for the next launch
            __threadfence();
        }
    }
    workers_barrier(false);
    return *last;
}

// By the first WIDE_WORKERS threads. Sums come from memory with FAR, and else from the shared
// memory of the block and of others of its cluster.
template <bool FAR, int N, int OUTPUTS> __device__ __forceinline__ void finish_rows(const ProjectParams &p, const Ending &e, const float *memory) {
    const uint32_t lanes = e.tiles * 4, o = threadIdx.x % lanes * 4, step = WIDE_WORKERS / lanes; // threads of a row; rows at a time
    const Place place(p, e.first_tile + o / 16);
    const Outputs outputs(p, p.matrix[place.matrix], place.tile * 16 + o % 16, place.there);
    const Touch touch(p.matrix[place.matrix], outputs.number, outputs.count);
    // What comes from memory, or from other blocks, for AT_ONCE rows is on its way before
    // the first is used. A thread has no more than two where sharers are many: in products
    // that take so few microseconds what counts is how many instructions there are.
    constexpr int AT_ONCE = N > 64 ? 4 : 2;
    const uint32_t count = p.splits << p.joint << e.places_log; // segments, or the four groups; or all is one
    auto sums_of = [&](float4 *sum, uint32_t o, const uint32_t *row, const bool *there) {
        if (!FAR && count >> e.places_log == 1) {
#pragma unroll
            for (int n = 0; n < AT_ONCE; n++)
                sum[n] = *(const float4 *)(e.parts + (row[n] - e.first_row) * e.stride + o);
            return;
        }
#pragma unroll 1
        for (uint32_t s = 0; s < count; s += 4) {
            float4 v[AT_ONCE][4];
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const uint32_t sharer = s + i >> e.places_log, place = s + i - (sharer << e.places_log), rank = sharer >> p.joint, side = sharer & p.joint;
                const uint32_t at = FAR ? 0 : shared_of(e.parts + place * e.place + side * 64 + o, rank);
#pragma unroll
                for (int n = 0; n < AT_ONCE; n++)
                    v[n][i] = FAR ? __ldcg((const float4 *)(memory + (((rank << e.places_log) + place) * N + row[n] - e.first_row) * OUTPUTS + side * 64 + o))
                                  : load_shared(at + (row[n] - e.first_row) * (e.stride * 4), there[n]);
            }
#pragma unroll
            for (int n = 0; n < AT_ONCE; n++)
                sum[n] = add_four(sum[n], s == 0, v[n], count);
        }
    };
    // Whole warps go round together, of two rows, of one, or of half of one.
    const uint32_t in_warp = threadIdx.x % 32 / lanes;
#pragma unroll 1
    for (uint32_t first = e.begin + threadIdx.x / 32 * 32 / lanes; first < e.end; first += AT_ONCE * step) {
        uint32_t row[AT_ONCE];
        bool there[AT_ONCE];
        float scale[AT_ONCE];
        float4 residual[AT_ONCE], y[AT_ONCE];
#pragma unroll
        for (int n = 0; n < AT_ONCE; n++) {
            row[n] = min(first + in_warp + n * step, e.end - 1);
            there[n] = first + in_warp + n * step < e.end;
            scale[n] = ((const float *)p.scale)[row[n]];
            residual[n] = outputs.residual_of(row[n]);
        }
        sums_of(y, o, row, there);
#pragma unroll
        for (int n = 0; n < AT_ONCE; n++)
            y[n] = touch.of(y[n], scale[n]);
        if (p.gated) {
            const Touch gate(p.matrix[1], outputs.number, outputs.count);
            float4 other[AT_ONCE];
            sums_of(other, e.tiles * 16 + o, row, there);
#pragma unroll
            for (int n = 0; n < AT_ONCE; n++) {
                const float4 by = gate.of(other[n], scale[n]);
                y[n] = make_float4(__fmul_rn(silu(y[n].x), by.x), __fmul_rn(silu(y[n].y), by.y), __fmul_rn(silu(y[n].z), by.z), __fmul_rn(silu(y[n].w), by.w));
            }
        }
#pragma unroll
        for (int n = 0; n < AT_ONCE; n++) {
            y[n] = add(y[n], residual[n]);
            if (there[n])
                outputs.store(row[n], y[n]);
        }
        if (!p.best)
            continue;
        uint64_t seen[AT_ONCE];
#pragma unroll
        for (int n = 0; n < AT_ONCE; n++)
            seen[n] = best_seen(p, row[n]);
#pragma unroll
        for (int n = 0; n < AT_ONCE; n++)
            raise<16>(p, row[n], there[n] ? outputs.best(y[n]) : 0, seen[n]);
    }
}
