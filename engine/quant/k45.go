package quant

// The K formats of 4 and 5 bits: super-blocks of 256 values in eight groups of
// 32, each group with a 6-bit scale and a 6-bit minimum (ggml: block_q4_K,
// block_q5_K).
//
//	Q4_K, 144 bytes                       Q5_K, 176 bytes
//	  0  d       binary16                   0  d       binary16
//	  2  dmin    binary16                   2  dmin    binary16
//	  4  scales  12 bytes, see groupScale   4  scales  12 bytes, see groupScale
//	 16  qs      128 bytes of nibbles      16  qh      32 bytes, the fifth bits
//	                                       48  qs      128 bytes of nibbles
//
// qs[32*p : 32*p+32] holds two groups: the low nibbles are group 2p, the high
// ones group 2p+1. Bit g of qh[l] is the fifth bit of value l of group g.
//
//	x = (d*sc) * q - (dmin*m)
const (
	kSize    = 256
	q4kBytes = 144
	q5kBytes = 176
)

// groupScale unpacks the scale and the minimum of group g (0 … 7) from the twelve
// bytes of a Q4_K or Q5_K block. Groups 0 to 3 have their scales in the low six
// bits of bytes 0 to 3 and their minima in those of bytes 4 to 7. Groups 4 to 7
// have their low four bits in bytes 8 to 11 (scale in the low nibble, minimum in
// the high one) and their upper two in the top bits of bytes 0 to 3 (scales) and
// 4 to 7 (minima).
func groupScale(g int, s *[12]byte) (sc, m byte) {
	if g < 4 {
		return s[g] & 63, s[g+4] & 63
	}
	return s[g+4]&15 | s[g-4]>>6<<4, s[g+4]>>4 | s[g]>>6<<4
}

func dequantizeQ4K(dst []float32, src []byte) {
	n := checkBlocks("Q4_K", len(dst), kSize, len(src), q4kBytes)
	for i := range n {
		block := (*[q4kBytes]byte)(src[i*q4kBytes:])
		out := (*[kSize]float32)(dst[i*kSize:])
		d, dmin := halfAt(block[:]), halfAt(block[2:])
		scales := (*[12]byte)(block[4:])
		for g := range 8 {
			sc, m := groupScale(g, scales)
			dg, mg := float32(d*float32(sc)), float32(dmin*float32(m))
			qs := (*[32]byte)(block[16+g/2*32:])
			group := (*[32]float32)(out[g*32:])
			shift := g % 2 * 4
			for l, b := range qs {
				group[l] = float32(dg*float32(b>>shift&15)) - mg
			}
		}
	}
}

func dequantizeQ5K(dst []float32, src []byte) {
	n := checkBlocks("Q5_K", len(dst), kSize, len(src), q5kBytes)
	for i := range n {
		block := (*[q5kBytes]byte)(src[i*q5kBytes:])
		out := (*[kSize]float32)(dst[i*kSize:])
		d, dmin := halfAt(block[:]), halfAt(block[2:])
		scales := (*[12]byte)(block[4:])
		qh := (*[32]byte)(block[16:])
		for g := range 8 {
			sc, m := groupScale(g, scales)
			dg, mg := float32(d*float32(sc)), float32(dmin*float32(m))
			qs := (*[32]byte)(block[48+g/2*32:])
			group := (*[32]float32)(out[g*32:])
			shift := g % 2 * 4
			for l, b := range qs {
				q := b>>shift&15 | qh[l]>>g&1<<4
				group[l] = float32(dg*float32(q)) - mg
			}
		}
	}
}
