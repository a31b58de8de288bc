package engine

import (
	"fmt"
	"time"

	"kigo/engine/sample"
)

// A step begins before the host has seen the tokens of the one before it, so that the
// device does not wait: where every sequence takes the token of the largest logit, or one
// whose drawing depends on nothing but its position, that stays on the device, which goes
// on with it, and the host reads one step late. A sequence that turns out to have ended
// has had a row for nothing; one whose token is another one has it computed again.

// leastAhead is the least StreamBuffer with which steps begin ahead: two tokens on their
// way then leave room for as many as there may be before a sequence is paused. There is
// as much for each answer of a stream.
const leastAhead = 5

// beginAhead begins the step after one that is under way, if the device knows all tokens
// that this one brings, or nearly always, and can go on with them; and if nobody else waits
// for a turn.
func (o *owner) beginAhead(b *batch) (after *batch) {
	m := b.model
	if o.engine.cfg.StreamBuffer < leastAhead || !b.foreseen() {
		return nil
	}
	for _, other := range o.models {
		if other != m && other.sched.Running()+other.sched.Waiting() > 0 {
			return nil
		}
	}
	if o.supply(m, time.Now()); o.givenUp {
		return nil
	}
	if o.engine.failureNow() != nil {
		o.abandon()
		return nil
	}
	plan, ok := m.sched.Ahead(o.engine.nanos(time.Now()))
	if !ok {
		return nil
	}
	o.expire(m, plan)
	if len(plan.Work) == 0 {
		return nil
	}
	return o.begin(m, plan, b)
}

// foreseen says whether the device knows the tokens that a step brings, or nearly always.
func (b *batch) foreseen() bool {
	for i := range b.parts {
		p := &b.parts[i]
		if !p.void && !p.q.ended && (p.prompt || !p.q.foresees()) {
			return false
		}
	}
	return true
}

// miss has a sequence's token be computed again, because the device went on with one that
// it must not have, and the logits are gone.
func (o *owner) miss(p *part, b, after *batch) {
	q := p.q
	o.engine.stats.Missed.Add(1)
	q.foresight.miss()
	for i := range after.parts {
		if other := &after.parts[i]; other.q == q {
			other.void = true
		}
	}
	if err := b.model.sched.Miss(b.plan, q.id); err != nil {
		p.err = fmt.Errorf("%w: %w", ErrInternal, err)
	}
}

// settle brings the step that is under way to its end, and begins no other one.
func (o *owner) settle() {
	b := o.flying
	switch {
	case b == nil:
	case o.engine.failureNow() != nil:
		o.abandon()
	default:
		o.tellAll()
		o.flying = nil
		if o.complete(b, nil); !o.givenUp {
			o.publish()
		}
	}
}

// abandon forgets a step that is under way on a device that does nothing any more.
func (o *owner) abandon() {
	if b := o.flying; b != nil {
		o.flying = nil
		b.model.sched.Failed(b.plan)
		b.clear()
	}
}

// foresight is whether steps can go on with tokens before anybody has seen them. A token
// is missed where the largest logit's is barred, or where the device cannot tell the drawn
// one for little, because too many are alike: whoever has missed one is likely to miss the
// next ones.
type foresight struct {
	missed int // times
	blind  int // so many tokens are waited for
}

// miss has more tokens be waited for each time.
func (f *foresight) miss() {
	f.missed++
	f.blind = 1 << min(f.missed, 6)
}

// foresees says whether the device can go on with the sequence's next token.
func (q *sequence) foresees() bool {
	return q.logprobs < 0 && q.foresight.blind == 0 && q.sampler.Foreseeable()
}

// planAhead says how the token after so many generated ones is drawn, where that does not
// depend on what these are; nil where it does, or where the largest logit is enough: also
// where tokens are barred, as long as none of these was the largest.
func (q *sequence) planAhead(position int) *sample.Plan {
	if q.logprobs >= 0 || !q.sampler.Foreseeable() {
		return nil
	}
	if q.sampler.Greedy() && (!q.sampler.BarsEnds(position) || q.foresight.missed == 0) {
		return nil
	}
	p, ok := q.sampler.Plan(nil, position)
	if !ok {
		return nil
	}
	return p
}
