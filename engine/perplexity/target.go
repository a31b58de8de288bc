package perplexity

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"

	"kigo/engine/device"
	"kigo/engine/device/devices"
	"kigo/engine/load"
	"kigo/engine/model"
	"kigo/engine/tokenizer"
)

// plan is what a model needs, before any memory is taken.
type plan struct {
	Model
	binding *model.Binding
	program *device.Program
	tokens  *tokenizer.Tokenizer
}

func newPlan(m Model, context int) (*plan, error) {
	spec, err := model.NewSpec(m.File)
	if err != nil {
		return nil, err
	}
	if context > spec.TrainContext {
		return nil, fmt.Errorf("%w: chunks of %d tokens, the model is made for %d", ErrContext, context, spec.TrainContext)
	}
	p := &plan{Model: m}
	if p.binding, err = model.Bind(spec, m.File); err != nil {
		return nil, err
	}
	if p.tokens, err = tokenizer.FromGGUF(m.File); err != nil {
		return nil, err
	}
	if n := p.tokens.VocabSize(); n > spec.Vocab {
		return nil, fmt.Errorf("%w: %d tokens for a vocabulary of %d", model.ErrInvalid, n, spec.Vocab)
	}
	p.program = model.Record(spec, p.binding)
	return p, nil
}

// sameVocabulary reports the first thing in which two vocabularies differ: logits
// can be compared only if each stands for the same text.
func sameVocabulary(a, b *tokenizer.Tokenizer) error {
	if a.VocabSize() != b.VocabSize() {
		return fmt.Errorf("%w: %d tokens and %d", ErrVocabulary, a.VocabSize(), b.VocabSize())
	}
	var textA, textB []byte
	for id := range int32(a.VocabSize()) {
		textA, textB = a.AppendPiece(textA[:0], id, true), b.AppendPiece(textB[:0], id, true)
		if !bytes.Equal(textA, textB) {
			return fmt.Errorf("%w: token %d is %.40q and %.40q", ErrVocabulary, id, textA, textB)
		}
	}
	bosA, _ := a.BOS()
	bosB, _ := b.BOS()
	if a.AddsBOS() != b.AddsBOS() || a.AddsBOS() && bosA != bosB {
		return fmt.Errorf("%w: they begin texts in different ways", ErrVocabulary)
	}
	return nil
}

// sameTokens says whether t makes those tokens of the text, BOS apart.
func sameTokens(t *tokenizer.Tokenizer, text []byte, tokens []int32) bool {
	if t.AddsBOS() {
		tokens = tokens[1:]
	}
	return slices.Equal(t.Encode(text, tokenizer.EncodeOptions{}), tokens)
}

// target is one or two models, ready to run.
type target struct {
	runners   []*runner // the model, and the base if there is one
	devices   []device.Device
	stepRows  int // of a step at most
	logitRows int // of a step whose logits are wanted
}

// runner is one of them on its device, which others may share.
type runner struct {
	plan    *plan
	dev     device.Device
	weights device.Weights
	cache   device.Cache
	exec    device.Executable
	blocks  []int32
	logits  []float32 // of the latest step
}

const blockTokens = 16 // of a KV block

// open loads the models. The caller closes the target.
func open(ctx context.Context, plans []*plan, o Options) (_ *target, err error) {
	t := &target{}
	defer func() {
		if err != nil && !errors.Is(err, device.ErrLost) {
			err = errors.Join(err, t.close())
		}
	}()
	total, before, rowBytes := uint64(0), uint64(0), 0
	for _, p := range plans {
		total += p.binding.Bytes()
		rowBytes += 4 * p.program.Vocab
	}
	for i, p := range plans {
		r := &runner{plan: p}
		t.runners = append(t.runners, r)
		if i > 0 && p.Device == plans[0].Device {
			r.dev = t.devices[0]
		} else {
			r.dev, _, err = o.openDevice(devices.Options{Name: p.Device, Threads: o.Threads, Checks: o.Checks})
			if err != nil {
				return nil, err
			}
			t.devices = append(t.devices, r.dev)
		}
		if n := r.dev.Info().StepRows; i == 0 || n < t.stepRows {
			t.stepRows = n
		}
		report := func(done load.Progress) {
			if o.Loading != nil {
				o.Loading(before+done.Bytes, total)
			}
		}
		if err := r.load(ctx, o.Context, report); err != nil {
			return nil, err
		}
		before += p.binding.Bytes()
	}
	t.stepRows = min(t.stepRows, o.Context)
	t.logitRows = max(1, maxLogits/rowBytes)
	for _, r := range t.runners {
		opt := device.CompileOptions{MaxRows: t.stepRows}
		if r.exec, err = r.dev.Compile(r.plan.program, r.weights, r.cache, opt); err != nil {
			return nil, err
		}
	}
	return t, nil
}

// load brings the weights to the device and makes a cache for one chunk.
func (r *runner) load(ctx context.Context, context int, report func(load.Progress)) (err error) {
	shape := r.plan.program.Cache
	shape.BlockSize = blockTokens
	r.blocks = make([]int32, (context+blockTokens-1)/blockTokens)
	for i := range r.blocks {
		r.blocks[i] = int32(i)
	}
	need := r.plan.binding.Bytes() + uint64(len(r.blocks))*r.dev.CacheBlockBytes(shape)
	if free := r.dev.Info().MemoryFree; free > 0 && need > free {
		return fmt.Errorf("%w: weights and KV cache take %d bytes, %d are free", device.ErrOutOfMemory, need, free)
	}
	if r.weights, err = load.Weights(ctx, r.dev, r.plan.binding, r.plan.Data, report); err != nil {
		return err
	}
	r.cache, err = device.WholeCache(r.dev, shape, len(r.blocks))
	return err
}

// run performs a step of the chunk.
func (r *runner) run(chunk []int32, s span) (err error) {
	step := device.Step{
		Tokens: chunk[s.start : s.start+s.rows],
		Seqs:   []device.SeqRows{{Rows: s.rows, Start: s.start, Blocks: r.blocks}},
	}
	if s.counted {
		for i := range s.rows {
			step.Logits = append(step.Logits, i)
		}
	}
	r.logits, err = r.exec.Run(&step)
	return err
}

// row gives the logits of row i of the latest step, of the tokens that have a text:
// more are padding.
func (r *runner) row(i int) []float32 {
	width := r.plan.program.Vocab
	return r.logits[i*width : i*width+r.plan.tokens.VocabSize()]
}

func (r *runner) describe() Device {
	info := r.dev.Info()
	return Device{info.Kind, info.Name}
}

// bos is the token that each chunk begins with, if there is one.
func (t *target) bos() (int32, bool) {
	tokens := t.runners[0].plan.tokens
	bos, ok := tokens.BOS()
	return bos, ok && tokens.AddsBOS()
}

// close frees what there is.
func (t *target) close() error {
	var errs []error
	for _, r := range t.runners {
		if r.exec != nil {
			errs = append(errs, r.exec.Close())
		}
		if r.cache != nil {
			errs = append(errs, r.cache.Close())
		}
		if r.weights != nil {
			errs = append(errs, r.weights.Close())
		}
	}
	for _, d := range t.devices {
		errs = append(errs, d.Close())
	}
	return errors.Join(errs...)
}
