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

// batch is a step on its way through the owner, with memory for those that come later.
type batch struct {
	model *served
	on    device.Chooser // that it was begun on; nil where it is run as a whole
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

	draw     int          // of the step's draws, the one that is for it; -1: none
	plan     *sample.Plan // for the device
	id       int32        // that was chosen; -1 as long as none is
	missed   bool         // none can be: the logits are gone
	void     bool         // the rows are of a token that the sequence does not have
	logprobs []TokenLogprob
	err      error // ends this sequence and no other
}

// step brings one step of one model to its end. The one after it begins before that where
// nobody has to be waited for. It is false when there is no work; wake is when to look
// again then, though nothing has happened.
func (o *owner) step() (worked bool, wake time.Time) {
	if o.engine.failureNow() != nil {
		o.abandon()
		return false, wake
	}
	if o.flying == nil {
		if worked, wake = o.beginNext(); o.givenUp {
			return worked, wake
		}
	}
	b := o.flying
	switch {
	case b == nil && worked:
		o.publish() // it is over already
		return true, wake
	case b == nil:
		o.tellAll()
		return false, wake
	}
	after := o.beginAhead(b)
	if o.givenUp || o.flying == nil {
		return true, wake
	}
	o.tellAll()
	o.flying = after
	if o.complete(b, after); !o.givenUp {
		o.publish()
	}
	return true, wake
}

// beginNext begins a step of the model whose turn it is, when none is under way.
func (o *owner) beginNext() (worked bool, wake time.Time) {
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
		o.expire(m, plan)
		if len(plan.Work) == 0 {
			wake = earlier(wake, again)
			if plan.Wake != 0 {
				wake = earlier(wake, o.engine.born.Add(time.Duration(plan.Wake)))
			}
			continue
		}
		o.begin(m, plan, nil)
		return true, wake
	}
	return false, wake
}

// expire ends sequences whose deadline has passed.
func (o *owner) expire(m *served, plan *sched.Plan) {
	for _, id := range plan.Expired {
		if q := m.seqs[id]; q != nil {
			o.end(q, context.DeadlineExceeded)
		}
	}
}

// begin begins what is planned as one step of the device, behind another one if that is
// under way. What the step before has brought is told to its readers while the device is
// at work; one that cannot be left alone brings the step to its end here.
func (o *owner) begin(m *served, plan *sched.Plan, before *batch) (b *batch) {
	b = &o.batches[0]
	if b == before {
		b = &o.batches[1]
	}
	o.fill(b, m, plan)
	b.begun, b.limit = time.Now(), m.times.limit(o.engine.cfg.StepLimit)
	c, ok := m.exec.(device.Chooser)
	if !ok {
		o.tellAll()
		b.begun = time.Now()
		o.complete(b, nil)
		return nil
	}
	b.on = c
	err := o.inStep(b, b.begun, func() error { return c.Begin(&b.step) })
	switch {
	case o.givenUp:
		return nil
	case err != nil && before != nil:
		o.failed(err, 1, before, b)
		return nil
	case err != nil:
		o.failed(err, 0, b)
		return nil
	case before == nil:
		o.flying = b
	default:
		o.engine.stats.StepsAhead.Add(1)
	}
	return b
}

// complete waits for a step's end and has each of its sequences take what it brings. The
// step after it may be under way.
func (o *owner) complete(b, after *batch) {
	err := o.choose(b, after != nil)
	if o.givenUp {
		return
	}
	m := b.model
	if err != nil {
		if after != nil {
			o.failed(err, 1, b, after)
		} else {
			o.failed(err, 0, b)
		}
		return
	}
	o.engine.steps.Add(1)
	for i := range b.parts {
		if p := &b.parts[i]; p.missed && !p.q.ended {
			o.miss(p, b, after)
		}
	}
	m.sched.Done(b.plan, o.engine.nanos(b.ended))
	for i := range b.parts {
		o.take(&b.parts[i], b.ended)
	}
	b.clear()
}

// clear forgets what holds sequences.
func (b *batch) clear() {
	clear(b.parts)
	clear(b.step.Draws)
	b.parts, b.step.Draws = b.parts[:0], b.step.Draws[:0]
}

// failed ends the sequences of steps, in their order, of which one has failed. So many of
// them are still under way.
func (o *owner) failed(err error, under int, steps ...*batch) {
	o.flying = nil
	o.engine.steps.Add(1)
	m := steps[0].model
	for range under {
		if fatalError(err) != nil {
			break
		}
		// Whatever it brings is nobody's, but the device must be done with it.
		if e := o.inStep(steps[0], time.Now(), func() error { _, e := steps[0].on.Largest(); return e }); fatalError(e) != nil {
			err = e
		}
		if o.givenUp {
			return
		}
	}
	failure := fatalError(err)
	if failure != nil {
		o.engine.fail(failure)
		o.endAll(failure)
	}
	for _, b := range steps {
		if failure == nil {
			o.engine.cfg.Log.Error().Err(err).Str("model", m.info.Name).Int("rows", b.plan.Rows).Msg("step failed")
		}
		m.sched.Failed(b.plan)
		for _, w := range b.plan.Work {
			if q := m.seqs[w.ID]; q != nil {
				o.end(q, fmt.Errorf("%w: %w", ErrInternal, err))
			}
		}
		b.clear()
	}
}

// fill makes the device's step of a plan.
func (o *owner) fill(b *batch, m *served, plan *sched.Plan) {
	b.model, b.on, b.plan, b.prompt, b.generated = m, nil, plan, 0, 0
	stats := &o.engine.stats
	stats.Preemptions.Add(uint64(len(plan.Preempted)))
	s := &b.step
	s.Tokens, s.Seqs, s.Logits, s.Draws = s.Tokens[:0], s.Seqs[:0], s.Logits[:0], s.Draws[:0]
	b.parts = b.parts[:0]
	now := time.Now()
	for _, w := range plan.Work {
		q := m.seqs[w.ID]
		if q.firstStep.IsZero() {
			q.firstStep = now
			stats.began(q, w.Start, !o.engine.cfg.NoPrefixCache)
		}
		prompt := min(max(q.prompt-w.Start, 0), w.Rows)
		b.prompt, b.generated = b.prompt+prompt, b.generated+w.Rows-prompt
		p := part{q: q, first: len(s.Logits), prompt: q.wantsPrompt(w.Start), next: w.Logits, draw: -1, id: -1}
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
		known := min(w.Start+w.Rows, len(q.tokens))
		s.Tokens = append(s.Tokens, q.tokens[w.Start:known]...)
		if known < w.Start+w.Rows { // the step before brings it
			s.Tokens = append(s.Tokens, int32(-1-q.row))
		}
		if w.Logits {
			q.coming++
			q.row = p.first + p.count - 1
			if plan := q.planAhead(w.Start + w.Rows - q.prompt); plan != nil && !p.prompt {
				p.draw = len(s.Draws)
				s.Draws = append(s.Draws, device.Draw{Row: q.row, Plan: plan})
			}
		}
		if p.count > 0 {
			b.parts = append(b.parts, p)
		}
		s.Seqs = append(s.Seqs, device.SeqRows{Rows: w.Rows, Start: w.Start, Blocks: w.Blocks})
	}
}

// choose waits for a step's end and chooses the tokens that come next. Where the step
// after it has begun, these are those of the largest logits, or missed.
func (o *owner) choose(b *batch, passed bool) error {
	if b.on != nil {
		return o.chooseOn(b, passed)
	}
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

// began is when the device began to work on a step: not before the end of the one before.
func (o *owner) began(b *batch) time.Time {
	if b.begun.Before(o.ended) {
		return o.ended
	}
	return b.begun
}

// stepEnded notes when the device's own work was done.
func (o *owner) stepEnded(b *batch) {
	b.ended = time.Now()
	took := b.ended.Sub(o.began(b))
	o.ended = b.ended
	b.model.times.add(took)
	if b.plan != nil { // not a load's first token
		o.engine.stats.step(took, b.prompt, b.generated, len(b.plan.Work))
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
