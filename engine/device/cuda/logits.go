package cuda

import (
	"kigo/engine/device"
	"kigo/kernels"
)

// logits projects the chosen rows onto the vocabulary, as many of them at a time as
// there is room for.
type logits struct {
	op      *device.Logits
	prepare *launch[kernels.PrepareParams]
	product *product                          // or
	float   *launch[kernels.ProjectF32Params] // of F32 weights
}

func (x *executable) newLogits(op *device.Logits) (operation, error) {
	o := &logits{op: op}
	x.last = o
	var err error
	isFloat := x.isFloat32(op.Weight)
	if o.prepare, err = x.newPrepare(x.values[op.In], x.prog.Values[op.In].Width, op.Norm, isFloat); err != nil {
		return nil, err
	}
	if isFloat {
		o.float, err = x.newFloat32(device.Matrix{Weight: op.Weight, Bias: device.NoTensor}, x.logits, 0)
		return o, err
	}
	o.product, err = x.newProduct(op.Weight, []kernels.Matrix{x.matrix(op.Weight, device.NoTensor, x.logits)}, false, x.values[op.In], 0, op.Norm)
	if err != nil {
		return nil, err
	}
	return o, x.takeOne(o.product, 0)
}

// run computes the first piece of them.
func (o *logits) run(x *executable, s *stepShape) error {
	if s.logits == 0 {
		return nil
	}
	return o.compute(x, 0, min(x.logitRows, s.logits))
}

// compute makes the logits of n of the step's chosen rows.
func (o *logits) compute(x *executable, at, n int) error {
	pick := x.in.pick() + uint64(4*at)
	o.prepare.params.Pick = pick
	if o.float != nil {
		if err := x.prepareFor(o.prepare, n, true); err != nil {
			return err
		}
		o.float.params.Rows = uint32(n)
		if err := start(x.dev, o.float.grid(ceilDiv(x.prog.Vocab, 8), n, 1), x.dev.stream); err != nil {
			return err
		}
		return x.choosing.searchLargest(x, at, n)
	}
	if err := x.prepareFor(o.prepare, n, false, o.product); err != nil {
		return err
	}
	o.product.rank(x.now().best + uint64(8*at))
	return o.product.run(x, n, pick)
}

// hold has the piece at hand that begins with row at.
func (o *logits) hold(x *executable, at int) error {
	if at == x.held {
		return nil
	}
	x.held = at
	return o.compute(x, at, min(x.logitRows, x.shape.logits-at))
}

// computeRest makes the pieces after the first, so that all rows are ranked.
func (o *logits) computeRest(x *executable) error {
	for at := x.logitRows; at < x.shape.logits; at += x.logitRows {
		if err := o.hold(x, at); err != nil {
			return err
		}
	}
	return nil
}

// fetch brings all logits to the host, and waits for the end of the step.
func (o *logits) fetch(x *executable) error {
	s := &x.shape
	x.result = nil
	if s.logits == 0 {
		return x.wait()
	}
	var normed []float32
	if x.watched() && o.op.Norm != nil {
		for at := 0; at < s.logits; at += x.logitRows {
			if err := o.hold(x, at); err != nil {
				return err
			}
			part, err := x.fetch(x.wide, min(x.logitRows, s.logits-at)*int(o.prepare.params.Width))
			if err != nil {
				return err
			}
			normed = append(normed, part...)
		}
	}
	x.every = x.every[:0]
	for i := range s.logits {
		x.every = append(x.every, i)
	}
	var err error
	if x.result, err = x.fetchRows(x.every); err != nil {
		return err
	}
	return o.show(x, s, normed)
}

// show taps the rows that the logits were made of, and the logits.
func (o *logits) show(x *executable, s *stepShape, normed []float32) error {
	if !x.watched() {
		return nil
	}
	if o.op.Norm != nil {
		if err := x.see(o.op.Norm.Stage, s.logits, int(o.prepare.params.Width), normed); err != nil {
			return err
		}
	}
	return x.see(o.op.Stage, s.logits, x.prog.Vocab, x.result)
}
