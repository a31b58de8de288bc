// Package cpu is the device that every machine has. It plays two roles: the
// served path, which multiplies quantized weights by activations quantized to
// 16 bits, and the reference, which dequantizes every weight and sums in
// float64: slow, and the oracle that other paths are measured against. The
// two share everything but the inner products (see lane).
package cpu

import (
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"

	"kigo/engine/device"
)

// Config chooses a CPU device.
type Config struct {
	Threads   int  // 0 means all cores that the process may use
	Reference bool // float64 sums on dequantized weights
}

// Device implements device.Device.
type Device struct {
	cfg     Config
	name    string // the processor's
	workers *workers
	close   sync.Once
}

// New starts a device's worker goroutines, which end with Close.
func New(cfg Config) (*Device, error) {
	if cfg.Threads < 0 || cfg.Threads > 1024 {
		return nil, fmt.Errorf("threads: %d, want 0 (all cores) to 1024", cfg.Threads)
	}
	if cfg.Threads == 0 {
		cfg.Threads = runtime.GOMAXPROCS(0)
	}
	return &Device{cfg: cfg, name: processorName(), workers: startWorkers(cfg.Threads)}, nil
}

// stepRows is small: on a CPU rows cost nearly the same in any company.
const stepRows = 16

// Info describes the processor and the machine's memory.
func (d *Device) Info() device.Info {
	total, free := machineMemory()
	return device.Info{Kind: "cpu", Name: d.name, Threads: d.cfg.Threads, MemoryTotal: total, MemoryFree: free, StepRows: stepRows}
}

// Close ends the worker goroutines.
func (d *Device) Close() error {
	d.close.Do(d.workers.stop)
	return nil
}

// weightAlign keeps every tensor on a cache line of its own.
const weightAlign = 64

type weights struct {
	tensors []device.Tensor
	offsets []int
	mem     *memory
	closed  atomic.Bool
}

// NewWeights reserves one block of memory for all tensors.
func (d *Device) NewWeights(tensors []device.Tensor) (device.Weights, error) {
	w := &weights{tensors: tensors, offsets: make([]int, len(tensors))}
	size := 0
	for i := range tensors {
		w.offsets[i] = size
		size += (tensors[i].Bytes() + weightAlign - 1) / weightAlign * weightAlign
		if size < w.offsets[i] {
			return nil, fmt.Errorf("%w: tensor %q overflows the address space", device.ErrOutOfMemory, tensors[i].Name)
		}
	}
	mem, err := allocate(size)
	if err != nil {
		return nil, fmt.Errorf("weights of %d tensors: %w", len(tensors), err)
	}
	w.mem = mem
	return w, nil
}

// bytes are the tensor's bytes as in the file.
func (w *weights) bytes(tensor int) []byte {
	off := w.offsets[tensor]
	return w.mem.bytes[off : off+w.tensors[tensor].Bytes()]
}

func (w *weights) Bytes() uint64 { return uint64(len(w.mem.bytes)) }

func (w *weights) Hash(tensor int) (uint64, error) {
	if w.closed.Load() {
		return 0, fmt.Errorf("weights: %w", device.ErrClosed)
	}
	if tensor < 0 || tensor >= len(w.tensors) {
		return 0, fmt.Errorf("tensor %d of %d", tensor, len(w.tensors))
	}
	var h device.Hash
	h.Add(0, w.bytes(tensor))
	return uint64(h), nil
}

func (w *weights) Close() error {
	if w.closed.Swap(true) {
		return nil
	}
	return w.mem.free()
}

// NewUploader hands out the weights' own memory, so that a file is read into
// place without a copy.
func (w *weights) NewUploader() (device.Uploader, error) {
	if w.closed.Load() {
		return nil, fmt.Errorf("weights: %w", device.ErrClosed)
	}
	return uploader{w}, nil
}

type uploader struct{ w *weights }

func (u uploader) Buffer(tensor, off, n int) ([]byte, error) {
	if u.w.closed.Load() {
		return nil, fmt.Errorf("weights: %w", device.ErrClosed)
	}
	if tensor < 0 || tensor >= len(u.w.tensors) {
		return nil, fmt.Errorf("tensor %d of %d", tensor, len(u.w.tensors))
	}
	b := u.w.bytes(tensor)
	if off < 0 || n < 0 || off > len(b) || n > len(b)-off {
		return nil, fmt.Errorf("tensor %q: bytes %d+%d of %d", u.w.tensors[tensor].Name, off, n, len(b))
	}
	return b[off : off+n : off+n], nil
}

func (u uploader) Commit() error { return nil }
func (u uploader) Close() error  { return nil }
