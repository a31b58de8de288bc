// The parameters of all kernels, and what they share with Go. kernels/gen reads
// this file line by line and writes the Go mirror and the checks of sizes and
// offsets; README.md says what may stand here. It passes to each family only the
// declarations that the family names, so that a new struct compiles nothing again.
//
// Which kernel takes which struct; * stands for anything:
//
// kernel: probe ProbeParams
#pragma once

// A struct inside the parameters, with padding before its last field.
struct ProbeInner {
    uint16_t a;
    uint32_t b;
};

// What one thread of the kernel probe reports.
struct ProbeRecord {
    uint32_t block[3];   // blockIdx
    uint32_t thread[3];  // threadIdx
    uint32_t arch;       // __CUDA_ARCH__ of the code that runs: 900 for sm_90a
    uint32_t size;       // sizeof(ProbeParams) as the kernel sees it
    uint64_t address;    // ProbeParams.out
    uint64_t wide;
    int64_t signed_wide;
    float real;
    int32_t whole;
    uint8_t bytes[5];
    ProbeInner inner[2];
};

// One field of each kind, in an order that needs padding.
struct ProbeParams {
    uint8_t bytes[5];
    ProbeRecord *out;    // [count], in the order x + width * (y + height * z) of the grid's threads
    uint32_t count;      // threads beyond it write nothing
    uint64_t wide;
    int32_t whole;
    ProbeInner inner[2];
    float real;
    int64_t signed_wide;
    const void *unused;  // keeps a read-only pointer in the layout
};
