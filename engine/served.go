package engine

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"kigo/engine/chat"
	"kigo/engine/device"
	"kigo/engine/gguf"
	"kigo/engine/kv"
	"kigo/engine/load"
	"kigo/engine/model"
	"kigo/engine/sched"
	"kigo/engine/tokenizer"
)

// blockTokens is the size of a KV block: small enough that little is wasted at a
// sequence's end, large enough that block tables stay short.
const blockTokens = 16

// served is a model on the device with everything that answers requests.
type served struct {
	info       ModelInfo
	tokens     *tokenizer.Tokenizer
	chat       *chat.Template // nil: the file has none
	vocab      int            // tokens that have a text
	width      int            // logits in a row: more than vocab where a file pads it
	maxContext int

	weights device.Weights
	cache   device.Cache
	exec    device.Executable
	kvBytes atomic.Uint64 // that the cache takes

	// The owner's.
	times   stepTimes
	sched   *sched.Scheduler
	seqs    map[sched.ID]*sequence
	memory  kvMemory
	retired bool // no new streams; freed after its last one
}

// plan is what a load needs to know before it takes any memory.
type plan struct {
	file    *gguf.File
	spec    *model.Spec
	binding *model.Binding
	program *device.Program
	shape   device.CacheShape
	blocks  int
	pool    *kv.Pool // of the cache, once that is made
	context int
	notes   []string
}

// newPlan reads the header and works out what fits. Nothing is allocated on
// the device.
func (e *Engine) newPlan(f File) (*plan, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("model file: %w", err)
	}
	p := &plan{}
	if p.file, err = gguf.Parse(f, info.Size(), gguf.Limits{}); err != nil {
		return nil, err
	}
	if p.spec, err = model.NewSpec(p.file); err != nil {
		return nil, err
	}
	if p.binding, err = model.Bind(p.spec, p.file); err != nil {
		return nil, err
	}
	p.program = model.Record(p.spec, p.binding)
	if err := p.program.Check(); err != nil {
		return nil, err
	}
	for _, name := range p.binding.Unused[:min(len(p.binding.Unused), 10)] {
		p.notes = append(p.notes, fmt.Sprintf("tensor %q is not used", name))
	}
	return p, e.size(p)
}

// cpuContexts is how many full contexts the KV cache holds at most on a processor,
// whose memory is not the engine's own. Sequences are shorter as a rule; where they
// are not, some wait for others.
const cpuContexts = 8

// size decides on the context and the number of KV blocks. Unless CacheTokens says
// another number, the cache reserves room for MaxConcurrent full contexts; but in any
// case no more than half the memory that the weights leave, of which one full context
// must be free now and the rest may be with the model that is replaced. A context that
// was not asked for shrinks to what fits.
func (e *Engine) size(p *plan) error {
	p.shape = p.program.Cache
	p.shape.BlockSize = blockTokens
	perBlock := e.dev.CacheBlockBytes(p.shape)
	p.context = p.spec.TrainContext
	if e.cfg.MaxContext > 0 {
		p.context = min(p.context, e.cfg.MaxContext)
	}
	blocksFor := func(tokens int) uint64 { return uint64((tokens + blockTokens - 1) / blockTokens) }
	contexts := e.cfg.MaxConcurrent
	if e.dev.Info().Kind != "cuda" {
		contexts = min(contexts, cpuContexts)
	}
	blocks := blocksFor(p.context) * uint64(contexts)
	if e.cfg.CacheTokens > 0 {
		blocks = max(blocksFor(p.context), uint64(e.cfg.CacheTokens/blockTokens))
	}
	weights := p.binding.Bytes()
	free := e.dev.Info().MemoryFree
	if free > 0 && free < weights+2*blocksFor(p.context)*perBlock && e.servingNow() != nil {
		if err := e.owner.call(e.owner.makeRoom); err != nil {
			return err
		}
		free = e.dev.Info().MemoryFree
	}
	if free > 0 {
		if weights >= free {
			return fmt.Errorf("%w: the weights take %d bytes, %d are free", ErrDoesNotFit, weights, free)
		}
		room := (free - weights) / 2 / perBlock
		if room < blocksFor(p.context) {
			const least = 256
			if e.cfg.MaxContext > 0 || room < blocksFor(least) {
				return fmt.Errorf("%w: a context of %d tokens takes %d bytes beside %d of weights, %d are free",
					ErrDoesNotFit, p.context, blocksFor(p.context)*perBlock, weights, free)
			}
			p.context = int(room) * blockTokens
			p.notes = append(p.notes, fmt.Sprintf("the context is cut from %d to %d tokens to fit the memory", p.spec.TrainContext, p.context))
		}
		blocks = min(blocks, (free-weights+e.replaced())/2/perBlock)
	}
	if blocks > math.MaxInt32 {
		return fmt.Errorf("%w: %d KV blocks", ErrDoesNotFit, blocks)
	}
	p.blocks = int(blocks)
	return nil
}

// build brings the planned model onto the device. On an error nothing is left
// behind.
func (e *Engine) build(ctx context.Context, p *plan, r LoadRequest, c *clock) (m *served, err error) {
	m = &served{vocab: p.spec.Vocab, width: p.spec.Vocab, maxContext: p.context, seqs: map[sched.ID]*sequence{}}
	defer func() {
		if err != nil {
			err = errors.Join(err, e.discard(m))
			m = nil
		}
	}()
	if m.weights, err = e.dev.NewWeights(p.binding.Tensors); err != nil {
		return m, err
	}
	sources := load.Sources(p.binding)
	var hashes []uint64
	c.enter(StageRead)
	group, groupCtx := errgroup.WithContext(ctx)
	group.Go(func() (err error) {
		hashes, err = load.Read(groupCtx, r.File, sources, m.weights, c.read)
		return err
	})
	group.Go(func() error {
		done := c.alongside(&c.times.Tokenizer)
		defer done()
		return m.readTokenizer(p)
	})
	if err := group.Wait(); err != nil {
		return m, err
	}
	if n := m.tokens.VocabSize(); n > p.spec.Vocab {
		return m, fmt.Errorf("%w: %d tokens for a vocabulary of %d", model.ErrInvalid, n, p.spec.Vocab)
	}
	m.vocab = m.tokens.VocabSize()
	if !e.cfg.SkipVerify {
		c.enter(StageVerify)
		if err := load.Verify(ctx, sources, hashes, m.weights); err != nil {
			return m, err
		}
	}
	c.enter(StageCompile)
	if err := e.owner.callAlone(func() error {
		return e.owner.inDevice(time.Now(), 0, func() error { return m.compile(e.dev, p, e.maxRows()) })
	}); err != nil {
		return m, err
	}
	c.enter(StageWarmUp)
	if err := e.owner.callAlone(func() error { return m.warmUp(e.owner) }); err != nil {
		return m, fmt.Errorf("first token: %w", err)
	}
	if m.sched, err = sched.New(sched.Config{
		MaxRunning: e.cfg.MaxConcurrent,
		MaxWaiting: e.cfg.MaxConcurrent + e.cfg.MaxQueue, // Submit holds the real bound
		MaxRows:    e.maxRows(),
		ChunkRows:  e.chunkRows(),
		Aging:      int64(time.Second),
		MaxTenants: 1 << 12,
		Reuse:      !e.cfg.NoPrefixCache,
		Salt:       r.Name,
	}, p.pool); err != nil {
		return m, err
	}
	m.memory.least = p.pool.Limit()
	m.kvBytes.Store(m.cache.Bytes())
	m.info = ModelInfo{
		Name:          r.Name,
		Architecture:  p.spec.Architecture,
		Description:   p.spec.Name,
		Parameters:    p.binding.Parameters(),
		Quantization:  p.binding.Quantization(),
		ContextLength: m.maxContext,
		TrainContext:  p.spec.TrainContext,
		Vocabulary:    m.vocab,
		Tokenizer:     m.tokens.Name(),
		ChatTemplate:  m.chat != nil,
		Tensors:       len(p.binding.Tensors),
		Memory: MemoryUse{
			Weights: m.weights.Bytes(), KV: m.cache.Bytes(), KVReserved: m.cache.Reserved(), Scratch: m.exec.ScratchBytes(),
		},
		TokenBytes: e.dev.CacheBlockBytes(p.shape) / blockTokens,
		Verified:   !e.cfg.SkipVerify,
		Warnings:   p.notes,
	}
	return m, nil
}

// describe is what there is to know of a model in service.
func (m *served) describe() ModelInfo {
	info := m.info
	info.Memory.KV = m.kvBytes.Load()
	return info
}

// readTokenizer makes the tokenizer and the chat template. A template that
// Kigo cannot run costs the model its chat and nothing else.
func (m *served) readTokenizer(p *plan) error {
	var err error
	if m.tokens, err = tokenizer.FromGGUF(p.file); err != nil {
		return err
	}
	source, ok, err := p.file.String("tokenizer.chat_template")
	if err != nil || !ok {
		return err
	}
	m.chat, err = chat.Parse(source)
	if errors.Is(err, chat.ErrTemplate) || errors.Is(err, chat.ErrNoTemplate) {
		p.notes = append(p.notes, fmt.Sprintf("the chat template cannot be used: %v", err))
		return nil
	}
	return err
}

func (m *served) compile(dev device.Device, p *plan, rows int) (err error) {
	if m.cache, p.pool, err = newKV(dev, p); err != nil {
		return err
	}
	m.exec, err = dev.Compile(p.program, m.weights, m.cache, device.CompileOptions{MaxRows: rows})
	return err
}

// chunkRows is how many rows of prompts a step has beside those of sequences that
// generate.
func (e *Engine) chunkRows() int {
	if e.cfg.ChunkRows > 0 {
		return e.cfg.ChunkRows
	}
	return e.dev.Info().StepRows
}

// maxRows is how many rows a step can have: the device's own number where that
// leaves room for prompts beside all sequences, and else one for each and a chunk.
func (e *Engine) maxRows() int {
	rows := e.dev.Info().StepRows
	if e.chunkRows() <= rows && 2*e.cfg.MaxConcurrent <= rows {
		return rows
	}
	return e.cfg.MaxConcurrent + e.chunkRows()
}

// warmUp generates one token, so that a model in service is known to work.
func (m *served) warmUp(o *owner) error {
	first, ok := m.tokens.BOS()
	if !ok {
		first = 0
	}
	logits, err := o.warmUp(m, first)
	if err != nil {
		return err
	}
	for i, v := range logits {
		if math.IsNaN(float64(v)) || math.IsInf(float64(v), 0) {
			return fmt.Errorf("%w: logit %d of the first token is %v: the weights hold values that are not numbers", model.ErrInvalid, i, v)
		}
	}
	return nil
}

// close frees what there is.
func (m *served) close() error {
	var errs []error
	if m.exec != nil {
		errs = append(errs, m.exec.Close())
	}
	if m.cache != nil {
		errs = append(errs, m.cache.Close())
	}
	if m.weights != nil {
		errs = append(errs, m.weights.Close())
	}
	return errors.Join(errs...)
}
