// Package kv hands out the blocks of a KV cache. It is a pure state machine:
// no device, clock, goroutine or randomness. The memory behind the block
// numbers is the device's.
package kv

import "fmt"

// Pool hands out block numbers from 0 to its size. Not for concurrent use.
type Pool struct {
	blockSize int
	free      []int32 // a stack: the block freed last is used first, while it is warm
	used      []bool  // by block, to catch a block that is freed twice
}

// NewPool makes a pool of blocks blocks of blockSize tokens each.
func NewPool(blocks, blockSize int) *Pool {
	p := &Pool{blockSize: blockSize, free: make([]int32, blocks), used: make([]bool, blocks)}
	for i := range p.free {
		p.free[i] = int32(blocks - 1 - i)
	}
	return p
}

// BlockSize is the number of tokens in a block.
func (p *Pool) BlockSize() int { return p.blockSize }

// Total is the number of blocks in all.
func (p *Pool) Total() int { return len(p.used) }

// Free is the number of blocks that can be had.
func (p *Pool) Free() int { return len(p.free) }

// Used is the number of blocks in somebody's hands.
func (p *Pool) Used() int { return len(p.used) - len(p.free) }

// BlocksFor is the number of blocks that hold so many tokens.
func (p *Pool) BlocksFor(tokens int) int { return (tokens + p.blockSize - 1) / p.blockSize }

// Take hands out n blocks, or none and false when fewer are free.
func (p *Pool) Take(n int) ([]int32, bool) {
	if n < 0 || n > len(p.free) {
		return nil, false
	}
	cut := len(p.free) - n
	blocks := make([]int32, n)
	for i := range blocks {
		blocks[i] = p.free[len(p.free)-1-i]
		p.used[blocks[i]] = true
	}
	p.free = p.free[:cut]
	return blocks, true
}

// Give takes blocks back. A block that is not in use is a bug of the caller's
// which would hand the same memory to two sequences, so it is reported and
// nothing of the call is carried out.
func (p *Pool) Give(blocks []int32) error {
	for i, b := range blocks {
		if b < 0 || int(b) >= len(p.used) || !p.used[b] {
			for _, undo := range blocks[:i] {
				p.used[undo] = true
			}
			return fmt.Errorf("kv: block %d is not in use", b)
		}
		p.used[b] = false
	}
	for i := len(blocks) - 1; i >= 0; i-- {
		p.free = append(p.free, blocks[i])
	}
	return nil
}
