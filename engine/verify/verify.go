// Package verify compares the forward pass of a model stage by stage: embedding,
// norms, projections, rotations, attention, feed-forward, logits. It is how a
// wrong answer is traced to the operator that makes it, on the user's own
// model, processor and GPU.
package verify

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"

	"kigo/engine/device/devices"
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
	// tensors named by stage, with the prompt in kigo.reference.tokens. Without
	// it, the stages are those of the reference path on the CPU.
	Reference     *gguf.File
	ReferenceData load.File

	// Device is what is measured: "auto" or "", "cpu", "cuda", "cuda:1". On the
	// CPU that is the served path, or, against a file, the reference path.
	Device  string
	Checks  bool // on a GPU: wait after every kernel, name the one that fails, look for NaNs
	Threads int  // of the CPU; 0 means all
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
// by their orders of summation alone, and the CPU's served path, with its
// activations of 16 bits, adds little to it. On a GPU, what enters a product is
// rounded to float16 (2^-12 at most), which leaves some 1e-3; but keys are float16,
// too, and where a model has large ones, scores are off by more: Qwen2's keys have
// biases of hundreds in the first layer, and its attention is off by 1.5e-2 there,
// of which little is left behind it. A wrong operator is off by about 100 %.
const (
	boundReference = 1e-3
	boundServed    = 1e-2
	boundGPU       = 3e-2
)

// defaultPrompt is what is processed when no reference file brings tokens.
const defaultPrompt = "The old pond; a frog jumps in, and 42 rings of water spread."

const referencePath = "reference path (cpu, float64 sums)"

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
	m := &measured{o: o, binding: binding, program: model.Record(spec, binding)}
	dev, _, err := devices.Open(devices.Options{Name: o.Device, Threads: o.Threads, Checks: o.Checks})
	if err != nil {
		return nil, err
	}
	defer dev.Close()
	info := dev.Info()
	onCPU := info.Kind == "cpu"
	report := &Report{Subject: "served path (cpu)", Against: referencePath, Bound: boundServed}
	if !onCPU {
		report.Subject = fmt.Sprintf("served path (%s, %s)", info.Kind, info.Name)
		report.Bound = boundGPU
	}

	if o.Reference != nil {
		var want []taken
		if report.Tokens, want, err = readReference(o); err != nil {
			return nil, err
		}
		report.Against, _, _ = o.Reference.String("kigo.reference.engine")
		if onCPU { // the file is exact enough for the reference path
			report.Subject, report.Bound = referencePath, boundReference
			got, err := m.onCPU(ctx, report.Tokens, true)
			if err != nil {
				return nil, err
			}
			return report, report.compare(got[0], want)
		}
		got, err := m.on(ctx, dev, report.Tokens)
		if err != nil {
			return nil, err
		}
		return report, report.compare(got, againAsServed(want))
	}

	if report.Tokens, err = promptTokens(o.Model, spec.Vocab); err != nil {
		return nil, err
	}
	if onCPU {
		sides, err := m.onCPU(ctx, report.Tokens, true, false)
		if err != nil {
			return nil, err
		}
		return report, report.compare(sides[1], sides[0])
	}
	want, err := m.onCPU(ctx, report.Tokens, true)
	if err != nil {
		return nil, err
	}
	got, err := m.on(ctx, dev, report.Tokens)
	if err != nil {
		return nil, err
	}
	return report, report.compare(got, againAsServed(want[0]))
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
