package engine

import (
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"kigo/engine/device"
	"kigo/engine/sched"
)

// owner is the goroutine that owns the device: it alone runs programs and
// touches schedulers and sequences. Others post functions to it, which it
// calls between steps.
type owner struct {
	engine  *Engine
	done    chan struct{} // closed when the goroutine has ended
	dead    chan struct{} // closed when it is stuck in the device and was given up
	watched chan struct{} // closed when the watch has ended
	bell    chan struct{} // wakes it; holds one ring

	current atomic.Pointer[deviceCall] // what it does on the device; nil: nothing

	mu      sync.Mutex
	inbox   []func() // bounded by the streams and loads that there can be
	closing bool

	// The goroutine's own, or of who takes over.
	models []*served // in service or retired with streams left
	turn   int       // index in models of whose turn it is
	paused map[*sequence]time.Time
	nextID sched.ID

	givenUp bool // the goroutine's own in any case: it was given up, and must touch nothing
}

func newOwner(e *Engine) *owner {
	o := &owner{
		engine:  e,
		done:    make(chan struct{}),
		dead:    make(chan struct{}),
		watched: make(chan struct{}),
		bell:    make(chan struct{}, 1),
		paused:  map[*sequence]time.Time{},
	}
	go o.loop()
	go o.watch()
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
		return o.engine.why()
	}
	select {
	case err := <-result:
		return err
	case <-o.dead:
		return o.engine.why()
	}
}

func (o *owner) wake() {
	select {
	case o.bell <- struct{}{}:
	default: // it has not heard the last ring yet
	}
}

// close ends all streams, frees all models and waits for the goroutine; false
// when that is stuck in the device and was given up.
func (o *owner) close() bool {
	o.mu.Lock()
	o.closing = true
	o.mu.Unlock()
	o.wake()
	select {
	case <-o.done:
	case <-o.dead:
	}
	<-o.watched
	select {
	case <-o.dead:
		return false
	default:
		return true
	}
}

func (o *owner) loop() {
	runtime.LockOSThread() // a GPU's context belongs to a thread
	defer runtime.UnlockOSThread()
	defer close(o.done)
	for {
		closing := o.takeMessages()
		if o.givenUp {
			return
		}
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
		worked := o.step()
		if o.givenUp {
			return
		}
		if worked {
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
		if f(); o.givenUp {
			break
		}
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
	if failure := o.engine.failureNow(); failure != nil {
		o.end(q, failure)
		return
	}
	o.nextID++
	q.id = o.nextID
	if err := q.model.sched.Add(time.Now().UnixNano(), &sched.Request{
		Tokens:  q.tokens,
		Most:    q.most,
		Tenant:  q.tenant,
		AllRows: q.promptLogprobs >= 0,
	}, q.id); err != nil {
		o.end(q, fmt.Errorf("%w: %w", ErrInternal, err)) // Submit has checked the bounds
		return
	}
	q.model.seqs[q.id] = q
}

// step runs one step of one model; false when none has work.
func (o *owner) step() bool {
	if o.engine.failureNow() != nil {
		return false
	}
	for range o.models {
		if o.turn >= len(o.models) {
			o.turn = 0
		}
		m := o.models[o.turn]
		o.turn++
		if plan := m.sched.Next(time.Now().UnixNano()); len(plan.Work) > 0 {
			if o.run(m, plan); !o.givenUp {
				o.publish()
			}
			return true
		}
	}
	return false
}

// run runs what is planned, one sequence after another.
func (o *owner) run(m *served, plan *sched.Plan) {
	for _, work := range plan.Work {
		if q := m.seqs[work.ID]; q != nil { // all have ended once the device has failed
			if o.runOne(m, q, work); o.givenUp {
				return
			}
		}
	}
	m.sched.Done(plan, time.Now().UnixNano())
}

func (o *owner) runOne(m *served, q *sequence, work sched.Work) {
	e := o.engine
	now := time.Now()
	if q.firstStep.IsZero() {
		q.firstStep = now
	}
	step := device.Step{
		Tokens: q.tokens[work.Start : work.Start+work.Rows],
		Seqs:   []device.SeqRows{{Rows: work.Rows, Start: work.Start, Blocks: work.Blocks}},
	}
	promptWanted := q.wantsPrompt(work.Start)
	switch {
	case promptWanted:
		for r := range work.Rows {
			step.Logits = append(step.Logits, r)
		}
	case work.Logits:
		step.Logits = []int{work.Rows - 1}
	}
	next, logits, err := o.execute(m, &step, q)
	if o.givenUp {
		return
	}
	e.steps.Add(1)
	failure := fatalError(err)
	switch {
	case failure != nil:
		e.fail(failure)
		o.endAll(failure)
	case err != nil:
		e.cfg.Log.Error().Err(err).Str("model", m.info.Name).Int("rows", work.Rows).Msg("step failed")
		o.end(q, fmt.Errorf("%w: %w", ErrInternal, err))
	default:
		o.take(q, work, next, logits, promptWanted)
	}
}

// perform runs a step. Where the largest logit decides, next is its token and the
// logits stay on the device; otherwise, and without a sequence, next is -1.
func (m *served) perform(step *device.Step, q *sequence) (next int32, logits []float32, err error) {
	c, ok := m.exec.(device.Chooser)
	if !ok || q == nil || len(step.Logits) != 1 {
		logits, err = m.exec.Run(step)
		return -1, logits, err
	}
	if err := c.Begin(step); err != nil {
		return -1, nil, err
	}
	id, logit, err := c.Largest(0)
	if err != nil {
		return -1, nil, err
	}
	if q.takesLargest(id, logit) {
		return id, nil, nil
	}
	if r, ok := c.(device.Ranker); ok {
		if n := q.wantsTop(); n > 0 {
			top, ok, err := r.Top(0, n)
			if err != nil {
				return -1, nil, err
			}
			if ok {
				if id, ok = q.sampleTop(top); ok {
					return id, nil, nil
				}
			}
		}
	}
	logits, err = c.Fetch()
	return -1, logits, err
}

// errGivenUp is the result of a call that nobody waits for any more.
var errGivenUp = errors.New("the owner was given up")

// inDevice makes a call into the device that must end within limit; 0 does not
// watch it. When somebody has taken over meanwhile, o.givenUp is set, the error
// is errGivenUp, and the owner must touch nothing any more.
func (o *owner) inDevice(limit time.Duration, f func() error) error {
	call := &deviceCall{begun: time.Now(), limit: limit}
	o.current.Store(call)
	err := f()
	if !o.current.CompareAndSwap(call, nil) {
		o.givenUp = true
		return errGivenUp
	}
	return err
}

// execute runs a step; see perform for what it returns. A panic on the way leaves the device in a state that
// nobody knows: that is a failure of it.
func (o *owner) execute(m *served, step *device.Step, q *sequence) (next int32, logits []float32, err error) {
	begun := time.Now()
	err = o.inDevice(m.times.limit(o.engine.cfg.StepLimit), func() (err error) {
		defer func() {
			if p := recover(); p != nil {
				o.engine.cfg.Log.Error().Str("panic", fmt.Sprint(p)).Bytes("stack", debug.Stack()).Msg("panic in a step")
				err = fmt.Errorf("%w: panic in a step", device.ErrLost)
			}
		}()
		next, logits, err = m.perform(step, q)
		return err
	})
	if o.givenUp {
		return -1, nil, err
	}
	now := time.Now()
	m.times.add(now.Sub(begun))
	o.engine.lastStep.Store(now.UnixNano())
	return next, logits, err
}

// busySince is when the step that runs began; zero while none does.
func (o *owner) busySince() time.Time {
	if call := o.current.Load(); call != nil && call.limit > 0 {
		return call.begun
	}
	return time.Time{}
}

// take uses a step's logits. A panic in the sampler or the text's assembly
// ends this one stream.
func (o *owner) take(q *sequence, work sched.Work, next int32, logits []float32, promptWanted bool) {
	defer func() {
		if r := recover(); r != nil {
			o.engine.cfg.Log.Error().Str("request", q.stream.started.ID).Str("panic", fmt.Sprint(r)).Msg("sampling panicked")
			o.end(q, fmt.Errorf("%w: sampling panicked", ErrInternal))
		}
	}()
	width := q.model.width
	if promptWanted {
		ev, err := q.readPrompt(work.Start, logits, width)
		if err != nil {
			o.end(q, err)
			return
		}
		if ev != nil {
			q.stream.events <- *ev // the first one: there is room
		}
	}
	if work.Logits {
		if next < 0 {
			logits = logits[len(logits)-width:]
		}
		o.advance(q, next, logits)
	}
}

// advance samples a sequence's next token, unless next says which it is, and
// delivers it.
func (o *owner) advance(q *sequence, next int32, logits []float32) {
	out, err := q.next(next, logits)
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
	if err := q.model.sched.Grow(q.id, q.tokens[len(q.tokens)-1]); err != nil {
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

// endAll ends every stream that there is, also those that have been admitted and
// not been added yet.
func (o *owner) endAll(err error) {
	for _, s := range o.engine.streamsOf(nil) {
		o.end(s.seq, err)
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

// serve puts a model in service.
func (o *owner) serve(m *served) { o.models = append(o.models, m) }

// retire has a model freed as soon as its last stream has ended.
func (o *owner) retire(m *served) { m.retired = true }

// unload ends a model's streams and frees it.
func (o *owner) unload(m *served) {
	for _, s := range o.engine.streamsOf(m) {
		o.end(s.seq, ErrUnloaded)
	}
	o.retire(m)
	o.freeRetired()
}

func (o *owner) freeRetired() {
	kept := o.models[:0]
	for _, m := range o.models {
		if m.retired && len(o.engine.streamsOf(m)) == 0 {
			o.free(m)
		} else {
			kept = append(kept, m)
		}
	}
	clear(o.models[len(kept):])
	o.models = kept
}

func (o *owner) free(m *served) {
	if err := o.engine.free(m); err != nil {
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
