package quant_test

import (
	"math"
	"testing"

	"kigo/engine/quant"
)

// Every half and every brain float converts to its value and back to itself.
func TestHalvesAndBack(t *testing.T) {
	for i := range 1 << 16 {
		h := uint16(i)
		if got, want := quant.Half(h), value(h, 5, 10); float64(got) != want && !(got != got && want != want) ||
			math.Signbit(float64(got)) != (h>>15 == 1) {
			t.Fatalf("Half(%#04x) = %v, want %v", h, got, want)
		}
		if got, want := quant.Brain(h), value(h, 8, 7); float64(got) != want && !(got != got && want != want) ||
			math.Signbit(float64(got)) != (h>>15 == 1) {
			t.Fatalf("Brain(%#04x) = %v, want %v", h, got, want)
		}
		if back := quant.ToHalf(quant.Half(h)); back != h {
			t.Fatalf("ToHalf(Half(%#04x)) = %#04x", h, back)
		}
		want := h
		if b := quant.Brain(h); b != b {
			want |= 0x40 // made quiet
		}
		if back := quant.ToBrain(quant.Brain(h)); back != want {
			t.Fatalf("ToBrain(Brain(%#04x)) = %#04x", h, back)
		}
	}
}

// value reads a 16-bit float by its definition: sign, exponent, fraction.
func value(h uint16, expBits, fracBits uint) float64 {
	bias := 1<<(expBits-1) - 1
	frac := float64(h & (1<<fracBits - 1))
	exp := int(h>>fracBits) & (1<<expBits - 1)
	sign := 1.0
	if h>>15 == 1 {
		sign = -1
	}
	switch {
	case exp == 0:
		return sign * math.Ldexp(frac, 1-bias-int(fracBits))
	case exp == 1<<expBits-1 && frac == 0:
		return math.Inf(int(sign))
	case exp == 1<<expBits-1:
		return math.NaN()
	}
	return sign * math.Ldexp(1+frac/math.Ldexp(1, int(fracBits)), exp-bias)
}

// Between neighbours: what lies nearer to one goes there, the middle to the even
// one. The neighbour of the largest number is infinity, which stands for the next
// power of two.
func TestRoundingIsToNearestEven(t *testing.T) {
	for _, c := range []struct {
		name string
		to   func(float32) uint16
		from func(uint16) float32
		inf  uint16
		next float64
	}{
		{"half", quant.ToHalf, quant.Half, 0x7c00, 65536},
		{"brain", quant.ToBrain, quant.Brain, 0x7f80, 0x1p128},
	} {
		for h := range c.inf {
			below, above := float64(c.from(h)), float64(c.from(h+1))
			if h+1 == c.inf {
				above = c.next
			}
			middle := float32((below + above) / 2) // one bit more than the format: exact
			even := h + h&1
			for _, sign := range []uint16{0, 0x8000} {
				s := float32(1)
				if sign != 0 {
					s = -1
				}
				if got := c.to(s * middle); got != even|sign {
					t.Fatalf("%s: the middle above %#04x goes to %#04x", c.name, h|sign, got)
				}
				if got := c.to(s * math.Nextafter32(middle, 0)); got != h|sign {
					t.Fatalf("%s: just below the middle above %#04x goes to %#04x", c.name, h|sign, got)
				}
				if got := c.to(s * math.Nextafter32(middle, math.MaxFloat32)); got != (h+1)|sign {
					t.Fatalf("%s: just above the middle above %#04x goes to %#04x", c.name, h|sign, got)
				}
			}
		}
		inf := float32(math.Inf(1))
		for _, f := range []float32{inf, math.MaxFloat32} {
			if c.to(f) != c.inf || c.to(-f) != c.inf|0x8000 {
				t.Errorf("%s: %v does not become infinite", c.name, f)
			}
		}
	}
	if quant.ToHalf(0x1p-149) != 0 || quant.ToHalf(-0x1p-149) != 0x8000 {
		t.Error("the smallest float32 does not become a half zero of its sign")
	}
}

// A NaN stays one, with its sign, even when its payload is in the low bits only.
func TestNaN(t *testing.T) {
	for _, bits := range []uint32{0x7fc00000, 0x7f800001, 0x7f801000, 0x7f802000, 0x7fffffff, 0xff800001, 0xffc12345} {
		f := math.Float32frombits(bits)
		sign := uint16(bits >> 16 & 0x8000)
		if h := quant.ToHalf(f); h&0x7fff <= 0x7c00 || h&0x8000 != sign {
			t.Errorf("ToHalf(%#x) = %#04x", bits, h)
		}
		if h := quant.ToBrain(f); h&0x7fff <= 0x7f80 || h&0x8000 != sign {
			t.Errorf("ToBrain(%#x) = %#04x", bits, h)
		}
	}
}
