package gguf_test

import (
	"bytes"
	"errors"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"testing"

	"kigo/engine/gguf"
	"kigo/engine/quant"
)

// The files in testdata are written by the Python package gguf (make_golden.py,
// which states the same values).
var goldenKVs = []struct {
	key  string
	want any
}{
	{"general.architecture", "llama"},
	{"general.alignment", uint32(64)},
	{"scalar.uint8", uint8(255)},
	{"scalar.int8", int8(-128)},
	{"scalar.uint16", uint16(65535)},
	{"scalar.int16", int16(-32768)},
	{"scalar.uint32", uint32(4294967295)},
	{"scalar.int32", int32(-2147483648)},
	{"scalar.float32", float32(0.1)},
	{"scalar.bool", true},
	{"scalar.string", "春の水\n"},
	{"scalar.uint64", uint64(math.MaxUint64)},
	{"scalar.int64", int64(math.MinInt64)},
	{"scalar.float64", 0.1},
	{"array.uint8", []uint8{0, 255}},
	{"array.int8", []int8{-128, 127}},
	{"array.uint16", []uint16{0, 65535}},
	{"array.int16", []int16{-32768, 32767}},
	{"array.uint32", []uint32{0, 4294967295}},
	{"array.int32", []int32{-2147483648, 2147483647}},
	{"array.float32", []float32{0.1, -1e30}},
	{"array.bool", []bool{true, false, true}},
	{"array.string", []string{"", "a", "蛙", "🌸"}},
	{"array.uint64", []uint64{0, math.MaxUint64}},
	{"array.int64", []int64{math.MinInt64, math.MaxInt64}},
	{"array.float64", []float64{0.1, -1e300}},
}

var goldenTensors = []struct {
	name   string
	dims   []uint64
	typ    quant.Type
	size   int64
	values []float32 // the first ones
}{
	{"vector", []uint64{3}, quant.F32, 12, []float32{1, -2, 0.5}},
	{"matrix", []uint64{3, 2}, quant.F16, 12, []float32{0, 1, 2, 3, 4, 5}},
	{"quantized", []uint64{64, 2}, quant.Q8_0, 136, []float32{0}},
	{"cube", []uint64{2, 3, 4}, quant.F32, 96, []float32{0, 1, 2, 3}},
}

func golden(tb testing.TB, name string) []byte {
	data, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		tb.Fatal(err)
	}
	return data
}

func parse(data []byte) (*gguf.File, error) {
	return gguf.Parse(bytes.NewReader(data), int64(len(data)), gguf.Limits{})
}

// Files that Python wrote, aligned to 64 bytes and not to the usual 32.
func TestLesson_AlignmentIsHonoured(t *testing.T) {
	for version, name := range map[uint32]string{3: "values.gguf", 2: "version2.gguf"} {
		t.Run(name, func(t *testing.T) {
			data := golden(t, name)
			f, err := parse(data)
			if err != nil {
				t.Fatal(err)
			}
			if f.Version != version || f.Alignment != 64 || f.Size != int64(len(data)) || f.DataOffset%64 != 0 {
				t.Errorf("version %d, alignment %d, size %d, data at %d", f.Version, f.Alignment, f.Size, f.DataOffset)
			}
			if len(f.KVs) != len(goldenKVs) {
				t.Errorf("%d entries, want %d", len(f.KVs), len(goldenKVs))
			}
			for _, kv := range goldenKVs {
				v, ok := f.Value(kv.key)
				if !ok || !reflect.DeepEqual(v.Any(), kv.want) {
					t.Errorf("%s = %T(%v), want %T(%v)", kv.key, v.Any(), v.Any(), kv.want, kv.want)
				}
			}
			if len(f.Tensors) != len(goldenTensors) {
				t.Errorf("%d tensors, want %d", len(f.Tensors), len(goldenTensors))
			}
			for _, want := range goldenTensors {
				got, ok := f.Tensor(want.name)
				if !ok {
					t.Errorf("no tensor %s", want.name)
					continue
				}
				if !slices.Equal(got.Dims, want.dims) || got.Type != want.typ || got.Size != want.size {
					t.Errorf("%s: %v %v of %d bytes", want.name, got.Dims, got.Type, got.Size)
				}
				format, err := quant.Lookup(got.Type)
				if err != nil {
					t.Fatal(err)
				}
				values := make([]float32, got.Elements())
				format.Dequantize(values, data[got.Offset:got.Offset+got.Size])
				if !slices.Equal(values[:len(want.values)], want.values) {
					t.Errorf("%s starts with %v, want %v", want.name, values[:len(want.values)], want.values)
				}
			}
			if _, ok := f.Tensor("absent"); ok {
				t.Error("a tensor that is not there was found")
			}
		})
	}
}

func TestGoldenRefused(t *testing.T) {
	for _, name := range []string{"big-endian.gguf", "nested.gguf"} {
		if _, err := parse(golden(t, name)); !errors.Is(err, gguf.ErrUnsupported) {
			t.Errorf("%s: %v, want ErrUnsupported", name, err)
		}
	}
}

// The Python package's file, taken apart and written again, is the same file.
func TestWriterEqualsPython(t *testing.T) {
	data := golden(t, "values.gguf")
	f, err := parse(data)
	if err != nil {
		t.Fatal(err)
	}
	var kvs []gguf.KV // made from Go values: every type is encoded
	for _, kv := range f.KVs {
		kvs = append(kvs, gguf.KV{Key: kv.Key, Value: valueOf(t, kv.Value.Any())})
	}
	var out bytes.Buffer
	w, err := gguf.NewWriter(&out, kvs, f.Tensors)
	if err != nil {
		t.Fatal(err)
	}
	for _, tensor := range f.Tensors {
		if err := w.Begin(tensor.Name); err != nil {
			t.Fatal(err)
		}
		for b := range slices.Chunk(data[tensor.Offset:tensor.Offset+tensor.Size], 7) {
			if _, err := w.Write(b); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(out.Bytes(), data) {
		t.Error("the files differ")
	}
	if w.File().Size != int64(len(data)) || !reflect.DeepEqual(w.File().Tensors, f.Tensors) {
		t.Error("File does not describe what was written")
	}
}

func valueOf(tb testing.TB, x any) gguf.Value {
	switch x := x.(type) {
	case uint8:
		return gguf.ValueOf(x)
	case int8:
		return gguf.ValueOf(x)
	case uint16:
		return gguf.ValueOf(x)
	case int16:
		return gguf.ValueOf(x)
	case uint32:
		return gguf.ValueOf(x)
	case int32:
		return gguf.ValueOf(x)
	case float32:
		return gguf.ValueOf(x)
	case bool:
		return gguf.ValueOf(x)
	case string:
		return gguf.ValueOf(x)
	case uint64:
		return gguf.ValueOf(x)
	case int64:
		return gguf.ValueOf(x)
	case float64:
		return gguf.ValueOf(x)
	case []uint8:
		return gguf.ArrayOf(x)
	case []int8:
		return gguf.ArrayOf(x)
	case []uint16:
		return gguf.ArrayOf(x)
	case []int16:
		return gguf.ArrayOf(x)
	case []uint32:
		return gguf.ArrayOf(x)
	case []int32:
		return gguf.ArrayOf(x)
	case []float32:
		return gguf.ArrayOf(x)
	case []bool:
		return gguf.ArrayOf(x)
	case []string:
		return gguf.ArrayOf(x)
	case []uint64:
		return gguf.ArrayOf(x)
	case []int64:
		return gguf.ArrayOf(x)
	case []float64:
		return gguf.ArrayOf(x)
	}
	tb.Fatalf("no value type for %T", x)
	return gguf.Value{}
}

// A valid file cut anywhere before its last tensor's end is short, not invalid.
func TestLesson_ShortFileIsRefusedAtEveryByte(t *testing.T) {
	data := golden(t, "values.gguf")
	f, err := parse(data)
	if err != nil {
		t.Fatal(err)
	}
	last := f.Tensors[len(f.Tensors)-1]
	end := int(last.Offset + last.Size)
	for n := range data {
		_, err := parse(data[:n])
		if n < end && !errors.Is(err, gguf.ErrTruncated) {
			t.Fatalf("cut at byte %d of %d: %v, want ErrTruncated", n, end, err)
		}
		if n >= end && err != nil {
			t.Fatalf("without padding, cut at byte %d: %v", n, err)
		}
		// The same where the size is right and the reader ends early.
		_, err = gguf.Parse(bytes.NewReader(data[:n]), int64(len(data)), gguf.Limits{})
		if !errors.Is(err, gguf.ErrTruncated) && n < int(f.DataOffset)-64 {
			t.Fatalf("reader that ends at byte %d: %v, want ErrTruncated", n, err)
		}
	}
}
