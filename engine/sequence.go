package engine

import (
	"slices"
	"sync/atomic"
	"time"

	"kigo/engine/kv"
	"kigo/engine/sample"
	"kigo/engine/sched"
	"kigo/engine/stop"
	"kigo/engine/tokenizer"
)

// sequence is the owner's side of a stream, or of one of its answers: the tokens so
// far and how the next one is chosen and turned into text.
type sequence struct {
	id     sched.ID
	stream *Stream
	number int // among the stream's answers
	model  *served
	tokens []int32 // prompt, then what was generated
	prompt int     // length of the prompt
	most   int     // tokens there can be in all
	tenant string

	priority int
	deadline time.Time // zero: none
	keys     []kv.Key  // of the prompt's blocks, until it is added; the first answer's alone

	sampler  *sample.Sampler
	text     tokenizer.Stream
	stops    *stop.Matcher
	stopText []string
	stopIDs  []int32
	logprobs int

	// Log-probabilities of the prompt, gathered as its chunks are processed.
	promptLogprobs int // alternatives, or -1
	promptTokens   []TokenLogprob

	news        news
	promptEvent *Event // news of the prompt, which come first
	coming      int    // tokens that steps under way will bring
	row         int    // of the logits of the latest step that brings one
	foresight   foresight

	ended     bool
	end       *End // once it has ended well
	arrived   time.Time
	firstStep time.Time
	first     time.Time // when the first token came
	latest    time.Time // when the latest token came
	counted   time.Time // when the latest token came that Stats has counted

	left atomic.Int64 // when somebody wanted it to end early, in nanoseconds after arrived; 0: nobody
}

func newSequence(s *Stream, number int, r *Request, prompt []int32, most int, arrived time.Time) (*sequence, error) {
	m := s.model
	q := &sequence{
		stream:   s,
		number:   number,
		model:    m,
		tokens:   prompt,
		prompt:   len(prompt),
		most:     most,
		tenant:   r.Tenant,
		text:     *m.tokens.NewStream(false),
		stopText: slices.Clone(r.Stop),
		stopIDs:  slices.Clone(r.StopIDs),
		logprobs: r.Logprobs,
		arrived:  arrived,
		priority: r.Priority,

		promptLogprobs: r.PromptLogprobs,
	}
	if number > 0 {
		q.tokens = slices.Clip(prompt) // which is the first one's to append to
		q.promptLogprobs = -1          // they are the same, and given once
	}
	params := r.Sampling
	params.Seed += uint64(number)
	params.LogitBias = slices.Clone(params.LogitBias)
	var err error
	if q.sampler, err = sample.New(params, m.vocab, m.tokens.EOG()); err != nil {
		return nil, err
	}
	q.stops, err = stop.New(q.stopText)
	return q, err
}

// takesLargest says whether the token of the largest logit is next, and nobody asks
// for probabilities.
func (q *sequence) takesLargest(id int32, logit float32) bool {
	return q.logprobs < 0 && q.sampler.TakesLargest(id, logit, len(q.tokens)-q.prompt)
}

// plan says how the next token is drawn; nil when all logits are needed for it.
func (q *sequence) plan() *sample.Plan {
	if q.logprobs >= 0 {
		return nil
	}
	p, ok := q.sampler.Plan(q.tokens, len(q.tokens)-q.prompt)
	if !ok {
		return nil
	}
	return p
}

// sample chooses a token from the logits after the latest one, and says how likely
// the model found it, if that is asked for.
func (q *sequence) sample(logits []float32) (id int32, p []TokenLogprob, err error) {
	if id, err = q.sampler.Sample(logits, q.tokens, len(q.tokens)-q.prompt); err != nil || q.logprobs < 0 {
		return id, nil, err
	}
	one, err := q.probability(logits, id, q.logprobs)
	return id, []TokenLogprob{one}, err
}

// news is what a step has brought a sequence and its reader has not been told.
type news struct {
	some     bool
	id       int32
	index    int // among the generated tokens
	logprobs []TokenLogprob
	stop     StopReason // of an end or stop token, which is none of the generated ones
}

// accept takes a chosen token in. It is false when the sequence ends with it.
func (q *sequence) accept(id int32, p []TokenLogprob, now time.Time) bool {
	if q.first.IsZero() {
		q.first = now
	}
	q.latest = now
	q.foresight.blind = max(q.foresight.blind-1, 0)
	q.news = news{some: true, id: id, index: len(q.tokens) - q.prompt, logprobs: p}
	switch {
	case slices.Contains(q.stopIDs, id):
		q.news.stop = StopSequence
		return false
	case q.model.tokens.IsEOG(id):
		q.news.stop = StopEnd
		return false
	}
	q.tokens = append(q.tokens, id)
	return len(q.tokens) < q.most
}

// told is a token on its way to a reader, in one piece of memory.
type told struct {
	tokens Tokens
	id     [1]int32
}

// tell makes of the news what the reader is to be told. Both may be nil.
func (q *sequence) tell() (event *Tokens, end *End, err error) {
	n := q.news
	q.news = news{}
	if n.stop != StopUnknown {
		end = q.endEvent(n.stop)
		end.StopID = n.id
		return q.rest(n.index), end, nil
	}
	out := &told{tokens: Tokens{Sample: q.number, Index: n.index, Logprobs: n.logprobs}, id: [1]int32{n.id}}
	event = &out.tokens
	event.IDs = out.id[:]
	piece, err := q.text.Push(n.id)
	if err != nil {
		return nil, nil, err
	}
	emit, hit, which := q.stops.Push(piece)
	event.Text = emit
	switch {
	case hit:
		end = q.endEvent(StopSequence)
		end.StopText = q.stopText[which]
		end.GeneratedTokens = n.index + 1
	case len(q.tokens) == q.most:
		if rest := q.rest(n.index + 1); rest != nil {
			event.Text += rest.Text
		}
		end = q.endEvent(StopMaxTokens)
	}
	return event, end, nil
}

// rest is the text that was held back, when nothing more will come.
func (q *sequence) rest(index int) *Tokens {
	emit, hit, _ := q.stops.Push(q.text.Flush())
	if !hit {
		emit += q.stops.Flush()
	}
	if emit == "" {
		return nil
	}
	return &Tokens{Sample: q.number, Index: index, Text: emit}
}

func (q *sequence) probability(logits []float32, id int32, alternatives int) (TokenLogprob, error) {
	chosen, top, err := sample.Logprobs(logits[:q.model.vocab], id, alternatives)
	if err != nil {
		return TokenLogprob{}, err
	}
	bytes := func(id int32) []byte { return q.model.tokens.AppendPiece(nil, id, true) }
	p := TokenLogprob{ID: id, Bytes: bytes(id), Logprob: chosen.Value}
	for _, t := range top {
		p.Top = append(p.Top, TokenLogprob{ID: t.ID, Bytes: bytes(t.ID), Logprob: t.Value})
	}
	return p, nil
}

// wantsPrompt says whether the logits of the rows from position start on are
// wanted for the prompt's own tokens.
func (q *sequence) wantsPrompt(start int) bool { return q.promptLogprobs >= 0 && start < q.prompt-1 }

// readPrompt takes the logits of rows from position start on, one after
// another, and notes what they give the tokens that follow; those of rows that
// are computed again it has. It returns the event when the last has come.
func (q *sequence) readPrompt(start int, logits []float32, width int) (*Event, error) {
	for at := start; len(logits) > 0 && at < q.prompt-1; at++ {
		if at < len(q.promptTokens) {
			logits = logits[width:]
			continue
		}
		p, err := q.probability(logits[:width], q.tokens[at+1], q.promptLogprobs)
		if err != nil {
			return nil, err
		}
		q.promptTokens = append(q.promptTokens, p)
		logits = logits[width:]
	}
	if len(q.promptTokens) < q.prompt-1 {
		return nil, nil
	}
	ev := &Event{Prompt: q.promptTokens}
	q.promptTokens, q.promptLogprobs = nil, -1
	return ev, nil
}

func (q *sequence) endEvent(reason StopReason) *End {
	end := &End{
		Reason:          reason,
		StopID:          -1,
		PromptTokens:    q.prompt,
		GeneratedTokens: len(q.tokens) - q.prompt,
	}
	switch {
	case q.firstStep.IsZero():
		end.Queued = time.Since(q.arrived)
	case q.first.IsZero():
		end.Queued, end.Prefill = q.firstStep.Sub(q.arrived), time.Since(q.firstStep)
	default:
		end.Queued, end.Prefill, end.Decode = q.firstStep.Sub(q.arrived), q.first.Sub(q.firstStep), q.latest.Sub(q.first)
	}
	return end
}
