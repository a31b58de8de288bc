#include "go_asm.h"
#include "textflag.h"
#include "neon_product_arm64.h"

// The float formats: 16 rows of weights, in V24-V27, times one column, column by
// column. V0-V3 and V8-V11 have the sums of up to 32 columns, V28 and V29 the
// activations. R14 counts the columns of a block.

#define TERMS(S, X) \
	FMUL32(X, 24, 30); \
	FADD32(30, S, S); \
	FMUL32(X, 25, 31); \
	FADD32(31, S+1, S+1); \
	FMUL32(X, 26, 30); \
	FADD32(30, S+2, S+2); \
	FMUL32(X, 27, 31); \
	FADD32(31, S+3, S+3)
#define TERM2 \
	VLD1R.P 4(R1), [V28.S4]; \
	VLD1R.P 4(R2), [V29.S4]; \
	TERMS(0, 28); \
	TERMS(8, 29)
#define TERM1 \
	VLD1R.P 4(R1), [V28.S4]; \
	TERMS(0, 28)

#define ENDSUM(S, L, A, X, Y) \
	VLD1 (Y), [V16.B16, V17.B16, V18.B16, V19.B16]; \
	FADD32(S, 16, 16); \
	FADD32(S+1, 17, 17); \
	FADD32(S+2, 18, 18); \
	FADD32(S+3, 19, 19); \
	VST1 [V16.B16, V17.B16, V18.B16, V19.B16], (Y)

#define LOADF32 \
	VLD1.P 64(R7), [V24.B16, V25.B16, V26.B16, V27.B16]

#define LOADF16 \
	HALVES(R7, 24); \
	ADD  $32, R7

#define LOADBF16 \
	VLD1.P 32(R7), [V28.B16, V29.B16]; \
	VUSHLL $0, V28.H4, V24.S4; \
	VUSHLL2 $0, V28.H8, V25.S4; \
	VUSHLL $0, V29.H4, V26.S4; \
	VUSHLL2 $0, V29.H8, V27.S4; \
	SHL32(16, 24, 24); \
	SHL32(16, 25, 25); \
	SHL32(16, 26, 26); \
	SHL32(16, 27, 27)

#define FLOATS(EACH, TERM, LOAD) \
	BEGIN; \
panel: \
	PANEL; \
	MOVD R3, R7; \
	ZEROS; \
	EACH(CLEAR); \
block: \
	MOVD $32, R14; \
	CMP  R14, R6; \
	CSEL LT, R6, R14, R14; \
	SUB  R14, R6; \
	EACH(NONE); \
column: \
	LOAD; \
	TERM; \
	SUBS $1, R14; \
	BNE  column; \
	EACH(ENDSUM); \
	CBNZ R6, block; \
	NEXTPANEL(panel); \
	RET

// func neonF32x2(p *product)
TEXT ·neonF32x2(SB), NOSPLIT, $0-8
	FLOATS(EACH2, TERM2, LOADF32)

// func neonF32x1(p *product)
TEXT ·neonF32x1(SB), NOSPLIT, $0-8
	FLOATS(EACH1, TERM1, LOADF32)

// func neonF16x2(p *product)
TEXT ·neonF16x2(SB), NOSPLIT, $0-8
	FLOATS(EACH2, TERM2, LOADF16)

// func neonF16x1(p *product)
TEXT ·neonF16x1(SB), NOSPLIT, $0-8
	FLOATS(EACH1, TERM1, LOADF16)

// func neonBF16x2(p *product)
TEXT ·neonBF16x2(SB), NOSPLIT, $0-8
	FLOATS(EACH2, TERM2, LOADBF16)

// func neonBF16x1(p *product)
TEXT ·neonBF16x1(SB), NOSPLIT, $0-8
	FLOATS(EACH1, TERM1, LOADBF16)
