// Macros of the AVX-512 VNNI products. A tile is 16 rows of weights, one to a
// 32-bit lane, times 8, 4, 2 or 1 rows of activations.
//
// Registers:
//	AX       *product
//	SI       the block's record in the first row of activations
//	DX       bytes from one row of activations to the next
//	R8 R9 R10 3, 5, 7 times that
//	R14      panel of weights
//	BX CX R15 DI  planes of the panel, the quants in DI
//	R11      columns left
//	R12      results of the first row
//	R13      the place of FETCH
//	Z0-Z7    by row: sums of weights times high bytes of activations
//	Z8-Z15   by row: the same with low bytes
//	Z16-Z23  by row: the float sums
//	Z24 Z25  weights, 4 columns of 16 rows, unsigned bytes
//	Z26 Z27  scales and offsets of the weights
//	Z28      0x0f in every byte
//	Z29-Z31  whatever a format needs

// BEGIN takes the arguments.
#define BEGIN \
	MOVQ p+0(FP), AX; \
	MOVQ product_weights(AX), R14; \
	MOVQ product_xRow(AX), DX; \
	LEAQ (DX)(DX*2), R8; \
	LEAQ (DX)(DX*4), R9; \
	LEAQ (R8)(DX*4), R10; \
	MOVQ product_y(AX), R12; \
	MOVQ R14, R13; \
	MOVL $0x0f0f0f0f, R11; \
	VPBROADCASTD R11, Z28

#define CURSOR R13
#include "fetch_amd64.h"

// PANEL begins a panel: R11 is the number of columns.
#define PANEL \
	MOVQ product_x(AX), SI; \
	MOVQ product_cols(AX), R11

// NEXTPANEL goes on to the next panel or falls through.
#define NEXTPANEL(label) \
	ADDQ product_panelBytes(AX), R14; \
	ADDQ $64, R12; \
	DECQ product_panels(AX); \
	JNZ  label; \
	VZEROUPPER

// EACH does something for every row: M(high sums, low sums, float sums, record).
#define EACH8(M) \
	M(Z0, Z8, Z16, (SI)); \
	M(Z1, Z9, Z17, (SI)(DX*1)); \
	M(Z2, Z10, Z18, (SI)(DX*2)); \
	M(Z3, Z11, Z19, (SI)(R8*1)); \
	M(Z4, Z12, Z20, (SI)(DX*4)); \
	M(Z5, Z13, Z21, (SI)(R9*1)); \
	M(Z6, Z14, Z22, (SI)(R8*2)); \
	M(Z7, Z15, Z23, (SI)(R10*1))
#define EACH4(M) \
	M(Z0, Z8, Z16, (SI)); \
	M(Z1, Z9, Z17, (SI)(DX*1)); \
	M(Z2, Z10, Z18, (SI)(DX*2)); \
	M(Z3, Z11, Z19, (SI)(R8*1))
#define EACH2(M) \
	M(Z0, Z8, Z16, (SI)); \
	M(Z1, Z9, Z17, (SI)(DX*1))
#define EACH1(M) \
	M(Z0, Z8, Z16, (SI))

// DOT multiplies 4 columns of weights W with those of all rows: I is the byte
// of the first of them in the record.
#define DOT8(W, I) \
	VPDPBUSD.BCST I(SI), W, Z0; \
	VPDPBUSD.BCST 32+I(SI), W, Z8; \
	VPDPBUSD.BCST I(SI)(DX*1), W, Z1; \
	VPDPBUSD.BCST 32+I(SI)(DX*1), W, Z9; \
	VPDPBUSD.BCST I(SI)(DX*2), W, Z2; \
	VPDPBUSD.BCST 32+I(SI)(DX*2), W, Z10; \
	VPDPBUSD.BCST I(SI)(R8*1), W, Z3; \
	VPDPBUSD.BCST 32+I(SI)(R8*1), W, Z11; \
	VPDPBUSD.BCST I(SI)(DX*4), W, Z4; \
	VPDPBUSD.BCST 32+I(SI)(DX*4), W, Z12; \
	VPDPBUSD.BCST I(SI)(R9*1), W, Z5; \
	VPDPBUSD.BCST 32+I(SI)(R9*1), W, Z13; \
	VPDPBUSD.BCST I(SI)(R8*2), W, Z6; \
	VPDPBUSD.BCST 32+I(SI)(R8*2), W, Z14; \
	VPDPBUSD.BCST I(SI)(R10*1), W, Z7; \
	VPDPBUSD.BCST 32+I(SI)(R10*1), W, Z15
#define DOT4(W, I) \
	VPDPBUSD.BCST I(SI), W, Z0; \
	VPDPBUSD.BCST 32+I(SI), W, Z8; \
	VPDPBUSD.BCST I(SI)(DX*1), W, Z1; \
	VPDPBUSD.BCST 32+I(SI)(DX*1), W, Z9; \
	VPDPBUSD.BCST I(SI)(DX*2), W, Z2; \
	VPDPBUSD.BCST 32+I(SI)(DX*2), W, Z10; \
	VPDPBUSD.BCST I(SI)(R8*1), W, Z3; \
	VPDPBUSD.BCST 32+I(SI)(R8*1), W, Z11
#define DOT2(W, I) \
	VPDPBUSD.BCST I(SI), W, Z0; \
	VPDPBUSD.BCST 32+I(SI), W, Z8; \
	VPDPBUSD.BCST I(SI)(DX*1), W, Z1; \
	VPDPBUSD.BCST 32+I(SI)(DX*1), W, Z9
#define DOT1(W, I) \
	VPDPBUSD.BCST I(SI), W, Z0; \
	VPDPBUSD.BCST 32+I(SI), W, Z8

// CLEAR begins a panel.
#define CLEAR(H, L, Y, RECORD) VPXORD Y, Y, Y

// ZERO begins the integer sums of a block.
#define ZERO(H, L, Y, RECORD) \
	VPXORD H, H, H; \
	VPXORD L, L, L

// SCALED ends a block: y = y + (I*d)*s.
#define SCALED(H, L, Y, RECORD) \
	VPSLLD $8, H, H; \
	VPADDD L, H, H; \
	VCVTDQ2PS H, H; \
	VMULPS Z26, H, H; \
	VMULPS.BCST 64 RECORD, H, H; \
	VADDPS H, Y, Y

// OFFSET ends a block: y = y + ((I*d)*s + m*sum).
#define OFFSET(H, L, Y, RECORD) \
	VPSLLD $8, H, H; \
	VPADDD L, H, H; \
	VCVTDQ2PS H, H; \
	VMULPS Z26, H, H; \
	VMULPS.BCST 64 RECORD, H, H; \
	VMULPS.BCST 68 RECORD, Z27, L; \
	VADDPS L, H, H; \
	VADDPS H, Y, Y

// STORE is what ENDPANEL does for every row.
#define STORE(H, L, Y, RECORD) \
	VMOVUPS Y, (BX); \
	ADDQ CX, BX

// ENDPANEL stores the results of a panel.
#define ENDPANEL(EACH) \
	MOVQ R12, BX; \
	MOVQ product_yRow(AX), CX; \
	EACH(STORE)
