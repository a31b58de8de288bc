package quant

// The K format of 6 bits: super-blocks of 256 values in sixteen groups of 16,
// each with a signed 8-bit scale (ggml: block_q6_K).
//
//	Q6_K, 210 bytes
//	  0  ql      128 bytes, the low four bits
//	128  qh      64 bytes, the upper two bits
//	192  scales  16 signed bytes
//	208  d       binary16
//
// The block is two halves of 128 values with 64 bytes of ql and 32 of qh each. In
// a half, value 32*r + l (r = 0 … 3, l = 0 … 31) has its low bits in ql[l] (r 0
// and 2) or ql[32+l] (r 1 and 3), the low nibble for r 0 and 1, the high one for
// r 2 and 3, and its upper bits in bits 2r and 2r+1 of qh[l].
//
//	x = (d*sc) * (q - 32)
const q6kBytes = 210

func dequantizeQ6K(dst []float32, src []byte) {
	n := checkBlocks("Q6_K", len(dst), kSize, len(src), q6kBytes)
	for i := range n {
		block := (*[q6kBytes]byte)(src[i*q6kBytes:])
		out := (*[kSize]float32)(dst[i*kSize:])
		d := halfAt(block[208:])
		scales := (*[16]byte)(block[192:])
		for g := range 16 {
			dg := float32(d * float32(int8(scales[g])))
			half, r, l := g/8, g%8/2, g%2*16
			ql := (*[16]byte)(block[half*64+r%2*32+l:])
			qh := (*[16]byte)(block[128+half*32+l:])
			group := (*[16]float32)(out[g*16:])
			low, high := r/2*4, r*2
			for j, b := range ql {
				q := b>>low&15 | qh[j]>>high&3<<4
				group[j] = dg * float32(int(q)-32)
			}
		}
	}
}
