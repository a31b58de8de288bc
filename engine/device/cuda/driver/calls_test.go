//go:build linux && (amd64 || arm64) && !nocuda

package driver

import (
	"testing"
	"unsafe"

	"github.com/ebitengine/purego"
)

// The calls of a decoding step make no garbage.
func TestNoAllocations(t *testing.T) {
	if raceDetector {
		t.Skip("the race detector makes sync.Pool forget")
	}
	f := open(t)
	purego.SyscallN(f.quiet, 1)
	var d Driver = f.libcuda
	host, err := d.HostAlloc(64)
	check(t, "HostAlloc", err, len(host), 64)
	at, err := d.Alloc(64)
	check(t, "Alloc", err, at != 0, true)
	for what, call := range steps(d, host, at) {
		if n := testing.AllocsPerRun(1000, call); n != 0 {
			t.Errorf("%s makes %g allocations", what, n)
		}
	}
}

// steps are the calls on the path of a step.
func steps(d Driver, host []byte, at Ptr) map[string]func() {
	l := &Launch{Grid: [3]uint32{1, 2, 3}, Block: [3]uint32{256, 1, 1}, Stream: stream, Dependent: true, Cluster: 2}
	p := &params{address, 77, 0.25}
	must := func(err error) {
		if err != nil {
			panic(err)
		}
	}
	return map[string]func(){
		"Launch":       func() { must(d.Launch(function, l, unsafe.Pointer(p))) },
		"LaunchGraph":  func() { must(d.LaunchGraph(graphExec, stream)) },
		"CopyToDevice": func() { must(d.CopyToDevice(at, host, stream)) },
		"CopyToHost":   func() { must(d.CopyToHost(host, at, stream)) },
		"Fill32":       func() { must(d.Fill32(at, 1<<31, 16, stream)) },
		"Record":       func() { must(d.Record(event, stream)) },
		"StreamWait":   func() { must(d.StreamWait(stream, event)) },
		"SyncStream":   func() { must(d.SyncStream(stream)) },
		"QueryEvent":   func() { must(second(d.QueryEvent(event))) },
		"Failed":       func() { must(d.Failed()) },
	}
}

func BenchmarkCalls(b *testing.B) {
	f := open(b)
	purego.SyscallN(f.quiet, 1)
	host, err := f.HostAlloc(64)
	check(b, "HostAlloc", err, len(host), 64)
	at, err := f.Alloc(64)
	check(b, "Alloc", err, at != 0, true)
	for what, call := range steps(f.libcuda, host, at) {
		b.Run(what, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				call()
			}
		})
	}
}
