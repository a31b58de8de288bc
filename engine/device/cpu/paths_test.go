package cpu

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"kigo/engine/device"
	"kigo/engine/quant"
)

// Every path gives the bits of the scalar one: the tests here hold each
// function of each path that this processor has to that. KIGO_CPU is not asked.

// others are the paths to compare with the scalar one.
func others(t *testing.T) []*path {
	var list []*path
	for _, p := range paths() {
		if p != scalarPath {
			list = append(list, p)
		}
	}
	if len(list) == 0 {
		t.Skip("this processor has the scalar path only")
	}
	return list
}

// sameBits compares bit for bit; any NaN is as good as another.
func sameBits(t *testing.T, what string, got, want []float32) {
	t.Helper()
	for i := range want {
		if math.Float32bits(got[i]) != math.Float32bits(want[i]) && (got[i] == got[i] || want[i] == want[i]) {
			t.Fatalf("%s: value %d of %d is %v (%08x), scalar %v (%08x)", what, i, len(want),
				got[i], math.Float32bits(got[i]), want[i], math.Float32bits(want[i]))
		}
	}
}

// productOf multiplies rows of floats with a matrix on a path.
func productOf(p *path, t *device.Tensor, raw []byte, x []float32, lo, hi int) []float32 {
	packing := newPacking(t.Format, t.Cols)
	panels := make([]byte, panelsOf(t.Rows)*packing.panelBytes())
	packMatrix(&packing, panels, raw)
	m := newMatrix(t, panels, p)
	n := len(x) / t.Cols
	r := &rows{n: n, width: t.Cols, f: x}
	if !floats(t.Format) {
		r.q = make([]byte, n*r.recordRow())
		for i := range n {
			p.quantize(&r.q[i*r.recordRow()], &r.row(i)[0], t.Cols/blockLen)
		}
	}
	w := newWorker()
	y := make([]float32, n*t.Rows)
	w.multiply(m, lo, hi, r, y[lo:], t.Rows, !floats(t.Format))
	return y
}

func TestProductsAreEqual(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	for _, p := range others(t) {
		for _, f := range quant.All() {
			t.Run(p.name+"/"+f.Name, func(t *testing.T) {
				widths := []int{f.BlockSize, 3 * f.BlockSize, 1024}
				if f.BlockSize == 1 {
					widths = []int{1, 2, 31, 32, 33, 64, 300}
				}
				for _, cols := range widths {
					for _, c := range []struct{ rows, lo, hi int }{{16, 0, 16}, {3, 0, 3}, {47, 0, 47}, {80, 16, 64}} {
						tensor := &device.Tensor{Name: "t", Format: f, Rows: c.rows, Cols: cols}
						raw := make([]byte, tensor.Bytes())
						f.Random(raw, 1, rng)
						for _, n := range []int{1, 2, 3, 4, 5, 8, 9, 15, 16, 17} {
							x := make([]float32, n*cols)
							for i := range x {
								x[i] = float32(rng.NormFloat64() * math.Exp(4*rng.NormFloat64()))
							}
							got := productOf(p, tensor, raw, x, c.lo, c.hi)
							want := productOf(scalarPath, tensor, raw, x, c.lo, c.hi)
							sameBits(t, fmt.Sprintf("rows %d to %d of %d x %d times %d", c.lo, c.hi, c.rows, cols, n), got, want)
						}
					}
				}
			})
		}
	}
}

// Weights and activations as far from zero as they can be, with equal and with
// alternating signs: sums that overflow or saturate somewhere would show.
func TestExtremeProductsAreEqual(t *testing.T) {
	for _, p := range others(t) {
		for _, f := range quant.All() {
			if floats(f) {
				continue
			}
			t.Run(p.name+"/"+f.Name, func(t *testing.T) {
				tensor := &device.Tensor{Name: "t", Format: f, Rows: 16, Cols: 2 * f.BlockSize}
				for _, fill := range []byte{0x00, 0x7f, 0x80, 0xff, 0xaa, 0x0f, 0xf0} {
					raw := make([]byte, tensor.Bytes())
					for i := range raw {
						raw[i] = fill
					}
					for b := 0; b < len(raw); b += f.BlockBytes {
						for _, l := range fields[f.Type] {
							if l.unit == 2 { // the scales: 1, so that they are numbers
								raw[b+l.at], raw[b+l.at+1] = 0x00, 0x3c
							}
						}
					}
					for sign := range 4 {
						x := make([]float32, 9*tensor.Cols)
						for i := range x {
							x[i] = 1e4
							if sign == 1 || sign == 2 && i%2 == 0 || sign == 3 && i%4 < 2 {
								x[i] = -1e4
							}
						}
						got, want := productOf(p, tensor, raw, x, 0, 16), productOf(scalarPath, tensor, raw, x, 0, 16)
						sameBits(t, fmt.Sprintf("bytes %02x, signs %d", fill, sign), got, want)
					}
				}
			})
		}
	}
}

// values are n floats: ordinary ones, or with what is special about floats.
func values(rng *rand.Rand, n int, special bool) []float32 {
	inf := float32(math.Inf(1))
	odd := []float32{0, float32(math.Copysign(0, -1)), inf, -inf, float32(math.NaN()), 1e-45, -1e-40, 3e38, -3e38, 1e-31, 88, -87, 89, -88, 200, -200}
	v := make([]float32, n)
	for i := range v {
		v[i] = float32(rng.NormFloat64() * 10)
		if special && rng.IntN(8) == 0 {
			v[i] = odd[rng.IntN(len(odd))]
		}
	}
	return v
}

func TestRowFunctionsAreEqual(t *testing.T) {
	rng := rand.New(rand.NewPCG(8, 9))
	for _, p := range others(t) {
		t.Run(p.name, func(t *testing.T) {
			for _, n := range []int{16, 32, 48, 17, 31, 5, 576, 1000} {
				for round := range 20 {
					a, b := values(rng, n, round > 4), values(rng, n, round > 4)
					what := fmt.Sprintf("%d values, round %d", n, round)
					do := func(name string, f func(p *path, a []float32)) {
						got, want := slices.Clone(a), slices.Clone(a)
						f(p, got)
						f(scalarPath, want)
						sameBits(t, name+" of "+what, got, want)
					}
					do("add", func(p *path, v []float32) { p.add(v, b) })
					do("gate", func(p *path, v []float32) { p.gate(v, b) })
					do("scale", func(p *path, v []float32) { p.scale(v, 1.7) })
					do("norm", func(p *path, v []float32) { p.norm(v, v, b, 0.3) })
					do("sum of squares", func(p *path, v []float32) {
						s := p.sumSquares(v, new([8]float64))
						v[0], v[1] = float32(s), float32(s-float64(float32(s)))
					})
					if n%slots == 0 {
						do("softmax", func(p *path, v []float32) {
							for i := range v {
								if v[i] != v[i] || v[i] > 3e38 {
									v[i] = 7 // a NaN may win or lose against others; see below
								}
							}
							v[0] = p.softmax(&v[0], n/slots) - 1
						})
					}
				}
			}
		})
	}
}

// A NaN among the scores makes the sum a NaN, and with it the result.
func TestSoftmaxKeepsNaN(t *testing.T) {
	for _, p := range paths() {
		for at := range 32 {
			v := make([]float32, 32)
			v[at] = float32(math.NaN())
			if s := p.softmax(&v[0], 2); s == s {
				t.Errorf("%s: sum %v with a NaN at %d", p.name, s, at)
			}
		}
	}
}

// Quantized rows have the same integers, sums and scales on every path; only
// the order of the bytes is the path's own. A product with ones shows them all.
func TestQuantizedRowsAreEqual(t *testing.T) {
	rng := rand.New(rand.NewPCG(10, 11))
	for _, p := range others(t) {
		for round := range 200 {
			v := values(rng, 96, round%2 == 1)
			if round%3 == 0 { // all magnitudes that there are
				for i := range v {
					v[i] = math.Float32frombits(rng.Uint32())
				}
			}
			got, want := make([]byte, 3*recordBytes), make([]byte, 3*recordBytes)
			p.quantize(&got[0], &v[0], 3)
			scalarQuantize(&want[0], &v[0], 3)
			for b := range 3 {
				g, w := got[b*recordBytes:][:recordBytes], want[b*recordBytes:][:recordBytes]
				if p.integers != nil {
					g = slices.Clone(g)
					q := p.integers((*[64]byte)(g))
					for i, n := range q {
						binary.NativeEndian.PutUint16(g[2*i:], uint16(n))
					}
				}
				for i := range w {
					scale := math.Float32frombits(binary.NativeEndian.Uint32(w[recordScale:]))
					nan := scale != scale || math.IsInf(float64(scale), 0)
					if g[i] != w[i] && !(nan && i >= recordScale && i < recordMinus) {
						t.Fatalf("%s: block %v: byte %d is %d, scalar %d", p.name, v[b*32:][:32], i, g[i], w[i])
					}
				}
			}
		}
	}
}

func TestAttentionIsEqual(t *testing.T) {
	rng := rand.New(rand.NewPCG(12, 13))
	for _, p := range others(t) {
		for _, dim := range []int{16, 32, 64, 80, 96, 128, 256} {
			for _, size := range []int{1, 4, 8} {
				for _, n := range []int{1, 2, 15, 16} {
					run := func(p *path, in []float32) []float32 {
						q, kv, scores, out := in[:size*dim], in[size*dim:][:dim*slots], make([]float32, size*40), make([]float32, size*dim)
						copy(out, in[100:])
						a := &attention{q: &q[0], kv: &kv[0], p: &scores[0], pRow: 4 * 40, out: &out[0], dim: dim, n: n, tile: size, factor: 0.3}
						p.scores(a)
						p.weigh(a)
						return append(scores, out...)
					}
					in := values(rng, 2*size*dim+dim*slots+100, false)
					sameBits(t, fmt.Sprintf("%s: %d queries of %d, %d positions", p.name, size, dim, n), run(p, in), run(scalarPath, in))
				}
			}
		}
	}
}

// The exponential against float64: at most two units in the last place.
func TestExp(t *testing.T) {
	for x := float32(-86.99); x < 88; x += 0.0137 {
		want := math.Exp(float64(x))
		if e := math.Abs(float64(exp(x))-want) / want; e > 2.4e-7 {
			t.Fatalf("exp(%v) = %v, want %v: relative error %.2e", x, exp(x), want, e)
		}
	}
	for _, c := range []struct{ x, want float32 }{{0, 1}, {-88, 0}, {float32(math.Inf(-1)), 0}} {
		if got := exp(c.x); got != c.want {
			t.Errorf("exp(%v) = %v, want %v", c.x, got, c.want)
		}
	}
	if got := exp(float32(math.NaN())); got == got {
		t.Errorf("exp(NaN) = %v", got)
	}
}
