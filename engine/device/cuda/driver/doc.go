// Package driver is the only place that touches libcuda, NVIDIA's driver
// library. It opens libcuda.so.1 at run time, without cgo and without a CUDA
// toolkit, and offers what Kigo needs of it as a typed interface, [Driver],
// behind which package fakedriver stands in tests without a GPU.
//
// # Threads
//
// CUDA binds a context to an OS thread, and Go moves goroutines between
// threads. So:
//
//   - Version, Devices, Properties, RetainContext, ReleaseContext, Failed and
//     Close may be called from any goroutine.
//   - Every other method needs a context that is current on the calling thread:
//     the goroutine calls runtime.LockOSThread and then SetCurrent, once, and
//     stays locked as long as it uses the driver. Without it CUDA answers
//     CUDA_ERROR_INVALID_CONTEXT (201), or takes the context that another
//     goroutine left behind on the thread.
//   - With the context current, all methods may be called from several threads
//     at once. Work put into one stream by two threads lands in either order.
//   - A capture begins and ends on one thread. In between, that thread must
//     call nothing that waits or allocates (SyncStream, QueryStream, Alloc,
//     Free, HostAlloc, HostFree, LoadModule, ...); other threads may, on other
//     streams.
//   - What waits (SyncStream, SyncEvent, Free) waits inside C: no context and
//     no deadline ends it. Whoever must not be stuck asks QueryEvent instead.
//
// # Lifetimes
//
// Arguments live only during the call. What the GPU reads or writes later must
// stay in place until then: host memory of a copy is pinned memory from
// HostAlloc or HostRegister, never the Go heap. The parameters of a launch are
// copied by CUDA during the call. Handles belong to the caller, who destroys
// each once; destroying twice is undefined in CUDA. The zero handle is refused
// with [CodeInvalidHandle], before CUDA sees it; so is the null stream, which is
// not ordered with the streams made here.
//
// # Failure
//
// After a fatal code ([ErrFatal]) the context is dead, and CUDA repeats the code
// for ever, also for innocent calls. A Driver therefore remembers the first one
// and calls CUDA no more; each later call returns an error that wraps ErrFatal
// and the first cause. What was allocated then goes with the process.
package driver
