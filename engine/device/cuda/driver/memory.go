//go:build linux && (amd64 || arm64) && !nocuda

package driver

import (
	"fmt"
	"unsafe"
)

func (d *libcuda) MemInfo() (free, total uint64, err error) {
	var v [2]uint64
	if e := d.do(cuMemGetInfo, uintptr(unsafe.Pointer(&v[0])), uintptr(unsafe.Pointer(&v[1]))); e != nil {
		return 0, 0, e
	}
	return v[0], v[1], nil
}

func (d *libcuda) Alloc(bytes uint64) (Ptr, error) {
	var p Ptr
	if e := d.do(cuMemAlloc, uintptr(unsafe.Pointer(&p)), uintptr(bytes)); e != nil {
		return 0, detail(e, "%d bytes", bytes)
	}
	return p, nil
}

func (d *libcuda) Free(p Ptr) error {
	if p == 0 { // C's free(NULL), which cuMemFree does not know
		return d.refuse(cuMemFree, CodeInvalidValue, "null pointer")
	}
	if e := d.do(cuMemFree, uintptr(p)); e != nil {
		return detail(e, "%#x", uint64(p))
	}
	return nil
}

func (d *libcuda) HostAlloc(bytes int) ([]byte, error) {
	if bytes <= 0 {
		return nil, d.refuse(cuMemHostAlloc, CodeInvalidValue, fmt.Sprintf("%d bytes", bytes))
	}
	var p unsafe.Pointer
	if e := d.do(cuMemHostAlloc, uintptr(unsafe.Pointer(&p)), uintptr(bytes), hostAllocPortable); e != nil {
		return nil, detail(e, "%d bytes", bytes)
	}
	return unsafe.Slice((*byte)(p), bytes), nil
}

func (d *libcuda) HostFree(b []byte) error {
	if len(b) == 0 {
		return d.refuse(cuMemFreeHost, CodeInvalidValue, "empty slice")
	}
	if e := d.do(cuMemFreeHost, uintptr(unsafe.Pointer(unsafe.SliceData(b)))); e != nil {
		return detail(e, "%d bytes", len(b))
	}
	return nil
}

func (d *libcuda) HostRegister(b []byte) error {
	if len(b) == 0 {
		return d.refuse(cuMemHostRegister, CodeInvalidValue, "empty slice")
	}
	if e := d.do(cuMemHostRegister, uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)), hostRegisterPortable); e != nil {
		return detail(e, "%d bytes", len(b))
	}
	return nil
}

func (d *libcuda) HostUnregister(b []byte) error {
	if len(b) == 0 {
		return d.refuse(cuMemHostUnregister, CodeInvalidValue, "empty slice")
	}
	if e := d.do(cuMemHostUnregister, uintptr(unsafe.Pointer(unsafe.SliceData(b)))); e != nil {
		return detail(e, "%d bytes", len(b))
	}
	return nil
}

func (d *libcuda) CopyToDevice(dst Ptr, src []byte, s Stream) error {
	if s == 0 {
		return d.refuse(cuMemcpyHtoDAsync, CodeInvalidHandle, nullStream)
	}
	if len(src) == 0 {
		return nil
	}
	if e := d.step(cuMemcpyHtoDAsync, uintptr(dst), uintptr(unsafe.Pointer(unsafe.SliceData(src))), uintptr(len(src)), uintptr(s)); e != nil {
		return detail(e, "%d bytes to %#x", len(src), uint64(dst))
	}
	return nil
}

func (d *libcuda) CopyToHost(dst []byte, src Ptr, s Stream) error {
	if s == 0 {
		return d.refuse(cuMemcpyDtoHAsync, CodeInvalidHandle, nullStream)
	}
	if len(dst) == 0 {
		return nil
	}
	if e := d.step(cuMemcpyDtoHAsync, uintptr(unsafe.Pointer(unsafe.SliceData(dst))), uintptr(src), uintptr(len(dst)), uintptr(s)); e != nil {
		return detail(e, "%d bytes from %#x", len(dst), uint64(src))
	}
	return nil
}

func (d *libcuda) CopyOnDevice(dst, src Ptr, n uint64, s Stream) error {
	if s == 0 {
		return d.refuse(cuMemcpyDtoDAsync, CodeInvalidHandle, nullStream)
	}
	if n == 0 {
		return nil
	}
	if e := d.step(cuMemcpyDtoDAsync, uintptr(dst), uintptr(src), uintptr(n), uintptr(s)); e != nil {
		return detail(e, "%d bytes from %#x to %#x", n, uint64(src), uint64(dst))
	}
	return nil
}

func (d *libcuda) Fill8(dst Ptr, v byte, n uint64, s Stream) error {
	if s == 0 {
		return d.refuse(cuMemsetD8Async, CodeInvalidHandle, nullStream)
	}
	if n == 0 {
		return nil
	}
	if e := d.step(cuMemsetD8Async, uintptr(dst), uintptr(v), uintptr(n), uintptr(s)); e != nil {
		return detail(e, "%d bytes at %#x", n, uint64(dst))
	}
	return nil
}

func (d *libcuda) Fill32(dst Ptr, v uint32, n uint64, s Stream) error {
	if s == 0 {
		return d.refuse(cuMemsetD32Async, CodeInvalidHandle, nullStream)
	}
	if n == 0 {
		return nil
	}
	if e := d.step(cuMemsetD32Async, uintptr(dst), uintptr(v), uintptr(n), uintptr(s)); e != nil {
		return detail(e, "%d words at %#x", n, uint64(dst))
	}
	return nil
}
