// Package perplexity measures how well a model predicts a text, and how far its
// predictions are from those of another file or another device: a user's check of
// a quantization, and ours of a kernel.
//
// The method is that of llama.cpp's llama-perplexity, so that figures can be
// compared. The text's tokens are cut into chunks of Context tokens; what is left
// over is not used. Every chunk is a sequence of its own, whose first token is
// replaced by BOS if the model wants texts to begin with it. The tokens of a chunk's
// second half, each of which is then predicted from at least half a context, are
// counted; the perplexity is the exponential of the mean of their negative
// log-probabilities.
//
// Where llama.cpp stores the other file's log-probabilities in 16 bits, with
// everything below e^-16 of the most likely token cut off, both models run side by
// side here, and all of both distributions is compared, in float64.
package perplexity

import (
	"context"
	"errors"
	"fmt"

	"kigo/engine/device"
	"kigo/engine/device/devices"
	"kigo/engine/gguf"
	"kigo/engine/load"
	"kigo/engine/tokenizer"
)

// What a measurement can be refused for, beyond the errors of the packages gguf,
// model, tokenizer, load, device and sample.
var (
	ErrText       = errors.New("unusable text")
	ErrContext    = errors.New("unusable context")
	ErrVocabulary = errors.New("the two models have different vocabularies")
)

// Model is a model file and what to compute it on.
type Model struct {
	File   *gguf.File
	Data   load.File
	Device string // "auto" or "", "cpu", "cuda", "cuda:1"
}

// Options say what to measure. Zero values stand for the defaults.
type Options struct {
	Model   Model
	Base    *Model // what Model's predictions are compared with; nil: nothing
	Text    []byte // need not be UTF-8
	Context int    // tokens of a chunk; default 512
	Chunks  int    // how many to use, from the text's beginning; default all
	Threads int    // of the CPU; default all cores
	Checks  bool   // on a GPU: wait after every kernel, name the one that fails, look for NaNs

	// Loading and Progress may be nil. They are called from one goroutine at a
	// time, Progress after every step, and never after Run has returned.
	Loading  func(done, total uint64) // bytes of both models
	Progress func(Progress)

	openDevice func(devices.Options) (d device.Device, why, err error) // default devices.Open
}

// Progress is how far a measurement has come, with the figures so far.
type Progress struct {
	Chunk, Chunks int // done, and in all
	Tokens, Total int // processed, and in all
	Perplexity    Estimate
	KL            Estimate // of a comparison
}

// Estimate is a figure with its standard error, as it follows from the spread over
// the tokens of this one text. The error is NaN where one token is all there is.
type Estimate struct{ Value, Error float64 }

// Report is the outcome.
type Report struct {
	Device     Device
	Tokens     int // of the text, BOS included
	Context    int
	Chunks     int
	Counted    int // tokens that the figures are about
	Perplexity Estimate
	Running    []float64   // the perplexity over the chunks up to each
	Divergence *Divergence // nil without a Base
}

// Device is what a model ran on.
type Device struct{ Kind, Name string }

// Divergence is how the model's predictions differ from the base's at the counted
// tokens. KL is the Kullback-Leibler divergence sum p ln(p/q) over the vocabulary, p
// the base's probabilities and q the model's, in nats.
type Divergence struct {
	Device         Device // of the base
	BasePerplexity Estimate
	LogRatio       Estimate // ln of the model's perplexity over the base's
	Ratio          Estimate // of the model's perplexity to the base's
	Correlation    float64  // of the tokens' log-probabilities

	KL        Estimate // the mean
	Median    float64
	Quantiles []Quantile // rising
	Max       float64

	SameTop         Estimate // share of the places at which both find the same token most likely
	ProbabilityMean Estimate // of the text's token: the model's less the base's
	ProbabilityRMS  Estimate
}

// Quantile says that the share of the counted tokens has at most that KL divergence.
type Quantile struct{ Share, KL float64 }

// MaxText is the size of a text at most, in bytes. Some twenty bytes are held for
// each of its tokens.
const MaxText = 64 << 20

// maxContext bounds a chunk; a model's own context does so sooner as a rule.
const (
	defaultContext = 512
	leastContext   = 4
	maxContext     = 1 << 20
)

// maxLogits is how many bytes of logits are asked for at a time, all models
// together. A single row is, however large.
const maxLogits = 64 << 20

// Run measures. A cancelled ctx ends it within one step.
func Run(ctx context.Context, o Options) (_ *Report, err error) {
	if o.Context == 0 {
		o.Context = defaultContext
	}
	if o.openDevice == nil {
		o.openDevice = devices.Open
	}
	switch {
	case len(o.Text) > MaxText:
		return nil, fmt.Errorf("%w: %d bytes, at most %d", ErrText, len(o.Text), MaxText)
	case o.Context < leastContext || o.Context > maxContext:
		return nil, fmt.Errorf("%w: chunks of %d tokens, want %d to %d", ErrContext, o.Context, leastContext, maxContext)
	case o.Chunks < 0:
		return nil, fmt.Errorf("%w: %d chunks", ErrText, o.Chunks)
	}
	models := []Model{o.Model}
	if o.Base != nil {
		models = append(models, *o.Base)
	}
	var plans []*plan
	for _, m := range models {
		p, err := newPlan(m, o.Context)
		if err != nil {
			return nil, err
		}
		plans = append(plans, p)
	}
	tokens, chunks, err := cut(plans, o)
	if err != nil {
		return nil, err
	}
	t, err := open(ctx, plans, o)
	if err != nil {
		return nil, err
	}
	// On a device that has failed, nothing is called any more.
	defer func() {
		if !errors.Is(err, device.ErrLost) {
			err = errors.Join(err, t.close())
		}
	}()
	return t.measure(ctx, tokens, chunks, o)
}

// cut gives the text's tokens and how many chunks of them are used.
func cut(plans []*plan, o Options) (tokens []int32, chunks int, err error) {
	t := plans[0].tokens
	if len(plans) > 1 {
		if err := sameVocabulary(t, plans[1].tokens); err != nil {
			return nil, 0, err
		}
	}
	if at := t.FirstUnencodable(o.Text); at >= 0 {
		return nil, 0, fmt.Errorf("%w: the model has no token for its byte %d", ErrText, at)
	}
	if bos, ok := t.BOS(); ok && t.AddsBOS() {
		tokens = append(tokens, bos)
	}
	tokens = append(tokens, t.Encode(o.Text, tokenizer.EncodeOptions{})...)
	if len(plans) > 1 && !sameTokens(plans[1].tokens, o.Text, tokens) {
		return nil, 0, fmt.Errorf("%w: they cut the text into other tokens", ErrVocabulary)
	}
	chunks = len(tokens) / o.Context
	if chunks == 0 {
		return nil, 0, fmt.Errorf("%w: %d tokens do not fill a chunk of %d", ErrText, len(tokens), o.Context)
	}
	if o.Chunks > chunks {
		return nil, 0, fmt.Errorf("%w: %d tokens are %d chunks of %d, not %d", ErrText, len(tokens), chunks, o.Context, o.Chunks)
	}
	if o.Chunks > 0 {
		chunks = o.Chunks
	}
	return tokens, chunks, nil
}
