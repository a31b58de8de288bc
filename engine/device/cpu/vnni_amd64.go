package cpu

//go:noescape
func vnniQuantize(to *byte, from *float32, blocks int)

//go:noescape
func vnniSumSquares(v *float32, n int, sums *[8]float64)

//go:noescape
func vnniNorm(dst, src, gain *float32, scale float32, n int)

//go:noescape
func vnniScale(v *float32, scale float32, n int)

//go:noescape
func vnniAdd(dst, src *float32, n int)

//go:noescape
func vnniGate(gate, up *float32, n int)

//go:noescape
func vnniSoftmax(v *float32, n int) float32

//go:noescape
func vnniScoresx8(a *attention)

//go:noescape
func vnniScoresx4(a *attention)

//go:noescape
func vnniScoresx1(a *attention)

//go:noescape
func vnniWeighx8(a *attention)

//go:noescape
func vnniWeighx4(a *attention)

//go:noescape
func vnniWeighx1(a *attention)

//go:noescape
func vnniF32x8(p *product)

//go:noescape
func vnniF32x4(p *product)

//go:noescape
func vnniF32x2(p *product)

//go:noescape
func vnniF32x1(p *product)

//go:noescape
func vnniF16x8(p *product)

//go:noescape
func vnniF16x4(p *product)

//go:noescape
func vnniF16x2(p *product)

//go:noescape
func vnniF16x1(p *product)

//go:noescape
func vnniBF16x8(p *product)

//go:noescape
func vnniBF16x4(p *product)

//go:noescape
func vnniBF16x2(p *product)

//go:noescape
func vnniBF16x1(p *product)

//go:noescape
func vnniQ4_0x8(p *product)

//go:noescape
func vnniQ4_0x4(p *product)

//go:noescape
func vnniQ4_0x2(p *product)

//go:noescape
func vnniQ4_0x1(p *product)

//go:noescape
func vnniQ4_1x8(p *product)

//go:noescape
func vnniQ4_1x4(p *product)

//go:noescape
func vnniQ4_1x2(p *product)

//go:noescape
func vnniQ4_1x1(p *product)

//go:noescape
func vnniQ5_0x8(p *product)

//go:noescape
func vnniQ5_0x4(p *product)

//go:noescape
func vnniQ5_0x2(p *product)

//go:noescape
func vnniQ5_0x1(p *product)

//go:noescape
func vnniQ5_1x8(p *product)

//go:noescape
func vnniQ5_1x4(p *product)

//go:noescape
func vnniQ5_1x2(p *product)

//go:noescape
func vnniQ5_1x1(p *product)

//go:noescape
func vnniQ8_0x8(p *product)

//go:noescape
func vnniQ8_0x4(p *product)

//go:noescape
func vnniQ8_0x2(p *product)

//go:noescape
func vnniQ8_0x1(p *product)

//go:noescape
func vnniQ4_Kx8(p *product)

//go:noescape
func vnniQ4_Kx4(p *product)

//go:noescape
func vnniQ4_Kx2(p *product)

//go:noescape
func vnniQ4_Kx1(p *product)

//go:noescape
func vnniQ5_Kx8(p *product)

//go:noescape
func vnniQ5_Kx4(p *product)

//go:noescape
func vnniQ5_Kx2(p *product)

//go:noescape
func vnniQ5_Kx1(p *product)

//go:noescape
func vnniQ6_Kx8(p *product)

//go:noescape
func vnniQ6_Kx4(p *product)

//go:noescape
func vnniQ6_Kx2(p *product)

//go:noescape
func vnniQ6_Kx1(p *product)
