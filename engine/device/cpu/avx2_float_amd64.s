#include "go_asm.h"
#include "textflag.h"
#include "avx2_amd64.h"

// The float formats: 16 rows of weights, in Y8 and Y9, times one column, column by
// column. Here Y0-Y7 have the sums of up to 32 columns, and a "record" is a
// row's value in the column at hand. CX counts the columns of a block.

#define TERM(A, B, VALUE, Y) \
	VBROADCASTSS VALUE, Y10; \
	VMULPS Y10, Y8, Y11; \
	VMULPS Y10, Y9, Y12; \
	VADDPS Y11, A, A; \
	VADDPS Y12, B, B

#define ENDSUM(A, B, VALUE, Y) \
	VADDPS Y, A, A; \
	VADDPS 32 Y, B, B; \
	VMOVUPS A, Y; \
	VMOVUPS B, 32 Y

#define LOADF32 \
	VMOVUPS (DI), Y8; \
	VMOVUPS 32(DI), Y9; \
	ADDQ $64, DI

#define LOADF16 \
	VCVTPH2PS (DI), Y8; \
	VCVTPH2PS 16(DI), Y9; \
	ADDQ $32, DI

#define LOADBF16 \
	VPMOVZXWD (DI), Y8; \
	VPMOVZXWD 16(DI), Y9; \
	VPSLLD $16, Y8, Y8; \
	VPSLLD $16, Y9, Y9; \
	ADDQ $32, DI

#define FLOATS(EACH, LOAD) \
	BEGIN; \
panel: \
	PANEL; \
	MOVQ R14, DI; \
	EACH(CLEAR); \
block: \
	MOVQ $32, CX; \
	CMPQ R11, CX; \
	CMOVQLT R11, CX; \
	SUBQ CX, R11; \
	EACH(ZERO); \
column: \
	LOAD; \
	EACH(TERM); \
	ADDQ $4, SI; \
	DECQ CX; \
	JNZ  column; \
	EACH(ENDSUM); \
	TESTQ R11, R11; \
	JNZ  block; \
	NEXTPANEL(panel); \
	RET

// func avx2F32x4(p *product)
TEXT ·avx2F32x4(SB), NOSPLIT, $0-8
	FLOATS(EACH4, LOADF32)

// func avx2F32x2(p *product)
TEXT ·avx2F32x2(SB), NOSPLIT, $0-8
	FLOATS(EACH2, LOADF32)

// func avx2F32x1(p *product)
TEXT ·avx2F32x1(SB), NOSPLIT, $0-8
	FLOATS(EACH1, LOADF32)

// func avx2F16x4(p *product)
TEXT ·avx2F16x4(SB), NOSPLIT, $0-8
	FLOATS(EACH4, LOADF16)

// func avx2F16x2(p *product)
TEXT ·avx2F16x2(SB), NOSPLIT, $0-8
	FLOATS(EACH2, LOADF16)

// func avx2F16x1(p *product)
TEXT ·avx2F16x1(SB), NOSPLIT, $0-8
	FLOATS(EACH1, LOADF16)

// func avx2BF16x4(p *product)
TEXT ·avx2BF16x4(SB), NOSPLIT, $0-8
	FLOATS(EACH4, LOADBF16)

// func avx2BF16x2(p *product)
TEXT ·avx2BF16x2(SB), NOSPLIT, $0-8
	FLOATS(EACH2, LOADBF16)

// func avx2BF16x1(p *product)
TEXT ·avx2BF16x1(SB), NOSPLIT, $0-8
	FLOATS(EACH1, LOADBF16)
