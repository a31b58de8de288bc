/* A library that stands for libcuda.so.1 in the binding's tests. Each function
 * writes down its arguments as C sees them, through the types of cuda.h, so that
 * the test compares the two views. Device memory is memory of the host. */
#ifdef REAL_CUDA_H
#include <cuda.h>
#else
#include "cuda_subset.h"
#endif
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifndef VERSION
#define VERSION 12090
#endif
#ifndef DEVICES
#define DEVICES 2
#endif
#ifndef INIT
#define INIT 0
#endif

/* The numbers in layout.go. */
#define IS(what, n) _Static_assert((what) == (n), #what)
IS(sizeof(CUresult), 4);
IS(sizeof(CUdeviceptr), 8);
IS(sizeof(CUmemGenericAllocationHandle), 8);
IS(sizeof(CUjit_option), 4);
IS(sizeof(CUuuid), 16);
IS(sizeof(CUlaunchConfig), 56);
IS(offsetof(CUlaunchConfig, blockDimX), 12);
IS(offsetof(CUlaunchConfig, sharedMemBytes), 24);
IS(offsetof(CUlaunchConfig, hStream), 32);
IS(offsetof(CUlaunchConfig, attrs), 40);
IS(offsetof(CUlaunchConfig, numAttrs), 48);
IS(sizeof(CUlaunchAttribute), 72);
IS(_Alignof(CUlaunchAttribute), 8);
IS(offsetof(CUlaunchAttribute, value), 8);
IS(sizeof(CUmemAllocationProp), 32);
IS(offsetof(CUmemAllocationProp, location), 8);
IS(offsetof(CUmemAllocationProp, win32HandleMetaData), 16);
IS(offsetof(CUmemAllocationProp, allocFlags), 24);
IS(sizeof(CUmemAccessDesc), 12);
IS(offsetof(CUmemAccessDesc, flags), 8);
IS(sizeof(CUgraphExecUpdateResultInfo), 24);
IS(offsetof(CUgraphExecUpdateResultInfo, errorNode), 8);
IS(CU_STREAM_NON_BLOCKING, 1);
IS(CU_EVENT_DISABLE_TIMING, 2);
IS(CU_MEMHOSTALLOC_PORTABLE, 1);
IS(CU_MEMHOSTREGISTER_PORTABLE, 1);
IS(CU_STREAM_CAPTURE_MODE_THREAD_LOCAL, 1);
IS(CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION, 4);
IS(CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION, 6);
IS(CU_JIT_ERROR_LOG_BUFFER, 5);
IS(CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES, 6);
IS(CU_MEM_ALLOCATION_TYPE_PINNED, 1);
IS(CU_MEM_LOCATION_TYPE_DEVICE, 1);
IS(CU_MEM_ACCESS_FLAGS_PROT_READWRITE, 3);
IS(CU_MEM_ALLOC_GRANULARITY_MINIMUM, 0);
IS(CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, 8);
#ifdef REAL_CUDA_H
IS(CUDA_VERSION, 12090);
IS(CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK, 1);
IS(CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK, 8);
IS(CU_DEVICE_ATTRIBUTE_WARP_SIZE, 10);
IS(CU_DEVICE_ATTRIBUTE_CLOCK_RATE, 13);
IS(CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, 16);
IS(CU_DEVICE_ATTRIBUTE_INTEGRATED, 18);
IS(CU_DEVICE_ATTRIBUTE_ECC_ENABLED, 32);
IS(CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE, 36);
IS(CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH, 37);
IS(CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE, 38);
IS(CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR, 39);
IS(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, 75);
IS(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, 76);
IS(CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR, 81);
IS(CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_MULTIPROCESSOR, 82);
IS(CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN, 97);
IS(CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED, 102);
IS(CU_DEVICE_ATTRIBUTE_MAX_BLOCKS_PER_MULTIPROCESSOR, 106);
IS(CU_DEVICE_ATTRIBUTE_RESERVED_SHARED_MEMORY_PER_BLOCK, 111);
IS(CU_DEVICE_ATTRIBUTE_CLUSTER_LAUNCH, 120);
IS(CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK, 0);
IS(CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES, 1);
IS(CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES, 3);
IS(CU_FUNC_ATTRIBUTE_NUM_REGS, 4);
IS(CU_FUNC_ATTRIBUTE_PTX_VERSION, 5);
IS(CU_FUNC_ATTRIBUTE_BINARY_VERSION, 6);
#endif

/* For the test: what was called, and what the next call of a name returns. */
static char written[1 << 16];
static size_t used;
static int quiet;
static struct { char call[64]; int code; } script;

const char *test_log(void) { return written; }
void test_clear(void) { used = 0; written[0] = 0; script.code = 0; }
void test_quiet(int on) { quiet = on; }
void test_fail(const char *call, int code) {
	snprintf(script.call, sizeof script.call, "%s", call);
	script.code = code;
}

static int note(const char *call, const char *format, ...) {
	if (!quiet) {
		va_list args;
		va_start(args, format);
		used += snprintf(written + used, sizeof written - used, "%s(", call);
		used += vsnprintf(written + used, sizeof written - used, format, args);
		used += snprintf(written + used, sizeof written - used, ")\n");
		va_end(args);
		if (used > sizeof written / 2) used = 0; /* the tests clear long before */
	}
	if (script.code && !strcmp(script.call, call)) {
		int code = script.code;
		script.code = 0;
		return code;
	}
	return 0;
}

#define CALL(...) do { CUresult r_ = (CUresult)note(__func__, __VA_ARGS__); if (r_) return r_; } while (0)
#define H(p) ((unsigned long long)(uintptr_t)(p))

CUresult cuInit(unsigned int flags) { CALL("%u", flags); return (CUresult)INIT; }
CUresult cuDriverGetVersion(int *version) { CALL(""); *version = VERSION; return CUDA_SUCCESS; }
CUresult cuDeviceGetCount(int *count) { CALL(""); *count = DEVICES; return CUDA_SUCCESS; }
CUresult cuDeviceGet(CUdevice *device, int ordinal) { CALL("%d", ordinal); *device = 100 + ordinal; return CUDA_SUCCESS; }
CUresult cuDeviceGetName(char *name, int len, CUdevice dev) {
	CALL("%d, %d", len, dev);
	snprintf(name, len, "Test GPU");
	return CUDA_SUCCESS;
}
CUresult cuDeviceTotalMem(size_t *bytes, CUdevice dev) { CALL("%d", dev); *bytes = 80ull << 30; return CUDA_SUCCESS; }
CUresult cuDeviceGetAttribute(int *value, CUdevice_attribute a, CUdevice dev) { CALL("%d, %d", a, dev); *value = 1000 + a; return CUDA_SUCCESS; }
CUresult cuDeviceGetUuid_v2(CUuuid *uuid, CUdevice dev) {
	CALL("%d", dev);
	for (int i = 0; i < 16; i++) uuid->bytes[i] = (char)(i * 17);
	return CUDA_SUCCESS;
}
CUresult cuDeviceGetPCIBusId(char *id, int len, CUdevice dev) { CALL("%d, %d", len, dev); snprintf(id, len, "0000:3b:00.0"); return CUDA_SUCCESS; }
CUresult cuDevicePrimaryCtxRetain(CUcontext *ctx, CUdevice dev) { CALL("%d", dev); *ctx = (CUcontext)0x7f00000000c0; return CUDA_SUCCESS; }
CUresult cuDevicePrimaryCtxRelease(CUdevice dev) { CALL("%d", dev); return CUDA_SUCCESS; }
#ifdef REAL_CUDA_H
CUresult cuCtxSetCurrent(CUcontext ctx) { CALL("%#llx", H(ctx)); return CUDA_SUCCESS; }
#else
/* The upper half of the register in which a CUresult comes back means nothing. */
unsigned long long cuCtxSetCurrent(CUcontext ctx) { return 0xdeadbeef00000000ull | (unsigned)note(__func__, "%#llx", H(ctx)); }
#endif

CUresult cuMemGetInfo(size_t *free, size_t *total) { CALL(""); *free = 70ull << 30; *total = 80ull << 30; return CUDA_SUCCESS; }
CUresult cuMemAlloc(CUdeviceptr *p, size_t n) { CALL("%zu", n); *p = H(calloc(1, n)); return CUDA_SUCCESS; }
CUresult cuMemFree(CUdeviceptr p) { CALL("%d", p != 0); free((void *)(uintptr_t)p); return CUDA_SUCCESS; }
CUresult cuMemHostAlloc(void **p, size_t n, unsigned int flags) { CALL("%zu, %u", n, flags); *p = calloc(1, n); return CUDA_SUCCESS; }
CUresult cuMemFreeHost(void *p) { CALL("%d", p != 0); free(p); return CUDA_SUCCESS; }
CUresult cuMemHostRegister(void *p, size_t n, unsigned int flags) { CALL("%#x, %zu, %u", *(unsigned char *)p, n, flags); return CUDA_SUCCESS; }
CUresult cuMemHostUnregister(void *p) { CALL("%#x", *(unsigned char *)p); return CUDA_SUCCESS; }
CUresult cuMemcpyHtoDAsync(CUdeviceptr dst, const void *src, size_t n, CUstream s) {
	CALL("%zu, %#llx", n, H(s));
	memcpy((void *)(uintptr_t)dst, src, n);
	return CUDA_SUCCESS;
}
CUresult cuMemcpyDtoHAsync(void *dst, CUdeviceptr src, size_t n, CUstream s) {
	CALL("%zu, %#llx", n, H(s));
	memcpy(dst, (void *)(uintptr_t)src, n);
	return CUDA_SUCCESS;
}
CUresult cuMemcpyDtoDAsync(CUdeviceptr dst, CUdeviceptr src, size_t n, CUstream s) {
	CALL("%zu, %#llx", n, H(s));
	memmove((void *)(uintptr_t)dst, (void *)(uintptr_t)src, n);
	return CUDA_SUCCESS;
}
CUresult cuMemsetD8Async(CUdeviceptr dst, unsigned char v, size_t n, CUstream s) {
	CALL("%#x, %zu, %#llx", v, n, H(s));
	memset((void *)(uintptr_t)dst, v, n);
	return CUDA_SUCCESS;
}
CUresult cuMemsetD32Async(CUdeviceptr dst, unsigned int v, size_t n, CUstream s) {
	CALL("%#x, %zu, %#llx", v, n, H(s));
	for (size_t i = 0; i < n; i++) ((unsigned *)(uintptr_t)dst)[i] = v;
	return CUDA_SUCCESS;
}

CUresult cuStreamCreate(CUstream *s, unsigned int flags) { CALL("%u", flags); *s = (CUstream)0x7f0000000051; return CUDA_SUCCESS; }
CUresult cuStreamDestroy(CUstream s) { CALL("%#llx", H(s)); return CUDA_SUCCESS; }
CUresult cuStreamSynchronize(CUstream s) { CALL("%#llx", H(s)); return CUDA_SUCCESS; }
CUresult cuStreamQuery(CUstream s) { CALL("%#llx", H(s)); return CUDA_SUCCESS; }
CUresult cuStreamWaitEvent(CUstream s, CUevent e, unsigned int flags) { CALL("%#llx, %#llx, %u", H(s), H(e), flags); return CUDA_SUCCESS; }
CUresult cuEventCreate(CUevent *e, unsigned int flags) { CALL("%u", flags); *e = (CUevent)0x7f00000000e0; return CUDA_SUCCESS; }
CUresult cuEventDestroy(CUevent e) { CALL("%#llx", H(e)); return CUDA_SUCCESS; }
CUresult cuEventRecord(CUevent e, CUstream s) { CALL("%#llx, %#llx", H(e), H(s)); return CUDA_SUCCESS; }
CUresult cuEventSynchronize(CUevent e) { CALL("%#llx", H(e)); return CUDA_SUCCESS; }
CUresult cuEventQuery(CUevent e) { CALL("%#llx", H(e)); return CUDA_SUCCESS; }
CUresult cuEventElapsedTime(float *ms, CUevent a, CUevent b) { CALL("%#llx, %#llx", H(a), H(b)); *ms = 1.5f; return CUDA_SUCCESS; }

CUresult cuModuleLoadDataEx(CUmodule *m, const void *image, unsigned int n, CUjit_option *options, void **values) {
	char *log = NULL;
	size_t size = 0;
	for (unsigned i = 0; i < n; i++) {
		if (options[i] == CU_JIT_ERROR_LOG_BUFFER) log = values[i];
		else if (options[i] == CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES) size = (size_t)(uintptr_t)values[i];
		else return CUDA_ERROR_INVALID_VALUE;
	}
	CUresult r = (CUresult)note(__func__, "%s, %u, log %zu", (const char *)image, n, size);
	if (r) {
		snprintf(log, size, "ptxas error   : line 1; no such register\n");
		return r;
	}
	*m = (CUmodule)0x7f0000000030;
	return CUDA_SUCCESS;
}
CUresult cuModuleUnload(CUmodule m) { CALL("%#llx", H(m)); return CUDA_SUCCESS; }
CUresult cuModuleGetFunction(CUfunction *f, CUmodule m, const char *name) { CALL("%#llx, %s", H(m), name); *f = (CUfunction)0x7f00000000f0; return CUDA_SUCCESS; }
CUresult cuFuncSetAttribute(CUfunction f, CUfunction_attribute a, int value) { CALL("%#llx, %d, %d", H(f), a, value); return CUDA_SUCCESS; }
CUresult cuFuncGetAttribute(int *value, CUfunction_attribute a, CUfunction f) { CALL("%d, %#llx", a, H(f)); *value = 10 + a; return CUDA_SUCCESS; }
#if VERSION >= 12040
CUresult cuFuncLoad(CUfunction f) { CALL("%#llx", H(f)); return CUDA_SUCCESS; }
CUresult cuFuncGetParamInfo(CUfunction f, size_t i, size_t *offset, size_t *size) {
	CALL("%#llx, %zu", H(f), i);
	*offset = 16;
	*size = 1ull << 33;
	return CUDA_SUCCESS;
}
#endif
CUresult cuOccupancyMaxActiveBlocksPerMultiprocessor(int *n, CUfunction f, int threads, size_t shared) {
	CALL("%#llx, %d, %zu", H(f), threads, shared);
	*n = 7;
	return CUDA_SUCCESS;
}

CUresult cuOccupancyMaxActiveClusters(int *n, CUfunction f, const CUlaunchConfig *c) {
	CALL("%#llx, %u threads, shared %u, attribute %d of %u: %u", H(f), c->blockDimX, c->sharedMemBytes, c->attrs[0].id, c->numAttrs, c->attrs[0].value.clusterDim.x);
	*n = 30;
	return CUDA_SUCCESS;
}

/* The parameters of the test's kernel. */
struct params { unsigned long long data; unsigned int n; float scale; };

CUresult cuLaunchKernelEx(const CUlaunchConfig *c, CUfunction f, void **params, void **extra) {
	char attrs[256] = "";
	for (unsigned i = 0; i < c->numAttrs; i++) {
		const CUlaunchAttribute *a = &c->attrs[i];
		size_t at = strlen(attrs);
		if (a->id == CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION)
			snprintf(attrs + at, sizeof attrs - at, " dependent=%d", a->value.programmaticStreamSerializationAllowed);
		else if (a->id == CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION)
			snprintf(attrs + at, sizeof attrs - at, " cluster=%u,%u,%u", a->value.clusterDim.x, a->value.clusterDim.y, a->value.clusterDim.z);
		else
			return CUDA_ERROR_INVALID_VALUE;
	}
	const struct params *p = params[0];
	CALL("%u,%u,%u x %u,%u,%u shared %u stream %#llx f %#llx%s: %#llx %u %g, extra %d", c->gridDimX, c->gridDimY, c->gridDimZ,
	     c->blockDimX, c->blockDimY, c->blockDimZ, c->sharedMemBytes, H(c->hStream), H(f), attrs, p->data, p->n, (double)p->scale, extra != NULL);
	return CUDA_SUCCESS;
}

CUresult cuStreamBeginCapture(CUstream s, CUstreamCaptureMode mode) { CALL("%#llx, %d", H(s), mode); return CUDA_SUCCESS; }
CUresult cuStreamEndCapture(CUstream s, CUgraph *g) { CALL("%#llx", H(s)); *g = (CUgraph)0x7f0000000090; return CUDA_SUCCESS; }
CUresult cuGraphInstantiate(CUgraphExec *x, CUgraph g, unsigned long long flags) { CALL("%#llx, %llu", H(g), flags); *x = (CUgraphExec)0x7f0000000091; return CUDA_SUCCESS; }
CUresult cuGraphExecUpdate(CUgraphExec x, CUgraph g, CUgraphExecUpdateResultInfo *info) {
	CUresult r = (CUresult)note(__func__, "%#llx, %#llx", H(x), H(g));
	if (r) {
		info->result = CU_GRAPH_EXEC_UPDATE_ERROR_TOPOLOGY_CHANGED;
		info->errorNode = info->errorFromNode = (CUgraphNode)-1;
	}
	return r;
}
CUresult cuGraphLaunch(CUgraphExec x, CUstream s) { CALL("%#llx, %#llx", H(x), H(s)); return CUDA_SUCCESS; }
CUresult cuGraphDestroy(CUgraph g) { CALL("%#llx", H(g)); return CUDA_SUCCESS; }
CUresult cuGraphExecDestroy(CUgraphExec x) { CALL("%#llx", H(x)); return CUDA_SUCCESS; }

static int plain(const CUmemAllocationProp *p) {
	return p->type == CU_MEM_ALLOCATION_TYPE_PINNED && p->requestedHandleTypes == CU_MEM_HANDLE_TYPE_NONE &&
	       p->location.type == CU_MEM_LOCATION_TYPE_DEVICE && !p->win32HandleMetaData &&
	       !p->allocFlags.compressionType && !p->allocFlags.gpuDirectRDMACapable && !p->allocFlags.usage;
}
CUresult cuMemGetAllocationGranularity(size_t *n, const CUmemAllocationProp *p, CUmemAllocationGranularity_flags option) {
	CALL("plain %d, device %d, %d", plain(p), p->location.id, option);
	*n = 2 << 20;
	return CUDA_SUCCESS;
}
CUresult cuMemAddressReserve(CUdeviceptr *p, size_t n, size_t alignment, CUdeviceptr addr, unsigned long long flags) {
	CALL("%zu, %zu, %llu, %llu", n, alignment, addr, flags);
	*p = 0x7f1000000000;
	return CUDA_SUCCESS;
}
CUresult cuMemAddressFree(CUdeviceptr p, size_t n) { CALL("%#llx, %zu", p, n); return CUDA_SUCCESS; }
CUresult cuMemCreate(CUmemGenericAllocationHandle *h, size_t n, const CUmemAllocationProp *p, unsigned long long flags) {
	CALL("%zu, plain %d, device %d, %llu", n, plain(p), p->location.id, flags);
	*h = 0xfedcba9876543210ull;
	return CUDA_SUCCESS;
}
CUresult cuMemRelease(CUmemGenericAllocationHandle h) { CALL("%#llx", h); return CUDA_SUCCESS; }
CUresult cuMemMap(CUdeviceptr p, size_t n, size_t offset, CUmemGenericAllocationHandle h, unsigned long long flags) {
	CALL("%#llx, %zu, %zu, %#llx, %llu", p, n, offset, h, flags);
	return CUDA_SUCCESS;
}
CUresult cuMemSetAccess(CUdeviceptr p, size_t n, const CUmemAccessDesc *d, size_t count) {
	CALL("%#llx, %zu, %d %d %d, %zu", p, n, d->location.type, d->location.id, d->flags, count);
	return CUDA_SUCCESS;
}
#ifndef WITHOUT_UNMAP
CUresult cuMemUnmap(CUdeviceptr p, size_t n) { CALL("%#llx, %zu", p, n); return CUDA_SUCCESS; }
#endif
