package cli

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestVerifyAgainstReference(t *testing.T) {
	if testing.Short() {
		t.Skip("not with -short: arithmetic only")
	}
	model, stages := modelPath(t, smolLM2), "../../engine/testdata/golden/stages-smollm2.gguf"
	r := kigo(t, "", nil, "verify", model, "--reference", stages).mustSucceed(t)
	if !strings.Contains(r.stdout, "against torch") || !strings.Contains(r.stdout, " stages agree") || strings.Contains(r.stdout, "DIFFERS") {
		t.Errorf("the report is\n%s", r.stdout)
	}

	// One value of the reference wrong: that stage, and no other, differs.
	b, err := os.ReadFile(stages)
	if err != nil {
		t.Fatal(err)
	}
	f, header, err := parseModel(stages)
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	const stage = "blk.0.q"
	tensor, ok := header.Tensor(stage)
	if !ok {
		t.Fatalf("%s has no stage %s", stages, stage)
	}
	copy(b[tensor.Offset:], []byte{0, 0, 0x80, 0x42}) // 64
	wrong := filepath.Join(t.TempDir(), "wrong.gguf")
	if err := os.WriteFile(wrong, b, 0o600); err != nil {
		t.Fatal(err)
	}
	r = kigo(t, "", nil, "verify", model, "--reference", wrong, "--json")
	var report struct {
		OK     bool
		Stages []struct {
			Name string
			OK   bool
		}
	}
	if err := json.Unmarshal([]byte(r.stdout), &report); err != nil {
		t.Fatal(err)
	}
	if r.code != exitFailure || report.OK || r.stderr != "" {
		t.Errorf("exit code %d, ok %v, standard error %q", r.code, report.OK, r.stderr)
	}
	for _, s := range report.Stages {
		if s.OK != (s.Name != stage) {
			t.Errorf("stage %s: ok is %v", s.Name, s.OK)
		}
	}
}

// Without a GPU, auto is the CPU, and cuda says what is missing; with one, auto is
// the GPU, whose report ends with the logits as they are served.
func TestVerifyOnADevice(t *testing.T) {
	if testing.Short() {
		t.Skip("not with -short: arithmetic only")
	}
	model := modelPath(t, smolLM2)
	report := func(device string) (r struct {
		Subject, Against string
		OK               bool
		Stages           []struct{ Name string }
	}) {
		t.Helper()
		out := kigo(t, "", nil, "verify", model, "--device", device, "--json").mustSucceed(t)
		if err := json.Unmarshal([]byte(out.stdout), &r); err != nil {
			t.Fatal(err)
		}
		if !r.OK || !strings.HasPrefix(r.Against, "reference path (cpu") {
			t.Errorf("--device %s: ok is %v against %q", device, r.OK, r.Against)
		}
		return r
	}
	auto := report("auto")
	if !strings.HasPrefix(auto.Subject, "served path (cuda, ") {
		if auto.Subject != "served path (cpu)" {
			t.Errorf("the subject is %q", auto.Subject)
		}
		r := kigo(t, "", nil, "verify", model, "--device", "cuda")
		if r.mustFail(t, exitLost); !strings.Contains(r.stderr, "NVIDIA") && !strings.Contains(r.stderr, "CUDA") {
			t.Errorf("without a GPU: %s", r.stderr)
		}
		return
	}
	if last := auto.Stages[len(auto.Stages)-1].Name; last != "logits.served" {
		t.Errorf("the last stage is %q", last)
	}
	if r := report("cuda:0"); r.Subject != auto.Subject {
		t.Errorf("cuda:0 is %q, auto %q", r.Subject, auto.Subject)
	}
	if r := report("cpu"); r.Subject != "served path (cpu)" {
		t.Errorf("cpu is %q", r.Subject)
	}
	// The report for people names the device, and checks find nothing.
	r := kigo(t, "", nil, "verify", model, "--device", "cuda", "--device-checks").mustSucceed(t)
	if !strings.Contains(r.stdout, auto.Subject) || !strings.Contains(r.stdout, "logits.served") {
		t.Errorf("the report is\n%s", r.stdout)
	}
}

func TestVerifyErrors(t *testing.T) {
	model := modelPath(t, smolLM2)
	kigo(t, "", nil, "verify", "absent.gguf").mustFail(t, exitFailure, "absent.gguf")
	kigo(t, "", nil, "verify", model, "--device", "abacus").mustFail(t, exitFailure, "abacus", "cuda:N")
	kigo(t, "", nil, "verify", model, "--reference", "absent.gguf").mustFail(t, exitFailure, "absent.gguf")
	kigo(t, "", nil, "verify", model, "--reference", model).mustFail(t, exitFailure, "reference")
}
