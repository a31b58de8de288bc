package cpu

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"kigo/engine/device"
	"kigo/engine/quant"
)

// BenchmarkProduct multiplies a matrix that does not fit the caches with rows
// of activations on one core: one row is what decoding is made of, 32 what
// prompts are. MB/s are bytes of weights.
func BenchmarkProduct(b *testing.B) {
	const matrixRows, cols = 4096, 2048
	for _, p := range paths() {
		for _, f := range quant.All() {
			for _, n := range []int{1, 32} {
				b.Run(fmt.Sprintf("%s/%s/%d", p.name, f.Name, n), func(b *testing.B) {
					t := device.Tensor{Format: f, Rows: matrixRows, Cols: cols}
					raw := make([]byte, t.Bytes())
					f.Random(raw, 1, rand.New(rand.NewPCG(1, 1)))
					packing := newPacking(f, cols)
					packMatrix(&packing, raw, raw)
					m := newMatrix(&t, raw, p)
					x := rows{n: n, width: cols, f: make([]float32, n*cols), q: make([]byte, n*cols/blockLen*recordBytes)}
					for i := range x.f {
						x.f[i] = float32(i%17) - 8
					}
					for r := range n {
						p.quantize(&x.q[r*x.recordRow()], &x.row(r)[0], cols/blockLen)
					}
					w := startWorkers(1).all[0]
					y := make([]float32, n*matrixRows)
					b.SetBytes(int64(len(raw)))
					for b.Loop() {
						for lo := 0; lo < matrixRows; lo += 64 {
							w.multiply(m, lo, lo+64, &x, y[lo:], matrixRows, !floats(f))
						}
					}
					b.ReportMetric(float64(n*matrixRows*cols)*float64(b.N)/b.Elapsed().Seconds()/1e9, "GMAC/s")
				})
			}
		}
	}
}
