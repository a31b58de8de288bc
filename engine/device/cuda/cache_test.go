package cuda

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"kigo/engine/device"
	"kigo/engine/device/cuda/driver"
	"kigo/engine/device/cuda/driver/fakedriver"
)

// cacheMemory is that of a fake GPU for caches.
const cacheMemory = 288 << 20

// cacheOn makes a cache on a fake GPU, to be closed with the test.
func cacheOn(t *testing.T, cfg Config, shape device.CacheShape, blocks int) (*cache, *fakedriver.Driver) {
	t.Helper()
	d, f := onFakeWith(t, cfg, cacheMemory)
	c, err := d.NewCache(shape, blocks)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(c.Close(), c.Close()); err != nil {
			t.Error(err)
		}
	})
	return c.(*cache), f
}

// Keys and values of all blocks lie in places of their own, aligned as the kernels want
// them, and all that a block has in one chunk. The numbers of real models' shapes.
func TestPlacesInTheCache(t *testing.T) {
	for _, c := range []struct {
		name       string
		shape      device.CacheShape
		blocks     int
		chunkBytes int
		chunks     int
	}{
		{"SmolLM2 135M", device.CacheShape{Layers: 30, KVHeads: 3, HeadDim: 64, BlockSize: 16}, 700, 0, 3},
		{"Qwen2.5 0.5B", device.CacheShape{Layers: 24, KVHeads: 2, HeadDim: 64, BlockSize: 16}, 1024, 0, 3},
		{"Llama 3.1 8B", device.CacheShape{Layers: 32, KVHeads: 8, HeadDim: 128, BlockSize: 16}, 64, 0, 3},
		{"one chunk", device.CacheShape{Layers: 3, KVHeads: 1, HeadDim: 40, BlockSize: 32}, 10, 0, 1},
		{"a block alone in a chunk", device.CacheShape{Layers: 32, KVHeads: 8, HeadDim: 128, BlockSize: 16}, 3, 1, 4},
	} {
		t.Run(c.name, func(t *testing.T) {
			kv, _ := cacheOn(t, Config{chunkBytes: c.chunkBytes}, c.shape, c.blocks)
			if got := kv.Reserved() / kv.chunk; got != uint64(c.chunks) || kv.chunk%(2<<20) != 0 {
				t.Errorf("%d chunks of %d bytes, want %d", got, kv.chunk, c.chunks)
			}
			size := partBytes(c.shape)
			var all []uint64
			for block := int32(-1); int(block) < c.blocks; block++ {
				part := kv.part(block)
				if (part == nobody) != (block < 0) {
					t.Fatalf("block %d has part %d", block, part)
				}
				chunk := uint64(block+1) / uint64(kv.places)
				for layer := range c.shape.Layers {
					l := kv.layer(layer)
					for _, side := range []uint64{l.Keys, l.Values} {
						at := side + uint64(part)*size
						if off := at - uint64(kv.base); off/kv.chunk != chunk || (off+size-1)/kv.chunk != chunk || at%16 != 0 {
							t.Fatalf("layer %d of block %d lies at %d in chunk %d, want %d", layer, block, off, off/kv.chunk, chunk)
						}
						all = append(all, at)
					}
				}
			}
			slices.Sort(all)
			for i := 1; i < len(all); i++ {
				if all[i]-all[i-1] < size {
					t.Fatalf("parts of %d bytes at %d and %d", size, all[i-1], all[i])
				}
			}
		})
	}
}

// blockOfMiB is a shape whose blocks take a MiB.
var blockOfMiB = device.CacheShape{Layers: 16, KVHeads: 8, HeadDim: 128, BlockSize: 16}

// mapAll maps the chunks one after another, up to an error.
func mapAll(c device.Cache) error {
	for b := 0; b < c.Blocks(); _, b = c.Chunk(b) {
		if err := c.Map(b); err != nil {
			return err
		}
	}
	return nil
}

// mapped is which blocks have memory, in words.
func mapped(c device.Cache) (s string) {
	for b := range c.Blocks() {
		if c.Mapped(b) {
			s += "#"
		} else {
			s += "-"
		}
	}
	return s
}

// Memory comes and goes chunk by chunk, in any order, by just the calls that it takes;
// recorded steps go on with the same addresses. A chunk has 4 MiB here, so three blocks
// are in the first one and four in each other.
func TestCacheComesAndGoes(t *testing.T) {
	c, f := cacheOn(t, Config{chunkBytes: 4 << 20}, blockOfMiB, 14)
	const chunk = 4 << 20
	base, layer := c.base, c.layer(5)
	used := f.Used()
	take := []string{"MemInfo", "Create", "Map", "ReleaseChunk", "SetAccess", "MemInfo"}
	give := []string{"SyncStream", "Unmap", "MemInfo"}
	f.TakeCalls()
	for i, step := range []struct {
		do     func(int) error
		block  int
		chunks int
		mapped string
		calls  []string
	}{
		{c.Map, 0, 1, "###-----------", nil},
		{c.Map, 2, 1, "###-----------", nil},
		{c.Map, 3, 2, "#######-------", take},
		{c.Map, 6, 2, "#######-------", nil},
		{c.Map, 13, 3, "#######----###", take},
		{c.Unmap, 7, 3, "#######----###", nil},
		{c.Unmap, 0, 3, "#######----###", nil}, // nobody's is there
		{c.Unmap, 5, 2, "###--------###", give},
		{c.Map, 10, 3, "###----#######", take},
		{c.Unmap, 11, 2, "###----####---", give},
	} {
		if err := step.do(step.block); err != nil {
			t.Fatalf("step %d: %v", i, err)
		}
		calls := slices.DeleteFunc(f.TakeCalls(), func(s string) bool { return s == "SetCurrent" })
		if !slices.Equal(calls, step.calls) {
			t.Errorf("step %d: calls %q, want %q", i, calls, step.calls)
		}
		taken := uint64(step.chunks) * chunk
		if c.Bytes() != taken || f.Used() != used-chunk+taken || mapped(c) != step.mapped {
			t.Errorf("step %d: %d bytes, %d on the GPU before and %d now, blocks %s", i, c.Bytes(), used, f.Used(), mapped(c))
		}
		if c.base != base || c.layer(5) != layer || c.Reserved() != 4*chunk || c.Blocks() != 14 {
			t.Errorf("step %d: the cache has moved: %+v", i, c)
		}
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	for what, err := range map[string]error{"Map": c.Map(13), "Unmap": c.Unmap(7)} {
		if !errors.Is(err, device.ErrClosed) {
			t.Errorf("%s after Close: %v", what, err)
		}
	}
}

// A chunk that cannot be had, at whichever call, leaves the others as they were, and
// can be had the next time.
func TestMappingFails(t *testing.T) {
	for _, call := range []string{"Create", "Map", "SetAccess"} {
		c, f := cacheOn(t, Config{chunkBytes: 4 << 20}, blockOfMiB, 14)
		used := f.Used()
		f.FailAt(call, 2, driver.CodeOutOfMemory)
		err := mapAll(c)
		if !errors.Is(err, device.ErrOutOfMemory) || !contains(err, "KV cache", "bytes of device memory", "are free") {
			t.Errorf("%s: %v", call, err)
		}
		if mapped(c) != "#######-------" || f.Used() != used+4<<20 {
			t.Errorf("%s: blocks %s, %d bytes more", call, mapped(c), f.Used()-used)
		}
		if err := mapAll(c); err != nil || mapped(c) != "##############" {
			t.Errorf("%s, then once more: blocks %s (%v)", call, mapped(c), err)
		}
	}
}

// Memory that does not go stays the cache's: the next Unmap, or Close, gets rid of it.
func TestUnmappingFails(t *testing.T) {
	c, f := cacheOn(t, Config{chunkBytes: 4 << 20}, blockOfMiB, 14)
	if err := mapAll(c); err != nil {
		t.Fatal(err)
	}
	f.FailAt("Unmap", 1, driver.CodeInvalidValue)
	if err := c.Unmap(5); !errors.Is(err, driver.CodeInvalidValue) || mapped(c) != "##############" {
		t.Errorf("%v with blocks %s", err, mapped(c))
	}
	if err := c.Unmap(5); err != nil || mapped(c) != "###----#######" {
		t.Errorf("%v with blocks %s", err, mapped(c))
	}
	f.FailAt("Unmap", 2, driver.CodeInvalidValue)
	if err := c.Close(); !errors.Is(err, driver.CodeInvalidValue) {
		t.Errorf("Close: %v", err)
	}
	f.FailAt("FreeReservation", 1, driver.CodeInvalidValue)
	if err := c.Close(); !errors.Is(err, driver.CodeInvalidValue) {
		t.Errorf("Close, again: %v", err)
	}
}

// The last of the GPU's memory is left to others, but for a cache's first chunk.
func TestMappingLeavesSomeMemory(t *testing.T) {
	const chunk = 16 << 20
	c, f := cacheOn(t, Config{chunkBytes: chunk}, blockOfMiB, 1<<20)
	if err := mapAll(c); !errors.Is(err, device.ErrOutOfMemory) {
		t.Fatal(err)
	}
	if left := cacheMemory - f.Used(); left < leftFree || left > leftFree+2*chunk {
		t.Errorf("%d bytes are left", left)
	}
}

// Where the driver cannot map memory, a cache has all of its own from the start.
func TestCacheWithoutMappedMemory(t *testing.T) {
	d, f := onFake(t, Config{})
	d.props.VirtualMemory = false
	used := f.Used()
	c, err := d.NewCache(blockOfMiB, 20)
	if err != nil {
		t.Fatal(err)
	}
	all := strings.Repeat("#", 20)
	if mapped(c) != all || c.Bytes() != 21<<20 || c.Reserved() != c.Bytes() || f.Used() != used+21<<20 {
		t.Errorf("blocks %s, %d bytes of %d", mapped(c), c.Bytes(), c.Reserved())
	}
	if err := errors.Join(c.Map(19), c.Unmap(19)); err != nil || mapped(c) != all {
		t.Errorf("blocks %s (%v)", mapped(c), err)
	}
	kv := c.(*cache)
	if last := kv.layer(15).Values + (uint64(kv.part(19))+1)*partBytes(blockOfMiB); last != uint64(kv.base)+21<<20 || kv.part(-1) != nobody {
		t.Errorf("the last block ends at %d", last-uint64(kv.base))
	}
	x, done := smallModel(t, d)
	defer done()
	if _, err := x.Run(&device.Step{Tokens: []int32{1}, Seqs: []device.SeqRows{{Rows: 1, Blocks: []int32{3}}}, Logits: []int{0}}); err != nil {
		t.Error(err)
	}
	if err := errors.Join(c.Close(), c.Close()); err != nil {
		t.Error(err)
	}
}

// A step's tables name the blocks' parts, and what fills it up names nobody's.
func TestTablesNameParts(t *testing.T) {
	d, _ := onFake(t, Config{})
	x, done := smallModel(t, d)
	defer done()
	step := &device.Step{Tokens: []int32{1, 2, 3}, Logits: []int{0}, Seqs: []device.SeqRows{
		{Rows: 1, Start: 40, Blocks: []int32{2, 0, 3}}, {Rows: 1, Blocks: []int32{1, 0}}, {Rows: 1, Start: 16, Blocks: []int32{3, 1}},
	}}
	if _, err := x.Run(step); err != nil {
		t.Fatal(err)
	}
	tables := x.in.ints[inputParts*x.in.maxRows:]
	if want := []int32{0, 3, 1, 4, 2, 4, 2}; !slices.Equal(tables[:len(want)], want) {
		t.Errorf("tables %v, want %v", tables[:len(want)], want)
	}
	if got := x.in.part(2)[:4]; !slices.Equal(got, []int32{1, 4, 5, 0}) {
		t.Errorf("they begin at %v", got)
	}
	for _, b := range []int32{4, -1} {
		step.Seqs[0].Blocks[2] = b
		if _, err := x.Run(step); !errors.Is(err, device.ErrBadStep) {
			t.Errorf("a step with block %d: %v", b, err)
		}
	}
}
