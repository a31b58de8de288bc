#include "textflag.h"

// Units of 16 rows come together, and go back. 16 bytes are four units of 4: they
// become four lines of 64 bytes, one word of each row in each. A register has the units of two rows, r and r+4, one in each
// half, so that transposing 4 x 4 words in both halves is all there is to do.
//
//	SI R8 R9 R10  the piece in rows 0, 4, 8, 12; DX, R11: to the next row, and three times that
//	DI            the lines
//	R12 R13       blocks left, pieces left in the block
//	BX            from the end of a block's field to the next block's

#define ROWS(FILE, UNIT) \
	MOVQ FILE, SI; \
	MOVQ rowBytes+16(FP), DX; \
	LEAQ (SI)(DX*4), R8; \
	LEAQ (R8)(DX*4), R9; \
	LEAQ (R9)(DX*4), R10; \
	LEAQ (DX)(DX*2), R11; \
	MOVQ n+24(FP), R12; \
	MOVQ step+32(FP), BX; \
	MOVQ units+40(FP), R13; \
	IMULQ $UNIT, R13; \
	SUBQ R13, BX

// FOUR transposes A … D, using T0 … T3.
#define FOUR(A, B, C, D, T0, T1, T2, T3) \
	VPUNPCKLDQ B, A, T0; \
	VPUNPCKHDQ B, A, T1; \
	VPUNPCKLDQ D, C, T2; \
	VPUNPCKHDQ D, C, T3; \
	VPUNPCKLQDQ T2, T0, A; \
	VPUNPCKHQDQ T2, T0, B; \
	VPUNPCKLQDQ T3, T1, C; \
	VPUNPCKHQDQ T3, T1, D

// NEXT goes on to the next unit of 16, 4 or 2 bytes, or block, or falls through.
#define NEXT(block, piece, UNIT) \
	ADDQ $UNIT, SI; \
	ADDQ $UNIT, R8; \
	ADDQ $UNIT, R9; \
	ADDQ $UNIT, R10; \
	ADDQ $(16*UNIT), DI; \
	DECQ R13; \
	JNZ  piece; \
	ADDQ BX, SI; \
	ADDQ BX, R8; \
	ADDQ BX, R9; \
	ADDQ BX, R10; \
	DECQ R12; \
	JNZ  block; \
	VZEROUPPER

// func transpose16(plane, file *byte, rowBytes, n, step, units int)
TEXT ·transpose16(SB), NOSPLIT, $0-48
	ROWS(file+8(FP), 16)
	MOVQ plane+0(FP), DI

block:
	MOVQ units+40(FP), R13

piece:
	VMOVDQU (SI), X0
	VMOVDQU (SI)(DX*1), X1
	VMOVDQU (SI)(DX*2), X2
	VMOVDQU (SI)(R11*1), X3
	VINSERTI128 $1, (R8), Y0, Y0
	VINSERTI128 $1, (R8)(DX*1), Y1, Y1
	VINSERTI128 $1, (R8)(DX*2), Y2, Y2
	VINSERTI128 $1, (R8)(R11*1), Y3, Y3
	VMOVDQU (R9), X4
	VMOVDQU (R9)(DX*1), X5
	VMOVDQU (R9)(DX*2), X6
	VMOVDQU (R9)(R11*1), X7
	VINSERTI128 $1, (R10), Y4, Y4
	VINSERTI128 $1, (R10)(DX*1), Y5, Y5
	VINSERTI128 $1, (R10)(DX*2), Y6, Y6
	VINSERTI128 $1, (R10)(R11*1), Y7, Y7
	FOUR(Y0, Y1, Y2, Y3, Y8, Y9, Y10, Y11)
	FOUR(Y4, Y5, Y6, Y7, Y12, Y13, Y14, Y15)
	VMOVDQU Y0, (DI)
	VMOVDQU Y4, 32(DI)
	VMOVDQU Y1, 64(DI)
	VMOVDQU Y5, 96(DI)
	VMOVDQU Y2, 128(DI)
	VMOVDQU Y6, 160(DI)
	VMOVDQU Y3, 192(DI)
	VMOVDQU Y7, 224(DI)
	NEXT(block, piece, 16)
	RET

// func untranspose16(file, plane *byte, rowBytes, n, step, units int)
TEXT ·untranspose16(SB), NOSPLIT, $0-48
	ROWS(file+0(FP), 16)
	MOVQ plane+8(FP), DI

block:
	MOVQ units+40(FP), R13

piece:
	VMOVDQU (DI), Y0
	VMOVDQU 32(DI), Y4
	VMOVDQU 64(DI), Y1
	VMOVDQU 96(DI), Y5
	VMOVDQU 128(DI), Y2
	VMOVDQU 160(DI), Y6
	VMOVDQU 192(DI), Y3
	VMOVDQU 224(DI), Y7
	FOUR(Y0, Y1, Y2, Y3, Y8, Y9, Y10, Y11)
	FOUR(Y4, Y5, Y6, Y7, Y12, Y13, Y14, Y15)
	VMOVDQU X0, (SI)
	VMOVDQU X1, (SI)(DX*1)
	VMOVDQU X2, (SI)(DX*2)
	VMOVDQU X3, (SI)(R11*1)
	VEXTRACTI128 $1, Y0, (R8)
	VEXTRACTI128 $1, Y1, (R8)(DX*1)
	VEXTRACTI128 $1, Y2, (R8)(DX*2)
	VEXTRACTI128 $1, Y3, (R8)(R11*1)
	VMOVDQU X4, (R9)
	VMOVDQU X5, (R9)(DX*1)
	VMOVDQU X6, (R9)(DX*2)
	VMOVDQU X7, (R9)(R11*1)
	VEXTRACTI128 $1, Y4, (R10)
	VEXTRACTI128 $1, Y5, (R10)(DX*1)
	VEXTRACTI128 $1, Y6, (R10)(DX*2)
	VEXTRACTI128 $1, Y7, (R10)(R11*1)
	NEXT(block, piece, 16)
	RET

// func transpose4(plane, file *byte, rowBytes, n, step, units int)
TEXT ·transpose4(SB), NOSPLIT, $0-48
	ROWS(file+8(FP), 4)
	MOVQ plane+0(FP), DI

block:
	MOVQ units+40(FP), R13

piece:
	VMOVD (SI), X0
	VPINSRD $1, (SI)(DX*1), X0, X0
	VPINSRD $2, (SI)(DX*2), X0, X0
	VPINSRD $3, (SI)(R11*1), X0, X0
	VMOVD (R8), X1
	VPINSRD $1, (R8)(DX*1), X1, X1
	VPINSRD $2, (R8)(DX*2), X1, X1
	VPINSRD $3, (R8)(R11*1), X1, X1
	VMOVD (R9), X2
	VPINSRD $1, (R9)(DX*1), X2, X2
	VPINSRD $2, (R9)(DX*2), X2, X2
	VPINSRD $3, (R9)(R11*1), X2, X2
	VMOVD (R10), X3
	VPINSRD $1, (R10)(DX*1), X3, X3
	VPINSRD $2, (R10)(DX*2), X3, X3
	VPINSRD $3, (R10)(R11*1), X3, X3
	VMOVDQU X0, (DI)
	VMOVDQU X1, 16(DI)
	VMOVDQU X2, 32(DI)
	VMOVDQU X3, 48(DI)
	NEXT(block, piece, 4)
	RET

// func untranspose4(file, plane *byte, rowBytes, n, step, units int)
TEXT ·untranspose4(SB), NOSPLIT, $0-48
	ROWS(file+0(FP), 4)
	MOVQ plane+8(FP), DI

block:
	MOVQ units+40(FP), R13

piece:
	VMOVDQU (DI), X0
	VMOVDQU 16(DI), X1
	VMOVDQU 32(DI), X2
	VMOVDQU 48(DI), X3
	VMOVD X0, (SI)
	VPEXTRD $1, X0, (SI)(DX*1)
	VPEXTRD $2, X0, (SI)(DX*2)
	VPEXTRD $3, X0, (SI)(R11*1)
	VMOVD X1, (R8)
	VPEXTRD $1, X1, (R8)(DX*1)
	VPEXTRD $2, X1, (R8)(DX*2)
	VPEXTRD $3, X1, (R8)(R11*1)
	VMOVD X2, (R9)
	VPEXTRD $1, X2, (R9)(DX*1)
	VPEXTRD $2, X2, (R9)(DX*2)
	VPEXTRD $3, X2, (R9)(R11*1)
	VMOVD X3, (R10)
	VPEXTRD $1, X3, (R10)(DX*1)
	VPEXTRD $2, X3, (R10)(DX*2)
	VPEXTRD $3, X3, (R10)(R11*1)
	NEXT(block, piece, 4)
	RET

// func transpose2(plane, file *byte, rowBytes, n, step, units int)
TEXT ·transpose2(SB), NOSPLIT, $0-48
	ROWS(file+8(FP), 2)
	MOVQ plane+0(FP), DI

block:
	MOVQ units+40(FP), R13

piece:
	VPXOR X0, X0, X0
	VPINSRW $0, (SI), X0, X0
	VPINSRW $1, (SI)(DX*1), X0, X0
	VPINSRW $2, (SI)(DX*2), X0, X0
	VPINSRW $3, (SI)(R11*1), X0, X0
	VPINSRW $4, (R8), X0, X0
	VPINSRW $5, (R8)(DX*1), X0, X0
	VPINSRW $6, (R8)(DX*2), X0, X0
	VPINSRW $7, (R8)(R11*1), X0, X0
	VPXOR X1, X1, X1
	VPINSRW $0, (R9), X1, X1
	VPINSRW $1, (R9)(DX*1), X1, X1
	VPINSRW $2, (R9)(DX*2), X1, X1
	VPINSRW $3, (R9)(R11*1), X1, X1
	VPINSRW $4, (R10), X1, X1
	VPINSRW $5, (R10)(DX*1), X1, X1
	VPINSRW $6, (R10)(DX*2), X1, X1
	VPINSRW $7, (R10)(R11*1), X1, X1
	VMOVDQU X0, (DI)
	VMOVDQU X1, 16(DI)
	NEXT(block, piece, 2)
	RET

// func untranspose2(file, plane *byte, rowBytes, n, step, units int)
TEXT ·untranspose2(SB), NOSPLIT, $0-48
	ROWS(file+0(FP), 2)
	MOVQ plane+8(FP), DI

block:
	MOVQ units+40(FP), R13

piece:
	VMOVDQU (DI), X0
	VMOVDQU 16(DI), X1
	VPEXTRW $0, X0, (SI)
	VPEXTRW $1, X0, (SI)(DX*1)
	VPEXTRW $2, X0, (SI)(DX*2)
	VPEXTRW $3, X0, (SI)(R11*1)
	VPEXTRW $4, X0, (R8)
	VPEXTRW $5, X0, (R8)(DX*1)
	VPEXTRW $6, X0, (R8)(DX*2)
	VPEXTRW $7, X0, (R8)(R11*1)
	VPEXTRW $0, X1, (R9)
	VPEXTRW $1, X1, (R9)(DX*1)
	VPEXTRW $2, X1, (R9)(DX*2)
	VPEXTRW $3, X1, (R9)(R11*1)
	VPEXTRW $4, X1, (R10)
	VPEXTRW $5, X1, (R10)(DX*1)
	VPEXTRW $6, X1, (R10)(DX*2)
	VPEXTRW $7, X1, (R10)(R11*1)
	NEXT(block, piece, 2)
	RET
