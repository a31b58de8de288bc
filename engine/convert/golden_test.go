package convert_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"kigo/engine/convert"
	"kigo/engine/gguf"
	"kigo/engine/quant"
)

// goldenF16 is what the Python package gguf makes of the Qwen2 model in F16.
type goldenF16 struct {
	File    string
	Tensors []struct {
		Name   string
		Dims   []uint64
		Type   string
		SHA256 string
	}
}

// The Qwen2 model converted to F16 has the tensors that an independent
// implementation makes, byte for byte: one of each type and shape, or all of them
// with KIGO_TEST_LONG=1.
func TestF16EqualsGolden(t *testing.T) {
	var golden goldenF16
	data, err := os.ReadFile("../testdata/golden/f16-qwen2.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, &golden); err != nil {
		t.Fatal(err)
	}
	model, err := os.Open(filepath.Join("../../models", golden.File))
	if err != nil {
		t.Fatalf("%v: run make models", err)
	}
	defer model.Close()
	info, err := model.Stat()
	if err != nil {
		t.Fatal(err)
	}
	var in io.ReaderAt = model
	size := info.Size()
	if os.Getenv("KIGO_TEST_LONG") == "" {
		some := sample(t, model, size)
		in, size = bytes.NewReader(some), int64(len(some))
	}
	before, err := gguf.Parse(in, size, gguf.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	out, err := os.Create(filepath.Join(t.TempDir(), "f16.gguf"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	r, err := convert.Convert(context.Background(), in, size, out, format(t, "f16"), nil)
	if err != nil {
		t.Fatal(err)
	}
	after, err := gguf.Parse(out, r.BytesOut, gguf.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	checked := map[quant.Type]int{}
	for _, want := range golden.Tensors {
		tensor, ok := after.Tensor(want.Name)
		if !ok {
			continue
		}
		original, _ := before.Tensor(want.Name)
		checked[original.Type]++
		if !slices.Equal(tensor.Dims, want.Dims) || tensor.Type.String() != want.Type {
			t.Errorf("%s: %s %d, want %s %d", want.Name, tensor.Type, tensor.Dims, want.Type, want.Dims)
		}
		sum := sha256.New()
		if _, err := io.Copy(sum, io.NewSectionReader(out, tensor.Offset, tensor.Size)); err != nil {
			t.Fatal(err)
		}
		if hex.EncodeToString(sum.Sum(nil)) != want.SHA256 {
			t.Errorf("%s (%s): other bytes", want.Name, original.Type)
		}
	}
	total := 0
	for _, typ := range []quant.Type{quant.F32, quant.Q4_K, quant.Q5_0, quant.Q6_K, quant.Q8_0} {
		if checked[typ] == 0 {
			t.Errorf("no tensor of type %s was compared", typ)
		}
		total += checked[typ]
	}
	if total != len(before.Tensors) || r.Kept != checked[quant.F32] || r.Kept+r.Converted != total {
		t.Errorf("%d tensors compared of %d; %+v", total, len(before.Tensors), r)
	}
}

// sample makes a small file of the first tensor of each type and shape in a model
// that has at most 8 MiB.
func sample(t *testing.T, model io.ReaderAt, size int64) []byte {
	f, err := gguf.Parse(model, size, gguf.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	type kind struct {
		typ  quant.Type
		cols uint64
	}
	seen := map[kind]bool{}
	var some []tensor
	for _, x := range f.Tensors {
		if k := (kind{x.Type, x.Dims[0]}); !seen[k] && x.Size <= 8<<20 {
			seen[k] = true
			data := make([]byte, x.Size)
			if _, err := model.ReadAt(data, x.Offset); err != nil {
				t.Fatal(err)
			}
			some = append(some, tensor{x.Name, x.Type, x.Dims, data})
		}
	}
	return file(t, f.KVs, some...)
}
