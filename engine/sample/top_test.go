package sample_test

import (
	"cmp"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"kigo/engine/sample"
)

// What is chosen from the largest logits alone is what is chosen from all of
// them: for every seed, with equal logits, with tokens barred.
func TestSampleTopChoosesWhatSampleDoes(t *testing.T) {
	const vocab = 2000
	rng := rand.New(rand.NewPCG(5, 6))
	ends := []int32{3, 17, 1999}
	for _, tc := range []struct {
		name  string
		alter func(p *sample.Params)
	}{
		{"defaults", func(*sample.Params) {}},
		{"top-k 1", func(p *sample.Params) { p.TopK = 1 }},
		{"no other filter", func(p *sample.Params) { p.TopP, p.MinP = 1, 0 }},
		{"hot", func(p *sample.Params) { p.Temperature = 3 }},
		{"typical", func(p *sample.Params) { p.TypicalP = 0.5 }},
		{"ends barred", func(p *sample.Params) { p.IgnoreEnd = true }},
		{"ends barred at first", func(p *sample.Params) { p.MinTokens = 10 }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for round := range 300 {
				p := sample.Defaults()
				p.Seed = uint64(round)
				tc.alter(&p)
				logits := make([]float32, vocab)
				for i := range logits {
					logits[i] = float32(math.Round(rng.NormFloat64()*8) / 4) // many are equal
				}
				for _, e := range ends {
					logits[e] += 3 // likely to be chosen
				}
				s, err := sample.New(p, vocab, ends)
				if err != nil {
					t.Fatal(err)
				}
				want, err := s.Sample(logits, nil, round)
				if err != nil {
					t.Fatal(err)
				}
				n := s.WantsTop(round)
				if n < p.TopK {
					t.Fatalf("wants %d for top-k %d", n, p.TopK)
				}
				order := make([]int32, vocab)
				for i := range order {
					order[i] = int32(i)
				}
				slices.SortStableFunc(order, func(a, b int32) int { return cmp.Compare(logits[b], logits[a]) })
				at := 0
				next := func() (int32, float32, bool) {
					if at == n {
						return 0, 0, false
					}
					at++
					return order[at-1], logits[order[at-1]], true
				}
				if got, ok := s.SampleTop(next, round); !ok || got != want {
					t.Fatalf("seed %d: %d (%t), want %d", round, got, ok, want)
				}
			}
		})
	}
}

// Whatever changes logits, or may draw any number of tokens, needs all of them.
func TestWantsTopKnowsWhenAllLogitsAreNeeded(t *testing.T) {
	for name, alter := range map[string]func(p *sample.Params){
		"greedy":             func(p *sample.Params) { p.Temperature = 0 },
		"no top-k":           func(p *sample.Params) { p.TopK = 0 },
		"bias":               func(p *sample.Params) { p.LogitBias = []sample.Bias{{Token: 1, Value: 2}} },
		"repetition penalty": func(p *sample.Params) { p.RepetitionPenalty = 1.1 },
		"presence penalty":   func(p *sample.Params) { p.PresencePenalty = 0.1 },
		"frequency penalty":  func(p *sample.Params) { p.FrequencyPenalty = 0.1 },
	} {
		p := sample.Defaults()
		alter(&p)
		s, err := sample.New(p, 100, nil)
		if err != nil {
			t.Fatal(err)
		}
		if n := s.WantsTop(0); n != 0 {
			t.Errorf("%s: %d are enough", name, n)
		}
	}
	s, err := sample.New(sample.Defaults(), 100, nil)
	if err != nil {
		t.Fatal(err)
	}
	s.SetAllowed([]uint64{1})
	if n := s.WantsTop(0); n != 0 {
		t.Errorf("a grammar: %d are enough", n)
	}
}

// A NaN, padding beyond the vocabulary, or too few tokens are left to Sample.
func TestSampleTopLeavesWhatIsOddToSample(t *testing.T) {
	p := sample.Defaults()
	p.TopK = 2
	s, err := sample.New(p, 10, nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, top := range map[string][]struct {
		id    int32
		logit float32
	}{
		"NaN":     {{1, float32(math.NaN())}, {2, 1}},
		"inf":     {{1, float32(math.Inf(1))}, {2, 1}},
		"padding": {{1, 3}, {10, 2}},
		"too few": {{1, 3}},
	} {
		at := 0
		if id, ok := s.SampleTop(func() (int32, float32, bool) {
			if at == len(top) {
				return 0, 0, false
			}
			at++
			return top[at-1].id, top[at-1].logit, true
		}, 0); ok {
			t.Errorf("%s: %d", name, id)
		}
	}
}
