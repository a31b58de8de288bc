#include "go_asm.h"
#include "textflag.h"
#include "vnni_amd64.h"

// Attention of a tile of 8, 4 or 1 queries. Here Z0-Z7 are the sums, Z8-Z15
// products, Z24 the key elements of 16 positions or 16 elements of a value, and
// a "record" is what they are multiplied with, one number to a query.

#define TERM(S, T, Y, VALUE) \
	VMULPS.BCST VALUE, Z24, T; \
	VADDPS T, S, S

#define CLEARSUM(S, T, Y, VALUE) VPXORD S, S, S

// ENDSCORE multiplies with the factor and stores; BX is the query's place.
#define ENDSCORE(S, T, Y, VALUE) \
	VMULPS Z26, S, S; \
	VMOVUPS S, (BX); \
	ADDQ R13, BX

// LOADSUM and STORESUM move 16 elements of the results.
#define LOADSUM(S, T, Y, VALUE) \
	VMOVUPS (BX), S; \
	ADDQ R13, BX

#define STORESUM(S, T, Y, VALUE) \
	VMOVUPS S, (BX); \
	ADDQ R13, BX

// STEPS are the places of the queries' rows, DX bytes apart.
#define STEPS \
	LEAQ (DX)(DX*2), R8; \
	LEAQ (DX)(DX*4), R9; \
	LEAQ (R8)(DX*4), R10

#define SCORES(EACH) \
	MOVQ a+0(FP), AX; \
	MOVQ attention_q(AX), SI; \
	MOVQ attention_kv(AX), DI; \
	MOVQ attention_dim(AX), CX; \
	LEAQ (CX*4), DX; \
	STEPS; \
	EACH(CLEARSUM); \
element: \
	VMOVUPS (DI), Z24; \
	EACH(TERM); \
	ADDQ $4, SI; \
	ADDQ $64, DI; \
	DECQ CX; \
	JNZ  element; \
	VBROADCASTSS attention_factor(AX), Z26; \
	MOVQ attention_p(AX), BX; \
	MOVQ attention_pRow(AX), R13; \
	EACH(ENDSCORE); \
	VZEROUPPER; \
	RET

// func vnniScoresx8(a *attention)
TEXT ·vnniScoresx8(SB), NOSPLIT, $0-8
	SCORES(EACH8)

// func vnniScoresx4(a *attention)
TEXT ·vnniScoresx4(SB), NOSPLIT, $0-8
	SCORES(EACH4)

// func vnniScoresx1(a *attention)
TEXT ·vnniScoresx1(SB), NOSPLIT, $0-8
	SCORES(EACH1)

// R12 is the place of 16 elements of the first query's result, R14 that of the
// same elements of the first value, R15 the elements that are left.
#define WEIGH(EACH) \
	MOVQ a+0(FP), AX; \
	MOVQ attention_pRow(AX), DX; \
	STEPS; \
	MOVQ attention_out(AX), R12; \
	MOVQ attention_kv(AX), R14; \
	MOVQ attention_dim(AX), R15; \
	LEAQ (R15*4), R13; \
elements: \
	MOVQ attention_p(AX), SI; \
	MOVQ R14, DI; \
	MOVQ attention_n(AX), CX; \
	MOVQ R12, BX; \
	EACH(LOADSUM); \
position: \
	VMOVUPS (DI), Z24; \
	EACH(TERM); \
	ADDQ $4, SI; \
	ADDQ R13, DI; \
	DECQ CX; \
	JNZ  position; \
	MOVQ R12, BX; \
	EACH(STORESUM); \
	ADDQ $64, R12; \
	ADDQ $64, R14; \
	SUBQ $16, R15; \
	JNZ  elements; \
	VZEROUPPER; \
	RET

// func vnniWeighx8(a *attention)
TEXT ·vnniWeighx8(SB), NOSPLIT, $0-8
	WEIGH(EACH8)

// func vnniWeighx4(a *attention)
TEXT ·vnniWeighx4(SB), NOSPLIT, $0-8
	WEIGH(EACH4)

// func vnniWeighx1(a *attention)
TEXT ·vnniWeighx1(SB), NOSPLIT, $0-8
	WEIGH(EACH1)
