// Projections of many rows on Hopper's tensor cores: wgmma, whose operand A, the
// weights, comes from registers, where formats.cuh puts it, and whose operand B,
// the activations, from shared memory. For the same k in the same order it gives the
// same bits as mma.sync (measured: RESULTS.md), so this is the third kernel
// of the one arithmetic that project.cuh describes.
//
// A block of two warpgroups makes 128 outputs of 128 rows; with a gate, 64 outputs,
// one warpgroup each matrix. Activations come 64 columns at a time, four such
// stages in flight. Prepare has ordered the 16 columns of a chunk as the registers
// have them (PrepareParams.wgmma), and a stage's rows of 128 bytes are swizzled: 16
// bytes at place c of row r lie at c ^ r%8.
#pragma once
#include "project.cuh"

static constexpr uint32_t WIDE_ROWS = 128, WIDE_THREADS = 256, WIDE_COLUMNS = 64, WIDE_STAGES = 4;
static constexpr uint32_t WIDE_HALF_BYTES = WIDE_ROWS * WIDE_COLUMNS * 2, WIDE_SUM_BYTES = WIDE_ROWS * WIDE_COLUMNS / 16 * 4;
static constexpr uint32_t WIDE_STAGE = WIDE_HALF_BYTES + WIDE_SUM_BYTES;

// d[64 x N] (+)= a[64 x 16] * b[16 x N], a warpgroup together. The registers of a
// warp are those of N/8 mma.m16n8k16 side by side: d[4*g ... + 3] for rows 8g ... + 7
// of activations. Without add, d is written anew.
__device__ __forceinline__ void wgmma128(float *d, const uint32_t *a, uint64_t b, bool add) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %69, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n128k16.f32.f16.f16 {"
                 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
                 "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
                 "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
                 "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
                 "}, {%64, %65, %66, %67}, %68, p, 1, 1, 0;\n}"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]),
                   "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]),
                   "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]),
                   "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31]),
                   "+f"(d[32]), "+f"(d[33]), "+f"(d[34]), "+f"(d[35]), "+f"(d[36]), "+f"(d[37]), "+f"(d[38]), "+f"(d[39]),
                   "+f"(d[40]), "+f"(d[41]), "+f"(d[42]), "+f"(d[43]), "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47]),
                   "+f"(d[48]), "+f"(d[49]), "+f"(d[50]), "+f"(d[51]), "+f"(d[52]), "+f"(d[53]), "+f"(d[54]), "+f"(d[55]),
                   "+f"(d[56]), "+f"(d[57]), "+f"(d[58]), "+f"(d[59]), "+f"(d[60]), "+f"(d[61]), "+f"(d[62]), "+f"(d[63])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"((int)add));
#endif
}
__device__ __forceinline__ void wgmma64(float *d, const uint32_t *a, uint64_t b, bool add) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %37, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n64k16.f32.f16.f16 {"
                 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
                 "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
                 "}, {%32, %33, %34, %35}, %36, p, 1, 1, 0;\n}"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]),
                   "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]),
                   "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]),
                   "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"((int)add));
#endif
}

__device__ __forceinline__ void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void wgmma_wait() { asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory"); }

// The stages of activations on their way through shared memory.
struct Stages {
    const ProjectParams &p;
    char *shared;
    uint32_t first_row, count, next, current; // stages in all, to be asked for, in use

    __device__ __forceinline__ Stages(const ProjectParams &p, char *shared, uint32_t first_row)
        : p(p), shared(shared), first_row(first_row), count(p.stride / WIDE_COLUMNS), next(0), current(~0u) {
        for (uint32_t i = 0; i + 1 < WIDE_STAGES; i++)
            ask();
    }
    __device__ __forceinline__ void ask() {
        if (next < count) {
            char *to = shared + next % WIDE_STAGES * WIDE_STAGE;
#pragma unroll
            for (uint32_t i = 0; i < WIDE_HALF_BYTES / 16 / WIDE_THREADS; i++) {
                uint32_t n = threadIdx.x + i * WIDE_THREADS, r = n / 8, c = n % 8, row = first_row + r;
                bool there = row < p.rows;
                copy_async(to + r * 128 + (c ^ r % 8) * 16,
                           (const char *)p.half + (there ? ((uint64_t)row * p.stride + next * WIDE_COLUMNS) * 2 + c * 16 : 0), there);
            }
            if (threadIdx.x < WIDE_ROWS) {
                uint32_t row = first_row + threadIdx.x;
                bool there = row < p.rows;
                copy_async(to + WIDE_HALF_BYTES + threadIdx.x * 16,
                           (const char *)p.sums + (there ? ((uint64_t)row * (p.stride / 16) + next * (WIDE_COLUMNS / 16)) * 4 : 0), there);
            }
        }
        next++;
        copy_commit();
    }
    // Waits for the next stage. All warps have done with the one before.
    __device__ __forceinline__ void enter() {
        copy_wait<WIDE_STAGES - 2>();
        asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); // wgmma reads by another way than copies write
        __syncthreads();
        current++;
        ask();
    }
    __device__ __forceinline__ const char *half() const { return shared + current % WIDE_STAGES * WIDE_STAGE; }
    // The matrix descriptor of a chunk of 16 columns, of rows from row on: 128-byte
    // swizzle, 1,024 bytes from 8 rows to the next 8.
    __device__ __forceinline__ uint64_t chunk(int n, uint32_t row = 0) const {
        uint32_t at = (uint32_t)__cvta_generic_to_shared(half()) + n * 32 + row * 128;
        return (uint64_t)((at & 0x3ffff) >> 4) | (uint64_t)1 << 16 | (uint64_t)64 << 32 | (uint64_t)1 << 62;
    }
};

// Sums of 16 outputs of each warp and 128 rows: v of the segment at hand, total of
// those before.
struct WideSums {
    static constexpr int N = WIDE_ROWS / 2;
    float v[N], total[N];
    uint32_t segment, end; // where the segment ends, in steps

    __device__ __forceinline__ WideSums(const ProjectParams &p) : segment(0), end(segment_begin(1, p)) {
#pragma unroll
        for (int i = 0; i < N; i++)
            v[i] = 0;
    }
    // Closes the segments that end before a step; one may be empty.
    __device__ __forceinline__ bool flush(const ProjectParams &p, uint32_t step) {
        bool any = false;
        while (segment < p.segments && step >= end) {
            any = true;
#pragma unroll
            for (int i = 0; i < N; i++) {
                total[i] = segment ? __fadd_rn(total[i], v[i]) : v[i];
                v[i] = 0;
            }
            segment++;
            end = segment_begin(segment + 1, p);
        }
        return any;
    }
};

// What quantized formats give their chunks to. Chunks come in order; every fourth
// enters a stage. A product is made for 64 rows at a time: registers are short.
struct WideSink {
    WideSums &sums;
    Stages &stages;
    uint32_t lane;
    uint32_t at; // chunks of the stage that have been used

    __device__ __forceinline__ WideSink(WideSums &sums, Stages &stages, uint32_t lane) : sums(sums), stages(stages), lane(lane), at(0) {}
    __device__ __forceinline__ void scaled(float *to, const float *part, const float *scale, const float *offset, float x0, float x1) {
        to[0] = fmaf(offset[0], x0, fmaf(scale[0], part[0], to[0]));
        to[1] = fmaf(offset[0], x1, fmaf(scale[0], part[1], to[1]));
        to[2] = fmaf(offset[1], x0, fmaf(scale[1], part[2], to[2]));
        to[3] = fmaf(offset[1], x1, fmaf(scale[1], part[3], to[3]));
    }
    // The sums of a chunk: of the lane's first column in group g, and four floats on
    // of the second.
    __device__ __forceinline__ const float *chunk_sums(int g) const {
        return (const float *)(stages.half() + WIDE_HALF_BYTES) + (g * 8 + lane % 4 * 2) * 4 + at;
    }
    template <bool OFFSET> __device__ __forceinline__ void pair(int, const uint32_t *a, const uint32_t *b, const float *scale, const float *offset) {
        if (at == 0)
            stages.enter();
#pragma unroll
        for (int h = 0; h < 2; h++) {
            float part[32];
            wgmma_fence();
            wgmma64(part, a, stages.chunk(at, 64 * h), false);
            wgmma64(part, b, stages.chunk(at + 1, 64 * h), true);
            wgmma_commit();
            wgmma_wait();
#pragma unroll
            for (int g = 0; g < 8; g++) {
                float2 x = *(const float2 *)chunk_sums(8 * h + g), y = *(const float2 *)(chunk_sums(8 * h + g) + 4);
                scaled(sums.v + (8 * h + g) * 4, part + g * 4, scale, offset, __fadd_rn(x.x, x.y), __fadd_rn(y.x, y.y));
            }
        }
        at = (at + 2) % 4;
    }
    __device__ __forceinline__ void single(int, const uint32_t *a, const float *scale, const float *offset) {
        if (at == 0)
            stages.enter();
#pragma unroll
        for (int h = 0; h < 2; h++) {
            float part[32];
            wgmma_fence();
            wgmma64(part, a, stages.chunk(at, 64 * h), false);
            wgmma_commit();
            wgmma_wait();
#pragma unroll
            for (int g = 0; g < 8; g++)
                scaled(sums.v + (8 * h + g) * 4, part + g * 4, scale, offset, chunk_sums(8 * h + g)[0], chunk_sums(8 * h + g)[4]);
        }
        at = (at + 1) % 4;
    }
};

// 16-bit weights: a stage's four chunks one after another, those of the next
// stage on their way.
template <class W> __device__ __forceinline__ void wide_plain(const ProjectParams &p, WideSums &sums, Stages &stages, Cursor &at, W *w, uint32_t lane) {
    bool fresh = true;
#pragma unroll 1
    for (uint32_t step = 0; step < p.steps; step += 4) {
        uint32_t a[4][4];
#pragma unroll
        for (int u = 0; u < 4; u++)
            w[u].fragment(a[u]);
        advance<W>(at, 4);
        stages.enter();
#pragma unroll
        for (int u = 0; u < 4; u++)
            if (step + 4 + u < p.steps)
                w[u].load(at, u);
        wgmma_fence();
#pragma unroll
        for (int u = 0; u < 4; u++)
            if (step + u < p.steps) {
                if (step + u >= sums.end) {
                    wgmma_commit();
                    wgmma_wait();
                    sums.flush(p, step + u);
                    fresh = true;
                    wgmma_fence();
                }
                wgmma128(sums.v, a[u], stages.chunk(u), !fresh);
                fresh = false;
            }
        wgmma_commit();
        wgmma_wait();
    }
}

template <class W> __device__ __forceinline__ void wide_quantized(const ProjectParams &p, WideSums &sums, Stages &stages, Cursor &at, W *w, uint32_t lane) {
    WideSink sink(sums, stages, lane);
#pragma unroll 1
    for (uint32_t step = 0; step < p.steps; step += W::AHEAD) {
#pragma unroll
        for (int u = 0; u < W::AHEAD; u++) {
            if (step + u >= p.steps)
                break;
            sums.flush(p, step + u);
            w[u].give(sink, lane);
            if (step + u + W::AHEAD < p.steps)
                w[u].load(at, u + W::AHEAD);
        }
        advance<W>(at, W::AHEAD);
    }
}

// Dynamic shared memory: the stages; at the end, the outputs.
template <class W> __device__ __forceinline__ void wide(const ProjectParams &p) {
    extern __shared__ __align__(1024) char shared[];
    const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const uint32_t first_row = blockIdx.x * WIDE_ROWS, tiles_here = p.gated ? 4 : 8;
    let_next_start();
    Place place(p, blockIdx.y * tiles_here + (p.gated ? warp % 4 : warp));
    const Matrix &m = p.matrix[p.gated ? warp / 4 : place.matrix];
    Cursor at = cursor<W>(m, place.there ? place.tile : 0, p.steps, 0, lane);
    W w[W::AHEAD]; // steps on their way
#pragma unroll
    for (int u = 0; u < W::AHEAD; u++)
        if (u < p.steps)
            w[u].load(at, u);
    wait_for_previous();
    Stages stages(p, shared, first_row);
    WideSums sums(p);
    if constexpr (W::CHUNKS == 1)
        wide_plain<W>(p, sums, stages, at, w, lane);
    else
        wide_quantized<W>(p, sums, stages, at, w, lane);
    sums.flush(p, p.steps);
    copy_wait<0>();

    // Through shared memory, so that outputs are written side by side and gates meet.
    float *parts = (float *)shared; // [128][rows + 1]
    constexpr uint32_t STRIDE = WIDE_ROWS + 1;
    __syncthreads(); // the stages are free
#pragma unroll
    for (int i = 0; i < sums.N; i++)
        parts[(warp * 16 + lane / 4 + i % 4 / 2 * 8) * STRIDE + i / 4 * 8 + lane % 4 * 2 + i % 2] = sums.total[i];
    __syncthreads();
    const uint32_t outputs = tiles_here * 16, o = threadIdx.x % outputs;
    Place there(p, blockIdx.y * tiles_here + o / 16);
    const Matrix &first = p.matrix[there.matrix];
    const uint32_t output = there.tile * 16 + o % 16;
    if (!there.there || output >= first.outs)
        return;
#pragma unroll 4
    for (uint32_t r = threadIdx.x / outputs; r < WIDE_ROWS; r += WIDE_THREADS / outputs) {
        const uint32_t row = first_row + r;
        if (row < p.rows)
            finish(p, first, output, row, parts[o * STRIDE + r], p.gated ? parts[(64 + o) * STRIDE + r] : 0.f,
                   ((const float *)p.scale)[row], residual_of(p, first, output, row));
    }
}
