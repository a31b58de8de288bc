package loadtest

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"flag"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	kigov1 "kigo/proto/kigo/v1"
)

var rewrite = flag.Bool("rewrite", false, "rewrite the golden files")

// golden compares with a file of testdata.
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *rewrite {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s: got\n%s\nwant\n%s", name, got, want)
	}
}

// sampleReport has a run of each kind of trouble.
func sampleReport(t *testing.T) *Report {
	o := testOptions(t)
	o.Address, o.Version, o.WarmUp = "127.0.0.1:50051", "v1", 2*time.Second
	o.Cancel, o.Slow, o.FirstTokenWithin, o.GapWithin = 0.05, 0.02, 500*time.Millisecond, 50*time.Millisecond
	r := newReport(&o, &kigov1.HealthResponse{
		Version: "v2", Model: &kigov1.Model{Name: "a <model>", Quantization: "Q4_K", ContextLength: 4096},
		Device: &kigov1.Device{Name: "a processor", Threads: 2},
	})
	r.Date = time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)
	latency := func(p50 float64) Latency {
		return Latency{Count: 100, Mean: p50 * 1.1, Min: p50 / 2, P50: p50, P90: 2 * p50, P99: 4 * p50, Max: 5 * p50}
	}
	for i, n := range []int{1, 8, 32} {
		run := Result{
			Streams: n, Seconds: 10, Warmed: 3, CPU: 0.25, Requests: 100, Completed: 100, RequestsPerSecond: 10,
			PromptTokens: 800, Tokens: uint64(1000 * (i + 1)), Messages: uint64(900 * (i + 1)), TokensPerSecond: float64(100 * (i + 1)),
			DecodePerSecond: float64(120 * (i + 1)), DecodeShare: 0.8, GoodPerSecond: 9, GoodShare: 0.9,
			FirstToken: latency(10 * float64(n)), Gap: latency(4 + float64(n)/4), PerToken: latency(4 + float64(n)/4), Whole: latency(200),
			Stops: map[string]uint64{"max tokens": 100},
		}
		if n == 32 {
			run.Completed, run.Cancelled, run.Dropped, run.Failed, run.Broken, run.Unfinished = 80, 5, 2, 10, 1, 2
			run.Stops = map[string]uint64{"max tokens": 80, "cancelled": 3}
			run.Slow, run.Silent, run.Unsent = 3, 1, 4
			run.Errors = []ErrorCount{{"ResourceExhausted", "QUEUE_FULL", 9}, {"Unavailable", "", 1}}
			run.Violations, run.Example = map[string]uint64{"no end": 1}, "no end: the stream closed after 3 tokens without an end"
			run.Cancelling, run.DecodePerSecond, run.DecodeShare = latency(7), 0, 0
		}
		r.add(run)
	}
	return r
}

func TestReportAsJSON(t *testing.T) {
	data, err := json.MarshalIndent(sampleReport(t), "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "report.json", append(data, '\n'))
}

func TestPlot(t *testing.T) {
	closed := sampleReport(t)
	open := sampleReport(t)
	for i := range open.Results {
		r := &open.Results[i]
		r.Streams, r.Rate = 0, 0.5*float64(i+1)
		r.FirstToken = Latency{Count: 1, P50: 100 + float64(i), P99: 300} // near each other: no logarithms
	}
	open.Results[1].Gap = Latency{} // a run without
	empty := sampleReport(t)
	empty.Results = nil
	for name, r := range map[string]*Report{"closed.svg": closed, "open.svg": open, "empty.svg": empty} {
		var b bytes.Buffer
		if err := r.Plot(&b); err != nil {
			t.Fatal(err)
		}
		golden(t, name, b.Bytes())
		wellFormed(t, name, b.Bytes())
	}
	// Names come from outside.
	evil := sampleReport(t)
	evil.Server.Model, evil.Server.Device = "</text><script>\x1b\xff", `"&`
	var b bytes.Buffer
	if err := evil.Plot(&b); err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(b.Bytes(), []byte("<script")) {
		t.Error("a model's name becomes an element")
	}
	wellFormed(t, "evil", b.Bytes())
}

// wellFormed reads a picture as XML.
func wellFormed(t *testing.T, name string, data []byte) {
	t.Helper()
	d := xml.NewDecoder(bytes.NewReader(data))
	for {
		_, err := d.Token()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
			return
		}
	}
}

func TestAxis(t *testing.T) {
	for _, c := range []struct {
		values      []float64
		logarithmic bool
		first, last float64
	}{
		{nil, false, 0, 1},
		{[]float64{0}, false, 0, 1},
		{[]float64{100}, false, 0, 100},
		{[]float64{3, 7.3}, false, 0, 8},
		{[]float64{1, 900}, true, 1, 1000},
		{[]float64{0.03, 12}, true, 0.02, 10},
		{[]float64{1e-6, 1e6}, true, 1e-6, 1e6},
	} {
		a := newAxis(c.values, true)
		if n := len(a.ticks); n < 4 || n > 40 || a.logarithmic != c.logarithmic || a.ticks[0] != c.first || a.ticks[n-1] != c.last {
			t.Errorf("%v: %+v", c.values, a)
		}
		for _, v := range c.values {
			if p := a.place(v); p < 0 || p > 1 {
				t.Errorf("%v of %v is at %v", v, c.values, p)
			}
		}
	}
}
