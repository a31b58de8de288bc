package devicetest

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"kigo/engine/device"
	"kigo/engine/quant"
)

// An executable that chooses among logits chooses among Run's: of equal ones the
// first, for every row, in batches beyond what it keeps at hand.
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
		{quant.F32, 5000, 0, []int{1, 40}}, // all alike
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
			closeAll(t, x.exec)
			for what, err := range map[string]error{
				"Begin": chooser.Begin(oneOf([]int32{1})), "Largest": second(chooser.Largest()),
				"Draw": second(chooser.Draw(nil)), "Fetch": second(chooser.Fetch(nil)),
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
	t     *testing.T
	c     device.Chooser
	vocab int
	want  []float32 // of all rows that a step asked for
	ties  int
}

// largest gives a row's largest logits, of equal ones that of the lowest id first.
func (c *chosen) largest(row int) (first, second device.Ranked) {
	first.ID, second.ID = -1, -1
	for id, v := range c.want[row*c.vocab : (row+1)*c.vocab] {
		switch r := (device.Ranked{ID: int32(id), Logit: v}); {
		case first.ID < 0 || v > first.Logit:
			first, second = r, first
		case second.ID < 0 || v > second.Logit:
			second = r
		}
	}
	return first, second
}

func (c *chosen) check(what string, step *device.Step) {
	t := c.t
	t.Helper()
	rows := len(step.Logits)
	// A step is under way when the next one begins; and a step is the caller's again as
	// soon as it has begun.
	for range 2 {
		again := *step
		again.Tokens, again.Logits = slices.Clone(step.Tokens), slices.Clone(step.Logits)
		if err := c.c.Begin(&again); err != nil {
			t.Fatal(err)
		}
		clear(again.Tokens)
		clear(again.Logits)
	}
	before, err := c.c.Largest()
	if err != nil {
		t.Fatal(err)
	}
	before = slices.Clone(before)
	largest, err := c.c.Largest()
	if err == nil && !slices.Equal(before, largest) {
		t.Errorf("%s: the same step gives first %v, then %v", what, before, largest)
	}
	if err != nil || len(largest) != rows {
		t.Fatalf("%s: %d largest logits (%v), want %d", what, len(largest), err, rows)
	}
	for i := range rows {
		first, second := c.largest(i)
		if first.Logit == second.Logit {
			c.ties++
		}
		if largest[i] != first {
			t.Errorf("%s, logits %d: largest %v, want %v", what, i, largest[i], first)
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
		if _, err := c.c.Fetch([]int{i}); err == nil {
			t.Errorf("%s: there are logits of row %d of %d", what, i, rows)
		}
	}
}
