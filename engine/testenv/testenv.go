// Package testenv tells tests what they find around them: which device to
// compute on, where the models are, how much time there is. It is for tests
// alone. The variables:
//
//	KIGO_TEST_DEVICE     the device that tests compute on: cpu (the default), cuda, cuda:1
//	KIGO_REQUIRE_GPU     1: a test that finds no GPU fails; otherwise it is skipped
//	KIGO_TEST_MODELS     optional: a test that finds no model is skipped; otherwise it fails
//	KIGO_TEST_LONG       anything: the full sizes
package testenv

import (
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"kigo/engine/device"
	"kigo/engine/device/cuda"
	"kigo/engine/device/devices"
)

// Device is the name of the device that tests compute on, for devices.Open and
// engine.Config. Where that is a GPU and there is none, the test is skipped.
func Device(t testing.TB) string {
	t.Helper()
	name := deviceName()
	if name != "cpu" {
		RequireGPU(t)
	}
	return name
}

func deviceName() string {
	if name := os.Getenv("KIGO_TEST_DEVICE"); name != "" {
		return name
	}
	return "cpu"
}

// OnGPU says whether tests compute on a GPU.
func OnGPU() bool { return strings.HasPrefix(deviceName(), "cuda") }

// Open opens the tests' device and closes it when the test ends.
func Open(t testing.TB) device.Device {
	t.Helper()
	dev, _, err := devices.Open(devices.Options{Name: Device(t)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := dev.Close(); err != nil {
			t.Errorf("close the device: %v", err)
		}
	})
	return dev
}

// RequireGPU skips a test that is about GPUs where there is none.
func RequireGPU(t testing.TB) {
	t.Helper()
	err := gpu()
	if err == nil {
		return
	}
	if os.Getenv("KIGO_REQUIRE_GPU") == "1" || !cuda.Unusable(err) {
		t.Fatal(err)
	}
	t.Skipf("no GPU: %v", err)
}

// gpu opens a GPU once and closes it again.
var gpu = sync.OnceValue(func() error {
	dev, err := cuda.New(cuda.Config{})
	if err != nil {
		return err
	}
	return dev.Close()
})

// Model is the path of a file of the folder models/, which is somewhere above
// the test's own folder.
func Model(t testing.TB, name string) string {
	t.Helper()
	for dir, level := "..", 0; level < 4; dir, level = filepath.Join(dir, ".."), level+1 {
		path := filepath.Join(dir, "models", name)
		if _, err := os.Stat(path); err == nil {
			return path
		}
	}
	if os.Getenv("KIGO_TEST_MODELS") == "optional" {
		t.Skipf("no model: %s is not in models/", name)
	}
	t.Fatalf("%s is not in models/: run make models", name)
	return ""
}

// Long says whether the full sizes are asked for (make test-long).
func Long() bool { return os.Getenv("KIGO_TEST_LONG") != "" }
