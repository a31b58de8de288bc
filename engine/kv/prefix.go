package kv

import (
	"encoding/binary"
	"fmt"
)

// Match is how many of the keys, from the first on, belong to blocks that there
// are, and how many of these blocks nobody holds: taking them leaves so many
// fewer to be had.
func (p *Pool) Match(keys []Key) (found, cached int) {
	for i := range keys {
		b := p.find(&keys[i])
		if b == none {
			return i, cached
		}
		if p.blocks[b].at == isCached {
			cached++
		}
	}
	return len(keys), cached
}

// Has says whether there is a block of that key.
func (p *Pool) Has(key Key) bool { return p.find(&key) != none }

// Share makes the caller one more owner of the blocks of keys, from the first on
// as far as there are any, and appends them to held. Nobody may write to a block
// that has several owners or a key.
func (p *Pool) Share(held []int32, keys []Key) []int32 {
	for i := range keys {
		b := p.find(&keys[i])
		if b == none {
			break
		}
		k := &p.blocks[b]
		if k.at == isCached {
			p.uncache(b)
			k.at = isHeld
		}
		k.refs++
		held = append(held, b)
	}
	return held
}

// Publish gives a held block the key of its contents: all its tokens are
// computed, and nobody will write to it any more. It is false when another block
// has that key already; then this one stays without, and is free once it is
// given back.
func (p *Pool) Publish(b int32, key Key) (bool, error) {
	if !p.holds(b) {
		return false, fmt.Errorf("%w: block %d", ErrNotHeld, b)
	}
	k := &p.blocks[b]
	if k.keyed || p.find(&key) != none {
		return k.keyed && k.key == key, nil
	}
	head := p.bucket(&key)
	k.keyed, k.key, k.chain = true, key, *head
	*head = b
	p.keyed++
	return true, nil
}

// find is the block of a key, or none.
func (p *Pool) find(key *Key) int32 {
	b := *p.bucket(key)
	for b != none && p.blocks[b].key != *key {
		b = p.blocks[b].chain
	}
	return b
}

func (p *Pool) bucket(key *Key) *int32 {
	return &p.index[int(binary.LittleEndian.Uint64(key[:])&uint64(len(p.index)-1))]
}

// cache puts a block that nobody holds any more behind the other cached ones.
func (p *Pool) cache(b int32) {
	k := &p.blocks[b]
	k.at, k.older, k.newer = isCached, p.newest, none
	if p.newest == none {
		p.oldest = b
	} else {
		p.blocks[p.newest].newer = b
	}
	p.newest = b
	p.cached++
}

// uncache takes a block out of the cached ones.
func (p *Pool) uncache(b int32) {
	k := &p.blocks[b]
	if k.older == none {
		p.oldest = k.newer
	} else {
		p.blocks[k.older].newer = k.newer
	}
	if k.newer == none {
		p.newest = k.older
	} else {
		p.blocks[k.newer].older = k.older
	}
	p.cached--
}

// evict takes a cached block's key, and its place among the cached ones.
func (p *Pool) evict(b int32) {
	p.uncache(b)
	k := &p.blocks[b]
	at := p.bucket(&k.key)
	for *at != b {
		at = &p.blocks[*at].chain
	}
	*at = k.chain
	k.at, k.keyed = isFree, false
	p.keyed--
}
