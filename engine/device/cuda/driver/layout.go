//go:build linux && (amd64 || arm64) && !nocuda

package driver

import (
	"structs"
	"unsafe"
)

// The structs of cuda.h that are passed by address. The numbers beside them are
// C's, on 64-bit machines; the tests compare them with what a C compiler says.

// launchConfig is CUlaunchConfig.
type launchConfig struct {
	_        structs.HostLayout
	grid     [3]uint32      // 0
	block    [3]uint32      // 12
	shared   uint32         // 24
	stream   uintptr        // 32
	attrs    unsafe.Pointer // 40: *launchAttribute
	numAttrs uint32         // 48
}

// launchAttribute is CUlaunchAttribute; value is a union of 64 bytes, here as
// the 32-bit numbers that our attributes are made of.
type launchAttribute struct {
	_     structs.HostLayout
	id    uint32
	_     uint32
	value [16]uint32 // 8
}

// memLocation is CUmemLocation.
type memLocation struct {
	_    structs.HostLayout
	kind uint32
	id   int32
}

// allocationProp is CUmemAllocationProp.
type allocationProp struct {
	_           structs.HostLayout
	kind        uint32
	handleTypes uint32
	location    memLocation    // 8
	win32       unsafe.Pointer // 16
	flags       [8]byte        // 24
}

// accessDesc is CUmemAccessDesc.
type accessDesc struct {
	_        structs.HostLayout
	location memLocation
	flags    uint32 // 8
}

// updateResult is CUgraphExecUpdateResultInfo.
type updateResult struct {
	_             structs.HostLayout
	result        uint32
	errorNode     uintptr // 8
	errorFromNode uintptr // 16
}

// These fail to compile when a size is not C's.
var (
	_ [56]byte = [unsafe.Sizeof(launchConfig{})]byte{}
	_ [72]byte = [unsafe.Sizeof(launchAttribute{})]byte{}
	_ [8]byte  = [unsafe.Sizeof(memLocation{})]byte{}
	_ [32]byte = [unsafe.Sizeof(allocationProp{})]byte{}
	_ [12]byte = [unsafe.Sizeof(accessDesc{})]byte{}
	_ [24]byte = [unsafe.Sizeof(updateResult{})]byte{}
)

// Constants of cuda.h.
const (
	streamNonBlocking      = 0x1 // CU_STREAM_NON_BLOCKING
	eventDisableTiming     = 0x2 // CU_EVENT_DISABLE_TIMING
	hostAllocPortable      = 0x1 // CU_MEMHOSTALLOC_PORTABLE
	hostRegisterPortable   = 0x1 // CU_MEMHOSTREGISTER_PORTABLE
	captureModeThreadLocal = 1   // CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
	launchClusterDimension = 4   // CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION
	launchProgrammatic     = 6   // CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION
	jitErrorLogBuffer      = 5   // CU_JIT_ERROR_LOG_BUFFER
	jitErrorLogBufferBytes = 6   // CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES
	allocationPinned       = 1   // CU_MEM_ALLOCATION_TYPE_PINNED
	locationDevice         = 1   // CU_MEM_LOCATION_TYPE_DEVICE
	accessReadWrite        = 3   // CU_MEM_ACCESS_FLAGS_PROT_READWRITE
	granularityMinimum     = 0   // CU_MEM_ALLOC_GRANULARITY_MINIMUM
	funcMaxThreadsPerBlock = 0   // CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK
	funcSharedSizeBytes    = 1   // CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES
	funcLocalSizeBytes     = 3   // CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES
	funcNumRegs            = 4   // CU_FUNC_ATTRIBUTE_NUM_REGS
	funcPTXVersion         = 5   // CU_FUNC_ATTRIBUTE_PTX_VERSION
	funcBinaryVersion      = 6   // CU_FUNC_ATTRIBUTE_BINARY_VERSION
	funcMaxDynamicShared   = 8   // CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
	devMaxThreadsPerBlock  = 1   // CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK
	devSharedPerBlock      = 8   // CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK
	devWarpSize            = 10  // CU_DEVICE_ATTRIBUTE_WARP_SIZE
	devClockRate           = 13  // CU_DEVICE_ATTRIBUTE_CLOCK_RATE
	devMultiprocessors     = 16  // CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT
	devIntegrated          = 18  // CU_DEVICE_ATTRIBUTE_INTEGRATED
	devECC                 = 32  // CU_DEVICE_ATTRIBUTE_ECC_ENABLED
	devMemoryClockRate     = 36  // CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE
	devMemoryBusWidth      = 37  // CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH
	devL2Bytes             = 38  // CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE
	devMaxThreadsPerSM     = 39  // CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR
	devCapabilityMajor     = 75  // CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR
	devCapabilityMinor     = 76  // CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR
	devSharedPerSM         = 81  // CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR
	devRegistersPerSM      = 82  // CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_MULTIPROCESSOR
	devSharedPerBlockOptin = 97  // CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN
	devVirtualMemory       = 102 // CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED
	devMaxBlocksPerSM      = 106 // CU_DEVICE_ATTRIBUTE_MAX_BLOCKS_PER_MULTIPROCESSOR
	devSharedReserved      = 111 // CU_DEVICE_ATTRIBUTE_RESERVED_SHARED_MEMORY_PER_BLOCK
	devClusterLaunch       = 120 // CU_DEVICE_ATTRIBUTE_CLUSTER_LAUNCH
)
