package cpu

import (
	"math"

	"kigo/engine/device"
)

// rowsPerChunk is how many rows of weights a worker takes at a time: enough
// that handing out costs nothing, few enough that the workers end together.
const rowsPerChunk = 16

func (x *executable) embed(op *device.Embed) {
	out := x.value(op.Out)
	m := x.mats[op.Table]
	for r, token := range x.step.Tokens {
		width := m.tensor.Cols
		m.tensor.Format.Dequantize(out[r*width:(r+1)*width], m.row(int(token)))
	}
	x.tap(op.Out)
}

// normalize makes x.normed the rows that enter a product: in itself or its
// norm, and their quantized form if asked for.
func (x *executable) normalize(in []float32, width int, norm *device.Norm, quantized bool) {
	n := len(in) / width
	a := &x.normed
	a.n, a.width = n, width
	a.f = a.f[:n*width]
	x.dev.workers.run(n, 1, func(_, lo, hi int) {
		for r := lo; r < hi; r++ {
			src, dst := in[r*width:(r+1)*width], a.row(r)
			if norm == nil {
				copy(dst, src)
			} else {
				rmsNorm(dst, src, x.vecs[norm.Weight], norm.Eps)
			}
			if quantized {
				a.quantize(r)
			}
		}
	})
	if norm != nil && x.opt.Tap != nil {
		x.opt.Tap(norm.Stage, n, width, a.f)
	}
}

func rmsNorm(dst, src, gain []float32, eps float32) {
	sum := 0.0
	for _, v := range src {
		sum += float64(v) * float64(v)
	}
	scale := float32(1 / math.Sqrt(sum/float64(len(src))+float64(eps)))
	for i, v := range src {
		dst[i] = v * scale * gain[i]
	}
}

func (x *executable) project(op *device.Project) {
	quantized := false
	for _, m := range op.Mats {
		quantized = quantized || x.quantized(m.Weight)
	}
	x.normalize(x.value(op.In), x.prog.Values[op.In].Width, op.Norm, quantized)
	var residual []float32
	if op.Residual != device.NoValue {
		residual = x.value(op.Residual)
	}
	if op.Act != device.ActNone {
		x.gated(op, residual)
	} else {
		for _, m := range op.Mats {
			x.multiply(m, residual)
		}
	}
	for _, m := range op.Mats {
		if m.Out != device.NoValue {
			x.tap(m.Out)
		}
	}
}

func (x *executable) multiply(p device.Matrix, residual []float32) {
	m, bias, out := x.mats[p.Weight], x.vec(p.Bias), x.value(p.Out)
	width := m.tensor.Rows
	x.dev.workers.run(width, rowsPerChunk, func(worker, lo, hi int) {
		lane := x.lanes[worker]
		for o := lo; o < hi; o++ {
			lane.load(m, o)
			for r := range x.normed.n {
				y := lane.dot(&x.normed, r)
				if bias != nil {
					y += bias[o]
				}
				if residual != nil {
					y += residual[r*width+o]
				}
				out[r*width+o] = y
			}
		}
	})
}

func (x *executable) gated(op *device.Project, residual []float32) {
	gate, up := x.mats[op.Mats[0].Weight], x.mats[op.Mats[1].Weight]
	gateBias, upBias := x.vec(op.Mats[0].Bias), x.vec(op.Mats[1].Bias)
	out, width := x.value(op.Mats[0].Out), gate.tensor.Rows
	x.dev.workers.run(width, rowsPerChunk, func(worker, lo, hi int) {
		lane, gates := x.lanes[worker], x.temp[worker]
		for o := lo; o < hi; o++ {
			lane.load(gate, o)
			for r := range x.normed.n {
				g := lane.dot(&x.normed, r)
				if gateBias != nil {
					g += gateBias[o]
				}
				gates[r] = silu(g)
			}
			lane.load(up, o)
			for r := range x.normed.n {
				y := lane.dot(&x.normed, r)
				if upBias != nil {
					y += upBias[o]
				}
				y *= gates[r]
				if residual != nil {
					y += residual[r*width+o]
				}
				out[r*width+o] = y
			}
		}
	})
}

func silu(v float32) float32 { return float32(float64(v) / (1 + math.Exp(-float64(v)))) }

func (x *executable) rope(op *device.Rope) {
	q, k, v := x.value(op.Q), x.value(op.K), x.value(op.V)
	qOut, kOut := x.value(op.QOut), x.value(op.KOut)
	a, shape := x.angles[op], &x.cache.shape
	for r, pos := range x.rowPos {
		cos, sin := a.cos[r*a.row:(r+1)*a.row], a.sin[r*a.row:(r+1)*a.row]
		for h := range op.Heads {
			at := (r*op.Heads + h) * op.HeadDim
			rotate(qOut[at:at+op.HeadDim], q[at:at+op.HeadDim], cos, sin, op.Style)
		}
		block, slot := x.step.Seqs[x.rowSeq[r]].Blocks[pos/shape.BlockSize], pos%shape.BlockSize
		for h := range op.KVHeads {
			at := (r*op.KVHeads + h) * op.HeadDim
			rotate(kOut[at:at+op.HeadDim], k[at:at+op.HeadDim], cos, sin, op.Style)
			to := x.cache.head(op.Layer, block, h) + slot*op.HeadDim
			copy(x.cache.k[to:to+op.HeadDim], kOut[at:at+op.HeadDim])
			copy(x.cache.v[to:to+op.HeadDim], v[at:at+op.HeadDim])
		}
	}
	x.tap(op.QOut)
	x.tap(op.KOut)
}

// rotate turns the first 2*len(cos) elements of a head and copies the rest.
func rotate(dst, src, cos, sin []float32, style device.RopeStyle) {
	copy(dst, src)
	for i := range cos {
		a, b := 2*i, 2*i+1
		if style == device.RopeHalves {
			a, b = i, i+len(cos)
		}
		dst[a] = src[a]*cos[i] - src[b]*sin[i]
		dst[b] = src[a]*sin[i] + src[b]*cos[i]
	}
}

// attend computes softmax(q·K^T * Scale)·V for each head of each row over the
// positions up to the row's own, with the largest score subtracted before the
// exponential and the sum of the weights in float64.
func (x *executable) attend(op *device.Attend) {
	q, out := x.value(op.Q), x.value(op.Out)
	size, group := x.cache.shape.BlockSize, op.Heads/op.KVHeads
	x.dev.workers.run(len(x.rowPos)*op.Heads, 1, func(worker, lo, hi int) {
		lane := x.lanes[worker]
		for item := lo; item < hi; item++ {
			r, h := item/op.Heads, item%op.Heads
			blocks, length := x.step.Seqs[x.rowSeq[r]].Blocks, x.rowPos[r]+1
			query := q[item*op.HeadDim : (item+1)*op.HeadDim]
			at := func(i int) int {
				return x.cache.head(op.Layer, blocks[i/size], h/group) + i%size*op.HeadDim
			}
			x.scores[worker] = sized(x.scores[worker], (length+size-1)/size*size)
			scores := x.scores[worker][:length]
			for i := range scores {
				key := at(i)
				scores[i] = lane.dotFloats(query, x.cache.k[key:key+op.HeadDim]) * op.Scale
			}
			softmax(scores)
			lane.weightedSum(out[item*op.HeadDim:(item+1)*op.HeadDim], scores, func(i int) []float32 {
				value := at(i)
				return x.cache.v[value : value+op.HeadDim]
			})
		}
	})
	x.tap(op.Out)
}

func softmax(v []float32) {
	most := v[0]
	for _, a := range v {
		most = max(most, a)
	}
	sum := 0.0
	for i, a := range v {
		e := math.Exp(float64(a - most))
		v[i] = float32(e)
		sum += e
	}
	scale := float32(1 / sum)
	for i := range v {
		v[i] *= scale
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
	x.normalize(x.chosen, width, op.Norm, x.quantized(op.Weight))
	m := x.mats[op.Weight]
	x.dev.workers.run(x.prog.Vocab, rowsPerChunk, func(worker, lo, hi int) {
		lane := x.lanes[worker]
		for o := lo; o < hi; o++ {
			lane.load(m, o)
			for i := range x.normed.n {
				x.logits[i*x.prog.Vocab+o] = lane.dot(&x.normed, i)
			}
		}
	})
	if x.opt.Tap != nil {
		x.opt.Tap(op.Stage, len(x.step.Logits), x.prog.Vocab, x.logits)
	}
}
