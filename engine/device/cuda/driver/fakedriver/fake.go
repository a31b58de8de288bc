// Package fakedriver stands for libcuda in tests without a GPU: a
// [driver.Driver] whose device memory is Go memory and whose kernels are Go
// functions. Copies copy, fills fill, graphs replay.
//
// It is stricter than CUDA where CUDA is forgiving, so that what would go wrong
// only sometimes goes wrong always:
//
//   - Work waits in its stream until somebody waits for it or asks after it
//     (each query does one piece): who reads a result before the stream is
//     synchronised reads the old bytes, and who overwrites a buffer too early
//     changes what arrives. Config.Eager turns this off.
//   - Fresh memory is full of 0xCD, released host memory of 0xDD; device
//     addresses are never used again, and lie apart.
//   - Host memory of a copy must be pinned, and the calling thread must have a
//     context. A thread that leaves its goroutine between calls (no
//     runtime.LockOSThread) fails.
//   - What CUDA leaves undefined, such as destroying a handle twice, is an
//     error, and is remembered: [Driver.Check] tells it, with what leaks.
//
// It knows one capture at a time in a stream, without forks into other streams.
package fakedriver

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"kigo/engine/device/cuda/driver"
)

// Config says what the fake pretends to be. Zero fields are filled in: one
// device like an H100, with 1 GiB of memory.
type Config struct {
	Version     int // of CUDA; 12090
	Devices     int
	Properties  driver.Properties // Name, TotalMem and so on; of every device
	Granularity uint64            // of virtual memory; 2 MiB
	Eager       bool              // do work at once, as far as nothing hangs
}

// Driver is the fake. All methods are safe for concurrent use.
type Driver struct {
	cfg   Config
	latch driver.Latch

	mu       sync.Mutex
	calls    []string
	counts   map[string]int
	script   []scripted
	misuse   []string
	lastID   uintptr
	retained map[int]int               // by ordinal
	contexts map[int]driver.Context    // by ordinal
	current  map[int]driver.Context    // by thread
	clock    time.Duration             // of the device: a microsecond for each piece of work
	space    []*region                 // sorted by base
	nextBase driver.Ptr                // of the next region
	used     uint64                    // bytes of device memory
	host     []*hostMemory             // pinned
	streams  map[driver.Stream]*stream // those not destroyed
	orphans  []*stream                 // destroyed with work in them
	events   map[driver.Event]*event
	kernels  map[string]*Kernel // by name
	modules  map[driver.Module]struct{}
	funcs    map[driver.Function]*function
	graphs   map[driver.Graph]*graph
	execs    map[driver.GraphExec]*graph
	chunks   map[driver.Chunk]*chunk
}

var _ driver.Driver = (*Driver)(nil)

// New makes a fake. Kernels are added with Register.
func New(cfg Config) *Driver {
	if cfg.Version == 0 {
		cfg.Version = 12090
	}
	if cfg.Devices == 0 {
		cfg.Devices = 1
	}
	if cfg.Granularity == 0 {
		cfg.Granularity = 2 << 20
	}
	if cfg.Properties.Name == "" {
		cfg.Properties.Name = "Fake H100"
	}
	p := &cfg.Properties
	for _, d := range []struct {
		to *int
		v  int
	}{
		{&p.Major, 9}, {&p.SMs, 132}, {&p.ClockKHz, 1_980_000}, {&p.L2Bytes, 50 << 20}, {&p.WarpSize, 32},
		{&p.MemoryClockKHz, 2_619_000}, {&p.BusWidth, 5120}, {&p.MaxThreadsPerBlock, 1024}, {&p.MaxThreadsPerSM, 2048},
		{&p.MaxBlocksPerSM, 32}, {&p.RegistersPerSM, 65536}, {&p.SharedPerBlock, 48 << 10},
		{&p.SharedPerBlockOptin, 227 << 10}, {&p.SharedPerSM, 228 << 10}, {&p.SharedReserved, 1 << 10},
	} {
		if *d.to == 0 {
			*d.to = d.v
		}
	}
	if p.TotalMem == 0 {
		p.TotalMem = 1 << 30
	}
	p.Clusters, p.VirtualMemory = p.Major >= 9, true
	return &Driver{
		cfg: cfg, nextBase: 0x7f4000000000, lastID: 0x7f0000000000,
		counts: map[string]int{}, retained: map[int]int{}, contexts: map[int]driver.Context{}, current: map[int]driver.Context{},
		streams: map[driver.Stream]*stream{}, events: map[driver.Event]*event{}, kernels: map[string]*Kernel{},
		modules: map[driver.Module]struct{}{}, funcs: map[driver.Function]*function{}, graphs: map[driver.Graph]*graph{},
		execs: map[driver.GraphExec]*graph{}, chunks: map[driver.Chunk]*chunk{},
	}
}

// scripted is something that happens at a certain call.
type scripted struct {
	call string
	at   int // number of the call of that name since New, from 1
	code driver.Code
	late bool // the work fails, not the call
	hang chan struct{}
}

// FailAt makes a call fail with the code: the n-th call of the method from now
// on, the next being 1. Names are those of driver.Driver's methods: "Alloc".
func (f *Driver) FailAt(call string, n int, code driver.Code) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.script = append(f.script, scripted{call: call, at: f.counts[call] + n, code: code})
}

// FaultAt lets the n-th call from now on of a method that puts work into a
// stream succeed, and the work fail once the stream gets to it.
func (f *Driver) FaultAt(call string, n int, code driver.Code) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.script = append(f.script, scripted{call: call, at: f.counts[call] + n, code: code, late: true})
}

// HangAt makes the work of the n-th call from now on of a method that puts work
// into a stream wait for release, which may be called more than once.
func (f *Driver) HangAt(call string, n int) (release func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	hang := make(chan struct{})
	f.script = append(f.script, scripted{call: call, at: f.counts[call] + n, hang: hang})
	return sync.OnceFunc(func() { close(hang) })
}

// TakeCalls returns the names of the calls since New or the last TakeCalls, in
// order, without those that the latch refused. A launch is "Launch kernel".
func (f *Driver) TakeCalls() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	calls := f.calls
	f.calls = nil
	return calls
}

// Check returns what was misused and what was not given back, or nil. Call it
// when everything should be closed.
func (f *Driver) Check() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	problems := slices.Clone(f.misuse)
	leak := func(n int, what string) {
		if n > 0 {
			problems = append(problems, fmt.Sprintf("%d %s left", n, what))
		}
	}
	contexts := 0
	for _, n := range f.retained {
		contexts += n
	}
	leak(contexts, "retained contexts")
	allocations, reservations := 0, 0
	for _, r := range f.space {
		if r.reserved {
			reservations++
		} else {
			allocations++
		}
	}
	leak(allocations, "device allocations")
	leak(reservations, "address reservations")
	leak(len(f.chunks), "chunks")
	leak(len(f.host), "pinned host memories")
	leak(len(f.streams), "streams")
	leak(len(f.events), "events")
	leak(len(f.modules), "modules")
	leak(len(f.graphs), "graphs")
	leak(len(f.execs), "executable graphs")
	if f.used > 0 {
		problems = append(problems, fmt.Sprintf("%d bytes of device memory in use", f.used))
	}
	if len(problems) == 0 {
		return nil
	}
	return errors.New(strings.Join(problems, "; "))
}

// Used is the device memory in use, in bytes.
func (f *Driver) Used() uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.used
}

// id makes a handle that no other has.
func (f *Driver) id() uintptr {
	f.lastID += 16
	return f.lastID
}

// enter begins a call: it takes f.mu, unless it returns an error. where says
// what the call may not do without.
func (f *Driver) enter(call string, where need) error {
	f.mu.Lock()
	if err := f.begin(call, where); err != nil {
		f.mu.Unlock()
		return err
	}
	return nil
}

type need int

const (
	nothing need = iota
	context      // a current context
	allowed      // ... and no capture on this thread
)

func (f *Driver) begin(call string, where need) error {
	if e := f.latch.Refuse(call); e != nil {
		return e
	}
	f.calls = append(f.calls, call)
	f.counts[call]++
	if s := f.scripted(call, false); s != nil {
		return f.fail(call, s.code, "scripted")
	}
	if where == nothing {
		return nil
	}
	c := f.current[thread()]
	if c == 0 || !slices.Contains(slices.Collect(maps.Values(f.contexts)), c) {
		return f.misused(call, driver.CodeInvalidContext, "no context on this thread")
	}
	if where == allowed {
		for _, s := range f.streams {
			if s.capture != nil && s.capture.thread == thread() {
				s.capture.invalid = true
				return f.misused(call, driver.CodeStreamCaptureUnsupported, "during a capture on this thread")
			}
		}
	}
	return nil
}

// scripted takes what is to happen at this call, or to its work.
func (f *Driver) scripted(call string, work bool) *scripted {
	for i, s := range f.script {
		if s.call == call && s.at == f.counts[call] && (s.late || s.hang != nil) == work {
			f.script = slices.Delete(f.script, i, i+1)
			return &s
		}
	}
	return nil
}

func (f *Driver) fail(call string, code driver.Code, format string, args ...any) error {
	return f.latch.Note(call, code, fmt.Sprintf(format, args...))
}

// misused is fail for what is a mistake of the caller, and remembers it.
func (f *Driver) misused(call string, code driver.Code, format string, args ...any) error {
	err := f.fail(call, code, format, args...)
	f.misuse = append(f.misuse, err.Error())
	return err
}

func (f *Driver) Version() int  { return f.cfg.Version }
func (f *Driver) Failed() error { return f.latch.Failed() }

func (f *Driver) Devices() (int, error) {
	if err := f.enter("Devices", nothing); err != nil {
		return 0, err
	}
	defer f.mu.Unlock()
	return f.cfg.Devices, nil
}

func (f *Driver) Properties(ordinal int) (driver.Properties, error) {
	if err := f.enter("Properties", nothing); err != nil {
		return driver.Properties{}, err
	}
	defer f.mu.Unlock()
	if ordinal < 0 || ordinal >= f.cfg.Devices {
		return driver.Properties{}, f.fail("Properties", driver.CodeInvalidDevice, "device %d", ordinal)
	}
	p := f.cfg.Properties
	p.UUID = fmt.Sprintf("GPU-00000000-0000-0000-0000-%012x", ordinal)
	p.PCIBusID = fmt.Sprintf("0000:%02x:00.0", ordinal+1)
	return p, nil
}

func (f *Driver) RetainContext(ordinal int) (driver.Context, error) {
	if err := f.enter("RetainContext", nothing); err != nil {
		return 0, err
	}
	defer f.mu.Unlock()
	if ordinal < 0 || ordinal >= f.cfg.Devices {
		return 0, f.fail("RetainContext", driver.CodeInvalidDevice, "device %d", ordinal)
	}
	if f.retained[ordinal] == 0 {
		f.contexts[ordinal] = driver.Context(f.id())
	}
	f.retained[ordinal]++
	return f.contexts[ordinal], nil
}

func (f *Driver) ReleaseContext(ordinal int) error {
	if err := f.enter("ReleaseContext", nothing); err != nil {
		return err
	}
	defer f.mu.Unlock()
	if f.retained[ordinal] == 0 {
		return f.misused("ReleaseContext", driver.CodeInvalidContext, "device %d is not retained", ordinal)
	}
	f.retained[ordinal]--
	if f.retained[ordinal] == 0 {
		delete(f.contexts, ordinal)
	}
	return nil
}

func (f *Driver) SetCurrent(c driver.Context) error {
	if err := f.enter("SetCurrent", nothing); err != nil {
		return err
	}
	defer f.mu.Unlock()
	if c == 0 {
		delete(f.current, thread())
		return nil
	}
	for _, known := range f.contexts {
		if c == known {
			f.current[thread()] = c
			return nil
		}
	}
	return f.misused("SetCurrent", driver.CodeInvalidContext, "%#x", uintptr(c))
}

// Close releases what is retained, like the real one.
func (f *Driver) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	var err error
	if e := f.latch.Refuse("Close"); e != nil && !errors.Is(e, driver.ErrClosed) {
		err = e
	} else {
		clear(f.retained)
		clear(f.contexts)
	}
	f.latch.Close()
	return err
}
