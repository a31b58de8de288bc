package cli

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"kigo/engine/bench"
)

func TestSynthAndBench(t *testing.T) {
	folder := t.TempDir()
	path := filepath.Join(folder, "m.gguf")
	kigo(t, "", nil, "synth", path, "--shape", "tiny", "--format", "q8_0").mustSucceed(t)
	first, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	kigo(t, "", nil, "synth", path, "--shape", "tiny", "--format", "q8_0").mustFail(t, exitFailure, "--force")
	kigo(t, "", nil, "synth", path, "--shape", "tiny", "--format", "q8_0", "--seed", "2", "--force").mustSucceed(t)
	second, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if len(first) != len(second) || string(first) == string(second) {
		t.Errorf("another seed gave %d bytes after %d, equal: %t", len(second), len(first), string(first) == string(second))
	}
	if got := entries(t, folder); got != "m.gguf" {
		t.Errorf("the folder has %s", got)
	}

	args := []string{"bench", path, "--device", "cpu", "--prompt", "40", "--prompt", "20,600", "--context", "8", "--generate", "10"}
	out := kigo(t, "", nil, append(args, "--runs", "2", "--json")...).mustSucceed(t)
	report, err := bench.Read(strings.NewReader(out.stdout))
	if err != nil {
		t.Fatal(err)
	}
	var rates []string
	for _, r := range report.Rows {
		if r.Unit == "tokens/s" {
			rates = append(rates, r.Name)
		}
	}
	if got := strings.Join(rates, ", "); got != "prefill 20, prefill 40, decode 10 at context 8" || report.Runs != 2 || report.Model.Formats != "Q8_0" || report.Version != Version() {
		t.Errorf("measured %s; report %+v", got, report)
	}

	// The report is what a later run is compared with.
	saved := filepath.Join(t.TempDir(), "old.json")
	if err := os.WriteFile(saved, []byte(out.stdout), 0o600); err != nil {
		t.Fatal(err)
	}
	table := kigo(t, "", nil, append(args, "--runs", "1", "--profile", "--compare", saved, "--fail-below", "0.000001")...).mustSucceed(t).stdout
	for _, want := range []string{
		"synthetic tiny (Q8_0, ", "1 run\n", "The device moves ", "FLOP/s (", " prefill 40 ", " FLOPs\n", " %",
		"Against kigo \"" + Version() + "\" of " + report.Date.Format("2006-01-02"), "ratio",
		"Note: prefill 600 is left out", "Note: no profile: not on this device (cpu)",
	} {
		if !strings.Contains(table, want) {
			t.Errorf("the table lacks %q:\n%s", want, table)
		}
	}

	// Everything is a millionth as fast at least, and nothing a hundred times.
	r := kigo(t, "", nil, append(args, "--runs", "1", "--json", "--compare", saved, "--fail-below", "100")...)
	if r.code != exitFailure || !strings.Contains(r.stderr, "prefill 40 is ") || !strings.Contains(r.stderr, "less than 100") {
		t.Errorf("exit code %d, standard error %s", r.code, r.stderr)
	}
	var compared benchOutput
	if err := json.Unmarshal([]byte(r.stdout), &compared); err != nil {
		t.Fatal(err)
	}
	if c := compared.Comparison; c == nil || len(c.Rows) != len(report.Rows) || c.Rates() != 6 {
		t.Errorf("comparison %+v", c)
	}
}

// A profile and what goes with it, as a GPU gives it.
func TestPrintBench(t *testing.T) {
	report := &bench.Report{
		Model:  bench.Model{Name: "evil\x1b[2J", Formats: "F16", Parameters: 494_000_000},
		Device: bench.Device{Kind: "cuda", Name: "NVIDIA H100", Driver: "580.95.05, CUDA 13.0"},
		Rates:  &bench.Rates{Copy: bench.Rate{PerSecond: 2.98e12, Method: "copy"}, Upload: bench.Rate{PerSecond: 54.7e9, Method: "pinned"}, Matrix: bench.Rate{PerSecond: 640e12, Method: "mma"}},
		Runs:   3,
		Rows: []bench.Row{
			{Name: "load to first token", Unit: "ms", Median: 231, Min: 230, Max: 240, Runs: 3},
			{Name: "decode 128 at context 0", Unit: "tokens/s", Median: 2149, Min: 2100, Max: 2151.4, Runs: 3, Limit: 3036, Share: 0.708, By: "bytes"},
		},
		Profiles: []bench.Profile{{Step: "decode at context 0", Rows: 1, Start: 65, Parts: []bench.Part{
			{Name: "q", Count: 24, Each: 2.5, All: 60, Limit: 30, Share: 0.5, By: "bytes"},
			{Name: "q_rope", Count: 24, Each: 0.01, All: 0.24},
			{Name: "logits", Count: 1, Each: 100, All: 100, Limit: 90, Share: 0.9, By: "bytes"},
		}}},
		Notes: []string{"nothing"},
	}
	const want = `evil\x1b[2J (F16, 494.0 M parameters) on NVIDIA H100 (580.95.05, CUDA 13.0), 3 runs
The device moves 2980 GB/s (copy), takes in 54.7 GB/s (pinned),
and computes 640 TFLOP/s (mma).

              measurement  median  from    to      unit  runs  limit   share     by
      load to first token     231   230   240        ms     3
  decode 128 at context 0    2149  2100  2151  tokens/s     3   3036  70.8 %  bytes

decode at context 0: 1 token after 65 others
  operators  count  µs each  µs in all  limit   share     by
          q     24     2.50       60.0   30.0  50.0 %  bytes
     q_rope     24     0.01       0.24
     logits      1      100        100   90.0  90.0 %  bytes
        all                        160    120  74.9 %

Note: nothing
`
	var out strings.Builder
	if err := (&app{stdout: &out}).printBench(&benchOutput{Report: report}); err != nil {
		t.Fatal(err)
	}
	var got strings.Builder
	for line := range strings.Lines(out.String()) {
		got.WriteString(strings.TrimRight(line, " \n") + "\n")
	}
	if got.String() != want {
		t.Errorf("printed\n%s\nwant\n%s", got.String(), want)
	}
}

func TestSynthAndBenchRefuse(t *testing.T) {
	folder := t.TempDir()
	path := filepath.Join(folder, "m.gguf")
	kigo(t, "", nil, "synth", path, "--shape", "tiny").mustSucceed(t)
	kigo(t, "", nil, "synth", path+"2", "--shape", "huge").mustFail(t, exitUsage, "huge", "llama-3.1-8b")
	kigo(t, "", nil, "synth", path+"2", "--shape", "tiny", "--format", "q9").mustFail(t, exitUsage, "q9")
	kigo(t, "", nil, "synth", path+"2", "--shape", "tiny", "--format", "q4_k").mustSucceed(t) // rows of 64: Q5_0
	kigo(t, "", nil, "bench", path, "--runs", "0").mustFail(t, exitUsage, "--runs")
	kigo(t, "", nil, "bench", path, "--prompt", "0").mustFail(t, exitUsage, "--prompt: 0")
	kigo(t, "", nil, "bench", path, "--context", "many").mustFail(t, exitUsage, "--context")
	kigo(t, "", nil, "bench", path, "--fail-below", "0.95").mustFail(t, exitUsage, "--compare")
	kigo(t, "", nil, "bench", path, "--compare", path, "--fail-below", "NaN").mustFail(t, exitUsage, "--fail-below")
	kigo(t, "", nil, "bench", path, "--compare", path).mustFail(t, exitFailure, path, "not a report of kigo bench")
	kigo(t, "", nil, "bench", path, "--compare", folder).mustFail(t, exitFailure, "not a regular file")
	other := filepath.Join(folder, "other.json")
	if err := os.WriteFile(other, []byte(`{"bench_format": 1, "results": [{"name": "x", "unit": "MB/s", "median": 1, "min": 1, "max": 1}]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	r := kigo(t, "", nil, "bench", path, "--device", "cpu", "--runs", "1", "--prompt", "4", "--context", "0", "--generate", "1", "--compare", other, "--fail-below", "0.95")
	if r.code != exitFailure || !strings.Contains(r.stderr, "nothing can be compared") {
		t.Errorf("exit code %d, standard error %s", r.code, r.stderr)
	}
	kigo(t, "", nil, "bench", filepath.Join(folder, "none.gguf")).mustFail(t, exitFailure, "none.gguf")
}
