package devicetest

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"testing"

	"kigo/engine/device"
	"kigo/engine/quant"
)

// An executable that chooses among logits chooses among Run's: of equal ones the
// first, for every row, in batches beyond what it keeps at hand, in vocabularies of
// which a part or all shares the leading bits.
func (s *suite) choose(t *testing.T) {
	for _, c := range []struct {
		typ       quant.Type
		vocab     int
		deviation float32
		sizes     []int
	}{
		{quant.F32, 64, 0.1, []int{1, 2, 9, 17, 64, 1, 1}},
		{quant.F16, 64, 0.1, []int{1, 2, 9, 16, 17, 64, 1, 1}},
		{quant.Q4_K, 64, 0.1, []int{1, 2, 9, 16, 17, 64, 1, 1}},
		{quant.F16, 5000, 0.1, []int{1, 40, 200, 256}},
		{quant.F32, 5000, 0, []int{1, 40}}, // all alike: too many share a place
	} {
		t.Run(fmt.Sprintf("%s/%d/%v", c.typ, c.vocab, c.deviation), func(t *testing.T) {
			dev := s.open(t)
			t.Cleanup(func() { closeAll(t, dev) })
			const inputs, width = 64, 256
			r := newRig(t, inputs, width)
			// Every row of the matrix stands there twice, so that ties happen.
			w := r.tensor(c.typ, c.vocab, width, c.deviation)
			row := len(r.bytes[w]) / c.vocab
			for odd := 1; odd < c.vocab; odd += 2 {
				copy(r.bytes[w][odd*row:(odd+1)*row], r.bytes[w][(odd-1)*row:odd*row])
			}
			r.add(&device.Logits{In: r.in, Weight: w, Stage: "logits"})
			// The table of inputs is as long as the vocabulary, which a program has one of.
			r.prog.Vocab = c.vocab
			r.lengthen(c.vocab)
			x := r.compileQuiet(dev, 256, 256)
			chooser, ok := x.exec.(device.Chooser)
			if !ok {
				t.Skip("no device.Chooser")
			}
			ch := &chosen{t: t, c: chooser, vocab: c.vocab}
			for _, n := range c.sizes {
				tokens := make([]int32, n)
				for i := range tokens {
					tokens[i] = int32((7*i + n) % inputs)
				}
				for _, step := range []*device.Step{oneEach(tokens), oneOf(tokens)} {
					step.Logits = nil
					for i := n / 3; i < n; i++ {
						step.Logits = append(step.Logits, i)
					}
					ch.want = slices.Clone(x.run(t, step))
					ch.check(fmt.Sprintf("%d rows", n), step)
				}
			}
			if ch.ties == 0 {
				t.Error("no row had two largest logits")
			}
			if told := ch.told > 0; told != (c.deviation > 0) {
				t.Errorf("Top told %d lists", ch.told)
			}
			closeAll(t, x.exec)
			for what, err := range map[string]error{
				"Begin": chooser.Begin(oneOf([]int32{1})), "Largest": second(chooser.Largest()),
				"Top": second(chooser.Top(nil)), "Fetch": second(chooser.Fetch(nil)),
			} {
				if !errors.Is(err, device.ErrClosed) {
					t.Errorf("%s after Close: %v, want ErrClosed", what, err)
				}
			}
		})
	}
}

// lengthen repeats the table of inputs up to so many rows.
func (r *rig) lengthen(rows int) {
	t := &r.prog.Tensors[r.table]
	for len(r.bytes[r.table]) < rows*t.Cols*4 {
		r.bytes[r.table] = append(r.bytes[r.table], r.bytes[r.table]...)
	}
	r.bytes[r.table] = r.bytes[r.table][:rows*t.Cols*4]
	t.Rows = rows
}

// chosen compares what a device chooses with the logits.
type chosen struct {
	t          *testing.T
	c          device.Chooser
	vocab      int
	want       []float32 // of all rows that a step asked for
	ties, told int
}

// order is a row's logits, largest first and of equal ones the lowest id first.
func (c *chosen) order(row int) []device.Ranked {
	order := make([]device.Ranked, c.vocab)
	for id, v := range c.want[row*c.vocab : (row+1)*c.vocab] {
		order[id] = device.Ranked{ID: int32(id), Logit: v}
	}
	slices.SortStableFunc(order, func(a, b device.Ranked) int { return cmp.Compare(b.Logit, a.Logit) })
	return order
}

func (c *chosen) check(what string, step *device.Step) {
	t := c.t
	t.Helper()
	rows := len(step.Logits)
	// A step that nobody asks about is under way when the next one begins; and a
	// step is the caller's again as soon as it has begun.
	for range 2 {
		again := *step
		again.Tokens, again.Logits = slices.Clone(step.Tokens), slices.Clone(step.Logits)
		if err := c.c.Begin(&again); err != nil {
			t.Fatal(err)
		}
		clear(again.Tokens)
		clear(again.Logits)
	}
	orders := make([][]device.Ranked, rows)
	largest, err := c.c.Largest()
	if err != nil || len(largest) != rows {
		t.Fatalf("%s: %d largest logits (%v), want %d", what, len(largest), err, rows)
	}
	for i := range rows {
		orders[i] = c.order(i)
		if orders[i][0].Logit == orders[i][1].Logit {
			c.ties++
		}
		if largest[i] != orders[i][0] {
			t.Errorf("%s, logits %d: largest %v, want %v", what, i, largest[i], orders[i][0])
		}
	}
	// All rows at once, each with another number; then one that may not be at hand.
	var wants []device.Want
	for i := range rows {
		wants = append(wants, device.Want{Row: rows - 1 - i, N: 1 + i*i%min(c.vocab, 250)})
	}
	for _, wants := range [][]device.Want{wants, {{Row: 0, N: 40}}, {{Row: rows - 1, N: 3}, {Row: 0, N: 64}, {Row: 0, N: 1}}} {
		tops, err := c.c.Top(wants)
		if err != nil || len(tops) != len(wants) {
			t.Fatalf("%s: %d lists (%v), want %d", what, len(tops), err, len(wants))
		}
		for i, w := range wants {
			if tops[i] == nil {
				continue
			}
			c.told++
			if !slices.Equal(tops[i], orders[w.Row][:w.N]) {
				t.Errorf("%s: the %d largest logits of row %d are %v, want %v", what, w.N, w.Row, tops[i], orders[w.Row][:w.N])
			}
		}
	}
	all := make([]int, rows)
	for i := range all {
		all[i] = i
	}
	for _, rows := range [][]int{all, {rows - 1}, {rows / 2, 0}} {
		got, err := c.c.Fetch(rows)
		if err != nil || len(got) != len(rows)*c.vocab {
			t.Fatalf("%s: %d logits (%v)", what, len(got), err)
		}
		for i, r := range rows {
			if !slices.Equal(got[i*c.vocab:(i+1)*c.vocab], c.want[r*c.vocab:(r+1)*c.vocab]) {
				t.Errorf("%s: Fetch gives other logits of row %d than Run", what, r)
			}
		}
	}
	for _, i := range []int{-1, rows} {
		if _, err := c.c.Top([]device.Want{{Row: i, N: 1}}); err == nil {
			t.Errorf("%s: there is a largest logit of row %d of %d", what, i, rows)
		}
		if _, err := c.c.Fetch([]int{i}); err == nil {
			t.Errorf("%s: there are logits of row %d of %d", what, i, rows)
		}
	}
	if _, err := c.c.Top([]device.Want{{Row: 0, N: 0}}); err == nil {
		t.Errorf("%s: there are no largest logits", what)
	}
}
