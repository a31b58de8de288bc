package engine_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"kigo/engine"
)

// answers is a whole stream of several answers.
type answers struct {
	each     []collected
	logprobs [][]engine.TokenLogprob
	prompt   []engine.TokenLogprob
	end      *engine.End
}

// collectSamples reads a stream to its end. Each answer's tokens come without a gap,
// and the prompt's probabilities before them, once.
func collectSamples(t *testing.T, s *engine.Stream, n int) (answers, error) {
	t.Helper()
	a := answers{each: make([]collected, n), logprobs: make([][]engine.TokenLogprob, n)}
	for first := true; ; first = false {
		ev, err := s.Next(t.Context())
		switch {
		case errors.Is(err, io.EOF):
			return a, nil
		case err != nil:
			return a, err
		case a.end != nil:
			t.Fatal("an event after the end")
		case ev.End != nil:
			a.end = ev.End
		case ev.Prompt != nil:
			if !first {
				t.Error("the prompt's probabilities are not the first event")
			}
			a.prompt = ev.Prompt
		default:
			c := &a.each[ev.Tokens.Sample]
			if ev.Tokens.Index != len(c.ids) {
				t.Fatalf("answer %d: tokens at index %d after %d", ev.Tokens.Sample, ev.Tokens.Index, len(c.ids))
			}
			c.ids = append(c.ids, ev.Tokens.IDs...)
			c.text += ev.Tokens.Text
			c.events++
			a.logprobs[ev.Tokens.Sample] = append(a.logprobs[ev.Tokens.Sample], ev.Tokens.Logprobs...)
		}
	}
}

func samples(t *testing.T, e *engine.Engine, r engine.Request) answers {
	t.Helper()
	a, err := collectSamples(t, submit(t, e, r), r.Samples)
	if err != nil {
		t.Fatal(err)
	}
	ends := a.end.Answers()
	if len(ends) != r.Samples {
		t.Fatalf("%d answers, %d ends", r.Samples, len(ends))
	}
	for i, end := range ends {
		if end.GeneratedTokens != len(a.each[i].ids) {
			t.Errorf("answer %d has %d tokens, its end counts %d", i, len(a.each[i].ids), end.GeneratedTokens)
		}
		a.each[i].end = end
	}
	return a
}

// drawn is a request whose tokens hang on its seed.
func drawn(text string, tokens int) engine.Request {
	r := greedy(text, tokens)
	r.Sampling.Temperature, r.Sampling.Seed = 1, 7
	return r
}

// Four greedy answers of a real model are the one that a request for one gets, and
// their prompt is computed once, but for what no block of it can be shared.
func TestSamplesOfARealModel(t *testing.T) {
	for _, noCache := range []bool{false, true} {
		t.Run(fmt.Sprintf("no cache %v", noCache), func(t *testing.T) {
			if raceEnabled {
				t.Skip("the tests of the real model run without the race detector")
			}
			e := newEngine(t, engine.Config{NoPrefixCache: noCache})
			if _, err := e.Load(t.Context(), engine.LoadRequest{Name: "smollm2", File: modelFile(t, smollm2)}, nil); err != nil {
				t.Fatal(err)
			}
			r := greedy("Once upon a time, in a land far away, there lived a queen who had three daughters and no crown. "+
				"Every year, when the first snow fell, she asked each of them the same question, and each of them said", 8)
			before := e.Stats().ComputedTokens.Load()
			r.Samples = 4
			a := samples(t, e, r)
			prompt := a.end.PromptTokens
			shared := (prompt - 1) / e.Status().KVTokens * e.Status().KVTokens
			if got, want := e.Stats().ComputedTokens.Load()-before, uint64(prompt+3*(prompt-shared)); got != want || shared < 32 {
				t.Errorf("%d rows for a prompt of %d, of which %d can be shared, want %d", got, prompt, shared, want)
			}
			if got := e.Stats().PromptTokens.Load(); got != uint64(prompt) {
				t.Errorf("a prompt of %d counts as %d", prompt, got)
			}
			r.Samples = 0
			want := run(t, e, r)
			for i, c := range a.each {
				if !slices.Equal(c.ids, want.ids) || c.text != want.text || c.end.Reason != engine.StopMaxTokens {
					t.Errorf("answer %d: %q, want %q", i, c.text, want.text)
				}
			}
			settled(t, e)
		})
	}
}

// Each answer is what a request for one with the seed + its number gets, to the last
// probability, and the first one that of the request without n.
func TestSamplesHaveSeedsOfTheirOwn(t *testing.T) {
	for _, noCache := range []bool{false, true} {
		for _, prompt := range []string{"x", strings.Repeat("the sea is ", 12)} { // less than a block, and several
			e := loaded(t, engine.Config{NoPrefixCache: noCache, MaxConcurrent: 3}) // one waits
			r := drawn(prompt, 30)
			r.Samples, r.Logprobs, r.PromptLogprobs = 4, 2, 1
			r.Sampling.Seed = ^uint64(0) - 1 // the third one begins anew at 0
			a := samples(t, e, r)
			for i := range r.Samples {
				one := r
				one.Samples, one.Sampling.Seed = 1, r.Sampling.Seed+uint64(i)
				want := samples(t, e, one)
				got := a.each[i]
				if !slices.Equal(got.ids, want.each[0].ids) || got.text != want.each[0].text || !reflect.DeepEqual(a.logprobs[i], want.logprobs[0]) {
					t.Errorf("answer %d: %v, alone %v", i, got.ids, want.each[0].ids)
				}
				if len(a.prompt) != a.end.PromptTokens-1 || !reflect.DeepEqual(a.prompt, want.prompt) {
					t.Errorf("the prompt's probabilities: %v, alone %v", a.prompt, want.prompt)
				}
			}
			if slices.Equal(a.each[0].ids, a.each[1].ids) {
				t.Error("two answers are the same")
			}
			settled(t, e)
		}
	}
}

// A stop string or id ends the answer that says it, and no other.
func TestSamplesEndOnTheirOwn(t *testing.T) {
	e := loaded(t, engine.Config{})
	r := drawn("the sea", 40)
	r.Samples = 4
	plain := samples(t, e, r)
	check := func(r engine.Request, reason func(*engine.End) bool) {
		t.Helper()
		a := samples(t, e, r)
		stopped := 0
		for i, c := range a.each {
			if whole := plain.each[i]; c.end.Reason == engine.StopMaxTokens && !slices.Equal(c.ids, whole.ids) ||
				!slices.Equal(c.ids, whole.ids[:len(c.ids)]) || !strings.HasPrefix(whole.text, c.text) {
				t.Errorf("answer %d: %v, without a stop %v", i, c.ids, whole.ids)
			}
			if reason(c.end) {
				stopped++
			}
		}
		if stopped == 0 || stopped == len(a.each) {
			t.Errorf("%d of %d answers stopped", stopped, len(a.each))
		}
		settled(t, e)
	}
	byID := r
	byID.StopIDs = plain.each[2].ids[5:6]
	check(byID, func(end *engine.End) bool { return end.Reason == engine.StopSequence && end.StopID == byID.StopIDs[0] })
	byText := r
	for _, c := range plain.each[1].text {
		if !strings.ContainsRune(plain.each[0].text, c) {
			byText.Stop = []string{string(c)}
		}
	}
	check(byText, func(end *engine.End) bool { return end.Reason == engine.StopSequence && end.StopText == byText.Stop[0] })
}

// Cancel, the end of the context and a reader that does not read end all answers.
func TestSamplesEndTogether(t *testing.T) {
	e := loaded(t, engine.Config{SlowReader: time.Hour})
	r := drawn("the sea is", 400)
	r.Samples = 4
	// over reads what is left of a stream.
	over := func(s *engine.Stream) error {
		for {
			if _, err := s.Next(t.Context()); err != nil {
				return err
			}
		}
	}
	t.Run("cancel", func(t *testing.T) {
		s := submit(t, e, r)
		read(t, s, 2)
		if st := e.Status(); st.Running+st.Waiting != 4 {
			t.Errorf("%d run and %d wait", st.Running, st.Waiting)
		}
		s.Cancel()
		settled(t, e)
		for {
			ev, err := s.Next(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if ev.End == nil {
				continue
			}
			for i, end := range ev.End.Samples {
				if end.Reason != engine.StopCancelled {
					t.Errorf("answer %d: %+v", i, end)
				}
			}
			if len(ev.End.Samples) != 4 {
				t.Errorf("%+v", ev.End)
			}
			return
		}
	})
	t.Run("context", func(t *testing.T) {
		ctx, leave := context.WithCancel(t.Context())
		s, err := e.Submit(ctx, r)
		if err != nil {
			t.Fatal(err)
		}
		read(t, s, 1)
		leave()
		settled(t, e)
		if err := over(s); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
	t.Run("deadline", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		s, err := e.Submit(ctx, r)
		if err != nil {
			t.Fatal(err)
		}
		<-ctx.Done()
		settled(t, e)
		if err := over(s); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
	})
	t.Run("slow reader", func(t *testing.T) {
		e := loaded(t, engine.Config{StreamBuffer: 4, SlowReader: 100 * time.Millisecond})
		s := submit(t, e, r)
		settled(t, e)
		tokens := 0
		a, err := collectSamples(t, s, 4)
		for _, c := range a.each {
			tokens += len(c.ids)
		}
		if !errors.Is(err, engine.ErrSlowReader) || tokens > 4*4 {
			t.Errorf("%d tokens, then %v", tokens, err)
		}
	})
	if err := e.CheckSchedulers(); err != nil {
		t.Error(err)
	}
}

// A reader that lags gets every answer whole, its tokens in order.
func TestSamplesOfALaggingReader(t *testing.T) {
	e := loaded(t, engine.Config{StreamBuffer: 16, SlowReader: time.Hour})
	r := drawn("the sea is", 200)
	r.Samples = 3
	want := samples(t, e, r)
	s := submit(t, e, r)
	for e.Status().KVUsed == 0 || !e.Status().BusySince.IsZero() { // until it pauses
		time.Sleep(time.Millisecond)
	}
	got, err := collectSamples(t, s, 3)
	if err != nil {
		t.Fatal(err)
	}
	for i, c := range got.each {
		if !slices.Equal(c.ids, want.each[i].ids) || c.text != want.each[i].text {
			t.Errorf("answer %d: %v, want %v", i, c.ids, want.each[i].ids)
		}
	}
	settled(t, e)
}

// A request is admitted with all its answers or not at all, and what can never be
// admitted is invalid.
func TestSamplesAreAdmittedTogether(t *testing.T) {
	e := loaded(t, engine.Config{MaxConcurrent: 3, MaxQueue: 2, SlowReader: time.Hour})
	of := func(n int) engine.Request {
		r := drawn("the sea", 400)
		r.Samples = n
		return r
	}
	for _, n := range []int{-1, 6, engine.MaxSamples + 1} {
		var invalid *engine.InvalidError
		_, err := e.Submit(t.Context(), of(n))
		if !errors.As(err, &invalid) || len(invalid.Violations) != 1 || invalid.Violations[0].Field != "n" {
			t.Errorf("%d answers: %v", n, err)
		}
	}
	first := submit(t, e, of(3))
	if _, err := e.Submit(t.Context(), of(3)); !errors.Is(err, engine.ErrQueueFull) {
		t.Errorf("three more: %v", err)
	}
	second := submit(t, e, of(2))
	if _, err := e.Submit(t.Context(), of(1)); !errors.Is(err, engine.ErrQueueFull) {
		t.Errorf("one more: %v", err)
	}
	if st := e.Status(); st.Running+st.Waiting != 5 {
		t.Errorf("%d run and %d wait", st.Running, st.Waiting)
	}
	first.Cancel()
	second.Cancel()
	settled(t, e)
	all := of(5)
	all.MaxTokens = 3
	samples(t, e, all)
	settled(t, e)
	if got := e.Stats().Ended[engine.RequestCancelled].Load(); got != 5 {
		t.Errorf("%d answers were cancelled", got)
	}
}
