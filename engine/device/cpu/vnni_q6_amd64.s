#include "go_asm.h"
#include "textflag.h"
#include "vnni_amd64.h"

// Super-blocks of 256 columns in 16 groups of 16, each with a signed 8-bit scale.
// Planes: d, scales (four words a row), low nibbles (32 words, in DI), high bits
// (16 words, in CX). 128 columns have 64 bytes of low nibbles and 32 of high
// bits: columns 0-31 and 32-63 are the low nibbles of the first and the second
// 32 bytes, columns 64-95 and 96-127 the high ones; the high bits of the four
// are pairs of bits of a byte, from the lowest up.
//
// The scales times d of a super-block are made first, in product.scratch.

// SCALE makes the scale of group G from the byte of the word in Z29 that is SHIFT
// bits from the top.
#define SCALE(G, SHIFT) \
	VPSLLD $SHIFT, Z29, Z24; \
	VPSRAD $24, Z24, Z24; \
	VCVTDQ2PS Z24, Z24; \
	VMULPS Z26, Z24, Z24; \
	VMOVUPS Z24, product_scratch+64*G(AX)

// SCALES makes all; R15 is the place of the scales first, then product.scratch.
#define SCALES \
	MOVQ product_cols(AX), R15; \
	MOVQ R15, BX; \
	SUBQ R11, BX; \
	SHRQ $3, R15; \
	ADDQ BX, R15; \
	ADDQ R14, R15; \
	SHRQ $3, BX; \
	VCVTPH2PS (R14)(BX*1), Z26; \
	VMOVDQU64 (R15), Z29; \
	SCALE(0, 24); \
	SCALE(1, 16); \
	SCALE(2, 8); \
	SCALE(3, 0); \
	VMOVDQU64 64(R15), Z29; \
	SCALE(4, 24); \
	SCALE(5, 16); \
	SCALE(6, 8); \
	SCALE(7, 0); \
	VMOVDQU64 128(R15), Z29; \
	SCALE(8, 24); \
	SCALE(9, 16); \
	SCALE(10, 8); \
	SCALE(11, 0); \
	VMOVDQU64 192(R15), Z29; \
	SCALE(12, 24); \
	SCALE(13, 16); \
	SCALE(14, 8); \
	SCALE(15, 0); \
	LEAQ product_scratch(AX), R15

// The quants are 32 too large.
#define BIASEDFIRST(H, L, Y, RECORD) \
	VPXORD H, H, H; \
	VPBROADCASTD 76 RECORD, L; \
	VPSLLD $5, L, L

#define BIASEDSECOND(H, L, Y, RECORD) \
	VPXORD H, H, H; \
	VPBROADCASTD 80 RECORD, L; \
	VPSLLD $5, L, L

// The four kinds of sixes: W = nibble | high bits; Z30 has 0x30 in every byte.
#define SIX0(LOW, HIGH) \
	VPANDD LOW(DI), Z28, Z24; \
	VPSLLD $4, HIGH(CX), Z25; \
	VPTERNLOGD $0xf8, Z30, Z25, Z24
#define SIX1(LOW, HIGH) \
	VPANDD 512+LOW(DI), Z28, Z24; \
	VPSLLD $2, HIGH(CX), Z25; \
	VPTERNLOGD $0xf8, Z30, Z25, Z24
#define SIX2(LOW, HIGH) \
	VPSRLD $4, LOW(DI), Z24; \
	VPANDD Z28, Z24, Z24; \
	VPTERNLOGD $0xf8, HIGH(CX), Z30, Z24
#define SIX3(LOW, HIGH) \
	VPSRLD $4, 512+LOW(DI), Z24; \
	VPANDD Z28, Z24, Z24; \
	VPSRLD $2, HIGH(CX), Z25; \
	VPTERNLOGD $0xf8, Z30, Z25, Z24

// 32 columns are two groups.
#define SIXES(EACH, DOT, SIX) \
	FETCH7(420); \
	EACH(BIASEDFIRST); \
	SIX(0, 0); \
	DOT(Z24, 0); \
	SIX(64, 64); \
	DOT(Z24, 4); \
	SIX(128, 128); \
	DOT(Z24, 8); \
	SIX(192, 192); \
	DOT(Z24, 12); \
	VMOVUPS (R15), Z26; \
	EACH(SCALED); \
	EACH(BIASEDSECOND); \
	SIX(256, 256); \
	DOT(Z24, 16); \
	SIX(320, 320); \
	DOT(Z24, 20); \
	SIX(384, 384); \
	DOT(Z24, 24); \
	SIX(448, 448); \
	DOT(Z24, 28); \
	VMOVUPS 64(R15), Z26; \
	EACH(SCALED); \
	ADDQ $84, SI; \
	ADDQ $128, R15

#define Q6_K(EACH, DOT) \
	BEGIN; \
	MOVL $0x30303030, R11; \
	VPBROADCASTD R11, Z30; \
panel: \
	PANEL; \
	MOVQ R11, DI; \
	SHRQ $3, DI; \
	ADDQ R11, DI; \
	ADDQ R14, DI; \
	LEAQ (DI)(R11*8), CX; \
	EACH(CLEAR); \
super: \
	SCALES; \
	MOVQ $2, BX; \
half: \
	SIXES(EACH, DOT, SIX0); \
	SIXES(EACH, DOT, SIX1); \
	SIXES(EACH, DOT, SIX2); \
	SIXES(EACH, DOT, SIX3); \
	ADDQ $1024, DI; \
	ADDQ $512, CX; \
	DECQ BX; \
	JNZ  half; \
	SUBQ $256, R11; \
	JNZ  super; \
	ENDPANEL(EACH); \
	NEXTPANEL(panel); \
	RET

// func vnniQ6_Kx8(p *product)
TEXT ·vnniQ6_Kx8(SB), NOSPLIT, $0-8
	Q6_K(EACH8, DOT8)

// func vnniQ6_Kx4(p *product)
TEXT ·vnniQ6_Kx4(SB), NOSPLIT, $0-8
	Q6_K(EACH4, DOT4)

// func vnniQ6_Kx2(p *product)
TEXT ·vnniQ6_Kx2(SB), NOSPLIT, $0-8
	Q6_K(EACH2, DOT2)

// func vnniQ6_Kx1(p *product)
TEXT ·vnniQ6_Kx1(SB), NOSPLIT, $0-8
	Q6_K(EACH1, DOT1)
