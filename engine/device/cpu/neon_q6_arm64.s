#include "go_asm.h"
#include "textflag.h"
#include "neon_product_arm64.h"

// The super-blocks of Q6_K: 256 columns in 16 groups of 16. Planes: d (R8), scales
// (R10; four words a row), low nibbles (R7; 32 words), high bits (R9; 16 words).
// 128 columns have 64 bytes of low nibbles and 32 of high bits: columns 0-31 and 32-63
// are the low nibbles of the first and the second 32 bytes, columns 64-95 and
// 96-127 the high ones; the high bits of the four are pairs of bits of a byte, from the
// lowest up. The scales times d of a super-block go into product.scratch first.

// SCALES4 makes four groups' scales of rows 4*Q … from the bytes of a word.
#define GROUP(G, Q, SHIFT) \
	SHL32(SHIFT, 16, 0); \
	SSHR32(24, 0, 0); \
	SCVTF32(0, 0); \
	FMUL32(20+Q, 0, 0); \
	FMOVQ F0, (64*G+16*Q)(R11)
#define SCALES4(W, Q) \
	FMOVQ (64*W+16*Q)(R10), F16; \
	GROUP((4*W), Q, 24); \
	GROUP((4*W+1), Q, 16); \
	GROUP((4*W+2), Q, 8); \
	GROUP((4*W+3), Q, 0)
#define QUARTER(Q) \
	SCALES4(0, Q); \
	SCALES4(1, Q); \
	SCALES4(2, Q); \
	SCALES4(3, Q)

#define SCALES \
	MOVD product_cols(R0), R12; \
	SUB  R6, R12, R13; \
	ADD  R13>>3, R3, R8; \
	ADD  R12>>3, R13, R10; \
	ADD  R3, R10; \
	ADD  $product_scratch, R0, R11; \
	HALVES(R8, 20); \
	QUARTER(0); \
	QUARTER(1); \
	QUARTER(2); \
	QUARTER(3)

// The quants are 32 too large.
#define BIASEDFIRST(H, L, A, RECORD, Y) BIASED(H, L, RECORD, 76, 5)
#define BIASEDSECOND(H, L, A, RECORD, Y) BIASED(H, L, RECORD, 80, 5)

// The four kinds of sixes. V27 has 0x30 in every byte.
#define SIX0 \
	AND16(31, 24, 24); \
	SHL8(4, 25, 25)
#define SIX1 \
	AND16(31, 24, 24); \
	SHL8(2, 25, 25)
#define SIX2 \
	USHR8(4, 24, 24)
#define SIX3 \
	USHR8(4, 24, 24); \
	USHR8(2, 25, 25)

// SIX does 4 columns of rows 4*Q …, the nibbles at AT further than the bits.
#define SIX(DOT, KIND, AT, Q, U, A, E) \
	FMOVQ (AT+64*U+16*Q)(R7), F24; \
	FMOVQ (64*U+16*Q)(R9), F25; \
	KIND; \
	AND16(27, 25, 25); \
	ORR16(25, 24, 24); \
	DOT(24, Q, A, E)

// GROUPEND ends 16 columns; the activations are loaded anew for the next.
#define GROUPEND(EACH) \
	VLD1.P 64(R11), [V24.B16, V25.B16, V26.B16, V27.B16]; \
	EACH(SCALED)

// 32 columns are two groups.
#define SIXES(EACH, DOT, RECORDS, KIND, AT) \
	RECORDS; \
	VMOVI $48, V27.B16; \
	EACH(BIASEDFIRST); \
	SIX(DOT, KIND, AT, 0, 0, 0, 0); \
	SIX(DOT, KIND, AT, 1, 0, 0, 0); \
	SIX(DOT, KIND, AT, 2, 0, 0, 0); \
	SIX(DOT, KIND, AT, 3, 0, 0, 0); \
	SIX(DOT, KIND, AT, 0, 1, 0, 1); \
	SIX(DOT, KIND, AT, 1, 1, 0, 1); \
	SIX(DOT, KIND, AT, 2, 1, 0, 1); \
	SIX(DOT, KIND, AT, 3, 1, 0, 1); \
	SIX(DOT, KIND, AT, 0, 2, 0, 2); \
	SIX(DOT, KIND, AT, 1, 2, 0, 2); \
	SIX(DOT, KIND, AT, 2, 2, 0, 2); \
	SIX(DOT, KIND, AT, 3, 2, 0, 2); \
	SIX(DOT, KIND, AT, 0, 3, 0, 3); \
	SIX(DOT, KIND, AT, 1, 3, 0, 3); \
	SIX(DOT, KIND, AT, 2, 3, 0, 3); \
	SIX(DOT, KIND, AT, 3, 3, 0, 3); \
	GROUPEND(EACH); \
	RECORDS; \
	VMOVI $48, V27.B16; \
	EACH(BIASEDSECOND); \
	SIX(DOT, KIND, AT, 0, 4, 1, 0); \
	SIX(DOT, KIND, AT, 1, 4, 1, 0); \
	SIX(DOT, KIND, AT, 2, 4, 1, 0); \
	SIX(DOT, KIND, AT, 3, 4, 1, 0); \
	SIX(DOT, KIND, AT, 0, 5, 1, 1); \
	SIX(DOT, KIND, AT, 1, 5, 1, 1); \
	SIX(DOT, KIND, AT, 2, 5, 1, 1); \
	SIX(DOT, KIND, AT, 3, 5, 1, 1); \
	SIX(DOT, KIND, AT, 0, 6, 1, 2); \
	SIX(DOT, KIND, AT, 1, 6, 1, 2); \
	SIX(DOT, KIND, AT, 2, 6, 1, 2); \
	SIX(DOT, KIND, AT, 3, 6, 1, 2); \
	SIX(DOT, KIND, AT, 0, 7, 1, 3); \
	SIX(DOT, KIND, AT, 1, 7, 1, 3); \
	SIX(DOT, KIND, AT, 2, 7, 1, 3); \
	SIX(DOT, KIND, AT, 3, 7, 1, 3); \
	GROUPEND(EACH); \
	NEXTBLOCK

#define Q6_K(EACH, DOT, RECORDS) \
	BEGIN; \
panel: \
	PANEL; \
	ADD  R6>>3, R6, R7; \
	ADD  R3, R7; \
	ADD  R6<<3, R7, R9; \
	ZEROS; \
	EACH(CLEAR); \
super: \
	SCALES; \
	MOVD $2, R14; \
half: \
	SIXES(EACH, DOT, RECORDS, SIX0, 0); \
	SIXES(EACH, DOT, RECORDS, SIX1, 512); \
	SIXES(EACH, DOT, RECORDS, SIX2, 0); \
	SIXES(EACH, DOT, RECORDS, SIX3, 512); \
	ADD  $1024, R7; \
	ADD  $512, R9; \
	SUBS $1, R14; \
	BNE  half; \
	SUBS $256, R6; \
	BNE  super; \
	NEXTPANEL(panel); \
	RET

// func neonQ6_Kx2(p *product)
TEXT ·neonQ6_Kx2(SB), NOSPLIT, $0-8
	Q6_K(EACH2, DOT2, RECORDS2)

// func neonQ6_Kx1(p *product)
TEXT ·neonQ6_Kx1(SB), NOSPLIT, $0-8
	Q6_K(EACH1, DOT1, RECORDS1)
