package engine

import (
	"time"

	"kigo/engine/chat"
	"kigo/engine/sample"
	"kigo/engine/sched"
)

// The priorities of requests, of which 0 is everybody's.
const (
	MinPriority = sched.MinPriority
	MaxPriority = sched.MaxPriority
)

// Request asks for tokens. Exactly one of Text, Messages and Tokens is the
// prompt. The engine keeps no reference to its slices after Submit returns.
type Request struct {
	Model string // name of a loaded model; empty means the one that is loaded

	Text     string         // raw prompt
	Messages []chat.Message // conversation, rendered with the model's template
	Tokens   []int32        // token ids, taken as they are

	// AddSpecial adds BOS and EOS around Text as the model's file says;
	// ParseSpecial recognises special tokens written out in Text. Messages
	// are always rendered with special tokens recognised in the template's
	// own text and in the messages' content alike.
	AddSpecial   bool
	ParseSpecial bool

	Sampling  sample.Params
	MaxTokens int // tokens to generate at most; 0 means as many as the context holds

	// Samples is how many answers to generate, 0 meaning one. Each is what a
	// request for one would get with the seed Sampling.Seed + its number, from 0.
	// They share the prompt, which is computed once, and their stream.
	Samples int

	Stop    []string // generation ends before the first of these in the text
	StopIDs []int32  // generation ends at any of these tokens, which are not emitted

	Logprobs       int // alternatives to report for each generated token; -1 reports nothing
	PromptLogprobs int // the same for the prompt's tokens

	Tenant   string // who asks; set by the edge from the caller's credentials only
	Priority int    // who is served first, and stays when memory runs out: MinPriority to MaxPriority
}

// Started describes an admitted request.
type Started struct {
	ID           string // 128 random bits in hexadecimal, made by the engine
	Model        string
	PromptTokens int
	Seed         uint64
}

// Event is one of Prompt, Tokens and End; exactly one is set. Prompt comes at
// most once, before everything else, to a request that asks for it.
type Event struct {
	Prompt []TokenLogprob // one for each token of the prompt but the first
	Tokens *Tokens
	End    *End
}

// Tokens is a run of generated tokens. Text may be shorter or longer than the
// ids' own text, because half a rune or what may become a stop string is held
// back until it is decided; the concatenation over a stream is exact.
type Tokens struct {
	Sample   int     // which of the request's answers, from 0
	Index    int     // position of IDs[0] among its generated tokens, from 0
	IDs      []int32 // at least one, except when only held-back text is left
	Text     string  // valid UTF-8
	Logprobs []TokenLogprob
}

// TokenLogprob is the natural logarithm of the probability that the model
// itself (before any sampling parameter) gave to a token, with the most likely
// alternatives in falling order.
type TokenLogprob struct {
	ID      int32
	Bytes   []byte // the token's own bytes, which may be part of a rune
	Logprob float32
	Top     []TokenLogprob // without Top of their own
}

// StopReason says why a stream ended well.
type StopReason int

// The reasons for a stream's regular end.
const (
	StopUnknown   StopReason = iota
	StopMaxTokens            // MaxTokens were generated, or the context is full
	StopEnd                  // the model generated an end-of-generation token
	StopSequence             // a stop string or stop id was reached
	StopCancelled            // Cancel was called for the request
)

// End closes a stream.
type End struct {
	Reason          StopReason
	StopText        string // the stop string that was reached, if one was
	StopID          int32  // the stop or end token that was reached, or -1
	PromptTokens    int
	GeneratedTokens int
	Queued          time.Duration // from Submit to the first step
	Prefill         time.Duration // from the first step to the first token
	Decode          time.Duration // from the first token to the last

	// Samples are how each of several answers ended, in their order; all above is
	// the first one's then. Nil where there is one answer.
	Samples []*End
}

// Answers is how each answer ended, in their order.
func (e *End) Answers() []*End {
	if e.Samples == nil {
		return []*End{e}
	}
	return e.Samples
}
