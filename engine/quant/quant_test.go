package quant_test

import (
	"errors"
	"math"
	"strings"
	"testing"

	"kigo/engine/quant"
)

// The numbers and sizes that GGUF files rely on, as GGML defines them.
func TestTable(t *testing.T) {
	want := []struct {
		typ         quant.Type
		number      uint32
		name        string
		size, bytes int
	}{
		{quant.F32, 0, "F32", 1, 4},
		{quant.F16, 1, "F16", 1, 2},
		{quant.Q4_0, 2, "Q4_0", 32, 18},
		{quant.Q4_1, 3, "Q4_1", 32, 20},
		{quant.Q5_0, 6, "Q5_0", 32, 22},
		{quant.Q5_1, 7, "Q5_1", 32, 24},
		{quant.Q8_0, 8, "Q8_0", 32, 34},
		{quant.Q4_K, 12, "Q4_K", 256, 144},
		{quant.Q5_K, 13, "Q5_K", 256, 176},
		{quant.Q6_K, 14, "Q6_K", 256, 210},
		{quant.BF16, 30, "BF16", 1, 2},
	}
	all := quant.All()
	if len(all) != len(want) {
		t.Fatalf("%d formats, want %d", len(all), len(want))
	}
	for i, w := range want {
		f := all[i]
		if f.Type != w.typ || uint32(f.Type) != w.number || f.Name != w.name || f.BlockSize != w.size || f.BlockBytes != w.bytes {
			t.Errorf("%+v, want %+v", f, w)
		}
		if f.Dequantize == nil {
			t.Errorf("%s has no dequantizer", f.Name)
		}
		if found, err := quant.Lookup(w.typ); err != nil || found != f {
			t.Errorf("Lookup(%d): %v, %v", w.number, found, err)
		}
		if found, err := quant.ByName(strings.ToLower(w.name)); err != nil || found != f {
			t.Errorf("ByName(%s): %v, %v", strings.ToLower(w.name), found, err)
		}
		if w.typ.String() != w.name {
			t.Errorf("type %d is called %s", w.number, w.typ)
		}
	}
	all[0] = nil
	if quant.All()[0] == nil {
		t.Error("All gives away the table")
	}
}

// An unknown format is an error that names it, never some default
// (lessons: quantized bytes read as F16).
func TestLesson_UnknownTypeIsAnError(t *testing.T) {
	known := map[quant.Type]bool{}
	for _, f := range quant.All() {
		known[f.Type] = true
	}
	for n := range quant.Type(300) {
		if f, err := quant.Lookup(n); known[n] != (err == nil) || err == nil && f.Type != n {
			t.Errorf("Lookup(%d): %v, %v", n, f, err)
		} else if err != nil && !errors.Is(err, quant.ErrUnknownType) {
			t.Errorf("Lookup(%d): %v is not ErrUnknownType", n, err)
		}
	}
	for _, c := range []struct {
		typ         quant.Type
		says, print string
	}{
		{16, "IQ2_XXS (16)", "IQ2_XXS"},
		{10, "Q2_K (10)", "Q2_K"},
		{4, "number 4", "type 4"}, // withdrawn from GGML
		{99, "number 99", "type 99"},
		{1<<32 - 1, "number 4294967295", "type 4294967295"},
	} {
		if _, err := quant.Lookup(c.typ); !strings.Contains(err.Error(), c.says) {
			t.Errorf("%q does not say %q", err, c.says)
		}
		if c.typ.String() != c.print {
			t.Errorf("%d prints as %s, want %s", uint32(c.typ), c.typ, c.print)
		}
	}
	for _, name := range []string{"", "q3_k", "Q8_0 ", strings.Repeat("x", 1000)} {
		_, err := quant.ByName(name)
		if !errors.Is(err, quant.ErrUnknownType) || !strings.Contains(err.Error(), "Q4_0, Q4_1") || len(err.Error()) > 200 {
			t.Errorf("ByName(%.20q): %v", name, err)
		}
	}
}

func TestRowBytes(t *testing.T) {
	for _, f := range quant.All() {
		size, bytes := uint64(f.BlockSize), uint64(f.BlockBytes)
		for _, n := range []uint64{0, 1, 2, 7, 1 << 20} {
			if got, err := f.RowBytes(n * size); err != nil || got != n*bytes {
				t.Errorf("%s: %d blocks take %d bytes, %v", f.Name, n, got, err)
			}
		}
		if size > 1 {
			for _, cols := range []uint64{1, size - 1, size + 1, math.MaxUint64} {
				if _, err := f.RowBytes(cols); err == nil {
					t.Errorf("%s: a row of %d is accepted", f.Name, cols)
				}
			}
		}
		_, err := f.RowBytes(math.MaxUint64 / size * size)
		if overflows := bytes > size; overflows != (err != nil) {
			t.Errorf("%s: the largest row: %v", f.Name, err)
		}
	}
}

// Slices that disagree are a programming error, not a reason to read elsewhere.
func TestShapesMustAgree(t *testing.T) {
	panics := func(f func()) (did bool) {
		defer func() { did = recover() != nil }()
		f()
		return
	}
	for _, f := range quant.All() {
		values, bytes := make([]float32, 2*f.BlockSize), make([]byte, 2*f.BlockBytes)
		f.Dequantize(values[:0], bytes[:0])
		if !panics(func() { f.Dequantize(values, bytes[:f.BlockBytes]) }) ||
			!panics(func() { f.Dequantize(values[:f.BlockSize], bytes) }) ||
			!panics(func() { f.Dequantize(values, bytes[:len(bytes)-1]) }) ||
			f.BlockSize > 1 && !panics(func() { f.Dequantize(values[:len(values)-1], bytes) }) {
			t.Errorf("%s: a wrong shape is accepted", f.Name)
		}
		if f.Quantize != nil {
			f.Quantize(bytes[:0], values[:0])
			if !panics(func() { f.Quantize(bytes[1:], values) }) || !panics(func() { f.Quantize(bytes, values[1:]) }) {
				t.Errorf("%s: a wrong shape is accepted by Quantize", f.Name)
			}
		}
	}
}
