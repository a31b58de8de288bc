package sample

import (
	"fmt"
	"math"
	"slices"
)

// Plan says how a token is drawn from a row of logits, down to the numbers that a
// device calculates with. What to do, in order:
//
// Each of Edits changes a logit. A logit among the first Vocab that is then NaN or +Inf
// is an error. Tokens that are not Allowed or have -Inf are out. With no Scale, the
// token with the largest logit is chosen, of equal ones that with the lowest id.
//
// Otherwise each token has a weight (see weight.go). Those with the TopK largest logits
// stay, of equal ones those with the lowest ids; of these the first, in the same order,
// whose weights reach share(TopP, sum of weights); of these those whose weight is at
// least Least. The weights of what has stayed are laid end to end by rising id, and
// the token is drawn in which their sum reaches point(Random, sum).
type Plan struct {
	Scale   float64 // log2(e) / temperature; 0: greedy
	Random  uint64
	TopK    int    // 0: all
	TopP    uint64 // in units of 2^-64; 0: all
	Least   uint64 // at least 1
	Vocab   int
	Edits   []Edit   // by rising ID, each once
	Allowed []uint64 // by id: bit id%64 of word id/64; nil allows everything

	Repetition, Presence, Frequency float32 // of penalties
}

// Edit changes a logit in float32, each operation rounded: Bias is added, where -Inf
// bars the token whatever it was. Of a token that penalties have seen Times times, a
// logit above 0 is then divided by Repetition and any other multiplied by it; Presence
// is subtracted, and Times * Frequency.
type Edit struct {
	ID    int32
	Bias  float32
	Times int32
}

// Plan is what Sample does, given the same history and position, for one who does it
// elsewhere. ok is false when only Sample can do it. The plan is the sampler's, and
// valid until its next call.
func (s *Sampler) Plan(history []int32, position int) (p *Plan, ok bool) {
	if s.params.TypicalP < 1 || s.prepare(history, position) != nil {
		return nil, false
	}
	return &s.plan, true
}

// Choose follows the plan, as a device does, and as Sample does for which it was made. The
// logits are as before when it returns.
func (p *Plan) Choose(logits []float32) (int32, error) {
	s := Sampler{params: Params{TypicalP: 1}, vocab: p.Vocab, plan: *p}
	return s.follow(logits[:p.Vocab])
}

// newPlan is what does not change from token to token.
func newPlan(p *Params, vocab int) Plan {
	plan := Plan{
		TopP: units(p.TopP), Vocab: vocab, Least: 1,
		Repetition: p.RepetitionPenalty, Presence: p.PresencePenalty, Frequency: p.FrequencyPenalty,
	}
	if p.TopK < vocab {
		plan.TopK = p.TopK
	}
	if p.Temperature > 0 {
		plan.Scale = log2e / float64(p.Temperature)
	}
	if p.MinP > 0 { // the most likely token is always there, but for typical-p
		plan.Least = share(units(p.MinP), one)
	}
	return plan
}

// prepare makes the plan for a token.
func (s *Sampler) prepare(history []int32, position int) error {
	p := &s.params
	s.plan.Allowed = s.allowed
	s.plan.Random = random(p.Seed, uint64(position))
	s.plan.Edits = s.biases
	if s.BarsEnds(position) {
		s.plan.Edits = s.barring
	}
	if p.RepetitionPenalty == 1 && p.PresencePenalty == 0 && p.FrequencyPenalty == 0 {
		return nil
	}
	if p.PenaltyLastN >= 0 && p.PenaltyLastN < len(history) {
		history = history[len(history)-p.PenaltyLastN:]
	}
	s.window = append(s.window[:0], history...)
	slices.Sort(s.window)
	rest, edits := s.plan.Edits, s.edits[:0]
	for i := 0; i < len(s.window); {
		id := s.window[i]
		if id < 0 || int(id) >= s.vocab {
			return fmt.Errorf("token %d of the history is outside the vocabulary of %d", id, s.vocab)
		}
		from := i
		for i < len(s.window) && s.window[i] == id {
			i++
		}
		for len(rest) > 0 && rest[0].ID < id {
			edits, rest = append(edits, rest[0]), rest[1:]
		}
		e := Edit{ID: id, Times: int32(i - from)}
		if len(rest) > 0 && rest[0].ID == id {
			e.Bias, rest = rest[0].Bias, rest[1:]
		}
		edits = append(edits, e)
	}
	s.edits = append(edits, rest...)
	s.plan.Edits = s.edits
	return nil
}

// fixed gives the edits of biases and barred tokens.
func fixed(biases []Bias, barred []int32) []Edit {
	var edits []Edit
	for _, b := range biases {
		edits = append(edits, Edit{ID: b.Token, Bias: b.Value})
	}
	for _, id := range barred {
		edits = append(edits, Edit{ID: id, Bias: negInf})
	}
	slices.SortFunc(edits, func(a, b Edit) int {
		if a.ID != b.ID {
			return int(a.ID) - int(b.ID)
		}
		return int(math.Float32bits(b.Bias)>>23) - int(math.Float32bits(a.Bias)>>23) // -Inf first
	})
	return slices.CompactFunc(edits, func(a, b Edit) bool { return a.ID == b.ID })
}

// edited is a logit after an edit: penalties are those of Keskar et al. ("CTRL", 2019)
// and of OpenAI's API. The conversions keep products from being fused into sums.
func (p *Plan) edited(logit float32, e Edit) float32 {
	if logit += e.Bias; e.Bias == negInf {
		logit = negInf
	}
	if e.Times == 0 {
		return logit
	}
	if logit > 0 {
		logit /= p.Repetition
	} else {
		logit *= p.Repetition
	}
	return float32(logit-p.Presence) - float32(float32(e.Times)*p.Frequency)
}

func (p *Plan) allows(id int) bool { return allows(p.Allowed, id) }

func allows(mask []uint64, id int) bool {
	return mask == nil || id/64 < len(mask) && mask[id/64]>>(id%64)&1 != 0
}
