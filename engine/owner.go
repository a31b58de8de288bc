package engine

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

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
	paused map[*Stream]time.Time
	nextID sched.ID
	news   []*sequence // whose readers are to be told of the latest step

	batches [2]batch  // the memory of steps, used in turn
	flying  *batch    // has begun, and was not waited for; nil: no step
	ended   time.Time // when the latest step was over

	givenUp bool // the goroutine's own in any case: it was given up, and must touch nothing
}

func newOwner(e *Engine) *owner {
	o := &owner{
		engine:  e,
		done:    make(chan struct{}),
		dead:    make(chan struct{}),
		watched: make(chan struct{}),
		bell:    make(chan struct{}, 1),
		paused:  map[*Stream]time.Time{},
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

// callAlone is call for what must not be done beside a step.
func (o *owner) callAlone(f func() error) error {
	return o.call(func() error {
		usable := o.engine.usable()
		if o.settle(); o.givenUp {
			return errGivenUp
		}
		if failure := o.engine.failureNow(); usable && failure != nil {
			return failure // the step's
		}
		return f()
	})
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
			if o.settle(); o.givenUp {
				return
			}
			for _, m := range o.models {
				o.free(m)
			}
			o.models = nil
			o.publish()
			return
		}
		next := o.checkPaused(time.Now())
		if o.freeRetired(); o.givenUp {
			return
		}
		next = earlier(next, o.giveBack(time.Now()))
		if o.givenUp {
			return
		}
		worked, wake := o.step()
		if o.givenUp {
			return
		}
		if worked {
			continue
		}
		o.publish()
		o.sleep(earlier(next, wake))
	}
}

// earlier is the first of two times, of which zero ones don't count.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
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

// sleep waits for the bell, or for a time when a sequence ends by itself.
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

// add takes a submitted stream in, all of its sequences or none. stop detaches it from
// its context.
func (o *owner) add(s *Stream, stop func() bool) {
	s.detach = stop
	if s.left == 0 {
		stop()
		return
	}
	if failure := o.engine.failureNow(); failure != nil {
		o.endStream(s, failure)
		return
	}
	ids := make([]sched.ID, len(s.seqs))
	for i, q := range s.seqs {
		o.nextID++
		q.id, ids[i] = o.nextID, o.nextID
	}
	q := s.seqs[0]
	r := sched.Request{
		Tokens:   q.tokens,
		Most:     q.most,
		Tenant:   q.tenant,
		Priority: q.priority,
		AllRows:  q.promptLogprobs >= 0,
		Keys:     q.keys,
	}
	if !q.deadline.IsZero() {
		r.Deadline = max(o.engine.nanos(q.deadline), 1)
	}
	q.keys = nil
	if err := s.model.sched.Add(o.engine.nanos(time.Now()), &r, ids...); err != nil {
		o.endStream(s, refusal(err))
		return
	}
	for _, q := range s.seqs {
		s.model.seqs[q.id] = q
	}
}

// refusal is why the scheduler does not take a request, as its caller sees it.
func refusal(err error) error {
	var full *sched.FullError
	switch {
	case errors.As(err, &full):
		return &RetryError{Err: ErrQueueFull, After: time.Duration(full.After)}
	case errors.Is(err, sched.ErrLate):
		return fmt.Errorf("%w: %w", context.DeadlineExceeded, err)
	}
	return fmt.Errorf("%w: %w", ErrInternal, err) // Submit has checked the bounds
}

// errGivenUp is the result of a call that nobody waits for any more.
var errGivenUp = errors.New("the owner was given up")

// inDevice makes a call into the device that must end within limit since then; 0 does
// not watch it. When somebody has taken over meanwhile, o.givenUp is set, the error
// is errGivenUp, and the owner must touch nothing any more.
func (o *owner) inDevice(since time.Time, limit time.Duration, f func() error) error {
	call := &deviceCall{begun: since, limit: limit}
	o.current.Store(call)
	err := f()
	if !o.current.CompareAndSwap(call, nil) {
		o.givenUp = true
		return errGivenUp
	}
	return err
}

// busySince is when the step that runs began; zero while none does.
func (o *owner) busySince() time.Time {
	if call := o.current.Load(); call != nil && call.limit > 0 {
		return call.begun
	}
	return time.Time{}
}

// checkPaused resumes streams whose readers have caught up, ends those whose
// readers have not for too long, and says when to look again.
func (o *owner) checkPaused(now time.Time) (next time.Time) {
	for s, since := range o.paused {
		limit := since.Add(o.engine.cfg.SlowReader)
		switch {
		case !s.wait():
			delete(o.paused, s)
			for _, q := range s.seqs {
				s.model.sched.Resume(q.id) // which knows nothing of those that have ended
			}
		case !now.Before(limit):
			o.endStream(s, fmt.Errorf("%w: nothing read for %v", ErrSlowReader, o.engine.cfg.SlowReader))
		case next.IsZero() || limit.Before(next):
			next = limit
		}
	}
	return next
}

// pause takes a stream's sequences out of the steps until its reader has caught up.
func (o *owner) pause(s *Stream) {
	for _, q := range s.seqs {
		s.model.sched.Pause(q.id)
	}
	o.paused[s] = time.Now()
}

// cancel ends a stream at its caller's wish.
func (o *owner) cancel(s *Stream) {
	for _, q := range s.seqs {
		if o.tell(q); !q.ended {
			o.finish(q, q.endEvent(StopCancelled))
		}
	}
}

// end ends a sequence with an error, and so its stream, which has one status only.
func (o *owner) end(q *sequence, err error) { o.endStream(q.stream, err) }

// endStream ends a stream with an error, if it has not ended yet. What its sequences
// have generated is delivered before.
func (o *owner) endStream(s *Stream, err error) {
	for _, q := range s.seqs {
		o.tell(q) // with which it may end, or the stream
	}
	if s.left == 0 {
		return
	}
	for _, q := range s.seqs {
		o.release(q, nil, err)
	}
	s.end(Event{}, err)
}

// endAll ends every stream that there is, also those that have been admitted and
// not been added yet.
func (o *owner) endAll(err error) {
	for _, s := range o.engine.streamsOf(nil) {
		o.endStream(s, err)
	}
}

// finish ends a sequence well. The last one of a stream ends that: with how all of
// them ended, the stream's one terminal status.
func (o *owner) finish(q *sequence, end *End) {
	q.end = end
	if o.release(q, end, nil); q.stream.left == 0 {
		q.stream.end(Event{End: q.stream.answered()}, nil)
	}
}

// release gives the blocks of a sequence back that has ended with end or err, if it
// had not ended before.
func (o *owner) release(q *sequence, end *End, err error) {
	if q.ended {
		return
	}
	q.ended = true
	q.model.sched.Remove(q.id)
	delete(q.model.seqs, q.id)
	s := q.stream
	if s.left--; s.left == 0 {
		delete(o.paused, s)
		if s.detach != nil {
			s.detach()
		}
	}
	o.engine.stats.ended(q, end, err)
	o.publish()
	o.engine.forget(s, 1)
}

// serve puts a model in service.
func (o *owner) serve(m *served) {
	o.models = append(o.models, m)
	o.publish() // who loaded it may look at once
}

// retire has a model freed as soon as its last stream has ended.
func (o *owner) retire(m *served) { m.retired = true }

// unload ends a model's streams and frees it.
func (o *owner) unload(m *served) {
	for _, s := range o.engine.streamsOf(m) {
		o.endStream(s, ErrUnloaded)
	}
	o.retire(m)
	o.freeRetired()
}

// freeRetired frees models that nobody uses any more, when no step is under way.
func (o *owner) freeRetired() {
	unused := func(m *served) bool { return m.retired && len(o.engine.streamsOf(m)) == 0 }
	if slices.ContainsFunc(o.models, unused) {
		if o.settle(); o.givenUp {
			return
		}
	}
	kept := o.models[:0]
	for _, m := range o.models {
		if unused(m) {
			o.free(m)
		} else {
			kept = append(kept, m)
		}
	}
	if len(kept) == len(o.models) {
		return
	}
	clear(o.models[len(kept):])
	o.models = kept
	o.hasMemory()
	o.publish() // who unloaded a model may look at once
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
		g.retry = max(g.retry, time.Duration(m.sched.Retry()))
		g.running += m.sched.Running()
		g.waiting += m.sched.Waiting()
		g.kvUsed += m.sched.Pool().Used()
		g.kvMapped += m.sched.Pool().Limit()
		g.kvTotal += m.sched.Pool().Total()
		g.kvShort = g.kvShort || m.memory.short
	}
	if *o.engine.gauges.Load() != *g {
		o.engine.gauges.Store(g)
	}
}
