package driver

import (
	"errors"
	"strings"
	"sync/atomic"
)

// What callers tell apart, with errors.Is.
var (
	// From Open. The text says why.
	ErrNoDriver     = errors.New("no usable NVIDIA driver")
	ErrNoDevice     = errors.New("no CUDA device")
	ErrDriverTooOld = errors.New("the NVIDIA driver is too old")

	// ErrFatal: the context is dead, and with it all that lives on the device.
	ErrFatal = errors.New("fatal CUDA error")

	ErrOutOfMemory  = errors.New("out of device memory")
	ErrNotSupported = errors.New("not supported by the device or the driver")
	ErrClosed       = errors.New("the CUDA driver is closed")
)

// Error is CUDA's answer to a call, or why there was no call. errors.Is matches
// it with its Code and with the sentinels that fit.
type Error struct {
	Call   string // CUDA's name for it, without the version: "cuMemAlloc"
	Code   Code
	Detail string // sizes, names, the compiler's log; may be empty

	first  *Error // set: CUDA was not called, because this one killed the context
	closed bool   // CUDA was not called, because the driver is closed
}

func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.Call)
	if e.first != nil {
		b.WriteString(" not called: the context has failed: ")
		b.WriteString(e.first.Error())
		return b.String()
	}
	b.WriteString(": ")
	if e.closed {
		b.WriteString(ErrClosed.Error())
		return b.String()
	}
	b.WriteString(e.Code.Error())
	if e.Detail != "" {
		b.WriteString(": ")
		b.WriteString(e.Detail)
	}
	return b.String()
}

// Unwrap returns the first fatal error, where that is the reason.
func (e *Error) Unwrap() error {
	if e.first == nil {
		return nil
	}
	return e.first
}

func (e *Error) Is(target error) bool {
	switch target {
	case ErrFatal:
		return e.Code.Fatal()
	case ErrOutOfMemory:
		return e.Code == CodeOutOfMemory
	case ErrNotSupported:
		return e.Code == CodeNotSupported
	case ErrClosed:
		return e.closed
	}
	code, ok := target.(Code)
	return ok && e.Code == code
}

// Latch remembers the first fatal error of a context, and that the driver is
// closed. The real driver and the fake share it, so that both fail alike.
// It is safe for concurrent use.
type Latch struct {
	first  atomic.Pointer[Error]
	closed atomic.Bool
}

// Refuse returns the error of a call that must not reach CUDA any more, or nil.
func (l *Latch) Refuse(call string) *Error {
	if first := l.first.Load(); first != nil {
		return &Error{Call: call, Code: first.Code, first: first}
	}
	if l.closed.Load() {
		return &Error{Call: call, closed: true}
	}
	return nil
}

// Note makes the error of a call, and remembers it if it is the first fatal one.
func (l *Latch) Note(call string, code Code, detail string) *Error {
	e := &Error{Call: call, Code: code, Detail: detail}
	if code.Fatal() {
		l.first.CompareAndSwap(nil, e)
	}
	return e
}

// Failed returns the first fatal error, or nil.
func (l *Latch) Failed() error {
	if first := l.first.Load(); first != nil {
		return first
	}
	return nil
}

// Close makes Refuse say ErrClosed.
func (l *Latch) Close() { l.closed.Store(true) }
