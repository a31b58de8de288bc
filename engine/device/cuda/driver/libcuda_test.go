//go:build linux && (amd64 || arm64) && !nocuda

package driver

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
	"unsafe"

	"github.com/ebitengine/purego"
)

// build compiles testdata/libcuda.c with gcc. KIGO_CUDA_INCLUDE names a folder
// with NVIDIA's cuda.h, to compile it against that instead of our subset.
func build(t testing.TB, defines ...string) string {
	t.Helper()
	gcc, err := exec.LookPath("gcc")
	if err != nil {
		t.Skip("no gcc: the binding cannot be compared with C")
	}
	path := filepath.Join(t.TempDir(), "libcuda.so.1")
	args := []string{"-O0", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o", path}
	if include := os.Getenv("KIGO_CUDA_INCLUDE"); include != "" {
		args = append(args, "-DREAL_CUDA_H", "-I"+include)
	}
	args = append(append(args, defines...), "testdata/libcuda.c")
	if out, err := exec.Command(gcc, args...).CombinedOutput(); err != nil {
		t.Fatalf("gcc %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return path
}

// fixture is a Driver on the library of testdata, and what that library offers
// to the test.
type fixture struct {
	*libcuda
	t                       testing.TB
	log, clear, quiet, fail uintptr
}

func open(t testing.TB, defines ...string) *fixture {
	t.Helper()
	path := build(t, defines...)
	d, err := openAt(path)
	if err != nil {
		t.Fatal(err)
	}
	runtime.LockOSThread() // dlerror's text belongs to the thread
	defer runtime.UnlockOSThread()
	lib, err := purego.Dlopen(path, purego.RTLD_NOW)
	if err != nil {
		t.Fatal(err)
	}
	f := &fixture{libcuda: d, t: t}
	for name, to := range map[string]*uintptr{"test_log": &f.log, "test_clear": &f.clear, "test_quiet": &f.quiet, "test_fail": &f.fail} {
		if *to, err = purego.Dlsym(lib, name); err != nil {
			t.Fatal(err)
		}
	}
	f.reset()
	return f
}

func (f *fixture) reset() { purego.SyscallN(f.clear) }

// next makes the next call of the library's function return the code.
func (f *fixture) next(function string, code Code) {
	name := append([]byte(function), 0)
	purego.SyscallN(f.fail, uintptr(unsafe.Pointer(&name[0])), uintptr(code))
}

// calls are the calls since the last reset, as C saw them.
func (f *fixture) calls() []string {
	r, _, _ := purego.SyscallN(f.log)
	var text []byte
	for p := *(*unsafe.Pointer)(unsafe.Pointer(&r)); ; p = unsafe.Add(p, 1) {
		b := *(*byte)(p)
		if b == 0 {
			break
		}
		text = append(text, b)
	}
	f.reset()
	if len(text) == 0 {
		return nil
	}
	return strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")
}

func (f *fixture) saw(want ...string) {
	f.t.Helper()
	if got := f.calls(); !reflect.DeepEqual(got, want) {
		f.t.Errorf("C saw\n\t%s\nwant\n\t%s", strings.Join(got, "\n\t"), strings.Join(want, "\n\t"))
	}
}

func check[T comparable](t testing.TB, what string, err error, got, want T) {
	t.Helper()
	if err != nil {
		t.Errorf("%s: %v", what, err)
	}
	if got != want {
		t.Errorf("%s: %v, want %v", what, got, want)
	}
}

// Handles of the library of testdata: above 32 bits, so that a half one shows.
const (
	context   Context   = 0x7f00000000c0
	stream    Stream    = 0x7f0000000051
	event     Event     = 0x7f00000000e0
	module    Module    = 0x7f0000000030
	function  Function  = 0x7f00000000f0
	graph     Graph     = 0x7f0000000090
	graphExec GraphExec = 0x7f0000000091
	address   Ptr       = 0x7f1000000000
	chunk     Chunk     = 0xfedcba9876543210
)

// The kernel of testdata's library takes this.
type params struct {
	data  Ptr
	n     uint32
	scale float32
}

// Every call arrives in C with the arguments, under the version of the function
// and in the layout that cuda.h has, and what C answers comes back.
func TestCallsAsCSeesThem(t *testing.T) {
	d := open(t)
	check(t, "Version", nil, d.Version(), 12090)
	n, err := d.Devices()
	check(t, "Devices", err, n, 2)
	d.saw("cuDeviceGetCount()")

	p, err := d.Properties(1)
	check(t, "Properties", err, p, Properties{
		Name: "Test GPU", UUID: "GPU-00112233-4455-6677-8899-aabbccddeeff", PCIBusID: "0000:3b:00.0",
		Major: 1075, Minor: 1076, SMs: 1016, ClockKHz: 1013, TotalMem: 80 << 30, L2Bytes: 1038, WarpSize: 1010, ECC: true, OnHostMem: true,
		MemoryClockKHz: 1036, BusWidth: 1037,
		MaxThreadsPerBlock: 1001, MaxThreadsPerSM: 1039, MaxBlocksPerSM: 1106, RegistersPerSM: 1082,
		SharedPerBlock: 1008, SharedPerBlockOptin: 1097, SharedPerSM: 1081, SharedReserved: 1111,
		Clusters: true, VirtualMemory: true,
	})
	if got := d.calls()[:5]; !reflect.DeepEqual(got, []string{"cuDeviceGet(1)", "cuDeviceGetName(256, 101)", "cuDeviceGetPCIBusId(32, 101)", "cuDeviceGetUuid_v2(101)", "cuDeviceTotalMem_v2(101)"}) {
		t.Errorf("C saw %q", got)
	}

	c, err := d.RetainContext(1)
	check(t, "RetainContext", err, c, context)
	check(t, "SetCurrent", d.SetCurrent(c), 0, 0)
	d.saw("cuDeviceGet(1)", "cuDevicePrimaryCtxRetain(101)", "cuCtxSetCurrent(0x7f00000000c0)")

	free, total, err := d.MemInfo()
	check(t, "MemInfo", err, [2]uint64{free, total}, [2]uint64{70 << 30, 80 << 30})
	d.saw("cuMemGetInfo_v2()")

	t.Run("memory", func(t *testing.T) { testMemory(t, d) })

	s, err := d.NewStream()
	check(t, "NewStream", err, s, stream)
	e, err := d.NewEvent(true)
	check(t, "NewEvent", err, e, event)
	e, err = d.NewEvent(false)
	check(t, "NewEvent", err, e, event)
	check(t, "Record", d.Record(e, s), 0, 0)
	check(t, "StreamWait", d.StreamWait(s, e), 0, 0)
	check(t, "SyncEvent", d.SyncEvent(e), 0, 0)
	done, err := d.QueryEvent(e)
	check(t, "QueryEvent", err, done, true)
	check(t, "SyncStream", d.SyncStream(s), 0, 0)
	done, err = d.QueryStream(s)
	check(t, "QueryStream", err, done, true)
	took, err := d.Elapsed(e, e+1)
	check(t, "Elapsed", err, took, 1500*time.Microsecond)
	check(t, "DestroyEvent", d.DestroyEvent(e), 0, 0)
	check(t, "DestroyStream", d.DestroyStream(s), 0, 0)
	d.saw("cuStreamCreate(1)", "cuEventCreate(0)", "cuEventCreate(2)", "cuEventRecord(0x7f00000000e0, 0x7f0000000051)",
		"cuStreamWaitEvent(0x7f0000000051, 0x7f00000000e0, 0)", "cuEventSynchronize(0x7f00000000e0)", "cuEventQuery(0x7f00000000e0)",
		"cuStreamSynchronize(0x7f0000000051)", "cuStreamQuery(0x7f0000000051)", "cuEventElapsedTime(0x7f00000000e0, 0x7f00000000e1)",
		"cuEventDestroy_v2(0x7f00000000e0)", "cuStreamDestroy_v2(0x7f0000000051)")

	m, err := d.LoadModule([]byte(".version 8.0"))
	check(t, "LoadModule", err, m, module)
	f, err := d.Function(m, "scale")
	check(t, "Function", err, f, function)
	check(t, "SetSharedLimit", d.SetSharedLimit(f, 200<<10), 0, 0)
	d.saw("cuModuleLoadDataEx(.version 8.0, 2, log 8192)", "cuModuleGetFunction(0x7f0000000030, scale)", "cuFuncLoad(0x7f00000000f0)",
		"cuFuncSetAttribute(0x7f00000000f0, 8, 204800)")
	a, err := d.Attributes(f)
	check(t, "Attributes", err, a, Attributes{Registers: 14, LocalBytes: 13, SharedBytes: 11, MaxThreads: 10, BinaryVersion: 16, PTXVersion: 15})
	d.reset()
	offset, size, err := d.ParamSize(f, 3)
	check(t, "ParamSize", err, [2]int{offset, size}, [2]int{16, 1 << 33})
	blocks, err := d.Occupancy(f, 256, 3<<32)
	check(t, "Occupancy", err, blocks, 7)
	d.saw("cuFuncGetParamInfo(0x7f00000000f0, 3)", "cuOccupancyMaxActiveBlocksPerMultiprocessor(0x7f00000000f0, 256, 12884901888)")
	clusters, err := d.ActiveClusters(f, &Launch{Grid: [3]uint32{4, 1, 1}, Block: [3]uint32{384, 1, 1}, Shared: 7, Cluster: 4})
	check(t, "ActiveClusters", err, clusters, 30)
	d.saw("cuOccupancyMaxActiveClusters(0x7f00000000f0, 384 threads, shared 7, attribute 4 of 1: 4)")

	l := Launch{Grid: [3]uint32{4_000_000_000, 2, 3}, Block: [3]uint32{256, 5, 6}, Shared: 1 << 16, Stream: s}
	for _, set := range []func(){func() {}, func() { l.Dependent = true }, func() { l.Cluster = 8 }, func() { l.Dependent = false }} {
		set()
		check(t, "Launch", d.Launch(f, &l, unsafe.Pointer(&params{address, 77, 0.25})), 0, 0)
	}
	const launched = "cuLaunchKernelEx(4000000000,2,3 x 256,5,6 shared 65536 stream 0x7f0000000051 f 0x7f00000000f0"
	const with = ": 0x7f1000000000 77 0.25, extra 0)"
	d.saw(launched+with, launched+" dependent=1"+with, launched+" dependent=1 cluster=8,1,1"+with, launched+" cluster=8,1,1"+with)
	check(t, "UnloadModule", d.UnloadModule(m), 0, 0)
	d.saw("cuModuleUnload(0x7f0000000030)")

	check(t, "BeginCapture", d.BeginCapture(s), 0, 0)
	g, err := d.EndCapture(s)
	check(t, "EndCapture", err, g, graph)
	x, err := d.Instantiate(g)
	check(t, "Instantiate", err, x, graphExec)
	check(t, "UpdateGraph", d.UpdateGraph(x, g), 0, 0)
	check(t, "LaunchGraph", d.LaunchGraph(x, s), 0, 0)
	check(t, "DestroyGraph", d.DestroyGraph(g), 0, 0)
	check(t, "DestroyGraphExec", d.DestroyGraphExec(x), 0, 0)
	d.saw("cuStreamBeginCapture_v2(0x7f0000000051, 1)", "cuStreamEndCapture(0x7f0000000051)", "cuGraphInstantiateWithFlags(0x7f0000000090, 0)",
		"cuGraphExecUpdate_v2(0x7f0000000091, 0x7f0000000090)", "cuGraphLaunch(0x7f0000000091, 0x7f0000000051)",
		"cuGraphDestroy(0x7f0000000090)", "cuGraphExecDestroy(0x7f0000000091)")

	unit, err := d.Granularity(1)
	check(t, "Granularity", err, unit, 2<<20)
	at, err := d.Reserve(64 << 30)
	check(t, "Reserve", err, at, address)
	k, err := d.Create(1, 6<<30)
	check(t, "Create", err, k, chunk)
	check(t, "Map", d.Map(at+2<<20, k, 6<<30), 0, 0)
	check(t, "SetAccess", d.SetAccess(1, at, 8<<30), 0, 0)
	check(t, "Unmap", d.Unmap(at+2<<20, 6<<30), 0, 0)
	check(t, "ReleaseChunk", d.ReleaseChunk(k), 0, 0)
	check(t, "FreeReservation", d.FreeReservation(at, 64<<30), 0, 0)
	d.saw("cuMemGetAllocationGranularity(plain 1, device 1, 0)", "cuMemAddressReserve(68719476736, 0, 0, 0)", "cuMemCreate(6442450944, plain 1, device 1, 0)",
		"cuMemMap(0x7f1000200000, 6442450944, 0, 0xfedcba9876543210, 0)", "cuMemSetAccess(0x7f1000000000, 8589934592, 1 1 3, 1)",
		"cuMemUnmap(0x7f1000200000, 6442450944)", "cuMemRelease(0xfedcba9876543210)", "cuMemAddressFree(0x7f1000000000, 68719476736)")

	check(t, "ReleaseContext", d.ReleaseContext(1), 0, 0)
	d.saw("cuDeviceGet(1)", "cuDevicePrimaryCtxRelease_v2(101)")
	if err := d.ReleaseContext(1); !errors.Is(err, CodeInvalidContext) {
		t.Errorf("ReleaseContext once too often: %v", err)
	}
	d.saw()
}

// Copies and fills move the bytes that they should.
func testMemory(t *testing.T, d *fixture) {
	const n = 1 << 12
	host, err := d.HostAlloc(n)
	check(t, "HostAlloc", err, len(host), n)
	a, err := d.Alloc(n)
	check(t, "Alloc", err, a != 0, true)
	b, err := d.Alloc(n)
	check(t, "Alloc", err, b != 0, true)
	for i := range host {
		host[i] = byte(i * 7)
	}
	check(t, "CopyToDevice", d.CopyToDevice(a, host, stream), 0, 0)
	clear(host)
	check(t, "CopyOnDevice", d.CopyOnDevice(b, a, n, stream), 0, 0)
	check(t, "Fill8", d.Fill8(b+1, 0xab, 2, stream), 0, 0)
	check(t, "Fill32", d.Fill32(b+8, 0xfedcba98, 2, stream), 0, 0)
	check(t, "CopyToHost", d.CopyToHost(host, b, stream), 0, 0)
	want := []byte{0, 0xab, 0xab, 21, 28, 35, 42, 49, 0x98, 0xba, 0xdc, 0xfe, 0x98, 0xba, 0xdc, 0xfe, 112}
	if !reflect.DeepEqual(host[:len(want)], want) || host[n-1] != byte((n-1)*7&0xff) {
		t.Errorf("memory is % x ... %x", host[:len(want)], host[n-1])
	}
	for what, err := range map[string]error{
		"CopyToDevice": d.CopyToDevice(a, nil, stream), "CopyToHost": d.CopyToHost(nil, a, stream), "CopyOnDevice": d.CopyOnDevice(a, b, 0, stream),
		"Fill8": d.Fill8(a, 1, 0, stream), "Fill32": d.Fill32(a, 1, 0, stream),
	} {
		check(t, what+" of nothing", err, 0, 0)
	}
	mine := []byte{0x5a, 1, 2}
	check(t, "HostRegister", d.HostRegister(mine), 0, 0)
	check(t, "HostUnregister", d.HostUnregister(mine), 0, 0)
	check(t, "Free", d.Free(a), 0, 0)
	check(t, "Free", d.Free(b), 0, 0)
	check(t, "HostFree", d.HostFree(host), 0, 0)
	d.saw("cuMemHostAlloc(4096, 1)", "cuMemAlloc_v2(4096)", "cuMemAlloc_v2(4096)",
		"cuMemcpyHtoDAsync_v2(4096, 0x7f0000000051)", "cuMemcpyDtoDAsync_v2(4096, 0x7f0000000051)",
		"cuMemsetD8Async(0xab, 2, 0x7f0000000051)", "cuMemsetD32Async(0xfedcba98, 2, 0x7f0000000051)",
		"cuMemcpyDtoHAsync_v2(4096, 0x7f0000000051)",
		"cuMemHostRegister_v2(0x5a, 3, 1)", "cuMemHostUnregister(0x5a)", "cuMemFree_v2(1)", "cuMemFree_v2(1)", "cuMemFreeHost(1)")
}

// What CUDA must not see is refused before it does, on every method.
func TestZeroHandles(t *testing.T) {
	d := open(t)
	l := &Launch{Stream: stream}
	p := unsafe.Pointer(&params{})
	for what, err := range map[string]error{
		"DestroyStream": d.DestroyStream(0), "SyncStream": d.SyncStream(0), "QueryStream": second(d.QueryStream(0)),
		"StreamWait 1": d.StreamWait(0, event), "StreamWait 2": d.StreamWait(stream, 0), "DestroyEvent": d.DestroyEvent(0),
		"Record 1": d.Record(0, stream), "Record 2": d.Record(event, 0), "SyncEvent": d.SyncEvent(0), "QueryEvent": second(d.QueryEvent(0)),
		"Elapsed 1": second(d.Elapsed(0, event)), "Elapsed 2": second(d.Elapsed(event, 0)),
		"CopyToDevice": d.CopyToDevice(address, []byte{1}, 0), "CopyToHost": d.CopyToHost([]byte{1}, address, 0),
		"CopyOnDevice": d.CopyOnDevice(address, address, 1, 0), "Fill8": d.Fill8(address, 1, 1, 0), "Fill32": d.Fill32(address, 1, 1, 0),
		"UnloadModule": d.UnloadModule(0), "Function": second(d.Function(0, "f")), "SetSharedLimit": d.SetSharedLimit(0, 1),
		"Attributes": second(d.Attributes(0)), "Occupancy": second(d.Occupancy(0, 1, 0)),
		"ActiveClusters": second(d.ActiveClusters(0, l)),
		"Launch 1":       d.Launch(0, l, p), "Launch 2": d.Launch(function, &Launch{}, p),
		"BeginCapture": d.BeginCapture(0), "EndCapture": second(d.EndCapture(0)), "Instantiate": second(d.Instantiate(0)),
		"UpdateGraph 1": d.UpdateGraph(0, graph), "UpdateGraph 2": d.UpdateGraph(graphExec, 0),
		"LaunchGraph 1": d.LaunchGraph(0, stream), "LaunchGraph 2": d.LaunchGraph(graphExec, 0),
		"DestroyGraph": d.DestroyGraph(0), "DestroyGraphExec": d.DestroyGraphExec(0),
		"ReleaseChunk": d.ReleaseChunk(0), "Map": d.Map(address, 0, 1),
	} {
		if !errors.Is(err, CodeInvalidHandle) {
			t.Errorf("%s: %v, want CUDA_ERROR_INVALID_HANDLE", what, err)
		}
	}
	_, _, err := d.ParamSize(0, 0)
	if !errors.Is(err, CodeInvalidHandle) {
		t.Errorf("ParamSize: %v", err)
	}
	for what, err := range map[string]error{
		"Free": d.Free(0), "HostAlloc": second(d.HostAlloc(0)), "HostAlloc -1": second(d.HostAlloc(-1)), "HostFree": d.HostFree(nil),
		"HostRegister": d.HostRegister(nil), "HostUnregister": d.HostUnregister(nil), "Launch": d.Launch(function, l, nil),
	} {
		if !errors.Is(err, CodeInvalidValue) {
			t.Errorf("%s: %v, want CUDA_ERROR_INVALID_VALUE", what, err)
		}
	}
	if _, err := d.LoadModule(nil); !errors.Is(err, CodeInvalidImage) {
		t.Errorf("LoadModule: %v", err)
	}
	if _, err := d.Function(module, "a\x00b"); !errors.Is(err, CodeNotFound) {
		t.Errorf("Function: %v", err)
	}
	d.saw()
}

func second[T any](_ T, err error) error { return err }

// An error has CUDA's code, and what a reader of the log needs.
func TestErrors(t *testing.T) {
	d := open(t)
	for _, tc := range []struct {
		function string
		code     Code
		call     func() error
		text     string
	}{
		{"cuMemAlloc_v2", CodeOutOfMemory, func() error { return second(d.Alloc(123)) }, "cuMemAlloc: CUDA_ERROR_OUT_OF_MEMORY (2): 123 bytes"},
		{"cuDeviceGet", CodeInvalidDevice, func() error { return second(d.Properties(9)) }, "cuDeviceGet: CUDA_ERROR_INVALID_DEVICE (101): device 9"},
		{"cuModuleLoadDataEx", CodeInvalidPTX, func() error { return second(d.LoadModule([]byte("x"))) },
			"cuModuleLoadDataEx: CUDA_ERROR_INVALID_PTX (218): 1 bytes: ptxas error   : line 1; no such register"},
		{"cuModuleGetFunction", CodeNotFound, func() error { return second(d.Function(module, "scale")) }, `cuModuleGetFunction: CUDA_ERROR_NOT_FOUND (500): "scale"`},
		{"cuFuncLoad", CodeNoBinaryForGPU, func() error { return second(d.Function(module, "scale")) }, `cuFuncLoad: CUDA_ERROR_NO_BINARY_FOR_GPU (209): "scale"`},
		{"cuLaunchKernelEx", CodeLaunchOutOfResources,
			func() error {
				return d.Launch(function, &Launch{Grid: [3]uint32{1, 2, 3}, Block: [3]uint32{4, 5, 6}, Shared: 7, Stream: stream, Cluster: 2}, unsafe.Pointer(&params{}))
			},
			"cuLaunchKernelEx: CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES (701): grid [1 2 3], block [4 5 6], 7 bytes of shared memory, cluster 2"},
		{"cuGraphExecUpdate_v2", CodeGraphExecUpdateFailure, func() error { return d.UpdateGraph(graphExec, graph) },
			"cuGraphExecUpdate: CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE (910): the topology changed"},
		{"cuCtxSetCurrent", CodeInvalidContext, func() error { return d.SetCurrent(context) }, "cuCtxSetCurrent: CUDA_ERROR_INVALID_CONTEXT (201)"},
		{"cuEventElapsedTime", CodeNotReady, func() error { return second(d.Elapsed(event, event)) }, "cuEventElapsedTime: CUDA_ERROR_NOT_READY (600)"},
	} {
		d.next(tc.function, tc.code)
		err := tc.call()
		if !errors.Is(err, tc.code) || err.Error() != tc.text {
			t.Errorf("%s: %v, want %s", tc.function, err, tc.text)
		}
		var typed *Error
		if !errors.As(err, &typed) {
			t.Errorf("%s: %T is no *Error", tc.function, err)
		}
	}
	for function, query := range map[string]func() (bool, error){
		"cuStreamQuery": func() (bool, error) { return d.QueryStream(stream) },
		"cuEventQuery":  func() (bool, error) { return d.QueryEvent(event) },
	} {
		d.next(function, CodeNotReady)
		done, err := query()
		check(t, function, err, done, false)
	}
	// Figures that a virtual device keeps to itself are 0; others must be there.
	d.reset()
	d.next("cuDeviceGetAttribute", CodeNotSupported)
	if _, err := d.Properties(0); !errors.Is(err, ErrNotSupported) {
		t.Errorf("Properties without a compute capability: %v", err)
	}
	if err := d.Failed(); err != nil {
		t.Errorf("Failed: %v", err)
	}
}

// After a fatal code CUDA is called no more, and every error tells why.
func TestLatch(t *testing.T) {
	d := open(t)
	if _, err := d.RetainContext(0); err != nil {
		t.Fatal(err)
	}
	d.next("cuStreamQuery", CodeIllegalAddress)
	first := second(d.QueryStream(stream))
	if !errors.Is(first, ErrFatal) || !errors.Is(d.Failed(), CodeIllegalAddress) {
		t.Fatalf("QueryStream: %v, Failed: %v", first, d.Failed())
	}
	d.reset()
	v := reflect.ValueOf(Driver(d.libcuda))
	for i := range v.NumMethod() {
		name, method := v.Type().Method(i).Name, v.Method(i)
		if name == "Failed" || name == "Version" || name == "Close" {
			continue
		}
		args := make([]reflect.Value, method.Type().NumIn())
		for j := range args {
			args[j] = reflect.New(method.Type().In(j)).Elem()
			switch args[j].Kind() {
			case reflect.Slice:
				args[j].Set(reflect.ValueOf([]byte{1}))
			case reflect.Pointer:
				args[j].Set(reflect.ValueOf(&Launch{Stream: stream}))
			case reflect.Int:
				args[j].SetInt(1)
			case reflect.Uint8, reflect.Uint32, reflect.Uint64, reflect.Uintptr:
				args[j].SetUint(1)
			}
		}
		results := method.Call(args)
		err, _ := results[len(results)-1].Interface().(error)
		var typed *Error
		if !errors.Is(err, ErrFatal) || !errors.Is(err, first) || !errors.As(err, &typed) || !strings.Contains(err.Error(), " not called: the context has failed: cuStreamQuery: CUDA_ERROR_ILLEGAL_ADDRESS (700)") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := d.Close(); !errors.Is(err, ErrFatal) {
		t.Errorf("Close: %v", err)
	}
	d.saw()
}

func TestClose(t *testing.T) {
	d := open(t)
	for range 2 {
		if _, err := d.RetainContext(1); err != nil {
			t.Fatal(err)
		}
	}
	d.reset()
	check(t, "Close", d.Close(), 0, 0)
	d.saw("cuDeviceGet(1)", "cuDevicePrimaryCtxRelease_v2(101)", "cuDeviceGet(1)", "cuDevicePrimaryCtxRelease_v2(101)")
	check(t, "Close", d.Close(), 0, 0)
	if _, err := d.Alloc(1); !errors.Is(err, ErrClosed) {
		t.Errorf("Alloc after Close: %v", err)
	}
	d.saw()
}

func TestOpen(t *testing.T) {
	for _, tc := range []struct {
		name    string
		defines []string
		is      error
		text    string
	}{
		{"no device", []string{"-DINIT=100"}, ErrNoDevice, "no CUDA device: cuInit: CUDA_ERROR_NO_DEVICE (100)"},
		{"none visible", []string{"-DDEVICES=0"}, ErrNoDevice, "no CUDA device: the driver sees none"},
		{"other driver in the kernel", []string{"-DINIT=803"}, ErrNoDriver, "no usable NVIDIA driver: cuInit: CUDA_ERROR_SYSTEM_DRIVER_MISMATCH (803)"},
		{"no device file", []string{"-DINIT=999"}, ErrNoDriver, "no usable NVIDIA driver: cuInit: CUDA_ERROR_UNKNOWN (999)"},
		{"too old", []string{"-DVERSION=11080", "-DWITHOUT_UNMAP"}, ErrDriverTooOld, "the NVIDIA driver is too old: it knows CUDA 11.8, and 12.0 (driver 525) is needed"},
		{"function missing", []string{"-DWITHOUT_UNMAP"}, ErrNoDriver, "lacks cuMemUnmap"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := openAt(build(t, tc.defines...))
			if !errors.Is(err, tc.is) || !strings.HasSuffix(err.Error(), tc.text) {
				t.Errorf("error %v, want %s", err, tc.text)
			}
			if errors.Is(err, ErrFatal) {
				t.Error("the error counts as a failure of a context")
			}
		})
	}
	t.Run("12.0", func(t *testing.T) {
		d := open(t, "-DVERSION=12000")
		f, err := d.Function(module, "scale")
		check(t, "Function", err, f, function)
		d.saw("cuModuleGetFunction(0x7f0000000030, scale)", "cuFuncGetAttribute(4, 0x7f00000000f0)")
		if _, _, err := d.ParamSize(f, 0); !errors.Is(err, ErrNotSupported) {
			t.Errorf("ParamSize: %v", err)
		}
	})
	t.Run("not a library", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "libcuda.so.1")
		if err := os.WriteFile(path, []byte("not a library"), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := openAt(path); !errors.Is(err, ErrNoDriver) || !strings.Contains(err.Error(), path) {
			t.Errorf("error %v", err)
		}
	})
}

// The loader's message is that of the failure, also when many threads fail at
// once: dlerror's text belongs to the thread.
func TestOpenConcurrently(t *testing.T) {
	var wg sync.WaitGroup
	dir := t.TempDir()
	for i := range 8 {
		wg.Go(func() {
			for range 200 {
				path := filepath.Join(dir, string(rune('a'+i))+".so")
				if _, err := openAt(path); !errors.Is(err, ErrNoDriver) || !strings.Contains(err.Error(), path+": cannot open shared object file") {
					t.Errorf("error %v", err)
					return
				}
			}
		})
	}
	wg.Wait()
}

// Threads launch at once without mixing their arguments.
func TestLaunchConcurrently(t *testing.T) {
	d := open(t)
	purego.SyscallN(d.quiet, 1) // its log is not for several threads
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			l := Launch{Grid: [3]uint32{uint32(i), 1, 1}, Block: [3]uint32{32, 1, 1}, Stream: stream, Cluster: uint32(i)}
			p := &params{address, uint32(i), 1}
			for range 5000 {
				if err := d.Launch(function, &l, unsafe.Pointer(p)); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}
