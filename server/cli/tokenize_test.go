package cli

import (
	"encoding/json"
	"os"
	"strings"
	"testing"
)

// The ids beside the vocabularies are llama.cpp's.
func TestTokenizeMatchesLlamaCpp(t *testing.T) {
	for _, name := range []string{"gpt-2", "llama-bpe", "qwen2"} {
		t.Run(name, func(t *testing.T) {
			model := modelPath(t, "vocab/ggml-vocab-"+name+".gguf")
			texts := strings.Split(readFile(t, model+".inp"), "\n__ggml_vocab_test__\n")
			lines := strings.Split(readFile(t, model+".out"), "\n")
			for i, text := range texts {
				if name != "gpt-2" && i%8 != 0 { // reading a large vocabulary takes longest
					continue
				}
				got := kigo(t, text, nil, "tokenize", "--model", model).mustSucceed(t).stdout
				want := "[" + strings.Join(strings.Fields(lines[i]), ", ") + "]\n"
				if got != want {
					t.Errorf("text %q: ids %s, want %s", text, got, want)
				}
			}
		})
	}
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestTokenizeKeepsEveryByte(t *testing.T) {
	// SmolLM2's vocabulary has no tokens for bytes that UTF-8 never contains.
	model := modelPath(t, "vocab/ggml-vocab-qwen2.gguf")
	for _, text := range []string{"", "a\n", "\r\n\n", "naïve 語 👩‍🚀", "\xff\xfe\x00 broken \xc3", "<|im_end|>"} {
		ids := kigo(t, text, nil, "tokenize", "--model", model).mustSucceed(t).stdout
		if got := kigo(t, ids, nil, "tokenize", "--model", model, "--decode").mustSucceed(t).stdout; got != text {
			t.Errorf("%q comes back as %q (ids %s)", text, got, ids)
		}
	}
}

func TestTokenizeSpecial(t *testing.T) {
	const text = "<|im_end|>"
	count := func(name string, flags ...string) int {
		var ids []int
		r := kigo(t, text, nil, append([]string{"tokenize", "--model", modelPath(t, name)}, flags...)...).mustSucceed(t)
		if err := json.Unmarshal([]byte(r.stdout), &ids); err != nil {
			t.Fatal(err)
		}
		return len(ids)
	}
	if n := count(smolLM2); n < 2 {
		t.Errorf("plain: %d ids, want the text's own", n)
	}
	if n := count(smolLM2, "--parse-special"); n != 1 {
		t.Errorf("--parse-special: %d ids, want 1", n)
	}
	// llama-bpe begins every text with a token of its own; SmolLM2 does not.
	plain := count("vocab/ggml-vocab-llama-bpe.gguf")
	if n := count("vocab/ggml-vocab-llama-bpe.gguf", "--add-special"); n != plain+1 {
		t.Errorf("--add-special: %d ids, want %d", n, plain+1)
	}
	if n := count(smolLM2, "--parse-special", "--add-special"); n != 1 {
		t.Errorf("--add-special with a model that adds nothing: %d ids, want 1", n)
	}
}

func TestTokenizeErrors(t *testing.T) {
	model := modelPath(t, smolLM2)
	decode := func(ids string) result { return kigo(t, ids, nil, "tokenize", "--model", model, "--decode") }
	decode("[1, 49152]").mustFail(t, exitFailure, "49152")
	decode("[-1]").mustFail(t, exitFailure, "-1")
	decode("[99999999999]").mustFail(t, exitFailure, "99999999999")
	decode("[1.5]").mustFail(t, exitFailure, "1.5")
	decode(`{"a": 1}`).mustFail(t, exitFailure, "JSON array")
	decode("[1, 2").mustFail(t, exitFailure, "JSON array")
	kigo(t, "", nil, "tokenize", "--model", "absent.gguf").mustFail(t, exitFailure, "absent.gguf")
	kigo(t, "", nil, "tokenize", "--model", t.TempDir()).mustFail(t, exitFailure, "not a regular file")
	kigo(t, "", nil, "tokenize", "--model", "tokenize_test.go").mustFail(t, exitFailure, "tokenize_test.go", "GGUF")
}
