// Package synth writes models of random weights with the shapes of real ones:
// for timing, where what the weights say does not matter but how large they
// are does, and for tests, which want a model in a few kilobytes.
package synth

import (
	"fmt"
	"strings"

	"kigo/engine/quant"
)

// Shape is the size of a model.
type Shape struct {
	Name         string
	Architecture string
	Layers       int
	Width        int
	FeedForward  int
	Heads        int
	KVHeads      int
	HeadDim      int
	Vocab        int
	Context      int
	Tied         bool // the embeddings are the output matrix
	QKVBias      bool
	RopeBase     float32
	NormEps      float32
}

// Shapes is the table of what there is.
func Shapes() []Shape {
	return []Shape{
		{"tiny", "llama", 2, 64, 96, 4, 2, 16, 320, 512, true, false, 10000, 1e-5},
		{"tiny-qwen2", "qwen2", 2, 64, 96, 4, 2, 16, 320, 512, false, true, 1e6, 1e-6},
		{"qwen2.5-0.5b", "qwen2", 24, 896, 4864, 14, 2, 64, 151936, 32768, false, true, 1e6, 1e-6},
		{"llama-3.2-1b", "llama", 16, 2048, 8192, 32, 8, 64, 128256, 131072, true, false, 5e5, 1e-5},
		{"llama-3.1-8b", "llama", 32, 4096, 14336, 32, 8, 128, 128256, 131072, false, false, 5e5, 1e-5},
	}
}

// ShapeByName finds a shape; the error lists the names.
func ShapeByName(name string) (Shape, error) {
	var names []string
	for _, s := range Shapes() {
		if s.Name == name {
			return s, nil
		}
		names = append(names, s.Name)
	}
	return Shape{}, fmt.Errorf("shape %.40q is none of %s", name, strings.Join(names, ", "))
}

// Formats chooses the format of each matrix.
type Formats func(tensor string, layer int, s *Shape, cols int) quant.Type

// FormatsByName knows every format of package quant, and the mixture q4_k_m,
// which gives half of the value and down projections and the output matrix
// more bits, as llama.cpp's quantizer does. Rows that a K format does not
// divide take the format of next higher precision with blocks of 32, likewise.
func FormatsByName(name string) (Formats, error) {
	if strings.EqualFold(name, "q4_k_m") {
		return q4km, nil
	}
	f, err := quant.ByName(name)
	if err != nil {
		return nil, err
	}
	return func(_ string, _ int, _ *Shape, cols int) quant.Type { return fitting(f.Type, cols) }, nil
}

func q4km(tensor string, layer int, s *Shape, cols int) quant.Type {
	eighth := s.Layers / 8
	more := layer < eighth || layer >= 7*s.Layers/8 || (layer-eighth)%3 == 2
	switch {
	case tensor == "output" || tensor == "token_embd" && s.Tied:
		return fitting(quant.Q6_K, cols)
	case (tensor == "attn_v" || tensor == "ffn_down") && more:
		return fitting(quant.Q6_K, cols)
	}
	return fitting(quant.Q4_K, cols)
}

func fitting(t quant.Type, cols int) quant.Type {
	if cols%256 == 0 {
		return t
	}
	switch t {
	case quant.Q4_K:
		return quant.Q5_0
	case quant.Q5_K:
		return quant.Q5_1
	case quant.Q6_K:
		return quant.Q8_0
	}
	return t
}
