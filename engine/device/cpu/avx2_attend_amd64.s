#include "go_asm.h"
#include "textflag.h"

// Attention of a tile of 4 queries or 1. Y0-Y3 and Y4-Y7 are the sums of the
// queries, 8 elements each, Y8 and Y9 the key elements of 16 positions or 16
// elements of a value. SI has the first query's number that they are multiplied
// with; DX and R8 are the bytes to the next query's, and three times that; R13
// and R10 the same for what is loaded and stored at BX.

#define TERM(A, B, VALUE, PLACE) \
	VBROADCASTSS VALUE, Y10; \
	VMULPS Y10, Y8, Y11; \
	VMULPS Y10, Y9, Y12; \
	VADDPS Y11, A, A; \
	VADDPS Y12, B, B

#define CLEARSUM(A, B, VALUE, PLACE) \
	VXORPS A, A, A; \
	VXORPS B, B, B

// ENDSCORE multiplies with the factor and stores.
#define ENDSCORE(A, B, VALUE, PLACE) \
	VMULPS Y13, A, A; \
	VMULPS Y13, B, B; \
	VMOVUPS A, PLACE; \
	VMOVUPS B, 32 PLACE

#define LOADSUM(A, B, VALUE, PLACE) \
	VMOVUPS PLACE, A; \
	VMOVUPS 32 PLACE, B

#define STORESUM(A, B, VALUE, PLACE) \
	VMOVUPS A, PLACE; \
	VMOVUPS B, 32 PLACE

#define EACH4(M) \
	M(Y0, Y4, (SI), (BX)); \
	M(Y1, Y5, (SI)(DX*1), (BX)(R13*1)); \
	M(Y2, Y6, (SI)(DX*2), (BX)(R13*2)); \
	M(Y3, Y7, (SI)(R8*1), (BX)(R10*1))
#define EACH1(M) \
	M(Y0, Y4, (SI), (BX))

#define SCORES(EACH) \
	MOVQ a+0(FP), AX; \
	MOVQ attention_q(AX), SI; \
	MOVQ attention_kv(AX), DI; \
	MOVQ attention_dim(AX), CX; \
	LEAQ (CX*4), DX; \
	LEAQ (DX)(DX*2), R8; \
	MOVQ attention_p(AX), BX; \
	MOVQ attention_pRow(AX), R13; \
	LEAQ (R13)(R13*2), R10; \
	EACH(CLEARSUM); \
element: \
	VMOVUPS (DI), Y8; \
	VMOVUPS 32(DI), Y9; \
	EACH(TERM); \
	ADDQ $4, SI; \
	ADDQ $64, DI; \
	DECQ CX; \
	JNZ  element; \
	VBROADCASTSS attention_factor(AX), Y13; \
	EACH(ENDSCORE); \
	VZEROUPPER; \
	RET

// func avx2Scoresx4(a *attention)
TEXT ·avx2Scoresx4(SB), NOSPLIT, $0-8
	SCORES(EACH4)

// func avx2Scoresx1(a *attention)
TEXT ·avx2Scoresx1(SB), NOSPLIT, $0-8
	SCORES(EACH1)

// BX is the place of 16 elements of the first query's result, R14 that of the
// same elements of the first value, R15 the elements that are left.
#define WEIGH(EACH) \
	MOVQ a+0(FP), AX; \
	MOVQ attention_pRow(AX), DX; \
	LEAQ (DX)(DX*2), R8; \
	MOVQ attention_out(AX), BX; \
	MOVQ attention_kv(AX), R14; \
	MOVQ attention_dim(AX), R15; \
	LEAQ (R15*4), R13; \
	LEAQ (R13)(R13*2), R10; \
elements: \
	MOVQ attention_p(AX), SI; \
	MOVQ R14, DI; \
	MOVQ attention_n(AX), CX; \
	EACH(LOADSUM); \
position: \
	VMOVUPS (DI), Y8; \
	VMOVUPS 32(DI), Y9; \
	EACH(TERM); \
	ADDQ $4, SI; \
	ADDQ R13, DI; \
	DECQ CX; \
	JNZ  position; \
	EACH(STORESUM); \
	ADDQ $64, BX; \
	ADDQ $64, R14; \
	SUBQ $16, R15; \
	JNZ  elements; \
	VZEROUPPER; \
	RET

// func avx2Weighx4(a *attention)
TEXT ·avx2Weighx4(SB), NOSPLIT, $0-8
	WEIGH(EACH4)

// func avx2Weighx1(a *attention)
TEXT ·avx2Weighx1(SB), NOSPLIT, $0-8
	WEIGH(EACH1)
