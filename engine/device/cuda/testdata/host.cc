// Runs the kernels of kernels/choose.cu on a processor, one block after another, the
// threads of a block as coroutines that take turns at barriers. For tests: see
// ../host_test.go, which says what is read and written.
#include <csetjmp>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <cmath>
#include <algorithm>
#include <functional>
#include <utility>
#include <vector>
#include <ucontext.h>

using std::max;
using std::min;
#define int64_t long long
#define uint64_t unsigned long long
#define __device__
#define __global__
#define __grid_constant__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __shared__ static

struct Dim { uint32_t x, y; };
static Dim blockIdx, gridDim, threadIdx;

// Threads of a block. One that has not ended waits at a barrier of the block or of its
// warp: of each there is one, which ends when all have come.
struct Thread {
    jmp_buf at;
    ucontext_t start;
    bool begun, ended;
    std::vector<char> stack = std::vector<char>(64 << 10);
};
struct Barrier { uint32_t come, phase; };
static std::vector<Thread> threads;
static std::vector<Barrier> barriers; // the block's, then the warps'
static std::vector<uint64_t> values;  // that warps exchange
static jmp_buf scheduler;
static ucontext_t home;
static uint32_t current, live;
static std::function<void()> body;

static void yield() {
    if (!_setjmp(threads[current].at))
        _longjmp(scheduler, 1);
}
static void wait_at(Barrier &b, uint32_t all) {
    uint32_t phase = b.phase;
    if (++b.come == all) {
        b.come = 0;
        b.phase++;
        return;
    }
    while (b.phase == phase)
        yield();
}
static void thread_main() {
    body();
    threads[current].ended = true;
    live--;
    _longjmp(scheduler, 1);
}
static void run_block(uint32_t count) {
    if (threads.size() < count)
        threads.resize(count);
    barriers.assign(1 + count / 32, Barrier{});
    values.assign(count, 0);
    for (auto &t : threads)
        t.begun = t.ended = false;
    live = count;
    volatile uint32_t next = 0;
    while (live) {
        current = next;
        next = (next + 1) % count;
        Thread &t = threads[current];
        if (t.ended)
            continue;
        threadIdx.x = current;
        if (_setjmp(scheduler))
            continue;
        if (t.begun)
            _longjmp(t.at, 1);
        t.begun = true;
        getcontext(&t.start);
        t.start.uc_stack.ss_sp = t.stack.data();
        t.start.uc_stack.ss_size = t.stack.size();
        t.start.uc_link = &home;
        makecontext(&t.start, thread_main, 0);
        setcontext(&t.start);
    }
}

static void __syncthreads() { wait_at(barriers[0], live); }
static bool __syncthreads_and(bool v) {
    static uint32_t against;
    against += !v;
    __syncthreads();
    const bool all = against == 0;
    __syncthreads();
    against = 0;
    __syncthreads();
    return all;
}
static uint64_t exchange(uint64_t v, uint32_t lane) {
    Barrier &b = barriers[1 + threadIdx.x / 32];
    values[threadIdx.x] = v;
    wait_at(b, 32);
    uint64_t other = values[threadIdx.x / 32 * 32 + lane];
    wait_at(b, 32);
    return other;
}
static uint64_t __shfl_xor_sync(uint32_t, uint64_t v, int d) { return exchange(v, threadIdx.x % 32 ^ d); }
static uint64_t __shfl_up_sync(uint32_t, uint64_t v, uint32_t d) {
    uint32_t lane = threadIdx.x % 32;
    return exchange(v, lane < d ? lane : lane - d);
}

template <class A, class B> static A as(B b) {
    A a;
    memcpy(&a, &b, sizeof a);
    return a;
}
static float __uint_as_float(uint32_t v) { return as<float>(v); }
static uint32_t __float_as_uint(float v) { return as<uint32_t>(v); }
static int64_t __double_as_longlong(double v) { return as<int64_t>(v); }
static double __longlong_as_double(int64_t v) { return as<double>(v); }
static float __fadd_rn(float a, float b) { return a + b; }
static float __fsub_rn(float a, float b) { return a - b; }
static float __fmul_rn(float a, float b) { return a * b; }
static float __fdiv_rn(float a, float b) { return a / b; }
static double __dadd_rn(double a, double b) { return a + b; }
static double __fma_rn(double a, double b, double c) { return std::fma(a, b, c); }
static uint64_t __umul64hi(uint64_t a, uint64_t b) { return (unsigned __int128)a * b >> 64; }
template <class T> static T __ldg(const T *p) { return *p; }
static uint32_t atomicAdd(uint32_t *p, uint32_t v) { return std::exchange(*p, *p + v); }
static uint64_t atomicAdd(uint64_t *p, uint64_t v) { return std::exchange(*p, *p + v); }
static void atomicMax(uint64_t *p, uint64_t v) { *p = max(*p, v); }
static void let_next_start() {}
static void wait_for_previous() {}

struct __half;
struct __nv_bfloat16;
#include "params.h"
#define KIGO_KERNEL(name, Params, ...) static void name(const Params &p)
#include "choose.cu"

template <class P> static void launch(void (*kernel)(const P &), const P &p, uint32_t blocks, uint32_t rows, uint32_t count) {
    body = [&] { kernel(p); };
    gridDim = {blocks, rows};
    for (blockIdx.y = 0; blockIdx.y < rows; blockIdx.y++)
        for (blockIdx.x = 0; blockIdx.x < blocks; blockIdx.x++)
            run_block(count);
}

template <class T> static bool read(T *to, size_t n) { return fread(to, sizeof(T), n, stdin) == n; }

int main() {
    struct {
        uint64_t area;
        uint32_t rows, held, count, share, used, largest, cut, sum;
    } h;
    while (read(&h, 1)) {
        std::vector<uint64_t> in((h.used + 7) / 8), best(h.held), bins(h.rows * kDrawBins, ~0ull), list(h.rows * kDrawRoom, ~0ull);
        std::vector<float> logits((size_t)h.held * h.count);
        if (!read((char *)in.data(), h.used) || !read(logits.data(), logits.size()))
            return 1;
        const std::vector<float> was = logits;
        const uint32_t chunks = (h.count + kDrawChunk - 1) / kDrawChunk;
        std::vector<uint64_t> sums(h.rows * chunks, ~0ull);
        std::vector<DrawState> states(h.rows);
        std::vector<int32_t> out(h.rows);
        memset(states.data(), 0xff, states.size() * sizeof(DrawState));
        DrawRow *rows = (DrawRow *)in.data();
        for (uint32_t i = 0; i < h.rows; i++)
            for (uint64_t *p : {&rows[i].edits, &rows[i].allowed})
                if (*p)
                    *p = (uint64_t)in.data() + (*p - h.area);
        ChooseParams c = {(uint64_t)logits.data(), (uint64_t)best.data(), h.count};
        launch(choose_largest, c, h.share, h.held, THREADS);
        DrawParams p = {(uint64_t)logits.data(), (uint64_t)best.data(), (uint64_t)rows, (uint64_t)states.data(), (uint64_t)bins.data(),
                        (uint64_t)list.data(), (uint64_t)sums.data(), (uint64_t)out.data(), h.count, chunks};
        launch(draw_start, p, 1, h.rows, THREADS);
        if (h.largest)
            launch(draw_largest, p, h.share, h.rows, THREADS);
        if (h.cut) {
            launch(draw_weigh, p, h.share, h.rows, THREADS);
            launch(draw_collect, p, h.share, h.rows, THREADS);
            launch(draw_cut, p, 1, h.rows, SORT_THREADS);
        }
        if (h.sum)
            launch(draw_sum, p, chunks, h.rows, THREADS);
        launch(draw_pick, p, 1, h.rows, SORT_THREADS);
        out.push_back(memcmp(was.data(), logits.data(), logits.size() * 4) == 0);
        fwrite(out.data(), 4, out.size(), stdout);
        fflush(stdout);
    }
}
