package engine_test

import (
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"testing"

	"kigo/engine"
	"kigo/engine/chat"
	"kigo/engine/gguf"
	"kigo/engine/sample"
)

// outcome is all that a request's stream says, in a form that can be compared.
func outcome(t *testing.T, e *engine.Engine, r engine.Request) string {
	t.Helper()
	s, err := e.Submit(t.Context(), r)
	if err != nil {
		return "refused: " + err.Error()
	}
	started := s.Started()
	said := fmt.Sprint(started.Model, started.PromptTokens, started.Seed)
	var all engine.Tokens // a reader that lags gets several in one event
	for {
		ev, err := s.Next(t.Context())
		switch {
		case errors.Is(err, io.EOF):
			return said + fmt.Sprintf(" %+v", all)
		case err != nil:
			t.Fatal(err)
		case ev.End != nil:
			end := *ev.End
			end.Queued, end.Prefill, end.Decode = 0, 0, 0
			said += fmt.Sprintf(" end %+v", end)
		case ev.Tokens != nil:
			all.IDs, all.Text = append(all.IDs, ev.Tokens.IDs...), all.Text+ev.Tokens.Text
			all.Logprobs = append(all.Logprobs, ev.Tokens.Logprobs...)
		default:
			said += fmt.Sprintf(" prompt %+v", ev.Prompt)
		}
	}
}

// Each field of a request changes what its stream says: none is accepted and
// ignored on the way from Submit to the last token.
func TestLesson_EveryFieldOfARequestMatters(t *testing.T) {
	e := newEngine(t, engine.Config{})
	if _, err := e.Load(t.Context(), engine.LoadRequest{
		Name: "tiny", File: rewritten(t, "tokenizer.ggml.add_bos_token", gguf.ValueOf(true)),
	}, nil); err != nil {
		t.Fatal(err)
	}
	const eos = 2
	plain := func() engine.Request {
		r := greedy("the sea <|im_end|>", 40)
		r.Sampling.Temperature, r.Sampling.Seed, r.Sampling.IgnoreEnd = 1, 7, false
		r.Sampling.PenaltyLastN = 64
		return r
	}
	ending := func(r *engine.Request) { r.Sampling.LogitBias = []sample.Bias{{Token: eos, Value: 100}} }
	type row struct {
		base   func(*engine.Request) // nil: plain
		change func(*engine.Request)
	}
	rows := map[string]row{
		"Model":    {nil, func(r *engine.Request) { r.Model = "other" }},
		"Text":     {nil, func(r *engine.Request) { r.Text = "the sky <|im_end|>" }},
		"Messages": {nil, func(r *engine.Request) { r.Text, r.Messages = "", []chat.Message{{Role: "user", Content: "the sea"}} }},
		"Messages role": {func(r *engine.Request) { r.Text, r.Messages = "", []chat.Message{{Role: "user", Content: "the sea"}} },
			func(r *engine.Request) { r.Messages[0].Role = "system" }},
		"Messages content": {func(r *engine.Request) { r.Text, r.Messages = "", []chat.Message{{Role: "user", Content: "the sea"}} },
			func(r *engine.Request) { r.Messages[0].Content = "the sky" }},
		"Tokens":         {nil, func(r *engine.Request) { r.Text, r.Tokens = "", []int32{5, 6} }},
		"AddSpecial":     {nil, func(r *engine.Request) { r.AddSpecial = true }},
		"ParseSpecial":   {nil, func(r *engine.Request) { r.ParseSpecial = true }},
		"MaxTokens":      {nil, func(r *engine.Request) { r.MaxTokens = 39 }},
		"Logprobs":       {nil, func(r *engine.Request) { r.Logprobs = 0 }},
		"Logprobs more":  {func(r *engine.Request) { r.Logprobs = 1 }, func(r *engine.Request) { r.Logprobs = 2 }},
		"Samples":        {nil, func(r *engine.Request) { r.Samples = 2 }},
		"PromptLogprobs": {nil, func(r *engine.Request) { r.PromptLogprobs = 0 }},

		"Sampling.Temperature":       {nil, func(r *engine.Request) { r.Sampling.Temperature = 0.1 }},
		"Sampling.TopK":              {nil, func(r *engine.Request) { r.Sampling.TopK = 2 }},
		"Sampling.TypicalP":          {nil, func(r *engine.Request) { r.Sampling.TypicalP = 0.1 }},
		"Sampling.TopP":              {nil, func(r *engine.Request) { r.Sampling.TopP = 0.1 }},
		"Sampling.MinP":              {nil, func(r *engine.Request) { r.Sampling.MinP = 0.9 }},
		"Sampling.RepetitionPenalty": {nil, func(r *engine.Request) { r.Sampling.RepetitionPenalty = 100 }},
		"Sampling.PresencePenalty":   {nil, func(r *engine.Request) { r.Sampling.PresencePenalty = -2 }},
		"Sampling.FrequencyPenalty":  {nil, func(r *engine.Request) { r.Sampling.FrequencyPenalty = -2 }},
		"Sampling.PenaltyLastN": {func(r *engine.Request) { r.Sampling.FrequencyPenalty = -2 },
			func(r *engine.Request) { r.Sampling.PenaltyLastN = 0 }},
		"Sampling.LogitBias": {nil, func(r *engine.Request) { r.Sampling.LogitBias = []sample.Bias{{Token: 100, Value: 100}} }},
		"Sampling.Seed":      {nil, func(r *engine.Request) { r.Sampling.Seed = 8 }},
		"Sampling.MinTokens": {ending, func(r *engine.Request) { r.Sampling.MinTokens = 5 }},
		"Sampling.IgnoreEnd": {ending, func(r *engine.Request) { r.Sampling.IgnoreEnd = true }},
	}
	// What stops depends on what is said.
	said := run(t, e, plain())
	rows["Stop"] = row{nil, func(r *engine.Request) { r.Stop = []string{said.text[len(said.text)/2 : len(said.text)/2+1]} }}
	rows["StopIDs"] = row{nil, func(r *engine.Request) { r.StopIDs = said.ids[3:4] }}

	for name, c := range rows {
		base := plain()
		if c.base != nil {
			c.base(&base)
		}
		before := outcome(t, e, base)
		if again := outcome(t, e, base); again != before {
			t.Fatalf("%s: the same request twice:\n%s\n%s", name, before, again)
		}
		changed := base
		changed.Messages = slices.Clone(base.Messages)
		c.change(&changed)
		if outcome(t, e, changed) == before {
			t.Errorf("%s is ignored: %s", name, before)
		}
	}
	// A field that is added must be added above. Tenant and Priority decide who comes
	// first and not what anybody is told: TestPriorityComesFirst.
	for _, typ := range []struct {
		prefix string
		of     reflect.Type
	}{{"", reflect.TypeFor[engine.Request]()}, {"Sampling.", reflect.TypeFor[sample.Params]()}} {
		for i := range typ.of.NumField() {
			name := typ.prefix + typ.of.Field(i).Name
			if _, there := rows[name]; !there && name != "Sampling" && name != "Tenant" && name != "Priority" {
				t.Errorf("%s has no test", name)
			}
		}
	}
}
