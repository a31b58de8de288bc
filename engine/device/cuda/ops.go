package cuda

import (
	"math"

	"kigo/engine/device"
	"kigo/engine/device/cuda/driver"
	"kigo/kernels"
)

const embedThreads = 128

// embedding looks up the rows of the step's tokens, and makes the angles of their
// positions on the way, of one kind.
type embedding struct {
	op     *device.Embed
	l      *launch[kernels.EmbedParams]
	angles *angleTable // nil: the program has none
}

func (x *executable) newEmbed(op *device.Embed) (operation, error) {
	l, err := newLaunch(x.dev, "embed", embedThreads, kernels.EmbedParams{
		Table:  x.ws.layout(int(op.Table)),
		Out:    x.values[op.Out],
		Clears: uint32(x.opt.MaxRows), // before the step's logits are ranked
		Vocab:  uint32(x.prog.Tensors[op.Table].Rows),
		Blocks: uint32(ceilDiv(x.prog.Tensors[op.Table].Cols, embedThreads)),
	})
	o := &embedding{op: op, l: l}
	if x.embedding == nil {
		x.embedding = o
	}
	return o, err
}

func (o *embedding) run(x *executable, s *stepShape) error {
	p := &o.l.params
	p.Tokens, p.Rows = x.in.tokens(), uint32(s.rows)
	p.Previous, p.Clear = x.before().best, x.now().best
	blocks := int(p.Blocks)
	if o.angles != nil {
		p.Angles = o.angles.l.params
		p.Angles.Positions, p.Angles.Rows = x.in.positions(), uint32(s.rows)
		blocks += ceilDiv(int(p.Angles.Pairs), embedThreads)
	}
	if err := start(x.dev, o.l.grid(blocks, s.rows, 1), x.dev.stream); err != nil {
		return err
	}
	return x.tapValue(o.op.Out, s)
}

// angleTable is the cosines and sines by which a step's rows are rotated.
type angleTable struct {
	freq, table uint64
	l           *launch[kernels.AnglesParams]
}

// turn makes them, if the embedding does not: every program begins with one.
func (a *angleTable) turn(x *executable, s *stepShape) error {
	if a == x.embedding.angles {
		return nil
	}
	a.l.params.Positions, a.l.params.Rows = x.in.positions(), uint32(s.rows)
	return start(x.dev, a.l.grid(ceilDiv(int(a.l.params.Pairs), 64), s.rows, 1), x.dev.stream)
}

// newAngles sends the frequencies, in radians a position.
func (x *executable) newAngles(op *device.Rope, a *angleTable) (err error) {
	pairs := op.Dims / 2
	factors := make([]float32, 0, pairs)
	if op.Factors != device.NoTensor {
		if factors, err = x.fetchTensor(op.Factors); err != nil {
			return err
		}
	}
	d := x.dev
	host, err := d.drv.HostAlloc(8 * pairs)
	if err != nil {
		return d.wrap(err, "angles")
	}
	freq := doubles(host)
	for i := range freq {
		freq[i] = op.Scale * math.Pow(op.Base, -2*float64(i)/float64(op.Dims))
		if len(factors) > 0 {
			freq[i] /= float64(factors[i])
		}
	}
	err = d.drv.CopyToDevice(driver.Ptr(a.freq), host, d.stream)
	if err == nil {
		err = d.drv.SyncStream(d.stream)
	}
	if ferr := d.drv.HostFree(host); err == nil {
		err = ferr
	}
	if err != nil {
		return d.wrap(err, "angles")
	}
	a.l, err = newLaunch(d, "angles", 64, kernels.AnglesParams{Freq: a.freq, Out: a.table, Pairs: uint32(pairs)})
	return err
}

// fetchTensor dequantizes a small tensor and brings it to the host.
func (x *executable) fetchTensor(id device.TensorID) ([]float32, error) {
	t := &x.prog.Tensors[id]
	n := t.Rows * t.Cols
	b, err := x.dev.allocate(uint64(4*n), t.Name)
	if err != nil {
		return nil, err
	}
	l, err := newLaunch(x.dev, "dequantize", 256, kernels.DequantizeParams{Layout: x.ws.layout(int(id)), Out: uint64(b.ptr), Count: uint64(n)})
	if err == nil {
		err = start(x.dev, l.grid(ceilDiv(n, 256), 1, 1), x.dev.stream)
	}
	var v []float32
	if err == nil {
		v, err = x.fetch(uint64(b.ptr), n)
	}
	if ferr := x.dev.release(&b); err == nil {
		err = ferr
	}
	return v, err
}

// rotate turns queries and keys and appends to the KV cache.
type rotate struct {
	op    *device.Rope
	angle *angleTable
	fused bool // the layer's attention can do it
	l     *launch[kernels.AppendParams]
}

func (x *executable) newRope(op *device.Rope) (operation, error) {
	a := x.angles[rotation{op.Dims, op.Base, op.Scale, op.Factors}]
	if a.l == nil {
		if err := x.newAngles(op, a); err != nil {
			return nil, err
		}
		if x.embedding.angles == nil {
			x.embedding.angles = a
		}
	}
	p := kernels.AppendParams{
		Cache: x.cache.layer(op.Layer),
		Q:     x.values[op.Q], K: x.values[op.K], V: x.values[op.V],
		QOut: x.values[op.QOut], KOut: x.values[op.KOut],
		Angles: a.table,
		Heads:  uint32(op.Heads),
		Dims:   uint32(op.Dims),
	}
	if op.Style == device.RopeHalves {
		p.Halves = 1
	}
	l, err := newLaunch(x.dev, "append", min(max(32, op.HeadDim), 256), p)
	o := &rotate{op: op, angle: a, l: l}
	x.ropes[op.Layer] = o
	return o, err
}

// run leaves a step with one row of each sequence to the attention that follows.
func (o *rotate) run(x *executable, s *stepShape) error {
	if o.fused && s.single && !x.watched() {
		return nil
	}
	p := &o.l.params
	p.Positions, p.Tables, p.TableOf, p.Rows = x.in.positions(), x.in.tables(), x.in.tableOf(), uint32(s.rows)
	if err := start(x.dev, o.l.grid(ceilDiv(o.op.Heads+2*o.op.KVHeads, int(kernels.AppendHeads)), s.rows, 1), x.dev.stream); err != nil {
		return err
	}
	if err := x.tapValue(o.op.QOut, s); err != nil {
		return err
	}
	return x.tapValue(o.op.KOut, s)
}
