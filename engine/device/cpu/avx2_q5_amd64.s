#include "go_asm.h"
#include "textflag.h"
#include "avx2_amd64.h"

// The fifth bits of 16 rows are words: bit c is that of column c. For four columns
// the byte that has their bits is put into all four bytes of the lane, each of
// which then asks for its own bit.
DATA byte0<>+0(SB)/8, $0x0404040400000000
DATA byte0<>+8(SB)/8, $0x0c0c0c0c08080808
DATA byte0<>+16(SB)/8, $0x0404040400000000
DATA byte0<>+24(SB)/8, $0x0c0c0c0c08080808
GLOBL byte0<>(SB), RODATA|NOPTR, $32
DATA byte1<>+0(SB)/8, $0x0505050501010101
DATA byte1<>+8(SB)/8, $0x0d0d0d0d09090909
DATA byte1<>+16(SB)/8, $0x0505050501010101
DATA byte1<>+24(SB)/8, $0x0d0d0d0d09090909
GLOBL byte1<>(SB), RODATA|NOPTR, $32
DATA byte2<>+0(SB)/8, $0x0606060602020202
DATA byte2<>+8(SB)/8, $0x0e0e0e0e0a0a0a0a
DATA byte2<>+16(SB)/8, $0x0606060602020202
DATA byte2<>+24(SB)/8, $0x0e0e0e0e0a0a0a0a
GLOBL byte2<>(SB), RODATA|NOPTR, $32
DATA byte3<>+0(SB)/8, $0x0707070703030303
DATA byte3<>+8(SB)/8, $0x0f0f0f0f0b0b0b0b
DATA byte3<>+16(SB)/8, $0x0707070703030303
DATA byte3<>+24(SB)/8, $0x0f0f0f0f0b0b0b0b
GLOBL byte3<>(SB), RODATA|NOPTR, $32
DATA bitsLow<>+0(SB)/8, $0x0804020108040201
DATA bitsLow<>+8(SB)/8, $0x0804020108040201
DATA bitsLow<>+16(SB)/8, $0x0804020108040201
DATA bitsLow<>+24(SB)/8, $0x0804020108040201
GLOBL bitsLow<>(SB), RODATA|NOPTR, $32
DATA bitsHigh<>+0(SB)/8, $0x8040201080402010
DATA bitsHigh<>+8(SB)/8, $0x8040201080402010
DATA bitsHigh<>+16(SB)/8, $0x8040201080402010
DATA bitsHigh<>+24(SB)/8, $0x8040201080402010
GLOBL bitsHigh<>(SB), RODATA|NOPTR, $32
DATA sixteen<>+0(SB)/8, $0x1010101010101010
DATA sixteen<>+8(SB)/8, $0x1010101010101010
DATA sixteen<>+16(SB)/8, $0x1010101010101010
DATA sixteen<>+24(SB)/8, $0x1010101010101010
GLOBL sixteen<>(SB), RODATA|NOPTR, $32
DATA nibble<>+0(SB)/8, $0x0f0f0f0f0f0f0f0f
DATA nibble<>+8(SB)/8, $0x0f0f0f0f0f0f0f0f
DATA nibble<>+16(SB)/8, $0x0f0f0f0f0f0f0f0f
DATA nibble<>+24(SB)/8, $0x0f0f0f0f0f0f0f0f
GLOBL nibble<>(SB), RODATA|NOPTR, $32
DATA even<>+0(SB)/8, $0x00ff00ff00ff00ff
DATA even<>+8(SB)/8, $0x00ff00ff00ff00ff
DATA even<>+16(SB)/8, $0x00ff00ff00ff00ff
DATA even<>+24(SB)/8, $0x00ff00ff00ff00ff
GLOBL even<>(SB), RODATA|NOPTR, $32

// FIFTHS adds to the nibbles in P the fifth bits, which are at F in CX: BYTE and
// BITS say where.
#define FIFTHS(P, F, BYTE, BITS) \
	VMOVDQU F(CX), Y11; \
	VPSHUFB BYTE<>(SB), Y11, Y11; \
	VPAND BITS<>(SB), Y11, Y11; \
	VPCMPEQB BITS<>(SB), Y11, Y11; \
	VPAND sixteen<>(SB), Y11, Y11; \
	VPOR Y11, P, P

// SPLIT multiplies the four columns of bytes in Y13 and Y14.
#define SPLIT(MAC, I) \
	VPAND Y15, Y13, Y8; \
	VPAND Y15, Y14, Y9; \
	MAC(I); \
	VPSRLW $8, Y13, Y8; \
	VPSRLW $8, Y14, Y9; \
	MAC(4+I)

// 32 columns of nibbles as in Q4, with their fifth bits. Y15 has 0x00ff in every
// word.
#define FIVES(MAC) \
	VMOVDQU (DI), Y13; \
	VMOVDQU 32(DI), Y14; \
	VPAND nibble<>(SB), Y13, Y13; \
	VPAND nibble<>(SB), Y14, Y14; \
	FIFTHS(Y13, 0, byte0, bitsLow); \
	FIFTHS(Y14, 32, byte0, bitsLow); \
	SPLIT(MAC, 0); \
	VMOVDQU (DI), Y13; \
	VMOVDQU 32(DI), Y14; \
	VPSRLW $4, Y13, Y13; \
	VPSRLW $4, Y14, Y14; \
	VPAND nibble<>(SB), Y13, Y13; \
	VPAND nibble<>(SB), Y14, Y14; \
	FIFTHS(Y13, 0, byte2, bitsLow); \
	FIFTHS(Y14, 32, byte2, bitsLow); \
	SPLIT(MAC, 32); \
	VMOVDQU 64(DI), Y13; \
	VMOVDQU 96(DI), Y14; \
	VPAND nibble<>(SB), Y13, Y13; \
	VPAND nibble<>(SB), Y14, Y14; \
	FIFTHS(Y13, 0, byte0, bitsHigh); \
	FIFTHS(Y14, 32, byte0, bitsHigh); \
	SPLIT(MAC, 8); \
	VMOVDQU 64(DI), Y13; \
	VMOVDQU 96(DI), Y14; \
	VPSRLW $4, Y13, Y13; \
	VPSRLW $4, Y14, Y14; \
	VPAND nibble<>(SB), Y13, Y13; \
	VPAND nibble<>(SB), Y14, Y14; \
	FIFTHS(Y13, 0, byte2, bitsHigh); \
	FIFTHS(Y14, 32, byte2, bitsHigh); \
	SPLIT(MAC, 40); \
	VMOVDQU 128(DI), Y13; \
	VMOVDQU 160(DI), Y14; \
	VPAND nibble<>(SB), Y13, Y13; \
	VPAND nibble<>(SB), Y14, Y14; \
	FIFTHS(Y13, 0, byte1, bitsLow); \
	FIFTHS(Y14, 32, byte1, bitsLow); \
	SPLIT(MAC, 16); \
	VMOVDQU 128(DI), Y13; \
	VMOVDQU 160(DI), Y14; \
	VPSRLW $4, Y13, Y13; \
	VPSRLW $4, Y14, Y14; \
	VPAND nibble<>(SB), Y13, Y13; \
	VPAND nibble<>(SB), Y14, Y14; \
	FIFTHS(Y13, 0, byte3, bitsLow); \
	FIFTHS(Y14, 32, byte3, bitsLow); \
	SPLIT(MAC, 48); \
	VMOVDQU 192(DI), Y13; \
	VMOVDQU 224(DI), Y14; \
	VPAND nibble<>(SB), Y13, Y13; \
	VPAND nibble<>(SB), Y14, Y14; \
	FIFTHS(Y13, 0, byte1, bitsHigh); \
	FIFTHS(Y14, 32, byte1, bitsHigh); \
	SPLIT(MAC, 24); \
	VMOVDQU 192(DI), Y13; \
	VMOVDQU 224(DI), Y14; \
	VPSRLW $4, Y13, Y13; \
	VPSRLW $4, Y14, Y14; \
	VPAND nibble<>(SB), Y13, Y13; \
	VPAND nibble<>(SB), Y14, Y14; \
	FIFTHS(Y13, 0, byte3, bitsHigh); \
	FIFTHS(Y14, 32, byte3, bitsHigh); \
	SPLIT(MAC, 56)

// BIASED begins the integer sums of a block whose quants are 16 too large.
#define BIASED16(A, B, RECORD, Y) \
	VPBROADCASTD 72 RECORD, A; \
	VPSLLD $4, A, A; \
	VMOVDQA A, B

// Planes: d in BX, fifth bits in CX, quants in DI.
#define Q5_0(EACH, MAC) \
	BEGIN; \
	VMOVDQU even<>(SB), Y15; \
panel: \
	PANEL; \
	MOVQ R14, BX; \
	LEAQ (R14)(R11*1), CX; \
	LEAQ (CX)(R11*2), DI; \
	EACH(CLEAR); \
block: \
	FETCH6(352); \
	EACH(BIASED16); \
	FIVES(MAC); \
	VCVTPH2PS (BX), Y8; \
	VCVTPH2PS 16(BX), Y9; \
	EACH(SCALED); \
	ADDQ $84, SI; \
	ADDQ $32, BX; \
	ADDQ $64, CX; \
	ADDQ $256, DI; \
	SUBQ $32, R11; \
	JNZ  block; \
	NEXTPANEL(panel); \
	RET

// Planes: d in BX, m in R15, fifth bits in CX, quants in DI.
#define Q5_1(EACH, MAC) \
	BEGIN; \
	VMOVDQU even<>(SB), Y15; \
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
	FIVES(MAC); \
	VCVTPH2PS (BX), Y8; \
	VCVTPH2PS 16(BX), Y9; \
	VCVTPH2PS (R15), Y13; \
	VCVTPH2PS 16(R15), Y14; \
	EACH(OFFSET); \
	ADDQ $84, SI; \
	ADDQ $32, BX; \
	ADDQ $32, R15; \
	ADDQ $64, CX; \
	ADDQ $256, DI; \
	SUBQ $32, R11; \
	JNZ  block; \
	NEXTPANEL(panel); \
	RET

// func avx2Q5_0x4(p *product)
TEXT ·avx2Q5_0x4(SB), NOSPLIT, $0-8
	Q5_0(EACH4, MAC4)

// func avx2Q5_0x2(p *product)
TEXT ·avx2Q5_0x2(SB), NOSPLIT, $0-8
	Q5_0(EACH2, MAC2)

// func avx2Q5_0x1(p *product)
TEXT ·avx2Q5_0x1(SB), NOSPLIT, $0-8
	Q5_0(EACH1, MAC1)

// func avx2Q5_1x4(p *product)
TEXT ·avx2Q5_1x4(SB), NOSPLIT, $0-8
	Q5_1(EACH4, MAC4)

// func avx2Q5_1x2(p *product)
TEXT ·avx2Q5_1x2(SB), NOSPLIT, $0-8
	Q5_1(EACH2, MAC2)

// func avx2Q5_1x1(p *product)
TEXT ·avx2Q5_1x1(SB), NOSPLIT, $0-8
	Q5_1(EACH1, MAC1)
