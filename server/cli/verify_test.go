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

func TestVerifyErrors(t *testing.T) {
	model := modelPath(t, smolLM2)
	kigo(t, "", nil, "verify", "absent.gguf").mustFail(t, exitFailure, "absent.gguf")
	kigo(t, "", nil, "verify", model, "--reference", "absent.gguf").mustFail(t, exitFailure, "absent.gguf")
	kigo(t, "", nil, "verify", model, "--reference", model).mustFail(t, exitFailure, "reference")
}
