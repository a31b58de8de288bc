package kv_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"slices"
	"testing"

	"kigo/engine/kv"
)

// chain is the keys of the full blocks of tokens.
func chain(k kv.Key, size int, tokens ...int32) (keys []kv.Key) {
	for ; len(tokens) >= size; tokens = tokens[size:] {
		k = k.Next(tokens[:size])
		keys = append(keys, k)
	}
	return keys
}

func mustPublish(t *testing.T, p *kv.Pool, blocks []int32, keys []kv.Key) {
	t.Helper()
	for i, b := range blocks {
		if ok, err := p.Publish(b, keys[i]); !ok || err != nil {
			t.Fatalf("publish block %d: %t, %v", b, ok, err)
		}
	}
}

func mustGive(t *testing.T, p *kv.Pool, blocks ...int32) {
	t.Helper()
	if err := p.Give(blocks); err != nil {
		t.Fatal(err)
	}
	if err := p.Check(); err != nil {
		t.Fatal(err)
	}
}

// The chain is SHA-256 over the key before and the tokens as little-endian words,
// computed here from the definition.
func TestKeysAreTheChainedHash(t *testing.T) {
	salt := []byte("\x01\x00\x00\x00\x00\x00\x00\x00m\x03\x00\x00\x00\x00\x00\x00\x00bob")
	want := sha256.Sum256(salt)
	got := kv.Root("m", "bob")
	if got != want {
		t.Fatalf("root %x, want %x", got, want)
	}
	for _, tokens := range [][]int32{{1, 2, 3, 4}, {-1, 1 << 30, 0, 7}, make([]int32, 200)} {
		var b bytes.Buffer
		b.Write(want[:])
		if err := binary.Write(&b, binary.LittleEndian, tokens); err != nil {
			t.Fatal(err)
		}
		want = sha256.Sum256(b.Bytes())
		if got = got.Next(tokens); got != want {
			t.Fatalf("key after %d tokens %x, want %x", len(tokens), got, want)
		}
	}
}

// Whatever decides a block's contents decides its key.
func TestKeysDiffer(t *testing.T) {
	all := map[kv.Key]string{}
	put := func(what string, k kv.Key) {
		if other, there := all[k]; there {
			t.Errorf("%s has the key of %s", what, other)
		}
		all[k] = what
	}
	last := func(k kv.Key, tokens ...int32) kv.Key { return chain(k, 2, tokens...)[len(tokens)/2-1] }
	put("no salt", kv.Root())
	put("an empty salt", kv.Root(""))
	put("two empty salts", kv.Root("", ""))
	put("a, bc", kv.Root("a", "bc"))
	put("ab, c", kv.Root("ab", "c"))
	root := kv.Root("model", "tenant")
	put("a block", last(root, 1, 2))
	put("the same after another", last(root, 1, 2, 1, 2))
	put("the same after a third", last(root, 1, 3, 1, 2))
	put("turned round", last(root, 2, 1))
	put("one block of four", root.Next([]int32{1, 2, 9, 9}))
	put("another model", last(kv.Root("model2", "tenant"), 1, 2))
	put("another tenant", last(kv.Root("model", "tenant2"), 1, 2))
	put("no tenant", last(kv.Root("model"), 1, 2))
	if last(root, 1, 3, 1, 2) != last(kv.Root("model", "tenant"), 1, 3, 1, 2) {
		t.Error("the same tokens have other keys")
	}
}

func TestShare(t *testing.T) {
	p := kv.NewPool(6, 2)
	keys := chain(kv.Root("m"), 2, 1, 2, 3, 4, 5, 6)
	a, _ := p.Take(3)
	mustPublish(t, p, a[:2], keys)
	if n, cached := p.Match(keys); n != 2 || cached != 0 {
		t.Fatalf("matched %d, %d cached", n, cached)
	}
	if p.Has(keys[2]) || !p.Has(keys[1]) {
		t.Error("Has says otherwise")
	}
	// A key is of no use without the ones before it.
	if n, _ := p.Match(keys[1:]); n != 1 {
		t.Errorf("matched %d from the second on", n)
	}
	b := p.Share(nil, keys)
	if !slices.Equal(b, a[:2]) || p.Owners(a[0]) != 2 || p.Used() != 3 {
		t.Fatalf("shared %v of %v, %d owners, %d used", b, a, p.Owners(a[0]), p.Used())
	}
	mustGive(t, p, a...)
	if p.Used() != 2 || p.Cached() != 0 || p.Owners(a[0]) != 1 {
		t.Errorf("%d used, %d cached", p.Used(), p.Cached())
	}
	mustGive(t, p, b...)
	if p.Used() != 0 || p.Cached() != 2 || p.Free() != 6 {
		t.Errorf("%d used, %d cached, %d free", p.Used(), p.Cached(), p.Free())
	}
	if n, cached := p.Match(keys); n != 2 || cached != 2 {
		t.Errorf("matched %d, %d cached", n, cached)
	}
	if c := p.Share(nil, keys[:1]); !slices.Equal(c, a[:1]) || p.Cached() != 1 || p.Used() != 1 {
		t.Errorf("shared %v, %d cached, %d used", c, p.Cached(), p.Used())
	}
	if err := p.Check(); err != nil {
		t.Error(err)
	}
}

// The blocks that nobody has used for longest go first, of one sequence the later
// ones before the earlier; and what is used again counts as new.
func TestEvictionOrder(t *testing.T) {
	p := kv.NewPool(5, 1)
	x, y := chain(kv.Root("x"), 1, 1, 2), chain(kv.Root("y"), 1, 1, 2)
	a, _ := p.Take(2)
	b, _ := p.Take(2)
	mustPublish(t, p, a, x)
	mustPublish(t, p, b, y)
	mustGive(t, p, a...)
	mustGive(t, p, b...)
	mustGive(t, p, p.Share(nil, x)...) // x is new again; so y goes first
	there := func() (s string) {
		for i, k := range append(slices.Clone(x), y...) {
			if p.Has(k) {
				s += []string{"x0 ", "x1 ", "y0 ", "y1 "}[i]
			}
		}
		return s
	}
	for i, want := range []string{"x0 x1 y0 y1 ", "x0 x1 y0 ", "x0 x1 ", "x0 ", ""} {
		if _, ok := p.Take(1); !ok {
			t.Fatalf("no block %d", i)
		}
		if got := there(); got != want || p.Evicted() != uint64(i) {
			t.Errorf("after %d blocks there are %s, want %s; %d evicted", i+1, got, want, p.Evicted())
		}
		if err := p.Check(); err != nil {
			t.Fatal(err)
		}
	}
	if _, ok := p.Take(1); ok || p.Free() != 0 {
		t.Error("a sixth block of five")
	}
}

// Two sequences may compute the same block at the same time: the second one stays
// without a key and is free when it is given back.
func TestTwins(t *testing.T) {
	p := kv.NewPool(4, 1)
	key := kv.Root("m").Next([]int32{1})
	a, _ := p.Take(2)
	mustPublish(t, p, a[:1], []kv.Key{key})
	if ok, err := p.Publish(a[1], key); ok || err != nil || p.Keyed(a[1]) {
		t.Errorf("the twin is published: %t, %v", ok, err)
	}
	if ok, err := p.Publish(a[0], key); !ok || err != nil {
		t.Errorf("the first, again: %t, %v", ok, err)
	}
	if ok, err := p.Publish(a[0], kv.Root("n")); ok || err != nil {
		t.Errorf("a second key for one block: %t, %v", ok, err)
	}
	mustGive(t, p, a...)
	if p.Cached() != 1 || p.Free() != 4 {
		t.Errorf("%d cached, %d free", p.Cached(), p.Free())
	}
}

func TestPublishRefusesWhatIsNotInUse(t *testing.T) {
	p := kv.NewPool(3, 1)
	key := kv.Root("m")
	held, _ := p.Take(1)
	mustPublish(t, p, held, []kv.Key{key})
	mustGive(t, p, held...)
	for _, b := range []int32{held[0], 2, -1, 3} {
		if ok, err := p.Publish(b, kv.Root("n")); ok || !errors.Is(err, kv.ErrNotHeld) {
			t.Errorf("block %d: %t, %v", b, ok, err)
		}
	}
	// Given back once, it is cached; a second time is a bug, and is reported.
	if err := p.Give(held); !errors.Is(err, kv.ErrNotHeld) || p.Cached() != 1 {
		t.Errorf("a cached block was given back: %v", err)
	}
}

func TestEachOwnerGivesOnce(t *testing.T) {
	p := kv.NewPool(3, 1)
	key := kv.Root("m")
	a, _ := p.Take(1)
	mustPublish(t, p, a, []kv.Key{key})
	p.Share(nil, []kv.Key{key})
	if err := p.Give([]int32{a[0], a[0], a[0]}); !errors.Is(err, kv.ErrNotHeld) || p.Owners(a[0]) != 2 {
		t.Fatalf("three times from two owners: %v, %d owners", err, p.Owners(a[0]))
	}
	mustGive(t, p, a[0], a[0])
	if p.Cached() != 1 || p.Used() != 0 {
		t.Errorf("%d cached, %d used", p.Cached(), p.Used())
	}
}

// A pool against a model of it that is a list and a map.
func TestPoolAgainstAModel(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	const blocks = 12
	p := kv.NewPool(blocks, 1)
	var (
		holders [][]int32      // one entry for each owner
		refs    [blocks]int    // by block
		keyOf   [blocks]kv.Key // zero: none
		lru     []int32        // cached, oldest first
		absent  [blocks]bool   // there is no memory for it
		before  [blocks]bool   // was handed out since there is
		none    kv.Key
	)
	keys := chain(kv.Root("m"), 1, 1, 2, 3, 4, 5, 6, 7, 8, 9)
	where := func(k kv.Key) int { return slices.Index(keyOf[:], k) }
	for step := range 100_000 {
		switch r.IntN(4) {
		case 0:
			free, again := 0, 0
			for b, n := range refs {
				if n == 0 && !absent[b] {
					free++
					if before[b] {
						again++
					}
				}
			}
			again -= len(lru)
			n := r.IntN(4)
			got, ok := p.Take(n)
			if ok != (n <= free) || len(got) != n && ok {
				t.Fatalf("step %d: %d of %d free: %v, %t", step, n, free, got, ok)
			}
			plain := free - len(lru) // these go first
			for i, b := range got {
				if i >= plain {
					if b != lru[0] {
						t.Fatalf("step %d: block %d was evicted before %d", step, b, lru[0])
					}
					lru = lru[1:]
				} else if slices.Contains(lru, b) {
					t.Fatalf("step %d: cached block %d was handed out while others were free", step, b)
				}
				if absent[b] || before[b] != (i < again || i >= plain) {
					t.Fatalf("step %d: block %d, of %d free ones that were handed out before", step, b, again)
				}
				refs[b], keyOf[b], before[b] = 1, none, true
			}
			if len(got) > 0 {
				holders = append(holders, got)
			}
		case 1:
			n := r.IntN(len(keys) + 1)
			got := p.Share(nil, keys[:n])
			for i, k := range keys[:n] {
				at := where(k)
				if at < 0 {
					if len(got) != i {
						t.Fatalf("step %d: shared %v, want %d", step, got, i)
					}
					break
				}
				if refs[at]++; refs[at] == 1 {
					lru = slices.DeleteFunc(lru, func(b int32) bool { return b == int32(at) })
				}
			}
			if len(got) > 0 {
				holders = append(holders, got)
			}
		case 2:
			if len(holders) == 0 {
				continue
			}
			i := r.IntN(len(holders))
			h := holders[i]
			holders = slices.Delete(holders, i, i+1)
			if err := p.Give(h); err != nil {
				t.Fatal(err)
			}
			for j := len(h) - 1; j >= 0; j-- {
				if refs[h[j]]--; refs[h[j]] == 0 && keyOf[h[j]] != none {
					lru = append(lru, h[j])
				}
			}
		case 3:
			if len(holders) == 0 {
				continue
			}
			h := holders[r.IntN(len(holders))]
			b, k := h[r.IntN(len(h))], keys[r.IntN(len(keys))]
			want := keyOf[b] == k
			if keyOf[b] == none && where(k) < 0 {
				keyOf[b], want = k, true
			}
			if ok, err := p.Publish(b, k); ok != want || err != nil {
				t.Fatalf("step %d: publish %t, %v, want %t", step, ok, err, want)
			}
		}
		if r.IntN(8) == 0 {
			from := r.IntN(blocks + 1)
			to, there := from+r.IntN(blocks+1-from), r.IntN(2) == 0
			held := slices.ContainsFunc(refs[from:to], func(n int) bool { return n > 0 })
			if err := p.SetMemory(from, to, there); (err == nil) != (there || !held) || p.Held(from, to) != held {
				t.Fatalf("step %d: memory of %d to %d, held: %t: %v", step, from, to, held, err)
			} else if err == nil {
				for b := from; b < to; b++ {
					if absent[b] = !there; !there {
						keyOf[b], before[b] = none, false
					}
				}
				lru = slices.DeleteFunc(lru, func(b int32) bool { return absent[b] })
			}
		}
		if err := p.Check(); err != nil {
			t.Fatalf("step %d: %v", step, err)
		}
		limit := 0
		for _, gone := range absent {
			if !gone {
				limit++
			}
		}
		if p.Limit() != limit {
			t.Fatalf("step %d: limit %d, want %d", step, p.Limit(), limit)
		}
		for b, n := range refs {
			if p.Owners(int32(b)) != n {
				t.Fatalf("step %d: block %d has %d owners, want %d", step, b, p.Owners(int32(b)), n)
			}
		}
		if p.Cached() != len(lru) {
			t.Fatalf("step %d: %d cached, want %d", step, p.Cached(), len(lru))
		}
	}
}

func TestNothingIsAllocated(t *testing.T) {
	p := kv.NewPool(64, 16)
	tokens := make([]int32, 16)
	held := make([]int32, 0, 64)
	key := kv.Root("m")
	if n := testing.AllocsPerRun(1000, func() {
		held, _ = p.Append(held[:0], 40)
		for _, b := range held {
			key = key.Next(tokens)
			if _, err := p.Publish(b, key); err != nil {
				t.Error(err)
			}
		}
		if err := p.Give(held); err != nil {
			t.Error(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkKey(b *testing.B) {
	tokens := make([]int32, 16)
	k := kv.Root("m")
	for b.Loop() {
		k = k.Next(tokens)
	}
}
