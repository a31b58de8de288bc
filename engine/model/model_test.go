package model_test

import (
	"bytes"
	"errors"
	"math"
	"slices"
	"strings"
	"testing"

	"kigo/engine/device"
	"kigo/engine/device/cpu"
	"kigo/engine/gguf"
	"kigo/engine/load"
	"kigo/engine/model"
	"kigo/engine/quant"
	"kigo/engine/synth"
	"kigo/engine/testenv"
)

// file is a tiny model whose header a test may spoil before it is written.
type file struct {
	kvs     []gguf.KV
	tensors []gguf.Tensor
	data    map[string][]byte
}

func tiny(t *testing.T, shape string) *file {
	t.Helper()
	s, err := synth.ShapeByName(shape)
	if err != nil {
		t.Fatal(err)
	}
	formats, err := synth.FormatsByName("f16")
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := synth.Write(t.Context(), &b, s, formats, 1); err != nil {
		t.Fatal(err)
	}
	g := parse(t, b.Bytes())
	f := &file{kvs: slices.Clone(g.KVs), data: map[string][]byte{}}
	for _, x := range g.Tensors {
		f.data[x.Name] = b.Bytes()[x.Offset : x.Offset+x.Size]
		f.tensors = append(f.tensors, gguf.Tensor{Name: x.Name, Dims: slices.Clone(x.Dims), Type: x.Type})
	}
	return f
}

func parse(t *testing.T, raw []byte) *gguf.File {
	t.Helper()
	g, err := gguf.Parse(bytes.NewReader(raw), int64(len(raw)), gguf.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func (f *file) set(key string, v gguf.Value) {
	for i := range f.kvs {
		if f.kvs[i].Key == key {
			f.kvs[i].Value = v
			return
		}
	}
	f.kvs = append(f.kvs, gguf.KV{Key: key, Value: v})
}

func (f *file) unset(key string) {
	f.kvs = slices.DeleteFunc(f.kvs, func(kv gguf.KV) bool { return kv.Key == key })
}

func (f *file) drop(name string) {
	f.tensors = slices.DeleteFunc(f.tensors, func(x gguf.Tensor) bool { return x.Name == name })
}

func (f *file) tensor(name string) *gguf.Tensor {
	return &f.tensors[slices.IndexFunc(f.tensors, func(x gguf.Tensor) bool { return x.Name == name })]
}

// write gives the file's bytes; tensors of a changed size are cut or padded.
func (f *file) write(t *testing.T) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := gguf.NewWriter(&b, f.kvs, f.tensors)
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range w.File().Tensors {
		if err := w.Begin(x.Name); err != nil {
			t.Fatal(err)
		}
		data := make([]byte, x.Size)
		copy(data, f.data[x.Name])
		if _, err := w.Write(data); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func bind(t *testing.T, raw []byte) (*model.Spec, *model.Binding, error) {
	t.Helper()
	g := parse(t, raw)
	s, err := model.NewSpec(g)
	if err != nil {
		return nil, nil, err
	}
	b, err := model.Bind(s, g)
	return s, b, err
}

func TestSpecRefusesBadMetadata(t *testing.T) {
	str := func(s string) gguf.Value { return gguf.ValueOf(s) }
	u32 := func(n uint32) gguf.Value { return gguf.ValueOf(n) }
	f32 := func(v float32) gguf.Value { return gguf.ValueOf(v) }
	for _, tc := range []struct {
		name  string
		spoil func(f *file)
		want  error
		text  string
	}{
		{"no architecture", func(f *file) { f.unset("general.architecture") }, model.ErrInvalid, "general.architecture"},
		{"architecture of another type", func(f *file) { f.set("general.architecture", u32(1)) }, model.ErrInvalid, "general.architecture"},
		{"unknown architecture", func(f *file) { f.set("general.architecture", str("mamba")) }, model.ErrUnsupported, `"mamba"`},
		{"no block count", func(f *file) { f.unset("llama.block_count") }, model.ErrInvalid, "llama.block_count: missing"},
		{"block count as a string", func(f *file) { f.set("llama.block_count", str("2")) }, model.ErrInvalid, "llama.block_count"},
		{"block count 0", func(f *file) { f.set("llama.block_count", u32(0)) }, model.ErrInvalid, "llama.block_count: 0"},
		{"block count 2^31", func(f *file) { f.set("llama.block_count", u32(1<<31)) }, model.ErrInvalid, "llama.block_count: 2147483648"},
		{"negative width", func(f *file) { f.set("llama.embedding_length", gguf.ValueOf(int32(-64))) }, model.ErrInvalid, "llama.embedding_length"},
		{"heads that don't divide", func(f *file) { f.set("llama.attention.head_count_kv", u32(3)) }, model.ErrInvalid, "does not divide 4 heads"},
		{"more KV heads than heads", func(f *file) { f.set("llama.attention.head_count_kv", u32(8)) }, model.ErrInvalid, "does not divide"},
		{"odd rotation", func(f *file) { f.set("llama.rope.dimension_count", u32(15)) }, model.ErrInvalid, "llama.rope.dimension_count"},
		{"rotation beyond the head", func(f *file) { f.set("llama.rope.dimension_count", u32(18)) }, model.ErrInvalid, "llama.rope.dimension_count"},
		{"rope base NaN", func(f *file) { f.set("llama.rope.freq_base", f32(float32(math.NaN()))) }, model.ErrInvalid, "llama.rope.freq_base: NaN"},
		{"rope base infinite", func(f *file) { f.set("llama.rope.freq_base", f32(float32(math.Inf(1)))) }, model.ErrInvalid, "llama.rope.freq_base"},
		{"rope base negative", func(f *file) { f.set("llama.rope.freq_base", f32(-1)) }, model.ErrInvalid, "llama.rope.freq_base"},
		{"norm epsilon missing", func(f *file) { f.unset("llama.attention.layer_norm_rms_epsilon") }, model.ErrInvalid, "missing"},
		{"context 0", func(f *file) { f.set("llama.context_length", u32(0)) }, model.ErrInvalid, "llama.context_length"},
		{"yarn", func(f *file) { f.set("llama.rope.scaling.type", str("yarn")) }, model.ErrUnsupported, `"yarn"`},
		{"experts", func(f *file) { f.set("llama.expert_count", u32(8)) }, model.ErrUnsupported, "mixture of experts"},
		{"sliding window", func(f *file) { f.set("llama.attention.sliding_window", u32(128)) }, model.ErrUnsupported, "sliding-window"},
		{"values of another length", func(f *file) { f.set("llama.attention.value_length", u32(8)) }, model.ErrUnsupported, "value_length"},
		{"no vocabulary", func(f *file) { f.unset("tokenizer.ggml.tokens") }, model.ErrInvalid, "tokenizer.ggml.tokens: missing"},
		{"several at once", func(f *file) { f.set("llama.block_count", u32(0)); f.set("llama.rope.freq_base", f32(0)) }, model.ErrInvalid, "llama.rope.freq_base"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := tiny(t, "tiny")
			tc.spoil(f)
			_, _, err := bind(t, f.write(t))
			if !errors.Is(err, tc.want) || !strings.Contains(err.Error(), tc.text) {
				t.Errorf("error %v, want %v that says %q", err, tc.want, tc.text)
			}
		})
	}
}

// One loader, and every misfit in one error.
func TestLesson_MissingAndMisshapenTensorsAreAllReported(t *testing.T) {
	f := tiny(t, "tiny-qwen2")
	f.drop("blk.1.ffn_down.weight")
	f.drop("blk.0.attn_q.bias")
	f.tensor("blk.0.ffn_up.weight").Dims = []uint64{96, 64}
	f.tensor("output_norm.weight").Dims = []uint64{32}
	f.tensors = append(f.tensors, gguf.Tensor{Name: "blk.0.extra.weight", Dims: []uint64{8}, Type: quant.F32})
	_, _, err := bind(t, f.write(t))
	if !errors.Is(err, model.ErrInvalid) {
		t.Fatal(err)
	}
	for _, want := range []string{
		`tensor "blk.1.ffn_down.weight" is missing`,
		`tensor "blk.0.attn_q.bias" is missing`,
		`tensor "blk.0.ffn_up.weight" is 64 x 96, want 96 x 64`,
		`tensor "output_norm.weight" is 1 x 32, want 1 x 64`,
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in: %v", want, err)
		}
	}
}

func TestUnusedTensorsAreListed(t *testing.T) {
	f := tiny(t, "tiny")
	f.tensors = append(f.tensors, gguf.Tensor{Name: "blk.0.extra.weight", Dims: []uint64{8}, Type: quant.F32})
	_, b, err := bind(t, f.write(t))
	if err != nil || !slices.Equal(b.Unused, []string{"blk.0.extra.weight"}) {
		t.Errorf("unused %v (%v)", b.Unused, err)
	}
}

// open is the reference path, or the GPU where tests run on one.
func open(t *testing.T) device.Device {
	t.Helper()
	if testenv.OnGPU() {
		return testenv.Open(t)
	}
	dev, err := cpu.New(cpu.Config{Threads: 1, Reference: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dev.Close() })
	return dev
}

// logits runs a prompt of six tokens.
func logits(t *testing.T, dev device.Device, raw []byte, chunks ...int) []float32 {
	t.Helper()
	g := parse(t, raw)
	s, err := model.NewSpec(g)
	if err != nil {
		t.Fatal(err)
	}
	b, err := model.Bind(s, g)
	if err != nil {
		t.Fatal(err)
	}
	w, err := dev.NewWeights(b.Tensors)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if _, err := load.Read(t.Context(), bytes.NewReader(raw), load.Sources(b), w, nil); err != nil {
		t.Fatal(err)
	}
	p := model.Record(s, b)
	shape := p.Cache
	shape.BlockSize = 16
	c, err := device.WholeCache(dev, shape, 2)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	x, err := dev.Compile(p, w, c, device.CompileOptions{MaxRows: 22})
	if err != nil {
		t.Fatal(err)
	}
	defer x.Close()
	tokens := []int32{7, 100, 33, 250, 8, 9, 1, 2, 3, 4, 5, 6, 77, 88, 99, 111, 222, 33, 44, 55, 66, 12} // more than a block
	out := []float32{}
	for at := 0; at < len(tokens); {
		n := len(tokens) - at
		if len(chunks) > 0 {
			n, chunks = chunks[0], chunks[1:]
		}
		l, err := x.Run(&device.Step{Tokens: tokens[at : at+n], Seqs: []device.SeqRows{{Rows: n, Start: at, Blocks: []int32{1, 0}}}, Logits: []int{n - 1}})
		if err != nil {
			t.Fatal(err)
		}
		out, at = append(out[:0], l...), at+n
	}
	return out
}

func TestPromptInChunksGivesTheSameLogits(t *testing.T) {
	dev := open(t)
	for _, shape := range []string{"tiny", "tiny-qwen2"} {
		raw := tiny(t, shape).write(t)
		whole := logits(t, dev, raw)
		for _, chunks := range [][]int{{1, 1, 1, 1, 1, 1}, {2, 4}, {5, 11, 1}, {16, 6}, {21, 1}} {
			if got := logits(t, dev, raw, chunks...); !slices.Equal(got, whole) {
				t.Errorf("%s: other logits for chunks %v", shape, chunks)
			}
		}
	}
}

// The predecessor set Qwen2's biases to null. Zeroing any tensor must show.
func TestLesson_EveryTensorMatters(t *testing.T) {
	dev := open(t)
	for _, shape := range []string{"tiny", "tiny-qwen2"} {
		f := tiny(t, shape)
		whole := logits(t, dev, f.write(t))
		for name, data := range f.data {
			f.data[name] = make([]byte, len(data))
			if slices.Equal(logits(t, dev, f.write(t)), whole) {
				t.Errorf("%s: without %s the logits are the same", shape, name)
			}
			f.data[name] = data
		}
	}
}

func TestTiedEmbeddingsAreTheOutputMatrix(t *testing.T) {
	dev := open(t)
	tied := tiny(t, "tiny")
	want := logits(t, dev, tied.write(t))
	tied.tensors = append(tied.tensors, *tied.tensor("token_embd.weight"))
	tied.tensors[len(tied.tensors)-1].Name = "output.weight"
	tied.data["output.weight"] = tied.data["token_embd.weight"]
	if got := logits(t, dev, tied.write(t)); !slices.Equal(got, want) {
		t.Error("an output matrix equal to the embeddings changes the logits")
	}
	tied.data["output.weight"] = make([]byte, len(tied.data["output.weight"]))
	if got := logits(t, dev, tied.write(t)); slices.Equal(got, want) {
		t.Error("an output matrix of its own is ignored")
	}
}

// Llama 3.1 and later bring their rope scaling as a tensor.
func TestRopeFactorsAreUsed(t *testing.T) {
	dev := open(t)
	f := tiny(t, "tiny")
	want := logits(t, dev, f.write(t))
	f.tensors = append(f.tensors, gguf.Tensor{Name: "rope_freqs.weight", Dims: []uint64{8}, Type: quant.F32})
	f.data["rope_freqs.weight"] = bytes.Repeat([]byte{0, 0, 0x80, 0x3f}, 8) // ones
	if got := logits(t, dev, f.write(t)); !slices.Equal(got, want) {
		t.Error("factors of 1 change the logits")
	}
	f.data["rope_freqs.weight"] = bytes.Repeat([]byte{0, 0, 0, 0x40}, 8) // twos
	if got := logits(t, dev, f.write(t)); slices.Equal(got, want) {
		t.Error("factors of 2 change nothing")
	}
}
