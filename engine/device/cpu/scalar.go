package cpu

import (
	"math"
	"unsafe"

	"kigo/engine/quant"
)

// scalarPath is the definition of what the served paths compute, and the path
// of processors that have no other. Conversions that look needless keep the
// compiler from fusing a product with a sum.
var scalarPath = newScalarPath()

func newScalarPath() *path {
	p := &path{
		name:     "scalar",
		quantize: scalarQuantize,
		product: map[quant.Type]func(*product){
			quant.F32: scalarFloats, quant.F16: scalarFloats, quant.BF16: scalarFloats,
			quant.Q4_0: scalarQuants, quant.Q4_1: scalarQuants, quant.Q5_0: scalarQuants, quant.Q5_1: scalarQuants,
			quant.Q8_0: scalarQuants, quant.Q4_K: scalarQuants, quant.Q5_K: scalarQuants, quant.Q6_K: scalarQuants,
		},
		scores: scalarScores, weigh: scalarWeigh, softmax: scalarSoftmax,
		sumSquares16: scalarSumSquares, norm16: scalarNorm, scale16: scalarScale, add16: scalarAdd, gate16: scalarGate,
	}
	p.tails = p
	return p
}

// scalarQuants multiplies rows of any quantized format, unpacked one by one.
func scalarQuants(p *product) {
	unpack := unpackers[p.m.tensor.Format.Type]
	w := p.values
	w.size(p.cols, p.m.packing.rowBytes)
	blocks := p.cols / blockLen
	for i := range p.panels * panelRows {
		panel := unsafe.Slice((*byte)(unsafe.Add(unsafe.Pointer(p.weights), i/panelRows*p.panelBytes)), p.panelBytes)
		p.m.packing.row(w.row, panel, i%panelRows)
		unpack(w.row, w)
		for r := range p.rows {
			records := unsafe.Slice((*byte)(unsafe.Add(unsafe.Pointer(p.x), r*p.xRow)), blocks*recordBytes)
			*(*float32)(unsafe.Add(unsafe.Pointer(p.y), r*p.yRow+4*i)) = w.dot(records)
		}
	}
}

// scalarFloats does so for the float formats.
func scalarFloats(p *product) {
	w := p.values
	w.row = sized(w.row, p.m.packing.rowBytes)
	w.scale = sized(w.scale, p.cols)
	for i := range p.panels * panelRows {
		panel := unsafe.Slice((*byte)(unsafe.Add(unsafe.Pointer(p.weights), i/panelRows*p.panelBytes)), p.panelBytes)
		p.m.packing.row(w.row, panel, i%panelRows)
		weights := expand(p.m.tensor.Format, w.scale, w.row)
		for r := range p.rows {
			x := unsafe.Slice((*float32)(unsafe.Add(unsafe.Pointer(p.x), r*p.xRow)), p.cols)
			y := float32(0)
			for b := 0; b < len(x); b += blockLen {
				sum := float32(0)
				for k := b; k < min(b+blockLen, len(x)); k++ {
					sum += float32(weights[k] * x[k])
				}
				y += sum
			}
			*(*float32)(unsafe.Add(unsafe.Pointer(p.y), r*p.yRow+4*i)) = y
		}
	}
}

func scalarSumSquares(v *float32, n int, sums *[8]float64) {
	for i, a := range unsafe.Slice(v, n) {
		sums[i%8] += float64(a) * float64(a) // exact: nothing changes if it is fused
	}
}

func scalarNorm(dst, src, gain *float32, scale float32, n int) {
	d, s, g := unsafe.Slice(dst, n), unsafe.Slice(src, n), unsafe.Slice(gain, n)
	for i := range d {
		d[i] = s[i] * scale * g[i]
	}
}

func scalarScale(v *float32, scale float32, n int) {
	for i, a := range unsafe.Slice(v, n) {
		unsafe.Slice(v, n)[i] = a * scale
	}
}

func scalarAdd(dst, src *float32, n int) {
	d, s := unsafe.Slice(dst, n), unsafe.Slice(src, n)
	for i := range d {
		d[i] += s[i]
	}
}

func scalarGate(gate, up *float32, n int) {
	g, u := unsafe.Slice(gate, n), unsafe.Slice(up, n)
	for i, a := range g {
		g[i] = a / (1 + exp(-a)) * u[i]
	}
}

// The exponential: x = n*ln 2 + r, a polynomial for e^r (Cephes, expf), and n
// into the exponent. Adding and subtracting 1.5*2^23 rounds to an integer,
// which then stands in the low bits of the sum.
const (
	expMost, expLeast = 88.0, -87.0 // beyond them the result is that of 88, and 0
	expLog2e          = 1.44269504088896341
	expMagic          = 12582912.0
	expLn2High        = 0.693359375
	expLn2Low         = -2.12194440e-4
)

var expPolynomial = [6]float32{1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1}

// exp is e^x with an error of at most two units in the last place.
func exp(x float32) float32 {
	if x > expMost {
		x = expMost
	}
	if x < expLeast {
		return 0
	}
	m := float32(x*expLog2e) + expMagic
	n := m - expMagic
	r := x - float32(n*expLn2High)
	r -= float32(n * expLn2Low)
	y := expPolynomial[0]
	for _, c := range expPolynomial[1:] {
		y = float32(y*r) + c
	}
	y = float32(y*float32(r*r)) + r
	y++
	return y * math.Float32frombits(math.Float32bits(m)<<23+0x3f800000)
}
