package cpu

import (
	"fmt"
	"math"

	"kigo/engine/device"
)

// executable walks the program's operators one after another; within one, the
// workers share out panels of weights or heads. A step allocates nothing, unless
// it needs more memory than any before it.
type executable struct {
	dev   *Device
	prog  *device.Program
	cache *cache
	ws    *weights
	opt   device.CompileOptions
	mats  []*matrix   // by TensorID
	vecs  [][]float32 // by TensorID: norm gains, biases, rope factors; nil for matrices

	values     [][]float32 // by Value: MaxRows x width; values that do not meet share memory
	normed     rows        // what enters the product at hand
	normedRows []float32   // memory for its floats
	angles     map[*device.Rope]*angles
	turning    []*angles // the different ones
	logits     []float32
	chosen     []float32 // rows of which logits are wanted
	tiles      []tile    // of the attention at hand

	// The loops of the workers, each with what it works on.
	normalizing normalizing
	multiplying multiplying
	gating      gating
	rotating    rotating
	attending   attending

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
		if t := &x.prog.Tensors[i]; *t != ws.tensors[i] {
			return fmt.Errorf("%w: tensor %q was loaded as %+v", device.ErrBadProgram, t.Name, ws.tensors[i])
		}
	}
	x.dev.workers.run(len(ws.tensors), 1, packingTask{ws})
	for i := range x.prog.Tensors {
		t := &x.prog.Tensors[i]
		var vec []float32
		panels := ws.bytes(i)
		if t.Rows == 1 {
			vec = make([]float32, t.Cols)
			t.Format.Dequantize(vec, panels)
			x.scratch += uint64(4 * len(vec))
			if x.isMatrix(device.TensorID(i)) {
				file, p := panels, newPacking(t.Format, t.Cols)
				panels = make([]byte, p.panelBytes())
				packMatrix(&p, panels, file)
				x.scratch += uint64(len(panels))
			}
		}
		x.mats = append(x.mats, newMatrix(t, panels, x.dev.path))
		x.vecs = append(x.vecs, vec)
	}
	return nil
}

// isMatrix says whether a tensor of one row is multiplied with or looked up in.
func (x *executable) isMatrix(t device.TensorID) bool {
	for _, op := range x.prog.Ops {
		switch op := op.(type) {
		case *device.Embed:
			if op.Table == t {
				return true
			}
		case *device.Project:
			for _, m := range op.Mats {
				if m.Weight == t {
					return true
				}
			}
		case *device.Logits:
			if op.Weight == t {
				return true
			}
		}
	}
	return false
}

// packingTask packs tensors that nobody has hashed.
type packingTask struct{ ws *weights }

func (p packingTask) do(_ *worker, lo, hi int) {
	for i := lo; i < hi; i++ {
		p.ws.pack(i)
	}
}

func (x *executable) makeScratch() {
	n := x.opt.MaxRows
	floats := func(size int) []float32 {
		x.scratch += uint64(4 * size)
		return make([]float32, size)
	}
	places, widths := shareMemory(x.prog)
	memory := make([][]float32, len(widths))
	for i, width := range widths {
		memory[i] = floats(n * width)
	}
	widest := 0
	for v, place := range places {
		x.values = append(x.values, memory[place])
		widest = max(widest, x.prog.Values[v].Width)
	}
	x.normedRows = floats(n * widest)
	x.normed = rows{q: make([]byte, n*(widest/blockLen)*recordBytes)}
	x.scratch += uint64(len(x.normed.q))
	x.chosen = floats(n * widest)
	x.normalizing.x, x.multiplying.x, x.gating.x, x.rotating.x, x.attending.x = x, x, x, x, x
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
	for _, a := range shared {
		x.turning = append(x.turning, a)
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
	if err := step.Check(x.prog.Vocab, x.opt.MaxRows, x.cache.shape.BlockSize, x.cache.mapped, 0); err != nil {
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
	for _, a := range x.turning {
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
	return !x.dev.cfg.Reference && !floats(x.prog.Tensors[t].Format)
}
