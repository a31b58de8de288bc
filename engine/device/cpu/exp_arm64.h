// The constants of exp (scalar.go).
DATA exp<>+0x00(SB)/4, $0x42b00000 // 88
DATA exp<>+0x04(SB)/4, $0xc2ae0000 // -87
DATA exp<>+0x08(SB)/4, $0x3fb8aa3b // log2 e
DATA exp<>+0x0c(SB)/4, $0x4b400000 // 1.5 * 2^23
DATA exp<>+0x10(SB)/4, $0x3f318000 // ln 2, high part
DATA exp<>+0x14(SB)/4, $0xb95e8083 // low part
DATA exp<>+0x18(SB)/4, $0x39506967 // the polynomial
DATA exp<>+0x1c(SB)/4, $0x3ab743ce
DATA exp<>+0x20(SB)/4, $0x3c088908
DATA exp<>+0x24(SB)/4, $0x3d2aa9c1
DATA exp<>+0x28(SB)/4, $0x3e2aaaaa
DATA exp<>+0x2c(SB)/4, $0x3f000000
DATA exp<>+0x30(SB)/4, $0x3f800000 // 1
DATA exp<>+0x34(SB)/4, $0x80000000 // the sign
GLOBL exp<>(SB), RODATA|NOPTR, $56
