// Macros of the AVX2 products. A tile is 16 rows of weights, one to a 32-bit
// lane of two registers, times 4, 2 or 1 rows of activations. Weights become
// words, two columns in a lane: of four columns first the even two, then the odd
// ones, which is how shifts split a lane's four bytes. A record has its integers
// in that order: q0 q2 q1 q3 q4 q6 q5 q7 …
//
// Registers:
//	AX       *product
//	SI       the block's record in the first row of activations
//	DX R8    bytes from one row of activations to the next, and three times that
//	R9       the place of FETCH
//	R14      panel of weights
//	BX CX R15 DI  planes of the panel, the quants in DI
//	R11      columns left
//	R12      results of the first row, which gather the float sums
//	R13 R10  bytes from one row of results to the next, and three times that
//	Y0-Y3    by row: integer sums of the first 8 rows of weights
//	Y4-Y7    the same of the other 8
//	Y8 Y9    weights, two columns of the first and the other 8 rows, as words
//	Y10-Y12  what is at hand
//	Y13-Y15  whatever a format needs

#define CURSOR R9
#include "fetch_amd64.h"

// BEGIN takes the arguments.
#define BEGIN \
	MOVQ p+0(FP), AX; \
	MOVQ product_weights(AX), R14; \
	MOVQ R14, R9; \
	MOVQ product_xRow(AX), DX; \
	LEAQ (DX)(DX*2), R8; \
	MOVQ product_y(AX), R12; \
	MOVQ product_yRow(AX), R13; \
	LEAQ (R13)(R13*2), R10

// PANEL begins a panel: R11 is the number of columns.
#define PANEL \
	MOVQ product_x(AX), SI; \
	MOVQ product_cols(AX), R11; \
	VPXOR Y10, Y10, Y10

// NEXTPANEL goes on to the next panel or falls through.
#define NEXTPANEL(label) \
	ADDQ product_panelBytes(AX), R14; \
	ADDQ $64, R12; \
	DECQ product_panels(AX); \
	JNZ  label; \
	VZEROUPPER

// EACH does something for every row: M(sums, sums, record, results).
#define EACH4(M) \
	M(Y0, Y4, (SI), (R12)); \
	M(Y1, Y5, (SI)(DX*1), (R12)(R13*1)); \
	M(Y2, Y6, (SI)(DX*2), (R12)(R13*2)); \
	M(Y3, Y7, (SI)(R8*1), (R12)(R10*1))
#define EACH2(M) \
	M(Y0, Y4, (SI), (R12)); \
	M(Y1, Y5, (SI)(DX*1), (R12)(R13*1))
#define EACH1(M) \
	M(Y0, Y4, (SI), (R12))

// MAC multiplies the words in Y8 and Y9 with two columns of all rows: I is their
// byte in the record.
#define MAC4(I) \
	VPBROADCASTD I(SI), Y10; \
	VPMADDWD Y10, Y8, Y11; \
	VPADDD Y11, Y0, Y0; \
	VPMADDWD Y10, Y9, Y12; \
	VPADDD Y12, Y4, Y4; \
	VPBROADCASTD I(SI)(DX*1), Y10; \
	VPMADDWD Y10, Y8, Y11; \
	VPADDD Y11, Y1, Y1; \
	VPMADDWD Y10, Y9, Y12; \
	VPADDD Y12, Y5, Y5; \
	VPBROADCASTD I(SI)(DX*2), Y10; \
	VPMADDWD Y10, Y8, Y11; \
	VPADDD Y11, Y2, Y2; \
	VPMADDWD Y10, Y9, Y12; \
	VPADDD Y12, Y6, Y6; \
	VPBROADCASTD I(SI)(R8*1), Y10; \
	VPMADDWD Y10, Y8, Y11; \
	VPADDD Y11, Y3, Y3; \
	VPMADDWD Y10, Y9, Y12; \
	VPADDD Y12, Y7, Y7
#define MAC2(I) \
	VPBROADCASTD I(SI), Y10; \
	VPMADDWD Y10, Y8, Y11; \
	VPADDD Y11, Y0, Y0; \
	VPMADDWD Y10, Y9, Y12; \
	VPADDD Y12, Y4, Y4; \
	VPBROADCASTD I(SI)(DX*1), Y10; \
	VPMADDWD Y10, Y8, Y11; \
	VPADDD Y11, Y1, Y1; \
	VPMADDWD Y10, Y9, Y12; \
	VPADDD Y12, Y5, Y5
#define MAC1(I) \
	VPBROADCASTD I(SI), Y10; \
	VPMADDWD Y10, Y8, Y11; \
	VPADDD Y11, Y0, Y0; \
	VPMADDWD Y10, Y9, Y12; \
	VPADDD Y12, Y4, Y4

// CLEAR begins a panel; Y10 is zero.
#define CLEAR(A, B, RECORD, Y) \
	VMOVUPS Y10, Y; \
	VMOVUPS Y10, 32 Y

// ZERO begins the integer sums of a block.
#define ZERO(A, B, RECORD, Y) \
	VPXOR A, A, A; \
	VPXOR B, B, B

// SCALED ends a block: y = y + (I*d)*s, with d in Y8 and Y9.
#define SCALED(A, B, RECORD, Y) \
	VBROADCASTSS 64 RECORD, Y10; \
	VCVTDQ2PS A, A; \
	VCVTDQ2PS B, B; \
	VMULPS Y8, A, A; \
	VMULPS Y9, B, B; \
	VMULPS Y10, A, A; \
	VMULPS Y10, B, B; \
	VADDPS Y, A, A; \
	VADDPS 32 Y, B, B; \
	VMOVUPS A, Y; \
	VMOVUPS B, 32 Y

// OFFSET ends a block: y = y + ((I*d)*s + m*sum), with m in Y13 and Y14.
#define OFFSET(A, B, RECORD, Y) \
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
	VADDPS Y12, A, A; \
	VADDPS Y11, B, B; \
	VADDPS Y, A, A; \
	VADDPS 32 Y, B, B; \
	VMOVUPS A, Y; \
	VMOVUPS B, 32 Y
