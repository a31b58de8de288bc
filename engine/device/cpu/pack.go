package cpu

import (
	"unsafe"

	"kigo/engine/quant"
)

// panelRows is how many rows of a matrix are multiplied together: one to each
// 32-bit lane of the widest vectors. All paths and all machines have the same.
const panelRows = 16

// Matrices are kept in panels of 16 rows. A panel has the bytes of its rows,
// in another order: each field of the format (scales, minima, quants, …) has a
// plane of its own, and a plane has the field's units of two or four bytes by
// block, unit and row. So the same unit of 16 rows is one load of 32 or 64
// bytes; what is in a unit stays as in the file.
//
//	file:  row 0: d q0 q1 … | d q0 q1 … | …     panel:  d of 16 rows | d of 16 rows | …
//	       row 1: d q0 q1 … | d q0 q1 … | …             q0 of 16 rows | q1 of 16 rows | …
//
// A matrix whose rows are no multiple of 16 ends with rows of zeros.

// field is a part of a format's block that has a plane of its own.
type field struct {
	at, size int // bytes in the file's block
	unit     int // bytes that stay together: 2 or 4
}

// fields has the layout of every format, in the order of the planes. Kernels
// rely on it. It is never written.
var fields = map[quant.Type][]field{
	quant.F32:  {{0, 4, 4}},
	quant.F16:  {{0, 2, 2}},
	quant.BF16: {{0, 2, 2}},
	quant.Q4_0: {{0, 2, 2}, {2, 16, 4}},                          // d, quants
	quant.Q4_1: {{0, 2, 2}, {2, 2, 2}, {4, 16, 4}},               // d, m, quants
	quant.Q5_0: {{0, 2, 2}, {2, 4, 4}, {6, 16, 4}},               // d, fifth bits, quants
	quant.Q5_1: {{0, 2, 2}, {2, 2, 2}, {4, 4, 4}, {8, 16, 4}},    // d, m, fifth bits, quants
	quant.Q8_0: {{0, 2, 2}, {2, 32, 4}},                          // d, quants
	quant.Q4_K: {{0, 2, 2}, {2, 2, 2}, {4, 12, 4}, {16, 128, 4}}, // d, dmin, scales, quants
	quant.Q5_K: {{0, 2, 2}, {2, 2, 2}, {4, 12, 4}, {16, 32, 4}, {48, 128, 4}},
	quant.Q6_K: {{208, 2, 2}, {192, 16, 4}, {0, 128, 4}, {128, 64, 4}}, // d, scales, low nibbles, high bits
}

// packing is how the rows of one matrix are laid out.
type packing struct {
	planes   []plane
	rowBytes int
}

// plane is where one field's units are, in a row of the file and in a panel.
type plane struct {
	at         int // of the plane in the panel
	from       int // of the field in the row's first block
	size, step int // of the field, and from one block to the next
	unit       int
}

func newPacking(f *quant.Format, cols int) packing {
	p := packing{rowBytes: cols / f.BlockSize * f.BlockBytes}
	at := 0
	for _, x := range fields[f.Type] {
		l := plane{at: at, from: x.at, size: x.size, step: f.BlockBytes, unit: x.unit}
		if x.size == f.BlockBytes { // a block is nothing else: the row is one run of units
			l.size, l.step = p.rowBytes, p.rowBytes
		}
		p.planes = append(p.planes, l)
		at += x.size * panelRows * (cols / f.BlockSize)
	}
	return p
}

func (p *packing) panelBytes() int { return panelRows * p.rowBytes }

// pack writes the panel of up to 16 rows of the file; missing rows are zeros.
func (p *packing) pack(panel, file []byte) {
	if len(file) < len(panel) {
		clear(panel)
	}
	p.moveRows(file, panel[:p.panelBytes()], false)
}

// unpack writes up to 16 rows as in the file, as many as file has room for.
func (p *packing) unpack(file, panel []byte) { p.moveRows(file, panel[:p.panelBytes()], true) }

// row writes row r of a panel as in the file.
func (p *packing) row(row, panel []byte, r int) {
	for i := range p.planes {
		p.planes[i].move(row[:p.rowBytes], panel[:p.panelBytes()], r, true)
	}
}

// moveRows copies the rows of file between its order and the panel's.
func (p *packing) moveRows(file, panel []byte, out bool) {
	for i := range p.planes {
		l := &p.planes[i]
		if transposes && len(file) == len(panel) {
			l.transpose(file, panel, p.rowBytes, out)
			continue
		}
		for r := 0; (r+1)*p.rowBytes <= len(file); r++ {
			l.move(file[r*p.rowBytes:][:p.rowBytes], panel, r, out)
		}
	}
}

// move copies a plane's units of a row between the file's order and the panel's,
// without the checks of slices: a plane lies within the row and the panel, which
// have the length of the packing.
func (l *plane) move(row, panel []byte, r int, out bool) {
	if len(row) == 0 {
		return
	}
	f, t := unsafe.Pointer(&row[0]), unsafe.Pointer(&panel[0])
	to := l.at + r*l.unit
	for b := l.from; b < len(row); b += l.step {
		switch {
		case l.unit == 2 && out:
			for u := b; u < b+l.size; u += 2 {
				*(*uint16)(unsafe.Add(f, u)) = *(*uint16)(unsafe.Add(t, to))
				to += 2 * panelRows
			}
		case l.unit == 2:
			for u := b; u < b+l.size; u += 2 {
				*(*uint16)(unsafe.Add(t, to)) = *(*uint16)(unsafe.Add(f, u))
				to += 2 * panelRows
			}
		case out:
			for u := b; u < b+l.size; u += 4 {
				*(*uint32)(unsafe.Add(f, u)) = *(*uint32)(unsafe.Add(t, to))
				to += 4 * panelRows
			}
		default:
			for u := b; u < b+l.size; u += 4 {
				*(*uint32)(unsafe.Add(t, to)) = *(*uint32)(unsafe.Add(f, u))
				to += 4 * panelRows
			}
		}
	}
}
