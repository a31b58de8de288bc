package quant

import "math"

// Half converts an IEEE 754 binary16 number to float32. Every half is a float32,
// so the result is exact; a NaN keeps its sign and payload.
func Half(h uint16) float32 {
	sign := uint32(h&0x8000) << 16
	exp, frac := h>>10&0x1f, uint32(h&0x3ff)
	switch exp {
	case 0: // zero and subnormals: frac units of 2^-24
		f := float32(frac) * 0x1p-24
		return math.Float32frombits(sign | math.Float32bits(f))
	case 0x1f:
		return math.Float32frombits(sign | 0x7f800000 | frac<<13)
	}
	return math.Float32frombits(sign | (uint32(exp)+127-15)<<23 | frac<<13)
}

// ToHalf converts a float32 to binary16, rounding to nearest, ties to even. What
// rounds to 65536 or more becomes infinite. A NaN keeps its sign and the top ten
// bits of its payload, or 1 where those are zero.
func ToHalf(f float32) uint16 {
	b := math.Float32bits(f)
	sign := uint16(b >> 16 & 0x8000)
	b &= 0x7fffffff
	switch {
	case b > 0x7f800000:
		return sign | 0x7c00 | max(uint16(b>>13&0x3ff), 1)
	case b >= 0x477ff000: // 65520, half way between the largest half and 65536
		return sign | 0x7c00
	case b < 0x38800000: // below 2^-14: a half subnormal
		// The unit in the last place of 0.5 is 2^-24, that of the subnormals: the
		// sum rounds there, and its low bits are the result.
		sum := math.Float32frombits(b) + 0.5
		return sign | uint16(math.Float32bits(sum)-0x3f000000)
	}
	b += 0xfff + b>>13&1
	return sign | uint16((b-(127-15)<<23)>>13)
}

// Brain converts a bfloat16 number (the upper half of a float32) to float32.
func Brain(h uint16) float32 {
	return math.Float32frombits(uint32(h) << 16)
}

// ToBrain converts a float32 to bfloat16, rounding to nearest, ties to even. A
// NaN keeps its sign and the top bits of its payload, and is made quiet.
func ToBrain(f float32) uint16 {
	b := math.Float32bits(f)
	if b&0x7fffffff > 0x7f800000 {
		return uint16(b>>16) | 0x40
	}
	return uint16((b + 0x7fff + b>>16&1) >> 16)
}

// halfAt reads the little-endian binary16 number at the start of b.
func halfAt(b []byte) float32 {
	return Half(uint16(b[0]) | uint16(b[1])<<8)
}

// putHalf writes f as a little-endian binary16 number at the start of b.
func putHalf(b []byte, f float32) {
	h := ToHalf(f)
	b[0], b[1] = byte(h), byte(h>>8)
}
