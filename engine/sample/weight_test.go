package sample

import (
	"math"
	"math/big"
	"math/bits"
	"math/rand/v2"
	"testing"
)

// exact is 2^40 * exp(-d/t), to 200 bits.
func exact(d, t float64) *big.Float {
	num := func(x float64) *big.Float { return new(big.Float).SetPrec(200).SetFloat64(x) }
	x := new(big.Float).Quo(num(-d), num(t))
	const halvings = 40
	x.SetMantExp(x, -halvings)
	sum, term := num(1), num(1)
	for n := 1.0; n < 12; n++ {
		term.Mul(term, x).Quo(term, num(n))
		sum.Add(sum, term)
	}
	for range halvings {
		sum.Mul(sum, sum)
	}
	return sum.Mul(sum, num(one))
}

// Weights are the exact ones, rounded: for all exponents, and for temperatures from
// one end to the other.
func TestWeights(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	worst := 0.0
	for range 60_000 {
		temperature := float32(math.Exp2(rng.Float64()*20 - 13)) // up to 100 and a bit
		d := float32(rng.Float64() * 30 * float64(temperature))
		largest := float32(rng.NormFloat64() * 20)
		logit := largest - d
		w := weight(place(float64(largest), logit, log2e/float64(temperature)))
		off := new(big.Float).Sub(new(big.Float).SetUint64(w), exact(float64(largest)-float64(logit), float64(temperature)))
		f, _ := off.Float64()
		worst = max(worst, math.Abs(f))
	}
	if worst > 0.52 {
		t.Errorf("a weight is off by %.4f", worst)
	}
	if w := weight(place(5, 5, log2e)); w != one {
		t.Errorf("the most likely token's weight is %d", w)
	}
	for _, logit := range []float32{-30, -1e30, -math.MaxFloat32, negInf} {
		if w := weight(place(0, logit, log2e)); w != 0 {
			t.Errorf("%v: weight %d", logit, w)
		}
	}
	if math.MaxUint64/one < 2*maxVocab {
		t.Error("the weights of a vocabulary may overflow")
	}
}

// A larger logit never has a smaller weight, nor a later bin: at neighbouring places of
// all exponents, and where the calculation changes from one power of two to the next.
func TestWeightsAreMonotone(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	check := func(at float64) {
		for range 40 {
			next := math.Nextafter(at, math.Inf(1))
			if weight(next) > weight(at) || bin(next) < bin(at) {
				t.Fatalf("place %v: weight %d and bin %d, then %d and %d", at, weight(at), bin(at), weight(next), bin(next))
			}
			if at < lastPlace && (weight(at) == 0 || bin(at) < 0 || bin(at) >= bins) {
				t.Fatalf("place %v: weight %d, bin %d", at, weight(at), bin(at))
			}
			at = next
		}
	}
	for half := range 2 * (lastPlace - firstPlace) {
		edge := firstPlace + float64(half)/2
		check(max(firstPlace, edge-20*0x1p-45))
		for range 2000 {
			check(edge + rng.Float64()/2)
		}
	}
}

// Shares and points are whole numbers with a definition: checked against math/big.
func TestShares(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	for range 20_000 {
		sum := 1 + rng.Uint64()>>(1+rng.IntN(62))
		p := float32(math.Exp2(-39 * rng.Float64()))
		want := new(big.Float).SetPrec(200).SetUint64(sum)
		want.Mul(want, new(big.Float).SetFloat64(float64(p)))
		ceil, _ := want.Uint64()
		if !want.IsInt() {
			ceil++
		}
		if got := share(units(p), sum); got != max(1, ceil) {
			t.Fatalf("%v of %d: %d, want %d", p, sum, got, ceil)
		}
		random := rng.Uint64() >> rng.IntN(64)
		high, _ := bits.Mul64(random, sum)
		if got := point(random, sum); got != high+1 || got < 1 || got > sum {
			t.Fatalf("point %d of %d", got, sum)
		}
	}
	for _, p := range []float32{math.SmallestNonzeroFloat32, 1e-30, 0x1p-41} {
		if got := share(units(p), 1<<20); got != 1 {
			t.Errorf("%v: %d", p, got)
		}
	}
	if share(units(1), 77) != 77 || point(0, 5) != 1 || point(math.MaxUint64, 5) != 5 {
		t.Error("the ends")
	}
}

// Random bits at neighbouring positions and seeds have nothing to do with each other:
// about half of them differ.
func TestRandomBits(t *testing.T) {
	differ := 0
	for i := range uint64(10_000) {
		differ += bits.OnesCount64(random(3, i)^random(3, i+1)) + bits.OnesCount64(random(i, 7)^random(i+1, 7))
	}
	if mean := float64(differ) / 20_000; mean < 31.8 || mean > 32.2 {
		t.Errorf("%.2f of 64 bits differ", mean)
	}
}
