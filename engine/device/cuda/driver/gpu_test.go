//go:build linux && (amd64 || arm64) && !nocuda

package driver

import (
	"errors"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"unsafe"
)

// These run where there is a GPU, and are skipped elsewhere. On a host without
// Go: `CGO_ENABLED=0 go test -c`, and run the result there with -test.run GPU.

// fillPTX sets n 32-bit words at data.
const fillPTX = `.version 7.0
.target sm_80
.address_size 64
.visible .entry fill(.param .align 8 .b8 fill_param_0[16])
{
	.reg .pred %p<2>;
	.reg .b32 %r<7>;
	.reg .b64 %rd<5>;
	ld.param.u64 %rd1, [fill_param_0];
	ld.param.u32 %r1, [fill_param_0+8];
	ld.param.u32 %r2, [fill_param_0+12];
	mov.u32 %r3, %ctaid.x;
	mov.u32 %r4, %ntid.x;
	mov.u32 %r5, %tid.x;
	mad.lo.s32 %r6, %r3, %r4, %r5;
	setp.ge.u32 %p1, %r6, %r1;
	@%p1 bra done;
	cvta.to.global.u64 %rd2, %rd1;
	mul.wide.u32 %rd3, %r6, 4;
	add.s64 %rd4, %rd2, %rd3;
	st.global.u32 [%rd4], %r2;
done:
	ret;
}
`

type fillParams struct {
	data     Ptr
	n, value uint32
}

// openGPU is a Driver with the context of device 0 on this thread.
func openGPU(t *testing.T) Driver {
	t.Helper()
	d, err := Open()
	if errors.Is(err, ErrNoDriver) || errors.Is(err, ErrNoDevice) || errors.Is(err, ErrDriverTooOld) {
		t.Skip(err)
	}
	must(t, err)
	runtime.LockOSThread()
	t.Cleanup(runtime.UnlockOSThread)
	must(t, d.SetCurrent(take[Context](t)(d.RetainContext(0))))
	t.Cleanup(func() {
		if err := d.Close(); err != nil && d.Failed() == nil {
			t.Error(err)
		}
	})
	return d
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func take[T any](t testing.TB) func(T, error) T {
	return func(v T, err error) T { t.Helper(); must(t, err); return v }
}

func TestGPU(t *testing.T) {
	d := openGPU(t)
	p := take[Properties](t)(d.Properties(0))
	t.Logf("CUDA %d, %+v", d.Version(), p)
	if p.Name == "" || p.Major < 5 || p.SMs < 1 || p.WarpSize != 32 || p.TotalMem < 1<<28 || p.SharedPerBlockOptin < 48<<10 || len(p.UUID) != 40 {
		t.Error("implausible properties")
	}
	free, total, err := d.MemInfo()
	must(t, err)
	if free == 0 || free > total {
		t.Errorf("%d of %d bytes free", free, total)
	}
	s := take[Stream](t)(d.NewStream())
	const n = 1000
	host := take[[]byte](t)(d.HostAlloc(4 * n))
	words := unsafe.Slice((*uint32)(unsafe.Pointer(&host[0])), n)
	at := take[Ptr](t)(d.Alloc(4 * n))
	expect := func(what string, value uint32) {
		t.Helper()
		clear(words)
		must(t, d.CopyToHost(host, at, s))
		must(t, d.SyncStream(s))
		for i, w := range words {
			if w != value {
				t.Fatalf("%s: word %d is %#x, want %#x", what, i, w, value)
			}
		}
	}
	must(t, d.Fill32(at, 0xfedcba98, n, s))
	expect("Fill32", 0xfedcba98)
	must(t, d.Fill8(at, 0x5a, 4*n, s))
	expect("Fill8", 0x5a5a5a5a)

	_, err = d.LoadModule([]byte(strings.Replace(fillPTX, "setp.ge.u32", "setp.xx.u32", 1)))
	if err == nil || d.Failed() != nil || !strings.Contains(err.Error(), "line") {
		t.Errorf("LoadModule of bad PTX, without the compiler's log: %v", err)
	}
	m := take[Module](t)(d.LoadModule([]byte(fillPTX)))
	if _, err := d.Function(m, "none"); !errors.Is(err, CodeNotFound) {
		t.Errorf("Function: %v", err)
	}
	f := take[Function](t)(d.Function(m, "fill"))
	a := take[Attributes](t)(d.Attributes(f))
	t.Logf("%+v", a)
	if a.Registers < 1 || a.MaxThreads < 256 || a.BinaryVersion != 10*p.Major+p.Minor || a.PTXVersion != 70 && a.PTXVersion != 80 {
		t.Error("implausible attributes")
	}
	if blocks := take[int](t)(d.Occupancy(f, 256, 0)); blocks < 1 || blocks > p.MaxThreadsPerSM/256 {
		t.Errorf("%d blocks on a multiprocessor", blocks)
	}
	if p.Clusters {
		l := &Launch{Grid: [3]uint32{2, 1, 1}, Block: [3]uint32{256, 1, 1}, Cluster: 2}
		if clusters := take[int](t)(d.ActiveClusters(f, l)); clusters < 1 || clusters > p.SMs*p.MaxThreadsPerSM/512 {
			t.Errorf("%d clusters of two blocks", clusters)
		}
	}
	must(t, d.SetSharedLimit(f, p.SharedPerBlockOptin))
	if offset, size, err := d.ParamSize(f, 0); !errors.Is(err, ErrNotSupported) && (err != nil || offset != 0 || size != int(unsafe.Sizeof(fillParams{}))) {
		t.Errorf("parameters of %d bytes at %d, %v", size, offset, err)
	}
	if _, _, err := d.ParamSize(f, 1); !errors.Is(err, ErrNotSupported) && !errors.Is(err, CodeInvalidValue) {
		t.Errorf("second parameter: %v", err)
	}

	launches := []Launch{{}, {Shared: uint32(p.SharedPerBlockOptin)}}
	if p.Clusters {
		launches = append(launches, Launch{Dependent: true}, Launch{Cluster: 2}, Launch{Dependent: true, Cluster: 4})
	}
	for i, l := range launches {
		l.Grid, l.Block, l.Stream = [3]uint32{8, 1, 1}, [3]uint32{256, 1, 1}, s
		must(t, d.Launch(f, &l, unsafe.Pointer(&fillParams{at, n, uint32(i) + 1})))
		expect("Launch", uint32(i)+1)
	}
	if err := d.Launch(f, &Launch{Grid: [3]uint32{1, 1, 1}, Block: [3]uint32{4096, 1, 1}, Stream: s}, unsafe.Pointer(&fillParams{})); !errors.Is(err, CodeInvalidValue) {
		t.Errorf("block of 4096: %v", err)
	}

	// Parameters are frozen at the capture, and an update brings others.
	x := GraphExec(0)
	from, to := take[Event](t)(d.NewEvent(true)), take[Event](t)(d.NewEvent(true))
	for value := uint32(100); value < 103; value++ {
		must(t, d.BeginCapture(s))
		q := fillParams{at, n, value}
		must(t, d.Launch(f, &Launch{Grid: [3]uint32{8, 1, 1}, Block: [3]uint32{256, 1, 1}, Stream: s}, unsafe.Pointer(&q)))
		q.value = 7
		g := take[Graph](t)(d.EndCapture(s))
		if x == 0 {
			x = take[GraphExec](t)(d.Instantiate(g))
		} else {
			must(t, d.UpdateGraph(x, g))
		}
		must(t, d.DestroyGraph(g))
		must(t, d.Record(from, s))
		must(t, d.LaunchGraph(x, s))
		must(t, d.Record(to, s))
		expect("LaunchGraph", value)
		took, err := d.Elapsed(from, to)
		if err != nil || took <= 0 {
			t.Errorf("took %v, %v", took, err)
		}
	}
	must(t, d.BeginCapture(s))
	must(t, d.Fill8(at, 1, 4, s))
	g := take[Graph](t)(d.EndCapture(s))
	if err := d.UpdateGraph(x, g); !errors.Is(err, CodeGraphExecUpdateFailure) {
		t.Errorf("UpdateGraph with another shape: %v", err)
	}
	must(t, d.DestroyGraph(g))
	must(t, d.DestroyGraphExec(x))
	must(t, d.DestroyEvent(from))
	must(t, d.DestroyEvent(to))

	// A copy that another stream waits for.
	other := take[Stream](t)(d.NewStream())
	e := take[Event](t)(d.NewEvent(false))
	for i := range words {
		words[i] = 42
	}
	must(t, d.CopyToDevice(at, host, other))
	must(t, d.Record(e, other))
	must(t, d.StreamWait(s, e))
	expect("StreamWait", 42)
	for {
		if take[bool](t)(d.QueryEvent(e)) && take[bool](t)(d.QueryStream(other)) {
			break
		}
	}
	must(t, d.SyncEvent(e))
	must(t, d.DestroyEvent(e))
	must(t, d.DestroyStream(other))

	must(t, d.UnloadModule(m))
	must(t, d.Free(at))
	must(t, d.HostFree(host))
	must(t, d.DestroyStream(s))
	if err := d.Failed(); err != nil {
		t.Error(err)
	}
}

// Two chunks make one range, in which copies cross the border, and all memory
// comes back.
func TestGPUVirtualMemory(t *testing.T) {
	d := openGPU(t)
	s := take[Stream](t)(d.NewStream())
	before, _, err := d.MemInfo()
	must(t, err)
	unit := take[uint64](t)(d.Granularity(0))
	base := take[Ptr](t)(d.Reserve(16 * unit))
	var chunks [2]Chunk
	for i := range chunks {
		chunks[i] = take[Chunk](t)(d.Create(0, unit))
		must(t, d.Map(base+Ptr(uint64(i)*unit), chunks[i], unit))
	}
	must(t, d.SetAccess(0, base, 2*unit))
	must(t, d.Fill8(base, 0x11, 2*unit, s))
	must(t, d.CopyOnDevice(base+Ptr(unit)-8, base, 16, s))
	must(t, d.SyncStream(s))
	for i, c := range chunks {
		must(t, d.Unmap(base+Ptr(uint64(i)*unit), unit))
		must(t, d.ReleaseChunk(c))
	}
	must(t, d.FreeReservation(base, 16*unit))
	after, _, err := d.MemInfo()
	must(t, err)
	if after+unit <= before { // less may be CUDA's own, or a neighbour's
		t.Errorf("%d bytes free before, %d after", before, after)
	}
	must(t, d.DestroyStream(s))
}

// A kernel that writes to a bad address ends the context, in a child process.
func TestGPUFault(t *testing.T) {
	const child = "KIGO_TEST_GPU_FAULT"
	if os.Getenv(child) == "" {
		openGPU(t) // skips without a GPU
		cmd := exec.Command(os.Args[0], "-test.run=^TestGPUFault$", "-test.v")
		cmd.Env = append(os.Environ(), child+"=1")
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		t.Logf("%s", out)
		return
	}
	d := openGPU(t)
	s := take[Stream](t)(d.NewStream())
	f := take[Function](t)(d.Function(take[Module](t)(d.LoadModule([]byte(fillPTX))), "fill"))
	must(t, d.Launch(f, &Launch{Grid: [3]uint32{1, 1, 1}, Block: [3]uint32{32, 1, 1}, Stream: s}, unsafe.Pointer(&fillParams{0x1000, 32, 1})))
	err := d.SyncStream(s)
	if !errors.Is(err, ErrFatal) || !errors.Is(err, CodeIllegalAddress) || d.Failed() == nil {
		t.Fatalf("SyncStream: %v, Failed: %v", err, d.Failed())
	}
	if _, err := d.Alloc(1); !errors.Is(err, ErrFatal) || !strings.Contains(err.Error(), "not called") {
		t.Fatalf("Alloc: %v", err)
	}
	t.Log(err)
}
