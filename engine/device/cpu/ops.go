package cpu

import (
	"math"

	"kigo/engine/device"
)

func (x *executable) embed(op *device.Embed) {
	out, m := x.value(op.Out), x.mats[op.Table]
	scratch := &x.dev.workers.all[0].unpacked
	scratch.row = sized(scratch.row, m.packing.rowBytes)
	for r, token := range x.step.Tokens {
		width := m.tensor.Cols
		m.row(scratch.row, int(token))
		m.tensor.Format.Dequantize(out[r*width:(r+1)*width], scratch.row)
	}
	x.tap(op.Out)
}

// normalizing makes what enters a product of rows: their norm if there is one,
// and their quantized form if it is wanted.
type normalizing struct {
	x         *executable
	in        []float32
	norm      *device.Norm
	quantized bool
}

func (t *normalizing) do(w *worker, lo, hi int) {
	a, p := &t.x.normed, t.x.dev.path
	for r := lo; r < hi; r++ {
		row := a.row(r)
		if t.norm != nil {
			src := t.in[r*a.width : (r+1)*a.width]
			mean := p.sumSquares(src, &w.squares) / float64(a.width)
			p.norm(row, src, t.x.vecs[t.norm.Weight], float32(1/math.Sqrt(mean+float64(t.norm.Eps))))
		}
		if t.quantized {
			p.quantize(&a.q[r*a.recordRow()], &row[0], a.width/blockLen)
		}
	}
}

// normalize makes x.normed the rows that enter a product. Without a norm they
// are the input itself.
func (x *executable) normalize(in []float32, width int, norm *device.Norm, quantized bool) {
	a := &x.normed
	a.n, a.width = len(in)/width, width
	a.f = in
	if norm != nil {
		a.f = x.normedRows[:len(in)]
	}
	t := &x.normalizing
	t.in, t.norm, t.quantized = in, norm, quantized
	x.dev.workers.run(a.n, 1, t)
	if norm != nil && x.opt.Tap != nil {
		x.opt.Tap(norm.Stage, a.n, width, a.f)
	}
}

func (x *executable) project(op *device.Project) {
	quantized := false
	for i := range op.Mats {
		quantized = quantized || x.quantized(op.Mats[i].Weight)
	}
	x.normalize(x.value(op.In), x.prog.Values[op.In].Width, op.Norm, quantized)
	var residual []float32
	if op.Residual != device.NoValue {
		residual = x.value(op.Residual)
	}
	if op.Act != device.ActNone {
		x.gated(op, residual)
	} else {
		t := &x.multiplying
		t.parts = t.parts[:0]
		for _, m := range op.Mats {
			t.add(part{m: x.mats[m.Weight], bias: x.vec(m.Bias), residual: residual, out: x.value(m.Out), quantized: x.quantized(m.Weight)})
		}
		t.run()
	}
	if x.opt.Tap != nil {
		for _, m := range op.Mats {
			if m.Out != device.NoValue {
				x.tap(m.Out)
			}
		}
	}
}

// multiplying multiplies the rows in x.normed with one or more matrices. Its
// items are panels.
type multiplying struct {
	x     *executable
	parts []part
}

// part is one of the matrices: out = m·x + bias + residual.
type part struct {
	m              *matrix
	bias, residual []float32 // nil: none
	out            []float32
	quantized      bool
	first, panels  int // of the items
}

func (t *multiplying) add(p part) {
	if n := len(t.parts); n > 0 {
		p.first = t.parts[n-1].first + t.parts[n-1].panels
	}
	p.panels = panelsOf(p.m.tensor.Rows)
	t.parts = append(t.parts, p)
}

func (t *multiplying) run() {
	last := t.parts[len(t.parts)-1]
	t.x.dev.workers.run(last.first+last.panels, t.x.panelsPerChunk(t.x.normed.width), t)
}

// panelsPerChunk is how many panels of so many columns a worker takes at a time:
// about 300,000 products of weights and activations, a few microseconds. That is
// long enough that handing out costs nothing and that one row of activations,
// which memory has to keep up with, finds long runs of it; and short enough that
// the workers end together.
func (x *executable) panelsPerChunk(cols int) int {
	return min(max(300_000/(panelRows*cols*x.normed.n), 1), 16)
}

func (t *multiplying) do(w *worker, lo, hi int) {
	for i := range t.parts {
		p := &t.parts[i]
		from, to := max(lo-p.first, 0), min(hi-p.first, p.panels)
		if from >= to {
			continue
		}
		width := p.m.tensor.Rows
		first, end := from*panelRows, min(to*panelRows, width)
		w.multiply(p.m, first, end, &t.x.normed, p.out[first:], width, p.quantized)
		t.x.finish(p.out, p.bias, p.residual, first, end, width)
	}
}

// finish adds bias and residual to columns [first, end) of all rows.
func (x *executable) finish(out, bias, residual []float32, first, end, width int) {
	for r := range x.normed.n {
		y := out[r*width+first : r*width+end]
		if bias != nil {
			x.dev.path.add(y, bias[first:end])
		}
		if residual != nil {
			x.dev.path.add(y, residual[r*width+first:])
		}
	}
}

// gating multiplies the rows in x.normed with a gate and an up matrix.
type gating struct {
	x                *executable
	gate, up         *matrix
	gateBias, upBias []float32
	residual, out    []float32
	quantized        [2]bool
}

func (x *executable) gated(op *device.Project, residual []float32) {
	t := &x.gating
	g, u := &op.Mats[0], &op.Mats[1]
	*t = gating{
		x: x, gate: x.mats[g.Weight], up: x.mats[u.Weight], gateBias: x.vec(g.Bias), upBias: x.vec(u.Bias),
		residual: residual, out: x.value(g.Out), quantized: [2]bool{x.quantized(g.Weight), x.quantized(u.Weight)},
	}
	x.dev.workers.run(panelsOf(t.gate.tensor.Rows), x.panelsPerChunk(x.normed.width), t)
}

func (t *gating) do(w *worker, lo, hi int) {
	x, width := t.x, t.gate.tensor.Rows
	first, end := lo*panelRows, min(hi*panelRows, width)
	n := (hi - lo) * panelRows
	w.up = sized(w.up, x.normed.n*n)
	w.multiply(t.gate, first, end, &x.normed, t.out[first:], width, t.quantized[0])
	w.multiply(t.up, first, end, &x.normed, w.up, n, t.quantized[1])
	for r := range x.normed.n {
		gate, up := t.out[r*width+first:r*width+end], w.up[r*n:][:end-first]
		if t.gateBias != nil {
			x.dev.path.add(gate, t.gateBias[first:end])
		}
		if t.upBias != nil {
			x.dev.path.add(up, t.upBias[first:end])
		}
		x.dev.path.gate(gate, up)
		if t.residual != nil {
			x.dev.path.add(gate, t.residual[r*width+first:])
		}
	}
}

// rotating turns queries and keys by their positions and appends to the cache.
// Its items are rows.
type rotating struct {
	x      *executable
	op     *device.Rope
	angles *angles
}

func (x *executable) rope(op *device.Rope) {
	x.rotating.op, x.rotating.angles = op, x.angles[op]
	x.dev.workers.run(len(x.rowPos), rowsPerRotation, &x.rotating)
	x.tap(op.QOut)
	x.tap(op.KOut)
}

// rowsPerRotation rows of queries and keys take about a microsecond.
const rowsPerRotation = 4

func (t *rotating) do(_ *worker, lo, hi int) {
	x, op := t.x, t.op
	q, k, v := x.value(op.Q), x.value(op.K), x.value(op.V)
	qOut, kOut := x.value(op.QOut), x.value(op.KOut)
	a, dim := t.angles, op.HeadDim
	for r := lo; r < hi; r++ {
		pos, blocks := x.rowPos[r], x.step.Seqs[x.rowSeq[r]].Blocks
		cos, sin := a.cos[r*a.row:(r+1)*a.row], a.sin[r*a.row:(r+1)*a.row]
		for h := range op.Heads {
			at := (r*op.Heads + h) * dim
			rotate(qOut[at:at+dim], q[at:at+dim], cos, sin, op.Style)
		}
		for h := range op.KVHeads {
			at := (r*op.KVHeads + h) * dim
			rotate(kOut[at:at+dim], k[at:at+dim], cos, sin, op.Style)
			x.cache.put(op.Layer, blocks, h, pos, kOut[at:at+dim], v[at:at+dim])
		}
	}
}

// rotate turns the first 2*len(cos) elements of a head and copies the rest.
func rotate(dst, src, cos, sin []float32, style device.RopeStyle) {
	n := len(cos)
	copy(dst[2*n:], src[2*n:])
	if style == device.RopeHalves {
		for i, c := range cos {
			s, a, b := sin[i], src[i], src[i+n]
			dst[i] = float32(a*c) - float32(b*s)
			dst[i+n] = float32(a*s) + float32(b*c)
		}
		return
	}
	for i, c := range cos {
		s, a, b := sin[i], src[2*i], src[2*i+1]
		dst[2*i] = float32(a*c) - float32(b*s)
		dst[2*i+1] = float32(a*s) + float32(b*c)
	}
}

// projectLogits multiplies the chosen rows only: the vocabulary is by far the
// largest matrix.
func (x *executable) projectLogits(op *device.Logits) {
	width, in := x.prog.Values[op.In].Width, x.value(op.In)
	x.chosen = x.chosen[:len(x.step.Logits)*width]
	for i, r := range x.step.Logits {
		copy(x.chosen[i*width:(i+1)*width], in[r*width:(r+1)*width])
	}
	x.logits = sized(x.logits, len(x.step.Logits)*x.prog.Vocab)
	if len(x.step.Logits) == 0 {
		return
	}
	quantized := x.quantized(op.Weight)
	x.normalize(x.chosen, width, op.Norm, quantized)
	t := &x.multiplying
	t.parts = t.parts[:0]
	t.add(part{m: x.mats[op.Weight], out: x.logits, quantized: quantized})
	t.run()
	if x.opt.Tap != nil {
		x.opt.Tap(op.Stage, len(x.step.Logits), x.prog.Vocab, x.logits)
	}
}
