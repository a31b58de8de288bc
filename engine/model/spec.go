// Package model turns a model file's metadata into a Spec, binds the file's
// tensors to it, and records the forward pass. An architecture is data: the
// mechanisms that it uses are fields of the Spec, and the one forward pass
// looks at nothing else.
package model

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"kigo/engine/device"
	"kigo/engine/gguf"
)

// What can be wrong with a model, to be matched with errors.Is.
var (
	ErrUnsupported = errors.New("unsupported model")
	ErrInvalid     = errors.New("invalid model")
)

// Spec says what a model is made of, as its file's metadata tells. It holds
// no weights and depends on nothing but the file.
type Spec struct {
	Architecture string
	Name         string // general.name
	Layers       int
	Width        int // of the residual stream
	FeedForward  int // width between up and down projection
	Heads        int
	KVHeads      int
	HeadDim      int
	Vocab        int
	TrainContext int // tokens

	NormEps   float32
	RopeStyle device.RopeStyle
	RopeDims  int // elements of a head that are rotated
	RopeBase  float64
	RopeScale float64 // positions are multiplied by it

	QKVBias      BiasUse
	GateActivate device.Activation
}

// BiasUse says whether projections have biases.
type BiasUse int

// Some families never have biases, some always, and llama files may.
const (
	BiasNone BiasUse = iota
	BiasOptional
	BiasRequired
)

// Architecture is one row of the table of what Kigo can run.
type Architecture struct {
	Name string // general.architecture
	spec func(*reader) Spec
}

// Architectures is the table of what Kigo can run.
func Architectures() []Architecture {
	return []Architecture{
		{Name: "llama", spec: llama},
		{Name: "qwen2", spec: qwen2},
	}
}

// NewSpec reads a file's metadata. All that is wrong is reported at once, as
// one error that wraps ErrInvalid or ErrUnsupported.
func NewSpec(f *gguf.File) (*Spec, error) {
	name, ok, err := f.String("general.architecture")
	if err != nil || !ok {
		return nil, fmt.Errorf("%w: general.architecture: %w", ErrInvalid, orMissing(err))
	}
	table := Architectures()
	i := slices.IndexFunc(table, func(a Architecture) bool { return a.Name == name })
	if i < 0 {
		return nil, fmt.Errorf("%w: architecture %.64q is none of %s", ErrUnsupported, name, names(table))
	}
	r := &reader{file: f, prefix: name}
	s := table[i].spec(r)
	s.Architecture = name
	s.Name, _, _ = f.String("general.name")
	r.check(&s)
	if len(r.unsupported) > 0 {
		return nil, fmt.Errorf("%w: %s", ErrUnsupported, strings.Join(r.unsupported, "; "))
	}
	if len(r.wrong) > 0 {
		return nil, fmt.Errorf("%w: %s", ErrInvalid, strings.Join(r.wrong, "; "))
	}
	return &s, nil
}

func names(table []Architecture) string {
	all := make([]string, len(table))
	for i, a := range table {
		all[i] = a.Name
	}
	return strings.Join(all, ", ")
}

var errMissing = errors.New("missing")

func orMissing(err error) error {
	if err == nil {
		return errMissing
	}
	return err
}

// Bounds on what metadata may claim. They are far above any real model, and
// low enough that no product of two of them overflows.
const (
	maxLayers  = 1 << 12
	maxWidth   = 1 << 20
	maxHeads   = 1 << 12
	maxVocab   = 1 << 24
	maxContext = 1 << 28
)

// reader collects metadata under an architecture's prefix together with
// everything that is wrong with it.
type reader struct {
	file        *gguf.File
	prefix      string
	wrong       []string
	unsupported []string
}

func (r *reader) fail(key, format string, args ...any) {
	r.wrong = append(r.wrong, key+": "+fmt.Sprintf(format, args...))
}

// count reads a whole number from 1 to most.
func (r *reader) count(key string, most int) int {
	n, found := r.countOr(key, 0, most)
	if !found {
		r.fail(r.prefix+"."+key, "missing")
	}
	return n
}

func (r *reader) countOr(key string, absent, most int) (n int, found bool) {
	key = r.prefix + "." + key
	v, ok, err := r.file.Uint(key)
	switch {
	case err != nil:
		r.wrong = append(r.wrong, err.Error())
		return absent, true
	case !ok:
		return absent, false
	case v < 1 || v > uint64(most):
		r.fail(key, "%d, want 1 to %d", v, most)
		return absent, true
	}
	return int(v), true
}

// number reads a finite float in (0, most].
func (r *reader) number(key string, absent, most float64) float64 {
	key = r.prefix + "." + key
	v, ok, err := r.file.Float(key)
	switch {
	case err != nil:
		r.wrong = append(r.wrong, err.Error())
		return absent
	case !ok && absent == 0:
		r.fail(key, "missing")
		return absent
	case !ok:
		return absent
	case math.IsNaN(v) || v <= 0 || v > most:
		r.fail(key, "%v, want a number above 0 up to %v", v, most)
		return absent
	}
	return v
}

// refuse notes that the file asks for a mechanism that Kigo does not have.
func (r *reader) refuse(key string, asked bool, what string) {
	if asked {
		r.unsupported = append(r.unsupported, r.prefix+"."+key+": "+what)
	}
}

// transformer reads what all the decoder-only families share.
func (r *reader) transformer() Spec {
	s := Spec{
		Layers:       r.count("block_count", maxLayers),
		Width:        r.count("embedding_length", maxWidth),
		FeedForward:  r.count("feed_forward_length", maxWidth),
		Heads:        r.count("attention.head_count", maxHeads),
		TrainContext: r.count("context_length", maxContext),
		NormEps:      float32(r.number("attention.layer_norm_rms_epsilon", 0, 1)),
		RopeBase:     r.number("rope.freq_base", 10000, 1e12),
		RopeScale:    1,
		Vocab:        r.vocabulary(),
		GateActivate: device.ActSiLU,
	}
	s.KVHeads, _ = r.countOr("attention.head_count_kv", s.Heads, maxHeads)
	if s.Heads > 0 {
		s.HeadDim, _ = r.countOr("attention.key_length", s.Width/s.Heads, maxWidth)
	}
	if v, found := r.countOr("attention.value_length", s.HeadDim, maxWidth); found && v != s.HeadDim {
		r.refuse("attention.value_length", true, "values of another length than keys")
	}
	s.RopeDims, _ = r.countOr("rope.dimension_count", s.HeadDim, maxWidth)
	experts, _ := r.countOr("expert_count", 0, maxWidth)
	r.refuse("expert_count", experts > 0, "mixture of experts")
	window, _ := r.countOr("attention.sliding_window", 0, maxContext)
	r.refuse("attention.sliding_window", window > 0 && window < s.TrainContext, "sliding-window attention")
	r.scaling(&s)
	return s
}

func (r *reader) scaling(s *Spec) {
	kind, _, err := r.file.String(r.prefix + ".rope.scaling.type")
	if err != nil {
		r.wrong = append(r.wrong, err.Error())
	}
	switch kind {
	case "", "none":
	case "linear":
		s.RopeScale = 1 / r.number("rope.scaling.factor", 1, 1e6)
	default:
		r.refuse("rope.scaling.type", true, fmt.Sprintf("rope scaling %.32q", kind))
	}
}

// vocabulary counts the tokens: the declared size if there is one, which files
// padded beyond their token list have, or the list's length.
func (r *reader) vocabulary() int {
	if n, found := r.countOr("vocab_size", 0, maxVocab); found {
		return n
	}
	tokens, ok, err := r.file.Strings("tokenizer.ggml.tokens")
	if err != nil {
		r.wrong = append(r.wrong, err.Error())
	} else if !ok {
		r.fail("tokenizer.ggml.tokens", "missing")
	} else if len(tokens) > maxVocab {
		r.fail("tokenizer.ggml.tokens", "%d tokens, at most %d", len(tokens), maxVocab)
	}
	return len(tokens)
}

// check looks at the numbers together, once each is in its own bounds.
func (r *reader) check(s *Spec) {
	if len(r.wrong) > 0 {
		return
	}
	key := func(k string) string { return r.prefix + "." + k }
	if s.Heads%s.KVHeads != 0 {
		r.fail(key("attention.head_count_kv"), "%d does not divide %d heads", s.KVHeads, s.Heads)
	}
	if s.HeadDim < 1 || s.HeadDim > 1<<12 || s.HeadDim%2 != 0 {
		r.fail(key("attention.key_length"), "heads of %d elements", s.HeadDim)
	}
	if s.HeadDim == s.Width/s.Heads && s.Width%s.Heads != 0 {
		r.fail(key("attention.head_count"), "%d does not divide the embedding length %d", s.Heads, s.Width)
	}
	if s.RopeDims%2 != 0 || s.RopeDims > s.HeadDim {
		r.fail(key("rope.dimension_count"), "%d of heads of %d elements", s.RopeDims, s.HeadDim)
	}
}
