package devices_test

import (
	"testing"

	"kigo/engine/device/devices"
	"kigo/engine/testenv"
)

func TestOpen(t *testing.T) {
	for _, tc := range []struct {
		o    devices.Options
		kind string // "" for an error
	}{
		{devices.Options{Name: "cpu"}, "cpu"},
		{devices.Options{Name: "cpu", Reference: true, Threads: 1}, "cpu"},
		{devices.Options{Name: "auto", Reference: true}, "cpu"},
		{devices.Options{Reference: true}, "cpu"},
		{devices.Options{Name: "cuda", Reference: true}, ""},
		{devices.Options{Name: "cuda:"}, ""},
		{devices.Options{Name: "cuda:-1"}, ""},
		{devices.Options{Name: "cuda:one"}, ""},
		{devices.Options{Name: "cuda:1000000"}, ""},
		{devices.Options{Name: "gpu"}, ""},
		{devices.Options{Name: "cpu:0"}, ""},
		{devices.Options{Name: "cpu", Threads: -1}, ""},
	} {
		d, why, err := devices.Open(tc.o)
		if (err != nil) != (tc.kind == "") || why != nil {
			t.Errorf("%+v: %v, %v", tc.o, why, err)
		}
		if err != nil {
			continue
		}
		if kind := d.Info().Kind; kind != tc.kind {
			t.Errorf("%+v: a %s", tc.o, kind)
		}
		if err := d.Close(); err != nil {
			t.Errorf("%+v: %v", tc.o, err)
		}
	}
}

// auto takes a GPU if there is one, and otherwise says why it does not.
func TestAuto(t *testing.T) {
	d, why, err := devices.Open(devices.Options{Name: "auto"})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if kind := d.Info().Kind; (kind == "cpu") != (why != nil) || kind == "cpu" && why.Error() == "" {
		t.Errorf("a %s, because of %v", kind, why)
	}
}

func TestGPUByName(t *testing.T) {
	testenv.RequireGPU(t)
	for _, name := range []string{"auto", "", "cuda", "cuda:0"} {
		d, why, err := devices.Open(devices.Options{Name: name})
		if err != nil || why != nil {
			t.Fatalf("%q: %v, %v", name, why, err)
		}
		if i := d.Info(); i.Kind != "cuda" || i.Name == "" || i.MemoryTotal == 0 || i.MemoryFree == 0 || i.MemoryFree > i.MemoryTotal {
			t.Errorf("%q: %+v", name, i)
		}
		if err := d.Close(); err != nil {
			t.Errorf("%q: %v", name, err)
		}
	}
}
