package quant_test

import (
	"math"
	"math/rand/v2"
	"testing"

	"kigo/engine/quant"
)

func TestRandomIsValidAndScaled(t *testing.T) {
	for _, f := range quant.All() {
		t.Run(f.Name, func(t *testing.T) {
			const blocks, deviation = 512, 0.02
			src := make([]byte, blocks*f.BlockBytes)
			f.Random(src, deviation, rand.New(rand.NewPCG(1, 2)))
			v := make([]float32, blocks*f.BlockSize)
			f.Dequantize(v, src)
			sum, sum2 := 0.0, 0.0
			for _, x := range v {
				sum += float64(x)
				sum2 += float64(x) * float64(x)
			}
			mean, rms := sum/float64(len(v)), math.Sqrt(sum2/float64(len(v)))
			if !(rms > deviation/2 && rms < deviation*2) || !(math.Abs(mean) < deviation/4) {
				t.Errorf("mean %v, root mean square %v, want about 0 and %v", mean, rms, deviation)
			}
		})
	}
}
