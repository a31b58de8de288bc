package bench

import (
	"kigo/engine"
	"kigo/engine/device"
)

// Work is what a computation cannot do without: bytes of the device's memory that
// are read or written, each once, and floating-point operations of its products.
type Work struct {
	Bytes float64 `json:"bytes"`
	FLOPs float64 `json:"flops"`
}

func (w Work) plus(v Work) Work { return Work{w.Bytes + v.Bytes, w.FLOPs + v.FLOPs} }

// seconds is the least time that a device of such rates takes, and which rate
// decides; 0 when the rates are not known.
func (w Work) seconds(r *Rates) (least float64, by string) {
	if r == nil {
		return 0, ""
	}
	copying, multiplying := w.Bytes/r.Copy.PerSecond, w.FLOPs/r.Matrix.PerSecond
	if copying >= multiplying {
		return copying, "bytes"
	}
	return multiplying, "FLOPs"
}

// pass is a run of tokens of one sequence through the whole model.
type pass struct {
	start  int // tokens that are in the KV cache before
	rows   int // tokens
	logits int // rows whose logits are wanted
}

// cost knows what a model's passes take.
type cost struct {
	prog  *device.Program
	token float64 // bytes of keys and values of one token, of all layers
}

// of is the work of a pass. Weights are counted once, however many steps a device
// makes of it; keys and values are read once, those of the pass written once.
// Activations are not counted: they can stay on the chip.
func (c *cost) of(p pass) Work {
	var sum Work
	for _, op := range c.prog.Ops {
		sum = sum.plus(c.op(op, p))
	}
	return sum
}

// generating is the work of n tokens, one after another, the first of them after
// start others.
func (c *cost) generating(start, n int) Work {
	var sum Work
	for i := range n {
		sum = sum.plus(c.of(pass{start: start + i, rows: 1, logits: 1}))
	}
	return sum
}

// op is the work of one operator.
func (c *cost) op(op device.Op, p pass) Work {
	rows := float64(p.rows)
	layer := c.token / float64(c.prog.Cache.Layers)
	switch op := op.(type) {
	case *device.Embed:
		return Work{Bytes: c.bytes(op.Table) / float64(c.prog.Tensors[op.Table].Rows) * rows}
	case *device.Project:
		w := c.norm(op.Norm)
		for _, m := range op.Mats {
			w = w.plus(c.product(m.Weight, rows))
			w.Bytes += c.bytes(m.Bias)
		}
		return w
	case *device.Rope:
		return Work{Bytes: layer*rows + c.bytes(op.Factors)}
	case *device.Attend:
		// A row sees all positions up to its own: two products of a head's length
		// with each.
		seen := rows*float64(p.start) + rows*(rows+1)/2
		return Work{Bytes: layer * float64(p.start), FLOPs: 2 * 2 * float64(op.Heads) * float64(op.HeadDim) * seen}
	case *device.Logits:
		if p.logits == 0 {
			return Work{}
		}
		return c.norm(op.Norm).plus(c.product(op.Weight, float64(p.logits)))
	}
	return Work{}
}

func (c *cost) norm(n *device.Norm) Work {
	if n == nil {
		return Work{}
	}
	return Work{Bytes: c.bytes(n.Weight)}
}

// product is a matrix times rows of activations.
func (c *cost) product(matrix device.TensorID, rows float64) Work {
	t := &c.prog.Tensors[matrix]
	return Work{Bytes: float64(t.Bytes()), FLOPs: 2 * float64(t.Rows) * float64(t.Cols) * rows}
}

func (c *cost) bytes(t device.TensorID) float64 {
	if t == device.NoTensor {
		return 0
	}
	return float64(c.prog.Tensors[t].Bytes())
}

// Rates are what the device was measured to be capable of.
type Rates struct {
	Copy   Rate `json:"copy"`   // bytes a second
	Upload Rate `json:"upload"` // bytes a second
	Matrix Rate `json:"matrix"` // floating-point operations a second
}

// Rate is one of them, with how it was measured.
type Rate struct {
	PerSecond float64 `json:"per_second"`
	Method    string  `json:"method"`
}

func ratesOf(r engine.Rates) *Rates {
	return &Rates{Rate(r.Copy), Rate(r.Upload), Rate(r.Matrix)}
}
