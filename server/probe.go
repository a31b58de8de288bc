package server

import (
	"context"
	"errors"
	"sync"

	"kigo/engine"
)

// verdict is what probes are told.
type verdict struct {
	live  bool // not failed; a step that does not end is a failure, too
	ready bool // a token has been generated since the load, and work is taken
}

// probe turns the engine's state into verdicts. It never waits for the device:
// the engine answers from a snapshot, and a verdict costs a comparison.
type probe struct {
	engine backend

	mu       sync.Mutex
	draining bool
	last     verdict
	changed  chan struct{} // closed when last changes, then replaced
}

func newProbe(b backend) *probe {
	p := &probe{engine: b, changed: make(chan struct{})}
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
		live:  st.State != engine.StateFailed,
		ready: st.State == engine.StateReady && !p.draining,
	}
	if v != p.last {
		p.last = v
		close(p.changed)
		p.changed = make(chan struct{})
	}
	return v, p.changed
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

// run brings the verdict up to date at each change of the engine's state until
// ctx ends. It returns early, with an [engine.ErrFatal], when the engine has
// failed.
func (p *probe) run(ctx context.Context) error {
	for {
		// Before the state is read, so that no change falls between.
		changed := p.engine.Changed()
		p.verdict()
		if err := failureIn(p.engine.Status()); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		}
	}
}

// failureIn is why the device cannot be used any more, an [engine.ErrFatal]; nil
// while it can.
func failureIn(st engine.Status) error {
	if st.State != engine.StateFailed {
		return nil
	}
	if errors.Is(st.Failure, engine.ErrFatal) {
		return st.Failure
	}
	return engine.ErrFatal
}
