package devicetest

import (
	"errors"
	"testing"

	"kigo/engine/device"
	"kigo/engine/quant"
)

// A step that breaks the rules is refused and changes nothing.
func (s *suite) badSteps(t *testing.T) {
	dev := s.open(t)
	t.Cleanup(func() { closeAll(t, dev) })
	r := newRig(t, 4, 32)
	x := r.compile(dev, 4, 8)
	good := func() *device.Step { return rows(3, 0) }
	for _, tc := range []struct {
		name  string
		spoil func(*device.Step)
	}{
		{"no rows", func(s *device.Step) { s.Tokens, s.Seqs = nil, nil }},
		{"too many rows", func(s *device.Step) { s.Tokens = make([]int32, 9); s.Seqs[0].Rows = 9 }},
		{"negative token", func(s *device.Step) { s.Tokens[1] = -1 }},
		{"token past the vocabulary", func(s *device.Step) { s.Tokens[1] = 4 }},
		{"rows not covered", func(s *device.Step) { s.Seqs[0].Rows = 2 }},
		{"rows covered twice", func(s *device.Step) { s.Seqs = append(s.Seqs, s.Seqs[0]) }},
		{"sequence without rows", func(s *device.Step) { s.Seqs[0].Rows = 0 }},
		{"negative position", func(s *device.Step) { s.Seqs[0].Start = -1 }},
		{"too few blocks", func(s *device.Step) { s.Seqs[0].Start = 30 }},
		{"block past the cache", func(s *device.Step) { s.Seqs[0].Blocks[0] = 4 }},
		{"negative block", func(s *device.Step) { s.Seqs[0].Blocks[0] = -1 }},
		{"logits of a row that is not there", func(s *device.Step) { s.Logits = []int{3} }},
		{"logits out of order", func(s *device.Step) { s.Logits = []int{1, 1} }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			step := good()
			tc.spoil(step)
			if _, err := x.exec.Run(step); !errors.Is(err, device.ErrBadStep) {
				t.Fatalf("error %v, want ErrBadStep", err)
			}
			x.run(t, good())
		})
	}
}

// Programs whose parts don't fit are refused by Compile.
func (s *suite) badPrograms(t *testing.T) {
	for _, tc := range []struct {
		name  string
		build func(r *rig)
	}{
		{"product of another width", func(r *rig) {
			r.add(&device.Project{In: r.in, Mats: []device.Matrix{{Weight: r.tensor(quant.F32, 8, 31, 1), Bias: device.NoTensor, Out: r.value("y", 8)}}, Residual: device.NoValue})
		}},
		{"value read before it is written", func(r *rig) {
			y := r.value("y", 32)
			r.add(&device.Project{In: y, Mats: []device.Matrix{{Weight: r.tensor(quant.F32, 32, 32, 1), Bias: device.NoTensor, Out: r.value("z", 32)}}, Residual: device.NoValue})
		}},
		{"value written twice", func(r *rig) { r.add(&device.Embed{Table: r.table, Out: r.in}) }},
		{"tensor that is not there", func(r *rig) { r.add(&device.Embed{Table: 9, Out: r.value("y", 32)}) }},
		{"residual of another width", func(r *rig) {
			r.add(&device.Project{In: r.in, Mats: []device.Matrix{{Weight: r.tensor(quant.F32, 8, 32, 1), Bias: device.NoTensor, Out: r.value("y", 8)}}, Residual: r.in})
		}},
		{"gate without a pair", func(r *rig) {
			r.add(&device.Project{In: r.in, Act: device.ActSiLU, Mats: []device.Matrix{{Weight: r.tensor(quant.F32, 8, 32, 1), Bias: device.NoTensor, Out: r.value("y", 8)}}, Residual: device.NoValue})
		}},
		{"heads that don't divide", func(r *rig) {
			r.prog.Cache = device.CacheShape{Layers: 1, KVHeads: 2, HeadDim: 8}
			r.add(&device.Attend{Q: r.in, Out: r.value("y", 24), Heads: 3, KVHeads: 2, HeadDim: 8, Scale: 1})
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dev := s.open(t)
			t.Cleanup(func() { closeAll(t, dev) })
			r := newRig(t, 4, 32)
			tc.build(r)
			r.add(&device.Logits{In: r.in, Weight: r.table, Stage: "logits"})
			w, err := dev.NewWeights(r.prog.Tensors)
			if err != nil {
				t.Fatal(err)
			}
			defer closeAll(t, w)
			shape := r.prog.Cache
			shape.BlockSize = blockSize
			c, err := dev.NewCache(shape, 1)
			if err != nil {
				t.Fatal(err)
			}
			defer closeAll(t, c)
			if _, err := dev.Compile(&r.prog, w, c, device.CompileOptions{MaxRows: 1}); !errors.Is(err, device.ErrBadProgram) {
				t.Fatalf("error %v, want ErrBadProgram", err)
			}
		})
	}
}

// What is closed says so; it never faults. (The predecessor read freed device
// memory after the map that owned it was dropped.)
func (s *suite) lifetimes(t *testing.T) {
	dev := s.open(t)
	t.Cleanup(func() { closeAll(t, dev) })
	r := newRig(t, 4, 32)
	x := r.compile(dev, 2, 4)
	closeAll(t, x.exec)
	if _, err := x.exec.Run(rows(1, 0)); !errors.Is(err, device.ErrClosed) {
		t.Errorf("Run after Close: %v, want ErrClosed", err)
	}
	w, err := dev.NewWeights(r.prog.Tensors)
	if err != nil {
		t.Fatal(err)
	}
	up, err := w.NewUploader()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ tensor, off, n int }{{-1, 0, 1}, {9, 0, 1}, {0, -1, 1}, {0, 0, -1}, {0, 1 << 40, 1}, {0, 8, 4 * 4 * 32}} {
		if _, err := up.Buffer(c.tensor, c.off, c.n); err == nil {
			t.Errorf("Buffer(%d, %d, %d) was given", c.tensor, c.off, c.n)
		}
	}
	closeAll(t, up)
	cache, err := dev.NewCache(device.CacheShape{Layers: 1, KVHeads: 1, HeadDim: 2, BlockSize: blockSize}, 2)
	if err != nil {
		t.Fatal(err)
	}
	x.exec, err = dev.Compile(&r.prog, w, cache, device.CompileOptions{MaxRows: 1})
	if err != nil {
		t.Fatal(err)
	}
	closeAll(t, w)
	closeAll(t, w) // twice is harmless
	for what, err := range map[string]error{
		"Hash":        second(w.Hash(0)),
		"NewUploader": second(w.NewUploader()),
		"Buffer":      second(up.Buffer(0, 0, 8)),
		"Compile":     second(dev.Compile(&r.prog, w, cache, device.CompileOptions{MaxRows: 1})),
		"Run":         second(x.exec.Run(rows(1, 0))),
	} {
		if !errors.Is(err, device.ErrClosed) {
			t.Errorf("%s after the weights' Close: %v, want ErrClosed", what, err)
		}
	}
	closeAll(t, x.exec)
	closeAll(t, cache)
	closeAll(t, cache)
}

func second[T any](_ T, err error) error { return err }
