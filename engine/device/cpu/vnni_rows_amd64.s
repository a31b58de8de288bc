#include "textflag.h"
#include "exp_amd64.h"

// What happens to rows of activations, 16 values at a time.

// func vnniQuantize(to *byte, from *float32, blocks int)
//
// For each block of 32 values, in Z0 and Z1: the largest magnitude, compared as
// integers; its scale; the rounded multiples of it; their high and low bytes.
TEXT ·vnniQuantize(SB), NOSPLIT, $0-24
	MOVQ to+0(FP), DI
	MOVQ from+8(FP), SI
	MOVQ blocks+16(FP), CX
	MOVL $0x7fffffff, AX
	VPBROADCASTD AX, Z16
	MOVL $32639, AX
	VPBROADCASTD AX, Z17
	MOVL $-32639, AX
	VPBROADCASTD AX, Z18
	MOVL $128, AX
	VPBROADCASTD AX, Z19
	MOVL $32639, AX
	VXORPS X20, X20, X20
	VCVTSI2SSL AX, X20, X20

block:
	VMOVUPS (SI), Z0
	VMOVUPS 64(SI), Z1
	VPANDD Z16, Z0, Z2
	VPANDD Z16, Z1, Z3
	VPMAXUD Z3, Z2, Z2
	VEXTRACTI64X4 $1, Z2, Y3
	VPMAXUD Y3, Y2, Y2
	VEXTRACTI128 $1, Y2, X3
	VPMAXUD X3, X2, X2
	VPSHUFD $0x4e, X2, X3
	VPMAXUD X3, X2, X2
	VPSHUFD $0xb1, X2, X3
	VPMAXUD X3, X2, X2
	VMOVD X2, AX
	CMPL AX, $0x0d800000 // 2^-100
	JB   zeros
	CMPL AX, $0x7f800000
	JAE  infinite
	VDIVSS X20, X2, X3 // the scale
	VDIVSS X2, X20, X4 // its inverse
	VBROADCASTSS X4, Z4
	VMULPS Z4, Z0, Z0
	VMULPS Z4, Z1, Z1
	VCVTPS2DQ Z0, Z0
	VCVTPS2DQ Z1, Z1
	VPMINSD Z17, Z0, Z0
	VPMINSD Z17, Z1, Z1
	VPMAXSD Z18, Z0, Z0
	VPMAXSD Z18, Z1, Z1

	// q = 256*high + low, both signed: high = (q+128) >> 8.
	VPADDD Z19, Z0, Z4
	VPADDD Z19, Z1, Z5
	VPSRAD $8, Z4, Z4
	VPSRAD $8, Z5, Z5
	VPMOVDB Z4, (DI)
	VPMOVDB Z5, 16(DI)
	VPMOVDB Z0, 32(DI)
	VPMOVDB Z1, 48(DI)

	// The sums of the two halves, in the first two elements of X4.
	VEXTRACTI64X4 $1, Z0, Y4
	VEXTRACTI64X4 $1, Z1, Y5
	VPADDD Y4, Y0, Y4
	VPADDD Y5, Y1, Y5
	VPHADDD Y5, Y4, Y4
	VEXTRACTI128 $1, Y4, X5
	VPADDD X5, X4, X4
	VPHADDD X4, X4, X4
	VPXOR X5, X5, X5
	VPSUBD X4, X5, X6
	VMOVQ X6, 76(DI)
	VPHADDD X4, X4, X4
	VPSUBD X4, X5, X6
	VMOVD X6, 72(DI)
	VCVTDQ2PS X4, X4
	VMULSS X3, X4, X4
	VMOVSS X3, 64(DI)
	VMOVSS X4, 68(DI)

next:
	ADDQ $128, SI
	ADDQ $84, DI
	DECQ CX
	JNZ  block
	VZEROUPPER
	RET

zeros: // too small to matter
	VPXOR X2, X2, X2

infinite: // zeros times an infinity or a NaN
	VPXORD Z0, Z0, Z0
	VMOVDQU64 Z0, (DI)
	VPXOR X1, X1, X1
	VMULSS X1, X2, X3
	VMOVSS X2, 64(DI)
	VMOVSS X3, 68(DI)
	VMOVQ X1, 72(DI)
	VMOVD X1, 80(DI)
	JMP  next

// func vnniSumSquares(v *float32, n int, sums *[8]float64)
TEXT ·vnniSumSquares(SB), NOSPLIT, $0-24
	MOVQ v+0(FP), SI
	MOVQ n+8(FP), CX
	MOVQ sums+16(FP), DI
	VMOVUPD (DI), Z0

squares:
	VCVTPS2PD (SI), Z1
	VCVTPS2PD 32(SI), Z2
	VMULPD Z1, Z1, Z1
	VMULPD Z2, Z2, Z2
	VADDPD Z1, Z0, Z0
	VADDPD Z2, Z0, Z0
	ADDQ $64, SI
	SUBQ $16, CX
	JNZ  squares
	VMOVUPD Z0, (DI)
	VZEROUPPER
	RET

// func vnniNorm(dst, src, gain *float32, scale float32, n int)
TEXT ·vnniNorm(SB), NOSPLIT, $0-40
	MOVQ dst+0(FP), DI
	MOVQ src+8(FP), SI
	MOVQ gain+16(FP), DX
	VBROADCASTSS scale+24(FP), Z0
	MOVQ n+32(FP), CX

norm:
	VMULPS (SI), Z0, Z1
	VMULPS (DX), Z1, Z1
	VMOVUPS Z1, (DI)
	ADDQ $64, SI
	ADDQ $64, DX
	ADDQ $64, DI
	SUBQ $16, CX
	JNZ  norm
	VZEROUPPER
	RET

// func vnniScale(v *float32, scale float32, n int)
TEXT ·vnniScale(SB), NOSPLIT, $0-24
	MOVQ v+0(FP), DI
	VBROADCASTSS scale+8(FP), Z0
	MOVQ n+16(FP), CX

scale:
	VMULPS (DI), Z0, Z1
	VMOVUPS Z1, (DI)
	ADDQ $64, DI
	SUBQ $16, CX
	JNZ  scale
	VZEROUPPER
	RET

// func vnniAdd(dst, src *float32, n int)
TEXT ·vnniAdd(SB), NOSPLIT, $0-24
	MOVQ dst+0(FP), DI
	MOVQ src+8(FP), SI
	MOVQ n+16(FP), CX

add:
	VMOVUPS (DI), Z0
	VADDPS (SI), Z0, Z0
	VMOVUPS Z0, (DI)
	ADDQ $64, SI
	ADDQ $64, DI
	SUBQ $16, CX
	JNZ  add
	VZEROUPPER
	RET

// EXPCONSTANTS keeps them in Z16 to Z29.
#define EXPCONSTANTS \
	VBROADCASTSS exp<>+0x00(SB), Z16; \
	VBROADCASTSS exp<>+0x04(SB), Z17; \
	VBROADCASTSS exp<>+0x08(SB), Z18; \
	VBROADCASTSS exp<>+0x0c(SB), Z19; \
	VBROADCASTSS exp<>+0x10(SB), Z20; \
	VBROADCASTSS exp<>+0x14(SB), Z21; \
	VBROADCASTSS exp<>+0x18(SB), Z22; \
	VBROADCASTSS exp<>+0x1c(SB), Z23; \
	VBROADCASTSS exp<>+0x20(SB), Z24; \
	VBROADCASTSS exp<>+0x24(SB), Z25; \
	VBROADCASTSS exp<>+0x28(SB), Z26; \
	VBROADCASTSS exp<>+0x2c(SB), Z27; \
	VBROADCASTSS exp<>+0x30(SB), Z28; \
	VBROADCASTSS exp<>+0x34(SB), Z29

// EXP makes Z0 = exp(Z0); it uses Z1 to Z4 and K1. A NaN stays one: of the
// operands of a minimum the last is taken, and it is not less than -87.
#define EXP \
	VMINPS Z0, Z16, Z0; \
	VCMPPS $5, Z17, Z0, K1; \
	VMULPS Z18, Z0, Z1; \
	VADDPS Z19, Z1, Z1; \
	VSUBPS Z19, Z1, Z2; \
	VMULPS Z20, Z2, Z3; \
	VSUBPS Z3, Z0, Z0; \
	VMULPS Z21, Z2, Z3; \
	VSUBPS Z3, Z0, Z0; \
	VMULPS Z22, Z0, Z2; \
	VADDPS Z23, Z2, Z2; \
	VMULPS Z0, Z2, Z2; \
	VADDPS Z24, Z2, Z2; \
	VMULPS Z0, Z2, Z2; \
	VADDPS Z25, Z2, Z2; \
	VMULPS Z0, Z2, Z2; \
	VADDPS Z26, Z2, Z2; \
	VMULPS Z0, Z2, Z2; \
	VADDPS Z27, Z2, Z2; \
	VMULPS Z0, Z0, Z3; \
	VMULPS Z3, Z2, Z2; \
	VADDPS Z0, Z2, Z2; \
	VADDPS Z28, Z2, Z2; \
	VPSLLD $23, Z1, Z1; \
	VPADDD Z28, Z1, Z1; \
	VMULPS.Z Z1, Z2, K1, Z0

// func vnniGate(gate, up *float32, n int)
TEXT ·vnniGate(SB), NOSPLIT, $0-24
	MOVQ gate+0(FP), DI
	MOVQ up+8(FP), SI
	MOVQ n+16(FP), CX
	EXPCONSTANTS

gate:
	VMOVUPS (DI), Z5
	VPXORD Z29, Z5, Z0
	EXP
	VADDPS Z28, Z0, Z0
	VDIVPS Z0, Z5, Z0
	VMULPS (SI), Z0, Z0
	VMOVUPS Z0, (DI)
	ADDQ $64, SI
	ADDQ $64, DI
	SUBQ $16, CX
	JNZ  gate
	VZEROUPPER
	RET

// func vnniSoftmax(v *float32, n int) float32
TEXT ·vnniSoftmax(SB), NOSPLIT, $0-20
	MOVQ v+0(FP), DI
	MOVQ n+8(FP), CX
	EXPCONSTANTS
	MOVQ DI, SI
	MOVQ CX, DX
	VMOVUPS (SI), Z6

largest:
	VMAXPS (SI), Z6, Z6
	ADDQ $64, SI
	DECQ DX
	JNZ  largest
	VEXTRACTF64X4 $1, Z6, Y7
	VMAXPS Y7, Y6, Y6
	VEXTRACTF128 $1, Y6, X7
	VMAXPS X7, X6, X6
	VPSHUFD $0x4e, X6, X7
	VMAXPS X7, X6, X6
	VPSHUFD $0xb1, X6, X7
	VMAXPS X7, X6, X6
	VBROADCASTSS X6, Z6
	VPXORD Z5, Z5, Z5 // the sums

exponential:
	VMOVUPS (DI), Z0
	VSUBPS Z6, Z0, Z0
	EXP
	VMOVUPS Z0, (DI)
	VADDPS Z0, Z5, Z5
	ADDQ $64, DI
	DECQ CX
	JNZ  exponential
	VEXTRACTF64X4 $1, Z5, Y7
	VADDPS Y7, Y5, Y5
	VEXTRACTF128 $1, Y5, X7
	VADDPS X7, X5, X5
	VPSHUFD $0x4e, X5, X7
	VADDPS X7, X5, X5
	VPSHUFD $0xb1, X5, X7
	VADDPS X7, X5, X5
	VMOVSS X5, ret+16(FP)
	VZEROUPPER
	RET
