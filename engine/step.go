package engine

import (
	"context"
	"fmt"
	"runtime/debug"
	"time"

	"kigo/engine/device"
	"kigo/engine/sample"
	"kigo/engine/sched"
)

// batch is a step on its way through the owner, with memory that all steps share.
type batch struct {
	model *served
	plan  *sched.Plan
	step  device.Step
	parts []part
	begun time.Time
	ended time.Time
	limit time.Duration // how long one of its calls to the device may take

	prompt, generated int // rows of prompts, and of generated tokens

	choice choice
}

// part is what a sequence has to do with a step's logits.
type part struct {
	q     *sequence
	start int // position of its first row of which logits are wanted
	first int // that row's number among the logits
	count int // rows with logits, one after another

	prompt bool // they tell how likely the prompt's own tokens are
	next   bool // the last one chooses a token

	plan     *sample.Plan // for the device
	id       int32        // that was chosen; -1 as long as none is
	logprobs []TokenLogprob
	err      error // ends this sequence and no other
}

// step runs one step of one model. It is false when none has work; wake is when to
// look again then, though nothing has happened.
func (o *owner) step() (worked bool, wake time.Time) {
	if o.engine.failureNow() != nil {
		return false, wake
	}
	for range o.models {
		if o.turn >= len(o.models) {
			o.turn = 0
		}
		m := o.models[o.turn]
		o.turn++
		again := o.supply(m, time.Now())
		if o.givenUp || o.engine.failureNow() != nil {
			return false, wake
		}
		plan := m.sched.Next(o.engine.nanos(time.Now()))
		for _, id := range plan.Expired {
			if q := m.seqs[id]; q != nil {
				o.end(q, context.DeadlineExceeded)
			}
		}
		if len(plan.Work) == 0 {
			wake = earlier(wake, again)
			if plan.Wake != 0 {
				wake = earlier(wake, o.engine.born.Add(time.Duration(plan.Wake)))
			}
			continue
		}
		if o.run(m, plan); !o.givenUp {
			o.publish()
		}
		return true, wake
	}
	o.tellAll()
	return false, wake
}

// run runs what is planned as one step of the device. What the step before has
// brought is told to its readers while the device is at work, if it can be left
// alone.
func (o *owner) run(m *served, plan *sched.Plan) {
	b := &o.batch
	o.fill(b, m, plan)
	err := o.perform(b)
	if o.givenUp {
		return
	}
	for _, w := range plan.Work {
		if q := m.seqs[w.ID]; q != nil {
			q.inStep = false
		}
	}
	if failure := fatalError(err); failure != nil {
		o.engine.steps.Add(1)
		o.engine.fail(failure)
		o.endAll(failure)
		m.sched.Failed(plan)
		return
	}
	o.engine.steps.Add(1)
	if err != nil {
		o.engine.cfg.Log.Error().Err(err).Str("model", m.info.Name).Int("rows", plan.Rows).Msg("step failed")
		m.sched.Failed(plan)
		for _, w := range plan.Work {
			if q := m.seqs[w.ID]; q != nil {
				o.end(q, fmt.Errorf("%w: %w", ErrInternal, err))
			}
		}
		return
	}
	m.sched.Done(plan, o.engine.nanos(b.ended))
	for i := range b.parts {
		o.take(&b.parts[i], b.ended)
	}
	clear(b.parts) // which hold sequences
}

// fill makes the device's step of a plan.
func (o *owner) fill(b *batch, m *served, plan *sched.Plan) {
	b.model, b.plan, b.prompt, b.generated = m, plan, 0, 0
	stats := &o.engine.stats
	stats.Preemptions.Add(uint64(len(plan.Preempted)))
	s := &b.step
	s.Tokens, s.Seqs, s.Logits = s.Tokens[:0], s.Seqs[:0], s.Logits[:0]
	b.parts = b.parts[:0]
	now := time.Now()
	for _, w := range plan.Work {
		q := m.seqs[w.ID]
		q.inStep = true
		if q.firstStep.IsZero() {
			q.firstStep = now
			stats.began(q, w.Start, !o.engine.cfg.NoPrefixCache)
		}
		prompt := min(max(q.prompt-w.Start, 0), w.Rows)
		b.prompt, b.generated = b.prompt+prompt, b.generated+w.Rows-prompt
		p := part{q: q, first: len(s.Logits), prompt: q.wantsPrompt(w.Start), next: w.Logits, id: -1}
		switch {
		case p.prompt:
			p.start, p.count = w.Start, w.Rows
		case p.next:
			p.start, p.count = w.Start+w.Rows-1, 1
		}
		row := len(s.Tokens) + p.start - w.Start
		for r := range p.count {
			s.Logits = append(s.Logits, row+r)
		}
		if p.count > 0 {
			b.parts = append(b.parts, p)
		}
		s.Tokens = append(s.Tokens, q.tokens[w.Start:w.Start+w.Rows]...)
		s.Seqs = append(s.Seqs, device.SeqRows{Rows: w.Rows, Start: w.Start, Blocks: w.Blocks})
	}
}

// perform runs the step and chooses the tokens that come next.
func (o *owner) perform(b *batch) error {
	b.begun, b.limit = time.Now(), b.model.times.limit(o.engine.cfg.StepLimit)
	c, ok := b.model.exec.(device.Chooser)
	if !ok {
		o.tellAll()
		b.begun = time.Now()
		var logits []float32
		err := o.inStep(b, b.begun, func() (err error) {
			logits, err = b.model.exec.Run(&b.step)
			return err
		})
		if err == nil {
			o.stepEnded(b)
			o.chooseAll(b, logits)
		}
		return err
	}
	if err := o.inStep(b, b.begun, func() error { return c.Begin(&b.step) }); err != nil {
		return err
	}
	o.tellAll()
	return o.chooseOn(b, c)
}

// inStep makes a call to the device that belongs to the step at hand and has taken
// its time since then. A panic on the way leaves the device in a state that nobody
// knows: that is a failure of it.
func (o *owner) inStep(b *batch, since time.Time, f func() error) error {
	return o.inDevice(since, b.limit, func() (err error) {
		defer func() {
			if p := recover(); p != nil {
				o.engine.cfg.Log.Error().Str("panic", fmt.Sprint(p)).Bytes("stack", debug.Stack()).Msg("panic in a step")
				err = fmt.Errorf("%w: panic in a step", device.ErrLost)
			}
		}()
		return f()
	})
}

// stepEnded notes when the device's own work was done.
func (o *owner) stepEnded(b *batch) {
	b.ended = time.Now()
	b.model.times.add(b.ended.Sub(b.begun))
	if b.plan != nil { // not a load's first token
		o.engine.stats.step(b.ended.Sub(b.begun), b.prompt, b.generated, len(b.plan.Work))
	}
	o.engine.lastStep.Store(b.ended.UnixNano())
}

// warmUp generates one token, so that a model in service is known to work, and gives
// its logits.
func (o *owner) warmUp(m *served, first int32) (logits []float32, err error) {
	b := &batch{model: m, begun: time.Now(), limit: m.times.limit(o.engine.cfg.StepLimit)}
	err = o.inStep(b, b.begun, func() (err error) {
		logits, err = m.exec.Run(&device.Step{
			Tokens: []int32{first},
			Seqs:   []device.SeqRows{{Rows: 1, Blocks: []int32{0}}},
			Logits: []int{0},
		})
		return err
	})
	if err == nil {
		o.stepEnded(b)
	}
	return logits, err
}
