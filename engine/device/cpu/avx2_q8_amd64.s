#include "go_asm.h"
#include "textflag.h"
#include "avx2_amd64.h"

// 32 columns of signed bytes.
#define BYTES(MAC) \
	VMOVDQU (DI), Y13; \
	VMOVDQU 32(DI), Y14; \
	VPSLLW $8, Y13, Y8; \
	VPSLLW $8, Y14, Y9; \
	VPSRAW $8, Y8, Y8; \
	VPSRAW $8, Y9, Y9; \
	MAC(0); \
	VPSRAW $8, Y13, Y8; \
	VPSRAW $8, Y14, Y9; \
	MAC(4); \
	VMOVDQU 64(DI), Y13; \
	VMOVDQU 96(DI), Y14; \
	VPSLLW $8, Y13, Y8; \
	VPSLLW $8, Y14, Y9; \
	VPSRAW $8, Y8, Y8; \
	VPSRAW $8, Y9, Y9; \
	MAC(8); \
	VPSRAW $8, Y13, Y8; \
	VPSRAW $8, Y14, Y9; \
	MAC(12); \
	VMOVDQU 128(DI), Y13; \
	VMOVDQU 160(DI), Y14; \
	VPSLLW $8, Y13, Y8; \
	VPSLLW $8, Y14, Y9; \
	VPSRAW $8, Y8, Y8; \
	VPSRAW $8, Y9, Y9; \
	MAC(16); \
	VPSRAW $8, Y13, Y8; \
	VPSRAW $8, Y14, Y9; \
	MAC(20); \
	VMOVDQU 192(DI), Y13; \
	VMOVDQU 224(DI), Y14; \
	VPSLLW $8, Y13, Y8; \
	VPSLLW $8, Y14, Y9; \
	VPSRAW $8, Y8, Y8; \
	VPSRAW $8, Y9, Y9; \
	MAC(24); \
	VPSRAW $8, Y13, Y8; \
	VPSRAW $8, Y14, Y9; \
	MAC(28); \
	VMOVDQU 256(DI), Y13; \
	VMOVDQU 288(DI), Y14; \
	VPSLLW $8, Y13, Y8; \
	VPSLLW $8, Y14, Y9; \
	VPSRAW $8, Y8, Y8; \
	VPSRAW $8, Y9, Y9; \
	MAC(32); \
	VPSRAW $8, Y13, Y8; \
	VPSRAW $8, Y14, Y9; \
	MAC(36); \
	VMOVDQU 320(DI), Y13; \
	VMOVDQU 352(DI), Y14; \
	VPSLLW $8, Y13, Y8; \
	VPSLLW $8, Y14, Y9; \
	VPSRAW $8, Y8, Y8; \
	VPSRAW $8, Y9, Y9; \
	MAC(40); \
	VPSRAW $8, Y13, Y8; \
	VPSRAW $8, Y14, Y9; \
	MAC(44); \
	VMOVDQU 384(DI), Y13; \
	VMOVDQU 416(DI), Y14; \
	VPSLLW $8, Y13, Y8; \
	VPSLLW $8, Y14, Y9; \
	VPSRAW $8, Y8, Y8; \
	VPSRAW $8, Y9, Y9; \
	MAC(48); \
	VPSRAW $8, Y13, Y8; \
	VPSRAW $8, Y14, Y9; \
	MAC(52); \
	VMOVDQU 448(DI), Y13; \
	VMOVDQU 480(DI), Y14; \
	VPSLLW $8, Y13, Y8; \
	VPSLLW $8, Y14, Y9; \
	VPSRAW $8, Y8, Y8; \
	VPSRAW $8, Y9, Y9; \
	MAC(56); \
	VPSRAW $8, Y13, Y8; \
	VPSRAW $8, Y14, Y9; \
	MAC(60)

// Planes: d in BX, quants in DI.
#define Q8_0(EACH, MAC) \
	BEGIN; \
panel: \
	PANEL; \
	MOVQ R14, BX; \
	LEAQ (R14)(R11*1), DI; \
	EACH(CLEAR); \
block: \
	FETCH9(544); \
	EACH(ZERO); \
	BYTES(MAC); \
	VCVTPH2PS (BX), Y8; \
	VCVTPH2PS 16(BX), Y9; \
	EACH(SCALED); \
	ADDQ $84, SI; \
	ADDQ $32, BX; \
	ADDQ $512, DI; \
	SUBQ $32, R11; \
	JNZ  block; \
	NEXTPANEL(panel); \
	RET

// func avx2Q8_0x4(p *product)
TEXT ·avx2Q8_0x4(SB), NOSPLIT, $0-8
	Q8_0(EACH4, MAC4)

// func avx2Q8_0x2(p *product)
TEXT ·avx2Q8_0x2(SB), NOSPLIT, $0-8
	Q8_0(EACH2, MAC2)

// func avx2Q8_0x1(p *product)
TEXT ·avx2Q8_0x1(SB), NOSPLIT, $0-8
	Q8_0(EACH1, MAC1)
