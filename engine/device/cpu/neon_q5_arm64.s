#include "go_asm.h"
#include "textflag.h"
#include "neon_product_arm64.h"

// The fifth bits of a row are a word: bit c is that of column c. Four of them are
// shifted out and spread by a multiplication, bit j to byte j; V26 has the factor
// and V27 0x10 in every byte. N is a register of nibbles, B of the fifth bits of
// its four rows, C the first column.
#define FIFTHS(N, B, C) \
	SHL32(28-C, B, 25); \
	USHR32(28, 25, 25); \
	MUL32(26, 25, 25); \
	SHL32(4, 25, 25); \
	AND16(27, 25, 25); \
	ORR16(25, N, N)

// FIVE does four rows of 4 bytes as NIBBLE in Q4 does; they are at R7, the fifth
// bits of the rows Q*4 … at R9.
#define FIVE(DOT, Q, E) \
	FMOVQ 16*Q(R9), F28; \
	FMOVQ (64*E+16*Q)(R7), F24; \
	AND16(31, 24, 29); \
	USHR8(4, 24, 30); \
	FIFTHS(29, 28, 4*E); \
	FIFTHS(30, 28, (16+4*E)); \
	DOT(29, Q, 0, E); \
	DOT(30, Q, 1, E)

#define FIVES(DOT) \
	FIVE(DOT, 0, 0); \
	FIVE(DOT, 1, 0); \
	FIVE(DOT, 2, 0); \
	FIVE(DOT, 3, 0); \
	FIVE(DOT, 0, 1); \
	FIVE(DOT, 1, 1); \
	FIVE(DOT, 2, 1); \
	FIVE(DOT, 3, 1); \
	FIVE(DOT, 0, 2); \
	FIVE(DOT, 1, 2); \
	FIVE(DOT, 2, 2); \
	FIVE(DOT, 3, 2); \
	FIVE(DOT, 0, 3); \
	FIVE(DOT, 1, 3); \
	FIVE(DOT, 2, 3); \
	FIVE(DOT, 3, 3); \
	ADD  $256, R7; \
	ADD  $64, R9

// SPREAD prepares FIFTHS.
#define SPREAD \
	MOVD $0x00204081, R12; \
	VDUP R12, V26.S4; \
	VMOVI $16, V27.B16

#define BIASED16(H, L, A, RECORD, Y) BIASED(H, L, RECORD, 72, 4)

// Planes: d in R8, fifth bits in R9, quants in R7.
#define Q5_0(EACH, DOT, RECORDS) \
	BEGIN; \
panel: \
	PANEL; \
	MOVD R3, R8; \
	ADD  R6, R3, R9; \
	ADD  R6<<1, R9, R7; \
	ZEROS; \
	EACH(CLEAR); \
block: \
	RECORDS; \
	EACH(BIASED16); \
	SPREAD; \
	FIVES(DOT); \
	HALVES(R8, 24); \
	EACH(SCALED); \
	ADD  $32, R8; \
	NEXTBLOCK; \
	SUBS $32, R6; \
	BNE  block; \
	NEXTPANEL(panel); \
	RET

// Planes: d in R8, m in R10, fifth bits in R9, quants in R7.
#define Q5_1(EACH, DOT, RECORDS) \
	BEGIN; \
panel: \
	PANEL; \
	MOVD R3, R8; \
	ADD  R6, R3, R10; \
	ADD  R6, R10, R9; \
	ADD  R6<<1, R9, R7; \
	ZEROS; \
	EACH(CLEAR); \
block: \
	RECORDS; \
	EACH(NONE); \
	SPREAD; \
	FIVES(DOT); \
	HALVES(R8, 24); \
	HALVES(R10, 20); \
	EACH(OFFSET); \
	ADD  $32, R8; \
	ADD  $32, R10; \
	NEXTBLOCK; \
	SUBS $32, R6; \
	BNE  block; \
	NEXTPANEL(panel); \
	RET

// func neonQ5_0x2(p *product)
TEXT ·neonQ5_0x2(SB), NOSPLIT, $0-8
	Q5_0(EACH2, DOT2, RECORDS2)

// func neonQ5_0x1(p *product)
TEXT ·neonQ5_0x1(SB), NOSPLIT, $0-8
	Q5_0(EACH1, DOT1, RECORDS1)

// func neonQ5_1x2(p *product)
TEXT ·neonQ5_1x2(SB), NOSPLIT, $0-8
	Q5_1(EACH2, DOT2, RECORDS2)

// func neonQ5_1x1(p *product)
TEXT ·neonQ5_1x1(SB), NOSPLIT, $0-8
	Q5_1(EACH1, DOT1, RECORDS1)
