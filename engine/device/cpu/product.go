package cpu

import (
	"unsafe"

	"kigo/engine/device"
	"kigo/engine/quant"
)

// product is what one call of a path's product function works on: panels of a
// packed matrix times rows of activations. Kernels in assembly read it.
//
//	y[r][16*p+l] = sum over the columns of row l of panel p times row r of x
//
// For quantized formats the sum goes over blocks of 32 columns (Q6_K: 16), in
// order, each an exact integer sum I that is scaled and added in float32:
//
//	y = y + (I*d)*s              d, s: scales of the weights and the activations
//	y = y + ((I*d)*s + m*sum)    m: offset of the weights; sum: of the block's activations
//
// For float formats it goes over blocks of 32 columns, too, the last possibly
// shorter: the products are added in order, and then their sum to y.
type product struct {
	weights    *byte
	panelBytes int
	panels     int   // a kernel may count it down
	x          *byte // records, or float32 values for float formats
	xRow       int   // bytes from one row to the next
	rows       int
	y          *float32
	yRow       int // bytes from one row to the next
	cols       int

	scratch [256]float32 //nolint:unused // the assembly's: scales and minima of a block of 256 columns

	m      *matrix
	values *unpacked // scratch of the scalar path
}

// matrix is a weight matrix in memory: in panels.
type matrix struct {
	tensor  *device.Tensor
	packing packing
	panels  []byte
	product func(*product)
}

// newMatrix takes a tensor's panels.
func newMatrix(t *device.Tensor, panels []byte, p *path) *matrix {
	return &matrix{tensor: t, packing: newPacking(t.Format, t.Cols), panels: panels, product: p.product[t.Format.Type]}
}

func panelsOf(rows int) int { return (rows + panelRows - 1) / panelRows }

func (m *matrix) panel(i int) []byte {
	size := m.packing.panelBytes()
	return m.panels[i*size : (i+1)*size]
}

// row writes the file's bytes of a row to buf.
func (m *matrix) row(buf []byte, i int) {
	m.packing.row(buf, m.panel(i/panelRows), i%panelRows)
}

// floats says whether a format's rows meet activations as float32.
func floats(f *quant.Format) bool { return f.BlockSize == 1 }

// multiply computes rows [lo, hi) of m times all of x; lo is a multiple of 16.
// Row r of the results begins at y[r*width].
func (k *worker) multiply(m *matrix, lo, hi int, x *rows, y []float32, width int, quantized bool) {
	p := &k.product
	p.m, p.rows, p.cols = m, x.n, m.tensor.Cols
	p.panelBytes = m.packing.panelBytes()
	p.x, p.xRow = (*byte)(unsafe.Pointer(&x.f[0])), 4*x.width
	if quantized {
		p.x, p.xRow = &x.q[0], x.recordRow()
	}
	if whole := (hi - lo) / panelRows; whole > 0 {
		p.weights, p.panels = &m.panel(lo / panelRows)[0], whole
		p.y, p.yRow = &y[0], 4*width
		m.product(p)
		lo += whole * panelRows
		y = y[whole*panelRows:]
	}
	if lo == hi {
		return
	}
	// The last panel has rows that are not there: their results go elsewhere.
	k.tail = sized(k.tail, x.n*panelRows)
	p.weights, p.panels = &m.panel(lo / panelRows)[0], 1
	p.y, p.yRow = &k.tail[0], 4*panelRows
	m.product(p)
	for r := range x.n {
		copy(y[r*width:][:hi-lo], k.tail[r*panelRows:])
	}
}

// tiled makes a product function of functions for 1, 2, 4, … rows.
func tiled(kernels ...func(*product)) func(*product) {
	return func(p *product) {
		x, y, panels := unsafe.Pointer(p.x), unsafe.Pointer(p.y), p.panels
		for done, k := 0, len(kernels)-1; done < p.rows; {
			if done+1<<k > p.rows {
				k--
				continue
			}
			p.x, p.y, p.panels = (*byte)(unsafe.Add(x, done*p.xRow)), (*float32)(unsafe.Add(y, done*p.yRow)), panels
			kernels[k](p)
			done += 1 << k
		}
		p.x, p.y = (*byte)(x), (*float32)(y)
	}
}
