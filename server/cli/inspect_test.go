package cli

import (
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode"

	"kigo/engine/gguf"
	"kigo/engine/quant"
)

func TestInspect(t *testing.T) {
	r := kigo(t, "", nil, "inspect", modelPath(t, smolLM2)).mustSucceed(t)
	for _, words := range []string{
		"GGUF version 3", "272 tensors", "134.5 M parameters",
		"general.architecture", `"llama"`,
		"string[49152]",
		"Q4_1", "210 tensors",
		"token_embd.weight", "Q8_0", "576 49152", "at 1785664",
	} {
		if !strings.Contains(r.stdout, words) {
			t.Errorf("%q is not in the output", words)
		}
	}
	if strings.Contains(r.stdout, "Warning") {
		t.Error("a warning about a model that serves")
	}
	if n := len(r.stdout); n > 40_000 {
		t.Errorf("%d bytes: long arrays are not shortened", n)
	}
}

func TestInspectJSON(t *testing.T) {
	decode := func(args ...string) (r report) {
		out := kigo(t, "", nil, append([]string{"inspect", "--json"}, args...)...).mustSucceed(t).stdout
		if err := json.Unmarshal([]byte(out), &r); err != nil {
			t.Fatal(err)
		}
		return r
	}
	tokens := func(r report) reportKV {
		for _, kv := range r.Metadata {
			if kv.Key == "tokenizer.ggml.tokens" {
				return kv
			}
		}
		t.Fatal("no tokenizer.ggml.tokens")
		return reportKV{}
	}
	path := modelPath(t, smolLM2)
	r := decode(path)
	if len(r.Tensors) != 272 || r.Tensors[0].Name != "token_embd.weight" || r.Parameters != 134_515_008 {
		t.Errorf("%d tensors, the first is %q, %d parameters", len(r.Tensors), r.Tensors[0].Name, r.Parameters)
	}
	if kv := tokens(r); len(kv.Value.([]any)) != shortArray || !kv.Shortened {
		t.Errorf("%d tokens, shortened: %v", len(kv.Value.([]any)), kv.Shortened)
	}
	if kv := tokens(decode("--all", path)); len(kv.Value.([]any)) != 49152 || kv.Shortened {
		t.Errorf("--all: %d tokens, shortened: %v", len(kv.Value.([]any)), kv.Shortened)
	}
}

// A file's strings must not reach the terminal as commands.
func TestInspectEscapesHostileFiles(t *testing.T) {
	const evil = "\x1b]0;owned\a\x9b31m\u009b2J\r\x7f\u202e"
	path := filepath.Join(t.TempDir(), "hostile.gguf")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	w, err := gguf.NewWriter(f, []gguf.KV{
		{Key: "general.architecture", Value: gguf.ValueOf(evil)},
		{Key: evil, Value: gguf.ArrayOf([]string{evil, strings.Repeat(evil, 1000)})},
		{Key: "tokenizer.ggml.model", Value: gguf.ValueOf(evil)},
		{Key: "nan", Value: gguf.ValueOf(math.NaN())},
		{Key: "inf", Value: gguf.ArrayOf([]float32{float32(math.Inf(1))})},
	}, []gguf.Tensor{{Name: evil, Dims: []uint64{1}, Type: quant.F32}})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Begin(evil); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(make([]byte, 4)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	check := func(what, s string) {
		for i, r := range s {
			if r != '\n' && (unicode.IsControl(r) || r == 0x202e) {
				t.Errorf("%s has control character %U at byte %d", what, r, i)
				return
			}
		}
	}
	for _, flag := range []string{"--json=false", "--json", "--all"} {
		r := kigo(t, "", nil, "inspect", path, flag).mustSucceed(t)
		check("output with "+flag, r.stdout)
		check("standard error", r.stderr)
		if flag == "--json" && !json.Valid([]byte(r.stdout)) {
			t.Error("not valid JSON")
		}
	}
	r := kigo(t, "", nil, "tokenize", "--model", path)
	r.mustFail(t, exitFailure)
	check("tokenize's error", r.stderr)
}
