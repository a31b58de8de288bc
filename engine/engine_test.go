package engine_test

import (
	"context"
	"errors"
	"io"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"kigo/engine"
	"kigo/engine/chat"
	"kigo/engine/device/devices"
	"kigo/engine/device/scripted"
	"kigo/engine/sample"
	"kigo/engine/testenv"
)

func TestGenerate(t *testing.T) {
	e := real(t)
	got := run(t, e, greedy("The capital of France is", 8))
	if !strings.Contains(got.text, "Paris") {
		t.Errorf("text %q", got.text)
	}
	if len(got.ids) != 8 || got.end.Reason != engine.StopMaxTokens || got.end.GeneratedTokens != 8 || got.end.PromptTokens != 5 {
		t.Errorf("ids %v, end %+v", got.ids, got.end)
	}
	if got.events != 8 {
		t.Errorf("%d events for 8 tokens: tokens must arrive as they are made", got.events)
	}
	s := settled(t, e)
	if s.Tokens != 8 || s.Steps != 8 {
		t.Errorf("status %+v", s)
	}
}

func TestLoadReportsAndDescribes(t *testing.T) {
	e := newEngine(t, engine.Config{})
	if s := e.Status(); s.State != engine.StateEmpty || s.Model != nil {
		t.Errorf("before the load: %+v", s)
	}
	changed := e.Changed()
	var stages []engine.LoadStage
	var last engine.LoadProgress
	info, err := e.Load(t.Context(), engine.LoadRequest{Name: "m", File: modelFile(t, smollm2)}, func(p engine.LoadProgress) {
		if p.BytesDone < last.BytesDone || p.TensorsDone < last.TensorsDone {
			t.Errorf("progress goes back: %+v after %+v", p, last)
		}
		last = p
		if !slices.Contains(stages, p.Stage) {
			stages = append(stages, p.Stage)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	want := []engine.LoadStage{engine.StageParse, engine.StageRead, engine.StageVerify, engine.StageCompile, engine.StageWarmUp, engine.StageDone}
	if !slices.Equal(stages, want) || last.BytesDone != last.BytesTotal || last.TensorsDone != 272 {
		t.Errorf("stages %v, last %+v", stages, last)
	}
	if info.Architecture != "llama" || info.Parameters != 134515008 || info.Quantization != "Q4_1, Q8_0" ||
		info.Vocabulary != 49152 || !info.Verified || info.ContextLength != 512 || info.TrainContext != 8192 {
		t.Errorf("info %+v", info)
	}
	select {
	case <-changed:
	default:
		t.Error("no change of state was announced")
	}
	if s := e.Status(); s.State != engine.StateReady || s.Model.Name != "m" {
		t.Errorf("after the load: %+v", s)
	}
}

// Several requests take turns, and each gets what it gets alone.
func TestConcurrentRequestsAreIndependent(t *testing.T) {
	e := loaded(t, engine.Config{MaxConcurrent: 3})
	prompts := []string{"The sea is", "Once upon a time", "def fibonacci(n):", "Die Hauptstadt von Deutschland ist", "1, 2, 3, 4,"}
	var alone []collected
	for _, p := range prompts {
		alone = append(alone, run(t, e, greedy(p, 10)))
	}
	var wait sync.WaitGroup
	for i, p := range prompts {
		wait.Go(func() {
			s, err := e.Submit(t.Context(), greedy(p, 10))
			if err != nil {
				t.Error(err)
				return
			}
			got, err := collect(t, s)
			if err != nil || !slices.Equal(got.ids, alone[i].ids) {
				t.Errorf("%q: %v beside others, %v alone (%v)", p, got.ids, alone[i].ids, err)
			}
		})
	}
	wait.Wait()
	settled(t, e)
}

func TestLesson_SameSeedSameTextAnotherSeedAnotherText(t *testing.T) {
	e := loaded(t, engine.Config{})
	with := func(seed uint64) []int32 {
		r := greedy("My favourite animal is", 12)
		r.Sampling.Temperature, r.Sampling.Seed = 1, seed
		return run(t, e, r).ids
	}
	a, again, b := with(1), with(1), with(2)
	if !slices.Equal(a, again) {
		t.Errorf("seed 1 gave %v and %v", a, again)
	}
	if slices.Equal(a, b) {
		t.Errorf("seeds 1 and 2 both gave %v", a)
	}
}

func TestLesson_FirstTokenArrivesBeforeTheLastIsGenerated(t *testing.T) {
	e := loaded(t, engine.Config{StreamBuffer: 4})
	before := e.Status().Tokens
	s := submit(t, e, greedy("One, two, three,", 100))
	if _, err := s.Next(t.Context()); err != nil {
		t.Fatal(err)
	}
	// Four events fit the buffer, and one the reader has.
	if n := e.Status().Tokens - before; n > 6 {
		t.Errorf("%d tokens were generated when the first arrived", n)
	}
	s.Cancel()
	settled(t, e)
}

// pacedEngine has the tiny model on a device whose steps take as long as a large
// model's, so that a test sees what happens between two of them.
func pacedEngine(t *testing.T) *engine.Engine {
	t.Helper()
	dev, _, err := devices.Open(devices.Options{Name: testenv.Device(t)})
	if err != nil {
		t.Fatal(err)
	}
	e, err := engine.NewOn(engine.Config{MaxContext: 512}, scripted.New(dev, func(call string, _ int) error {
		if call == "Run" {
			time.Sleep(10 * time.Millisecond)
		}
		return nil
	}))
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

func TestLesson_CancelStopsTheSteps(t *testing.T) {
	for _, tc := range []struct {
		name   string
		stop   func(e *engine.Engine, s *engine.Stream, cancel context.CancelFunc)
		reason engine.StopReason
		err    error
	}{
		{"stream", func(_ *engine.Engine, s *engine.Stream, _ context.CancelFunc) { s.Cancel() }, engine.StopCancelled, nil},
		{"request id", func(e *engine.Engine, s *engine.Stream, _ context.CancelFunc) {
			if err := e.Cancel(s.Started().ID); err != nil {
				t.Error(err)
			}
		}, engine.StopCancelled, nil},
		{"context", func(_ *engine.Engine, _ *engine.Stream, cancel context.CancelFunc) { cancel() }, 0, context.Canceled},
	} {
		t.Run(tc.name, func(t *testing.T) {
			e := pacedEngine(t)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			s, err := e.Submit(ctx, greedy("Count:", 400))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := s.Next(t.Context()); err != nil {
				t.Fatal(err)
			}
			tc.stop(e, s, cancel)
			at := e.Status().Steps
			after := settled(t, e).Steps
			if after > at+2 { // the step in flight and the one that may have begun
				t.Errorf("%d steps after the cancel", after-at)
			}
			var end *engine.End
			for {
				ev, err := s.Next(t.Context())
				if ev.End != nil {
					end = ev.End
				}
				if err != nil {
					if tc.err != nil && !errors.Is(err, tc.err) || tc.err == nil && !errors.Is(err, io.EOF) {
						t.Errorf("ended with %v, want %v", err, tc.err)
					}
					break
				}
			}
			if tc.err == nil && (end == nil || end.Reason != tc.reason) {
				t.Errorf("end %+v", end)
			}
			if err := e.Cancel(s.Started().ID); !errors.Is(err, engine.ErrUnknownRequest) {
				t.Errorf("cancelling what has ended: %v", err)
			}
		})
	}
}

func TestDeadlineEndsTheStream(t *testing.T) {
	e := loaded(t, engine.Config{})
	expired, cancel := context.WithDeadline(t.Context(), time.Now().Add(-time.Second))
	defer cancel()
	before := e.Status().Steps
	if _, err := e.Submit(expired, greedy("x", 5)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("expired on arrival: %v", err)
	}
	if after := e.Status().Steps; after != before {
		t.Errorf("an expired request cost %d steps", after-before)
	}
	// A stream that nobody reads pauses, so that it is still there when its
	// deadline comes.
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	s, err := e.Submit(ctx, greedy("x", 400))
	if err != nil {
		t.Fatal(err)
	}
	<-ctx.Done()
	settled(t, e)
	if c, err := collect(t, s); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%d tokens, then %v", len(c.ids), err)
	}
}

func TestSlowReaderIsPausedThenEnded(t *testing.T) {
	e := loaded(t, engine.Config{StreamBuffer: 4, SlowReader: 100 * time.Millisecond})
	idle := submit(t, e, greedy("Never read:", 300))
	// A neighbour is served meanwhile.
	if c := run(t, e, greedy("The sea is", 20)); len(c.ids) != 20 {
		t.Errorf("the neighbour got %d tokens", len(c.ids))
	}
	settled(t, e)
	if c, err := collect(t, idle); !errors.Is(err, engine.ErrSlowReader) || len(c.ids) != 4 {
		t.Errorf("%d tokens, then %v", len(c.ids), err)
	}
	// One that reads again in time goes on where it was.
	want := run(t, e, greedy("The sun is", 30)).ids
	s := submit(t, e, greedy("The sun is", 30))
	for e.Status().KVUsed == 0 || !e.Status().BusySince.IsZero() {
		time.Sleep(time.Millisecond)
	}
	if c, err := collect(t, s); err != nil || !slices.Equal(c.ids, want) {
		t.Errorf("after a pause: %v, want %v (%v)", c.ids, want, err)
	}
}

func TestQueueIsBounded(t *testing.T) {
	// Nobody reads the first, so that it pauses and keeps its place.
	e := loaded(t, engine.Config{MaxConcurrent: 1, MaxQueue: 1, StreamBuffer: 4})
	a, b := submit(t, e, greedy("a", 50)), submit(t, e, greedy("b", 2))
	_, err := e.Submit(t.Context(), greedy("c", 2))
	var retry *engine.RetryError
	if !errors.Is(err, engine.ErrQueueFull) || !errors.As(err, &retry) || retry.After <= 0 {
		t.Errorf("third request: %v", err)
	}
	if s := e.Status(); s.Running+s.Waiting != 2 {
		t.Errorf("status %+v", s)
	}
	a.Cancel()
	if c, err := collect(t, b); err != nil || len(c.ids) != 2 {
		t.Errorf("%+v, %v", c, err)
	}
	settled(t, e)
}

func TestStops(t *testing.T) {
	e := real(t)
	plain := run(t, e, greedy("The capital of France is", 12))
	third := plain.ids[2]
	r := greedy("The capital of France is", 12)
	r.Stop = []string{"zzz", "aris"}
	got := run(t, e, r)
	if got.end.Reason != engine.StopSequence || got.end.StopText != "aris" || got.text != plain.text[:strings.Index(plain.text, "aris")] {
		t.Errorf("stop string: text %q, end %+v", got.text, got.end)
	}
	r = greedy("The capital of France is", 12)
	r.StopIDs = []int32{third}
	got = run(t, e, r)
	if got.end.Reason != engine.StopSequence || got.end.StopID != third || !slices.Equal(got.ids, plain.ids[:2]) {
		t.Errorf("stop id: ids %v, end %+v", got.ids, got.end)
	}
	// What may be the beginning of a stop string is held back, and given at
	// the end when it was not one.
	r = greedy("The capital of France is", 12)
	r.Stop = []string{plain.text[len(plain.text)-3:] + "never"}
	if got = run(t, e, r); got.text != plain.text {
		t.Errorf("text %q, want %q", got.text, plain.text)
	}
}

func TestChatEndsByItself(t *testing.T) {
	e := real(t)
	r := greedy("", 200)
	r.Sampling.IgnoreEnd = false
	r.Messages = []chat.Message{{Role: "user", Content: "What is the capital of France? Answer in one word."}}
	got := run(t, e, r)
	if got.end.Reason != engine.StopEnd || got.end.StopID != 2 || !strings.Contains(got.text, "Paris") {
		t.Errorf("text %q, end %+v", got.text, got.end)
	}
	if strings.Contains(got.text, "<|im_end|>") || slices.Contains(got.ids, 2) {
		t.Errorf("the end token was given out: %q %v", got.text, got.ids)
	}
}

func TestLogprobs(t *testing.T) {
	e := real(t)
	r := greedy("The capital of France is", 3)
	r.Logprobs = 2
	s := submit(t, e, r)
	ev, err := s.Next(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	p := ev.Tokens.Logprobs
	if len(p) != 1 || p[0].ID != ev.Tokens.IDs[0] || string(p[0].Bytes) != " Paris" || len(p[0].Top) != 2 ||
		p[0].Top[0].ID != p[0].ID || p[0].Logprob > 0 || p[0].Top[1].Logprob > p[0].Top[0].Logprob {
		t.Errorf("logprobs %+v", p)
	}
	s.Cancel()
}

// The prompt's probabilities are those that generating it would report, in
// chunks or not.
func TestPromptLogprobs(t *testing.T) {
	e := loaded(t, engine.Config{})
	r := greedy("", 40)
	r.Tokens, r.Logprobs = []int32{5, 6, 7}, 2
	want := []engine.TokenLogprob{}
	s := submit(t, e, r)
	ids := r.Tokens
	for {
		ev, err := s.Next(t.Context())
		if err != nil || ev.End != nil {
			break
		}
		want = append(want, ev.Tokens.Logprobs...)
		ids = append(ids, ev.Tokens.IDs...)
	}
	r = greedy("", 1)
	r.Tokens, r.PromptLogprobs = ids, 2
	s = submit(t, e, r)
	ev, err := s.Next(t.Context())
	if err != nil || len(ev.Prompt) != len(ids)-1 {
		t.Fatalf("%d probabilities for %d tokens (%v)", len(ev.Prompt), len(ids), err)
	}
	if got := ev.Prompt[2:]; !reflect.DeepEqual(got, want) {
		t.Errorf("prompt: %+v, generated: %+v", got, want)
	}
	if c, err := collect(t, s); err != nil || len(c.ids) != 1 {
		t.Errorf("%+v, %v", c, err)
	}
}

func TestInvalidRequestsNameEverything(t *testing.T) {
	e := loaded(t, engine.Config{})
	r := greedy("x", -1)
	r.Tokens = nil
	r.Stop = []string{"", strings.Repeat("x", 257)}
	r.StopIDs = []int32{-1, 320}
	r.Logprobs = 21
	r.Sampling.TopP = 0
	r.Sampling.Temperature = -1
	_, err := e.Submit(t.Context(), r)
	var invalid *engine.InvalidError
	if !errors.As(err, &invalid) {
		t.Fatalf("error %v", err)
	}
	var fields []string
	for _, v := range invalid.Violations {
		fields = append(fields, v.Field)
	}
	slices.Sort(fields)
	want := []string{"logprobs", "max_tokens", "sampling.temperature", "sampling.top_p", "stop[0]", "stop[1]", "stop_ids[0]", "stop_ids[1]"}
	if !slices.Equal(fields, want) {
		t.Errorf("fields %v, want %v", fields, want)
	}
	for name, r := range map[string]engine.Request{
		"no prompt":           {},
		"two prompts":         {Text: "x", Tokens: []int32{1}},
		"token -1":            {Tokens: []int32{-1}},
		"token past the end":  {Tokens: []int32{320}},
		"prompt too long":     {Tokens: make([]int32, 512)},
		"too much to be made": {Tokens: make([]int32, 500), MaxTokens: 13},
	} {
		r.Sampling, r.Logprobs, r.PromptLogprobs = sample.Defaults(), -1, -1
		if _, err := e.Submit(t.Context(), r); !errors.As(err, &invalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if s := settled(t, e); s.Steps != 0 {
		t.Errorf("refused requests cost %d steps", s.Steps)
	}
}
