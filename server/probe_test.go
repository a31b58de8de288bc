package server

import (
	"errors"
	"fmt"
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
		p := newProbe(newStatusBackend(c.state))
		if got := p.verdict(); got != c.want {
			t.Errorf("state %d: %+v, want %+v", c.state, got, c.want)
		}
		p.drain()
		if got := p.verdict(); got != (verdict{live: c.want.live}) {
			t.Errorf("state %d while draining: %+v", c.state, got)
		}
	}
}

func TestProbeReportsAFailedDevice(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ failure, want error }{
		{engine.ErrDeviceFault, engine.ErrDeviceFault},
		{fmt.Errorf("%w: launch", engine.ErrDeviceHung), engine.ErrDeviceHung},
		{engine.ErrDeviceLost, engine.ErrDeviceLost},
		{nil, engine.ErrFatal},
	} {
		synctest.Test(t, func(t *testing.T) {
			b := newStatusBackend(engine.StateReady)
			p := newProbe(b)
			done := make(chan error, 1)
			go func() { done <- p.run(t.Context()) }()
			synctest.Wait()
			_, changed := p.watch()
			begun := time.Now()
			b.set(func(s *engine.Status) { s.State, s.Failure = engine.StateFailed, c.failure })
			if err := <-done; !errors.Is(err, c.want) {
				t.Errorf("the probe ended with %v, want %v", err, c.want)
			}
			<-changed
			if v := p.verdict(); v.live || v.ready {
				t.Errorf("a failed device: %+v", v)
			}
			if d := time.Since(begun); d != 0 {
				t.Errorf("a failed device was seen after %v", d)
			}
		})
	}
}

// A device that is busy for long, under a full queue, is neither dead nor
// unready.
func TestProbeIsCalmUnderLoad(t *testing.T) {
	t.Parallel()
	b := newStatusBackend(engine.StateReady)
	p := newProbe(b)
	b.set(func(s *engine.Status) { s.BusySince, s.Waiting = time.Now().Add(-time.Hour), 1000 })
	if v := p.verdict(); !v.live || !v.ready {
		t.Errorf("%+v", v)
	}
}
