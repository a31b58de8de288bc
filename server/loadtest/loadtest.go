// Package loadtest puts load on a Kigo server and measures what its clients see:
// how long they wait for the first token and for each one after it, and how many
// tokens and requests a second all of them get.
//
// A closed loop keeps a number of streams busy: each sends its next request when the
// last one has ended. An open loop sends requests at random times (a Poisson
// process), whatever has become of those before; a latency is measured from the
// time at which the request was to be sent, so that a server that holds the sender
// up does not look better for it.
package loadtest

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"time"

	kigov1 "kigo/proto/kigo/v1"
)

// Options say which load, and what to report. Check names what is wrong with them.
type Options struct {
	Address string // of the server: host:port
	Model   string // whose name requests carry; empty: the one that is loaded

	// One of both: a run for each number of streams, or for each number of
	// requests a second.
	Concurrency []int
	Rates       []float64

	WarmUp   time.Duration // before a run's measurement begins
	Duration time.Duration // of a run's measurement; 0: until Requests have been sent
	Requests int           // measured requests of a run at most; 0: as many as come up
	Drain    time.Duration // for the requests under way at a run's end; then they are cut off
	Waves    bool          // closed loop: all streams begin together, and again when all have ended

	Prompt       Lengths
	SharedPrefix int  // tokens, or words, that all prompts of a call of Run begin with
	Text         bool // prompts are words instead of token ids
	MaxTokens    Lengths
	IgnoreEnd    bool // answers have as many tokens as they may
	Temperature  float32

	Cancel float64 // share of requests that are cancelled at a random point
	Slow   float64 // share of requests that read a message each SlowDelay only
	Seed   uint64  // decides lengths, arrivals, and who is cancelled or slow

	// What is good enough, for the goodput; 0: anything is.
	FirstTokenWithin time.Duration // the first token of a request
	GapWithin        time.Duration // each of its gaps between tokens

	Version  string            // of the program, for the report
	Progress func(what string) // is told what comes next; may be nil
}

// SlowDelay is how long a slow reader waits before it reads another message.
const SlowDelay = 100 * time.Millisecond

// The bounds of Options.
const (
	maxConcurrency = 1 << 14
	maxRate        = 1e5
	maxRuns        = 64
	maxRequests    = 1 << 30
	maxTime        = 7 * 24 * time.Hour

	// maxInFlight bounds the requests of an open loop that have not ended. Those
	// beyond it are sent when there is room, and their latency counts from when
	// they should have been.
	maxInFlight = 1 << 14
)

// Check reports the first option that makes no sense, by the name of its flag.
func (o *Options) Check() error {
	if (len(o.Concurrency) > 0) == (len(o.Rates) > 0) {
		return errors.New("concurrency, rate: give one of both")
	}
	if len(o.Concurrency)+len(o.Rates) > maxRuns {
		return fmt.Errorf("concurrency, rate: %d runs, at most %d", len(o.Concurrency)+len(o.Rates), maxRuns)
	}
	for _, n := range o.Concurrency {
		if n < 1 || n > maxConcurrency {
			return fmt.Errorf("concurrency: %d, want 1 to %d", n, maxConcurrency)
		}
	}
	for _, r := range o.Rates {
		if !(r > 0 && r <= maxRate) {
			return fmt.Errorf("rate: %v, want more than 0 and at most %v requests a second", r, maxRate)
		}
	}
	for _, t := range []struct {
		name string
		d    time.Duration
	}{
		{"warm-up", o.WarmUp}, {"duration", o.Duration}, {"drain", o.Drain},
		{"slo-ttft", o.FirstTokenWithin}, {"slo-gap", o.GapWithin},
	} {
		if t.d < 0 || t.d > maxTime {
			return fmt.Errorf("%s: %v, want 0 to %v", t.name, t.d, maxTime)
		}
	}
	switch {
	case o.Requests < 0 || o.Requests > maxRequests:
		return fmt.Errorf("requests: %d, want 0 to %d", o.Requests, maxRequests)
	case o.Requests == 0 && o.Duration == 0:
		return errors.New("duration: 0 goes with requests only")
	case o.Waves && len(o.Rates) > 0:
		return errors.New("waves: there are none in an open loop")
	case o.Prompt.Max() == 0 || o.MaxTokens.Max() == 0:
		return errors.New("prompt, max-tokens: no length")
	case o.SharedPrefix < 0 || o.SharedPrefix >= o.Prompt.Min():
		return fmt.Errorf("shared-prefix: %d, want 0 or more, and less than the shortest prompt, %d", o.SharedPrefix, o.Prompt.Min())
	case !(o.Temperature >= 0 && o.Temperature <= 100):
		return fmt.Errorf("temperature: %v, want 0 to 100", o.Temperature)
	case !(o.Cancel >= 0 && o.Cancel <= 1):
		return fmt.Errorf("cancel: %v, want a share from 0 to 1", o.Cancel)
	case !(o.Slow >= 0 && o.Slow <= 1) || o.Cancel+o.Slow > 1:
		return fmt.Errorf("slow: %v, want a share from 0 to 1, and no more than 1 with that of cancel", o.Slow)
	}
	return nil
}

// whole says that a run's measurement ends with its last measured request. Otherwise
// it ends when Duration is over, and what is under way then counts with the tokens
// that it had.
func (o *Options) whole() bool { return o.Waves || o.Requests > 0 }

// Run puts the load on the server, one run after another, and reports. When ctx
// ends, the report is of what was measured until then and says so; it is no error.
// An error means that nothing could be measured: the server does not answer, or has
// no model that would take such requests.
func Run(ctx context.Context, o Options) (*Report, error) {
	if err := o.Check(); err != nil {
		return nil, err
	}
	p := newPool(o.Address)
	defer p.close()
	h, err := p.health(ctx)
	if err != nil {
		return nil, err
	}
	m := h.GetModel()
	if m == nil {
		return nil, errors.New("the server has no model loaded")
	}
	if most := o.Prompt.Max() + o.MaxTokens.Max(); !o.Text && most > int(m.GetContextLength()) {
		return nil, fmt.Errorf("prompts of up to %d tokens and %d to generate do not fit the model's context of %d",
			o.Prompt.Max(), o.MaxTokens.Max(), m.GetContextLength())
	}
	if m.GetVocabulary() < 1 {
		return nil, errors.New("the server does not say how large its model's vocabulary is")
	}
	// Prompts that a server has seen in an earlier call would come from its
	// prefix cache.
	var salt [8]byte
	_, _ = rand.Read(salt[:]) // never fails: it ends the process instead
	report := newReport(&o, h)
	runAll(ctx, &o, p, report, int(m.GetVocabulary()), binary.LittleEndian.Uint64(salt[:]))
	return report, nil
}

// runAll adds a run for each rate or concurrency to the report.
func runAll(ctx context.Context, o *Options, t target, report *Report, vocabulary int, salt uint64) {
	loads := make([]load, 0, len(o.Concurrency)+len(o.Rates))
	for _, n := range o.Concurrency {
		loads = append(loads, load{streams: n})
	}
	for _, r := range o.Rates {
		loads = append(loads, load{rate: r})
	}
	for i, l := range loads {
		if ctx.Err() != nil {
			break
		}
		if o.Progress != nil {
			o.Progress(fmt.Sprintf("%s, %d of %d", l, i+1, len(loads)))
		}
		plans := &planner{options: o, run: uint64(i), vocabulary: vocabulary, salt: salt}
		report.add(newRun(o, l, t, plans).do(ctx))
	}
	report.Interrupted = ctx.Err() != nil
}

// load is what one run puts on the server: streams, or else a rate.
type load struct {
	streams int
	rate    float64 // requests a second
}

func (l load) String() string {
	switch {
	case l.streams == 1:
		return "1 stream"
	case l.streams > 0:
		return fmt.Sprintf("%d streams", l.streams)
	}
	return fmt.Sprintf("%g/s", l.rate)
}

// never is a time after all others of a run, in nanoseconds.
const never = math.MaxInt64

// target is what load is put on: a server, or in tests what stands for one.
type target interface {
	// execute sends a request. The function that it returns waits for the next
	// event; its error is io.EOF after a stream that ended well. The stream ends
	// with ctx, too.
	execute(ctx context.Context, r *kigov1.ExecuteRequest) (func() (event, error), error)
	// cancel asks the server to end a request.
	cancel(ctx context.Context, requestID string) error
}
