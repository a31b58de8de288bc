package cuda

import (
	"kigo/engine/device"
	"kigo/kernels"
)

// projection is a Project operator: one product for each format among its
// matrices.
type projection struct {
	op       *device.Project
	prepare  *launch[kernels.PrepareParams]
	products []*product
	both     *launch[kernels.ProjectParams] // nil, or what does the work of two products for a single row
	floats   []*launch[kernels.ProjectF32Params]
	gate     *launch[kernels.GateParams] // nil: none, or within the product
}

func (x *executable) newProject(op *device.Project) (operation, error) {
	width := x.prog.Values[op.In].Width
	in := x.values[op.In]
	residual := uint64(0)
	if op.Residual != device.NoValue {
		residual = x.values[op.Residual]
	}
	o := &projection{op: op}
	outs := make([]uint64, len(op.Mats))
	for i, m := range op.Mats {
		if m.Out != device.NoValue {
			outs[i] = x.values[m.Out]
		}
	}
	formats := make([]string, len(op.Mats))
	anyFloat := false
	for i, m := range op.Mats {
		formats[i] = x.prog.Tensors[m.Weight].Format.Name
		anyFloat = anyFloat || x.isFloat32(m.Weight)
	}
	gated := op.Act != device.ActNone
	together := gated && formats[0] == formats[1] && !anyFloat
	if gated && !together {
		// Both products first, then the gate, which takes the residual's place in
		// the order: a gated product has none.
		if err := x.newGate(o, outs[0]); err != nil {
			return nil, err
		}
		copy(outs, x.spare[:])
	}
	var err error
	if o.prepare, err = x.newPrepare(in, width, op.Norm, anyFloat); err != nil {
		return nil, err
	}
	var matrices []kernels.Matrix // of all products, and what they have of them
	var parts []onePart
	done := make([]bool, len(op.Mats))
	for i, m := range op.Mats {
		if done[i] {
			continue
		}
		if x.isFloat32(m.Weight) {
			l, err := x.newFloat32(m, outs[i], residual)
			if err != nil {
				return nil, err
			}
			o.floats = append(o.floats, l)
			continue
		}
		var same []kernels.Matrix
		for j := i; j < len(op.Mats); j++ {
			if formats[j] == formats[i] && (!gated || together) {
				same = append(same, x.matrix(op.Mats[j].Weight, op.Mats[j].Bias, outs[j]))
				done[j] = true
			}
		}
		if len(same) == 0 { // one half of a pair of two formats
			same = append(same, x.matrix(m.Weight, m.Bias, outs[i]))
		}
		for at := 0; at < len(same); at += maxMatrices {
			part := same[at:min(at+maxMatrices, len(same))]
			pr, err := x.newProduct(m.Weight, part, together, in, residual, op.Norm)
			if err != nil {
				return nil, err
			}
			o.products = append(o.products, pr)
			matrices = append(matrices, part...)
			parts = append(parts, pr.part())
		}
	}
	free := x.beside(op)
	if len(parts) == 2 && len(matrices) <= maxMatrices && !gated && len(o.floats) == 0 {
		params := x.projectParams(parts[0].like, matrices, false, in, residual, op.Norm)
		if o.both, err = x.newOne(params, free, parts...); err != nil || o.both != nil {
			return o, err
		}
	}
	for _, pr := range o.products {
		if err := x.takeOne(pr, free); err != nil {
			return nil, err
		}
	}
	return o, nil
}

// maxMatrices is how many a launch takes (ProjectParams).
const maxMatrices = len(kernels.ProjectParams{}.Matrix)

func (x *executable) newFloat32(m device.Matrix, out, residual uint64) (*launch[kernels.ProjectF32Params], error) {
	p := &x.ws.places[m.Weight]
	l, err := newLaunch(x.dev, "project_f32", 256, kernels.ProjectF32Params{
		Weight: uint64(x.ws.mem.ptr) + p.offset,
		Bias:   x.vector(m.Bias),
		In:     x.wide, Residual: residual, Out: out,
		Cols: uint32(p.tensor.Cols), Outs: uint32(p.tensor.Rows),
	})
	return l, err
}

func (x *executable) newGate(o *projection, out uint64) (err error) {
	o.gate, err = newLaunch(x.dev, "gate", 256, kernels.GateParams{Gate: x.spare[0], Up: x.spare[1], Out: out})
	return err
}

func (o *projection) run(x *executable, s *stepShape) error {
	if err := x.prepareFor(o.prepare, s.rows, len(o.floats) > 0, o.products...); err != nil {
		return err
	}
	if o.op.Norm != nil {
		if err := x.tap(o.op.Norm.Stage, x.wide, s.rows, int(o.prepare.params.Width)); err != nil {
			return err
		}
	}
	if s.rows == 1 && o.both != nil {
		o.both.params.Rows = 1
		if err := start(x.dev, o.both, x.dev.stream); err != nil {
			return err
		}
	} else {
		for _, pr := range o.products {
			if err := pr.run(x, s.rows, 0); err != nil {
				return err
			}
		}
	}
	for _, l := range o.floats {
		l.params.Rows = uint32(s.rows)
		if err := start(x.dev, l.grid(ceilDiv(int(l.params.Outs), 8), s.rows, 1), x.dev.stream); err != nil {
			return err
		}
	}
	if o.gate != nil {
		n := s.rows * x.prog.Values[o.op.Mats[0].Out].Width
		o.gate.params.Count = uint64(n)
		if err := start(x.dev, o.gate.grid(min(ceilDiv(n, 256), 4*x.dev.props.SMs), 1, 1), x.dev.stream); err != nil {
			return err
		}
	}
	for _, m := range o.op.Mats {
		if m.Out == device.NoValue {
			continue
		}
		if err := x.tapValue(m.Out, s); err != nil {
			return err
		}
	}
	return nil
}
