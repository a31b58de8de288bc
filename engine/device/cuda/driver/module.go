//go:build linux && (amd64 || arm64) && !nocuda

package driver

import (
	"fmt"
	"runtime"
	"strings"
	"unsafe"
)

func (d *libcuda) LoadModule(image []byte) (Module, error) {
	if len(image) == 0 {
		return 0, d.refuse(cuModuleLoadDataEx, CodeInvalidImage, "empty image")
	}
	text := make([]byte, len(image)+1) // PTX ends with a NUL
	copy(text, image)
	// The values of options are pointers or numbers, so C's void* cannot be a
	// Go pointer here: the log is pinned, and its address is a number.
	log := make([]byte, 8<<10)
	var pin runtime.Pinner
	pin.Pin(&log[0])
	defer pin.Unpin()
	options := [...]uint32{jitErrorLogBuffer, jitErrorLogBufferBytes}
	values := [...]uintptr{uintptr(unsafe.Pointer(&log[0])), uintptr(len(log))}
	var m Module
	if e := d.do(cuModuleLoadDataEx, uintptr(unsafe.Pointer(&m)), uintptr(unsafe.Pointer(&text[0])),
		uintptr(len(options)), uintptr(unsafe.Pointer(&options)), uintptr(unsafe.Pointer(&values))); e != nil {
		said := strings.TrimSpace(cString(log))
		if said == "" {
			return 0, detail(e, "%d bytes", len(image))
		}
		return 0, detail(e, "%d bytes: %s", len(image), said)
	}
	return m, nil
}

func (d *libcuda) UnloadModule(m Module) error { return d.with(cuModuleUnload, uintptr(m)) }

func (d *libcuda) Function(m Module, name string) (Function, error) {
	if m == 0 {
		return 0, d.refuse(cuModuleGetFunction, CodeInvalidHandle, nullHandle)
	}
	if strings.IndexByte(name, 0) >= 0 {
		return 0, d.refuse(cuModuleGetFunction, CodeNotFound, fmt.Sprintf("%q", name))
	}
	text := append([]byte(name), 0)
	var f Function
	if e := d.do(cuModuleGetFunction, uintptr(unsafe.Pointer(&f)), uintptr(m), uintptr(unsafe.Pointer(&text[0]))); e != nil {
		return 0, detail(e, "%q", name)
	}
	// CUDA loads code at its first use unless told otherwise, which a capture
	// does not allow.
	if d.fn[cuFuncLoad] != 0 {
		if e := d.do(cuFuncLoad, uintptr(f)); e != nil {
			return 0, detail(e, "%q", name)
		}
	} else if _, e := d.funcAttribute(f, funcNumRegs); e != nil {
		return 0, detail(e, "%q", name)
	}
	return f, nil
}

func (d *libcuda) SetSharedLimit(f Function, bytes int) error {
	if f == 0 {
		return d.refuse(cuFuncSetAttribute, CodeInvalidHandle, nullHandle)
	}
	if e := d.do(cuFuncSetAttribute, uintptr(f), funcMaxDynamicShared, uintptr(bytes)); e != nil {
		return detail(e, "%d bytes of shared memory", bytes)
	}
	return nil
}

func (d *libcuda) Attributes(f Function) (Attributes, error) {
	var a Attributes
	if f == 0 {
		return a, d.refuse(cuFuncGetAttribute, CodeInvalidHandle, nullHandle)
	}
	for _, x := range []struct {
		id uintptr
		to *int
	}{
		{funcNumRegs, &a.Registers},
		{funcLocalSizeBytes, &a.LocalBytes},
		{funcSharedSizeBytes, &a.SharedBytes},
		{funcMaxThreadsPerBlock, &a.MaxThreads},
		{funcBinaryVersion, &a.BinaryVersion},
		{funcPTXVersion, &a.PTXVersion},
	} {
		v, e := d.funcAttribute(f, x.id)
		if e != nil {
			return a, detail(e, "attribute %d", x.id)
		}
		*x.to = v
	}
	return a, nil
}

func (d *libcuda) funcAttribute(f Function, id uintptr) (int, *Error) {
	var v int32
	e := d.do(cuFuncGetAttribute, uintptr(unsafe.Pointer(&v)), id, uintptr(f))
	return int(v), e
}

func (d *libcuda) ParamSize(f Function, index int) (offset, size int, err error) {
	if f == 0 {
		return 0, 0, d.refuse(cuFuncGetParamInfo, CodeInvalidHandle, nullHandle)
	}
	if d.fn[cuFuncGetParamInfo] == 0 {
		return 0, 0, d.refuse(cuFuncGetParamInfo, CodeNotSupported, "the driver is older than CUDA 12.4")
	}
	var v [2]uint64
	if e := d.do(cuFuncGetParamInfo, uintptr(f), uintptr(index), uintptr(unsafe.Pointer(&v[0])), uintptr(unsafe.Pointer(&v[1]))); e != nil {
		return 0, 0, detail(e, "parameter %d", index)
	}
	return int(v[0]), int(v[1]), nil
}

func (d *libcuda) Occupancy(f Function, threads, shared int) (int, error) {
	if f == 0 {
		return 0, d.refuse(cuOccupancyMaxActiveBlocksPerMultiprocessor, CodeInvalidHandle, nullHandle)
	}
	var n int32
	if e := d.do(cuOccupancyMaxActiveBlocksPerMultiprocessor, uintptr(unsafe.Pointer(&n)), uintptr(f), uintptr(threads), uintptr(shared)); e != nil {
		return 0, detail(e, "%d threads, %d bytes of shared memory", threads, shared)
	}
	return int(n), nil
}

// launchArgs is what a launch passes by address. It is reused, so that a launch
// makes no garbage.
type launchArgs struct {
	config launchConfig
	attrs  [2]launchAttribute
	params [1]unsafe.Pointer
}

// set makes the attributes and the configuration of a launch.
func (a *launchArgs) set(l *Launch) {
	n := 0
	if l.Dependent {
		a.attrs[n] = launchAttribute{id: launchProgrammatic, value: [16]uint32{1}}
		n++
	}
	if l.Cluster != 0 {
		a.attrs[n] = launchAttribute{id: launchClusterDimension, value: [16]uint32{l.Cluster, 1, 1}}
		n++
	}
	a.config = launchConfig{grid: l.Grid, block: l.Block, shared: l.Shared, stream: uintptr(l.Stream), numAttrs: uint32(n)}
	if n > 0 {
		a.config.attrs = unsafe.Pointer(&a.attrs)
	}
}

func (d *libcuda) ActiveClusters(f Function, l *Launch) (int, error) {
	if f == 0 {
		return 0, d.refuse(cuOccupancyMaxActiveClusters, CodeInvalidHandle, nullHandle)
	}
	a := d.launches.Get().(*launchArgs)
	defer d.launches.Put(a)
	a.set(l)
	var n int32
	if e := d.do(cuOccupancyMaxActiveClusters, uintptr(unsafe.Pointer(&n)), uintptr(f), uintptr(unsafe.Pointer(&a.config))); e != nil {
		return 0, detail(e, "clusters of %d, block %v, %d bytes of shared memory", l.Cluster, l.Block, l.Shared)
	}
	return int(n), nil
}

func (d *libcuda) Launch(f Function, l *Launch, params unsafe.Pointer) error {
	if f == 0 || l.Stream == 0 {
		return d.refuse(cuLaunchKernelEx, CodeInvalidHandle, nullHandle)
	}
	if params == nil { // CUDA would read it
		return d.refuse(cuLaunchKernelEx, CodeInvalidValue, "no parameters")
	}
	a := d.launches.Get().(*launchArgs)
	a.set(l)
	a.params[0] = params
	e := d.step(cuLaunchKernelEx, uintptr(unsafe.Pointer(&a.config)), uintptr(f), uintptr(unsafe.Pointer(&a.params)), 0)
	a.params[0] = nil
	d.launches.Put(a)
	if e != nil {
		return detail(e, "grid %v, block %v, %d bytes of shared memory, cluster %d", l.Grid, l.Block, l.Shared, l.Cluster)
	}
	return nil
}
