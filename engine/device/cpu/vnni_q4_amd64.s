#include "go_asm.h"
#include "textflag.h"
#include "vnni_amd64.h"

// 32 columns of nibbles: byte j has column j below and column 16+j above.
#define NIBBLES(DOT) \
	VMOVDQU64 (DI), Z25; \
	VPANDD Z28, Z25, Z24; \
	VPSRLD $4, Z25, Z25; \
	VPANDD Z28, Z25, Z25; \
	DOT(Z24, 0); \
	DOT(Z25, 16); \
	VMOVDQU64 64(DI), Z25; \
	VPANDD Z28, Z25, Z24; \
	VPSRLD $4, Z25, Z25; \
	VPANDD Z28, Z25, Z25; \
	DOT(Z24, 4); \
	DOT(Z25, 20); \
	VMOVDQU64 128(DI), Z25; \
	VPANDD Z28, Z25, Z24; \
	VPSRLD $4, Z25, Z25; \
	VPANDD Z28, Z25, Z25; \
	DOT(Z24, 8); \
	DOT(Z25, 24); \
	VMOVDQU64 192(DI), Z25; \
	VPANDD Z28, Z25, Z24; \
	VPSRLD $4, Z25, Z25; \
	VPANDD Z28, Z25, Z25; \
	DOT(Z24, 12); \
	DOT(Z25, 28)

// BIASED begins the integer sums of a block whose quants are 8 too large.
#define BIASED8(H, L, Y, RECORD) \
	VPXORD H, H, H; \
	VPBROADCASTD 72 RECORD, L; \
	VPSLLD $3, L, L

// Planes: d in BX, quants in DI.
#define Q4_0(EACH, DOT) \
	BEGIN; \
panel: \
	PANEL; \
	MOVQ R14, BX; \
	LEAQ (R14)(R11*1), DI; \
	EACH(CLEAR); \
block: \
	FETCH5(288); \
	EACH(BIASED8); \
	NIBBLES(DOT); \
	VCVTPH2PS (BX), Z26; \
	EACH(SCALED); \
	ADDQ $84, SI; \
	ADDQ $32, BX; \
	ADDQ $256, DI; \
	SUBQ $32, R11; \
	JNZ  block; \
	ENDPANEL(EACH); \
	NEXTPANEL(panel); \
	RET

// Planes: d in BX, m in CX, quants in DI.
#define Q4_1(EACH, DOT) \
	BEGIN; \
panel: \
	PANEL; \
	MOVQ R14, BX; \
	LEAQ (R14)(R11*1), CX; \
	LEAQ (R14)(R11*2), DI; \
	EACH(CLEAR); \
block: \
	FETCH5(320); \
	EACH(ZERO); \
	NIBBLES(DOT); \
	VCVTPH2PS (BX), Z26; \
	VCVTPH2PS (CX), Z27; \
	EACH(OFFSET); \
	ADDQ $84, SI; \
	ADDQ $32, BX; \
	ADDQ $32, CX; \
	ADDQ $256, DI; \
	SUBQ $32, R11; \
	JNZ  block; \
	ENDPANEL(EACH); \
	NEXTPANEL(panel); \
	RET

// func vnniQ4_0x8(p *product)
TEXT ·vnniQ4_0x8(SB), NOSPLIT, $0-8
	Q4_0(EACH8, DOT8)

// func vnniQ4_0x4(p *product)
TEXT ·vnniQ4_0x4(SB), NOSPLIT, $0-8
	Q4_0(EACH4, DOT4)

// func vnniQ4_0x2(p *product)
TEXT ·vnniQ4_0x2(SB), NOSPLIT, $0-8
	Q4_0(EACH2, DOT2)

// func vnniQ4_0x1(p *product)
TEXT ·vnniQ4_0x1(SB), NOSPLIT, $0-8
	Q4_0(EACH1, DOT1)

// func vnniQ4_1x8(p *product)
TEXT ·vnniQ4_1x8(SB), NOSPLIT, $0-8
	Q4_1(EACH8, DOT8)

// func vnniQ4_1x4(p *product)
TEXT ·vnniQ4_1x4(SB), NOSPLIT, $0-8
	Q4_1(EACH4, DOT4)

// func vnniQ4_1x2(p *product)
TEXT ·vnniQ4_1x2(SB), NOSPLIT, $0-8
	Q4_1(EACH2, DOT2)

// func vnniQ4_1x1(p *product)
TEXT ·vnniQ4_1x1(SB), NOSPLIT, $0-8
	Q4_1(EACH1, DOT1)
