package cuda

import (
	"cmp"
	"errors"
	"fmt"

	"kigo/engine/device"
	"kigo/engine/device/cuda/driver"
	"kigo/engine/quant"
	"kigo/kernels"
)

// executable is a compiled program: a list of operations on the device's stream.
type executable struct {
	dev   *Device
	prog  *device.Program
	ws    *weights
	cache *cache
	opt   device.CompileOptions

	ops     []operation
	vectors map[device.TensorID]uint64 // norm gains, biases: float32 on the device

	multiplied map[device.TensorID]bool // matrices that products take
	formats    map[quant.Type]bool      // that they have
	ups        []float32                // what their scales are multiplied with (Matrix.Up)

	values    []uint64 // address of each value, MaxRows x width floats
	angles    map[rotation]*angleTable
	embedding *embedding // makes those of one of them

	scratch buffer // values and all that follows
	half    uint64 // what enters a product: MaxRows x widest, float16
	largest uint64 // the largest scale of each tensor
	scales  uint64
	wide    uint64 // the same in float32, for F32 weights and for taps
	spare   [2]uint64
	logits  uint64 // logitRows x vocabulary
	partial uint64 // attention, unit by unit; sums of products, block by block
	partMax int    // floats there
	counts  uint64 // of units, or blocks, that are done; 0 between kernels

	in     inputs
	heads  int             // of attention, at most
	group  int             // that share a KV head, at most
	ropes  map[int]*rotate // by layer
	last   *logits
	graphs map[graphKey]driver.GraphExec

	clusters map[int]int // see countClusters
	shape    stepShape   // of the last step
	busy     bool        // there is work in the stream that nobody has waited for

	turns [2]turn // the last two steps, in turn
	turn  int     // which of them is the last one
	under int     // steps that have begun and were not asked about
	named int     // rows of the last one whose tokens the next one can name
	asked *turn   // that Largest has given last

	logitRows int // rows of logits that are computed at a time
	held      int // the first of the step's rows whose logits are in logits
	choosing  choosing
	drawing   drawing

	host   []byte    // pinned: logits of fetchRows rows
	own    []float32 // logits of more rows than fit there
	every  []int     // 0, 1, 2, …
	result []float32 // the logits that were fetched last, in host or own
	closed bool
}

// turn is what a step has to itself while another one is under way.
type turn struct {
	best  uint64       // ranks of the largest logits, by row, until the step after the next one
	ranks []byte       // the same, pinned
	there driver.Event // they are there, and so are the drawn tokens

	drawIn, drawOut []byte  // pinned: see drawing
	wants           []int   // of the step's draws, those whose tokens come there
	drawn           []int32 // of each of the draws

	rows, logits int
}

// now is the last step's turn, before that of the one before it.
func (x *executable) now() *turn    { return &x.turns[x.turn] }
func (x *executable) before() *turn { return &x.turns[1-x.turn] }

// operation is one operator of the program on the device.
type operation interface {
	run(x *executable, s *stepShape) error
}

// stepShape is what the operations want to know of the step at hand.
type stepShape struct {
	rows   int  // those that fill up a recorded step included
	logits int  // rows of which logits are wanted
	single bool // every sequence has one row

	// For attention.
	alone    int // rows that it takes each for itself
	splits   int // over how many blocks it spreads the units of such a row, at most; 0: a block walks over them
	tiles    int // of all other rows
	tileRows int // of one sequence, in a tile
}

// Logits of a step's rows are computed at once as far as logitBytes reach, 256 rows
// of a vocabulary of 152,000; then they make room for those of further rows.
// fetchRows come to the host at a time: pinning memory for more would cost more time
// than it saves.
const (
	logitBytes = 160 << 20
	fetchRows  = 16
)

// partialBytes bounds the memory for attention that is split over blocks, and for products
// whose blocks share outputs through memory: each has it while it runs. An attention that
// needs more walks through its positions row by row, and a product takes another shape,
// with the same result.
const partialBytes = 32 << 20

// maxCounts bounds the rows x heads whose attention is split over blocks, and the groups of
// blocks that share outputs.
const maxCounts = 1 << 14

// rotation says which angles a Rope operator wants.
type rotation struct {
	dims        int
	base, scale float64
	factors     device.TensorID
}

// Compile checks the program, takes the memory for MaxRows rows and prepares
// every launch.
func (d *Device) Compile(p *device.Program, w device.Weights, c device.Cache, opt device.CompileOptions) (_ device.Executable, err error) {
	ws, ok := w.(*weights)
	if !ok || ws.dev != d {
		return nil, fmt.Errorf("%w: weights of another device (%T)", device.ErrBadProgram, w)
	}
	kv, ok := c.(*cache)
	if !ok || kv.dev != d {
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
	if opt.MaxRows < 1 || opt.MaxRows > maxRows {
		return nil, fmt.Errorf("%w: steps of at most %d rows, want 1 to %d", device.ErrBadProgram, opt.MaxRows, maxRows)
	}
	if len(ws.places) != len(p.Tensors) {
		return nil, fmt.Errorf("%w: %d weights for %d tensors", device.ErrBadProgram, len(ws.places), len(p.Tensors))
	}
	for i := range p.Tensors {
		if p.Tensors[i] != ws.places[i].tensor {
			return nil, fmt.Errorf("%w: tensor %q was loaded as %+v", device.ErrBadProgram, p.Tensors[i].Name, ws.places[i].tensor)
		}
	}
	unbind, err := d.bind()
	if err != nil {
		return nil, err
	}
	defer unbind()
	x := &executable{
		dev: d, prog: p, ws: ws, cache: kv, opt: opt,
		logitRows: min(max(cmp.Or(d.cfg.logitBytes, logitBytes)/(4*p.Vocab), fetchRows), opt.MaxRows),
		vectors:   map[device.TensorID]uint64{}, multiplied: map[device.TensorID]bool{}, formats: map[quant.Type]bool{}, ups: make([]float32, len(p.Tensors)), angles: map[rotation]*angleTable{},
		ropes: map[int]*rotate{}, graphs: map[graphKey]driver.GraphExec{}, clusters: map[int]int{},
	}
	x.heads, x.group = groups(p)
	defer func() {
		if err != nil {
			err = errors.Join(err, x.release())
		}
	}()
	if err := x.takeScratch(); err != nil {
		return nil, err
	}
	if err := x.expandVectors(); err != nil {
		return nil, err
	}
	if err := x.findScales(); err != nil {
		return nil, err
	}
	for id := range x.multiplied {
		x.formats[p.Tensors[id].Format.Type] = true
	}
	for _, op := range p.Ops {
		o, err := x.prepare(op)
		if err != nil {
			return nil, err
		}
		x.ops = append(x.ops, o)
	}
	return x, nil
}

// maxRows bounds a step: grids have 65,535 blocks in y.
const maxRows = 1 << 15

// prepare makes the launches of one operator.
func (x *executable) prepare(op device.Op) (operation, error) {
	switch op := op.(type) {
	case *device.Embed:
		return x.newEmbed(op)
	case *device.Project:
		return x.newProject(op)
	case *device.Rope:
		return x.newRope(op)
	case *device.Attend:
		return x.newAttend(op)
	case *device.Logits:
		return x.newLogits(op)
	}
	return nil, fmt.Errorf("%w: operator %T", device.ErrBadProgram, op)
}

// arena gives out parts of an allocation whose size is found by giving out parts
// of nothing first.
type arena struct{ base, at uint64 }

func (a *arena) take(bytes uint64) uint64 {
	p := a.base + a.at
	a.at += align(bytes, tensorAlign)
	return p
}

// stride is the length of a row of what enters a product: the steps of every
// format are whole in it, and what is beyond the row's width is 0.
func stride(width int) int { return int(align(uint64(width), 64)) }

// takeScratch lays out everything but weights and cache, in one allocation.
func (x *executable) takeScratch() error {
	size := &arena{}
	x.layOut(size)
	var err error
	if x.scratch, err = x.dev.allocate(size.at, "scratch memory"); err != nil {
		return err
	}
	x.layOut(&arena{base: uint64(x.scratch.ptr)})
	if err := x.dev.drv.Fill8(driver.Ptr(x.counts), 0, 4*maxCounts, x.dev.stream); err != nil {
		return x.dev.wrap(err, "scratch memory")
	}
	if x.host, err = x.dev.drv.HostAlloc(4 * fetchRows * x.prog.Vocab); err != nil {
		return x.dev.wrap(err, "memory for logits")
	}
	for i := range x.turns {
		t := &x.turns[i]
		if t.ranks, err = x.dev.drv.HostAlloc(8 * x.opt.MaxRows); err != nil {
			return x.dev.wrap(err, "memory for logits")
		}
		if t.there, err = x.dev.drv.NewEvent(false); err != nil {
			return x.dev.wrap(err, "event for logits")
		}
	}
	for i := range x.turns {
		if err := x.drawing.takeHost(x.dev, &x.turns[i]); err != nil {
			return err
		}
	}
	return x.in.init(x.dev, x.opt.MaxRows, min(x.cache.blocks, 1<<20))
}

func (x *executable) layOut(a *arena) {
	n := uint64(x.opt.MaxRows)
	widest, heads := 0, 0
	for _, v := range x.prog.Values {
		widest = max(widest, v.Width)
	}
	x.values = assign(x.prog, func(width int) uint64 { return a.take(4 * n * uint64(width)) })
	for _, op := range x.prog.Ops {
		switch op := op.(type) {
		case *device.Project:
			for _, m := range op.Mats {
				x.multiplied[m.Weight] = true
				if m.Bias != device.NoTensor {
					x.vectors[m.Bias] = 0
				}
				if op.Act != device.ActNone {
					widest = max(widest, x.prog.Tensors[m.Weight].Rows)
				}
			}
			if op.Norm != nil {
				x.vectors[op.Norm.Weight] = 0
			}
		case *device.Logits:
			x.multiplied[op.Weight] = true
			if op.Norm != nil {
				x.vectors[op.Norm.Weight] = 0
			}
		case *device.Rope:
			key := rotation{op.Dims, op.Base, op.Scale, op.Factors}
			if x.angles[key] == nil {
				x.angles[key] = &angleTable{}
			}
			x.angles[key].freq = a.take(8 * uint64(op.Dims/2))
			x.angles[key].table = a.take(8 * n * uint64(op.Dims/2))
		case *device.Attend:
			heads = max(heads, op.Heads*op.HeadDim)
		}
	}
	// In order of tensors, so that both rounds give the same places.
	for id := range x.prog.Tensors {
		if _, ok := x.vectors[device.TensorID(id)]; ok {
			t := &x.prog.Tensors[id]
			x.vectors[device.TensorID(id)] = a.take(4 * uint64(t.Rows*t.Cols))
		}
	}
	most := uint64(x.stageRows(x.opt.MaxRows))
	x.half = a.take(2 * most * uint64(stride(widest)))
	x.scales = a.take(4 * n)
	x.largest = a.take(4 * uint64(len(x.ups)))
	x.wide = a.take(4 * n * uint64(widest))
	for i := range x.spare {
		x.spare[i] = a.take(4 * n * uint64(widest))
	}
	x.logits = a.take(4 * uint64(x.logitRows) * uint64(x.prog.Vocab))
	for i := range x.turns {
		x.turns[i].best = a.take(8 * n)
	}
	x.drawing.layOut(a, x)
	x.partMax = partialBytes / 4
	x.partial = a.take(partialBytes)
	x.counts = a.take(4 * maxCounts)
}

// assign gives every value a place. A place is free again after the last
// operator that reads the value in it, so that all layers share a few.
func assign(p *device.Program, take func(width int) uint64) []uint64 {
	places := make([]uint64, len(p.Values))
	last := make([]int, len(p.Values))
	for i, op := range p.Ops {
		reads, writes := operands(op)
		for _, v := range append(reads, writes...) {
			last[v] = i
		}
	}
	free := map[int][]uint64{} // by width
	for i, op := range p.Ops {
		reads, writes := operands(op)
		for _, v := range writes {
			w := p.Values[v].Width
			if n := len(free[w]); n > 0 {
				places[v], free[w] = free[w][n-1], free[w][:n-1]
			} else {
				places[v] = take(w)
			}
		}
		done := map[device.Value]bool{}
		for _, v := range append(reads, writes...) {
			if last[v] == i && !done[v] {
				done[v] = true
				free[p.Values[v].Width] = append(free[p.Values[v].Width], places[v])
			}
		}
	}
	return places
}

// operands are the values that an operator reads and writes.
func operands(op device.Op) (reads, writes []device.Value) {
	switch op := op.(type) {
	case *device.Embed:
		writes = []device.Value{op.Out}
	case *device.Project:
		reads = []device.Value{op.In}
		if op.Residual != device.NoValue {
			reads = append(reads, op.Residual)
		}
		for _, m := range op.Mats {
			if m.Out != device.NoValue {
				writes = append(writes, m.Out)
			}
		}
	case *device.Rope:
		reads, writes = []device.Value{op.Q, op.K, op.V}, []device.Value{op.QOut, op.KOut}
	case *device.Attend:
		reads, writes = []device.Value{op.Q}, []device.Value{op.Out}
	case *device.Logits:
		reads = []device.Value{op.In}
	}
	return reads, writes
}

// expandVectors makes float32 of gains and biases.
func (x *executable) expandVectors() error {
	for id, to := range x.vectors {
		l, err := newLaunch(x.dev, "dequantize", 256, kernels.DequantizeParams{
			Layout: x.ws.layout(int(id)),
			Out:    to,
			Count:  uint64(x.prog.Tensors[id].Rows * x.prog.Tensors[id].Cols),
		})
		if err != nil {
			return err
		}
		l.grid(ceilDiv(int(l.params.Count), 256), 1, 1)
		if err := start(x.dev, l, x.dev.stream); err != nil {
			return err
		}
	}
	return x.dev.wrap(x.dev.drv.SyncStream(x.dev.stream), "dequantize vectors")
}

// vector is the address of a gain or bias, 0 for none.
func (x *executable) vector(t device.TensorID) uint64 {
	if t == device.NoTensor {
		return 0
	}
	return x.vectors[t]
}

// isFloat32 says whether a tensor's products are made in float32.
func (x *executable) isFloat32(t device.TensorID) bool {
	return x.prog.Tensors[t].Format.Type == quant.F32
}

func (x *executable) ScratchBytes() uint64 { return x.scratch.bytes }

// Close waits for the steps that are under way.
func (x *executable) Close() error {
	if x.closed {
		return nil
	}
	unbind, err := x.dev.bind()
	if err != nil {
		return err
	}
	defer unbind()
	x.closed = true
	return x.release()
}

// release frees what there is. The context must be bound.
func (x *executable) release() error {
	errs := []error{x.wait(), x.dropGraphs(), x.dev.release(&x.scratch), x.in.free(x.dev)}
	for i := range x.turns {
		if t := &x.turns[i]; t.there != 0 {
			errs = append(errs, x.dev.drv.DestroyEvent(t.there))
			t.there = 0
		}
	}
	pinned := []*[]byte{&x.host}
	for i := range x.turns {
		t := &x.turns[i]
		pinned = append(pinned, &t.ranks, &t.drawIn, &t.drawOut)
	}
	for _, b := range pinned {
		if *b != nil {
			errs = append(errs, x.dev.drv.HostFree(*b))
			*b = nil
		}
	}
	return x.dev.wrap(errors.Join(errs...), "close the executable")
}
