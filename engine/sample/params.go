// Package sample turns a row of logits into the next token.
package sample

import (
	"fmt"
	"math"
)

// Params says how the next token is chosen. The zero value of a field that
// has a neutral setting other than zero (TopP, RepetitionPenalty) is not
// neutral: start from [Defaults].
//
// The steps run in this order: logit bias, grammar mask and barred ends,
// penalties, temperature, top-k, typical-p, top-p, min-p, draw. Each filter
// sees the probabilities of what the ones before it have left, as shares of
// their sum, and always leaves at least one token.
type Params struct {
	Temperature       float32 // 0 picks the most likely token (greedy); at most 100
	TopK              int     // keep the k most likely tokens; 0 keeps all
	TypicalP          float32 // keep locally typical tokens up to this mass, (0, 1]; 1 is off
	TopP              float32 // keep the most likely tokens up to this mass, (0, 1]; 1 is off
	MinP              float32 // drop tokens below this share of the most likely one, [0, 1]; 0 is off
	RepetitionPenalty float32 // (0, 100]; 1 is off
	PresencePenalty   float32 // [-2, 2]; 0 is off
	FrequencyPenalty  float32 // [-2, 2]; 0 is off
	PenaltyLastN      int     // how many latest tokens the penalties see; -1 is the whole context
	LogitBias         []Bias  // added to the logits of single tokens; each token once
	Seed              uint64  // the draw at a position depends on Seed and that position alone
	MinTokens         int     // end-of-generation tokens are barred before this many tokens
	IgnoreEnd         bool    // end-of-generation tokens are barred altogether
}

// Bias is added to the logit of one token before anything else happens.
type Bias struct {
	Token int32
	Value float32 // [-100, 100]
}

// Defaults are used for whatever a request leaves unset.
func Defaults() Params {
	return Params{
		Temperature:       0.7,
		TopK:              40,
		TypicalP:          1,
		TopP:              0.95,
		MinP:              0.05,
		RepetitionPenalty: 1,
		PenaltyLastN:      64,
	}
}

// MaxBiases bounds the number of logit biases, whatever a caller allows.
const MaxBiases = 1 << 12

// Violation is one thing that is wrong with Params.
type Violation struct {
	Field  string // as the API spells it: "top_p", "logit_bias[3].value"
	Reason string // what is allowed and what was found
}

// Validate reports everything that is wrong with p for a vocabulary of the
// given size; nil means that p is good.
func (p *Params) Validate(vocab int) []Violation {
	var all []Violation
	add := func(field, format string, args ...any) {
		all = append(all, Violation{field, fmt.Sprintf(format, args...)})
	}
	// A NaN fails every comparison, so each condition states what is allowed.
	share := func(field string, v float32, zero bool) {
		switch {
		case v >= 0 && v <= 1 && (v > 0 || zero):
		case zero:
			add(field, "must be from 0 to 1, is %v", v)
		default:
			add(field, "must be above 0 and at most 1, is %v", v)
		}
	}
	within := func(field string, v, low, high float32) {
		if !(v >= low && v <= high) {
			add(field, "must be from %v to %v, is %v", low, high, v)
		}
	}
	within("temperature", p.Temperature, 0, 100)
	if p.TopK < 0 {
		add("top_k", "must be at least 0, is %d", p.TopK)
	}
	share("typical_p", p.TypicalP, false)
	share("top_p", p.TopP, false)
	share("min_p", p.MinP, true)
	if !(p.RepetitionPenalty > 0 && p.RepetitionPenalty <= 100) {
		add("repetition_penalty", "must be above 0 and at most 100, is %v", p.RepetitionPenalty)
	}
	within("presence_penalty", p.PresencePenalty, -2, 2)
	within("frequency_penalty", p.FrequencyPenalty, -2, 2)
	if p.PenaltyLastN < -1 {
		add("penalty_last_n", "must be at least -1, is %d", p.PenaltyLastN)
	}
	if p.MinTokens < 0 {
		add("min_tokens", "must be at least 0, is %d", p.MinTokens)
	}
	if len(p.LogitBias) > MaxBiases {
		add("logit_bias", "must have at most %d entries, has %d", MaxBiases, len(p.LogitBias))
		return all
	}
	seen := make(map[int32]int, len(p.LogitBias))
	for i, b := range p.LogitBias {
		if b.Token < 0 || int(b.Token) >= vocab {
			add(fmt.Sprintf("logit_bias[%d].token", i), "must be from 0 to %d, is %d", vocab-1, b.Token)
		} else if first, ok := seen[b.Token]; ok {
			add(fmt.Sprintf("logit_bias[%d].token", i), "token %d has a bias at index %d already", b.Token, first)
		} else {
			seen[b.Token] = i
		}
		if !(math.Abs(float64(b.Value)) <= 100) {
			add(fmt.Sprintf("logit_bias[%d].value", i), "must be from -100 to 100, is %v", b.Value)
		}
	}
	return all
}
