package cpu

import (
	"math/rand/v2"
	"testing"

	"kigo/engine/device"
	"kigo/engine/quant"
)

// BenchmarkDot multiplies a matrix that does not fit the caches with one row
// of activations on one core: what decoding is made of. MB/s are bytes of
// weights.
func BenchmarkDot(b *testing.B) {
	const rowCount, cols = 4096, 2048
	for _, f := range quant.All() {
		b.Run(f.Name, func(b *testing.B) {
			t := device.Tensor{Format: f, Rows: rowCount, Cols: cols}
			raw := make([]byte, t.Bytes())
			f.Random(raw, 1, rand.New(rand.NewPCG(1, 1)))
			m := newMatrix(&t, raw)
			x := rows{n: 1, width: cols, f: make([]float32, cols), q: make([]int16, cols), scale: make([]float32, cols/32), sum: make([]float32, cols/32)}
			for i := range x.f {
				x.f[i] = float32(i%17) - 8
			}
			x.quantize(0)
			var l servedLane
			b.SetBytes(int64(len(raw)))
			for b.Loop() {
				for r := range rowCount {
					l.load(m, r)
					l.dot(&x, 0)
				}
			}
			b.ReportMetric(float64(rowCount*cols)*float64(b.N)/b.Elapsed().Seconds()/1e9, "GMAC/s")
		})
	}
}
