#include "go_asm.h"
#include "textflag.h"
#include "neon_product_arm64.h"

// 32 columns of nibbles: byte j has column j below and column 16+j above. NIBBLE
// does four rows, W, of 4 bytes.
#define NIBBLE(DOT, W, Q, E) \
	AND16(31, W, 29); \
	USHR8(4, W, 30); \
	DOT(29, Q, 0, E); \
	DOT(30, Q, 1, E)

#define NIBBLES(DOT) \
	VLD1.P 64(R7), [V24.B16, V25.B16, V26.B16, V27.B16]; \
	NIBBLE(DOT, 24, 0, 0); \
	NIBBLE(DOT, 25, 1, 0); \
	NIBBLE(DOT, 26, 2, 0); \
	NIBBLE(DOT, 27, 3, 0); \
	VLD1.P 64(R7), [V24.B16, V25.B16, V26.B16, V27.B16]; \
	NIBBLE(DOT, 24, 0, 1); \
	NIBBLE(DOT, 25, 1, 1); \
	NIBBLE(DOT, 26, 2, 1); \
	NIBBLE(DOT, 27, 3, 1); \
	VLD1.P 64(R7), [V24.B16, V25.B16, V26.B16, V27.B16]; \
	NIBBLE(DOT, 24, 0, 2); \
	NIBBLE(DOT, 25, 1, 2); \
	NIBBLE(DOT, 26, 2, 2); \
	NIBBLE(DOT, 27, 3, 2); \
	VLD1.P 64(R7), [V24.B16, V25.B16, V26.B16, V27.B16]; \
	NIBBLE(DOT, 24, 0, 3); \
	NIBBLE(DOT, 25, 1, 3); \
	NIBBLE(DOT, 26, 2, 3); \
	NIBBLE(DOT, 27, 3, 3)

#define BIASED8(H, L, A, RECORD, Y) BIASED(H, L, RECORD, 72, 3)

// Planes: d in R8, quants in R7.
#define Q4_0(EACH, DOT, RECORDS) \
	BEGIN; \
panel: \
	PANEL; \
	MOVD R3, R8; \
	ADD  R6, R3, R7; \
	ZEROS; \
	EACH(CLEAR); \
block: \
	RECORDS; \
	EACH(BIASED8); \
	NIBBLES(DOT); \
	HALVES(R8, 24); \
	EACH(SCALED); \
	ADD  $32, R8; \
	NEXTBLOCK; \
	SUBS $32, R6; \
	BNE  block; \
	NEXTPANEL(panel); \
	RET

// Planes: d in R8, m in R9, quants in R7.
#define Q4_1(EACH, DOT, RECORDS) \
	BEGIN; \
panel: \
	PANEL; \
	MOVD R3, R8; \
	ADD  R6, R3, R9; \
	ADD  R6, R9, R7; \
	ZEROS; \
	EACH(CLEAR); \
block: \
	RECORDS; \
	EACH(NONE); \
	NIBBLES(DOT); \
	HALVES(R8, 24); \
	HALVES(R9, 20); \
	EACH(OFFSET); \
	ADD  $32, R8; \
	ADD  $32, R9; \
	NEXTBLOCK; \
	SUBS $32, R6; \
	BNE  block; \
	NEXTPANEL(panel); \
	RET

// func neonQ4_0x2(p *product)
TEXT ·neonQ4_0x2(SB), NOSPLIT, $0-8
	Q4_0(EACH2, DOT2, RECORDS2)

// func neonQ4_0x1(p *product)
TEXT ·neonQ4_0x1(SB), NOSPLIT, $0-8
	Q4_0(EACH1, DOT1, RECORDS1)

// func neonQ4_1x2(p *product)
TEXT ·neonQ4_1x2(SB), NOSPLIT, $0-8
	Q4_1(EACH2, DOT2, RECORDS2)

// func neonQ4_1x1(p *product)
TEXT ·neonQ4_1x1(SB), NOSPLIT, $0-8
	Q4_1(EACH1, DOT1, RECORDS1)
