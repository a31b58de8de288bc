package engine

import (
	"context"
	"errors"
	"math/bits"
	"sync/atomic"
	"time"
)

// Stats are what the engine has done since it was made, for whoever watches it. The
// owner fills them as it goes, at a few atomic additions a token; anybody may read
// them at any time. Their size is fixed. The zero value is ready for use.
type Stats struct {
	// Steps of the device, by what their rows were.
	StepTime [StepPhases]Durations // also of steps that failed
	StepRows [StepPhases]Sizes
	StepSeqs Sizes // sequences that a step had rows of

	// Of the steps, those that began while the one before them was under way, so that
	// the device did not wait; and how often one of those went on with another token
	// than the sequence has.
	StepsAhead, Missed atomic.Uint64

	PromptTokens   atomic.Uint64 // of all requests that have had a step
	ComputedTokens atomic.Uint64 // of prompts, by steps; those from the prefix cache are none

	// Tokens of prompts that were looked for in the prefix cache, and those of
	// them that it had; and how often a running sequence has lost its blocks to
	// others.
	PrefixQueries, PrefixHits, Preemptions atomic.Uint64

	// How often the device had no more memory for a KV cache.
	KVRefused atomic.Uint64

	// Requests that were admitted; one for several answers counts as so many.
	Queue         Durations                      // from Submit to the first step
	FirstToken    Durations                      // from Submit to the first token
	BetweenTokens Durations                      // from a token to the next one
	Request       Durations                      // from Submit to the end, however it ends
	Cancel        Durations                      // from a cancel, disconnect or deadline to the free slot
	Ended         [RequestOutcomes]atomic.Uint64 // by how
}

// StepPhase is what the rows of a step are.
type StepPhase int

// The phases of steps.
const (
	StepPrefill StepPhase = iota // tokens of prompts only
	StepDecode                   // generated tokens only
	StepMixed                    // both
	StepPhases
)

// String is the phase's name in metrics.
func (p StepPhase) String() string { return [StepPhases]string{"prefill", "decode", "mixed"}[p] }

// RequestOutcome is how an admitted request has ended.
type RequestOutcome int

// The outcomes of requests: those of StopReason, then the errors.
const (
	RequestMaxTokens RequestOutcome = iota
	RequestEnd
	RequestSequence
	RequestCancelled  // by Cancel
	RequestLeft       // its context was cancelled: the client has left
	RequestDeadline   // its context has expired
	RequestSlowReader // ErrSlowReader
	RequestUnloaded   // ErrUnloaded
	RequestDraining   // ErrDraining
	RequestDevice     // ErrFatal
	RequestInternal   // all others
	RequestOutcomes
)

// String is the outcome's name in metrics.
func (o RequestOutcome) String() string {
	return [RequestOutcomes]string{
		"max_tokens", "end", "sequence", "cancelled", "left", "deadline", "slow_reader", "unloaded", "draining", "device", "internal",
	}[o]
}

// Stats are the engine's own, which go on counting.
func (e *Engine) Stats() *Stats { return &e.stats }

// step counts a step of the device that had so many rows of prompts and of generated
// tokens, of so many sequences.
func (s *Stats) step(took time.Duration, prompt, generated, seqs int) {
	phase := StepMixed
	switch {
	case generated == 0:
		phase = StepPrefill
	case prompt == 0:
		phase = StepDecode
	}
	s.StepTime[phase].add(took)
	s.StepRows[phase].add(prompt + generated)
	s.StepSeqs.add(seqs)
	s.ComputedTokens.Add(uint64(prompt))
}

// began counts a sequence whose first step begins with the row of a position, up to
// which its prompt was found in the prefix cache if that was looked at. A prompt of
// several answers counts once.
func (s *Stats) began(q *sequence, start int, looked bool) {
	s.Queue.add(q.firstStep.Sub(q.arrived))
	if q.number > 0 {
		return
	}
	s.PromptTokens.Add(uint64(q.prompt))
	if looked {
		s.PrefixQueries.Add(uint64(q.prompt))
		s.PrefixHits.Add(uint64(start))
	}
}

// token counts a sequence's latest token.
func (s *Stats) token(q *sequence) {
	if q.counted.IsZero() {
		s.FirstToken.add(q.latest.Sub(q.arrived))
	} else {
		s.BetweenTokens.add(q.latest.Sub(q.counted))
	}
	q.counted = q.latest
}

// ended counts a sequence whose slot and blocks are free again. end is nil where err
// is not.
func (s *Stats) ended(q *sequence, end *End, err error) {
	took := time.Since(q.arrived)
	s.Request.add(took)
	outcome := outcomeOf(end, err)
	s.Ended[outcome].Add(1)
	if outcome == RequestDeadline {
		q.leaves() // unless its context has said so before the scheduler saw it
	}
	if at := q.left.Load(); at > 0 {
		s.Cancel.add(took - time.Duration(at))
	}
}

// leaves notes when somebody first wanted a sequence to end early. From any
// goroutine.
func (q *sequence) leaves() { q.left.CompareAndSwap(0, max(int64(time.Since(q.arrived)), 1)) }

func outcomeOf(end *End, err error) RequestOutcome {
	switch {
	case end != nil && end.Reason == StopMaxTokens:
		return RequestMaxTokens
	case end != nil && end.Reason == StopEnd:
		return RequestEnd
	case end != nil && end.Reason == StopSequence:
		return RequestSequence
	case end != nil && end.Reason == StopCancelled:
		return RequestCancelled
	case fatalError(err) != nil:
		return RequestDevice
	case errors.Is(err, context.Canceled):
		return RequestLeft
	case errors.Is(err, context.DeadlineExceeded):
		return RequestDeadline
	case errors.Is(err, ErrSlowReader):
		return RequestSlowReader
	case errors.Is(err, ErrUnloaded):
		return RequestUnloaded
	case errors.Is(err, ErrDraining):
		return RequestDraining
	}
	return RequestInternal
}

// The buckets of distributions: each bound is twice the one before.
const (
	firstDuration  = 50 * time.Microsecond
	durationBounds = 23 // up to 210 s
	sizeBounds     = 15 // 1 to 16,384
)

// Distribution is what has been counted until now.
type Distribution struct {
	Count   uint64
	Sum     float64            // seconds, of durations
	Buckets map[float64]uint64 // how many are at most so large, for each bound
}

// doublings counts in buckets whose bounds are unit, 2 unit, 4 unit, …; the last
// one is what lies beyond.
type doublings struct {
	counts [durationBounds + 1]atomic.Uint64
	sum    atomic.Int64
}

func (d *doublings) add(v, unit int64) {
	v = max(v, 0)
	i := bits.Len64(uint64(max(v-1, 0) / unit)) // the least with v <= unit << i
	d.counts[min(i, durationBounds)].Add(1)
	d.sum.Add(v)
}

// read counts up to so many bounds. A bound is unit<<i divided by one.
func (d *doublings) read(unit int64, one float64, bounds int) Distribution {
	out := Distribution{Sum: float64(d.sum.Load()) / one, Buckets: make(map[float64]uint64, bounds)}
	for i := range d.counts {
		out.Count += d.counts[i].Load()
		if i < bounds {
			out.Buckets[float64(unit<<i)/one] = out.Count
		}
	}
	return out
}

// Durations counts durations.
type Durations struct{ doublings }

func (d *Durations) add(t time.Duration) { d.doublings.add(int64(t), int64(firstDuration)) }

// Read returns what has been counted, in seconds.
func (d *Durations) Read() Distribution {
	return d.read(int64(firstDuration), float64(time.Second), durationBounds)
}

// Sizes counts numbers of things.
type Sizes struct{ doublings }

func (s *Sizes) add(n int) { s.doublings.add(int64(n), 1) }

// Read returns what has been counted.
func (s *Sizes) Read() Distribution { return s.read(1, 1, sizeBounds) }
