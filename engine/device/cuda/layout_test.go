package cuda

import (
	"errors"
	"fmt"
	"testing"

	"kigo/engine/device"
	"kigo/engine/quant"
	"kigo/kernels"
)

// locate is kernels/layout.cuh's, in Go: the address of a byte of a row.
func locate(l *kernels.Layout, row, at int) uint64 {
	if l.Segments == 0 {
		return l.Base + uint64(row)*uint64(l.RowBytes) + uint64(at)
	}
	block, j := at/int(l.BlockBytes), at%int(l.BlockBytes)
	s := 0
	for s+1 < int(l.Segments) && j >= int(l.Segment[s+1].Start) {
		s++
	}
	seg := l.Segment[s]
	p := l.Plane[seg.Plane]
	in := block*int(seg.Bytes) + j - int(seg.Start)
	unit := in >> p.Shift
	in &= int(p.Unit) - 1
	r := row % tileRows
	inner := 0
	if p.Piece > 0 {
		lane, word, b := r%8*4+in/4%4, r/8*2+in/16, in%4
		if p.Piece == 8 {
			n := in / 2 % 4 // of the lane's k, in the order 0, 2, 1, 3
			lane, word, b = r%8*4+in/8, n%2*2+r/8, n/2*2+in%2
		}
		inner = lane*16 + word*4 + b
	} else {
		inner = (r%8*2+r/8)*int(p.Unit) + in
	}
	return l.Base + p.Offset + uint64(row/tileRows*int(p.Units)+unit)<<(p.Shift+4) + uint64(inner)
}

// layoutShapes are rows and columns, the latter in blocks of the format.
var layoutShapes = [][2]int{{1, 1}, {1, 7}, {3, 1}, {8, 2}, {9, 3}, {15, 5}, {16, 1}, {17, 2}, {31, 4}, {32, 3}, {33, 9}, {64, 1}, {100, 11}}

// columns makes columns of blocks; a format without blocks gets odd numbers.
func columns(f *quant.Format, blocks int) int {
	if f.BlockSize == 1 {
		return 13*blocks - 6
	}
	return f.BlockSize * blocks
}

// The planes are a permutation: every byte of a tensor has a place of its own
// within the tensor's part of the allocation, and tensors don't overlap.
func TestPlanesArePermutations(t *testing.T) {
	if testing.Short() {
		t.Skip("not with -short: arithmetic only")
	}
	for _, f := range quant.All() {
		t.Run(f.Name, func(t *testing.T) {
			const base = 0x7000
			size := uint64(0)
			taken := map[uint64]string{}
			for _, shape := range layoutShapes {
				x := device.Tensor{Name: fmt.Sprint(shape), Format: f, Rows: shape[0], Cols: columns(f, shape[1])}
				p, err := place(x, size)
				if err != nil {
					t.Fatal(err)
				}
				if p.offset%tensorAlign != 0 || p.bytes%tensorAlign != 0 || p.bytes < uint64(x.Bytes()) {
					t.Errorf("%s: %d bytes at %d for %d", x.Name, p.bytes, p.offset, x.Bytes())
				}
				l := p.layout(base)
				if int(l.RowBytes)*x.Rows != x.Bytes() || l.Size != uint64(x.Bytes()) {
					t.Fatalf("%s: %d rows of %d bytes, %d in all", x.Name, x.Rows, l.RowBytes, l.Size)
				}
				for row := range x.Rows {
					for at := range int(l.RowBytes) {
						to := locate(&l, row, at) - base
						if to < size || to >= size+p.bytes {
							t.Fatalf("%s: byte %d of row %d lies at %d, outside %d+%d", x.Name, at, row, to, size, p.bytes)
						}
						if other, ok := taken[to]; ok {
							t.Fatalf("%s: byte %d of row %d lies on %s", x.Name, at, row, other)
						}
						taken[to] = fmt.Sprintf("byte %d of row %d of %s", at, row, x.Name)
						if to%2 != uint64(at%2) { // the kernels move two bytes at a time
							t.Fatalf("%s: byte %d of row %d lies at %d", x.Name, at, row, to)
						}
					}
				}
				size += p.bytes
			}
		})
	}
}

// A format's segments are its whole block, in order, and its planes hold whole
// steps for whole tiles, so that the kernels need not look for a row's end.
func TestSchemesCoverTheirFormats(t *testing.T) {
	for _, f := range quant.All() {
		if f.Type == quant.F32 {
			continue
		}
		s := schemeOf(f.Type)
		if s == nil {
			t.Errorf("%s has no scheme", f.Name)
			continue
		}
		end := 0
		used := map[int]bool{}
		for _, seg := range s.segments {
			if seg.start != end || seg.bytes < 1 || used[seg.plane] || s.units[seg.plane] == 0 {
				t.Errorf("%s: segment %+v after byte %d", f.Name, seg, end)
			}
			used[seg.plane] = true
			end = seg.start + seg.bytes
		}
		if end != f.BlockBytes || s.stepCols%f.BlockSize != 0 {
			t.Errorf("%s: segments of %d bytes for a block of %d, steps of %d columns", f.Name, end, f.BlockBytes, s.stepCols)
		}
		for plane, unit := range s.units {
			if unit&(unit-1) != 0 || (unit > 0) != used[plane] || s.pieces[plane] > 0 && unit != 32 {
				t.Errorf("%s: plane %d has units of %d and pieces of %d", f.Name, plane, unit, s.pieces[plane])
			}
		}
		for _, shape := range layoutShapes {
			x := device.Tensor{Name: "t", Format: f, Rows: shape[0], Cols: columns(f, shape[1])}
			p, err := place(x, 0)
			if err != nil {
				t.Fatal(err)
			}
			tiles := (x.Rows + tileRows - 1) / tileRows
			for _, seg := range s.segments {
				pl := p.plane[seg.plane]
				inStep := s.stepCols / f.BlockSize * seg.bytes
				if have, want := int(pl.Units)*int(pl.Unit), p.steps()*inStep; have < want {
					t.Errorf("%s, %v: a row has %d bytes in plane %d, steps take %d", f.Name, shape, have, seg.plane, want)
				}
				if end := pl.Offset + uint64(tiles*int(pl.Units)*int(pl.Unit)*tileRows); end > p.bytes {
					t.Errorf("%s, %v: plane %d ends at %d of %d", f.Name, shape, seg.plane, end, p.bytes)
				}
				if pl.Offset%tensorAlign != 0 || 1<<pl.Shift != pl.Unit {
					t.Errorf("%s, %v: plane %+v", f.Name, shape, pl)
				}
			}
		}
	}
}

// A format without kernels is an error that names the tensor; there is no default.
// (The predecessor read quantized bytes as float16.)
func TestLesson_UnknownFormatNamesTheTensor(t *testing.T) {
	odd := &quant.Format{Type: 9, Name: "Q8_1", BlockSize: 32, BlockBytes: 36}
	_, err := place(device.Tensor{Name: "blk.7.ffn_up.weight", Format: odd, Rows: 4, Cols: 64}, 0)
	if !errors.Is(err, device.ErrNotSupported) || !contains(err, `"blk.7.ffn_up.weight"`, "Q8_1") {
		t.Errorf("error %v", err)
	}
}
