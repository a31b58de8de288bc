package engine_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"kigo/engine"
	"kigo/engine/device"
	"kigo/engine/device/cpu"
	"kigo/engine/device/scripted"
	"kigo/engine/sample"
)

// aheadOn is an engine with a model on a processor whose steps begin behind others.
func aheadOn(t *testing.T, cfg engine.Config, model engine.LoadRequest) (*engine.Engine, *scripted.Choosing) {
	t.Helper()
	on, err := cpu.New(cpu.Config{})
	if err != nil {
		t.Fatal(err)
	}
	dev := scripted.NewChoosing(on)
	if cfg.MaxContext == 0 {
		cfg.MaxContext = 512
	}
	return onProcessor(t, cfg, dev, model), dev
}

// onProcessor is an engine with a model on a device; on the processor itself without one.
func onProcessor(t *testing.T, cfg engine.Config, dev device.Device, model engine.LoadRequest) *engine.Engine {
	t.Helper()
	if dev == nil {
		var err error
		if dev, err = cpu.New(cpu.Config{}); err != nil {
			t.Fatal(err)
		}
	}
	e, err := engine.NewOn(cfg, dev)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
	if _, err := e.Load(t.Context(), model, nil); err != nil {
		t.Fatal(err)
	}
	return e
}

func tinyModel(t *testing.T) engine.LoadRequest {
	return engine.LoadRequest{Name: "tiny", File: tinyFile(t, 1)}
}

// foreseen has requests choose tokens in the ways with which a device can go on: the
// largest logit's with nothing barred, and with ends barred always or at first, and drawn
// ones.
func foreseen(requests []engine.Request) []engine.Request {
	for i := range requests {
		r := &requests[i]
		r.Logprobs, r.PromptLogprobs = -1, -1
		r.Sampling = sample.Params{TypicalP: 1, TopP: 1, RepetitionPenalty: 1, IgnoreEnd: i%3 == 1}
		if i%3 == 2 {
			r.Sampling.MinTokens = 4
		}
		if i%4 == 1 {
			r.Sampling.Temperature, r.Sampling.TopK, r.Sampling.Seed = 0.8, 40, uint64(i)
		}
		if i%7 == 3 {
			r.Stop = []string{"e "}
		}
	}
	return requests
}

// eachAlone is what requests say one at a time, when no step begins ahead.
func eachAlone(t *testing.T, e *engine.Engine, requests []engine.Request) (all []whole) {
	t.Helper()
	for _, r := range requests {
		w, err := readWhole(t.Context(), submit(t, e, r))
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, w)
	}
	return all
}

// Streams say what each says alone and waited for, token for token, while steps begin
// before the tokens are known with which they go on: with few blocks and many, prompts in
// chunks, blocks found in the prefix cache, and among requests for which every step is
// waited for.
func TestStepsAheadSayTheSame(t *testing.T) {
	models := map[string]func() engine.LoadRequest{"tiny": func() engine.LoadRequest { return tinyModel(t) }}
	if !raceEnabled {
		models["real"] = func() engine.LoadRequest { return engine.LoadRequest{Name: "smollm2", File: modelFile(t, smollm2)} }
	}
	for name, model := range models {
		t.Run(name, func(t *testing.T) {
			streams := 32
			if name == "tiny" {
				streams = 48
			}
			one := onProcessor(t, engine.Config{MaxConcurrent: 1, NoPrefixCache: true, MaxContext: 256}, nil, model())
			greedy, mixed := foreseen(companions(streams)), companions(streams)
			said, saidMixed := eachAlone(t, one, greedy), []whole(nil)
			if all := name == "tiny" || long(); all {
				saidMixed = eachAlone(t, one, mixed)
			}
			cfgs := []engine.Config{
				{MaxConcurrent: streams, ChunkRows: 24, CacheTokens: 24 * 16},
				{MaxConcurrent: streams / 2, ChunkRows: 5, NoPrefixCache: true},
				{MaxConcurrent: streams, CacheTokens: 100 * 16, ChunkRows: 1, StreamBuffer: 6},
			}
			if saidMixed == nil {
				cfgs = cfgs[:2]
			}
			for _, cfg := range cfgs {
				t.Run(fmt.Sprintf("%d streams, %d tokens, chunks of %d", cfg.MaxConcurrent, cfg.CacheTokens, cfg.ChunkRows), func(t *testing.T) {
					cfg.MaxContext = 256
					e, dev := aheadOn(t, cfg, model())
					together(t, e, greedy, said)
					if all, ahead := dev.Steps(); ahead < all/4 {
						t.Errorf("%d of %d steps began ahead", ahead, all)
					}
					if saidMixed != nil {
						together(t, e, mixed, saidMixed)
					}
				})
			}
		})
	}
}

// Nearly all steps of a request that is alone begin ahead, and are counted.
func TestStepsBeginAhead(t *testing.T) {
	e := paced(t, engine.Config{MaxConcurrent: 4}, scripted.Pace{Step: 100 * time.Microsecond})
	r := pacedRequest(0, 5, 0, 200)
	w, err := readWhole(t.Context(), submit(t, e, r))
	if err != nil || !slices.Equal(w.ids, pacedText(r.Tokens, 200)) {
		t.Errorf("%v, %v", w.ids, err)
	}
	s := e.Stats()
	if ahead := s.StepsAhead.Load(); ahead != 199 || s.Missed.Load() != 0 {
		t.Errorf("%d steps began ahead, %d tokens were missed", ahead, s.Missed.Load())
	}
	// So do those of one who draws, but not where what was drawn before matters.
	for i, penalty := range []float32{1, 1.5} {
		r = pacedRequest(1+i, 5, 0, 50)
		r.Sampling.Temperature, r.Sampling.TopK, r.Sampling.RepetitionPenalty, r.Sampling.IgnoreEnd = 0.001, 1, penalty, false
		w, err = readWhole(t.Context(), submit(t, e, r))
		if err != nil || !slices.Equal(w.ids, pacedText(r.Tokens, 50)) || s.StepsAhead.Load() != 199+49 || s.Missed.Load() != 0 {
			t.Errorf("%v, %v, %d steps began ahead", w.ids, err, s.StepsAhead.Load())
		}
	}
}

// A token that the device goes on with and that is barred is found out, and the right one
// takes its place: on a model that wants to end, as often as it does.
func TestMissedTokensAreComputedAgain(t *testing.T) {
	if raceEnabled {
		t.Skip("the tests of the real model run without the race detector")
	}
	model := func() engine.LoadRequest {
		return engine.LoadRequest{Name: "smollm2", File: modelFile(t, smollm2)}
	}
	one := onProcessor(t, engine.Config{MaxConcurrent: 1, NoPrefixCache: true, MaxContext: 256}, nil, model())
	var requests []engine.Request
	for i, text := range []string{"The capital of France is", "Hello!", "One, two, three.", "Yes or no?"} {
		r := greedy("<|im_start|>user\n"+text+"<|im_end|>\n<|im_start|>assistant\n", 60)
		r.ParseSpecial = true
		if i%2 == 1 {
			r.Sampling.IgnoreEnd, r.Sampling.MinTokens = false, 30
		}
		requests = append(requests, r)
	}
	said := eachAlone(t, one, requests)
	for _, cfg := range []engine.Config{{MaxConcurrent: 1}, {MaxConcurrent: 4, CacheTokens: 300}} {
		if cfg.MaxContext = 256; cfg.MaxConcurrent == 1 && !long() {
			continue
		}
		e, _ := aheadOn(t, cfg, model())
		together(t, e, requests, said)
		s := e.Stats()
		if missed, ahead := s.Missed.Load(), s.StepsAhead.Load(); missed == 0 || ahead < 20 {
			t.Errorf("%d tokens were missed, %d steps began ahead", missed, ahead)
		}
	}
}

// Streams that are cancelled, expire, or are not read while steps are under way leave
// nothing behind, and the others go on.
func TestLeavingWhileStepsAreUnderWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := paced(t, engine.Config{MaxConcurrent: 20, CacheTokens: 40 * 16, StreamBuffer: 8, SlowReader: 20 * time.Millisecond}, scripted.Pace{Step: 50 * time.Microsecond})
		var all sync.WaitGroup
		for i := range 120 {
			ctx, cancel := context.WithCancel(t.Context())
			if i%6 == 1 {
				ctx, cancel = context.WithTimeout(t.Context(), time.Duration(1+i)*100*time.Microsecond)
			}
			r := pacedRequest(i, 1+i*13%60, 0, 1+i*37%120)
			r.Samples = 1 + i/6%3
			s, err := e.Submit(ctx, r)
			if err != nil {
				cancel()
				continue // it is late already, or there is no room
			}
			all.Go(func() {
				defer cancel()
				want := pacedText(r.Tokens, r.MaxTokens)
				got, events := make([][]int32, r.Samples), 0
				for {
					ev, err := s.Next(t.Context())
					if err != nil || ev.End != nil {
						leaves := i%6 >= 1 && i%6 <= 3
						for _, got := range got {
							if !slices.Equal(got, want[:len(got)]) || !leaves && (err != nil || len(got) != len(want)) {
								t.Errorf("stream %d: %v (%v), want %v", i, got, err, want)
							}
						}
						return
					}
					got[ev.Tokens.Sample] = append(got[ev.Tokens.Sample], ev.Tokens.IDs...)
					switch events++; {
					case i%6 == 2 && events > i%10:
						s.Cancel()
					case i%6 == 3 && events == 2:
						time.Sleep(40 * time.Millisecond) // longer than SlowReader
					}
				}
			})
		}
		all.Wait()
		settled(t, e)
		if err := e.CheckSchedulers(); err != nil {
			t.Error(err)
		}
		if e.Stats().StepsAhead.Load() == 0 {
			t.Error("no step began ahead")
		}
	})
}

// A reader that does not read has no more tokens kept for it than there is room for,
// however many are on their way, of how many answers.
func TestBufferHoldsWithStepsAhead(t *testing.T) {
	for i := range 21 {
		buffer, answers := []int{1, 2, 4, 5, 6, 7, 16}[i/3], []int{1, 2, 5}[i%3]
		e := paced(t, engine.Config{MaxConcurrent: 6, StreamBuffer: buffer, SlowReader: time.Hour}, scripted.Pace{Step: 20 * time.Microsecond})
		r := pacedRequest(0, 40, 0, 300)
		r.Samples = answers
		s := submit(t, e, r)
		other := pacedRequest(1, 5, 0, 100)
		if w, err := readWhole(t.Context(), submit(t, e, other)); err != nil || !slices.Equal(w.ids, pacedText(other.Tokens, 100)) {
			t.Errorf("buffer of %d: %v, %v", buffer, w.ids, err)
		}
		if held, most := e.Status().Tokens-100, max(buffer, buffer/2+2)*answers; held > uint64(most) {
			t.Errorf("%d tokens of %d answers are held in a buffer of %d", held, answers, buffer)
		}
		s.Cancel()
		settled(t, e)
	}
}

// A step that fails ends the sequences of the one that has begun behind it, too; whoever
// comes then is served. It fails when it begins, or when it is waited for.
func TestFailureWithAStepBehind(t *testing.T) {
	for _, call := range []string{"Run", "Largest"} {
		t.Run(call, func(t *testing.T) {
			var fail atomic.Bool
			e := scriptedWaits(t, engine.Config{MaxConcurrent: 10}, scripted.Pace{Step: time.Millisecond}, func(c string, _ int) error {
				if c == call && fail.CompareAndSwap(true, false) {
					return device.ErrOutOfMemory
				}
				return nil
			})
			var in []*engine.Stream
			for i := range 4 {
				r := pacedRequest(i, 10, 0, 400)
				r.Samples = 1 + i
				in = append(in, submit(t, e, r))
			}
			for e.Status().Tokens < 20 {
				time.Sleep(time.Millisecond)
			}
			behind := pacedRequest(9, 10, 0, 30)
			queued := submit(t, e, behind)
			fail.Store(true)
			for i, s := range in {
				each, err := readSamples(t, s, 1+i)
				for _, w := range each {
					if r := pacedRequest(i, 10, 0, 400); !errors.Is(err, engine.ErrInternal) || !slices.Equal(w.ids, pacedText(r.Tokens, len(w.ids))) {
						t.Errorf("stream %d: %v, %v", i, w.ids, err)
					}
				}
			}
			if w, err := readWhole(t.Context(), queued); err != nil || !slices.Equal(w.ids, pacedText(behind.Tokens, 30)) {
				t.Errorf("the one behind them: %v, %v", w.ids, err)
			}
			settled(t, e)
			if err := errors.Join(e.CheckSchedulers(), e.Close()); err != nil {
				t.Error(err)
			}
		})
	}
}

// Models come and go while steps are under way: each request is answered by the model that
// it was for, and no model is freed, nor its cache changed, beside a step.
func TestLoadsWhileStepsAreUnderWay(t *testing.T) {
	on, err := cpu.New(cpu.Config{Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	dev := scripted.NewPaced(on, scripted.Pace{Step: 200 * time.Microsecond, Next: pacedNext})
	e, err := engine.NewOn(engine.Config{MaxConcurrent: 8, MaxContext: 512}, dev)
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	stop := make(chan struct{})
	for i := range 6 {
		all.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				r := pacedRequest(i, 10+n%30, 0, 20+n%50)
				s, err := e.Submit(t.Context(), r)
				if errors.Is(err, engine.ErrNoModel) {
					continue
				}
				if err != nil {
					t.Error(err)
					return
				}
				if w, err := readWhole(t.Context(), s); err != nil && !errors.Is(err, engine.ErrUnloaded) || !slices.Equal(w.ids, pacedText(r.Tokens, len(w.ids))) {
					t.Errorf("%v, %v", w.ids, err)
				}
			}
		})
	}
	for i := range 10 {
		loadTiny(t, e, fmt.Sprint("tiny", i), 1, true)
		if i%3 == 2 {
			if err := e.Unload(t.Context(), fmt.Sprint("tiny", i)); err != nil {
				t.Error(err)
			}
		}
	}
	close(stop)
	all.Wait()
	settled(t, e)
	if err := e.Close(); err != nil {
		t.Error(err)
	}
	if dev.Ahead() == 0 || dev.Beside() != 0 {
		t.Errorf("%d steps began ahead; a model came or went beside a step %d times", dev.Ahead(), dev.Beside())
	}
}
