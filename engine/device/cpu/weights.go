package cpu

import (
	"fmt"
	"sync"
	"sync/atomic"

	"kigo/engine/device"
)

// weightAlign keeps every tensor on a cache line of its own.
const weightAlign = 64

// weights are tensors in one block of memory. Bytes arrive as in the file.
// When a tensor is complete, which is when it is first hashed or compiled,
// a matrix is rearranged in place into panels, and the hash is that of the
// bytes taken out of the panels again. What has one row stays as it is.
type weights struct {
	tensors []device.Tensor
	homes   []home
	mem     *memory
	closed  atomic.Bool
}

// home is where a tensor lives.
type home struct {
	offset, size int // size is that of whole panels
	packing      packing
	pack         sync.Once
	packed       atomic.Bool
}

// NewWeights reserves one block of memory for all tensors.
func (d *Device) NewWeights(tensors []device.Tensor) (device.Weights, error) {
	w := &weights{tensors: tensors, homes: make([]home, len(tensors))}
	size := 0
	for i := range tensors {
		t, h := &tensors[i], &w.homes[i]
		h.packing = newPacking(t.Format, t.Cols)
		h.offset, h.size = size, t.Bytes()
		if t.Rows > 1 {
			h.size = panelsOf(t.Rows) * h.packing.panelBytes()
		}
		size += (h.size + weightAlign - 1) / weightAlign * weightAlign
		if size < h.offset || h.size < t.Bytes() {
			return nil, fmt.Errorf("%w: tensor %q overflows the address space", device.ErrOutOfMemory, t.Name)
		}
	}
	mem, err := allocate(size)
	if err != nil {
		return nil, fmt.Errorf("weights of %d tensors: %w", len(tensors), err)
	}
	mem.wantHugePages()
	w.mem = mem
	return w, nil
}

// bytes are a tensor's bytes: of the file until it is packed, panels then.
func (w *weights) bytes(tensor int) []byte {
	h := &w.homes[tensor]
	return w.mem.bytes[h.offset : h.offset+h.size]
}

// pack makes panels of a tensor, once, whoever asks first.
func (w *weights) pack(tensor int) {
	t, h := &w.tensors[tensor], &w.homes[tensor]
	if t.Rows == 1 {
		return
	}
	h.pack.Do(func() {
		h.packed.Store(true)
		packMatrix(&h.packing, w.bytes(tensor), w.bytes(tensor)[:t.Bytes()])
	})
}

// packMatrix makes panels of the rows in file. The two may begin at the same
// byte.
func packMatrix(p *packing, panels, file []byte) {
	size := p.panelBytes()
	rows := make([]byte, size)
	for at := 0; at < len(file); at += size {
		n := copy(rows, file[at:])
		p.pack(panels[at:at+size], rows[:n])
	}
}

func (w *weights) Bytes() uint64 { return uint64(len(w.mem.bytes)) }

func (w *weights) Hash(tensor int) (uint64, error) {
	if w.closed.Load() {
		return 0, fmt.Errorf("weights: %w", device.ErrClosed)
	}
	if tensor < 0 || tensor >= len(w.tensors) {
		return 0, fmt.Errorf("tensor %d of %d", tensor, len(w.tensors))
	}
	w.pack(tensor)
	t, p := &w.tensors[tensor], &w.homes[tensor].packing
	var h device.Hash
	if t.Rows == 1 {
		h.Add(0, w.bytes(tensor))
		return uint64(h), nil
	}
	rows := make([]byte, p.panelBytes())
	for at, all := 0, w.bytes(tensor); at < t.Bytes(); at += len(rows) {
		rows = rows[:min(len(rows), t.Bytes()-at)]
		p.unpack(rows, all[at:at+p.panelBytes()])
		h.Add(at, rows) // 16 rows are a multiple of 8 bytes
	}
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
	t := &u.w.tensors[tensor]
	b := u.w.bytes(tensor)[:t.Bytes()]
	if off < 0 || n < 0 || off > len(b) || n > len(b)-off {
		return nil, fmt.Errorf("tensor %q: bytes %d+%d of %d", t.Name, off, n, len(b))
	}
	if u.w.homes[tensor].packed.Load() {
		return nil, fmt.Errorf("tensor %q: an upload after its hash was taken or a program was compiled", t.Name)
	}
	return b[off : off+n : off+n], nil
}

func (u uploader) Commit() error { return nil }
func (u uploader) Close() error  { return nil }
