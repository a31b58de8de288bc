#include "textflag.h"
#include "exp_amd64.h"

// What happens to rows of activations, 8 values at a time.

DATA order<>+0(SB)/8, $0x0706030205040100
DATA order<>+8(SB)/8, $0x0f0e0b0a0d0c0908
DATA order<>+16(SB)/8, $0x0706030205040100
DATA order<>+24(SB)/8, $0x0f0e0b0a0d0c0908
GLOBL order<>(SB), RODATA|NOPTR, $32

DATA ranges<>+0(SB)/4, $0x7fffffff
DATA ranges<>+4(SB)/4, $32639
DATA ranges<>+8(SB)/4, $-32639
GLOBL ranges<>(SB), RODATA|NOPTR, $12

// WORDS stores 16 integers of A and B as words, in the order that product wants:
// of four the even two first. X12 has the order.
#define WORDS(A, B, AT) \
	VPACKSSDW B, A, Y4; \
	VPERMQ $0xd8, Y4, Y4; \
	VPSHUFB Y12, Y4, Y4; \
	VMOVDQU Y4, AT(DI)

// func avx2Quantize(to *byte, from *float32, blocks int)
//
// For each block of 32 values, in Y0 to Y3: the largest magnitude, compared as
// integers; its scale; the rounded multiples of it.
TEXT ·avx2Quantize(SB), NOSPLIT, $0-24
	MOVQ to+0(FP), DI
	MOVQ from+8(FP), SI
	MOVQ blocks+16(FP), CX
	VMOVDQU order<>(SB), Y12
	VPBROADCASTD ranges<>+0(SB), Y13
	VPBROADCASTD ranges<>+4(SB), Y14
	VPBROADCASTD ranges<>+8(SB), Y15
	VCVTDQ2PS X14, X11

block:
	VMOVUPS (SI), Y0
	VMOVUPS 32(SI), Y1
	VMOVUPS 64(SI), Y2
	VMOVUPS 96(SI), Y3
	VPAND Y13, Y0, Y4
	VPAND Y13, Y1, Y5
	VPAND Y13, Y2, Y6
	VPAND Y13, Y3, Y7
	VPMAXUD Y5, Y4, Y4
	VPMAXUD Y7, Y6, Y6
	VPMAXUD Y6, Y4, Y4
	VEXTRACTI128 $1, Y4, X5
	VPMAXUD X5, X4, X4
	VPSHUFD $0x4e, X4, X5
	VPMAXUD X5, X4, X4
	VPSHUFD $0xb1, X4, X5
	VPMAXUD X5, X4, X4
	VMOVD X4, AX
	CMPL AX, $0x0d800000 // 2^-100
	JB   zeros
	CMPL AX, $0x7f800000
	JAE  infinite
	VDIVSS X11, X4, X9 // the scale
	VDIVSS X4, X11, X5 // its inverse
	VBROADCASTSS X5, Y5
	VMULPS Y5, Y0, Y0
	VMULPS Y5, Y1, Y1
	VMULPS Y5, Y2, Y2
	VMULPS Y5, Y3, Y3
	VCVTPS2DQ Y0, Y0
	VCVTPS2DQ Y1, Y1
	VCVTPS2DQ Y2, Y2
	VCVTPS2DQ Y3, Y3
	VPMINSD Y14, Y0, Y0
	VPMINSD Y14, Y1, Y1
	VPMINSD Y14, Y2, Y2
	VPMINSD Y14, Y3, Y3
	VPMAXSD Y15, Y0, Y0
	VPMAXSD Y15, Y1, Y1
	VPMAXSD Y15, Y2, Y2
	VPMAXSD Y15, Y3, Y3
	WORDS(Y0, Y1, 0)
	WORDS(Y2, Y3, 32)

	// The sums of the two halves, in the first two elements of X4.
	VPADDD Y1, Y0, Y4
	VPADDD Y3, Y2, Y5
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
	VMULSS X9, X4, X4
	VMOVSS X9, 64(DI)
	VMOVSS X4, 68(DI)

next:
	ADDQ $128, SI
	ADDQ $84, DI
	DECQ CX
	JNZ  block
	VZEROUPPER
	RET

zeros: // too small to matter
	VPXOR X4, X4, X4

infinite: // zeros times an infinity or a NaN
	VPXOR Y0, Y0, Y0
	VMOVDQU Y0, (DI)
	VMOVDQU Y0, 32(DI)
	VMULSS X0, X4, X5
	VMOVSS X4, 64(DI)
	VMOVSS X5, 68(DI)
	VMOVQ X0, 72(DI)
	VMOVD X0, 80(DI)
	JMP  next

// func avx2SumSquares(v *float32, n int, sums *[8]float64)
TEXT ·avx2SumSquares(SB), NOSPLIT, $0-24
	MOVQ v+0(FP), SI
	MOVQ n+8(FP), CX
	MOVQ sums+16(FP), DI
	VMOVUPD (DI), Y0
	VMOVUPD 32(DI), Y1

squares:
	VCVTPS2PD (SI), Y2
	VCVTPS2PD 16(SI), Y3
	VMULPD Y2, Y2, Y2
	VMULPD Y3, Y3, Y3
	VADDPD Y2, Y0, Y0
	VADDPD Y3, Y1, Y1
	ADDQ $32, SI
	SUBQ $8, CX
	JNZ  squares
	VMOVUPD Y0, (DI)
	VMOVUPD Y1, 32(DI)
	VZEROUPPER
	RET

// func avx2Norm(dst, src, gain *float32, scale float32, n int)
TEXT ·avx2Norm(SB), NOSPLIT, $0-40
	MOVQ dst+0(FP), DI
	MOVQ src+8(FP), SI
	MOVQ gain+16(FP), DX
	VBROADCASTSS scale+24(FP), Y0
	MOVQ n+32(FP), CX

norm:
	VMULPS (SI), Y0, Y1
	VMULPS (DX), Y1, Y1
	VMOVUPS Y1, (DI)
	ADDQ $32, SI
	ADDQ $32, DX
	ADDQ $32, DI
	SUBQ $8, CX
	JNZ  norm
	VZEROUPPER
	RET

// func avx2Scale(v *float32, scale float32, n int)
TEXT ·avx2Scale(SB), NOSPLIT, $0-24
	MOVQ v+0(FP), DI
	VBROADCASTSS scale+8(FP), Y0
	MOVQ n+16(FP), CX

scale:
	VMULPS (DI), Y0, Y1
	VMOVUPS Y1, (DI)
	ADDQ $32, DI
	SUBQ $8, CX
	JNZ  scale
	VZEROUPPER
	RET

// func avx2Add(dst, src *float32, n int)
TEXT ·avx2Add(SB), NOSPLIT, $0-24
	MOVQ dst+0(FP), DI
	MOVQ src+8(FP), SI
	MOVQ n+16(FP), CX

add:
	VMOVUPS (DI), Y0
	VADDPS (SI), Y0, Y0
	VMOVUPS Y0, (DI)
	ADDQ $32, SI
	ADDQ $32, DI
	SUBQ $8, CX
	JNZ  add
	VZEROUPPER
	RET

// CONSTANT puts a constant of exp into Y4.
#define CONSTANT(AT) VBROADCASTSS exp<>+AT(SB), Y4

// EXP makes Y0 = exp(Y0); it uses Y1 to Y4, and Y14, which has 1, and Y15, which
// has -87. A NaN stays one: of the operands of a minimum the last is taken, and
// it is not less than -87.
#define EXP \
	CONSTANT(0x00); \
	VMINPS Y0, Y4, Y0; \
	VCMPPS $5, Y15, Y0, Y5; \
	CONSTANT(0x08); \
	VMULPS Y4, Y0, Y1; \
	CONSTANT(0x0c); \
	VADDPS Y4, Y1, Y1; \
	VSUBPS Y4, Y1, Y2; \
	CONSTANT(0x10); \
	VMULPS Y4, Y2, Y3; \
	VSUBPS Y3, Y0, Y0; \
	CONSTANT(0x14); \
	VMULPS Y4, Y2, Y3; \
	VSUBPS Y3, Y0, Y0; \
	CONSTANT(0x18); \
	VMULPS Y4, Y0, Y2; \
	CONSTANT(0x1c); \
	VADDPS Y4, Y2, Y2; \
	VMULPS Y0, Y2, Y2; \
	CONSTANT(0x20); \
	VADDPS Y4, Y2, Y2; \
	VMULPS Y0, Y2, Y2; \
	CONSTANT(0x24); \
	VADDPS Y4, Y2, Y2; \
	VMULPS Y0, Y2, Y2; \
	CONSTANT(0x28); \
	VADDPS Y4, Y2, Y2; \
	VMULPS Y0, Y2, Y2; \
	CONSTANT(0x2c); \
	VADDPS Y4, Y2, Y2; \
	VMULPS Y0, Y0, Y3; \
	VMULPS Y3, Y2, Y2; \
	VADDPS Y0, Y2, Y2; \
	VADDPS Y14, Y2, Y2; \
	VPSLLD $23, Y1, Y1; \
	VPADDD Y14, Y1, Y1; \
	VMULPS Y1, Y2, Y0; \
	VANDPS Y5, Y0, Y0

#define EXPCONSTANTS \
	VBROADCASTSS exp<>+0x30(SB), Y14; \
	VBROADCASTSS exp<>+0x04(SB), Y15

// func avx2Gate(gate, up *float32, n int)
TEXT ·avx2Gate(SB), NOSPLIT, $0-24
	MOVQ gate+0(FP), DI
	MOVQ up+8(FP), SI
	MOVQ n+16(FP), CX
	EXPCONSTANTS
	VBROADCASTSS exp<>+0x34(SB), Y13

gate:
	VMOVUPS (DI), Y6
	VXORPS Y13, Y6, Y0
	EXP
	VADDPS Y14, Y0, Y0
	VDIVPS Y0, Y6, Y0
	VMULPS (SI), Y0, Y0
	VMOVUPS Y0, (DI)
	ADDQ $32, SI
	ADDQ $32, DI
	SUBQ $8, CX
	JNZ  gate
	VZEROUPPER
	RET

// func avx2Softmax(v *float32, n int) float32
TEXT ·avx2Softmax(SB), NOSPLIT, $0-20
	MOVQ v+0(FP), DI
	MOVQ n+8(FP), CX
	EXPCONSTANTS
	MOVQ DI, SI
	MOVQ CX, DX
	VMOVUPS (SI), Y6

largest:
	VMAXPS (SI), Y6, Y6
	VMAXPS 32(SI), Y6, Y6
	ADDQ $64, SI
	DECQ DX
	JNZ  largest
	VEXTRACTF128 $1, Y6, X7
	VMAXPS X7, X6, X6
	VPSHUFD $0x4e, X6, X7
	VMAXPS X7, X6, X6
	VPSHUFD $0xb1, X6, X7
	VMAXPS X7, X6, X6
	VBROADCASTSS X6, Y6
	VXORPS Y7, Y7, Y7 // the sums
	VXORPS Y8, Y8, Y8

exponential:
	VMOVUPS (DI), Y0
	VSUBPS Y6, Y0, Y0
	EXP
	VMOVUPS Y0, (DI)
	VADDPS Y0, Y7, Y7
	VMOVUPS 32(DI), Y0
	VSUBPS Y6, Y0, Y0
	EXP
	VMOVUPS Y0, 32(DI)
	VADDPS Y0, Y8, Y8
	ADDQ $64, DI
	DECQ CX
	JNZ  exponential
	VADDPS Y8, Y7, Y7
	VEXTRACTF128 $1, Y7, X8
	VADDPS X8, X7, X7
	VPSHUFD $0x4e, X7, X8
	VADDPS X8, X7, X7
	VPSHUFD $0xb1, X7, X8
	VADDPS X8, X7, X7
	VMOVSS X7, ret+16(FP)
	VZEROUPPER
	RET
