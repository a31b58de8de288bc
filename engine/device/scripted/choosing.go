package scripted

import (
	"fmt"
	"slices"
	"sync/atomic"

	"kigo/engine/device"
)

// Choosing is a device for tests of steps that begin while others are under way: all work
// is done by another device that can only run them, and each step is run when somebody
// asks about it, as late as that can be. So whatever the caller changes meanwhile of what
// the step works on is seen. Of the tokens to be drawn some are left to the host.
type Choosing struct {
	device.Device
	steps, ahead atomic.Int64
}

// NewChoosing makes such a device over on, which it closes.
func NewChoosing(on device.Device) *Choosing { return &Choosing{Device: on} }

// Steps is how many steps were begun, and how many of them while another one was under
// way.
func (d *Choosing) Steps() (all, ahead int64) { return d.steps.Load(), d.ahead.Load() }

// Compile is device.Device's.
func (d *Choosing) Compile(p *device.Program, w device.Weights, c device.Cache, opt device.CompileOptions) (device.Executable, error) {
	x, err := d.Device.Compile(p, w, c, opt)
	if err != nil {
		return nil, err
	}
	return &choosing{Executable: x, d: d, cache: c, vocab: p.Vocab, maxRows: opt.MaxRows}, nil
}

// choosing is device.Executable and device.Chooser.
type choosing struct {
	device.Executable
	d       *Choosing
	cache   device.Cache
	vocab   int
	maxRows int

	under  []*device.Step // have begun, and were not asked about
	rows   int            // with logits, of the step that began last; 0 after Run
	asked  bool           // Fetch may be called
	logits []float32      // of the step that was run last
	best   []device.Ranked
	drawn  []int32
	next   []int32 // the tokens of the rows of that step
}

// check refuses a step that breaks the rules, where it can name so many rows of another.
func (x *choosing) check(step *device.Step, before int) error {
	mapped := make([]bool, x.cache.Blocks())
	for b := range mapped {
		mapped[b] = x.cache.Mapped(b)
	}
	return step.Check(x.vocab, x.maxRows, x.cache.Shape().BlockSize, mapped, before)
}

func (x *choosing) Begin(step *device.Step) error {
	if err := x.check(step, x.rows); err != nil {
		return err
	}
	if len(x.under) == 2 {
		return fmt.Errorf("%w: two steps are under way", device.ErrBadStep)
	}
	x.d.steps.Add(1)
	if len(x.under) > 0 {
		x.d.ahead.Add(1)
	}
	own := &device.Step{Tokens: slices.Clone(step.Tokens), Seqs: slices.Clone(step.Seqs), Logits: slices.Clone(step.Logits)}
	for i := range own.Seqs {
		own.Seqs[i].Blocks = slices.Clone(own.Seqs[i].Blocks)
	}
	for _, w := range step.Draws {
		plan := *w.Plan
		plan.Edits = slices.Clone(plan.Edits)
		own.Draws = append(own.Draws, device.Draw{Row: w.Row, Plan: &plan})
	}
	x.under, x.rows, x.asked = append(x.under, own), len(step.Logits), false
	return nil
}

func (x *choosing) Largest() ([]device.Ranked, error) {
	if len(x.under) == 0 {
		return nil, device.ErrPassed
	}
	step := x.under[0]
	x.under = x.under[1:]
	for i, t := range step.Tokens {
		if t < 0 {
			step.Tokens[i] = x.next[-1-t]
		}
	}
	logits, err := x.Executable.Run(step)
	if err != nil {
		return nil, err
	}
	x.logits, x.asked = append(x.logits[:0], logits...), true
	x.best, x.next = nil, nil
	for row := x.logits; len(row) > 0; row = row[x.vocab:] {
		at := 0
		for id, v := range row[:x.vocab] {
			if v > row[at] {
				at = id
			}
		}
		x.best = append(x.best, device.Ranked{ID: int32(at), Logit: row[at]})
		x.next = append(x.next, int32(at))
	}
	x.drawn = x.draw(step.Draws)
	for i, w := range step.Draws {
		if x.drawn[i] >= 0 {
			x.next[w.Row] = x.drawn[i]
		}
	}
	return x.best, nil
}

func (x *choosing) Drawn() []int32 { return x.drawn }

// draw leaves a token in nine to the host.
func (x *choosing) draw(wants []device.Draw) (ids []int32) {
	for _, w := range wants {
		id, err := w.Plan.Choose(x.logits[w.Row*x.vocab : (w.Row+1)*x.vocab])
		if err != nil || w.Random%9 == 0 {
			id = -1
		}
		ids = append(ids, id)
	}
	return ids
}

func (x *choosing) Draw(wants []device.Draw) ([]int32, error) {
	if len(x.under) > 0 || !x.asked {
		return nil, device.ErrPassed
	}
	return x.draw(wants), nil
}

func (x *choosing) Fetch(rows []int) ([]float32, error) {
	if len(x.under) > 0 || !x.asked {
		return nil, device.ErrPassed
	}
	var all []float32
	for _, r := range rows {
		all = append(all, x.logits[r*x.vocab:(r+1)*x.vocab]...)
	}
	return all, nil
}

func (x *choosing) Run(step *device.Step) ([]float32, error) {
	if err := x.check(step, 0); err != nil {
		return nil, err
	}
	for len(x.under) > 0 {
		if _, err := x.Largest(); err != nil {
			return nil, err
		}
	}
	x.rows, x.asked = 0, false
	return x.Executable.Run(step)
}
