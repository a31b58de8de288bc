package load_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"testing"

	"kigo/engine/device"
	"kigo/engine/device/cpu"
	"kigo/engine/load"
	"kigo/engine/quant"
)

// layout is a file of tensors of several sizes, among them one of more than
// one piece, one of a single element and one whose size is not a multiple of 8.
type layout struct {
	file    []byte
	sources []load.Source
	tensors []device.Tensor
}

func newLayout(t *testing.T) *layout {
	t.Helper()
	l := &layout{file: make([]byte, 100)}
	rng := rand.New(rand.NewPCG(1, 2))
	for i, c := range []struct {
		typ        quant.Type
		rows, cols int
	}{{quant.F32, 1, 1}, {quant.F16, 1500, 3000}, {quant.Q8_0, 3, 32}, {quant.F16, 7, 1}, {quant.Q4_K, 5, 512}} {
		f, err := quant.Lookup(c.typ)
		if err != nil {
			t.Fatal(err)
		}
		x := device.Tensor{Name: fmt.Sprintf("t%d", i), Format: f, Rows: c.rows, Cols: c.cols}
		raw := make([]byte, x.Bytes())
		f.Random(raw, 1, rng)
		l.sources = append(l.sources, load.Source{Name: x.Name, Offset: int64(len(l.file)), Size: int64(len(raw))})
		l.tensors = append(l.tensors, x)
		l.file = append(append(l.file, raw...), 0xaa, 0xbb)
	}
	return l
}

func (l *layout) weights(t *testing.T) device.Weights {
	t.Helper()
	dev, err := cpu.New(cpu.Config{Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	w, err := dev.NewWeights(l.tensors)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(w.Close(), dev.Close()); err != nil {
			t.Error(err)
		}
	})
	return w
}

// at gives a tensor's bytes on the device, to be read or spoilt.
func at(t *testing.T, w device.Weights, tensor int, size int64) []byte {
	t.Helper()
	up, err := w.NewUploader()
	if err != nil {
		t.Fatal(err)
	}
	b, err := up.Buffer(tensor, 0, int(size))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestReadAndVerify(t *testing.T) {
	l := newLayout(t)
	w := l.weights(t)
	var last load.Progress
	hashes, err := load.Read(t.Context(), bytes.NewReader(l.file), l.sources, w, func(p load.Progress) {
		if p.Bytes <= last.Bytes || p.Tensors < last.Tensors {
			t.Errorf("progress %+v after %+v", p, last)
		}
		last = p
	})
	if err != nil {
		t.Fatal(err)
	}
	total := int64(0)
	for i, s := range l.sources {
		total += s.Size
		if !bytes.Equal(at(t, w, i, s.Size), l.file[s.Offset:s.Offset+s.Size]) {
			t.Errorf("tensor %d differs from the file", i)
		}
		var whole device.Hash // in one piece, where Read had several
		whole.Add(0, l.file[s.Offset:s.Offset+s.Size])
		if hashes[i] != uint64(whole) {
			t.Errorf("tensor %d: hash %x, want %x", i, hashes[i], whole)
		}
	}
	if last.Tensors != len(l.sources) || last.Bytes != uint64(total) {
		t.Errorf("last progress %+v", last)
	}
	if err := load.Verify(t.Context(), l.sources, hashes, w); err != nil {
		t.Error(err)
	}
}

// The predecessor's fast load was suspected of not loading at all.
func TestLesson_FlippedBitsAndSwappedBlocksAreFound(t *testing.T) {
	l := newLayout(t)
	for _, tc := range []struct {
		name   string
		tensor int
		spoil  func(b []byte)
	}{
		{"one bit", 1, func(b []byte) { b[len(b)/2] ^= 0x10 }},
		{"the last bit", 3, func(b []byte) { b[len(b)-1] ^= 0x80 }},
		{"two blocks swapped", 2, func(b []byte) {
			tmp := bytes.Clone(b[:34])
			copy(b[:34], b[34:68])
			copy(b[34:68], tmp)
		}},
		{"a row of zeros", 4, func(b []byte) { clear(b[288:576]) }},
		{"nothing copied", 0, func(b []byte) { clear(b) }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := l.weights(t)
			hashes, err := load.Read(t.Context(), bytes.NewReader(l.file), l.sources, w, nil)
			if err != nil {
				t.Fatal(err)
			}
			tc.spoil(at(t, w, tc.tensor, l.sources[tc.tensor].Size))
			err = load.Verify(t.Context(), l.sources, hashes, w)
			if !errors.Is(err, load.ErrCorrupt) || !strings.Contains(err.Error(), l.sources[tc.tensor].Name) {
				t.Errorf("error %v, want ErrCorrupt that names %s", err, l.sources[tc.tensor].Name)
			}
		})
	}
}

func TestLesson_ShortFileEndsTheLoad(t *testing.T) {
	l := newLayout(t)
	_, err := load.Read(t.Context(), bytes.NewReader(l.file[:len(l.file)-10]), l.sources, l.weights(t), nil)
	if !errors.Is(err, load.ErrTruncated) || !strings.Contains(err.Error(), `"t4"`) {
		t.Errorf("error %v", err)
	}
}

// reader counts and can fail or cancel in the middle.
type reader struct {
	*bytes.Reader
	reads atomic.Int64
	after func(n int64) error
}

func (r *reader) ReadAt(p []byte, off int64) (int, error) {
	if err := r.after(r.reads.Add(1)); err != nil {
		return 0, err
	}
	return r.Reader.ReadAt(p, off)
}

func TestReadErrorNamesTheTensor(t *testing.T) {
	l := newLayout(t)
	broken := errors.New("broken disk")
	r := &reader{Reader: bytes.NewReader(l.file), after: func(n int64) error {
		if n == 10 {
			return broken
		}
		return nil
	}}
	_, err := load.Read(t.Context(), r, l.sources, l.weights(t), nil)
	if !errors.Is(err, broken) || !strings.Contains(err.Error(), `tensor "t`) {
		t.Errorf("error %v", err)
	}
}

func TestCancelEndsTheRead(t *testing.T) {
	l := newLayout(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	r := &reader{Reader: bytes.NewReader(l.file), after: func(n int64) error {
		if n == 5 {
			cancel()
		}
		return nil
	}}
	_, err := load.Read(ctx, r, l.sources, l.weights(t), nil)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	if n := r.reads.Load(); n > 5+int64(load.Threads()) {
		t.Errorf("%d reads after the cancel", n-5)
	}
}
