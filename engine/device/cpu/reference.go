package cpu

import (
	"math"
	"unsafe"

	"kigo/engine/device"
	"kigo/engine/quant"
)

// referencePath dequantizes weights and sums in float64. It has no quantized
// activations, and its attention is a loop of its own.
var referencePath = newReferencePath()

func newReferencePath() *path {
	p := &path{
		name: "reference",
		product: map[quant.Type]func(*product){
			quant.F32: referenceProduct, quant.F16: referenceProduct, quant.BF16: referenceProduct,
			quant.Q4_0: referenceProduct, quant.Q4_1: referenceProduct, quant.Q5_0: referenceProduct, quant.Q5_1: referenceProduct,
			quant.Q8_0: referenceProduct, quant.Q4_K: referenceProduct, quant.Q5_K: referenceProduct, quant.Q6_K: referenceProduct,
		},
		sumSquares16: scalarSumSquares, norm16: scalarNorm, scale16: scalarScale, add16: scalarAdd,
		gate16: referenceGate,
	}
	p.tails = p
	return p
}

func referenceProduct(p *product) {
	w := p.values
	w.row = sized(w.row, p.m.packing.rowBytes)
	w.scale = sized(w.scale, p.cols)
	for i := range p.panels * panelRows {
		panel := unsafe.Slice((*byte)(unsafe.Add(unsafe.Pointer(p.weights), i/panelRows*p.panelBytes)), p.panelBytes)
		p.m.packing.row(w.row, panel, i%panelRows)
		p.m.tensor.Format.Dequantize(w.scale, w.row)
		for r := range p.rows {
			x := unsafe.Slice((*float32)(unsafe.Add(unsafe.Pointer(p.x), r*p.xRow)), p.cols)
			sum := 0.0
			for k, a := range w.scale {
				sum += float64(a) * float64(x[k])
			}
			*(*float32)(unsafe.Add(unsafe.Pointer(p.y), r*p.yRow+4*i)) = float32(sum)
		}
	}
}

func referenceGate(gate, up *float32, n int) {
	g, u := unsafe.Slice(gate, n), unsafe.Slice(up, n)
	for i, a := range g {
		g[i] = float32(float64(a)/(1+math.Exp(-float64(a)))) * u[i]
	}
}

// referenceScratch is a worker's memory for attendReference.
type referenceScratch struct {
	weights, sum []float64
}

// attendingReference is attention for one head of one row after another, in
// float64 throughout.
type attendingReference struct {
	x  *executable
	op *device.Attend
}

func (t attendingReference) do(w *worker, lo, hi int) {
	x, op, c := t.x, t.op, t.x.cache
	dim, s := op.HeadDim, &w.reference
	s.sum = sized(s.sum, dim)
	for item := lo; item < hi; item++ {
		r, kvHead := item/op.Heads, item%op.Heads/(op.Heads/op.KVHeads)
		blocks, length := x.step.Seqs[x.rowSeq[r]].Blocks, x.rowPos[r]+1
		q, out := x.value(op.Q)[item*dim:(item+1)*dim], x.value(op.Out)[item*dim:(item+1)*dim]
		s.weights = sized(s.weights, length)
		most := math.Inf(-1)
		for i := range s.weights {
			k, sum := c.k[c.keys(op.Layer, blocks, kvHead, i)+i%slots:], 0.0
			for d, a := range q {
				sum += float64(a) * float64(k[d*slots])
			}
			s.weights[i] = sum * float64(op.Scale)
			most = max(most, s.weights[i])
		}
		total := 0.0
		clear(s.sum)
		for i, a := range s.weights {
			e := math.Exp(a - most)
			total += e
			v := c.v[c.value(op.Layer, blocks, kvHead, i):]
			for d := range s.sum {
				s.sum[d] += e * float64(v[d])
			}
		}
		for d, a := range s.sum {
			out[d] = float32(a / total)
		}
	}
}
