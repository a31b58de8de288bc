package sample

import (
	"math"
	"math/bits"
)

// A token's weight is its probability times a factor that all share, as a whole
// number: 2^40 * exp((logit - largest) / temperature), rounded to the nearest. Sums of
// whole numbers are the same in any order, so every device draws the same token of the
// same logits, however many parts it sums them in. All steps from logit to weight are
// operations of IEEE 754 in float64, each rounded once to nearest, in the order that
// stands here and in kernels/weight.cuh; no library function is among them.
//
// The weights of a vocabulary of at most [maxVocab] tokens do not overflow 64 bits,
// nor 63.
const (
	one      = 1 << 40 // the weight of the most likely token
	maxVocab = 1 << 22
)

// A place is 128 plus the binary logarithm of 2^40 over the weight. From 128 to twice
// that, the last bit of a float64 is worth 2^-45, so the bits of a place are a fixed
// point number. From lastPlace on, weights are below one half, which is rounded to 0.
const (
	firstPlace = 128
	lastPlace  = firstPlace + 41
	fraction   = 1<<52 - 1
)

// log2e is 1 / ln 2, rounded to float64.
const log2e = float64(1 / math.Ln2)

// place is where a logit is, which must be at most the largest. It is below firstPlace
// or NaN when either is not a number.
func place(largest float64, logit float32, scale float64) float64 {
	return math.FMA(largest-float64(logit), scale, firstPlace)
}

// weight is that of a place from firstPlace on: 2^(40+128-place), to within 0.52.
//
// Of a higher place it is never larger: neighbouring places' exact weights differ by
// more than what the steps before the last rounding can be wrong by.
func weight(place float64) uint64 {
	if place >= lastPlace {
		return 0
	}
	// 2^52 has no room for a fraction: what it is added to is rounded.
	whole := place + 0x1p52
	x := whole - 0x1p52 - place // from -1/2 to 1/2, exact
	// 2^x by the Taylor series of exp(x ln 2) up to x^12, whose rest is below 2^-52.
	const l = math.Ln2
	y := float64(l * l * l * l * l * l * l * l * l * l * l * l / 479001600)
	y = math.FMA(y, x, l*l*l*l*l*l*l*l*l*l*l/39916800)
	y = math.FMA(y, x, l*l*l*l*l*l*l*l*l*l/3628800)
	y = math.FMA(y, x, l*l*l*l*l*l*l*l*l/362880)
	y = math.FMA(y, x, l*l*l*l*l*l*l*l/40320)
	y = math.FMA(y, x, l*l*l*l*l*l*l/5040)
	y = math.FMA(y, x, l*l*l*l*l*l/720)
	y = math.FMA(y, x, l*l*l*l*l/120)
	y = math.FMA(y, x, l*l*l*l/24)
	y = math.FMA(y, x, l*l*l/6)
	y = math.FMA(y, x, l*l/2)
	y = math.FMA(y, x, l)
	y = math.FMA(y, x, 1)
	// A power of two, so that the product is exact; 2^52 rounds it.
	power := math.Float64frombits((1023 + 40 + firstPlace - math.Float64bits(whole)&fraction) << 52)
	return math.Float64bits(y*power+0x1p52) & fraction
}

// Bins part the places, 64 to each halving of the weight.
const bins = (lastPlace - firstPlace) * 64

func bin(place float64) int { return int(math.Float64bits(place) & fraction >> 39) }

// share is the least whole number that is at least a share of sum, and at least 1. The
// share is in units of 2^-64, and 0 stands for all.
func share(of, sum uint64) uint64 {
	if of == 0 {
		return sum
	}
	whole, rest := bits.Mul64(of, sum)
	if rest > 0 {
		whole++
	}
	return whole
}

// units is a number above 0 and up to 1 as share takes it; it is exact from 2^-40 on.
func units(p float32) uint64 {
	if p >= 1 {
		return 0
	}
	return max(1, uint64(float64(p)*0x1p64))
}

// point makes of a sum and 64 random bits the number that a prefix sum has to reach
// for its token to be drawn: from 1 to the sum.
func point(random, sum uint64) uint64 {
	high, _ := bits.Mul64(random, sum)
	return high + 1
}
