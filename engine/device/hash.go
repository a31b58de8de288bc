package device

import "encoding/binary"

// Hash is a 64-bit, position-dependent hash of a tensor's bytes. It is a sum
// of independently mixed words, so parts can be hashed in any order, by any
// number of threads, on any processor, and added up:
//
//	hash = sum over 8-byte little-endian words w at index i of mix(w + i*odd)
//
// with the last word zero-padded. The mixing function is the finalizer of
// SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number
// generators", 2014), a bijection: a single changed word always changes the
// sum, and two swapped words do so unless two mixes collide. It is a guard
// against mistakes and broken memory, not against an adversary.
type Hash uint64

const (
	hashStep = 0x9e3779b97f4a7c15
	hashMul1 = 0xbf58476d1ce4e5b9
	hashMul2 = 0x94d049bb133111eb
)

// Add mixes in the bytes p that stand at byte offset off of the tensor. off
// must be a multiple of 8, and so must len(p) unless p ends the tensor.
func (h *Hash) Add(off int, p []byte) {
	index := uint64(off/8) * hashStep
	sum := uint64(0)
	if n := len(p) &^ 63; vectors && n > 0 {
		sum = sumLines(&p[0], n, index)
		index += uint64(n/8) * hashStep
		p = p[n:]
	}
	for len(p) >= 8 {
		sum += mix(binary.LittleEndian.Uint64(p) + index)
		index += hashStep
		p = p[8:]
	}
	if len(p) > 0 {
		var last [8]byte
		copy(last[:], p)
		sum += mix(binary.LittleEndian.Uint64(last[:]) + index)
	}
	*h += Hash(sum)
}

func mix(x uint64) uint64 {
	x = (x ^ x>>30) * hashMul1
	x = (x ^ x>>27) * hashMul2
	return x ^ x>>31
}
