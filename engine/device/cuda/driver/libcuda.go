//go:build linux && (amd64 || arm64) && !nocuda

package driver

import (
	"fmt"
	"runtime"
	"strings"
	"sync"

	"github.com/ebitengine/purego"
)

const (
	libraryName = "libcuda.so.1"

	// minVersion is the oldest driver that runs machine code made by CUDA
	// 12.x: 12.0, which is driver 525.
	minVersion = 12000
)

// libcuda is the real Driver. Its methods are thin: what they do is in the
// comments of the interface.
//
// About unsafe: the arguments of C functions are numbers. uintptr(unsafe.Pointer(x))
// appears only inside the argument list of do and step, whose directive
// uintptrescapes makes x live on the heap, where nothing moves, and stay alive
// until the call returns. What C returns by address goes into a variable of the right type:
// no uintptr is ever made into a pointer.
type libcuda struct {
	fn      [numSymbols]uintptr
	version int
	latch   Latch

	launches sync.Pool // of *launchArgs
	steps    sync.Pool // of *[4]uintptr, the arguments of step

	mu       sync.Mutex
	retained map[int]int // by ordinal: contexts to give back
}

// Open loads the NVIDIA driver's library and starts it. The error is
// ErrNoDriver, ErrNoDevice or ErrDriverTooOld, with the reason in its text.
func Open() (Driver, error) {
	d, err := openAt(libraryName)
	if err != nil {
		return nil, err
	}
	return d, nil
}

// openAt is Open for the library with that name or path.
func openAt(path string) (*libcuda, error) {
	d := &libcuda{retained: map[int]int{}}
	d.launches.New = func() any { return new(launchArgs) }
	d.steps.New = func() any { return new([4]uintptr) }
	if err := d.load(path); err != nil {
		return nil, err
	}
	if code := d.raw(cuInit, 0); code == CodeNoDevice {
		return nil, fmt.Errorf("%w: cuInit: %w", ErrNoDevice, code)
	} else if code != 0 {
		// The code is told but not wrapped: CUDA has not started, so even
		// CUDA_ERROR_UNKNOWN, a usual answer when a device file is missing,
		// is not the end of a context.
		return nil, fmt.Errorf("%w: cuInit: %s", ErrNoDriver, code.Error())
	}
	if n, err := d.Devices(); err != nil {
		return nil, fmt.Errorf("%w: %s", ErrNoDevice, err.Error())
	} else if n == 0 {
		return nil, fmt.Errorf("%w: the driver sees none", ErrNoDevice)
	}
	return d, nil
}

// load opens the library, checks its version and finds all symbols.
func (d *libcuda) load(path string) error {
	// dlerror's text belongs to the OS thread.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	lib, err := purego.Dlopen(path, purego.RTLD_NOW|purego.RTLD_LOCAL)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrNoDriver, err)
	}
	// An old driver lacks symbols: its version is the better message.
	d.fn[cuDriverGetVersion], err = purego.Dlsym(lib, cuDriverGetVersion.library())
	if err != nil {
		return fmt.Errorf("%w: %w", ErrNoDriver, err)
	}
	version, code := d.driverVersion()
	if code != 0 {
		return fmt.Errorf("%w: cuDriverGetVersion: %s", ErrNoDriver, code.Error())
	}
	if version < minVersion {
		return fmt.Errorf("%w: it knows CUDA %d.%d, and %d.%d (driver 525) is needed", ErrDriverTooOld,
			version/1000, version%1000/10, minVersion/1000, minVersion%1000/10)
	}
	d.version = version
	var missing []string
	for s := range numSymbols {
		// A missing symbol is 0; its own message would add nothing.
		if d.fn[s], err = purego.Dlsym(lib, s.library()); err != nil && !symbols[s].optional {
			missing = append(missing, s.library())
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("%w: %s lacks %s", ErrNoDriver, path, strings.Join(missing, ", "))
	}
	return nil
}

// raw calls a function without looking at the latch.
//
//go:uintptrescapes
func (d *libcuda) raw(s symbol, args ...uintptr) Code {
	r, _, _ := purego.SyscallN(d.fn[s], args...)
	return Code(int32(r)) // CUresult is an int: the upper half of the register is anything
}

// do calls a function, unless the latch forbids it. It returns nil or the error.
//
//go:uintptrescapes
func (d *libcuda) do(s symbol, args ...uintptr) *Error {
	if e := d.latch.Refuse(symbols[s].call); e != nil {
		return e
	}
	r, _, _ := purego.SyscallN(d.fn[s], args...)
	if code := Code(int32(r)); code != 0 {
		return d.latch.Note(symbols[s].call, code, "")
	}
	return nil
}

// step is do for the calls that every step makes, of up to four arguments: C
// ignores what is too much. SyscallN's arguments, a slice, escape to the heap:
// here they are reused, so that a call makes no garbage.
//
//go:uintptrescapes
func (d *libcuda) step(s symbol, a0, a1, a2, a3 uintptr) *Error {
	if e := d.latch.Refuse(symbols[s].call); e != nil {
		return e
	}
	args := d.steps.Get().(*[4]uintptr)
	*args = [4]uintptr{a0, a1, a2, a3}
	r, _, _ := purego.SyscallN(d.fn[s], args[:]...)
	d.steps.Put(args)
	switch code := Code(int32(r)); code {
	case 0:
		return nil
	case CodeNotReady:
		return notReady
	default:
		return d.latch.Note(symbols[s].call, code, "")
	}
}

// notReady is CUDA_ERROR_NOT_READY from step: no error, but the answer of a
// query, and asked often.
var notReady = &Error{Call: "query", Code: CodeNotReady}

// refuse is the error of arguments that CUDA must not see.
func (d *libcuda) refuse(s symbol, code Code, detail string) error {
	if e := d.latch.Refuse(symbols[s].call); e != nil {
		return e
	}
	return &Error{Call: symbols[s].call, Code: code, Detail: detail}
}

// plain turns do's result into an error interface, which is nil for nil.
func plain(e *Error) error {
	if e == nil {
		return nil
	}
	return e
}

// detail turns do's result into an error with a detail.
func detail(e *Error, format string, args ...any) error {
	with := *e // the latch may share e with other goroutines
	if with.Detail == "" {
		with.Detail = fmt.Sprintf(format, args...)
	}
	return &with
}

func (d *libcuda) Version() int  { return d.version }
func (d *libcuda) Failed() error { return d.latch.Failed() }

func (d *libcuda) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	var first error
	for ordinal, n := range d.retained {
		for range n {
			if err := d.release(ordinal); err != nil && first == nil {
				first = err
			}
		}
	}
	clear(d.retained)
	d.latch.Close()
	return first
}
