package gguf_test

import (
	"encoding/binary"
	"errors"
	"io"
	"runtime"
	"strings"
	"testing"

	"kigo/engine/gguf"
	"kigo/engine/quant"
)

// raw builds files byte by byte, so that it can build wrong ones.
type raw []byte

func (b raw) u32(n uint32) raw { return binary.LittleEndian.AppendUint32(b, n) }
func (b raw) u64(n uint64) raw { return binary.LittleEndian.AppendUint64(b, n) }
func (b raw) str(s string) raw { return append(b.u64(uint64(len(s))), s...) }
func (b raw) zeros(n int) raw  { return append(b, make([]byte, n)...) }

// start is a header's fixed part.
func start(version uint32, tensors, kvs uint64) raw {
	return raw("GGUF").u32(version).u64(tensors).u64(kvs)
}

// kv starts a metadata entry of a value type.
func (b raw) kv(key string, t gguf.ValueType) raw { return b.str(key).u32(uint32(t)) }

// tensor is an entry of the tensor table.
func (b raw) tensor(name string, t quant.Type, offset uint64, dims ...uint64) raw {
	b = b.str(name).u32(uint32(len(dims)))
	for _, d := range dims {
		b = b.u64(d)
	}
	return b.u32(uint32(t)).u64(offset)
}

// data pads to 32 bytes and adds n bytes of tensor data.
func (b raw) data(n int) raw {
	return b.zeros((32-len(b)%32)%32 + n)
}

// one is a file with one tensor, with 256 bytes of data.
func one(name string, t quant.Type, offset uint64, dims ...uint64) raw {
	return start(3, 1, 0).tensor(name, t, offset, dims...).data(256)
}

// aligned is a file with general.alignment and nothing else.
func aligned(n uint32) raw {
	return start(3, 0, 1).kv("general.alignment", gguf.Uint32).u32(n)
}

func nest(depth int) raw {
	b := start(3, 0, 1).kv("nest", gguf.Array)
	for range depth {
		b = b.u32(uint32(gguf.Array)).u64(1)
	}
	return b.u32(uint32(gguf.Uint8)).u64(1).zeros(1)
}

var hostile = []struct {
	name string
	data raw
	want error
	says string // the error names the place
}{
	{"empty file", raw{}, gguf.ErrTruncated, "byte 0"},
	{"bad magic", raw("GGML").u32(3).zeros(16), gguf.ErrFormat, `"GGML"`},
	{"short bad magic", raw("GGx"), gguf.ErrFormat, `"GGx"`},
	{"safetensors", raw{}.u64(2).zeros(64), gguf.ErrFormat, "starts with"},
	{"version 0", start(0, 0, 0), gguf.ErrUnsupported, "version 0"},
	{"version 1", start(1, 0, 0), gguf.ErrUnsupported, "version 1"},
	{"version 4", start(4, 0, 0), gguf.ErrUnsupported, "version 4"},
	{"version 2^32-1", start(1<<32-1, 0, 0), gguf.ErrUnsupported, "version 4294967295"},
	{"big-endian", raw("GGUF\x00\x00\x00\x03").zeros(16), gguf.ErrUnsupported, "big-endian"},
	{"tensor count -1", start(3, 1<<64-1, 0).zeros(100), gguf.ErrFormat, "18446744073709551615 tensors"},
	{"tensor count 2^63", start(3, 1<<63, 0).zeros(100), gguf.ErrFormat, "tensors"},
	{"tensor count beyond the file", start(3, 60000, 0).zeros(100), gguf.ErrTruncated, "60000 tensors"},
	{"metadata count -1", start(3, 0, 1<<64-1).zeros(100), gguf.ErrFormat, "18446744073709551615 metadata entries"},
	{"metadata count beyond the file", start(3, 0, 60000).zeros(100), gguf.ErrTruncated, "60000 metadata entries"},
	{"key length -1", start(3, 0, 1).u64(1<<64 - 1).zeros(100), gguf.ErrFormat, "key number 0, byte 24"},
	{"key length 2^63", start(3, 0, 1).u64(1 << 63).zeros(100), gguf.ErrFormat, "key number 0"},
	{"key too long", start(3, 0, 1).kv(strings.Repeat("k", 1<<16), gguf.Uint8).zeros(1), gguf.ErrFormat, "65536 bytes"},
	{"empty key", start(3, 0, 1).kv("", gguf.Uint8).zeros(9), gguf.ErrFormat, "empty key"},
	{"duplicate key", start(3, 0, 2).kv("twin", gguf.Uint8).zeros(1).kv("twin", gguf.Uint8).zeros(1), gguf.ErrFormat, `key "twin", byte 41`},
	{"unknown value type", start(3, 0, 1).kv("odd", 13).zeros(8), gguf.ErrFormat, `key "odd", byte 35: value type 13`},
	{"value type 2^32-1", start(3, 0, 1).kv("odd", 1<<32-1).zeros(8), gguf.ErrFormat, `key "odd"`},
	{"bool 7", append(start(3, 0, 1).kv("maybe", gguf.Bool), 7), gguf.ErrFormat, `key "maybe"`},
	{"bool 7 in an array", append(start(3, 0, 1).kv("maybe", gguf.Array).u32(7).u64(2), 1, 7), gguf.ErrFormat, "element 1"},
	{"string length -1", start(3, 0, 1).kv("s", gguf.String).u64(1<<64 - 1).zeros(50), gguf.ErrFormat, `key "s"`},
	{"string beyond the file", start(3, 0, 1).kv("s", gguf.String).u64(1000).zeros(50), gguf.ErrTruncated, `key "s"`},
	{"array length -1", start(3, 0, 1).kv("a", gguf.Array).u32(4).u64(1<<64 - 1).zeros(50), gguf.ErrFormat, `key "a"`},
	{"array length wraps", start(3, 0, 1).kv("a", gguf.Array).u32(4).u64(1<<62 + 1).zeros(50), gguf.ErrFormat, `key "a"`},
	{"array beyond the file", start(3, 0, 1).kv("a", gguf.Array).u32(4).u64(1000).zeros(50), gguf.ErrTruncated, `key "a"`},
	{"unknown element type", start(3, 0, 1).kv("a", gguf.Array).u32(99).u64(1).zeros(50), gguf.ErrFormat, "element type 99"},
	{"2^26 strings in 60 bytes", start(3, 0, 1).kv("a", gguf.Array).u32(8).u64(1 << 26).zeros(11), gguf.ErrFormat, "67108864 strings"},
	{"2^20 strings in 60 bytes", start(3, 0, 1).kv("a", gguf.Array).u32(8).u64(1 << 20).zeros(11), gguf.ErrTruncated, "1048576 strings"},
	{"string of an array beyond the file", start(3, 0, 1).kv("a", gguf.Array).u32(8).u64(2).str("x").u64(99).zeros(9), gguf.ErrTruncated, "element 1 of 2"},
	{"string of an array of length -1", start(3, 0, 1).kv("a", gguf.Array).u32(8).u64(2).str("x").u64(1<<64 - 1).zeros(9), gguf.ErrFormat, "element 1 of 2"},
	{"string of an array of length -8", start(3, 0, 1).kv("a", gguf.Array).u32(8).u64(2).str("x").u64(1<<64 - 8).zeros(9), gguf.ErrFormat, "element 1 of 2"},
	{"array of arrays", nest(1), gguf.ErrUnsupported, `key "nest"`},
	{"arrays nested 1,000 deep", nest(1000), gguf.ErrUnsupported, `key "nest"`},
	{"alignment 0", aligned(0), gguf.ErrFormat, "general.alignment"},
	{"alignment 13", aligned(13), gguf.ErrFormat, "general.alignment"},
	{"alignment 2^31", aligned(1 << 31), gguf.ErrFormat, "general.alignment"},
	{"alignment of type uint64", start(3, 0, 1).kv("general.alignment", gguf.Uint64).u64(32), gguf.ErrFormat, "want a uint32, found uint64"},
	{"alignment of type string", start(3, 0, 1).kv("general.alignment", gguf.String).str("32"), gguf.ErrFormat, "want a uint32, found string"},
	{"empty name", one("", quant.F32, 0, 4), gguf.ErrFormat, "tensor number 0"},
	{"name of 65 bytes", one(strings.Repeat("n", 65), quant.F32, 0, 4), gguf.ErrFormat, "name has 65 bytes"},
	{"name length -1", start(3, 1, 0).u64(1<<64 - 1).zeros(100), gguf.ErrFormat, "tensor number 0"},
	{"no dimensions", one("t", quant.F32, 0), gguf.ErrFormat, `tensor "t"`},
	{"5 dimensions", one("t", quant.F32, 0, 1, 1, 1, 1, 1), gguf.ErrFormat, "5 dimensions"},
	{"2^32-1 dimensions", start(3, 1, 0).str("t").u32(1<<32 - 1).zeros(100), gguf.ErrFormat, "4294967295 dimensions"},
	{"zero dimension", one("t", quant.F32, 0, 4, 0), gguf.ErrFormat, "dimension 1 is 0"},
	{"negative dimension", one("t", quant.F32, 0, 1<<64-1), gguf.ErrFormat, "dimension 0 is -1"},
	{"elements wrap to 0", one("t", quant.F32, 0, 1<<32, 1<<32), gguf.ErrFormat, "elements"},
	{"elements wrap to 1", one("t", quant.F32, 0, 1<<62+1, 1<<62+1), gguf.ErrFormat, "elements"},
	{"rows wrap", one("t", quant.F32, 0, 4, 1<<62, 1<<62), gguf.ErrFormat, "rows"},
	{"row size overflows", one("t", quant.F32, 0, 1<<62), gguf.ErrFormat, "overflows"},
	{"byte size overflows", one("t", quant.F32, 0, 1<<31, 1<<30), gguf.ErrFormat, "size"},
	{"padding overflows", one("t", quant.F32, 0, 1<<61-1), gguf.ErrFormat, "padding"},
	{"sum of sizes overflows", start(3, 2, 0).tensor("a", quant.F32, 0, 1<<60).tensor("b", quant.F32, 0, 1<<60).data(256), gguf.ErrFormat, "sum"},
	{"row is no whole number of blocks", one("t", quant.Q4_0, 0, 48, 2), gguf.ErrFormat, "48 values"},
	{"known type that Kigo does not read", one("t", 16, 0, 256), gguf.ErrUnsupported, `tensor "t", byte 45: unsupported tensor type: IQ2_XXS (16)`},
	{"unknown type", one("t", 4711, 0, 256), gguf.ErrUnsupported, "number 4711"},
	{"misaligned offset", one("t", quant.F32, 16, 4), gguf.ErrFormat, "offset 16"},
	{"offset past the end", one("t", quant.F32, 1<<20, 4), gguf.ErrFormat, `tensor "t"`},
	{"offset inside the header", one("t", quant.F32, 1<<64-32, 4), gguf.ErrFormat, `tensor "t"`},
	{"offset plus size overflows", one("t", quant.F32, 1<<63-64, 4), gguf.ErrFormat, `tensor "t"`},
	{"offset plus size wraps", one("t", quant.F32, 1<<64-32, 16), gguf.ErrFormat, `tensor "t"`},
	{"data cut short", one("t", quant.F32, 0, 65), gguf.ErrTruncated, `tensor "t"`},
	{"second tensor cut off", start(3, 2, 0).tensor("a", quant.F32, 0, 64).tensor("b", quant.F32, 256, 1).data(256), gguf.ErrTruncated, `tensor "b"`},
	{"tensors overlap", start(3, 2, 0).tensor("a", quant.F32, 0, 16).tensor("b", quant.F32, 32, 8).data(256), gguf.ErrFormat, "overlap"},
	{"tensors share their bytes", start(3, 2, 0).tensor("a", quant.F32, 0, 8).tensor("b", quant.F32, 0, 8).data(256), gguf.ErrFormat, "overlap"},
	{"small tensor inside a large one", start(3, 3, 0).tensor("c", quant.F32, 64, 8).tensor("a", quant.F32, 0, 48).tensor("b", quant.F32, 192, 8).data(256), gguf.ErrFormat, "overlap"},
	{"tensor twice", start(3, 2, 0).tensor("a", quant.F32, 0, 8).tensor("a", quant.F32, 32, 8).data(256), gguf.ErrFormat, `tensor "a"`},
}

// Every bad header is refused by name, and within the memory promised for it.
func TestHostileHeaders(t *testing.T) {
	for _, c := range hostile {
		t.Run(c.name, func(t *testing.T) {
			var err error
			spent := allocated(func() { _, err = parse(c.data) })
			if !errors.Is(err, c.want) {
				t.Fatalf("%v, want %v", err, c.want)
			}
			if !strings.Contains(err.Error(), c.says) {
				t.Errorf("%q does not say %q", err, c.says)
			}
			if bound := uint64(16<<20 + 4*len(c.data)); spent > bound {
				t.Errorf("%d bytes allocated for a header of %d", spent, len(c.data))
			}
		})
	}
}

// allocated returns the bytes that a call allocates.
func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

func TestLesson_UnknownTypeNamesTheTensor(t *testing.T) {
	_, err := parse(one("t", 16, 0, 256))
	if !errors.Is(err, quant.ErrUnknownType) || !errors.Is(err, gguf.ErrUnsupported) || !strings.Contains(err.Error(), `"t"`) {
		t.Errorf("%v, want ErrUnsupported and quant.ErrUnknownType, naming the tensor", err)
	}
}

// The largest headers that the limits allow stay within the promised memory, and
// so do those one step beyond a limit.
func TestLargeHeaders(t *testing.T) {
	empties := func(n int) raw {
		return start(3, 0, 1).kv("a", gguf.Array).u32(8).u64(uint64(n)).zeros(8 * n)
	}
	keys := func(n int) raw {
		b := start(3, 0, uint64(n))
		for i := range n {
			b = b.kv(string(binary.BigEndian.AppendUint32([]byte("k"), uint32(i))), gguf.Uint8).zeros(1)
		}
		return b
	}
	tensors := func(n int) raw {
		b := start(3, uint64(n), 0)
		for i := range n {
			b = b.tensor(string(binary.BigEndian.AppendUint32([]byte("t"), uint32(i))), quant.F32, uint64(32*i), 1, 1, 1, 1)
		}
		return b.data(32 * n)
	}
	// Strings of just under a chunk: each starts a new one.
	long := start(3, 0, 1).kv("a", gguf.Array).u32(8).u64(24)
	for range 24 {
		long = long.str(strings.Repeat("x", 1<<20-16))
	}
	for _, c := range []struct {
		name   string
		data   raw
		header int
		want   error
	}{
		{"most strings", empties(1 << 21), 0, nil},
		{"one string too many", empties(1<<21 + 1), 0, gguf.ErrFormat},
		{"most keys", keys(1 << 16), 0, nil},
		{"one key too many", keys(1<<16 + 1), 0, gguf.ErrFormat},
		{"most tensors", tensors(1 << 16), 69 << 16, nil},
		{"one tensor too many", tensors(1<<16 + 1), 69 << 16, gguf.ErrFormat},
		{"long strings", long, 0, nil},
		{"a header of 49 MiB", start(3, 0, 1).kv("a", gguf.Array).u32(0).u64(49 << 20).zeros(49 << 20), 0, gguf.ErrFormat},
		{"string of 33 MiB", start(3, 0, 1).kv("s", gguf.String).u64(33 << 20).zeros(33 << 20), 0, gguf.ErrFormat},
	} {
		t.Run(c.name, func(t *testing.T) {
			var f *gguf.File
			var err error
			spent := allocated(func() { f, err = parse(c.data) })
			if !errors.Is(err, c.want) {
				t.Fatalf("%v, want %v", err, c.want)
			}
			header := c.header
			if header == 0 {
				header = len(c.data)
			}
			if bound := uint64(16<<20 + 4*header); spent > bound {
				t.Errorf("%d bytes allocated for a header of %d, at most %d are promised", spent, header, bound)
			}
			if err != nil && spent > 1<<21 {
				t.Errorf("%d bytes allocated before the refusal", spent)
			}
			runtime.KeepAlive(f)
		})
	}
}

// Limits given by the caller are the ones that hold.
func TestLimits(t *testing.T) {
	data := golden(t, "values.gguf")
	for _, c := range []struct {
		name string
		lim  gguf.Limits
	}{
		{"HeaderBytes", gguf.Limits{HeaderBytes: 500}},
		{"KVs", gguf.Limits{KVs: 25}},
		{"Tensors", gguf.Limits{Tensors: 3}},
		{"KeyBytes", gguf.Limits{KeyBytes: 19}},
		{"NameBytes", gguf.Limits{NameBytes: 8}},
		{"StringBytes", gguf.Limits{StringBytes: 9}},
		{"Strings", gguf.Limits{Strings: 3}},
	} {
		_, err := gguf.Parse(strings.NewReader(string(data)), int64(len(data)), c.lim)
		if !errors.Is(err, gguf.ErrFormat) || !strings.Contains(err.Error(), "allowed") {
			t.Errorf("%s: %v, want ErrFormat", c.name, err)
		}
	}
	exact := gguf.Limits{KVs: 26, Tensors: 4, KeyBytes: 20, NameBytes: 9, StringBytes: 10, Strings: 4}
	if _, err := gguf.Parse(strings.NewReader(string(data)), int64(len(data)), exact); err != nil {
		t.Errorf("limits that just fit: %v", err)
	}
}

// A reader's own error comes through.
func TestReaderError(t *testing.T) {
	boom := errors.New("disk on fire")
	_, err := gguf.Parse(failing{boom}, 1000, gguf.Limits{})
	if !errors.Is(err, boom) || errors.Is(err, gguf.ErrFormat) || errors.Is(err, gguf.ErrTruncated) {
		t.Errorf("%v, want the reader's error", err)
	}
	if _, err := gguf.Parse(failing{nil}, 1000, gguf.Limits{}); !errors.Is(err, gguf.ErrTruncated) {
		t.Errorf("a reader that gives nothing: %v, want ErrTruncated", err)
	}
	if _, err := gguf.Parse(failing{io.EOF}, -1, gguf.Limits{}); !errors.Is(err, gguf.ErrTruncated) {
		t.Errorf("size -1: %v, want ErrTruncated", err)
	}
}

type failing struct{ err error }

func (f failing) ReadAt([]byte, int64) (int, error) { return 0, f.err }
