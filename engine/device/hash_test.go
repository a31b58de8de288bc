package device_test

import (
	"encoding/binary"
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

// The definition, word by word, against whatever this processor hashes with.
func TestHashIsAsDefined(t *testing.T) {
	b := make([]byte, 2000)
	rng := rand.New(rand.NewPCG(5, 6))
	for i := range b {
		b[i] = byte(rng.Uint32())
	}
	for n := range len(b) {
		off := n % 5 * 8
		want := uint64(0)
		for at := 0; at < n; at += 8 {
			var w [8]byte
			copy(w[:], b[at:n])
			x := binary.LittleEndian.Uint64(w[:]) + uint64((off+at)/8)*0x9e3779b97f4a7c15
			x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
			x = (x ^ x>>27) * 0x94d049bb133111eb
			want += x ^ x>>31
		}
		var h device.Hash
		h.Add(off, b[:n])
		if uint64(h) != want {
			t.Fatalf("%d bytes at %d: %x, want %x", n, off, uint64(h), want)
		}
	}
}

func BenchmarkHash(b *testing.B) {
	p := make([]byte, 256<<10)
	b.SetBytes(int64(len(p)))
	for b.Loop() {
		sum(p)
	}
}
