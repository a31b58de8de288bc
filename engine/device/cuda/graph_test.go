package cuda_test

import (
	"slices"
	"strings"
	"testing"

	"kigo/engine/device"
	"kigo/engine/device/cuda"
	"kigo/engine/quant"
)

// Numbers of sequences that change with every step are served by a few recorded
// steps: once those are there, nothing is recorded any more, and one launch is a
// step. What fills them up writes where it may.
func TestGraphsServeEveryBatch(t *testing.T) {
	g := newFakeGPU()
	d, err := g.open(cuda.Config{})
	if err != nil {
		t.Fatal(err)
	}
	p, s := layerOf(t, quant.Q8_0, 40, 64, 4, 2, 32, 64)
	w, err := d.NewWeights(p.Tensors)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.uploadAll(w); err != nil {
		t.Fatal(err)
	}
	shape := p.Cache
	shape.BlockSize = 16
	c, err := device.WholeCache(d, shape, 300)
	if err != nil {
		t.Fatal(err)
	}
	const most = 300
	x, err := d.Compile(p, w, c, device.CompileOptions{MaxRows: most})
	if err != nil {
		t.Fatal(err)
	}
	run := func(n int, logits bool) {
		t.Helper()
		step := &device.Step{Tokens: make([]int32, n)}
		for i := range n {
			step.Seqs = append(step.Seqs, device.SeqRows{Rows: 1, Start: i % 16, Blocks: []int32{int32(i)}})
			if logits {
				step.Logits = append(step.Logits, i)
			}
		}
		got, err := x.Run(step)
		if err != nil || len(got) != len(step.Logits)*40 {
			t.Fatalf("%d rows: %d logits (%v)", n, len(got), err)
		}
	}
	for n := most; n > 0; n-- {
		for range 4 { // steps take turns, and those of each turn are recorded apart
			run(n, true)
		}
		run(n, false)
	}
	if n := cuda.Graphs(x); n < 30 || n > 120 {
		t.Errorf("%d recorded steps", n)
	}
	g.TakeCalls()
	const again = 100
	for n := range again {
		run(1+n*53%most, true)
	}
	calls := g.TakeCalls()
	if slices.Contains(calls, "BeginCapture") {
		t.Error("steps are recorded again")
	}
	launches := 0
	for _, call := range calls {
		if strings.HasPrefix(call, "Launch ") {
			t.Fatalf("%q beside the recorded steps", call)
		}
		if call == "LaunchGraph" {
			launches++
		}
	}
	if launches != again {
		t.Errorf("%d launches of recorded steps, want %d", launches, again)
	}
	for _, c := range []interface{ Close() error }{x, c, w, d} {
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if err := g.Check(); err != nil {
		t.Error(err)
	}
}
