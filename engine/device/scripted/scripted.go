// Package scripted is a device for tests of what goes wrong on devices. All
// work is done by another device, a real one; before each call a script may
// come in between, to fail the call, to delay it or to never let it return.
package scripted

import (
	"maps"
	"sync"

	"kigo/engine/device"
)

// Device is device.Device, on another one.
type Device struct {
	on     device.Device
	script func(call string, n int) error

	mu    sync.Mutex
	calls map[string]int
}

// New puts a script before on. It is asked before each call that reaches the
// device, from the goroutine that makes it, with the call's name and how many
// of that name there were before; an error takes the call's place. The names
// are those of the methods: "NewWeights", "NewUploader", "Buffer", "Commit",
// "Hash", "NewCache", "Map", "Unmap", "Compile", "Run", "Largest", "Draw", "Fetch", "Close", and
// "Info", which ignores errors. Begin is a "Run", too: a script that is about steps
// is about all of them.
func New(on device.Device, script func(call string, n int) error) *Device {
	return &Device{on: on, script: script, calls: map[string]int{}}
}

// Calls is how many calls there were by name.
func (d *Device) Calls() map[string]int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return maps.Clone(d.calls)
}

func (d *Device) before(call string) error {
	d.mu.Lock()
	n := d.calls[call]
	d.calls[call]++
	d.mu.Unlock()
	return d.script(call, n)
}

// Info is device.Device's, as are all that follow.
func (d *Device) Info() device.Info {
	_ = d.before("Info")
	return d.on.Info()
}

// CacheBlockBytes needs no device.
func (d *Device) CacheBlockBytes(shape device.CacheShape) uint64 { return d.on.CacheBlockBytes(shape) }

// NewWeights and what follows ask the script.
func (d *Device) NewWeights(tensors []device.Tensor) (device.Weights, error) {
	if err := d.before("NewWeights"); err != nil {
		return nil, err
	}
	w, err := d.on.NewWeights(tensors)
	if err != nil {
		return nil, err
	}
	return &weights{w, d}, nil
}

// NewCache is device.Device's.
func (d *Device) NewCache(shape device.CacheShape, blocks int) (device.Cache, error) {
	if err := d.before("NewCache"); err != nil {
		return nil, err
	}
	c, err := d.on.NewCache(shape, blocks)
	if err != nil {
		return nil, err
	}
	return &cache{c, d}, nil
}

// Compile is device.Device's.
func (d *Device) Compile(p *device.Program, w device.Weights, c device.Cache, opt device.CompileOptions) (device.Executable, error) {
	if err := d.before("Compile"); err != nil {
		return nil, err
	}
	if own, ok := w.(*weights); ok {
		w = own.Weights
	}
	if own, ok := c.(*cache); ok {
		c = own.Cache
	}
	x, err := d.on.Compile(p, w, c, opt)
	if err != nil {
		return nil, err
	}
	own := &executable{x, d}
	if c, ok := x.(device.Chooser); ok {
		return &chooser{own, c}, nil
	}
	return own, nil
}

// Close is device.Device's.
func (d *Device) Close() error {
	if err := d.before("Close"); err != nil {
		return err
	}
	return d.on.Close()
}

type weights struct {
	device.Weights
	d *Device
}

func (w *weights) NewUploader() (device.Uploader, error) {
	if err := w.d.before("NewUploader"); err != nil {
		return nil, err
	}
	u, err := w.Weights.NewUploader()
	if err != nil {
		return nil, err
	}
	return &uploader{u, w.d}, nil
}

func (w *weights) Hash(tensor int) (uint64, error) {
	if err := w.d.before("Hash"); err != nil {
		return 0, err
	}
	return w.Weights.Hash(tensor)
}

func (w *weights) Close() error {
	if err := w.d.before("Close"); err != nil {
		return err
	}
	return w.Weights.Close()
}

type uploader struct {
	device.Uploader
	d *Device
}

func (u *uploader) Buffer(tensor, off, n int) ([]byte, error) {
	if err := u.d.before("Buffer"); err != nil {
		return nil, err
	}
	return u.Uploader.Buffer(tensor, off, n)
}

func (u *uploader) Commit() error {
	if err := u.d.before("Commit"); err != nil {
		return err
	}
	return u.Uploader.Commit()
}

type cache struct {
	device.Cache
	d *Device
}

func (c *cache) Map(block int) error {
	if err := c.d.before("Map"); err != nil {
		return err
	}
	return c.Cache.Map(block)
}

func (c *cache) Unmap(block int) error {
	if err := c.d.before("Unmap"); err != nil {
		return err
	}
	return c.Cache.Unmap(block)
}

func (c *cache) Close() error {
	if err := c.d.before("Close"); err != nil {
		return err
	}
	return c.Cache.Close()
}

type executable struct {
	device.Executable
	d *Device
}

func (x *executable) Run(step *device.Step) ([]float32, error) {
	if err := x.d.before("Run"); err != nil {
		return nil, err
	}
	return x.Executable.Run(step)
}

func (x *executable) Close() error {
	if err := x.d.before("Close"); err != nil {
		return err
	}
	return x.Executable.Close()
}

// chooser is an executable that chooses among logits.
type chooser struct {
	*executable
	on device.Chooser
}

func (x *chooser) Begin(step *device.Step) error {
	if err := x.d.before("Run"); err != nil {
		return err
	}
	return x.on.Begin(step)
}

func (x *chooser) Largest() ([]device.Ranked, error) {
	if err := x.d.before("Largest"); err != nil {
		_, _ = x.on.Largest() // the step is under way no more, as the interface says
		return nil, err
	}
	return x.on.Largest()
}

func (x *chooser) Drawn() []int32 { return x.on.Drawn() }

func (x *chooser) Draw(wants []device.Draw) ([]int32, error) {
	if err := x.d.before("Draw"); err != nil {
		return nil, err
	}
	return x.on.Draw(wants)
}

func (x *chooser) Fetch(rows []int) ([]float32, error) {
	if err := x.d.before("Fetch"); err != nil {
		return nil, err
	}
	return x.on.Fetch(rows)
}
