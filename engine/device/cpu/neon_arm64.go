package cpu

//go:noescape
func neonQuantize(to *byte, from *float32, blocks int)

//go:noescape
func neonSumSquares(v *float32, n int, sums *[8]float64)

//go:noescape
func neonNorm(dst, src, gain *float32, scale float32, n int)

//go:noescape
func neonScale(v *float32, scale float32, n int)

//go:noescape
func neonAdd(dst, src *float32, n int)

//go:noescape
func neonGate(gate, up *float32, n int)

//go:noescape
func neonSoftmax(v *float32, n int) float32

//go:noescape
func neonScoresx4(a *attention)

//go:noescape
func neonScoresx1(a *attention)

//go:noescape
func neonWeighx4(a *attention)

//go:noescape
func neonWeighx1(a *attention)

//go:noescape
func neonF32x2(p *product)

//go:noescape
func neonF32x1(p *product)

//go:noescape
func neonF16x2(p *product)

//go:noescape
func neonF16x1(p *product)

//go:noescape
func neonBF16x2(p *product)

//go:noescape
func neonBF16x1(p *product)

//go:noescape
func neonQ4_0x2(p *product)

//go:noescape
func neonQ4_0x1(p *product)

//go:noescape
func neonQ4_1x2(p *product)

//go:noescape
func neonQ4_1x1(p *product)

//go:noescape
func neonQ5_0x2(p *product)

//go:noescape
func neonQ5_0x1(p *product)

//go:noescape
func neonQ5_1x2(p *product)

//go:noescape
func neonQ5_1x1(p *product)

//go:noescape
func neonQ8_0x2(p *product)

//go:noescape
func neonQ8_0x1(p *product)

//go:noescape
func neonQ4_Kx2(p *product)

//go:noescape
func neonQ4_Kx1(p *product)

//go:noescape
func neonQ5_Kx2(p *product)

//go:noescape
func neonQ5_Kx1(p *product)

//go:noescape
func neonQ6_Kx2(p *product)

//go:noescape
func neonQ6_Kx1(p *product)
