package cpu_test

import (
	"testing"

	"kigo/engine/device"
	"kigo/engine/device/cpu"
	"kigo/engine/device/devicetest"
)

func TestConformance(t *testing.T) {
	for _, tc := range []struct {
		name   string
		cfg    cpu.Config
		bounds devicetest.Bounds
	}{
		{"reference", cpu.Config{Threads: 2, Reference: true}, devicetest.Bounds{Float: 1e-6, Quantized: 1e-6}},
		{"served", cpu.Config{Threads: 3}, devicetest.Bounds{Float: 2e-6, Quantized: 7e-5}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			devicetest.Run(t, func(t *testing.T) device.Device {
				d, err := cpu.New(tc.cfg)
				if err != nil {
					t.Fatal(err)
				}
				return d
			}, tc.bounds)
		})
	}
}
