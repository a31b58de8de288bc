#include "go_asm.h"
#include "textflag.h"
#include "neon_product_arm64.h"

// The super-blocks of Q4_K and Q5_K: 256 columns in eight groups of 32; planes d
// (R8), dmin (R9), scales (R10; three words a row), in Q5_K fifth bits (R8 after
// the scales; eight words), quants (R7). At the start of one the scales and minima of its
// groups go into product.scratch: 16 scales of group 0, 16 minima of group 0, …

// PLACES finds d, dmin and the scales of the super-block that begins with R6
// columns left.
#define PLACES \
	MOVD product_cols(R0), R12; \
	SUB  R6, R12, R13; \
	ADD  R13>>3, R3, R8; \
	ADD  R12>>3, R8, R9; \
	ADD  R13<<1, R13, R10; \
	LSR  $2, R10; \
	ADD  R12>>2, R10, R10; \
	ADD  R3, R10; \
	ADD  $product_scratch, R0, R11

// LOW makes the scale and the minimum of group G (0 … 3) of rows 4*Q …: six bits
// each, of byte G of the first and the second word, which are in V16 and V17. The
// masks are in V28 (63), V29 (15) and V30 (48), d and dmin in V20+Q and V24+Q.
#define LOW(G, Q) \
	SHL32(24-8*G, 16, 0); \
	SHL32(24-8*G, 17, 1); \
	USHR32(24, 0, 0); \
	USHR32(24, 1, 1); \
	AND16(28, 0, 0); \
	AND16(28, 1, 1); \
	SCVTF32(0, 0); \
	SCVTF32(1, 1); \
	FMUL32(20+Q, 0, 0); \
	FMUL32(24+Q, 1, 1); \
	FMOVQ F0, (128*G+16*Q)(R11); \
	FMOVQ F1, (128*G+64+16*Q)(R11)

// HIGH makes those of group 4+J: the low four bits are in byte J of the third
// word, in V18 (scale below, minimum above), the others in the top two bits of
// byte J of the first and the second.
#define HIGH(J, Q) \
	SHL32(24-8*J, 18, 0); \
	USHR32(24, 0, 0); \
	USHR32(4, 0, 1); \
	AND16(29, 0, 0); \
	SHL32(24-8*J, 16, 2); \
	SHL32(24-8*J, 17, 3); \
	USHR32(26, 2, 2); \
	USHR32(26, 3, 3); \
	AND16(30, 2, 2); \
	AND16(30, 3, 3); \
	ORR16(2, 0, 0); \
	ORR16(3, 1, 1); \
	SCVTF32(0, 0); \
	SCVTF32(1, 1); \
	FMUL32(20+Q, 0, 0); \
	FMUL32(24+Q, 1, 1); \
	FMOVQ F0, (512+128*J+16*Q)(R11); \
	FMOVQ F1, (512+128*J+64+16*Q)(R11)

#define QUARTER(Q) \
	FMOVQ 16*Q(R10), F16; \
	FMOVQ (64+16*Q)(R10), F17; \
	FMOVQ (128+16*Q)(R10), F18; \
	LOW(0, Q); \
	LOW(1, Q); \
	LOW(2, Q); \
	LOW(3, Q); \
	HIGH(0, Q); \
	HIGH(1, Q); \
	HIGH(2, Q); \
	HIGH(3, Q)

#define MASK(M, V) \
	MOVD $M, R12; \
	VDUP R12, V

#define SCALES \
	HALVES(R8, 20); \
	HALVES(R9, 24); \
	MASK(63, V28.S4); \
	MASK(15, V29.S4); \
	MASK(48, V30.S4); \
	QUARTER(0); \
	QUARTER(1); \
	QUARTER(2); \
	QUARTER(3)

#define ENDGROUP(EACH) \
	VLD1.P 64(R11), [V24.B16, V25.B16, V26.B16, V27.B16]; \
	VLD1.P 64(R11), [V20.B16, V21.B16, V22.B16, V23.B16]; \
	EACH(MINUS); \
	NEXTBLOCK

// Two groups of 32 columns are the low and the high nibbles of 32 bytes.
#define LOWNIBBLES(DOT) \
	FMOVQ 0(R7), F24; \
	AND16(31, 24, 24); \
	DOT(24, 0, 0, 0); \
	FMOVQ 16(R7), F24; \
	AND16(31, 24, 24); \
	DOT(24, 1, 0, 0); \
	FMOVQ 32(R7), F24; \
	AND16(31, 24, 24); \
	DOT(24, 2, 0, 0); \
	FMOVQ 48(R7), F24; \
	AND16(31, 24, 24); \
	DOT(24, 3, 0, 0); \
	FMOVQ 64(R7), F24; \
	AND16(31, 24, 24); \
	DOT(24, 0, 0, 1); \
	FMOVQ 80(R7), F24; \
	AND16(31, 24, 24); \
	DOT(24, 1, 0, 1); \
	FMOVQ 96(R7), F24; \
	AND16(31, 24, 24); \
	DOT(24, 2, 0, 1); \
	FMOVQ 112(R7), F24; \
	AND16(31, 24, 24); \
	DOT(24, 3, 0, 1); \
	FMOVQ 128(R7), F24; \
	AND16(31, 24, 24); \
	DOT(24, 0, 0, 2); \
	FMOVQ 144(R7), F24; \
	AND16(31, 24, 24); \
	DOT(24, 1, 0, 2); \
	FMOVQ 160(R7), F24; \
	AND16(31, 24, 24); \
	DOT(24, 2, 0, 2); \
	FMOVQ 176(R7), F24; \
	AND16(31, 24, 24); \
	DOT(24, 3, 0, 2); \
	FMOVQ 192(R7), F24; \
	AND16(31, 24, 24); \
	DOT(24, 0, 0, 3); \
	FMOVQ 208(R7), F24; \
	AND16(31, 24, 24); \
	DOT(24, 1, 0, 3); \
	FMOVQ 224(R7), F24; \
	AND16(31, 24, 24); \
	DOT(24, 2, 0, 3); \
	FMOVQ 240(R7), F24; \
	AND16(31, 24, 24); \
	DOT(24, 3, 0, 3); \
	FMOVQ 256(R7), F24; \
	AND16(31, 24, 24); \
	DOT(24, 0, 1, 0); \
	FMOVQ 272(R7), F24; \
	AND16(31, 24, 24); \
	DOT(24, 1, 1, 0); \
	FMOVQ 288(R7), F24; \
	AND16(31, 24, 24); \
	DOT(24, 2, 1, 0); \
	FMOVQ 304(R7), F24; \
	AND16(31, 24, 24); \
	DOT(24, 3, 1, 0); \
	FMOVQ 320(R7), F24; \
	AND16(31, 24, 24); \
	DOT(24, 0, 1, 1); \
	FMOVQ 336(R7), F24; \
	AND16(31, 24, 24); \
	DOT(24, 1, 1, 1); \
	FMOVQ 352(R7), F24; \
	AND16(31, 24, 24); \
	DOT(24, 2, 1, 1); \
	FMOVQ 368(R7), F24; \
	AND16(31, 24, 24); \
	DOT(24, 3, 1, 1); \
	FMOVQ 384(R7), F24; \
	AND16(31, 24, 24); \
	DOT(24, 0, 1, 2); \
	FMOVQ 400(R7), F24; \
	AND16(31, 24, 24); \
	DOT(24, 1, 1, 2); \
	FMOVQ 416(R7), F24; \
	AND16(31, 24, 24); \
	DOT(24, 2, 1, 2); \
	FMOVQ 432(R7), F24; \
	AND16(31, 24, 24); \
	DOT(24, 3, 1, 2); \
	FMOVQ 448(R7), F24; \
	AND16(31, 24, 24); \
	DOT(24, 0, 1, 3); \
	FMOVQ 464(R7), F24; \
	AND16(31, 24, 24); \
	DOT(24, 1, 1, 3); \
	FMOVQ 480(R7), F24; \
	AND16(31, 24, 24); \
	DOT(24, 2, 1, 3); \
	FMOVQ 496(R7), F24; \
	AND16(31, 24, 24); \
	DOT(24, 3, 1, 3)

#define HIGHNIBBLES(DOT) \
	FMOVQ 0(R7), F24; \
	USHR8(4, 24, 24); \
	DOT(24, 0, 0, 0); \
	FMOVQ 16(R7), F24; \
	USHR8(4, 24, 24); \
	DOT(24, 1, 0, 0); \
	FMOVQ 32(R7), F24; \
	USHR8(4, 24, 24); \
	DOT(24, 2, 0, 0); \
	FMOVQ 48(R7), F24; \
	USHR8(4, 24, 24); \
	DOT(24, 3, 0, 0); \
	FMOVQ 64(R7), F24; \
	USHR8(4, 24, 24); \
	DOT(24, 0, 0, 1); \
	FMOVQ 80(R7), F24; \
	USHR8(4, 24, 24); \
	DOT(24, 1, 0, 1); \
	FMOVQ 96(R7), F24; \
	USHR8(4, 24, 24); \
	DOT(24, 2, 0, 1); \
	FMOVQ 112(R7), F24; \
	USHR8(4, 24, 24); \
	DOT(24, 3, 0, 1); \
	FMOVQ 128(R7), F24; \
	USHR8(4, 24, 24); \
	DOT(24, 0, 0, 2); \
	FMOVQ 144(R7), F24; \
	USHR8(4, 24, 24); \
	DOT(24, 1, 0, 2); \
	FMOVQ 160(R7), F24; \
	USHR8(4, 24, 24); \
	DOT(24, 2, 0, 2); \
	FMOVQ 176(R7), F24; \
	USHR8(4, 24, 24); \
	DOT(24, 3, 0, 2); \
	FMOVQ 192(R7), F24; \
	USHR8(4, 24, 24); \
	DOT(24, 0, 0, 3); \
	FMOVQ 208(R7), F24; \
	USHR8(4, 24, 24); \
	DOT(24, 1, 0, 3); \
	FMOVQ 224(R7), F24; \
	USHR8(4, 24, 24); \
	DOT(24, 2, 0, 3); \
	FMOVQ 240(R7), F24; \
	USHR8(4, 24, 24); \
	DOT(24, 3, 0, 3); \
	FMOVQ 256(R7), F24; \
	USHR8(4, 24, 24); \
	DOT(24, 0, 1, 0); \
	FMOVQ 272(R7), F24; \
	USHR8(4, 24, 24); \
	DOT(24, 1, 1, 0); \
	FMOVQ 288(R7), F24; \
	USHR8(4, 24, 24); \
	DOT(24, 2, 1, 0); \
	FMOVQ 304(R7), F24; \
	USHR8(4, 24, 24); \
	DOT(24, 3, 1, 0); \
	FMOVQ 320(R7), F24; \
	USHR8(4, 24, 24); \
	DOT(24, 0, 1, 1); \
	FMOVQ 336(R7), F24; \
	USHR8(4, 24, 24); \
	DOT(24, 1, 1, 1); \
	FMOVQ 352(R7), F24; \
	USHR8(4, 24, 24); \
	DOT(24, 2, 1, 1); \
	FMOVQ 368(R7), F24; \
	USHR8(4, 24, 24); \
	DOT(24, 3, 1, 1); \
	FMOVQ 384(R7), F24; \
	USHR8(4, 24, 24); \
	DOT(24, 0, 1, 2); \
	FMOVQ 400(R7), F24; \
	USHR8(4, 24, 24); \
	DOT(24, 1, 1, 2); \
	FMOVQ 416(R7), F24; \
	USHR8(4, 24, 24); \
	DOT(24, 2, 1, 2); \
	FMOVQ 432(R7), F24; \
	USHR8(4, 24, 24); \
	DOT(24, 3, 1, 2); \
	FMOVQ 448(R7), F24; \
	USHR8(4, 24, 24); \
	DOT(24, 0, 1, 3); \
	FMOVQ 464(R7), F24; \
	USHR8(4, 24, 24); \
	DOT(24, 1, 1, 3); \
	FMOVQ 480(R7), F24; \
	USHR8(4, 24, 24); \
	DOT(24, 2, 1, 3); \
	FMOVQ 496(R7), F24; \
	USHR8(4, 24, 24); \
	DOT(24, 3, 1, 3)

#define Q4_K(EACH, DOT, RECORDS) \
	BEGIN; \
panel: \
	PANEL; \
	ADD  R6, R3, R7; \
	ZEROS; \
	EACH(CLEAR); \
super: \
	PLACES; \
	SCALES; \
	MOVD $4, R14; \
pair: \
	RECORDS; \
	EACH(NONE); \
	LOWNIBBLES(DOT); \
	ENDGROUP(EACH); \
	RECORDS; \
	EACH(NONE); \
	HIGHNIBBLES(DOT); \
	ENDGROUP(EACH); \
	ADD  $512, R7; \
	SUBS $1, R14; \
	BNE  pair; \
	SUBS $256, R6; \
	BNE  super; \
	NEXTPANEL(panel); \
	RET

// func neonQ4_Kx2(p *product)
TEXT ·neonQ4_Kx2(SB), NOSPLIT, $0-8
	Q4_K(EACH2, DOT2, RECORDS2)

// func neonQ4_Kx1(p *product)
TEXT ·neonQ4_Kx1(SB), NOSPLIT, $0-8
	Q4_K(EACH1, DOT1, RECORDS1)

// FIVE multiplies the nibbles in V24 of rows 4*Q … with their fifth bits, U units
// of 4 columns on at R8. Bit g of the byte is that of group g: it is shifted to bit 4
// (V28: by 4-g) and cut out (V27: 0x10 in every byte).
#define FIVE(DOT, Q, U, A, E) \
	FMOVQ (64*U+16*Q)(R8), F25; \
	USHL8(28, 25, 25); \
	AND16(27, 25, 25); \
	ORR16(25, 24, 24); \
	DOT(24, Q, A, E)

#define LOWFIVES(DOT) \
	FMOVQ 0(R7), F24; \
	AND16(31, 24, 24); \
	FIVE(DOT, 0, 0, 0, 0); \
	FMOVQ 16(R7), F24; \
	AND16(31, 24, 24); \
	FIVE(DOT, 1, 0, 0, 0); \
	FMOVQ 32(R7), F24; \
	AND16(31, 24, 24); \
	FIVE(DOT, 2, 0, 0, 0); \
	FMOVQ 48(R7), F24; \
	AND16(31, 24, 24); \
	FIVE(DOT, 3, 0, 0, 0); \
	FMOVQ 64(R7), F24; \
	AND16(31, 24, 24); \
	FIVE(DOT, 0, 1, 0, 1); \
	FMOVQ 80(R7), F24; \
	AND16(31, 24, 24); \
	FIVE(DOT, 1, 1, 0, 1); \
	FMOVQ 96(R7), F24; \
	AND16(31, 24, 24); \
	FIVE(DOT, 2, 1, 0, 1); \
	FMOVQ 112(R7), F24; \
	AND16(31, 24, 24); \
	FIVE(DOT, 3, 1, 0, 1); \
	FMOVQ 128(R7), F24; \
	AND16(31, 24, 24); \
	FIVE(DOT, 0, 2, 0, 2); \
	FMOVQ 144(R7), F24; \
	AND16(31, 24, 24); \
	FIVE(DOT, 1, 2, 0, 2); \
	FMOVQ 160(R7), F24; \
	AND16(31, 24, 24); \
	FIVE(DOT, 2, 2, 0, 2); \
	FMOVQ 176(R7), F24; \
	AND16(31, 24, 24); \
	FIVE(DOT, 3, 2, 0, 2); \
	FMOVQ 192(R7), F24; \
	AND16(31, 24, 24); \
	FIVE(DOT, 0, 3, 0, 3); \
	FMOVQ 208(R7), F24; \
	AND16(31, 24, 24); \
	FIVE(DOT, 1, 3, 0, 3); \
	FMOVQ 224(R7), F24; \
	AND16(31, 24, 24); \
	FIVE(DOT, 2, 3, 0, 3); \
	FMOVQ 240(R7), F24; \
	AND16(31, 24, 24); \
	FIVE(DOT, 3, 3, 0, 3); \
	FMOVQ 256(R7), F24; \
	AND16(31, 24, 24); \
	FIVE(DOT, 0, 4, 1, 0); \
	FMOVQ 272(R7), F24; \
	AND16(31, 24, 24); \
	FIVE(DOT, 1, 4, 1, 0); \
	FMOVQ 288(R7), F24; \
	AND16(31, 24, 24); \
	FIVE(DOT, 2, 4, 1, 0); \
	FMOVQ 304(R7), F24; \
	AND16(31, 24, 24); \
	FIVE(DOT, 3, 4, 1, 0); \
	FMOVQ 320(R7), F24; \
	AND16(31, 24, 24); \
	FIVE(DOT, 0, 5, 1, 1); \
	FMOVQ 336(R7), F24; \
	AND16(31, 24, 24); \
	FIVE(DOT, 1, 5, 1, 1); \
	FMOVQ 352(R7), F24; \
	AND16(31, 24, 24); \
	FIVE(DOT, 2, 5, 1, 1); \
	FMOVQ 368(R7), F24; \
	AND16(31, 24, 24); \
	FIVE(DOT, 3, 5, 1, 1); \
	FMOVQ 384(R7), F24; \
	AND16(31, 24, 24); \
	FIVE(DOT, 0, 6, 1, 2); \
	FMOVQ 400(R7), F24; \
	AND16(31, 24, 24); \
	FIVE(DOT, 1, 6, 1, 2); \
	FMOVQ 416(R7), F24; \
	AND16(31, 24, 24); \
	FIVE(DOT, 2, 6, 1, 2); \
	FMOVQ 432(R7), F24; \
	AND16(31, 24, 24); \
	FIVE(DOT, 3, 6, 1, 2); \
	FMOVQ 448(R7), F24; \
	AND16(31, 24, 24); \
	FIVE(DOT, 0, 7, 1, 3); \
	FMOVQ 464(R7), F24; \
	AND16(31, 24, 24); \
	FIVE(DOT, 1, 7, 1, 3); \
	FMOVQ 480(R7), F24; \
	AND16(31, 24, 24); \
	FIVE(DOT, 2, 7, 1, 3); \
	FMOVQ 496(R7), F24; \
	AND16(31, 24, 24); \
	FIVE(DOT, 3, 7, 1, 3)

#define HIGHFIVES(DOT) \
	FMOVQ 0(R7), F24; \
	USHR8(4, 24, 24); \
	FIVE(DOT, 0, 0, 0, 0); \
	FMOVQ 16(R7), F24; \
	USHR8(4, 24, 24); \
	FIVE(DOT, 1, 0, 0, 0); \
	FMOVQ 32(R7), F24; \
	USHR8(4, 24, 24); \
	FIVE(DOT, 2, 0, 0, 0); \
	FMOVQ 48(R7), F24; \
	USHR8(4, 24, 24); \
	FIVE(DOT, 3, 0, 0, 0); \
	FMOVQ 64(R7), F24; \
	USHR8(4, 24, 24); \
	FIVE(DOT, 0, 1, 0, 1); \
	FMOVQ 80(R7), F24; \
	USHR8(4, 24, 24); \
	FIVE(DOT, 1, 1, 0, 1); \
	FMOVQ 96(R7), F24; \
	USHR8(4, 24, 24); \
	FIVE(DOT, 2, 1, 0, 1); \
	FMOVQ 112(R7), F24; \
	USHR8(4, 24, 24); \
	FIVE(DOT, 3, 1, 0, 1); \
	FMOVQ 128(R7), F24; \
	USHR8(4, 24, 24); \
	FIVE(DOT, 0, 2, 0, 2); \
	FMOVQ 144(R7), F24; \
	USHR8(4, 24, 24); \
	FIVE(DOT, 1, 2, 0, 2); \
	FMOVQ 160(R7), F24; \
	USHR8(4, 24, 24); \
	FIVE(DOT, 2, 2, 0, 2); \
	FMOVQ 176(R7), F24; \
	USHR8(4, 24, 24); \
	FIVE(DOT, 3, 2, 0, 2); \
	FMOVQ 192(R7), F24; \
	USHR8(4, 24, 24); \
	FIVE(DOT, 0, 3, 0, 3); \
	FMOVQ 208(R7), F24; \
	USHR8(4, 24, 24); \
	FIVE(DOT, 1, 3, 0, 3); \
	FMOVQ 224(R7), F24; \
	USHR8(4, 24, 24); \
	FIVE(DOT, 2, 3, 0, 3); \
	FMOVQ 240(R7), F24; \
	USHR8(4, 24, 24); \
	FIVE(DOT, 3, 3, 0, 3); \
	FMOVQ 256(R7), F24; \
	USHR8(4, 24, 24); \
	FIVE(DOT, 0, 4, 1, 0); \
	FMOVQ 272(R7), F24; \
	USHR8(4, 24, 24); \
	FIVE(DOT, 1, 4, 1, 0); \
	FMOVQ 288(R7), F24; \
	USHR8(4, 24, 24); \
	FIVE(DOT, 2, 4, 1, 0); \
	FMOVQ 304(R7), F24; \
	USHR8(4, 24, 24); \
	FIVE(DOT, 3, 4, 1, 0); \
	FMOVQ 320(R7), F24; \
	USHR8(4, 24, 24); \
	FIVE(DOT, 0, 5, 1, 1); \
	FMOVQ 336(R7), F24; \
	USHR8(4, 24, 24); \
	FIVE(DOT, 1, 5, 1, 1); \
	FMOVQ 352(R7), F24; \
	USHR8(4, 24, 24); \
	FIVE(DOT, 2, 5, 1, 1); \
	FMOVQ 368(R7), F24; \
	USHR8(4, 24, 24); \
	FIVE(DOT, 3, 5, 1, 1); \
	FMOVQ 384(R7), F24; \
	USHR8(4, 24, 24); \
	FIVE(DOT, 0, 6, 1, 2); \
	FMOVQ 400(R7), F24; \
	USHR8(4, 24, 24); \
	FIVE(DOT, 1, 6, 1, 2); \
	FMOVQ 416(R7), F24; \
	USHR8(4, 24, 24); \
	FIVE(DOT, 2, 6, 1, 2); \
	FMOVQ 432(R7), F24; \
	USHR8(4, 24, 24); \
	FIVE(DOT, 3, 6, 1, 2); \
	FMOVQ 448(R7), F24; \
	USHR8(4, 24, 24); \
	FIVE(DOT, 0, 7, 1, 3); \
	FMOVQ 464(R7), F24; \
	USHR8(4, 24, 24); \
	FIVE(DOT, 1, 7, 1, 3); \
	FMOVQ 480(R7), F24; \
	USHR8(4, 24, 24); \
	FIVE(DOT, 2, 7, 1, 3); \
	FMOVQ 496(R7), F24; \
	USHR8(4, 24, 24); \
	FIVE(DOT, 3, 7, 1, 3)

// BITS finds the fifth bits of the super-block, after SCALES.
#define BITS \
	MOVD product_cols(R0), R12; \
	SUB  R6, R12, R13; \
	ADD  R13<<1, R12, R8; \
	ADD  R3, R8; \
	MOVD $4, R15

// SHIFT prepares FIVE for the next group; R15 is 4-g.
#define SHIFT \
	VDUP R15, V28.B16; \
	VMOVI $16, V27.B16; \
	SUB  $1, R15

#define Q5_K(EACH, DOT, RECORDS) \
	BEGIN; \
panel: \
	PANEL; \
	ADD  R6<<1, R6, R7; \
	ADD  R3, R7; \
	ZEROS; \
	EACH(CLEAR); \
super: \
	PLACES; \
	SCALES; \
	BITS; \
	MOVD $4, R14; \
pair: \
	RECORDS; \
	EACH(NONE); \
	SHIFT; \
	LOWFIVES(DOT); \
	ENDGROUP(EACH); \
	RECORDS; \
	EACH(NONE); \
	SHIFT; \
	HIGHFIVES(DOT); \
	ENDGROUP(EACH); \
	ADD  $512, R7; \
	SUBS $1, R14; \
	BNE  pair; \
	SUBS $256, R6; \
	BNE  super; \
	NEXTPANEL(panel); \
	RET

// func neonQ5_Kx2(p *product)
TEXT ·neonQ5_Kx2(SB), NOSPLIT, $0-8
	Q5_K(EACH2, DOT2, RECORDS2)

// func neonQ5_Kx1(p *product)
TEXT ·neonQ5_Kx1(SB), NOSPLIT, $0-8
	Q5_K(EACH1, DOT1, RECORDS1)
