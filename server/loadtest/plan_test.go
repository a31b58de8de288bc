package loadtest

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// Prompts are of the lengths that were asked for, begin alike as far as that was
// asked for, and never beyond.
func TestPrompts(t *testing.T) {
	o := testOptions(t)
	o.Prompt, o.SharedPrefix = lengthsOf(t, "20-40"), 16
	seen := map[string]bool{}
	var prefix []int32
	for run := range uint64(3) {
		p := &planner{options: &o, run: run, vocabulary: 500, salt: 9}
		for n := range uint64(200) {
			q := p.plan(n)
			ids := p.request(n, q).GetTokens().GetIds()
			if len(ids) != q.prompt || len(ids) < 20 || len(ids) > 40 {
				t.Fatalf("a prompt of %d tokens, planned %d", len(ids), q.prompt)
			}
			if slices.Min(ids) < 0 || slices.Max(ids) >= 500 {
				t.Fatalf("%v is beyond the vocabulary", ids)
			}
			if prefix == nil {
				prefix = ids[:16]
			}
			own := fmt.Sprint(ids[16:20])
			if !slices.Equal(ids[:16], prefix) || seen[own] {
				t.Fatalf("run %d, request %d: %v; the prefix is %v", run, n, ids, prefix)
			}
			seen[own] = true
		}
	}
	// Another call of Run, with another salt, shares nothing; with the same one all.
	same := &planner{options: &o, vocabulary: 500, salt: 9}
	other := &planner{options: &o, vocabulary: 500, salt: 10}
	a, b := same.request(0, same.plan(0)).GetTokens().GetIds(), other.request(0, other.plan(0)).GetTokens().GetIds()
	if len(a) != len(b) || slices.Equal(a[:16], b[:16]) || !slices.Equal(a[:16], prefix) {
		t.Errorf("with one salt %v, with another %v", a, b)
	}
	// The seed decides all but what prompts say.
	o.Seed = 2
	if fmt.Sprint(same.plan(0), same.plan(1), same.plan(2)) == fmt.Sprint(
		(&planner{options: &Options{Prompt: o.Prompt, MaxTokens: o.MaxTokens, Seed: 1}}).plan(0)) {
		t.Error("the seed decides nothing")
	}

	o.Text, o.Model = true, "m"
	r := same.request(5, same.plan(5))
	if words := strings.Fields(r.GetText()); len(words) != same.plan(5).prompt || r.GetModel() != "m" {
		t.Errorf("a text of %d words for %q, want %d", len(words), r.GetModel(), same.plan(5).prompt)
	}
	if !r.GetSampling().GetIgnoreEnd() || r.GetMaxTokens() != 5 || r.Sampling.Temperature == nil {
		t.Errorf("%v", r)
	}
}

func TestOptionsAreChecked(t *testing.T) {
	good := testOptions(t)
	if err := good.Check(); err != nil {
		t.Fatal(err)
	}
	for want, change := range map[string]func(*Options){
		"concurrency, rate: give one":   func(o *Options) { o.Rates = []float64{1} },
		"concurrency, rate: give":       func(o *Options) { o.Concurrency = nil },
		"concurrency, rate: 65 runs":    func(o *Options) { o.Concurrency = slices.Repeat([]int{1}, 65) },
		"concurrency: 0":                func(o *Options) { o.Concurrency = []int{1, 0} },
		"concurrency: 16385":            func(o *Options) { o.Concurrency = []int{16385} },
		"rate: 0":                       func(o *Options) { o.Concurrency, o.Rates = nil, []float64{0} },
		"rate: -1":                      func(o *Options) { o.Concurrency, o.Rates = nil, []float64{-1} },
		"warm-up: -1s":                  func(o *Options) { o.WarmUp = -1e9 },
		"duration: 0":                   func(o *Options) { o.Duration = 0 },
		"drain: 200h0m0s":               func(o *Options) { o.Drain = 200 * 3600e9 },
		"requests: -1":                  func(o *Options) { o.Requests = -1 },
		"waves: there are none":         func(o *Options) { o.Concurrency, o.Rates, o.Waves = nil, []float64{1}, true },
		"prompt, max-tokens: no length": func(o *Options) { o.Prompt = Lengths{} },
		"shared-prefix: 8":              func(o *Options) { o.SharedPrefix = 8 },
		"temperature: -1":               func(o *Options) { o.Temperature = -1 },
		"cancel: 1.5":                   func(o *Options) { o.Cancel = 1.5 },
		"slow: 0.6":                     func(o *Options) { o.Cancel, o.Slow = 0.5, 0.6 },
		"slo-gap: -1ns":                 func(o *Options) { o.GapWithin = -1 },
	} {
		o := good
		change(&o)
		if err := o.Check(); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
		if _, err := Run(t.Context(), o); err == nil {
			t.Errorf("%s was run", want)
		}
	}
}
