package cpu

import (
	"golang.org/x/sys/cpu"

	"kigo/engine/quant"
)

// paths are those that the processor has, the fastest first.
func paths() []*path {
	var list []*path
	x := &cpu.X86
	if x.HasAVX512F && x.HasAVX512BW && x.HasAVX512DQ && x.HasAVX512VL && x.HasAVX512VNNI && x.HasAVX512VBMI {
		list = append(list, vnniPath)
	}
	if x.HasAVX2 && x.HasF16C {
		list = append(list, avx2Path)
	}
	return append(list, scalarPath)
}

// vnniPath is AVX-512 with VNNI and VBMI: Intel from Ice Lake on, AMD from Zen 4.
var vnniPath = &path{
	name:     "avx512vnni",
	tails:    scalarPath,
	quantize: vnniQuantize,
	integers: fromBytes,
	product: map[quant.Type]func(*product){
		quant.F32:  tiled(vnniF32x1, vnniF32x2, vnniF32x4, vnniF32x8),
		quant.F16:  tiled(vnniF16x1, vnniF16x2, vnniF16x4, vnniF16x8),
		quant.BF16: tiled(vnniBF16x1, vnniBF16x2, vnniBF16x4, vnniBF16x8),
		quant.Q4_0: tiled(vnniQ4_0x1, vnniQ4_0x2, vnniQ4_0x4, vnniQ4_0x8),
		quant.Q4_1: tiled(vnniQ4_1x1, vnniQ4_1x2, vnniQ4_1x4, vnniQ4_1x8),
		quant.Q5_0: tiled(vnniQ5_0x1, vnniQ5_0x2, vnniQ5_0x4, vnniQ5_0x8),
		quant.Q5_1: tiled(vnniQ5_1x1, vnniQ5_1x2, vnniQ5_1x4, vnniQ5_1x8),
		quant.Q8_0: tiled(vnniQ8_0x1, vnniQ8_0x2, vnniQ8_0x4, vnniQ8_0x8),
		quant.Q4_K: tiled(vnniQ4_Kx1, vnniQ4_Kx2, vnniQ4_Kx4, vnniQ4_Kx8),
		quant.Q5_K: tiled(vnniQ5_Kx1, vnniQ5_Kx2, vnniQ5_Kx4, vnniQ5_Kx8),
		quant.Q6_K: tiled(vnniQ6_Kx1, vnniQ6_Kx2, vnniQ6_Kx4, vnniQ6_Kx8),
	},
	scores:       tiledAttention(vnniScoresx1, vnniScoresx4, vnniScoresx8),
	weigh:        tiledAttention(vnniWeighx1, vnniWeighx4, vnniWeighx8),
	softmax:      vnniSoftmax,
	sumSquares16: vnniSumSquares,
	norm16:       vnniNorm,
	scale16:      vnniScale,
	add16:        vnniAdd,
	gate16:       vnniGate,
}

// avx2Path is AVX2 with F16C: Intel from Haswell on, AMD from Zen.
var avx2Path = &path{
	name:     "avx2",
	tails:    scalarPath,
	quantize: avx2Quantize,
	integers: fromWords,
	product: map[quant.Type]func(*product){
		quant.F32:  tiled(avx2F32x1, avx2F32x2, avx2F32x4),
		quant.F16:  tiled(avx2F16x1, avx2F16x2, avx2F16x4),
		quant.BF16: tiled(avx2BF16x1, avx2BF16x2, avx2BF16x4),
		quant.Q4_0: tiled(avx2Q4_0x1, avx2Q4_0x2, avx2Q4_0x4),
		quant.Q4_1: tiled(avx2Q4_1x1, avx2Q4_1x2, avx2Q4_1x4),
		quant.Q5_0: tiled(avx2Q5_0x1, avx2Q5_0x2, avx2Q5_0x4),
		quant.Q5_1: tiled(avx2Q5_1x1, avx2Q5_1x2, avx2Q5_1x4),
		quant.Q8_0: tiled(avx2Q8_0x1, avx2Q8_0x2, avx2Q8_0x4),
		quant.Q4_K: tiled(avx2Q4_Kx1, avx2Q4_Kx2, avx2Q4_Kx4),
		quant.Q5_K: tiled(avx2Q5_Kx1, avx2Q5_Kx2, avx2Q5_Kx4),
		quant.Q6_K: tiled(avx2Q6_Kx1, avx2Q6_Kx2, avx2Q6_Kx4),
	},
	scores:       tiledAttention(avx2Scoresx1, avx2Scoresx4, nil),
	weigh:        tiledAttention(avx2Weighx1, avx2Weighx4, nil),
	softmax:      avx2Softmax,
	sumSquares16: avx2SumSquares,
	norm16:       avx2Norm,
	scale16:      avx2Scale,
	add16:        avx2Add,
	gate16:       avx2Gate,
}

// fromWords is the order of the integers on avx2Path: of four the even two first.
func fromWords(record *[64]byte) (q [blockLen]int16) {
	for i := range q {
		q[i&^3|i&1<<1|i&2>>1] = int16(uint16(record[2*i]) | uint16(record[2*i+1])<<8)
	}
	return q
}

// pause tells the processor n times that this thread only waits.
//
//go:noescape
func pause(n int)
