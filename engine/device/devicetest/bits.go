package devicetest

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"testing"

	"kigo/engine/device"
	"kigo/engine/quant"
)

// A row has the same bits in a batch of any size, wherever it stands there, as
// one row of many sequences or one of many of its own, and whether or not
// somebody watches: in every format, through all that a product can have around
// it.
func (s *suite) batches(t *testing.T) {
	// Long rows, with few outputs and with many, are shared out differently on a
	// GPU; a CPU has but one way, and takes minutes for them.
	shapes := []struct{ width, hidden int }{{256, 512}}
	full := s.kind(t) != "cpu"
	if full {
		shapes = append(shapes, struct{ width, hidden int }{512, 6400}, struct{ width, hidden int }{1024, 2560})
	}
	for _, f := range quant.All() {
		for _, shape := range shapes {
			width, hidden := shape.width, shape.hidden
			if f.BlockSize < 256 { // odd, or an odd number of blocks
				width, hidden = width+f.BlockSize, hidden+3*f.BlockSize
			}
			t.Run(fmt.Sprintf("%s/%dand%d", f.Name, width, hidden), func(t *testing.T) { s.batch(t, f, width, hidden, full) })
		}
	}
}

func (s *suite) batch(t *testing.T, f *quant.Format, width, hidden int, full bool) {
	const inputs = 64
	sizes := []int{1, 2, 7, 8, 9, 16, 64}
	if full {
		sizes = append(sizes, 65, 128, 129, 256)
	}
	most := sizes[len(sizes)-1]
	dev := s.open(t)
	t.Cleanup(func() { closeAll(t, dev) })
	r := newRig(t, inputs, width)
	norm := func(stage string) *device.Norm {
		return &device.Norm{Weight: r.tensor(quant.F32, 1, width, 1), Eps: 1e-5, Stage: stage}
	}
	of := func(typ quant.Type, rows, cols int, out device.Value) device.Matrix {
		return device.Matrix{Weight: r.tensor(typ, rows, cols, 0.05), Bias: device.NoTensor, Out: out}
	}
	matrix := func(rows, cols int, out device.Value) device.Matrix { return of(f.Type, rows, cols, out) }
	// Two results of one input with a bias, a third one where matrices of another format
	// stand beside these in llama.cpp's mixtures; a gated pair; a residual.
	stages := []string{"norm", "a", "b", "gate_norm", "gated", "down"}
	a, b := r.value("a", width), r.value("b", 35)
	mats := []device.Matrix{matrix(width, width, a), matrix(35, width, b)}
	mats[0].Bias = r.tensor(quant.F32, 1, width, 1)
	if other, ok := map[quant.Type]quant.Type{quant.Q5_0: quant.Q8_0, quant.Q5_1: quant.Q8_0, quant.Q4_K: quant.Q6_K, quant.Q5_K: quant.Q6_K}[f.Type]; ok {
		stages = append(stages, "c")
		mats = append(mats, of(other, width/2, width, r.value("c", width/2)))
		mats[2].Bias = r.tensor(quant.F32, 1, width/2, 1)
	}
	r.add(&device.Project{In: r.in, Norm: norm("norm"), Mats: mats, Residual: device.NoValue})
	gated := r.value("gated", hidden)
	r.add(&device.Project{In: a, Norm: norm("gate_norm"), Act: device.ActSiLU, Residual: device.NoValue,
		Mats: []device.Matrix{matrix(hidden, width, gated), matrix(hidden, width, device.NoValue)}})
	down := r.value("down", width)
	r.add(&device.Project{In: gated, Residual: a, Mats: []device.Matrix{matrix(width, hidden, down)}})
	r.add(&device.Logits{In: down, Norm: norm("output_norm"), Weight: r.tensor(f.Type, inputs, width, 0.05), Stage: "logits"})

	watched := r.compile(dev, most, most)
	quiet := r.compileQuiet(dev, most, most)
	const probe = 11
	want := slices.Clone(quiet.run(t, oneEach([]int32{probe})))
	alone := map[string][]float32{}
	watched.run(t, oneEach([]int32{probe}))
	maps.Copy(alone, watched.stages)
	for _, n := range sizes {
		places := slices.Compact([]int{0, n / 2, n - 1})
		if n > 8 && !full {
			places = places[1:2]
		}
		for _, at := range places {
			tokens := make([]int32, n)
			for i := range tokens {
				tokens[i] = int32((5*i + n) % inputs)
			}
			tokens[at] = probe
			what := fmt.Sprintf("row %d of %d", at, n)
			all := make([]int, n)
			for i := range all {
				all[i] = i
			}
			for name, step := range map[string]*device.Step{"a sequence each": oneEach(tokens), "one sequence": oneOf(tokens)} {
				for _, logits := range [][]int{{at}, all} {
					step.Logits = logits
					got := quiet.run(t, step)
					got = got[slices.Index(logits, at)*inputs:][:inputs]
					if !slices.Equal(got, want) {
						t.Fatalf("%s, %s, %d logits: other bits", what, name, len(logits))
					}
				}
			}
			step := oneOf(tokens)
			step.Logits = []int{at}
			if got := watched.run(t, step); !slices.Equal(got, want) {
				t.Errorf("%s, watched: other bits", what)
			}
			for _, stage := range stages {
				w := len(alone[stage])
				if got := watched.stages[stage][at*w : (at+1)*w]; !slices.Equal(got, alone[stage]) {
					t.Errorf("%s, stage %s: other bits", what, stage)
				}
			}
		}
	}
}

// oneEach is a step with a sequence for each token.
func oneEach(tokens []int32) *device.Step {
	s := &device.Step{Tokens: tokens}
	for i := range tokens {
		s.Seqs = append(s.Seqs, device.SeqRows{Rows: 1, Blocks: []int32{int32(i)}})
	}
	s.Logits = []int{0}
	return s
}

// oneOf is a step with one sequence of all tokens.
func oneOf(tokens []int32) *device.Step {
	return &device.Step{Tokens: tokens, Seqs: []device.SeqRows{{Rows: len(tokens), Blocks: table(len(tokens))}}}
}

// Attention over a cache of lengths around where devices cut it into parts: the
// last row has the same bits whether the prompt came whole or in chunks, alone or
// among others, with one row (as in generation, again and again) or as the last of
// several.
func (s *suite) splits(t *testing.T) {
	full := long() || s.kind(t) != "cpu"
	for _, c := range []struct{ heads, kvHeads, dim int }{{4, 2, 32}, {14, 2, 64}, {3, 3, 80}, {8, 1, 128}} {
		if c.heads != 4 && !full {
			continue
		}
		for _, length := range []int{127, 128, 129, 255, 256, 257, 1000} {
			if length < 255 && !full {
				continue
			}
			t.Run(fmt.Sprintf("%dover%dx%d/length%d", c.heads, c.kvHeads, c.dim, length), func(t *testing.T) {
				s.split(t, c.heads, c.kvHeads, c.dim, length, full)
			})
		}
	}
}

func (s *suite) split(t *testing.T, heads, kvHeads, dim, length int, full bool) {
	dev := s.open(t)
	t.Cleanup(func() { closeAll(t, dev) })
	const inputs, maxRows, perSeq = 61, 1024, 64 // blocks of a sequence
	r := newRig(t, inputs, (heads+2*kvHeads)*dim)
	rope := r.ropeOp(heads, kvHeads, dim, dim, device.RopeHalves)
	attn := r.value("attn", heads*dim)
	r.add(&device.Attend{Q: rope.QOut, Out: attn, Heads: heads, KVHeads: kvHeads, HeadDim: dim, Scale: float32(1 / math.Sqrt(float64(dim)))})
	r.add(&device.Logits{In: attn, Weight: r.tensor(quant.F32, inputs, heads*dim, 0.1), Stage: "logits"})
	x := r.compileQuiet(dev, 12*perSeq, maxRows)

	tokens := make([]int32, length)
	for i := range tokens {
		tokens[i] = int32((i*i + 3*i) % inputs)
	}
	// blocks are those of sequence n, backwards.
	blocks := func(n int) []int32 {
		b := make([]int32, perSeq)
		for i := range b {
			b[i] = int32((n+1)*perSeq - 1 - i)
		}
		return b
	}
	last := func(n, at, rows int) *device.Step {
		return &device.Step{Tokens: tokens[at : at+rows], Seqs: []device.SeqRows{{Rows: rows, Start: at, Blocks: blocks(n)}}, Logits: []int{rows - 1}}
	}
	want := slices.Clone(x.run(t, last(0, 0, length)))
	check := func(what string, got []float32) {
		t.Helper()
		if !slices.Equal(got, want) {
			t.Errorf("%s: other bits", what)
		}
	}
	for range 3 { // what is recorded at one time is replayed at another
		check("the last row alone", x.run(t, last(0, length-1, 1)))
	}
	for i, size := range []int{1, 16, 100, 256} {
		if size == 1 && length > 300 && !full {
			continue
		}
		var got []float32
		for at := 0; at < length; at += size {
			got = x.run(t, last(1+i, at, min(size, length-at)))
		}
		check(fmt.Sprintf("in chunks of %d", size), got)
	}

	// Among others of other lengths, which are in the cache already: each with
	// one row, and each with some.
	for _, rows := range []int{1, 5, 40} {
		step := &device.Step{}
		add := func(n, at, rows int) {
			step.Tokens = append(step.Tokens, tokens[at:at+rows]...)
			step.Seqs = append(step.Seqs, device.SeqRows{Rows: rows, Start: at, Blocks: blocks(n)})
		}
		for i, short := range []int{3, 2, length / 2, length - 7} {
			x.run(t, last(6+i, 0, short))
			add(6+i, short, min(rows, length-short))
		}
		add(0, length-rows, rows)
		step.Logits = []int{len(step.Tokens) - 1}
		add(5, 0, rows) // and one behind it
		for range 3 {
			check(fmt.Sprintf("among others with %d rows", rows), x.run(t, step))
		}
	}
}

// kind is the device's.
func (s *suite) kind(t *testing.T) string {
	t.Helper()
	dev := s.open(t)
	defer closeAll(t, dev)
	return dev.Info().Kind
}

// A row that is rotated on the way, alone in its step, has the bits of one that is
// rotated with a prompt's, as have the keys that it leaves.
func (s *suite) rotations(t *testing.T) {
	for _, c := range []struct {
		style device.RopeStyle
		dims  int
	}{
		{device.RopeHalves, 64}, {device.RopeHalves, 32}, {device.RopeHalves, 24}, {device.RopeHalves, 20},
		{device.RopeAdjacent, 64}, {device.RopeAdjacent, 24}, {device.RopeAdjacent, 20}, {device.RopeAdjacent, 2},
	} {
		t.Run(fmt.Sprintf("style%d/dims%d", c.style, c.dims), func(t *testing.T) { s.aloneOrNot(t, 12, 64, c.dims, c.style, 150) })
	}
}

// So has one at the end of a sequence that is long enough for every way in which
// attention is spread over a GPU.
func (s *suite) longSequences(t *testing.T) {
	lengths := []int{600, 1100, 1900, 2100}
	if s.kind(t) == "cpu" {
		lengths = lengths[:2]
		if !long() {
			t.Skip("takes too long on a CPU")
		}
	}
	for _, c := range []struct{ heads, dim int }{{8, 64}, {3, 128}, {6, 256}} {
		for _, length := range lengths {
			t.Run(fmt.Sprintf("%dx%d/length%d", c.heads, c.dim, length), func(t *testing.T) { s.aloneOrNot(t, c.heads, c.dim, c.dim, device.RopeHalves, length) })
		}
	}
}

// aloneOrNot compares the logits of a sequence's last two tokens when each has a step to
// itself with those when it comes behind others. All heads share keys.
func (s *suite) aloneOrNot(t *testing.T, heads, dim, dims int, style device.RopeStyle, length int) {
	dev := s.open(t)
	t.Cleanup(func() { closeAll(t, dev) })
	const inputs, maxRows, behind = 61, 512, 11
	perSeq := (length + blockSize) / blockSize
	r := newRig(t, inputs, (heads+2)*dim)
	rope := r.ropeOp(heads, 1, dim, dims, style)
	attn := r.value("attn", heads*dim)
	r.add(&device.Attend{Q: rope.QOut, Out: attn, Heads: heads, KVHeads: 1, HeadDim: dim, Scale: float32(1 / math.Sqrt(float64(dim)))})
	r.add(&device.Logits{In: attn, Weight: r.tensor(quant.F16, inputs, heads*dim, 0.05), Stage: "logits"})
	x := r.compileQuiet(dev, 2*perSeq, maxRows)
	// run takes tokens from a sequence's position up to another.
	run := func(seq, from, to int) []float32 {
		q := device.SeqRows{Rows: to - from, Start: from}
		for i := range perSeq {
			q.Blocks = append(q.Blocks, int32(seq*perSeq+i))
		}
		step := &device.Step{Seqs: []device.SeqRows{q}, Logits: []int{q.Rows - 1}}
		for i := from; i < to; i++ {
			step.Tokens = append(step.Tokens, int32(i*7%inputs))
		}
		return slices.Clone(x.run(t, step))
	}
	for seq := range 2 {
		for at := 0; at < length-2; at += maxRows {
			run(seq, at, min(at+maxRows, length-2))
		}
	}
	for at := length - 2; at < length; at++ {
		if alone, not := run(0, at, at+1), run(1, at-behind, at+1); !slices.Equal(alone, not) {
			t.Errorf("position %d: other bits", at)
		}
	}
}

// Sequences come and go: with each number of them from 1 to 256, in no order, the
// same row has the same bits, wherever it stands, with its past in the cache and
// strangers of other lengths around it, whether or not all rows' logits are wanted.
func (s *suite) everyBatch(t *testing.T) {
	full := long() || s.kind(t) != "cpu"
	for _, typ := range []quant.Type{quant.F16, quant.Q8_0, quant.Q4_K} {
		t.Run(typ.String(), func(t *testing.T) {
			dev := s.open(t)
			t.Cleanup(func() { closeAll(t, dev) })
			const inputs, heads, kvHeads, dim, most, past = 61, 4, 2, 64, 256, 150
			const perSeq = (past + most + blockSize) / blockSize
			r := newRig(t, inputs, (heads+2*kvHeads)*dim)
			rope := r.ropeOp(heads, kvHeads, dim, dim, device.RopeHalves)
			attn := r.value("attn", heads*dim)
			r.add(&device.Attend{Q: rope.QOut, Out: attn, Heads: heads, KVHeads: kvHeads, HeadDim: dim, Scale: float32(1 / math.Sqrt(dim))})
			out := r.value("out", 512)
			r.add(&device.Project{In: attn, Mats: []device.Matrix{{Weight: r.tensor(typ, 512, heads*dim, 0.05), Bias: device.NoTensor, Out: out}}, Residual: device.NoValue})
			r.add(&device.Logits{In: out, Weight: r.tensor(typ, inputs, 512, 0.05), Stage: "logits"})
			x := r.compileQuiet(dev, perSeq+most, most)

			// The probe has a past of its own blocks, strangers a block each, in which they
			// are at another position every time.
			probe := device.SeqRows{Rows: 1, Start: past}
			for i := range perSeq {
				probe.Blocks = append(probe.Blocks, int32(i^1))
			}
			tokens := make([]int32, past)
			for i := range tokens {
				tokens[i] = int32(i * i % inputs)
			}
			x.run(t, &device.Step{Tokens: tokens, Seqs: []device.SeqRows{{Rows: past, Blocks: probe.Blocks}}})
			want := slices.Clone(x.run(t, &device.Step{Tokens: []int32{7}, Seqs: []device.SeqRows{probe}, Logits: []int{0}}))
			chooser, _ := x.exec.(device.Chooser)
			best := slices.Index(want, slices.Max(want))
			for turn := range most {
				n := (turn*101)%most + 1 // each once: 101 is prime
				if !full && n > 40 {
					continue
				}
				at := turn * 7 % n
				step := &device.Step{Logits: []int{at}}
				if turn%3 > 0 {
					step.Logits = nil
				}
				for i := range n {
					if turn%3 > 0 {
						step.Logits = append(step.Logits, i)
					}
					if i == at {
						step.Tokens, step.Seqs = append(step.Tokens, 7), append(step.Seqs, probe)
						continue
					}
					step.Tokens = append(step.Tokens, int32((i+turn)%inputs))
					step.Seqs = append(step.Seqs, device.SeqRows{Rows: 1, Start: (i + turn) % blockSize, Blocks: []int32{int32(perSeq + i)}})
				}
				got := x.run(t, step)[slices.Index(step.Logits, at)*inputs:][:inputs]
				if !slices.Equal(got, want) {
					t.Fatalf("row %d of %d, %d logits: other bits", at, n, len(step.Logits))
				}
				if chooser == nil {
					continue
				}
				if err := chooser.Begin(step); err != nil {
					t.Fatal(err)
				}
				largest, err := chooser.Largest()
				if err != nil {
					t.Fatal(err)
				}
				if l := largest[slices.Index(step.Logits, at)]; int(l.ID) != best || l.Logit != want[best] {
					t.Fatalf("row %d of %d: the largest logit is %v, want token %d with %v", at, n, l, best, want[best])
				}
			}
		})
	}
}
