// What enters a projection: rows of floats, normalized if a norm comes first,
// rounded to halves.
#include "device.cuh"
#include "params_check.h"

static constexpr int THREADS = 256;

// The sum over a block of 256 threads, the same in each: a tree within warps,
// then warp after warp.
__device__ __forceinline__ float block_sum(float v, float *shared) {
	for (int d = 16; d; d >>= 1)
		v += __shfl_xor_sync(~0u, v, d);
	if (threadIdx.x % 32 == 0)
		shared[threadIdx.x / 32] = v;
	__syncthreads();
	float s = 0;
	for (int w = 0; w < THREADS / 32; w++)
		s += shared[w];
	__syncthreads();
	return s;
}

__device__ __forceinline__ float block_max(float v, float *shared) {
	for (int d = 16; d; d >>= 1)
		v = fmaxf(v, __shfl_xor_sync(~0u, v, d));
	if (threadIdx.x % 32 == 0)
		shared[threadIdx.x / 32] = v;
	__syncthreads();
	float m = 0;
	for (int w = 0; w < THREADS / 32; w++)
		m = fmaxf(m, shared[w]);
	return m;
}

// A block a row. A thread takes 8 values at a time. The sums are those of the
// rounded values, 16 at a time. Rows with values that halves cannot hold are
// scaled down by a power of two, which the projection undoes: scale is 1 for all
// others, and what it computes then is the same bit for bit.
KERNEL(prepare)(const __grid_constant__ PrepareParams p) {
	__shared__ float shared[THREADS / 32];
	const uint32_t row = blockIdx.x, tid = threadIdx.x;
	const uint32_t from = p.pick ? ((const int32_t *)p.pick)[row] : row;
	const float *in = (const float *)p.in + (uint64_t)from * p.width, *gain = (const float *)p.gain;
	float inverse = 1, most = 0;
	if (gain) {
		float squares = 0;
		for (uint32_t e = tid * 8; e < p.width; e += THREADS * 8)
			for (uint32_t i = e; i < min(e + 8, p.width); i++)
				squares = fmaf(in[i], in[i], squares);
		inverse = rsqrtf(block_sum(squares, shared) / (float)p.width + p.eps);
	}
	for (uint32_t e = tid * 8; e < p.width; e += THREADS * 8)
		for (uint32_t i = e; i < min(e + 8, p.width); i++)
			most = fmaxf(most, fabsf(gain ? in[i] * inverse * gain[i] : in[i]));
	most = block_max(most, shared);
	float scale = 1, down = 1;
	if (most > 32768.f && most < __int_as_float(0x7f800000)) {
		int e = (int)(__float_as_uint(most) >> 23) - 127 - 14;
		scale = __uint_as_float((uint32_t)(127 + e) << 23);
		down = __uint_as_float((uint32_t)(127 - e) << 23);
	}
	if (tid == 0)
		((float *)p.scale)[row] = scale;
	char *half = (char *)p.half + (uint64_t)row * p.stride * 2;
	float *sums = (float *)p.sums + (uint64_t)row * (p.stride / 16);
	// Whole warps go round together, for the exchange of sums.
	for (uint32_t e = tid * 8; e - tid % 32 * 8 < p.stride; e += THREADS * 8) {
		float v[8], sum = 0;
		uint32_t w[4];
		for (int i = 0; i < 8; i++) {
			bool there = e + i < p.width;
			v[i] = there ? in[e + i] : 0;
			if (gain && there)
				v[i] = v[i] * inverse * gain[e + i];
			if (p.wide && there)
				((float *)p.wide)[(uint64_t)row * p.width + e + i] = v[i];
		}
		for (int i = 0; i < 4; i++) {
			w[i] = pack_half(v[2 * i] * down, v[2 * i + 1] * down);
			sum += low_half(w[i]);
			sum += high_half(w[i]);
		}
		sum += __shfl_xor_sync(~0u, sum, 1);
		if (e < p.stride) {
			*(uint4 *)(half + e * 2) = make_uint4(w[0], w[1], w[2], w[3]);
			if (tid % 2 == 0)
				sums[e / 16] = sum;
		}
	}
}

KERNEL(gate)(const __grid_constant__ GateParams p) {
	uint64_t step = (uint64_t)gridDim.x * blockDim.x;
	for (uint64_t i = blockIdx.x * (uint64_t)blockDim.x + threadIdx.x; i < p.count; i += step)
		((float *)p.out)[i] = silu(((const float *)p.gate)[i]) * ((const float *)p.up)[i];
}
