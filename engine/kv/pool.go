// Package kv hands out the blocks of a KV cache and finds the ones that hold
// what a new sequence would compute again. It is a pure state machine: no
// device, clock, goroutine or randomness. The memory behind the block numbers
// is the device's.
//
// A block is in one of three places. It is held, by one owner or by several who
// only read it; it is free; or it is cached: nobody holds it, but it has a key,
// and whoever asks for that key gets it back with its contents. Cached blocks
// are as good as free ones: when no block is free, the one that was let go
// first loses its key and is handed out.
//
// There need not be memory for all blocks; those without are not handed out. Blocks
// that have been handed out before come first, and of the others those of the least
// number, so that blocks in use lie together.
package kv

import (
	"errors"
	"fmt"
	"slices"
)

// ErrNotHeld says that a block was given back that nobody holds, or shared or
// published by somebody who does not hold it: a bug of the caller's, by which
// two sequences would write to the same memory.
var ErrNotHeld = errors.New("kv: the block is not in use")

// ErrHeld says that the memory of a block cannot go, because somebody holds it.
var ErrHeld = errors.New("kv: the block is in use")

// Pool hands out block numbers from 0 to its size. Not for concurrent use.
type Pool struct {
	blockSize int
	blocks    []block
	limit     int     // how many there is memory for
	free      []int32 // a stack: the block freed last is used first, while it is warm
	fresh     []int32 // free, and not handed out since there is memory for them; the least is last

	// Blocks with a key, held ones too, by the first bits of the key: a table
	// of chains, because it must not grow, and a Go map of which entries come
	// and go may.
	index []int32
	keyed int

	// Cached blocks, in the order in which they were let go.
	oldest, newest int32
	cached         int
	evicted        uint64
}

// none ends lists and chains of block numbers.
const none int32 = -1

type place uint8

const (
	isFree place = iota
	isHeld
	isCached
	isAbsent // there is no memory for it
)

type block struct {
	at    place
	keyed bool
	refs  int32 // owners
	key   Key
	chain int32 // the next one in the index's chain

	older, newer int32 // neighbours among the cached ones
}

// NewPool makes a pool of blocks blocks of blockSize tokens each, with memory for all
// of them.
func NewPool(blocks, blockSize int) *Pool {
	p := &Pool{
		blockSize: blockSize,
		blocks:    make([]block, blocks),
		limit:     blocks,
		free:      make([]int32, 0, blocks),
		fresh:     make([]int32, blocks),
		oldest:    none,
		newest:    none,
	}
	for i := range p.fresh {
		p.fresh[i] = int32(blocks - 1 - i)
	}
	buckets := 1
	for buckets < blocks {
		buckets *= 2
	}
	p.index = make([]int32, buckets)
	for i := range p.index {
		p.index[i] = none
	}
	return p
}

// BlockSize is the number of tokens in a block.
func (p *Pool) BlockSize() int { return p.blockSize }

// Total is the number of blocks in all.
func (p *Pool) Total() int { return len(p.blocks) }

// Limit is the number of blocks that there is memory for.
func (p *Pool) Limit() int { return p.limit }

// Free is the number of blocks that can be had, cached ones included.
func (p *Pool) Free() int { return len(p.free) + len(p.fresh) + p.cached }

// Used is the number of blocks in somebody's hands.
func (p *Pool) Used() int { return p.limit - p.Free() }

// Cached is the number of blocks that nobody holds and that can be found by
// their key.
func (p *Pool) Cached() int { return p.cached }

// Evicted counts the cached blocks that lost their key for want of free ones.
func (p *Pool) Evicted() uint64 { return p.evicted }

// BlocksFor is the number of blocks that hold so many tokens.
func (p *Pool) BlocksFor(tokens int) int { return (tokens + p.blockSize - 1) / p.blockSize }

// Owners is the number of owners of a block.
func (p *Pool) Owners(b int32) int { return int(p.blocks[b].refs) }

// Keyed says whether a block has a key: it is full, and not to be written to.
func (p *Pool) Keyed(b int32) bool { return p.blocks[b].keyed }

// Take hands out n blocks, or none and false when fewer can be had.
func (p *Pool) Take(n int) ([]int32, bool) {
	if n < 0 || n > p.Free() {
		return nil, false
	}
	return p.Append(make([]int32, 0, n), n)
}

// Append hands out n blocks with one owner each and appends them to held. When
// fewer can be had, it hands out none and is false.
func (p *Pool) Append(held []int32, n int) ([]int32, bool) {
	if n < 0 || n > p.Free() {
		return held, false
	}
	for range n {
		b := p.next()
		p.blocks[b].at, p.blocks[b].refs = isHeld, 1
		held = append(held, b)
	}
	return held, true
}

// next takes a block out of the free ones, of which there is one or a cached one that
// becomes one.
func (p *Pool) next() int32 {
	from := &p.free
	switch {
	case len(p.free) > 0:
	case len(p.fresh) > 0:
		from = &p.fresh
	default:
		b := p.oldest
		p.evict(b)
		p.evicted++
		return b
	}
	last := len(*from) - 1
	b := (*from)[last]
	*from = (*from)[:last]
	return b
}

// Give takes one owner away from each block. Those that have none left are
// cached if they have a key, and free otherwise. Of several cached together the
// last one counts as let go first: a sequence's later blocks are of no use
// without the earlier ones.
//
// With an error, ErrNotHeld, nothing of the call is carried out.
func (p *Pool) Give(blocks []int32) error {
	for i, b := range blocks {
		if !p.holds(b) {
			for _, undo := range blocks[:i] {
				p.blocks[undo].refs++
			}
			return fmt.Errorf("%w: block %d", ErrNotHeld, b)
		}
		p.blocks[b].refs--
	}
	for i := len(blocks) - 1; i >= 0; i-- {
		b := blocks[i]
		switch k := &p.blocks[b]; {
		case k.at != isHeld || k.refs > 0: // others hold it, or it was listed twice
		case k.keyed:
			p.cache(b)
		default:
			k.at = isFree
			p.free = append(p.free, b)
		}
	}
	return nil
}

// Held says whether somebody holds one of the blocks from one on and before another.
func (p *Pool) Held(from, to int) bool {
	return slices.ContainsFunc(p.blocks[from:to], func(k block) bool { return k.at == isHeld })
}

// SetMemory says whether there is memory for the blocks from one on and before
// another. When it goes, cached ones lose their keys. With an error, nothing is
// changed.
func (p *Pool) SetMemory(from, to int, there bool) error {
	if from < 0 || from > to || to > len(p.blocks) {
		return fmt.Errorf("kv: memory of blocks %d to %d of %d", from, to, len(p.blocks))
	}
	if !there && p.Held(from, to) {
		return fmt.Errorf("%w: one of %d to %d, whose memory is to go", ErrHeld, from, to-1)
	}
	for b := to - 1; b >= from; b-- {
		k := &p.blocks[b]
		switch {
		case (k.at == isAbsent) != there:
			continue
		case there:
			k.at = isFree
			p.fresh = append(p.fresh, int32(b))
			p.limit++
			continue
		case k.at == isCached:
			p.evict(int32(b))
		}
		k.at = isAbsent
		p.limit--
	}
	if there {
		slices.SortFunc(p.fresh, func(a, b int32) int { return int(b - a) })
		return nil
	}
	gone := func(b int32) bool { return p.blocks[b].at == isAbsent }
	p.free, p.fresh = slices.DeleteFunc(p.free, gone), slices.DeleteFunc(p.fresh, gone)
	return nil
}

// holds says whether somebody holds the block.
func (p *Pool) holds(b int32) bool {
	return b >= 0 && int(b) < len(p.blocks) && p.blocks[b].refs > 0
}
