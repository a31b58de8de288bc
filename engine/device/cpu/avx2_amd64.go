package cpu

//go:noescape
func avx2Quantize(to *byte, from *float32, blocks int)

//go:noescape
func avx2SumSquares(v *float32, n int, sums *[8]float64)

//go:noescape
func avx2Norm(dst, src, gain *float32, scale float32, n int)

//go:noescape
func avx2Scale(v *float32, scale float32, n int)

//go:noescape
func avx2Add(dst, src *float32, n int)

//go:noescape
func avx2Gate(gate, up *float32, n int)

//go:noescape
func avx2Softmax(v *float32, n int) float32

//go:noescape
func avx2Scoresx4(a *attention)

//go:noescape
func avx2Scoresx1(a *attention)

//go:noescape
func avx2Weighx4(a *attention)

//go:noescape
func avx2Weighx1(a *attention)

//go:noescape
func avx2F32x4(p *product)

//go:noescape
func avx2F32x2(p *product)

//go:noescape
func avx2F32x1(p *product)

//go:noescape
func avx2F16x4(p *product)

//go:noescape
func avx2F16x2(p *product)

//go:noescape
func avx2F16x1(p *product)

//go:noescape
func avx2BF16x4(p *product)

//go:noescape
func avx2BF16x2(p *product)

//go:noescape
func avx2BF16x1(p *product)

//go:noescape
func avx2Q4_0x4(p *product)

//go:noescape
func avx2Q4_0x2(p *product)

//go:noescape
func avx2Q4_0x1(p *product)

//go:noescape
func avx2Q4_1x4(p *product)

//go:noescape
func avx2Q4_1x2(p *product)

//go:noescape
func avx2Q4_1x1(p *product)

//go:noescape
func avx2Q5_0x4(p *product)

//go:noescape
func avx2Q5_0x2(p *product)

//go:noescape
func avx2Q5_0x1(p *product)

//go:noescape
func avx2Q5_1x4(p *product)

//go:noescape
func avx2Q5_1x2(p *product)

//go:noescape
func avx2Q5_1x1(p *product)

//go:noescape
func avx2Q8_0x4(p *product)

//go:noescape
func avx2Q8_0x2(p *product)

//go:noescape
func avx2Q8_0x1(p *product)

//go:noescape
func avx2Q4_Kx4(p *product)

//go:noescape
func avx2Q4_Kx2(p *product)

//go:noescape
func avx2Q4_Kx1(p *product)

//go:noescape
func avx2Q5_Kx4(p *product)

//go:noescape
func avx2Q5_Kx2(p *product)

//go:noescape
func avx2Q5_Kx1(p *product)

//go:noescape
func avx2Q6_Kx4(p *product)

//go:noescape
func avx2Q6_Kx2(p *product)

//go:noescape
func avx2Q6_Kx1(p *product)
