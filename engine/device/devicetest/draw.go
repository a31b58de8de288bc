package devicetest

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"kigo/engine/device"
	"kigo/engine/quant"
	"kigo/engine/sample"
	"kigo/engine/sample/sampletest"
)

// A device draws the tokens that the sampler does: for logits and parameters of all
// kinds, in vocabularies that are multiples of nothing, for any rows in any order.
func (s *suite) draw(t *testing.T) {
	none := false
	for _, c := range []struct {
		vocab int
		sizes []int
	}{
		{1, []int{1, 3}},
		{31, []int{1, 2, 40, 256}},
		{5000, []int{1, 7, 64, 256}},
		{151_936, []int{1, 20}},
		{152_064, []int{17, 40}},
	} {
		if none {
			return
		}
		t.Run(fmt.Sprint(c.vocab), func(t *testing.T) {
			dev := s.open(t)
			t.Cleanup(func() { closeAll(t, dev) })
			d := newDrawing(t, dev, c.vocab)
			if d == nil {
				none = true
				t.Skip("no device.Chooser")
			}
			for _, n := range c.sizes {
				d.check(t, n)
			}
			t.Logf("%d tokens told, %d left to the host, %d errors", d.told, d.left, d.bad)
			if d.told < d.left {
				t.Errorf("%d tokens told, %d left to the host", d.told, d.left)
			}
		})
	}
}

// drawing is a program whose input i gives logits of kind i.
type drawing struct {
	x       *running
	chooser device.Chooser
	rng     *rand.Rand
	vocab   int
	inputs  int

	told, left, bad int
}

// Inputs beyond the kinds of sampletest: one token's logit is inf; and NaN.
const (
	withInf = sampletest.Kinds + iota
	withNaN
	drawInputs
)

func newDrawing(t *testing.T, dev device.Device, vocab int) *drawing {
	t.Helper()
	const width = 32
	rng := rand.New(rand.NewPCG(uint64(vocab), 3))
	d := &drawing{rng: rng, vocab: vocab, inputs: min(vocab, drawInputs)}
	// Each input has one value that is not 0, and of the matrix a column of its own:
	// so large a value that 0 times the matrix is 0 while some products are infinite.
	const large = 0x1p100
	table := make([]float32, vocab*width)
	matrix := make([]float32, vocab*width)
	column := make([]float32, vocab)
	for i := range d.inputs {
		table[i*width+i] = large
		if i < sampletest.Kinds {
			sampletest.Fill(column, i, rng)
		} else {
			clear(column)
			column[rng.IntN(vocab)] = float32(math.Inf(1))
		}
		for row, v := range column {
			matrix[row*width+i] = min(max(v/large, -0x1p60), 0x1p60)
		}
	}
	if d.inputs > withNaN { // inf less inf
		table[withNaN*width+width-1] = -large
		for row := range vocab {
			matrix[row*width+width-1] = matrix[row*width+withNaN]
		}
	}
	r := newRig(t, vocab, width)
	f := r.prog.Tensors[r.table].Format
	if f.Type != quant.F32 {
		t.Fatal("inputs are not float32")
	}
	w := r.tensor(quant.F32, vocab, width, 0)
	for i := range table {
		binary.LittleEndian.PutUint32(r.bytes[r.table][4*i:], math.Float32bits(table[i]))
		binary.LittleEndian.PutUint32(r.bytes[w][4*i:], math.Float32bits(matrix[i]))
	}
	r.add(&device.Logits{In: r.in, Weight: w, Stage: "logits"})
	d.x = r.compileQuiet(dev, 256, 256)
	var ok bool
	if d.chooser, ok = d.x.exec.(device.Chooser); !ok {
		return nil
	}
	return d
}

// check draws a few times for each row of a step of n.
func (d *drawing) check(t *testing.T, n int) {
	t.Helper()
	tokens := make([]int32, n)
	for i := range tokens {
		tokens[i] = int32(d.rng.IntN(d.inputs))
	}
	step := oneEach(tokens)
	step.Logits = nil
	for i := range n {
		step.Logits = append(step.Logits, i)
	}
	logits := slices.Clone(d.x.run(t, step))
	if err := d.chooser.Begin(step); err != nil {
		t.Fatal(err)
	}
	if _, err := d.chooser.Largest(); err != nil {
		t.Fatal(err)
	}
	for range max(3, 60/n) {
		d.round(t, n, tokens, logits)
	}
	got, err := d.chooser.Fetch(step.Logits)
	if err != nil {
		t.Fatal(err)
	}
	for i := range logits {
		if math.Float32bits(got[i]) != math.Float32bits(logits[i]) {
			t.Fatalf("%d rows: drawing has changed a logit from %v to %v", n, logits[i], got[i])
		}
	}
	good := device.Draw{Row: 0, Plan: d.plan(t)}
	for what, wants := range map[string][]device.Draw{
		"row -1": {{Row: -1, Plan: good.Plan}}, "a row too many": {{Row: n, Plan: good.Plan}}, "a row twice": {good, good}, "no plan": {{Row: 0}},
	} {
		if _, err := d.chooser.Draw(wants); err == nil {
			t.Errorf("a token is drawn for %s", what)
		}
	}
}

// round draws for some of the rows, in any order.
func (d *drawing) round(t *testing.T, n int, kinds []int32, logits []float32) {
	t.Helper()
	var wants []device.Draw
	var want []int32
	var cases []*sampletest.Case
	for _, row := range d.rng.Perm(n)[:1+d.rng.IntN(n)] {
		c := sampletest.New(d.rng, d.vocab)
		vocab := max(1, d.vocab-d.rng.IntN(2)*d.rng.IntN(d.vocab)) // the rest is padding
		for _, id := range append(append([]int32{}, c.History...), c.Ends...) {
			vocab = max(vocab, int(id)+1)
		}
		for _, b := range c.Params.LogitBias {
			vocab = max(vocab, int(b.Token)+1)
		}
		s, err := c.Sampler(vocab)
		if err != nil {
			t.Fatal(err)
		}
		id, err := s.Sample(logits[row*d.vocab:(row+1)*d.vocab], c.History, c.Position)
		if err != nil {
			id = -1
			d.bad++
		}
		plan, ok := s.Plan(c.History, c.Position)
		if !ok {
			t.Fatalf("%+v: no plan", c.Params)
		}
		wants, want, cases = append(wants, device.Draw{Row: row, Plan: plan}), append(want, id), append(cases, c)
	}
	got, err := d.chooser.Draw(wants)
	if err != nil || len(got) != len(wants) {
		t.Fatalf("%d tokens (%v), want %d", len(got), err, len(wants))
	}
	for i, w := range wants {
		switch {
		case got[i] < 0 && want[i] >= 0:
			d.left++
		case got[i] != want[i]:
			t.Errorf("row %d of %d, kind %d, vocabulary %d, %+v: token %d, want %d", w.Row, n, kinds[w.Row], w.Vocab, cases[i].Params, got[i], want[i])
		case want[i] >= 0:
			d.told++
		}
	}
}

func (d *drawing) plan(t *testing.T) *sample.Plan {
	t.Helper()
	c := sampletest.Case{Params: sample.Defaults()}
	s, err := c.Sampler(d.vocab)
	if err != nil {
		t.Fatal(err)
	}
	p, _ := s.Plan(nil, 0)
	return p
}
