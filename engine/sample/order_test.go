package sample

import (
	"math"
	"slices"
	"sort"
	"testing"
)

// The steps of sampling, in the order that the API states.
var statedOrder = []string{"bias", "mask", "penalties", "temperature", "top_k", "typical_p", "top_p", "min_p"}

// inOrder is the distribution that the steps make in any order, in float64: each
// is written down on its own, and sees what the ones before it have left.
func inOrder(order []string, p Params, allowed []uint64, logits []float32, history []int32) []float64 {
	l := make([]float64, len(logits))
	keep := make([]int, len(logits))
	for i, v := range logits {
		l[i], keep[i] = float64(v), i
	}
	shares := func() []float64 {
		probs := make([]float64, len(l))
		largest, sum := math.Inf(-1), 0.0
		for _, i := range keep {
			largest = max(largest, l[i])
		}
		for _, i := range keep {
			probs[i] = math.Exp(l[i] - largest)
			sum += probs[i]
		}
		for i := range probs {
			probs[i] /= sum
		}
		return probs
	}
	// leading keeps the first by some measure until they have a mass.
	leading := func(mass float64, before func(probs []float64, a, b int) bool) {
		probs := shares()
		sort.SliceStable(keep, func(i, j int) bool { return before(probs, keep[i], keep[j]) })
		sum := 0.0
		for n, i := range keep {
			if sum += probs[i]; sum >= mass {
				keep = keep[:n+1]
				return
			}
		}
	}
	steps := map[string]func(){
		"bias": func() {
			for _, b := range p.LogitBias {
				l[b.Token] += float64(b.Value)
			}
		},
		"mask": func() {
			if left := slices.DeleteFunc(slices.Clone(keep), func(i int) bool { return allowed[i/64]&(1<<(i%64)) == 0 }); len(left) > 0 {
				keep = left
			}
		},
		"penalties": func() {
			count := map[int32]int{}
			for _, id := range history {
				count[id]++
			}
			for id, n := range count {
				if l[id] > 0 {
					l[id] /= float64(p.RepetitionPenalty)
				} else {
					l[id] *= float64(p.RepetitionPenalty)
				}
				l[id] -= float64(p.PresencePenalty) + float64(n)*float64(p.FrequencyPenalty)
			}
		},
		"temperature": func() {
			for i := range l {
				l[i] /= float64(p.Temperature)
			}
		},
		"top_k": func() {
			sort.SliceStable(keep, func(i, j int) bool { return l[keep[i]] > l[keep[j]] })
			keep = keep[:min(p.TopK, len(keep))]
		},
		"typical_p": func() {
			h := 0.0
			for _, q := range shares() {
				if q > 0 {
					h -= q * math.Log(q)
				}
			}
			leading(float64(p.TypicalP), func(probs []float64, a, b int) bool {
				return math.Abs(-math.Log(probs[a])-h) < math.Abs(-math.Log(probs[b])-h)
			})
		},
		"top_p": func() {
			leading(float64(p.TopP), func(probs []float64, a, b int) bool { return probs[a] > probs[b] })
		},
		"min_p": func() {
			probs := shares()
			most := slices.Max(probs)
			keep = slices.DeleteFunc(keep, func(i int) bool { return probs[i] < float64(p.MinP)*most })
		},
	}
	for _, step := range order {
		steps[step]()
	}
	return shares()
}

// moved is the stated order with one step after another instead of before it.
func moved(step, after string) []string {
	order := slices.DeleteFunc(slices.Clone(statedOrder), func(s string) bool { return s == step })
	return slices.Insert(order, slices.Index(order, after)+1, step)
}

// The draws fit the steps in the order that is stated, and in no other order that
// makes a difference: for each such order there are parameters that show it.
func TestStepsRunInTheStatedOrder(t *testing.T) {
	logits := slices.Repeat([]float32{-14}, 200) // hardly ever drawn
	for i, id := range []int{1, 2, 5, 7, 9, 11, 3, 199, 0, 42, 150, 20} {
		logits[id] = 1.6 - 0.4*float32(i)
	}
	mask := func(barred ...int) []uint64 {
		m := slices.Repeat([]uint64{math.MaxUint64}, 4)
		for _, id := range barred {
			m[id/64] &^= 1 << (id % 64)
		}
		return m
	}
	all := mask()
	for _, c := range []struct {
		step, after string // the wrong order
		set         func(*Params)
		allowed     []uint64
	}{
		{"bias", "penalties", func(p *Params) { p.LogitBias, p.RepetitionPenalty = []Bias{{7, 3}, {42, 4}}, 3 }, all},
		{"bias", "temperature", func(p *Params) { p.LogitBias, p.Temperature = []Bias{{7, 3}, {42, 3}}, 3 }, all},
		{"bias", "top_k", func(p *Params) { p.LogitBias, p.TopK = []Bias{{150, 6}, {20, 5.5}}, 5 }, all},
		{"bias", "min_p", func(p *Params) { p.LogitBias, p.MinP = []Bias{{150, 6}, {20, 5.5}}, 0.3 }, all},
		{"mask", "top_k", func(p *Params) { p.TopK = 5 }, mask(1, 2, 7)},
		{"mask", "typical_p", func(p *Params) { p.TypicalP = 0.5 }, mask(1, 2, 7)},
		{"mask", "top_p", func(p *Params) { p.TopP = 0.5 }, mask(1, 2)},
		{"mask", "min_p", func(p *Params) { p.MinP = 0.3 }, mask(1, 2)},
		{"penalties", "temperature", func(p *Params) { p.PresencePenalty, p.Temperature = 2, 0.5 }, all},
		{"penalties", "top_k", func(p *Params) { p.FrequencyPenalty, p.TopK = 2, 4 }, all},
		{"penalties", "top_p", func(p *Params) { p.PresencePenalty, p.FrequencyPenalty, p.TopP = 2, 0.4, 0.4 }, all},
		{"temperature", "typical_p", func(p *Params) { p.TypicalP, p.Temperature = 0.5, 3 }, all},
		{"temperature", "top_p", func(p *Params) { p.TopP, p.Temperature = 0.6, 3 }, all},
		{"temperature", "min_p", func(p *Params) { p.MinP, p.Temperature = 0.3, 3 }, all},
		{"top_k", "typical_p", func(p *Params) { p.TopK, p.TypicalP = 2, 0.2 }, all},
		{"top_k", "top_p", func(p *Params) { p.TopK, p.TopP = 2, 0.4 }, all},
		{"typical_p", "top_p", func(p *Params) { p.TypicalP, p.TopP = 0.2, 0.2 }, all},
		{"typical_p", "min_p", func(p *Params) { p.TypicalP, p.MinP = 0.4, 0.5 }, all},
		{"top_p", "min_p", func(p *Params) { p.TopP, p.MinP = 0.6, 0.3 }, all},
	} {
		p := neutral()
		p.Seed = 5
		c.set(&p)
		if p.TopK == 0 {
			p.TopK = len(logits)
		}
		s, err := New(p, len(logits), nil)
		if err != nil {
			t.Fatal(err)
		}
		s.SetAllowed(c.allowed)
		const draws = 3000
		counts := make([]int, len(logits))
		for position := range draws {
			id, err := s.Sample(logits, testHistory, position)
			if err != nil {
				t.Fatal(err)
			}
			counts[id]++
		}
		if excess := misfit(counts, draws, inOrder(statedOrder, p, c.allowed, logits, testHistory)); excess > 5 {
			t.Errorf("%s after %s: the draws are %.1f standard deviations from the stated order", c.step, c.after, excess)
		}
		if excess := misfit(counts, draws, inOrder(moved(c.step, c.after), p, c.allowed, logits, testHistory)); excess < 10 {
			t.Errorf("%s after %s: the draws fit that order, too (%.1f standard deviations): it has not been told apart", c.step, c.after, excess)
		}
	}
}
