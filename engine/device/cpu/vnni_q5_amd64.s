#include "go_asm.h"
#include "textflag.h"
#include "vnni_amd64.h"

// Where the fifth bits are: bit c of a row's word is that of column c, and the
// byte of that column wants it as bit 4. VPMULTISHIFTQB gives each byte the eight
// bits from any place of its quadword on, which has the words of two rows: for
// columns c … c+3 the places are c-4 … c-1 and, for the second row, 32 more.
DATA fifths<>+0x00(SB)/8, $0x1f1e1d1c3f3e3d3c
DATA fifths<>+0x08(SB)/8, $0x2322212003020100
DATA fifths<>+0x10(SB)/8, $0x2726252407060504
DATA fifths<>+0x18(SB)/8, $0x2b2a29280b0a0908
DATA fifths<>+0x20(SB)/8, $0x2f2e2d2c0f0e0d0c
DATA fifths<>+0x28(SB)/8, $0x3332313013121110
DATA fifths<>+0x30(SB)/8, $0x3736353417161514
DATA fifths<>+0x38(SB)/8, $0x3b3a39381b1a1918
GLOBL fifths<>(SB), RODATA|NOPTR, $64

// FIFTHS adds to the nibbles in W the fifth bits, which are in Z31, of columns
// 4*U to 4*U+3; Z30 has 0x10 in every byte. 0xf8 is W or (Z29 and Z30).
#define FIFTHS(U, W) \
	VPBROADCASTQ fifths<>+8*U(SB), Z29; \
	VPMULTISHIFTQB Z31, Z29, Z29; \
	VPTERNLOGD $0xf8, Z30, Z29, W

// 32 columns of nibbles as in Q4, with their fifth bits.
#define FIVES(DOT) \
	VMOVDQU64 (DI), Z25; \
	VPANDD Z28, Z25, Z24; \
	VPSRLD $4, Z25, Z25; \
	VPANDD Z28, Z25, Z25; \
	FIFTHS(0, Z24); \
	FIFTHS(4, Z25); \
	DOT(Z24, 0); \
	DOT(Z25, 16); \
	VMOVDQU64 64(DI), Z25; \
	VPANDD Z28, Z25, Z24; \
	VPSRLD $4, Z25, Z25; \
	VPANDD Z28, Z25, Z25; \
	FIFTHS(1, Z24); \
	FIFTHS(5, Z25); \
	DOT(Z24, 4); \
	DOT(Z25, 20); \
	VMOVDQU64 128(DI), Z25; \
	VPANDD Z28, Z25, Z24; \
	VPSRLD $4, Z25, Z25; \
	VPANDD Z28, Z25, Z25; \
	FIFTHS(2, Z24); \
	FIFTHS(6, Z25); \
	DOT(Z24, 8); \
	DOT(Z25, 24); \
	VMOVDQU64 192(DI), Z25; \
	VPANDD Z28, Z25, Z24; \
	VPSRLD $4, Z25, Z25; \
	VPANDD Z28, Z25, Z25; \
	FIFTHS(3, Z24); \
	FIFTHS(7, Z25); \
	DOT(Z24, 12); \
	DOT(Z25, 28)

// BIASED begins the integer sums of a block whose quants are 16 too large.
#define BIASED16(H, L, Y, RECORD) \
	VPXORD H, H, H; \
	VPBROADCASTD 72 RECORD, L; \
	VPSLLD $4, L, L

// Planes: d in BX, fifth bits in CX, quants in DI.
#define Q5_0(EACH, DOT) \
	BEGIN; \
	MOVL $0x10101010, R11; \
	VPBROADCASTD R11, Z30; \
panel: \
	PANEL; \
	MOVQ R14, BX; \
	LEAQ (R14)(R11*1), CX; \
	LEAQ (CX)(R11*2), DI; \
	EACH(CLEAR); \
block: \
	FETCH6(352); \
	EACH(BIASED16); \
	VMOVDQU64 (CX), Z31; \
	FIVES(DOT); \
	VCVTPH2PS (BX), Z26; \
	EACH(SCALED); \
	ADDQ $84, SI; \
	ADDQ $32, BX; \
	ADDQ $64, CX; \
	ADDQ $256, DI; \
	SUBQ $32, R11; \
	JNZ  block; \
	ENDPANEL(EACH); \
	NEXTPANEL(panel); \
	RET

// Planes: d in BX, m in R15, fifth bits in CX, quants in DI.
#define Q5_1(EACH, DOT) \
	BEGIN; \
	MOVL $0x10101010, R11; \
	VPBROADCASTD R11, Z30; \
panel: \
	PANEL; \
	MOVQ R14, BX; \
	LEAQ (R14)(R11*1), R15; \
	LEAQ (R14)(R11*2), CX; \
	LEAQ (CX)(R11*2), DI; \
	EACH(CLEAR); \
block: \
	FETCH6(384); \
	EACH(ZERO); \
	VMOVDQU64 (CX), Z31; \
	FIVES(DOT); \
	VCVTPH2PS (BX), Z26; \
	VCVTPH2PS (R15), Z27; \
	EACH(OFFSET); \
	ADDQ $84, SI; \
	ADDQ $32, BX; \
	ADDQ $32, R15; \
	ADDQ $64, CX; \
	ADDQ $256, DI; \
	SUBQ $32, R11; \
	JNZ  block; \
	ENDPANEL(EACH); \
	NEXTPANEL(panel); \
	RET

// func vnniQ5_0x8(p *product)
TEXT ·vnniQ5_0x8(SB), NOSPLIT, $0-8
	Q5_0(EACH8, DOT8)

// func vnniQ5_0x4(p *product)
TEXT ·vnniQ5_0x4(SB), NOSPLIT, $0-8
	Q5_0(EACH4, DOT4)

// func vnniQ5_0x2(p *product)
TEXT ·vnniQ5_0x2(SB), NOSPLIT, $0-8
	Q5_0(EACH2, DOT2)

// func vnniQ5_0x1(p *product)
TEXT ·vnniQ5_0x1(SB), NOSPLIT, $0-8
	Q5_0(EACH1, DOT1)

// func vnniQ5_1x8(p *product)
TEXT ·vnniQ5_1x8(SB), NOSPLIT, $0-8
	Q5_1(EACH8, DOT8)

// func vnniQ5_1x4(p *product)
TEXT ·vnniQ5_1x4(SB), NOSPLIT, $0-8
	Q5_1(EACH4, DOT4)

// func vnniQ5_1x2(p *product)
TEXT ·vnniQ5_1x2(SB), NOSPLIT, $0-8
	Q5_1(EACH2, DOT2)

// func vnniQ5_1x1(p *product)
TEXT ·vnniQ5_1x1(SB), NOSPLIT, $0-8
	Q5_1(EACH1, DOT1)
