package server

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"kigo/engine"
)

// statusBackend is an engine of which only the status is ever asked.
type statusBackend struct {
	backend
	mu      sync.Mutex
	status  engine.Status
	changed chan struct{}
}

func newStatusBackend(s engine.State) *statusBackend {
	return &statusBackend{status: engine.Status{State: s}, changed: make(chan struct{})}
}

func (b *statusBackend) Status() engine.Status {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.status
}

func (b *statusBackend) Changed() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.changed
}

// set changes the status, and tells about it as the engine does.
func (b *statusBackend) set(f func(*engine.Status)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	before := b.status.State
	f(&b.status)
	if b.status.State != before {
		close(b.changed)
		b.changed = make(chan struct{})
	}
}

func TestProbeVerdicts(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		state engine.State
		want  verdict
	}{
		{engine.StateEmpty, verdict{live: true}},
		{engine.StateLoading, verdict{live: true}},
		{engine.StateReady, verdict{live: true, ready: true}},
		{engine.StateDraining, verdict{live: true}},
		{engine.StateFailed, verdict{}},
	} {
		p := newProbe(newStatusBackend(c.state), time.Minute, time.Now)
		if got := p.verdict(); got != c.want {
			t.Errorf("state %d: %+v, want %+v", c.state, got, c.want)
		}
		p.drain()
		if got := p.verdict(); got != (verdict{live: c.want.live}) {
			t.Errorf("state %d while draining: %+v", c.state, got)
		}
	}
}

// A step that does not end is seen without anyone asking, and steps that
// advance under a full queue are no hang.
func TestProbeSeesAHungStep(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newStatusBackend(engine.StateReady)
		p := newProbe(b, 10*time.Second, time.Now)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- p.run(ctx) }()

		// An hour of saturation: every step takes nine seconds.
		for range 400 {
			b.set(func(s *engine.Status) { s.BusySince, s.Waiting = time.Now(), 1000 })
			time.Sleep(9 * time.Second)
			if v := p.verdict(); !v.live || !v.ready {
				t.Fatalf("saturation was taken for a hang: %+v", v)
			}
		}

		b.set(func(s *engine.Status) { s.BusySince = time.Now() })
		_, changed := p.watch()
		begun := time.Now()
		<-changed
		if v := p.verdict(); v.live || v.ready {
			t.Errorf("a hung step: %+v", v)
		}
		if d := time.Since(begun); d < 10*time.Second || d > 11*time.Second+time.Millisecond {
			t.Errorf("a hung step was seen after %v", d)
		}

		// It ends after all.
		_, changed = p.watch()
		b.set(func(s *engine.Status) { s.BusySince = time.Time{} })
		<-changed
		if v := p.verdict(); !v.live || !v.ready {
			t.Errorf("after the step has ended: %+v", v)
		}
		cancel()
		if err := <-done; err != nil {
			t.Errorf("the probe ended with %v", err)
		}
	})
}

func TestProbeReportsALostDevice(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newStatusBackend(engine.StateReady)
		p := newProbe(b, time.Hour, time.Now)
		done := make(chan error, 1)
		go func() { done <- p.run(t.Context()) }()
		synctest.Wait()
		begun := time.Now()
		b.set(func(s *engine.Status) { s.State = engine.StateFailed })
		if err := <-done; !errors.Is(err, engine.ErrDeviceLost) {
			t.Errorf("the probe ended with %v", err)
		}
		if d := time.Since(begun); d != 0 {
			t.Errorf("a lost device was seen after %v", d)
		}
	})
}
