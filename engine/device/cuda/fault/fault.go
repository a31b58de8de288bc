// Package fault breaks GPUs on purpose, for tests of what happens then. It works
// from beside: with a driver of its own on the context that all of a process share,
// so that the device under test is the one that serves, unchanged.
//
// What is broken stays so: a process that has used this package ends.
package fault

import (
	_ "embed"
	"errors"
	"fmt"
	"runtime"
	"unsafe"

	"kigo/engine/device/cuda/driver"
)

//go:embed fault.ptx
var code string

// GPU can be broken.
type GPU struct {
	drv       driver.Driver
	ctx       driver.Context
	props     driver.Properties
	stream    driver.Stream
	bad, spin driver.Function
	word      driver.Ptr // 0 for ever
}

// Open prepares everything, so that breaking takes no time.
func Open(ordinal int) (_ *GPU, err error) {
	drv, err := driver.Open()
	if err != nil {
		return nil, err
	}
	g := &GPU{drv: drv}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("prepare a fault: %w", err), drv.Close())
		}
	}()
	if g.props, err = drv.Properties(ordinal); err != nil {
		return nil, err
	}
	if g.ctx, err = drv.RetainContext(ordinal); err != nil {
		return nil, err
	}
	return g, g.bound(func() error {
		m, err := drv.LoadModule([]byte(code))
		if err != nil {
			return err
		}
		if g.bad, err = drv.Function(m, "bad_address"); err != nil {
			return err
		}
		if g.spin, err = drv.Function(m, "spin"); err != nil {
			return err
		}
		if g.stream, err = drv.NewStream(); err != nil {
			return err
		}
		if g.word, err = drv.Alloc(4); err != nil {
			return err
		}
		if err := drv.Fill8(g.word, 0, 4, g.stream); err != nil {
			return err
		}
		return drv.SyncStream(g.stream)
	})
}

// bound calls f with the context bound to the thread.
func (g *GPU) bound(f func() error) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := g.drv.SetCurrent(g.ctx); err != nil {
		return err
	}
	return f()
}

// launch starts n blocks of a kernel of as many threads as a block has at most.
func (g *GPU) launch(f driver.Function, n int, address uint64) error {
	params := struct{ address uint64 }{address}
	return g.drv.Launch(f, &driver.Launch{
		Grid:   [3]uint32{uint32(n), 1, 1},
		Block:  [3]uint32{uint32(g.props.MaxThreadsPerBlock), 1, 1},
		Stream: g.stream,
	}, unsafe.Pointer(&params))
}

// BadAddress writes where no memory is, and waits until it has: the context is
// dead when it returns. The error is the driver's if the kernel does no harm.
func (g *GPU) BadAddress() error {
	return g.bound(func() error {
		if err := g.launch(g.bad, 1, 0x1000); err != nil {
			return err
		}
		if err := g.drv.SyncStream(g.stream); !errors.Is(err, driver.ErrFatal) {
			return fmt.Errorf("after a write to a bad address: %w", errors.Join(errors.New("no fatal error"), err))
		}
		return nil
	})
}

// Spin fills the GPU with threads that never end, so that no other kernel of the
// process gets on it.
func (g *GPU) Spin() error {
	return g.bound(func() error {
		perSM, err := g.drv.Occupancy(g.spin, g.props.MaxThreadsPerBlock, 0)
		if err != nil {
			return err
		}
		return g.launch(g.spin, perSM*g.props.SMs, uint64(g.word))
	})
}
