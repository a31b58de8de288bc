package devicetest

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"testing"

	"kigo/engine/device"
	"kigo/engine/quant"
)

// qkv adds identity-like projections, so that queries, keys and values are
// known: slices of the input row.
func (r *rig) qkv(heads, kvHeads, dim int) (q, k, v device.Value) {
	width := (heads + 2*kvHeads) * dim
	at := 0
	part := func(stage string, n int) device.Value {
		m := make([]float32, n*width)
		for i := range n {
			m[i*width+at+i] = 1
		}
		at += n
		id := r.floats(m)
		r.prog.Tensors[id].Rows, r.prog.Tensors[id].Cols = n, width
		out := r.value(stage, n)
		r.add(&device.Project{In: r.in, Mats: []device.Matrix{{Weight: id, Bias: device.NoTensor, Out: out}}, Residual: device.NoValue})
		return out
	}
	return part("q", heads*dim), part("k", kvHeads*dim), part("v", kvHeads*dim)
}

func (r *rig) ropeOp(heads, kvHeads, dim, dims int, style device.RopeStyle) *device.Rope {
	q, k, v := r.qkv(heads, kvHeads, dim)
	r.prog.Cache = device.CacheShape{Layers: 1, KVHeads: kvHeads, HeadDim: dim}
	op := &device.Rope{
		Q: q, K: k, V: v, QOut: r.value("q_rope", heads*dim), KOut: r.value("k_rope", kvHeads*dim),
		Heads: heads, KVHeads: kvHeads, HeadDim: dim, Dims: dims, Style: style,
		Base: 10000, Scale: 1, Factors: device.NoTensor,
	}
	r.add(op)
	return op
}

// turned is the reference rotation of the heads in x at a position.
func turned(x []float64, pos int, op *device.Rope, factors []float64) []float64 {
	y := slices.Clone(x)
	for h := 0; h < len(x); h += op.HeadDim {
		for i := range op.Dims / 2 {
			angle := float64(pos) * op.Scale * math.Pow(op.Base, -2*float64(i)/float64(op.Dims))
			if factors != nil {
				angle /= factors[i]
			}
			a, b := h+2*i, h+2*i+1
			if op.Style == device.RopeHalves {
				a, b = h+i, h+i+op.Dims/2
			}
			sin, cos := math.Sincos(angle)
			y[a], y[b] = x[a]*cos-x[b]*sin, x[a]*sin+x[b]*cos
		}
	}
	return y
}

// Both styles of pairs, whole and partial rotation, scaled positions, frequency
// factors, and layers that differ, far from position 0, where every rotation is the
// identity.
func (s *suite) rope(t *testing.T) {
	const heads, kvHeads = 4, 2
	for _, style := range []device.RopeStyle{device.RopeAdjacent, device.RopeHalves} {
		for _, dim := range []int{32, 64, 80, 96, 128, 256} {
			for _, variant := range []string{"plain", "partial", "scaled", "factors", "layers"} {
				t.Run(fmt.Sprintf("style%d/dim%d/%s", style, dim, variant), func(t *testing.T) {
					dev := s.open(t)
					t.Cleanup(func() { closeAll(t, dev) })
					r := newRig(t, 9, (heads+2*kvHeads)*dim)
					op := r.ropeOp(heads, kvHeads, dim, dim, style)
					all := []*device.Rope{op} // of each layer
					var factors []float64
					switch variant {
					case "layers":
						for layer, base := range []float64{500, 500000} {
							other := *op
							other.Layer, other.Base = layer+1, base
							other.QOut = r.value(fmt.Sprint("q_rope", layer+1), heads*dim)
							other.KOut = r.value(fmt.Sprint("k_rope", layer+1), kvHeads*dim)
							r.add(&other)
							all = append(all, &other)
						}
						r.prog.Cache.Layers = len(all)
					case "partial":
						op.Dims = dim / 2
					case "scaled":
						op.Scale = 0.25
					case "factors":
						f := make([]float32, dim/2)
						for i := range f {
							f[i] = 1 + float32(i)/4
						}
						op.Factors = r.floats(f)
						factors = r.exact[op.Factors]
					}
					x := r.compile(dev, 70, 9)
					for _, start := range []int{0, 1, 31, 1000} {
						x.run(t, rows(9, start))
						// An angle of 1,000 radians is known to 6e-5 in float32.
						bound := s.bounds.Float + 1e-7*float64(start)
						for _, op := range all {
							var q, k []float64
							for i := range 9 {
								in := r.input(i)
								q = append(q, turned(in[:heads*dim], start+i, op, factors)...)
								k = append(k, turned(in[heads*dim:(heads+kvHeads)*dim], start+i, op, factors)...)
							}
							near(t, fmt.Sprintf("queries of layer %d from position %d", op.Layer, start), x.stages[r.prog.Values[op.QOut].Stage], q, bound)
							near(t, fmt.Sprintf("keys of layer %d from position %d", op.Layer, start), x.stages[r.prog.Values[op.KOut].Stage], k, bound)
						}
					}
				})
			}
		}
	}
}

// attention is the reference: q against all of keys and values.
func attention(q []float64, keys, values [][]float64, heads, kvHeads, dim int, scale float64) []float64 {
	out := make([]float64, heads*dim)
	for h := range heads {
		kv := h / (heads / kvHeads) * dim
		weights, most := make([]float64, len(keys)), math.Inf(-1)
		for i, k := range keys {
			for j := range dim {
				weights[i] += q[h*dim+j] * k[kv+j]
			}
			weights[i] *= scale
			most = max(most, weights[i])
		}
		sum := 0.0
		for i := range weights {
			weights[i] = math.Exp(weights[i] - most)
			sum += weights[i]
		}
		for i, v := range values {
			for j := range dim {
				out[h*dim+j] += weights[i] / sum * v[kv+j]
			}
		}
	}
	return out
}

// Lengths around block and warp sizes, groups of heads, every head size; the
// prompt in uneven chunks, then single tokens.
func (s *suite) attend(t *testing.T) {
	for _, c := range []struct{ heads, kvHeads, dim int }{
		{1, 1, 32}, {9, 3, 64}, {14, 2, 64}, {4, 4, 80}, {6, 2, 96}, {8, 1, 128}, {2, 2, 256}, {19, 1, 40},
	} {
		for _, length := range []int{1, 2, 31, 32, 33, 1000} {
			if length == 1000 && c.heads < 8 && !long() {
				continue
			}
			t.Run(fmt.Sprintf("%dover%dx%d/length%d", c.heads, c.kvHeads, c.dim, length), func(t *testing.T) {
				dev := s.open(t)
				t.Cleanup(func() { closeAll(t, dev) })
				r := newRig(t, 50, (c.heads+2*c.kvHeads)*c.dim)
				rope := r.ropeOp(c.heads, c.kvHeads, c.dim, c.dim, device.RopeHalves)
				scale := float32(1 / math.Sqrt(float64(c.dim)))
				r.add(&device.Attend{Q: rope.QOut, Out: r.value("attn", c.heads*c.dim), Heads: c.heads, KVHeads: c.kvHeads, HeadDim: c.dim, Scale: scale})
				x := r.compile(dev, 70, 50)
				keys, values := make([][]float64, 0, length), make([][]float64, 0, length)
				for done := 0; done < length; {
					n := min(length-done, 50)
					if left := length - done; left > 1 && left <= 50 {
						n = left - 1 // the last one alone, as in generation
					}
					x.run(t, rows(n, done))
					var want []float64
					for i := range n {
						in := r.input(i)
						q, k := in[:c.heads*c.dim], in[c.heads*c.dim:(c.heads+c.kvHeads)*c.dim]
						keys = append(keys, turned(k, done+i, rope, nil))
						values = append(values, in[(c.heads+c.kvHeads)*c.dim:])
						if done+i+1 == length || i == 0 {
							want = append(want, attention(turned(q, done+i, rope, nil), keys, values, c.heads, c.kvHeads, c.dim, float64(scale))...)
						}
					}
					got := x.stages["attn"]
					width := c.heads * c.dim
					picked := slices.Clone(got[:width])
					if n > 1 && done+n == length {
						picked = append(picked, got[len(got)-width:]...)
					}
					near(t, fmt.Sprintf("rows %d+%d", done, n), picked, want, s.bounds.Float+1e-7*float64(length))
					done += n
				}
			})
		}
	}
}

// What stands behind a row in its own step does not show in it, not even where weights
// of 0 meet the largest values that are cached.
func (s *suite) behind(t *testing.T) {
	const loud, quiet = 60, 61 // tokens
	full := long() || s.kind(t) != "cpu"
	for _, c := range []struct{ heads, kvHeads, dim int }{{4, 2, 32}, {14, 2, 64}, {8, 1, 128}, {2, 2, 256}} {
		if c.heads != 4 && !full {
			continue
		}
		t.Run(fmt.Sprintf("%dover%dx%d", c.heads, c.kvHeads, c.dim), func(t *testing.T) {
			dev := s.open(t)
			t.Cleanup(func() { closeAll(t, dev) })
			width := (c.heads + 2*c.kvHeads) * c.dim
			r := newRig(t, 62, width)
			for i := range width {
				at := r.bytes[r.table][4*(loud*width+i):]
				binary.LittleEndian.PutUint32(at, math.Float32bits(8000*math.Float32frombits(binary.LittleEndian.Uint32(at))))
			}
			rope := r.ropeOp(c.heads, c.kvHeads, c.dim, c.dim, device.RopeHalves)
			r.add(&device.Attend{Q: rope.QOut, Out: r.value("attn", c.heads*c.dim), Heads: c.heads, KVHeads: c.kvHeads, HeadDim: c.dim, Scale: float32(1 / math.Sqrt(float64(c.dim)))})
			x := r.compile(dev, 16, 200)
			for _, seen := range []int{1, 5, 16, 63, 64, 100, 128, 131} {
				var want []float32
				for _, last := range []int32{quiet, loud} {
					step := rows(200, 0)
					for i := range step.Tokens {
						step.Tokens[i] = int32(i % 60)
						if i >= seen {
							step.Tokens[i] = last
						}
					}
					x.run(t, step)
					got := x.stages["attn"][:seen*c.heads*c.dim]
					if want != nil && !slices.Equal(got, want) {
						t.Errorf("other bits in the first %d rows before large values", seen)
					}
					want = got
				}
			}
		})
	}
}

// A sequence's results have the same bits alone and in any company, and
// whether its prompt comes whole or in chunks.
func (s *suite) company(t *testing.T) {
	const heads, kvHeads, dim, width = 4, 2, 32, (4 + 2*2) * 32
	for _, typ := range []quant.Type{quant.F32, quant.F16, quant.Q4_1, quant.Q6_K} {
		t.Run(typ.String(), func(t *testing.T) {
			dev := s.open(t)
			t.Cleanup(func() { closeAll(t, dev) })
			r := newRig(t, 64, width)
			rope := r.ropeOp(heads, kvHeads, dim, dim, device.RopeAdjacent)
			mixed := r.value("attn", heads*dim)
			r.add(&device.Attend{Q: rope.QOut, Out: mixed, Heads: heads, KVHeads: kvHeads, HeadDim: dim, Scale: 0.2})
			wide := r.value("wide", width*2)
			r.add(&device.Project{In: r.in, Norm: &device.Norm{Weight: r.tensor(quant.F32, 1, width, 1), Eps: 1e-5, Stage: "norm"},
				Mats: []device.Matrix{{Weight: r.tensor(typ, width*2, width, 0.1), Bias: device.NoTensor, Out: wide}}, Residual: device.NoValue})
			r.add(&device.Logits{In: wide, Weight: r.tensor(typ, 64, width*2, 0.1), Stage: "logits"})
			x := r.compile(dev, 64, 64)
			const n = 8
			tokens := []int32{5, 3, 60, 12, 12, 0, 33, 7}
			alone := &device.Step{Tokens: tokens, Seqs: []device.SeqRows{{Rows: n, Blocks: []int32{9}}}, Logits: []int{7}}
			want := slices.Clone(x.run(t, alone))
			wantAttn := slices.Clone(x.stages["attn"][7*heads*dim:])
			for _, companions := range []int{1, 6, 7} {
				step := &device.Step{}
				for c := range companions { // others before it
					step.Tokens = append(step.Tokens, int32(c), 40, 41)
					step.Seqs = append(step.Seqs, device.SeqRows{Rows: 3, Start: 17, Blocks: []int32{int32(20 + 2*c), int32(21 + 2*c)}})
				}
				step.Tokens = append(step.Tokens, tokens...)
				step.Seqs = append(step.Seqs, device.SeqRows{Rows: n, Blocks: []int32{10}})
				last := len(step.Tokens) - 1
				step.Tokens = append(step.Tokens, 1) // and one after
				step.Seqs = append(step.Seqs, device.SeqRows{Rows: 1, Blocks: []int32{50}})
				step.Logits = []int{last, last + 1}
				got := x.run(t, step)
				if !slices.Equal(got[:64], want) || !slices.Equal(x.stages["attn"][last*heads*dim:(last+1)*heads*dim], wantAttn) {
					t.Errorf("other bits beside %d sequences", companions)
				}
			}
			for done, part := range map[int]int{0: 3} { // in chunks of 3, 4 and 1
				for _, size := range []int{part, 4, 1} {
					got := x.run(t, &device.Step{Tokens: tokens[done : done+size],
						Seqs: []device.SeqRows{{Rows: size, Start: done, Blocks: []int32{11}}}, Logits: []int{size - 1}})
					done += size
					if done == n && !slices.Equal(got, want) {
						t.Error("other bits when the prompt comes in chunks")
					}
				}
			}
		})
	}
}
