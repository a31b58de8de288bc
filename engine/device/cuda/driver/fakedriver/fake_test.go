package fakedriver

import (
	"bytes"
	"errors"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"

	"kigo/engine/device/cuda/driver"
)

type scaleParams struct {
	data driver.Ptr
	n    uint32
	by   float32
}

func scale(_ driver.Launch, p *scaleParams, mem Memory) error {
	x, err := Slice[float32](mem, p.data, int(p.n))
	if err != nil {
		return err
	}
	for i := range x {
		x[i] *= p.by
	}
	return nil
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

func second[T any](_ T, err error) error { return err }

func want(t testing.TB, err error, code driver.Code) {
	t.Helper()
	if !errors.Is(err, code) {
		t.Errorf("error %v, want %v", err, code)
	}
}

// rig is a fake with a context, a stream, 16 floats on the host and room for
// them on the device.
type rig struct {
	*Driver
	t      *testing.T
	s      driver.Stream
	host   []byte
	floats []float32
	at     driver.Ptr
	m      driver.Module
	scale  driver.Function
}

func newRig(t *testing.T, cfg Config) *rig {
	t.Helper()
	runtime.LockOSThread()
	t.Cleanup(runtime.UnlockOSThread)
	r := &rig{Driver: New(cfg), t: t}
	r.Register(Typed("scale", scale))
	must(t, r.SetCurrent(take[driver.Context](t)(r.RetainContext(0))))
	r.s = take[driver.Stream](t)(r.NewStream())
	r.host = take[[]byte](t)(r.HostAlloc(64))
	r.floats = unsafe.Slice((*float32)(unsafe.Pointer(&r.host[0])), 16)
	for i := range r.floats {
		r.floats[i] = float32(i)
	}
	r.at = take[driver.Ptr](t)(r.Alloc(64))
	r.m = take[driver.Module](t)(r.LoadModule([]byte("image")))
	r.scale = take[driver.Function](t)(r.Function(r.m, "scale"))
	return r
}

func (r *rig) launch(by float32) error {
	return r.Launch(r.scale, &driver.Launch{Grid: [3]uint32{1, 1, 1}, Block: [3]uint32{32, 1, 1}, Stream: r.s}, unsafe.Pointer(&scaleParams{r.at, 16, by}))
}

// release gives everything back; nothing may be left then.
func (r *rig) release() {
	r.t.Helper()
	must(r.t, r.UnloadModule(r.m))
	must(r.t, r.Free(r.at))
	must(r.t, r.HostFree(r.host))
	must(r.t, r.DestroyStream(r.s))
	must(r.t, r.ReleaseContext(0))
	must(r.t, r.Check())
}

// Work is done in order, and not before somebody waits for it.
func TestWorkWaits(t *testing.T) {
	r := newRig(t, Config{})
	must(t, r.CopyToDevice(r.at, r.host, r.s))
	must(t, r.launch(2))
	must(t, r.Fill32(r.at, 0x40400000, 1, r.s)) // 3
	must(t, r.Fill8(r.at+4, 0, 4, r.s))
	must(t, r.CopyToHost(r.host, r.at, r.s))
	if r.floats[5] != 5 {
		t.Fatal("the copy came back before it was waited for")
	}
	must(t, r.SyncStream(r.s))
	if !reflect.DeepEqual(r.floats[:5], []float32{3, 0, 4, 6, 8}) {
		t.Fatalf("floats %v", r.floats)
	}
	if got := r.TakeCalls(); !reflect.DeepEqual(got[len(got)-4:], []string{"Fill32", "Fill8", "CopyToHost", "SyncStream"}) || got[len(got)-5] != "Launch scale" {
		t.Errorf("calls %q", got)
	}
	// Each query does a piece.
	must(t, r.launch(2))
	must(t, r.launch(2))
	for _, want := range []bool{false, false, true} {
		if done := take[bool](t)(r.QueryStream(r.s)); done != want {
			t.Fatalf("done is %t", done)
		}
	}
	// A source changed too early arrives changed.
	must(t, r.CopyToDevice(r.at, r.host, r.s))
	clear(r.host)
	must(t, r.CopyToHost(r.host, r.at, r.s))
	must(t, r.SyncStream(r.s))
	if r.floats[3] != 0 {
		t.Errorf("floats %v", r.floats)
	}
	r.release()
}

func TestEager(t *testing.T) {
	r := newRig(t, Config{Eager: true})
	must(t, r.CopyToDevice(r.at, r.host, r.s))
	must(t, r.launch(2))
	must(t, r.CopyToHost(r.host, r.at, r.s))
	if r.floats[5] != 10 {
		t.Errorf("floats %v", r.floats)
	}
	r.release()
}

func TestEventsOrderStreams(t *testing.T) {
	r := newRig(t, Config{})
	other := take[driver.Stream](t)(r.NewStream())
	start, ready := take[driver.Event](t)(r.NewEvent(true)), take[driver.Event](t)(r.NewEvent(true))
	must(t, r.SyncEvent(ready)) // recorded nothing
	must(t, r.Record(start, other))
	must(t, r.CopyToDevice(r.at, r.host, other))
	must(t, r.Record(ready, other))
	must(t, r.Fill8(r.at, 0xff, 64, other)) // after the event: not waited for
	must(t, r.StreamWait(r.s, ready))
	must(t, r.launch(2))
	must(t, r.CopyToHost(r.host, r.at, r.s))
	want(t, second(r.Elapsed(start, ready)), driver.CodeNotReady)
	must(t, r.SyncStream(r.s))
	if r.floats[3] != 6 {
		t.Errorf("floats %v", r.floats)
	}
	if took := take[time.Duration](t)(r.Elapsed(start, ready)); took != time.Microsecond {
		t.Errorf("took %v", took)
	}
	must(t, r.DestroyEvent(start))
	must(t, r.DestroyEvent(ready))
	must(t, r.DestroyStream(other)) // its work is done later
	r.release()
}

func TestGraphs(t *testing.T) {
	r := newRig(t, Config{})
	record := func(by float32) driver.Graph {
		must(t, r.BeginCapture(r.s))
		must(t, r.CopyToDevice(r.at, r.host, r.s))
		must(t, r.launch(by))
		must(t, r.CopyToHost(r.host, r.at, r.s))
		return take[driver.Graph](t)(r.EndCapture(r.s))
	}
	g := record(2)
	x := take[driver.GraphExec](t)(r.Instantiate(g))
	must(t, r.SyncStream(r.s))
	if r.floats[1] != 1 {
		t.Fatal("a capture did something")
	}
	for range 3 {
		must(t, r.LaunchGraph(x, r.s))
	}
	must(t, r.SyncStream(r.s))
	if r.floats[1] != 8 {
		t.Errorf("floats %v", r.floats)
	}
	g3 := record(3)
	must(t, r.UpdateGraph(x, g3))
	must(t, r.LaunchGraph(x, r.s))
	must(t, r.SyncStream(r.s))
	if r.floats[1] != 24 {
		t.Errorf("floats %v", r.floats)
	}
	must(t, r.BeginCapture(r.s))
	must(t, r.launch(1))
	short := take[driver.Graph](t)(r.EndCapture(r.s))
	want(t, r.UpdateGraph(x, short), driver.CodeGraphExecUpdateFailure)
	for _, g := range []driver.Graph{g, g3, short} {
		must(t, r.DestroyGraph(g))
	}
	must(t, r.DestroyGraphExec(x))
	r.release()
}

// What spoils a capture in CUDA spoils it here.
func TestForbiddenInCapture(t *testing.T) {
	for what, call := range map[string]func(r *rig) error{
		"Alloc":      func(r *rig) error { return second(r.Alloc(1)) },
		"SyncStream": func(r *rig) error { return r.SyncStream(r.s) },
		"LoadModule": func(r *rig) error { return second(r.LoadModule([]byte{1})) },
	} {
		t.Run(what, func(t *testing.T) {
			r := newRig(t, Config{})
			must(t, r.BeginCapture(r.s))
			want(t, call(r), driver.CodeStreamCaptureUnsupported)
			want(t, r.launch(1), driver.CodeStreamCaptureInvalidated)
			want(t, second(r.EndCapture(r.s)), driver.CodeStreamCaptureInvalidated)
			must(t, r.launch(1))
			must(t, r.SyncStream(r.s))
			if err := r.Check(); !strings.Contains(err.Error(), "CAPTURE_UNSUPPORTED") {
				t.Errorf("Check: %v", err)
			}
		})
	}
	r := newRig(t, Config{})
	must(t, r.BeginCapture(r.s))
	done := make(chan error)
	go func() { // another thread may allocate, but not end the capture
		runtime.LockOSThread() // never unlocked: the thread ends with its context
		err := r.SetCurrent(take[driver.Context](t)(r.RetainContext(0)))
		if err == nil {
			err = second(r.Alloc(8))
		}
		if err == nil {
			err = second(r.EndCapture(r.s))
		}
		done <- err
	}()
	want(t, <-done, driver.CodeStreamCaptureWrongThread)
	must(t, r.DestroyGraph(take[driver.Graph](t)(r.EndCapture(r.s))))
}

func TestMemoryIsChecked(t *testing.T) {
	r := newRig(t, Config{Properties: driver.Properties{TotalMem: 1 << 20}})
	free, total, err := r.MemInfo()
	must(t, err)
	if total != 1<<20 || free != 1<<20-512 {
		t.Errorf("%d of %d bytes free", free, total)
	}
	if err := second(r.Alloc(1 << 20)); !errors.Is(err, driver.ErrOutOfMemory) {
		t.Errorf("Alloc: %v", err)
	}
	if err := second(r.Alloc(1<<64 - 1)); !errors.Is(err, driver.ErrOutOfMemory) {
		t.Errorf("Alloc: %v", err)
	}
	must(t, r.CopyToHost(r.host, r.at, r.s))
	must(t, r.SyncStream(r.s))
	if !bytes.Equal(r.host, bytes.Repeat([]byte{0xCD}, 64)) {
		t.Errorf("fresh memory is % x", r.host)
	}
	want(t, r.CopyToDevice(r.at+1, r.host, r.s), driver.CodeInvalidValue)         // one byte too many
	want(t, r.CopyToDevice(r.at, make([]byte, 8), r.s), driver.CodeInvalidValue)  // not pinned
	want(t, r.Fill32(r.at+2, 1, 1, r.s), driver.CodeInvalidValue)                 // not aligned
	want(t, r.CopyToDevice(r.at, r.host, r.s+1), driver.CodeInvalidHandle)        // no such stream
	want(t, r.Free(r.at+8), driver.CodeInvalidValue)                              // not the start
	want(t, r.HostFree(r.host[1:]), driver.CodeInvalidValue)                      // not the start
	want(t, r.HostRegister(r.host[8:16]), driver.CodeHostMemoryAlreadyRegistered) // pinned already
	want(t, second(r.Function(r.m, "none")), driver.CodeNotFound)                 // no such kernel
	want(t, r.SetSharedLimit(r.scale, 1<<20), driver.CodeInvalidValue)            // more than there is
	want(t, second(r.Occupancy(r.scale, 2048, 0)), driver.CodeInvalidValue)       // too many threads
	want(t, second(r.Elapsed(1, 2)), driver.CodeInvalidHandle)                    // no such events
	want(t, r.LaunchGraph(1, r.s), driver.CodeInvalidHandle)                      // no such graph
	want(t, second(r.Properties(1)), driver.CodeInvalidDevice)                    // no such device
	mine := make([]byte, 64)
	must(t, r.HostRegister(mine))
	must(t, r.CopyToHost(mine[3:], r.at, r.s))
	must(t, r.SyncStream(r.s))
	must(t, r.HostUnregister(mine))
	want(t, r.HostUnregister(mine), driver.CodeInvalidValue)
	at := r.at
	must(t, r.Free(at))
	want(t, r.Free(at), driver.CodeInvalidValue)
	r.at = take[driver.Ptr](t)(r.Alloc(64))
	if r.at == at {
		t.Error("an address was used again")
	}
	must(t, r.DestroyStream(r.s))
	want(t, r.DestroyStream(r.s), driver.CodeInvalidHandle)
	problems := r.Check()
	for _, part := range []string{"DestroyStream: CUDA_ERROR_INVALID_HANDLE", "host memory that is not pinned", "1 retained contexts left", "1 device allocations left",
		"1 pinned host memories left", "1 modules left", "512 bytes of device memory in use"} {
		if !strings.Contains(problems.Error(), part) {
			t.Errorf("Check lacks %q:\n%v", part, problems)
		}
	}
}

func TestLaunchIsChecked(t *testing.T) {
	r := newRig(t, Config{})
	offset, size, err := r.ParamSize(r.scale, 0)
	if err != nil || offset != 0 || size != 16 {
		t.Errorf("parameters of %d bytes at %d, %v", size, offset, err)
	}
	want(t, func() error { _, _, err := r.ParamSize(r.scale, 1); return err }(), driver.CodeInvalidValue)
	if n := take[int](t)(r.Occupancy(r.scale, 256, 0)); n != 8 {
		t.Errorf("%d blocks", n)
	}
	if n := take[int](t)(r.ActiveClusters(r.scale, &driver.Launch{Cluster: 4})); n != 33 {
		t.Errorf("%d clusters", n)
	}
	want(t, second(r.ActiveClusters(r.scale, &driver.Launch{})), driver.CodeInvalidValue)
	p := unsafe.Pointer(&scaleParams{r.at, 16, 1})
	good := driver.Launch{Grid: [3]uint32{8, 1, 1}, Block: [3]uint32{256, 1, 1}, Stream: r.s}
	for what, spoil := range map[string]func(l *driver.Launch){
		"no blocks":           func(l *driver.Launch) { l.Grid[1] = 0 },
		"too many threads":    func(l *driver.Launch) { l.Block[1] = 5 },
		"shared memory":       func(l *driver.Launch) { l.Shared = 48<<10 + 1 },
		"cluster not a ratio": func(l *driver.Launch) { l.Cluster = 3 },
	} {
		l := good
		spoil(&l)
		if err := r.Launch(r.scale, &l, p); !errors.Is(err, driver.CodeInvalidValue) {
			t.Errorf("%s: %v", what, err)
		}
	}
	want(t, r.Launch(r.scale, &good, nil), driver.CodeInvalidValue)
	must(t, r.SetSharedLimit(r.scale, 100<<10))
	good.Shared, good.Cluster, good.Dependent = 100<<10, 8, true
	must(t, r.Launch(r.scale, &good, p))
	must(t, r.SyncStream(r.s))
}

func TestNeedsContext(t *testing.T) {
	r := newRig(t, Config{})
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		done <- second(r.Alloc(1))
	}()
	want(t, <-done, driver.CodeInvalidContext)
	must(t, r.SetCurrent(0))
	want(t, second(r.Alloc(1)), driver.CodeInvalidContext)
}

func TestScript(t *testing.T) {
	r := newRig(t, Config{})
	r.FailAt("Alloc", 2, driver.CodeOutOfMemory)
	must(t, r.Free(take[driver.Ptr](t)(r.Alloc(1))))
	want(t, second(r.Alloc(1)), driver.CodeOutOfMemory)
	must(t, r.Free(take[driver.Ptr](t)(r.Alloc(1))))
	r.release()
}

// A fault shows at a later, innocent call, and then stays.
func TestFaults(t *testing.T) {
	for what, tc := range map[string]struct {
		cause func(r *rig) error
		code  driver.Code
	}{
		"scripted": {func(r *rig) error {
			r.FaultAt("Launch", 2, driver.CodeECCUncorrectable)
			return errors.Join(r.launch(1), r.launch(1))
		}, driver.CodeECCUncorrectable},
		"kernel reads past the end": {func(r *rig) error {
			return r.Launch(r.scale, &driver.Launch{Grid: [3]uint32{1, 1, 1}, Block: [3]uint32{1, 1, 1}, Stream: r.s}, unsafe.Pointer(&scaleParams{r.at, 17, 1}))
		}, driver.CodeIllegalAddress},
		"kernel reads unaligned": {func(r *rig) error {
			return r.Launch(r.scale, &driver.Launch{Grid: [3]uint32{1, 1, 1}, Block: [3]uint32{1, 1, 1}, Stream: r.s}, unsafe.Pointer(&scaleParams{r.at + 2, 1, 1}))
		}, driver.CodeMisalignedAddress},
		"memory goes before the copy": {func(r *rig) error { return errors.Join(r.CopyToDevice(r.at, r.host, r.s), r.HostFree(r.host)) }, driver.CodeIllegalAddress},
	} {
		t.Run(what, func(t *testing.T) {
			r := newRig(t, Config{})
			must(t, tc.cause(r))
			must(t, r.Failed())
			err := r.SyncStream(r.s)
			want(t, err, tc.code)
			if !errors.Is(err, driver.ErrFatal) || !errors.Is(r.Failed(), tc.code) {
				t.Errorf("SyncStream: %v, Failed: %v", err, r.Failed())
			}
			r.TakeCalls()
			err = second(r.Alloc(1))
			if !errors.Is(err, driver.ErrFatal) || !errors.Is(err, r.Failed()) || !strings.Contains(err.Error(), "Alloc not called") {
				t.Errorf("Alloc: %v", err)
			}
			if calls := r.TakeCalls(); len(calls) != 0 {
				t.Errorf("calls %q after the fault", calls)
			}
		})
	}
}

// A stream hangs until it is released, and whoever waits for it too.
func TestHang(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, Config{})
		e := take[driver.Event](t)(r.NewEvent(false))
		release := r.HangAt("Launch", 1)
		must(t, r.CopyToDevice(r.at, r.host, r.s))
		must(t, r.launch(2))
		must(t, r.Record(e, r.s))
		must(t, r.CopyToHost(r.host, r.at, r.s))
		for range 10 {
			if take[bool](t)(r.QueryEvent(e)) {
				t.Fatal("the event is done")
			}
		}
		time.AfterFunc(time.Hour, release)
		start := time.Now()
		must(t, r.SyncStream(r.s))
		if took := time.Since(start); took != time.Hour || r.floats[2] != 4 {
			t.Errorf("after %v floats %v", took, r.floats)
		}
		release()
		must(t, r.DestroyEvent(e))
		r.release()
	})
}

// Memory that comes in chunks is one range, and keeps its content when more is
// mapped beside it.
func TestVirtual(t *testing.T) {
	const unit = 4096
	r := newRig(t, Config{Granularity: unit})
	size := take[uint64](t)(r.Granularity(0))
	base := take[driver.Ptr](t)(r.Reserve(1 << 40))
	var chunks []driver.Chunk
	grow := func() {
		c := take[driver.Chunk](t)(r.Create(0, size))
		at := base + driver.Ptr(uint64(len(chunks))*size)
		must(t, r.Map(at, c, size))
		want(t, r.Fill8(at, 1, 1, r.s), driver.CodeInvalidValue) // no access yet
		must(t, r.SetAccess(0, at, size))
		chunks = append(chunks, c)
	}
	grow()
	grow()
	across := base + unit - 32
	must(t, r.CopyToDevice(across, r.host, r.s))
	must(t, r.SyncStream(r.s))
	grow()
	clear(r.host)
	must(t, r.CopyToHost(r.host, across, r.s))
	must(t, r.SyncStream(r.s))
	if r.floats[15] != 15 || r.floats[1] != 1 {
		t.Errorf("floats %v", r.floats)
	}
	want(t, r.CopyToHost(r.host, base+3*unit-32, r.s), driver.CodeInvalidValue) // past what is mapped
	want(t, r.Map(base, chunks[0], size), driver.CodeInvalidValue)
	want(t, r.Unmap(base, 2*size), driver.CodeInvalidValue)
	want(t, r.FreeReservation(base, 1<<40), driver.CodeInvalidValue)
	must(t, r.Unmap(base, size))
	want(t, r.CopyToHost(r.host, across, r.s), driver.CodeInvalidValue)
	// The chunk takes its content along, and lives until it is unmapped.
	must(t, r.Map(base+8*unit, chunks[0], size))
	must(t, r.SetAccess(0, base+8*unit, size))
	must(t, r.CopyToHost(r.host[:32], base+9*unit-32, r.s))
	must(t, r.SyncStream(r.s))
	if r.floats[7] != 7 {
		t.Errorf("floats %v", r.floats)
	}
	used := r.Used()
	for _, c := range chunks {
		must(t, r.ReleaseChunk(c))
	}
	if r.Used() != used {
		t.Error("memory that is mapped was given back")
	}
	want(t, r.ReleaseChunk(chunks[0]), driver.CodeInvalidHandle)
	for _, i := range []driver.Ptr{1, 2, 8} {
		must(t, r.Unmap(base+i*unit, size))
	}
	must(t, r.FreeReservation(base, 1<<40))
	r.misuse = nil // all of it was meant
	r.release()
}

func TestClose(t *testing.T) {
	r := newRig(t, Config{})
	must(t, r.Close())
	if err := second(r.Alloc(1)); !errors.Is(err, driver.ErrClosed) {
		t.Errorf("Alloc: %v", err)
	}
	must(t, r.Close())
}
