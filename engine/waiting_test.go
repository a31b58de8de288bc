package engine_test

import (
	"errors"
	"fmt"
	"slices"
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

// scriptedWaits is an engine on a paced device, which is begun and waited for, with a
// script before it.
func scriptedWaits(t *testing.T, cfg engine.Config, pace scripted.Pace, script func(call string, n int) error) *engine.Engine {
	t.Helper()
	on, err := cpu.New(cpu.Config{Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = on.Close() })
	pace.Next = pacedNext
	cfg.MaxContext = 512
	e, err := engine.NewOn(cfg, scripted.New(scripted.NewPaced(on, pace), script))
	if err != nil {
		t.Fatal(err)
	}
	loadTiny(t, e, "tiny", 1, false)
	return e
}

// A device fails while a step of many sequences is waited for, or when it is asked
// what to choose: each stream has the tokens of all steps before, and ends with it.
func TestFailureWhileAStepIsWaitedFor(t *testing.T) {
	for _, call := range []string{"Run", "Largest", "Draw", "Fetch"} {
		t.Run(call, func(t *testing.T) {
			var fail atomic.Bool
			e := scriptedWaits(t, engine.Config{}, scripted.Pace{Step: time.Millisecond}, func(c string, _ int) error {
				if c == call && fail.Load() {
					return fmt.Errorf("%s: %w", call, device.ErrLost)
				}
				return nil
			})
			var all sync.WaitGroup
			for i := range 20 {
				r := pacedRequest(i, 10+i, 0, 400)
				switch {
				case i%2 == 0 && call == "Draw":
					r.Sampling.Temperature, r.Sampling.RepetitionPenalty = 0.001, 1.5
				case i%2 == 0 && call == "Fetch":
					r.Logprobs = 0
				}
				s := submit(t, e, r)
				all.Go(func() {
					w, err := readWhole(t.Context(), s)
					if !errors.Is(err, engine.ErrDeviceFault) || !slices.Equal(w.ids, pacedText(r.Tokens, len(w.ids))) {
						t.Errorf("stream %d: %v, %v", i, w.ids, err)
					}
				})
			}
			for e.Status().Tokens < 200 {
				time.Sleep(time.Millisecond)
			}
			fail.Store(true)
			all.Wait()
			if s := e.Status(); s.State != engine.StateFailed || s.Running+s.Waiting != 0 {
				t.Errorf("status %+v", s)
			}
			if err := e.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

// A step that fails and leaves the device as it was ends the sequences that had a
// part in it; the next ones are served.
func TestFailedStepEndsWhoWasInIt(t *testing.T) {
	var fail atomic.Bool
	e := scriptedWaits(t, engine.Config{MaxConcurrent: 4}, scripted.Pace{Step: time.Millisecond}, func(c string, _ int) error {
		if c == "Largest" && fail.CompareAndSwap(true, false) {
			return device.ErrOutOfMemory
		}
		return nil
	})
	var in []*engine.Stream
	for i := range 4 {
		in = append(in, submit(t, e, pacedRequest(i, 10, 0, 400)))
	}
	for e.Status().Tokens < 20 {
		time.Sleep(time.Millisecond)
	}
	behind := pacedRequest(9, 10, 0, 30)
	queued := submit(t, e, behind)
	fail.Store(true)
	for i, s := range in {
		if _, err := readWhole(t.Context(), s); !errors.Is(err, engine.ErrInternal) {
			t.Errorf("stream %d: %v", i, err)
		}
	}
	if w, err := readWhole(t.Context(), queued); err != nil || !slices.Equal(w.ids, pacedText(behind.Tokens, 30)) {
		t.Errorf("the one behind them: %v, %v", w.ids, err)
	}
	if s := settled(t, e); s.State != engine.StateReady {
		t.Errorf("status %+v", s)
	}
	if err := errors.Join(e.CheckSchedulers(), e.Close()); err != nil {
		t.Error(err)
	}
}

// A step that begins and never ends is found within the limit, counted from its
// begin, and every stream is told.
func TestHungWaitIsFound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &hanging{call: "Largest", release: make(chan struct{})}
		e := scriptedWaits(t, engine.Config{StepLimit: 3 * time.Second}, scripted.Pace{Step: 20 * time.Millisecond}, h.script)
		var streams []*engine.Stream
		for i := range 8 {
			streams = append(streams, submit(t, e, pacedRequest(i, 10, 0, 400)))
		}
		if _, err := streams[0].Next(t.Context()); err != nil {
			t.Fatal(err)
		}
		changed := e.Changed()
		h.stuck.Store(true)
		<-changed
		if took := time.Since(*h.since.Load()); took > 3*time.Second || took < 2*time.Second {
			t.Errorf("found after %v", took)
		}
		for i, s := range streams {
			if _, err := readWhole(t.Context(), s); !errors.Is(err, engine.ErrDeviceHung) {
				t.Errorf("stream %d: %v", i, err)
			}
		}
		if err := e.Close(); err != nil {
			t.Error(err)
		}
		close(h.release)
		synctest.Wait()
	})
}
