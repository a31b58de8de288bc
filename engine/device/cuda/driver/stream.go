//go:build linux && (amd64 || arm64) && !nocuda

package driver

import (
	"time"
	"unsafe"
)

const (
	nullStream = "null stream"
	nullHandle = "null handle"
)

func (d *libcuda) NewStream() (Stream, error) {
	var s Stream
	if e := d.do(cuStreamCreate, uintptr(unsafe.Pointer(&s)), streamNonBlocking); e != nil {
		return 0, e
	}
	return s, nil
}

func (d *libcuda) DestroyStream(s Stream) error { return d.with(cuStreamDestroy, uintptr(s)) }
func (d *libcuda) SyncStream(s Stream) error    { return d.with(cuStreamSynchronize, uintptr(s)) }

func (d *libcuda) QueryStream(s Stream) (bool, error) {
	return d.poll(cuStreamQuery, uintptr(s))
}

func (d *libcuda) StreamWait(s Stream, e Event) error {
	if s == 0 || e == 0 {
		return d.refuse(cuStreamWaitEvent, CodeInvalidHandle, nullHandle)
	}
	return plain(d.step(cuStreamWaitEvent, uintptr(s), uintptr(e), 0, 0))
}

func (d *libcuda) NewEvent(timing bool) (Event, error) {
	var flags uintptr
	if !timing {
		flags = eventDisableTiming
	}
	var v Event
	if e := d.do(cuEventCreate, uintptr(unsafe.Pointer(&v)), flags); e != nil {
		return 0, e
	}
	return v, nil
}

func (d *libcuda) DestroyEvent(e Event) error { return d.with(cuEventDestroy, uintptr(e)) }

func (d *libcuda) Record(e Event, s Stream) error {
	if s == 0 || e == 0 {
		return d.refuse(cuEventRecord, CodeInvalidHandle, nullHandle)
	}
	return plain(d.step(cuEventRecord, uintptr(e), uintptr(s), 0, 0))
}

func (d *libcuda) SyncEvent(e Event) error { return d.with(cuEventSynchronize, uintptr(e)) }

func (d *libcuda) QueryEvent(e Event) (bool, error) {
	return d.poll(cuEventQuery, uintptr(e))
}

func (d *libcuda) Elapsed(from, to Event) (time.Duration, error) {
	if from == 0 || to == 0 {
		return 0, d.refuse(cuEventElapsedTime, CodeInvalidHandle, nullHandle)
	}
	var ms float32
	if e := d.do(cuEventElapsedTime, uintptr(unsafe.Pointer(&ms)), uintptr(from), uintptr(to)); e != nil {
		return 0, e
	}
	return time.Duration(float64(ms) * float64(time.Millisecond)), nil
}

// with calls a function whose only argument is a handle.
func (d *libcuda) with(s symbol, handle uintptr) error {
	if handle == 0 {
		return d.refuse(s, CodeInvalidHandle, nullHandle)
	}
	return plain(d.step(s, handle, 0, 0, 0))
}

// poll is with for a query.
func (d *libcuda) poll(s symbol, handle uintptr) (bool, error) {
	if handle == 0 {
		return false, d.refuse(s, CodeInvalidHandle, nullHandle)
	}
	switch e := d.step(s, handle, 0, 0, 0); e {
	case nil:
		return true, nil
	case notReady:
		return false, nil
	default:
		return false, e
	}
}
