package server_test

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"kigo/engine/gguf"
	"kigo/engine/quant"
	"kigo/engine/testenv"
)

// smallModel writes a model of the demo model's architecture that a test under
// the race detector can afford: the demo model's own metadata, the first tokens
// of its vocabulary, and two narrow layers of random weights. What it says makes
// no sense; how it says it is the same code.
func smallModel(t testing.TB) string {
	t.Helper()
	return smallModelOf(t, 1)
}

// smallModelOf is smallModel with other weights for each seed.
func smallModelOf(t testing.TB, seed uint64) string {
	t.Helper()
	const (
		vocab, width, hidden, heads, kvHeads, head = 1024, 64, 128, 2, 1, 32
	)
	source, err := os.Open(testenv.Model(t, demoModel))
	if err != nil {
		t.Fatal(err)
	}
	defer source.Close()
	info, err := source.Stat()
	if err != nil {
		t.Fatal(err)
	}
	real, err := gguf.Parse(source, info.Size(), gguf.Limits{})
	if err != nil {
		t.Fatal(err)
	}

	replaced := map[string]gguf.Value{
		"llama.block_count":             gguf.ValueOf(uint32(2)),
		"llama.context_length":          gguf.ValueOf(uint32(smallContext)),
		"llama.embedding_length":        gguf.ValueOf(uint32(width)),
		"llama.feed_forward_length":     gguf.ValueOf(uint32(hidden)),
		"llama.attention.head_count":    gguf.ValueOf(uint32(heads)),
		"llama.attention.head_count_kv": gguf.ValueOf(uint32(kvHeads)),
		"llama.rope.dimension_count":    gguf.ValueOf(uint32(head)),
		"llama.vocab_size":              gguf.ValueOf(uint32(vocab)),
	}
	tokens, _, err := real.Strings("tokenizer.ggml.tokens")
	if err != nil {
		t.Fatal(err)
	}
	types, _, err := real.Ints("tokenizer.ggml.token_type")
	if err != nil {
		t.Fatal(err)
	}
	merges, _, err := real.Strings("tokenizer.ggml.merges")
	if err != nil {
		t.Fatal(err)
	}
	known := map[string]bool{}
	for _, token := range tokens[:vocab] {
		known[token] = true
	}
	var kept []string
	for _, m := range merges {
		if left, right, _ := strings.Cut(m, " "); known[left] && known[right] && known[left+right] {
			kept = append(kept, m)
		}
	}
	replaced["tokenizer.ggml.tokens"] = gguf.ArrayOf(tokens[:vocab])
	replaced["tokenizer.ggml.token_type"] = gguf.ArrayOf(types[:vocab])
	replaced["tokenizer.ggml.merges"] = gguf.ArrayOf(kept)
	var kvs []gguf.KV
	for _, kv := range real.KVs {
		if v, ok := replaced[kv.Key]; ok {
			kv.Value = v
		}
		kvs = append(kvs, kv)
	}

	const f32, q8 = quant.Type(0), quant.Type(8)
	tensors := []gguf.Tensor{
		{Name: "token_embd.weight", Dims: []uint64{width, vocab}, Type: q8},
		{Name: "output_norm.weight", Dims: []uint64{width}, Type: f32},
	}
	for _, layer := range []string{"blk.0.", "blk.1."} {
		for _, w := range []struct {
			name string
			dims []uint64
		}{
			{"attn_norm", []uint64{width}},
			{"attn_q", []uint64{width, heads * head}},
			{"attn_k", []uint64{width, kvHeads * head}},
			{"attn_v", []uint64{width, kvHeads * head}},
			{"attn_output", []uint64{heads * head, width}},
			{"ffn_norm", []uint64{width}},
			{"ffn_gate", []uint64{width, hidden}},
			{"ffn_up", []uint64{width, hidden}},
			{"ffn_down", []uint64{hidden, width}},
		} {
			tensor := gguf.Tensor{Name: layer + w.name + ".weight", Dims: w.dims, Type: q8}
			if len(w.dims) == 1 {
				tensor.Type = f32
			}
			tensors = append(tensors, tensor)
		}
	}

	path := filepath.Join(t.TempDir(), "small.gguf")
	out, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	w, err := gguf.NewWriter(out, kvs, tensors)
	if err != nil {
		t.Fatal(err)
	}
	random := rand.New(rand.NewPCG(seed, 2))
	for _, tensor := range tensors {
		format, err := quant.Lookup(tensor.Type)
		if err != nil {
			t.Fatal(err)
		}
		values := make([]float32, tensor.Elements())
		for i := range values {
			values[i] = 1 // a norm
			if len(tensor.Dims) > 1 {
				values[i] = float32(random.NormFloat64()) * 0.3
			}
		}
		data := make([]byte, len(values)/format.BlockSize*format.BlockBytes)
		format.Quantize(data, values)
		if err := w.Begin(tensor.Name); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(data); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}

// smallContext is long enough that no test's endless request ends by itself.
const smallContext = 1 << 15
