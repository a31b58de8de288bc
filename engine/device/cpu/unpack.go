package cpu

import (
	"encoding/binary"

	"kigo/engine/quant"
)

// unpack spreads one row of quantized blocks out into w, which has the row's
// size. Block layouts are described in package quant.
type unpack func(src []byte, w *unpacked)

// unpacked is a row of weights as small integers. Value i is
//
//	scale[i/16] * q[i] + offset[i/32]
//
// Formats with one scale to 32 values repeat it.
type unpacked struct {
	q       []int8
	scale   []float32 // one to 16 values
	offset  []float32 // one to 32 values
	halves  bool      // the two scales of a block of 32 differ
	offsets bool      // offset is not all zero
}

func (w *unpacked) size(cols int) {
	w.q = sized(w.q, cols)
	w.scale = sized(w.scale, cols/16)
	w.offset = sized(w.offset, cols/32)
	w.halves, w.offsets = false, false
}

// dot multiplies the row with activations quantized in blocks of 32.
func (w *unpacked) dot(q []int8, scale, sum []float32) float32 {
	acc := float32(0)
	switch {
	case w.halves:
		for b := range scale {
			u, v := (*[32]int8)(w.q[b*32:]), (*[32]int8)(q[b*32:])
			lo, hi := dot16((*[16]int8)(u[:16]), (*[16]int8)(v[:16])), dot16((*[16]int8)(u[16:]), (*[16]int8)(v[16:]))
			acc += scale[b] * (w.scale[2*b]*float32(lo) + w.scale[2*b+1]*float32(hi))
		}
	case w.offsets:
		for b := range scale {
			u, v := (*[32]int8)(w.q[b*32:]), (*[32]int8)(q[b*32:])
			i := dot16((*[16]int8)(u[:16]), (*[16]int8)(v[:16])) + dot16((*[16]int8)(u[16:]), (*[16]int8)(v[16:]))
			acc += scale[b]*w.scale[2*b]*float32(i) + w.offset[b]*sum[b]
		}
	default:
		for b := range scale {
			u, v := (*[32]int8)(w.q[b*32:]), (*[32]int8)(q[b*32:])
			i := dot16((*[16]int8)(u[:16]), (*[16]int8)(v[:16])) + dot16((*[16]int8)(u[16:]), (*[16]int8)(v[16:]))
			acc += scale[b] * w.scale[2*b] * float32(i)
		}
	}
	return acc
}

// dot16 is the exact inner product of 16 pairs. Written out, because the
// compiler neither unrolls nor drops bounds checks in a loop here.
func dot16(a, b *[16]int8) int32 {
	return int32(a[0])*int32(b[0]) + int32(a[1])*int32(b[1]) + int32(a[2])*int32(b[2]) + int32(a[3])*int32(b[3]) +
		(int32(a[4])*int32(b[4]) + int32(a[5])*int32(b[5]) + int32(a[6])*int32(b[6]) + int32(a[7])*int32(b[7])) +
		(int32(a[8])*int32(b[8]) + int32(a[9])*int32(b[9]) + int32(a[10])*int32(b[10]) + int32(a[11])*int32(b[11])) +
		(int32(a[12])*int32(b[12]) + int32(a[13])*int32(b[13]) + int32(a[14])*int32(b[14]) + int32(a[15])*int32(b[15]))
}

func half(b []byte) float32 { return quant.Half(binary.LittleEndian.Uint16(b)) }

// nibbles spreads 16 bytes out: low nibbles to q[0:16], high ones to q[16:32].
func nibbles(src *[16]byte, q *[32]int8) {
	for j, b := range src {
		q[j] = int8(b & 15)
		q[j+16] = int8(b >> 4)
	}
}

func unpackQ4_0(src []byte, w *unpacked) {
	for b := range w.offset {
		s := (*[18]byte)(src[b*18:])
		q := (*[32]int8)(w.q[b*32:])
		nibbles((*[16]byte)(s[2:]), q)
		for i := range q {
			q[i] -= 8
		}
		d := half(s[:])
		w.scale[2*b], w.scale[2*b+1] = d, d
	}
}

func unpackQ4_1(src []byte, w *unpacked) {
	w.offsets = true
	for b := range w.offset {
		s := (*[20]byte)(src[b*20:])
		nibbles((*[16]byte)(s[4:]), (*[32]int8)(w.q[b*32:]))
		d := half(s[:])
		w.scale[2*b], w.scale[2*b+1] = d, d
		w.offset[b] = half(s[2:])
	}
}

// fifthBits adds bit i of bits to q[i] as 16, less minus.
func fifthBits(bits uint32, q *[32]int8, minus int8) {
	for i := range q {
		q[i] += int8(bits>>i&1)<<4 - minus
	}
}

func unpackQ5_0(src []byte, w *unpacked) {
	for b := range w.offset {
		s := (*[22]byte)(src[b*22:])
		q := (*[32]int8)(w.q[b*32:])
		nibbles((*[16]byte)(s[6:]), q)
		fifthBits(binary.LittleEndian.Uint32(s[2:]), q, 16)
		d := half(s[:])
		w.scale[2*b], w.scale[2*b+1] = d, d
	}
}

func unpackQ5_1(src []byte, w *unpacked) {
	w.offsets = true
	for b := range w.offset {
		s := (*[24]byte)(src[b*24:])
		q := (*[32]int8)(w.q[b*32:])
		nibbles((*[16]byte)(s[8:]), q)
		fifthBits(binary.LittleEndian.Uint32(s[4:]), q, 0)
		d := half(s[:])
		w.scale[2*b], w.scale[2*b+1] = d, d
		w.offset[b] = half(s[2:])
	}
}

func unpackQ8_0(src []byte, w *unpacked) {
	for b := range w.offset {
		s := (*[34]byte)(src[b*34:])
		q := (*[32]int8)(w.q[b*32:])
		for i := range q {
			q[i] = int8(s[2+i])
		}
		d := half(s[:])
		w.scale[2*b], w.scale[2*b+1] = d, d
	}
}

// kScales reads the 6-bit scale and minimum of sub-block j of Q4_K and Q5_K
// from their 12 bytes: the first four in the low six bits of bytes 0-3 and
// 4-7, the others in nibbles of bytes 8-11 with their top two bits above the
// first four's.
func kScales(s []byte, j int) (scale, low byte) {
	if j < 4 {
		return s[j] & 63, s[j+4] & 63
	}
	return s[j+4]&15 | s[j-4]>>6<<4, s[j+4]>>4 | s[j]>>6<<4
}

func unpackQ4K(src []byte, w *unpacked) {
	w.offsets = true
	for k := range len(w.q) / 256 {
		s := src[k*144:][:144]
		d, dmin := half(s), half(s[2:])
		for j := range 8 {
			scale, low := kScales(s[4:16], j)
			b := k*8 + j
			f := d * float32(scale)
			w.scale[2*b], w.scale[2*b+1] = f, f
			w.offset[b] = -(dmin * float32(low))
			bytes := (*[32]byte)(s[16+j/2*32:])
			q := (*[32]int8)(w.q[b*32:])
			shift := j & 1 * 4
			for i := range q {
				q[i] = int8(bytes[i] >> shift & 15)
			}
		}
	}
}

func unpackQ5K(src []byte, w *unpacked) {
	w.offsets = true
	for k := range len(w.q) / 256 {
		s := src[k*176:][:176]
		d, dmin := half(s), half(s[2:])
		high := (*[32]byte)(s[16:])
		for j := range 8 {
			scale, low := kScales(s[4:16], j)
			b := k*8 + j
			f := d * float32(scale)
			w.scale[2*b], w.scale[2*b+1] = f, f
			w.offset[b] = -(dmin * float32(low))
			bytes := (*[32]byte)(s[48+j/2*32:])
			q := (*[32]int8)(w.q[b*32:])
			shift := j & 1 * 4
			for i := range q {
				q[i] = int8(bytes[i]>>shift&15 | high[i]>>j&1<<4)
			}
		}
	}
}

func unpackQ6K(src []byte, w *unpacked) {
	w.halves = true
	for k := range len(w.q) / 256 {
		s := src[k*210:][:210]
		d := half(s[208:])
		for i := range 16 {
			w.scale[k*16+i] = d * float32(int8(s[192+i]))
		}
		for n := range 2 { // 128 values from 64 low bytes and 32 high bytes
			low, high := (*[64]byte)(s[n*64:]), (*[32]byte)(s[128+n*32:])
			q := (*[128]int8)(w.q[k*256+n*128:])
			for l := range 32 {
				h := high[l]
				q[l] = int8(low[l]&15|h&3<<4) - 32
				q[l+32] = int8(low[l+32]&15|h>>2&3<<4) - 32
				q[l+64] = int8(low[l]>>4|h>>4&3<<4) - 32
				q[l+96] = int8(low[l+32]>>4|h>>6<<4) - 32
			}
		}
	}
}
