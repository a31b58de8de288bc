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
		w.closed.Store(false) // nothing was freed
		return err
	}
	defer unbind()
	return w.dev.release(&w.mem)
}

// layout of a tensor for the kernels.
func (w *weights) layout(tensor int) kernels.Layout {
	return w.places[tensor].layout(uint64(w.mem.ptr))
}

// hashArea is where hashes are computed, one request at a time, on a stream of
// its own so that steps go on.
type hashArea struct {
	mu     sync.Mutex
	stream driver.Stream
	sums   buffer
	host   []byte // pinned, as long as sums
}

func (a *hashArea) free(d *Device) error {
	var errs []error
	if a.stream != 0 {
		errs = append(errs, d.drv.DestroyStream(a.stream))
		a.stream = 0
	}
	return errors.Join(append(errs, a.freeSums(d))...)
}

func (a *hashArea) freeSums(d *Device) error {
	var err error
	if a.host != nil {
		err = d.drv.HostFree(a.host)
		a.host = nil
	}
	return errors.Join(err, d.release(&a.sums))
}

// prepare makes room for n sums and clears them.
func (a *hashArea) prepare(d *Device, n int) (err error) {
	if a.stream == 0 {
		if a.stream, err = d.drv.NewStream(); err != nil {
			return err
		}
	}
	if len(a.host) < 8*n {
		if err := a.freeSums(d); err != nil {
			return err
		}
		if a.host, err = d.drv.HostAlloc(8 * n); err != nil {
			return err
		}
		if a.sums, err = d.allocate(uint64(8*n), "hashes"); err != nil {
			return err
		}
	}
	return d.drv.Fill8(a.sums.ptr, 0, uint64(8*n), a.stream)
}

// Hash gathers the tensor's bytes from the planes that the kernels read.
func (w *weights) Hash(tensor int) (uint64, error) {
	sums, err := w.hash(tensor, tensor+1)
	if err != nil {
		return 0, err
	}
	return sums[0], nil
}

// Hashes is Hash of all tensors.
func (w *weights) Hashes() ([]uint64, error) { return w.hash(0, len(w.places)) }

func (w *weights) hash(from, to int) ([]uint64, error) {
	for tensor := from; tensor < to; tensor++ {
		if err := w.check(tensor); err != nil {
			return nil, err
		}
	}
	d := w.dev
	unbind, err := d.bind()
	if err != nil {
		return nil, err
	}
	defer unbind()
	a := &d.hashes
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := a.prepare(d, to-from); err != nil {
		return nil, d.wrap(err, "hash")
	}
	const threads = 256
	for tensor := from; tensor < to; tensor++ {
		l, err := newLaunch(d, "hash_tensor", threads, kernels.HashParams{Layout: w.layout(tensor), Sum: uint64(a.sums.ptr) + uint64(8*(tensor-from))})
		if err != nil {
			return nil, err
		}
		words := (w.places[tensor].tensor.Bytes() + 7) / 8
		if err := start(d, l.grid(min(ceilDiv(words, threads), 16*d.props.SMs), 1, 1), a.stream); err != nil {
			return nil, fmt.Errorf("hash of tensor %q: %w", w.places[tensor].tensor.Name, err)
		}
	}
	bytes := 8 * (to - from)
	err = d.drv.CopyToHost(a.host[:bytes], a.sums.ptr, a.stream)
	if err == nil {
		err = d.drv.SyncStream(a.stream)
	}
	if err != nil {
		return nil, d.wrap(err, "hash")
	}
	sums := make([]uint64, to-from)
	for i := range sums {
		sums[i] = binary.LittleEndian.Uint64(a.host[8*i:])
	}
	return sums, nil
}
