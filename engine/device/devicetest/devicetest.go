// Package devicetest is the conformance suite that every device runs. It
// compiles programs of one operator and compares what the operator gives with
// plain float64 arithmetic written down here, independently of any device.
package devicetest

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"testing"

	"kigo/engine/device"
	"kigo/engine/quant"
)

// Bounds are the largest relative errors, root mean square over root mean
// square of the reference, that a device may have.
type Bounds struct {
	Float     float64 // operators on float formats and on no weights at all
	Quantized float64 // products with quantized weights
}

// Run tests a device. open makes one, which Run closes.
func Run(t *testing.T, open func(t *testing.T) device.Device, b Bounds) {
	s := &suite{open: open, bounds: b}
	t.Run("ProjectVariants", s.projectVariants)
	t.Run("Logits", s.logits)
	t.Run("Company", s.company)
	t.Run("BadSteps", s.badSteps)
	t.Run("CacheComesAndGoes", s.cache)
	t.Run("BadPrograms", s.badPrograms)
	t.Run("Lesson_UseAfterCloseIsAnError", s.lifetimes)
	if testing.Short() {
		return // under the race detector, where what is above is what goroutines share
	}
	t.Run("Embed", s.embed)
	t.Run("Lesson_ProductsOfOddShapes", s.project)
	t.Run("ScalesFarApart", s.farScales)
	t.Run("Lesson_RopeAwayFromPositionZero", s.rope)
	t.Run("Lesson_AttentionOfEveryLengthAndHeadSize", s.attend)
	t.Run("NothingBehindARowShows", s.behind)
	t.Run("BitsInAnyBatch", s.batches)
	t.Run("BitsInEveryBatch", s.everyBatch)
	t.Run("BitsOfEveryRotation", s.rotations)
	t.Run("BitsOfLongSequences", s.longSequences)
	t.Run("BitsAcrossSplits", s.splits)
	t.Run("LargestLogits", s.choose)
	t.Run("Draws", s.draw)
	t.Run("StepsAhead", s.ahead)
}

// Choose is the part of Run that is about choosing among logits, for a device that has
// room for the logits of few rows.
func Choose(t *testing.T, open func(t *testing.T) device.Device) {
	s := &suite{open: open}
	t.Run("LargestLogits", s.choose)
	t.Run("Draws", s.draw)
	t.Run("StepsAhead", s.ahead)
}

// Ahead is the part of Run that is about steps that begin while others are under way.
func Ahead(t *testing.T, open func(t *testing.T) device.Device) {
	s := &suite{open: open}
	t.Run("StepsAhead", s.ahead)
}

// Batches is the part of Run that says that a row has the same bits in any company, for
// a device that is made to multiply in one of several ways.
func Batches(t *testing.T, open func(t *testing.T) device.Device) {
	(&suite{open: open}).batches(t)
}

type suite struct {
	open   func(t *testing.T) device.Device
	bounds Bounds
}

const blockSize = 16

// rig is a program under construction with the float64 view of its weights.
// Its input values come from an F32 embedding table of random rows: the tokens
// 0, 1, 2, … of a step pick them.
type rig struct {
	t      *testing.T
	rng    *rand.Rand
	prog   device.Program
	bytes  [][]byte    // by tensor, as in a file
	exact  [][]float64 // by tensor, dequantized
	table  device.TensorID
	in     device.Value
	inputs int
}

func newRig(t *testing.T, inputs, width int) *rig {
	r := &rig{t: t, rng: rand.New(rand.NewPCG(7, uint64(inputs*100003+width))), inputs: inputs}
	r.prog.Vocab = inputs
	r.prog.Cache = device.CacheShape{Layers: 1, KVHeads: 1, HeadDim: 2}
	r.table = r.tensor(quant.F32, inputs, width, 1)
	r.in = r.value("in", width)
	r.prog.Ops = append(r.prog.Ops, &device.Embed{Table: r.table, Out: r.in})
	return r
}

func (r *rig) value(stage string, width int) device.Value {
	r.prog.Values = append(r.prog.Values, device.ValueInfo{Stage: stage, Width: width})
	return device.Value(len(r.prog.Values) - 1)
}

func (r *rig) tensor(typ quant.Type, rows, cols int, deviation float32) device.TensorID {
	f, err := quant.Lookup(typ)
	if err != nil {
		r.t.Fatal(err)
	}
	raw := make([]byte, rows*cols/f.BlockSize*f.BlockBytes)
	f.Random(raw, deviation, r.rng)
	return r.tensorOf(f, rows, cols, raw)
}

func (r *rig) tensorOf(f *quant.Format, rows, cols int, raw []byte) device.TensorID {
	v := make([]float32, rows*cols)
	f.Dequantize(v, raw)
	exact := make([]float64, len(v))
	for i, x := range v {
		exact[i] = float64(x)
	}
	id := device.TensorID(len(r.prog.Tensors))
	r.prog.Tensors = append(r.prog.Tensors, device.Tensor{Name: fmt.Sprintf("t%d", id), Format: f, Rows: rows, Cols: cols})
	r.bytes, r.exact = append(r.bytes, raw), append(r.exact, exact)
	return id
}

func (r *rig) floats(v []float32) device.TensorID {
	f, err := quant.Lookup(quant.F32)
	if err != nil {
		r.t.Fatal(err)
	}
	raw := make([]byte, 4*len(v))
	for i, x := range v {
		binary.LittleEndian.PutUint32(raw[4*i:], math.Float32bits(x))
	}
	return r.tensorOf(f, 1, len(v), raw)
}

func (r *rig) add(op device.Op) { r.prog.Ops = append(r.prog.Ops, op) }

// input is row i of the embedding table.
func (r *rig) input(i int) []float64 {
	w := r.prog.Tensors[r.table].Cols
	return r.exact[r.table][i*w : (i+1)*w]
}

// running is a compiled program with everything it lives on.
type running struct {
	exec   device.Executable
	stages map[string][]float32
}

// compile makes the program ready to run, with all its stages watched.
func (r *rig) compile(dev device.Device, blocks, maxRows int) *running {
	r.t.Helper()
	x := &running{stages: map[string][]float32{}}
	r.compileTo(x, dev, blocks, device.CompileOptions{
		MaxRows: maxRows,
		Tap: func(stage string, rows, width int, data []float32) {
			if len(data) != rows*width {
				r.t.Errorf("stage %s: %d values for %d x %d", stage, len(data), rows, width)
			}
			x.stages[stage] = append([]float32(nil), data...)
		},
	})
	return x
}

// compileQuiet is compile with nobody watching: devices may do several things at
// once then.
func (r *rig) compileQuiet(dev device.Device, blocks, maxRows int) *running {
	r.t.Helper()
	x := &running{}
	r.compileTo(x, dev, blocks, device.CompileOptions{MaxRows: maxRows})
	return x
}

func (r *rig) compileTo(x *running, dev device.Device, blocks int, opt device.CompileOptions) {
	t := r.t
	t.Helper()
	if _, ok := r.prog.Ops[len(r.prog.Ops)-1].(*device.Logits); !ok {
		r.add(&device.Logits{In: r.in, Weight: r.table, Stage: "logits"})
	}
	w, err := dev.NewWeights(r.prog.Tensors)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeAll(t, w) })
	upload(t, w, r.bytes)
	shape := r.prog.Cache
	shape.BlockSize = blockSize
	cache, err := device.WholeCache(dev, shape, blocks)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeAll(t, cache) })
	if x.exec, err = dev.Compile(&r.prog, w, cache, opt); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeAll(t, x.exec) })
}

type closer interface{ Close() error }

func closeAll(t *testing.T, c closer) {
	if err := c.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
}

// upload writes tensors in uneven parts, to be indifferent to how a loader cuts
// them.
func upload(t *testing.T, w device.Weights, tensors [][]byte) {
	t.Helper()
	up, err := w.NewUploader()
	if err != nil {
		t.Fatal(err)
	}
	for i, raw := range tensors {
		for at, n := 0, len(raw)/3/8*8; at < len(raw); at, n = at+n, device.MaxPiece-24 {
			n = min(n, len(raw)-at, device.MaxPiece)
			buf, err := up.Buffer(i, at, n)
			if err != nil {
				t.Fatal(err)
			}
			copy(buf, raw[at:at+n])
			if err := up.Commit(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := up.Close(); err != nil {
		t.Fatal(err)
	}
	for i, raw := range tensors {
		var want device.Hash
		want.Add(0, raw)
		got, err := w.Hash(i)
		if err != nil || got != uint64(want) {
			t.Fatalf("hash of tensor %d is %x, want %x (%v)", i, got, want, err)
		}
	}
}

// rows is a step of n rows of one sequence from position start, with tokens
// 0, 1, 2, …
func rows(n, start int) *device.Step {
	s := &device.Step{Tokens: make([]int32, n)}
	for i := range s.Tokens {
		s.Tokens[i] = int32(i)
	}
	s.Seqs = []device.SeqRows{{Rows: n, Start: start, Blocks: table(start + n)}}
	return s
}

// table is a block table for so many tokens. Neighbours are swapped, so that
// the order is not that of the block numbers.
func table(tokens int) []int32 {
	t := make([]int32, (tokens+blockSize-1)/blockSize)
	for i := range t {
		t[i] = int32(i ^ 1)
	}
	return t
}

// long says whether the full sizes are asked for.
func long() bool { return os.Getenv("KIGO_TEST_LONG") != "" }

func (x *running) run(t *testing.T, s *device.Step) []float32 {
	t.Helper()
	logits, err := x.exec.Run(s)
	if err != nil {
		t.Fatal(err)
	}
	return logits
}

// near compares a result with its reference.
func near(t *testing.T, what string, got []float32, want []float64, bound float64) {
	t.Helper()
	nearSize(t, what, got, want, norm2(want), bound)
}

// nearSize compares relative to a given square of the size of the result. An
// inner product whose terms cancel is small, its error is not: the size to
// measure by is then that of the terms.
func nearSize(t *testing.T, what string, got []float32, want []float64, size2, bound float64) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%s: %d values, want %d", what, len(got), len(want))
	}
	diff := make([]float64, len(got))
	for i := range got {
		diff[i] = float64(got[i]) - want[i]
	}
	rel := math.Sqrt(norm2(diff) / math.Max(size2, 1e-300))
	if norm2(diff) == 0 {
		rel = 0
	}
	if !(rel <= bound) {
		t.Errorf("%s: relative error %.2e, at most %.2e", what, rel, bound)
	}
}

func norm2(v []float64) float64 {
	sum := 0.0
	for _, x := range v {
		sum += x * x
	}
	return sum
}
