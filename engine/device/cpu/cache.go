package cpu

import (
	"fmt"
	"math/bits"
	"sync/atomic"

	"kigo/engine/device"
)

// cache holds keys and values as float32. The elements of one layer, block and
// head lie together: [layer][block][kv head][token in block][head dim].
type cache struct {
	shape  device.CacheShape
	blocks int
	mem    *memory
	k, v   []float32
	closed atomic.Bool
}

// CacheBlockBytes counts keys and values of all layers, as float32.
func (d *Device) CacheBlockBytes(s device.CacheShape) uint64 {
	return 2 * 4 * uint64(s.Layers) * uint64(s.KVHeads) * uint64(s.HeadDim) * uint64(s.BlockSize)
}

// NewCache reserves address space for the blocks; memory is taken as they fill.
func (d *Device) NewCache(shape device.CacheShape, blocks int) (device.Cache, error) {
	size := uint64(4 * 2) // float32, K and V
	for _, n := range []int{shape.Layers, shape.KVHeads, shape.HeadDim, shape.BlockSize, blocks} {
		if n < 1 {
			return nil, fmt.Errorf("KV cache: %+v with %d blocks", shape, blocks)
		}
		hi, lo := bits.Mul64(size, uint64(n))
		if hi != 0 || lo > 1<<46 {
			return nil, fmt.Errorf("KV cache of %d blocks: %w", blocks, device.ErrOutOfMemory)
		}
		size = lo
	}
	mem, err := allocate(int(size))
	if err != nil {
		return nil, fmt.Errorf("KV cache of %d blocks: %w", blocks, err)
	}
	all := mem.floats()
	return &cache{shape: shape, blocks: blocks, mem: mem, k: all[:len(all)/2], v: all[len(all)/2:]}, nil
}

func (c *cache) Shape() device.CacheShape { return c.shape }
func (c *cache) Blocks() int              { return c.blocks }
func (c *cache) Bytes() uint64            { return uint64(len(c.mem.bytes)) }

func (c *cache) Close() error {
	if c.closed.Swap(true) {
		return nil
	}
	c.k, c.v = nil, nil
	return c.mem.free()
}

// head is the index in k and v of the first element of one head in one block.
func (c *cache) head(layer int, block int32, kvHead int) int {
	s := &c.shape
	return ((layer*c.blocks+int(block))*s.KVHeads + kvHead) * s.BlockSize * s.HeadDim
}
