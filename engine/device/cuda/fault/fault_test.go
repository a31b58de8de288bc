package fault_test

import (
	"testing"

	"kigo/engine/device/cuda/fault"
	"kigo/engine/testenv"
)

// The kernels load on the GPU at hand. What they do is tested in processes of
// their own, by server/cli: this one could not go on.
func TestOpen(t *testing.T) {
	testenv.RequireGPU(t)
	if _, err := fault.Open(0); err != nil {
		t.Fatal(err)
	}
}
