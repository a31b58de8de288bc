package gguf

import (
	"encoding/binary"
	"fmt"
	"io"
	"math"

	"kigo/engine/quant"
)

// writeVersion is the version of the files that Kigo writes.
const writeVersion = 3

// Writer writes a GGUF file front to back: the header at once, then the tensors'
// bytes in the table's order, as they come. It needs no seeking, and keeps nothing
// of the data.
//
//	w, err := gguf.NewWriter(out, kvs, tensors)
//	for _, t := range tensors {
//		err = w.Begin(t.Name)
//		_, err = w.Write(data) // as often as it takes
//	}
//	err = w.Close()
//
// The first error ends the file: every later call returns it.
type Writer struct {
	w     io.Writer
	file  File
	next  int   // the tensor that Begin expects
	left  int64 // bytes that the current tensor still wants
	pos   int64
	err   error
	zeros []byte // for padding, at most an alignment's worth
}

// NewWriter lays the tensors out in the order given, and writes the header and
// the padding before the data. Of each tensor it takes Name, Dims and Type; Offset
// and Size are computed. general.alignment is honoured where the metadata has it.
// What Parse would refuse with its default limits for keys, names, dimensions,
// types and sizes is refused here, with the same sentinels.
func NewWriter(w io.Writer, kvs []KV, tensors []Tensor) (*Writer, error) {
	alignment, err := alignmentOf(kvs)
	if err != nil {
		return nil, err
	}
	wr := &Writer{w: w, file: File{Version: writeVersion, Alignment: alignment, KVs: kvs}, zeros: make([]byte, alignment)}
	if err := wr.layOut(tensors); err != nil {
		return nil, err
	}
	header, err := wr.header()
	if err != nil {
		return nil, err
	}
	f := &wr.file
	f.DataOffset = alignUp(int64(len(header)), int64(alignment))
	f.Size = f.DataOffset
	for i := range f.Tensors {
		t := &f.Tensors[i]
		if t.Offset > math.MaxInt64-f.DataOffset-t.Size-int64(alignment) {
			return nil, fmt.Errorf("%w: tensor %.80q: the size of the file overflows", ErrFormat, t.Name)
		}
		t.Offset += f.DataOffset
		f.Size = alignUp(t.Offset+t.Size, int64(alignment))
	}
	if err := wr.put(header); err != nil {
		return nil, err
	}
	return wr, wr.pad()
}

// File describes the file as it will be once closed. It must not be changed.
func (w *Writer) File() *File { return &w.file }

// layOut fills in file.Tensors, with offsets from the start of the data.
func (w *Writer) layOut(tensors []Tensor) error {
	lim := Limits{}.withDefaults()
	f := &w.file
	f.Tensors = make([]Tensor, len(tensors))
	f.byName = make(map[string]int, len(tensors))
	var offset int64
	for i, t := range tensors {
		fail := func(format string, args ...any) error {
			return fmt.Errorf("%w: tensor %.80q: %w", ErrFormat, t.Name, fmt.Errorf(format, args...))
		}
		if n := len(t.Name); n == 0 || uint64(n) > lim.NameBytes {
			return fail("a name of %d bytes, 1 to %d are allowed", n, lim.NameBytes)
		}
		if _, dup := f.byName[t.Name]; dup {
			return fail("the tensor is there twice")
		}
		f.byName[t.Name] = i
		if n := len(t.Dims); n == 0 || n > maxDims {
			return fail("%d dimensions, 1 to %d are allowed", n, maxDims)
		}
		for j, d := range t.Dims {
			if d == 0 || d > math.MaxInt64 {
				return fail("dimension %d is %d", j, int64(d))
			}
		}
		format, err := quant.Lookup(t.Type)
		if err != nil {
			return fmt.Errorf("%w: tensor %.80q: %w", ErrUnsupported, t.Name, err)
		}
		if t.Size, err = tensorBytes(t.Dims, format); err != nil {
			return fail("%w", err)
		}
		t.Offset = offset
		f.Tensors[i] = t
		padded, err := dataBytes(f.Tensors[i:i+1], f.Alignment)
		if err != nil {
			return err
		}
		if padded > math.MaxInt64-offset {
			return fail("the sum of the tensors' sizes overflows")
		}
		offset += padded
	}
	return nil
}

// header encodes everything before the padding.
func (w *Writer) header() ([]byte, error) {
	lim := Limits{}.withDefaults()
	le := binary.LittleEndian
	b := append([]byte(nil), magic...)
	b = le.AppendUint32(b, writeVersion)
	b = le.AppendUint64(b, uint64(len(w.file.Tensors)))
	b = le.AppendUint64(b, uint64(len(w.file.KVs)))
	seen := make(map[string]struct{}, len(w.file.KVs))
	for _, kv := range w.file.KVs {
		if n := len(kv.Key); n == 0 || uint64(n) > lim.KeyBytes {
			return nil, fmt.Errorf("%w: key %.80q: %d bytes, 1 to %d are allowed", ErrFormat, kv.Key, n, lim.KeyBytes)
		}
		if _, dup := seen[kv.Key]; dup {
			return nil, fmt.Errorf("%w: key %.80q: the key is there twice", ErrFormat, kv.Key)
		}
		seen[kv.Key] = struct{}{}
		b = appendString(b, kv.Key)
		b = appendValue(b, kv.Value)
	}
	for i := range w.file.Tensors {
		t := &w.file.Tensors[i]
		b = appendString(b, t.Name)
		b = le.AppendUint32(b, uint32(len(t.Dims)))
		for _, d := range t.Dims {
			b = le.AppendUint64(b, d)
		}
		b = le.AppendUint32(b, uint32(t.Type))
		b = le.AppendUint64(b, uint64(t.Offset))
	}
	return b, nil
}

// Begin starts the data of the tensor with this name, which must be the next one
// of the table; the one before must be complete.
func (w *Writer) Begin(name string) error {
	switch {
	case w.err != nil:
		return w.err
	case w.left > 0:
		return w.fail(fmt.Errorf("tensor %.80q lacks %d bytes", w.file.Tensors[w.next-1].Name, w.left))
	case w.next == len(w.file.Tensors):
		return w.fail(fmt.Errorf("tensor %.80q comes after the last of the table", name))
	}
	t := &w.file.Tensors[w.next]
	if t.Name != name {
		return w.fail(fmt.Errorf("tensor %.80q comes where the table has %.80q", name, t.Name))
	}
	if err := w.pad(); err != nil {
		return err
	}
	w.next++
	w.left = t.Size
	return nil
}

// Write appends to the current tensor's data. More than its size is an error, and
// then nothing of p is written.
func (w *Writer) Write(p []byte) (int, error) {
	if w.err != nil {
		return 0, w.err
	}
	if int64(len(p)) > w.left {
		name := "none"
		if w.next > 0 {
			name = w.file.Tensors[w.next-1].Name
		}
		return 0, w.fail(fmt.Errorf("%d bytes for tensor %.80q, which takes %d more", len(p), name, w.left))
	}
	if err := w.put(p); err != nil {
		return 0, err
	}
	w.left -= int64(len(p))
	return len(p), nil
}

// Close pads the last tensor and checks that the file is complete. It does not
// close the underlying writer.
func (w *Writer) Close() error {
	switch {
	case w.err != nil:
		return w.err
	case w.left > 0:
		return w.fail(fmt.Errorf("tensor %.80q lacks %d bytes", w.file.Tensors[w.next-1].Name, w.left))
	case w.next < len(w.file.Tensors):
		return w.fail(fmt.Errorf("tensor %.80q and those after it are missing", w.file.Tensors[w.next].Name))
	}
	if err := w.pad(); err != nil {
		return err
	}
	w.err = fmt.Errorf("gguf: the writer is closed")
	return nil
}

// fail keeps the first error.
func (w *Writer) fail(err error) error {
	w.err = fmt.Errorf("write GGUF: %w", err)
	return w.err
}

func (w *Writer) put(p []byte) error {
	n, err := w.w.Write(p)
	w.pos += int64(n)
	if err == nil && n < len(p) {
		err = io.ErrShortWrite
	}
	if err != nil {
		return w.fail(err)
	}
	return nil
}

// pad writes zeros up to the alignment.
func (w *Writer) pad() error {
	if n := alignUp(w.pos, int64(w.file.Alignment)) - w.pos; n > 0 {
		return w.put(w.zeros[:n])
	}
	return nil
}

func appendString(b []byte, s string) []byte {
	return append(binary.LittleEndian.AppendUint64(b, uint64(len(s))), s...)
}

// appendValue encodes a value's type and the value.
func appendValue(b []byte, v Value) []byte {
	le := binary.LittleEndian
	b = le.AppendUint32(b, uint32(v.typ))
	switch v.typ {
	case String:
		return appendString(b, v.str)
	case Array:
		b = le.AppendUint32(b, uint32(v.arr.elem))
		b = le.AppendUint64(b, uint64(v.arr.n))
		b = append(b, v.arr.raw...)
		for _, piece := range v.arr.texts {
			b = append(b, piece...)
		}
		return b
	}
	return appendNumber(b, v.typ, v.num)
}
