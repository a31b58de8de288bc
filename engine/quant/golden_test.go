package quant_test

import (
	"bytes"
	"math"
	"os"
	"testing"

	"kigo/engine/gguf"
	"kigo/engine/quant"
)

// goldenFile is testdata/blocks.gguf, made by the Python package gguf: raw blocks
// with the values that its numpy code gives them. How it was made is described in
// engine/testdata/golden.
type goldenFile struct {
	data []byte
	file *gguf.File
}

func openGolden(tb testing.TB) goldenFile {
	tb.Helper()
	data, err := os.ReadFile("testdata/blocks.gguf")
	if err != nil {
		tb.Fatal(err)
	}
	file, err := gguf.Parse(bytes.NewReader(data), int64(len(data)), gguf.Limits{})
	if err != nil {
		tb.Fatal(err)
	}
	return goldenFile{data, file}
}

// bytes returns a tensor's data, which must be of a type.
func (g goldenFile) bytes(tb testing.TB, name string, typ quant.Type) []byte {
	tb.Helper()
	t, ok := g.file.Tensor(name)
	if !ok || t.Type != typ {
		tb.Fatalf("no tensor %s of type %s", name, typ)
	}
	return g.data[t.Offset : t.Offset+t.Size]
}

func (g goldenFile) floats(tb testing.TB, name string) []float32 {
	tb.Helper()
	b := g.bytes(tb, name, quant.F32)
	x := make([]float32, len(b)/4)
	for i := range x {
		x[i] = math.Float32frombits(uint32(b[4*i]) | uint32(b[4*i+1])<<8 | uint32(b[4*i+2])<<16 | uint32(b[4*i+3])<<24)
	}
	return x
}

// blocks returns a format's golden blocks and their values. F32 has no golden
// blocks of its own: the values of the others are its blocks.
func (g goldenFile) blocks(tb testing.TB, f *quant.Format) (blocks []byte, values []float32) {
	tb.Helper()
	if f.Type == quant.F32 {
		return g.bytes(tb, "quantize.input", quant.F32), g.floats(tb, "quantize.input")
	}
	return g.bytes(tb, f.Name+".blocks", f.Type), g.floats(tb, f.Name+".float32")
}

// same compares bits: zeros keep their sign.
func same(tb testing.TB, what string, got, want []float32) {
	tb.Helper()
	if len(got) != len(want) {
		tb.Fatalf("%s: %d values, want %d", what, len(got), len(want))
	}
	for i := range got {
		if math.Float32bits(got[i]) != math.Float32bits(want[i]) {
			tb.Fatalf("%s: value %d is %v (%#08x), want %v (%#08x)", what, i,
				got[i], math.Float32bits(got[i]), want[i], math.Float32bits(want[i]))
		}
	}
}

// Every format of the table equals the independent implementation bit for bit.
func TestDequantizeEqualsGolden(t *testing.T) {
	g := openGolden(t)
	for _, f := range quant.All() {
		blocks, want := g.blocks(t, f)
		if len(want) < 16*f.BlockSize {
			t.Errorf("%s: only %d golden values", f.Name, len(want))
		}
		got := make([]float32, len(want))
		f.Dequantize(got, blocks)
		same(t, f.Name, got, want)
	}
}

// A row cut at any block gives the same values, wherever the block's bytes lie in
// memory (lessons: a 4-byte load at byte 2 of a 22-byte block).
func TestLesson_EveryFormatAtEveryBlockOffset(t *testing.T) {
	g := openGolden(t)
	for _, f := range quant.All() {
		blocks, want := g.blocks(t, f)
		n := min(len(want)/f.BlockSize, 40)
		got := make([]float32, n*f.BlockSize)
		for first := range n {
			for _, count := range []int{1, 2, n - first} {
				if first+count > n {
					continue
				}
				for shift := range 4 { // addresses of every alignment
					src := append(make([]byte, shift, shift+count*f.BlockBytes), blocks[first*f.BlockBytes:(first+count)*f.BlockBytes]...)
					f.Dequantize(got[:count*f.BlockSize], src[shift:])
					same(t, f.Name, got[:count*f.BlockSize], want[first*f.BlockSize:(first+count)*f.BlockSize])
				}
			}
		}
	}
}

// Quantize gives the bytes of the independent implementation; where that has none
// on record (F16, BF16 and F32 are exact there), the golden values give back
// their blocks.
func TestQuantizeEqualsGolden(t *testing.T) {
	g := openGolden(t)
	for _, f := range quant.All() {
		if f.Quantize == nil {
			continue
		}
		var want []byte
		var values []float32
		if f.BlockSize == 1 {
			want, values = g.blocks(t, f)
		} else {
			want, values = g.bytes(t, "quantize."+f.Name, f.Type), g.floats(t, "quantize.input")
		}
		got := make([]byte, len(want))
		f.Quantize(got, values)
		for i := range got {
			if got[i] != want[i] {
				block := i / f.BlockBytes
				t.Fatalf("%s: block %d is %x, want %x", f.Name, block,
					got[block*f.BlockBytes:(block+1)*f.BlockBytes], want[block*f.BlockBytes:(block+1)*f.BlockBytes])
			}
		}
	}
}

// What quantizers do with values that mean nothing is to give some block, in
// which nothing runs over.
func TestQuantizeOddValues(t *testing.T) {
	nan, inf := float32(math.NaN()), float32(math.Inf(1))
	for _, f := range quant.All() {
		if f.Quantize == nil {
			continue
		}
		for _, odd := range []float32{nan, inf, -inf, math.MaxFloat32, -math.MaxFloat32, 0x1p-149, -0x1p-140, 0} {
			src := make([]float32, f.BlockSize)
			src[0] = odd
			if f.BlockSize > 2 {
				src[2] = -odd / 3
			}
			dst := make([]byte, f.BlockBytes)
			f.Quantize(dst, src)
			f.Dequantize(src, dst)
		}
	}
}

func BenchmarkDequantize(b *testing.B) {
	g := openGolden(b)
	for _, f := range quant.All() {
		b.Run(f.Name, func(b *testing.B) {
			const values = 1 << 16
			one, _ := g.blocks(b, f)
			src := bytes.Repeat(one, values/f.BlockSize*f.BlockBytes/len(one)+1)[:values/f.BlockSize*f.BlockBytes]
			dst := make([]float32, values)
			b.SetBytes(4 * values) // of float32
			for b.Loop() {
				f.Dequantize(dst, src)
			}
			b.ReportMetric(float64(len(src))*float64(b.N)/b.Elapsed().Seconds()/1e9, "GB/s-in")
		})
	}
}

func BenchmarkQuantize(b *testing.B) {
	g := openGolden(b)
	for _, f := range quant.All() {
		if f.Quantize == nil {
			continue
		}
		b.Run(f.Name, func(b *testing.B) {
			const values = 1 << 16
			one := g.floats(b, "quantize.input")
			var src []float32
			for len(src) < values {
				src = append(src, one...)
			}
			src = src[:values]
			dst := make([]byte, values/f.BlockSize*f.BlockBytes)
			b.SetBytes(4 * values) // of float32
			for b.Loop() {
				f.Quantize(dst, src)
			}
		})
	}
}
