package server

import (
	"context"
	"sync"
	"time"

	"kigo/engine"
)

// verdict is what probes are told.
type verdict struct {
	live  bool // not failed, and steps advance while there is work
	ready bool // a token has been generated since the load, and work is taken
}

// probe turns the engine's state into verdicts. It never waits for the device:
// the engine answers from a snapshot, and a verdict costs a comparison.
type probe struct {
	engine    backend
	stepLimit time.Duration
	now       func() time.Time

	mu       sync.Mutex
	draining bool
	last     verdict
	changed  chan struct{} // closed when last changes, then replaced
}

func newProbe(b backend, stepLimit time.Duration, now func() time.Time) *probe {
	p := &probe{engine: b, stepLimit: stepLimit, now: now, changed: make(chan struct{})}
	p.verdict()
	return p
}

// verdict is the verdict at this moment. Whoever asks also brings those up to
// date who wait for a change.
func (p *probe) verdict() verdict {
	v, _ := p.watch()
	return v
}

// watch returns the verdict and a channel that is closed at its next change.
func (p *probe) watch() (verdict, <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	st := p.engine.Status()
	v := verdict{
		live:  st.State != engine.StateFailed && !p.hung(st),
		ready: st.State == engine.StateReady && !p.draining,
	}
	v.ready = v.ready && v.live
	if v != p.last {
		p.last = v
		close(p.changed)
		p.changed = make(chan struct{})
	}
	return v, p.changed
}

// hung says that the step now running takes too long. A full queue is not a
// hang: its steps advance.
func (p *probe) hung(st engine.Status) bool {
	return !st.BusySince.IsZero() && p.now().Sub(st.BusySince) > p.stepLimit
}

// drain makes the server unready for good.
func (p *probe) drain() {
	p.mu.Lock()
	p.draining = true
	p.mu.Unlock()
	p.verdict()
}

// isDraining says whether drain was called.
func (p *probe) isDraining() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.draining
}

// run brings the verdict up to date at each change of the engine's state, and
// often enough to see a hung step, until ctx ends. It returns early, with
// [engine.ErrDeviceLost], when the engine has failed.
func (p *probe) run(ctx context.Context) error {
	tick := time.NewTicker(min(p.stepLimit/4, time.Second))
	defer tick.Stop()
	for {
		// Before the state is read, so that no change falls between.
		changed := p.engine.Changed()
		p.verdict()
		if p.engine.Status().State == engine.StateFailed {
			return engine.ErrDeviceLost
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		case <-tick.C:
		}
	}
}
