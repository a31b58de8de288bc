package kv

import (
	"fmt"
	"slices"
)

// Check is nil if the pool's own records agree with each other. It looks at every
// block, for tests and for when nothing else is to be done.
func (p *Pool) Check() error {
	var counts [4]int
	for b := range p.blocks {
		k := &p.blocks[b]
		counts[k.at]++
		switch {
		case k.refs < 0 || (k.refs > 0) != (k.at == isHeld):
			return fmt.Errorf("kv: block %d has %d owners in place %d", b, k.refs, k.at)
		case k.at == isCached && !k.keyed, (k.at == isFree || k.at == isAbsent) && k.keyed:
			return fmt.Errorf("kv: block %d in place %d, with a key: %t", b, k.at, k.keyed)
		case k.keyed && p.find(&k.key) != int32(b):
			return fmt.Errorf("kv: block %d is not found by its key", b)
		}
	}
	if absent := len(p.blocks) - p.limit; counts[isAbsent] != absent {
		return fmt.Errorf("kv: %d blocks without memory, counted as %d", counts[isAbsent], absent)
	}
	if free := len(p.free) + len(p.fresh); counts[isFree] != free || counts[isCached] != p.cached {
		return fmt.Errorf("kv: %d free and %d cached blocks, counted as %d and %d",
			counts[isFree], counts[isCached], free, p.cached)
	}
	seen := make([]bool, len(p.blocks))
	for _, b := range slices.Concat(p.free, p.fresh) {
		if seen[b] || p.blocks[b].at != isFree {
			return fmt.Errorf("kv: block %d is among the free ones, in place %d", b, p.blocks[b].at)
		}
		seen[b] = true
	}
	if !slices.IsSortedFunc(p.fresh, func(a, b int32) int { return int(b - a) }) {
		return fmt.Errorf("kv: fresh blocks out of order: %v", p.fresh)
	}
	n, last := 0, none
	for b := p.oldest; b != none; b = p.blocks[b].newer {
		if n++; n > p.cached || p.blocks[b].at != isCached || p.blocks[b].older != last {
			return fmt.Errorf("kv: the list of cached blocks is broken at block %d", b)
		}
		last = b
	}
	if n != p.cached || last != p.newest {
		return fmt.Errorf("kv: %d cached blocks in a list that ends at %d, counted %d and %d", n, last, p.cached, p.newest)
	}
	keyed := 0
	for _, head := range p.index {
		for b := head; b != none; b = p.blocks[b].chain {
			if keyed++; keyed > p.keyed || !p.blocks[b].keyed {
				return fmt.Errorf("kv: block %d is in the index without a key, or twice", b)
			}
		}
	}
	if keyed != p.keyed {
		return fmt.Errorf("kv: %d blocks in the index, counted as %d", keyed, p.keyed)
	}
	return nil
}
