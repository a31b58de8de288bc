package cli

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
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

	out := kigo(t, "", nil, "bench", path, "--prompt", "40", "--generate", "10", "--runs", "2", "--json").mustSucceed(t)
	var report benchReport
	if err := json.Unmarshal([]byte(out.stdout), &report); err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, r := range report.Rows {
		names = append(names, r.Name)
		if !(r.Min > 0 && r.Min <= r.Median && r.Median <= r.Max) {
			t.Errorf("%+v", r)
		}
	}
	want := "load to first token, load, reading alone, tokenize, prefill 40, decode 10, memory read, decode, of memory read"
	if got := strings.Join(names, ", "); got != want || report.Runs != 2 || report.Formats != "Q8_0" {
		t.Errorf("measured %s; report %+v", got, report)
	}
	table := kigo(t, "", nil, "bench", path, "--prompt", "40", "--generate", "10", "--runs", "1").mustSucceed(t).stdout
	if !strings.Contains(table, "tokens/s") || !strings.Contains(table, "decode 10") {
		t.Errorf("table:\n%s", table)
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
	kigo(t, "", nil, "bench", path, "--prompt", "600").mustFail(t, exitFailure, "512")
	kigo(t, "", nil, "bench", filepath.Join(folder, "none.gguf")).mustFail(t, exitFailure, "none.gguf")
}
