package engine_test

import (
	"slices"
	"sync"
	"testing"
	"time"

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

// The GPU's free memory falls as requests fill the KV cache, and rises when another
// model has taken its place, which says what the first one did.
func TestCacheGrowsOnTheGPU(t *testing.T) {
	if !testenv.OnGPU() {
		t.Skip("no GPU: KIGO_TEST_DEVICE names none")
	}
	e := newEngine(t, engine.Config{CacheTokens: 1 << 20, MaxQueue: 1000})
	loadTiny(t, e, "a", 1, false)
	want := run(t, e, greedy("hello", 20)).ids
	if err := e.Unload(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	loadTiny(t, e, "a2", 1, false) // what the driver keeps of a first load is there
	run(t, e, greedy("hello", 20))
	begin := settled(t, e)
	if kv := begin.Model.Memory; kv.KV == 0 || kv.KV > kv.KVReserved/2 {
		t.Errorf("a new cache takes %d bytes of %d", kv.KV, kv.KVReserved)
	}
	var all sync.WaitGroup
	for i := 0; i*32 < begin.KVTotal; i++ { // blocks of different tokens, which are kept
		r := greedy("", 1)
		r.Tokens = append(r.Tokens, int32(33+i%200), int32(33+i/200))
		for j := range 500 {
			r.Tokens = append(r.Tokens, int32(33+j%200))
		}
		s := submit(t, e, r)
		all.Go(func() {
			if _, err := collect(t, s); err != nil {
				t.Error(err)
			}
		})
		if i%200 == 199 {
			all.Wait()
		}
	}
	all.Wait()
	full := settled(t, e)
	taken := int64(full.Model.Memory.KV) - int64(begin.Model.Memory.KV)
	fell := int64(begin.Device.MemoryFree) - int64(full.Device.MemoryFree)
	t.Logf("the cache has grown by %d bytes, %d fewer are free", taken, fell)
	if taken <= 0 || full.KVMapped < full.KVTotal/2 || fell < taken-16<<20 || fell > taken+64<<20 {
		t.Errorf("%d bytes more in the cache, %d fewer free: %+v", taken, fell, full)
	}
	loadTiny(t, e, "b", 1, true)
	if got := run(t, e, greedy("hello", 20)).ids; !slices.Equal(got, want) {
		t.Errorf("the second model says %v, the first %v", got, want)
	}
	after := settled(t, e)
	for deadline := time.Now().Add(20 * time.Second); after.KVTotal != begin.KVTotal && time.Now().Before(deadline); after = settled(t, e) {
		time.Sleep(time.Millisecond) // the first model is freed after its last stream has ended
	}
	if rose := int64(after.Device.MemoryFree) - int64(full.Device.MemoryFree); rose < taken-16<<20 {
		t.Errorf("%d bytes more are free with another model, %d were taken", rose, taken)
	}
}
