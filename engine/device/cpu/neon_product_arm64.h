// Macros of the NEON products. A tile is 16 rows of weights, one to a word of four
// registers, times 2 rows of activations or 1.
//
// Registers:
//	R0       *product
//	R1 R2    the block's record in the first and the second row
//	R3       panel of weights
//	R4 R5    results of the first and the second row, which gather the float sums
//	R6       columns left
//	R7-R10   planes of the panel, the quants in R7
//	R11      product.scratch
//	V0-V3    first row: sums of weights times high bytes of activations
//	V4-V7    the same with low bytes
//	V8-V15   second row
//	V16-V19  first row: 32 high bytes, 32 low bytes
//	V20-V23  second row
//	V24-V27  weights
//	V31      0x0f in every byte
//	V28-V30  whatever a format needs
//
// At the end of a block V24-V27 have the scales of the weights, V20-V23 their
// offsets, and V16-V19 the results.

#include "neon_arm64.h"

// PANEL begins a panel.
#define PANEL \
	MOVD product_x(R0), R1; \
	MOVD product_xRow(R0), R12; \
	ADD  R1, R12, R2; \
	MOVD product_cols(R0), R6

// BEGIN takes the arguments.
#define BEGIN \
	MOVD p+0(FP), R0; \
	MOVD product_weights(R0), R3; \
	MOVD product_y(R0), R4; \
	MOVD product_yRow(R0), R12; \
	ADD  R4, R12, R5; \
	VMOVI $15, V31.B16

// NEXTPANEL goes on to the next panel or falls through.
#define NEXTPANEL(label) \
	MOVD product_panelBytes(R0), R12; \
	ADD  R12, R3; \
	ADD  $64, R4; \
	ADD  $64, R5; \
	MOVD product_panels(R0), R12; \
	SUBS $1, R12; \
	MOVD R12, product_panels(R0); \
	BNE  label

// NEXTBLOCK goes on to the next records.
#define NEXTBLOCK \
	ADD $84, R1; \
	ADD $84, R2

// EACH does something for every row: M(sums, sums, activations, record, results).
#define EACH2(M) \
	M(0, 4, 16, R1, R4); \
	M(8, 12, 20, R2, R5)
#define EACH1(M) \
	M(0, 4, 16, R1, R4)

// RECORDS loads the activations of a block.
#define RECORDS2 \
	VLD1 (R1), [V16.B16, V17.B16, V18.B16, V19.B16]; \
	VLD1 (R2), [V20.B16, V21.B16, V22.B16, V23.B16]
#define RECORDS1 \
	VLD1 (R1), [V16.B16, V17.B16, V18.B16, V19.B16]

// DOT multiplies 4 columns of 4 rows of weights, W, the rows from 4*Q on, with
// columns 16*A+4*E … of the activations.
#define DOT2(W, Q, A, E) \
	SDOT(16+A, E, W, Q); \
	SDOT(18+A, E, W, 4+Q); \
	SDOT(20+A, E, W, 8+Q); \
	SDOT(22+A, E, W, 12+Q)
#define DOT1(W, Q, A, E) \
	SDOT(16+A, E, W, Q); \
	SDOT(18+A, E, W, 4+Q)

// CLEAR begins a panel, after ZEROS.
#define CLEAR(H, L, A, RECORD, Y) \
	VST1 [V24.B16, V25.B16, V26.B16, V27.B16], (Y)
#define ZEROS \
	ZERO16(24); \
	ZERO16(25); \
	ZERO16(26); \
	ZERO16(27)

// NONE begins the integer sums of a block.
#define NONE(H, L, A, RECORD, Y) \
	ZERO16(H); \
	ZERO16(H+1); \
	ZERO16(H+2); \
	ZERO16(H+3); \
	ZERO16(L); \
	ZERO16(L+1); \
	ZERO16(L+2); \
	ZERO16(L+3)

// BIASED does so for quants that are 1<<SHIFT too large; AT is the place of minus
// the sum of the activations.
#define BIASED(H, L, RECORD, AT, SHIFT) \
	ADD  $AT, RECORD, R12; \
	VLD1R (R12), [V30.S4]; \
	ZERO16(H); \
	ZERO16(H+1); \
	ZERO16(H+2); \
	ZERO16(H+3); \
	SHL32(SHIFT, 30, L); \
	MOV16(L, L+1); \
	MOV16(L, L+2); \
	MOV16(L, L+3)

// HALVES makes 16 float32 of the 16 halves at PLACE.
#define HALVES(PLACE, D) \
	VLD1 (PLACE), [V29.B16, V30.B16]; \
	FCVTL(29, D); \
	FCVTL2(29, D+1); \
	FCVTL(30, D+2); \
	FCVTL2(30, D+3)

// SCALE makes (I*d)*s of rows 4*Q …, s in V29.
#define SCALE(H, L, Q) \
	SHL32(8, H+Q, H+Q); \
	ADD32(L+Q, H+Q, H+Q); \
	SCVTF32(H+Q, H+Q); \
	FMUL32(24+Q, H+Q, H+Q); \
	FMUL32E(29, 0, H+Q, H+Q)

// SCALED ends a block: y = y + (I*d)*s.
#define SCALED(H, L, A, RECORD, Y) \
	FMOVS 64(RECORD), F29; \
	VLD1 (Y), [V16.B16, V17.B16, V18.B16, V19.B16]; \
	SCALE(H, L, 0); \
	SCALE(H, L, 1); \
	SCALE(H, L, 2); \
	SCALE(H, L, 3); \
	FADD32(H, 16, 16); \
	FADD32(H+1, 17, 17); \
	FADD32(H+2, 18, 18); \
	FADD32(H+3, 19, 19); \
	VST1 [V16.B16, V17.B16, V18.B16, V19.B16], (Y)

// OFFSETS ends a block: y = y + ((I*d)*s + m*sum), or - m*sum: OP is FADD32 or
// FSUB32.
#define OFFSETS(H, L, RECORD, Y, OP) \
	FMOVS 64(RECORD), F29; \
	FMOVS 68(RECORD), F28; \
	VLD1 (Y), [V16.B16, V17.B16, V18.B16, V19.B16]; \
	SCALE(H, L, 0); \
	SCALE(H, L, 1); \
	SCALE(H, L, 2); \
	SCALE(H, L, 3); \
	FMUL32E(28, 0, 20, L); \
	FMUL32E(28, 0, 21, L+1); \
	FMUL32E(28, 0, 22, L+2); \
	FMUL32E(28, 0, 23, L+3); \
	OP(L, H, H); \
	OP(L+1, H+1, H+1); \
	OP(L+2, H+2, H+2); \
	OP(L+3, H+3, H+3); \
	FADD32(H, 16, 16); \
	FADD32(H+1, 17, 17); \
	FADD32(H+2, 18, 18); \
	FADD32(H+3, 19, 19); \
	VST1 [V16.B16, V17.B16, V18.B16, V19.B16], (Y)
#define OFFSET(H, L, A, RECORD, Y) OFFSETS(H, L, RECORD, Y, FADD32)
#define MINUS(H, L, A, RECORD, Y) OFFSETS(H, L, RECORD, Y, FSUB32)
