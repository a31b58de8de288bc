package fakedriver

import (
	"fmt"
	"unsafe"

	"kigo/engine/device/cuda/driver"
)

// Kernel is a kernel written in Go. Run does the work of the whole grid; an
// error that is or wraps a driver.Code fails the stream with that code, any
// other with CUDA_ERROR_LAUNCH_FAILED (719). Run must not call the Driver.
type Kernel struct {
	Name       string
	ParamBytes int // size of the one struct of parameters
	Attributes driver.Attributes
	Run        func(l driver.Launch, params unsafe.Pointer, mem Memory) error
}

// Typed makes a kernel whose parameters are a P, a struct without Go pointers.
func Typed[P any](name string, run func(l driver.Launch, p *P, mem Memory) error) Kernel {
	var p P
	return Kernel{Name: name, ParamBytes: int(unsafe.Sizeof(p)), Run: func(l driver.Launch, params unsafe.Pointer, mem Memory) error {
		return run(l, (*P)(params), mem)
	}}
}

type function struct {
	*Kernel
	module driver.Module
	shared uint32 // limit of dynamic shared memory
}

// Register adds kernels. Every module has all that are registered when Function
// asks for them.
func (f *Driver) Register(kernels ...Kernel) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, k := range kernels {
		if k.Attributes == (driver.Attributes{}) {
			p := &f.cfg.Properties
			k.Attributes = driver.Attributes{Registers: 32, MaxThreads: p.MaxThreadsPerBlock, BinaryVersion: 10*p.Major + p.Minor, PTXVersion: 80}
		}
		f.kernels[k.Name] = &k
	}
}

// LoadModule takes any image that is not empty.
func (f *Driver) LoadModule(image []byte) (driver.Module, error) {
	if err := f.enter("LoadModule", allowed); err != nil {
		return 0, err
	}
	defer f.mu.Unlock()
	if len(image) == 0 {
		return 0, f.misused("LoadModule", driver.CodeInvalidImage, "empty image")
	}
	h := driver.Module(f.id())
	f.modules[h] = struct{}{}
	return h, nil
}

func (f *Driver) UnloadModule(m driver.Module) error {
	if err := f.enter("UnloadModule", allowed); err != nil {
		return err
	}
	defer f.mu.Unlock()
	if _, ok := f.modules[m]; !ok {
		return f.misused("UnloadModule", driver.CodeInvalidHandle, "module %#x", uintptr(m))
	}
	delete(f.modules, m)
	for h, fn := range f.funcs {
		if fn.module == m {
			delete(f.funcs, h)
		}
	}
	return nil
}

func (f *Driver) Function(m driver.Module, name string) (driver.Function, error) {
	if err := f.enter("Function", allowed); err != nil {
		return 0, err
	}
	defer f.mu.Unlock()
	if _, ok := f.modules[m]; !ok {
		return 0, f.misused("Function", driver.CodeInvalidHandle, "module %#x", uintptr(m))
	}
	k := f.kernels[name]
	if k == nil {
		return 0, f.fail("Function", driver.CodeNotFound, "%q", name)
	}
	for h, fn := range f.funcs {
		if fn.module == m && fn.Kernel == k {
			return h, nil
		}
	}
	h := driver.Function(f.id())
	f.funcs[h] = &function{Kernel: k, module: m, shared: uint32(f.cfg.Properties.SharedPerBlock)}
	return h, nil
}

// function finds one by its handle.
func (f *Driver) function(call string, h driver.Function) (*function, error) {
	if fn := f.funcs[h]; fn != nil {
		return fn, nil
	}
	return nil, f.misused(call, driver.CodeInvalidHandle, "function %#x", uintptr(h))
}

func (f *Driver) SetSharedLimit(h driver.Function, n int) error {
	if err := f.enter("SetSharedLimit", context); err != nil {
		return err
	}
	defer f.mu.Unlock()
	fn, err := f.function("SetSharedLimit", h)
	if err != nil {
		return err
	}
	if n < 0 || n > f.cfg.Properties.SharedPerBlockOptin-fn.Attributes.SharedBytes {
		return f.fail("SetSharedLimit", driver.CodeInvalidValue, "%d bytes of shared memory", n)
	}
	fn.shared = uint32(n)
	return nil
}

func (f *Driver) Attributes(h driver.Function) (driver.Attributes, error) {
	if err := f.enter("Attributes", context); err != nil {
		return driver.Attributes{}, err
	}
	defer f.mu.Unlock()
	fn, err := f.function("Attributes", h)
	if err != nil {
		return driver.Attributes{}, err
	}
	return fn.Attributes, nil
}

func (f *Driver) ParamSize(h driver.Function, index int) (offset, size int, err error) {
	if err := f.enter("ParamSize", context); err != nil {
		return 0, 0, err
	}
	defer f.mu.Unlock()
	fn, err := f.function("ParamSize", h)
	if err != nil {
		return 0, 0, err
	}
	if f.cfg.Version < 12040 {
		return 0, 0, f.fail("ParamSize", driver.CodeNotSupported, "the driver is older than CUDA 12.4")
	}
	if index != 0 {
		return 0, 0, f.fail("ParamSize", driver.CodeInvalidValue, "parameter %d", index)
	}
	return 0, fn.ParamBytes, nil
}

func (f *Driver) Occupancy(h driver.Function, threads, shared int) (int, error) {
	if err := f.enter("Occupancy", context); err != nil {
		return 0, err
	}
	defer f.mu.Unlock()
	fn, err := f.function("Occupancy", h)
	if err != nil {
		return 0, err
	}
	p := &f.cfg.Properties
	if threads <= 0 || threads > p.MaxThreadsPerBlock || shared < 0 {
		return 0, f.fail("Occupancy", driver.CodeInvalidValue, "%d threads, %d bytes of shared memory", threads, shared)
	}
	warps := (threads + p.WarpSize - 1) / p.WarpSize
	return min(p.MaxBlocksPerSM, p.MaxThreadsPerSM/(warps*p.WarpSize),
		p.SharedPerSM/(shared+fn.Attributes.SharedBytes+p.SharedReserved),
		p.RegistersPerSM/max(1, warps*p.WarpSize*fn.Attributes.Registers)), nil
}

// ActiveClusters is what there would be if all multiprocessors were alike.
func (f *Driver) ActiveClusters(h driver.Function, l *driver.Launch) (int, error) {
	if err := f.enter("ActiveClusters", context); err != nil {
		return 0, err
	}
	defer f.mu.Unlock()
	if _, err := f.function("ActiveClusters", h); err != nil {
		return 0, err
	}
	if l.Cluster == 0 || !f.cfg.Properties.Clusters {
		return 0, f.fail("ActiveClusters", driver.CodeInvalidValue, "clusters of %d", l.Cluster)
	}
	return f.cfg.Properties.SMs / int(l.Cluster), nil
}

func (f *Driver) Launch(h driver.Function, l *driver.Launch, params unsafe.Pointer) error {
	if err := f.enter("Launch", context); err != nil {
		return err
	}
	defer f.mu.Unlock()
	fn, err := f.function("Launch", h)
	if err != nil {
		return err
	}
	f.calls[len(f.calls)-1] = "Launch " + fn.Name
	q, err := f.stream("Launch", l.Stream)
	if err != nil {
		return err
	}
	if err := f.launchable(fn, l, params); err != nil {
		return f.misused("Launch", driver.CodeInvalidValue, "%s: %v", fn.Name, err)
	}
	frozen := make([]uint64, (fn.ParamBytes+7)/8+1) // aligned for any struct
	p := unsafe.Pointer(unsafe.SliceData(frozen))
	copy(unsafe.Slice((*byte)(p), fn.ParamBytes), unsafe.Slice((*byte)(params), fn.ParamBytes))
	launch := *l
	return f.put("Launch", q, "Launch "+fn.Name, func() error { return fn.Run(launch, p, Memory{f}) })
}

// launchable says why CUDA would refuse a launch.
func (f *Driver) launchable(fn *function, l *driver.Launch, params unsafe.Pointer) error {
	p := &f.cfg.Properties
	if params == nil {
		return fmt.Errorf("no parameters")
	}
	for _, n := range append(l.Grid[:], l.Block[:]...) {
		if n == 0 {
			return fmt.Errorf("grid %v, block %v", l.Grid, l.Block)
		}
	}
	if l.Grid[0] > 1<<31-1 || l.Grid[1] > 65535 || l.Grid[2] > 65535 {
		return fmt.Errorf("grid %v", l.Grid)
	}
	if threads := uint64(l.Block[0]) * uint64(l.Block[1]) * uint64(l.Block[2]); threads > uint64(min(p.MaxThreadsPerBlock, fn.Attributes.MaxThreads)) || l.Block[2] > 64 {
		return fmt.Errorf("block %v", l.Block)
	}
	if l.Shared > fn.shared {
		return fmt.Errorf("%d bytes of shared memory, the limit is %d", l.Shared, fn.shared)
	}
	if (l.Dependent || l.Cluster > 0) && p.Major < 9 {
		return fmt.Errorf("clusters and dependent launches begin with compute capability 9.0")
	}
	if l.Cluster > 8 || l.Cluster > 0 && l.Grid[0]%l.Cluster != 0 {
		return fmt.Errorf("cluster of %d in a grid of %v", l.Cluster, l.Grid)
	}
	return nil
}
