#include "textflag.h"
#include "exp_arm64.h"
#include "neon_arm64.h"

// What happens to rows of activations, 16 values at a time.

#define ALL(M) \
	M(0); \
	M(1); \
	M(2); \
	M(3); \
	M(4); \
	M(5); \
	M(6); \
	M(7)

// ROUND makes an integer of a value: V20 has the inverse scale, V21 and V22 the
// range.
#define ROUND(V) \
	FMUL32E(20, 0, V, V); \
	FCVTNS32(V, V); \
	SMIN32(21, V, V); \
	SMAX32(22, V, V)

// SPLIT stores the high and the low bytes of 16 integers, in V … V+3, at HIGH and
// LOW. q = 256*high + low, both signed: high = (q+128) >> 8. V23 has 128.
#define SPLIT(V, HIGH, LOW) \
	ADD32(23, V, 8); \
	ADD32(23, V+1, 9); \
	ADD32(23, V+2, 10); \
	ADD32(23, V+3, 11); \
	SSHR32(8, 8, 8); \
	SSHR32(8, 9, 9); \
	SSHR32(8, 10, 10); \
	SSHR32(8, 11, 11); \
	UZP1H(9, 8, 8); \
	UZP1H(11, 10, 10); \
	UZP1B(10, 8, 8); \
	ADD  $HIGH, R0, R5; \
	VST1 [V8.B16], (R5); \
	UZP1H(V+1, V, 8); \
	UZP1H(V+3, V+2, 10); \
	UZP1B(10, 8, 8); \
	ADD  $LOW, R0, R5; \
	VST1 [V8.B16], (R5)

// SUM leaves the sum of 16 integers in R.
#define SUM(V, R) \
	ADD32(V, V+1, 8); \
	ADD32(V+2, V+3, 9); \
	ADD32(8, 9, 8); \
	ADDV32(8, 8); \
	VMOV V8.S[0], R

// LARGEST keeps the larger magnitudes in V8.
#define LARGEST(V) \
	FABS32(V, 9); \
	UMAX32(9, 8, 8)

// func neonQuantize(to *byte, from *float32, blocks int)
//
// For each block of 32 values, in V0-V7: the largest magnitude, compared as
// integers; its scale; the rounded multiples of it; their high and low bytes.
TEXT ·neonQuantize(SB), NOSPLIT, $0-24
	MOVD to+0(FP), R0
	MOVD from+8(FP), R1
	MOVD blocks+16(FP), R2
	MOVD $32639, R3
	VDUP R3, V21.S4
	SCVTFWS R3, F24
	NEG  R3, R3
	VDUP R3, V22.S4
	MOVD $128, R3
	VDUP R3, V23.S4
	MOVD $0x0d800000, R6 // 2^-100
	MOVD $0x7f800000, R7 // infinity

block:
	VLD1.P 64(R1), [V0.B16, V1.B16, V2.B16, V3.B16]
	VLD1.P 64(R1), [V4.B16, V5.B16, V6.B16, V7.B16]
	ZERO16(8)
	ALL(LARGEST)
	UMAXV32(8, 8)
	VMOV V8.S[0], R3
	FMOVS F8, F25
	CMP  R6, R3
	BLO  zeros
	CMP  R7, R3
	BHS  infinite
	FDIVS F24, F25, F26 // the scale
	FDIVS F25, F24, F20 // its inverse
	ALL(ROUND)
	SPLIT(0, 0, 32)
	SPLIT(4, 16, 48)
	SUM(0, R3)
	SUM(4, R4)
	ADDW R3, R4, R5
	NEGW R5, R8
	MOVW R8, 72(R0)
	NEGW R3, R8
	MOVW R8, 76(R0)
	NEGW R4, R8
	MOVW R8, 80(R0)
	SCVTFWS R5, F27
	FMULS F26, F27, F27
	FMOVS F26, 64(R0)
	FMOVS F27, 68(R0)

next:
	ADD  $84, R0
	SUBS $1, R2
	BNE  block
	RET

zeros: // too small to matter
	FMOVS ZR, F25

infinite: // zeros times an infinity or a NaN
	ZERO16(0)
	ZERO16(1)
	ZERO16(2)
	ZERO16(3)
	VST1 [V0.B16, V1.B16, V2.B16, V3.B16], (R0)
	FMULS F0, F25, F27
	FMOVS F25, 64(R0)
	FMOVS F27, 68(R0)
	MOVW ZR, 72(R0)
	MOVW ZR, 76(R0)
	MOVW ZR, 80(R0)
	B    next

// func neonSumSquares(v *float32, n int, sums *[8]float64)
TEXT ·neonSumSquares(SB), NOSPLIT, $0-24
	MOVD v+0(FP), R0
	MOVD n+8(FP), R1
	MOVD sums+16(FP), R2
	VLD1 (R2), [V0.B16, V1.B16, V2.B16, V3.B16]

squares:
	VLD1.P 32(R0), [V4.B16, V5.B16]
	FCVTL64(4, 6)
	FCVTL264(4, 7)
	FCVTL64(5, 8)
	FCVTL264(5, 9)
	FMUL64(6, 6, 6)
	FMUL64(7, 7, 7)
	FMUL64(8, 8, 8)
	FMUL64(9, 9, 9)
	FADD64(6, 0, 0)
	FADD64(7, 1, 1)
	FADD64(8, 2, 2)
	FADD64(9, 3, 3)
	SUBS $8, R1
	BNE  squares
	VST1 [V0.B16, V1.B16, V2.B16, V3.B16], (R2)
	RET

// func neonNorm(dst, src, gain *float32, scale float32, n int)
TEXT ·neonNorm(SB), NOSPLIT, $0-40
	MOVD dst+0(FP), R0
	MOVD src+8(FP), R1
	MOVD gain+16(FP), R2
	FMOVS scale+24(FP), F0
	MOVD n+32(FP), R3

norm:
	VLD1.P 32(R1), [V1.B16, V2.B16]
	VLD1.P 32(R2), [V3.B16, V4.B16]
	FMUL32E(0, 0, 1, 1)
	FMUL32E(0, 0, 2, 2)
	FMUL32(3, 1, 1)
	FMUL32(4, 2, 2)
	VST1.P [V1.B16, V2.B16], 32(R0)
	SUBS $8, R3
	BNE  norm
	RET

// func neonScale(v *float32, scale float32, n int)
TEXT ·neonScale(SB), NOSPLIT, $0-24
	MOVD v+0(FP), R0
	FMOVS scale+8(FP), F0
	MOVD n+16(FP), R3

scale:
	VLD1 (R0), [V1.B16, V2.B16]
	FMUL32E(0, 0, 1, 1)
	FMUL32E(0, 0, 2, 2)
	VST1.P [V1.B16, V2.B16], 32(R0)
	SUBS $8, R3
	BNE  scale
	RET

// func neonAdd(dst, src *float32, n int)
TEXT ·neonAdd(SB), NOSPLIT, $0-24
	MOVD dst+0(FP), R0
	MOVD src+8(FP), R1
	MOVD n+16(FP), R3

add:
	VLD1 (R0), [V1.B16, V2.B16]
	VLD1.P 32(R1), [V3.B16, V4.B16]
	FADD32(3, 1, 1)
	FADD32(4, 2, 2)
	VST1.P [V1.B16, V2.B16], 32(R0)
	SUBS $8, R3
	BNE  add
	RET

// EXPCONSTANTS puts the constants of exp into V16-V29.
#define EXPCONSTANTS \
	MOVD $exp<>(SB), R4; \
	VLD1R.P 4(R4), [V16.S4]; \
	VLD1R.P 4(R4), [V17.S4]; \
	VLD1R.P 4(R4), [V18.S4]; \
	VLD1R.P 4(R4), [V19.S4]; \
	VLD1R.P 4(R4), [V20.S4]; \
	VLD1R.P 4(R4), [V21.S4]; \
	VLD1R.P 4(R4), [V22.S4]; \
	VLD1R.P 4(R4), [V23.S4]; \
	VLD1R.P 4(R4), [V24.S4]; \
	VLD1R.P 4(R4), [V25.S4]; \
	VLD1R.P 4(R4), [V26.S4]; \
	VLD1R.P 4(R4), [V27.S4]; \
	VLD1R.P 4(R4), [V28.S4]; \
	VLD1R.P 4(R4), [V29.S4]

// EXP makes V0 = exp(V0); it uses V1-V4. A NaN stays one: it is the minimum of
// itself and anything, and not less than -87.
#define EXP \
	FMIN32(16, 0, 0); \
	FCMGT32(0, 17, 4); \
	FMUL32(18, 0, 1); \
	FADD32(19, 1, 1); \
	FSUB32(19, 1, 2); \
	FMUL32(20, 2, 3); \
	FSUB32(3, 0, 0); \
	FMUL32(21, 2, 3); \
	FSUB32(3, 0, 0); \
	FMUL32(22, 0, 2); \
	FADD32(23, 2, 2); \
	FMUL32(0, 2, 2); \
	FADD32(24, 2, 2); \
	FMUL32(0, 2, 2); \
	FADD32(25, 2, 2); \
	FMUL32(0, 2, 2); \
	FADD32(26, 2, 2); \
	FMUL32(0, 2, 2); \
	FADD32(27, 2, 2); \
	FMUL32(0, 0, 3); \
	FMUL32(3, 2, 2); \
	FADD32(0, 2, 2); \
	FADD32(28, 2, 2); \
	SHL32(23, 1, 1); \
	ADD32(28, 1, 1); \
	FMUL32(1, 2, 0); \
	BIC16(4, 0, 0)

// func neonGate(gate, up *float32, n int)
TEXT ·neonGate(SB), NOSPLIT, $0-24
	MOVD gate+0(FP), R0
	MOVD up+8(FP), R1
	MOVD n+16(FP), R2
	EXPCONSTANTS

gate:
	VLD1 (R0), [V5.B16]
	VLD1.P 16(R1), [V6.B16]
	FNEG32(5, 0)
	EXP
	FADD32(28, 0, 0)
	FDIV32(0, 5, 0)
	FMUL32(6, 0, 0)
	VST1.P [V0.B16], 16(R0)
	SUBS $4, R2
	BNE  gate
	RET

// EXPONENTIAL does one of the four parts of 16 values; S has its sums.
#define EXPONENTIAL(S) \
	VLD1 (R0), [V0.B16]; \
	FSUB32(6, 0, 0); \
	EXP; \
	VST1.P [V0.B16], 16(R0); \
	FADD32(0, S, S)

// func neonSoftmax(v *float32, n int) float32
TEXT ·neonSoftmax(SB), NOSPLIT, $0-20
	MOVD v+0(FP), R0
	MOVD n+8(FP), R1
	EXPCONSTANTS
	MOVD R0, R2
	MOVD R1, R3
	VLD1 (R2), [V6.B16]

largest:
	VLD1.P 64(R2), [V0.B16, V1.B16, V2.B16, V3.B16]
	FMAX32(0, 6, 6)
	FMAX32(1, 6, 6)
	FMAX32(2, 6, 6)
	FMAX32(3, 6, 6)
	SUBS $1, R3
	BNE  largest
	FMAXV32(6, 6)
	VDUP V6.S[0], V6.S4
	ZERO16(7)
	ZERO16(8)
	ZERO16(9)
	ZERO16(10)

exponential:
	EXPONENTIAL(7)
	EXPONENTIAL(8)
	EXPONENTIAL(9)
	EXPONENTIAL(10)
	SUBS $1, R1
	BNE  exponential

	// Sums 0-15 are in V7-V10; the second half is added to the first, and so on.
	FADD32(9, 7, 7)
	FADD32(10, 8, 8)
	FADD32(8, 7, 7)
	VMOV V7.D[1], R2
	FMOVD R2, F8
	FADD32(8, 7, 7)
	VMOV V7.S[1], R2
	FMOVS R2, F8
	FADDS F8, F7, F7
	FMOVS F7, ret+16(FP)
	RET
