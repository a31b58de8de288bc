package devicetest

import (
	"cmp"
	"errors"
	"fmt"
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
	matrix := func(rows, cols int, out device.Value) device.Matrix {
		return device.Matrix{Weight: r.tensor(f.Type, rows, cols, 0.05), Bias: device.NoTensor, Out: out}
	}
	// Two results of one input with a bias, a gated pair, a residual.
	a, b := r.value("a", width), r.value("b", 35)
	first, second := matrix(width, width, a), matrix(35, width, b)
	first.Bias = r.tensor(quant.F32, 1, width, 1)
	r.add(&device.Project{In: r.in, Norm: norm("norm"), Mats: []device.Matrix{first, second}, Residual: device.NoValue})
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
	stages := map[string][]float32{}
	watched.run(t, oneEach([]int32{probe}))
	for name, v := range watched.stages {
		stages[name] = v
	}
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
			for _, stage := range []string{"norm", "a", "b", "gate_norm", "gated", "down"} {
				w := len(stages[stage])
				if got := watched.stages[stage][at*w : (at+1)*w]; !slices.Equal(got, stages[stage]) {
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

// An executable that tells the largest logit tells the one of Run's logits: of
// equal ones the first, for every row, in batches beyond what it keeps at hand.
func (s *suite) choose(t *testing.T) {
	for _, typ := range []quant.Type{quant.F32, quant.F16, quant.Q4_K} {
		t.Run(typ.String(), func(t *testing.T) {
			dev := s.open(t)
			t.Cleanup(func() { closeAll(t, dev) })
			const inputs, width = 64, 256
			r := newRig(t, inputs, width)
			// Every row of the matrix stands there twice, so that ties happen.
			w := r.tensor(typ, inputs, width, 0.1)
			row := len(r.bytes[w]) / inputs
			for odd := 1; odd < inputs; odd += 2 {
				copy(r.bytes[w][odd*row:(odd+1)*row], r.bytes[w][(odd-1)*row:odd*row])
			}
			r.add(&device.Logits{In: r.in, Weight: w, Stage: "logits"})
			x := r.compileQuiet(dev, 256, 200)
			c, ok := x.exec.(device.Chooser)
			if !ok {
				t.Skip("no device.Chooser")
			}
			_, ranks := c.(device.Ranker)
			ties, told := 0, 0
			for _, n := range []int{1, 2, 9, 16, 17, 64, 1, 1} {
				tokens := make([]int32, n)
				for i := range tokens {
					tokens[i] = int32((7*i + n) % inputs)
				}
				for _, step := range []*device.Step{oneEach(tokens), oneOf(tokens)} {
					step.Logits = nil
					for i := n / 3; i < n; i++ {
						step.Logits = append(step.Logits, i)
					}
					want := slices.Clone(x.run(t, step))
					if err := c.Begin(step); err != nil {
						t.Fatal(err)
					}
					for i := range step.Logits {
						row := want[i*inputs : (i+1)*inputs]
						best := slices.Index(row, slices.Max(row))
						if slices.Contains(row[best+1:], row[best]) {
							ties++
						}
						id, logit, err := c.Largest(i)
						if err != nil || int(id) != best || logit != row[best] {
							t.Errorf("%d rows, logits %d: token %d with %v (%v), want %d with %v", n, i, id, logit, err, best, row[best])
						}
					}
					if ranker, ok := c.(device.Ranker); ok {
						told += topOf(t, ranker, want, inputs)
					}
					if got, err := c.Fetch(); err != nil || !slices.Equal(got, want) {
						t.Errorf("%d rows: Fetch gives other logits than Run (%v)", n, err)
					}
					for _, k := range []int{1, 3, 40, inputs} {
						s.top(t, x.exec, want, inputs, k)
					}
					for _, i := range []int{-1, len(step.Logits)} {
						if _, _, err := c.Largest(i); err == nil {
							t.Errorf("%d rows: there is a largest logit of row %d of %d", n, i, len(step.Logits))
						}
					}
				}
			}
			if ties == 0 {
				t.Error("no row had two largest logits")
			}
			if ranks && told == 0 {
				t.Error("Top never told anything")
			}
			closeAll(t, x.exec)
			for what, err := range map[string]error{"Begin": c.Begin(oneOf([]int32{1})), "Fetch": second(c.Fetch())} {
				if !errors.Is(err, device.ErrClosed) {
					t.Errorf("%s after Close: %v, want ErrClosed", what, err)
				}
			}
		})
	}
}

// top compares what a Ranker says of the last Begin with the logits themselves.
func (s *suite) top(t *testing.T, x device.Executable, logits []float32, width, k int) {
	t.Helper()
	r, ok := x.(device.Ranker)
	if !ok {
		return
	}
	for i := range len(logits) / width {
		row := logits[i*width : (i+1)*width]
		order := make([]int32, width)
		for j := range order {
			order[j] = int32(j)
		}
		slices.SortStableFunc(order, func(a, b int32) int { return cmp.Compare(row[b], row[a]) })
		top, ok, err := r.Top(i, k)
		if err != nil {
			t.Fatal(err)
		}
		if !ok {
			continue // of a row that is not at hand any more
		}
		if len(top) != k {
			t.Fatalf("%d largest logits, want %d", len(top), k)
		}
		for j, r := range top {
			if r.ID != order[j] || r.Logit != row[r.ID] {
				t.Fatalf("row %d, place %d of %d: token %d with %v, want %d with %v", i, j, k, r.ID, r.Logit, order[j], row[order[j]])
			}
		}
	}
}

// topOf compares the largest logits of every row with want, which has rows of width
// logits, and counts those that the device could tell.
func topOf(t *testing.T, r device.Ranker, want []float32, width int) (told int) {
	t.Helper()
	for i := range len(want) / width {
		row := want[i*width : (i+1)*width]
		order := make([]device.Ranked, width)
		for id, v := range row {
			order[id] = device.Ranked{ID: int32(id), Logit: v}
		}
		slices.SortStableFunc(order, func(a, b device.Ranked) int { return cmp.Compare(b.Logit, a.Logit) })
		for _, n := range []int{1, 2, 7, width} {
			top, ok, err := r.Top(i, n)
			if err != nil {
				t.Fatal(err)
			}
			if !ok {
				continue
			}
			told++
			if !slices.Equal(top, order[:n]) {
				t.Errorf("the %d largest logits of row %d are %v, want %v", n, i, top, order[:n])
			}
		}
		if _, _, err := r.Top(i, 0); err == nil {
			t.Error("there are no largest logits")
		}
	}
	return told
}
