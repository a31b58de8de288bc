//go:build linux && (amd64 || arm64) && !nocuda

package driver

import (
	"bytes"
	"errors"
	"fmt"
	"unsafe"
)

func (d *libcuda) driverVersion() (int, Code) {
	var v int32
	code := d.raw(cuDriverGetVersion, uintptr(unsafe.Pointer(&v)))
	return int(v), code
}

func (d *libcuda) Devices() (int, error) {
	var n int32
	if e := d.do(cuDeviceGetCount, uintptr(unsafe.Pointer(&n))); e != nil {
		return 0, e
	}
	return int(n), nil
}

// device is the CUdevice with the ordinal, a 32-bit number.
func (d *libcuda) device(ordinal int) (uintptr, error) {
	var dev int32
	if e := d.do(cuDeviceGet, uintptr(unsafe.Pointer(&dev)), uintptr(ordinal)); e != nil {
		return 0, detail(e, "device %d", ordinal)
	}
	return uintptr(dev), nil
}

func (d *libcuda) Properties(ordinal int) (Properties, error) {
	var p Properties
	dev, err := d.device(ordinal)
	if err != nil {
		return p, err
	}
	var name [256]byte
	if e := d.do(cuDeviceGetName, uintptr(unsafe.Pointer(&name)), uintptr(len(name)), dev); e != nil {
		return p, e
	}
	p.Name = cString(name[:])
	var bus [32]byte
	if e := d.do(cuDeviceGetPCIBusId, uintptr(unsafe.Pointer(&bus)), uintptr(len(bus)), dev); e != nil {
		return p, e
	}
	p.PCIBusID = cString(bus[:])
	var uuid [16]byte
	if e := d.do(cuDeviceGetUuid, uintptr(unsafe.Pointer(&uuid)), dev); e != nil {
		return p, e
	}
	p.UUID = fmt.Sprintf("GPU-%x-%x-%x-%x-%x", uuid[:4], uuid[4:6], uuid[6:8], uuid[8:10], uuid[10:])
	if e := d.do(cuDeviceTotalMem, uintptr(unsafe.Pointer(&p.TotalMem)), dev); e != nil {
		return p, e
	}
	for _, a := range []struct {
		id       uintptr
		to       *int
		optional bool // figures that a virtual device may not give
	}{
		{id: devCapabilityMajor, to: &p.Major},
		{id: devCapabilityMinor, to: &p.Minor},
		{id: devMultiprocessors, to: &p.SMs},
		{id: devL2Bytes, to: &p.L2Bytes},
		{id: devWarpSize, to: &p.WarpSize},
		{id: devMaxThreadsPerBlock, to: &p.MaxThreadsPerBlock},
		{id: devMaxThreadsPerSM, to: &p.MaxThreadsPerSM},
		{id: devMaxBlocksPerSM, to: &p.MaxBlocksPerSM},
		{id: devRegistersPerSM, to: &p.RegistersPerSM},
		{id: devSharedPerBlock, to: &p.SharedPerBlock},
		{id: devSharedPerBlockOptin, to: &p.SharedPerBlockOptin},
		{id: devSharedPerSM, to: &p.SharedPerSM},
		{id: devSharedReserved, to: &p.SharedReserved},
		{id: devClockRate, to: &p.ClockKHz, optional: true},
		{id: devMemoryClockRate, to: &p.MemoryClockKHz, optional: true},
		{id: devMemoryBusWidth, to: &p.BusWidth, optional: true},
	} {
		v, err := d.attribute(a.id, dev)
		if err != nil && !(a.optional && (errors.Is(err, ErrNotSupported) || errors.Is(err, CodeInvalidValue))) {
			return p, err
		}
		*a.to = v
	}
	for _, a := range []struct {
		id uintptr
		to *bool
	}{
		{devECC, &p.ECC},
		{devIntegrated, &p.OnHostMem},
		{devVirtualMemory, &p.VirtualMemory},
		{devClusterLaunch, &p.Clusters},
	} {
		v, err := d.attribute(a.id, dev)
		if err != nil {
			return p, err
		}
		*a.to = v != 0
	}
	return p, nil
}

func (d *libcuda) attribute(id, dev uintptr) (int, error) {
	var v int32
	if e := d.do(cuDeviceGetAttribute, uintptr(unsafe.Pointer(&v)), id, dev); e != nil {
		return 0, detail(e, "attribute %d", id)
	}
	return int(v), nil
}

// cString is the text up to the first NUL.
func cString(b []byte) string {
	if i := bytes.IndexByte(b, 0); i >= 0 {
		b = b[:i]
	}
	return string(b)
}

func (d *libcuda) RetainContext(ordinal int) (Context, error) {
	dev, err := d.device(ordinal)
	if err != nil {
		return 0, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	var c Context
	if e := d.do(cuDevicePrimaryCtxRetain, uintptr(unsafe.Pointer(&c)), dev); e != nil {
		return 0, detail(e, "device %d", ordinal)
	}
	d.retained[ordinal]++
	return c, nil
}

func (d *libcuda) ReleaseContext(ordinal int) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.retained[ordinal] == 0 {
		return d.refuse(cuDevicePrimaryCtxRelease, CodeInvalidContext, fmt.Sprintf("device %d is not retained", ordinal))
	}
	d.retained[ordinal]--
	return d.release(ordinal)
}

func (d *libcuda) release(ordinal int) error {
	dev, err := d.device(ordinal)
	if err != nil {
		return err
	}
	if e := d.do(cuDevicePrimaryCtxRelease, dev); e != nil {
		return detail(e, "device %d", ordinal)
	}
	return nil
}

func (d *libcuda) SetCurrent(c Context) error {
	return plain(d.do(cuCtxSetCurrent, uintptr(c)))
}
