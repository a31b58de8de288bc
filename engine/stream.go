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
	model   *served
	buffer  int // tokens that are held for the reader, before the owner waits for it
	half    int // of these, with which it goes on
	booked  int // sequences that count in Engine.sequences, and under its lock

	// The owner's.
	seqs   []*sequence // its answers
	left   int         // of these, that have not ended; with none the stream has
	detach func() bool // from the request's context

	bell chan struct{}   // wakes the reader; holds one ring
	done <-chan struct{} // of Submit's context, whose end rings the bell, too

	mu     sync.Mutex
	events []Event // that the reader has not taken
	first  int     // of them in events
	held   int     // tokens in them
	waited bool    // the owner waits until there are few
	prompt bool    // the prompt's event is still to come, before all others
	ended  bool    // nothing more comes but what final says
	final  struct {
		event Event
		err   error
	}
	told bool // the reader has seen final
}

func newStream(e *Engine, m *served, started Started, r *Request) *Stream {
	n := max(r.Samples, 1)
	return &Stream{
		engine:  e,
		started: started,
		model:   m,
		buffer:  e.cfg.StreamBuffer * n,
		half:    e.cfg.StreamBuffer / 2 * n,
		left:    n,
		bell:    make(chan struct{}, 1),
		prompt:  r.PromptLogprobs >= 0 && started.PromptTokens > 1,
	}
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
		if ctx.Done() == s.done { // as a rule; waiting for one thing costs less than for two
			if err := ctx.Err(); err != nil {
				return Event{}, err
			}
			<-s.bell
			continue
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
	case s.first < len(s.events) && (s.ended || !s.prompt):
		ev = s.events[s.first]
		s.events[s.first] = Event{}
		if s.first++; s.first == len(s.events) {
			s.events, s.first = s.events[:0], 0
		}
		if ev.Tokens != nil {
			s.held -= len(ev.Tokens.IDs)
		}
		if s.waited && s.held <= s.half {
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
// taken. There is always room: the owner stops the sequences of a stream that has as
// many tokens as its buffer here.
func (s *Stream) push(ev Event) (held int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := len(s.events)
	if ev.Tokens != nil {
		s.held += len(ev.Tokens.IDs)
	}
	// A reader that lags far behind has less to do when what follows comes together.
	apart := max(s.half, 8)
	if n-s.first >= apart && ev.Tokens != nil {
		if last := s.latest(ev.Tokens.Sample); last != nil {
			last.IDs = append(last.IDs, ev.Tokens.IDs...)
			last.Text += ev.Tokens.Text
			last.Logprobs = append(last.Logprobs, ev.Tokens.Logprobs...)
			return s.held
		}
	}
	if s.first > 0 && n == cap(s.events) { // rather than grow
		s.events = s.events[:copy(s.events, s.events[s.first:])]
		s.first = 0
	}
	s.events = append(s.events, ev)
	if ev.Prompt != nil {
		// The one sample that computes it may have been held up while others went on.
		s.prompt = false
		copy(s.events[s.first+1:], s.events[s.first:])
		s.events[s.first] = ev
	}
	s.ring()
	return s.held
}

// latest is the last tokens event of a sample that the reader has not taken, if it is
// among the last few: a step brings one of each sample at most.
func (s *Stream) latest(sample int) *Tokens {
	for i := len(s.events) - 1; i >= max(s.first, len(s.events)-len(s.seqs)); i-- {
		if t := s.events[i].Tokens; t != nil && t.Sample == sample {
			return t
		}
	}
	return nil
}

// wait has the reader wake the owner when it has taken half of the tokens; false
// when it has already, or cannot take any yet.
func (s *Stream) wait() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.waited = s.held > s.half && !s.prompt
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
	s.leaves()
	s.engine.owner.post(func() { s.engine.owner.cancel(s) })
}

// leaves notes when somebody first wanted the stream to end early. From any
// goroutine.
func (s *Stream) leaves() {
	for _, q := range s.seqs {
		q.leaves()
	}
}

// coming is how many tokens steps under way will bring its sequences.
func (s *Stream) coming() int {
	n := 0
	for _, q := range s.seqs {
		if !q.ended {
			n += q.coming
		}
	}
	return n
}

// answered is the end of a stream whose answers have all ended.
func (s *Stream) answered() *End {
	if len(s.seqs) == 1 {
		return s.seqs[0].end
	}
	end := *s.seqs[0].end
	for _, q := range s.seqs {
		end.Samples = append(end.Samples, q.end)
	}
	return &end
}
