#include "go_asm.h"
#include "textflag.h"
#include "avx2_amd64.h"

DATA nibble<>+0(SB)/4, $0x000f000f
GLOBL nibble<>(SB), RODATA|NOPTR, $4

// 32 columns of nibbles: byte j has column j below and column 16+j above. Y15
// has 0x000f in every word.
#define NIBBLES(MAC) \
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
	VPSRLW $4, Y13, Y8; \
	VPSRLW $4, Y14, Y9; \
	VPAND Y15, Y8, Y8; \
	VPAND Y15, Y9, Y9; \
	MAC(32); \
	VPSRLW $12, Y13, Y8; \
	VPSRLW $12, Y14, Y9; \
	MAC(36); \
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
	VPSRLW $4, Y13, Y8; \
	VPSRLW $4, Y14, Y9; \
	VPAND Y15, Y8, Y8; \
	VPAND Y15, Y9, Y9; \
	MAC(40); \
	VPSRLW $12, Y13, Y8; \
	VPSRLW $12, Y14, Y9; \
	MAC(44); \
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
	VPSRLW $4, Y13, Y8; \
	VPSRLW $4, Y14, Y9; \
	VPAND Y15, Y8, Y8; \
	VPAND Y15, Y9, Y9; \
	MAC(48); \
	VPSRLW $12, Y13, Y8; \
	VPSRLW $12, Y14, Y9; \
	MAC(52); \
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
	VPSRLW $4, Y13, Y8; \
	VPSRLW $4, Y14, Y9; \
	VPAND Y15, Y8, Y8; \
	VPAND Y15, Y9, Y9; \
	MAC(56); \
	VPSRLW $12, Y13, Y8; \
	VPSRLW $12, Y14, Y9; \
	MAC(60)

// BIASED begins the integer sums of a block whose quants are 8 too large.
#define BIASED8(A, B, RECORD, Y) \
	VPBROADCASTD 72 RECORD, A; \
	VPSLLD $3, A, A; \
	VMOVDQA A, B

// Planes: d in BX, quants in DI.
#define Q4_0(EACH, MAC) \
	BEGIN; \
	VPBROADCASTD nibble<>(SB), Y15; \
panel: \
	PANEL; \
	MOVQ R14, BX; \
	LEAQ (R14)(R11*1), DI; \
	EACH(CLEAR); \
block: \
	FETCH5(288); \
	EACH(BIASED8); \
	NIBBLES(MAC); \
	VCVTPH2PS (BX), Y8; \
	VCVTPH2PS 16(BX), Y9; \
	EACH(SCALED); \
	ADDQ $84, SI; \
	ADDQ $32, BX; \
	ADDQ $256, DI; \
	SUBQ $32, R11; \
	JNZ  block; \
	NEXTPANEL(panel); \
	RET

// Planes: d in BX, m in CX, quants in DI.
#define Q4_1(EACH, MAC) \
	BEGIN; \
	VPBROADCASTD nibble<>(SB), Y15; \
panel: \
	PANEL; \
	MOVQ R14, BX; \
	LEAQ (R14)(R11*1), CX; \
	LEAQ (R14)(R11*2), DI; \
	EACH(CLEAR); \
block: \
	FETCH5(320); \
	EACH(ZERO); \
	NIBBLES(MAC); \
	VCVTPH2PS (BX), Y8; \
	VCVTPH2PS 16(BX), Y9; \
	VCVTPH2PS (CX), Y13; \
	VCVTPH2PS 16(CX), Y14; \
	EACH(OFFSET); \
	ADDQ $84, SI; \
	ADDQ $32, BX; \
	ADDQ $32, CX; \
	ADDQ $256, DI; \
	SUBQ $32, R11; \
	JNZ  block; \
	NEXTPANEL(panel); \
	RET

// func avx2Q4_0x4(p *product)
TEXT ·avx2Q4_0x4(SB), NOSPLIT, $0-8
	Q4_0(EACH4, MAC4)

// func avx2Q4_0x2(p *product)
TEXT ·avx2Q4_0x2(SB), NOSPLIT, $0-8
	Q4_0(EACH2, MAC2)

// func avx2Q4_0x1(p *product)
TEXT ·avx2Q4_0x1(SB), NOSPLIT, $0-8
	Q4_0(EACH1, MAC1)

// func avx2Q4_1x4(p *product)
TEXT ·avx2Q4_1x4(SB), NOSPLIT, $0-8
	Q4_1(EACH4, MAC4)

// func avx2Q4_1x2(p *product)
TEXT ·avx2Q4_1x2(SB), NOSPLIT, $0-8
	Q4_1(EACH2, MAC2)

// func avx2Q4_1x1(p *product)
TEXT ·avx2Q4_1x1(SB), NOSPLIT, $0-8
	Q4_1(EACH1, MAC1)
