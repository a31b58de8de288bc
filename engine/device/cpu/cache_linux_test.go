package cpu

import (
	"os"
	"testing"

	"kigo/engine/device"
)

// What is unmapped goes back to the system, which has zeros for who reads it again;
// what is kept stays. Here a block has two pages in each layer, and half of one.
func TestUnmapGivesPagesBack(t *testing.T) {
	for _, dim := range []int{64, 16} {
		d := &Device{}
		shape := device.CacheShape{Layers: 3, KVHeads: 2, HeadDim: dim, BlockSize: slots}
		const blocks, kept = 12, 5
		made, err := device.WholeCache(d, shape, blocks)
		if err != nil {
			t.Fatal(err)
		}
		c := made.(*cache)
		for _, side := range [][]float32{c.k, c.v} {
			for i := range side {
				side[i] = 1
			}
		}
		c.chunk = 1
		for b := kept; b < blocks; b++ {
			if err := c.Unmap(b); err != nil {
				t.Fatal(err)
			}
		}
		if !c.Mapped(kept-1) || c.Mapped(kept) || c.Bytes() != kept*d.CacheBlockBytes(shape) || c.Reserved() != blocks*d.CacheBlockBytes(shape) {
			t.Errorf("%d bytes of %d", c.Bytes(), c.Reserved())
		}
		zeros := 0
		for _, side := range [][]float32{c.k, c.v} {
			for layer := range shape.Layers {
				for i, v := range side[c.head(layer, 0, 0):c.head(layer, blocks, 0)] {
					if v != 1 && i < c.head(0, kept, 0) {
						t.Fatalf("heads of %d: value %d of layer %d is %v", dim, i, layer, v)
					}
					if v == 0 {
						zeros++
					}
				}
			}
		}
		// A page goes with a block that has all of it.
		gone := 2 * shape.Layers * (blocks - kept) * 2 * slots * dim
		if zeros > gone || dim == 64 && os.Getpagesize() == 4096 && zeros < gone {
			t.Errorf("heads of %d: %d values are gone, want %d", dim, zeros, gone)
		}
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
