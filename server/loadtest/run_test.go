package loadtest

import (
	"context"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	kigov1 "kigo/proto/kigo/v1"
)

// near compares figures whose exact values are known, but for rounding and the
// width of a histogram's buckets.
func near(t *testing.T, what string, got, want float64) {
	t.Helper()
	if math.Abs(got-want) > 1e-9+want*HistogramError {
		t.Errorf("%s is %v, want %v", what, got, want)
	}
}

// Four streams, each request 100 ms to its first token and 25 ms to each of four
// others: 200 ms a request, 20 requests and 100 tokens a second.
func TestClosedLoop(t *testing.T) {
	o := testOptions(t)
	o.WarmUp = 2 * time.Second
	inBubble(t, o, tokens(100*time.Millisecond, 25*time.Millisecond, 1), func(t *testing.T, report *Report, f *fake) {
		r := &report.Results[0]
		if f.most != 4 || r.Streams != 4 {
			t.Errorf("%d streams at one time, %d in the report", f.most, r.Streams)
		}
		if r.Warmed != 40 || r.Requests != 200 || r.Completed != 200 || r.Stops["max tokens"] != 200 || r.Errored() != 0 || r.Violated() != 0 {
			t.Errorf("%+v", r)
		}
		near(t, "measured time", r.Seconds, 10)
		// What ends at the window's end is outside of it: 4 requests, and their last tokens.
		near(t, "requests/s", r.RequestsPerSecond, 20)
		near(t, "tokens/s", r.TokensPerSecond, 100)
		near(t, "first token", r.FirstToken.P50, 100)
		near(t, "first token, most", r.FirstToken.Max, 100)
		near(t, "gap", r.Gap.P99, 25)
		near(t, "per token", r.PerToken.P50, 25)
		near(t, "request", r.Whole.P90, 200)
		// Half of the time is the decode phase, in which each has a token in 25 ms.
		near(t, "decode share", r.DecodeShare, 0.5)
		near(t, "decode tokens/s", r.DecodePerSecond, 160)
		near(t, "good share", r.GoodShare, 1)
	})
}

// Tokens are counted, not messages: the same tokens in a fifth of the messages.
func TestCoalescedTokens(t *testing.T) {
	o := testOptions(t)
	o.MaxTokens = lengthsOf(t, "16")
	inBubble(t, o, tokens(100*time.Millisecond, 50*time.Millisecond, 5), func(t *testing.T, report *Report, _ *fake) {
		// Messages of 5, 5, 5 and 1 tokens, 250 ms a request.
		r := &report.Results[0]
		near(t, "tokens/s", r.TokensPerSecond, 16*16)
		near(t, "messages", float64(r.Messages), 4*16*10-4) // four come as the window ends
		near(t, "gap", r.Gap.P50, 50)
		near(t, "per token", r.PerToken.P50, 150.0/11)
		near(t, "gaps", float64(r.Gap.Count), 3*16*10-4)
	})
}

// With streams of different lengths a wave waits for the longest; the phase in which
// all generate ends with the shortest.
func TestWaves(t *testing.T) {
	o := testOptions(t)
	o.Waves, o.WarmUp, o.Concurrency = true, time.Second, []int{2}
	script := func(n int, r *kigov1.ExecuteRequest) []step {
		gap := 20 * time.Millisecond
		if n%2 == 1 {
			gap = 40 * time.Millisecond
		}
		return tokens(100*time.Millisecond, gap, 1)(n, r)
	}
	inBubble(t, o, script, func(t *testing.T, report *Report, f *fake) {
		// A wave takes 100 + 4*40 = 260 ms; the first that begins after a second
		// of warm-up does so at 1.04 s, and 38 more until 11 s have passed.
		r := &report.Results[0]
		if r.Warmed != 8 || r.Requests != 78 || r.Completed != 78 || f.most != 2 {
			t.Errorf("%+v, %d at one time", r, f.most)
		}
		near(t, "measured time", r.Seconds, 39*0.260)
		near(t, "tokens/s", r.TokensPerSecond, 10/0.260)
		// From 100 ms to 180 ms both generate: four tokens and two.
		near(t, "decode share", r.DecodeShare, 80.0/260)
		near(t, "decode tokens/s", r.DecodePerSecond, 6/0.080)
	})
}

// The number of requests ends a run, and the window is as long as they take.
func TestRequestsEndARun(t *testing.T) {
	for _, rates := range []bool{false, true} {
		o := testOptions(t)
		o.Duration, o.Requests, o.WarmUp = 0, 12, 100*time.Millisecond
		if rates {
			o.Concurrency, o.Rates = nil, []float64{50}
		}
		inBubble(t, o, tokens(100*time.Millisecond, 25*time.Millisecond, 1), func(t *testing.T, report *Report, f *fake) {
			r := &report.Results[0]
			if r.Requests != 12 || r.Completed != 12 || r.Warmed == 0 || len(f.requests) != 12+int(r.Warmed) || r.Tokens < 60 {
				t.Errorf("%+v", r)
			}
			near(t, "requests/s", r.RequestsPerSecond, 12/r.Seconds)
			if !rates {
				near(t, "measured time", r.Seconds, 0.7)
			}
		})
	}
}

// Requests of an open loop come when they are to come, whatever has become of those
// before: a server that takes a minute gets as many as one that answers at once.
func TestOpenLoopArrivals(t *testing.T) {
	arrivals := func(first time.Duration, seed uint64) (at []time.Duration) {
		o := testOptions(t)
		o.Concurrency, o.Rates, o.Duration, o.Seed, o.Drain = nil, []float64{50}, 20*time.Second, seed, time.Hour
		inBubble(t, o, tokens(first, 0, 1), func(t *testing.T, report *Report, f *fake) {
			at = f.at
			r := &report.Results[0]
			near(t, "first token", r.FirstToken.P50, milliseconds(int64(first)))
			if r.Requests != uint64(len(at)) || r.Completed != r.Requests || r.Lag.Max != 0 {
				t.Errorf("%d came: %+v", len(at), r)
			}
			near(t, "measured time", r.Seconds, 20)
		})
		return at
	}
	fast := arrivals(time.Millisecond, 1)
	if slow := arrivals(time.Minute, 1); !slices.Equal(fast, slow) {
		t.Error("requests come at other times when they take longer")
	}
	if slices.Equal(fast, arrivals(time.Millisecond, 2)) {
		t.Error("the seed decides nothing")
	}
	// Of a Poisson process: 1,000 are expected, the deviation is 32; so is that of
	// the times between them as large as their mean.
	if n := len(fast); n < 850 || n > 1150 {
		t.Errorf("%d requests in 20 s at 50 a second", n)
	}
	var sum, squares float64
	for i := 1; i < len(fast); i++ {
		d := (fast[i] - fast[i-1]).Seconds()
		sum, squares = sum+d, squares+d*d
	}
	mean := sum / float64(len(fast)-1)
	deviation := math.Sqrt(squares/float64(len(fast)-1) - mean*mean)
	if deviation/mean < 0.85 || deviation/mean > 1.15 {
		t.Errorf("the times between requests have the mean %v s and the deviation %v s", mean, deviation)
	}
}

// A latency counts from when its request should have been sent, also where it could
// not be: one at a time, each 100 ms, arriving ten times as fast.
func TestLatencyFromTheIntendedTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := testOptions(t)
		o.Concurrency, o.Rates, o.Duration, o.Drain = nil, []float64{100}, time.Second, time.Second
		f := newFake(tokens(100*time.Millisecond, 0, 1))
		run := newRun(&o, load{rate: 100}, f, &planner{options: &o, vocabulary: 10})
		run.places = 1
		r := run.do(t.Context())
		if f.most != 1 {
			t.Errorf("%d at one time", f.most)
		}
		if r.FirstToken.Max < 1500 || r.Lag.Max < 1400 {
			t.Errorf("first token at most %v ms, sent at most %v ms late: the wait for a place is not in it", r.FirstToken.Max, r.Lag.Max)
		}
		// 20 fit until the drain is over; who was not sent is counted as such.
		if r.Requests < 20 || r.Requests > 21 || r.Unsent < 50 || r.Requests+r.Unsent > 150 {
			t.Errorf("%d requests, %d not sent", r.Requests, r.Unsent)
		}
	})
}

// What is under way when the drain is over is cut off, and counts with the time that
// it had waited.
func TestDrain(t *testing.T) {
	o := testOptions(t)
	o.Drain = 5 * time.Second
	inBubble(t, o, tokens(time.Hour, 0, 1), func(t *testing.T, report *Report, f *fake) {
		r := &report.Results[0]
		if r.Requests != 4 || r.Unfinished != 4 || r.Silent != 4 || r.Errored() != 0 || f.left != 4 {
			t.Errorf("%+v", r)
		}
		near(t, "first token", r.FirstToken.Min, 15_000)
		if len(report.Notes) != 1 || !strings.Contains(report.Notes[0], "4 requests were cut off before their first token") {
			t.Errorf("notes %q", report.Notes)
		}
	})
}

// Who is to be cancelled is, in both ways, at the planned token; who is to read
// slowly does, and is not among the latencies.
func TestCancelledAndSlow(t *testing.T) {
	o := testOptions(t)
	o.Duration, o.Requests, o.Cancel, o.Slow = 0, 400, 0.25, 0.25
	script := tokens(100*time.Millisecond, 10*time.Millisecond, 1)
	inBubble(t, o, script, func(t *testing.T, report *Report, f *fake) {
		r := &report.Results[0]
		plans := &planner{options: &o}
		var leave, call, slow, read uint64
		for n := range uint64(400) {
			p := plans.plan(n)
			switch {
			case p.cancelled && p.byCall:
				call++
			case p.cancelled:
				leave++
			case p.slow:
				slow++
				read += 5
			default:
				read += 5
			}
			if p.cancelled {
				read += uint64(p.cancelAt)
			}
		}
		if leave < 30 || call < 30 || slow < 60 {
			t.Fatalf("planned: %d leave, %d call, %d slow", leave, call, slow)
		}
		if r.Cancelled != leave+call || uint64(f.called) != call || uint64(f.left) != leave || r.Stops["cancelled"] != call {
			t.Errorf("%d cancelled, %d by call (%d ends), %d left; want %d by call, %d left", r.Cancelled, f.called, r.Stops["cancelled"], f.left, call, leave)
		}
		if r.Completed != 400-leave-call || r.Slow != slow || r.Errored() != 0 || r.Violated() != 0 {
			t.Errorf("%+v", r)
		}
		if r.Tokens != read {
			t.Errorf("%d tokens arrived, want %d: cancels come at the planned tokens", r.Tokens, read)
		}
		// A slow one reads a token in 110 ms, and so they would be among the gaps.
		near(t, "gap, most", r.Gap.Max, 10)
		near(t, "good share", r.GoodShare, 1)
		if r.Cancelling.Count != call {
			t.Errorf("%d cancels timed", r.Cancelling.Count)
		}
	})
}

// Goodput counts requests that keep all bounds.
func TestGoodput(t *testing.T) {
	script := func(n int, r *kigov1.ExecuteRequest) []step {
		steps := tokens(100*time.Millisecond, 10*time.Millisecond, 1)(n, r)
		switch n % 4 {
		case 1:
			steps[1].after = 300 * time.Millisecond // its first token
		case 2:
			steps[4].after = 60 * time.Millisecond // a gap
		}
		return steps
	}
	for _, c := range []struct {
		first, gap time.Duration
		share      float64
	}{
		{0, 0, 1},
		{300 * time.Millisecond, 0, 1},
		{299 * time.Millisecond, 0, 0.75},
		{0, 60 * time.Millisecond, 1},
		{0, 59 * time.Millisecond, 0.75},
		{200 * time.Millisecond, 20 * time.Millisecond, 0.5},
		{50 * time.Millisecond, 20 * time.Millisecond, 0},
	} {
		o := testOptions(t)
		o.Duration, o.Requests, o.FirstTokenWithin, o.GapWithin = 0, 40, c.first, c.gap
		inBubble(t, o, script, func(t *testing.T, report *Report, _ *fake) {
			r := &report.Results[0]
			near(t, fmt.Sprintf("good share within %v and %v", c.first, c.gap), r.GoodShare, c.share)
			near(t, "good/s", r.GoodPerSecond, 40*c.share/r.Seconds)
		})
	}
}

// Every stream that breaks the protocol is counted by what is wrong with it.
func TestViolations(t *testing.T) {
	started := step{event: event{kind: startedEvent, requestID: "x"}}
	token := func(index, ids int) step { return step{event: event{kind: tokensEvent, index: index, ids: ids}} }
	eof := step{err: io.EOF}
	fails := step{err: status.Error(codes.Internal, "no")}
	for name, c := range map[string]struct {
		steps []step
		rule  string // empty: it is none
	}{
		"fine":                {[]step{started, token(0, 2), token(2, 3), end(5), eof}, ""},
		"text without tokens": {[]step{started, token(0, 5), token(5, 0), end(5), eof}, ""},
		"metrics":             {[]step{started, token(0, 5), {event: event{kind: metricsEvent}}, end(5), eof}, ""},
		"an early end":        {[]step{started, end(0), eof}, ""},
		"gap":                 {[]step{started, token(0, 1), token(2, 1)}, "gap in the tokens"},
		"token twice":         {[]step{started, token(0, 1), token(0, 1)}, "gap in the tokens"},
		"first token missing": {[]step{started, token(1, 1)}, "gap in the tokens"},
		"two ends":            {[]step{started, token(0, 5), end(5), end(5)}, "two ends"},
		"end and error":       {[]step{started, token(0, 5), end(5), fails}, "two ends"},
		"no end":              {[]step{started, token(0, 5), eof}, "no end"},
		"nothing at all":      {[]step{eof}, "no end"},
		"after the end":       {[]step{started, token(0, 3), end(3), token(3, 1)}, "event after the end"},
		"not started":         {[]step{token(0, 5)}, "not started"},
		"started twice":       {[]step{started, started}, "started twice"},
		"too many":            {[]step{started, token(0, 4), token(4, 2)}, "too many tokens"},
		"wrong count":         {[]step{started, token(0, 4), end(5)}, "wrong count"},
		"empty event":         {[]step{started, {}}, "event of no kind"},
		"no reason":           {[]step{started, {event: event{kind: endEvent}}}, "no stop reason"},
		"unknown reason":      {[]step{started, {event: event{kind: endEvent, stop: 99}}}, "no stop reason"},
	} {
		for _, warmUp := range []time.Duration{0, time.Second} {
			o := testOptions(t)
			o.Concurrency, o.Duration, o.Requests, o.WarmUp = []int{1}, 0, 1, warmUp
			script := func(n int, r *kigov1.ExecuteRequest) []step {
				if n > 0 {
					return tokens(time.Second, 0, 1)(n, r)
				}
				steps := slices.Clone(c.steps)
				steps[0].after = warmUp / 2
				return steps
			}
			inBubble(t, o, script, func(t *testing.T, report *Report, _ *fake) {
				r := &report.Results[0]
				switch {
				case c.rule == "" && (r.Violated() != 0 || r.Errored() != 0 || r.Completed != 1):
					t.Errorf("%s: %+v", name, r)
				case c.rule != "" && (r.Violated() != 1 || r.Violations[c.rule] != 1 || !strings.HasPrefix(r.Example, c.rule+": ") || r.Errored() != 0):
					t.Errorf("%s: violations %v, first %q", name, r.Violations, r.Example)
				case c.rule != "" && warmUp == 0 && (r.Broken != 1 || r.Completed != 0):
					t.Errorf("%s: %+v", name, r)
				}
			})
		}
	}
}

// Errors are counted by code and reason, and a server that refuses everything is not
// asked in a loop without a pause.
func TestErrors(t *testing.T) {
	refusal := func(code codes.Code, reason string) error {
		st, err := status.New(code, "no").WithDetails(&errdetails.ErrorInfo{Reason: reason})
		if err != nil {
			t.Fatal(err)
		}
		return st.Err()
	}
	for _, waves := range []bool{false, true} {
		o := testOptions(t)
		o.Waves, o.WarmUp = waves, time.Second
		script := func(n int, _ *kigov1.ExecuteRequest) []step {
			if n%2 == 0 {
				return []step{{err: refusal(codes.ResourceExhausted, "QUEUE_FULL")}}
			}
			return []step{{err: status.Error(codes.Unavailable, "gone")}}
		}
		inBubble(t, o, script, func(t *testing.T, report *Report, f *fake) {
			r := &report.Results[0]
			if n := len(f.requests); n > 4*111 || n < 4*100 {
				t.Errorf("%d requests in 11 s, want one each 100 ms of each stream", n)
			}
			want := []ErrorCount{{"ResourceExhausted", "QUEUE_FULL", uint64(len(f.requests)) / 2}, {"Unavailable", "", uint64(len(f.requests)) / 2}}
			if !slices.Equal(r.Errors, want) || r.Failed != r.Requests || r.Errored() != r.Requests+r.Warmed {
				t.Errorf("errors %v, want %v; %+v", r.Errors, want, r)
			}
		})
	}
	// A connection that is lost after the end is an error, and no second end.
	o := testOptions(t)
	o.Duration, o.Requests = 0, 4
	script := func(n int, r *kigov1.ExecuteRequest) []step {
		return append(tokens(0, 0, 1)(n, r)[:7], step{err: status.Error(codes.Unavailable, "connection reset")})
	}
	inBubble(t, o, script, func(t *testing.T, report *Report, _ *fake) {
		r := &report.Results[0]
		if r.Failed != 4 || r.Violated() != 0 || !slices.Equal(r.Errors, []ErrorCount{{"Unavailable", "", 4}}) {
			t.Errorf("%+v", r)
		}
	})
	// A slow reader that the server gives up on asked for it; nobody else did.
	o = testOptions(t)
	o.Duration, o.Requests, o.Slow = 0, 100, 0.5
	script = func(n int, r *kigov1.ExecuteRequest) []step {
		return append(tokens(0, 0, 1)(n, r)[:3], step{err: refusal(codes.ResourceExhausted, "SLOW_READER")})
	}
	inBubble(t, o, script, func(t *testing.T, report *Report, _ *fake) {
		r := &report.Results[0]
		if r.Slow < 20 || r.Dropped != r.Slow || r.Failed != 100-r.Slow || r.Errored() != r.Failed {
			t.Errorf("%+v", r)
		}
	})
	// Reasons come from outside: there are not more of them than a table can have.
	o = testOptions(t)
	o.Duration, o.Requests = 0, 500
	script = func(n int, _ *kigov1.ExecuteRequest) []step {
		return []step{{err: refusal(codes.Internal, fmt.Sprint(n))}}
	}
	inBubble(t, o, script, func(t *testing.T, report *Report, _ *fake) {
		r := &report.Results[0]
		if len(r.Errors) > maxKinds+1 || r.Errored() != 500 || r.Errors[0] != (ErrorCount{"Internal", "other", 500 - maxKinds}) {
			t.Errorf("%d kinds of %d errors, first %+v", len(r.Errors), r.Errored(), r.Errors[0])
		}
	})
}

// An interrupt ends the run, with a report of what there was until then.
func TestInterrupt(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*Options)
		after  time.Duration
		tokens float64
	}{
		{"closed", func(*Options) {}, 4 * time.Second, 400},
		{"waves", func(o *Options) { o.Waves = true }, 4 * time.Second, 400},
		{"requests", func(o *Options) { o.Duration, o.Requests = 0, 1e6 }, 4 * time.Second, 400},
		{"open", func(o *Options) { o.Concurrency, o.Rates = nil, []float64{20} }, 4 * time.Second, -1},
		{"warm-up", func(o *Options) { o.WarmUp = time.Hour }, 4 * time.Second, 0},
		{"second run", func(o *Options) { o.Concurrency = []int{4, 4} }, 14*time.Second + 200*time.Millisecond, 400},
	} {
		synctest.Test(t, func(t *testing.T) {
			o := testOptions(t)
			c.change(&o)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			go func() {
				time.Sleep(c.after)
				cancel()
			}()
			f := newFake(tokens(100*time.Millisecond, 25*time.Millisecond, 1))
			report := newReport(&o, &kigov1.HealthResponse{})
			runAll(ctx, &o, f, report, 1000, 7)
			synctest.Wait() // for the fake server to see that its streams are over
			if passed := time.Since(f.born); passed > c.after {
				t.Errorf("%s: it went on for %v", c.name, passed-c.after)
			}
			if !report.Interrupted {
				t.Errorf("%s: the report does not say so", c.name)
			}
			r := &report.Results[len(report.Results)-1]
			if c.tokens >= 0 && math.Abs(float64(r.Tokens)-c.tokens) > 20 || r.Errored() != 0 || f.running != 0 {
				t.Errorf("%s: %+v, %d still run", c.name, r, f.running)
			}
			if c.tokens > 0 {
				near(t, c.name+": tokens/s", r.TokensPerSecond, float64(r.Tokens)/r.Seconds)
			}
			if sum := r.Completed + r.Cancelled + r.Dropped + r.Failed + r.Broken + r.Interrupted; sum != r.Requests {
				t.Errorf("%s: %d requests, %d of them ended", c.name, r.Requests, sum)
			}
			if r.Requests > 0 && (r.GoodShare != 1 || r.FirstToken.Min < 99) {
				t.Errorf("%s: what the interrupt ended counts against the server: %+v", c.name, r)
			}
		})
	}
}
