package cpu

import (
	"math"
	"unsafe"
)

// blockLen is the number of values by which all quantized formats divide their
// rows, and which share a scale in quantized activations.
const blockLen = 32

// Rows of activations that meet quantized weights are quantized to 16 bits with
// a scale for each 32 values: x = scale * q. Such a row is a sequence of
// records, one to a block of 32 values:
//
//	 0  64 bytes  the integers, in the order that the path wants
//	64  float32   scale
//	68  float32   scale times the sum of the integers: for formats with an offset
//	72  int32     minus the sum of the integers: for formats whose quants have
//	76  int32     the same of the first 16     a bias, which is taken off here
//	80  int32     the same of the other 16
//
// Other engines quantize activations to 8 bits. Activations have outliers,
// which cost their neighbours in the block precision: on SmolLM2, logits are
// then off by 0.2 (root mean square), and one token in fifty is another than
// with exact arithmetic. With 16 bits they are off by less than a hundredth
// of that, integer sums are still exact in 32 bits, and vectors of 8 bits
// serve, too: an integer is 256 times its high byte plus its low byte, both
// signed. That is why the largest magnitude is 127 * 256 + 127.
const (
	recordBytes  = 84
	recordScale  = 64
	recordSum    = 68
	recordMinus  = 72
	largestQuant = 32639
)

// rows are the activations that enter a product: n rows of width floats and,
// when a weight format asks for them, the same rows quantized.
type rows struct {
	n, width int
	f        []float32 // n x width
	q        []byte    // n x width/32 records
}

func (x *rows) row(r int) []float32 { return x.f[r*x.width : (r+1)*x.width] }

func (x *rows) recordRow() int { return x.width / blockLen * recordBytes }

// quantizeRange gives the scale of a block and its inverse from the bits of
// the largest magnitude, compared as integers so that a NaN wins. Blocks that
// are all but zero become zero; a block with an infinity or a NaN has only
// zeros but that as its scale, which makes the product a NaN.
func quantizeRange(most uint32) (scale, inverse float32) {
	const tiny, infinite = (127 - 100) << 23, 0x7f800000 // 2^-100
	v := math.Float32frombits(most)
	switch {
	case most < tiny:
		return 0, 0
	case most >= infinite:
		return v, 0
	}
	return v / largestQuant, largestQuant / v
}

// scalarQuantize is the definition of quantize, with the integers in order as
// int16.
func scalarQuantize(to *byte, from *float32, blocks int) {
	records := unsafe.Slice(to, blocks*recordBytes)
	values := unsafe.Slice(from, blocks*blockLen)
	for b := range blocks {
		v := (*[blockLen]float32)(values[b*blockLen:])
		record := (*[recordBytes]byte)(records[b*recordBytes:])
		q := (*[blockLen]int16)(unsafe.Pointer(record))
		most := uint32(0)
		for _, a := range v {
			most = max(most, math.Float32bits(a)&0x7fffffff)
		}
		scale, inverse := quantizeRange(most)
		var sums [2]int32
		for i, a := range v {
			n := int32(0)
			if inverse != 0 {
				n = int32(math.RoundToEven(float64(float32(a * inverse))))
				n = min(max(n, -largestQuant), largestQuant) // a rounded inverse may reach one further
			}
			q[i] = int16(n)
			sums[i/16] += n
		}
		meta := (*[5]uint32)(unsafe.Pointer(&record[recordScale]))
		meta[0] = math.Float32bits(scale)
		meta[1] = math.Float32bits(scale * float32(sums[0]+sums[1]))
		meta[2], meta[3], meta[4] = uint32(-sums[0]-sums[1]), uint32(-sums[0]), uint32(-sums[1])
	}
}

// fromBytes is the order of paths that multiply bytes: 32 high ones, 32 low ones.
func fromBytes(record *[64]byte) (q [blockLen]int16) {
	for i := range q {
		q[i] = 256*int16(int8(record[i])) + int16(int8(record[32+i]))
	}
	return q
}
