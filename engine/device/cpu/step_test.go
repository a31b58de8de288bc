package cpu

import (
	"math/rand/v2"
	"sync/atomic"
	"testing"

	"kigo/engine/device"
	"kigo/engine/quant"
)

// layer is a small model of one layer, compiled on a device.
type layer struct {
	prog device.Program
	exec device.Executable
}

func newLayer(t *testing.T, cfg Config) *layer {
	t.Helper()
	const width, heads, kvHeads, dim, hidden, vocab = 128, 4, 2, 32, 224, 80
	l := &layer{}
	p := &l.prog
	p.Vocab = vocab
	p.Cache = device.CacheShape{Layers: 1, KVHeads: kvHeads, HeadDim: dim}
	rng := rand.New(rand.NewPCG(1, 7))
	var raw [][]byte
	tensor := func(typ quant.Type, rows, cols int) device.TensorID {
		f, err := quant.Lookup(typ)
		if err != nil {
			t.Fatal(err)
		}
		p.Tensors = append(p.Tensors, device.Tensor{Name: "t", Format: f, Rows: rows, Cols: cols})
		b := make([]byte, p.Tensors[len(p.Tensors)-1].Bytes())
		f.Random(b, 0.1, rng)
		raw = append(raw, b)
		return device.TensorID(len(p.Tensors) - 1)
	}
	value := func(stage string, n int) device.Value {
		p.Values = append(p.Values, device.ValueInfo{Stage: stage, Width: n})
		return device.Value(len(p.Values) - 1)
	}
	matrix := func(typ quant.Type, rows, cols int, out device.Value) device.Matrix {
		return device.Matrix{Weight: tensor(typ, rows, cols), Bias: tensor(quant.F32, 1, rows), Out: out}
	}
	norm := func(stage string) *device.Norm {
		return &device.Norm{Weight: tensor(quant.F32, 1, width), Eps: 1e-5, Stage: stage}
	}
	table := tensor(quant.Q8_0, vocab, width)
	x, q, k, v := value("x", width), value("q", heads*dim), value("k", kvHeads*dim), value("v", kvHeads*dim)
	qr, kr, attn, mid := value("qr", heads*dim), value("kr", kvHeads*dim), value("attn", heads*dim), value("mid", width)
	ffn, out := value("ffn", hidden), value("out", width)
	p.Ops = []device.Op{
		&device.Embed{Table: table, Out: x},
		&device.Project{In: x, Norm: norm("n1"), Mats: []device.Matrix{
			matrix(quant.Q4_1, heads*dim, width, q), matrix(quant.Q5_0, kvHeads*dim, width, k), matrix(quant.F16, kvHeads*dim, width, v),
		}, Residual: device.NoValue},
		&device.Rope{Q: q, K: k, V: v, QOut: qr, KOut: kr, Heads: heads, KVHeads: kvHeads, HeadDim: dim, Dims: dim, Base: 1e4, Scale: 1, Factors: device.NoTensor},
		&device.Attend{Q: qr, Out: attn, Heads: heads, KVHeads: kvHeads, HeadDim: dim, Scale: 0.2},
		&device.Project{In: attn, Mats: []device.Matrix{matrix(quant.Q8_0, width, heads*dim, mid)}, Residual: x},
		&device.Project{In: mid, Norm: norm("n2"), Act: device.ActSiLU, Mats: []device.Matrix{
			matrix(quant.Q5_1, hidden, width, ffn), matrix(quant.Q4_0, hidden, width, device.NoValue),
		}, Residual: device.NoValue},
		&device.Project{In: ffn, Mats: []device.Matrix{matrix(quant.BF16, width, hidden, out)}, Residual: mid},
		&device.Logits{In: out, Norm: norm("n3"), Weight: table, Stage: "logits"},
	}
	d, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	w, err := d.NewWeights(p.Tensors)
	if err != nil {
		t.Fatal(err)
	}
	up, err := w.NewUploader()
	if err != nil {
		t.Fatal(err)
	}
	for i, b := range raw {
		buf, err := up.Buffer(i, 0, len(b))
		if err != nil {
			t.Fatal(err)
		}
		copy(buf, b)
	}
	shape := p.Cache
	shape.BlockSize = slots
	c, err := device.WholeCache(d, shape, 64)
	if err != nil {
		t.Fatal(err)
	}
	if l.exec, err = d.Compile(p, w, c, device.CompileOptions{MaxRows: 256}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, x := range []interface{ Close() error }{l.exec, c, w, d} {
			if err := x.Close(); err != nil {
				t.Error(err)
			}
		}
	})
	return l
}

// A step of the size of an earlier one allocates nothing, also while its
// sequences grow.
func TestStepsAllocateNothing(t *testing.T) {
	for _, p := range Paths() {
		t.Run(p, func(t *testing.T) {
			l := newLayer(t, Config{Threads: 2, Path: p})
			blocks := make([]int32, 32)
			for i := range blocks {
				blocks[i] = int32(i)
			}
			step := &device.Step{
				Tokens: []int32{1, 2, 3, 4, 5},
				Seqs:   []device.SeqRows{{Rows: 4, Blocks: blocks}, {Rows: 1, Blocks: []int32{40, 41, 42, 43, 44, 45, 46, 47}}},
				Logits: []int{3, 4},
			}
			pos := 0
			run := func() {
				step.Seqs[0].Start, step.Seqs[1].Start = pos, pos
				pos++
				if _, err := l.exec.Run(step); err != nil {
					t.Fatal(err)
				}
			}
			run()
			// Scores grow with the sequences, by doubling: five times at most here, of
			// which AllocsPerRun, which rounds down, sees nothing.
			if n := testing.AllocsPerRun(100, run); n > 0 {
				t.Errorf("%v allocations a step", n)
			}
		})
	}
}

// Nor does one with rows of many sequences, of which some have chunks of prompts, in
// changing numbers.
func TestStepsOfManySequencesAllocateNothing(t *testing.T) {
	l := newLayer(t, Config{Threads: 2})
	var steps []*device.Step
	for _, n := range []int{32, 256, 57, 200} {
		step := &device.Step{}
		for i := 0; len(step.Tokens) < n; i++ {
			rows := 1
			if i%9 == 8 {
				rows = min(20, n-len(step.Tokens))
			}
			for range rows {
				step.Tokens = append(step.Tokens, int32(len(step.Tokens)%80))
			}
			step.Seqs = append(step.Seqs, device.SeqRows{Rows: rows, Start: i % 12, Blocks: []int32{int32(i % 64), int32((i + 1) % 64)}})
			step.Logits = append(step.Logits, len(step.Tokens)-1)
		}
		steps = append(steps, step)
	}
	n := 0
	run := func() {
		if _, err := l.exec.Run(steps[n%len(steps)]); err != nil {
			t.Fatal(err)
		}
		n++
	}
	for range 2 * len(steps) {
		run()
	}
	if allocs := testing.AllocsPerRun(40, run); allocs > 0 {
		t.Errorf("%v allocations a step", allocs)
	}
}

// The number of threads changes nothing, and neither does the path.
func TestThreadsAndPathsGiveTheSameBits(t *testing.T) {
	step := &device.Step{
		Tokens: make([]int32, 23),
		Seqs:   []device.SeqRows{{Rows: 18, Blocks: []int32{3, 1}}, {Rows: 1, Start: 40, Blocks: []int32{5, 6, 7}}, {Rows: 4, Start: 14, Blocks: []int32{9, 8}}},
		Logits: []int{0, 5, 17, 18, 22},
	}
	for i := range step.Tokens {
		step.Tokens[i] = int32(i * 3 % 80)
	}
	var want []float32
	for _, p := range Paths() {
		for _, threads := range []int{1, 2, 7} {
			got, err := newLayer(t, Config{Threads: threads, Path: p}).exec.Run(step)
			if err != nil {
				t.Fatal(err)
			}
			if want == nil {
				want = append(want, got...)
			}
			sameBits(t, p, got, want)
		}
	}
}

// counting is a loop that counts how often each item is done.
type counting struct{ done []atomic.Int32 }

func (c *counting) do(_ *worker, lo, hi int) {
	for i := lo; i < hi; i++ {
		c.done[i].Add(1)
	}
}

func TestWorkersDoEveryItemOnce(t *testing.T) {
	for _, n := range []int{1, 2, 3, 8} {
		w := startWorkers(n)
		for round := range 3000 {
			c := &counting{make([]atomic.Int32, 1+round%97)}
			w.run(len(c.done), 1+round%5, c)
			for i := range c.done {
				if got := c.done[i].Load(); got != 1 {
					t.Fatalf("%d workers, round %d: item %d of %d done %d times", n, round, i, len(c.done), got)
				}
			}
			if round%1000 == 999 { // let them fall asleep
				for _, k := range w.all[1:] {
					for !k.asleep.Load() {
						pause(100)
					}
				}
			}
		}
		w.stop()
	}
}
