package loadtest

import (
	"context"
	"fmt"
	"io"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	kigov1 "kigo/proto/kigo/v1"
)

// step is an event of a fake stream, or its error, that comes so long after the one
// before.
type step struct {
	after time.Duration
	event event
	err   error
}

// fake is a server whose streams come from a script, in a test's own time.
type fake struct {
	script func(n int, r *kigov1.ExecuteRequest) []step

	mu       sync.Mutex
	requests []*kigov1.ExecuteRequest
	at       []time.Duration // when they came, after the first run began
	born     time.Time
	running  int
	most     int // that ran at one time
	calls    map[string]chan struct{}
	left     int // streams whose context ended
	called   int // Cancel calls
}

func newFake(script func(n int, r *kigov1.ExecuteRequest) []step) *fake {
	return &fake{script: script, born: time.Now(), calls: map[string]chan struct{}{}}
}

// tokens is a stream that behaves: the first message after some time, further ones
// at equal distances, each with so many tokens.
func tokens(first, gap time.Duration, each int) func(int, *kigov1.ExecuteRequest) []step {
	return func(n int, r *kigov1.ExecuteRequest) []step {
		most := int(r.GetMaxTokens())
		steps := []step{{event: event{kind: startedEvent, requestID: fmt.Sprint(n), prompt: len(r.GetTokens().GetIds())}}}
		for at := 0; at < most; at += each {
			s := step{after: gap, event: event{kind: tokensEvent, index: at, ids: min(each, most-at)}}
			if at == 0 {
				s.after = first
			}
			steps = append(steps, s)
		}
		return append(steps, end(most), step{err: io.EOF})
	}
}

func end(n int) step {
	return step{event: event{kind: endEvent, generated: n, stop: kigov1.StopReason_STOP_REASON_MAX_TOKENS}}
}

func (f *fake) execute(ctx context.Context, r *kigov1.ExecuteRequest) (func() (event, error), error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := len(f.requests)
	f.requests = append(f.requests, r)
	f.at = append(f.at, time.Since(f.born))
	f.running++
	f.most = max(f.most, f.running)
	called := make(chan struct{})
	f.calls[fmt.Sprint(n)] = called
	steps := f.script(n, r)
	over := sync.OnceFunc(func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.running--
	})
	context.AfterFunc(ctx, over)
	generated := 0
	return func() (event, error) {
		s := steps[0]
		select { // a cancel comes before what is due
		case <-called:
			s = step{event: event{kind: endEvent, generated: generated, stop: kigov1.StopReason_STOP_REASON_CANCELLED}}
			steps, called = []step{{}, {err: io.EOF}}, nil
		default:
		}
		// No timer that has run out already: several of them at one time in a bubble
		// break the race detector (golang.org/issue/78156).
		pause(ctx, s.after)
		if ctx.Err() != nil {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.left++
			return event{}, status.FromContextError(ctx.Err()).Err()
		}
		steps = steps[1:]
		generated += s.event.ids
		if s.err != nil {
			over()
		}
		return s.event, s.err
	}, nil
}

func (f *fake) cancel(_ context.Context, id string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.called++
	c := f.calls[id]
	if c == nil {
		return status.Error(codes.NotFound, "no such request")
	}
	f.calls[id] = nil
	close(c)
	return nil
}

// testOptions is a closed loop of four streams for ten seconds, five tokens each.
func testOptions(t testing.TB) Options {
	return Options{
		Concurrency: []int{4}, Duration: 10 * time.Second, Drain: time.Minute,
		Prompt: lengthsOf(t, "8"), MaxTokens: lengthsOf(t, "5"), IgnoreEnd: true, Seed: 1,
	}
}

// inBubble measures in a test's own time, in which nothing but waiting takes any.
func inBubble(t *testing.T, o Options, script func(int, *kigov1.ExecuteRequest) []step, check func(t *testing.T, r *Report, f *fake)) {
	t.Helper()
	if err := o.Check(); err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		f := newFake(script)
		report := newReport(&o, &kigov1.HealthResponse{})
		runAll(t.Context(), &o, f, report, 1000, 7)
		check(t, report, f)
	})
}
