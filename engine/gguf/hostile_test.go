package gguf_test

import (
	"encoding/binary"
	"errors"
	"io"
	"runtime"
	"strings"
	"testing"

	"kigo/engine/gguf"
	"kigo/engine/gguf/gguftest"
	"kigo/engine/quant"
)

// Every bad header is refused by name, and within the memory promised for it.
func TestHostileHeaders(t *testing.T) {
	for _, c := range gguftest.Hostile() {
		t.Run(c.Name, func(t *testing.T) {
			var err error
			spent := allocated(func() { _, err = parse(c.Data) })
			if !errors.Is(err, c.Want) {
				t.Fatalf("%v, want %v", err, c.Want)
			}
			if !strings.Contains(err.Error(), c.Says) {
				t.Errorf("%q does not say %q", err, c.Says)
			}
			if bound := uint64(16<<20 + 4*len(c.Data)); spent > bound {
				t.Errorf("%d bytes allocated for a header of %d", spent, len(c.Data))
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
	_, err := parse(gguftest.One("t", 16, 0, 256))
	if !errors.Is(err, quant.ErrUnknownType) || !errors.Is(err, gguf.ErrUnsupported) || !strings.Contains(err.Error(), `"t"`) {
		t.Errorf("%v, want ErrUnsupported and quant.ErrUnknownType, naming the tensor", err)
	}
}

// The largest headers that the limits allow stay within the promised memory, and
// so do those one step beyond a limit.
func TestLargeHeaders(t *testing.T) {
	empties := func(n int) gguftest.Raw {
		return gguftest.Start(3, 0, 1).KV("a", gguf.Array).U32(8).U64(uint64(n)).Zeros(8 * n)
	}
	keys := func(n int) gguftest.Raw {
		b := gguftest.Start(3, 0, uint64(n))
		for i := range n {
			b = b.KV(string(binary.BigEndian.AppendUint32([]byte("k"), uint32(i))), gguf.Uint8).Zeros(1)
		}
		return b
	}
	tensors := func(n int) gguftest.Raw {
		b := gguftest.Start(3, uint64(n), 0)
		for i := range n {
			b = b.Tensor(string(binary.BigEndian.AppendUint32([]byte("t"), uint32(i))), quant.F32, uint64(32*i), 1, 1, 1, 1)
		}
		return b.Data(32 * n)
	}
	// Strings of just under a chunk: each starts a new one.
	long := gguftest.Start(3, 0, 1).KV("a", gguf.Array).U32(8).U64(24)
	for range 24 {
		long = long.Str(strings.Repeat("x", 1<<20-16))
	}
	for _, c := range []struct {
		name   string
		data   gguftest.Raw
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
		{"a header of 49 MiB", gguftest.Start(3, 0, 1).KV("a", gguf.Array).U32(0).U64(49 << 20).Zeros(49 << 20), 0, gguf.ErrFormat},
		{"string of 33 MiB", gguftest.Start(3, 0, 1).KV("s", gguf.String).U64(33 << 20).Zeros(33 << 20), 0, gguf.ErrFormat},
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
