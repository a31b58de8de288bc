#include "go_asm.h"
#include "textflag.h"
#include "avx2_amd64.h"

// The super-blocks of Q6_K, as in vnni_q6_amd64.s: planes d, scales, low nibbles
// (DI), high bits (CX). The scales times d of a super-block go into
// product.scratch first.

DATA masks<>+0(SB)/4, $0x0f0f0f0f
DATA masks<>+4(SB)/4, $0x30303030
DATA masks<>+8(SB)/4, $0x00ff00ff
GLOBL masks<>(SB), RODATA|NOPTR, $12

// SCALE makes the scale of group G from the byte of the word in Y8 and Y9 that is
// SHIFT bits from the top; d is in Y4 and Y5.
#define SCALE(G, SHIFT) \
	VPSLLD $SHIFT, Y8, Y0; \
	VPSLLD $SHIFT, Y9, Y1; \
	VPSRAD $24, Y0, Y0; \
	VPSRAD $24, Y1, Y1; \
	VCVTDQ2PS Y0, Y0; \
	VCVTDQ2PS Y1, Y1; \
	VMULPS Y4, Y0, Y0; \
	VMULPS Y5, Y1, Y1; \
	VMOVUPS Y0, product_scratch+64*G(AX); \
	VMOVUPS Y1, product_scratch+64*G+32(AX)

// SCALES makes all; R15 is the place of the scales first, then product.scratch.
#define SCALES \
	MOVQ product_cols(AX), R15; \
	MOVQ R15, BX; \
	SUBQ R11, BX; \
	SHRQ $3, R15; \
	ADDQ BX, R15; \
	ADDQ R14, R15; \
	SHRQ $3, BX; \
	VCVTPH2PS (R14)(BX*1), Y4; \
	VCVTPH2PS 16(R14)(BX*1), Y5; \
	VMOVDQU (R15), Y8; \
	VMOVDQU 32(R15), Y9; \
	SCALE(0, 24); \
	SCALE(1, 16); \
	SCALE(2, 8); \
	SCALE(3, 0); \
	VMOVDQU 64(R15), Y8; \
	VMOVDQU 96(R15), Y9; \
	SCALE(4, 24); \
	SCALE(5, 16); \
	SCALE(6, 8); \
	SCALE(7, 0); \
	VMOVDQU 128(R15), Y8; \
	VMOVDQU 160(R15), Y9; \
	SCALE(8, 24); \
	SCALE(9, 16); \
	SCALE(10, 8); \
	SCALE(11, 0); \
	VMOVDQU 192(R15), Y8; \
	VMOVDQU 224(R15), Y9; \
	SCALE(12, 24); \
	SCALE(13, 16); \
	SCALE(14, 8); \
	SCALE(15, 0); \
	LEAQ product_scratch(AX), R15

// The quants are 32 too large.
#define BIASEDFIRST(A, B, RECORD, Y) \
	VPBROADCASTD 76 RECORD, A; \
	VPSLLD $5, A, A; \
	VMOVDQA A, B

#define BIASEDSECOND(A, B, RECORD, Y) \
	VPBROADCASTD 80 RECORD, A; \
	VPSLLD $5, A, A; \
	VMOVDQA A, B

// The kinds of sixes: which nibbles of a byte, and which pair of bits, shifted to
// bits 4 and 5.
#define LOWER(P)
#define UPPER(P) VPSRLW $4, P, P
#define BITS01(P) VPSLLW $4, P, P
#define BITS23(P) VPSLLW $2, P, P
#define BITS45(P)
#define BITS67(P) VPSRLW $2, P, P

// SIX multiplies four columns: nibbles at LOWPLACE in DI, bits at HIGHPLACE in CX.
// Y15 has 0x0f in every byte.
#define SIX(MAC, NIBBLE, LOWPLACE, BITS, HIGHPLACE, I) \
	VPBROADCASTD masks<>+4(SB), Y12; \
	VMOVDQU LOWPLACE(DI), Y13; \
	VMOVDQU 32+LOWPLACE(DI), Y14; \
	NIBBLE(Y13); \
	NIBBLE(Y14); \
	VPAND Y15, Y13, Y13; \
	VPAND Y15, Y14, Y14; \
	VMOVDQU HIGHPLACE(CX), Y10; \
	VMOVDQU 32+HIGHPLACE(CX), Y11; \
	BITS(Y10); \
	BITS(Y11); \
	VPAND Y12, Y10, Y10; \
	VPAND Y12, Y11, Y11; \
	VPOR Y10, Y13, Y13; \
	VPOR Y11, Y14, Y14; \
	VPBROADCASTD masks<>+8(SB), Y12; \
	VPAND Y12, Y13, Y8; \
	VPAND Y12, Y14, Y9; \
	MAC(I); \
	VPSRLW $8, Y13, Y8; \
	VPSRLW $8, Y14, Y9; \
	MAC(4+I)

// 32 columns are two groups. AT is 0 or 512: the first or the second 32 bytes of
// low nibbles.
#define SIXES(EACH, MAC, NIBBLE, AT, BITS) \
	FETCH7(420); \
	EACH(BIASEDFIRST); \
	SIX(MAC, NIBBLE, 0+AT, BITS, 0, 0); \
	SIX(MAC, NIBBLE, 64+AT, BITS, 64, 8); \
	SIX(MAC, NIBBLE, 128+AT, BITS, 128, 16); \
	SIX(MAC, NIBBLE, 192+AT, BITS, 192, 24); \
	VMOVUPS (R15), Y8; \
	VMOVUPS 32(R15), Y9; \
	EACH(SCALED); \
	EACH(BIASEDSECOND); \
	SIX(MAC, NIBBLE, 256+AT, BITS, 256, 32); \
	SIX(MAC, NIBBLE, 320+AT, BITS, 320, 40); \
	SIX(MAC, NIBBLE, 384+AT, BITS, 384, 48); \
	SIX(MAC, NIBBLE, 448+AT, BITS, 448, 56); \
	VMOVUPS 64(R15), Y8; \
	VMOVUPS 96(R15), Y9; \
	EACH(SCALED); \
	ADDQ $84, SI; \
	ADDQ $128, R15

#define Q6_K(EACH, MAC) \
	BEGIN; \
	VPBROADCASTD masks<>+0(SB), Y15; \
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
	SIXES(EACH, MAC, LOWER, 0, BITS01); \
	SIXES(EACH, MAC, LOWER, 512, BITS23); \
	SIXES(EACH, MAC, UPPER, 0, BITS45); \
	SIXES(EACH, MAC, UPPER, 512, BITS67); \
	ADDQ $1024, DI; \
	ADDQ $512, CX; \
	DECQ BX; \
	JNZ  half; \
	SUBQ $256, R11; \
	JNZ  super; \
	NEXTPANEL(panel); \
	RET

// func avx2Q6_Kx4(p *product)
TEXT ·avx2Q6_Kx4(SB), NOSPLIT, $0-8
	Q6_K(EACH4, MAC4)

// func avx2Q6_Kx2(p *product)
TEXT ·avx2Q6_Kx2(SB), NOSPLIT, $0-8
	Q6_K(EACH2, MAC2)

// func avx2Q6_Kx1(p *product)
TEXT ·avx2Q6_Kx1(SB), NOSPLIT, $0-8
	Q6_K(EACH1, MAC1)
