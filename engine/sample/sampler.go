package sample

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
)

var (
	// ErrNaN reports a logit that is NaN or +Inf: the model's arithmetic has
	// failed, and any token would be a lie.
	ErrNaN = errors.New("a logit is not a number")
	// ErrNoToken reports that every token is barred.
	ErrNoToken = errors.New("no token is allowed")
	// ErrParams reports parameters that [Params.Validate] objects to.
	ErrParams = errors.New("invalid sampling parameters")
)

var negInf = float32(math.Inf(-1))

// Sampler chooses the tokens of one sequence. After its first token it
// allocates nothing. Not for concurrent use.
type Sampler struct {
	params  Params
	vocab   int
	ends    []int32  // end-of-generation tokens
	allowed []uint64 // grammar mask; nil allows everything

	undo   []edit  // changed logits, to be put back
	window []int32 // the history that penalties see, sorted
	cands  []candidate
}

type edit struct {
	id  int32
	old float32
}

// candidate is a token that may be drawn. Lists of candidates are ordered by
// rising key, then id.
type candidate struct {
	id     int32
	logit  float32
	weight float64 // probability, but for a common factor
	key    float64
}

func (a *candidate) before(b *candidate) bool {
	return a.key < b.key || a.key == b.key && a.id < b.id
}

// New makes a sampler for a vocabulary of the given size. ends are the tokens
// that MinTokens and IgnoreEnd bar. Both slices, LogitBias included, must not
// change afterwards. ErrParams lists everything that is wrong with p.
func New(p Params, vocab int, ends []int32) (*Sampler, error) {
	if all := p.Validate(vocab); all != nil {
		parts := make([]string, len(all))
		for i, v := range all {
			parts[i] = v.Field + ": " + v.Reason
		}
		return nil, fmt.Errorf("%w: %s", ErrParams, strings.Join(parts, "; "))
	}
	for _, id := range ends {
		if id < 0 || int(id) >= vocab {
			return nil, fmt.Errorf("%w: end token %d is outside the vocabulary of %d", ErrParams, id, vocab)
		}
	}
	return &Sampler{params: p, vocab: vocab, ends: ends}, nil
}

// SetAllowed bars, from the next token on, every token id whose bit
// allowed[id/64]>>(id%64)&1 is not set; nil lifts the bar. The sampler reads
// the slice while it samples.
func (s *Sampler) SetAllowed(allowed []uint64) { s.allowed = allowed }

// Sample chooses a token. logits has at least as many entries as the
// vocabulary; entries beyond it are padding and not looked at. It is written
// to while Sample runs, and is as before when it returns. history is what the
// penalties look back on, the prompt included, latest last. position is the
// number of tokens generated so far; with the seed, it alone determines the
// random number.
//
// Greedy (temperature 0) takes the largest logit, of equal ones the lowest id.
func (s *Sampler) Sample(logits []float32, history []int32, position int) (int32, error) {
	if len(logits) < s.vocab {
		return -1, fmt.Errorf("%d logits for a vocabulary of %d", len(logits), s.vocab)
	}
	logits = logits[:s.vocab]
	s.undo = s.undo[:0]
	defer s.restore(logits)
	for _, b := range s.params.LogitBias {
		s.edit(logits, b.Token, logits[b.Token]+b.Value)
	}
	if s.params.IgnoreEnd || position < s.params.MinTokens {
		for _, id := range s.ends {
			s.edit(logits, id, negInf)
		}
	}
	if err := s.penalize(logits, history); err != nil {
		return -1, err
	}
	if s.params.Temperature == 0 {
		return s.greedy(logits)
	}
	largest, err := s.largest(logits)
	if err != nil {
		return -1, err
	}
	if k := s.params.TopK; k > 0 && k < s.vocab {
		return s.draw(s.filter(s.topK(logits, k)), position), nil
	}
	return s.draw(s.filter(s.all(logits, largest)), position), nil
}

// TakesLargest says whether Sample, given logits of which the one of id is the
// largest, would choose it: nothing is drawn, no logit is changed, and the
// token is not barred.
func (s *Sampler) TakesLargest(id int32, logit float32, position int) bool {
	p := &s.params
	switch {
	case p.Temperature != 0, len(p.LogitBias) > 0,
		p.RepetitionPenalty != 1, p.PresencePenalty != 0, p.FrequencyPenalty != 0,
		int(id) >= s.vocab, !s.isAllowed(int(id)),
		!(logit >= -math.MaxFloat32 && logit <= math.MaxFloat32):
		return false
	case p.IgnoreEnd, position < p.MinTokens:
		return !slices.Contains(s.ends, id)
	}
	return true
}

// WantsTop is how many of the largest logits SampleTop needs, or 0 when it cannot do
// with a few of them: logits are changed, or any number of tokens may be drawn.
func (s *Sampler) WantsTop(position int) int {
	p := &s.params
	if p.Temperature == 0 || p.TopK < 1 || p.TopK >= s.vocab || len(p.LogitBias) > 0 || s.allowed != nil ||
		p.RepetitionPenalty != 1 || p.PresencePenalty != 0 || p.FrequencyPenalty != 0 {
		return 0
	}
	if p.IgnoreEnd || position < p.MinTokens {
		return p.TopK + len(s.ends)
	}
	return p.TopK
}

// SampleTop chooses what Sample would, given the largest logits in order, at least
// as many as WantsTop says, which next gives one after another.
// ok is false when they do not suffice after all.
func (s *Sampler) SampleTop(next func() (id int32, logit float32, more bool), position int) (id int32, ok bool) {
	barred := s.params.IgnoreEnd || position < s.params.MinTokens
	c := s.cands[:0]
	for len(c) < s.params.TopK {
		id, logit, more := next()
		switch {
		case !more, !(logit >= -math.MaxFloat32 && logit <= math.MaxFloat32), int(id) >= s.vocab:
			s.cands = c
			return -1, false // Sample says what is wrong, or knows about padding
		case barred && slices.Contains(s.ends, id):
			continue
		}
		c = append(c, candidate{id: id, logit: logit, key: -float64(logit)})
	}
	s.cands = c
	return s.draw(s.filter(s.weighed(c)), position), true
}

// weighed makes a shortlist of candidates that are in order.
func (s *Sampler) weighed(c []candidate) shortlist {
	list := shortlist{cands: c, sorted: true}
	for i := range c {
		c[i].weight = s.weight(c[i].logit, c[0].logit)
		list.total += c[i].weight
	}
	return list
}

// edit changes a logit until restore.
func (s *Sampler) edit(logits []float32, id int32, value float32) {
	s.undo = append(s.undo, edit{id, logits[id]})
	logits[id] = value
}

func (s *Sampler) restore(logits []float32) {
	for _, e := range slices.Backward(s.undo) { // a logit may have been changed twice
		logits[e.id] = e.old
	}
}

// penalize lowers the logits of tokens that are in the history already, each
// once: first by the repetition penalty (Keskar et al., "CTRL", 2019), which
// divides positive logits and multiplies others, then by the presence penalty
// and by the frequency penalty times the number of occurrences.
func (s *Sampler) penalize(logits []float32, history []int32) error {
	p := &s.params
	if p.RepetitionPenalty == 1 && p.PresencePenalty == 0 && p.FrequencyPenalty == 0 {
		return nil
	}
	if p.PenaltyLastN >= 0 && p.PenaltyLastN < len(history) {
		history = history[len(history)-p.PenaltyLastN:]
	}
	s.window = append(s.window[:0], history...)
	slices.Sort(s.window)
	for i := 0; i < len(s.window); {
		id := s.window[i]
		if id < 0 || int(id) >= s.vocab {
			return fmt.Errorf("token %d of the history is outside the vocabulary of %d", id, s.vocab)
		}
		from := i
		for i < len(s.window) && s.window[i] == id {
			i++
		}
		logit := logits[id]
		if logit > 0 {
			logit /= p.RepetitionPenalty
		} else {
			logit *= p.RepetitionPenalty
		}
		s.edit(logits, id, logit-p.PresencePenalty-float32(i-from)*p.FrequencyPenalty)
	}
	return nil
}

func (s *Sampler) isAllowed(id int) bool {
	return s.allowed == nil || id/64 < len(s.allowed) && s.allowed[id/64]>>(id%64)&1 != 0
}

// greedy finds the largest logit of an allowed token; of equal ones, the one
// with the lowest id.
func (s *Sampler) greedy(logits []float32) (int32, error) {
	best, at := negInf, -1
	for id, logit := range logits {
		if logit <= best {
			continue
		}
		if logit != logit || logit > math.MaxFloat32 {
			return -1, fmt.Errorf("%w: %v for token %d", ErrNaN, logit, id)
		}
		if s.isAllowed(id) {
			best, at = logit, id
		}
	}
	if at < 0 {
		return -1, ErrNoToken
	}
	return int32(at), nil
}

func (s *Sampler) largest(logits []float32) (float32, error) {
	id, err := s.greedy(logits)
	if err != nil {
		return 0, err
	}
	return logits[id], nil
}

// weight is a token's probability but for a common factor: 1 for the largest
// logit.
func (s *Sampler) weight(logit, largest float32) float64 {
	return math.Exp((float64(logit) - float64(largest)) / float64(s.params.Temperature))
}

// shortlist is what may be drawn, while filters narrow it down.
type shortlist struct {
	cands  []candidate
	total  float64 // weight of these and of the ones that were left out for being too unlikely to pass the filters
	sorted bool    // largest logit first; otherwise in the order of ids
}

// topK lists the k tokens with the largest logits.
func (s *Sampler) topK(logits []float32, k int) shortlist {
	// Once there are k candidates, they are a heap with the least of them on top.
	c := s.cands[:0]
	for id, logit := range logits {
		if len(c) == k && logit <= c[0].logit || logit == negInf || !s.isAllowed(id) {
			continue
		}
		next := candidate{id: int32(id), logit: logit, key: -float64(logit)}
		if len(c) < k {
			if c = append(c, next); len(c) == k {
				heapify(c, last)
			}
			continue
		}
		c[0] = next
		down(c, 0, last)
	}
	s.cands = c
	slices.SortFunc(c, func(a, b candidate) int {
		if a.before(&b) {
			return -1
		}
		return 1
	})
	return s.weighed(c)
}

// all lists every token that the filters may leave.
func (s *Sampler) all(logits []float32, largest float32) shortlist {
	p := &s.params
	total := 0.0
	for id, logit := range logits {
		if logit != negInf && s.isAllowed(id) {
			total += s.weight(logit, largest)
		}
	}
	// Most tokens are too unlikely to pass, and need not be listed or sorted.
	// Min-p leaves none below its share of the largest weight, which is 1. The
	// tokens that are each below (1-p)/n of the total have less than 1-p of it
	// together, so top-p is done before it comes to them. The halves make up
	// for rounding.
	floor := 0.0
	if p.TypicalP == 1 {
		floor = float64(p.MinP) / 2
		if p.TopP < 1 {
			floor = max(floor, (1-float64(p.TopP))*total/float64(len(logits))/2)
		}
	}
	c := s.cands[:0]
	for id, logit := range logits {
		if logit == negInf || !s.isAllowed(id) {
			continue
		}
		if w := s.weight(logit, largest); w >= floor {
			c = append(c, candidate{id: int32(id), logit: logit, weight: w, key: -float64(logit)})
		}
	}
	s.cands = c
	return shortlist{cands: c, total: total}
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
			if share := c[i].weight / total; share > 0 {
				entropy -= share * math.Log(share)
			}
		}
		for i := range c {
			c[i].key = math.Abs(math.Log(c[i].weight/total) + entropy)
		}
		c = leading(c, float64(p.TypicalP)*total)
		total, list.sorted = 0, false
		for i := range c {
			total += c[i].weight
			c[i].key = -float64(c[i].logit)
		}
	}
	if p.TopP < 1 { // nucleus sampling (Holtzman et al., 2020)
		if list.sorted {
			c = c[:prefix(c, float64(p.TopP)*total)]
		} else {
			c = leading(c, float64(p.TopP)*total)
		}
	}
	if p.MinP > 0 { // Nguyen et al., 2024
		most := 0.0
		for i := range c {
			most = max(most, c[i].weight)
		}
		c = slices.DeleteFunc(c, func(x candidate) bool { return x.weight < float64(p.MinP)*most })
	}
	return c
}

// draw takes the candidate that a point at random falls on when their weights
// are laid end to end, in the order given.
func (s *Sampler) draw(c []candidate, position int) int32 {
	total := 0.0
	for i := range c {
		total += c[i].weight
	}
	point := uniform(s.params.Seed, uint64(position)) * total
	chosen := -1
	for i := range c {
		if c[i].weight == 0 {
			continue
		}
		chosen = i
		if point -= c[i].weight; point < 0 {
			break
		}
	}
	return c[chosen].id // every filter keeps some weight, so there is one
}

// prefix gives the number of candidates from the first on whose weights reach
// mass together, at least 1.
func prefix(c []candidate, mass float64) int {
	sum := 0.0
	for i := range c {
		if sum += c[i].weight; sum >= mass {
			return i + 1
		}
	}
	return len(c)
}

// leading puts the first candidates in order whose weights reach mass
// together, at least 1, at the front of c and gives them. It sorts no more
// than those.
func leading(c []candidate, mass float64) []candidate {
	heapify(c, first)
	sum, rest := 0.0, c
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
