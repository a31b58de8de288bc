package fakedriver

import (
	"bytes"
	"fmt"
	"slices"
	"sort"
	"unsafe"

	"kigo/engine/device/cuda/driver"
)

const alignment = 512 // of device memory, in bytes

// region is an allocation, or address space that chunks are mapped into.
type region struct {
	base     driver.Ptr
	size     uint64
	data     []byte // of an allocation
	reserved bool
	mapped   []*mapping // sorted by base
}

// hostMemory is pinned memory: allocated or registered.
type hostMemory struct {
	data       []byte
	registered bool
}

// Memory is the device's memory as a kernel sees it.
type Memory struct{ f *Driver }

// Bytes is the device memory from p on, valid while the kernel runs. Memory
// that is not the device's is an illegal address.
func (m Memory) Bytes(p driver.Ptr, n uint64) ([]byte, error) { return m.f.bytes(p, n) }

// Slice is Bytes as n values of a type without pointers, with its alignment.
func Slice[T any](m Memory, p driver.Ptr, n int) ([]T, error) {
	var zero T
	if uint64(p)%uint64(unsafe.Alignof(zero)) != 0 {
		return nil, fmt.Errorf("%#x: %w", uint64(p), driver.CodeMisalignedAddress)
	}
	if n == 0 {
		return nil, nil
	}
	b, err := m.Bytes(p, uint64(n)*uint64(unsafe.Sizeof(zero)))
	if err != nil {
		return nil, err
	}
	return unsafe.Slice((*T)(unsafe.Pointer(unsafe.SliceData(b))), n), nil
}

// bytes finds device memory that may be read and written.
func (f *Driver) bytes(p driver.Ptr, n uint64) ([]byte, error) {
	r := f.region(p)
	if r != nil && n <= r.size-uint64(p-r.base) && !r.reserved {
		off := uint64(p - r.base)
		return r.data[off : off+n : off+n], nil
	}
	bad := fmt.Errorf("%d bytes at %#x: %w", n, uint64(p), driver.CodeIllegalAddress)
	if r == nil || n > r.size-uint64(p-r.base) {
		return nil, bad
	}
	return r.view(p, n, bad)
}

// region is the one that the address is in, or nil.
func (f *Driver) region(p driver.Ptr) *region {
	i := sort.Search(len(f.space), func(i int) bool { return f.space[i].base > p })
	if i == 0 {
		return nil
	}
	if r := f.space[i-1]; uint64(p-r.base) < r.size {
		return r
	}
	return nil
}

// place takes address space, aligned, with a gap behind it.
func (f *Driver) place(r *region, align uint64) {
	r.base = driver.Ptr(roundUp(uint64(f.nextBase), align))
	f.nextBase = r.base + driver.Ptr(roundUp(r.size, alignment)+alignment)
	f.space = append(f.space, r)
}

func roundUp(n, to uint64) uint64 { return (n + to - 1) / to * to }

func poisoned(n uint64) []byte { return bytes.Repeat([]byte{0xCD}, int(n)) }

func (f *Driver) MemInfo() (free, total uint64, err error) {
	if err := f.enter("MemInfo", context); err != nil {
		return 0, 0, err
	}
	defer f.mu.Unlock()
	total = f.cfg.Properties.TotalMem
	return total - f.used, total, nil
}

// take counts device memory.
func (f *Driver) take(call string, n uint64) error {
	if free := f.cfg.Properties.TotalMem - f.used; n > free {
		return f.fail(call, driver.CodeOutOfMemory, "%d bytes, %d are free", n, free)
	}
	f.used += n
	return nil
}

func (f *Driver) Alloc(n uint64) (driver.Ptr, error) {
	if err := f.enter("Alloc", allowed); err != nil {
		return 0, err
	}
	defer f.mu.Unlock()
	if n == 0 {
		return 0, f.misused("Alloc", driver.CodeInvalidValue, "0 bytes")
	}
	if n > f.cfg.Properties.TotalMem {
		return 0, f.fail("Alloc", driver.CodeOutOfMemory, "%d bytes", n)
	}
	if err := f.take("Alloc", roundUp(n, alignment)); err != nil {
		return 0, err
	}
	r := &region{size: n, data: poisoned(n)}
	f.place(r, alignment)
	return r.base, nil
}

// Free waits for all streams, as CUDA does.
func (f *Driver) Free(p driver.Ptr) error {
	if err := f.enter("Free", allowed); err != nil {
		return err
	}
	defer f.mu.Unlock()
	if err := f.drain("Free"); err != nil {
		return err
	}
	r := f.region(p)
	if r == nil || r.base != p || r.reserved {
		return f.misused("Free", driver.CodeInvalidValue, "%#x is no allocation", uint64(p))
	}
	f.used -= roundUp(r.size, alignment)
	f.space = slices.DeleteFunc(f.space, func(x *region) bool { return x == r })
	return nil
}

func (f *Driver) HostAlloc(n int) ([]byte, error) {
	if err := f.enter("HostAlloc", allowed); err != nil {
		return nil, err
	}
	defer f.mu.Unlock()
	if n <= 0 {
		return nil, f.misused("HostAlloc", driver.CodeInvalidValue, "%d bytes", n)
	}
	b := poisoned(uint64(n))
	f.host = append(f.host, &hostMemory{data: b})
	return b, nil
}

func (f *Driver) HostFree(b []byte) error {
	if err := f.enter("HostFree", allowed); err != nil {
		return err
	}
	defer f.mu.Unlock()
	h, err := f.unpin("HostFree", b, false)
	if err != nil {
		return err
	}
	for i := range h.data {
		h.data[i] = 0xDD
	}
	return nil
}

func (f *Driver) HostRegister(b []byte) error {
	if err := f.enter("HostRegister", allowed); err != nil {
		return err
	}
	defer f.mu.Unlock()
	if len(b) == 0 {
		return f.misused("HostRegister", driver.CodeInvalidValue, "empty slice")
	}
	if f.pinned(b[:1]) || f.pinned(b[len(b)-1:]) {
		return f.misused("HostRegister", driver.CodeHostMemoryAlreadyRegistered, "%d bytes", len(b))
	}
	f.host = append(f.host, &hostMemory{data: b, registered: true})
	return nil
}

func (f *Driver) HostUnregister(b []byte) error {
	if err := f.enter("HostUnregister", allowed); err != nil {
		return err
	}
	defer f.mu.Unlock()
	_, err := f.unpin("HostUnregister", b, true)
	return err
}

func (f *Driver) unpin(call string, b []byte, registered bool) (*hostMemory, error) {
	for i, h := range f.host {
		if h.registered == registered && unsafe.SliceData(h.data) == unsafe.SliceData(b) {
			f.host = slices.Delete(f.host, i, i+1)
			return h, nil
		}
	}
	return nil, f.misused(call, driver.CodeInvalidValue, "%d bytes that are not pinned", len(b))
}

// pinned says whether all of b is within one pinned memory.
func (f *Driver) pinned(b []byte) bool {
	at := uintptr(unsafe.Pointer(unsafe.SliceData(b)))
	for _, h := range f.host {
		base := uintptr(unsafe.Pointer(unsafe.SliceData(h.data)))
		if base <= at && at+uintptr(len(b)) <= base+uintptr(len(h.data)) {
			return true
		}
	}
	return false
}

// span is one side of a copy: memory of the host or of the device. It is looked
// up when the copy is asked for, and again when it runs: it may have gone in
// between.
type span struct {
	host   []byte
	device driver.Ptr
	n      uint64
}

func (f *Driver) find(s span) ([]byte, error) {
	if s.host == nil {
		return f.bytes(s.device, s.n)
	}
	if !f.pinned(s.host) {
		return nil, fmt.Errorf("%d bytes of host memory that is not pinned: %w", len(s.host), driver.CodeIllegalAddress)
	}
	return s.host, nil
}

// transfer puts work on two spans of memory into a stream.
func (f *Driver) transfer(call string, h driver.Stream, dst, src span, do func(dst, src []byte)) error {
	if err := f.enter(call, context); err != nil {
		return err
	}
	defer f.mu.Unlock()
	q, err := f.stream(call, h)
	if err != nil || dst.n == 0 {
		return err
	}
	for _, s := range []span{dst, src} {
		if _, err := f.find(s); err != nil && s.n > 0 {
			return f.misused(call, driver.CodeInvalidValue, "%v", err)
		}
	}
	return f.put(call, q, call, func() error {
		to, err := f.find(dst)
		if err != nil {
			return err
		}
		var from []byte
		if src.n > 0 {
			if from, err = f.find(src); err != nil {
				return err
			}
		}
		do(to, from)
		return nil
	})
}

func (f *Driver) CopyToDevice(dst driver.Ptr, src []byte, s driver.Stream) error {
	n := uint64(len(src))
	return f.transfer("CopyToDevice", s, span{device: dst, n: n}, span{host: src, n: n}, func(d, s []byte) { copy(d, s) })
}

func (f *Driver) CopyToHost(dst []byte, src driver.Ptr, s driver.Stream) error {
	n := uint64(len(dst))
	return f.transfer("CopyToHost", s, span{host: dst, n: n}, span{device: src, n: n}, func(d, s []byte) { copy(d, s) })
}

func (f *Driver) CopyOnDevice(dst, src driver.Ptr, n uint64, s driver.Stream) error {
	return f.transfer("CopyOnDevice", s, span{device: dst, n: n}, span{device: src, n: n}, func(d, s []byte) { copy(d, s) })
}

func (f *Driver) Fill8(dst driver.Ptr, v byte, n uint64, s driver.Stream) error {
	return f.transfer("Fill8", s, span{device: dst, n: n}, span{}, func(d, _ []byte) {
		for i := range d {
			d[i] = v
		}
	})
}

func (f *Driver) Fill32(dst driver.Ptr, v uint32, n uint64, s driver.Stream) error {
	if dst%4 != 0 || n > 1<<60 {
		if err := f.enter("Fill32", context); err != nil {
			return err
		}
		defer f.mu.Unlock()
		return f.misused("Fill32", driver.CodeInvalidValue, "%d words at %#x", n, uint64(dst))
	}
	return f.transfer("Fill32", s, span{device: dst, n: 4 * n}, span{}, func(d, _ []byte) {
		for i := 0; i < len(d); i += 4 {
			d[i], d[i+1], d[i+2], d[i+3] = byte(v), byte(v>>8), byte(v>>16), byte(v>>24)
		}
	})
}
