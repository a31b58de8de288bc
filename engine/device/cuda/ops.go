package cuda

import (
	"fmt"
	"math"

	"kigo/engine/device"
	"kigo/engine/device/cuda/driver"
	"kigo/kernels"
)

// embedding looks up the rows of the step's tokens.
type embedding struct {
	op *device.Embed
	l  *launch[kernels.EmbedParams]
}

func (x *executable) newEmbed(op *device.Embed) (operation, error) {
	l, err := newLaunch(x.dev, "embed", 128, kernels.EmbedParams{
		Table: x.ws.layout(int(op.Table)),
		Out:   x.values[op.Out],
		Clear: x.best, Clears: logitRows, // before the step's logits are ranked
	})
	return &embedding{op, l}, err
}

func (o *embedding) run(x *executable, s *stepShape) error {
	o.l.params.Tokens, o.l.params.Rows = x.in.tokens(), uint32(s.rows)
	if err := start(x.dev, o.l.grid(ceilDiv(int(o.l.params.Table.Cols), 128), s.rows, 1), x.dev.stream); err != nil {
		return err
	}
	return x.tapValue(o.op.Out, s)
}

// angleTable is the cosines and sines by which a step's rows are rotated.
type angleTable struct {
	freq, table uint64
	l           *launch[kernels.AnglesParams]
}

func (a *angleTable) turn(x *executable, s *stepShape) error {
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
	if err := start(x.dev, o.l.grid(o.op.Heads+2*o.op.KVHeads, s.rows, 1), x.dev.stream); err != nil {
		return err
	}
	if err := x.tapValue(o.op.QOut, s); err != nil {
		return err
	}
	return x.tapValue(o.op.KOut, s)
}

// attention over the cache.
type attention struct {
	op      *device.Attend
	groups  int // of query heads that a block serves together, in a KV head
	l       *launch[kernels.AttendParams]
	fused   *launch[kernels.AttendParams] // with the rotation before it; or nil
	combine *launch[kernels.CombineParams]
}

// splitTokens is the length of the parts in which attention walks over a
// sequence (SPLIT in kernels/attention.cu).
const splitTokens = 256

func (x *executable) newAttend(op *device.Attend) (operation, error) {
	if op.HeadDim%8 != 0 || op.HeadDim > 256 {
		return nil, fmt.Errorf("%w: attention with heads of %d elements; the kernels take multiples of 8 up to 256", device.ErrNotSupported, op.HeadDim)
	}
	lanes, heads := 4, 4
	for lanes*8 < op.HeadDim {
		lanes *= 2
	}
	if op.Heads == op.KVHeads {
		heads = 1
	}
	l, err := newLaunch(x.dev, fmt.Sprintf("attend_%dx%d", lanes, heads), 128, kernels.AttendParams{
		Cache: x.cache.layer(op.Layer),
		Q:     x.values[op.Q], Out: x.values[op.Out],
		Partial: x.partial, PartialMl: x.partial + align(4*uint64(x.partMax*op.HeadDim/(op.HeadDim+2)), 8),
		Heads: uint32(op.Heads),
		Scale: op.Scale,
	})
	if err != nil {
		return nil, err
	}
	o := &attention{op: op, groups: ceilDiv(op.Heads/op.KVHeads, heads), l: l}
	if r := x.ropes[op.Layer]; r != nil && r.op.QOut == op.Q {
		p := l.params
		p.Q, p.K, p.V = r.l.params.Q, r.l.params.K, r.l.params.V
		p.Angles, p.Dims, p.Halves = r.l.params.Angles, r.l.params.Dims, r.l.params.Halves
		if o.fused, err = newLaunch(x.dev, fmt.Sprintf("attend_append_%dx%d", lanes, heads), 128, p); err != nil {
			return nil, err
		}
		r.fused = true
	}
	o.combine, err = newLaunch(x.dev, "combine", min(op.HeadDim, 128), kernels.CombineParams{
		Partial: l.params.Partial, PartialMl: l.params.PartialMl, Out: l.params.Out,
		Heads: uint32(op.Heads), HeadDim: uint32(op.HeadDim),
	})
	return o, err
}

// splits is over how many blocks a row's positions are spread. It does not
// change the result: see kernels/attention.cu.
func (o *attention) splits(x *executable, s *stepShape) int {
	blocks := s.rows * o.op.KVHeads * o.groups
	if blocks >= 4*x.dev.props.SMs || s.rows*o.op.Heads*s.splits*(o.op.HeadDim+2) > x.partMax {
		return 1
	}
	return s.splits
}

func (o *attention) run(x *executable, s *stepShape) error {
	n, l := o.splits(x, s), o.l
	if o.fused != nil && s.single && !x.watched() {
		l = o.fused
	}
	p := &l.params
	p.Positions, p.Tables, p.TableOf = x.in.positions(), x.in.tables(), x.in.tableOf()
	p.Rows, p.Splits = uint32(s.rows), uint32(n)
	if err := start(x.dev, l.grid(s.rows, o.op.KVHeads*o.groups, n), x.dev.stream); err != nil {
		return err
	}
	if n > 1 {
		c := &o.combine.params
		c.Positions, c.Rows, c.Splits = p.Positions, p.Rows, p.Splits
		if err := start(x.dev, o.combine.grid(o.op.Heads, s.rows, 1), x.dev.stream); err != nil {
			return err
		}
	}
	return x.tapValue(o.op.Out, s)
}
