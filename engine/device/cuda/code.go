package cuda

import (
	"errors"
	"fmt"
	"slices"
	"unsafe"

	"kigo/engine/device"
	"kigo/engine/device/cuda/driver"
	"kigo/kernels"
)

// everyGPU is the target that families have which do not need a certain GPU.
const everyGPU = "compute_80"

// kernel is one function of the machine code, ready to be launched.
type kernel struct {
	name   string
	fn     driver.Function
	params int // bytes of its parameter struct
	shared int // dynamic shared memory that it may have
}

// machineCode is all kernels on a device.
type machineCode struct {
	modules []driver.Module
	kernels map[string]*kernel

	// Some of it is not for this GPU, but for every one: PTX that does without what came
	// after compute capability 8.0.
	everyGPU bool
}

// loadCode loads every family that steps need.
func loadCode(drv driver.Driver, props driver.Properties) (*machineCode, error) {
	families := slices.DeleteFunc(kernels.Families(), func(name string) bool { return name == rateFamily })
	return loadFamilies(drv, props, families)
}

// loadFamilies loads families for the device's architecture and compares each
// kernel's parameter with the struct that the host will pass.
func loadFamilies(drv driver.Driver, props driver.Properties, families []string) (_ *machineCode, err error) {
	c := &machineCode{kernels: map[string]*kernel{}}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.unload(drv))
		}
	}()
	for _, family := range families {
		image, target, err := kernels.Image(family, props.Major, props.Minor)
		if errors.Is(err, kernels.ErrUnsupported) && !slices.Contains(kernels.Targets(family), everyGPU) {
			continue // there are other kernels for this GPU
		}
		if err != nil {
			return nil, err
		}
		m, err := drv.LoadModule(image)
		if err != nil {
			return nil, fmt.Errorf("%s for %s: %w", family, target, err)
		}
		c.modules = append(c.modules, m)
		c.everyGPU = c.everyGPU || target == everyGPU
		for _, k := range kernels.Kernels(family) {
			if k.Targets != nil && !slices.Contains(k.Targets, target) {
				continue
			}
			fn, err := drv.Function(m, k.Name)
			if err != nil {
				return nil, fmt.Errorf("kernel %s: %w", k.Name, err)
			}
			_, size, err := drv.ParamSize(fn, 0)
			if err != nil && !errors.Is(err, driver.ErrNotSupported) {
				return nil, fmt.Errorf("kernel %s: %w", k.Name, err)
			}
			if err == nil && size != k.Size {
				return nil, fmt.Errorf("kernel %s takes %d bytes of parameters, the host has %d: sources and machine code differ", k.Name, size, k.Size)
			}
			c.kernels[k.Name] = &kernel{name: k.Name, fn: fn, params: k.Size}
		}
	}
	return c, nil
}

func (c *machineCode) unload(drv driver.Driver) error {
	var errs []error
	for _, m := range c.modules {
		errs = append(errs, drv.UnloadModule(m))
	}
	c.modules = nil
	return errors.Join(errs...)
}

// launch is one kernel with its grid and parameters, kept from step to step so
// that launching allocates nothing.
type launch[P any] struct {
	kernel *kernel
	how    driver.Launch
	params P
}

// kernel finds a kernel by name; the table is generated from the same sources as
// the code that asks, so a name that is missing is a bug.
func (d *Device) kernel(name string) (*kernel, error) {
	k := d.code.kernels[name]
	if k == nil {
		return nil, fmt.Errorf("there is no kernel %q", name)
	}
	return k, nil
}

// allowShared raises the limit of a kernel's dynamic shared memory.
func (d *Device) allowShared(k *kernel, bytes int) error {
	if bytes <= k.shared || bytes <= 48<<10 {
		return nil
	}
	if err := d.drv.SetSharedLimit(k.fn, bytes); err != nil {
		return d.wrap(err, "kernel %s: %d bytes of shared memory", k.name, bytes)
	}
	k.shared = bytes
	return nil
}

// start launches l on stream s. With checks it waits for the result.
func start[P any](d *Device, l *launch[P], s driver.Stream) error {
	l.how.Stream = s
	l.how.Dependent = s == d.stream && d.dependent && !d.cfg.Checks
	if err := d.drv.Launch(l.kernel.fn, &l.how, unsafe.Pointer(&l.params)); err != nil {
		return d.wrap(err, "kernel %s, grid %v, block %v, %d bytes of shared memory", l.kernel.name, l.how.Grid, l.how.Block, l.how.Shared)
	}
	if !d.cfg.Checks {
		return nil
	}
	return d.wrap(d.drv.SyncStream(s), "kernel %s, grid %v", l.kernel.name, l.how.Grid)
}

// newLaunch prepares a launch of blocks of threads in a row.
func newLaunch[P any](d *Device, name string, threads int, params P) (*launch[P], error) {
	k, err := d.kernel(name)
	if err != nil {
		return nil, err
	}
	if int(unsafe.Sizeof(params)) != k.params {
		return nil, fmt.Errorf("kernel %s takes %d bytes of parameters, not %T of %d", name, k.params, params, unsafe.Sizeof(params))
	}
	return &launch[P]{
		kernel: k,
		how:    driver.Launch{Grid: [3]uint32{1, 1, 1}, Block: [3]uint32{uint32(threads), 1, 1}},
		params: params,
	}, nil
}

// resident is how many blocks of a launch fit on the device at one time, at most n.
// Kernels that walk through their work with that many read what all of it shares
// only once.
func (d *Device) resident(l interface{ shape() (*kernel, int, int) }, n int) (int, error) {
	k, threads, shared := l.shape()
	perSM, err := d.drv.Occupancy(k.fn, threads, shared)
	if err != nil {
		return 0, d.wrap(err, "kernel %s", k.name)
	}
	if perSM == 0 {
		return 0, fmt.Errorf("%w: kernel %s with %d threads and %d bytes of shared memory does not fit on the %s", device.ErrNotSupported, k.name, threads, shared, d.props.Name)
	}
	return min(n, perSM*d.props.SMs), nil
}

func (l *launch[P]) shape() (k *kernel, threads, shared int) {
	return l.kernel, int(l.how.Block[0]), int(l.how.Shared)
}

// grid sets the number of blocks.
func (l *launch[P]) grid(x, y, z int) *launch[P] {
	l.how.Grid = [3]uint32{uint32(x), uint32(y), uint32(z)}
	return l
}

func ceilDiv(a, b int) int { return (a + b - 1) / b }
