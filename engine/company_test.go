package engine_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"kigo/engine"
	"kigo/engine/device/cpu"
	"kigo/engine/device/scripted"
)

// long says that the tests run in their full sizes.
func long() bool { return os.Getenv("KIGO_TEST_LONG") != "" }

// companions are requests of every kind: short and long prompts, some with a common
// beginning, greedy and drawn, with probabilities and without. The first ones grow by
// several blocks after they were let in, so that with few blocks somebody has to go.
func companions(n int) []engine.Request {
	system := "You are a careful gardener. Answer in one short sentence, name the season, and never repeat yourself. "
	var all []engine.Request
	for i := range n {
		text := fmt.Sprintf("Number %d: the capital of France is", i)
		tokens := 8 + i%9
		switch {
		case i < n/4:
			tokens = 70
		case i%4 == 1:
			text = system + fmt.Sprintf("Question %d: when do I plant a tulip?", i/8)
		case i%4 == 2:
			text = strings.Repeat("The old pond. A frog jumps in. ", 1+i%7) + "And then"
		case i%4 == 3:
			text = system + "Question: why?"
		}
		r := greedy(text, tokens)
		if i%3 == 1 {
			r.Sampling.Temperature, r.Sampling.TopK, r.Sampling.Seed = 0.8, 40, uint64(i)
		}
		if i%5 == 2 {
			r.Sampling.Temperature, r.Sampling.TopP, r.Sampling.RepetitionPenalty, r.Sampling.Seed = 1, 0.9, 1.1, uint64(i)
		}
		if i%8 == 4 {
			r.Logprobs = 2
		}
		if i%16 == 7 {
			r.PromptLogprobs = 1
		}
		all = append(all, r)
	}
	return all
}

// whole is all that a stream says, and how it ended.
type whole struct {
	ids      []int32
	text     string
	logprobs []engine.TokenLogprob
	prompt   []engine.TokenLogprob
	reason   engine.StopReason
}

func readWhole(ctx context.Context, s *engine.Stream) (w whole, err error) {
	for {
		ev, err := s.Next(ctx)
		switch {
		case err != nil:
			return w, err
		case ev.End != nil:
			w.reason = ev.End.Reason
			return w, nil
		case ev.Prompt != nil:
			w.prompt = ev.Prompt
		default:
			w.ids = append(w.ids, ev.Tokens.IDs...)
			w.text += ev.Tokens.Text
			w.logprobs = append(w.logprobs, ev.Tokens.Logprobs...)
		}
	}
}

// together runs requests at one time and compares each with what it said alone.
func together(t *testing.T, e *engine.Engine, requests []engine.Request, alone []whole) {
	t.Helper()
	var all sync.WaitGroup
	for i, r := range requests {
		s := submit(t, e, r)
		all.Go(func() {
			got, err := readWhole(t.Context(), s)
			if err != nil || !reflect.DeepEqual(got, alone[i]) {
				t.Errorf("request %d in company: %+v (%v), alone %+v", i, got, err, alone[i])
			}
		})
	}
	all.Wait()
	settled(t, e)
	if err := e.CheckSchedulers(); err != nil {
		t.Error(err)
	}
}

// Thirty-two streams of a real model say what each says alone, token for token and
// probability for probability: with prompts in chunks of several sizes, with so few
// KV blocks that sequences are preempted and computed again, with blocks found in
// the prefix cache and without.
func TestSameTokensInAnyCompany(t *testing.T) {
	if raceEnabled {
		t.Skip("the tests of the real model run without the race detector")
	}
	const streams = 32
	requests := companions(streams)
	open := func(cfg engine.Config) *engine.Engine {
		cfg.MaxContext = 256
		e := newEngine(t, cfg)
		if _, err := e.Load(t.Context(), engine.LoadRequest{Name: "smollm2", File: modelFile(t, smollm2)}, nil); err != nil {
			t.Fatal(err)
		}
		return e
	}
	one := open(engine.Config{MaxConcurrent: 1, NoPrefixCache: true})
	var alone []whole
	for _, r := range requests {
		w, err := readWhole(t.Context(), submit(t, one, r))
		if err != nil {
			t.Fatal(err)
		}
		alone = append(alone, w)
	}
	const few = 24 // blocks; all streams together want several times as many
	type variant struct {
		chunk, blocks int
		uncached      bool
	}
	variants := []variant{{chunk: 24, blocks: few}, {chunk: 5, uncached: true}}
	if long() {
		variants = nil
		for _, chunk := range []int{1, 16, 50, 256} {
			for _, blocks := range []int{0, few} {
				variants = append(variants, variant{chunk, blocks, false}, variant{chunk, blocks, true})
			}
		}
	}
	for _, v := range variants {
		t.Run(fmt.Sprintf("%+v", v), func(t *testing.T) {
			e := open(engine.Config{MaxConcurrent: streams, ChunkRows: v.chunk, CacheTokens: v.blocks * 16, NoPrefixCache: v.uncached})
			together(t, e, requests, alone)
			if !v.uncached {
				together(t, e, requests, alone) // which finds what the first time has left
			}
			stats := e.SchedulerStats()
			if preempted := stats.Preempted > 0; preempted != (v.blocks > 0) {
				t.Errorf("%d sequences were preempted", stats.Preempted)
			}
			if reused := stats.Reused > 0; reused == v.uncached {
				t.Errorf("%d rows were found in the cache", stats.Reused)
			}
			if stats.Rows < 2*stats.Steps {
				t.Errorf("%d rows in %d steps: they were not served together", stats.Rows, stats.Steps)
			}
		})
	}
}

// The same of a tiny model, on the tests' device and under the race detector, too.
func TestTinyModelSaysTheSameInAnyCompany(t *testing.T) {
	requests := companions(48)
	load := func(cfg engine.Config) *engine.Engine { return loaded(t, cfg) }
	one := load(engine.Config{MaxConcurrent: 1, NoPrefixCache: true})
	var alone []whole
	for _, r := range requests {
		w, err := readWhole(t.Context(), submit(t, one, r))
		if err != nil {
			t.Fatal(err)
		}
		alone = append(alone, w)
	}
	for _, cfg := range []engine.Config{
		{MaxConcurrent: 48},
		{MaxConcurrent: 48, CacheTokens: 64 * 16, ChunkRows: 100},
		{MaxConcurrent: 20, CacheTokens: 40 * 16, ChunkRows: 7, NoPrefixCache: true},
		{MaxConcurrent: 48, CacheTokens: 100 * 16, ChunkRows: 1, StreamBuffer: 2},
	} {
		t.Run(fmt.Sprintf("%d streams, %d tokens, chunks of %d", cfg.MaxConcurrent, cfg.CacheTokens, cfg.ChunkRows), func(t *testing.T) {
			together(t, load(cfg), requests, alone)
		})
	}
}

// paced is an engine with the tiny model's tokenizer on a device that computes
// nothing; its tokens tell whether each row found its own past.
func paced(t testing.TB, cfg engine.Config, pace scripted.Pace) *engine.Engine {
	t.Helper()
	on, err := cpu.New(cpu.Config{Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	pace.Next = pacedNext
	cfg.MaxContext = 512
	e, err := engine.NewOn(cfg, scripted.NewPaced(on, pace))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
	if _, err := e.Load(t.Context(), engine.LoadRequest{Name: "tiny", File: tinyFile(t, 1)}, nil); err != nil {
		t.Fatal(err)
	}
	return e
}

// pacedNext is a token that ends nothing, of the tiny model's.
func pacedNext(hash uint64) int32 { return int32(32 + hash%90) }

// pacedText is what a paced device says after a prompt.
func pacedText(prompt []int32, n int) []int32 {
	text := slices.Clone(prompt)
	for range n {
		text = append(text, pacedNext(scripted.Hash(text)))
	}
	return text[len(prompt):]
}

// pacedRequest asks for n tokens after a prompt of so many; the first same of them
// are those of all requests.
func pacedRequest(i, prompt, same, n int) engine.Request {
	r := greedy("", n)
	for j := range prompt {
		token := 40 + j%50
		if j >= same {
			token = 33 + (i*7+j*j)%200
		}
		r.Tokens = append(r.Tokens, int32(token))
	}
	return r
}

// Hundreds of streams of all lengths that come and go, on few blocks, with common
// beginnings: each finds its own past in every row.
func TestEveryRowFindsItsPast(t *testing.T) {
	for _, cfg := range []engine.Config{
		{MaxConcurrent: 100, MaxQueue: 400, CacheTokens: 90 * 16, ChunkRows: 64},
		{MaxConcurrent: 300, MaxQueue: 200, CacheTokens: 150 * 16, ChunkRows: 7},
		{MaxConcurrent: 10, MaxQueue: 500, CacheTokens: 4000 * 16, ChunkRows: 512, NoPrefixCache: true},
		{MaxConcurrent: 200, MaxQueue: 500, ChunkRows: 128, StreamBuffer: 3},
	} {
		t.Run(fmt.Sprintf("%d streams, %d blocks", cfg.MaxConcurrent, cfg.CacheTokens/16), func(t *testing.T) {
			e := paced(t, cfg, scripted.Pace{Step: 50 * time.Microsecond})
			const requests = 250
			var all sync.WaitGroup
			for i := range requests {
				all.Go(func() {
					r := pacedRequest(i, 1+i*13%150, i%3*20, 1+i*37%200)
					r.Priority = i%8 - 4
					r.Tenant = []string{"", "a", "b"}[i%3]
					s, err := e.Submit(t.Context(), r)
					if err != nil {
						t.Errorf("request %d: %v", i, err)
						return
					}
					got, err := readWhole(t.Context(), s)
					if want := pacedText(r.Tokens, r.MaxTokens); err != nil || !slices.Equal(got.ids, want) {
						t.Errorf("request %d: %v (%v), want %v", i, got.ids, err, want)
					}
				})
			}
			all.Wait()
			if s := settled(t, e); s.Tokens == 0 {
				t.Errorf("status %+v", s)
			}
			if err := e.CheckSchedulers(); err != nil {
				t.Error(err)
			}
			stats := e.SchedulerStats()
			if few := cfg.MaxConcurrent > 50; few != (stats.Preempted > 0) {
				t.Errorf("stats %+v", stats)
			}
		})
	}
}

func TestPriorityComesFirst(t *testing.T) {
	e := paced(t, engine.Config{MaxConcurrent: 1, StreamBuffer: 4, SlowReader: time.Hour}, scripted.Pace{Step: time.Millisecond})
	front := submit(t, e, pacedRequest(0, 3, 0, 50)) // nobody reads, so that it keeps its place
	for e.Status().Tokens < 3 {
		time.Sleep(time.Millisecond)
	}
	ends := make(chan int, 3)
	for _, priority := range []int{0, -4, 3} {
		r := pacedRequest(priority, 5, 0, 30) // long enough that none overtakes on its way to the reader
		r.Priority = priority
		s := submit(t, e, r)
		go func() {
			if _, err := readWhole(t.Context(), s); err != nil {
				t.Error(err)
			}
			ends <- priority
		}()
	}
	front.Cancel()
	if first, second, third := <-ends, <-ends, <-ends; first != 3 || second != 0 || third != -4 {
		t.Errorf("priorities ended in the order %d, %d, %d", first, second, third)
	}
	r := pacedRequest(0, 5, 0, 2)
	r.Priority = 4
	var invalid *engine.InvalidError
	if _, err := e.Submit(t.Context(), r); !errors.As(err, &invalid) || invalid.Violations[0].Field != "priority" {
		t.Errorf("priority 4: %v", err)
	}
}

// A request whose first token cannot come before its deadline is told at once, and
// costs no row.
func TestTooLateIsRefused(t *testing.T) {
	e := paced(t, engine.Config{MaxConcurrent: 2, ChunkRows: 8}, scripted.Pace{Step: 20 * time.Millisecond, Rows: 8})
	if _, err := readWhole(t.Context(), submit(t, e, pacedRequest(0, 40, 0, 20))); err != nil {
		t.Fatal(err)
	}
	settled(t, e)
	before := e.SchedulerStats()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	s, err := e.Submit(ctx, pacedRequest(1, 500, 0, 5)) // fifty steps of prompt
	if err != nil {
		t.Fatal(err)
	}
	if w, err := readWhole(t.Context(), s); !errors.Is(err, context.DeadlineExceeded) || len(w.ids) != 0 {
		t.Errorf("%+v, %v", w, err)
	}
	if ctx.Err() != nil {
		t.Error("it was told after its deadline")
	}
	if after := e.SchedulerStats(); after.Rows != before.Rows {
		t.Errorf("%d rows were computed for it", after.Rows-before.Rows)
	}
}

// A reader that is behind gets several tokens in one event, all of them, in order.
func TestEventsComeTogetherForALateReader(t *testing.T) {
	e := paced(t, engine.Config{MaxConcurrent: 1, SlowReader: time.Hour}, scripted.Pace{})
	r := pacedRequest(0, 5, 0, 60)
	s := submit(t, e, r)
	for e.Running(s) {
		time.Sleep(time.Millisecond)
	}
	var ids []int32
	events := 0
	for {
		ev, err := s.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if ev.End != nil {
			break
		}
		if ev.Tokens.Index != len(ids) {
			t.Errorf("tokens at %d after %d", ev.Tokens.Index, len(ids))
		}
		ids = append(ids, ev.Tokens.IDs...)
		events++
	}
	if !slices.Equal(ids, pacedText(r.Tokens, r.MaxTokens)) || events != 32 {
		t.Errorf("%d events with %v", events, ids)
	}
}
