package perplexity

import (
	"math"
	"slices"
)

// predicted is what there is to know about one counted token.
type predicted struct {
	nll     float64 // negative log-probability that the model gives it
	baseNLL float64 // and the base
	kl      float64 // of the whole distribution at its place
	sameTop bool    // both find the same token most likely
}

// sums add tokens up, in the order of the text, so that the same text always
// gives the same bits.
type sums struct {
	n                 int
	nll, base, diff   moments // diff: the model's less the base's
	kl, prob, squared moments // prob: difference of probabilities; squared: its square
	same              int
	kls               []float32 // of each token
}

// moments are the sums of values and of their squares.
type moments struct{ sum, sum2 float64 }

func (m *moments) add(v float64) { m.sum += v; m.sum2 += v * v }

// mean gives the mean of n values, and its standard error.
func (m *moments) mean(n int) Estimate {
	mean := m.sum / float64(n)
	variance := max(0, m.sum2/float64(n)-mean*mean)
	return Estimate{mean, math.Sqrt(variance / float64(n-1))}
}

func (s *sums) add(p predicted, compared bool) {
	s.n++
	s.nll.add(p.nll)
	if !compared {
		return
	}
	s.base.add(p.baseNLL)
	s.diff.add(p.nll - p.baseNLL)
	s.kl.add(p.kl)
	s.kls = append(s.kls, float32(p.kl))
	d := math.Exp(-p.nll) - math.Exp(-p.baseNLL)
	s.prob.add(d)
	s.squared.add(d * d)
	if p.sameTop {
		s.same++
	}
}

// exp is the exponential of an estimate; small errors are multiplied by the slope.
func (e Estimate) exp() Estimate {
	v := math.Exp(e.Value)
	return Estimate{v, v * e.Error}
}

func (s *sums) perplexity() Estimate { return s.nll.mean(s.n).exp() }

// divergence sorts s.kls.
func (s *sums) divergence() *Divergence {
	slices.Sort(s.kls)
	own, base, ratio := s.nll.mean(s.n), s.base.mean(s.n), s.diff.mean(s.n)
	d := &Divergence{
		BasePerplexity: base.exp(),
		LogRatio:       ratio,
		Ratio:          ratio.exp(),
		// var(a-b) = var(a) + var(b) - 2 cov(a, b)
		Correlation:     (own.Error*own.Error + base.Error*base.Error - ratio.Error*ratio.Error) / (2 * own.Error * base.Error),
		KL:              s.kl.mean(s.n),
		Median:          quantile(s.kls, 0.5),
		Max:             float64(s.kls[len(s.kls)-1]),
		ProbabilityMean: s.prob.mean(s.n),
	}
	for _, share := range []float64{0.9, 0.95, 0.99, 0.999} {
		d.Quantiles = append(d.Quantiles, Quantile{share, quantile(s.kls, share)})
	}
	same := float64(s.same) / float64(s.n)
	d.SameTop = Estimate{same, math.Sqrt(same * (1 - same) / float64(s.n-1))}
	square := s.squared.mean(s.n)
	d.ProbabilityRMS.Value = math.Sqrt(square.Value)
	if square.Value > 0 {
		d.ProbabilityRMS.Error = square.Error / (2 * d.ProbabilityRMS.Value)
	}
	return d
}

// quantile interpolates between the two nearest of the sorted values.
func quantile(sorted []float32, share float64) float64 {
	at := share * float64(len(sorted)-1)
	i := int(at)
	part := at - float64(i)
	if part == 0 { // the next one need not be there, or finite
		return float64(sorted[i])
	}
	return (1-part)*float64(sorted[i]) + part*float64(sorted[i+1])
}
