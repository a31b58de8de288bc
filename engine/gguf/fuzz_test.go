package gguf_test

import (
	"bytes"
	"errors"
	"reflect"
	"slices"
	"testing"

	"kigo/engine/gguf"
	"kigo/engine/gguf/gguftest"
)

// FuzzParse: any bytes either give an error that wraps one of the sentinels, or a
// table that is sound and survives being written and read again; and neither
// takes more memory than is promised.
func FuzzParse(f *testing.F) {
	for _, name := range []string{"values.gguf", "version2.gguf", "big-endian.gguf", "nested.gguf"} {
		f.Add(golden(f, name))
	}
	for _, c := range gguftest.Hostile() {
		f.Add([]byte(c.Data))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var file *gguf.File
		var err error
		spent := allocated(func() { file, err = parse(data) })
		if spent > uint64(16<<20+4*len(data)) {
			t.Errorf("%d bytes allocated for %d", spent, len(data))
		}
		if err != nil {
			if !errors.Is(err, gguf.ErrFormat) && !errors.Is(err, gguf.ErrTruncated) && !errors.Is(err, gguf.ErrUnsupported) {
				t.Errorf("an error without a sentinel: %v", err)
			}
			return
		}
		checkSound(t, file)
		again, err := parse(rewrite(t, file, data))
		if err != nil {
			t.Fatalf("its own header, written again: %v", err)
		}
		checkEqual(t, file, again)
	})
}

// checkSound checks what the package promises of every File.
func checkSound(t *testing.T, f *gguf.File) {
	t.Helper()
	keys := map[string]bool{}
	for _, kv := range f.KVs {
		if kv.Key == "" || keys[kv.Key] {
			t.Errorf("key %q is empty or there twice", kv.Key)
		}
		keys[kv.Key] = true
		kv.Value.Any()
	}
	order := slices.Clone(f.Tensors)
	slices.SortFunc(order, func(a, b gguf.Tensor) int { return int(a.Offset - b.Offset) })
	end := f.DataOffset
	for _, tensor := range order {
		if tensor.Offset < end || tensor.Size <= 0 || tensor.Offset%int64(f.Alignment) != 0 {
			t.Errorf("tensor %q: %d bytes at %d, after %d", tensor.Name, tensor.Size, tensor.Offset, end)
		}
		end = tensor.Offset + tensor.Size
		if end > f.Size {
			t.Errorf("tensor %q ends at %d of %d", tensor.Name, end, f.Size)
		}
		if found, ok := f.Tensor(tensor.Name); !ok || found.Offset != tensor.Offset {
			t.Errorf("tensor %q is not found by its name", tensor.Name)
		}
		if n := len(tensor.Dims); n < 1 || n > 4 || slices.Contains(tensor.Dims, 0) {
			t.Errorf("tensor %q: dimensions %d", tensor.Name, tensor.Dims)
		}
	}
}

func rewrite(t *testing.T, f *gguf.File, data []byte) []byte {
	t.Helper()
	return write(t, f.KVs, f.Tensors, func(tensor *gguf.Tensor) []byte {
		original, _ := f.Tensor(tensor.Name)
		return data[original.Offset : original.Offset+original.Size]
	})
}

func checkEqual(t *testing.T, a, b *gguf.File) {
	t.Helper()
	if len(a.KVs) != len(b.KVs) || len(a.Tensors) != len(b.Tensors) || a.Alignment != b.Alignment {
		t.Fatalf("%d keys, %d tensors, alignment %d against %d, %d, %d",
			len(a.KVs), len(a.Tensors), a.Alignment, len(b.KVs), len(b.Tensors), b.Alignment)
	}
	for i := range a.KVs {
		// Encoded again, so that NaN equals itself.
		if a.KVs[i].Key != b.KVs[i].Key || !bytes.Equal(encoded(t, a.KVs[i]), encoded(t, b.KVs[i])) {
			t.Errorf("key %q differs", a.KVs[i].Key)
		}
	}
	for i := range a.Tensors {
		x, y := a.Tensors[i], b.Tensors[i]
		if x.Name != y.Name || x.Type != y.Type || x.Size != y.Size || !reflect.DeepEqual(x.Dims, y.Dims) {
			t.Errorf("tensor %+v became %+v", x, y)
		}
	}
}

func encoded(t *testing.T, kv gguf.KV) []byte {
	t.Helper()
	return write(t, []gguf.KV{kv}, nil, nil)
}
