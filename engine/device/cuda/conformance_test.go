package cuda_test

import (
	"errors"
	"fmt"
	"os"
	"testing"

	"kigo/engine/device"
	"kigo/engine/device/cuda"
	"kigo/engine/device/cuda/driver"
	"kigo/engine/device/devicetest"
)

// open makes the first GPU's device, or skips the test where there is none. With
// KIGO_REQUIRE_GPU=1 that is a failure.
func open(t *testing.T, cfg cuda.Config) *cuda.Device {
	t.Helper()
	d, err := cuda.New(cfg)
	needGPU(t, err)
	return d
}

// needGPU skips the test if the error says that there is no GPU; others are failures.
func needGPU(t *testing.T, err error) {
	t.Helper()
	if err == nil {
		return
	}
	if os.Getenv("KIGO_REQUIRE_GPU") == "1" || !errors.Is(err, driver.ErrNoDriver) && !errors.Is(err, driver.ErrNoDevice) {
		t.Fatal(err)
	}
	t.Skipf("no GPU: %v", err)
}

// A product rounds what enters it to float16: 2^-12 relative at most. Over the
// few values of the smallest shapes, errors of 1.5e-4 scatter. Weights of quantized
// formats are rounded besides, and before that their scales and minima, which a whole
// block has in common: 4e-4, where minima are as large as in random blocks. Attention
// rounds queries, keys, weights and values.
func TestConformance(t *testing.T) {
	shared := open(t, cuda.Config{})
	t.Cleanup(func() { shared.Close() })
	devicetest.Run(t, func(t *testing.T) device.Device { return keepOpen{shared} }, devicetest.Bounds{Float: 8e-4, Quantized: 2e-3})
}

// The same with the code for every GPU, which others than Hopper's run by as well: many in
// place of wide, no clusters, nothing launched ahead. The driver compiles it first, for half
// a minute.
func TestConformanceOfCodeForEveryGPU(t *testing.T) {
	if os.Getenv("KIGO_TEST_LONG") == "" {
		t.Skip("needs KIGO_TEST_LONG=1")
	}
	shared := open(t, cuda.WithCodeForEveryGPU(cuda.Config{}))
	t.Cleanup(func() { shared.Close() })
	devicetest.Run(t, func(t *testing.T) device.Device { return keepOpen{shared} }, devicetest.Bounds{Float: 8e-4, Quantized: 2e-3})
}

// Which of the kernels for many rows is taken is a question of time alone.
func TestBitsOfEveryWide(t *testing.T) {
	for _, wide := range []struct {
		rows, tiles int
		joint       bool
		splits      int
		far         bool
	}{
		{32, 1, false, 0, false}, {32, 1, true, 0, false}, {64, 1, false, 0, false}, {64, 1, true, 0, false},
		{128, 1, false, 0, false}, {128, 1, true, 0, false}, {64, 2, false, 0, false}, {128, 2, false, 0, false},
		{64, 1, false, 2, false}, {64, 1, true, 4, false}, {128, 1, false, 1, false}, {128, 1, false, 2, false},
		{128, 1, false, 4, false}, {128, 1, false, 8, false}, {128, 2, false, 8, false},
		{32, 1, true, 4, true}, {64, 1, false, 4, true}, {128, 1, false, 2, true}, {128, 1, true, 2, true},
		{128, 1, false, 4, true}, {128, 1, false, 8, true}, {128, 2, false, 4, true},
	} {
		name := fmt.Sprintf("%d rows, %d tiles, joint=%v, splits=%d, far=%v", wide.rows, wide.tiles, wide.joint, wide.splits, wide.far)
		t.Run(name, func(t *testing.T) {
			shared := open(t, cuda.WithWide(cuda.Config{}, wide.rows, wide.tiles, wide.joint, wide.splits, wide.far))
			t.Cleanup(func() { shared.Close() })
			devicetest.Batches(t, func(t *testing.T) device.Device { return keepOpen{shared} })
		})
	}
}

// keepOpen lets the cases of the suite, which each open a device, share one:
// starting a context takes a fifth of a second.
type keepOpen struct{ *cuda.Device }

func (keepOpen) Close() error { return nil }

// The largest logits of steps that want more than there is room for: 16 rows at a
// time.
func TestLogitsInPieces(t *testing.T) {
	open(t, cuda.Config{}).Close() // or skip
	devicetest.Choose(t, func(t *testing.T) device.Device { return open(t, cuda.WithLogitBytes(cuda.Config{}, 1)) })
}
