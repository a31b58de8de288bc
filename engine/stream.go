package engine

import (
	"context"
	"io"
	"sync/atomic"
)

// Stream is one request's output: events in order, ended by exactly one End
// event or one error.
type Stream struct {
	engine  *Engine
	started Started

	events chan Event // tokens only; the owner alone sends, and closes it at the end
	paused atomic.Bool

	// The owner sets final before it closes events.
	final struct {
		event Event
		err   error
	}
	told bool // the reader has seen final

	seq *sequence // the owner's
}

// Started describes the admitted request.
func (s *Stream) Started() Started { return s.started }

// Next waits for the next event. After End it returns io.EOF. Any other error
// is the stream's one terminal status: ErrSlowReader, ErrFatal,
// ErrDraining, ErrUnloaded, the error of the context given to Submit, or that
// of ctx, which leaves the stream as it is. Not for concurrent use.
func (s *Stream) Next(ctx context.Context) (Event, error) {
	select {
	case ev, ok := <-s.events:
		if ok {
			if s.paused.Load() {
				s.engine.owner.wake()
			}
			return ev, nil
		}
	case <-ctx.Done():
		return Event{}, ctx.Err()
	}
	if s.final.err != nil {
		return Event{}, s.final.err
	}
	if s.told {
		return Event{}, io.EOF
	}
	s.told = true
	return s.final.event, nil
}

// Cancel ends the stream with StopCancelled; tokens generated so far are
// delivered. Safe to call at any time, from anywhere.
func (s *Stream) Cancel() {
	s.seq.leaves()
	s.engine.owner.post(func() { s.engine.owner.cancel(s) })
}
