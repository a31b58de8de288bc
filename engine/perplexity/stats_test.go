package perplexity

import (
	"math"
	"math/rand/v2"
	"testing"
)

// near says whether two figures are equal but for rounding.
func near(got, want float64) bool {
	return math.Abs(got-want) <= 1e-9*math.Max(1, math.Abs(want))
}

// The statistics against their definitions: errors by the deviations from the mean,
// the ratio's by the covariance, as llama.cpp has it.
func TestStatistics(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	const n = 37
	rows := make([]predicted, n)
	s := sums{}
	for i := range rows {
		base := rng.ExpFloat64()
		rows[i] = predicted{nll: base + 0.1*rng.NormFloat64() + 0.02, baseNLL: base, kl: rng.ExpFloat64() / 10, sameTop: i%4 != 0}
		s.add(rows[i], true)
	}
	mean := func(f func(p predicted) float64) (m, e float64) {
		for _, p := range rows {
			m += f(p) / n
		}
		for _, p := range rows {
			e += (f(p) - m) * (f(p) - m) / n
		}
		return m, math.Sqrt(e / (n - 1))
	}
	own, ownErr := mean(func(p predicted) float64 { return p.nll })
	base, baseErr := mean(func(p predicted) float64 { return p.baseNLL })
	covariance := 0.0
	for _, p := range rows {
		covariance += (p.nll - own) * (p.baseNLL - base) / n / (n - 1)
	}
	ratioErr := math.Sqrt(ownErr*ownErr + baseErr*baseErr - 2*covariance)
	kl, klErr := mean(func(p predicted) float64 { return p.kl })
	probability := func(p predicted) float64 { return math.Exp(-p.nll) - math.Exp(-p.baseNLL) }
	prob, probErr := mean(probability)
	square, squareErr := mean(func(p predicted) float64 { return probability(p) * probability(p) })
	same, _ := mean(func(p predicted) float64 {
		if p.sameTop {
			return 1
		}
		return 0
	})

	d := s.divergence()
	for name, c := range map[string]struct {
		got         Estimate
		want, error float64
	}{
		"perplexity":       {s.perplexity(), math.Exp(own), math.Exp(own) * ownErr},
		"base perplexity":  {d.BasePerplexity, math.Exp(base), math.Exp(base) * baseErr},
		"log ratio":        {d.LogRatio, own - base, ratioErr},
		"ratio":            {d.Ratio, math.Exp(own - base), math.Exp(own-base) * ratioErr},
		"KL":               {d.KL, kl, klErr},
		"probability":      {d.ProbabilityMean, prob, probErr},
		"probability, RMS": {d.ProbabilityRMS, math.Sqrt(square), squareErr / 2 / math.Sqrt(square)},
		"same top":         {d.SameTop, same, math.Sqrt(same * (1 - same) / (n - 1))},
		"correlation":      {Estimate{d.Correlation, 0}, covariance / ownErr / baseErr, 0},
	} {
		if !near(c.got.Value, c.want) || !near(c.got.Error, c.error) {
			t.Errorf("%s: %v, want %v ± %v", name, c.got, c.want, c.error)
		}
	}
	if len(s.kls) != n || d.Max != float64(s.kls[n-1]) || d.Median != float64(s.kls[n/2]) {
		t.Errorf("the largest is %v, the median %v", d.Max, d.Median)
	}
}

// One token has no spread, and two equal models no difference.
func TestStatisticsOfNextToNothing(t *testing.T) {
	s := sums{}
	s.add(predicted{nll: 2, baseNLL: 2, sameTop: true}, true)
	d := s.divergence()
	if e := s.perplexity(); !near(e.Value, math.Exp(2)) || !math.IsNaN(e.Error) || d.KL.Value != 0 || d.SameTop.Value != 1 {
		t.Errorf("one token: %v, %+v", e, d)
	}
	s.add(predicted{nll: 3, baseNLL: 3, sameTop: true}, true)
	d = s.divergence()
	if d.LogRatio != (Estimate{}) || d.Ratio != (Estimate{1, 0}) || d.ProbabilityRMS != (Estimate{}) || !near(d.Correlation, 1) {
		t.Errorf("two equal models: %+v", d)
	}
	// A token that the model holds for impossible.
	s.add(predicted{nll: math.Inf(1), baseNLL: 3, kl: math.Inf(1)}, true)
	if d := s.divergence(); !math.IsInf(s.perplexity().Value, 1) || !math.IsInf(d.KL.Value, 1) || !math.IsInf(d.Max, 1) {
		t.Errorf("an impossible token: %v, %+v", s.perplexity(), d)
	}
}

func TestQuantile(t *testing.T) {
	for _, c := range []struct {
		sorted      []float32
		share, want float64
	}{
		{[]float32{7}, 0.5, 7},
		{[]float32{7}, 0.999, 7},
		{[]float32{1, 2}, 0.5, 1.5},
		{[]float32{1, 2, 4}, 0.5, 2},
		{[]float32{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10}, 0.95, 9.5},
		{[]float32{0, 10}, 1, 10},
		{[]float32{3, 10}, 0, 3},
		{[]float32{1, 2, float32(math.Inf(1))}, 0.5, 2},
	} {
		if got := quantile(c.sorted, c.share); !near(got, c.want) {
			t.Errorf("%v of %v: %v, want %v", c.share, c.sorted, got, c.want)
		}
	}
}

func TestSpans(t *testing.T) {
	for _, c := range []struct {
		context, step, logits int
		want                  []span
	}{
		{4, 16, 16, []span{{0, 2, false}, {2, 1, true}}},
		{5, 16, 16, []span{{0, 2, false}, {2, 2, true}}},
		{16, 8, 8, []span{{0, 8, false}, {8, 7, true}}},
		{16, 5, 3, []span{{0, 5, false}, {5, 3, false}, {8, 3, true}, {11, 3, true}, {14, 1, true}}},
		{16, 2, 100, []span{{0, 2, false}, {2, 2, false}, {4, 2, false}, {6, 2, false}, {8, 2, true}, {10, 2, true}, {12, 2, true}, {14, 1, true}}},
	} {
		got := spans(c.context, c.step, c.logits)
		equal := len(got) == len(c.want)
		for i := 0; equal && i < len(got); i++ {
			equal = got[i] == c.want[i]
		}
		if !equal {
			t.Errorf("%d tokens in steps of %d and %d: %v, want %v", c.context, c.step, c.logits, got, c.want)
		}
	}
}

// All of both distributions counts, and what has no probability at all does not
// spoil it.
func TestCompare(t *testing.T) {
	inf := float32(math.Inf(-1))
	log := func(p ...float64) []float32 {
		logits := make([]float32, len(p))
		for i, x := range p {
			logits[i] = float32(math.Log(x) + 3)
		}
		return logits
	}
	for name, c := range map[string]struct {
		own, base []float32
		kl        float64
		same      bool
	}{
		"equal":               {log(0.5, 0.25, 0.25), log(0.5, 0.25, 0.25), 0, true},
		"uniform against":     {log(0.25, 0.25, 0.25, 0.25), log(0.5, 0.25, 0.125, 0.125), 0.5*math.Log(2) + 0.25*math.Log(0.5), true},
		"the other way":       {log(0.5, 0.25, 0.125, 0.125), log(0.25, 0.25, 0.25, 0.25), 0.5*math.Log(2) - 0.25*math.Log(2), true},
		"another top":         {log(0.2, 0.8), log(0.8, 0.2), 0.6 * math.Log(4), false},
		"impossible for both": {[]float32{0, 0, inf}, []float32{0, 0, inf}, 0, true},
		"impossible in base":  {[]float32{0, 0, 0}, []float32{0, 0, inf}, math.Log(1.5), true},
		"impossible in own":   {[]float32{0, inf}, []float32{0, 0}, math.Inf(1), true},
	} {
		p, err := compare(c.own, c.base, 0)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if math.Abs(p.kl-c.kl) > 1e-6 || p.sameTop != c.same {
			t.Errorf("%s: %+v, want a divergence of %v, the same top %v", name, p, c.kl, c.same)
		}
		alone, err := alone(c.own, 0)
		if err != nil || alone.nll != p.nll {
			t.Errorf("%s: alone %+v (%v), compared %+v", name, alone, err, p)
		}
	}
}
