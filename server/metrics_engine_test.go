package server_test

import (
	"context"
	"math"
	"os"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"kigo/engine"
	"kigo/engine/device/cpu"
	paced "kigo/engine/device/scripted"
	kigov1 "kigo/proto/kigo/v1"
)

// hold lets a test keep a step of the device in flight.
type hold struct {
	mu      sync.Mutex
	reached chan struct{} // closed by the next step, which then waits for opened; nil: it does not
	opened  chan struct{}
}

// step is what each step does first.
func (h *hold) step() {
	h.mu.Lock()
	reached, opened := h.reached, h.opened
	h.reached = nil
	h.mu.Unlock()
	if reached != nil {
		close(reached)
		<-opened
	}
}

// shut returns when a step is in flight, which stays so until open.
func (h *hold) shut() {
	reached := make(chan struct{})
	h.mu.Lock()
	h.reached, h.opened = reached, make(chan struct{})
	h.mu.Unlock()
	<-reached
}

func (h *hold) open() { close(h.opened) }

// startHeld serves the small model on such a device.
func startHeld(t *testing.T, set func(*engine.Config)) (*fixture, *hold) {
	t.Helper()
	g := &hold{}
	dev, err := cpu.New(cpu.Config{Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	cfg := engine.Config{MaxContext: smallContext}
	e := opened(t, cfg, func(cfg engine.Config) (*engine.Engine, error) {
		return engine.NewOn(cfg, paced.New(dev, func(call string, _ int) error {
			if call == "Run" {
				g.step()
			}
			return nil
		}))
	}, []func(*engine.Config){set})
	loadFile(t, e, smallModel(t))
	return start(t, nil, e), g
}

// wants compares series with what they must be.
func wants(t *testing.T, m map[string]float64, series map[string]float64) {
	t.Helper()
	for name, want := range series {
		if got, ok := m[name]; !ok || math.Abs(got-want) > 1e-9*max(1, want) {
			t.Errorf("%s is %v (there: %t), want %v", name, got, ok, want)
		}
	}
}

// What the engine counts is what the streams themselves report, to the nanosecond
// and the row.
func TestEngineMetrics(t *testing.T) {
	t.Parallel()
	f, _ := startHeld(t, func(*engine.Config) {})
	wants(t, f.scrape(t), map[string]float64{
		// A load's first token is nobody's.
		`kigo_engine_step_seconds_count{phase="prefill"}`:           0,
		"kigo_engine_step_sequences_count":                          0,
		"kigo_engine_request_seconds_count":                         0,
		`kigo_engine_requests_total{outcome="max_tokens"}`:          0,
		"kigo_kv_usage_ratio":                                       0,
		`vllm:prefix_cache_hits_total{model_name="demo"}`:           0,
		`vllm:num_preemptions_total{model_name="demo"}`:             0,
		`vllm:generation_tokens_total{model_name="demo"}`:           0,
		`kigo_engine_step_seconds_bucket{phase="decode",le="+Inf"}`: 0,
	})

	var queued, first, between time.Duration
	var prompt, generated float64
	requests := []*kigov1.ExecuteRequest{
		textRequest(strings.Repeat("The sea is wide and deep and blue, and so is the sky above it, said the captain to the cook. ", 4), 9), textRequest("x", 2), textRequest("The sea", 1),
	}
	for _, r := range requests {
		r.Sampling.IgnoreEnd = ptr(true)
		end := f.mustExecute(t, r).end
		timings := end.GetTimings()
		queued += timings.GetQueued().AsDuration()
		first += timings.GetQueued().AsDuration() + timings.GetPrefill().AsDuration()
		between += timings.GetDecode().AsDuration()
		prompt += float64(end.GetPromptTokens())
		generated += float64(end.GetGeneratedTokens())
	}
	m := f.scrape(t)
	// Requests came one after another: each token but a request's last is a row of
	// a step of its own.
	wants(t, m, map[string]float64{
		"kigo_engine_prompt_tokens_total":                     prompt,
		"kigo_engine_computed_prompt_tokens_total":            prompt,
		`vllm:prompt_tokens_total{model_name="demo"}`:         prompt,
		`vllm:generation_tokens_total{model_name="demo"}`:     generated,
		`kigo_engine_step_rows_sum{phase="prefill"}`:          prompt,
		`kigo_engine_step_rows_sum{phase="decode"}`:           generated - 3,
		`kigo_engine_step_rows_count{phase="decode"}`:         generated - 3,
		`kigo_engine_step_rows_bucket{phase="decode",le="1"}`: generated - 3,
		`kigo_engine_step_seconds_count{phase="decode"}`:      generated - 3,
		`kigo_engine_step_seconds_count{phase="mixed"}`:       0,
		"kigo_engine_queue_seconds_count":                     3,
		"kigo_engine_queue_seconds_sum":                       queued.Seconds(),
		"kigo_engine_time_to_first_token_seconds_count":       3,
		"kigo_engine_time_to_first_token_seconds_sum":         first.Seconds(),
		"kigo_engine_time_between_tokens_seconds_count":       generated - 3,
		"kigo_engine_time_between_tokens_seconds_sum":         between.Seconds(),
		"kigo_engine_request_seconds_count":                   3,
		"kigo_engine_cancel_seconds_count":                    0,
		`kigo_engine_requests_total{outcome="max_tokens"}`:    3,
		`kigo_engine_requests_total{outcome="left"}`:          0,
		"kigo_prefix_cache_queries_total":                     float64(f.engine.Stats().PrefixQueries.Load()),
		"kigo_preemptions_total":                              0,
	})
	steps := m[`kigo_engine_step_seconds_count{phase="prefill"}`] + m[`kigo_engine_step_seconds_count{phase="decode"}`]
	if steps != m["kigo_steps_total"] || steps != m["kigo_engine_step_sequences_count"] || steps != m["kigo_engine_step_sequences_sum"] || m[`kigo_engine_step_seconds_count{phase="prefill"}`] < 4 {
		t.Errorf("%v steps in the histogram, %v with sequences, %v in all", steps, m["kigo_engine_step_sequences_count"], m["kigo_steps_total"])
	}
	whole := m["kigo_engine_request_seconds_sum"]
	computing := m[`kigo_engine_step_seconds_sum{phase="prefill"}`] + m[`kigo_engine_step_seconds_sum{phase="decode"}`]
	if whole < first.Seconds()+between.Seconds() || computing <= 0 || computing > whole {
		t.Errorf("requests took %v s, steps %v s, up to the first token %v, then %v", whole, computing, first, between)
	}

	// What only schedulers that share and take away can count is passed on.
	s := f.engine.Stats()
	s.PrefixQueries.Add(100)
	s.PrefixHits.Add(60)
	s.Preemptions.Add(2)
	after := f.scrape(t)
	for name, grown := range map[string]float64{"prefix_cache_queries": 100, "prefix_cache_hits": 60} {
		for _, series := range []string{"kigo_" + name + "_total", "vllm:" + name + `_total{model_name="demo"}`} {
			if after[series]-m[series] != grown {
				t.Errorf("%s grew by %v, want %v", series, after[series]-m[series], grown)
			}
		}
	}
	wants(t, after, map[string]float64{"kigo_preemptions_total": 2, `vllm:num_preemptions_total{model_name="demo"}`: 2})
}

// However a request is given up, the time until its slot is free is counted, and so
// is what others have waited for it.
func TestEngineMetricsOfCancels(t *testing.T) {
	t.Parallel()
	const held = 30 * time.Millisecond
	f, g := startHeld(t, func(c *engine.Config) {
		c.MaxConcurrent, c.StreamBuffer = 1, smallContext // nobody pauses: there is a step in flight at any time
	})
	endless := textRequest("The sea", smallContext/2)
	endless.Sampling.IgnoreEnd = ptr(true)

	// Each is struck while a step is in flight, which then takes so long.
	for i, c := range []struct {
		outcome string
		strike  func(id string, leave func())
		code    codes.Code
	}{
		{"cancelled", func(id string, _ func()) {
			if _, err := f.inference.Cancel(t.Context(), &kigov1.CancelRequest{RequestId: id}); err != nil {
				t.Error(err)
			}
		}, codes.OK},
		{"left", func(_ string, leave func()) { leave() }, codes.Canceled},
	} {
		ctx, leave := context.WithCancel(t.Context())
		stream, err := f.inference.Execute(ctx, endless)
		if err != nil {
			t.Fatal(err)
		}
		a := &answer{}
		for len(a.ids) == 0 {
			ev, err := stream.Recv()
			if err != nil {
				t.Fatal(err)
			}
			a.add(t, ev)
		}
		g.shut()
		c.strike(a.started.GetRequestId(), leave)
		time.Sleep(held)
		g.open()
		for err == nil {
			_, err = stream.Recv()
		}
		if got := status.Code(err); c.code != codes.OK && got != c.code {
			t.Errorf("%s: %v", c.outcome, err)
		}
		eventually(t, "the slot", func() bool { return f.engine.Status().Running == 0 })
		leave()
		var m map[string]float64
		eventually(t, "the count of "+c.outcome, func() bool {
			m = f.scrape(t)
			return m[`kigo_engine_requests_total{outcome="`+c.outcome+`"}`] == 1
		})
		wants(t, m, map[string]float64{"kigo_engine_cancel_seconds_count": float64(i + 1), "kigo_engine_request_seconds_count": float64(i + 1)})
	}
	m := f.scrape(t)
	// The Cancel call had returned when the wait began, so that is in there.
	if sum := m["kigo_engine_cancel_seconds_sum"]; sum < held.Seconds() || sum > m["kigo_engine_request_seconds_sum"] {
		t.Errorf("cancels took %v s, each request was held for %v", sum, held)
	}

	// One whose deadline passes in the queue frees no slot, and has had no step.
	before := m["kigo_engine_queue_seconds_count"]
	ctx, leave := context.WithCancel(t.Context())
	defer leave()
	if _, err := f.inference.Execute(ctx, endless); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a running request", func() bool { return f.engine.Status().Running == 1 })
	g.shut()
	short, cancel := context.WithTimeout(t.Context(), held)
	defer cancel()
	stream, err := f.inference.Execute(short, textRequest("x", 1))
	for err == nil {
		_, err = stream.Recv()
	}
	g.open()
	eventually(t, "the deadline", func() bool {
		m = f.scrape(t)
		return m[`kigo_engine_requests_total{outcome="deadline"}`]+m[`kigo_engine_requests_total{outcome="left"}`] == 2
	})
	wants(t, m, map[string]float64{"kigo_engine_queue_seconds_count": before + 1, "kigo_engine_cancel_seconds_count": 3})
}

// The number of series is that of the tables: nothing that a caller sends makes one.
func TestEngineMetricsAreBounded(t *testing.T) {
	t.Parallel()
	f, _ := startHeld(t, func(*engine.Config) {})
	count := func() map[string]int {
		n := map[string]int{}
		for series := range f.scrape(t) {
			name, _, _ := strings.Cut(series, "{")
			if strings.HasPrefix(name, "kigo_engine_") || strings.HasPrefix(name, "vllm:") {
				n[name]++
			}
		}
		return n
	}
	before := count()
	if n := before["kigo_engine_requests_total"]; n != int(engine.RequestOutcomes) {
		t.Errorf("%d outcomes", n)
	}
	if n := before["kigo_engine_step_seconds_bucket"]; n != 3*24 {
		t.Errorf("%d buckets of steps", n)
	}
	for _, text := range []string{"a", "The sea", `"}`} {
		r := textRequest(text, 2)
		r.CorrelationId = ptr("x")
		f.mustExecute(t, r)
	}
	for name, n := range count() {
		if before[name] != n {
			t.Errorf("%s has %d series, before there were %d", name, n, before[name])
		}
	}
}

// The README lists each metric, and none that is not there.
func TestReadmeNamesMetrics(t *testing.T) {
	t.Parallel()
	f, _ := startHeld(t, func(*engine.Config) {})
	f.mustExecute(t, textRequest("x", 2))
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	name := regexp.MustCompile(`(?:kigo_|vllm:|gen_ai_)[a-z_]+[a-z]`)
	named := map[string]bool{}
	for _, n := range name.FindAllString(string(readme), -1) {
		named[n] = true
	}
	there := map[string]bool{}
	eventually(t, "the metrics of requests", func() bool {
		_, body := f.get(t, "/metrics")
		for line := range strings.Lines(body) {
			if n, ok := strings.CutPrefix(line, "# TYPE "); ok {
				n, _, _ = strings.Cut(n, " ")
				there[n] = true
			}
		}
		return there["kigo_requests_total"] && there["kigo_http_requests_total"]
	})
	for n := range there {
		if name.MatchString(n) && !named[n] {
			t.Errorf("the README does not list %s", n)
		}
	}
	for n := range named {
		if !there[n] {
			t.Errorf("the README lists %s, which is not there", n)
		}
	}
}
