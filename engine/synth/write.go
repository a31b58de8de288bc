package synth

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"math"
	"math/rand/v2"

	"kigo/engine/gguf"
	"kigo/engine/quant"
)

// Write writes a model of the shape. The same seed gives the same bytes. ctx
// ends a long write early.
func Write(ctx context.Context, out io.Writer, s Shape, formats Formats, seed uint64) error {
	tensors, err := s.tensors(formats)
	if err != nil {
		return err
	}
	buffered := bufio.NewWriterSize(out, 1<<20)
	w, err := gguf.NewWriter(buffered, s.metadata(), tensors)
	if err != nil {
		return err
	}
	weights := &source{rng: rand.New(rand.NewPCG(seed, 0)), pools: map[string][]byte{}}
	for _, t := range w.File().Tensors {
		if err := w.Begin(t.Name); err != nil {
			return err
		}
		if err := weights.write(ctx, w, &t); err != nil {
			return fmt.Errorf("tensor %q: %w", t.Name, err)
		}
	}
	if err := w.Close(); err != nil {
		return err
	}
	return buffered.Flush()
}

func (s *Shape) tensors(formats Formats) ([]gguf.Tensor, error) {
	var all []gguf.Tensor
	var bad error
	matrix := func(prefix, name string, layer, rows, cols int) {
		typ := formats(name, layer, s, cols)
		if f, err := quant.Lookup(typ); err != nil {
			bad = err
		} else if _, err := f.RowBytes(uint64(cols)); err != nil {
			bad = fmt.Errorf("shape %s: %s: %w", s.Name, name, err)
		}
		all = append(all, gguf.Tensor{Name: prefix + name + ".weight", Dims: []uint64{uint64(cols), uint64(rows)}, Type: typ})
	}
	vector := func(name string, n int) {
		all = append(all, gguf.Tensor{Name: name, Dims: []uint64{uint64(n)}, Type: quant.F32})
	}
	matrix("", "token_embd", 0, s.Vocab, s.Width)
	for l := range s.Layers {
		p, q, kv := fmt.Sprintf("blk.%d.", l), s.Heads*s.HeadDim, s.KVHeads*s.HeadDim
		vector(p+"attn_norm.weight", s.Width)
		matrix(p, "attn_q", l, q, s.Width)
		matrix(p, "attn_k", l, kv, s.Width)
		matrix(p, "attn_v", l, kv, s.Width)
		if s.QKVBias {
			vector(p+"attn_q.bias", q)
			vector(p+"attn_k.bias", kv)
			vector(p+"attn_v.bias", kv)
		}
		matrix(p, "attn_output", l, s.Width, q)
		vector(p+"ffn_norm.weight", s.Width)
		matrix(p, "ffn_gate", l, s.FeedForward, s.Width)
		matrix(p, "ffn_up", l, s.FeedForward, s.Width)
		matrix(p, "ffn_down", l, s.Width, s.FeedForward)
	}
	vector("output_norm.weight", s.Width)
	if !s.Tied {
		matrix("", "output", 0, s.Vocab, s.Width)
	}
	return all, bad
}

func (s *Shape) metadata() []gguf.KV {
	key := func(k string) string { return s.Architecture + "." + k }
	number := func(k string, n int) gguf.KV { return gguf.KV{Key: key(k), Value: gguf.ValueOf(uint32(n))} }
	kvs := []gguf.KV{
		{Key: "general.architecture", Value: gguf.ValueOf(s.Architecture)},
		{Key: "general.name", Value: gguf.ValueOf("synthetic " + s.Name)},
		number("block_count", s.Layers),
		number("context_length", s.Context),
		number("embedding_length", s.Width),
		number("feed_forward_length", s.FeedForward),
		number("attention.head_count", s.Heads),
		number("attention.head_count_kv", s.KVHeads),
		number("attention.key_length", s.HeadDim),
		number("attention.value_length", s.HeadDim),
		{Key: key("rope.freq_base"), Value: gguf.ValueOf(s.RopeBase)},
		{Key: key("attention.layer_norm_rms_epsilon"), Value: gguf.ValueOf(s.NormEps)},
	}
	return append(kvs, vocabulary(s.Vocab)...)
}

// The first tokens of the built-in vocabulary are the control tokens of
// ChatML, the next 256 the bytes; a few merges make pairs of letters, and the
// rest fills the vocabulary up to its size.
func vocabulary(size int) []gguf.KV {
	const normal, control = 1, 3
	tokens := []string{"<|endoftext|>", "<|im_start|>", "<|im_end|>"}
	types := []int32{control, control, control}
	for b := range 256 {
		tokens, types = append(tokens, byteLetter(byte(b))), append(types, normal)
	}
	var merges []string
	for _, pair := range []string{"t h", "h e", "i n", "e r", "a n", "o n", "r e"} {
		merges = append(merges, pair)
		tokens, types = append(tokens, pair[:1]+pair[2:]), append(types, normal)
	}
	for i := len(tokens); i < size; i++ {
		tokens, types = append(tokens, fmt.Sprintf("w%d", i)), append(types, normal)
	}
	const template = `{% for m in messages %}<|im_start|>{{ m.role }}
{{ m.content }}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}`
	return []gguf.KV{
		{Key: "tokenizer.ggml.model", Value: gguf.ValueOf("gpt2")},
		{Key: "tokenizer.ggml.pre", Value: gguf.ValueOf("gpt-2")},
		{Key: "tokenizer.ggml.tokens", Value: gguf.ArrayOf(tokens)},
		{Key: "tokenizer.ggml.token_type", Value: gguf.ArrayOf(types)},
		{Key: "tokenizer.ggml.merges", Value: gguf.ArrayOf(merges)},
		{Key: "tokenizer.ggml.bos_token_id", Value: gguf.ValueOf(uint32(1))},
		{Key: "tokenizer.ggml.eos_token_id", Value: gguf.ValueOf(uint32(2))},
		{Key: "tokenizer.ggml.add_bos_token", Value: gguf.ValueOf(false)},
		{Key: "tokenizer.chat_template", Value: gguf.ValueOf(template)},
	}
}

// byteLetter is the letter that byte-level BPE writes for a byte: the byte's
// own where that is visible, and others from U+0100 on in order of the bytes.
func byteLetter(b byte) string {
	visible := func(c int) bool { return c >= '!' && c <= '~' || c >= 0xa1 && c != 0xad }
	if visible(int(b)) {
		return string(rune(b))
	}
	n := rune(0x100)
	for c := range int(b) {
		if !visible(c) {
			n++
		}
	}
	return string(n)
}

// source makes weights. Their deviation keeps the size of what a product
// yields that of what goes in. Large tensors repeat a pool of random blocks:
// its size is beyond any cache that would make that visible in a timing.
type source struct {
	rng   *rand.Rand
	pools map[string][]byte
}

const poolBytes = 32 << 20

func (s *source) write(ctx context.Context, w io.Writer, t *gguf.Tensor) error {
	f, err := quant.Lookup(t.Type)
	if err != nil {
		return err
	}
	if len(t.Dims) == 1 {
		return s.vector(w, f, int(t.Dims[0]))
	}
	key := fmt.Sprint(t.Type, t.Dims[0])
	pool := s.pools[key]
	if need := min(t.Size, poolBytes); int64(len(pool)) < need {
		pool = make([]byte, (need+int64(f.BlockBytes)-1)/int64(f.BlockBytes)*int64(f.BlockBytes))
		f.Random(pool, float32(1/math.Sqrt(float64(t.Dims[0]))), s.rng)
		s.pools[key] = pool
	}
	at := s.rng.IntN(len(pool)/f.BlockBytes) * f.BlockBytes
	for left := t.Size; left > 0; {
		if err := ctx.Err(); err != nil {
			return err
		}
		part := pool[at:]
		part = part[:min(left, int64(len(part)))]
		if _, err := w.Write(part); err != nil {
			return err
		}
		left -= int64(len(part))
		at = 0
	}
	return nil
}

// vector makes norm gains around 1; biases get them too.
func (s *source) vector(w io.Writer, f *quant.Format, n int) error {
	v, raw := make([]float32, n), make([]byte, n*f.BlockBytes)
	for i := range v {
		v[i] = 1 + float32(s.rng.NormFloat64())/8
	}
	f.Quantize(raw, v)
	_, err := w.Write(raw)
	return err
}

// Size is the number of tensors and their bytes, without header and padding.
func Size(s Shape, formats Formats) (tensors int, size int64) {
	all, err := s.tensors(formats)
	if err != nil {
		return 0, 0
	}
	for _, t := range all {
		f, err := quant.Lookup(t.Type)
		if err != nil {
			return 0, 0
		}
		row, err := f.RowBytes(t.Dims[0])
		if err != nil {
			return 0, 0
		}
		for _, d := range t.Dims[1:] {
			row *= d
		}
		size += int64(row)
	}
	return len(all), size
}

// Header is the header of the file that Write would write, without its data: what
// a model of the shape is made of.
func Header(s Shape, formats Formats) (*gguf.File, error) {
	tensors, err := s.tensors(formats)
	if err != nil {
		return nil, err
	}
	w, err := gguf.NewWriter(io.Discard, s.metadata(), tensors)
	if err != nil {
		return nil, err
	}
	return w.File(), nil
}
