package model

import (
	"fmt"
	"math"

	"kigo/engine/device"
)

// Record writes the forward pass of a decoder-only transformer down as a
// program over the bound tensors:
//
//	x = embed(tokens)
//	for each layer:
//	    q, k, v = norm(x)·Wq + bq, norm(x)·Wk + bk, norm(x)·Wv + bv
//	    x = x + attention(rope(q), rope(k), v)·Wo
//	    x = x + (act(norm(x)·Wgate) * (norm(x)·Wup))·Wdown
//	logits = norm(x)·Wout
func Record(s *Spec, b *Binding) *device.Program {
	p := &recorder{
		spec: s, binding: b,
		prog: &device.Program{
			Tensors: b.Tensors,
			Cache:   device.CacheShape{Layers: s.Layers, KVHeads: s.KVHeads, HeadDim: s.HeadDim},
			Vocab:   s.Vocab,
		},
	}
	x := p.value("embed", s.Width)
	p.add(&device.Embed{Table: b.Tensor("token_embd.weight"), Out: x})
	for l := range s.Layers {
		x = p.attention(l, x)
		x = p.feedForward(l, x)
	}
	out := b.Tensor("output.weight")
	if out == device.NoTensor {
		out = b.Tensor("token_embd.weight")
	}
	p.add(&device.Logits{In: x, Norm: p.norm("output_norm.weight", "output_norm"), Weight: out, Stage: "logits"})
	return p.prog
}

type recorder struct {
	spec    *Spec
	binding *Binding
	prog    *device.Program
}

func (p *recorder) add(op device.Op) { p.prog.Ops = append(p.prog.Ops, op) }

func (p *recorder) value(stage string, width int) device.Value {
	p.prog.Values = append(p.prog.Values, device.ValueInfo{Stage: stage, Width: width})
	return device.Value(len(p.prog.Values) - 1)
}

func (p *recorder) norm(tensor, stage string) *device.Norm {
	return &device.Norm{Weight: p.binding.Tensor(tensor), Eps: p.spec.NormEps, Stage: stage}
}

// matrix is the layer's matrix of that name with its bias, if it has one.
func (p *recorder) matrix(layer, name string, out device.Value) device.Matrix {
	return device.Matrix{
		Weight: p.binding.Tensor(layer + name + ".weight"),
		Bias:   p.binding.Tensor(layer + name + ".bias"),
		Out:    out,
	}
}

func (p *recorder) attention(l int, x device.Value) device.Value {
	s, layer := p.spec, fmt.Sprintf("blk.%d.", l)
	wide, narrow := s.Heads*s.HeadDim, s.KVHeads*s.HeadDim
	q, k, v := p.value(layer+"q", wide), p.value(layer+"k", narrow), p.value(layer+"v", narrow)
	p.add(&device.Project{
		In:   x,
		Norm: p.norm(layer+"attn_norm.weight", layer+"attn_norm"),
		Mats: []device.Matrix{
			p.matrix(layer, "attn_q", q),
			p.matrix(layer, "attn_k", k),
			p.matrix(layer, "attn_v", v),
		},
		Residual: device.NoValue,
	})
	qRope, kRope := p.value(layer+"q_rope", wide), p.value(layer+"k_rope", narrow)
	p.add(&device.Rope{
		Layer: l, Q: q, K: k, V: v, QOut: qRope, KOut: kRope,
		Heads: s.Heads, KVHeads: s.KVHeads, HeadDim: s.HeadDim,
		Dims: s.RopeDims, Style: s.RopeStyle, Base: s.RopeBase, Scale: s.RopeScale,
		Factors: p.binding.Tensor("rope_freqs.weight"),
	})
	mixed := p.value(layer+"attn", wide)
	p.add(&device.Attend{
		Layer: l, Q: qRope, Out: mixed,
		Heads: s.Heads, KVHeads: s.KVHeads, HeadDim: s.HeadDim,
		Scale: float32(1 / math.Sqrt(float64(s.HeadDim))),
	})
	out := p.value(layer+"attn_out", s.Width)
	p.add(&device.Project{In: mixed, Mats: []device.Matrix{p.matrix(layer, "attn_output", out)}, Residual: x})
	return out
}

func (p *recorder) feedForward(l int, x device.Value) device.Value {
	s, layer := p.spec, fmt.Sprintf("blk.%d.", l)
	hidden := p.value(layer+"ffn_gate_up", s.FeedForward)
	p.add(&device.Project{
		In:   x,
		Norm: p.norm(layer+"ffn_norm.weight", layer+"ffn_norm"),
		Mats: []device.Matrix{
			p.matrix(layer, "ffn_gate", hidden),
			p.matrix(layer, "ffn_up", device.NoValue),
		},
		Act:      s.GateActivate,
		Residual: device.NoValue,
	})
	out := p.value(layer+"ffn_out", s.Width)
	p.add(&device.Project{In: hidden, Mats: []device.Matrix{p.matrix(layer, "ffn_down", out)}, Residual: x})
	return out
}
