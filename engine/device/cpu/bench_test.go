package cpu

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"kigo/engine/device"
	"kigo/engine/quant"
)

// BenchmarkProduct multiplies a matrix with rows of activations on one core: one
// row is what decoding is made of, 32 what prompts are. The matrix does not fit
// the second-level cache. "best" is the fastest of the runs, which other work on
// the machine disturbs least.
func BenchmarkProduct(b *testing.B) {
	const matrixRows, cols = 4096, 1536
	for _, p := range paths() {
		for _, f := range quant.All() {
			if cols%f.BlockSize != 0 {
				continue
			}
			t := device.Tensor{Format: f, Rows: matrixRows, Cols: cols}
			raw := make([]byte, t.Bytes())
			f.Random(raw, 1, rand.New(rand.NewPCG(1, 1)))
			packing := newPacking(f, cols)
			packMatrix(&packing, raw, raw)
			m := newMatrix(&t, raw, p)
			for _, n := range []int{1, 4, 32} {
				b.Run(fmt.Sprintf("%s/%s/%d", p.name, f.Name, n), func(b *testing.B) {
					x := randomRows(p, n, cols)
					w := startWorkers(1).all[0]
					y := make([]float32, n*matrixRows)
					best := time.Hour
					for b.Loop() {
						for lo := 0; lo < matrixRows; lo += 512 {
							start := time.Now()
							for at := lo; at < lo+512; at += 128 {
								w.multiply(m, at, at+128, x, y[at:], matrixRows, !floats(f))
							}
							best = min(best, time.Since(start))
						}
					}
					b.ReportMetric(float64(n*512*cols)/best.Seconds()/1e9, "best-GMAC/s")
					b.ReportMetric(float64(len(raw)/8)/best.Seconds()/1e9, "best-GB/s")
				})
			}
		}
	}
}

// randomRows are n rows of normally distributed activations, quantized.
func randomRows(p *path, n, cols int) *rows {
	x := &rows{n: n, width: cols, f: make([]float32, n*cols), q: make([]byte, max(n*(cols/blockLen)*recordBytes, 1))}
	rng := rand.New(rand.NewPCG(2, 3))
	for i := range x.f {
		x.f[i] = float32(rng.NormFloat64())
	}
	if cols%blockLen == 0 {
		for r := range n {
			p.quantize(&x.q[r*x.recordRow()], &x.row(r)[0], cols/blockLen)
		}
	}
	return x
}
