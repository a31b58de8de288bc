package cpu

import (
	"fmt"
	"math"

	"kigo/engine/device"
)

// executable walks the program's operators one after another; within one, the
// workers share out rows of weights or heads.
type executable struct {
	dev    *Device
	prog   *device.Program
	cache  *cache
	ws     *weights
	opt    device.CompileOptions
	mats   []*matrix   // by TensorID
	vecs   [][]float32 // by TensorID: norm gains, biases, rope factors; nil for matrices
	lanes  []lane      // by worker
	scores [][]float32 // by worker: attention weights of one head
	temp   [][]float32 // by worker: gate products of all rows

	values [][]float32 // by Value: rows x width of the step
	normed rows        // what enters the product at hand
	angles map[*device.Rope]*angles
	logits []float32
	chosen []float32 // rows of which logits are wanted

	step     *device.Step
	rowSeq   []int // by row: index in step.Seqs
	rowPos   []int // by row: position in its sequence
	scratch  uint64
	isClosed bool
}

// Compile checks the program and takes the memory for MaxRows rows.
func (d *Device) Compile(p *device.Program, w device.Weights, c device.Cache, opt device.CompileOptions) (device.Executable, error) {
	ws, ok := w.(*weights)
	if !ok {
		return nil, fmt.Errorf("%w: weights of another device (%T)", device.ErrBadProgram, w)
	}
	kv, ok := c.(*cache)
	if !ok {
		return nil, fmt.Errorf("%w: cache of another device (%T)", device.ErrBadProgram, c)
	}
	if ws.closed.Load() || kv.closed.Load() {
		return nil, fmt.Errorf("compile: %w", device.ErrClosed)
	}
	if err := p.Check(); err != nil {
		return nil, err
	}
	want := p.Cache
	want.BlockSize = kv.shape.BlockSize
	if kv.shape != want {
		return nil, fmt.Errorf("%w: cache %+v, want %+v", device.ErrBadProgram, kv.shape, want)
	}
	if opt.MaxRows < 1 {
		return nil, fmt.Errorf("%w: steps of at most %d rows", device.ErrBadProgram, opt.MaxRows)
	}
	x := &executable{dev: d, prog: p, cache: kv, ws: ws, opt: opt, angles: map[*device.Rope]*angles{}}
	if err := x.bindWeights(ws); err != nil {
		return nil, err
	}
	x.makeScratch()
	return x, nil
}

func (x *executable) bindWeights(ws *weights) error {
	if len(ws.tensors) != len(x.prog.Tensors) {
		return fmt.Errorf("%w: %d weights for %d tensors", device.ErrBadProgram, len(ws.tensors), len(x.prog.Tensors))
	}
	for i := range x.prog.Tensors {
		t := &x.prog.Tensors[i]
		if *t != ws.tensors[i] {
			return fmt.Errorf("%w: tensor %q was loaded as %+v", device.ErrBadProgram, t.Name, ws.tensors[i])
		}
		x.mats = append(x.mats, newMatrix(t, ws.bytes(i)))
		var vec []float32
		if t.Rows == 1 {
			vec = make([]float32, t.Cols)
			t.Format.Dequantize(vec, ws.bytes(i))
			x.scratch += uint64(4 * len(vec))
		}
		x.vecs = append(x.vecs, vec)
	}
	return nil
}

func (x *executable) makeScratch() {
	n := x.opt.MaxRows
	floats := func(size int) []float32 {
		x.scratch += uint64(4 * size)
		return make([]float32, size)
	}
	widest := 0
	for _, v := range x.prog.Values {
		x.values = append(x.values, floats(n*v.Width))
		widest = max(widest, v.Width)
	}
	x.normed = rows{f: floats(n * widest), q: make([]int16, n*widest), scale: floats(n * widest / blockLen), sum: floats(n * widest / blockLen)}
	x.scratch += uint64(2 * n * widest)
	x.chosen = floats(n * widest)
	for range x.dev.cfg.Threads {
		if x.dev.cfg.Reference {
			x.lanes = append(x.lanes, &referenceLane{})
		} else {
			x.lanes = append(x.lanes, &servedLane{})
		}
		x.temp = append(x.temp, floats(n))
		x.scores = append(x.scores, nil)
	}
	shared := map[string]*angles{} // all layers rotate alike as a rule
	for _, op := range x.prog.Ops {
		if r, ok := op.(*device.Rope); ok {
			key := fmt.Sprint(r.Dims, r.Base, r.Scale, r.Factors)
			if shared[key] == nil {
				shared[key] = newAngles(r, x.vec(r.Factors), n)
			}
			x.angles[r] = shared[key]
		}
	}
}

func (x *executable) vec(t device.TensorID) []float32 {
	if t == device.NoTensor {
		return nil
	}
	return x.vecs[t]
}

// Run walks the operators.
func (x *executable) Run(step *device.Step) ([]float32, error) {
	if x.isClosed || x.cache.closed.Load() || x.ws.closed.Load() {
		return nil, fmt.Errorf("run: %w", device.ErrClosed)
	}
	if err := step.Check(x.prog.Vocab, x.opt.MaxRows, x.cache.shape.BlockSize, x.cache.blocks); err != nil {
		return nil, err
	}
	x.step = step
	x.rowSeq, x.rowPos = x.rowSeq[:0], x.rowPos[:0]
	for i, s := range step.Seqs {
		for r := range s.Rows {
			x.rowSeq = append(x.rowSeq, i)
			x.rowPos = append(x.rowPos, s.Start+r)
		}
	}
	for _, a := range x.angles {
		a.turn(x.rowPos)
	}
	for _, op := range x.prog.Ops {
		switch op := op.(type) {
		case *device.Embed:
			x.embed(op)
		case *device.Project:
			x.project(op)
		case *device.Rope:
			x.rope(op)
		case *device.Attend:
			x.attend(op)
		case *device.Logits:
			x.projectLogits(op)
		}
	}
	return x.logits, nil
}

func (x *executable) ScratchBytes() uint64 { return x.scratch }

func (x *executable) Close() error {
	x.isClosed = true
	return nil
}

// value returns a value's rows of this step.
func (x *executable) value(v device.Value) []float32 {
	return x.values[v][:len(x.step.Tokens)*x.prog.Values[v].Width]
}

func (x *executable) tap(v device.Value) {
	if x.opt.Tap != nil {
		info := x.prog.Values[v]
		x.opt.Tap(info.Stage, len(x.step.Tokens), info.Width, x.value(v))
	}
}

// angles are the cosines and sines by which a step's rows are rotated.
type angles struct {
	freq     []float64 // radians a position, by pair
	row      int       // pairs
	cos, sin []float32 // rows x pairs
}

func newAngles(r *device.Rope, factors []float32, maxRows int) *angles {
	a := &angles{row: r.Dims / 2, freq: make([]float64, r.Dims/2)}
	for i := range a.freq {
		a.freq[i] = r.Scale * math.Pow(r.Base, -2*float64(i)/float64(r.Dims))
		if factors != nil {
			a.freq[i] /= float64(factors[i])
		}
	}
	a.cos, a.sin = make([]float32, maxRows*a.row), make([]float32, maxRows*a.row)
	return a
}

func (a *angles) turn(positions []int) {
	for r, pos := range positions {
		for i, f := range a.freq {
			sin, cos := math.Sincos(float64(pos) * f)
			a.cos[r*a.row+i], a.sin[r*a.row+i] = float32(cos), float32(sin)
		}
	}
}

// quantized says whether a product with t takes quantized activations.
func (x *executable) quantized(t device.TensorID) bool {
	return !x.dev.cfg.Reference && x.mats[t].unpack != nil
}
