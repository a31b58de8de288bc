#include "go_asm.h"
#include "textflag.h"
#include "vnni_amd64.h"

// The float formats: 16 rows of weights times one column, column by column. Here
// Z0-Z7 have the sums of up to 32 columns, Z8-Z15 a product, and a "record" is
// a row's value in the column at hand. CX counts the columns of a block.

#define TERM(S, T, Y, VALUE) \
	VMULPS.BCST VALUE, Z24, T; \
	VADDPS T, S, S

#define CLEARSUM(S, T, Y, VALUE) VPXORD S, S, S

#define ENDSUM(S, T, Y, VALUE) VADDPS S, Y, Y

#define LOADF32 \
	VMOVUPS (DI), Z24; \
	ADDQ $64, DI

#define LOADF16 \
	VCVTPH2PS (DI), Z24; \
	ADDQ $32, DI

#define LOADBF16 \
	VPMOVZXWD (DI), Z24; \
	VPSLLD $16, Z24, Z24; \
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
	EACH(CLEARSUM); \
column: \
	LOAD; \
	EACH(TERM); \
	ADDQ $4, SI; \
	DECQ CX; \
	JNZ  column; \
	EACH(ENDSUM); \
	TESTQ R11, R11; \
	JNZ  block; \
	ENDPANEL(EACH); \
	NEXTPANEL(panel); \
	RET

// func vnniF32x8(p *product)
TEXT ·vnniF32x8(SB), NOSPLIT, $0-8
	FLOATS(EACH8, LOADF32)

// func vnniF32x4(p *product)
TEXT ·vnniF32x4(SB), NOSPLIT, $0-8
	FLOATS(EACH4, LOADF32)

// func vnniF32x2(p *product)
TEXT ·vnniF32x2(SB), NOSPLIT, $0-8
	FLOATS(EACH2, LOADF32)

// func vnniF32x1(p *product)
TEXT ·vnniF32x1(SB), NOSPLIT, $0-8
	FLOATS(EACH1, LOADF32)

// func vnniF16x8(p *product)
TEXT ·vnniF16x8(SB), NOSPLIT, $0-8
	FLOATS(EACH8, LOADF16)

// func vnniF16x4(p *product)
TEXT ·vnniF16x4(SB), NOSPLIT, $0-8
	FLOATS(EACH4, LOADF16)

// func vnniF16x2(p *product)
TEXT ·vnniF16x2(SB), NOSPLIT, $0-8
	FLOATS(EACH2, LOADF16)

// func vnniF16x1(p *product)
TEXT ·vnniF16x1(SB), NOSPLIT, $0-8
	FLOATS(EACH1, LOADF16)

// func vnniBF16x8(p *product)
TEXT ·vnniBF16x8(SB), NOSPLIT, $0-8
	FLOATS(EACH8, LOADBF16)

// func vnniBF16x4(p *product)
TEXT ·vnniBF16x4(SB), NOSPLIT, $0-8
	FLOATS(EACH4, LOADBF16)

// func vnniBF16x2(p *product)
TEXT ·vnniBF16x2(SB), NOSPLIT, $0-8
	FLOATS(EACH2, LOADBF16)

// func vnniBF16x1(p *product)
TEXT ·vnniBF16x1(SB), NOSPLIT, $0-8
	FLOATS(EACH1, LOADBF16)
