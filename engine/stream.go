package engine

import (
	"context"
	"io"
	"sync"
)

// Stream is one request's output: events in order, ended by exactly one End
// event or one error.
type Stream struct {
	engine  *Engine
	started Started
	seq     *sequence // the owner's

	bell chan struct{} // wakes the reader; holds one ring

	mu     sync.Mutex
	events []Event // that the reader has not taken
	first  int     // of them in events
	held   int     // tokens in them
	waited bool    // the owner waits until there are few
	ended  bool    // nothing more comes but what final says
	final  struct {
		event Event
		err   error
	}
	told bool // the reader has seen final
}

func newStream(e *Engine, started Started) *Stream {
	return &Stream{engine: e, started: started, bell: make(chan struct{}, 1)}
}

// Started describes the admitted request.
func (s *Stream) Started() Started { return s.started }

// Next waits for the next event. After End it returns io.EOF. Any other error
// is the stream's one terminal status: ErrSlowReader, ErrFatal,
// ErrDraining, ErrUnloaded, the error of the context given to Submit, or that
// of ctx, which leaves the stream as it is; with a queue that has no room for the
// tenant, a *RetryError. Not for concurrent use.
func (s *Stream) Next(ctx context.Context) (Event, error) {
	for {
		ev, ok, err := s.take()
		if ok || err != nil {
			return ev, err
		}
		select {
		case <-s.bell:
		case <-ctx.Done():
			return Event{}, ctx.Err()
		}
	}
}

// take is Next that does not wait: not ok where there is nothing yet.
func (s *Stream) take() (ev Event, ok bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.first < len(s.events):
		ev = s.events[s.first]
		s.events[s.first] = Event{}
		if s.first++; s.first == len(s.events) {
			s.events, s.first = s.events[:0], 0
		}
		if ev.Tokens != nil {
			s.held -= len(ev.Tokens.IDs)
		}
		if s.waited && s.held <= s.engine.cfg.StreamBuffer/2 {
			s.waited = false
			s.engine.owner.wake()
		}
		return ev, true, nil
	case !s.ended:
		return Event{}, false, nil
	case s.final.err != nil:
		return Event{}, false, s.final.err
	case s.told:
		return Event{}, false, io.EOF
	}
	s.told = true
	return s.final.event, true, nil
}

// push adds an event, for the owner, and says how many tokens the reader has not
// taken. There is always room: the owner stops a sequence that has StreamBuffer
// tokens here.
func (s *Stream) push(ev Event) (held int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := len(s.events)
	if ev.Tokens != nil {
		s.held += len(ev.Tokens.IDs)
	}
	// A reader that lags far behind has less to do when what follows comes together.
	apart := max(s.engine.cfg.StreamBuffer/2, 8)
	if n-s.first >= apart && ev.Tokens != nil && s.events[n-1].Tokens != nil {
		last := s.events[n-1].Tokens
		last.IDs = append(last.IDs, ev.Tokens.IDs...)
		last.Text += ev.Tokens.Text
		last.Logprobs = append(last.Logprobs, ev.Tokens.Logprobs...)
		return s.held
	}
	if s.first > 0 && n == cap(s.events) { // rather than grow
		s.events = s.events[:copy(s.events, s.events[s.first:])]
		s.first = 0
	}
	s.events = append(s.events, ev)
	s.ring()
	return s.held
}

// wait has the reader wake the owner when it has taken half of the tokens; false
// when it has already.
func (s *Stream) wait() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.waited = s.held > s.engine.cfg.StreamBuffer/2
	return s.waited
}

// end closes the stream with its one terminal status.
func (s *Stream) end(ev Event, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.final.event, s.final.err, s.ended = ev, err, true
	s.ring()
}

func (s *Stream) ring() {
	select {
	case s.bell <- struct{}{}:
	default: // it has not heard the last ring yet
	}
}

// Cancel ends the stream with StopCancelled; tokens generated so far are
// delivered. Safe to call at any time, from anywhere.
func (s *Stream) Cancel() {
	s.seq.leaves()
	s.engine.owner.post(func() { s.engine.owner.cancel(s) })
}
