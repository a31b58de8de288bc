#include "textflag.h"

// The constants of mix and of the index, once for eight lanes.
DATA hashIndex<>+0(SB)/8, $0x0000000000000000
DATA hashIndex<>+8(SB)/8, $0x9e3779b97f4a7c15
DATA hashIndex<>+16(SB)/8, $0x3c6ef372fe94f82a
DATA hashIndex<>+24(SB)/8, $0xdaa66d2c7ddf743f
DATA hashIndex<>+32(SB)/8, $0x78dde6e5fd29f054
DATA hashIndex<>+40(SB)/8, $0x1715609f7c746c69
DATA hashIndex<>+48(SB)/8, $0xb54cda58fbbee87e
DATA hashIndex<>+56(SB)/8, $0x538454127b096493
GLOBL hashIndex<>(SB), RODATA|NOPTR, $64

// func hashWords512(p *byte, words int, index uint64) uint64
//
// words is a multiple of 16. Two vectors of eight words are in flight at a time:
//
//	Z0, Z1  words, then their mixes     Z4, Z5  sums
//	Z2, Z3  scratch                     Z6, Z7  (index + lane) * hashStep
//	Z8      16 * hashStep               Z9, Z10 hashMul1, hashMul2
TEXT ·hashWords512(SB), NOSPLIT, $0-32
	MOVQ p+0(FP), SI
	MOVQ words+8(FP), CX
	MOVQ index+16(FP), AX
	VPBROADCASTQ AX, Z6
	VPADDQ hashIndex<>(SB), Z6, Z6
	MOVQ $0xf1bbcdcbfa53e0a8, AX // 8 * hashStep
	VPBROADCASTQ AX, Z7
	VPADDQ Z7, Z7, Z8
	VPADDQ Z6, Z7, Z7
	MOVQ $0xbf58476d1ce4e5b9, AX
	VPBROADCASTQ AX, Z9
	MOVQ $0x94d049bb133111eb, AX
	VPBROADCASTQ AX, Z10
	VPXORQ Z4, Z4, Z4
	VPXORQ Z5, Z5, Z5

loop:
	VPADDQ (SI), Z6, Z0
	VPADDQ 64(SI), Z7, Z1
	VPSRLQ $30, Z0, Z2
	VPSRLQ $30, Z1, Z3
	VPXORQ Z2, Z0, Z0
	VPXORQ Z3, Z1, Z1
	VPMULLQ Z9, Z0, Z0
	VPMULLQ Z9, Z1, Z1
	VPSRLQ $27, Z0, Z2
	VPSRLQ $27, Z1, Z3
	VPXORQ Z2, Z0, Z0
	VPXORQ Z3, Z1, Z1
	VPMULLQ Z10, Z0, Z0
	VPMULLQ Z10, Z1, Z1
	VPSRLQ $31, Z0, Z2
	VPSRLQ $31, Z1, Z3
	VPXORQ Z2, Z0, Z0
	VPXORQ Z3, Z1, Z1
	VPADDQ Z0, Z4, Z4
	VPADDQ Z1, Z5, Z5
	VPADDQ Z8, Z6, Z6
	VPADDQ Z8, Z7, Z7
	ADDQ $128, SI
	SUBQ $16, CX
	JNZ loop

	VPADDQ Z5, Z4, Z4
	VEXTRACTI64X4 $1, Z4, Y5
	VPADDQ Y5, Y4, Y4
	VEXTRACTI128 $1, Y4, X5
	VPADDQ X5, X4, X4
	VPSRLDQ $8, X4, X5
	VPADDQ X5, X4, X4
	VMOVQ X4, AX
	VZEROUPPER
	MOVQ AX, ret+24(FP)
	RET
