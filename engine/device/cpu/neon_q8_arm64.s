#include "go_asm.h"
#include "textflag.h"
#include "neon_product_arm64.h"

// 32 columns of signed bytes.
#define BYTES(DOT) \
	VLD1.P 64(R7), [V24.B16, V25.B16, V26.B16, V27.B16]; \
	DOT(24, 0, 0, 0); \
	DOT(25, 1, 0, 0); \
	DOT(26, 2, 0, 0); \
	DOT(27, 3, 0, 0); \
	VLD1.P 64(R7), [V24.B16, V25.B16, V26.B16, V27.B16]; \
	DOT(24, 0, 0, 1); \
	DOT(25, 1, 0, 1); \
	DOT(26, 2, 0, 1); \
	DOT(27, 3, 0, 1); \
	VLD1.P 64(R7), [V24.B16, V25.B16, V26.B16, V27.B16]; \
	DOT(24, 0, 0, 2); \
	DOT(25, 1, 0, 2); \
	DOT(26, 2, 0, 2); \
	DOT(27, 3, 0, 2); \
	VLD1.P 64(R7), [V24.B16, V25.B16, V26.B16, V27.B16]; \
	DOT(24, 0, 0, 3); \
	DOT(25, 1, 0, 3); \
	DOT(26, 2, 0, 3); \
	DOT(27, 3, 0, 3); \
	VLD1.P 64(R7), [V24.B16, V25.B16, V26.B16, V27.B16]; \
	DOT(24, 0, 1, 0); \
	DOT(25, 1, 1, 0); \
	DOT(26, 2, 1, 0); \
	DOT(27, 3, 1, 0); \
	VLD1.P 64(R7), [V24.B16, V25.B16, V26.B16, V27.B16]; \
	DOT(24, 0, 1, 1); \
	DOT(25, 1, 1, 1); \
	DOT(26, 2, 1, 1); \
	DOT(27, 3, 1, 1); \
	VLD1.P 64(R7), [V24.B16, V25.B16, V26.B16, V27.B16]; \
	DOT(24, 0, 1, 2); \
	DOT(25, 1, 1, 2); \
	DOT(26, 2, 1, 2); \
	DOT(27, 3, 1, 2); \
	VLD1.P 64(R7), [V24.B16, V25.B16, V26.B16, V27.B16]; \
	DOT(24, 0, 1, 3); \
	DOT(25, 1, 1, 3); \
	DOT(26, 2, 1, 3); \
	DOT(27, 3, 1, 3)

// Planes: d in R8, quants in R7.
#define Q8_0(EACH, DOT, RECORDS) \
	BEGIN; \
panel: \
	PANEL; \
	MOVD R3, R8; \
	ADD  R6, R3, R7; \
	ZEROS; \
	EACH(CLEAR); \
block: \
	RECORDS; \
	EACH(NONE); \
	BYTES(DOT); \
	HALVES(R8, 24); \
	EACH(SCALED); \
	ADD  $32, R8; \
	NEXTBLOCK; \
	SUBS $32, R6; \
	BNE  block; \
	NEXTPANEL(panel); \
	RET

// func neonQ8_0x2(p *product)
TEXT ·neonQ8_0x2(SB), NOSPLIT, $0-8
	Q8_0(EACH2, DOT2, RECORDS2)

// func neonQ8_0x1(p *product)
TEXT ·neonQ8_0x1(SB), NOSPLIT, $0-8
	Q8_0(EACH1, DOT1, RECORDS1)
