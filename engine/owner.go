package engine

import (
	"errors"
	"fmt"
	"runtime"
	"sync"
	"time"

	"kigo/engine/device"
	"kigo/engine/sched"
)

// owner is the goroutine that owns the device: it alone runs programs and
// touches schedulers and sequences. Others post functions to it, which it
// calls between steps.
type owner struct {
	engine *Engine
	done   chan struct{} // closed when the goroutine has ended
	bell   chan struct{} // wakes it; holds one ring

	mu      sync.Mutex
	inbox   []func() // bounded by the streams and loads that there can be
	closing bool

	// The goroutine's own.
	models []*served // in service or retired with streams left
	turn   int       // index in models of whose turn it is
	paused map[*sequence]time.Time
	nextID sched.ID
	over   error // why every sequence ends as soon as it comes; nil while they are taken in
}

func newOwner(e *Engine) *owner {
	o := &owner{
		engine: e,
		done:   make(chan struct{}),
		bell:   make(chan struct{}, 1),
		paused: map[*sequence]time.Time{},
	}
	go o.loop()
	return o
}

// post has the owner call f before its next step; false when it has ended or
// is about to, and f will not be called.
func (o *owner) post(f func()) bool {
	o.mu.Lock()
	if o.closing {
		o.mu.Unlock()
		return false
	}
	o.inbox = append(o.inbox, f)
	o.mu.Unlock()
	o.wake()
	return true
}

// call has the owner call f and waits for the result.
func (o *owner) call(f func() error) error {
	result := make(chan error, 1)
	if !o.post(func() { result <- f() }) {
		return ErrDraining
	}
	return <-result
}

func (o *owner) wake() {
	select {
	case o.bell <- struct{}{}:
	default: // it has not heard the last ring yet
	}
}

// close ends all streams, frees all models and waits for the goroutine.
func (o *owner) close() {
	o.mu.Lock()
	o.closing = true
	o.mu.Unlock()
	o.wake()
	<-o.done
}

func (o *owner) loop() {
	runtime.LockOSThread() // a GPU's context belongs to a thread
	defer runtime.UnlockOSThread()
	defer close(o.done)
	for {
		closing := o.takeMessages()
		if closing {
			o.endAll(ErrDraining)
			for _, m := range o.models {
				o.free(m)
			}
			o.models = nil
			o.publish()
			return
		}
		next := o.checkPaused(time.Now())
		o.freeRetired()
		if worked := o.step(); worked {
			continue
		}
		o.publish()
		o.sleep(next)
	}
}

func (o *owner) takeMessages() (closing bool) {
	o.mu.Lock()
	inbox := o.inbox
	o.inbox, closing = nil, o.closing
	o.mu.Unlock()
	for _, f := range inbox {
		f()
	}
	return closing
}

// sleep waits for the bell, or for a time when a paused sequence ends.
func (o *owner) sleep(until time.Time) {
	if until.IsZero() {
		<-o.bell
		return
	}
	timer := time.NewTimer(time.Until(until))
	defer timer.Stop()
	select {
	case <-o.bell:
	case <-timer.C:
	}
}

// add takes a submitted sequence in. stop detaches it from its context.
func (o *owner) add(q *sequence, stop func() bool) {
	q.detach = stop
	if q.ended {
		stop()
		return
	}
	switch { // what ended the others while this one was on its way
	case o.over != nil:
		o.end(q, o.over)
		return
	case q.model.unloaded:
		o.end(q, ErrUnloaded)
		return
	}
	o.nextID++
	q.id = o.nextID
	if err := q.model.sched.Add(q.id, len(q.tokens), q.most); err != nil {
		o.end(q, fmt.Errorf("%w: %w", ErrInternal, err)) // Submit has checked the bounds
		return
	}
	q.model.seqs[q.id] = q
}

// step runs one step of one model; false when none has work.
func (o *owner) step() bool {
	for range o.models {
		if o.turn >= len(o.models) {
			o.turn = 0
		}
		m := o.models[o.turn]
		o.turn++
		if plan, ok := m.sched.Next(); ok {
			o.run(m, plan)
			o.publish()
			return true
		}
	}
	return false
}

func (o *owner) run(m *served, plan sched.Plan) {
	e, q := o.engine, m.seqs[plan.ID]
	now := time.Now()
	if q.firstStep.IsZero() {
		q.firstStep = now
	}
	step := device.Step{
		Tokens: q.tokens[plan.Start : plan.Start+plan.Rows],
		Seqs:   []device.SeqRows{{Rows: plan.Rows, Start: plan.Start, Blocks: plan.Blocks}},
	}
	promptWanted := q.wantsPrompt(plan.Start)
	switch {
	case promptWanted:
		for r := range plan.Rows {
			step.Logits = append(step.Logits, r)
		}
	case plan.Logits:
		step.Logits = []int{plan.Rows - 1}
	}
	e.busySince.Store(now.UnixNano())
	logits, err := m.exec.Run(&step)
	e.busySince.Store(0)
	e.lastStep.Store(time.Now().UnixNano())
	e.steps.Add(1)
	m.sched.Done(plan)
	switch {
	case errors.Is(err, device.ErrLost):
		o.lose(err)
	case err != nil:
		e.cfg.Log.Error().Err(err).Str("model", m.info.Name).Int("rows", plan.Rows).Msg("step failed")
		o.end(q, fmt.Errorf("%w: %w", ErrInternal, err))
	default:
		o.take(q, plan, logits, promptWanted)
	}
}

// take uses a step's logits. A panic in the sampler or the text's assembly
// ends this one stream.
func (o *owner) take(q *sequence, plan sched.Plan, logits []float32, promptWanted bool) {
	defer func() {
		if r := recover(); r != nil {
			o.engine.cfg.Log.Error().Str("request", q.stream.started.ID).Str("panic", fmt.Sprint(r)).Msg("sampling panicked")
			o.end(q, fmt.Errorf("%w: sampling panicked", ErrInternal))
		}
	}()
	width := q.model.width
	if promptWanted {
		ev, err := q.readPrompt(plan.Start, logits, width)
		if err != nil {
			o.end(q, err)
			return
		}
		if ev != nil {
			q.stream.events <- *ev // the first one: there is room
		}
	}
	if plan.Logits {
		o.advance(q, logits[len(logits)-width:])
	}
}

// advance samples a sequence's next token and delivers it.
func (o *owner) advance(q *sequence, logits []float32) {
	out, err := q.next(logits)
	if err != nil {
		o.end(q, err)
		return
	}
	if out.generated {
		o.engine.tokens.Add(1)
	}
	if out.event != nil {
		q.stream.events <- Event{Tokens: out.event} // there is room: see below
	}
	if out.end != nil {
		o.finish(q, Event{End: out.end}, nil)
		return
	}
	if err := q.model.sched.Grow(q.id); err != nil {
		o.end(q, fmt.Errorf("%w: %w", ErrInternal, err))
		return
	}
	// With no room for another event the sequence pauses.
	if len(q.stream.events) == cap(q.stream.events) {
		q.model.sched.Pause(q.id)
		o.paused[q] = time.Now()
		q.stream.paused.Store(true)
	}
}

// checkPaused resumes sequences whose readers have caught up, ends those whose
// readers have not for too long, and says when to look again.
func (o *owner) checkPaused(now time.Time) (next time.Time) {
	for q, since := range o.paused {
		limit := since.Add(o.engine.cfg.SlowReader)
		switch {
		case len(q.stream.events) <= cap(q.stream.events)/2:
			delete(o.paused, q)
			q.stream.paused.Store(false)
			q.model.sched.Resume(q.id)
		case !now.Before(limit):
			o.end(q, fmt.Errorf("%w: nothing read for %v", ErrSlowReader, o.engine.cfg.SlowReader))
		case next.IsZero() || limit.Before(next):
			next = limit
		}
	}
	return next
}

// cancel ends a stream at its caller's wish.
func (o *owner) cancel(s *Stream) {
	if q := s.seq; !q.ended {
		o.finish(q, Event{End: q.endEvent(StopCancelled)}, nil)
	}
}

// end ends a sequence with an error, if it has not ended yet.
func (o *owner) end(q *sequence, err error) {
	if !q.ended {
		o.finish(q, Event{}, err)
	}
}

// endAll ends every sequence there is, and those that are still to come.
func (o *owner) endAll(err error) {
	o.over = err
	for _, m := range o.models {
		o.endModel(m, err)
	}
}

func (o *owner) endModel(m *served, err error) {
	for _, q := range m.seqs {
		o.end(q, err)
	}
}

// finish gives a sequence's blocks back and tells its reader how it ended:
// the stream's one terminal status.
func (o *owner) finish(q *sequence, ev Event, err error) {
	q.ended = true
	q.model.sched.Remove(q.id)
	delete(q.model.seqs, q.id)
	delete(o.paused, q)
	if q.detach != nil {
		q.detach()
	}
	q.stream.final.event, q.stream.final.err = ev, err
	o.publish()
	o.engine.forget(q.stream)
	close(q.stream.events)
}

// lose latches the loss of the device and ends everything on it.
func (o *owner) lose(err error) {
	e := o.engine
	e.cfg.Log.Error().Err(err).Msg("device lost")
	e.mu.Lock()
	e.lost = err
	e.update()
	e.mu.Unlock()
	o.endAll(fmt.Errorf("%w: %w", ErrDeviceLost, err))
}

// serve puts a model in service.
func (o *owner) serve(m *served) { o.models = append(o.models, m) }

// retire has a model freed as soon as its last stream has ended.
func (o *owner) retire(m *served) { m.retired = true }

// unload ends a model's streams, those that are still to come among them.
func (o *owner) unload(m *served) {
	m.unloaded = true
	o.endModel(m, ErrUnloaded)
	o.retire(m)
	o.freeRetired()
}

func (o *owner) freeRetired() {
	kept := o.models[:0]
	for _, m := range o.models {
		if m.retired && !o.engine.inUse(m) {
			o.free(m)
		} else {
			kept = append(kept, m)
		}
	}
	clear(o.models[len(kept):])
	o.models = kept
}

func (o *owner) free(m *served) {
	if err := m.close(); err != nil {
		o.engine.cfg.Log.Error().Err(err).Str("model", m.info.Name).Msg("freeing a model failed")
	}
}

// publish stores the counts that Status reads.
func (o *owner) publish() {
	g := &gauges{}
	for _, m := range o.models {
		g.running += m.sched.Running()
		g.waiting += m.sched.Waiting()
		g.kvUsed += m.sched.Pool().Used()
		g.kvTotal += m.sched.Pool().Total()
	}
	if *o.engine.gauges.Load() != *g {
		o.engine.gauges.Store(g)
	}
}
