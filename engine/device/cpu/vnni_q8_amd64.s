#include "go_asm.h"
#include "textflag.h"
#include "vnni_amd64.h"

// 32 columns of signed bytes; Z28 has 0x80 in every byte, which makes them
// unsigned and 128 too large.
#define BYTES(DOT) \
	VPXORD (DI), Z28, Z24; \
	DOT(Z24, 0); \
	VPXORD 64(DI), Z28, Z24; \
	DOT(Z24, 4); \
	VPXORD 128(DI), Z28, Z24; \
	DOT(Z24, 8); \
	VPXORD 192(DI), Z28, Z24; \
	DOT(Z24, 12); \
	VPXORD 256(DI), Z28, Z24; \
	DOT(Z24, 16); \
	VPXORD 320(DI), Z28, Z24; \
	DOT(Z24, 20); \
	VPXORD 384(DI), Z28, Z24; \
	DOT(Z24, 24); \
	VPXORD 448(DI), Z28, Z24; \
	DOT(Z24, 28)

// BIASED128 begins the integer sums of a block whose quants are 128 too large.
#define BIASED128(H, L, Y, RECORD) \
	VPXORD H, H, H; \
	VPBROADCASTD 72 RECORD, L; \
	VPSLLD $7, L, L

// Planes: d in BX, quants in DI.
#define Q8_0(EACH, DOT) \
	BEGIN; \
	MOVL $0x80808080, R11; \
	VPBROADCASTD R11, Z28; \
panel: \
	PANEL; \
	MOVQ R14, BX; \
	LEAQ (R14)(R11*1), DI; \
	EACH(CLEAR); \
block: \
	FETCH9(544); \
	EACH(BIASED128); \
	BYTES(DOT); \
	VCVTPH2PS (BX), Z26; \
	EACH(SCALED); \
	ADDQ $84, SI; \
	ADDQ $32, BX; \
	ADDQ $512, DI; \
	SUBQ $32, R11; \
	JNZ  block; \
	ENDPANEL(EACH); \
	NEXTPANEL(panel); \
	RET

// func vnniQ8_0x8(p *product)
TEXT ·vnniQ8_0x8(SB), NOSPLIT, $0-8
	Q8_0(EACH8, DOT8)

// func vnniQ8_0x4(p *product)
TEXT ·vnniQ8_0x4(SB), NOSPLIT, $0-8
	Q8_0(EACH4, DOT4)

// func vnniQ8_0x2(p *product)
TEXT ·vnniQ8_0x2(SB), NOSPLIT, $0-8
	Q8_0(EACH2, DOT2)

// func vnniQ8_0x1(p *product)
TEXT ·vnniQ8_0x1(SB), NOSPLIT, $0-8
	Q8_0(EACH1, DOT1)
