package devicetest

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"testing"

	"kigo/engine/device"
	"kigo/engine/quant"
	"kigo/engine/sample"
)

// Steps that begin before anybody has seen the tokens with which they go on give what the
// same steps give one by one, logit for logit and drawn token for drawn token, while
// sequences come and go: the first rows of one are a prompt, so that rows are not counted
// as those with logits are. Again and again, since a device may prepare for what it has
// seen before.
func (s *suite) ahead(t *testing.T) {
	for _, typ := range []quant.Type{quant.F16, quant.Q4_K} {
		for _, n := range []int{1, 2, 7, 64} {
			t.Run(fmt.Sprintf("%s/%d", typ, n), func(t *testing.T) {
				dev := s.open(t)
				t.Cleanup(func() { closeAll(t, dev) })
				const inputs, heads, kvHeads, dim = 61, 4, 2, 64
				r := newRig(t, inputs, (heads+2*kvHeads)*dim)
				rope := r.ropeOp(heads, kvHeads, dim, dim, device.RopeHalves)
				attn := r.value("attn", heads*dim)
				r.add(&device.Attend{Q: rope.QOut, Out: attn, Heads: heads, KVHeads: kvHeads, HeadDim: dim, Scale: float32(1 / math.Sqrt(dim))})
				out := r.value("out", 512)
				r.add(&device.Project{In: attn, Mats: []device.Matrix{{Weight: r.tensor(typ, 512, heads*dim, 0.05), Bias: device.NoTensor, Out: out}}, Residual: device.NoValue})
				r.add(&device.Logits{In: out, Weight: r.tensor(typ, inputs, 512, 0.05), Stage: "logits"})
				x := r.compileQuiet(dev, 2*n, chainPrompt*n)
				c, ok := x.exec.(device.Chooser)
				if !ok {
					t.Skip("no device.Chooser")
				}
				want := newChain(t, n).waiting(t, c)
				for range 3 {
					newChain(t, n).ahead(t, c, want)
				}
				refusals(t, x, c)
			})
		}
	}
}

// A chain has chainSteps steps of sequences that begin with so many rows.
const (
	chainSteps  = 40
	chainPrompt = 3
)

// chain is sequences that follow one another in a number of places, each place with KV
// blocks of its own.
type chain struct{ places []chained }

type chained struct {
	count int // sequences that there were before this one
	left  int // steps that it has yet, or with less than 0 that its place stays empty
	at    int // tokens that were processed
	row   int // of the logits of the latest step
	draw  int // of its draws, or -1
	token int32

	sampler *sample.Sampler // of those who draw
}

// brought is what a step gives.
type brought struct {
	largest []device.Ranked
	drawn   []int32
}

func newChain(t *testing.T, n int) *chain {
	t.Helper()
	c := &chain{places: make([]chained, n)}
	for i := range c.places {
		p := &c.places[i]
		if p.left = 2 + i*7%9; i%3 != 1 && n > 1 {
			continue
		}
		params := sample.Params{TypicalP: 1, TopP: 1, RepetitionPenalty: 1, Temperature: float32(i%2) * 2, TopK: i % 5 * 3, IgnoreEnd: i%4 == 0, Seed: uint64(i)}
		var err error
		if p.sampler, err = sample.New(params, 61, []int32{3, 17}); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

// step is the next one; where ahead is set, with names for the tokens of the step before.
func (c *chain) step(ahead bool) *device.Step {
	s := &device.Step{}
	for i := range c.places {
		p := &c.places[i]
		switch {
		case p.left == 0 && i > 0:
			*p = chained{count: p.count + 1, left: -1 - (p.count+i)%3, sampler: p.sampler}
			continue
		case p.left == 0:
			*p = chained{count: p.count + 1, left: 5, sampler: p.sampler}
		case p.left < -1:
			p.left++
			continue
		case p.left == -1:
			p.left = 2 + (i*5+p.count*3)%9
		}
		tokens := []int32{p.token}
		switch {
		case p.at == 0:
			tokens = []int32{int32(i % 61), int32(p.count % 61), int32((i + 7*p.count) % 61)}
		case ahead:
			tokens[0] = int32(-1 - p.row)
		}
		s.Seqs = append(s.Seqs, device.SeqRows{Rows: len(tokens), Start: p.at, Blocks: []int32{int32(2*i + 1), int32(2 * i)}})
		s.Tokens = append(s.Tokens, tokens...)
		p.row = len(s.Logits)
		s.Logits = append(s.Logits, len(s.Tokens)-1)
		p.at += len(tokens)
		if p.draw = -1; p.sampler != nil {
			if plan, ok := p.sampler.Plan(nil, p.at); ok {
				p.draw = len(s.Draws)
				s.Draws = append(s.Draws, device.Draw{Row: p.row, Plan: plan})
			}
		}
		p.left--
	}
	return s
}

// waiting runs the steps one by one.
func (c *chain) waiting(t *testing.T, on device.Chooser) (all []brought) {
	t.Helper()
	for range chainSteps {
		if err := on.Begin(c.step(false)); err != nil {
			t.Fatal(err)
		}
		largest, err := on.Largest()
		if err != nil {
			t.Fatal(err)
		}
		drawn := slices.Clone(on.Drawn())
		all = append(all, brought{slices.Clone(largest), drawn})
		for i := range c.places {
			p := &c.places[i]
			if p.at == 0 {
				continue
			}
			if p.token = largest[p.row].ID; p.draw >= 0 && drawn[p.draw] >= 0 {
				p.token = drawn[p.draw]
			}
		}
	}
	return all
}

// ahead begins each step before the one before it is asked about.
func (c *chain) ahead(t *testing.T, on device.Chooser, want []brought) {
	t.Helper()
	for n := range chainSteps + 1 {
		if n < chainSteps {
			s := c.step(true)
			if err := on.Begin(s); err != nil {
				t.Fatal(err)
			}
			clear(s.Tokens)
			clear(s.Draws)
		}
		if n == 0 {
			continue
		}
		got, err := on.Largest()
		if err != nil {
			t.Fatal(err)
		}
		if w := want[n-1]; !slices.Equal(got, w.largest) || !slices.Equal(on.Drawn(), w.drawn) {
			t.Fatalf("step %d of a chain: %v and %v, want %+v", n-1, got, on.Drawn(), w)
		}
	}
}

// refusals are what nobody can ask for while steps are under way.
func refusals(t *testing.T, x *running, c device.Chooser) {
	t.Helper()
	first := func() *device.Step { return oneOf([]int32{1, 2}[:1]) }
	refused := func(what string, got, want error) {
		t.Helper()
		if !errors.Is(got, want) {
			t.Errorf("%s: %v, want %v", what, got, want)
		}
	}
	begin := func(s *device.Step) {
		t.Helper()
		s.Logits = []int{0}
		if err := c.Begin(s); err != nil {
			t.Fatal(err)
		}
	}
	x.run(t, first())
	refused("a token of a step that was run", c.Begin(oneOf([]int32{-1})), device.ErrBadStep)
	refused("Largest without a step", second(c.Largest()), device.ErrPassed)
	begin(first())
	refused("a token of a row that is not there", c.Begin(oneOf([]int32{-2})), device.ErrBadStep)
	refused("a token of a step that was begun, for Run", second(x.exec.Run(oneOf([]int32{-1}))), device.ErrBadStep)
	refused("a draw of a row that is not there", c.Begin(&device.Step{
		Tokens: []int32{1}, Seqs: first().Seqs, Logits: []int{0}, Draws: []device.Draw{{Row: 1, Plan: &sample.Plan{Vocab: 61, Least: 1}}},
	}), device.ErrBadStep)
	begin(first())
	refused("a third step", c.Begin(first()), device.ErrBadStep)
	for range 2 {
		refused("Fetch", second(c.Fetch([]int{0})), device.ErrPassed)
		refused("Draw", second(c.Draw([]device.Draw{{Plan: &sample.Plan{Vocab: 61, Least: 1}}})), device.ErrPassed)
		if _, err := c.Largest(); err != nil {
			t.Fatal(err)
		}
	}
	if v, err := c.Fetch([]int{0}); err != nil || len(v) != 61 {
		t.Errorf("%d logits of the last step (%v)", len(v), err)
	}
	begin(oneOf([]int32{-1})) // of a step that was asked about
	x.run(t, first())
	refused("Largest after Run", second(c.Largest()), device.ErrPassed)
}
