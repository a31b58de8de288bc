package loadtest

import (
	"cmp"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"time"

	kigov1 "kigo/proto/kigo/v1"
)

// reportFormat is the version of the report as JSON. A change that an old reader
// would misread takes the next number; new fields may come at any time.
const reportFormat = 1

// Report is what Run measured. Times in its fields whose names end with _ms are
// milliseconds, with _s seconds.
type Report struct {
	Format      int       `json:"load_test_format"`
	Version     string    `json:"kigo_version"` // of the client
	Date        time.Time `json:"date"`
	Server      Server    `json:"server"`
	Load        Load      `json:"load"`
	Results     []Result  `json:"results"`
	Interrupted bool      `json:"interrupted,omitempty"` // the last run is cut short
	Notes       []string  `json:"notes,omitempty"`       // what to know before believing a figure
}

// Server is what was measured, by its own account before the first run.
type Server struct {
	Address      string `json:"address"`
	Version      string `json:"kigo_version"`
	Model        string `json:"model"`
	Quantization string `json:"quantization"`
	Context      int    `json:"context"` // tokens
	Device       string `json:"device"`
}

// Load is what was asked of the server.
type Load struct {
	Prompt       string  `json:"prompt"`                  // tokens (words, of a text): a distribution, as on the command line
	SharedPrefix int     `json:"shared_prefix,omitempty"` // of them
	Text         bool    `json:"text,omitempty"`
	MaxTokens    string  `json:"max_tokens"`
	IgnoreEnd    bool    `json:"ignore_end"`
	Temperature  float32 `json:"temperature"`
	WarmUp       float64 `json:"warm_up_s"`
	Duration     float64 `json:"duration_s,omitempty"` // 0: as long as it took
	Requests     int     `json:"requests,omitempty"`   // 0: as many as came up
	Waves        bool    `json:"waves,omitempty"`
	Cancel       float64 `json:"cancel_share,omitempty"`
	Slow         float64 `json:"slow_share,omitempty"`
	Seed         uint64  `json:"seed"`

	FirstTokenWithin float64 `json:"slo_first_token_ms,omitempty"` // 0: no bound
	GapWithin        float64 `json:"slo_gap_ms,omitempty"`
}

// Result is one load and what became of it. Requests counts those that were to be sent
// while it was measured; each of them is in exactly one of the counts from Completed
// to Interrupted. Tokens are generated ones that arrived in the measured time, of
// whichever request.
type Result struct {
	Streams int     `json:"concurrency,omitempty"`     // closed loop
	Rate    float64 `json:"rate_per_s,omitempty"`      // open loop
	Seconds float64 `json:"measured_s"`                // how long was measured
	Warmed  uint64  `json:"warm_up_requests"`          // before that
	CPU     float64 `json:"client_cores"`              // cores that this program kept busy, warm-up included
	Unsent  uint64  `json:"unsent,omitempty"`          // open loop: there was no room for them up to the end
	Slow    uint64  `json:"slow_requests,omitempty"`   // that read slowly: not among the latencies
	Silent  uint64  `json:"silent_requests,omitempty"` // cut off before a first token: they count with the time they had waited

	Requests   uint64 `json:"requests"`
	Completed  uint64 `json:"completed"`
	Cancelled  uint64 `json:"cancelled,omitempty"`  // as --cancel wants it
	Dropped    uint64 `json:"dropped,omitempty"`    // slow readers that the server did not wait for
	Failed     uint64 `json:"failed,omitempty"`     // with an error that nobody asked for
	Broken     uint64 `json:"broken,omitempty"`     // the protocol was violated
	Unfinished uint64 `json:"unfinished,omitempty"` // cut off when the drain was over

	Interrupted uint64 `json:"interrupted,omitempty"` // with this program

	RequestsPerSecond float64 `json:"requests_per_s"` // that completed in the measured time
	PromptTokens      uint64  `json:"prompt_tokens"`  // of the measured requests
	Tokens            uint64  `json:"tokens"`
	Messages          uint64  `json:"messages"` // that the tokens came in
	TokensPerSecond   float64 `json:"tokens_per_s"`

	// While all streams of a closed loop were generating: what engines' own
	// benchmarks report as the speed of decoding. 0 where that was never so.
	DecodePerSecond float64 `json:"decode_tokens_per_s,omitempty"`
	DecodeShare     float64 `json:"decode_share,omitempty"` // of the measured time

	// Requests that completed within the bounds that were set, a second, and
	// their share of all that were neither cancelled, slow nor interrupted. Those
	// that could not be sent are not good.
	GoodPerSecond float64 `json:"good_requests_per_s"`
	GoodShare     float64 `json:"good_share"`

	FirstToken Latency `json:"first_token_ms"` // from when the request was to be sent
	Gap        Latency `json:"gap_ms"`         // between two messages of a stream that bring tokens
	PerToken   Latency `json:"per_token_ms"`   // mean of each request, after its first message
	Whole      Latency `json:"request_ms"`     // completed ones, from when they were to be sent
	Lag        Latency `json:"send_lag_ms"`    // of this program
	Cancelling Latency `json:"cancel_ms"`      // from the Cancel call to the stream's end

	Stops      map[string]uint64 `json:"stop_reasons"`
	Errors     []ErrorCount      `json:"errors,omitempty"`     // warm-up included, most frequent first
	Violations map[string]uint64 `json:"violations,omitempty"` // warm-up included
	Example    string            `json:"violation,omitempty"`  // the first one
}

// ErrorCount is how often a kind of error came.
type ErrorCount struct {
	Code   string `json:"code"`             // of gRPC
	Reason string `json:"reason,omitempty"` // that the server gave
	Count  uint64 `json:"count"`
}

// Load is the run's load in words: "8 streams", "2.5/s".
func (r *Result) Load() string { return load{streams: r.Streams, rate: r.Rate}.String() }

// Errored is how many requests failed, those of the warm-up included.
func (r *Result) Errored() uint64 {
	n := uint64(0)
	for _, e := range r.Errors {
		n += e.Count
	}
	return n
}

// Violated is how many streams broke the protocol.
func (r *Result) Violated() uint64 {
	n := uint64(0)
	for _, count := range r.Violations {
		n += count
	}
	return n
}

func newReport(o *Options, h *kigov1.HealthResponse) *Report {
	m, d := h.GetModel(), h.GetDevice()
	device := d.GetName()
	if n := d.GetThreads(); n > 0 {
		device = fmt.Sprintf("%s, %d threads", device, n)
	}
	return &Report{
		Format: reportFormat, Version: o.Version, Date: time.Now().UTC().Truncate(time.Second),
		Server: Server{
			Address: o.Address, Version: h.GetVersion(), Model: m.GetName(), Quantization: m.GetQuantization(),
			Context: int(m.GetContextLength()), Device: device,
		},
		Load: Load{
			Prompt: o.Prompt.String(), SharedPrefix: o.SharedPrefix, Text: o.Text, MaxTokens: o.MaxTokens.String(),
			IgnoreEnd: o.IgnoreEnd, Temperature: o.Temperature,
			WarmUp: o.WarmUp.Seconds(), Duration: o.Duration.Seconds(), Requests: o.Requests, Waves: o.Waves,
			Cancel: o.Cancel, Slow: o.Slow, Seed: o.Seed,
			FirstTokenWithin: milliseconds(int64(o.FirstTokenWithin)), GapWithin: milliseconds(int64(o.GapWithin)),
		},
	}
}

// report sums the run up; all of its requests have ended, now.
func (r *run) report(cpu time.Duration, now int64) Result {
	t := r.tally
	t.mu.Lock()
	defer t.mu.Unlock()
	window := max(t.end.Load()-min(t.start.Load(), t.end.Load()), 0)
	out := Result{
		Streams: r.load.streams, Rate: r.load.rate, Seconds: float64(window) / 1e9,
		Warmed: t.warmUp, Unsent: t.unsent, Slow: t.slow, Silent: t.silent,
		Requests: t.requests, Completed: t.outcomes[completed], Cancelled: t.outcomes[cancelled], Dropped: t.outcomes[dropped],
		Failed: t.outcomes[failed], Broken: t.outcomes[broken], Unfinished: t.outcomes[unfinished], Interrupted: t.outcomes[interrupted],
		PromptTokens: t.prompt, Tokens: t.tokens.Load(), Messages: t.messages.Load(),
		FirstToken: t.firstToken.latency(), Gap: t.gap.latency(), PerToken: t.perToken.latency(),
		Whole: t.whole.latency(), Lag: t.lag.latency(), Cancelling: t.cancelling.latency(),
		Stops: map[string]uint64{}, Violations: maps.Clone(t.violations), Example: t.example,
	}
	for reason, n := range t.stops {
		out.Stops[stopName(reason)] += n
	}
	for f, n := range t.errors {
		out.Errors = append(out.Errors, ErrorCount{f.code, f.reason, n})
	}
	slices.SortFunc(out.Errors, func(a, b ErrorCount) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.Code, b.Code), cmp.Compare(a.Reason, b.Reason))
	})
	if now > 0 {
		out.CPU = float64(cpu) / float64(now)
	}
	if window > 0 {
		perSecond := func(n uint64) float64 { return float64(n) / out.Seconds }
		out.RequestsPerSecond, out.TokensPerSecond, out.GoodPerSecond = perSecond(t.ended), perSecond(out.Tokens), perSecond(t.good)
		out.DecodeShare = float64(t.phase.lasted) / float64(window)
	}
	if t.phase.lasted > 0 {
		out.DecodePerSecond = t.phase.tokens / (float64(t.phase.lasted) / 1e9)
	}
	if judged := t.judged + t.unsent; judged > 0 {
		out.GoodShare = float64(t.good) / float64(judged)
	}
	return out
}

// busyClient is the share of this machine's cores above which the client may be what
// limits.
const busyClient = 0.7

// add adds a run, and what to know about it.
func (r *Report) add(run Result) {
	r.Results = append(r.Results, run)
	note := func(format string, args ...any) {
		r.Notes = append(r.Notes, run.Load()+": "+fmt.Sprintf(format, args...))
	}
	if run.Streams > 0 && run.Completed > 0 && run.DecodePerSecond == 0 {
		note("never were all streams generating at the same time; --waves lets them begin together")
	}
	if run.Silent > 0 {
		note("%d requests were cut off before their first token; they count with the time that they had waited", run.Silent)
	}
	if run.Unsent > 0 {
		note("%d requests could not be sent: %d others were under way", run.Unsent, maxInFlight)
	}
	if cores := float64(runtime.GOMAXPROCS(0)); run.CPU > busyClient*cores {
		note("this program kept %.1f of %.0f cores busy: it may be what limits", run.CPU, cores)
	}
	if run.Rate > 0 && run.Lag.P99 > lateSender {
		note("this program sent one request in a hundred %.0f ms late or later; that is part of the latencies", run.Lag.P99)
	}
}

// lateSender is the lag, in milliseconds, that is worth a note.
const lateSender = 10
