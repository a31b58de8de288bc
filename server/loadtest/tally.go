package loadtest

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	kigov1 "kigo/proto/kigo/v1"
)

// How a request ended.
type outcome int

const (
	completed   outcome = iota // with an end, of itself
	cancelled                  // as it was meant to
	dropped                    // a slow reader that the server did not wait for
	failed                     // with an error that nobody asked for
	broken                     // with a violation of the protocol
	unfinished                 // cut off when the drain was over
	interrupted                // nobody knows how it would have ended
	outcomes
)

// maxKinds bounds the kinds of errors that are told apart: their names come from
// outside.
const maxKinds = 64

// tally is what a run has measured. Times are nanoseconds since the run began.
type tally struct {
	// Tokens and gaps count that arrive in the window from start to before end.
	start, end atomic.Int64
	tokens     atomic.Uint64
	messages   atomic.Uint64 // with tokens

	// Of measured requests, but for those of slow readers.
	firstToken, whole, perToken histogram
	gap                         histogram
	lag                         histogram // of sending
	cancelling                  histogram // from the Cancel call to the end

	mu         sync.Mutex
	requests   uint64 // measured
	prompt     uint64 // tokens of their prompts
	slow       uint64 // of them
	ended      uint64 // in the window, completed
	outcomes   [outcomes]uint64
	judged     uint64 // neither slow, cancelled nor interrupted
	good       uint64 // of them
	silent     uint64 // cut off before their first token
	unsent     uint64
	warmUp     uint64 // requests before the measurement
	failedThen uint64 // of them
	stops      map[kigov1.StopReason]uint64
	errors     map[failure]uint64
	violations map[string]uint64
	example    string // the first violation
	phase      phase
}

// failure is a kind of error: its gRPC code, and the reason that the server gives.
type failure struct{ code, reason string }

func newTally() *tally {
	t := &tally{
		stops:      map[kigov1.StopReason]uint64{},
		errors:     map[failure]uint64{},
		violations: map[string]uint64{},
	}
	t.start.Store(never)
	t.end.Store(never)
	return t
}

// measures says whether something that happens then is in the window.
func (t *tally) measures(at int64) bool { return t.start.Load() <= at && at < t.end.Load() }

// arrived counts tokens that came with one message.
func (t *tally) arrived(at int64, n int) {
	if t.measures(at) {
		t.tokens.Add(uint64(n))
		t.messages.Add(1)
	}
}

// until is the end of the window, or of now where it has none yet.
func (t *tally) until(now int64) int64 { return min(now, t.end.Load()) }

// phase is the time in which all streams are generating, and what they generate in
// it: a closed loop's decode phase. A stream generates from its first token to its
// end. A message's tokens count as made evenly since the stream's message before:
// all streams' tokens of one step arrive one after the other, and an end that comes
// with the first of them would otherwise cut off the rest.
type phase struct {
	mu         sync.Mutex
	streams    int // that there are; 0: nothing is measured
	generating int
	since      int64 // when the last stream began
	lasted     int64 // in the window, up to the latest end of a stream
	tokens     float64
}

// upTo is how long all streams have been generating in the window. The caller holds
// the phase.
func (t *tally) upTo(at int64) int64 {
	p := &t.phase
	if p.streams == 0 || p.generating < p.streams {
		return p.lasted
	}
	return p.lasted + max(t.until(at)-max(p.since, t.start.Load()), 0)
}

// generates says that a stream has its first token, and returns upTo that time.
func (t *tally) generates(at int64) int64 {
	p := &t.phase
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.generating++; p.generating == p.streams {
		p.since = at
	}
	return t.upTo(at)
}

// generated counts n tokens of a stream whose latest message before came then, at
// what upTo was before.
func (t *tally) generated(at int64, n int, then, before int64) int64 {
	p := &t.phase
	p.mu.Lock()
	defer p.mu.Unlock()
	upTo := t.upTo(at)
	if took := at - then; took > 0 {
		p.tokens += float64(n) * float64(min(max(upTo-before, 0), took)) / float64(took)
	}
	return upTo
}

// generatesNoMore says that a stream which had tokens has ended.
func (t *tally) generatesNoMore(at int64) {
	p := &t.phase
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lasted = t.upTo(at)
	p.generating--
}

// ending is what has become of a request.
type ending struct {
	outcome    outcome
	measured   bool
	slow       bool
	stop       kigov1.StopReason // of the end; unspecified where there was none
	failure    failure
	violation  violation
	sent       int64 // intended
	over       int64
	prompt     int           // tokens; 0 where it was not admitted
	tokens     int           // generated
	first      int64         // when the first of them came
	last       int64         // when the last of them came
	firstBatch int           // tokens that came with the first
	longest    time.Duration // gap between tokens
}

// violation is a stream that breaks the protocol: which rule, and how.
type violation struct{ rule, how string }

func (v violation) String() string { return fmt.Sprintf("%s: %s", v.rule, v.how) }

// finish counts a request that has ended.
func (t *tally) finish(o *Options, r *ending) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if r.outcome == broken { // at any time: it never has a good reason
		t.violations[r.violation.rule]++
		if t.example == "" {
			t.example = r.violation.String()
		}
	}
	if r.outcome == completed && t.measures(r.over) && (r.measured || !o.whole()) {
		t.ended++
	}
	if !r.measured {
		t.warmUp++
		if r.outcome == failed {
			t.failedThen++
			t.fails(r.failure)
		}
		return
	}
	t.requests++
	t.prompt += uint64(r.prompt)
	t.outcomes[r.outcome]++
	if r.outcome == failed {
		t.fails(r.failure)
	}
	if r.stop != kigov1.StopReason_STOP_REASON_UNSPECIFIED {
		t.stops[r.stop]++
	}
	if r.slow {
		t.slow++
		return
	}
	if r.outcome != cancelled && r.outcome != interrupted {
		t.judged++
	}
	ttft := time.Duration(r.first - r.sent)
	switch {
	case r.tokens > 0:
		t.firstToken.add(ttft)
	case r.outcome == unfinished:
		t.silent++
		t.firstToken.add(time.Duration(r.over - r.sent)) // it took at least so long
	}
	if r.outcome != completed {
		return
	}
	t.whole.add(time.Duration(r.over - r.sent))
	if n := r.tokens - r.firstBatch; n > 0 {
		t.perToken.add(time.Duration(r.last-r.first) / time.Duration(n))
	}
	if (o.FirstTokenWithin == 0 || r.tokens > 0 && ttft <= o.FirstTokenWithin) && (o.GapWithin == 0 || r.longest <= o.GapWithin) {
		t.good++
	}
}

// fails counts an error by its kind. The caller holds t.mu.
func (t *tally) fails(f failure) {
	if _, known := t.errors[f]; !known && len(t.errors) >= maxKinds {
		f = failure{f.code, "other"}
	}
	t.errors[f]++
}

// stopName is a stop reason as people read it: "max tokens".
func stopName(r kigov1.StopReason) string {
	name := strings.TrimPrefix(r.String(), "STOP_REASON_")
	return strings.ToLower(strings.ReplaceAll(name, "_", " "))
}
