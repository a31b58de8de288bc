package devicetest

import (
	"errors"
	"math"
	"slices"
	"testing"

	"kigo/engine/device"
)

// The cache's memory comes and goes, chunk by chunk; what is in the blocks that are kept
// stays, while steps of one row a sequence, which a device may record, go on.
func (s *suite) cache(t *testing.T) {
	const heads, kvHeads, dim, blocks = 4, 2, 32, 40_000
	dev := s.open(t)
	t.Cleanup(func() { closeAll(t, dev) })
	r := newRig(t, 50, (heads+2*kvHeads)*dim)
	rope := r.ropeOp(heads, kvHeads, dim, dim, device.RopeHalves)
	attn := r.value("attn", heads*dim)
	r.add(&device.Attend{Q: rope.QOut, Out: attn, Heads: heads, KVHeads: kvHeads, HeadDim: dim, Scale: float32(1 / math.Sqrt(dim))})
	f32 := r.prog.Tensors[r.table].Format
	head := r.tensor(f32.Type, 50, heads*dim, 0.1)
	r.add(&device.Logits{In: attn, Weight: head, Stage: "logits"})

	w, err := dev.NewWeights(r.prog.Tensors)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeAll(t, w) })
	upload(t, w, r.bytes)
	shape := r.prog.Cache
	shape.BlockSize = blockSize
	c, err := dev.NewCache(shape, blocks)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeAll(t, c) })
	x := &running{}
	if x.exec, err = dev.Compile(&r.prog, w, c, device.CompileOptions{MaxRows: 50}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeAll(t, x.exec) })

	// at is a step of one row at a position of a sequence with those blocks.
	at := func(position int, of ...int32) *device.Step {
		return &device.Step{Tokens: []int32{int32(position % 50)}, Logits: []int{0},
			Seqs: []device.SeqRows{{Rows: 1, Start: position, Blocks: of}}}
	}
	check := func(block int, mapped bool) {
		t.Helper()
		if c.Mapped(block) != mapped {
			t.Fatalf("block %d is mapped: %t", block, !mapped)
		}
		if mapped {
			return
		}
		for _, step := range []*device.Step{at(0, int32(block)), at(17, 0, int32(block))} {
			if _, err := x.exec.Run(step); !errors.Is(err, device.ErrBadStep) {
				t.Errorf("a step with block %d, which is not mapped: %v, want ErrBadStep", block, err)
			}
		}
	}
	change := func(what func(int) error, block int) {
		t.Helper()
		if err := errors.Join(what(block), what(block)); err != nil { // twice is harmless
			t.Fatal(err)
		}
	}

	// Chunks follow one another, and each block is in its own.
	chunks := 0
	for b := 0; b < blocks; chunks++ {
		from, to := c.Chunk(b)
		if again, _ := c.Chunk(to - 1); from != b || to <= from || to > blocks || again != from {
			t.Fatalf("chunk %d has blocks %d to %d, after %d", chunks, from, to, b)
		}
		b = to
	}
	if chunks < 3 || c.Blocks() != blocks {
		t.Fatalf("%d blocks in %d chunks", c.Blocks(), chunks)
	}
	_, second := c.Chunk(0)
	_, third := c.Chunk(second)
	const last = blocks - 1
	change(c.Map, 0)
	if second < 3 {
		t.Fatalf("a chunk has %d blocks", second)
	}
	check(second, false)
	check(last, false)
	prompt := rows(40, 0)
	prompt.Seqs[0].Blocks = []int32{2, 0, 1}
	x.run(t, prompt)
	want := slices.Clone(x.run(t, at(40, 2, 0, 1)))
	again := func(what string, of ...int32) {
		t.Helper()
		if got := x.run(t, at(40, of...)); !slices.Equal(got, want) {
			t.Errorf("%s: other bits of what was kept in blocks %v", what, of)
		}
	}
	again("at first", 2, 0, 1)
	least := c.Bytes()
	for range 3 {
		// Not in order, and not all.
		change(c.Map, last)
		check(second, false)
		change(c.Map, second)
		if c.Bytes() <= least || c.Bytes() > c.Reserved() {
			t.Errorf("%d bytes of %d, %d before", c.Bytes(), c.Reserved(), least)
		}
		again("mapped", 2, 0, 1)
		far := []int32{last, int32(second), 1}
		prompt.Seqs[0].Blocks = far
		x.run(t, prompt)
		again("in three chunks", far...)
		again("beside it", 2, 0, 1)
		change(c.Unmap, second)
		check(second, false)
		check(third-1, false)
		check(last, true)
		again("unmapped", 2, 0, 1)
		change(c.Map, third-1)
		prompt.Seqs[0].Blocks = []int32{last, last - 1, 1}
		x.run(t, prompt)
		again("mapped again", last, last-1, 1)
		change(c.Unmap, second)
		change(c.Unmap, last)
		check(last, false)
		again("the first chunk alone", 2, 0, 1)
		if c.Bytes() != least {
			t.Errorf("%d bytes, %d before", c.Bytes(), least)
		}
	}
	for _, b := range []int{-1, blocks} {
		if err := errors.Join(c.Map(b), c.Unmap(b)); err == nil {
			t.Errorf("block %d was mapped and unmapped", b)
		}
	}
	change(c.Unmap, 0) // which a device may not be able to do without
	if !c.Mapped(0) {
		check(0, false)
	}
}
