package cuda

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"math/bits"
	"sync/atomic"

	"kigo/engine/device"
	"kigo/engine/device/cuda/driver"
	"kigo/kernels"
)

// cache holds keys and values as float16 in address space that is reserved for all
// blocks, so that it stays where it is while memory comes and goes: recorded steps
// know its addresses. Memory is mapped behind it in chunks, each of so many blocks of
// all layers:
//
//	[chunk][layer][keys, values][block in chunk][kv head][token in block][head dim]
//
// Block b has place b+1. Place 0 is nobody's: what fills up a recorded step writes
// there, so the first chunk is always there.
//
// The kernels know of no chunks: to them a block is a number of parts, in which the
// keys of one block in one layer are counted from the beginning of the layer's keys in
// the first chunk. It is what block tables on the device hold; see part.
type cache struct {
	dev    *Device
	shape  device.CacheShape
	blocks int

	base   driver.Ptr
	bytes  uint64 // of the address space
	chunk  uint64 // bytes of a chunk
	places int    // of a chunk
	shift  uint   // a place's chunk is place >> shift
	stride int32  // parts of a chunk
	chunks []bool // that are mapped
	mapped []bool // blocks in them
	taken  int    // how many chunks are mapped

	whole  buffer // where the driver cannot map memory: that of all blocks
	closed atomic.Bool
}

const (
	cacheElement = 2 // bytes

	// chunkBytes is what a chunk has at least, unless all blocks are less: taking one
	// costs less than a step does.
	chunkBytes = 64 << 20

	// leftFree is what a chunk, but for the first, leaves to whatever else wants
	// memory in the middle of service: recorded steps, longer block tables, kernels'
	// stacks. A cache that cannot grow has somebody wait; for the others a step would
	// fail.
	leftFree = 128 << 20
)

// partBytes is what the keys, or the values, of one block in one layer take.
func partBytes(s device.CacheShape) uint64 {
	return cacheElement * uint64(s.KVHeads) * uint64(s.HeadDim) * uint64(s.BlockSize)
}

// CacheBlockBytes counts keys and values of all layers.
func (d *Device) CacheBlockBytes(s device.CacheShape) uint64 {
	return 2 * uint64(s.Layers) * partBytes(s)
}

// NewCache reserves address space and maps the first chunk.
func (d *Device) NewCache(shape device.CacheShape, blocks int) (_ device.Cache, err error) {
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
	c := &cache{dev: d, shape: shape, blocks: blocks, mapped: make([]bool, blocks)}
	if !d.props.VirtualMemory {
		if err := c.takeWhole(size); err != nil {
			return nil, err
		}
		return c, nil
	}
	granule, err := d.drv.Granularity(d.cfg.Ordinal)
	if err != nil {
		return nil, d.wrap(err, "KV cache")
	}
	all := c.layOut(granule)
	if parts := uint64(all) * uint64(c.stride); parts > math.MaxInt32 {
		return nil, fmt.Errorf("KV cache of %d blocks: %w: %d parts of %d bytes", blocks, device.ErrNotSupported, parts, partBytes(shape))
	}
	c.bytes = uint64(all) * c.chunk
	if c.base, err = d.drv.Reserve(c.bytes); err != nil {
		return nil, d.wrap(err, "KV cache of %d blocks: %d bytes of address space", blocks, c.bytes)
	}
	c.chunks = make([]bool, all)
	if err := c.take(0); err != nil {
		return nil, errors.Join(err, c.giveBack())
	}
	return c, nil
}

// layOut decides on the chunks, and says how many there can be. A chunk has a power
// of two of blocks, so that a block's place is found without dividing, and is a whole
// number of granules, a power of two as well.
func (c *cache) layOut(granule uint64) (chunks int) {
	block, all := c.dev.CacheBlockBytes(c.shape), c.blocks+1
	least := uint64(cmp.Or(c.dev.cfg.chunkBytes, chunkBytes))
	c.places, c.chunk = 1, block
	for c.chunk%granule != 0 || c.chunk < least && c.places < all {
		c.places, c.chunk, c.shift = 2*c.places, 2*c.chunk, c.shift+1
	}
	c.stride = int32(min(uint64(c.places)*2*uint64(c.shape.Layers), math.MaxInt32))
	return ceilDiv(all, c.places)
}

// takeWhole takes the memory of all blocks at once.
func (c *cache) takeWhole(size uint64) (err error) {
	c.places, c.chunk, c.bytes, c.chunks = c.blocks+1, size, size, make([]bool, 1)
	c.shift = 31 // beyond any block's number
	if c.whole, err = c.dev.allocate(size, fmt.Sprintf("KV cache of %d blocks", c.blocks)); err != nil {
		return err
	}
	c.base = c.whole.ptr
	c.set(0, true)
	return nil
}

func (c *cache) Shape() device.CacheShape { return c.shape }
func (c *cache) Blocks() int              { return c.blocks }
func (c *cache) Bytes() uint64            { return uint64(c.taken) * c.chunk }
func (c *cache) Reserved() uint64         { return c.bytes }

func (c *cache) Mapped(block int) bool { return block >= 0 && block < c.blocks && c.mapped[block] }

func (c *cache) Chunk(block int) (from, to int) { return c.blocksOf((block + 1) / c.places) }

// blocksOf is the blocks of a chunk.
func (c *cache) blocksOf(chunk int) (from, to int) {
	return max(0, chunk*c.places-1), min((chunk+1)*c.places-1, c.blocks)
}

// set notes whether a chunk is mapped.
func (c *cache) set(chunk int, mapped bool) {
	c.chunks[chunk] = mapped
	from, to := c.blocksOf(chunk)
	for b := from; b < to; b++ {
		c.mapped[b] = mapped
	}
	if mapped {
		c.taken++
	} else {
		c.taken--
	}
}

// find is the chunk of a block.
func (c *cache) find(block int) (chunk int, err error) {
	if c.closed.Load() {
		return 0, fmt.Errorf("KV cache: %w", device.ErrClosed)
	}
	if block < 0 || block >= c.blocks {
		return 0, fmt.Errorf("KV cache: block %d of %d", block, c.blocks)
	}
	return (block + 1) / c.places, nil
}

func (c *cache) Map(block int) error {
	chunk, err := c.find(block)
	if err != nil || c.chunks[chunk] {
		return err
	}
	unbind, err := c.dev.bind()
	if err != nil {
		return err
	}
	defer unbind()
	return c.take(chunk)
}

// take maps a chunk, or leaves nothing behind. The context must be bound.
func (c *cache) take(chunk int) (err error) {
	d := c.dev
	defer func() {
		d.measure()
		err = d.wrap(err, "KV cache: %d bytes of device memory after %d, %d are free", c.chunk, c.Bytes(), d.free.Load())
	}()
	if d.measure(); c.taken > 0 && d.free.Load() < c.chunk+leftFree {
		return device.ErrOutOfMemory
	}
	memory, err := d.drv.Create(d.cfg.Ordinal, c.chunk)
	if err != nil {
		return err
	}
	at := c.at(chunk)
	if err := d.drv.Map(at, memory, c.chunk); err != nil {
		return errors.Join(err, d.drv.ReleaseChunk(memory))
	}
	// From here on the memory is the mapping's, and goes with it.
	err = d.drv.ReleaseChunk(memory)
	if err == nil {
		err = d.drv.SetAccess(d.cfg.Ordinal, at, c.chunk)
	}
	if err == nil && d.cfg.Checks {
		err = d.poison(buffer{at, c.chunk})
	}
	if err != nil {
		return errors.Join(err, d.drv.Unmap(at, c.chunk))
	}
	c.set(chunk, true)
	return nil
}

func (c *cache) at(chunk int) driver.Ptr { return c.base + driver.Ptr(uint64(chunk)*c.chunk) }

// Unmap keeps the first chunk.
func (c *cache) Unmap(block int) error {
	chunk, err := c.find(block)
	if err != nil || chunk == 0 || !c.chunks[chunk] {
		return err
	}
	unbind, err := c.dev.bind()
	if err != nil {
		return err
	}
	defer unbind()
	return c.unmap(chunk, chunk+1)
}

// unmap gives back what is mapped of some chunks. It waits for a step that is under
// way, which CUDA does not. The context must be bound.
func (c *cache) unmap(from, to int) (err error) {
	d := c.dev
	err = d.drv.SyncStream(d.stream)
	for chunk := from; chunk < to && err == nil; chunk++ {
		if !c.chunks[chunk] {
			continue
		}
		if err = d.drv.Unmap(c.at(chunk), c.chunk); err == nil {
			c.set(chunk, false)
		}
	}
	d.measure()
	return d.wrap(err, "KV cache: give device memory back")
}

// giveBack gives everything back that there is. The context must be bound.
func (c *cache) giveBack() error {
	if c.whole.ptr != 0 {
		return c.dev.release(&c.whole)
	}
	if err := c.unmap(0, len(c.chunks)); err != nil {
		return err
	}
	return c.dev.wrap(c.dev.drv.FreeReservation(c.base, c.bytes), "KV cache: give address space back")
}

// Close can be called again if it fails.
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
	if err = c.giveBack(); err != nil {
		c.closed.Store(false)
	}
	return err
}

// layer is a layer's part of the first chunk, for the kernels.
func (c *cache) layer(n int) kernels.CacheLayer {
	s := c.shape
	side := uint64(c.places) * partBytes(s) // keys or values
	keys := uint64(c.base) + 2*side*uint64(n)
	return kernels.CacheLayer{
		Keys: keys, Values: keys + side,
		KvHeads: uint32(s.KVHeads), HeadDim: uint32(s.HeadDim), BlockSize: uint32(s.BlockSize),
	}
}

// nobody is the part of the block that is nobody's.
const nobody int32 = 0

// part is a block's number for the kernels.
func (c *cache) part(block int32) int32 {
	place := block + 1
	return place>>c.shift*c.stride + place&(1<<c.shift-1)
}
