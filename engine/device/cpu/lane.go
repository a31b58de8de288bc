package cpu

import (
	"math"

	"kigo/engine/device"
	"kigo/engine/quant"
)

// lane is one worker's arithmetic: it holds one row of a weight matrix at a
// time and multiplies it with rows of activations. The served path and the
// reference differ in their lanes and in nothing else. A result depends on
// the weight row and the activation row alone, never on the other rows of a
// step, so a sequence gets the same bits in any company.
type lane interface {
	// load takes the weight row to multiply with.
	load(m *matrix, row int)
	// dot multiplies the loaded row with row r of x.
	dot(x *rows, r int) float32
	// dotFloats multiplies two float vectors of one length (attention scores).
	dotFloats(a, b []float32) float32
	// weightedSum sets out to the sum of w[i] * vectors of len(out) floats,
	// which vector(i) returns (attention values).
	weightedSum(out, w []float32, vector func(i int) []float32)
}

// matrix is a weight matrix in memory, in its file format.
type matrix struct {
	tensor   *device.Tensor
	data     []byte
	rowBytes int
	unpack   unpack // nil for the float formats
}

func newMatrix(t *device.Tensor, data []byte) *matrix {
	return &matrix{tensor: t, data: data, rowBytes: len(data) / t.Rows, unpack: unpackers[t.Format.Type]}
}

func (m *matrix) row(i int) []byte { return m.data[i*m.rowBytes : (i+1)*m.rowBytes] }

// unpackers has a row for each format that stores small integers. It is never
// written.
var unpackers = map[quant.Type]unpack{
	quant.Q4_0: unpackQ4_0,
	quant.Q4_1: unpackQ4_1,
	quant.Q5_0: unpackQ5_0,
	quant.Q5_1: unpackQ5_1,
	quant.Q8_0: unpackQ8_0,
	quant.Q4_K: unpackQ4K,
	quant.Q5_K: unpackQ5K,
	quant.Q6_K: unpackQ6K,
}

// rows are the activations that enter a product: n rows of width floats and,
// when a weight format asks for them, the same rows quantized to 16 bits with
// a scale for each 32 values: x = scale * q. sum is scale times the sum of the
// 32 integers, which formats with an offset multiply it by.
//
// Other engines quantize activations to 8 bits. Activations have outliers,
// which cost their neighbours in the block precision: on SmolLM2, logits are
// then off by 0.2 (root mean square), and one token in fifty is another than
// with exact arithmetic. With 16 bits they are off by less than a hundredth
// of that, integer sums are still exact in 32 bits, and the time is that of
// reading the weights either way.
type rows struct {
	n, width int
	f        []float32
	q        []int16
	scale    []float32 // one to 32 values
	sum      []float32 // one to 32 values
}

// blockLen is the number of values by which all quantized formats divide their
// rows, and which share a scale in quantized activations.
const blockLen = 32

func (x *rows) row(r int) []float32 { return x.f[r*x.width : (r+1)*x.width] }

// quantize fills the 16-bit form of row r: multiples of a block's largest
// magnitude over 32,767. A row whose width is no multiple of 32 cannot meet a
// quantized matrix.
func (x *rows) quantize(r int) {
	blocks := x.width / blockLen
	f, q := x.row(r), x.q[r*x.width:(r+1)*x.width]
	for b := range blocks {
		v := f[b*blockLen : (b+1)*blockLen]
		most := float32(0)
		for _, a := range v {
			most = max(most, float32(math.Abs(float64(a))))
		}
		scale, inverse := most/math.MaxInt16, float32(0)
		if scale > 0 {
			inverse = math.MaxInt16 / most
		}
		sum := int32(0)
		for i, a := range v {
			n := int32(math.RoundToEven(float64(a * inverse)))
			n = min(max(n, -math.MaxInt16), math.MaxInt16) // a rounded inverse may reach one further
			q[b*blockLen+i] = int16(n)
			sum += n
		}
		x.scale[r*blocks+b] = scale
		x.sum[r*blocks+b] = scale * float32(sum)
	}
}

// servedLane multiplies integers: the weights' own small integers with the
// activations' 16-bit ones, exactly, block by block; the block sums are scaled
// and added in float32, in the order of the blocks. Float formats are
// multiplied as float32 in four interleaved sums.
type servedLane struct {
	m   *matrix
	w   unpacked
	f   []float32 // the row of a float format: in buf, or in the weights themselves
	buf []float32
}

func (l *servedLane) load(m *matrix, row int) {
	l.m = m
	cols := m.tensor.Cols
	if m.unpack == nil {
		l.buf = sized(l.buf, cols)
		l.f = expand(m.tensor.Format, l.buf, m.row(row))
		return
	}
	l.w.size(cols)
	m.unpack(m.row(row), &l.w)
}

func (l *servedLane) dot(x *rows, r int) float32 {
	if l.m.unpack == nil {
		return l.dotFloats(l.f, x.row(r))
	}
	blocks := x.width / blockLen
	return l.w.dot(x.q[r*x.width:(r+1)*x.width], x.scale[r*blocks:(r+1)*blocks], x.sum[r*blocks:(r+1)*blocks])
}

func (l *servedLane) dotFloats(a, b []float32) float32 {
	// Four sums in named variables, since the compiler keeps no array in
	// registers; slices cut from the front, since it drops their bounds checks.
	var s0, s1, s2, s3 float32
	for len(a) >= 8 && len(b) >= 8 {
		s0 += a[0]*b[0] + a[4]*b[4]
		s1 += a[1]*b[1] + a[5]*b[5]
		s2 += a[2]*b[2] + a[6]*b[6]
		s3 += a[3]*b[3] + a[7]*b[7]
		a, b = a[8:], b[8:]
	}
	for i := range a {
		s0 += a[i] * b[i]
	}
	return (s0 + s1) + (s2 + s3)
}

func (l *servedLane) weightedSum(out, w []float32, vector func(i int) []float32) {
	clear(out)
	for i, a := range w {
		v := vector(i)
		for j := 0; j+4 <= len(out); j += 4 {
			o, u := (*[4]float32)(out[j:]), (*[4]float32)(v[j:])
			o[0] += a * u[0]
			o[1] += a * u[1]
			o[2] += a * u[2]
			o[3] += a * u[3]
		}
		for j := len(out) &^ 3; j < len(out); j++ {
			out[j] += a * v[j]
		}
	}
}

// referenceLane multiplies dequantized weights with float32 activations and
// sums in float64.
type referenceLane struct {
	w   []float32
	sum []float64
}

func (l *referenceLane) load(m *matrix, row int) {
	l.w = sized(l.w, m.tensor.Cols)
	m.tensor.Format.Dequantize(l.w, m.row(row))
}

func (l *referenceLane) dot(x *rows, r int) float32 { return l.dotFloats(l.w, x.row(r)) }

func (l *referenceLane) dotFloats(a, b []float32) float32 {
	b = b[:len(a)]
	sum := 0.0
	for i := range a {
		sum += float64(a[i]) * float64(b[i])
	}
	return float32(sum)
}

func (l *referenceLane) weightedSum(out, w []float32, vector func(i int) []float32) {
	if cap(l.sum) < len(out) {
		l.sum = make([]float64, len(out))
	}
	sum := l.sum[:len(out)]
	clear(sum)
	for i, a := range w {
		v := vector(i)[:len(out)]
		for j := range sum {
			sum[j] += float64(a) * float64(v[j])
		}
	}
	for j := range out {
		out[j] = float32(sum[j])
	}
}

// sized returns a slice of length n, s itself when it is large enough.
func sized[T any](s []T, n int) []T {
	if cap(s) < n {
		return make([]T, n)
	}
	return s[:n]
}
