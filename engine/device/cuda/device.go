// Package cuda is the device that NVIDIA GPUs are: Kigo's own kernels, run
// through the driver alone.
//
// Weights live in one allocation per model, in the order in which the kernels
// read them (layout.go). A program compiles to a list of launches on one stream
// (compile.go, ops.go); a step copies its inputs over, runs the list, and copies
// the logits back. Activations between operators are float32; what enters a product
// with 16-bit or quantized weights is rounded to float16, and keys and values are
// kept as float16; all sums are float32, in an order that depends on the
// matrix alone, so that a row's bits do not depend on its company.
package cuda

import (
	"cmp"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"

	"kigo/engine/device"
	"kigo/engine/device/cuda/driver"
	"kigo/kernels"
)

// Config chooses a GPU.
type Config struct {
	Ordinal int // among the visible devices

	// Checks waits after every launch, so that an error names the kernel that
	// made it, fills memory with NaNs before it is used and after it was, and
	// looks for NaNs in every result. It is slow.
	Checks bool

	lanes      int // for uploading; 0: maxLanes
	logitBytes int // of logits that are computed at a time; 0: logitBytes
	chunkBytes int // of a KV cache's memory that is mapped at a time; 0: chunkBytes

	unrecorded bool     // no step is captured as a graph
	wide       wideWish // the zero wish: the shape that should be done first
	major      int      // the compute capability's that the GPU is taken to have; 0: its own
}

// leastMajor is the compute capability's major number from which on the kernels
// run: they use the tensor cores and asynchronous copies of Ampere.
const leastMajor = 8

// Device implements device.Device on one GPU. Its methods bind the GPU's
// context to the calling thread for the time of the call, so they may be
// called from any goroutine where the interface allows it.
type Device struct {
	cfg    Config
	drv    driver.Driver
	ctx    driver.Context
	props  driver.Properties
	driver string // the driver's version
	code   *machineCode
	stream driver.Stream // of steps

	// A kernel may be launched before its predecessor has ended, and waits for it itself.
	dependent bool

	free atomic.Uint64 // device memory, when something was taken or given back last

	lanes  *lanes
	hashes hashArea

	mu     sync.Mutex
	closed bool
}

// New opens the driver and the GPU. The error says in a sentence why there is
// none to use: it wraps driver.ErrNoDriver, ErrNoDevice, ErrDriverTooOld or
// device.ErrNotSupported.
func New(cfg Config) (*Device, error) {
	drv, err := driver.Open()
	if err != nil {
		return nil, err
	}
	d, err := open(cfg, drv)
	if err != nil {
		return nil, errors.Join(err, drv.Close())
	}
	return d, nil
}

// open makes a device of a driver, which it owns from then on if there is no
// error.
func open(cfg Config, drv driver.Driver) (_ *Device, err error) {
	d := &Device{cfg: cfg, drv: drv, driver: driverVersion(drv.Version())}
	n, err := drv.Devices()
	if err != nil {
		return nil, d.wrap(err, "count the GPUs")
	}
	if cfg.Ordinal < 0 || cfg.Ordinal >= n {
		return nil, fmt.Errorf("%w: there is no GPU %d; there are %d, counted from 0", driver.ErrNoDevice, cfg.Ordinal, n)
	}
	if d.props, err = drv.Properties(cfg.Ordinal); err != nil {
		return nil, d.wrap(err, "describe GPU %d", cfg.Ordinal)
	}
	if cfg.major != 0 {
		d.props.Major, d.props.Minor = cfg.major, 0
	}
	if d.props.Major < leastMajor {
		return nil, fmt.Errorf("%w: the %s has compute capability %d.%d; Kigo needs %d.0, which GPUs have from the A100 and the RTX 30 series on",
			device.ErrNotSupported, d.props.Name, d.props.Major, d.props.Minor, leastMajor)
	}
	d.lanes = newLanes(cmp.Or(cfg.lanes, maxLanes)) // while the context starts
	defer func() {
		if err != nil {
			err = errors.Join(err, d.lanes.close(d))
		}
	}()
	if d.ctx, err = drv.RetainContext(cfg.Ordinal); err != nil {
		return nil, d.wrap(err, "start the context of the %s", d.props.Name)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, drv.ReleaseContext(cfg.Ordinal))
		}
	}()
	unbind, err := d.bind()
	if err != nil {
		return nil, err
	}
	defer unbind()
	if d.code, err = loadCode(drv, d.props); err != nil {
		return nil, d.wrap(err, "load the kernels")
	}
	// In code for every GPU nothing waits for the blocks of a cluster, nor for a predecessor,
	// even where the GPU could.
	d.props.Clusters = d.props.Clusters && !d.code.everyGPU
	d.dependent = d.props.Major >= 9 && !d.code.everyGPU
	if d.stream, err = drv.NewStream(); err != nil {
		return nil, errors.Join(d.wrap(err, "make a stream"), d.code.unload(drv))
	}
	d.measure()
	return d, nil
}

// bind makes the context current on this thread and keeps the goroutine on it
// until the returned function is called.
func (d *Device) bind() (unbind func(), err error) {
	runtime.LockOSThread()
	if err := d.drv.SetCurrent(d.ctx); err != nil {
		runtime.UnlockOSThread()
		return nil, d.wrap(err, "use the GPU")
	}
	return runtime.UnlockOSThread, nil
}

// wrap adds what was being done and the sentinel by which callers of the
// interface know the kind of error.
func (d *Device) wrap(err error, doing string, args ...any) error {
	if err == nil {
		return nil
	}
	what := fmt.Sprintf(doing, args...)
	switch {
	case errors.Is(err, device.ErrLost), errors.Is(err, device.ErrOutOfMemory):
		return fmt.Errorf("%s: %w", what, err)
	case errors.Is(err, driver.ErrClosed):
		return fmt.Errorf("%s: %w", what, device.ErrClosed)
	case errors.Is(err, driver.CodeNoDevice), errors.Is(err, driver.CodeDeviceUnavailable):
		return fmt.Errorf("%s: %w: %w", what, device.ErrGone, err)
	case errors.Is(err, driver.ErrFatal):
		return fmt.Errorf("%s: %w: %w", what, device.ErrLost, err)
	case errors.Is(err, driver.ErrOutOfMemory):
		return fmt.Errorf("%s: %w: %w", what, device.ErrOutOfMemory, err)
	case errors.Is(err, driver.ErrNotSupported), errors.Is(err, kernels.ErrUnsupported):
		return fmt.Errorf("%s: %w: %w", what, device.ErrNotSupported, err)
	}
	return fmt.Errorf("%s: %w", what, err)
}

// measure notes the free memory. It needs the context.
func (d *Device) measure() {
	if free, _, err := d.drv.MemInfo(); err == nil {
		d.free.Store(free)
	}
}

// Info describes the GPU; the free memory is that of the last allocation or
// release, so that nothing is asked of CUDA.
func (d *Device) Info() device.Info {
	return device.Info{
		Kind:        "cuda",
		Name:        d.props.Name,
		Driver:      d.driver,
		MemoryTotal: d.props.TotalMem,
		MemoryFree:  d.free.Load(),
		StepRows:    stepRows,
	}
}

// stepRows is how many rows keep the GPU busy without keeping others waiting.
const stepRows = 512

// Close gives the context back. Everything made by the device must be closed. A
// Close that failed before anything was given back can be called again.
func (d *Device) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil
	}
	var errs []error
	unbind, err := d.bind()
	switch {
	case err == nil:
		errs = append(errs, d.lanes.close(d), d.hashes.free(d), d.code.unload(d.drv))
		if d.stream != 0 {
			errs = append(errs, d.drv.DestroyStream(d.stream))
		}
		unbind()
	case d.drv.Failed() == nil:
		return err
	}
	d.closed = true
	if d.drv.Failed() != nil {
		errs = nil // nothing can be given back any more: the process must end
	}
	return d.wrap(errors.Join(append(errs, d.drv.Close())...), "close the GPU")
}

// buffer is device memory with one owner.
type buffer struct {
	ptr   driver.Ptr
	bytes uint64
}

// allocate takes device memory. The context must be bound.
func (d *Device) allocate(bytes uint64, what string) (buffer, error) {
	p, err := d.drv.Alloc(max(bytes, 1))
	d.measure()
	if err != nil {
		return buffer{}, d.wrap(err, "%s: %d bytes of device memory, %d are free", what, bytes, d.free.Load())
	}
	b := buffer{ptr: p, bytes: bytes}
	if d.cfg.Checks {
		if err := d.poison(b); err != nil {
			return buffer{}, errors.Join(d.wrap(err, "%s", what), d.release(&b))
		}
	}
	return b, nil
}

// release gives memory back. The context must be bound.
func (d *Device) release(b *buffer) error {
	if b.ptr == 0 {
		return nil
	}
	var err error
	if d.cfg.Checks {
		err = d.poison(*b)
	}
	err = errors.Join(err, d.drv.Free(b.ptr))
	*b = buffer{}
	d.measure()
	return d.wrap(err, "give device memory back")
}

// poison fills memory with NaNs: all bits set is one in every format of floats.
func (d *Device) poison(b buffer) error {
	if err := d.drv.Fill8(b.ptr, 0xff, b.bytes, d.stream); err != nil {
		return err
	}
	return d.drv.SyncStream(d.stream)
}
