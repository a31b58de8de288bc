package driver

import (
	"time"
	"unsafe"
)

// What CUDA hands out. The zero value is never valid.
type (
	Ptr       uint64  // an address in the memory of a device
	Chunk     uint64  // physical memory that can be mapped
	Context   uintptr // a device's primary context
	Stream    uintptr
	Event     uintptr
	Module    uintptr
	Function  uintptr // valid as long as its module
	Graph     uintptr
	GraphExec uintptr
)

// Driver is libcuda as Kigo uses it: what [Open] returns. The methods check
// CUDA's answer; each error is an *[Error]. The package's comment says which goroutine may call
// what. Sizes are in bytes unless something else is said.
//
// A Driver serves one device in practice: the failure of a context stops all of
// it. Who wants two devices opens two.
type Driver interface {
	// Version is the newest CUDA that the driver knows: 12090 is 12.9.
	Version() int

	// Devices is the number of visible devices, at least 1 after Open.
	Devices() (int, error)

	// Properties describes the device with the number 0 <= ordinal < Devices.
	Properties(ordinal int) (Properties, error)

	// RetainContext starts the device's primary context, or counts one more
	// user of it. It takes some 200 ms and a few hundred MB of device memory
	// the first time.
	RetainContext(ordinal int) (Context, error)

	// ReleaseContext undoes one RetainContext. The last one frees everything
	// in the context.
	ReleaseContext(ordinal int) error

	// SetCurrent binds the context to the calling OS thread. The goroutine
	// must be locked to it. Context 0 unbinds what is bound.
	SetCurrent(c Context) error

	Memory
	Streams
	Modules
	Graphs
	Virtual

	// Failed returns the first fatal error, or nil. It calls nothing and may
	// be called from any goroutine at any time.
	Failed() error

	// Close releases the contexts that are still retained; later calls return
	// ErrClosed. The library itself stays loaded: it owns threads, and it does
	// not survive being unloaded. No other call may be under way.
	Close() error
}

// Memory is plain device memory, pinned host memory, and copies between them.
type Memory interface {
	// MemInfo is the device's free and total memory.
	MemInfo() (free, total uint64, err error)

	// Alloc reserves device memory, aligned to at least 256 bytes. Its
	// content is undefined.
	Alloc(bytes uint64) (Ptr, error)

	// Free waits for the work that is under way in the context.
	Free(p Ptr) error

	// HostAlloc returns pinned memory of the host, which every context can
	// use in copies. It is not Go's memory: using it after HostFree faults.
	HostAlloc(bytes int) ([]byte, error)

	// HostFree takes what HostAlloc returned: the slice must start where that
	// one did.
	HostFree(b []byte) error

	// HostRegister pins memory that the caller owns, for example a mapping;
	// it must not be on the Go heap.
	HostRegister(b []byte) error
	HostUnregister(b []byte) error

	// CopyToDevice, CopyToHost and CopyOnDevice put a copy into the stream.
	// src and dst on the host must be pinned, and must be left alone until
	// the stream has got past the copy. A copy of nothing does nothing.
	CopyToDevice(dst Ptr, src []byte, s Stream) error
	CopyToHost(dst []byte, src Ptr, s Stream) error
	CopyOnDevice(dst, src Ptr, n uint64, s Stream) error

	// Fill8 sets n bytes.
	Fill8(dst Ptr, v byte, n uint64, s Stream) error

	// Fill32 sets n 32-bit words, not bytes; dst is a multiple of 4.
	Fill32(dst Ptr, v uint32, n uint64, s Stream) error
}

// Streams orders work and waits for it.
type Streams interface {
	// NewStream makes a stream that does not wait for the null stream.
	NewStream() (Stream, error)

	// DestroyStream does not wait; work under way is still done.
	DestroyStream(s Stream) error

	// SyncStream waits until all work in the stream is done, and returns the
	// error of that work.
	SyncStream(s Stream) error

	// QueryStream says whether all work in the stream is done.
	QueryStream(s Stream) (done bool, err error)

	// StreamWait makes later work in s wait for what e recorded last.
	StreamWait(s Stream, e Event) error

	// NewEvent makes an event; only one with timing can be given to Elapsed.
	NewEvent(timing bool) (Event, error)
	DestroyEvent(e Event) error

	// Record marks the present end of the stream's work.
	Record(e Event, s Stream) error

	// SyncEvent waits for what the event recorded last; an event that
	// recorded nothing is done.
	SyncEvent(e Event) error
	QueryEvent(e Event) (done bool, err error)

	// Elapsed is the time between two events that are done, on the GPU's
	// clock, to about half a microsecond. While one is not done yet the code
	// is CodeNotReady.
	Elapsed(from, to Event) (time.Duration, error)
}

// Modules is machine code.
type Modules interface {
	// LoadModule loads a cubin, a fatbin or the text of PTX; CUDA copies it.
	// The compiler's log is in the error.
	LoadModule(image []byte) (Module, error)
	UnloadModule(m Module) error

	// Function finds an extern "C" kernel and loads it, so that it can be
	// launched during a capture. A name that is not there is
	// CodeNotFound.
	Function(m Module, name string) (Function, error)

	// SetSharedLimit allows launches with that much dynamic shared memory:
	// necessary above 48 KiB.
	SetSharedLimit(f Function, bytes int) error

	// Attributes says what the compiler made of the kernel.
	Attributes(f Function) (Attributes, error)

	// ParamSize is where a kernel's parameter lies in the parameters and how
	// large it is. ErrNotSupported: the driver is older than 12.4.
	// CodeInvalidValue: the kernel has no such parameter.
	ParamSize(f Function, index int) (offset, size int, err error)

	// Occupancy is the number of blocks of that many threads and that much
	// dynamic shared memory that fit on one multiprocessor.
	Occupancy(f Function, threads, shared int) (blocksPerSM int, err error)

	// ActiveClusters is how many clusters of a launch's blocks fit on the device at
	// one time. A cluster's blocks share a part of the GPU, and of those not all
	// have equally many multiprocessors.
	ActiveClusters(f Function, l *Launch) (int, error)

	// Launch puts the kernel, which has exactly one parameter, a struct, into
	// the stream. params points to that struct; CUDA copies it during the
	// call. Nothing is allocated as long as l and params are reused.
	Launch(f Function, l *Launch, params unsafe.Pointer) error
}

// Graphs records work once and repeats it at the cost of one call.
type Graphs interface {
	// BeginCapture makes the calls on the stream record instead of run, until
	// EndCapture on the same thread. Pointers and parameters are frozen.
	BeginCapture(s Stream) error

	// EndCapture returns what was recorded. When a forbidden call spoilt the
	// capture, it returns CodeStreamCaptureInvalidated and the stream is
	// usable again.
	EndCapture(s Stream) (Graph, error)

	// Instantiate makes a graph ready to run; the graph can be destroyed
	// afterwards, or used again.
	Instantiate(g Graph) (GraphExec, error)

	// UpdateGraph gives x the parameters of g, which must have the same
	// shape: otherwise CodeGraphExecUpdateFailure, and x stays as it was.
	UpdateGraph(x GraphExec, g Graph) error

	// LaunchGraph puts the whole graph into the stream. Two launches of one
	// GraphExec never overlap.
	LaunchGraph(x GraphExec, s Stream) error
	DestroyGraph(g Graph) error
	DestroyGraphExec(x GraphExec) error
}

// Virtual is address space apart from the physical memory behind it. All sizes
// and addresses are multiples of Granularity.
type Virtual interface {
	// Granularity is the unit in which memory is created and mapped (2 MiB on
	// present devices).
	Granularity(ordinal int) (uint64, error)

	// Reserve takes address space, which costs no memory.
	Reserve(bytes uint64) (Ptr, error)

	// FreeReservation gives back all of what Reserve returned, with the size
	// that was asked for; nothing may be mapped in it.
	FreeReservation(p Ptr, bytes uint64) error

	// Create takes physical memory of the device.
	Create(ordinal int, bytes uint64) (Chunk, error)

	// ReleaseChunk gives it back, once it is mapped nowhere any more.
	ReleaseChunk(c Chunk) error

	// Map puts the whole chunk at p; bytes is the chunk's size. It cannot be
	// used before SetAccess.
	Map(p Ptr, c Chunk, bytes uint64) error

	// SetAccess lets the device read and write a range that is mapped.
	SetAccess(ordinal int, p Ptr, bytes uint64) error

	// Unmap takes away what Map put at p, with the same size. CUDA does not
	// wait for the work that uses it: the caller must have.
	Unmap(p Ptr, bytes uint64) error
}

// Launch says how a kernel runs. CUDA and this package only read it.
type Launch struct {
	Grid   [3]uint32 // blocks
	Block  [3]uint32 // threads of a block
	Shared uint32    // dynamic shared memory of a block
	Stream Stream

	// Dependent allows the kernel to start before its predecessor in the
	// stream has ended, where the kernel itself waits for the predecessor's
	// results (programmatic dependent launch; from compute capability 9.0).
	Dependent bool

	// Cluster is the number of neighbouring blocks in x that form a cluster
	// (from compute capability 9.0); 0 is none. It divides Grid[0].
	Cluster uint32
}

// Attributes is what cuFuncGetAttribute says of a kernel.
type Attributes struct {
	Registers     int // of a thread
	LocalBytes    int // of a thread: spilled registers, mostly
	SharedBytes   int // static, of a block
	MaxThreads    int // of a block
	BinaryVersion int // 10 x major + minor of the machine code: 90
	PTXVersion    int // the same of the PTX that it was made from
}

// Properties describe a device.
type Properties struct {
	Name      string
	UUID      string // "GPU-" and the usual 8-4-4-4-12, as nvidia-smi prints it
	PCIBusID  string // "0000:3b:00.0"
	Major     int    // compute capability
	Minor     int
	SMs       int // multiprocessors
	ClockKHz  int // of the multiprocessors, peak; 0 unknown
	TotalMem  uint64
	L2Bytes   int
	WarpSize  int
	ECC       bool
	OnHostMem bool // the memory is the host's own (integrated device)

	MemoryClockKHz int // peak; 0 unknown
	BusWidth       int // of the memory, in bits; 0 unknown

	MaxThreadsPerBlock  int
	MaxThreadsPerSM     int
	MaxBlocksPerSM      int
	RegistersPerSM      int // 32-bit
	SharedPerBlock      int // what a kernel may have without SetSharedLimit
	SharedPerBlockOptin int // ... and with it
	SharedPerSM         int
	SharedReserved      int // taken by CUDA, of each block

	Clusters      bool // Launch.Cluster works
	VirtualMemory bool // the methods of Virtual work
}
