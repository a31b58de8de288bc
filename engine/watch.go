package engine

import (
	"math"
	"time"
)

// A step that takes longer than stepLimitFactor times what nearly all steps of
// its model took is taken for hung; never before leastStepLimit, because a
// machine can be busy with something else, and always after Config.StepLimit.
const (
	leastStepLimit  = 10 * time.Second
	stepLimitFactor = 20

	// watchEvery is how often the watch looks. Whoever hangs is found within
	// the limit, not after it: the watch calls it a hang up to one look early.
	watchEvery = 250 * time.Millisecond
)

// deviceCall is the owner's call into the device while it runs. Exactly one of
// the owner, when it returns, and somebody who has waited long enough takes it
// out of owner.current; who does has the owner's state from then on.
type deviceCall struct {
	begun time.Time
	limit time.Duration // 0: not watched
}

// watch looks at the owner's step until the owner has ended, and takes over when
// the step does not end. A saturated device is no hung one: its steps end.
//
// Time in which this process itself did not run (it was stopped, or its machine
// was) is not held against the device: a look counts for two at most.
func (o *owner) watch() {
	defer close(o.watched)
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	var (
		of   *deviceCall
		seen time.Duration // how long of has run in our eyes
		last = time.Now()
	)
	for {
		select {
		case <-o.done:
			return
		case <-o.dead:
			return
		case <-tick.C:
		}
		now := time.Now()
		since := now.Sub(last)
		last = now
		call := o.current.Load()
		if call == nil || call.limit == 0 {
			of = nil
			continue
		}
		if call != of {
			of, seen, since = call, 0, now.Sub(call.begun)
		}
		seen += min(since, 2*watchEvery)
		if seen < call.limit-min(watchEvery, call.limit/2) {
			continue
		}
		if o.takeOver(call, ErrDeviceHung) {
			return
		}
	}
}

// takeOver ends everything in place of an owner that is stuck in call, with err
// for the streams. It is false when the call has ended after all.
func (o *owner) takeOver(call *deviceCall, err error) bool {
	if call == nil || !o.current.CompareAndSwap(call, nil) {
		return false
	}
	// The owner, should it ever come back, touches nothing any more: all that
	// was its own is ours. Nobody's message is read from here on.
	o.mu.Lock()
	o.closing, o.inbox = true, nil
	o.mu.Unlock()
	if fatalError(err) != nil {
		o.engine.fail(err)
	}
	close(o.dead)
	o.endAll(err)
	return true
}

// stepTimes is how long a model's steps took: counts in buckets a sixteenth of a
// doubling wide, from one microsecond on.
type stepTimes struct {
	counts [16 * 33]uint64 // the last ones are beyond an hour
	total  uint64
}

func (t *stepTimes) add(d time.Duration) {
	i := 0
	if us := float64(d) / float64(time.Microsecond); us > 1 {
		i = min(int(16*math.Log2(us)), len(t.counts)-1)
	}
	t.counts[i]++
	t.total++
}

// p99 is the time that 99 of 100 steps did not exceed, or up to a twentieth less;
// with fewer than 100 steps it is the longest.
func (t *stepTimes) p99() time.Duration {
	beyond := uint64(0)
	for i := len(t.counts) - 1; i >= 0; i-- {
		if beyond += t.counts[i]; beyond > t.total/100 {
			return time.Duration(math.Exp2(float64(i)/16) * float64(time.Microsecond))
		}
	}
	return 0
}

// limit is how long the next step may take. A model's first one has nothing to
// be measured by.
func (t *stepTimes) limit(most time.Duration) time.Duration {
	if t.total == 0 {
		return most
	}
	return min(most, max(leastStepLimit, stepLimitFactor*t.p99()))
}
