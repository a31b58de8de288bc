package devicetest

import (
	"fmt"
	"math"
	"testing"

	"kigo/engine/device"
	"kigo/engine/quant"
)

func (s *suite) embed(t *testing.T) {
	for _, f := range quant.All() {
		t.Run(f.Name, func(t *testing.T) {
			dev := s.open(t)
			t.Cleanup(func() { closeAll(t, dev) })
			r := newRig(t, 5, 256)
			table := r.tensor(f.Type, 5, 512, 1)
			out := r.value("out", 512)
			r.add(&device.Embed{Table: table, Out: out})
			x := r.compile(dev, 2, 8)
			step := rows(4, 0)
			step.Tokens = []int32{4, 0, 4, 2}
			x.run(t, step)
			var want []float64
			for _, token := range step.Tokens {
				want = append(want, r.exact[table][token*512:(token+1)*512]...)
			}
			near(t, "rows", x.stages["out"], want, 0) // looking up is exact
		})
	}
}

// times multiplies a row-major matrix with a vector.
func times(m []float64, x []float64) []float64 {
	y := make([]float64, len(m)/len(x))
	for i := range y {
		for j, v := range x {
			y[i] += m[i*len(x)+j] * v
		}
	}
	return y
}

func (s *suite) bound(f *quant.Format) float64 {
	if f.BlockSize > 1 {
		return s.bounds.Quantized
	}
	return s.bounds.Float
}

// Matrices of odd shapes, in every format, for several numbers of rows.
func (s *suite) project(t *testing.T) {
	for _, f := range quant.All() {
		widths := []int{f.BlockSize, 3 * f.BlockSize, 5 * 256}
		if f.BlockSize == 1 {
			widths = []int{1, 3, 31, 33, 1000}
		} else if f.BlockSize == 32 {
			widths = append(widths, 896)
		}
		for _, cols := range widths {
			for _, out := range []int{1, 3, 31, 32, 33, 1000} {
				if out == 1000 && cols > 600 && !long() {
					continue
				}
				t.Run(fmt.Sprintf("%s/%dx%d", f.Name, out, cols), func(t *testing.T) {
					dev := s.open(t)
					t.Cleanup(func() { closeAll(t, dev) })
					r := newRig(t, 64, cols)
					w := r.tensor(f.Type, out, cols, 1)
					y := r.value("y", out)
					r.add(&device.Project{In: r.in, Mats: []device.Matrix{{Weight: w, Bias: device.NoTensor, Out: y}}, Residual: device.NoValue})
					x := r.compile(dev, 4, 64)
					for _, n := range []int{1, 2, 7, 64} {
						x.run(t, rows(n, 0))
						var want []float64
						size2 := 0.0
						for i := range n {
							want = append(want, times(r.exact[w], r.input(i))...)
							size2 += norm2(r.exact[w]) * norm2(r.input(i)) / float64(cols)
						}
						nearSize(t, fmt.Sprintf("%d rows", n), x.stages["y"], want, size2, s.bound(f))
					}
				})
			}
		}
	}
}

// Rows of a matrix whose scales are up to 2^20 apart, side by side: a device that has
// one factor for all scales may be off by 2^-16 of a step of the coarsest, once for the
// scale and once for the weight, and no more.
func (s *suite) farScales(t *testing.T) {
	const out, apart = 40, 5
	// How many steps of a format's coarsest block are in its largest value, about.
	steps := map[quant.Type]float64{
		quant.Q4_0: 8, quant.Q4_1: 7.5, quant.Q5_0: 16, quant.Q5_1: 15.5, quant.Q8_0: 127,
		quant.Q4_K: 7.5, quant.Q5_K: 15.5, quant.Q6_K: 32,
	}
	for _, f := range quant.All() {
		if f.BlockSize == 1 {
			continue
		}
		t.Run(f.Name, func(t *testing.T) {
			dev := s.open(t)
			t.Cleanup(func() { closeAll(t, dev) })
			cols := max(f.BlockSize, 128)
			r := newRig(t, 64, cols)
			row := cols / f.BlockSize * f.BlockBytes
			raw := make([]byte, out*row)
			for i := range out {
				f.Random(raw[i*row:(i+1)*row], float32(math.Exp2(8-float64(20*(i%apart))/(apart-1))), r.rng)
			}
			w := r.tensorOf(f, out, cols, raw)
			y := r.value("y", out)
			r.add(&device.Project{In: r.in, Mats: []device.Matrix{{Weight: w, Bias: device.NoTensor, Out: y}}, Residual: device.NoValue})
			x := r.compile(dev, 4, 64)
			largest := 0.0
			for _, v := range r.exact[w] {
				largest = max(largest, math.Abs(v))
			}
			off := 2 * math.Exp2(-16) * largest / steps[f.Type] // of a weight, at most
			for _, n := range []int{1, 2, 64} {
				x.run(t, rows(n, 0))
				for i := range out {
					var got []float32
					var want []float64
					size2, inputs := 0.0, 0.0
					exact := r.exact[w][i*cols : (i+1)*cols]
					for j := range n {
						got = append(got, x.stages["y"][j*out+i])
						want = append(want, times(exact, r.input(j))...)
						size2 += norm2(exact) * norm2(r.input(j)) / float64(cols)
						inputs += norm2(r.input(j))
					}
					bound := s.bound(f) + off*math.Sqrt(inputs/size2)
					nearSize(t, fmt.Sprintf("%d rows, output %d", n, i), got, want, size2, 2*bound) // of few sums
				}
			}
		})
	}
}

// rms is the norm of the reference.
func rms(x, gain []float64, eps float64) []float64 {
	sum := 0.0
	for _, v := range x {
		sum += v * v
	}
	scale := 1 / math.Sqrt(sum/float64(len(x))+eps)
	y := make([]float64, len(x))
	for i, v := range x {
		y[i] = v * scale * gain[i]
	}
	return y
}

func plus(a, b []float64) []float64 {
	y := make([]float64, len(a))
	for i := range a {
		y[i] = a[i] + b[i]
	}
	return y
}

// Norm, bias, residual, gate: each alone and together, on a float and on a
// quantized format.
func (s *suite) projectVariants(t *testing.T) {
	const width, n = 96, 5
	for _, typ := range []quant.Type{quant.F16, quant.Q8_0} {
		f, err := quant.Lookup(typ)
		if err != nil {
			t.Fatal(err)
		}
		for mask := range 16 {
			norm, bias, residual, gate := mask&1 != 0, mask&2 != 0, mask&4 != 0, mask&8 != 0
			t.Run(fmt.Sprintf("%s/norm=%t,bias=%t,residual=%t,gate=%t", f.Name, norm, bias, residual, gate), func(t *testing.T) {
				dev := s.open(t)
				t.Cleanup(func() { closeAll(t, dev) })
				r := newRig(t, n, width)
				op := &device.Project{In: r.in, Residual: device.NoValue}
				out := r.value("y", width)
				mats := 1
				if gate {
					mats, op.Act = 2, device.ActSiLU
				}
				for i := range mats {
					m := device.Matrix{Weight: r.tensor(typ, width, width, 0.2), Bias: device.NoTensor, Out: out}
					if bias {
						m.Bias = r.tensor(quant.F32, 1, width, 1)
					}
					if i == 1 {
						m.Out = device.NoValue
					}
					op.Mats = append(op.Mats, m)
				}
				if norm {
					op.Norm = &device.Norm{Weight: r.tensor(quant.F32, 1, width, 1), Eps: 0.25, Stage: "norm"}
				}
				if residual {
					op.Residual = r.in
				}
				r.add(op)
				x := r.compile(dev, 2, n)
				x.run(t, rows(n, 0))
				var want, normed []float64
				for i := range n {
					in := r.input(i)
					if norm {
						in = rms(in, r.exact[op.Norm.Weight], 0.25)
						normed = append(normed, in...)
					}
					var parts [][]float64
					for _, m := range op.Mats {
						y := times(r.exact[m.Weight], in)
						if bias {
							y = plus(y, r.exact[m.Bias])
						}
						parts = append(parts, y)
					}
					y := parts[0]
					if gate {
						for j := range y {
							y[j] = y[j] / (1 + math.Exp(-y[j])) * parts[1][j]
						}
					}
					if residual {
						y = plus(y, r.input(i))
					}
					want = append(want, y...)
				}
				if norm {
					near(t, "norm", x.stages["norm"], normed, s.bounds.Float)
				}
				near(t, "result", x.stages["y"], want, 2*s.bound(f))
			})
		}
	}
}

func (s *suite) logits(t *testing.T) {
	for _, f := range quant.All() {
		t.Run(f.Name, func(t *testing.T) {
			dev := s.open(t)
			t.Cleanup(func() { closeAll(t, dev) })
			const vocab, width = 33, 512
			r := newRig(t, vocab, width)
			w := r.tensor(f.Type, vocab, width, 0.1)
			gain := r.tensor(quant.F32, 1, width, 1)
			r.add(&device.Logits{In: r.in, Norm: &device.Norm{Weight: gain, Eps: 1e-5, Stage: "norm"}, Weight: w, Stage: "logits"})
			x := r.compile(dev, 2, 8)
			for _, chosen := range [][]int{nil, {0}, {6}, {1, 4}, {0, 1, 2, 3, 4, 5, 6}} {
				step := rows(7, 0)
				step.Logits = chosen
				got := x.run(t, step)
				var want []float64
				size2 := 0.0
				for _, i := range chosen {
					normed := rms(r.input(i), r.exact[gain], 1e-5)
					want = append(want, times(r.exact[w], normed)...)
					size2 += norm2(r.exact[w]) * norm2(normed) / width
				}
				nearSize(t, fmt.Sprint("rows ", chosen), got, want, size2, s.bound(f))
			}
		})
	}
}
