package sample_test

import (
	"encoding/binary"
	"errors"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"kigo/engine/sample"
	"kigo/engine/sample/sampletest"
)

// follow does what a plan says, step by step, with everything in order. It is -1 where
// there is no token, or a logit is not a number.
func follow(p *sample.Plan, logits []float32) int32 {
	logits = slices.Clone(logits[:p.Vocab])
	for _, e := range p.Edits {
		l := &logits[e.ID]
		if *l += e.Bias; math.IsInf(float64(e.Bias), -1) {
			*l = e.Bias
		}
		if e.Times > 0 {
			if *l > 0 {
				*l /= p.Repetition
			} else {
				*l *= p.Repetition
			}
			*l -= p.Presence
			*l -= float32(e.Times) * p.Frequency
		}
	}
	var order []int32
	for id, l := range logits {
		if math.IsNaN(float64(l)) || math.IsInf(float64(l), 1) {
			return -1
		}
		if !math.IsInf(float64(l), -1) && (p.Allowed == nil || id/64 < len(p.Allowed) && p.Allowed[id/64]&(1<<(id%64)) != 0) {
			order = append(order, int32(id))
		}
	}
	if len(order) == 0 {
		return -1
	}
	slices.SortStableFunc(order, func(a, b int32) int {
		switch {
		case logits[a] > logits[b]:
			return -1
		case logits[a] < logits[b]:
			return 1
		}
		return 0
	})
	if p.Scale == 0 {
		return order[0]
	}
	weight := func(id int32) uint64 { return sample.Weigh(logits[order[0]], logits[id], p.Scale) }
	sum := func(ids []int32) (s uint64) {
		for _, id := range ids {
			s += weight(id)
		}
		return s
	}
	reach := func(ids []int32, number uint64) int {
		for i, id := range ids {
			if w := weight(id); w >= number {
				return i
			} else {
				number -= w
			}
		}
		return len(ids) - 1
	}
	left := order
	if p.TopK > 0 {
		left = left[:min(p.TopK, len(left))]
	}
	left = left[:1+reach(left, sample.Share(p.TopP, sum(left)))]
	left = slices.DeleteFunc(slices.Clone(left), func(id int32) bool { return weight(id) < p.Least })
	slices.Sort(left)
	return left[reach(left, sample.Point(p.Random, sum(left)))]
}

// try compares the sampler with its plan.
func try(t *testing.T, c *sampletest.Case, logits []float32, vocab int) {
	t.Helper()
	s, err := c.Sampler(vocab)
	if err != nil {
		t.Fatal(err)
	}
	was := slices.Clone(logits)
	p, ok := s.Plan(c.History, c.Position)
	if !ok {
		t.Fatalf("%+v: no plan", c.Params)
	}
	want := follow(p, logits)
	got, err := s.Sample(logits, c.History, c.Position)
	switch {
	case got != want:
		t.Fatalf("%+v: token %d (%v), the plan says %d", c.Params, got, err, want)
	case err != nil && !errors.Is(err, sample.ErrNaN) && !errors.Is(err, sample.ErrNoToken):
		t.Fatal(err)
	}
	for i, l := range logits {
		if math.Float32bits(l) != math.Float32bits(was[i]) {
			t.Fatalf("%+v: logit %d is not as before", c.Params, i)
		}
	}
}

// The sampler, which sorts little, does what its plan says, which is written down
// above with a full sort: for logits and parameters of all kinds.
func TestSampleFollowsItsPlan(t *testing.T) {
	rng := rand.New(rand.NewPCG(8, 9))
	for kind := range sampletest.Kinds {
		for _, vocab := range []int{1, 2, 31, 64, 1000, 5001} {
			logits := make([]float32, vocab+rng.IntN(3))
			for round := range 60 {
				sampletest.Fill(logits, kind, rng)
				if round%10 == 9 {
					sampletest.Spoil(logits, rng)
				}
				try(t, sampletest.New(rng, vocab), logits, vocab)
			}
		}
	}
}

func FuzzSampleFollowsItsPlan(f *testing.F) {
	f.Add(uint64(1), []byte("\x00\x00\x80\x3f\x00\x00\x00\x40"))
	f.Add(uint64(2), []byte("\x00\x00\x80\xff\x00\x00\xc0\x7f\x01\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, seed uint64, raw []byte) {
		vocab := len(raw) / 4
		if vocab == 0 || vocab > 1<<12 {
			return
		}
		logits := make([]float32, vocab)
		for i := range logits {
			logits[i] = math.Float32frombits(binary.LittleEndian.Uint32(raw[4*i:]))
		}
		try(t, sampletest.New(rand.New(rand.NewPCG(seed, 1)), vocab), logits, vocab)
	})
}

// Only the sampler itself does typical-p, and says what is wrong with a history.
func TestNoPlan(t *testing.T) {
	p := sample.Defaults()
	p.TypicalP = 0.9
	s, err := sample.New(p, 10, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := s.Plan(nil, 0); ok {
		t.Error("a plan with typical-p")
	}
	p = sample.Defaults()
	p.PresencePenalty = 1
	if s, err = sample.New(p, 10, nil); err != nil {
		t.Fatal(err)
	}
	if _, ok := s.Plan([]int32{10}, 0); ok {
		t.Error("a plan with a history outside the vocabulary")
	}
	if _, err := sample.New(sample.Defaults(), 1<<22+1, nil); !errors.Is(err, sample.ErrParams) {
		t.Errorf("a vocabulary whose weights could overflow: %v", err)
	}
}

// Whoever is foreseeable has the same plan whatever was generated, and others do not.
func TestForeseeable(t *testing.T) {
	rng := rand.New(rand.NewPCG(4, 5))
	counts := map[bool]int{}
	logits := make([]float32, 500)
	for range 2000 {
		c := sampletest.New(rng, len(logits))
		s, err := c.Sampler(len(logits))
		if err != nil {
			t.Fatal(err)
		}
		counts[s.Foreseeable()]++
		if !s.Foreseeable() {
			continue
		}
		sampletest.Fill(logits, rng.IntN(sampletest.Kinds), rng)
		want, err := s.Sample(logits, c.History, c.Position)
		p, ok := s.Plan(nil, c.Position)
		if !ok {
			t.Fatalf("%+v: no plan", c.Params)
		}
		if got, gotErr := p.Choose(logits); got != want || (err == nil) != (gotErr == nil) {
			t.Fatalf("%+v: token %d (%v) by the plan, %d (%v) by the sampler", c.Params, got, gotErr, want, err)
		}
	}
	if counts[true] == 0 || counts[false] == 0 {
		t.Errorf("%v are foreseeable", counts)
	}
}
