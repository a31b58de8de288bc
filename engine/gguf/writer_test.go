package gguf_test

import (
	"bytes"
	"errors"
	"io"
	"math"
	"reflect"
	"strings"
	"testing"

	"kigo/engine/gguf"
	"kigo/engine/quant"
)

// write makes a whole file; fill gives each tensor's bytes, zeros where it is nil.
func write(tb testing.TB, kvs []gguf.KV, tensors []gguf.Tensor, fill func(*gguf.Tensor) []byte) []byte {
	tb.Helper()
	var out bytes.Buffer
	w, err := gguf.NewWriter(&out, kvs, tensors)
	if err != nil {
		tb.Fatal(err)
	}
	for i := range w.File().Tensors {
		t := &w.File().Tensors[i]
		data := make([]byte, t.Size)
		if fill != nil {
			data = fill(t)
		}
		if err := w.Begin(t.Name); err != nil {
			tb.Fatal(err)
		}
		if _, err := w.Write(data); err != nil {
			tb.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		tb.Fatal(err)
	}
	return out.Bytes()
}

// Every format, at alignments from 1 to the largest, survives the round trip.
func TestRoundTrip(t *testing.T) {
	var tensors []gguf.Tensor
	for _, f := range quant.All() {
		tensors = append(tensors, gguf.Tensor{Name: f.Name, Dims: []uint64{uint64(3 * f.BlockSize), 5}, Type: f.Type})
	}
	fill := func(t *gguf.Tensor) []byte { return bytes.Repeat([]byte(t.Name[:2]), int(t.Size)/2) }
	for _, alignment := range []uint32{1, 2, 8, 32, 4096, 1 << 20} {
		kvs := []gguf.KV{{Key: "general.alignment", Value: gguf.ValueOf(alignment)}}
		data := write(t, kvs, tensors, fill)
		f, err := parse(data)
		if err != nil {
			t.Fatal(err)
		}
		if f.Alignment != alignment || len(f.Tensors) != len(tensors) {
			t.Fatalf("alignment %d, %d tensors", f.Alignment, len(f.Tensors))
		}
		for i := range f.Tensors {
			got := &f.Tensors[i]
			if got.Name != tensors[i].Name || got.Type != tensors[i].Type || !reflect.DeepEqual(got.Dims, tensors[i].Dims) {
				t.Errorf("%+v, want %+v", got, tensors[i])
			}
			if got.Offset%int64(alignment) != 0 {
				t.Errorf("%s at %d, alignment %d", got.Name, got.Offset, alignment)
			}
			if !bytes.Equal(data[got.Offset:got.Offset+got.Size], fill(got)) {
				t.Errorf("%s: other bytes", got.Name)
			}
		}
	}
}

// The writer refuses what the parser would refuse.
func TestWriterRefuses(t *testing.T) {
	tensor := func(name string, typ quant.Type, dims ...uint64) gguf.Tensor {
		return gguf.Tensor{Name: name, Type: typ, Dims: dims}
	}
	kv := func(key string) gguf.KV { return gguf.KV{Key: key, Value: gguf.ValueOf("x")} }
	for _, c := range []struct {
		name    string
		kvs     []gguf.KV
		tensors []gguf.Tensor
		want    error
	}{
		{"empty key", []gguf.KV{kv("")}, nil, gguf.ErrFormat},
		{"long key", []gguf.KV{kv(strings.Repeat("k", 1<<16))}, nil, gguf.ErrFormat},
		{"duplicate key", []gguf.KV{kv("a"), kv("a")}, nil, gguf.ErrFormat},
		{"alignment 3", []gguf.KV{{Key: "general.alignment", Value: gguf.ValueOf(uint32(3))}}, nil, gguf.ErrFormat},
		{"alignment as string", []gguf.KV{kv("general.alignment")}, nil, gguf.ErrFormat},
		{"empty name", nil, []gguf.Tensor{tensor("", quant.F32, 1)}, gguf.ErrFormat},
		{"long name", nil, []gguf.Tensor{tensor(strings.Repeat("n", 65), quant.F32, 1)}, gguf.ErrFormat},
		{"duplicate name", nil, []gguf.Tensor{tensor("a", quant.F32, 1), tensor("a", quant.F32, 1)}, gguf.ErrFormat},
		{"no dimensions", nil, []gguf.Tensor{tensor("a", quant.F32)}, gguf.ErrFormat},
		{"5 dimensions", nil, []gguf.Tensor{tensor("a", quant.F32, 1, 1, 1, 1, 1)}, gguf.ErrFormat},
		{"zero dimension", nil, []gguf.Tensor{tensor("a", quant.F32, 0)}, gguf.ErrFormat},
		{"negative dimension", nil, []gguf.Tensor{tensor("a", quant.F32, 1<<63)}, gguf.ErrFormat},
		{"rows without whole blocks", nil, []gguf.Tensor{tensor("a", quant.Q6_K, 128)}, gguf.ErrFormat},
		{"unknown type", nil, []gguf.Tensor{tensor("a", 99, 32)}, gguf.ErrUnsupported},
		{"elements overflow", nil, []gguf.Tensor{tensor("a", quant.F32, 1<<32, 1<<32)}, gguf.ErrFormat},
		{"padding overflows", nil, []gguf.Tensor{tensor("a", quant.F32, 1<<61-1)}, gguf.ErrFormat},
		{"sum overflows", nil, []gguf.Tensor{tensor("a", quant.F32, 1<<60), tensor("b", quant.F32, 1<<60)}, gguf.ErrFormat},
		{"header plus data overflow", nil, []gguf.Tensor{tensor("a", quant.F16, (math.MaxInt64-62)/2)}, gguf.ErrFormat},
	} {
		var out bytes.Buffer
		if _, err := gguf.NewWriter(&out, c.kvs, c.tensors); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
		if out.Len() > 0 {
			t.Errorf("%s: %d bytes written before the refusal", c.name, out.Len())
		}
	}
}

// Data in the wrong order or of the wrong size is refused, and the error stays.
func TestWriterOrder(t *testing.T) {
	tensors := []gguf.Tensor{
		{Name: "a", Type: quant.F32, Dims: []uint64{2}},
		{Name: "b", Type: quant.F32, Dims: []uint64{1}},
	}
	begin := func(name string) func(*gguf.Writer) error {
		return func(w *gguf.Writer) error { return w.Begin(name) }
	}
	put := func(n int) func(*gguf.Writer) error {
		return func(w *gguf.Writer) error { _, err := w.Write(make([]byte, n)); return err }
	}
	for _, c := range []struct {
		name  string
		steps []func(*gguf.Writer) error // the last one must fail
		says  string
	}{
		{"write before begin", []func(*gguf.Writer) error{put(1)}, "none"},
		{"wrong order", []func(*gguf.Writer) error{begin("b")}, `"b" comes where the table has "a"`},
		{"too much", []func(*gguf.Writer) error{begin("a"), put(4), put(5)}, `tensor "a", which takes 4 more`},
		{"too little, next", []func(*gguf.Writer) error{begin("a"), put(7), begin("b")}, `"a" lacks 1 bytes`},
		{"too little, close", []func(*gguf.Writer) error{begin("a"), put(7), (*gguf.Writer).Close}, `"a" lacks 1 bytes`},
		{"missing", []func(*gguf.Writer) error{begin("a"), put(8), (*gguf.Writer).Close}, `"b"`},
		{"one too many", []func(*gguf.Writer) error{begin("a"), put(8), begin("b"), put(4), begin("c")}, `"c"`},
		{"after close", []func(*gguf.Writer) error{begin("a"), put(8), begin("b"), put(4), (*gguf.Writer).Close, put(0)}, "closed"},
	} {
		w, err := gguf.NewWriter(io.Discard, nil, tensors)
		if err != nil {
			t.Fatal(err)
		}
		for i, step := range c.steps {
			err := step(w)
			switch last := i == len(c.steps)-1; {
			case !last && err != nil:
				t.Errorf("%s, step %d: %v", c.name, i, err)
			case last && (err == nil || !strings.Contains(err.Error(), c.says)):
				t.Errorf("%s: %v, want %q", c.name, err, c.says)
			}
		}
		if err := w.Close(); err == nil {
			t.Errorf("%s: the error was forgotten", c.name)
		}
	}
}

// A full disk is reported wherever it happens.
func TestWriterFullDisk(t *testing.T) {
	tensors := []gguf.Tensor{
		{Name: "a", Type: quant.F32, Dims: []uint64{2}},
		{Name: "b", Type: quant.F32, Dims: []uint64{1}},
	}
	whole := len(write(t, nil, tensors, nil))
	for room := range whole {
		w, err := gguf.NewWriter(&limited{room}, nil, tensors)
		for i := 0; err == nil && i < len(tensors); i++ {
			if err = w.Begin(tensors[i].Name); err == nil {
				_, err = w.Write(make([]byte, w.File().Tensors[i].Size))
			}
		}
		if err == nil {
			err = w.Close()
		}
		if !errors.Is(err, errFull) && !errors.Is(err, io.ErrShortWrite) {
			t.Fatalf("room for %d of %d bytes: %v", room, whole, err)
		}
	}
}

var errFull = errors.New("disk full")

// limited takes that many bytes, and writes short, once, before it fails.
type limited struct{ room int }

func (l *limited) Write(p []byte) (int, error) {
	n := min(l.room, len(p))
	l.room -= n
	if n == 0 && len(p) > 0 {
		return 0, errFull
	}
	return n, nil
}
