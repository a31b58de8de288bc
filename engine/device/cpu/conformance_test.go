package cpu_test

import (
	"strings"
	"testing"

	"kigo/engine/device"
	"kigo/engine/device/cpu"
	"kigo/engine/device/devicetest"
)

func TestConformance(t *testing.T) {
	type config struct {
		name   string
		cfg    cpu.Config
		bounds devicetest.Bounds
	}
	configs := []config{{"reference", cpu.Config{Threads: 2, Reference: true}, devicetest.Bounds{Float: 1e-6, Quantized: 1e-6}}}
	for _, path := range cpu.Paths() {
		configs = append(configs, config{path, cpu.Config{Threads: 3, Path: path}, devicetest.Bounds{Float: 2e-6, Quantized: 5e-5}})
	}
	for _, c := range configs {
		t.Run(c.name, func(t *testing.T) {
			devicetest.Run(t, func(t *testing.T) device.Device {
				d, err := cpu.New(c.cfg)
				if err != nil {
					t.Fatal(err)
				}
				return d
			}, c.bounds)
		})
	}
}

func TestUnknownPathIsRefused(t *testing.T) {
	_, err := cpu.New(cpu.Config{Path: "abacus"})
	if err == nil || !strings.Contains(err.Error(), "abacus") || !strings.Contains(err.Error(), "scalar") {
		t.Errorf("error %v, want one that names the path and those there are", err)
	}
	t.Setenv("KIGO_CPU", "scalar")
	d, err := cpu.New(cpu.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if name := d.Info().Name; !strings.HasSuffix(name, "(scalar)") {
		t.Errorf("device %q with KIGO_CPU=scalar", name)
	}
}
