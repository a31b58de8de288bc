package tokenizer

import (
	"bytes"
	"compress/gzip"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"kigo/engine/gguf"
)

// modelPath finds a file of the models folder, which lies beside go.mod.
func modelPath(t testing.TB, name string) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			break
		}
		if dir == filepath.Dir(dir) {
			t.Fatal("go.mod not found above the test")
		}
		dir = filepath.Dir(dir)
	}
	path := filepath.Join(dir, "models", name)
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("%v; run make models", err)
	}
	return path
}

func parseModel(t testing.TB, name string) *gguf.File {
	t.Helper()
	f, err := os.Open(modelPath(t, name))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	file, err := gguf.Parse(f, info.Size(), gguf.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	return file
}

var loaded sync.Map // file name to *Tokenizer: tests share them, they are immutable

func load(t testing.TB, name string) *Tokenizer {
	t.Helper()
	if tok, ok := loaded.Load(name); ok {
		return tok.(*Tokenizer)
	}
	tok, err := FromGGUF(parseModel(t, name))
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	loaded.Store(name, tok)
	return tok
}

const (
	smolLM2 = "SmolLM2-135M-Instruct.Q4_1.gguf"
	qwen    = "Qwen2.5-Coder-0.5B-Instruct.Q4_K_M.gguf"
)

// golden is a tokens-*.json.gz file; engine/testdata/golden/README.md describes it.
type golden struct {
	File      string
	VocabSize int `json:"vocab_size"`
	BOS, EOS  int32
	AddBOS    bool `json:"add_bos"`
	EOG       []int32
	Cases     []struct {
		Name         string
		Text, Hex    *string
		IDs          []int32
		AddSpecial   bool `json:"add_special"`
		ParseSpecial bool `json:"parse_special"`
	}
	Pieces []struct {
		ID         int32
		Hex, Plain string
	}
}

func readGolden(t *testing.T, name string) golden {
	t.Helper()
	f, err := os.Open(filepath.Join("..", "testdata", "golden", "tokens-"+name+".json.gz"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	var g golden
	if err := json.NewDecoder(z).Decode(&g); err != nil {
		t.Fatal(err)
	}
	if len(g.Cases) < 300 || len(g.Pieces) < 300 {
		t.Fatalf("%s: only %d cases and %d pieces", name, len(g.Cases), len(g.Pieces))
	}
	return g
}

// TestGolden compares with llama.cpp and the tokenizers package on about 500
// texts in many languages, code, emoji, odd white space and special tokens.
func TestLesson_TokenIDsEqualTheReferences(t *testing.T) {
	for _, name := range []string{"smollm2", "qwen2", "gpt-2", "llama-bpe"} {
		t.Run(name, func(t *testing.T) {
			g := readGolden(t, name)
			tok := load(t, g.File)
			if tok.VocabSize() != g.VocabSize {
				t.Errorf("vocabulary of %d, want %d", tok.VocabSize(), g.VocabSize)
			}
			if bos, _ := tok.BOS(); bos != g.BOS {
				t.Errorf("bos %d, want %d", bos, g.BOS)
			}
			if eos, _ := tok.EOS(); eos != g.EOS {
				t.Errorf("eos %d, want %d", eos, g.EOS)
			}
			if tok.addBOS != g.AddBOS {
				t.Errorf("add bos %t, want %t", tok.addBOS, g.AddBOS)
			}
			// llama.cpp takes tokens of any type for ends of generation by
			// their text, such as Qwen's </s>, which is ordinary text there.
			want := slices.DeleteFunc(slices.Clone(g.EOG), func(id int32) bool { return tok.typeOf(id) == Normal })
			if got := tok.EOG(); !slices.Equal(got, want) {
				t.Errorf("ends of generation %v, want %v", got, want)
			}
			for _, c := range g.Cases {
				if c.Text == nil {
					continue // not UTF-8: the references lose bytes; see TestBytesWithoutUTF8
				}
				opt := EncodeOptions{AddSpecial: c.AddSpecial, ParseSpecial: c.ParseSpecial}
				got := tok.Encode([]byte(*c.Text), opt)
				if !slices.Equal(got, c.IDs) {
					t.Errorf("%s %+v: %.200q\n got %v\nwant %v", c.Name, opt, *c.Text, clip(got), clip(c.IDs))
				}
			}
			for _, p := range g.Pieces {
				if slices.Contains(g.EOG, p.ID) && tok.typeOf(p.ID) == Normal {
					continue // see above
				}
				if got := hex.EncodeToString(tok.AppendPiece(nil, p.ID, true)); got != p.Hex {
					t.Errorf("piece of %d: %s, want %s", p.ID, got, p.Hex)
				}
				if got := hex.EncodeToString(tok.AppendPiece(nil, p.ID, false)); got != p.Plain {
					t.Errorf("plain piece of %d: %s, want %s", p.ID, got, p.Plain)
				}
			}
		})
	}
}

func clip(ids []int32) string {
	const most = 60
	if len(ids) <= most {
		return fmt.Sprint(ids)
	}
	return fmt.Sprint(ids[:most]) + "…"
}

// TestVectors compares with the test vectors that llama.cpp keeps beside its
// vocabulary files, one pre-tokenizer each.
func TestVectors(t *testing.T) {
	for _, name := range []string{"gpt-2", "mpt", "starcoder", "refact", "command-r", "llama-bpe", "qwen2", "qwen35"} {
		t.Run(name, func(t *testing.T) {
			file := "vocab/ggml-vocab-" + name + ".gguf"
			tok := load(t, file)
			if want := "gpt2/" + name; tok.Name() != want {
				t.Errorf("name %s, want %s", tok.Name(), want)
			}
			in, err := os.ReadFile(modelPath(t, file+".inp"))
			if err != nil {
				t.Fatal(err)
			}
			out, err := os.ReadFile(modelPath(t, file+".out"))
			if err != nil {
				t.Fatal(err)
			}
			texts := bytes.Split(in, []byte("\n__ggml_vocab_test__\n"))
			lines := strings.Split(strings.TrimSuffix(string(out), "\n"), "\n")
			if len(lines) < 40 || len(texts) < len(lines) {
				t.Fatalf("%d texts, %d lines of ids", len(texts), len(lines))
			}
			for i, line := range lines {
				want := []int32{}
				for _, field := range strings.Fields(line) {
					id, err := strconv.Atoi(field)
					if err != nil {
						t.Fatal(err)
					}
					want = append(want, int32(id))
				}
				if got := tok.Encode(texts[i], EncodeOptions{}); !slices.Equal(got, want) {
					t.Errorf("text %d: %q\n got %v\nwant %v", i, texts[i], clip(got), clip(want))
				}
			}
		})
	}
}
