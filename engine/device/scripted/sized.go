package scripted

import (
	"fmt"
	"sync"

	"kigo/engine/device"
)

// Sized is a device for tests of what happens when the memory runs out: another one,
// with so much memory for weights and KV blocks, of which others may take some.
type Sized struct {
	device.Device
	mu    sync.Mutex
	total uint64
	free  int64 // less than nothing while others have taken what there was not
}

// NewSized makes such a device over on, which it closes.
func NewSized(on device.Device, bytes uint64) *Sized {
	return &Sized{Device: on, total: bytes, free: int64(bytes)}
}

// Take is another process taking memory, or with a negative number giving it back.
func (d *Sized) Take(bytes int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.free -= bytes
}

// Free is the memory that nobody has.
func (d *Sized) Free() int64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.free
}

// Info is that of the device below, with the memory that there is.
func (d *Sized) Info() device.Info {
	info := d.Device.Info()
	info.MemoryTotal, info.MemoryFree = d.total, uint64(max(d.Free(), 1))
	return info
}

// NewWeights is device.Device's, as is all that follows.
func (d *Sized) NewWeights(tensors []device.Tensor) (device.Weights, error) {
	bytes := int64(0)
	for i := range tensors {
		bytes += int64(tensors[i].Bytes())
	}
	if free := d.Free(); bytes > free {
		return nil, fmt.Errorf("weights of %d bytes, %d are free: %w", bytes, free, device.ErrOutOfMemory)
	}
	w, err := d.Device.NewWeights(tensors)
	if err != nil {
		return nil, err
	}
	d.Take(bytes)
	return &sizedWeights{w, d, bytes}, nil
}

// NewCache counts what is mapped.
func (d *Sized) NewCache(shape device.CacheShape, blocks int) (device.Cache, error) {
	c, err := d.Device.NewCache(shape, blocks)
	if err != nil {
		return nil, err
	}
	return &sizedCache{Cache: c, d: d, block: int64(d.CacheBlockBytes(shape))}, nil
}

// Compile takes no memory.
func (d *Sized) Compile(p *device.Program, w device.Weights, c device.Cache, opt device.CompileOptions) (device.Executable, error) {
	if own, ok := w.(*sizedWeights); ok {
		w = own.Weights
	}
	if own, ok := c.(*sizedCache); ok {
		c = own.Cache
	}
	return d.Device.Compile(p, w, c, opt)
}

type sizedWeights struct {
	device.Weights
	d     *Sized
	bytes int64
}

func (w *sizedWeights) Close() error {
	w.d.Take(-w.bytes)
	w.bytes = 0
	return w.Weights.Close()
}

type sizedCache struct {
	device.Cache
	d      *Sized
	block  int64
	closed bool
}

func (c *sizedCache) Map(block int) error {
	if c.Mapped(block) {
		return nil
	}
	from, to := c.Chunk(block)
	bytes := int64(to-from) * c.block
	if free := c.d.Free(); bytes > free {
		return fmt.Errorf("KV cache: %d bytes, %d are free: %w", bytes, free, device.ErrOutOfMemory)
	}
	c.d.Take(bytes)
	return c.Cache.Map(block)
}

func (c *sizedCache) Unmap(block int) error {
	defer func(before uint64) { c.d.Take(int64(c.Bytes()) - int64(before)) }(c.Bytes())
	return c.Cache.Unmap(block)
}

func (c *sizedCache) Close() error {
	if !c.closed {
		c.d.Take(-int64(c.Bytes()))
	}
	c.closed = true
	return c.Cache.Close()
}
