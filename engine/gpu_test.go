package engine_test

import (
	"slices"
	"testing"

	"kigo/engine"
	"kigo/engine/testenv"
)

// A hundred loads and unloads, half of them replacements, leave the GPU's memory
// as it was. The driver keeps a few MB of its own with the first dozens, so as many
// come before the first look.
func TestLoadsLeaveTheGPUsMemory(t *testing.T) {
	if !testenv.OnGPU() {
		t.Skip("no GPU: KIGO_TEST_DEVICE names none")
	}
	e := newEngine(t, engine.Config{})
	loadTiny(t, e, "a", 1, false)
	want := run(t, e, greedy("hello", 20)).ids
	if err := e.Unload(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	loads := func() (free uint64) {
		for i := range 50 {
			loadTiny(t, e, "a", uint64(i+2), false)
			run(t, e, greedy("hello", 2))
			loadTiny(t, e, "b", 1, true)
			if got := run(t, e, greedy("hello", 20)).ids; !slices.Equal(got, want) {
				t.Fatalf("load %d says %v, want %v", i, got, want)
			}
			if err := e.Unload(t.Context(), "b"); err != nil {
				t.Fatal(err)
			}
		}
		return e.Status().Device.MemoryFree
	}
	before, after := loads(), loads()
	// The driver gives and takes pieces of 2 MiB; less than one may stay behind.
	t.Logf("%d bytes free before, %d after", before, after)
	if before == 0 || after+2<<20 <= before {
		t.Errorf("%d bytes were free before the loads, %d after", before, after)
	}
}
