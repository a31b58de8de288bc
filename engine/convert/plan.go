package convert

import (
	"fmt"
	"strings"

	"kigo/engine/gguf"
	"kigo/engine/quant"
)

const (
	fileTypeKey = "general.file_type"
	versionKey  = "general.quantization_version"

	// quantizationVersion is the version of GGML's block layouts, the ones that
	// package quant describes.
	quantizationVersion = 2
)

// fileType is the number that general.file_type has for a file whose matrices are
// in a format: llama.cpp's enumeration, which is not that of tensor types.
func fileType(t quant.Type) (n uint32, ok bool) {
	switch t {
	case quant.F32:
		return 0, true
	case quant.F16:
		return 1, true
	case quant.Q4_0:
		return 2, true
	case quant.Q8_0:
		return 7, true
	case quant.BF16:
		return 32, true
	}
	return 0, false
}

// job says what becomes of one tensor.
type job struct {
	from     *gguf.Tensor // in the input
	src, dst *quant.Format
}

// copied reports whether the tensor's bytes stay as they are.
func (j *job) copied() bool { return j.src == j.dst }

// plan returns the metadata, the tensors and the jobs of the output, in the
// input's order, and the names of the matrices that become F16 because their rows
// don't divide into blocks.
func plan(in *gguf.File, format *quant.Format) (kvs []gguf.KV, tensors []gguf.Tensor, jobs []job, fallbacks []string, err error) {
	kind, ok := fileType(format.Type)
	if format.Quantize == nil || !ok {
		return nil, nil, nil, nil, fmt.Errorf("%w: %s; Kigo writes %s", ErrNotWritten, format.Name, strings.Join(written(), ", "))
	}
	half, err := quant.Lookup(quant.F16)
	if err != nil {
		return nil, nil, nil, nil, err
	}
	for i := range in.Tensors {
		t := &in.Tensors[i]
		src, err := quant.Lookup(t.Type)
		if err != nil {
			return nil, nil, nil, nil, fmt.Errorf("tensor %.80q: %w", t.Name, err)
		}
		dst := format
		if keeps(t) {
			dst = src
		} else if _, err := format.RowBytes(t.Dims[0]); err != nil {
			dst = half
			fallbacks = append(fallbacks, t.Name)
		}
		tensors = append(tensors, gguf.Tensor{Name: t.Name, Dims: t.Dims, Type: dst.Type})
		jobs = append(jobs, job{t, src, dst})
	}
	kvs = set(in.KVs, fileTypeKey, gguf.ValueOf(kind))
	kvs = set(kvs, versionKey, gguf.ValueOf(uint32(quantizationVersion)))
	return kvs, tensors, jobs, fallbacks, nil
}

// keeps reports whether a tensor stays as it is in every format.
func keeps(t *gguf.Tensor) bool {
	return len(t.Dims) < 2 || strings.Contains(t.Name, "_norm.") || strings.Contains(t.Name, "ffn_gate_inp.")
}

// set returns kvs with a key's value in its place, or at the end.
func set(kvs []gguf.KV, key string, v gguf.Value) []gguf.KV {
	out := make([]gguf.KV, len(kvs), len(kvs)+1)
	copy(out, kvs)
	for i := range out {
		if out[i].Key == key {
			out[i].Value = v
			return out
		}
	}
	return append(out, gguf.KV{Key: key, Value: v})
}

// written returns the names of the formats that Convert writes.
func written() []string {
	var names []string
	for _, f := range quant.All() {
		if _, ok := fileType(f.Type); ok && f.Quantize != nil {
			names = append(names, f.Name)
		}
	}
	return names
}
