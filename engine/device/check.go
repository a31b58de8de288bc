package device

import "fmt"

// Check reports the first thing that makes a program meaningless: operands
// that don't exist, shapes that don't fit, values read before they are written.
// Devices call it in Compile, so that a mistake in a forward pass is an error
// with a name and never a wild read.
func (p *Program) Check() error {
	c := checker{p: p, written: make([]bool, len(p.Values))}
	for i := range p.Tensors {
		t := &p.Tensors[i]
		if t.Format == nil || t.Rows < 1 || t.Cols < 1 || t.Cols%t.Format.BlockSize != 0 {
			return fmt.Errorf("%w: tensor %q: %d x %d", ErrBadProgram, t.Name, t.Rows, t.Cols)
		}
	}
	for i, v := range p.Values {
		if v.Width < 1 {
			return fmt.Errorf("%w: value %d (%s) has width %d", ErrBadProgram, i, v.Stage, v.Width)
		}
	}
	for i, op := range p.Ops {
		switch op := op.(type) {
		case *Embed:
			c.tensor(op.Table, p.Vocab, c.width(op.Out))
			c.write(op.Out)
		case *Project:
			c.project(op)
		case *Rope:
			c.rope(op)
		case *Attend:
			c.attend(op)
		case *Logits:
			c.read(op.In)
			c.norm(op.Norm, c.width(op.In))
			c.tensor(op.Weight, p.Vocab, c.width(op.In))
			if i != len(p.Ops)-1 {
				c.fail("Logits is not the last operator")
			}
		default:
			c.fail("unknown operator")
		}
		if c.err != nil {
			return fmt.Errorf("%w: operator %d (%T): %w", ErrBadProgram, i, op, c.err)
		}
	}
	if n := len(p.Ops); n == 0 {
		return fmt.Errorf("%w: no operators", ErrBadProgram)
	} else if _, ok := p.Ops[n-1].(*Logits); !ok {
		return fmt.Errorf("%w: the last operator is %T, not Logits", ErrBadProgram, p.Ops[n-1])
	}
	return nil
}

// checker remembers the first failure and what has been written so far.
type checker struct {
	p       *Program
	written []bool
	err     error
}

func (c *checker) fail(format string, args ...any) {
	if c.err == nil {
		c.err = fmt.Errorf(format, args...)
	}
}

func (c *checker) exists(v Value) bool {
	if v < 0 || int(v) >= len(c.p.Values) {
		c.fail("value %d of %d", v, len(c.p.Values))
		return false
	}
	return true
}

func (c *checker) width(v Value) int {
	if !c.exists(v) {
		return 0
	}
	return c.p.Values[v].Width
}

func (c *checker) read(v Value) {
	if c.exists(v) && !c.written[v] {
		c.fail("value %d (%s) is read before it is written", v, c.p.Values[v].Stage)
	}
}

func (c *checker) write(v Value) {
	if !c.exists(v) {
		return
	}
	if c.written[v] {
		c.fail("value %d (%s) is written twice", v, c.p.Values[v].Stage)
	}
	c.written[v] = true
}

func (c *checker) tensor(t TensorID, rows, cols int) {
	if t < 0 || int(t) >= len(c.p.Tensors) {
		c.fail("tensor %d of %d", t, len(c.p.Tensors))
		return
	}
	if got := &c.p.Tensors[t]; got.Rows != rows || got.Cols != cols {
		c.fail("tensor %q is %d x %d, want %d x %d", got.Name, got.Rows, got.Cols, rows, cols)
	}
}

func (c *checker) norm(n *Norm, width int) {
	if n != nil {
		c.tensor(n.Weight, 1, width)
	}
}

func (c *checker) project(op *Project) {
	c.read(op.In)
	c.norm(op.Norm, c.width(op.In))
	results := len(op.Mats)
	if op.Act != ActNone {
		results = 1
		if len(op.Mats) != 2 || op.Mats[1].Out != NoValue {
			c.fail("an activation takes a gate and an up matrix with one result")
			return
		}
	}
	if results < 1 || op.Residual != NoValue && results != 1 {
		c.fail("%d matrices", len(op.Mats))
		return
	}
	for i, m := range op.Mats {
		out := m.Out
		if i >= results {
			out = op.Mats[0].Out
		}
		c.tensor(m.Weight, c.width(out), c.width(op.In))
		if m.Bias != NoTensor {
			c.tensor(m.Bias, 1, c.width(out))
		}
	}
	if op.Residual != NoValue {
		c.read(op.Residual)
		if c.width(op.Residual) != c.width(op.Mats[0].Out) {
			c.fail("residual of width %d for a result of %d", c.width(op.Residual), c.width(op.Mats[0].Out))
		}
	}
	for _, m := range op.Mats[:results] {
		c.write(m.Out)
	}
}

func (c *checker) heads(layer, heads, kvHeads, headDim int) {
	s := c.p.Cache
	if layer < 0 || layer >= s.Layers || kvHeads != s.KVHeads || headDim != s.HeadDim {
		c.fail("layer %d with %d KV heads of %d, cache %+v", layer, kvHeads, headDim, s)
	}
	if kvHeads < 1 || heads < 1 || heads%kvHeads != 0 {
		c.fail("%d heads share %d KV heads", heads, kvHeads)
	}
}

func (c *checker) sized(v Value, width int) {
	if got := c.width(v); got != width {
		c.fail("value %d has width %d, want %d", v, got, width)
	}
}

func (c *checker) rope(op *Rope) {
	c.heads(op.Layer, op.Heads, op.KVHeads, op.HeadDim)
	for _, v := range []Value{op.Q, op.K, op.V} {
		c.read(v)
	}
	for _, v := range []Value{op.Q, op.QOut} {
		c.sized(v, op.Heads*op.HeadDim)
	}
	for _, v := range []Value{op.K, op.V, op.KOut} {
		c.sized(v, op.KVHeads*op.HeadDim)
	}
	if op.Dims < 2 || op.Dims > op.HeadDim || op.Dims%2 != 0 {
		c.fail("%d rotated elements of %d", op.Dims, op.HeadDim)
	}
	if op.Factors != NoTensor {
		c.tensor(op.Factors, 1, op.Dims/2)
	}
	c.write(op.QOut)
	c.write(op.KOut)
}

func (c *checker) attend(op *Attend) {
	c.heads(op.Layer, op.Heads, op.KVHeads, op.HeadDim)
	c.read(op.Q)
	c.sized(op.Q, op.Heads*op.HeadDim)
	c.sized(op.Out, op.Heads*op.HeadDim)
	c.write(op.Out)
}
