// NEON instructions that Go's assembler does not know, by their encodings, and the
// few others that are used with them. Registers are numbers: n and m are the
// operands, d is the result.

// AND16: d = n & m.
#define AND16(m, n, d) WORD $(0x4e201c00 | (m)<<16 | (n)<<5 | (d))
// ORR16: d = n | m.
#define ORR16(m, n, d) WORD $(0x4ea01c00 | (m)<<16 | (n)<<5 | (d))
// BIC16: d = n &^ m.
#define BIC16(m, n, d) WORD $(0x4e601c00 | (m)<<16 | (n)<<5 | (d))
// EOR16: d = n ^ m.
#define EOR16(m, n, d) WORD $(0x6e201c00 | (m)<<16 | (n)<<5 | (d))
// ADD32: d = n + m.
#define ADD32(m, n, d) WORD $(0x4ea08400 | (m)<<16 | (n)<<5 | (d))
// SUB32: d = n - m.
#define SUB32(m, n, d) WORD $(0x6ea08400 | (m)<<16 | (n)<<5 | (d))
// MUL32: d = n * m.
#define MUL32(m, n, d) WORD $(0x4ea09c00 | (m)<<16 | (n)<<5 | (d))
#define SMIN32(m, n, d) WORD $(0x4ea06c00 | (m)<<16 | (n)<<5 | (d))
#define SMAX32(m, n, d) WORD $(0x4ea06400 | (m)<<16 | (n)<<5 | (d))
#define UMAX32(m, n, d) WORD $(0x6ea06400 | (m)<<16 | (n)<<5 | (d))
// USHL8: bytes; n shifted left by m, right where m is negative.
#define USHL8(m, n, d) WORD $(0x6e204400 | (m)<<16 | (n)<<5 | (d))
// UZP1H: the even halfwords of n, then of m.
#define UZP1H(m, n, d) WORD $(0x4e401800 | (m)<<16 | (n)<<5 | (d))
// UZP1B: the even bytes of n, then of m.
#define UZP1B(m, n, d) WORD $(0x4e001800 | (m)<<16 | (n)<<5 | (d))
#define FADD32(m, n, d) WORD $(0x4e20d400 | (m)<<16 | (n)<<5 | (d))
// FSUB32: d = n - m.
#define FSUB32(m, n, d) WORD $(0x4ea0d400 | (m)<<16 | (n)<<5 | (d))
#define FMUL32(m, n, d) WORD $(0x6e20dc00 | (m)<<16 | (n)<<5 | (d))
// FDIV32: d = n / m.
#define FDIV32(m, n, d) WORD $(0x6e20fc00 | (m)<<16 | (n)<<5 | (d))
#define FMIN32(m, n, d) WORD $(0x4ea0f400 | (m)<<16 | (n)<<5 | (d))
#define FMAX32(m, n, d) WORD $(0x4e20f400 | (m)<<16 | (n)<<5 | (d))
// FCMGT32: all ones where n > m.
#define FCMGT32(m, n, d) WORD $(0x6ea0e400 | (m)<<16 | (n)<<5 | (d))
#define FADD64(m, n, d) WORD $(0x4e60d400 | (m)<<16 | (n)<<5 | (d))
#define FMUL64(m, n, d) WORD $(0x6e60dc00 | (m)<<16 | (n)<<5 | (d))
// SCVTF32: int32 to float32.
#define SCVTF32(n, d) WORD $(0x4e21d800 | (n)<<5 | (d))
// FCVTNS32: float32 to the nearest int32, ties to even.
#define FCVTNS32(n, d) WORD $(0x4e21a800 | (n)<<5 | (d))
// FCVTL: the first four halves to float32.
#define FCVTL(n, d) WORD $(0x0e217800 | (n)<<5 | (d))
// FCVTL2: the other four.
#define FCVTL2(n, d) WORD $(0x4e217800 | (n)<<5 | (d))
// FCVTL64: the first two float32 to float64.
#define FCVTL64(n, d) WORD $(0x0e617800 | (n)<<5 | (d))
// FCVTL264: the other two.
#define FCVTL264(n, d) WORD $(0x4e617800 | (n)<<5 | (d))
#define FABS32(n, d) WORD $(0x4ea0f800 | (n)<<5 | (d))
#define FNEG32(n, d) WORD $(0x6ea0f800 | (n)<<5 | (d))
// UMAXV32: the largest of four.
#define UMAXV32(n, d) WORD $(0x6eb0a800 | (n)<<5 | (d))
#define FMAXV32(n, d) WORD $(0x6e30f800 | (n)<<5 | (d))
// ADDV32: the sum of four.
#define ADDV32(n, d) WORD $(0x4eb1b800 | (n)<<5 | (d))
// Shifts of four words or of 16 bytes by s.
#define SHL32(s, n, d) WORD $(0x4f005400 | (32+(s))<<16 | (n)<<5 | (d))
#define USHR32(s, n, d) WORD $(0x6f000400 | (64-(s))<<16 | (n)<<5 | (d))
#define SSHR32(s, n, d) WORD $(0x4f000400 | (64-(s))<<16 | (n)<<5 | (d))
#define SHL8(s, n, d) WORD $(0x4f005400 | (8+(s))<<16 | (n)<<5 | (d))
#define USHR8(s, n, d) WORD $(0x6f000400 | (16-(s))<<16 | (n)<<5 | (d))
// FMUL32E: d = n times element e of m.
#define FMUL32E(m, e, n, d) WORD $(0x4f809000 | ((e)&1)<<21 | ((e)>>1)<<11 | (m)<<16 | (n)<<5 | (d))
// SDOT: each word of d is added to by the four signed bytes of n there times the
// four of word e of m.
#define SDOT(m, e, n, d) WORD $(0x4f80e000 | ((e)&1)<<21 | ((e)>>1)<<11 | (m)<<16 | (n)<<5 | (d))
#define ZERO16(d) EOR16(d, d, d)
#define MOV16(n, d) ORR16(n, n, d)
