package engine

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"time"

	"kigo/engine/chat"
	"kigo/engine/sample"
	"kigo/engine/tokenizer"
)

// maxWrongTokens bounds what is said of a prompt of token ids that are all
// wrong.
const maxWrongTokens = 100

// leastRetry and longestRetry bound when to ask again where the queue was full.
const (
	leastRetry   = 100 * time.Millisecond
	longestRetry = time.Minute
)

// MaxLogprobs is how many alternatives for each token a request may ask for,
// MaxSamples how many answers.
const (
	MaxLogprobs = 20
	MaxSamples  = 128
)

// Submit validates the request and queues it. The stream ends with ctx: when
// ctx is cancelled or expires, the sequence leaves the device by the end of
// the step after the one in flight. Errors: *InvalidError with everything that
// is wrong, ErrNoModel, ErrQueueFull (in a *RetryError), ErrDraining, ErrFatal,
// or the context's.
func (e *Engine) Submit(ctx context.Context, r Request) (*Stream, error) {
	for arrived := time.Now(); ; {
		s, err := e.submit(ctx, &r, arrived)
		if !errors.Is(err, errReplaced) {
			return s, err
		}
	}
}

// errReplaced says that another model has taken the place of the one that a
// request was prepared for.
var errReplaced = errors.New("the model was replaced")

func (e *Engine) submit(ctx context.Context, r *Request, arrived time.Time) (*Stream, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	m, err := e.model(r.Model)
	if err != nil {
		return nil, err
	}
	prompt, most, err := e.check(m, r)
	if err != nil {
		return nil, err
	}
	var id [16]byte
	if _, err := rand.Read(id[:]); err != nil {
		return nil, fmt.Errorf("request id: %w", err)
	}
	s := newStream(e, m, Started{
		ID:           hex.EncodeToString(id[:]),
		Model:        m.info.Name,
		PromptTokens: len(prompt),
		Seed:         r.Sampling.Seed,
	}, r)
	s.done = ctx.Done()
	for i := range s.left {
		q, err := newSequence(s, i, r, prompt, most, arrived)
		if err != nil {
			return nil, err
		}
		q.deadline, _ = ctx.Deadline()
		s.seqs = append(s.seqs, q)
	}
	s.seqs[0].keys = m.sched.Keys(r.Tenant, prompt)
	if err := e.admit(s); err != nil {
		return nil, err
	}
	// The stream may end before AfterFunc returns, so the owner is handed its
	// stop function by message and not through a field.
	stop := context.AfterFunc(ctx, func() {
		s.ring()
		s.leaves()
		e.owner.post(func() { e.owner.endStream(s, ctx.Err()) })
	})
	if !e.owner.post(func() { e.owner.add(s, stop) }) {
		stop()
		e.forget(s, len(s.seqs))
		return nil, e.why()
	}
	return s, nil
}

// Check validates a request as Submit does, and goes no further. Errors:
// *InvalidError, ErrNoModel, or a template's.
func (e *Engine) Check(r Request) error {
	m, err := e.model(r.Model)
	if err != nil {
		return err
	}
	_, _, err = e.check(m, &r)
	return err
}

// check gives the prompt's tokens and how many there can ever be, or everything
// that is wrong with the request.
func (e *Engine) check(m *served, r *Request) (prompt []int32, most int, err error) {
	violations := e.validate(m, r)
	prompt, wrong, err := m.prompt(r)
	if err != nil {
		if len(violations) == 0 {
			return nil, 0, err
		}
		wrong = []Violation{{"prompt.messages", "the model's chat template does not accept them"}}
	}
	violations = append(wrong, violations...)
	if len(wrong) == 0 {
		var tooLong []Violation
		most, tooLong = m.room(r, len(prompt))
		violations = append(violations, tooLong...)
	}
	if len(violations) > 0 {
		return nil, 0, &InvalidError{Violations: violations}
	}
	return prompt, most, nil
}

// room is how many tokens a sequence can ever have whose prompt is so long, and
// what does not fit the context.
func (m *served) room(r *Request, prompt int) (most int, wrong []Violation) {
	most = m.maxContext
	if r.MaxTokens > 0 && r.MaxTokens <= m.maxContext {
		most = prompt + r.MaxTokens
	}
	switch {
	case prompt >= m.maxContext || most > m.maxContext || r.MaxTokens > m.maxContext:
		wrong = append(wrong, Violation{
			Field:  "max_tokens",
			Reason: fmt.Sprintf("%d prompt tokens and %d to generate do not fit the context of %d", prompt, max(r.MaxTokens, 1), m.maxContext),
		})
	case r.MaxTokens == 0 && r.Sampling.MinTokens > most-prompt:
		wrong = append(wrong, Violation{
			Field:  "sampling.min_tokens",
			Reason: fmt.Sprintf("%d after %d prompt tokens do not fit the context of %d", r.Sampling.MinTokens, prompt, m.maxContext),
		})
	}
	return most, wrong
}

// admit books the stream if there is room for all of its answers.
func (e *Engine) admit(s *Stream) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case e.failure != nil:
		return e.failure
	case e.draining:
		return ErrDraining
	case e.serving != s.model:
		return errReplaced // or unloaded: the next try finds out
	case e.sequences+len(s.seqs) > e.cfg.MaxConcurrent+e.cfg.MaxQueue:
		after := time.Duration(len(s.seqs)) * e.gauges.Load().retry
		return &RetryError{
			Err:   fmt.Errorf("%w: %d requests", ErrQueueFull, e.sequences),
			After: min(max(after, leastRetry), longestRetry),
		}
	}
	e.streams[s.started.ID] = s
	s.booked = len(s.seqs)
	e.sequences += s.booked
	return nil
}

// prompt makes the token ids that the request asks to continue.
func (m *served) prompt(r *Request) ([]int32, []Violation, error) {
	given := 0
	for _, there := range []bool{r.Text != "", len(r.Messages) > 0, len(r.Tokens) > 0} {
		if there {
			given++
		}
	}
	if given != 1 {
		return nil, []Violation{{"prompt", "give exactly one of text, messages and tokens, and not an empty one"}}, nil
	}
	switch {
	case len(r.Tokens) > 0:
		var wrong []Violation
		for i, t := range r.Tokens {
			if t >= 0 && int(t) < m.vocab {
				continue
			}
			if wrong = append(wrong, Violation{
				Field:  fmt.Sprintf("prompt.tokens[%d]", i),
				Reason: fmt.Sprintf("%d is not in the vocabulary of %d", t, m.vocab),
			}); len(wrong) == maxWrongTokens {
				break
			}
		}
		return slices.Clone(r.Tokens), wrong, nil
	case len(r.Messages) > 0:
		return m.chatPrompt(r.Messages)
	}
	ids := m.tokens.Encode([]byte(r.Text), tokenizer.EncodeOptions{AddSpecial: r.AddSpecial, ParseSpecial: r.ParseSpecial})
	if len(ids) == 0 {
		return nil, []Violation{{"prompt.text", "no tokens"}}, nil
	}
	return ids, nil, nil
}

func (m *served) chatPrompt(messages []chat.Message) ([]int32, []Violation, error) {
	if m.chat == nil {
		return nil, []Violation{{"prompt.messages", "the model has no chat template; give a text"}}, nil
	}
	text, err := m.chat.Render(chat.Input{
		Messages:            messages,
		AddGenerationPrompt: true,
		BOS:                 m.piece(m.tokens.BOS()),
		EOS:                 m.piece(m.tokens.EOS()),
	})
	if err != nil {
		return nil, nil, fmt.Errorf("chat template: %w", err)
	}
	// The template writes BOS itself where the model wants one.
	ids := m.tokens.Encode([]byte(text), tokenizer.EncodeOptions{ParseSpecial: true})
	if len(ids) == 0 {
		return nil, []Violation{{"prompt.messages", "the template made no tokens of them"}}, nil
	}
	return ids, nil, nil
}

func (m *served) piece(id int32, ok bool) string {
	if !ok {
		return ""
	}
	return string(m.tokens.AppendPiece(nil, id, true))
}

// validate lists what is wrong beside the prompt.
func (e *Engine) validate(m *served, r *Request) []Violation {
	cfg := &e.cfg
	var all []Violation
	bad := func(field, format string, args ...any) {
		all = append(all, Violation{field, fmt.Sprintf(format, args...)})
	}
	for _, v := range r.Sampling.Validate(m.vocab) {
		bad("sampling."+v.Field, "%s", v.Reason)
	}
	if r.Priority < MinPriority || r.Priority > MaxPriority {
		bad("priority", "must be from %d to %d, is %d", MinPriority, MaxPriority, r.Priority)
	}
	// More than there are places for would never be admitted.
	if most := min(MaxSamples, cfg.MaxConcurrent+cfg.MaxQueue); r.Samples < 0 || r.Samples > most {
		bad("n", "must be from 1 to %d, is %d", most, r.Samples)
	}
	if r.MaxTokens < 0 {
		bad("max_tokens", "%d is negative", r.MaxTokens)
	}
	if r.MaxTokens > 0 && r.Sampling.MinTokens > r.MaxTokens {
		bad("sampling.min_tokens", "%d is more than max_tokens, %d", r.Sampling.MinTokens, r.MaxTokens)
	}
	if n := len(r.Sampling.LogitBias); n > cfg.MaxBiases && n <= sample.MaxBiases {
		bad("sampling.logit_bias", "must have at most %d entries, has %d", cfg.MaxBiases, n)
	}
	if len(r.Stop) > cfg.MaxStops {
		bad("stop", "%d strings, at most %d", len(r.Stop), cfg.MaxStops)
	}
	for i, s := range r.Stop[:min(len(r.Stop), cfg.MaxStops)] {
		if s == "" || len(s) > cfg.MaxStopBytes {
			bad(fmt.Sprintf("stop[%d]", i), "%d bytes, want 1 to %d", len(s), cfg.MaxStopBytes)
		}
	}
	if len(r.StopIDs) > cfg.MaxStops {
		bad("stop_ids", "%d ids, at most %d", len(r.StopIDs), cfg.MaxStops)
	}
	for i, t := range r.StopIDs[:min(len(r.StopIDs), cfg.MaxStops)] {
		if t < 0 || int(t) >= m.vocab {
			bad(fmt.Sprintf("stop_ids[%d]", i), "%d is not in the vocabulary of %d", t, m.vocab)
		}
	}
	for _, l := range []struct {
		field string
		n     int
	}{{"logprobs", r.Logprobs}, {"prompt_logprobs", r.PromptLogprobs}} {
		if l.n < -1 || l.n > MaxLogprobs {
			bad(l.field, "%d alternatives, want 0 to %d, or -1 for none and no logprobs", l.n, MaxLogprobs)
		}
	}
	return all
}
