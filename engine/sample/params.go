// Package sample turns a row of logits into the next token.
package sample

// Params says how the next token is chosen. The zero value of a field that
// has a neutral setting other than zero (TopP, RepetitionPenalty) is not
// neutral: start from [Defaults].
//
// The steps run in this order: logit bias, grammar mask, penalties,
// temperature, top-k, typical-p, top-p, min-p, draw.
type Params struct {
	Temperature       float32 // 0 picks the most likely token (greedy); at most 100
	TopK              int     // keep the k most likely tokens; 0 keeps all
	TypicalP          float32 // keep locally typical tokens up to this mass, (0, 1]; 1 is off
	TopP              float32 // keep the most likely tokens up to this mass, (0, 1]; 1 is off
	MinP              float32 // drop tokens below this share of the most likely one, [0, 1]; 0 is off
	RepetitionPenalty float32 // > 0; 1 is off
	PresencePenalty   float32 // [-2, 2]; 0 is off
	FrequencyPenalty  float32 // [-2, 2]; 0 is off
	PenaltyLastN      int     // how many latest tokens the penalties see; -1 is the whole context
	LogitBias         []Bias  // added to the logits of single tokens
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
