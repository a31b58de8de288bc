package loadtest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	kigov1 "kigo/proto/kigo/v1"
)

// exchange is one request under way.
type exchange struct {
	run    *run
	plan   plan
	ending ending

	requestID string
	phase     int64 // what tally.upTo was at the latest token
	started   bool
	ended     bool
	asked     bool  // it was cancelled, as planned
	askedAt   int64 // when
	askErr    error // of the Cancel call
}

// request sends the n-th request, which should have been sent at that time, and
// reads its stream to the end.
func (r *run) request(ctx context.Context, n uint64, sent int64, measured bool) *ending {
	p := r.plans.plan(n)
	x := &exchange{run: r, plan: p, ending: ending{measured: measured, slow: p.slow, sent: sent}}
	message := r.plans.request(n, p)
	if measured {
		r.tally.lag.add(time.Duration(r.now() - sent))
	}
	reqCtx, cancel := context.WithCancel(ctx)
	defer cancel()
	err := x.exchange(reqCtx, cancel, message)
	x.ending.over = r.now()
	if x.ending.tokens > 0 {
		r.tally.generatesNoMore(x.ending.over)
	}
	x.judge(ctx, err)
	r.tally.finish(r.options, &x.ending)
	return &x.ending
}

// exchange reads events until the stream ends, or breaks the protocol. Without an
// error the stream has ended well.
func (x *exchange) exchange(ctx context.Context, leave func(), message *kigov1.ExecuteRequest) error {
	next, err := x.run.target.execute(ctx, message)
	if err != nil {
		return err
	}
	for {
		ev, err := next()
		if err != nil && !errors.Is(err, io.EOF) {
			if x.ended && !x.asked && ctx.Err() == nil && !isLost(err) {
				return violationError{violation{"two ends", fmt.Sprintf("%v after the end", status.Code(err))}}
			}
			return err
		}
		if err != nil {
			if !x.ended {
				return violationError{violation{"no end", fmt.Sprintf("the stream closed after %d tokens without an end", x.ending.tokens)}}
			}
			return nil
		}
		at := x.run.now()
		if v := x.check(&ev); v != nil {
			return violationError{*v}
		}
		x.take(&ev, at)
		if x.plan.cancelled && !x.asked && !x.ended && x.ending.tokens >= x.plan.cancelAt {
			x.asked, x.askedAt = true, at
			if !x.plan.byCall {
				leave()
				continue
			}
			if err := x.run.target.cancel(ctx, x.requestID); status.Code(err) != codes.NotFound { // which has ended by itself
				x.askErr = err
			}
		}
		if x.plan.slow && ev.kind == tokensEvent {
			pause(ctx, SlowDelay)
		}
	}
}

// violationError carries a violation out of exchange.
type violationError struct{ violation }

func (e violationError) Error() string { return e.violation.String() }

// check says which rule of the protocol an event breaks; nil: none.
func (x *exchange) check(ev *event) *violation {
	rule := func(rule, how string, args ...any) *violation { return &violation{rule, fmt.Sprintf(how, args...)} }
	switch {
	case x.ended && ev.kind == endEvent:
		return rule("two ends", "an end after the end")
	case x.ended:
		return rule("event after the end", "after %d tokens", x.ending.tokens)
	case ev.kind == noEvent:
		return rule("event of no kind", "after %d tokens", x.ending.tokens)
	case !x.started && ev.kind != startedEvent:
		return rule("not started", "the first event is another one")
	case x.started && ev.kind == startedEvent:
		return rule("started twice", "after %d tokens", x.ending.tokens)
	case ev.kind == tokensEvent && ev.ids > 0 && ev.index != x.ending.tokens:
		return rule("gap in the tokens", "index %d after %d tokens", ev.index, x.ending.tokens)
	case ev.kind == tokensEvent && x.ending.tokens+ev.ids > x.plan.most:
		return rule("too many tokens", "%d, asked for %d", x.ending.tokens+ev.ids, x.plan.most)
	case ev.kind == endEvent && ev.generated != x.ending.tokens:
		return rule("wrong count", "the end says %d tokens, %d arrived", ev.generated, x.ending.tokens)
	case ev.kind == endEvent && !isStop(ev.stop):
		return rule("no stop reason", "after %d tokens", x.ending.tokens)
	}
	return nil
}

func isStop(r kigov1.StopReason) bool {
	_, known := kigov1.StopReason_name[int32(r)]
	return known && r != kigov1.StopReason_STOP_REASON_UNSPECIFIED
}

// take counts an event.
func (x *exchange) take(ev *event, at int64) {
	r, t := &x.ending, x.run.tally
	switch ev.kind {
	case startedEvent:
		x.started, x.requestID = true, ev.requestID
		r.prompt = ev.prompt
	case tokensEvent:
		if ev.ids == 0 {
			return // text that was held back
		}
		t.arrived(at, ev.ids)
		if r.tokens == 0 {
			r.first, r.firstBatch = at, ev.ids
			x.phase = t.generates(at)
		} else {
			x.phase = t.generated(at, ev.ids, r.last, x.phase)
			gap := time.Duration(at - r.last)
			r.longest = max(r.longest, gap)
			if !x.plan.slow && !x.asked && t.measures(at) {
				t.gap.add(gap)
			}
		}
		r.last = at
		r.tokens += ev.ids
	case endEvent:
		x.ended, r.stop = true, ev.stop
		if x.asked && x.plan.byCall && ev.stop == kigov1.StopReason_STOP_REASON_CANCELLED && r.measured {
			t.cancelling.add(time.Duration(at - x.askedAt))
		}
	case metricsEvent, noEvent:
	}
}

// judge says how the request ended. ctx is the run's: when it has ended, requests
// are cut off.
func (x *exchange) judge(ctx context.Context, err error) {
	r := &x.ending
	var v violationError
	switch {
	case errors.As(err, &v):
		r.outcome, r.violation = broken, v.violation
	case x.askErr != nil && ctx.Err() == nil:
		r.outcome, r.failure = failed, failureOf(x.askErr)
	case x.asked && (r.stop == kigov1.StopReason_STOP_REASON_CANCELLED || err != nil && status.Code(err) == codes.Canceled):
		r.outcome = cancelled
	case err == nil:
		r.outcome = completed
	case errors.Is(context.Cause(ctx), errCutOff):
		r.outcome = unfinished
	case ctx.Err() != nil:
		r.outcome = interrupted
	case x.plan.slow && failureOf(err) == failure{codes.ResourceExhausted.String(), "SLOW_READER"}:
		r.outcome = dropped
	default:
		r.outcome, r.failure = failed, failureOf(err)
	}
}

// failureOf is the kind of a server's error.
func failureOf(err error) failure {
	st := status.Convert(err)
	f := failure{code: st.Code().String()}
	for _, d := range st.Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok {
			f.reason = info.GetReason()
		}
	}
	return f
}

// isLost says that it was not the server that ended a stream, but the loss of its
// connection.
func isLost(err error) bool { return failureOf(err) == failure{code: codes.Unavailable.String()} }

// pause waits, at most until ctx ends.
func pause(ctx context.Context, d time.Duration) {
	if d <= 0 {
		return
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
