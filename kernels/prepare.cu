// What enters a projection of many rows. See activations.cuh.
#include "activations.cuh"

static constexpr uint32_t PREPARE_WARPS = 8;

// A block of 256 threads a row. Dynamic shared memory: a float for each of its runs.
KIGO_KERNEL(prepare, PrepareParams) {
    extern __shared__ float squares[];
    __shared__ float largest[PREPARE_WARPS];
    const uint32_t row = blockIdx.x, tid = threadIdx.x, lane = tid % 32, warp = tid / 32;
    let_next_start();
    wait_for_previous();
    const uint32_t from = p.pick ? ((const int32_t *)p.pick)[row] : row;
    const float *in = (const float *)p.in + (uint64_t)from * p.width, *gain = (const float *)p.gain;
    float most = 0;
    // Whole warps go round together, for the exchange of sums.
    for (uint32_t e = tid * 8; e - lane * 8 < p.width; e += PREPARE_WARPS * RUN) {
        Octet x, g;
        x.load<false>(in, e, p.width);
        const float sum = warp_sum(x.squares());
        if (lane == 0)
            squares[e / RUN] = sum;
        if (gain) {
            g.load<false>(gain, e, p.width);
            x.multiply(g);
        }
        most = x.largest(most);
    }
    most = warp_largest(most);
    if (lane == 0)
        largest[warp] = most;
    __syncthreads();
    most = warp_largest(lane < PREPARE_WARPS ? largest[lane] : 0);
    float down, up;
    row_scale(most, &down, &up);
    const float inverse = gain ? inverse_rms(squares, p.width, p.inverse_width, p.eps) : 1;
    if (tid == 0)
        ((float *)p.scale)[row] = __fmul_rn(inverse, up);
    char *half = (char *)p.half + (uint64_t)row * p.stride * 2;
    float *sums = (float *)p.sums + (uint64_t)row * (p.stride / 16);
    for (uint32_t e = tid * 8; e - lane * 8 < p.stride; e += PREPARE_WARPS * RUN) {
        Octet x, g;
        x.load<false>(in, e, p.width);
        if (gain) {
            g.load<false>(gain, e, p.width);
            x.multiply(g);
        }
        if (p.wide)
            for (int i = 0; i < 8; i++)
                if (e + i < p.width)
                    ((float *)p.wide)[(uint64_t)row * p.width + e + i] = x.v[i] * inverse;
        float s = 0;
        if (e < p.stride && !p.stage_rows) {
            s = x.round<true>(half + e * 2, down);
        } else if (e < p.stride) {
            // Lane c of wgmma's operand has k 4c ... + 3 where the instruction has 2c,
            // 2c + 1, 2c + 8, 2c + 9. An octet is what two lanes have of a chunk.
            uint32_t w[4];
            s = x.pack<true>(w, down);
            char *at = (char *)p.half + ((uint64_t)(e / 64) * p.stage_rows + row) * 128 + e / 8 % 2 * 8;
            const uint32_t piece = e / 16 % 4 * 2;
            *(uint2 *)(at + (piece ^ row % 8) * 16) = make_uint2(w[0], w[2]);
            *(uint2 *)(at + ((piece + 1) ^ row % 8) * 16) = make_uint2(w[1], w[3]);
        }
        s = __fadd_rn(s, __shfl_xor_sync(~0u, s, 1));
        if (e < p.stride && tid % 2 == 0)
            *(p.stage_rows ? (float *)p.sums + ((uint64_t)(e / 64) * p.stage_rows + row) * 4 + e / 16 % 4 : sums + e / 16) = s;
    }
}

KIGO_KERNEL(gate, GateParams) {
    uint64_t step = (uint64_t)gridDim.x * blockDim.x;
    let_next_start();
    wait_for_previous();
    for (uint64_t i = blockIdx.x * (uint64_t)blockDim.x + threadIdx.x; i < p.count; i += step)
        ((float *)p.out)[i] = silu(((const float *)p.gate)[i]) * ((const float *)p.up)[i];
}
