package device_test

import (
	"math/rand/v2"
	"testing"

	"kigo/engine/device"
)

func sum(b []byte) device.Hash {
	var h device.Hash
	h.Add(0, b)
	return h
}

func TestHashDependsOnEveryBitAndPosition(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	b := make([]byte, 61)
	for i := range b {
		b[i] = byte(rng.Uint32())
	}
	want := sum(b)
	seen := map[device.Hash]string{want: "original"}
	for bit := range len(b) * 8 {
		b[bit/8] ^= 1 << (bit % 8)
		h := sum(b)
		if other, ok := seen[h]; ok {
			t.Errorf("bit %d flipped hashes like %s", bit, other)
		}
		seen[h] = "a flipped bit"
		b[bit/8] ^= 1 << (bit % 8)
	}
	for i := 0; i+16 <= len(b); i += 8 { // neighbours swapped
		swapped := append([]byte(nil), b...)
		copy(swapped[i:], b[i+8:i+16])
		copy(swapped[i+8:], b[i:i+8])
		if sum(swapped) == want {
			t.Errorf("words %d and %d can be swapped", i/8, i/8+1)
		}
	}
}

func TestHashOfPartsInAnyOrder(t *testing.T) {
	b := make([]byte, 1000)
	for i := range b {
		b[i] = byte(i * 7)
	}
	var h device.Hash
	for _, cut := range [][2]int{{504, 1000}, {0, 8}, {8, 504}} {
		h.Add(cut[0], b[cut[0]:cut[1]])
	}
	if h != sum(b) {
		t.Errorf("parts give %x, the whole %x", h, sum(b))
	}
}
