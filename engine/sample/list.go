package sample

import (
	"cmp"
	"math"
	"slices"
)

// candidate is a token that may be drawn. Lists of candidates are ordered by rising
// key, then id.
type candidate struct {
	id     int32
	logit  float32
	weight uint64
	key    float64
}

func (a *candidate) before(b *candidate) bool {
	return a.key < b.key || a.key == b.key && a.id < b.id
}

func byLogit(a, b candidate) int {
	return cmp.Or(cmp.Compare(a.key, b.key), cmp.Compare(a.id, b.id))
}

// shortlist is what may be drawn, while filters narrow it down.
type shortlist struct {
	cands  []candidate
	total  uint64 // their weight
	sorted bool   // largest logit first; otherwise in the order of ids
}

// topK lists the k tokens with the largest logits, of which largest is the first.
func (s *Sampler) topK(logits []float32, largest float32, k int) shortlist {
	// Once there are k candidates, they are a heap with the least of them on top.
	c, least := s.cands[:0], negInf
	for id, logit := range logits {
		if logit <= least || !s.plan.allows(id) {
			continue
		}
		next := candidate{id: int32(id), logit: logit, key: -float64(logit)}
		switch {
		case len(c) == k:
			c[0] = next
			down(c, 0, last)
		case len(c) < k-1:
			c = append(c, next)
			continue
		default:
			c = append(c, next)
			heapify(c, last)
		}
		least = c[0].logit
	}
	s.cands = c
	slices.SortFunc(c, byLogit)
	list := shortlist{cands: c, sorted: true}
	for i := range c {
		c[i].weight = weight(place(float64(largest), c[i].logit, s.plan.Scale))
		list.total += c[i].weight
	}
	return list
}

// all lists every token that has a weight.
func (s *Sampler) all(logits []float32, largest float32) shortlist {
	list := shortlist{cands: s.cands[:0]}
	for id, logit := range logits {
		w := weight(place(float64(largest), logit, s.plan.Scale))
		if w == 0 || !s.plan.allows(id) {
			continue
		}
		list.cands = append(list.cands, candidate{id: int32(id), logit: logit, weight: w, key: -float64(logit)})
		list.total += w
	}
	s.cands = list.cands
	return list
}

// filter applies typical-p, top-p and min-p.
func (s *Sampler) filter(list shortlist) []candidate {
	p := &s.params
	c, total := list.cands, list.total
	if p.TypicalP < 1 {
		// Locally typical sampling (Meister et al., 2023): the tokens whose
		// information is nearest to the distribution's entropy come first.
		entropy := 0.0
		for i := range c {
			share := float64(int64(c[i].weight)) / float64(total)
			c[i].key = math.Log(share)
			entropy -= float64(share * c[i].key)
		}
		for i := range c {
			c[i].key = math.Abs(c[i].key + entropy)
		}
		c = leading(c, share(units(p.TypicalP), total))
		total, list.sorted = 0, false
		for i := range c {
			total += c[i].weight
			c[i].key = -float64(c[i].logit)
		}
	}
	if s.plan.TopP > 0 { // nucleus sampling (Holtzman et al., 2020)
		if !list.sorted {
			slices.SortFunc(c, byLogit)
		}
		c = c[:1+reach(c, share(s.plan.TopP, total))]
	}
	if least := s.plan.Least; least > 1 { // Nguyen et al., 2024
		if p.TypicalP < 1 { // then the most likely token may be gone
			most := uint64(0)
			for i := range c {
				most = max(most, c[i].weight)
			}
			least = share(units(p.MinP), most)
		}
		c = slices.DeleteFunc(c, func(x candidate) bool { return x.weight < least })
	}
	return c
}

// draw takes the candidate that the random number falls on when their weights are laid
// end to end, by rising id.
func (s *Sampler) draw(c []candidate) int32 {
	total := uint64(0)
	for i := range c {
		total += c[i].weight
	}
	slices.SortFunc(c, func(a, b candidate) int { return int(a.id) - int(b.id) })
	return c[reach(c, point(s.plan.Random, total))].id
}

// reach is the candidate with which the sum of the weights reaches a number, or the
// last.
func reach(c []candidate, number uint64) int {
	sum := uint64(0)
	for i := range c {
		if sum += c[i].weight; sum >= number {
			return i
		}
	}
	return len(c) - 1
}

// leading puts the first candidates in order whose weights reach mass
// together, at least 1, at the front of c and gives them. It sorts no more
// than those.
func leading(c []candidate, mass uint64) []candidate {
	heapify(c, first)
	sum, rest := uint64(0), c
	for len(rest) > 0 {
		sum += rest[0].weight
		end := len(rest) - 1
		rest[0], rest[end] = rest[end], rest[0]
		rest = rest[:end]
		if sum >= mass {
			break
		}
		down(rest, 0, first)
	}
	// The leading ones are now at the back, the first of them last.
	n := len(c) - len(rest)
	taken := c[len(rest):]
	slices.Reverse(taken)
	copy(c, taken)
	return c[:n]
}

func first(a, b *candidate) bool { return a.before(b) }
func last(a, b *candidate) bool  { return b.before(a) }

// heapify and down make a binary heap with the foremost by the order given on
// top.
func heapify(c []candidate, order func(a, b *candidate) bool) {
	for i := len(c)/2 - 1; i >= 0; i-- {
		down(c, i, order)
	}
}

func down(c []candidate, i int, order func(a, b *candidate) bool) {
	for {
		child := 2*i + 1
		if child >= len(c) {
			return
		}
		if child+1 < len(c) && order(&c[child+1], &c[child]) {
			child++
		}
		if !order(&c[child], &c[i]) {
			return
		}
		c[i], c[child] = c[child], c[i]
		i = child
	}
}
