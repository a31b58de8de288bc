package quant

// The 8-bit format with one scale to 32 values (ggml: block_q8_0).
//
//	Q8_0, 34 bytes
//	 0  d   binary16, the scale
//	 2  qs  32 signed bytes
//
//	x = d * q
const (
	q8Size    = 32
	q8_0Bytes = 34
)

func dequantizeQ8_0(dst []float32, src []byte) {
	n := checkBlocks("Q8_0", len(dst), q8Size, len(src), q8_0Bytes)
	for i := range n {
		block := (*[q8_0Bytes]byte)(src[i*q8_0Bytes:])
		out := (*[q8Size]float32)(dst[i*q8Size:])
		d := halfAt(block[:])
		for j, b := range block[2:] {
			out[j] = d * float32(int8(b))
		}
	}
}

// quantizeQ8_0 maps the largest magnitude to 127 and rounds the rest to nearest,
// ties away from zero.
func quantizeQ8_0(dst []byte, src []float32) {
	n := checkBlocks("Q8_0", len(src), q8Size, len(dst), q8_0Bytes)
	for i := range n {
		in := (*[q8Size]float32)(src[i*q8Size:])
		block := (*[q8_0Bytes]byte)(dst[i*q8_0Bytes:])
		var amax float32
		for _, x := range in {
			if a := abs(x); a > amax {
				amax = a
			}
		}
		d := amax / 127
		inv := inverse(d)
		putHalf(block[:], d)
		for j, x := range in {
			block[2+j] = byte(roundAway(float32(x * inv)))
		}
	}
}

// roundAway rounds to nearest, ties away from zero, into an int8; what does not
// fit is 0.
func roundAway(x float32) int8 {
	if !(abs(x) < 127.5) {
		return 0
	}
	q := int32(x)                            // towards zero
	return int8(q + int32(2*(x-float32(q)))) // the difference is exact
}
