#include "go_asm.h"
#include "textflag.h"
#include "neon_arm64.h"

// Attention of a tile of 4 queries or 1. V0-V3, V4-V7, V8-V11 and V12-V15 are the
// sums of the queries, 16 elements each, V16-V19 the key elements of 16 positions
// or 16 elements of a value, V20-V23 what they are multiplied with, one number to
// a query, from R1-R4; R5-R8 are the places of the queries' results.

#define TERM(S, X) \
	FMUL32(X, 16, 24); \
	FADD32(24, S, S); \
	FMUL32(X, 17, 25); \
	FADD32(25, S+1, S+1); \
	FMUL32(X, 18, 26); \
	FADD32(26, S+2, S+2); \
	FMUL32(X, 19, 27); \
	FADD32(27, S+3, S+3)
#define TERMS4 \
	VLD1R.P 4(R1), [V20.S4]; \
	VLD1R.P 4(R2), [V21.S4]; \
	VLD1R.P 4(R3), [V22.S4]; \
	VLD1R.P 4(R4), [V23.S4]; \
	TERM(0, 20); \
	TERM(4, 21); \
	TERM(8, 22); \
	TERM(12, 23)
#define TERMS1 \
	VLD1R.P 4(R1), [V20.S4]; \
	TERM(0, 20)

#define LOAD4 \
	VLD1 (R5), [V0.B16, V1.B16, V2.B16, V3.B16]; \
	VLD1 (R6), [V4.B16, V5.B16, V6.B16, V7.B16]; \
	VLD1 (R7), [V8.B16, V9.B16, V10.B16, V11.B16]; \
	VLD1 (R8), [V12.B16, V13.B16, V14.B16, V15.B16]
#define LOAD1 \
	VLD1 (R5), [V0.B16, V1.B16, V2.B16, V3.B16]
#define STORE4 \
	VST1.P [V0.B16, V1.B16, V2.B16, V3.B16], 64(R5); \
	VST1.P [V4.B16, V5.B16, V6.B16, V7.B16], 64(R6); \
	VST1.P [V8.B16, V9.B16, V10.B16, V11.B16], 64(R7); \
	VST1.P [V12.B16, V13.B16, V14.B16, V15.B16], 64(R8)
#define STORE1 \
	VST1.P [V0.B16, V1.B16, V2.B16, V3.B16], 64(R5)

#define CLEARSUM(S) \
	ZERO16(S); \
	ZERO16(S+1); \
	ZERO16(S+2); \
	ZERO16(S+3)
#define FACTOR(S) \
	FMUL32E(28, 0, S, S); \
	FMUL32E(28, 0, S+1, S+1); \
	FMUL32E(28, 0, S+2, S+2); \
	FMUL32E(28, 0, S+3, S+3)
#define EACH4(M) \
	M(0); \
	M(4); \
	M(8); \
	M(12)
#define EACH1(M) \
	M(0)

// FOUR are four places from FIRST on, STEP bytes apart.
#define FOUR(FIRST, STEP, A, B, C, D) \
	MOVD FIRST, A; \
	ADD  STEP, A, B; \
	ADD  STEP, B, C; \
	ADD  STEP, C, D

#define SCORES(EACH, TERMS, STORE) \
	MOVD a+0(FP), R0; \
	MOVD attention_dim(R0), R10; \
	LSL  $2, R10, R11; \
	FOUR(attention_q(R0), R11, R1, R2, R3, R4); \
	MOVD attention_pRow(R0), R11; \
	FOUR(attention_p(R0), R11, R5, R6, R7, R8); \
	MOVD attention_kv(R0), R9; \
	EACH(CLEARSUM); \
element: \
	VLD1.P 64(R9), [V16.B16, V17.B16, V18.B16, V19.B16]; \
	TERMS; \
	SUBS $1, R10; \
	BNE  element; \
	FMOVS attention_factor(R0), F28; \
	EACH(FACTOR); \
	STORE; \
	RET

// func neonScoresx4(a *attention)
TEXT ·neonScoresx4(SB), NOSPLIT, $0-8
	SCORES(EACH4, TERMS4, STORE4)

// func neonScoresx1(a *attention)
TEXT ·neonScoresx1(SB), NOSPLIT, $0-8
	SCORES(EACH1, TERMS1, STORE1)

// R13 is the place of 16 elements of the first value, R14 the elements that are
// left, R15 the bytes of a value.
#define WEIGH(TERMS, LOAD, STORE) \
	MOVD a+0(FP), R0; \
	MOVD attention_dim(R0), R14; \
	LSL  $2, R14, R15; \
	FOUR(attention_out(R0), R15, R5, R6, R7, R8); \
	MOVD attention_kv(R0), R13; \
elements: \
	MOVD attention_pRow(R0), R11; \
	FOUR(attention_p(R0), R11, R1, R2, R3, R4); \
	MOVD attention_n(R0), R10; \
	MOVD R13, R9; \
	LOAD; \
position: \
	VLD1 (R9), [V16.B16, V17.B16, V18.B16, V19.B16]; \
	TERMS; \
	ADD  R15, R9; \
	SUBS $1, R10; \
	BNE  position; \
	STORE; \
	ADD  $64, R13; \
	SUBS $16, R14; \
	BNE  elements; \
	RET

// func neonWeighx4(a *attention)
TEXT ·neonWeighx4(SB), NOSPLIT, $0-8
	WEIGH(TERMS4, LOAD4, STORE4)

// func neonWeighx1(a *attention)
TEXT ·neonWeighx1(SB), NOSPLIT, $0-8
	WEIGH(TERMS1, LOAD1, STORE1)
