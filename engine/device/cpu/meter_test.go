package cpu

import (
	"context"
	"errors"
	"testing"

	"kigo/engine/device"
)

func TestMeter(t *testing.T) {
	d, err := New(Config{Threads: 2})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	var m device.Meter = d
	for name, measure := range map[string]func(context.Context) (device.Rate, error){
		"copy": m.CopyRate, "upload": m.UploadRate, "matrix": m.MatrixRate,
	} {
		r, err := measure(t.Context())
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		// From a busy machine under the race detector to ten times the fastest there is.
		if !(r.PerSecond > 1e6 && r.PerSecond < 1e15) || r.Method == "" {
			t.Errorf("%s: %+v", name, r)
		}
		t.Logf("%s: %.3g a second, %s", name, r.PerSecond, r.Method)
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := measure(ended); !errors.Is(err, context.Canceled) {
			t.Errorf("%s with a cancelled context: %v", name, err)
		}
	}
}
