package kv_test

import (
	"errors"
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

// Only blocks with memory are handed out, those that were handed out before first.
func TestMemory(t *testing.T) {
	p := kv.NewPool(10, 16)
	memory := func(from, to int, there bool) {
		t.Helper()
		if err := errors.Join(p.SetMemory(from, to, there), p.Check()); err != nil {
			t.Fatal(err)
		}
	}
	memory(3, 10, false)
	a, _ := p.Take(2)
	if b, ok := p.Take(2); ok {
		t.Fatalf("Take(2) = %v of %d", b, p.Free())
	}
	if p.Free() != 1 || p.Used() != 2 || p.Limit() != 3 || p.Total() != 10 || !p.Held(1, 10) || p.Held(2, 10) {
		t.Fatalf("free %d, used %d, limit %d, total %d", p.Free(), p.Used(), p.Limit(), p.Total())
	}
	for _, r := range [][2]int{{1, 10}, {-1, 3}, {5, 11}, {5, 4}} {
		if err := p.SetMemory(r[0], r[1], false); err == nil || errors.Is(err, kv.ErrHeld) != (r[0] == 1) || p.Limit() != 3 {
			t.Errorf("blocks %v: %v, limit %d", r, err, p.Limit())
		}
	}
	memory(6, 8, true)
	memory(3, 5, true)
	mustGive(t, p, a[0])
	if b, ok := p.Take(4); !ok || !slices.Equal(b, []int32{0, 2, 3, 4}) {
		t.Fatalf("Take(4) = %v, %t", b, ok)
	} else {
		mustGive(t, p, b[:3]...)
	}
	memory(0, 1, false)
	memory(2, 4, false)
	memory(5, 7, true) // 6 is there already
	if b, ok := p.Take(3); !ok || !slices.Equal(b, []int32{5, 6, 7}) || p.Free() != 0 || p.Limit() != 5 {
		t.Fatalf("Take(3) = %v, %t, free %d, limit %d", b, ok, p.Free(), p.Limit())
	}
	memory(0, 10, true)
	if b, ok := p.Take(5); !ok || !slices.Equal(b, []int32{0, 2, 3, 8, 9}) {
		t.Fatalf("Take(5) = %v, %t", b, ok)
	}
}

// Whose memory goes is lost, whose stays is found. It does not count as evicted:
// nobody has taken its block.
func TestMemoryTakesKeys(t *testing.T) {
	p := kv.NewPool(4, 1)
	keys := chain(kv.Root("m"), 1, 1, 2, 3, 4)
	a, _ := p.Take(4)
	mustPublish(t, p, a, keys)
	mustGive(t, p, a...)
	if err := errors.Join(p.SetMemory(1, 3, false), p.Check()); err != nil {
		t.Fatal(err)
	}
	if n, cached := p.Match(keys); n != 1 || cached != 1 || p.Has(keys[2]) || !p.Has(keys[3]) || p.Free() != 2 || p.Evicted() != 0 {
		t.Errorf("%d found, %d cached, %d free, %d evicted", n, cached, p.Free(), p.Evicted())
	}
	if err := errors.Join(p.SetMemory(0, 4, true), p.Check()); err != nil {
		t.Fatal(err)
	}
	if n, _ := p.Match(keys); n != 1 || p.Free() != 4 {
		t.Errorf("%d found, %d free", n, p.Free())
	}
}
