package scripted

import (
	"fmt"
	"sync/atomic"
	"time"

	"kigo/engine/device"
)

// Pace is how long the steps of a device take that computes nothing, and what it
// gives for results.
type Pace struct {
	Step time.Duration // each step
	Row  time.Duration // and each of its rows

	Chunk  int    // blocks whose memory comes and goes together; 0: 1
	Rows   int    // Info.StepRows; 0: those of the device below
	Memory uint64 // Info.MemoryFree; 0: that of the device below

	// Next is the token with the largest logit after a text, of which it is given
	// the Hash. It may be called from any goroutine.
	Next func(hash uint64) int32
}

// Paced is a device for tests of many sequences, whose steps take a set time and
// almost no work: a thousand rows of short texts cost a fraction of a millisecond.
//
// In place of keys and values, its cache holds a mark of each token and its position,
// and the next token is a function of all that a row finds in its blocks. So a
// block that is lost, crossed between sequences, reused too early or shared with the
// wrong one changes a text, and what is right can be said without a device.
type Paced struct {
	device.Device // has the weights
	pace          Pace

	rows, steps, ahead atomic.Int64
	under, beside      atomic.Int64
}

// NewPaced makes such a device over on, which it closes.
func NewPaced(on device.Device, pace Pace) *Paced { return &Paced{Device: on, pace: pace} }

// Hash is that of a text: a sum of marks, so that the part of a block need not be
// computed again for each of the tokens after it.
func Hash(tokens []int32) uint64 {
	sum := uint64(0)
	for i, t := range tokens {
		sum += mark(i, t)
	}
	return mix(sum + uint64(len(tokens)))
}

// mark is 64 random bits that stand for a token at a position.
func mark(position int, token int32) uint64 { return mix(uint64(position)<<32 | uint64(uint32(token))) }

// mix is the finalizer of splitmix64.
func mix(h uint64) uint64 {
	h += 0x9e3779b97f4a7c15
	h = (h ^ h>>30) * 0xbf58476d1ce4e5b9
	h = (h ^ h>>27) * 0x94d049bb133111eb
	return h ^ h>>31
}

// Info is that of the device below, but for what the pace says.
func (d *Paced) Info() device.Info {
	info := d.Device.Info()
	if d.pace.Rows > 0 {
		info.StepRows = d.pace.Rows
	}
	if d.pace.Memory > 0 {
		info.MemoryFree = d.pace.Memory
	}
	return info
}

// Steps is how many steps were begun, and how many rows they had in all.
func (d *Paced) Steps() (steps, rows int64) { return d.steps.Load(), d.rows.Load() }

// Beside is how often a program was compiled or closed, or memory of a cache went, while a
// step was under way.
func (d *Paced) Beside() int64 { return d.beside.Load() }

func (d *Paced) changes() {
	if d.under.Load() > 0 {
		d.beside.Add(1)
	}
}

// Ahead is how many steps were begun while another one was under way.
func (d *Paced) Ahead() int64 { return d.ahead.Load() }

// CacheBlockBytes counts a token's number for each token.
func (d *Paced) CacheBlockBytes(shape device.CacheShape) uint64 { return 4 * uint64(shape.BlockSize) }

// NewCache makes a cache of tokens.
func (d *Paced) NewCache(shape device.CacheShape, blocks int) (device.Cache, error) {
	if shape.BlockSize < 1 || blocks < 1 {
		return nil, fmt.Errorf("cache of %d blocks of %d tokens", blocks, shape.BlockSize)
	}
	return &tokenCache{d: d, shape: shape, chunk: max(d.pace.Chunk, 1), marks: make([]uint64, blocks*shape.BlockSize), sums: make([]uint64, blocks), mapped: make([]bool, blocks)}, nil
}

// Compile needs nothing but the sizes.
func (d *Paced) Compile(p *device.Program, _ device.Weights, c device.Cache, opt device.CompileOptions) (device.Executable, error) {
	own, ok := c.(*tokenCache)
	if !ok {
		return nil, fmt.Errorf("%w: cache of another device (%T)", device.ErrBadProgram, c)
	}
	d.changes()
	return &pacedExec{d: d, cache: own, vocab: p.Vocab, maxRows: opt.MaxRows}, nil
}

// tokenCache has a mark for each slot of each block that there is memory for, and the
// sum of them for each block.
type tokenCache struct {
	d      *Paced
	shape  device.CacheShape
	chunk  int
	marks  []uint64
	sums   []uint64
	mapped []bool
	taken  int
}

func (c *tokenCache) Shape() device.CacheShape { return c.shape }
func (c *tokenCache) Blocks() int              { return len(c.mapped) }
func (c *tokenCache) Mapped(block int) bool    { return c.mapped[block] }
func (c *tokenCache) Bytes() uint64            { return 4 * uint64(c.taken*c.shape.BlockSize) }
func (c *tokenCache) Reserved() uint64         { return 4 * uint64(len(c.marks)) }
func (c *tokenCache) Close() error             { return nil }

func (c *tokenCache) Chunk(block int) (from, to int) {
	from = block / c.chunk * c.chunk
	return from, min(from+c.chunk, len(c.mapped))
}

func (c *tokenCache) Map(block int) error   { return c.set(block, true) }
func (c *tokenCache) Unmap(block int) error { return c.set(block, false) }

func (c *tokenCache) set(block int, mapped bool) error {
	if c.mapped[block] == mapped {
		return nil
	}
	from, to := c.Chunk(block)
	for b := from; b < to; b++ {
		c.mapped[b] = mapped
	}
	clear(c.marks[from*c.shape.BlockSize : to*c.shape.BlockSize]) // nobody's
	clear(c.sums[from:to])
	if !mapped {
		c.d.changes()
		from, to = to, from
	}
	c.taken += to - from
	return nil
}

// pacedExec is device.Executable and device.Chooser.
type pacedExec struct {
	d       *Paced
	cache   *tokenCache
	vocab   int
	maxRows int

	steps  [2]pacedStep // the latest two, in turn
	last   *pacedStep   // that began last
	asked  *pacedStep   // that Largest gave last
	under  int          // steps that were not asked about
	drawn  []int32
	logits []float32
	seqOf  []int // by row
}

// pacedStep is what is kept of a step.
type pacedStep struct {
	ends    time.Time
	largest []device.Ranked
	drawn   []int32
}

// other is the step that is not the one given.
func (x *pacedExec) other(than *pacedStep) *pacedStep {
	if than == &x.steps[0] {
		return &x.steps[1]
	}
	return &x.steps[0]
}

// Begin does all of a step's work at once, which comes to the same.
func (x *pacedExec) Begin(step *device.Step) error {
	c, before := x.cache, 0
	if x.last != nil {
		before = len(x.last.largest)
	}
	if err := step.Check(x.vocab, x.maxRows, c.shape.BlockSize, c.mapped, before); err != nil {
		return err
	}
	if x.under == len(x.steps) {
		return fmt.Errorf("%w: two steps are under way", device.ErrBadStep)
	}
	x.d.steps.Add(1)
	x.d.rows.Add(int64(len(step.Tokens)))
	begins := time.Now()
	if x.under > 0 {
		x.d.ahead.Add(1)
		if x.last.ends.After(begins) {
			begins = x.last.ends
		}
	}
	now := x.other(x.last)
	now.ends = begins.Add(x.d.pace.Step + time.Duration(len(step.Tokens))*x.d.pace.Row)
	row := 0
	x.seqOf = x.seqOf[:0]
	for i := range step.Seqs {
		s := &step.Seqs[i]
		for r := range s.Rows {
			token := step.Tokens[row]
			if token < 0 {
				token = x.last.largest[-1-token].ID
			}
			c.put(s.Blocks, s.Start+r, token)
			x.seqOf = append(x.seqOf, i)
			row++
		}
	}
	now.largest = now.largest[:0]
	first, of := 0, 0 // the first row of sequence of
	for _, r := range step.Logits {
		for ; of < x.seqOf[r]; of++ {
			first += step.Seqs[of].Rows
		}
		s := &step.Seqs[of]
		hash := c.hash(s.Blocks, s.Start+r-first+1)
		now.largest = append(now.largest, device.Ranked{ID: x.d.pace.Next(hash), Logit: 1})
	}
	x.last = now
	now.drawn = now.draw(now.drawn[:0], step.Draws)
	x.under++
	x.d.under.Add(1)
	return nil
}

func (c *tokenCache) slot(blocks []int32, position int) int {
	return int(blocks[position/c.shape.BlockSize])*c.shape.BlockSize + position%c.shape.BlockSize
}

func (c *tokenCache) put(blocks []int32, position int, token int32) {
	slot, m := c.slot(blocks, position), mark(position, token)
	c.sums[slot/c.shape.BlockSize] += m - c.marks[slot]
	c.marks[slot] = m
}

// hash is that of the first n tokens that are found in blocks.
func (c *tokenCache) hash(blocks []int32, n int) uint64 {
	sum, full := uint64(0), n/c.shape.BlockSize
	for _, b := range blocks[:full] {
		sum += c.sums[b]
	}
	for p := full * c.shape.BlockSize; p < n; p++ {
		sum += c.marks[c.slot(blocks, p)]
	}
	return mix(sum + uint64(n))
}

func (x *pacedExec) Largest() ([]device.Ranked, error) {
	of := x.last
	switch x.under {
	case 0:
		return nil, device.ErrPassed
	case 2:
		of = x.other(x.last)
	}
	x.under--
	x.asked = of
	x.d.under.Add(-1)
	time.Sleep(time.Until(of.ends))
	return of.largest, nil
}

// Draw tells what is certain: so cold that all tokens but one weigh nothing, and no
// logit is changed.
func (x *pacedExec) Draw(wants []device.Draw) ([]int32, error) {
	if x.under > 0 || x.last == nil {
		return nil, device.ErrPassed
	}
	x.drawn = x.last.draw(x.drawn[:0], wants)
	return x.drawn, nil
}

func (s *pacedStep) draw(ids []int32, wants []device.Draw) []int32 {
	for _, w := range wants {
		id := int32(-1)
		if w.Scale > 41 && len(w.Edits) == 0 && w.Allowed == nil {
			id = s.largest[w.Row].ID
		}
		ids = append(ids, id)
	}
	return ids
}

// Drawn is by the rules of Draw.
func (x *pacedExec) Drawn() []int32 {
	if x.asked == nil {
		return nil
	}
	return x.asked.drawn
}

// Fetch gives 1 to the next token and 0 to all others.
func (x *pacedExec) Fetch(rows []int) ([]float32, error) {
	if x.under > 0 || x.last == nil {
		return nil, device.ErrPassed
	}
	x.logits = append(x.logits[:0], make([]float32, len(rows)*x.vocab)...)
	for i, r := range rows {
		x.logits[i*x.vocab+int(x.last.largest[r].ID)] = 1
	}
	return x.logits, nil
}

func (x *pacedExec) Run(step *device.Step) ([]float32, error) {
	if err := step.Check(x.vocab, x.maxRows, x.cache.shape.BlockSize, x.cache.mapped, 0); err != nil {
		return nil, err
	}
	for x.under > 0 {
		if _, err := x.Largest(); err != nil {
			return nil, err
		}
	}
	x.last = nil
	if err := x.Begin(step); err != nil {
		return nil, err
	}
	if _, err := x.Largest(); err != nil {
		return nil, err
	}
	rows := make([]int, len(step.Logits))
	for i := range rows {
		rows[i] = i
	}
	logits, err := x.Fetch(rows)
	x.last = nil // of what follows Begin nobody can name a row of this
	return logits, err
}

func (x *pacedExec) ScratchBytes() uint64 { return 0 }
func (x *pacedExec) Close() error {
	x.d.changes()
	x.d.under.Add(-int64(x.under))
	x.under = 0
	return nil
}
