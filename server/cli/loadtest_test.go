package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"kigo/engine"
	"kigo/engine/device/cpu"
	"kigo/engine/device/scripted"
	"kigo/server"
	"kigo/server/loadtest"
)

// servedTiny serves a tiny model of random weights, on a device whose steps take a
// while, and returns the server's address.
func servedTiny(t *testing.T, set ...func(*engine.Config)) (address string, e *engine.Engine) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "tiny.gguf")
	kigo(t, "", nil, "synth", path, "--shape", "tiny", "--format", "q8_0").mustSucceed(t)
	dev, err := cpu.New(cpu.Config{Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	cfg := engine.Config{MaxConcurrent: 4, MaxQueue: 8}
	for _, s := range set {
		s(&cfg)
	}
	e, err = engine.NewOn(cfg, scripted.New(dev, func(call string, _ int) error {
		if call == "Run" {
			time.Sleep(500 * time.Microsecond)
		}
		return nil
	}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := e.Load(t.Context(), engine.LoadRequest{Name: "tiny", File: f}, nil); err != nil {
		t.Fatal(err)
	}
	sc := server.DefaultConfig()
	sc.GRPCAddress, sc.HTTPAddress, sc.DrainDelay = "127.0.0.1:0", "", 0
	s, err := server.New(sc, e)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- s.Serve(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-served; err != nil {
			t.Errorf("the server ended with %v", err)
		}
	})
	return s.GRPCAddr().String(), e
}

func loadTestJSON(t *testing.T, r result) *loadtest.Report {
	t.Helper()
	var report loadtest.Report
	if err := json.Unmarshal([]byte(r.stdout), &report); err != nil {
		t.Fatalf("%v: %s%s", err, r.stdout, r.stderr)
	}
	return &report
}

// Against the real engine and server: all requests are accounted for, on both sides.
func TestLoadTest(t *testing.T) {
	address, e := servedTiny(t)
	at := func(args ...string) []string { return append([]string{"load-test", "--server", address}, args...) }

	t.Run("closed", func(t *testing.T) {
		before := e.Status().Tokens
		plot := filepath.Join(t.TempDir(), "load.svg")
		report := loadTestJSON(t, kigo(t, "", nil, at("--concurrency", "1,4", "--requests", "12", "--warm-up", "50ms",
			"--prompt", "20-60", "--max-tokens", "8", "--shared-prefix", "16", "--plot", plot, "--json")...).mustSucceed(t))
		if len(report.Results) != 2 || report.Server.Model != "tiny" || report.Server.Address != address || report.Load.Prompt != "20-60" {
			t.Fatalf("%+v", report)
		}
		var warmed uint64
		for _, r := range report.Results {
			if r.Requests != 12 || r.Completed != 12 || r.Stops["max tokens"] != 12 || r.FirstToken.Count != 12 || r.PerToken.Count != 12 ||
				r.PromptTokens < 12*20 || r.PromptTokens > 12*60 || r.TokensPerSecond <= 0 || r.FirstToken.Min < 0.5 {
				t.Errorf("%+v", r)
			}
			warmed += r.Warmed
		}
		if one := report.Results[0]; one.DecodePerSecond <= 0 || one.Seconds < 12*8*0.5e-3 || one.Gap.Count > 13*7 { // with those of the warm-up's last one
			t.Errorf("one stream, whose steps take more than half a millisecond: %+v", one)
		}
		if got, want := e.Status().Tokens-before, 8*(24+warmed); got != want {
			t.Errorf("the engine has generated %d tokens, want %d", got, want)
		}
		if picture := readFile(t, plot); !strings.HasPrefix(picture, "<svg") || strings.Count(picture, "<circle") != 4+2*2*2 {
			t.Errorf("the picture is\n%s", picture)
		}
		kigo(t, "", nil, at("--requests", "1", "--plot", plot)...).mustFail(t, exitFailure, "--force")
	})

	t.Run("open, cancelled, slow", func(t *testing.T) {
		report := loadTestJSON(t, kigo(t, "", nil, at("--rate", "100", "--requests", "40", "--warm-up", "0", "--prompt", "4", "--max-tokens", "3",
			"--cancel", "0.3", "--slow", "0.2", "--slo-ttft", "1m", "--slo-gap", "1m", "--text", "--allow-errors", "--json")...).mustSucceed(t))
		r := &report.Results[0]
		if r.Requests != 40 || r.Cancelled == 0 || r.Slow == 0 || r.Completed+r.Cancelled+r.Failed+r.Dropped != 40 || r.GoodShare == 0 {
			t.Errorf("%+v", r)
		}
		if st := e.Status(); st.Running != 0 || st.Waiting != 0 || st.KVUsed != 0 {
			t.Errorf("left behind: %+v", st)
		}
	})

	t.Run("refused", func(t *testing.T) {
		// Four run and eight wait: of sixteen at once the others are refused.
		args := at("--concurrency", "16", "--requests", "32", "--warm-up", "0", "--prompt", "8", "--max-tokens", "20")
		r := kigo(t, "", nil, args...)
		if r.code != exitFailure || !strings.Contains(r.stderr, "--allow-errors") || !strings.Contains(r.stdout, "failed with ResourceExhausted QUEUE_FULL") {
			t.Errorf("exit code %d, standard error %s, output\n%s", r.code, r.stderr, r.stdout)
		}
		kigo(t, "", nil, append(args, "--allow-errors")...).mustSucceed(t)
	})

	t.Run("what cannot be", func(t *testing.T) {
		kigo(t, "", nil, at("--prompt", "500", "--max-tokens", "13")...).mustFail(t, exitFailure, address, "500 tokens and 13", "context of 512")
		kigo(t, "", nil, "load-test", "--server", "127.0.0.1:1").mustFail(t, exitFailure, "no server answers at 127.0.0.1:1")
		for _, c := range [][]string{
			{"--concurrency", "0"}, {"--rate", "-1"}, {"--rate", "1", "--concurrency", "1"}, {"--prompt", "x"}, {"--max-tokens", "9-8"},
			{"--duration", "0"}, {"--cancel", "2"}, {"--waves", "--rate", "1"}, {"--force"}, {"--shared-prefix", "128"},
		} {
			flag := strings.TrimPrefix(c[0], "--")
			kigo(t, "", nil, at(c...)...).mustFail(t, exitUsage, flag)
		}
	})
}

// Ctrl-C ends it with the report of what was measured.
func TestLoadTestInterrupted(t *testing.T) {
	address, e := servedTiny(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() {
		defer cancel()
		for deadline := time.Now().Add(time.Minute); e.Status().Tokens < 100 && time.Now().Before(deadline); {
			time.Sleep(time.Millisecond)
		}
	}()
	var stdout, stderr bytes.Buffer
	a := &app{
		stdin: strings.NewReader(""), stdout: &stdout, stderr: &stderr,
		lookupEnv: func(string) (string, bool) { return "", false },
	}
	code := a.run(ctx, []string{"load-test", "--server", address, "--concurrency", "2,4", "--duration", "1h", "--warm-up", "0", "--max-tokens", "10", "--json"})
	report := loadTestJSON(t, result{code, stdout.String(), stderr.String()})
	if code != exitInterrupted || !report.Interrupted || len(report.Results) != 1 || stderr.Len() != 0 {
		t.Fatalf("exit code %d, standard error %s, report %+v", code, stderr.String(), report)
	}
	if r := &report.Results[0]; r.Tokens < 50 || r.Completed == 0 || r.Errored() != 0 || r.Seconds <= 0 || r.Seconds > 60 {
		t.Errorf("%+v", r)
	}
}

// The tables, of a report with a run of each kind of trouble.
func TestPrintLoadTest(t *testing.T) {
	latency := func(p50 float64) loadtest.Latency {
		return loadtest.Latency{Count: 100, P50: p50, P90: 2 * p50, P99: 4 * p50, Max: 5 * p50}
	}
	report := &loadtest.Report{
		Server: loadtest.Server{Address: "127.0.0.1:50051", Version: "v2", Model: "evil\x1b[2J", Device: "NVIDIA H100"},
		Load: loadtest.Load{
			Prompt: "64-512", SharedPrefix: 32, MaxTokens: "128", WarmUp: 2, Duration: 60, Requests: 1000, Waves: true,
			Cancel: 0.05, Slow: 0.02, Seed: 7, FirstTokenWithin: 500, GapWithin: 50,
		},
		Results: []loadtest.Result{
			{
				Streams: 1, Requests: 100, Completed: 100, RequestsPerSecond: 1.5, TokensPerSecond: 192.4, DecodePerSecond: 230, DecodeShare: 0.836,
				GoodPerSecond: 1.5, GoodShare: 1, FirstToken: latency(12.3), Gap: latency(4.2), Stops: map[string]uint64{"max tokens": 100},
			},
			{
				Streams: 256, Requests: 1000, Completed: 900, Cancelled: 50, Dropped: 9, Failed: 30, Broken: 1, Unfinished: 10, Unsent: 3,
				RequestsPerSecond: 100, TokensPerSecond: 12800, GoodPerSecond: 80, GoodShare: 0.85,
				FirstToken: latency(1234), Gap: latency(20), Cancelling: latency(9),
				Stops:      map[string]uint64{"max tokens": 850, "end": 50, "cancelled": 20},
				Errors:     []loadtest.ErrorCount{{Code: "ResourceExhausted", Reason: "QUEUE_FULL", Count: 29}, {Code: "Unavailable", Count: 1}},
				Violations: map[string]uint64{"no end": 1}, Example: "no end: the stream closed after 3 tokens without an end",
			},
		},
		Notes:       []string{"256 streams: something"},
		Interrupted: true,
	}
	const want = `evil\x1b[2J on NVIDIA H100, kigo v2 at 127.0.0.1:50051
Prompts of 64-512 tokens (the first 32 the same), 128 to generate; in waves; 1000 requests 1m0s after 2s of warm-up; 5.00 % cancelled; 2.00 % slow readers; seed 7
A request is good with its first token within 500 ms and no gap above 50.0 ms

         load  requests  completed  failed  requests/s  tokens/s  decode tokens/s  share of time  good/s    good
     1 stream       100        100       0        1.50       192              230         83.6 %    1.50   100 %
  256 streams      1000        900      31         100     12800                                    80.0  85.0 %

         load     latency, ms  count   p50   p90   p99   max
     1 stream     first token    100  12.3  24.6  49.2  61.5
     1 stream  between tokens    100  4.20  8.40  16.8  21.0
  256 streams     first token    100  1234  2468  4936  6170
  256 streams  between tokens    100  20.0  40.0  80.0   100
  256 streams          cancel    100  9.00  18.0  36.0  45.0

1 stream: 100 ended with max tokens
256 streams: 20 ended with cancelled, 50 ended with end, 850 ended with max tokens, 30 cancelled by leaving, 9 slow readers dropped, 10 cut off, 3 not sent, 29 failed with ResourceExhausted QUEUE_FULL, 1 failed with Unavailable, 1 broke the protocol: no end

Note: 256 streams: something
Note: interrupted: the last run is cut short
`
	var out strings.Builder
	if err := (&app{stdout: &out}).printLoadTest(report); err != nil {
		t.Fatal(err)
	}
	var got strings.Builder
	for line := range strings.Lines(out.String()) {
		got.WriteString(strings.TrimRight(line, " \n") + "\n")
	}
	if got.String() != want {
		t.Errorf("printed\n%s\nwant\n%s", got.String(), want)
	}

	for _, c := range []struct {
		change func(*loadtest.Report)
		allow  bool
		code   int
		words  string
	}{
		{func(*loadtest.Report) {}, true, exitFailure, "broke the protocol in 1 stream; the first time: no end: "},
		{func(r *loadtest.Report) { r.Results[1].Violations = nil }, true, exitInterrupted, ""},
		{func(r *loadtest.Report) { r.Interrupted = false }, true, exitOK, ""},
		{func(*loadtest.Report) {}, false, exitFailure, "errors ended 30 requests"},
		{func(r *loadtest.Report) { r.Results[1].Errors = nil }, false, exitOK, ""},
	} {
		c.change(report)
		err := judgeLoadTest(report, c.allow)
		code := exitCode(err)
		var silent *silentError
		if errors.As(err, &silent) {
			code = silent.code
		}
		if code != c.code || c.words != "" && !strings.Contains(err.Error(), c.words) {
			t.Errorf("exit code %d, want %d: %v", code, c.code, err)
		}
	}
}
