package cuda

import (
	"fmt"
	"math/bits"
	"sync/atomic"

	"kigo/engine/device"
	"kigo/kernels"
)

// cache holds keys and values as float16: for each layer all keys, then all
// values, as [block][kv head][token in block][head dim]. Behind the blocks there is
// one that is nobody's: what fills up a recorded step writes there.
type cache struct {
	dev    *Device
	shape  device.CacheShape
	blocks int // without nobody's, which has the number after the last
	mem    buffer
	closed atomic.Bool
}

const cacheElement = 2 // bytes

// CacheBlockBytes counts keys and values of all layers.
func (d *Device) CacheBlockBytes(s device.CacheShape) uint64 {
	return 2 * cacheElement * uint64(s.Layers) * uint64(s.KVHeads) * uint64(s.HeadDim) * uint64(s.BlockSize)
}

// NewCache takes the memory of all blocks.
func (d *Device) NewCache(shape device.CacheShape, blocks int) (device.Cache, error) {
	size := uint64(2 * cacheElement)
	for _, n := range []int{shape.Layers, shape.KVHeads, shape.HeadDim, shape.BlockSize, blocks + 1} {
		if n < 1 || blocks < 1 {
			return nil, fmt.Errorf("KV cache: %+v with %d blocks", shape, blocks)
		}
		hi, lo := bits.Mul64(size, uint64(n))
		if hi != 0 || lo > 1<<46 {
			return nil, fmt.Errorf("KV cache of %d blocks: %w", blocks, device.ErrOutOfMemory)
		}
		size = lo
	}
	unbind, err := d.bind()
	if err != nil {
		return nil, err
	}
	defer unbind()
	c := &cache{dev: d, shape: shape, blocks: blocks}
	if c.mem, err = d.allocate(size, fmt.Sprintf("KV cache of %d blocks", blocks)); err != nil {
		return nil, err
	}
	return c, nil
}

func (c *cache) Shape() device.CacheShape { return c.shape }
func (c *cache) Blocks() int              { return c.blocks }
func (c *cache) Bytes() uint64            { return c.mem.bytes }

func (c *cache) Close() error {
	if c.closed.Swap(true) {
		return nil
	}
	unbind, err := c.dev.bind()
	if err != nil {
		c.closed.Store(false) // nothing was freed
		return err
	}
	defer unbind()
	return c.dev.release(&c.mem)
}

// layer is a layer's part for the kernels.
func (c *cache) layer(n int) kernels.CacheLayer {
	s := c.shape
	part := uint64(c.blocks+1) * uint64(s.KVHeads) * uint64(s.HeadDim) * uint64(s.BlockSize) * cacheElement
	keys := uint64(c.mem.ptr) + 2*part*uint64(n)
	return kernels.CacheLayer{
		Keys: keys, Values: keys + part,
		KvHeads: uint32(s.KVHeads), HeadDim: uint32(s.HeadDim), BlockSize: uint32(s.BlockSize),
	}
}
