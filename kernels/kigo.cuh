// What every family of kernels includes, and nothing more: a change here compiles
// all of them again.
#pragma once

// NVRTC has no <cstdint> of its own. 64 bits are `long long`, as in cuda/std/cstdint.
typedef signed char int8_t;
typedef short int16_t;
typedef int int32_t;
typedef long long int64_t;
typedef unsigned char uint8_t;
typedef unsigned short uint16_t;
typedef unsigned int uint32_t;
typedef unsigned long long uint64_t;

// For pointers in params.h; cuda_fp16.h and cuda_bf16.h define them.
struct __half;
struct __nv_bfloat16;

#include "params.h"
#include "params_check.h"

// A kernel takes one struct of params.h, by value, and reads it where the driver
// put it, in constant memory (__grid_constant__), with no copy in local memory:
//
//   KIGO_KERNEL(probe, ProbeParams, __launch_bounds__(128)) { ... p.count ... }
//
// What stands after the struct goes between `void` and the name.
#define KIGO_KERNEL(name, Params, ...) \
    extern "C" __global__ void __VA_ARGS__ name(const __grid_constant__ Params p)
