package cpu

import (
	"encoding/binary"
	"math"
	"testing"

	"kigo/engine/quant"
)

func TestExpandF16IsExactForEveryHalf(t *testing.T) {
	src := make([]byte, 2<<16)
	for h := range 1 << 16 {
		binary.LittleEndian.PutUint16(src[2*h:], uint16(h))
	}
	dst := make([]float32, 1<<16)
	expandF16(dst, src)
	for h, got := range dst {
		if want := quant.Half(uint16(h)); math.Float32bits(got) != math.Float32bits(want) {
			t.Fatalf("half %04x is %v, want %v", h, got, want)
		}
	}
}
