package quant

import (
	"encoding/binary"
	"math/rand/v2"
)

// Random fills dst, which holds whole blocks, with valid random content whose
// values have about the given standard deviation and a mean near zero. It
// serves synthetic models and tests: the bits have the entropy of real
// weights, so that nothing runs faster or slower on them than in earnest.
func (f *Format) Random(dst []byte, deviation float32, rng *rand.Rand) {
	if f.BlockSize == 1 {
		v := make([]float32, len(dst)/f.BlockBytes)
		for i := range v {
			v[i] = float32(rng.NormFloat64()) * deviation
		}
		f.Quantize(dst, v)
		return
	}
	var word [8]byte
	for rest := dst; len(rest) > 0; {
		binary.LittleEndian.PutUint64(word[:], rng.Uint64())
		rest = rest[copy(rest, word[:]):]
	}
	s := scalesOf(f.Type)
	for b := 0; b+f.BlockBytes <= len(dst); b += f.BlockBytes {
		// Vary the scales by up to a quarter either way.
		d := deviation * s.unit * (0.75 + rng.Float32()/2)
		putHalf(dst[b+s.at:], d)
		if s.minAt >= 0 {
			putHalf(dst[b+s.minAt:], d*s.min)
		}
	}
}

// scales says where a block's own scale and minimum are, which value of the
// scale gives uniformly random integers a standard deviation of 1, and which
// multiple of it as a minimum a mean of 0.
type scales struct {
	at, minAt int
	unit, min float32
}

// A uniform integer of n values deviates by n/sqrt(12) from its mean. In the
// K formats it is multiplied by a uniform sub-block scale: 0 to 63 unsigned
// (root mean square 36.7), or -128 to 127.
func scalesOf(t Type) scales {
	switch t {
	case Q4_0:
		return scales{at: 0, minAt: -1, unit: 1 / 4.62}
	case Q4_1:
		return scales{at: 0, minAt: 2, unit: 1 / 4.62, min: -7.5}
	case Q5_0:
		return scales{at: 0, minAt: -1, unit: 1 / 9.24}
	case Q5_1:
		return scales{at: 0, minAt: 2, unit: 1 / 9.24, min: -15.5}
	case Q4_K:
		return scales{at: 0, minAt: 2, unit: 1 / (36.7 * 4.62), min: 7.5}
	case Q5_K:
		return scales{at: 0, minAt: 2, unit: 1 / (36.7 * 9.24), min: 15.5}
	case Q6_K:
		return scales{at: 208, minAt: -1, unit: 1 / (73.9 * 18.5)}
	default: // Q8_0
		return scales{at: 0, minAt: -1, unit: 1 / 73.9}
	}
}
