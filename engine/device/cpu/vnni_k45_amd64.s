#include "go_asm.h"
#include "textflag.h"
#include "vnni_amd64.h"

// The two have super-blocks of 256 columns in eight groups of 32, and the planes
// d, dmin, scales (three words a row), in Q5_K fifth bits (eight words), quants.
// At the start of a super-block the scales and minima of its groups are made
// and put into product.scratch: 16 scales of group 0, 16 minima of group 0, …

DATA masks<>+0(SB)/4, $63
DATA masks<>+4(SB)/4, $15
DATA masks<>+8(SB)/4, $48
GLOBL masks<>(SB), RODATA|NOPTR, $12

// PLACES finds d (BX), dmin (CX) and the scales (R15) of the super-block that
// begins with R11 columns left.
#define PLACES \
	MOVQ product_cols(AX), CX; \
	MOVQ CX, R15; \
	SUBQ R11, R15; \
	MOVQ R15, BX; \
	SHRQ $3, BX; \
	ADDQ R14, BX; \
	SHRQ $2, R15; \
	LEAQ (R15)(R15*2), R15; \
	ADDQ R14, R15; \
	SHRQ $2, CX; \
	ADDQ CX, R15; \
	SHRQ $1, CX; \
	ADDQ BX, CX

// LOW makes the scale and the minimum of group G (0 … 3): six bits each, of byte
// G of the first and the second word, which are in Z29 and Z30.
#define LOW(G) \
	VPSRLD $(8*G), Z29, Z24; \
	VPSRLD $(8*G), Z30, Z25; \
	VPANDD.BCST masks<>+0(SB), Z24, Z24; \
	VPANDD.BCST masks<>+0(SB), Z25, Z25; \
	VCVTDQ2PS Z24, Z24; \
	VCVTDQ2PS Z25, Z25; \
	VMULPS Z26, Z24, Z24; \
	VMULPS Z27, Z25, Z25; \
	VMOVUPS Z24, product_scratch+128*G(AX); \
	VMOVUPS Z25, product_scratch+128*G+64(AX)

// HIGH makes those of group 4+J: the low four bits are in byte J of the third
// word, in Z31 (scale below, minimum above), the others in the top two bits of
// byte J of the first and the second.
#define HIGH(J) \
	VPSRLD $(8*J), Z31, Z24; \
	VPSRLD $(8*J+4), Z31, Z25; \
	VPANDD.BCST masks<>+4(SB), Z24, Z24; \
	VPANDD.BCST masks<>+4(SB), Z25, Z25; \
	VPSRLD $(8*J+2), Z29, Z0; \
	VPSRLD $(8*J+2), Z30, Z1; \
	VPANDD.BCST masks<>+8(SB), Z0, Z0; \
	VPANDD.BCST masks<>+8(SB), Z1, Z1; \
	VPORD Z0, Z24, Z24; \
	VPORD Z1, Z25, Z25; \
	VCVTDQ2PS Z24, Z24; \
	VCVTDQ2PS Z25, Z25; \
	VMULPS Z26, Z24, Z24; \
	VMULPS Z27, Z25, Z25; \
	VMOVUPS Z24, product_scratch+512+128*J(AX); \
	VMOVUPS Z25, product_scratch+512+128*J+64(AX)

#define SCALES \
	VCVTPH2PS (BX), Z26; \
	VCVTPH2PS (CX), Z27; \
	VMOVDQU64 (R15), Z29; \
	VMOVDQU64 64(R15), Z30; \
	VMOVDQU64 128(R15), Z31; \
	LOW(0); \
	LOW(1); \
	LOW(2); \
	LOW(3); \
	HIGH(0); \
	HIGH(1); \
	HIGH(2); \
	HIGH(3); \
	LEAQ product_scratch(AX), R15

// MINUS ends a group: y = y + ((I*d)*s - m*sum).
#define MINUS(H, L, Y, RECORD) \
	VPSLLD $8, H, H; \
	VPADDD L, H, H; \
	VCVTDQ2PS H, H; \
	VMULPS Z26, H, H; \
	VMULPS.BCST 64 RECORD, H, H; \
	VMULPS.BCST 68 RECORD, Z27, L; \
	VSUBPS L, H, H; \
	VADDPS H, Y, Y

#define ENDGROUP(EACH) \
	VMOVUPS (R15), Z26; \
	VMOVUPS 64(R15), Z27; \
	EACH(MINUS); \
	ADDQ $84, SI; \
	ADDQ $128, R15

// Two groups of 32 columns are the low and the high nibbles of 32 bytes.
#define LOWNIBBLES(DOT) \
	VPANDD (DI), Z28, Z24; \
	DOT(Z24, 0); \
	VPANDD 64(DI), Z28, Z24; \
	DOT(Z24, 4); \
	VPANDD 128(DI), Z28, Z24; \
	DOT(Z24, 8); \
	VPANDD 192(DI), Z28, Z24; \
	DOT(Z24, 12); \
	VPANDD 256(DI), Z28, Z24; \
	DOT(Z24, 16); \
	VPANDD 320(DI), Z28, Z24; \
	DOT(Z24, 20); \
	VPANDD 384(DI), Z28, Z24; \
	DOT(Z24, 24); \
	VPANDD 448(DI), Z28, Z24; \
	DOT(Z24, 28)

#define HIGHNIBBLES(DOT) \
	VPSRLD $4, (DI), Z24; \
	VPANDD Z28, Z24, Z24; \
	DOT(Z24, 0); \
	VPSRLD $4, 64(DI), Z24; \
	VPANDD Z28, Z24, Z24; \
	DOT(Z24, 4); \
	VPSRLD $4, 128(DI), Z24; \
	VPANDD Z28, Z24, Z24; \
	DOT(Z24, 8); \
	VPSRLD $4, 192(DI), Z24; \
	VPANDD Z28, Z24, Z24; \
	DOT(Z24, 12); \
	VPSRLD $4, 256(DI), Z24; \
	VPANDD Z28, Z24, Z24; \
	DOT(Z24, 16); \
	VPSRLD $4, 320(DI), Z24; \
	VPANDD Z28, Z24, Z24; \
	DOT(Z24, 20); \
	VPSRLD $4, 384(DI), Z24; \
	VPANDD Z28, Z24, Z24; \
	DOT(Z24, 24); \
	VPSRLD $4, 448(DI), Z24; \
	VPANDD Z28, Z24, Z24; \
	DOT(Z24, 28)

#define Q4_K(EACH, DOT) \
	BEGIN; \
panel: \
	PANEL; \
	LEAQ (R14)(R11*1), DI; \
	EACH(CLEAR); \
super: \
	PLACES; \
	SCALES; \
	MOVQ $4, CX; \
pair: \
	FETCH9(576); \
	EACH(ZERO); \
	LOWNIBBLES(DOT); \
	ENDGROUP(EACH); \
	EACH(ZERO); \
	HIGHNIBBLES(DOT); \
	ENDGROUP(EACH); \
	ADDQ $512, DI; \
	DECQ CX; \
	JNZ  pair; \
	SUBQ $256, R11; \
	JNZ  super; \
	ENDPANEL(EACH); \
	NEXTPANEL(panel); \
	RET

// func vnniQ4_Kx8(p *product)
TEXT ·vnniQ4_Kx8(SB), NOSPLIT, $0-8
	Q4_K(EACH8, DOT8)

// func vnniQ4_Kx4(p *product)
TEXT ·vnniQ4_Kx4(SB), NOSPLIT, $0-8
	Q4_K(EACH4, DOT4)

// func vnniQ4_Kx2(p *product)
TEXT ·vnniQ4_Kx2(SB), NOSPLIT, $0-8
	Q4_K(EACH2, DOT2)

// func vnniQ4_Kx1(p *product)
TEXT ·vnniQ4_Kx1(SB), NOSPLIT, $0-8
	Q4_K(EACH1, DOT1)

// FIFTH adds to the nibbles in Z24 their fifth bits: bit g of the byte is that
// of group g. It is rotated to bit 4 (Z31: 4-g in every word) and cut out (Z30:
// 0x10 in every byte).
#define FIFTH(OFF) \
	VMOVDQU64 OFF(BX), Z29; \
	VPROLVD Z31, Z29, Z29; \
	VPTERNLOGD $0xf8, Z30, Z29, Z24

#define LOWFIVES(DOT) \
	VPANDD (DI), Z28, Z24; \
	FIFTH(0); \
	DOT(Z24, 0); \
	VPANDD 64(DI), Z28, Z24; \
	FIFTH(64); \
	DOT(Z24, 4); \
	VPANDD 128(DI), Z28, Z24; \
	FIFTH(128); \
	DOT(Z24, 8); \
	VPANDD 192(DI), Z28, Z24; \
	FIFTH(192); \
	DOT(Z24, 12); \
	VPANDD 256(DI), Z28, Z24; \
	FIFTH(256); \
	DOT(Z24, 16); \
	VPANDD 320(DI), Z28, Z24; \
	FIFTH(320); \
	DOT(Z24, 20); \
	VPANDD 384(DI), Z28, Z24; \
	FIFTH(384); \
	DOT(Z24, 24); \
	VPANDD 448(DI), Z28, Z24; \
	FIFTH(448); \
	DOT(Z24, 28)

#define HIGHFIVES(DOT) \
	VPSRLD $4, (DI), Z24; \
	VPANDD Z28, Z24, Z24; \
	FIFTH(0); \
	DOT(Z24, 0); \
	VPSRLD $4, 64(DI), Z24; \
	VPANDD Z28, Z24, Z24; \
	FIFTH(64); \
	DOT(Z24, 4); \
	VPSRLD $4, 128(DI), Z24; \
	VPANDD Z28, Z24, Z24; \
	FIFTH(128); \
	DOT(Z24, 8); \
	VPSRLD $4, 192(DI), Z24; \
	VPANDD Z28, Z24, Z24; \
	FIFTH(192); \
	DOT(Z24, 12); \
	VPSRLD $4, 256(DI), Z24; \
	VPANDD Z28, Z24, Z24; \
	FIFTH(256); \
	DOT(Z24, 16); \
	VPSRLD $4, 320(DI), Z24; \
	VPANDD Z28, Z24, Z24; \
	FIFTH(320); \
	DOT(Z24, 20); \
	VPSRLD $4, 384(DI), Z24; \
	VPANDD Z28, Z24, Z24; \
	FIFTH(384); \
	DOT(Z24, 24); \
	VPSRLD $4, 448(DI), Z24; \
	VPANDD Z28, Z24, Z24; \
	FIFTH(448); \
	DOT(Z24, 28)

// BITS finds the fifth bits of the super-block, after SCALES, and prepares FIFTH.
#define BITS \
	MOVQ product_cols(AX), CX; \
	MOVQ CX, BX; \
	SUBQ R11, BX; \
	LEAQ (CX)(BX*2), BX; \
	ADDQ R14, BX; \
	MOVL $0x10101010, CX; \
	VPBROADCASTD CX, Z30; \
	MOVL $4, CX; \
	VPBROADCASTD CX, Z31

// NEXTBIT goes on to the next group's: Z29 becomes -1 in every word.
#define NEXTBIT \
	VPTERNLOGD $0xff, Z29, Z29, Z29; \
	VPADDD Z29, Z31, Z31

#define Q5_K(EACH, DOT) \
	BEGIN; \
panel: \
	PANEL; \
	LEAQ (R11)(R11*2), DI; \
	ADDQ R14, DI; \
	EACH(CLEAR); \
super: \
	PLACES; \
	SCALES; \
	BITS; \
	MOVQ $4, CX; \
pair: \
	FETCH11(704); \
	EACH(ZERO); \
	LOWFIVES(DOT); \
	ENDGROUP(EACH); \
	NEXTBIT; \
	EACH(ZERO); \
	HIGHFIVES(DOT); \
	ENDGROUP(EACH); \
	NEXTBIT; \
	ADDQ $512, DI; \
	DECQ CX; \
	JNZ  pair; \
	SUBQ $256, R11; \
	JNZ  super; \
	ENDPANEL(EACH); \
	NEXTPANEL(panel); \
	RET

// func vnniQ5_Kx8(p *product)
TEXT ·vnniQ5_Kx8(SB), NOSPLIT, $0-8
	Q5_K(EACH8, DOT8)

// func vnniQ5_Kx4(p *product)
TEXT ·vnniQ5_Kx4(SB), NOSPLIT, $0-8
	Q5_K(EACH4, DOT4)

// func vnniQ5_Kx2(p *product)
TEXT ·vnniQ5_Kx2(SB), NOSPLIT, $0-8
	Q5_K(EACH2, DOT2)

// func vnniQ5_Kx1(p *product)
TEXT ·vnniQ5_Kx1(SB), NOSPLIT, $0-8
	Q5_K(EACH1, DOT1)
