package cuda

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"kigo/engine/device"
	"kigo/engine/device/cuda/driver"
	"kigo/kernels"
)

// weights are a model's tensors in one allocation.
type weights struct {
	dev    *Device
	places []placement
	mem    buffer
	closed atomic.Bool

	mu   sync.Mutex // guards idle; held by Close while uploaders must be gone
	idle []*slots   // pinned memory and streams of uploaders that were closed
	used int        // uploaders in use
}

// NewWeights takes the memory for all tensors. Padding is set to zero, which the
// kernels rely on.
func (d *Device) NewWeights(tensors []device.Tensor) (device.Weights, error) {
	w := &weights{dev: d}
	size := uint64(0)
	for _, t := range tensors {
		p, err := place(t, size)
		if err != nil {
			return nil, err
		}
		w.places = append(w.places, p)
		size += p.bytes
	}
	unbind, err := d.bind()
	if err != nil {
		return nil, err
	}
	defer unbind()
	if w.mem, err = d.allocate(size, fmt.Sprintf("weights of %d tensors", len(tensors))); err != nil {
		return nil, err
	}
	err = d.drv.Fill8(w.mem.ptr, 0, w.mem.bytes, d.stream)
	if err == nil {
		err = d.drv.SyncStream(d.stream)
	}
	if err != nil {
		return nil, errors.Join(d.wrap(err, "clear the weights"), d.release(&w.mem))
	}
	return w, nil
}

func (w *weights) Bytes() uint64 { return w.mem.bytes }

// check refuses the use of closed weights and of tensors that there are not.
func (w *weights) check(tensor int) error {
	if w.closed.Load() {
		return fmt.Errorf("weights: %w", device.ErrClosed)
	}
	if tensor < 0 || tensor >= len(w.places) {
		return fmt.Errorf("tensor %d of %d", tensor, len(w.places))
	}
	return nil
}

func (w *weights) Close() error {
	if w.closed.Swap(true) {
		return nil
	}
	unbind, err := w.dev.bind()
	if err != nil {
		return err
	}
	defer unbind()
	w.mu.Lock()
	defer w.mu.Unlock()
	var errs []error
	for _, s := range w.idle {
		errs = append(errs, s.free(w.dev))
	}
	w.idle = nil
	return errors.Join(append(errs, w.dev.release(&w.mem))...)
}

// layout of a tensor for the kernels.
func (w *weights) layout(tensor int) kernels.Layout {
	return w.places[tensor].layout(uint64(w.mem.ptr))
}

// hashArea is where hashes are computed: one at a time, on a stream of its own so
// that steps go on.
type hashArea struct {
	mu     sync.Mutex
	stream driver.Stream
	sum    buffer
	host   []byte // pinned
}

func (a *hashArea) free(d *Device) error {
	var errs []error
	if a.stream != 0 {
		errs = append(errs, d.drv.DestroyStream(a.stream))
		a.stream = 0
	}
	if a.host != nil {
		errs = append(errs, d.drv.HostFree(a.host))
		a.host = nil
	}
	return errors.Join(append(errs, d.release(&a.sum))...)
}

func (a *hashArea) prepare(d *Device) (err error) {
	if a.stream == 0 {
		if a.stream, err = d.drv.NewStream(); err != nil {
			return err
		}
	}
	if a.host == nil {
		if a.host, err = d.drv.HostAlloc(8); err != nil {
			return err
		}
	}
	if a.sum.ptr == 0 {
		a.sum, err = d.allocate(8, "hash")
	}
	return err
}

// Hash gathers the tensor's bytes from the planes that the kernels read.
func (w *weights) Hash(tensor int) (uint64, error) {
	if err := w.check(tensor); err != nil {
		return 0, err
	}
	d := w.dev
	unbind, err := d.bind()
	if err != nil {
		return 0, err
	}
	defer unbind()
	a := &d.hashes
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := a.prepare(d); err != nil {
		return 0, d.wrap(err, "hash")
	}
	const threads = 256
	l, err := newLaunch(d, "hash_tensor", threads, kernels.HashParams{Layout: w.layout(tensor), Sum: uint64(a.sum.ptr)})
	if err != nil {
		return 0, err
	}
	words := (w.places[tensor].tensor.Bytes() + 7) / 8
	l.grid(min(ceilDiv(words, threads), 16*d.props.SMs), 1, 1)
	err = d.drv.Fill8(a.sum.ptr, 0, 8, a.stream)
	if err == nil {
		err = start(d, l, a.stream)
	}
	if err == nil {
		err = d.drv.CopyToHost(a.host, a.sum.ptr, a.stream)
	}
	if err == nil {
		err = d.drv.SyncStream(a.stream)
	}
	if err != nil {
		return 0, d.wrap(err, "hash of tensor %q", w.places[tensor].tensor.Name)
	}
	return binary.LittleEndian.Uint64(a.host), nil
}
