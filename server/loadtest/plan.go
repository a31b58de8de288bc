package loadtest

import (
	"math/rand/v2"
	"strings"
	"time"

	kigov1 "kigo/proto/kigo/v1"
)

// plan is all that is decided about a request before it is sent.
type plan struct {
	prompt int // tokens, or words
	most   int // tokens to generate at most

	cancelled bool
	cancelAt  int  // tokens that arrive before
	byCall    bool // by the Cancel call, otherwise by leaving the stream

	slow bool
}

// planner makes the requests of a run. What it decides about the n-th one depends
// on the seed, the run and n alone; what the prompts say depends on the salt as well.
type planner struct {
	options    *Options
	run        uint64
	vocabulary int
	salt       uint64
}

// random is a sequence of its own for each use of each request.
func (p *planner) random(seed, use, n uint64) *rand.Rand {
	return rand.New(rand.NewPCG(seed, use<<56|p.run<<48|n))
}

// The uses of random sequences.
const (
	useArrivals = iota
	usePlan
	usePrompt
	usePrefix
)

func (p *planner) plan(n uint64) plan {
	o := p.options
	r := p.random(o.Seed, usePlan, n)
	q := plan{prompt: o.Prompt.draw(r), most: o.MaxTokens.draw(r)}
	fate := r.Float64()
	q.cancelled = fate < o.Cancel
	q.slow = !q.cancelled && fate < o.Cancel+o.Slow
	q.cancelAt, q.byCall = r.IntN(q.most), r.IntN(2) == 0
	return q
}

// interarrivals makes the times from one arrival to the next.
func (p *planner) interarrivals(rate float64) func() time.Duration {
	r := p.random(p.options.Seed, useArrivals, 0)
	return func() time.Duration { return time.Duration(r.ExpFloat64() / rate * float64(time.Second)) }
}

// request is the n-th request as it is sent.
func (p *planner) request(n uint64, q plan) *kigov1.ExecuteRequest {
	o := p.options
	most := int32(q.most)
	r := &kigov1.ExecuteRequest{
		MaxTokens: &most,
		Sampling:  &kigov1.Sampling{Temperature: &o.Temperature, IgnoreEnd: &o.IgnoreEnd},
	}
	if o.Model != "" {
		r.Model = &o.Model
	}
	choices := p.vocabulary
	if o.Text {
		choices = len(words)
	}
	// The prefix is the same in all runs: its sequence has no run in it.
	ids := make([]int32, 0, q.prompt)
	prefix := rand.New(rand.NewPCG(p.salt, usePrefix<<56))
	own := p.random(p.salt, usePrompt, n)
	for len(ids) < q.prompt {
		from := own
		if len(ids) < o.SharedPrefix {
			from = prefix
		}
		ids = append(ids, int32(from.IntN(choices)))
	}
	if !o.Text {
		r.Prompt = &kigov1.ExecuteRequest_Tokens{Tokens: &kigov1.TokenIds{Ids: ids}}
		return r
	}
	var b strings.Builder
	for i, id := range ids {
		if i > 0 {
			b.WriteByte(' ')
		}
		b.WriteString(words[id])
	}
	r.Prompt = &kigov1.ExecuteRequest_Text{Text: b.String()}
	return r
}

// words are what texts are made of: most tokenizers have a token for each.
var words = strings.Fields(`the of and to in is was for that on as with by at from his it an
	were are which this also be had or has first their one its new after but who not they have
	her she two been other when there all during into school time may years more most only over
	city some world would where later up such used many can state about national out known university
	united then made`)
