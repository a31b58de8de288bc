package loadtest

import (
	"context"
	"errors"
	"sync"
	"time"
)

// afterFailure is how long a stream of a closed loop waits when its request has
// failed: a server that refuses everything is not to be asked as fast as it can
// refuse.
const afterFailure = 100 * time.Millisecond

// errCutOff is why requests end that have not ended when the drain is over.
var errCutOff = errors.New("cut off")

// run is one load on the server, under way.
type run struct {
	options *Options
	load    load
	target  target
	plans   *planner
	tally   *tally
	places  int // requests under way at a time, in an open loop
	born    time.Time
	begins  int64 // when the warm-up is over
	stops   int64 // when no request is sent any more

	mu       sync.Mutex
	sent     uint64 // requests
	measured int    // of them
}

func newRun(o *Options, l load, t target, p *planner) *run {
	return &run{options: o, load: l, target: t, plans: p, tally: newTally(), places: maxInFlight}
}

// now is a time of the run.
func (r *run) now() int64 { return int64(time.Since(r.born)) }

// do puts the load on the server until its time is over and all requests have
// ended.
func (r *run) do(ctx context.Context) Result {
	o := r.options
	r.born = time.Now()
	r.begins = int64(o.WarmUp)
	r.stops = never
	if o.Duration > 0 {
		r.stops = r.begins + int64(o.Duration)
	}
	r.tally.phase.streams = r.load.streams
	if !o.Waves {
		r.tally.start.Store(r.begins)
	}
	if !o.whole() {
		r.tally.end.Store(r.stops)
	}
	usage := cpuTime()

	// An interrupt ends the sending and the requests under way; the window's end
	// is no later.
	requests, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	cutOff := func() { cancel(errCutOff) }
	if r.load.streams > 0 {
		r.closed(ctx, requests, cutOff)
	} else {
		r.open(ctx, requests, cutOff)
	}
	if !o.whole() {
		pause(ctx, time.Duration(r.stops-r.now())) // no request came up in the rest of it
	}
	now := r.now()
	r.tally.end.Store(r.tally.until(now))
	return r.report(cpuTime()-usage, now)
}

// next decides about the next request: its number, and whether it is measured. It is
// false when there is none any more.
func (r *run) next(at int64) (n uint64, measured, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	measured = at >= r.begins
	if at >= r.stops || measured && r.options.Requests > 0 && r.measured == r.options.Requests {
		return 0, false, false
	}
	if measured {
		r.measured++
	}
	n = r.sent
	r.sent++
	return n, measured, true
}

// closed keeps the streams busy, each in a goroutine. sending ends the sending, and
// requests those that are under way, of which cutOff is the end.
func (r *run) closed(sending, requests context.Context, cutOff func()) {
	defer r.drainAfter(cutOff)()
	if r.options.Waves {
		r.waves(sending, requests)
		return
	}
	var streams sync.WaitGroup
	for range r.load.streams {
		streams.Go(func() {
			for sending.Err() == nil {
				at := r.now()
				n, measured, ok := r.next(at)
				if !ok {
					return
				}
				if r.request(requests, n, at, measured).outcome == failed {
					pause(sending, afterFailure)
				}
			}
		})
	}
	streams.Wait()
}

// waves has all streams begin together, and waits for all of them.
func (r *run) waves(sending, requests context.Context) {
	for sending.Err() == nil {
		at := r.now()
		failures, more := r.wave(requests, at)
		if !more {
			return
		}
		if failures {
			pause(sending, afterFailure)
		}
	}
}

// wave is one of them. more is false when nothing was sent any more.
func (r *run) wave(requests context.Context, at int64) (failures, more bool) {
	results := make([]*ending, r.load.streams)
	var streams sync.WaitGroup
	for i := range results {
		n, measured, ok := r.next(at)
		if !ok {
			break
		}
		if more = true; measured {
			r.tally.start.CompareAndSwap(never, at) // by the first of all
		}
		streams.Go(func() { results[i] = r.request(requests, n, at, measured) })
	}
	streams.Wait()
	for _, res := range results {
		failures = failures || res != nil && res.outcome == failed
	}
	return failures, more
}

// open sends requests when the random process says so. Each is in a goroutine;
// closed says what the arguments are.
func (r *run) open(sending, requests context.Context, cutOff func()) {
	defer r.drainAfter(cutOff)()
	var streams sync.WaitGroup
	defer streams.Wait()
	places := make(chan struct{}, r.places)
	interval := r.plans.interarrivals(r.load.rate)
	for at := int64(0); ; {
		at += int64(interval())
		n, measured, ok := r.next(at)
		if !ok {
			return
		}
		pause(sending, time.Duration(at-r.now()))
		select {
		case places <- struct{}{}:
		default: // wait for a place, or for the end
			select {
			case places <- struct{}{}:
			case <-requests.Done():
			}
		}
		if sending.Err() != nil || requests.Err() != nil {
			if measured && sending.Err() == nil {
				r.tally.mu.Lock()
				r.tally.unsent++
				r.tally.mu.Unlock()
				continue
			}
			return
		}
		streams.Go(func() {
			defer func() { <-places }()
			r.request(requests, n, at, measured)
		})
	}
}

// drainAfter has requests cut off when they have not ended so long after no more are
// sent. The returned function ends the waiting for it.
func (r *run) drainAfter(cutOff func()) (ended func()) {
	if r.stops == never {
		return func() {}
	}
	done := make(chan struct{})
	var waiting sync.WaitGroup
	waiting.Go(func() {
		timer := time.NewTimer(time.Duration(r.stops-r.now()) + r.options.Drain)
		defer timer.Stop()
		select {
		case <-timer.C:
			cutOff()
		case <-done:
		}
	})
	return func() {
		close(done)
		waiting.Wait()
	}
}
