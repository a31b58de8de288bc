package cpu

import (
	"encoding/binary"
	"unsafe"

	"kigo/engine/quant"
)

// unpack spreads one row of quantized blocks out into w, which has the row's
// size. Block layouts are described in package quant.
type unpack func(src []byte, w *unpacked)

// unpackers has a row for each format that stores small integers. It is never
// written.
var unpackers = map[quant.Type]unpack{
	quant.Q4_0: unpackQ4_0,
	quant.Q4_1: unpackQ4_1,
	quant.Q5_0: unpackQ5_0,
	quant.Q5_1: unpackQ5_1,
	quant.Q8_0: unpackQ8_0,
	quant.Q4_K: unpackQ4K,
	quant.Q5_K: unpackQ5K,
	quant.Q6_K: unpackQ6K,
}

// unpacked is a row of weights as small integers. Value i is
//
//	scale[i/16] * q[i] + offset[i/32]
//
// Formats with one scale to 32 values repeat it.
type unpacked struct {
	row     []byte // the row in its file's format
	q       []int8
	scale   []float32 // one to 16 values
	offset  []float32 // one to 32 values
	halves  bool      // the two scales of a block of 32 differ
	offsets bool      // offset is not all zero
}

func (w *unpacked) size(cols, rowBytes int) {
	w.row = sized(w.row, rowBytes)
	w.q = sized(w.q, cols)
	w.scale = sized(w.scale, cols/16)
	w.offset = sized(w.offset, cols/32)
	w.halves, w.offsets = false, false
}

// dot multiplies the row with quantized activations as product says.
func (w *unpacked) dot(records []byte) float32 {
	y := float32(0)
	for b := range w.offset {
		record := (*[recordBytes]byte)(records[b*recordBytes:])
		u, v := (*[32]int8)(w.q[b*32:]), (*[32]int16)(unsafe.Pointer(record))
		meta := (*[2]float32)(unsafe.Pointer(&record[recordScale]))
		switch {
		case w.halves:
			lo, hi := dot16((*[16]int8)(u[:16]), (*[16]int16)(v[:16])), dot16((*[16]int8)(u[16:]), (*[16]int16)(v[16:]))
			y += float32(float32(lo) * w.scale[2*b] * meta[0])
			y += float32(float32(hi) * w.scale[2*b+1] * meta[0])
		case w.offsets:
			y += float32(float32(dot32(u, v))*w.scale[2*b]*meta[0]) + float32(w.offset[b]*meta[1])
		default:
			y += float32(float32(dot32(u, v)) * w.scale[2*b] * meta[0])
		}
	}
	return y
}

// dot16 and dot32 are exact: 32 products of at most 2^7 by 2^15 fit 32 bits.
// They are written out because the compiler neither unrolls such a loop nor
// drops its bounds checks.
func dot16(a *[16]int8, b *[16]int16) int32 {
	s := int32(a[0])*int32(b[0]) + int32(a[1])*int32(b[1]) + int32(a[2])*int32(b[2]) + int32(a[3])*int32(b[3])
	t := int32(a[4])*int32(b[4]) + int32(a[5])*int32(b[5]) + int32(a[6])*int32(b[6]) + int32(a[7])*int32(b[7])
	s += int32(a[8])*int32(b[8]) + int32(a[9])*int32(b[9]) + int32(a[10])*int32(b[10]) + int32(a[11])*int32(b[11])
	t += int32(a[12])*int32(b[12]) + int32(a[13])*int32(b[13]) + int32(a[14])*int32(b[14]) + int32(a[15])*int32(b[15])
	return s + t
}

func dot32(a *[32]int8, b *[32]int16) int32 {
	s := int32(a[0])*int32(b[0]) + int32(a[1])*int32(b[1]) + int32(a[2])*int32(b[2]) + int32(a[3])*int32(b[3])
	t := int32(a[4])*int32(b[4]) + int32(a[5])*int32(b[5]) + int32(a[6])*int32(b[6]) + int32(a[7])*int32(b[7])
	s += int32(a[8])*int32(b[8]) + int32(a[9])*int32(b[9]) + int32(a[10])*int32(b[10]) + int32(a[11])*int32(b[11])
	t += int32(a[12])*int32(b[12]) + int32(a[13])*int32(b[13]) + int32(a[14])*int32(b[14]) + int32(a[15])*int32(b[15])
	s += int32(a[16])*int32(b[16]) + int32(a[17])*int32(b[17]) + int32(a[18])*int32(b[18]) + int32(a[19])*int32(b[19])
	t += int32(a[20])*int32(b[20]) + int32(a[21])*int32(b[21]) + int32(a[22])*int32(b[22]) + int32(a[23])*int32(b[23])
	s += int32(a[24])*int32(b[24]) + int32(a[25])*int32(b[25]) + int32(a[26])*int32(b[26]) + int32(a[27])*int32(b[27])
	t += int32(a[28])*int32(b[28]) + int32(a[29])*int32(b[29]) + int32(a[30])*int32(b[30]) + int32(a[31])*int32(b[31])
	return s + t
}

func half(b []byte) float32 { return quant.Half(binary.LittleEndian.Uint16(b)) }

// The unpackers work on eight values at a time, one to a byte of a word.
const (
	lowNibbles = 0x0f0f0f0f0f0f0f0f
	highBits   = 0x8080808080808080
	everyByte  = 0x0101010101010101
)

// put stores eight bytes as int8 values.
func put(q *[8]int8, v uint64) { *q = *(*[8]int8)(unsafe.Pointer(&v)) }

// minus subtracts n from each byte of v, which must all be below 128.
func minus(v uint64, n uint64) uint64 { return (v | highBits) - n*everyByte ^ highBits }

// nibbles spreads 16 bytes out: low nibbles to q[0:16], high ones to q[16:32],
// less bias.
func nibbles(src *[16]byte, q *[32]int8, bias uint64) {
	for j := 0; j < 16; j += 8 {
		v := load64(src[j:])
		put((*[8]int8)(q[j:]), minus(v&lowNibbles, bias))
		put((*[8]int8)(q[16+j:]), minus(v>>4&lowNibbles, bias))
	}
}

// load64 reads eight bytes in the machine's order, as put stores them.
func load64(b []byte) uint64 { return *(*uint64)(unsafe.Pointer((*[8]byte)(b))) }

// sixteens has, for each byte, 16 in byte i of a word if bit i is set. It is
// never written.
var sixteens = func() (t [256]uint64) {
	for v := range t {
		var b [8]byte
		for i := range b {
			b[i] = byte(v>>i&1) << 4
		}
		t[v] = load64(b[:])
	}
	return t
}()

// fives adds the fifth bits, bit i for value i, to the nibbles of 16 bytes.
func fives(src *[16]byte, bits uint32, q *[32]int8, bias uint64) {
	for j := 0; j < 16; j += 8 {
		v := load64(src[j:])
		put((*[8]int8)(q[j:]), minus(v&lowNibbles|sixteens[bits>>j&255], bias))
		put((*[8]int8)(q[16+j:]), minus(v>>4&lowNibbles|sixteens[bits>>(16+j)&255], bias))
	}
}

func unpackQ4_0(src []byte, w *unpacked) {
	for b := range w.offset {
		s := (*[18]byte)(src[b*18:])
		nibbles((*[16]byte)(s[2:]), (*[32]int8)(w.q[b*32:]), 8)
		d := half(s[:])
		w.scale[2*b], w.scale[2*b+1] = d, d
	}
}

func unpackQ4_1(src []byte, w *unpacked) {
	w.offsets = true
	for b := range w.offset {
		s := (*[20]byte)(src[b*20:])
		nibbles((*[16]byte)(s[4:]), (*[32]int8)(w.q[b*32:]), 0)
		d := half(s[:])
		w.scale[2*b], w.scale[2*b+1] = d, d
		w.offset[b] = half(s[2:])
	}
}

func unpackQ5_0(src []byte, w *unpacked) {
	for b := range w.offset {
		s := (*[22]byte)(src[b*22:])
		fives((*[16]byte)(s[6:]), binary.LittleEndian.Uint32(s[2:]), (*[32]int8)(w.q[b*32:]), 16)
		d := half(s[:])
		w.scale[2*b], w.scale[2*b+1] = d, d
	}
}

func unpackQ5_1(src []byte, w *unpacked) {
	w.offsets = true
	for b := range w.offset {
		s := (*[24]byte)(src[b*24:])
		fives((*[16]byte)(s[8:]), binary.LittleEndian.Uint32(s[4:]), (*[32]int8)(w.q[b*32:]), 0)
		d := half(s[:])
		w.scale[2*b], w.scale[2*b+1] = d, d
		w.offset[b] = half(s[2:])
	}
}

func unpackQ8_0(src []byte, w *unpacked) {
	for b := range w.offset {
		s := (*[34]byte)(src[b*34:])
		*(*[32]int8)(w.q[b*32:]) = *(*[32]int8)(unsafe.Pointer(&s[2]))
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
			for i := 0; i < 32; i += 8 {
				put((*[8]int8)(q[i:]), load64(bytes[i:])>>shift&lowNibbles)
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
			for i := 0; i < 32; i += 8 {
				fifth := load64(high[i:]) >> j & everyByte << 4
				put((*[8]int8)(q[i:]), load64(bytes[i:])>>shift&lowNibbles|fifth)
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
			const twoBits = 3 * everyByte
			for l := 0; l < 32; l += 8 {
				a, b, h := load64(low[l:]), load64(low[l+32:]), load64(high[l:])
				put((*[8]int8)(q[l:]), minus(a&lowNibbles|h&twoBits<<4, 32))
				put((*[8]int8)(q[l+32:]), minus(b&lowNibbles|h>>2&twoBits<<4, 32))
				put((*[8]int8)(q[l+64:]), minus(a>>4&lowNibbles|h>>4&twoBits<<4, 32))
				put((*[8]int8)(q[l+96:]), minus(b>>4&lowNibbles|h>>6&twoBits<<4, 32))
			}
		}
	}
}
