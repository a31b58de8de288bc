package quant

import "math"

// The 4-bit formats with one scale to 32 values (ggml: block_q4_0, block_q4_1).
//
//	Q4_0, 18 bytes                        Q4_1, 20 bytes
//	 0  d   binary16, the scale            0  d   binary16, the scale
//	 2  qs  16 bytes of nibbles            2  m   binary16, the minimum
//	                                       4  qs  16 bytes of nibbles
//
// The low nibble of qs[j] is value j, the high nibble value j+16.
//
//	Q4_0: x = d * (q - 8)                 Q4_1: x = d*q + m
const (
	q4Size    = 32
	q4_0Bytes = 18
	q4_1Bytes = 20
)

func dequantizeQ4_0(dst []float32, src []byte) {
	n := checkBlocks("Q4_0", len(dst), q4Size, len(src), q4_0Bytes)
	for i := range n {
		block := (*[q4_0Bytes]byte)(src[i*q4_0Bytes:])
		out := (*[q4Size]float32)(dst[i*q4Size:])
		d := halfAt(block[:])
		for j, b := range block[2:] {
			out[j] = d * float32(int(b&15)-8)
			out[j+16] = d * float32(int(b>>4)-8)
		}
	}
}

func dequantizeQ4_1(dst []float32, src []byte) {
	n := checkBlocks("Q4_1", len(dst), q4Size, len(src), q4_1Bytes)
	for i := range n {
		block := (*[q4_1Bytes]byte)(src[i*q4_1Bytes:])
		out := (*[q4Size]float32)(dst[i*q4Size:])
		d, m := halfAt(block[:]), halfAt(block[2:])
		for j, b := range block[4:] {
			out[j] = float32(d*float32(b&15)) + m
			out[j+16] = float32(d*float32(b>>4)) + m
		}
	}
}

// quantizeQ4_0 maps the value of largest magnitude (the first of several) to -8
// and rounds the rest to nearest, ties away from -8; a value of the opposite
// sign as large as it is clipped from 8 to 7.
func quantizeQ4_0(dst []byte, src []float32) {
	n := checkBlocks("Q4_0", len(src), q4Size, len(dst), q4_0Bytes)
	for i := range n {
		in := (*[q4Size]float32)(src[i*q4Size:])
		block := (*[q4_0Bytes]byte)(dst[i*q4_0Bytes:])
		var amax, top float32
		for _, x := range in {
			if a := abs(x); a > amax {
				amax, top = a, x
			}
		}
		if amax == 0 {
			top = in[0] // keep its sign: the scale of a block of zeros is -0 for +0
		}
		d := top / -8
		inv := inverse(d)
		putHalf(block[:], d)
		for j := range 16 {
			block[2+j] = nibble(in[j], inv) | nibble(in[j+16], inv)<<4
		}
	}
}

// nibble returns x/d + 8 rounded to a whole number in 0 … 15, given inv = 1/d.
func nibble(x, inv float32) byte {
	q := float32(x*inv) + 8.5
	if !(q >= 0 && q < math.MaxInt32) {
		return 0
	}
	return byte(min(int32(q), 15))
}

// inverse returns 1/d, or 0 for a scale of zero.
func inverse(d float32) float32 {
	if d == 0 {
		return 0
	}
	return 1 / d
}

func abs(x float32) float32 {
	return math.Float32frombits(math.Float32bits(x) &^ (1 << 31))
}
