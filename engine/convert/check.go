package convert

import (
	"fmt"
	"math"
)

// Magnitudes as the bits of a float32.
const (
	largestHalf = 0x477fe000 // 65504
	infinite    = 0x7f800000
)

// bits returns a magnitude, ordered as the numbers are.
func bits(x float32) uint32 { return math.Float32bits(x) &^ (1 << 31) }

// check returns an error if the piece's values are not all finite, before and
// after their conversion.
func (p *piece) check() error {
	var largest uint32 // magnitude, as bits
	for _, x := range p.values {
		largest = max(largest, bits(x))
	}
	if largest >= infinite {
		return p.valueError("is not finite")
	}
	// Only magnitudes near the largest half can overflow a format's scales; they
	// are rare, and what became of them shows on the way back.
	if largest < largestHalf {
		return nil
	}
	p.job.dst.Dequantize(p.values, p.dst)
	for _, x := range p.values {
		if bits(x) >= infinite {
			return p.valueError("does not fit " + p.job.dst.Name)
		}
	}
	return nil
}

// valueError names the first of p.values that is not finite.
func (p *piece) valueError(what string) error {
	for i, x := range p.values {
		if bits(x) >= infinite {
			return fmt.Errorf("%w: tensor %.80q: element %d %s", ErrValue, p.job.from.Name, p.at+uint64(i), what)
		}
	}
	return nil
}
