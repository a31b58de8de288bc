package model

import (
	"fmt"
	"sort"
	"strings"

	"kigo/engine/device"
	"kigo/engine/gguf"
	"kigo/engine/quant"
)

// Binding pairs the tensors that a Spec's forward pass reads with those of a
// file. Tensors and Source run in parallel.
type Binding struct {
	Tensors []device.Tensor
	Source  []*gguf.Tensor // where each tensor's bytes are in the file
	Unused  []string       // tensors of the file that the forward pass never reads
	index   map[string]device.TensorID
}

// Parameters counts the weights.
func (b *Binding) Parameters() uint64 {
	n := uint64(0)
	for i := range b.Tensors {
		n += uint64(b.Tensors[i].Rows) * uint64(b.Tensors[i].Cols)
	}
	return n
}

// Bytes is the size of all tensors in the file.
func (b *Binding) Bytes() uint64 {
	n := uint64(0)
	for _, s := range b.Source {
		n += uint64(s.Size)
	}
	return n
}

// Quantization names the formats of the matrices, those with most bytes first.
func (b *Binding) Quantization() string {
	bytes := map[string]int64{}
	for i, t := range b.Tensors {
		if t.Rows > 1 {
			bytes[t.Format.Name] += b.Source[i].Size
		}
	}
	formats := make([]string, 0, len(bytes))
	for name := range bytes {
		formats = append(formats, name)
	}
	sort.Slice(formats, func(i, j int) bool {
		a, b := formats[i], formats[j]
		return bytes[a] > bytes[b] || bytes[a] == bytes[b] && a < b
	})
	return strings.Join(formats, ", ")
}

// Tensor is the id of a bound tensor, or NoTensor.
func (b *Binding) Tensor(name string) device.TensorID {
	if id, ok := b.index[name]; ok {
		return id
	}
	return device.NoTensor
}

// Bind finds every tensor that s needs in f. All that are missing or have
// another shape are reported at once, in one error that wraps ErrInvalid.
func Bind(s *Spec, f *gguf.File) (*Binding, error) {
	b := &binder{file: f, out: &Binding{index: map[string]device.TensorID{}}}
	b.need("token_embd.weight", s.Vocab, s.Width)
	b.need("output_norm.weight", 1, s.Width)
	b.may("output.weight", s.Vocab, s.Width) // absent: tied to the embeddings
	b.may("rope_freqs.weight", 1, s.RopeDims/2)
	q, kv := s.Heads*s.HeadDim, s.KVHeads*s.HeadDim
	for l := range s.Layers {
		name := func(part string) string { return fmt.Sprintf("blk.%d.%s", l, part) }
		b.need(name("attn_norm.weight"), 1, s.Width)
		b.need(name("attn_q.weight"), q, s.Width)
		b.need(name("attn_k.weight"), kv, s.Width)
		b.need(name("attn_v.weight"), kv, s.Width)
		b.bias(s.QKVBias, name("attn_q.bias"), q)
		b.bias(s.QKVBias, name("attn_k.bias"), kv)
		b.bias(s.QKVBias, name("attn_v.bias"), kv)
		b.need(name("attn_output.weight"), s.Width, q)
		b.need(name("ffn_norm.weight"), 1, s.Width)
		b.need(name("ffn_gate.weight"), s.FeedForward, s.Width)
		b.need(name("ffn_up.weight"), s.FeedForward, s.Width)
		b.need(name("ffn_down.weight"), s.Width, s.FeedForward)
		if len(b.wrong) > maxReported {
			break
		}
	}
	if len(b.wrong) > 0 {
		return nil, fmt.Errorf("%w: %s", ErrInvalid, b.report())
	}
	for i := range f.Tensors {
		if name := f.Tensors[i].Name; b.out.Tensor(name) == device.NoTensor {
			b.out.Unused = append(b.out.Unused, name)
		}
	}
	return b.out, nil
}

// maxReported bounds an error text: a file without any of 4,096 layers says
// nothing more with its last line than with its hundredth.
const maxReported = 100

type binder struct {
	file  *gguf.File
	out   *Binding
	wrong []string
}

func (b *binder) report() string {
	if n := len(b.wrong); n > maxReported {
		return fmt.Sprintf("%s; and more", strings.Join(b.wrong[:maxReported], "; "))
	}
	return strings.Join(b.wrong, "; ")
}

func (b *binder) need(name string, rows, cols int) {
	if !b.may(name, rows, cols) {
		b.wrong = append(b.wrong, fmt.Sprintf("tensor %q is missing", name))
	}
}

func (b *binder) bias(use BiasUse, name string, n int) {
	switch use {
	case BiasRequired:
		b.need(name, 1, n)
	case BiasOptional:
		b.may(name, 1, n)
	case BiasNone:
	}
}

// may takes a tensor if it is there and reports whether it is.
func (b *binder) may(name string, rows, cols int) bool {
	t, ok := b.file.Tensor(name)
	if !ok {
		return false
	}
	gotRows, gotCols := uint64(1), uint64(1)
	if len(t.Dims) > 0 {
		gotCols = t.Dims[0]
	}
	for _, d := range t.Dims[min(1, len(t.Dims)):] {
		gotRows *= d // the parser has checked that the product fits
	}
	if gotRows != uint64(rows) || gotCols != uint64(cols) {
		b.wrong = append(b.wrong, fmt.Sprintf("tensor %q is %d x %d, want %d x %d", name, gotRows, gotCols, rows, cols))
		return true
	}
	format, err := quant.Lookup(t.Type)
	if err != nil {
		b.wrong = append(b.wrong, fmt.Sprintf("tensor %q: %v", name, err))
		return true
	}
	b.out.index[name] = device.TensorID(len(b.out.Tensors))
	b.out.Tensors = append(b.out.Tensors, device.Tensor{Name: name, Format: format, Rows: rows, Cols: cols})
	b.out.Source = append(b.out.Source, t)
	return true
}
