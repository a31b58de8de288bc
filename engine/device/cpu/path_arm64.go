package cpu

import (
	"golang.org/x/sys/cpu"

	"kigo/engine/quant"
)

// paths are those that the processor has, the fastest first.
func paths() []*path {
	if cpu.ARM64.HasASIMDDP {
		return []*path{neonPath, scalarPath}
	}
	return []*path{scalarPath}
}

// neonPath is NEON with dot products: Arm from Cortex-A76 and Neoverse N1 on.
var neonPath = &path{
	name:     "neon",
	tails:    scalarPath,
	quantize: neonQuantize,
	integers: fromBytes,
	product: map[quant.Type]func(*product){
		quant.F32:  tiled(neonF32x1, neonF32x2),
		quant.F16:  tiled(neonF16x1, neonF16x2),
		quant.BF16: tiled(neonBF16x1, neonBF16x2),
		quant.Q4_0: tiled(neonQ4_0x1, neonQ4_0x2),
		quant.Q4_1: tiled(neonQ4_1x1, neonQ4_1x2),
		quant.Q5_0: tiled(neonQ5_0x1, neonQ5_0x2),
		quant.Q5_1: tiled(neonQ5_1x1, neonQ5_1x2),
		quant.Q8_0: tiled(neonQ8_0x1, neonQ8_0x2),
		quant.Q4_K: tiled(neonQ4_Kx1, neonQ4_Kx2),
		quant.Q5_K: tiled(neonQ5_Kx1, neonQ5_Kx2),
		quant.Q6_K: tiled(neonQ6_Kx1, neonQ6_Kx2),
	},
	scores:       tiledAttention(neonScoresx1, neonScoresx4, nil),
	weigh:        tiledAttention(neonWeighx1, neonWeighx4, nil),
	softmax:      neonSoftmax,
	sumSquares16: neonSumSquares,
	norm16:       neonNorm,
	scale16:      neonScale,
	add16:        neonAdd,
	gate16:       neonGate,
}

// pause tells the processor n times that this thread only waits.
//
//go:noescape
func pause(n int)
