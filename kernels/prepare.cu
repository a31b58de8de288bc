// What enters a projection of many rows. See activations.cuh.
#include "activations.cuh"

// Octets of a thread that stay in registers from one walk over the row to the next.
static constexpr int KEPT = 2;

// A block of up to 32 warps a row: an octet for each thread, or several. Dynamic shared
// memory: a float for each of the row's runs.
KIGO_KERNEL(prepare, PrepareParams, __launch_bounds__(1024, 1)) {
    extern __shared__ float squares[];
    __shared__ float largest[32];
    const uint32_t row = blockIdx.x, tid = threadIdx.x, lane = tid % 32, warp = tid / 32, span = blockDim.x * 8;
    const float *gain = (const float *)p.gain;
    let_next_start();
    wait_for_previous();
    const uint32_t from = p.pick ? ((const int32_t *)p.pick)[row] : row;
    const float *in = (const float *)p.in + (uint64_t)from * p.width;
    auto weighted = [&](uint32_t e) {
        Octet x, g;
        x.load<false>(in, e, p.width);
        if (gain) {
            g.load<false>(gain, e, p.width);
            x.multiply(g);
        }
        return x;
    };
    float most = 0;
    // Whole warps go round together, for the exchange of sums.
    auto measure = [&](uint32_t e) {
        Octet x, g;
        x.load<false>(in, e, p.width);
        if (gain)
            g.load<false>(gain, e, p.width);
        const float sum = warp_sum(x.squares());
        if (lane == 0)
            squares[e / RUN] = sum;
        if (gain)
            x.multiply(g);
        most = x.largest(most);
        return x;
    };
    Octet kept[KEPT];
#pragma unroll
    for (int i = 0; i < KEPT; i++)
        if (tid * 8 + i * span - lane * 8 < p.width)
            kept[i] = measure(tid * 8 + i * span);
#pragma unroll 1
    for (uint32_t e = tid * 8 + KEPT * span; e - lane * 8 < p.width; e += span)
        measure(e);
    most = warp_largest(most);
    if (lane == 0)
        largest[warp] = most;
    __syncthreads();
    most = warp_largest(lane < blockDim.x / 32 ? largest[lane] : 0);
    float down, up;
    row_scale(most, &down, &up);
    const float inverse = gain ? inverse_rms(squares, p.width, p.inverse_width, p.eps) : 1;
    if (tid == 0)
        ((float *)p.scale)[row] = __fmul_rn(inverse, up);
    char *half = (char *)p.half + (uint64_t)row * p.stride * 2;
    auto leave = [&](uint32_t e, const Octet &x) {
        if (p.wide)
            for (int i = 0; i < 8; i++)
                if (e + i < p.width)
                    ((float *)p.wide)[(uint64_t)row * p.width + e + i] = x.v[i] * inverse;
        if (!p.stage_rows) {
            x.round(half + e * 2, down);
            return;
        }
        // Lane c of wgmma's operand has k 4c ... + 3 where the instruction has 2c,
        // 2c + 1, 2c + 8, 2c + 9. An octet is what two lanes have of a chunk.
        uint32_t w[4];
        x.pack(w, down);
        char *at = (char *)p.half + ((uint64_t)(e / 64) * p.stage_rows + row) * 128 + e / 8 % 2 * 8;
        const uint32_t piece = e / 16 % 4 * 2;
        *(uint2 *)(at + (piece ^ row % 8) * 16) = make_uint2(w[0], w[2]);
        *(uint2 *)(at + ((piece + 1) ^ row % 8) * 16) = make_uint2(w[1], w[3]);
    };
    // What is beyond the width is 0, up to a multiple of 64.
#pragma unroll
    for (int i = 0; i < KEPT; i++)
        if (tid * 8 + i * span < p.stride)
            leave(tid * 8 + i * span, kept[i]);
#pragma unroll 1
    for (uint32_t e = tid * 8 + KEPT * span; e < p.stride; e += span)
        leave(e, weighted(e));
}

KIGO_KERNEL(gate, GateParams) {
    uint64_t step = (uint64_t)gridDim.x * blockDim.x;
    let_next_start();
    wait_for_previous();
    for (uint64_t i = blockIdx.x * (uint64_t)blockDim.x + threadIdx.x; i < p.count; i += step)
        ((float *)p.out)[i] = silu(((const float *)p.gate)[i]) * ((const float *)p.up)[i];
}
