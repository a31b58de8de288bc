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
	"kigo/engine/tokenizer"
)

// Limits on one request.
const (
	MaxStops     = 16  // stop strings, and stop ids
	MaxStopBytes = 256 // bytes of a stop string
	MaxLogprobs  = 20  // alternatives for each token
)

// Submit validates the request and queues it. The stream ends with ctx: when
// ctx is cancelled or expires, the sequence leaves the device by the end of
// the step after the one in flight. Errors: *InvalidError with everything that
// is wrong, ErrNoModel, ErrQueueFull (in a *RetryError), ErrDraining,
// ErrDeviceLost, or the context's.
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
	prompt, violations, err := m.prompt(r)
	if err != nil {
		return nil, err
	}
	violations = append(violations, m.validate(r)...)
	if len(violations) > 0 {
		return nil, &InvalidError{Violations: violations}
	}
	most := m.maxContext
	if r.MaxTokens > 0 {
		most = len(prompt) + r.MaxTokens
	}
	if most > m.maxContext || len(prompt) >= m.maxContext {
		return nil, &InvalidError{Violations: []Violation{{
			Field:  "max_tokens",
			Reason: fmt.Sprintf("%d prompt tokens and %d to generate do not fit the context of %d", len(prompt), max(r.MaxTokens, 1), m.maxContext),
		}}}
	}
	var id [16]byte
	if _, err := rand.Read(id[:]); err != nil {
		return nil, fmt.Errorf("request id: %w", err)
	}
	s := &Stream{
		engine: e,
		events: make(chan Event, max(e.cfg.StreamBuffer, 2)), // Prompt and the first token come together
		started: Started{
			ID:           hex.EncodeToString(id[:]),
			Model:        m.info.Name,
			PromptTokens: len(prompt),
			Seed:         r.Sampling.Seed,
		},
	}
	if s.seq, err = newSequence(s, m, r, prompt, most, arrived); err != nil {
		return nil, err
	}
	if err := e.admit(s); err != nil {
		return nil, err
	}
	// The sequence may end before AfterFunc returns, so the owner is handed
	// its stop function by message and not through a field.
	stop := context.AfterFunc(ctx, func() {
		e.owner.post(func() { e.owner.end(s.seq, ctx.Err()) })
	})
	if !e.owner.post(func() { e.owner.add(s.seq, stop) }) {
		stop()
		e.forget(s)
		return nil, ErrDraining
	}
	return s, nil
}

// admit books the stream if there is room for it.
func (e *Engine) admit(s *Stream) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case e.lost != nil:
		return fmt.Errorf("%w: %w", ErrDeviceLost, e.lost)
	case e.draining:
		return ErrDraining
	case e.serving != s.seq.model:
		return errReplaced // or unloaded: the next try finds out
	case len(e.streams) >= e.cfg.MaxConcurrent+e.cfg.MaxQueue:
		return &RetryError{
			Err:   fmt.Errorf("%w: %d requests", ErrQueueFull, len(e.streams)),
			After: time.Second,
		}
	}
	e.streams[s.started.ID] = s
	s.seq.model.open++
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
		for i, t := range r.Tokens {
			if t < 0 || int(t) >= m.vocab {
				return nil, []Violation{{
					Field:  fmt.Sprintf("prompt.tokens[%d]", i),
					Reason: fmt.Sprintf("%d is not in the vocabulary of %d", t, m.vocab),
				}}, nil
			}
		}
		return slices.Clone(r.Tokens), nil, nil
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
func (m *served) validate(r *Request) []Violation {
	var all []Violation
	bad := func(field, format string, args ...any) {
		all = append(all, Violation{field, fmt.Sprintf(format, args...)})
	}
	for _, v := range r.Sampling.Validate(m.vocab) {
		bad("sampling."+v.Field, "%s", v.Reason)
	}
	if r.MaxTokens < 0 {
		bad("max_tokens", "%d is negative", r.MaxTokens)
	}
	if r.MaxTokens > 0 && r.Sampling.MinTokens > r.MaxTokens {
		bad("sampling.min_tokens", "%d is more than max_tokens, %d", r.Sampling.MinTokens, r.MaxTokens)
	}
	if len(r.Stop) > MaxStops {
		bad("stop", "%d strings, at most %d", len(r.Stop), MaxStops)
	}
	for i, s := range r.Stop {
		if s == "" || len(s) > MaxStopBytes {
			bad(fmt.Sprintf("stop[%d]", i), "%d bytes, want 1 to %d", len(s), MaxStopBytes)
		}
	}
	if len(r.StopIDs) > MaxStops {
		bad("stop_ids", "%d ids, at most %d", len(r.StopIDs), MaxStops)
	}
	for i, t := range r.StopIDs {
		if t < 0 || int(t) >= m.vocab {
			bad(fmt.Sprintf("stop_ids[%d]", i), "%d is not in the vocabulary of %d", t, m.vocab)
		}
	}
	for field, n := range map[string]int{"logprobs": r.Logprobs, "prompt_logprobs": r.PromptLogprobs} {
		if n < -1 || n > MaxLogprobs {
			bad(field, "%d alternatives, want 0 to %d, or -1 for none and no logprobs", n, MaxLogprobs)
		}
	}
	return all
}
