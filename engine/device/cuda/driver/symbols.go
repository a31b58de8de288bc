//go:build linux && (amd64 || arm64) && !nocuda

package driver

// symbol is an index into symbols: a function of libcuda.
type symbol int

const (
	cuInit symbol = iota
	cuDriverGetVersion
	cuDeviceGetCount
	cuDeviceGet
	cuDeviceGetName
	cuDeviceTotalMem
	cuDeviceGetAttribute
	cuDeviceGetUuid
	cuDeviceGetPCIBusId
	cuDevicePrimaryCtxRetain
	cuDevicePrimaryCtxRelease
	cuCtxSetCurrent
	cuMemGetInfo
	cuMemAlloc
	cuMemFree
	cuMemHostAlloc
	cuMemFreeHost
	cuMemHostRegister
	cuMemHostUnregister
	cuMemcpyHtoDAsync
	cuMemcpyDtoHAsync
	cuMemcpyDtoDAsync
	cuMemsetD8Async
	cuMemsetD32Async
	cuStreamCreate
	cuStreamDestroy
	cuStreamSynchronize
	cuStreamQuery
	cuStreamWaitEvent
	cuEventCreate
	cuEventDestroy
	cuEventRecord
	cuEventSynchronize
	cuEventQuery
	cuEventElapsedTime
	cuModuleLoadDataEx
	cuModuleUnload
	cuModuleGetFunction
	cuFuncSetAttribute
	cuFuncGetAttribute
	cuFuncLoad
	cuFuncGetParamInfo
	cuOccupancyMaxActiveBlocksPerMultiprocessor
	cuOccupancyMaxActiveClusters
	cuLaunchKernelEx
	cuStreamBeginCapture
	cuStreamEndCapture
	cuGraphInstantiate
	cuGraphExecUpdate
	cuGraphLaunch
	cuGraphDestroy
	cuGraphExecDestroy
	cuMemGetAllocationGranularity
	cuMemAddressReserve
	cuMemAddressFree
	cuMemCreate
	cuMemRelease
	cuMemMap
	cuMemSetAccess
	cuMemUnmap
	numSymbols
)

// symbols names the functions. cuda.h renames some with macros ("#define
// cuMemAlloc cuMemAlloc_v2"): the library's name without the version is an
// older function with other types, so the version is asked for by name. All
// are in every driver for CUDA 12.0 and later, except those marked optional.
var symbols = [numSymbols]struct {
	call     string // in errors
	name     string // in the library, where it differs
	optional bool
}{
	cuInit:                    {call: "cuInit"},
	cuDriverGetVersion:        {call: "cuDriverGetVersion"},
	cuDeviceGetCount:          {call: "cuDeviceGetCount"},
	cuDeviceGet:               {call: "cuDeviceGet"},
	cuDeviceGetName:           {call: "cuDeviceGetName"},
	cuDeviceTotalMem:          {call: "cuDeviceTotalMem", name: "cuDeviceTotalMem_v2"},
	cuDeviceGetAttribute:      {call: "cuDeviceGetAttribute"},
	cuDeviceGetUuid:           {call: "cuDeviceGetUuid", name: "cuDeviceGetUuid_v2"},
	cuDeviceGetPCIBusId:       {call: "cuDeviceGetPCIBusId"},
	cuDevicePrimaryCtxRetain:  {call: "cuDevicePrimaryCtxRetain"},
	cuDevicePrimaryCtxRelease: {call: "cuDevicePrimaryCtxRelease", name: "cuDevicePrimaryCtxRelease_v2"},
	cuCtxSetCurrent:           {call: "cuCtxSetCurrent"},
	cuMemGetInfo:              {call: "cuMemGetInfo", name: "cuMemGetInfo_v2"},
	cuMemAlloc:                {call: "cuMemAlloc", name: "cuMemAlloc_v2"},
	cuMemFree:                 {call: "cuMemFree", name: "cuMemFree_v2"},
	cuMemHostAlloc:            {call: "cuMemHostAlloc"},
	cuMemFreeHost:             {call: "cuMemFreeHost"},
	cuMemHostRegister:         {call: "cuMemHostRegister", name: "cuMemHostRegister_v2"},
	cuMemHostUnregister:       {call: "cuMemHostUnregister"},
	cuMemcpyHtoDAsync:         {call: "cuMemcpyHtoDAsync", name: "cuMemcpyHtoDAsync_v2"},
	cuMemcpyDtoHAsync:         {call: "cuMemcpyDtoHAsync", name: "cuMemcpyDtoHAsync_v2"},
	cuMemcpyDtoDAsync:         {call: "cuMemcpyDtoDAsync", name: "cuMemcpyDtoDAsync_v2"},
	cuMemsetD8Async:           {call: "cuMemsetD8Async"},
	cuMemsetD32Async:          {call: "cuMemsetD32Async"},
	cuStreamCreate:            {call: "cuStreamCreate"},
	cuStreamDestroy:           {call: "cuStreamDestroy", name: "cuStreamDestroy_v2"},
	cuStreamSynchronize:       {call: "cuStreamSynchronize"},
	cuStreamQuery:             {call: "cuStreamQuery"},
	cuStreamWaitEvent:         {call: "cuStreamWaitEvent"},
	cuEventCreate:             {call: "cuEventCreate"},
	cuEventDestroy:            {call: "cuEventDestroy", name: "cuEventDestroy_v2"},
	cuEventRecord:             {call: "cuEventRecord"},
	cuEventSynchronize:        {call: "cuEventSynchronize"},
	cuEventQuery:              {call: "cuEventQuery"},
	// cuEventElapsedTime_v2 (12.8) differs only in the events that it refuses.
	cuEventElapsedTime:  {call: "cuEventElapsedTime"},
	cuModuleLoadDataEx:  {call: "cuModuleLoadDataEx"},
	cuModuleUnload:      {call: "cuModuleUnload"},
	cuModuleGetFunction: {call: "cuModuleGetFunction"},
	cuFuncSetAttribute:  {call: "cuFuncSetAttribute"},
	cuFuncGetAttribute:  {call: "cuFuncGetAttribute"},
	cuFuncLoad:          {call: "cuFuncLoad", optional: true},         // 12.4
	cuFuncGetParamInfo:  {call: "cuFuncGetParamInfo", optional: true}, // 12.4
	cuOccupancyMaxActiveBlocksPerMultiprocessor: {call: "cuOccupancyMaxActiveBlocksPerMultiprocessor"},
	cuOccupancyMaxActiveClusters:                {call: "cuOccupancyMaxActiveClusters"},
	cuLaunchKernelEx:                            {call: "cuLaunchKernelEx"},
	cuStreamBeginCapture:                        {call: "cuStreamBeginCapture", name: "cuStreamBeginCapture_v2"},
	cuStreamEndCapture:                          {call: "cuStreamEndCapture"},
	cuGraphInstantiate:                          {call: "cuGraphInstantiate", name: "cuGraphInstantiateWithFlags"},
	cuGraphExecUpdate:                           {call: "cuGraphExecUpdate", name: "cuGraphExecUpdate_v2"},
	cuGraphLaunch:                               {call: "cuGraphLaunch"},
	cuGraphDestroy:                              {call: "cuGraphDestroy"},
	cuGraphExecDestroy:                          {call: "cuGraphExecDestroy"},
	cuMemGetAllocationGranularity:               {call: "cuMemGetAllocationGranularity"},
	cuMemAddressReserve:                         {call: "cuMemAddressReserve"},
	cuMemAddressFree:                            {call: "cuMemAddressFree"},
	cuMemCreate:                                 {call: "cuMemCreate"},
	cuMemRelease:                                {call: "cuMemRelease"},
	cuMemMap:                                    {call: "cuMemMap"},
	cuMemSetAccess:                              {call: "cuMemSetAccess"},
	cuMemUnmap:                                  {call: "cuMemUnmap"},
}

// library is the name of a symbol in libcuda.
func (s symbol) library() string {
	if name := symbols[s].name; name != "" {
		return name
	}
	return symbols[s].call
}
