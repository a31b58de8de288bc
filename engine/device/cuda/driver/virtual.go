//go:build linux && (amd64 || arm64) && !nocuda

package driver

import "unsafe"

// onDevice is plain memory of one device.
func onDevice(ordinal int) allocationProp {
	return allocationProp{kind: allocationPinned, location: memLocation{kind: locationDevice, id: int32(ordinal)}}
}

func (d *libcuda) Granularity(ordinal int) (uint64, error) {
	prop := onDevice(ordinal)
	var n uint64
	if e := d.do(cuMemGetAllocationGranularity, uintptr(unsafe.Pointer(&n)), uintptr(unsafe.Pointer(&prop)), granularityMinimum); e != nil {
		return 0, detail(e, "device %d", ordinal)
	}
	return n, nil
}

func (d *libcuda) Reserve(bytes uint64) (Ptr, error) {
	var p Ptr
	if e := d.do(cuMemAddressReserve, uintptr(unsafe.Pointer(&p)), uintptr(bytes), 0, 0, 0); e != nil {
		return 0, detail(e, "%d bytes", bytes)
	}
	return p, nil
}

func (d *libcuda) FreeReservation(p Ptr, bytes uint64) error {
	if e := d.do(cuMemAddressFree, uintptr(p), uintptr(bytes)); e != nil {
		return detail(e, "%d bytes at %#x", bytes, uint64(p))
	}
	return nil
}

func (d *libcuda) Create(ordinal int, bytes uint64) (Chunk, error) {
	prop := onDevice(ordinal)
	var c Chunk
	if e := d.do(cuMemCreate, uintptr(unsafe.Pointer(&c)), uintptr(bytes), uintptr(unsafe.Pointer(&prop)), 0); e != nil {
		return 0, detail(e, "%d bytes", bytes)
	}
	return c, nil
}

func (d *libcuda) ReleaseChunk(c Chunk) error { return d.with(cuMemRelease, uintptr(c)) }

func (d *libcuda) Map(p Ptr, c Chunk, bytes uint64) error {
	if c == 0 {
		return d.refuse(cuMemMap, CodeInvalidHandle, nullHandle)
	}
	if e := d.do(cuMemMap, uintptr(p), uintptr(bytes), 0, uintptr(c), 0); e != nil {
		return detail(e, "%d bytes at %#x", bytes, uint64(p))
	}
	return nil
}

func (d *libcuda) SetAccess(ordinal int, p Ptr, bytes uint64) error {
	desc := accessDesc{location: memLocation{kind: locationDevice, id: int32(ordinal)}, flags: accessReadWrite}
	if e := d.do(cuMemSetAccess, uintptr(p), uintptr(bytes), uintptr(unsafe.Pointer(&desc)), 1); e != nil {
		return detail(e, "%d bytes at %#x for device %d", bytes, uint64(p), ordinal)
	}
	return nil
}

func (d *libcuda) Unmap(p Ptr, bytes uint64) error {
	if e := d.do(cuMemUnmap, uintptr(p), uintptr(bytes)); e != nil {
		return detail(e, "%d bytes at %#x", bytes, uint64(p))
	}
	return nil
}
