#include "go_asm.h"
#include "textflag.h"
#include "avx2_amd64.h"

// The super-blocks of Q4_K and Q5_K, as in vnni_k45_amd64.s. At the start of one
// the scales and minima of its groups go into product.scratch: 16 scales of
// group 0, 16 minima of group 0, …

DATA masks<>+0(SB)/4, $63
DATA masks<>+4(SB)/4, $15
DATA masks<>+8(SB)/4, $48
DATA masks<>+12(SB)/4, $0x000f000f
DATA masks<>+16(SB)/4, $0x00ff00ff
DATA masks<>+20(SB)/4, $0x0f0f0f0f
DATA masks<>+24(SB)/4, $0x10101010
GLOBL masks<>(SB), RODATA|NOPTR, $28

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

// LOW makes the scale and the minimum of group G (0 … 3) for 8 rows: six bits
// each, of byte G of the first and the second word, which are in Y8 and Y9. The
// masks are in Y13 (63), Y14 (15) and Y15 (48), d and dmin in Y4 and Y5.
#define LOW(G, H) \
	VPSRLD $(8*G), Y8, Y0; \
	VPSRLD $(8*G), Y9, Y1; \
	VPAND Y13, Y0, Y0; \
	VPAND Y13, Y1, Y1; \
	VCVTDQ2PS Y0, Y0; \
	VCVTDQ2PS Y1, Y1; \
	VMULPS Y4, Y0, Y0; \
	VMULPS Y5, Y1, Y1; \
	VMOVUPS Y0, product_scratch+128*G+H(AX); \
	VMOVUPS Y1, product_scratch+128*G+64+H(AX)

// HIGH makes those of group 4+J: the low four bits are in byte J of the third
// word, in Y10 (scale below, minimum above), the others in the top two bits of
// byte J of the first and the second.
#define HIGH(J, H) \
	VPSRLD $(8*J), Y10, Y0; \
	VPSRLD $(8*J+4), Y10, Y1; \
	VPAND Y14, Y0, Y0; \
	VPAND Y14, Y1, Y1; \
	VPSRLD $(8*J+2), Y8, Y2; \
	VPSRLD $(8*J+2), Y9, Y3; \
	VPAND Y15, Y2, Y2; \
	VPAND Y15, Y3, Y3; \
	VPOR Y2, Y0, Y0; \
	VPOR Y3, Y1, Y1; \
	VCVTDQ2PS Y0, Y0; \
	VCVTDQ2PS Y1, Y1; \
	VMULPS Y4, Y0, Y0; \
	VMULPS Y5, Y1, Y1; \
	VMOVUPS Y0, product_scratch+512+128*J+H(AX); \
	VMOVUPS Y1, product_scratch+512+128*J+64+H(AX)

// HALF makes those of 8 rows, H bytes on.
#define HALF(H) \
	VMOVDQU H(R15), Y8; \
	VMOVDQU H+64(R15), Y9; \
	VMOVDQU H+128(R15), Y10; \
	LOW(0, H); \
	LOW(1, H); \
	LOW(2, H); \
	LOW(3, H); \
	HIGH(0, H); \
	HIGH(1, H); \
	HIGH(2, H); \
	HIGH(3, H)

#define SCALES \
	VPBROADCASTD masks<>+0(SB), Y13; \
	VPBROADCASTD masks<>+4(SB), Y14; \
	VPBROADCASTD masks<>+8(SB), Y15; \
	VCVTPH2PS (BX), Y4; \
	VCVTPH2PS (CX), Y5; \
	HALF(0); \
	VCVTPH2PS 16(BX), Y4; \
	VCVTPH2PS 16(CX), Y5; \
	HALF(32); \
	LEAQ product_scratch(AX), R15

// MINUS ends a group: y = y + ((I*d)*s - m*sum), d in Y8 and Y9, m in Y13 and Y14.
#define MINUS(A, B, RECORD, Y) \
	VBROADCASTSS 64 RECORD, Y10; \
	VBROADCASTSS 68 RECORD, Y11; \
	VCVTDQ2PS A, A; \
	VCVTDQ2PS B, B; \
	VMULPS Y8, A, A; \
	VMULPS Y9, B, B; \
	VMULPS Y10, A, A; \
	VMULPS Y10, B, B; \
	VMULPS Y11, Y13, Y12; \
	VMULPS Y11, Y14, Y11; \
	VSUBPS Y12, A, A; \
	VSUBPS Y11, B, B; \
	VADDPS Y, A, A; \
	VADDPS 32 Y, B, B; \
	VMOVUPS A, Y; \
	VMOVUPS B, 32 Y

#define ENDGROUP(EACH) \
	VMOVUPS (R15), Y8; \
	VMOVUPS 32(R15), Y9; \
	VMOVUPS 64(R15), Y13; \
	VMOVUPS 96(R15), Y14; \
	EACH(MINUS); \
	ADDQ $84, SI; \
	ADDQ $128, R15

// Two groups of 32 columns are the low and the high nibbles of 32 bytes. Y15 has
// 0x000f in every word.
#define LOWNIBBLES(MAC) \
	VMOVDQU (DI), Y13; \
	VMOVDQU 32(DI), Y14; \
	VPAND Y15, Y13, Y8; \
	VPAND Y15, Y14, Y9; \
	MAC(0); \
	VPSRLW $8, Y13, Y8; \
	VPSRLW $8, Y14, Y9; \
	VPAND Y15, Y8, Y8; \
	VPAND Y15, Y9, Y9; \
	MAC(4); \
	VMOVDQU 64(DI), Y13; \
	VMOVDQU 96(DI), Y14; \
	VPAND Y15, Y13, Y8; \
	VPAND Y15, Y14, Y9; \
	MAC(8); \
	VPSRLW $8, Y13, Y8; \
	VPSRLW $8, Y14, Y9; \
	VPAND Y15, Y8, Y8; \
	VPAND Y15, Y9, Y9; \
	MAC(12); \
	VMOVDQU 128(DI), Y13; \
	VMOVDQU 160(DI), Y14; \
	VPAND Y15, Y13, Y8; \
	VPAND Y15, Y14, Y9; \
	MAC(16); \
	VPSRLW $8, Y13, Y8; \
	VPSRLW $8, Y14, Y9; \
	VPAND Y15, Y8, Y8; \
	VPAND Y15, Y9, Y9; \
	MAC(20); \
	VMOVDQU 192(DI), Y13; \
	VMOVDQU 224(DI), Y14; \
	VPAND Y15, Y13, Y8; \
	VPAND Y15, Y14, Y9; \
	MAC(24); \
	VPSRLW $8, Y13, Y8; \
	VPSRLW $8, Y14, Y9; \
	VPAND Y15, Y8, Y8; \
	VPAND Y15, Y9, Y9; \
	MAC(28); \
	VMOVDQU 256(DI), Y13; \
	VMOVDQU 288(DI), Y14; \
	VPAND Y15, Y13, Y8; \
	VPAND Y15, Y14, Y9; \
	MAC(32); \
	VPSRLW $8, Y13, Y8; \
	VPSRLW $8, Y14, Y9; \
	VPAND Y15, Y8, Y8; \
	VPAND Y15, Y9, Y9; \
	MAC(36); \
	VMOVDQU 320(DI), Y13; \
	VMOVDQU 352(DI), Y14; \
	VPAND Y15, Y13, Y8; \
	VPAND Y15, Y14, Y9; \
	MAC(40); \
	VPSRLW $8, Y13, Y8; \
	VPSRLW $8, Y14, Y9; \
	VPAND Y15, Y8, Y8; \
	VPAND Y15, Y9, Y9; \
	MAC(44); \
	VMOVDQU 384(DI), Y13; \
	VMOVDQU 416(DI), Y14; \
	VPAND Y15, Y13, Y8; \
	VPAND Y15, Y14, Y9; \
	MAC(48); \
	VPSRLW $8, Y13, Y8; \
	VPSRLW $8, Y14, Y9; \
	VPAND Y15, Y8, Y8; \
	VPAND Y15, Y9, Y9; \
	MAC(52); \
	VMOVDQU 448(DI), Y13; \
	VMOVDQU 480(DI), Y14; \
	VPAND Y15, Y13, Y8; \
	VPAND Y15, Y14, Y9; \
	MAC(56); \
	VPSRLW $8, Y13, Y8; \
	VPSRLW $8, Y14, Y9; \
	VPAND Y15, Y8, Y8; \
	VPAND Y15, Y9, Y9; \
	MAC(60)

#define HIGHNIBBLES(MAC) \
	VMOVDQU (DI), Y13; \
	VMOVDQU 32(DI), Y14; \
	VPSRLW $4, Y13, Y8; \
	VPSRLW $4, Y14, Y9; \
	VPAND Y15, Y8, Y8; \
	VPAND Y15, Y9, Y9; \
	MAC(0); \
	VPSRLW $12, Y13, Y8; \
	VPSRLW $12, Y14, Y9; \
	MAC(4); \
	VMOVDQU 64(DI), Y13; \
	VMOVDQU 96(DI), Y14; \
	VPSRLW $4, Y13, Y8; \
	VPSRLW $4, Y14, Y9; \
	VPAND Y15, Y8, Y8; \
	VPAND Y15, Y9, Y9; \
	MAC(8); \
	VPSRLW $12, Y13, Y8; \
	VPSRLW $12, Y14, Y9; \
	MAC(12); \
	VMOVDQU 128(DI), Y13; \
	VMOVDQU 160(DI), Y14; \
	VPSRLW $4, Y13, Y8; \
	VPSRLW $4, Y14, Y9; \
	VPAND Y15, Y8, Y8; \
	VPAND Y15, Y9, Y9; \
	MAC(16); \
	VPSRLW $12, Y13, Y8; \
	VPSRLW $12, Y14, Y9; \
	MAC(20); \
	VMOVDQU 192(DI), Y13; \
	VMOVDQU 224(DI), Y14; \
	VPSRLW $4, Y13, Y8; \
	VPSRLW $4, Y14, Y9; \
	VPAND Y15, Y8, Y8; \
	VPAND Y15, Y9, Y9; \
	MAC(24); \
	VPSRLW $12, Y13, Y8; \
	VPSRLW $12, Y14, Y9; \
	MAC(28); \
	VMOVDQU 256(DI), Y13; \
	VMOVDQU 288(DI), Y14; \
	VPSRLW $4, Y13, Y8; \
	VPSRLW $4, Y14, Y9; \
	VPAND Y15, Y8, Y8; \
	VPAND Y15, Y9, Y9; \
	MAC(32); \
	VPSRLW $12, Y13, Y8; \
	VPSRLW $12, Y14, Y9; \
	MAC(36); \
	VMOVDQU 320(DI), Y13; \
	VMOVDQU 352(DI), Y14; \
	VPSRLW $4, Y13, Y8; \
	VPSRLW $4, Y14, Y9; \
	VPAND Y15, Y8, Y8; \
	VPAND Y15, Y9, Y9; \
	MAC(40); \
	VPSRLW $12, Y13, Y8; \
	VPSRLW $12, Y14, Y9; \
	MAC(44); \
	VMOVDQU 384(DI), Y13; \
	VMOVDQU 416(DI), Y14; \
	VPSRLW $4, Y13, Y8; \
	VPSRLW $4, Y14, Y9; \
	VPAND Y15, Y8, Y8; \
	VPAND Y15, Y9, Y9; \
	MAC(48); \
	VPSRLW $12, Y13, Y8; \
	VPSRLW $12, Y14, Y9; \
	MAC(52); \
	VMOVDQU 448(DI), Y13; \
	VMOVDQU 480(DI), Y14; \
	VPSRLW $4, Y13, Y8; \
	VPSRLW $4, Y14, Y9; \
	VPAND Y15, Y8, Y8; \
	VPAND Y15, Y9, Y9; \
	MAC(56); \
	VPSRLW $12, Y13, Y8; \
	VPSRLW $12, Y14, Y9; \
	MAC(60)

#define Q4_K(EACH, MAC) \
	BEGIN; \
panel: \
	PANEL; \
	LEAQ (R14)(R11*1), DI; \
	EACH(CLEAR); \
super: \
	PLACES; \
	SCALES; \
	VPBROADCASTD masks<>+12(SB), Y15; \
	MOVQ $4, CX; \
pair: \
	FETCH9(576); \
	EACH(ZERO); \
	LOWNIBBLES(MAC); \
	ENDGROUP(EACH); \
	EACH(ZERO); \
	HIGHNIBBLES(MAC); \
	ENDGROUP(EACH); \
	ADDQ $512, DI; \
	DECQ CX; \
	JNZ  pair; \
	SUBQ $256, R11; \
	JNZ  super; \
	NEXTPANEL(panel); \
	RET

// func avx2Q4_Kx4(p *product)
TEXT ·avx2Q4_Kx4(SB), NOSPLIT, $0-8
	Q4_K(EACH4, MAC4)

// func avx2Q4_Kx2(p *product)
TEXT ·avx2Q4_Kx2(SB), NOSPLIT, $0-8
	Q4_K(EACH2, MAC2)

// func avx2Q4_Kx1(p *product)
TEXT ·avx2Q4_Kx1(SB), NOSPLIT, $0-8
	Q4_K(EACH1, MAC1)

// FIFTH adds to the nibbles in P the fifth bits at OFF in BX. Bit g of the byte is
// that of group g, g in X15: it is shifted to bit 0, cut out, and shifted to bit 4.
#define FIFTH(P, OFF) \
	VMOVDQU OFF(BX), Y11; \
	VPSRLD X15, Y11, Y11; \
	VPSLLD $4, Y11, Y11; \
	VPAND Y12, Y11, Y11; \
	VPOR Y11, P, P

// FOUR multiplies the four columns of nibbles in Y13 and Y14 whose fifth bits are
// at OFF.
#define FOUR(MAC, OFF, I) \
	VPBROADCASTD masks<>+20(SB), Y12; \
	VPAND Y12, Y13, Y13; \
	VPAND Y12, Y14, Y14; \
	VPBROADCASTD masks<>+24(SB), Y12; \
	FIFTH(Y13, OFF); \
	FIFTH(Y14, 32+OFF); \
	VPBROADCASTD masks<>+16(SB), Y12; \
	VPAND Y12, Y13, Y8; \
	VPAND Y12, Y14, Y9; \
	MAC(I); \
	VPSRLW $8, Y13, Y8; \
	VPSRLW $8, Y14, Y9; \
	MAC(4+I)

#define LOWFIVES(MAC) \
	VMOVDQU (DI), Y13; \
	VMOVDQU 32(DI), Y14; \
	FOUR(MAC, 0, 0); \
	VMOVDQU 64(DI), Y13; \
	VMOVDQU 96(DI), Y14; \
	FOUR(MAC, 64, 8); \
	VMOVDQU 128(DI), Y13; \
	VMOVDQU 160(DI), Y14; \
	FOUR(MAC, 128, 16); \
	VMOVDQU 192(DI), Y13; \
	VMOVDQU 224(DI), Y14; \
	FOUR(MAC, 192, 24); \
	VMOVDQU 256(DI), Y13; \
	VMOVDQU 288(DI), Y14; \
	FOUR(MAC, 256, 32); \
	VMOVDQU 320(DI), Y13; \
	VMOVDQU 352(DI), Y14; \
	FOUR(MAC, 320, 40); \
	VMOVDQU 384(DI), Y13; \
	VMOVDQU 416(DI), Y14; \
	FOUR(MAC, 384, 48); \
	VMOVDQU 448(DI), Y13; \
	VMOVDQU 480(DI), Y14; \
	FOUR(MAC, 448, 56)

#define HIGHFIVES(MAC) \
	VMOVDQU (DI), Y13; \
	VMOVDQU 32(DI), Y14; \
	VPSRLW $4, Y13, Y13; \
	VPSRLW $4, Y14, Y14; \
	FOUR(MAC, 0, 0); \
	VMOVDQU 64(DI), Y13; \
	VMOVDQU 96(DI), Y14; \
	VPSRLW $4, Y13, Y13; \
	VPSRLW $4, Y14, Y14; \
	FOUR(MAC, 64, 8); \
	VMOVDQU 128(DI), Y13; \
	VMOVDQU 160(DI), Y14; \
	VPSRLW $4, Y13, Y13; \
	VPSRLW $4, Y14, Y14; \
	FOUR(MAC, 128, 16); \
	VMOVDQU 192(DI), Y13; \
	VMOVDQU 224(DI), Y14; \
	VPSRLW $4, Y13, Y13; \
	VPSRLW $4, Y14, Y14; \
	FOUR(MAC, 192, 24); \
	VMOVDQU 256(DI), Y13; \
	VMOVDQU 288(DI), Y14; \
	VPSRLW $4, Y13, Y13; \
	VPSRLW $4, Y14, Y14; \
	FOUR(MAC, 256, 32); \
	VMOVDQU 320(DI), Y13; \
	VMOVDQU 352(DI), Y14; \
	VPSRLW $4, Y13, Y13; \
	VPSRLW $4, Y14, Y14; \
	FOUR(MAC, 320, 40); \
	VMOVDQU 384(DI), Y13; \
	VMOVDQU 416(DI), Y14; \
	VPSRLW $4, Y13, Y13; \
	VPSRLW $4, Y14, Y14; \
	FOUR(MAC, 384, 48); \
	VMOVDQU 448(DI), Y13; \
	VMOVDQU 480(DI), Y14; \
	VPSRLW $4, Y13, Y13; \
	VPSRLW $4, Y14, Y14; \
	FOUR(MAC, 448, 56)

// BITS finds the fifth bits of the super-block, after SCALES.
#define BITS \
	MOVQ product_cols(AX), CX; \
	MOVQ CX, BX; \
	SUBQ R11, BX; \
	LEAQ (CX)(BX*2), BX; \
	ADDQ R14, BX; \
	VPXOR X15, X15, X15

// NEXTBIT goes on to the next group's.
#define NEXTBIT \
	VPCMPEQD X12, X12, X12; \
	VPSUBQ X12, X15, X15

#define Q5_K(EACH, MAC) \
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
	LOWFIVES(MAC); \
	ENDGROUP(EACH); \
	NEXTBIT; \
	EACH(ZERO); \
	HIGHFIVES(MAC); \
	ENDGROUP(EACH); \
	NEXTBIT; \
	ADDQ $512, DI; \
	DECQ CX; \
	JNZ  pair; \
	SUBQ $256, R11; \
	JNZ  super; \
	NEXTPANEL(panel); \
	RET

// func avx2Q5_Kx4(p *product)
TEXT ·avx2Q5_Kx4(SB), NOSPLIT, $0-8
	Q5_K(EACH4, MAC4)

// func avx2Q5_Kx2(p *product)
TEXT ·avx2Q5_Kx2(SB), NOSPLIT, $0-8
	Q5_K(EACH2, MAC2)

// func avx2Q5_Kx1(p *product)
TEXT ·avx2Q5_Kx1(SB), NOSPLIT, $0-8
	Q5_K(EACH1, MAC1)
