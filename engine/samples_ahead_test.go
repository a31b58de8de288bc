package engine_test

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"

	"kigo/engine"
)

// oneByOne is what each answer to a request is when it is asked for alone, with its seed.
func oneByOne(t *testing.T, e *engine.Engine, r engine.Request) (each []whole) {
	t.Helper()
	for i := range r.Samples {
		one := r
		one.Samples, one.Sampling.Seed = 1, r.Sampling.Seed+uint64(i)
		each = append(each, eachAlone(t, e, []engine.Request{one})...)
	}
	return each
}

// Several answers to one prompt are what each of them is alone and waited for, while steps
// begin before the last tokens are known: prompts of less than a block and of several that
// are shared, in chunks; answers that take the largest logits and drawn ones, of which the
// device leaves some to the host, so that one answer misses a token and the others do not;
// answers that end by themselves while the next step is under way; more of them than there
// are places or blocks for.
func TestSamplesAheadSayTheSame(t *testing.T) {
	var requests []engine.Request
	for i, text := range []string{"x", "the sea is", strings.Repeat("the sea is ", 12), strings.Repeat("a sea was ", 9)} {
		for _, temperature := range []float32{0, 1} {
			r := greedy(text, 20+7*i)
			r.Samples, r.Sampling.Temperature, r.Sampling.Seed = 2+i, temperature, uint64(40+i)
			requests = append(requests, r)
		}
	}
	requests[1].Stop, requests[5].Stop = []string{"e"}, []string{"a"}
	requests[3].Sampling.IgnoreEnd, requests[3].Sampling.MinTokens = false, 4
	one := onProcessor(t, engine.Config{MaxConcurrent: 1, NoPrefixCache: true, MaxContext: 256}, nil, tinyModel(t))
	var said [][]whole
	for _, r := range requests {
		said = append(said, oneByOne(t, one, r))
	}
	for _, cfg := range []engine.Config{
		{MaxConcurrent: 64},
		{MaxConcurrent: 3, MaxQueue: 64, NoPrefixCache: true, ChunkRows: 5},
		{MaxConcurrent: 16, MaxQueue: 64, CacheTokens: 20 * 16, ChunkRows: 7, StreamBuffer: 5},
	} {
		t.Run(fmt.Sprintf("%d places, %d tokens", cfg.MaxConcurrent, cfg.CacheTokens), func(t *testing.T) {
			cfg.MaxContext = 256
			e, dev := aheadOn(t, cfg, tinyModel(t))
			check := func(i int, s *engine.Stream) {
				if got, err := readSamples(t, s, requests[i].Samples); err != nil || !reflect.DeepEqual(got, said[i]) {
					t.Errorf("request %d: %+v (%v), each alone %+v", i, got, err, said[i])
				}
			}
			for i, r := range requests {
				_, before := dev.Steps()
				check(i, submit(t, e, r))
				if _, after := dev.Steps(); after-before < 5 {
					t.Errorf("request %d alone: %d steps began ahead", i, after-before)
				}
			}
			var all sync.WaitGroup
			for i, r := range requests {
				s := submit(t, e, r)
				all.Go(func() { check(i, s) })
			}
			all.Wait()
			settled(t, e)
			if e.Stats().Missed.Load() == 0 {
				t.Error("no token was missed")
			}
			if err := e.CheckSchedulers(); err != nil {
				t.Error(err)
			}
		})
	}
}

// readSamples reads a stream of n answers to its end. What it has read by then is given
// with an error, too.
func readSamples(t *testing.T, s *engine.Stream, n int) ([]whole, error) {
	each := make([]whole, n)
	for {
		ev, err := s.Next(t.Context())
		switch {
		case err != nil:
			return each, err
		case ev.End != nil:
			for i, end := range ev.End.Answers() {
				each[i].reason = end.Reason
			}
			return each, nil
		default:
			w := &each[ev.Tokens.Sample]
			if ev.Tokens.Index != len(w.ids) {
				return each, fmt.Errorf("tokens at index %d after %d", ev.Tokens.Index, len(w.ids))
			}
			w.ids = append(w.ids, ev.Tokens.IDs...)
			w.text += ev.Tokens.Text
		}
	}
}

// All answers of a stream that is cancelled leave the steps under way together, and those of other streams go on.
func TestSamplesLeaveStepsUnderWay(t *testing.T) {
	e, dev := aheadOn(t, engine.Config{MaxConcurrent: 16}, tinyModel(t))
	r := greedy(strings.Repeat("the sea is ", 8), 60)
	r.Samples, r.Sampling.Seed = 3, 5
	want := oneByOne(t, e, r)
	var all sync.WaitGroup
	for i := range 12 {
		s := submit(t, e, r)
		all.Go(func() {
			if i%2 == 0 {
				if got, err := readSamples(t, s, 3); err != nil || !reflect.DeepEqual(got, want) {
					t.Errorf("stream %d: %+v (%v), want %+v", i, got, err, want)
				}
				return
			}
			for range i {
				if _, err := s.Next(t.Context()); err != nil {
					t.Error(err)
				}
			}
			s.Cancel()
			if got, err := readSamples(t, s, 3); err == nil && slices.ContainsFunc(got, func(w whole) bool { return w.reason != engine.StopCancelled }) {
				t.Errorf("stream %d: %+v", i, got)
			}
		})
	}
	all.Wait()
	settled(t, e)
	if err := e.CheckSchedulers(); err != nil {
		t.Error(err)
	}
	if _, ahead := dev.Steps(); ahead == 0 {
		t.Error("no step began ahead")
	}
}
