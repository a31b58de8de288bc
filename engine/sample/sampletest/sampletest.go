// Package sampletest makes parameters and logits for tests of those who draw tokens:
// such as are common, and such as are hard.
package sampletest

import (
	"math"
	"math/rand/v2"

	"kigo/engine/sample"
)

// Case is what a token depends on beside the logits.
type Case struct {
	Params   sample.Params
	Ends     []int32
	History  []int32
	Position int
	Allowed  []uint64
}

// New makes up a case for a vocabulary.
func New(rng *rand.Rand, vocab int) *Case {
	p := sample.Params{Temperature: 1, TypicalP: 1, TopP: 1, RepetitionPenalty: 1, PenaltyLastN: -1, Seed: rng.Uint64()}
	c := &Case{Position: rng.IntN(100)}
	pick := func(v ...float32) float32 { return v[rng.IntN(len(v))] }
	one := func(of int) bool { return rng.IntN(of) == 0 }
	token := func() int32 { return int32(rng.IntN(vocab)) }
	p.Temperature = pick(0, 0.01, 0.3, 0.7, 0.7, 1, 1, 1.5, 3, 20, 100, math.SmallestNonzeroFloat32)
	if one(2) {
		p.TopK = []int{1, 2, 5, 40, 100, 1000, 2048, 5000, vocab}[rng.IntN(9)]
	}
	if !one(3) {
		p.TopP = pick(0.95, 0.95, 0.9, 0.5, 0.1, 0.999, 1e-6, 1e-30, 0.99999994, rng.Float32()+1e-3)
		p.TopP = min(p.TopP, 1)
	}
	if one(2) {
		p.MinP = pick(0.05, 0.1, 0.5, 1, 1e-9, 1e-20)
	}
	if one(2) {
		for range rng.IntN(300) {
			c.History = append(c.History, token())
		}
		p.RepetitionPenalty = pick(1, 1.1, 0.5, 100)
		p.PresencePenalty, p.FrequencyPenalty = pick(0, 0.5, -2), pick(0, 0.3, 2)
		p.PenaltyLastN = []int{-1, 0, 64, 7}[rng.IntN(4)]
	}
	seen := map[int32]bool{}
	for range rng.IntN(3) * rng.IntN(10) {
		if id := token(); !seen[id] {
			seen[id] = true
			p.LogitBias = append(p.LogitBias, sample.Bias{Token: id, Value: pick(-100, -1, 0.3, 5, 100)})
		}
	}
	for range min(vocab-1, rng.IntN(4)) {
		c.Ends = append(c.Ends, token())
	}
	p.IgnoreEnd = one(4)
	if one(4) {
		c.Allowed = make([]uint64, max(1, (vocab+63)/64-rng.IntN(2)))
		for i := range c.Allowed {
			if c.Allowed[i] = rng.Uint64(); one(2) {
				c.Allowed[i] &= rng.Uint64() & rng.Uint64() & rng.Uint64()
			}
		}
	}
	c.Params = p
	return c
}

// Sampler is that of the case.
func (c *Case) Sampler(vocab int) (*sample.Sampler, error) {
	s, err := sample.New(c.Params, vocab, c.Ends)
	if err == nil {
		s.SetAllowed(c.Allowed)
	}
	return s, err
}

// Kinds is how many kinds of logits there are.
const Kinds = 12

// Fill makes up logits of a kind.
func Fill(logits []float32, kind int, rng *rand.Rand) {
	inf := float32(math.Inf(1))
	for i := range logits {
		v := float32(rng.NormFloat64())
		switch kind {
		case 0: // what models make
			v *= 3
		case 1: // few are likely
			if v *= 2; rng.IntN(1000) == 0 {
				v += 15
			}
		case 2: // ties
			v = float32(math.Round(float64(v)*8) / 4)
		case 3:
			v = 1.5
		case 4: // differences of a unit in the last place
			v = math.Float32frombits(math.Float32bits(5) + rng.Uint32N(4))
		case 5: // subnormal
			v = math.Float32frombits(rng.Uint32N(1<<23) | rng.Uint32N(2)<<31)
		case 6: // the whole range
			v = float32(math.Copysign(math.Exp2(rng.Float64()*250-125), float64(v)))
		case 7:
			v = -3e38
			if rng.IntN(2) == 0 {
				v = 3e38
			}
		case 8: // most are out
			if v *= 3; rng.IntN(20) > 0 {
				v = -inf
			}
		case 9: // one is left
			v = -inf
		case 10: // around the place where weights end
			v = -float32(rng.IntN(3)) * (28 + v/1000)
		case 11: // of both zeros
			v = float32(math.Copysign(0, float64(v)))
		}
		logits[i] = v
	}
	if kind == 9 {
		logits[rng.IntN(len(logits))] = -1e30
	}
}

// Spoil makes a logit no number, or infinite.
func Spoil(logits []float32, rng *rand.Rand) {
	bad := []uint32{0x7f800000, 0x7fc00000, 0xffc00000, 0xff800001, 0x7fffffff}
	logits[rng.IntN(len(logits))] = math.Float32frombits(bad[rng.IntN(len(bad))])
}
