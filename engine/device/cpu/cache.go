package cpu

import (
	"fmt"
	"math/bits"
	"sync/atomic"

	"kigo/engine/device"
)

// slots is the number of positions whose keys are multiplied together: one to
// each 32-bit lane of the widest vectors. KV blocks are a multiple of it.
const slots = 16

// cache holds keys and values as float32. What belongs to one layer, block and
// head lies together. The values of a position are a row, the keys of 16
// positions are columns, so that their scores are made side by side:
//
//	k  [layer][block][kv head][16 positions][head dim][position]
//	v  [layer][block][kv head][position][head dim]
//
// The system gives memory to pages as they are written to, so mapping is a note.
type cache struct {
	shape  device.CacheShape
	blocks int
	chunk  int // blocks of a chunk
	mapped []bool
	taken  int // blocks that are mapped
	mem    *memory
	k, v   []float32
	closed atomic.Bool
}

// chunkBytes is what is mapped at a time, if a block is not more.
const chunkBytes = 1 << 20

// CacheBlockBytes counts keys and values of all layers, as float32.
func (d *Device) CacheBlockBytes(s device.CacheShape) uint64 {
	return 2 * 4 * uint64(s.Layers) * uint64(s.KVHeads) * uint64(s.HeadDim) * uint64(s.BlockSize)
}

// NewCache reserves address space for the blocks.
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
	if shape.BlockSize%slots != 0 {
		return nil, fmt.Errorf("KV blocks of %d tokens: %w, a multiple of %d is", shape.BlockSize, device.ErrNotSupported, slots)
	}
	mem, err := allocate(int(size))
	if err != nil {
		return nil, fmt.Errorf("KV cache of %d blocks: %w", blocks, err)
	}
	all := mem.floats()
	return &cache{
		shape: shape, blocks: blocks, chunk: max(1, chunkBytes/int(d.CacheBlockBytes(shape))), mapped: make([]bool, blocks),
		mem: mem, k: all[:len(all)/2], v: all[len(all)/2:],
	}, nil
}

func (c *cache) Shape() device.CacheShape { return c.shape }
func (c *cache) Blocks() int              { return c.blocks }
func (c *cache) Reserved() uint64         { return uint64(len(c.mem.bytes)) }
func (c *cache) Bytes() uint64            { return c.Reserved() / uint64(c.blocks) * uint64(c.taken) }

func (c *cache) Mapped(block int) bool { return block >= 0 && block < c.blocks && c.mapped[block] }

func (c *cache) Chunk(block int) (from, to int) {
	from = block / c.chunk * c.chunk
	return from, min(from+c.chunk, c.blocks)
}

// set notes whether a block's chunk is mapped, and gives the blocks for which that is new.
func (c *cache) set(block int, mapped bool) (from, to int, err error) {
	if c.closed.Load() {
		return 0, 0, fmt.Errorf("KV cache: %w", device.ErrClosed)
	}
	if block < 0 || block >= c.blocks {
		return 0, 0, fmt.Errorf("KV cache: block %d of %d", block, c.blocks)
	}
	if c.mapped[block] == mapped {
		return 0, 0, nil
	}
	from, to = c.Chunk(block)
	for b := from; b < to; b++ {
		c.mapped[b] = mapped
	}
	if mapped {
		c.taken += to - from
	} else {
		c.taken -= to - from
	}
	return from, to, nil
}

// Map costs nothing until the blocks are written to.
func (c *cache) Map(block int) error {
	_, _, err := c.set(block, true)
	return err
}

// Unmap gives the system the pages back that have nothing of other blocks.
func (c *cache) Unmap(block int) error {
	from, to, err := c.set(block, false)
	if err != nil || from == to {
		return err
	}
	half := len(c.mem.bytes) / 2 // keys, then values
	for _, side := range [][]byte{c.mem.bytes[:half], c.mem.bytes[half:]} {
		for layer := range c.shape.Layers {
			if err := forget(side[4*c.head(layer, int32(from), 0) : 4*c.head(layer, int32(to), 0)]); err != nil {
				return fmt.Errorf("KV cache: give memory back: %w", err)
			}
		}
	}
	return nil
}

func (c *cache) Close() error {
	if c.closed.Swap(true) {
		return nil
	}
	c.k, c.v = nil, nil
	return c.mem.free()
}

// head is the index in k and v of what belongs to one head in one block.
func (c *cache) head(layer int, block int32, kvHead int) int {
	s := &c.shape
	return ((layer*c.blocks+int(block))*s.KVHeads + kvHead) * s.BlockSize * s.HeadDim
}

// value is the index in v of a position's value, in a sequence of those blocks.
func (c *cache) value(layer int, blocks []int32, kvHead, pos int) int {
	s := &c.shape
	return c.head(layer, blocks[pos/s.BlockSize], kvHead) + pos%s.BlockSize*s.HeadDim
}

// keys is the index in k of the keys of 16 positions, the one with pos among
// them: element d of the key at pos is at keys + d*16 + pos%16.
func (c *cache) keys(layer int, blocks []int32, kvHead, pos int) int {
	s := &c.shape
	return c.head(layer, blocks[pos/s.BlockSize], kvHead) + pos%s.BlockSize/slots*slots*s.HeadDim
}

// put stores the key and the value of a position.
func (c *cache) put(layer int, blocks []int32, kvHead, pos int, key, value []float32) {
	copy(c.v[c.value(layer, blocks, kvHead, pos):], value)
	k := c.k[c.keys(layer, blocks, kvHead, pos)+pos%slots:]
	for d, a := range key {
		k[d*slots] = a
	}
}
