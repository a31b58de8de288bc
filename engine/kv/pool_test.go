package kv_test

import (
	"slices"
	"testing"

	"kigo/engine/kv"
)

func TestTakeAndGive(t *testing.T) {
	p := kv.NewPool(5, 16)
	a, ok := p.Take(2)
	if !ok || !slices.Equal(a, []int32{0, 1}) {
		t.Fatalf("Take(2) = %v, %v", a, ok)
	}
	b, ok := p.Take(3)
	if !ok || !slices.Equal(b, []int32{2, 3, 4}) {
		t.Fatalf("Take(3) = %v, %v", b, ok)
	}
	if c, ok := p.Take(1); ok {
		t.Fatalf("Take(1) of an empty pool = %v", c)
	}
	if err := p.Give(a); err != nil {
		t.Fatal(err)
	}
	if p.Free() != 2 || p.Used() != 3 || p.Total() != 5 {
		t.Fatalf("free %d, used %d, total %d", p.Free(), p.Used(), p.Total())
	}
	if d, _ := p.Take(2); !slices.Equal(d, a) {
		t.Fatalf("blocks freed last should come first, got %v", d)
	}
}

func TestGiveRefusesWhatIsNotInUse(t *testing.T) {
	for _, tc := range []struct {
		name   string
		blocks []int32
	}{
		{"free block", []int32{3}},
		{"twice in one call", []int32{0, 0}},
		{"negative", []int32{0, -1}},
		{"past the end", []int32{1, 4}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := kv.NewPool(4, 16)
			held, _ := p.Take(2)
			if err := p.Give(tc.blocks); err == nil {
				t.Fatal("accepted")
			}
			if p.Used() != 2 {
				t.Fatalf("a refused Give changed the pool: %d in use", p.Used())
			}
			if err := p.Give(held); err != nil {
				t.Fatalf("after a refused Give: %v", err)
			}
		})
	}
}

func TestBlocksFor(t *testing.T) {
	p := kv.NewPool(1, 16)
	for tokens, want := range map[int]int{0: 0, 1: 1, 15: 1, 16: 1, 17: 2, 32: 2, 33: 3} {
		if got := p.BlocksFor(tokens); got != want {
			t.Errorf("BlocksFor(%d) = %d, want %d", tokens, got, want)
		}
	}
}
