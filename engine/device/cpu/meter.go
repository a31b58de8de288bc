package cpu

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"kigo/engine/device"
	"kigo/engine/quant"
)

// The size of what is read and copied: far beyond most processors' caches, and a
// small part of the machine's memory.
const (
	mostMeasured  = 256 << 20
	leastMeasured = 16 << 20
)

// A measurement is repeated for so long, and so often at least.
const (
	measureFor    = 200 * time.Millisecond
	measurePasses = 3
)

// CopyRate measures a streaming read, which decoding is made of, by all threads:
// the standard library's search for a byte that is not there.
func (d *Device) CopyRate(ctx context.Context) (_ device.Rate, err error) {
	m, err := d.filled()
	if err != nil {
		return device.Rate{}, err
	}
	defer func() { err = errors.Join(err, m.free()) }()
	took, err := shortest(ctx, func() error {
		d.spread(len(m.bytes), func(lo, hi int) { bytes.IndexByte(m.bytes[lo:hi], absent) })
		return nil
	})
	return d.rate(len(m.bytes), took, "streaming read"), err
}

// UploadRate measures a copy within the memory: what reading a file from the page
// cache is. Each byte counts once.
func (d *Device) UploadRate(ctx context.Context) (_ device.Rate, err error) {
	m, err := d.filled()
	if err != nil {
		return device.Rate{}, err
	}
	defer func() { err = errors.Join(err, m.free()) }()
	half := len(m.bytes) / 2
	to, from := m.bytes[:half], m.bytes[half:2*half]
	took, err := shortest(ctx, func() error {
		d.spread(half, func(lo, hi int) { copy(to[lo:hi], from[lo:hi]) })
		return nil
	})
	return d.rate(half, took, "copy in memory"), err
}

func (d *Device) rate(n int, took time.Duration, method string) device.Rate {
	if took <= 0 {
		return device.Rate{}
	}
	return device.Rate{PerSecond: float64(n) / took.Seconds(), Method: fmt.Sprintf("%s, %d threads", method, d.cfg.Threads)}
}

// absent is a byte that filled memory does not have.
const absent = 0xff

// filled is memory of which every page has been written to: before that, all
// pages are the same one.
func (d *Device) filled() (*memory, error) {
	size := mostMeasured
	if _, free := machineMemory(); free > 0 && free/8 < mostMeasured {
		size = int(free / 8)
	}
	if size < leastMeasured {
		return nil, fmt.Errorf("%w to measure with", device.ErrOutOfMemory)
	}
	m, err := allocate(size)
	if err != nil {
		return nil, err
	}
	d.spread(size, func(lo, hi int) {
		for i := lo; i < hi; i += 4096 {
			m.bytes[i] = 1
		}
	})
	return m, nil
}

// spread calls do for parts of [0, n), one for each thread, at the same time.
func (d *Device) spread(n int, do func(lo, hi int)) {
	var parts sync.WaitGroup
	for i := range d.cfg.Threads {
		parts.Go(func() { do(n*i/d.cfg.Threads, n*(i+1)/d.cfg.Threads) })
	}
	parts.Wait()
}

// shortest repeats a pass and returns how long the shortest took; the first warms
// things up.
func shortest(ctx context.Context, pass func() error) (time.Duration, error) {
	best := time.Duration(0)
	for begun, n := time.Now(), 0; n <= measurePasses || time.Since(begun) < measureFor; n++ {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		from := time.Now()
		if err := pass(); err != nil {
			return 0, err
		}
		if took := time.Since(from); n > 0 && (best == 0 || took < best) {
			best = took
		}
	}
	return best, nil
}

// MatrixRate measures the device's own inner product: a step of several rows
// through matrices that lie in the caches, of 8-bit integers and of floats. The
// faster of the two counts.
func (d *Device) MatrixRate(ctx context.Context) (device.Rate, error) {
	var best device.Rate
	for _, t := range []quant.Type{quant.Q8_0, quant.F32} {
		f, err := quant.Lookup(t)
		if err != nil {
			return best, err
		}
		r, err := d.productRate(ctx, f)
		if err != nil {
			return best, err
		}
		if r.PerSecond > best.PerSecond {
			best = r
		}
	}
	return best, nil
}

// The product that is measured: each thread's part of a matrix, and the
// activations, stay in a core's second-level cache.
const (
	productCols     = 1024
	productRows     = 256 // outputs for each thread
	productStep     = 32  // rows of activations
	productRepeated = 2   // times in a step, so that what surrounds it counts for little
)

// productRate runs a program that is one projection, several times over.
func (d *Device) productRate(ctx context.Context, f *quant.Format) (_ device.Rate, err error) {
	table, err := quant.Lookup(quant.F32)
	if err != nil {
		return device.Rate{}, err
	}
	outs := productRows * d.cfg.Threads
	p := &device.Program{
		Tensors: []device.Tensor{
			{Name: "table", Format: table, Rows: 1, Cols: productCols},
			{Name: "matrix", Format: f, Rows: outs, Cols: productCols},
		},
		Values: []device.ValueInfo{{Stage: "in", Width: productCols}},
		Ops:    []device.Op{&device.Embed{Table: 0, Out: 0}},
		Cache:  device.CacheShape{Layers: 1, KVHeads: 1, HeadDim: 2},
		Vocab:  1,
	}
	for i := range productRepeated {
		p.Values = append(p.Values, device.ValueInfo{Stage: fmt.Sprintf("out%d", i), Width: outs})
		p.Ops = append(p.Ops, &device.Project{
			In:       0,
			Mats:     []device.Matrix{{Weight: 1, Bias: device.NoTensor, Out: device.Value(i + 1)}},
			Residual: device.NoValue,
		})
	}
	p.Ops = append(p.Ops, &device.Logits{In: 0, Weight: 0, Stage: "logits"})

	w, err := d.NewWeights(p.Tensors)
	if err != nil {
		return device.Rate{}, err
	}
	defer func() { err = errors.Join(err, w.Close()) }()
	if err := fillRandom(w, p.Tensors); err != nil {
		return device.Rate{}, err
	}
	shape := p.Cache
	shape.BlockSize = productStep
	c, err := device.WholeCache(d, shape, 1)
	if err != nil {
		return device.Rate{}, err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	x, err := d.Compile(p, w, c, device.CompileOptions{MaxRows: productStep})
	if err != nil {
		return device.Rate{}, err
	}
	defer func() { err = errors.Join(err, x.Close()) }()
	step := &device.Step{Tokens: make([]int32, productStep), Seqs: []device.SeqRows{{Rows: productStep, Blocks: []int32{0}}}}
	took, err := shortest(ctx, func() error {
		_, err := x.Run(step)
		return err
	})
	flops := 2 * productCols * outs * productStep * productRepeated
	return d.rate(flops, took, fmt.Sprintf("own product of %s with %d rows, in the caches", f.Name, productStep)), err
}

// fillRandom writes tensors of random values, each a buffer long at most.
func fillRandom(w device.Weights, tensors []device.Tensor) (err error) {
	up, err := w.NewUploader()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, up.Close()) }()
	rng := rand.New(rand.NewPCG(1, 1))
	for i := range tensors {
		t := &tensors[i]
		block := make([]byte, t.Bytes()/t.Rows)
		t.Format.Random(block, 1, rng)
		for row := range t.Rows {
			buf, err := up.Buffer(i, row*len(block), len(block))
			if err != nil {
				return err
			}
			copy(buf, block)
			if err := up.Commit(); err != nil {
				return err
			}
		}
	}
	return nil
}
