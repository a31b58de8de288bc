// Package verify compares the forward pass of a model stage by stage: embedding,
// norms, projections, rotations, attention, feed-forward, logits. It is how a
// wrong answer is traced to the operator that makes it, on the user's own
// model and machine.
package verify

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"

	"kigo/engine/device"
	"kigo/engine/device/cpu"
	"kigo/engine/gguf"
	"kigo/engine/load"
	"kigo/engine/model"
	"kigo/engine/quant"
	"kigo/engine/tokenizer"
)

// ErrReference says that a reference file is not one, or not of this model.
var ErrReference = errors.New("unusable reference file")

// Options say what to compare.
type Options struct {
	Model     *gguf.File
	ModelData load.File

	// Reference is a file of stages from another engine: a GGUF file of F32
	// tensors named by stage, with the prompt in kigo.reference.tokens. With
	// it, the reference path is measured against the file; without it, the
	// served path against the reference path.
	Reference     *gguf.File
	ReferenceData load.File

	Threads int // 0 means all
}

// Report is the outcome, stage by stage in order of computation.
type Report struct {
	Subject string // what was measured
	Against string // and against what
	Tokens  []int32
	Stages  []Stage
	Bound   float64 // on RMS / RefRMS of a stage
	OK      bool    // every stage is
}

// Stage is the difference of one stage's results, over Rows x Width elements.
type Stage struct {
	Name        string
	Rows, Width int
	RMS         float64 // root mean square of the difference
	RefRMS      float64 // root mean square of what it is compared with
	MaxAbs      float64 // the worst element's difference
	WorstRow    int     // where it is
	WorstCol    int
	Got, Want   float32 // and its two values
	OK          bool    // RMS is at most the bound times RefRMS, and nothing is NaN
}

// The bounds on a stage's relative error. Two float32 implementations differ
// by their orders of summation alone; activations of 16 bits add little to it.
// A wrong operator is off by about 100 %.
const (
	boundReference = 1e-3
	boundServed    = 1e-2
)

// defaultPrompt is what is processed when no reference file brings tokens.
const defaultPrompt = "The old pond; a frog jumps in, and 42 rings of water spread."

// Run loads the model, runs both sides and compares.
func Run(ctx context.Context, o Options) (*Report, error) {
	spec, err := model.NewSpec(o.Model)
	if err != nil {
		return nil, err
	}
	binding, err := model.Bind(spec, o.Model)
	if err != nil {
		return nil, err
	}
	program := model.Record(spec, binding)
	weights, err := loadWeights(ctx, o, binding)
	if err != nil {
		return nil, err
	}
	defer weights.Close()

	report := &Report{Subject: "served path (cpu)", Against: "reference path (cpu, float64 sums)", Bound: boundServed}
	var want []taken
	if o.Reference != nil {
		report.Subject, report.Bound = report.Against, boundReference
		if report.Tokens, want, err = readReference(o); err != nil {
			return nil, err
		}
		report.Against, _, _ = o.Reference.String("kigo.reference.engine")
		got, err := record(o, program, weights, report.Tokens, true)
		if err != nil {
			return nil, err
		}
		return report, report.compare(got, want)
	}
	if report.Tokens, err = promptTokens(o.Model, spec.Vocab); err != nil {
		return nil, err
	}
	if want, err = record(o, program, weights, report.Tokens, true); err != nil {
		return nil, err
	}
	got, err := record(o, program, weights, report.Tokens, false)
	if err != nil {
		return nil, err
	}
	return report, report.compare(got, want)
}

// promptTokens tokenizes the default prompt, or, for a model whose tokenizer
// Kigo does not have, takes ids from all over the vocabulary.
func promptTokens(f *gguf.File, vocab int) ([]int32, error) {
	t, err := tokenizer.FromGGUF(f)
	if err == nil {
		return t.Encode([]byte(defaultPrompt), tokenizer.EncodeOptions{AddSpecial: true}), nil
	}
	if !errors.Is(err, tokenizer.ErrUnsupported) {
		return nil, err
	}
	ids := make([]int32, 12)
	for i := range ids {
		ids[i] = int32((i*2654435761 + 97) % vocab)
	}
	return ids, nil
}

func loadWeights(ctx context.Context, o Options, b *model.Binding) (device.Weights, error) {
	dev, err := cpu.New(cpu.Config{Threads: 1})
	if err != nil {
		return nil, err
	}
	defer dev.Close()
	w, err := dev.NewWeights(b.Tensors)
	if err != nil {
		return nil, err
	}
	sources := load.Sources(b)
	hashes, err := load.Read(ctx, o.ModelData, sources, w, nil)
	if err == nil {
		err = load.Verify(ctx, sources, hashes, w)
	}
	if err != nil {
		return nil, errors.Join(err, w.Close())
	}
	return w, nil
}

// taken is one stage's result.
type taken struct {
	stage       string
	rows, width int
	data        []float32
}

// record runs the tokens as one prompt and keeps every stage.
func record(o Options, p *device.Program, w device.Weights, tokens []int32, reference bool) ([]taken, error) {
	dev, err := cpu.New(cpu.Config{Threads: o.Threads, Reference: reference})
	if err != nil {
		return nil, err
	}
	defer dev.Close()
	shape := p.Cache
	shape.BlockSize = 16
	blocks := make([]int32, (len(tokens)+15)/16)
	for i := range blocks {
		blocks[i] = int32(i)
	}
	cache, err := dev.NewCache(shape, len(blocks))
	if err != nil {
		return nil, err
	}
	defer cache.Close()
	var all []taken
	x, err := dev.Compile(p, w, cache, device.CompileOptions{
		MaxRows: len(tokens),
		Tap: func(stage string, rows, width int, data []float32) {
			all = append(all, taken{stage, rows, width, append([]float32(nil), data...)})
		},
	})
	if err != nil {
		return nil, err
	}
	defer x.Close()
	_, err = x.Run(&device.Step{
		Tokens: tokens,
		Seqs:   []device.SeqRows{{Rows: len(tokens), Blocks: blocks}},
		Logits: []int{len(tokens) - 1},
	})
	return all, err
}

// maxReferenceTokens bounds what a reference file can make us compute.
const maxReferenceTokens = 4096

// readReference reads the prompt and the stages of a reference file.
func readReference(o Options) ([]int32, []taken, error) {
	tokens, ok, err := o.Reference.Ints("kigo.reference.tokens")
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrReference, err)
	}
	if !ok || len(tokens) == 0 || len(tokens) > maxReferenceTokens {
		return nil, nil, fmt.Errorf("%w: kigo.reference.tokens has %d tokens, want 1 to %d", ErrReference, len(tokens), maxReferenceTokens)
	}
	var all []taken
	for i := range o.Reference.Tensors {
		t := &o.Reference.Tensors[i]
		if t.Type != quant.F32 || len(t.Dims) > 2 || t.Size > 1<<30 {
			return nil, nil, fmt.Errorf("%w: stage %q is %v of %d dimensions and %d bytes, want F32 of one or two", ErrReference, t.Name, t.Type, len(t.Dims), t.Size)
		}
		raw := make([]byte, t.Size)
		if _, err := o.ReferenceData.ReadAt(raw, t.Offset); err != nil {
			return nil, nil, fmt.Errorf("stage %q: %w", t.Name, err)
		}
		s := taken{stage: t.Name, rows: 1, width: int(t.Dims[0]), data: make([]float32, t.Size/4)}
		if len(t.Dims) == 2 {
			s.rows = int(t.Dims[1])
		}
		format, err := quant.Lookup(t.Type)
		if err != nil {
			return nil, nil, err
		}
		format.Dequantize(s.data, raw)
		all = append(all, s)
	}
	return tokens, all, nil
}

// compare fills the stages, in the order in which got has them. A side that
// has fewer rows of a stage has the last ones.
func (r *Report) compare(got, want []taken) error {
	wanted := make(map[string]*taken, len(want))
	for i := range want {
		wanted[want[i].stage] = &want[i]
	}
	r.OK = true
	for i := range got {
		g := &got[i]
		w := wanted[g.stage]
		if w == nil {
			continue
		}
		delete(wanted, g.stage)
		if g.width != w.width {
			return fmt.Errorf("%w: stage %q is %d wide, the model's is %d", ErrReference, g.stage, w.width, g.width)
		}
		s := difference(g, w)
		s.OK = s.RMS <= r.Bound*s.RefRMS // false for NaN
		r.OK = r.OK && s.OK
		r.Stages = append(r.Stages, s)
	}
	if len(wanted) > 0 || len(r.Stages) == 0 {
		var names []string
		for _, w := range want {
			if wanted[w.stage] != nil && len(names) < 10 {
				names = append(names, w.stage)
			}
		}
		return fmt.Errorf("%w: %d of its stages are not in this model: %s", ErrReference, len(wanted), strings.Join(names, ", "))
	}
	return nil
}

func difference(g, w *taken) Stage {
	rows := min(g.rows, w.rows)
	a, b := g.data[(g.rows-rows)*g.width:], w.data[(w.rows-rows)*w.width:]
	s := Stage{Name: g.stage, Rows: rows, Width: g.width, MaxAbs: -1}
	var diff2, ref2 float64
	for i := range b {
		d := float64(a[i]) - float64(b[i])
		diff2 += d * d
		ref2 += float64(b[i]) * float64(b[i])
		if math.Abs(d) > s.MaxAbs || math.IsNaN(d) && !math.IsNaN(s.MaxAbs) {
			s.MaxAbs, s.WorstRow, s.WorstCol, s.Got, s.Want = math.Abs(d), i/g.width, i%g.width, a[i], b[i]
		}
	}
	s.RMS, s.RefRMS = math.Sqrt(diff2/float64(len(b))), math.Sqrt(ref2/float64(len(b)))
	return s
}
