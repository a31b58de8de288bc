package cpu

import (
	"fmt"
	"os"
	"strings"

	"kigo/engine/quant"
)

// path is one way to compute: plain Go, or the vector instructions of one kind
// of processor. All of them but the reference give the same bits, because what
// they share is fixed: integer sums are exact, a float sum has one order, and
// a product is rounded before it is added (no fused multiply-add).
//
// Vectors have lengths in values. Those marked 16 take multiples of 16 only,
// so that the functions need no tails; the methods of path cut them off.
type path struct {
	name  string
	tails *path // does what is left of a vector: the scalar path, as a rule

	// quantize writes blocks records of 32 values each.
	quantize func(to *byte, from *float32, blocks int)
	// integers gives the integers of a record in order; nil where they are.
	integers func(record *[64]byte) [blockLen]int16

	// product multiplies panels of a matrix with rows of activations.
	product map[quant.Type]func(*product)

	// scores multiplies tile queries with the keys of 16 positions.
	scores func(*attention)
	// weigh adds weighted values to the results of tile queries.
	weigh func(*attention)
	// softmax makes exponentials of v[:16*n] in place, less the largest, and
	// returns their sum, in 16 interleaved sums.
	softmax func(v *float32, n int) float32

	sumSquares16 func(v *float32, n int, sums *[8]float64)           // in 8 interleaved sums
	norm16       func(dst, src, gain *float32, scale float32, n int) // src * scale * gain
	scale16      func(v *float32, scale float32, n int)
	add16        func(dst, src *float32, n int)
	gate16       func(gate, up *float32, n int) // gate = silu(gate) * up
}

// pathVariable forces a path: what it names must be one that the processor has.
const pathVariable = "KIGO_CPU"

// choosePath returns the path of that name, or the fastest that the processor
// has.
func choosePath(name string) (*path, error) {
	if name == "" {
		name = os.Getenv(pathVariable)
	}
	var names []string
	for _, p := range paths() {
		if name == "" || name == p.name {
			return p, nil
		}
		names = append(names, p.name)
	}
	return nil, fmt.Errorf("CPU path %.32q: this processor has %s", name, strings.Join(names, ", "))
}

// Paths lists what this processor can compute with, the fastest first.
func Paths() []string {
	var names []string
	for _, p := range paths() {
		names = append(names, p.name)
	}
	return names
}

// The methods cover any length.

// sumSquares needs sums as memory.
func (p *path) sumSquares(v []float32, sums *[8]float64) float64 {
	clear(sums[:])
	n := len(v) &^ 15
	if n > 0 {
		p.sumSquares16(&v[0], n, sums)
	}
	for i, a := range v[n:] {
		sums[i%8] += float64(a) * float64(a)
	}
	return ((sums[0] + sums[4]) + (sums[2] + sums[6])) + ((sums[1] + sums[5]) + (sums[3] + sums[7]))
}

func (p *path) norm(dst, src, gain []float32, scale float32) {
	n := len(src) &^ 15
	if n > 0 {
		p.norm16(&dst[0], &src[0], &gain[0], scale, n)
	}
	if n < len(src) {
		p.tails.norm16(&dst[n], &src[n], &gain[n], scale, len(src)-n)
	}
}

func (p *path) scale(v []float32, scale float32) {
	n := len(v) &^ 15
	if n > 0 {
		p.scale16(&v[0], scale, n)
	}
	if n < len(v) {
		p.tails.scale16(&v[n], scale, len(v)-n)
	}
}

func (p *path) add(dst, src []float32) {
	n := len(dst) &^ 15
	if n > 0 {
		p.add16(&dst[0], &src[0], n)
	}
	if n < len(dst) {
		p.tails.add16(&dst[n], &src[n], len(dst)-n)
	}
}

func (p *path) gate(gate, up []float32) {
	n := len(gate) &^ 15
	if n > 0 {
		p.gate16(&gate[0], &up[0], n)
	}
	if n < len(gate) {
		p.tails.gate16(&gate[n], &up[n], len(gate)-n)
	}
}
