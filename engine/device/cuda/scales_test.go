package cuda

import (
	"math"
	"testing"
)

// Scales of every size that halves can make end in the upper half of what float16 has.
func TestScaleUp(t *testing.T) {
	for _, most := range []float32{0x1p-24, 0x1p-24 * 63, 3e-6, 0.001, 0.0309, 1, 63, 1000, 65504, 65504 * 128} {
		up := scaleUp(most)
		if frac, _ := math.Frexp(float64(up)); frac != 0.5 {
			t.Errorf("%g: %g is no power of two", most, up)
		}
		if scaled := float64(most) * float64(up); scaled > largestHalf || scaled <= largestHalf/2 {
			t.Errorf("%g times %g is %g", most, up, scaled)
		}
		if down := subnormal / up; up*down != subnormal || math.IsInf(float64(down), 0) {
			t.Errorf("%g: %g is undone by %g", most, up, down)
		}
	}
	if up := scaleUp(0); up != subnormal {
		t.Errorf("0: %g", up)
	}
}
