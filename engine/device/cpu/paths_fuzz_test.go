package cpu

import (
	"encoding/binary"
	"math"
	"testing"

	"kigo/engine/device"
	"kigo/engine/quant"
)

// fill repeats seed until b is full, changed a little each time.
func fill(b, seed []byte) {
	for i := range b {
		b[i] = seed[i%len(seed)] + byte(i/len(seed)*7)
	}
}

// FuzzProducts compares the paths on weights and activations of any bits: scales
// that are infinite or NaN, subnormal numbers, all integers.
func FuzzProducts(f *testing.F) {
	for i := range quant.All() {
		f.Add(uint8(i), uint8(1), uint8(3), []byte{0x12, 0x3c, 0x80, 0xff, 0x55}, []byte{0, 0, 0x80, 0x3f, 1, 2, 0xc0, 0xbf})
	}
	f.Fuzz(func(t *testing.T, format, blocks, n uint8, weights, activations []byte) {
		if len(weights) == 0 || len(activations) == 0 {
			return
		}
		all := quant.All()
		form := all[int(format)%len(all)]
		tensor := &device.Tensor{Name: "t", Format: form, Rows: 19, Cols: form.BlockSize * (int(blocks)%3 + 1)}
		if form.BlockSize == 1 {
			tensor.Cols = int(blocks)%70 + 1
		}
		raw := make([]byte, tensor.Bytes())
		fill(raw, weights)
		bits := make([]byte, 4*tensor.Cols*(int(n)%9+1))
		fill(bits, activations)
		x := make([]float32, len(bits)/4)
		for i := range x {
			x[i] = math.Float32frombits(binary.LittleEndian.Uint32(bits[4*i:]))
		}
		want := productOf(scalarPath, tensor, raw, x, 0, tensor.Rows)
		for _, p := range paths() {
			sameBits(t, p.name+" "+form.Name, productOf(p, tensor, raw, x, 0, tensor.Rows), want)
		}
	})
}

// FuzzRows compares what the paths make of rows of any bits.
func FuzzRows(f *testing.F) {
	f.Add(uint16(33), []byte{0, 0, 0x80, 0x3f, 0, 0, 0x80, 0x7f})
	f.Add(uint16(64), []byte{1, 2, 3, 0x40, 0, 0, 0, 0xc1, 9})
	f.Fuzz(func(t *testing.T, n uint16, seed []byte) {
		if len(seed) == 0 {
			return
		}
		bits := make([]byte, 4*2*(int(n)%200+1))
		fill(bits, seed)
		in := make([]float32, len(bits)/4)
		for i := range in {
			in[i] = math.Float32frombits(binary.LittleEndian.Uint32(bits[4*i:]))
		}
		run := func(p *path) (out []float32) {
			keep := func(v []float32) { out = append(out, v...) }
			v := func() []float32 { return append([]float32(nil), in[:len(in)/2]...) }
			a, b := v(), in[len(in)/2:]
			p.add(a, b)
			keep(a)
			a = v()
			p.gate(a, b)
			keep(a)
			a = v()
			p.norm(a, a, b, b[0])
			keep(a)
			a = v()
			p.scale(a, b[0])
			keep(a)
			keep([]float32{float32(p.sumSquares(b, new([8]float64)))})
			return out
		}
		want := run(scalarPath)
		for _, p := range paths() {
			sameBits(t, p.name, run(p), want)
		}
	})
}
