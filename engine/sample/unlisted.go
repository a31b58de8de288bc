package sample

import "slices"

// What is drawn from the whole vocabulary needs no list of it, and no sorting: sums of
// weights over bins of equal size say in which bin top-p ends, and only that one is put
// in order. Sums over chunks of ids say in which chunk the drawn token is.

// chunk is how many ids are summed together.
const chunk = 1 << 10

// drawUnlisted applies top-p and min-p and draws.
func (s *Sampler) drawUnlisted(logits []float32, largest float32) int32 {
	cut := candidate{logit: negInf}
	if s.plan.TopP > 0 {
		cut = s.nucleus(logits, largest)
	}
	s.sums = s.sums[:0]
	total := uint64(0)
	for from := 0; from < len(logits); from += chunk {
		sum := uint64(0)
		s.kept(logits, largest, cut, from, func(_ int, w uint64) bool {
			sum += w
			return true
		})
		s.sums = append(s.sums, sum)
		total += sum
	}
	number := point(s.plan.Random, total)
	at := 0
	for ; number > s.sums[at]; at++ {
		number -= s.sums[at]
	}
	chosen := -1
	s.kept(logits, largest, cut, at*chunk, func(id int, w uint64) bool {
		chosen = id
		if number <= w {
			return false
		}
		number -= w
		return true
	})
	return int32(chosen)
}

// kept calls use for the tokens of the chunk from an id on that are left, until it
// says no: those that are not after the cut and not too light.
func (s *Sampler) kept(logits []float32, largest float32, cut candidate, from int, use func(id int, w uint64) bool) {
	for i, logit := range logits[from:min(from+chunk, len(logits))] {
		id := from + i
		if !(logit > cut.logit || logit == cut.logit && id <= int(cut.id)) || !s.plan.allows(id) {
			continue
		}
		w := weight(place(float64(largest), logit, s.plan.Scale))
		if w >= s.plan.Least && !use(id, w) {
			return
		}
	}
}

// nucleus finds the last token of those that top-p leaves.
func (s *Sampler) nucleus(logits []float32, largest float32) candidate {
	if s.bins == nil {
		s.bins = make([]uint64, bins)
	}
	clear(s.bins)
	total := uint64(0)
	for id, logit := range logits {
		at := place(float64(largest), logit, s.plan.Scale)
		if at >= lastPlace || !s.plan.allows(id) {
			continue
		}
		w := weight(at)
		s.bins[bin(at)] += w
		total += w
	}
	number := share(s.plan.TopP, total)
	end := 0
	for ; number > s.bins[end]; end++ {
		number -= s.bins[end]
	}
	c := s.cands[:0]
	for id, logit := range logits {
		at := place(float64(largest), logit, s.plan.Scale)
		if at < lastPlace && bin(at) == end && s.plan.allows(id) {
			c = append(c, candidate{id: int32(id), logit: logit, weight: weight(at), key: -float64(logit)})
		}
	}
	s.cands = c
	slices.SortFunc(c, byLogit)
	return c[reach(c, number)]
}
