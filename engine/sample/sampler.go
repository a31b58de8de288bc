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

	biases  []Edit // of the parameters
	barring []Edit // the same, with the ends barred
	plan    Plan   // of the token at hand

	edits  []Edit // memory of a plan that has penalties
	window []int32
	undo   []float32 // what was edited
	cands  []candidate
	bins   []uint64
	sums   []uint64
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
	if vocab > maxVocab {
		return nil, fmt.Errorf("%w: a vocabulary of %d, %d is the most", ErrParams, vocab, maxVocab)
	}
	return &Sampler{
		params: p, vocab: vocab, ends: ends, plan: newPlan(&p, vocab),
		biases: fixed(p.LogitBias, nil), barring: fixed(p.LogitBias, ends),
	}, nil
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
	if err := s.prepare(history, position); err != nil {
		return -1, err
	}
	return s.follow(logits[:s.vocab])
}

// follow chooses a token by the plan.
func (s *Sampler) follow(logits []float32) (int32, error) {
	s.edit(logits)
	defer s.restore(logits)
	id, err := s.greedy(logits)
	if err != nil || s.plan.Scale == 0 {
		return id, err
	}
	largest := logits[id]
	switch {
	case s.plan.TopK > 0:
		return s.draw(s.filter(s.topK(logits, largest, s.plan.TopK))), nil
	case s.params.TypicalP < 1:
		return s.draw(s.filter(s.all(logits, largest))), nil
	}
	return s.drawUnlisted(logits, largest), nil
}

// TakesLargest says whether Sample, given logits of which the one of id is the
// largest, would choose it: nothing is drawn, no logit is changed, and the
// token is not barred.
func (s *Sampler) TakesLargest(id int32, logit float32, position int) bool {
	switch {
	case !s.Greedy(), int(id) >= s.vocab, !allows(s.allowed, int(id)),
		!(logit >= -math.MaxFloat32 && logit <= math.MaxFloat32):
		return false
	case s.BarsEnds(position):
		return !slices.Contains(s.ends, id)
	}
	return true
}

// Foreseeable says whether Plan is possible and depends on nothing but the position: not on
// tokens that nobody may have seen yet.
func (s *Sampler) Foreseeable() bool {
	p := &s.params
	return p.TypicalP >= 1 && p.RepetitionPenalty == 1 && p.PresencePenalty == 0 && p.FrequencyPenalty == 0
}

// BarsEnds says whether ends are barred after so many generated tokens.
func (s *Sampler) BarsEnds(position int) bool {
	return s.params.IgnoreEnd || position < s.params.MinTokens
}

// Greedy says whether nothing is drawn and no logit is changed, so that Sample chooses the
// token of the largest logit unless that one is barred.
func (s *Sampler) Greedy() bool {
	p := &s.params
	return p.Temperature == 0 && len(p.LogitBias) == 0 &&
		p.RepetitionPenalty == 1 && p.PresencePenalty == 0 && p.FrequencyPenalty == 0
}

// edit changes logits until restore.
func (s *Sampler) edit(logits []float32) {
	s.undo = s.undo[:0]
	for _, e := range s.plan.Edits {
		s.undo = append(s.undo, logits[e.ID])
		logits[e.ID] = s.plan.edited(logits[e.ID], e)
	}
}

func (s *Sampler) restore(logits []float32) {
	for i, e := range s.plan.Edits {
		logits[e.ID] = s.undo[i]
	}
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
		if s.plan.allows(id) {
			best, at = logit, id
		}
	}
	if at < 0 {
		return -1, ErrNoToken
	}
	return int32(at), nil
}
