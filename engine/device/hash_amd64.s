#include "textflag.h"

DATA steps<>+0(SB)/8, $0
DATA steps<>+8(SB)/8, $0x9e3779b97f4a7c15
DATA steps<>+16(SB)/8, $0x3c6ef372fe94f82a
DATA steps<>+24(SB)/8, $0xdaa66d2c7ddf743f
DATA steps<>+32(SB)/8, $0x78dde6e5fd29f054
DATA steps<>+40(SB)/8, $0x1715609f7c746c69
DATA steps<>+48(SB)/8, $0xb54cda58fbbee87e
DATA steps<>+56(SB)/8, $0x538454127b096493
GLOBL steps<>(SB), RODATA|NOPTR, $64

// MIX adds the eight mixed words in Z0 to SUM. Z16 and Z17 have the factors.
#define MIX(SUM) \
	VPSRLQ $30, Z0, Z1; \
	VPXORQ Z1, Z0, Z0; \
	VPMULLQ Z16, Z0, Z0; \
	VPSRLQ $27, Z0, Z1; \
	VPXORQ Z1, Z0, Z0; \
	VPMULLQ Z17, Z0, Z0; \
	VPSRLQ $31, Z0, Z1; \
	VPXORQ Z1, Z0, Z0; \
	VPADDQ Z0, SUM, SUM

// func sumLines(p *byte, n int, index uint64) uint64
//
// The sum of Hash over n > 0 bytes, a multiple of 64; index is that of the first
// word times the step.
TEXT ·sumLines(SB), NOSPLIT, $0-32
	MOVQ p+0(FP), SI
	MOVQ n+8(FP), CX
	VPBROADCASTQ index+16(FP), Z18
	VPADDQ steps<>(SB), Z18, Z18
	MOVQ $0xf1bbcdcbfa53e0a8, AX // eight steps
	VPBROADCASTQ AX, Z19
	MOVQ $0xbf58476d1ce4e5b9, AX
	VPBROADCASTQ AX, Z16
	MOVQ $0x94d049bb133111eb, AX
	VPBROADCASTQ AX, Z17
	VPXORQ Z2, Z2, Z2

line:
	VPADDQ (SI), Z18, Z0
	VPADDQ Z19, Z18, Z18
	MIX(Z2)
	ADDQ $64, SI
	SUBQ $64, CX
	JNZ  line
	VEXTRACTI64X4 $1, Z2, Y3
	VPADDQ Y3, Y2, Y2
	VEXTRACTI128 $1, Y2, X3
	VPADDQ X3, X2, X2
	VPSHUFD $0x4e, X2, X3
	VPADDQ X3, X2, X2
	VMOVQ X2, AX
	MOVQ AX, ret+24(FP)
	VZEROUPPER
	RET
