package engine_test

import (
	"context"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"kigo/engine"
)

// A request that is cancelled in whatever phase costs no more than the step in
// flight and the one after it, and its blocks are free by then.
func TestCancelInEveryPhase(t *testing.T) {
	long := greedy("", 20)
	long.Tokens = make([]int32, 480) // thirty steps of prompt
	for _, phase := range []struct {
		name  string
		r     engine.Request
		front bool // another request has the only slot, and pauses
		reach func(t *testing.T, e *engine.Engine, s *engine.Stream, before uint64)
		steps uint64 // that may still run
		ended bool   // the cancel comes too late to be one
	}{
		{"queued", long, true, func(*testing.T, *engine.Engine, *engine.Stream, uint64) {}, 0, false},
		{"prompt", long, false, func(_ *testing.T, e *engine.Engine, _ *engine.Stream, before uint64) {
			for e.Status().Steps < before+2 {
				time.Sleep(10 * time.Microsecond)
			}
		}, 2, false},
		{"generation", greedy("a", 400), false, func(t *testing.T, _ *engine.Engine, s *engine.Stream, _ uint64) { read(t, s, 3) }, 2, false},
		{"last token", greedy("a", 5), false, func(t *testing.T, _ *engine.Engine, s *engine.Stream, _ uint64) { read(t, s, 4) }, 1, false},
		{"end", greedy("a", 5), false, func(t *testing.T, _ *engine.Engine, s *engine.Stream, _ uint64) { read(t, s, 6) }, 0, true},
	} {
		t.Run(phase.name, func(t *testing.T) {
			e := loaded(t, engine.Config{MaxConcurrent: 1, StreamBuffer: 4, SlowReader: time.Hour})
			var front *engine.Stream
			if phase.front {
				front = submit(t, e, greedy("first", 100))
				for e.Status().Steps < 4 || !e.Status().BusySince.IsZero() { // four events are all that fits
					time.Sleep(time.Millisecond)
				}
			}
			before := e.Status()
			s := submit(t, e, phase.r)
			phase.reach(t, e, s, before.Steps)
			s.Cancel()
			at := e.Status().Steps
			for e.Running(s) {
				time.Sleep(time.Millisecond)
			}
			after := settledAt(t, e, before.KVUsed)
			if after.Steps > at+phase.steps {
				t.Errorf("%d steps after the cancel, at most %d", after.Steps-at, phase.steps)
			}
			var reason engine.StopReason
			for {
				ev, err := s.Next(t.Context())
				if ev.End != nil {
					reason = ev.End.Reason
				}
				if err != nil {
					if !errors.Is(err, io.EOF) {
						t.Errorf("ended with %v", err)
					}
					break
				}
			}
			switch {
			case phase.ended: // read has seen the end
			case reason != engine.StopCancelled && (phase.name != "last token" || reason != engine.StopMaxTokens):
				t.Errorf("stop reason %v", reason)
			}
			if front != nil {
				front.Cancel()
			}
			settled(t, e)
		})
	}
}

// Next returns when a context ends, whose ever it is, though the device is at work and the
// owner learns of nothing. Any other context than Submit's leaves the stream as it is.
func TestNextEndsWithItsContext(t *testing.T) {
	var held atomic.Bool
	gate := make(chan struct{})
	e, _ := scriptedEngine(t, engine.Config{MaxConcurrent: 3}, func(call string, _ int) error {
		if call == "Run" && held.Load() {
			<-gate
		}
		return nil
	})
	loadTiny(t, e, "tiny", 1, false)
	held.Store(true)
	own, leave := context.WithCancel(t.Context())
	child, leaveChild := context.WithCancel(own)
	defer leaveChild()
	other, leaveOther := context.WithCancel(t.Context())
	streams := make([]*engine.Stream, 3)
	for i := range streams {
		s, err := e.Submit(own, greedy("a", 3))
		if i == 2 {
			s, err = e.Submit(t.Context(), greedy("a", 3))
		}
		if err != nil {
			t.Fatal(err)
		}
		streams[i] = s
	}
	contexts := []context.Context{own, child, other}
	var all sync.WaitGroup
	for i, s := range streams {
		all.Go(func() {
			for range 2 { // with a context that has ended, too
				if _, err := s.Next(contexts[i]); !errors.Is(err, context.Canceled) {
					t.Errorf("stream %d: %v", i, err)
				}
			}
		})
	}
	leave()
	leaveOther()
	all.Wait()
	close(gate)
	if tokens, err := collectFrom(t, streams[2]); !errors.Is(err, io.EOF) || tokens != 3 {
		t.Errorf("the stream that was left as it is ended with %v after %d tokens", err, tokens)
	}
	if err := e.Close(); err != nil {
		t.Error(err)
	}
}

// read takes n events.
func read(t *testing.T, s *engine.Stream, n int) {
	t.Helper()
	for range n {
		if _, err := s.Next(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

// settledAt waits until so many blocks are in use and no step runs.
func settledAt(t *testing.T, e *engine.Engine, blocks int) engine.Status {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		if s := e.Status(); s.KVUsed == blocks && s.BusySince.IsZero() {
			return s
		}
		if time.Now().After(deadline) {
			t.Fatalf("not settled: %+v", e.Status())
		}
	}
}
