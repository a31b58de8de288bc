package cuda

import (
	"fmt"
	"math/bits"

	"kigo/engine/device"
	"kigo/engine/quant"
	"kigo/kernels"
)

// tileRows is how many rows of a matrix lie interleaved (see kernels/layout.cuh).
const tileRows = 16

// tensorAlign is where tensors and their planes begin: the line size of the
// second-level cache, twice.
const tensorAlign = 256

// How the bytes of a format's blocks are spread over planes. kernels/formats.cuh
// reads the planes in this order: quants, high bits, scales, super-scales.
const (
	quantPlane = iota
	highPlane
	scalePlane
	superPlane
	planes
)

// segment says that bytes start to start+bytes of every block go to a plane.
type segment struct{ start, bytes, plane int }

// scheme is how the projection kernels take a format.
type scheme struct {
	typ      quant.Type
	kernel   string // one_, few_, many_ and wide_ of it
	stepCols int    // columns that a warp takes at once
	segments []segment
	units    [planes]int // bytes of a row in a unit of each plane, a power of two; 0: the format has none
	pieces   [planes]int // bytes of a lane's piece, in planes of fragments
	scales   []number    // by which its scales are bounded; none: it has no scales
}

// schemes is the table of tiled formats, all but F32. It is never written.
var schemes = [...]scheme{
	{typ: quant.F16, kernel: "f16", stepCols: 16, segments: []segment{{0, 2, quantPlane}},
		units: [planes]int{quantPlane: 32}, pieces: [planes]int{quantPlane: 8}},
	{typ: quant.BF16, kernel: "bf16", stepCols: 16, segments: []segment{{0, 2, quantPlane}},
		units: [planes]int{quantPlane: 32}, pieces: [planes]int{quantPlane: 8}},
	{typ: quant.Q4_0, kernel: "q4_0", stepCols: 64, segments: []segment{{0, 2, scalePlane}, {2, 16, quantPlane}}, scales: []number{{0, 1}},
		units: [planes]int{quantPlane: 32, scalePlane: 4}, pieces: [planes]int{quantPlane: 4}},
	{typ: quant.Q4_1, kernel: "q4_1", stepCols: 64, segments: []segment{{0, 4, scalePlane}, {4, 16, quantPlane}}, scales: []number{{0, 1}, {2, minimum}},
		units: [planes]int{quantPlane: 32, scalePlane: 8}, pieces: [planes]int{quantPlane: 4}},
	{typ: quant.Q5_0, kernel: "q5_0", stepCols: 64, segments: []segment{{0, 2, scalePlane}, {2, 4, highPlane}, {6, 16, quantPlane}}, scales: []number{{0, 1}},
		units: [planes]int{quantPlane: 32, highPlane: 8, scalePlane: 4}, pieces: [planes]int{quantPlane: 4}},
	{typ: quant.Q5_1, kernel: "q5_1", stepCols: 64, segments: []segment{{0, 4, scalePlane}, {4, 4, highPlane}, {8, 16, quantPlane}}, scales: []number{{0, 1}, {2, minimum}},
		units: [planes]int{quantPlane: 32, highPlane: 8, scalePlane: 8}, pieces: [planes]int{quantPlane: 4}},
	{typ: quant.Q8_0, kernel: "q8_0", stepCols: 32, segments: []segment{{0, 2, scalePlane}, {2, 32, quantPlane}}, scales: []number{{0, 1}},
		units: [planes]int{quantPlane: 32, scalePlane: 2}, pieces: [planes]int{quantPlane: 4}},
	{typ: quant.Q4_K, kernel: "q4_k", stepCols: 256, segments: []segment{{0, 16, scalePlane}, {16, 128, quantPlane}}, scales: []number{{0, 63}, {2, 63 * minimum}},
		units: [planes]int{quantPlane: 32, scalePlane: 16}, pieces: [planes]int{quantPlane: 4}},
	{typ: quant.Q5_K, kernel: "q5_k", stepCols: 256, segments: []segment{{0, 16, scalePlane}, {16, 32, highPlane}, {48, 128, quantPlane}}, scales: []number{{0, 63}, {2, 63 * minimum}},
		units: [planes]int{quantPlane: 32, highPlane: 32, scalePlane: 16}, pieces: [planes]int{quantPlane: 4, highPlane: 4}},
	{typ: quant.Q6_K, kernel: "q6_k", stepCols: 256, segments: []segment{{0, 128, quantPlane}, {128, 64, highPlane}, {192, 16, scalePlane}, {208, 2, superPlane}}, scales: []number{{208, 128}},
		units: [planes]int{quantPlane: 32, highPlane: 32, scalePlane: 16, superPlane: 2}, pieces: [planes]int{quantPlane: 4, highPlane: 4}},
}

func schemeOf(t quant.Type) *scheme {
	for i := range schemes {
		if schemes[i].typ == t {
			return &schemes[i]
		}
	}
	return nil
}

// placement is where one tensor lies in a model's allocation.
type placement struct {
	tensor device.Tensor
	scheme *scheme // nil: as in the file, which only F32 is
	offset uint64  // in the allocation
	bytes  uint64  // on the device, with what fills up tiles
	plane  [planes]kernels.Plane
}

// place lays a tensor out at an offset, which is aligned.
func place(t device.Tensor, offset uint64) (placement, error) {
	p := placement{tensor: t, offset: offset}
	if t.Format.Type == quant.F32 {
		p.bytes = align(uint64(t.Bytes()), tensorAlign)
		return p, nil
	}
	p.scheme = schemeOf(t.Format.Type)
	if p.scheme == nil {
		return p, fmt.Errorf("%w: tensor %q has the format %s, for which there are no kernels", device.ErrNotSupported, t.Name, t.Format.Name)
	}
	steps := uint64(p.steps())
	tiles := uint64((t.Rows + tileRows - 1) / tileRows)
	blocks := uint64(t.Cols / t.Format.BlockSize)
	for _, s := range p.scheme.segments {
		unit := uint64(p.scheme.units[s.plane])
		// Steps are whole in every plane, so that kernels need not look for a
		// row's end.
		inStep := uint64(p.scheme.stepCols / t.Format.BlockSize * s.bytes)
		units := max(steps*inStep/unit, (blocks*uint64(s.bytes)+unit-1)/unit)
		p.plane[s.plane] = kernels.Plane{
			Offset: p.bytes,
			Unit:   uint32(unit),
			Units:  uint32(units),
			Piece:  uint32(p.scheme.pieces[s.plane]),
			Shift:  uint32(bits.TrailingZeros64(unit)),
		}
		p.bytes = align(p.bytes+tiles*units*tileRows*unit, tensorAlign)
	}
	return p, nil
}

// steps is how many loads of a warp a row of the matrix takes.
func (p *placement) steps() int {
	return (p.tensor.Cols + p.scheme.stepCols - 1) / p.scheme.stepCols
}

// stepBytes is what a warp takes of a tile at once.
func (p *placement) stepBytes() int {
	f := p.tensor.Format
	return p.scheme.stepCols * tileRows / f.BlockSize * f.BlockBytes
}

// layout is what the kernels want to know, for a tensor of the allocation at base.
func (p *placement) layout(base uint64) kernels.Layout {
	f := p.tensor.Format
	l := kernels.Layout{
		Base:       base + p.offset,
		Size:       uint64(p.tensor.Bytes()),
		RowBytes:   uint32(p.tensor.Cols / f.BlockSize * f.BlockBytes),
		BlockBytes: uint32(f.BlockBytes),
		BlockSize:  uint32(f.BlockSize),
		Format:     uint32(f.Type),
		Cols:       uint32(p.tensor.Cols),
		Plane:      p.plane,
	}
	if p.scheme != nil {
		l.Segments = uint32(len(p.scheme.segments))
		for i, s := range p.scheme.segments {
			l.Segment[i] = kernels.Segment{Start: uint32(s.start), Bytes: uint32(s.bytes), Plane: uint32(s.plane)}
		}
	}
	return l
}

func align(n, to uint64) uint64 { return (n + to - 1) / to * to }
