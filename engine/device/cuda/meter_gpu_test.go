package cuda_test

import (
	"context"
	"testing"

	"kigo/engine/device"
	"kigo/engine/device/cuda"
)

// On a GPU: figures of its size, and from one measurement to the next the same.
func TestMeterOnGPU(t *testing.T) {
	d := open(t, cuda.Config{})
	defer d.Close()
	for _, test := range []struct {
		name        string
		measure     func(context.Context) (device.Rate, error)
		least, most float64
	}{
		{"copy", d.CopyRate, 1e11, 1e13},
		{"upload", d.UploadRate, 1e9, 1e12},
		{"matrix", d.MatrixRate, 1e13, 1e16},
	} {
		var rates [2]device.Rate
		for i := range rates {
			var err error
			if rates[i], err = test.measure(t.Context()); err != nil {
				t.Fatalf("%s: %v", test.name, err)
			}
			if v := rates[i].PerSecond; v < test.least || v > test.most {
				t.Errorf("%s: %g a second", test.name, v)
			}
			t.Logf("%s: %.4g a second, %s", test.name, rates[i].PerSecond, rates[i].Method)
		}
		if ratio := rates[0].PerSecond / rates[1].PerSecond; ratio < 0.9 || ratio > 1.1 {
			t.Errorf("%s: %g, then %g a second", test.name, rates[0].PerSecond, rates[1].PerSecond)
		}
	}
}
