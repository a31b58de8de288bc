package cpu

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"

	"kigo/engine/device"
)

// memory is a block of zeroed memory outside the Go heap. Pages cost nothing
// until they are touched, and go back to the system at once when freed.
type memory struct {
	bytes []byte
}

func allocate(size int) (*memory, error) {
	if size < 0 {
		return nil, fmt.Errorf("%w: %d bytes", device.ErrOutOfMemory, size)
	}
	if size == 0 {
		return &memory{}, nil
	}
	b, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		return nil, fmt.Errorf("%w: %d bytes: %w", device.ErrOutOfMemory, size, err)
	}
	return &memory{bytes: b}, nil
}

// floats views the memory as float32 values in the machine's byte order. The
// mapping is page-aligned, so the view is aligned.
func (m *memory) floats() []float32 {
	if len(m.bytes) == 0 {
		return nil
	}
	return unsafe.Slice((*float32)(unsafe.Pointer(&m.bytes[0])), len(m.bytes)/4)
}

func (m *memory) free() error {
	if m.bytes == nil {
		return nil
	}
	b := m.bytes
	m.bytes = nil
	return unix.Munmap(b)
}

// forget gives the whole pages in b, which is a part of a memory, back to the system.
// What they held is lost.
func forget(b []byte) error {
	page := uintptr(unix.Getpagesize())
	at := uintptr(unsafe.Pointer(unsafe.SliceData(b)))
	skip := -at & (page - 1)
	if uintptr(len(b)) < skip+page {
		return nil
	}
	b = b[skip:]
	return unix.Madvise(b[:uintptr(len(b))&^(page-1)], unix.MADV_DONTNEED)
}

// sized returns a slice of length n, s itself when it is large enough.
func sized[T any](s []T, n int) []T {
	if cap(s) < n {
		return make([]T, n)
	}
	return s[:n]
}
