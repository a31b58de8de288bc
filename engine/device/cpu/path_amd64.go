package cpu

import (
	"golang.org/x/sys/cpu"

	"kigo/engine/quant"
)

func paths() []*path {
	var list []*path
	if cpu.X86.HasAVX512F && cpu.X86.HasAVX512BW && cpu.X86.HasAVX512VL && cpu.X86.HasAVX512DQ && cpu.X86.HasAVX512VNNI && cpu.X86.HasAVX512VBMI {
		list = append(list, vnniPath)
	}
	return append(list, scalarPath)
}

// vnniPath is AVX-512 with VNNI and VBMI: Intel from Ice Lake on, AMD from Zen 4 on.
var vnniPath = newVNNIPath()

func newVNNIPath() *path {
	return &path{
		name:     "avx512vnni",
		tails:    scalarPath,
		quantize: vnniQuantize,
		integers: fromBytes,
		product: map[quant.Type]func(*product){
			quant.F32:  tiled(vnniF32x8, vnniF32x4, vnniF32x2, vnniF32x1),
			quant.F16:  tiled(vnniF16x8, vnniF16x4, vnniF16x2, vnniF16x1),
			quant.BF16: tiled(vnniBF16x8, vnniBF16x4, vnniBF16x2, vnniBF16x1),
			quant.Q4_0: tiled(vnniQ4_0x8, vnniQ4_0x4, vnniQ4_0x2, vnniQ4_0x1),
			quant.Q4_1: tiled(vnniQ4_1x8, vnniQ4_1x4, vnniQ4_1x2, vnniQ4_1x1),
			quant.Q5_0: tiled(vnniQ5_0x8, vnniQ5_0x4, vnniQ5_0x2, vnniQ5_0x1),
			quant.Q5_1: tiled(vnniQ5_1x8, vnniQ5_1x4, vnniQ5_1x2, vnniQ5_1x1),
			quant.Q8_0: tiled(vnniQ8_0x8, vnniQ8_0x4, vnniQ8_0x2, vnniQ8_0x1),
			quant.Q4_K: tiled(vnniQ4_Kx8, vnniQ4_Kx4, vnniQ4_Kx2, vnniQ4_Kx1),
			quant.Q5_K: tiled(vnniQ5_Kx8, vnniQ5_Kx4, vnniQ5_Kx2, vnniQ5_Kx1),
			quant.Q6_K: tiled(vnniQ6_Kx8, vnniQ6_Kx4, vnniQ6_Kx2, vnniQ6_Kx1),
		},
		scores:       tiledAttention(vnniScoresx8, vnniScoresx4, vnniScoresx1),
		weigh:        tiledAttention(vnniWeighx8, vnniWeighx4, vnniWeighx1),
		softmax:      vnniSoftmax,
		sumSquares16: vnniSumSquares,
		norm16:       vnniNorm,
		scale16:      vnniScale,
		add16:        vnniAdd,
		gate16:       vnniGate,
	}
}

// pause tells the processor n times that this thread only waits.
//
//go:noescape
func pause(n int)
