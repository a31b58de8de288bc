package engine_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"kigo/engine"
	"kigo/engine/device"
	"kigo/engine/device/cpu"
	"kigo/engine/device/scripted"
)

// scriptedEngine is an engine on the processor with a script before it. The
// caller closes the engine; the processor's own goroutines end with the test.
func scriptedEngine(t *testing.T, cfg engine.Config, script func(call string, n int) error) (*engine.Engine, *scripted.Device) {
	t.Helper()
	on, err := cpu.New(cpu.Config{Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	dev := scripted.New(on, script)
	cfg.MaxContext = 512
	e, err := engine.NewOn(cfg, dev)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = on.Close() })
	return e, dev
}

// failures are the ways in which a call to the device can end a device.
var failures = []struct {
	name string
	err  error // from the device
	want error
}{
	{"fault", fmt.Errorf("launch: %w", device.ErrLost), engine.ErrDeviceFault},
	{"gone", fmt.Errorf("launch: %w", device.ErrGone), engine.ErrDeviceLost},
}

// A fatal error in a step ends every stream, running, paused and queued, with
// the failure after all of its tokens, turns the state at once, and nothing is
// called on the device any more.
func TestFatalErrorEndsEverything(t *testing.T) {
	for _, c := range failures {
		t.Run(c.name, func(t *testing.T) {
			var fail atomic.Bool
			e, dev := scriptedEngine(t, engine.Config{MaxConcurrent: 2, StreamBuffer: 4}, func(call string, n int) error {
				if call == "Run" && fail.Load() {
					return c.err
				}
				return nil
			})
			loadTiny(t, e, "tiny", 1, false)
			paused := submit(t, e, greedy("nobody reads", 100))
			for e.Status().Tokens < 4 { // as many as its buffer holds
				time.Sleep(time.Millisecond)
			}
			running := submit(t, e, greedy("a", 400))
			if _, err := running.Next(t.Context()); err != nil {
				t.Fatal(err)
			}
			queued := submit(t, e, greedy("b", 5))
			tokens := e.Status().Tokens
			fail.Store(true)

			var wait sync.WaitGroup
			for name, s := range map[string]*engine.Stream{"paused": paused, "running": running, "queued": queued} {
				wait.Go(func() {
					n, err := collectFrom(t, s)
					if !errors.Is(err, c.want) || !errors.Is(err, c.err) {
						t.Errorf("%s ended with %v", name, err)
					}
					if name == "paused" && n != 4 || name == "queued" && n != 0 {
						t.Errorf("%s: %d tokens", name, n)
					}
				})
			}
			wait.Wait()
			if s := e.Status(); s.State != engine.StateFailed || !errors.Is(s.Failure, c.want) || s.Reason != c.want.Error() ||
				s.Running != 0 || s.Waiting != 0 || s.Tokens < tokens {
				t.Errorf("status %+v", s)
			}
			select {
			case <-e.Failed():
			default:
				t.Error("Failed is open")
			}
			checkRefuses(t, e, c.want)
			before := total(dev)
			if err := e.Unload(t.Context(), "tiny"); err != nil {
				t.Errorf("unload: %v", err)
			}
			_ = e.Status()
			if err := e.Close(); err != nil {
				t.Errorf("close: %v", err)
			}
			if after := total(dev); after != before {
				t.Errorf("the device was called %d times after its failure: %v", after-before, dev.Calls())
			}
		})
	}
}

// total counts the calls to a device.
func total(dev *scripted.Device) int {
	n := 0
	for _, calls := range dev.Calls() {
		n += calls
	}
	return n
}

// checkRefuses checks that an engine takes nothing any more, and says why.
func checkRefuses(t *testing.T, e *engine.Engine, want error) {
	t.Helper()
	if _, err := e.Submit(t.Context(), greedy("x", 1)); !errors.Is(err, want) {
		t.Errorf("submit: %v", err)
	}
	if _, err := e.Load(t.Context(), engine.LoadRequest{Name: "other", File: tinyFile(t, 2), Replace: true}, nil); !errors.Is(err, want) {
		t.Errorf("load: %v", err)
	}
}

// A load that finds the device dead fails the engine as a step does; a device
// without memory fails the load alone.
func TestFatalErrorInALoad(t *testing.T) {
	for _, call := range []string{"NewWeights", "NewUploader", "Buffer", "Commit", "Hash", "NewCache", "Map", "Compile", "Run"} {
		for _, c := range append(failures, struct {
			name string
			err  error
			want error
		}{"out of memory", device.ErrOutOfMemory, engine.ErrDoesNotFit}) {
			t.Run(call+" "+c.name, func(t *testing.T) {
				var fail atomic.Bool
				e, dev := scriptedEngine(t, engine.Config{}, func(name string, n int) error {
					if fail.Load() && name == call {
						return c.err
					}
					return nil
				})
				loadTiny(t, e, "tiny", 1, false)
				s := submit(t, e, greedy("a", 400)) // waits for its reader from some token on
				fail.Store(true)
				_, err := e.Load(t.Context(), engine.LoadRequest{Name: "new", File: tinyFile(t, 2), Replace: true}, nil)
				if !errors.Is(err, c.want) {
					t.Errorf("load: %v, want %v", err, c.want)
				}
				fatal := errors.Is(c.want, engine.ErrFatal)
				if got := e.Status().State == engine.StateFailed; got != fatal {
					t.Errorf("failed is %t", got)
				}
				if fatal {
					if _, err := collect(t, s); !errors.Is(err, c.want) {
						t.Errorf("the stream ended with %v", err)
					}
					checkRefuses(t, e, c.want)
				} else if call != "Run" {
					fail.Store(false)
					s.Cancel()
					run(t, e, greedy("b", 3))
				}
				before := dev.Calls()["Close"]
				if err := e.Close(); err != nil {
					t.Error(err)
				}
				if after := dev.Calls()["Close"]; fatal != (after == before) {
					t.Errorf("%d things were freed", after-before)
				}
			})
		}
	}
}

// A panic in a step leaves the device in a state that nobody knows.
func TestPanicInAStepIsAFault(t *testing.T) {
	var fail atomic.Bool
	e, _ := scriptedEngine(t, engine.Config{}, func(call string, n int) error {
		if call == "Run" && fail.Load() {
			panic("index out of range")
		}
		return nil
	})
	defer e.Close()
	loadTiny(t, e, "tiny", 1, false)
	fail.Store(true)
	if _, err := collect(t, submit(t, e, greedy("a", 4))); !errors.Is(err, engine.ErrDeviceFault) || strings.Contains(err.Error(), "range") {
		t.Errorf("the stream ended with %v", err)
	}
}

// hanging is a script whose Runs take pace, and hang while stuck is set until
// release is closed.
type hanging struct {
	pace    func(n int) time.Duration
	stuck   atomic.Bool
	call    string // that hangs
	release chan struct{}
	since   atomic.Pointer[time.Time] // when the call that hangs began
}

func (h *hanging) script(call string, n int) error {
	begun := time.Now()
	if call == "Run" && h.pace != nil {
		time.Sleep(h.pace(n))
	}
	if call == h.call && h.stuck.Load() {
		h.since.Store(&begun)
		<-h.release
	}
	return nil
}

// watchEvery is how often the engine looks.
const watchEvery = 250 * time.Millisecond

// An hour of a full queue, with steps of very different length, is no hang. A
// step that does not end is found within the limit that these steps set, and
// everything that waits for the engine goes on without its owner.
func TestHungStepIsFoundAndSaturationIsNone(t *testing.T) {
	for _, c := range []struct {
		name  string
		limit time.Duration // Config.StepLimit
		pace  func(n int) time.Duration
		hour  time.Duration
		want  time.Duration // within which a hang is found
	}{
		{"steps of a second", time.Minute, func(int) time.Duration { return time.Second }, time.Hour, 20 * time.Second},
		{"most are fast, some are slow", time.Minute, func(n int) time.Duration {
			if n%60 == 59 {
				return 9500 * time.Millisecond
			}
			return 200 * time.Millisecond
		}, time.Hour, time.Minute},
		{"fast steps", time.Minute, func(int) time.Duration { return 10 * time.Millisecond }, time.Minute, 10 * time.Second},
		{"a limit below", 3 * time.Second, func(int) time.Duration { return 2 * time.Second }, time.Hour, 3 * time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := &hanging{pace: c.pace, call: "Run", release: make(chan struct{})}
				e, dev := scriptedEngine(t, engine.Config{MaxConcurrent: 4, MaxQueue: 8, StepLimit: c.limit}, h.script)
				loadTiny(t, e, "tiny", 1, false)

				saturated, relax := context.WithCancel(t.Context())
				served := make(chan int, 12)
				for range 12 {
					go func() {
						n := 0
						for saturated.Err() == nil {
							s, err := e.Submit(saturated, greedy("a", 50))
							if errors.Is(err, engine.ErrQueueFull) {
								time.Sleep(100 * time.Millisecond)
								continue
							}
							for err == nil {
								var ev engine.Event
								if ev, err = s.Next(saturated); ev.End != nil {
									n++
								}
							}
						}
						served <- n
					}()
				}
				for range 60 {
					time.Sleep(c.hour / 60)
					if s := e.Status(); s.State != engine.StateReady || s.Waiting == 0 {
						t.Fatalf("after %v: %+v", c.hour, s)
					}
				}
				relax()
				answered := 0
				for range 12 {
					answered += <-served
				}
				if answered == 0 {
					t.Error("no request was answered")
				}
				time.Sleep(time.Minute) // the step in flight, and then there is nothing to do

				running, queued := submit(t, e, greedy("a", 400)), []*engine.Stream{}
				for range 5 {
					queued = append(queued, submit(t, e, greedy("b", 400)))
				}
				if _, err := running.Next(t.Context()); err != nil {
					t.Fatal(err)
				}
				changed := e.Changed()
				h.stuck.Store(true)
				<-changed
				if took := time.Since(*h.since.Load()); took > c.want || took < c.want*95/100-watchEvery {
					t.Errorf("found after %v, want it within %v and not much earlier", took, c.want)
				}
				checkHung(t, e, append(queued, running), dev, h)
			})
		})
	}
}

// checkHung checks an engine that has just found that its device hangs.
func checkHung(t *testing.T, e *engine.Engine, streams []*engine.Stream, dev *scripted.Device, h *hanging) {
	t.Helper()
	want := engine.ErrDeviceHung
	if s := e.Status(); s.State != engine.StateFailed || !errors.Is(s.Failure, want) {
		t.Errorf("status %+v", s)
	}
	for _, s := range streams {
		if _, err := collectFrom(t, s); !errors.Is(err, want) {
			t.Errorf("a stream ended with %v", err)
		}
		s.Cancel() // harmless
	}
	checkRefuses(t, e, want)
	if err := e.Unload(t.Context(), "tiny"); !errors.Is(err, want) {
		t.Errorf("unload: %v", err)
	}
	if err := e.Drain(t.Context()); err != nil {
		t.Errorf("drain: %v", err)
	}
	before := total(dev)
	if err := e.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
	// Its owner comes back and touches nothing.
	close(h.release)
	synctest.Wait()
	if after := total(dev); after != before {
		t.Errorf("the device was called %d times afterwards: %v", after-before, dev.Calls())
	}
}

// collectFrom is collect for a stream that has been read from.
func collectFrom(t *testing.T, s *engine.Stream) (n int, err error) {
	t.Helper()
	for {
		ev, err := s.Next(t.Context())
		if err != nil {
			return n, err
		}
		if ev.Tokens != nil {
			n += len(ev.Tokens.IDs)
		}
	}
}

// A call that is stuck while nothing watches it, such as the compilation of a
// model that replaces one, holds nobody up beyond the deadline of a drain: the
// streams end by then, and Close does not wait for it.
func TestDrainLeavesAStuckDeviceToItself(t *testing.T) {
	for _, call := range []string{"Run", "Compile", "NewCache"} {
		t.Run(call, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := &hanging{call: call, release: make(chan struct{})}
				e, dev := scriptedEngine(t, engine.Config{}, h.script)
				loadTiny(t, e, "tiny", 1, false)
				s := submit(t, e, greedy("a", 400))
				if _, err := s.Next(t.Context()); err != nil {
					t.Fatal(err)
				}
				loading := make(chan error, 1)
				h.stuck.Store(true)
				go func() {
					_, err := e.Load(context.Background(), engine.LoadRequest{Name: "new", File: tinyFile(t, 2), Replace: true}, nil)
					loading <- err
				}()
				synctest.Wait()
				ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second) // a step is given 10
				defer cancel()
				begun := time.Now()
				if err := e.Drain(ctx); !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("drain: %v", err)
				}
				if took := time.Since(begun); took > 7*time.Second {
					t.Errorf("a drain of 5 s took %v", took)
				}
				if _, err := collectFrom(t, s); !errors.Is(err, engine.ErrDraining) && !errors.Is(err, engine.ErrSlowReader) {
					t.Errorf("the stream ended with %v", err)
				}
				before := total(dev)
				if err := e.Close(); err != nil {
					t.Errorf("close: %v", err)
				}
				if err := <-loading; !errors.Is(err, engine.ErrDraining) {
					t.Errorf("the load ended with %v", err)
				}
				close(h.release)
				synctest.Wait()
				if after := total(dev); call != "NewCache" && after != before {
					t.Errorf("the device was called %d times afterwards: %v", after-before, dev.Calls())
				}
			})
		})
	}
}

func TestStepTimes(t *testing.T) {
	for _, c := range []struct {
		took []time.Duration // each 10 times
		want time.Duration
		most time.Duration // Config.StepLimit
	}{
		{nil, time.Minute, time.Minute},
		{nil, time.Hour, time.Hour},
		{[]time.Duration{0}, 10 * time.Second, time.Minute},
		{[]time.Duration{time.Millisecond}, 10 * time.Second, time.Minute},
		{[]time.Duration{time.Millisecond}, 5 * time.Second, 5 * time.Second},
		{[]time.Duration{time.Second}, 20 * time.Second, time.Minute},
		{[]time.Duration{time.Second, 2 * time.Second}, 40 * time.Second, time.Minute},
		{[]time.Duration{time.Second, 30 * time.Second}, time.Minute, time.Minute},
		{[]time.Duration{24 * time.Hour}, time.Hour, time.Hour},
	} {
		if got := engine.StepLimitAfter(c.took, 10, c.most); got > c.want || got < c.want*95/100 {
			t.Errorf("after steps of %v: %v, want %v", c.took, got, c.want)
		}
	}
	// One slow step of a thousand sets no measure.
	if got := engine.StepLimitAfter(append(make([]time.Duration, 999), time.Second), 1, time.Minute); got != 10*time.Second {
		t.Errorf("after one slow step of a thousand: %v", got)
	}
}

// shortened is a device that gives too few logits when told to: the sampler's
// code meets what it never expected.
type shortened struct {
	device.Device
	now *atomic.Bool
}

func (d shortened) Compile(p *device.Program, w device.Weights, c device.Cache, opt device.CompileOptions) (device.Executable, error) {
	x, err := d.Device.Compile(p, w, c, opt)
	return shortRuns{x, d.now}, err
}

type shortRuns struct {
	device.Executable
	now *atomic.Bool
}

func (x shortRuns) Run(step *device.Step) ([]float32, error) {
	logits, err := x.Executable.Run(step)
	if len(logits) > 0 && x.now.CompareAndSwap(true, false) {
		logits = logits[: len(logits)-1 : len(logits)-1] // the last row's last one is missing
	}
	return logits, err
}

// A panic beside the device ends the one request that met it; the others get
// what they would have got.
func TestPanicEndsItsOwnRequestAlone(t *testing.T) {
	on, err := cpu.New(cpu.Config{Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	var short atomic.Bool
	e, err := engine.NewOn(engine.Config{MaxContext: 512}, shortened{on, &short})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	loadTiny(t, e, "tiny", 1, false)
	want := run(t, e, greedy("neighbour", 60)).ids

	type result struct {
		got collected
		err error
	}
	results := make(chan result, 4)
	short.Store(true) // in the first step that gives any
	for range 4 {
		s := submit(t, e, greedy("neighbour", 60))
		go func() {
			got, err := collect(t, s)
			results <- result{got, err}
		}()
	}
	failed := 0
	for range 4 {
		switch r := <-results; {
		case errors.Is(r.err, engine.ErrInternal):
			failed++
		case r.err != nil || !slices.Equal(r.got.ids, want):
			t.Errorf("a neighbour got %v, %v", r.got.ids, r.err)
		}
	}
	if failed != 1 {
		t.Errorf("%d requests failed", failed)
	}
	if s := settled(t, e); s.State != engine.StateReady {
		t.Errorf("status %+v", s)
	}
}
