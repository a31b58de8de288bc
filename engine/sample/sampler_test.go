package sample

import (
	"errors"
	"math"
	"math/rand/v2"
	"slices"
	"sort"
	"testing"
)

// model is the sampler written down a second time, in float64, with full
// sorts: it gives the probability of every token.
func model(p Params, ends []int32, allowed []uint64, logits []float32, history []int32, position int) []float64 {
	n := len(logits)
	l := make([]float64, n)
	for i, v := range logits {
		l[i] = float64(v)
	}
	for _, b := range p.LogitBias {
		l[b.Token] += float64(b.Value)
	}
	for i := range l {
		if allowed != nil && allowed[i/64]&(1<<(i%64)) == 0 {
			l[i] = math.Inf(-1)
		}
	}
	if p.IgnoreEnd || position < p.MinTokens {
		for _, id := range ends {
			l[id] = math.Inf(-1)
		}
	}
	if p.PenaltyLastN >= 0 && len(history) > p.PenaltyLastN {
		history = history[len(history)-p.PenaltyLastN:]
	}
	count := map[int32]int{}
	for _, id := range history {
		count[id]++
	}
	for id, c := range count {
		if l[id] > 0 {
			l[id] /= float64(p.RepetitionPenalty)
		} else {
			l[id] *= float64(p.RepetitionPenalty)
		}
		l[id] -= float64(p.PresencePenalty) + float64(c)*float64(p.FrequencyPenalty)
	}
	order := make([]int, n)
	for i := range order {
		order[i] = i
	}
	sort.SliceStable(order, func(i, j int) bool { return l[order[i]] > l[order[j]] })
	probs := make([]float64, n)
	if p.Temperature == 0 {
		probs[order[0]] = 1
		return probs
	}
	keep := order
	normalize := func() { // shares of what is kept
		clear(probs)
		sum := 0.0
		for _, i := range keep {
			probs[i] = math.Exp((l[i] - l[order[0]]) / float64(p.Temperature))
			sum += probs[i]
		}
		for i := range probs {
			probs[i] /= sum
		}
	}
	mass := func(order []int, m float64) []int {
		sum := 0.0
		for i, id := range order {
			if sum += probs[id]; sum >= m {
				return order[:i+1]
			}
		}
		return order
	}
	if p.TopK > 0 {
		keep = keep[:min(p.TopK, n)]
	}
	normalize()
	if p.TypicalP < 1 {
		h := 0.0
		for _, q := range probs {
			if q > 0 {
				h -= q * math.Log(q)
			}
		}
		byType := slices.Clone(keep)
		sort.SliceStable(byType, func(i, j int) bool {
			return math.Abs(-math.Log(probs[byType[i]])-h) < math.Abs(-math.Log(probs[byType[j]])-h)
		})
		kept := mass(byType, float64(p.TypicalP))
		keep = slices.DeleteFunc(slices.Clone(keep), func(i int) bool { return !slices.Contains(kept, i) })
		normalize()
	}
	if p.TopP < 1 {
		keep = mass(keep, float64(p.TopP))
		normalize()
	}
	if p.MinP > 0 {
		most := slices.Max(probs)
		keep = slices.DeleteFunc(slices.Clone(keep), func(i int) bool { return probs[i] < float64(p.MinP)*most })
		normalize()
	}
	return probs
}

// neutral has every parameter off.
func neutral() Params {
	return Params{Temperature: 1, TypicalP: 1, TopP: 1, RepetitionPenalty: 1, PenaltyLastN: -1}
}

// testLogits are 200 logits without ties; those of the end tokens and of
// testHistory are among the largest, of both signs.
func testLogits() []float32 {
	rng := rand.New(rand.NewPCG(11, 12))
	logits := make([]float32, 200)
	for i := range logits {
		logits[i] = float32(rng.NormFloat64()*2 - 4)
	}
	for i, id := range []int{1, 2, 5, 7, 9, 11, 3, 199, 0, 42} {
		logits[id] = 1.6 - 0.4*float32(i)
	}
	return logits
}

var testHistory = []int32{5, 7, 7, 7, 9, 11, 11, 3, 199, 0, 42}

// cases has, for each parameter, a setting under which the distribution
// differs from that of the parameters in base.
var cases = []struct {
	name   string
	base   func(*Params) // nil: neutral
	change func(*Params)
}{
	{name: "temperature low", change: func(p *Params) { p.Temperature = 0.4 }},
	{name: "temperature high", change: func(p *Params) { p.Temperature = 3 }},
	{name: "top_k", change: func(p *Params) { p.TopK = 12 }},
	{name: "top_k 1", change: func(p *Params) { p.TopK = 1 }},
	{name: "top_p", change: func(p *Params) { p.TopP = 0.6 }},
	{name: "top_p after top_k", base: func(p *Params) { p.TopK = 30 }, change: func(p *Params) { p.TopP = 0.7 }},
	{name: "top_p after temperature", base: func(p *Params) { p.TopP = 0.7 }, change: func(p *Params) { p.Temperature = 2 }},
	{name: "min_p", change: func(p *Params) { p.MinP = 0.1 }},
	{name: "min_p after top_p", base: func(p *Params) { p.TopP = 0.95 }, change: func(p *Params) { p.MinP = 0.15 }},
	{name: "min_p after top_k", base: func(p *Params) { p.TopK = 40 }, change: func(p *Params) { p.MinP = 0.15 }},
	{name: "typical_p", change: func(p *Params) { p.TypicalP = 0.5 }},
	{name: "typical_p small", change: func(p *Params) { p.TypicalP = 0.01 }},
	{name: "typical_p after top_k", base: func(p *Params) { p.TopK = 50 }, change: func(p *Params) { p.TypicalP = 0.6 }},
	{name: "top_p after typical_p", base: func(p *Params) { p.TypicalP = 0.7 }, change: func(p *Params) { p.TopP = 0.6 }},
	{name: "min_p after typical_p", base: func(p *Params) { p.TypicalP = 0.5 }, change: func(p *Params) { p.MinP = 0.4 }},
	{name: "repetition_penalty", change: func(p *Params) { p.RepetitionPenalty = 3 }},
	{name: "repetition_penalty below 1", change: func(p *Params) { p.RepetitionPenalty = 0.5 }},
	{name: "presence_penalty", change: func(p *Params) { p.PresencePenalty = 1.5 }},
	{name: "presence_penalty negative", change: func(p *Params) { p.PresencePenalty = -1.5 }},
	{name: "frequency_penalty", change: func(p *Params) { p.FrequencyPenalty = 0.9 }},
	{name: "penalty_last_n", base: func(p *Params) { p.RepetitionPenalty = 5 }, change: func(p *Params) { p.PenaltyLastN = 4 }},
	{name: "penalty_last_n 0", base: func(p *Params) { p.PresencePenalty = 2 }, change: func(p *Params) { p.PenaltyLastN = 0 }},
	{name: "penalty_last_n beyond the history", base: func(p *Params) { p.FrequencyPenalty = 2; p.PenaltyLastN = 2 }, change: func(p *Params) { p.PenaltyLastN = 1000 }},
	{name: "logit_bias", change: func(p *Params) { p.LogitBias = []Bias{{150, 6}, {20, 5.5}, {3, -100}} }},
	{name: "logit_bias before penalties", base: func(p *Params) { p.LogitBias = []Bias{{7, 8}} }, change: func(p *Params) { p.RepetitionPenalty = 2 }},
	{name: "min_tokens", change: func(p *Params) { p.MinTokens = 10_000 }},
	{name: "ignore_end", change: func(p *Params) { p.IgnoreEnd = true }},
	{name: "everything", change: func(p *Params) {
		*p = Params{Temperature: 0.8, TopK: 40, TypicalP: 0.9, TopP: 0.9, MinP: 0.02, RepetitionPenalty: 1.2, PresencePenalty: 0.3, FrequencyPenalty: 0.2, PenaltyLastN: 8, LogitBias: []Bias{{9, 2}}, MinTokens: 10_000}
	}},
}

var testEnds = []int32{1, 2}

// The test draws 5,000 tokens for each case and compares with the
// model by Pearson's chi-squared test, and the model's distribution with the
// one that the parameter would have if it were ignored: the draws must fit the
// one and not the other.
func TestLesson_NoSamplingParameterIsIgnored(t *testing.T) {
	logits := testLogits()
	for i, c := range cases {
		without := neutral()
		if c.base != nil {
			c.base(&without)
		}
		p := without
		c.change(&p)
		p.Seed = uint64(1000 + i)
		s, err := New(p, len(logits), testEnds)
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		const draws = 5_000
		counts := make([]int, len(logits))
		before := slices.Clone(logits)
		for position := range draws {
			id, err := s.Sample(logits, testHistory, position)
			if err != nil {
				t.Fatalf("%s: %v", c.name, err)
			}
			counts[id]++
		}
		if !slices.Equal(before, logits) {
			t.Fatalf("%s: the logits are not as before", c.name)
		}
		if excess := misfit(counts, draws, model(p, testEnds, nil, logits, testHistory, 0)); excess > 5 {
			t.Errorf("%s: the draws are %.1f standard deviations from the model", c.name, excess)
		}
		if excess := misfit(counts, draws, model(without, testEnds, nil, logits, testHistory, 0)); excess < 10 {
			t.Errorf("%s: the draws fit the distribution without the parameter (%.1f standard deviations)", c.name, excess)
		}
	}
}

// misfit is by how many standard deviations chi-squared exceeds its mean.
// Tokens with few expected draws are taken together; a draw of an impossible
// token is infinitely bad.
func misfit(counts []int, draws int, probs []float64) float64 {
	chi, degrees := 0.0, -1
	restCount, restProb := 0, 0.0
	for id, c := range counts {
		switch expected := probs[id] * float64(draws); {
		case expected == 0 && c > 0:
			return math.Inf(1)
		case expected < 10:
			restCount += c
			restProb += probs[id]
		default:
			chi += (float64(c) - expected) * (float64(c) - expected) / expected
			degrees++
		}
	}
	if expected := restProb * float64(draws); expected > 0 {
		chi += (float64(restCount) - expected) * (float64(restCount) - expected) / max(expected, 1)
		degrees++
	}
	if degrees <= 0 {
		return chi // one token that is certain: no chance, no misfit
	}
	return (chi - float64(degrees)) / math.Sqrt(2*float64(degrees))
}

// TestLargeVocabulary: what passes the filters without a sort is what passes them
// with one, in a vocabulary of a real model's size.
func TestLargeVocabulary(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	logits := make([]float32, 50_000)
	for i := range logits {
		logits[i] = float32(rng.NormFloat64() * 3)
	}
	for _, change := range []func(*Params){
		func(p *Params) { p.TopP = 0.99 },
		func(p *Params) { p.TopP = 0.5; p.MinP = 0.001 },
		func(p *Params) { p.MinP = 0.01 },
		func(p *Params) { p.TopP = 0.3; p.Temperature = 0.2 },
	} {
		p := neutral()
		change(&p)
		s, err := New(p, len(logits), nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.prepare(nil, 0); err != nil {
			t.Fatal(err)
		}
		largest := slices.Max(logits)
		cut := candidate{logit: negInf}
		if p.TopP < 1 {
			cut = s.nucleus(logits, largest)
		}
		var got []int32
		for from := 0; from < len(logits); from += chunk {
			s.kept(logits, largest, cut, from, func(id int, _ uint64) bool {
				got = append(got, int32(id))
				return true
			})
		}
		slices.Sort(got)
		var want []int32
		for id, q := range model(p, nil, nil, logits, nil, 0) {
			if q > 0 {
				want = append(want, int32(id))
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("%+v: %d tokens pass, want %d", p, len(got), len(want))
		}
		if len(s.cands) > len(logits)/50 {
			t.Errorf("%+v: %d tokens were put in order for %d that pass", p, len(s.cands), len(got))
		}
	}
}

func TestGreedy(t *testing.T) {
	p := neutral()
	p.Temperature = 0
	sample := func(p Params, logits []float32, history ...int32) int32 {
		t.Helper()
		s, err := New(p, len(logits), []int32{0})
		if err != nil {
			t.Fatal(err)
		}
		id, err := s.Sample(logits, history, 0)
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	if got := sample(p, []float32{1, 3, 3, 2}); got != 1 {
		t.Errorf("of equal logits, token %d was taken, want the lowest", got)
	}
	p.RepetitionPenalty = 2
	if got := sample(p, []float32{1, 3, 2.5, 2}, 1); got != 2 {
		t.Errorf("greedy ignores the repetition penalty: %d", got)
	}
	p.IgnoreEnd = true
	if got := sample(p, []float32{9, 3, 2.5, 2}); got != 1 {
		t.Errorf("greedy ignores barred ends: %d", got)
	}
	p.LogitBias = []Bias{{3, 5}}
	if got := sample(p, []float32{9, 3, 2.5, 2}); got != 3 {
		t.Errorf("greedy ignores the bias: %d", got)
	}
	inf := float32(math.Inf(-1))
	if got := sample(neutral(), []float32{inf, inf, -50, inf}); got != 2 {
		t.Errorf("the one token that is left: got %d", got)
	}
}

func TestMinTokens(t *testing.T) {
	p := neutral()
	p.Temperature, p.MinTokens = 0, 3
	s, err := New(p, 4, []int32{1, 2})
	if err != nil {
		t.Fatal(err)
	}
	for position, want := range []int32{3, 3, 3, 1, 1} {
		if got, err := s.Sample([]float32{0, 9, 8, 5}, nil, position); err != nil || got != want {
			t.Errorf("after %d tokens: token %d, %v, want %d", position, got, err, want)
		}
	}
}

func TestTopKTakesTheLowestOfEquals(t *testing.T) {
	p := neutral()
	p.TopK = 3
	logits := []float32{0, 1, 1, 1, 1, 2, 1}
	s, err := New(p, len(logits), nil)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[int32]bool{}
	for position := range 200 {
		id, err := s.Sample(logits, nil, position)
		if err != nil {
			t.Fatal(err)
		}
		seen[id] = true
	}
	if len(seen) != 3 || !seen[5] || !seen[1] || !seen[2] {
		t.Errorf("drawn tokens %v, want 5, 1 and 2", seen)
	}
}

func TestAllowed(t *testing.T) {
	logits := testLogits()
	allowed := make([]uint64, 4)
	for _, id := range []int{3, 64, 130, 199} {
		allowed[id/64] |= 1 << (id % 64)
	}
	for _, change := range []func(*Params){
		func(*Params) {}, func(p *Params) { p.TopK = 3 }, func(p *Params) { p.TopP = 0.8 },
		func(p *Params) { p.Temperature = 0 }, func(p *Params) { p.TypicalP = 0.6 },
	} {
		p := neutral()
		change(&p)
		s, err := New(p, len(logits), nil)
		if err != nil {
			t.Fatal(err)
		}
		s.SetAllowed(allowed)
		counts := make([]int, len(logits))
		for position := range 2000 {
			id, err := s.Sample(logits, nil, position)
			if err != nil {
				t.Fatal(err)
			}
			counts[id]++
		}
		if excess := misfit(counts, 2000, model(p, nil, allowed, logits, nil, 0)); excess > 5 {
			t.Errorf("%+v: %.1f standard deviations from the model", p, excess)
		}
		s.SetAllowed(make([]uint64, 4))
		if _, err := s.Sample(logits, nil, 0); !errors.Is(err, ErrNoToken) {
			t.Errorf("nothing allowed: %v", err)
		}
		s.SetAllowed(nil)
		if _, err := s.Sample(logits, nil, 0); err != nil {
			t.Errorf("everything allowed again: %v", err)
		}
	}
}

// TestSeed: the same seed gives the same tokens, another one others, whatever
// was sampled in between.
func TestSeed(t *testing.T) {
	logits := testLogits()
	run := func(seed uint64, disturb bool) []int32 {
		p := Defaults()
		p.Seed = seed
		s, err := New(p, len(logits), nil)
		if err != nil {
			t.Fatal(err)
		}
		var ids []int32
		for position := range 64 {
			if disturb {
				if _, err := s.Sample(logits, nil, 7*position+1000); err != nil {
					t.Fatal(err)
				}
			}
			id, err := s.Sample(logits, nil, position)
			if err != nil {
				t.Fatal(err)
			}
			ids = append(ids, id)
		}
		return ids
	}
	if !slices.Equal(run(1, false), run(1, true)) {
		t.Error("the same seed gives other tokens when more is sampled in between")
	}
	for _, other := range []uint64{0, 2, 1 << 32, 1<<32 + 1, math.MaxUint64} {
		if slices.Equal(run(1, false), run(other, false)) {
			t.Errorf("seeds 1 and %d give the same tokens", other)
		}
	}
}

func TestBadLogits(t *testing.T) {
	nan, inf := float32(math.NaN()), float32(math.Inf(1))
	for _, bad := range []float32{nan, inf} {
		for at := range 5 {
			for _, change := range []func(*Params){
				func(*Params) {}, func(p *Params) { p.Temperature = 0 }, func(p *Params) { p.TopK = 2 },
				func(p *Params) { p.TopP = 0.5 }, func(p *Params) { p.TypicalP = 0.5 }, func(p *Params) { p.LogitBias = []Bias{{1, 1}} },
			} {
				logits := []float32{1, 2, 3, 4, 5}
				logits[at] = bad
				p := neutral()
				change(&p)
				s, err := New(p, 5, nil)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := s.Sample(logits, nil, 0); !errors.Is(err, ErrNaN) {
					t.Errorf("%v at %d with %+v: %v", bad, at, p, err)
				}
				if _, _, err := Logprobs(logits, 0, 2); !errors.Is(err, ErrNaN) {
					t.Errorf("Logprobs with %v at %d: %v", bad, at, err)
				}
			}
		}
	}
	down := slices.Repeat([]float32{negInf}, 5)
	for _, temperature := range []float32{0, 1} {
		p := neutral()
		p.Temperature = temperature
		s, err := New(p, 5, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Sample(down, nil, 0); !errors.Is(err, ErrNoToken) {
			t.Errorf("all barred: %v", err)
		}
		if _, err := s.Sample(down[:4], nil, 0); err == nil {
			t.Error("too few logits are taken")
		}
		if id, err := s.Sample([]float32{0, 0, 0, 0, 1, nan, 99}, nil, 0); err != nil || id > 4 {
			t.Errorf("padding: token %d, %v", id, err)
		}
	}
	p := neutral()
	p.PresencePenalty = 1
	s, err := New(p, 5, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range []int32{-1, 5} {
		if _, err := s.Sample(make([]float32, 5), []int32{id}, 0); err == nil {
			t.Errorf("token %d of the history is taken", id)
		}
	}
}

// TestExtremes: settings at the ends of what is allowed, and logits far apart,
// leave a token to draw.
func TestExtremes(t *testing.T) {
	tiny := float32(math.SmallestNonzeroFloat32)
	for _, logits := range [][]float32{
		{0, 0, 0, 0}, {-3e38, 3e38, 0, 1}, {tiny, -tiny, 0, 0}, {-3e38, -3e38, negInf, -3e38}, {1e30, 1e30, 1e30, -1e30},
	} {
		for _, p := range []Params{
			{Temperature: tiny, TypicalP: tiny, TopP: tiny, MinP: 1, RepetitionPenalty: tiny, PenaltyLastN: -1},
			{Temperature: 100, TypicalP: 1, TopP: 1, MinP: 1, RepetitionPenalty: 100, PresencePenalty: 2, FrequencyPenalty: 2, PenaltyLastN: -1, TopK: math.MaxInt},
			{Temperature: 100, TypicalP: tiny, TopP: tiny, RepetitionPenalty: 1, PenaltyLastN: -1, TopK: 1},
			{Temperature: 1, TypicalP: 0.99999994, TopP: 0.99999994, RepetitionPenalty: 1, FrequencyPenalty: -2, PenaltyLastN: 1},
		} {
			s, err := New(p, 4, []int32{0})
			if err != nil {
				t.Fatal(err)
			}
			for position := range 20 {
				id, err := s.Sample(logits, []int32{3, 3, 1}, position)
				if errors.Is(err, ErrNaN) || errors.Is(err, ErrNoToken) {
					continue // a penalty can push a logit of 3e38 beyond a float32
				}
				if err != nil || id < 0 || id > 3 || logits[id] == negInf {
					t.Errorf("%v with %+v: token %d, %v", logits, p, id, err)
				}
			}
		}
	}
}

func TestNoAllocations(t *testing.T) {
	logits := testLogits()
	for _, c := range cases {
		p := neutral()
		if c.base != nil {
			c.base(&p)
		}
		c.change(&p)
		s, err := New(p, len(logits), testEnds)
		if err != nil {
			t.Fatal(err)
		}
		position := 0
		allocs := testing.AllocsPerRun(20, func() { // calls once before it counts
			if _, err := s.Sample(logits, testHistory, position); err != nil {
				t.Fatal(err)
			}
			position++
		})
		if allocs > 0 {
			t.Errorf("%s: %v allocations a token", c.name, allocs)
		}
	}
}

func BenchmarkSample(b *testing.B) {
	rng := rand.New(rand.NewPCG(5, 6))
	logits := make([]float32, 151_936)
	for i := range logits {
		logits[i] = float32(rng.NormFloat64() * 3)
	}
	for name, change := range map[string]func(*Params){
		"greedy":    func(p *Params) { p.Temperature = 0 },
		"defaults":  func(p *Params) { *p = Defaults() },
		"unbounded": func(*Params) {},
		"top_p":     func(p *Params) { p.TopP = 0.95 },
		"typical_p": func(p *Params) { p.TypicalP = 0.9 },
	} {
		b.Run(name, func(b *testing.B) {
			p := neutral()
			change(&p)
			s, err := New(p, len(logits), nil)
			if err != nil {
				b.Fatal(err)
			}
			position := 0
			for b.Loop() {
				if _, err := s.Sample(logits, nil, position); err != nil {
					b.Fatal(err)
				}
				position++
			}
		})
	}
}
