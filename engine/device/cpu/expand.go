package cpu

import (
	"encoding/binary"
	"math"
	"unsafe"

	"kigo/engine/quant"
)

// expand gives a row of a float format as float32: in buf, or, where the row is
// float32 already, the row itself.
func expand(f *quant.Format, buf []float32, row []byte) []float32 {
	switch {
	case f.Type == quant.F32 && littleEndian && uintptr(unsafe.Pointer(&row[0]))%4 == 0:
		return unsafe.Slice((*float32)(unsafe.Pointer(&row[0])), len(buf))
	case f.Type == quant.F16:
		expandF16(buf, row)
	default:
		f.Dequantize(buf, row)
	}
	return buf
}

var littleEndian = binary.NativeEndian.Uint16([]byte{1, 0}) == 1

// expandF16 does what the format's Dequantize does, without a branch for
// subnormals: with the exponent field taken over as it is, the value is 2^-112
// times what it should be, whatever it is.
func expandF16(dst []float32, src []byte) {
	src = src[:2*len(dst)]
	for i := range dst {
		h := uint32(src[2*i]) | uint32(src[2*i+1])<<8
		if h&0x7c00 == 0x7c00 { // infinite or NaN
			dst[i] = quant.Half(uint16(h))
			continue
		}
		v := math.Float32frombits(h&0x7fff<<13) * 0x1p112
		dst[i] = math.Float32frombits(math.Float32bits(v) | h&0x8000<<16)
	}
}
