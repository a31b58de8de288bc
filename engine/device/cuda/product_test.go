package cuda_test

import (
	"testing"

	"kigo/engine/device/cuda"
)

// Where 128 outputs to a block would leave multiprocessors idle, warpgroups share
// segments, and nowhere else.
func TestShapesOfWide(t *testing.T) {
	clusters := map[int]int{1: 132, 2: 66, 4: 31, 8: 14}
	for _, c := range []struct{ rows, outputs, width, wide, splits int }{
		{64, 4096, 4096, 64, 2},
		{64, 4096, 14336, 64, 2},
		{2048, 4096, 4096, 128, 1},
		{64, 128256, 4096, 128, 1},
	} {
		wide, splits, shared := cuda.Wide(c.rows, c.outputs, c.width, 8, clusters)
		if wide != c.wide || splits != c.splits || shared > 227<<10 {
			t.Errorf("%d rows of %d x %d: %d outputs, %d splits, %d bytes of shared memory, want %d and %d",
				c.rows, c.outputs, c.width, wide, splits, shared, c.wide, c.splits)
		}
	}
}
