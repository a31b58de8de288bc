package quant

import (
	"encoding/binary"
	"math"
)

// The formats without blocks: one value to a block, little-endian.
//
//	F32   IEEE 754 binary32, 4 bytes
//	F16   IEEE 754 binary16, 2 bytes
//	BF16  the upper half of a binary32, 2 bytes

func dequantizeF32(dst []float32, src []byte) {
	checkBlocks("F32", len(dst), 1, len(src), 4)
	for i := range dst {
		dst[i] = math.Float32frombits(binary.LittleEndian.Uint32(src[4*i:]))
	}
}

func quantizeF32(dst []byte, src []float32) {
	checkBlocks("F32", len(src), 1, len(dst), 4)
	for i, f := range src {
		binary.LittleEndian.PutUint32(dst[4*i:], math.Float32bits(f))
	}
}

func dequantizeF16(dst []float32, src []byte) {
	checkBlocks("F16", len(dst), 1, len(src), 2)
	for i := range dst {
		dst[i] = Half(binary.LittleEndian.Uint16(src[2*i:]))
	}
}

func quantizeF16(dst []byte, src []float32) {
	checkBlocks("F16", len(src), 1, len(dst), 2)
	for i, f := range src {
		binary.LittleEndian.PutUint16(dst[2*i:], ToHalf(f))
	}
}

func dequantizeBF16(dst []float32, src []byte) {
	checkBlocks("BF16", len(dst), 1, len(src), 2)
	for i := range dst {
		dst[i] = Brain(binary.LittleEndian.Uint16(src[2*i:]))
	}
}

func quantizeBF16(dst []byte, src []float32) {
	checkBlocks("BF16", len(src), 1, len(dst), 2)
	for i, f := range src {
		binary.LittleEndian.PutUint16(dst[2*i:], ToBrain(f))
	}
}
