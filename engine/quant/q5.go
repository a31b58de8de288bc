package quant

import "encoding/binary"

// The 5-bit formats with one scale to 32 values (ggml: block_q5_0, block_q5_1).
//
//	Q5_0, 22 bytes                        Q5_1, 24 bytes
//	 0  d   binary16, the scale            0  d   binary16, the scale
//	 2  qh  32 bits, the fifth bits        2  m   binary16, the minimum
//	 6  qs  16 bytes of nibbles            4  qh  32 bits, the fifth bits
//	                                       8  qs  16 bytes of nibbles
//
// The low nibble of qs[j] belongs to value j, the high nibble to value j+16; bit
// i of qh (little-endian) is the fifth, highest bit of value i.
//
//	Q5_0: x = d * (q - 16)                Q5_1: x = d*q + m
const (
	q5Size    = 32
	q5_0Bytes = 22
	q5_1Bytes = 24
)

func dequantizeQ5_0(dst []float32, src []byte) {
	n := checkBlocks("Q5_0", len(dst), q5Size, len(src), q5_0Bytes)
	for i := range n {
		block := (*[q5_0Bytes]byte)(src[i*q5_0Bytes:])
		out := (*[q5Size]float32)(dst[i*q5Size:])
		d := halfAt(block[:])
		qh := binary.LittleEndian.Uint32(block[2:])
		for j, b := range block[6:] {
			lo := uint32(b&15) | qh>>j&1<<4
			hi := uint32(b>>4) | qh>>(j+16)&1<<4
			out[j] = d * float32(int32(lo)-16)
			out[j+16] = d * float32(int32(hi)-16)
		}
	}
}

func dequantizeQ5_1(dst []float32, src []byte) {
	n := checkBlocks("Q5_1", len(dst), q5Size, len(src), q5_1Bytes)
	for i := range n {
		block := (*[q5_1Bytes]byte)(src[i*q5_1Bytes:])
		out := (*[q5Size]float32)(dst[i*q5Size:])
		d, m := halfAt(block[:]), halfAt(block[2:])
		qh := binary.LittleEndian.Uint32(block[4:])
		for j, b := range block[8:] {
			lo := uint32(b&15) | qh>>j&1<<4
			hi := uint32(b>>4) | qh>>(j+16)&1<<4
			out[j] = float32(d*float32(int32(lo))) + m
			out[j+16] = float32(d*float32(int32(hi))) + m
		}
	}
}
